"""Augmentation of a whole batch at once on the device: what is drawn for each image, and what is done with it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Draws(NamedTuple):
    """The random numbers for one batch: which images are mirrored, and where each is cropped.

    `mirrored` is bool (N,); `offsets` is int64 (2, N, 1), the rows and columns that are left out of the padded image;
    `erased` is float32 (4, N, 1): height and width of the rectangle, and its top and left, in shares of what there is.
    """

    mirrored: Tensor
    offsets: Tensor
    erased: Tensor | None = None


ERASED_AREA, ERASED_ASPECT = (0.02, 0.4), (0.3, 1 / 0.3)  # as in arXiv 1708.04896, section 3


def draw_augmentation(
    n: int, *, padding: int, flip: bool = False, erasing: float = 0.0, generator: torch.Generator | None = None
) -> Draws:
    """Draw for n images what :func:`augment` does to each, on the device of the generator.

    Nothing is drawn for what is switched off. The arguments are those of :func:`augment`.
    """
    if padding < 0:
        raise ValueError(f"padding={padding}: allowed is 0 or more pixels")
    device = torch.device("cpu") if generator is None else generator.device
    mirrored = torch.zeros(n, dtype=torch.bool, device=device)
    offsets = torch.zeros(2, n, 1, dtype=torch.long, device=device)
    if flip:
        mirrored = torch.rand(n, generator=generator, device=device) < 0.5
    if padding:
        offsets = torch.randint(0, 2 * padding + 1, offsets.shape, generator=generator, device=device)
    if not erasing:
        return Draws(mirrored, offsets)
    chance, area, aspect, top, left = torch.rand(5, n, 1, generator=generator, device=device)
    area = (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * area) * (chance < erasing)
    low, high = map(math.log, ERASED_ASPECT)
    aspect = torch.exp(low + (high - low) * aspect)
    return Draws(mirrored, offsets, torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt(), top, left]))


def apply_augmentation(draws: Draws, images: Tensor, *, padding: int) -> Tensor:
    """Crop images (N, C, H, W) after zero padding and mirror them, as was drawn for them on the same device.

    Nothing in here is random, waits for the device or has a shape that depends on values: a CUDA graph can capture it.
    """
    n, _, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device) + draws.offsets[0]
    columns = torch.arange(width, device=device).expand(n, width)
    columns = torch.where(draws.mirrored[:, None], columns.flip(1), columns) + draws.offsets[1]
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    index = torch.arange(n, device=device)[:, None, None]
    # Advanced indexing puts the channels last; permute brings them back.
    cropped = padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if draws.erased is None:
        return cropped
    inside = []
    for length, share, start in zip((height, width), draws.erased[:2], draws.erased[2:], strict=True):
        size = (share * length).round().clamp_max(length)  # the source draws again where a rectangle does not fit
        first, pixel = (start * (length - size + 1)).floor(), torch.arange(length, device=device)
        inside.append((pixel >= first) & (pixel < first + size))
    return cropped.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)


def augment(
    images: Tensor,
    *,
    padding: int,
    flip: bool = False,
    erasing: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Random crop after zero padding, a random horizontal flip, and random erasing, the whole batch at once.

    Args:
        images: (N, C, H, W) of any dtype and device.
        padding: pixels that are added on each side before the crop; 0 switches the crop off.
        flip: mirror each image with probability 1/2.
        erasing: probability that a rectangle of an image becomes 0 (random erasing, Zhong et al., arXiv 1708.04896).
        generator: source of randomness, on the CPU or a device; PyTorch's own on the CPU if not given.

    Returns:
        Images of the same shape, dtype and device.
    """
    draws = draw_augmentation(len(images), padding=padding, flip=flip, erasing=erasing, generator=generator)
    there = Draws(*(drawn.to(images.device) for drawn in draws if drawn is not None))
    return apply_augmentation(there, images, padding=padding)
