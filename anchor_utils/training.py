"""Training: one loop for every method, resumable to the bit, with the checkpoint chosen on held-out images.

A run folder holds ``config.json``, ``metrics.jsonl`` (one line an epoch), ``best.safetensors`` (best robust accuracy
on held-out *training* images, clean accuracy breaking ties; the other way round for methods that train on clean
images only) and ``last.safetensors``. While a run is under way, ``resume.safetensors`` holds its state, written after
every epoch and every few minutes, and ``resume-before.safetensors`` the state before that. With ``keep_epochs`` there
is also ``epoch-NNN.safetensors`` for every epoch, from the untrained 0 on.
"""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn
from tqdm import tqdm

from anchor_utils import losses, models
from anchor_utils.attacks import frozen, pgd, resolve_precision
from anchor_utils.config import Config, digest
from anchor_utils.data import Dataset, Split, augment, load_dataset
from anchor_utils.evaluation import clean_outcomes, logits_of, pgd_outcomes
from anchor_utils.files import alone_in, write_text
from anchor_utils.models import AnchorNet

CONTRASTIVE = ("supcon", "supcon_at", "anchor")
ON_CLEAN_IMAGES = ("standard", "supcon")
SAVE_SECONDS = 120.0  # at most so much training is lost when the machine goes down


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished training run: its folder and its configuration."""

    path: Path
    config: Config

    def model(self, which: Literal["best", "last"] | int = "best") -> AnchorNet:
        """The network that did best on held-out training images, or the one of the last epoch.

        With ``config.keep_epochs`` also the one after any number of epochs; 0 is the untrained network.
        """
        return models.load(self.path / f"{which if isinstance(which, str) else epoch_name(which)}.safetensors")

    def metrics(self) -> pd.DataFrame:
        """One row an epoch: losses, learning rate, training accuracy, held-out clean and robust accuracy, seconds."""
        file = self.path / "metrics.jsonl"
        try:
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            if len(rows) != self.config.epochs:
                raise ValueError(f"it has {len(rows)} of {self.config.epochs} epochs")
        except ValueError as error:
            raise ValueError(
                f"{str(file)!r} is damaged ({error}); restore it, or delete the folder to train anew"
            ) from None
        return pd.DataFrame(rows)


def epoch_name(epoch: int) -> str:
    """Name of the checkpoint after this many epochs."""
    return f"epoch-{epoch:03d}"


def fit(
    config: Config, *, path: str | Path | None = None, dataset: Dataset | None = None, progress: bool = True
) -> Run:
    """Train one network from scratch, or return the finished run of the same configuration.

    Methods: "standard" (CE on clean images), "pgd_at" (CE on PGD examples), "trades", "mart", "supcon" (contrastive
    loss on two clean views; the classifier is a linear probe that passes no gradient to the encoder), "supcon_at"
    (ANCHOR with beta = 0) and "anchor" (eq. 3 of the reconstruction).

    The same configuration on the same machine with the same number of threads gives the same weights and metrics, but
    for the seconds, whether or not the run was interrupted, also by a kill while it was writing. It goes on from its
    state at most `SAVE_SECONDS` before; Ctrl-C saves the state after the step under way (pressed again, it stops at
    once). Under ``accelerate launch`` the processes share each batch; the state is then saved after each epoch only,
    since every process draws its own random numbers.

    Args:
        config: what to train; see :class:`anchor_utils.config.Config`.
        path: run folder; ``config.runs_dir / config.run_name()`` if not given.
        dataset: the loaded data set, to save loading it again; must be the one that `config` names.
        progress: show a progress bar.

    Raises:
        ValueError: the configuration does not fit the data set, `dataset` is not the one that it names, `path` holds a
            run of another configuration or of other data, is in use by another process, or has damaged files.
        OSError: the run folder cannot be written (full disk, no permission); what is in it stays whole.
        FloatingPointError: the loss became infinite or NaN; names the step and the last good checkpoint.
    """
    if path is None and dataset is not None and dataset.name != config.dataset:  # the folder is named after `config`
        raise ValueError(f"dataset.name={dataset.name!r}: allowed is that of the configuration, {config.dataset!r}")
    path = Path(config.runs_dir) / config.run_name() if path is None else Path(path)
    dataset = load_data(config) if dataset is None else _fitting(config, dataset)
    what = {"training": config.training_fields(), "data": dataset.identity()}
    if _finished(path, what):
        return Run(path, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = AnchorNet(
            len(dataset.classes),
            config.width,
            dataset.train.images.shape[1],
            config.projection_dim,
            dataset.mean,
            dataset.std,
            config.stem_stride,
        )
    if model.projection is not None and config.method not in CONTRASTIVE:
        model.projection.requires_grad_(False)
    _train(model, dataset, config, path, what=what, method=config.method, progress=progress)
    return Run(path, config)


def finetune(
    run: Run,
    config: Config | None = None,
    *,
    adversarial: bool = True,
    dataset: Dataset | None = None,
    progress: bool = True,
) -> Run:
    """Train a new linear classifier on the frozen encoder of a finished run (step 5 of the reconstruction).

    The projection head is dropped. The encoder stays in eval mode without gradients, so every weight and every
    BatchNorm statistic keeps its bits. Interrupted, it goes on as :func:`fit` does.

    Args:
        run: what :func:`fit` returned; its best checkpoint is the start.
        config: supplies the optimisation and attack settings; the run's own if not given.
        adversarial: train on PGD examples; False trains on clean images, a linear probe.

    Raises:
        As :func:`fit`; ValueError also if the run was trained on other classes or images of another shape.
    """
    config = run.config if config is None else config
    dataset = load_data(config) if dataset is None else _fitting(config, dataset)
    data, model = dataset.identity(), run.model("best")
    _check_data(run.path, model.metadata, data, ("classes", "image"))
    architecture = {**model.architecture, "projection_dim": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        tuned = AnchorNet(**architecture)
    encoder = {
        name: value for name, value in model.state_dict().items() if name.startswith(("mean", "std", "stem", "stages"))
    }
    tuned.load_state_dict(encoder, strict=False)
    tuned.requires_grad_(False).classifier.requires_grad_(True)

    config = config.replace(
        method="pgd_at" if adversarial else "standard",
        epochs=config.finetune_epochs,
        learning_rate=config.finetune_learning_rate,
    )
    what = {"training": {**config.training_fields(), "encoder": run.path.name}, "data": data}
    path = run.path / f"{'finetune' if adversarial else 'probe'}-{digest(what['training'])}"
    if not _finished(path, what):
        method = f"{run.config.method}+{path.name}"
        _train(tuned, dataset, config, path, what=what, method=method, frozen_encoder=True, progress=progress)
    return Run(path, config)


def _accelerator(config: Config) -> Accelerator:
    # Left to itself, Accelerate would also take an Apple GPU, on which nothing here has been tried.
    # Its precision and accumulation of gradients are not for the user's own Accelerate settings to change: the run's
    # name and files say what was trained.
    return Accelerator(
        cpu=config.device == "cpu" or not torch.cuda.is_available(),
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )


def load_data(config: Config) -> Dataset:
    """The data set that a configuration names, with its number of training images.

    Raises:
        ValueError: the configuration does not fit the data; names every field that does not, and what is allowed.
    """
    try:
        dataset = load_dataset(config.dataset, config.data_root, train_images=config.train_images)
    except ValueError:
        if config.train_images is None:
            raise
        # More than there are is reported with all else that does not fit; what is wrong with the data comes up again.
        dataset = load_dataset(config.dataset, config.data_root)
    return _fitting(config, dataset)


def _fitting(config: Config, dataset: Dataset) -> Dataset:
    """The data set, if the configuration fits it."""
    train, test, held_out, batch = len(dataset.train), len(dataset.test), config.validation_images, config.batch_size
    left = train - held_out if held_out < train else train - 1
    misfits = [
        (
            len(dataset.classes) < 2,
            f"dataset={config.dataset!r}: allowed are 2 classes or more, this has {len(dataset.classes)}",
        ),
        (
            config.train_images not in (None, train),
            f"train_images={config.train_images}: allowed is 1 to {train}, the training images there are"
            if (config.train_images or 0) > train
            else f"dataset has {train} training images: allowed is train_images={config.train_images}",
        ),
        (
            held_out >= train,
            f"validation_images={held_out}: allowed is 1 to {train - 1}, below the number of training images",
        ),
        (batch > left, f"batch_size={batch}: allowed is up to {left}, the training images left beside validation"),
        (config.test_images > test, f"test_images={config.test_images}: allowed is 1 to {test}, the images there are"),
    ]
    if wrong := [message for misfit, message in misfits if misfit]:
        raise ValueError("; ".join(wrong))
    return dataset


def learning_rate(config: Config, step: int, steps: int) -> float:
    """Learning rate of step 0 <= `step` < `steps`: linear warm-up, then the schedule."""
    warmup = config.warmup * steps
    if step < warmup:
        return config.learning_rate * (step + 1) / math.ceil(warmup)
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    if config.schedule == "step":
        return config.learning_rate * 0.1 ** ((step >= 0.5 * steps) + (step >= 0.75 * steps))
    return config.learning_rate


Attack = Callable[..., Tensor]
Forward = Callable[[Tensor], tuple[Tensor, Any]]  # images -> logits, and embeddings or None


def batch_loss(
    config: Config, forward: Forward, attack: Attack, images: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
    """The training loss of one batch: every method of the course, side by side.

    Args:
        forward: images -> (logits, embeddings or None).
        attack: (images, labels, loss="ce") -> adversarial images.
        images, labels: uint8 (N, C, H, W) and (N,).

    Returns:
        The loss, its terms for the log, and the logits and labels from which the training accuracy is counted.
    """

    def view() -> Tensor:
        return augment(images, padding=config.crop_padding, flip=config.flip, generator=generator).float() / 255

    method = config.method
    if method == "standard":
        logits, _ = forward(view())
        loss = F.cross_entropy(logits, labels)
        return loss, {}, logits, labels
    if method == "pgd_at":
        logits, _ = forward(attack(view(), labels))
        loss = F.cross_entropy(logits, labels)
        return loss, {}, logits, labels
    if method in ("trades", "mart"):
        x = view()
        x_adv = attack(x, labels, loss="kl" if method == "trades" else "ce")
        clean, adversarial = forward(torch.cat([x, x_adv]))[0].chunk(2)
        if method == "trades":
            loss = losses.trades_loss(clean, adversarial, labels, config.trades_beta)
        else:
            loss = losses.mart_loss(clean, adversarial, labels, config.mart_beta)
        return loss, {}, adversarial, labels

    # Two views in one forward pass. The second is adversarial, except in plain SupCon (eq. 4).
    x_aug, x_second = view(), view()
    if method != "supcon":
        x_second = attack(x_second, labels)
    logits, embeddings = forward(torch.cat([x_aug, x_second]))
    both = labels.repeat(2)
    if method == "supcon" or config.classifier_view == "both":
        logit_labels = both
    else:
        logits, logit_labels = logits.chunk(2)[1], labels
    embeddings, both, beta = _gather(embeddings), _gather(both), config.beta if method == "anchor" else 0.0
    terms = losses.anchor_loss(  # eq. 3
        logits,
        logit_labels,
        embeddings,
        both,
        contrastive_weight=config.contrastive_weight,
        temperature=config.temperature,
        beta=beta,
    )
    parts = {"cross_entropy": terms.cross_entropy, "contrastive": terms.contrastive}
    parts["hardness_entropy"] = _hardness_entropy(embeddings.detach(), both, beta)
    return terms.total, parts, logits, logit_labels


def _hardness_entropy(embeddings: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Mean entropy of the weights of eq. 1 as a share of log |P(i)|: 1 is SupCon, 0 the hardest positive alone."""
    positives = (labels[:, None] == labels).sum(1) - 1
    several = positives > 1  # with one positive there is nothing to weigh
    entropy = losses.weight_entropy(losses.hardness_weights(embeddings, labels, beta))
    return (entropy[several] / positives[several].log()).mean() if several.any() else torch.ones(())


def _gather(x: Tensor) -> Tensor:
    """Rows of all processes, with gradients, so that contrastive positives and negatives span the whole batch."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return x
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    parts = [torch.empty_like(x) for _ in range(world)]
    torch.distributed.all_gather(parts, x.detach().contiguous())
    if x.requires_grad:
        # Each process differentiates the loss of the whole batch by its own rows; data parallelism then divides
        # the sum by the number of processes, which the factor makes good.
        parts[rank] = x.detach() + world * (x - x.detach())
    return torch.cat(parts)


class _Heads(nn.Module):
    """One forward pass to logits and, for the contrastive methods, embeddings. What data parallelism wraps."""

    def __init__(self, model: AnchorNet, method: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.method, self.dtype = model, method, dtype

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32):
            features = self.model.encode(images)
            # In plain SupCon the classifier only listens: its gradient must not shape the features.
            logits = self.model.classifier(features.detach() if self.method == "supcon" else features)
            embeddings = self.model.project(features) if self.method in CONTRASTIVE else None
        return logits.float(), embeddings


@dataclasses.dataclass
class _Progress:
    """How far a run has come. With weights, momentum and the generator's state, all that it needs to go on."""

    epoch: int = 0  # finished ones
    batch: int = 0  # finished ones of the epoch under way
    seconds: float = 0.0  # of that epoch
    sums: dict[str, float] = dataclasses.field(default_factory=dict)  # over its batches
    best: list[float] = dataclasses.field(default_factory=lambda: [-1.0, -1.0])
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # the lines of metrics.jsonl


def _train(
    model: AnchorNet,
    dataset: Dataset,
    config: Config,
    path: Path,
    *,
    what: dict[str, Any],
    method: str,
    frozen_encoder: bool = False,
    progress: bool = True,
) -> None:
    """Train as this one process of the run folder, or beside the main process that has it."""
    accelerator = _accelerator(config)
    if config.batch_size % accelerator.num_processes:
        raise ValueError(
            f"batch_size={config.batch_size}: allowed is a multiple of the number of processes, "
            f"{accelerator.num_processes}"
        )
    description = {"method": method, "dataset": dataset.name, "classes": dataset.classes, **what}
    training, validation = dataset.hold_out(config.validation_images)
    # Of several processes each would stop at a step of its own, and the others wait for it.
    waiting: AbstractContextManager[list[int]] = (
        _interrupts_wait() if accelerator.num_processes == 1 else nullcontext([])
    )
    alone: AbstractContextManager[None] = alone_in(path) if accelerator.is_main_process else nullcontext()
    with alone, waiting as interrupts:
        accelerator.wait_for_everyone()
        if not _finished(path, what):  # by another process, in the meantime
            _train_alone(
                model,
                training.train,
                validation,
                config,
                path,
                accelerator,
                interrupts,
                what=what,
                description=description,
                frozen_encoder=frozen_encoder,
                progress=progress,
            )


@contextmanager
def _interrupts_wait() -> Iterator[list[int]]:
    """Ctrl-C is noted in the list, for the loop to stop where its state is whole; the second stops at once."""
    noted: list[int] = []

    def note(number: int, _: object) -> None:
        noted.append(number)
        if len(noted) > 1:
            raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else someone else has a use for it
    if not usual or threading.current_thread() is not threading.main_thread():
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if noted:
        raise KeyboardInterrupt


def _train_alone(
    model: AnchorNet,
    training: Split,
    validation: Split,
    config: Config,
    path: Path,
    accelerator: Accelerator,
    interrupts: list[int],
    *,
    what: dict[str, Any],
    description: dict[str, Any],
    frozen_encoder: bool,
    progress: bool,
) -> None:
    device, world, rank = accelerator.device, accelerator.num_processes, accelerator.process_index
    dtype = resolve_precision(config.precision, device)
    if device.type == "cuda":
        # Reproducible convolutions; the autotuner may pick another algorithm on the next run.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        if world > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    training, validation = training.to(device), validation.to(device)
    model.to(device)
    forward = accelerator.prepare(_Heads(model, config.method, dtype))
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)

    steps_per_epoch = len(training) // config.batch_size
    steps = config.epochs * steps_per_epoch
    at, random_state = _resume(path, what, model, optimizer, scaler)
    if accelerator.is_main_process:
        (path / "last.safetensors").unlink(missing_ok=True)  # left where somebody deleted config.json: not of this run
        write_text(path / "config.json", json.dumps({**what, "config": config.model_dump()}, indent=1))
        if config.keep_epochs and not (at.epoch or at.batch):
            models.save(model, path / f"{epoch_name(0)}.safetensors", {**description, "epoch": 0})
    accelerator.wait_for_everyone()

    bar = tqdm(
        total=steps,
        initial=at.epoch * steps_per_epoch + at.batch,
        desc=description["method"].split("-")[0],
        unit="step",
        mininterval=1.0,
        file=sys.stdout,
        disable=not (progress and accelerator.is_main_process),
    )
    folded = models.fold_batchnorm(model)
    saved = time.perf_counter()
    while at.epoch < config.epochs:
        start = time.perf_counter() - at.seconds
        order = torch.randperm(len(training), generator=_generator(config.seed, at.epoch))
        generator = _generator(config.seed, at.epoch, 1 + rank)
        if at.batch:
            generator.set_state(random_state)
        model.train(not frozen_encoder)
        while at.batch < steps_per_epoch:
            if interrupts or (world == 1 and time.perf_counter() - saved > SAVE_SECONDS):
                at.seconds = time.perf_counter() - start
                _save_state(path, what, at, generator, model, optimizer, scaler)
                if interrupts:
                    raise KeyboardInterrupt
                saved = time.perf_counter()
            step = at.epoch * steps_per_epoch + at.batch
            rate = learning_rate(config, step, steps)
            optimizer.param_groups[0]["lr"] = rate
            chosen = order[at.batch * config.batch_size : (at.batch + 1) * config.batch_size][rank::world].to(device)
            images, labels = training.images[chosen], training.labels[chosen]
            warmup = min(1.0, (step + 1) / (config.epsilon_warmup * steps + 1))
            attack = _inner_problem(model, config, generator, warmup, folded)
            loss, parts, logits, logit_labels = batch_loss(config, forward, attack, images, labels, generator)
            if not math.isfinite(loss.item()):
                raise _diverged(f"loss is {loss.item()}", step, steps, at.epoch, rate, path)
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(scaler.scale(loss))
            scaler.step(optimizer)
            scaler.update()
            hit = logits.detach().argmax(1).eq(logit_labels).float().mean()
            for name, value in {"loss": loss, **parts, "training_accuracy": hit}.items():
                at.sums[name] = at.sums.get(name, 0.0) + value.item()
            at.batch += 1
            bar.update()
        if world > 1:  # running statistics are those of the first process, here and in the checkpoint
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
        if not logits_of(model, validation.inputs()).isfinite().all():
            raise _diverged("the network's output on held-out images is not finite", step, steps, at.epoch, rate, path)
        score = _validate(models.fold_batchnorm(model, folded), validation, config, accelerator)
        row = {"epoch": at.epoch + 1, "step": (at.epoch + 1) * steps_per_epoch, "learning_rate": rate}
        row |= {name: value / steps_per_epoch for name, value in at.sums.items()}
        row |= {**score, "seconds": round(time.perf_counter() - start, 2)}
        bar.set_postfix_str(
            f"loss {row['loss']:.3f}, held-out clean {score['clean_accuracy']:.1%}, "
            f"robust {score['robust_accuracy']:.1%}"
        )
        ranking = [score["robust_accuracy"], score["clean_accuracy"]]
        if config.method in ON_CLEAN_IMAGES:  # never robust: the few survivors would pick an epoch at random
            ranking = ranking[::-1]
        better = ranking > at.best
        at = _Progress(at.epoch + 1, best=max(ranking, at.best), history=[*at.history, row])
        if accelerator.is_main_process:
            metadata = {**description, **row}
            if better:
                models.save(model, path / "best.safetensors", metadata)
            if config.keep_epochs:
                models.save(model, path / f"{epoch_name(at.epoch)}.safetensors", metadata)
            write_text(path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in at.history))
            if at.epoch < config.epochs:
                _save_state(path, what, at, generator, model, optimizer, scaler)
            else:
                models.save(model, path / "last.safetensors", metadata)
                _clear_states(path)
        saved = time.perf_counter()
    bar.close()
    accelerator.wait_for_everyone()


def _diverged(what: str, step: int, steps: int, epoch: int, rate: float, path: Path) -> FloatingPointError:
    good = path / "best.safetensors"
    return FloatingPointError(
        f"{what} at step {step} of {steps} (epoch {epoch + 1}) with learning rate {rate:.3g}; "
        f"last good checkpoint: {good if good.exists() else 'none yet'}. Try a lower learning_rate"
    )


def _inner_problem(
    model: AnchorNet, config: Config, generator: torch.Generator, scale: float, folded: AnchorNet | None = None
) -> Attack:
    """Eq. 4: PGD on the network as it is now, from a uniform random start; `scale` shrinks radius and step.

    `folded` is the folded copy of an earlier step, to be overwritten.
    """
    if config.method in ON_CLEAN_IMAGES:
        return lambda images, labels: images
    # In eval mode the folded copy is the same function, only faster.
    target = models.fold_batchnorm(model, folded) if config.attack_mode == "eval" else model
    model_mode: Literal["eval", "unchanged"] = "eval" if config.attack_mode == "eval" else "unchanged"

    def attack(images: Tensor, labels: Tensor, loss: str = "ce") -> Tensor:
        objective: Any = loss
        if loss == "kl":  # the inner problem of TRADES: away from the prediction on the clean image
            with torch.no_grad(), frozen(target, model_mode):
                clean = target(images).float().log_softmax(1)

            def objective(logits: Tensor, _: Tensor) -> Tensor:
                return F.kl_div(logits.log_softmax(1), clean, reduction="none", log_target=True).sum(1)

        return pgd(
            target,
            images,
            labels,
            epsilon=scale * config.epsilon,
            step_size=scale * config.step_size,
            steps=config.attack_steps,
            loss=objective,
            model_mode=model_mode,
            precision=config.precision,
            generator=generator,
        )

    return attack


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
        seed=config.seed,
    )
    counts = accelerator.reduce(torch.stack([clean.sum(), robust.sum()]), "sum")
    return {
        "clean_accuracy": counts[0].item() / len(validation),
        "robust_accuracy": counts[1].item() / len(validation),
    }


def _generator(*key: int) -> torch.Generator:
    """A CPU generator for (seed, epoch[, process]): an epoch's randomness does not depend on what ran before it."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1)


def _stored(path: Path) -> dict[str, Any]:
    """What config.json in a run folder says."""
    file = path / "config.json"
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return {"training": {**stored["training"]}, "data": stored.get("data")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(file)!r} is damaged ({type(error).__name__}: {error}); restore it, or delete it: the run then goes "
            "on from its saved state, or starts anew where there is none"
        ) from None


def _finished(path: Path, what: dict[str, Any]) -> bool:
    """Whether the folder holds the finished run of these fields and data; refuses a folder that holds another run."""
    try:
        _check(path, _stored(path), what)
    except FileNotFoundError:
        return False
    if not (path / "last.safetensors").exists():
        return False
    with suppress(OSError):  # a folder that may only be read
        _clear_states(path)
    return True


def _check(path: Path, found: dict[str, Any], what: dict[str, Any]) -> None:
    """Raise ValueError unless the run that was found in a folder is the one that is wanted."""

    def value(fields: dict[str, Any], name: str) -> Any:  # a run from before there was a field has its default
        return fields.get(name, Config.model_fields[name].default if name in Config.model_fields else None)

    old, new = found["training"], what["training"]
    if different := sorted(name for name in old.keys() | new.keys() if value(old, name) != value(new, name)):
        raise ValueError(
            f"run folder {str(path)!r} holds a run with other values of {different}; choose another folder"
        )
    _check_data(path, found, what["data"], ("classes", "image", "train"))


def _check_data(path: Path, found: dict[str, Any], data: dict[str, Any], parts: tuple[str, ...]) -> None:
    """Raise ValueError if a run was trained on other data. The name is none of it: a folder may move."""
    trained_on = found.get("data") or data  # runs from before this was kept are taken as they are
    different = {
        {"classes": "classes", "image": "image shape", "train": "training images"}[part]: (trained_on[part], data[part])
        for part in parts
        if trained_on[part] != data[part]
    }
    if different:
        changes = "; ".join(f"{name} {before} then, {now} now" for name, (before, now) in different.items())
        raise ValueError(
            f"run folder {str(path)!r} holds a run on other data than those of {data['name']!r} now: {changes}. "
            "Restore the data, or choose another folder, or delete this one to train anew"
        )


def _states(path: Path) -> tuple[Path, Path]:
    """The files with the state of a run under way: the newest, and the one before."""
    return path / "resume.safetensors", path / "resume-before.safetensors"


def _clear_states(path: Path) -> None:
    for file in _states(path):
        file.unlink(missing_ok=True)


def _save_state(
    path: Path,
    what: dict[str, Any],
    at: _Progress,
    generator: torch.Generator,
    model: AnchorNet,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors[f"momentum.{index}"] = state["momentum_buffer"]
    tensors["generator"] = generator.get_state()
    text = {"progress": dataclasses.asdict(at), "run": what, "scaler": scaler.state_dict()}
    newest, before = _states(path)
    models.write_tensors(newest, tensors, {name: json.dumps(value) for name, value in text.items()}, keep=before)


def _resume(
    path: Path, what: dict[str, Any], model: AnchorNet, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> tuple[_Progress, Tensor]:
    """Restore the newest whole state; returns how far it is, and the state of the generator of random numbers."""
    damaged = []
    for file in _states(path):
        if not file.exists():
            continue
        try:
            tensors, text = models.read_tensors(file)
            found, at = json.loads(text["run"]), _Progress(**json.loads(text["progress"]))
        except (ValueError, KeyError, TypeError) as error:
            damaged.append(f"{str(file)!r} is damaged ({type(error).__name__}: {error})")
            continue
        _check(path, found, what)
        model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
        momentum = {int(n.removeprefix("momentum.")): t for n, t in tensors.items() if n.startswith("momentum.")}
        state = {index: {"momentum_buffer": buffer} for index, buffer in momentum.items()}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        scaler.load_state_dict(json.loads(text["scaler"]))
        if damaged:
            _states(path)[0].unlink(missing_ok=True)  # lest the next state to be saved keeps it, in place of this one
            warnings.warn(
                f"{damaged[0]}; the run goes on from the state before it, step {at.batch} of epoch {at.epoch + 1}, and "
                "what was trained since is trained again",
                stacklevel=2,
            )
        return at, tensors["generator"]
    if damaged:
        raise ValueError(f"{' and '.join(damaged)}: restore a copy, or delete this to start the run anew")
    return _Progress(), torch.empty(0)
