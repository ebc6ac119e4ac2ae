"""What a recipe does with weights besides descending: their average, its BatchNorm statistics, and their worst case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

STATISTICS_IMAGES = 2048  # training images from which the statistics of an average are estimated


def average_share(step: int, decay: float) -> float:
    """Share of the new weights in the average after step 0, 1, ...

    max( 1 - decay, 10 / (10 + step) ): the first steps are forgotten soon, then it is an exponential moving average.
    """
    return max(1 - decay, 10 / (10 + step))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, share: float | Tensor) -> None:
    """average <- (1 - share) * average + share * model, in place, for all parameters."""
    for averaged, parameter in zip(average.parameters(), model.parameters(), strict=True):
        averaged.lerp_(parameter, share)


@contextmanager
def new_statistics(model: nn.Module) -> Iterator[None]:
    """Within, BatchNorm's statistics are collected anew: the mean over the batches that the network is run on.

    An average of weights needs its own (Izmailov et al., arXiv 1803.05407, section 3.1): those of the weights that
    went into it are those of other features. The network is in train mode within, and in eval mode afterwards.
    """
    norms = [(norm, norm.momentum) for norm in _norms(model)]
    for norm, _ in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative mean
    model.train()
    try:
        yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum
        model.eval()


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Within, passes in train mode leave BatchNorm's running statistics as they are, whatever they see, NaN too."""
    norms = _norms(model)
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def perturbed(weights: Sequence[Tensor], gradients: Sequence[Tensor | None], gamma: float) -> Iterator[None]:
    """Within, each layer is moved up its gradient, by gamma of its own length: w + gamma |w| g / |g|.

    Adversarial weight perturbation (Wu et al., arXiv 2004.05884, eq. 8 and 10) with one step that reaches the radius.
    Entries that overflowed in float16 give no direction.
    """
    with torch.no_grad():
        before = [weight.clone() for weight in weights]
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                gradient = gradient.where(gradient.isfinite(), 0)
                tiny = torch.finfo(gradient.dtype).tiny
                weight.add_(gradient * (gamma * weight.norm() / gradient.norm().clamp_min(tiny)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)


def _norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
