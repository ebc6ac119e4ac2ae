"""What every notebook begins and ends with."""

import json
import re
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from anchor_utils.files import data_folder
from course import lesson

DIGITS = {"dataset": "mnist5k", "train_images": 100, "validation_images": 20, "test_images": 20, "batch_size": 32}


def begin(folder, preset="smoke", overrides=None, seed=0, **more):
    """The first cell of a notebook whose runs and data lie in `folder`."""
    return lesson.start("01", preset, overrides or {}, seed, str(folder), str(folder), **more)


def test_start_checks_loads_seeds_and_tells(tmp_path, capsys):
    config, dataset, device = begin(tmp_path, overrides={"epochs": 3}, seed=7)
    drawn = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(1)), "the seed was not set"
    assert (config.epochs, config.seed, config.runs_dir, config.data_root) == (3, 7, str(tmp_path), str(tmp_path))
    assert len(dataset.train) == config.train_images
    assert device.type in ("cpu", "cuda")
    banner = capsys.readouterr().out
    for part in ("preset smoke", "epsilon 0.3", "seed 7", "training in", torch.__version__.split("+")[0]):
        assert part in banner
    assert dataset.summary() in banner
    assert re.search(r"Training one network takes (less than a minute|about \d+ \w+) here", banner)


def test_a_notebook_without_data_loads_none_and_measures_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lesson, "load_data", lambda _: pytest.fail("data were loaded"))
    config, dataset, _ = begin(tmp_path, data=False)
    assert dataset is None
    assert "takes" not in capsys.readouterr().out
    lesson.finish("08", "smoke", config, {})
    assert json.loads((tmp_path / "results" / "smoke" / "08.json").read_text())["seconds_per_step"] is None


def test_an_override_of_the_seed_wins(tmp_path):
    assert begin(tmp_path, overrides={"seed": 5}, seed=7, data=False)[0].seed == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "smok"}, "preset 'smok'; did you mean 'smoke'"),
        ({"overrides": {"epoch": 1}}, "unknown parameter 'epoch'"),
        ({"overrides": {"epsilon": 2}}, "epsilon=2: allowed is"),
        ({"overrides": {"test_images": 2000}}, "test_images=2000: allowed is 1 to 1000"),
        ({"overrides": "{epochs: 3}"}, r"overrides='\{epochs: 3\}': allowed is a mapping .*-y 'overrides: "),
        ({"overrides": [3]}, r"overrides=\[3\]: allowed is a mapping"),
        ({"overrides": {3: 4}}, r"overrides=\{3: 4\}: allowed is a mapping"),
        ({"seed": "0"}, "seed='0': allowed is a whole number"),
        ({"models": "pretraind"}, "models='pretraind': allowed is 'train', 'pretrained'"),
        ({"models": "pretrained", "seed": 1}, "seed=1: allowed with models='pretrained' is 0"),
        ({"models": "pretrained", "overrides": DIGITS}, "dataset='mnist5k' has the classes 0, 1, .* airplane"),
    ],
)
def test_bad_parameters_stop_the_notebook_in_its_first_cell(changes, message, tmp_path, monkeypatch):
    monkeypatch.setattr(lesson, "seconds_per_step", lambda *_: pytest.fail("work was started"))
    with pytest.raises(ValueError, match=message):
        begin(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_the_networks_that_come_with_the_course_have_their_own_settings(tmp_path):
    config = begin(tmp_path, models="pretrained", data=False)[0]
    assert (config.width, config.dataset) == (16, "cifar10")


def test_relative_paths_are_meant_from_the_projects_folder(tmp_path):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project / "notebooks" / "src", project / "docs", elsewhere / "notebooks"):
        folder.mkdir(parents=True)
    (project / "notebooks" / "01_first.ipynb").touch()
    for folder in (project, project / "docs", project / "notebooks", project / "notebooks" / "src"):
        assert (folder / lesson.in_project("runs", folder)).resolve() == project / "runs"
    assert lesson.in_project("runs", project / "notebooks") == "../runs"
    assert lesson.in_project("runs", elsewhere) == "runs", "no project: the folder itself"
    assert lesson.in_project(str(elsewhere), project) == str(elsewhere)


def test_data_files_are_found_in_a_checkout_and_in_a_wheel(tmp_path):
    module = str(tmp_path / "package" / "module.py")
    assert data_folder("configs/presets", module) == tmp_path.resolve() / "configs" / "presets"
    (tmp_path / "package" / "presets").mkdir(parents=True)
    assert data_folder("configs/presets", module) == tmp_path.resolve() / "package" / "presets"
    assert list(lesson.EXPECTED_DIR.glob("*.cpu.yaml"))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "less than a minute"), (55, "about 1 minute"), (140, "about 2 minutes"), (7300, "about 2 hours")],
)
def test_times_are_rounded_honestly(seconds, words):
    assert lesson._duration(seconds) == words


def test_a_step_is_timed_without_a_trace_and_a_long_one_from_few_images(tmp_path, monkeypatch):
    config, dataset, device = begin(tmp_path)
    state = torch.get_rng_state()
    assert 0 < lesson.seconds_per_step(config, dataset, device) < 60
    assert torch.equal(state, torch.get_rng_state())

    sizes = []

    def loss(config, forward, attack, images, labels, generator):
        sizes.append(len(images))
        return SimpleNamespace(loss=torch.zeros((), requires_grad=True))

    monkeypatch.setattr(lesson, "batch_loss", loss)
    monkeypatch.setattr(lesson.time, "perf_counter", lambda: float(len(sizes)))  # every step takes a second
    assert lesson.seconds_per_step(config.replace(batch_size=256), dataset, device) == 8.0
    assert max(sizes) == 32


@pytest.fixture
def shown(monkeypatch):
    """What a notebook displays: (text, metadata) of each output."""
    outputs = []
    monkeypatch.setattr(lesson, "display", lambda text, metadata=None: outputs.append((text.data, metadata or {})))
    return outputs


def test_numbers_are_written_with_what_they_depend_on(tmp_path, shown):
    config, _, _ = begin(tmp_path)
    lesson.finish("01", "smoke", config, {"accuracy": 0.5})
    content = json.loads((tmp_path / "results" / "smoke" / "01.json").read_text())
    assert content["metrics"] == {"accuracy": 0.5}
    assert content["config"] == config.model_dump()
    assert content["versions"]["torch"]
    assert content["seconds_per_step"] > 0
    assert 0 < content["seconds"] < 60
    lesson.say("accuracy **50%**")
    assert [text for text, _ in shown] == [
        "No expected values are kept for these settings of the preset `smoke`.",
        "accuracy **50%**",
    ]


@pytest.fixture
def bands(tmp_path, monkeypatch):
    (tmp_path / "01.smoke.yaml").write_text(
        "work: 90000\nclaims: {clean: [0.9, 1], robust: [0.5, 0.75]}\nusual: {noise: [0, 0.1]}\n"
    )
    monkeypatch.setattr(lesson, "EXPECTED_DIR", tmp_path)
    monkeypatch.setattr(lesson, "seconds_per_step", lambda *_: 0.002)
    return begin(tmp_path)[0]


GOOD = {"clean": 0.95, "robust": 0.6, "noise": 0.1}


@pytest.mark.parametrize(
    ("metrics", "missed", "unusual"),
    [
        ({"clean": 0.9, "robust": 0.75, "noise": 0.0}, [], []),
        ({"clean": 0.89, "robust": 0.76, "noise": 0.1}, ["clean", "robust"], []),
        (GOOD | {"noise": 0.11}, [], ["noise"]),
        ({"clean": 0.95, "noise": 0.1}, ["robust"], []),
        ({"clean": 0.95, "robust": 0.6}, ["noise"], []),
        (GOOD | {"new": 1.0}, [], []),
        (GOOD | {"clean": float("nan"), "noise": float("nan")}, ["clean"], ["noise"]),
    ],
    ids=["border", "claims missed", "unusual", "claim unmeasured", "usual unmeasured", "no band", "not a number"],
)
def test_claims_fail_and_other_numbers_are_unusual(bands, shown, metrics, missed, unusual):
    lesson.finish("01", "smoke", bands, metrics)
    ((text, metadata),) = shown
    assert metadata == {"missed": missed, "unusual": unusual}
    rows = dict(re.findall(r"^\| (\w+) \| .* \| (\S.*) \|$", text, re.MULTILINE))
    expected = dict.fromkeys(metrics.keys() - GOOD.keys(), "–") | dict.fromkeys(GOOD, "pass")
    expected |= dict.fromkeys(missed, "**FAIL**") | dict.fromkeys(unusual, "unusual here")
    assert rows == expected
    good = 3 - len(missed) - len(unusual)
    assert f"**{good} of 3 values lie where they are expected**" in text
    assert (f"; {len(missed)} failed" in text) == bool(missed)
    assert (f"; {len(unusual)} are unusual here: not where" in text) == bool(unusual)


def test_bands_and_work_hold_for_the_preset_as_it_is(bands, shown, tmp_path, capsys):
    begin(tmp_path)
    assert "This notebook takes about 3 minutes here" in capsys.readouterr().out
    for changed in ({"epochs": 3}, {"seed": 1}):
        lesson.finish("01", "smoke", bands.replace(**changed), {"clean": 0.1, "robust": 0.1})
        begin(tmp_path, overrides=changed)
        assert "Training one network takes less than a minute here" in capsys.readouterr().out
    assert all("No expected values" in text and not metadata for text, metadata in shown)


def test_an_exercise_is_passed_not_solved_wrong_or_broken(capsys):
    def unsolved():
        raise NotImplementedError

    def wrong():
        raise AssertionError("Epsilon is exceeded.")

    def broken():
        return {}["x"]

    for function in (unsolved, wrong, broken, lambda: None):
        lesson.check("Exercise 1")(function)
    assert capsys.readouterr().out.splitlines() == [
        "Exercise 1: not solved yet. Write your answer above, run that cell and this one.",
        "Exercise 1: not right yet. Epsilon is exceeded.",
        "Exercise 1: your code raised KeyError: 'x'",
        "Exercise 1: passed.",
    ]


def test_a_table_of_texts_is_markdown():
    assert lesson.table(pd.DataFrame({"a": ["x", "y"], "b": ["1", "2"]})) == (
        "| a | b |\n| :-- | :-- |\n| x | 1 |\n| y | 2 |"
    )
