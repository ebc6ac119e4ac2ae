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


def test_a_screen_that_was_run_by_itself_is_not_doubled_by_that_of_autoattack():
    stages = [row(seed, 0.5, attack="autoattack/apgd-t", checkpoint="best") for seed in (0, 1)]
    alone = row(0, 0.3, attack="screen", checkpoint="best")
    screened = tables.with_screen(pd.DataFrame([*stages, alone]))
    found = screened[screened["attack"] == "screen"].sort_values("training_seed")
    assert found["accuracy"].tolist() == [0.3, 0.5]


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


def budget_cell(method: str, variant: str, epochs: int, seed: int, **changes: object) -> dict[str, object]:
    """A cell with one row, as it is written."""
    rows = [row(0, 0.5, checkpoint="best", **changes)]
    config = {"method": method, "epochs": epochs, "attack_steps": 3}
    return {"variant": variant, "method": method, "seed": seed, "rows": rows, "config": config}


def test_each_budget_of_a_baseline_stands_beside_anchor_under_its_passes(tmp_path):
    more = [budget_cell("pgd_at", f"epochs{n}", n, s) for n in (30, 7, 6) for s in range(2)]
    study = [budget_cell(method, method, 5, s) for method in ("pgd_at", "anchor") for s in range(2)]
    path = tmp_path / "study.json"
    path.write_text(json.dumps({"sweeps": {"study": study, "more": more}}))
    table, cells = tables.equal_passes(path, "more", "study")
    budgets = [f"PGD-AT, {passes} passes" for passes in (24, 28, 120)]
    assert table["method"].tolist() == [name for name in (*budgets, "anchor") for _ in range(2)]
    assert table["training_seed"].tolist() == 4 * [0, 1]
    spent = {"epochs6": 24, "epochs7": 28, "epochs30": 120, "anchor": 25}
    assert {c["variant"]: tables.passes(c["config"]) for c in cells} == spent
    path.write_text(json.dumps({"sweeps": {"study": study}}))
    assert tables.equal_passes(path, "more", "study")[0].empty


def test_what_was_measured_in_another_precision_is_not_put_beside_it(tmp_path):
    more = [budget_cell("pgd_at", f"epochs{n}", n, 0, precision=p) for n, p in ((6, "float32"), (7, "bfloat16"))]
    more.append(budget_cell("pgd_at", "epochs8", 8, 0, precision=None))
    path = tmp_path / "study.json"
    path.write_text(json.dumps({"sweeps": {"study": [budget_cell("anchor", "anchor", 5, 0)], "more": more}}))
    table, _ = tables.equal_passes(path, "more", "study")
    assert table["method"].tolist() == ["PGD-AT, 24 passes", "PGD-AT, 32 passes", "anchor"]


def test_settings_at_the_edge_of_what_was_tried_are_named():
    def trial(method: str, rate: float, tau: float, robust: float) -> dict[str, object]:
        scores = {"joint": {"robust": robust, "clean": 0.5}}
        return {"method": method, "held_out": scores, "config": {"learning_rate": rate, "temperature": tau}}

    trials = [trial("trades", rate, 0.1, rate) for rate in (0.05, 0.1, 0.2)]
    trials += [trial("anchor", *values) for values in ((0.05, 0.1, 0.3), (0.1, 0.2, 0.4), (0.2, 0.5, 0.1))]
    trials += [trial("mart", 0.1, tau, 1 - tau) for tau in (0.1, 0.5)]
    found = tables.edges(trials, ("learning_rate", "temperature"))
    assert found == {"trades": ["learning_rate 0.2"], "mart": ["temperature 0.1"]}


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
