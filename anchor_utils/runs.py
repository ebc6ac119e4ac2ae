"""A run folder: what it holds, whose it is, and how an interrupted run finds back to where it was.

In it are ``config.json``, ``metrics.jsonl`` (one line an epoch), ``best.safetensors`` (best robust accuracy on held-out
*training* images, clean accuracy breaking ties; the other way round for methods that train on clean images only) and
``last.safetensors``. While a run is under way, ``resume.safetensors`` holds its state, written every few minutes (by
several processes after every epoch), and ``resume-before.safetensors`` the state before that. With ``keep_epochs``
there is also ``epoch-NNN.safetensors`` for every epoch, from the untrained 0 on.

Whose run it is says its *identity*: {"training": the fields that decide the weights, "data": Dataset.identity()}.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from anchor_utils import models
from anchor_utils.config import Config
from anchor_utils.files import write_text
from anchor_utils.models import AnchorNet


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished training run: its folder and its configuration."""

    path: Path
    config: Config

    def model(self, which: Literal["best", "last"] | int = "best") -> AnchorNet:
        """The network that did best on held-out training images, or the one of the last epoch.

        With ``config.keep_epochs`` also the one after any number of epochs; 0 is the untrained network.
        """
        return models.load(self.path / f"{which if isinstance(which, str) else epoch_name(which)}.safetensors")

    def metrics(self) -> pd.DataFrame:
        """One row an epoch: losses, learning rate, training accuracy, held-out clean and robust accuracy, seconds."""
        file = self.path / "metrics.jsonl"
        try:
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            if len(rows) != self.config.epochs:
                raise ValueError(f"it has {len(rows)} of {self.config.epochs} epochs")
        except ValueError as error:
            raise ValueError(
                f"{str(file)!r} is damaged ({error}); restore it, or delete the folder to train anew"
            ) from None
        return pd.DataFrame(rows)


def epoch_name(epoch: int) -> str:
    """Name of the checkpoint after this many epochs."""
    return f"epoch-{epoch:03d}"


@dataclasses.dataclass
class Progress:
    """How far a run has come. With weights, momentum and the generator's state, all that it needs to go on."""

    epoch: int = 0  # finished ones
    batch: int = 0  # finished ones of the epoch under way
    seconds: float = 0.0  # of that epoch
    sums: dict[str, float] = dataclasses.field(default_factory=dict)  # over its batches
    best: list[float] = dataclasses.field(default_factory=lambda: [-1.0, -1.0])
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # the lines of metrics.jsonl


def write_config(path: Path, identity: dict[str, Any], config: Config) -> None:
    """Write config.json: what was trained on which data, and the other fields of the configuration."""
    other = {name: value for name, value in config.model_dump().items() if name not in identity["training"]}
    write_text(path / "config.json", json.dumps({**identity, "other": other}, indent=1))


@contextmanager
def interrupts_wait() -> Iterator[list[int]]:
    """Ctrl-C is noted in the list, for the loop to stop where its state is whole; the second stops at once."""
    noted: list[int] = []

    def note(number: int, _: object) -> None:
        noted.append(number)
        if len(noted) > 1:
            raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else someone else has a use for it
    if not usual or threading.current_thread() is not threading.main_thread():
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if noted:
        raise KeyboardInterrupt


def read_identity(path: Path) -> dict[str, Any]:
    """What config.json in a run folder says was trained, on which data."""
    file = path / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {"training": {**found["training"]}, "data": found.get("data")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(file)!r} is damaged ({type(error).__name__}: {error}); restore it, or delete it: the run then goes "
            "on from its saved state, or starts anew where there is none"
        ) from None


def finished(path: Path, identity: dict[str, Any]) -> bool:
    """Whether the folder holds the finished run of this identity; refuses a folder that holds another run.

    States that a kill just before its end has left are cleared away.
    """
    try:
        check_identity(path, read_identity(path), identity)
    except FileNotFoundError:
        return False
    if not (path / "last.safetensors").exists():
        return False
    with suppress(OSError):  # a folder that may only be read
        clear_states(path)
    return True


def check_identity(path: Path, found: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raise ValueError unless the run that was found in a folder is the one that is wanted."""

    def value(fields: dict[str, Any], name: str) -> Any:  # a run from before there was a field has its default
        return fields.get(name, Config.model_fields[name].default if name in Config.model_fields else None)

    old, new = found["training"], identity["training"]
    if different := sorted(name for name in old.keys() | new.keys() if value(old, name) != value(new, name)):
        raise ValueError(
            f"run folder {str(path)!r} holds a run with other values of {different}; choose another folder"
        )
    check_data(path, found, identity["data"], ("classes", "image", "train"))


def check_data(path: Path, found: dict[str, Any], data: dict[str, Any], parts: tuple[str, ...]) -> None:
    """Raise ValueError if a run was trained on other data. The name is none of it: a folder may move."""
    trained_on = found.get("data") or data  # runs from before this was kept are taken as they are
    different = {
        {"classes": "classes", "image": "image shape", "train": "training images"}[part]: (trained_on[part], data[part])
        for part in parts
        if trained_on[part] != data[part]
    }
    if different:
        changes = "; ".join(f"{name} {before} then, {now} now" for name, (before, now) in different.items())
        raise ValueError(
            f"run folder {str(path)!r} holds a run on other data than those of {data['name']!r} now: {changes}. "
            "Restore the data, or choose another folder, or delete this one to train anew"
        )


def write_metrics(path: Path, at: Progress) -> None:
    """Write metrics.jsonl, one line an epoch."""
    write_text(path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in at.history))


def state_files(path: Path) -> tuple[Path, Path]:
    """The files with the state of a run under way: the newest, and the one before."""
    return path / "resume.safetensors", path / "resume-before.safetensors"


def clear_states(path: Path) -> None:
    for file in state_files(path):
        file.unlink(missing_ok=True)


def save_state(
    path: Path,
    identity: dict[str, Any],
    at: Progress,
    generator: torch.Generator,
    model: AnchorNet,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: AnchorNet | None = None,
) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors[f"momentum.{index}"] = state["momentum_buffer"]
    tensors["generator"] = generator.get_state()
    text = {"progress": dataclasses.asdict(at), "run": identity, "scaler": scaler.state_dict()}
    newest, before = state_files(path)
    models.write_tensors(newest, tensors, {name: json.dumps(value) for name, value in text.items()}, keep=before)


def resume(
    path: Path,
    identity: dict[str, Any],
    model: AnchorNet,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: AnchorNet | None = None,
) -> tuple[Progress, Tensor]:
    """Restore the newest whole state; returns how far it is, and the state of the generator of random numbers."""
    damaged = []
    for file in state_files(path):
        if not file.exists():
            continue
        try:
            tensors, text = models.read_tensors(file)
            found, at = json.loads(text["run"]), Progress(**json.loads(text["progress"]))
        except (ValueError, KeyError, TypeError) as error:
            damaged.append(f"{str(file)!r} is damaged ({type(error).__name__}: {error})")
            continue
        check_identity(path, found, identity)
        for name, module in {"model.": model, "average.": average}.items():
            if module is not None:
                module.load_state_dict({n.removeprefix(name): t for n, t in tensors.items() if n.startswith(name)})
        state = {}
        for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
            if f"momentum.{index}" in tensors:  # in the layout of the parameter, as fused optimizers want it
                buffer = torch.empty_like(parameter).copy_(tensors[f"momentum.{index}"])
                state[index] = {"momentum_buffer": buffer}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        scaler.load_state_dict(json.loads(text["scaler"]))
        if damaged:
            state_files(path)[0].unlink(
                missing_ok=True
            )  # lest the next state to be saved keeps it, in place of this one
            warnings.warn(
                f"{damaged[0]}; the run goes on from the state before it, step {at.batch} of epoch {at.epoch + 1}, and "
                "what was trained since is trained again",
                stacklevel=2,
            )
        return at, tensors["generator"]
    if damaged:
        raise ValueError(f"{' and '.join(damaged)}: restore a copy, or delete this to start the run anew")
    return Progress(), torch.empty(0)
