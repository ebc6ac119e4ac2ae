"""Honest robust accuracy: attacks on test images, with per-image outcomes and 95% intervals, as one table.

The outcomes that the table counts are explained in :mod:`anchor_utils.outcomes`, its columns in
:mod:`anchor_utils.results`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch import Tensor, nn

from anchor_utils.attacks import LOSSES, Norm
from anchor_utils.autoattack import STAGES, autoattack_outcomes, check_classes
from anchor_utils.checks import check_epsilon, check_steps, device_of
from anchor_utils.config import ATTACKS, unknown_name
from anchor_utils.data import Dataset, Split
from anchor_utils.folding import foldable
from anchor_utils.masking import gradient_masking_checks as gradient_masking_checks
from anchor_utils.models import checksum, resolve_precision, tf32
from anchor_utils.outcomes import Journal, clean_outcomes, fgsm_outcomes, noise_outcomes, pgd_outcomes
from anchor_utils.outcomes import logits_of as logits_of
from anchor_utils.results import result_row, versions

Call = tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]  # function, its arguments, columns of the table


class NonFiniteLogitsWarning(UserWarning):
    """Logits were infinite or NaN: the network diverged, or overflows."""


def evaluate(
    model: nn.Module,
    dataset: Dataset | Split,
    attacks: Sequence[str] = ("clean", "pgd"),
    *,
    epsilon: float | None = None,
    step_size: float | None = None,
    steps: int = 20,
    restarts: int = 1,
    norm: Norm = "linf",
    loss: Literal["ce", "margin"] = "ce",
    iterate: Literal["final", "any"] = "any",
    images: int | None = None,
    precision: str = "float32",
    seed: int = 0,
    batch_size: int = 250,
    resume: str | Path | None = None,
) -> pd.DataFrame:
    """Accuracy under each attack, as one tidy table.

    Args:
        model: maps images in [0, 1] to logits; evaluated where its parameters are. An :class:`.AnchorNet` need not be
            folded for speed: attacks do that, and the network as given decides, see :mod:`anchor_utils.outcomes`.
        dataset: its test split is used, or the split itself.
        attacks: any of "clean"; "noise" (uniform on the ball); "fgsm"; "pgd"; "screen" (APGD-CE + APGD-T, a cheap
            stand-in for AutoAttack and never to be called so); "autoattack" (the standard version).
        epsilon, step_size, steps, restarts, norm, loss: of the attacks, see :func:`anchor_utils.attacks.pgd`. Only
            "clean" needs no epsilon; the step size is epsilon / 8 if not given.
        iterate: what counts against the model in "pgd": "final", only the last iterate of a run, or "any" iterate.
        images: use only the first so many images.
        precision: in which AutoAttack and its screen query the network, see :func:`.autoattack_outcomes`. "tf32" is
            for everything: it lets an NVIDIA GPU round the inputs of float32 convolutions, in PGD and in verdicts too.
        seed: of all attacks.
        resume: a file NAME.json that keeps what is finished after every `batch_size` images, or a folder in which it
            gets a name of its own. The same call goes on from there, see :class:`anchor_utils.outcomes.Journal`.

    Returns:
        A results table (:mod:`anchor_utils.results`), a row an attack; the stages of AutoAttack have rows of their own.

    Raises:
        ValueError: unknown attack, parameter out of range, no images, labels that are no outputs of the network, too
            few classes for AutoAttack, or `resume` is damaged or the file of another evaluation.

    Warns:
        NonFiniteLogitsWarning: there were infinite or NaN logits; these images count as misclassified.
    """
    given = {"norm": norm, "epsilon": epsilon, "step_size": step_size, "steps": steps, "restarts": restarts}
    given = _checked(attacks, batch_size, {**given, "loss": loss, "iterate": iterate})
    split = _first(dataset, images)
    device = device_of(model, split.images)
    dtype = str(resolve_precision(precision, device)).removeprefix("torch.")
    calls = _calls(given, seed, precision if precision == "tf32" else dtype)
    journal = Journal() if resume is None else Journal(resume, _identity(model, split, attacks, batch_size, calls))
    x, y = split.inputs().to(device), split.labels.to(device)
    rows: list[dict[str, Any]] = []
    with tf32(precision == "tf32"):
        if not STAGES.keys().isdisjoint(attacks) and not set(attacks) <= journal.parts.keys():
            check_classes(model, x)  # before other attacks take their time
        for name in attacks:
            rows += journal.part(name, partial(_rows, name, calls[name], model, x, y, batch_size, journal))["rows"]
    if journal.broken:
        warnings.warn(_not_finite(rows), NonFiniteLogitsWarning, stacklevel=2)
    return pd.DataFrame(rows)


def _checked(attacks: Sequence[str], batch_size: int, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters that were given, and those that were not; ValueError for what is out of range."""
    for name in attacks:
        if name not in ATTACKS:
            raise ValueError(unknown_name("attack", name, list(ATTACKS)))
    epsilon, step_size = given["epsilon"], given["step_size"]
    if epsilon is None:
        if set(attacks) - {"clean"}:
            raise ValueError("epsilon=None: allowed is a radius; only 'clean' needs none")
        epsilon = 0.0
    check_epsilon(epsilon, given["norm"])
    step_size = epsilon / 8 or 1.0 if step_size is None else step_size
    check_steps(step_size, given["steps"], given["restarts"], norm=given["norm"])
    for name, allowed in (("loss", LOSSES), ("iterate", ("final", "any"))):
        if given[name] not in allowed:
            raise ValueError(f"{name}={given[name]!r}: allowed are {', '.join(map(repr, allowed))}")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: allowed is 1 or more")
    return {**given, "epsilon": epsilon, "step_size": step_size}


def _first(dataset: Dataset | Split, images: int | None) -> Split:
    split = dataset.test if isinstance(dataset, Dataset) else dataset
    if not len(split):
        raise ValueError("dataset: allowed is one with test images, this one has none")
    if images is not None and not 1 <= images <= len(split):
        raise ValueError(f"images={images}: allowed is 1 to {len(split)}, the images there are")
    return split[:images]


def _calls(given: dict[str, Any], seed: int, precision: str) -> dict[str, Call]:
    """What each attack calls."""
    ball = {"norm": given["norm"], "epsilon": given["epsilon"]}
    one_step = {"step_size": given["epsilon"], "steps": 1, "restarts": 1, "loss": given["loss"]}
    seeded, shown, queries = ball | {"seed": seed}, ball | {"attack_seed": seed}, {"precision": precision}
    gradients = queries if precision == "tf32" else {}  # of FGSM and PGD, else strictly in float32
    return {
        "clean": (clean_outcomes, {}, {}),
        "noise": (noise_outcomes, seeded, shown),
        "fgsm": (fgsm_outcomes, {**ball, "loss": given["loss"], **gradients}, shown | one_step | gradients),
        "pgd": (pgd_outcomes, seeded | given | gradients, shown | given | gradients),
        **{
            name: (autoattack_outcomes, seeded | queries | {"stages": stages}, shown | queries)
            for name, stages in STAGES.items()
        },
    }


def _identity(
    model: nn.Module, split: Split, attacks: Sequence[str], batch_size: int, calls: dict[str, Call]
) -> dict[str, Any]:
    """Everything that the table depends on."""
    identity = {"attacks": list(attacks), **calls["autoattack"][2], **calls["pgd"][2], "batch_size": batch_size}
    if foldable(model):  # a file from before attacks folded by themselves has not this, and is refused
        identity["attacked"] = "with BatchNorm folded"
    # Strides and the like are in no tensor.
    identity |= {"network": checksum(model.state_dict(), {"network": repr(model)})[:16], "images": split.identity()}
    return identity | {name: version for name, version in versions().items() if name in ("torch", "pyautoattack")}


def _rows(
    name: str, call: Call, model: nn.Module, x: Tensor, y: Tensor, batch_size: int, journal: Journal
) -> dict[str, Any]:
    """The row of an attack, and before it those of its stages."""
    (function, arguments, columns), start, broken = call, journal.clock(), journal.broken
    found = function(model, x, y, **arguments, batch_size=batch_size, journal=journal)
    stages = found if isinstance(found, dict) else {}
    outcome = [*stages.values()][-1][0] if stages else found
    notes = [notes for _, _, notes in stages.values() if notes]
    if broken := journal.broken - broken:
        notes.append(f"{broken} of {len(x)} images: logits are not finite")
    rows = [result_row(f"{name}/{stage}", *reached, **columns) for stage, reached in stages.items()]
    rows.append(result_row(name, outcome, journal.clock() - start, "; ".join(dict.fromkeys(notes)), **columns))
    return {"rows": rows}


def _not_finite(rows: list[dict[str, Any]]) -> str:
    found = "; ".join(f"{row['attack']}: {row['notes']}" for row in rows if "not finite" in row["notes"])
    return f"{found}. These images count as misclassified"
