"""The figures of lesson 04, hard-positive mining."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from anchor_utils import plotting
from course.figures.lesson_03 import BLUE, ORANGE, circle, in_percent, share_histogram


def chords(
    axis: Axes, angles: np.ndarray, anchor: int, pulls: np.ndarray, *, width: float = 8.0, thinnest: float = 0.0
) -> None:
    """Lines inside a `circle` from point `anchor` to all others, as thick as `pulls` (N,); 0 draws none.

    A positive pull is a solid blue line, a negative one, which pushes, a dashed orange one. `thinnest`, in points,
    keeps weak ones visible.
    """
    x, y = np.cos(angles), np.sin(angles)
    for other, pull in enumerate(pulls):
        if other != anchor and pull:
            axis.plot(
                [x[anchor], x[other]],
                [y[anchor], y[other]],
                color=BLUE if pull > 0 else ORANGE,
                linestyle="-" if pull > 0 else (0, (1.2, 0.5)),
                linewidth=max(width * abs(pull), thinnest),
                alpha=0.8,
                zorder=2,
                solid_capstyle="butt",
            )


def mark_preset(axis: Axes, beta: float) -> None:
    """A vertical line at the preset's beta, for axes of shares in [0, 1] against beta."""
    axis.set_ylim(-0.03, 1.05)
    axis.axvline(beta, color="0.75", linewidth=1, zorder=0)
    axis.text(beta + 0.12, 0, f"beta = {beta:g}\nof this preset", fontsize=9)


def weights_on_a_circle(
    angles: np.ndarray, weights: Mapping[float, np.ndarray], counted: Mapping[float, float]
) -> Figure:
    """One circle a beta: lines from the anchor to its positives, as thick as the weights.

    Args:
        angles: (1 + P,) in radians, of the anchor, at the top, and of its positives.
        weights: for each beta those of the positives (P,), which sum to 1.
        counted: for each beta the effective number of positives, in 1 to P.
    """
    layout = ConstrainedLayoutEngine(h_pad=0.15)
    figure, axes = plt.subplots(1, len(weights), figsize=(9.6, 3.8), layout=layout)
    for axis, (beta, w) in zip(axes, weights.items(), strict=True):
        circle(axis, angles, np.zeros(len(angles), int), title=f"beta = {beta:g}" + (": SupCon" if not beta else ""))
        chords(axis, angles, 0, np.append(0, w), width=18)
        axis.text(0, 1.15, "anchor", ha="center", fontsize=10)
        words = f"as many as {counted[beta]:.1f} of {len(w)} positives count"
        axis.text(0, -1.3, words, ha="center", va="top", fontsize=10)
    return figure


def weights_and_ratios(
    cosines: np.ndarray, multiples: Mapping[str, np.ndarray], widths: np.ndarray, ratios: Mapping[str, np.ndarray]
) -> Figure:
    """Left: weights (P,), as multiples of SupCon's, against the cosines (P,) of the positives.

    Right: ratios (W,) of the largest to the smallest weight, on a log scale, against the spread of the cosines (W,).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.6))
    xlabel = "cosine with the anchor (left: hard, right: easy)"
    plotting.curves(
        left, cosines.tolist(), multiples, xlabel=xlabel, ylabel="weight, multiple of SupCon's", percent=False
    )
    right.set_yscale("log")
    for name, ratio in ratios.items():
        (line,) = right.plot(widths, ratio)
        end = (widths[-1] + 0.04, ratio[-1])
        right.annotate(name, end, color=line.get_color(), va="center", fontsize=10, annotation_clip=False)
    right.set_yticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
    right.minorticks_off()
    right.set(xlabel="spread: highest minus lowest cosine", xlim=(0, widths[-1]))
    right.set_ylabel("weight of the hardest positive\nover that of the easiest")
    return figure


def gallery(
    rows: Sequence[np.ndarray],
    row_labels: Sequence[str],
    bars: Sequence[Sequence[float | None]],
    *,
    titles: Sequence[Sequence[str]],
    notes: Sequence[Sequence[str]],
    groups: Mapping[str, int],
    reference: float = 1.0,
    size: float = 1.05,
) -> Figure:
    """Rows of images (N, C, H, W), each with a title above, a number as a bar below, and a warning in orange words.

    Args:
        bars: lengths on one scale for the whole gallery; None draws none. A black tick marks `reference`.
        notes: "" where there is nothing to warn of.
        groups: headings and how many columns each stands over; a gap separates them.
    """
    longest = max(value for row in bars for value in row if value is not None)
    spans = [*groups.values()]
    ratios: list[float] = []
    columns: list[int] = []
    for span in spans:
        columns += range(len(ratios), len(ratios) + span)
        ratios += [1.0] * span + [0.18]
    height = (size + 0.74) * len(rows) + 0.3
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - 0.3 / height))  # room for the headings
    figure = plt.figure(figsize=(size * sum(ratios) + 0.9, height), layout=layout)
    grid = figure.add_gridspec(len(rows), len(ratios), width_ratios=ratios)
    headings = dict(zip(np.cumsum([0, *spans])[:-1].tolist(), groups, strict=True))
    for r, (images, label) in enumerate(zip(rows, row_labels, strict=True)):
        for c, (image, column) in enumerate(zip(images, columns, strict=True)):
            axis = figure.add_subplot(grid[r, column])
            plotting.draw_image(axis, np.asarray(image), titles[r][c])
            _bar_and_note(axis, bars[r][c], notes[r][c], longest, reference)
            if c == 0:
                axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
            if r == 0 and c in headings:
                place, transform = axis.get_xlim()[0], axis.get_xaxis_transform()
                text = axis.text(
                    place, 1.26, headings[c], transform=transform, fontsize=10.5, fontweight="bold", va="bottom"
                )
                text.set_in_layout(False)  # it stands over several columns
    return figure


def _bar_and_note(axis: Axes, length: float | None, note: str, longest: float, reference: float) -> None:
    """Below an image: a bar, as wide as the image at the length `longest`, its tick, its number, and a warning."""
    below = axis.get_xaxis_transform()
    low, high = axis.get_xlim()
    if length is not None:
        scale = (high - low) / longest
        bar = mpl.patches.Rectangle((low, -0.15), length * scale, 0.1, color=BLUE, lw=0, transform=below, clip_on=False)
        axis.add_patch(bar)
        tick = low + reference * scale
        axis.plot([tick, tick], [-0.17, -0.03], color="black", linewidth=1.2, transform=below, clip_on=False)
        axis.text(low, -0.2, f"weight x{length:.2f}", transform=below, fontsize=8.5, va="top", color=BLUE)
    if note:
        y = -0.06 if length is None else -0.36
        axis.text(low, y, note, transform=below, fontsize=8.5, va="top", color=ORANGE, fontweight="bold")
    axis.set(xlim=(low, high))


def accuracy_by_tenth(
    accuracies: Sequence[float], intervals: Sequence[tuple[float, float]], weights: Sequence[float], overall: float
) -> Figure:
    """Accuracies in [0, 1] with their intervals (low, high), of groups of images from the hardest to the easiest.

    Below each group its mean weight, a multiple of SupCon's. The dotted line is the accuracy `overall`.
    """
    figure, axis = plt.subplots(figsize=(8, 3.6))
    groups = range(1, len(accuracies) + 1)
    axis.axhline(overall, color="0.5", linestyle=":")
    axis.text(groups[-1] + 0.4, overall - 0.012, "all images", ha="right", va="top", fontsize=10, color="0.35")
    for k, value, (low, high) in zip(groups, accuracies, intervals, strict=True):
        errors = [[max(value - low, 0)], [max(high - value, 0)]]  # at 0% or 100% rounding may put an end past the point
        axis.errorbar(k, value, yerr=errors, fmt="o", color=BLUE, capsize=3)
    axis.set_xticks(groups, [f"{k}\nx{w:.2f}" for k, w in zip(groups, weights, strict=True)])
    axis.set(xlabel="tenth of the test images, 1 = hardest; below: mean weight received, multiple of SupCon's")
    axis.set_ylabel("read correctly, clean")
    in_percent(axis)
    return figure


def adversarial_positives(
    to_augmented: np.ndarray, to_adversarial: np.ndarray, betas: Sequence[float], shares: Sequence[float], preset: float
) -> Figure:
    """Left: the cosines (P,) and (Q,) of augmented anchors with both kinds of positives.

    Right: the share in [0, 1] of the weight that goes to adversarial positives, against beta, the first of which is 0
    (SupCon); a vertical line at the `preset` beta.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.7))
    for values, color in ((to_augmented, BLUE), (to_adversarial, ORANGE)):
        share_histogram(left, values, 40, color)
    in_percent(left)
    left.set_xlabel("cosine with an augmented anchor\n(left: hard, right: easy)")
    left.set_ylabel("share of the positives of its kind")
    left.text(0.05, 0.92, "augmented positives", color=BLUE, transform=left.transAxes)
    left.text(0.05, 0.83, "adversarial positives", color=ORANGE, transform=left.transAxes)
    right.plot(betas, shares, color=ORANGE, marker="o")
    right.axhline(shares[0], color="0.5", linestyle=":")
    right.text(betas[-1], shares[0] - 0.03, "share in SupCon", ha="right", va="top", color="0.35")
    right.set(xlabel="beta", ylabel="share of the weight that goes\nto adversarial positives")
    in_percent(right)
    mark_preset(right, preset)
    return figure


def wrong_label(
    betas: Sequence[float],
    median: Sequence[float],
    band: tuple[Sequence[float], Sequence[float]],
    smooth: np.ndarray,
    formula: np.ndarray,
    preset: float,
) -> Figure:
    """The share in [0, 1] of an anchor's weight that positives with a wrong label take, against beta.

    Args:
        betas: B values, the first of which is 0 (SupCon).
        median, band: measured, B values each; the band is (low, high).
        smooth, formula: (S,), betas and the shares of equation 4 there.
        preset: the beta that a vertical line marks.
    """
    figure, axis = plt.subplots(figsize=(7.8, 3.8))
    mark_preset(axis, preset)
    name = "wrong positives,\nmeasured"
    lines, bands = {name: np.asarray(median)}, {name: (np.asarray(band[0]), np.asarray(band[1]))}
    ylabel, ylim = "share of the anchor's weight", (-0.03, 1.05)
    plotting.curves(axis, betas, lines, bands=bands, xlabel="beta", ylabel=ylabel, ylim=ylim)
    axis.plot(smooth, formula, color="black", linestyle=":", linewidth=1.4)
    place, words = (3 * len(smooth)) // 10, "equation 4 with\nthe median gap"
    axis.annotate(words, (smooth[place], formula[place]), xytext=(14, -34), textcoords="offset points", fontsize=10)
    axis.axhline(median[0], color="0.5", linewidth=1)
    axis.annotate("SupCon", (max(betas), median[0]), xytext=(0, 4), textcoords="offset points", ha="right")
    return figure


def forces_of_an_anchor(angles: np.ndarray, labels: np.ndarray, forces: Mapping[str, np.ndarray]) -> Figure:
    """One circle a version of the loss; arrows show where a step moves each point, and words what happens to point 1.

    Args:
        angles: (N,) in radians: the anchor, its easy positive, its hard positive, the negatives. The anchor lies
            counter-clockwise of the easy one.
        labels: (N,), 0 for the anchor's class and 1 for the other one.
        forces: for each version the forces along the circle (N,), counter-clockwise if above 0.
    """
    figure, axes = plt.subplots(1, len(forces), figsize=(10, 3.9))
    for axis, (name, force) in zip(axes, forces.items(), strict=True):
        circle(axis, angles, labels, title=name, moves=1.5 * force)
        words = (("anchor", "center", 0.0), ("easy", "left", 0.04), ("hard", "right", 0.04))
        for angle, (word, side, lower) in zip(angles.tolist(), words, strict=False):
            x, y = 1.12 * math.cos(angle), 1.15 * math.sin(angle) - lower
            axis.text(x, y, word, ha=side, fontsize=10, color=BLUE)
        word, color = ("pulled in", BLUE) if force[1] > 0 else ("pushed away", ORANGE)
        axis.text(0, 0.1, "the easy positive is", ha="center", fontsize=10)
        axis.text(0, -0.34, f"with a force of {abs(force[1]):.2f}", ha="center", fontsize=10)
        axis.text(0, -0.12, word, ha="center", fontweight="bold", color=color)
    return figure


def walking_positive(
    away: np.ndarray, pulls: Mapping[str, np.ndarray], reversed_sign: np.ndarray, other: float
) -> Figure:
    """The force of an anchor's loss on a positive that walks round the circle.

    Left and middle, for detached weights and without detaching: at each place an arrow towards the anchor (blue) or
    away from it (orange). Right: the force by angle.

    Args:
        away: (181,), 0 to 180 degrees between the anchor and the walking positive.
        pulls: of "SupCon", "detached" and "not detached", (181,): above 0 towards the anchor.
        reversed_sign: (181,), where the last two differ in sign; shaded.
        other: where the positive lies that stands still, in radians.
    """
    figure, axes = plt.subplot_mosaic("abc", figsize=(11, 4), width_ratios=[1, 1, 1.7])
    _ring_of_places(axes["a"], pulls["detached"], other, "detached")
    _ring_of_places(axes["b"], pulls["not detached"], other, "not detached")
    axis = axes["c"]
    axis.fill_between(away, -1, 1, where=reversed_sign, color=ORANGE, alpha=0.13, linewidth=0)
    axis.axhline(0, color="black", linewidth=1)
    for name, color, place in (("SupCon", "#999999", 58), ("detached", BLUE, 80), ("not detached", ORANGE, 136)):
        axis.plot(away, pulls[name], color=color)
        side, offset = ("left", 6) if place > 90 else ("right", -6)
        point = (place, pulls[name][place])
        axis.annotate(name, point, xytext=(offset, 4), textcoords="offset points", ha=side, color=color)
    axis.set(xlim=(0, 180), ylim=(-0.27, 0.78), xticks=range(0, 181, 30), yticks=[0, 0.2, 0.4, 0.6])
    axis.set_xlabel("degrees between the anchor and this positive")
    axis.set_ylabel("force along the circle\n- away       + towards the anchor")
    if reversed_sign.any():
        middle, words = away[reversed_sign].mean(), "pulled in if detached,\npushed away if not"
        axis.text(middle, -0.26, words, ha="center", va="bottom", color=ORANGE, fontsize=9)
    return figure


def _ring_of_places(axis: Axes, force: np.ndarray, other: float, title: str) -> None:
    """Every twelfth degree on both sides of an anchor at the top: where a positive there would go, by its `force`."""
    places = np.arange(10, 180, 12)
    ring = np.deg2rad(np.concatenate([90 - places, 90 + places]))
    direction = np.sign(force[places])
    ways = np.concatenate([direction, -direction])  # counter-clockwise is towards the anchor on the right side
    circle(axis, ring, (np.tile(direction, 2) < 0).astype(int), title=title, moves=0.19 * ways)
    axis.plot(0, 1, marker="*", markersize=16, color="black", zorder=5)
    axis.text(0, 1.16, "anchor", ha="center", fontsize=10)
    axis.plot(0.84 * math.cos(other), 0.84 * math.sin(other), marker="D", markersize=7, color="0.3")
    axis.text(0.72 * math.cos(other), 0.84 * math.sin(other), "the other positive", fontsize=9, va="center")


def targets_and_negative_shares(
    cosines: np.ndarray,
    targets: Mapping[str, np.ndarray],
    betas: Sequence[float],
    negative: Mapping[str, Sequence[float]],
) -> Figure:
    """Left: targets (P,) in the gradient against the cosines (P,) of the positives, for several versions of the loss.

    Right: for several batches the share in [0, 1] of the positive pairs with a negative target, against beta.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.2, 3.8))
    xlabel = "cosine with the anchor (left: hard, right: easy)"
    plotting.curves(left, cosines.tolist(), targets, xlabel=xlabel, ylabel="target in the gradient")
    left.axhline(0, color="black", linewidth=1)
    ylabel = "share of positive pairs with a\nnegative target, not detached"
    lines = {name: np.asarray(shares) for name, shares in negative.items()}
    plotting.curves(right, betas, lines, xlabel="beta", ylabel=ylabel, ylim=(-0.03, 1.05))
    return figure


def _circle_with_targets(axis: Axes, angles: np.ndarray, targets: np.ndarray, labels: np.ndarray, anchor: int) -> None:
    """Points of three classes, that of the `anchor` (a star) in blue, and its targets as lines to the others."""
    own = labels[anchor]
    shades = (labels != own) * (2 + 4 * ((labels - own) % 3 - 1))  # of the style's cycle: blue, green, grey
    circle(axis, angles, shades)
    chords(axis, angles, anchor, targets, width=12, thinnest=1.4)
    x, y = math.cos(angles[anchor]), math.sin(angles[anchor])
    axis.plot(x, y, marker="*", markersize=15, color=BLUE, markeredgecolor="white", zorder=5)


def descent_frames(
    paths: Mapping[str, tuple[np.ndarray, np.ndarray]], labels: np.ndarray, anchor: int, steps: Iterable[int]
) -> Iterator[Figure]:
    """Frames of an animation: points of three classes on one circle a version of the loss, with one anchor's targets.

    Args:
        paths: for each version, at every step, the angles (S, N) in radians and the anchor's targets (S, N).
        labels: (N,), classes 0, 1 and 2; that of the anchor is blue.
        anchor: the point whose targets are drawn.
        steps: those that become frames.
    """
    for step in steps:
        figure, axes = plt.subplots(1, len(paths), figsize=(7.4, 2.85), layout="none")
        figure.subplots_adjust(left=0, right=1, bottom=0.08, top=0.9, wspace=0)
        for axis, (name, (angles, targets)) in zip(axes, paths.items(), strict=True):
            _circle_with_targets(axis, angles[step], targets[step], labels, anchor)
            axis.set_title(name)
        figure.text(0.03, 0.03, f"step {step}", fontweight="bold")
        figure.text(0.5, 0.03, "solid blue: positive target", color=BLUE, ha="right")
        figure.text(0.53, 0.03, "dashed orange: negative target", color=ORANGE)
        yield figure


def descent_filmstrip(
    paths: Mapping[str, tuple[np.ndarray, np.ndarray]], labels: np.ndarray, anchor: int, shown: Sequence[int]
) -> Figure:
    """The circles of `descent_frames` standing still: one row a version of the loss, one column a step `shown`."""
    figure, axes = plt.subplots(len(paths), len(shown), figsize=(9.4, 6))
    for row, (name, (angles, targets)) in zip(axes, paths.items(), strict=True):
        for axis, step in zip(row, shown, strict=True):
            _circle_with_targets(axis, angles[step], targets[step], labels, anchor)
        row[0].set_ylabel(name.replace(", ", ",\n"), rotation=0, ha="right", va="center")
    for axis, step in zip(axes[0], shown, strict=True):
        axis.set_title(f"step {step}")
    return figure


def gathering(
    betas: Sequence[int],
    success: Mapping[str, Sequence[float]],
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    count: int,
) -> Figure:
    """The share of `count` starts that gather every class, with 95% intervals: left against beta.

    Right the same, with "not detached" drawn at twice its beta, as far as the axis of the left panel goes.

    Args:
        betas: B values.
        success, bands: of "detached" and "not detached": B shares in [0, 1], and their (low, high).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.2, 3.8), sharey=True)
    ylabel = f"share of {count} random starts on a circle\nthat end with every class in one group"
    lines = {name: np.asarray(shares) for name, shares in success.items()}
    intervals = {name: (np.asarray(low), np.asarray(high)) for name, (low, high) in bands.items()}
    plotting.curves(left, betas, lines, bands=intervals, xlabel="beta", ylabel=ylabel)
    for name, factor, color in (("detached", 1, BLUE), ("not detached", 2, ORANGE)):
        x = [factor * beta for beta in betas if factor * beta <= max(betas)]
        right.plot(x, success[name][: len(x)], marker="o", color=color)
        low, high = bands[name]
        right.fill_between(x, low[: len(x)], high[: len(x)], color=color, alpha=0.15, linewidth=0)
    right.text(0.04, 0.14, "detached, at beta", color=BLUE, transform=right.transAxes)
    right.text(0.04, 0.05, "not detached, drawn at 2 beta", color=ORANGE, transform=right.transAxes)
    right.set_xlabel("beta (detached) or 2 beta (not detached)")
    left.set_ylim(-0.03, 1.05)
    return figure
