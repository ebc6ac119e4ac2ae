"""What several lessons draw: plain arrays in; a matplotlib figure out, or drawn on the axes that are handed in."""

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
from PIL import Image

from anchor_utils.config import METHODS

PIXELS_AN_INCH = 80  # of an SVG figure
BLUE, ORANGE = "#0072B2", "#D55E00"  # right or of one's own class, and wrong or of another


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
    """Its label; any other name is its own."""
    return METHODS[method].label if method in METHODS else method


def method_color(method: str) -> str:
    """One colour a method, the same in every notebook; a colour of no method for any other name."""
    return METHODS[method].color if method in METHODS else "#CC79A7"


def method_marker(method: str) -> str:
    """One marker a method, as :func:`method_color`."""
    return METHODS[method].marker if method in METHODS else "*"


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
                axes[r, c].title.set(color=ORANGE, fontweight="bold")
        axes[r, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
    return figure


def draw_neighbours(
    axes: Sequence[Axes] | np.ndarray, image: np.ndarray, nearest: np.ndarray, own_class: np.ndarray, *, name: str = ""
) -> None:
    """A row of 2 + K axes: a query, a gap, and its K nearest images, framed in blue if of its class, else in orange.

    Args:
        axes: the first is for the query, the second is left empty.
        image, nearest: the query (C, H, W) and its neighbours (K, C, H, W), the nearest first, in [0, 1].
        own_class: (K,), whether a neighbour is of the query's class.
        name: stands at the left of the query.

    Raises:
        ValueError: the numbers of axes, neighbours and frames do not fit.
    """
    query, gap, *places = axes
    for axis in axes:
        axis.spines[:].set_visible(False)
    gap.set(xticks=[], yticks=[])
    draw_image(query, image)
    query.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    for axis, picture, own in zip(places, nearest, own_class, strict=True):
        draw_image(axis, picture)
        axis.spines[:].set(visible=True, color=BLUE if own else ORANGE, linewidth=3)


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
        color, marker = (method_color(name), method_marker(name)) if name in METHODS else (next(others), "o")
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
