"""Execute the course's notebooks: ``python -m anchor_utils.run PRESET [--notebooks 01 05] [-p name value]``.

A name after ``-p`` is either a parameter that a notebook declares in its parameters cell (seed, say) or a field of
:class:`anchor_utils.config.Config` (epochs, say). Anything else is refused before a notebook starts.
"""

from __future__ import annotations

import argparse
import ast
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from anchor_utils.config import Config, load_preset, presets, unknown_name
from anchor_utils.files import write_atomically
from anchor_utils.lock import lock
from anchor_utils.train import parameters

NOTEBOOK_DIR = Path(__file__).resolve().parent.parent / "notebooks"


def notebooks(numbers: list[str] | None = None) -> list[Path]:
    """Paths of the notebooks with these numbers ("01", "5"), all by default, in order of the course."""
    found = {path.name[:2]: path for path in sorted(NOTEBOOK_DIR.glob("[0-9][0-9]_*.ipynb"))}
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


def outside_their_bands(book: nbformat.NotebookNode) -> list[str]:
    """Names of the numbers that :func:`anchor_utils.notebook.finish` did not find where they are expected."""
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    return [name for output in outputs for name in output.get("metadata", {}).get("missed", [])]


def run(preset: str, numbers: list[str] | None, changes: dict[str, Any], output: Path) -> int:
    """Execute the notebooks in order; returns how many failed. A failure does not stop those after it.

    A notebook fails that raises an error, or whose last cell finds a number outside the band in which it is expected.
    """
    paths = notebooks(numbers)
    check_names(paths, changes)
    load_preset(preset, **{name: value for name, value in changes.items() if name in Config.model_fields})
    changes = absolute_paths(changes)
    default_output = output.resolve() == (NOTEBOOK_DIR.parent / "runs").resolve()
    folder = output / "notebooks" / preset
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for path in paths:
        start = time.perf_counter()
        print(f"{path.stem} ...", flush=True)
        hashes = lock(nbformat.read(path, as_version=4), preset)  # now: the files may change while it runs
        target = folder / path.name
        try:
            papermill.execute_notebook(
                str(path),
                str(target),
                parameters=injected(path, preset, changes, None if default_output else str(output.resolve())),
                cwd=str(NOTEBOOK_DIR),
                progress_bar=sys.stderr.isatty(),
                kernel_name="python3",
                coalesce_streams=True,
                extra_arguments=["--IPKernelApp.log_level=50"],
            )
        except PapermillExecutionError as error:
            failures.append(path.stem)
            print(f"{path.stem} FAILED in cell {error.exec_count}: {error.ename}: {error.evalue}", file=sys.stderr)
            print("\n".join(error.traceback), file=sys.stderr)
            print(f"the notebook up to there is {target}", file=sys.stderr, flush=True)
        except DeadKernelError as error:  # out of memory, most likely
            failures.append(path.stem)
            print(f"{path.stem} FAILED: {error}; the notebook up to there is {target}", file=sys.stderr, flush=True)
        else:
            book = nbformat.read(target, as_version=4)
            book.metadata["lock"] = hashes
            write_atomically(target, lambda temporary: nbformat.write(book, temporary))  # noqa: B023
            if missed := outside_their_bands(book):
                failures.append(path.stem)
                print(f"{path.stem} MISSED its expected values of {', '.join(missed)}", file=sys.stderr, flush=True)
            print(f"{path.stem} done in {time.perf_counter() - start:.0f} s: {target}", flush=True)
    return len(failures)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m anchor_utils.run", description="Execute the course's notebooks.")
    parser.add_argument("preset", help=f"one of {', '.join(presets())}")
    parser.add_argument("--notebooks", nargs="+", metavar="NN", help="numbers, such as 01 05; default: all")
    parser.add_argument("-p", nargs=2, action="append", metavar=("NAME", "VALUE"), help="set a parameter")
    parser.add_argument("--output", default=NOTEBOOK_DIR.parent / "runs", type=Path, help="default: runs/")
    options = parser.parse_args(arguments)
    try:
        failed = run(options.preset, options.notebooks, parameters(options.p), options.output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
