"""The command line: python -m anchor_utils, and the two forms that accelerate, torchrun and habit need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from anchor_utils import __main__ as commands
from anchor_utils.train import exit_status

ROOT = Path(__file__).resolve().parent.parent
# Before torch and papermill are loaded, and for training without the course.
LIGHT = """
import runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    assert "torch" not in sys.modules, "torch was loaded"
    assert "course" not in sys.modules or "run" in (module.split(".")[-1], sys.argv[1]), "the course was loaded"
"""


def command(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    arguments = [sys.executable, "-c", LIGHT, *words]
    return subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=120, check=False)


@pytest.mark.parametrize("form", [["anchor_utils", "train"], ["anchor_utils.train"]])
def test_training_refuses_bad_input_before_torch_is_loaded(form):
    result = command(*form, "--preset", "smoke", "-p", "epoch", "3")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: unknown parameter 'epoch'; did you mean 'epochs'?")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("form", [["anchor_utils", "run"], ["anchor_utils.run"]])
def test_running_refuses_bad_input_before_torch_is_loaded(form, tmp_path):
    result = command(*form, "smoke", "--notebooks", "1", "-p", "epoch", "3", "--output", str(tmp_path / "out"))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: unknown parameter 'epoch'; did you mean 'epochs'?")
    assert not list(tmp_path.iterdir())


def test_the_library_loads_no_course():
    code = "import sys, anchor_utils.__main__, anchor_utils.train; sys.exit('course' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_without_a_command_it_says_which_there_are(capsys):
    assert commands.main([]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    for name in ("train", "run"):
        assert f"\n{name} " in printed.err


def test_help_is_no_error(capsys):
    with pytest.raises(SystemExit) as end:
        commands.main(["-h"])
    assert end.value.code == 0
    assert "train one model" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        commands.main(["train", "-h"])
    assert end.value.code == 0
    assert "--run-dir" in capsys.readouterr().out


def test_an_unknown_command_is_refused_by_name(capsys):
    with pytest.raises(SystemExit) as end:
        commands.main(["trian", "--preset", "smoke"])
    assert end.value.code == 2
    assert "unknown command 'trian'; did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (None, 0, ""),
        (ValueError("epsilon=2: allowed is less"), 2, "error: epsilon=2: allowed is less\n"),
        (FileNotFoundError("no folder"), 2, "error: no folder\n"),
        (FloatingPointError("the loss is NaN"), 1, "error: the loss is NaN\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted; the same command goes on from there\n"),
    ],
)
def test_what_a_command_ends_with(error, status, said, capsys):
    def work():
        if error:
            raise error
        return 0

    assert exit_status(work, " from there") == status
    assert capsys.readouterr().err == said


def test_an_error_of_ours_keeps_its_traceback():
    with pytest.raises(KeyError):
        exit_status(lambda: {}["x"], "")
