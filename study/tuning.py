"""The best trial of each method: ``python -m study.tuning minutes_tuning`` prints its fields for another sweep."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from anchor_utils.train import exit_status
from study.sweep import Sweep, load_sweep
from study.timeboxed import CELLS, read_done


def best_trials(sweep: Sweep, done: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The variant of each method that is most accurate under PGD on held-out training images, then on clean ones.

    A trial with several seeds counts with their mean, one that diverged not at all.

    Args:
        done: the finished cells by name. No accuracy on test images is looked at.

    Raises:
        ValueError: a cell is not finished, methods had different numbers of trials, or all of one diverged.
    """
    if missing := sorted(sweep.cells().keys() - done.keys()):
        raise ValueError(f"cells={', '.join(missing)} are not finished: allowed are whole sweeps only")
    scores: dict[str, dict[str, tuple[float, float]]] = {}
    for variant in sweep.variants:
        cells = [cell for cell in done.values() if cell["variant"] == variant]
        held_out = [cell["held_out"]["joint"] for cell in cells if "error" not in cell]
        robust, clean = ([found[name] for found in held_out] for name in ("robust", "clean"))
        score = (fmean(robust), fmean(clean)) if len(held_out) == len(cells) else (-1.0, -1.0)
        scores.setdefault(cells[0]["method"], {})[variant] = score
    counts = {method: len(trials) for method, trials in scores.items()}
    if len({*counts.values()}) > 1:
        raise ValueError(f"trials={counts}: allowed is the same number for every method")
    best = {method: max(trials, key=trials.__getitem__) for method, trials in scores.items()}
    if hopeless := [method for method, variant in best.items() if scores[method][variant] < (0, 0)]:
        raise ValueError(f"method={', '.join(hopeless)}: allowed is one with a trial that did not diverge")
    return best


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m study.tuning", description=__doc__.splitlines()[0])
    parser.add_argument("sweep", nargs="?", default="minutes_tuning")
    parser.add_argument("--folder", type=Path, help="of the finished cells; default: data/study_gpu/SWEEP")
    options = parser.parse_args(arguments)

    def work() -> int:
        sweep = load_sweep(options.sweep)
        done = read_done(options.folder or CELLS / Path(options.sweep).stem, sweep.cells())
        for method, variant in best_trials(sweep, done).items():
            fields = yaml.safe_dump(sweep.variants[variant], default_flow_style=True, sort_keys=False, width=1000)
            print(f"  {method}: {fields.strip()}  # {variant}")
        return 0

    return exit_status(work, "")


if __name__ == "__main__":
    sys.exit(main())
