"""How much each positive weighs in the contrastive loss: the formulations of hard-positive mining, one function each.

The paper's abstract says that hard positives are mined and weighed, not how. Notation as in :mod:`anchor_utils.losses`.
A formulation gives every positive p of an anchor i a score s_ip, and

    w_ip = softmax over p in P(i) of s_ip

weighs it: the weights of an anchor sum to 1, equal scores are SupCon. For the gradient weights are constants.
A new formulation is a function here, its row in FORMULATIONS, and its name in ``Config.mining``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SPREAD_FLOOR = 0.05  # s0 of the standardised form: cosines that differ by far less than this differ by nothing
HOPELESS = 1000.0  # above every other score up to gamma 50: who loses so much weighs nothing, unless all of them do
ANCHORS = 128  # that :func:`measure` looks at: enough for a mean over a batch, cheap beside a training step


class Mining(NamedTuple):
    """A formulation and its settings.

    Args:
        formulation: a name in FORMULATIONS.
        strength: beta of eq. 1, or gamma of the standardised forms; finite and >= 0, 0 is SupCon there.
        share: of the positives that "hardest" keeps, in (0, 1].
        skip: share of the hardest positives that "hardest" leaves out, in [0, 1).
        hardness: (M,) numbers >= 0, one an embedding, of the forms that ask the classifier or the attack.
        permutation: a generator, on any device; the weights of each anchor are then dealt to its positives at random,
            anew whenever they are asked for. The control of every formulation: the same weights, and no mining.
    """

    formulation: str = "exponential"
    strength: float = 0.0
    share: float = 0.25
    skip: float = 0.0
    hardness: Tensor | None = None
    permutation: torch.Generator | None = None

    def check(self, embeddings: int) -> None:
        """ValueError that names what is wrong, for this number M of embeddings."""
        if self.formulation not in FORMULATIONS:
            raise ValueError(f"formulation={self.formulation!r}: allowed is {', '.join(map(repr, FORMULATIONS))}")
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"strength (beta or gamma)={self.strength}: allowed is a finite number, 0 or more")
        if not (0 < self.share <= 1 and 0 <= self.skip < 1):
            raise ValueError(f"share={self.share}, skip={self.skip}: allowed is 0 < share <= 1 and 0 <= skip < 1")
        shape = None if self.hardness is None else tuple(self.hardness.shape)
        if FORMULATIONS[self.formulation].hardness is not None and shape != (embeddings,):
            raise ValueError(f"hardness of shape {shape}: allowed with {self.formulation!r} is ({embeddings},)")


def exponential(cosine: Tensor, positive: Tensor, mining: Mining) -> Tensor:
    """s_ip = - beta c_ip: eq. 1. How much it mines depends on how far apart the positives are."""
    return -mining.strength * cosine


def standardised(cosine: Tensor, positive: Tensor, mining: Mining) -> Tensor:
    """s_ip = - gamma (c_ip - mean_i) / (sigma_i + s0) over P(i).

    For normal cosines this uses e^(-g^2 / 2) of the positives, g = gamma sigma_i / (sigma_i + s0): the same share for
    all anchors whose positives are spread far beyond s0, and more where they are gathered within it.
    """
    count = positive.sum(1, keepdim=True).clamp(min=1)
    mean = (cosine * positive).sum(1, keepdim=True) / count
    deviation = (cosine - mean) * positive
    return -mining.strength * deviation / ((deviation.square().sum(1, keepdim=True) / count).sqrt() + SPREAD_FLOOR)


def hardest(cosine: Tensor, positive: Tensor, mining: Mining) -> Tensor:
    """s_ip = 0 for the hardest positives, minus infinity for others: a `share` of P(i), after a `skip` of it.

    At least one is kept. With `skip` this is semi-hard mining by rank.
    """
    count = positive.sum(1, keepdim=True)
    rounding = 1e-4  # 0.15 * 100 is 15.000001 in float32, and means 15
    rank = cosine.masked_fill(~positive, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
    first = torch.minimum((mining.skip * count + rounding).floor(), (count - 1).clamp(min=0))
    kept = (rank >= first) & (rank < first + (mining.share * count - rounding).ceil().clamp(min=1))
    return torch.zeros_like(cosine).masked_fill_(~kept, torch.finfo(cosine.dtype).min / 2)


def by_hardness(cosine: Tensor, positive: Tensor, mining: Mining) -> Tensor:
    """s_ip = log h_p: the weight of a positive is proportional to its hardness, whoever the anchor is."""
    assert mining.hardness is not None
    return mining.hardness.to(cosine.dtype).clamp(min=1e-6).log().expand_as(cosine)


def semi_hard(cosine: Tensor, positive: Tensor, mining: Mining) -> Tensor:
    """The standardised score among the positives whose view is classified correctly: the hopeless ones weigh nothing.

    Where all positives of an anchor are misclassified they weigh as in :func:`standardised`.
    """
    assert mining.hardness is not None
    return standardised(cosine, positive, mining) - HOPELESS * mining.hardness.to(cosine.dtype)


def unsure(logits: Tensor, embeddings: Tensor, labels: Tensor, views: int) -> Tensor:
    """h_p = 1 - p_y of the view: hardness from the classifier."""
    return 1 - logits.softmax(1).gather(1, labels[:, None]).squeeze(1)


def misclassified(logits: Tensor, embeddings: Tensor, labels: Tensor, views: int) -> Tensor:
    """h_p = 1 where the classifier gives the view another class, else 0."""
    return (logits.argmax(1) != labels).to(logits.dtype)


def moved(logits: Tensor, embeddings: Tensor, labels: Tensor, views: int) -> Tensor:
    """h_p = 1 - cosine of the image's first view and its attacked one: hardness from the attack.

    With two views the first is an augmentation of its own, so this contains how far the augmentation moved it.
    """
    first, *_, attacked = embeddings.chunk(views)
    return (1 - F.cosine_similarity(first, attacked)).clamp(min=0).repeat(views)


class Formulation(NamedTuple):
    """A row of FORMULATIONS: rows of cosines (R, M) and who is positive -> scores (R, M), and whose hardness it asks.

    `hardness` takes logits (M, K), embeddings (M, D) and labels (M,) of all views, and their number.
    """

    scores: Callable[[Tensor, Tensor, Mining], Tensor]
    hardness: Callable[[Tensor, Tensor, Tensor, int], Tensor] | None = None


FORMULATIONS: dict[str, Formulation] = {
    "exponential": Formulation(exponential),
    "standardised": Formulation(standardised),
    "hardest": Formulation(hardest),
    "classifier": Formulation(by_hardness, unsure),
    "displacement": Formulation(by_hardness, moved),
    "semi_hard": Formulation(semi_hard, misclassified),
}


def scores(cosine: Tensor, labels: Tensor, mining: Mining, start: int = 0) -> Tensor:
    """Scores (R, M) of the anchors from `start` on, "minus infinity" outside P(i): their softmax are the weights."""
    others = labels[start : start + len(cosine), None] != labels
    others.diagonal(start).fill_(True)
    found = FORMULATIONS[mining.formulation].scores(cosine, ~others, mining)
    found = found.masked_fill(others, torch.finfo(cosine.dtype).min / 2)  # finite: a row of nothing else gives no NaN
    return found if mining.permutation is None else permuted(found, others, mining.permutation)


def permuted(scores: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """The scores (R, M) of each anchor's positives, dealt to the same positives in a random order."""
    random = torch.rand(scores.shape, generator=generator, device=generator.device).to(scores.device)
    random.masked_fill_(others, 2.0)
    places, dealt = (
        others.to(torch.uint8).argsort(dim=1, stable=True),
        random.argsort(dim=1),
    )  # positives come first in both
    return torch.empty_like(scores).scatter_(1, dealt, scores.gather(1, places))


class Acting(NamedTuple):
    """What weights do to the gradient of an anchor: (R,) each but for `change`; NaN with one positive or none.

    The gradient of L_i on the anchor is sum_a (q_ia - w_ia) t_ia / tau, with q the softmax of c / tau over A(i) and
    t_ia the part of z_a at a right angle to z_i, of length sqrt(1 - c_ia^2).

    Args:
        used: effective number of positives by the weights, exp of their entropy, as a share of P(i).
        used_by_gradient: the same of |w_ip - q_ip| sqrt(1 - c_ip^2), the length of each positive's pull.
        on_wrong: weight on positives that are misclassified adversarial views.
        change: length of the gradient's difference from SupCon's over the length of SupCon's, over all anchors.
    """

    used: Tensor
    used_by_gradient: Tensor
    on_wrong: Tensor
    change: Tensor


@torch.no_grad()
def measure(
    embeddings: Tensor, labels: Tensor, temperature: float, mining: Mining, wrong: Tensor, anchors: int = ANCHORS
) -> Acting:
    """What the weights do, at anchors that are spread evenly over the batch.

    Args:
        embeddings: (M, D), any scale, and labels (M,).
        temperature: tau > 0.
        wrong: (M,) bool, the misclassified adversarial views.
        anchors: at most so many.
    """
    z = F.normalize(embeddings.float(), dim=1)
    chosen = torch.arange(0, len(z), max(1, -(-len(z) // anchors)), device=z.device)
    itself = chosen[:, None] == torch.arange(len(z), device=z.device)
    positive = (labels[chosen, None] == labels) & ~itself
    cosine = z[chosen] @ z.T
    found = FORMULATIONS[mining.formulation].scores(cosine, positive, mining)
    lowest = torch.finfo(z.dtype).min / 2
    found = found.masked_fill(~positive, lowest)
    if mining.permutation is not None:
        found = permuted(found, ~positive, mining.permutation)
    count = positive.sum(1)
    weights = found.softmax(1) * positive
    softmax = (cosine / temperature).masked_fill(itself, lowest).softmax(1)
    pull = (weights - softmax).abs() * (1 - cosine.square()).clamp(min=0).sqrt() * positive
    uniform = positive / count.clamp(min=1)[:, None]
    supcon, ours = (_tangent((softmax - w) @ z, z[chosen]) for w in (uniform, weights))
    several = count > 1
    ours, supcon = ours * several[:, None], supcon * several[:, None]
    return Acting(
        used=torch.where(several, _effective(weights) / count, torch.nan),
        used_by_gradient=torch.where(several, _effective(pull) / count, torch.nan),
        on_wrong=torch.where(several, (weights * wrong).sum(1), torch.nan),
        change=(ours - supcon).norm() / supcon.norm().clamp(min=1e-12),
    )


def mining_terms(
    embeddings: Tensor, labels: Tensor, temperature: float, mining: Mining, wrong: Tensor
) -> dict[str, Tensor]:
    """What :func:`measure` finds in a batch, under the names that the log of a training has for it.

    A batch in which no anchor has two positives mines nothing: 1, and no weight on misclassified views. Permuted
    weights are dealt once more for this.
    """
    found = measure(embeddings.detach(), labels, temperature, mining, wrong)
    defined = ~found.used.isnan()
    tenth = defined.sum() // 10
    in_order = found.used_by_gradient.sort().values  # NaN last

    def told(values: Tensor, otherwise: float) -> Tensor:
        return torch.where(defined.any(), values, otherwise)

    return {
        "positives_used": told(found.used, 1.0),
        "positives_used_by_gradient": told(found.used_by_gradient, 1.0),
        "positives_used_by_gradient_p10": told(in_order.gather(0, tenth[None])[0], 1.0),
        "weight_on_misclassified": told(found.on_wrong, 0.0),
        "gradient_change": found.change,
    }


def _effective(weights: Tensor) -> Tensor:
    """Effective number of the entries of each row, exp of their entropy, whatever they sum to."""
    share = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)
    return torch.xlogy(share, share).sum(1).neg().exp()


def _tangent(gradient: Tensor, z: Tensor) -> Tensor:
    return gradient - (gradient * z).sum(1, keepdim=True) * z
