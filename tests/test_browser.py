"""The committed notebooks as a browser shows them. Skipped where there is no Chromium."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTH = 1100  # pixels: JupyterLab's notebook on a laptop

# Writes into the page what came of each figure: its own width, and where its right edge lies.
MEASURE = """<script>addEventListener("load", () => {  // by then all images in the page are there
  const images = [...document.querySelectorAll(".jp-OutputArea-output img")];
  const report = document.createElement("pre");
  report.id = "report";
  report.textContent = JSON.stringify(images.map((i) => [i.naturalWidth, i.getBoundingClientRect().right]));
  document.body.append(report);
});</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name[:2])
def test_every_figure_is_drawn_within_the_window(path, tmp_path):
    book = nbformat.read(path, 4)
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    figures = [o for o in outputs if {"image/png", "image/svg+xml"} & o.get("data", {}).keys()]
    page, _ = HTMLExporter().from_notebook_node(book)
    page = re.sub(r'src="https?://[^"]*"', "", page)  # badges and MathJax: nothing is fetched in a test
    (tmp_path / "page.html").write_text(page.replace("</head>", MEASURE + "</head>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={WIDTH},900"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"]
    shown = subprocess.run(
        [*command, str(tmp_path / "page.html")], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'<pre id="report">(.*?)</pre>', shown.stdout, re.DOTALL)
    assert found, "the page did not finish loading"
    seen = json.loads(html.unescape(found[1]))
    assert len(seen) == len(figures) > 0
    for number, (width, right) in enumerate(seen, start=1):
        assert width > 0, f"figure {number} is not drawn"
        assert right <= WIDTH, f"figure {number} is wider than the window"
