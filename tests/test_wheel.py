"""The wheel alone is enough, as on Colab: a notebook runs with nothing of the checkout in reach."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from course import links
from course.build import from_source

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("anchor_utils", "course", "study")
SOURCES = (
    *PACKAGES,
    "configs/presets",
    "configs/sweeps",
    "data/pretrained",
    "data/study_gpu",
    "expected",
)  # what the wheel is built from
# Where the modules and their data came from, said by the notebook's own kernel.
WHENCE = """
import json, sys
from anchor_utils import config as _config, models as _models
from course import lesson as _lesson
_files = {name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] in {packages}}
_folders = [_config.PRESET_DIR, _models.PRETRAINED_DIR, _lesson.EXPECTED_DIR]
print(json.dumps({"files": _files, "folders": [str(folder) for folder in _folders]}))
""".replace("{packages}", repr(PACKAGES))

pytestmark = pytest.mark.slow


def python(*arguments, cwd, **environment):
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, unpacked into a folder of its own. Built from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for source in SOURCES:
        shutil.copytree(ROOT / source, folder / "checkout" / source, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, folder / "checkout")
    pip = ["-m", "pip", "--disable-pip-version-check", "--no-cache-dir"]
    python(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", ".", "./checkout", cwd=folder)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 10_000_000, "too large to be installed by every notebook on Colab"
    python(*pip, "install", "--no-deps", "--no-index", "--target", "site", wheel, cwd=folder)
    shutil.rmtree(folder / "checkout")
    return folder / "site"


def test_all_that_the_course_needs_is_in_the_wheel(installed):
    def names(folder):
        return {path.name for path in folder.iterdir() if path.name != "__pycache__"}

    for package in PACKAGES:
        assert names(ROOT / package) <= names(installed / package)
    assert names(installed / "anchor_utils/presets") == names(ROOT / "configs/presets")
    assert names(installed / "study/sweeps") == names(ROOT / "configs/sweeps")
    kept = names(installed / "anchor_utils/pretrained")
    large = {name for name in names(ROOT / "data/pretrained") if "-w64-" in name}
    assert large
    assert kept == names(ROOT / "data/pretrained") - large
    assert names(installed / "study/study_gpu") == names(ROOT / "data/study_gpu")
    assert names(installed / "course/expected") == names(ROOT / "expected")
    assert (installed / "anchor_utils/course.mplstyle").is_file()


def test_without_a_large_network_the_package_says_where_it_is(installed, tmp_path):
    code = """
from anchor_utils import models
assert models.pretrained("anchor").architecture["width"] == 16
try:
    models.pretrained("pgd_at", width=64)
except FileNotFoundError as error:
    print(error)
"""
    said = python("-c", code, cwd=tmp_path, PYTHONPATH=str(installed), PYTHONSAFEPATH="1")
    assert str(installed / "anchor_utils/pretrained/cifar10-w64-pgd_at.safetensors") in said
    assert f"/raw/{links.read().tag}/data/pretrained/cifar10-w64-pgd_at.safetensors" in said


def test_a_notebook_runs_from_an_empty_folder(installed, tmp_path):
    book = from_source(ROOT / "notebooks/src/01_adversarial_examples.py")
    book.cells.append(nbformat.v4.new_code_cell(WHENCE))
    nbformat.write(book, tmp_path / "01.ipynb")
    papermill = ["-m", "papermill", "01.ipynb", "done.ipynb", "-p", "preset", "smoke", "--no-progress-bar"]
    python(*papermill, cwd=tmp_path, PYTHONPATH=str(installed), PYTHONSAFEPATH="1")
    whence = json.loads(nbformat.read(tmp_path / "done.ipynb", as_version=4).cells[-1].outputs[0].text)
    assert {"anchor_utils.data", "course.lesson"} <= set(whence["files"])
    for place in [*whence["files"].values(), *whence["folders"]]:
        assert Path(place).is_relative_to(installed)
    assert list((tmp_path / "runs").iterdir())
