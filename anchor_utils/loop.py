"""The loop of a training run: steps, epochs, validation and what is written when. :func:`training.fit` starts it."""

from __future__ import annotations

import copy
import math
import sys
import time
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from anchor_utils import models, runs, weights
from anchor_utils.config import METHODS, Config
from anchor_utils.data import Dataset, Split
from anchor_utils.engine import Engine
from anchor_utils.evaluation import clean_outcomes, logits_of, pgd_outcomes
from anchor_utils.models import AnchorNet, resolve_precision
from anchor_utils.objectives import Heads, InnerProblem, batch_gradient, batch_loss, logged
from anchor_utils.runs import Progress

SAVE_SECONDS = 120.0  # at most so much training is lost when the machine goes down


def learning_rate(config: Config, step: int, steps: int) -> float:
    """Learning rate of step 0 <= `step` < `steps`: linear warm-up, then the schedule."""
    warmup = config.warmup * steps
    if step < warmup:
        return config.learning_rate * (step + 1) / math.ceil(warmup)
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    if config.schedule == "one_cycle":
        return config.learning_rate * (steps - step) / (steps - warmup)
    if config.schedule == "step":
        return config.learning_rate * 0.1 ** ((step >= 0.5 * steps) + (step >= 0.75 * steps))
    return config.learning_rate


def kernels(config: Config, *, search: bool = False) -> AbstractContextManager[Any]:
    """Within, which convolutions a GPU computes: in TF32 or not, reproducible or not, and the fastest if `search`.

    The search is for steps, whose batches are of one size: it starts anew with every size, and may find others the next
    time.
    """
    fastest = search and not config.deterministic
    found: AbstractContextManager[Any] = torch.backends.cudnn.flags(
        enabled=True,
        benchmark=fastest,
        deterministic=config.deterministic,
        allow_tf32=config.precision != "float32",
    )
    return found


class Loop:
    """A training run under way, in one process or beside others that each have their share of every batch."""

    def __init__(
        self,
        model: AnchorNet,
        dataset: Dataset,
        config: Config,
        path: Path,
        accelerator: Accelerator,
        interrupts: list[int],
        identity: dict[str, Any],
        description: dict[str, Any],
        frozen_encoder: bool,
    ) -> None:
        self.config, self.path, self.accelerator, self.interrupts = config, path, accelerator, interrupts
        self.identity, self.description, self.frozen_encoder = identity, description, frozen_encoder
        self.device, self.world = accelerator.device, accelerator.num_processes
        dtype = resolve_precision(config.precision, self.device)
        if self.device.type == "cuda" and self.world > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        rest, validation = dataset.hold_out(config.validation_images)
        self.training, self.validation = rest.train.to(self.device), validation.to(self.device)
        self.model = model.to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False) if config.ema else None
        self.evaluated = self.model if self.average is None else self.average
        self.heads = Heads(self.evaluated, config.method, dtype, config.contrasts_features())
        self.forward = accelerator.prepare(Heads(model, config.method, dtype, config.contrasts_features()))
        wanted = self.device.type == "cuda" if config.graph is None else config.graph
        self.by_engine = wanted and self.world == 1
        if wanted and not self.by_engine:
            warnings.warn(
                f"graph={config.graph}: {self.world} processes wait for each other, so the steps are not recorded as a "
                "CUDA graph; they are the same, only slower",
                stacklevel=4,
            )
        self.optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr=torch.tensor(config.learning_rate, device=self.device) if self.by_engine else config.learning_rate,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            fused=self.by_engine or None,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype is torch.float16)
        self.steps_per_epoch = len(self.training) // config.batch_size
        self.steps = config.epochs * self.steps_per_epoch

    def run(self, progress: bool) -> None:
        """Go on from the state in the folder, or begin, and train to the end."""
        state = self.model, self.optimizer, self.scaler, self.average
        self.at, self.random_state = runs.resume(self.path, self.identity, *state)
        if self.at.batch and self.world > 1:
            raise ValueError(
                f"run folder {str(self.path)!r} holds a run that was interrupted within an epoch: allowed is to go on "
                f"with one process, as it was begun, not with {self.world}"
            )
        if self.accelerator.is_main_process:
            # A last.safetensors left where somebody deleted config.json is not of this run.
            (self.path / "last.safetensors").unlink(missing_ok=True)
            runs.write_config(self.path, self.identity, self.config)
            if self.config.keep_epochs and not (self.at.epoch or self.at.batch):
                models.save(
                    self.model, self.path / f"{runs.epoch_name(0)}.safetensors", {**self.description, "epoch": 0}
                )
        self.accelerator.wait_for_everyone()
        self.attack = InnerProblem(self.model, self.config, torch.Generator(self.device if self.by_engine else "cpu"))
        self.engine: Engine | None = None
        if self.by_engine:
            parts = self.model, self.forward, self.attack, self.optimizer, self.scaler, self.training, self.average
            self.engine = Engine(self.config, *parts)
        self.saved = time.perf_counter()
        with tqdm(
            total=self.steps,
            initial=self.at.epoch * self.steps_per_epoch + self.at.batch,
            desc=self.description["method"].split("-")[0],
            unit="step",
            mininterval=1.0,
            file=sys.stdout,
            disable=not progress,
        ) as bar:
            while self.at.epoch < self.config.epochs:
                row = self.epoch(bar)
                bar.set_postfix_str(
                    f"loss {row['loss']:.3f}, held-out clean {row['clean_accuracy']:.1%}, "
                    f"robust {row['robust_accuracy']:.1%}"
                )
        self.accelerator.wait_for_everyone()

    def epoch(self, bar: tqdm) -> dict[str, Any]:
        """Train to the end of the epoch, validate, and write what there is; returns its line of metrics."""
        at, config, rank = self.at, self.config, self.accelerator.process_index
        start = time.perf_counter() - at.seconds
        shuffle = torch.Generator().manual_seed(_seed(config.seed, at.epoch))
        # To the device now: a copy each step would wait for the step before.
        order = torch.randperm(len(self.training), generator=shuffle).to(self.device)
        batches = [batch[rank :: self.world] for batch in order.split(config.batch_size)[: self.steps_per_epoch]]
        self.generator.manual_seed(_seed(config.seed, at.epoch, 1 + rank))
        if at.batch:
            if self.random_state.shape != self.generator.get_state().shape:
                raise ValueError(
                    f"run folder {str(self.path)!r} holds a run that was interrupted within an epoch, with the random "
                    "numbers of another device: allowed is to go on there, with the same value of graph, or anew"
                )
            self.generator.set_state(self.random_state)
        if self.engine is not None:
            self.engine.begin(at.sums)
        self.model.train(not self.frozen_encoder)
        with kernels(config, search=True):
            while at.batch < self.steps_per_epoch:
                self.save_now_and_then(start)
                self.step(batches[at.batch])
                bar.update()
        self.wait()
        self.attack.warn_if_vanished()
        if self.average is not None and not self.frozen_encoder:
            self.estimate_statistics(self.average, batches)
        if self.world > 1:  # running statistics are those of the first process, here and in the checkpoint
            for buffer in (b for network in (self.model, self.average) if network for b in network.buffers()):
                torch.distributed.broadcast(buffer, 0)
        if not logits_of(self.evaluated, self.validation.inputs()).isfinite().all():
            raise self.diverged("the network's output on held-out images is not finite")
        score = _validate(
            models.fold_batchnorm(self.evaluated, self.attack.folded), self.validation, config, self.accelerator
        )
        row = {"epoch": at.epoch + 1, "step": (at.epoch + 1) * self.steps_per_epoch, "learning_rate": self.rate}
        row |= {name: value / self.steps_per_epoch for name, value in at.sums.items()}
        row |= {**score, "seconds": round(time.perf_counter() - start, 2)}
        self.close_epoch(row)
        return row

    def step(self, chosen: Tensor) -> None:
        """One step of the optimizer on this process's share of a batch, the training images `chosen`."""
        at, config = self.at, self.config
        step = at.epoch * self.steps_per_epoch + at.batch
        self.rate = learning_rate(config, step, self.steps)
        if self.engine is not None:
            share = weights.average_share(step, config.ema)
            self.engine.step(chosen, self.rate, *self.attack.sizes(step, self.steps), share)
            at.batch += 1
            return
        batch = self.training[chosen]
        self.optimizer.param_groups[0]["lr"] = self.rate
        self.attack.refresh(step, self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        given = self.forward, self.attack, batch.images, batch.labels, self.generator
        found = batch_gradient(config, *given, model=self.model, scaler=self.scaler, backward=self.accelerator.backward)
        if not math.isfinite(found.loss.item()):
            raise self.diverged(f"loss is {found.loss.item()}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            weights.update_average(self.average, self.model, weights.average_share(step, config.ema))
        hit = found.logits.detach().argmax(1).eq(found.labels).float().mean()
        for name, value in {"loss": found.loss, **found.terms, "training_accuracy": hit}.items():
            at.sums[name] = at.sums.get(name, 0.0) + logged(value.detach())
        at.batch += 1

    @torch.no_grad()
    def estimate_statistics(self, average: AnchorNet, batches: list[Tensor]) -> None:
        """BatchNorm statistics of the average, on the views that the method trains on: the network's own, attacked."""
        self.attack.fold()
        enough = math.ceil(weights.STATISTICS_IMAGES / self.config.batch_size)
        with weights.new_statistics(average):
            for chosen in batches[:enough]:
                batch = self.training[chosen]
                batch_loss(self.config, self.heads, self.attack, batch.images, batch.labels, self.generator)

    @property
    def generator(self) -> torch.Generator:
        """Of augmentation and random starts; the engine may replace it."""
        return self.attack.generator

    def wait(self) -> None:
        """Ask the engine how the epoch went up to here; without it each step says so."""
        if self.engine is not None:
            self.at.sums = self.engine.totals()
            if not math.isfinite(self.at.sums.get("loss", 0.0)):
                raise self.diverged(f"loss is {self.at.sums['loss']}")

    def save_now_and_then(self, start: float) -> None:
        """Save the state every few minutes, and before a Ctrl-C goes on."""
        if not self.interrupts and (self.world > 1 or not self.due()):
            return
        self.wait()
        self.at.seconds = time.perf_counter() - start
        self.save_state()
        if self.interrupts:
            raise KeyboardInterrupt

    def due(self) -> bool:
        """Whether it is time to save the state; a large one takes as long as some epochs on a GPU do."""
        return time.perf_counter() - self.saved > SAVE_SECONDS

    def save_state(self) -> None:
        parts = self.generator, self.model, self.optimizer, self.scaler, self.average
        runs.save_state(self.path, self.identity, self.at, *parts)
        self.saved = time.perf_counter()

    def close_epoch(self, row: dict[str, Any]) -> None:
        """Write the checkpoints and metrics of a finished epoch."""
        ranking = [row["robust_accuracy"], row["clean_accuracy"]]
        if not METHODS[self.config.method].attacked:  # never robust: the few survivors would pick an epoch at random
            ranking = ranking[::-1]
        better = ranking > self.at.best
        self.at = at = Progress(self.at.epoch + 1, best=max(ranking, self.at.best), history=[*self.at.history, row])
        if self.accelerator.is_main_process:
            metadata = {**self.description, **row}
            if better:
                models.save(self.evaluated, self.path / "best.safetensors", metadata)
            if self.config.keep_epochs:
                models.save(self.evaluated, self.path / f"{runs.epoch_name(at.epoch)}.safetensors", metadata)
            runs.write_metrics(self.path, at)
            if at.epoch < self.config.epochs:
                if self.world > 1 or self.due():  # several processes save at the end of an epoch only
                    self.save_state()
            else:
                models.save(self.evaluated, self.path / "last.safetensors", metadata)
                runs.clear_states(self.path)

    def diverged(self, what: str) -> FloatingPointError:
        good = self.path / "best.safetensors"
        step = self.at.epoch * self.steps_per_epoch + min(self.at.batch, self.steps_per_epoch - 1)
        return FloatingPointError(
            f"{what} at step {step} of {self.steps} (epoch {self.at.epoch + 1}) with learning rate {self.rate:.3g}; "
            f"last good checkpoint: {good if good.exists() else 'none yet'}. Try a lower learning_rate"
        )


def _validate(model: AnchorNet, validation: Split, config: Config, accelerator: Accelerator) -> dict[str, float]:
    """Clean and PGD accuracy on the held-out training images, each process on its share."""
    share = validation[torch.arange(accelerator.process_index, len(validation), accelerator.num_processes)]
    x, y = share.inputs(), share.labels
    clean = clean_outcomes(model, x, y)
    robust = pgd_outcomes(
        model,
        x,
        y,
        epsilon=config.epsilon,
        step_size=config.step_size,
        steps=config.validation_steps,
        iterate="final",
        precision="float32" if config.precision == "float32" else "tf32",
        seed=config.seed,
    )
    counts = accelerator.reduce(torch.stack([clean.sum(), robust.sum()]), "sum")
    return {
        "clean_accuracy": counts[0].item() / len(validation),
        "robust_accuracy": counts[1].item() / len(validation),
    }


def _seed(*key: int) -> int:
    """Of a generator for (seed, epoch[, process]): an epoch's randomness does not depend on what ran before it."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1
