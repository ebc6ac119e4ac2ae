"""The address of the project, in one place: ``python -m course.links owner/name --tag v1`` changes it everywhere.

``[tool.anchor_utils]`` in pyproject.toml is the setting: the repository on GitHub, and the branch or tag that Colab
opens and installs. All other places are written from it: badges, setup cells, addresses in texts and messages. An
address decides no output of a notebook, so :mod:`course.freshness` reads past it, and nothing is executed anew.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import NamedTuple

from anchor_utils.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
# Files in which the address stands; pyproject.toml last, for it says what to look for in the others.
FILES = (
    "*.md",
    "CITATION.cff",
    "docs/*.md",
    "anchor_utils/*.py",
    "course/*.py",
    "notebooks/src/*.py",
    "notebooks/*.ipynb",
    "pyproject.toml",
)
REPOSITORY = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/(?!.*\.git$)[A-Za-z0-9_][\w.-]{0,99}", re.ASCII)
TAG = re.compile(r"(?!.*(?:\.\.|\.lock$|\.$))[A-Za-z0-9_][\w.-]{0,99}", re.ASCII)


class Links(NamedTuple):
    """Where the project is to be had: "owner/name" on GitHub, and a branch or tag of it."""

    repository: str
    tag: str


NOWHERE = Links("owner/name", "tag")


def checked(repository: str, tag: str) -> Links:
    """These two as an address.

    Raises:
        ValueError: one of them can be none on GitHub, or would need quoting in a command.
    """
    if not REPOSITORY.fullmatch(repository):
        raise ValueError(f"repository={repository!r}: allowed is owner/name, as in an address on GitHub")
    if not TAG.fullmatch(tag):
        raise ValueError(f"tag={tag!r}: allowed is a branch or tag without slashes and spaces, such as main or v1")
    return Links(repository, tag)


def read(root: Path | None = None) -> Links:
    """The setting.

    Raises:
        ValueError: pyproject.toml has none, or a malformed one.
    """
    text = ((root or ROOT) / "pyproject.toml").read_text(encoding="utf-8")
    setting = tomllib.loads(text).get("tool", {}).get("anchor_utils", {})
    if setting.keys() != set(Links._fields):
        raise ValueError(f"[tool.anchor_utils] in pyproject.toml: allowed are {', '.join(Links._fields)}, both")
    return checked(**setting)


def moved(text: str, old: Links, new: Links) -> str:
    """A text with addresses of the project as they are after a move, Colab's and those of single files included."""
    address = re.compile(
        rf"(github\.com/|google\.com/github/){re.escape(old.repository)}(\.git)?(?![\w-]|\.\w)"
        rf"(?:(@|/(?:blob|raw|tree)/){re.escape(old.tag)}(?![\w-]|\.\w))?"
    )

    def new_address(found: re.Match[str]) -> str:
        before, git, to_tag = found.groups()
        return f"{before}{new.repository}{git or ''}{f'{to_tag}{new.tag}' if to_tag else ''}"

    return address.sub(new_address, text)


def with_setting(text: str, links: Links) -> str:
    """The text of pyproject.toml with another setting."""
    for name, value in links._asdict().items():
        text, found = re.subn(rf'^{name} = "[^"\n]*"', f'{name} = "{value}"', text, flags=re.MULTILINE)
        if found != 1:
            raise ValueError(f'pyproject.toml: allowed is one line {name} = "..."; there are {found}')
    return text


def move(new: Links, root: Path | None = None) -> list[Path]:
    """Write the address into the setting and into every file that has it; returns those that changed.

    What was broken off is made good by the same call again: the setting is changed last.
    """
    root = root or ROOT
    old, changed = read(root), {}
    for path in (path for pattern in FILES for path in sorted(root.glob(pattern))):
        text = path.read_bytes().decode()  # its ends of lines stay, whatever they are
        after = moved(text, old, new)
        if path.name == "pyproject.toml":
            after = with_setting(after, new)
        if after != text:
            changed[path] = after.encode()
    for path, content in changed.items():
        write_atomically(path, partial(Path.write_bytes, data=content))
    return [*changed]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course.links", description=__doc__.splitlines()[0])
    parser.add_argument("repository", help="owner/name on GitHub")
    parser.add_argument("--tag", help="branch or tag that Colab opens and installs; default: the one there is")
    options = parser.parse_args(arguments)
    try:
        new = checked(options.repository, read().tag if options.tag is None else options.tag)
    except ValueError as error:
        parser.error(str(error))
    changed = move(new)
    print(f"{len(changed)} files say {new.repository} at {new.tag} now")
    return 0


if __name__ == "__main__":
    sys.exit(main())
