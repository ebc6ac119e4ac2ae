"""The figures of lesson 08: estimates with their intervals, and what a study of so many seeds can see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anchor_utils import plotting

BLUE, ORANGE, GREY, BLACK, PINK, GREEN = "#0072B2", "#D55E00", "#999999", "#000000", "#CC79A7", "#009E73"

Estimate = tuple[float, float, float, str, str]  # value, low, high, mark, color


def forest(axis: Axes, groups: Mapping[str, Sequence[Estimate]], *, title: str = "") -> None:
    """Estimates with their intervals, one below the other, in groups that are named at the left.

    An estimate is (value, low, high, mark, color). A `mark`, a character or two, stands inside its dot; without one
    the estimate is drawn as a diamond with a thicker bar. An interval that is NaN is left out.
    """
    y, middles = 0.0, []
    for estimates in groups.values():
        middles.append(y - (len(estimates) - 1) / 2)
        for value, low, high, mark, color in estimates:
            axis.plot([low, high], [y, y], color=color, linewidth=2 if mark else 4, alpha=0.75 if mark else 0.45)
            axis.plot(
                value, y, "o" if mark else "D", color=color, markersize=10 if mark else 7, markeredgecolor="white"
            )
            light = np.dot(mpl.colors.to_rgb(color), (0.3, 0.59, 0.11)) > 0.55
            axis.annotate(
                mark, (value, y), ha="center", va="center_baseline", fontsize=7.5, fontweight="bold",
                color="black" if light else "white",
            )  # fmt: skip
            y -= 1
        y -= 0.8
    axis.set_yticks(middles, list(groups))
    axis.set_ylim(y + 1.2, 0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(False, axis="y")
    axis.set_title(title)


def _seeds_and_mean(method: str, by_seed: Mapping[int, float], interval: tuple[float, float, float]) -> list[Estimate]:
    """In percent: one estimate a training seed, without an interval, and the mean over seeds with its own."""
    color = plotting.method_color(method)
    mean, low, high = interval
    seeds = [(100 * value, np.nan, np.nan, str(seed), color) for seed, value in by_seed.items()]
    return [*seeds, (100 * mean, 100 * low, 100 * high, "", color)]


def seeds_of_methods(
    accuracy: Mapping[str, Mapping[str, Mapping[int, float]]],
    intervals: Mapping[str, Mapping[str, tuple[float, float, float]]],
) -> Figure:
    """One panel an attack, all of the same span: the accuracy of every training seed, and the mean of each method.

    Args:
        accuracy: for each attack and method {training seed: accuracy in [0, 1]}. The dots bear the seeds.
        intervals: for each attack and method the mean over seeds and the ends of its interval, in [0, 1]. The mean
            of "pgd_at" is a dashed line.
    """
    groups = {
        attack: {m: _seeds_and_mean(m, by_seed, intervals[attack][m]) for m, by_seed in methods.items()}
        for attack, methods in accuracy.items()
    }
    numbers = {a: np.array([e[:3] for g in found.values() for e in g]) for a, found in groups.items()}
    limits = {attack: (np.nanmin(found), np.nanmax(found)) for attack, found in numbers.items()}
    span = 1.06 * max(high - low for low, high in limits.values())
    rows = max(sum(len(estimates) + 0.8 for estimates in found.values()) for found in groups.values())
    figure, axes = plt.subplots(1, len(groups), figsize=(11, 1.3 + 0.17 * rows), sharey=True)
    for axis, (attack, found) in zip(axes, groups.items(), strict=True):
        forest(axis, {plotting.method_name(method): estimates for method, estimates in found.items()})
        baseline, color = 100 * intervals[attack]["pgd_at"][0], plotting.method_color("pgd_at")
        axis.axvline(baseline, color=color, linestyle="--", linewidth=1, zorder=0)
        axis.annotate(
            "PGD-AT mean", (baseline, axis.get_ylim()[1]), (0, 3), textcoords="offset points", color=color,
            fontsize=9, ha="center",
        )  # fmt: skip
        axis.set_xlim(np.mean(limits[attack]) - span / 2, np.mean(limits[attack]) + span / 2)
        axis.xaxis.set_major_locator(mpl.ticker.MultipleLocator(3))
        axis.xaxis.set_major_formatter("{x:.0f}%")
        axis.set_xlabel("test accuracy")
        axis.set_title(attack, pad=18)
    return figure


def differences_by_seed(
    found: Mapping[str, Mapping[str, Sequence[tuple[int | None, float, float, float, float]]]],
) -> Figure:
    """One panel an attack: ANCHOR minus each baseline, coloured by who is ahead with p < 0.05.

    Args:
        found: for each attack and baseline tuples (training seed, difference, low, high, p), differences in
            [-1, 1]. The seed None stands for the mean over seeds, a black diamond; its p is not looked at.
    """
    meaning = {
        BLUE: "ANCHOR ahead, p < 0.05",
        ORANGE: "ANCHOR behind, p < 0.05",
        GREY: "not told apart",
        BLACK: "mean over seeds, t interval",
    }

    def estimate(seed: int | None, difference: float, low: float, high: float, p: float) -> Estimate:
        color = BLACK if seed is None else GREY if p >= 0.05 else BLUE if difference > 0 else ORANGE
        return 100 * difference, 100 * low, 100 * high, "" if seed is None else str(seed), color

    rows = max(sum(len(estimates) + 0.8 for estimates in groups.values()) for groups in found.values())
    figure, axes = plt.subplots(1, len(found), figsize=(11, 1.8 + 0.18 * rows), sharey=True, squeeze=False, sharex=True)
    for axis, (attack, groups) in zip(axes[0], found.items(), strict=True):
        named = {
            f"against\n{plotting.method_name(baseline)}": [estimate(*one) for one in estimates]
            for baseline, estimates in groups.items()
        }
        forest(axis, named, title=attack)
        axis.axvline(0, color="0.3", linewidth=1, zorder=0)
        axis.set_xlabel("ANCHOR minus baseline, points")
    for color, name in meaning.items():
        axes[0, 0].plot([], [], "D" if color == BLACK else "o", color=color, label=name)
    legend = figure.legend(loc="outside upper center", ncols=4, handletextpad=0.2, fontsize=10)
    for text, color in zip(legend.get_texts(), meaning, strict=True):
        text.set_color("0.45" if color == GREY else color)  # grey words need more contrast than grey dots
    return figure


def false_alarms(images: np.ndarray, rates: Mapping[str, np.ndarray], *, at: int) -> Figure:
    """Shares of studies (S,) in [0, 1] that declare a difference where there is none, against their `images` (S,).

    `rates` are those of three procedures. A dotted line marks `at`, the number of images of this study.
    """
    figure, axis = plt.subplots(figsize=(8.2, 4))
    colors = (ORANGE, PINK, BLUE)
    for rate, color in zip(rates.values(), colors, strict=True):
        axis.plot(images, rate, "o-", color=color)
    ends = np.array([rate[-1] for rate in rates.values()])
    # The names of the first two curves are pushed apart where these end at almost the same height.
    shift = np.where(ends == ends[:2].max(), 0.025, -0.025) * (np.abs(ends[0] - ends[1]) < 0.05) * (np.arange(3) < 2)
    for end, up, name, color in zip(ends, shift, rates, colors, strict=True):
        axis.annotate(name, (images[-1] * 1.15, end + up), color=color, va="center", annotation_clip=False)
    axis.axhline(0.05, color="0.3", linestyle="--", linewidth=1)
    axis.annotate("what p < 0.05 promises", (12_000, 0.07), color="0.3", fontsize=9, va="bottom")
    axis.axvline(at, color="0.6", linestyle=":", linewidth=1)
    axis.annotate("this study ", (at, 0.97), color="0.4", fontsize=9, ha="right", va="top")
    axis.set(xscale="log", xlim=(80, 110_000), ylim=(0, 1), xlabel="test images", ylabel="false alarms")
    axis.set_title("Two equally good methods: how often is a difference declared?", loc="left")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    return figure


def within_reach(
    seeds: np.ndarray,
    reach: Mapping[str, tuple[np.ndarray, np.ndarray]],
    measured: Mapping[str, Mapping[str, float]],
    *,
    at: int,
) -> Figure:
    """A panel an attack: how small a difference n seeds show, and the measured ones. Both axes are logarithmic.

    Args:
        seeds: numbers of training seeds (S,).
        reach: for each title two curves (S,), in points: the smallest mean difference whose interval leaves out
            zero, and the true difference that is found in 80% of studies.
        measured: for each title {baseline: ANCHOR's difference to it in points}; hollow dots are negative ones.
        at: the number of seeds of the measured differences.
    """
    figure, axes = plt.subplots(1, len(reach), figsize=(11, 4.4), sharey=True, squeeze=False)
    for axis, (title, (shown, found)) in zip(axes[0], reach.items(), strict=True):
        axis.fill_between(seeds, 0.05, shown, color=GREY, alpha=0.18, linewidth=0)
        axis.plot(seeds, shown, color=BLACK)
        axis.plot(seeds, found, color=BLACK, linestyle="--")
        axis.annotate("found 80% of the time", (11, np.interp(11, seeds, found) * 1.2), fontsize=9.5)
        axis.annotate("cannot be seen", (2.1, 0.065), fontsize=9.5, color="0.4")
        axis.annotate(
            "interval leaves\nout zero", (12, np.interp(12, seeds, shown)), (13, np.interp(13, seeds, shown) / 3.2),
            fontsize=9.5, arrowprops={"arrowstyle": "-", "color": "0.4"},
        )  # fmt: skip
        _measured_differences(axis, measured[title], at)
        axis.set(xscale="log", yscale="log", ylim=(0.05, 40), xlim=(1.9, 31), xlabel="training seeds a method")
        axis.set_xticks([2, 3, 5, 10, 20, 30], ["2", "3", "5", "10", "20", "30"])
        axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        axis.set_yticks([0.1, 0.3, 1, 3, 10, 30], ["0.1", "0.3", "1", "3", "10", "30"])
        axis.yaxis.set_minor_locator(mpl.ticker.NullLocator())
        axis.set_title(title)
    axes[0, 0].set_ylabel("difference between two methods, points")
    return figure


def _measured_differences(axis: Axes, differences: Mapping[str, float], at: int) -> None:
    """Dots at the absolute values, filled if positive, each with the name of its baseline."""
    position = 0.0
    for baseline, difference in sorted(differences.items(), key=lambda item: (abs(item[1]), item[0])):
        color, y = plotting.method_color(baseline), max(abs(difference), 0.055)
        face = color if difference > 0 else "white"
        axis.plot(at, y, "o", color=color, markerfacecolor=face, markersize=8, markeredgewidth=2, zorder=4)
        position = max(y, position * 1.3)  # labels that would overlap are pushed apart
        axis.annotate(
            plotting.method_name(baseline), (at * 1.1, position), color=color, va="center", fontsize=10,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.8},
        )  # fmt: skip


def ablations(
    names: Sequence[str], gains: np.ndarray, intervals: Sequence[tuple[float, float, float]], *, xlabel: str
) -> Figure:
    """A row for each of V variants, from the bottom up: what it gains over the base setting, a dashed line at 0.

    Args:
        names: of the V variants. gains: (V, S) points, one a training seed.
        intervals: for each variant the mean over seeds and the ends of its interval, in points.
    """
    figure, axis = plt.subplots(figsize=(8, 0.4 * len(gains) + 1.3))
    axis.axvline(0, color=ORANGE, linestyle="--", linewidth=1.2)
    axis.annotate("base", (0, len(gains) - 0.4), (4, 0), textcoords="offset points", color=ORANGE, va="bottom")
    for height, (row, (mean, low, high)) in enumerate(zip(gains, intervals, strict=True)):
        axis.plot([low, high], [height, height], color=BLUE, alpha=0.35, linewidth=5, solid_capstyle="butt")
        axis.plot(row, [height] * len(row), "o", color=BLUE, markersize=4, alpha=0.6)
        axis.plot(mean, height, "D", color=BLUE, markersize=7, markeredgecolor="white")
    axis.set_yticks(range(len(gains)), names)
    axis.set_ylim(-0.6, len(gains) + 0.1)
    axis.set_xlabel(xlabel)
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:+.0f}" if x else "0")
    axis.grid(False, axis="y")
    return figure


def literature(
    blocks: Mapping[str, Mapping[str, Sequence[float]]], attacks: Mapping[str, Sequence[str]], *, ours: str
) -> Figure:
    """Accuracies in blocks, one below the other: filled marks for the block `ours`, hollow ones for all others.

    Args:
        blocks: for each heading {method: accuracies in percent, clean, under PGD and under the strongest attack}. What
            was not measured is NaN.
        attacks: for each heading the names of these three, written at the marks of its first row.
        ours: the heading of the block that was measured here.
    """
    figure, axis = plt.subplots(figsize=(9, 4.8))
    marks = ((GREEN, "o", 7), (BLUE, "s", 7), (ORANGE, "D", -7))  # the name stands 7 points to the right or left
    y = 0.0
    heights: list[float] = []
    tops: dict[str, float] = {}
    for heading, methods in blocks.items():
        first, filled = y - (2.1 if heights else 1), heading == ours
        for y, values in zip(first - np.arange(len(methods)), methods.values(), strict=True):
            heights.append(y)
            for value, (color, marker, _) in zip(values, marks, strict=True):
                face = color if filled else "white"
                axis.plot(value, y, marker, color=color, markerfacecolor=face, markersize=8, markeredgewidth=1.8)
        axis.axhspan(y - 0.6, first + 0.6, color=BLUE if filled else GREY, alpha=0.07, linewidth=0)
        axis.annotate(heading, (1, first + 0.72), fontsize=9.5, color="0.25", va="bottom")
        tops[heading] = first
    for heading, first in tops.items():
        values = next(iter(blocks[heading].values()))
        for value, attack, (color, _, shift) in zip(values, attacks[heading], marks, strict=True):
            axis.annotate(
                attack, (value, first), (shift, 0), textcoords="offset points", color=color, fontsize=9,
                va="center", ha="left" if shift > 0 else "right",
            )  # fmt: skip
    axis.set_yticks(heights, [method for methods in blocks.values() for method in methods])
    axis.set(xlim=(0, 100), ylim=(y - 0.9, 1), xlabel="test accuracy")
    axis.xaxis.set_major_formatter("{x:.0f}%")
    axis.tick_params(axis="y", length=0)
    axis.grid(False, axis="y")
    return figure
