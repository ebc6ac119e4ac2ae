"""Evaluation: the table and its outcomes, what is refused, and going on after an interruption."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TinyNet
from torch import nn

from anchor_utils import evaluation
from anchor_utils.attacks import pgd
from anchor_utils.autoattack import autoattack_outcomes
from anchor_utils.config import ATTACKS
from anchor_utils.data import Split
from anchor_utils.evaluation import NonFiniteLogitsWarning, evaluate
from anchor_utils.masking import gradient_masking_checks
from anchor_utils.models import AnchorNet
from anchor_utils.outcomes import Journal, clean_outcomes, pgd_outcomes
from anchor_utils.results import unpack_outcomes, wilson

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
    assert {
        "norm",
        "epsilon",
        "attack_seed",
        "step_size",
        "steps",
        "restarts",
        "loss",
        "iterate",
        "seconds",
        "notes",
    } <= set(table.columns)
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


def test_every_attack_has_its_rows(tiny_net, few):
    """Here no image is right to begin with, so none costs time."""
    wrong = Split(few.images, (tiny_net(few.inputs()).argmax(1) + 1) % 10)
    table = evaluate(tiny_net, wrong, ATTACKS, epsilon=0.1, seed=3)
    assert [name for name in table["attack"] if "/" not in name] == list(ATTACKS)
    assert set(table["correct"]) == {0}
    assert table["attack_seed"].tolist()[1:] == [3] * (len(table) - 1)


def test_same_seed_same_bits_whatever_the_batches(tiny_net, few):
    arguments = {"epsilon": 0.1, "step_size": 0.02, "steps": 3}
    first, again = (evaluate(tiny_net, few, ("noise", "pgd"), **arguments) for _ in range(2))
    assert first.drop(columns="seconds").equals(again.drop(columns="seconds"))
    clean, batched = (evaluate(tiny_net, few, ("clean", "fgsm"), **arguments, batch_size=n) for n in (250, 7))
    assert clean["outcomes"].tolist() == batched["outcomes"].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "half"}, r"precision='half': allowed are float32, tf32, auto"),
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


# What is refused, and what counts as wrong


def test_too_few_classes_are_refused_before_other_attacks_take_their_time(monkeypatch):
    monkeypatch.setattr(evaluation, "pgd_outcomes", lambda *_, **__: pytest.fail("PGD ran first"))
    split = Split(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="3 classes"):
        evaluate(AnchorNet(num_classes=3, width=4, in_channels=1), split, ("pgd", "screen"), epsilon=0.1)


@pytest.mark.parametrize("attack", ["clean", "noise", "fgsm", "pgd", "screen"])
def test_labels_from_one_are_refused_before_anything_is_attacked(tiny_net, few, attack, monkeypatch):
    for name in ("attacks.pgd", "attacks.random_point", "attacks.fgsm"):
        monkeypatch.setattr(f"anchor_utils.{name}", lambda *_, **__: pytest.fail("an attack ran"))
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


def test_a_file_of_an_evaluation_from_before_is_refused(tiny_net, few, tmp_path):
    """Its rows have other names than those of today."""
    path = tmp_path / "evaluation.json"
    Journal(path, {"attacks": ["clean"], "seed": 0}).part("clean", lambda: {"rows": [{"attack": "clean", "seed": 0}]})
    with pytest.raises(ValueError, match=r"this one differs: .*seed is None, there 0; .*attack_seed is 0, there None"):
        evaluate(tiny_net, few, ("clean",), resume=path)


def test_another_file_is_not_taken_for_a_folder(tiny_net, few, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"resume='.*notes.txt': allowed is a folder or a file NAME.json"):
        evaluate(tiny_net, few, ("clean",), resume=path)
    assert path.read_text() == "mine"


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


def test_what_may_be_rounded_to_tf32_is_asked_for_by_name(few_digits, monkeypatch):
    """Torch rounds convolutions on a GPU unless it is told not to; here it is seen what it is told."""
    seen, original = [], torch.nn.functional.conv2d

    def spied(*arguments, **options):
        seen.append(torch.backends.cudnn.allow_tf32)
        return original(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "conv2d", spied)
    before, network = torch.backends.cudnn.allow_tf32, AnchorNet(10, 1, 1, 0)
    ball = {"epsilon": 0.1, "step_size": 0.05, "steps": 1}
    for precision, allowed in (("float32", False), ("bfloat16", False), ("tf32", True)):
        seen.clear()
        found = evaluate(network, few_digits.test[:8], ["clean", "noise", "fgsm", "pgd"], precision=precision, **ball)
        assert set(seen) == {allowed}
        assert ("tf32" in found.get("precision", pd.Series(dtype=str)).tolist()) == allowed
        assert torch.backends.cudnn.allow_tf32 == before
    for precision, allowed in (("float32", False), ("tf32", True)):
        seen.clear()
        images = few_digits.test[:8]
        pgd(network, images.inputs(), images.labels, precision=precision, **ball)
        assert set(seen) == {allowed}
