"""A lesson in a real JupyterLab in a real browser, started as `make lab` starts it."""

import base64
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright")

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LESSON = "01_adversarial_examples.ipynb"
SECONDS = 1000  # in milliseconds, which Playwright counts in
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # else the page holds only the cells in sight
    "apputils-extension/notification": {"fetchNews": "false"},
}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")]


def commands(target):
    """What a target of the Makefile does after its prerequisites, with this interpreter."""
    (recipe,) = re.findall(rf"^{target}: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    lines = [line.strip().replace("$(BIN)/python", shlex.quote(sys.executable)) for line in recipe.splitlines()]
    assert not [line for line in lines if "$(" in line]
    return lines


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A copy of the notebooks in a folder of its own, the first with the preset smoke, and JupyterLab over it."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns("src", ".*"))
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    for name, setting in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(setting))
    own["JUPYTERLAB_SETTINGS_DIR"] = str(folder / "settings")
    environment = {**os.environ, **own, "PYTHONPATH": str(ROOT)}
    (start,) = commands("lab")
    options = [*shlex.split(start), "--no-browser", "--port=0", "--allow-root"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(options, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            yield folder, server, address(folder, server)
        finally:
            for child in [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]:
                child.kill()
            server.wait()


def address(folder, server):
    """Where the server answers, and its token."""
    for _ in range(600):
        for file in (folder / "runtime").glob("jpserver-*.json"):
            try:
                said = json.loads(file.read_text())
            except ValueError:  # half of it is written
                continue
            return said["url"], said["token"]
        assert server.poll() is None, (folder / "log").read_text()
        time.sleep(0.1)
    raise TimeoutError((folder / "log").read_text())


@pytest.fixture
def open_lesson(lab):
    """Opens a notebook in a window of its own."""
    *_, (url, token) = lab
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:

            def opened(name):
                page = browser.new_page(viewport={"width": 1280, "height": 1000})
                page.set_default_timeout(120 * SECONDS)
                page.goto(f"{url}lab/tree/{name}?token={token}&reset")
                page.wait_for_selector(".jp-NotebookPanel:visible .jp-Cell")
                page.wait_for_selector("#jupyterlab-splash", state="detached")
                return page

            yield opened
        finally:
            browser.close()


def test_a_lesson_as_committed_is_shown_as_it_is_meant(lab, open_lesson):
    """Trusted: figures and sliders without a kernel; what is not the lesson's own code stands folded."""
    book = nbformat.read(lab[0] / "notebooks" / LESSON, 4)
    page = open_lesson(LESSON)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    page.wait_for_function(f"document.querySelectorAll('.jp-CodeCell').length == {len(code)}")
    folded = sum(bool(cell.metadata.get("jupyter", {}).get("source_hidden")) for cell in code)
    assert (
        page.locator(".jp-CodeCell .jp-Cell-inputArea.lm-mod-hidden, .jp-CodeCell .jp-InputPlaceholder").count()
        >= folded
        > 5
    )
    pictures = [o for cell in code for o in cell.outputs if {"image/png", "image/svg+xml"} & o.get("data", {}).keys()]
    page.wait_for_function(
        f"""() => {{
            const images = [...document.querySelectorAll('.jp-OutputArea-output img')];
            return images.filter((i) => !i.closest('.course-slider')).length == {len(pictures)}
                && images.every((i) => i.complete && i.naturalWidth > 0);
        }}"""
    )
    slider = page.locator(".course-slider").first
    seen = slider.locator("img:visible")
    before = seen.get_attribute("src"), slider.locator("output").inner_text()
    slider.locator("input").press("ArrowRight")
    after = seen.get_attribute("src"), slider.locator("output").inner_text()
    assert before[0] != after[0]
    assert before[1] != after[1]
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "lesson.png", timeout=60 * SECONDS)


def wait_for_kernel(page, lab, name):
    """Until the notebook's kernel is connected to the page, and has had nothing to do for two seconds."""
    *_, (url, token) = lab
    deadline, idle = time.monotonic() + 120, 0
    while idle < 4:
        sessions = page.request.get(f"{url}api/sessions?token={token}").json()
        kernels = [one["kernel"] for one in sessions if one["path"] == name]
        rests = any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in kernels)
        idle = idle + 1 if rests else 0
        assert time.monotonic() < deadline, f"not idle after two minutes: {sessions}"
        page.wait_for_timeout(SECONDS / 2)


def run_all(page, lab, name):
    """Run All Cells, once the page speaks to its kernel: JupyterLab drops a command that comes earlier."""
    wait_for_kernel(page, lab, name)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Run All Cells")).click()


def playground(page):
    """The figure under the sliders: its address, and its pixels (height, width, 3)."""
    source = page.locator(".widget-interact .jp-OutputArea-output img").first.get_attribute("src")
    kind, _, content = source.partition(",")
    assert kind == "data:image/png;base64"
    return source, np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"), dtype=int)


def test_all_cells_run_and_the_playground_moves_picture_and_prediction(lab, open_lesson):
    folder, server, _ = lab
    path = folder / "notebooks" / f"smoke-{LESSON}"
    book = nbformat.read(folder / "notebooks" / LESSON, 4)
    (parameters,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = parameters.source.replace('preset = "cpu"', 'preset = "smoke"')
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(book, path)

    page = open_lesson(path.name)
    run_all(page, lab, path.name)
    result = folder / "runs" / "results" / "smoke" / "01.json"  # the last cell writes it
    deadline = time.monotonic() + 300
    while not result.exists():
        assert time.monotonic() < deadline, f"not at its end: {page.locator('.jp-InputPrompt').all_inner_texts()}"
        page.wait_for_timeout(SECONDS / 2)
    kernels = [
        one for one in psutil.Process(server.pid).children(recursive=True) if "ipykernel_launcher" in one.cmdline()
    ]
    assert {Path(one.cmdline()[0]).parent for one in kernels} == {Path(sys.executable).parent}, "another Python"
    assert {Path(one.cwd()) for one in kernels} == {folder / "notebooks"}
    for kind in ("stderr", "error"):
        assert page.locator(f"[data-mime-type='application/vnd.jupyter.{kind}']").count() == 0

    row = page.locator(".widget-hslider", has=page.locator(".widget-label", has_text=re.compile("^epsilon$"))).first
    handle = row.locator(".noUi-handle")
    handle.press("Home")
    row.get_by_text(re.compile(r"^0\.000$")).wait_for()
    wait_for_kernel(page, lab, path.name)  # the last of several answers of the kernel
    source, weak = playground(page)
    handle.press("End")
    page.wait_for_function(
        "(old) => [...document.querySelectorAll('.widget-interact img')].some((i) => i.src != old)", arg=source
    )
    wait_for_kernel(page, lab, path.name)
    _, strong = playground(page)
    assert weak.shape[0] > 100
    parts = {"picture": (0.3, 0.85, 0.24, 0.36), "prediction": (0.0, 0.2, 0.2, 0.39), "chances": (0.25, 0.8, 0.68, 1.0)}
    for name, (top, bottom, left, right) in parts.items():
        crops = [
            image[
                int(top * len(image)) : int(bottom * len(image)),
                int(left * image.shape[1]) : int(right * image.shape[1]),
            ]
            for image in (weak, strong)
        ]
        smallest = np.minimum(*[np.array(crop.shape) for crop in crops])
        a, b = (crop[: smallest[0], : smallest[1]] for crop in crops)
        assert (np.abs(a - b) > 60).any(), f"the {name} did not change"
    if where := os.environ.get("SCREENSHOTS"):
        row.scroll_into_view_if_needed()
        page.locator(".widget-interact").first.screenshot(path=Path(where) / "playground.png")
