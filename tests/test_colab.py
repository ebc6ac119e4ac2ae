"""The notebooks on Colab, without Colab: what it has is enough, stays as it is, and its forms offer what is allowed."""

import ast
import functools
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from anchor_utils.config import Config, load_preset, presets
from course import freshness, lesson, links

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SOURCES = sorted((ROOT / "notebooks" / "src").glob("[0-9][0-9]_*.py"))
WHEEL = ("anchor_utils", "course", "study", "configs/presets", "data/pretrained", "data/study_gpu", "expected")
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name[:2])


def colab():
    """Name -> version of what Colab has."""
    lines = (ROOT / "tests" / "colab.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def test_colab_has_what_the_package_asks_for_but_one_small_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked, there = [Requirement(text) for text in project["dependencies"]], colab()
    assert [one.name for one in asked if canonicalize_name(one.name) not in there] == ["pyautoattack"]
    for one in asked:
        version = there.get(canonicalize_name(one.name))
        assert version is None or one.specifier.contains(version), f"Colab's {one.name} {version} would be replaced"


# What a notebook imports

KERNEL = {"ipython"}  # not asked for: without it there is no notebook


@functools.cache
def brought():
    """Outermost names of imports that Python, a kernel or the package brings: an extra, or luck, is not enough."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    asked = {canonicalize_name(Requirement(text).name) for text in dependencies} | KERNEL
    found = importlib.metadata.packages_distributions()
    ours = {name for name, ones in found.items() if asked & set(map(canonicalize_name, ones))}
    return {*sys.stdlib_module_names, *freshness.PACKAGES, *ours}


def imports(tree):
    """Outermost names of what code imports, but for what it can do without: it catches the ImportError."""
    tries = [node for node in ast.walk(tree) if isinstance(node, ast.Try)]
    optional = [node.body for node in tries if "ImportError" in [ast.unparse(h.type) for h in node.handlers if h.type]]
    left_out = {id(node) for body in optional for line in body for node in ast.walk(line)}
    nodes = [node for node in ast.walk(tree) if id(node) not in left_out]
    whole = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    whole += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
    return {name.partition(".")[0] for name in whole}


def not_brought(**notebooks):
    """What the code of notebooks, or a module of the project that it reaches, imports besides: place -> names."""
    trees = {name: ast.parse(code) for name, code in notebooks.items()}
    trees |= freshness.modules("\n".join(notebooks.values()))
    missing = {name: sorted(imports(tree) - brought()) for name, tree in trees.items()}
    return {name: names for name, names in missing.items() if names}


def test_notebooks_import_only_what_the_package_asks_for():
    assert len(SOURCES) == len(NOTEBOOKS)
    assert not_brought(**{path.stem: path.read_text(encoding="utf-8") for path in SOURCES}) == {}


def test_an_import_that_nothing_brings_is_noticed():
    assert colab().keys() >= KERNEL
    assert not_brought(a="import json, torch.nn as nn, yaml\nfrom IPython.display import display") == {}
    found = not_brought(a="def late():\n    import jupytext.cli, nowhere.at_all as x", b="from course import build")
    assert found["a"] == ["jupytext", "nowhere"]
    assert "nbformat" in found["course.build"], "what a module imports counts too"
    optional = "try:\n    import nowhere\nexcept {}:\n    import jupytext"
    assert not_brought(a=optional.format("ImportError")) == {"a": ["jupytext"]}
    assert not_brought(a=optional.format("OSError")) == {"a": ["jupytext", "nowhere"]}


# Forms


def form(path) -> list[tuple[str, Any, Any]]:
    """Name, default and annotation of each line of the parameters cell; ValueError for one that Colab cannot read."""
    (cell,) = [c for c in nbformat.read(path, 4).cells if "parameters" in c.metadata.get("tags", [])]
    found = []
    for line in cell.source.splitlines():
        parts = re.fullmatch(r"(\w+) = (.+?)  # @param (\[.+\]|\{.+\})", line)
        if parts is None:
            raise ValueError(f"no parameter of a form: {line}")
        annotation = json.loads(re.sub(r"(\w+):", r'"\1":', parts[3]) if parts[3][0] == "{" else parts[3])
        found.append((parts[1], ast.literal_eval(parts[2]), annotation))
    return found


@every_notebook
def test_the_form_offers_what_the_configuration_takes(path):
    kinds = {"integer": int, "string": str, "raw": dict}
    for name, default, annotation in form(path):
        if isinstance(annotation, list):
            assert all(isinstance(choice, str) for choice in annotation)
            assert default in annotation
        else:
            assert type(default) is kinds[annotation["type"]], name
        if name in Config.model_fields:
            assert getattr(load_preset("cpu", **{name: default}), name) == default
    fields = {name: (default, annotation) for name, default, annotation in form(path)}
    offered = fields.pop("preset")[1]
    assert set(offered) <= set(presets())
    assert {"smoke", "cpu", "t4"} <= set(offered)
    values = {name: default for name, (default, _) in fields.items()}
    for preset in offered:
        assert lesson.configure(preset, **values).seed == values["seed"]
    for models in fields.get("models", (None, []))[1]:
        assert lesson.configure("cpu", **(values | {"models": models}))


def test_a_line_that_is_no_form_is_noticed(tmp_path):
    cell = nbformat.v4.new_code_cell('seed = 0  # @param {type:"integer}', metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "book.ipynb")
    with pytest.raises(ValueError, match=r"no parameter|delimiter|Unterminated|Invalid"):
        form(tmp_path / "book.ipynb")


# The setup cell


def run(*command, cwd, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def needed(name, known):
    """The installed distributions that one needs, itself among them, without those in `known`."""
    waiting, found = [name], {}
    while waiting:
        here = canonicalize_name(waiting.pop())
        if here in found or here in known:
            continue
        try:
            found[here] = importlib.metadata.distribution(here)
        except importlib.metadata.PackageNotFoundError:  # for another system
            continue
        asked = [Requirement(text) for text in found[here].requires or []]
        waiting += [one.name for one in asked if one.marker is None or "extra" not in str(one.marker)]
    return found


def lend_torch(site, there):
    """Have the torch and torchvision that are installed here found in another environment, in Colab's versions.

    They take gigabytes, so they are links. Names and versions are Colab's; what torch itself asks for is not tried.
    """
    for one in needed("torchvision", there.keys() - {"torch", "torchvision"}).values():
        for top in {file.parts[0] for file in one.files or [] if file.parts[0] != ".."}:
            if not top.endswith(".dist-info") and not (site / top).exists():
                (site / top).symlink_to(Path(one.locate_file(top)))
    for name in ("torch", "torchvision"):
        folder = site / f"{name}-{there[name]}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {there[name]}\n")


@pytest.fixture(scope="module")
def colab_python(tmp_path_factory):
    """The interpreter of an environment that holds what Colab has and nothing else."""
    folder, there = tmp_path_factory.mktemp("colab"), colab()
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    (site,) = (folder / "lib").glob("python*/site-packages")
    rest = [f"{name}=={version}" for name, version in there.items() if name not in ("torch", "torchvision")]
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    run(*pip, *rest, cwd=folder)
    lend_torch(site, there)
    return python


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The project as a git repository of one commit, at the branch or tag that the setup cell installs."""
    folder = tmp_path_factory.mktemp("repository")
    for source in WHEEL:
        shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, folder)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "core.autocrlf=false"]
    run(*git, "init", "--quiet", "--initial-branch", links.read().tag, cwd=folder)
    run(*git, "add", "--all", cwd=folder)
    run(*git, "commit", "--quiet", "--message", "The project", cwd=folder)
    return folder


def installed(python, cwd):
    listed = json.loads(run(python, "-m", "pip", "--disable-pip-version-check", "list", "--format", "json", cwd=cwd))
    return {canonicalize_name(entry["name"]): entry["version"] for entry in listed}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Colab runs Linux")
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Colab's numpy and pandas have no wheels for this Python")
def test_the_setup_cell_installs_the_course_and_replaces_nothing(colab_python, repository, tmp_path, monkeypatch):
    """A notebook in an empty folder, with its results on what stands for Google Drive."""
    here, drive = tmp_path / "content", tmp_path / "drive" / "MyDrive" / "anchor"
    here.mkdir()
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = [str(colab_python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Colab", "language": "python"}))
    book = nbformat.read(NOTEBOOKS[0], 4)
    address = f"git+https://github.com/{links.read().repository}@"
    assert address in book.cells[1].source
    book.cells[1].source = book.cells[1].source.replace(address, f"git+file://{repository}@")
    nbformat.write(book, here / "01.ipynb")
    before = installed(colab_python, tmp_path)
    assert before.items() >= colab().items()

    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    papermill.execute_notebook(
        str(here / "01.ipynb"),
        str(tmp_path / "done.ipynb"),
        parameters={"preset": "smoke", "runs_dir": str(drive)},
        cwd=str(here),
        kernel_name="python3",
        progress_bar=False,
        start_timeout=180,
    )
    after = installed(colab_python, tmp_path)
    changed = {name: (before[name], after.get(name)) for name in before if before[name] != after.get(name)}
    assert changed == {}
    # Colab leaves out jedi, which IPython asks for; the Jupyter server asks for overrides before Python 3.12.
    assert (
        {"anchor-utils", "pyautoattack"}
        <= after.keys() - before.keys()
        <= {*("anchor-utils", "pyautoattack", "jedi", "parso", "overrides")}
    )
    where = run(colab_python, "-c", "import anchor_utils; print(anchor_utils.__file__)", cwd=here)
    assert Path(where.strip()).is_relative_to(colab_python.parent.parent)
    outputs = [o for cell in nbformat.read(tmp_path / "done.ipynb", 4).cells for o in cell.get("outputs", [])]
    assert [o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})], "no playground"
    assert list(drive.glob("*/last.safetensors"))
    assert (drive / "results" / "smoke" / "01.json").is_file()
    assert [path.name for path in here.iterdir()] == ["01.ipynb"], "not all results went where runs_dir says"
