"""Files that are either whole or not there, in folders that one process at a time writes to."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from torch import Tensor


def write_atomically(path: str | Path, write: Callable[[Path], object], *, keep: Path | None = None) -> None:
    """Have `write` fill a temporary file beside `path`, then rename it. Folders are made as needed.

    What was there before stays whole until the new file is on the disk, power cut or not.

    Args:
        keep: a name beside `path` under which the old file stays.

    Raises:
        OSError: the file cannot be written (full disk, no permission); names it. The old file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")  # its own, if two processes write at once
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):  # such as below a file that stands where a folder should; said above
            temporary.unlink()
    with suppress(OSError):  # Windows, and some network drives, cannot sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, with the line ends of Unix on every system, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def data_folder(path: str, module: str) -> Path:
    """Folder of data files that come with a package.

    Args:
        path: where it lies in a checkout, from the project's folder. A wheel has it beside the module, under its last
            name: pyproject.toml says so.
        module: ``__file__`` of the module that asks.
    """
    package = Path(module).resolve().parent
    in_wheel = package / Path(path).name
    return in_wheel if in_wheel.is_dir() else package.parent / path


def sha256(*parts: str | Tensor) -> str:
    """Hexadecimal checksum of texts, and of the values of tensors of any shape and dtype, one after the other."""
    import torch  # here: whoever only writes files needs none

    checksum = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            checksum.update(part.encode())
        else:  # as bytes: NumPy does not know bfloat16
            checksum.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return checksum.hexdigest()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, and clear away what one that was killed in it left half-written.

    The system lets go of the lock of a process that ends, however it ends. Where the file system has no locks, nobody
    is kept out.

    Raises:
        ValueError: another process is in the folder; names its process id and host.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The holder has a file of its own: Windows does not let others read a locked one.
    lock, holder = FileLock(folder / ".lock"), folder / ".holder.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            found = json.loads(holder.read_text(encoding="utf-8"))
            who = f"process {found['pid']} on host {found['host']!r}"
        except (OSError, ValueError):  # it has only just come, or is about to go
            who = "another process"
        raise ValueError(f"folder {str(folder)!r} is in use by {who}: wait for it to end, or choose another") from None
    except (OSError, NotImplementedError):
        pass
    try:
        for left in folder.glob(".*.part"):
            left.unlink(missing_ok=True)
        write_text(holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        for file in (holder, folder / ".lock"):
            with suppress(OSError):
                file.unlink()
        lock.release()
