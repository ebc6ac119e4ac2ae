"""Folders of images, PATH/train/CLASS/ and PATH/test/CLASS/: listed, decoded once, and then read from a cache."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor
from tqdm import tqdm

from anchor_utils.files import sha256, write_atomically

PARTS = ("train", "test")
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow's other readers are never started
FORMAT_OF = {suffix: name for suffix, name in Image.registered_extensions().items() if name in IMAGE_FORMATS}
LITTER = ("__macosx", "thumbs.db", "desktop.ini")  # what systems leave behind, apart from hidden files
MAX_SIDE = 4096  # pixels
MAX_BYTES = 2**32  # of all decoded images together
DEEP_SCALES = (1, 255, 4095, 65535)  # what may be white in images of more than 8 bits: floats, 8, 12 and 16 bits


def read_folder(path: Path, cache: Path) -> tuple[tuple[str, ...], list[tuple[Tensor, Tensor]]]:
    """The names of the classes, and the images and labels of PATH/train and PATH/test, class by class.

    Images are uint8 (N, 3, H, W), labels int64 (N,). They are decoded once; later calls read the pixels from a file in
    `cache`, until a file in the folder is changed, added or removed. :func:`anchor_utils.data.load_dataset` says what
    becomes of transparent, turned and 16-bit images.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: a class without images, or images that are broken, too large or of several sizes; names them.

    Warns:
        UserWarning: files were left out, classes have different formats, or the cache cannot be written.
    """
    classes, train, test = _list(path)
    images = _images(path, [file for file, _ in train + test], cache)
    labels = torch.tensor([label for _, label in train + test])
    sizes = [len(train), len(test)]
    return classes, list(zip(images.split(sizes), labels.split(sizes), strict=True))


def checksum(*tensors: Tensor) -> str:
    """SHA-256 of shapes, types and values, as hexadecimal digits."""
    return sha256(*(part for tensor in tensors for part in (f"{tensor.dtype} {tuple(tensor.shape)} ", tensor)))


def _list(path: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]], list[tuple[Path, int]]]:
    """The names of the classes, and (file, label) of each image in PATH/train and in PATH/test."""
    for folder in (path, path / "train", path / "test"):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"missing folder {str(folder)!r}; imagefolder:PATH needs PATH/train/CLASS/ and PATH/test/CLASS/"
            )
    classes, test_classes = (tuple(f.name for f in _visible(path / part) if f.is_dir()) for part in PARTS)
    if not classes or classes != test_classes:
        raise ValueError(
            f"{str(path)!r}: train has {len(classes)} classes, test has {len(test_classes)}, in one of them only: "
            f"{_first([repr(name) for name in sorted({*classes} ^ {*test_classes})]) or None}; they must agree"
        )
    if unreadable := [name for name in classes if name.encode(errors="ignore").decode() != name]:
        raise ValueError(f"{str(path)!r}: the names of the classes {unreadable}: allowed is UTF-8")
    found = {(part, name): _visible(path / part / name) for part in PARTS for name in classes}
    if nested := [repr(str(f)) for files in found.values() for f in files if f.is_dir()]:
        raise ValueError(f"folders within classes: {_first(nested)}; images must lie in PATH/train/CLASS/ itself")
    images = {place: [f for f in files if f.suffix.lower() in FORMAT_OF] for place, files in found.items()}
    stray = [f for files in found.values() for f in files if f.suffix.lower() not in FORMAT_OF]
    stray += [f for part in PARTS for f in _visible(path / part) if not f.is_dir()]
    counts = Counter(f.suffix.lower() for f in stray).most_common()
    others = ", ".join(f"{number} {suffix!r}" for suffix, number in counts)
    if empty := [repr("/".join(place)) for place, files in images.items() if not files]:
        raise ValueError(
            f"{str(path)!r}: no image in {_first(empty)}; allowed are {', '.join(FORMAT_OF)}"
            + (f", there are also {others}" if others else "")
        )
    if others:
        warnings.warn(f"{str(path)!r}: left out files that are no images of a class: {others}", stacklevel=4)
    kinds = {c: {FORMAT_OF[f.suffix.lower()] for part in PARTS for f in images[part, c]} for c in classes}
    if any(kind != kinds[classes[0]] for kind in kinds.values()):
        table = _first([f"{name!r} {', '.join(sorted(kind))}" for name, kind in kinds.items()])
        warnings.warn(f"a network can tell classes by the traces of their file formats: {table}", stacklevel=4)
    train, test = ([(f, label) for label, c in enumerate(classes) for f in images[part, c]] for part in PARTS)
    return classes, train, test


def _visible(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if not f.name.startswith(".") and f.name.lower() not in LITTER)


def _first(problems: list[str]) -> str:
    """The first ten, and how many more there are."""
    return "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")


def _fingerprint(path: Path, files: list[Path]) -> str:
    """16 hexadecimal digits that change with any file that is changed, added, removed or renamed."""
    fingerprint = hashlib.sha256(b"how images are decoded: 2\n")
    for file in files:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
            raise ValueError(f"{str(file)!r}: allowed is a regular file")
        fingerprint.update(os.fsencode(file.relative_to(path)))
        fingerprint.update(f" {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode())
    return fingerprint.hexdigest()[:16]


def _images(path: Path, files: list[Path], cache: Path) -> Tensor:
    """The images, from the cache if it has them; else decoded, and kept there if that is possible."""
    place = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    cached = cache / f"imagefolder-{place}-{_fingerprint(path, files)}.safetensors"
    images = _read_cache(cached)
    if images is not None:
        return images
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Of several processes one decodes; the others wait for it and read what it wrote.
        with FileLock(cache / ".lock"):
            images = _read_cache(cached)
            if images is None:
                images = _decode(files)
                content = to_bytes({"images": images}, {"sha256": checksum(images)})
                write_atomically(cached, lambda temporary: temporary.write_bytes(content))
            for old in set(cache.glob(f"imagefolder-{place}-*.safetensors")) - {cached}:
                old.unlink()
    except (OSError, NotImplementedError) as error:  # read-only, full, or a file system without locks
        warnings.warn(f"decoded images cannot be kept in {str(cache)!r}: {error}", stacklevel=5)
    return _decode(files) if images is None else images


def _read_cache(path: Path) -> Tensor | None:
    """The decoded images; None if the file is not there or not what was written."""
    with suppress(OSError, SafetensorError), safe_open(path, "pt") as file:
        images: Tensor = file.get_tensor("images")
        if (file.metadata() or {}).get("sha256") == checksum(images):
            return images
    return None


def _decode(files: list[Path]) -> Tensor:
    """uint8 (N, 3, H, W). All broken images are named at once."""

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

    show = {"unit": "image", "file": sys.stdout, "delay": 3.0, "mininterval": 1.0}
    with ThreadPoolExecutor() as pool:
        found = dict(zip(files, tqdm(pool.map(read, files), "decoding", len(files), **show), strict=True))
    problems = [problem for problem in found.values() if isinstance(problem, str)]
    whole = {file: image for file, image in found.items() if not isinstance(image, str)}
    size = next((image.shape[:2] for image in whole.values()), None)
    problems += [
        f"{str(file)!r} has size {image.shape[:2]}, the ones before it {size}; all must be of one size"
        for file, image in whole.items()
        if image.shape[:2] != size
    ]
    # Nothing in a file says what is white in an image of more than 8 bits. All of the data set share one scale,
    # else a dark image would become a bright one.
    deep = {file: image for file, image in whole.items() if image.dtype != np.uint8}
    problems += [
        f"{str(file)!r} has values from {image.min():g} to {image.max():g}; allowed is 0 to {DEEP_SCALES[-1]}"
        for file, image in deep.items()
        if not 0 <= image.min() <= image.max() <= DEEP_SCALES[-1]
    ]
    if problems:
        raise ValueError(_first(problems))
    brightest = max((image.max() for image in deep.values()), default=0)
    white = next(scale for scale in DEEP_SCALES if brightest <= scale)
    whole |= {file: _eight_bits(image, white) for file, image in deep.items()}
    return torch.from_numpy(np.stack([*whole.values()])).permute(0, 3, 1, 2).contiguous()


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
