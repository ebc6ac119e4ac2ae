"""The figures of lesson 08, drawn on small arrays and read back."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from drawings import drawn, rows, texts

from anchor_utils import plotting
from course.figures import lesson_08 as figures
from course.figures.lesson_08 import BLACK, BLUE, GREEN, GREY, ORANGE

pytestmark = pytest.mark.usefixtures("closed_figures")


def dots(axis, *markers):
    """(x, color) of all single points."""
    return [
        (pytest.approx(float(line.get_xdata()[0])), line.get_color())
        for line in axis.lines
        if line.get_marker() in markers and len(line.get_xdata()) == 1
    ]


def test_forest_draws_groups_from_the_top_and_leaves_missing_intervals_out():
    axis = plt.subplots()[1]
    groups = {
        "a": [(0.1, 0.0, 0.2, "0", "#000000"), (0.2, 0.1, 0.3, "", "#E69F00")],
        "b": [(0.3, np.nan, np.nan, "1", "#E69F00")],
    }
    figures.forest(axis, groups, title="differences")
    assert rows(axis) == ["a", "b"]
    assert axis.get_yticks()[0] > axis.get_yticks()[1]
    bars, dots = axis.lines[::2], axis.lines[1::2]
    assert [dot.get_xdata()[0] for dot in dots] == [0.1, 0.2, 0.3]
    assert [dot.get_marker() for dot in dots] == ["o", "D", "o"]
    assert np.isnan(bars[2].get_xdata()).all()
    assert [(text.get_text(), text.get_color()) for text in axis.texts] == [
        ("0", "white"),
        ("", "black"),
        ("1", "black"),
    ]
    drawn(axis.figure)


def test_seeds_of_methods_have_panels_of_one_span():
    accuracy = {
        "clean": {"pgd_at": {0: 0.5, 3: 0.56}, "anchor": {0: 0.52, 3: 0.53}},
        "PGD": {"pgd_at": {0: 0.3, 3: 0.31}, "anchor": {0: 0.32, 3: 0.33}},
    }
    intervals = {
        "clean": {"pgd_at": (0.53, 0.5, 0.56), "anchor": (0.525, 0.52, 0.53)},
        "PGD": {"pgd_at": (0.305, 0.28, 0.33), "anchor": (0.325, 0.32, 0.33)},
    }
    figure = figures.seeds_of_methods(accuracy, intervals)
    drawn(figure)
    clean, pgd = figure.axes
    assert (clean.get_title(), pgd.get_title()) == ("clean", "PGD")
    assert np.ptp(clean.get_xlim()) == pytest.approx(1.06 * 6)
    assert np.ptp(pgd.get_xlim()) == pytest.approx(1.06 * 6), "the widest panel decides"
    assert np.mean(pgd.get_xlim()) == pytest.approx((28 + 33) / 2)
    color = plotting.method_color("anchor")
    assert dots(clean, "o", "D")[3:] == [(52, color), (53, color), (52.5, color)]
    assert texts(clean) == ["0", "3", "", "0", "3", "", "PGD-AT mean"]
    assert clean.lines[-1].get_xdata() == pytest.approx([53, 53])
    assert rows(clean) == ["PGD-AT", "ANCHOR"]


def test_differences_are_coloured_by_side_and_p():
    found = {
        "PGD": {
            "pgd_at": [
                (0, 0.02, 0.01, 0.03, 0.001),
                (1, -0.02, -0.03, -0.01, 0.049),
                (2, 0.02, -0.01, 0.05, 0.05),
                (None, 0.01, -0.04, 0.06, np.nan),
            ],
            "mart": [(7, 0.5, 0.4, 0.6, 0.0)],
        }
    }
    figure = figures.differences_by_seed(found)
    drawn(figure)
    (axis,) = figure.axes
    assert dots(axis, "o", "D") == [(2, BLUE), (-2, ORANGE), (2, GREY), (1, BLACK), (50, BLUE)]
    assert texts(axis) == ["0", "1", "2", "", "7"]
    np.testing.assert_allclose(axis.lines[6].get_xdata(), [-4, 6])
    assert rows(axis) == ["against\nPGD-AT", "against\nMART"]
    legend = {text.get_text(): text.get_color() for text in figure.legends[0].get_texts()}
    assert legend["ANCHOR ahead, p < 0.05"] == BLUE
    assert legend["ANCHOR behind, p < 0.05"] == ORANGE


@pytest.mark.parametrize(("last", "apart"), [((0.9, 0.91), 0.06), ((0.7, 0.9), 0.2)])
def test_false_alarms_name_their_curves_without_overlap(last, apart):
    sizes = np.array([100, 1000, 100_000])
    rates = {
        "one": np.array([0.1, 0.3, last[0]]),
        "pooled": np.array([0.1, 0.4, last[1]]),
        "t": np.array([0.05, 0.04, 0.06]),
    }
    figure = figures.false_alarms(sizes, rates, at=5000)
    drawn(figure)
    (axis,) = figure.axes
    for line, rate in zip(axis.lines, rates.values(), strict=False):
        np.testing.assert_allclose(line.get_xydata(), np.stack([sizes, rate], axis=1))
    heights = {text.get_text(): text.xy[1] for text in axis.texts}
    assert heights["pooled"] - heights["one"] == pytest.approx(apart)
    assert heights["t"] == pytest.approx(0.06)
    assert axis.lines[4].get_xdata() == pytest.approx([5000, 5000])


def test_within_reach_marks_the_side_of_each_difference():
    seeds = np.arange(2, 31)
    reach = {"PGD": (4 / np.sqrt(seeds), 6 / np.sqrt(seeds)), "screen": (2 / np.sqrt(seeds), 3 / np.sqrt(seeds))}
    measured = {"PGD": {"pgd_at": -1.0, "mart": 0.9, "trades": 0.01}, "screen": {"pgd_at": 2.0}}
    figure = figures.within_reach(seeds, reach, measured, at=5)
    drawn(figure)
    pgd, screen = figure.axes
    np.testing.assert_allclose(pgd.lines[0].get_ydata(), reach["PGD"][0])
    np.testing.assert_allclose(screen.lines[1].get_ydata(), reach["screen"][1])
    found = {line.get_color(): line for line in pgd.lines[2:]}
    behind, ahead, tiny = (found[plotting.method_color(m)] for m in ("pgd_at", "mart", "trades"))
    assert (behind.get_xdata()[0], behind.get_ydata()[0], behind.get_markerfacecolor()) == (5, 1.0, "white")
    assert (ahead.get_ydata()[0], ahead.get_markerfacecolor()) == (0.9, plotting.method_color("mart"))
    assert tiny.get_ydata()[0] == pytest.approx(0.055), "what is too small stands at the edge"
    heights = {text.get_text(): text.xy[1] for text in pgd.texts}
    assert heights["PGD-AT"] == pytest.approx(1.3 * heights["MART"]), "labels are pushed apart"
    assert screen.get_title() == "screen"


def test_ablations_are_rows_from_the_bottom_up():
    gains = np.array([[-2.0, -1.0], [0.5, 1.5]])
    figure = figures.ablations(["beta = 0", "tau = 1"], gains, [(-1.5, -3, 0), (1, 0.2, 1.8)], xlabel="points")
    drawn(figure)
    (axis,) = figure.axes
    assert rows(axis) == ["beta = 0", "tau = 1"]
    bar, seeds, mean = axis.lines[4:7]
    np.testing.assert_allclose(bar.get_xydata(), [[0.2, 1], [1.8, 1]])
    np.testing.assert_allclose(seeds.get_xydata(), [[0.5, 1], [1.5, 1]])
    np.testing.assert_allclose(mean.get_xydata(), [[1, 1]])
    assert axis.get_xlabel() == "points"
    assert "0" in [label.get_text() for label in axis.get_xticklabels()], "zero has no sign"


def test_literature_fills_the_marks_of_our_own_block_alone():
    blocks = {"ours": {"PGD-AT": [50, 30, 25], "ANCHOR": [51, 31, 26]}, "theirs": {"MART": [np.nan, 54, 47]}}
    attacks = {"ours": ("clean", "PGD-20", "screen"), "theirs": ("", "PGD-10", "AutoAttack")}
    figure = figures.literature(blocks, attacks, ours="ours")
    drawn(figure)
    (axis,) = figure.axes
    assert rows(axis) == ["PGD-AT", "ANCHOR", "MART"]
    np.testing.assert_allclose(axis.get_yticks(), [-1, -2, -4.1])
    np.testing.assert_allclose([line.get_xdata()[0] for line in axis.lines], [50, 30, 25, 51, 31, 26, np.nan, 54, 47])
    assert [line.get_color() for line in axis.lines] == 3 * [GREEN, BLUE, ORANGE]
    assert [line.get_markerfacecolor() for line in axis.lines[3:]] == [GREEN, BLUE, ORANGE, *3 * ["white"]]
    assert texts(axis) == ["ours", "theirs", "clean", "PGD-20", "screen", "", "PGD-10", "AutoAttack"]
    assert axis.texts[6].xy == pytest.approx((54, -4.1))
