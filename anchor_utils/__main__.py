"""The commands: ``python -m anchor_utils train ...`` and ``python -m anchor_utils run ...``."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from anchor_utils.config import unknown_name

# What it does, and the module whose main() does it. That of the course is loaded when it is asked for: the library
# stands without it.
COMMANDS = {
    "train": ("train one model", "anchor_utils.train"),
    "run": ("execute the notebooks of the course", "course.runner"),
}


def main(arguments: list[str] | None = None) -> int:
    """Exit status of the command: 0, or 1 for a failure that it names, 2 for bad input, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m anchor_utils",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="\n".join(f"{name:6} {what}" for name, (what, _) in COMMANDS.items()),
        epilog="python -m anchor_utils COMMAND -h lists the options of a command.",
    )
    parser.add_argument("command", metavar="COMMAND", nargs="?")
    parser.add_argument("options", metavar="...", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help(sys.stderr)
        return 2
    if chosen.command not in COMMANDS:
        parser.error(unknown_name("command", chosen.command, list(COMMANDS)))
    status: int = import_module(COMMANDS[chosen.command][1]).main(chosen.options)
    return status


if __name__ == "__main__":
    sys.exit(main())
