"""Sweeps: what a sweep file may say, and the workflow end to end."""

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from anchor_utils import results
from study.sweep import SWEEP_DIR, load_sweep

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


def test_finished_cells_are_not_run_again_and_rerun_to_the_same_result(swept):
    folder, _ = swept
    cells = folder / "runs" / "sweeps" / "three"
    wanted = cells / "anchor-s0.json"
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
        for row in content["rows"]:
            row.pop("seconds")
    assert after == before


@pytest.mark.parametrize("path", sorted(SWEEP_DIR.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_file_is_valid_and_its_cells_are_different_runs(path):
    from anchor_utils.config import load_preset

    cells = load_sweep(path.stem).cells()
    names = {load_preset(c["preset"], **c["overrides"], seed=c["seed"]).run_name() for c in cells.values()}
    assert len(names) == len(cells)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "huge"}, "unknown preset 'huge'"),
        ({"overrides": {"epoch": 3}}, "unknown parameter 'epoch'; did you mean 'epochs'"),
        ({"variants": {"a": {"method": "magic"}}, "finetune": []}, "method='magic'"),
        ({"variants": {"a b": {"method": "mart"}}}, "a b"),
        ({"attacks": ["clean", "autoattak"]}, "attacks.1='autoattak'"),
        ({"seed": [1]}, "seed"),
        ({"cells": {}}, "cells"),
        ({"seeds": [-1]}, "seed=-1"),
        ({"finetune": ["ankor"]}, "unknown variant in finetune 'ankor'; did you mean 'anchor'"),
    ],
)
def test_a_bad_sweep_file_is_refused_before_anything_runs(tmp_path, change, message):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load((SWEEP_DIR / "smoke.yaml").read_text()), **change}))
    with pytest.raises(ValueError, match=re.escape(message)):
        load_sweep(str(path))


def test_an_unknown_sweep_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown sweep 'smoek'; did you mean 'smoke'\? Allowed: .*cifar10_tuning"):
        load_sweep("smoek")


def test_cells_share_out_the_gpus_of_one_machine(tmp_path):
    """Three commands at once on a machine that says it has two GPUs: two run side by side, the third waits."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho GPU 0: one\necho GPU 1: two\n")
    smi.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    body = (
        "import os, time; a = time.time(); time.sleep(1.5); print(os.environ['CUDA_VISIBLE_DEVICES'], a, time.time())"
    )
    command = [sys.executable, str(ROOT / "study" / "on_free_gpu.py"), sys.executable, "-c", body]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    spans = sorted((p.communicate()[0].split() for p in processes), key=lambda span: float(span[1]))
    assert {span[0] for span in spans} == {"0", "1"}
    assert spans[0][0] != spans[1][0]
    for device in ("0", "1"):  # one after the other on the same GPU
        mine = [span for span in spans if span[0] == device]
        assert all(float(later[1]) >= float(earlier[2]) for earlier, later in pairwise(mine))


def test_without_a_gpu_the_command_just_runs(tmp_path):
    command = [sys.executable, str(ROOT / "study" / "on_free_gpu.py"), sys.executable, "-c", "raise SystemExit(7)"]
    assert subprocess.run(command, env={"PATH": str(tmp_path)}).returncode == 7
