"""The figures of lesson 04: each is drawn on small arrays, and what stands in it is read back."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from drawings import hexes, quivers, texts

from course.figures import lesson_04 as figures
from course.figures.lesson_03 import BLUE, ORANGE

pytestmark = pytest.mark.usefixtures("course_style")


def test_chords_of_a_circle_are_as_thick_as_the_pulls():
    axis = plt.subplots()[1]
    figures.chords(axis, np.array([0.0, 1.0, 2.0, 3.0, 4.0]), 1, [0.5, 9.0, -0.25, 0.0, 0.01], width=8, thinnest=1)
    assert [line.get_linewidth() for line in axis.lines] == [4, 2, 1]
    assert [line.get_linestyle() for line in axis.lines] == ["-", "--", "-"]
    assert [line.get_color() for line in axis.lines] == [BLUE, ORANGE, BLUE]
    axis.figure.canvas.draw()


def test_weights_on_a_circle_are_chords_and_a_number():
    angles = np.deg2rad([90.0, 100, 180, 270])
    weights = {0.0: np.full(3, 1 / 3), 2.0: np.array([0.1, 0.2, 0.7])}
    figure = figures.weights_on_a_circle(angles, weights, {0.0: 3.0, 2.0: 2.23})
    assert [axis.get_title() for axis in figure.axes] == ["beta = 0: SupCon", "beta = 2"]
    assert texts(figure.axes[1]) == ["anchor", "as many as 2.2 of 3 positives count"]
    for axis, w in zip(figure.axes, weights.values(), strict=True):
        np.testing.assert_allclose([line.get_linewidth() for line in axis.lines], 18 * w)
    np.testing.assert_allclose(figure.axes[1].lines[2].get_xydata(), [[0, 1], [0, -1]], atol=1e-12)


def test_weights_and_ratios_are_those_given():
    cosines, widths = np.array([0.0, 0.5, 1.0]), np.array([0.0, 1.0, 2.0])
    multiples = {"beta = 0": np.ones(3), "beta = 2": np.array([1.8, 0.8, 0.4])}
    ratios = {"beta = 0": np.ones(3), "beta = 2": np.exp(2 * widths)}
    figure = figures.weights_and_ratios(cosines, multiples, widths, ratios)
    left, right = figure.axes
    assert [line.get_ydata().tolist() for line in left.lines] == [values.tolist() for values in multiples.values()]
    assert [line.get_ydata().tolist() for line in right.lines] == [values.tolist() for values in ratios.values()]
    assert right.get_yscale() == "log"
    assert [(text.get_text(), text.xy) for text in right.texts] == [
        ("beta = 0", (2.04, 1)),
        ("beta = 2", (2.04, np.exp(4))),
    ]
    figure.canvas.draw()


def test_gallery_has_bars_on_one_scale_and_warnings_in_words(random):
    rows = [random.random((4, 1, 5, 5)), random.random((4, 3, 5, 5))]
    figure = figures.gallery(
        rows,
        ["one", "two"],
        [[None, 2.0, 1.0, 0.5], [None, 4.0, 1.0, 1.0]],
        titles=[[""] + 3 * ["cos 0.5"]] * 2,
        notes=[["", "read as 3", "", ""], 4 * [""]],
        groups={"anchor": 1, "hard": 2, "easy": 1},
    )
    assert len(figure.axes) == 8
    figure.canvas.draw()
    widths = [patch.get_width() for axis in figure.axes for patch in axis.patches]
    assert np.allclose(np.array(widths) / max(widths), np.array([2, 1, 0.5, 4, 1, 1]) / 4)
    words = [text for axis in figure.axes for text in texts(axis)]
    assert words.count("read as 3") == 1
    assert {"anchor", "hard", "easy", "weight x0.50"} <= set(words)
    assert ["easy" in texts(axis) for axis in figure.axes] == [False] * 3 + [True] + [False] * 4
    assert [figure.axes[k].get_ylabel() for k in (0, 4)] == ["one", "two"]


def test_accuracy_by_tenth_has_intervals_and_weights():
    figure = figures.accuracy_by_tenth([0.5, 1.0], [(0.4, 0.7), (0.9, 0.99999)], [2.0, 0.5], 0.75)
    (axis,) = figure.axes
    assert axis.lines[0].get_ydata() == [0.75, 0.75]
    ends = [bar.get_segments()[0][:, 1] for bar in axis.collections]
    np.testing.assert_allclose(ends, [[0.4, 0.7], [0.9, 1.0]])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1\nx2.00", "2\nx0.50"]
    figure.canvas.draw()


def test_adversarial_positives_and_the_preset_are_marked():
    augmented, adversarial = np.array([0.9, 0.95]), np.array([0.1, 0.2, 0.9])
    figure = figures.adversarial_positives(augmented, adversarial, [0, 2, 4], [0.5, 0.7, 0.9], 3.0)
    left, right = figure.axes
    for color, values in ((BLUE, augmented), (ORANGE, adversarial)):
        bars = [bar for bar in left.patches if hexes([bar.get_facecolor()]) == [color]]
        mean = sum(bar.get_height() * (bar.get_x() + bar.get_width() / 2) for bar in bars)
        assert mean == pytest.approx(values.mean(), abs=0.05)  # half a bin
    curve, supcon, preset = right.lines
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([0, 2, 4], [0.5, 0.7, 0.9])
    assert supcon.get_ydata() == [0.5, 0.5]
    assert preset.get_xdata() == [3, 3]
    assert "beta = 3\nof this preset" in texts(right)
    figure.canvas.draw()


def test_wrong_label_has_the_band_the_formula_and_supcon():
    smooth = np.linspace(0, 4, 11)
    band = [0.1, 0.3, 0.5], [0.3, 0.5, 0.9]
    figure = figures.wrong_label([0, 2, 4], [0.2, 0.4, 0.8], band, smooth, smooth / 5, 1.0)
    (axis,) = figure.axes
    preset, measured, formula, supcon = axis.lines
    assert preset.get_xdata() == [1, 1]
    assert list(measured.get_ydata()) == [0.2, 0.4, 0.8]
    assert formula.get_ydata().tolist() == (smooth / 5).tolist()
    assert supcon.get_ydata() == [0.2, 0.2]
    corners = axis.collections[0].get_paths()[0].vertices
    for beta, low, high in zip([0, 2, 4], *band, strict=True):
        at = corners[corners[:, 0] == beta, 1]
        assert (at.min(), at.max()) == (low, high)
    figure.canvas.draw()


def test_forces_say_in_words_what_happens_to_the_easy_positive():
    angles, labels = np.deg2rad([90.0, 45, 190, 100]), np.array([0, 0, 0, 1])
    forces = {"pull": np.array([0, 0.2, -0.4, 0.1]), "push": np.array([0, -0.31, -0.4, 0.1])}
    figure = figures.forces_of_an_anchor(angles, labels, forces)
    assert [axis.get_title() for axis in figure.axes] == ["pull", "push"]
    assert texts(figure.axes[0])[:3] == ["anchor", "easy", "hard"]
    said = [{text.get_text(): text.get_color() for text in axis.texts} for axis in figure.axes]
    assert (said[0]["pulled in"], said[1]["pushed away"]) == (BLUE, ORANGE)
    assert ("with a force of 0.20" in said[0], "with a force of 0.31" in said[1]) == (True, True)
    arrows = quivers(figure.axes[1])[0]
    np.testing.assert_allclose(np.hypot(arrows.U, arrows.V), 1.5 * np.abs(forces["push"]))


def test_walking_positive_leads_to_the_anchor_or_away_from_it():
    away = np.arange(181.0)
    pulls = {"SupCon": np.full(181, 0.1), "detached": np.full(181, 0.2), "not detached": np.where(away < 90, -0.1, 0.3)}
    reversed_sign = pulls["not detached"] < 0
    figure = figures.walking_positive(away, pulls, reversed_sign, np.pi)
    left, middle, right = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["detached", "not detached", ""]
    for axis, force in ((left, pulls["detached"]), (middle, pulls["not detached"])):
        (arrows,) = quivers(axis)
        # A step along the arrow brings a point up, to the anchor at the top, or down.
        degrees = np.rad2deg(np.arccos(np.clip(arrows.XY[:, 1], -1, 1))).round().astype(int)
        np.testing.assert_array_equal(np.sign(arrows.V), np.sign(force[degrees]))
        blue = [color == BLUE for color in hexes(arrows.get_facecolor())]
        assert len(set(blue)) == (1 if axis is left else 2)
    assert [line.get_ydata().tolist() for line in right.lines[1:]] == [pull.tolist() for pull in pulls.values()]
    assert right.texts[-1].get_position()[0] == away[:90].mean()
    vertices = right.collections[0].get_paths()[0].vertices
    assert (vertices[:, 0].min(), vertices[:, 0].max()) == (0, 89)
    same = figures.walking_positive(away, pulls, np.zeros(181, bool), np.pi)
    assert texts(same.axes[2]) == ["SupCon", "detached", "not detached"]


def test_targets_and_negative_shares_are_those_given():
    cosines = np.array([0.0, 0.5, 1.0])
    targets = {"SupCon": np.full(3, 1 / 3), "not detached": np.array([0.9, 0.3, -0.2])}
    negative = {"trained": [0.0, 0.2], "before training": [0.0, 0.0]}
    figure = figures.targets_and_negative_shares(cosines, targets, [0, 2], negative)
    left, right = figure.axes
    assert [line.get_ydata().tolist() for line in left.lines[:2]] == [values.tolist() for values in targets.values()]
    assert left.lines[2].get_ydata() == [0, 0]
    assert [line.get_ydata().tolist() for line in right.lines] == [*negative.values()]
    assert right.get_ylim() == (-0.03, 1.05)
    figure.canvas.draw()


@pytest.fixture
def paths(random):
    """Two versions, four steps, six points."""
    return {name: (random.random((4, 6)), random.random((4, 6))) for name in ("SupCon", "beta = 2, detached")}


LABELS = np.arange(6) // 2


def check_circle(axis, angles, targets, anchor):
    points = np.stack([np.cos(angles), np.sin(angles)], 1)
    np.testing.assert_allclose(axis.collections[0].get_offsets(), points)
    *lines, star = axis.lines
    np.testing.assert_allclose(star.get_xydata(), points[[anchor]])
    np.testing.assert_allclose(
        [line.get_linewidth() for line in lines], np.maximum(12 * np.delete(targets, anchor), 1.4)
    )
    colors = axis.collections[0].get_facecolors()
    alike = (colors == colors[anchor]).all(1)
    np.testing.assert_array_equal(alike, LABELS[anchor] == LABELS)
    assert len(np.unique(colors, axis=0)) == 3


@pytest.mark.parametrize("anchor", [0, 3, 4])
def test_frames_show_the_anchor_and_its_targets_at_a_step(paths, anchor):
    frames = [*figures.descent_frames(paths, LABELS, anchor, [0, 3])]
    assert [frame.texts[0].get_text() for frame in frames] == ["step 0", "step 3"]
    for frame, step in zip(frames, (0, 3), strict=True):
        assert [axis.get_title() for axis in frame.axes] == [*paths]
        for axis, (angles, targets) in zip(frame.axes, paths.values(), strict=True):
            check_circle(axis, angles[step], targets[step], anchor)


def test_filmstrip_has_a_row_a_version_and_a_column_a_step(paths):
    figure = figures.descent_filmstrip(paths, LABELS, 2, [0, 1, 3])
    axes = np.reshape(figure.axes, (2, 3))
    assert [axis.get_title() for axis in axes.flat] == ["step 0", "step 1", "step 3", "", "", ""]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["SupCon", "beta = 2,\ndetached"]
    for row, (angles, targets) in zip(axes, paths.values(), strict=True):
        for axis, step in zip(row, [0, 1, 3], strict=True):
            check_circle(axis, angles[step], targets[step], 2)


def test_gathering_is_drawn_at_twice_its_beta_as_far_as_the_axis_goes():
    success = {"detached": [1.0, 0.9, 0.8, 0.5], "not detached": [1.0, 0.8, 0.4, 0.1]}
    bands = {name: ([v - 0.05 for v in values], [v + 0.05 for v in values]) for name, values in success.items()}
    figure = figures.gathering([0, 1, 2, 4], success, bands, 40)
    left, right = figure.axes
    assert "of 40 random starts" in left.get_ylabel()
    assert [line.get_ydata().tolist() for line in left.lines] == [*success.values()]
    detached, doubled = right.lines
    assert (list(detached.get_xdata()), list(doubled.get_xdata())) == ([0, 1, 2, 4], [0, 2, 4])
    assert list(doubled.get_ydata()) == success["not detached"][:3]
    assert [detached.get_color(), doubled.get_color()] == [BLUE, ORANGE]
    assert len(left.collections) == len(right.collections) == 2
    figure.canvas.draw()
