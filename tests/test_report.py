"""Means, paired comparisons and verdicts against closed forms and other libraries, and the published study."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_rel
from sklearn.metrics import accuracy_score

from anchor_utils import evaluation, models
from study import report

STUDY = models.PRETRAINED_DIR / "study.json"


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


@pytest.mark.parametrize(
    ("sides", "wanted"),
    [
        ([1, 1], "supported"),
        ([-1, -1], "contradicted"),
        ([1, 0], "mixed"),
        ([1, -1], "mixed"),
        ([0, 0], "no difference measured"),
        ([], "not measured"),
        ([1, None], "not measured"),
    ],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_verdict(sides, wanted, seeds):
    def comparison(side):
        if side is None:
            return None
        low, high = {1: (0.01, 0.03), -1: (-0.03, -0.01), 0: (-0.01, 0.03)}[side]
        result = {"difference": (low + high) / 2, "low": low, "high": high, "seeds": seeds, "p_images": 0.9}
        if seeds == 1:
            result |= {"low": math.nan, "high": math.nan, "p_images": 0.01 if side else 0.5}
        return result

    one = " (one training seed)" if seeds == 1 and wanted != "not measured" else ""
    assert report.verdict([comparison(side) for side in sides]) == wanted + one


def test_a_large_difference_is_found_and_none_is_not():
    claims = report.claims_table(rows(draws({"anchor": 0.9, "pgd_at": 0.5, "trades": 0.5, "mart": 0.4})))
    verdicts = dict(zip((attack for _, _, attack in report.CLAIMS), claims["verdict"], strict=True))
    assert claims["verdict"][0] == "supported"
    assert verdicts["autoattack"] == "not measured"
    table = rows(draws({"anchor": 0.5, "pgd_at": 0.9}))
    longer = report.claims_table(table, report.EQUAL_TIME_CLAIMS)
    assert longer["verdict"].tolist() == ["contradicted", "not measured", "not measured"]
    same = draws({"anchor": 0.5})
    table = rows({**same, **{("pgd_at", s): same["anchor", (s + 1) % 3] for s in range(3)}})
    table = pd.concat([table, table[table["method"] == "pgd_at"].assign(method="trades")])
    table = pd.concat([table, table[table["method"] == "trades"].assign(method="mart")])
    assert report.claims_table(table)["verdict"][0] == "no difference measured"


def test_tables_name_attack_epsilon_step_steps_restarts_images_and_seeds():
    table = rows(draws({"anchor": 0.6}))
    text = report.setting(table, "pgd")
    for words in ("PGD-20", "epsilon 0.1", "step 0.01", "restarts 1", "any iterate", "400 images", "seeds [0, 1, 2]"):
        assert words in text
    assert report.method_table(table)["PGD-20"][0].endswith("n = 3")
    assert report.method_table(table)["AutoAttack"][0] == "not measured"


def test_cost_counts_the_passes_of_each_method():
    cells = [
        {"method": m, "training_seconds": 10.0 + s, "config": {"attack_steps": 3}}
        for m in ("standard", "pgd_at", "trades", "anchor")
        for s in range(2)
    ]
    table = report.cost_table(cells).set_index("method")
    assert table["passes, PGD-AT = 1"].to_dict() == {"standard": 0.25, "PGD-AT": 1.0, "TRADES": 1.25, "ANCHOR": 1.25}
    assert table["seconds a run"].tolist() == [10.5] * 4


def test_blocks_of_images_join_to_the_table_of_all():
    """Joined, two blocks say what one evaluation of all images says, where the attack has no randomness."""
    torch.manual_seed(0)
    model = models.AnchorNet(10, 2, 1, 0).eval()
    images = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8)
    labels = evaluation.logits_of(model, images.float() / 255).argmax(1)
    split = evaluation.Split(images, labels)
    settings = {"attacks": ("clean", "fgsm"), "epsilon": 0.02, "step_size": 0.1}
    whole = evaluation.evaluate(model, split, **settings)
    parts = [evaluation.evaluate(model, split[a:b], **settings) for a, b in ((0, 13), (13, 30))]
    joined = evaluation.join_images(parts)
    columns = ["attack", "accuracy", "low", "high", "correct", "images", "epsilon", "outcomes"]
    pd.testing.assert_frame_equal(joined[columns], whole[columns])
    assert 0 < joined["accuracy"][1] < 1  # otherwise this shows nothing
