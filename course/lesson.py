"""The few lines that every notebook begins and ends with, and the check of an exercise."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from IPython.display import Markdown, display

from anchor_utils import plotting
from anchor_utils.config import Config, as_fields, load_preset
from anchor_utils.data import Dataset, load_data
from anchor_utils.devices import resolve_device
from anchor_utils.files import data_folder, write_text
from anchor_utils.models import pretrained, resolve_precision
from anchor_utils.objectives import Heads, InnerProblem, batch_loss
from anchor_utils.results import versions
from anchor_utils.training import new_network

EXPECTED_DIR = data_folder("expected", __file__)
PRETRAINED_PRESET = "cifar10_cpu"  # the settings of the networks that come with the course
DRIVE = Path("/content/drive")  # where Colab mounts Google Drive
# When the notebook in this kernel began, and the seconds of a training step: finish() writes both.
_begun: dict[str, float] = {}


def in_project(path: str, folder: Path | None = None) -> str:
    """A relative path as it is meant: from the project's folder, wherever in the project the kernel was started.

    The project is the nearest of `folder` (the current one) and those above it with numbered notebooks in
    ``notebooks/``; without one, as on Colab, it is `folder` itself. The answer is relative to `folder`.
    """
    if (absolute := Path(path).expanduser()).is_absolute():
        return str(absolute)
    folder = Path.cwd() if folder is None else folder
    around = (parent for parent in (folder, *folder.parents) if any(parent.glob("notebooks/[0-9][0-9]_*.ipynb")))
    return os.path.relpath(next(around, folder) / path, folder)


def check_mounted(name: str, path: str) -> None:
    """Raise ValueError for a path on Colab's Google Drive while no Drive is mounted there.

    The folder could be made, but on Colab's own disk: it is lost at the disconnect, and may keep a Drive from being
    mounted.
    """
    whole = Path(os.path.realpath(os.path.expanduser(path)))
    on_drive = [part for part in (whole, *whole.parents) if part.is_relative_to(DRIVE)]
    if on_drive and not any(map(os.path.ismount, on_drive)):
        raise ValueError(
            f"{name}={path!r}: no Google Drive is mounted at {str(DRIVE)!r}, and a folder made there is lost when "
            "Colab disconnects; allowed is a path elsewhere, or this one once a cell has run these lines:\n"
            f'from google.colab import drive\ndrive.mount("{DRIVE.as_posix()}")'
        )


def configure(
    preset: str, overrides: dict[str, Any], seed: int, runs_dir: str, data_root: str, models: str = "train"
) -> Config:
    """The configuration that a notebook's parameters stand for.

    Raises:
        ValueError: a parameter is out of range; `overrides` is no mapping: papermill's ``-p`` hands over a text; a path
            is on a Google Drive that is not mounted.
    """
    if models not in ("train", "pretrained"):
        raise ValueError(f"models={models!r}: allowed is 'train', 'pretrained'")
    if models == "pretrained" and seed != 0:
        raise ValueError(f"seed={seed}: allowed with models='pretrained' is 0, the training seed of these networks")
    if isinstance(overrides, str):
        raise ValueError(
            f"overrides={overrides!r}: allowed is a mapping of fields to values, and papermill's -p gives a text; "
            "write -y 'overrides: {epochs: 3}'"
        )
    fields = {"seed": seed, "runs_dir": runs_dir, "data_root": data_root}
    preset = PRETRAINED_PRESET if models == "pretrained" else preset
    config = load_preset(preset, **{**fields, **as_fields(f"overrides={overrides!r}", overrides)})
    check_mounted("runs_dir", config.runs_dir)
    check_mounted("data_root", config.data_root)
    return config


def start(
    number: str,
    preset: str,
    overrides: dict[str, Any],
    seed: int,
    runs_dir: str,
    data_root: str,
    models: str = "train",
    *,
    data: bool = True,
) -> tuple[Config, Dataset | None, torch.device]:
    """Check the parameters of a notebook, load its data, seed torch, set the figure style, and print what the results
    depend on and how long they will take.

    Args:
        number: of the notebook, as in "01".
        overrides: fields of the configuration that replace those of the preset.
        runs_dir, data_root: relative paths are meant from the project's folder, see :func:`in_project`.
        models: "train" (or take finished runs), or "pretrained" for the networks that come with the course.
        data: False for a notebook that needs no images.

    Returns:
        The configuration, the data set that it names, and the device that evaluations run on.
    """
    _begun.clear()
    _begun["seconds"] = time.perf_counter()
    config = configure(preset, overrides, seed, in_project(runs_dir), in_project(data_root), models)
    device = resolve_device(config.device)
    plotting.use_style()
    precision = str(resolve_precision(config.precision, device)).removeprefix("torch.")
    environment = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(
        f"preset {preset}: {config.dataset}, ResNet-18 of width {config.width}, L-infinity epsilon {config.epsilon:g}"
    )
    print(f"seed {config.seed}, device {device}, training in {precision}; {environment}")
    dataset = load_data(config) if data else None
    if dataset is not None:
        print(dataset.summary())
        if models == "pretrained" and dataset.classes != (known := tuple(pretrained("anchor").metadata["classes"])):
            raise ValueError(
                f"dataset={config.dataset!r} has the classes {', '.join(dataset.classes)}: allowed with "
                f"models='pretrained' is a data set with {', '.join(known)}"
            )
        if models == "train":
            _begun["step"] = seconds_per_step(config, dataset, device)
            print(_how_long(number, preset, config, dataset, _begun["step"]))
    torch.manual_seed(config.seed)
    return config, dataset, device


def seconds_per_step(config: Config, dataset: Dataset, device: torch.device) -> float:
    """Seconds that one ANCHOR training step of this configuration takes here; measured for about a second, without a
    trace in the global random state. A step that would take longer is extrapolated from a few images."""
    config = config.replace(method="anchor")
    generator = torch.Generator().manual_seed(0)
    model = new_network(config, dataset).to(device)
    forward = Heads(model, config.method, resolve_precision(config.precision, device))
    attack = InnerProblem(model, config, generator)

    def timed(size: int) -> float:
        batch = dataset.train[:size].to(device)
        began = time.perf_counter()
        attack.refresh()
        loss = batch_loss(config, forward, attack, batch.images, batch.labels, generator).loss
        loss.backward()
        loss.item()  # waits for a GPU
        return time.perf_counter() - began

    size = min(config.batch_size, len(dataset.train))
    few = min(32, size)
    timed(few)  # the first step also chooses and builds kernels
    estimate = timed(few) * size / few
    if estimate > 0.5:
        return estimate
    timed(size)
    return min(timed(size) for _ in range(3))


def _how_long(number: str, preset: str, config: Config, dataset: Dataset, step: float) -> str:
    """In words; `work` in the file of bands says how many training steps' worth of time the notebook takes."""
    work = _expected(number, preset, config).get("work")
    if work:
        return (
            f"This notebook takes {_duration(work * step)} here, more if it has to train networks of earlier notebooks."
        )
    steps = config.epochs * ((len(dataset.train) - config.validation_images) // config.batch_size)
    return (
        f"Training one network takes {_duration(steps * step)} here; one that is trained already is not trained again."
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 50:
        return "less than a minute"
    if minutes < 100:
        return f"about {minutes} minute{'s' if minutes > 1 else ''}"
    return f"about {round(minutes / 60)} hours"


def say(text: str) -> None:
    """Display Markdown whose numbers come from this run."""
    display(Markdown(text))


def table(found: pd.DataFrame) -> str:
    """A table of texts as Markdown, whose cells wrap where those of a DataFrame would be cut off."""
    rows = [list(found.columns), [":--"] * found.shape[1], *found.astype(str).values.tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def check(exercise: str) -> Callable[[Callable[[], None]], None]:
    """Decorator that runs the check of an exercise at once and says in one line how it went; it never raises.

    The check asserts what a right answer must fulfil. An exercise nobody has worked on raises NotImplementedError.
    """

    def run(function: Callable[[], None]) -> None:
        try:
            function()
        except NotImplementedError:
            print(f"{exercise}: not solved yet. Write your answer above, run that cell and this one.")
        except AssertionError as error:
            print(f"{exercise}: not right yet. {error}")
        except Exception as error:  # whatever a learner's code may raise
            print(f"{exercise}: your code raised {type(error).__name__}: {error}")
        else:
            print(f"{exercise}: passed.")

    return run


def _expected(number: str, preset: str, config: Config) -> dict[str, Any]:
    """What is known of a notebook with the preset as it is; nothing if this is another configuration."""
    path = EXPECTED_DIR / f"{number}.{preset}.yaml"
    if not path.exists() or config != load_preset(preset, runs_dir=config.runs_dir, data_root=config.data_root):
        return {}
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def finish(number: str, preset: str, config: Config, metrics: dict[str, float]) -> None:
    """Keep a notebook's numbers, and show them beside the bands in which other machines should find them.

    The numbers go to ``runs_dir/results/PRESET/NUMBER.json``, atomically, for the report to read, together with the
    seconds that the notebook and one training step took. ``expected/NUMBER.PRESET.yaml``, which holds for the preset as
    it is, has two tables of bands: `claims`, which the course stands for, and `usual`, where other machines and seeds
    lay. Names outside are left in the metadata of the output as "missed" and "unusual"; :mod:`course.runner` finds
    them there, and only the missed ones make it fail. A number that has a band and was not measured is missed.
    """
    path = Path(config.runs_dir) / "results" / preset / f"{number}.json"
    content: dict[str, Any] = {
        "notebook": number,
        "preset": preset,
        "config": config.model_dump(),
        "versions": versions(),
    }
    content |= {"seconds": round(time.perf_counter() - _begun["seconds"], 1), "seconds_per_step": _begun.get("step")}
    write_text(path, json.dumps({**content, "metrics": metrics}, indent=1) + "\n")
    expected = _expected(number, preset, config)
    if not expected:
        say(f"No expected values are kept for these settings of the preset `{preset}`.")
        return
    claims, usual = expected.get("claims", {}), expected.get("usual", {})
    lines = ["| measured here | value | expected | |", "|:--|--:|:-:|:--|"]
    found: dict[str, list[str]] = {"pass": [], "**FAIL**": [], "unusual here": [], "–": []}
    for name in sorted(claims.keys() | usual.keys() | metrics.keys()):
        band, value = claims.get(name) or usual.get(name), metrics.get(name, float("nan"))
        if band is None:
            verdict = "–"
        elif band[0] <= value <= band[1]:
            verdict = "pass"
        else:
            verdict = "**FAIL**" if name in claims or name not in metrics else "unusual here"
        found[verdict].append(name)
        span = f"{band[0]:.3g} to {band[1]:.3g}" if band else "–"
        lines.append(f"| {name} | {value:.3g} | {span} | {verdict} |")
    missed, unusual = found["**FAIL**"], found["unusual here"]
    words = " are unusual here: not where other machines and seeds lay, which contradicts no claim"
    outside = [*([f"{len(missed)} failed"] if missed else []), *([f"{len(unusual)}{words}"] if unusual else [])]
    expected_here = f"\n**{len(found['pass'])} of {len(claims) + len(usual)} values lie where they are expected**"
    lines.append("; ".join([expected_here, *outside]) + ".")
    display(Markdown("\n".join(lines)), metadata={"missed": missed, "unusual": unusual})
