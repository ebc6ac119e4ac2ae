"""Model cards of the full-width networks in data/pretrained, from the numbers beside them: ``python -m study.cards``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd

from anchor_utils.config import METHODS, REPORTED
from anchor_utils.files import write_text
from anchor_utils.models import PRETRAINED, PRETRAINED_DIR
from study.publish import DATA
from study.tables import read_cells, setting, with_screen

CELLS = PRETRAINED_DIR / "width64.json"
SWEEP = "prototype"


def wide_card(path: Path, cell: dict[str, Any], table: pd.DataFrame) -> str:
    """The card of one network as Markdown.

    Args:
        path: of the network's file, for its name and its sha256.
        cell: device, seconds given, epochs, held-out accuracies and recipe, as CELLS has them.
        table: the network's results table, without outcome bits.
    """
    config, seconds, held_out = cell["config"], cell["seconds"], cell["held_out"]
    rows = with_screen(table)
    metrics = [
        f"| {setting(rows, attack)} | {row['accuracy']:.1%} | {row['low']:.1%} to {row['high']:.1%} |"
        for attack in REPORTED
        for _, row in rows[rows["attack"] == attack].iterrows()
    ]
    recipe = "\n".join(f"    {name}: {value}" for name, value in config.items())
    anchor = "\nANCHOR is a reconstruction of arXiv 2510.27599 from its abstract and summary.\n"
    raw, average = (f"{held_out[of]['clean']:.1%} clean and {held_out[of]['robust']:.1%} under PGD" for of in held_out)
    return f"""# {path.name}

{config["method"]}, training seed {config["seed"]}: a ResNet-18 of width {config["width"]} for 32x32 colour images in [0, 1], normalisation inside.
{anchor if METHODS[config["method"]].contrastive else ""}
**Made by** a prototype of the engine, not by this code, in {seconds["given"]:g} seconds on one {cell["device"]}, {seconds["one_time"]:.1f} of them spent
once on finding kernels and recording the step: {cell["epochs"]:.1f} epochs. One seed, nothing tuned. The weights are those of the last epoch, none was chosen, and are an average (EMA,
decay {config["ema"]:g}) over the steps that **lagged**: BatchNorm statistics were averaged with the weights instead of estimated anew. On the {config["validation_images"]} training images
that were held out, the network itself had {raw}, its average {average}.

**Data.** {DATA}: all training images but the {config["validation_images"]} held out.

| test images | accuracy | 95% interval (Wilson, over images) |
|---|---|---|
{chr(10).join(metrics)}

Measured with these weights, rounded to half precision as they are stored. That GPU computed float32 as TF32, in the attacks and where their success was decided.
The rows differ in their images, and outcomes image by image were not kept.

**Limits.** One network of one seed compares no methods. Robust accuracies are upper bounds. Made for looking at, not for use.

**Recipe.** L-infinity PGD in training; the learning rate is the highest of one cycle.

{recipe}

**Again:** not to the same weights, since the prototype is not part of the project. The README says how this code trains a network of this size on a GPU.

**Read it:** `anchor_utils.models.pretrained("{config["method"]}", width={config["width"]})`. An installed package leaves this file out; a clone of the repository has it.

**sha256:** {hashlib.sha256(path.read_bytes()).hexdigest()}
"""


def wide_cards() -> dict[Path, str]:
    """The card of every network in CELLS, by the path that it belongs to."""
    table, cells = read_cells(CELLS, SWEEP)
    found = {}
    for cell in cells:
        path = PRETRAINED_DIR / PRETRAINED[cell["config"]["width"]][0].format(cell["method"])
        found[path.with_suffix(".md")] = wide_card(path, cell, table[table["method"] == cell["method"]])
    return found


if __name__ == "__main__":
    for path, text in wide_cards().items():
        write_text(path, text)
