"""From the cells of a sweep to tables: results by method, costs, and the words for attacks.

A *results table* is what :func:`anchor_utils.evaluation.evaluate` returns, one row a network and attack, with the
columns `method` and `training_seed` of the network added.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from anchor_utils.autoattack import screen_rows
from anchor_utils.config import METHODS, REPORTED, Config
from anchor_utils.plotting import method_name
from anchor_utils.results import crossed_interval, current_row, outcome_matrix, wilson

# What stands in tables of methods. Full AutoAttack, run on a single seed, stands in the model cards.
SHOWN = tuple(attack for attack in REPORTED if attack != "autoattack")

Interval = tuple[float, float, float]  # value, low, high
Cells = list[dict[str, Any]]


def read_cells(path: Path, sweep: str) -> tuple[pd.DataFrame, Cells]:
    """Results table of a sweep in a file that study/publish.py wrote, and its cells without their rows.

    The file says `seed` for the seed of training in a cell, and for that of the attacks in a row; here they are
    `training_seed` and `attack_seed`.
    """
    return in_order(json.loads(path.read_text(encoding="utf-8"))["sweeps"].get(sweep, []))


def in_order(found: Sequence[dict[str, Any]]) -> tuple[pd.DataFrame, Cells]:
    """Results table of cells as they were written, by method, variant and seed, and the cells without their rows."""
    cells = [{"training_seed" if name == "seed" else name: value for name, value in cell.items()} for cell in found]
    cells.sort(key=lambda cell: ([*METHODS].index(cell["method"]), cell["variant"], cell["training_seed"]))
    rows = [
        current_row(row) | {name: cell[name] for name in ("variant", "method", "training_seed")}
        for cell in cells
        for row in cell.pop("rows")
    ]
    return pd.DataFrame(rows), cells


def setting(table: pd.DataFrame, attack: str) -> str:
    """Attack, epsilon, step, steps, restarts, images and seeds of the rows of one attack."""
    rows = table[table["attack"] == attack]
    if not len(rows):
        return attack
    row = rows.iloc[0]
    size = f"{int(rows['images'].min())} images, training seeds {sorted(int(s) for s in set(rows['training_seed']))}"
    if attack == "clean":
        return f"clean, {size}"
    if attack == "pgd":
        return (
            f"PGD-{row['steps']:g}, L-inf epsilon {row['epsilon']:g}, step {row['step_size']:g}, restarts "
            f"{row['restarts']:g}, {row['iterate']} iterate, {size}"
        )
    name = {"screen": "APGD-CE + APGD-T, 100 steps each", "autoattack": "AutoAttack, standard"}.get(attack, attack)
    precision = " or ".join(sorted(set(rows["precision"])))
    return f"{name}, L-inf epsilon {row['epsilon']:g}, queries in {precision}, {size}"


def attack_name(table: pd.DataFrame, attack: str) -> str:
    """As a column title: PGD with its number of steps, AutoAttack as its authors write it."""
    if attack == "pgd" and len(rows := table[table["attack"] == "pgd"]):
        return f"PGD-{rows['steps'].iloc[0]:g}"
    return {"pgd": "PGD", "autoattack": "AutoAttack"}.get(attack, attack)


def accuracy_interval(rows: pd.DataFrame) -> Interval:
    """Accuracy over the rows of one method and attack: one seed with its Wilson interval, several with the crossed one.

    See :func:`anchor_utils.results.crossed_interval`; one network's interval is about images alone, and so is that of
    networks that are all right, or all wrong, on all images.
    """
    if len(rows) == 1:
        value, low, high = rows[["accuracy", "low", "high"]].iloc[0].astype(float)
        return value, low, high
    outcomes = outcome_matrix(rows)
    value, low, high = crossed_interval(outcomes.astype(float))
    if outcomes.all() or not outcomes.any():  # no spread, which is no certainty: as one network's
        low, high = wilson(int(outcomes[0].sum()), outcomes.shape[1])
    return value, max(low, 0.0), min(high, 1.0)


def method_table(table: pd.DataFrame, attacks: Sequence[str] = SHOWN) -> pd.DataFrame:
    """One row a method: accuracy in percent over its seeds with :func:`accuracy_interval`."""
    rows = []
    for method in dict.fromkeys(table["method"]):
        row: dict[str, str] = {"method": method_name(method)}
        for attack in attacks:
            chosen = table[(table["method"] == method) & (table["attack"] == attack)]
            text = "not measured"
            if len(chosen):
                value, low, high = accuracy_interval(chosen)
                text = f"{100 * value:.1f} [{100 * max(low, 0):.1f}, {100 * high:.1f}], n = {len(chosen)}"
            row[attack_name(table, attack)] = text
        rows.append(row)
    return pd.DataFrame(rows)


def spots(table: pd.DataFrame, robust: str = "pgd") -> dict[str, tuple[np.ndarray, Interval, Interval]]:
    """For each defended method the accuracies (n, 2) of its networks, clean and under `robust`, and both intervals."""
    found = {}
    for method in (m for m in dict.fromkeys(table["method"]) if m != "standard"):
        own = [table[(table["method"] == method) & (table["attack"] == attack)] for attack in ("clean", robust)]
        networks = np.stack([rows.sort_values("training_seed")["accuracy"] for rows in own], axis=1)
        found[method] = (networks, accuracy_interval(own[0]), accuracy_interval(own[1]))
    return found


def with_screen(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a "screen" row wherever full AutoAttack was run: its first two stages are the screen."""
    return pd.concat([table, screen_rows(table)], ignore_index=True)


def passes(config: dict[str, Any]) -> int:
    """Forward-and-backward passes of one image through the network in a whole training with this configuration."""
    method = METHODS[config["method"]]
    return config["epochs"] * (method.attacked * config["attack_steps"] + Config(**config).views())


def cost_table(cells: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """What training cost each method (and variant, where cells have one): passes of one image, and seconds a run.

    Attack and training passes are those of an epoch, passes in all those of a training (:func:`passes`).
    """
    rows = []
    for variant in dict.fromkeys(cell.get("variant", cell["method"]) for cell in cells):
        chosen = [cell for cell in cells if cell.get("variant", cell["method"]) == variant]
        config = chosen[0]["config"]
        config = {**config, "method": chosen[0]["method"]}
        method, whole = METHODS[config["method"]], passes(config)
        rows.append(
            {
                "method": method_name(chosen[0]["method"]),
                "epochs": config["epochs"],
                "attack passes": method.attacked * config["attack_steps"],
                "training passes": Config(**config).views(),
                "passes in all": whole,
                "passes an epoch, PGD-AT = 1": whole / config["epochs"] / (config["attack_steps"] + 1),
                "seconds a run": fmean(cell["training_seconds"] for cell in chosen),
                "runs": len(chosen),
            }
        )
    return pd.DataFrame(rows)


def filled_up(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """A results table with those rows of `other` whose method, seed and attack it lacks.

    A row of `other` whose attack queried its network in another precision than the rows of `table` stays out: the two
    would not be comparable.
    """
    own = set(zip(table["method"], table["training_seed"], table["attack"], strict=True))
    here: dict[str, set[str]] = {}
    for row in table.reindex(columns=["attack", "precision"]).dropna().to_dict("records"):
        here.setdefault(row["attack"], set()).add(row["precision"])
    wanted = [
        (row["method"], row["training_seed"], row["attack"]) not in own
        and (pd.isna(used := row.get("precision")) or used in here.get(row["attack"], {used}))
        for row in other.to_dict("records")
    ]
    return pd.concat([table, other[wanted]], ignore_index=True)


def best_checkpoints(path: Path, sweep: str) -> tuple[pd.DataFrame, Cells]:
    """:func:`read_cells` of the checkpoints that were chosen on held-out images, with :func:`with_screen`."""
    table, cells = read_cells(path, sweep)
    return (with_screen(table[table["checkpoint"] == "best"]) if len(table) else table), cells


def equal_passes(path: Path, sweep: str, study: str, variant: str | None = None) -> tuple[pd.DataFrame, Cells]:
    """ANCHOR and one variant of another method from a sweep that gives both about as many passes; no rows without it.

    That is `variant`, or of all the one with the most seeds, and of these the nearest to ANCHOR in passes. Where the
    sweep has no such network of ANCHOR, that of the sweep `study` stands in, trained in the same way
    (:func:`filled_up`).
    """
    table, cells = best_checkpoints(path, sweep)
    if not cells:
        return table, cells
    other, of_study = best_checkpoints(path, study)
    anchors = [cell for cell in (*cells, *of_study) if cell["method"] == "anchor"]
    wanted = passes(anchors[0]["config"])
    seeds = Counter(cell["variant"] for cell in cells if cell["method"] != "anchor")
    distance = {cell["variant"]: abs(passes(cell["config"]) - wanted) for cell in cells}
    chosen = variant or min(seeds, key=lambda name: (-seeds[name], distance[name]))
    own, table = table[table["method"] == "anchor"], table[table["variant"] == chosen]
    for more in (own, other[other["method"] == "anchor"]):
        table = filled_up(table, more)
    of_anchor = [cell for cell in anchors if cell["training_seed"] in {*table["training_seed"]}]
    one_a_seed = list({cell["training_seed"]: cell for cell in reversed(of_anchor)}.values())[::-1]
    return table, [cell for cell in cells if cell["variant"] == chosen] + one_a_seed
