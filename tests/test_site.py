"""The site in a real browser: what a reader sees, hears and can reach by keyboard, without any other server.

Skipped where the packages of the site, Playwright or a Chromium are missing, unless SITE=required (`make test-site`).
"""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDED = ("sphinx", "myst_nb", "sphinx_book_theme", "playwright", "axe_playwright_python")
missing = [name for name in NEEDED if find_spec(name) is None] + (["chromium"] if CHROMIUM is None else [])
pytestmark = [
    pytest.mark.skipif(bool(missing) and os.environ.get("SITE") != "required", reason=f"missing: {', '.join(missing)}"),
    pytest.mark.slow,
]
LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
WIDTHS = {"phone": 390, "desktop": 1300}


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The site, built as `make docs` does: warnings are errors. Test processes side by side share one build."""
    together = "PYTEST_XDIST_WORKER" in os.environ
    folder = tmp_path_factory.getbasetemp().parent / "site" if together else tmp_path_factory.mktemp("site")
    with FileLock(f"{folder}.lock"):
        if not (folder / "built").exists():
            build(folder)
            (folder / "built").touch()
    return folder / "html"


def build(folder):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", "docs"]
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # no network
    result = subprocess.run(
        [*command, "-d", str(folder / "doctrees"), ".", str(folder / "html")],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.fixture(scope="session")
def address(built):
    """Where a server of this process shows the site."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(built))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")  # not of the session: Playwright runs one at a time, and other modules have their own
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture
def visit(browser, address):
    """Opens a page of the site; at the end of a test no page may have complained or asked another server."""
    wrong, contexts = [], []

    def requested(request):
        if not request.url.startswith((address, "data:", "blob:", "about:")):
            wrong.append(f"asked {request.url}")

    def answered(response):
        if response.status >= 400:
            wrong.append(f"{response.status} {response.url}")

    def visit(path, width=WIDTHS["desktop"], scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(120_000)  # the machine may be busy with other tests
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("requestfailed", lambda request: wrong.append(f"failed {request.url}"))
        page.on("request", requested)
        page.on("response", answered)
        page.goto(urljoin(address, path), wait_until="load")
        page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not wrong, "\n".join(wrong)


def documents(built):
    """Addresses of the pages that somebody wrote: not the indices, nor the source of modules."""
    written = [path.relative_to(built).as_posix() for path in sorted(built.rglob("*.html"))]
    return [
        page for page in written if page.startswith(("docs/", "notebooks/")) or page in ("index.html", "search.html")
    ]


def test_every_page_loads_with_its_pictures_and_equations(built, visit):
    pages = documents(built)
    assert {"index.html", "docs/cheatsheet.html", "docs/teaching.html", *(f"notebooks/{n}.html" for n in LESSONS)} <= {
        *pages
    }
    equations = 0
    for name in pages:
        page = visit(name)
        # Pictures that wait until they come into view, and those of the other colour scheme, are fetched too.
        page.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager' })")
        page.wait_for_function("[...document.images].every(i => i.complete)")
        broken = page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src.slice(0, 200))")
        assert not broken, f"{name}: {broken}"
        # A picture inside a link that says the same in words may have an empty text.
        silent = page.evaluate(
            "[...document.images].filter(i => !i.hasAttribute('alt'))"
            ".concat([...document.images].filter(i => !i.alt.trim() && !i.closest('a')?.innerText.trim()))"
            ".map(i => i.src.slice(0, 200))"
        )
        assert not silent, f"{name}: pictures without a description: {silent}"
        raw = page.evaluate("document.querySelectorAll('.math:not(:has(mjx-container))').length")
        assert raw == 0, f"{name}: {raw} equations are not rendered"
        assert page.locator("mjx-merror, [data-mjx-error]").count() == 0, (
            f"{name}: an equation that MathJax cannot read"
        )
        text = page.locator("main").evaluate("main => main.innerText")
        assert not [raw for raw in ("$$", "\\frac", "|:-") if raw in text], name
        equations += page.locator("mjx-container").count()
    assert equations > 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_pages_fit_the_window(built, visit, width, scheme):
    few = ["index.html", "docs/cheatsheet.html", "docs/teaching.html", f"notebooks/{LESSONS[0]}.html"]
    for name in documents(built) if (width, scheme) == (WIDTHS["phone"], "light") else few:
        page = visit(name, width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        shown = page.locator(".cover img:visible")
        if name == "index.html":
            assert [scheme in source for source in shown.evaluate_all("all => all.map(i => i.src)")] == [True, True]
        page.context.close()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_equations_begin_in_sight_and_scroll_within_themselves(visit, width):
    seen = 0
    for name in LESSONS:
        page = visit(f"notebooks/{name}.html", width)
        boxes = page.locator("mjx-container[display='true']").evaluate_all(
            """all => all.map(box => {
                const of = (element) => element.getBoundingClientRect(), signs = box.querySelector("svg");
                const [own, around, first] = [of(box), of(box.parentElement), of(signs).left];
                box.scrollLeft = 10000;
                const last = of(signs).right;
                return [own.left - around.left, around.right - own.right, first - own.left, own.right - last];
            })"""
        )
        for box in boxes:
            assert min(box) >= -1, f"{name}: {box}, an equation is cut off"
        seen += len(boxes)
        page.context.close()
    assert seen > 40


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_explorer_among_the_pages_shows_what_is_chosen_beside_the_map(visit, width):
    page = visit("docs/explorer.html", width)
    page.locator("iframe").scroll_into_view_if_needed()
    frame = page.frame_locator("iframe")
    mark = frame.locator("#map g[role=button]").first
    mark.wait_for()
    before = frame.locator("#card h2").inner_text()
    mark.dispatch_event("focus")
    frame.locator("#card h2", has_text="Test image 0").wait_for()
    assert before != frame.locator("#card h2").inner_text()
    inside = page.locator("iframe").evaluate("f => [f.contentWindow.innerWidth, f.contentWindow.innerHeight]")
    for what in (
        "#card .pair .tile >> nth=0",
        "#card .pair .tile >> nth=1",
        "#card ol .tile >> nth=2",
        "#card ol b >> nth=-1",
    ):
        box = frame.locator(what).evaluate("e => (b => [b.left, b.top, b.right, b.bottom])(e.getBoundingClientRect())")
        assert min(box) >= 0, what
        assert box[2] <= inside[0], what
        assert box[3] <= inside[1], what
    sizes = "e => (b => [b.left, b.top, b.right, b.bottom])(e.getBoundingClientRect())"
    around, card = (frame.locator(what).evaluate(sizes) for what in ("#map", "#card"))
    assert card[0] >= around[2] or card[1] >= around[3], "the card covers the map"
    assert card[0] >= around[2] or card[3] - around[1] < 700, "both are seen at once on a phone"


def test_the_explorer_follows_the_colours_of_the_site(visit):
    page = visit("docs/explorer.html", scheme="light")
    page.locator("iframe").scroll_into_view_if_needed()
    body = page.frame_locator("iframe").locator("body")
    colours = []
    for theme in ("light", "dark", "light"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        page.frame_locator("iframe").locator(f"html[data-theme={theme}]").wait_for()
        colours.append(body.evaluate("b => getComputedStyle(b).backgroundColor"))
    assert colours[0] == colours[2] == "rgb(255, 255, 255)"
    assert colours[1] != colours[0]


def test_the_cheat_sheet_prints_on_two_pages(visit):
    page = visit("docs/cheatsheet.html")
    printed = page.pdf(format="A4", prefer_css_page_size=True)
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 2


def test_links_inside_the_site_resolve(built):
    from bs4 import BeautifulSoup

    soups = {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in built.rglob("*.html")}
    ids = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in soups.items()}
    broken, checked = [], 0
    for path, soup in soups.items():
        if "_static" in path.parts:
            continue
        # What MyST cannot resolve looks like text; only a warning, which a setting may hide, says that it was a link.
        unlinked = [str(tag) for tag in soup.select(".xref.myst") if not tag.find_parent("a", href=True)]
        broken += [f"{path.relative_to(built)}: {tag}" for tag in unlinked]
        for link in soup.find_all("a", href=True):
            target, fragment = urldefrag(link["href"])
            if "://" in target or target.startswith("mailto:"):
                continue
            file = (path.parent / unquote(target)).resolve() if target else path
            checked += 1
            known = file.is_file() and (not fragment or file.suffix != ".html" or unquote(fragment) in ids[file])
            if not known and fragment != "":
                known = fragment == "main-content" and file == path
            if not known:
                broken.append(f"{path.relative_to(built)}: {link['href']}")
    assert checked > 1000
    assert not broken, "\n".join(sorted({*broken})[:40])


def test_solutions_open(visit):
    for name in LESSONS:
        page = visit(f"notebooks/{name}.html")
        solutions = page.locator("details", has=page.locator("summary", has_text="Solution"))
        assert solutions.count() > 0, name
        for solution in solutions.all():
            content = solution.locator("> *:not(summary)").first
            assert not content.is_visible()
            solution.locator("summary").focus()
            page.keyboard.press("Enter")
            assert content.is_visible()
            assert content.bounding_box()["height"] > 10


def test_sliders_move_without_a_kernel(visit):
    page = visit(f"notebooks/{LESSONS[0]}.html")
    slider = page.locator(".course-slider").first
    before = slider.locator("img:visible").get_attribute("src")
    slider.locator("input").focus()
    page.keyboard.press("End")
    assert slider.locator("img:visible").count() == 1
    assert slider.locator("img:visible").get_attribute("src") != before


def test_a_figure_leads_to_itself_at_its_own_size(visit, built):
    page = visit(f"notebooks/{LESSONS[0]}.html", WIDTHS["phone"])
    figures = page.locator("a.figure").evaluate_all("all => all.map(a => [a.href, a.querySelector('img').alt])")
    assert len(figures) > 5
    for address, alt in figures:
        assert (built / "_images" / address.rsplit("/", 1)[-1]).is_file()
        assert alt.strip()
    assert page.locator(".course-slider a.figure").count() == 0


def test_search_finds_hard_positive(visit):
    page = visit("search.html?q=hard+positive")
    for wanted in ("04_hard_positive_mining", "glossary"):  # results come one by one
        page.locator(f"#search-results li a[href*='{wanted}']").first.wait_for()


def test_first_uses_lead_to_the_glossary(visit, address):
    page = visit("notebooks/01_adversarial_examples.html")
    links = page.locator("a[href*='glossary.html#term-']").evaluate_all("all => all.map(a => a.href)")
    assert len(links) == len({*links}) > 5, "each word once"
    page.goto(links[0])
    assert page.locator("dt:target").count() == 1


def test_launch_buttons_name_the_repository(visit):
    sys.path.insert(0, str(ROOT))
    from docs import pages

    home = pages.home()
    for name in LESSONS:
        page = visit(f"notebooks/{name}.html")
        colab = page.locator("a.launch", has_text="Open in Colab").get_attribute("href")
        assert colab == (
            f"https://colab.research.google.com/github/{home['repository']}/blob/{home['tag']}/notebooks/{name}.ipynb"
        )
        assert page.locator("a.download[href$='.ipynb']").count() >= 1


def test_keyboard_reaches_the_content(visit):
    for name in ("index.html", f"notebooks/{LESSONS[0]}.html"):
        page = visit(name)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('href')") == "#main-content"
        page.wait_for_timeout(600)  # it slides into the page
        box = page.evaluate("(b => [b.top, b.bottom])(document.activeElement.getBoundingClientRect())")
        assert 0 <= box[0] < box[1] <= 900, "the link is seen while it has the focus"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
    page = visit("index.html")
    reached = []
    for _ in range(80):
        page.keyboard.press("Tab")
        seen = page.evaluate(
            "(e => [e.getAttribute('href') || e.tagName, getComputedStyle(e).outlineStyle])(document.activeElement)"
        )
        reached.append(seen[0])
        assert seen[1] != "none" or seen[0] in ("BODY", "HTML"), f"{seen[0]}: no visible focus"
    assert {f"notebooks/{name}.html" for name in LESSONS} <= {*reached}
    assert {"docs/teaching.html", "docs/cheatsheet.html", "docs/reproduce.html"} <= {*reached}


def faults_in(page, axe):
    """What axe calls serious or critical, with the first places of each."""
    found = axe.run(page, options={"preload": False}).response["violations"]
    return [
        f"{violation['id']} ({len(violation['nodes'])}): {[node['html'][:160] for node in violation['nodes'][:3]]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(built, visit, scheme):
    from axe_playwright_python.sync_playwright import Axe

    axe, faults = Axe(), []
    names = (
        documents(built)
        if scheme == "light"
        else ["index.html", "docs/cheatsheet.html", f"notebooks/{LESSONS[0]}.html"]
    )
    for name in names:
        page = visit(name, scheme=scheme)
        faults += [f"{name}: {fault}" for fault in faults_in(page, axe)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault_in_the_explorer(visit, scheme):
    """The page itself; axe does not look into the frame that shows it among the others."""
    from axe_playwright_python.sync_playwright import Axe

    page = visit("_static/explorer.html", scheme=scheme)
    page.wait_for_selector("#map circle, #map path")
    assert faults_in(page, Axe()) == []
