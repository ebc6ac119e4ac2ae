"""AutoAttack (Croce & Hein, arXiv 2003.01690), its first two stages as a cheaper screen, and Square alone.

The attacks are those of pyautoattack; here they get the network in a form that they can work with, and what they leave
behind is put back: the global random state, the trace function, and their own counters.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging.handlers import BufferingHandler
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from anchor_utils.attacks import Norm
from anchor_utils.checks import check_epsilon, check_inputs
from anchor_utils.folding import for_attack
from anchor_utils.models import frozen, resolve_precision
from anchor_utils.outcomes import Journal, attack_outcomes, clean_outcomes, logits_of

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
STAGES = {"screen": STANDARD[:2], "autoattack": STANDARD}


def autoattack_possible(classes: int) -> bool:
    """Whether "screen" and "autoattack" can be run: the targeted loss of both needs four classes."""
    return classes >= 4


def check_classes(model: nn.Module, images: Tensor) -> int:
    """Number of classes of a network; ValueError if there are too few for AutoAttack."""
    classes = logits_of(model, images[:1]).shape[1]
    if not autoattack_possible(classes):
        raise ValueError(f"the model has {classes} classes: AutoAttack's targeted loss needs at least 4")
    return classes


def screen_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the screen that are in a results table of AutoAttack: what stood after the stages of the screen."""
    return table[table["attack"] == f"autoattack/{STAGES['screen'][-1]}"].assign(attack="screen")


class _Adapter(nn.Module):
    """Hands AutoAttack gradients in the plain memory layout, which its ``.view`` calls need, and float32 logits."""

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, images: Tensor) -> Tensor:
        images = images.flatten(1).unflatten(1, images.shape[1:])
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32):
            return self.model(images).float()


@contextmanager
def _session(seed: int) -> Iterator[list[logging.LogRecord]]:
    """What AutoAttack leaves behind, put back; gives the list in which its messages appear."""
    from pyautoattack import checks

    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    trace = sys.gettrace()
    logger, messages = logging.getLogger("auto-attack"), BufferingHandler(sys.maxsize)
    messages.setLevel(logging.WARNING)
    propagate = logger.propagate
    logger.addHandler(messages)
    logger.propagate = False
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield messages.buffer
    finally:
        logger.removeHandler(messages)
        logger.propagate = propagate
        sys.settrace(trace)
        checks.funcs.update(dict.fromkeys(checks.funcs, 0))


def autoattack_outcomes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    seed: int = 0,
    stages: Sequence[str] = STANDARD,
    precision: str = "float32",
    batch_size: int = 250,
    journal: Journal | None = None,
) -> dict[str, tuple[Tensor, float, str]]:
    """AutoAttack, standard version, with the outcome after each of its stages.

    The stages see only the images that the stages before them left standing, as in the original.

    Args:
        stages: a beginning of ("apgd-ce", "apgd-t", "fab-t", "square"); all four are AutoAttack, the first two the
            cheaper screen.
        precision: of the attacks' queries, as in :func:`anchor_utils.attacks.pgd`. Below float32 an attack is faster
            and can be weaker: it leaves alone what the network misreads in this precision and not in float32, for
            example. Whether it succeeded is decided in float32 by `model` itself, not by the folded copy that is
            queried (:func:`.for_attack`): every stage gets the images that are still right there.

    Returns:
        For each stage the outcomes (N,) so far, its seconds, and what AutoAttack's checks said.
    """
    labels, journal = check_inputs(model, images, labels), journal or Journal()
    if not len(images):
        raise ValueError("images: allowed is one or more")
    check_epsilon(epsilon, norm)
    if tuple(stages) != STANDARD[: len(stages)]:
        raise ValueError(f"stages={tuple(stages)}: allowed is a beginning of {STANDARD}")
    dtype, classes = resolve_precision(precision, images.device), check_classes(model, images)
    outcome = clean_outcomes(model, images, labels, batch_size, journal)
    # Whole, as in the original, unless there is a file that wants to be written on the way.
    kept: dict[str, Any] = {"journal": journal, "block_size": batch_size if journal.path else len(images)}
    found: dict[str, tuple[Tensor, float, str]] = {}
    with frozen(model, "eval"), _session(seed) as messages:
        queried = _Adapter(for_attack(model), dtype)
        adversary = _adversary(queried, images.device, epsilon, norm, seed, min(9, classes - 1))

        def attack(x: Tensor, y: Tensor) -> Tensor:
            messages.clear()
            return adversary.run_standard_evaluation(x.contiguous(), y, batch_size=batch_size)[0]

        for stage in stages:
            start, before, said = journal.clock(), outcome, list[str]()
            adversary.attacks_to_run = [stage]
            kept |= {"name": f"{stage}/", "standing": before}
            kept |= {"state": (lambda: [message.getMessage() for message in messages], said.extend)}
            outcome = attack_outcomes(model, images, labels, attack, batch_size=batch_size, **kept)
            lost = int((before & ~outcome).sum()) / len(outcome)
            if stage == "square" and lost > 0.002:  # AutoAttack's own check, which needs all stages in one call
                said.append(f"Square lowered the accuracy by {lost:.2%}: are the gradients masked?")
            found[stage] = (outcome, journal.clock() - start, "; ".join(dict.fromkeys(said)))
    return found


def _adversary(model: nn.Module, device: torch.device, epsilon: float, norm: str, seed: int, targets: int) -> Any:
    """AutoAttack against a network in eval mode, with as many target classes as there are."""
    from pyautoattack import AutoAttack

    kind = {"linf": "Linf", "l2": "L2"}[norm]
    adversary = AutoAttack(model.eval(), norm=kind, eps=epsilon, seed=seed, version="standard", device=device)
    adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = targets
    return adversary


def square_outcomes(
    model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, queries: int, seed: int = 0
) -> Tensor:
    """(N,) outcomes under Square alone (Andriushchenko et al., arXiv 1912.00049), L-infinity: no gradients."""
    from pyautoattack.square import SquareAttack

    with frozen(model, "eval"), _session(seed), torch.no_grad():
        settings = {"eps": epsilon, "n_queries": queries, "seed": seed, "device": images.device}
        square = SquareAttack(_Adapter(for_attack(model)).eval(), norm="Linf", **settings)
        return attack_outcomes(model, images, labels, lambda x, y: square.perturb(x.contiguous(), y))
