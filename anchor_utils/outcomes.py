"""Outcomes under attacks, one bit an image, and the file from which an interrupted evaluation goes on.

An *outcome* is True where the image is still classified correctly after the attack. It is always decided in float32 on
the network that was given, in eval mode, where an image with a logit that is not finite counts as misclassified;
attacks compute their gradients in float32 too, unless asked otherwise. Whether an NVIDIA GPU may round convolutions to
TF32 is what :func:`anchor_utils.evaluation.evaluate` is asked; a function called by itself decides as torch is set. The
network and the global random state are left as they were.

Attacks query the network's copy with folded BatchNorm where there is one (:func:`anchor_utils.folding.for_attack`): the
same function up to rounding, and about half again as fast. The attack chooses its image by what this copy says,
iterate by iterate, and the network that was given has the last word on that one image. An image on the very border,
which only the copy misreads, therefore counts as robust, and no network is ever blamed for what another one says.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anchor_utils import attacks
from anchor_utils.attacks import Norm
from anchor_utils.checks import check_epsilon, check_inputs, class_labels, count_classes
from anchor_utils.files import sha256, write_text
from anchor_utils.folding import for_attack
from anchor_utils.models import frozen
from anchor_utils.results import pack_outcomes, unpack_outcomes

Attack = Callable[[Tensor, Tensor], Tensor]  # images (N, C, H, W) and labels (N,) to adversarial images
State = tuple[Callable[[], Any], Callable[[Any], object]]


class Journal:
    """The finished parts of an evaluation, in a JSON file that is written anew after each; without a path in none.

    The same evaluation goes on from there, after a crash say, and gives the same bits as without interruption; a
    finished one returns at once. The outcomes are those without a file, save for AutoAttack with queries below float32:
    the blocks that it sees, and so its random numbers, can differ.

    Args:
        path: of the file, NAME.json, or a folder in which it gets a name of its own.
        identity: JSON values that say what the parts belong to.

    Raises:
        ValueError: the file is damaged, or belongs to something else.
    """

    def __init__(self, path: str | Path | None = None, identity: dict[str, Any] | None = None) -> None:
        self.path, self.identity = None if path is None else Path(path), identity or {}
        self.parts: dict[str, dict[str, Any]] = {}
        self.within = ""  # what the part at hand is a part of
        self.reused = 0.0  # seconds that reused parts took when they were computed
        self.broken = 0  # images so far with logits that are not finite
        if self.path and (self.path.is_dir() or self.path.suffix != ".json"):
            if self.path.is_file():
                raise ValueError(f"resume={str(path)!r}: allowed is a folder or a file NAME.json, this is another file")
            self.path /= f"{_checksum(self.identity)}.json"
        if not self.path or not self.path.exists():
            return
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            checksum, found, self.parts = content["sha256"], content["identity"], content["parts"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(error) from None
        if checksum != _checksum(found, self.parts):
            raise self._damaged("its checksum does not fit")
        differ = [name for name in {**found, **self.identity} if found.get(name) != self.identity.get(name)]
        if differ:
            changes = "; ".join(f"{name} is {self.identity.get(name)}, there {found.get(name)}" for name in differ)
            raise ValueError(f"resume={str(path)!r}: allowed is a file of this evaluation, this one differs: {changes}")

    def _damaged(self, reason: object) -> ValueError:
        return ValueError(f"resume={str(self.path)!r}: this file is damaged ({reason}); delete it to begin anew")

    def clock(self) -> float:
        """Seconds, what reused parts took included."""
        return time.perf_counter() + self.reused

    def part(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `compute` returns, JSON values, or did return in an earlier process; may be called within `compute`."""
        key = f"{self.within}{name}"
        if key in self.parts:
            self.reused += self.parts[key]["seconds"]
            self.broken += self.parts[key]["broken"]
            return self.parts[key]
        outer, self.within = self.within, f"{key}/"
        start, broken = self.clock(), self.broken
        try:
            found = compute()
        finally:
            self.within = outer
        if self.path:  # the whole replaces its parts
            self.parts = {name: part for name, part in self.parts.items() if not name.startswith(f"{key}/")}
            self.parts[key] = {**found, "seconds": self.clock() - start, "broken": self.broken - broken}
            content = {"sha256": _checksum(self.identity, self.parts), "identity": self.identity, "parts": self.parts}
            write_text(self.path, json.dumps(content, default=float))
        return found


def _checksum(*values: Any) -> str:
    return sha256(json.dumps(values, sort_keys=True, default=float))[:16]


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """Logits (N, K) of images (N, C, H, W), in batches, in eval mode."""
    parts = []
    with frozen(model, "eval"):
        for batch in images.split(batch_size):
            parts.append(model(batch))
            count_classes(parts[-1], len(batch))
    return torch.cat(parts)


def _right(logits: Tensor, labels: Tensor, journal: Journal) -> Tensor:
    """(N,) whether logits (N, K) name the class; argmax would take the first class where all are NaN."""
    finite = logits.isfinite().all(1)
    journal.broken += int((~finite).sum())
    return logits.argmax(1).eq(labels) & finite


def clean_outcomes(
    model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 500, journal: Journal | None = None
) -> Tensor:
    """(N,) whether each unchanged image is classified correctly."""
    labels = check_inputs(model, images, labels)
    logits = logits_of(model, images, batch_size)
    return _right(logits, class_labels(labels, len(labels), logits.shape[1]), journal or Journal())


def attack_outcomes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    standing: Tensor | None = None,
    batch_size: int = 250,
    block_size: int | None = None,
    journal: Journal | None = None,
    name: str = "",
    state: State = (lambda: None, lambda found: None),
) -> Tensor:
    """(N,) outcomes; only images that are classified correctly to begin with, or those `standing`, (N,), are attacked.

    Args:
        block_size: images that are attacked together, and are one part of the journal, with `name` before its number;
            as many as go through the network together, `batch_size`, if not given.
        state: what the first function says after a block stands in the journal too and is told to the second, in this
            process or a later one: an attack that draws random numbers goes on from where they stood.
    """
    journal = journal or Journal()
    outcome = clean_outcomes(model, images, labels, batch_size, journal) if standing is None else standing.clone()
    labels, (save, restore) = labels.long(), state

    def block(index: Tensor) -> dict[str, Any]:
        x, y = images[index], labels[index]
        right = _right(logits_of(model, attack(x, y), batch_size), y, journal)
        return {"outcomes": pack_outcomes(right), "state": save()}

    for number, index in enumerate(outcome.nonzero().flatten().split(block_size or batch_size)):
        if len(index):
            part = journal.part(f"{name}{number}", partial(block, index))
            outcome[index] = torch.from_numpy(unpack_outcomes(part["outcomes"], len(index))).to(outcome.device)
            restore(part["state"])
    return outcome


def _stream(generator: torch.Generator) -> State:
    return (
        lambda: generator.get_state().numpy().tobytes().hex(),
        lambda found: generator.set_state(torch.frombuffer(bytearray.fromhex(found), dtype=torch.uint8)),
    )


def noise_outcomes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    seed: int = 0,
    batch_size: int = 250,
    journal: Journal | None = None,
) -> Tensor:
    """(N,) outcomes under one uniform draw from the epsilon-ball: what no attack worth its name falls behind."""
    check_epsilon(epsilon, norm)
    generator = torch.Generator().manual_seed(seed)

    def attack(x: Tensor, _: Tensor) -> Tensor:
        return attacks.random_point(x, epsilon, norm, generator)

    kept: dict[str, Any] = {"batch_size": batch_size, "journal": journal, "state": _stream(generator)}
    return attack_outcomes(model, images, labels, attack, **kept)


def fgsm_outcomes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    loss: Literal["ce", "margin"] = "ce",
    precision: str = "float32",
    batch_size: int = 250,
    journal: Journal | None = None,
) -> Tensor:
    """(N,) outcomes under FGSM."""
    settings: dict[str, Any] = {"epsilon": epsilon, "norm": norm, "loss": loss, "precision": precision}
    attack = partial(attacks.fgsm, for_attack(model), **settings)
    return attack_outcomes(model, images, labels, attack, batch_size=batch_size, journal=journal)


def pgd_outcomes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    restarts: int = 1,
    norm: Norm = "linf",
    loss: Literal["ce", "margin"] = "ce",
    iterate: Literal["final", "any"] = "any",
    precision: str = "float32",
    seed: int = 0,
    batch_size: int = 250,
    journal: Journal | None = None,
) -> Tensor:
    """(N,) outcomes under PGD. With several restarts an image must survive all of them."""
    generator = torch.Generator().manual_seed(seed)
    settings: dict[str, Any] = {"epsilon": epsilon, "step_size": step_size, "steps": steps, "restarts": restarts}
    settings |= {"norm": norm, "loss": loss, "keep": "worst" if iterate == "any" else "final", "generator": generator}
    settings["precision"] = precision
    kept: dict[str, Any] = {"batch_size": batch_size, "journal": journal, "state": _stream(generator)}
    return attack_outcomes(model, images, labels, partial(attacks.pgd, for_attack(model), **settings), **kept)
