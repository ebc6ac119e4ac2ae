"""From the cells of a sweep to tables: results by method, costs, and the words for attacks.

A *results table* is what :func:`anchor_utils.evaluation.evaluate` returns, one row a network and attack, with the
columns `method` and `training_seed` of the network added.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from anchor_utils.autoattack import screen_rows
from anchor_utils.config import METHODS, REPORTED
from anchor_utils.plotting import method_name
from anchor_utils.results import current_row, mean_interval


def read_cells(path: Path, sweep: str) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Results table of a sweep in a file that study/publish.py wrote, and its cells without their rows.

    The file says `seed` for the seed of training in a cell, and for that of the attacks in a row; here they are
    `training_seed` and `attack_seed`.
    """
    return in_order(json.loads(path.read_text(encoding="utf-8"))["sweeps"].get(sweep, []))


def in_order(found: Sequence[dict[str, Any]]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
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


def method_table(table: pd.DataFrame, attacks: Sequence[str] = REPORTED) -> pd.DataFrame:
    """One row a method: accuracy in percent, mean over seeds with its t interval, or one seed's Wilson interval."""
    rows = []
    for method in dict.fromkeys(table["method"]):
        row: dict[str, str] = {"method": method_name(method)}
        for attack in attacks:
            chosen = table[(table["method"] == method) & (table["attack"] == attack)]
            mean, low, high = mean_interval(chosen["accuracy"]) if len(chosen) else (float("nan"),) * 3
            if len(chosen) == 1:
                low, high = chosen["low"].iloc[0], chosen["high"].iloc[0]
            text = f"{100 * mean:.1f} [{100 * max(low, 0):.1f}, {100 * high:.1f}], n = {len(chosen)}"
            row[attack_name(table, attack)] = text if len(chosen) else "not measured"
        rows.append(row)
    return pd.DataFrame(rows)


def with_screen(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a "screen" row wherever full AutoAttack was run: its first two stages are the screen."""
    return pd.concat([table, screen_rows(table)], ignore_index=True)


def cost_table(cells: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """What training one image once costs each method, in forward-and-backward passes, and measured seconds a run."""
    rows = []
    for method in dict.fromkeys(cell["method"] for cell in cells):
        chosen = [cell for cell in cells if cell["method"] == method]
        attack = METHODS[method].attacked * chosen[0]["config"]["attack_steps"]
        training = METHODS[method].views
        rows.append(
            {
                "method": method_name(method),
                "attack passes": attack,
                "training passes": training,
                "passes, PGD-AT = 1": (attack + training) / (chosen[0]["config"]["attack_steps"] + 1),
                "seconds a run": sum(cell["training_seconds"] for cell in chosen) / len(chosen),
                "runs": len(chosen),
            }
        )
    return pd.DataFrame(rows)
