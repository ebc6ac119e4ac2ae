"""What a cell measures: blocks that resume to the same bits, features under attack, gradients of the two terms."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from anchor_utils import evaluation, models, results
from anchor_utils.data import Split
from anchor_utils.objectives import batch_loss
from anchor_utils.runs import Run
from study import measure

CPU = torch.device("cpu")


@pytest.fixture
def run(tiny_run, tmp_path, monkeypatch) -> Run:
    """A run in a folder of its own whose last epoch is not its best, and blocks of 30 images."""
    monkeypatch.setattr(measure, "BLOCK", 30)
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        shutil.copy(tiny_run.path / "best.safetensors", folder)
        torch.manual_seed(0)
        models.save(models.AnchorNet(10, 2, 1, 8), folder / "last.safetensors")
    sizes = {"test_images": 70, "screen_images": 20, "autoattack_images": 5}
    attack = {"epsilon": 0.02, "eval_step_size": 0.01, "eval_steps": 3}
    return Run(tmp_path / "first", tiny_run.config.replace(**sizes, **attack, seed=3))


@pytest.fixture
def images(tiny_run, few_digits) -> Split:
    """Test images of the classes that the network sees in them, so that the attack alone costs accuracy."""
    found = few_digits.test[:70]
    return Split(found.images, evaluation.logits_of(tiny_run.model("best"), found.inputs()).argmax(1))


def same(table: pd.DataFrame, wanted: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), wanted.drop(columns="seconds"))


def test_held_out_accuracies_are_those_of_the_kept_epoch(tiny_run):
    found, history = measure.held_out(tiny_run), tiny_run.metrics().set_index("epoch")
    assert found["clean"] == history.loc[found["epoch"], "clean_accuracy"]
    assert found["robust"] == history.loc[found["epoch"], "robust_accuracy"] == history["robust_accuracy"].max()


def test_each_block_is_attacked_as_if_it_were_alone(run, images):
    network = run.model("best")
    settings = {"epsilon": 0.02, "step_size": 0.01, "steps": 3, "seed": 3}
    alone = [evaluation.evaluate(network, images[a : a + 30], ["pgd"], **settings) for a in (0, 30, 60)]
    found = measure.accuracy_under("pgd", run, "best", images, CPU)
    same(found, results.join_images(alone).assign(checkpoint="best"))
    assert found["images"].tolist() == [70]
    assert 0 < found["accuracy"][0] < 1  # otherwise this shows nothing


@pytest.mark.slow
def test_every_attack_gets_the_images_that_the_configuration_says(run, images):
    found = measure.accuracies(run, images, ["clean", "pgd", "screen", "autoattack"], CPU)
    best = found[found["checkpoint"] == "best"].set_index("attack")["images"]
    assert best[["clean", "pgd", "screen", "autoattack"]].tolist() == [70, 70, 20, 5]
    assert found.loc[found["checkpoint"] == "last", "attack"].tolist() == ["clean", "pgd"]
    assert measure.accuracies(run, images, [], CPU).empty


@pytest.mark.slow
def test_an_interrupted_measurement_goes_on_to_the_same_bits(run, images, monkeypatch):
    attacks = ["clean", "pgd", "screen"]
    whole = measure.accuracies(run, images, attacks, CPU)
    other = Run(run.path.with_name("second"), run.config)
    original, calls = evaluation.evaluate, []

    def killed(*arguments, **settings):
        calls.append(arguments)
        if len(calls) == 6:  # in the last block of PGD
            raise KeyboardInterrupt
        return original(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            measure.accuracies(other, images, attacks, CPU)
    finished = {path: path.stat().st_mtime_ns for path in (other.path / "evaluation").iterdir()}
    assert len(finished) == 5
    same(measure.accuracies(other, images, attacks, CPU), whole)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # these were not attacked again


def test_a_best_epoch_that_is_also_the_last_is_attacked_once(run, images):
    shutil.copy(run.path / "best.safetensors", run.path / "last.safetensors")
    best = measure.accuracy_under("pgd", run, "best", images, CPU)
    files = set((run.path / "evaluation").iterdir())
    last = measure.accuracy_under("pgd", run, "last", images, CPU)
    assert set((run.path / "evaluation").iterdir()) == files
    pd.testing.assert_frame_equal(last, best.assign(checkpoint="last"))


def test_without_a_radius_the_features_stay_and_with_one_they_move(run, images, few_digits):
    network, train = run.model("best"), few_digits.train
    still = measure.features_under_attack(network, images, train, run.config.replace(epsilon=0.0))
    moved = measure.features_under_attack(network, images, train, run.config)
    assert still["displacement"] == pytest.approx(0, abs=1e-5)
    assert still["adversarial kNN accuracy"] == still["clean kNN accuracy"] == moved["clean kNN accuracy"]
    assert moved["displacement"] > 1e-3
    assert moved["adversarial kNN accuracy"] != still["clean kNN accuracy"]


def test_an_attack_that_swaps_two_classes_is_not_mistaken_for_a_defence(run, few_digits, monkeypatch):
    """Among each other such images have neighbours of their own class alone; among clean training images none."""
    split = Split(few_digits.test.images[:40], torch.arange(40) % 2)
    corners = np.eye(2, dtype=np.float32)
    places = iter([corners[split.labels], corners[split.labels], corners[1 - split.labels]])
    monkeypatch.setattr(measure.embeddings, "extract", lambda network, x: next(places))
    found = measure.features_under_attack(run.model("best"), split, split, run.config)
    wanted = {"clean kNN accuracy": 1.0, "adversarial kNN accuracy": 0.0, "displacement": 1.0}
    assert found == pytest.approx(wanted)


def test_the_gradients_of_the_two_terms_add_up_to_that_of_the_loss(tiny_run, few_digits):
    network, config, batch = tiny_run.model("best"), tiny_run.config, few_digits.train[:32]
    cross_entropy, contrastive = measure.term_gradients(network, batch, config)
    generator, folded = torch.Generator().manual_seed(config.seed), models.fold_batchnorm(network)
    loss, *_ = batch_loss(
        config,
        lambda x: (network.classifier(network.encode(x)), network.project(network.encode(x))),
        lambda x, y: measure.pgd(folded, x, y, **config.attack(), generator=generator),
        batch.images,
        batch.labels,
        generator,
    )
    loss.backward()
    encoder = [*network.stem.parameters(), *network.stages.parameters()]
    whole = torch.cat([parameter.grad.flatten() for parameter in encoder])
    torch.testing.assert_close(cross_entropy + contrastive, whole, rtol=1e-4, atol=1e-5 * float(whole.norm()))
    assert min(cross_entropy.norm(), contrastive.norm()) > 0.01 * whole.norm()


def test_the_share_follows_the_weight_and_the_angle_does_not(tiny_run, few_digits):
    network, batch = tiny_run.model("best"), few_digits.train[:32]
    once, twice = (
        measure.balance_of_terms(network, batch, tiny_run.config.replace(contrastive_weight=weight))
        for weight in (1.0, 2.0)
    )
    share, doubled = (found["share of the contrastive term in the gradient"] for found in (once, twice))
    assert doubled / (1 - doubled) == pytest.approx(2 * share / (1 - share), rel=1e-4)
    angle = "cosine of the two terms' gradients"
    assert once[angle] == pytest.approx(twice[angle], abs=1e-5)
    cross_entropy, contrastive = (g.double() for g in measure.term_gradients(network, batch, tiny_run.config))
    wanted = cross_entropy @ contrastive / (cross_entropy.norm() * contrastive.norm())
    assert once[angle] == pytest.approx(float(wanted), abs=1e-5)


def test_a_method_with_one_term_has_no_balance(tiny_run, images):
    with pytest.raises(ValueError, match=r"config.method='pgd_at': allowed are .*anchor"):
        measure.balance_of_terms(tiny_run.model("best"), images, tiny_run.config.replace(method="pgd_at"))
