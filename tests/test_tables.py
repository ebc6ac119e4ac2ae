"""Cells of a sweep to tables: reading them, results by method, costs, words for attacks."""

import json

import numpy as np
import pandas as pd
import pytest
from samples import draws, rows

from anchor_utils.results import crossed_interval
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
    table = rows(draws({"anchor": 0.5}))
    text = tables.setting(table, "pgd")
    for words in ("PGD-20", "epsilon 0.1", "step 0.01", "restarts 1", "any iterate", "400 images", "seeds [0, 1, 2]"):
        assert words in text
    assert tables.method_table(table)["PGD-20"][0].endswith("n = 3")
    assert tables.method_table(table)["clean"][0] == "not measured"


def test_cost_counts_the_passes_of_each_method():
    cells = [
        {"method": m, "training_seconds": 10.0 + s, "config": {"attack_steps": 3, "epochs": 5}}
        for m in ("standard", "pgd_at", "trades", "anchor")
        for s in range(2)
    ]
    table = tables.cost_table(cells).set_index("method")
    ratio = {"standard": 0.25, "PGD-AT": 1.0, "TRADES": 1.25, "ANCHOR": 1.25}
    assert table["passes an epoch, PGD-AT = 1"].to_dict() == ratio
    assert table["passes in all"].to_dict() == {name: 20 * value for name, value in ratio.items()}
    assert table["seconds a run"].tolist() == [10.5] * 4


def test_variants_of_one_method_have_costs_of_their_own():
    cells = [
        {"method": "pgd_at", "variant": f"epochs{n}", "training_seconds": n, "config": {"attack_steps": 3, "epochs": n}}
        for n in (5, 6)
    ]
    assert tables.cost_table(cells)["passes in all"].tolist() == [20, 24]


def test_rows_that_are_missing_are_filled_up_unless_their_attack_computed_otherwise():
    own = pd.DataFrame([row(0, 0.5), row(0, 0.3, attack="screen", method="pgd_at")])
    other = pd.DataFrame([row(0, 0.9), row(1, 0.6), row(1, 0.4, attack="screen", precision="bfloat16")])
    clean = pd.DataFrame([row(1, 0.8, attack="clean", precision=None)])
    found = tables.filled_up(own, pd.concat([other, clean]))
    assert found[["training_seed", "attack", "accuracy"]].to_numpy().tolist() == [
        [0, "pgd", 0.5], [0, "screen", 0.3], [1, "pgd", 0.6], [1, "clean", 0.8]
    ]  # fmt: skip


def test_spots_are_the_accuracies_of_the_networks_and_the_intervals_of_the_tables():
    table = pd.concat([rows(draws({"anchor": share, "standard": 0.9}), attack=attack) for attack, share in
                       (("clean", 0.8), ("pgd", 0.5))])  # fmt: skip
    ((method, (networks, clean, robust)),) = tables.spots(table).items()
    assert method == "anchor"
    assert networks.shape == (3, 2)
    assert (clean[0], robust[0]) == pytest.approx(networks.mean(0))
    chosen = table[(table["method"] == "anchor") & (table["attack"] == "pgd")]
    assert robust == tables.accuracy_interval(chosen)


def test_one_seed_has_the_interval_over_images_and_several_have_that_over_both():
    assert tables.method_table(pd.DataFrame([row(0, 0.5)]))["PGD-20"][0] == "50.0 [40.0, 60.0], n = 1"
    bits = draws({"anchor": 0.5})
    value, low, high = crossed_interval(np.stack([bits["anchor", s] for s in range(3)]).astype(float))
    wanted = f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}], n = 3"
    assert tables.method_table(rows(bits))["PGD-20"][0] == wanted


def test_tables_of_methods_leave_full_autoattack_to_the_model_cards():
    table = pd.concat([rows(draws({"anchor": 0.5}), attack=attack) for attack in ("pgd", "screen", "autoattack")])
    assert list(tables.method_table(table)) == ["method", "clean", "PGD-20", "screen"]
