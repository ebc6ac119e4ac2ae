"""Verdicts and the tables of the study."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from anchor_utils.results import result_row
from study import report


def rows(outcomes: dict[tuple[str, int], np.ndarray]) -> pd.DataFrame:
    """A results table with given outcome bits, under PGD."""
    pgd = {"epsilon": 0.1, "step_size": 0.01, "steps": 20.0, "restarts": 1.0, "iterate": "any"}
    return pd.DataFrame(
        {**result_row("pgd", torch.from_numpy(bits), 1.0, **pgd), "method": method, "training_seed": seed}
        for (method, seed), bits in outcomes.items()
    )


def draws(shares: dict[str, float], seeds: int = 3, images: int = 400) -> dict[tuple[str, int], np.ndarray]:
    rng = np.random.default_rng(0)
    return {(m, s): rng.random(images) < share for m, share in shares.items() for s in range(seeds)}


@pytest.mark.parametrize(
    ("sides", "wanted"),
    [
        ([1, 1], "supported"),
        ([-1, -1], "contradicted"),
        ([1, 0], "mixed"),
        ([1, -1], "mixed"),
        ([0, 0], "no difference measured"),
        ([], "not measured"),
        ([1, None], "not measured"),
    ],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_verdict(sides, wanted, seeds):
    def comparison(side):
        if side is None:
            return None
        low, high = {1: (0.01, 0.03), -1: (-0.03, -0.01), 0: (-0.01, 0.03)}[side]
        result = {"difference": (low + high) / 2, "low": low, "high": high, "seeds": seeds, "p_images": 0.9}
        if seeds == 1:
            result |= {"low": math.nan, "high": math.nan, "p_images": 0.01 if side else 0.5}
        return result

    one = " (one training seed)" if seeds == 1 and wanted != "not measured" else ""
    assert report.verdict([comparison(side) for side in sides]) == wanted + one


def test_a_large_difference_is_found_and_none_is_not():
    claims = report.claims_table(rows(draws({"anchor": 0.9, "pgd_at": 0.5, "trades": 0.5, "mart": 0.4})))
    verdicts = dict(zip((attack for _, _, attack in report.CLAIMS), claims["verdict"], strict=True))
    assert claims["verdict"][0] == "supported"
    assert verdicts["autoattack"] == "not measured"
    table = rows(draws({"anchor": 0.5, "pgd_at": 0.9}))
    longer = report.claims_table(table, report.EQUAL_TIME_CLAIMS)
    assert longer["verdict"].tolist() == ["contradicted", "not measured", "not measured"]
    same = draws({"anchor": 0.5})
    table = rows({**same, **{("pgd_at", s): same["anchor", (s + 1) % 3] for s in range(3)}})
    table = pd.concat([table, table[table["method"] == "pgd_at"].assign(method="trades")])
    table = pd.concat([table, table[table["method"] == "trades"].assign(method="mart")])
    assert report.claims_table(table)["verdict"][0] == "no difference measured"


def test_tables_name_attack_epsilon_step_steps_restarts_images_and_seeds():
    table = rows(draws({"anchor": 0.6}))
    text = report.setting(table, "pgd")
    for words in ("PGD-20", "epsilon 0.1", "step 0.01", "restarts 1", "any iterate", "400 images", "seeds [0, 1, 2]"):
        assert words in text
    assert report.method_table(table)["PGD-20"][0].endswith("n = 3")
    assert report.method_table(table)["AutoAttack"][0] == "not measured"


def test_cost_counts_the_passes_of_each_method():
    cells = [
        {"method": m, "training_seconds": 10.0 + s, "config": {"attack_steps": 3}}
        for m in ("standard", "pgd_at", "trades", "anchor")
        for s in range(2)
    ]
    table = report.cost_table(cells).set_index("method")
    assert table["passes, PGD-AT = 1"].to_dict() == {"standard": 0.25, "PGD-AT": 1.0, "TRADES": 1.25, "ANCHOR": 1.25}
    assert table["seconds a run"].tolist() == [10.5] * 4
