"""The figures of lesson 03: each is drawn on small arrays, and what stands in it is read back."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from drawings import drawn, hexes, quivers, rows, texts

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


def test_frames_lead_from_the_guess_to_the_target():
    offsets = np.deg2rad([50.0, -20, 120])
    points = np.stack([np.sin(offsets), np.cos(offsets)], 1)
    target, guess = np.array([0.5, 0, 0.5]), np.array([0.2, 0.7, 0.1])
    frames = [*figures.temperature_frames(np.array([0.0, 1.0]), points, target, {1.0: guess, 0.1: target})]
    assert [texts(frame.axes[0])[-1] for frame in frames] == ["$\\tau$ = 1", "$\\tau$ = 0.1"]
    circle, bars = frames[0].axes
    (arrows,) = quivers(circle)
    np.testing.assert_allclose(arrows.XY, points)
    np.testing.assert_allclose([arrows.U, arrows.V], [np.zeros(3), target - guess])
    assert hexes(arrows.get_facecolor()) == [figures.BLUE, figures.ORANGE, figures.BLUE]
    np.testing.assert_allclose(quivers(frames[1].axes[0])[0].V, 0)  # where the guess is the target no force is left
    assert [label.get_text() for label in bars.get_xticklabels()] == ["B", "A", "C"]  # from the nearest
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in bars.patches}
    assert heights == {0: 0.7, 1: 0.2, 2: 0.1}
    tips = quivers(bars)[0]
    np.testing.assert_allclose(tips.XY[:, 1] + tips.V, target)
    assert frames[0].get_size_inches().tolist() == frames[1].get_size_inches().tolist()
    drawn(frames[0])


@pytest.fixture
def paths(random):
    """Three temperatures, five steps, six points."""
    return {tau: (random.random((5, 6)), random.random(5)) for tau in (0.1, 0.5, 2.0)}


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


def test_losses_lie_between_their_start_and_their_floor():
    first = {"right": np.array([5.0, 4.0, 3.5]), "wrong": np.array([5.1, 5.0, 5.0])}
    figure = figures.start_and_floor(first, (np.array([1, 2]), np.array([4.5, 3.2])), 5.0, 3.0)
    left, right = figure.axes
    assert [line.get_ydata().tolist() for line in left.lines[:2]] == [values.tolist() for values in first.values()]
    assert [line.get_xdata().tolist() for line in left.lines[:2]] == [[1, 2, 3]] * 2
    assert right.lines[0].get_ydata().tolist() == [4.5, 3.2]
    for axis in (left, right):
        assert [line.get_ydata() for line in axis.lines[-2:]] == [[5.0, 5.0], [3.0, 3.0]]
    assert left.get_ylim() == right.get_ylim() == (0, pytest.approx(1.15 * 5.1))
    assert sorted(texts(left)) == ["right", "wrong"]
    assert [text.xy[1] for text in right.texts[1:]] == [5.0, 3.0]
    assert texts(right)[1:] == ["$\\log(2N - 1)$ = 5.00 (eq. 6)", "floor 3.00 (eq. 7)"]
    drawn(figure)


def test_neighbours_of_another_class_are_framed_in_orange(random):
    images = random.random((4, 1, 3, 3))
    own = np.array([True, False, True])
    figure = figures.neighbours([("clean", images[0], images[1:], own), ("PGD", images[0], images[1:], ~own)])
    grid = np.reshape(figure.axes, (2, 5))
    assert [row[0].get_ylabel() for row in grid] == ["clean", "PGD"]
    for row, right in zip(grid, (own, ~own), strict=True):
        np.testing.assert_array_equal(row[0].images[0].get_array(), images[0, 0])
        assert not row[1].images
        for axis, picture, is_own in zip(row[2:], images[1:], right, strict=True):
            np.testing.assert_array_equal(axis.images[0].get_array(), picture[0])
            assert axis.spines["top"].get_visible()
            assert hexes([axis.spines["top"].get_edgecolor()]) == [figures.BLUE if is_own else figures.ORANGE]
    drawn(figure)
    # A title wider than its column does not push the columns apart.
    left = [axis.get_position().x0 for axis in grid[0][2:]]
    assert np.diff(left).tolist() == pytest.approx([left[1] - left[0]] * 2)


def test_examination_has_a_row_a_candidate_and_a_panel_a_question():
    scores = {
        "probe": np.array([[0.2, 0.9], [0.1, 0.8], [0.4, 1.0]]),
        "kNN": np.array([[0.3, 0.7], [0.2, 0.6], [0.4, 0.8]]),
    }
    figure = figures.examination(
        ["pixels", "features"], {"class": scores, "turn": scores}, {"class": 0.1, "turn": 0.25}
    )
    first, second = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["class", "turn"]
    assert rows(first) == ["pixels", "features"]
    assert first.get_ylim()[0] > first.get_ylim()[1]  # the first one stands at the top
    for (points, _, (bars,)), (value, low, high) in zip(
        (container.lines for container in first.containers), scores.values(), strict=True
    ):
        assert points.get_xdata().tolist() == value.tolist()
        ends = [segment[:, 0].tolist() for segment in bars.get_segments()]
        np.testing.assert_allclose(ends, np.stack([low, high], 1))
    assert [axis.lines[-1].get_xdata() for axis in (first, second)] == [[0.1, 0.1], [0.25, 0.25]]
    drawn(figure)


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
    assert clean.get_title() == "clean:\n0.0% nearer to another"
    assert attacked.get_title() == "PGD:\n75.0% nearer to another"
    right, wrong = attacked.collections
    assert hexes([right.get_facecolor()[0], wrong.get_facecolor()[0]]) == [figures.BLUE, figures.ORANGE]
    np.testing.assert_allclose(right.get_offsets(), [[0.9, 0.2]])
    np.testing.assert_allclose(wrong.get_offsets(), [[0.1, 0.8], [0.2, 0.7], [0.3, 0.6]])
    assert clean.get_xlim() == attacked.get_ylim() == pytest.approx((0.07, 1.02))
