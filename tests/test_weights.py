"""What is done with weights besides descending: averages, statistics, the worst case."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from anchor_utils import objectives, weights
from anchor_utils.config import METHODS, Config
from anchor_utils.loop import learning_rate
from anchor_utils.models import AnchorNet
from anchor_utils.objectives import Heads, InnerProblem, batch_gradient, batch_loss
from anchor_utils.training import fit


def network(seed=0):
    torch.manual_seed(seed)
    return AnchorNet(10, 2, 1, 8)


def statistics(model):
    return {name: value.clone() for name, value in model.named_buffers() if "running" in name}


def test_an_average_is_the_weighted_sum_of_all_weights_so_far():
    average, decay = network(), 0.8
    history = [network(seed) for seed in range(1, 60)]
    shares = [weights.average_share(step, decay) for step in range(len(history))]
    for model, share in zip(history, shares, strict=True):
        weights.update_average(average, model, share)
    for name, value in average.named_parameters():
        expected = torch.zeros_like(value, dtype=torch.float64)
        for index, (model, share) in enumerate(zip(history, shares, strict=True)):
            kept = torch.tensor([1 - later for later in shares[index + 1 :]], dtype=torch.float64).prod()
            expected += share * kept * model.get_parameter(name).double()
        torch.testing.assert_close(value, expected.float(), msg=name)


def test_the_first_share_is_everything_and_the_last_that_of_the_decay():
    shares = [weights.average_share(step, 0.99) for step in range(2000)]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(0.01)
    assert all(0 < share <= 1 for share in shares)


def test_a_share_on_the_device_is_that_number(random):
    first, second = network(1), network(1)
    weights.update_average(first, network(2), 0.3)
    weights.update_average(second, network(2), torch.tensor(0.3))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_new_statistics_are_those_of_torch():
    ours, theirs = network(), network()
    batches = [torch.rand(8, 1, 12, 12) for _ in range(5)]
    ours(torch.rand(8, 1, 12, 12))
    with weights.new_statistics(ours), torch.no_grad():
        for batch in batches:
            ours(batch)
    update_bn(batches, theirs)
    for name, value in statistics(theirs).items():
        torch.testing.assert_close(statistics(ours)[name], value, msg=name)
    assert not any(module.training for module in ours.modules())
    assert {m.momentum for m in ours.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_kept_statistics_keep_their_bits_and_the_gradient():
    model, x = network().train(), torch.rand(8, 1, 12, 12)
    reference = copy.deepcopy(model)
    before = statistics(model)
    with weights.kept_statistics(model):
        model(x).sum().backward()
    reference(x).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in statistics(model).items())
    for (name, one), (_, other) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, msg=name)
    model(x)
    assert not all(torch.equal(value, before[name]) for name, value in statistics(model).items())


def test_an_overflow_leaves_no_trace_in_statistics_or_weights():
    """Gradients of float16 overflow in the first steps: the step is then left out, and nothing else may be lost."""
    model, before = network().train(), statistics(network())
    with weights.kept_statistics(model):
        model(torch.full((4, 1, 12, 12), float("nan")))
    assert all(torch.equal(value, before[name]) for name, value in statistics(model).items())
    layer, old = torch.ones(2, 2), torch.ones(2, 2)
    with weights.perturbed([layer], [torch.tensor([[float("inf"), 1.0], [float("nan"), 0.0]])], 0.1):
        assert layer.isfinite().all()
        assert layer[0, 1] > 1
    assert torch.equal(layer, old)


def test_each_layer_moves_by_gamma_of_its_length_along_its_gradient():
    layers = [torch.randn(4, 3), torch.randn(5, 2, 3, 3), torch.randn(2, 2), torch.randn(3, 3)]
    gradients = [torch.randn(4, 3), 1e-9 * torch.randn(5, 2, 3, 3), None, torch.zeros(3, 3)]
    before = [layer.clone() for layer in layers]
    with weights.perturbed(layers, gradients, 0.01):
        moves = [layer - old for layer, old in zip(layers, before, strict=True)]
        for move, old, gradient in zip(moves[:2], before[:2], gradients[:2], strict=True):
            assert move.norm().item() == pytest.approx(0.01 * old.norm().item(), rel=1e-3)
            assert torch.cosine_similarity(move.flatten(), (gradient / gradient.norm()).flatten(), dim=0) > 0.999
        assert not moves[2].any()
        assert not moves[3].any()
    assert all(torch.equal(layer, old) for layer, old in zip(layers, before, strict=True))


def test_weights_come_back_when_the_step_fails():
    layers = [torch.randn(4, 3)]
    before = layers[0].clone()
    with pytest.raises(KeyboardInterrupt), weights.perturbed(layers, [torch.ones(4, 3)], 0.1):
        raise KeyboardInterrupt
    assert torch.equal(layers[0], before)


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_of_awp_is_that_of_the_same_images_at_the_perturbed_weights(few_digits, method, generator):
    """By hand: the images that the method puts together, recorded; the loss of these, at weights moved by hand."""
    config = Config(method=method, attack_steps=1, width=2, awp=0.05, crop_padding=1, batch_size=16)
    model, images, labels = network().train(), few_digits.train.images[:16], few_digits.train.labels[:16]
    heads, scaler = Heads(model, method), torch.amp.GradScaler("cpu", enabled=False)
    state, seen, before = generator.get_state(), [], copy.deepcopy(model.state_dict())

    def spied(x):
        seen.append(x.detach().clone())
        return heads(x)

    def attack():
        return InnerProblem(model, config, generator)

    given = images, labels, generator
    found = batch_gradient(config, spied, attack(), *given, model=model, scaler=scaler)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    after = statistics(model)
    assert torch.equal(seen[0], seen[1])
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())

    model.load_state_dict(before)
    generator.set_state(state)
    model.zero_grad()
    plain = batch_loss(config, heads, attack(), *given)
    assert torch.equal(found.loss, plain.loss)
    assert all(torch.equal(value, after[name]) for name, value in statistics(model).items())  # as without AWP
    plain.loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.grad is not None and parameter.grad.any():
                parameter += 0.05 * parameter.norm() * parameter.grad / parameter.grad.norm()
    model.zero_grad()
    generator.set_state(state)

    def replayed(_):
        return heads(seen[0])

    batch_loss(config, replayed, lambda x, *_, **__: x, *given).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_awp_raises_the_loss_that_is_then_descended(few_digits, generator):
    losses = []
    original = objectives.pgd_at

    def spied(step):
        losses.append(original(step).loss.item())
        return original(step)

    config = Config(method="pgd_at", attack_steps=1, width=2, awp=0.02, batch_size=64)
    model = network().train()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(objectives.OBJECTIVES, "pgd_at", spied)
        batch_gradient(
            config,
            Heads(model, "pgd_at"),
            InnerProblem(model, config, generator),
            few_digits.train.images[:64],
            few_digits.train.labels[:64],
            generator,
            model=model,
            scaler=torch.amp.GradScaler("cpu", enabled=False),
        )
    assert losses[1] > losses[0]


def test_the_average_is_what_is_kept_and_its_statistics_are_its_own(tiny, few_digits, tmp_path):
    config = tiny.replace(method="pgd_at", ema=0.5, epochs=2)
    averaged = fit(config, path=tmp_path / "average", dataset=few_digits, progress=False)
    raw = fit(config.replace(ema=0.0), path=tmp_path / "raw", dataset=few_digits, progress=False)
    first, second = (run.model("last") for run in (averaged, raw))
    assert not torch.equal(first.classifier.weight, second.classifier.weight)
    # The learning rate has fallen to nothing: the average of the last steps is close to the last weights.
    distance = (first.classifier.weight - second.classifier.weight).norm()
    assert distance < 0.2 * second.classifier.weight.norm()
    for name, value in statistics(first).items():
        assert not torch.equal(value, statistics(second)[name])


def test_one_cycle_rises_and_falls_in_straight_lines():
    config = Config(schedule="one_cycle", warmup=0.25, learning_rate=0.4, epochs=1)
    rates = torch.tensor([learning_rate(config, step, 80) for step in range(80)], dtype=torch.float64)
    torch.testing.assert_close(rates[:20], torch.linspace(0.02, 0.4, 20, dtype=torch.float64))
    torch.testing.assert_close(rates[20:], torch.linspace(0.4, 0.4 / 60, 60, dtype=torch.float64))
