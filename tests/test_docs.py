"""The documentation's own examples, run as a reader would run them."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from anchor_utils.config import presets
from docs import pages

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_a_method_of_ones_own_trains_is_attacked_and_plotted_beside_another(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / "own_method.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    check = """
labels = [text.get_text() for text in axis.texts]
assert sorted(labels) == ["PGD-AT", "smoothed AT"], labels
assert [line.get_color() for line in axis.lines] == ["#0072B2", "#CC79A7"]
print(*(run.path.name for run in runs.values()))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    result = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, check])],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(re.findall(r"^smoothed AT\s+\d\s+(?:clean|pgd)|^\s+\d\s+pgd", result.stdout, re.MULTILINE)) >= 2
    first, second = result.stdout.split()[-2:]
    assert first.startswith("mnist5k-pgd_at-")
    assert second.startswith("mnist5k-smooth_at-")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {first, second}


def test_the_glossary_is_in_order_and_points_to_where_a_word_is_used():
    entries = pages.glossary((DOCS / "glossary.md").read_text())
    assert len(entries) > 80
    terms = [re.sub("[^a-z0-9 ]", "", entry.terms[0].lower()) for entry in entries]
    assert terms == sorted(set(terms))
    for entry in entries:
        assert (DOCS / entry.link).is_file(), entry.link
        assert entry.text.endswith("."), entry.terms
        (source,) = (DOCS.parent / "notebooks" / "src").glob(f"{entry.number}_*.py")
        text = re.sub(r"[\s#*$\\]+", " ", source.read_text()).lower().replace("_", "-")
        words = re.findall("[a-z-]{4,}|[a-z]+", entry.keys[0].lower())
        where = f"{entry.terms[0]} is not in notebook {entry.number}"
        assert max(words, key=len)[:-1] in text or words[0] in text.split(), where


def test_no_word_of_the_glossary_is_explained_twice():
    """The same words in another order, or with other endings, are one entry with several terms."""
    seen = {}
    for entry in pages.glossary((DOCS / "glossary.md").read_text()):
        for word in {frozenset(_stems(key)) for key in entry.keys}:
            assert word not in seen, f"{entry.terms[0]} and {seen[word]}"
            seen[word] = entry.terms[0]


def _stems(key):
    words = re.findall("[a-z0-9]+", key.lower().replace("'s", ""))
    return [word.removesuffix("s") for word in words if word not in ("a", "and", "of", "the")]


def test_the_first_use_of_a_word_is_found_and_the_longer_word_goes_first():
    text = "Views of adversarial examples: an example, a review, PGD and pgd."
    keys = ["example", "adversarial example", "view", "PGD"]
    found = [(text[start:end], key) for start, end, key in pages.first_uses(text, keys)]
    assert found == [("Views", "view"), ("adversarial examples", "adversarial example"), ("PGD", "PGD")]


def test_every_entry_of_the_glossary_reaches_the_site():
    text = (DOCS / "glossary.md").read_text()
    entries = pages.glossary(text)
    assert len(entries) == len(re.findall(r"^\*\*", text, re.MULTILINE)) > 80
    assert all(term in pages.glossary_directive(text) for entry in entries for term in entry.terms)


def test_the_site_shows_a_notebook_with_its_setup_folded_and_no_pictures_from_other_servers():
    for path in sorted((DOCS.parent / "notebooks").glob("*.ipynb")):
        source = path.read_text()
        book, before = json.loads(pages.for_the_site(source, f"notebooks/{path.stem}")), json.loads(source)
        assert "![" not in "".join(book["cells"][0]["source"])
        assert f"{pages.home()['repository']}/blob/{pages.home()['tag']}" in book["cells"][0]["source"]
        assert [cell.get("outputs") for cell in book["cells"]] == [cell.get("outputs") for cell in before["cells"]]
        (parameters,) = [cell for cell in book["cells"] if "parameters" in cell["metadata"].get("tags", [])]
        assert "hide-input" in parameters["metadata"]["tags"]


def test_tables_of_the_site_are_those_of_the_code():
    head = pages.preset_table().splitlines()[0]
    assert [name for name in presets() if f"`{name}`" in head] == presets()
    assert len(pages.lessons()) == 8
    cover = pages.cover()
    assert {*cover["ordinary"]["named"][1:]} == {*cover["targets"]}
    assert {*cover["robust"]["named"]} == {cover["digit"]}


def test_the_command_for_the_solutions_needs_of_the_test_tools_only_what_it_installs(tmp_path):
    rule = (DOCS.parent / "Makefile").read_text()
    ((tool, module),) = re.findall(
        r"^solutions:.*\n.*pip install .*'(.+?)'\n.* -m (course\.build) --solutions ", rule, re.M
    )
    windows = re.findall(r'pip install "(.+?)"\n.* -m (course\.build) --solutions ', (DOCS / "teaching.md").read_text())
    assert windows == [(tool, module)]
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert tool in extras["dev"]
    lines = [*project["dependencies"], *extras["notebooks"], tool]
    there = {*(Requirement(line).name for line in lines), "packaging", "psutil"}  # Jupyter brings these two
    absent = {Requirement(line).name for line in extras["dev"]} - there
    code = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({[name.replace("-", "_") for name in absent]}))  # to import one of these fails
sys.argv = ["build", "--solutions", {str(tmp_path)!r}, "01"]
runpy.run_module("{module}", run_name="__main__")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=DOCS.parent, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    (written,) = tmp_path.glob("01_*.ipynb")
    assert "raise NotImplementedError" not in written.read_text()


def test_every_module_of_the_library_is_on_the_page_of_the_packages():
    commands = {"__init__", "__main__", "run"}  # only start what stands elsewhere
    modules = {path.stem for path in (DOCS.parent / "anchor_utils").glob("*.py")} - commands
    shown = re.findall(r"^\.\. automodule:: (\S+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert len(shown) == len({*shown})
    assert modules == {name.removeprefix("anchor_utils.") for name in shown if name.startswith("anchor_utils.")}
