"""The attacks against closed forms, and the promises they make about images, model and random numbers."""

import copy
import math
import os
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor, nn

from anchor_utils.attacks import Norm, VanishedGradientWarning, cross_entropy, fgsm, margin, pgd, random_point
from anchor_utils.models import AnchorNet, resolve_precision

NORMS = ["linf", "l2"]


class Linear(nn.Module):
    """A linear classifier of flattened images with the normalisation by mean and standard deviation inside."""

    def __init__(self, shape: tuple[int, ...] = (3, 4, 4), classes: int = 2, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.mean = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
        self.std = torch.tensor([0.2, 0.3, 0.1]).view(3, 1, 1)
        weight = torch.randn(classes, math.prod(shape), generator=generator) / 20
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.std).flatten(1) @ self.weight.T

    def ascent(self, labels: Tensor) -> Tensor:
        """Gradient of (wrong logit - true logit) by the pixels, the same at every point; for two classes."""
        difference = self.weight[1 - labels] - self.weight[labels]
        return difference.detach().view(-1, 3, 4, 4) / self.std


class Wavy(nn.Module):
    """Logits that go up and down many times within the ball: every start ends somewhere else."""

    def __init__(self, features: int = 12, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(20 * torch.randn(3, features, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.sin(x.flatten(1) @ self.weight.T)


class Smooth(nn.Module):
    """Works for any shape and dtype; bounded logits, so the softmax never saturates."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        weight = torch.linspace(-1, 1, 3 * x.shape[1], dtype=torch.float64).mul(50).add(1).sin().view(3, -1)
        return torch.tanh(x @ weight.T.to(x) / x.shape[1] ** 0.5)


def images_and_labels(count: int = 8, shape=(3, 4, 4), classes: int = 2, seed: int = 1, inside: float = 0.0):
    """Random images that stay `inside` away from 0 and 1, and random labels."""
    generator = torch.Generator().manual_seed(seed)
    images = inside + (1 - 2 * inside) * torch.rand(count, *shape, generator=generator)
    return images, torch.randint(classes, (count,), generator=generator)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- closed forms on a linear model ----------------------------------------------------------------------------------


def worst_case(model: Linear, images: Tensor, labels: Tensor, epsilon: float, norm: str) -> Tensor:
    ascent = model.ascent(labels)
    if norm == "linf":
        return images + epsilon * ascent.sign()
    return images + epsilon * ascent / ascent.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [0.01, 0.1])
def test_fgsm_reaches_the_worst_case_of_a_linear_model(norm, epsilon, loss):
    model, (images, labels) = Linear(), images_and_labels(inside=0.15)
    adversarial = fgsm(model, images, labels, epsilon=epsilon, norm=norm, loss=loss)
    torch.testing.assert_close(adversarial, worst_case(model, images, labels, epsilon, norm), atol=1e-6, rtol=0)


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize(("norm", "step_size", "steps"), [("linf", 0.03, 8), ("l2", 1.0, 8)])
def test_pgd_reaches_the_worst_case_of_a_linear_model(norm, step_size, steps, random_start):
    model, (images, labels) = Linear(), images_and_labels(inside=0.15)
    adversarial = pgd(
        model,
        images,
        labels,
        epsilon=0.1,
        step_size=step_size,
        steps=steps,
        norm=norm,
        random_start=random_start,
        generator=seeded(),
    )
    best = worst_case(model, images, labels, 0.1, norm)
    torch.testing.assert_close(adversarial, best, atol=1e-5, rtol=0)
    # The loss that is reached is the closed form: the margin grows by epsilon times the dual norm of the gradient.
    ascent = model.ascent(labels).flatten(1)
    gain = 0.1 * (ascent.abs().sum(1) if norm == "linf" else ascent.norm(dim=1))
    reached = margin(model(adversarial), labels) - margin(model(images), labels)
    torch.testing.assert_close(reached, gain, atol=1e-4, rtol=1e-4)


def test_at_the_border_of_the_box_the_worst_case_is_clipped():
    model, (images, labels) = Linear(), images_and_labels()
    images = images.round()  # black and white
    adversarial = fgsm(model, images, labels, epsilon=0.2)
    assert torch.equal(adversarial, (images + 0.2 * model.ascent(labels).sign()).clamp(0, 1))


def test_one_step_of_pgd_is_fgsm():
    model, (images, labels) = Linear(classes=4), images_and_labels(classes=4)
    for norm in NORMS:
        one_step = pgd(
            model, images, labels, epsilon=0.1, step_size=0.1, steps=1, norm=norm, random_start=False, restarts=1
        )
        assert torch.equal(fgsm(model, images, labels, epsilon=0.1, norm=norm), one_step)


def test_a_single_l2_step_has_the_length_of_the_step_however_small_the_gradient():
    class Faint(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 1e-25 * super().forward(x)

    images, labels = images_and_labels(inside=0.2)
    adversarial = pgd(
        Faint(), images, labels, epsilon=0.1, step_size=0.05, steps=1, norm="l2", random_start=False, loss="margin"
    )
    lengths = (adversarial - images).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((len(images),), 0.05), atol=1e-5, rtol=0)


def test_losses_by_hand():
    logits, labels = torch.tensor([[1.0, 3, 2], [0, 0, 5]]), torch.tensor([1, 0])
    assert margin(logits, labels).tolist() == [-1, 5]
    expected = torch.stack([torch.logsumexp(logits[0], 0) - 3, torch.logsumexp(logits[1], 0)])
    torch.testing.assert_close(cross_entropy(logits, labels), expected)


# --- box and ball ----------------------------------------------------------------------------------------------------

SHAPES = [(3, 3, 4, 4), (2, 1, 5, 3), (4, 7), (1, 1), (2, 2, 3, 2, 2), (0, 3, 4, 4), (0, 5)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.filterwarnings("ignore::anchor_utils.attacks.VanishedGradientWarning")  # not the question here
@settings(max_examples=150, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    norm=st.sampled_from(NORMS),
    epsilon=st.one_of(st.floats(0, 1), st.sampled_from([0.031, 8 / 255, 1e-12])),
    relative_step=st.floats(0.01, 5),
    steps=st.integers(1, 3),
    random_start=st.booleans(),
    options=st.sampled_from([{}, {"keep": "worst"}, {"targeted": True}, {"loss": "margin"}, {"fgsm": True}]),
    seed=st.integers(0, 1000),
)
def test_outputs_are_images_within_epsilon(
    shape, dtype, norm, epsilon, relative_step, steps, random_start, options, seed
):
    epsilon = epsilon * 3 if norm == "l2" else epsilon
    generator = seeded(seed)
    # A third of the pixels each: black, white, in between.
    images = (3 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1).clamp(0, 1).to(dtype)
    labels = torch.randint(3, shape[:1], generator=generator)
    before = images.clone()
    if options == {"fgsm": True}:
        adversarial = fgsm(Smooth(), images, labels, epsilon=epsilon, norm=norm)
    else:
        adversarial = pgd(
            Smooth(),
            images,
            labels,
            epsilon=epsilon,
            step_size=min(relative_step * epsilon, 1.0 if norm == "linf" else 15.0) or 0.1,
            steps=steps,
            norm=norm,
            random_start=random_start,
            generator=generator,
            **options,
        )
    assert adversarial.shape == images.shape
    assert adversarial.dtype == dtype
    assert not adversarial.requires_grad
    assert torch.equal(images, before)
    assert ((adversarial >= 0) & (adversarial <= 1)).all()
    delta = (adversarial.double() - images.double()).flatten(1)
    rounding = torch.finfo(dtype).eps  # of one pixel, all of which are at most 1
    if norm == "linf":
        assert (delta.abs() <= epsilon + rounding).all()
    else:
        dimensions = math.prod(shape[1:])
        assert (delta.norm(dim=1) <= epsilon * (1 + dimensions * rounding) + dimensions**0.5 * rounding).all()


@pytest.mark.parametrize("norm", NORMS)
def test_epsilon_zero_returns_the_images(norm):
    model, (images, labels) = Linear(), images_and_labels()
    for adversarial in (
        fgsm(model, images, labels, epsilon=0, norm=norm),
        pgd(model, images, labels, epsilon=0, step_size=0.1, steps=3, norm=norm, restarts=2, keep="worst"),
    ):
        assert torch.equal(adversarial, images)


def test_an_empty_batch_comes_back_empty():
    model = AnchorNet(width=2, projection_dim=0)
    for norm in NORMS:
        adversarial = pgd(
            model,
            torch.rand(0, 3, 8, 8),
            torch.zeros(0, dtype=torch.long),
            epsilon=0.1,
            step_size=0.1,
            steps=2,
            norm=norm,
            restarts=2,
        )
        assert adversarial.shape == (0, 3, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", NORMS)
def test_half_precision_images_are_attacked_in_float32_and_rounded_at_the_end(norm, dtype):
    model, (images, labels) = Observed(Linear(classes=4)), images_and_labels(classes=4)
    arguments = {"epsilon": 0.1, "step_size": 0.003, "steps": 5, "norm": norm}
    half = pgd(model, images.to(dtype), labels, generator=seeded(), **arguments)
    single = pgd(model, images.to(dtype).float(), labels, generator=seeded(), **arguments)
    assert half.dtype == dtype
    assert torch.equal(half, single.to(dtype))
    assert model.seen == {torch.float32}


@pytest.mark.parametrize("norm", NORMS)
def test_each_image_is_attacked_on_its_own(norm):
    model, (images, labels) = Linear(classes=4), images_and_labels(classes=4)
    settings = {"epsilon": 0.1, "step_size": 0.04, "steps": 4, "norm": norm, "random_start": False}
    together = pgd(model, images, labels, **settings)
    apart = torch.cat([pgd(model, images[i : i + 1], labels[i : i + 1], **settings) for i in range(len(images))])
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=0)


def test_works_inside_no_grad():
    model, (images, labels) = Linear(), images_and_labels()
    outside = fgsm(model, images, labels, epsilon=0.1)
    with torch.no_grad():
        assert torch.equal(fgsm(model, images, labels, epsilon=0.1), outside)


# --- random start ----------------------------------------------------------------------------------------------------


def start_of_pgd(images: Tensor, epsilon: float, norm: Norm, generator: torch.Generator) -> Tensor:
    """The start, seen through an attack whose only step is far too short to matter."""
    labels = torch.zeros(len(images), dtype=torch.long)
    return pgd(Smooth(), images, labels, epsilon=epsilon, step_size=1e-9, steps=1, norm=norm, generator=generator)


START = {
    "random_point": lambda *arguments: random_point(*arguments),
    "pgd": lambda *arguments: start_of_pgd(*arguments),
}


@pytest.mark.parametrize("start", START.values(), ids=START.keys())
def test_linf_start_is_uniform_in_the_cube(start):
    images = torch.full((1000, 5), 0.5)
    offsets = (start(images, 0.3, "linf", seeded(0)) - images) / 0.3
    assert kstest(offsets.flatten().numpy(), "uniform", args=(-1, 2)).pvalue > 0.01
    assert offsets.T.corrcoef().fill_diagonal_(0).abs().max() < 0.2  # pixels are drawn independently
    assert kstest(offsets.mean(1).mul(math.sqrt(15)).numpy(), "norm").pvalue > 0.001


@pytest.mark.parametrize("start", START.values(), ids=START.keys())
@pytest.mark.parametrize("shape", [(3,), (2, 1), (3, 2, 2)], ids=str)
def test_l2_start_is_uniform_in_the_ball(start, shape):
    images = torch.full((4000, *shape), 0.5)
    offsets = ((start(images, 0.3, "l2", seeded(0)) - images) / 0.3).flatten(1)
    radius = offsets.norm(dim=1)
    assert kstest((radius ** offsets.shape[1]).numpy(), "uniform").pvalue > 0.01
    assert (offsets / radius[:, None]).mean(0).abs().max() < 0.05
    if offsets.shape[1] == 3:  # Archimedes: on a sphere in space each coordinate is uniform
        directions = offsets / radius[:, None]
        assert all(kstest(axis.numpy(), "uniform", args=(-1, 2)).pvalue > 0.01 for axis in directions.T)


def test_the_start_is_clipped_to_the_box():
    black = random_point(torch.zeros(500, 4), 0.3, "linf", seeded())
    assert black.min() == 0
    assert (black == 0).float().mean() == pytest.approx(0.5, abs=0.05)  # the half of the ball that is outside


def test_the_generator_decides_the_start_and_the_global_one_is_untouched():
    images, labels = images_and_labels(classes=3)
    arguments = {"epsilon": 0.1, "step_size": 0.01, "steps": 2, "restarts": 2}
    for norm in NORMS:
        before = torch.get_rng_state()
        first = pgd(Smooth(), images, labels, norm=norm, generator=seeded(5), **arguments)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(pgd(Smooth(), images, labels, norm=norm, generator=seeded(5), **arguments), first)
        assert not torch.equal(pgd(Smooth(), images, labels, norm=norm, generator=seeded(6), **arguments), first)


def test_without_a_generator_the_global_seed_decides():
    images, labels = images_and_labels(classes=3)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(pgd(Smooth(), images, labels, epsilon=0.1, step_size=0.01, steps=2))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_without_a_random_start_nothing_is_random():
    images, labels = images_and_labels(classes=3)
    before = torch.get_rng_state()
    pgd(Smooth(), images, labels, epsilon=0.1, step_size=0.01, steps=2, random_start=False)
    fgsm(Smooth(), images, labels, epsilon=0.1)
    assert torch.equal(torch.get_rng_state(), before)


# --- restarts, keep, targets, true labels ----------------------------------------------------------------------------


def outcome(model: nn.Module, images: Tensor, labels: Tensor, targeted: bool = False) -> list[tuple[bool, float]]:
    """Per image: whether the attack succeeded, and the loss that it wanted to raise."""
    with torch.no_grad():
        logits = model(images)
    losses = cross_entropy(logits, labels) * (-1 if targeted else 1)
    fooled = (logits.argmax(1) == labels) == targeted
    return list(zip(fooled.tolist(), losses.tolist(), strict=True))


def worst_of(model: nn.Module, candidates: list[Tensor], labels: Tensor, targeted: bool = False) -> Tensor:
    """The worst candidate per image, picked in plain Python."""
    outcomes = [outcome(model, candidate, labels, targeted) for candidate in candidates]
    choice = [max(range(len(candidates)), key=lambda c: outcomes[c][i]) for i in range(len(labels))]
    return torch.stack([candidates[c][i] for i, c in enumerate(choice)])


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_restarts_return_the_worst_of_the_single_tries(norm, targeted):
    model, (images, labels) = Wavy(), images_and_labels(40, (12,), classes=3)
    settings = {"epsilon": 0.1, "step_size": 0.02, "steps": 2, "norm": norm, "targeted": targeted}
    stream = seeded(3)
    tries = [pgd(model, images, labels, generator=stream, **settings) for _ in range(5)]
    together = pgd(model, images, labels, restarts=5, generator=seeded(3), **settings)
    for got, *single in zip(*(outcome(model, c, labels, targeted) for c in (together, *tries)), strict=True):
        assert got >= max(single)
    assert torch.equal(together, worst_of(model, tries, labels, targeted))
    assert not any(torch.equal(together, single) for single in tries)  # the choice is made image by image


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_keep_worst_returns_the_worst_iterate_and_keep_final_the_last(norm, targeted):
    model, (images, labels) = Wavy(), images_and_labels(40, (12,), classes=3)
    settings = {"epsilon": 0.2, "step_size": 0.15, "norm": norm, "targeted": targeted, "random_start": False}
    iterates = [images, *(pgd(model, images, labels, steps=steps, **settings) for steps in range(1, 6))]
    worst = pgd(model, images, labels, steps=5, keep="worst", **settings)
    assert torch.equal(worst, worst_of(model, iterates, labels, targeted))
    assert torch.equal(pgd(model, images, labels, steps=5, keep="final", **settings), iterates[-1])
    assert not torch.equal(worst, iterates[-1])


def test_keep_worst_prefers_a_misclassified_image_to_a_higher_loss():
    """With three classes the loss can be higher where the true class still wins."""
    surface = torch.tensor([[1.0, 0.99, 0.98], [0.5, 0.6, -5]])  # logits at the image, and after the step

    class TwoPoints(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return surface[0] + (surface[1] - surface[0]) * x[:, :1] * 10

    image, label = torch.zeros(1, 1), torch.tensor([0])
    losses = cross_entropy(surface, torch.tensor([0, 0]))
    assert losses[0] > losses[1]  # and only the second one is misclassified
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pgd(
            TwoPoints(),
            image,
            label,
            epsilon=0.1,
            step_size=0.1,
            steps=1,
            random_start=False,
            keep="worst",
            loss=lambda logits, labels: margin(logits, labels) * 1e-3 + 2 * (logits.argmax(1) == labels),
        )
    assert found.item() == pytest.approx(0.1)


@pytest.mark.parametrize("norm", NORMS)
def test_targeted_reaches_the_target_on_a_linear_model(norm):
    model, (images, _) = Linear(classes=5), images_and_labels(inside=0.3)
    target = torch.arange(len(images)) % 5
    before = cross_entropy(model(images), target)
    settings = {"epsilon": 0.3 if norm == "linf" else 2.0, "norm": norm, "targeted": True}
    adversarial = pgd(model, images, target, step_size=0.3, steps=20, generator=seeded(), **settings)
    assert (model(images).argmax(1) != target).any()
    assert (model(adversarial).argmax(1) == target).all()
    assert (cross_entropy(model(adversarial), target) < before).all()
    assert (cross_entropy(model(fgsm(model, images, target, **settings)), target) < before).all()


def test_targeted_steps_are_the_opposite_of_untargeted_ones():
    model, (images, labels) = Linear(), images_and_labels(inside=0.15)
    away = fgsm(model, images, labels, epsilon=0.1) - images
    towards = fgsm(model, images, labels, epsilon=0.1, targeted=True) - images
    torch.testing.assert_close(away, -towards)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_true_labels_are_attacked_not_predictions(attack):
    """Where the model is wrong already, the loss of the true label must rise all the same."""
    model, (images, _) = Linear(), images_and_labels(inside=0.15)
    labels = 1 - model(images).argmax(1)  # wrong on every image
    if attack == "fgsm":
        adversarial = fgsm(model, images, labels, epsilon=0.1)
    else:
        adversarial = pgd(model, images, labels, epsilon=0.1, step_size=0.05, steps=5, generator=seeded())
    assert (cross_entropy(model(adversarial), labels) > cross_entropy(model(images), labels)).all()
    assert (model(adversarial).argmax(1) != labels).all()


def test_a_loss_of_ones_own():
    model, (images, labels) = Linear(), images_and_labels(inside=0.15)
    adversarial = fgsm(model, images, labels, epsilon=0.1, loss=lambda logits, labels: -cross_entropy(logits, labels))
    assert torch.equal(adversarial, fgsm(model, images, labels, epsilon=0.1, targeted=True))


# --- the model comes back as it was ----------------------------------------------------------------------------------


class Recorder(nn.Module):
    """Notes the mode of each layer during the forward pass; can fail at a given call."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm, self.frozen_norm, self.dropout = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Dropout(0.2)
        self.head = nn.Linear(16, 3)
        self.modes: list[list[bool]] = []
        self.calls, self.fail_at = 0, fail_at

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append([self.norm.training, self.frozen_norm.training, self.dropout.training])
        assert not any(parameter.requires_grad for parameter in self.parameters())
        x = self.frozen_norm(self.norm(self.convolution(x)))
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("the model failed")
        return self.head(self.dropout(x).flatten(1))


def trained_recorder(fail_at: int | None = None) -> Recorder:
    """In train mode but for one BatchNorm, with a frozen layer, some gradients and statistics that are not trivial."""
    torch.manual_seed(0)
    model = Recorder(fail_at).train()
    model.frozen_norm.eval()
    model.convolution.requires_grad_(False)
    for parameter in model.head.parameters():
        parameter.grad = torch.randn_like(parameter)
    with torch.no_grad():
        model.norm(torch.randn(5, 4, 2, 2))
    return model


@pytest.mark.parametrize("fail_at", [None, 1, 3], ids=["no failure", "first call fails", "third call fails"])
@pytest.mark.parametrize("model_mode", ["eval", "unchanged"])
def test_the_model_comes_back_exactly_as_it_was(model_mode, fail_at):
    model = trained_recorder(fail_at)
    modes = {name: module.training for name, module in model.named_modules()}
    parameters = {name: (p, p.requires_grad, p.grad) for name, p in model.named_parameters()}
    state = copy.deepcopy(model.state_dict())
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    images, labels = images_and_labels(4, (3, 4, 4), classes=3)
    arguments = {"epsilon": 0.1, "step_size": 0.05, "steps": 3, "keep": "worst", "restarts": 2}
    if fail_at is None:
        pgd(model, images, labels, model_mode=model_mode, **arguments)
    else:
        with pytest.raises(RuntimeError, match="the model failed"):
            pgd(model, images, labels, model_mode=model_mode, **arguments)

    assert {name: module.training for name, module in model.named_modules()} == modes
    assert modes["norm"]
    assert not modes["frozen_norm"]
    for name, parameter in model.named_parameters():
        original, requires_grad, grad = parameters[name]
        assert parameter is original
        assert parameter.requires_grad == requires_grad
        assert parameter.grad is grad
        assert grad is None or torch.equal(grad, gradients[name])
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert all(buffer is buffers[name] for name, buffer in model.named_buffers())


@pytest.mark.parametrize(
    ("model_mode", "seen"), [("eval", [False, False, False]), ("unchanged", [True, False, True])], ids=str
)
def test_the_attack_sees_the_mode_that_was_asked_for(model_mode, seen):
    model, (images, labels) = trained_recorder(), images_and_labels(4, (3, 4, 4), classes=3)
    pgd(model, images, labels, epsilon=0.1, step_size=0.05, steps=2, keep="worst", model_mode=model_mode)
    assert model.modes == [seen] * 3
    model.modes.clear()
    fgsm(model, images, labels, epsilon=0.1)
    assert model.modes == [[False, False, False]]


# --- vanished gradients and half precision ---------------------------------------------------------------------------


class Rounded(Linear):
    """A broken defence: rounding the input destroys the gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 16).round() / 16 + 0 * x)


class Saturated(Linear):
    """A broken defence: huge logits put every softmax at exactly 0 or 1."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e6 * super().forward(x)


@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_a_vanished_gradient_warns(attack):
    images, _ = images_and_labels()
    for model in (Rounded(), Saturated()):
        labels = model(images).argmax(1)
        settings = {"epsilon": 0.001} if attack is fgsm else {"epsilon": 0.001, "step_size": 0.001, "steps": 3}
        with pytest.warns(VanishedGradientWarning, match="exactly zero in 100% of all image-steps"):
            attack(model, images, labels, **settings)


def no_warning(call):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return call()


def test_an_ordinary_model_does_not_warn():
    images, labels = images_and_labels(classes=10, shape=(3, 8, 8))
    torch.manual_seed(0)
    model = AnchorNet(width=4, projection_dim=0)
    no_warning(lambda: pgd(model, images, labels, epsilon=0.1, step_size=0.05, steps=3))
    no_warning(lambda: fgsm(model, images, labels, epsilon=0.1))


def test_the_margin_loss_survives_a_saturated_softmax():
    model, (images, _) = Saturated(), images_and_labels(inside=0.15)
    labels = model(images).argmax(1)
    adversarial = no_warning(lambda: fgsm(model, images, labels, epsilon=0.1, loss="margin"))
    torch.testing.assert_close(adversarial, worst_case(model, images, labels, 0.1, "linf"), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("dead", "warns"), [(1, False), (2, False), (3, True)])
def test_more_than_a_tenth_of_dead_images_warns(dead, warns):
    class Dead(Linear):
        def forward(self, x: Tensor) -> Tensor:
            alive = (torch.arange(len(x)) >= dead).float().view(-1, 1)
            return super().forward(x) * alive

    images, _ = images_and_labels(20)
    labels = Dead()(images).argmax(1)  # all still right, so that all are to be moved
    call = lambda: fgsm(Dead(), images, labels, epsilon=0.1)  # noqa: E731
    if warns:
        with pytest.warns(VanishedGradientWarning, match="15%"):
            call()
    else:
        no_warning(call)


def test_a_target_that_is_reached_needs_no_gradient_any_more():
    class Loud(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 3000 * super().forward(x)

    images, _ = images_and_labels(inside=0.3)
    target = 1 - Loud()(images).argmax(1)
    settings = {"epsilon": 0.3, "step_size": 0.1, "steps": 20, "targeted": True}
    adversarial = no_warning(lambda: pgd(Loud(), images, target, **settings))
    assert Loud()(adversarial).argmax(1).eq(target).all()


@pytest.mark.parametrize("cut", [lambda x: x.detach(), lambda x: x.detach() + 0 * x])
def test_a_model_without_a_gradient_warns_and_does_not_crash(cut):
    class Cut(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(cut(x))

    images, _ = images_and_labels()
    labels = Cut()(images).argmax(1)
    with pytest.warns(VanishedGradientWarning, match="100%"):
        adversarial = pgd(Cut(), images, labels, epsilon=0.1, step_size=0.1, steps=2, random_start=False)
    torch.testing.assert_close(adversarial, images)


def test_a_point_with_nan_logits_does_not_displace_one_that_succeeds():
    class Sometimes(Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x) * (torch.nan if self.calls == 2 else 1)

    images, _ = images_and_labels(inside=0.3)
    labels = Linear()(images).argmax(1)
    settings = {"epsilon": 0.3, "step_size": 0.1, "random_start": False, "keep": "worst"}
    with warnings.catch_warnings(action="ignore"):
        adversarial = pgd(Sometimes(), images, labels, **settings, steps=4)
    exact = pgd(Linear(), images, labels, **settings, steps=3)  # one step is lost, where there was no gradient
    assert Linear()(exact).argmax(1).ne(labels).any()
    torch.testing.assert_close(adversarial, exact)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_any_integer_names_a_class(dtype):
    images, labels = images_and_labels()
    settings = {"epsilon": 0.1, "step_size": 0.05, "steps": 2, "random_start": False}
    expected = pgd(Linear(), images, labels, **settings)
    assert torch.equal(pgd(Linear(), images, labels.to(dtype), **settings), expected)


@pytest.mark.parametrize(("images_dtype", "model_dtype"), [("float64", "float32"), ("float32", "bfloat16")])
def test_images_and_network_may_differ_in_precision(images_dtype, model_dtype):
    images, labels = images_and_labels(classes=10, shape=(3, 8, 8))
    images = images.to(getattr(torch, images_dtype))
    model = AnchorNet(width=4, projection_dim=8).to(getattr(torch, model_dtype))
    adversarial = pgd(model, images, labels, epsilon=0.1, step_size=0.05, steps=2)
    assert adversarial.dtype == images.dtype
    assert (adversarial - images).abs().max() <= 0.1 + 1e-6


class Overflowing(nn.Module):
    """Fine in float32; in float16 the first layer overflows to infinity and the gradient becomes NaN."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(12, 3, bias=False), nn.Linear(3, 3)
        nn.init.constant_(self.first.weight, 60000.0)
        nn.init.normal_(self.last.weight, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.flatten(1)))


@pytest.mark.parametrize("norm", NORMS)
def test_overflow_in_half_precision_warns_and_never_returns_nan(norm):
    model, (images, labels) = Overflowing(), images_and_labels(classes=3, shape=(12,), inside=0.2)
    no_warning(lambda: fgsm(model, images, labels, epsilon=0.1, norm=norm))
    with pytest.warns(VanishedGradientWarning):
        adversarial = pgd(model, images, labels, epsilon=0.1, step_size=0.05, steps=2, norm=norm, precision="float16")
    assert adversarial.isfinite().all()
    assert ((adversarial - images).flatten(1).norm(dim=1, p=math.inf) <= 0.1 + 1e-6).all()


class Observed(nn.Module):
    """Notes the dtype of the network's output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: set[torch.dtype] = set()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        self.seen.add(logits.dtype)
        return logits


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("norm", NORMS)
def test_half_precision_attacks_stay_within_epsilon_and_still_attack(precision, norm):
    torch.manual_seed(0)
    model = Observed(AnchorNet(width=4, projection_dim=0))
    images, labels = images_and_labels(classes=10, shape=(3, 8, 8))
    epsilon = 0.05 if norm == "linf" else 1.0
    settings = {"epsilon": epsilon, "step_size": epsilon / 2, "steps": 4, "norm": norm, "random_start": False}
    adversarial = pgd(model, images, labels, precision=precision, **settings)
    assert model.seen == {getattr(torch, precision)}
    assert adversarial.dtype == torch.float32
    assert ((adversarial >= 0) & (adversarial <= 1)).all()
    delta = (adversarial - images).flatten(1)
    assert (delta.norm(dim=1, p=math.inf if norm == "linf" else 2) <= epsilon + 1e-5).all()
    model.eval()
    clean, reached, exact = (
        cross_entropy(model(x), labels).mean() for x in (images, adversarial, pgd(model, images, labels, **settings))
    )
    assert reached - clean > 0.8 * (exact - clean)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_float32_is_the_default_even_inside_autocast(attack):
    torch.manual_seed(0)
    model = Observed(AnchorNet(width=4, projection_dim=0))
    images, labels = images_and_labels(classes=10, shape=(3, 8, 8))

    def run() -> Tensor:
        if attack == "fgsm":
            return fgsm(model, images, labels, epsilon=0.1)
        return pgd(model, images, labels, epsilon=0.1, step_size=0.05, steps=2, generator=seeded())

    outside = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run()
    assert model.seen == {torch.float32}
    assert torch.equal(inside, outside)


def test_the_size_of_the_batch_does_not_shrink_the_gradient():
    """The loss is summed: with a mean, a large batch would push these float16 gradients under the smallest number."""

    class Faint(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.flatten(1).sum(1), 0 * x.flatten(1).sum(1)], 1).half() * 1e-6

    images, labels = images_and_labels(512, (4,), inside=0.2)
    adversarial = no_warning(lambda: fgsm(Faint(), images, labels, epsilon=0.1))
    torch.testing.assert_close(adversarial, images + 0.1 * (2 * labels[:, None] - 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("device", ["cpu", "cuda", torch.device("cuda", 1), "mps"])
def test_a_named_precision_is_taken_at_its_word(name, device):
    assert resolve_precision(name, device) == getattr(torch, name)


@pytest.mark.parametrize(
    ("capabilities", "onednn", "expected"),
    [
        ({"avx512_bf16": True}, True, torch.bfloat16),
        ({"amx_bf16": True}, True, torch.bfloat16),
        ({"amx_bf16": True}, False, torch.float32),
        ({"avx2": True, "avx512_bf16": False}, True, torch.float32),
        ({}, True, torch.float32),
    ],
    ids=str,
)
def test_auto_on_a_cpu_asks_the_hardware_and_onednn(monkeypatch, capabilities, onednn, expected):
    for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn, raising=False)
    assert resolve_precision("auto", "cpu") == expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ({}, None),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "torch.float32"),
        ({"DNNL_MAX_CPU_ISA": "avx2"}, "torch.float32"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "torch.float32"),  # bfloat16 is emulated there
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, None),
    ],
    ids=str,
)
def test_auto_is_what_onednn_was_allowed(limit, expected):
    """In a process of its own: oneDNN reads the variable once. None: what the hardware has."""
    capabilities = torch.cpu.get_capabilities()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_MAX_CPU_ISA")} | limit
    code = "from anchor_utils.models import resolve_precision; print(resolve_precision('auto', 'cpu'))"
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == (expected or ("torch.bfloat16" if native else "torch.float32"))


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_on_a_gpu_takes_bfloat16_only_where_it_is_native(monkeypatch, native, expected):
    """A T4 emulates bfloat16: supported, but slow."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert resolve_precision("auto", "cuda:0") == expected
    assert resolve_precision("auto", "mps") == torch.float32


# --- errors ----------------------------------------------------------------------------------------------------------

IMAGES, LABELS = torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 1])
BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"epsilon": -0.1}, r"epsilon=-0.1: allowed is \[0, 1\]"),
    ({"epsilon": 8}, r"epsilon=8: allowed is \[0, 1\]"),
    ({"epsilon": math.nan}, "epsilon=nan"),
    ({"epsilon": -1, "norm": "l2"}, "epsilon=-1: allowed is a finite radius"),
    ({"epsilon": math.inf, "norm": "l2"}, "epsilon=inf: allowed is a finite radius"),
    ({"epsilon": math.nan, "norm": "l2"}, "epsilon=nan"),
    ({"norm": "l1"}, "norm='l1': allowed are 'linf', 'l2'"),
    ({"step_size": 0}, "step_size=0: allowed is a finite number above 0"),
    ({"step_size": math.nan}, "step_size=nan"),
    ({"steps": 0}, "steps=0: allowed is 1 or more"),
    ({"steps": 2.5}, "steps=2.5: allowed is 1 or more, a whole number"),
    ({"restarts": 0}, "restarts=0: allowed is 1"),
    ({"restarts": 2, "random_start": False}, "restarts=2: .*random_start"),
    ({"loss": "mse"}, "loss='mse': allowed are 'ce', 'margin' or a function"),
    ({"keep": "best"}, "keep='best': allowed is 'final' or 'worst'"),
    ({"model_mode": "train"}, "model_mode='train': allowed is 'eval' or 'unchanged'"),
    ({"precision": "float64"}, "precision='float64': allowed are float32, tf32, auto, bfloat16, float16"),
    ({"images": IMAGES + 0.6}, r"images lie in \[1.1, 1.1\]: allowed is \[0, 1\]"),
    ({"images": IMAGES - 0.6}, r"images lie in \[-0.1, -0.1\]"),
    ({"images": IMAGES * math.nan}, "images lie in"),
    ({"images": (IMAGES * 255).byte()}, "images have dtype torch.uint8: .*divide uint8 by 255"),
    ({"labels": LABELS.float()}, "labels have .*torch.float32: allowed are 2 integers"),
    ({"labels": torch.tensor([0, 1, 1])}, r"labels have shape \(3,\)"),
    ({"labels": LABELS[:, None]}, r"labels have shape \(2, 1\)"),
    ({"labels": LABELS.bool()}, "labels have .*torch.bool: allowed are 2 integers"),
    ({"labels": [0, 1]}, "labels are a list: allowed is a torch.Tensor"),
    ({"labels": LABELS.to("meta")}, "on cpu, cpu and meta: allowed is one device"),
    ({"images": IMAGES.numpy()}, "images are a ndarray: allowed is a torch.Tensor"),
    ({"images": IMAGES[0, 0, 0]}, r"images have shape \(4,\): allowed is \(N, ...\)"),
    ({"images": IMAGES[0], "labels": LABELS[0]}, r"a single image is a batch of one, image\[None\]"),
    ({"epsilon": 8}, r"did you mean 8/255 = 0.0314\?"),
    ({"epsilon": "8/255"}, "epsilon='8/255': .*write 0.0313725"),
    ({"epsilon": "0.5", "norm": "l2"}, "epsilon='0.5': .*write 0.5"),
    ({"epsilon": None}, "epsilon=None: allowed is"),
    ({"step_size": 2}, r"step_size=2: allowed is at most 1 .*did you mean 2/255 = 0.00784\?"),
    ({"step_size": "1e-3"}, "step_size='1e-3': .*write 0.001"),
]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 5], r"labels=5: allowed are 0 to 4 for a network with 5 outputs; labels start at 0, subtract 1"),
        ([0, 9], r"labels=9: allowed are 0 to 4 for a network with 5 outputs$"),
        ([0, -100], "labels=-100: allowed are 0 to 4"),
    ],
)
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_labels_are_compared_with_the_outputs_once_before_any_step(labels, message, loss):
    model = Observed(Linear(classes=5))
    model.calls = 0
    model.register_forward_hook(lambda *_: setattr(model, "calls", model.calls + 1))
    with pytest.raises(ValueError, match=message):
        pgd(model, IMAGES, torch.tensor(labels), epsilon=0.1, step_size=0.1, steps=3, loss=loss)
    assert model.calls == 1
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_network_on_another_device_is_refused():
    with pytest.raises(ValueError, match="model, images and labels are on meta, cpu and cpu: allowed is one device"):
        fgsm(Linear().to("meta"), IMAGES, LABELS, epsilon=0.1)


def test_numbers_of_numpy_and_torch_are_numbers():
    arguments = {"step_size": np.float32(0.05), "steps": 2, "random_start": False}
    first, second = (
        pgd(Linear(), IMAGES, LABELS, epsilon=e, **arguments) for e in (np.float64(0.1), torch.tensor(0.1))
    )
    torch.testing.assert_close(first, second)


class Untouched(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the model was called before the arguments were checked")


@pytest.mark.parametrize(("bad", "message"), BAD_ARGUMENTS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_bad_argument_of_pgd_is_named_before_any_work(bad, message):
    good = {"images": IMAGES, "labels": LABELS, "epsilon": 0.1, "step_size": 0.01, "steps": 2}
    with pytest.raises(ValueError, match=message):
        pgd(Untouched(), **(good | bad))


FGSM_ARGUMENTS = {"epsilon", "norm", "loss", "precision", "images", "labels"}


@pytest.mark.parametrize(("bad", "message"), [case for case in BAD_ARGUMENTS if case[0].keys() <= FGSM_ARGUMENTS])
def test_a_bad_argument_of_fgsm_is_named_before_any_work(bad, message):
    with pytest.raises(ValueError, match=message):
        fgsm(Untouched(), **({"images": IMAGES, "labels": LABELS, "epsilon": 0.1} | bad))


def test_the_largest_radius_is_allowed():
    images, labels = images_and_labels()
    adversarial = fgsm(Linear(), images, labels, epsilon=1)
    assert set(adversarial.unique().tolist()) <= {0.0, 1.0}
    assert F.cross_entropy(Linear()(adversarial), labels) > F.cross_entropy(Linear()(images), labels)
