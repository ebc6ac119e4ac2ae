"""AutoAttack against the library called directly, its stages, and what it leaves behind."""

import sys

import pytest
import torch
from conftest import TinyNet
from torch import nn

from anchor_utils.autoattack import STAGES, autoattack_outcomes, autoattack_possible, screen_rows
from anchor_utils.evaluation import clean_outcomes, evaluate
from anchor_utils.models import resolve_precision
from anchor_utils.results import pack_outcomes


def called_directly(model, images, labels, stages):
    """Which images survive, by the library itself."""
    from pyautoattack import AutoAttack

    adversary = AutoAttack(model, norm="Linf", eps=0.15, seed=3, version="standard")
    assert tuple(adversary.attacks_to_run) == STAGES["autoattack"]
    adversary.attacks_to_run = list(stages)
    trace = sys.gettrace()
    with torch.random.fork_rng():
        adversarial, _ = adversary.run_standard_evaluation(images, labels, batch_size=250)
    sys.settrace(trace)
    return model(adversarial).argmax(1).eq(labels)


def plain(model):
    """The same network for a library that calls `.view` on gradients."""
    wrapped = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (1, 14, 14)), model)
    return wrapped.eval()


@pytest.mark.slow
def test_outcomes_equal_a_direct_call_of_the_library(tiny_net, few):
    x, y = few.inputs()[:8], few.labels[:8]
    stages = autoattack_outcomes(tiny_net, x, y, epsilon=0.15, seed=3)
    assert tuple(stages) == STAGES["autoattack"] == ("apgd-ce", "apgd-t", "fab-t", "square")
    outcomes = [outcome for outcome, _, _ in stages.values()]
    survivors = [int(clean_outcomes(tiny_net, x, y).sum()), *(int(outcome.sum()) for outcome in outcomes)]
    assert survivors[0] > survivors[1] > survivors[-1] > 0  # the test has something to compare
    assert sorted(survivors, reverse=True) == survivors
    assert torch.equal(outcomes[-1], called_directly(plain(tiny_net), x, y, STAGES["autoattack"]))
    assert torch.equal(outcomes[1], called_directly(plain(tiny_net), x, y, STAGES["screen"]))


class TurnsRoundInHalf(nn.Module):
    """Inside autocast it says the opposite of what it says in float32; notes in which of the two it was asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.asked: list[torch.Tensor] = []

    def forward(self, images):
        half = torch.is_autocast_enabled("cpu")
        self.asked.append(half)
        return self.model(images) * (-1 if half else 1)


def test_half_precision_attacks_and_float32_judges(tiny_net, few):
    """In half precision every image looks misclassified already, so the attack stops at once; float32 has the word."""
    model = TurnsRoundInHalf(tiny_net)
    x, y = few.inputs(), few.labels
    stages = autoattack_outcomes(model, x, y, epsilon=0.001, stages=("apgd-ce",), precision="bfloat16")
    outcome, _, _ = stages["apgd-ce"]
    assert {True, False} == set(model.asked)
    assert model.asked[-1] is False
    assert torch.equal(outcome, clean_outcomes(tiny_net, x, y))
    model.asked.clear()
    autoattack_outcomes(model, x, y, epsilon=0.001, stages=("apgd-ce",))
    assert set(model.asked) == {False}


def test_precision_is_in_the_table(tiny_net, few):
    settings = {"epsilon": 0.1, "step_size": 0.02, "steps": 2}
    table = evaluate(tiny_net, few[:4], ("clean", "screen"), **settings, precision="bfloat16").set_index("attack")
    assert table.loc["screen", "precision"] == table.loc["screen/apgd-t", "precision"] == "bfloat16"
    auto = evaluate(tiny_net, few[:1], ("screen",), **settings, precision="auto")["precision"].iloc[-1]
    assert auto == str(resolve_precision("auto", "cpu")).removeprefix("torch.")


def test_table_lists_the_stages_of_the_screen(tiny_net, few):
    table = evaluate(tiny_net, few, ("screen",), epsilon=0.15, step_size=0.1, images=12)
    assert table["attack"].tolist() == ["screen/apgd-ce", "screen/apgd-t", "screen"]
    assert table["correct"].is_monotonic_decreasing
    assert table["outcomes"][1] == table["outcomes"][2]
    stages = autoattack_outcomes(
        tiny_net, few.inputs()[:12], few.labels[:12], epsilon=0.15, stages=("apgd-ce", "apgd-t")
    )
    assert [pack_outcomes(outcome) for outcome, _, _ in stages.values()] == table["outcomes"][:2].tolist()


def test_the_screen_is_within_autoattack(tiny_net, few):
    table = evaluate(tiny_net, few, ("screen", "autoattack"), epsilon=0.2, images=8)
    (within,) = screen_rows(table).to_dict("records")
    assert within["attack"] == "screen"
    assert within["outcomes"] == table["outcomes"][2] != table["outcomes"][0]


def test_counters_and_trace_are_put_back(tiny_net, few, monkeypatch):
    from pyautoattack import checks

    class Dynamic(nn.Module):
        """Takes gradients in its forward pass, which AutoAttack's checks have a message for."""

        def forward(self, images):
            with torch.enable_grad():
                point = images.detach().requires_grad_()
                gradient = torch.autograd.grad(tiny_net(point).sum(), point)[0]
            return tiny_net(images) + 0 * gradient.sum()

    def notes(model):
        one = {"epsilon": 0.05, "stages": ("apgd-ce",)}
        ((_, _, text),) = autoattack_outcomes(model, few.inputs()[:4], few.labels[:4], **one).values()
        assert set(checks.funcs.values()) == {0}
        return text

    def tracer(*_):
        return None

    checks.funcs.update(dict.fromkeys(checks.funcs, 7))  # what another model may have left
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        honest = notes(tiny_net)
        found = sys.gettrace()
    finally:
        sys.settrace(before)
    assert found is tracer
    assert "dynamic" not in honest
    assert "dynamic defense" in notes(Dynamic())
    assert "dynamic" not in notes(tiny_net)


@pytest.mark.parametrize(("norm", "epsilon", "stages"), [("linf", 0.005, 4), ("l2", 0.05, 1)])
def test_colour_images_and_five_classes(norm, epsilon, stages):
    torch.manual_seed(0)
    model, images = TinyNet(3, 5, side=8).eval(), torch.rand(6, 3, 8, 8)
    labels = model(images).argmax(1)
    found = autoattack_outcomes(model, images, labels, norm=norm, epsilon=epsilon, stages=STAGES["autoattack"][:stages])
    survivors = [int(outcome.sum()) for outcome, _, _ in found.values()]
    assert 0 < survivors[-1] <= survivors[0] <= 6
    assert len(survivors) == stages
    assert not any("target classes" in notes for _, _, notes in found.values())


def test_three_classes_are_refused():
    with pytest.raises(ValueError, match=r"3 classes: AutoAttack's targeted loss needs at least 4"):
        autoattack_outcomes(TinyNet(3, 3, side=8), torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), epsilon=0.1)


def test_autoattack_needs_four_classes():
    assert [autoattack_possible(classes) for classes in (2, 3, 4, 10)] == [False, False, True, True]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_autoattack_takes_labels_of_any_integer_type(dtype):
    torch.manual_seed(0)
    model, images = TinyNet(3, 5, side=8).eval(), torch.rand(4, 3, 8, 8)
    labels = model(images).argmax(1)
    found, expected = (
        autoattack_outcomes(model, images, y, epsilon=0.01, stages=("apgd-ce",))["apgd-ce"][0]
        for y in (labels.to(dtype), labels)
    )
    assert torch.equal(found, expected)
    assert expected.any()


def test_stages_are_a_beginning_of_autoattack(tiny_net, few):
    with pytest.raises(ValueError, match=r"allowed is a beginning of \('apgd-ce', 'apgd-t', 'fab-t', 'square'\)"):
        autoattack_outcomes(tiny_net, few.inputs(), few.labels, epsilon=0.1, stages=("square",))


def test_nothing_is_attacked_where_nothing_stands(tiny_net, few):
    wrong = (tiny_net(few.inputs()).argmax(1) + 1) % 10
    stages = autoattack_outcomes(tiny_net, few.inputs(), wrong, epsilon=0.1)
    assert [int(outcome.sum()) for outcome, _, _ in stages.values()] == [0] * 4
