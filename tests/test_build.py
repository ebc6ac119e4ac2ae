"""How notebooks are built from their sources: exercises, outputs, and the lock that proves them fresh."""

import ast

import nbformat
import pytest

from course import build, freshness

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
    assert check == "assert double(2) == 4"
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


def notebook_of(code):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of three modules; `top` imports `base`, nobody imports `other`."""
    (tmp_path / "base.py").write_text('"""Base."""\nONE = 1\n')
    (tmp_path / "top.py").write_text("from anchor_utils.base import ONE\n\n\ndef two():\n    return 2 * ONE\n")
    (tmp_path / "other.py").write_text("THREE = 3\n")
    monkeypatch.setattr(freshness, "PACKAGE_DIR", tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", ["from anchor_utils import top", "from anchor_utils.top import two"])
def test_lock_follows_imports(package, code):
    assert freshness.package_modules(code) == ["base", "top"]


@pytest.mark.parametrize(
    ("name", "old", "new", "stale"),
    [
        ("base.py", "ONE = 1", "ONE = 2", True),
        ("top.py", "2 * ONE", "3 * ONE", True),
        ("other.py", "THREE = 3", "THREE = 4", False),
        ("base.py", '"""Base."""', '"""The base."""', False),
        ("top.py", "    return", "    # twice\n    return", False),
        ("top.py", "    return", '    """Two."""\n    return', False),
    ],
    ids=["imported by an import", "imported", "not imported", "docstring", "comment", "new docstring"],
)
def test_lock_changes_with_what_can_change_an_output(package, name, old, new, stale):
    book = notebook_of("from anchor_utils import top")
    before = freshness.lock(book, "cpu")
    path = package / name
    path.write_text(path.read_text().replace(old, new))
    assert (freshness.lock(book, "cpu") != before) == stale


def test_lock_is_the_same_for_every_version_of_python():
    """ast.dump is not: 3.12 added a field for type parameters to functions and classes, 3.13 leaves out empty ones."""
    tree = ast.parse("def f(x: int = 1):\n    return [x, None, 'a']\nclass C: pass")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.__dict__.pop("type_params", None)
    older = freshness._tree(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.type_params, node._fields = [], (*node._fields, "type_params")
    assert freshness._tree(tree) == older


def test_lock_changes_with_cells_and_preset_but_not_with_injected_parameters():
    book = notebook_of("print(1)")
    before = freshness.lock(book, "cpu")
    assert freshness.lock(notebook_of("print(2)"), "cpu")["source"] != before["source"]
    assert freshness.lock(book, "smoke")["package"] != before["package"]
    book.cells.append(nbformat.v4.new_code_cell("seed = 3", metadata={"tags": ["injected-parameters"]}))
    assert freshness.lock(book, "cpu") == before


def test_an_unknown_number_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["build.py", "--solutions", "nowhere", "11"])
    with pytest.raises(SystemExit):
        build.main()
    assert "unknown notebook '11'" in capsys.readouterr().err
