"""The workflow that tests the project on other systems: it says what the Makefile says."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text()
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def recipe(target):
    """The commands of a target of the Makefile, as they are in an environment that is active."""
    (found,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    return [re.sub(r"OMP_NUM_THREADS=1 |\$\(BIN\)/", "", line.strip()) for line in found.splitlines()]


def test_it_covers_three_systems_and_every_python_that_is_supported():
    matrix = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert oldest == f">={matrix['python'][0]}"
    assert WORKFLOW["jobs"]["test"]["env"]["OMP_NUM_THREADS"] == "1"
    triggers = WORKFLOW[True]  # "on" is a truth value in YAML 1.1
    assert "pull_request" in triggers
    assert "push" in triggers


def test_every_step_does_one_thing_and_every_action_has_a_version():
    for job in WORKFLOW["jobs"].values():
        assert {"runs-on", "timeout-minutes", "steps"} <= job.keys()
    for step in STEPS:
        assert ("uses" in step) != ("run" in step), step
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/any@v1"))


def test_it_runs_targets_that_exist():
    targets = [name for step in STEPS for name in re.findall(r"\bmake ([\w-]+)", step.get("run", ""))]
    assert targets == ["test", "test-full"]
    for name in targets:
        assert re.search(rf"^{name}:", MAKEFILE, re.MULTILINE), name


def test_windows_runs_what_make_test_runs():
    steps = [step for step in WORKFLOW["jobs"]["test"]["steps"] if step.get("if") == "runner.os == 'Windows'"]
    install, lint, test = ([line.strip() for line in step["run"].splitlines()] for step in steps)
    assert lint == recipe("lint")
    assert test == recipe("test")
    assert install == [recipe(r"\$\(VENV\)/\.dev")[0].replace(" --disable-pip-version-check", "").replace("'", '"')]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks" / "src").glob("*.py")), ids=lambda path: path.name[:2])
def test_a_notebook_needs_no_shell_and_no_system_of_its_own(path):
    """Lines for a shell, and paths put together as text, work on one system only."""
    text = re.sub(r"^# .*", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)  # without prose
    assert re.findall(r"run_\w+_magic|os\.system|subprocess|os\.path", text) == [
        "run_line_magic"
    ]  # the setup cell's pip
    assert not re.findall(r"^\s*[!%]\w.*|[\"'](?:/tmp|/home|/dev|~/|C:\\\\).*", text, re.MULTILINE)
