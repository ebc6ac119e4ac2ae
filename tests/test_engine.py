"""The engine: its steps are those of the plain loop, for every method, interrupted or not."""

import copy
import functools
import itertools
import signal

import pandas as pd
import pytest
import torch

from anchor_utils import engine, models, runs
from anchor_utils.config import METHODS
from anchor_utils.models import resolve_precision
from anchor_utils.objectives import Heads, InnerProblem
from anchor_utils.runs import Progress
from anchor_utils.training import finetune, fit


def weights(run, which="last"):
    return run.model(which).state_dict()


def assert_close(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("attack_mode", ["eval", "train"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_of_the_engine_is_that_of_the_plain_loop(tiny, few_digits, tmp_path, method, attack_mode):
    """One, for the attack's signs turn the rounding of a step into other images in the next."""
    config = tiny.replace(method=method, epochs=1, batch_size=160, attack_mode=attack_mode)
    plain = fit(config, path=tmp_path / "plain", dataset=few_digits, progress=False)
    fast = fit(config.replace(graph=True), path=tmp_path / "fast", dataset=few_digits, progress=False)
    assert_close(weights(plain), weights(fast))
    (before,), (after,) = (run.metrics().drop(columns="seconds").to_dict("records") for run in (plain, fast))
    assert before == pytest.approx(after, rel=1e-4, abs=1e-5)


RECIPE = {"nesterov": True, "ema": 0.9, "label_smoothing": 0.1, "random_erasing": 0.5, "awp": 0.01}


# MART has no label smoothing, ANCHOR everything; the others are in between.
@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=[] if m in ("mart", "anchor") else pytest.mark.slow) for m in METHODS]
)
def test_so_is_a_step_with_the_whole_recipe(tiny, few_digits, tmp_path, method):
    config = tiny.replace(method=method, epochs=1, batch_size=160, **RECIPE)
    plain = fit(config, path=tmp_path / "plain", dataset=few_digits, progress=False)
    fast = fit(config.replace(graph=True), path=tmp_path / "fast", dataset=few_digits, progress=False)
    assert_close(weights(plain), weights(fast))


@pytest.mark.parametrize("scale", [pytest.param(2.0**16, marks=pytest.mark.slow), 2.0**34])
def test_gradients_of_float16_are_scaled_by_the_engine_too(tiny, few_digits, tmp_path, monkeypatch, scale):
    """The larger scale overflows in the first steps, which both leave out, and is halved by each."""
    scales = []
    update = torch.amp.GradScaler.update

    def spied(scaler):
        update(scaler)
        scales.append(scaler.get_scale())

    monkeypatch.setattr(torch.amp.GradScaler, "update", spied)
    monkeypatch.setattr(torch.amp, "GradScaler", functools.partial(torch.amp.GradScaler, init_scale=scale))
    config = tiny.replace(method="standard", epochs=2, batch_size=20, precision="float16")
    plain = fit(config, path=tmp_path / "plain", dataset=few_digits, progress=False)
    fast = fit(config.replace(graph=True), path=tmp_path / "fast", dataset=few_digits, progress=False)
    assert scales[: len(scales) // 2] == scales[len(scales) // 2 :]
    assert (scales[0] < scale) == (scale > 2.0**16)
    for name, value in weights(plain).items():
        torch.testing.assert_close(value, weights(fast)[name], rtol=1e-2, atol=1e-3, msg=name)


def test_fine_tuning_by_the_engine_leaves_the_encoder_alone(tiny_run, few_digits):
    config = tiny_run.config.replace(graph=True, finetune_learning_rate=0.07)
    tuned = finetune(tiny_run, config, dataset=few_digits, progress=False)
    start, end = weights(tiny_run, "best"), weights(tuned)
    encoder = {name for name in start if not name.startswith(("classifier", "projection"))}
    assert all(torch.equal(start[name], end[name]) for name in encoder)
    assert not torch.equal(start["classifier.weight"], end["classifier.weight"])


@pytest.mark.parametrize("stop_at", [2, 7])
def test_an_interrupted_run_ends_with_the_same_bits(tiny, few_digits, tmp_path, monkeypatch, stop_at):
    config = tiny.replace(graph=True, ema=0.8)
    whole = fit(config, path=tmp_path / "whole", dataset=few_digits, progress=False)
    original, calls = engine.batch_gradient, itertools.count()

    def interrupted(*arguments, **options):
        if next(calls) == stop_at:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments, **options)

    monkeypatch.setattr(engine, "batch_gradient", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(config, path=tmp_path / "cut", dataset=few_digits, progress=False)
    again = fit(config, path=tmp_path / "cut", dataset=few_digits, progress=False)
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(whole).items())
    tables = [run.metrics().drop(columns="seconds") for run in (again, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_a_loss_that_is_not_finite_is_noticed_at_the_end_of_the_epoch(tiny, few_digits, tmp_path):
    config = tiny.replace(method="standard", warmup=0, learning_rate=1e25, graph=True)
    with pytest.raises(FloatingPointError, match="loss is nan at step 4 of 10"):
        fit(config, path=tmp_path, dataset=few_digits, progress=False)
    assert not (tmp_path / "best.safetensors").exists()


def test_random_numbers_of_another_device_are_refused(tiny, few_digits, tmp_path, monkeypatch):
    other = Progress(batch=2), torch.zeros(16, dtype=torch.uint8)
    monkeypatch.setattr(runs, "resume", lambda *_: other)
    with pytest.raises(ValueError, match="numbers of another device: allowed is to go on there"):
        fit(tiny, path=tmp_path, dataset=few_digits, progress=False)


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def on_gpu(config, dataset, recording):
    torch.manual_seed(0)
    model = models.AnchorNet(10, 2, 1, 8).cuda().train()
    attack = InnerProblem(model, config, torch.Generator("cuda").manual_seed(0))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=torch.tensor(0.1, device="cuda"), momentum=0.9, fused=True)
    heads = Heads(model, config.method, resolve_precision(config.precision, "cuda"))
    average = copy.deepcopy(model).requires_grad_(False) if config.ema else None
    scaler = torch.amp.GradScaler("cuda", enabled=config.precision == "float16")
    steps = engine.Engine(config, model, heads, attack, optimizer, scaler, dataset.train.to("cuda"), average)
    steps.recording = recording
    return steps


@gpu
def test_where_a_step_cannot_be_recorded_it_is_said_and_done_all_the_same(tiny, few_digits, monkeypatch):
    plain = on_gpu(tiny, few_digits, False)
    failing, original = on_gpu(tiny, few_digits, True), engine.batch_gradient

    def waits(*arguments, **options):
        found = original(*arguments, **options)
        if torch.cuda.is_current_stream_capturing():
            found.loss.item()
        return found

    monkeypatch.setattr(engine, "batch_gradient", waits)
    chosen = torch.arange(32, device="cuda")
    with pytest.warns(UserWarning, match="no CUDA graph could be recorded"):
        failing.step(chosen, 0.1, 0.3, 0.1)
    plain.step(chosen, 0.1, 0.3, 0.1)
    assert_close(*({name: v.cpu() for name, v in steps.model.state_dict().items()} for steps in (failing, plain)))


@gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("attack_mode", ["eval", "train"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_never_waits_for_the_gpu(tiny, few_digits, method, attack_mode, precision):
    steps = on_gpu(tiny.replace(method=method, attack_mode=attack_mode, precision=precision), few_digits, False)
    steps._once()  # the first step also does what is done once
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps._once()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu
@pytest.mark.parametrize("recipe", [{}, RECIPE, {"precision": "float16"}], ids=["plain", "recipe", "float16"])
@pytest.mark.parametrize("method", METHODS)
def test_a_recorded_step_is_the_step_that_was_recorded(tiny, few_digits, method, recipe, monkeypatch):
    """The first steps of a run, from a graph and without: the same random numbers, the same weights."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    found = []
    for recording in (True, False):
        steps = on_gpu(tiny.replace(method=method, **recipe), few_digits, recording)
        for step in range(3):
            steps.step(torch.arange(32, device="cuda") + step, 0.1, 0.3, 0.1, 0.5)
        assert (steps.graph is not None) == recording
        found.append(({name: value.cpu() for name, value in steps.model.state_dict().items()}, steps.totals()))
    assert_close(found[0][0], found[1][0])
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)
