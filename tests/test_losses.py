"""The losses against independent references, slow loops written from the equations, and their own promises."""

import math
import os
import subprocess
import sys

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss
from torch import Tensor

from anchor_utils import losses
from anchor_utils.losses import (
    anchor_loss,
    count_positives,
    hard_positive_supcon_loss,
    hardness_weights,
    mart_loss,
    supcon_loss,
    trades_loss,
    weight_entropy,
)

PROPERTY = settings(max_examples=40, deadline=None)


def random_embeddings(labels: list[int], seed: int = 0, dim: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(labels), dim, generator=generator, dtype=dtype).requires_grad_()


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Embeddings (M, D) in float64 and labels (M,): any mixture of classes, singletons included."""
    labels = draw(st.lists(st.integers(0, 3), min_size=1, max_size=10))
    embeddings = random_embeddings(labels, draw(st.integers(0, 10**6)), draw(st.integers(2, 6)))
    return embeddings, torch.tensor(labels)


def gradient(loss: Tensor, embeddings: Tensor) -> Tensor:
    return torch.autograd.grad(loss, embeddings)[0]


def loop_loss(embeddings: Tensor, labels: Tensor, temperature: float, beta: float, detach: bool = True) -> Tensor:
    """Equations 1 and 2 anchor by anchor and positive by positive."""
    z = [e / e.norm() for e in embeddings]
    size, per_anchor = len(z), []
    for i in range(size):
        others = [a for a in range(size) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if not positives:
            continue
        hardness = [torch.exp(-beta * (z[i] @ z[p])) for p in positives]
        weights = [h / sum(hardness) for h in hardness]
        denominator = sum(torch.exp(z[i] @ z[a] / temperature) for a in others)
        terms = [
            (w.detach() if detach else w) * torch.log(torch.exp(z[i] @ z[p] / temperature) / denominator)
            for w, p in zip(weights, positives, strict=True)
        ]
        per_anchor.append(-torch.stack(terms).sum())
    return torch.stack(per_anchor).mean()


# --- SupCon ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.07, 0.1, 0.5, 1.0])
@pytest.mark.parametrize(
    "labels", [[0, 0, 1, 1, 2, 2], [0, 1, 2, 0, 1, 0, 0], [0, 0, 1, 2, 3], [5, 5, 5, 5, -2]], ids=str
)
def test_supcon_equals_pytorch_metric_learning(labels, temperature):
    embeddings = random_embeddings(labels, seed=len(labels))
    labels = torch.tensor(labels)
    ours, theirs = supcon_loss(embeddings, labels, temperature), SupConLoss(temperature)(embeddings, labels)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient(ours, embeddings), gradient(theirs, embeddings), atol=1e-5, rtol=1e-5)


@PROPERTY
@given(batches(), st.floats(0.05, 2))
def test_supcon_equals_pytorch_metric_learning_on_random_batches(batch, temperature):
    embeddings, labels = batch
    counts = labels.bincount()
    if counts.max() < 2 or len(counts[counts > 0]) < 2:
        return  # the library returns 0 there, by a convention of its own
    # The library averages over the losses above 0, which are those of the anchors with a positive.
    ours, theirs = supcon_loss(embeddings, labels, temperature), SupConLoss(temperature)(embeddings, labels)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient(ours, embeddings), gradient(theirs, embeddings), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("images", [2, 7])
def test_two_views_with_unique_labels_are_ntxent(images):
    labels = torch.arange(images).repeat(2)
    embeddings = random_embeddings(labels.tolist(), seed=images)
    ours, theirs = supcon_loss(embeddings, labels, 0.5), NTXentLoss(0.5)(embeddings, labels)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient(ours, embeddings), gradient(theirs, embeddings), atol=1e-5, rtol=1e-5)


def test_supcon_by_hand():
    """Two pairs at right angles: each anchor sees one positive at cosine 1 and two negatives at cosine 0."""
    embeddings = torch.tensor([[1.0, 0], [3, 0], [0, 2], [0, 1]])
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert supcon_loss(embeddings, torch.tensor([0, 0, 1, 1]), temperature=0.5).item() == pytest.approx(expected)


# --- hardness-weighted SupCon ----------------------------------------------------------------------------------------


@PROPERTY
@given(batches(), st.floats(0.1, 2), st.floats(0, 20), st.booleans())
def test_hard_positive_loss_equals_the_double_loop(batch, temperature, beta, detach):
    embeddings, labels = batch
    if labels.bincount().max() < 2:
        return
    ours = hard_positive_supcon_loss(embeddings, labels, temperature, beta, detach)
    loop = loop_loss(embeddings, labels, temperature, beta, detach)
    torch.testing.assert_close(ours, loop, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(gradient(ours, embeddings), gradient(loop, embeddings), atol=1e-7, rtol=1e-7)


@PROPERTY
@given(batches(), st.floats(0.05, 2))
def test_beta_zero_is_supcon_exactly(batch, temperature):
    embeddings, labels = batch
    loss = supcon_loss(embeddings, labels, temperature)
    for detach in (True, False):
        ours = hard_positive_supcon_loss(embeddings, labels, temperature, beta=0, detach_weights=detach)
        assert torch.equal(ours, loss)
        torch.testing.assert_close(gradient(ours, embeddings), gradient(loss, embeddings))
        loss = supcon_loss(embeddings, labels, temperature)


@PROPERTY
@given(batches(), st.one_of(st.floats(0, 100), st.sampled_from([0.0, 1e6, 1e30])))
def test_weights_sum_to_one_over_the_positives_or_are_zero(batch, beta):
    embeddings, labels = batch
    weights = hardness_weights(embeddings, labels, beta)
    positives = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool)
    assert weights.shape == (len(labels), len(labels))
    assert (weights >= 0).all()
    assert (weights[~positives] == 0).all()
    torch.testing.assert_close(weights.sum(1), positives.any(1).double())


def test_weights_by_hand():
    """Positives at cosine 1 and 0: their weights are e^-beta and 1, up to the sum."""
    weights = hardness_weights(torch.tensor([[1.0, 0], [2, 0], [0, 3]]), torch.tensor([0, 0, 0]), beta=1.5)
    easy = math.exp(-1.5) / (math.exp(-1.5) + 1)
    torch.testing.assert_close(weights, torch.tensor([[0, easy, 1 - easy], [easy, 0, 1 - easy], [0.5, 0.5, 0]]))


def test_entropy_of_the_weights():
    """log n for n alike, 0 for all on one and for none at all; scipy agrees in between."""
    weights = torch.tensor(
        [[0.25, 0.25, 0.25, 0.25], [0, 1, 0, 0], [0, 0, 0, 0], [0.5, 0.2, 0.3, 0]], dtype=torch.double
    )
    found = weight_entropy(weights)
    torch.testing.assert_close(found[:3], torch.tensor([math.log(4), 0, 0], dtype=torch.double))
    assert found[3] == pytest.approx(scipy.stats.entropy([0.5, 0.2, 0.3]))


def test_farther_positives_weigh_more_and_more_so_with_beta():
    angles = torch.tensor([0.0, 0.3, 0.9, 2.0])
    embeddings, labels = torch.stack([angles.cos(), angles.sin()], 1), torch.zeros(4, dtype=torch.long)
    mild, strong = (hardness_weights(embeddings, labels, beta)[0, 1:] for beta in (1.0, 4.0))
    assert (mild.diff() > 0).all()
    assert strong[-1] > mild[-1]


@PROPERTY
@given(batches())
def test_large_beta_picks_the_hardest_positive(batch):
    embeddings, labels = batch
    cosine = F.normalize(embeddings.detach(), dim=1)
    cosine = cosine @ cosine.T
    weights = hardness_weights(embeddings, labels, beta=1e12).detach()
    hardest_terms = []
    for i in range(len(labels)):
        positives = [p for p in range(len(labels)) if p != i and labels[p] == labels[i]]
        others = [a for a in range(len(labels)) if a != i]
        if positives:
            hardest = min(positives, key=lambda p: cosine[i, p].item())
            assert weights[i, hardest] == pytest.approx(1, abs=1e-6)
            hardest_terms.append(torch.logsumexp(cosine[i, others] / 0.5, 0) - cosine[i, hardest] / 0.5)
    if hardest_terms:
        loss = hard_positive_supcon_loss(embeddings, labels, temperature=0.5, beta=1e12)
        assert loss.item() == pytest.approx(torch.stack(hardest_terms).mean().item(), rel=1e-5)


@PROPERTY
@given(batches(), st.floats(0, 10), st.randoms(use_true_random=False))
def test_permuting_samples_with_their_labels_changes_nothing(batch, beta, random):
    embeddings, labels = batch
    order = list(range(len(labels)))
    random.shuffle(order)
    for detach in (True, False):
        loss = hard_positive_supcon_loss(embeddings, labels, 0.1, beta, detach)
        permuted = hard_positive_supcon_loss(embeddings[order], labels[order], 0.1, beta, detach)
        torch.testing.assert_close(loss, permuted)
        torch.testing.assert_close(gradient(loss, embeddings), gradient(permuted, embeddings))


@PROPERTY
@given(batches(), st.floats(0, 10), st.integers(0, 10**6))
def test_only_directions_and_equality_of_labels_matter(batch, beta, seed):
    embeddings, labels = batch
    scale = torch.rand(len(labels), 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1e4 + 1e-4
    renamed = torch.tensor([40, -1, 7, 1000])[labels]
    loss = hard_positive_supcon_loss(embeddings, labels, beta=beta)
    torch.testing.assert_close(hard_positive_supcon_loss(embeddings * scale, renamed, beta=beta), loss)


def test_swapping_two_views_changes_nothing():
    labels = torch.tensor([0, 1, 0, 2])
    first, second = random_embeddings([0] * 4, 1), random_embeddings([0] * 4, 2)
    one_way = hard_positive_supcon_loss(torch.cat([first, second]), labels.repeat(2))
    torch.testing.assert_close(hard_positive_supcon_loss(torch.cat([second, first]), labels.repeat(2)), one_way)


def test_an_anchor_without_a_positive_is_not_counted_in_the_mean():
    """Two anchors with a positive and one without: the mean is over two, and the third only acts as a negative."""
    embeddings, labels = torch.tensor([[1.0, 0], [1, 0], [0, 1]]), torch.tensor([0, 0, 1])
    per_anchor = -math.log(math.e / (math.e + 1))
    for loss in (supcon_loss(embeddings, labels, 1.0), hard_positive_supcon_loss(embeddings, labels, 1.0, beta=3)):
        assert loss.item() == pytest.approx(per_anchor)
        assert loss.item() != pytest.approx(per_anchor * 2 / 3)


@pytest.mark.parametrize("labels", [[3], [0, 1, 2]], ids=["one sample", "all different"])
def test_no_positives_give_a_differentiable_zero(labels):
    embeddings = random_embeddings(labels)
    for detach in (True, False):
        loss = hard_positive_supcon_loss(embeddings, torch.tensor(labels), detach_weights=detach)
        assert loss.item() == 0
        assert torch.equal(gradient(loss, embeddings), torch.zeros_like(embeddings))


# --- block by block --------------------------------------------------------------------------------------------------


@pytest.fixture
def rows_at_a_time(monkeypatch):
    """Sets how many rows of the M x M matrices a block has."""
    return lambda rows, size: monkeypatch.setattr(losses, "BLOCK", rows * size)


def dense_loss(embeddings: Tensor, labels: Tensor, temperature: float, beta: float, detach: bool) -> Tensor:
    """Equations 1 and 2 with whole matrices; autograd finds the gradient."""
    z = F.normalize(embeddings, dim=1)
    cosine, itself = z @ z.T, torch.eye(len(labels), dtype=torch.bool)
    positives = (labels[:, None] == labels) & ~itself
    scores = -beta * (cosine.detach() if detach else cosine)
    has = positives.any(1)
    weights = scores.masked_fill(~positives, -1e30)[has].softmax(1)
    log_probabilities = (cosine / temperature).masked_fill(itself, -torch.inf)[has].log_softmax(1)
    return -(weights * log_probabilities.masked_fill(itself[has], 0)).sum(1).mean()


@PROPERTY
@given(
    size=st.integers(2, 40),
    classes=st.integers(1, 12),
    rows=st.integers(1, 41),
    temperature=st.floats(0.05, 2),
    beta=st.floats(0, 20),
    detach=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_blocks_of_any_size_give_the_loss_and_gradient_of_whole_matrices(
    size, classes, rows, temperature, beta, detach, seed
):
    labels = torch.randint(classes, (size,), generator=torch.Generator().manual_seed(seed))
    labels[-1] = labels[0]  # a positive pair in the first and the last block
    embeddings = random_embeddings([0] * size, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "BLOCK", rows * size)
        found = hard_positive_supcon_loss(embeddings, labels, temperature, beta, detach)
        single = hard_positive_supcon_loss(embeddings.float(), labels, temperature, beta, detach)
    expected = dense_loss(embeddings, labels, temperature, beta, detach)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(single.double(), expected, atol=1e-6, rtol=1e-5)
    expected = gradient(expected, embeddings)
    torch.testing.assert_close(gradient(found, embeddings), expected, atol=1e-9, rtol=1e-8)
    torch.testing.assert_close(gradient(single, embeddings), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 9], ids=lambda rows: f"{rows} rows of 5")
@pytest.mark.parametrize(("beta", "detach"), [(0.0, True), (0.0, False), (3.0, False)])
def test_the_gradient_is_that_of_finite_differences(rows_at_a_time, rows, beta, detach):
    rows_at_a_time(rows, 5)
    embeddings, labels = random_embeddings([0] * 5, 1), torch.tensor([0, 1, 0, 0, 2])
    assert torch.autograd.gradcheck(
        lambda z: hard_positive_supcon_loss(z, labels, 0.5, beta, detach_weights=detach), embeddings
    )


@pytest.mark.parametrize("beta", [0.0, 3.0, 1e6, 1e38])
def test_the_entropy_of_an_anchor_loss_is_that_of_its_weights(rows_at_a_time, beta):
    rows_at_a_time(2, 7)
    labels = torch.tensor([0, 1, 0, 0, 2, 0, 1])
    embeddings = random_embeddings([0] * 7, dtype=torch.float32)
    found = anchor_loss(torch.zeros(7, 3), labels, embeddings, labels, beta=beta).entropy
    assert not found.requires_grad
    torch.testing.assert_close(found, weight_entropy(hardness_weights(embeddings, labels, beta)).detach())


def test_positives_are_counted_for_labels_of_any_kind():
    labels = torch.tensor([7, -3, 7, 2**40, 7, -3])
    assert count_positives(labels).tolist() == [2, 1, 2, 0, 2, 1]
    assert count_positives(labels[::2]).tolist() == [2, 2, 2]
    assert count_positives(labels[:1]).tolist() == [0]


def test_a_gradient_of_the_gradient_is_refused_and_not_wrong():
    embeddings, labels = random_embeddings([0] * 4), torch.tensor([0, 0, 1, 1])
    with pytest.raises(RuntimeError, match="create_graph=True: the contrastive loss has no second derivative"):
        torch.autograd.grad(supcon_loss(embeddings, labels), embeddings, create_graph=True)


LARGE = """
import re
from pathlib import Path
import torch
from anchor_utils.losses import hard_positive_supcon_loss

def status(field):
    return int(re.search(rf"{field}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

for size in (64, 16384):  # the first call loads libraries
    z = torch.randn(size, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = status("VmRSS")
    hard_positive_supcon_loss(z, torch.arange(size) % 10, beta=4.0).backward()
    assert z.grad.isfinite().all()
print(status("VmHWM") - before, status("VmHWM"))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_sixteen_thousand_embeddings_need_a_fraction_of_a_single_matrix_of_them():
    """16,384 x 16,384 cosines alone would be 1 GiB, and the definition makes several."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", LARGE], capture_output=True, text=True, env=environment, check=True, timeout=300
    )
    more, whole = map(int, result.stdout.split())
    assert more < 2**28
    assert whole < 4e9


# --- what detaching the weights is for -------------------------------------------------------------------------------


def slope_of_the_easy_angle(detach_weights: bool, beta: float = 2.0) -> float:
    """Derivative of the loss by the angle between two close positives; gradient descent moves against its sign.

    One class of three: the close pair, 25 degrees apart in one plane, and a hard positive at right angles to it.
    Sixty negatives of classes of their own, at right angles to everything.
    """
    angle = torch.tensor(math.radians(25), dtype=torch.float64, requires_grad=True)
    embeddings = torch.eye(63, dtype=torch.float64)
    easy = torch.cat([torch.stack([angle.cos(), angle.sin()]), embeddings[0, 2:]])
    embeddings = torch.cat([embeddings[:1], easy[None], embeddings[2:]])
    labels = torch.tensor([0, 0, 0, *range(1, 61)])
    return gradient(hard_positive_supcon_loss(embeddings, labels, 1.0, beta, detach_weights), angle).item()


def test_attached_weights_repel_the_easy_positive_and_detached_ones_attract_it():
    assert slope_of_the_easy_angle(detach_weights=False) < 0  # the angle grows
    assert slope_of_the_easy_angle(detach_weights=True) > 0  # the angle shrinks


def test_detach_weights_true_holds_the_weights_constant_and_false_does_not():
    labels = [0, 0, 0, 1, 1]
    embeddings = random_embeddings(labels, 4)
    gradients = []
    for detach in (True, False):
        ours = hard_positive_supcon_loss(embeddings, torch.tensor(labels), 0.5, 2.0, detach)
        loop = loop_loss(embeddings, torch.tensor(labels), 0.5, 2.0, detach)
        gradients.append(gradient(ours, embeddings))
        torch.testing.assert_close(gradients[-1], gradient(loop, embeddings))
    assert not torch.allclose(*gradients, atol=1e-3)


# --- numerical safety ------------------------------------------------------------------------------------------------

AWKWARD = {
    "singletons": [0, 1, 2, 2],
    "all singletons": [0, 1, 2, 3],
    "one class": [1, 1, 1, 1],
    "one sample": [0],
    "two samples": [0, 0],
}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=["float32", "bf16", "fp16"])
@pytest.mark.parametrize("beta", [0.0, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("detach", [True, False], ids=["detached", "attached"])
@pytest.mark.parametrize("duplicates", [False, True], ids=["distinct", "duplicates"])
@pytest.mark.parametrize("labels", AWKWARD.values(), ids=AWKWARD.keys())
def test_value_and_gradient_are_finite(labels, duplicates, detach, beta, dtype):
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 4)
    inputs = torch.randn(len(labels), 6)
    if duplicates:
        inputs[:] = inputs[0]
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        embeddings = head(inputs)
        loss = hard_positive_supcon_loss(embeddings, torch.tensor(labels), 0.01, beta, detach)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss >= 0
    assert head.weight.grad.isfinite().all()


def test_a_zero_embedding_is_finite():
    embeddings = torch.zeros(3, 4, requires_grad=True)
    loss = supcon_loss(embeddings, torch.tensor([0, 0, 1]))
    assert loss.isfinite()
    assert gradient(loss, embeddings).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inside_autocast_everything_is_computed_in_float32(dtype):
    labels = torch.tensor([0, 0, 1, 1, 2])
    embeddings = random_embeddings(labels.tolist(), dim=64, dtype=torch.float32)
    logits, other = random_embeddings([0] * 5, 1, 3, torch.float32), random_embeddings([0] * 5, 2, 3, torch.float32)
    for compute in (
        lambda: hard_positive_supcon_loss(embeddings, labels, 0.05, 2.0, detach_weights=False),
        lambda: hardness_weights(embeddings, labels, 2.0),
        lambda: trades_loss(logits, other, labels),
        lambda: mart_loss(logits, other, labels),
        lambda: anchor_loss(logits, labels, embeddings, labels).total,
    ):
        outside = compute()
        with torch.autocast("cpu", dtype=dtype):
            inside = compute()
        assert inside.dtype == torch.float32
        assert torch.equal(inside, outside)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_widened_before_anything_else(dtype):
    labels = torch.tensor([0, 0, 1, 1])
    embeddings = (random_embeddings([0] * 4, dtype=torch.float32) * 1000).to(dtype)  # squares overflow in float16
    logits, other = (random_embeddings([0] * 4, seed, 3, torch.float32).to(dtype) for seed in (1, 2))
    assert torch.equal(supcon_loss(embeddings, labels), supcon_loss(embeddings.float(), labels))
    assert torch.equal(trades_loss(logits, other, labels), trades_loss(logits.float(), other.float(), labels))
    assert torch.equal(mart_loss(logits, other, labels), mart_loss(logits.float(), other.float(), labels))
    total = anchor_loss(logits, labels, embeddings, labels).total
    assert torch.equal(total, anchor_loss(logits.float(), labels, embeddings.float(), labels).total)


def test_float64_stays_float64():
    labels = torch.tensor([0, 0, 1])
    embeddings, logits = random_embeddings([0] * 3), random_embeddings([0] * 3)
    assert supcon_loss(embeddings, labels).dtype == torch.float64
    assert trades_loss(logits, embeddings, labels).dtype == torch.float64
    assert mart_loss(logits, embeddings, labels).dtype == torch.float64


# --- TRADES and MART -------------------------------------------------------------------------------------------------


def probabilities(logits: Tensor) -> list[Tensor]:
    return [torch.exp(v) / sum(torch.exp(u) for u in logits) for v in logits]


def kl_divergence(p: list[Tensor], q: list[Tensor]) -> Tensor:
    return torch.stack([a * (torch.log(a) - torch.log(b)) for a, b in zip(p, q, strict=True)]).sum()


def slow_trades(clean: Tensor, adversarial: Tensor, labels: Tensor, beta: float) -> Tensor:
    """arXiv 1901.08573, eq. 5, with cross-entropy in front and KL( p(x) || p(x') ) as the boundary term."""
    total = torch.zeros(())
    for row, adversarial_row, y in zip(clean, adversarial, labels, strict=True):
        p, q = probabilities(row), probabilities(adversarial_row)
        total = total - torch.log(p[y]) + beta * kl_divergence(p, q)
    return total / len(labels)


def slow_mart(clean: Tensor, adversarial: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Wang et al., ICLR 2020, eq. 11: BCE( p(x'), y ) + lambda * KL( p(x) || p(x') ) * (1 - p_y(x))."""
    total = torch.zeros(())
    for row, adversarial_row, y in zip(clean, adversarial, labels, strict=True):
        p, q = probabilities(row), probabilities(adversarial_row)
        runner_up = max(q[k] for k in range(len(q)) if k != y)
        boosted = -torch.log(q[y]) - torch.log(1 - runner_up)
        total = total + boosted + beta * kl_divergence(p, q) * (1 - p[y])
    return total / len(labels)


@pytest.mark.parametrize(("fast", "slow"), [(trades_loss, slow_trades), (mart_loss, slow_mart)])
@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
@pytest.mark.parametrize(("samples", "classes"), [(1, 2), (4, 3), (6, 10)])
def test_trades_and_mart_equal_their_equations(fast, slow, beta, samples, classes):
    clean, adversarial = (2 * random_embeddings([0] * samples, seed, classes) for seed in (samples, samples + 50))
    labels = torch.arange(samples) % classes
    ours, loop = fast(clean, adversarial, labels, beta), slow(clean, adversarial, labels, beta)
    torch.testing.assert_close(ours, loop, atol=1e-10, rtol=1e-10)
    if beta:
        ours = torch.autograd.grad(ours, (clean, adversarial))
        torch.testing.assert_close(ours, torch.autograd.grad(loop, (clean, adversarial)), atol=1e-10, rtol=1e-10)


def test_default_betas_are_those_of_the_papers():
    clean, adversarial, labels = random_embeddings([0] * 4, 1, 3), random_embeddings([0] * 4, 2, 3), torch.arange(4) % 3
    torch.testing.assert_close(trades_loss(clean, adversarial, labels), slow_trades(clean, adversarial, labels, 6.0))
    torch.testing.assert_close(mart_loss(clean, adversarial, labels), slow_mart(clean, adversarial, labels, 5.0))


@PROPERTY
@given(st.sampled_from([trades_loss, mart_loss]), st.lists(st.sampled_from([-1e4, 0.0, 1e4]), min_size=12, max_size=12))
def test_extreme_logits_keep_value_and_gradient_finite(loss_function, values):
    logits = torch.tensor(values).view(2, 2, 3)
    clean, adversarial = logits[0].clone().requires_grad_(), logits[1].clone().requires_grad_()
    loss = loss_function(clean, adversarial, torch.tensor([0, 2]))
    assert loss.isfinite()
    for grad in torch.autograd.grad(loss, (clean, adversarial)):
        assert grad.isfinite().all()


def test_equal_logits_have_no_divergence():
    logits, labels = random_embeddings([0] * 4, 1, 3), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(trades_loss(logits, logits, labels, 100.0), F.cross_entropy(logits, labels))
    torch.testing.assert_close(mart_loss(logits, logits, labels, 100.0), mart_loss(logits, logits, labels, 0.0))


# --- ANCHOR's objective ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contrastive_weight", [0.0, 1.0, 2.5])
def test_anchor_loss_is_the_sum_by_hand(contrastive_weight):
    labels = torch.tensor([0, 1, 1])
    logits, embeddings = random_embeddings([0] * 3, 1, 4), random_embeddings([0] * 6, 2)
    terms = anchor_loss(
        logits,
        labels,
        embeddings,
        labels.repeat(2),
        contrastive_weight=contrastive_weight,
        temperature=0.3,
        beta=2.0,
        detach_weights=False,
    )
    cross_entropy = -sum(torch.log(probabilities(row)[y]) for row, y in zip(logits, labels, strict=True)) / 3
    contrastive = loop_loss(embeddings, labels.repeat(2), 0.3, 2.0, detach=False)
    torch.testing.assert_close(terms.cross_entropy, cross_entropy)
    torch.testing.assert_close(terms.contrastive, contrastive)
    total = cross_entropy + contrastive_weight * contrastive
    torch.testing.assert_close(terms.total, total)
    torch.testing.assert_close(gradient(terms.total, logits), gradient(total, logits))
    if contrastive_weight:
        ours = gradient(
            anchor_loss(
                logits,
                labels,
                embeddings,
                labels.repeat(2),
                contrastive_weight=contrastive_weight,
                temperature=0.3,
                beta=2.0,
                detach_weights=False,
            ).total,
            embeddings,
        )
        total = contrastive_weight * loop_loss(embeddings, labels.repeat(2), 0.3, 2.0, detach=False)
        torch.testing.assert_close(ours, gradient(total, embeddings))


# --- errors ----------------------------------------------------------------------------------------------------------

Z, Y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_temperature_must_be_positive_and_finite(bad):
    for call in (
        lambda: supcon_loss(Z, Y, temperature=bad),
        lambda: hard_positive_supcon_loss(Z, Y, temperature=bad),
        lambda: anchor_loss(Z, Y, Z, Y, temperature=bad),
    ):
        with pytest.raises(ValueError, match=f"temperature={bad}: allowed is a finite number, above 0"):
            call()


@pytest.mark.parametrize("bad", [-0.1, math.inf, math.nan])
def test_beta_must_be_finite_and_not_negative(bad):
    for call in (
        lambda: hardness_weights(Z, Y, bad),
        lambda: hard_positive_supcon_loss(Z, Y, beta=bad),
        lambda: trades_loss(Z, Z, Y, beta=bad),
        lambda: mart_loss(Z, Z, Y, beta=bad),
        lambda: anchor_loss(Z, Y, Z, Y, beta=bad),
    ):
        with pytest.raises(ValueError, match=f"beta={bad}: allowed is a finite number, 0 or more"):
            call()


@pytest.mark.parametrize("bad", [-0.1, math.inf, math.nan])
def test_contrastive_weight_must_be_finite_and_not_negative(bad):
    with pytest.raises(ValueError, match=f"contrastive_weight={bad}: allowed is a finite number, 0 or more"):
        anchor_loss(Z, Y, Z, Y, contrastive_weight=bad)


CALLS = {
    "supcon": lambda rows, labels: supcon_loss(rows, labels),
    "weights": lambda rows, labels: hardness_weights(rows, labels, 1.0),
    "hard positive": lambda rows, labels: hard_positive_supcon_loss(rows, labels),
    "trades": lambda rows, labels: trades_loss(rows, rows, labels),
    "mart": lambda rows, labels: mart_loss(rows, rows, labels),
    "anchor, logits": lambda rows, labels: anchor_loss(rows, labels, Z, Y),
    "anchor, embeddings": lambda rows, labels: anchor_loss(Z, Y, rows, labels),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_shapes_and_label_types_are_checked(call):
    with pytest.raises(ValueError, match=r"\(4, 3, 1\) and labels \(4,\)"):
        call(Z[..., None], Y)
    with pytest.raises(ValueError, match=r"\(4, 3\) and labels \(3,\)"):
        call(Z, Y[:3])
    with pytest.raises(ValueError, match=r"\(4, 3\) and labels \(4, 1\)"):
        call(Z, Y[:, None])
    with pytest.raises(ValueError, match=r"labels have .*dtype torch.float32: allowed are 4 integers"):
        call(Z, Y.float())
    for wrong in (torch.tensor([True, False, True, True]), Y + 0j):
        with pytest.raises(ValueError, match=r"labels have .*allowed are 4 integers"):
            call(Z, wrong)


@pytest.mark.parametrize("call", [CALLS[name] for name in ("trades", "mart", "anchor, logits")])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, 3, 3], r"labels=3: allowed are 0 to 2 for a network with 3 outputs; labels start at 0, subtract 1"),
        ([0, 7, 5, 2], r"labels=5, 7: allowed are 0 to 2 for a network with 3 outputs$"),
        ([0, 1, 2, -100], r"labels=-100: allowed are 0 to 2"),  # what torch's own cross-entropy ignores
    ],
)
def test_labels_name_outputs(call, labels, message):
    with pytest.raises(ValueError, match=message):
        call(Z, torch.tensor(labels))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_labels_of_any_integer_type(call, dtype):
    found, expected = call(Z, Y.to(dtype)), call(Z, Y)
    assert torch.equal(getattr(found, "total", found), getattr(expected, "total", expected))


@pytest.mark.parametrize("loss_function", [trades_loss, mart_loss])
@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (4, 1), (4, 2)], ids=str)
def test_clean_and_adversarial_logits_must_have_one_shape(loss_function, shape):
    """Broadcasting would give a number that means nothing."""
    with pytest.raises(ValueError, match="adversarial"):
        loss_function(Z, torch.zeros(shape), Y)


def test_mart_needs_a_second_class():
    with pytest.raises(ValueError, match="logits"):
        mart_loss(torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(4, dtype=torch.long))
