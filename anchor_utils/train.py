"""Train one model without a notebook: ``python -m anchor_utils.train --preset cpu -p method pgd_at --run-dir DIR``.

This is also what ``accelerate launch -m anchor_utils.train ...`` starts on several GPUs.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import yaml

from anchor_utils.config import load_preset, presets


def parameters(pairs: list[list[str]] | None) -> dict[str, Any]:
    """``-p name value`` pairs with the values read as YAML: 3 is a number, true a boolean, 8/255 a text."""
    found = {}
    for name, value in pairs or []:
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"{name}={value!r}: allowed is a value in YAML, such as 3, true, text or [1, 2]") from None
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m anchor_utils.train", description="Train one model.")
    parser.add_argument("--preset", required=True, help=f"one of {', '.join(presets())}")
    parser.add_argument("-p", nargs=2, action="append", metavar=("NAME", "VALUE"), help="set a field of the preset")
    parser.add_argument("--run-dir", help="folder of the run; default: a folder in runs/ named after the configuration")
    options = parser.parse_args(arguments)
    try:
        config = load_preset(options.preset, **parameters(options.p))
        from anchor_utils.training import fit  # after the configuration is known to be right: torch loads slowly

        run = fit(config, path=options.run_dir)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on after the last finished epoch", file=sys.stderr)
        return 130
    print(run.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
