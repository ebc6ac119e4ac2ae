"""The address of the project: one setting, and all other places agree with it."""

import re
import shutil

import nbformat
import pytest
import yaml

from anchor_utils import models
from course import build, freshness, links, runner

ROOT = links.ROOT
HERE = links.read()
ELSEWHERE = links.Links("some-one/their.course", "v1.2")
TEXT = {".md", ".py", ".toml", ".cff", ".yml", ".yaml", ".ipynb", ".json", ".cfg", ""}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def files(root):
    """Texts of the project, without what git ignores and what lies hidden."""
    ignored = {"build", "dist", "runs", "__pycache__"}
    inside = (p for p in root.rglob("*") if p.is_file() and p.suffix in TEXT)
    parts = ((p, set(p.relative_to(root).parts)) for p in inside)
    return [p for p, names in parts if not names & ignored and not any(n[0] == "." and n != ".github" for n in names)]


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files(root)}


@pytest.fixture
def copy(tmp_path):
    for path in files(ROOT):
        (tmp_path / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    return tmp_path


def test_no_place_says_another_address_or_none():
    """The repository stands only where `make links` writes it, and no placeholder is left for a reader to fill in."""
    written = {path for pattern in links.FILES for path in ROOT.glob(pattern)}
    placeholder = "OWN" + "ER/"
    for path in files(ROOT):
        text = path.read_bytes().decode(errors="replace")
        assert placeholder not in text, path
        assert path in written or f"github.com/{HERE.repository}" not in text, f"{path}: `make links` does not reach it"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name[:2])
def test_badge_and_setup_cell_are_built_from_the_setting(path):
    cells = nbformat.read(path, 4).cells
    colab = f"https://colab.research.google.com/github/{HERE.repository}/blob/{HERE.tag}/notebooks/{path.name}"
    assert cells[0].source.count(f"]({colab})") == 1
    assert f"](https://github.com/{HERE.repository}#the-notebooks)" in cells[0].source
    assert "setup" in cells[1].metadata.tags
    for line in ("from google.colab import drive", 'drive.mount("/content/drive")', '"/content/drive/MyDrive/runs"'):
        assert line in cells[1].source, "how to keep what Colab computes"
    assert f'"install -q git+https://github.com/{HERE.repository}@{HERE.tag}"' in cells[1].source


def test_the_other_places_agree_too():
    address = f"https://github.com/{HERE.repository}"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["repository-code"] == address
    assert f"git clone {address}`" in (ROOT / "README.md").read_text()
    assert models.FILES.startswith(f"{address}/raw/{HERE.tag}/")
    assert f"{address}/issues" == runner.ISSUES
    assert f'Repository = "{address}"' in (ROOT / "pyproject.toml").read_text()


def test_a_move_there_and_back_leaves_every_byte_as_it_was(copy):
    before = contents(copy)
    changed = links.move(ELSEWHERE, copy)
    after = contents(copy)
    assert {path.relative_to(copy).as_posix() for path in changed} == {n for n in before if before[n] != after[n]}
    assert links.read(copy) == ELSEWHERE
    assert not [name for name, content in after.items() if HERE.repository.encode() in content]
    book = nbformat.read(copy / "notebooks" / NOTEBOOKS[0].name, 4)
    assert f"/github/some-one/their.course/blob/v1.2/notebooks/{NOTEBOOKS[0].name})" in book.cells[0].source
    assert '"install -q git+https://github.com/some-one/their.course@v1.2"' in book.cells[1].source
    assert "git clone https://github.com/some-one/their.course`" in (copy / "README.md").read_text()
    assert links.move(ELSEWHERE, copy) == []
    links.move(HERE, copy)
    assert contents(copy) == before


def test_executed_notebooks_stay_the_form_of_their_sources_and_fresh_after_a_move(copy, monkeypatch):
    monkeypatch.setattr(freshness, "ROOT", copy)
    source = copy / "notebooks" / "src" / f"{NOTEBOOKS[0].stem}.py"
    before = freshness.lock(build.from_source(source), "cpu")
    links.move(ELSEWHERE, copy)
    written = build.from_source(source)
    executed = nbformat.read(copy / "notebooks" / NOTEBOOKS[0].name, 4)
    assert [cell.source for cell in executed.cells] == [cell.source for cell in written.cells]
    assert freshness.lock(written, "cpu") == before
    source.write_text(source.read_text().replace(ELSEWHERE.repository, "some-one/another"))
    assert freshness.lock(build.from_source(source), "cpu")["source"] != before["source"]


def test_a_move_that_broke_off_is_ended_by_the_same_call(copy, monkeypatch):
    written, whole = [], links.write_atomically

    def breaks_off(path, write):
        if len(written) == 5:
            raise OSError("the disk is full")
        written.append(path)
        whole(path, write)

    with monkeypatch.context() as patch:
        patch.setattr(links, "write_atomically", breaks_off)
        with pytest.raises(OSError, match="disk is full"):
            links.move(ELSEWHERE, copy)
    assert links.read(copy) == HERE
    links.move(ELSEWHERE, copy)
    assert not [name for name, content in contents(copy).items() if HERE.repository.encode() in content]


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("https://github.com/a/b", "https://github.com/c/d"),
        ("see github.com/a/b.", "see github.com/c/d."),
        ("git+https://github.com/a/b@main", "git+https://github.com/c/d@v1"),
        ("git clone https://github.com/a/b.git", "git clone https://github.com/c/d.git"),
        ("git+https://github.com/a/b.git@main", "git+https://github.com/c/d.git@v1"),
        ("https://github.com/a/b.github", "https://github.com/a/b.github"),
        ("https://github.com/a/b@main-line", "https://github.com/c/d@main-line"),
        ("https://github.com/a/b/blob/main/x#main", "https://github.com/c/d/blob/v1/x#main"),
        ("research.google.com/github/a/b/blob/main/x", "research.google.com/github/c/d/blob/v1/x"),
        ("https://github.com/a/b/issues", "https://github.com/c/d/issues"),
        *(
            (same, same)
            for same in ("https://github.com/a/bc", "github.com/a/b-c", "github.com/a/b.c", "a/b", "x.com/a/b")
        ),
    ],
)
def test_only_the_projects_own_address_moves(text, after):
    assert links.moved(text, links.Links("a/b", "main"), links.Links("c/d", "v1")) == after


MALFORMED = "|name|owner/|/name|a/b/c|-a/b|a-/b|a--b/c|a b/c|a/b c|a/..|a/b.git|ä/b|https://github.com/a/b|a/b\n|a/$(b)"


@pytest.mark.parametrize("repository", [*MALFORMED.split("|"), "a/" + 101 * "b"])
def test_a_malformed_repository_is_refused(repository):
    with pytest.raises(ValueError, match=re.escape(f"repository={repository!r}: allowed is owner/name")):
        links.checked(repository, "main")


@pytest.mark.parametrize("tag", ["", "a b", "-x", "a/b", "..", "a..b", "v1.lock", "v1.", "v1\n", "$(x)"])
def test_a_malformed_tag_is_refused(tag):
    with pytest.raises(ValueError, match=re.escape(f"tag={tag!r}: allowed is a branch or tag")):
        links.checked("a/b", tag)


def test_the_command_refuses_and_then_changes_nothing(copy, monkeypatch, capsys):
    monkeypatch.setattr(links, "ROOT", copy)
    before = contents(copy)
    with pytest.raises(SystemExit) as ended:
        links.main(["https://github.com/some-one/course"])
    assert ended.value.code == 2
    assert "allowed is owner/name" in capsys.readouterr().err
    assert contents(copy) == before


def test_the_command_keeps_the_tag_that_it_is_not_given(copy, monkeypatch, capsys):
    monkeypatch.setattr(links, "ROOT", copy)
    assert links.main(["some-one/course"]) == 0
    assert links.read(copy) == ("some-one/course", HERE.tag)
    assert f"some-one/course at {HERE.tag}" in capsys.readouterr().out
    assert links.main(["some-one/course", "--tag", "v2"]) == 0
    assert links.read(copy) == ("some-one/course", "v2")


@pytest.mark.parametrize(
    "setting", ["", '[tool.anchor_utils]\ntag = "main"', '[tool.anchor_utils]\nrepository = "a"\ntag = "b"']
)
def test_a_broken_setting_is_named(tmp_path, setting):
    (tmp_path / "pyproject.toml").write_text(setting)
    with pytest.raises(ValueError, match=r"tool\.anchor_utils|repository='a'"):
        links.read(tmp_path)
