"""Checks for masked gradients: does the robustness come from the model, or from gradients that mislead the attack?

The signs are those of Athalye et al. (arXiv 1802.00420, section 3.1) and Carlini et al. (arXiv 1902.06705). A failed
check does not say how robust the model is; it says that the white-box number is not to be believed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from anchor_utils import attacks
from anchor_utils.autoattack import square_outcomes
from anchor_utils.folding import for_attack
from anchor_utils.outcomes import clean_outcomes, logits_of, noise_outcomes, pgd_outcomes


@dataclass(frozen=True)
class _Case:
    """A model, images, and the PGD under test."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    epsilon: float
    step_size: float
    steps: int
    surrogate: nn.Module | None
    square_queries: int
    tolerance: float
    seed: int

    @property
    def attack(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon, "step_size": self.step_size, "steps": self.steps}

    def accuracy(self, **changes: Any) -> float:
        """Under PGD with these changes."""
        arguments = {**self.attack, "seed": self.seed, **changes}
        return _share(pgd_outcomes(self.model, self.images, self.labels, **arguments))

    @cached_property
    def white_box(self) -> float:
        return self.accuracy()

    def attacked(self, attack: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Adversarial images (N, C, H, W), all of them, whatever the model makes of them."""
        batches = zip(self.images.split(250), self.labels.split(250), strict=True)
        return torch.cat([attack(*batch) for batch in batches])

    def never_rises(self, accuracies: dict[Any, float]) -> bool:
        return all(later <= earlier + self.tolerance for earlier, later in pairwise(accuracies.values()))


Finding = tuple[bool | None, str]  # passed (None: not run), evidence


def _share(outcome: Tensor) -> float:
    return outcome.float().mean().item()


def _listed(values: dict[Any, float]) -> str:
    return ", ".join(f"{key:g}: {value:.1%}" for key, value in values.items())


def _more_steps(case: _Case) -> Finding:
    steps = case.steps
    found = {1: case.accuracy(steps=1), steps: case.white_box, 5 * steps: case.accuracy(steps=5 * steps)}
    return case.never_rises(found), f"accuracy by steps {_listed(found)}"


def _larger_epsilon(case: _Case) -> Finding:
    found = {
        radius: case.white_box if radius == case.epsilon else case.accuracy(epsilon=radius, step_size=radius / 8)
        for radius in sorted({case.epsilon / 2, case.epsilon, min(1.0, 2 * case.epsilon)})
    }
    return case.never_rises(found), f"accuracy by epsilon {_listed(found)}"


def _largest_epsilon(case: _Case) -> Finding:
    found = case.accuracy(epsilon=1.0, step_size=0.1, steps=max(50, case.steps))
    return found <= 0.05, f"accuracy {found:.1%}, allowed 5%"


def _noise(case: _Case) -> Finding:
    found = _share(noise_outcomes(case.model, case.images, case.labels, epsilon=case.epsilon, seed=case.seed))
    passed = found > case.white_box or case.white_box == 0
    return passed, f"accuracy under noise {found:.1%}, under PGD {case.white_box:.1%}"


def _transfer(case: _Case) -> Finding:
    if case.surrogate is None:
        return None, "no surrogate model given"
    generator = torch.Generator().manual_seed(case.seed)
    transferred = case.attacked(partial(attacks.pgd, for_attack(case.surrogate), **case.attack, generator=generator))
    found = _share(clean_outcomes(case.model, transferred, case.labels))
    evidence = f"accuracy under transfer {found:.1%}, under PGD {case.white_box:.1%}"
    return found >= case.white_box - case.tolerance, evidence


def _square(case: _Case) -> Finding:
    settings: dict[str, Any] = {"epsilon": case.epsilon, "queries": case.square_queries, "seed": case.seed}
    found = _share(square_outcomes(case.model, case.images, case.labels, **settings))
    evidence = f"accuracy under Square with {case.square_queries} queries {found:.1%}, under PGD {case.white_box:.1%}"
    return found >= case.white_box - case.tolerance, evidence


def _rising_loss(case: _Case) -> Finding:
    nudged = case.attacked(partial(attacks.fgsm, for_attack(case.model), epsilon=case.epsilon / 10))
    before, after = (attacks.cross_entropy(logits_of(case.model, x), case.labels) for x in (case.images, nudged))
    found = _share(after > before)
    return found >= 0.9, f"it rises within epsilon / 10 for {found:.1%} of the images, wanted 90%"


def _margin(case: _Case) -> Finding:
    found = case.accuracy(loss="margin")
    evidence = f"accuracy with cross-entropy {case.white_box:.1%}, with the margin {found:.1%}"
    return case.white_box - found <= case.tolerance, evidence


CHECKS: dict[str, Callable[[_Case], Finding]] = {
    "more steps are never weaker": _more_steps,
    "a larger epsilon is never weaker": _larger_epsilon,
    "epsilon = 1 defeats the model": _largest_epsilon,
    "random noise is weaker than the gradient attack": _noise,
    "a transferred attack is weaker than the white-box attack": _transfer,
    "black-box Square is weaker than the white-box attack": _square,
    "the loss rises along its gradient": _rising_loss,
    "PGD on the margin agrees with PGD on cross-entropy": _margin,
}


def gradient_masking_checks(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step_size: float | None = None,
    steps: int = 20,
    surrogate: nn.Module | None = None,
    square_queries: int = 500,
    tolerance: float = 0.03,
    seed: int = 0,
) -> pd.DataFrame:
    """The checks on some images.

    Args:
        images, labels: (N, C, H, W) in [0, 1] and (N,); a hundred or more make the evidence worth something.
        epsilon, step_size, steps: of the L-infinity PGD under test; the step size is epsilon / 8 if not given.
        surrogate: another model for the same task; its adversarial examples are transferred. Without one that
            check is not run.
        square_queries: of the black-box Square attack.
        tolerance: differences in accuracy up to here are taken for noise.

    Returns:
        A table with the columns check, passed (None: not run) and evidence.
    """
    labels = attacks.check_inputs(model, images, labels)
    if not len(images):
        raise ValueError("images: allowed is one or more")
    attacks.check_epsilon(epsilon, "linf")
    if epsilon == 0:
        raise ValueError("epsilon=0: allowed is a radius above 0, there is nothing to check without an attack")
    step_size = epsilon / 8 if step_size is None else step_size
    attacks.check_steps(step_size, steps, restarts=1)
    case = _Case(model, images, labels, epsilon, step_size, steps, surrogate, square_queries, tolerance, seed)
    rows = []
    # A vanished gradient is a finding, and stands in the table.
    with warnings.catch_warnings(action="ignore", category=attacks.VanishedGradientWarning):
        for name, check in CHECKS.items():
            passed, evidence = check(case)
            rows.append({"check": name, "passed": passed, "evidence": evidence})
    return pd.DataFrame(rows)
