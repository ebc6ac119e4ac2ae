"""Attacks query a copy with folded BatchNorm; the network that was given decides, and is left as it was."""

import copy
import json

import pytest
import torch
from conftest import TinyNet
from samples import same
from torch import nn
from torch.nn.utils import parametrizations

from anchor_utils import outcomes
from anchor_utils.autoattack import square_outcomes
from anchor_utils.evaluation import evaluate
from anchor_utils.folding import foldable, for_attack
from anchor_utils.masking import gradient_masking_checks
from anchor_utils.models import AnchorNet, checksum, fold_batchnorm
from anchor_utils.outcomes import clean_outcomes, pgd_outcomes

ATTACK = {"epsilon": 0.1, "step_size": 0.02, "steps": 5}


@pytest.fixture
def model(standard_run) -> AnchorNet:
    return standard_run.model()


def small() -> AnchorNet:
    torch.manual_seed(0)
    return AnchorNet(width=2, projection_dim=4)


# Which networks


def test_a_network_as_it_was_built_is_folded_to_the_same_function():
    model, images = small().eval(), torch.rand(4, 3, 16, 16)
    queried = for_attack(model)
    assert foldable(model)
    assert isinstance(queried, AnchorNet)
    assert isinstance(queried.stem[1], nn.Identity)
    torch.testing.assert_close(queried(images), model(images), atol=1e-5, rtol=1e-5)
    assert for_attack(queried) is queried  # there is nothing left to fold
    assert foldable(AnchorNet(width=2, projection_dim=0, in_channels=1, stem_stride=2))
    assert foldable(small().double())


class Wrapped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images)


class Changed(AnchorNet):
    """A subclass may compute anything."""


def with_layer(name, layer):
    model = small()
    model.set_submodule(name, layer)
    return model


def changed_by(change, model=None):
    model = model or small()
    change(model)
    return model


OTHERS = {
    "another network": TinyNet,
    "a wrapper": lambda: Wrapped(small()),
    "a subclass": lambda: Changed(width=2),
    "a replaced norm": lambda: with_layer("stem.1", nn.GroupNorm(1, 2)),
    "a replaced convolution": lambda: with_layer("stem.0", nn.Sequential(nn.Conv2d(3, 2, 3, padding=1))),
    "a replaced classifier": lambda: with_layer("classifier", nn.Sequential(nn.Linear(16, 10))),
    "an added layer": lambda: changed_by(lambda m: m.add_module("more", nn.ReLU())),
    "batch statistics": lambda: with_layer("stem.1", nn.BatchNorm2d(2, track_running_stats=False)),
    "a parametrised weight": lambda: changed_by(lambda m: parametrizations.weight_norm(m.stem[0])),
    "a hook": lambda: changed_by(lambda m: m.stages[1].register_forward_hook(lambda *_: None)),
    "a hook before": lambda: changed_by(lambda m: m.register_forward_pre_hook(lambda *_: None)),
    "a backward hook": lambda: changed_by(lambda m: m.stem.register_full_backward_hook(lambda *_: None)),
    "a forward of its own": lambda: changed_by(lambda m: setattr(m, "forward", lambda images: images)),
    "an encoder of its own": lambda: changed_by(lambda m: setattr(m, "encode", lambda images: images)),
    "a compiled one": lambda: changed_by(lambda m: m.compile()),
    "half precision": lambda: small().bfloat16(),
}


@pytest.mark.parametrize("build", OTHERS.values(), ids=OTHERS.keys())
def test_any_other_network_is_attacked_as_it_is(build):
    model = build()
    assert not foldable(model)
    assert for_attack(model) is model


def test_a_hook_sees_the_attack(model, few):
    seen = []
    handle = model.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    pgd_outcomes(model, few.inputs(), few.labels, **ATTACK)
    assert seen.count(True) == ATTACK["steps"]
    handle.remove()
    pgd_outcomes(model, few.inputs(), few.labels, **ATTACK)
    assert seen.count(True) == ATTACK["steps"]


# Outcomes


def test_outcomes_are_those_of_the_network_folded_by_hand(model, few):
    attacks = ("clean", "noise", "fgsm", "pgd", "screen")
    ours, by_hand = (evaluate(net, few, attacks, **ATTACK) for net in (model, fold_batchnorm(model)))
    assert ours.drop(columns="seconds").equals(by_hand.drop(columns="seconds"))
    accuracy = ours.set_index("attack")["accuracy"]
    assert accuracy["clean"] > accuracy["fgsm"] > accuracy["pgd"] >= accuracy["screen"]  # there is something to compare


def test_masking_checks_find_the_same(model, robust_run, few):
    nets = (model, robust_run.model())
    settings = {"epsilon": 0.05, "steps": 3, "square_queries": 20}
    ours, by_hand = (
        gradient_masking_checks(net, few.inputs(), few.labels, surrogate=other, **settings)
        for net, other in (nets, map(fold_batchnorm, nets))
    )
    assert ours.equals(by_hand)


def test_gradients_come_from_the_copy_and_verdicts_from_the_network(model, few, monkeypatch):
    """The network itself never computes a gradient, and the copy is never the last to be asked."""
    asked, forward = [], AnchorNet.forward

    def noted(self, images):
        asked.append((self is model, torch.is_grad_enabled()))
        assert self is model or isinstance(self.stem[1], nn.Identity)
        return forward(self, images)

    monkeypatch.setattr(AnchorNet, "forward", noted)
    x, y = few.inputs()[:20], few.labels[:20]
    for attack in ("fgsm", "pgd", "screen"):
        evaluate(model, few, (attack,), **ATTACK, images=20)
        assert asked[-1] == (True, False)
        assert (False, True) in asked
        assert (True, True) not in asked
        asked.clear()
    square_outcomes(model, x, y, epsilon=0.1, queries=5)
    assert asked[-1] == (True, False)
    assert asked.count((False, False)) > 1
    asked.clear()
    gradient_masking_checks(model, x, y, epsilon=0.1, steps=2, square_queries=5, surrogate=model)
    assert (False, True) in asked
    assert (True, True) not in asked


def test_what_only_the_copy_misreads_counts_as_robust(model, few, monkeypatch):
    """A copy that misreads every image: the attack believes it at once, and the network that was given does not."""

    class Liar(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, images):
            return -self.model(images)

    monkeypatch.setattr(outcomes, "for_attack", Liar)
    x, y = few.inputs(), few.labels
    right = clean_outcomes(model, x, y)
    assert right.any()
    assert torch.equal(pgd_outcomes(model, x, y, epsilon=0.001, step_size=0.0001, steps=1), right)


# What is left behind


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_network_and_the_random_state_are_left_as_they_were(model, few, training):
    model.train(training)
    model.stages[2].train(not training)  # not all alike
    model.classifier.weight.requires_grad_(False)
    model.stem[0].weight.grad = torch.ones_like(model.stem[0].weight)
    before, state = copy.deepcopy(model), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    table = evaluate(model, few, ("clean", "fgsm", "pgd", "screen"), **ATTACK, images=20)
    gradient_masking_checks(model, few.inputs()[:8], few.labels[:8], epsilon=0.1, steps=2, square_queries=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert same(model.state_dict(), before.state_dict())
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["stem.0.weight"]
    assert torch.equal(model.stem[0].weight.grad, torch.ones_like(model.stem[0].weight))
    again = evaluate(model.eval(), few, ("clean", "fgsm", "pgd", "screen"), **ATTACK, images=20)
    assert table.drop(columns="seconds").equals(again.drop(columns="seconds"))


# Going on


def test_the_file_is_that_of_the_network_that_was_given(model, few, tmp_path):
    path = tmp_path / "kept.json"
    first = evaluate(model, few, ("pgd",), **ATTACK, resume=path)
    identity = json.loads(path.read_text())["identity"]
    assert identity["network"] == checksum(model.state_dict(), {"network": repr(model)})[:16]
    assert evaluate(model, few, ("pgd",), **ATTACK, resume=path).equals(first)
    with pytest.raises(ValueError, match=r"this one differs: .*network is"):
        evaluate(fold_batchnorm(model), few, ("pgd",), **ATTACK, resume=path)


def test_a_file_from_before_attacks_folded_is_refused_and_in_a_folder_left_alone(model, few, tmp_path, monkeypatch):
    path = tmp_path / "old.json"
    with monkeypatch.context() as before:
        before.setattr("anchor_utils.evaluation.foldable", lambda _: False)
        evaluate(model, few, ("pgd",), **ATTACK, resume=path)
        evaluate(model, few, ("pgd",), **ATTACK, resume=tmp_path / "folder")
    with pytest.raises(ValueError, match=r"this one differs: attacked is with BatchNorm folded, there None"):
        evaluate(model, few, ("pgd",), **ATTACK, resume=path)
    evaluate(model, few, ("pgd",), **ATTACK, resume=tmp_path / "folder")
    assert len(list((tmp_path / "folder").glob("*.json"))) == 2
    wrapped = evaluate(Wrapped(model), few, ("clean",), resume=tmp_path / "other.json")  # nothing folded, nothing said
    assert "attacked" not in json.loads((tmp_path / "other.json").read_text())["identity"]
    assert wrapped["accuracy"][0] > 0.8
