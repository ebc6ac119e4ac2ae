"""The lock that proves a notebook fresh: which modules and files it follows, what changes it, what it refuses."""

import ast
import modulefinder
import re
import subprocess
import tempfile
from pathlib import Path

import nbformat
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from course import build, freshness

CHECKOUT = freshness.ROOT
SOURCES = sorted((CHECKOUT / "notebooks" / "src").glob("[0-9][0-9]_*.py"))
# A small project. Its library loads its modules on first use, as the real one does.
FILES = {
    "anchor_utils/__init__.py": """from importlib import import_module
__version__ = "1"
__all__ = ["base", "top", "other"]
def __getattr__(name):
    return import_module(f"{__name__}.{name}")
""",
    "anchor_utils/base.py": '"""Base."""\nONE = 1\n',
    "anchor_utils/top.py": "from anchor_utils.base import ONE\n\n\ndef two():\n    return 2 * ONE\n",
    "anchor_utils/other.py": "THREE = 3\n",
    "anchor_utils/tools/__init__.py": "from .hammer import hit\n",
    "anchor_utils/tools/hammer.py": "def hit():\n    from .. import other\n    return other\n",
    "anchor_utils/tools/saw.py": "from .hammer import hit\nfrom ..base import ONE as ours\n",
    "course/__init__.py": "",
    "course/lesson.py": "import anchor_utils.top as t\n",
    "course/figures/__init__.py": "",
    "course/figures/lesson_02.py": "from . import shared\nfrom .. import lesson\n",
    "course/figures/shared.py": "",
    "study/__init__.py": "",
    "study/report.py": "try:\n    from course.figures import shared\nexcept ImportError:\n    pass\n",
}
LIBRARY, TOP = ["anchor_utils"], ["anchor_utils", "anchor_utils.base", "anchor_utils.top"]
ALL = ["anchor_utils", "anchor_utils.base", "anchor_utils.other", "anchor_utils.top"]
TOOLS = ["anchor_utils", "anchor_utils.other", "anchor_utils.tools", "anchor_utils.tools.hammer"]
LESSON = [*TOP, "course", "course.lesson"]
FIGURES = ["course", "course.figures", "course.figures.shared"]


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def notebook_of(*code):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in code])


@pytest.fixture
def project(tmp_path, monkeypatch):
    write(tmp_path, FILES)
    write(tmp_path, {"pyproject.toml": '[tool.anchor_utils]\nrepository = "a/b"\ntag = "main"\n'})
    monkeypatch.setattr(freshness, "ROOT", tmp_path)
    return tmp_path


# Imports


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("import torch, os.path as p\nfrom numpy.linalg import norm\nfrom torch import *", []),
        ("from anchor_utils import top", TOP),
        ("from anchor_utils import top as t, base", TOP),
        ("from anchor_utils.top import two", TOP),
        ("from anchor_utils.top import two as zwei", TOP),
        ("import anchor_utils.top as t", TOP),
        ("from anchor_utils import __version__", LIBRARY),
        ("import anchor_utils.tools.hammer as h", TOOLS),
        ("from anchor_utils.tools import hit", TOOLS),
        ("from anchor_utils import tools", TOOLS),
        ("from anchor_utils.tools import hammer, hit", TOOLS),
        ("from anchor_utils.tools.saw import ours", sorted([*TOOLS, "anchor_utils.base", "anchor_utils.tools.saw"])),
        ("from course import lesson", LESSON),
        ("from course.figures import lesson_02", sorted({*LESSON, *FIGURES, "course.figures.lesson_02"})),
        ("from course.figures.lesson_02 import shared", sorted({*LESSON, *FIGURES, "course.figures.lesson_02"})),
        ("import course.figures.shared", FIGURES),
        ("from study import report", [*FIGURES, "study", "study.report"]),
        ("def f():\n    class C:\n        from anchor_utils import top", TOP),
        ("if False:\n    pass\nelse:\n    with x:\n        import anchor_utils.top as t", TOP),
        ("lambda: 0\ntry:\n    pass\nexcept E:\n    from anchor_utils import top", TOP),
        # Whoever has the package itself can reach all that it loads on first use.
        ("import anchor_utils\nanchor_utils.top.two()", ALL),
        ("import anchor_utils as au\nau.top.two()", ALL),
        ("import anchor_utils.base", ALL),
        ("text = 'from anchor_utils import top'  # import anchor_utils", []),
    ],
)
def test_imports_are_followed(project, code, modules):
    assert list(freshness.modules(code)) == modules


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("from anchor_utils import *", r"the notebook, line 1: from anchor_utils import \*: which names"),
        ("from anchor_utils.top import *", "write them out"),
        ("import anchor_utils.nothing", "the project has no module 'anchor_utils.nothing'"),
        ("import anchor_utils.top.two", "the project has no module 'anchor_utils.top.two'"),
        ("x = 1\nfrom anchor_utils.nothing import x", "line 2: .* the project has no module 'anchor_utils.nothing'"),
        ("from anchor_utils import top, nothing", "anchor_utils has no module and no name 'nothing'"),
        ("from course.figures import lesson_03", "course.figures has no module and no name 'lesson_03'"),
        ("from . import top", "a relative import that leads out of the project"),
        ("import importlib\nimportlib.import_module('anchor_utils.' + 'top')", "line 2: .* write an import statement"),
        ("from importlib import import_module\nimport_module('anchor_utils.top')", "write an import statement"),
        ("from importlib import import_module as load\nload(name)", "line 1: .* under another name"),
        ("from importlib import import_module\nload = import_module", "line 2: .* cannot be followed"),
        ("__import__('anchor_utils.top')", "write an import statement"),
        ("x = 1\n%matplotlib inline", "the notebook, line 2: invalid syntax: %matplotlib inline"),
    ],
)
def test_what_cannot_be_followed_is_refused(project, code, message):
    with pytest.raises(ValueError, match=message):
        freshness.modules(code)
    with pytest.raises(ValueError, match=message):
        freshness.lock(notebook_of(code), "cpu")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("anchor_utils/top.py", "from ..other import THREE", "anchor_utils.top, line 1: .* leads out of the project"),
        ("anchor_utils/top.py", "x = 1\nfrom .basse import ONE", "anchor_utils.top, line 2: .* 'anchor_utils.basse'"),
        ("anchor_utils/base.py", "def f(:", r"anchor_utils.base, line 1: invalid syntax: def f\(:"),
        (
            "anchor_utils/base.py",
            "def __getattr__(name):\n    from importlib import import_module\n    return import_module(name)",
            "anchor_utils.base, line 3: import_module: what it imports cannot be followed",
        ),
        ("anchor_utils/tools/__init__.py", "def __getattr__(name):\n    return name", "has no __all__ that says which"),
    ],
)
def test_what_cannot_be_followed_in_a_module_is_refused_with_its_place(project, file, text, message):
    (project / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        freshness.modules("from anchor_utils import top, tools")


NAMES = [
    "anchor_utils",
    "anchor_utils.a",
    "anchor_utils.b",
    "anchor_utils.c",
    "anchor_utils.c.d",
    "anchor_utils.c.e",
    "anchor_utils.c.e.f",
    "course",
    "course.g",
    "course.h",
]
PACKAGES = [name for name in NAMES if any(other.startswith(f"{name}.") for other in NAMES)]


@st.composite
def imports(draw, module):
    """A line that imports a module of NAMES, in one of the ways in which Python can; at the top or in a function."""
    name = draw(st.sampled_from(NAMES))
    parent, _, last = name.rpartition(".")
    forms = [f"import {name}", f"import {name} as z", f"from {name} import X"]
    forms += [f"from {parent} import {last}", f"from {parent} import {last} as z, X"] if parent else []
    inside = module.split(".")[: None if module in PACKAGES else -1]
    for up in range(len(inside)):
        base, dots = ".".join(inside[: len(inside) - up]), "." * (up + 1)
        if name.startswith(f"{base}."):
            below = name.removeprefix(f"{base}.")
            inner, _, last = below.rpartition(".")
            forms += [f"from {dots}{inner} import {last}", f"from {dots}{below} import X"]
    place = draw(st.sampled_from(["{}", "def f():\n    {}", "class C:\n    if X:\n        {}"]))
    return place.format(draw(st.sampled_from(forms)))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_project_is_followed_as_pythons_own_modulefinder_does(data):
    """That one reads compiled code: another way to the same answer."""
    files = {}
    for name in NAMES:
        lines = ["X = 1", *data.draw(st.lists(imports(name), max_size=2), label=name)]
        files[f"{name.replace('.', '/')}{'/__init__' if name in PACKAGES else ''}.py"] = "\n".join(lines)
    code = "\n".join(data.draw(st.lists(imports(""), min_size=1, max_size=2), label="notebook"))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(freshness, "ROOT", Path(folder))
        write(Path(folder), {**files, "notebook.py": code})
        finder = modulefinder.ModuleFinder(path=[folder])
        finder.run_script(f"{folder}/notebook.py")
        assert set(freshness.modules(code)) == set(finder.modules) - {"__main__"}


# What changes it


@pytest.mark.parametrize(
    ("file", "old", "new", "stale"),
    [
        ("anchor_utils/base.py", "ONE = 1", "ONE = 2", True),
        ("anchor_utils/top.py", "2 * ONE", "3 * ONE", True),
        ("anchor_utils/__init__.py", '"1"', '"2"', True),
        ("anchor_utils/other.py", "THREE = 3", "THREE = 4", False),
        ("anchor_utils/tools/hammer.py", "return", "yield", False),
        ("course/__init__.py", "", "X = 1", False),
        ("anchor_utils/base.py", '"""Base."""', '"""The base."""', False),
        ("anchor_utils/top.py", "    return", "    # twice\n    return", False),
        ("anchor_utils/top.py", "    return", '    """Two."""\n    return', False),
        ("anchor_utils/top.py", "2 * ONE", "(\n        2 * ONE\n    )", False),
    ],
)
def test_lock_changes_with_what_can_change_an_output(project, file, old, new, stale):
    book = notebook_of("from anchor_utils import top")
    before = freshness.lock(book, "cpu")
    path = project / file
    path.write_text(path.read_text().replace(old, new))
    after = freshness.lock(book, "cpu")
    assert (after["package"] != before["package"]) == stale
    assert after["source"] == before["source"]


def test_lock_is_the_same_for_every_version_of_python():
    """ast.dump is not: 3.12 added a field for type parameters to functions and classes, 3.13 leaves out empty ones."""
    tree = ast.parse("def f(x: int = 1):\n    return [x, None, 'a']\nclass C: pass")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.__dict__.pop("type_params", None)
    older = freshness._tree(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.type_params, node._fields = [], (*node._fields, "type_params")
    assert freshness._tree(tree) == older


def test_lock_changes_with_cells_and_preset_but_not_with_injected_parameters():
    book = notebook_of("print(1)")
    before = freshness.lock(book, "cpu")
    assert freshness.lock(notebook_of("print(2)"), "cpu")["source"] != before["source"]
    assert freshness.lock(book, "smoke")["data"] != before["data"]
    book.cells.append(nbformat.v4.new_code_cell("seed = 3", metadata={"tags": ["injected-parameters"]}))
    assert freshness.lock(book, "cpu") == before


# Data files

DATA = {
    "configs/presets/cpu.yaml": "epochs: 1\n",
    "configs/presets/paper.yaml": "epochs: 2\n",
    "configs/presets/t4.yaml": "epochs: 3\n",
    "expected/01.cpu.yaml": "claims: {}\n",
    "expected/02.cpu.yaml": "claims: {}\n",
    "expected/01.smoke.yaml": "claims: {}\n",
    "data/pretrained/cifar10-anchor.safetensors": "weights",
    "data/pretrained/study.json": "{}",
    "anchor_utils/course.mplstyle": "",
    "anchor_utils/config.py": "LISTED = ['cpu', 'paper', 't4']",
    "anchor_utils/models.py": 'from anchor_utils import config\nNETWORKS = "cifar10-{}.safetensors"',
    "anchor_utils/plotting.py": 'def use_style():\n    Path(__file__).with_name("course.mplstyle")',
}

CHANGED = {".yaml": "x: 1\n", ".safetensors": "other weights", ".json": "[]", ".mplstyle": "font.size: 1"}


@pytest.mark.parametrize(
    ("code", "files"),
    [
        ("", []),
        ("lesson.start('01')", ["expected/01.cpu.yaml"]),
        ("load_preset('paper')", ["configs/presets/paper.yaml"]),
        ("from anchor_utils import plotting", ["anchor_utils/course.mplstyle"]),
        ("from anchor_utils import models", ["data/pretrained/cifar10-anchor.safetensors"]),
        ("STUDY = folder / 'study.json'", ["data/pretrained/study.json"]),
    ],
)
def test_lock_changes_with_the_data_files_that_are_read(project, code, files):
    write(project, DATA)
    book = notebook_of(code)
    before = freshness.lock(book, "cpu")
    stale = []
    for name, text in DATA.items():
        if not name.endswith(".py"):
            (project / name).write_text(CHANGED[Path(name).suffix])
            stale += [name] if freshness.lock(book, "cpu")["data"] != before["data"] else []
            write(project, {name: text})
    assert stale == sorted([*files, "configs/presets/cpu.yaml"], key=list(DATA).index)
    write(project, {name: f"# A comment\n\n{DATA[name]}" for name in DATA if name.endswith(".yaml")})
    assert freshness.lock(book, "cpu") == before


def test_every_data_file_of_the_project_is_hashed_or_no_notebook_reads_it():
    """A new kind of file belongs in DATA, or here."""
    listed = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no clone")
    hashed = {path for kind in freshness.DATA for path in CHECKOUT.glob(kind.replace("PRESET", "*"))}
    assert hashed
    unread = r"\.ci/.*|.*\.(py|ipynb|md)|docs/.*|configs/sweeps/.*|benchmarks/.*|study/Snakefile|\.github/.*"
    unread += r"|Makefile|LICENSE|CITATION\.cff|pyproject\.toml|environment\.yml|\.gitignore|\.gitattributes"
    unread += r"|tests/.*|course/explorer\.html"  # of the site
    left = [name for name in listed.stdout.split() if not re.fullmatch(unread, name) and CHECKOUT / name not in hashed]
    assert not left


@pytest.mark.parametrize("source", SOURCES, ids=[source.name[:2] for source in SOURCES])
def test_every_notebook_can_be_followed_and_reads_its_files(source):
    code = "\n".join(cell.source for cell in build.from_source(source).cells if cell.cell_type == "code")
    modules = freshness.modules(code)
    assert {"anchor_utils", "course", "course.lesson", "anchor_utils.config"} <= modules.keys()
    # Those that execute, build, train and publish decide no output; study.sweep reads configs/sweeps.
    assert not {"course.runner", "course.build", "course.freshness", "anchor_utils.train"} & modules.keys()
    assert not {"anchor_utils.__main__", "anchor_utils.run", "study.sweep", "study.publish"} & modules.keys()

    trees = [ast.parse(code), *(tree for name, tree in modules.items() if name not in freshness.LISTS_NAMES)]
    names = {path.name for path in freshness.data_files({text for t in trees for text in freshness._texts(t)}, "cpu")}
    number = source.name[:2]
    assert {f"{number}.cpu.yaml", "course.mplstyle", "cifar10_cpu.yaml", "cifar10-anchor.safetensors"} <= names
    assert number == "08" or "t4.yaml" not in names, "a preset that the notebook does not read"
    assert ("study.json" in names) == (number in ("02", "05", "06", "08"))


def test_bands_that_moved_make_a_notebook_stale_and_a_rewritten_file_does_not(project):
    write(project, {"expected/01.cpu.yaml": "claims:\n  robust: [0.5, 1]\n"})
    book = notebook_of("lesson.finish('01', preset, config, {})")
    before = freshness.lock(book, "cpu")
    path = project / "expected" / "01.cpu.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text())))
    assert freshness.lock(book, "cpu") == before
    path.write_text("claims:\n  robust: [0.6, 1]\n")
    assert freshness.lock(book, "cpu") != before
