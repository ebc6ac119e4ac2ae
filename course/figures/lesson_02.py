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
REGIONS = "#D3E6F2", "#FBE9C6"  # where the network sees them
BROKEN = "#D5001C"

Decision = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Axis of a grid in the plane (G,); logit margin of class 1 there (G, G), rows upwards; which boxes are whole (N,)."""


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


def epsilon_frames(
    decisions: Mapping[float, Decision],
    points: np.ndarray,
    labels: np.ndarray,
    right: np.ndarray,
    whole: np.ndarray,
    touching: float,
) -> Iterator[Figure]:
    """One figure an epsilon: the plane of the network that was trained with it, and where it stands on two curves.

    Args:
        decisions: epsilon -> what its network decides; in growing order.
        points: (N, 2), in the unit square.
        labels: their classes (N,), 0 or 1.
        right: share (E,) of the points that are right, in [0, 1].
        whole: share (E,) of the boxes that are whole.
        touching: the epsilon from which on boxes of different class overlap, marked by a line.
    """
    epsilons = [*decisions]
    for k, (epsilon, decision) in enumerate(decisions.items()):
        figure, (plane, axis) = plt.subplots(1, 2, figsize=(6.6, 3.1), width_ratios=[1, 1.1])
        draw_plane(plane, decision, points, labels, epsilon, f"trained with $\\varepsilon$ = {epsilon:g}")
        for name, share, color in (("points right", right, "0.35"), ("boxes whole", whole, CLASSES[0])):
            axis.plot(epsilons, share, "o-", color=color, markersize=3)
            axis.plot(epsilon, share[k], "o", color=color, markersize=9)
            above = name == "points right"
            axis.annotate(
                name,
                (epsilons[-1], share[-1]),
                (0, 9 if above else -9),
                textcoords="offset points",
                color=color,
                ha="right",
                va="bottom" if above else "top",
                fontsize=10,
            )
        axis.axvline(touching, color="0.7", linewidth=1)
        axis.text(touching, 0.02, " boxes overlap", color="0.45", fontsize=9)
        axis.set(xlabel="epsilon (side of the square: 1)", ylim=(0, 1.15), yticks=[0, 0.25, 0.5, 0.75, 1])
        _percent(axis.yaxis)
        yield figure


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
        draw_plane(plane, decision, points, labels, radius, f"$\\beta_{{TRADES}}$ = {beta:g}")
    axis.plot(clean, robust, "o-", color=plotting.method_color("trades"))
    _name_in_a_column(axis, [f"$\\beta_{{TRADES}}$ = {beta:g}" for beta in betas], clean, robust)
    _percent(axis.xaxis, axis.yaxis)
    for direction in (axis.xaxis, axis.yaxis):
        direction.set_major_locator(plt.MaxNLocator(4, steps=[1, 2, 4, 5, 10]))
    axis.margins(0.12)
    axis.set(xlabel=f"clean accuracy, {tested} new points", ylabel="robust accuracy (grid)")
    axis.set_title("path as $\\beta_{TRADES}$ grows")
    return figure


def price_of_robustness(
    epsilons: Sequence[float],
    falling: Mapping[str, np.ndarray],
    trained: float,
    estimates: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    attack: str,
    images: int,
    title: str,
) -> Figure:
    """Left: accuracy against the epsilon of the attack. Right: clean accuracy and that under an attack, other networks.

    Args:
        epsilons: (E,), beginning with 0.
        falling: method -> accuracy (E,) in [0, 1].
        trained: the epsilon of training, marked by a dashed line.
        estimates: method -> "pgd" and "clean" -> (accuracy, low, high); in the right panel a filled and an open point.
        attack: its name and steps, at the left.
        images: how many there are at the left.
        title: of the right panel.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9), width_ratios=[1.15, 1])
    plotting.curves(
        left, epsilons, falling, xlabel="epsilon of the attack (pixel intensity)", ylabel="accuracy", ylim=(-0.03, 1.03)
    )
    left.axvline(trained, color="0.4", linewidth=1, ls="--")
    left.set_title(f"{attack} on {images} test images")
    methods = [*estimates]
    for height, method in enumerate(reversed(methods)):
        color = plotting.method_color(method)
        ends = [estimates[method][attack][0] for attack in ("pgd", "clean")]
        right.plot(ends, [height] * 2, color=color, linewidth=1, alpha=0.5)
        for attack, face in (("pgd", color), ("clean", "white")):
            value, low, high = estimates[method][attack]
            right.plot([low, high], [height] * 2, color=color, linewidth=5, alpha=0.3, solid_capstyle="butt")
            right.plot(value, height, "o", color=color, markerfacecolor=face, markersize=7)
            if method == methods[0]:
                name = {"pgd": "attacked"}.get(attack, attack)
                right.annotate(name, (value, height), (0, 9), textcoords="offset points", ha="center", fontsize=10)
    right.set_yticks(range(len(methods)), [plotting.method_name(method) for method in reversed(methods)])
    right.set(xlim=(-0.03, 0.03 + max(row["clean"][2] for row in estimates.values())), ylim=(-0.5, len(methods) - 0.3))
    right.set(xlabel="accuracy")
    right.set_title(title)
    _percent(right.xaxis)
    return figure


def mart_shares(shares: Mapping[str, Sequence[float]], groups: Sequence[str], images: int) -> Figure:
    """One bar a quantity, split into groups of images, each labelled with its share.

    Args:
        shares: what is shared out -> share of each group, adding up to 1.
        groups: three names, of the parts from left to right.
        images: how many there are.
    """
    figure, axis = plt.subplots(figsize=(9, 2.7))
    colors = BROKEN, "#E69F00", "#0072B2"
    for height, parts in enumerate(reversed([*shares.values()])):
        left = 0.0
        for part, color in zip(parts, colors, strict=True):
            axis.barh(height, part, left=left, color=color, height=0.62)
            if part > 0.045:
                axis.text(left + part / 2, height, f"{part:.0%}", ha="center", va="center", color="white")
            left += part
    for group, color, x in zip(groups, colors, (0.0, 0.27, 0.66), strict=True):
        axis.text(x, len(shares) - 0.45, group, color=color, fontsize=10)
    axis.set_yticks(range(len(shares)), [*reversed([*shares])])
    axis.set(xlim=(0, 1), ylim=(-0.5, len(shares) - 0.1), xlabel=f"share, {images} training images")
    axis.grid(False)
    _percent(axis.xaxis)
    return figure


def collapse(steps: Sequence[int], lines: Mapping[str, np.ndarray]) -> Figure:
    """Accuracy over the steps of a training: clean in grey, under FGSM, and under PGD in red.

    Args:
        steps: (T,).
        lines: accuracies (T,) in [0, 1] by the names "clean", "fgsm" and "pgd".
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.4))
    looks = {"clean": ("0.55", ":", "clean"), "fgsm": ("#0072B2", "-", "FGSM"), "pgd": (BROKEN, "-", "PGD")}
    position = -1.0
    for attack, line in sorted(lines.items(), key=lambda item: float(item[1][-1])):
        color, style, name = looks[attack]
        axis.plot(steps, line, ls=style, color=color, marker="o", markersize=4)
        position = max(float(line[-1]), position + 0.08)  # labels pushed apart
        spot = (1.02, position)
        axis.annotate(name, spot, xycoords=axis.get_yaxis_transform(), color=color, va="center", annotation_clip=False)
    axis.set(xlabel="training steps", ylabel="accuracy, test images", ylim=(-0.03, 1.03))
    axis.set_title("trained with FGSM, attacked on the way")
    _percent(axis.yaxis)
    return figure


def loss_surfaces(surfaces: Mapping[str, np.ndarray]) -> Figure:
    """A map a network, on one logarithmic scale: the loss in the plane of the image, FGSM's point and PGD's point.

    Args:
        surfaces: name -> loss (G, G) in nats; the first row leads from the image to FGSM's point, the first column
            from the image to PGD's.
    """
    figure, axes = plt.subplots(1, len(surfaces), figsize=(11, 3.5), sharey=True)
    lowest, highest = (pick([pick(loss) for loss in surfaces.values()]) for pick in (np.min, np.max))
    # A little wider than the losses: rounding must not leave holes, and equal losses are a scale too.
    levels = np.geomspace(0.98 * max(lowest, 1e-4), 1.02 * max(highest, 2e-4), 16)
    for axis, (name, loss) in zip(axes, surfaces.items(), strict=True):
        share = np.linspace(0, 1, len(loss))
        filled = axis.contourf(share, share, loss.clip(1e-4), levels=levels, norm=mpl.colors.LogNorm())
        for point, (x, y), (dx, dy) in (("image", (0, 0), (1, 1)), ("FGSM", (1, 0), (-1, 1)), ("PGD", (0, 1), (1, -1))):
            axis.plot(x, y, "o", color="white", markeredgecolor="black", markersize=8, clip_on=False, zorder=5)
            axis.annotate(
                point,
                (x, y),
                (9 * dx, 9 * dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right",
                va="bottom" if dy > 0 else "top",
                fontsize=9,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
            )
        axis.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        axis.set_title(name)
        axis.grid(False)
    figure.colorbar(filled, ax=axes, label="loss (nats)", format="%.2g", ticks=levels[::3])
    axes[0].set_ylabel("share of PGD's change")
    figure.supxlabel("share of FGSM's change", fontsize=11)
    return figure


def generalisation(
    epochs: Sequence[int], attacked: Mapping[str, np.ndarray], clean: np.ndarray, *, warmup: float, images: int
) -> Figure:
    """Accuracy over many epochs on few images: solid lines under attack, a dotted one on clean held-out images.

    Args:
        epochs: (E,).
        attacked: name -> accuracy (E,) under attack, in [0, 1]: training and held-out images.
        clean: accuracy (E,) on held-out images.
        warmup: the epoch up to which epsilon of the training attack rises.
        images: how many there are to train on.
    """
    figure, axis = plt.subplots(figsize=(8, 3.6))
    lines = {**attacked, "held-out, clean": clean}
    plotting.curves(axis, epochs, lines, xlabel="epoch", ylabel="accuracy", ylim=(-0.03, 1.03))
    axis.lines[-1].set(linestyle=":", marker="", color="0.45")
    for text in axis.texts:
        if text.get_text() == "held-out, clean":
            text.set_color("0.45")
    if warmup > 1:
        axis.axvspan(1, warmup, color="0.93", zorder=0)
        axis.annotate("epsilon of the training attack rises", (1.2, 0.97), fontsize=9, color="0.4", va="center")
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


def _name_in_a_column(axis: Axes, names: Sequence[str], x: np.ndarray, y: np.ndarray) -> None:
    """Names of points right of an axis, a line from each to its point: near points cannot make names collide."""
    heights = np.linspace(0.1, 0.9, len(names))
    for height, k in zip(heights, np.argsort(y, kind="stable"), strict=True):
        axis.annotate(
            names[k],
            (x[k], y[k]),
            (1.04, height),
            textcoords="axes fraction",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.8, "shrinkB": 4},
        )


def _share_whole(decision: Decision) -> str:
    # In float32 as in the texts of the lesson, for the same rounding: as a double, 2.5% would become 2%, not 3%.
    return f"{decision[2].mean(dtype=np.float32):.0%} whole"


def _percent(*directions: mpl.axis.Axis) -> None:
    for direction in directions:
        direction.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
