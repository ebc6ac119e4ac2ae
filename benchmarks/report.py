"""The page docs/benchmarks.md and its figure, from what benchmarks/bench.py measured. It measures nothing itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from anchor_utils import plotting
from anchor_utils.files import sha256, write_atomically, write_text

DOCS = Path(__file__).resolve().parent.parent / "docs"
FIGURE = "benchmarks.svg"

INTRODUCTION = """# Beside its peers

How fast the package is, and how much memory it needs, beside the libraries that one would otherwise use. Variants take
turns in one process, so that a busy machine slows all alike; a number is the median over the turns of their ratios. The
goals were set before, and stand here whichever way they fell. `make bench` measures everything anew and writes this
page.
"""
ALT = "Bars, on a logarithmic axis: how many times as fast the package is as each peer. Ticks mark the goals."
METHOD = """## What is compared

* **PGD-10**: random start, {steps} steps on 32 x 32 colour images, one untrained ResNet-18 for all, in float32.
  The folded copy of the network, whose BatchNorm is part of the convolutions, is made anew each time and counted in.
* **Contrastive loss**: value and gradient for embeddings of dimension {dim} and ten classes in float32. Hard positives
  (beta = 10) are what pytorch-metric-learning does not have: their time is compared to SupCon's there. Memory is the
  highest that a process of its own reached, above what it had before.
* **A step of ANCHOR**: augmentation, PGD-10 on the folded copy, two views through the network, both losses, backward
  pass, optimizer. Its bare passes are the same passes through the network, and the optimizer, alone. From peers: PGD
  of torchattacks on the network as it is, SupCon of pytorch-metric-learning, PyTorch for the rest.
* **AutoAttack**: the standard version on a network of the study, through the package and called directly, one
  run each on one thread, in seconds of the processor. A verdict is whether an image withstands all four attacks.
* **An epoch on a GPU**: `fit` with its step as one CUDA graph, against a plain loop of the same network with
  torchattacks, in TF32 with cuDNN's fastest convolutions and its images already on the GPU.
"""


def met(row: dict[str, Any]) -> bool | None:
    """Whether the goal of a row was met; None where there is none, or nothing was measured."""
    if row["measured"] is None or row["goal"] is None:
        return None
    return row["measured"] >= row["goal"] if row["better"] == "at least" else row["measured"] <= row["goal"]


def in_words(row: dict[str, Any]) -> str:
    """A row as one line of text."""
    goal = f", goal {row['better']} {row['goal']:.3g}: {VERDICTS[met(row)]}" if row["goal"] is not None else ""
    note = f" ({row['note']})" if row["note"] else ""
    return f"{row['what']}: {_number(row)}{goal}{note}"


VERDICTS = {True: "met", False: "missed", None: "not run"}


def page(found: dict[str, Any], *, steps: int, dim: int) -> str:
    """The Markdown of the page for the contents of results.json."""
    lines = [INTRODUCTION, f"![{ALT}]({FIGURE})\n"]
    lines += ["| | measured | goal | | |", "|:--|:--|:--|:--|:--|"]
    for row in (row for group in found.values() for row in group["rows"]):
        goal = "" if row["goal"] is None else f"{row['better']} {row['goal']:.3g}"
        verdict = "" if row["goal"] is None else VERDICTS[met(row)]
        lines.append(f"| {row['what']} | {_number(row)} | {goal} | {verdict} | {row['note']} |")
    lines += ["", METHOD.format(steps=steps, dim=dim), "## Measured on", ""]
    together: dict[str, list[str]] = {}
    for name, group in found.items():
        together.setdefault(_machine(group["machine"]), []).append(name)
    lines += [f"* {', '.join(names)}: {where}" for where, names in together.items()]
    return "\n".join(lines) + "\n"


def speeds(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that the figure shows: how many times as fast."""
    rows = [row for group in found.values() for row in group["rows"]]
    return [row for row in rows if row["unit"] == "times as fast" and row["measured"] is not None]


def draw(found: dict[str, Any]) -> Figure:
    """Bars of all speeds, the first row at the top."""
    plotting.use_style()
    rows = speeds(found)[::-1]
    figure, axis = plt.subplots(figsize=(9, 0.6 + 0.36 * len(rows)))
    axis.barh(range(len(rows)), [row["measured"] - 1 for row in rows], left=1, height=0.6)
    for at, row in enumerate(rows):
        if row["goal"] is not None:
            axis.plot([row["goal"]] * 2, [at - 0.4, at + 0.4], color="black")
    axis.axvline(1, color="0.3", linewidth=0.8)
    axis.set_yticks(range(len(rows)), [row["what"].replace(", against", "\nagainst") for row in rows], fontsize=8)
    axis.set_xscale("log", base=2)
    ticks = [0.5, 1, 2, 3, 4, 6, 8, 12, 16]
    highest = max([2.0, *(max(row["measured"], row["goal"] or 1) for row in rows)])
    axis.set_xlim(min([0.8, *(row["measured"] for row in rows)]) * 0.95, 1.1 * highest)
    axis.set_xticks(ticks := [tick for tick in ticks if tick <= 1.1 * highest], [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("times as fast as the peer; tick: goal")
    axis.grid(axis="y", visible=False)
    return figure


def write(found: dict[str, Any], *, steps: int, dim: int, folder: Path = DOCS) -> None:
    """Write page and figure. The figure names, as its source, the checksum of what it shows."""
    figure = draw(found)
    metadata = {"Title": ALT, "Source": checksum(found), "Date": None}
    write_atomically(folder / FIGURE, lambda path: figure.savefig(path, format="svg", metadata=metadata))
    plt.close(figure)
    write_text(folder / "benchmarks.md", page(found, steps=steps, dim=dim))


def checksum(found: dict[str, Any]) -> str:
    """Of the rows that the figure shows."""
    return sha256(json.dumps(speeds(found), sort_keys=True))


def _number(row: dict[str, Any]) -> str:
    return "not run" if row["measured"] is None else f"{row['measured']:.2f} {row['unit']}"


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    on = f"{machine['cpu']} ({machine['cpu capability']}), {machine['threads']} threads"
    return f"{machine['date']}, {on}, {machine['gpu'] or 'no GPU'}; {versions}"
