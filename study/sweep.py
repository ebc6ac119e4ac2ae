"""A sweep file, read and checked before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anchor_utils.config import REPORTED, load_preset, readable, unknown_name
from anchor_utils.files import data_folder

SWEEP_DIR = data_folder("configs/sweeps", __file__)


class Sweep(BaseModel):
    """Variants (named sets of configuration fields) times seeds, and how to measure them."""

    model_config = ConfigDict(extra="forbid")

    preset: str
    overrides: dict[str, Any] = {}
    variants: dict[Annotated[str, Field(pattern=r"^[a-z0-9_.]+$")], dict[str, Any]]
    seeds: list[int] = [0]
    attacks: list[Literal[*REPORTED]] = ["clean", "pgd"]  # type: ignore[valid-type]
    autoattack_seeds: list[int] = []  # full AutoAttack instead of the screen for these
    finetune: list[str] = []  # variants that also get a new classifier on the frozen encoder
    # Of training, for every network alike; study/timeboxed.py makes a number of epochs of it.
    seconds: Annotated[float, Field(gt=0)] | None = None
    margin: Annotated[float, Field(gt=0)] | None = None  # points of accuracy from which a lead counts, fixed before
    threads: int = 1
    gpu: int = 0  # GPUs that a cell asks a cluster for
    memory_mb: int = 4000
    minutes: int = 600

    def cells(self, *, runs_dir: str = "runs", data_root: str = "data") -> dict[str, dict[str, Any]]:
        """Parameters of the notebook of each cell, by name VARIANT-sSEED; ValueError for a bad configuration.

        Every variant has its turn before any has a second seed.
        """
        found = {}
        for seed in self.seeds:
            for variant, fields in self.variants.items():
                overrides = {**self.overrides, **fields}
                load_preset(self.preset, **overrides, seed=seed)
                attacks: list[str] = list(self.attacks)
                if seed in self.autoattack_seeds:
                    attacks = [attack for attack in attacks if attack != "screen"] + ["autoattack"]
                found[f"{variant}-s{seed}"] = {
                    "preset": self.preset,
                    "overrides": overrides,
                    "seed": seed,
                    "runs_dir": runs_dir,
                    "data_root": data_root,
                    "attacks": attacks,
                    "finetune": variant in self.finetune,
                    "variant": variant,
                }
        return found


def load_sweep(name: str) -> Sweep:
    """Read a sweep and check all its cells.

    Args:
        name: of a file in configs/sweeps/, or the path of another .yaml file.

    Raises:
        ValueError: no such sweep, or a field in it is unknown or out of range; says what is allowed.
    """
    known = sorted(path.stem for path in SWEEP_DIR.glob("*.yaml"))
    path = Path(name) if name.endswith(".yaml") else SWEEP_DIR / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(unknown_name("sweep", name, known))
    try:
        sweep = Sweep(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ValueError(f"{path.name}: {readable(error)}") from None
    for variant in sweep.finetune:
        if variant not in sweep.variants:
            raise ValueError(unknown_name("variant in finetune", variant, list(sweep.variants)))
    sweep.cells()
    return sweep
