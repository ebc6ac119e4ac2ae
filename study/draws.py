"""The same study twice: networks of one seed and setting, trained on two machines that round differently.

Two trainings that start alike part after some hundred steps, because a sum in another order ends in another last bit.
So a second run on another machine is a second draw: as good as the first, and not the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from anchor_utils.plotting import method_name
from anchor_utils.results import crossed_interval, outcome_matrix
from study.claims import BASELINES, points
from study.tables import attack_name, best_checkpoints

KEY = ["method", "training_seed", "attack"]


def draws(files: Sequence[Path], sweep: str, attacks: Sequence[str] = ("clean", "pgd")) -> list[pd.DataFrame]:
    """A results table from each file, of the networks and attacks that all the files have.

    Raises:
        ValueError: the files have no network in common.
    """
    tables = [best_checkpoints(path, sweep)[0].set_index(KEY) for path in files]
    common = tables[0].index
    for table in tables[1:]:
        common = common.intersection(table.index)
    common = common[common.isin(attacks, level="attack")]
    if not len(common):
        raise ValueError(f"files={[path.name for path in files]} have no network of {sweep!r} in common")
    return [table.loc[common].reset_index() for table in tables]


def paired(tables: Sequence[pd.DataFrame], ours: str, baseline: str, attack: str) -> np.ndarray:
    """Outcome of `ours` minus that of `baseline` (draws, n, N), paired by seed and image: 1, 0 or -1.

    The draws of a seed share its luck: for an interval average over them first, and keep n seeds.
    """
    of_draws = []
    for table in tables:
        rows = table[table["attack"] == attack]
        first, second = (outcome_matrix(rows[rows["method"] == method]) for method in (ours, baseline))
        of_draws.append(first - second.astype(float))
    return np.stack(of_draws)


def spreads(tables: Sequence[pd.DataFrame], attack: str, methods: Sequence[str]) -> tuple[float, float]:
    """Standard deviations of a network's accuracy on the same images, pooled over the methods.

    Returns:
        That about the mean of its seed, over draws, without what a draw moves all seeds of a method by; and that about
        the mean of its draw, over seeds, which contains the former.
    """
    of_draws = [
        table[table["attack"] == attack].pivot(index="method", columns="training_seed", values="accuracy")
        for table in tables
    ]
    accuracy = np.stack([found.loc[list(methods)] for found in of_draws], axis=1)  # (methods, draws, seeds)
    own = accuracy - accuracy.mean(axis=2, keepdims=True)
    seeds = accuracy.shape[2]
    redrawn = own.var(axis=1, ddof=1).sum(axis=1).mean() / (seeds - 1)
    return math.sqrt(redrawn), math.sqrt(accuracy.var(axis=2, ddof=1).mean())


def report(tables: Sequence[pd.DataFrame]) -> str:
    """ANCHOR minus each baseline in every draw and in their mean, and the spreads, as Markdown."""
    rows, spread, sizes = [], [], set()
    for attack in dict.fromkeys(tables[0]["attack"]):
        name = attack_name(tables[0], attack)
        for baseline in BASELINES:
            x = paired(tables, "anchor", baseline, attack)
            row = {"ANCHOR minus": method_name(baseline), "accuracy": name}
            titles = [*(f"draw {k + 1}" for k in range(len(x))), "mean of the draws"]
            for title, difference in zip(titles, (*x, x.mean(0)), strict=True):
                value, low, high = crossed_interval(difference)
                row[title] = points({"difference": value, "low": low, "high": high})
            rows.append(row)
            sizes.add(f"{x.shape[1]} seeds and {x.shape[2]:,} images")
        redrawn, of_seeds = spreads(tables, attack, (*BASELINES, "anchor"))
        spread.append(f"{name} {100 * redrawn:.2f} and {100 * of_seeds:.2f}")
    return "\n\n".join(
        [
            pd.DataFrame(rows).to_markdown(index=False),
            f"Differences in points with their 95% crossed intervals, {' or '.join(sorted(sizes))}. How networks "
            f"scatter about the mean of their seed, and about that of their draw: {'; '.join(spread)} points (standard "
            "deviations, pooled over ANCHOR and the baselines; the second contains the first).",
        ]
    )
