"""Training: ``fit`` and ``finetune``, resumable to the bit, with the checkpoint chosen on held-out images.

What a step minimises is in :mod:`anchor_utils.objectives`, the loop in :mod:`anchor_utils.loop`, and what a run leaves
behind in :mod:`anchor_utils.runs`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin

from anchor_utils import runs
from anchor_utils.config import METHODS, Config, digest
from anchor_utils.data import Dataset, fitting, load_data
from anchor_utils.devices import resolve_device
from anchor_utils.files import alone_in
from anchor_utils.loop import Loop, kernels
from anchor_utils.models import AnchorNet
from anchor_utils.runs import Run


def fit(
    config: Config, *, path: str | Path | None = None, dataset: Dataset | None = None, progress: bool = True
) -> Run:
    """Train one network from scratch, or return the finished run of the same configuration.

    Methods: "standard" (CE on clean images), "pgd_at" (CE on PGD examples), "trades", "mart", "supcon" (contrastive
    loss on two clean views; the classifier is a linear probe that passes no gradient to the encoder), "supcon_at"
    (ANCHOR with beta = 0) and "anchor" (eq. 3 of the reconstruction).

    The same configuration on the same machine with the same number of threads gives the same weights and metrics, but
    for the seconds (on a GPU only with `deterministic`), interrupted or not, also by a kill while it was writing. It
    goes on from its state at most `loop.SAVE_SECONDS` before; Ctrl-C saves the state after the step under way (again:
    it stops at once).
    Under ``accelerate launch`` the processes share each batch; the state is then saved after each epoch only,
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
    dataset = load_data(config) if dataset is None else fitting(config, dataset)
    identity = {"training": config.training_fields(), "data": dataset.identity()}
    if not runs.finished(path, identity):
        _train(new_network(config, dataset), dataset, config, path, identity, config.method, progress=progress)
    return Run(path, config)


def new_network(config: Config, dataset: Dataset) -> AnchorNet:
    """The untrained network of a configuration; its weights depend on the seed, and not on the global random state."""
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
    unused = not METHODS[config.method].contrastive or config.contrasts_features()
    if model.projection is not None and unused:
        model.projection.requires_grad_(False)
    return model


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
    dataset = load_data(config) if dataset is None else fitting(config, dataset)
    data, model = dataset.identity(), run.model("best")
    runs.check_data(run.path, model.metadata, data, ("classes", "image"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        tuned = AnchorNet(**{**model.architecture, "projection_dim": 0})
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
    identity = {"training": {**config.training_fields(), "encoder": run.path.name}, "data": data}
    path = run.path / f"{'finetune' if adversarial else 'probe'}-{digest(identity['training'])}"
    if not runs.finished(path, identity):
        name = f"{run.config.method}+{path.name}"
        _train(tuned, dataset, config, path, identity, name, frozen_encoder=True, progress=progress)
    return Run(path, config)


def _accelerator(config: Config) -> Accelerator:
    # Left to itself, Accelerate would also take an Apple GPU that fails its trial.
    # Its precision and accumulation of gradients are not for the user's own Accelerate settings to change: the run's
    # name and files say what was trained.
    return Accelerator(
        cpu=resolve_device(config.device).type == "cpu",
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )


def _train(
    model: AnchorNet,
    dataset: Dataset,
    config: Config,
    path: Path,
    identity: dict[str, Any],
    name: str,
    *,
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
    if config.awp and accelerator.num_processes > 1:
        raise ValueError(f"awp={config.awp}: allowed is 0 with {accelerator.num_processes} processes")
    if accelerator.num_processes > 1 and config.permute_weights and "permute_weights" in METHODS[config.method].fields:
        raise ValueError(f"permute_weights=True: allowed is False with {accelerator.num_processes} processes")
    # Of several processes each would stop at a step of its own, and the others wait for it.
    waiting: AbstractContextManager[list[int]] = (
        runs.interrupts_wait() if accelerator.num_processes == 1 else nullcontext([])
    )
    alone: AbstractContextManager[None] = alone_in(path) if accelerator.is_main_process else nullcontext()
    with alone, waiting as interrupts, kernels(config):
        accelerator.wait_for_everyone()
        if not runs.finished(path, identity):  # by another process, in the meantime
            description = {"method": name, "dataset": dataset.name, "classes": dataset.classes, **identity}
            loop = Loop(model, dataset, config, path, accelerator, interrupts, identity, description, frozen_encoder)
            loop.run(progress and accelerator.is_main_process)
