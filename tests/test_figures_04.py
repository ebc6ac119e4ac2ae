"""The figures of lesson 04: each is drawn on small arrays, and what stands in it is read back."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from drawings import drawn, hexes, quivers, rows, texts

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


def test_gallery_has_bars_on_one_scale_and_warnings_in_words(random):
    images = [random.random((4, 1, 5, 5)), random.random((4, 3, 5, 5))]
    figure = figures.gallery(
        images,
        ["one", "two"],
        [[None, 2.0, 1.0, 0.5], [None, 4.0, 1.0, 1.0]],
        titles=[[""] + 3 * ["cos 0.5"]] * 2,
        notes=[["", "classified as 3", "", ""], 4 * [""]],
        groups={"anchor": 1, "hard": 2, "easy": 1},
    )
    assert len(figure.axes) == 8
    figure.canvas.draw()
    widths = [patch.get_width() for axis in figure.axes for patch in axis.patches]
    assert np.allclose(np.array(widths) / max(widths), np.array([2, 1, 0.5, 4, 1, 1]) / 4)
    words = [text for axis in figure.axes for text in texts(axis)]
    assert words.count("classified as 3") == 1
    assert {"anchor", "hard", "easy", "weight x0.50"} <= set(words)
    assert ["easy" in texts(axis) for axis in figure.axes] == [False] * 3 + [True] + [False] * 4
    assert [figure.axes[k].get_ylabel() for k in (0, 4)] == ["one", "two"]


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


def test_bars_are_target_guess_and_pull_on_one_scale(random):
    target, guess = np.array([0.1, 0.9, 0.0]), np.array([0.6, 0.3, 0.001])
    first, *others = random.random((4, 1, 5, 5))
    figure = figures.target_and_guess(np.array(others), ["a", "b", "c"], target, guess, anchor=first, top=0.9)
    images, *bars = figure.axes[:4]
    assert [inset.get_title() for inset in images.child_axes] == ["anchor image", "a", "b", "c"]
    for inset, image in zip(images.child_axes, (first, *others), strict=True):
        np.testing.assert_array_equal(inset.images[0].get_array(), image[0])
    assert [inset.spines["top"].get_visible() for inset in images.child_axes] == [True, False, False, False]
    for axis, values in zip(bars, (target, guess, target - guess), strict=True):
        np.testing.assert_allclose([patch.get_height() for patch in axis.patches], values)
        assert axis.get_ylim()[1] == pytest.approx(1.125)
    assert hexes([patch.get_facecolor() for patch in bars[2].patches]) == [ORANGE, BLUE, ORANGE]
    assert texts(bars[2]) == ["\N{MINUS SIGN}0.50", "0.60"]
    drawn(figure)


def test_dots_of_a_rule_have_the_area_of_its_shares():
    positives = np.array([0.1, 0.9]), {"alike": np.array([0.5, 0.5]), "hardest": np.array([1.0, 0.0])}
    negatives = np.array([-0.2, 0.2, 0.4]), {"all": np.array([0.2, 0.3, 0.5])}
    figure = figures.attention_of_rules(positives, negatives, (0.0, 0.1))
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["positives", "negatives"]
    for axis, (cosines, rules) in zip(figure.axes, (positives, negatives), strict=True):
        assert rows(axis) == [*rules]
        areas = [dots for dots in axis.collections if len(dots.get_offsets()) and dots.get_alpha() == 0.6]
        for row, (dots, shares) in enumerate(zip(areas, rules.values(), strict=True)):
            np.testing.assert_allclose(dots.get_sizes(), 800 * shares)
            np.testing.assert_allclose(dots.get_offsets(), [(c, -row) for c in cosines])
    drawn(figure)


def test_gathering_counts_the_starts_that_only_one_version_gathers():
    success = {"detached": [1.0, 0.9, 0.8], "not detached": [1.0, 0.8, 0.4]}
    bands = {name: ([v - 0.05 for v in values], [v + 0.05 for v in values]) for name, values in success.items()}
    pairs = [("one", 12, 0, 0.0004), ("two", 3, 5, 0.73)]
    left, right = figures.gathering([0, 1, 2], success, bands, 40, pairs).axes
    assert "of 40 random starts" in left.get_ylabel()
    assert [line.get_ydata().tolist() for line in left.lines] == [*success.values()]
    assert len(left.collections) == 2
    assert [bar.get_width() for bar in right.patches] == [12, 3, 0, -5]
    assert hexes([bar.get_facecolor() for bar in right.patches]) == [BLUE, BLUE, ORANGE, ORANGE]
    assert texts(right) == ["12 : 0,  p < 0.001", "3 : 5,  p = 0.73"]
    assert rows(right) == ["one", "two"]
    drawn(left)
