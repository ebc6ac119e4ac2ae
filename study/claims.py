"""The claims about ANCHOR, the verdicts on them from paired comparisons, and comparisons of any two variants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from anchor_utils.plotting import method_name
from anchor_utils.results import compare
from study.tables import setting

Claim = tuple[str, tuple[str, ...], str]  # claim, baselines that ANCHOR must beat, attack
Comparison = dict[str, float]  # what anchor_utils.results.compare returns

WITHOUT_CONTRAST = ("pgd_at", "trades", "mart")
BASELINES = (*WITHOUT_CONTRAST, "supcon_at")

# The paper's claims as its abstract and summary make them. "Does not suffer" names no one, so it is held against all.
CLAIMS: tuple[Claim, ...] = (
    ("more robust than adversarial training without a contrastive term", WITHOUT_CONTRAST, "pgd"),
    ("the same under the first two of AutoAttack's attacks (screen)", WITHOUT_CONTRAST, "screen"),
    ("the same under AutoAttack", WITHOUT_CONTRAST, "autoattack"),
    # Of methods, each with the settings of its own best trial. Of the weights alone: the twins in study/mining.py.
    ("more robust than supervised contrast with uniform weights, each as tuned", ("supcon_at",), "pgd"),
    ("clean accuracy does not suffer", BASELINES, "clean"),
)
# The same where the baselines were given about as many passes through the network: claim, attack.
AFTER_EQUAL_PASSES = (
    ("more robust than PGD-AT, equal passes", "pgd"),
    ("the same under the screen, equal passes", "screen"),
    ("clean accuracy does not suffer, equal passes", "clean"),
)
INTERVALS_OF_DIFFERENCES = (
    "Differences in percentage points, paired by training seed and test image, with the 95% crossed interval "
    "(`anchor_utils.results.crossed_interval`): it speaks of new seeds and new images. "
    "One training seed bears no verdict. What is excluded is rounded up to a tenth of a point."
)


def has_interval(comparison: Comparison | None) -> bool:
    """Whether a comparison was made with more than one training seed."""
    return comparison is not None and not math.isnan(comparison["low"])


def equal_passes_claims(table: pd.DataFrame) -> tuple[Claim, ...]:
    """The claims against every budget in the table of :func:`study.tables.equal_passes`: a lead must hold over all."""
    budgets = tuple(name for name in dict.fromkeys(table["method"]) if name != "anchor")
    return tuple((claim, budgets, attack) for claim, attack in AFTER_EQUAL_PASSES)


def excluded(comparison: Comparison) -> str:
    """Which leads the interval of a comparison leaves out; its end is rounded up, so that what is said is excluded."""
    return f"excludes a lead above {upwards(100 * max(comparison['high'], 0)):.1f} points"


def upwards(number: float) -> float:
    """The smallest tenth that is not below a number."""
    return math.ceil(round(10 * number, 6)) / 10


def verdict(found: Mapping[str, Comparison | None]) -> str:
    """On "more accurate than every baseline", from the comparison with each of them, by the name of the baseline.

    A side is taken where the interval leaves out 0. One that contains 0 never says that there is no difference, only
    how large a lead it excludes; over all baselines that is the smallest. One training seed gives no verdict.
    """
    measured = {baseline: c for baseline, c in found.items() if c is not None}
    if not found or len(measured) < len(found):
        return "no verdict (not measured)"
    if not all(map(has_interval, measured.values())):
        return "no verdict (one training seed)"
    ahead = [baseline for baseline, c in measured.items() if c["low"] > 0]
    behind = [baseline for baseline, c in measured.items() if c["high"] < 0]
    unclear = [baseline for baseline in measured if baseline not in ahead + behind]
    if len(unclear) == len(measured):
        tightest = min(measured, key=lambda baseline: measured[baseline]["high"])
        return f"open ({excluded(measured[tightest])} over {method_name(tightest)})"
    if len(measured) in (len(ahead), len(behind)):
        return "supported" if ahead else "contradicted"
    sides = {"open against": unclear, "behind": behind}
    words = [f"{side} {', '.join(map(method_name, names))}" for side, names in sides.items() if names]
    return f"mixed ({'; '.join(words)})"


def points(comparison: Comparison) -> str:
    """Difference and interval of several seeds, in percentage points."""
    return f"{100 * comparison['difference']:+.1f} [{100 * comparison['low']:+.1f}, {100 * comparison['high']:+.1f}]"


def describe(comparison: Comparison | None, *, sizes: bool = True) -> str:
    """A comparison as text; that of one seed without its number, which would be read as a result."""
    if comparison is None:
        return "not measured"
    if not has_interval(comparison):
        return "one training seed"
    of = f" ({comparison['seeds']} seeds, {comparison['images']:,} images)" if sizes else ""
    return f"{points(comparison)}{of}"


def stands(comparison: Comparison | None, baseline: str) -> str:
    """Where ANCHOR stands to a baseline, to follow "ANCHOR is"."""
    name = method_name(baseline)
    if comparison is None or not has_interval(comparison):
        return f"not compared with {name}, for want of training seeds"
    measured = f"{points(comparison)}, {comparison['seeds']} seeds"
    if comparison["low"] > 0 or comparison["high"] < 0:
        return f"{'ahead of' if comparison['low'] > 0 else 'behind'} {name} ({measured})"
    return f"not told apart from {name} ({measured}; this {excluded(comparison)})"


def claims_table(table: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """Each claim about ANCHOR, what was measured for it, and the verdict.

    Args:
        table: a results table, see :mod:`study.tables`.
    """
    rows = []
    for claim, baselines, attack in claims:
        found = {baseline: compare(table, "anchor", baseline, attack) for baseline in baselines}
        measured = "; ".join(f"against {method_name(baseline)}: {describe(c)}" for baseline, c in found.items())
        if not any(map(has_interval, found.values())):  # one reason is enough
            measured = "; ".join(dict.fromkeys(map(describe, found.values())))
        rows.append(
            {
                "claim": f"ANCHOR: {claim}",
                "tested by": setting(table, attack),
                "measured": measured,
                "verdict": verdict(found),
            }
        )
    return pd.DataFrame(rows)
