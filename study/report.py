"""From the results of a sweep to the tables of the report: means over seeds, paired comparisons, verdicts.

A results table is what :mod:`anchor_utils.results` describes, of several networks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anchor_utils.autoattack import screen_rows
from anchor_utils.config import METHODS
from anchor_utils.plotting import method_name
from anchor_utils.results import REPORTED, compare, current_row, mean_interval


def read_cells(path: Path, sweep: str) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Results table of a sweep in a file that study/publish.py wrote, and its cells without their rows."""
    cells = json.loads(path.read_text())["sweeps"].get(sweep, [])
    cells.sort(key=lambda cell: (METHODS.index(cell["method"]), cell["variant"], cell["seed"]))
    rows = [{**current_row(row), **_name(cell)} for cell in cells for row in cell["rows"]]
    return pd.DataFrame(rows), [{k: v for k, v in cell.items() if k != "rows"} for cell in cells]


def _name(cell: dict[str, Any]) -> dict[str, Any]:
    return {"variant": cell["variant"], "method": cell["method"], "training_seed": cell["seed"]}


def verdict(comparisons: Sequence[dict[str, float] | None]) -> str:
    """One verdict on "more accurate than every baseline", from the comparisons with each.

    A comparison counts when its interval over seeds leaves out 0; with one seed, when McNemar's p is below 0.05.
    """
    if not comparisons or None in comparisons:
        return "not measured"
    measured = [c for c in comparisons if c is not None]
    clear = [c["p_images"] < 0.05 if c["seeds"] == 1 else c["low"] * c["high"] > 0 for c in measured]
    sides = [np.sign(c["difference"]) if sure else 0 for c, sure in zip(measured, clear, strict=True)]
    if all(side > 0 for side in sides):
        found = "supported"
    elif all(side < 0 for side in sides):
        found = "contradicted"
    else:
        found = "mixed" if any(sides) else "no difference measured"
    # One seed compares two networks, not two methods; no verdict is to be read without that.
    return found + (" (one training seed)" if any(c["seeds"] == 1 for c in measured) else "")


def describe(comparison: dict[str, float] | None) -> str:
    """A comparison as text, in percentage points."""
    if comparison is None:
        return "not measured"
    c = comparison
    interval = "" if c["seeds"] == 1 else f" [{100 * c['low']:+.1f}, {100 * c['high']:+.1f}]"
    seeds = f"{c['seeds']} seed{'s' if c['seeds'] > 1 else ''}"
    p = f"McNemar p = {c['p_images']:.2g}"
    return f"{100 * c['difference']:+.1f}{interval} points ({seeds}, {c['images']} images, {p})"


Claim = tuple[str, tuple[str, ...], str]  # claim, baselines that ANCHOR must beat, attack

# The paper's claims as its abstract and summary make them.
CLAIMS: tuple[Claim, ...] = (
    ("more robust than adversarial training without a contrastive term", ("pgd_at", "trades", "mart"), "pgd"),
    ("the same under AutoAttack's two strongest attacks (screen)", ("pgd_at", "trades", "mart"), "screen"),
    ("the same under AutoAttack", ("pgd_at", "trades", "mart"), "autoattack"),
    ("weighing hard positives adds robustness over plain supervised contrast", ("supcon_at",), "pgd"),
    ("clean accuracy does not suffer", ("pgd_at",), "clean"),
)
# The same against a PGD-AT that was trained for as long as ANCHOR, which takes more time an epoch.
EQUAL_TIME_CLAIMS: tuple[Claim, ...] = (
    ("more robust than PGD-AT with the same training time", ("pgd_at",), "pgd"),
    ("the same under the screen", ("pgd_at",), "screen"),
    ("clean accuracy does not suffer", ("pgd_at",), "clean"),
)


def claims_table(table: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """Each claim about ANCHOR, what was measured for it, and the verdict."""
    rows = []
    for claim, baselines, attack in claims:
        found = {baseline: compare(table, "anchor", baseline, attack) for baseline in baselines}
        measured = "; ".join(f"against {method_name(baseline)}: {describe(c)}" for baseline, c in found.items())
        rows.append(
            {
                "claim": f"ANCHOR: {claim}",
                "tested by": f"{setting(table, attack)}",
                "measured": measured,
                "verdict": verdict(list(found.values())),
            }
        )
    return pd.DataFrame(rows)


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
        attack = 0 if method in ("standard", "supcon") else chosen[0]["config"]["attack_steps"]
        training = 1 if method in ("standard", "pgd_at") else 2
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
