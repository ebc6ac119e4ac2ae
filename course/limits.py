"""How much a page asks of a reader: ``python -m course.limits`` prints it for every notebook.

The page is the lesson: little code that is not folded, short cells, short paragraphs, figures with a short reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import nbformat
import pandas as pd

from course.build import FOLDED
from course.page import READING, WORDS
from course.runner import notebooks

# Most of each; a notebook also has at least 60 visible lines of code, else it is no notebook.
LIMITS = {"visible lines of code": 250, "longest visible cell": 25, "longest reading": WORDS, "longest paragraph": 90}


def measures(book: nbformat.NotebookNode) -> dict[str, int]:
    """What LIMITS limits, of an executed notebook: lines and words."""
    lines = [len(code_lines(cell)) for cell in book.cells if is_visible_code(cell)]
    readings = [len(text.removeprefix(READING).split()) for text in said(book) if text.startswith(READING)]
    words = [len(text.split()) for text in paragraphs(book)]
    found = (sum(lines), max(lines), max(readings, default=0), max(words))
    return dict(zip(LIMITS, found, strict=True))


def is_visible_code(cell: nbformat.NotebookNode) -> bool:
    return cell.cell_type == "code" and not {*FOLDED.values()} & {*cell.metadata.get("tags", [])}


def code_lines(cell: nbformat.NotebookNode) -> list[str]:
    """The lines of a cell that are not empty."""
    return [line for line in cell.source.splitlines() if line.strip()]


def said(book: nbformat.NotebookNode) -> Iterator[str]:
    """Markdown that code displayed."""
    for cell in book.cells:
        for output in cell.get("outputs", []):
            if text := output.get("data", {}).get("text/markdown"):
                yield text


def paragraphs(book: nbformat.NotebookNode) -> Iterator[str]:
    """Paragraphs and items of lists in the text of a notebook, without headings, tables, equations and references."""
    for cell in book.cells:
        if cell.cell_type != "markdown":
            continue
        text = re.sub(r"\$\$.*?\$\$|```.*?```", "\n\n", cell.source, flags=re.DOTALL)
        for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text):
            block = block.strip().removeprefix("> ")
            if block and not re.match(r"#|\||<|\[!|\*\*References", block):
                yield block


def main() -> None:
    rows = {path.name[:2]: measures(nbformat.read(path, as_version=4)) for path in notebooks()}
    table = pd.DataFrame([*rows.values(), LIMITS], index=[*rows, "at most"])
    print(table.to_string())


if __name__ == "__main__":
    main()
