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

# Writes into the page what came of each figure, its own width and where its right edge lies; and of each slider when it
# is moved to its end: the frames that are then seen, their widths, and the value beside it.
MEASURE = """<script>addEventListener("load", () => {  // by then all images in the page are there
  const measure = (i) => [i.naturalWidth, i.getBoundingClientRect().right];
  const all = [...document.querySelectorAll(".jp-OutputArea-output img")];
  const images = all.filter((i) => !i.closest(".course-slider"));
  const sliders = [...document.querySelectorAll(".course-slider")].map((box) => {
    const input = box.querySelector("input");
    input.value = input.max;
    input.dispatchEvent(new Event("input"));
    const seen = [...box.querySelectorAll("img")].filter((i) => i.getBoundingClientRect().width > 0);
    return [seen.map(measure), box.querySelector("output").textContent, JSON.parse(box.dataset.values).at(-1)];
  });
  const report = document.createElement("pre");
  report.id = "report";
  report.textContent = JSON.stringify([images.map(measure), sliders]);
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
    seen, sliders = json.loads(html.unescape(found[1]))
    assert len(seen) == len(figures) > 0
    assert len(sliders) == (path.name[:2] != "05")
    for frames, value, last in sliders:
        assert len(frames) == 1, "a slider shows one frame"
        assert value == last, "the value beside the slider is that of its place"
        seen += frames
    for number, (width, right) in enumerate(seen, start=1):
        assert width > 0, f"figure {number} is not drawn"
        assert right <= WIDTH, f"figure {number} is wider than the window"
