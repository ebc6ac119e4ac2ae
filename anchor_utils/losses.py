"""The losses of the course, one equation in one place each.

Notation: M embeddings z_i of unit norm (all views concatenated, labels repeated with them), cosine
c_ip = z_i . z_p, temperature tau; P(i) are all other embeddings with i's label, A(i) all others.

Everything is computed in float32 (float64 if given float64), also inside autocast.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from anchor_utils import mining as formulations
from anchor_utils.checks import class_labels
from anchor_utils.mining import Mining

BLOCK = 2**19  # entries of an M x M matrix that are worked on at a time: much for one call, and near a CPU's caches


def supcon_loss(embeddings: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss, L_out of Khosla et al. (arXiv 2004.11362, eq. 2), scaled by tau alone.

    L_i = - 1/n_i sum_{p in P(i)} log( exp(c_ip / tau) / sum_{a in A(i)} exp(c_ia / tau) )

    Args:
        embeddings: (M, D), any scale; normalised here.
        labels: (M,), integer.
        temperature: tau > 0.

    Returns:
        The mean of L_i over the anchors that have a positive; 0, still differentiable, if none has.
    """
    return hard_positive_supcon_loss(embeddings, labels, temperature, beta=0.0)


def hardness_weights(embeddings: Tensor, labels: Tensor, beta: float, *, mining: Mining | None = None) -> Tensor:
    """Weights of the positives, eq. 1 of the reconstruction: the farther a positive, the more it weighs.

    w_ip = softmax over p in P(i) of ( - beta * c_ip )

    Args:
        embeddings: (M, D), any scale; normalised here.
        labels: (M,), integer.
        beta: finite and >= 0. 0 weighs all positives alike; large values pick the hardest one.
        mining: another formulation of the weights in place of eq. 1, with its own strength in place of beta.

    Returns:
        (M, M). Row i sums to 1, or is 0 where i has no positive. Those of eq. 1 are differentiable: detach them
        where that is not wanted.
    """
    labels = _check(embeddings, labels, beta=beta)
    mining = _checked(mining, beta, len(labels))
    with torch.autocast(embeddings.device.type, enabled=False):
        z = _unit(embeddings)
        weights = formulations.scores(z @ z.T, labels, mining).softmax(1)
    # A row without a positive comes out of the softmax uniform; the product makes it 0.
    return weights * (count_positives(labels) > 0)[:, None]


def count_positives(labels: Tensor) -> Tensor:
    """The size of P(i), (M,): how many others have the label of i, of labels (M,)."""
    ordered = labels.sort().values
    labels = labels.contiguous()
    return torch.searchsorted(ordered, labels, right=True) - torch.searchsorted(ordered, labels) - 1


def weight_entropy(weights: Tensor) -> Tensor:
    """Entropy of each row of :func:`hardness_weights`: over how many positives an anchor spreads its attention.

    H_i = - sum_{p in P(i)} w_ip log w_ip

    Returns:
        (M,) in nats: log n_i for uniform weights (SupCon), 0 where a single positive has all the weight or there is
        none. Its exponential is the effective number of positives.
    """
    return -torch.xlogy(weights, weights).sum(1)


def hard_positive_supcon_loss(
    embeddings: Tensor,
    labels: Tensor,
    temperature: float = 0.1,
    beta: float = 1.0,
    detach_weights: bool = True,
    *,
    mining: Mining | None = None,
) -> Tensor:
    """Contrastive term of ANCHOR, eq. 2 of the reconstruction: cross-entropy with soft targets w over c / tau.

    L_i = - sum_{p in P(i)} w_ip log( exp(c_ip / tau) / sum_{a in A(i)} exp(c_ia / tau) )

    SupCon is the case of uniform weights, beta = 0.

    Args:
        embeddings: (M, D), any scale; normalised here. Views are simply concatenated.
        labels: (M,), integer, repeated for each view.
        temperature: tau > 0.
        beta: hardness, finite and >= 0.
        detach_weights: treat w as constants. With False the gradient also runs through the weights, which
            lowers the loss by making *easy* positives far; notebook 04 shows it. Only with eq. 1.
        mining: see :func:`hardness_weights`.

    Returns:
        The mean of L_i over the anchors that have a positive; 0, still differentiable, if none has.
    """
    return _contrast(embeddings, labels, temperature, beta, detach_weights, mining)[0]


def trades_loss(
    clean_logits: Tensor,
    adversarial_logits: Tensor,
    labels: Tensor,
    beta: float = 6.0,
    *,
    label_smoothing: float = 0.0,
    validate: bool = True,
) -> Tensor:
    """TRADES (Zhang et al., arXiv 1901.08573, eq. 5): CE( f(x), y ) + beta * KL( p(x) || p(x_adv) ), batch mean.

    Args:
        clean_logits, adversarial_logits: (N, K).
        labels: (N,), of any integer type, 0 to K - 1.
        beta: 1 / lambda of the paper; 6 there. Finite and >= 0.
        label_smoothing: of the cross-entropy, in [0, 1).
        validate: look at the labels, which waits for the device; False where they are known to be in range.
    """
    labels = _check(clean_logits, labels, validate, beta=beta, label_smoothing=label_smoothing)
    _check_pair(clean_logits, adversarial_logits, classes=1)
    cross_entropy = F.cross_entropy(_full_precision(clean_logits), labels, label_smoothing=label_smoothing)
    return cross_entropy + beta * divergence(clean_logits, adversarial_logits)


def divergence(clean_logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """KL( p(x) || p(x_adv) ) of logits (N, K), batch mean."""
    clean, adversarial = (_full_precision(x).log_softmax(1) for x in (clean_logits, adversarial_logits))
    return F.kl_div(adversarial, clean, reduction="batchmean", log_target=True)


def mart_loss(
    clean_logits: Tensor, adversarial_logits: Tensor, labels: Tensor, beta: float = 5.0, *, validate: bool = True
) -> Tensor:
    """MART (Wang et al., ICLR 2020, eq. 11): boosted CE + beta * KL( p(x) || p(x_adv) ) * (1 - p_y(x)), batch mean.

    BCE( p(x_adv), y ) = - log p_y(x_adv) - log( 1 - max_{k != y} p_k(x_adv) )

    Args:
        clean_logits, adversarial_logits: (N, K), K >= 2.
        labels: (N,), of any integer type, 0 to K - 1.
        beta: lambda of the paper; 5 there. Finite and >= 0.
        validate: see :func:`trades_loss`.
    """
    labels = _check(clean_logits, labels, validate, beta=beta)
    _check_pair(clean_logits, adversarial_logits, classes=2)
    clean, adversarial = (
        _full_precision(clean_logits).log_softmax(1),
        _full_precision(adversarial_logits).log_softmax(1),
    )
    true = labels[:, None]
    log_true = adversarial.gather(1, true).squeeze(1)
    wrong = adversarial.scatter(1, true, -torch.inf)  # log p_k of the other classes
    runner_up = wrong.argmax(1, keepdim=True)
    # 1 - p_runner-up is the sum of all the other classes: a log-sum-exp keeps its precision when it is tiny.
    log_not_runner_up = adversarial.scatter(1, runner_up, -torch.inf).logsumexp(1)
    boosted = -log_true - log_not_runner_up
    divergence = F.kl_div(adversarial, clean, reduction="none", log_target=True).sum(1)
    unsure = 1 - clean.gather(1, true).squeeze(1).exp()
    return (boosted + beta * divergence * unsure).mean()


class AnchorLoss(NamedTuple):
    """The objective of eq. 3 and its two terms, each a scalar tensor, and the :func:`weight_entropy` (M,)."""

    total: Tensor
    cross_entropy: Tensor
    contrastive: Tensor
    entropy: Tensor


def anchor_loss(
    logits: Tensor,
    logit_labels: Tensor,
    embeddings: Tensor,
    embedding_labels: Tensor,
    *,
    contrastive_weight: float = 1.0,
    temperature: float = 0.1,
    beta: float = 1.0,
    detach_weights: bool = True,
    mining: Mining | None = None,
    label_smoothing: float = 0.0,
    validate: bool = True,
) -> AnchorLoss:
    """Objective of ANCHOR, eq. 3 of the reconstruction: L = CE( logits, y ) + lambda * L_HP( embeddings ).

    Args:
        logits: (N, K) of the view or views that the classifier sees, and their labels (N,).
        embeddings: (M, D) of all views, x_aug and x_adv, concatenated, and their labels (M,).
        contrastive_weight: lambda, finite and >= 0.
        temperature, beta, detach_weights, mining: see :func:`hard_positive_supcon_loss`.
        label_smoothing: of the cross-entropy, in [0, 1).
        validate: see :func:`trades_loss`.
    """
    scalars = {"contrastive_weight": contrastive_weight, "label_smoothing": label_smoothing}
    labels = _check(logits, logit_labels, validate, **scalars)
    cross_entropy = F.cross_entropy(_full_precision(logits), labels, label_smoothing=label_smoothing)
    contrastive, entropy = _contrast(embeddings, embedding_labels, temperature, beta, detach_weights, mining)
    return AnchorLoss(cross_entropy + contrastive_weight * contrastive, cross_entropy, contrastive, entropy)


class _Contrast(torch.autograd.Function):
    """Eq. 2 for embeddings z (M, D) of unit norm: L_HP, a scalar, and the entropies (M,) of its weights w.

    A block of rows of the M x M matrices is made, used for losses and gradient, and dropped. With q the softmax of
    c / tau over A(i) the slope of L_i by the cosine c_ia is

    (q_ia - w_ia) / tau - beta w_ia ( - log q_ia - L_i ), without the second term where the weights are constants.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, labels: Tensor, temperature: float, mining: Mining, detach_weights: bool
    ) -> tuple[Tensor, Tensor]:
        counted = (count_positives(labels) > 0).to(z.dtype)
        loss, entropy, gradient = torch.empty_like(z[:, 0]), torch.empty_like(z[:, 0]), torch.zeros_like(z)
        rows = max(1, BLOCK // max(1, len(z)))
        for start in range(0, len(z), rows):
            block = slice(start, start + rows)
            cosine = z[block] @ z.T
            weights, surprise = _softmax_(formulations.scores(cosine, labels, mining, start))  # eq. 1
            weights.mul_(counted[block, None])
            entropy[block] = surprise.mul_(weights).sum(1)
            logits = cosine.div_(temperature)
            logits.diagonal(start).fill_(_lowest(z))
            softmax, surprise = _softmax_(logits)
            loss[block] = surprise.mul_(weights).sum(1)  # eq. 2
            if ctx.needs_input_grad[0]:
                slope = softmax.mul_(counted[block, None]).sub_(weights).div_(temperature)
                if not detach_weights:
                    slope -= mining.strength * surprise.addcmul_(weights, loss[block, None], value=-1)
                gradient[block].addmm_(slope, z)
                gradient.addmm_(slope.T, z[block])
        anchors = counted.sum().clamp_(min=1)
        ctx.save_for_backward(gradient / anchors)
        ctx.mark_non_differentiable(entropy)
        return loss.sum() / anchors, entropy

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        if torch.is_grad_enabled():  # the gradient is a constant here, so a second one would be wrong without a word
            raise RuntimeError("create_graph=True: the contrastive loss has no second derivative; allowed is False")
        return by_loss * ctx.saved_tensors[0], None, None, None, None


def _contrast(
    embeddings: Tensor, labels: Tensor, temperature: float, beta: float, detach_weights: bool, mining: Mining | None
) -> tuple[Tensor, Tensor]:
    labels = _check(embeddings, labels, temperature=temperature, beta=beta)
    mining = _checked(mining, beta, len(labels))
    if not detach_weights and mining != Mining(strength=mining.strength):
        raise ValueError(
            f"detach_weights=False, mining={mining.formulation!r}: allowed is eq. 1, 'exponential', as it is"
        )
    with torch.autocast(embeddings.device.type, enabled=False):
        return _Contrast.apply(_unit(embeddings), labels, temperature, mining, detach_weights)


def _checked(mining: Mining | None, beta: float, embeddings: int) -> Mining:
    """The formulation that is asked for, eq. 1 with beta if none is."""
    mining = Mining(strength=beta) if mining is None else mining
    mining.check(embeddings)
    return mining


def _softmax_(x: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax p of each row, and - log p in the place of x, from the largest of a row: logarithms of all cost more."""
    p, largest = x.softmax(1), x.amax(1, keepdim=True)
    return p, torch.sub(largest, x, out=x).sub_(p.amax(1, keepdim=True).log_())


def _lowest(x: Tensor) -> float:
    """A finite "minus infinity": a row of nothing else, or a difference from it, gives no NaN."""
    return torch.finfo(x.dtype).min / 2


def _unit(embeddings: Tensor) -> Tensor:
    return F.normalize(_full_precision(embeddings), dim=1)


def _full_precision(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _check_pair(clean_logits: Tensor, adversarial_logits: Tensor, classes: int) -> None:
    if adversarial_logits.shape != clean_logits.shape or clean_logits.shape[1] < classes:
        raise ValueError(
            f"clean_logits {tuple(clean_logits.shape)} and adversarial_logits {tuple(adversarial_logits.shape)}: "
            f"allowed is one shape (N, K), K at least {classes}"
        )


def _check(rows: Tensor, labels: Tensor, in_range: bool = False, **scalars: float) -> Tensor:
    """The labels (M,) of rows (M, D) as int64; if `in_range`, of logits for D classes, they must be 0 to D - 1."""
    if rows.ndim != 2 or labels.shape != rows.shape[:1]:
        raise ValueError(
            f"shapes {tuple(rows.shape)} and labels {tuple(labels.shape)}: allowed are (M, D) and (M,) of the same M"
        )
    for name, value in scalars.items():
        low_enough = value > 0 if name == "temperature" else value >= 0
        if not (low_enough and value < float("inf")):
            allowed = "above 0" if name == "temperature" else "0 or more"
            raise ValueError(f"{name}={value}: allowed is a finite number, {allowed}")
    return class_labels(labels, len(rows), rows.shape[1] if in_range else None)
