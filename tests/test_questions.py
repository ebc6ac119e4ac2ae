"""The first screen of the report: answers from known comparisons."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study import claims, questions


def comparison(low, high, seeds=5):
    return {"difference": (low + high) / 2, "low": low, "high": high, "seeds": seeds, "images": 1000}


@given(st.floats(-100, 100))
def test_what_is_excluded_is_rounded_up_to_a_tenth(number):
    up = claims.upwards(number)
    assert number - 1e-6 <= up < number + 0.1 + 1e-6
    assert up == round(up, 1)


@pytest.mark.parametrize(
    ("high", "said"), [(0.01047, "above 1.1 points"), (0.01, "above 1.0 points"), (-0.02, "above 0.0 points")]
)
def test_an_end_that_is_printed_as_excluded_is_not_below_the_interval(high, said):
    assert claims.excluded(comparison(-0.05, high)).endswith(said)


def test_an_answer_names_every_baseline_on_its_side():
    found = {
        "pgd_at": comparison(0.001, 0.02),
        "mart": comparison(0.002, 0.03),
        "trades": comparison(-0.03, -0.001),
        "supcon_at": comparison(-0.0104, 0.0104),
        "standard": comparison(float("nan"), float("nan"), seeds=1),
    }
    assert questions.answer(found, "pgd").split("; ") == [
        "ahead of PGD-AT, MART",
        "**behind** TRADES",
        "open against SupCon-AT (no lead above 1.1)",
        "not asked of several seeds: standard",
    ]
    assert "SupCon-AT (no lead above 1.1, no loss above 1.1)" in questions.answer(found, "clean")
    assert questions.answer({"mart": None}, "pgd") == "not asked of several seeds: MART"
    assert questions.evidence(found).split("; ") == [
        "PGD-AT +1.1 [+0.1, +2.0]",
        "MART +1.6 [+0.2, +3.0]",
        "TRADES -1.6 [-3.0, -0.1]",
        "SupCon-AT +0.0 [-1.0, +1.0]",
        "5 seeds",
    ]
    assert questions.evidence({"mart": None}) == "not measured"
    assert questions.evidence({"mart": found["standard"]}) == "one seed"
