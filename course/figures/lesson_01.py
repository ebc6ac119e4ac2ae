"""The figures of lesson 01, adversarial examples: arrays in, a matplotlib Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from anchor_utils import plotting

# One colour an attack, the same in every figure of the lesson.
FGSM, PGD, NOISE = "#D55E00", "#009E73", "#0072B2"
TRUE, WRONG = "#0072B2", "#D55E00"  # classes
_BOXED: dict[str, Any] = {
    "ha": "center",
    "va": "center",
    "bbox": {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.9},
}

Plane = tuple[np.ndarray, np.ndarray]
"""A function of two-pixel images on a grid: grey levels (G,) along either axis, and values (G, G), rows upwards."""


def norm_balls(
    loss: Plane, x: np.ndarray, gradient: np.ndarray, epsilon: float, corner: np.ndarray, touch: np.ndarray
) -> Figure:
    """The best allowed change of a linear loss, left in an L-infinity box and right in an L2 disc.

    Args:
        loss: the linear loss, drawn in grey.
        x: the image (2,), pixels in [0, 1].
        gradient: of the loss (2,); only its direction is drawn.
        epsilon: radius of both balls, in pixel intensity.
        corner: the best point (2,) of the box.
        touch: the best point (2,) of the disc.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True)
    unit = gradient / np.linalg.norm(gradient)
    along = np.array([-unit[1], unit[0]])  # a line of equal loss
    for axis, ball, best in zip(axes, ("box", "disc"), (corner, touch), strict=True):
        _two_pixels(axis, loss, x, epsilon, ball)
        _arrow(axis, x, x + 0.11 * unit, NOISE)
        _label(axis, "gradient", x + 0.11 * unit, (-40, 8), NOISE)
        axis.plot(*np.stack([best - 0.9 * along, best + 0.9 * along]).T, color=FGSM, lw=1.2, ls="--")
        axis.plot(*best, "s", color=FGSM, markersize=9)
    _label(axes[0], "x + ε sign(g)", corner, (-74, 12), FGSM)
    _label(axes[1], "x + ε g / ‖g‖₂", touch, (-98, 28), FGSM)
    axes[0].set_title("L∞ box: the best change is a corner")
    axes[1].set_title("L2 disc: the best change is along g")
    axes[1].set_ylabel("")
    return figure


def growing_box(
    loss: Plane,
    lead: Plane,
    x: np.ndarray,
    epsilons: Sequence[float],
    at: int,
    corner: np.ndarray,
    path: np.ndarray,
    losses: Mapping[str, np.ndarray],
    boundary: float,
) -> Figure:
    """One frame of a slider: FGSM and PGD in a box on two pixels, and the losses they reach in boxes of all sizes.

    Args:
        loss: a curved loss, drawn in grey.
        lead: wrong logit minus true logit; the decision boundary is drawn where it is 0.
        x: the image (2,), pixels in [0, 1].
        epsilons: E radii of the box, in pixel intensity.
        at: the one that this frame shows.
        corner: the point (2,) that FGSM reaches.
        path: the iterates (T + 1, 2) of PGD.
        losses: the loss (E,) that is reached: "best in the box", "PGD" and "FGSM".
        boundary: the loss on the decision boundary.
    """
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.3), width_ratios=[1, 1.05])
    _two_pixels(axes[0], loss, x, epsilons[at], "box")
    axes[0].contour(lead[0], lead[0], lead[1], [0], colors=[NOISE], linewidths=1.6)
    _arrow(axes[0], x, corner, FGSM)
    axes[0].plot(*corner, "s", color=FGSM, markersize=7)
    axes[0].plot(*path.T, "o-", color=PGD, lw=2, markersize=4)
    ends = [(boundary, "decision boundary", NOISE)]
    for (name, reached), color in zip(losses.items(), ("black", PGD, FGSM), strict=True):
        axes[1].plot(epsilons, reached, "--" if color == "black" else "-", color=color, zorder=2)
        axes[1].plot(epsilons[at], reached[at], "o", color=color, markersize=7, zorder=3, clip_on=False)
        ends.append((float(reached[-1]), name, color))
    axes[1].axhline(boundary, color=NOISE, lw=1, ls=":", zorder=1)
    axes[1].set(xlabel="epsilon (pixel intensity)", ylabel="loss that is reached")
    axes[1].set(xlim=(0, epsilons[-1]), ylim=(0, 1.1 * max(reached.max() for reached in losses.values())))
    _name_ends(axes[1], ends)
    return figure


def falling_accuracy(
    epsilons: Sequence[float],
    accuracies: Mapping[str, np.ndarray],
    intervals: Mapping[str, np.ndarray],
    images: int,
    *,
    marks: Sequence[float] = (),
) -> Figure:
    """Accuracy against epsilon, a line an attack.

    Args:
        epsilons: E radii in pixel intensity.
        accuracies: for each attack the accuracy (E,) in [0, 1].
        intervals: their low ends and their high ends (2, E).
        images: how many there are.
        marks: epsilons that the text speaks of, marked by upright lines.
    """
    figure, axis = plt.subplots(figsize=(7.6, 3.9))
    _falling(axis, epsilons, accuracies, intervals, images)
    for mark in marks:
        axis.axvline(mark, color="0.5", lw=1, ls=":", zorder=1)
    return figure


def effort(
    survives: Mapping[float, Sequence[float]],
    last: Mapping[float, Sequence[float]],
    restarts: Mapping[int, Sequence[float]],
    images: int,
) -> Figure:
    """What more steps, another step size and more restarts do to the accuracy under PGD.

    Args:
        survives: step size in units of epsilon -> accuracy after 0, 1, ... steps, any iterate counting.
        last: the same, only the last iterate counting; drawn where it differs.
        restarts: steps -> accuracy after 1, 2, ... restarts.
        images: how many there are.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), width_ratios=[1.3, 1])
    ends = []
    for (fraction, line), color in zip(survives.items(), (NOISE, PGD, FGSM), strict=True):
        name = f"α = {_fraction(fraction)}"
        axes[0].plot(range(len(line)), line, "o-", color=color, markersize=3.5)
        ends.append((line[-1], name, color))
        if not np.allclose(line, last[fraction]):
            axes[0].plot(range(len(line)), last[fraction], ":", color=color, lw=1.4)
            ends.append((last[fraction][-1], f"{name}, last iterate", color))
    axes[0].set(xlabel="steps", ylabel=f"accuracy on {images} test images", title="Steps of size α", ylim=(-0.03, 1.03))
    axes[0].set_xticks(range(0, len(next(iter(survives.values()))), 5))
    _name_ends(axes[0], ends)
    tries = range(1, 1 + max(map(len, restarts.values())))
    ends = []
    for (steps, line), color in zip(restarts.items(), ("#CC79A7", "black"), strict=True):
        axes[1].plot(tries, line, "o-", color=color, markersize=4)
        ends.append((line[-1], f"{steps} steps", color))
    top = 1.4 * max(max(line) for line in restarts.values())
    axes[1].set(xlabel="restarts", title="Random starts (another scale)", xticks=tries, ylim=(0, max(top, 0.05)))
    _name_ends(axes[1], ends)
    for axis in axes:
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def known_worst_case(
    random: np.ndarray,
    clean: float,
    worst: float,
    epsilon: float,
    epsilons: Sequence[float],
    accuracies: Mapping[str, np.ndarray],
    intervals: Mapping[str, np.ndarray],
    exact: np.ndarray,
    images: int,
) -> Figure:
    """A linear classifier: the margin of one image under random and worst signs, and the accuracy on all images.

    Args:
        random: logit margins (R,) of one image after random signs of size `epsilon`.
        clean, worst: its logit margin on the clean image, and the smallest in the box.
        epsilon: size of the changes of this image, in pixel intensity.
        epsilons, accuracies, intervals, images: as in :func:`falling_accuracy`.
        exact: the share (E,) of images that no attack can break.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 3.9), width_ratios=[1, 1.1])
    heights, *_ = axes[0].hist(random, bins=20, color=NOISE, alpha=0.75)
    top = 1.5 * heights.max()
    lowest, highest = min(worst, random.min(), 0.0), max(clean, random.max())
    edge = 0.15 * (highest - lowest)
    axes[0].axvspan(lowest - edge, 0, color="0.93", zorder=0)
    for name, value, color, height in (("clean", clean, "black", 0.95), ("worst signs (eq. 4)", worst, FGSM, 0.78)):
        axes[0].axvline(value, ymax=height - 0.06, color=color, lw=2)
        side = "left" if value == worst else "center"
        axes[0].text(value, height * top, name, color=color, ha=side, va="center")
    axes[0].text(random.mean(), 1.1 * heights.max(), f"{len(random)} × random signs", color=NOISE, **_BOXED)
    axes[0].set(xlim=(lowest - edge, highest + edge), ylim=(0, top), yticks=[])
    axes[0].set(xlabel="logit margin (below 0: misclassified)", title=f"One image, ε = {epsilon:.3g}")
    axes[0].spines.left.set_visible(False)
    axes[0].grid(False)
    axes[1].fill_between(epsilons, 0, exact, color="0.85", lw=0)
    note = "no attack can\nbreak these\n(exact, eq. 4)"
    axes[1].text(0.02 * max(epsilons), 0.06, note, color="0.3", fontsize=10)
    _falling(axes[1], epsilons, accuracies, intervals, images)
    axes[1].set_title("All images")
    return figure


def before_and_after(
    before: np.ndarray,
    after: np.ndarray,
    named: Sequence[str],
    chances: np.ndarray,
    true: int,
    classes: Sequence[str],
    *,
    epsilon: float,
    title: str,
) -> Figure:
    """An image, the attacked image, the change, and the probabilities of at most ten classes before and after.

    Args:
        before: the image (C, H, W), in [0, 1].
        after: the attacked image, likewise.
        named: the class that the model names in either, as text.
        chances: probabilities (2, K) of the classes, before and after.
        true: index of the true class; where it is not the likeliest after the attack, the name is orange and bold.
        classes: their K names.
        epsilon: written over the change, in pixel intensity.
        title: of the bars.
    """
    figure, axes = plt.subplots(1, 4, figsize=(8.8, 2.6), width_ratios=[1, 1, 1, 2.1])
    plotting.draw_image(axes[0], before, f"before: {named[0]}")
    plotting.draw_image(axes[1], after, f"after: {named[1]}")
    plotting.draw_image(axes[2], after - before, f"change, ε = {epsilon:.3f}", signed=True)
    if chances[1].argmax() != true:
        axes[1].title.set(color=WRONG, fontweight="bold")
    shown = np.sort(np.argsort(-chances.max(0), kind="stable")[:10])
    bars = np.arange(len(shown))
    axes[3].bar(bars - 0.2, chances[0, shown], 0.4, color="0.7")
    axes[3].bar(bars + 0.2, chances[1, shown], 0.4, color=[TRUE if k == true else WRONG for k in shown])
    names = [classes[k] for k in shown]
    axes[3].set_xticks(bars, names, rotation=45 if max(map(len, names)) > 2 else 0)
    for tick, k in zip(axes[3].get_xticklabels(), shown, strict=True):
        if k == true:
            tick.set(color=TRUE, fontweight="bold")
    axes[3].set(ylim=(0, 1), yticks=[0, 0.5, 1], yticklabels=["0%", "50%", "100%"])
    axes[3].set_title(title, fontsize=9, fontweight="normal")
    axes[3].grid(axis="x", visible=False)
    return figure


def along_lines(distances: np.ndarray, margins: Mapping[str, np.ndarray], *, mark: float, step: int = 1) -> Figure:
    """How the margins of images change along a straight line, and where they would be if the first step went on.

    Args:
        distances: E distances that each pixel moves, from 0, in pixel intensity.
        margins: for each of two directions, random signs first, the logit margins (E, N) of N images.
        mark: a distance that the text speaks of.
        step: the straight line is drawn through the medians at 0 and at this index.
    """
    figure, axis = plt.subplots(figsize=(7.8, 3.9))
    ends = []
    for (name, values), color in zip(margins.items(), (NOISE, FGSM), strict=True):
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75], axis=1)
        axis.fill_between(distances, low, high, color=color, alpha=0.15, lw=0)
        axis.plot(distances, median, "o-", color=color, markersize=4)
        straight = median[0] + (median[step] - median[0]) * distances / distances[step]
        axis.plot(distances, straight, "--", color=color, lw=1.2)
        ends.append((float(median[-1]), name, color))
    lowest, highest = (float(edge(values)) for edge, values in zip((np.min, np.max), _quartiles(margins), strict=True))
    room = 0.35 * (highest - min(lowest, 0))
    axis.axhspan(min(lowest, 0) - room, 0, color="0.93", zorder=0)
    axis.axvline(mark, color="0.5", lw=1, ls=":", zorder=1)
    axis.set(xlim=(0, distances[-1]), ylim=(min(lowest, 0) - room, highest + 0.1 * room))
    axis.set(xlabel="how far each pixel moves (pixel intensity)", ylabel="logit margin\n(below 0: misclassified)")
    _name_ends(axis, ends)
    return figure


def taught_by_pushes(
    before: np.ndarray,
    pushed: np.ndarray,
    digits: Sequence[str],
    taught: Sequence[str],
    scores: Mapping[str, tuple[float, float, float]],
    chance: float,
    *,
    images: int,
) -> Figure:
    """Left: images, what was added to them, and the class they were taught as. Right: what that taught.

    Args:
        before, pushed: N images (N, C, H, W), in [0, 1], without and with the push.
        digits: the N classes that people see.
        taught: the N classes that stand as labels.
        scores: for each student, the first on top, (accuracy, low, high) in [0, 1] on clean test images.
        chance: accuracy of a guess, a dashed line.
        images: how many test images there are.
    """
    figure = plt.figure(figsize=(11, 3.9))
    pictures, bars = figure.subfigures(1, 2, width_ratios=[1.75, 1])
    axes = pictures.subplots(3, len(before), squeeze=False)
    rows = (("an image", before, digits), ("+ push", pushed - before, None), ("= taught as", pushed, taught))
    for row, (name, shown, titles) in zip(axes, rows, strict=True):
        for k, (axis, image) in enumerate(zip(row, shown, strict=True)):
            plotting.draw_image(axis, image, titles[k] if titles else "", signed=titles is None)
            if titles is taught:
                axis.title.set(color=WRONG, fontweight="bold")
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    axis = bars.subplots()
    heights = np.arange(len(scores))[::-1]
    for height, (value, low, high), color in zip(heights, scores.values(), (WRONG, NOISE), strict=True):
        axis.barh(height, value, 0.5, color=color, alpha=0.75)
        axis.errorbar(value, height, xerr=[[value - low], [high - value]], fmt="none", ecolor="0.2", capsize=3)
        beside: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # the line of chance does not cross a number
        axis.annotate(f"{value:.0%}", (high, height), (6, 0), bbox=box, **beside)
    axis.axvline(chance, color="0.3", lw=1, ls="--")
    axis.annotate(
        "chance", (chance, 1), (4, -3), xycoords=axis.get_xaxis_transform(), textcoords="offset points", va="top"
    )
    axis.set_yticks(heights, [*scores])
    axis.set(xlim=(0, 1.25 * max(max(high for *_, high in scores.values()), chance)), ylim=(-0.6, len(scores) - 0.3))
    axis.set(xlabel=f"right on {images} clean test images")
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.grid(axis="y", visible=False)
    return figure


def _quartiles(margins: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(np.stack([*margins.values()]), [0.25, 0.75], axis=2)
    return low, high


def _two_pixels(axis: Axes, loss: Plane, x: np.ndarray, epsilon: float, ball: str) -> None:
    """Grey levels of a loss on two pixels, and the allowed changes around x: a "box" or a "disc"."""
    ticks, values = loss
    axis.contourf(ticks, ticks, values, 12, cmap="Greys", alpha=0.6)
    u, v = x.tolist()
    outline: dict[str, Any] = {"fill": False, "ec": "black", "lw": 1.6}
    if ball == "box":
        axis.add_patch(plt.Rectangle((u - epsilon, v - epsilon), 2 * epsilon, 2 * epsilon, **outline))
    else:
        axis.add_patch(plt.Circle((u, v), epsilon, **outline))
    axis.plot(u, v, "o", color="black", markersize=6)
    axis.annotate("x", (u, v), (-11, -4), textcoords="offset points", fontsize=12)
    axis.set(xlim=(0.1, 0.9), ylim=(0.1, 0.9), aspect="equal", xlabel="first pixel", ylabel="second pixel")
    axis.set(xticks=[0.1, 0.3, 0.5, 0.7, 0.9], yticks=[0.1, 0.3, 0.5, 0.7, 0.9])
    axis.grid(False)


def _falling(
    axis: Axes,
    epsilons: Sequence[float],
    accuracies: Mapping[str, np.ndarray],
    intervals: Mapping[str, np.ndarray],
    images: int,
) -> None:
    """Accuracy against epsilon; the first three lines get the colours of noise, FGSM and PGD, in this order."""
    plotting.curves(
        axis,
        epsilons,
        accuracies,
        bands={attack: (low, high) for attack, (low, high) in intervals.items()},
        xlabel="epsilon (pixel intensity, 0 to 1)",
        ylabel=f"accuracy on {images} test images",
        ylim=(-0.03, 1.03),
    )


def _name_ends(axis: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names (height, name, colour) beside the right ends of lines; those that would overlap are pushed apart."""
    low, high = axis.get_ylim()
    position = -np.inf
    for end, name, color in sorted(ends):
        position = max(end, position + 0.075 * (high - low))
        place: dict[str, Any] = {"xycoords": axis.get_yaxis_transform(), "va": "center", "annotation_clip": False}
        axis.annotate(name, (1.04, position), color=color, fontsize=9.5, **place)


def _fraction(part: float) -> str:
    """A step size in units of epsilon: "ε / 4"."""
    return "ε" if part == 1 else f"ε / {1 / part:.3g}"


def _arrow(axis: Axes, start: np.ndarray, end: np.ndarray, color: str) -> None:
    style = {"arrowstyle": "-|>", "color": color, "lw": 2, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", tuple(end), tuple(start), arrowprops=style)


def _label(
    axis: Axes,
    text: str,
    point: np.ndarray | tuple[float, float],
    offset: tuple[float, float],
    color: str,
    **style: Any,
) -> None:
    """Words beside a point, `offset` printer's points away from it."""
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85}
    axis.annotate(text, tuple(point), offset, textcoords="offset points", color=color, fontsize=10, bbox=box, **style)
