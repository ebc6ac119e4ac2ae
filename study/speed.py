"""How fast a network trains and is attacked on this machine, measured on a throw-away network."""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from anchor_utils import attacks, training
from anchor_utils.config import Config, Evaluation, Places, digest
from anchor_utils.data import Dataset
from anchor_utils.devices import resolve_device
from anchor_utils.evaluation import logits_of
from anchor_utils.models import fold_batchnorm
from study.measure import BLOCK

STEPS = 10, 60  # of the two short epochs whose difference is the time of a step
# Gradients of a block of images that each attack takes one after the other, at most. The screen: 100 steps against the
# label and 9 x 100 against other classes. AutoAttack took as long as 2,900 gradients on an H200, at width 64.
GRADIENTS = {"clean": 1, "screen": 1_000, "autoattack": 4_000}
# What changes a result and not the time that it takes; a field that is not named here is taken to change it.
SAME_SPEED = {
    *("seed", "epochs", "learning_rate", "momentum", "weight_decay", "schedule", "warmup"),
    *("temperature", "beta", "contrastive_weight", "trades_beta", "mart_beta", "epsilon", "step_size"),
    "epsilon_warmup",
}


@dataclasses.dataclass(frozen=True)
class Speed:
    """Seconds, once all that happens only once in a process is over.

    Args:
        step: of training.
        epoch: of training, validation included.
        start: of a run, before it trains at this speed: recording a CUDA graph, say.
        query: of one gradient of a block of test images, as PGD takes it when it is reported.
        fast_query: the same as AutoAttack and the screen take it, in `eval_precision`.
        took: to measure this, all that happens only once in a process included.
    """

    step: float
    epoch: float
    start: float
    query: float
    fast_query: float
    took: float

    def training(self, config: Config, finetune: bool) -> float:
        """Seconds that training takes."""
        return self.start + self.epoch * (config.epochs + finetune * config.finetune_epochs)

    def evaluation(self, config: Config, measured: Sequence[str]) -> float:
        """Seconds that :func:`study.measure.accuracies` and :func:`study.measure.inside` take, at most."""
        pgd = config.eval_steps * config.eval_restarts + 1
        sizes = {"screen": config.screen_images, "autoattack": config.autoattack_images}
        both = {"clean": 2, "pgd": 2}  # the best checkpoint and the last
        seconds = [
            math.ceil(sizes.get(attack, config.test_images) / BLOCK)
            * GRADIENTS.get(attack, pgd)
            * both.get(attack, 1)
            * (self.fast_query if attack in sizes else self.query)
            for attack in measured
        ]
        seconds += [math.ceil(config.embedding_images / BLOCK) * pgd * self.query] * bool(measured)
        return sum(seconds)


def workload(config: Config) -> str:
    """A name for the work in a training step and an epoch, which is the same for all trials and seeds."""
    return digest(config.model_dump(exclude={*Evaluation.model_fields, *Places.model_fields, *SAME_SPEED}))


def place(config: Config) -> dict[str, Any]:
    """What else of a configuration decides how fast that is done on a machine."""
    return config.model_dump(include={*Places.model_fields} - {"data_root", "runs_dir"})


def device_of(config: Config) -> torch.device:
    """Where a network of this configuration is evaluated."""
    return resolve_device(config.device)


def measure_speed(config: Config, dataset: Dataset, clock: Callable[[], float] = time.perf_counter) -> Speed:
    """Train a throw-away network for some steps, and attack it."""
    began = clock()
    per_epoch = (len(dataset.train) - config.validation_images) // config.batch_size
    few, many = (min(steps, per_epoch) for steps in STEPS)
    _, short = _epochs_of(few, config, dataset)
    first, long = _epochs_of(many, config, dataset)
    step = max(0.0, long - short) / (many - few) if many > few else long / many
    query, fast = (_query(config, dataset, clock, precision) for precision in ("float32", config.eval_precision))
    return Speed(step, long + (per_epoch - many) * step, max(0.0, first - long), query, fast, clock() - began)


def _epochs_of(steps: int, config: Config, dataset: Dataset) -> tuple[float, float]:
    """Seconds of the first epoch of so many steps, and of a later one."""
    images = config.validation_images + steps * config.batch_size
    part = dataclasses.replace(dataset, train=dataset.train[:images])
    # Whatever it learns is thrown away; at this rate it cannot diverge.
    config = config.replace(train_images=images, epochs=3, learning_rate=1e-4, keep_epochs=False)
    with tempfile.TemporaryDirectory() as folder:
        run = training.fit(config, path=Path(folder) / "run", dataset=part, progress=False)
        first, *later = run.metrics()["seconds"]
    return float(first), float(statistics.median(later))


def _query(config: Config, dataset: Dataset, clock: Callable[[], float], precision: str) -> float:
    device = device_of(config)
    network = fold_batchnorm(training.new_network(config, dataset)).to(device)
    block = dataset.test[: min(BLOCK, config.test_images)].to(device)
    images = block.inputs()
    labels = logits_of(network, images).argmax(1)

    def seconds(steps: int) -> float:
        start = clock()
        settings = config.replace(eval_steps=steps).evaluation()
        found = attacks.pgd(network, images, labels, **settings, precision=precision)
        found.sum().item()  # waits for a GPU
        return clock() - start

    seconds(1)  # chooses kernels
    return seconds(10) / 10
