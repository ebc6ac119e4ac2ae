"""Honest robust accuracy: attacks on test images, per-image outcomes, 95% intervals, gradient-masking checks.

An *outcome* is one bit an image: True means still classified correctly after the attack. It is always decided in
float32 on the network in eval mode, where an image with a logit that is not finite counts as misclassified; attacks
compute their gradients in float32 too, unless asked otherwise. (On NVIDIA
GPUs from Ampere on, torch computes float32 convolutions in TF32 unless it is told not to.) The network and the global
random state are left as they were.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version as package_version
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from anchor_utils import attacks as attack_functions
from anchor_utils.attacks import pgd
from anchor_utils.checks import check_epsilon, check_inputs, check_steps, class_labels, count_classes, device_of
from anchor_utils.config import unknown_name
from anchor_utils.data import Dataset, Split
from anchor_utils.files import write_text
from anchor_utils.models import frozen, resolve_precision

ATTACKS = ("clean", "noise", "fgsm", "pgd", "screen", "autoattack")
STAGES = {"screen": ("apgd-ce", "apgd-t"), "autoattack": ("apgd-ce", "apgd-t", "fab-t", "square")}


class NonFiniteLogitsWarning(UserWarning):
    """Logits were infinite or NaN: the network diverged, or overflows."""


class Journal:
    """The finished parts of an evaluation, in a JSON file that is written anew after each; without a path in none.

    Args:
        identity: JSON values that say what the parts belong to.

    Raises:
        ValueError: the file is damaged, or belongs to something else.
    """

    def __init__(self, path: str | Path | None = None, identity: dict[str, Any] | None = None) -> None:
        self.path, self.identity = path and Path(path), identity or {}
        self.parts: dict[str, dict[str, Any]] = {}
        self.within = ""  # what the part at hand is a part of
        self.reused = 0.0  # seconds that reused parts took when they were computed
        self.broken = 0  # images so far with logits that are not finite
        if not self.path or not self.path.exists():
            return
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            checksum, found, self.parts = content["sha256"], content["identity"], content["parts"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(error) from None
        if checksum != _sha256(found, self.parts):
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
            content = {"sha256": _sha256(self.identity, self.parts), "identity": self.identity, "parts": self.parts}
            write_text(self.path, json.dumps(content, default=float))
        return found


def _sha256(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=float).encode()).hexdigest()[:16]


def _weights_sha256(model: nn.Module) -> str:
    checksum = hashlib.sha256(repr(model).encode())  # strides and the like are in no tensor
    for name, value in model.state_dict().items():
        checksum.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        checksum.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return checksum.hexdigest()[:16]


def autoattack_possible(classes: int) -> bool:
    """Whether "screen" and "autoattack" can be run: the targeted loss of both needs four classes."""
    return classes >= 4


def wilson(correct: int, images: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval (Wilson, 1927) of a proportion: (low, high)."""
    interval = binomtest(correct, images).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def evaluate(
    model: nn.Module,
    dataset: Dataset | Split,
    attacks: Sequence[str] = ("clean", "pgd"),
    *,
    epsilon: float | None = None,
    step_size: float | None = None,
    steps: int = 20,
    restarts: int = 1,
    norm: attack_functions.Norm = "linf",
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
        model: maps images in [0, 1] to logits; evaluated where its parameters are.
        dataset: its test split is used, or the split itself.
        attacks: any of "clean"; "noise" (uniform on the ball); "fgsm"; "pgd"; "screen" (APGD-CE + APGD-T, a cheap
            stand-in for AutoAttack and never to be called so); "autoattack" (the standard version).
        epsilon, step_size, steps, restarts, norm, loss: of the attacks, see :func:`anchor_utils.attacks.pgd`. Only
            "clean" needs no epsilon; the step size is epsilon / 8 if not given.
        iterate: what counts against the model in "pgd": "final", only the last iterate of a run, or "any" iterate.
        images: use only the first so many images.
        precision: in which "screen" and "autoattack" query the network, as in :func:`anchor_utils.attacks.pgd`. Below
            float32 an attack is faster and can be weaker: it leaves alone what the network misreads in this precision
            and not in float32, for example. Whether it succeeded is decided in float32 all the same.
        seed: of all attacks.
        resume: a file NAME.json that keeps what is finished, or a folder in which it gets a name of its own; written
            after every `batch_size` images. The same call goes on from there, after a crash say, and gives the same
            bits as without interruption, and a finished one returns at once. The outcomes are those without `resume`,
            save for a `precision` below float32, where the blocks that AutoAttack sees, and so its random numbers, can
            differ.

    Returns:
        One row an attack, and one for each stage of "screen" and "autoattack" (cumulative), with the columns attack,
        accuracy, low and high (95% Wilson interval), correct, images, the attack's parameters, seconds, notes (what
        AutoAttack's own checks said, and how many images had logits that are not finite), and outcomes: one bit an
        image in hexadecimal, see :func:`unpack_outcomes`.

    Raises:
        ValueError: unknown attack, parameter out of range, no images, labels that are no outputs of the network, too
            few classes for AutoAttack, or `resume` is damaged or the file of another evaluation.

    Warns:
        NonFiniteLogitsWarning: there were infinite or NaN logits; these images count as misclassified.
    """
    for name in attacks:
        if name not in ATTACKS:
            raise ValueError(unknown_name("attack", name, list(ATTACKS)))
    if epsilon is None:
        if set(attacks) - {"clean"}:
            raise ValueError("epsilon=None: allowed is a radius; only 'clean' needs none")
        epsilon = 0.0
    check_epsilon(epsilon, norm)
    step_size = epsilon / 8 or 1.0 if step_size is None else step_size
    check_steps(step_size, steps, restarts, norm=norm)
    if loss not in attack_functions.LOSSES:
        raise ValueError(f"loss={loss!r}: allowed are {', '.join(map(repr, attack_functions.LOSSES))}")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: allowed is 1 or more")
    if iterate not in ("final", "any"):
        raise ValueError(f"iterate={iterate!r}: allowed are 'final', 'any'")
    split = dataset.test if isinstance(dataset, Dataset) else dataset
    if not len(split):
        raise ValueError("dataset: allowed is one with test images, this one has none")
    if images is not None:
        if not 1 <= images <= len(split):
            raise ValueError(f"images={images}: allowed is 1 to {len(split)}, the images there are")
        split = split[:images]
    device = device_of(model, split.images)
    precision = str(resolve_precision(precision, device)).removeprefix("torch.")  # what "auto" meant, for the table
    common: dict[str, Any] = {"norm": norm, "epsilon": epsilon, "seed": seed}
    parameters: dict[str, Any] = {"step_size": step_size, "steps": steps, "restarts": restarts, "loss": loss}
    queries: dict[str, Any] = {**common, "precision": precision}
    identity: dict[str, Any] = {}
    if resume is not None:
        identity = {"attacks": list(attacks), **queries, **parameters, "iterate": iterate, "batch_size": batch_size}
        identity |= {"network": _weights_sha256(model), "images": split.identity()}
        identity |= {name: versions()[name] for name in ("torch", "pyautoattack")}
        if Path(resume).suffix != ".json":
            resume = Path(resume) / f"{_sha256(identity)}.json"
    journal = Journal(resume, identity)
    x, y = split.inputs().to(device), split.labels.to(device)
    if not STAGES.keys().isdisjoint(attacks) and not set(attacks) <= journal.parts.keys():
        _check_classes(model, x)

    def row(attack: str, outcome: Tensor, seconds: float, notes: str = "", **parameters: Any) -> dict[str, Any]:
        correct = int(outcome.sum())
        low, high = wilson(correct, len(outcome))
        found = {"attack": attack, "accuracy": correct / len(outcome), "low": low, "high": high}
        found |= {"correct": correct, "images": len(outcome), **parameters, "seconds": round(seconds, 1)}
        return {**found, "notes": notes, "outcomes": pack_outcomes(outcome)}

    def rows(name: str) -> dict[str, Any]:
        start, broken, stages = journal.clock(), journal.broken, {}
        arguments: dict[str, Any] = {"batch_size": batch_size, "journal": journal}
        shown: dict[str, Any] = {}
        if name == "clean":
            outcome = _attacked(model, x, y, None, **arguments)
        elif name == "noise":
            shown = common
            outcome = noise_outcomes(model, x, y, epsilon=epsilon, norm=norm, seed=seed, **arguments)
        elif name == "fgsm":
            shown = {**common, "step_size": epsilon, "steps": 1, "restarts": 1}

            def fgsm(x: Tensor, y: Tensor) -> Tensor:
                return attack_functions.fgsm(model, x, y, epsilon=epsilon, norm=norm, loss=loss)

            outcome = _attacked(model, x, y, fgsm, **arguments)
        elif name == "pgd":
            shown = {**common, **parameters, "iterate": iterate}
            outcome = pgd_outcomes(model, x, y, **shown, **arguments)
        else:
            shown = queries
            stages = autoattack_outcomes(model, x, y, **queries, stages=STAGES[name], **arguments)
            outcome = [stage[0] for stage in stages.values()][-1]
        notes = [notes for _, _, notes in stages.values() if notes]
        if broken := journal.broken - broken:
            notes.append(f"{broken} of {len(x)} images: logits are not finite")
        table = [row(f"{name}/{stage}", *found, **shown) for stage, found in stages.items()]
        table.append(row(name, outcome, journal.clock() - start, "; ".join(dict.fromkeys(notes)), **shown))
        return {"rows": table}

    table = [row for name in attacks for row in journal.part(name, lambda: rows(name))["rows"]]  # noqa: B023
    if journal.broken:
        found = "; ".join(f"{row['attack']}: {row['notes']}" for row in table if "not finite" in row["notes"])
        warnings.warn(f"{found}. These images count as misclassified", NonFiniteLogitsWarning, stacklevel=2)
    return pd.DataFrame(table)


def join_images(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table for blocks of images that :func:`evaluate` attacked one after the other in the same way.

    Outcomes are strung together, seconds added, accuracy and interval computed anew; `notes` are kept once each.
    """
    blocks = [block for table in tables for block in table.to_dict("records")]
    rows = []
    for attack in dict.fromkeys(block["attack"] for block in blocks):
        parts = [block for block in blocks if block["attack"] == attack]
        outcome = np.concatenate([unpack_outcomes(part["outcomes"], part["images"]) for part in parts])
        low, high = wilson(int(outcome.sum()), len(outcome))
        row = {**parts[0], "accuracy": float(outcome.mean()), "low": low, "high": high}
        row |= {"correct": int(outcome.sum()), "images": len(outcome)}
        row |= {"seconds": round(sum(part["seconds"] for part in parts), 1)}
        row["notes"] = "; ".join(dict.fromkeys(part["notes"] for part in parts if part["notes"]))
        rows.append({**row, "outcomes": pack_outcomes(torch.from_numpy(outcome))})
    return pd.DataFrame(rows)


def pack_outcomes(outcome: Tensor) -> str:
    """Bits (N,) as hexadecimal text, the first image in the highest bit."""
    return np.packbits(outcome.cpu().numpy()).tobytes().hex()


def unpack_outcomes(text: str, images: int) -> np.ndarray:
    """The boolean array (N,) that :func:`pack_outcomes` packed."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=images).astype(bool)


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """Logits (N, K) of images (N, C, H, W), in batches, in eval mode."""
    parts = []
    with frozen(model, "eval"):
        for batch in images.split(batch_size):
            parts.append(model(batch))
            count_classes(parts[-1], len(batch))
    return torch.cat(parts)


def clean_outcomes(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 500) -> Tensor:
    """(N,) whether each unchanged image is classified correctly."""
    return _attacked(model, images, labels, None, batch_size=batch_size)


def _right(logits: Tensor, labels: Tensor, journal: Journal) -> Tensor:
    """(N,) whether logits (N, K) name the class; argmax would take the first class where all are NaN."""
    finite = logits.isfinite().all(1)
    journal.broken += int((~finite).sum())
    return logits.argmax(1).eq(labels) & finite


def _attacked(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Callable[[Tensor, Tensor], Tensor] | None,
    *,
    batch_size: int,
    generator: torch.Generator | None = None,
    journal: Journal | None = None,
) -> Tensor:
    """(N,) outcomes; only images that are classified correctly to begin with are attacked, with `generator`."""
    labels, journal = check_inputs(model, images, labels), journal or Journal()
    logits = logits_of(model, images, batch_size)
    labels = class_labels(labels, len(labels), logits.shape[1])
    outcome = _right(logits, labels, journal)
    if attack is None:
        return outcome
    for number, index in enumerate(outcome.nonzero().flatten().split(batch_size)):

        def block() -> dict[str, Any]:
            x, y = images[index], labels[index]  # noqa: B023
            right = _right(logits_of(model, attack(x, y)), y, journal)
            state = generator.get_state().numpy().tobytes().hex() if generator else ""
            return {"outcomes": pack_outcomes(right), "generator": state}

        part = journal.part(str(number), block)
        outcome[index] = torch.from_numpy(unpack_outcomes(part["outcomes"], len(index))).to(outcome.device)
        if generator:  # where it stood after this block, if that was another day
            generator.set_state(torch.frombuffer(bytearray.fromhex(part["generator"]), dtype=torch.uint8))
    return outcome


def noise_outcomes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: attack_functions.Norm = "linf",
    seed: int = 0,
    batch_size: int = 250,
    journal: Journal | None = None,
) -> Tensor:
    """(N,) outcomes under one uniform draw from the epsilon-ball: what no attack worth its name falls behind."""
    check_epsilon(epsilon, norm)
    generator = torch.Generator().manual_seed(seed)

    def attack(x: Tensor, _: Tensor) -> Tensor:
        return attack_functions.random_point(x, epsilon, norm, generator)

    return _attacked(model, images, labels, attack, batch_size=batch_size, generator=generator, journal=journal)


def pgd_outcomes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    restarts: int = 1,
    norm: attack_functions.Norm = "linf",
    loss: Literal["ce", "margin"] = "ce",
    iterate: Literal["final", "any"] = "any",
    seed: int = 0,
    batch_size: int = 250,
    journal: Journal | None = None,
) -> Tensor:
    """(N,) outcomes under PGD, in float32. With several restarts an image must survive all of them."""
    generator = torch.Generator().manual_seed(seed)

    def attack(x: Tensor, y: Tensor) -> Tensor:
        return pgd(
            model,
            x,
            y,
            epsilon=epsilon,
            step_size=step_size,
            steps=steps,
            restarts=restarts,
            norm=norm,
            loss=loss,
            keep="worst" if iterate == "any" else "final",
            generator=generator,
        )

    return _attacked(model, images, labels, attack, batch_size=batch_size, generator=generator, journal=journal)


class _ForAutoAttack(nn.Module):
    """Hands AutoAttack gradients in the plain memory layout, which its ``.view`` calls need, and float32 logits."""

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, images: Tensor) -> Tensor:
        images = images.flatten(1).unflatten(1, images.shape[1:])
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32):
            return self.model(images).float()


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def _autoattack_session(seed: int) -> Iterator[_Messages]:
    """What AutoAttack leaves behind, put back: global RNG, trace function, its own check counters."""
    from pyautoattack import checks

    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    trace = sys.gettrace()
    logger, messages = logging.getLogger("auto-attack"), _Messages()
    propagate = logger.propagate
    logger.addHandler(messages)
    logger.propagate = False
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield messages
    finally:
        logger.removeHandler(messages)
        logger.propagate = propagate
        sys.settrace(trace)
        checks.funcs.update(dict.fromkeys(checks.funcs, 0))


def _check_classes(model: nn.Module, images: Tensor) -> int:
    classes = logits_of(model, images[:1]).shape[1]
    if not autoattack_possible(classes):
        raise ValueError(f"the model has {classes} classes: AutoAttack's targeted loss needs at least 4")
    return classes


def autoattack_outcomes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: attack_functions.Norm = "linf",
    seed: int = 0,
    stages: Sequence[str] = STAGES["autoattack"],
    precision: str = "float32",
    batch_size: int = 250,
    journal: Journal | None = None,
) -> dict[str, tuple[Tensor, float, str]]:
    """AutoAttack, standard version (Croce & Hein, arXiv 2003.01690), with the outcome after each of its stages.

    The stages see only the images that the stages before them left standing, as in the original.

    Args:
        stages: a beginning of ("apgd-ce", "apgd-t", "fab-t", "square"); all four are AutoAttack, the first two the
            cheaper screen.
        precision: of the attacks' queries; every stage gets the images that are still right in float32.

    Returns:
        For each stage the outcomes (N,) so far, its seconds, and what AutoAttack's checks said.
    """
    from pyautoattack import AutoAttack

    labels, journal = check_inputs(model, images, labels), journal or Journal()
    if not len(images):
        raise ValueError("images: allowed is one or more")
    check_epsilon(epsilon, norm)
    if tuple(stages) != STAGES["autoattack"][: len(stages)]:
        raise ValueError(f"stages={tuple(stages)}: allowed is a beginning of {STAGES['autoattack']}")
    dtype = resolve_precision(precision, images.device)
    classes = _check_classes(model, images)
    outcome = _attacked(model, images, labels, None, batch_size=batch_size, journal=journal)
    results: dict[str, tuple[Tensor, float, str]] = {}
    with frozen(model, "eval"), _autoattack_session(seed) as messages:
        adversary = AutoAttack(
            _ForAutoAttack(model, dtype).eval(),
            norm={"linf": "Linf", "l2": "L2"}[norm],
            eps=epsilon,
            seed=seed,
            version="standard",
            device=images.device,
        )
        adversary.apgd_targeted.n_target_classes = min(9, classes - 1)
        adversary.fab.n_target_classes = min(9, classes - 1)
        for stage in stages:
            start, said = journal.clock(), []
            standing = outcome.nonzero().flatten()
            outcome = outcome.clone()
            blocks = standing.split(batch_size if journal.path else max(1, len(standing)))
            for number, index in enumerate(blocks if len(standing) else ()):

                def block() -> dict[str, Any]:
                    messages.texts.clear()
                    adversary.attacks_to_run = [stage]  # noqa: B023
                    x, y = images[index].contiguous(), labels[index]  # noqa: B023
                    adversarial, _ = adversary.run_standard_evaluation(x, y, batch_size=batch_size)
                    right = _right(logits_of(model, adversarial, batch_size), y, journal)
                    return {"outcomes": pack_outcomes(right), "said": list(messages.texts)}

                part = journal.part(f"{stage}/{number}", block)
                outcome[index] = torch.from_numpy(unpack_outcomes(part["outcomes"], len(index))).to(outcome.device)
                said += part["said"]
            lost = (len(standing) - int(outcome.sum())) / len(outcome)
            if stage == "square" and lost > 0.002:  # AutoAttack's own check, which needs all stages in one call
                said.append(f"Square lowered the accuracy by {lost:.2%}: are the gradients masked?")
            results[stage] = (outcome, journal.clock() - start, "; ".join(dict.fromkeys(said)))
    return results


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
    """Does the robustness come from the model, or from gradients that mislead the attack?

    The signs are those of Athalye et al. (arXiv 1802.00420, section 3.1) and Carlini et al. (arXiv 1902.06705). A
    failed check does not say how robust the model is; it says that the white-box number is not to be believed.

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
    labels = check_inputs(model, images, labels)
    if not len(images):
        raise ValueError("images: allowed is one or more")
    check_epsilon(epsilon, "linf")
    if epsilon == 0:
        raise ValueError("epsilon=0: allowed is a radius above 0, there is nothing to check without an attack")
    step_size = epsilon / 8 if step_size is None else step_size
    batches = list(zip(images.split(250), labels.split(250), strict=True))
    rows: list[dict[str, Any]] = []

    def accuracy(**changes: Any) -> float:
        arguments = {"epsilon": epsilon, "step_size": step_size, "steps": steps, "seed": seed, **changes}
        with _vanishing_expected():
            return pgd_outcomes(model, images, labels, **arguments).float().mean().item()

    def add(check: str, passed: bool | None, evidence: str) -> None:
        rows.append({"check": check, "passed": passed, "evidence": evidence})

    def listed(values: dict[Any, float]) -> str:
        return ", ".join(f"{key:g}: {value:.1%}" for key, value in values.items())

    white_box = accuracy()

    by_steps = {1: accuracy(steps=1), steps: white_box, 5 * steps: accuracy(steps=5 * steps)}
    add("more steps are never weaker", _never_rises(by_steps, tolerance), f"accuracy by steps {listed(by_steps)}")

    by_epsilon = {
        radius: white_box if radius == epsilon else accuracy(epsilon=radius, step_size=radius / 8)
        for radius in sorted({epsilon / 2, epsilon, min(1.0, 2 * epsilon)})
    }
    add(
        "a larger epsilon is never weaker",
        _never_rises(by_epsilon, tolerance),
        f"accuracy by epsilon {listed(by_epsilon)}",
    )

    everything = accuracy(epsilon=1.0, step_size=0.1, steps=max(50, steps))
    add("epsilon = 1 defeats the model", everything <= 0.05, f"accuracy {everything:.1%}, allowed 5%")

    noise = noise_outcomes(model, images, labels, epsilon=epsilon, seed=seed).float().mean().item()
    add(
        "random noise is weaker than the gradient attack",
        noise > white_box or white_box == 0,
        f"accuracy under noise {noise:.1%}, under PGD {white_box:.1%}",
    )

    if surrogate is None:
        add("a transferred attack is weaker than the white-box attack", None, "no surrogate model given")
    else:
        settings: dict[str, Any] = {"epsilon": epsilon, "step_size": step_size, "steps": steps}
        settings["generator"] = torch.Generator().manual_seed(seed)
        with _vanishing_expected():
            transferred = torch.cat([pgd(surrogate, *batch, **settings) for batch in batches])
        transfer = clean_outcomes(model, transferred, labels).float().mean().item()
        add(
            "a transferred attack is weaker than the white-box attack",
            transfer >= white_box - tolerance,
            f"accuracy under transfer {transfer:.1%}, under PGD {white_box:.1%}",
        )

    square = _square_outcomes(model, images, labels, epsilon, square_queries, seed).float().mean().item()
    add(
        "black-box Square is weaker than the white-box attack",
        square >= white_box - tolerance,
        f"accuracy under Square with {square_queries} queries {square:.1%}, under PGD {white_box:.1%}",
    )

    before = attack_functions.cross_entropy(logits_of(model, images), labels)
    with _vanishing_expected():
        nudged = torch.cat([attack_functions.fgsm(model, *batch, epsilon=epsilon / 10) for batch in batches])
    rising = (attack_functions.cross_entropy(logits_of(model, nudged), labels) > before).float().mean().item()
    add(
        "the loss rises along its gradient",
        rising >= 0.9,
        f"it rises within epsilon / 10 for {rising:.1%} of the images, wanted 90%",
    )

    margin = accuracy(loss="margin")
    add(
        "PGD on the margin agrees with PGD on cross-entropy",
        white_box - margin <= tolerance,
        f"accuracy with cross-entropy {white_box:.1%}, with the margin {margin:.1%}",
    )
    return pd.DataFrame(rows)


def _vanishing_expected() -> warnings.catch_warnings:
    """Silence: a vanished gradient is a finding of these checks, and stands in their table."""
    return warnings.catch_warnings(action="ignore", category=attack_functions.VanishedGradientWarning)


def _never_rises(accuracies: dict[Any, float], tolerance: float) -> bool:
    values = list(accuracies.values())
    return all(later <= earlier + tolerance for earlier, later in pairwise(values))


def _square_outcomes(
    model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, queries: int, seed: int
) -> Tensor:
    from pyautoattack.square import SquareAttack

    with frozen(model, "eval"), _autoattack_session(seed):
        square = SquareAttack(
            _ForAutoAttack(model).eval(), norm="Linf", eps=epsilon, n_queries=queries, seed=seed, device=images.device
        )
        with torch.no_grad():
            return _attacked(model, images, labels, lambda x, y: square.perturb(x.contiguous(), y), batch_size=250)


def over_seeds(table: pd.DataFrame, by: Sequence[str] = ("method", "attack")) -> pd.DataFrame:
    """Mean and standard deviation (n - 1) of the accuracy across seeds, for each group of `by`."""
    groups = table.groupby(list(by), sort=False)["accuracy"]
    return groups.agg(mean="mean", std="std", runs="count").reset_index()


def versions() -> dict[str, str]:
    """What a result depends on besides its configuration: package versions, Python and hardware."""
    names = ("torch", "torchvision", "numpy", "pyautoattack", "scikit-learn", "accelerate")
    found = {name: package_version(name) for name in names}
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {"python": platform.python_version(), **found, "hardware": hardware, "threads": str(torch.get_num_threads())}


def save_results(path: str | Path, table: pd.DataFrame, **context: Any) -> None:
    """Write a table and everything needed to run it again as one JSON file, atomically.

    Args:
        context: JSON values, such as config=config.model_dump().
    """
    rows = json.loads(table.to_json(orient="records"))
    write_text(path, json.dumps({**context, "versions": versions(), "rows": rows}, indent=1) + "\n")


def read_results(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table that :func:`save_results` wrote, and its context."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return pd.DataFrame(content.pop("rows")), content
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"path={str(path)!r}: allowed is a whole file of save_results; {error!r}") from None
