"""Execute the course's notebooks: ``python -m anchor_utils run PRESET [--notebooks 01 05] [-p name value]``.

A name after ``-p`` is either a parameter that a notebook declares in its parameters cell (seed, say) or a field of
:class:`anchor_utils.config.Config` (epochs, say). Anything else is refused before a notebook starts.
"""

from __future__ import annotations

import argparse
import ast
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from anchor_utils.config import Config, presets, unknown_name
from anchor_utils.files import write_atomically
from anchor_utils.train import exit_status, parameters
from course.freshness import lock

NOTEBOOK_DIR = Path(__file__).resolve().parent.parent / "notebooks"
WITHOUT_DATA = ("08",)  # notebooks that only read results
TIMEOUTS = {"smoke": 60.0, "cpu": 60.0}  # minutes a cell, far beyond the slowest; elsewhere a cell may train for hours
START_TIMEOUT = 180  # seconds until a kernel answers
ISSUES = "https://github.com/anchor-course/anchor-course/issues"


def notebooks(numbers: list[str] | None = None) -> list[Path]:
    """Paths of the notebooks with these numbers ("01", "5"), all by default, in order of the course."""
    found = {path.name[:2]: path for path in sorted(NOTEBOOK_DIR.glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise FileNotFoundError(f"no notebooks in {str(NOTEBOOK_DIR)!r}; run this in a clone of the project")
    if not numbers:
        return list(found.values())
    wanted = [number.zfill(2) for number in numbers]
    for number in wanted:
        if number not in found:
            raise ValueError(unknown_name("notebook", number, list(found)))
    return [path for number, path in found.items() if number in wanted]


def declared_parameters(path: Path) -> dict[str, Any]:
    """Names and default values in the parameters cell of a notebook."""
    book = nbformat.read(path, as_version=4)
    (cell,) = [c for c in book.cells if "parameters" in c.metadata.get("tags", [])]
    assignments = [node for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)]
    return {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in assignments}


def injected(path: Path, preset: str, changes: dict[str, Any], runs_dir: str | None) -> dict[str, Any]:
    """What papermill has to inject into one notebook: only what differs from the defaults in its parameters cell."""
    declared = declared_parameters(path)
    values: dict[str, Any] = {"preset": preset, "overrides": {}}
    if runs_dir is not None:
        values["runs_dir"] = runs_dir
    for name, value in changes.items():
        if name in declared:
            values[name] = value
        elif name in Config.model_fields:
            values["overrides"][name] = value
    return {name: value for name, value in values.items() if name in declared and declared[name] != value}


def check_names(paths: list[Path], changes: dict[str, Any]) -> None:
    """Raise ValueError for a name that neither a notebook nor the configuration knows."""
    declared = {name for path in paths for name in declared_parameters(path)}
    if "preset" in changes:
        raise ValueError(f"preset={changes['preset']!r}: allowed is the first argument, instead of -p")
    for name in changes:
        if name not in declared and name not in Config.model_fields:
            raise ValueError(unknown_name("parameter", name, sorted(declared | set(Config.model_fields))))


def absolute_paths(changes: dict[str, Any]) -> dict[str, Any]:
    """The changes with paths as seen from here: the notebooks run in their own folder.

    Raises:
        ValueError: the image folder that is asked for does not exist.
    """
    changes = dict(changes)
    for name in ("data_root", "runs_dir"):
        if name in changes:
            changes[name] = str(Path(changes[name]).expanduser().resolve())
    dataset = str(changes.get("dataset", ""))
    if dataset.startswith("imagefolder:"):
        folder = Path(dataset.removeprefix("imagefolder:")).expanduser().resolve()
        if not folder.is_dir():
            raise ValueError(f"dataset={dataset!r}: there is no folder {str(folder)!r}")
        changes["dataset"] = f"imagefolder:{folder}"
    return changes


def check_before(paths: list[Path], preset: str, changes: dict[str, Any], runs_dir: str) -> None:
    """Raise what a notebook would raise in its first cell: a parameter out of range, data that do not fit."""
    from anchor_utils.data import load_data
    from course.lesson import configure  # with torch, which loads slowly

    configurations: dict[Config, None] = {}
    for path in paths:
        values = {**declared_parameters(path), **injected(path, preset, changes, runs_dir)}
        values["data_root"] = changes.get("data_root", str(NOTEBOOK_DIR.parent / "data"))
        config = configure(**values)
        if path.name[:2] not in WITHOUT_DATA:
            configurations[config.replace(runs_dir=runs_dir)] = None
    for config in configurations:
        load_data(config)


def named(book: nbformat.NotebookNode, what: str) -> list[str]:
    """Names of the numbers that :func:`course.lesson.finish` called "missed" or "unusual"."""
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    return [name for output in outputs for name in output.get("metadata", {}).get(what, [])]


def last_cell(target: Path) -> str:
    """Which cell of a notebook that broke off was begun last: its number and its first lines."""
    code = [cell for cell in nbformat.read(target, as_version=4).cells if cell.cell_type == "code"]
    begun = [number for number, cell in enumerate(code, start=1) if cell.metadata.papermill.get("start_time")]
    if not begun:
        return "before its first cell"
    lines = [line for line in code[begun[-1] - 1].source.splitlines() if line.strip()]
    return "\n    ".join([f"in code cell {begun[-1]}, which begins", *lines[:3]])


def what_to_try(error: Exception) -> str:
    """Advice for a notebook that ended without a Python error of its own."""
    if isinstance(error, CellTimeoutError):
        return "This cell ran into the time limit. If it was at work, allow more: --timeout MINUTES."
    if not isinstance(error, DeadKernelError):
        return "The kernel did not start. Is the machine very busy, or out of memory? Try again."
    isa = "unset ONEDNN_MAX_CPU_ISA" if "ONEDNN_MAX_CPU_ISA" in os.environ else "set ONEDNN_MAX_CPU_ISA=AVX2"
    return (
        "The kernel died. Most often memory has run out: close other programs, or take a smaller preset, width or "
        f"batch_size. If it dies in the same cell again, {isa} in the environment, which changes the instructions that "
        f"torch computes with, and report it with the output of `python -m torch.utils.collect_env` at {ISSUES}"
    )


def run(
    preset: str, numbers: list[str] | None, changes: dict[str, Any], output: Path, timeout: float | None = None
) -> int:
    """Execute the notebooks in order; returns how many failed. A failure does not stop those after it.

    A notebook fails that raises an error, dies or hangs, or whose last cell finds a number outside what the course
    claims. Parameters and data are checked before the first one starts.

    Args:
        changes: parameters of the notebooks, or fields of the configuration, by name.
        timeout: minutes that a cell may take; without it 60 with the presets for a CPU, and no limit with the others.
    """
    paths = notebooks(numbers)
    check_names(paths, changes)
    timeout = TIMEOUTS.get(preset) if timeout is None else timeout
    if timeout is not None and not 0 < timeout < float("inf"):
        raise ValueError(f"timeout={timeout}: allowed is a number of minutes, above 0")
    changes = absolute_paths(changes)
    check_before(paths, preset, changes, str(output.resolve()))
    default_output = output.resolve() == (NOTEBOOK_DIR.parent / "runs").resolve()
    folder = output / "notebooks" / preset
    folder.mkdir(parents=True, exist_ok=True)
    begun, well = time.perf_counter(), 0
    for path in paths:
        values = injected(path, preset, changes, None if default_output else str(output.resolve()))
        well += run_one(path, folder / path.name, preset, values, timeout)
    minutes = (time.perf_counter() - begun) / 60
    print(f"{well} of {len(paths)} notebooks done well, in {minutes:.1f} minutes", flush=True)
    return len(paths) - well


def run_one(path: Path, target: Path, preset: str, values: dict[str, Any], timeout: float | None) -> bool:
    """Execute one notebook and say how it went; whether it did well. The executed notebook is `target`.

    Args:
        values: what papermill injects.
        timeout: minutes that a cell may take.
    """
    start = time.perf_counter()
    print(f"{path.stem} ...", flush=True)
    book = nbformat.read(path, as_version=4)
    try:
        hashes = lock(book, preset)  # now: the files may change while it runs
    except ValueError:  # of a notebook that somebody works on, with a magic in it, say: it runs, but proves nothing
        hashes = None
    try:
        execute(path, target, values, timeout)
    except PapermillExecutionError as error:
        print(f"{path.stem} FAILED in cell {error.exec_count}: {error.ename}: {error.evalue}", file=sys.stderr)
        print("\n".join(error.traceback), file=sys.stderr)
        print(f"the notebook up to there is {target}", file=sys.stderr, flush=True)
        return False
    except (CellTimeoutError, RuntimeError) as error:  # nbclient's errors about the kernel are RuntimeErrors
        print(f"{path.stem} FAILED {last_cell(target)}\n{what_to_try(error)}", file=sys.stderr)
        print(f"({error})\nthe notebook up to there is {target}", file=sys.stderr, flush=True)
        return False
    book = nbformat.read(target, as_version=4)
    if hashes:
        book.metadata["lock"] = hashes
        write_atomically(target, lambda temporary: nbformat.write(book, temporary))
    if missed := named(book, "missed"):
        print(f"{path.stem} MISSED its expected values of {', '.join(missed)}", file=sys.stderr, flush=True)
    if unusual := named(book, "unusual"):
        print(f"{path.stem}: unusual here, but no failure: {', '.join(unusual)}")
    print(f"{path.stem} done in {time.perf_counter() - start:.0f} s: {target}", flush=True)
    return not missed


def execute(path: Path, target: Path, values: dict[str, Any], timeout: float | None) -> None:
    """Have papermill execute a notebook in the notebooks' folder, with a limit of `timeout` minutes a cell."""
    papermill.execute_notebook(
        str(path),
        str(target),
        parameters=values,
        cwd=str(NOTEBOOK_DIR),
        progress_bar=sys.stderr.isatty(),
        kernel_name="python3",
        coalesce_streams=True,
        start_timeout=START_TIMEOUT,
        execution_timeout=timeout and math.ceil(timeout * 60),
        extra_arguments=["--IPKernelApp.log_level=50"],
    )


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: all well; 1: a notebook failed or missed a claim; 2: bad input; 130: interrupted."""
    parser = argparse.ArgumentParser(prog="python -m anchor_utils run", description="Execute the course's notebooks.")
    parser.add_argument("preset", help=f"one of {', '.join(presets())}")
    parser.add_argument("--notebooks", nargs="+", metavar="NN", help="numbers, such as 01 05; default: all")
    parser.add_argument("-p", nargs=2, action="append", metavar=("NAME", "VALUE"), help="set a parameter")
    parser.add_argument("--output", default=NOTEBOOK_DIR.parent / "runs", type=Path, help="default: runs/")
    parser.add_argument(
        "--timeout", type=float, metavar="MINUTES", help="limit for one cell; default: 60 with smoke and cpu, else none"
    )
    options = parser.parse_args(arguments)

    def work() -> int:
        failed = run(options.preset, options.notebooks, parameters(options.p), options.output, options.timeout)
        return 1 if failed else 0

    return exit_status(
        work,
        ": finished networks are not trained again, and one that was being trained continues from its last saved "
        "state. --notebooks NN ... runs only the notebooks that are missing",
    )


if __name__ == "__main__":
    sys.exit(main())
