"""Sweeps with a deadline: what is started, what is left behind, and where the next machine goes on."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import same

from anchor_utils import models, results
from anchor_utils.config import load_preset
from study import measure, timeboxed
from study.speed import Speed
from study.sweep import SWEEP_DIR, Sweep, load_sweep
from study.timeboxed import SLACK, TimeBox, in_time, main, split_seconds

ROOT = Path(__file__).resolve().parent.parent
OTHERS = ("IPython", "jupyter", "jupyter_core", "papermill", "ipywidgets", "jupytext", "snakemake", "tabulate")
VARIANTS = {"standard": {"method": "standard"}, "pgd_at": {"method": "pgd_at"}}


class Clock:
    """Stands still until something takes time."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Pretended(TimeBox):
    """Cells that take `share` of the seconds that the speed says, and train nothing."""

    share = 1.0

    def dataset(self, config):
        return None

    def _measured(self, name):
        config, cell, speed = self.configs[name], self.parameters[name], self.speed_of(self.configs[name])
        self.ran = [*getattr(self, "ran", []), name]
        trained, evaluated = speed.training(config, False), speed.evaluation(config, cell["attacks"])
        self.clock.now += self.share * (trained + evaluated)
        seconds = {"training": self.share * trained, "one_time": 0.0, "finetuning": 0.0}
        seconds["evaluation"] = self.share * evaluated
        held_out = {"joint": {"clean": 0.5, "robust": 0.3}}
        return {"table": pd.DataFrame(), "seconds": seconds, "training_seconds": trained, "held_out": held_out}


def pretended(folder: Path, clock: Clock, deadline: float, speed: Speed, *, share=1.0, **sweep) -> Pretended:
    """A box of the preset smoke whose speed is known; to measure it takes the time that it says."""

    def measured(config, dataset):
        clock.now += speed.took
        return speed

    found = Sweep(**{"preset": "smoke", "variants": VARIANTS, "seeds": [0, 1, 2], "attacks": [], **sweep})
    cells = found.cells(runs_dir=str(folder / "runs"))
    box = Pretended(cells, found.seconds, folder / "cells", deadline, clock=clock, speed=measured)
    box.share = share
    return box


def run_all(box: TimeBox) -> dict[str, float]:
    return in_time(box.unfinished(), box.needed, box.run, box.left)


@given(
    cells=st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.01, 1)), max_size=12),
    deadline=st.floats(0, 300),
)
def test_no_cell_is_started_that_cannot_finish_and_the_order_is_kept(cells, deadline):
    clock, ran, estimates = Clock(), [], {str(i): seconds for i, (seconds, _) in enumerate(cells)}

    def run(name):
        assert estimates[name] <= deadline - clock()
        clock.now += estimates[name] * cells[int(name)][1]
        ran.append(name)

    late = in_time(estimates, estimates.__getitem__, run, lambda: deadline - clock())
    assert clock.now <= deadline
    assert ran == [name for name in estimates if name in ran]
    assert late == {name: seconds for name, seconds in estimates.items() if name not in ran}
    assert all(seconds > deadline - clock.now for name, seconds in late.items() if name > max(ran, default=""))


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@given(
    minutes=st.lists(st.floats(0.05, 10), min_size=2, max_size=3),
    epoch=st.floats(0.5, 60),
    took=st.floats(0.1, SLACK),
    share=st.floats(0.95, 1),
    seconds=st.sampled_from([None, 30.0]),
)
def test_machine_after_machine_goes_on_in_order_within_its_time_and_repeats_nothing(
    minutes, epoch, took, share, seconds
):
    speed = Speed(step=0.01, epoch=epoch, start=1.0, query=0.001, fast_query=0.001, took=took)
    with tempfile.TemporaryDirectory() as folder:
        ran = []
        for each in minutes:
            clock = Clock()
            options = {"share": share, "seconds": seconds, "attacks": ["clean", "pgd"]}
            box = pretended(Path(folder), clock, 60 * each, speed, **options)
            late = run_all(box)
            assert clock.now <= 60 * each
            assert set(late) == set(box.unfinished())
            ran += getattr(box, "ran", [])
        assert ran == list(box.configs)[: len(ran)]  # equal cells: none overtakes another
        assert sorted(ran) == sorted(path.stem for path in (Path(folder) / "cells").glob("*.json"))


def test_equal_seconds_become_a_whole_number_of_epochs_which_all_seeds_share_on_any_card(tmp_path, monkeypatch):
    fast, slow = (Speed(0.01, epoch, 1.0, 0.001, 0.001, 2.0) for epoch in (7.9, 1000.0))
    clock = Clock()
    box = pretended(tmp_path, clock, SLACK + 105, fast, seconds=80.0)
    run_all(box)
    assert box.ran == ["standard-s0"]
    (cell,) = box.done.values()
    assert cell["config"]["epochs"] == 10  # 10 x 7.9 s fit into 80, 11 do not
    assert cell["seconds"]["given"] == 80.0
    assert cell["seconds"]["speed"]["step"] == 0.01
    monkeypatch.setattr(results, "versions", lambda: {"hardware": "another card"})
    box = pretended(tmp_path, clock, clock.now + 1e5, slow, seconds=80.0)
    late = run_all(box)
    # Of other variants the first card has to say how many epochs fit: equal seconds of two cards are not equal.
    assert {name: found["config"]["epochs"] for name, found in box.done.items()} == {
        f"standard-s{s}": 10 for s in range(3)
    }
    assert set(late) == set(box.unfinished()) != set()
    assert set(late.values()) == {float("inf")}
    assert box.done["standard-s1"]["versions"]["hardware"] == "another card"


def test_cells_that_were_given_other_seconds_are_refused(tmp_path):
    clock, speed = Clock(), Speed(0.01, 7.9, 1.0, 0.001, 0.001, 2.0)
    run_all(pretended(tmp_path, clock, SLACK + 105, speed, seconds=80.0))
    with pytest.raises(ValueError, match=r"'standard-s0' is finished with seconds=80.0: allowed is 150.0"):
        pretended(tmp_path, clock, 1e4, speed, seconds=150.0)
    with pytest.raises(ValueError, match=r"'standard-s0' is finished .* with other settings: epochs is 1, there 10"):
        pretended(tmp_path, clock, 1e4, speed, seconds=None)


def test_a_field_in_which_cells_differ_is_not_set_for_all():
    with pytest.raises(ValueError, match=r"width=32: allowed with -p is what all cells share"):
        timeboxed.with_fields(load_sweep("minutes"), {"width": 32})
    assert (
        timeboxed.with_fields(load_sweep("minutes"), {"test_images": 100}).variants["pgd_at.w64"]["test_images"] == 100
    )


def test_an_interrupted_cell_goes_on_with_the_epochs_that_it_was_begun_with(tmp_path, monkeypatch):
    clock, options = Clock(), {"seconds": 80.0, "variants": {"pgd_at": {"method": "pgd_at"}}}
    box = pretended(tmp_path, clock, 1e4, Speed(0.01, 10.0, 1.0, 0.001, 0.001, 2.0), **options)
    with monkeypatch.context() as patch:
        patch.setattr(box, "_measured", lambda name: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_all(box)
    assert not box.folder.exists()
    before = box.configs["pgd_at-s0"].run_name()
    box = pretended(
        tmp_path, clock, 1e4, Speed(0.01, 11.0, 1.0, 0.001, 0.001, 2.0), **options
    )  # measured a little slower
    run_all(box)
    assert box.done["pgd_at-s0"]["run"] == before


def test_what_cells_took_on_this_card_replaces_the_estimate(tmp_path, monkeypatch):
    clock, speed = Clock(), Speed(0.01, 10.0, 0.0, 0.001, 0.001, 0.0)
    box = pretended(tmp_path, clock, 1e4, speed, share=0.5, variants={"pgd_at": {"method": "pgd_at"}}, seeds=[0, 1])
    first = box.needed("pgd_at-s0")
    assert first == pytest.approx(timeboxed.MARGIN * 10 + SLACK)
    box.run("pgd_at-s0")
    assert box.needed("pgd_at-s1") == pytest.approx(timeboxed.MARGIN * 5 + SLACK)
    monkeypatch.setattr(box, "versions", {"hardware": "another card"})
    assert box.needed("pgd_at-s1") == first


@pytest.mark.parametrize(
    ("epochs", "wall", "wanted"),
    [
        ([14.0, 4.0, 4.0, 4.0], 27.0, (16.0, 11.0)),  # 10 s of search in the first epoch, 1 s before it
        ([4.0, 4.0], 8.0, (8.0, 0.0)),
        ([3.0, 4.0, 4.0], 11.0, (11.0, 0.0)),
        ([5.0], 6.0, (5.0, 1.0)),
        ([14.0, 4.0, 4.0], 5.0, (12.0, 10.0)),  # gone on with after an interruption
    ],
)
def test_what_happens_once_is_told_from_training(epochs, wall, wanted):
    assert split_seconds(epochs, wall) == wanted


@pytest.fixture
def sweep(tmp_path):
    """A sweep of seconds in a file, and what starts it."""

    def start(*arguments, minutes=10, seconds=None, **changes):
        content = {**yaml.safe_load((SWEEP_DIR / "smoke.yaml").read_text()), "seeds": [0], "finetune": []}
        content |= {"attacks": ["clean", "pgd"], "autoattack_seeds": [], "seconds": seconds, **changes}
        path = tmp_path / "short.yaml"
        path.write_text(yaml.safe_dump({name: value for name, value in content.items() if value is not None}))
        places = ["--folder", str(tmp_path / "cells"), "--runs-dir", str(tmp_path / "runs")]
        return main([str(path), "--minutes", str(minutes), *places, "-p", "device", "cpu", *arguments])

    return start


def finished(folder: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in (folder / "cells").glob("*.json")}


def test_a_training_that_diverges_is_a_result_and_the_others_go_on(tmp_path, sweep, capsys):
    variants = {"broken": {"method": "standard", "learning_rate": 1e30}, "standard": {"method": "standard"}}
    assert sweep(variants=variants) == 1
    cells = finished(tmp_path)
    assert set(cells) == {"broken-s0", "standard-s0"}
    assert cells["broken-s0"]["rows"] == []
    assert "learning rate" in cells["broken-s0"]["error"]
    assert str(tmp_path) not in json.dumps(cells)
    assert "broken-s0: diverged" in capsys.readouterr().out
    assert sweep(variants=variants) == 0  # not trained again


@pytest.mark.slow
def test_whatever_else_goes_wrong_leaves_no_file_and_is_tried_again(tmp_path, sweep, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        original = measure.accuracies

        def broken(run, *rest):
            if run.config.method == "standard":
                raise RuntimeError("the card fell off the bus")
            return original(run, *rest)

        patch.setattr(measure, "accuracies", broken)
        assert sweep(variants=VARIANTS) == 1
    assert set(finished(tmp_path)) == {"pgd_at-s0"}
    assert "standard-s0: RuntimeError: the card fell off the bus" in capsys.readouterr().out
    before = finished(tmp_path)["pgd_at-s0"]
    assert sweep(variants=VARIANTS) == 0
    assert set(finished(tmp_path)) == {"pgd_at-s0", "standard-s0"}
    assert finished(tmp_path)["pgd_at-s0"] == before


@pytest.mark.slow
def test_ctrl_c_leaves_no_file_and_the_same_command_goes_on_to_the_same_result(tmp_path, sweep, monkeypatch):
    variants = {"pgd_at": {"method": "pgd_at", "epochs": 2}}
    with monkeypatch.context() as patch:
        patch.setattr(measure, "accuracies", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert sweep(variants=variants) == 130
    assert not (tmp_path / "cells").exists()
    assert sweep(variants=variants) == 0
    interrupted = finished(tmp_path)["pgd_at-s0"]
    (run,) = (tmp_path / "runs").glob("mnist5k-*")
    weights = models.load(run / "last.safetensors").state_dict()
    for folder in ("cells", "runs"):
        (tmp_path / folder).rename(tmp_path / f"{folder}-before")
    assert sweep(variants=variants) == 0
    whole = finished(tmp_path)["pgd_at-s0"]
    assert [row["outcomes"] for row in interrupted["rows"]] == [row["outcomes"] for row in whole["rows"]]
    assert same(weights, models.load(tmp_path / "runs" / run.name / "last.safetensors").state_dict())


def test_an_end_while_a_cell_is_written_leaves_nothing_half(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            measure.save_cell(tmp_path / "a-s0.json", load_preset("smoke"), pd.DataFrame())
    assert not list(tmp_path.iterdir())


def test_cells_of_other_settings_are_refused_before_anything_runs(tmp_path, sweep, capsys):
    assert sweep(variants={"standard": {"method": "standard"}}) == 0
    before = finished(tmp_path)
    assert sweep(variants={"standard": {"method": "standard"}, **VARIANTS}, overrides={"learning_rate": 0.07}) == 2
    message = capsys.readouterr().err
    assert "'standard-s0'" in message
    assert "learning_rate is 0.07, there 0.05" in message
    assert finished(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"minutes": 0}, "minutes=0: allowed is a number above 0"),
        ({"minutes": "nan"}, "minutes=nan: allowed is a number above 0"),
        ({"overrides": {"test_images": 2000}}, "test_images=2000: allowed is 1 to 1000"),
        ({"seconds": -1}, "seconds"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(sweep, capsys, tmp_path, arguments, message):
    assert sweep(**arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_seed_is_none_of_what_all_cells_share(sweep, capsys):
    assert sweep("-p", "seed", "3") == 2
    assert "seed=3: allowed with -p is what all cells share" in capsys.readouterr().err


def test_a_damaged_cell_is_named(tmp_path, sweep, capsys):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "standard-s0.json").write_text('{"method": "stand')
    assert sweep() == 2
    assert "standard-s0.json" in capsys.readouterr().err


def test_too_little_time_is_no_failure_and_trains_nothing(tmp_path, sweep, capsys):
    assert sweep(minutes=0.05) == 0
    assert "no time for it" in capsys.readouterr().out
    assert finished(tmp_path) == {}
    assert not list(tmp_path.glob("runs/mnist5k-*"))


@pytest.mark.slow
def test_a_sweep_runs_where_there_is_no_jupyter_and_no_matplotlib(tmp_path):
    """In a process in which these cannot be imported, from a file with equal seconds for two methods."""
    content = yaml.safe_load((SWEEP_DIR / "smoke.yaml").read_text())
    content |= {"attacks": ["clean", "pgd"], "seeds": [0, 1], "seconds": 0.5, "finetune": ["anchor"]}
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(content))
    blocked = (*OTHERS, "matplotlib", "seaborn")
    code = f"""
import sys
sys.modules.update(dict.fromkeys({blocked!r}))  # as if they were not installed
from study.timeboxed import main
raise SystemExit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, "bare.yaml", "--minutes", "10", "--folder", "cells", "--weights", "weights"]
    command += ["-p", "device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    cells = finished(tmp_path)
    assert set(cells) == {f"{method}-s{seed}" for method in ("standard", "anchor") for seed in (0, 1)}
    for name, cell in cells.items():
        table, context = results.read_results(tmp_path / "cells" / f"{name}.json")
        assert set(table["checkpoint"]) == {"best", "last"}
        bits = results.unpack_outcomes(table["outcomes"][0], int(table["images"][0]))
        assert table["accuracy"][0] == pytest.approx(bits.mean())
        assert [row["epoch"] for row in cell["metrics"]] == list(range(1, cell["config"]["epochs"] + 1))
        assert (
            context["training_seconds"] == context["seconds"]["training"] <= sum(r["seconds"] for r in cell["metrics"])
        )
        assert context["versions"]["torch"] == torch.__version__.split("+")[0]
        assert ("frozen encoder, new classifier" in context["held_out"]) == (cell["method"] == "anchor")
        assert str(tmp_path) not in json.dumps(cell)
        network = models.load(tmp_path / "weights" / f"{name}.safetensors")
        assert network.metadata["method"] == cell["method"]
    for method in ("standard", "anchor"):
        assert cells[f"{method}-s0"]["config"]["epochs"] == cells[f"{method}-s1"]["config"]["epochs"]
