"""The course as a site: executed notebooks, pages around them, the API. ``make docs``, then serve build/site.

Nothing is executed, and a page asks no other server for anything: MathJax comes out of a package.
"""

import re
import sys
from importlib.metadata import files
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from anchor_utils import __version__  # noqa: E402
from docs import pages  # noqa: E402

project = "Adversarially robust representation learning"
author = "The course's authors"
release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
# The root of the repository is the source folder, so that the notebooks stay where they are.
root_doc = "docs/index"
include_patterns = ["docs/*.md", "notebooks/*.ipynb"]
templates_path = ["templates"]
html_additional_pages = {"index": "landing.html"}

# One file, which draws equations as SVG without fonts of its own.
(mathjax,) = [path for path in files("sphinx-mathjax-offline") or [] if path.name == "tex-svg.js"]
html_static_path = ["static", str(mathjax.locate())]
mathjax_path = "tex-svg.js"
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_favicon = "static/favicon.svg"

html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = {
    "repository_url": f"https://github.com/{pages.home()['repository']}",
    "repository_branch": pages.home()["tag"],
    "use_repository_button": True,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_context = {
    "default_mode": "auto",
    "lessons": pages.lessons(),
    "cover": pages.cover(),
    "home": pages.home(),
}
nb_execution_mode = "off"  # the outputs that are committed are the product
nb_merge_streams = True
nb_render_markdown_format = "myst"  # outputs have tables and equations too, which plain CommonMark shows as text
myst_enable_extensions = ["amsmath", "attrs_inline", "deflist", "dollarmath", "substitution"]
myst_substitutions = {
    "claims": pages.claims(),
    "hyperparameters": pages.hyperparameter_table(),
    "presets": pages.preset_table(),
    "times": pages.time_table(),
}
suppress_warnings = ["myst.header"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"

ENTRIES = pages.glossary((ROOT / "docs/glossary.md").read_text(encoding="utf-8"))


def prepare_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Notebooks and the glossary get the form that the site shows."""
    if docname.startswith("notebooks/"):
        source[0] = pages.for_the_site(source[0], docname)
    elif docname == "docs/glossary":
        source[0] = pages.glossary_directive(source[0])


def link_first_uses(app: Sphinx, doctree: nodes.document) -> None:
    """On a lesson's page the first use of a word of the glossary leads there.

    That is so from the lesson on that the glossary names. Single ordinary words are linked in that lesson only:
    elsewhere they may be meant otherwise.
    """
    docname = app.env.docname
    if not docname.startswith("notebooks/"):
        return
    number = docname.removeprefix("notebooks/")[:2]
    wanted = {
        key: entry
        for entry in ENTRIES
        for key in entry.keys
        if entry.number == number or (entry.number < number and not re.fullmatch("[a-z]+", key))
    }
    for text in [*doctree.findall(nodes.Text)]:
        parent: nodes.Node | None = text.parent
        if not isinstance(parent, nodes.paragraph | nodes.strong | nodes.emphasis):
            continue
        while parent is not None and not isinstance(parent, nodes.reference | nodes.title | addnodes.pending_xref):
            parent = parent.parent
        if parent is None and (found := pages.first_uses(text.astext(), [*wanted])):
            pieces: list[nodes.Node] = []
            end = 0
            for start, stop, key in found:
                if key not in wanted:  # another word for the same, found just before
                    continue
                entry = wanted[key]
                for same in entry.keys:
                    wanted.pop(same, None)
                inline = nodes.inline("", text.astext()[start:stop], classes=["xref", "std", "std-term"])
                link = addnodes.pending_xref(
                    "", inline, refdomain="std", reftype="term", refexplicit=True, refdoc=docname
                )
                link["reftarget"] = entry.terms[0]
                link["refwarn"] = True
                pieces += [nodes.Text(text.astext()[end:start]), link]
                end = stop
            text.parent.replace(text, [*pieces, nodes.Text(text.astext()[end:])])


def keep_bars(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Bars in docstrings, as in w / |w|, are absolute values and no substitutions."""
    for number, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[number] = "``".join(parts)


def save_pictures(app: Sphinx, error: Exception | None) -> None:
    """The pictures on the cards of the landing page."""
    if error is None:
        for lesson in pages.lessons():
            (app.outdir / "_static" / f"lesson-{lesson.number}.png").write_bytes(lesson.picture)


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("source-read", prepare_source)
    app.connect("doctree-read", link_first_uses)
    app.connect("autodoc-process-docstring", keep_bars)
    app.connect("build-finished", save_pictures)
