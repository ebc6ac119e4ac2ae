"""Proof that an executed notebook belongs to the code and the data files beside it.

The runner stores three hashes in a notebook's metadata when it executes it. As long as they can be computed again from
the files at hand, the outputs are those of this notebook, of these modules and of these data. Nothing is executed for
that: imports are read off the code, and what cannot be read off is refused.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

import nbformat
import yaml

from course import links

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("anchor_utils", "course", "study")
# The project's data files, and the text with which code asks for one. Whatever has this text in it counts as a reader:
# rather one file too many than one too few.
DATA = {
    "configs/presets/*.yaml": "{0.stem}",  # load_preset("paper")
    "expected/*.PRESET.yaml": "{0.name:.2}",  # lesson.start("01", ...)
    "data/pretrained/*.safetensors": "cifar10-{{}}.safetensors",  # models.pretrained
    "data/pretrained/*.json": "{0.name}",
    "data/study_gpu/*/*.json": "data/study_gpu",
    "anchor_utils/*.mplstyle": "{0.name}",
}
LISTS_NAMES = ("anchor_utils.config",)  # of all presets, and asks for none
LOADERS = {"import_module", "__import__"}


def lock(book: nbformat.NotebookNode, preset: str) -> dict[str, str]:
    """Hashes of what decides a notebook's outputs.

    Returns:
        "source": of its cells, in order, without those that papermill injected; "package": of the modules of the
        project that it imports, directly or through each other; "data": of the preset, the bands and the other files
        in DATA that it or these modules read.

    Raises:
        ValueError: an import that cannot be followed; names module, line and reason.

    The address of the project decides no output: wherever it lies, the hashes are the same.
    """
    here = links.read(ROOT)

    def placeless(text: str) -> str:
        return links.moved(text, here, links.NOWHERE)

    cells = [c for c in book.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    code = "\n".join(c.source for c in cells if c.cell_type == "code")
    followed = modules(code)
    readers = [_parse(code, ""), *(tree for name, tree in followed.items() if name not in LISTS_NAMES)]
    files = data_files({preset, *(text for tree in readers for text in _texts(tree))}, preset)
    return {
        "source": _hash(*(placeless(f"{c.cell_type}: {c.source}") for c in cells)),
        "package": _hash(*(placeless(f"{name}: {_tree(tree)!r}") for name, tree in followed.items())),
        "data": _hash(*(f"{path.relative_to(ROOT).as_posix()}: {_content(path)}" for path in files)),
    }


def data_files(texts: set[str], preset: str) -> list[Path]:
    """Data files that code with these texts in it reads when it runs with this preset."""
    found = ((path, asked) for kind, asked in DATA.items() for path in ROOT.glob(kind.replace("PRESET", preset)))
    return sorted(path for path, asked in found if asked.format(path) in texts)


def modules(code: str) -> dict[str, ast.Module]:
    """The project's modules that this code imports, directly or through each other, wherever the import stands.

    Returns:
        Names, in order, and syntax trees without docstrings. The packages that a module lies in are among them: Python
        executes their __init__.py first.

    Raises:
        ValueError: an import that cannot be followed; names module, line and reason.
    """
    found: dict[str, ast.Module] = {}
    waiting = _imports(_parse(code, ""), "")
    while waiting:
        name = waiting.pop()
        found[name] = _module(name)
        waiting |= _imports(found[name], name) - found.keys()
    return dict(sorted(found.items()))


def _imports(tree: ast.Module, module: str) -> set[str]:
    """Modules of the project that the code of a module, "" for a notebook, names in its imports."""
    # What a package loads on first use is in its __all__, for _reachable().
    lazy = {id(n) for part in tree.body if _is_package(module) and _is_lazy(part) for n in ast.walk(part)}
    found: set[str] = set()
    for node in ast.walk(tree):
        try:
            found |= _named(node, module)
            if LOADERS & {getattr(node, "id", ""), getattr(node, "attr", "")} and id(node) not in lazy:
                raise ValueError("what it imports cannot be followed; write an import statement")
        except ValueError as error:
            place = _place(module, getattr(node, "lineno", None))
            raise ValueError(f"{place}: {ast.unparse(node)}: {error}") from None
    return found


def _named(node: ast.AST, module: str) -> set[str]:
    """Modules of the project that a statement names, if it is an import."""
    found: set[str] = set()
    if isinstance(node, ast.Import):
        for alias in node.names:
            # Without "as", it is the outermost package that gets a name.
            held = alias.name if alias.asname else alias.name.partition(".")[0]
            found |= {*_existing(alias.name), *_reachable(held)}
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(node, module)
        for alias in node.names:
            if alias.name in LOADERS and alias.asname:
                raise ValueError("under another name, what it imports cannot be followed")
            found |= _imported_from(base, alias.name)
    return found


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """Name of the module that names are imported from."""
    if node.level == 0:
        return node.module or ""
    inside = module.split(".") if module else []
    up = node.level - _is_package(module)
    if up >= len(inside):
        raise ValueError("a relative import that leads out of the project")
    return ".".join([*inside[: len(inside) - up], *([node.module] if node.module else [])])


def _imported_from(base: str, name: str) -> set[str]:
    """What ``from base import name`` imports: a module, or a name that the module has."""
    found = {*_existing(base)}
    if not found:
        return found
    if name == "*":
        raise ValueError("which names these are cannot be seen; write them out")
    if _is_package(base):
        if _file(f"{base}.{name}"):
            return {*found, *_existing(f"{base}.{name}"), *_reachable(f"{base}.{name}")}
        if name not in _names(_module(base)):
            raise ValueError(f"{base} has no module and no name {name!r}")
    return found


def _existing(name: str) -> Iterator[str]:
    """A module and the packages that it lies in, if it is of the project."""
    parts = name.split(".")
    if parts[0] in PACKAGES:
        for end in range(1, len(parts) + 1):
            part = ".".join(parts[:end])
            if not _file(part):
                raise ValueError(f"the project has no module {part!r}")
            yield part


def _reachable(name: str) -> list[str]:
    """Modules that a package loads on first use. Whoever has the package itself can reach them all."""
    body = _module(name).body if name.partition(".")[0] in PACKAGES and _is_package(name) else []
    if not any(map(_is_lazy, body)):
        return []
    lists = [node.value for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
    if not lists:
        raise ValueError(f"{name} loads modules on first use, and has no __all__ that says which")
    return [f"{name}.{part}" for part in ast.literal_eval(lists[-1]) if _file(f"{name}.{part}")]


def _texts(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _is_lazy(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == "__getattr__"


def _names(tree: ast.Module) -> set[str]:
    """Names that a module gives to anything."""
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    found |= {n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)}
    return found | {n.asname or n.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.alias)}


def _file(name: str) -> Path | None:
    """Where a module of the project lies; None if there is none of this name."""
    path = ROOT.joinpath(*name.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def _is_package(name: str) -> bool:
    file = _file(name) if name else None
    return file is not None and file.name == "__init__.py"


def _module(name: str) -> ast.Module:
    """The code of a module without comments, docstrings and layout: these change no output."""
    file = _file(name)
    assert file is not None, name
    tree = _parse(file.read_text(encoding="utf-8"), name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = node.body[ast.get_docstring(node) is not None :]
    return tree


def _parse(code: str, module: str) -> ast.Module:
    try:
        return ast.parse(code)
    except SyntaxError as error:
        raise ValueError(f"{_place(module, error.lineno)}: {error.msg}: {(error.text or '').strip()}") from None


def _place(module: str, line: int | None) -> str:
    return f"{module or 'the notebook'}, line {line}"


def _tree(node: object) -> object:
    """A syntax tree as lists, the same for every version of Python: ``ast.dump`` also names fields that are empty."""
    if isinstance(node, ast.AST):
        fields = [[name, _tree(value)] for name, value in ast.iter_fields(node) if value is not None and value != []]
        return [type(node).__name__, *fields]
    return [_tree(item) for item in node] if isinstance(node, list) else repr(node)


def _content(path: Path) -> str:
    """What is in a data file; of YAML without comments."""
    if path.suffix == ".yaml":
        return repr(yaml.safe_load(path.read_text(encoding="utf-8")))
    if path.suffix == ".safetensors":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return path.read_text(encoding="utf-8")


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
