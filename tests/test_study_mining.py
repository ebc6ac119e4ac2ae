"""Whether mining acts, and whether it helps: the tables of study/mining.py, from known networks and cells."""

import json
import re

import numpy as np
import pytest
import torch

from anchor_utils import losses
from anchor_utils.config import Config, load_preset
from anchor_utils.objectives import Heads
from anchor_utils.results import pack_outcomes
from anchor_utils.training import new_network
from study import mining
from study.publish import STUDY
from study.sweep import load_sweep


@pytest.fixture
def standing(few_digits):
    """A network in eval mode, a batch, and the configuration of its training."""
    torch.manual_seed(0)
    config = Config(method="anchor", width=2, stem_stride=2, attack_steps=1, projection_dim=8, crop_padding=1)
    return new_network(config, few_digits).eval(), few_digits.train[:24], config


# Does it act?


def test_a_change_is_that_of_the_gradient_by_the_encoder(standing):
    network, images, config = standing
    found = mining.does_it_act(network, images, config).set_index("weights")
    assert list(found.index) == list(mining.FORMULATIONS)
    assert found.loc["SupCon", mining.ENCODER] == 0
    assert found.loc["SupCon", mining.COLUMNS["gradient_change"]] == 0
    assert (found.drop(index=["SupCon"])[mining.ENCODER] > 0).all()
    # By hand, for one row: the same views, and both gradients.
    seen = []

    def forward(x):
        seen.append(x)
        return Heads(network, "anchor")(x)

    attack = mining.remembered(network, config)
    generator = torch.Generator().manual_seed(config.seed)
    mining.batch_loss(config, forward, attack, images.images, images.labels, generator)
    z, both = network.project(network.encode(seen[0])), images.labels.repeat(2)
    encoder = [*network.stem.parameters(), *network.stages.parameters()]

    def slope(beta):
        loss = losses.hard_positive_supcon_loss(z, both, config.temperature, beta)
        parts = torch.autograd.grad(loss, encoder, retain_graph=True)
        return torch.cat([part.flatten() for part in parts])

    expected = (slope(10.0) - slope(0.0)).norm() / slope(0.0).norm()
    assert found.loc["eq. 1, beta 10", mining.ENCODER] == pytest.approx(float(expected), rel=1e-3)


def test_all_formulations_see_the_same_adversarial_images(standing):
    network, images, config = standing
    attack = mining.remembered(network, config)
    x = images.inputs()
    first, other = attack(x, images.labels), attack(1 - x, images.labels)
    assert attack(x.clone(), images.labels) is first
    assert not torch.equal(first, other)
    assert 0 < (first - x).abs().max() <= config.epsilon + 1e-6


# Does it help?

MARGIN = 1.0


def stored(folder, accuracy, seeds=8, images=400, sweep=mining.SWEEP):
    """A file of cells: variant -> accuracy of each of its networks, which misclassify images at random.

    Clean outcomes are the same ones, and the metrics of the last epoch are all that accuracy.
    """
    cells = []
    for variant, level in accuracy.items():
        for seed in range(seeds):
            random = np.random.default_rng([seed, *variant.encode()])
            outcome = torch.from_numpy(random.random(images) < level)
            row = {"attack": "pgd", "checkpoint": "best", "accuracy": float(outcome.float().mean()), "images": images}
            row |= {"low": 0.0, "high": 1.0, "epsilon": 0.3, "step_size": 0.03, "steps": 20, "restarts": 1}
            row |= {"iterate": "any", "precision": "float32", "seed": 0, "seconds": 1.0, "notes": ""}
            row |= {"outcomes": pack_outcomes(outcome)}
            metrics = [dict.fromkeys(mining.COLUMNS, value) for value in (9.0, level)]
            method = (
                "supcon_at" if variant in ("supcon_at", "features.uniform", "two_views", "kl", "ascl") else "anchor"
            )
            about = {"method": method, "seed": seed, "variant": variant, "metrics": metrics}
            cells.append({**about, "rows": [row, row | {"attack": "clean"}]})
    path = folder / "study.json"
    path.write_text(json.dumps({"sweeps": {sweep: cells}}))
    return path


def levels(**changes):
    variants = {*mining.TWINS, *(twin for twins in mining.TWINS.values() for twin in twins), "two_views", "kl", "ascl"}
    return {
        **dict.fromkeys(sorted(variants), 0.6),
        **{name.replace("_permuted", ".permuted"): level for name, level in changes.items()},
    }


def helped(path):
    return mining.answers(path).set_index("formulation")[mining.HELPED]


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"beta10": 0.9}, "helped"),
        ({"beta10": 0.9, "beta10_permuted": 0.9}, "open|did not help"),  # as good permuted: that is no mining
        (
            {"beta10": 0.3},
            "did not help: a lead of 1 over uniform weights and over its permuted weights is excluded",
        ),
        ({"beta10": 0.9, "supcon_at": 0.99}, "did not help: a lead of 1 over uniform weights is excluded"),
    ],
)
def test_mining_helps_if_it_leads_both_of_its_twins(changes, answer, tmp_path):
    found = helped(stored(tmp_path, levels(**changes)))[mining.NAMES["beta10"]]
    assert re.match(answer, found)


@pytest.mark.parametrize(
    ("low", "difference", "high", "answer"),
    [
        (0.001, 0.01, 0.02, "helped"),
        (0.001, 0.009, 0.02, "open"),
        (-0.001, 0.02, 0.05, "open"),
        (-0.02, 0.0, 0.009, "did"),
    ],
)
def test_a_lead_counts_from_the_margin_and_with_an_interval_above_zero(low, difference, high, answer):
    comparison = {"low": low, "difference": difference, "high": high, "seeds": 8, "images": 1000}
    sure = {"low": 0.05, "difference": 0.06, "high": 0.07, "seeds": 8, "images": 1000}
    for first, second in ((comparison, sure), (sure, comparison)):
        twins = dict(zip(mining.TWINS["beta10"], (first, second), strict=True))
        found = mining.finding(twins, MARGIN)
        assert found.startswith(answer)


def test_answers_are_counted(tmp_path):
    answers = mining.answers(stored(tmp_path, levels(beta10=0.9)))[mining.HELPED]
    assert mining.count(answers).startswith("of 3 ways to mine 1 helped")
    none = mining.answers(stored(tmp_path, levels(), seeds=1))[mining.HELPED]
    assert mining.count(none) == "of 3 ways to mine 0 helped, 3 have no verdict"


def test_one_seed_and_missing_twins_give_no_verdict(tmp_path):
    assert helped(stored(tmp_path, levels(beta10=0.9), seeds=1)).str.startswith("no verdict").all()
    some = {name: level for name, level in levels(beta10=0.9).items() if name != "beta10.permuted"}
    found = mining.answers(stored(tmp_path, some)).set_index("formulation").loc[mining.NAMES["beta10"]]
    assert found[mining.HELPED].startswith("no verdict")
    assert found["minus its weights, permuted"] == "not measured"


def test_a_changed_cell_changes_the_controls(tmp_path):
    before = mining.controls(stored(tmp_path, levels()))
    after = mining.controls(stored(tmp_path, levels(ascl=0.9)))
    changed = before["difference"] != after["difference"]
    assert before.loc[changed, ""].tolist() == [mining.NAMES["ascl"]] * 2
    assert after.loc[changed, "difference"].iloc[0].startswith("+")


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"beta10_permuted": 0.9}, "helped"),
        ({"beta10_permuted": 0.3}, "did not help: a lead of 1 over uniform weights is excluded"),
        ({"beta10_permuted": 0.9, "supcon_at": 0.9}, "open|did not help"),
    ],
)
def test_random_weights_help_if_they_lead_uniform_ones(changes, answer, tmp_path):
    path = stored(tmp_path, levels(**changes))
    first = mining.random_weights(path).iloc[0]
    assert first["weights"] == mining.NAMES["beta10.permuted"]
    assert re.match(answer, first[mining.RANDOM_HELPED])
    assert re.search(rf"on digits [^;]*, ({answer})", mining.of_random(path))
    assert mining.of_random(path).endswith("on CIFAR-10 not measured, no verdict (not measured with several seeds)")
    sides = mining.leads(path, "clean").iloc[0]
    assert sides[mining.DEALT] == first[mining.MINUS[0]].partition(" (")[0], "clean outcomes are the same here"


def test_what_the_weights_did_is_that_of_the_last_epoch(tmp_path):
    path = stored(tmp_path, levels(beta10=0.9, beta10_permuted=0.3), seeds=3)
    found = mining.in_training(path).set_index("weights")
    assert set(found["seeds"]) == {3}
    told = found[mining.COLUMNS["gradient_change"]]
    assert told[mining.NAMES["beta10"]] == 0.9
    assert told[mining.NAMES["beta10.permuted"]] == 0.3
    cells = json.loads(path.read_text())
    for cell in cells["sweeps"][mining.SWEEP]:
        del cell["metrics"]
    path.write_text(json.dumps(cells))
    assert mining.in_training(path).empty
    cells = json.loads(stored(tmp_path, levels(), seeds=1).read_text())
    assert len(mining.in_training(path)) == 8
    for cell in cells["sweeps"][mining.SWEEP]:
        if cell["variant"] == "beta10":
            del cell["metrics"][-1]["gradient_change"]  # a cell that is older than this term
    path.write_text(json.dumps(cells))
    assert mining.NAMES["beta10"] not in mining.in_training(path)["weights"].tolist()
    assert len(mining.in_training(path)) == 7


def test_accuracies_of_the_stored_seeds(tmp_path):
    path = stored(tmp_path, levels(beta10=1.0, kl=0.0))
    found = mining.seeds_of(path, {"beta10": "anchor", "kl": "supcon_at", "none": "mart"}, "pgd", images=50)
    assert {method: accuracies.tolist() for method, accuracies in found.items()} == {
        "anchor": [1.0] * 8,
        "supcon_at": [0.0] * 8,
    }


def test_the_sweep_names_its_margin_and_every_twin_differs_from_its_formulation_in_the_weights_alone():
    sweep = load_sweep(mining.SWEEP)
    assert sweep.margin == mining.MARGIN == MARGIN
    assert len(sweep.seeds) >= 8
    for name, (uniform, permuted) in mining.TWINS.items():
        fields = sweep.variants[name]
        assert sweep.variants[permuted] == {**fields, "permute_weights": True}
        kept = {k: v for k, v in fields.items() if k.startswith("contrast")}
        assert sweep.variants[uniform] == {"method": "supcon_at", **kept}
    trials = load_sweep("mining_tuning")
    assert not {*trials.seeds} & {*sweep.seeds}
    assert trials.attacks == []


def test_on_cifar10_the_twins_differ_from_the_study_s_anchor_in_the_weights_alone():
    sweep, study = load_sweep(mining.ON_CIFAR10), load_sweep("cifar10_cpu")
    assert sweep.margin == mining.MARGIN
    assert (sweep.preset, sweep.seeds) == (study.preset, study.seeds)
    not_asked = {"screen_images": 500, "autoattack_images": 1000}
    assert sweep.overrides | not_asked == study.overrides
    anchor = study.variants["anchor"]
    uniform, permuted = (sweep.variants[twin] for twin in mining.TWINS["beta10"])
    assert sweep.variants["beta10"] == anchor
    assert permuted == {**anchor, "permute_weights": True}
    assert uniform == {k: v for k, v in anchor.items() if k != "beta"} | {"method": "supcon_at"}
    chosen = load_preset(sweep.preset, **anchor)
    assert chosen.temperature * chosen.beta == 1, "all three have the preset's tau"


def test_at_full_width_the_twins_differ_from_anchor_in_the_weights_alone():
    sweep, minutes = load_sweep("minutes_mining"), load_sweep("minutes")
    assert sweep.margin == mining.MARGIN
    assert (sweep.preset, sweep.seconds, sweep.seeds) == (minutes.preset, minutes.seconds, minutes.seeds)
    anchor = minutes.variants["anchor.w64"]
    uniform, permuted = mining.TWINS["beta10"]
    assert sweep.variants == {
        "beta10": anchor,
        uniform: {k: v for k, v in anchor.items() if k != "beta"} | {"method": "supcon_at"},
        permuted: {**anchor, "permute_weights": True},
    }


def test_on_cifar10_only_eq_1_is_asked_about_and_said_with_its_intervals(tmp_path):
    path = stored(tmp_path, levels(beta10=0.9), seeds=4, sweep=mining.ON_CIFAR10)
    (row,) = mining.answers(path, sweep=mining.ON_CIFAR10).to_dict("records")
    assert row["formulation"] == mining.NAMES["beta10"]
    said = mining.on_cifar10(path)
    assert "(4 seeds, 400 images): helped; in clean accuracy, in the same order, +" in said
    assert said.count("[+") == 4
    path.write_text(json.dumps({"sweeps": {}}))
    assert "no verdict (not measured with several seeds)" in mining.on_cifar10(path)
    assert mining.how_compared(path, sweep=mining.ON_CIFAR10) == "Not run: `make sweep SWEEP=cifar10_mining`."


def test_the_stored_sweep_has_every_seed_of_every_variant():
    sweep = load_sweep(mining.SWEEP)
    cells = json.loads(STUDY.read_text())["sweeps"][mining.SWEEP]
    assert {(cell["variant"], cell["seed"]) for cell in cells} == {
        (variant, seed) for variant in sweep.variants for seed in sweep.seeds
    }
    for cell in cells:
        found = {row["attack"] for row in cell["rows"] if row["checkpoint"] == "best"}
        assert found >= {"clean", "pgd", "screen"}, cell["variant"]
        assert {row["precision"] for row in cell["rows"] if row["attack"] == "screen"} == {"float32"}
