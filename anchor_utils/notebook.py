"""The few lines that every notebook begins and ends with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from IPython.display import Markdown, display

from anchor_utils import plotting
from anchor_utils.config import Config, load_preset
from anchor_utils.evaluation import versions
from anchor_utils.files import write_text


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


def save_metrics(number: str, preset: str, config: Config, metrics: dict[str, float]) -> None:
    """Write a notebook's numbers to ``runs_dir/results/PRESET/NUMBER.json``, atomically, for the report to read."""
    path = Path(config.runs_dir) / "results" / preset / f"{number}.json"
    content = {"notebook": number, "preset": preset, "config": config.model_dump(), "versions": versions()}
    write_text(path, json.dumps({**content, "metrics": metrics}, indent=1) + "\n")
