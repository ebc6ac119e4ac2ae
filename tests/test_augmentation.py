"""Augmentation: what is drawn for an image, and what is done with it."""

import re
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anchor_utils.augmentation import apply_augmentation, augment, draw_augmentation


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("flip", [False, True])
def test_augment_takes_one_of_the_possible_crops_each_equally_often(generator, dtype, flip):
    image = torch.randint(1, 256, (2, 5, 4), generator=generator).to(dtype)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    crops = {}
    for top in range(3):
        for left in range(3):
            crop = padded[:, top : top + 5, left : left + 4]
            crops[top, left, False] = crop
            if flip:
                crops[top, left, True] = crop.flip(2)
    result = augment(image.expand(1800, 2, 5, 4), padding=1, flip=flip, generator=generator)
    assert result.shape == (1800, 2, 5, 4)
    assert result.dtype == dtype
    found = Counter()
    for key, crop in crops.items():
        found[key] = int((result == crop).flatten(1).all(1).sum())
    assert sum(found.values()) == 1800
    share = 1800 / len(crops)
    assert all(0.6 * share < number < 1.4 * share for number in found.values())


def test_augment_keeps_each_image_in_its_place(generator):
    images = torch.arange(1, 101, dtype=torch.uint8)[:, None, None, None].expand(100, 1, 6, 6)
    result = augment(images, padding=2, flip=True, generator=generator)
    assert result.flatten(1).amax(1).tolist() == list(range(1, 101))
    assert set(result.unique().tolist()) == set(range(101))  # the padding is zero


def test_augment_without_crop_and_flip_is_the_identity(digits):
    images = digits.test.images[:10]
    assert torch.equal(augment(images, padding=0), images)


def test_augment_flips_half_of_the_images(generator):
    images = torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8).expand(1000, 1, 1, 3)
    result = augment(images, padding=0, flip=True, generator=generator).flatten(1)
    mirrored = result.eq(torch.tensor([3, 2, 1])).all(1)
    assert (mirrored | result.eq(torch.tensor([1, 2, 3])).all(1)).all()
    assert 430 < mirrored.sum() < 570


def test_augment_is_decided_by_the_generator_alone(digits):
    images = digits.test.images[:20]
    state = torch.get_rng_state()
    first, second, other = (
        augment(images, padding=2, flip=True, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_augment_refuses_negative_padding(digits):
    with pytest.raises(ValueError, match=r"padding=-1: allowed is 0 or more"):
        augment(digits.test.images[:2], padding=-1)


def one_by_one(images, mirrored, offsets, erased=None, *, padding):
    """The definition, an image at a time."""
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    height, width = images.shape[2:]
    result = []
    for image, flip, top, left in zip(padded, mirrored, *offsets.squeeze(2).tolist(), strict=True):
        crop = image[:, top : top + height, left : left + width]
        result.append(crop.flip(2) if flip else crop.clone())
    for image, box in zip(result, [] if erased is None else erased.squeeze(2).T, strict=erased is not None):
        rows, columns = (
            min(round(share * side), side) for share, side in zip(box[:2].tolist(), (height, width), strict=True)
        )
        top, left = int(box[2] * (height - rows + 1)), int(box[3] * (width - columns + 1))
        image[:, top : top + rows, left : left + columns] = 0
    return torch.stack(result)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("padding", "flip"), [(0, False), (0, True), (2, False), (2, True)])
def test_augment_is_draw_and_apply(generator, dtype, padding, flip):
    images = torch.randint(1, 256, (50, 3, 6, 5), generator=generator).to(dtype)
    state = generator.get_state()
    result = augment(images, padding=padding, flip=flip, generator=generator)
    end = generator.get_state()
    generator.set_state(state)
    # The kind and order of the draws is what makes old runs repeatable.
    mirrored = torch.rand(50, generator=generator) < 0.5 if flip else torch.zeros(50)
    offsets = (
        torch.randint(0, 2 * padding + 1, (2, 50, 1), generator=generator) if padding else torch.zeros(2, 50, 1).int()
    )
    assert torch.equal(generator.get_state(), end)
    assert torch.equal(result, one_by_one(images, mirrored, offsets, padding=padding))
    generator.set_state(state)
    draws = draw_augmentation(50, padding=padding, flip=flip, generator=generator)
    assert torch.equal(generator.get_state(), end)
    assert torch.equal(apply_augmentation(draws, images, padding=padding), result)


class ForbidWhatAGraphCannotCapture(TorchDispatchMode):
    """Fails where a value would be read by the host, be random, be copied from elsewhere or decide on a shape."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        forbidden = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.nondeterministic_seeded}
        if function is torch.ops.aten.index.Tensor and not any(i.dtype == torch.bool for i in args[1] if i is not None):
            forbidden = set()  # only a mask makes the shape depend on values
        assert not {*function.tags} & forbidden, function
        assert not re.search("_to_copy|copy_|lift_fresh", str(function)), function
        return function(*args, **(kwargs or {}))


def test_a_graph_can_capture_what_is_applied(generator):
    images = torch.randint(0, 256, (9, 3, 6, 5), generator=generator).byte()
    draws = draw_augmentation(9, padding=2, flip=True, erasing=0.5, generator=generator)
    with ForbidWhatAGraphCannotCapture():
        apply_augmentation(draws, images, padding=2)
    breaking = [lambda: images[0, 0, 0, 0].item(), lambda: images[draws.mirrored], lambda: draws.mirrored.nonzero()]
    breaking += [lambda: torch.rand(3), lambda: torch.tensor(3), lambda: images.to("meta")]
    for breaks in breaking:
        with pytest.raises(AssertionError), ForbidWhatAGraphCannotCapture():
            breaks()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_replays_new_draws():
    generator = torch.Generator("cuda").manual_seed(0)
    images = torch.randint(0, 256, (64, 3, 32, 32), generator=generator, device="cuda").byte()
    draws = draw_augmentation(64, padding=4, flip=True, erasing=0.5, generator=generator)
    apply_augmentation(draws, images, padding=4)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = apply_augmentation(draws, images, padding=4)
    new = draw_augmentation(64, padding=4, flip=True, erasing=0.5, generator=generator)
    for held, drawn in zip(draws, new, strict=True):
        held.copy_(drawn)
    graph.replay()
    assert torch.equal(result.cpu(), one_by_one(images.cpu(), *(held.cpu() for held in draws), padding=4))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_erasing_blanks_the_boxes_that_were_drawn(generator, dtype):
    images = torch.randint(1, 256, (200, 3, 16, 12), generator=generator).to(dtype)
    draws = draw_augmentation(200, padding=2, flip=True, erasing=0.7, generator=generator)
    result = apply_augmentation(draws, images, padding=2)
    assert torch.equal(result, one_by_one(images, *draws, padding=2))
    assert result.dtype == dtype


def test_erasing_takes_the_share_and_the_sizes_that_it_promises(generator):
    images = torch.ones(4000, 1, 32, 32)
    blank = augment(images, padding=0, erasing=0.25, generator=generator).eq(0).flatten(1).float().mean(1)
    erased = blank[blank > 0]
    assert 0.22 < len(erased) / 4000 < 0.28
    assert erased.min() > 0.01  # of the image, after rounding to whole pixels
    assert erased.max() <= 0.42
    assert erased.mean() == pytest.approx(0.21, abs=0.02)
    assert augment(images[:50], padding=0, erasing=1.0, generator=generator).eq(0).flatten(1).any(1).all()


def test_what_erasing_draws_leaves_the_other_draws_alone(generator):
    state = generator.get_state()
    plain = draw_augmentation(30, padding=2, flip=True, generator=generator)
    generator.set_state(state)
    erasing = draw_augmentation(30, padding=2, flip=True, erasing=0.5, generator=generator)
    assert plain.erased is None
    assert all(torch.equal(first, second) for first, second in zip(plain[:2], erasing[:2], strict=True))
