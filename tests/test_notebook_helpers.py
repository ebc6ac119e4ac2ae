"""What every notebook begins and ends with."""

import json

import pytest
import torch

from anchor_utils import notebook


def test_start_checks_seeds_and_tells(tmp_path, capsys):
    config, device = notebook.start("smoke", {"epochs": 3}, 7, str(tmp_path), "elsewhere")
    drawn = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(1)), "the seed was not set"
    assert (config.epochs, config.seed, config.runs_dir, config.data_root) == (3, 7, str(tmp_path), "elsewhere")
    assert device.type in ("cpu", "cuda")
    banner = capsys.readouterr().out
    assert "preset smoke" in banner
    assert "epsilon 0.3" in banner
    assert "seed 7" in banner
    assert torch.__version__.split("+")[0] in banner


def test_an_override_of_the_seed_wins(tmp_path):
    assert notebook.start("smoke", {"seed": 5}, 7, str(tmp_path), "data")[0].seed == 5


@pytest.mark.parametrize(("preset", "overrides"), [("smok", {}), ("smoke", {"epoch": 1}), ("smoke", {"epsilon": 2})])
def test_bad_parameters_stop_the_notebook_in_its_first_cell(preset, overrides, tmp_path):
    with pytest.raises(ValueError, match=r"smok|epoch|epsilon"):
        notebook.start(preset, overrides, 0, str(tmp_path), "data")


@pytest.mark.parametrize(
    ("models", "seed", "message"), [("pretraind", 0, "models='pretraind'"), ("pretrained", 1, "seed=1")]
)
def test_only_the_networks_that_there_are_can_be_asked_for(models, seed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        notebook.start("smoke", {}, seed, str(tmp_path), "data", models)


@pytest.fixture
def shown(monkeypatch):
    """What a notebook displays: (text, metadata) of each output."""
    outputs = []
    monkeypatch.setattr(
        notebook, "display", lambda text, metadata=None: outputs.append((text.data, (metadata or {}).get("missed")))
    )
    return outputs


def test_numbers_are_written_with_what_they_depend_on(tmp_path, shown):
    config, _ = notebook.start("smoke", {}, 0, str(tmp_path), "data")
    notebook.finish("01", "smoke", config, {"accuracy": 0.5})
    content = json.loads((tmp_path / "results" / "smoke" / "01.json").read_text())
    assert content["metrics"] == {"accuracy": 0.5}
    assert content["config"] == config.model_dump()
    assert content["versions"]["torch"]
    notebook.say("accuracy **50%**")
    assert [text for text, _ in shown] == ["No expected values are kept for the preset `smoke`.", "accuracy **50%**"]


@pytest.fixture
def bands(tmp_path, monkeypatch):
    (tmp_path / "01.smoke.yaml").write_text("clean: [0.9, 1]\nrobust: [0.5, 0.75]\n")
    monkeypatch.setattr(notebook, "EXPECTED_DIR", tmp_path)
    return notebook.start("smoke", {}, 0, str(tmp_path), "data")[0]


@pytest.mark.parametrize(
    ("metrics", "missed"),
    [
        ({"clean": 0.9, "robust": 0.75}, []),
        ({"clean": 0.89, "robust": 0.76}, ["clean", "robust"]),
        ({"clean": 0.95}, ["robust"]),
        ({"clean": 0.95, "robust": 0.6, "new": 1.0}, ["new"]),
        ({"clean": float("nan"), "robust": 0.6}, ["clean"]),
    ],
    ids=["on the border", "outside", "not measured", "no band", "not a number"],
)
def test_a_number_outside_its_band_is_named(bands, shown, metrics, missed):
    notebook.finish("01", "smoke", bands, metrics)
    ((text, named),) = shown
    assert named == missed
    names = {"clean", "robust", *metrics}
    assert text.count("| pass |") == len(names) - len(missed)
    assert f"**{len(names) - len(missed)} of {len(names)} values" in text


def test_bands_hold_for_the_preset_as_it_is(bands, shown):
    for changed in ({"epochs": 3}, {"seed": 1}):
        notebook.finish("01", "smoke", bands.replace(**changed), {"clean": 0.1, "robust": 0.1})
    assert all("other settings" in text and not named for text, named in shown)


def test_an_exercise_is_passed_not_solved_wrong_or_broken(capsys):
    def unsolved():
        raise NotImplementedError

    def wrong():
        raise AssertionError("Epsilon is exceeded.")

    def broken():
        return {}["x"]

    for function in (unsolved, wrong, broken, lambda: None):
        notebook.check("Exercise 1")(function)
    assert capsys.readouterr().out.splitlines() == [
        "Exercise 1: not solved yet. Write your answer above, run that cell and this one.",
        "Exercise 1: not right yet. Epsilon is exceeded.",
        "Exercise 1: your code raised KeyError: 'x'",
        "Exercise 1: passed.",
    ]
