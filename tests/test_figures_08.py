"""The figures of lesson 08, drawn on small arrays and read back."""

import numpy as np
import pytest
from drawings import drawn, rows, texts

from anchor_utils import plotting
from course.figures import lesson_08 as figures
from course.figures.lesson_08 import BLUE, GREEN, GREY, ORANGE

pytestmark = pytest.mark.usefixtures("closed_figures")


def test_clean_against_robust_has_hollow_marks_for_single_networks():
    several = np.array([[0.35, 0.23], [0.37, 0.25]])
    panels = {
        "one": {"pgd_at": (np.array([[0.77, 0.49]]), (0.77, 0.76, 0.78), (0.49, 0.48, 0.5))},
        "two": {
            "pgd_at": (several, (0.36, 0.3, 0.42), (0.24, 0.2, 0.28)),
            "anchor": (several + 0.001, (0.361, 0.35, 0.37), (0.241, 0.2, 0.28)),
        },
    }
    figure = figures.clean_against_robust(panels, robust="PGD-20")
    drawn(figure)
    one, two = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["one", "two"]
    assert one.get_ylabel() == "accuracy under PGD-20"
    clean, attacked, mark = one.lines
    np.testing.assert_allclose(clean.get_xydata(), [[76, 49], [78, 49]])
    np.testing.assert_allclose(attacked.get_xydata(), [[77, 48], [77, 50]])
    assert (mark.get_markerfacecolor(), mark.get_color()) == ("white", plotting.method_color("pgd_at"))
    np.testing.assert_allclose(two.lines[2].get_xydata(), 100 * several)
    assert two.lines[3].get_markerfacecolor() == plotting.method_color("pgd_at")
    assert texts(two) == ["PGD-AT", "ANCHOR"], "from below"
    low, high = two.get_ylim()
    heights = [text.xy[1] for text in two.texts]
    assert heights[1] - heights[0] == pytest.approx(0.075 * (high - low)), "names do not overlap"
    assert np.mean(heights) == pytest.approx(24.05)


@pytest.mark.parametrize(("last", "apart"), [((0.5, 0.51), 0.07), ((0.3, 0.6), 0.3)])
def test_false_alarms_name_their_curves_without_overlap(last, apart):
    sizes = np.array([100, 1000, 5000])
    rates = {
        "one": np.array([0.1, 0.3, last[0]]),
        "pooled": np.array([0.1, 0.4, last[1]]),
        "t": np.array([0.05, 0.04, 0.06]),
    }
    figure = figures.false_alarms(sizes, rates)
    drawn(figure)
    (axis,) = figure.axes
    for line, rate in zip(axis.lines, rates.values(), strict=False):
        np.testing.assert_allclose(line.get_xydata(), np.stack([sizes, rate], axis=1))
    assert axis.lines[3].get_ydata() == pytest.approx([0.05, 0.05])
    heights = {text.get_text(): text.xy[1] for text in axis.texts}
    assert heights["pooled"] - heights["one"] == pytest.approx(apart)
    assert heights["t"] == pytest.approx(0.06)
    assert [label.get_text() for label in axis.get_xticklabels()] == ["100", "1,000", "5,000"]
    assert axis.get_ylim()[1] >= max(last)


def test_studies_of_few_seeds_are_coloured_by_what_their_interval_leaves_out():
    nan = np.nan
    studies = {
        1: {"pgd_at": [(1, nan, nan), (-2, nan, nan)], "mart": [(0.5, nan, nan)]},
        2: {"pgd_at": [(1, 0.5, 1.5), (-1, -1.5, -0.5)], "mart": [(1, -99, 101)]},
    }
    one, two = figures.studies_of_few_seeds(studies, span=4)
    for figure in (one, two):
        drawn(figure)
    (axis,) = one.axes
    assert axis.get_title(loc="left") == "all studies of 1 seed; no intervals"
    marks = [line for line in axis.lines if line.get_marker() == "o"]
    assert [mark.get_ydata()[0] for mark in marks] == [1, -2, 0.5]
    assert {mark.get_markerfacecolor() for mark in marks} == {"white"}
    assert marks[2].get_xdata()[0] == 1, "a single study stands at its baseline"
    assert [tick.get_text() for tick in axis.get_xticklabels()] == [
        "against PGD-AT\n",
        "against MART\n",
    ]
    (axis,) = two.axes
    assert [line.get_color() for line in axis.lines if line.get_marker() == "o"] == [BLUE, ORANGE, GREY]
    assert [tick.get_text().split("\n")[1] for tick in axis.get_xticklabels()] == [
        "2 of 2",
        "0 of 1",
    ]
    assert axis.get_ylim() == (-4, 4)
    assert axis.lines[-2].get_ydata() == pytest.approx([-8, 8]), "what is cut reaches beyond the picture"
    assert one.axes[0].get_ylim() == two.axes[0].get_ylim()


def test_half_widths_mark_the_side_of_each_difference():
    seeds = np.arange(2, 31)
    curves = {"1,000 images": 4 / np.sqrt(seeds), "5,000 images": 2 / np.sqrt(seeds)}
    measured = {"pgd_at": -1.0, "mart": 0.9, "trades": 0.01}
    figure = figures.half_widths(seeds, curves, measured, at=5, bold="5,000 images")
    drawn(figure)
    (axis,) = figure.axes
    thin, bold = axis.lines[:2]
    np.testing.assert_allclose(thin.get_ydata(), curves["1,000 images"])
    assert bold.get_linewidth() > thin.get_linewidth()
    found = {line.get_color(): line for line in axis.lines[2:]}
    behind, ahead, tiny = (found[plotting.method_color(m)] for m in ("pgd_at", "mart", "trades"))
    assert (behind.get_xdata()[0], behind.get_ydata()[0], behind.get_markerfacecolor()) == (5, 1.0, "white")
    assert (ahead.get_ydata()[0], ahead.get_markerfacecolor()) == (0.9, plotting.method_color("mart"))
    assert tiny.get_ydata()[0] == pytest.approx(0.055), "what is too small stands at the edge"
    heights = {text.get_text(): text.xy[1] for text in axis.texts}
    assert heights["measured against PGD-AT"] == pytest.approx(1.25 * 0.9), "names are pushed apart"
    assert heights["1,000 images"] == pytest.approx(4 / np.sqrt(30))


def test_claims_forest_has_a_heading_a_claim_and_a_row_a_baseline():
    claims = [
        ("robust", "supported", {"pgd_at": (1.04, 0.5, 1.5)}),
        ("robust", "mixed (behind TRADES)", {"trades": (-2, -3, -1), "mart": (0.2, -1, 1.4)}),
        ("AutoAttack", "no verdict (one training seed)", {"mart": (3, np.nan, np.nan)}),
    ]
    figure = figures.claims_forest(claims, xlabel="points")
    drawn(figure)
    (axis,) = figure.axes
    assert rows(axis) == ["against PGD-AT", "against TRADES", "against MART", "against MART"]
    assert (np.diff(axis.get_yticks()) < 0).all()
    marks = [line for line in axis.lines if line.get_marker() == "D"]
    assert [(mark.get_xdata()[0], mark.get_color()) for mark in marks] == [
        (1.04, BLUE),
        (-2, ORANGE),
        (0.2, "0.45"),
        (3, "0.45"),
    ]
    assert [mark.get_markerfacecolor() for mark in marks] == [BLUE, ORANGE, "0.45", "white"]
    colors = {text.get_text(): text.get_color() for text in axis.texts}
    assert colors["robust: supported"] == BLUE
    assert colors["robust: mixed (behind TRADES)"] == "0.3"
    assert "AutoAttack: no verdict (one training seed)" in colors
    assert "+1.0 [+0.5, +1.5]" in colors
    assert "+3.0 one seed" in colors
    low, high = axis.get_ylim()
    assert low < min(axis.get_yticks()) < max(text.xy[1] for text in axis.texts) < high


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


def test_learning_curves_are_dashed_in_training_and_solid_on_held_out_images():
    networks = {"pgd_at": [([1, 2], [0.2, 0.3], [0.1, 0.25])], "anchor": [([1, 2], [0.2, 0.4], [0.1, 0.35])] * 2}
    figure = figures.learning_curves({"on CPUs": networks, "on a GPU": {"anchor": networks["anchor"][:1]}})
    drawn(figure)
    cpu, gpu = figure.axes
    assert [len(axis.lines) for axis in (cpu, gpu)] == [6, 2]
    assert [line.get_linestyle() for line in cpu.lines] == 3 * ["--", "-"]
    np.testing.assert_allclose(cpu.lines[1].get_xydata(), [[1, 10], [2, 25]])
    assert cpu.lines[0].get_color() == plotting.method_color("pgd_at")
    assert cpu.get_ylim() == gpu.get_ylim()
    assert cpu.get_ylim()[0] == 0
    assert {text.get_text() for text in cpu.texts} == {"PGD-AT", "ANCHOR"}


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


def test_draws_of_a_study_are_intervals_below_each_other_coloured_by_their_side():
    found = {"clean": [(1, 0.5, 1.5), (1, -1, 3)], "pgd": [(-2, -3, -1), (0.2, -1, 1.4)]}
    figure = figures.draws_of_a_study(found, ["first draw", "second draw"], xlabel="points")
    drawn(figure)
    (axis,) = figure.axes
    assert rows(axis) == [*found]
    marks = [line for line in axis.lines if line.get_marker() in ("o", "s")]
    assert [(mark.get_xdata()[0], mark.get_color()) for mark in marks] == [
        (1, BLUE),
        (1, "0.45"),
        (-2, ORANGE),
        (0.2, "0.45"),
    ]
    assert (np.diff([mark.get_ydata()[0] for mark in marks]) < 0).all(), "from the top down"
    assert [text.get_text() for text in axis.texts] == ["first draw", "second draw"], "named once"
