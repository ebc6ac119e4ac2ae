"""The figures of lesson 07: how far features move, how classes stay apart, and maps of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anchor_utils import plotting

MOVES = {"adversarial": "PGD on\nthe label", "feature attack": "attack on\nthe feature"}  # names below the axis
NOWHERE = np.empty((0, 2))  # `names_at` of a map without names


# Ten colours that differ in lightness too (Okabe & Ito's, and three of Paul Tol's "muted"). No ten are safe for every
# colour-blind reader, so maps draw the number of a class as well.
CLASS_COLORS = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#000000"),
    *("#56B4E9", "#D55E00", "#882255", "#999933", "#332288"),
)


def class_colors(labels: np.ndarray) -> list[str]:
    """One colour a label; from the eleventh class on they repeat."""
    return [CLASS_COLORS[int(label) % len(CLASS_COLORS)] for label in labels]


def embedding_map(
    axis: Axes,
    points: np.ndarray,
    labels: np.ndarray,
    *,
    title: str = "",
    moved_to: np.ndarray | None = None,
    moved_wrong: np.ndarray | None = None,
    names_at: np.ndarray | None = None,
    size: float = 26.0,
) -> None:
    """A 2-D map (N, 2) on which each point is drawn as the number of its class, in the colour of that class.

    Beyond ten classes the points are dots. The name of a class stands, circled, at the median of its `points`, or of
    its `names_at` (N, 2), which are other positions of the same points; an empty array leaves the names out.

    Arrows lead from the first M points to `moved_to` (M, 2). Those of points that are misclassified
    after the move (`moved_wrong`) are drawn in black.
    """
    for label in np.unique(labels):
        marker = rf"$\mathbf{{{label}}}$" if label < 10 else "o"
        chosen = points[labels == label]
        color = CLASS_COLORS[label % len(CLASS_COLORS)]
        area = size if label < 10 else size / 3
        axis.scatter(chosen[:, 0], chosen[:, 1], color=color, marker=marker, s=area, linewidth=0)
    if moved_to is not None:
        start = points[: len(moved_to)]
        delta = moved_to - start
        wrong = np.zeros(len(moved_to), bool) if moved_wrong is None else moved_wrong
        for chosen, color, alpha in ((~wrong, "0.6", 0.5), (wrong, "black", 0.8)):
            axis.quiver(
                *start[chosen].T, *delta[chosen].T, angles="xy", scale_units="xy", scale=1,
                width=0.003, color=color, alpha=alpha,
            )  # fmt: skip
    names_at = points if names_at is None else names_at
    for label in np.unique(labels) if len(names_at) else ():
        color = CLASS_COLORS[label % len(CLASS_COLORS)]
        axis.annotate(
            str(label), np.median(names_at[labels == label], axis=0), ha="center", va="center", fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": color, "alpha": 0.85},
        )  # fmt: skip
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():  # a light frame all around: the two axes of a map have no meaning
        side.set(visible=True, color="0.85")
    axis.set_aspect("equal", "datalim")
    axis.set_title(title)


def displacements(
    displacement: Mapping[tuple[str, str], np.ndarray], crossed: Mapping[tuple[str, str], tuple[float, float, float]]
) -> Figure:
    """Left how far features move, right how many cross to another class: the methods side by side for each move.

    Args:
        displacement: for (method, move) the lengths (N,), in units of the distance between classes (eq. 1). A marker
            is their median, a thick bar the middle half, a thin line nine in ten.
        crossed: for (method, move) the share that crossed and the ends of its interval, in [0, 1]. What is missing
            here is left out.
    """
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.3))
    methods, moves = (list(dict.fromkeys(part)) for part in zip(*displacement, strict=True))
    for (method, move), lengths in displacement.items():
        color, marker = plotting.method_color(method), plotting.method_marker(method)
        position = moves.index(move) + 0.22 * (methods.index(method) - 1)
        q = np.quantile(lengths, [0.05, 0.25, 0.5, 0.75, 0.95])
        axes[0].plot([position] * 2, q[[0, 4]], color=color, linewidth=1.2)
        axes[0].plot([position] * 2, q[[1, 3]], color=color, linewidth=6, alpha=0.45, solid_capstyle="butt")
        axes[0].plot(position, q[2], color=color, marker=marker, markersize=7)
        if (method, move) in crossed:
            share, *interval = crossed[method, move]
            axes[1].plot([position] * 2, interval, color=color, linewidth=1.2)
            axes[1].plot(position, share, color=color, marker=marker, markersize=7)
    for m, method in enumerate(methods):
        axes[0].annotate(
            plotting.method_name(method), (0.02, 0.98 - 0.08 * m), xycoords="axes fraction",
            color=plotting.method_color(method), fontweight="bold", va="top",
        )  # fmt: skip
    axes[0].axhline(1, color="0.3", linestyle="--", linewidth=1)
    axes[0].annotate(
        "as far as from class to class", (-0.45, 1), (0, -4), textcoords="offset points", fontsize=9.5,
        color="0.3", va="top",
    )  # fmt: skip
    axes[0].set(title="how far: displacement r", ylim=(0, 1.15 * max(1.0, *(v.max() for v in displacement.values()))))
    axes[1].set(title="how many: crossed to another class", ylim=(-0.03, 1.03))
    axes[1].yaxis.set_major_formatter("{x:.0%}")
    for axis in axes:
        axis.set_xticks(range(len(moves)), [MOVES.get(move, move) for move in moves])
        axis.set_xlim(-0.5, len(moves) - 0.5)
        axis.grid(axis="x", visible=False)
    return figure


def class_separation(
    views: Sequence[str],
    knn: Mapping[str, Sequence[float]],
    bands: Mapping[str, tuple[Any, Any]],
    silhouette: Mapping[str, Sequence[float]],
    *,
    chance: float,
    images: int,
) -> Figure:
    """Left kNN accuracy, right silhouette of each method, over V views of the same images.

    Args:
        knn: accuracies (V,) in [0, 1] of each method. bands: their lower and upper ends, (V,) each.
        silhouette: (V,) in [-1, 1] of each method.
        chance: accuracy of guessing, a dashed line.
        images: their number, which stands at the axis.
    """
    figure, axes = plt.subplots(1, 2, figsize=(12, 3.9))
    x = range(len(views))
    left = {method: np.asarray(values) for method, values in knn.items()}
    right = {method: np.asarray(values) for method, values in silhouette.items()}
    plotting.curves(axes[0], x, left, bands=bands, xlabel="", ylabel=f"kNN accuracy, {images} test images")
    axes[0].axhline(chance, color="0.4", linestyle="--", linewidth=1)
    axes[0].annotate(
        "guessing the largest class", (0, chance), (0, 4), textcoords="offset points", fontsize=9, color="0.4"
    )
    axes[0].set_ylim(-0.03, 1.03)
    plotting.curves(axes[1], x, right, xlabel="", ylabel="silhouette", percent=False)
    axes[1].axhline(0, color="0.4", linestyle="--", linewidth=1)
    for axis in axes:
        axis.set_xticks(x, views)
    return figure


def weights_and_distances(
    weights: Mapping[int, np.ndarray], p: np.ndarray, feature_distance: np.ndarray, map_distance: np.ndarray
) -> Figure:
    """What t-SNE looks at. Left: the neighbours' weights by rank. Right: distance on the map against distance before.

    Args:
        weights: for three perplexities the weights (N - 1,) of one image's neighbours, largest first (eq. 4).
        p, feature_distance, map_distance: of all P pairs of some images, (P,) each, in the order of
            ``scipy.spatial.distance.pdist``: the weight of eq. 5 and the distances, without a unit. Pairs whose
            weight is above the average are orange.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2))
    for k, (perplexity, color) in enumerate(zip(weights, ("#0072B2", "#009E73", "#D55E00"), strict=True)):
        left.plot(range(1, len(weights[perplexity]) + 1), weights[perplexity], color=color, linewidth=2)
        left.annotate(
            f"perplexity {perplexity}", (0.98, 0.97 - 0.08 * k), xycoords="axes fraction", color=color,
            ha="right", va="top",
        )  # fmt: skip
    left.set(xscale="log", yscale="log", ylim=(1e-5, 2), title="one image, three perplexities")
    left.set(xlabel="neighbour's rank (logarithmic)", ylabel="its weight p in eq. 4")
    heavy = p > p.mean()
    for chosen, color, size in ((~heavy, "#999999", 3), (heavy, "#D55E00", 9)):
        right.scatter(feature_distance[chosen], map_distance[chosen], color=color, s=size, linewidth=0)
    of_heavy, of_rest = p[heavy].sum() / p.sum(), p[~heavy].sum() / p.sum()
    for place, color, text in (
        (0.97, "#B34A00", f"above-average p: {heavy.mean():.0%} of pairs, {of_heavy:.0%} of the weight"),
        (0.89, "0.4", f"all other pairs: {of_rest:.0%} of the weight"),
    ):
        right.annotate(text, (0.02, place), xycoords="axes fraction", color=color, va="top", fontsize=10)
    images = round((1 + np.sqrt(1 + 8 * len(p))) / 2)  # P = images (images - 1) / 2
    right.set(xlabel="distance of a pair in feature space", ylabel="distance on the map")
    right.set(title=f"all pairs of {images} images", ylim=(0, 1.25 * map_distance.max()))
    return figure


def joint_maps(
    maps: Mapping[str, Mapping[str, np.ndarray]],
    labels: np.ndarray,
    wrong: Mapping[str, np.ndarray],
    notes: Mapping[str, str],
    *,
    arrows: int = 40,
) -> Figure:
    """One column a method. Top: clean points, augmented ones as faint dots, arrows to the adversarial versions.

    Bottom: the adversarial points in the same map, with the names of the classes where the clean points are.

    Args:
        maps: for each method the points (N, 2) of its views "clean", "augmented" and "adversarial", from one fit.
        labels: (N,). wrong: for each method (N,), is the adversarial image misclassified? Its arrow is black then.
        notes: a text below each column.
        arrows: how many of the first images have one.
    """
    figure, axes = plt.subplots(2, len(maps), figsize=(12.5, 9.6), squeeze=False)
    for (top, bottom), (method, views) in zip(axes.T, maps.items(), strict=True):
        name = plotting.method_name(method)
        clean, adversarial = views["clean"], views["adversarial"]
        top.scatter(*views["augmented"].T, c=class_colors(labels), s=5, linewidth=0, alpha=0.3, zorder=0)
        embedding_map(
            top, clean, labels, title=f"{name}: clean", moved_to=adversarial[:arrows],
            moved_wrong=wrong[method][:arrows], size=30,
        )  # fmt: skip
        embedding_map(bottom, adversarial, labels, title=f"{name}: adversarial", names_at=clean, size=30)
        everything = np.concatenate(list(views.values()))
        middle, reach = (everything.max(0) + everything.min(0)) / 2, 0.53 * np.ptp(everything, axis=0).max()
        for axis in (top, bottom):
            axis.set_aspect("equal", "box")
            axis.set_xlim(middle[0] - reach, middle[0] + reach)
            axis.set_ylim(middle[1] - reach, middle[1] + reach)
        bottom.set_xlabel(notes[method])
    return figure


def maps_with_moves(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, str]], labels: np.ndarray, *, arrows: int = 40
) -> Figure:
    """Maps of several networks, two in a row, with arrows from clean to adversarial features.

    Args:
        panels: for each title the points (N, 2) of clean features and (M, 2) of the first M images' adversarial ones,
            whether these are misclassified (M,), which makes the arrow black, and a text below the map.
        labels: (N,).
        arrows: how many of the first images have one.
    """
    figure, axes = plt.subplots(
        (len(panels) + 1) // 2, 2, figsize=(12.5, 6.2 * ((len(panels) + 1) // 2)), squeeze=False
    )
    for axis, (title, (clean, moved, wrong, note)) in zip(axes.flat, panels.items(), strict=False):
        embedding_map(
            axis, clean, labels, title=title, moved_to=moved[:arrows], moved_wrong=wrong[:arrows], size=30
        )  # fmt: skip
        axis.set_xlabel(note)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    return figure


def starts_and_perplexities(
    maps: Mapping[tuple[int, int], np.ndarray], labels: np.ndarray, quality: Mapping[tuple[int, int], float]
) -> Figure:
    """Maps (N, 2) of the same features for (start, perplexity): a row a start, counted from 0, a column a perplexity.

    `labels` (N,); `quality` is the trustworthiness of each map and stands above it.
    """
    starts, perplexities = (list(dict.fromkeys(part)) for part in zip(*maps, strict=True))
    figure, axes = plt.subplots(len(starts), len(perplexities), figsize=(11, 7.4), squeeze=False)
    for (start, perplexity), points in maps.items():
        title = f"perplexity {perplexity}, start {start + 1}\ntrustworthiness {quality[start, perplexity]:.2f}"
        axis = axes[starts.index(start), perplexities.index(perplexity)]
        embedding_map(axis, points, labels, title=title, size=20)
    return figure


def arrows_in_fits(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    labels: np.ndarray,
    lengths: Mapping[str, np.ndarray],
    *,
    arrows: int = 60,
) -> Figure:
    """A map a panel, with arrows from its first points (N, 2) to its second ones (N, 2), both of classes `labels` (N,).

    `lengths` (N,) of the arrows are in units of the distance between classes; their median stands in the title.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(10, 5.2), squeeze=False)
    for axis, (title, (start, end)) in zip(axes[0], panels.items(), strict=True):
        embedding_map(axis, start, labels, moved_to=end[:arrows], size=22)
        axis.set_title(f"{title}\nmedian arrow {np.median(lengths[title]):.2f} of the distance between classes")
    return figure


def controls(points: np.ndarray, labelled: Mapping[str, np.ndarray], noise: np.ndarray) -> Figure:
    """The same map (N, 2) with several labels (N,), each below its title; at the right pure `noise` (M, 2)."""
    figure, axes = plt.subplots(1, len(labelled) + 1, figsize=(12.5, 4.7))
    for axis, (title, labels) in zip(axes, labelled.items(), strict=False):
        embedding_map(axis, points, labels, title=title, names_at=NOWHERE, size=24)
    axes[-1].scatter(*noise.T, c="0.35", s=9, linewidth=0)
    axes[-1].set_title(f"pure noise, perplexity 2\n{len(noise)} Gaussian vectors, no classes")
    axes[-1].set(xticks=[], yticks=[])
    axes[-1].spines[:].set(visible=True, color="0.85")
    axes[-1].set_aspect("equal", "datalim")
    return figure


# The points (N + M, 2) of a map, the N clean ones first, within [-1, 1], and whether the M adversarial ones are
# misclassified (M,).
Stage = tuple[np.ndarray, np.ndarray]


def _stage(axis: Axes, stage: Stage, labels: np.ndarray, title: str, *, arrows: int, **style: Any) -> None:
    points, wrong = stage
    clean, moved = points[: len(labels)], points[len(labels) :]
    embedding_map(axis, clean, labels, moved_to=moved[:arrows], moved_wrong=wrong[:arrows], **style)
    axis.set_title(title, fontsize=11)
    axis.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05))
    axis.set_aspect("equal", "box")


def _in_words(measured: Mapping[str, np.ndarray], epoch: int) -> str:
    return f"kNN {measured['clean kNN'][epoch]:.0%}, silhouette {measured['silhouette'][epoch]:.2f}"


def growing_maps(
    stages: Sequence[Stage], labels: np.ndarray, measured: Mapping[str, np.ndarray], *, arrows: int = 40
) -> Iterator[Figure]:
    """The frames of an animation: the maps of epoch 0, 1, ..., E, and up to two interpolated ones between them.

    Args:
        stages: E + 1 maps, which resemble one another.
        labels: (N,) of the clean points.
        measured: "clean kNN" and "silhouette", (E + 1,) each.
        arrows: how many of the first images have one, black if misclassified.
    """
    epochs = len(stages) - 1
    between = min(3, max(1, 36 // epochs))
    for epoch, (points, wrong) in enumerate(stages):
        title = f"epoch {epoch} of {epochs}: {_in_words(measured, epoch)}"
        for t in np.arange(between) / between if epoch < epochs else [0.0]:
            frame = points if t == 0 else (1 - t) * points + t * stages[epoch + 1][0]
            figure, axis = plt.subplots(figsize=(4.6, 4.8))
            _stage(axis, (frame, wrong), labels, title, arrows=arrows, size=26, names_at=NOWHERE)
            yield figure


def filmstrip(
    stages: Sequence[Stage], labels: np.ndarray, measured: Mapping[str, np.ndarray], *, arrows: int = 40
) -> Figure:
    """Up to six of the maps of `growing_maps`, evenly spread, and below them all that was `measured`, over the epochs.

    `measured` has "adversarial kNN" (E + 1,) too.
    """
    epochs = len(stages) - 1
    picked = np.unique(np.linspace(0, epochs, min(6, epochs + 1)).round().astype(int))
    figure = plt.figure(figsize=(12.5, 11.5))
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[3.3, 1])[:, 0]
    strip = list(top.subplots(2, (len(picked) + 1) // 2, squeeze=False).flat)
    for axis in strip:
        axis.set_axis_off()
    for axis, epoch in zip(strip, picked, strict=False):
        axis.set_axis_on()
        title = f"epoch {epoch}: {_in_words(measured, epoch)}"
        _stage(axis, stages[epoch], labels, title, arrows=arrows, size=20)
    left, right = bottom.subplots(1, 2)
    x, accuracies = range(epochs + 1), {name: measured[name] for name in ("clean kNN", "adversarial kNN")}
    plotting.curves(left, x, accuracies, xlabel="epoch", ylabel="kNN accuracy")
    left.set_ylim(-0.03, 1.03)
    silhouette = {"silhouette": measured["silhouette"]}
    plotting.curves(right, x, silhouette, xlabel="epoch", ylabel="clean features", percent=False)
    right.axhline(0, color="0.4", linestyle="--", linewidth=1)
    return figure
