"""White-box attacks, as pure functions: images in, adversarial images out, the model untouched.

Epsilon and step size are in units of pixel intensity: images lie in [0, 1] and the normalisation is inside the
model. The labels passed in are the true ones (or the targets), never the model's predictions.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from numbers import Integral
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anchor_utils.checks import class_labels, epsilon_hint, text_hint

Norm = Literal["linf", "l2"]
LossFunction = Callable[[Tensor, Tensor], Tensor]
PRECISIONS = ("float32", "auto", "bfloat16", "float16")


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
        precision: of the network's forward and backward pass; "auto" takes the fastest this hardware has. Small
            gradients can vanish in half precision, so reported accuracies use "float32".
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
    autocast_dtype = resolve_precision(precision, images.device)

    # Half-precision images are attacked in float32 and rounded at the end.
    x = images.detach().to(torch.promote_types(images.dtype, torch.float32))
    sign = -1.0 if targeted else 1.0

    def forward(point: Tensor) -> tuple[Tensor, Tensor]:
        """Loss to be increased, (N,), and whether the attack has succeeded, (N,); both from float32 logits."""
        with torch.autocast(x.device.type, dtype=autocast_dtype, enabled=autocast_dtype is not torch.float32):
            logits = model(point)
        nonlocal classes
        if classes is None:  # once: looking at the labels waits for the device
            classes = count_classes(logits, len(point))
            class_labels(labels, len(labels), classes)
        logits = logits.to(x.dtype)
        fooled = logits.argmax(1).eq(labels) == targeted
        return sign * loss_function(logits, labels), fooled

    best, best_loss, best_fooled = x, torch.full(labels.shape, -torch.inf, device=x.device, dtype=x.dtype), None
    zero_gradients = torch.zeros((), dtype=torch.long, device=x.device)

    def remember(point: Tensor, losses: Tensor, fooled: Tensor) -> None:
        nonlocal best, best_loss, best_fooled
        # NaN logits (overflow in half precision) compare with nothing: such a point must not displace a real one.
        broken = losses.isnan()
        losses, fooled = losses.masked_fill(broken, -torch.inf), fooled & ~broken
        worse = losses > best_loss
        if best_fooled is not None:
            worse = (fooled & ~best_fooled) | (worse & (fooled == best_fooled))
            fooled = torch.where(worse, fooled, best_fooled)
        best_fooled = fooled
        best_loss = torch.where(worse, losses, best_loss)
        best = torch.where(_like(worse, x), point, best)

    # The backward pass runs in the autocast state around it: without this, in the caller's.
    with frozen(model, model_mode), torch.autocast(x.device.type, enabled=False):
        for _ in range(restarts):
            point = random_point(x, epsilon, norm, generator) if random_start else x
            for _ in range(steps):
                point = point.detach().requires_grad_()
                with torch.enable_grad():
                    losses, fooled = forward(point)
                    # The sum, not the mean: a mean divides each image's gradient by N and feeds underflow.
                    # No path back to the pixels (a detach on the way, say) counts as zero: a warning, not an error.
                    gradient = None
                    if losses.requires_grad:
                        (gradient,) = torch.autograd.grad(losses.sum(), point, allow_unused=True)
                    gradient = torch.zeros_like(point) if gradient is None else gradient
                # Infinity or NaN (overflow in half precision) gives no direction either.
                gradient = gradient.where(gradient.isfinite(), 0)
                point = point.detach()
                if keep == "worst":
                    remember(point, losses.detach(), fooled)
                zero_gradients += ((gradient.flatten(1) == 0).all(1) & ~fooled).sum()
                point = _project(point + step_size * _direction(gradient, norm), x, epsilon, norm)
            if keep == "worst" or restarts > 1:
                with torch.no_grad():
                    remember(point, *forward(point))
        result = point if keep == "final" and restarts == 1 else best

    share = zero_gradients.item() / max(1, len(labels) * steps * restarts)
    if share > 0.1:
        warnings.warn(
            f"the gradient was exactly zero in {share:.0%} of all image-steps: the attack did not move these images, "
            "so they say nothing about robustness. Causes: half precision, a saturated softmax (try loss='margin'), "
            "or a model that is not differentiable",
            VanishedGradientWarning,
            stacklevel=2,
        )
    return result.to(images.dtype)


def random_point(x: Tensor, epsilon: float, norm: Norm = "linf", generator: torch.Generator | None = None) -> Tensor:
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


def _project(point: Tensor, x: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """Onto the ball around x, then onto the box [0, 1]; the box holds x, so that step cannot leave the ball."""
    delta = point - x
    if norm == "linf":
        delta = delta.clamp(-epsilon, epsilon)
    else:
        length = delta.flatten(1).norm(dim=1)
        delta = delta * _like((epsilon / length.clamp_min(1e-12)).clamp_max(1.0), x)
    return (x + delta).clamp(0, 1)


def _like(per_image: Tensor, x: Tensor) -> Tensor:
    """(N,) with as many axes as x."""
    return per_image.view(-1, *[1] * (x.ndim - 1))


@contextmanager
def frozen(model: nn.Module, model_mode: str) -> Iterator[None]:
    """Put the model into the wanted mode without parameter gradients, and put everything back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    grads = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    if model_mode == "eval":
        model.eval()
    # Only BatchNorm in train mode writes to buffers.
    buffers = [(b, b.clone()) for b in model.buffers()] if any(m.training for m in model.modules()) else []
    for parameter, _ in grads:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in grads:
            parameter.requires_grad_(requires_grad)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def resolve_precision(precision: str, device: torch.device | str) -> torch.dtype:
    """The dtype that `precision` means on `device`; "auto" is the fastest that is computed natively there."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: allowed are {', '.join(PRECISIONS)}")
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if kind == "cpu":
        # The CPU says what it has, oneDNN what it will use: ONEDNN_MAX_CPU_ISA may have asked it for less. Of these two
        # levels oneDNN says yes as well, but it emulates.
        capabilities = torch.cpu.get_capabilities()
        native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
        emulated = limit.upper() in ("AVX512_CORE", "AVX512_CORE_VNNI")
        if native and not emulated and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return torch.bfloat16
    return torch.float32


def device_of(model: nn.Module, images: Tensor) -> torch.device:
    """Where the model's parameters are; where the images are, if it has none."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}: allowed is a torch.nn.Module that maps images to logits")
    return next(chain(model.parameters(), model.buffers()), images).device


def check_pixels(images: Tensor) -> None:
    """Raise ValueError unless the images (N, ...) are floating point in [0, 1]."""
    if not isinstance(images, Tensor):
        raise ValueError(f"images are a {type(images).__name__}: allowed is a torch.Tensor")
    if not images.is_floating_point():
        raise ValueError(f"images have dtype {images.dtype}: allowed is floating point in [0, 1]; divide uint8 by 255")
    if images.ndim < 2:
        raise ValueError(f"images have shape {tuple(images.shape)}: allowed is (N, ...), such as (N, C, H, W)")
    if images.numel():
        low, high = images.aminmax()
        if not (low >= 0 and high <= 1):
            undo = "; undo any normalisation, it belongs inside the model" if low.isfinite() and high.isfinite() else ""
            raise ValueError(f"images lie in [{low.item():.4g}, {high.item():.4g}]: allowed is [0, 1]{undo}")


def check_inputs(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The labels as int64; ValueError unless images (N, ...) in [0, 1], labels (N,) and model belong together."""
    check_pixels(images)
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels are a {type(labels).__name__}: allowed is a torch.Tensor")
    devices = device_of(model, images), images.device, labels.device
    if len(set(devices)) > 1:
        raise ValueError("model, images and labels are on {}, {} and {}: allowed is one device".format(*devices))
    return class_labels(labels, len(images))


def count_classes(logits: Any, images: int) -> int:
    """K of logits (N, K); ValueError if that is not what the model returned for N images."""
    found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != images or logits.shape[1] < 2:
        raise ValueError(f"model returned {found} for {images} images: allowed are logits (N, K), K at least 2")
    return logits.shape[1]


def _number(value: Any) -> float:
    """NaN, which no range holds, for what is not a number."""
    try:
        return float("nan" if isinstance(value, str) else value)
    except (TypeError, ValueError):
        return float("nan")


def check_epsilon(epsilon: float, norm: str) -> None:
    """Raise ValueError unless `norm` is known and epsilon is a radius in it."""
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm={norm!r}: allowed are 'linf', 'l2'")
    if norm == "linf" and not 0 <= _number(epsilon) <= 1:
        hint = text_hint(epsilon) or epsilon_hint(epsilon)
        raise ValueError(f"epsilon={epsilon!r}: allowed is [0, 1] in units of pixel intensity{hint}")
    if not 0 <= _number(epsilon) < float("inf"):
        raise ValueError(f"epsilon={epsilon!r}: allowed is a finite radius of 0 or more{text_hint(epsilon)}")


def check_steps(step_size: float, steps: int, restarts: int, random_start: bool = True, norm: str = "linf") -> None:
    """Raise ValueError unless these are steps that PGD can take."""
    if not 0 < _number(step_size) < float("inf"):
        raise ValueError(f"step_size={step_size!r}: allowed is a finite number above 0{text_hint(step_size)}")
    if norm == "linf" and step_size > 1:
        raise ValueError(f"step_size={step_size!r}: allowed is at most 1 for norm='linf'{epsilon_hint(step_size)}")
    if not (isinstance(steps, Integral) and steps >= 1):
        raise ValueError(f"steps={steps!r}: allowed is 1 or more, a whole number")
    if not (isinstance(restarts, Integral) and restarts >= 1 and (restarts == 1 or random_start)):
        raise ValueError(f"restarts={restarts!r}: allowed is 1, or more together with random_start=True")


def _loss_function(loss: str | LossFunction) -> LossFunction:
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}: allowed are {', '.join(map(repr, LOSSES))} or a function")
    return LOSSES[loss]
