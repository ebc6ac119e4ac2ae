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
    lead: np.ndarray,
    images: np.ndarray,
    *,
    network: str = "ANCHOR",
    last: str = "AutoAttack",
) -> Figure:
    """Which images survive which attack, the lead of the true class after PGD, and the images themselves.

    The columns of all three rows are the same images, those that fall early at the left. Pink are those that PGD left
    standing and the last attack breaks. Where there are more than 20, only those and the ones of the smallest lead that
    PGD left standing are shown as pictures.

    Args:
        survived: outcome bits (A, N) of A attacks; the second is PGD, the last one is the last stage of `last`.
        attacks: their names.
        lead: logit of the true class minus the largest other one, at PGD's worst iterate (N,).
        images: (N, C, H, W) in [0, 1].
        network, last: their names in the titles.
    """
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(10, 5.2), sharex=True, gridspec_kw={"height_ratios": [2.3, 1.4, 0.75]}
    )
    order = survival_matrix(top, survived, attacks, title=f"{network}: blue survives, orange is broken")
    survived, lead = survived[:, order], lead[order]
    late = survived[1] & ~survived[-1]
    colors = np.where(late, PINK, np.where(survived[1], LIGHT, ORANGE))
    middle.bar(np.arange(len(lead)) + 0.5, lead, color=colors, width=0.8)
    middle.axhline(0, color="0.2", linewidth=1)
    middle.set_ylabel("lead (logits)")
    middle.grid(axis="x", visible=False)
    pgd = attacks[1]
    middle.set_title(f"Lead of the true class after {pgd}. Pink: {pgd} left it standing, {last} breaks it", loc="left")
    # All images if there is room, otherwise those that fall late and those that barely survive.
    shown = np.arange(len(lead))
    if len(lead) > 20:
        urgency = np.where(late, -1, np.where(survived[1], lead, np.inf))
        shown = np.sort(np.argsort(urgency, kind="stable")[:20])
    _pictures(bottom, images[order], shown, colors)
    bottom.set_xlabel(f"the first {len(lead)} test images, those that fall early at the left")
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


def stages(found: Mapping[str, Mapping[str, Mapping[str, Any]]], *, promise: str) -> Figure:
    """Accuracy of each method from attack to attack, and how far it ends below what one of them promised.

    Args:
        found: for each method and attack the row of a results table, of which accuracy, low and high, in [0, 1], and
            the number of images are shown. The attacks after `promise` are the stages of one attack on the same images.
        promise: the attack whose accuracy a dashed line carries on to the right.
    """
    figure, axis = plt.subplots(figsize=(9.5, 4))
    attacks = list(next(iter(found.values())))
    at = attacks.index(promise)
    for k, (method, rows) in enumerate(found.items()):
        color, x = plotting.method_color(method), np.arange(len(attacks)) + 0.14 * (k - (len(found) - 1) / 2)
        value, low, high = (np.array([rows[a][column] for a in attacks]) for column in ("accuracy", "low", "high"))
        errors = np.maximum([value - low, high - value], 0)
        axis.errorbar(x, value, yerr=errors, fmt=plotting.method_marker(method), color=color, capsize=3)
        axis.plot(x[at + 1 :], value[at + 1 :], color=color, linewidth=1.2)
        axis.plot(x[[at, -1]], value[[at, at]], color=color, linestyle="--", linewidth=1)
        axis.annotate(
            f"{plotting.method_name(method)}: {100 * (value[-1] - value[at]):+.1f} points from {promise} to the end",
            (0.98, 0.95 - 0.09 * k), xycoords="axes fraction", color=color, ha="right", va="top",
        )  # fmt: skip
    images = [next(iter(found.values()))[a]["images"] for a in attacks]
    axis.set_xticks(range(len(attacks)), [f"{a}\n{n:,} images" for a, n in zip(attacks, images, strict=True)])
    axis.grid(axis="x", visible=False)
    axis.set_ylabel("accuracy")
    axis.yaxis.set_major_formatter("{x:.0%}")
    return figure


def accuracy_by_epsilon(
    epsilons: Sequence[float],
    accuracy: Mapping[str, np.ndarray],
    ends: Mapping[str, np.ndarray],
    *,
    epsilon: float,
    ylabel: str,
) -> Figure:
    """Accuracy against the size of the attack: six panels, each with one method in colour and the others in grey.

    Args:
        epsilons: radii (E,), in units of pixel intensity, from 0 up.
        accuracy: (E,) in [0, 1] for each of six methods.
        ends: low and high end of the interval, (2, E).
        epsilon: the radius that a dashed line marks.
        ylabel: which accuracy this is.
    """
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.2), sharex=True, sharey=True)
    for axis, method in zip(axes.flat, accuracy, strict=True):
        for other in accuracy:
            axis.plot(epsilons, accuracy[other], color="0.8", linewidth=1)
        color, marker = plotting.method_color(method), plotting.method_marker(method)
        axis.fill_between(epsilons, *ends[method], color=color, alpha=0.2, linewidth=0)
        axis.plot(epsilons, accuracy[method], color=color, marker=marker, markersize=5)
        axis.axvline(epsilon, color="0.4", linewidth=1, linestyle="--")
        axis.set_title(plotting.method_name(method), color=color, loc="left")
        axis.set_ylim(-0.03, 1.03)
        axis.yaxis.set_major_formatter("{x:.0%}")
    height, shift, side = (
        (0.6, 5, "left") if epsilon < 0.3 * epsilons[-1] else (0.3, -5, "right")
    )  # where there is room
    axes[0, 0].annotate(
        "epsilon of\nthe table", (epsilon, height), (shift, 0), textcoords="offset points", ha=side, fontsize=9,
        color="0.4",
    )  # fmt: skip
    figure.supxlabel("epsilon (pixel intensity, 0 to 1)", fontsize=11)
    figure.supylabel(ylabel, fontsize=11)
    return figure


def accuracy_by_steps(steps: Sequence[int], heights: Mapping[str, Sequence[float]], images: int) -> Figure:
    """ANCHOR's accuracy against the number of PGD steps.

    Args:
        steps: numbers of steps (S,).
        heights: accuracies in [0, 1]: `final` and `any` (S,), with a fixed step and the final or any iterate counting;
            `scaled`, for the first numbers of steps, with a step of 2.5 epsilon / steps and any iterate counting.
        images: how many images these are shares of.
    """
    figure, axis = plt.subplots(figsize=(8, 3.9))
    final, scaled = heights["final"], heights["scaled"]
    axis.plot(steps, final, color=PALE, linewidth=8, solid_capstyle="round", solid_joinstyle="round")
    axis.plot(steps, heights["any"], color=BLUE, marker="o")
    axis.plot(steps[: len(scaled)], scaled, color=ORANGE, marker="^")
    text = "step fixed; wide: final iterate, thin: any iterate"
    axis.annotate(text, (steps[1], final[1]), (12, 6), textcoords="offset points", color=BLUE)
    axis.annotate("step 2.5 epsilon / steps, any iterate", (0.02, 0.05), xycoords="axes fraction", color=ORANGE)
    axis.set_xlabel("PGD steps (logarithmic)")
    axis.set_ylabel(f"accuracy, ANCHOR, {images} images")
    axis.margins(y=0.12)
    axis.yaxis.set_major_formatter("{x:.0%}")
    axis.set_xscale("log")
    axis.set_xticks(steps, [str(t) for t in steps])
    axis.minorticks_off()
    return figure


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
