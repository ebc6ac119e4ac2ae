"""Proof that an executed notebook belongs to the code beside it.

The runner stores two hashes in a notebook's metadata when it executes it. As long as they can be computed again from
the files at hand, the outputs are those of this notebook and of this package.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import nbformat

from anchor_utils.config import PRESET_DIR

PACKAGE_DIR = Path(__file__).resolve().parent.parent / "anchor_utils"


def lock(book: nbformat.NotebookNode, preset: str) -> dict[str, str]:
    """Hashes of what decides a notebook's outputs.

    Returns:
        "source": of its cells, in order, without those that papermill injected; "package": of the modules of
        anchor_utils that it imports, directly or through each other, and of the preset.
    """
    cells = [c for c in book.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    code = "\n".join(c.source for c in cells if c.cell_type == "code")
    parts = [f"{name}: {_meaning(PACKAGE_DIR / f'{name}.py')}" for name in package_modules(code)]
    parts.append((PRESET_DIR / f"{preset}.yaml").read_text())
    return {"source": _hash(*(f"{c.cell_type}: {c.source}" for c in cells)), "package": _hash(*parts)}


def package_modules(code: str) -> list[str]:
    """Names of the modules of anchor_utils that this code imports, directly or through each other."""
    found: set[str] = set()
    waiting = _imports(code)
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= _imports((PACKAGE_DIR / f"{name}.py").read_text()) - found
    return sorted(found)


def _imports(code: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "anchor_utils":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("anchor_utils."):
            names.add(node.module.split(".")[1])
    return {name for name in names if (PACKAGE_DIR / f"{name}.py").exists()}


def _meaning(path: Path) -> str:
    """The code of a module without comments, docstrings and layout: these change no output."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return repr(_tree(tree))


def _tree(node: object) -> object:
    """A syntax tree as lists, the same for every version of Python: ``ast.dump`` also names fields that are empty."""
    if isinstance(node, ast.AST):
        fields = [[name, _tree(value)] for name, value in ast.iter_fields(node) if value is not None and value != []]
        return [type(node).__name__, *fields]
    return [_tree(item) for item in node] if isinstance(node, list) else repr(node)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
