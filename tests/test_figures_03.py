"""The figures of lesson 03: each is drawn on small arrays, and what stands in it is read back."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from drawings import hexes, quivers, texts

from course.figures import lesson_03 as figures

pytestmark = pytest.mark.usefixtures("course_style")


def test_circle_puts_points_at_their_angles_and_moves_along_it():
    axis = plt.subplots()[1]
    angles = np.array([0, np.pi / 2])
    figures.circle(axis, angles, np.array([0, 1]), title="circle", moves=np.array([0.5, -0.5]), size=64)
    np.testing.assert_allclose(axis.collections[0].get_offsets(), [[1, 0], [0, 1]], atol=1e-12)
    assert axis.collections[0].get_sizes().tolist() == [64]
    (arrows,) = quivers(axis)
    # Counter-clockwise at (1, 0) is up; clockwise at (0, 1) is to the right.
    np.testing.assert_allclose([arrows.U, arrows.V], [[0, 0.5], [0.5, 0]], atol=1e-12)
    axis.figure.canvas.draw()


def test_a_histogram_shows_shares():
    axis = plt.subplots()[1]
    figures.share_histogram(axis, np.array([-0.9, -0.8, 0.9, 1.0]), 2, figures.BLUE)
    assert [bar.get_height() for bar in axis.patches] == [0.5, 0.5]
    assert [bar.get_x() for bar in axis.patches] == [-1, 0]
    figures.in_percent(axis)
    axis.figure.canvas.draw()
    assert axis.get_yticklabels()[0].get_text() == "0%"


def test_matrices_frame_classes_of_any_size_and_one_anchor(random):
    labels = np.array([0, 0, 1, 1, 1])
    cosines, guess, target = random.random((3, 5, 5))
    figure = figures.batch_matrices(cosines, guess, target, labels, anchor=3)
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in panels] == ["cosine $c_{ij}$", "guess $q_{ij}$", "target"]
    for axis, matrix in zip(panels, (cosines, guess, target), strict=True):
        shown = axis.images[0].get_array()
        np.testing.assert_array_equal(shown.mask, np.eye(5, dtype=bool))
        np.testing.assert_array_equal(shown.compressed(), matrix[~np.eye(5, dtype=bool)])
        *classes, row = axis.patches
        assert [(frame.get_x(), frame.get_width(), frame.get_height()) for frame in classes] == [
            (-0.5, 2, 2),
            (1.5, 3, 3),
        ]
        assert (row.get_y(), row.get_width(), row.get_height()) == (2.5, 5, 1)
        assert hexes([classes[0].get_edgecolor(), row.get_edgecolor()]) == [figures.BLUE, figures.ORANGE]
        assert axis.get_xticks().tolist() == [0.5, 3.0]
        assert [label.get_text() for label in axis.get_xticklabels()] == ["class 0", "class 1"]
        assert len(axis.lines) == 5  # the crossed diagonal
    assert [axis.images[0].get_clim() for axis in panels] == [(-1, 1), (0, 0.5), (0, 0.5)]


def test_forces_lead_from_the_guess_to_the_target():
    offsets = np.deg2rad([50.0, -20, 120])
    points = np.stack([np.sin(offsets), np.cos(offsets)], 1)
    target, guess = np.array([0.5, 0, 0.5]), np.array([0.2, 0.7, 0.1])
    figure = figures.anchor_forces(np.array([0.0, 1.0]), points, target, {1.0: guess, 0.1: target})
    assert [axis.get_title() for axis in figure.axes[:2]] == ["$\\tau$ = 1", "$\\tau$ = 0.1"]
    above, still, below, _ = figure.axes
    (arrows,) = quivers(above)
    np.testing.assert_allclose(arrows.XY, points)
    np.testing.assert_allclose([arrows.U, arrows.V], [np.zeros(3), 1.6 * (target - guess)])
    assert hexes(arrows.get_facecolor()) == [figures.BLUE, figures.ORANGE, figures.BLUE]
    np.testing.assert_allclose(quivers(still)[0].V, 0)  # where the guess is the target no force is left
    assert [label.get_text() for label in below.get_xticklabels()] == ["B", "A", "C"]  # from the nearest
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in below.patches}
    assert heights == {0: 0.7, 1: 0.2, 2: 0.1}
    tips = quivers(below)[0]
    np.testing.assert_allclose(tips.XY[:, 1] + tips.V, target)


@pytest.fixture
def paths(random):
    """Two temperatures, five steps, six points."""
    return {tau: (random.random((5, 6)), random.random(5)) for tau in (0.1, 0.5, 2.0)}


def test_frames_show_the_points_and_the_losses_up_to_a_step(paths):
    labels = np.arange(6) // 2
    frames = [*figures.descent_frames(paths, labels, [0, 3])]
    assert [frame.get_suptitle() for frame in frames] == ["step 0", "step 3"]
    below, *circles = frames[1].axes
    assert [axis.get_title() for axis in circles] == ["$\\tau$ = 0.1", "$\\tau$ = 0.5", "$\\tau$ = 2"]
    for axis, (angles, _) in zip(circles, paths.values(), strict=True):
        np.testing.assert_allclose(
            axis.collections[0].get_offsets(), np.stack([np.cos(angles[3]), np.sin(angles[3])], 1)
        )
    for line, dot, (_, values) in zip(below.lines[::2], below.lines[1::2], paths.values(), strict=True):
        assert line.get_ydata().tolist() == values[:4].tolist()
        assert (dot.get_xdata(), dot.get_ydata()) == ([3], [values[3]])
    assert [line.get_color() for line in below.lines[::2]] == [axis.title.get_color() for axis in circles]
    frames[1].canvas.draw()


def test_filmstrip_has_a_row_a_temperature_and_writes_the_gaps(paths):
    gaps = {tau: (np.array([0.0, np.pi]), np.array([180.0, 180.0])) for tau in paths}
    gaps[2.0] = np.array([0.0, np.pi / 2]), np.array([90.0, 270.0])
    figure = figures.descent_filmstrip(paths, np.arange(6) // 2, [0, 4], gaps)
    axes = np.reshape(figure.axes, (3, 2))
    assert [axis.get_title() for axis in axes.flat] == ["step 0", "step 4", "", "", "", ""]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["$\\tau$ = 0.1", "$\\tau$ = 0.5", "$\\tau$ = 2"]
    angles = paths[0.5][0][4]
    np.testing.assert_allclose(axes[1, 1].collections[0].get_offsets(), np.stack([np.cos(angles), np.sin(angles)], 1))
    assert [texts(axis) for axis in axes[:, 1]] == [["180°", "180°"], ["180°", "180°"], ["90°", "270°"]]
    # Half of 90 degrees on from the group at 0.
    np.testing.assert_allclose(axes[2, 1].texts[0].get_position(), 0.62 * np.sqrt([0.5, 0.5]))
    assert texts(axes[0, 0]) == []


def test_training_curves_show_the_loss_above_its_floor():
    epochs, loss = np.array([1, 2, 3]), np.array([5.0, 4.0, 3.5])
    accuracies = {"clean": np.array([0.2, 0.6, 0.9]), "PGD-2": np.array([0.0, 0.1, 0.0])}
    figure = figures.training_curves(epochs, loss, 3.0, accuracies)
    left, right = figure.axes
    assert left.lines[0].get_ydata().tolist() == loss.tolist()
    assert left.lines[1].get_ydata() == [3.0, 3.0]
    assert left.get_ylim() == (0, pytest.approx(5.4))
    assert left.texts[1].xy == (1, 3.0)
    assert [line.get_ydata().tolist() for line in right.lines] == [values.tolist() for values in accuracies.values()]
    assert sorted(texts(right)) == ["PGD-2", "clean"]
    figure.canvas.draw()


def test_pair_cosines_bracket_the_medians():
    within, between = np.array([0.8, 0.9, 1.0]), np.array([-0.4, -0.3, -0.1])
    figure = figures.pair_cosines(
        {"a": (within, between), "b": (within, within)}, {"a": (0.9, -0.3), "b": (0.9, 0.9)}, -0.5
    )
    first, last = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["a", "b"]
    assert "medians 1.20 apart" in texts(first)
    assert "medians 0.00 apart" in texts(last)
    bracket = first.texts[0]
    assert (bracket.xy[0], bracket.xyann[0]) == (0.9, -0.3)
    for color in (figures.BLUE, figures.ORANGE):
        heights = [bar.get_height() for bar in first.patches if hexes([bar.get_facecolor()]) == [color]]
        assert sum(heights) == pytest.approx(1)
    assert not first.lines
    assert last.lines[0].get_xdata() == [-0.5, -0.5]
    figure.canvas.draw()


def test_images_nearer_to_a_wrong_centre_are_orange_and_counted():
    to_own = {"clean": np.array([0.9, 0.8, 0.7, 0.6]), "PGD": np.array([0.1, 0.2, 0.3, 0.9])}
    to_other = {"clean": np.array([0.1, 0.2, 0.3, 0.4]), "PGD": np.array([0.8, 0.7, 0.6, 0.2])}
    figure = figures.distances_to_centres(to_own, to_other)
    clean, attacked = figure.axes
    assert clean.get_title().startswith("clean: 100.0%")
    assert attacked.get_title().startswith("PGD: 25.0%")
    right, wrong = attacked.collections
    assert hexes([right.get_facecolor()[0], wrong.get_facecolor()[0]]) == [figures.BLUE, figures.ORANGE]
    np.testing.assert_allclose(right.get_offsets(), [[0.9, 0.2]])
    np.testing.assert_allclose(wrong.get_offsets(), [[0.1, 0.8], [0.2, 0.7], [0.3, 0.6]])
    assert clean.get_xlim() == attacked.get_ylim() == pytest.approx((0.07, 1.02))
