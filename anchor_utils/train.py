"""Train one model without a notebook: ``python -m anchor_utils train --preset cpu -p method pgd_at --run-dir DIR``.

``accelerate launch -m anchor_utils.train ...`` and torchrun start the same on several GPUs. What all commands share is
here too: how they read ``-p``, and what they end with.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from anchor_utils.config import as_fields, load_preset, presets, read_yaml


def parameters(pairs: list[list[str]] | None) -> dict[str, Any]:
    """``-p name value`` pairs with the values read as YAML: 3 is a number, true a boolean, 8/255 a text.

    ``-p overrides '{epochs: 3}'`` is the same as ``-p epochs 3``.

    Raises:
        ValueError: a value is no YAML, a name is given twice, or `overrides` is no mapping.
    """
    found: dict[str, Any] = {}
    for name, text in pairs or []:
        value = read_yaml(f"{name}={text!r}", text)
        for field, each in (as_fields(f"{name}={text!r}", value) if name == "overrides" else {name: value}).items():
            if field in found:
                raise ValueError(f"{field}={each!r}: allowed is one value, and {field}={found[field]!r} is also given")
            found[field] = each
    return found


def exit_status(work: Callable[[], int], going_on: str) -> int:
    """What `work` returns; 1 if a training diverged, 2 for bad input, 130 after Ctrl-C, with the reason on stderr.

    Args:
        going_on: the end of "the same command goes on", for who interrupted it.
    """
    try:
        return work()
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on{going_on}", file=sys.stderr)
        return 130


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: trained; 1: the training diverged; 2: bad input; 130: interrupted."""
    parser = argparse.ArgumentParser(prog="python -m anchor_utils train", description="Train one model.")
    parser.add_argument("--preset", required=True, help=f"one of {', '.join(presets())}")
    parser.add_argument("-p", nargs=2, action="append", metavar=("NAME", "VALUE"), help="set a field of the preset")
    parser.add_argument("--run-dir", help="folder of the run; default: a folder in runs/ named after the configuration")
    options = parser.parse_args(arguments)

    def work() -> int:
        config = load_preset(options.preset, **parameters(options.p))
        from anchor_utils.training import fit  # after the configuration is known to be right: torch loads slowly

        print(fit(config, path=options.run_dir).path)
        return 0

    return exit_status(work, " from the last saved state")


if __name__ == "__main__":
    sys.exit(main())
