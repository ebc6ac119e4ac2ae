"""Training: the loss of one step of each method, reproducible and resumable runs, checkpoints, fine-tuning."""

import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from anchor_utils import losses, models, training
from anchor_utils.config import METHODS, Config, load_preset
from anchor_utils.data import Split
from anchor_utils.train import main
from anchor_utils.training import CONTRASTIVE, batch_loss, finetune, fit, learning_rate

FILES = {"config.json", "metrics.jsonl", "best.safetensors", "last.safetensors"}


def weights(run, which="last"):
    return run.model(which).state_dict()


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def forbidden(*_, **__):
    raise AssertionError("this must not be called")


# Learning-rate schedule


def rates(steps=40, **changes):
    config = Config(learning_rate=0.4, **changes)
    return [learning_rate(config, step, steps) for step in range(steps)]


def torch_rates(scheduler, steps=40, **arguments):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = scheduler(optimizer, **arguments)
    result = []
    for _ in range(steps):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return result


def test_schedules_equal_those_of_torch():
    cosine = torch_rates(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=40)
    assert rates(schedule="cosine", warmup=0) == pytest.approx(cosine)
    step = torch_rates(torch.optim.lr_scheduler.MultiStepLR, milestones=[20, 30], gamma=0.1)
    assert rates(schedule="step", warmup=0) == pytest.approx(step)
    assert rates(schedule="constant", warmup=0) == [0.4] * 40


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_warmup_rises_linearly_to_the_full_rate(schedule):
    found = rates(schedule=schedule, warmup=0.2)
    assert found[:8] == pytest.approx([0.05 * k for k in range(1, 9)])
    assert found[8] == pytest.approx(0.4)
    assert all(later <= earlier for earlier, later in itertools.pairwise(found[8:]))
    uneven = rates(steps=12, schedule=schedule, warmup=0.2)  # 2.4 steps
    assert uneven[:3] == pytest.approx([0.4 / 3, 0.8 / 3, 0.4])
    assert max(uneven) == pytest.approx(0.4)


# One training step against the equations


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def cross_entropy(logits, labels):
    return -np.mean([log_softmax(logits)[i, y] for i, y in enumerate(labels)])


def kl_per_image(clean, adversarial):
    log_p, log_q = log_softmax(clean), log_softmax(adversarial)
    return (np.exp(log_p) * (log_p - log_q)).sum(1)


def mart(clean, adversarial, labels, weight):
    p, q = np.exp(log_softmax(clean)), np.exp(log_softmax(adversarial))
    total = 0.0
    for i, y in enumerate(labels):
        runner_up = max(q[i, k] for k in range(q.shape[1]) if k != y)
        boosted = -np.log(q[i, y]) - np.log(1 - runner_up)
        total += boosted + weight * kl_per_image(clean, adversarial)[i] * (1 - p[i, y])
    return total / len(labels)


def contrastive(z, labels, temperature, beta):
    """Equations 1 and 2, one anchor and one positive at a time."""
    terms = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if not positives:
            continue
        hardness = [math.exp(-beta * (z[i] @ z[p])) for p in positives]
        normaliser = math.log(sum(math.exp(z[i] @ z[a] / temperature) for a in others))
        terms.append(
            -sum(
                w / sum(hardness) * (z[i] @ z[p] / temperature - normaliser)
                for w, p in zip(hardness, positives, strict=True)
            )
        )
    return np.mean(terms)


class Step:
    """One call of `batch_loss` on random images, with everything that passed through it written down."""

    def __init__(self, config):
        random = torch.Generator().manual_seed(1)
        self.images = torch.randint(0, 256, (8, 1, 6, 6), generator=random, dtype=torch.uint8)
        self.labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 3])
        to_logits, to_embeddings = torch.randn(36, 4, generator=random), torch.randn(36, 5, generator=random)
        self.passes, self.attacked = [], []

        def forward(images):
            self.logits, z = images.flatten(1) @ to_logits, images.flatten(1) @ to_embeddings
            self.embeddings = nn.functional.normalize(z) if config.method in CONTRASTIVE else None
            self.passes.append(images)
            return self.logits, self.embeddings

        def attack(images, labels, loss="ce"):
            self.attacked.append((images, labels, loss))
            return 0.5 * images + 0.25

        self.loss, self.parts, self.counted, self.counted_labels = batch_loss(
            config, forward, attack, self.images, self.labels, torch.Generator().manual_seed(2)
        )
        (self.input,) = self.passes  # one forward pass, whatever the method


def step_config(method, **changes):
    return Config(method=method, crop_padding=1, **changes)


def assert_a_view(step, view):
    """An augmentation, scaled to [0, 1]: each image a shifted copy of the original."""
    padded = nn.functional.pad(step.images.float() / 255, (1, 1, 1, 1))
    crops = torch.stack([padded[..., i : i + 6, j : j + 6] for i in range(3) for j in range(3)])
    assert (crops == view).flatten(2).all(2).any(0).all()


def test_standard_step():
    step = Step(step_config("standard"))
    assert_a_view(step, step.input)
    assert not step.attacked
    assert step.loss.item() == pytest.approx(cross_entropy(step.logits.numpy(), step.labels), rel=1e-5)


def test_pgd_at_step():
    step = Step(step_config("pgd_at"))
    ((view, labels, loss),) = step.attacked
    assert_a_view(step, view)
    assert torch.equal(labels, step.labels)
    assert loss == "ce"
    assert torch.equal(step.input, 0.5 * view + 0.25)
    assert step.loss.item() == pytest.approx(cross_entropy(step.logits.numpy(), step.labels), rel=1e-5)


@pytest.mark.parametrize(("method", "inner_loss"), [("trades", "kl"), ("mart", "ce")])
def test_trades_and_mart_steps(method, inner_loss):
    config = step_config(method, trades_beta=4.0, mart_beta=3.0)
    step = Step(config)
    ((view, labels, loss),) = step.attacked
    assert_a_view(step, view)
    assert torch.equal(labels, step.labels)
    assert loss == inner_loss
    assert torch.equal(step.input, torch.cat([view, 0.5 * view + 0.25]))  # both in one pass of 2N
    clean, adversarial = np.split(step.logits.double().numpy(), 2)
    if method == "trades":
        expected = cross_entropy(clean, step.labels) + 4.0 * kl_per_image(clean, adversarial).mean()
    else:
        expected = mart(clean, adversarial, step.labels, 3.0)
    assert step.loss.item() == pytest.approx(expected, rel=1e-4)
    assert torch.equal(step.counted, step.logits[8:])


@pytest.mark.parametrize("classifier_view", ["adversarial", "both"])
@pytest.mark.parametrize(("method", "beta"), [("anchor", 2.0), ("supcon_at", 0.0)])
def test_anchor_step(method, beta, classifier_view):
    config = step_config(method, beta=2.0, temperature=0.2, contrastive_weight=0.7, classifier_view=classifier_view)
    step = Step(config)
    ((second_view, labels, loss),) = step.attacked
    assert torch.equal(labels, step.labels)
    assert loss == "ce"
    first, second = step.input.chunk(2)  # both in one pass of 2N
    assert_a_view(step, first)
    assert_a_view(step, second_view)
    assert not torch.equal(first, second_view)
    assert torch.equal(second, 0.5 * second_view + 0.25)
    both = step.labels.repeat(2)
    if classifier_view == "both":
        ce = cross_entropy(step.logits.numpy(), both)
    else:
        ce = cross_entropy(step.logits[8:].numpy(), step.labels)
    term = contrastive(step.embeddings.double().numpy(), both.tolist(), 0.2, beta)
    assert step.parts["cross_entropy"].item() == pytest.approx(ce, rel=1e-5)
    assert step.parts["contrastive"].item() == pytest.approx(term, rel=1e-5)
    assert step.loss.item() == pytest.approx(ce + 0.7 * term, rel=1e-5)
    assert len(step.counted) == len(step.counted_labels) == (16 if classifier_view == "both" else 8)


def test_plain_supcon_step_sees_two_clean_views():
    step = Step(step_config("supcon", temperature=0.2, contrastive_weight=0.7, beta=2.0))
    assert not step.attacked
    first, second = step.input.chunk(2)
    assert_a_view(step, first)
    assert_a_view(step, second)
    assert not torch.equal(first, second)
    both = step.labels.repeat(2).tolist()
    expected = cross_entropy(step.logits.numpy(), both)
    expected += 0.7 * contrastive(step.embeddings.double().numpy(), both, 0.2, 0.0)
    assert step.loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("method", "reaches_encoder"), [("supcon", False), ("supcon_at", True), ("anchor", True)])
def test_classifier_shapes_the_encoder_except_in_plain_supcon(few_digits, method, reaches_encoder):
    model = models.AnchorNet(10, 2, 1, 8)
    logits, _ = training._Heads(model, method, torch.float32)(few_digits.train[:4].inputs())
    logits.square().sum().backward()
    assert model.classifier.weight.grad.abs().sum() > 0
    assert (model.stem[0].weight.grad is not None) == reaches_encoder


# The inner problem


class Recorded:
    """Stands in for `pgd` and writes down what it is called with."""

    def __init__(self, monkeypatch):
        self.calls = []
        monkeypatch.setattr(training, "pgd", self)

    def __call__(self, model, images, labels, **arguments):
        self.calls.append((model, arguments))
        return images


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_attack_mode_is_handed_on(tiny, few_digits, tmp_path, monkeypatch, mode):
    recorded = Recorded(monkeypatch)
    modes = []
    batch_loss = training.batch_loss

    def spy(*arguments):
        result = batch_loss(*arguments)
        modes.append(recorded.calls[-1][0].training)
        return result

    monkeypatch.setattr(training, "batch_loss", spy)
    config = tiny.replace(method="pgd_at", attack_mode=mode, epochs=1, precision="bfloat16")
    fit(config, path=tmp_path, dataset=few_digits, progress=False)
    assert len(recorded.calls) == 5
    assert modes == [mode == "train"] * 5
    for target, arguments in recorded.calls:
        assert arguments["model_mode"] == ("unchanged" if mode == "train" else "eval")
        assert any(isinstance(module, nn.BatchNorm2d) for module in target.modules()) == (mode == "train")
        assert (arguments["epsilon"], arguments["step_size"], arguments["steps"]) == (0.3, 0.1, 2)
        assert arguments["precision"] == "bfloat16"


def inner_problem(model, config):
    return training._inner_problem(model, config, torch.Generator().manual_seed(0), 1.0)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(("method", "loss"), [("pgd_at", "ce"), ("trades", "kl")])
def test_inner_problem_leaves_the_network_as_it_is(tiny, few_digits, method, loss, mode):
    model = models.AnchorNet(10, 2, 1, 0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = few_digits.train[:8].inputs(), few_digits.train.labels[:8]
    adversarial = inner_problem(model, tiny.replace(method=method, attack_mode=mode))(x, y, loss=loss)
    assert 0.2 < (adversarial - x).abs().max() <= 0.3 + 1e-6
    assert same(model.state_dict(), before)  # BatchNorm statistics too
    assert all(module.training for module in model.modules())


def test_trades_attack_moves_away_from_the_clean_prediction(tiny, few_digits):
    torch.manual_seed(0)
    model = models.AnchorNet(10, 2, 1, 0).eval()
    x, y = few_digits.train[:32].inputs(), few_digits.train.labels[:32]
    config = tiny.replace(method="trades", attack_steps=5)
    adversarial = inner_problem(model, config)(x, y, loss="kl")
    noisy = inner_problem(model, config.replace(step_size=1e-6))(x, y, loss="kl")

    def divergence(images):
        return kl_per_image(*(model(i).detach().double().numpy() for i in (x, images))).mean()

    assert divergence(adversarial) > 1.2 * divergence(noisy)
    assert torch.equal(inner_problem(model, config)(x, 9 - y, loss="kl"), adversarial)  # labels play no part in it


def test_epsilon_warmup_rises_linearly(tiny, few_digits, tmp_path, monkeypatch):
    recorded = Recorded(monkeypatch)
    fit(tiny.replace(method="pgd_at", epsilon_warmup=0.5), path=tmp_path, dataset=few_digits, progress=False)
    radii = [arguments["epsilon"] for _, arguments in recorded.calls]
    assert radii == pytest.approx([0.3 * min(1, k / 6) for k in range(1, 11)])
    assert [arguments["step_size"] for _, arguments in recorded.calls] == pytest.approx([r / 3 for r in radii])


# Whole runs


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finishes_and_writes_its_files(tiny, few_digits, tmp_path, method):
    config = tiny.replace(method=method, epochs=1, runs_dir=str(tmp_path))
    run = fit(config, dataset=few_digits, progress=False)
    assert run.path == tmp_path / config.run_name()
    assert {file.name for file in run.path.iterdir()} == FILES
    row = run.metrics().iloc[-1]
    assert (row["epoch"], row["step"]) == (1, 5)
    assert ("contrastive" in row) == (method in CONTRASTIVE)
    if method in CONTRASTIVE:
        assert row["loss"] == pytest.approx(row["cross_entropy"] + row["contrastive"], rel=1e-5)
    assert 0 <= row["robust_accuracy"] <= row["clean_accuracy"] <= 1
    assert run.model().metadata["method"] == method
    assert json.loads((run.path / "config.json").read_text())["config"] == config.model_dump()


def test_network_fits_the_data(tiny_run, few_digits):
    architecture = tiny_run.model().architecture
    assert (architecture["num_classes"], architecture["in_channels"], architecture["width"]) == (10, 1, 2)
    assert (architecture["mean"], architecture["std"]) == (list(few_digits.mean), list(few_digits.std))


def test_the_same_configuration_gives_the_same_bits(tiny, tiny_run, few_digits, tmp_path):
    torch.manual_seed(99)  # the caller's randomness plays no part, and is left alone
    state = torch.get_rng_state()
    again = fit(tiny, path=tmp_path / "again", dataset=few_digits, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(weights(again), weights(tiny_run))
    assert same(weights(again, "best"), weights(tiny_run, "best"))
    assert again.metrics().drop(columns="seconds").equals(tiny_run.metrics().drop(columns="seconds"))
    other = fit(tiny.replace(seed=1), path=tmp_path / "other", dataset=few_digits, progress=False)
    assert not same(weights(other), weights(tiny_run))


@pytest.mark.parametrize("stop_at", [2, 7])
def test_interrupted_run_resumes_to_the_same_bits(tiny, tiny_run, few_digits, tmp_path, monkeypatch, stop_at):
    original, calls = training.batch_loss, itertools.count()

    def interrupted(*arguments):
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return original(*arguments)

    path = tmp_path / "run"
    monkeypatch.setattr(training, "batch_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny, path=path, dataset=few_digits, progress=False)
    assert not (path / "last.safetensors").exists()
    assert (path / "resume.safetensors").exists() == (stop_at >= 5)

    calls = itertools.count(100)
    run = fit(tiny, path=path, dataset=few_digits, progress=False)
    assert next(calls) == (105 if stop_at >= 5 else 110)  # the first epoch, once finished, is not trained again
    assert {file.name for file in path.iterdir()} == FILES
    assert same(weights(run), weights(tiny_run))
    assert same(weights(run, "best"), weights(tiny_run, "best"))
    assert run.metrics().drop(columns="seconds").equals(tiny_run.metrics().drop(columns="seconds"))


def test_the_state_of_another_run_is_not_taken_up(tiny, few_digits, tmp_path, monkeypatch):
    original, calls = training.batch_loss, itertools.count()

    def interrupted(*arguments):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "batch_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny, path=tmp_path, dataset=few_digits, progress=False)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds a run with other values of \['seed'\]"):
        fit(tiny.replace(seed=1), path=tmp_path, dataset=few_digits, progress=False)


def test_accelerates_own_settings_do_not_change_what_is_trained(tiny, tiny_run, few_digits, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert same(weights(fit(tiny, path=tmp_path, dataset=few_digits, progress=False)), weights(tiny_run))


def test_another_data_set_than_the_configurations_is_refused(tiny, few_digits, tmp_path):
    config = tiny.replace(dataset="cifar10", runs_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"dataset.name='mnist5k': allowed is that of the configuration, 'cifar10'"):
        fit(config, dataset=few_digits, progress=False)


def test_every_epoch_is_kept_on_request(tiny, tiny_run, few_digits, tmp_path):
    config = tiny.replace(keep_epochs=True, runs_dir=str(tmp_path))
    assert config.training_fields() == tiny.training_fields()
    run = fit(config, dataset=few_digits, progress=False)
    assert {file.name for file in run.path.iterdir()} == FILES | {f"epoch-00{n}.safetensors" for n in (0, 1, 2)}
    assert same(run.model(2).state_dict(), weights(tiny_run)), "keeping epochs changed the training"
    assert not same(run.model(1).state_dict(), weights(tiny_run))
    untrained = run.model(0)
    assert untrained.metadata["epoch"] == 0
    assert all((m.running_mean == 0).all() for m in untrained.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_hardness_entropy_is_logged_as_a_share_of_supcons(tiny, few_digits, tmp_path):
    means = {}
    for beta in (0.0, 2.0, 50.0):
        config = tiny.replace(beta=beta, epochs=1, runs_dir=str(tmp_path))
        means[beta] = fit(config, dataset=few_digits, progress=False).metrics()["hardness_entropy"].item()
    assert means[0.0] == pytest.approx(1)
    assert 0 < means[50.0] < means[2.0] < 1


def test_finished_run_is_not_trained_again(tiny, tiny_run, monkeypatch):
    monkeypatch.setattr(training, "_train", forbidden)
    again = fit(tiny.replace(test_images=7), path=tiny_run.path)  # what is evaluated does not matter
    assert same(weights(again), weights(tiny_run))


def test_folder_of_another_run_is_refused(tiny, tiny_run, monkeypatch):
    monkeypatch.setattr(training, "_train", forbidden)
    with pytest.raises(ValueError, match=r"holds a run with other values of \['beta', 'seed'\]; choose another"):
        fit(tiny.replace(seed=1, beta=0.5), path=tiny_run.path)


def test_configuration_that_does_not_fit_the_data_is_refused(tiny, few_digits, tmp_path):
    with pytest.raises(ValueError, match=r"batch_size=161: allowed is up to 160"):
        fit(tiny.replace(batch_size=161), path=tmp_path, dataset=few_digits, progress=False)
    with pytest.raises(ValueError, match=r"test_images=1001: allowed is 1 to 1000"):
        fit(tiny.replace(test_images=1001), path=tmp_path, progress=False)
    parts = {
        part: Split(s.images, 0 * s.labels) for part, s in (("train", few_digits.train), ("test", few_digits.test))
    }
    one_class = dataclasses.replace(few_digits, **parts, classes=("0",))
    with pytest.raises(ValueError, match=r"dataset='mnist5k': allowed are 2 classes or more, this has 1"):
        fit(tiny, path=tmp_path, dataset=one_class, progress=False)
    assert not list(tmp_path.iterdir())


def test_all_that_does_not_fit_the_data_is_said_at_once(tiny):
    config = tiny.replace(train_images=5000, validation_images=4500, batch_size=4500, test_images=1001)
    with pytest.raises(ValueError, match="test_images") as caught:
        training.load_data(config)
    assert str(caught.value).split("; ") == [
        "train_images=5000: allowed is 1 to 4000, the training images there are",
        "validation_images=4500: allowed is 1 to 3999, below the number of training images",
        "batch_size=4500: allowed is up to 3999, the training images left beside validation",
        "test_images=1001: allowed is 1 to 1000, the images there are",
    ]


def test_a_data_set_with_another_number_of_training_images_is_refused(tiny, digits, tmp_path):
    with pytest.raises(ValueError, match="dataset has 4000 training images: allowed is train_images=200"):
        fit(tiny, path=tmp_path / "run", dataset=digits, progress=False)


@pytest.mark.parametrize(("method", "chosen"), [("pgd_at", 3), ("standard", 5)])
def test_best_checkpoint_has_the_highest_held_out_accuracy(tiny, few_digits, tmp_path, monkeypatch, method, chosen):
    # (robust, clean). Robust accuracy decides, then clean accuracy, then the earlier epoch; for methods that are
    # trained on clean images, which are never robust, clean accuracy decides.
    scores = [(0.1, 0.9), (0.5, 0.5), (0.5, 0.6), (0.5, 0.6), (0.3, 1.0), (0.2, 0.7)]
    remaining = iter(scores)

    def scripted(*_):
        robust, clean = next(remaining)
        return {"clean_accuracy": clean, "robust_accuracy": robust}

    monkeypatch.setattr(training, "_validate", scripted)
    config = tiny.replace(method=method, epochs=len(scores), attack_steps=1)
    run = fit(config, path=tmp_path, dataset=few_digits, progress=False)
    best, last = run.model("best").metadata, run.model("last").metadata
    assert (best["epoch"], last["epoch"]) == (chosen, 6)
    assert (best["robust_accuracy"], best["clean_accuracy"]) == scores[chosen - 1]
    assert run.metrics()["robust_accuracy"].tolist() == [robust for robust, _ in scores]
    assert not same(weights(run, "best"), weights(run, "last"))


def test_scores_are_those_of_the_checkpoint_on_held_out_images(tiny, tiny_run, few_digits):
    best = tiny_run.model("best")
    held_out = few_digits.hold_out(40)[1]
    with torch.no_grad():
        clean = best(held_out.inputs()).argmax(1).eq(held_out.labels).float().mean().item()
    row = tiny_run.metrics().set_index("epoch").loc[best.metadata["epoch"]]
    assert row["clean_accuracy"] == pytest.approx(clean)
    ranking = list(zip(tiny_run.metrics()["robust_accuracy"], tiny_run.metrics()["clean_accuracy"], strict=True))
    assert best.metadata["epoch"] == 1 + ranking.index(max(ranking))


def test_test_images_decide_nothing_and_held_out_ones_are_not_trained_on(
    tiny, tiny_run, few_digits, tmp_path, monkeypatch
):
    trained_on, original = Counter(), training.batch_loss

    def spy(config, forward, attack, images, *rest):
        trained_on.update(image.numpy().tobytes() for image in images)
        return original(config, forward, attack, images, *rest)

    monkeypatch.setattr(training, "batch_loss", spy)
    other = dataclasses.replace(few_digits, test=Split(255 - few_digits.test.images, 9 - few_digits.test.labels))
    run = fit(tiny, path=tmp_path, dataset=other, progress=False)
    finetune(run, dataset=other, progress=False)
    assert same(weights(run, "best"), weights(tiny_run, "best")), "the test images decided something"
    rest, held_out = few_digits.hold_out(tiny.validation_images)
    assert set(trained_on) == {image.numpy().tobytes() for image in rest.train.images}
    assert not set(trained_on) & {image.numpy().tobytes() for image in held_out.images}
    assert set(trained_on.values()) == {3}  # each once an epoch: two epochs and one of fine-tuning


def test_a_network_learns(standard_run):
    metrics = standard_run.metrics()
    assert metrics["loss"].iloc[-1] < 0.3 < 0.7 < metrics["loss"].iloc[0]
    assert metrics["clean_accuracy"].iloc[-1] > 0.85


def test_adversarial_training_makes_a_network_robust(standard_run, robust_run):
    assert robust_run.metrics()["robust_accuracy"].max() > standard_run.metrics()["robust_accuracy"].max() + 0.3
    assert robust_run.metrics()["clean_accuracy"].iloc[-1] > 0.8


# Losses that are not finite


@pytest.mark.parametrize(("step", "epoch"), [(0, 1), (7, 2)])
def test_loss_that_is_not_finite_stops_the_run(tiny, few_digits, tmp_path, monkeypatch, step, epoch):
    original, calls = training.batch_loss, itertools.count()

    def poisoned(*arguments):
        loss, *rest = original(*arguments)
        return loss * (float("nan") if next(calls) == step else 1.0), *rest

    monkeypatch.setattr(training, "batch_loss", poisoned)
    config = tiny.replace(method="standard", schedule="constant", warmup=0, learning_rate=0.0123)
    with pytest.raises(FloatingPointError) as caught:
        fit(config, path=tmp_path, dataset=few_digits, progress=False)
    message = str(caught.value)
    assert f"nan at step {step} of 10 (epoch {epoch})" in message
    assert "learning rate 0.0123" in message
    good = str(tmp_path / "best.safetensors") if epoch > 1 else "none yet"
    assert f"last good checkpoint: {good}" in message


@pytest.mark.parametrize("batch_size", [32, 160])
def test_a_run_that_diverges_leaves_no_useless_checkpoint(tiny, few_digits, tmp_path, batch_size):
    # With 160 there is one step an epoch, and the network is ruined when the epoch ends.
    config = tiny.replace(method="standard", warmup=0, learning_rate=1e25, batch_size=batch_size)
    with pytest.raises(FloatingPointError, match=r"learning rate .*last good checkpoint"):
        fit(config, path=tmp_path, dataset=few_digits, progress=False)
    for file in tmp_path.glob("*.safetensors"):
        if file.name != "resume.safetensors":
            assert models.load(file)(few_digits.train[:4].inputs()).isfinite().all()


# Fine-tuning


@pytest.mark.parametrize("adversarial", [True, False])
def test_finetuning_trains_the_classifier_and_nothing_else(tiny_run, few_digits, monkeypatch, adversarial):
    attacks = []
    original = training.pgd
    monkeypatch.setattr(training, "pgd", lambda *a, **k: attacks.append(k) or original(*a, **k))
    before = {file.name: file.read_bytes() for file in tiny_run.path.iterdir() if file.is_file()}
    tuned = finetune(tiny_run, adversarial=adversarial, dataset=few_digits, progress=False)
    assert bool(attacks) == adversarial

    assert tuned.path.parent == tiny_run.path
    assert tuned.path.name.startswith("finetune-" if adversarial else "probe-")
    assert {file.name: file.read_bytes() for file in tiny_run.path.iterdir() if file.is_file()} == before
    start, end = weights(tiny_run, "best"), weights(tuned, "last")
    encoder = {name for name in start if not name.startswith(("classifier", "projection"))}
    assert any("running_mean" in name for name in encoder)
    assert set(end) == encoder | {"classifier.weight", "classifier.bias"}  # no projection head
    assert all(torch.equal(start[name], end[name]) for name in encoder)
    assert not torch.equal(start["classifier.weight"], end["classifier.weight"])
    assert tuned.model().projection is None

    monkeypatch.setattr(training, "_train", forbidden)
    assert finetune(tiny_run, adversarial=adversarial).path == tuned.path


def test_finetuning_starts_from_a_new_classifier_and_learns(robust_run, small_digits):
    config = robust_run.config.replace(finetune_epochs=1, finetune_learning_rate=0.2)
    tuned = finetune(robust_run, config, adversarial=False, dataset=small_digits, progress=False)
    assert tuned.metrics()["clean_accuracy"].iloc[-1] > 0.8
    other = finetune(robust_run, config.replace(finetune_learning_rate=0.1), dataset=small_digits, progress=False)
    assert other.path != tuned.path


# The command


def command(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=120, check=False
    )


def pairs(fields):
    return [word for name, value in fields.items() for word in ("-p", name, str(value))]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "smok"], ["preset 'smok'", "did you mean 'smoke'"]),
        (["--preset", "smoke", "-p", "epsilon", "8/255"], ["epsilon='8/255'", "number"]),
        (["--preset", "smoke", "-p", "method", "ancor"], ["method='ancor'", "'anchor'"]),
        (["--preset", "smoke", "-p", "dataset", "imagefolder:/nowhere"], ["missing folder '/nowhere'", "PATH/train"]),
    ],
)
def test_command_refuses_bad_parameters(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_train", forbidden)
    assert main([*arguments, "--run-dir", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert not printed.out
    for word in words:
        assert word in printed.err


def test_command_refuses_bad_parameters_before_torch_is_loaded():
    code = (
        "import sys; from anchor_utils.train import main; code = main(sys.argv[1:]); assert 'torch' not in sys.modules"
    )
    result = command("-c", f"{code}; sys.exit(code)", "--preset", "smoke", "-p", "epoch", "3")
    assert result.returncode == 2
    assert result.stderr.startswith("error: unknown parameter 'epoch'; did you mean 'epochs'?")
    assert "Traceback" not in result.stderr


def test_command_trains_into_the_folder(tmp_path, capsys):
    fields = {"method": "standard", "train_images": 100, "validation_images": 20, "width": 1, "device": "cpu"}
    arguments = ["--preset", "smoke", *pairs(fields), "--run-dir", str(tmp_path)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == FILES
    assert main([*arguments, "-p", "seed", "1"]) == 2
    assert "other values of ['seed']" in capsys.readouterr().err


# Several processes


def test_two_processes_take_one_step_on_one_batch(tmp_path):
    # Without crop and radius nothing in it is random, and it can be computed here, too.
    random = np.random.default_rng(0)
    for part, name in itertools.product(("train", "test"), "abcd"):
        (tmp_path / "data" / part / name).mkdir(parents=True)
        for i in range(21):
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(
                tmp_path / "data" / part / name / f"{i}.png"
            )
    fields = {"dataset": f"imagefolder:{tmp_path}/data", "train_images": 84, "validation_images": 20, "batch_size": 64}
    fields |= {"method": "anchor", "epochs": 1, "crop_padding": 0, "epsilon": 0, "attack_steps": 1, "warmup": 0}
    fields |= {"beta": 3.0, "width": 2, "precision": "float32", "device": "cpu", "data_root": str(tmp_path)}
    # torchrun, because `accelerate launch --cpu` starts one process whatever --num_processes says.
    launch = "-m torch.distributed.run --standalone --nproc_per_node 2 -m anchor_utils.train --preset smoke"
    result = command(*launch.split(), *pairs(fields), "--run-dir", str(tmp_path / "run"))
    assert result.returncode == 0, result.stderr[-3000:]
    assert {file.name for file in (tmp_path / "run").iterdir()} == FILES

    config = load_preset("smoke", **fields)
    dataset = training.load_data(config)
    train = dataset.hold_out(20)[0].train
    torch.manual_seed(config.seed)
    model = models.AnchorNet(4, 2, 3, config.projection_dim, dataset.mean, dataset.std, config.stem_stride).train()
    heads = training._Heads(model, "anchor", torch.float32)
    chosen = torch.randperm(64, generator=training._generator(config.seed, 0))
    cross_entropies, embeddings, labels = [], [], []
    for rank in range(2):  # each has its half of the batch, and its own BatchNorm statistics
        half = train[chosen[rank::2]]
        logits, z = heads(half.inputs().repeat(2, 1, 1, 1))
        cross_entropies.append(nn.functional.cross_entropy(logits[32:], half.labels))
        embeddings.append(z)
        labels.append(half.labels.repeat(2))
    contrast = losses.hard_positive_supcon_loss(torch.cat(embeddings), torch.cat(labels), beta=3.0)
    optimizer = torch.optim.SGD(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    (sum(cross_entropies) / 2 + config.contrastive_weight * contrast).backward()
    optimizer.step()

    (row,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    # Positives and negatives come from both processes.
    assert row["contrastive"] == pytest.approx(contrast.item(), rel=1e-4)
    trained = dict(models.load(tmp_path / "run" / "last.safetensors").named_parameters())
    for name, value in model.named_parameters():
        torch.testing.assert_close(trained[name], value, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_batch_must_divide_among_the_processes(tiny, few_digits, tmp_path, monkeypatch):
    class ThreeProcesses:
        num_processes = 3

    monkeypatch.setattr(training, "_accelerator", lambda config: ThreeProcesses())
    with pytest.raises(ValueError, match=r"batch_size=32: allowed is a multiple of the number of processes, 3"):
        fit(tiny, path=tmp_path / "run", dataset=few_digits, progress=False)
    assert not (tmp_path / "run").exists()


def test_an_interrupted_command_says_that_it_can_go_on(monkeypatch, capsys, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", stop)
    assert main(["--preset", "smoke", "--run-dir", str(tmp_path)]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--preset", "smoke", "--run-dir", str(tmp_path / "file" / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(tmp_path / "file") in error
