"""The report on one screen: what is asked about ANCHOR, the answer of the study, and the differences behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from anchor_utils.plotting import method_name
from anchor_utils.results import compare
from study import mining
from study.claims import BASELINES, Comparison, has_interval, points, upwards
from study.tables import Cells, attack_name, passes

ASKED = (
    ("pgd", "Is ANCHOR more robust"),
    ("screen", "Is it more robust under the screen"),
    ("clean", "Is its clean accuracy higher"),
)


def answer(found: Mapping[str, Comparison | None], attack: str) -> str:
    """Whom ANCHOR is ahead of and whom behind, and which leads are excluded where that is open.

    Args:
        found: baseline -> comparison with it, from :func:`anchor_utils.results.compare`.
        attack: "clean" also says which loss is excluded: that clean accuracy does not suffer is a claim.
    """
    sides: dict[str, list[str]] = {}
    for baseline, c in found.items():
        name = method_name(baseline)
        if c is None or not has_interval(c):
            sides.setdefault("not asked of several seeds:", []).append(name)
        elif c["low"] > 0 or c["high"] < 0:
            sides.setdefault("ahead of" if c["low"] > 0 else "**behind**", []).append(name)
        else:
            loss = f", no loss above {upwards(-100 * c['low']):.1f}" if attack == "clean" else ""
            sides.setdefault("open against", []).append(f"{name} (no lead above {upwards(100 * c['high']):.1f}{loss})")
    between = " and " if any(", " in baseline for baseline in found) else ", "  # some names have a comma of their own
    return "; ".join(f"{side} {between.join(names)}" for side, names in sides.items())


def evidence(found: Mapping[str, Comparison | None]) -> str:
    """The differences in points with their intervals, and the number of training seeds."""
    measured = {method_name(b): c for b, c in found.items() if c is not None and has_interval(c)}
    seeds = ", ".join(sorted({f"{c['seeds']} seeds" for c in measured.values()}))
    if not measured:
        return "one seed" if any(c is not None for c in found.values()) else "not measured"
    return "; ".join([*(f"{name} {points(c)}" for name, c in measured.items()), seeds])


def rows_of(table: pd.DataFrame, baselines: Sequence[str], words: str) -> list[tuple[str, str, str]]:
    """A question for each attack of ASKED that the table has of ANCHOR and one of these baselines."""
    rows = []
    for attack, question in ASKED:
        all_found = {b: compare(table, "anchor", b, attack) for b in baselines}
        found = {b: c for b, c in all_found.items() if c is not None}
        if found:
            asked = (
                f"{question} {words}?" if attack != "pgd" else f"{question} under {attack_name(table, attack)} {words}?"
            )
            rows.append((asked, answer(found, attack), evidence(found)))
    return rows


def about_weights(path: Path) -> list[tuple[str, str, str]]:
    """The questions about mining and about random weights, each on digits and on CIFAR-10; differences are eq. 1's."""
    rows = []
    for question, asked, what, pairs in (
        ("Does mining help", mining.answers, "ways to mine", mining.PAIRS),
        ("Do random weights help", mining.random_weights, "random weightings", mining.RANDOM),
    ):
        for where, sweep in mining.WHERE.items():
            said = asked(path, "pgd", sweep).iloc[:, -1].astype(str)
            name = mining.ASKED[sweep][0]
            own = tuple(pair for pair in pairs if pair[0] in (name, f"{name}.permuted"))
            found = mining.comparisons(path, own, "pgd", sweep)
            measured = evidence({f"minus {mining.NAMES[pair[1]]}": found.get(pair) for pair in own})
            of_all = f"{mining.count(said, what)}; {mining.NAMES[name]}: " if len(said) > 1 else ""
            rows.append(
                (f"{question} on {where}?", f"{of_all}{said.iloc[0]}", f"{mining.NAMES[own[0][0]]}: {measured}")
            )
    return rows


def questions(path: Path, study: pd.DataFrame, equal: pd.DataFrame, equal_cells: Cells) -> pd.DataFrame:
    """The table: `question`, `answer of the study`, `difference in points, 95% interval`.

    Args:
        path: the file of stored cells, for what was asked about mining.
        study, equal: results tables of the study, and after about as many passes; see :mod:`study.tables`.
        equal_cells: the cells of the latter.
    """
    budgets = [name for name in dict.fromkeys(equal["method"]) if name != "anchor"] if len(equal) else []
    spent = {passes(cell["config"]) for cell in equal_cells if cell["method"] == "anchor"}
    rows = rows_of(equal, budgets, f"after {' or '.join(map(str, sorted(spent)))} passes")
    rows += rows_of(study, BASELINES, "at equal epochs")
    rows += about_weights(path)
    return pd.DataFrame(rows, columns=["question", "answer of the study", "difference in points, 95% interval"])
