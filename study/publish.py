"""Collect finished sweeps and write the report: ``python -m study.publish [cifar10_cpu ...]``.

Writes data/pretrained/study.json (every cell of the sweeps); with the sweep of the study also, for each method, the
network of the first seed in half precision with its model card. From these cells and those in data/study_gpu come the
tables of docs/results.md, and the figure and the three sentences of the README. ``--tables`` writes only the latter.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch

from anchor_utils import evaluation, models, plotting
from anchor_utils.config import Config
from anchor_utils.data import load_data
from anchor_utils.files import write_text
from anchor_utils.results import compare
from course.figures.lesson_08 import clean_against_robust
from study import draws, mining
from study.cards import DATA, card
from study.claims import (
    BASELINES,
    INTERVALS_OF_DIFFERENCES,
    claims_table,
    describe,
    equal_passes_claims,
    stands,
)
from study.headline import INTERVALS, SWEEPS, headline, read_folder
from study.tables import (
    SHOWN,
    Cells,
    alike,
    attack_name,
    best_checkpoints,
    budgets,
    cost_table,
    equal_passes,
    method_table,
    passes,
    read_cells,
    setting,
    spots,
)

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "data" / "pretrained" / "study.json"
FIRST_DRAW = STUDY.with_name("study_first_draw.json")  # of seeds that were trained twice, what came first
GPU_CELLS = ROOT / "data" / "study_gpu"
README = ROOT / "README.md"
RESULTS = ROOT / "docs" / "results.md"
FIGURE = ROOT / "docs" / "clean_against_robust.png"
STUDY_SWEEP, EQUAL_PASSES = "cifar10_cpu", "cifar10_equal_time"
SWEEPS_OF_THE_STUDY = [STUDY_SWEEP, EQUAL_PASSES, "cifar10_tuning", "cifar10_ablations", *mining.ASKED, "mining_tuning"]


def collect(sweeps: list[str], runs_dir: Path) -> None:
    """Every finished cell of the sweeps, in one file; what was published before and was not run anew stays.

    Raises:
        ValueError: a sweep has no finished cells, or a variant's networks would be of two recipes.
    """
    found = json.loads(STUDY.read_text(encoding="utf-8"))["sweeps"] if STUDY.exists() else {}
    for sweep in sweeps:
        folder = runs_dir / "sweeps" / sweep
        cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*-s*.json"))]
        if not cells:
            raise ValueError(
                f"sweep={sweep!r} has no finished cells in {str(folder)!r}: run `make sweep SWEEP={sweep}` first; the "
                "tables alone are written by `python -m study.publish --tables`"
            )
        by_name = {(cell["variant"], cell["seed"]): cell for cell in (*found.get(sweep, []), *cells)}
        found[sweep] = [by_name[name] for name in sorted(by_name)]
        one_recipe(sweep, found[sweep])
    write_text(STUDY, json.dumps({"sweeps": found}, indent=0) + "\n")


def one_recipe(sweep: str, cells: list[dict[str, Any]]) -> None:
    """ValueError if the cells of a variant differ in more than the seed: some are older than the sweep file."""
    recipes: dict[str, dict[str, Any]] = {}
    for cell in cells:
        fields = {**Config(**cell["config"]).training_fields(), "seed": None}
        first = recipes.setdefault(cell["variant"], fields)
        if differ := sorted(name for name in {*first, *fields} if first.get(name) != fields.get(name)):
            raise ValueError(
                f"sweep={sweep!r}, variant={cell['variant']!r}: networks differ in {', '.join(differ)}; allowed is one "
                "recipe, so run the cells that are older than the sweep file again"
            )


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
        rows = table[(table["method"] == config.method) & (table["training_seed"] == seed)]
        rows = rows[rows["checkpoint"] == "best"]
        clean = float(rows.loc[rows["attack"] == "clean", "accuracy"].iloc[0])
        stored = evaluation.clean_outcomes(models.load(path), test.inputs(), test.labels).float().mean().item()
        if abs(stored - clean) > 0.002:
            raise ValueError(f"{path.name}: half precision moves the clean accuracy from {clean:.4f} to {stored:.4f}")
        write_text(path.with_suffix(".md"), card(path, config, cell, rows, stored, sweep))


def study_tables() -> tuple[pd.DataFrame, Cells]:
    return best_checkpoints(STUDY, STUDY_SWEEP)


def equal_passes_tables() -> tuple[pd.DataFrame, Cells]:
    return equal_passes(STUDY, EQUAL_PASSES, STUDY_SWEEP)


def sentences() -> list[str]:
    """What the study found about ANCHOR, in three sentences, each from comparisons with their intervals."""
    study, study_cells = study_tables()
    equal, _ = equal_passes_tables()
    name = attack_name(study, "pgd")
    config = {cell["method"]: cell["config"] for cell in study_cells}
    others = [m for m in dict.fromkeys(equal["method"]) if m != "anchor"] if len(equal) else []
    same_passes = [stands(compare(equal, "anchor", other, "pgd"), other) for other in others]
    helped = mining.count(mining.answers(STUDY)[mining.HELPED])
    clean = [stands(compare(study, "anchor", baseline, "clean"), baseline) for baseline in BASELINES]
    return [
        f"**After about as many passes through the network** ({passes(config['anchor'])} for ANCHOR), {name}: ANCHOR is {'; '.join(same_passes) or 'not compared: not run'}.",
        f"**Weights on hard positives**, {name}: on CIFAR-10, with the settings that were tuned for it, ANCHOR {mining.on_cifar10(STUDY)}. "
        f"On digits, with the same two twins, {helped}. ANCHOR's weights dealt at random, minus uniform weights: {mining.of_random(STUDY)}.",
        f"**Clean accuracy** at equal epochs: ANCHOR is {'; '.join(clean)}.",
    ]


def panels() -> dict[str, dict[str, Any]]:
    """For each study by its title the accuracies of the methods, clean and under PGD: on CPUs, then on a GPU."""
    study, cells = study_tables()
    config = cells[0]["config"]
    spent = [passes(cell["config"]) for cell in cells if cell["method"] != "standard"]
    title = f"{config['epochs']} epochs each on CPUs, {min(spent)} to {max(spent)} passes\n"
    found = {f"{title}{scale(study, config['width'])}": spots(study)}
    for sweep in SWEEPS:
        table, cells = read_folder(GPU_CELLS / sweep)
        if len(table):
            widest = table[table["width"] == table["width"].max()]
            kind = "prototype, " if sweep == "prototype" else ""
            title = f"{cells[0]['seconds']['given']:g} seconds of a GPU given to each\n{kind}"
            return {**found, f"{title}{scale(widest, widest['width'].max())}": spots(widest)}
    return found


def scale(table: pd.DataFrame, width: int) -> str:
    seeds = table["training_seed"].nunique()
    return f"{seeds} seed{'s' if seeds > 1 else ''}, width {width}"


def summary() -> str:
    """The README's figure and three sentences as Markdown."""
    study, cells = study_tables()
    config = cells[0]["config"]
    trained = config["train_images"] - config["validation_images"]
    seeds = study["training_seed"].nunique()
    alt = "Clean accuracy of each method against its accuracy under PGD, both with 95% intervals, for two studies"
    caption = (
        f"*CIFAR-10 (a JPEG copy). Right and up is better; bars are 95% intervals, over {seeds} training seeds and the test images, or for a "
        "hollow mark over images alone: a single network, which bears no verdict about its method. "
        f"{setting(study, 'pgd')}. What the networks on the GPU are, and which of their seconds they used: docs/results.md.*"
    )
    limits = (
        f"The sentences about CIFAR-10 come from ResNet-18s of width {config['width']}, {trained:,} images and {config['epochs']} epochs on two CPU cores, far below "
        "the paper's setting, and say nothing about full scale. Differences in percentage points with 95% intervals; what is excluded is rounded up to a tenth."
    )
    picture = f"![{alt}]({FIGURE.relative_to(ROOT).as_posix()})"
    return "\n\n".join([picture, caption, "\n".join(f"- {text}" for text in sentences()), limits])


def equal_passes_report() -> str:
    """The comparison after as many passes, as Markdown."""
    table, cells = equal_passes_tables()
    if not cells:
        return f"Not run: `make sweep SWEEP={EQUAL_PASSES}`."
    settings = "; ".join(setting(table, attack) for attack in SHOWN if attack in {*table["attack"]})
    before, _ = budgets(FIRST_DRAW, EQUAL_PASSES)
    redrawn, same = alike(before, table)
    before = pd.concat([before, table[table["method"] == "anchor"]])
    methods = [name for name in dict.fromkeys(table["method"]) if name != "anchor"]
    first = [f"{name} {describe(compare(before, 'anchor', name, 'pgd'))}" for name in methods]
    parts = [
        costs(cells).drop(columns="seconds a run").to_markdown(index=False),
        method_table(table).to_markdown(index=False),
        f"{INTERVALS} {settings}.",
        claims_table(table, equal_passes_claims(table)).drop(columns="tested by").to_markdown(index=False),
        INTERVALS_OF_DIFFERENCES,
        f"PGD-AT with these budgets was trained a second time, for the screen; {same} of {redrawn} networks came out with the same outcome on every image. "
        f"The first draw against the same ANCHOR under PGD: ANCHOR minus {'; ANCHOR minus '.join(first)}.",
    ]
    return "\n\n".join(parts)


CLEAN_OF_TWINS = (
    "Differences in points of clean accuracy, same intervals; nothing was claimed about them before the runs."
)
LAST_EPOCH = "What the weights did in the last epoch of these trainings, means over its steps and the seeds."


def standing_report() -> list[str]:
    """What benchmarks/mining.py found of networks that stand still, as paragraphs of Markdown."""
    parts = []
    for title, (how, table) in mining.standing().items():
        parts += [f"**{title}**, standing still ({how}):", table.to_markdown(index=False)]
    return parts


def mining_report() -> str:
    """What the sweeps about mining say, as Markdown."""
    table = mining.methods(STUDY)
    titles = {
        mining.SWEEP: "Digits, networks trained from the start",
        mining.ON_CIFAR10: "CIFAR-10, ANCHOR and its twins",
    }
    again, same = alike(mining.anchors(STUDY, mining.ON_CIFAR10), study_tables()[0])
    parts = [
        *standing_report(),
        *(part for sweep, title in titles.items() for part in asked_in(sweep, title)),
        f"Of the {again} ANCHOR networks of this sweep, trained anew, {same} have the outcomes of the study's on every image; what these reach was known before the margin was fixed.",
        f"**Random weights.** An exploration on test images of digits, last epochs of six seeds, had seen eq. 1 with permuted weights {mining.EXPLORED} points from uniform ones, which asked for these controls. The margin was fixed for mining, and is applied to random weights after the runs: {mining.of_random(STUDY)}.",
        "**The methods on digits**, as the preset `cpu` sets them; at equal epochs, which is not equal passes:",
        method_table(table).to_markdown(index=False),
    ]
    return "\n\n".join(parts)


def asked_in(sweep: str, title: str) -> list[str]:
    """What one sweep answers, under PGD, under the screen and in clean accuracy, as paragraphs of Markdown."""
    parts = []
    for attack, words in (("pgd", title), ("screen", f"{title}, under the screen")):
        if not mining.comparisons(STUDY, attack=attack, sweep=sweep):
            continue
        found = [f(STUDY, attack, sweep) for f in (mining.answers, mining.random_weights, mining.controls)]
        parts += [f"**{words}:**", *tables_of(found), mining.how_compared(STUDY, attack, sweep)]
    clean, trained = mining.leads(STUDY, "clean", sweep), mining.in_training(STUDY, sweep)
    return [*parts, *tables_of([clean]), CLEAN_OF_TWINS, *tables_of([trained]), LAST_EPOCH]


def tables_of(found: Sequence[pd.DataFrame]) -> list[str]:
    return [table.to_markdown(index=False) for table in found if len(table)]


def study_report() -> str:
    """The study's tables as Markdown."""
    table, cells = study_tables()
    settings = "; ".join(setting(table, attack) for attack in SHOWN)
    parts = [
        method_table(table).to_markdown(index=False),
        f"{INTERVALS} {settings}.",
        claims_table(table).drop(columns="tested by").to_markdown(index=False),
        INTERVALS_OF_DIFFERENCES,
        costs(cells).to_markdown(index=False),
        "Passes are forward-and-backward passes of one image through the network; seconds are one thread of shared CPUs, not the same for all cells, and only rough. What an epoch of each method costs, the methods taking turns on one machine: `python benchmarks/training_cost.py`.",
    ]
    return "\n\n".join(parts)


def costs(cells: Cells) -> pd.DataFrame:
    table = cost_table(cells).drop(columns="passes an epoch, PGD-AT = 1")
    return table.assign(**{"seconds a run": table["seconds a run"].round().astype(int)})


def draw() -> None:
    """The README's figure."""
    plotting.use_style()
    table, _ = study_tables()
    figure = clean_against_robust(panels(), robust=attack_name(table, "pgd"))
    figure.savefig(FIGURE, dpi=130, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def write_report() -> None:
    """Put the figure, the sentences and the tables in their places, between their markers."""
    write_between(README, {"results": summary()})
    blocks = {"equal passes": equal_passes_report(), "study": study_report(), "headline": headline(GPU_CELLS)}
    blocks |= {"mining": mining_report(), "draws": draws.report(draws.draws([FIRST_DRAW, STUDY], STUDY_SWEEP))}
    write_between(RESULTS, blocks)
    draw()


def write_between(path: Path, blocks: dict[str, str]) -> None:
    """Replace what stands between the markers of each block in a file.

    Raises:
        ValueError: a marker is missing.
    """
    text = path.read_text(encoding="utf-8")
    for name, content in blocks.items():
        begin, end = f"<!-- {name}: written by study/publish.py -->\n", f"<!-- end of {name} -->"
        before, marked, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not (marked and ended):
            raise ValueError(f"{path.name} has no lines {begin.strip()} and {end}")
        text = f"{before}{begin}\n{content}\n\n{end}{after}"
    write_text(path, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", nargs="*", default=SWEEPS_OF_THE_STUDY)
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs")
    parser.add_argument("--seed", type=int, default=0, help="whose networks are kept")
    parser.add_argument("--tables", action="store_true", help="only write the report anew")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    if not options.tables:
        collect(options.sweeps, options.runs_dir)
        if STUDY_SWEEP in options.sweeps:
            export(STUDY_SWEEP, options.runs_dir, options.seed)
    write_report()


if __name__ == "__main__":
    main()
