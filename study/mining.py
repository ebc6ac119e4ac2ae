"""Hard mining, asked in two stages: does a formulation change the gradient (no training), and do networks gain by it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from anchor_utils.attacks import pgd
from anchor_utils.config import Config
from anchor_utils.data import Split
from anchor_utils.models import AnchorNet, fold_batchnorm
from anchor_utils.objectives import Heads, Objective, batch_loss, logged

# Stage one looks at these, by the letters under which CONTRIBUTING speaks of them; fields of ANCHOR's configuration.
FORMULATIONS: dict[str, dict[str, Any]] = {
    "SupCon": {"beta": 0.0},
    "eq. 1, beta 2": {"beta": 2.0},
    "eq. 1, beta 10": {"beta": 10.0},
    "eq. 1, beta 10, permuted": {"beta": 10.0, "permute_weights": True},
    "standardised, gamma 1": {"mining": "standardised", "beta": 1.0},
    "standardised, gamma 2": {"mining": "standardised", "beta": 2.0},
    "hardest quarter": {"mining": "hardest", "mining_share": 0.25},
    "ranks 10 to 50%": {"mining": "hardest", "mining_skip": 0.1, "mining_share": 0.4},
    "semi-hard, gamma 1": {"mining": "semi_hard", "beta": 1.0},
    "classifier": {"mining": "classifier"},
    "displacement": {"mining": "displacement"},
    "three views, beta 10": {"beta": 10.0, "contrast_views": 3},
    "features, beta 10": {"beta": 10.0, "contrast_on": "features"},
    "features, standardised, gamma 1": {"mining": "standardised", "beta": 1.0, "contrast_on": "features"},
}
# Terms of the objective, and what they are called in the table.
COLUMNS = {
    "positives_used_by_gradient": "positives used, share",
    "positives_used_by_gradient_p10": "the same, 10th percentile",
    "weight_on_misclassified": "weight on misclassified views",
    "gradient_change": "change of the embeddings' gradient",
}
ENCODER = "change of the encoder's gradient"


def does_it_act(
    network: AnchorNet, images: Split, config: Config, formulations: Mapping[str, dict[str, Any]] = FORMULATIONS
) -> pd.DataFrame:
    """What each formulation does to the gradient of a network that stands still.

    Args:
        network: in the mode that it is to be differentiated in; eval mode for a checkpoint.
        images: one batch of N training images, where the parameters of the network are; augmented and attacked as in
            training, with the same views and adversarial images for all.
        config: of ANCHOR; each row of `formulations` replaces some of its fields.

    Returns:
        A row for each: what :func:`anchor_utils.mining.measure` finds, and the length of the difference between its
        gradient of the contrastive term by the encoder and that of SupCon on the same embeddings, over the latter's.
    """
    attack = remembered(fold_batchnorm(network), config)

    def contrast(fields: dict[str, Any]) -> tuple[Objective, Tensor]:
        chosen = config.replace(method="anchor", **fields)
        forward = Heads(network, "anchor", contrast_features=chosen.contrasts_features())
        generator = torch.Generator().manual_seed(config.seed)
        found = batch_loss(chosen, forward, attack, images.images, images.labels, generator)
        encoder = [*network.stem.parameters(), *network.stages.parameters()]
        slopes = torch.autograd.grad(found.terms["contrastive"], encoder)
        return found, torch.cat([slope.flatten() for slope in slopes])

    rows, twins = [], {}
    for name, fields in formulations.items():
        uniform = {"beta": 0.0, **{k: v for k, v in fields.items() if k.startswith("contrast_")}}
        key = tuple(sorted(uniform.items()))
        if key not in twins:
            twins[key] = contrast(uniform)[1]
        found, gradient = contrast(fields)
        row: dict[str, Any] = {COLUMNS[term]: logged(found.terms[term]) for term in COLUMNS}
        rows.append({"weights": name, **row, ENCODER: float((gradient - twins[key]).norm() / twins[key].norm())})
    return pd.DataFrame(rows)


def remembered(network: AnchorNet, config: Config) -> Callable[..., Tensor]:
    """The inner attack, which answers the same images with the same adversarial ones without another attack."""
    known: list[tuple[Tensor, Tensor]] = []

    def attack(images: Tensor, labels: Tensor, loss: str = "ce") -> Tensor:
        for seen, adversarial in known:
            if torch.equal(seen, images):
                return adversarial
        generator = torch.Generator().manual_seed(config.seed)
        known.append((images, pgd(network, images, labels, **config.attack(), generator=generator)))
        return known[-1][1]

    return attack
