"""Which device computes: a CUDA GPU, else an Apple GPU that computes what the CPU does, else the CPU.

On an Apple GPU nothing here has been tried: none was at hand. So it is not taken on trust, but given a training step to
compute first.
"""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor

from anchor_utils.config import Config
from anchor_utils.models import AnchorNet
from anchor_utils.objectives import Heads, InnerProblem, batch_loss

TOLERANCE = 0.05  # of the gradient's norm: where a sign hangs on rounding, two devices attack some pixels differently


@cache
def resolve_device(device: str) -> torch.device:
    """The device that `device` of the configuration means here; warns of an Apple GPU that is not taken."""
    if device == "auto" and torch.cuda.is_available():
        return torch.device("cuda")
    if device == "auto" and torch.backends.mps.is_available():
        if not (fault := fault_of("mps")):
            return torch.device("mps")
        warnings.warn(f"device='auto': the CPU is taken, for the Apple GPU failed its trial: {fault}", stacklevel=2)
    return torch.device("cpu")


def fault_of(device: str) -> str:
    """What is wrong with an ANCHOR training step on this device, held against the CPU; empty if nothing is."""
    try:
        found = step_gradient(device)
    except (RuntimeError, TypeError, NotImplementedError) as error:  # what torch raises for what a device lacks
        return f"{type(error).__name__}: {error}"
    expected = step_gradient("cpu")
    off = float((found - expected).norm() / expected.norm())
    return "" if off <= TOLERANCE else f"its gradient is off by {off:.0%}"


def step_gradient(device: str) -> Tensor:
    """The gradient of an ANCHOR step with its attack, on noise, flat and on the CPU; always the same one."""
    config = Config(width=4, projection_dim=8, attack_steps=2, crop_padding=2, precision="float32")
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AnchorNet(num_classes=4, width=4, in_channels=1, projection_dim=8).to(device)
    images = torch.randint(256, (16, 1, 28, 28), dtype=torch.uint8, generator=generator).to(device)
    labels = (torch.arange(16) % 4).to(device)
    attack = InnerProblem(model, config, generator)
    attack.refresh()
    forward = Heads(model, config.method, torch.float32)
    batch_loss(config, forward, attack, images, labels, generator).loss.backward()
    return torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
