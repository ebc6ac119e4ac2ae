"""Results on a drive that outlives the machine, Google Drive say: one parameter says where, and all goes on there."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from anchor_utils import models

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "notebooks" / "src").glob("[0-9][0-9]_*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name[:2])
def test_a_notebook_knows_no_other_place_for_results_than_its_parameter(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    (start,) = [call for call in calls if ast.unparse(call.func) == "lesson.start"]
    assert "runs_dir" in [ast.unparse(argument) for argument in start.args]
    default = [n.value for n in ast.walk(tree) if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "runs_dir"]
    assert [ast.literal_eval(value) for value in default] == ["runs"]
    for call in calls:  # a path of its own begins where the parameter says
        if ast.unparse(call.func) == "Path":
            assert ast.unparse(call.args[0]) == "config.runs_dir", ast.unparse(call)
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not [text for text in texts if text.startswith(("runs/", "results/", "./", "../"))]


def notebook_05(output):
    """ANCHOR and its comparisons are trained, tuned and evaluated, with results in this folder."""
    command = [sys.executable, "-m", "anchor_utils", "run", "smoke", "--notebooks", "05", "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "-p", "epochs", "3", "-p", "device", "cpu"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def lose(process):
    """The machine is gone: nothing of it gets to say a word."""
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        one.kill()
    process.wait()


def networks(folder):
    """The finished networks below a folder of runs, tuned ones included."""
    files = sorted(folder.glob("**/last.safetensors"))
    return {path.relative_to(folder).as_posix(): models.load(path).state_dict() for path in files}


@pytest.mark.slow
def test_after_a_disconnect_a_notebook_goes_on_to_the_same_bits(tmp_path):
    before, drive, reference = tmp_path / "content" / "drive", tmp_path / "mounted" / "drive", tmp_path / "reference"
    process = notebook_05(before)
    while process.poll() is None and not list(before.glob("*/resume.safetensors")):
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be lost"
    lose(process)
    begun = [path.parent for path in before.glob("*/config.json") if not (path.parent / "last.safetensors").exists()]
    assert begun, "no training was under way"
    drive.parent.mkdir()
    before.rename(drive)  # another machine has it elsewhere
    assert notebook_05(drive).wait() == 0
    assert notebook_05(reference).wait() == 0
    found, expected = networks(drive), networks(reference)
    assert found.keys() == expected.keys()
    assert any("finetune" in name or "probe" in name for name in found)
    for name, weights in found.items():
        for key, value in weights.items():
            assert torch.equal(value, expected[name][key]), f"{name}: {key}"
    metrics, known = (
        json.loads((folder / "results/smoke/05.json").read_text())["metrics"] for folder in (drive, reference)
    )
    assert metrics == known
    assert not before.exists()
