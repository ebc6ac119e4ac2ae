"""Results on a drive that outlives the machine, Google Drive say: one parameter says where, and all goes on there."""

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

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


# A training run that saves its state after every step, not every two minutes, and its tuned classifier.
CHILD = """
import sys
from anchor_utils import loop, training
from anchor_utils.config import load_preset
loop.SAVE_SECONDS = -1.0
config = load_preset("smoke", runs_dir=sys.argv[1], epochs=3, device="cpu")
training.finetune(training.fit(config, progress=False), progress=False)
"""


def training(runs_dir):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(runs_dir)], cwd=runs_dir.parent, env=environment)


def networks(folder):
    """The finished networks below a folder of runs, tuned ones included."""
    files = sorted(folder.glob("**/last.safetensors"))
    return {path.relative_to(folder).as_posix(): models.load(path).state_dict() for path in files}


@pytest.mark.slow
def test_after_a_disconnect_a_run_goes_on_elsewhere_to_the_same_bits(tmp_path):
    """The process is killed, and the drive is found under another path, from another folder."""
    before, drive, reference = (tmp_path / name / "drive" for name in ("content", "mounted", "reference"))
    for folder in (before, drive, reference):
        folder.parent.mkdir()
    process = training(before)
    while process.poll() is None and not list(before.glob("*/resume.safetensors")):
        time.sleep(0.005)
    process.kill()
    assert process.wait() != 0, "it ended before it could be lost"
    assert list(before.glob("*/resume.safetensors"))
    assert networks(before) == {}
    before.rename(drive)
    assert training(drive).wait() == 0
    assert training(reference).wait() == 0
    found, expected = networks(drive), networks(reference)
    assert found.keys() == expected.keys()
    assert len(found) == 2, "a network and its tuned classifier"
    for name, weights in found.items():
        for key, value in weights.items():
            assert torch.equal(value, expected[name][key]), f"{name}: {key}"
    for folder in (before, drive, reference):
        assert {path.name for path in folder.parent.iterdir()} <= {"drive"}, "not all results went where runs_dir says"
