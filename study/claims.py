"""The claims about ANCHOR, and the verdicts on them from paired comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from anchor_utils.plotting import method_name
from anchor_utils.results import compare
from study.tables import setting

Claim = tuple[str, tuple[str, ...], str]  # claim, baselines that ANCHOR must beat, attack

# The paper's claims as its abstract and summary make them.
CLAIMS: tuple[Claim, ...] = (
    ("more robust than adversarial training without a contrastive term", ("pgd_at", "trades", "mart"), "pgd"),
    ("the same under the first two of AutoAttack's attacks (screen)", ("pgd_at", "trades", "mart"), "screen"),
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


def claims_table(table: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """Each claim about ANCHOR, what was measured for it, and the verdict.

    Args:
        table: a results table, see :mod:`study.tables`.
    """
    rows = []
    for claim, baselines, attack in claims:
        found = {baseline: compare(table, "anchor", baseline, attack) for baseline in baselines}
        measured = "; ".join(f"against {method_name(baseline)}: {describe(c)}" for baseline, c in found.items())
        rows.append(
            {
                "claim": f"ANCHOR: {claim}",
                "tested by": setting(table, attack),
                "measured": measured,
                "verdict": verdict(list(found.values())),
            }
        )
    return pd.DataFrame(rows)
