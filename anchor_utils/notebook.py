"""The few lines that every notebook begins and ends with, and the check of an exercise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from IPython.display import Markdown, display

from anchor_utils import plotting
from anchor_utils.config import Config, load_preset
from anchor_utils.evaluation import versions
from anchor_utils.files import write_text

_IN_WHEEL = Path(__file__).resolve().parent / "expected"
EXPECTED_DIR = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).resolve().parent.parent / "expected"


def start(
    preset: str, overrides: dict[str, Any], seed: int, runs_dir: str, data_root: str, models: str = "train"
) -> tuple[Config, torch.device]:
    """Check the parameters of a notebook, seed torch, set the figure style and print what the results depend on.

    Args:
        overrides: fields of the configuration that replace those of the preset.
        models: "train" (or take finished runs), or "pretrained" for the networks that come with the course.

    Returns:
        The configuration, and the device that evaluations run on.
    """
    if models not in ("train", "pretrained"):
        raise ValueError(f"models={models!r}: allowed are 'train', 'pretrained'")
    if models == "pretrained" and seed != 0:
        raise ValueError(f"seed={seed}: allowed with models='pretrained' is 0, the training seed of these networks")
    config = load_preset(preset, **{"seed": seed, "runs_dir": runs_dir, "data_root": data_root, **overrides})
    use_gpu = config.device == "auto" and torch.cuda.is_available()
    device = torch.device("cuda" if use_gpu else "cpu")
    torch.manual_seed(config.seed)
    plotting.use_style()
    environment = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(
        f"preset {preset}: {config.dataset}, ResNet-18 of width {config.width}, L-infinity epsilon {config.epsilon:g}"
    )
    print(f"seed {config.seed}, device {device}; {environment}")
    return config, device


def say(text: str) -> None:
    """Display Markdown whose numbers come from this run."""
    display(Markdown(text))


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


def finish(number: str, preset: str, config: Config, metrics: dict[str, float]) -> None:
    """Keep a notebook's numbers, and show them beside the bands in which other machines should find them.

    The numbers go to ``runs_dir/results/PRESET/NUMBER.json``, atomically, for the report to read. The bands come from
    ``expected/NUMBER.PRESET.yaml`` and hold for the preset as it is. Names outside their band are also left in the
    metadata of the output, where :mod:`anchor_utils.run` finds them.
    """
    path = Path(config.runs_dir) / "results" / preset / f"{number}.json"
    content = {"notebook": number, "preset": preset, "config": config.model_dump(), "versions": versions()}
    write_text(path, json.dumps({**content, "metrics": metrics}, indent=1) + "\n")
    bands = EXPECTED_DIR / f"{number}.{preset}.yaml"
    if not bands.exists():
        say(f"No expected values are kept for the preset `{preset}`.")
        return
    if config != load_preset(preset, runs_dir=config.runs_dir, data_root=config.data_root):
        say(f"The expected values are those of the preset `{preset}` as it is; this run has other settings.")
        return
    expected: dict[str, list[float]] = yaml.safe_load(bands.read_text())
    lines, missed = ["| measured here | value | expected | |", "|:--|--:|:-:|:--|"], []
    for name in sorted(expected.keys() | metrics.keys()):
        low, high = expected.get(name, (float("nan"),) * 2)
        value = metrics.get(name, float("nan"))
        inside = low <= value <= high
        missed += [] if inside else [name]
        lines.append(f"| {name} | {value:.3g} | {low:.3g} to {high:.3g} | {'pass' if inside else '**FAIL**'} |")
    lines.append(f"\n**{len(lines) - 2 - len(missed)} of {len(lines) - 2} values lie where they are expected.**")
    display(Markdown("\n".join(lines)), metadata={"missed": missed})
