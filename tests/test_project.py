"""The repository itself: packaging files that agree, and imports that point one way."""

import ast
import io
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest
import yaml

import anchor_utils

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("anchor_utils", "course", "study")
# Lines: what one person reads in one go, and a library that is read in an afternoon.
# The engine has 300 of its own, the options of the recipe 150, the ways to mine 200.
LIMITS = {"function": 60, "module of the library": 350, "library": 3000 + 300 + 150 + 200}


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
    assert conda == bounds(PROJECT["dependencies"]) | bounds(PROJECT["optional-dependencies"]["notebooks"])


def test_the_package_alone_brings_nothing_that_starts_notebooks():
    """Colab has its own Jupyter, which must not be replaced: a lesson needs only what it imports."""
    tools = {"jupyterlab", "papermill", "notebook", "jupyter-server", "jupytext", "nbclient"}
    assert not tools & bounds(PROJECT["dependencies"]).keys()
    imported = re.compile(r"^\s*(?:import|from) (papermill|jupytext|nbclient|jupyterlab)\b", re.MULTILINE)
    lesson = ["course/lesson.py", "course/page.py", *(str(p) for p in (ROOT / "notebooks" / "src").glob("*.py"))]
    files = [*lesson, *(str(p) for p in (ROOT / "anchor_utils").glob("*.py"))]
    assert not [file for file in files if imported.search((ROOT / file).read_text())]


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


def docstring_lines(node):
    documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
    return set(range(node.body[0].lineno, node.body[0].end_lineno + 1)) if documented else set()


def code_lines(path):
    """The numbers of the lines that are not empty, a comment or a docstring."""
    text, found = path.read_text(), set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.OP):
            found |= set(range(token.start[0], token.end[0] + 1))
    return found - set().union(*map(docstring_lines, ast.walk(ast.parse(text))))


def test_functions_modules_and_the_library_stay_small():
    """Docstrings do not count where they would be what is cut first: in functions and in the sum."""
    modules = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    library = [path for path in modules if path.is_relative_to(ROOT / "anchor_utils")]
    too_long = []
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1 - len(docstring_lines(node))
                if length > LIMITS["function"]:
                    too_long.append(f"{path.relative_to(ROOT)}: {node.name}, {length} lines")
    for path in library:
        if (length := len(path.read_text().splitlines())) > LIMITS["module of the library"]:
            too_long.append(f"{path.name}, {length} lines")
    if (total := sum(len(code_lines(path)) for path in library)) > LIMITS["library"]:
        too_long.append(f"the library, {total} lines of code")
    assert not too_long, "\n".join(too_long)


def test_lines_of_code_are_counted(tmp_path):
    (tmp_path / "module.py").write_text(
        '"""One.\n\nTwo."""\n\n# three\nx = [\n    1,  # one\n]\n\ndef f():\n    """F."""\n    return """a\nb"""\n'
    )
    assert code_lines(tmp_path / "module.py") == {6, 7, 8, 10, 12, 13}


@pytest.fixture
def copy(tmp_path):
    """The packages and their contracts, to try out a change."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return Path(shutil.copy(ROOT / "pyproject.toml", tmp_path)).parent


def broken_contracts(folder):
    """What import-linter has to say against the imports of the packages in a folder."""
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    report = result.stdout + result.stderr
    assert (result.returncode == 0) == ("0 broken" in report), report
    return "" if result.returncode == 0 else report


def test_imports_keep_their_contracts(copy):
    assert broken_contracts(copy) == ""


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("anchor_utils/losses.py", "from course import lesson", "The study stands on the course"),
        ("course/lesson.py", "import study.report", "The study stands on the course"),
        ("anchor_utils/models.py", "def late():\n    from anchor_utils import training", "Layers of the library"),
        ("anchor_utils/models.py", "import anchor_utils.losses", "Layers of the library"),
        ("anchor_utils/new.py", "", "Layers of the library"),
        ("anchor_utils/training.py", "from anchor_utils import plotting", "Nothing in the library draws figures"),
        ("anchor_utils/plotting.py", "from anchor_utils.embeddings import extract", "Figures show plain arrays"),
        ("anchor_utils/evaluation.py", "import anchor_utils.training", "No circles"),
    ],
)
def test_an_import_the_wrong_way_is_noticed(copy, module, line, contract):
    with (copy / module).open("a") as file:
        file.write(f"\n{line}\n")
    assert re.search(rf"^{contract}.*BROKEN\b", broken_contracts(copy), re.MULTILINE)


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


def test_quick_runs_files_that_exist():
    (core,) = re.findall(r"^CORE := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in core.split():
        assert (ROOT / "tests" / f"test_{name}.py").is_file(), name


def test_what_happens_when_names_tests_that_exist():
    rows = [row for row in (ROOT / "docs" / "what_happens_when.md").read_text().splitlines() if row.startswith("|")]
    promises = [row for row in rows if not re.match(r"\|( fault|:--)", row)]
    assert len(promises) > 20
    for row in promises:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert named, f"no test stands for {row}"
        for file, test in named:
            assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"
