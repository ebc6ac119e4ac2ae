"""The notebooks: executed, complete, fresh; every exercise can be solved; and all of them run from start to end."""

import json
import re

import nbformat
import numpy as np
import pytest
import yaml
from PIL import Image

from anchor_utils.config import load_preset
from course import build, freshness, limits, page, runner

SOURCES = sorted((runner.NOTEBOOK_DIR / "src").glob("[0-9][0-9]_*.py"))
NUMBERS = [source.name[:2] for source in SOURCES]
BOOKS = {path.stem: nbformat.read(path, as_version=4) for path in runner.notebooks()}
every_notebook = pytest.mark.parametrize("source", SOURCES, ids=NUMBERS)


def prose(book):
    return "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")


def outputs(book):
    return [output for cell in book.cells for output in cell.get("outputs", [])]


def test_there_are_eight_and_each_has_its_source():
    assert len(NUMBERS) == 8
    assert sorted(BOOKS) == [source.stem for source in SOURCES]


@every_notebook
def test_notebook_is_fresh(source):
    """Its cells are those of the source, and neither they nor the package have changed since it was executed."""
    book, written = BOOKS[source.stem], build.from_source(source)
    refresh = "stale: run `make notebooks`"
    assert [(c.cell_type, c.source) for c in book.cells] == [(c.cell_type, c.source) for c in written.cells], refresh
    assert book.metadata.get("lock") == freshness.lock(written, "cpu"), refresh


@every_notebook
def test_notebook_was_executed_from_start_to_end_without_complaint(source):
    book = BOOKS[source.stem]
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for output in outputs(book) if output.output_type == "error"]
    assert not [output for output in outputs(book) if output.get("name") == "stderr"], "warnings in the outputs"
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in book.cells) == 1
    assert not [cell for cell in book.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert book.metadata.kernelspec.name == "python3"
    assert "widgets" not in book.metadata
    assert not [o for o in outputs(book) if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]


@every_notebook
def test_notebook_found_the_numbers_that_are_expected(source):
    book = BOOKS[source.stem]
    (named,) = [o.metadata.missed for o in outputs(book) if "missed" in o.get("metadata", {})]
    assert named == []
    assert runner.named(book, "missed") == []
    (table,) = [o.data["text/markdown"] for o in outputs(book) if "missed" in o.get("metadata", {})]
    assert "values lie where they are expected" in table
    expected = yaml.safe_load((runner.NOTEBOOK_DIR.parent / "expected" / f"{source.name[:2]}.cpu.yaml").read_text())
    for name, (low, high) in (expected["claims"] | expected["usual"]).items():
        assert re.search(rf"\| {name} \| \S+ \| {low:.3g} to {high:.3g} \| ", table), f"{name}: stale table"
    last = [cell for cell in book.cells if cell.cell_type == "code"][-1]
    assert (
        f'lesson.finish(\n    "{source.name[:2]}"' in last.source or f'lesson.finish("{source.name[:2]}"' in last.source
    )


@every_notebook
def test_notebook_is_small_and_keeps_the_machine_to_itself(source):
    text = (runner.NOTEBOOK_DIR / f"{source.stem}.ipynb").read_text()
    assert len(text) <= 1.5e6
    assert str(runner.NOTEBOOK_DIR.parent) not in text
    assert not re.findall(r"(?:/home|/root|/tmp|/opt|/Users|site-packages)/[\w./-]*", text)


@every_notebook
def test_notebook_has_the_parts_that_every_lesson_has(source):
    book = BOOKS[source.stem]
    text = prose(book)
    for part in (
        "**Claim:",
        "**You will learn**",
        "**You need**",
        "**Time**",
        "## What can go wrong",
        "## What we saw",
        "**Limits.**",
        "**References.**",
    ):
        assert text.count(part) == 1, part
    assert book.cells[0].cell_type == "markdown"
    assert f"notebooks/{source.stem}.ipynb" in book.cells[0].source, "the Colab badge opens another notebook"
    assert 2 <= text.count("**Predict, then see.**") <= 6


@every_notebook
def test_every_figure_is_read_and_described(source):
    book = BOOKS[source.stem]
    cells = [cell for cell in book.cells if cell.cell_type == "markdown" or "plotting." in cell.source]
    for number, cell in enumerate(cells):
        if cell.cell_type == "code" and re.search(r"\bplotting\.(show|animate)\(", cell.source):
            assert "**Reading the figure.**" in cells[number + 1].source, cell.source[:200]
    pictures = [o for o in outputs(book) if {"image/png", "image/svg+xml"} & set(o.get("data", {}))]
    readings = prose(book).count("**Reading the figure.**")  # written, or said with the numbers of the run
    readings += sum(text.startswith(page.READING) for text in limits.said(book))
    assert len(pictures) >= readings >= 2
    for output in pictures:
        alt = build.alt_text(output)
        assert len(alt) > 30
        assert output.data["text/plain"] == alt
    for cell in book.cells:
        described = [build.alt_text(output) for output in cell.get("outputs", []) if build.alt_text(output)]
        assert not described or cell.metadata["mystnb"]["image"]["alt"] == " ".join(described)


@every_notebook
def test_equations_are_numbered_in_order_and_the_code_names_them(source):
    """Each equation that is computed is named by the line that does it, and no line names one that does not exist."""
    book = BOOKS[source.stem]
    numbers = [int(n) for n in re.findall(r"\\tag\{(\d+)\}", prose(book))]
    assert numbers == list(range(1, len(numbers) + 1))
    code = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")
    named = {int(n) for n in re.findall(r"# .*?\beq\. (\d+)", code)}
    assert named <= set(numbers)
    assert len(named) >= 0.5 * len(numbers)


@every_notebook
def test_notebook_has_exercises_with_a_check_and_a_folded_solution(source):
    tags = [tag for cell in build.from_source(source).cells for tag in cell.metadata.get("tags", [])]
    tags = [tag for tag in tags if tag in ("exercise", "check", "solution")]
    assert len(tags) >= 6
    assert tags == ["exercise", "check", "solution"] * (len(tags) // 3)
    text = prose(BOOKS[source.stem])
    assert text.count("<details>") == len(tags) // 3 == text.count("### Exercise ")


def test_parameters_cells_agree_and_match_the_default_preset():
    cells = {path.name[:2]: runner.declared_parameters(path) for path in runner.notebooks()}
    assert [number for number, cell in cells.items() if cell.pop("models", None) == "train"] == ["06", "07"]
    cells = list(cells.values())
    assert all(cell == cells[0] for cell in cells)
    assert cells[0]["preset"] == "cpu"
    assert load_preset("cpu").seed == cells[0]["seed"]


def test_all_notebooks_run_with_the_smoke_preset(tmp_path, monkeypatch):
    """In order and in one folder, as a user does, without a network. Every exercise is checked before and after it is
    solved: a check that lets the stub pass, or not the solution, would be found here."""
    (tmp_path / "notebooks").mkdir()
    for source in SOURCES:
        nbformat.write(build.from_source(source, "both"), tmp_path / "notebooks" / f"{source.stem}.ipynb")
    monkeypatch.setattr(runner, "NOTEBOOK_DIR", tmp_path / "notebooks")
    assert runner.main(["smoke", "--output", str(tmp_path)]) == 0
    assert not (tmp_path / "runs").exists(), "results lie elsewhere than was asked for"
    executed = sorted((tmp_path / "notebooks" / "smoke").glob("*.ipynb"))
    assert [path.name[:2] for path in executed] == NUMBERS
    for path in executed:
        book = nbformat.read(path, as_version=4)
        assert not [o["text"] for o in outputs(book) if o.get("name") == "stderr"], path.stem
        checks = [cell for cell in book.cells if "@lesson.check(" in cell.source and cell.cell_type == "code"]
        said = ["".join(o.text for o in cell.outputs if "text" in o).strip() for cell in checks]
        assert len(said) >= 4
        for number, (stub, solution) in enumerate(zip(said[::2], said[1::2], strict=True), start=1):
            assert stub.startswith(f"Exercise {number}: not solved yet."), f"{path.stem}: {stub}"
            assert solution == f"Exercise {number}: passed.", f"{path.stem}: {solution}"
    results = sorted(path.name for path in (tmp_path / "results" / "smoke").glob("[0-9][0-9].json"))
    assert results == [f"{number}.json" for number in NUMBERS]

    names = [path.parent.name for path in tmp_path.glob("*/config.json")]
    contents = [json.loads(path.read_text()) for path in tmp_path.glob("*/config.json")]
    unique = {json.dumps([c["training"], c["other"]["keep_epochs"]], sort_keys=True) for c in contents}
    assert len(unique) == len(names), "two runs of one configuration"


@pytest.mark.slow
def test_notebooks_06_and_07_start_from_the_networks_that_come_with_the_course(tmp_path, colour_folder):
    """On any images of the right size; the real ones are CIFAR-10's."""
    small = {"test_images": 60, "autoattack_images": 4, "screen_images": 4, "embedding_images": 60, "eval_steps": 2}
    small |= {
        "train_images": 60,
        "validation_images": 20,
        "dataset": f"imagefolder:{colour_folder}",
        "models": "pretrained",
        "batch_size": 32,
    }
    parameters = [word for name, value in small.items() for word in ("-p", name, str(value))]
    assert runner.main(["smoke", "--notebooks", "6", "7", "--output", str(tmp_path), *parameters]) == 0
    assert not list(tmp_path.glob("*/config.json")), "a network was trained"
    for number in ("06", "07"):
        result = json.loads((tmp_path / "results" / "cifar10_cpu" / f"{number}.json").read_text())
        assert result["config"]["width"] == 16


@pytest.mark.slow
@pytest.mark.parametrize("number", ["2", "6", "7"])
def test_three_classes_and_few_images_run_through(number, tmp_path):
    """AutoAttack, in 06, needs four classes; 02 and 07 train networks on parts of the images."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 10)):
        for name in ("ant", "bee", "cat"):
            (tmp_path / "own" / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (12, 12), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "own" / part / name / f"{index}.png")
    changes = {"dataset": f"imagefolder:{tmp_path / 'own'}", "train_images": "null", "validation_images": "30"}
    changes |= {"test_images": "30", "data_root": str(tmp_path / "data")}
    words = [word for name, value in changes.items() for word in ("-p", name, value)]
    assert runner.main(["smoke", "--notebooks", number, "--output", str(tmp_path), *words]) == 0
    (path,) = (tmp_path / "notebooks" / "smoke").glob("*.ipynb")
    said = "".join(
        str(output.get("data", {}).get("text/markdown", "")) for output in outputs(nbformat.read(path, as_version=4))
    )
    assert ("**AutoAttack and the screen are left out**" in said) == (number == "6")
    assert "autoattack_accuracy" not in said


@pytest.mark.slow
def test_one_notebook_runs_alone(tmp_path):
    assert (
        runner.main(["smoke", "--notebooks", "7", "--output", str(tmp_path), "-p", "seed", "3", "-p", "epochs", "1"])
        == 0
    )
    result = json.loads((tmp_path / "results" / "smoke" / "07.json").read_text())
    assert result["config"]["seed"] == 3
