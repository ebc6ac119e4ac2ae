"""Figures of lesson 01: each is drawn on small arrays, and what stands in it is read back."""

import numpy as np
import pytest
from drawings import texts

from course.figures import lesson_01 as figures

pytestmark = pytest.mark.usefixtures("closed_figures")


def ends(axis):
    """The last point of each line."""
    return [tuple(line.get_xydata()[-1]) for line in axis.lines]


def on_plane(function, points=5):
    ticks = np.linspace(0.1, 0.9, points)
    return ticks, function(*np.meshgrid(ticks, ticks))


def test_the_dashed_line_touches_the_ball_at_the_best_point():
    x, gradient, corner, touch = (
        np.array([0.5, 0.5]),
        np.array([3.0, 4.0]),
        np.array([0.7, 0.7]),
        np.array([0.62, 0.66]),
    )
    figure = figures.norm_balls(on_plane(lambda u, v: 3 * u + 4 * v), x, gradient, 0.2, corner, touch)
    assert [type(axis.patches[0]).__name__ for axis in figure.axes] == ["Rectangle", "Circle"]
    assert figure.axes[0].patches[0].get_bbox().extents == pytest.approx([0.3, 0.3, 0.7, 0.7])
    assert figure.axes[1].patches[0].get_radius() == 0.2
    for axis, best in zip(figure.axes, (corner, touch), strict=True):
        _, dashes, square = axis.lines
        assert square.get_xydata()[0] == pytest.approx(best)
        start, end = dashes.get_xydata()
        assert (start + end) / 2 == pytest.approx(best)
        assert (end - start) @ gradient == pytest.approx(0)
    figure.canvas.draw()


def curved(**changes):
    path = np.array([[0.5, 0.5], [0.55, 0.55], [0.6, 0.55]])
    other = path - 0.1
    given = {
        "x": path[0],
        "epsilon": 0.1,
        "one_step": np.array([0.6, 0.6]),
        "paths": [path, other],
        "unprojected": np.array([[0.55, 0.55], [0.65, 0.55]]),  # the second step is put back
        "path_losses": [np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.3, 0.4])],
        "references": {"best in the box": 1.0, "decision boundary": 0.7, "FGSM": 0.6},
        "step_size": 0.05,
    }
    loss, lead = on_plane(lambda u, v: u + v), on_plane(lambda u, v: u - 0.55, 9)
    return figures.curved_loss(loss, lead, **given | changes)


def test_only_steps_that_were_put_back_are_crossed():
    figure = curved()
    one, many, losses = figure.axes
    assert many.get_title() == "2 steps of length α = 0.05"
    crosses = [line.get_xydata()[0] for line in many.lines if line.get_marker() == "x"]
    assert np.array(crosses) == pytest.approx(np.array([[0.65, 0.55]]))
    assert ends(one)[-1] == (0.6, 0.6)
    assert many.lines[-1].get_color() == figures.PGD
    assert many.lines[-1].get_xydata()[-1] == pytest.approx([0.6, 0.55])
    assert losses.lines[1].get_ydata().tolist() == [0.1, 0.5, 0.9]
    assert [line.get_ydata()[0] for line in losses.lines[2:]] == [1.0, 0.7, 0.6]
    assert texts(losses) == ["best in the box", "decision boundary", "FGSM"]
    figure.canvas.draw()
    inside = curved(unprojected=np.array([[0.55, 0.55], [0.6, 0.55]])).axes[1]
    assert not [line for line in inside.lines if line.get_marker() == "x"]


def test_the_boundary_is_where_the_lead_is_zero():
    boundary = curved().axes[0].collections[-1].get_paths()[0].vertices
    assert boundary[:, 0] == pytest.approx(0.55)


def test_a_line_stands_at_each_margin_and_the_grey_part_ends_at_zero():
    random = np.linspace(2, 3, 30)
    marks = {"clean": 4.0, "FGSM": -0.5, "PGD": -1.0}
    figure = figures.margin_histograms({"linear": (random, marks), "network": (random + 1, marks)})
    assert [axis.get_title() for axis in figure.axes] == ["linear", "network"]
    for axis in figure.axes:
        assert [line.get_xdata()[0] for line in axis.lines] == [4.0, -0.5, -1.0]
        assert [line.get_color() for line in axis.lines] == ["black", figures.FGSM, figures.PGD]
        *bars, grey = axis.patches
        assert sum(bar.get_height() for bar in bars) == 30
        assert grey.get_bbox().x1 == 0
        low, high = axis.get_xlim()
        assert low < -1
        assert high > 4
        assert texts(axis) == ["clean", "FGSM", "PGD", "30 × random signs"]
    figure.canvas.draw()


@pytest.mark.parametrize("after", [[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]])
def test_a_wrong_reading_is_orange_and_the_true_class_blue(after):
    chances = np.array([[0.9, 0.05, 0.05], after])
    image = np.full((1, 3, 3), 0.5)
    names = ["zero", "one", "two"]
    figure = figures.before_and_after(
        image, image + 0.1, ("zero (90%)", "new"), chances, 0, names, epsilon=0.1, title="network"
    )
    before, attacked, change, bars = figure.axes
    assert [axis.get_title() for axis in figure.axes] == [
        "before: zero (90%)",
        "after: new",
        "change, ε = 0.100",
        "network",
    ]
    assert (attacked.title.get_color() == figures.WRONG) == (after[0] < 0.5)
    assert before.title.get_color() != figures.WRONG
    np.testing.assert_allclose(change.images[0].get_array(), 0.1)
    assert [patch.get_height() for patch in bars.patches] == [*chances[0], *after]
    assert [tick.get_color() == figures.TRUE for tick in bars.get_xticklabels()] == [True, False, False]
    figure.canvas.draw()


def test_of_many_classes_the_ten_likeliest_are_drawn_in_their_order():
    chances = np.stack([np.arange(12) / 66, np.arange(12)[::-1] / 66])
    chances[:, [5, 6]] = 0  # the two least likely, before and after
    image = np.zeros((3, 2, 2))
    names = [str(k) for k in range(12)]
    axis = figures.before_and_after(image, image, ("", ""), chances, 3, names, epsilon=0, title="").axes[3]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == [name for name in names if name not in "56"]


def test_the_exact_share_lies_under_the_curves_of_the_linear_classifier_alone():
    epsilons = {"network": [0, 0.1, 0.2], "linear": [0, 0.01, 0.02]}
    noise, pgd = np.array([1.0, 0.9, 0.8]), np.array([1.0, 0.5, 0.1])
    accuracies = {name: {"noise": noise, "PGD": pgd} for name in epsilons}
    intervals = {name: {"PGD": np.stack([pgd - 0.1, pgd + 0.1])} for name in epsilons}
    exact = np.array([0.9, 0.4, 0.0])
    figure = figures.falling_accuracy(epsilons, accuracies, intervals, exact, 150)
    network, linear = figure.axes
    assert [axis.get_ylabel() for axis in figure.axes] == ["accuracy on 150 test images", ""]
    assert [len(axis.collections) for axis in figure.axes] == [1, 2]
    area = linear.collections[0].get_paths()[0].vertices
    for epsilon, share in zip(epsilons["linear"], exact, strict=True):
        assert area[area[:, 0] == epsilon, 1].max() == share
    assert linear.lines[1].get_ydata().tolist() == pgd.tolist()
    assert [line.get_xdata()[-1] for line in network.lines] == [0.2, 0.2]
    band = network.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.0, 1.1))
    figure.canvas.draw()


def test_planes_share_one_scale_and_only_those_with_errors_have_a_border():
    losses = np.arange(9.0).reshape(3, 3)
    crossing = np.array([[-1.0, -1, 1]] * 3)
    figure = figures.loss_planes(
        [(losses, crossing), (losses / 2, crossing - 5)], ["image 0", "image 1"], epsilon=0.2, extent=0.3
    )
    left, right, bar = figure.axes
    assert [axis.get_title() for axis in (left, right)] == ["image 0", "image 1"]
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0, 8)
    assert left.lines[0].get_xydata().tolist() == [[0.2, 0], [0, 0.2], [-0.2, 0], [0, -0.2], [0.2, 0]]
    assert left.collections[0].get_paths()[0].vertices[:, 0] == pytest.approx(0.15)
    assert not right.collections
    assert bar.get_ylabel() == "cross-entropy"
    figure.canvas.draw()
