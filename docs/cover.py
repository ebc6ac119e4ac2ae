"""Draws the figure of the landing page: what two networks say on one plane through a digit.

``python docs/cover.py`` trains both networks of the preset, unless their runs are there, and writes ``cover-*.png`` and
``cover.json``, the numbers of the caption, into ``docs/static``.
"""

from __future__ import annotations

import argparse
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patheffects import withStroke
from PIL import Image
from scipy import ndimage
from torch import nn

from anchor_utils import attacks, evaluation, training
from anchor_utils.config import Steps, load_preset
from anchor_utils.data import Split, load_data

STATIC = Path(__file__).resolve().parent / "static"
NETWORKS = {"ordinary": "standard", "robust": "pgd_at"}  # name on the page -> training method
REACH = 1.5  # half the side of the plane, in units of epsilon
# The paper of a theme, and how far the colour of a class goes towards it where the network is unsure.
THEMES = {"light": ("#ffffff", 0.75), "dark": ("#121212", 0.8)}
INK = "#1b1f24"
TRUE = "#0072B2"  # the class of the digit; the others get these colours, neighbours of different hue and lightness
OTHERS = ("#8C5A3C", "#80BA5A", "#E68310", "#7F3C8D", "#D5354B", "#11A579", "#A5AA99", "#F2B701", "#CF1C90")
PLACES = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))  # of the digit and of the attacked images
NUMERAL: dict[str, Any] = {"color": "white", "fontweight": "bold", "fontsize": 46, "ha": "center", "va": "center"}


@dataclass(frozen=True)
class Plane:
    """What a network says on a folded plane of images x + |a| d + |b| e, where a and b run from -REACH to REACH.

    d is the change that one attack made for a > 0 and another one for a < 0, and e likewise for b. So the changes with
    |a| + |b| <= 1 are means of allowed changes, and allowed.

    Args:
        classes: that it names (G, G), rows upwards in b.
        confidence: its probabilities for them (G, G).
        ends: x, and the images that the attacks made, right, above, left and below (5, H, W).
        named: the classes that it names for these five.
    """

    classes: np.ndarray
    confidence: np.ndarray
    ends: np.ndarray
    named: np.ndarray


def plane(model: nn.Module, image: torch.Tensor, changes: torch.Tensor, points: int) -> Plane:
    """Ask a network about a grid of images.

    Args:
        image: a digit (1, H, W), pixels in [0, 1].
        changes: that four attacks made (4, 1, H, W): right, above, left, below.
        points: G, the number of grid points a side.
    """
    ticks = torch.linspace(-REACH, REACH, points)
    b, a = torch.meshgrid(ticks, ticks, indexing="ij")
    weights = torch.stack([a, b, -a, -b], -1).clamp(min=0).view(-1, 4)
    answers = [
        evaluation.logits_of(model, (image + torch.einsum("np,pchw->nchw", part, changes)).clamp(0, 1)).softmax(1)
        for part in weights.split(4096)
    ]
    confidence, classes = torch.cat(answers).max(1)
    ends = torch.cat([image[None], image + changes])
    named = evaluation.logits_of(model, ends).argmax(1)
    shape = (points, points)
    return Plane(classes.view(shape).numpy(), confidence.view(shape).numpy(), ends[:, 0].numpy(), named.numpy())


def draw(shown: Plane, true: int, names: tuple[str, ...], theme: str) -> Figure:
    """The plane in colours of the classes, the allowed changes as a diamond, and the five images on it."""
    paper, fade = THEMES[theme]
    palette = [to_rgb(color) for color in OTHERS]
    palette.insert(true, to_rgb(TRUE))
    # Where the network is unsure the colour fades, so that borders between classes stand out.
    sure = np.clip((shown.confidence - 0.35) / 0.6, 0, 1)[..., None] ** 0.8
    pixels = np.array(palette)[shown.classes] * (1 - fade * (1 - sure)) + np.array(to_rgb(paper)) * fade * (1 - sure)
    figure = plt.figure(figsize=(6, 6), dpi=130, facecolor=paper)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(pixels, origin="lower", extent=(-REACH, REACH, -REACH, REACH), interpolation="bilinear")
    axis.plot([1, 0, -1, 0, 1], [0, 1, 0, -1, 0], color="white", lw=5, alpha=0.9, solid_joinstyle="miter")
    axis.plot([1, 0, -1, 0, 1], [0, 1, 0, -1, 0], color=INK, lw=2, solid_joinstyle="miter")
    for place, end in zip(PLACES, shown.ends, strict=True):
        picture = OffsetImage(end, cmap="gray", norm=Normalize(0, 1), zoom=2.4, interpolation="nearest")
        style = {"edgecolor": "white", "linewidth": 4, "facecolor": "white", "boxstyle": "square,pad=0.05"}
        axis.add_artist(AnnotationBbox(picture, place, frameon=True, pad=0.1, bboxprops=style))
    for point, name in _numerals(shown):
        axis.text(*point, names[name], **NUMERAL, path_effects=[withStroke(linewidth=5, foreground=INK, alpha=0.55)])
    axis.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH))
    axis.axis("off")
    return figure


def _numerals(shown: Plane) -> list[tuple[tuple[float, float], int]]:
    """For each large region the point that is farthest from its border and from the five images, and its class."""
    points = len(shown.classes)
    ticks = np.linspace(-REACH, REACH, points)
    a, b = np.meshgrid(ticks, ticks)
    free = np.ones((points, points), bool)
    for x, y in PLACES:
        free &= np.maximum(np.abs(a - x), np.abs(b - y)) > 0.4
    found = []
    for k in np.unique(shown.classes):
        regions, count = ndimage.label(shown.classes == k)
        for region in range(1, count + 1):
            inside = np.pad((regions == region) & free, 1)  # the edge of the picture is a border too
            depth = ndimage.distance_transform_edt(inside)[1:-1, 1:-1] * (ticks[1] - ticks[0])
            if depth.max() > 0.17:
                row, column = np.unravel_index(depth.argmax(), depth.shape)
                found.append(((float(ticks[column]), float(ticks[row])), int(k)))
    return found


def towards(model: nn.Module, image: torch.Tensor, targets: torch.Tensor, attack: Steps) -> torch.Tensor:
    """The changes (T, 1, H, W) of PGD on one image (1, H, W) towards each of the classes `targets` (T,)."""
    images = image.expand(len(targets), *image.shape).contiguous()
    return attacks.pgd(model, images, targets, **attack, random_start=False, targeted=True) - images


def choose(ordinary: nn.Module, robust: nn.Module, images: Split, attack: Steps) -> tuple[int, torch.Tensor]:
    """The first image, and four classes, such that attacks lead the ordinary network to all of them and the robust one
    to none. Where there is none, the first image and any four wrong classes."""
    x, y = images.inputs(), images.labels
    count = int(y.max()) + 1
    for index in range(len(images)):
        targets = torch.tensor([k for k in range(count) if k != int(y[index])])
        moved = evaluation.logits_of(ordinary, x[index] + towards(ordinary, x[index], targets, attack)).softmax(1)
        sure, order = moved.gather(1, targets[:, None])[:, 0].sort(descending=True)
        four = targets[order[:4]].sort().values
        kept = evaluation.logits_of(robust, x[index] + towards(robust, x[index], four, attack)).argmax(1) == y[index]
        if sure[3] > 0.5 and kept.all():
            return index, four
    return 0, torch.tensor([k for k in range(count) if k != int(y[0])][:4])


def withstood(model: nn.Module, images: Split, attack: Steps) -> float:
    """The share of images (N) that the network still classifies correctly after PGD."""
    x, y = images.inputs(), images.labels
    broken = attacks.pgd(model, x, y, **attack, generator=torch.Generator().manual_seed(0))
    return evaluation.clean_outcomes(model, broken, y).float().mean().item()


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130)
    plt.close(figure)
    Image.open(buffer).convert("RGB").quantize(256).save(path, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    """Train, ask, draw, write."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--points", type=int, default=320, help="grid points a side")
    parser.add_argument("--folder", type=Path, default=STATIC)
    options = parser.parse_args(arguments)
    config = load_preset(options.preset)
    dataset = load_data(config)
    networks = {
        name: training.fit(config.replace(method=method), dataset=dataset).model().eval()
        for name, method in NETWORKS.items()
    }
    test = dataset.test[: config.test_images]
    attack: Steps = config.evaluation()
    ordinary, robust = networks.values()
    index, four = choose(ordinary, robust, test[:100], attack)
    image, true = test.inputs()[index], int(test.labels[index])
    numbers: dict[str, object] = {
        "preset": options.preset,
        "digit": dataset.classes[true],
        "targets": [dataset.classes[k] for k in four],
        "images": len(test),
        **attack,
    }
    for name, model in networks.items():
        shown = plane(model, image, towards(model, image, four, attack), options.points)
        named = [dataset.classes[k] for k in shown.named]
        numbers[name] = {"named": named, "withstood": round(withstood(model, test, attack), 4)}
        for theme in THEMES:
            _save(draw(shown, true, dataset.classes, theme), options.folder / f"cover-{name}-{theme}.png")
    (options.folder / "cover.json").write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
