"""What the site adds to its pages: lessons as cards, tables written from the code, links from words to the glossary."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from anchor_utils.config import METHODS, Config, load_preset, presets
from course import links
from course.lesson import table as text_table
from study.claims import INTERVALS_OF_DIFFERENCES, claims_table, equal_passes_claims
from study.tables import best_checkpoints, equal_passes

ROOT = Path(__file__).resolve().parent.parent
# What one sees in each lesson, and which of its pictures stands on its card.
SEEN = {
    "01": (
        0,
        "Digits that anybody can read and a network cannot, accuracy against epsilon, and an attack to play with.",
    ),
    "02": (4, "PGD-AT, TRADES and MART in a few lines each, what robustness costs, and a training that collapses."),
    "03": (0, "The neighbours of an image, the forces between vectors on a circle, and the floor of the loss."),
    "04": (0, "Whom the loss listens to: hardness weights at work, a wrong label, and weights that are not detached."),
    "05": (0, "One training step with its real tensors, what beta adds, and a new classifier on a frozen encoder."),
    "06": (0, "Attacks that add up, defences that only hide, AutoAttack, and a checklist with its gaps filled in."),
    "07": (3, "Maps of clean and attacked features, with the numbers that say how far to trust a map."),
    "08": (0, "The paper's claims beside our runs, and how often a usual test finds what is not there."),
}
STEP_SECONDS = {"fast laptop": 0.05, "two cores of a server": 0.1, "slow laptop": 0.2}  # of a training step


@dataclass(frozen=True)
class Lesson:
    """A notebook as its card shows it."""

    number: str
    title: str
    page: str
    seen: str
    picture: bytes


@dataclass(frozen=True)
class Entry:
    """Words of the glossary that have one meaning: `keys` is how texts write them, the first one the entry's own.

    `number` is the lesson that uses it first or most.
    """

    terms: tuple[str, ...]
    keys: tuple[str, ...]
    number: str
    link: str
    text: str


def home() -> dict[str, str]:
    """Repository (owner/name) and tag that links lead to."""
    return links.read()._asdict()


def lessons() -> list[Lesson]:
    """All notebooks of the course, in order."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        book = json.loads(path.read_text(encoding="utf-8"))
        number = path.name[:2]
        title = "".join(book["cells"][0]["source"]).splitlines()[0].lstrip("# ").split("·")[-1].strip()
        outputs = [output.get("data", {}) for cell in book["cells"] for output in cell.get("outputs", [])]
        pictures = [data["image/png"] for data in outputs if "image/png" in data]
        wanted, seen = SEEN[number]
        picture = base64.b64decode("".join(pictures[min(wanted, len(pictures) - 1)]))
        found.append(Lesson(number, title, f"notebooks/{path.stem}", seen, picture))
    return found


def for_the_site(source: str, page: str) -> str:
    """A notebook (JSON) as the site shows it: launch buttons of our own for badges from other servers, setup and
    parameters folded away, folded cells under their titles.

    Args:
        source: text of the .ipynb file.
        page: its path without the ending, from the repository's root.
    """
    book = json.loads(source)
    first = book["cells"][0]
    lines = [line for line in "".join(first["source"]).splitlines() if not line.startswith("[![")]
    first["source"] = "\n".join([*lines, "", launch_buttons(page)])
    for cell in book["cells"]:
        if cell["cell_type"] != "code":
            continue
        tags, code = cell["metadata"].setdefault("tags", []), "".join(cell["source"])
        title = re.match(r"# @title (.*)\n", code)
        if title:
            name = title[1]
            cell["source"] = code[title.end() :]
        elif "parameters" in tags:
            name = "Parameters"
        elif re.search(r"lesson\.start\(", code):
            name = "Imports and configuration"
        else:
            continue
        if not {"hide-cell", "hide-input"} & {*tags}:
            tags.append("hide-input")
        cell["metadata"].setdefault("mystnb", {}).update(code_prompt_show=name, code_prompt_hide=name)
    return json.dumps(book)


def launch_buttons(page: str) -> str:
    """Markdown: a link to Colab, one to the file, one to its source."""
    place = f"{home()['repository']}/blob/{home()['tag']}"
    name = page.split("/")[-1]
    return (
        f"[Open in Colab](https://colab.research.google.com/github/{place}/{page}.ipynb){{.launch}} "
        f"{{download}}`Download the notebook <{name}.ipynb>` "
        f"[View on GitHub](https://github.com/{place}/{page}.ipynb){{.launch}}"
    )


def glossary(text: str) -> list[Entry]:
    """The entries of docs/glossary.md: ``**word** ([01](notebook)): meaning``, or ``**word**, **other word** ...``."""
    entries = []
    for head, *rest in re.findall(r"^(\*\*.+?\*\*) \(\[(\d\d)\]\((.+?)\)\): (.*)$", text, re.MULTILINE):
        terms = re.findall(r"\*\*(.+?)\*\*", head)
        entries.append(Entry(tuple(terms), tuple(re.sub(r" ?\(.*?\)", "", term) for term in terms), *rest))
    return entries


def glossary_directive(text: str) -> str:
    """docs/glossary.md with its entries as a glossary of Sphinx, which makes of each a place to link to."""
    head = text[: text.index("**")]
    entries = ["\n".join([*e.terms, f"  {e.text} ([{e.number}]({e.link}))"]) for e in glossary(text)]
    return f"{head}```{{glossary}}\n" + "\n\n".join(entries) + "\n```\n"


def first_uses(text: str, keys: list[str]) -> list[tuple[int, int, str]]:
    """Where words of the glossary stand in a text for the first time: (start, end, word), in order, none overlapping.

    Longer words go first: "adversarial example" before "example". A plural counts; capitals do, where the word has any.
    """
    found: list[tuple[int, int, str]] = []
    for key in sorted(keys, key=len, reverse=True):
        flags = re.IGNORECASE if key == key.lower() else 0
        match = re.search(rf"(?<![\w-]){re.escape(key)}(?:s|es)?(?![\w-])", text, flags)
        if match and all(match.end() <= start or match.start() >= end for start, end, _ in found):
            found.append((*match.span(), key))
    return sorted(found)


def markdown_table(head: list[str], rows: list[list[str]], left: Sequence[int] = (0,)) -> str:
    """A table with the columns of these numbers to the left and the others to the right."""
    ruler = ["--:"] * len(head)
    for column in left:
        ruler[column] = ":--"
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ruler, *rows])


def preset_table() -> str:
    """Fields of the configuration that presets change: default, values and meaning."""
    names = presets()
    configs = [load_preset(name).model_dump() for name in names]
    default = Config().model_dump()
    kept = [field for field in default if any(config[field] != default[field] for config in configs)]
    rows = [
        [f"`{field}`", *(_value(values[field]) for values in [default, *configs]), _meaning(field)] for field in kept
    ]
    return markdown_table(["field", "default", *(f"`{name}`" for name in names), "what it is"], rows, left=[0, -1])


def hyperparameter_table(names: Sequence[str] = ("cpu", "minutes", "paper")) -> str:
    """What one looks up of attack, training and losses: the values of some presets, and which methods read a field."""
    fields = ["epsilon", "step_size", "attack_steps", "epochs", "batch_size", "learning_rate"]
    fields += ["temperature", "beta", "contrastive_weight", "trades_beta", "mart_beta"]
    read = {field: [m.label for m in METHODS.values() if field in m.fields] for field in fields}
    configs = [load_preset(name).model_dump() for name in names]
    rows = [
        [f"`{field}`", *(_value(config[field]) for config in configs), ", ".join(read[field]) or "all"]
        for field in fields
    ]
    return markdown_table(["field", *(f"`{name}`" for name in names), "read by"], rows, left=[0, -1])


def time_table() -> str:
    """Minutes that each lesson computes with the preset cpu, by kind of machine: by the time of a training step.

    ``work`` in expected/NN.cpu.yaml says how many training steps' worth of time a lesson takes.
    """
    rows = []
    for lesson in lessons():
        bands: Mapping[str, Any] = yaml.safe_load(
            (ROOT / "expected" / f"{lesson.number}.cpu.yaml").read_text(encoding="utf-8")
        )
        minutes = [
            f"{bands['work'] * step / 60:.1f}" if "work" in bands else "seconds" for step in STEP_SECONDS.values()
        ]
        rows.append([f"[{lesson.number} · {lesson.title}](/{lesson.page}.ipynb)", *minutes])
    machines = [f"{machine} ({1000 * step:.0f} ms)" for machine, step in STEP_SECONDS.items()]
    return markdown_table(["lesson", *machines], rows)


def claims() -> str:
    """The paper's claims, how they are tested, what the stored study says, and the verdict."""
    path = ROOT / "data/pretrained/study.json"
    equal, _ = equal_passes(path, "cifar10_equal_time", "cifar10_cpu")
    study, _ = best_checkpoints(path, "cifar10_cpu")
    after_equal_passes = text_table(claims_table(equal, equal_passes_claims(equal)))
    return (
        f"After about as many passes through the network:\n\n{after_equal_passes}\n\n"
        f"After as many epochs:\n\n{text_table(claims_table(study))}\n\n{INTERVALS_OF_DIFFERENCES}"
    )


def cover() -> dict[str, Any]:
    """The numbers of docs/static/cover.json, and what the figure shows in words for those who cannot see it."""
    numbers: dict[str, Any] = json.loads((ROOT / "docs/static/cover.json").read_text(encoding="utf-8"))
    digit, four = numbers["digit"], ", ".join(numbers["targets"])
    inside = f"Inside the diamond, where no pixel moves by more than {numbers['epsilon']:g}"
    numbers["alt"] = {
        "ordinary": f"A {digit} and four attacked copies of it on a plane of images. {inside}, the ordinary network "
        f"names a {digit} only near the middle; towards the four corners it names {four}.",
        "robust": f"The same {digit} and four attacks on the robust network. {inside}, it names a {digit} at the digit "
        "and at all four corners.",
    }
    return numbers


def _value(value: Any) -> str:
    words = {None: "all", True: "yes", False: "no"}
    if value is None or isinstance(value, bool):
        return words[value]
    return value if isinstance(value, str) else f"{value:g}"


def _meaning(field: str) -> str:
    """What the configuration says about one of its fields, as the cell of a table."""
    text = Config.model_fields[field].description
    if not text:
        raise ValueError(f"{field}: a field that the site shows has a description")
    return text.replace("|", "\\|")
