"""The figures of lesson 06, robust evaluation: arrays in, a matplotlib Figure out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anchor_utils import plotting

BLUE, ORANGE = plotting.method_color("pgd_at"), plotting.method_color("anchor")
PALE, LIGHT, PINK = "#A6CEE3", "#56B4E9", "#CC79A7"

# For each check of `gradient_masking_checks` how its row is called, and how the numbers in its evidence are laid out.
CHECKS = {
    "more steps are never weaker": ("1 → {steps} → {many} steps: must not rise", "{} → {} → {}%"),
    "a larger epsilon is never weaker": ("epsilon × ½ → 1 → 2: must not rise", "{} → {} → {}%"),
    "epsilon = 1 defeats the model": ("epsilon = 1: must fall to zero", "{}%, allowed {}%"),
    "random noise is weaker than the gradient attack": ("noise against PGD: must be higher", "{} against {}%"),
    "a transferred attack is weaker than the white-box attack": ("transfer against PGD: not lower", "{} against {}%"),
    "black-box Square is weaker than the white-box attack": ("Square against PGD: not lower", "{} against {}%"),
    "the loss rises along its gradient": ("images whose loss rises", "{}%, wanted {}%"),
    "PGD on the margin agrees with PGD on cross-entropy": (
        "cross-entropy against margin: not higher",
        "{} against {}%",
    ),
}


def promise_and_truth(
    found: Mapping[str, Sequence[tuple[float, float, float]]], marks: Sequence[str], *, images: int
) -> Figure:
    """Accuracy of each network under three attacks, as points with intervals, and how far the last one takes it down.

    Args:
        found: for each network, the first on top, (accuracy, low, high) in [0, 1] under each attack.
        marks: names of the attacks, in this order: noise, an attack, and the one that knows the defence.
        images: how many images these are shares of.
    """
    figure, axis = plt.subplots(figsize=(9, 0.75 * len(found) + 1.3))
    styles = [("0.45", "|", 17.0), (ORANGE, "o", 9.0), (BLUE, "D", 8.0)]
    heights = np.arange(len(found))[::-1]
    for y, values in zip(heights, found.values(), strict=True):
        (before, *_), (after, *_) = values[1], values[2]
        axis.plot([after, before], [y, y], color="0.75", linewidth=4, solid_capstyle="butt", zorder=1)
        for k, ((value, low, high), (color, marker, size)) in enumerate(zip(values, styles, strict=True)):
            errors = [[max(0, value - low)], [max(0, high - value)]]
            axis.errorbar(
                value, y, xerr=errors if k else None, fmt=marker, color=color, markersize=size, capsize=3, zorder=2 + k
            )
        points = round(100 * (after - before))
        text = f"{points:+} points" if points else "no change"
        axis.annotate(text, ((before + after) / 2, y), (0, 9), textcoords="offset points", ha="center", fontsize=10)
    # Each mark is named where it stands alone.
    centres = np.array([[value for value, *_ in values] for values in found.values()])
    fallen = int((centres[:, 1] - centres[:, 2]).argmax())
    alone = int(np.abs(centres[:, :1] - centres[:, 1:]).min(1).argmax())
    for k, (row, mark) in enumerate(zip((alone, fallen, fallen), marks, strict=True)):
        axis.annotate(
            mark, (centres[row, k], heights[row]), (0, 9 if k else 12), textcoords="offset points", ha="center",
            color=styles[k][0],
        )  # fmt: skip
    axis.set_yticks(heights, list(found))
    axis.set(ylim=(-0.6, len(found) - 0.2), xlim=(-0.06, 1.06), xlabel=f"accuracy on {images} images")
    axis.xaxis.set_major_formatter("{x:.0%}")
    axis.grid(axis="y", visible=False)
    return figure


def intervals(
    truth: np.ndarray,
    coverage: Mapping[str, np.ndarray],
    images: int,
    *,
    sizes: np.ndarray,
    measured: float,
    ends: tuple[np.ndarray, np.ndarray],
) -> Figure:
    """How often two intervals hold the true accuracy, and how Wilson's narrows with the number of images.

    Args:
        truth: true accuracies (P,) in [0, 1].
        coverage: for "Wilson" and "textbook", in this order, how often (P,) the interval of `images` images holds it.
        sizes: numbers of images (S,), among them 100, 1000 and 10000.
        measured: the accuracy that is measured at each size, and `ends` its interval, (S,) low and (S,) high.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
    for (name, shares), color, spot in zip(
        coverage.items(), (BLUE, ORANGE), ((0.62, 0.975), (0.82, 0.70)), strict=True
    ):
        left.plot(truth, shares, color=color, linewidth=1.6)
        left.annotate(name, spot, color=color)
    left.axhline(0.95, color="0.3", linestyle="--", linewidth=1)
    line = {"arrowstyle": "-", "color": "0.3"}
    left.annotate("what 95% promises", (0.52, 0.95), (0.52, 0.82), color="0.3", fontsize=9, arrowprops=line)
    left.set(ylim=(0.4, 1.01), xlabel="true accuracy", ylabel="interval holds the truth")
    left.set_title(f"{images} images: how often the interval is right")
    left.xaxis.set_major_formatter("{x:.0%}")
    left.yaxis.set_major_formatter("{x:.0%}")
    _narrowing(right, sizes, measured, ends)
    return figure


def _narrowing(axis: Axes, sizes: np.ndarray, measured: float, ends: tuple[np.ndarray, np.ndarray]) -> None:
    low, high = ends
    axis.fill_between(sizes, low, high, color=BLUE, alpha=0.2, linewidth=0)
    axis.plot(sizes, np.full(len(sizes), measured), color=BLUE, marker="o", markersize=5)
    for size, end, rise, side in ((100, low, -16, "left"), (1000, low, -16, "left"), (10000, high, 7, "right")):
        i = int(np.flatnonzero(sizes == size)[0])
        text = f"{size:,}: ±{50 * (high[i] - low[i]):.1f} points"
        axis.annotate(text, (size, end[i]), (0, rise), textcoords="offset points", ha=side, fontsize=9)
    axis.set(xscale="log", ylim=(0.45, 1.0), xlabel="test images", ylabel="accuracy")
    axis.set_xticks(sizes[::3], [f"{size:,}" for size in sizes[::3]])
    axis.minorticks_off()
    axis.set_title(f"{measured:.0%} measured: what it may be")
    axis.yaxis.set_major_formatter("{x:.0%}")


def paired_differences(differences: Mapping[str, tuple[float, float, float]], attack: str) -> Figure:
    """ANCHOR's accuracy minus that of each other method, with the paired interval and the one as if independent.

    Args:
        differences: for each other method, the first on top, the difference of the accuracies (both in [0, 1]) and
            half the width of the paired and of the independent interval.
        attack: name of the attack.
    """
    figure, axis = plt.subplots(figsize=(8, 0.62 * len(differences) + 1.3))
    methods = list(reversed(list(differences)))
    for y, method in enumerate(methods):
        value, paired, independent = differences[method]
        color = plotting.method_color(method)
        axis.errorbar(value, y + 0.14, xerr=independent, fmt="none", ecolor="0.6", elinewidth=2, capsize=3)
        axis.errorbar(value, y - 0.14, xerr=paired, fmt="o", color=color, elinewidth=2, capsize=3)
    for text, end, height, tint in (
        ("as if independent", value + independent, y + 0.14, "0.4"),
        ("paired", value + paired, y - 0.14, color),
    ):
        axis.annotate(
            text, (end, height), (6, 0), textcoords="offset points", va="center", fontsize=9, color=tint,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},  # the zero line does not cross the label
        )  # fmt: skip
    axis.axvline(0, color="0.2", linewidth=1)
    axis.set_yticks(range(len(methods)), [f"against {plotting.method_name(m)}" for m in methods])
    axis.set_ylim(-0.6, len(methods) - 0.4)
    axis.xaxis.set_major_formatter(lambda x, _: f"{100 * x:+g}" if abs(x) > 1e-9 else "0")
    axis.set_xlabel(f"ANCHOR minus the other: {attack} accuracy, percentage points")
    return figure


def accuracy_by_class(
    classes: Sequence[str],
    clean: np.ndarray,
    robust: np.ndarray,
    ends: np.ndarray,
    others: Mapping[str, np.ndarray],
    *,
    attack: str,
) -> Figure:
    """ANCHOR's accuracy in each class, clean and under attack, beside that of other methods under attack.

    Args:
        classes: names (K,); they are shown in the order of `robust`.
        clean, robust: accuracies (K,) in [0, 1]; `ends` are the intervals of `robust`, (K, 2).
        others: for each other method accuracies under attack (K,).
        attack: its name.
    """
    figure, axis = plt.subplots(figsize=(10, 3.7))
    order, x = np.argsort(robust, kind="stable"), np.arange(len(classes))
    for k, (method, values) in enumerate(others.items()):
        axis.plot(
            x + 0.22 + 0.1 * k, values[order], linestyle="none", marker=plotting.method_marker(method), markersize=5,
            color=plotting.method_color(method), alpha=0.6,
        )  # fmt: skip
        axis.annotate(
            plotting.method_name(method), (0.99, 0.30 - 0.08 * k), xycoords="axes fraction", ha="right", fontsize=9,
            color=plotting.method_color(method),
        )  # fmt: skip
    errors = np.abs(ends[order].T - robust[order])
    color = plotting.method_color("anchor")
    axis.errorbar(x, robust[order], yerr=errors, fmt=plotting.method_marker("anchor"), color=color, capsize=3)
    axis.plot(x, clean[order], linestyle="none", marker="_", markersize=16, markeredgewidth=2, color="0.3")
    axis.annotate("clean", (0, clean[order][0]), (0, 6), textcoords="offset points", ha="center", color="0.3")
    axis.annotate(
        "ANCHOR", (0, robust[order][0]), (-6, 0), textcoords="offset points", ha="right", va="center", color=color
    )
    axis.axhline(robust.mean(), color=color, linestyle="--", linewidth=1, zorder=0)
    axis.annotate(
        "mean", (0, robust.mean()), (4, 3), xycoords=axis.get_yaxis_transform(), textcoords="offset points",
        color=color, fontsize=9,
    )  # fmt: skip
    axis.set_xticks(x, np.asarray(classes)[order].tolist())
    axis.set_xlim(-1, len(classes) - 0.2)
    axis.set(xlabel=f"class, in the order of ANCHOR's accuracy under {attack}", ylabel="accuracy")
    axis.yaxis.set_major_formatter("{x:.0%}")
    axis.grid(axis="x", visible=False)
    return figure


def survival_matrix(axis: Axes, survived: np.ndarray, attacks: Sequence[str], *, title: str = "") -> np.ndarray:
    """Outcome bits (A, N) of A attacks on the same N images: blue survives, orange is broken.

    The images are sorted by the number of attacks that they survive, and the share that survives stands at the right.
    Returns that order (N,), for more rows under the same columns.
    """
    order = np.lexsort((*survived, survived.sum(0)))
    colors = mpl.colors.ListedColormap([ORANGE, PALE])
    axis.pcolormesh(survived[::-1, order], cmap=colors, vmin=0, vmax=1, edgecolors="white", linewidth=0.6)
    rows = np.arange(len(attacks)) + 0.5
    axis.set_xticks([])
    axis.set_yticks(rows, list(attacks)[::-1])
    for row, share in zip(rows, survived[::-1].mean(1), strict=True):
        axis.annotate(
            f"{share:.0%}", (1.01, row), xycoords=axis.get_yaxis_transform(), va="center", fontsize=10,
            annotation_clip=False,
        )  # fmt: skip
    axis.tick_params(length=0)
    axis.grid(False)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.set_title(title, loc="left")
    return order


def attack_ladder(
    survived: np.ndarray,
    attacks: Sequence[str],
    margin: np.ndarray,
    images: np.ndarray,
    *,
    network: str = "ANCHOR",
    last: str = "another attack",
) -> Figure:
    """Which images survive which attack, the logit margin after PGD, and the images themselves.

    The columns of all three rows are the same images, those that fall early at the left. Pink are those that PGD left
    standing and the last row breaks. Where there are more than 20, only those and the ones of the smallest margin that
    PGD left standing are shown as pictures.

    Args:
        survived: outcome bits (A, N) of A attacks; the second is PGD, the last one is what `last` names.
        attacks: their names.
        margin: logit of the true class minus the largest other one, at PGD's worst iterate (N,).
        images: (N, C, H, W) in [0, 1].
        network, last: their names in the titles.
    """
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(10, 5.2), sharex=True, gridspec_kw={"height_ratios": [2.3, 1.4, 0.75]}
    )
    order = survival_matrix(top, survived, attacks, title=f"{network}: blue survives, orange is broken")
    survived, margin = survived[:, order], margin[order]
    late = survived[1] & ~survived[-1]
    colors = np.where(late, PINK, np.where(survived[1], LIGHT, ORANGE))
    middle.bar(np.arange(len(margin)) + 0.5, margin, color=colors, width=0.8)
    middle.axhline(0, color="0.2", linewidth=1)
    middle.set_ylabel("logit margin")
    middle.grid(axis="x", visible=False)
    pgd = attacks[1]
    middle.set_title(f"Logit margin after {pgd}. Pink: {pgd} left it standing, {last} breaks it", loc="left")
    # All images if there is room, otherwise those that fall late and those that barely survive.
    shown = np.arange(len(margin))
    if len(margin) > 20:
        urgency = np.where(late, -1, np.where(survived[1], margin, np.inf))
        shown = np.sort(np.argsort(urgency, kind="stable")[:20])
    _pictures(bottom, images[order], shown, colors)
    bottom.set_xlabel(f"the first {len(margin)} test images, those that fall early at the left")
    for axis in (middle, bottom):
        axis.spines["bottom"].set_visible(False)
    bottom.spines["left"].set_visible(False)
    return figure


def _pictures(axis: Axes, images: np.ndarray, shown: np.ndarray, colors: np.ndarray) -> None:
    """Those `shown` of N images, spread over N columns, each tied to its own by a line; pink ones are framed."""
    n = len(images)
    width = 0.45 * n / 20  # half of it: 20 pictures fill the row
    for slot, c in zip((np.arange(len(shown)) + 0.5) * n / len(shown), shown, strict=True):
        picture = images[c].transpose(1, 2, 0).squeeze()
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=(slot - width, slot + width, 0, 1))
        axis.plot([c + 0.5, slot], [1.35, 1.03], color=colors[c], linewidth=1.5, clip_on=False)
        if colors[c] == PINK:
            frame: dict[str, Any] = {"fill": False, "edgecolor": PINK, "linewidth": 4, "clip_on": False}
            axis.add_patch(plt.Rectangle((slot - width, 0), 2 * width, 1, **frame))
    axis.set(aspect="auto", xlim=(0, n), ylim=(0, 1.35), xticks=[], yticks=[])
    axis.grid(False)


def one_attack(
    image: np.ndarray, change: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], *, true: int, title: str
) -> Figure:
    """A frame of the slider: an attacked image, what the attack changed, and what the network makes of it.

    Args:
        image: (C, H, W) in [0, 1].
        change: (C, H, W), what was added.
        probabilities: (K,) of the classes named in `classes`, (K,).
        true: the true class, which is blue; another one that wins is orange.
        title: name of the attack.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(6.4, 2.7), gridspec_kw={"width_ratios": [1, 1, 1.25]})
    plotting.draw_image(left, image, "attacked image")
    plotting.draw_image(middle, change, "what was added", signed=True)
    winner = int(probabilities.argmax())
    colors = [BLUE if k == true else ORANGE if k == winner else "0.75" for k in range(len(classes))]
    right.barh(np.arange(len(classes)), probabilities, color=colors, height=0.75)
    right.set_yticks(np.arange(len(classes)), list(classes), fontsize=8)
    right.set(xlim=(0, 1), ylim=(len(classes) - 0.4, -0.6))
    right.xaxis.set_major_formatter("{x:.0%}")
    right.tick_params(axis="x", labelsize=8)
    right.grid(axis="y", visible=False)
    right.set_title("probability", fontsize=10)
    verdict = f"classified as {classes[winner]}" + ("" if winner == true else f", not {classes[true]}")
    figure.suptitle(f"{title}: {verdict}", x=0.02, ha="left", fontsize=12, color=BLUE if winner == true else ORANGE)
    return figure


def promised_and_left(networks: Sequence[Mapping[str, Any]], *, promise: str) -> Figure:
    """What one attack promised of each network, and what the first stage and all stages of AutoAttack left of it.

    Args:
        networks: the first on top, each with `method`, `name`, and (accuracy, low, high) in [0, 1] as `promised`,
            `first` and `left`.
        promise: name of the attack that promised.
    """
    figure, axis = plt.subplots(figsize=(9.5, 0.5 * len(networks) + 1.5))
    heights = np.arange(len(networks))[::-1]
    for y, network in zip(heights, networks, strict=True):
        color = plotting.method_color(network["method"])
        promised, first, left = (network[key] for key in ("promised", "first", "left"))
        axis.plot([left[0], promised[0]], [y, y], color=color, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axis.plot(promised[0], y, marker="o", color=color, markersize=9)
        axis.plot(first[0], y, marker="|", color="0.2", markersize=14, markeredgewidth=2)
        errors = [[left[0] - left[1]], [left[2] - left[0]]]
        axis.errorbar(left[0], y, xerr=errors, fmt="D", color=color, markersize=7, capsize=3, elinewidth=1)
        axis.annotate(
            f"{100 * (left[0] - promised[0]):+.1f} points", (max(promised[0], left[2]), y), (12, 0),
            textcoords="offset points", va="center", fontsize=10, color=color,
        )  # fmt: skip
    top = networks[0]
    for key, text, place, side in (
        ("promised", promise, (4, 15), "left"),
        ("first", "APGD-CE", (0, -23), "center"),
        ("left", "AutoAttack", (0, 15), "center"),
    ):
        axis.annotate(
            text, (top[key][0], heights[0]), place, textcoords="offset points", ha=side, fontsize=10, color="0.2"
        )
    axis.set_yticks(heights, [network["name"] for network in networks])
    axis.set(ylim=(-0.7, len(networks) - 0.2), xlabel="accuracy")
    axis.margins(x=0.14)
    axis.xaxis.set_major_formatter("{x:.0%}")
    axis.grid(axis="y", visible=False)
    return figure


def cliff(
    epsilons: Sequence[float],
    accuracy: Mapping[str, np.ndarray],
    moved: np.ndarray,
    levels: np.ndarray,
    answers: Mapping[str, np.ndarray],
    *,
    epsilon: float,
    images: int,
) -> Figure:
    """Accuracy against the size of the attack, and how the first layer answers a plain grey of some brightness.

    Args:
        epsilons: radii (E,), in units of pixel intensity, from 0 up.
        accuracy: (E,) in [0, 1] for each method; `moved` is that of ANCHOR behind a threshold at 0.5.
        levels: brightness (L,) in [0, 1].
        answers: (L,) for each method: how far the first layer's answer is from that to black, as a share of white's.
        epsilon: the radius of training, which a dashed line marks.
        images: how many images the accuracies are shares of.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    shown = ("standard", "anchor")
    for axis, x, lines in ((left, epsilons, accuracy), (right, levels, answers)):
        for method in (*(other for other in lines if other not in shown), *shown):
            color = plotting.method_color(method) if method in shown else "0.7"
            marker = plotting.method_marker(method) if axis is left else ""
            axis.plot(x, lines[method], color=color, marker=marker, markersize=5, linewidth=2 if method in shown else 1)
        axis.axvline(epsilon, color="0.4", linewidth=1, linestyle="--")
    left.plot(epsilons, moved, color=PINK, marker="s", markersize=5, linestyle="-.")
    _name_falling_lines(left, epsilons, {**{m: accuracy[m] for m in shown}, "moved": moved}, epsilon)
    left.set(xlabel="epsilon of the attack (pixel intensity)", ylabel=f"accuracy, {images} images", ylim=(-0.03, 1.03))
    left.set_title("Accuracy under PGD", loc="left")
    for method, at in (("standard", 0.45), ("anchor", 0.8)):
        k = int(at * (len(levels) - 1))
        beside, side = ((-8, 6), "right") if method == "standard" else ((8, -8), "left")
        right.annotate(
            plotting.method_name(method), (levels[k], answers[method][k]), beside, textcoords="offset points", ha=side,
            color=plotting.method_color(method),
        )  # fmt: skip
    right.set(xlabel="brightness of a plain grey image", ylabel="change of the first layer", ylim=(-0.03, 1.03))
    right.set_title("What the first layer notices", loc="left")
    for axis in (left, right):
        axis.yaxis.set_major_formatter("{x:.0%}")
    return figure


def _name_falling_lines(axis: Axes, x: Sequence[float], lines: Mapping[str, np.ndarray], epsilon: float) -> None:
    """Names beside the lines of :func:`cliff` where they fall apart, in the corner where they fall together."""
    named = [("standard", lines["standard"], plotting.method_color("standard"), 0.25)]
    named += [("ANCHOR", lines["anchor"], plotting.method_color("anchor"), 0.5)]
    named += [("ANCHOR behind a\nthreshold at 0.5", lines["moved"], PINK, 0.75)]
    places = [_falls_to(x, heights, share) for _, heights, _, share in named]
    apart = np.diff(sorted(place for place, _ in places)).min() > 0.12 * x[-1]
    offset: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
    for k, ((name, _, color, _), place) in enumerate(zip(named, places, strict=True)):
        if apart:
            axis.annotate(name, place, (7, 0), color=color, fontsize=10, **offset)
        else:
            corner = (0.98, 0.95 - 0.08 * k)
            axis.annotate(name.replace("\n", " "), corner, xycoords="axes fraction", ha="right", color=color)
    side, height = ("right", 0.12) if apart else ("left", 0.85)
    beside = (-4 if apart else 4, 0)
    axis.annotate("epsilon of\ntraining", (epsilon, height), beside, ha=side, color="0.4", fontsize=9, **offset)


def _falls_to(x: Sequence[float], heights: np.ndarray, share: float) -> tuple[float, float]:
    """Where a falling line has come down to this share of its first height, or its end."""
    height = share * max(float(heights[0]), 1e-9)
    if not (heights <= height).any():
        return x[-1], float(heights[-1])
    after = max(1, int(np.argmax(heights <= height)))
    return float(np.interp(-height, -heights[after - 1 : after + 1], x[after - 1 : after + 1])), height


def losses_on_a_walk(walks: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], epsilon: float) -> Figure:
    """The loss along one direction, a panel a network, with short strokes that have the slope that `autograd` reports.

    Args:
        walks: for each network the distance walked (T,), from 0 to `epsilon` in units of pixel intensity, the
            cross-entropy there (T,) and its derivative by the distance (T,).
        epsilon: how far the walk goes; the strokes are a ninth of it wide.
    """
    figure, axes = plt.subplots(1, len(walks), figsize=(10, 3.1))
    reach = np.array([-1, 1]) * 0.055 * epsilon
    for axis, (name, (t, losses, slopes)) in zip(axes, walks.items(), strict=True):
        axis.plot(t, losses, color=BLUE)
        for j in range(6, len(t), 18):
            stroke = losses[j] + slopes[j] * reach
            axis.plot(t[j] + reach, stroke, color=ORANGE, linewidth=3.5, solid_capstyle="round")
        axis.margins(y=0.12)
        axis.set_title(name, loc="left")
        axis.set_xlabel("distance walked (pixel intensity)")
    axes[0].set_ylabel("cross-entropy")
    axes[0].annotate("loss", (0.97, 0.14), xycoords="axes fraction", color=BLUE, ha="right")
    axes[0].annotate("slope that PGD sees", (0.97, 0.04), xycoords="axes fraction", color=ORANGE, ha="right")
    return figure


def check_matrix(checks: Mapping[str, Mapping[str, tuple[bool, str]]], steps: int) -> Figure:
    """Checks (rows) of several models (columns): pass or fail, and the percentages out of the evidence.

    Args:
        checks: for each model, under the heading of its column, whether each of `CHECKS` passed, and its evidence.
        steps: of the PGD that was checked.
    """
    figure, axis = plt.subplots(figsize=(10, 4.6))
    for row, (check, (_, pattern)) in enumerate(CHECKS.items()):
        for column, found in enumerate(checks.values()):
            passed, evidence = found[check]
            numbers = [f"{float(n):.0f}" for n in re.findall(r"([\d.]+)%", evidence)]
            axis.add_patch(
                plt.Rectangle((column + 0.02, row + 0.04), 0.96, 0.92, color="#CFE3F1" if passed else ORANGE)
            )
            text = f"{'pass' if passed else 'FAIL'}   {pattern.format(*numbers)}"
            color, weight = ("0.15", "normal") if passed else ("white", "bold")
            axis.text(
                column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=10, color=color, fontweight=weight
            )
    axis.set(xlim=(0, len(checks)), ylim=(len(CHECKS), 0))
    labels = [label.format(steps=steps, many=5 * steps) for label, _ in CHECKS.values()]
    axis.set_yticks(np.arange(len(CHECKS)) + 0.5, labels)
    axis.set_xticks(np.arange(len(checks)) + 0.5, list(checks))
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=10)
    axis.grid(False)
    for side in axis.spines.values():
        side.set_visible(False)
    return figure
