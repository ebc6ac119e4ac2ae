"""Means over training seeds and paired comparisons, against closed forms and other libraries."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_rel
from sklearn.metrics import accuracy_score

from anchor_utils import evaluation
from study import report


def rows(outcomes: dict[tuple[str, int], np.ndarray], attack: str = "pgd") -> pd.DataFrame:
    """A results table with given outcome bits."""
    table = []
    for (method, seed), bits in outcomes.items():
        low, high = evaluation.wilson(int(bits.sum()), len(bits))
        packed = evaluation.pack_outcomes(torch.from_numpy(bits))
        row = {"method": method, "seed": seed, "attack": attack, "accuracy": bits.mean(), "low": low, "high": high}
        row |= {"images": len(bits), "outcomes": packed, "epsilon": 0.1, "step_size": 0.01, "steps": 20.0}
        table.append({**row, "restarts": 1.0, "iterate": "any", "precision": "float32"})
    return pd.DataFrame(table)


def draws(shares: dict[str, float], seeds: int = 3, images: int = 400) -> dict[tuple[str, int], np.ndarray]:
    rng = np.random.default_rng(0)
    return {(m, s): rng.random(images) < share for m, share in shares.items() for s in range(seeds)}


def test_mean_interval_is_students():
    values = [0.31, 0.29, 0.33]
    mean, low, high = report.mean_interval(values)
    assert mean == pytest.approx(0.31)
    assert high - mean == pytest.approx(mean - low)
    assert high - mean == pytest.approx(4.302653 * 0.02 / math.sqrt(3))  # 97.5% point of t with 2 degrees of freedom
    assert report.mean_interval([0.5])[0] == 0.5
    assert all(math.isnan(x) for x in report.mean_interval([0.5])[1:])


def test_compare_agrees_with_scipy_and_scikit_learn():
    bits = draws({"anchor": 0.6, "mart": 0.5})
    found = report.compare(rows(bits), "anchor", "mart", "pgd")
    ours, theirs = ([accuracy_score(np.ones(400), bits[m, s]) for s in range(3)] for m in ("anchor", "mart"))
    test = ttest_rel(ours, theirs)
    low, high = test.confidence_interval(0.95)
    assert found["difference"] == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
    assert (found["seeds"], found["images"]) == (3, 400)


def test_compare_pairs_seeds_and_images():
    """The same images right for both: no evidence, however many images; and only common seeds count."""
    bits = np.arange(1000) % 3 == 0
    table = rows({("anchor", 0): bits, ("anchor", 5): ~bits, ("mart", 0): bits, ("mart", 1): ~bits})
    found = report.compare(table, "anchor", "mart", "pgd")
    assert found["seeds"] == 1
    assert found["difference"] == 0
    assert found["p_images"] == 1
    assert report.compare(table, "anchor", "trades", "pgd") is None
    assert report.compare(table, "anchor", "mart", "clean") is None


@pytest.mark.parametrize(
    ("field", "value"), [("epsilon", 0.2), ("step_size", 0.02), ("steps", 10.0), ("norm", "l2"), ("iterate", "final")]
)
def test_what_was_attacked_differently_is_not_compared(field, value):
    table = rows(draws({"anchor": 0.6, "mart": 0.5, "trades": 0.5})).assign(norm="linf")
    report.compare(table, "anchor", "mart", "pgd")
    table.loc[(table["method"] == "mart") & (table["seed"] == 1), field] = value
    with pytest.raises(ValueError, match=rf"{field}=.*{value}.* under 'pgd': allowed is one value"):
        report.compare(table, "anchor", "mart", "pgd")
    assert report.compare(table, "anchor", "trades", "pgd")["seeds"] == 3  # neither of which has it


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs():
    ours = np.array([True] * 10 + [False] * 2 + [True] * 50)
    theirs = np.array([False] * 10 + [True] * 2 + [True] * 50)
    found = report.compare(rows({("anchor", 0): ours, ("mart", 0): theirs}), "anchor", "mart", "pgd")
    tail = sum(math.comb(12, k) for k in range(3)) / 2**12
    assert found["p_images"] == pytest.approx(2 * tail)


def test_different_numbers_of_images_are_compared_on_the_common_ones():
    table = rows({("anchor", 0): np.array([True] * 20 + [False] * 20), ("mart", 0): np.array([True] * 20)})
    found = report.compare(table, "anchor", "mart", "pgd")
    assert (found["images"], found["difference"]) == (20, 0)
    table = rows({("anchor", 0): np.ones(40, bool), ("mart", 0): np.ones(40, bool), ("mart", 1): np.ones(4, bool)})
    assert report.compare(table, "anchor", "mart", "pgd")["images"] == 40  # a seed that only one has costs no images
