"""The formulations of hard-positive mining against loops written from their equations, and what all of them promise."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from anchor_utils import losses
from anchor_utils.config import METHODS, Config
from anchor_utils.mining import FORMULATIONS, SPREAD_FLOOR, Mining, measure, mining_terms, misclassified, moved, unsure
from anchor_utils.objectives import batch_loss, logged

PROPERTY = settings(max_examples=40, deadline=None)
LABELS = torch.tensor([0, 1, 0, 0, 1, 0, 2, 0, 1, 0])


def points(seed=0, size=10, dtype=torch.float64):
    return torch.randn(size, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def positives(labels, i):
    return [p for p in range(len(labels)) if p != i and labels[p] == labels[i]]


def cosines(z, i, found):
    z = normalize(z, dim=1)
    return [float(z[i] @ z[p]) for p in found]


def shares(scores):
    total = sum(math.exp(s - max(scores)) for s in scores)
    return [math.exp(s - max(scores)) / total for s in scores]


def by_equation(name, c, h, strength=2.0, share=0.4, skip=0.2):
    """Weights of one anchor's positives from their cosines c and hardness h."""
    n = len(c)
    mean = sum(c) / n
    spread = math.sqrt(sum((x - mean) ** 2 for x in c) / n) + SPREAD_FLOOR
    if name == "exponential":
        return shares([-strength * x for x in c])
    if name == "standardised":
        return shares([-strength * (x - mean) / spread for x in c])
    if name == "hardest":
        first, kept = min(math.floor(skip * n), n - 1), math.ceil(share * n)
        chosen = sorted(range(n), key=c.__getitem__)[first : first + kept]
        return [(p in chosen) / len(chosen) for p in range(n)]
    if name == "semi_hard":
        right = [math.exp(-strength * (x - mean) / spread) * (1 - wrong) for x, wrong in zip(c, h, strict=True)]
        return [x / sum(right) for x in right] if sum(right) else by_equation("standardised", c, h)
    return [x / sum(h) for x in h]


def hardness_of(name, seed=3):
    values = torch.rand(len(LABELS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (values > 0.5).double() if name == "semi_hard" else values


def mining_of(name, **changes):
    return Mining(name, 2.0, 0.4, 0.2, hardness_of(name))._replace(**changes)


def test_the_configuration_knows_every_formulation():
    assert get_args(Config.model_fields["mining"].annotation) == tuple(FORMULATIONS)


@pytest.mark.parametrize("name", FORMULATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_weights_are_those_of_the_equation(name, seed):
    z, mining = points(seed), mining_of(name)
    weights = losses.hardness_weights(z, LABELS, 0.0, mining=mining)
    for i in range(len(LABELS)):
        found = positives(LABELS, i)
        expected = torch.zeros(len(LABELS), dtype=torch.float64)
        if found:
            h = [float(mining.hardness[p]) for p in found]
            expected[found] = torch.tensor(by_equation(name, cosines(z, i, found), h), dtype=torch.float64)
        torch.testing.assert_close(weights[i], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", FORMULATIONS)
@PROPERTY
@given(data=st.data())
def test_weights_sum_to_one_and_the_loss_is_finite(name, data):
    """Any mixture of classes, one image, one class, duplicates, and any hardness, also none at all."""
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=12)))
    z = points(data.draw(st.integers(0, 99)), len(labels), torch.float32)
    if data.draw(st.booleans()):
        z = z[:1].repeat(len(z), 1)
    h = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=len(labels), max_size=len(labels))))
    generator = torch.Generator() if data.draw(st.booleans()) else None
    strength, share = data.draw(st.sampled_from([0.0, 1.0, 30.0])), data.draw(st.sampled_from([0.01, 0.5, 1.0]))
    mining = Mining(name, strength, share, data.draw(st.sampled_from([0.0, 0.5, 0.99])), h, generator)
    weights = losses.hardness_weights(z, labels, 0.0, mining=mining)
    some = losses.count_positives(labels) > 0
    torch.testing.assert_close(weights.sum(1), some.float())
    assert (weights >= 0).all()
    z.requires_grad_()
    loss = losses.hard_positive_supcon_loss(z, labels, 0.1, mining=mining)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, z)[0].isfinite().all()


@pytest.mark.parametrize(
    "mining",
    [
        Mining(),
        Mining("standardised"),
        Mining("hardest", share=1.0),
        Mining("classifier", hardness=torch.full((10,), 0.7)),
        Mining("displacement", hardness=torch.zeros(10)),
        Mining("semi_hard", hardness=torch.zeros(10)),
        Mining("semi_hard", hardness=torch.ones(10)),
        Mining(permutation=torch.Generator()),
    ],
    ids=lambda mining: mining.formulation,
)
def test_equal_scores_are_supcon(mining):
    z = points()
    found = losses.hard_positive_supcon_loss(z, LABELS, 0.1, mining=mining)
    torch.testing.assert_close(found, losses.supcon_loss(z, LABELS, 0.1))


@pytest.mark.parametrize("block", [1, 7, 10**6])
@pytest.mark.parametrize("name", FORMULATIONS)
def test_the_loss_takes_blocks_of_rows_with_these_weights(name, block, monkeypatch):
    """Loss and gradient from the dense matrix of weights, differentiated by autograd."""
    monkeypatch.setattr(losses, "BLOCK", block)
    z, mining = points().requires_grad_(), mining_of(name)
    loss = losses.hard_positive_supcon_loss(z, LABELS, 0.3, mining=mining)
    weights = losses.hardness_weights(z, LABELS, 0.0, mining=mining).detach()
    logits = (normalize(z, dim=1) @ normalize(z, dim=1).T / 0.3).fill_diagonal_(-torch.inf)
    surprise = -logits.log_softmax(1).masked_fill(torch.eye(len(z), dtype=torch.bool), 0.0)
    expected = (weights * surprise).sum(1)[losses.count_positives(LABELS) > 0].mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], torch.autograd.grad(expected, z)[0])


@pytest.mark.parametrize("name", FORMULATIONS)
def test_a_permutation_keeps_the_weights_of_each_anchor_and_nothing_else(name):
    z, mining = points(), mining_of(name)
    plain = losses.hardness_weights(z, LABELS, 0.0, mining=mining)
    dealt = [
        losses.hardness_weights(z, LABELS, 0.0, mining=mining._replace(permutation=torch.Generator().manual_seed(seed)))
        for seed in range(400)
    ]
    for weights in dealt[:5]:
        torch.testing.assert_close(weights.sort(1).values, plain.sort(1).values)
        assert not weights[plain == 0][LABELS[:, None].ne(LABELS)[plain == 0]].any()  # none goes to another class
    # On average every positive of an anchor gets the same: nothing is left of hardness.
    uniform = losses.hardness_weights(z, LABELS, 0.0)
    torch.testing.assert_close(torch.stack(dealt).mean(0), uniform, atol=0.08, rtol=0)


def test_standardised_weights_use_a_share_of_the_positives_that_depends_on_their_spread_only_near_the_floor():
    """With normal cosines e^(-g^2 / 2) of them, g = gamma sigma / (sigma + s0): also in the range of cosines."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(1, 4000, generator=generator, dtype=torch.float64)
    positive = torch.ones(1, 4000, dtype=torch.bool)
    shares = []
    for spread in (0.02, 0.06, 0.1, 0.3, 5.0):
        scores = FORMULATIONS["standardised"].scores(spread * normal, positive, Mining("standardised", 1.0))
        gamma = spread / (spread + SPREAD_FLOOR)
        shares.append(losses.weight_entropy(scores.softmax(1)).exp().item() / 4000)
        assert shares[-1] == pytest.approx(math.exp(-(gamma**2) / 2), abs=0.02)
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.9
    assert shares[-1] == pytest.approx(math.exp(-1 / 2), abs=0.02)


def test_hardness_of_views():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [0.0, 1.0]])
    labels = torch.tensor([0, 1, 0, 1])
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0], [0.0, 1.0]])
    probability = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(3)), 1 / (1 + math.exp(-1))]
    torch.testing.assert_close(unsure(logits, z, labels, 2), 1 - torch.tensor(probability))
    assert misclassified(logits, z, labels, 2).tolist() == [0, 0, 1, 0]
    # Images 0 and 1: a right angle between the views of the first, none between those of the second.
    torch.testing.assert_close(moved(logits, z, labels, 2), torch.tensor([1.0, 0.0, 1.0, 0.0]))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"formulation": "hard"}, "formulation='hard'"),
        ({"strength": -1.0}, r"strength \(beta or gamma\)=-1.0"),
        ({"strength": math.inf}, r"strength \(beta or gamma\)=inf"),
        ({"share": 0.0}, "share=0.0"),
        ({"skip": 1.0}, "skip=1.0"),
        ({"formulation": "semi_hard", "hardness": None}, "hardness of shape None"),
        ({"formulation": "classifier", "hardness": torch.ones(3)}, r"hardness of shape \(3,\)"),
    ],
)
def test_bad_settings(changes, named):
    with pytest.raises(ValueError, match=named):
        losses.hardness_weights(points(), LABELS, 0.0, mining=Mining()._replace(**changes))


def test_only_eq_1_has_a_gradient_through_its_weights():
    with pytest.raises(ValueError, match="detach_weights=False, mining='standardised'"):
        losses.hard_positive_supcon_loss(points(), LABELS, detach_weights=False, mining=Mining("standardised", 1.0))


@pytest.mark.parametrize(("share", "count", "kept"), [(0.15, 100, 15), (0.09, 300, 27), (0.01, 5, 1), (0.25, 5, 2)])
def test_a_share_of_the_positives_is_counted_without_rounding_errors(share, count, kept):
    positive = torch.ones(1, count, dtype=torch.bool)
    scores = FORMULATIONS["hardest"].scores(torch.rand(1, count), positive, Mining("hardest", share=share))
    assert int((scores == 0).sum()) == kept


def test_weights_are_dealt_on_the_device_of_the_generator(monkeypatch):
    asked = []
    draw = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *a, device, **k: asked.append(device) or draw(*a, device=device, **k))
    losses.hardness_weights(points(), LABELS, 0.0, mining=Mining(strength=1.0, permutation=torch.Generator()))
    assert asked == [torch.device("cpu")]


def test_a_batch_where_nobody_has_two_positives_is_logged_as_one_that_mines_nothing():
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    terms = mining_terms(points(size=6), labels, 0.1, Mining(strength=2.0), labels == 0)
    assert {name: logged(term) for name, term in terms.items()} == {
        "positives_used": 1,
        "positives_used_by_gradient": 1,
        "positives_used_by_gradient_p10": 1,
        "weight_on_misclassified": 0,
        "gradient_change": 0,
    }


# What weights do to the gradient


@pytest.mark.parametrize("name", FORMULATIONS)
def test_what_is_measured_is_what_the_gradient_does(name):
    """Against the gradient of each anchor's own loss, taken by autograd while the others stand still."""
    z, tau, mining = normalize(points(1), dim=1), 0.2, mining_of(name)
    wrong = torch.arange(len(LABELS)) % 3 == 0
    found = measure(z, LABELS, tau, mining, wrong)
    differences, references = [], []
    weights = losses.hardness_weights(z, LABELS, 0.0, mining=mining)
    uniform = losses.hardness_weights(z, LABELS, 0.0)
    for i in range(len(LABELS)):
        others = [a for a in range(len(LABELS)) if a != i]
        near = positives(LABELS, i)
        if len(near) < 2:
            assert found.used[i].isnan()
            continue

        def slopes(w, i=i, others=others):
            anchor = z[i].clone().requires_grad_()
            logits = normalize(anchor, dim=0) @ z[others].T / tau
            return torch.autograd.grad(-(w[i][others] * logits.log_softmax(0)).sum(), anchor)[0]

        q = (z[i] @ z[others].T / tau).softmax(0)
        pull = {
            p: abs(float(weights[i, p] - q[others.index(p)])) * math.sqrt(1 - float(z[i] @ z[p]) ** 2) for p in near
        }
        entropy = -sum(x / sum(pull.values()) * math.log(x / sum(pull.values())) for x in pull.values() if x)
        assert float(found.used_by_gradient[i]) == pytest.approx(math.exp(entropy) / len(near), abs=1e-4)
        assert float(found.used[i]) == pytest.approx(
            float(losses.weight_entropy(weights)[i].exp()) / len(near), abs=1e-4
        )
        assert float(found.on_wrong[i]) == pytest.approx(float(weights[i][wrong].sum()), abs=1e-5)
        references.append(slopes(uniform))
        differences.append(slopes(weights) - references[-1])
    change = torch.stack(differences).norm() / torch.stack(references).norm()
    assert float(found.change) == pytest.approx(float(change), rel=1e-3)


def test_supcon_changes_nothing_and_uses_all():
    found = measure(points(), LABELS, 0.1, Mining(), torch.zeros(len(LABELS), dtype=torch.bool))
    assert found.change == 0
    torch.testing.assert_close(found.used[LABELS != 2], torch.ones(9))
    assert found.on_wrong[LABELS != 2].eq(0).all()


def test_measuring_looks_at_some_anchors_of_a_large_batch():
    z, labels = points(size=300), torch.arange(300) % 7
    assert len(measure(z, labels, 0.1, Mining(), labels == 0, anchors=50).used) == 50


# In a training step


def step(config, seed=0):
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (8, 1, 6, 6), generator=random, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 3])
    to_logits, to_embeddings = torch.randn(36, 4, generator=random), torch.randn(36, 5, generator=random)
    seen = []

    def forward(x):
        seen.append(x)
        return x.flatten(1) @ to_logits, normalize(x.flatten(1) @ to_embeddings)

    def attack(x, labels, loss="ce"):
        return 0.5 * x + 0.25

    found = batch_loss(config, forward, attack, images, labels, torch.Generator().manual_seed(2))
    return found, seen[0], forward, images, labels


def config_of(**changes):
    return Config(method="anchor", crop_padding=1, beta=3.0, **changes)


@pytest.mark.parametrize("name", FORMULATIONS)
def test_a_step_of_anchor_uses_the_formulation(name):
    config = config_of(mining=name, mining_share=0.6, mining_skip=0.1)
    found, views, forward, _, labels = step(config)
    logits, z = forward(views)
    both = labels.repeat(2)
    hardness = FORMULATIONS[name].hardness
    mining = Mining(name, 3.0, 0.6, 0.1, None if hardness is None else hardness(logits, z, both, 2))
    expected = losses.hard_positive_supcon_loss(z, both, config.temperature, mining=mining)
    torch.testing.assert_close(found.terms["contrastive"], expected)
    wrong = torch.cat([torch.zeros(8, dtype=torch.bool), logits[8:].argmax(1) != labels])
    acting = measure(z, both, config.temperature, mining, wrong)
    torch.testing.assert_close(found.terms["weight_on_misclassified"], acting.on_wrong, equal_nan=True)
    torch.testing.assert_close(found.terms["gradient_change"], acting.change)
    shares = found.terms["positives_used_by_gradient"]
    assert found.terms["positives_used_by_gradient_p10"] == shares.sort().values[1]


def test_three_views_are_the_image_itself_an_augmented_and_an_attacked_one():
    config = config_of(contrast_views=3)
    found, views, forward, images, labels = step(config)
    assert views.shape[0] == 24
    torch.testing.assert_close(views[:8], images / 255)
    assert not torch.equal(views[8:16], views[:8])
    logits, z = forward(views)
    expected = losses.hard_positive_supcon_loss(z, labels.repeat(3), config.temperature, beta=3.0)
    torch.testing.assert_close(found.terms["contrastive"], expected)
    torch.testing.assert_close(found.logits, logits[16:])
    assert config.views() == 3
    assert [Config(method=name).views() for name in METHODS] == [method.views for method in METHODS.values()]


def test_consistency_adds_the_divergence_of_first_and_attacked_view():
    plain, views, forward, *_ = step(config_of())
    more, *_ = step(config_of(consistency_weight=2.0))
    logits = forward(views)[0]
    torch.testing.assert_close(more.loss - plain.loss, 2 * losses.divergence(logits[:8], logits[8:]))
    assert more.loss > plain.loss


def test_permuted_weights_are_another_loss_with_the_same_entropy():
    plain, permuted = (step(config_of(mining="standardised", permute_weights=flag))[0] for flag in (False, True))
    torch.testing.assert_close(plain.terms["hardness_entropy"], permuted.terms["hardness_entropy"], equal_nan=True)
    assert plain.terms["contrastive"] != permuted.terms["contrastive"]


def test_new_fields_rename_no_run_at_their_defaults():
    fields = {"mining", "mining_share", "mining_skip", "permute_weights"}
    fields |= {"contrast_on", "contrast_views", "consistency_weight"}
    assert not fields & config_of().training_fields().keys()
    changed = config_of(mining="semi_hard", contrast_on="features", contrast_views=3).training_fields()
    assert fields & changed.keys() == {"mining", "contrast_on", "contrast_views"}
    assert "permute_weights" not in Config(method="supcon_at", permute_weights=True).training_fields()
