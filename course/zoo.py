"""A network that somebody else has trained: one of RobustBench's zoo (Croce et al., arXiv 2010.09670), for notebook 06.

The package `robustbench` is no dependency of the course. It is imported, and its files are downloaded, only when a
function here is called. What is missing then is said by :class:`ZooError`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from anchor_utils.data import Split, load_dataset
from anchor_utils.evaluation import evaluate

# Release 1.1.1 of robustbench imports `autoattack` and `pkg_resources`, and asks for neither.
INSTALL = 'pip install robustbench "setuptools<81" "autoattack @ git+https://github.com/fra31/auto-attack"'


class ZooError(RuntimeError):
    """The package, the weights or the images are missing; the text says which, and how to get them."""


def load_network(name: str, folder: str | Path) -> nn.Module:
    """A network of the zoo for CIFAR-10 and the L-infinity norm, in eval mode: images in [0, 1] to 10 logits.

    Args:
        name: as on https://robustbench.github.io, such as "Wong2020Fast".
        folder: for the weights, which are downloaded once.

    Raises:
        ZooError: `robustbench` cannot be imported, or the network cannot be loaded.
    """
    try:
        from robustbench.utils import load_model
    except ImportError as error:
        raise ZooError(
            f"the package `robustbench` cannot be imported ({error}). Install it with `{INSTALL}`."
        ) from error
    try:
        model: nn.Module = load_model(model_name=name, model_dir=folder, dataset="cifar10", threat_model="Linf")
    except Exception as error:  # a download may fail in many ways: no network, a full quota, a broken file
        kind = type(error).__name__
        raise ZooError(
            f"the weights of {name} could not be loaded ({kind}: {error}). They are downloaded once, with a connection "
            f"to the internet, into {str(folder)!r}; delete a broken file there and try again."
        ) from error
    return model.eval()


def load_images(count: int, root: str | Path) -> Split:
    """The first `count` test images of CIFAR-10, downloaded to `root` unless they are there.

    Raises:
        ZooError: they are not there and cannot be downloaded.
    """
    try:
        return load_dataset("cifar10", root).test[:count]
    except OSError as error:
        raise ZooError(f"CIFAR-10's test images are missing ({error})") from error


def attack_network(
    name: str, images: int, root: str | Path, *, device: str | torch.device = "cpu", **settings: Any
) -> pd.DataFrame:
    """Accuracy of a network of the zoo on clean test images of CIFAR-10, under FGSM and under our PGD.

    Args:
        name: as in :func:`load_network`; the weights are kept in the folder ``zoo`` of `root`.
        images: how many, from the first test image on.
        root: folder of the data.
        device: where the network runs.
        settings: epsilon and all else, see :func:`anchor_utils.evaluation.evaluate`.

    Returns:
        A results table, a row an attack.

    Raises:
        ZooError: what is missing.
        ValueError: see :func:`anchor_utils.evaluation.evaluate`.
    """
    model = load_network(name, Path(root) / "zoo").to(device)
    return evaluate(model, load_images(images, root), ("clean", "fgsm", "pgd"), **settings)
