"""The figures of lesson 02, adversarial training: arrays in, a matplotlib Figure out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anchor_utils import plotting

CLASSES = "#0072B2", "#B87A00"  # points and boxes of the two classes
REGIONS = "#D3E6F2", "#FBE9C6"  # where the network reads them
BROKEN = "#D5001C"

Decision = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Axis of a grid in the plane (G,); lead of class 1 on the grid (G, G), rows upwards; which boxes are whole (N,)."""


def training_frames(
    history: Mapping[str, Mapping[int, Decision]], points: np.ndarray, labels: np.ndarray, radius: float
) -> Iterator[Figure]:
    """One figure a moment of training: the plane of each method, side by side.

    Args:
        history: for each method and number of steps, what it decides; every method has the same moments.
        points: (N, 2), in the unit square.
        labels: their classes (N,), 0 or 1.
        radius: half the side of the boxes.
    """
    for step in next(iter(history.values())):
        figure, axes = plt.subplots(1, len(history), figsize=(6.6, 3.6))
        for axis, (method, moments) in zip(axes, history.items(), strict=True):
            title = f"{plotting.method_name(method)}: {_share_whole(moments[step])}"
            draw_plane(axis, moments[step], points, labels, radius, title)
        figure.suptitle(f"after {step} steps", fontsize=10)
        yield figure


def filmstrip(
    history: Mapping[str, Mapping[int, Decision]],
    steps: Sequence[int],
    points: np.ndarray,
    labels: np.ndarray,
    radius: float,
) -> Figure:
    """Chosen moments of `training_frames` side by side, a row a method."""
    figure, axes = plt.subplots(len(history), len(steps), figsize=(10.5, 5.8))
    for row, (method, moments) in zip(axes, history.items(), strict=True):
        for axis, step in zip(row, steps, strict=True):
            draw_plane(axis, moments[step], points, labels, radius, f"step {step}: {_share_whole(moments[step])}")
        row[0].set_ylabel(plotting.method_name(method), fontsize=11)
    return figure


def trades_path(
    decisions: Mapping[float, Decision],
    points: np.ndarray,
    labels: np.ndarray,
    radius: float,
    *,
    betas: Sequence[float],
    clean: np.ndarray,
    robust: np.ndarray,
    tested: int,
) -> Figure:
    """Planes of TRADES for three values of beta, and clean against robust accuracy as beta grows.

    Args:
        decisions: what the networks of three betas decide.
        points: (N, 2), in the unit square.
        labels: their classes (N,), 0 or 1.
        radius: half the side of the boxes.
        betas: (B,) in growing order.
        clean: accuracy (B,) on other points, in [0, 1].
        robust: share (B,) of their boxes that are whole.
        tested: how many other points there are.
    """
    figure, axes = plt.subplots(1, 4, figsize=(11.5, 3.5), width_ratios=[1, 1, 1, 1.25])
    *planes, axis = axes
    for plane, (beta, decision) in zip(planes, decisions.items(), strict=True):
        draw_plane(plane, decision, points, labels, radius, f"$\\beta$ = {beta:g}")
    axis.plot(clean, robust, "o-", color=plotting.method_color("trades"))
    for beta, *spot in zip(betas, clean, robust, strict=True):
        # The path arrives at its last point from the right.
        offset, side = ((8, 0), "left") if beta < betas[-1] else ((-8, 0), "right")
        axis.annotate(f"$\\beta$ = {beta:g}", spot, offset, textcoords="offset points", ha=side, va="center")
    _percent(axis.xaxis, axis.yaxis)
    for direction in (axis.xaxis, axis.yaxis):
        direction.set_major_locator(plt.MaxNLocator(4, steps=[1, 2, 4, 5, 10]))
    axis.margins(0.45, 0.12)
    axis.set(xlabel=f"clean accuracy, {tested} new points", ylabel="robust accuracy (grid)")
    axis.set_title("path as $\\beta$ grows")
    return figure


def price_of_attack(estimates: Mapping[str, Mapping[str, tuple[float, float, float]]], images: int) -> Figure:
    """Accuracies as points on a line, a row a method, with their intervals as bands.

    Args:
        estimates: method -> (accuracy, low, high) under the attack, a filled point, and then clean, an open one; the
            names of the two stand at the first method.
        images: how many there are.
    """
    figure, axis = plt.subplots(figsize=(8.5, 3))
    methods = [*estimates]
    for height, method in enumerate(reversed(methods)):
        color = plotting.method_color(method)
        axis.plot(
            [value for value, *_ in estimates[method].values()], [height] * 2, color=color, linewidth=1, alpha=0.5
        )
        for (name, (value, low, high)), face in zip(estimates[method].items(), (color, "white"), strict=True):
            axis.plot([low, high], [height] * 2, color=color, linewidth=4, alpha=0.3, solid_capstyle="butt")
            axis.plot(value, height, "o", color=color, markerfacecolor=face, markersize=7)
            if method == methods[0]:
                axis.annotate(name, (value, height), (0, 9), textcoords="offset points", ha="center", fontsize=10)
    axis.set_yticks(range(len(methods)), [plotting.method_name(method) for method in reversed(methods)])
    axis.set(xlim=(-0.04, 1.04), ylim=(-0.5, len(methods) - 0.3), xlabel=f"accuracy on {images} test images")
    _percent(axis.xaxis)
    return figure


def held_out_curves(
    epochs: Sequence[int],
    panels: Mapping[str, Mapping[str, np.ndarray]],
    *,
    warmup: float,
    images: int,
) -> Figure:
    """Held-out accuracy over the epochs, a line a method: clean and, at the right, under attack.

    Args:
        epochs: (E,).
        panels: title -> method -> accuracy (E,) in [0, 1].
        warmup: the epoch up to which epsilon of the training attack rises.
        images: how many there are.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 3.8), sharey=True)
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        ylabel = "accuracy" if axis is axes[0] else ""
        plotting.curves(axis, epochs, lines, xlabel="epoch", ylabel=ylabel, ylim=(-0.03, 1.03))
        axis.set_title(title)
    _mark_warmup(axes[-1], warmup, "epsilon rises", (1.03, 0.95))
    figure.suptitle(f"{images} held-out training images", fontsize=11)
    return figure


def margin_histograms(
    margins: Mapping[str, tuple[np.ndarray, np.ndarray]], intervals: Mapping[str, tuple[float, float]]
) -> Figure:
    """Margins of the true class, a panel a method: clean images filled in grey, the attacked ones as an outline.

    Args:
        margins: method -> margins (N,) in [-1, 1], clean and under attack.
        intervals: method -> interval of the share that is misread under attack.
    """
    figure, axes = plt.subplots(1, len(margins), figsize=(11.5, 3), sharey=True)
    bins = np.linspace(-1, 1, 21)
    for axis, (method, (clean, attacked)) in zip(axes, margins.items(), strict=True):
        color, images = plotting.method_color(method), len(clean)
        weights = np.full(images, 1 / images)
        axis.hist(clean, bins, weights=weights, color="0.82")
        axis.hist(attacked, bins, weights=weights, color=color, histtype="step", lw=1.8)
        axis.axvline(0, color="0.4", linewidth=0.8, ls="--")
        axis.set_title(plotting.method_name(method), color=color)
        low, high = intervals[method]
        note = f"misread\nunder attack:\n{(attacked <= 0).mean():.0%}\n[{low:.0%}, {high:.0%}]"
        axis.text(-0.84, 0.93, note, fontsize=9, va="top")
        axis.set(xlabel="margin", xticks=[-1, 0, 1], ylim=(0, 1.02))
        _percent(axis.yaxis)
    axes[0].set_ylabel(f"share of {images} test images")
    axes[0].text(0.62, 0.5, "clean", color="0.5", fontsize=10, ha="right")
    return figure


def mart_weights(
    weight: np.ndarray,
    divergence: np.ndarray,
    parts: Mapping[str, np.ndarray],
    shares: Mapping[str, np.ndarray],
) -> Figure:
    """Left: KL against MART's weight, a point an image. Right: how much of the KL term the largest weights carry.

    Args:
        weight: 1 minus the clean probability of the true class (N,); drawn from 0.0001 on.
        divergence: KL of each image (N,), in nats.
        parts: three named sets of images, (N,) booleans each: misread clean, only under attack, not at all.
        shares: the share (N,) of the term in the images with the 1, 2, ... N largest weights, with and without them.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), width_ratios=[1.1, 1])
    for row, ((name, chosen), color) in enumerate(zip(parts.items(), (BROKEN, "#E69F00", "#0072B2"), strict=True)):
        left.scatter(weight[chosen].clip(1e-4), divergence[chosen], s=16, alpha=0.7, color=color, linewidth=0)
        text = f"{name}: {int(chosen.sum())}"
        left.text(0.03, 0.93 - 0.08 * row, text, color=color, fontsize=10, transform=left.transAxes)
    left.set(xscale="log", xlabel="weight 1 - p(true class | clean image)", ylabel="KL (nats)")
    left.set_title(f"{len(weight)} training images")
    rank = np.arange(1, len(weight) + 1) / len(weight)
    for (name, share), color, dy in zip(shares.items(), ("#009E73", "0.45"), (0.09, -0.14), strict=True):
        right.plot(rank, share, color=color)
        right.text(0.52, float(np.interp(0.5, rank, share)) + dy, name, color=color, fontsize=10)
    right.set(xlabel="images, largest weight first", ylabel="share of the KL term", ylim=(0, 1.12), xlim=(0, 1))
    _percent(right.xaxis, right.yaxis)
    return figure


def overfitting(
    epochs: Sequence[int],
    attacked: Mapping[str, np.ndarray],
    clean: np.ndarray,
    *,
    best_epoch: int,
    warmup: float,
    images: int,
) -> Figure:
    """Accuracy over many epochs on few images: solid lines under attack, a dotted one on clean held-out images.

    Args:
        epochs: (E,).
        attacked: name -> accuracy (E,) under attack, in [0, 1]: training and held-out images.
        clean: accuracy (E,) on held-out images.
        best_epoch: of the checkpoint that is kept, marked by a vertical line.
        warmup: the epoch up to which epsilon of the training attack rises.
        images: how many there are to train on.
    """
    figure, axis = plt.subplots(figsize=(8, 3.8))
    lines = {**attacked, "held-out, clean": clean}
    plotting.curves(axis, epochs, lines, xlabel="epoch", ylabel="accuracy", ylim=(-0.03, 1.03))
    axis.lines[-1].set(linestyle=":", marker="", color="0.45")
    for text in axis.texts:
        if text.get_text() == "held-out, clean":
            text.set_color("0.45")
    axis.axvline(best_epoch, color="0.5", ls=":", linewidth=1)
    axis.annotate("best checkpoint", (best_epoch, 0), (-4, 0), ha="right", textcoords="offset points", fontsize=9)
    _mark_warmup(axis, warmup, "epsilon of the training attack rises", (1.2, 0.97))
    axis.set_title(f"PGD-AT on {images} images: solid under attack, dotted clean")
    return figure


def draw_plane(
    axis: Axes, decision: Decision, points: np.ndarray, labels: np.ndarray, radius: float, title: str = ""
) -> None:
    """Both sides of the boundary, the points with their boxes; boxes that are not whole are drawn thick in red.

    The arguments are those of `training_frames`, for one method and moment.
    """
    ticks, lead, whole = decision
    axis.contourf(ticks, ticks, lead, levels=[-1e9, 0, 1e9], colors=REGIONS)
    axis.contour(ticks, ticks, lead, levels=[0], colors="black", linewidths=1.2)
    colors = [CLASSES[label] for label in labels]
    for point, color, ok in zip(points, colors, whole, strict=True):
        left, bottom = (point - radius).tolist()
        box = plt.Rectangle((left, bottom), 2 * radius, 2 * radius, fill=False)
        box.set(edgecolor=color if ok else BROKEN, linewidth=0.7 if ok else 2, zorder=2 if ok else 3)
        axis.add_patch(box)
    axis.scatter(points[:, 0], points[:, 1], c=colors, s=9, zorder=4)
    axis.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], aspect="equal")
    axis.grid(False)
    axis.set_title(title, fontsize=10)


def _share_whole(decision: Decision) -> str:
    # In float32 as in the texts of the lesson, for the same rounding: as a double, 2.5% would become 2%, not 3%.
    return f"{decision[2].mean(dtype=np.float32):.0%} whole"


def _mark_warmup(axis: Axes, end: float, text: str, at: tuple[float, float]) -> None:
    """The epochs in which epsilon still rises, in grey, if there are any."""
    if end > 1:
        axis.axvspan(1, end, color="0.93", zorder=0)
        axis.annotate(text, at, fontsize=9, color="0.4", va="center")


def _percent(*directions: mpl.axis.Axis) -> None:
    for direction in directions:
        direction.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
