"""The figures of lesson 05: each is drawn on small arrays, and what stands in it is read back."""

import numpy as np
import pytest
from drawings import rows, texts

from anchor_utils import plotting
from course.figures import lesson_05 as figures

pytestmark = pytest.mark.usefixtures("closed_figures")


@pytest.fixture
def step(random):
    """Six images of two classes, four and two."""
    batch = random.random((6, 1, 5, 7))
    z = random.normal(size=(12, 3))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    labels = np.tile([0, 0, 0, 0, 1, 1], 2)
    positive = (labels[:, None] == labels) & ~np.eye(12, dtype=bool)
    weights = np.where(positive, 1.0, np.nan)
    weights[0, 1], weights[0, 2] = 0.8, 1.5
    return {
        "batch": batch,
        "augmented": batch / 2,
        "adversarial": batch / 4,
        "features": random.random((12, 8)),
        "logits": random.normal(size=(6, 2)),
        "embeddings": z,
        "cosines": z @ z.T,
        "weights": weights,
    }


def drawn_step(step):
    terms = {"total": 3.0, "cross_entropy": 1.0, "contrastive": 4.0}
    return figures.anchor_step(step, terms, epsilon=0.3, contrastive_weight=0.5)


def test_anchor_step_shows_the_tensors_that_it_was_given(step):
    figure = drawn_step(step)
    figure.canvas.draw()
    canvas, *panels = figure.axes
    assert len(panels) == 8
    pictures = [np.asarray(axis.images[0].get_array()) for axis in panels]
    for name, picture in zip(("features", "logits", "embeddings", "cosines"), pictures[3:7], strict=True):
        np.testing.assert_array_equal(picture, step[name])
    words = " ".join(texts(canvas))
    for expected in (
        "N = 6",
        "2N = 12",
        "(6, 1, 5, 7)",
        "(12, 8)",
        "logits (6, 2)",
        "1.000 + 0.5 x 4.000",
        "L = 3.000",
    ):
        assert expected in words, expected
    assert "$\\varepsilon$ = 0.3" in words
    assert "weights, 0.80 to\n1.50 x SupCon's" in words


def test_weights_of_an_anchor_step_are_white_where_they_are_supcons_and_no_colour_where_there_is_no_positive(step):
    weights = drawn_step(step).axes[-1].images[0]
    assert weights.get_clim() == pytest.approx((0.5, 1.5))  # one colour scale to both sides of SupCon's weight
    assert np.isnan(step["weights"]).sum() == np.ma.getmaskarray(weights.get_array()).sum()


def test_anchor_step_takes_uniform_weights(step):
    step["weights"] = np.where(np.isnan(step["weights"]), np.nan, 1.0)
    drawn_step(step).canvas.draw()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_is_tiled_with_a_class_a_row(random, channels):
    images = random.random((6, channels, 5, 7))
    picture = figures._tiles(images)
    assert picture.shape == (10, 28, 3)
    for k, image in enumerate(images):
        row, column = divmod(k, 4)
        found = picture[5 * row : 5 * row + 5, 7 * column : 7 * column + 7]
        np.testing.assert_array_equal(found, np.broadcast_to(image.transpose(1, 2, 0), (5, 7, 3)))
    assert (picture[5:, 14:] == 0).all()


def test_contrastive_shares_before_and_after():
    before, after = [0.5, 0.6, 0.7], [0.1, 0.2, 0.3]
    figure = figures.contrastive_shares(["stem", "stage 1", "stage 2"], before, after)
    (axis,) = figure.axes
    figure.canvas.draw()
    assert [list(line.get_ydata()) for line in axis.lines[:2]] == [before, after]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["stem", "stage 1", "stage 2"]
    named = {text.get_text(): text for text in axis.texts}
    assert named["after training"].xy == (2, 0.3)
    assert named["after training"].get_color() == axis.lines[1].get_color() == plotting.method_color("anchor")


def test_training_curves_translate_entropy_into_effective_positives():
    epochs = [1, 2, 3]
    shared = {"clean_accuracy": np.array([0.2, 0.5, 0.9]), "robust_accuracy": np.array([0.1, 0.2, 0.3])}
    history = {
        "pgd_at": shared | {"hardness_entropy": np.full(3, np.nan)},
        "supcon_at": shared | {"hardness_entropy": np.ones(3)},
        "anchor": shared
        | {
            "hardness_entropy": np.array([0.5, 0.8, 0.9]),
            "cross_entropy": np.array([2.0, 1.0, 0.5]),
            "contrastive": np.array([4.0, 3.0, 2.5]),
        },
    }
    floor = np.array([1.0, 1.5, 2.0])
    figure = figures.training_curves(epochs, history, floor=floor, positives=16.0, beta=2, titles=("clean", "PGD"))
    figure.canvas.draw()
    terms, entropy, clean, robust = figure.axes
    assert [list(line.get_ydata()) for line in terms.lines] == [[2, 1, 0.5], [4, 3, 2.5], list(floor)]
    assert (clean.get_title(), robust.get_title()) == ("clean", "PGD")
    assert len(clean.lines) == len(robust.lines) == 3
    np.testing.assert_array_equal(robust.lines[2].get_ydata(), shared["robust_accuracy"])
    inset, effective = entropy.child_axes
    assert [list(line.get_ydata()) for line in inset.lines] == [[1, 1, 1], [0.5, 0.8, 0.9]]
    assert list(effective.get_yticks()) == [1, 2, 4, 8, 16]
    assert effective.get_ylim() == pytest.approx((1, 16**1.05))
    assert texts(inset)[1] == "ANCHOR, beta = 2"


def test_training_curves_take_one_epoch():
    curve = {name: np.array([0.9]) for name in ("hardness_entropy", "clean_accuracy", "robust_accuracy")}
    terms = {"cross_entropy": np.array([2.0]), "contrastive": np.array([3.0])}
    history = {"supcon_at": curve, "anchor": curve | terms}
    figure = figures.training_curves([1], history, floor=np.ones(1), positives=6.0, beta=1, titles=("", ""))
    figure.canvas.draw()


def test_hardness_sweep_shows_quantiles_entropy_and_the_change_of_the_pulls():
    hardnesses = np.linspace(0, 16, 5)

    def result(k):
        return {
            "cosines": [np.linspace(0, 1, 101) - k, np.linspace(0, 1, 101) - k - 0.5],
            "entropy": np.linspace(1, 0.5, 5) - k / 100,
            "approximation": np.linspace(1, -3, 5),
        }

    sweep = {"standard": result(0), "anchor": result(1) | {"change": np.linspace(0, 1.5, 5)}}
    figure = figures.hardness_sweep(hardnesses, sweep, beta=2.0, first_order=hardnesses / 8)
    left, middle, right = figure.axes
    figure.canvas.draw()
    assert rows(left) == ["ANCHOR", "standard"]  # the first on top
    thin, thick, median = left.lines[6:9]  # the augmented positives of the network on top
    np.testing.assert_allclose(thin.get_xdata(), [0.05, 0.95])
    np.testing.assert_allclose(thick.get_xdata(), [0.25, 0.75])
    np.testing.assert_allclose(median.get_xdata(), [0.5])
    assert thin.get_alpha() < left.lines[9].get_alpha() == 1
    np.testing.assert_array_equal(middle.lines[1].get_ydata(), sweep["anchor"]["entropy"])
    np.testing.assert_array_equal(middle.lines[2].get_ydata(), [1, 0, 0, 0, 0])  # clipped
    change, line = right.lines[:2]  # of the network without a contrastive term there is none
    np.testing.assert_array_equal(change.get_ydata(), sweep["anchor"]["change"])
    np.testing.assert_array_equal(line.get_ydata(), hardnesses / 8)
    assert [axis.lines[-1].get_xdata()[0] for axis in (middle, right)] == [2, 2]
    assert texts(right) == ["ANCHOR"]
    names = {text.get_text(): text.xy[1] for text in middle.texts}
    assert list(names) == ["beta = 2,\nthis run", "ANCHOR", "standard"]
    assert names["standard"] - names["ANCHOR"] == pytest.approx(0.07)  # pushed apart


def test_pulls_show_target_and_guess_of_one_anchor_and_name_the_largest_weight_of_all():
    offsets = np.array([0.1, -0.3, 0.2])  # in any order
    target, guess, weights = 1 - 2 * offsets, 1 + 5 * offsets, np.array([0.5, 1.0, 1.1, 1.6])
    figure = figures.pulls(offsets, target, guess, weights, beta=2.0)
    figure.canvas.draw()
    left, right = figure.axes
    for line, values in zip(left.lines, (target, np.ones(3), guess), strict=True):
        assert list(line.get_xdata()) == [-0.3, 0.1, 0.2]
        np.testing.assert_array_equal(line.get_ydata(), values[[1, 0, 2]])
    bars = left.collections[0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], np.stack([guess, target], axis=1)[[1, 0, 2]])
    names = {text.get_text(): (text.xy[1], text.get_color()) for text in left.texts}
    assert names["guess of both"] == (2, "0.25")
    assert names["target, beta = 2"] == (pytest.approx(0.6), plotting.method_color("anchor"))
    assert names["target, SupCon"][1] == left.lines[1].get_color() == plotting.method_color("supcon_at")
    assert texts(right) == ["largest: 1.60", "SupCon: 1"]
    assert sum(bar.get_height() for bar in right.patches) == 4


def test_pulls_take_a_single_positive():
    figures.pulls(np.zeros(1), np.ones(1), np.full(1, 0.2), np.ones(3), beta=2.0).canvas.draw()


def test_candidates_are_compared_alone_and_in_pairs():
    accuracies = {
        "pgd_at": {"clean": (0.9, 0.85, 0.94), "pgd": (0.5, 0.4, 0.6)},
        "anchor": {"clean": (0.95, 0.9, 0.97), "pgd": (0.7, 0.6, 0.8)},
        "anchor, new classifier": {"clean": (0.94, 0.9, 0.97), "pgd": (0.6, 0.5, 0.7)},
    }
    comparisons = {
        "first\nminus second": {"a": 30, "b": 10, "difference": 20.0, "low": 8.0, "high": 30.0, "p": 0.002},
        "other pair": {"a": 3, "b": 2, "difference": 1.0, "low": -9.0, "high": 11.0, "p": 0.9},
    }
    figure = figures.candidates(accuracies, comparisons, images=100, attack="PGD-20")
    figure.canvas.draw()
    left, right = figure.axes
    assert rows(left) == ["ANCHOR,\nnew classifier", "ANCHOR", "PGD-AT"]  # the first on top
    assert texts(left) == ["clean", "PGD-20"]
    bars, dots = left.lines[::2], left.lines[1::2]
    assert [float(dot.get_xdata()[0]) for dot in dots] == [0.94, 0.6, 0.95, 0.7, 0.9, 0.5]
    assert list(bars[-1].get_xdata()) == [0.4, 0.6]
    assert {dot.get_markerfacecolor() for dot in dots[::2]} == {"white"}
    assert dots[1].get_markerfacecolor() == plotting.method_color("anchor")
    assert rows(right) == ["other pair", "first\nminus second"]
    assert texts(right) == ["3 : 2 images, p = 0.9", "30 : 10 images, p = 0.002"]
    assert [line.get_color() for line in right.lines[:4:2]] == ["0.5", "black"]
    assert [list(line.get_xdata()) for line in right.lines[:4:2]] == [[-9, 11], [8, 30]]
    assert right.get_xlim() == pytest.approx((-63, 63))
    assert "100 test images" in left.get_xlabel()


def test_a_network_is_shown_with_the_label_of_its_method():
    assert figures.shown_name("pgd_at, new classifier") == "PGD-AT, new classifier"
    assert figures.shown_name("anchor") == "ANCHOR"
    assert figures.shown_name("of no method") == "of no method"


def test_formulations_show_change_and_weight_beside_supcons():
    figure = figures.formulations(["SupCon", "eq. 1"], [0.0, 1.5], [0.4, 0.7])
    left, right = figure.axes
    figure.canvas.draw()
    assert [bar.get_width() for bar in left.patches] == [0.0, 1.5]
    assert [bar.get_width() for bar in right.patches] == pytest.approx([40, 70])
    assert right.lines[0].get_xdata()[0] == pytest.approx(40)
    assert rows(left) == ["SupCon", "eq. 1"]


def test_a_mining_study_shows_seeds_differences_and_the_margin():
    stored = {"supcon_at": np.array([0.8, 0.9])}
    pairs = {"mined\nminus uniform": (0.5, -1.0, 2.0), "mined\nminus permuted": (-2.0, -3.0, -1.5)}
    figure = figures.mining_study(stored, {}, pairs, margin=1.0, attack="PGD-20")
    left, right = figure.axes
    figure.canvas.draw()
    assert rows(left) == ["SupCon-AT"]
    spans = [line.get_xdata() for line in right.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    np.testing.assert_allclose(spans[1:], [[-1.0, 2.0], [-3.0, -1.5]])
    assert right.patches[0].get_extents().transformed(right.transData.inverted()).intervalx == pytest.approx((-1, 1))
    assert rows(right) == list(pairs)
