"""White-box attacks, as pure functions: images in, adversarial images out, the model untouched.

Epsilon and step size are in units of pixel intensity: images lie in [0, 1] and the normalisation is inside the
model. The labels passed in are the true ones (or the targets), never the model's predictions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anchor_utils.checks import check_epsilon, check_inputs, check_steps, class_labels, count_classes
from anchor_utils.models import frozen, resolve_precision, tf32

Norm = Literal["linf", "l2"]
LossFunction = Callable[[Tensor, Tensor], Tensor]
Goal = Callable[[Tensor], tuple[Tensor, Tensor]]


class VanishedGradientWarning(UserWarning):
    """The gradient was exactly zero for many images, so the attack did not attack them."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) cross-entropy of logits (N, K) with labels (N,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) largest wrong logit minus true logit (Carlini & Wagner, arXiv 1608.04644); above 0: misclassified.

    Its gradient survives where the softmax has saturated and that of cross-entropy has not.
    """
    true = logits.gather(1, labels[:, None]).squeeze(1)
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1) - true


LOSSES: dict[str, LossFunction] = {"ce": cross_entropy, "margin": margin}


def fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    targeted: bool = False,
    loss: Literal["ce", "margin"] | LossFunction = "ce",
    precision: str = "float32",
) -> Tensor:
    """Fast gradient sign method (Goodfellow et al., arXiv 1412.6572): one step of length epsilon from the image.

    x_adv = clip( x + epsilon * sign( grad_x loss( f(x), y ) ), 0, 1 )

    This is :func:`pgd` with one step and no random start; the arguments are explained there.
    """
    return pgd(
        model,
        images,
        labels,
        epsilon=epsilon,
        step_size=epsilon or 1.0,
        steps=1,
        norm=norm,
        random_start=False,
        targeted=targeted,
        loss=loss,
        precision=precision,
    )


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    norm: Norm = "linf",
    random_start: bool = True,
    restarts: int = 1,
    targeted: bool = False,
    loss: Literal["ce", "margin"] | LossFunction = "ce",
    keep: Literal["final", "worst"] = "final",
    model_mode: Literal["eval", "unchanged"] = "eval",
    precision: str = "float32",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent (Madry et al., arXiv 1706.06083).

    x_0 = x + uniform in the ball;   x_{t+1} = project( x_t + step_size * direction( grad_x loss ) )

    where direction is the sign for L-infinity and the unit vector for L2, and project is onto the epsilon-ball
    around x and the box [0, 1].

    Args:
        model: maps images to logits (N, K), K at least 2; any device.
        images: (N, ...), floating point in [0, 1], on the model's device.
        labels: (N,), of any integer type, 0 to K - 1: the true classes, or the wanted ones if `targeted`.
        epsilon: radius, in pixel units; at most 1 for "linf".
        step_size: length of a step in the same norm, above 0; at most 1 for "linf".
        steps: gradient steps, 1 or more.
        norm: "linf" or "l2".
        random_start: begin at a uniform point of the ball instead of the image.
        restarts: independent tries. The worst per image is returned: a misclassified one if there is any, then the
            one with the highest loss. More than one needs `random_start`.
        targeted: move towards `labels` instead of away from them.
        loss: "ce", "margin", or a function (logits (N, K), labels (N,)) -> (N,), maximised (minimised if `targeted`).
        keep: "final" returns the last iterate, "worst" the worst one on the way, start and end included
            (one more forward pass).
        model_mode: "eval" attacks the network that will be deployed, with BatchNorm's running statistics, and is
            right for evaluation. "unchanged" leaves each module in the mode it is in; while training, that means
            batch statistics: the attack then fits the batch at hand, which can look stronger or weaker than it is.
        precision: of the network's forward and backward pass; "auto" takes the fastest this hardware has, "tf32" lets
            an NVIDIA GPU round the inputs of convolutions, "float32" does not. Small gradients can vanish in half
            precision, so reported accuracies use "float32".
        generator: source of the random start, on the CPU or the images' device; None uses the global one.

    Returns:
        Adversarial images of the same shape, dtype and device, in [0, 1] and within epsilon.
        Modes, requires_grad, .grad and buffers of the model are as they were before.

    Raises:
        ValueError: an argument is out of its range, the images are not in [0, 1], or the model's answer is not (N, K).

    Warns:
        VanishedGradientWarning: in more than a tenth of all image-steps the gradient was exactly zero and the image not
            yet broken.
    """
    labels, classes = check_inputs(model, images, labels), None
    check_epsilon(epsilon, norm)
    check_steps(step_size, steps, restarts, random_start, norm)
    loss_function = _loss_function(loss)
    if keep not in ("final", "worst"):
        raise ValueError(f"keep={keep!r}: allowed is 'final' or 'worst'")
    if model_mode not in ("eval", "unchanged"):
        raise ValueError(f"model_mode={model_mode!r}: allowed is 'eval' or 'unchanged'")
    dtype = resolve_precision(precision, images.device)

    def checked(points: Tensor) -> Tensor:
        nonlocal classes
        logits = model(points)
        if classes is None:  # once: looking at the labels waits for the device
            classes = count_classes(logits, len(points))
            class_labels(labels, len(labels), classes)
        return logits

    # Half-precision images are attacked in float32 and rounded at the end.
    x = images.detach().to(torch.promote_types(images.dtype, torch.float32))
    climb = goal(checked, labels, loss_function, targeted=targeted, dtype=dtype)
    worst = nowhere(x) if keep == "worst" or restarts > 1 else None
    vanished = torch.zeros((), dtype=torch.long, device=x.device)
    # The backward pass runs in the autocast state around it: without this, in the caller's.
    with frozen(model, model_mode), tf32(precision != "float32"), torch.autocast(x.device.type, enabled=False):
        for _ in range(restarts):
            point = random_point(x, epsilon, norm, generator) if random_start else x
            limits: dict[str, Any] = {"epsilon": epsilon, "step_size": step_size, "steps": steps, "norm": norm}
            point, passed, zeros = ascend(climb, x, point, **limits, worst=worst if keep == "worst" else None)
            vanished += zeros
            if worst is not None:
                with torch.no_grad():
                    worst = worse(worst if passed is None else passed, point, *climb(point))
    warn_if_vanished(vanished, len(labels) * steps * restarts)
    return (point if worst is None else worst.point).to(images.dtype)


def warn_if_vanished(vanished: Tensor, image_steps: int) -> None:
    """Warn if in more than a tenth of all `image_steps` the gradient had vanished, as :func:`ascend` counted."""
    share = vanished.item() / max(1, image_steps)
    if share > 0.1:
        warnings.warn(
            f"the gradient was exactly zero in {share:.0%} of all image-steps: the attack did not move these images, "
            "so they say nothing about robustness. Causes: half precision, a saturated softmax (try loss='margin'), "
            "or a model that is not differentiable",
            VanishedGradientWarning,
            stacklevel=3,
        )


class Worst(NamedTuple):
    """Of each image the worst point so far: a misclassified one if there is any, then the one with the highest loss."""

    point: Tensor
    loss: Tensor
    fooled: Tensor


def nowhere(x: Tensor) -> Worst:
    """Before the first point: any is worse."""
    return Worst(x, x.new_full(x.shape[:1], -torch.inf), torch.zeros(x.shape[:1], dtype=torch.bool, device=x.device))


def worse(worst: Worst, point: Tensor, loss: Tensor, fooled: Tensor) -> Worst:
    """The worse of the worst so far and of `point`, for each image."""
    # NaN logits (overflow in half precision) compare with nothing: such a point must not displace a real one.
    broken = loss.isnan()
    loss, fooled = loss.masked_fill(broken, -torch.inf), fooled & ~broken
    new = (fooled & ~worst.fooled) | ((loss > worst.loss) & (fooled == worst.fooled))
    return Worst(
        torch.where(_like(new, point), point, worst.point),
        torch.where(new, loss, worst.loss),
        torch.where(new, fooled, worst.fooled),
    )


def goal(
    model: Callable[[Tensor], Tensor],
    labels: Tensor,
    loss_function: LossFunction,
    *,
    targeted: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Goal:
    """What an attack climbs: points -> loss to be increased (N,), and whether the attack has succeeded (N,).

    Both from float32 logits, of a network that is computed in `dtype`.
    """

    def climb(point: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(point.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            logits = model(point)
        logits = logits.to(point.dtype)
        loss = loss_function(logits, labels)
        return -loss if targeted else loss, logits.argmax(1).eq(labels) == targeted

    return climb


def ascend(
    climb: Goal,
    x: Tensor,
    start: Tensor,
    *,
    epsilon: float | Tensor,
    step_size: float | Tensor,
    steps: int,
    norm: Norm = "linf",
    worst: Worst | None = None,
) -> tuple[Tensor, Worst | None, Tensor]:
    """The steps of :func:`pgd` from one start, unchecked: tensors of fixed shapes, and nothing waits for the device.

    Args:
        climb: what :func:`goal` returns.
        x: (N, ...), float32 or float64, the centres of the balls.
        start: (N, ...), within them.
        worst: the worst points so far, to which each iterate but the last is compared; None keeps none.

    Returns:
        The last iterate, the worst points, and in how many image-steps the gradient was exactly zero and the image not
        yet broken.
    """
    point, vanished = start, torch.zeros((), dtype=torch.long, device=x.device)
    for _ in range(steps):
        point = point.detach().requires_grad_()
        with torch.enable_grad():
            loss, fooled = climb(point)
            # The sum, not the mean: a mean divides each image's gradient by N and feeds underflow.
            # No path back to the pixels (a detach on the way, say) counts as zero: a warning, not an error.
            gradient = torch.autograd.grad(loss.sum(), point, allow_unused=True)[0] if loss.requires_grad else None
            gradient = torch.zeros_like(point) if gradient is None else gradient
        # Infinity or NaN (overflow in half precision) gives no direction either.
        gradient = gradient.where(gradient.isfinite(), 0)
        point = point.detach()
        if worst is not None:
            worst = worse(worst, point, loss.detach(), fooled)
        vanished += ((gradient.flatten(1) == 0).all(1) & ~fooled).sum()
        point = _project(point + step_size * _direction(gradient, norm), x, epsilon, norm)
    return point, worst, vanished


def random_point(
    x: Tensor, epsilon: float | Tensor, norm: Norm = "linf", generator: torch.Generator | None = None
) -> Tensor:
    """A uniform draw from the epsilon-ball around each image (N, ...), clipped to [0, 1]."""
    device = x.device if generator is None else generator.device
    if norm == "linf":
        noise = 2 * torch.rand(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device) - 1
        return _project(x + epsilon * noise, x, epsilon, norm)
    # Uniform in the L2 ball: a uniform direction, and a radius whose d-th power is uniform.
    normal = torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
    radius = torch.rand(len(x), generator=generator, device=device, dtype=x.dtype).to(x.device)
    dimensions = max(1, x[:1].numel())
    return _project(x + epsilon * _like(radius ** (1 / dimensions), x) * _direction(normal, norm), x, epsilon, norm)


def _direction(gradient: Tensor, norm: Norm) -> Tensor:
    """Steepest ascent of unit length: the sign for L-infinity, the normalised gradient for L2."""
    if norm == "linf":
        return gradient.sign()
    # Divide by the largest entry first: squares of tiny gradients would underflow.
    gradient = gradient / _like(gradient.flatten(1).abs().amax(1).clamp_min(torch.finfo(gradient.dtype).tiny), gradient)
    return gradient / _like(gradient.flatten(1).norm(dim=1).clamp_min(1e-12), gradient)


def _project(point: Tensor, x: Tensor, epsilon: float | Tensor, norm: Norm) -> Tensor:
    """Onto the ball around x, then onto the box [0, 1]; the box holds x, so that step cannot leave the ball."""
    delta = point - x
    if norm == "linf":
        delta = torch.clamp(delta, -epsilon, epsilon)  # type: ignore[arg-type]  # two numbers or two tensors
    else:
        length = delta.flatten(1).norm(dim=1)
        delta = delta * _like((epsilon / length.clamp_min(1e-12)).clamp_max(1.0), x)
    return (x + delta).clamp(0, 1)


def _like(per_image: Tensor, x: Tensor) -> Tensor:
    """(N,) with as many axes as x."""
    return per_image.view(-1, *[1] * (x.ndim - 1))


def _loss_function(loss: str | LossFunction) -> LossFunction:
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}: allowed are {', '.join(map(repr, LOSSES))} or a function")
    return LOSSES[loss]
