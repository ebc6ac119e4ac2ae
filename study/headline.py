"""The table of methods with equal seconds on a GPU, from what study/timeboxed.py found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from anchor_utils.plotting import method_name
from study.claims import INTERVALS_OF_DIFFERENCES, claims_table
from study.tables import SHOWN, in_order, method_table, setting, with_screen

INTERVALS = (
    "Accuracy in percent: mean over n training seeds with its 95% crossed interval, for new seeds and images, "
    "or for n = 1 the Wilson interval over images."
)
# From the one that is to be shown to what stands in for it until it has every method.
SWEEPS = "minutes", "prototype"
METHODS = "pgd_at", "trades", "mart", "supcon_at", "anchor"


def read_folder(folder: Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Results table of the cells that lie in a folder, with the column `width`, and the cells without their rows.

    Of each network the rows are those of the checkpoint that is reported: the best on held-out images, unless the cell
    says another.
    """
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*-s*.json"))]
    for cell in found:
        reported = [row for row in cell["rows"] if row["checkpoint"] == cell.get("reported", "best")]
        cell["rows"] = [{**row, "width": cell["config"]["width"]} for row in reported]
    return in_order(found)


def headline(folder: Path) -> str:
    """The table as Markdown with all that it depends on, from the folders of SWEEPS in `folder` alone."""
    parts = []
    found = [(table, cells) for table, cells in (read_folder(folder / name) for name in SWEEPS) if len(table)]
    widest = max((table["width"].max() for table, _ in found), default=0)
    for table, cells in found:
        parts += sweep_parts(with_screen(table), cells)
        if not missing(table, widest):
            break
    return "\n\n".join(parts)


def sweep_parts(table: pd.DataFrame, cells: Sequence[dict[str, Any]]) -> list[str]:
    """Paragraphs of Markdown: where the rows come from, the table, how each attack was made, and what follows."""
    given = ", ".join(sorted({f"{seconds:g}" for cell in cells if (seconds := cell["seconds"]["given"])}))
    cards = ", ".join(sorted({cell["versions"]["hardware"] for cell in cells}))
    data = ", ".join(sorted({f"`{cell['config']['dataset']}`" for cell in cells}))
    settings = "; ".join(setting(table, attack) for attack in SHOWN if attack in {*table["attack"]})
    about = f"Every network was given {given} seconds of training on one {cards}; images: {data}."
    parts = [f"{about} {''.join(notes(cells))}".strip(), by_width(table, cells).to_markdown(index=False)]
    parts.append(f"{INTERVALS} Seconds are of training, without what happens only once. {settings}.")
    if failed := [f"{cell['variant']} (seed {cell['training_seed']})" for cell in cells if "error" in cell]:
        parts.append(f"Diverged, and in no mean: {', '.join(failed)}.")
    if names := missing(table, table["width"].max()):
        parts.append(f"Not measured: {', '.join(map(method_name, names))}.")
    claims = claims_table(table[table["width"] == table["width"].max()]) if "outcomes" in table else pd.DataFrame()
    if len(claims):
        claims = claims[~claims["verdict"].str.startswith("no verdict")]
    if len(claims):
        parts += [claims.drop(columns="tested by").to_markdown(index=False), INTERVALS_OF_DIFFERENCES]
    else:
        parts.append("One training seed compares networks, not methods: these rows bear no verdict.")
    return parts


def missing(table: pd.DataFrame, width: int) -> list[str]:
    """The methods that have no network of this width."""
    return [method for method in METHODS if method not in {*table.loc[table["width"] == width, "method"]}]


def notes(cells: Sequence[dict[str, Any]]) -> list[str]:
    """What cells that were not made by this code say of themselves; names the methods where not all say it."""
    said: dict[str, list[str]] = {}
    for cell in cells:
        for note in cell.get("provenance", []):
            said.setdefault(note, []).append(method_name(cell["method"]))
    if not said:
        return []
    texts = [note if len(who) == len(cells) else f"{', '.join(who)}: {note}" for note, who in said.items()]
    return [f"**What these rows are:** {'; '.join(texts)}."]


def by_width(table: pd.DataFrame, cells: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row a width and method, the widest first: epochs, seconds of training, and accuracies."""
    frames = []
    for width in sorted({*table["width"]}, reverse=True):
        own = table[table["width"] == width]
        frame = method_table(own, [attack for attack in SHOWN if attack in {*table["attack"]}])
        costs = []
        for method in dict.fromkeys(own["method"]):
            chosen = [cell for cell in cells if (cell["method"], cell["config"]["width"]) == (method, width)]
            chosen = [cell for cell in chosen if "error" not in cell]
            epochs = fmean(cell["metrics"][-1]["epoch"] for cell in chosen)
            costs.append((f"{epochs:.3g}", f"{fmean(cell['training_seconds'] for cell in chosen):.0f}"))
        epochs_and_seconds = pd.DataFrame(costs, columns=["epochs", "seconds"])
        frames.append(
            pd.concat([frame[["method"]].assign(width=width), epochs_and_seconds, frame.drop(columns="method")], axis=1)
        )
    return pd.concat(frames, ignore_index=True)
