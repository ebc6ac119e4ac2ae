"""The figures of lesson 07: maps of data that is known, how far features move, how classes stay apart, maps of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anchor_utils import plotting

BLUE, ORANGE = plotting.BLUE, plotting.ORANGE
VIEWS = {  # names below an axis
    "adversarial": "PGD on\nthe label",
    "feature attack": "attack on\nthe feature",
    "adversarial references": "PGD, attacked\nreferences",
}
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
    _no_axes(axis)
    axis.set_aspect("equal", "datalim")
    axis.set_title(title)


def truth_and_map(
    points: np.ndarray, on_map: np.ndarray, kind: np.ndarray, names: Sequence[str], *, perplexity: float
) -> Figure:
    """Left the points (N, 2) as they are, with an axis; right their t-SNE map (N, 2), which has none.

    `kind` (N,) numbers the group of each point; `names` of the groups stand beside them on the left, their first
    letters on the map.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.4), width_ratios=[1.75, 1])
    for axis, where in ((left, points), (right, on_map)):
        axis.scatter(*where.T, c=class_colors(kind), s=9, linewidth=0)
        axis.set_aspect("equal", "box" if axis is left else "datalim")
    for k, name in enumerate(names):
        ink = CLASS_COLORS[k]
        top = points[kind == k].max(0)
        middle = points[kind == k].mean(0)
        left.annotate(
            name, (middle[0], top[1]), (0, 6), textcoords="offset points", ha="center", va="bottom", color=ink,
            fontsize=9.5,
        )  # fmt: skip
        right.annotate(
            name[0], (on_map[kind == k].mean(0)[0], on_map[kind == k].max(0)[1]), (0, 4),
            textcoords="offset points", ha="center", color=ink, fontweight="bold",
        )  # fmt: skip
    left.set(title="the data: two dimensions, all distances known", xlabel="length", ylabel="length")
    left.set_xlim(points[:, 0].min() - 2, points[:, 0].max() + 2)
    left.set_ylim(points[:, 1].min() - 1.5, points[:, 1].max() + 2.5)
    right.margins(0.12)
    _no_axes(right)
    right.set_title(f"its t-SNE map, perplexity {perplexity:g}")
    return figure


def _no_axes(axis: Axes) -> None:
    """A light frame all around: the two axes of a map have no meaning."""
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set(visible=True, color="0.85")


def rulers_and_distances(
    sigma: np.ndarray,
    kind: np.ndarray,
    names: Sequence[str],
    p: np.ndarray,
    distance: np.ndarray,
    map_distance: np.ndarray,
) -> Figure:
    """What t-SNE looks at. Left: the width of each point's Gaussian. Right: distance on the map against true distance.

    Args:
        sigma: (N,), of eq. 1, in the unit of the data. kind: (N,), the group of each point. names: of the groups.
        p, distance, map_distance: of all P pairs, (P,) each, in the order of ``scipy.spatial.distance.pdist``: the
            weight of eq. 2 and the distances. Pairs whose weight is above the average are orange.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.1), width_ratios=[1, 1.6])
    for k in range(len(names)):  # side by side, so that no point hides another
        own = sigma[kind == k]
        left.scatter(k + np.linspace(-0.25, 0.25, len(own)), own, color=CLASS_COLORS[k], s=12, linewidth=0)
    left.set_xticks(range(len(names)), names)
    left.set(yscale="log", ylabel="width of its Gaussian (unit of the data)", title="every point brings its own ruler")
    left.grid(axis="x", visible=False)
    heavy = p > p.mean()
    for chosen, color, size in ((~heavy, "#999999", 4), (heavy, ORANGE, 9)):
        right.scatter(distance[chosen], map_distance[chosen], color=color, s=size, linewidth=0)
    of_heavy, of_rest = p[heavy].sum() / p.sum(), p[~heavy].sum() / p.sum()
    for place, color, text in (
        (0.98, "#B34A00", f"above-average p: {heavy.mean():.0%} of pairs, {of_heavy:.0%} of the weight"),
        (0.91, "0.4", f"all other pairs: {of_rest:.0%} of the weight"),
    ):
        right.annotate(text, (0.02, place), xycoords="axes fraction", color=color, va="top", fontsize=10)
    together = (kind[:, None] == kind)[np.triu_indices(len(kind), 1)]
    for chosen, text in ((together, "pairs within a group"), (~together, "pairs of two groups")):
        right.annotate(
            text, (np.median(distance[chosen]), map_distance[chosen].max()), (0, 6), textcoords="offset points",
            ha="center", fontsize=10,
        )  # fmt: skip
    right.set(xscale="log", ylim=(0, 1.35 * map_distance.max()), title="every pair of points")
    right.set(xlabel="true distance (logarithmic)", ylabel="distance on the map")
    return figure


def toy_and_noise(toy: np.ndarray, kind: np.ndarray, noise: np.ndarray, titles: tuple[str, str]) -> Figure:
    """A frame of the slider: the maps (N, 2) of the groups `kind` (N,), and (M, 2) of noise, which has none."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.3))
    axes[0].scatter(*toy.T, c=class_colors(kind), s=6, linewidth=0)
    axes[1].scatter(*noise.T, c="0.35", s=6, linewidth=0)
    for axis, title in zip(axes, titles, strict=True):
        _no_axes(axis)
        axis.set_aspect("equal", "datalim")
        axis.set_title(title, fontsize=10)
    return figure


def displacements(
    displacement: Mapping[tuple[str, str], np.ndarray], crossed: Mapping[tuple[str, str], tuple[float, float, float]]
) -> Figure:
    """Left how far features move, right how many cross to another class: the methods side by side for each move.

    Args:
        displacement: for (method, move) the lengths (N,), in units of the distance between classes (eq. 4). A marker
            is their median, a thick bar the middle half, a thin line nine in ten.
        crossed: for (method, move) the share that crossed and the ends of its interval, in [0, 1]. What is missing
            here is left out.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.3))
    methods, moves = (list(dict.fromkeys(part)) for part in zip(*displacement, strict=True))
    for (method, move), lengths in displacement.items():
        color, marker = plotting.method_color(method), plotting.method_marker(method)
        position = _beside(moves.index(move), method, methods)
        q = np.quantile(lengths, [0.05, 0.25, 0.5, 0.75, 0.95])
        left.plot([position] * 2, q[[0, 4]], color=color, linewidth=1.2)
        left.plot([position] * 2, q[[1, 3]], color=color, linewidth=6, alpha=0.45, solid_capstyle="butt")
        left.plot(position, q[2], color=color, marker=marker, markersize=7)
    _dots(right, methods, moves, crossed)
    _names(right, methods)
    left.axhline(1, color="0.3", linestyle="--", linewidth=1)
    left.annotate(
        "as far as from class to class", (-0.45, 1), (0, -4), textcoords="offset points", fontsize=9.5,
        color="0.3", va="top",
    )  # fmt: skip
    left.set(title="how far: displacement r", ylabel="r (distances between class centres)")
    left.set_ylim(0, 1.15 * max(1.0, *(v.max() for v in displacement.values())))
    right.set(title="how many: nearest to another class", ylim=(-0.03, 1.03), ylabel="share that crossed")
    right.yaxis.set_major_formatter("{x:.0%}")
    _views(left, moves)
    return figure


def _beside(place: int, method: str, methods: Sequence[str]) -> float:
    return place + 0.22 * (methods.index(method) - (len(methods) - 1) / 2)


def _dots(
    axis: Axes,
    methods: Sequence[str],
    views: Sequence[str],
    values: Mapping[tuple[str, str], tuple[float, float, float]],
) -> None:
    """A marker and the line of its interval (value, low, high) for each (method, view), the methods side by side."""
    for (method, view), (value, *interval) in values.items():
        color, marker = plotting.method_color(method), plotting.method_marker(method)
        position = _beside(views.index(view), method, methods)
        axis.plot([position] * 2, interval, color=color, linewidth=1.2)
        axis.plot(position, value, color=color, marker=marker, markersize=7)
    _views(axis, views)


def _views(axis: Axes, views: Sequence[str]) -> None:
    axis.set_xticks(range(len(views)), [VIEWS.get(view, view) for view in views])
    axis.set_xlim(-0.5, len(views) - 0.5)
    axis.grid(axis="x", visible=False)


def _names(axis: Axes, methods: Sequence[str]) -> None:
    """The methods in their colours, right of the axes, where no point can be."""
    for m, method in enumerate(methods):
        axis.annotate(
            plotting.method_name(method), (1.02, 0.98 - 0.08 * m), xycoords="axes fraction",
            color=plotting.method_color(method), fontweight="bold", va="top",
        )  # fmt: skip


def neighbours(blocks: Mapping[str, Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]]]) -> Figure:
    """Images and their nearest ones, framed in blue if these are of its class, else in orange; a block a network.

    Args:
        blocks: for each title the rows: name, image (C, H, W) in [0, 1], its nearest (K, C, H, W), and bool (K,): of
            its class. All blocks have the same names and one K.
    """
    rows = [*blocks.values()]
    count, lines = len(rows[0][0][2]), len(rows[0])
    figure = plt.figure(figsize=(0.78 * len(blocks) * (count + 1.6) + 0.9, 0.82 * lines + 0.5))
    for part, (title, block) in zip(figure.subfigures(1, len(blocks), squeeze=False)[0], blocks.items(), strict=True):
        part.suptitle(title, fontsize=11, fontweight="bold")
        axes = part.subplots(lines, count + 2, squeeze=False, width_ratios=[1.0, 0.3, *[1.0] * count])
        for line, (name, image, nearest, own) in zip(axes, block, strict=True):
            plotting.draw_neighbours(line, image, nearest, own, name=name)
    return figure


def class_separation(
    knn: Mapping[tuple[str, str], tuple[float, float, float]],
    silhouette: Mapping[tuple[str, str], float],
    *,
    chance: float,
    images: int,
) -> Figure:
    """Left kNN accuracy, right silhouette, for each (method, view) of the same images.

    Args:
        knn: accuracy in [0, 1] and the ends of its interval. silhouette: in [-1, 1].
        chance: accuracy of guessing, a dashed line.
        images: their number, which stands at the axis.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 4.1), width_ratios=[1.25, 1])
    for axis, values in ((left, knn), (right, {key: (s, s, s) for key, s in silhouette.items()})):
        methods, views = (list(dict.fromkeys(part)) for part in zip(*values, strict=True))
        _dots(axis, methods, views, values)
    left.axhline(chance, color="0.4", linestyle="--", linewidth=1)
    left.annotate(
        "guessing the largest class", (-0.45, chance), (0, 4), textcoords="offset points", fontsize=9, color="0.4"
    )
    left.set(ylim=(-0.03, 1.03), ylabel=f"kNN accuracy, {images} test images", title="neighbours of the right class")
    left.yaxis.set_major_formatter("{x:.0%}")
    right.axhline(0, color="0.4", linestyle="--", linewidth=1)
    right.set(ylabel="silhouette", title="classes apart")
    _names(right, methods)
    return figure


def joint_maps(
    maps: Mapping[str, Mapping[str, np.ndarray]],
    labels: np.ndarray,
    wrong: Mapping[str, np.ndarray],
    notes: Mapping[str, str],
    *,
    arrows: int = 40,
) -> Figure:
    """One column a method. Top: clean points with arrows to adversarial versions of the first of them.

    Bottom: all adversarial points in the same map, with the names of the classes where the clean points are.

    Args:
        maps: for each method the points (N, 2) of its views "clean" and "adversarial", from one fit.
        labels: (N,). wrong: for each method (N,), is the adversarial image misclassified? Its arrow is black then.
        notes: a text below each column.
        arrows: how many of the first images have one.
    """
    figure, axes = plt.subplots(2, len(maps), figsize=(12.5, 9.4), squeeze=False)
    for (top, bottom), (method, views) in zip(axes.T, maps.items(), strict=True):
        name = plotting.method_name(method)
        clean, adversarial = views["clean"], views["adversarial"]
        embedding_map(
            top, clean, labels, title=f"{name}: clean", moved_to=adversarial[:arrows],
            moved_wrong=wrong[method][:arrows], size=30,
        )  # fmt: skip
        embedding_map(bottom, adversarial, labels, title=f"{name}: adversarial", names_at=clean, size=30)
        everything = np.concatenate([clean, adversarial])
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


def separate_fits(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    labels: np.ndarray,
    before: np.ndarray,
    after: Mapping[str, np.ndarray],
    *,
    arrows: int = 60,
) -> Figure:
    """Pairs of maps of the same features, with arrows from one to the other; right, distances between classes.

    Args:
        pairs: for each title a map (N, 2) and another one, laid over it. labels: (N,).
        before: (P,), distances between class centres in feature space. after: the same on some maps, (P,) for each
            name; each map is scaled to its own mean.
        arrows: how many of the first points have one.
    """
    figure, axes = plt.subplots(1, len(pairs) + 1, figsize=(12.5, 4.6), squeeze=False)
    for axis, (title, (start, end)) in zip(axes[0], pairs.items(), strict=False):
        embedding_map(axis, start, labels, title=title, moved_to=end[:arrows], size=20)
    last = axes[0, -1]
    for k, (name, distances) in enumerate(after.items()):
        last.scatter(before, distances / distances.mean(), s=14, color=CLASS_COLORS[k], linewidth=0, alpha=0.8)
        last.annotate(
            name, (0.02, 0.98 - 0.07 * k), xycoords="axes fraction", color=CLASS_COLORS[k], va="top", fontsize=10
        )
    last.set(title="distances between classes", xlabel="between centres, in feature space")
    last.set(ylabel="on the map (its mean is 1)", ylim=(0, None))
    last.set_ylim(0, 1.35 * last.get_ylim()[1])
    return figure


# The points (N + M, 2) of a map, the N clean ones first, within [-1, 1], and whether the M adversarial ones are
# misclassified (M,).
Stage = tuple[np.ndarray, np.ndarray]


def growing_maps(
    stages: Sequence[Stage],
    labels: np.ndarray,
    knn: Mapping[str, Mapping[str, np.ndarray]],
    *,
    shown: str,
    arrows: int = 40,
) -> Iterator[Figure]:
    """The frames of an animation: the maps of epoch 0, 1, ..., E, with interpolated ones between, beside the curves.

    Args:
        stages: E + 1 maps of one training, which resemble one another.
        labels: (N,) of the clean points.
        knn: accuracies (E + 1,) by what was trained and then by view, "clean" (solid) and "adversarial" (dashed).
        shown: the training that the maps are of.
        arrows: how many of the first images have one, black if misclassified.
    """
    epochs = len(stages) - 1
    between = min(2, max(1, 24 // epochs))
    for epoch, (points, wrong) in enumerate(stages):
        for t in np.arange(between) / between if epoch < epochs else [0.0]:
            frame = points if t == 0 else (1 - t) * points + t * stages[epoch + 1][0]
            figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 4.5), width_ratios=[1, 1.05])
            clean, moved = frame[: len(labels)], frame[len(labels) :]
            embedding_map(
                left, clean, labels, title=f"{shown}: epoch {epoch} of {epochs}", moved_to=moved[:arrows],
                moved_wrong=wrong[:arrows], size=24, names_at=NOWHERE,
            )  # fmt: skip
            left.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05))
            left.set_aspect("equal", "box")
            _growth(right, knn, epoch + t)
            yield figure


def _growth(axis: Axes, knn: Mapping[str, Mapping[str, np.ndarray]], now: float) -> None:
    """kNN accuracy over the epochs, one colour a training; a line where the animation is."""
    ends: list[tuple[float, str, str]] = []
    for color, (name, views) in zip((BLUE, ORANGE), knn.items(), strict=False):
        for view, style in (("clean", "-"), ("adversarial", "--")):
            axis.plot(range(len(views[view])), views[view], color=color, linestyle=style)
            ends.append((views[view][-1], f"{view},\n{name}", color))
    position = -np.inf
    for end, text, color in sorted(ends):  # labels that would overlap are pushed apart, from the lowest up
        position = max(end, position + 0.11)
        axis.annotate(
            text, (1.02, position), xycoords=axis.get_yaxis_transform(), color=color, va="center", fontsize=9,
            annotation_clip=False,
        )  # fmt: skip
    axis.axvline(now, color="0.3", linewidth=1)
    axis.set(ylim=(-0.03, 1.03), xlabel="epoch", title="kNN accuracy")
    axis.yaxis.set_major_formatter("{x:.0%}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
