"""Cells of a sweep to tables: reading them, results by method, costs, words for attacks."""

import json

import pandas as pd
import pytest

from study import tables


def row(training_seed: int, accuracy: float, **changes: object) -> dict[str, object]:
    """One row of a results table: ANCHOR under PGD."""
    found = {"method": "anchor", "training_seed": training_seed, "attack": "pgd", "accuracy": accuracy}
    found |= {"low": accuracy - 0.1, "high": accuracy + 0.1, "images": 400, "epsilon": 0.1, "step_size": 0.01}
    return {**found, "steps": 20.0, "restarts": 1.0, "iterate": "any", "precision": "float32", **changes}


@pytest.fixture
def cells() -> list[dict[str, object]]:
    """Two cells as they are written, in an order that is not that of the methods."""
    clean, pgd = {"attack": "clean", "accuracy": 0.9}, {"attack": "pgd", "accuracy": 0.4, "seed": 7}
    return [
        {"variant": method, "method": method, "seed": 3, "config": {"seed": 3}, "rows": [clean, pgd]}
        for method in ("anchor", "pgd_at")
    ]


def test_the_seeds_of_training_and_of_the_attacks_have_columns_of_their_own(cells, tmp_path):
    path = tmp_path / "study.json"
    path.write_text(json.dumps({"sweeps": {"first": cells}}))
    table, found = tables.read_cells(path, "first")
    assert table["method"].tolist() == ["pgd_at", "pgd_at", "anchor", "anchor"]
    assert table["training_seed"].tolist() == [3] * 4
    assert table["attack_seed"].fillna(-1).tolist() == [-1, 7, -1, 7]  # clean images are not attacked
    assert "seed" not in table
    wanted = {"variant": "pgd_at", "method": "pgd_at", "training_seed": 3, "config": {"seed": 3}}
    assert found == [wanted, {**wanted, "variant": "anchor", "method": "anchor"}]


def test_cells_are_read_alike_by_either_name_of_the_seeds(cells, tmp_path):
    path = tmp_path / "study.json"
    renamed = json.loads(json.dumps(cells).replace('"accuracy": 0.4, "seed"', '"accuracy": 0.4, "attack_seed"'))
    assert renamed != cells
    path.write_text(json.dumps({"sweeps": {"old": cells, "new": renamed, "mixed": [cells[0], renamed[1]]}}))
    table, found = tables.read_cells(path, "old")
    for sweep in ("new", "mixed"):
        again, found_again = tables.read_cells(path, sweep)
        pd.testing.assert_frame_equal(again, table)
        assert found_again == found


def test_a_sweep_that_was_not_run_has_no_cells(tmp_path):
    path = tmp_path / "study.json"
    path.write_text(json.dumps({"sweeps": {}}))
    table, found = tables.read_cells(path, "cifar10_cpu")
    assert table.empty
    assert found == []


def test_full_autoattack_has_a_row_for_the_screen_too():
    table = pd.DataFrame([row(0, 0.5, attack="autoattack/apgd-t"), row(0, 0.4, attack="autoattack")])
    screened = tables.with_screen(table)
    assert screened.loc[screened["attack"] == "screen", "accuracy"].tolist() == [0.5]
    assert len(screened) == 3


def test_tables_name_attack_epsilon_step_steps_restarts_images_and_seeds():
    table = pd.DataFrame([row(seed, accuracy) for seed, accuracy in enumerate((0.5, 0.6, 0.7))])
    text = tables.setting(table, "pgd")
    for words in ("PGD-20", "epsilon 0.1", "step 0.01", "restarts 1", "any iterate", "400 images", "seeds [0, 1, 2]"):
        assert words in text
    assert tables.method_table(table)["PGD-20"][0].endswith("n = 3")
    assert tables.method_table(table)["AutoAttack"][0] == "not measured"


def test_cost_counts_the_passes_of_each_method():
    cells = [
        {"method": m, "training_seconds": 10.0 + s, "config": {"attack_steps": 3}}
        for m in ("standard", "pgd_at", "trades", "anchor")
        for s in range(2)
    ]
    table = tables.cost_table(cells).set_index("method")
    assert table["passes, PGD-AT = 1"].to_dict() == {"standard": 0.25, "PGD-AT": 1.0, "TRADES": 1.25, "ANCHOR": 1.25}
    assert table["seconds a run"].tolist() == [10.5] * 4


def test_one_seed_has_the_interval_over_images_and_several_have_that_over_seeds():
    one, three = ([row(seed, accuracy) for seed, accuracy in enumerate(found)] for found in ([0.5], [0.4, 0.5, 0.6]))
    assert tables.method_table(pd.DataFrame(one))["PGD-20"][0] == "50.0 [40.0, 60.0], n = 1"
    half = 4.302653 * 10 / 3**0.5  # 97.5% point of t with 2 degrees of freedom
    wanted = f"50.0 [{50 - half:.1f}, {50 + half:.1f}], n = 3"
    assert tables.method_table(pd.DataFrame(three))["PGD-20"][0] == wanted
