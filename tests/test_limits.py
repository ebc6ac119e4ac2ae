"""The limits of a page, and what is counted for them."""

import nbformat
import pytest

from course import limits
from course.runner import notebooks

# Notebooks that may exceed a limit, and by name which.
EXCEPTIONS: dict[str, set[str]] = {}


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.name[:2])
def test_a_page_asks_no_more_of_a_reader_than_it_may(path):
    measured = limits.measures(nbformat.read(path, as_version=4))
    above = {name for name, most in limits.LIMITS.items() if measured[name] > most}
    assert above <= EXCEPTIONS.get(path.name[:2], set()), measured
    assert measured["visible lines of code"] >= 60


def test_what_is_counted():
    text = nbformat.v4.new_markdown_cell(
        "# A title of many words that do not count\n\nOne two three.\n- four five\n- six\n\n$$a\\,b\n\nc d e f g$$\n\n"
        "| a | table | of | words | and | more |\n\n**References.** A B C D E F G H I J K"
    )
    code = nbformat.v4.new_code_cell("a = 1\n\n# why\nb = 2")
    code.outputs = [
        nbformat.v4.new_output("display_data", data={"text/markdown": "**Reading the figure.** Now 5 words here."}),
        nbformat.v4.new_output(
            "display_data", data={"text/markdown": "Not a reading, with more words than the other."}
        ),
    ]
    folded = nbformat.v4.new_code_cell("x\n" * 99, metadata={"tags": ["fold", "hide-input"]})
    book = nbformat.v4.new_notebook(cells=[text, code, folded])
    assert limits.measures(book) == {
        "visible lines of code": 3,
        "longest visible cell": 3,
        "longest reading": 4,
        "longest paragraph": 3,
    }
