"""Training: one loop for every method, resumable to the bit, with the checkpoint chosen on held-out images.

A run folder holds ``config.json``, ``metrics.jsonl`` (one line an epoch), ``best.safetensors`` (best robust accuracy
on held-out *training* images, clean accuracy breaking ties; the other way round for methods that train on clean
images only) and ``last.safetensors``. While a run is under way, ``resume.safetensors`` holds its state after the last
finished epoch. With ``keep_epochs`` there is also ``epoch-NNN.safetensors`` for every epoch, from the untrained 0 on.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm

from anchor_utils import losses, models
from anchor_utils.attacks import frozen, pgd, resolve_precision
from anchor_utils.config import Config, digest
from anchor_utils.data import Dataset, Split, augment, load_dataset
from anchor_utils.evaluation import clean_outcomes, logits_of, pgd_outcomes
from anchor_utils.files import write_text
from anchor_utils.models import AnchorNet

CONTRASTIVE = ("supcon", "supcon_at", "anchor")
ON_CLEAN_IMAGES = ("standard", "supcon")


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
        return pd.DataFrame(_read_metrics(self.path))


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

    The same configuration on the same machine with the same number of threads gives the same weights, whether or
    not the run was interrupted. Under ``accelerate launch`` the processes share each batch.

    Args:
        config: what to train; see :class:`anchor_utils.config.Config`.
        path: run folder; ``config.runs_dir / config.run_name()`` if not given.
        dataset: the loaded data set, to save loading it again; must be the one that `config` names.
        progress: show a progress bar.

    Raises:
        ValueError: the configuration does not fit the data set, `dataset` is not the one that it names, or `path`
            holds another configuration.
        FloatingPointError: the loss became infinite or NaN; names the step and the last good checkpoint.
    """
    if path is None and dataset is not None and dataset.name != config.dataset:  # the folder is named after `config`
        raise ValueError(f"dataset.name={dataset.name!r}: allowed is that of the configuration, {config.dataset!r}")
    path = Path(config.runs_dir) / config.run_name() if path is None else Path(path)
    if _finished(path, config.training_fields()):
        return Run(path, config)
    accelerator = _accelerator(config)
    dataset = load_data(config) if dataset is None else dataset
    training, validation = dataset.hold_out(config.validation_images)
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
    _train(
        model,
        training.train,
        validation,
        config,
        path,
        accelerator,
        fields=config.training_fields(),
        description={"method": config.method, "dataset": dataset.name, "classes": dataset.classes},
        progress=progress,
    )
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
    BatchNorm statistic keeps its bits.

    Args:
        run: what :func:`fit` returned; its best checkpoint is the start.
        config: supplies the optimisation and attack settings; the run's own if not given.
        adversarial: train on PGD examples; False trains on clean images, a linear probe.
    """
    config = run.config if config is None else config
    model = run.model("best")
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
    fields = {**config.training_fields(), "encoder": run.path.name}
    path = run.path / f"{'finetune' if adversarial else 'probe'}-{digest(fields)}"
    if _finished(path, fields):
        return Run(path, config)
    accelerator = _accelerator(config)
    dataset = load_data(config) if dataset is None else dataset
    training, validation = dataset.hold_out(config.validation_images)
    _train(
        tuned,
        training.train,
        validation,
        config,
        path,
        accelerator,
        fields=fields,
        description={"method": f"{run.config.method}+{path.name}", "dataset": dataset.name, "classes": dataset.classes},
        frozen_encoder=True,
        progress=progress,
    )
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
    """The data set that a configuration names, with its number of training and test images."""
    dataset = load_dataset(config.dataset, config.data_root, train_images=config.train_images)
    if config.test_images > len(dataset.test):
        raise ValueError(f"test_images={config.test_images}: allowed is 1 to {len(dataset.test)}, the images there are")
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


def _train(
    model: AnchorNet,
    training: Split,
    validation: Split,
    config: Config,
    path: Path,
    accelerator: Accelerator,
    *,
    fields: dict[str, Any],
    description: dict[str, Any],
    frozen_encoder: bool = False,
    progress: bool = True,
) -> None:
    device, world, rank = accelerator.device, accelerator.num_processes, accelerator.process_index
    if config.batch_size > len(training):
        raise ValueError(f"batch_size={config.batch_size}: allowed is up to {len(training)}, the training images left")
    if config.batch_size % world:
        raise ValueError(f"batch_size={config.batch_size}: allowed is a multiple of the number of processes, {world}")
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
    first_epoch, best, history = 0, (-1.0, -1.0), []
    if (path / "resume.safetensors").exists():
        first_epoch, best = _resume(path, fields, model, optimizer, scaler)
        history = _read_metrics(path)[:first_epoch]
    elif accelerator.is_main_process:
        write_text(path / "config.json", json.dumps({"training": fields, "config": config.model_dump()}, indent=1))
        if config.keep_epochs:
            models.save(model, path / f"{epoch_name(0)}.safetensors", {**description, "epoch": 0})
    accelerator.wait_for_everyone()

    bar = tqdm(
        total=steps,
        initial=first_epoch * steps_per_epoch,
        desc=description["method"].split("-")[0],
        unit="step",
        mininterval=1.0,
        file=sys.stdout,
        disable=not (progress and accelerator.is_main_process),
    )
    for epoch in range(first_epoch, config.epochs):
        start = time.perf_counter()
        order = torch.randperm(len(training), generator=_generator(config.seed, epoch))
        generator = _generator(config.seed, epoch, 1 + rank)
        model.train(not frozen_encoder)
        sums: dict[str, float] = {}
        for batch in range(steps_per_epoch):
            step = epoch * steps_per_epoch + batch
            rate = learning_rate(config, step, steps)
            optimizer.param_groups[0]["lr"] = rate
            chosen = order[batch * config.batch_size : (batch + 1) * config.batch_size][rank::world].to(device)
            images, labels = training.images[chosen], training.labels[chosen]
            attack = _inner_problem(
                model, config, generator, min(1.0, (step + 1) / (config.epsilon_warmup * steps + 1))
            )
            loss, parts, logits, logit_labels = batch_loss(config, forward, attack, images, labels, generator)
            if not math.isfinite(loss.item()):
                raise _diverged(f"loss is {loss.item()}", step, steps, epoch, rate, path)
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(scaler.scale(loss))
            scaler.step(optimizer)
            scaler.update()
            hit = logits.detach().argmax(1).eq(logit_labels).float().mean()
            for name, value in {"loss": loss, **parts, "training_accuracy": hit}.items():
                sums[name] = sums.get(name, 0.0) + value.item()
            bar.update()
        if world > 1:  # running statistics are those of the first process, here and in the checkpoint
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
        if not logits_of(model, validation.inputs()).isfinite().all():
            raise _diverged("the network's output on held-out images is not finite", step, steps, epoch, rate, path)
        score = _validate(model, validation, config, accelerator)
        row = {"epoch": epoch + 1, "step": (epoch + 1) * steps_per_epoch, "learning_rate": rate}
        row |= {name: value / steps_per_epoch for name, value in sums.items()}
        row |= {**score, "seconds": round(time.perf_counter() - start, 2)}
        history.append(row)
        bar.set_postfix_str(
            f"loss {row['loss']:.3f}, held-out clean {score['clean_accuracy']:.1%}, "
            f"robust {score['robust_accuracy']:.1%}"
        )
        if accelerator.is_main_process:
            metadata = {**description, "training": fields, **row}
            ranking = (score["robust_accuracy"], score["clean_accuracy"])
            if config.method in ON_CLEAN_IMAGES:  # never robust: the few survivors would pick an epoch at random
                ranking = ranking[::-1]
            if ranking > best:
                best = ranking
                models.save(model, path / "best.safetensors", metadata)
            if config.keep_epochs:
                models.save(model, path / f"{epoch_name(epoch + 1)}.safetensors", metadata)
            write_text(path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in history))
            if epoch + 1 < config.epochs:
                _save_state(path, fields, epoch + 1, best, model, optimizer, scaler)
            else:
                models.save(model, path / "last.safetensors", metadata)
                (path / "resume.safetensors").unlink(missing_ok=True)
    bar.close()
    accelerator.wait_for_everyone()


def _diverged(what: str, step: int, steps: int, epoch: int, rate: float, path: Path) -> FloatingPointError:
    good = path / "best.safetensors"
    return FloatingPointError(
        f"{what} at step {step} of {steps} (epoch {epoch + 1}) with learning rate {rate:.3g}; "
        f"last good checkpoint: {good if good.exists() else 'none yet'}. Try a lower learning_rate"
    )


def _inner_problem(model: AnchorNet, config: Config, generator: torch.Generator, scale: float) -> Attack:
    """Eq. 4: PGD on the network as it is now, from a uniform random start; `scale` shrinks radius and step."""
    if config.method in ON_CLEAN_IMAGES:
        return lambda images, labels: images
    # In eval mode the folded copy is the same function, only faster.
    target = models.fold_batchnorm(model) if config.attack_mode == "eval" else model
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


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def _finished(path: Path, fields: dict[str, Any]) -> bool:
    """Whether the folder holds the finished run of these fields; refuses a folder that holds another run."""
    try:
        found = json.loads((path / "config.json").read_text())["training"]
    except FileNotFoundError:
        return False
    if found != json.loads(json.dumps(fields)):
        different = sorted(name for name in fields if found.get(name) != fields[name])
        raise ValueError(
            f"run folder {str(path)!r} holds a run with other values of {different}; choose another folder"
        )
    return (path / "last.safetensors").exists()


def _save_state(
    path: Path,
    fields: dict[str, Any],
    epoch: int,
    best: tuple[float, float],
    model: AnchorNet,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors[f"momentum.{index}"] = state["momentum_buffer"]
    progress = {"epoch": epoch, "best": best, "fields": fields, "scaler": scaler.state_dict()}
    models.write_tensors(path / "resume.safetensors", tensors, {"progress": json.dumps(progress)})


def _resume(
    path: Path, fields: dict[str, Any], model: AnchorNet, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> tuple[int, tuple[float, float]]:
    """Restore the state after the last finished epoch; returns how many epochs are done and the best score."""
    device = next(model.parameters()).device
    with safe_open(path / "resume.safetensors", framework="pt", device=str(device)) as file:
        progress = json.loads(file.metadata()["progress"])
        # Copies: the optimizer must not hold on to the file, which is written anew after the next epoch.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
    if progress["fields"] != json.loads(json.dumps(fields)):
        raise ValueError(f"run folder {str(path)!r} holds the state of another run; choose another folder")
    model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    momentum = {int(n.removeprefix("momentum.")): t for n, t in tensors.items() if n.startswith("momentum.")}
    state = {index: {"momentum_buffer": buffer} for index, buffer in momentum.items()}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    scaler.load_state_dict(progress["scaler"])
    return progress["epoch"], (progress["best"][0], progress["best"][1])
