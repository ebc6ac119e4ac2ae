"""The training objective of each method: its views, its attack, its loss. One function a method, side by side.

An objective is tensor operations alone, of fixed shapes: it draws from one generator, and with labels that are known to
be right nothing in it waits for the device. The loop around it is in :mod:`anchor_utils.loop`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anchor_utils import losses
from anchor_utils.attacks import LOSSES, ascend, goal, random_point, warn_if_vanished
from anchor_utils.augmentation import augment
from anchor_utils.config import METHODS, Config
from anchor_utils.mining import FORMULATIONS, Mining, mining_terms
from anchor_utils.models import AnchorNet, fold_batchnorm, frozen, resolve_precision
from anchor_utils.weights import kept_statistics, perturbed

Forward = Callable[[Tensor], tuple[Tensor, Any]]  # images -> logits, and embeddings or None
Attack = Callable[..., Tensor]  # images, labels, loss="ce" or "kl" -> adversarial images


class Objective(NamedTuple):
    """What a training step minimises, and what it logs.

    `loss` is a scalar; `terms`, for the log, are scalars or have one value an anchor, NaN where it is not defined; the
    training accuracy is counted from `logits` (M, K) and their `labels` (M,).
    """

    loss: Tensor
    terms: dict[str, Tensor]
    logits: Tensor
    labels: Tensor


class Step(NamedTuple):
    """What an objective works with: the configuration, the network, its attacker, and a batch.

    Each call of `view` is a fresh augmentation of the same N images, float32 (N, C, H, W) in [0, 1]; `labels` are (N,),
    `original` gives the images as they are, and `generator` is that of the augmentation.
    `forward` is called once: a second pass would move BatchNorm's statistics again, and several processes wait for one.
    """

    config: Config
    forward: Forward
    attack: Attack
    view: Callable[[], Tensor]
    labels: Tensor
    original: Callable[[], Tensor]
    generator: torch.Generator


def standard(step: Step) -> Objective:
    """Cross-entropy on clean images."""
    logits, _ = step.forward(step.view())
    return Objective(_cross_entropy(step, logits), {}, logits, step.labels)


def pgd_at(step: Step) -> Objective:
    """Cross-entropy on adversarial images (Madry et al., arXiv 1706.06083, eq. 2.1)."""
    logits, _ = step.forward(step.attack(step.view(), step.labels))
    return Objective(_cross_entropy(step, logits), {}, logits, step.labels)


def trades(step: Step) -> Objective:
    """Cross-entropy on clean images, and the distance of the attacked prediction from the clean one."""
    clean, adversarial = _clean_and_adversarial(step, "kl")
    options: dict[str, Any] = {"label_smoothing": step.config.label_smoothing, "validate": False}
    loss = losses.trades_loss(clean, adversarial, step.labels, step.config.trades_beta, **options)
    return Objective(loss, {}, adversarial, step.labels)


def mart(step: Step) -> Objective:
    """Boosted cross-entropy on adversarial images, and a distance that weighs unsure images more."""
    clean, adversarial = _clean_and_adversarial(step, "ce")
    loss = losses.mart_loss(clean, adversarial, step.labels, step.config.mart_beta, validate=False)
    return Objective(loss, {}, adversarial, step.labels)


def supcon(step: Step) -> Objective:
    """Contrast of two clean views; the classifier is a linear probe that sees both."""
    return _contrast(step, [step.view(), step.view()], Mining(), classify_all=True)


def supcon_at(step: Step) -> Objective:
    """ANCHOR with uniform weights."""
    return _anchor(step, Mining())


def anchor(step: Step) -> Objective:
    """Eq. 3 of the reconstruction: adversarial cross-entropy, and contrast of an augmented and an adversarial view."""
    config = step.config
    permutation = step.generator if config.permute_weights else None
    settings = config.beta, config.mining_share, config.mining_skip
    return _anchor(step, Mining(config.mining, *settings, permutation=permutation))


OBJECTIVES: dict[str, Callable[[Step], Objective]] = {
    objective.__name__: objective for objective in (standard, pgd_at, trades, mart, supcon, supcon_at, anchor)
}


def batch_loss(
    config: Config, forward: Forward, attack: Attack, images: Tensor, labels: Tensor, generator: torch.Generator
) -> Objective:
    """The objective of `config.method` on one batch.

    Args:
        forward: images -> (logits (N, K), embeddings or None).
        attack: (images, labels, loss="ce") -> adversarial images.
        images, labels: uint8 (N, C, H, W) and int64 (N,), 0 to K - 1.
        generator: of the augmentation.
    """

    options: dict[str, Any] = {"padding": config.crop_padding, "flip": config.flip, "erasing": config.random_erasing}

    def view() -> Tensor:
        return augment(images, **options, generator=generator).float() / 255

    def original() -> Tensor:
        return images.float() / 255

    return OBJECTIVES[config.method](Step(config, forward, attack, view, labels, original, generator))


def batch_gradient(
    config: Config,
    forward: Forward,
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    model: AnchorNet,
    scaler: torch.amp.GradScaler,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> Objective:
    """:func:`batch_loss`, and its gradient, added to ``.grad`` of the parameters; `awp` takes it at perturbed weights.

    Args:
        model: whose parameters these are.
        scaler: scales the loss of float16.
        backward: what takes the scaled loss backward.

    Returns:
        The objective at the weights themselves.
    """
    if not config.awp:
        found = batch_loss(config, forward, attack, images, labels, generator)
        backward(scaler.scale(found.loss))
        return found
    seen = []

    def remember(x: Tensor) -> tuple[Tensor, Any]:
        seen.append(x)
        return forward(x)

    found = batch_loss(config, remember, attack, images, labels, generator)
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    upwards = torch.autograd.grad(scaler.scale(found.loss), weights, allow_unused=True)
    with perturbed(weights, upwards, config.awp), kept_statistics(model):
        # The same images again: whatever the objective puts together is replaced by what it did before.
        view = lambda: images / 255  # noqa: E731
        step = Step(config, lambda _: forward(seen[0]), lambda x, *_, **__: x, view, labels, view, generator)
        backward(scaler.scale(OBJECTIVES[config.method](step).loss))
    return found


def _cross_entropy(step: Step, logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, step.labels, label_smoothing=step.config.label_smoothing)


def _clean_and_adversarial(step: Step, loss: str) -> tuple[Tensor, Tensor]:
    """Logits of a view and of what the attack makes of it, in one forward pass."""
    x = step.view()
    x_adv = step.attack(x, step.labels, loss=loss)
    clean, adversarial = step.forward(torch.cat([x, x_adv]))[0].chunk(2)
    return clean, adversarial


def _anchor(step: Step, mining: Mining) -> Objective:
    x_aug, second = step.view(), step.view()
    x_adv = step.attack(second, step.labels)  # eq. 4
    views = [x_aug, x_adv] if step.config.contrast_views == 2 else [step.original(), x_aug, x_adv]
    return _contrast(step, views, mining, classify_all=step.config.classifier_view == "both")


def _contrast(step: Step, views: list[Tensor], mining: Mining, classify_all: bool) -> Objective:
    """Eq. 3 on some views of the batch, in one forward pass; cross-entropy sees the last, which is attacked, or all."""
    config, count = step.config, len(views)
    all_logits, embeddings = step.forward(torch.cat(views))
    labels = step.labels.repeat(count)
    first, *_, last = all_logits.chunk(count)
    logits, logit_labels = (all_logits, labels) if classify_all else (last, step.labels)
    if (hardness := FORMULATIONS[mining.formulation].hardness) is not None:
        found = hardness(all_logits.detach(), embeddings.detach().float(), labels, count)
        mining = mining._replace(hardness=_gather(found))
    wrong = torch.cat([torch.zeros_like(labels, dtype=torch.bool)[: -len(last)], last.argmax(1) != step.labels])
    embeddings, labels, wrong = _gather(embeddings), _gather(labels), _gather(wrong)
    total, cross_entropy, contrastive, entropy = losses.anchor_loss(
        logits,
        logit_labels,
        embeddings,
        labels,
        contrastive_weight=config.contrastive_weight,
        temperature=config.temperature,
        beta=mining.strength,
        mining=mining,
        label_smoothing=config.label_smoothing,
        validate=False,
    )
    if METHODS[config.method].attacked and config.consistency_weight:
        total = total + config.consistency_weight * losses.divergence(first, last)
    terms = {"cross_entropy": cross_entropy, "contrastive": contrastive}
    terms["hardness_entropy"] = _hardness_entropy(entropy, labels)
    if METHODS[config.method].attacked:
        terms |= mining_terms(embeddings, labels, config.temperature, mining, wrong)
    return Objective(total, terms, logits, logit_labels)


def logged(term: Tensor) -> float:
    """A term as one number: its mean over the anchors where it is defined."""
    return term[~term.isnan()].mean().item()


def _hardness_entropy(entropy: Tensor, labels: Tensor) -> Tensor:
    """(M,) entropies of the weights of eq. 1 as a share of log |P(i)|: 1 is SupCon, 0 the hardest positive alone.

    NaN with one positive or none, where there is nothing to weigh; 1 for all, as in SupCon, if that holds for each.
    """
    positives = losses.count_positives(labels)
    several = positives > 1
    return torch.where(several, entropy / positives.log(), torch.where(several.any(), torch.nan, 1.0))


def _gather(x: Tensor) -> Tensor:
    """Rows of all processes, with gradients, so that contrastive positives and negatives span the whole batch."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return x
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    if world == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world)]
    torch.distributed.all_gather(parts, x.detach().contiguous())
    if x.requires_grad:
        # Each process differentiates the loss of the whole batch by its own rows; data parallelism then divides
        # the sum by the number of processes, which the factor makes good.
        parts[rank] = x.detach() + world * (x - x.detach())
    return torch.cat(parts)


class Heads(nn.Module):
    """One forward pass to logits and, for the contrastive methods, embeddings. What data parallelism wraps.

    Args:
        dtype: in which the network is computed; logits are float32.
        contrast_features: the embeddings are the encoder's features, not the projection head's output.
    """

    def __init__(
        self, model: AnchorNet, method: str, dtype: torch.dtype = torch.float32, contrast_features: bool = False
    ) -> None:
        super().__init__()
        self.model, self.method, self.dtype = model, method, dtype
        self.embed = nn.Identity() if contrast_features else model.project

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32):
            features = self.model.encode(images)
            # A probe only listens: its gradient must not shape the features.
            logits = self.model.classifier(features.detach() if METHODS[self.method].probe else features)
            embeddings = self.embed(features) if METHODS[self.method].contrastive else None
        return logits.float(), embeddings


@dataclasses.dataclass
class InnerProblem:
    """Eq. 4: PGD with uniform random starts on the network as it was when :meth:`refresh` was called last.

    Args:
        generator: of the random starts.
    """

    model: AnchorNet
    config: Config
    generator: torch.Generator

    def __post_init__(self) -> None:
        self.attacked = METHODS[self.config.method].attacked
        self.folded = fold_batchnorm(self.model)
        # In eval mode the folded copy is the same function, only faster.
        self.target = self.model if self.attacked and self.config.attack_mode == "train" else self.folded
        self.radius: float | Tensor = self.config.epsilon
        self.step_size: float | Tensor = self.config.step_size
        self.image_steps = 0
        self.vanished = torch.zeros((), dtype=torch.long, device=self.model.mean.device)

    def refresh(self, step: int = 0, steps: int = 0) -> None:
        """Attack the network as it is now, with the radius of this step of so many (`epsilon_warmup`)."""
        if self.attacked:
            self.radius, self.step_size = self.sizes(step, steps)
            self.fold()

    def sizes(self, step: int, steps: int) -> tuple[float, float]:
        """Radius and step size at this step of so many; both rise during `epsilon_warmup`."""
        scale = min(1.0, (step + 1) / (self.config.epsilon_warmup * steps + 1)) if self.attacked else 1.0
        return scale * self.config.epsilon, scale * self.config.step_size

    def fold(self) -> None:
        """Take over the weights of the network as it is now."""
        if self.attacked and self.target is self.folded:
            fold_batchnorm(self.model, self.folded)

    def warn_if_vanished(self) -> None:
        """Warn if the gradient was zero in many image-steps since the last call."""
        warn_if_vanished(self.vanished, self.image_steps)
        self.vanished.zero_()
        self.image_steps = 0

    def __call__(self, images: Tensor, labels: Tensor, loss: str = "ce") -> Tensor:
        """Adversarial images; `loss` is one of attacks.LOSSES or "kl", as in TRADES: away from the clean prediction."""
        if loss not in (*LOSSES, "kl"):
            raise ValueError(f"loss={loss!r}: allowed are {', '.join(map(repr, (*LOSSES, 'kl')))}")
        mode = "eval" if self.target is self.folded else "unchanged"
        dtype = resolve_precision(self.config.precision, images.device)
        steps = self.config.attack_steps
        with frozen(self.target, mode), torch.autocast(images.device.type, enabled=False):
            climb = goal(self.target, labels, self._away(images) if loss == "kl" else LOSSES[loss], dtype=dtype)
            start = random_point(images, self.radius, "linf", self.generator)
            adversarial, _, vanished = ascend(
                climb, images, start, epsilon=self.radius, step_size=self.step_size, steps=steps
            )
        self.vanished += vanished
        self.image_steps += len(labels) * steps
        return adversarial

    def _away(self, images: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        with torch.no_grad():
            clean = self.target(images).float().log_softmax(1)

        def divergence(logits: Tensor, _: Tensor) -> Tensor:
            return F.kl_div(logits.log_softmax(1), clean, reduction="none", log_target=True).sum(1)

        return divergence
