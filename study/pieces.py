"""Files too large for where they have to go, in pieces: NAME.00, NAME.01, ... and NAME.sha256.

``cat NAME.?? > NAME && sha256sum -c NAME.sha256`` puts them together too.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from anchor_utils.files import write_atomically, write_text

LIMIT = 15 * 2**20 - 1  # bytes; some ways of transport take no file of 15 MiB


def split(path: Path, limit: int = LIMIT) -> list[Path]:
    """Put pieces of at most `limit` bytes in the place of a file that is larger; returns the files that there are.

    Raises:
        ValueError: it would take more than 100 pieces.
    """
    content = path.read_bytes()
    if limit < max(1, len(content) / 100):
        raise ValueError(f"limit={limit}: allowed is {-(-len(content) // 100) or 1} or more, for 100 pieces at most")
    for old in _pieces(path):
        old.unlink()
    if len(content) <= limit:
        return [path]
    found = []
    for number, start in enumerate(range(0, len(content), limit)):
        found.append(path.with_name(f"{path.name}.{number:02}"))
        write_atomically(found[-1], partial(Path.write_bytes, data=content[start : start + limit]))
    write_text(path.with_name(f"{path.name}.sha256"), f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")
    path.unlink()
    return found


def _pieces(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.[0-9][0-9]"))


def join(path: Path) -> Path:
    """Put the file that :func:`split` took apart together again; the pieces stay. Nothing to do for a whole file.

    Raises:
        FileNotFoundError: there is neither the file nor its pieces.
        ValueError: a piece is missing or damaged.
    """
    if path.exists():
        return path
    wanted = path.with_name(f"{path.name}.sha256").read_text(encoding="utf-8").split()[0]
    content = b"".join(piece.read_bytes() for piece in _pieces(path))
    if hashlib.sha256(content).hexdigest() != wanted:
        raise ValueError(f"path={str(path)!r}: a piece of this file is missing or damaged; fetch them again")
    write_atomically(path, partial(Path.write_bytes, data=content))
    return path
