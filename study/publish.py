"""Collect finished sweeps into data/pretrained/ and the README: ``python -m study.publish cifar10_cpu ...``.

Writes study.json (every cell of the sweeps), for each method of the first sweep the network of the first seed in
half precision with its model card, and the README's tables: those of the study, and before them the headline from the
cells in data/study_gpu. ``--tables`` only rewrites the README.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
import torch

from anchor_utils import evaluation, models
from anchor_utils.config import REPORTED, Config
from anchor_utils.data import load_data
from anchor_utils.files import write_text
from study.cards import DATA, card
from study.claims import EQUAL_TIME_CLAIMS, claims_table
from study.headline import INTERVALS, headline
from study.tables import cost_table, method_table, read_cells, setting, with_screen

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "data" / "pretrained" / "study.json"
GPU_CELLS = ROOT / "data" / "study_gpu"
README = ROOT / "README.md"
EQUAL_TIME = "cifar10_equal_time"


def collect(sweeps: list[str], runs_dir: Path) -> None:
    """Every finished cell of the sweeps, in one file, from which what is published of other sweeps is not lost.

    Raises:
        ValueError: a sweep has no finished cells.
    """
    found = json.loads(STUDY.read_text(encoding="utf-8"))["sweeps"] if STUDY.exists() else {}
    for sweep in sweeps:
        folder = runs_dir / "sweeps" / sweep
        found[sweep] = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*-s*.json"))]
        if not found[sweep]:
            raise ValueError(
                f"sweep={sweep!r} has no finished cells in {str(folder)!r}: run `make sweep SWEEP={sweep}` first; the "
                "tables alone are written by `python -m study.publish --tables`"
            )
    write_text(STUDY, json.dumps({"sweeps": found}, indent=0) + "\n")


def export(sweep: str, runs_dir: Path, seed: int) -> None:
    """One network a method, in half precision if its test accuracy holds, with a model card."""
    table, cells = read_cells(STUDY, sweep)
    for cell in (cell for cell in cells if cell["training_seed"] == seed):
        config = Config(**cell["config"])
        model = models.load(runs_dir / cell["run"] / "best.safetensors")
        metadata = {**model.metadata, "data": DATA, "sweep": sweep}
        path = STUDY.parent / f"cifar10-{config.method}.safetensors"
        models.save(model.half(), path, metadata)
        test = load_data(config).test[: config.test_images]
        rows = with_screen(table[(table["method"] == config.method) & (table["training_seed"] == seed)])
        rows = rows[rows["checkpoint"] == "best"]
        clean = float(rows.loc[rows["attack"] == "clean", "accuracy"].iloc[0])
        stored = evaluation.clean_outcomes(models.load(path), test.inputs(), test.labels).float().mean().item()
        if abs(stored - clean) > 0.002:
            raise ValueError(f"{path.name}: half precision moves the clean accuracy from {clean:.4f} to {stored:.4f}")
        write_text(path.with_suffix(".md"), card(path, config, cell, rows, stored, sweep))


def tables(sweep: str) -> str:
    """The study's tables as Markdown, from study.json alone."""
    table, cells = read_cells(STUDY, sweep)
    table = with_screen(table[table["checkpoint"] == "best"])
    settings = "; ".join(setting(table, attack) for attack in REPORTED)
    parts = [
        method_table(table).to_markdown(index=False),
        f"{INTERVALS} {settings}.",
        claims_table(table).drop(columns="tested by").to_markdown(index=False),
        "Differences in percentage points with a 95% t interval over training seeds, paired by seed; p is about images, pooled over the seeds.",
        cost_table(cells).round(2).to_markdown(index=False),
        "Passes are forward-and-backward passes of one image through the network; seconds are one thread of shared CPUs, not the same for all cells, and only rough. What an epoch of each method costs, the methods taking turns on one machine: `python benchmarks/training_cost.py`.",
    ]
    longer_table, longer_cells = read_cells(STUDY, EQUAL_TIME)
    if longer_cells:
        longer = longer_cells[0]["config"]
        equal_time = pd.concat([table[table["method"] == "anchor"], longer_table[longer_table["checkpoint"] == "best"]])
        parts += [
            f"An epoch of ANCHOR takes longer. Against a PGD-AT of {longer['epochs']} epochs in place of {cells[0]['config']['epochs']} (`make sweep SWEEP={EQUAL_TIME}`):",
            claims_table(equal_time, EQUAL_TIME_CLAIMS).drop(columns="tested by").to_markdown(index=False),
        ]
    return "\n\n".join(parts)


def write_readme(sweep: str) -> None:
    """Put the headline and the tables of a sweep between their markers."""
    text = README.read_text(encoding="utf-8")
    for name, content in (("headline", headline(GPU_CELLS)), ("study", tables(sweep))):
        begin, end = f"<!-- {name}: written by study/publish.py -->\n", f"<!-- end of {name} -->"
        before, marked, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not (marked and ended):
            raise ValueError(f"{README.name} has no lines {begin.strip()} and {end}")
        text = f"{before}{begin}\n{content}\n\n{end}{after}"
    write_text(README, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", nargs="*", default=["cifar10_cpu", EQUAL_TIME, "cifar10_tuning", "cifar10_ablations"])
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs")
    parser.add_argument("--seed", type=int, default=0, help="whose networks are kept")
    parser.add_argument("--tables", action="store_true", help="only rewrite the tables in the README")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    if not options.tables:
        collect(options.sweeps, options.runs_dir)
        export(options.sweeps[0], options.runs_dir, options.seed)
    write_readme(options.sweeps[0])


if __name__ == "__main__":
    main()
