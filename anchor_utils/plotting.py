"""The figures of the course. Every function takes plain arrays and returns a matplotlib figure."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

# One colour (Okabe & Ito's, safe for colour-blind readers) and one marker a method, the same in every notebook.
METHOD_STYLE = {
    "standard": ("#000000", "o"),
    "pgd_at": ("#0072B2", "s"),
    "trades": ("#56B4E9", "^"),
    "mart": ("#009E73", "v"),
    "supcon": ("#999999", "P"),
    "supcon_at": ("#E69F00", "D"),
    "anchor": ("#D55E00", "X"),
}
METHOD_NAMES = {
    "standard": "standard",
    "pgd_at": "PGD-AT",
    "trades": "TRADES",
    "mart": "MART",
    "supcon": "SupCon",
    "supcon_at": "SupCon-AT",
    "anchor": "ANCHOR",
}


PIXELS_AN_INCH = 80  # of an SVG figure


def use_style() -> None:
    """The course's look, from ``course.mplstyle`` beside this file."""
    plt.style.use(Path(__file__).with_name("course.mplstyle"))


def show(figure: Figure, alt: str, *, svg: bool = False, colors: int | None = None) -> None:
    """Display a figure in a notebook with a text for those who cannot see it, and close it.

    A PNG of many small marks becomes a third of its size when it is written with a palette of so many `colors`.
    """
    from IPython.display import SVG

    buffer = io.BytesIO()
    if svg:
        figure.savefig(buffer, format="svg", metadata={"Title": alt, "Date": None})
        # JupyterLab does not shrink an SVG to the window: at 96 pixels an inch a laptop would have to scroll.
        text = re.sub(
            r'(width|height)="([\d.]+)pt"',
            lambda m: f'{m[1]}="{float(m[2]) * PIXELS_AN_INCH / 72:g}"',
            buffer.getvalue().decode(),
            count=2,
        )
        _display("image/svg+xml", SVG(text).data, alt)  # the <svg> alone, without the XML declaration
    else:
        figure.savefig(buffer, format="png")
        if colors is not None:
            picture = Image.open(buffer).convert("RGB").quantize(colors, Image.Quantize.MAXCOVERAGE)
            buffer = io.BytesIO()
            picture.save(buffer, format="PNG", optimize=True)
        _display("image/png", base64.b64encode(buffer.getvalue()).decode(), alt)
    plt.close(figure)


def animate(
    figures: Iterable[Figure],
    alt: str,
    *,
    milliseconds: int = 100,
    hold: int = 2000,
    colors: int = 64,
) -> None:
    """Display figures of one size as a looping animation, and close them.

    It is an animated PNG: every browser plays it, GitHub's view included, and a viewer that cannot shows the first
    frame. `milliseconds` is the time of a frame, `hold` that of the last one; few `colors` keep the file small.
    """
    frames = []
    for figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        plt.close(figure)
        frames.append(Image.open(buffer).convert("RGB"))
    # One palette for all frames, made from the first, the middle and the last, which covers small marks too.
    chosen = np.concatenate([np.asarray(frames[k]) for k in (0, len(frames) // 2, -1)])
    palette = Image.fromarray(chosen).quantize(colors, Image.Quantize.MAXCOVERAGE)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    durations = [milliseconds] * len(rest) + [hold]
    buffer = io.BytesIO()
    first.save(buffer, format="PNG", save_all=True, append_images=rest, duration=durations, loop=0)
    _display("image/png", base64.b64encode(buffer.getvalue()).decode(), alt)


def _display(kind: str, data: str, alt: str) -> None:
    """A picture with its description where viewers may look for it: as metadata, and as the plain-text form."""
    from IPython.display import display

    display({kind: data, "text/plain": alt}, raw=True, metadata={kind: {"alt": alt}})


def method_name(method: str) -> str:
    return METHOD_NAMES.get(method, method)


def method_color(method: str) -> str:
    return METHOD_STYLE.get(method, ("#CC79A7", "*"))[0]


def draw_image(axis: Axes, image: np.ndarray, title: str = "", *, signed: bool = False) -> None:
    """One image (C, H, W): in [0, 1], or a perturbation around 0 drawn with red above and blue below."""
    if signed:
        limit = max(float(np.abs(image).max()), 1e-8)
        axis.imshow(image.mean(0), cmap="RdBu_r", vmin=-limit, vmax=limit)
    elif image.shape[0] == 1:
        axis.imshow(image[0], cmap="gray", vmin=0, vmax=1)
    else:
        axis.imshow(np.clip(image.transpose(1, 2, 0), 0, 1))
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    if title:
        axis.set_title(title, fontsize=9, fontweight="normal")


def image_grid(
    rows: Sequence[np.ndarray],
    row_labels: Sequence[str],
    titles: Sequence[Sequence[str]] | None = None,
    *,
    wrong: Sequence[Sequence[bool]] | None = None,
    signed_rows: Sequence[int] = (),
    size: float = 1.25,
) -> Figure:
    """Rows of images (N, C, H, W), each row with a label at its left and each image with an optional title.

    Titles of `wrong` images are orange and bold.
    """
    n = len(rows[0])
    figure, axes = plt.subplots(len(rows), n, figsize=(size * n + 1, (size + 0.25) * len(rows)), squeeze=False)
    for r, (images, label) in enumerate(zip(rows, row_labels, strict=True)):
        for c in range(n):
            title = titles[r][c] if titles is not None and titles[r] else ""
            draw_image(axes[r, c], np.asarray(images[c]), title, signed=r in signed_rows)
            if wrong is not None and wrong[r] and wrong[r][c]:
                axes[r, c].title.set(color="#D55E00", fontweight="bold")
        axes[r, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
    return figure


def curves(
    axis: Axes,
    x: Sequence[float],
    lines: Mapping[str, np.ndarray],
    *,
    bands: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    xlabel: str,
    ylabel: str,
    ylim: tuple[float, float] | None = None,
    percent: bool = True,
) -> None:
    """Lines with optional interval bands, labelled directly at their right end; names of methods get their colour."""
    others = iter(sns.color_palette(None, 10))
    ends: list[tuple[float, str, Any]] = []
    for name, y in lines.items():
        color, marker = METHOD_STYLE.get(name, (None, "o"))
        color = color or next(others)
        axis.plot(x, y, color=color, marker=marker, markersize=5, linewidth=1.8)
        if bands and name in bands:
            axis.fill_between(x, *bands[name], color=color, alpha=0.15, linewidth=0)
        ends.append((float(np.asarray(y)[-1]), name, color))
    low, high = axis.set_ylim(ylim)
    # Labels that would overlap are pushed apart, from the lowest up.
    gap, position = 0.06 * (high - low), -np.inf
    for end, name, color in sorted(ends, key=lambda item: item[0]):
        position = max(end, position + gap)
        axis.annotate(
            method_name(name),
            (1.02, position),
            xycoords=axis.get_yaxis_transform(),
            color=color,
            va="center",
            fontsize=10,
            annotation_clip=False,
        )
    if all(isinstance(value, int) for value in x):
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    if percent:
        axis.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))


def accuracy_bars(
    groups: Sequence[str], series: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], *, ylabel: str = "accuracy"
) -> Figure:
    """Points with intervals: for each series (an attack, say) accuracy, low and high for each group (a method)."""
    figure, axis = plt.subplots(figsize=(1.2 * len(groups) + 2.5, 3.8))
    offsets = 0.14 * (np.arange(len(series)) - (len(series) - 1) / 2)
    for (name, (value, low, high)), offset, color in zip(
        series.items(), offsets, sns.color_palette(None, len(series)), strict=True
    ):
        x = np.arange(len(groups)) + offset
        # Wilson's interval need not be symmetric, and at 0% or 100% rounding may put the end past the point.
        errors = np.maximum([value - low, high - value], 0)
        axis.errorbar(x, value, yerr=errors, fmt="o", color=color, capsize=3, label=name)
    axis.set_xticks(range(len(groups)), [method_name(group) for group in groups])
    lowest = float(np.nanmin([low for _, low, _ in series.values()]))
    axis.set_ylim(max(-0.03, lowest - 0.1), 1.03)
    axis.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    axis.set_ylabel(ylabel)
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def circle(
    axis: Axes, angles: np.ndarray, labels: np.ndarray, *, title: str = "", moves: np.ndarray | None = None
) -> None:
    """Unit vectors of the plane, given by their angles in radians, on the circle and coloured by class.

    `moves` (N,), signed lengths, are drawn as arrows along the circle, counter-clockwise if positive.
    """
    axis.add_patch(mpl.patches.Circle((0, 0), 1, fill=False, ec="0.7"))
    palette = sns.color_palette(None, int(labels.max()) + 1)
    colors = [palette[label] for label in labels]
    axis.scatter(np.cos(angles), np.sin(angles), c=colors, s=36, ec="white", zorder=3)
    if moves is not None:
        axis.quiver(
            np.cos(angles), np.sin(angles), -moves * np.sin(angles), moves * np.cos(angles),
            color=colors, angles="xy", scale_units="xy", scale=1, width=0.014, zorder=4,
        )  # fmt: skip
    axis.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), xticks=[], yticks=[], aspect="equal")
    for side in axis.spines.values():
        side.set_visible(False)
    axis.set_title(title)


def survival_matrix(axis: Axes, survived: np.ndarray, attacks: Sequence[str], *, title: str = "") -> np.ndarray:
    """Outcome bits (A, N) of A attacks on the same N images: blue survives, orange is broken.

    The images are sorted by the number of attacks that they survive, and the share that survives stands at the right.
    Returns that order (N,), for more rows under the same columns.
    """
    order = np.lexsort((*survived, survived.sum(0)))
    colors = mpl.colors.ListedColormap(["#D55E00", "#A6CEE3"])
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


def chords(
    axis: Axes, angles: np.ndarray, anchor: int, pulls: np.ndarray, *, width: float = 8.0, thinnest: float = 0.0
) -> None:
    """Lines inside a `circle` from point `anchor` to all others, as thick as `pulls` (N,); 0 draws none.

    A positive pull is a solid blue line, a negative one, which pushes, a dashed orange one. `thinnest`, in points,
    keeps weak ones visible.
    """
    x, y = np.cos(angles), np.sin(angles)
    for other, pull in enumerate(pulls):
        if other != anchor and pull:
            axis.plot(
                [x[anchor], x[other]],
                [y[anchor], y[other]],
                color="#0072B2" if pull > 0 else "#D55E00",
                linestyle="-" if pull > 0 else (0, (1.2, 0.5)),
                linewidth=max(width * abs(pull), thinnest),
                alpha=0.8,
                zorder=2,
                solid_capstyle="butt",
            )


def gallery(
    rows: Sequence[np.ndarray],
    row_labels: Sequence[str],
    bars: Sequence[Sequence[float | None]],
    *,
    titles: Sequence[Sequence[str]],
    notes: Sequence[Sequence[str]],
    groups: Mapping[str, int],
    reference: float = 1.0,
    size: float = 1.05,
) -> Figure:
    """Rows of images (N, C, H, W), each with a title above, a number as a bar below, and a warning in orange words.

    Args:
        bars: lengths on one scale for the whole gallery; None draws none. A black tick marks `reference`.
        notes: "" where there is nothing to warn of.
        groups: headings and how many columns each stands over; a gap separates them.
    """
    longest = max(value for row in bars for value in row if value is not None)
    spans = [*groups.values()]
    ratios: list[float] = []
    columns: list[int] = []
    for span in spans:
        columns += range(len(ratios), len(ratios) + span)
        ratios += [1.0] * span + [0.18]
    height = (size + 0.74) * len(rows) + 0.3
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - 0.3 / height))  # room for the headings
    figure = plt.figure(figsize=(size * sum(ratios) + 0.9, height), layout=layout)
    grid = figure.add_gridspec(len(rows), len(ratios), width_ratios=ratios)
    heads = np.cumsum([0, *spans])[:-1]
    for r, (images, label) in enumerate(zip(rows, row_labels, strict=True)):
        for c, (image, column) in enumerate(zip(images, columns, strict=True)):
            axis = figure.add_subplot(grid[r, column])
            draw_image(axis, np.asarray(image), titles[r][c])
            below = axis.get_xaxis_transform()
            low, high = axis.get_xlim()
            length = bars[r][c]
            if length is not None:
                scale = (high - low) / longest
                corner = (low, -0.15)
                axis.add_patch(
                    mpl.patches.Rectangle(
                        corner, length * scale, 0.1, color="#0072B2", lw=0, transform=below, clip_on=False
                    )
                )
                tick = low + reference * scale
                axis.plot([tick, tick], [-0.17, -0.03], color="black", linewidth=1.2, transform=below, clip_on=False)
                axis.text(low, -0.2, f"weight x{length:.2f}", transform=below, fontsize=8.5, va="top", color="#0072B2")
            if notes[r][c]:
                axis.text(
                    low, -0.06 if length is None else -0.36, notes[r][c], transform=below, fontsize=8.5, va="top",
                    color="#D55E00", fontweight="bold",
                )  # fmt: skip
            axis.set(xlim=(low, high))
            if c == 0:
                axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
            if r == 0 and c in heads:
                heading = [*groups][list(heads).index(c)]
                text = axis.text(low, 1.26, heading, transform=below, fontsize=10.5, fontweight="bold", va="bottom")
                text.set_in_layout(False)  # it stands over several columns
    return figure
