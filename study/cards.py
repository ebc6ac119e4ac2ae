"""Model cards of the networks in data/pretrained; ``python -m study.cards`` writes those of the full-width ones anew."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd

from anchor_utils.autoattack import screen_rows
from anchor_utils.config import REPORTED, Config
from anchor_utils.files import write_text
from anchor_utils.models import PRETRAINED, PRETRAINED_DIR
from anchor_utils.results import unpack_outcomes
from study.tables import read_cells, setting, with_screen

CELLS = PRETRAINED_DIR / "width64.json"
SWEEP = "prototype"
DATA = "CIFAR-10, JPEG copy (the pixels went through JPEG once)"


def _head(path: Path, method: str, seed: int, width: int) -> str:
    anchor = "\nANCHOR is a reconstruction of arXiv 2510.27599 from its abstract and summary.\n"
    network = f"a ResNet-18 of width {width} for 32x32 colour images in [0, 1], normalisation inside."
    shown = anchor if method in ("anchor", "supcon_at") else ""
    return f"# {path.name}\n\n{method}, training seed {seed}: {network}\n{shown}"


def _metrics(rows: pd.DataFrame) -> str:
    lines = ["| test images | accuracy | 95% interval (Wilson, over images) |", "|---|---|---|"]
    for attack in REPORTED:
        for index, row in rows[rows["attack"] == attack].iterrows():
            interval = f"{row['low']:.1%} to {row['high']:.1%}"
            lines.append(f"| {setting(rows.loc[[index]], attack)} | {row['accuracy']:.1%} | {interval} |")
    return "\n".join(lines)


def in_two_precisions(rows: pd.DataFrame) -> str:
    """How many images survive AutoAttack in one precision and not its first two stages in another, as a sentence.

    Fewer images and another precision can put AutoAttack above its own first stages; on the same images it shows why.
    """
    found = {attack: own.iloc[0] for attack, own in rows.groupby("attack")}
    if not {"screen", "autoattack"} <= {*found} or found["screen"]["precision"] == found["autoattack"]["precision"]:
        return ""
    bits = {a: unpack_outcomes(found[a]["outcomes"], int(found[a]["images"])) for a in ("screen", "autoattack")}
    shared = min(map(len, bits.values()))
    screen, whole = (bits[a][:shared] for a in ("screen", "autoattack"))
    return (
        f" On the {shared} images that both have seen, {whole.sum()} survive AutoAttack with queries in "
        f"{found['autoattack']['precision']}; {(whole & ~screen).sum()} of these fall to its first two stages in "
        f"{found['screen']['precision']}, which {screen.sum()} survive."
    )


def card(path: Path, config: Config, cell: dict, rows: pd.DataFrame, stored: float, sweep: str) -> str:
    """A model card: data, recipe, seed, metrics, limits, checksum, and the commands behind the numbers.

    Args:
        rows: of the network. Under full AutoAttack they have its first two stages beside it, of the same images, even
            where the screen was run by itself as well.
    """
    note = (f" {cell['note']}" if "note" in cell else "") + in_two_precisions(rows)
    rows = pd.concat([rows, screen_rows(rows)], ignore_index=True)
    recipe = "\n".join(f"    {name}: {value}" for name, value in config.training_fields().items())
    return f"""{_head(path, config.method, config.seed, config.width)}
**Data.** {DATA}: {config.train_images} training images, of which {config.validation_images} were held out to choose the
checkpoint (epoch {cell["held_out"]["joint"]["epoch"]} of {config.epochs}). Test: {config.test_images} images, half of the official test set.

{_metrics(rows)}

Measured in float32 before the weights were rounded to half precision; with the rounded weights the clean accuracy is {stored:.1%}.{note}

**Limits.** A small network, {config.epochs} epochs on a fraction of CIFAR-10: made for looking at, not for use. Robust accuracies are upper bounds.

**Recipe.**

{recipe}

**Again:** `make sweep SWEEP={sweep}`, then `make publish`. The same
configuration gives the same metrics on the same machine with one thread.

**Read it:** `anchor_utils.models.load("data/pretrained/{path.name}")`

**sha256:** {hashlib.sha256(path.read_bytes()).hexdigest()}
"""


def wide_card(path: Path, cell: dict[str, Any], table: pd.DataFrame) -> str:
    """The card of one network as Markdown.

    Args:
        path: of the network's file, for its name and its sha256.
        cell: device, seconds given, epochs, held-out accuracies and recipe, as CELLS has them.
        table: the network's results table, without outcome bits.
    """
    config, seconds, held_out = cell["config"], cell["seconds"], cell["held_out"]
    rows = with_screen(table)
    recipe = "\n".join(f"    {name}: {value}" for name, value in config.items())
    raw, average = (f"{held_out[of]['clean']:.1%} clean and {held_out[of]['robust']:.1%} under PGD" for of in held_out)
    return f"""{_head(path, config["method"], config["seed"], config["width"])}
**Made by** a prototype of the engine, not by this code, in {seconds["given"]:g} seconds on one {cell["device"]}, {seconds["one_time"]:.1f} of them spent
once on finding kernels and recording the step: {cell["epochs"]:.1f} epochs. One seed, nothing tuned. The weights are those of the last epoch, none was chosen, and are an average (EMA,
decay {config["ema"]:g}) over the steps that **lagged**: BatchNorm statistics were averaged with the weights instead of estimated anew. On the {config["validation_images"]} training images
that were held out, the network itself had {raw}, its average {average}.

**Data.** {DATA}: all training images but the {config["validation_images"]} held out.

{_metrics(rows)}

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
