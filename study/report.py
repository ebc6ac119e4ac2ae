"""Means over training seeds and paired comparisons of results tables."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.stats import binomtest, t

from anchor_utils.evaluation import unpack_outcomes

# What makes two attacks of one name the same attack.
ATTACK_FIELDS = ("norm", "epsilon", "step_size", "steps", "restarts", "loss", "iterate")


def mean_interval(values: Iterable[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and Student's t interval of values that differ by training seed; one value has no interval (NaN)."""
    x = np.asarray(list(values), float)
    if len(x) < 2:
        return float(x.mean()), float("nan"), float("nan")
    half = t.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def compare(table: pd.DataFrame, method: str, baseline: str, attack: str) -> dict[str, float] | None:
    """Accuracy of `method` minus that of `baseline` under `attack`, paired by training seed and by test image.

    Returns:
        difference: mean over the seeds that both have. low, high: its 95% t interval over seeds; NaN for one seed.
        p_images: exact McNemar test (Psychometrika 12, 1947) on the image outcomes of all seeds together, which asks
        whether these *networks* differ; the interval over seeds asks whether the *methods* do.
        seeds, images: how many of each. None if there is no seed that both have.

    Raises:
        ValueError: the two were not attacked in the same way.
    """
    rows = table[table["method"].isin([method, baseline]) & (table["attack"] == attack)]
    for field in [name for name in ATTACK_FIELDS if name in rows]:
        if len(values := rows[field].unique()) > 1:
            raise ValueError(f"{field}={', '.join(map(str, values))} under {attack!r}: allowed is one value to compare")
    bits: dict[str, dict[int, np.ndarray]] = {method: {}, baseline: {}}
    for name, found in bits.items():
        for _, row in rows[rows["method"] == name].iterrows():
            found[int(row["seed"])] = unpack_outcomes(row["outcomes"], int(row["images"]))
    seeds = sorted(bits[method].keys() & bits[baseline].keys())
    if not seeds:
        return None
    size = min(len(found[seed]) for found in bits.values() for seed in seeds)
    ours, theirs = (np.stack([bits[name][seed][:size] for seed in seeds]) for name in (method, baseline))
    difference, low, high = mean_interval(ours.mean(1) - theirs.mean(1))
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    p = binomtest(only_ours, only_ours + only_theirs).pvalue if only_ours + only_theirs else 1.0
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "p_images": float(p),
        "seeds": len(seeds),
        "images": size,
    }
