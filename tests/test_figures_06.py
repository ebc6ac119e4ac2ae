"""The figures of lesson 06: each is drawn on small arrays, and what stands in it is read back."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from drawings import rows, texts
from matplotlib.colors import to_hex

from anchor_utils import plotting
from course.figures import lesson_06 as figures

pytestmark = pytest.mark.usefixtures("closed_figures")


def test_intervals_show_coverage_and_width():
    truth, sizes = np.linspace(0.5, 1, 6), np.array([10, 100, 500, 1000, 2000, 5000, 10000])
    coverage = {"Wilson": np.full(6, 0.95), "textbook": np.linspace(0.95, 0.5, 6)}
    width = 1 / np.sqrt(sizes)
    figure = figures.intervals(
        truth, coverage, 40, sizes=sizes, measured=0.85, ends=(0.85 - 2 * width, np.minimum(0.85 + width, 1))
    )
    figure.canvas.draw()
    left, right = figure.axes
    for line, values in zip(left.lines, coverage.values(), strict=False):
        np.testing.assert_array_equal(line.get_ydata(), values)
    assert left.get_title() == "40 images: how often the interval is right"
    assert [text.get_color() for text in left.texts[:2]] == [line.get_color() for line in left.lines[:2]]
    assert texts(right) == ["100: ±15.0 points", "1,000: ±4.7 points", "10,000: ±1.5 points"]
    assert right.texts[0].xy == pytest.approx((100, 0.65))
    assert right.get_title() == "85% measured: what it may be"


def test_paired_differences_have_two_intervals_a_method():
    differences = {"pgd_at": (0.1, 0.05, 0.2), "mart": (-0.02, 0.03, 0.04)}
    figure = figures.paired_differences(differences, "PGD-20")
    (axis,) = figure.axes
    figure.canvas.draw()
    assert rows(axis) == ["against MART", "against PGD-AT"]  # the first on top
    spans = [container[2][0].get_segments()[0][:, 0] for container in axis.containers]
    np.testing.assert_allclose(spans, [[-0.06, 0.02], [-0.05, 0.01], [-0.1, 0.3], [0.05, 0.15]], atol=1e-9)
    named = {text.get_text(): text for text in axis.texts}
    assert named["paired"].xy[0] == pytest.approx(0.15)
    assert named["as if independent"].xy[0] == pytest.approx(0.3)
    assert named["paired"].get_color() == plotting.method_color("pgd_at")
    assert "PGD-20 accuracy" in axis.get_xlabel()
    assert axis.xaxis.get_major_formatter()(0.1, 0) == "+10"  # points
    assert axis.xaxis.get_major_formatter()(1e-17, 0) == "0"


def test_survival_matrix_sorts_images_and_states_shares():
    axis = plt.subplots()[1]
    survived = np.array([[True, True, True, False], [True, False, False, False]])
    order = figures.survival_matrix(axis, survived, ["PGD", "AutoAttack"], title="who survives")
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    assert (np.diff(survived.sum(0)[order]) >= 0).all()
    assert rows(axis) == ["AutoAttack", "PGD"]  # the first on top
    assert texts(axis) == ["25%", "75%"]
    cells = np.asarray(axis.collections[0].get_array()).reshape(2, 4)
    assert cells.sum(1).tolist() == [1, 3]
    assert (np.diff(cells.sum(0).astype(int)) >= 0).all()
    axis.figure.canvas.draw()


def test_attack_ladder_marks_what_only_the_last_attack_breaks(random):
    survived = np.array([[True, True, True, False], [True, True, False, False], [True, False, False, False]])
    margin, images = np.array([3.0, 1.0, -1.0, -2.0]), random.random((4, 1, 5, 5))
    figure = figures.attack_ladder(survived, ["FGSM", "PGD-20", "AutoAttack"], margin, images)
    figure.canvas.draw()
    _, middle, bottom = figure.axes
    assert [bar.get_height() for bar in middle.patches] == [-2, -1, 1, 3]  # those that fall early at the left
    assert [to_hex(bar.get_facecolor()) for bar in middle.patches] == [
        color.lower() for color in (figures.ORANGE, figures.ORANGE, figures.PINK, figures.LIGHT)
    ]
    assert "PGD-20" in middle.get_title(loc="left")
    pictures = [np.asarray(picture.get_array()) for picture in bottom.images]
    np.testing.assert_array_equal(pictures, images[::-1, 0])
    (frame,) = bottom.patches
    assert frame.get_x() < 2.5 < frame.get_x() + frame.get_width()


def test_attack_ladder_shows_twenty_pictures_with_the_late_ones_among_them(random):
    margin = np.linspace(-1, 4, 50)
    survived = np.tile(margin > 0, (2, 1))
    survived = np.stack([survived[0], survived[0], survived[0]])
    survived[2, 49] = False  # the largest margin, and yet broken
    figure = figures.attack_ladder(survived, ["FGSM", "PGD", "AutoAttack"], margin, random.random((50, 3, 4, 4)))
    _, middle, bottom = figure.axes
    assert len(bottom.images) == 20
    assert len(bottom.patches) == 1
    connected = {int(line.get_xdata()[0]) for line in bottom.lines}
    heights = np.array([bar.get_height() for bar in middle.patches])
    shown = np.sort(heights[sorted(connected)])
    np.testing.assert_allclose(shown, [*np.sort(margin[margin > 0])[:19], 4])


def test_attack_ladder_names_another_network_and_attack(random):
    survived = np.array([[True, True], [True, True], [True, False]])
    figure = figures.attack_ladder(
        survived, ["clean", "PGD", "more"], np.ones(2), random.random((2, 3, 4, 4)), network="wide", last="the rest"
    )
    top, middle, _ = figure.axes
    assert top.get_title(loc="left").startswith("wide: ")
    assert middle.get_title(loc="left").endswith("PGD left it standing, the rest breaks it")


def test_promised_and_left_show_the_gap():
    def network(method, name, promised, first, left):
        return {
            "method": method,
            "name": name,
            "promised": (promised, promised - 0.01, promised + 0.01),
            "first": (first, first - 0.01, first + 0.01),
            "left": (left, left - 0.03, left + 0.02),
        }

    networks = [network("mart", "MART, small", 0.5, 0.48, 0.4), network("anchor", "ANCHOR, small", 0.45, 0.45, 0.44)]
    figure = figures.promised_and_left(networks, promise="PGD-20")
    figure.canvas.draw()
    (axis,) = figure.axes
    assert rows(axis) == ["MART, small", "ANCHOR, small"]
    assert texts(axis)[:2] == ["-10.0 points", "-1.0 points"]
    assert set(texts(axis)[2:]) == {"PGD-20", "APGD-CE", "AutoAttack"}
    ticks = {label.get_text(): height for label, height in zip(axis.get_yticklabels(), axis.get_yticks(), strict=True)}
    for container, given in zip(axis.containers, networks, strict=True):
        assert container[0].get_xdata() == pytest.approx(given["left"][0])
        assert container[0].get_ydata() == pytest.approx(ticks[given["name"]])
        assert container[0].get_color() == plotting.method_color(given["method"])
        np.testing.assert_allclose(container[2][0].get_segments()[0][:, 0], given["left"][1:])
    bars = [list(line.get_xdata()) for line in axis.lines if line.get_linewidth() == 5]
    assert bars == [[0.4, 0.5], [0.44, 0.45]]
    ticked = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "|" and line.get_markersize() == 14]
    assert ticked == [0.48, 0.45]


def test_promise_and_truth_show_how_far_the_last_attack_goes_down():
    found = {
        "hidden": [(0.9, 0.85, 0.95), (0.8, 0.7, 0.9), (0.0, 0.0, 0.04)],
        "honest": [(0.95, 0.9, 1.0), (0.7, 0.6, 0.8), (0.69, 0.6, 0.8)],
    }
    figure = figures.promise_and_truth(found, ("noise", "PGD", "adapted"), images=50)
    figure.canvas.draw()
    (axis,) = figure.axes
    assert rows(axis) == ["hidden", "honest"]
    assert texts(axis) == ["-80 points", "-1 points", "noise", "PGD", "adapted"]
    assert axis.get_xlabel() == "accuracy on 50 images"
    shown = [container[0] for container in axis.containers]
    np.testing.assert_allclose(
        [line.get_xdata()[0] for line in shown], [value for values in found.values() for value, _, _ in values]
    )
    assert [line.get_ydata()[0] for line in shown] == [1, 1, 1, 0, 0, 0]
    assert [text.get_color() for text in axis.texts[2:]] == [line.get_color() for line in shown[:3]]
    places = [text.xy for text in axis.texts[2:]]
    assert places == [(0.95, 0), (0.8, 1), (0.0, 1)]  # where each mark stands alone
    span = axis.containers[2][2][0].get_segments()[0][:, 0]
    np.testing.assert_allclose(span, [0, 0.04])


def test_accuracy_by_class_is_in_the_order_of_anchors():
    clean, robust = np.array([0.9, 1.0, 0.95]), np.array([0.8, 0.5, 0.7])
    ends = np.stack([robust - 0.1, robust + 0.05], axis=1)
    others = {"pgd_at": np.array([0.7, 0.4, 0.6]), "mart": np.array([0.1, 0.2, 0.3])}
    figure = figures.accuracy_by_class(["a", "b", "c"], clean, robust, ends, others, attack="PGD-20")
    figure.canvas.draw()
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["b", "c", "a"]
    (container,) = axis.containers
    np.testing.assert_array_equal(container[0].get_ydata(), [0.5, 0.7, 0.8])
    np.testing.assert_allclose(
        [segment[:, 1] for segment in container[2][0].get_segments()], [[0.4, 0.55], [0.6, 0.75], [0.7, 0.85]]
    )
    for method, values in others.items():
        (line,) = [line for line in axis.lines if line.get_color() == plotting.method_color(method)]
        np.testing.assert_array_equal(line.get_ydata(), values[[1, 2, 0]])
    (mean,) = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert mean.get_ydata()[0] == pytest.approx(robust.mean())
    assert {"clean", "ANCHOR", "PGD-AT", "MART"} <= set(texts(axis))


@pytest.mark.parametrize(("winner", "title"), [(1, "FGSM: classified as b"), (2, "FGSM: classified as c, not b")])
def test_one_attack_colours_the_true_class_and_the_one_that_wins(random, winner, title):
    image, change = random.random((1, 6, 6)), random.random((1, 6, 6)) - 0.5
    probabilities = np.full(3, 0.2)
    probabilities[winner] = 0.6
    figure = figures.one_attack(image, change, probabilities, ["a", "b", "c"], true=1, title="FGSM")
    figure.canvas.draw()
    left, middle, right = figure.axes
    np.testing.assert_array_equal(left.images[0].get_array(), image[0])
    np.testing.assert_array_equal(middle.images[0].get_array(), change[0])
    assert [bar.get_width() for bar in right.patches] == list(probabilities)
    colors = [to_hex(bar.get_facecolor()) for bar in right.patches]
    assert colors[1] == figures.BLUE.lower()
    assert (colors[2] == figures.ORANGE.lower()) == (winner == 2)
    assert rows(right) == ["a", "b", "c"]
    assert figure.get_suptitle() == title


def test_cliff_shows_two_methods_in_colour_and_the_others_in_grey():
    methods = ["standard", "pgd_at", "anchor"]
    epsilons, levels = [0, 0.1, 0.2, 0.4], np.linspace(0, 1, 11)
    accuracy = {method: np.array([1, 0.5, 0.1, 0]) - k / 100 for k, method in enumerate(methods)}
    answers = {"standard": levels, "pgd_at": levels**2, "anchor": levels**3}
    moved = np.array([0.9, 0.85, 0.8, 0.0])
    figure = figures.cliff(epsilons, accuracy, moved, levels, answers, epsilon=0.1, images=40)
    figure.canvas.draw()
    left, right = figure.axes
    for axis, lines in ((left, accuracy), (right, answers)):
        for method in methods:
            color = "0.7" if method == "pgd_at" else plotting.method_color(method)
            (line,) = [line for line in axis.lines if line.get_color() == color and line.get_linestyle() == "-"]
            np.testing.assert_array_equal(line.get_ydata(), lines[method])
        (marked,) = [line for line in axis.lines if line.get_linestyle() == "--"]
        assert marked.get_xdata()[0] == 0.1
    (threshold,) = [line for line in left.lines if line.get_linestyle() == "-."]
    np.testing.assert_array_equal(threshold.get_ydata(), moved)
    named = {text.get_text(): text for text in left.texts}
    name = "ANCHOR behind a\nthreshold at 0.5"
    assert named[name].get_color() == threshold.get_color()
    place, height = named[name].xy
    assert height == pytest.approx(np.interp(place, epsilons, moved))  # the label stands on its line
    assert texts(right) == ["standard", "ANCHOR"]
    assert left.get_ylabel() == "accuracy, 40 images"


def test_cliff_names_lines_that_lie_together_in_the_corner():
    flat = np.ones(3)
    lines = {"standard": flat, "anchor": flat}
    figure = figures.cliff([0, 0.1, 0.2], lines, flat, np.linspace(0, 1, 3), lines, epsilon=0.1, images=4)
    figure.canvas.draw()
    left = figure.axes[0]
    names = ["standard", "ANCHOR", "ANCHOR behind a threshold at 0.5"]
    assert texts(left)[:3] == names
    boxes = [text.get_window_extent() for text in left.texts[:3]]
    assert not [1 for k in range(3) for other in boxes[:k] if boxes[k].overlaps(other)]


def test_strokes_on_a_walk_have_the_slope_of_autograd():
    t = np.linspace(0, 0.3, 121)
    walks = {"honest": (t, t**2, 2 * t), "hidden": (t, t**2, 0 * t)}
    figure = figures.losses_on_a_walk(walks, 0.3)
    figure.canvas.draw()
    for axis, (name, (_, losses, slopes)) in zip(figure.axes, walks.items(), strict=True):
        assert axis.get_title(loc="left") == name
        curve, *strokes = axis.lines
        np.testing.assert_array_equal(curve.get_ydata(), losses)
        assert len(strokes) == 7
        for stroke in strokes:
            x, y = stroke.get_xdata(), stroke.get_ydata()
            assert np.diff(y) / np.diff(x) == pytest.approx(np.interp(x.mean(), t, slopes))
            assert y.mean() == pytest.approx(np.interp(x.mean(), t, losses))


def test_check_matrix_shows_the_numbers_of_the_evidence():
    numbers = [3, 3, 2, 2, 2, 2, 2, 2]
    evidence = {
        check: " then ".join(f"{k}.4%" for k in range(count))
        for check, count in zip(figures.CHECKS, numbers, strict=True)
    }
    good = {check: (True, text) for check, text in evidence.items()}
    bad = good | {"the loss rises along its gradient": (False, "12.0% of images, wanted 90.0%")}
    figure = figures.check_matrix({"good, 40 images": good, "bad, 20 images": bad}, 20)
    (axis,) = figure.axes
    figure.canvas.draw()
    assert [label.get_text() for label in axis.get_xticklabels()] == ["good, 40 images", "bad, 20 images"]
    assert rows(axis)[0] == "1 → 20 → 100 steps: must not rise"
    assert texts(axis)[0] == "pass   0 → 1 → 2%"
    failed = [text for text in axis.texts if text.get_text().startswith("FAIL")]
    assert [text.get_text() for text in failed] == ["FAIL   12%, wanted 90%"]
    orange = [box for box in axis.patches if to_hex(box.get_facecolor()) == figures.ORANGE.lower()]
    assert [(box.get_x(), box.get_y()) for box in orange] == [pytest.approx((1.02, 6.04))]
    assert failed[0].get_position() == (1.5, 6.5)


def test_stored_seeds_are_dots_with_their_mean_and_this_run_is_a_diamond():
    stored = {"pgd_at": np.array([0.5, 0.7]), "anchor": np.array([0.6, 0.6, 0.9])}
    figure = figures.stored_seeds(stored, {"anchor": 0.8}, "PGD-20")
    (axis,) = figure.axes
    figure.canvas.draw()
    assert rows(axis) == ["PGD-AT", "ANCHOR"]
    dots = [collection.get_offsets().data for collection in axis.collections]
    np.testing.assert_allclose(dots[0], [[50, 0], [70, 0]])
    np.testing.assert_allclose(dots[1], [[60, 1], [60, 1], [90, 1]])
    np.testing.assert_allclose(dots[2], [[80, 1]])
    np.testing.assert_allclose([line.get_xdata()[0] for line in axis.lines], [60, 70])
    assert axis.get_xlabel() == "accuracy under PGD-20, %"
