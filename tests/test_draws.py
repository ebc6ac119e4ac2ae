"""One study trained twice: which rows are compared, the spreads, and that the report follows the bits."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from samples import draws as outcomes_of
from samples import rows

from anchor_utils.results import crossed_interval, outcome_matrix, result_row
from study import draws, publish
from study.claims import BASELINES

METHODS = (*BASELINES, "anchor")


def write(path, cells):
    path.write_text(json.dumps({"sweeps": {"study": cells}}))
    return path


def cell(method, seed, bits, attacks=("pgd",)):
    found = [result_row(attack, torch.from_numpy(bits), 1.0) | {"checkpoint": "best"} for attack in attacks]
    return {"variant": method, "method": method, "seed": seed, "rows": found, "config": {}}


def test_what_only_one_file_has_is_left_out(tmp_path):
    bits = np.arange(8) % 2 == 0
    first = write(
        tmp_path / "a.json", [cell(m, s, bits, ("clean", "pgd")) for m in ("pgd_at", "anchor") for s in (1, 2)]
    )
    more = [cell(m, s, ~bits) for m in ("anchor", "pgd_at", "mart") for s in (2, 0, 1)]
    tables = draws.draws([first, write(tmp_path / "b.json", more)], "study")
    for table in tables:
        assert {*zip(table["method"], table["training_seed"], table["attack"], strict=True)} == {
            (m, s, "pgd") for m in ("pgd_at", "anchor") for s in (1, 2)
        }
    assert [outcome_matrix(table)[0].tolist() for table in tables] == [bits.tolist(), (~bits).tolist()]
    with pytest.raises(ValueError, match=r"no network of 'study' in common"):
        draws.draws([first, write(tmp_path / "c.json", [cell("anchor", 7, bits)])], "study")


def test_a_pair_is_a_seed_and_an_image():
    first = {("anchor", 0): [1, 1], ("anchor", 1): [0, 1], ("pgd_at", 0): [0, 1], ("pgd_at", 1): [1, 1]}
    second = {key: [1 - bit for bit in bits] for key, bits in first.items()}
    tables = [rows({key: np.array(bits, dtype=bool) for key, bits in found.items()}) for found in (first, second)]
    x = draws.paired([tables[0], tables[1].sample(frac=1, random_state=0)], "anchor", "pgd_at", "pgd")
    assert x.tolist() == [[[1, 0], [-1, 0]], [[-1, 0], [1, 0]]]


def test_spreads_of_what_only_the_seed_or_only_the_draw_decides():
    def table(right):
        return rows({(m, s): np.arange(100) < right(m, s) for m in ("anchor", "pgd_at") for s in (0, 1)})

    by_seed = [table(lambda m, s: 50 + 10 * s + (m == "anchor")) for _ in range(2)]
    assert draws.spreads(by_seed, "pgd", ("anchor", "pgd_at")) == pytest.approx((0, 0.1 / 2**0.5))
    by_draw = [table(lambda m, s, k=k: 50 + 10 * k + (m == "anchor")) for k in range(2)]
    assert draws.spreads(by_draw, "pgd", ("anchor", "pgd_at")) == pytest.approx((0, 0)), "all seeds move alike"
    crossed = [table(lambda m, s, k=k: 50 + 10 * (s == k)) for k in range(2)]
    assert draws.spreads(crossed, "pgd", ("anchor", "pgd_at")) == pytest.approx((0.1, 0.1 / 2**0.5))


def test_the_scatter_of_redrawing_is_estimated_without_bias():
    random = np.random.default_rng(0)
    found = []
    for _ in range(300):
        seeds, moves = random.normal(0, 2, size=(5, 1, 4)), random.normal(0, 3, size=(5, 2, 1))
        accuracy = seeds + moves + random.normal(0, 1, size=(5, 2, 4))
        tables = [
            pd.DataFrame(
                {"method": m, "training_seed": s, "attack": "pgd", "accuracy": accuracy[m, k, s]}
                for m in range(5)
                for s in range(4)
            )
            for k in range(2)
        ]
        found.append(np.square(draws.spreads(tables, "pgd", range(5))))
    assert np.mean(found, axis=0) == pytest.approx((1, 1 + 4), rel=0.06)


def test_two_draws_of_the_same_bits_are_one_and_not_twice_the_seeds():
    table = rows(outcomes_of({"anchor": 0.6, "pgd_at": 0.5}, seeds=4))
    x = draws.paired([table, table], "anchor", "pgd_at", "pgd")
    _, low, high = crossed_interval(x.mean(0))
    assert (low, high) == crossed_interval(x[0])[1:]
    _, narrow_low, narrow_high = crossed_interval(x.reshape(-1, x.shape[2]))
    assert narrow_high - narrow_low < high - low


def test_the_report_follows_the_bits():
    tables = [rows(outcomes_of(dict.fromkeys(METHODS, 0.5))) for _ in range(2)]
    before = draws.report(tables)
    better = {(m, s): bits | (m == "anchor") for (m, s), bits in outcomes_of(dict.fromkeys(METHODS, 0.5)).items()}
    lines = draws.report([tables[0], rows(better)]).splitlines()
    assert "3 seeds and 400 images" in before
    for line, old in zip(lines[2:6], before.splitlines()[2:6], strict=True):
        cells, was = ([text.strip() for text in row.split("|")[1:-1]] for row in (line, old))
        assert cells[:3] == was[:3], "the method, the attack and the first draw are as they were"
        assert cells[3].startswith(("+4", "+5"))
        first, second, mean = (float(text.split()[0]) for text in cells[2:])
        assert mean == pytest.approx((first + second) / 2, abs=0.1)
    assert lines[-1] != before.splitlines()[-1], "the spreads"


def test_the_stored_first_draw_has_the_recipes_of_the_study():
    """Seeds 1 to 4 of all six methods; fields that came later are at what the older code did."""
    cells = {
        path.name: json.loads(path.read_text())["sweeps"][publish.STUDY_SWEEP]
        for path in (publish.FIRST_DRAW, publish.STUDY)
    }
    first, second = ({(c["method"], c["seed"]): c["config"] for c in found} for found in cells.values())
    assert first.keys() == {(m, s) for m in ("standard", *METHODS) for s in range(1, 5)}
    for key, config in first.items():
        differ = {name for name, value in config.items() if second[key][name] != value}
        assert differ == {"eval_precision", "screen_images"}, key
