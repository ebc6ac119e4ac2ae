"""The figures of lesson 05, ANCHOR training: arrays in, a matplotlib Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from anchor_utils import plotting

GREY = "0.35"  # what both branches share
BLUE, ORANGE = (
    plotting.method_color("pgd_at"),
    plotting.method_color("anchor"),
)  # the two branches
PER_CLASS = 4  # images of a class in the batch of `anchor_step`

Box = tuple[float, float, float, float]  # left, bottom, width, height
Point = tuple[float, float]


def anchor_step(
    tensors: Mapping[str, np.ndarray], terms: Mapping[str, float], *, epsilon: float, contrastive_weight: float
) -> Figure:
    """One training step of ANCHOR as a diagram of its real tensors, from the batch to the loss.

    Args:
        tensors: for N images, four of each class, sorted by class, and 2N views, the augmented ones first:
            `batch`, `augmented`, `adversarial`, images (N, C, H, W) in [0, 1]; `features` (2N, F); `logits` (N, K) of
            the adversarial views; `embeddings` (2N, D) of length one; their `cosines` (2N, 2N); `weights` (2N, 2N),
            the hardness weights as multiples of SupCon's, NaN where there is no positive.
        terms: `total`, `cross_entropy` and `contrastive`, the loss and its two terms.
        epsilon: radius of the attack, in units of pixel intensity.
        contrastive_weight: the factor of the contrastive term in the total.
    """
    n = len(tensors["batch"])
    figure = plt.figure(figsize=(12, 6.5), layout="none")
    canvas = figure.add_axes((0, 0, 1, 1))  # in tenths of an inch
    canvas.set(xlim=(0, 120), ylim=(0, 65))
    canvas.axis("off")
    canvas.text(1, 63, f"One step: N = {n} images, 2N = {2 * n} views", va="top", fontsize=13, fontweight="bold")
    _views_and_encoder(canvas, tensors, epsilon)
    _classifier_branch(canvas, tensors, terms)
    _contrastive_branch(canvas, tensors, terms)
    _arrow(canvas, (111, 37.8), (111, 45.2), f"times $\\lambda$ = {contrastive_weight:g}", at=(-6.3, 0), color=ORANGE)
    _box(canvas, (104, 46, 15, 8), f"L = {terms['total']:.3f}", "black", fontsize=14, fontweight="bold")
    _arrow(canvas, (99.8, 50), (103.2, 50), color=BLUE)
    total = f"eq. 3:  {terms['cross_entropy']:.3f} + {contrastive_weight:g} x {terms['contrastive']:.3f}"
    canvas.text(119, 55.5, total, color="black", ha="right", fontsize=11)
    return figure


def _views_and_encoder(canvas: Axes, tensors: Mapping[str, np.ndarray], epsilon: float) -> None:
    batch, features = tensors["batch"], tensors["features"]
    n = len(batch)
    _panel(canvas, (1, 25.5, 14, 14), _tiles(batch), f"batch, labels y\n{batch.shape}", above=True)
    _panel(canvas, (23, 43, 14, 14), _tiles(tensors["augmented"]), "augmented view", above=True)
    _panel(canvas, (23, 8, 14, 14), _tiles(tensors["adversarial"]), f"adversarial view\n$\\varepsilon$ = {epsilon:g}")
    _arrow(canvas, (15.8, 36), (22.2, 48), "augment", at=(1.4, -2), ha="left")
    _arrow(canvas, (15.8, 29), (22.2, 17), "augment, then\nPGD, eq. 4", at=(1.6, 2), ha="left")
    _box(canvas, (42, 24, 11, 17), f"encoder\n\none pass\nover all\n{2 * n} views", GREY, fontweight="bold")
    _arrow(canvas, (37.8, 48), (43.5, 41.8))
    _arrow(canvas, (37.8, 17), (43.5, 23.2))
    axis = _panel(canvas, (58, 24, 8, 17), features, f"features\n{features.shape}", cmap="Greys", vmin=0)
    axis.axhline(n - 0.5, color=ORANGE)
    _arrow(canvas, (53.8, 32.5), (57.3, 32.5))


def _classifier_branch(canvas: Axes, tensors: Mapping[str, np.ndarray], terms: Mapping[str, float]) -> None:
    logits = tensors["logits"]
    text = "adversarial half\nto the classifier"
    _arrow(canvas, (64, 41.8), (69.2, 48), text, at=(-1.4, 2.8), color=BLUE, ha="right")
    _panel(canvas, (70, 43, 10, 14), logits, f"logits {logits.shape}", BLUE, above=True, cmap="Blues")
    _arrow(canvas, (80.8, 50), (86.2, 50), "y", at=(0, 1.8), color=BLUE)
    _box(canvas, (87, 46, 12, 8), f"cross-entropy\n{terms['cross_entropy']:.3f}", BLUE)


def _contrastive_branch(canvas: Axes, tensors: Mapping[str, np.ndarray], terms: Mapping[str, float]) -> None:
    z, cosines, weights = tensors["embeddings"], tensors["cosines"], tensors["weights"]
    half = len(z) // 2 - 0.5  # between the augmented and the adversarial views
    _arrow(canvas, (66.8, 25.5), (70.5, 23.2), "projection,\nlength 1", at=(2.4, 3), color=ORANGE, ha="left")
    limits: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -0.5, "vmax": 0.5}
    axis = _panel(canvas, (70, 8, 8, 14), z, f"embeddings z\n{z.shape}", ORANGE, **limits)
    axis.axhline(half, color=ORANGE)
    _arrow(canvas, (78.8, 15), (83.2, 15), "$zz^\\top$", at=(0, 2), color=ORANGE)
    limits = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}
    first = _panel(canvas, (84, 8, 14, 14), cosines, f"cosines {cosines.shape}\nblue -1, red +1", ORANGE, **limits)
    _arrow(canvas, (98.8, 15), (104.2, 15), "eq. 1", at=(0, 2), color=ORANGE)
    shown = np.nan_to_num(weights, nan=1.0)
    deviation = float(np.abs(shown - 1).max())
    limits = {"cmap": "PuOr_r", "vmin": 1 - deviation, "vmax": 1 + deviation}
    caption = f"weights, {shown.min():.2f} to\n{shown.max():.2f} x SupCon's"
    second = _panel(canvas, (105, 8, 14, 14), weights, caption, ORANGE, **limits)
    second.set_facecolor("0.9")  # not a positive: no weight
    for axis in (first, second):
        axis.axhline(half, color="0.2", linewidth=1)
        axis.axvline(half, color="0.2", linewidth=1)
    _arrow(canvas, (93, 22.8), (101.5, 30.2), color=ORANGE)
    _arrow(canvas, (112, 22.8), (111, 30.2), color=ORANGE)
    _box(canvas, (96, 31, 22, 6), f"contrastive $L_{{HP}}$ = {terms['contrastive']:.3f}", ORANGE)
    canvas.text(94.5, 27, "eq. 2", color=ORANGE, ha="center", va="center")


def _panel(
    canvas: Axes, place: Box, values: np.ndarray, caption: str, color: str = GREY, *, above: bool = False, **style: Any
) -> Axes:
    """A small picture of real values, with what it is and its shape under (or above) it."""
    x, y, width, height = place
    axis = canvas.figure.add_axes((x / 120, y / 65, width / 120, height / 65))
    axis.imshow(values, aspect="auto", **style)
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    for side in axis.spines.values():
        side.set(visible=True, color=color, linewidth=1.5)
    at, va = (y + height + 0.8, "bottom") if above else (y - 0.8, "top")
    canvas.text(x + width / 2, at, caption, ha="center", va=va, color=color, fontsize=11, linespacing=1.25)
    return axis


def _arrow(
    canvas: Axes, start: Point, end: Point, text: str = "", *, at: Point = (0, 0), color: str = GREY, ha: str = "center"
) -> None:
    """An arrow, and a text moved by `at` from its middle."""
    look = {"arrowstyle": "-|>", "lw": 2, "color": color, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 16}
    canvas.annotate("", end, start, arrowprops=look)
    middle = ((start[0] + end[0]) / 2 + at[0], (start[1] + end[1]) / 2 + at[1])
    canvas.text(*middle, text, color=color, fontsize=11, ha=ha, va="center")


def _box(canvas: Axes, place: Box, text: str, color: str, *, fontsize: float = 11, fontweight: str = "normal") -> None:
    x, y, width, height = place
    frame: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=1.2", "fc": "white", "ec": color, "lw": 1.8}
    canvas.add_patch(mpl.patches.FancyBboxPatch((x, y), width, height, **frame))
    canvas.text(
        x + width / 2, y + height / 2, text, ha="center", va="center", color=color, fontsize=fontsize,
        fontweight=fontweight,
    )  # fmt: skip


def _tiles(images: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W) as one colour picture (rows x H, 4 x W, 3), a class in each row, a short row filled up."""
    rows = [np.concatenate(images[k : k + PER_CLASS], axis=2) for k in range(0, len(images), PER_CLASS)]
    widest = max(row.shape[2] for row in rows)
    picture = np.concatenate([np.pad(row, ((0, 0), (0, 0), (0, widest - row.shape[2]))) for row in rows], axis=1)
    channels, height, width = picture.shape
    return np.broadcast_to(picture.transpose(1, 2, 0), (height, width, max(channels, 3)))


def contrastive_shares(groups: Sequence[str], before: Sequence[float], after: Sequence[float]) -> Figure:
    """The contrastive term's share, in [0, 1], in the pull on each group of layers, before and after training."""
    figure, axis = plt.subplots(figsize=(7.5, 3.2))
    for moment, values, marker, color in (
        ("before training", before, "o", "0.5"),
        ("after training", after, "X", ORANGE),
    ):
        axis.plot(range(len(groups)), values, marker=marker, color=color, markersize=8)
        axis.annotate(
            moment, (len(groups) - 1, values[-1]), xytext=(10, 0), textcoords="offset points", color=color, va="center"
        )
    axis.axhline(0.5, color="0.6", linestyle=":")
    axis.annotate("equal pulls", (1.5, 0.5), xytext=(0, -12), textcoords="offset points", color="0.4", fontsize=10)
    axis.set_xticks(range(len(groups)), groups)
    axis.set(ylim=(0, 1.02), ylabel="share of the contrastive\nterm in the pull (eq. 5)")
    axis.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    return figure


def training_curves(
    epochs: Sequence[int],
    history: Mapping[str, Mapping[str, np.ndarray]],
    *,
    floor: np.ndarray,
    positives: float,
    beta: float,
    titles: tuple[str, str],
) -> Figure:
    """Four panels over the epochs (E,): ANCHOR's two terms, the spread of the weights, clean and robust accuracy.

    Args:
        history: for each method `hardness_entropy`, `clean_accuracy` and `robust_accuracy` (E,) in [0, 1]; for
            `anchor` also `cross_entropy` and `contrastive` (E,) in nats. The hardness entropy is drawn for `supcon_at`
            and `anchor`.
        floor: the entropy of the weights (E,) in nats, below which the contrastive term cannot fall.
        positives: of an anchor, geometric mean; translates a hardness entropy into an effective number.
        beta: the hardness of ANCHOR's weights.
        titles: of the panels of clean and robust accuracy: which images, which attack.
    """
    figure, axes = plt.subplots(2, 2, figsize=(11, 6.6))
    _loss_terms(axes[0, 0], epochs, history["anchor"], floor)
    inset = _hardness_entropy(axes[0, 1], epochs, history, positives, beta)
    for axis, column, title in zip(axes[1], ("clean_accuracy", "robust_accuracy"), titles, strict=True):
        lines = {method: curve[column] for method, curve in history.items()}
        plotting.curves(axis, epochs, lines, xlabel="epoch", ylabel="accuracy", ylim=(-0.03, 1.03))
        axis.set_title(title)
    for axis in (*axes.flat, inset):
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    return figure


def _loss_terms(axis: Axes, epochs: Sequence[int], curve: Mapping[str, np.ndarray], floor: np.ndarray) -> None:
    lines = {
        "cross-entropy": curve["cross_entropy"],
        "contrastive": curve["contrastive"],
        "floor of the\ncontrastive term": floor,
    }
    plotting.curves(axis, epochs, lines, xlabel="epoch", ylabel="loss (nats)", percent=False)
    axis.set_ylim(0, None)
    axis.set_title("ANCHOR's two terms, training")


def _hardness_entropy(
    axis: Axes,
    epochs: Sequence[int],
    history: Mapping[str, Mapping[str, np.ndarray]],
    positives: float,
    beta: float,
) -> Axes:
    """The hardness entropy on its whole range; returns the inset, which has the same curves stretched."""
    inset = axis.inset_axes((0.17, 0.17, 0.78, 0.55))
    for method in ("supcon_at", "anchor"):
        color, marker = plotting.method_color(method), plotting.method_marker(method)
        for each in (axis, inset):
            each.plot(epochs, history[method]["hardness_entropy"], color=color, marker=marker)
    lowest = min(0.99, 2 * history["anchor"]["hardness_entropy"].min() - 1)
    inset.set(ylim=(lowest, 1 + 0.12 * (1 - lowest)), xlim=(epochs[0] - 0.3, epochs[-1] + 0.3))
    inset.set_title("the same, stretched", fontsize=10, fontweight="normal", loc="left")
    for method, height, name in (
        ("supcon_at", 0.74, "SupCon-AT, 1 by definition"),
        ("anchor", 0.2, f"ANCHOR, beta = {beta:g}"),
    ):
        inset.text(
            0.98, height, name, transform=inset.transAxes, ha="right", va="center", fontsize=10,
            color=plotting.method_color(method),
        )  # fmt: skip
    inset.tick_params(labelsize=9)
    inset.ticklabel_format(axis="y", useOffset=False)
    axis.set(ylim=(0, 1.05), xlabel="epoch", ylabel="hardness entropy (eq. 6)")
    axis.set_title("spread of the weights, training")

    def effective_positives(entropy: ArrayLike) -> ArrayLike:
        return np.power(positives, entropy)

    def entropy_of(effective: ArrayLike) -> ArrayLike:
        return np.log(np.maximum(effective, 1e-9)) / np.log(positives)

    second = axis.secondary_yaxis("right", functions=(effective_positives, entropy_of))
    second.set_yticks([tick for tick in (1, 2, 4, 8, 16, 32, 64, 128, 256) if tick < 0.9 * positives] + [positives])
    second.yaxis.set_major_formatter("{x:.3g}")
    second.set_ylabel("effective positives")
    return inset


def hardness_sweep(
    hardnesses: np.ndarray, sweep: Mapping[str, Mapping[str, Any]], beta: float, first_order: np.ndarray
) -> Figure:
    """What the hardness weights of several networks would do at other values of beta.

    Left the cosines of augmented anchors with their positives, middle the hardness entropy, right how far the weights
    change what SupCon does to the cosines.

    Args:
        hardnesses: values of beta (B,), from 0 to the last one.
        sweep: for each method `cosines`, two arrays, with the augmented and with the adversarial positives, and
            `entropy` (B,) in [0, 1]; for `anchor` also `approximation` (B,), the entropy by equation 7; for networks
            with a contrastive term `change` (B,), the length of the change of the pulls by that of SupCon's pulls.
        beta: the value of the run, which is marked.
        first_order: what equation 9 says of the change, beta tau / Q (B,).
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4.1), width_ratios=[1, 1.15, 1.15])
    _cosine_quantiles(left, {method: result["cosines"] for method, result in sweep.items()})
    for method, result in sweep.items():
        middle.plot(hardnesses, result["entropy"], color=plotting.method_color(method))
        if "change" in result:
            right.plot(hardnesses, result["change"], color=plotting.method_color(method))
    approximation = np.clip(sweep["anchor"]["approximation"], 0, 1)
    middle.plot(hardnesses, approximation, color="black", linestyle=(0, (2, 3)), linewidth=1.4)
    middle.set_title("entropy (dashed: eq. 7 for ANCHOR)", fontsize=10.5, fontweight="normal")
    middle.set(ylabel="hardness entropy (eq. 6)", ylim=(0, 1.02))
    right.plot(hardnesses, first_order, color="0.35", linestyle=":")
    right.set_title("gradient (dotted: beta tau / Q)", fontsize=10.5, fontweight="normal")
    right.set(ylabel="change of SupCon's pulls", ylim=(0, None))
    right.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    for axis in (middle, right):
        axis.axvline(beta, color="0.6", linestyle=":", zorder=0)
        axis.set(xlabel="beta", xlim=(0, hardnesses[-1]))
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5, integer=True))
    middle.annotate(
        f"beta = {beta:g},\nthis run",
        (beta, 0.03),
        xytext=(4, 0),
        textcoords="offset points",
        fontsize=10,
        color="0.35",
    )
    for axis, key, gap in ((middle, "entropy", 0.07), (right, "change", 0.07 * right.get_ylim()[1])):
        ends = {
            plotting.method_name(method): (result[key][-1], plotting.method_color(method))
            for method, result in sweep.items()
            if key in result
        }
        _names_at_the_right(axis, ends, gap)
    return figure


def _names_at_the_right(axis: Axes, ends: Mapping[str, tuple[float, str]], gap: float) -> None:
    """Names beside the ends of their lines, each a height and a colour; those that would overlap are pushed apart."""
    place = -np.inf
    for name, (height, color) in sorted(ends.items(), key=lambda item: item[1][0]):
        place = max(place + gap, height)
        axis.annotate(
            name, (1.02, place), xycoords=axis.get_yaxis_transform(), va="center", fontsize=10, color=color,
            annotation_clip=False,
        )  # fmt: skip


def _cosine_quantiles(axis: Axes, cosines: Mapping[str, Sequence[np.ndarray]]) -> None:
    """The median, the middle half and 90% of two arrays a method, the first one pale; the first method on top."""
    methods = list(reversed(list(cosines)))
    for row, method in enumerate(methods):
        color = plotting.method_color(method)
        for values, shift, alpha in zip(cosines[method], (0.16, -0.16), (0.35, 1.0), strict=True):
            q = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
            axis.plot(q[[0, 4]], [row + shift] * 2, color=color, alpha=alpha, linewidth=2)
            axis.plot(q[[1, 3]], [row + shift] * 2, color=color, alpha=alpha, linewidth=8, solid_capstyle="butt")
            axis.plot(q[2], row + shift, "|", color="white", markersize=8, markeredgewidth=2)
    axis.set_yticks(range(len(methods)), [plotting.method_name(method) for method in methods])
    axis.set(xlabel="cosine of an augmented anchor\nwith its positives", ylim=(-0.5, len(methods) - 0.2))
    axis.set_title("pale: augmented positives,\nfull colour: adversarial ones", fontsize=10.5, fontweight="normal")


def pulls(offsets: np.ndarray, target: np.ndarray, guess: np.ndarray, weights: np.ndarray, *, beta: float) -> Figure:
    """Left target and guess of one anchor's positives against their cosines, right the weights of a whole batch.

    Args:
        offsets: cosine of each of P positives, minus their mean (P,).
        target, guess: w and q of each, as multiples of SupCon's target 1 / P (P,); a bar between them is the pull.
        weights: of all pairs of a batch, as multiples of SupCon's (M,).
        beta: the hardness.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9), width_ratios=[1.1, 1])
    order = np.argsort(offsets)
    x, target, guess = offsets[order], target[order], guess[order]
    supcon = plotting.method_color("supcon_at")
    left.vlines(x, guess, target, color="0.8", linewidth=5, zorder=1)
    ends: dict[str, tuple[float, str]] = {}
    for name, values, color in (
        (f"target, beta = {beta:g}", target, ORANGE),
        ("target, SupCon", np.ones_like(x), supcon),
        ("guess of both", guess, "0.25"),
    ):
        left.plot(x, values, "o-", color=color, markersize=5)
        ends[name] = float(values[-1]), color
    left.set(xlabel="cosine of a positive, minus the anchor's mean", ylabel="multiple of 1 / |P|")
    left.set_ylim(min(0.0, *left.get_ylim()), None)
    left.set_title("one anchor: a bar is ANCHOR's pull, target minus guess", fontsize=10.5, fontweight="normal")
    _names_at_the_right(left, ends, 0.08 * left.get_ylim()[1])
    right.hist(weights, bins=30, color=ORANGE, log=True)
    right.axvline(1, color=supcon, linewidth=1.8)
    right.text(0.97, 0.93, f"largest: {weights.max():.2f}", color=ORANGE, ha="right", transform=right.transAxes)
    right.text(0.97, 0.85, "SupCon: 1", color=supcon, ha="right", transform=right.transAxes)
    right.set(xlabel="weight of a positive, as a multiple of SupCon's", ylabel="pairs (log scale)")
    right.set_title("all pairs of the batch: the tail of the weights", fontsize=10.5, fontweight="normal")
    return figure


def formulations(names: Sequence[str], change: Sequence[float], on_misclassified: Sequence[float]) -> Figure:
    """What each way to weigh positives does to a network's gradient.

    Args:
        change: of the contrastive gradient by the encoder, as a multiple of the length of SupCon's.
        on_misclassified: share of an anchor's weight on misclassified adversarial views, in [0, 1].
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 0.32 * len(names) + 1.2), sharey=True)
    rows = np.arange(len(names))
    colors = [plotting.method_color("supcon_at")] + [ORANGE] * (len(names) - 1)
    left.barh(rows, change, color=colors)
    left.set(yticks=rows, yticklabels=names, xlabel="change of the encoder's gradient (1: as long as SupCon's)")
    right.barh(rows, 100 * np.asarray(on_misclassified), color=colors)
    right.axvline(100 * on_misclassified[0], color=colors[0], linestyle=":")
    right.set(xlabel="weight on misclassified views, %", xlim=(0, 100))
    left.invert_yaxis()
    return figure


def mining_study(
    stored: Mapping[str, ArrayLike],
    here: Mapping[str, float],
    pairs: Mapping[str, tuple[float, float, float]],
    *,
    margin: float,
    attack: str,
) -> Figure:
    """Left, stored networks of each method and the one of this run; right, formulations of mining minus their twins.

    Args:
        stored, here: as :func:`anchor_utils.plotting.seed_strip` takes them.
        pairs: label -> difference and the ends of its interval, in percentage points.
        margin: lead from which a difference counts, in points.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 0.42 * max(len(pairs), 4) + 1.2), width_ratios=(1, 1.3))
    plotting.seed_strip(left, stored, here, label=f"accuracy under {attack}, %")
    left.set_title("dots: stored seeds; diamond: this run", fontsize=11)
    right.axvspan(-margin, margin, color="0.9", zorder=0)
    right.axvline(0, color="black", linewidth=1)
    for row, (difference, low, high) in enumerate(pairs.values()):
        right.plot([low, high], [row, row], color=ORANGE, linewidth=2)
        right.plot(difference, row, "o", color=ORANGE)
    right.set(yticks=range(len(pairs)), yticklabels=list(pairs), xlabel="difference, points of robust accuracy")
    right.set_ylim(len(pairs) - 0.5, -0.5)
    right.set_title(f"grey: less than the margin of {margin:g}", fontsize=11)
    return figure


def candidates(
    accuracies: Mapping[str, Mapping[str, Sequence[float]]],
    comparisons: Mapping[str, Mapping[str, float]],
    *,
    images: int,
    attack: str,
) -> Figure:
    """Networks by themselves (left) and compared in pairs, image by image (right); the first on top.

    Args:
        accuracies: for each network, named by its method and perhaps ", " and more, `clean` and `pgd`, each accuracy,
            low and high end of its interval, in [0, 1].
        comparisons: for each pair, named as it is to be shown, `a` and `b`, the images that only the first and only the
            second holds; `difference`, `low` and `high` in points of accuracy; `p` of McNemar's test.
        images: how many test images each network saw.
        attack: name of the attack behind `pgd`.
    """
    rows = max(len(accuracies), len(comparisons))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 1.3 + 0.62 * rows), width_ratios=[1.1, 1])
    _accuracy_rows(left, accuracies, attack)
    left.set_xlabel(f"accuracy on {images} test images, 95% intervals")
    _paired_rows(right, comparisons)
    return figure


def shown_name(name: str) -> str:
    """Of a network that is named by its method and perhaps ", " and more."""
    method, *more = name.split(", ")
    return ", ".join([plotting.method_name(method), *more])


def _accuracy_rows(axis: Axes, accuracies: Mapping[str, Mapping[str, Sequence[float]]], attack: str) -> None:
    names = list(reversed(list(accuracies)))
    for row, name in enumerate(names):
        color = plotting.method_color(name.split(", ")[0])
        for key, text, face in (("clean", "clean", "white"), ("pgd", attack, color)):
            value, low, high = accuracies[name][key]
            axis.plot([low, high], [row, row], color=color, linewidth=2)
            axis.plot(value, row, "o", color=color, markerfacecolor=face, markersize=9, markeredgewidth=2)
            if row == len(names) - 1:
                axis.annotate(text, (value, row), xytext=(0, 10), textcoords="offset points", ha="center", color="0.3")
    axis.set_yticks(range(len(names)), [shown_name(name).replace(", ", ",\n") for name in names])
    axis.set_ylim(-0.5, len(names) - 0.2)
    axis.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))


def _paired_rows(axis: Axes, comparisons: Mapping[str, Mapping[str, float]]) -> None:
    """Differences with their intervals, grey where p is 0.05 or more."""
    pairs = list(reversed(list(comparisons)))
    for row, pair in enumerate(pairs):
        found = comparisons[pair]
        color = "black" if found["p"] < 0.05 else "0.5"
        axis.plot([found["low"], found["high"]], [row, row], color=color, linewidth=2)
        axis.plot(found["difference"], row, "s", color=color, markersize=8)
        axis.annotate(
            f"{found['a']} : {found['b']} images, p = {found['p']:.2g}", (found["difference"], row), xytext=(0, 9),
            textcoords="offset points", ha="center", color=color, fontsize=10,
            bbox={"fc": "white", "ec": "none", "pad": 1},
        )  # fmt: skip
    axis.axvline(0, color="0.4", linewidth=1)
    axis.set_yticks(range(len(pairs)), pairs)
    reach = 2.1 * max(1, *(abs(found[end]) for found in comparisons.values() for end in ("low", "high")))
    axis.set(ylim=(-0.5, len(pairs) - 0.2), xlim=(-reach, reach))
    axis.set_xlabel("first minus second, PGD accuracy\n(points, paired over images, 95% interval)")
    axis.set_title("second better  |  first better", fontsize=10.5, fontweight="normal")
