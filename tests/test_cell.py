"""Cells of a sweep, end to end: Snakefile, papermill and study/cell.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from anchor_utils import results
from study.sweep import SWEEP_DIR

ROOT = Path(__file__).resolve().parent.parent


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "study" / "Snakefile")]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
    return subprocess.run(
        [*command, "--directory", str(folder), "-j", "2", *arguments], capture_output=True, text=True, env=environment
    )


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The smoke sweep, two methods times two seeds, with a third variant that cannot be trained."""
    if sys.platform == "win32":
        pytest.skip("the Snakefile starts its cells by a POSIX shell")
    folder = tmp_path_factory.mktemp("sweep")
    sweep = yaml.safe_load((SWEEP_DIR / "smoke.yaml").read_text())
    # Both numbers are written in JSON as YAML reads a text.
    sweep["variants"]["broken"] = {"method": "standard", "learning_rate": 1e30, "weight_decay": 1e-5}
    (folder / "three.yaml").write_text(yaml.safe_dump(sweep))
    return folder, snakemake(folder, "--config", "sweep=three.yaml", "--keep-going")


def test_a_failing_cell_leaves_the_others_alone(swept):
    folder, process = swept
    found = {path.name for path in (folder / "runs" / "sweeps" / "three").glob("*-s?.json")}
    assert found == {f"{variant}-s{seed}.json" for variant in ("standard", "anchor") for seed in (0, 1)}, process.stderr
    assert process.returncode != 0
    assert "FloatingPointError" in (folder / "runs" / "sweeps" / "three" / "broken-s0.log").read_text()


def test_a_sweep_that_gives_seconds_is_not_run_with_the_epochs_of_its_preset(tmp_path):
    process = snakemake(tmp_path, "--config", "sweep=minutes", "--dry-run")
    assert process.returncode != 0
    assert "sweep='minutes' gives networks seconds, not epochs" in process.stdout + process.stderr


def test_a_cell_reports_what_was_asked_for(swept):
    folder, _ = swept
    for variant, seed in (("standard", 0), ("anchor", 1)):
        table, context = results.read_results(folder / "runs" / "sweeps" / "three" / f"{variant}-s{seed}.json")
        assert (context["variant"], context["seed"], context["config"]["seed"]) == (variant, seed, seed)
        assert context["versions"]["threads"] == "1"
        best, last = (set(table.loc[table["checkpoint"] == which, "attack"]) for which in ("best", "last"))
        assert ("autoattack" if seed == 0 else "screen") in best  # the full attack on the seeds that ask for it
        assert last == {"clean", "pgd"}
        assert ("frozen encoder, new classifier" in context["held_out"]) == (variant == "anchor")
        assert set(table["images"]) <= {60, 6, 4}
        share = context["inside"].get("share of the contrastive term in the gradient")
        assert (share is None) if variant == "standard" else 0 < share < 1
        assert 0 <= context["inside"]["adversarial kNN accuracy"] <= 1
        assert [line["epoch"] for line in context["metrics"]] == [*range(1, context["config"]["epochs"] + 1)]


@pytest.mark.slow
def test_finished_cells_are_not_run_again_and_rerun_to_the_same_result(swept):
    folder, _ = swept
    results = folder / "runs" / "sweeps" / "three"
    wanted = results / "anchor-s0.json"
    before = json.loads(wanted.read_text())
    target = str(wanted.relative_to(folder))
    dry = snakemake(folder, target, "--config", "sweep=three.yaml", "--dry-run")
    assert "Nothing to be done" in dry.stdout + dry.stderr
    wanted.unlink()
    for run in (folder / "runs").glob("mnist5k-anchor-w4-s0-*"):
        run.rename(folder / "elsewhere")  # from scratch, not from the files of the first time
    again = snakemake(folder, target, "--config", "sweep=three.yaml")
    assert again.returncode == 0, again.stderr
    after = json.loads(wanted.read_text())
    for content in (before, after):
        content.pop("training_seconds")
        for row in (*content["rows"], *content["metrics"]):
            row.pop("seconds")
    assert after == before
