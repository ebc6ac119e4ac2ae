"""The figures of lesson 08: accuracies and differences with their intervals, and what seeds and images are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anchor_utils import plotting

BLUE, ORANGE, GREY, PINK, GREEN = "#0072B2", "#D55E00", "#999999", "#CC79A7", "#009E73"

Interval = tuple[float, float, float]  # value, low, high; NaN where there is no interval


def clean_against_robust(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, Interval, Interval]]], *, robust: str
) -> Figure:
    """One panel a study: clean accuracy against that under the attack `robust`, with the intervals of both.

    Args:
        panels: for each title and method the accuracies (n, 2) in [0, 1] of its n networks, clean and under attack, and
            the mean of each with its interval. With one network the mark is hollow and the interval one over images.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.9 * len(panels), 3.9), squeeze=False)
    for axis, (title, methods) in zip(axes[0], panels.items(), strict=True):
        for method, (networks, (x, left, right), (y, low, high)) in methods.items():
            color, hollow = plotting.method_color(method), len(networks) == 1
            axis.plot([100 * left, 100 * right], [100 * y, 100 * y], color=color, linewidth=2, alpha=0.5)
            axis.plot([100 * x, 100 * x], [100 * low, 100 * high], color=color, linewidth=2, alpha=0.5)
            if not hollow:
                axis.plot(*100 * networks.T, ".", color=color, markersize=5, alpha=0.6)
            axis.plot(
                100 * x, 100 * y, plotting.method_marker(method), color=color, markersize=8, markeredgewidth=1.8,
                markerfacecolor="white" if hollow else color, zorder=4,
            )  # fmt: skip
        axis.margins(0.1)
        _name_at_the_right(axis, {method: 100 * spot[2][0] for method, spot in methods.items()})
        axis.set_title(title)
        axis.set_xlabel("clean accuracy")
        for along in (axis.xaxis, axis.yaxis):
            along.set_major_locator(mpl.ticker.MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
            along.set_major_formatter("{x:.0f}%")
    axes[0, 0].set_ylabel(f"accuracy under {robust}")
    return figure


def _name_at_the_right(axis: Axes, heights: Mapping[str, float]) -> None:
    """The methods' names beside the axis, at these heights or as near as they can be without overlap."""
    low, high = axis.get_ylim()
    gap = 0.075 * (high - low)
    ordered = sorted(heights, key=lambda method: (heights[method], method))
    places = np.array([heights[method] for method in ordered])
    for _ in range(100):  # two that overlap give way to each other
        for k in range(len(places) - 1):
            if (short := gap - (places[k + 1] - places[k])) > 0:
                places[k : k + 2] += (-short / 2, short / 2)
    for method, place in zip(ordered, places, strict=True):
        axis.annotate(
            plotting.method_name(method), (1.02, place), xycoords=("axes fraction", "data"), va="center",
            color=plotting.method_color(method), fontsize=10, annotation_clip=False,
        )  # fmt: skip


def false_alarms(images: np.ndarray, rates: Mapping[str, np.ndarray]) -> Figure:
    """Shares of comparisons (S,) in [0, 1] that find a difference between networks of one method.

    Args:
        images: numbers of test images (S,).
        rates: those of three procedures, under their names, which stand at the ends of the curves.
    """
    figure, axis = plt.subplots(figsize=(8.2, 3.7))
    colors = (ORANGE, PINK, BLUE)
    ends = [float(rate[-1]) for rate in rates.values()]
    for (name, rate), color, end in zip(rates.items(), colors, ends, strict=True):
        axis.plot(images, rate, "o-", color=color)
        # Names whose curves end at almost one height are pushed apart.
        near = [other for other in ends if other != end and abs(other - end) < 0.07]
        shift = 0.03 * np.sign(end - near[0]) if near else 0
        axis.annotate(name, (images[-1] * 1.1, end + shift), color=color, va="center", annotation_clip=False)
    axis.axhline(0.05, color="0.3", linestyle="--", linewidth=1)
    axis.annotate("5%: what p < 0.05 promises", (images[0], 0.12), color="0.3", fontsize=9, va="bottom")
    axis.set(xscale="log", ylim=(0, max(0.6, 1.1 * max(ends))), xlabel="test images")
    axis.set_ylabel("comparisons that find\na difference")
    axis.set_xticks(images, [f"{size:,}" for size in images])
    axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axis.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    return figure


def studies_of_few_seeds(studies: Mapping[int, Mapping[str, Sequence[Interval]]], *, span: float) -> Iterator[Figure]:
    """A frame a number of seeds: what each possible study of so many seeds finds, ANCHOR minus each baseline.

    Args:
        studies: for each number of seeds and each baseline the differences in points, with their intervals.
        span: the vertical axis ends at this many points above and below 0; longer bars are cut.
    """
    for seeds, groups in studies.items():
        figure, axis = plt.subplots(figsize=(7, 3.3))
        axis.axhline(0, color="0.3", linewidth=1, zorder=0)
        for place, found in enumerate(groups.values()):
            offsets = np.linspace(-0.34, 0.34, len(found)) if len(found) > 1 else [0]
            for x, (value, low, high) in zip(place + np.array(offsets), found, strict=True):
                color = BLUE if low > 0 else ORANGE if high < 0 else GREY
                bounds = np.clip([low, high], -2 * span, 2 * span)
                axis.plot([x, x], bounds, color=color, linewidth=2.5, alpha=0.6, solid_capstyle="butt")
                face = "white" if np.isnan(low) else color
                axis.plot(x, value, "o", color=color, markersize=5, markerfacecolor=face, markeredgewidth=1.4)
        axis.set_xticks(range(len(groups)), [_named_and_counted(b, found) for b, found in groups.items()])
        axis.set(xlim=(-0.55, len(groups) - 0.45), ylim=(-span, span), ylabel="ANCHOR minus baseline, points")
        axis.grid(False, axis="x")
        below = "no intervals" if seeds == 1 else "below: how many intervals leave out zero"
        axis.set_title(f"all studies of {seeds} seed{'s' if seeds > 1 else ''}; {below}", loc="left")
        yield figure


def _named_and_counted(baseline: str, found: Sequence[Interval]) -> str:
    clear = sum(low > 0 or high < 0 for _, low, high in found)
    count = "" if np.isnan(found[0][1]) else f"{clear} of {len(found)}"
    return f"against {plotting.method_name(baseline)}\n{count}"


def half_widths(
    seeds: np.ndarray, curves: Mapping[str, np.ndarray], measured: Mapping[str, float], *, at: int, bold: str
) -> Figure:
    """Half the width of an interval against the number of seeds, both logarithmic, a curve a number of images.

    Args:
        seeds: numbers of training seeds (S,).
        curves: for each name half-widths (S,) in points; the one named `bold` is drawn so.
        measured: {baseline: ANCHOR's difference to it in points}, drawn as absolute values; hollow if negative.
        at: the number of seeds of the measured differences.
    """
    figure, axis = plt.subplots(figsize=(8, 4))
    for name, widths in curves.items():
        axis.plot(seeds, widths, color="0.2" if name == bold else "0.55", linewidth=3 if name == bold else 1.5)
        axis.annotate(name, (seeds[-1] * 1.05, widths[-1]), color="0.2", va="center", annotation_clip=False)
    position = 0.0
    for baseline, difference in sorted(measured.items(), key=lambda item: (abs(item[1]), item[0])):
        color, y = plotting.method_color(baseline), max(abs(difference), 0.055)
        face = color if difference > 0 else "white"
        axis.plot(at, y, "o", color=color, markerfacecolor=face, markersize=8, markeredgewidth=2, zorder=4)
        position = max(y, position * 1.25)  # names that would overlap are pushed apart
        axis.annotate(
            f"measured against {plotting.method_name(baseline)}", (at / 1.06, position), color=color, va="center",
            ha="right", fontsize=9.5, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.8},
        )  # fmt: skip
    axis.set(xscale="log", yscale="log", xlim=(seeds[0] * 0.95, seeds[-1]), xlabel="training seeds a method")
    axis.set_ylabel("half the interval, points")
    ticks = [n for n in (2, 3, 5, 10, 20, 30) if seeds[0] <= n <= seeds[-1]]
    axis.set_xticks(ticks, [f"{n}" for n in ticks])
    axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axis.set_yticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
    axis.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    return figure


def claims_forest(claims: Sequence[tuple[str, str, Mapping[str, Sequence[float]]]], *, xlabel: str) -> Figure:
    """Each claim with its verdict, and below it a row for each of its baselines: the difference and its interval.

    Args:
        claims: (claim, verdict, {baseline: difference with its interval, in points}). Without an interval (one
            training seed) the mark is hollow.
    """
    rows = sum(len(found) for _, _, found in claims)
    figure, axis = plt.subplots(figsize=(9.4, 0.27 * (rows + 1.7 * len(claims)) + 0.7))
    axis.axvline(0, color="0.3", linewidth=1, zorder=0)
    y, heights, names = 0.0, [], []
    for claim, verdict, found in claims:
        heading = axis.annotate(
            f"{claim}: {verdict}", (0.005, y), xycoords=("figure fraction", "data"), fontsize=9.5, fontweight="bold",
            va="center", color=_verdict_color(verdict), annotation_clip=False,
        )  # fmt: skip
        heading.set_in_layout(False)
        for baseline, (value, low, high) in found.items():
            y -= 1
            color = BLUE if low > 0 else ORANGE if high < 0 else "0.45"
            axis.plot([low, high], [y, y], color=color, linewidth=4, alpha=0.5, solid_capstyle="butt")
            face = "white" if np.isnan(low) else color
            axis.plot(value, y, "D", color=color, markersize=6, markerfacecolor=face, markeredgewidth=1.5)
            interval = "one seed" if np.isnan(low) else f"[{low:+.1f}, {high:+.1f}]"
            axis.annotate(
                f"{value:+.1f} {interval}", (1.02, y), xycoords=axis.get_yaxis_transform(), fontsize=9.5, va="center",
                annotation_clip=False,
            )  # fmt: skip
            heights.append(y)
            names.append(f"against {plotting.method_name(baseline)}")
        y -= 1.7
    axis.set_yticks(heights, names)
    axis.set(ylim=(y + 1.1, 0.7), xlabel=xlabel)
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:+.0f}" if x else "0")
    axis.tick_params(axis="y", length=0, labelsize=9.5)
    axis.grid(False, axis="y")
    return figure


def draws_of_a_study(rows: Mapping[str, Sequence[Interval]], kinds: Sequence[str], *, xlabel: str) -> Figure:
    """Several intervals a row, one below the other, from the top down; their kinds are named in the first row.

    Args:
        rows: for each comparison a difference with its interval in points for each of the kinds.
        kinds: such as "first draw".
    """
    figure, axis = plt.subplots(figsize=(8.4, 0.54 * len(rows) + 0.9))
    axis.axvline(0, color="0.3", linewidth=1, zorder=0)
    for place, found in enumerate(rows.values()):
        for k, ((value, low, high), marker) in enumerate(zip(found, "osD", strict=False)):
            y = -place - 0.26 * (k - (len(found) - 1) / 2)
            color = BLUE if low > 0 else ORANGE if high < 0 else "0.45"
            axis.plot([low, high], [y, y], color=color, linewidth=3, alpha=0.5, solid_capstyle="butt")
            axis.plot(value, y, marker, color=color, markersize=4.5)
            if not place:
                axis.annotate(
                    kinds[k], (high, y), (5, 0), textcoords="offset points", fontsize=8.5, color="0.3", va="center"
                )
    axis.set_yticks(range(0, -len(rows), -1), list(rows))
    axis.set(ylim=(-len(rows) + 0.4, 0.6), xlabel=xlabel)
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:+.0f}" if x else "0")
    axis.tick_params(axis="y", length=0, labelsize=9.5)
    axis.grid(False, axis="y")
    return figure


def _verdict_color(verdict: str) -> str:
    return {"supported": BLUE, "contradicted": ORANGE}.get(verdict, "0.3")


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


def learning_curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[Sequence[float], Sequence[float], Sequence[float]]]]],
) -> Figure:
    """One panel a study: accuracy under attack over the epochs, a dashed and a solid line for each network.

    Args:
        panels: for each title and method, for each of its networks the epochs (E,) and the accuracies (E,) in [0, 1]
            on attacked training batches (dashed) and on held-out images (solid).
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.9 * len(panels), 3.4), squeeze=False, sharey=True)
    for axis, (title, methods) in zip(axes[0], panels.items(), strict=True):
        for method, networks in methods.items():
            color, thin = plotting.method_color(method), len(networks) > 1
            for epochs, training, held_out in networks:
                axis.plot(epochs, 100 * np.asarray(training), "--", color=color, linewidth=0.8 if thin else 1.3)
                axis.plot(epochs, 100 * np.asarray(held_out), color=color, linewidth=1 if thin else 1.8)
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6, integer=True))
    axes[0, 0].set_ylabel("accuracy under PGD")
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].yaxis.set_major_formatter("{x:.0f}%")
    for axis, methods in zip(axes[0], panels.values(), strict=True):  # once the scale is known, which parts the names
        ends = {m: 100 * float(np.mean([np.asarray(h)[-1] for *_, h in found])) for m, found in methods.items()}
        _name_at_the_right(axis, ends)
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
    rows = sum(map(len, blocks.values()))
    figure, axis = plt.subplots(figsize=(9, 0.26 * rows + 0.3 * len(blocks) + 0.9))
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
