"""The course as a site: the executed notebooks and the API. ``make docs``, then open build/site/index.html."""

from anchor_utils import __version__
from course import links

project = "Adversarially robust representation learning"
author = "The course's authors"
release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
# The root of the repository is the source folder, so that the notebooks stay where they are.
root_doc = "docs/index"
include_patterns = ["docs/*.md", "notebooks/*.ipynb"]
html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = {
    "repository_url": f"https://github.com/{links.read().repository}",
    "use_repository_button": True,
    "show_toc_level": 2,
}
nb_execution_mode = "off"  # the outputs that are committed are the product
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "dollarmath"]
suppress_warnings = ["myst.header", "myst.xref_missing"]  # links from notebooks to the README
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
