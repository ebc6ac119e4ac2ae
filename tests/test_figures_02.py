"""Figures of lesson 02: each is drawn on small arrays, and what stands in it is read back."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from drawings import texts
from matplotlib.colors import to_hex

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


def test_a_filmstrip_has_a_row_a_method_and_a_column_a_moment(history):
    figure = figures.filmstrip(history, [20, 0], POINTS, LABELS, 0.1)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["step 20: 67% whole", "step 0: 33% whole", "step 20: 100% whole", "step 0: 0% whole"]
    assert [axis.get_ylabel() for axis in figure.axes] == ["standard", "", "PGD-AT", ""]


def test_the_path_of_trades_goes_through_the_accuracies_in_the_order_of_beta():
    decisions = {beta: decision([True, beta > 1, True]) for beta in (0.0, 2.0, 10.0)}
    clean, robust = np.array([0.95, 0.94, 0.9, 0.8]), np.array([0.3, 0.5, 0.6, 0.55])
    figure = figures.trades_path(
        decisions, POINTS, LABELS, 0.1, betas=[0.0, 0.5, 2.0, 10.0], clean=clean, robust=robust, tested=1000
    )
    assert len(figure.axes) == 4
    assert [axis.get_title() for axis in figure.axes[:3]] == [f"$\\beta$ = {beta}" for beta in (0, 2, 10)]
    assert [figures.BROKEN in colours_of_boxes(axis) for axis in figure.axes[:3]] == [True, False, False]
    path = figure.axes[3]
    assert path.lines[0].get_xydata() == pytest.approx(np.stack([clean, robust], 1))
    assert texts(path) == [f"$\\beta$ = {beta:g}" for beta in (0, 0.5, 2, 10)]
    assert [text.xy for text in path.texts] == [*zip(clean, robust, strict=True)]
    assert [text.get_ha() for text in path.texts] == ["left", "left", "left", "right"]
    assert "1000 new points" in path.get_xlabel()
    figure.canvas.draw()
    assert path.get_yticklabels()[0].get_text().endswith("%")


def test_the_price_of_an_attack_is_the_line_between_two_points():
    estimates = {
        "standard": {"PGD-20": (0.1, 0.05, 0.2), "clean": (0.98, 0.95, 0.99)},
        "mart": {"PGD-20": (0.6, 0.5, 0.7), "clean": (0.9, 0.85, 0.95)},
    }
    (axis,) = figures.price_of_attack(estimates, 300).axes
    axis.figure.canvas.draw()
    assert [label.get_text() for label in axis.get_yticklabels()] == ["MART", "standard"]  # the first on top
    assert texts(axis) == ["PGD-20", "clean"]
    assert {text.xy[1] for text in axis.texts} == {1}
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [(dot.get_xdata()[0], dot.get_ydata()[0]) for dot in dots] == [(0.6, 0), (0.9, 0), (0.1, 1), (0.98, 1)]
    color = plotting.method_color("mart")
    assert [dot.get_markerfacecolor() for dot in dots[:2]] == [color, "white"]
    bands = [line for line in axis.lines if line.get_linewidth() == 4]
    assert [list(band.get_xdata()) for band in bands] == [[0.5, 0.7], [0.85, 0.95], [0.05, 0.2], [0.95, 0.99]]
    assert list(axis.lines[0].get_xdata()) == [0.6, 0.9]


@pytest.mark.parametrize(("warmup", "patches"), [(2.5, 1), (1.0, 0)])
def test_held_out_curves_mark_the_warmup_where_there_is_one(warmup, patches):
    lines = {"standard": np.array([0.5, 0.9, 0.95]), "pgd_at": np.array([0.2, 0.6, 0.8])}
    panels = {"clean": lines, "attacked": {name: line / 2 for name, line in lines.items()}}
    figure = figures.held_out_curves([1, 2, 3], panels, warmup=warmup, images=200)
    assert figure.get_suptitle() == "200 held-out training images"
    assert [axis.get_title() for axis in figure.axes] == ["clean", "attacked"]
    assert [len(axis.patches) for axis in figure.axes] == [0, patches]
    assert ("epsilon rises" in texts(figure.axes[1])) == bool(patches)
    assert list(figure.axes[1].lines[1].get_ydata()) == [0.1, 0.3, 0.4]
    if patches:
        assert figure.axes[1].patches[0].get_bbox().x1 == 2.5


def test_margins_left_of_zero_are_the_share_that_is_misread():
    margins = {
        "standard": (np.array([0.9, 0.8, 0.7, 0.95]), np.array([-0.92, -0.5, -0.95, 0.1])),
        "trades": (np.array([0.5, 0.8, 0.7, 0.95]), np.array([0.9, 0.5, 0.0, 0.1])),
    }
    figure = figures.margin_histograms(margins, {"standard": (0.3, 0.95), "trades": (0.05, 0.7)})
    assert [axis.get_title() for axis in figure.axes] == ["standard", "TRADES"]
    assert texts(figure.axes[0]) == ["misread\nunder attack:\n75%\n[30%, 95%]", "clean"]
    assert texts(figure.axes[1]) == ["misread\nunder attack:\n25%\n[5%, 70%]"]
    *bars, outline = figure.axes[0].patches
    assert sum(bar.get_height() for bar in bars) == pytest.approx(1)
    assert outline.get_xy()[:, 1].max() == pytest.approx(0.5)  # two attacked margins in the first bin
    assert to_hex(outline.get_edgecolor()) == plotting.method_color("standard")
    figure.canvas.draw()


def test_every_image_is_one_point_of_its_part():
    weight = np.array([0.9, 0.5, 0.0, 0.01])
    divergence = np.array([2.0, 1.0, 0.1, 0.2])
    parts = {
        "misread clean": np.array([True, False, False, False]),
        "under attack": np.array([False, True, False, False]),
        "right": np.array([False, False, True, True]),
    }
    shares = {"with": np.array([0.7, 0.95, 0.99, 1.0]), "without": np.array([0.5, 0.8, 0.9, 1.0])}
    figure = figures.mart_weights(weight, divergence, parts, shares)
    left, right = figure.axes
    assert texts(left) == ["misread clean: 1", "under attack: 1", "right: 2"]
    drawn = [scatter.get_offsets().tolist() for scatter in left.collections]
    assert drawn == [[[0.9, 2.0]], [[0.5, 1.0]], [[1e-4, 0.1], [0.01, 0.2]]]  # a weight of 0 has no logarithm
    assert left.texts[0].get_color() == figures.BROKEN
    assert left.get_title() == "4 training images"
    for line, share in zip(right.lines, shares.values(), strict=True):
        assert line.get_xydata() == pytest.approx(np.stack([[0.25, 0.5, 0.75, 1], share], 1))
    assert [text.get_position()[1] for text in right.texts] == pytest.approx([0.95 + 0.09, 0.8 - 0.14])
    figure.canvas.draw()


def test_overfitting_is_solid_under_attack_and_dotted_clean():
    attacked = {"training, PGD-7": np.array([0.3, 0.9]), "held-out, PGD-5": np.array([0.25, 0.5])}
    (axis,) = figures.overfitting([1, 2], attacked, np.array([0.8, 0.85]), best_epoch=2, warmup=1.5, images=256).axes
    training, held_out, clean, best = axis.lines
    assert [line.get_linestyle() for line in (training, held_out, clean)] == ["-", "-", ":"]
    assert clean.get_ydata().tolist() == [0.8, 0.85]
    assert clean.get_color() == "0.45"
    assert {text.get_text(): text.get_color() for text in axis.texts}["held-out, clean"] == "0.45"
    assert best.get_xdata()[0] == 2
    assert axis.patches[0].get_bbox().x1 == 1.5
    assert axis.get_title() == "PGD-AT on 256 images: solid under attack, dotted clean"
    axis.figure.canvas.draw()
