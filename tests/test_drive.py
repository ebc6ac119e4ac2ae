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
from course import lesson

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


@pytest.fixture
def content(tmp_path, monkeypatch):
    """A folder that stands for Colab's /content, the current one, and the list of what is mounted."""
    folder, mounted = tmp_path.resolve() / "content", []
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(lesson, "DRIVE", folder / "drive")
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) in mounted)
    monkeypatch.setenv("HOME", str(folder / "drive" / "MyDrive"))
    monkeypatch.setenv("USERPROFILE", str(folder / "drive" / "MyDrive"))
    return folder, mounted


ON_DRIVE = ("{content}/drive", "{content}/drive/MyDrive/runs", "drive/MyDrive/runs", "./x/../drive/runs", "~/runs")
ELSEWHERE = ("{content}/runs", "{content}/drives/runs", "{content}/drive/../runs", "{content}", "runs", "../drive", "/")


@pytest.mark.parametrize("name", ["runs_dir", "data_root"])
@pytest.mark.parametrize("path", ON_DRIVE)
def test_a_path_on_a_drive_that_is_not_mounted_is_refused_before_any_work(path, name, content, monkeypatch):
    folder, mounted = content
    monkeypatch.setattr(lesson, "load_data", lambda _: pytest.fail("work was started"))
    arguments = {"number": "01", "preset": "smoke", "overrides": {}, "seed": 0, "runs_dir": "runs", "data_root": "data"}
    path = path.format(content=folder)
    for changes in ({name: path}, {"overrides": {name: path}}):
        with pytest.raises(ValueError, match=f"^{name}='.*: no Google Drive is mounted .*; allowed is") as refusal:
            lesson.start(**arguments | changes)
        lines = str(refusal.value).splitlines()
        assert lines[1:] == ["from google.colab import drive", f'drive.mount("{(folder / "drive").as_posix()}")']
    assert list(folder.iterdir()) == [], "something was written"

    mounted.append(folder / "drive")
    config, _, _ = lesson.start(**arguments | {name: path}, data=False)
    assert (folder / getattr(config, name)).resolve().is_relative_to(folder / "drive")


@pytest.mark.parametrize("path", ELSEWHERE)
def test_paths_elsewhere_need_no_drive(path, content):
    folder, _ = content
    lesson.check_mounted("runs_dir", path.format(content=folder))


def test_what_is_mounted_may_be_a_folder_of_the_drive_but_not_one_above(content):
    folder, mounted = content
    mounted.append(folder)
    with pytest.raises(ValueError, match="no Google Drive"):
        lesson.check_mounted("runs_dir", str(folder / "drive" / "MyDrive" / "runs"))
    mounted.append(folder / "drive" / "MyDrive")
    lesson.check_mounted("runs_dir", str(folder / "drive" / "MyDrive" / "runs"))
    with pytest.raises(ValueError, match="no Google Drive"):
        lesson.check_mounted("runs_dir", str(folder / "drive" / "other"))


def test_a_link_to_the_drive_leads_there(content):
    folder, _ = content
    (folder / "linked").symlink_to(folder / "drive" / "MyDrive", target_is_directory=True)
    with pytest.raises(ValueError, match="no Google Drive"):
        lesson.check_mounted("runs_dir", "linked/runs")


def test_the_drive_is_where_the_page_says():
    page = (ROOT / "docs" / "what_happens_when.md").read_text(encoding="utf-8")
    assert lesson.DRIVE.as_posix() == "/content/drive"
    assert f'`from google.colab import drive` and `drive.mount("{lesson.DRIVE.as_posix()}")`' in page


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
