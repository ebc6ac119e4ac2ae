"""Times of steps, epochs and attacks, and what is concluded from them."""

import dataclasses

import pandas as pd
import pytest

from anchor_utils import training
from anchor_utils.config import Config, load_preset
from study import speed
from study.speed import Speed, measure_speed, workload


@dataclasses.dataclass
class Timed:
    """A run whose epochs took these seconds."""

    seconds: list[float]

    def metrics(self) -> pd.DataFrame:
        return pd.DataFrame({"seconds": self.seconds})


@pytest.mark.parametrize(("step", "fixed", "once"), [(0.02, 0.3, 10.0), (0.5, 0.0, 0.0), (0.001, 2.0, 1.0)])
def test_an_epoch_is_made_of_steps_and_what_it_costs_besides(monkeypatch, digits, step, fixed, once):
    """From two runs of a few steps to an epoch of 56 on 3,600 images, whatever the share of validation."""
    seen = []

    def fit(config, *, path, dataset, progress):
        steps = (len(dataset.train) - config.validation_images) // config.batch_size
        seen.append((steps, config.train_images))
        epoch = steps * step + fixed
        return Timed([epoch + once] + [epoch] * (config.epochs - 1))

    monkeypatch.setattr(training, "fit", fit)
    config = Config(method="pgd_at", width=2, batch_size=32, epochs=50, test_images=50, device="cpu")
    found = measure_speed(config, digits)
    assert seen == [(steps, 400 + steps * 32) for steps in speed.STEPS]
    assert found.step == pytest.approx(step)
    assert found.epoch == pytest.approx(112 * step + fixed)  # (4,000 - 400) // 32 steps
    assert found.start == pytest.approx(once)
    assert found.query > 0


def test_a_real_network_is_measured_and_leaves_nothing_behind(tiny, few_digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = measure_speed(tiny.replace(test_images=20), few_digits)  # has only five steps an epoch
    assert min(found.step, found.epoch, found.query) > 0
    assert found.took > found.epoch
    assert not list(tmp_path.iterdir())


def test_what_a_cell_takes_is_counted_in_epochs_and_gradients():
    config = load_preset("minutes", epochs=20, finetune_epochs=2)
    found = Speed(step=0.02, epoch=4.0, start=1.0, query=0.004, fast_query=0.001, took=5.0)
    assert found.training(config, finetune=False) == 81.0
    assert found.training(config, finetune=True) == 89.0
    assert found.evaluation(config, []) == 0.0
    blocks, inside = 40, 4 * 21  # of 250 images in 10,000; 1,000 images are looked at inside
    assert found.evaluation(config, ["clean"]) == pytest.approx(0.004 * (2 * blocks + inside))
    assert found.evaluation(config, ["pgd"]) == pytest.approx(0.004 * (2 * 21 * blocks + inside))
    assert found.evaluation(config, ["screen"]) == pytest.approx(0.001 * 4 * 1000 + 0.004 * inside)


def test_trials_and_seeds_are_the_same_work_and_other_networks_and_attacks_are_not():
    config = load_preset("minutes", method="anchor")
    for same in (
        {"seed": 3},
        {"learning_rate": 0.05},
        {"beta": 1.0},
        {"epochs": 3},
        {"runs_dir": "x"},
        {"graph": True},
    ):
        assert workload(config.replace(**same)) == workload(config)
    for other in (
        {"width": 32},
        {"method": "mart"},
        {"attack_steps": 10},
        {"batch_size": 128},
        {"precision": "float32"},
    ):
        assert workload(config.replace(**other)) != workload(config)
    assert Config.model_fields.keys() >= speed.SAME_SPEED
