"""Run the cells of a sweep in whatever time there is: ``python -m study.timeboxed minutes --minutes 12``.

For a GPU that is there for a while only. Cells are taken in the order of the sweep file, one seed of all variants after
the other, and none is started that cannot finish. Each finished cell leaves one JSON file in data/study_gpu/SWEEP, to
be committed: the next machine goes on with the cells that have none. Data are loaded once, and libraries choose their
kernels once, for all cells. PyTorch and the small packages of the library are enough, Jupyter is not needed.

A sweep with `seconds` gives every network that much training, all that happens only once left out: the seconds of an
epoch are measured, and as many as fit are then an ordinary number of epochs. All seeds of a variant have the same, on
whatever card.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from anchor_utils import models, results, training
from anchor_utils.config import Config, Evaluation, Places, digest, load_preset
from anchor_utils.data import Dataset, fitting, load_data
from anchor_utils.files import write_text
from anchor_utils.train import exit_status, parameters
from study import measure, pieces
from study.speed import Speed, device_of, measure_speed, place, workload
from study.sweep import Sweep, load_sweep

CELLS = Path(__file__).resolve().parent.parent / "data" / "study_gpu"
MARGIN = 1.1  # a cell is taken to last this many times as long as estimated
PARTS = {"training": ("training", "one_time", "finetuning"), "evaluation": ("evaluation",)}  # seconds of a cell
SLACK = 15.0  # seconds, and so much longer: libraries that are loaded, files that are written


def in_time(
    names: Iterable[str], needed: Callable[[str], float], run: Callable[[str], None], left: Callable[[], float]
) -> dict[str, float]:
    """Run, in this order, whatever can finish in the seconds that are left; returns what the others would need."""
    late = {}
    for name in names:
        seconds = needed(name)  # may take time itself
        if seconds <= left():
            run(name)
        else:
            late[name] = seconds
    return late


def read_done(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The cells of these names that are finished in a folder."""
    found = {}
    for name in names:
        if (path := folder / f"{name}.json").exists():
            results.read_results(path)  # says what is wrong with a damaged one
            found[name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def split_seconds(epochs: Sequence[float], wall: float) -> tuple[float, float]:
    """Seconds of training at its steady speed, and of what happened once.

    Args:
        epochs: seconds of each epoch; what the first took longer than others happened once.
        wall: seconds from the call to its return, of which what lies outside the epochs happened once.
    """
    extra = max(0.0, epochs[0] - statistics.median(epochs[1:])) if len(epochs) > 1 else 0.0
    return sum(epochs) - extra, extra + max(0.0, wall - sum(epochs))


@dataclasses.dataclass
class TimeBox:
    """A sweep on this machine, and what is finished of it.

    Args:
        parameters: of each cell, as :meth:`study.sweep.Sweep.cells` gives them.
        seconds: of training that each network is given; None: the configuration says the epochs.
        folder: of the finished cells.
        deadline: as `clock` counts.
        weights: a folder that gets the best network of each cell in half precision, or None.
        speed: measures how fast a configuration is on this machine.

    Raises:
        ValueError: a cell does not fit the data, or a finished one is damaged or of another configuration.
    """

    parameters: dict[str, dict[str, Any]]
    seconds: float | None
    folder: Path
    deadline: float
    weights: Path | None = None
    clock: Callable[[], float] = time.monotonic
    speed: Callable[[Config, Dataset], Speed] = measure_speed

    def __post_init__(self) -> None:
        self.versions = results.versions()
        self.configs = {name: _config(cell) for name, cell in self.parameters.items()}
        self.done = read_done(self.folder, self.configs)
        for name, found in self.done.items():
            self._check_same(name, Config(**found["config"]))
            if (given := found["seconds"]["given"]) != self.seconds:
                raise ValueError(
                    f"cell {name!r} is finished with seconds={given}: allowed is {self.seconds}, as for all others"
                )
        self.speeds: dict[str, Speed] = {}
        self.data: dict[tuple[Any, ...], Dataset] = {}
        self.failed: dict[str, str] = {}
        for name in self.unfinished():
            self.dataset(self.configs[name])

    def unfinished(self) -> list[str]:
        return [name for name in self.configs if name not in self.done]

    def left(self) -> float:
        return self.deadline - self.clock()

    def _check_same(self, name: str, finished: Config) -> None:
        free = {*Places.model_fields, *(("epochs",) if self.seconds else ())}
        old, new = (config.model_dump(exclude=free) for config in (finished, self.configs[name]))
        if differ := [
            f"{field} is {value!r}, there {old[field]!r}" for field, value in new.items() if old[field] != value
        ]:
            raise ValueError(
                f"cell {name!r} is finished in {str(self.folder)!r} with other settings: {'; '.join(differ)}. Ask for "
                "the same with -p, or choose another --folder"
            )

    def dataset(self, config: Config) -> Dataset:
        """The data of a configuration, loaded once."""
        key = (config.dataset, config.data_root, config.train_images)
        if key not in self.data:
            self.data[key] = load_data(config)
        return fitting(config, self.data[key])

    def speed_of(self, config: Config) -> Speed:
        """Measured once on a machine and kept: an interrupted cell goes on only with the number of epochs that it had.

        Raises:
            TimeoutError: there is no time to measure it.
        """
        key = self._machine(config)
        path = Path(config.runs_dir) / "speed" / f"{key}.json"
        if key not in self.speeds and path.exists():
            self.speeds[key] = Speed(**json.loads(path.read_text(encoding="utf-8")))
        if key not in self.speeds:
            took = max((speed.took for speed in self.speeds.values()), default=0.0)
            if self.left() < SLACK + took + (self.seconds or 0.0):
                raise TimeoutError
            self.speeds[key] = self.speed(config, self.dataset(config))
            write_text(path, json.dumps(dataclasses.asdict(self.speeds[key])))
        return self.speeds[key]

    def _machine(self, config: Config) -> str:
        return digest({"workload": workload(config), **place(config), **self.versions})

    def needed(self, name: str) -> float:
        """Seconds that a cell may take, inf if there is not even time to find out; settles its number of epochs."""
        cell, config = self.parameters[name], self.configs[name]
        try:
            if self.seconds:
                config = self.configs[name] = config.replace(epochs=self._epochs(config, self.seconds))
            training, evaluation = (self._longest(part, config, cell) for part in PARTS)
            if training is None:
                training = self.speed_of(config).training(config, cell["finetune"])
            if evaluation is None:
                evaluation = self.speed_of(config).evaluation(config, cell["attacks"])
        except TimeoutError:
            return float("inf")
        return MARGIN * (training + evaluation) + SLACK

    def _longest(self, part: str, config: Config, cell: dict[str, Any]) -> float | None:
        """Seconds that this part of finished cells of the same kind took on this card, at most; None without any."""
        card, wanted = self.versions["hardware"], _kind(part, config, cell)
        whole = [found for found in self.done.values() if "error" not in found]
        here = [found for found in whole if found["versions"]["hardware"] == card]
        alike = [found for found in here if _kind(part, Config(**found["config"]), found) == wanted]
        return max((sum(found["seconds"][name] for name in PARTS[part]) for found in alike), default=None)

    def _epochs(self, config: Config, seconds: float) -> int:
        """As many as its other seeds had, on whatever card; else as many as fit into the seconds, and at least one."""
        for found in self.done.values():
            if workload(Config(**found["config"])) == workload(config):
                return int(found["config"]["epochs"])
        if others := {found["versions"]["hardware"] for found in self.done.values()} - {self.versions["hardware"]}:
            # Equal seconds on unequal cards are no equal budgets.
            raise TimeoutError(
                f"its number of epochs is for {', '.join(sorted(others))} to settle, as that of the others"
            )
        return max(1, int(seconds / self.speed_of(config).epoch))

    def run(self, name: str) -> None:
        """Train and measure a cell, and write what was found.

        A training that diverges is a result and is written too; what else goes wrong is not, and is tried again the
        next time. Either way the other cells go on.
        """
        try:
            self._write(name, **self._measured(name))
        except FloatingPointError as error:
            self.failed[name] = f"diverged: {str(error).split(';')[0]}"  # what follows is about files of this machine
            self._write(name, pd.DataFrame(), {}, error=self.failed[name])
        except Exception as error:
            traceback.print_exc()
            self.failed[name] = f"{type(error).__name__}: {error}"
        print(f"{name}: {self.failed.get(name) or summary(self.done[name])}", flush=True)
        gc.collect()  # frees memory of the card

    def _measured(self, name: str) -> dict[str, Any]:
        config, cell, times = self.configs[name], self.parameters[name], [self.clock()]
        dataset, device = self.dataset(config), device_of(config)
        run = training.fit(config, dataset=dataset, progress=False)
        times.append(self.clock())
        held_out = measure.of_both(run, dataset, cell["finetune"])
        times.append(self.clock())
        table = measure.accuracies(run, dataset.test, cell["attacks"], device)
        inside = measure.inside(run, dataset, device) if cell["attacks"] else {}
        times.append(self.clock())
        if self.weights:
            network = run.model("best")
            path = self.weights / f"{name}.safetensors"
            models.save(network.half(), path, network.metadata)
            pieces.split(path)
        fitted, finetuning, evaluation = (later - earlier for earlier, later in pairwise(times))
        if cell["attacks"]:  # some of it may have been done before an interruption
            evaluation = max(evaluation, float(table.loc[~table["attack"].str.contains("/"), "seconds"].sum()))
        steady, once = split_seconds(run.metrics()["seconds"].tolist(), fitted)
        seconds = {"training": steady, "one_time": once, "finetuning": finetuning, "evaluation": evaluation}
        found = {"held_out": held_out, "inside": inside, "training_seconds": steady}
        return {"table": table, "seconds": seconds, **found}

    def _write(self, name: str, table: pd.DataFrame, seconds: dict[str, float], **found: Any) -> None:
        config, cell, path = self.configs[name], self.parameters[name], self.folder / f"{name}.json"
        lines = Path(config.runs_dir) / config.run_name() / "metrics.jsonl"
        text = lines.read_text(encoding="utf-8") if lines.exists() else ""
        found["metrics"] = [json.loads(line) for line in text.splitlines()]
        speed = self.speeds.get(self._machine(config))
        found["seconds"] = {"given": self.seconds, **seconds, "speed": speed and dataclasses.asdict(speed)}
        about = {name: cell[name] for name in ("variant", "attacks", "finetune")}
        measure.save_cell(path, config, table, **about, **found)
        self.done |= read_done(self.folder, [name])


def _config(cell: dict[str, Any]) -> Config:
    fields = {name: cell[name] for name in ("seed", "runs_dir", "data_root")}
    return load_preset(cell["preset"], **{**cell["overrides"], **fields})


def _kind(part: str, config: Config, cell: dict[str, Any]) -> dict[str, Any]:
    """What decides the seconds of a part of a cell."""
    if part == "training":
        return {"workload": workload(config), **place(config), "epochs": config.epochs, "finetune": cell["finetune"]}
    fields = config.model_dump(include={*Evaluation.model_fields, "dataset", "width", "stem_stride"})
    return {**fields, "attacks": cell["attacks"]}


def summary(found: dict[str, Any]) -> str:
    """A finished cell in one line."""
    if "error" in found:
        return str(found["error"])
    best = {row["attack"]: row["accuracy"] for row in found["rows"] if row["checkpoint"] == "best"}
    shown = best or {f"held-out {name}": found["held_out"]["joint"][name] for name in ("clean", "robust")}
    accuracies = ", ".join(f"{name} {value:.1%}" for name, value in shown.items() if "/" not in name)
    seconds = found["seconds"]
    return f"{accuracies} ({seconds['training']:.0f} s of training, {seconds['evaluation']:.0f} s of evaluation)"


def with_fields(sweep: Sweep, fields: dict[str, Any]) -> Sweep:
    """A sweep in which all cells have these values; one with a number of epochs gives no seconds any more.

    Raises:
        ValueError: a field in which cells differ, or that has an option of its own.
    """
    own = {name for variant in sweep.variants.values() for name in variant}
    differ = {name for name in own if len({repr(variant.get(name)) for variant in sweep.variants.values()}) > 1}
    for name in fields.keys() & (differ | {"seed", "method", "runs_dir", "data_root"}):
        raise ValueError(f"{name}={fields[name]!r}: allowed with -p is what all cells share and no other option says")
    variants = {name: {**variant, **fields} for name, variant in sweep.variants.items()}
    seconds = None if "epochs" in fields else sweep.seconds
    return sweep.model_copy(update={"variants": variants, "seconds": seconds})


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, or 1 if a cell failed, 2 for bad input, 130 after Ctrl-C; cells without time are no failure."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m study.timeboxed", description=__doc__.splitlines()[0])
    parser.add_argument("sweep", nargs="?", default="minutes", help="a file in configs/sweeps/, or another .yaml file")
    parser.add_argument("--minutes", type=float, required=True, help="from the start of the command")
    parser.add_argument("--folder", type=Path, help="of the finished cells; default: data/study_gpu/SWEEP")
    parser.add_argument("--weights", type=Path, help="a folder for the best networks, in half precision")
    parser.add_argument("--runs-dir", default="runs", help="what an interrupted cell goes on from; default: runs")
    parser.add_argument("--data-root", default="data", help="default: data")
    parser.add_argument("-p", nargs=2, action="append", metavar=("NAME", "VALUE"), help="set a field in all cells")
    options = parser.parse_args(arguments)

    def work() -> int:
        if not options.minutes > 0:
            raise ValueError(f"minutes={options.minutes:g}: allowed is a number above 0")
        sweep = with_fields(load_sweep(options.sweep), parameters(options.p))
        cells = sweep.cells(runs_dir=options.runs_dir, data_root=options.data_root)
        folder = options.folder or CELLS / Path(options.sweep).stem
        box = TimeBox(cells, sweep.seconds, folder, began + 60 * options.minutes, options.weights)
        late = in_time(box.unfinished(), box.needed, box.run, box.left)
        for name, seconds in late.items():
            print(f"{name}: no time for it, it may take {seconds:.0f} s")
        print(f"{len(box.done)} of {len(cells)} cells are finished in {folder}; {len(box.failed)} failed now")
        return 1 if box.failed else 0

    return exit_status(work, " with the unfinished cells, from their last saved states")


if __name__ == "__main__":
    sys.exit(main())
