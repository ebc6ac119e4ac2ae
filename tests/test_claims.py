"""Verdicts from comparisons, and the table of claims."""

import math

import pandas as pd
import pytest
from samples import draws, rows

from study import claims


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
