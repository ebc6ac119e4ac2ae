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
    lead, images = np.array([3.0, 1.0, -1.0, -2.0]), random.random((4, 1, 5, 5))
    figure = figures.attack_ladder(survived, ["FGSM", "PGD-20", "AutoAttack"], lead, images)
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
    lead = np.linspace(-1, 4, 50)
    survived = np.tile(lead > 0, (2, 1))
    survived = np.stack([survived[0], survived[0], survived[0]])
    survived[2, 49] = False  # the largest lead, and yet broken
    figure = figures.attack_ladder(survived, ["FGSM", "PGD", "AutoAttack"], lead, random.random((50, 3, 4, 4)))
    _, middle, bottom = figure.axes
    assert len(bottom.images) == 20
    assert len(bottom.patches) == 1
    connected = {int(line.get_xdata()[0]) for line in bottom.lines}
    heights = np.array([bar.get_height() for bar in middle.patches])
    shown = np.sort(heights[sorted(connected)])
    np.testing.assert_allclose(shown, [*np.sort(lead[lead > 0])[:19], 4])


def test_attack_ladder_names_another_network_and_attack(random):
    survived = np.array([[True, True], [True, True], [True, False]])
    figure = figures.attack_ladder(
        survived, ["clean", "PGD", "more"], np.ones(2), random.random((2, 3, 4, 4)), network="wide", last="the rest"
    )
    top, middle, _ = figure.axes
    assert top.get_title(loc="left").startswith("wide: ")
    assert middle.get_title(loc="left").endswith("PGD left it standing, the rest breaks it")


def test_stages_show_intervals_and_what_pgd_promised():
    def row(accuracy, images):
        return {"accuracy": accuracy, "low": accuracy - 0.02, "high": accuracy + 0.03, "images": images}

    sizes = {"clean": 10000, "PGD": 10000, "APGD": 1000, "Square": 1000}
    shares = {"pgd_at": (0.8, 0.5, 0.48, 0.4), "anchor": (0.7, 0.45, 0.44, 0.44)}
    found = {
        method: {attack: row(share, sizes[attack]) for attack, share in zip(sizes, values, strict=True)}
        for method, values in shares.items()
    }
    figure = figures.stages(found, promise="PGD")
    figure.canvas.draw()
    (axis,) = figure.axes
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels == ["clean\n10,000 images", "PGD\n10,000 images", "APGD\n1,000 images", "Square\n1,000 images"]
    assert texts(axis) == ["PGD-AT: -10.0 points from PGD to the end", "ANCHOR: -1.0 points from PGD to the end"]
    for container, (method, values) in zip(axis.containers, shares.items(), strict=True):
        np.testing.assert_allclose(container[0].get_ydata(), values)
        assert container[0].get_color() == plotting.method_color(method)
        spans = [segment[:, 1] for segment in container[2][0].get_segments()]
        np.testing.assert_allclose(spans, [(v - 0.02, v + 0.03) for v in values])
    dashed = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [[0.5, 0.5], [0.45, 0.45]]


def test_accuracy_by_epsilon_has_a_panel_a_method():
    methods = ["standard", "pgd_at", "trades", "mart", "supcon_at", "anchor"]
    epsilons = [0, 0.1, 0.2]
    accuracy = {method: np.array([1, 0.5, 0.1]) - k / 100 for k, method in enumerate(methods)}
    ends = {method: np.stack([values - 0.1, values + 0.1]) for method, values in accuracy.items()}
    figure = figures.accuracy_by_epsilon(epsilons, accuracy, ends, epsilon=0.1, ylabel="accuracy under PGD")
    figure.canvas.draw()
    assert [axis.get_title(loc="left") for axis in figure.axes] == [plotting.method_name(m) for m in methods]
    for axis, method in zip(figure.axes, methods, strict=True):
        coloured = [line for line in axis.lines if line.get_color() == plotting.method_color(method)]
        assert len(axis.lines) == 8  # all in grey, one in colour, the dashed one
        np.testing.assert_array_equal(coloured[-1].get_ydata(), accuracy[method])
        assert axis.lines[-1].get_xdata()[0] == 0.1
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0)
    assert texts(figure.axes[0]) == ["epsilon of\nthe table"]
    assert figure.get_supylabel() == "accuracy under PGD"


def test_accuracy_by_steps():
    heights = {"final": [0.9, 0.6, 0.5], "any": [0.9, 0.55, 0.4], "scaled": [0.7, 0.6]}
    figure = figures.accuracy_by_steps([1, 5, 20], heights, 100)
    (axis,) = figure.axes
    figure.canvas.draw()
    assert [list(line.get_ydata()) for line in axis.lines] == list(heights.values())
    assert [list(line.get_xdata()) for line in axis.lines] == [[1, 5, 20], [1, 5, 20], [1, 5]]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "5", "20"]
    assert axis.get_ylabel() == "accuracy, ANCHOR, 100 images"


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
