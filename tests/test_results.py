"""Tables of results: bits, intervals, blocks, seeds, comparisons, and files of every age."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import draws, rows

from anchor_utils import results
from anchor_utils.data import Split
from anchor_utils.evaluation import evaluate, logits_of
from anchor_utils.models import AnchorNet
from anchor_utils.results import (
    compare,
    crossed_interval,
    current_row,
    join_images,
    mean_interval,
    over_seeds,
    pack_outcomes,
    read_results,
    save_results,
    unpack_outcomes,
    wilson,
)

# Intervals and bits


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_the_closed_form(counts):
    correct, n = counts
    z, p = 1.959963984540054, correct / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = wilson(correct, n)
    assert (low, high) == pytest.approx((max(centre - half, 0), min(centre + half, 1)), abs=1e-9)
    assert low - 1e-12 <= p <= high + 1e-12


def test_wilson_narrows_with_less_confidence():
    (low, high), (low_90, high_90) = wilson(80, 100), wilson(80, 100, confidence=0.9)
    assert low < low_90 < 0.8 < high_90 < high


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_outcomes_survive_packing(bits):
    text = pack_outcomes(torch.tensor(bits))
    assert len(text) == 2 * ((len(bits) + 7) // 8)
    assert unpack_outcomes(text, len(bits)).tolist() == bits


def test_first_image_is_the_highest_bit():
    assert pack_outcomes(torch.tensor([True] + [False] * 7)) == "80"


# Blocks, seeds, comparisons


def test_blocks_of_images_join_to_the_table_of_all():
    """Joined, two blocks say what one evaluation of all images says, where the attack has no randomness."""
    torch.manual_seed(0)
    model = AnchorNet(10, 2, 1, 0).eval()
    images = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8)
    labels = logits_of(model, images.float() / 255).argmax(1)
    split = Split(images, labels)
    settings = {"attacks": ("clean", "fgsm"), "epsilon": 0.02, "step_size": 0.1}
    whole = evaluate(model, split, **settings)
    parts = [evaluate(model, split[a:b], **settings) for a, b in ((0, 13), (13, 30))]
    joined = join_images(parts)
    columns = ["attack", "accuracy", "low", "high", "correct", "images", "epsilon", "outcomes"]
    pd.testing.assert_frame_equal(joined[columns], whole[columns])
    assert 0 < joined["accuracy"][1] < 1  # otherwise this shows nothing


def test_over_seeds():
    table = pd.DataFrame(
        {
            "method": ["b", "b", "b", "a"],
            "attack": ["pgd"] * 4,
            "accuracy": [0.2, 0.4, 0.9, 0.5],
        }
    )
    result = over_seeds(table)
    assert result["method"].tolist() == ["b", "a"]
    assert result["mean"].tolist() == pytest.approx([0.5, 0.5])
    assert result["std"][0] == pytest.approx(np.std([0.2, 0.4, 0.9], ddof=1))
    assert np.isnan(result["std"][1])
    assert result["runs"].tolist() == [3, 1]


def test_mean_interval_is_students():
    values = [0.31, 0.29, 0.33]
    mean, low, high = mean_interval(values)
    assert mean == pytest.approx(0.31)
    assert high - mean == pytest.approx(mean - low)
    assert high - mean == pytest.approx(4.302653 * 0.02 / math.sqrt(3))  # 97.5% point of t with 2 degrees of freedom
    assert mean_interval([0.5])[0] == 0.5
    assert all(math.isnan(x) for x in mean_interval([0.5])[1:])


def test_where_images_do_not_matter_the_interval_is_students():
    """Each seed is right on another third of the images, so no image is harder than another."""
    bits = np.tile(np.eye(3), (1, 40)) + np.array([[0.0], [0.1], [0.3]])
    mean, low, high = crossed_interval(bits)
    assert of_images(bits) < 0  # what is estimated to be negative counts as none
    assert (mean, low, high) == pytest.approx(mean_interval(bits.mean(1)))


def of_images(x):
    """The estimated variance of images: mean squares of a crossed design, with everything written out."""
    n, size = x.shape
    rest = sum((x[s, i] - x[s].mean() - x[:, i].mean() + x.mean()) ** 2 for s in range(n) for i in range(size))
    squares = n * sum((x[:, i].mean() - x.mean()) ** 2 for i in range(size)) / (size - 1)
    return (squares - rest / (n - 1) / (size - 1)) / n


def test_the_interval_adds_the_images_to_students():
    x = np.random.default_rng(1).normal(size=(4, 50)) + np.random.default_rng(2).normal(size=50)
    _, low, high = mean_interval(x.mean(1))
    found = crossed_interval(x)
    assert ((found[2] - found[1]) / 2) ** 2 == pytest.approx(((high - low) / 2) ** 2 + 1.959964**2 * of_images(x) / 50)
    assert [math.isnan(value) for value in crossed_interval(x[:1])] == [False, True, True]


def test_the_interval_holds_the_truth_about_as_often_as_it_says_and_without_the_images_far_less_often():
    rng, held, without = np.random.default_rng(0), 0, 0
    for _ in range(600):
        x = 0.02 * rng.normal(size=(5, 1)) + 0.5 * rng.normal(size=(1, 80)) + 0.3 * rng.normal(size=(5, 80))
        held += np.prod(crossed_interval(x)[1:]) < 0
        without += np.prod(mean_interval(x.mean(1))[1:]) < 0
    assert 0.93 < held / 600 <= 0.99
    assert without / 600 < 0.85


def test_compare_is_the_interval_of_the_paired_differences():
    bits = draws({"anchor": 0.6, "mart": 0.5})
    found = compare(rows(bits), "anchor", "mart", "pgd")
    x = np.stack([bits["anchor", s].astype(float) - bits["mart", s] for s in range(3)])
    assert (found["difference"], found["low"], found["high"]) == pytest.approx(crossed_interval(x))
    assert (found["seeds"], found["images"]) == (3, 400)


def test_two_variants_of_one_method_are_compared_by_their_variant_alone():
    bits = draws({"strong": 0.6, "weak": 0.5})
    table = rows(bits).rename(columns={"method": "variant"}).assign(method="anchor")
    found = compare(table, "strong", "weak", "pgd", by="variant")
    assert found == compare(rows(bits), "strong", "weak", "pgd")
    with pytest.raises(ValueError, match=r"method='anchor' has several rows of one training seed under 'pgd'"):
        compare(table, "anchor", "pgd_at", "pgd")


def test_compare_pairs_seeds_and_images():
    """Only common seeds count, and one of them has no interval."""
    bits = np.arange(1000) % 3 == 0
    table = rows({("anchor", 0): bits, ("anchor", 5): ~bits, ("mart", 0): bits, ("mart", 1): ~bits})
    found = compare(table, "anchor", "mart", "pgd")
    assert found["seeds"] == 1
    assert found["difference"] == 0
    assert math.isnan(found["low"])
    assert compare(table, "anchor", "trades", "pgd") is None
    assert compare(table, "anchor", "mart", "clean") is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", 0.2),
        ("step_size", 0.02),
        ("steps", 10.0),
        ("norm", "l2"),
        ("iterate", "final"),
        ("precision", "bfloat16"),
    ],
)
def test_what_was_attacked_differently_is_not_compared(field, value):
    table = rows(draws({"anchor": 0.6, "mart": 0.5, "trades": 0.5})).assign(norm="linf")
    compare(table, "anchor", "mart", "pgd")
    table.loc[(table["method"] == "mart") & (table["training_seed"] == 1), field] = value
    with pytest.raises(ValueError, match=rf"{field}=.*{value}.* under 'pgd': allowed is one value"):
        compare(table, "anchor", "mart", "pgd")
    assert compare(table, "anchor", "trades", "pgd")["seeds"] == 3  # neither of which has it


def test_different_numbers_of_images_are_compared_on_the_common_ones():
    table = rows({("anchor", 0): np.array([True] * 20 + [False] * 20), ("mart", 0): np.array([True] * 20)})
    found = compare(table, "anchor", "mart", "pgd")
    assert (found["images"], found["difference"]) == (20, 0)
    table = rows({("anchor", 0): np.ones(40, bool), ("mart", 0): np.ones(40, bool), ("mart", 1): np.ones(4, bool)})
    assert compare(table, "anchor", "mart", "pgd")["images"] == 40  # a seed that only one has costs no images


# Files


@pytest.mark.parametrize("text", ["", '{"rows": [', "[]", "{}", '{"rows": 3}', b"\xff"], ids=str)
def test_a_damaged_file_of_results_is_named(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"path='.*results.json': allowed is a whole file of save_results"):
        read_results(path)


def test_results_come_back_from_their_file(tiny_net, few, tmp_path):
    table = evaluate(tiny_net, few, ("clean", "pgd"), epsilon=0.1, step_size=0.1, steps=1)
    path = tmp_path / "new" / "results.json"
    save_results(path, table, config={"seed": 3}, note="a run")
    again, context = read_results(path)
    assert again["outcomes"].tolist() == table["outcomes"].tolist()
    pd.testing.assert_frame_equal(again, table, check_dtype=False)
    assert (context["config"], context["note"]) == ({"seed": 3}, "a run")
    assert context["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "numpy", "pyautoattack", "hardware", "threads"} <= set(context["versions"])
    assert context["versions"] == results.versions()
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_files_from_before_are_read_with_the_names_of_today(tmp_path):
    """There "seed" was of the attack, or of the training where a row names its method."""
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"rows": [{"attack": "pgd", "seed": 3}], "seed": 5}))
    table, context = read_results(path)
    assert table.to_dict("records") == [{"attack": "pgd", "attack_seed": 3}]
    assert context == {"seed": 5}
    several = {"attack": "pgd", "attack_seed": None, "method": "mart", "seed": 1}
    assert current_row(several) == {"attack": "pgd", "attack_seed": None, "method": "mart", "training_seed": 1}
    assert current_row(current_row(several)) == current_row(several)
