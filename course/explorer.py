"""The embedding explorer, one HTML file that needs no server: maps of clean and attacked features, to point at.

``python -m course.explorer --preset cpu --methods pgd_at anchor --output docs/static/explorer.html`` makes it from runs
that were trained with ``keep_epochs`` (``--train`` trains those that are missing), and beside it NAME.md: what the maps
show, in words.

The page is SVG with a script of its own. Plotly was tried on paper and left: its Python package brings the full bundle
of 4.6 MB, which alone leaves no room for the images; the basic bundle comes through npm only; and its points cannot be
reached by keyboard. What is needed here, a few hundred marks and a panel, is a screen of script.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.linalg import orthogonal_procrustes
from sklearn.manifold import TSNE, trustworthiness

from anchor_utils import attacks, embeddings, runs
from anchor_utils.config import METHODS, Config, load_preset, presets
from anchor_utils.data import Dataset, Split, load_data
from anchor_utils.devices import resolve_device
from anchor_utils.files import write_text
from anchor_utils.models import AnchorNet, fold_batchnorm
from anchor_utils.plotting import method_name
from anchor_utils.results import wilson
from anchor_utils.runs import Run, epoch_name
from anchor_utils.train import exit_status, parameters
from anchor_utils.training import fit
from course import lesson

TEMPLATE = Path(__file__).with_suffix(".html")
LIMIT = 5_000_000  # bytes of the page
PERPLEXITY, NEIGHBOURS, HARDEST = 15, 10, 3
LEAST = 20  # images: below, a map shows nothing, and t-SNE has too few neighbours to choose from
REFERENCES = 1000  # clean training images that kNN asks
EPOCHS = 5  # of a run that are shown unless others are asked for


@dataclass(frozen=True)
class Stage:
    """What a network makes of N images and of the same images attacked; 2N rows, the clean images first.

    Args:
        method, epoch: of the network.
        adversarial: images (N, C, H, W), uint8.
        vectors: features (2N, D) of unit norm.
        predicted: classes (2N,).
        confidence: softmax probabilities of these (2N,), in [0, 1].
        displacement: r of eq. 4 in lesson 07 (N,), in units of the mean distance between centres of clean classes.
        knn: accuracies in [0, 1] of clean and of attacked features, asked against clean training images.
    """

    method: str
    epoch: int
    adversarial: np.ndarray
    vectors: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    displacement: np.ndarray
    knn: tuple[float, float]


def check_wanted(
    config: Config, methods: Sequence[str], epochs: Sequence[int] | None, images: int, dataset: Dataset
) -> None:
    """Raise ValueError if no run of this configuration could be shown like this; before anything is computed."""
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods or len({*methods}) < len(methods):
        raise ValueError(f"methods={[*methods]}: allowed is one or more of {', '.join(METHODS)}, each once")
    if wrong := [epoch for epoch in epochs or () if not 0 <= epoch <= config.epochs]:
        raise ValueError(f"epochs={[*wrong]}: allowed is 0 to {config.epochs}, the epochs of a run")
    if not LEAST <= images <= len(dataset.test):
        raise ValueError(f"images={images}: allowed is {LEAST} to {len(dataset.test)}, the test images there are")
    if len(dataset.test.labels[:images].unique()) < 2:
        raise ValueError(f"images={images}: the first test images are all of one class; allowed is a number with two")


def find_runs(config: Config, methods: Sequence[str], epochs: Sequence[int], dataset: Dataset) -> dict[str, Run]:
    """The finished runs of some methods, which have kept these epochs.

    Raises:
        ValueError: a method has no such run, or it has lost the weights after an epoch.
    """
    found = {}
    for method in methods:
        wanted = config.replace(method=method, keep_epochs=True)
        path = Path(wanted.runs_dir) / wanted.run_name()
        if not runs.finished(path, {"training": wanted.training_fields(), "data": dataset.identity()}):
            raise ValueError(
                f"methods={[*methods]}: {method!r} has no finished run in {str(path)!r}; train it with "
                "keep_epochs=True, or let --train do that"
            )
        if lost := [epoch for epoch in epochs if not (path / f"{epoch_name(epoch)}.safetensors").is_file()]:
            raise ValueError(f"epochs={[*epochs]}: {str(path)!r} has no weights of {lost}; delete it to train anew")
        found[method] = Run(path, wanted)
    return found


def spread_epochs(epochs: int, count: int = EPOCHS) -> list[int]:
    """Some of the epochs 0 to `epochs`, the first and the last among them, evenly spaced."""
    return np.linspace(0, epochs, min(count, epochs + 1)).round().astype(int).tolist()


def hardest_positives(vectors: np.ndarray, labels: np.ndarray, count: int = HARDEST) -> list[np.ndarray]:
    """For each row of (M, D), all of unit norm, the rows of its class with the smallest cosine, the smallest first.

    A row is no positive of itself, so a row of a small class has fewer than `count`. labels: (M,).
    """
    cosines = vectors @ vectors.T
    positive = labels[:, None] == labels
    np.fill_diagonal(positive, False)
    order = np.where(positive, cosines, np.inf).argsort(1, kind="stable")
    return [row[: min(count, number)] for row, number in zip(order, positive.sum(1), strict=True)]


def look(model: AnchorNet, test: Split, references: Split, config: Config, epoch: int) -> Stage:
    """Attack the test images and see what the network makes of both; `references` are clean training images."""
    device = resolve_device(config.device)
    network = fold_batchnorm(model).to(device)  # the same function, faster
    x, y, labels = test.inputs().to(device), test.labels.to(device), test.labels.numpy()
    generator = torch.Generator().manual_seed(config.seed)
    moved = attacks.pgd(network, x, y, **config.evaluation(), generator=generator)
    both = torch.cat([x, moved])
    with torch.no_grad():
        confidence, predicted = torch.cat([network(part) for part in both.split(500)]).softmax(1).max(1)
    vectors = embeddings.extract(network, both)
    clean, attacked = np.split(vectors, 2)
    known = embeddings.extract(network, references.inputs()), references.labels.numpy()
    return Stage(
        config.method,
        epoch,
        (moved * 255).round().byte().cpu().numpy(),
        vectors,
        predicted.cpu().numpy(),
        confidence.cpu().numpy(),
        embeddings.displacement(clean, attacked, embeddings.class_centres(clean, labels)),
        (
            embeddings.knn_accuracy(*known, clean, labels, neighbours=NEIGHBOURS),
            embeddings.knn_accuracy(*known, attacked, labels, neighbours=NEIGHBOURS),
        ),
    )


def maps_of(stages: Sequence[Stage], seed: int, like: np.ndarray | None = None) -> list[np.ndarray]:
    """t-SNE maps (2N, 2), centred, of the stages of one training, made so that they can be compared.

    The last one is fitted first; each earlier fit starts from the map after it, and is turned and mirrored onto it, as
    the last one is onto `like`, a map of another training.
    """
    maps: list[np.ndarray] = []
    for stage in reversed(stages):
        if maps:
            # A mild early exaggeration, so that a class keeps its place.
            start = {"init": (1e-4 * maps[0] / maps[0].std()).astype(np.float32), "early_exaggeration": 4}
            points = TSNE(2, perplexity=PERPLEXITY, random_state=seed, **start).fit_transform(stage.vectors)
        else:
            points = embeddings.project_2d(stage.vectors, perplexity=PERPLEXITY, seed=seed)
        points = points - points.mean(0)
        other = maps[0] if maps else like
        maps.insert(0, points if other is None else points @ orthogonal_procrustes(points, other)[0])
    return maps


def sprite(rows: Sequence[np.ndarray]) -> bytes:
    """One PNG of all images: a row for each array of images (N, C, H, W), uint8, one or three channels."""
    lines = [np.concatenate([*images.transpose(0, 2, 3, 1)], axis=1) for images in rows]
    pixels = np.concatenate(lines)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def stage_data(stage: Stage, points: np.ndarray, labels: np.ndarray, reach: float) -> dict[str, Any]:
    """What the script needs of a stage, in JSON's types. On the map, `reach` from its middle is 0 or 1000."""
    cosines = stage.vectors @ stage.vectors.T
    hardest = hardest_positives(stage.vectors, np.tile(labels, 2))
    places = (500 + 500 * points / reach).round().astype(int)
    return {
        "method": stage.method,
        "epoch": stage.epoch,
        "points": places.tolist(),
        "predicted": stage.predicted.tolist(),
        "percent": (100 * stage.confidence).round().astype(int).tolist(),
        "hardest": [row.tolist() for row in hardest],
        "cosine": [[round(float(cosines[i, j]), 2) for j in row] for i, row in enumerate(hardest)],
        "moved": [round(float(r), 2) for r in stage.displacement],
    }


def measures(stages: Sequence[Stage], maps: Sequence[np.ndarray], labels: np.ndarray) -> pd.DataFrame:
    """The numbers that a map cannot give, a row a stage; shares in percent with their 95% Wilson interval."""

    def share(of_images: float) -> str:
        low, high = wilson(round(of_images * len(labels)), len(labels))
        return f"{of_images:.0%} [{low:.0%}, {high:.0%}]"

    rows = []
    for stage, points in zip(stages, maps, strict=True):
        right = (stage.predicted == np.tile(labels, 2)).reshape(2, -1).mean(1)
        rows.append(
            {
                "method": method_name(stage.method),
                "epoch": str(stage.epoch),
                "accuracy, clean": share(right[0]),
                "accuracy, attacked": share(right[1]),
                "kNN accuracy, clean": share(stage.knn[0]),
                "kNN accuracy, attacked": share(stage.knn[1]),
                "displacement r, median": f"{np.median(stage.displacement):.2f}",
                "trustworthiness": f"{trustworthiness(stage.vectors, points, n_neighbors=NEIGHBOURS):.2f}",
            }
        )
    return pd.DataFrame(rows)


def describe(stages: Sequence[Stage], config: Config) -> list[str]:
    """What the maps show, in sentences whose numbers are those of the stages; the first says how it was measured."""
    images = len(stages[0].displacement)
    said = [
        f"{images} test images of {config.dataset}, each clean and attacked by PGD against the network that is shown: "
        f"L-infinity, epsilon {config.epsilon:g}, {config.eval_steps} steps of {config.eval_step_size:g}, one random "
        f"start, last iterate, seed {config.seed}. kNN asks the {NEIGHBOURS} nearest of up to {REFERENCES} clean "
        "training images. Displacement r is in units of the mean distance between class centres. In brackets: 95% "
        "Wilson intervals."
    ]
    for method in dict.fromkeys(stage.method for stage in stages):
        own = [stage for stage in stages if stage.method == method]
        first, last = own[0], own[-1]
        (clean, attacked), r = last.knn, float(np.median(last.displacement))
        before = "" if len(own) < 2 else f" (epoch {first.epoch}: {first.knn[0]:.0%} and {first.knn[1]:.0%})"
        said.append(
            f"{method_name(method)}, epoch {last.epoch}: {clean:.0%} of the clean features lie among features of their "
            f"own class, and {attacked:.0%} of the attacked ones{before}, by kNN. The attack moves a feature by a "
            f"median of {r:.2f} times the mean distance between classes."
        )
    return said


def markdown(said: Sequence[str], table: pd.DataFrame) -> str:
    """Sentences and table as Markdown."""
    return "\n\n".join([*said[1:], lesson.table(table), said[0]]) + "\n"


def fill(data: dict[str, Any], picture: bytes, said: Sequence[str], table: pd.DataFrame) -> str:
    """The template with its four marks filled.

    Raises:
        ValueError: the page is larger than LIMIT.
    """
    parts = {
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        "sprite": f"data:image/png;base64,{base64.b64encode(picture).decode()}",
        "text": "".join(f"<p>{html.escape(text)}</p>" for text in said),
        "table": table.to_html(index=False, border=0),
    }
    page = TEMPLATE.read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"%{name}%", text)
    if (size := len(page.encode())) > LIMIT:
        raise ValueError(f"the page has {size:,} bytes: allowed are {LIMIT:,}; take fewer images, epochs or methods")
    return page


def build(found: Mapping[str, Run], epochs: Sequence[int], dataset: Dataset, images: int) -> tuple[str, str]:
    """The page, and what it shows in words, as Markdown.

    Args:
        found: finished runs by method, see :func:`find_runs`.
        epochs: that they have kept, in order.
        images: how many of the first test images, see :func:`check_wanted`.

    Raises:
        ValueError: the page would be too large.
    """
    test, references = dataset.test[:images], dataset.train[:REFERENCES]
    labels = test.labels.numpy()
    stages: list[Stage] = []
    maps: list[np.ndarray] = []
    for run in found.values():
        own = [look(run.model(epoch), test, references, run.config, epoch) for epoch in epochs]
        maps += maps_of(own, run.config.seed, maps[-1] if maps else None)
        stages += own
    data = {
        "classes": dataset.classes,
        "labels": labels.tolist(),
        "side": [*test.images.shape[2:]],
        "names": {method: method_name(method) for method in found},
        "stages": [
            stage_data(stage, points, labels, float(np.abs(points).max()))
            for stage, points in zip(stages, maps, strict=True)
        ],
    }
    picture = sprite([test.images.numpy(), *(stage.adversarial for stage in stages)])
    said, table = describe(stages, run.config), measures(stages, maps, labels)
    return fill(data, picture, said, table), markdown(said, table)


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: the page is written; 1: a training diverged; 2: bad input; 130: interrupted."""
    parser = argparse.ArgumentParser(prog="python -m course.explorer", description="Make the embedding explorer.")
    parser.add_argument("--preset", default="cpu", help=f"one of {', '.join(presets())}")
    parser.add_argument("-p", nargs=2, action="append", metavar=("NAME", "VALUE"), help="set a field of the preset")
    parser.add_argument("--methods", nargs="+", default=["pgd_at", "supcon_at", "anchor"], help="whose runs are shown")
    parser.add_argument("--epochs", nargs="+", type=int, help=f"default: {EPOCHS} from the first to the last")
    parser.add_argument("--images", type=int, default=150, help="how many test images")
    parser.add_argument("--train", action="store_true", help="train what has no run yet")
    parser.add_argument("--output", type=Path, default=Path("explorer.html"))
    options = parser.parse_args(arguments)

    def work() -> int:
        config = load_preset(options.preset, **parameters(options.p))
        if options.output.suffix != ".html":
            raise ValueError(f"output={str(options.output)!r}: allowed is a file NAME.html")
        dataset = load_data(config)
        check_wanted(config, options.methods, options.epochs, options.images, dataset)
        epochs = sorted({*(options.epochs or spread_epochs(config.epochs))})
        for method in options.methods if options.train else ():
            fit(config.replace(method=method, keep_epochs=True), dataset=dataset)
        found = find_runs(config, options.methods, epochs, dataset)
        page, text = build(found, epochs, dataset, options.images)
        write_text(options.output, page)
        write_text(options.output.with_suffix(".md"), text)
        print(f"{options.output}: {len(page.encode()):,} bytes")
        return 0

    return exit_status(work, "")


if __name__ == "__main__":
    sys.exit(main())
