"""The repository itself: packaging files that agree, and imports that point one way."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import anchor_utils

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = ("checks", "files", "downloads")  # callers' slips, how files are written and fetched; below everything
GROUND = ("config", "data", "models", "attacks", "losses")
UPPER = ("results", "outcomes", "autoattack", "masking", "evaluation", "training", "embeddings")


def bounds(requirements):
    """Package name -> the rest of the requirement."""
    return dict(re.fullmatch(r"([\w-]+)(.*)", text).groups() for text in requirements)


def test_environment_and_pyproject_ask_for_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (from_pip,) = [entry["pip"] for entry in environment if isinstance(entry, dict)]
    assert "-e ." in from_pip
    conda = bounds([entry for entry in environment if isinstance(entry, str)] + [p for p in from_pip if p != "-e ."])
    assert conda.pop("pip") == ""
    assert conda.pop("python") == PROJECT["requires-python"]
    conda["torch"] = conda.pop("pytorch")
    assert conda == bounds(PROJECT["dependencies"])


def test_every_dependency_has_a_lower_bound():
    extras = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
    for name, bound in bounds(PROJECT["dependencies"] + extras).items():
        assert re.match(r">=\d", bound), name


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == PROJECT["version"] == anchor_utils.__version__
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["license"] == PROJECT["license"]


def imports(module):
    """Modules of the package that a module imports, anywhere in its file."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / "anchor_utils" / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("anchor_utils.") for alias in node.names if "anchor_utils" in alias.name}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            if node.module == "anchor_utils":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("anchor_utils."):
                found.add(node.module.removeprefix("anchor_utils."))
    return found


def test_imports_are_found():
    assert {"losses", "models", "attacks", "config", "data"} <= imports("training")


@pytest.mark.parametrize("module", [*GROUND, "plotting", *BASE])
def test_module_stands_on_the_ground(module):
    assert imports(module) <= {*BASE} - {module}


@pytest.mark.parametrize("module", UPPER)
def test_upper_modules_do_not_reach_for_commands_or_figures(module):
    assert imports(module) <= {*BASE, *GROUND, *UPPER} - {module}


def test_import_is_light():
    code = "import sys, anchor_utils; heavy = {'torch', 'numpy', 'matplotlib', 'pandas', 'mlxtend'} & set(sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}; print(sorted(heavy))"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"


def test_submodules_load_on_first_use():
    assert anchor_utils.config.Config().method == "anchor"
    assert {"losses", "training"} <= set(anchor_utils.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'"):
        anchor_utils.nothing  # noqa: B018


def test_what_happens_when_names_tests_that_exist():
    rows = [row for row in (ROOT / "docs" / "what_happens_when.md").read_text().splitlines() if row.startswith("|")]
    promises = [row for row in rows if not re.match(r"\|( fault|:--)", row)]
    assert len(promises) > 20
    for row in promises:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert named, f"no test stands for {row}"
        for file, test in named:
            assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"
