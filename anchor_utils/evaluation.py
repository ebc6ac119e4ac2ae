"""Honest robust accuracy: attacks on test images, per-image outcomes, 95% intervals, gradient-masking checks.

An *outcome* is one bit an image: True means still classified correctly after the attack. It is always decided in
float32 on the network in eval mode; attacks compute their gradients in float32 too, unless asked otherwise. (On NVIDIA
GPUs from Ampere on, torch computes float32 convolutions in TF32 unless it is told not to.) The network and the global
random state are left as they were.
"""

from __future__ import annotations

import json
import logging
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version as package_version
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from anchor_utils import attacks as attack_functions
from anchor_utils.attacks import check_epsilon, check_images, check_steps, frozen, pgd, resolve_precision
from anchor_utils.config import unknown_name
from anchor_utils.data import Dataset, Split
from anchor_utils.files import write_text

ATTACKS = ("clean", "noise", "fgsm", "pgd", "screen", "autoattack")
STAGES = {"screen": ("apgd-ce", "apgd-t"), "autoattack": ("apgd-ce", "apgd-t", "fab-t", "square")}


def wilson(correct: int, images: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval (Wilson, 1927) of a proportion: (low, high)."""
    interval = binomtest(correct, images).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def evaluate(
    model: nn.Module,
    dataset: Dataset | Split,
    attacks: Sequence[str] = ("clean", "pgd"),
    *,
    epsilon: float | None = None,
    step_size: float | None = None,
    steps: int = 20,
    restarts: int = 1,
    norm: attack_functions.Norm = "linf",
    loss: Literal["ce", "margin"] = "ce",
    iterate: Literal["final", "any"] = "any",
    images: int | None = None,
    precision: str = "float32",
    seed: int = 0,
    batch_size: int = 250,
) -> pd.DataFrame:
    """Accuracy under each attack, as one tidy table.

    Args:
        model: maps images in [0, 1] to logits; evaluated where its parameters are.
        dataset: its test split is used, or the split itself.
        attacks: any of "clean"; "noise" (uniform on the ball); "fgsm"; "pgd"; "screen" (APGD-CE + APGD-T, a cheap
            stand-in for AutoAttack and never to be called so); "autoattack" (the standard version).
        epsilon, step_size, steps, restarts, norm, loss: of the attacks, see :func:`anchor_utils.attacks.pgd`. Only
            "clean" needs no epsilon; the step size is epsilon / 8 if not given.
        iterate: what counts against the model in "pgd": "final", only the last iterate of a run, or "any" iterate.
        images: use only the first so many images.
        precision: in which "screen" and "autoattack" query the network, as in :func:`anchor_utils.attacks.pgd`. Below
            float32 an attack is faster and can be weaker: it leaves alone what the network misreads in this precision
            and not in float32, for example. Whether it succeeded is decided in float32 all the same.
        seed: of all attacks.

    Returns:
        One row an attack, and one for each stage of "screen" and "autoattack" (cumulative), with the columns attack,
        accuracy, low and high (95% Wilson interval), correct, images, the attack's parameters, seconds, notes (what
        AutoAttack's own checks said), and outcomes: one bit an image in hexadecimal, see :func:`unpack_outcomes`.

    Raises:
        ValueError: unknown attack, parameter out of range, no images, or too few classes for AutoAttack.
    """
    for name in attacks:
        if name not in ATTACKS:
            raise ValueError(unknown_name("attack", name, list(ATTACKS)))
    if epsilon is None:
        if set(attacks) - {"clean"}:
            raise ValueError("epsilon=None: allowed is a radius; only 'clean' needs none")
        epsilon = 0.0
    check_epsilon(epsilon, norm)
    step_size = epsilon / 8 or 1.0 if step_size is None else step_size
    check_steps(step_size, steps, restarts)
    if loss not in attack_functions.LOSSES:
        raise ValueError(f"loss={loss!r}: allowed are {', '.join(map(repr, attack_functions.LOSSES))}")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: allowed is 1 or more")
    if iterate not in ("final", "any"):
        raise ValueError(f"iterate={iterate!r}: allowed are 'final', 'any'")
    split = dataset.test if isinstance(dataset, Dataset) else dataset
    if not len(split):
        raise ValueError("dataset: allowed is one with test images, this one has none")
    if images is not None:
        if not 1 <= images <= len(split):
            raise ValueError(f"images={images}: allowed is 1 to {len(split)}, the images there are")
        split = split[:images]
    device = next(model.parameters(), split.images).device
    precision = str(resolve_precision(precision, device)).removeprefix("torch.")  # what "auto" meant, for the table
    x, y = split.inputs().to(device), split.labels.to(device)
    if not STAGES.keys().isdisjoint(attacks):
        _check_classes(model, x)
    common: dict[str, Any] = {"norm": norm, "epsilon": epsilon, "seed": seed}
    rows = []

    def add(attack: str, outcome: Tensor, seconds: float, notes: str = "", **parameters: Any) -> None:
        correct = int(outcome.sum())
        low, high = wilson(correct, len(outcome))
        row = {"attack": attack, "accuracy": correct / len(outcome), "low": low, "high": high}
        row |= {"correct": correct, "images": len(outcome), **parameters, "seconds": round(seconds, 1)}
        rows.append({**row, "notes": notes, "outcomes": pack_outcomes(outcome)})

    for name in attacks:
        start = time.perf_counter()
        if name == "clean":
            add(name, clean_outcomes(model, x, y, batch_size), time.perf_counter() - start)
        elif name == "noise":
            outcome = noise_outcomes(model, x, y, epsilon=epsilon, norm=norm, seed=seed, batch_size=batch_size)
            add(name, outcome, time.perf_counter() - start, **common)
        elif name == "fgsm":
            outcome = _attacked(
                model,
                x,
                y,
                batch_size,
                lambda x, y: attack_functions.fgsm(model, x, y, epsilon=epsilon, norm=norm, loss=loss),
            )
            add(name, outcome, time.perf_counter() - start, **common, step_size=epsilon, steps=1, restarts=1)
        elif name == "pgd":
            parameters: dict[str, Any] = {"step_size": step_size, "steps": steps, "restarts": restarts, "loss": loss}
            outcome = pgd_outcomes(model, x, y, **common, **parameters, iterate=iterate, batch_size=batch_size)
            add(name, outcome, time.perf_counter() - start, **common, **parameters, iterate=iterate)
        else:
            queries: dict[str, Any] = {**common, "precision": precision}
            stages = autoattack_outcomes(model, x, y, **queries, stages=STAGES[name], batch_size=batch_size)
            for stage, (outcome, seconds, notes) in stages.items():
                add(f"{name}/{stage}", outcome, seconds, notes, **queries)
            total = sum(seconds for _, seconds, _ in stages.values())
            notes = "; ".join(dict.fromkeys(notes for _, _, notes in stages.values() if notes))
            add(name, outcome, total, notes, **queries)
    return pd.DataFrame(rows)


def join_images(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table for blocks of images that :func:`evaluate` attacked one after the other in the same way.

    Outcomes are strung together, seconds added, accuracy and interval computed anew; `notes` are kept once each.
    """
    blocks = [block for table in tables for block in table.to_dict("records")]
    rows = []
    for attack in dict.fromkeys(block["attack"] for block in blocks):
        parts = [block for block in blocks if block["attack"] == attack]
        outcome = np.concatenate([unpack_outcomes(part["outcomes"], part["images"]) for part in parts])
        low, high = wilson(int(outcome.sum()), len(outcome))
        row = {**parts[0], "accuracy": float(outcome.mean()), "low": low, "high": high}
        row |= {"correct": int(outcome.sum()), "images": len(outcome)}
        row |= {"seconds": round(sum(part["seconds"] for part in parts), 1)}
        row["notes"] = "; ".join(dict.fromkeys(part["notes"] for part in parts if part["notes"]))
        rows.append({**row, "outcomes": pack_outcomes(torch.from_numpy(outcome))})
    return pd.DataFrame(rows)


def pack_outcomes(outcome: Tensor) -> str:
    """Bits (N,) as hexadecimal text, the first image in the highest bit."""
    return np.packbits(outcome.cpu().numpy()).tobytes().hex()


def unpack_outcomes(text: str, images: int) -> np.ndarray:
    """The boolean array (N,) that :func:`pack_outcomes` packed."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=images).astype(bool)


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """Logits (N, K) of images (N, C, H, W), in batches, in eval mode."""
    with frozen(model, "eval"):
        return torch.cat([model(batch) for batch in images.split(batch_size)])


def clean_outcomes(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 500) -> Tensor:
    """(N,) whether each unchanged image is classified correctly."""
    check_images(images, labels)
    return logits_of(model, images, batch_size).argmax(1).eq(labels)


def _attacked(
    model: nn.Module, images: Tensor, labels: Tensor, batch_size: int, attack: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """(N,) outcomes; only images that are classified correctly to begin with are attacked."""
    outcome = clean_outcomes(model, images, labels, batch_size)
    for index in outcome.nonzero().flatten().split(batch_size):
        x, y = images[index], labels[index]
        outcome[index] = logits_of(model, attack(x, y)).argmax(1).eq(y)
    return outcome


def noise_outcomes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: attack_functions.Norm = "linf",
    seed: int = 0,
    batch_size: int = 250,
) -> Tensor:
    """(N,) outcomes under one uniform draw from the epsilon-ball: what no attack worth its name falls behind."""
    generator = torch.Generator().manual_seed(seed)
    return _attacked(
        model, images, labels, batch_size, lambda x, _: attack_functions.random_point(x, epsilon, norm, generator)
    )


def pgd_outcomes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    restarts: int = 1,
    norm: attack_functions.Norm = "linf",
    loss: Literal["ce", "margin"] = "ce",
    iterate: Literal["final", "any"] = "any",
    seed: int = 0,
    batch_size: int = 250,
) -> Tensor:
    """(N,) outcomes under PGD, in float32. With several restarts an image must survive all of them."""
    generator = torch.Generator().manual_seed(seed)

    def attack(x: Tensor, y: Tensor) -> Tensor:
        return pgd(
            model,
            x,
            y,
            epsilon=epsilon,
            step_size=step_size,
            steps=steps,
            restarts=restarts,
            norm=norm,
            loss=loss,
            keep="worst" if iterate == "any" else "final",
            generator=generator,
        )

    return _attacked(model, images, labels, batch_size, attack)


class _ForAutoAttack(nn.Module):
    """Hands AutoAttack gradients in the plain memory layout, which its ``.view`` calls need, and float32 logits."""

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, images: Tensor) -> Tensor:
        images = images.flatten(1).unflatten(1, images.shape[1:])
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32):
            return self.model(images).float()


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def _autoattack_session(seed: int) -> Iterator[_Messages]:
    """What AutoAttack leaves behind, put back: global RNG, trace function, its own check counters."""
    from pyautoattack import checks

    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    trace = sys.gettrace()
    logger, messages = logging.getLogger("auto-attack"), _Messages()
    propagate = logger.propagate
    logger.addHandler(messages)
    logger.propagate = False
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield messages
    finally:
        logger.removeHandler(messages)
        logger.propagate = propagate
        sys.settrace(trace)
        checks.funcs.update(dict.fromkeys(checks.funcs, 0))


def _check_classes(model: nn.Module, images: Tensor) -> int:
    classes = logits_of(model, images[:1]).shape[1]
    if classes < 4:
        raise ValueError(f"the model has {classes} classes: AutoAttack's targeted loss needs at least 4")
    return classes


def autoattack_outcomes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: attack_functions.Norm = "linf",
    seed: int = 0,
    stages: Sequence[str] = STAGES["autoattack"],
    precision: str = "float32",
    batch_size: int = 250,
) -> dict[str, tuple[Tensor, float, str]]:
    """AutoAttack, standard version (Croce & Hein, arXiv 2003.01690), with the outcome after each of its stages.

    The stages see only the images that the stages before them left standing, as in the original.

    Args:
        stages: a beginning of ("apgd-ce", "apgd-t", "fab-t", "square"); all four are AutoAttack, the first two the
            cheaper screen.
        precision: of the attacks' queries; every stage gets the images that are still right in float32.

    Returns:
        For each stage the outcomes (N,) so far, its seconds, and what AutoAttack's checks said.
    """
    from pyautoattack import AutoAttack

    check_images(images, labels)
    check_epsilon(epsilon, norm)
    if tuple(stages) != STAGES["autoattack"][: len(stages)]:
        raise ValueError(f"stages={tuple(stages)}: allowed is a beginning of {STAGES['autoattack']}")
    dtype = resolve_precision(precision, images.device)
    classes = _check_classes(model, images)
    outcome = clean_outcomes(model, images, labels, batch_size)
    results: dict[str, tuple[Tensor, float, str]] = {}
    with frozen(model, "eval"), _autoattack_session(seed) as messages:
        adversary = AutoAttack(
            _ForAutoAttack(model, dtype).eval(),
            norm={"linf": "Linf", "l2": "L2"}[norm],
            eps=epsilon,
            seed=seed,
            version="standard",
            device=images.device,
        )
        adversary.apgd_targeted.n_target_classes = min(9, classes - 1)
        adversary.fab.n_target_classes = min(9, classes - 1)
        for stage in stages:
            start = time.perf_counter()
            messages.texts.clear()
            standing = outcome.nonzero().flatten()
            if len(standing):
                adversary.attacks_to_run = [stage]
                x, y = images[standing].contiguous(), labels[standing]
                adversarial, _ = adversary.run_standard_evaluation(x, y, batch_size=batch_size)
                outcome = outcome.clone()
                outcome[standing] = logits_of(model, adversarial, batch_size).argmax(1).eq(y)
            lost = (len(standing) - int(outcome.sum())) / len(outcome)
            if stage == "square" and lost > 0.002:  # AutoAttack's own check, which needs all stages in one call
                messages.texts.append(f"Square lowered the accuracy by {lost:.2%}: are the gradients masked?")
            results[stage] = (outcome, time.perf_counter() - start, "; ".join(dict.fromkeys(messages.texts)))
    return results


def gradient_masking_checks(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step_size: float | None = None,
    steps: int = 20,
    surrogate: nn.Module | None = None,
    square_queries: int = 500,
    tolerance: float = 0.03,
    seed: int = 0,
) -> pd.DataFrame:
    """Does the robustness come from the model, or from gradients that mislead the attack?

    The signs are those of Athalye et al. (arXiv 1802.00420, section 3.1) and Carlini et al. (arXiv 1902.06705). A
    failed check does not say how robust the model is; it says that the white-box number is not to be believed.

    Args:
        images, labels: (N, C, H, W) in [0, 1] and (N,); a hundred or more make the evidence worth something.
        epsilon, step_size, steps: of the L-infinity PGD under test; the step size is epsilon / 8 if not given.
        surrogate: another model for the same task; its adversarial examples are transferred. Without one that
            check is not run.
        square_queries: of the black-box Square attack.
        tolerance: differences in accuracy up to here are taken for noise.

    Returns:
        A table with the columns check, passed (None: not run) and evidence.
    """
    check_images(images, labels)
    check_epsilon(epsilon, "linf")
    if epsilon == 0:
        raise ValueError("epsilon=0: allowed is a radius above 0, there is nothing to check without an attack")
    step_size = epsilon / 8 if step_size is None else step_size
    batches = list(zip(images.split(250), labels.split(250), strict=True))
    rows: list[dict[str, Any]] = []

    def accuracy(**changes: Any) -> float:
        arguments = {"epsilon": epsilon, "step_size": step_size, "steps": steps, "seed": seed, **changes}
        with _vanishing_expected():
            return pgd_outcomes(model, images, labels, **arguments).float().mean().item()

    def add(check: str, passed: bool | None, evidence: str) -> None:
        rows.append({"check": check, "passed": passed, "evidence": evidence})

    def listed(values: dict[Any, float]) -> str:
        return ", ".join(f"{key:g}: {value:.1%}" for key, value in values.items())

    white_box = accuracy()

    by_steps = {1: accuracy(steps=1), steps: white_box, 5 * steps: accuracy(steps=5 * steps)}
    add("more steps are never weaker", _never_rises(by_steps, tolerance), f"accuracy by steps {listed(by_steps)}")

    by_epsilon = {
        radius: white_box if radius == epsilon else accuracy(epsilon=radius, step_size=radius / 8)
        for radius in sorted({epsilon / 2, epsilon, min(1.0, 2 * epsilon)})
    }
    add(
        "a larger epsilon is never weaker",
        _never_rises(by_epsilon, tolerance),
        f"accuracy by epsilon {listed(by_epsilon)}",
    )

    everything = accuracy(epsilon=1.0, step_size=0.1, steps=max(50, steps))
    add("epsilon = 1 defeats the model", everything <= 0.05, f"accuracy {everything:.1%}, allowed 5%")

    noise = noise_outcomes(model, images, labels, epsilon=epsilon, seed=seed).float().mean().item()
    add(
        "random noise is weaker than the gradient attack",
        noise > white_box or white_box == 0,
        f"accuracy under noise {noise:.1%}, under PGD {white_box:.1%}",
    )

    if surrogate is None:
        add("a transferred attack is weaker than the white-box attack", None, "no surrogate model given")
    else:
        settings: dict[str, Any] = {"epsilon": epsilon, "step_size": step_size, "steps": steps}
        settings["generator"] = torch.Generator().manual_seed(seed)
        with _vanishing_expected():
            transferred = torch.cat([pgd(surrogate, *batch, **settings) for batch in batches])
        transfer = clean_outcomes(model, transferred, labels).float().mean().item()
        add(
            "a transferred attack is weaker than the white-box attack",
            transfer >= white_box - tolerance,
            f"accuracy under transfer {transfer:.1%}, under PGD {white_box:.1%}",
        )

    square = _square_outcomes(model, images, labels, epsilon, square_queries, seed).float().mean().item()
    add(
        "black-box Square is weaker than the white-box attack",
        square >= white_box - tolerance,
        f"accuracy under Square with {square_queries} queries {square:.1%}, under PGD {white_box:.1%}",
    )

    before = attack_functions.cross_entropy(logits_of(model, images), labels)
    with _vanishing_expected():
        nudged = torch.cat([attack_functions.fgsm(model, *batch, epsilon=epsilon / 10) for batch in batches])
    rising = (attack_functions.cross_entropy(logits_of(model, nudged), labels) > before).float().mean().item()
    add(
        "the loss rises along its gradient",
        rising >= 0.9,
        f"it rises within epsilon / 10 for {rising:.1%} of the images, wanted 90%",
    )

    margin = accuracy(loss="margin")
    add(
        "PGD on the margin agrees with PGD on cross-entropy",
        white_box - margin <= tolerance,
        f"accuracy with cross-entropy {white_box:.1%}, with the margin {margin:.1%}",
    )
    return pd.DataFrame(rows)


def _vanishing_expected() -> warnings.catch_warnings:
    """Silence: a vanished gradient is a finding of these checks, and stands in their table."""
    return warnings.catch_warnings(action="ignore", category=attack_functions.VanishedGradientWarning)


def _never_rises(accuracies: dict[Any, float], tolerance: float) -> bool:
    values = list(accuracies.values())
    return all(later <= earlier + tolerance for earlier, later in pairwise(values))


def _square_outcomes(
    model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, queries: int, seed: int
) -> Tensor:
    from pyautoattack.square import SquareAttack

    with frozen(model, "eval"), _autoattack_session(seed):
        square = SquareAttack(
            _ForAutoAttack(model).eval(), norm="Linf", eps=epsilon, n_queries=queries, seed=seed, device=images.device
        )
        with torch.no_grad():
            return _attacked(model, images, labels, 250, lambda x, y: square.perturb(x.contiguous(), y))


def over_seeds(table: pd.DataFrame, by: Sequence[str] = ("method", "attack")) -> pd.DataFrame:
    """Mean and standard deviation (n - 1) of the accuracy across seeds, for each group of `by`."""
    groups = table.groupby(list(by), sort=False)["accuracy"]
    return groups.agg(mean="mean", std="std", runs="count").reset_index()


def versions() -> dict[str, str]:
    """What a result depends on besides its configuration: package versions, Python and hardware."""
    names = ("torch", "torchvision", "numpy", "pyautoattack", "scikit-learn", "accelerate")
    found = {name: package_version(name) for name in names}
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {"python": platform.python_version(), **found, "hardware": hardware, "threads": str(torch.get_num_threads())}


def save_results(path: str | Path, table: pd.DataFrame, **context: Any) -> None:
    """Write a table and everything needed to run it again as one JSON file, atomically.

    Args:
        context: JSON values, such as config=config.model_dump().
    """
    rows = json.loads(table.to_json(orient="records"))
    write_text(path, json.dumps({**context, "versions": versions(), "rows": rows}, indent=1) + "\n")


def read_results(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table that :func:`save_results` wrote, and its context."""
    content = json.loads(Path(path).read_text())
    return pd.DataFrame(content.pop("rows")), content
