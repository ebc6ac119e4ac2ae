"""The figures of lesson 01, adversarial examples: arrays in, a matplotlib Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anchor_utils import plotting

# One colour an attack, the same in every figure of the lesson.
FGSM, PGD, NOISE = "#D55E00", "#009E73", "#0072B2"
TRUE, WRONG = "#0072B2", "#D55E00"  # classes

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


def curved_loss(
    loss: Plane,
    lead: Plane,
    x: np.ndarray,
    *,
    epsilon: float,
    one_step: np.ndarray,
    paths: Sequence[np.ndarray],
    unprojected: np.ndarray,
    path_losses: Sequence[np.ndarray],
    references: Mapping[str, float],
    step_size: float,
) -> Figure:
    """FGSM and PGD on two pixels with a curved loss, and the loss after each step.

    Args:
        loss: the loss, drawn in grey.
        lead: wrong logit minus true logit; the decision boundary is drawn where it is 0.
        x: the image (2,), pixels in [0, 1].
        epsilon: radius of the box, in pixel intensity.
        one_step: the point (2,) that FGSM reaches.
        paths: the points (T + 1, 2) of PGD, from `x` first and then from other starts.
        unprojected: where each step (T, 2) of the first path leads before the projection.
        path_losses: the loss (T + 1,) on each path.
        references: losses drawn as lines: "best in the box", "decision boundary" and "FGSM".
        step_size: of PGD, in pixel intensity.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.3), width_ratios=[1, 1, 0.95])
    for axis in axes[:2]:
        _two_pixels(axis, loss, x, epsilon, "box")
        axis.contour(lead[0], lead[0], lead[1], [0], colors=[NOISE], linewidths=1.6)
    _arrow(axes[0], x, one_step, FGSM)
    axes[0].plot(*one_step, "s", color=FGSM, markersize=7)
    _label(axes[0], "FGSM", one_step, (-38, 8), FGSM)
    _label(axes[0], "decision\nboundary", (0.62, 0.17), (0, 0), NOISE, ha="center", va="center")
    axes[0].set_title("One step of length ε")
    _draw_paths(axes[1], paths, unprojected)
    axes[1].set_title(f"{len(unprojected)} steps of length α = {step_size:g}")
    _draw_losses(axes[2], path_losses, references)
    return figure


def margin_histograms(panels: Mapping[str, tuple[np.ndarray, Mapping[str, float]]]) -> Figure:
    """Margins of one image, a panel a model: a histogram over random changes, a line for each found point.

    Args:
        panels: title -> margins (R,) after R random changes, and the margins "clean", after "FGSM" and after "PGD", all
            in units of the logits; below 0 the image is misread.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(10.5, 3.8), squeeze=False)
    for axis, (title, (random, marks)) in zip(axes[0], panels.items(), strict=True):
        heights, *_ = axis.hist(random, bins=20, color=NOISE, alpha=0.75)
        top = 1.45 * heights.max()
        values = [*marks.values()]
        edge = 0.12 * (max(*values, random.max()) - min(*values, random.min(), 0))
        axis.set_xlim(min(*values, 0) - edge, max(*values, random.max()) + edge)
        axis.axvspan(axis.get_xlim()[0], 0, color="0.93", zorder=0)
        colors = {"clean": "black", "FGSM": FGSM, "PGD": PGD}
        for height, (mark, value) in zip((0.97, 0.88, 0.79), marks.items(), strict=True):
            axis.axvline(value, ymax=height - 0.05, color=colors[mark], lw=2)
            axis.text(value, height * top, mark, color=colors[mark], ha="center", va="center")
        box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.9}
        text = f"{len(random)} × random signs"
        axis.text(random.mean(), 1.08 * heights.max(), text, color=NOISE, ha="center", va="center", bbox=box)
        axis.set(ylim=(0, top), yticks=[], xlabel="margin: true logit minus best other logit (below 0: misread)")
        axis.set_title(title)
        axis.spines.left.set_visible(False)
        axis.grid(False)
    return figure


def before_and_after(
    before: np.ndarray,
    after: np.ndarray,
    readings: tuple[str, str],
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
        readings: what the model reads in the two.
        chances: probabilities (2, K) of the classes, before and after.
        true: index of the true class; where it is not the likeliest after the attack, the reading is orange and bold.
        classes: their K names.
        epsilon: written over the change, in pixel intensity.
        title: of the bars.
    """
    figure, axes = plt.subplots(1, 4, figsize=(8.8, 2.6), width_ratios=[1, 1, 1, 2.1])
    plotting.draw_image(axes[0], before, f"before: {readings[0]}")
    plotting.draw_image(axes[1], after, f"after: {readings[1]}")
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


def falling_accuracy(
    epsilons: Mapping[str, Sequence[float]],
    accuracies: Mapping[str, Mapping[str, np.ndarray]],
    intervals: Mapping[str, Mapping[str, np.ndarray]],
    exact: np.ndarray,
    images: int,
) -> Figure:
    """Accuracy against epsilon, a line an attack: left for the network, right for the linear classifier.

    Args:
        epsilons: E radii in pixel intensity, for "network" and for "linear".
        accuracies: for each of the two, accuracy (E,) in [0, 1] under each attack.
        intervals: their low ends and their high ends (2, E).
        exact: the share (E,) of images that no attack on the linear classifier can break.
        images: how many there are.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 3.9))
    axes[1].fill_between(epsilons["linear"], 0, exact, color="0.85", lw=0)
    note = "no attack can\nbreak these\n(exact, eq. 4)"
    axes[1].text(0.02 * max(epsilons["linear"]), 0.06, note, color="0.3", fontsize=10)
    titles = {"network": "network", "linear": "linear classifier; smaller epsilons"}
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        plotting.curves(
            axis,
            epsilons[name],
            accuracies[name],
            bands={attack: (low, high) for attack, (low, high) in intervals[name].items()},
            xlabel="epsilon (pixel intensity, 0 to 1)",
            ylabel=f"accuracy on {images} test images" if name == "network" else "",
            ylim=(-0.03, 1.03),
        )
        axis.set_title(title)
    return figure


def loss_planes(
    planes: Sequence[tuple[np.ndarray, np.ndarray]], titles: Sequence[str], *, epsilon: float, extent: float
) -> Figure:
    """Heat maps of the loss on a plane through each of some images, on one scale of colours.

    Args:
        planes: for each image the losses (G, G) and, on the same grid, the best wrong logit minus the true one. The
            columns go along the sign of the gradient, the rows, upwards, along a random sign vector.
        titles: one an image.
        epsilon: radius of the allowed changes, drawn as a diamond, in pixel intensity.
        extent: the planes reach from -extent to extent, in pixel intensity.
    """
    limit = max(losses.max() for losses, _ in planes)
    figure, axes = plt.subplots(1, len(planes), figsize=(11, 4.3), sharey=True, squeeze=False)
    for axis, (losses, lead), title in zip(axes[0], planes, titles, strict=True):
        drawn = axis.imshow(losses, origin="lower", extent=(-extent, extent) * 2, cmap="magma", vmin=0, vmax=limit)
        # At (a, b) the pixels in which the two signs agree change by |a + b|, the others by |a - b|: the larger is
        # |a| + |b|.
        axis.plot([epsilon, 0, -epsilon, 0, epsilon], [0, epsilon, 0, -epsilon, 0], "--", color="white", lw=1)
        axis.plot(0, 0, "w+", markersize=10)
        if lead.min() < 0 < lead.max():
            ticks = np.linspace(-extent, extent, len(lead))
            axis.contour(ticks, ticks, lead, [0], colors="#56B4E9", linewidths=1.6)
        axis.set(xlabel="along the sign of the gradient", title=title)
        axis.grid(False)
    axes[0, 0].set_ylabel("along a random sign vector")
    figure.colorbar(drawn, ax=axes, label="cross-entropy", shrink=0.75)
    return figure


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


def _draw_paths(axis: Axes, paths: Sequence[np.ndarray], unprojected: np.ndarray) -> None:
    """PGD from x, with a cross where a step left the box before the projection, and thin from other starts."""
    first, *others = paths
    for path in others:
        axis.plot(*path.T, "-", color="0.25", lw=0.9)
        axis.plot(*path[0], "o", color="0.25", mfc="white", markersize=5)
        axis.plot(*path[-1], "o", color="0.25", markersize=4)
    for here, free, there in zip(first[:-1], unprojected, first[1:], strict=True):
        if not np.allclose(free, there, atol=1e-6):  # the step left the box, and the projection puts it back
            axis.plot(*np.stack([here, free, there]).T, ":", color=PGD, lw=1.3)
            axis.plot(*free, "x", color=PGD, markersize=6)
    axis.plot(*first.T, "o-", color=PGD, lw=2.2, markersize=4)
    _label(axis, "PGD", first[2], (-12, 10), PGD)


def _draw_losses(axis: Axes, path_losses: Sequence[np.ndarray], references: Mapping[str, float]) -> None:
    """The loss after each step of the paths, and losses to compare it with as dashed lines."""
    axis.set_box_aspect(1)
    first, *others = path_losses
    for losses in others:
        axis.plot(losses, color="0.25", lw=0.9)
    axis.plot(first, "o-", color=PGD)
    colors = {"best in the box": "black", "decision boundary": NOISE, "FGSM": FGSM}
    for name, value in references.items():
        color = colors[name]
        axis.axhline(value, color=color, lw=1.2, ls="--", zorder=1)
        axis.annotate(name, (1.02, value), xycoords=("axes fraction", "data"), color=color, va="center", fontsize=10)
    axis.set(xlabel="step", ylabel="loss", title="The loss on the way", xticks=range(0, len(first), 3))
    axis.set_ylim(0, 1.1 * references["best in the box"])


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
