"""Write the notebooks from their sources in src/, executed: ``python notebooks/build.py [01 05 ...]``."""

import argparse
import base64
import re
import sys
from pathlib import Path

import jupytext
import nbformat

from anchor_utils.run import NOTEBOOK_DIR, run

PRESET = "cpu"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# Where the course lies on the machine that ran it does not belong in a notebook.
MACHINE_PATH = re.compile(r"(/[\w.+-]+)+/(?=(notebooks|anchor_utils|runs|data|site-packages)/)")


def from_source(source: Path) -> nbformat.NotebookNode:
    """The notebook of a percent script, without outputs, with cell ids that do not change from build to build."""
    book = jupytext.read(source, fmt="py:percent")
    for index, cell in enumerate(book.cells):
        cell["id"] = f"cell-{index:02d}"
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
    book.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    book.nbformat, book.nbformat_minor = 4, 5
    return book


def clean(executed: nbformat.NotebookNode, source: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The source notebook with the outputs of the executed one and nothing of the machine that ran it."""
    for cell, done in zip(source.cells, executed.cells, strict=True):
        if cell.source != done.source:
            raise ValueError(f"cell {cell.id} was executed with other code: run the notebooks again")
        if cell.cell_type != "code":
            continue
        cell.execution_count = done.execution_count
        cell.outputs = done.outputs
        for output in cell.outputs:
            if "text" in output:
                output["text"] = MACHINE_PATH.sub("", output["text"])
    return source


def first_picture(book: nbformat.NotebookNode) -> bytes:
    """The first PNG among the outputs: the README shows the one of notebook 01."""
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    return base64.b64decode(next(o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", help="such as 01 05; default: all")
    parser.add_argument("--no-execute", action="store_true", help="write them without outputs")
    parser.add_argument(
        "--collect", action="store_true", help="take them from runs/, where `make tutorial` executed them"
    )
    options = parser.parse_args()
    sources = sorted((NOTEBOOK_DIR / "src").glob("[0-9][0-9]_*.py"))
    chosen = [source for source in sources if not options.numbers or source.name[:2] in options.numbers]
    books = {source: from_source(source) for source in chosen}
    output = NOTEBOOK_DIR.parent / "runs"
    failed = 0
    if not options.collect:
        for source, book in books.items():
            nbformat.write(book, NOTEBOOK_DIR / f"{source.stem}.ipynb")
        if options.no_execute:
            return 0
        failed = run(PRESET, [source.name[:2] for source in chosen], {}, output)
    for source, book in books.items():
        executed = nbformat.read(output / "notebooks" / PRESET / f"{source.stem}.ipynb", as_version=4)
        if failed and any(o.output_type == "error" for c in executed.cells for o in c.get("outputs", [])):
            continue
        nbformat.write(clean(executed, book), NOTEBOOK_DIR / f"{source.stem}.ipynb")
        if source.stem.startswith("01"):
            (NOTEBOOK_DIR.parent / "docs" / "adversarial_examples.png").write_bytes(first_picture(book))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
