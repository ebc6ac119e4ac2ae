"""What a sweep measures of one trained network: accuracies, its features under attack, the gradients of its loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from anchor_utils import embeddings, evaluation, results, runs, training
from anchor_utils.attacks import pgd
from anchor_utils.config import METHODS, Config
from anchor_utils.data import Dataset, Split
from anchor_utils.devices import resolve_device
from anchor_utils.models import AnchorNet, fold_batchnorm, resolve_precision
from anchor_utils.objectives import batch_loss

BLOCK = 250  # test images; each block is attacked with the random numbers of the first
REFERENCE = 10_000  # clean training images at most, among which a test image looks for its neighbours


def held_out(run: runs.Run) -> dict[str, float]:
    """Epoch of the checkpoint that was kept, and its accuracies, clean and robust, on held-out training images."""
    kept = run.model("best").metadata
    return {"epoch": kept["epoch"], "clean": kept["clean_accuracy"], "robust": kept["robust_accuracy"]}


def of_both(run: runs.Run, dataset: Dataset, finetune: bool) -> dict[str, dict[str, float]]:
    """:func:`held_out` of the network, and if `finetune` says so of a new classifier on its frozen encoder."""
    found = {"joint": held_out(run)}
    if finetune:
        found["frozen encoder, new classifier"] = held_out(training.finetune(run, dataset=dataset, progress=False))
    return found


def accuracies(run: runs.Run, test: Split, attacks: Sequence[str], device: torch.device) -> pd.DataFrame:
    """Test accuracy of the best checkpoint under each attack, and of the last one on clean images and under PGD.

    Args:
        attacks: any of :data:`anchor_utils.config.REPORTED`; the configuration says how many images each gets.

    Returns:
        The rows of :func:`anchor_utils.evaluation.evaluate` with the column `checkpoint`; no rows without attacks.
    """
    sizes = {"clean": run.config.test_images, "pgd": run.config.test_images}
    sizes |= {"screen": run.config.screen_images, "autoattack": run.config.autoattack_images}
    last = [attack for attack in attacks if attack in ("clean", "pgd")]
    tables = [accuracy_under(attack, run, "best", test[: sizes[attack]], device) for attack in attacks]
    tables += [accuracy_under(attack, run, "last", test[: sizes[attack]], device) for attack in last]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def accuracy_under(
    attack: str, run: runs.Run, which: Literal["best", "last"], images: Split, device: torch.device
) -> pd.DataFrame:
    """Accuracy of a checkpoint under one attack, block by block.

    What is finished stays in the folder `evaluation` of the run, so that an interrupted call goes on where it stopped,
    and a best epoch that is also the last one is attacked once.
    """
    config = run.config
    network = run.model(which).to(device)
    settings: dict[str, Any] = {"restarts": config.eval_restarts, "precision": config.eval_precision}
    settings |= {"seed": config.seed, "batch_size": BLOCK, "resume": run.path / "evaluation"}
    blocks = [images[start : start + BLOCK] for start in range(0, len(images), BLOCK)]
    tables = [evaluation.evaluate(network, block, [attack], **config.evaluation(), **settings) for block in blocks]
    return results.join_images(tables).assign(checkpoint=which)


def inside(run: runs.Run, dataset: Dataset, device: torch.device) -> dict[str, float]:
    """What the best checkpoint looks like inside: :func:`features_under_attack` on the first test images, and for a
    contrastive method :func:`balance_of_terms` on training images."""
    config, network = run.config, run.model("best").to(device)
    train = dataset.hold_out(config.validation_images)[0].train
    images = dataset.test[: config.embedding_images].to(device)
    found = features_under_attack(network, images, train[:REFERENCE].to(device), config)
    if METHODS[config.method].contrastive:
        found |= balance_of_terms(network, train[:512].to(device), config)
    return found


def save_cell(path: str | Path, config: Config, table: pd.DataFrame, **context: Any) -> None:
    """Write what was found in a cell of a sweep, its rows and whatever else is known, as one JSON file, atomically.

    Where files lay on the machine is left out: cells are committed. `precision` is what the configuration's meant on
    this machine, where "auto" is whatever is fastest.
    """
    recipe = config.model_dump(exclude={"runs_dir", "data_root"})
    trained_in = resolve_precision(config.precision, resolve_device(config.device))
    about = {"method": config.method, "seed": config.seed, "run": config.run_name()}
    about["precision"] = str(trained_in).removeprefix("torch.")
    results.save_results(path, table, **about, **context, config=recipe)


def features_under_attack(network: AnchorNet, images: Split, train: Split, config: Config) -> dict[str, float]:
    """How PGD changes the features of test images, measured against clean *training* images.

    Adversarial images must not be looked up among each other: an attack that drives each class to its own wrong place
    leaves them among their own kind, so a network without any defence would come out best.

    Args:
        images: N test images, where the parameters of the network are.
        train: clean training images of the network, in the same place; every class must occur.

    Returns:
        "clean kNN accuracy" and "adversarial kNN accuracy": share of the test images, clean or under PGD, whose ten
        nearest among the clean training features vote for the right class. "displacement": how far the attack moves
        a feature, ``|z_adv - z|`` averaged over images, divided by the mean distance of two class centres of the
        training features; 1 is as far as from one class to another. Features have unit length, see
        :func:`anchor_utils.embeddings.extract`.
    """
    x, y = images.inputs(), images.labels
    generator = torch.Generator().manual_seed(config.seed)
    x_adv = pgd(fold_batchnorm(network), x, y, **config.evaluation(), generator=generator)
    reference, clean, adversarial = (embeddings.extract(network, z) for z in (train.inputs(), x, x_adv))
    known, labels = train.labels.cpu().numpy(), y.cpu().numpy()
    found = {
        f"{name} kNN accuracy": embeddings.knn_accuracy(reference, known, vectors, labels)
        for name, vectors in (("clean", clean), ("adversarial", adversarial))
    }
    moved = embeddings.displacement(clean, adversarial, embeddings.class_centres(reference, known))
    return {**found, "displacement": float(moved.mean())}


def term_gradients(network: AnchorNet, images: Split, config: Config) -> tuple[Tensor, Tensor]:
    """Gradients (P,) of the two terms of eq. 3, contrastive weight included, by the P parameters of the encoder.

    Args:
        network: in the mode that it is to be differentiated in; eval mode for a checkpoint.
        images: one batch of N training images, where the parameters of the network are; augmented and attacked as in
            training.
        config: of a method with a contrastive term.

    Raises:
        ValueError: the method has no contrastive term.
    """
    if not METHODS[config.method].contrastive:
        allowed = [name for name, method in METHODS.items() if method.contrastive]
        raise ValueError(f"config.method={config.method!r}: allowed are {', '.join(allowed)}")
    generator = torch.Generator().manual_seed(config.seed)
    folded = fold_batchnorm(network)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        features = network.encode(x)
        embeddings = features if config.contrasts_features() else network.project(features)
        return network.classifier(features), embeddings

    def attack(x: Tensor, y: Tensor) -> Tensor:
        return pgd(folded, x, y, **config.attack(), generator=generator)

    terms = batch_loss(config, forward, attack, images.images, images.labels, generator).terms
    encoder = [*network.stem.parameters(), *network.stages.parameters()]
    cross_entropy, contrastive = (
        torch.cat([gradient.flatten() for gradient in torch.autograd.grad(term, encoder, retain_graph=True)])
        for term in (terms["cross_entropy"], config.contrastive_weight * terms["contrastive"])
    )
    return cross_entropy, contrastive


def balance_of_terms(network: AnchorNet, images: Split, config: Config) -> dict[str, float]:
    """Which of the two terms of eq. 3 moves the encoder: from the gradients that :func:`term_gradients` describes.

    Returns:
        The share of the contrastive term in the sum of the two lengths, in [0, 1], and the cosine of the two.
    """
    cross_entropy, contrastive = term_gradients(network, images, config)
    share = contrastive.norm() / (cross_entropy.norm() + contrastive.norm())
    return {
        "share of the contrastive term in the gradient": float(share),
        "cosine of the two terms' gradients": float(torch.cosine_similarity(cross_entropy, contrastive, dim=0)),
    }
