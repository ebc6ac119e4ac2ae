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


def test_metrics_are_written_with_what_they_depend_on(tmp_path, capsys):
    config, _ = notebook.start("smoke", {}, 0, str(tmp_path), "data")
    notebook.save_metrics("01", "smoke", config, {"accuracy": 0.5})
    content = json.loads((tmp_path / "results" / "smoke" / "01.json").read_text())
    assert content["metrics"] == {"accuracy": 0.5}
    assert content["config"] == config.model_dump()
    assert content["versions"]["torch"]
    notebook.say("accuracy **50%**")
    assert "Markdown" in capsys.readouterr().out
