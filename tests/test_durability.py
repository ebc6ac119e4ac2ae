"""Nothing that took time to compute is lost, and nothing wrong is let in: kills, full disks, damage, two at once."""

import dataclasses
import errno
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from anchor_utils import data, loop, models, runs, training
from anchor_utils.files import alone_in, write_atomically, write_text
from anchor_utils.training import finetune, fit

FILES = {"config.json", "metrics.jsonl", "best.safetensors", "last.safetensors"}
STATE, STATE_BEFORE = "resume.safetensors", "resume-before.safetensors"


def assert_same_results(path, reference, files=FILES):
    """Weights to the bit, metrics but for the seconds, and no other files."""
    assert {file.name for file in path.iterdir()} == files
    for name in ("best.safetensors", "last.safetensors"):
        found, expected = models.load(path / name), models.load(reference / name)
        assert found.state_dict().keys() == expected.state_dict().keys()
        for key, value in found.state_dict().items():
            assert torch.equal(value, expected.state_dict()[key]), f"{name}: {key}"
        assert {**found.metadata, "seconds": 0} == {**expected.metadata, "seconds": 0}
    rows, expected_rows = (
        [{**json.loads(line), "seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (path, reference)
    )
    assert rows == expected_rows


class Killed(BaseException):
    """A process that is gone: nothing catches it."""


def kill():
    raise Killed


@contextmanager
def killed_at(event):
    """Raise Killed at the n-th change to the disk and at all that follow: a process that is gone cleans nothing up.

    A write that it happens in leaves half of the file. Yields the changes in order.
    """
    changes = []

    def counted(original, name):
        def change(*arguments, **keywords):
            changes.append(name)
            if len(changes) >= event:
                if name == "write_bytes" and len(changes) == event:
                    original(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise Killed
            return original(*arguments, **keywords)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((Path, "write_bytes"), (Path, "replace"), (Path, "unlink"), (os, "fsync")):
            patch.setattr(owner, name, counted(getattr(owner, name), name))
        yield changes


def interrupt_at(monkeypatch, step, action):
    """Do `action` in the middle of a training step, of which the first is 0."""
    original, steps = loop.batch_gradient, itertools.count()

    def batch_gradient(*arguments, **options):
        result = original(*arguments, **options)
        if next(steps) == step:
            action()
        return result

    monkeypatch.setattr(loop, "batch_gradient", batch_gradient)
    return steps


@pytest.fixture
def save_every_step(monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)


@pytest.fixture
def quick(tiny):
    """Two epochs of three steps in a fraction of a second, with momentum, warm-up and random crops."""
    return tiny.replace(method="standard", train_images=80, validation_images=20, batch_size=20, width=1)


@pytest.fixture
def quick_data(quick):
    return data.load_data(quick)


@pytest.fixture(scope="module")
def killed_run(tiny, few_digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("killed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "SAVE_SECONDS", -1.0)
        interrupt_at(patch, 7, kill)
        with pytest.raises(Killed):
            fit(tiny, path=path, dataset=few_digits, progress=False)
    assert {file.name for file in path.iterdir()} == FILES - {"last.safetensors"} | {STATE, STATE_BEFORE}
    return path


@pytest.fixture
def interrupted(killed_run, tmp_path, save_every_step):
    """A folder of the run `tiny`, killed in its eighth step, with two saved states."""
    return shutil.copytree(killed_run, tmp_path / "run")


# Killed


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_change_to_the_disk_a_run_ends_the_same(quick, quick_data, tmp_path, save_every_step, every):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "SAVE_SECONDS", 1e9)
        reference = fit(quick, path=tmp_path / "reference", dataset=quick_data, progress=False).path
    with killed_at(10**9) as changes:
        assert_same_results(fit(quick, path=tmp_path / "whole", dataset=quick_data, progress=False).path, reference)
    assert len(changes) > 40  # six at each write, so that each kind of change has its turn at every seventh
    path, resumed_midway = tmp_path / "run", 0
    for event in range(1, len(changes) + 1, every):
        with killed_at(event), pytest.raises(Killed):
            fit(quick, path=path, dataset=quick_data, progress=False)
        resumed_midway += (path / STATE).exists() or (path / STATE_BEFORE).exists()
        # Killed between the end and letting go, it is finished, and nobody comes again.
        left = {".lock", ".holder.json"} if (path / "last.safetensors").exists() else set()
        fit(quick, path=path, dataset=quick_data, progress=False)
        assert_same_results(path, reference, FILES | {name for name in left if (path / name).exists()})
        for file in path.iterdir():
            file.unlink()
    assert resumed_midway > 4


CHILD = """
import os, signal, sys
from anchor_utils import loop
from anchor_utils.train import main
calls, fsync = 0, os.fsync
def kill_in_a_write(file):
    global calls
    calls += 1
    if calls == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(file)
os.fsync = kill_in_a_write
for folder, loop.SAVE_SECONDS in zip(sys.argv[2].split(","), (0.0, 120.0)):
    main([*sys.argv[3:], "--run-dir", folder])
"""
FIELDS = {"epochs": 2, "train_images": 200, "validation_images": 40, "device": "cpu"}  # two epochs of five steps
ARGUMENTS = ["--preset", "smoke", *(word for name, value in FIELDS.items() for word in ("-p", name, str(value)))]


def process(kill_at, *folders):
    """The command, killed at its n-th write if that is not 0. It saves every step, and in a second folder none."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", CHILD, str(kill_at), ",".join(map(str, folders)), *ARGUMENTS]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def kill_and_go_on(path, kills, seed):
    """Kill the command again and again, in turn inside a write and at any moment, then let it end; how many it took."""
    chance, done = random.Random(seed), 0
    for kill in range(kills):
        in_a_write = chance.randrange(2, 12) if kill % 2 == 0 else 0
        child = process(in_a_write, path)
        if not in_a_write:
            while child.poll() is None and not holds(path, child.pid):
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.5))
            child.kill()
        done += child.wait() == -signal.SIGKILL
        if (path / "last.safetensors").exists():  # it came to its end before
            models.load(path / "last.safetensors")
            shutil.rmtree(path)
    assert process(0, path, path.with_name("reference")).wait() == 0
    assert_same_results(path, path.with_name("reference"))
    return done


def holds(path, pid):
    try:
        return json.loads((path / ".holder.json").read_text())["pid"] == pid
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_process_killed_three_times_ends_with_the_same_bits(tmp_path):
    assert kill_and_go_on(tmp_path / "run", 3, seed=0) == 3


@pytest.mark.slow
def test_a_process_killed_twenty_times_ends_with_the_same_bits(tmp_path):
    assert kill_and_go_on(tmp_path / "run", 20, seed=1) >= 18  # a few come when it has just ended


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_after_the_last_epoch_to_the_same_bits(tmp_path):
    def launch(kill_at, *folders):
        script = tmp_path / "child.py"
        script.write_text(CHILD)
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        arguments = [str(script), str(kill_at), ",".join(map(str, folders)), *ARGUMENTS]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run([sys.executable, *command, *arguments], env=environment, check=False).returncode

    path, reference = tmp_path / "run", tmp_path / "reference"
    # A write syncs its file and its folder: holder, configuration, best, metrics, state; the next is of epoch 2.
    assert launch(11, path)
    assert (path / STATE).exists()
    assert not (path / "last.safetensors").exists()
    assert not launch(0, path, reference)
    assert_same_results(path, reference)


def test_a_run_goes_on_within_an_epoch_to_the_same_bits(interrupted, tiny, tiny_run, few_digits, monkeypatch):
    steps = interrupt_at(monkeypatch, None, None)
    fit(tiny, path=interrupted, dataset=few_digits, progress=False)
    assert next(steps) == 3  # of ten, the seven before the kill are not trained again
    assert_same_results(interrupted, tiny_run.path)


def test_the_scale_of_float16_gradients_survives(quick, quick_data, tmp_path, monkeypatch, save_every_step):
    config = quick.replace(precision="float16")
    run = fit(config, path=tmp_path / "whole", dataset=quick_data, progress=False)
    scales, original = [], torch.amp.GradScaler.load_state_dict
    monkeypatch.setattr(
        torch.amp.GradScaler, "load_state_dict", lambda self, state: scales.append(state) or original(self, state)
    )

    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, kill)
        with pytest.raises(Killed):
            fit(config, path=tmp_path / "run", dataset=quick_data, progress=False)
    fit(config, path=tmp_path / "run", dataset=quick_data, progress=False)
    (state,) = scales
    assert state["_growth_tracker"] > 0, "the scale of a run that begins"
    assert_same_results(tmp_path / "run", run.path)


def test_finetuning_goes_on_within_an_epoch_too(tiny_run, few_digits, tmp_path, monkeypatch, save_every_step):
    run = dataclasses.replace(tiny_run, path=copied(tiny_run, tmp_path / "tiny"))
    whole = finetune(run, adversarial=False, dataset=few_digits, progress=False)
    reference = whole.path.rename(tmp_path / "reference")

    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, kill)
        with pytest.raises(Killed):
            finetune(run, adversarial=False, dataset=few_digits, progress=False)
    steps = interrupt_at(monkeypatch, None, None)
    again = finetune(run, adversarial=False, dataset=few_digits, progress=False)
    assert next(steps) == 3
    assert_same_results(again.path, reference)


@pytest.fixture
def usual_interrupts():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of pytest-xdist may have another
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_saves_after_the_step(tiny, tiny_run, few_digits, tmp_path, monkeypatch, usual_interrupts):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            fit(tiny, path=tmp_path / "run", dataset=few_digits, progress=False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    steps = interrupt_at(monkeypatch, None, None)
    fit(tiny, path=tmp_path / "run", dataset=few_digits, progress=False)
    assert next(steps) == 6  # of ten, the fourth is not trained again
    assert_same_results(tmp_path / "run", tiny_run.path)


def test_ctrl_c_in_the_last_step_is_not_swallowed_and_a_second_one_stops_at_once(
    quick, quick_data, tmp_path, monkeypatch, usual_interrupts
):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            fit(quick, path=tmp_path / "last", dataset=quick_data, progress=False)
    assert (tmp_path / "last" / "last.safetensors").exists()
    reached = []

    def twice():
        signal.raise_signal(signal.SIGINT)
        reached.append("after the first")
        signal.raise_signal(signal.SIGINT)
        reached.append("after the second")

    interrupt_at(monkeypatch, 1, twice)
    with pytest.raises(KeyboardInterrupt):
        fit(quick, path=tmp_path / "twice", dataset=quick_data, progress=False)
    assert reached == ["after the first"]


# Damage


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(bytes(content))


DAMAGES = [lambda file: file.write_bytes(b""), halve, flip, lambda file: file.write_bytes(os.urandom(3000))]


@pytest.mark.parametrize("damage", DAMAGES, ids=["empty", "half", "one bit", "noise"])
def test_a_damaged_state_falls_back_to_the_one_before(interrupted, tiny, tiny_run, few_digits, monkeypatch, damage):
    damage(interrupted / STATE)
    steps = interrupt_at(monkeypatch, None, None)
    with pytest.warns(UserWarning, match=r"resume\.safetensors' is damaged .* state before it, step 1 of epoch 2"):
        fit(tiny, path=interrupted, dataset=few_digits, progress=False)
    assert next(steps) == 4
    assert_same_results(interrupted, tiny_run.path)


def test_after_a_fall_back_the_good_state_is_not_replaced_by_the_damaged_one(interrupted, tiny, few_digits):
    flip(interrupted / STATE)
    good = (interrupted / STATE_BEFORE).read_bytes()
    with pytest.warns(UserWarning, match="is damaged"), killed_at(10), pytest.raises(Killed):
        fit(tiny, path=interrupted, dataset=few_digits, progress=False)
    assert good in {file.read_bytes() for file in interrupted.glob("resume*")}


def test_a_state_that_a_kill_left_between_two_names_is_taken_up_without_a_word(
    interrupted, tiny, tiny_run, few_digits, monkeypatch
):
    (interrupted / STATE).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(tiny, path=interrupted, dataset=few_digits, progress=False)
    assert_same_results(interrupted, tiny_run.path)


def test_where_both_states_are_damaged_the_files_and_the_way_out_are_named(interrupted, tiny, tiny_run, few_digits):
    halve(interrupted / STATE)
    flip(interrupted / STATE_BEFORE)
    pattern = (
        r"resume\.safetensors' is damaged.*resume-before\.safetensors' is damaged.*or delete this to start .* anew"
    )
    with pytest.raises(ValueError, match=pattern):
        fit(tiny, path=interrupted, dataset=few_digits, progress=False)
    (interrupted / STATE).unlink()
    (interrupted / STATE_BEFORE).unlink()
    fit(tiny, path=interrupted, dataset=few_digits, progress=False)
    assert_same_results(interrupted, tiny_run.path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"training": 3}', "\udcff"], ids=repr)
def test_a_damaged_configuration_is_named_and_may_be_deleted(interrupted, tiny, tiny_run, few_digits, content):
    (interrupted / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"config\.json' is damaged .*or delete it: the run then goes on"):
        fit(tiny, path=interrupted, dataset=few_digits, progress=False)
    if content == "{":
        (interrupted / "config.json").unlink()
        fit(tiny, path=interrupted, dataset=few_digits, progress=False)
        assert_same_results(interrupted, tiny_run.path)


def test_a_finished_run_that_is_trained_anew_is_not_finished_before_its_end(tiny, tiny_run, few_digits, tmp_path):
    """Its configuration was deleted, as the message above allows; the old last checkpoint must not count."""
    path = tmp_path / "run"
    shutil.copytree(tiny_run.path, path, ignore=shutil.ignore_patterns("finetune-*", "probe-*"))
    (path / "config.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "SAVE_SECONDS", 0.0)
        patch.setattr(runs, "save_state", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit(tiny, path=path, dataset=few_digits, progress=False)
    assert not (path / "last.safetensors").exists()
    fit(tiny, path=path, dataset=few_digits, progress=False)
    assert_same_results(path, tiny_run.path)


def test_damaged_metrics_of_a_run_under_way_are_written_anew(interrupted, tiny, tiny_run, few_digits):
    halve(interrupted / "metrics.jsonl")
    fit(tiny, path=interrupted, dataset=few_digits, progress=False)
    assert_same_results(interrupted, tiny_run.path)


@pytest.mark.parametrize("lines", [0, 1, 1.5])
def test_damaged_metrics_of_a_finished_run_are_named(tiny_run, tmp_path, lines):
    text = (tiny_run.path / "metrics.jsonl").read_text()
    first = text.index("\n") + 1
    (tmp_path / "metrics.jsonl").write_text(text[: {0: 0, 1: first, 1.5: first + 20}[lines]])
    with pytest.raises(ValueError, match=r"metrics\.jsonl' is damaged \(.*restore it, or delete the folder"):
        dataclasses.replace(tiny_run, path=tmp_path).metrics()


# Other data, other fields


def copied(run, path, **changes):
    """A copy of a finished run, with some entries of its config.json changed."""
    shutil.copytree(run.path, path, ignore=lambda folder, names: set(names) - FILES)
    stored = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**stored, **changes}))
    return path


def swapped(dataset):
    """The data set with two labels exchanged."""
    labels = dataset.train.labels.clone()
    first, second = 0, int((labels != labels[0]).nonzero()[0])
    labels[first], labels[second] = labels[second].item(), labels[first].item()
    return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, labels=labels))


def test_a_run_says_which_data_it_is_of(tiny_run, few_digits):
    assert json.loads((tiny_run.path / "config.json").read_text())["data"] == few_digits.identity()
    assert tiny_run.model("best").metadata["data"] == tiny_run.model("last").metadata["data"] == few_digits.identity()


@pytest.mark.parametrize("under_way", [False, True])
def test_a_run_of_other_data_is_refused(tiny, tiny_run, few_digits, interrupted, under_way):
    path = interrupted if under_way else tiny_run.path
    renamed = dataclasses.replace(few_digits, classes=tuple("abcdefghij"))
    for other, words in ((swapped(few_digits), "training images"), (renamed, "classes")):
        with pytest.raises(ValueError, match=f"{path.name}.*holds a run on other data.*{words}.*choose another folder"):
            fit(tiny, path=path, dataset=other, progress=False)
    with pytest.raises(ValueError, match=r"holds a run on other data.*classes"):
        finetune(tiny_run, dataset=renamed, progress=False)
    if under_way:  # the state says it as well
        (path / "config.json").unlink()
        with pytest.raises(ValueError, match="holds a run on other data"):
            fit(tiny, path=path, dataset=swapped(few_digits), progress=False)


def test_other_test_images_another_place_and_runs_without_a_fingerprint_are_taken(
    tiny, tiny_run, few_digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "Loop", None)
    moved = dataclasses.replace(few_digits, name="elsewhere", test=few_digits.test[:1000:1])
    fewer = dataclasses.replace(few_digits, test=few_digits.test[:999])
    fit(tiny, path=tiny_run.path, dataset=moved)
    fit(tiny.replace(test_images=999), path=tiny_run.path, dataset=fewer)
    fit(tiny, path=copied(tiny_run, tmp_path / "old", data=None), dataset=swapped(few_digits))


def test_a_field_that_a_stored_run_does_not_have_has_its_default(tiny, tiny_run, few_digits, tmp_path):
    fields = tiny.training_fields()
    without = {name: value for name, value in fields.items() if name != "epsilon_warmup"}
    path = copied(tiny_run, tmp_path / "old", training=without)
    assert fit(tiny, path=path, dataset=few_digits, progress=False).metrics().shape[0] == 2
    with pytest.raises(ValueError, match=r"other values of \['epsilon_warmup'\]"):
        fit(tiny.replace(epsilon_warmup=0.5), path=path, dataset=few_digits, progress=False)
    path = copied(tiny_run, tmp_path / "other", training={**fields, "stem_stride": 2})
    with pytest.raises(ValueError, match=r"other values of \['stem_stride'\]"):
        fit(tiny, path=path, dataset=few_digits, progress=False)


# Two at once


HOLDER = """
import os, sys, time
from pathlib import Path
from anchor_utils.files import alone_in
with alone_in(Path(sys.argv[1])):
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_the_lock_of_one_that_is_gone_does_not_count(tmp_path, tiny, few_digits):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        number = int(holder.stdout.readline())  # on Windows, python in an environment starts another process
        message = f"folder {str(tmp_path)!r} is in use by process {number} on host {socket.gethostname()!r}: wait"
        with pytest.raises(ValueError, match=re.escape(message)):
            fit(tiny, path=tmp_path, dataset=few_digits, progress=False)
        (tmp_path / ".holder.json").write_text("")
        with pytest.raises(ValueError, match="is in use by another process"), alone_in(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    (tmp_path / ".file.0123.part").write_text("half")
    with alone_in(tmp_path):
        assert {file.name for file in tmp_path.iterdir()} == {".lock", ".holder.json"}
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def acquire(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with alone_in(tmp_path):
        assert (tmp_path / ".holder.json").exists()


# Full disks


@pytest.mark.parametrize("call", ["write_bytes", "replace"])
def test_a_write_that_fails_names_the_file_and_keeps_the_old_one(tmp_path, monkeypatch, call):
    path = tmp_path / "file.txt"
    write_text(path, "old \N{GREEK SMALL LETTER EPSILON}")

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "a temporary name")

    monkeypatch.setattr(Path, call, fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*file\.txt'") as caught:
        write_atomically(path, lambda temporary: temporary.write_bytes(b"new"), keep=tmp_path / "before.txt")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text(encoding="utf-8") == "old \N{GREEK SMALL LETTER EPSILON}"
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_the_file_before_is_kept_on_request(tmp_path):
    path, before = tmp_path / "file.txt", tmp_path / "before.txt"
    for text in "abc":
        write_atomically(path, lambda temporary: temporary.write_text(text), keep=before)  # noqa: B023
    assert (path.read_text(), before.read_text()) == ("c", "b")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if made.returncode:
        pytest.skip(f"may not mount a small disk: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("room", [0, 30_000], ids=["no room", "no room for a state"])
def test_a_full_disk_ends_with_a_clear_error_and_whole_files(
    interrupted, tiny, tiny_run, few_digits, small_disk, room, save_every_step
):
    path, filler = shutil.copytree(interrupted, small_disk / "run"), small_disk / "filler"
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    space = os.statvfs(small_disk)
    filler.write_bytes(bytes(space.f_bavail * space.f_frsize - room))
    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{path}")) as caught:
        fit(tiny, path=path, dataset=few_digits, progress=False)
    assert caught.value.errno == errno.ENOSPC
    assert {f.name: f.read_bytes() for f in path.iterdir() if f.name != "config.json"} == {
        name: content for name, content in before.items() if name != "config.json"
    }
    filler.unlink()
    fit(tiny, path=path, dataset=few_digits, progress=False)
    assert_same_results(path, tiny_run.path)
