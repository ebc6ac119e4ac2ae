"""Training: the loss of one step of each method, reproducible and resumable runs, checkpoints, fine-tuning."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from samples import same
from torch import nn

from anchor_utils import data, loop, losses, models, training
from anchor_utils.config import METHODS, Config, load_preset
from anchor_utils.data import Split
from anchor_utils.loop import learning_rate
from anchor_utils.objectives import Heads, InnerProblem
from anchor_utils.train import main
from anchor_utils.training import finetune, fit

FILES = {"config.json", "metrics.jsonl", "best.safetensors", "last.safetensors"}


def weights(run, which="last"):
    return run.model(which).state_dict()


def forbidden(*_, **__):
    raise AssertionError("this must not be called")


# Learning-rate schedule


def rates(steps=40, **changes):
    config = Config(learning_rate=0.4, **changes)
    return [learning_rate(config, step, steps) for step in range(steps)]


def torch_rates(scheduler, steps=40, **arguments):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = scheduler(optimizer, **arguments)
    result = []
    for _ in range(steps):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return result


def test_schedules_equal_those_of_torch():
    cosine = torch_rates(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=40)
    assert rates(schedule="cosine", warmup=0) == pytest.approx(cosine)
    step = torch_rates(torch.optim.lr_scheduler.MultiStepLR, milestones=[20, 30], gamma=0.1)
    assert rates(schedule="step", warmup=0) == pytest.approx(step)
    assert rates(schedule="constant", warmup=0) == [0.4] * 40


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_warmup_rises_linearly_to_the_full_rate(schedule):
    found = rates(schedule=schedule, warmup=0.2)
    assert found[:8] == pytest.approx([0.05 * k for k in range(1, 9)])
    assert found[8] == pytest.approx(0.4)
    assert all(later <= earlier for earlier, later in itertools.pairwise(found[8:]))
    uneven = rates(steps=12, schedule=schedule, warmup=0.2)  # 2.4 steps
    assert uneven[:3] == pytest.approx([0.4 / 3, 0.8 / 3, 0.4])
    assert max(uneven) == pytest.approx(0.4)


# Whole runs


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finishes_and_writes_its_files(tiny, few_digits, tmp_path, method):
    config = tiny.replace(method=method, epochs=1, runs_dir=str(tmp_path))
    run = fit(config, dataset=few_digits, progress=False)
    assert run.path == tmp_path / config.run_name()
    assert {file.name for file in run.path.iterdir()} == FILES
    row = run.metrics().iloc[-1]
    assert (row["epoch"], row["step"]) == (1, 5)
    assert ("contrastive" in row) == METHODS[method].contrastive
    if METHODS[method].contrastive:
        assert row["loss"] == pytest.approx(row["cross_entropy"] + row["contrastive"], rel=1e-5)
    assert 0 <= row["robust_accuracy"] <= row["clean_accuracy"] <= 1
    assert run.model().metadata["method"] == method
    stored = json.loads((run.path / "config.json").read_text())
    assert stored["training"] == config.training_fields()
    assert {**stored["training"], **stored["other"]} == config.model_dump()
    assert not stored["training"].keys() & stored["other"].keys()


def test_network_fits_the_data(tiny_run, few_digits):
    architecture = tiny_run.model().architecture
    assert (architecture["num_classes"], architecture["in_channels"], architecture["width"]) == (10, 1, 2)
    assert (architecture["mean"], architecture["std"]) == (list(few_digits.mean), list(few_digits.std))


def test_the_same_configuration_gives_the_same_bits(tiny, tiny_run, few_digits, tmp_path):
    torch.manual_seed(99)  # the caller's randomness plays no part, and is left alone
    state = torch.get_rng_state()
    again = fit(tiny, path=tmp_path / "again", dataset=few_digits, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(weights(again), weights(tiny_run))
    assert same(weights(again, "best"), weights(tiny_run, "best"))
    assert again.metrics().drop(columns="seconds").equals(tiny_run.metrics().drop(columns="seconds"))
    other = fit(tiny.replace(seed=1), path=tmp_path / "other", dataset=few_digits, progress=False)
    assert not same(weights(other), weights(tiny_run))


@pytest.mark.parametrize("stop_at", [2, 7])
def test_interrupted_run_resumes_to_the_same_bits(tiny, tiny_run, few_digits, tmp_path, monkeypatch, stop_at):
    original, calls = loop.batch_gradient, itertools.count()

    def interrupted(*arguments, **options):
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    path = tmp_path / "run"
    monkeypatch.setattr(loop, "batch_gradient", interrupted)
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny, path=path, dataset=few_digits, progress=False)
    assert not (path / "last.safetensors").exists()
    assert (path / "resume.safetensors").exists()

    calls = itertools.count(100)
    run = fit(tiny, path=path, dataset=few_digits, progress=False)
    assert next(calls) == 110 - stop_at  # what was done is not done again
    assert {file.name for file in path.iterdir()} == FILES
    assert same(weights(run), weights(tiny_run))
    assert same(weights(run, "best"), weights(tiny_run, "best"))
    assert run.metrics().drop(columns="seconds").equals(tiny_run.metrics().drop(columns="seconds"))


def test_the_state_of_another_run_is_not_taken_up(tiny, few_digits, tmp_path, monkeypatch):
    original, calls = loop.batch_gradient, itertools.count()

    def interrupted(*arguments, **options):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(loop, "batch_gradient", interrupted)
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny, path=tmp_path, dataset=few_digits, progress=False)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds a run with other values of \['seed'\]"):
        fit(tiny.replace(seed=1), path=tmp_path, dataset=few_digits, progress=False)


def test_accelerates_own_settings_do_not_change_what_is_trained(tiny, tiny_run, few_digits, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert same(weights(fit(tiny, path=tmp_path, dataset=few_digits, progress=False)), weights(tiny_run))


def test_another_data_set_than_the_configurations_is_refused(tiny, few_digits, tmp_path):
    config = tiny.replace(dataset="cifar10", runs_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"dataset.name='mnist5k': allowed is that of the configuration, 'cifar10'"):
        fit(config, dataset=few_digits, progress=False)


def test_every_epoch_is_kept_on_request(tiny, tiny_run, few_digits, tmp_path):
    config = tiny.replace(keep_epochs=True, runs_dir=str(tmp_path))
    assert config.training_fields() == tiny.training_fields()
    run = fit(config, dataset=few_digits, progress=False)
    assert {file.name for file in run.path.iterdir()} == FILES | {f"epoch-00{n}.safetensors" for n in (0, 1, 2)}
    assert same(run.model(2).state_dict(), weights(tiny_run)), "keeping epochs changed the training"
    assert not same(run.model(1).state_dict(), weights(tiny_run))
    untrained = run.model(0)
    assert untrained.metadata["epoch"] == 0
    assert all((m.running_mean == 0).all() for m in untrained.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_hardness_entropy_is_logged_as_a_share_of_supcons(tiny, few_digits, tmp_path):
    means = {}
    for beta in (0.0, 2.0, 50.0):
        config = tiny.replace(beta=beta, epochs=1, runs_dir=str(tmp_path))
        means[beta] = fit(config, dataset=few_digits, progress=False).metrics()["hardness_entropy"].item()
    assert means[0.0] == pytest.approx(1)
    assert 0 < means[50.0] < means[2.0] < 1


def test_finished_run_is_not_trained_again(tiny, tiny_run, monkeypatch):
    monkeypatch.setattr(training, "_train", forbidden)
    again = fit(tiny.replace(test_images=7), path=tiny_run.path)  # what is evaluated does not matter
    assert same(weights(again), weights(tiny_run))


def test_folder_of_another_run_is_refused(tiny, tiny_run, monkeypatch):
    monkeypatch.setattr(training, "_train", forbidden)
    with pytest.raises(ValueError, match=r"holds a run with other values of \['beta', 'seed'\]; choose another"):
        fit(tiny.replace(seed=1, beta=0.5), path=tiny_run.path)


def test_configuration_that_does_not_fit_the_data_is_refused(tiny, few_digits, tmp_path):
    with pytest.raises(ValueError, match=r"batch_size=161: allowed is up to 160"):
        fit(tiny.replace(batch_size=161), path=tmp_path, dataset=few_digits, progress=False)
    with pytest.raises(ValueError, match=r"test_images=1001: allowed is 1 to 1000"):
        fit(tiny.replace(test_images=1001), path=tmp_path, progress=False)
    parts = {
        part: Split(s.images, 0 * s.labels) for part, s in (("train", few_digits.train), ("test", few_digits.test))
    }
    one_class = dataclasses.replace(few_digits, **parts, classes=("0",))
    with pytest.raises(ValueError, match=r"dataset='mnist5k': allowed are 2 classes or more, this has 1"):
        fit(tiny, path=tmp_path, dataset=one_class, progress=False)
    assert not list(tmp_path.iterdir())


def test_all_that_does_not_fit_the_data_is_said_at_once(tiny):
    config = tiny.replace(train_images=5000, validation_images=4500, batch_size=4500, test_images=1001)
    with pytest.raises(ValueError, match="test_images") as caught:
        data.load_data(config)
    assert str(caught.value).split("; ") == [
        "train_images=5000: allowed is 1 to 4000, the training images there are",
        "validation_images=4500: allowed is 1 to 3999, below the number of training images",
        "batch_size=4500: allowed is up to 3999, the training images left beside validation",
        "test_images=1001: allowed is 1 to 1000, the images there are",
    ]


def test_a_data_set_with_another_number_of_training_images_is_refused(tiny, digits, tmp_path):
    with pytest.raises(ValueError, match="dataset has 4000 training images: allowed is train_images=200"):
        fit(tiny, path=tmp_path / "run", dataset=digits, progress=False)


@pytest.mark.parametrize(("method", "chosen"), [("pgd_at", 3), ("standard", 5)])
def test_best_checkpoint_has_the_highest_held_out_accuracy(tiny, few_digits, tmp_path, monkeypatch, method, chosen):
    # (robust, clean). Robust accuracy decides, then clean accuracy, then the earlier epoch; for methods that are
    # trained on clean images, which are never robust, clean accuracy decides.
    scores = [(0.1, 0.9), (0.5, 0.5), (0.5, 0.6), (0.5, 0.6), (0.3, 1.0), (0.2, 0.7)]
    remaining = iter(scores)

    def scripted(*_):
        robust, clean = next(remaining)
        return {"clean_accuracy": clean, "robust_accuracy": robust}

    monkeypatch.setattr(loop, "_validate", scripted)
    config = tiny.replace(method=method, epochs=len(scores), attack_steps=1)
    run = fit(config, path=tmp_path, dataset=few_digits, progress=False)
    best, last = run.model("best").metadata, run.model("last").metadata
    assert (best["epoch"], last["epoch"]) == (chosen, 6)
    assert (best["robust_accuracy"], best["clean_accuracy"]) == scores[chosen - 1]
    assert run.metrics()["robust_accuracy"].tolist() == [robust for robust, _ in scores]
    assert not same(weights(run, "best"), weights(run, "last"))


def test_scores_are_those_of_the_checkpoint_on_held_out_images(tiny, tiny_run, few_digits):
    best = tiny_run.model("best")
    held_out = few_digits.hold_out(40)[1]
    with torch.no_grad():
        clean = best(held_out.inputs()).argmax(1).eq(held_out.labels).float().mean().item()
    row = tiny_run.metrics().set_index("epoch").loc[best.metadata["epoch"]]
    assert row["clean_accuracy"] == pytest.approx(clean)
    ranking = list(zip(tiny_run.metrics()["robust_accuracy"], tiny_run.metrics()["clean_accuracy"], strict=True))
    assert best.metadata["epoch"] == 1 + ranking.index(max(ranking))


def test_test_images_decide_nothing_and_held_out_ones_are_not_trained_on(
    tiny, tiny_run, few_digits, tmp_path, monkeypatch
):
    trained_on, original = Counter(), loop.batch_gradient

    def spy(config, forward, attack, images, *rest, **options):
        trained_on.update(image.numpy().tobytes() for image in images)
        return original(config, forward, attack, images, *rest, **options)

    monkeypatch.setattr(loop, "batch_gradient", spy)
    other = dataclasses.replace(few_digits, test=Split(255 - few_digits.test.images, 9 - few_digits.test.labels))
    run = fit(tiny, path=tmp_path, dataset=other, progress=False)
    finetune(run, dataset=other, progress=False)
    assert same(weights(run, "best"), weights(tiny_run, "best")), "the test images decided something"
    rest, held_out = few_digits.hold_out(tiny.validation_images)
    assert set(trained_on) == {image.numpy().tobytes() for image in rest.train.images}
    assert not set(trained_on) & {image.numpy().tobytes() for image in held_out.images}
    assert set(trained_on.values()) == {3}  # each once an epoch: two epochs and one of fine-tuning


def test_a_network_learns(standard_run):
    metrics = standard_run.metrics()
    assert metrics["loss"].iloc[-1] < 0.3 < 0.7 < metrics["loss"].iloc[0]
    assert metrics["clean_accuracy"].iloc[-1] > 0.85


def test_adversarial_training_makes_a_network_robust(standard_run, robust_run):
    assert robust_run.metrics()["robust_accuracy"].max() > standard_run.metrics()["robust_accuracy"].max() + 0.3
    assert robust_run.metrics()["clean_accuracy"].iloc[-1] > 0.8


# Losses that are not finite


@pytest.mark.parametrize(("step", "epoch"), [(0, 1), (7, 2)])
def test_loss_that_is_not_finite_stops_the_run(tiny, few_digits, tmp_path, monkeypatch, step, epoch):
    original, calls = loop.batch_gradient, itertools.count()

    def poisoned(*arguments, **options):
        found = original(*arguments, **options)
        return found._replace(loss=found.loss * (float("nan") if next(calls) == step else 1.0))

    monkeypatch.setattr(loop, "batch_gradient", poisoned)
    config = tiny.replace(method="standard", schedule="constant", warmup=0, learning_rate=0.0123)
    with pytest.raises(FloatingPointError) as caught:
        fit(config, path=tmp_path, dataset=few_digits, progress=False)
    message = str(caught.value)
    assert f"nan at step {step} of 10 (epoch {epoch})" in message
    assert "learning rate 0.0123" in message
    good = str(tmp_path / "best.safetensors") if epoch > 1 else "none yet"
    assert f"last good checkpoint: {good}" in message


@pytest.mark.parametrize("batch_size", [32, 160])
def test_a_run_that_diverges_leaves_no_useless_checkpoint(tiny, few_digits, tmp_path, batch_size):
    # With 160 there is one step an epoch, and the network is ruined when the epoch ends.
    config = tiny.replace(method="standard", warmup=0, learning_rate=1e25, batch_size=batch_size)
    with pytest.raises(FloatingPointError, match=r"learning rate .*last good checkpoint"):
        fit(config, path=tmp_path, dataset=few_digits, progress=False)
    for file in tmp_path.glob("*.safetensors"):
        if file.name != "resume.safetensors":
            assert models.load(file)(few_digits.train[:4].inputs()).isfinite().all()


# Fine-tuning


@pytest.mark.parametrize("adversarial", [True, False])
def test_finetuning_trains_the_classifier_and_nothing_else(tiny_run, few_digits, monkeypatch, adversarial):
    attacks = []
    original = InnerProblem.__call__
    monkeypatch.setattr(InnerProblem, "__call__", lambda *a, **k: attacks.append(k) or original(*a, **k))
    before = {file.name: file.read_bytes() for file in tiny_run.path.iterdir() if file.is_file()}
    tuned = finetune(tiny_run, adversarial=adversarial, dataset=few_digits, progress=False)
    assert bool(attacks) == adversarial

    assert tuned.path.parent == tiny_run.path
    assert tuned.path.name.startswith("finetune-" if adversarial else "probe-")
    assert {file.name: file.read_bytes() for file in tiny_run.path.iterdir() if file.is_file()} == before
    start, end = weights(tiny_run, "best"), weights(tuned, "last")
    encoder = {name for name in start if not name.startswith(("classifier", "projection"))}
    assert any("running_mean" in name for name in encoder)
    assert set(end) == encoder | {"classifier.weight", "classifier.bias"}  # no projection head
    assert all(torch.equal(start[name], end[name]) for name in encoder)
    assert not torch.equal(start["classifier.weight"], end["classifier.weight"])
    assert tuned.model().projection is None

    monkeypatch.setattr(training, "_train", forbidden)
    assert finetune(tiny_run, adversarial=adversarial).path == tuned.path


def test_finetuning_starts_from_a_new_classifier_and_learns(robust_run, small_digits):
    config = robust_run.config.replace(finetune_epochs=1, finetune_learning_rate=0.2)
    tuned = finetune(robust_run, config, adversarial=False, dataset=small_digits, progress=False)
    assert tuned.metrics()["clean_accuracy"].iloc[-1] > 0.8
    other = finetune(robust_run, config.replace(finetune_learning_rate=0.1), dataset=small_digits, progress=False)
    assert other.path != tuned.path


# The command


def command(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=120, check=False
    )


def pairs(fields):
    return [word for name, value in fields.items() for word in ("-p", name, str(value))]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "smok"], ["preset 'smok'", "did you mean 'smoke'"]),
        (["--preset", "smoke", "-p", "epsilon", "8/255"], ["epsilon='8/255'", "number"]),
        (["--preset", "smoke", "-p", "method", "ancor"], ["method='ancor'", "'anchor'"]),
        (["--preset", "smoke", "-p", "dataset", "imagefolder:/nowhere"], ["missing folder '/nowhere'", "PATH/train"]),
    ],
)
def test_command_refuses_bad_parameters(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_train", forbidden)
    assert main([*arguments, "--run-dir", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert not printed.out
    for word in words:
        assert word in printed.err


def test_command_refuses_bad_parameters_before_torch_is_loaded():
    code = (
        "import sys; from anchor_utils.train import main; code = main(sys.argv[1:]); assert 'torch' not in sys.modules"
    )
    result = command("-c", f"{code}; sys.exit(code)", "--preset", "smoke", "-p", "epoch", "3")
    assert result.returncode == 2
    assert result.stderr.startswith("error: unknown parameter 'epoch'; did you mean 'epochs'?")
    assert "Traceback" not in result.stderr


def test_command_trains_into_the_folder(tmp_path, capsys):
    fields = {"method": "standard", "train_images": 100, "validation_images": 20, "width": 1, "device": "cpu"}
    arguments = ["--preset", "smoke", *pairs(fields), "--run-dir", str(tmp_path)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == FILES
    assert main([*arguments, "-p", "seed", "1"]) == 2
    assert "other values of ['seed']" in capsys.readouterr().err


# Several processes


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs libuv, which torch for Windows has not")
def test_two_processes_take_one_step_on_one_batch(tmp_path):
    # Without crop and radius nothing in it is random, and it can be computed here, too.
    random = np.random.default_rng(0)
    for part, name in itertools.product(("train", "test"), "abcd"):
        (tmp_path / "data" / part / name).mkdir(parents=True)
        for i in range(21):
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(
                tmp_path / "data" / part / name / f"{i}.png"
            )
    fields = {"dataset": f"imagefolder:{tmp_path}/data", "train_images": 84, "validation_images": 20, "batch_size": 64}
    fields |= {"method": "anchor", "epochs": 1, "crop_padding": 0, "epsilon": 0, "attack_steps": 1, "warmup": 0}
    fields |= {"beta": 3.0, "width": 2, "precision": "float32", "device": "cpu", "data_root": str(tmp_path)}
    # torchrun, because `accelerate launch --cpu` starts one process whatever --num_processes says.
    launch = "-m torch.distributed.run --standalone --nproc_per_node 2 -m anchor_utils.train --preset smoke"
    result = command(*launch.split(), *pairs(fields), "--run-dir", str(tmp_path / "run"))
    assert result.returncode == 0, result.stderr[-3000:]
    assert {file.name for file in (tmp_path / "run").iterdir()} == FILES

    config = load_preset("smoke", **fields)
    dataset = data.load_data(config)
    train = dataset.hold_out(20)[0].train
    torch.manual_seed(config.seed)
    model = models.AnchorNet(4, 2, 3, config.projection_dim, dataset.mean, dataset.std, config.stem_stride).train()
    heads = Heads(model, "anchor", torch.float32)
    chosen = torch.randperm(64, generator=torch.Generator().manual_seed(loop._seed(config.seed, 0)))
    cross_entropies, embeddings, labels = [], [], []
    for rank in range(2):  # each has its half of the batch, and its own BatchNorm statistics
        half = train[chosen[rank::2]]
        logits, z = heads(half.inputs().repeat(2, 1, 1, 1))
        cross_entropies.append(nn.functional.cross_entropy(logits[32:], half.labels))
        embeddings.append(z)
        labels.append(half.labels.repeat(2))
    contrast = losses.hard_positive_supcon_loss(torch.cat(embeddings), torch.cat(labels), beta=3.0)
    optimizer = torch.optim.SGD(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    (sum(cross_entropies) / 2 + config.contrastive_weight * contrast).backward()
    optimizer.step()

    (row,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    # Positives and negatives come from both processes.
    assert row["contrastive"] == pytest.approx(contrast.item(), rel=1e-4)
    trained = dict(models.load(tmp_path / "run" / "last.safetensors").named_parameters())
    for name, value in model.named_parameters():
        torch.testing.assert_close(trained[name], value, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.slow
def test_what_one_process_left_within_an_epoch_two_do_not_go_on_with(tmp_path, monkeypatch):
    """Each would draw the random numbers of the one."""
    fields = {"train_images": 100, "validation_images": 20, "width": 1, "batch_size": 20, "device": "cpu"}
    original, calls = loop.batch_gradient, itertools.count()

    def interrupted(*arguments, **options):
        if next(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments, **options)

    monkeypatch.setattr(loop, "batch_gradient", interrupted)
    assert main(["--preset", "smoke", *pairs(fields), "--run-dir", str(tmp_path)]) == 130
    launch = "-m torch.distributed.run --standalone --nproc_per_node 2 -m anchor_utils.train --preset smoke"
    result = command(*launch.split(), *pairs(fields), "--run-dir", str(tmp_path))
    assert result.returncode != 0
    assert "allowed is to go on with one process, as it was begun, not with 2" in result.stderr
    assert main(["--preset", "smoke", *pairs(fields), "--run-dir", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("processes", "fields", "message"),
    [
        (3, {}, r"batch_size=32: allowed is a multiple of the number of processes, 3"),
        (2, {"awp": 0.01}, r"awp=0.01: allowed is 0 with 2 processes"),
        (2, {"method": "anchor", "permute_weights": True}, r"permute_weights=True: allowed is False with 2 processes"),
    ],
)
def test_what_several_processes_cannot_do(tiny, few_digits, tmp_path, monkeypatch, processes, fields, message):
    class Processes:
        num_processes = processes

    monkeypatch.setattr(training, "_accelerator", lambda config: Processes())
    with pytest.raises(ValueError, match=message):
        fit(tiny.replace(**fields), path=tmp_path / "run", dataset=few_digits, progress=False)
    assert not (tmp_path / "run").exists()


def test_an_interrupted_command_says_that_it_can_go_on(monkeypatch, capsys, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", stop)
    assert main(["--preset", "smoke", "--run-dir", str(tmp_path)]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--preset", "smoke", "--run-dir", str(tmp_path / "file" / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert repr(str(tmp_path / "file"))[1:-1] in error
