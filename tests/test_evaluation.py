"""Evaluation: intervals, outcomes, AutoAttack against the library called directly, and the gradient-masking checks."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from anchor_utils import evaluation
from anchor_utils.attacks import pgd, resolve_precision
from anchor_utils.data import Split
from anchor_utils.evaluation import (
    STAGES,
    NonFiniteLogitsWarning,
    autoattack_outcomes,
    autoattack_possible,
    clean_outcomes,
    evaluate,
    gradient_masking_checks,
    over_seeds,
    pack_outcomes,
    pgd_outcomes,
    read_results,
    save_results,
    unpack_outcomes,
    wilson,
)
from anchor_utils.models import AnchorNet

CHECKS = [
    "more steps are never weaker",
    "a larger epsilon is never weaker",
    "epsilon = 1 defeats the model",
    "random noise is weaker than the gradient attack",
    "a transferred attack is weaker than the white-box attack",
    "black-box Square is weaker than the white-box attack",
    "the loss rises along its gradient",
    "PGD on the margin agrees with PGD on cross-entropy",
]


class TinyNet(nn.Module):
    """So small that thousands of passes take a second; its layout of memory is that of the course's network."""

    def __init__(self, channels=1, classes=10, side=14):
        super().__init__()
        self.convolution = nn.Conv2d(channels, 8, 4, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8 * ((side - 4) // 2 + 1) ** 2, classes)

    def forward(self, images):
        x = self.convolution(images.contiguous(memory_format=torch.channels_last))
        return self.classifier(self.norm(x).relu().flatten(1))


@pytest.fixture(scope="module")
def tiny_net(small_digits):
    """Trained for a moment on adversarial examples, so that each stage of AutoAttack finds something to do."""
    torch.manual_seed(0)
    model = TinyNet()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for batch in torch.randperm(len(small_digits.train))[:3840].split(128):
        x, y = small_digits.train[batch].inputs(), small_digits.train.labels[batch]
        loss = F.cross_entropy(model(pgd(model, x, y, epsilon=0.1, step_size=0.1, steps=1)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture
def few(small_digits) -> Split:
    return small_digits.test[:40]


# Intervals and bits


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_the_closed_form(counts):
    correct, n = counts
    z, p = 1.959963984540054, correct / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = wilson(correct, n)
    assert (low, high) == pytest.approx((max(centre - half, 0), min(centre + half, 1)), abs=1e-9)
    assert low - 1e-12 <= p <= high + 1e-12


def test_wilson_narrows_with_less_confidence():
    (low, high), (low_90, high_90) = wilson(80, 100), wilson(80, 100, confidence=0.9)
    assert low < low_90 < 0.8 < high_90 < high


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_outcomes_survive_packing(bits):
    text = pack_outcomes(torch.tensor(bits))
    assert len(text) == 2 * ((len(bits) + 7) // 8)
    assert unpack_outcomes(text, len(bits)).tolist() == bits


def test_first_image_is_the_highest_bit():
    assert pack_outcomes(torch.tensor([True] + [False] * 7)) == "80"


# The table


def test_table_is_consistent(standard_run, small_digits):
    model = standard_run.model()
    table = evaluate(
        model,
        small_digits,
        ("clean", "noise", "fgsm", "pgd"),
        epsilon=0.1,
        step_size=0.02,
        steps=5,
        restarts=2,
        images=60,
    )
    assert table["attack"].tolist() == ["clean", "noise", "fgsm", "pgd"]
    assert {"norm", "epsilon", "seed", "step_size", "steps", "restarts", "loss", "iterate", "seconds", "notes"} <= set(
        table.columns
    )
    for row in table.to_dict("records"):
        bits = unpack_outcomes(row["outcomes"], row["images"])
        assert row["images"] == len(bits) == 60
        assert row["correct"] == bits.sum()
        assert row["accuracy"] == row["correct"] / 60
        assert (row["low"], row["high"]) == wilson(row["correct"], 60)
        assert row["low"] <= row["accuracy"] <= row["high"]
    accuracy = table.set_index("attack")["accuracy"]
    assert accuracy["clean"] > 0.85
    assert accuracy["clean"] >= accuracy["noise"] > accuracy["fgsm"] >= accuracy["pgd"]
    last = table.iloc[-1]
    assert (last["epsilon"], last["step_size"], last["steps"], last["restarts"]) == (0.1, 0.02, 5, 2)
    assert (last["norm"], last["loss"], last["iterate"]) == ("linf", "ce", "any")
    # The bits are those of the images, in their order, and a data set is evaluated on its test split.
    with torch.no_grad():
        expected = model(small_digits.test[:60].inputs()).argmax(1).eq(small_digits.test.labels[:60])
    assert unpack_outcomes(table["outcomes"][0], 60).tolist() == expected.tolist()


def test_same_seed_same_bits_whatever_the_batches(tiny_net, few):
    arguments = {"epsilon": 0.1, "step_size": 0.02, "steps": 3}
    first, again = (evaluate(tiny_net, few, ("noise", "pgd"), **arguments) for _ in range(2))
    assert first.drop(columns="seconds").equals(again.drop(columns="seconds"))
    clean, batched = (evaluate(tiny_net, few, ("clean", "fgsm"), **arguments, batch_size=n) for n in (250, 7))
    assert clean["outcomes"].tolist() == batched["outcomes"].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "half"}, r"precision='half': allowed are float32, auto"),
        ({"attacks": ("clean", "autoatack")}, r"attack 'autoatack'; did you mean 'autoattack'\? Allowed: clean, noise"),
        ({"epsilon": 8}, r"epsilon=8: allowed is \[0, 1\]"),
        ({"norm": "l1"}, r"norm='l1': allowed are 'linf', 'l2'"),
        ({"iterate": "all"}, r"iterate='all': allowed are 'final', 'any'"),
        ({"images": 41}, r"images=41: allowed is 1 to 40"),
        ({"images": 0}, r"images=0: allowed is 1 to 40"),
        ({"steps": 0}, r"steps=0: allowed is 1 or more"),
        ({"step_size": -1}, r"step_size=-1: allowed is a finite number above 0"),
        ({"restarts": 0}, r"restarts=0: allowed is 1"),
        ({"loss": "mse"}, r"loss='mse': allowed are 'ce', 'margin'"),
        ({"batch_size": 0}, r"batch_size=0: allowed is 1 or more"),
        ({"epsilon": None}, r"epsilon=None: allowed is a radius"),
        ({"epsilon": 8}, r"did you mean 8/255 = 0.0314\?"),
        ({"epsilon": "8/255"}, r"epsilon='8/255': allowed is \[0, 1\].*write 0.0313725"),
        ({"step_size": 2}, r"step_size=2: allowed is at most 1 .*did you mean 2/255 = 0.00784\?"),
    ],
)
def test_bad_arguments_are_refused_before_the_model_runs(tiny_net, few, changes, message):
    def fail(*_):
        raise AssertionError("the model ran")

    handle = tiny_net.register_forward_pre_hook(fail)
    try:
        with pytest.raises(ValueError, match=message):
            evaluate(tiny_net, few, **{"epsilon": 0.1, "step_size": 0.1, **changes})
    finally:
        handle.remove()


def test_clean_accuracy_needs_no_epsilon_and_pgd_no_step_size(tiny_net, few):
    (clean,) = evaluate(tiny_net, few, ("clean",))["correct"]
    assert clean == clean_outcomes(tiny_net, few.inputs(), few.labels).sum()
    table = evaluate(tiny_net, few, ("pgd",), epsilon=0.4, steps=1)
    assert table["step_size"].tolist() == [pytest.approx(0.05)]


def test_no_images_are_refused(tiny_net, few):
    with pytest.raises(ValueError, match="dataset: allowed is one with test images"):
        evaluate(tiny_net, few[:0], ("clean",))


@pytest.mark.parametrize("function", [clean_outcomes, lambda *a: autoattack_outcomes(*a, epsilon=0.1)])
def test_images_must_be_in_the_unit_interval(tiny_net, few, function):
    with pytest.raises(ValueError, match=r"allowed is \[0, 1\]"):
        function(tiny_net, few.inputs() * 2, few.labels)


@pytest.mark.parametrize("attack", ["noise", "fgsm", "pgd"])
def test_only_correctly_classified_images_are_attacked(tiny_net, few, attack):
    seen = []
    handle = tiny_net.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    try:
        labels = few.labels.clone()
        labels[10:] = (labels[10:] + 1) % 10  # made wrong
        correct = int(clean_outcomes(tiny_net, few.inputs(), labels).sum())
        seen.clear()
        evaluate(tiny_net, Split(few.images, labels), (attack,), epsilon=0.1, step_size=0.1, steps=3, iterate="final")
    finally:
        handle.remove()
    assert 0 < correct < 20
    assert seen == [40] + [correct] * {"noise": 1, "fgsm": 2, "pgd": 4}[attack]


class Overshoots(nn.Module):
    """Wrong only for pixels in (0.55, 0.65), while its gradient says that brighter is always worse."""

    def __init__(self):
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        x = images.flatten(1).mean(1)
        return torch.stack([5.5 - 10 * x + 3 * (x > 0.65) + self.zero, torch.zeros_like(x)], 1)


def test_any_iterate_counts_what_the_final_one_misses():
    images, labels = torch.full((50, 1, 1, 1), 0.5), torch.zeros(50, dtype=torch.long)
    arguments = {"epsilon": 0.2, "step_size": 0.02, "steps": 25, "seed": 0}
    final = pgd_outcomes(Overshoots(), images, labels, **arguments, iterate="final")
    survivors = pgd_outcomes(Overshoots(), images, labels, **arguments, iterate="any")
    assert final.all()
    # Only images whose random start lies beyond the gap survive; that is an eighth of all starts.
    assert 0 < survivors.sum() < 15


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_any_is_never_above_final(robust_run, small_digits, loss):
    rows = [
        evaluate(
            robust_run.model(),
            small_digits,
            ("pgd",),
            epsilon=0.15,
            step_size=0.1,
            steps=4,
            loss=loss,
            iterate=iterate,
            images=100,
        ).iloc[0]
        for iterate in ("any", "final")
    ]
    survives_any, survives_final = (unpack_outcomes(row["outcomes"], 100) for row in rows)
    assert [row["iterate"] for row in rows] == ["any", "final"]
    assert (survives_any <= survives_final).all()


def test_evaluation_leaves_everything_as_it_was(tiny_net, few):
    state = {name: value.clone() for name, value in tiny_net.state_dict().items()}
    tiny_net.train()
    tiny_net.norm.eval()
    tiny_net.classifier.weight.grad = gradient = torch.ones_like(tiny_net.classifier.weight)
    tiny_net.classifier.bias.requires_grad_(False)
    random, numpy_random = torch.get_rng_state(), np.random.get_state()[1].copy()
    try:
        evaluate(
            tiny_net, few, ("clean", "noise", "fgsm", "pgd", "screen"), epsilon=0.1, step_size=0.1, steps=2, images=5
        )
        gradient_masking_checks(tiny_net, few[:5].inputs(), few.labels[:5], epsilon=0.1, steps=2, square_queries=3)
        assert [module.training for module in tiny_net.modules()] == [True, True, False, True]
        assert all(torch.equal(value, state[name]) for name, value in tiny_net.state_dict().items())
        assert tiny_net.classifier.weight.grad is gradient
        assert gradient.eq(1).all()
        assert [p.requires_grad for p in tiny_net.parameters()] == [True] * 5 + [False]
        assert torch.equal(torch.get_rng_state(), random)
        assert (np.random.get_state()[1] == numpy_random).all()
    finally:
        tiny_net.eval().requires_grad_(True).zero_grad()


# AutoAttack


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
        self.model, self.asked = model, []

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


def test_too_few_classes_are_refused_before_other_attacks_take_their_time(monkeypatch):
    monkeypatch.setattr(evaluation, "pgd_outcomes", lambda *_, **__: pytest.fail("PGD ran first"))
    split = Split(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="3 classes"):
        evaluate(AnchorNet(num_classes=3, width=4, in_channels=1), split, ("pgd", "screen"), epsilon=0.1)


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


@pytest.mark.parametrize("attack", ["clean", "noise", "fgsm", "pgd", "screen"])
def test_labels_from_one_are_refused_before_anything_is_attacked(tiny_net, few, attack, monkeypatch):
    for name in ("pgd", "fgsm", "random_point"):
        monkeypatch.setattr(f"anchor_utils.attacks.{name}", lambda *_, **__: pytest.fail("an attack ran"))
    with pytest.raises(ValueError, match=r"labels=10: allowed are 0 to 9 .*labels start at 0, subtract 1"):
        evaluate(tiny_net, Split(few.images, few.labels + 1), (attack,), epsilon=0.1)


class Answers(nn.Module):
    """A function as a network; no parameters."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, images):
        return self.answer(images)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda images: images.flatten(1), "model is a function: allowed is a torch.nn.Module"),
        (
            Answers(lambda images: images),
            r"model returned \(40, 1, 14, 14\) for 40 images: allowed are logits",
        ),
        (Answers(lambda images: images.flatten(1)[:-1]), r"model returned \(39, 196\) for 40 images"),
        (Answers(lambda images: images.flatten(1)[:, :1]), r"model returned \(40, 1\) .*K at least 2"),
        (Answers(lambda images: (images.flatten(1),)), "model returned a tuple for 40 images"),
    ],
)
def test_what_is_no_classifier_is_refused(few, model, message):
    with pytest.raises(ValueError, match=message):
        evaluate(model, few, ("clean",))
    with pytest.raises(ValueError, match=message):
        pgd(model, few.inputs(), few.labels, epsilon=0.1, step_size=0.1, steps=1)


def test_a_network_without_parameters_is_evaluated(few):
    model = Answers(lambda images: images.flatten(1)[:, :10])
    expected = model(few.inputs()).argmax(1).eq(few.labels).sum()
    assert evaluate(model, few, ("clean", "pgd"), epsilon=0.1, steps=1)["correct"][0] == expected


@pytest.mark.parametrize(("value", "attack"), [(torch.nan, "screen"), (torch.inf, "pgd")])
def test_logits_that_are_not_finite_count_as_misclassified_and_are_said(tiny_net, few, value, attack):
    """The first class is what argmax takes for NaN. Here every third image has one, and its other logits are right."""

    def answer(images):
        logits = tiny_net(images)
        dark = images.flatten(1).sum(1) < threshold
        return torch.where(dark[:, None] & (torch.arange(10) == 0), value, logits)

    threshold = few.inputs().flatten(1).sum(1).sort().values[13]
    finite = few.inputs().flatten(1).sum(1) >= threshold
    with pytest.warns(NonFiniteLogitsWarning, match="clean: 13 of 40 images: logits are not finite") as caught:
        table = evaluate(Answers(answer), few, ("clean", attack), epsilon=0.0, step_size=0.1)
    assert len(caught) == 1
    expected = clean_outcomes(tiny_net, few.inputs(), few.labels) & finite
    assert unpack_outcomes(table["outcomes"][0], 40).tolist() == expected.tolist()
    assert unpack_outcomes(table["outcomes"].iloc[-1], 40).tolist() == expected.tolist()
    assert table["notes"].iloc[[0, -1]].str.contains("13 of 40 images: logits are not finite").all()


def test_images_whose_attack_ends_in_nan_logits_do_not_count_as_robust(few):
    """The label is the class that argmax takes for NaN; bright pixels overflow."""
    model = Answers(lambda images: torch.eye(10)[:1] + images.flatten(1).max(1).values.sub(1).pow(-1)[:, None] * 0)
    split = Split(torch.full((6, 1, 8, 8), 200, dtype=torch.uint8), torch.zeros(6, dtype=torch.long))
    with pytest.warns(NonFiniteLogitsWarning, match="noise: 6 of 6 images"):
        table = evaluate(model, split, ("clean", "noise"), epsilon=1.0)
    assert table["correct"].tolist() == [6, 0]


def test_stages_are_a_beginning_of_autoattack(tiny_net, few):
    with pytest.raises(ValueError, match=r"allowed is a beginning of \('apgd-ce', 'apgd-t', 'fab-t', 'square'\)"):
        autoattack_outcomes(tiny_net, few.inputs(), few.labels, epsilon=0.1, stages=("square",))


def test_nothing_is_attacked_where_nothing_stands(tiny_net, few):
    wrong = (tiny_net(few.inputs()).argmax(1) + 1) % 10
    stages = autoattack_outcomes(tiny_net, few.inputs(), wrong, epsilon=0.1)
    assert [int(outcome.sum()) for outcome, _, _ in stages.values()] == [0] * 4


# Going on


class Dies(nn.Module):
    """A network that is interrupted after so many calls."""

    def __init__(self, model, calls):
        super().__init__()
        self.model, self.calls = model, calls

    def forward(self, images):
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return self.model(images)


def same(table, other):
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), other.drop(columns="seconds"), check_dtype=False)


def test_an_interrupted_evaluation_goes_on_with_the_same_bits(tiny_net, few, tmp_path):
    settings = {"epsilon": 0.1, "step_size": 0.03, "steps": 3, "restarts": 2, "images": 30, "batch_size": 7}
    attacks, path, calls, deaths = ("clean", "noise", "fgsm", "pgd"), tmp_path / "evaluation.json", 9, 0
    table = None
    while table is None:
        try:
            table = evaluate(Dies(tiny_net, calls), few, attacks, **settings, resume=path)
        except KeyboardInterrupt:
            deaths += 1
            assert deaths < 50, "it never gets anywhere"
            calls = 9 if deaths < 3 else calls + 2  # so that it dies within every attack
    assert deaths > 5
    same(table, evaluate(tiny_net, few, attacks, **settings))
    same(evaluate(Dies(tiny_net, 0), few, attacks, **settings, resume=path), table)  # finished: no call at all
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation.json"]


def test_an_interrupted_autoattack_goes_on_with_the_same_bits(tiny_net, few, tmp_path):
    settings = {"epsilon": 0.15, "images": 8, "batch_size": 4, "seed": 3}
    expected = evaluate(tiny_net, few, ("screen",), **settings)
    path, calls, deaths = tmp_path / "evaluation.json", 300, 0
    found = None
    while found is None:
        try:
            found = evaluate(Dies(tiny_net, calls), few, ("screen",), **settings, resume=path)
        except KeyboardInterrupt:
            deaths, calls = deaths + 1, calls + 300
            assert deaths < 50, "it never gets anywhere"
    assert deaths > 1
    assert expected["correct"].iloc[0] > expected["correct"].iloc[-1]  # both stages found something
    same(found, expected)


def test_in_a_folder_each_evaluation_has_a_file_of_its_own(few, tmp_path):
    """Also of networks that differ in nothing but a stride, which is no weight."""
    for stride, files in ((1, 1), (2, 2), (1, 2)):
        torch.manual_seed(0)
        network = AnchorNet(10, 2, 1, 0, stem_stride=stride).eval()
        evaluate(network, few, ("clean",), resume=tmp_path / "kept")
        assert len(list((tmp_path / "kept").glob("*.json"))) == files


def test_a_file_of_another_evaluation_is_refused_with_what_differs(tiny_net, few, tmp_path):
    path = tmp_path / "evaluation.json"
    settings = {"epsilon": 0.1, "step_size": 0.1, "steps": 1, "resume": path}
    evaluate(tiny_net, few, ("clean",), **settings)
    before = path.read_bytes()
    torch.manual_seed(1)
    for arguments, message in [
        ((tiny_net, few, ("clean", "fgsm"), settings), r"attacks is \['clean', 'fgsm'\], there \['clean'\]"),
        ((tiny_net, few, ("clean",), settings | {"epsilon": 0.2}), "differs: epsilon is 0.2, there 0.1$"),
        ((tiny_net, few[:30], ("clean",), settings), "differs: images is {'images': 30,"),
        ((TinyNet(), few, ("clean",), settings), "differs: network is "),
    ]:
        *positional, changed = arguments
        with pytest.raises(ValueError, match=message):
            evaluate(*positional, **changed)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"correct": ', '"correct": 1'),
    ],
    ids=["cut", "empty", "list", "no content", "changed"],
)
def test_damaged_files_are_named(tiny_net, few, tmp_path, damage):
    path = tmp_path / "evaluation.json"
    evaluate(tiny_net, few, ("clean",), resume=path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=r"resume='.*evaluation.json': this file is damaged .*; delete it"):
        evaluate(tiny_net, few, ("clean",), resume=path)


# Gradient masking


class Rounds(nn.Module):
    """A broken defence: rounding the input destroys the gradient."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images.mul(8).round() / 8)


class Saturates(Rounds):
    """A broken defence: huge logits saturate the softmax, and the gradient of cross-entropy is zero."""

    def forward(self, images):
        return 1e4 * self.model(images)


def checked(model, data, **arguments):
    data = data.test[:60]
    arguments = {"epsilon": 0.1, "steps": 8, "square_queries": 200, **arguments}
    return gradient_masking_checks(model, data.inputs(), data.labels, **arguments).set_index("check")


def test_honest_network_passes(robust_run, standard_run, small_digits):
    table = checked(robust_run.model(), small_digits, surrogate=standard_run.model(), steps=20, square_queries=50)
    assert table.index.tolist() == CHECKS
    assert table["passed"].tolist() == [True] * len(CHECKS), table.to_string()
    assert table["evidence"].str.contains("%").all()


@pytest.mark.parametrize(
    ("defence", "caught_by"),
    [
        (Rounds, {2, 3, 4, 5, 6}),  # the margin has no gradient either
        (Saturates, {2, 3, 4, 5, 6, 7}),
    ],
)
@pytest.mark.filterwarnings("ignore::anchor_utils.attacks.VanishedGradientWarning")
def test_broken_defences_look_robust_and_are_caught(standard_run, small_digits, defence, caught_by):
    honest, data = standard_run.model(), small_digits.test[:60]
    broken = defence(honest).eval()
    x, y = data.inputs(), data.labels
    attack = {"epsilon": 0.1, "step_size": 0.0125, "steps": 8}
    clean = clean_outcomes(broken, x, y).float().mean()
    assert clean > 0.85
    assert pgd_outcomes(broken, x, y, **attack).float().mean() >= clean - 0.05  # looks robust
    assert pgd_outcomes(honest, x, y, **attack).float().mean() < clean - 0.3  # and is not
    table = checked(broken, small_digits, surrogate=honest)
    assert {check for check in CHECKS if not table["passed"][check]} == {CHECKS[i] for i in caught_by}


def test_without_a_surrogate_no_transfer_is_checked(tiny_net, few):
    table = gradient_masking_checks(tiny_net, few[:8].inputs(), few.labels[:8], epsilon=0.1, steps=2, square_queries=5)
    row = table.set_index("check").loc[CHECKS[4]]
    assert row["passed"] is None
    assert "no surrogate" in row["evidence"]


def test_checks_need_an_epsilon(tiny_net, few):
    with pytest.raises(ValueError, match=r"epsilon=0: allowed is a radius above 0"):
        gradient_masking_checks(tiny_net, few.inputs(), few.labels, epsilon=0)


# Results


def test_over_seeds():
    table = pd.DataFrame(
        {
            "method": ["b", "b", "b", "a"],
            "attack": ["pgd"] * 4,
            "accuracy": [0.2, 0.4, 0.9, 0.5],
        }
    )
    result = over_seeds(table)
    assert result["method"].tolist() == ["b", "a"]
    assert result["mean"].tolist() == pytest.approx([0.5, 0.5])
    assert result["std"][0] == pytest.approx(np.std([0.2, 0.4, 0.9], ddof=1))
    assert np.isnan(result["std"][1])
    assert result["runs"].tolist() == [3, 1]


@pytest.mark.parametrize("text", ["", '{"rows": [', "[]", "{}", '{"rows": 3}', b"\xff"], ids=str)
def test_a_damaged_file_of_results_is_named(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"path='.*results.json': allowed is a whole file of save_results"):
        read_results(path)


def test_results_come_back_from_their_file(tiny_net, few, tmp_path):
    table = evaluate(tiny_net, few, ("clean", "pgd"), epsilon=0.1, step_size=0.1, steps=1)
    path = tmp_path / "new" / "results.json"
    save_results(path, table, config={"seed": 3}, note="a run")
    again, context = read_results(path)
    assert again["outcomes"].tolist() == table["outcomes"].tolist()
    pd.testing.assert_frame_equal(again, table, check_dtype=False)
    assert (context["config"], context["note"]) == ({"seed": 3}, "a run")
    assert context["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "numpy", "pyautoattack", "hardware", "threads"} <= set(context["versions"])
    assert context["versions"] == evaluation.versions()
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]
