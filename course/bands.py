"""Where the notebooks' numbers usually lie, from several runs: ``python -m course.bands FOLDER...``

Each folder is the ``--output`` of one ``python -m anchor_utils run PRESET -p seed N``, on whichever machine. In
``expected/NN.PRESET.yaml`` the claims stay, because they are what the course says. `usual` becomes where the numbers
lay, widened on both sides by as much again and a twentieth of their size, 0.02 at least. A share whose band would reach
from 0 to 1 has none, since nothing could lie outside. `work` is the notebook's time in training steps of the machine
that ran it, the median of the runs.
"""

import argparse
import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from anchor_utils.files import write_text
from course.lesson import EXPECTED_DIR

SHARE = re.compile("accuracy|knn|share|crossed|gathered|boxes|trustworthiness|mismatch|auc|wrong_centre")  # 0 to 1
AT_MOST_1 = re.compile(f"{SHARE.pattern}|silhouette|margin|cosine$")


def band(name: str, values: list[float]) -> list[float]:
    """Lowest and highest usual value of a number; what was never negative is not expected to be."""
    low, high = min(values), max(values)
    margin = high - low + 0.05 * max(abs(low), abs(high), 0.4)
    lowest = max(low - margin, 0) if low >= 0 else low - margin
    highest = min(high + margin, 1) if high <= 1 and AT_MOST_1.search(name) else high + margin
    return [round(lowest, 3), round(highest, 3)]


def can_miss(name: str, span: list[float]) -> bool:
    """Whether any value could lie outside the band."""
    return not SHARE.search(name) or span[0] > 0 or span[1] < 1


def expected(old: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """The file of bands of a notebook, from what it holds now and from results that :func:`course.lesson.finish` wrote.

    Where no run has the seconds of a training step, as with a notebook that trains nothing, `work` stays what it was.
    """
    claims = old["claims"]
    steps = [run["seconds"] / run["seconds_per_step"] for run in runs if run.get("seconds_per_step")]
    work = round(median(steps)) if steps else old.get("work")
    spans = {n: band(n, [run["metrics"][n] for run in runs]) for n in runs[0]["metrics"] if n not in claims}
    spans = {name: span for name, span in spans.items() if can_miss(name, span)}
    lines = ["# What the notebook claims, and where its other numbers usually lie; written by course/bands.py."]
    lines += [f"work: {work}"] if work else []
    lines += ["claims:", *(f"  {name}: {span}" for name, span in claims.items())]
    lines += ["usual:" if spans else "usual: {}"]
    lines += [f"  {name}: {span}" for name, span in spans.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m course.bands", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--preset", default="cpu")
    options = parser.parse_args()
    paths = sorted(EXPECTED_DIR.glob(f"[0-9][0-9].{options.preset}.yaml"))
    results = {p: [f / "results" / options.preset / f"{p.name[:2]}.json" for f in options.folders] for p in paths}
    if missing := [str(file) for files in results.values() for file in files if not file.is_file()]:
        parser.error(f"not every folder holds a complete run: there is no {', '.join(missing)}")
    for path, files in results.items():
        runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        write_text(path, expected(yaml.safe_load(path.read_text(encoding="utf-8")), runs))


if __name__ == "__main__":
    main()
