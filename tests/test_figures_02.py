"""Figures of lesson 02: each is drawn on small arrays, and what stands in it is read back."""

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from drawings import drawn, hexes, rows, texts
from matplotlib.colors import to_hex
from matplotlib.text import Text

from anchor_utils import plotting
from course.figures import lesson_02 as figures

pytestmark = pytest.mark.usefixtures("closed_figures")

POINTS = np.array([[0.2, 0.5], [0.8, 0.5], [0.45, 0.2]])
LABELS = np.array([0, 1, 0])


def decision(whole, boundary=0.5):
    ticks = np.linspace(0, 1, 11)
    return ticks, np.tile(ticks - boundary, (11, 1)), np.array(whole)


def colours_of_boxes(axis):
    return [to_hex(patch.get_edgecolor()).upper() for patch in axis.patches]


def test_boxes_that_are_not_whole_are_red_and_thick():
    axis = plt.subplots()[1]
    figures.draw_plane(axis, decision([True, True, False], 0.4), POINTS, LABELS, 0.1, "title")
    assert colours_of_boxes(axis) == [*figures.CLASSES, figures.BROKEN]
    assert [patch.get_linewidth() for patch in axis.patches] == [0.7, 0.7, 2]
    for patch, point in zip(axis.patches, POINTS, strict=True):
        assert patch.get_bbox().extents == pytest.approx([*(point - 0.1), *(point + 0.1)])
    regions, boundary, dots = axis.collections
    assert [to_hex(color).upper() for color in regions.get_facecolor()] == list(figures.REGIONS)
    assert boundary.get_paths()[0].vertices[:, 0] == pytest.approx(0.4)
    np.testing.assert_allclose(dots.get_offsets(), POINTS)
    axis.figure.canvas.draw()


def test_the_first_row_of_the_grid_is_the_lowest():
    ticks, lead, whole = decision([True] * 3, 0.3)
    axis = plt.subplots()[1]
    figures.draw_plane(axis, (ticks, lead.T, whole), POINTS, LABELS, 0.1)
    assert axis.collections[1].get_paths()[0].vertices[:, 1] == pytest.approx(0.3)


@pytest.fixture
def history():
    return {
        "standard": {0: decision([False, False, True]), 20: decision([True, False, True])},
        "pgd_at": {0: decision([False, False, False]), 20: decision([True, True, True])},
    }


def test_each_moment_is_a_frame_with_a_panel_a_method(history):
    frames = [*figures.training_frames(history, POINTS, LABELS, 0.1)]
    assert [frame.get_suptitle() for frame in frames] == ["after 0 steps", "after 20 steps"]
    assert [[axis.get_title() for axis in frame.axes] for frame in frames] == [
        ["standard: 33% whole", "PGD-AT: 0% whole"],
        ["standard: 67% whole", "PGD-AT: 100% whole"],
    ]
    assert figures.BROKEN not in colours_of_boxes(frames[1].axes[1])


def test_each_epsilon_is_a_frame_with_boxes_of_its_size_and_a_mark_on_both_curves():
    decisions = {0.0: decision([True] * 3), 0.1: decision([True, False, True]), 0.2: decision([False] * 3)}
    right, share = np.array([1.0, 0.9, 0.7]), np.array([1.0, 0.6, 0.2])
    frames = [*figures.epsilon_frames(decisions, POINTS, LABELS, right, share, 0.15)]
    assert [frame.axes[0].get_title()[-3:] for frame in frames] == ["= 0", "0.1", "0.2"]
    assert [patch.get_width() for patch in frames[2].axes[0].patches] == pytest.approx([0.4] * 3)
    assert colours_of_boxes(frames[1].axes[0]).count(figures.BROKEN) == 1
    axis = frames[1].axes[1]
    drawn(axis)
    points, mark, boxes, box_mark, touching = axis.lines
    assert points.get_xydata() == pytest.approx(np.stack([[0, 0.1, 0.2], right], 1))
    assert boxes.get_xydata() == pytest.approx(np.stack([[0, 0.1, 0.2], share], 1))
    assert [line.get_xydata()[0].tolist() for line in (mark, box_mark)] == [[0.1, 0.9], [0.1, 0.6]]
    assert set(touching.get_xdata()) == {0.15}
    assert texts(axis) == ["points right", "boxes whole", " boxes overlap"]
    assert axis.texts[2].get_position()[0] == 0.15


def test_the_path_of_trades_goes_through_the_accuracies_in_the_order_of_beta():
    decisions = {beta: decision([True, beta > 1, True]) for beta in (0.0, 2.0, 10.0)}
    clean, robust = np.array([0.95, 0.94, 0.9, 0.8]), np.array([0.3, 0.5, 0.6, 0.55])
    figure = figures.trades_path(
        decisions, POINTS, LABELS, 0.1, betas=[0.0, 0.5, 2.0, 10.0], clean=clean, robust=robust, tested=1000
    )
    assert len(figure.axes) == 4
    assert [axis.get_title() for axis in figure.axes[:3]] == [f"$\\beta_{{TRADES}}$ = {beta}" for beta in (0, 2, 10)]
    assert [figures.BROKEN in colours_of_boxes(axis) for axis in figure.axes[:3]] == [True, False, False]
    path = figure.axes[3]
    assert path.lines[0].get_xydata() == pytest.approx(np.stack([clean, robust], 1))
    spots = dict(zip((0, 0.5, 2, 10), zip(clean, robust, strict=True), strict=True))
    named = {text.get_text(): text.xy for text in path.texts}
    assert named == {f"$\\beta_{{TRADES}}$ = {beta:g}": spot for beta, spot in spots.items()}
    assert "1000 new points" in path.get_xlabel()
    figure.canvas.draw()
    assert path.get_yticklabels()[0].get_text().endswith("%")


@pytest.mark.parametrize("spread", [0.1, 0.001, 0.0])
def test_the_names_on_the_path_of_trades_never_collide(spread):
    decisions = {beta: decision([True] * 3) for beta in (0.0, 2.0, 10.0)}
    clean, robust = 0.9 + spread * np.array([0.0, 1, 0, -1]), 0.6 + spread * np.array([-1, 0.1, 0.2, 0])
    figure = figures.trades_path(
        decisions, POINTS, LABELS, 0.1, betas=[0.0, 0.5, 2.0, 10.0], clean=clean, robust=robust, tested=1000
    )
    figure.canvas.draw()
    words = [Text.get_window_extent(text) for text in figure.axes[3].texts]
    assert len(words) == 4
    assert not [(a, b) for a, b in combinations(words, 2) if a.overlaps(b)]
    assert min(box.x0 for box in words) > figure.axes[3].bbox.x1  # beside the path, not on it


def test_the_price_of_robustness_is_the_line_between_two_points():
    falling = {"standard": np.array([0.98, 0.3, 0.0]), "mart": np.array([0.9, 0.8, 0.6])}
    estimates = {
        "standard": {"pgd": (0.1, 0.05, 0.2), "clean": (0.98, 0.95, 0.99)},
        "mart": {"pgd": (0.6, 0.5, 0.7), "clean": (0.9, 0.85, 0.95)},
    }
    figure = figures.price_of_robustness(
        [0, 0.1, 0.3], falling, 0.2, estimates, attack="PGD-10", images=90, title="CIFAR-10"
    )
    drawn(figure)
    left, right = figure.axes
    assert left.get_title() == "PGD-10 on 90 test images"
    assert [line.get_xydata().tolist() for line in left.lines[:2]] == [
        [[0, 0.98], [0.1, 0.3], [0.3, 0.0]],
        [[0, 0.9], [0.1, 0.8], [0.3, 0.6]],
    ]
    assert set(left.lines[2].get_xdata()) == {0.2}
    assert texts(left) == ["standard", "MART"]
    assert right.get_title() == "CIFAR-10"
    assert rows(right) == ["MART", "standard"]  # the first on top
    assert texts(right) == ["attacked", "clean"]
    assert {text.xy[1] for text in right.texts} == {1}
    dots = [line for line in right.lines if line.get_marker() == "o"]
    assert [(dot.get_xdata()[0], dot.get_ydata()[0]) for dot in dots] == [(0.6, 0), (0.9, 0), (0.1, 1), (0.98, 1)]
    color = plotting.method_color("mart")
    assert [dot.get_markerfacecolor() for dot in dots[:2]] == [color, "white"]
    bands = [line for line in right.lines if line.get_linewidth() == 5]
    assert [list(band.get_xdata()) for band in bands] == [[0.5, 0.7], [0.85, 0.95], [0.05, 0.2], [0.95, 0.99]]
    assert list(right.lines[0].get_xdata()) == [0.6, 0.9]


def test_each_bar_of_shares_is_whole_and_the_first_stands_on_top():
    shares = {"images": [0.1, 0.3, 0.6], "weight": [0.25, 0.35, 0.4], "weighted KL": [0.02, 0.5, 0.48]}
    (axis,) = figures.mart_shares(shares, ["wrong", "attacked", "right"], 256).axes
    drawn(axis)
    assert rows(axis) == ["weighted KL", "weight", "images"]
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([0.02, 0.5, 0.48, 0.25, 0.35, 0.4, 0.1, 0.3, 0.6])
    assert [bar.get_x() for bar in axis.patches[6:]] == pytest.approx([0, 0.1, 0.4])
    assert texts(axis) == ["50%", "48%", "25%", "35%", "40%", "10%", "30%", "60%", "wrong", "attacked", "right"]
    assert hexes([text.get_color() for text in axis.texts[-3:]]) == hexes(
        [bar.get_facecolor() for bar in axis.patches[6:]]
    )
    assert "256 training images" in axis.get_xlabel()


def test_the_labels_of_a_collapse_do_not_touch():
    accuracy = {"clean": np.array([0.2, 0.95]), "fgsm": np.array([0.1, 0.7]), "pgd": np.array([0.1, 0.69])}
    (axis,) = figures.collapse([0, 20], accuracy).axes
    drawn(axis)
    assert texts(axis) == ["PGD", "FGSM", "clean"]  # from the lowest up
    assert [text.xy[1] for text in axis.texts] == pytest.approx([0.69, 0.77, 0.95])
    pgd, fgsm, clean = axis.lines
    assert pgd.get_xydata().tolist() == [[0, 0.1], [20, 0.69]]
    assert fgsm.get_ydata().tolist() == [0.1, 0.7]
    assert hexes([pgd.get_color()]) == [figures.BROKEN]
    assert clean.get_linestyle() == ":"


def test_a_loss_surface_has_the_image_and_what_two_attacks_found_at_its_corners():
    loss = np.outer(np.ones(5), np.linspace(0, 4, 5)) + np.linspace(0.5, 1, 5)[:, None]
    figure = figures.loss_surfaces({"one": loss, "two": 2 * loss})
    drawn(figure)
    one, two = figure.axes[:2]
    assert [axis.get_title() for axis in (one, two)] == ["one", "two"]
    assert [line.get_xydata().tolist() for line in one.lines] == [[[0, 0]], [[1, 0]], [[0, 1]]]
    assert [(text.get_text(), text.xy) for text in one.texts] == [("image", (0, 0)), ("FGSM", (1, 0)), ("PGD", (0, 1))]
    scales = [item.levels for axis in (one, two) for item in axis.collections if hasattr(item, "levels")]
    assert scales[0] == pytest.approx(scales[1])
    assert [scales[0][0], scales[0][-1]] == pytest.approx([0.98 * 0.5, 1.02 * 10])


@pytest.mark.parametrize(("warmup", "patches"), [(1.5, 1), (1.0, 0)])
def test_generalisation_is_solid_under_attack_and_dotted_clean(warmup, patches):
    attacked = {"training, PGD-7": np.array([0.3, 0.9]), "held-out, PGD-5": np.array([0.25, 0.5])}
    (axis,) = figures.generalisation([1, 2], attacked, np.array([0.8, 0.85]), warmup=warmup, images=256).axes
    training, held_out, clean = axis.lines
    assert [line.get_linestyle() for line in (training, held_out, clean)] == ["-", "-", ":"]
    assert clean.get_ydata().tolist() == [0.8, 0.85]
    assert clean.get_color() == "0.45"
    assert {text.get_text(): text.get_color() for text in axis.texts}["held-out, clean"] == "0.45"
    assert [patch.get_bbox().x1 for patch in axis.patches] == [warmup] * patches
    assert any("epsilon" in text for text in texts(axis)) == bool(patches)
    assert axis.get_title() == "PGD-AT on 256 images: solid under attack, dotted clean"
    drawn(axis)
