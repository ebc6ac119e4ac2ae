"""Where the notebooks' numbers usually lie, from several runs: ``python -m course.bands FOLDER...``

Each folder is the ``--output`` of one ``python -m anchor_utils.run PRESET -p seed N``, on whichever machine. In
``expected/NN.PRESET.yaml`` the claims stay, because they are what the course says. `usual` becomes where the numbers
lay, widened on both sides by as much again and a twentieth of their size, 0.02 at least; `work` is the notebook's time
in training steps of the machine that ran it.
"""

import argparse
import json
import re
from pathlib import Path
from statistics import median

import yaml

from course.lesson import EXPECTED_DIR

AT_MOST_1 = re.compile("accuracy|knn|share|crossed|gathered|boxes|trustworthiness|silhouette|margin")


def band(name: str, values: list[float]) -> list[float]:
    """Lowest and highest usual value of a number; what was never negative is not expected to be."""
    low, high = min(values), max(values)
    margin = high - low + 0.05 * max(abs(low), abs(high), 0.4)
    lowest = max(low - margin, 0) if low >= 0 else low - margin
    highest = min(high + margin, 1) if high <= 1 and AT_MOST_1.search(name) else high + margin
    return [round(lowest, 3), round(highest, 3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--preset", default="cpu")
    options = parser.parse_args()
    for path in sorted(EXPECTED_DIR.glob(f"[0-9][0-9].{options.preset}.yaml")):
        results = [folder / "results" / options.preset / f"{path.name[:2]}.json" for folder in options.folders]
        runs = [json.loads(result.read_text()) for result in results]
        work = [run["seconds"] / run["seconds_per_step"] for run in runs if run["seconds_per_step"]]
        claims = yaml.safe_load(path.read_text())["claims"]
        names = [name for name in runs[0]["metrics"] if name not in claims]
        lines = ["# What the notebook claims, and where its other numbers usually lie; written by course/bands.py."]
        lines += [f"work: {median(work):.0f}"] if work else []
        lines += ["claims:", *(f"  {name}: {span}" for name, span in claims.items())]
        lines += ["usual:" if names else "usual: {}"]
        lines += [f"  {name}: {band(name, [run['metrics'][name] for run in runs])}" for name in names]
        path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
