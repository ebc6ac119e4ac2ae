"""The workflows that test the project on other systems and publish its site, and what they share with the Makefile."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW, PAGES = (
    yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))
    for name in ("tests", "pages")
)
MAKEFILE = (ROOT / "Makefile").read_text()


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


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


@pytest.mark.parametrize("workflow", [WORKFLOW, PAGES], ids=["tests", "pages"])
def test_every_step_does_one_thing_and_every_action_has_a_version(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert {"runs-on", "timeout-minutes", "steps"} <= job.keys()
    for step in steps(workflow):
        assert ("uses" in step) != ("run" in step), step
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/any@v1"))


@pytest.mark.parametrize(
    ("workflow", "expected"),
    [(WORKFLOW, ["test", "test-full", "test-site"]), (PAGES, ["docs"])],
    ids=["tests", "pages"],
)
def test_they_run_targets_that_exist(workflow, expected):
    targets = [name for step in steps(workflow) for name in re.findall(r"\bmake ([\w-]+)", step.get("run", ""))]
    assert targets == expected
    for name in targets:
        assert re.search(rf"^{name}:", MAKEFILE, re.MULTILINE), name


def test_what_is_published_is_what_make_docs_builds():
    assert PAGES[True]["push"] == {"branches": ["main"]}
    build, deploy = PAGES["jobs"]["build"], PAGES["jobs"]["deploy"]
    used = [step.get("uses", step.get("run")).partition("@")[0] for step in build["steps"]]
    assert used[-3:] == ["actions/configure-pages", "make docs", "actions/upload-pages-artifact"]
    assert recipe("docs")[-1].endswith(f" {build['steps'][-1]['with']['path']}")
    assert deploy["needs"] == "build"
    assert deploy["permissions"] == {"pages": "write", "id-token": "write"}
    assert [step["uses"].partition("@")[0] for step in deploy["steps"]] == ["actions/deploy-pages"]


def test_all_tests_are_those_that_are_not_slow_and_then_the_slow_ones():
    assert re.search(r"^test-full: test ", MAKEFILE, re.MULTILINE)
    assert [line.replace('"not slow"', "slow") for line in recipe("test")] == recipe("test-full")


# A Python that fails as Debian's does without python3-venv, and one that is too old.
PYTHONS = {
    "no pip": """#!/bin/sh
case "$*" in *venv*) mkdir -p .venv/bin; ln -s "$(command -v false)" .venv/bin/python; exit 1;; esac
""",
    "old": """#!/bin/sh
exec python3 -c 'import sys; sys.version_info = (3, 9); exec(sys.argv[2])' "$@"
""",
}


@pytest.mark.skipif(sys.platform == "win32" or not shutil.which("make"), reason="no make")
@pytest.mark.parametrize(
    ("kind", "message"), [("no pip", "sudo apt install python3-venv"), ("old", "make tutorial PYTHON=python3.12")]
)
def test_without_a_python_that_will_do_make_says_what_to_do_and_leaves_nothing(tmp_path, kind, message):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(PYTHONS[kind])
    python.chmod(0o755)
    for _ in range(2):  # the second time, too
        done = subprocess.run(["make", "setup", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode != 0
        assert message in done.stderr
        assert not (tmp_path / ".venv").exists()


def test_windows_runs_what_make_test_runs():
    own = [step for step in WORKFLOW["jobs"]["test"]["steps"] if step.get("if") == "runner.os == 'Windows'"]
    install, lint, test = ([line.strip() for line in step["run"].splitlines()] for step in own)
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
