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
    left.set_xlabel("cosine with an augmented anchor image\n(left: hard, right: easy)")
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
        smooth, formula: (S,), betas and the shares of equation 5 there.
        preset: the beta that a vertical line marks.
    """
    figure, axis = plt.subplots(figsize=(7.8, 3.8))
    mark_preset(axis, preset)
    name = "wrong positives,\nmeasured"
    lines, bands = {name: np.asarray(median)}, {name: (np.asarray(band[0]), np.asarray(band[1]))}
    ylabel, ylim = "share of the anchor's weight", (-0.03, 1.05)
    plotting.curves(axis, betas, lines, bands=bands, xlabel="beta", ylabel=ylabel, ylim=ylim)
    axis.plot(smooth, formula, color="black", linestyle=":", linewidth=1.4)
    place, words = (3 * len(smooth)) // 10, "equation 5 with\nthe median gap"
    axis.annotate(words, (smooth[place], formula[place]), xytext=(14, -34), textcoords="offset points", fontsize=10)
    axis.axhline(median[0], color="0.5", linewidth=1)
    axis.annotate("SupCon", (max(betas), median[0]), xytext=(0, 4), textcoords="offset points", ha="right")
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


def target_and_guess(
    images: np.ndarray, names: Sequence[str], target: np.ndarray, guess: np.ndarray, *, anchor: np.ndarray, top: float
) -> Figure:
    """An anchor image and others, each over three bars: its target w, its guess q, the pull w - q, orange if it pushes.

    Args:
        images: (N, C, H, W), in [0, 1].
        names: N short texts, that stand above the images.
        target, guess: (N,), each of sum 1.
        anchor: (C, H, W), stands framed at the left of the others.
        top: the largest bar that must fit, one scale for all bars and for all frames of a slider.
    """
    figure, axes = plt.subplots(4, 1, figsize=(7.8, 4.3), sharex=True, height_ratios=[1.25, 1, 1, 1.6], layout="none")
    figure.subplots_adjust(left=0.16, right=0.99, bottom=0.02, top=0.91, hspace=0.06)
    places, pictures = [-1.35, *range(len(images))], [anchor, *images]
    for place, image, name in zip(places, pictures, ["anchor image", *names], strict=True):
        inset = axes[0].inset_axes((place - 0.45, 0.0, 0.9, 1.0), transform=axes[0].transData)
        plotting.draw_image(inset, image)
        inset.set_title(name, fontsize=8, fontweight="bold" if place < 0 else "normal", pad=2)
        inset.spines[:].set(visible=place < 0, linewidth=2.5, color="black")
    rows = (("target\nw", target, "0.35"), ("guess\nq", guess, "0.65"), ("pull\nw - q", target - guess, BLUE))
    for axis, (name, values, color) in zip(axes[1:], rows, strict=True):
        colors = [ORANGE if value < 0 else color for value in values]
        axis.bar(range(len(values)), values, width=0.5, color=colors)
        for k, (value, shade) in enumerate(zip(values.tolist(), colors, strict=True)):
            if abs(value) >= 0.005:
                side, text = ("bottom", f"{value:.2f}") if value > 0 else ("top", f"\N{MINUS SIGN}{-value:.2f}")
                axis.text(k, value, text, ha="center", va=side, fontsize=8, color="0.35" if shade == "0.65" else shade)
        axis.axhline(0, color="0.4", linewidth=0.8)
        axis.set_ylim(-1.4 * guess.max() if axis is axes[-1] else 0, 1.25 * top)  # a pull is at least -q
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    axes[0].set(xlim=(-0.55, len(images) - 0.45), ylim=(0, 1))
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    return figure


def attention_of_rules(
    positives: tuple[np.ndarray, Mapping[str, np.ndarray]],
    negatives: tuple[np.ndarray, Mapping[str, np.ndarray]],
    band: tuple[float, float],
) -> Figure:
    """Whom rules of weighting and of selecting attend to: a row a rule, a dot an image, its area the share it gets.

    Args:
        positives, negatives: cosines (N,) with the anchor, and for each rule the shares (N,), of sum 1 or all 0.
        band: the cosines (low, high) between which a negative is semi-hard; shaded in the lower panel.
    """
    figure, axes = plt.subplots(2, 1, figsize=(9.6, 4.4), sharex=True)
    low, high = band
    axes[1].axvspan(low, high, color="#E69F00", alpha=0.25, linewidth=0)
    axes[1].axvline(high, color=BLUE, linewidth=1.2)
    panels = ((axes[0], "positives", positives, BLUE), (axes[1], "negatives", negatives, ORANGE))
    for axis, name, (cosines, rules), color in panels:
        for row, shares in enumerate(rules.values()):
            axis.scatter(cosines, np.full(len(cosines), -row), s=9, facecolors="none", edgecolors="0.6", linewidths=0.7)
            axis.scatter(cosines, np.full(len(cosines), -row), s=800 * shares, color=color, alpha=0.6, linewidths=0)
        axis.set_yticks(-np.arange(len(rules)), list(rules))
        axis.set_ylim(-len(rules) + 0.4, 0.6)
        axis.set_title(name, loc="left", color=color)
    axes[1].set_xlabel("cosine with the anchor image (positives: hard at the left; negatives: hard at the right)")
    return figure


def gathering(
    betas: Sequence[int],
    success: Mapping[str, Sequence[float]],
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    count: int,
    pairs: Sequence[tuple[str, int, int, float]],
) -> Figure:
    """Left: the share of `count` starts that gather every class, against beta, with 95% intervals.

    Right: a row a pair of versions that began at the same starts; bars count those that only one of them gathers.

    Args:
        betas: B values.
        success, bands: of "detached" and "not detached": B shares in [0, 1], and their (low, high).
        pairs: for each a name, how many starts only the detached version gathers, how many only the other, and the p
            of their exact test.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.4, 4), width_ratios=[1, 1.05])
    lines = {name: np.asarray(shares) for name, shares in success.items()}
    intervals = {name: (np.asarray(low), np.asarray(high)) for name, (low, high) in bands.items()}
    ylabel = f"share of {count} random starts that\nend with every class in one group"
    plotting.curves(left, betas, lines, bands=intervals, xlabel="beta", ylabel=ylabel, ylim=(-0.03, 1.05))
    rows = -np.arange(len(pairs))
    only = np.array([(detached, other) for _, detached, other, _ in pairs])
    right.barh(rows, only[:, 0], color=BLUE, height=0.6)
    right.barh(rows, -only[:, 1], color=ORANGE, height=0.6)
    widest = max(1, int(only.max()))
    for row, (_, detached, other, p) in zip(rows, pairs, strict=True):
        words = f"{detached} : {other},  p " + (f"= {p:.2g}" if p >= 0.001 else "< 0.001")
        right.text(detached + 0.03 * widest, row, words, va="center", fontsize=9)
    right.axvline(0, color="0.3", linewidth=1)
    right.set_yticks(rows, [name for name, *_ in pairs])
    right.grid(axis="y", visible=False)
    right.set(xlim=(-max(1.15 * int(only[:, 1].max()), 0.12 * widest), 1.75 * widest), xticks=[])
    right.set_xlabel("starts that only one version gathers\n(orange: not detached; blue: detached)")
    return figure
