"""Write the notebooks from their sources in src/, executed: ``python -m course.build [01 05 ...]``."""

import argparse
import base64
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from anchor_utils.config import unknown_name
from course.freshness import lock
from course.runner import NOTEBOOK_DIR, run

PRESET = "cpu"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# Where the course lies on the machine that ran it does not belong in a notebook.
MACHINE_PATH = re.compile(r"(/[\w.+-]+)+/(?=(notebooks|anchor_utils|runs|data|site-packages)/)")
# Code that is not the lesson's own is folded, on the site, in Jupyter and on Colab, which each look elsewhere for that.
FOLDED = {"fold": "hide-input", "check": "hide-cell", "setup": "hide-cell"}
SOLUTION = re.compile(r"^( *)# BEGIN SOLUTION\n(.*?)^ *# END SOLUTION\n?", re.DOTALL | re.MULTILINE)


def from_source(source: Path, exercises: str = "stub") -> nbformat.NotebookNode:
    """The notebook of a percent script, without outputs, with cell ids that do not change from build to build.

    A cell with a tag of FOLDED shows only its title, in a first line ``# @title ...``, until it is unfolded; with
    "fold" its output is shown. A cell with the tag "exercise" holds its answer between ``# BEGIN SOLUTION`` and
    ``# END SOLUTION``; the text in the cell with the tag "solution" explains it. `exercises` is "stub" for learners,
    who get the answer in a fold below; "solution" for the notebook with all answers in place; "both" for each check
    first after the stub, then after the answer, which is how the tests run it.
    """
    book = jupytext.read(source, fmt="py:percent")
    cells = list(_variant(book.cells, exercises))
    for index, cell in enumerate(cells):
        cell["id"] = f"cell-{index:02d}"
        cell.metadata = _metadata(cell)
    book.cells = cells
    book.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    book.nbformat, book.nbformat_minor = 4, 5
    return book


def _metadata(cell: nbformat.NotebookNode) -> dict[str, Any]:
    """The tags, and what folds the cell.

    Raises:
        ValueError: a folded cell without a title.
    """
    tags = cell.metadata.get("tags", [])
    hide = [kind for tag, kind in FOLDED.items() if tag in tags]
    if not hide:
        return {"tags": tags} if tags else {}
    if not cell.source.startswith("# @title "):
        raise ValueError(f"a folded cell says what is in it: its first line must be `# @title ...`\n{cell.source}")
    return {"tags": [*tags, *hide], "jupyter": {"source_hidden": True}, "cellView": "form"}


def _variant(cells: list[nbformat.NotebookNode], exercises: str) -> Iterator[nbformat.NotebookNode]:
    solved = check = None
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        if "exercise" in tags:
            stub, answer = cell.copy(), cell.copy()
            stub.source = SOLUTION.sub(r"\1raise NotImplementedError  # your answer", cell.source)
            answer.source = solved = SOLUTION.sub(r"\2", cell.source).rstrip()
            if stub.source == answer.source:
                raise ValueError(f"no solution is marked in the exercise\n{cell.source}")
            yield answer if exercises == "solution" else stub
        elif "check" in tags:
            check = cell
            yield cell
        elif "solution" in tags:
            if solved is None or check is None:
                raise ValueError(f"no exercise and check before the solution\n{cell.source}")
            if exercises == "both":
                yield nbformat.v4.new_code_cell(solved)
                yield nbformat.v4.new_code_cell(check.source)
            parts = (
                "<details>\n<summary><b>Solution</b></summary>",
                f"```python\n{solved}\n```",
                cell.source,
                "</details>",
            )
            yield nbformat.v4.new_markdown_cell("\n\n".join(parts), metadata={"tags": ["solution"]})
            solved = check = None
        else:
            yield cell
    if solved is not None:
        raise ValueError(f"no cell with the tag 'solution' after the exercise\n{solved}")


def alt_text(output: nbformat.NotebookNode) -> str:
    """The description of a figure; empty for other outputs."""
    kinds = [kind for kind in ("image/png", "image/svg+xml") if kind in output.get("data", {})]
    return output.metadata[kinds[0]]["alt"] if kinds else ""


def clean(executed: nbformat.NotebookNode, source: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The source notebook with the outputs of the executed one and nothing of the machine that ran it."""
    if executed.metadata.get("lock") != lock(source, PRESET):
        raise ValueError("it was executed with other code: run the notebooks again")
    source.metadata["lock"] = executed.metadata["lock"]
    # Papermill's own cell, which names the folder of the networks, is left out and not counted.
    cells = [c for c in executed.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    code = [pair for pair in zip(source.cells, cells, strict=True) if pair[0].cell_type == "code"]
    for number, (cell, done) in enumerate(code, start=1):
        cell.execution_count = number
        # A widget without its kernel is an empty box; its static twin is in the next cell.
        cell.outputs = [o for o in done.outputs if "application/vnd.jupyter.widget-view+json" not in o.get("data", {})]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
            if "text" in output:
                output["text"] = MACHINE_PATH.sub("", output["text"])
        if found := [alt_text(output) for output in cell.outputs if alt_text(output)]:
            cell.metadata["mystnb"] = {"image": {"alt": " ".join(found)}}  # where the site looks for it
    return source


def readme_picture(book: nbformat.NotebookNode) -> bytes:
    """The figure of notebook 01 that the first page of the site shows, found by its alt text."""
    pictures = [o for cell in book.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    (chosen,) = [o for o in pictures if alt_text(o).startswith("Rows of the same images")]
    return base64.b64decode(chosen.data["image/png"])


def build(sources: list[Path]) -> int:
    """Execute notebooks and write those that raised no error, with their outputs; returns how many failed.

    Raises:
        ValueError: an import in a notebook, or in what it imports, that cannot be followed.
    """
    books = {source: from_source(source) for source in sources}
    for book in books.values():
        lock(book, PRESET)  # what cannot be proved fresh is refused before hours of work
    for source, book in books.items():
        nbformat.write(book, NOTEBOOK_DIR / f"{source.stem}.ipynb")
    # Networks are kept between builds, but never across a change of the package.
    everything = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("from anchor_utils import training")])
    output = NOTEBOOK_DIR.parent / "build" / f"notebooks-{lock(everything, PRESET)['package']}"
    failed = run(PRESET, [source.name[:2] for source in sources], {}, output)
    for source, book in books.items():
        executed = nbformat.read(output / "notebooks" / PRESET / f"{source.stem}.ipynb", as_version=4)
        if "lock" not in executed.metadata:  # it raised an error
            continue
        nbformat.write(clean(executed, book), NOTEBOOK_DIR / f"{source.stem}.ipynb")
        if source.stem.startswith("01"):
            (NOTEBOOK_DIR.parent / "docs" / "adversarial_examples.png").write_bytes(readme_picture(book))
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m course.build", description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", help="such as 01 05; default: all")
    parser.add_argument("--no-execute", action="store_true", help="write them without outputs")
    parser.add_argument("--solutions", type=Path, metavar="DIR", help="write them with all exercises solved, into DIR")
    options = parser.parse_args()
    sources = sorted((NOTEBOOK_DIR / "src").glob("[0-9][0-9]_*.py"))
    known = {source.name[:2]: source for source in sources}  # not the notebooks: a new one is built from its source
    for number in options.numbers:
        if number.zfill(2) not in known:
            parser.error(unknown_name("notebook", number, list(known)))
    wanted = {number.zfill(2) for number in options.numbers} or known.keys()
    chosen = [source for number, source in known.items() if number in wanted]
    if not options.solutions and not options.no_execute:
        return 1 if build(chosen) else 0
    folder = options.solutions or NOTEBOOK_DIR
    folder.mkdir(parents=True, exist_ok=True)
    for source in chosen:
        book = from_source(source, "solution" if options.solutions else "stub")
        nbformat.write(book, folder / f"{source.stem}.ipynb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
