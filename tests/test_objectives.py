"""The objective of each method against its equations, and the inner problem."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from samples import same
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from anchor_utils import losses, models, objectives
from anchor_utils.config import METHODS, Config
from anchor_utils.objectives import Heads, InnerProblem, batch_loss
from anchor_utils.training import fit

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
            self.embeddings = nn.functional.normalize(z) if METHODS[config.method].contrastive else None
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


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if "label_smoothing" in row.fields])
def test_label_smoothing_mixes_the_outer_cross_entropy_with_that_of_a_uniform_guess(method):
    """(1 - a) CE( p, y ) + a CE( p, uniform ): of the clean half in TRADES, of what is counted in the others."""
    plain, smoothed = (Step(step_config(method, label_smoothing=a, contrastive_weight=0.7)) for a in (0.0, 0.2))
    logits, labels = (plain.logits[:8], plain.labels) if method == "trades" else (plain.counted, plain.counted_labels)
    log_p = logits.double().log_softmax(1)
    uniform, true = -log_p.mean(), -log_p[torch.arange(len(labels)), labels].mean()
    assert (smoothed.loss - plain.loss).item() == pytest.approx(0.2 * (uniform - true).item(), rel=1e-3)


def test_every_method_but_mart_can_smooth_labels():
    assert {name for name, row in METHODS.items() if "label_smoothing" not in row.fields} == {"mart"}


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
    logits, _ = Heads(model, method, torch.float32)(few_digits.train[:4].inputs())
    logits.square().sum().backward()
    assert model.classifier.weight.grad.abs().sum() > 0
    assert (model.stem[0].weight.grad is not None) == reaches_encoder


# The inner problem


class Recorded:
    """Stands in for `ascend` and writes down what it is called with, on which network, in which mode."""

    def __init__(self, monkeypatch):
        self.calls = []
        monkeypatch.setattr(objectives, "frozen", self.frozen)
        monkeypatch.setattr(objectives, "goal", self.goal)
        monkeypatch.setattr(objectives, "ascend", self.ascend)

    @contextmanager
    def frozen(self, target, mode):
        self.network = {"target": target, "mode": mode, "training": target.training}
        yield

    def goal(self, target, labels, loss, *, dtype):
        assert target is self.network["target"]
        self.network["dtype"] = dtype

    def ascend(self, climb, images, start, **arguments):
        self.calls.append(self.network | arguments)
        return images, None, torch.tensor(0)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_attack_mode_is_handed_on(tiny, few_digits, tmp_path, monkeypatch, mode):
    recorded = Recorded(monkeypatch)
    config = tiny.replace(method="pgd_at", attack_mode=mode, epochs=1, precision="bfloat16")
    fit(config, path=tmp_path, dataset=few_digits, progress=False)
    assert len(recorded.calls) == 5
    for call in recorded.calls:
        assert call["training"] == (mode == "train")
        assert call["mode"] == ("unchanged" if mode == "train" else "eval")
        layers = any(isinstance(module, nn.BatchNorm2d) for module in call["target"].modules())
        assert layers == (mode == "train")
        assert (call["epsilon"], call["step_size"], call["steps"]) == (0.3, 0.1, 2)
        assert call["dtype"] == torch.bfloat16


def inner_problem(model, config):
    return InnerProblem(model, config, torch.Generator().manual_seed(0))


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
    radii = [call["epsilon"] for call in recorded.calls]
    assert radii == pytest.approx([0.3 * min(1, k / 6) for k in range(1, 11)])
    assert [call["step_size"] for call in recorded.calls] == pytest.approx([r / 3 for r in radii])


# A core of tensors alone


@pytest.mark.parametrize("attack_mode", ["eval", "train"])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_in_a_step_looks_at_a_value(method, attack_mode):
    """Fake tensors have shapes and no values: whatever would wait for a GPU, or size a tensor by its values, raises."""
    config = Config(method=method, attack_steps=2, precision="float32", attack_mode=attack_mode, flip=True)
    model = models.AnchorNet(10, 2, 1, 8).train()
    generator = torch.Generator().manual_seed(0)
    attack = InnerProblem(model, config, generator)
    with FakeTensorMode(allow_non_fake_inputs=True):
        images, labels = torch.zeros(8, 1, 12, 12, dtype=torch.uint8), torch.zeros(8, dtype=torch.long)
        attack.refresh(1, 10)
        found = batch_loss(config, Heads(model, method), attack, images, labels, generator)
        found.loss.backward()
        with pytest.raises(DataDependentOutputException):
            found.loss.item()
        with pytest.raises(DynamicOutputShapeException):
            losses.trades_loss(torch.zeros(8, 10), torch.zeros(8, 10), labels)  # this looks at the labels


def test_an_unknown_loss_of_the_attack_is_refused(tiny, few_digits):
    attack = inner_problem(models.AnchorNet(10, 2, 1, 0), tiny.replace(method="pgd_at"))
    x, y = few_digits.train[:4].inputs(), few_digits.train.labels[:4]
    assert attack(x, y, loss="margin").shape == x.shape
    with pytest.raises(ValueError, match=r"loss='hinge': allowed are 'ce', 'margin', 'kl'"):
        attack(x, y, loss="hinge")


@pytest.mark.parametrize(("labels", "logged"), [([0, 1, 2, 3], 1.0), ([0, 0, 1, 2], 1.0), ([0, 0, 0, 1], None)])
def test_the_hardness_entropy_is_that_of_the_anchors_with_something_to_weigh(labels, logged):
    z = nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    if logged is None:  # three anchors with two positives each
        shares = []
        for i in range(3):
            w = torch.softmax(torch.stack([-5.0 * z[i] @ z[p] for p in range(3) if p != i]), 0)
            shares.append(-(w * w.log()).sum().item() / math.log(2))
        logged = sum(shares) / 3
    labels = torch.tensor(labels)
    entropy = losses.anchor_loss(torch.zeros(4, 4), labels, z, labels, beta=5.0).entropy
    found = objectives._hardness_entropy(entropy, labels)
    assert objectives.logged(found) == pytest.approx(logged, rel=1e-5)
