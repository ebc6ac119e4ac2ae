"""Figures of lesson 01: each is drawn on small arrays, and what stands in it is read back."""

import matplotlib as mpl
import numpy as np
import pytest
from drawings import texts
from matplotlib.colors import to_hex

from anchor_utils import plotting
from course.figures import lesson_01 as figures

pytestmark = pytest.mark.usefixtures("closed_figures")


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


EPSILONS = [0.1, 0.2, 0.3]
LOSSES = {
    "best in the box": np.array([0.5, 0.9, 1.4]),
    "PGD": np.array([0.5, 0.8, 1.2]),
    "FGSM": np.array([0.5, 0.4, 0.1]),
}


def box_frame(at):
    x, path = np.array([0.5, 0.5]), np.array([[0.5, 0.5], [0.55, 0.55], [0.6, 0.55]])
    loss, lead = on_plane(lambda u, v: u + v), on_plane(lambda u, v: u - 0.55, 9)
    return figures.growing_box(loss, lead, x, EPSILONS, at, x + EPSILONS[at], path, LOSSES, 0.7)


@pytest.mark.parametrize("at", [0, 2])
def test_a_frame_shows_its_box_and_marks_its_losses_on_the_same_curves(at):
    figure = box_frame(at)
    plane, curves = figure.axes
    assert plane.patches[0].get_bbox().extents == pytest.approx([0.5 - EPSILONS[at]] * 2 + [0.5 + EPSILONS[at]] * 2)
    assert plane.collections[-1].get_paths()[0].vertices[:, 0] == pytest.approx(0.55)  # the boundary, where lead is 0
    _, square, path = plane.lines
    assert square.get_xydata()[0] == pytest.approx([0.5 + EPSILONS[at]] * 2)
    assert (path.get_color(), path.get_xydata().tolist()[-1]) == (figures.PGD, [0.6, 0.55])
    *reached, boundary = curves.lines
    assert [*boundary.get_ydata()] == [0.7, 0.7]
    for line, point, expected in zip(reached[::2], reached[1::2], LOSSES.values(), strict=True):
        assert line.get_ydata().tolist() == expected.tolist()
        assert point.get_xydata()[0] == pytest.approx([EPSILONS[at], expected[at]])
    assert sorted(texts(curves)) == sorted([*LOSSES, "decision boundary"])
    figure.canvas.draw()


def test_frames_of_a_slider_have_one_scale():
    assert len({tuple(axis.get_ylim()) for axis in (box_frame(k).axes[1] for k in range(3))}) == 1


def falling():
    noise, pgd = np.array([1.0, 0.9, 0.8]), np.array([1.0, 0.5, 0.1])
    return {"random signs": noise, "PGD": pgd}, {"PGD": np.stack([pgd - 0.1, pgd + 0.1])}


def test_accuracy_falls_in_a_band_and_the_named_epsilons_are_marked():
    accuracies, intervals = falling()
    with mpl.rc_context():
        plotting.use_style()
        figure = figures.falling_accuracy([0, 0.1, 0.2], accuracies, intervals, 150, marks=(0.1, 0.2))
    (axis,) = figure.axes
    assert axis.get_ylabel() == "accuracy on 150 test images"
    noise, pgd, *marks = axis.lines
    assert to_hex(noise.get_color()) == figures.NOISE.lower()
    assert pgd.get_ydata().tolist() == [1.0, 0.5, 0.1]
    assert [line.get_xdata()[0] for line in marks] == [0.1, 0.2]
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.0, 1.1))
    figure.canvas.draw()


def test_the_last_iterate_is_drawn_only_where_it_differs_from_any():
    survives = {0.05: [1, 0.9, 0.8], 0.25: [1, 0.6, 0.4], 1: [1, 0.5, 0.3]}
    last = survives | {1: [1, 0.5, 0.6]}
    figure = figures.effort(survives, last, {3: [0.5, 0.4], 10: [0.3, 0.3]}, 100)
    steps, restarts = figure.axes
    assert texts(steps) == ["α = ε", "α = ε / 4", "α = ε, last iterate", "α = ε / 20"]
    assert [line.get_ydata().tolist() for line in steps.lines] == [*survives.values(), last[1]]
    assert steps.lines[0].get_xdata().tolist() == [0, 1, 2]
    assert texts(restarts) == ["10 steps", "3 steps"]
    assert [line.get_xdata().tolist() for line in restarts.lines] == [[1, 2], [1, 2]]
    assert steps.get_ylabel() == "accuracy on 100 test images"
    figure.canvas.draw()


def worst_case(random, clean, worst):
    accuracies, intervals = falling()
    exact = np.array([0.9, 0.4, 0.0])
    epsilons = [0, 0.01, 0.02]
    return figures.known_worst_case(random, clean, worst, 0.03, epsilons, accuracies, intervals, exact, 150)


def test_the_margins_of_one_image_stand_beside_what_no_attack_can_enter():
    figure = worst_case(np.linspace(2, 3, 30), 2.5, -1.0)
    one, every = figure.axes
    assert [line.get_xdata()[0] for line in one.lines] == [2.5, -1.0]
    *bars, grey = one.patches
    assert sum(bar.get_height() for bar in bars) == 30
    assert grey.get_bbox().x1 == 0
    low, high = one.get_xlim()
    assert low < -1
    assert high > 3
    assert texts(one) == ["clean", "worst signs (eq. 4)", "30 × random signs"]
    area = every.collections[0].get_paths()[0].vertices
    for epsilon, share in ((0, 0.9), (0.01, 0.4), (0.02, 0.0)):
        assert area[area[:, 0] == epsilon, 1].max() == share
    assert every.lines[1].get_ydata().tolist() == [1.0, 0.5, 0.1]
    figure.canvas.draw()


def test_an_image_that_survives_its_worst_case_still_shows_where_zero_is():
    low, _ = worst_case(np.linspace(2, 3, 30), 2.5, 1.5).axes[0].get_xlim()
    assert low < 0


@pytest.mark.parametrize("after", [[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]])
def test_a_wrong_name_is_orange_and_the_true_class_blue(after):
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


def test_the_dashes_go_on_as_the_first_step_began():
    distances = np.array([0.0, 0.1, 0.2])
    falling = np.array([[4.0, 5, 6], [2, 3, 4], [1, 2, 3]])  # medians 5, 3, 2
    figure = figures.along_lines(distances, {"random": falling[:1].repeat(3, 0), "gradient": falling}, mark=0.1)
    (axis,) = figure.axes
    flat, flat_dashes, line, dashes, mark = axis.lines
    assert [*flat.get_ydata()] == [*flat_dashes.get_ydata()] == [5, 5, 5]
    assert [*line.get_ydata()] == [5, 3, 2]
    assert dashes.get_ydata() == pytest.approx(np.array([5, 3, 1]))
    assert line.get_color() == dashes.get_color() == figures.FGSM
    assert mark.get_xdata()[0] == 0.1
    assert axis.patches[0].get_bbox().y1 == 0  # the grey part, of errors
    assert texts(axis) == ["gradient", "random"]
    figure.canvas.draw()


def test_the_push_and_what_it_taught_are_both_drawn():
    before = np.full((2, 1, 3, 3), 0.5)
    pushed = before + np.array([0.1, -0.2]).reshape(2, 1, 1, 1)
    scores = {"with the push": (0.3, 0.25, 0.36), "without": (0.08, 0.05, 0.12)}
    figure = figures.taught_by_pushes(before, pushed, ["3", "4"], ["“8”", "“9”"], scores, 0.1, images=90)
    *pictures, bars = figure.axes
    assert [axis.get_title() for axis in pictures] == ["3", "4", "", "", "“8”", "“9”"]
    shown = [np.asarray(axis.images[0].get_array()) for axis in pictures]
    np.testing.assert_allclose(shown, [*before[:, 0], *(pushed - before)[:, 0], *pushed[:, 0]])
    assert pictures[2].images[0].get_clim() == pytest.approx((-0.1, 0.1))  # red is brighter, blue is darker
    assert [bar.get_width() for bar in bars.patches] == [0.3, 0.08]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["with the push", "without"]
    spans = [container[2][0].get_segments()[0][:, 0] for container in bars.containers if len(container) == 3]
    np.testing.assert_allclose(spans, [[0.25, 0.36], [0.05, 0.12]])
    assert texts(bars) == ["30%", "8%", "chance"]
    assert bars.get_xlabel() == "right on 90 clean test images"
    figure.canvas.draw()
