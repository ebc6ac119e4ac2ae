"""The table of the study on GPUs, on made-up cells and on the committed ones."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from anchor_utils import results
from study import headline, publish
from study.sweep import SWEEP_DIR, load_sweep

ROBUST = {"pgd_at": 0.4, "trades": 0.5, "mart": 0.45, "supcon_at": 0.6, "anchor": 0.9}


@pytest.fixture
def write(tmp_path):
    """Writes the cell of a method, seed and width into the folder of a sweep."""
    random = np.random.default_rng(0)

    def cell(sweep: str, method: str, seed: int, width: int = 64, **changes: object) -> None:
        pgd: dict[str, Any] = {"epsilon": 0.031, "step_size": 0.003, "steps": 20, "restarts": 1, "iterate": "any"}
        rows = [
            results.result_row(attack, torch.from_numpy(random.random(200) < share), 1.0, **settings)
            | {"checkpoint": checkpoint}
            for checkpoint in ("best", "last")
            for attack, share, settings in (
                ("clean", 1.0, dict[str, Any]()),
                ("pgd", ROBUST[method] * (checkpoint == "best"), pgd),
            )
        ]
        content = {"variant": f"{method}.w{width}", "method": method, "seed": seed, "rows": rows}
        content |= {"training_seconds": 79.0, "seconds": {"given": 80.0}, "metrics": [{"epoch": 20}]}
        content |= {"versions": {"hardware": "card"}, "config": {"width": width, "dataset": "cifar10"}, **changes}
        (tmp_path / sweep).mkdir(exist_ok=True)
        (tmp_path / sweep / f"{method}.w{width}-s{seed}.json").write_text(json.dumps(content))

    return cell


def table_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"][2:]


def test_several_seeds_have_intervals_and_verdicts_and_every_setting_is_said(tmp_path, write):
    for seed in range(3):
        for method in ROBUST:
            write("minutes", method, seed)
            write("minutes", method, seed, width=32)
    text = headline.headline(tmp_path)
    methods = [(row[0], row[1]) for row in table_rows(text) if row[1] in ("64", "32")]
    assert methods == [
        (name, width) for width in ("64", "32") for name in ("PGD-AT", "TRADES", "MART", "SupCon-AT", "ANCHOR")
    ]
    for words in (
        "80 seconds",
        "card",
        "`cifar10`",
        "PGD-20",
        "epsilon 0.031",
        "step 0.003",
        "restarts 1",
        "200 images",
    ):
        assert words in text
    assert "training seeds [0, 1, 2]" in text
    assert text.count("n = 3") == 20
    assert "more robust than adversarial training without" in text
    assert "supported" in text
    assert "no verdict (" not in text
    assert "not measured" not in text.lower()


def test_one_seed_bears_no_verdict(tmp_path, write):
    for method in ROBUST:
        write("minutes", method, 0)
    text = headline.headline(tmp_path)
    assert "these rows bear no verdict" in text
    assert "supported" not in text


def test_what_stood_in_is_shown_until_every_method_is_there_at_full_width(tmp_path, write):
    note = ["made by something else", "one seed"]
    for method in ("pgd_at", "anchor"):
        write("prototype", method, 0, provenance=[*note, *(["it was slow"] if method == "anchor" else [])])
    alone = headline.headline(tmp_path)
    assert "**What these rows are:** made by something else; one seed; ANCHOR: it was slow." in alone
    assert "Not measured: TRADES, MART, SupCon-AT." in alone
    for method in list(ROBUST)[:-1]:
        write("minutes", method, 0)
        write("minutes", method, 0, width=32)
    write("minutes", "anchor", 0, width=32)
    both = headline.headline(tmp_path)
    assert both.endswith(alone)
    assert "Not measured: ANCHOR." in both
    write("minutes", "anchor", 0)
    assert "made by something else" not in headline.headline(tmp_path)


def test_a_training_that_diverged_is_named(tmp_path, write):
    for method in ROBUST:
        write("minutes", method, 0)
    write("minutes", "mart", 1, rows=[], error="diverged: loss is nan", metrics=[])
    text = headline.headline(tmp_path)
    assert "Diverged, and in no mean: mart.w64 (seed 1)." in text
    assert next(row for row in table_rows(text) if row[0] == "MART")[-1].endswith("n = 1")


def test_the_reported_checkpoint_is_the_best_unless_a_cell_says_another(tmp_path, write):
    write("minutes", "anchor", 0)
    write("prototype", "anchor", 0, reported="last")
    best, last = (headline.read_folder(tmp_path / name)[0] for name in headline.SWEEPS)
    assert set(best["checkpoint"]) == {"best"}
    assert set(last["checkpoint"]) == {"last"}
    assert last.loc[last["attack"] == "pgd", "accuracy"].item() == 0.0


COMMITTED = sorted(publish.GPU_CELLS.glob("*/*.json"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_committed_cell_is_what_its_sweep_asks_for_and_its_numbers_follow_from_counts(path):
    content = json.loads(path.read_text())
    assert path.stem == f"{content['variant']}-s{content['seed']}"
    for row in content["rows"]:
        assert row["accuracy"] == pytest.approx(row["correct"] / row["images"])
        assert (row["low"], row["high"]) == pytest.approx(results.wilson(row["correct"], row["images"]))
        if "outcomes" in row:
            assert results.unpack_outcomes(row["outcomes"], row["images"]).sum() == row["correct"]
    if (SWEEP_DIR / f"{path.parent.name}.yaml").exists():
        parameters = load_sweep(path.parent.name).cells()[path.stem]
        wanted = {k: v for k, v in parameters["overrides"].items() if k not in ("dataset", "epochs")}
        assert {k: content["config"][k] for k in wanted} == wanted
        assert all("outcomes" in row for row in content["rows"])
    else:
        assert content["provenance"]


def test_no_committed_cell_knows_the_machine():
    assert COMMITTED
    for path in COMMITTED:
        text = path.read_text()
        assert not any(f"/{folder}/" in text for folder in ("home", "root", "work", "tmp", "Users", "content")), path
