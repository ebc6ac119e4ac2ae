"""The figures of lesson 03, supervised contrastive learning; the `circle` is drawn in lesson 04 as well."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anchor_utils import plotting

BLUE, ORANGE = plotting.BLUE, plotting.ORANGE  # what belongs to the anchor's class, and what does not
TEMPERATURE_COLORS = ("black", "#CC79A7", "#E69F00")


def in_percent(axis: Axes) -> None:
    """The y axis of shares in [0, 1], in percent."""
    axis.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))


def share_histogram(axis: Axes, cosines: np.ndarray, bins: int, color: str) -> None:
    """The share of the cosines (N,) in each of `bins` bins from -1 to 1; transparent, so that several may overlap."""
    edges, weights = np.linspace(-1, 1, bins + 1).tolist(), np.full(len(cosines), 1 / len(cosines))
    axis.hist(cosines, edges, weights=weights, color=color, alpha=0.6, linewidth=0)


def circle(
    axis: Axes,
    angles: np.ndarray,
    labels: np.ndarray,
    *,
    title: str = "",
    moves: np.ndarray | None = None,
    size: float = 36.0,
) -> None:
    """Unit vectors of the plane, given by their angles in radians, on the circle and coloured by class.

    `moves` (N,), signed lengths, are drawn as arrows along the circle, counter-clockwise if positive.
    `size` is the area of a point, in square points.
    """
    axis.add_patch(mpl.patches.Circle((0, 0), 1, fill=False, ec="0.7"))
    palette = sns.color_palette(None, int(labels.max()) + 1)
    colors = [palette[label] for label in labels]
    axis.scatter(np.cos(angles), np.sin(angles), c=colors, s=size, ec="white", zorder=3)
    if moves is not None:
        axis.quiver(
            np.cos(angles), np.sin(angles), -moves * np.sin(angles), moves * np.cos(angles),
            color=colors, angles="xy", scale_units="xy", scale=1, width=0.014, zorder=4,
        )  # fmt: skip
    axis.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), xticks=[], yticks=[], aspect="equal")
    for side in axis.spines.values():
        side.set_visible(False)
    axis.set_title(title)


def batch_matrices(
    cosines: np.ndarray, guess: np.ndarray, target: np.ndarray, labels: np.ndarray, *, anchor: int
) -> Figure:
    """The three matrices of a small batch side by side, one row for each anchor, with the diagonal crossed out.

    Args:
        cosines: (M, M), in [-1, 1].
        guess, target: (M, M), each row a distribution over the others; shades end at 0.5.
        labels: (M,), sorted; a blue square frames the pairs of a class.
        anchor: the row that is framed in orange.
    """
    size = len(labels)
    classes, starts = np.unique(labels, return_index=True)
    ends = np.append(starts[1:], size)
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 4.1))
    panels = (
        ("cosine $c_{ij}$", cosines, "RdBu_r", -1, 1),
        ("guess $q_{ij}$", guess, "Greys", 0, 0.5),
        ("target", target, "Greys", 0, 0.5),
    )
    for axis, (title, matrix, colors, low, high) in zip(axes, panels, strict=True):
        image = axis.imshow(np.ma.masked_array(matrix, np.eye(size, dtype=bool)), cmap=colors, vmin=low, vmax=high)
        figure.colorbar(image, ax=axis, orientation="horizontal", shrink=0.75, aspect=25, pad=0.03)
        for i in range(size):
            axis.plot([i - 0.35, i + 0.35], [i - 0.35, i + 0.35], color="0.6", linewidth=1)
        for start, end in zip(starts, ends, strict=True):
            corner, width = (start - 0.5, start - 0.5), end - start
            axis.add_patch(mpl.patches.Rectangle(corner, width, width, fill=False, ec=BLUE, lw=2))
        axis.add_patch(mpl.patches.Rectangle((-0.5, anchor - 0.5), size, 1, fill=False, ec=ORANGE, lw=2, zorder=3))
        axis.set(title=title, yticks=[])
        axis.set_xticks((starts + ends - 1) / 2, [f"class {k}" for k in classes])
        axis.tick_params(length=0)
        axis.grid(False)
    axes[0].set_yticks([anchor], ["one\nanchor"], color=ORANGE)
    axes[0].set_ylabel("anchors $i$, one row each")
    return figure


# Of the arrows that show forces: one unit long on the axes, at whatever size the figure is shown.
_ARROWS: dict[str, Any] = {
    "angles": "xy",
    "scale_units": "xy",
    "scale": 1,
    "width": 0.013,
    "headlength": 4,
    "zorder": 4,
}


def temperature_frames(
    anchor: np.ndarray, points: np.ndarray, target: np.ndarray, guesses: Mapping[float, np.ndarray]
) -> Iterator[Figure]:
    """What a single anchor does to the others, one frame a temperature: arrows of target minus guess.

    At the left they stand on the points, up for pulled and down for pushed; at the right, where the points are sorted
    from the nearest to the farthest, they lead from the guess (grey bar) to the target (black line).

    Args:
        anchor: (2,), at the top of the unit circle, so that a force along it is vertical.
        points: (N, 2) on the unit circle, named A, B, C, ...
        target: (N,), above 0 for the positives, which are blue.
        guesses: for each temperature the guess (N,).
    """
    for tau, guess in guesses.items():
        figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.1), width_ratios=[1, 1.25])
        _forces(left, anchor, points, target, guess)
        _guess_and_target(right, points @ anchor, target, guess)
        left.text(0, 0, f"$\\tau$ = {tau:g}", ha="center", va="center", fontsize=13)
        yield figure


def _names(count: int) -> list[str]:
    return [chr(ord("A") + j) for j in range(count)]


def _sides(target: np.ndarray) -> list[str]:
    return [BLUE if value else ORANGE for value in target]


def _forces(axis: Axes, anchor: np.ndarray, points: np.ndarray, target: np.ndarray, guess: np.ndarray) -> None:
    side = _sides(target)
    axis.add_patch(mpl.patches.Circle((0, 0), 1, fill=False, ec="0.75"))
    axis.plot(*anchor, marker="*", markersize=14, color="black")
    axis.text(0, 1.14, "anchor", ha="center", fontsize=9)
    axis.scatter(points[:, 0], points[:, 1], c=side, s=34, zorder=3)
    axis.quiver(*points.T, np.zeros(len(points)), target - guess, color=side, **_ARROWS)
    for (x, y), name, color in zip(points.tolist(), _names(len(points)), side, strict=True):
        axis.text(1.2 * x, 1.16 * y, name, color=color, ha="center", va="center", fontweight="bold")
    axis.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), xticks=[], yticks=[], aspect="equal")
    axis.spines[:].set_visible(False)


def _guess_and_target(axis: Axes, cosines: np.ndarray, target: np.ndarray, guess: np.ndarray) -> None:
    side, order, names = _sides(target), np.argsort(-cosines), _names(len(target))
    rank = np.argsort(order)
    axis.bar(rank, guess, width=0.62, color="0.85")
    axis.hlines(target, rank - 0.36, rank + 0.36, color="black", linewidth=2)
    axis.quiver(rank, guess, np.zeros(len(rank)), target - guess, color=side, **_ARROWS)
    axis.set(ylim=(-0.03, 0.93), xticks=range(len(rank)), ylabel="share", xlabel="from nearest to farthest")
    axis.set_xticklabels([names[j] for j in order], fontweight="bold")
    for label, j in zip(axis.get_xticklabels(), order, strict=True):
        label.set_color(side[j])
    axis.text(0.98, 0.97, "grey: guess $q$\nblack: target", transform=axis.transAxes, ha="right", va="top", fontsize=9)
    in_percent(axis)


def descent_filmstrip(
    paths: Mapping[float, tuple[np.ndarray, np.ndarray]],
    labels: np.ndarray,
    shown: Sequence[int],
    gaps: Mapping[float, tuple[np.ndarray, np.ndarray]],
) -> Figure:
    """Points on a circle, one row a temperature, one column a step; the angles between groups in the last column.

    Args:
        paths: for each temperature the angles (S, N) in radians at every step, and the losses, which are not drawn.
        labels: (N,), the classes of the points.
        shown: the steps of the columns.
        gaps: for each temperature, of the last step shown: where the groups lie (K,) in radians, in order, and how far
            each is from the next one counter-clockwise (K,) in degrees.
    """
    figure, axes = plt.subplots(len(paths), len(shown), figsize=(10, 6.2))
    for row, (tau, (angles, _)), color in zip(axes, paths.items(), TEMPERATURE_COLORS, strict=True):
        for axis, step in zip(row, shown, strict=True):
            circle(axis, angles[step], labels)
        for place, gap in zip(*gaps[tau], strict=True):
            middle = place + math.radians(gap) / 2
            x, y = 0.62 * math.cos(middle), 0.62 * math.sin(middle)
            row[-1].text(x, y, f"{gap:.0f}°", ha="center", va="center", fontsize=9, color="0.3")
        row[0].set_ylabel(f"$\\tau$ = {tau:g}", rotation=0, ha="right", va="center", color=color, fontweight="bold")
    for axis, step in zip(axes[0], shown, strict=True):
        axis.set_title(f"step {step}")
    return figure


def start_and_floor(
    first: Mapping[str, np.ndarray], training: tuple[np.ndarray, np.ndarray], start: float, floor: float
) -> Figure:
    """Losses in nats between where they start and their floor, which are dotted lines.

    Args:
        first: for each run, at the left, the losses (S,) of its first steps.
        training: epochs (E,) and losses (E,), at the right.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), sharey=True, width_ratios=[1.4, 1])
    top = 1.15 * max(start, *(losses.max() for losses in first.values()))
    steps = list(range(1, len(next(iter(first.values()))) + 1))
    plotting.curves(left, steps, first, xlabel="step", ylabel="SupCon loss (nats)", ylim=(0, top), percent=False)
    right.plot(*training, color=BLUE, marker="o")
    right.annotate(
        "the whole training", (training[0][0], training[1][0]), (10, 4), textcoords="offset points", color=BLUE
    )
    for axis in (left, right):
        for value in (start, floor):
            axis.axhline(value, color="black", linestyle=":", linewidth=1.2)
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    left.set_title("the first steps")
    right.set(xlabel="epoch", title="all epochs")
    for value, text, gap, va in (
        (start, f"$\\log(2N - 1)$ = {start:.2f} (eq. 6)", 4, "bottom"),
        (floor, f"floor {floor:.2f} (eq. 7)", -4, "top"),
    ):
        right.annotate(
            text, (0.97, value), (0, gap), xycoords=right.get_yaxis_transform(), textcoords="offset points",
            ha="right", va=va, fontsize=10,
        )  # fmt: skip
    return figure


def neighbours(rows: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]]) -> Figure:
    """One row an image: the image at the left, then its nearest ones, framed in blue if they are of its class.

    Args:
        rows: name, image (C, H, W) in [0, 1], its nearest (K, C, H, W), and bool (K,): of its class. All have one K.
    """
    count = len(rows[0][2])
    ratios = [1.0, 0.45, *[1.0] * count]
    figure, axes = plt.subplots(
        len(rows), count + 2, figsize=(0.92 * count + 1.9, 0.95 * len(rows)), width_ratios=ratios
    )
    for line, (name, image, nearest, own) in zip(axes, rows, strict=True):
        plotting.draw_neighbours(line, image, nearest, own, name=name)
    axes[0, 0].set_title("test image", fontsize=10, fontweight="normal")
    over = axes[0, 2].annotate(
        "nearest training images, the nearest first", (0, 1), (0, 6), xycoords="axes fraction",
        textcoords="offset points", fontsize=10,
    )  # fmt: skip
    over.set_in_layout(False)  # it is wider than its column
    return figure


def examination(
    candidates: Sequence[str], questions: Mapping[str, Mapping[str, np.ndarray]], chance: Mapping[str, float]
) -> Figure:
    """Accuracies with intervals, one panel a question, one row a candidate, one colour an examiner.

    Args:
        candidates: names (C,), from the top.
        questions: for each question and examiner accuracy, low and high (3, C) in [0, 1].
        chance: for each question the accuracy of guessing, a dotted line.
    """
    figure, axes = plt.subplots(
        1, len(questions), figsize=(9.5, 2.9), sharey=True, squeeze=False, gridspec_kw={"wspace": 0.1}
    )
    for axis, (question, examiners) in zip(axes[0], questions.items(), strict=True):
        shifts = 0.26 * (np.arange(len(examiners)) - (len(examiners) - 1) / 2)
        for (name, (value, low, high)), shift, color in zip(
            examiners.items(), shifts, ("black", "#009E73"), strict=True
        ):
            heights = np.arange(len(candidates)) + shift
            errors = np.maximum([value - low, high - value], 0)  # at 0% or 100% rounding may put the end past the point
            axis.errorbar(value, heights, xerr=errors, fmt="o", color=color, capsize=3, label=name)
        axis.axvline(chance[question], color="0.4", linestyle=":", linewidth=1.2)
        axis.set(title=question, xlim=(0, 1.03), xlabel="accuracy")
        axis.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    axes[0, 0].set_yticks(range(len(candidates)), candidates)
    axes[0, 0].invert_yaxis()
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def pair_cosines(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], medians: Mapping[str, tuple[float, float]], lowest: float
) -> Figure:
    """Histograms of the cosines of two kinds of pairs, one panel a representation, with a bracket over the medians.

    Args:
        pairs: for each representation the cosines within classes (P,) and between them (Q,).
        medians: those of both kinds.
        lowest: a dotted line in the last panel, the lowest mean cosine that gathered classes can have.
    """
    figure, axes = plt.subplots(1, len(pairs), figsize=(10.5, 3.4), sharex=True)
    for axis, (name, (within, between)) in zip(axes, pairs.items(), strict=True):
        share_histogram(axis, within, 60, BLUE)
        share_histogram(axis, between, 60, ORANGE)
        axis.set(title=name, xlabel="cosine of the pair", xticks=[-1, -0.5, 0, 0.5, 1])
        top = axis.get_ylim()[1]
        axis.set_yticks([tick for tick in axis.get_yticks() if tick <= top])
        axis.set_ylim(0, 1.25 * top)
        high, low = medians[name]
        axis.annotate(
            "", (high, 1.08 * top), (low, 1.08 * top),
            arrowprops={"arrowstyle": "|-|, widthA=0.3, widthB=0.3", "color": "0.3", "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
        words = f"medians {high - low:.2f} apart"
        axis.text(min((high + low) / 2, 0.6), 1.11 * top, words, ha="center", fontsize=9)
        in_percent(axis)
    axes[0].set_ylabel("share of the pairs of its kind")
    axes[0].text(0.05, 0.6, "same class", color=BLUE, transform=axes[0].transAxes)
    axes[0].text(0.05, 0.5, "different classes", color=ORANGE, transform=axes[0].transAxes)
    axes[-1].axvline(lowest, ymax=0.72, color="black", linestyle=":", linewidth=1.2)
    axes[-1].annotate(
        "lowest mean\npossible for\ndifferent classes", (lowest, 0.7), xycoords=("data", "axes fraction"),
        xytext=(-6, 0), textcoords="offset points", fontsize=9, ha="right", va="top",
    )  # fmt: skip
    return figure


def distances_to_centres(to_own: Mapping[str, np.ndarray], to_other: Mapping[str, np.ndarray]) -> Figure:
    """For each kind of image (a panel) the cosines (N,) with the own class's centre against those with the next one.

    Images above the diagonal are nearer to a wrong centre: they are orange, and the title has their share.
    """
    figure, axes = plt.subplots(1, len(to_own), figsize=(11, 3.5), sharex=True, sharey=True)
    low = min(value.min() for value in [*to_own.values(), *to_other.values()]) - 0.03
    for axis, name in zip(axes, to_own, strict=True):
        nearer = to_own[name] > to_other[name]
        axis.plot([low, 1], [low, 1], color="0.5", linewidth=1)
        for chosen, color in ((nearer, BLUE), (~nearer, ORANGE)):
            axis.scatter(to_own[name][chosen], to_other[name][chosen], s=12, color=color, alpha=0.6, linewidth=0)
        axis.set_title(f"{name}:\n{1 - nearer.mean():.1%} nearer to another")
        axis.set(xlim=(low, 1.02), ylim=(low, 1.02))
        axis.set_xlabel("cosine with own centre")
    axes[0].set_ylabel("highest cosine\nwith another centre")
    axes[0].text(0.97, 0.03, "own group", transform=axes[0].transAxes, ha="right", fontsize=9, color="0.4")
    axes[0].text(0.03, 0.97, "wrong group", transform=axes[0].transAxes, va="top", fontsize=9, color="0.4")
    return figure
