"""Verdicts from comparisons, the table of claims, and pairs of variants."""

import math

import pandas as pd
import pytest
from samples import draws, rows

from study import claims

SIDES = {1: (0.01, 0.03), -1: (-0.03, -0.01), 0: (-0.01, 0.03)}


def comparison(side, seeds=3):
    if side is None:
        return None
    low, high = SIDES[side] if seeds > 1 else (math.nan, math.nan)
    return {"difference": sum(SIDES[side]) / 2, "low": low, "high": high, "seeds": seeds, "images": 1000}


@pytest.mark.parametrize(
    ("sides", "wanted"),
    [
        ([1, 1], "supported"),
        ([-1, -1], "contradicted"),
        ([1, 0], "mixed (open against MART)"),
        ([1, -1], "mixed (behind MART)"),
        ([0, -1], "mixed (open against TRADES; behind MART)"),
        ([0, 0], "open (excludes a lead above 3.0 points over TRADES)"),
        ([], "no verdict (not measured)"),
        ([1, None], "no verdict (not measured)"),
    ],
)
def test_a_verdict_names_the_baselines_that_keep_it_from_being_clear(sides, wanted):
    found = dict(zip(("trades", "mart"), map(comparison, sides), strict=False))
    assert claims.verdict(found) == wanted


@pytest.mark.parametrize("side", [1, -1, 0])
def test_one_training_seed_bears_no_verdict_and_no_number(side):
    one = comparison(side, seeds=1)
    assert claims.verdict({"trades": one, "mart": comparison(1)}) == "no verdict (one training seed)"
    assert claims.describe(one) == "one training seed"
    assert claims.stands(one, "mart") == "not compared with MART, for want of training seeds"


def test_where_anchor_stands_is_said_with_the_interval():
    assert claims.stands(comparison(1), "mart") == "ahead of MART (+2.0 [+1.0, +3.0], 3 seeds)"
    assert claims.stands(comparison(-1), "mart") == "behind MART (-2.0 [-3.0, -1.0], 3 seeds)"
    words = "not told apart from MART (+1.0 [-1.0, +3.0], 3 seeds; this excludes a lead above 3.0 points)"
    assert claims.stands(comparison(0), "mart") == words


def test_a_large_difference_is_found_and_none_is_not():
    table = claims.claims_table(rows(draws({"anchor": 0.9, "pgd_at": 0.5, "trades": 0.5, "mart": 0.4})))
    verdicts = dict(zip((attack for _, _, attack in claims.CLAIMS), table["verdict"], strict=True))
    assert table["verdict"][0] == "supported"
    assert verdicts["autoattack"] == "no verdict (not measured)"
    table = rows(draws({"anchor": 0.5, "PGD-AT, 24 passes": 0.9}))
    verdicts = claims.claims_table(table, claims.equal_passes_claims(table))["verdict"].tolist()
    assert verdicts == ["contradicted", "no verdict (not measured)", "no verdict (not measured)"]
    same = draws({"anchor": 0.5})
    table = rows({**same, **{("pgd_at", s): same["anchor", (s + 1) % 3] for s in range(3)}})
    table = pd.concat([table, table[table["method"] == "pgd_at"].assign(method="trades")])
    table = pd.concat([table, table[table["method"] == "trades"].assign(method="mart")])
    assert claims.claims_table(table)["verdict"][0].startswith("open (excludes a lead above ")


def test_after_equal_passes_anchor_has_to_lead_every_budget():
    shares = {"PGD-AT, 24 passes": 0.3, "PGD-AT, 28 passes": 0.9, "anchor": 0.5}
    table = rows(draws(shares))
    (first, *_) = claims.claims_table(table, claims.equal_passes_claims(table)).to_dict("records")
    assert first["verdict"] == "mixed (behind PGD-AT, 28 passes)"
    assert "against PGD-AT, 24 passes: +" in first["measured"]
    table = rows(draws({**shares, "PGD-AT, 28 passes": 0.2}))
    assert claims.claims_table(table, claims.equal_passes_claims(table))["verdict"][0] == "supported"


def test_clean_accuracy_is_held_against_every_defended_baseline():
    (named,) = [baselines for _, baselines, attack in claims.CLAIMS if attack == "clean"]
    assert named == ("pgd_at", "trades", "mart", "supcon_at")
    shares = {"anchor": 0.5, "pgd_at": 0.3, "trades": 0.8, "mart": 0.3, "supcon_at": 0.3}
    table = claims.claims_table(rows(draws(shares), attack="clean"), [claims.CLAIMS[-1]])
    assert table["verdict"].tolist() == ["mixed (behind TRADES)"]
