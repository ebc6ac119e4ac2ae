"""How notebooks are built from their sources, exercises and outputs, and how the bands of their numbers are written."""

import json

import nbformat
import pytest
import yaml

from course import bands, build, freshness

SOURCE = '''# %% [markdown]
# ### Exercise 1 · Double

# %% tags=["exercise"]
def double(x):
    """Twice x."""
    # BEGIN SOLUTION
    y = x
    return x + y
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 1
assert double(2) == 4

# %% [markdown] tags=["solution"]
# Adding is enough.

# %%
print("after")
'''


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "01_double.py"
    path.write_text(SOURCE)
    return path


def code(book):
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


def test_learners_get_a_stub_and_the_answer_in_a_fold(source):
    book = build.from_source(source)
    stub, check, after = code(book)
    assert stub == 'def double(x):\n    """Twice x."""\n    raise NotImplementedError  # your answer'
    assert check == "# @title Check of exercise 1\nassert double(2) == 4"
    assert after == 'print("after")'
    fold = book.cells[3].source
    assert fold.startswith("<details>")
    assert fold.endswith("</details>")
    assert "    return x + y\n```" in fold
    assert "Adding is enough." in fold
    assert "SOLUTION" not in nbformat.writes(book)
    nbformat.validate(book)


def test_teachers_get_the_answer_in_place(source):
    answer, *_ = code(build.from_source(source, "solution"))
    assert answer.endswith("    y = x\n    return x + y")
    namespace = {}
    exec(answer, namespace)
    assert namespace["double"](3) == 6


def test_tests_get_first_the_stub_and_then_the_answer_each_with_its_check(source):
    stub, check, answer, again, _ = code(build.from_source(source, "both"))
    assert "NotImplementedError" in stub
    assert "return x + y" in answer
    assert check == again
    ids = [cell.id for cell in build.from_source(source, "both").cells]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    # BEGIN SOLUTION\n", "", "no solution is marked"),
        (' tags=["solution"]', "", "no cell with the tag 'solution'"),
        ('tags=["check"]', "", "no exercise and check before"),
    ],
)
def test_an_incomplete_exercise_is_refused(source, old, new, message):
    source.write_text(SOURCE.replace(old, new))
    with pytest.raises(ValueError, match=message):
        build.from_source(source)


def test_what_is_not_the_lessons_own_is_folded_wherever_it_is_opened(source):
    """On the site by a tag, in Jupyter by its own metadata, on Colab as a form with a title."""
    source.write_text(SOURCE + '\n\n# %% tags=["fold"]\n# @title A figure\nprint("drawn")\n')
    stub, check, after, drawn = (c for c in build.from_source(source).cells if c.cell_type == "code")
    for cell, tag in ((check, "hide-cell"), (drawn, "hide-input")):
        assert tag in cell.metadata["tags"]
        assert cell.metadata["jupyter"] == {"source_hidden": True}
        assert cell.metadata["cellView"] == "form"
        assert cell.source.startswith("# @title ")
    assert not stub.metadata.get("jupyter")
    assert not after.metadata
    source.write_text(SOURCE.replace("# @title Check of exercise 1\n", ""))
    with pytest.raises(ValueError, match="its first line must be `# @title"):
        build.from_source(source)


def executed(book, preset="cpu"):
    done = nbformat.from_dict(book.copy())
    done.cells = [nbformat.from_dict(cell.copy()) for cell in book.cells]
    for number, cell in enumerate([c for c in done.cells if c.cell_type == "code"], start=2):
        cell.execution_count = number
        cell.outputs = [nbformat.v4.new_output("stream", text="saved /home/me/course/runs/x.json\n")]
    parameters = nbformat.v4.new_code_cell(
        "runs_dir = 1", metadata={"tags": ["injected-parameters"]}, execution_count=1
    )
    done.cells.insert(1, parameters)
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "interactive()"}
    done.cells[-1].outputs.append(nbformat.v4.new_output("display_data", data=widget))
    done.metadata["widgets"] = {"state": 1}
    done.metadata["lock"] = freshness.lock(done, preset)
    return done


def test_outputs_are_taken_and_the_machine_is_left_out(source):
    book = build.clean(executed(build.from_source(source)), build.from_source(source))
    assert [c.execution_count for c in book.cells if c.cell_type == "code"] == [1, 2, 3]
    assert {o.text for c in book.cells for o in c.get("outputs", [])} == {"saved runs/x.json\n"}, "path or widget"
    assert set(book.metadata) == {"kernelspec", "language_info", "lock"}


def test_outputs_of_other_code_are_refused(source):
    done = executed(build.from_source(source))
    source.write_text(SOURCE.replace("after", "later"))
    with pytest.raises(ValueError, match="run the notebooks again"):
        build.clean(done, build.from_source(source))


def test_an_unknown_number_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["build.py", "--solutions", "nowhere", "11"])
    with pytest.raises(SystemExit):
        build.main()
    assert "unknown notebook '11'" in capsys.readouterr().err


def test_what_cannot_be_proved_fresh_is_not_executed(tmp_path, monkeypatch):
    (tmp_path / "01_magic.py").write_text(SOURCE.replace('print("after")', "from anchor_utils import *"))
    monkeypatch.setattr(build, "NOTEBOOK_DIR", tmp_path)
    monkeypatch.setattr(build, "run", lambda *_: pytest.fail("a notebook was started"))
    with pytest.raises(ValueError, match=r"from anchor_utils import \*: which names"):
        build.build([tmp_path / "01_magic.py"])
    assert not list(tmp_path.glob("*.ipynb"))


def command(main, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["command", *map(str, arguments)])
    return main()


def test_notebooks_are_written_without_outputs_or_with_all_answers(tmp_path, monkeypatch):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "01_double.py").write_text(SOURCE)
    monkeypatch.setattr(build, "NOTEBOOK_DIR", tmp_path)
    monkeypatch.setattr(build, "run", lambda *_: pytest.fail("a notebook was started"))
    assert command(build.main, monkeypatch, "--no-execute") == 0
    assert "NotImplementedError" in (tmp_path / "01_double.ipynb").read_text()
    assert command(build.main, monkeypatch, "1", "--solutions", tmp_path / "solved") == 0
    assert "NotImplementedError" not in (tmp_path / "solved" / "01_double.ipynb").read_text()


# Bands


@pytest.mark.parametrize(
    ("name", "values", "band"),
    [
        ("pgd_accuracy", [0.5, 0.6], [0.37, 0.73]),
        ("pgd_accuracy", [0.0, 0.95], [0.0, 1]),
        ("loss", [0.9, 1.0], [0.75, 1.15]),
        ("margin", [-0.5, 0.5], [-1.525, 1]),
        ("refit_mismatch_most", [0.1, 0.9], [0.0, 1]),
        ("same_class_cosine", [0.98, 0.99], [0.92, 1]),
        ("cosine_gap", [0.9, 1.0], [0.75, 1.15]),
        ("steps", [0.0, 0.0], [0.0, 0.02]),
    ],
)
def test_a_band_is_twice_as_wide_as_the_values_and_stays_possible(name, values, band):
    assert bands.band(name, values) == pytest.approx(band)


@pytest.mark.parametrize(
    ("name", "span", "can_miss"),
    [
        ("pgd_accuracy", [0.0, 1], False),
        ("pgd_accuracy", [0.0, 0.99], True),
        ("pgd_accuracy", [0.01, 1], True),
        ("silhouette", [0.0, 1], True),
        ("loss", [0.0, 1], True),
    ],
)
def test_a_band_of_everything_that_is_possible_says_nothing(name, span, can_miss):
    assert bands.can_miss(name, span) is can_miss


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two notebooks' results of two runs, and their bands; notebook 08 trains nothing."""
    expected = tmp_path / "expected"
    expected.mkdir()
    (expected / "01.cpu.yaml").write_text("work: 7\nclaims:\n  clean: [0.9, 1]\nusual: {gone: [0, 1]}\n")
    (expected / "08.cpu.yaml").write_text("work: 7\nclaims: {clean: [0.9, 1]}\nusual: {}\n")
    (expected / "01.smoke.yaml").write_text("untouched")
    monkeypatch.setattr(bands, "EXPECTED_DIR", expected)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, noise, seconds in zip(folders, (1.5, 2.0), (300.0, 100.0), strict=True):
        (folder / "results" / "cpu").mkdir(parents=True)
        for number, step in (("01", 0.5), ("08", None)):
            metrics = {"clean": 0.95, "noise": noise, "anything_accuracy": noise - 1.25} if step else {"clean": 0.95}
            text = json.dumps({"seconds": seconds, "seconds_per_step": step, "metrics": metrics})
            (folder / "results" / "cpu" / f"{number}.json").write_text(text)
    return expected, folders


def test_bands_are_written_from_runs_and_claims_and_an_unmeasured_work_stay(runs, monkeypatch):
    expected, folders = runs
    command(bands.main, monkeypatch, *folders)
    found = {path.name: yaml.safe_load(path.read_text()) for path in expected.glob("*.cpu.yaml")}
    assert found == {
        "01.cpu.yaml": {"work": 400, "claims": {"clean": [0.9, 1]}, "usual": {"noise": [0.9, 2.6]}},
        "08.cpu.yaml": {"work": 7, "claims": {"clean": [0.9, 1]}, "usual": {}},
    }
    assert (expected / "01.smoke.yaml").read_text() == "untouched"
    before = (expected / "01.cpu.yaml").read_text()
    command(bands.main, monkeypatch, *folders)
    assert (expected / "01.cpu.yaml").read_text() == before


def test_bands_of_an_incomplete_run_are_refused_before_any_is_written(runs, monkeypatch, capsys):
    expected, folders = runs
    missing = folders[1] / "results" / "cpu" / "08.json"
    missing.unlink()
    before = (expected / "01.cpu.yaml").read_text()
    with pytest.raises(SystemExit):
        command(bands.main, monkeypatch, *folders)
    assert str(missing) in capsys.readouterr().err
    assert (expected / "01.cpu.yaml").read_text() == before
