"""Results made up for tests of what is computed from them, and equality of weights."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from anchor_utils.results import result_row


def rows(outcomes: dict[tuple[str, int], np.ndarray], attack: str = "pgd") -> pd.DataFrame:
    """A results table with given outcome bits, by method and training seed."""
    settings: dict[str, Any] = {"epsilon": 0.1, "step_size": 0.01, "steps": 20.0, "restarts": 1.0, "iterate": "any"}
    settings["precision"] = "float32"
    return pd.DataFrame(
        {**result_row(attack, torch.from_numpy(bits), 1.0, **settings), "method": method, "training_seed": seed}
        for (method, seed), bits in outcomes.items()
    )


def draws(shares: dict[str, float], seeds: int = 3, images: int = 400) -> dict[tuple[str, int], np.ndarray]:
    """Random outcome bits, of each method with its share of ones."""
    rng = np.random.default_rng(0)
    return {(m, s): rng.random(images) < share for m, share in shares.items() for s in range(seeds)}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two sets of weights are equal to the bit."""
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
