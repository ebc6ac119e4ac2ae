"""Verdicts from comparisons, and the table of claims."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from anchor_utils import results
from study import claims


def rows(outcomes: dict[tuple[str, int], np.ndarray], attack: str = "pgd") -> pd.DataFrame:
    """A results table with given outcome bits."""
    table = []
    for (method, seed), bits in outcomes.items():
        low, high = results.wilson(int(bits.sum()), len(bits))
        packed = results.pack_outcomes(torch.from_numpy(bits))
        row = {
            "method": method,
            "training_seed": seed,
            "attack": attack,
            "accuracy": bits.mean(),
            "low": low,
            "high": high,
        }
        row |= {"images": len(bits), "outcomes": packed, "epsilon": 0.1, "step_size": 0.01, "steps": 20.0}
        table.append({**row, "restarts": 1.0, "iterate": "any", "precision": "float32"})
    return pd.DataFrame(table)


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
    assert claims.verdict([comparison(side) for side in sides]) == wanted + one


def test_a_large_difference_is_found_and_none_is_not():
    table = claims.claims_table(rows(draws({"anchor": 0.9, "pgd_at": 0.5, "trades": 0.5, "mart": 0.4})))
    verdicts = dict(zip((attack for _, _, attack in claims.CLAIMS), table["verdict"], strict=True))
    assert table["verdict"][0] == "supported"
    assert verdicts["autoattack"] == "not measured"
    table = rows(draws({"anchor": 0.5, "pgd_at": 0.9}))
    longer = claims.claims_table(table, claims.EQUAL_TIME_CLAIMS)
    assert longer["verdict"].tolist() == ["contradicted", "not measured", "not measured"]
    same = draws({"anchor": 0.5})
    table = rows({**same, **{("pgd_at", s): same["anchor", (s + 1) % 3] for s in range(3)}})
    table = pd.concat([table, table[table["method"] == "pgd_at"].assign(method="trades")])
    table = pd.concat([table, table[table["method"] == "trades"].assign(method="mart")])
    assert claims.claims_table(table)["verdict"][0] == "no difference measured"
