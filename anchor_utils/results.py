"""Tables of results: one schema, from the outcome bits of an attack to comparisons and files.

A *results table* has one row for a network and attack, with the columns attack (one of config.ATTACKS, or NAME/STAGE:
after this stage of AutoAttack), accuracy, low and high (95% Wilson interval), correct, images, the attack's
parameters and `attack_seed`, seconds, notes (what AutoAttack's own checks said, how many images had logits that are
not finite), and outcomes: one bit an image in hexadecimal, see :func:`unpack_outcomes`. A table of several networks
also has `method` and `training_seed`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest, norm, t
from torch import Tensor

from anchor_utils.files import write_text

# What makes two attacks of one name the same attack.
ATTACK_FIELDS = ("norm", "epsilon", "step_size", "steps", "restarts", "loss", "iterate", "precision")


def wilson(correct: int, images: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval (Wilson, 1927) of a proportion: (low, high)."""
    interval = binomtest(correct, images).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def pack_outcomes(outcome: Tensor) -> str:
    """Bits (N,) as hexadecimal text, the first image in the highest bit."""
    return np.packbits(outcome.cpu().numpy()).tobytes().hex()


def unpack_outcomes(text: str, images: int) -> np.ndarray:
    """The boolean array (N,) that :func:`pack_outcomes` packed."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=images).astype(bool)


def result_row(attack: str, outcome: Tensor, seconds: float, notes: str = "", **parameters: Any) -> dict[str, Any]:
    """A row of a results table from the outcome bits (N,) of an attack with these parameters."""
    correct = int(outcome.sum())
    low, high = wilson(correct, len(outcome))
    row = {"attack": attack, "accuracy": correct / len(outcome), "low": low, "high": high, "correct": correct}
    row |= {"images": len(outcome), **parameters, "seconds": round(seconds, 1), "notes": notes}
    return row | {"outcomes": pack_outcomes(outcome)}


def join_images(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table for blocks of images that :func:`.evaluate` attacked one after the other in the same way.

    Outcomes are strung together, seconds added, accuracy and interval computed anew; `notes` are kept once each.
    """
    blocks: list[dict[Any, Any]] = [block for table in tables for block in table.to_dict("records")]
    rows = []
    for attack in dict.fromkeys(block["attack"] for block in blocks):
        parts = [block for block in blocks if block["attack"] == attack]
        bits = np.concatenate([unpack_outcomes(part["outcomes"], part["images"]) for part in parts])
        notes = "; ".join(dict.fromkeys(part["notes"] for part in parts if part["notes"]))
        seconds = sum(part["seconds"] for part in parts)
        rows.append(parts[0] | result_row(attack, torch.from_numpy(bits), seconds, notes))
    return pd.DataFrame(rows)


def over_seeds(table: pd.DataFrame, by: Sequence[str] = ("method", "attack")) -> pd.DataFrame:
    """Mean and standard deviation (n - 1) of the accuracy across training seeds, for each group of `by`."""
    groups = table.groupby(list(by), sort=False)["accuracy"]
    return groups.agg(mean="mean", std="std", runs="count").reset_index()


def mean_interval(values: Iterable[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and Student's t interval of values that differ by training seed; one value has no interval (NaN)."""
    x = np.asarray(list(values), float)
    if len(x) < 2:
        return float(x.mean()), float("nan"), float("nan")
    half = t.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def crossed_interval(x: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of values (n, N) of n training seeds on the same N test images, and its interval for new seeds and images.

    With variances S of seeds, I of images and R of the rest, the mean varies by S/n + I/N + R/(nN) (crossed random
    effects; Cornfield & Tukey, Annals of Mathematical Statistics 27, 1956). Student's interval over the means of the
    seeds contains S and R. It lacks I, because all seeds share the images. So half of this interval is
    sqrt(t^2 s^2 / n + z^2 I / N): s is the spread of the seeds' means, t Student's quantile with n - 1 degrees of
    freedom, z the normal one, and I the estimate from the mean squares, or 0 where that is negative.

    Returns:
        Mean, low, high; low and high are NaN for one seed or one image, whose spread nobody knows.
    """
    seeds, images = x.shape
    if min(seeds, images) < 2:
        return float(x.mean()), float("nan"), float("nan")
    of_seeds, of_images = x.mean(1), x.mean(0)
    rest = ((x - of_seeds[:, None] - of_images + x.mean()) ** 2).sum() / ((seeds - 1) * (images - 1))
    within, tail = max(of_images.var(ddof=1) - rest / seeds, 0.0), (1 + confidence) / 2
    seeds_and_rest = t.ppf(tail, seeds - 1) ** 2 * of_seeds.var(ddof=1) / seeds
    half = float(np.sqrt(seeds_and_rest + norm.ppf(tail) ** 2 * within / images))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def outcome_matrix(rows: pd.DataFrame) -> np.ndarray:
    """Outcome bits (n, N) of the rows of one attack, by training seed, on the N first images that all n rows have."""
    ordered = rows.sort_values("training_seed")
    bits = [unpack_outcomes(text, int(n)) for text, n in zip(ordered["outcomes"], ordered["images"], strict=True)]
    return np.stack([row[: min(map(len, bits))] for row in bits])


def compare(
    table: pd.DataFrame, ours: str, baseline: str, attack: str, *, by: str = "method"
) -> dict[str, float] | None:
    """Accuracy of `ours` minus that of `baseline` under `attack`, paired by training seed and by test image.

    Args:
        table: a results table of several networks.
        ours, baseline: two values of the column `by`, such as two methods or two variants of a sweep.

    Returns:
        difference: mean over the seeds that both have. low, high: its :func:`crossed_interval` from the differences
        image by image; NaN for one seed, which compares two networks and not what they are examples of. seeds,
        images: how many of each. None if there is no seed that both have.

    Raises:
        ValueError: the two were not attacked in the same way, or one has several networks of one seed.
    """
    rows = table[table[by].isin([ours, baseline]) & (table["attack"] == attack)]
    for field in [name for name in ATTACK_FIELDS if name in rows]:
        if len(values := rows[field].dropna().unique()) > 1:
            raise ValueError(f"{field}={', '.join(map(str, values))} under {attack!r}: allowed is one value to compare")
    pair = {name: rows[rows[by] == name] for name in (ours, baseline)}
    for name, found in pair.items():
        if found["training_seed"].duplicated().any():
            raise ValueError(f"{by}={name!r} has several rows of one training seed under {attack!r}: allowed is one")
    seeds = set.intersection(*({*found["training_seed"]} for found in pair.values()))
    if not seeds:
        return None
    first, second = (outcome_matrix(found[found["training_seed"].isin(seeds)]) for found in pair.values())
    size = min(first.shape[1], second.shape[1])
    difference, low, high = crossed_interval(first[:, :size] - second[:, :size].astype(float))
    return {"difference": difference, "low": low, "high": high, "seeds": len(seeds), "images": size}


def versions() -> dict[str, str]:
    """What a result depends on besides its configuration: package versions, Python, hardware, threads.

    `instructions` are the widest vectors of this CPU, as torch names them.
    """
    names = ("torch", "torchvision", "numpy", "pyautoattack", "scikit-learn", "accelerate")
    found = {name: package_version(name) for name in names}
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    found |= {"hardware": hardware, "instructions": torch.backends.cpu.get_cpu_capability()}
    return {"python": platform.python_version(), **found, "threads": str(torch.get_num_threads())}


def save_results(path: str | Path, table: pd.DataFrame, **context: Any) -> None:
    """Write a table and everything needed to run it again as one JSON file, atomically.

    Args:
        context: JSON values, such as config=config.model_dump().
    """
    rows = json.loads(table.to_json(orient="records"))
    write_text(path, json.dumps({**context, "versions": versions(), "rows": rows}, indent=1) + "\n")


def read_results(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table that :func:`save_results` wrote, and its context."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return pd.DataFrame([current_row(row) for row in content.pop("rows")]), content
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"path={str(path)!r}: allowed is a whole file of save_results; {error!r}") from None


def current_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row from a file of any age, with the names of today.

    There was one name, "seed", for two things: of the attack in the table of one network, of the training in that of
    several.
    """
    seed = "training_seed" if "method" in row else "attack_seed"
    return {seed if name == "seed" else name: value for name, value in row.items()}
