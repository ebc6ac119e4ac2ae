"""From the cells of a sweep to tables: results by method, costs, and the words for attacks.

A *results table* is what :func:`anchor_utils.evaluation.evaluate` returns, one row a network and attack, with the
columns `method` and `training_seed` of the network added.
"""

from __future__ import annotations

import json
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
    """The table with a "screen" row wherever full AutoAttack was run and the screen by itself was not.

    AutoAttack's first two stages are the screen.
    """
    key = [name for name in ("variant", "method", "training_seed", "checkpoint") if name in table]
    alone = table[table["attack"] == "screen"]
    more = screen_rows(table)
    if len(alone) and key:
        more = more[~pd.MultiIndex.from_frame(more[key]).isin(pd.MultiIndex.from_frame(alone[key]))]
    return pd.concat([table, more], ignore_index=True)


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


def best_checkpoints(path: Path, sweep: str) -> tuple[pd.DataFrame, Cells]:
    """:func:`read_cells` of the checkpoints that were chosen on held-out images, with :func:`with_screen`."""
    table, cells = read_cells(path, sweep)
    return (with_screen(table[table["checkpoint"] == "best"]) if len(table) else table), cells


def budgets(path: Path, sweep: str) -> tuple[pd.DataFrame, Cells]:
    """A sweep whose variants are budgets of passes: each stands in the column `method`, as "PGD-AT, 24 passes"."""
    table, cells = best_checkpoints(path, sweep)
    names = {c["variant"]: f"{method_name(c['method'])}, {passes(c['config'])} passes" for c in cells}
    order = {c["variant"]: passes(c["config"]) for c in cells}
    if cells:
        table = table.assign(method=table["variant"].map(names))
        table = table.sort_values("variant", key=lambda variants: variants.map(order), kind="stable")
    return table, cells


def equal_passes(path: Path, sweep: str, study: str) -> tuple[pd.DataFrame, Cells]:
    """ANCHOR beside other methods that were given about as many passes; no rows without a cell of that sweep.

    Every budget is a method of its own (see :func:`budgets`), compared with ANCHOR one by one. ANCHOR's networks are
    those of the sweep `study`. Where a budget's rows of an attack queried their network in another precision than
    ANCHOR's, they are left out, as the two would not be comparable.
    """
    table, cells = budgets(path, sweep)
    if not cells:
        return table, cells
    of_study, study_cells = best_checkpoints(path, study)
    ours = of_study[of_study["method"] == "anchor"]
    precision = ours.dropna(subset="precision").drop_duplicates("attack").set_index("attack")["precision"]
    alike = table["precision"].isna() | (table["precision"] == table["attack"].map(precision))
    anchors = [cell for cell in study_cells if cell["method"] == "anchor"]
    return pd.concat([table[alike], ours], ignore_index=True), [*cells, *anchors]


def alike(first: pd.DataFrame, second: pd.DataFrame, attack: str = "pgd") -> tuple[int, int]:
    """How many networks that two results tables share, by method and seed, and how many have the same outcome bits."""
    keys = ["method", "training_seed"]
    bits = [table[table["attack"] == attack].set_index(keys)["outcomes"] for table in (first, second)]
    common = bits[0].index.intersection(bits[1].index)
    return len(common), int((bits[0].loc[common] == bits[1].loc[common]).sum())


def edges(trials: Cells, fields: Sequence[str]) -> dict[str, list[str]]:
    """For each method, which settings of its best trial are the smallest or largest of those that were tried.

    A better one may lie beyond. Best: by accuracy under PGD on held-out images, then by clean accuracy.
    """
    found = {}
    for method in dict.fromkeys(cell["method"] for cell in trials):
        own = [cell for cell in trials if cell["method"] == method]
        best = max(own, key=lambda cell: (cell["held_out"]["joint"]["robust"], cell["held_out"]["joint"]["clean"]))
        tried = {field: sorted({cell["config"][field] for cell in own}) for field in fields}
        ends = {field: (values[0], values[-1]) for field, values in tried.items() if len(values) > 1}
        found[method] = [f"{field} {best['config'][field]:g}" for field in ends if best["config"][field] in ends[field]]
    return {method: words for method, words in found.items() if words}
