"""The package beside its peers: ``make bench``, or ``python -m benchmarks.bench [GROUP ...]``

Variants take turns in one process, so that a busy machine slows all alike; what is kept is the median over the turns
of their ratios. Each group is written to results.json as soon as it is measured, with its machine and versions; from
that file come the table and the figure of docs/benchmarks.md. A group that this machine cannot measure is written as
not run, unless another machine has measured it before.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.metadata
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anchor_utils import losses, objectives
from anchor_utils.attacks import pgd
from anchor_utils.augmentation import augment
from anchor_utils.autoattack import autoattack_outcomes
from anchor_utils.config import METHODS, Config
from anchor_utils.data import Dataset, Split, load_dataset
from anchor_utils.files import write_text
from anchor_utils.models import AnchorNet, fold_batchnorm, frozen, pretrained
from anchor_utils.training import fit
from benchmarks import report

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("results.json")
PEERS = {"torchattacks": "torchattacks", "foolbox": "foolbox", "pytorch_metric_learning": "pytorch-metric-learning"}
PACKAGES = ("torch", "numpy", "pyautoattack", *PEERS.values())
EPSILON, STEP_SIZE, STEPS = 0.031, 0.0078, 10  # PGD-10, as it is usual for CIFAR-10
DIM = 128  # of the embeddings


@dataclass(frozen=True)
class Size:
    """How much is measured; the tests take less of everything."""

    rounds: int = 7
    width: int = 16
    batch: int = 64
    embeddings: int = 2048
    many_embeddings: int = 16384
    autoattack_images: int = 12
    gpu_width: int = 64
    gpu_batch: int = 256
    gpu_steps: int = 40


@dataclass(frozen=True)
class Row:
    """One measured number, and what was hoped for.

    Args:
        measured: None where it was not run; `note` then says why.
        goal: None where none was set.
        better: whether the goal is a least or a most.
        seconds: median seconds of a call of each variant, where time was measured.
    """

    what: str
    unit: str
    measured: float | None
    goal: float | None = None
    better: Literal["at least", "at most"] = "at least"
    note: str = ""
    seconds: dict[str, float] | None = None


# Measuring


def take_turns(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, variant in variants.items():
            start = time.perf_counter()
            variant()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}


def ratio(what: str, unit: str, seconds: dict[str, list[float]], over: str, under: str, **goal: Any) -> Row:
    """The seconds of `over` divided by those of `under`, turn by turn."""
    ratios = [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
    note = f"{min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} turns" if len(ratios) > 1 else "one run each"
    medians = {name: statistics.median(seconds[name]) for name in (over, under)}
    return Row(what, unit, statistics.median(ratios), note=note, seconds=medians, **goal)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_batch(size: Size, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """uint8 images of CIFAR-10's shape, and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size.batch, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return images.to(device), torch.randint(0, 10, (size.batch,), generator=generator).to(device)


# PGD


def measure_pgd(size: Size) -> list[Row]:
    """PGD-10 of the package, on the network and on its folded copy, beside two libraries that attack the network."""
    import foolbox
    import torchattacks

    torch.manual_seed(0)
    network = AnchorNet(10, size.width, 3, projection_dim=0).eval()
    pixels, labels = random_batch(size)
    images = pixels.float() / 255
    theirs = torchattacks.PGD(network, eps=EPSILON, alpha=STEP_SIZE, steps=STEPS)
    wrapped = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    linf = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=STEPS)
    settings: dict[str, Any] = {"epsilon": EPSILON, "step_size": STEP_SIZE, "steps": STEPS}
    attacks: dict[str, Callable[[], Tensor]] = {
        "attacks.pgd": lambda: pgd(network, images, labels, **settings),
        "attacks.pgd, folded": lambda: pgd(fold_batchnorm(network), images, labels, **settings),
        "torchattacks": lambda: theirs(images, labels),
        "foolbox": lambda: linf(wrapped, images, labels, epsilons=EPSILON)[1],
    }
    distances = {name: (attack() - images).abs().max().item() / EPSILON for name, attack in attacks.items()}
    seconds = take_turns(dict(attacks), size.rounds)
    unit = "times as fast"
    rows = [
        ratio(f"PGD-10{how} against {peer}", unit, seconds, peer, ours)
        for how, ours in (("", "attacks.pgd"), (" on the folded copy, folding included,", "attacks.pgd, folded"))
        for peer in ("torchattacks", "foolbox")
    ]
    note = ", ".join(f"{name} {distance:.6f}" for name, distance in distances.items())
    worst = max(distance for name, distance in distances.items() if name.startswith("attacks"))
    return [*rows, Row("farthest that PGD-10 goes", "epsilon", worst, 1 + 1e-5, "at most", note)]


# The contrastive loss


def contrastive(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss of embeddings and labels by its name in the rows."""
    if name == "pytorch-metric-learning":
        from pytorch_metric_learning.losses import SupConLoss

        return SupConLoss(temperature=0.1)
    return functools.partial(losses.hard_positive_supcon_loss, beta={"SupCon": 0.0, "hard positives": 10.0}[name])


def embedded(count: int) -> tuple[Tensor, Tensor]:
    embeddings = torch.randn(count, DIM, generator=torch.Generator().manual_seed(0))
    return embeddings.requires_grad_(), torch.arange(count) % 10


def measure_contrastive(size: Size) -> list[Row]:
    """Value and gradient of the contrastive loss: time on one thread and on all, and memory."""
    peer, rows = "pytorch-metric-learning", []
    embeddings, labels = embedded(size.embeddings)

    def both_ways(name: str) -> Callable[[], object]:
        loss = contrastive(name)
        return lambda: torch.autograd.grad(loss(embeddings, labels), embeddings)

    names, many = ("SupCon", "hard positives"), torch.get_num_threads()
    for count in sorted({1, many}):
        with threads(count):
            seconds = take_turns({name: both_ways(name) for name in (*names, peer)}, 3 * size.rounds)
        on = "1 thread" if count == 1 else f"{count} threads"
        for name in names:
            what = f"contrastive loss, {name}, {size.embeddings:,} embeddings, {on}, against {peer}"
            rows.append(ratio(what, "times as fast", seconds, peer, name, goal=3.0))
    what = f"peak memory of the contrastive loss, {size.embeddings:,} embeddings"
    ours, theirs = (peak_memory(name, size.embeddings) for name in ("hard positives", peer))
    if ours is None or theirs is None:
        return [*rows, Row(what, "of the peer's", None, 0.5, "at most", NO_MEMORY)]
    note = f"{ours[0] / 2**20:.0f} MiB and {theirs[0] / 2**20:.0f} MiB"
    rows.append(Row(f"{what}, against {peer}", "of the peer's", ours[0] / theirs[0], 0.5, "at most", note))
    large = peak_memory("hard positives", size.many_embeddings)
    assert large is not None
    what = f"peak memory of a process with the contrastive loss of {size.many_embeddings:,} embeddings"
    note = f"{large[0] / 1e9:.2f} GB of it for the loss"
    return [*rows, Row(what, "GB", large[1] / 1e9, 4.0, "at most", note)]


NO_MEMORY = "this system does not say how much memory a process needed at most"


def peak_memory(name: str, count: int) -> tuple[int, int] | None:
    """Bytes at the worst moment of a loss and its gradient in a process of its own: for these, and of all of it."""
    code = f"from benchmarks import bench; print(*bench.peak_of_this_process({name!r}, {count}))"
    if not Path("/proc/self/status").exists():
        return None
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, result.stdout.split())
    return after - before, after


def peak_of_this_process(name: str, count: int) -> tuple[int, int]:
    """Bytes before, and at most during, a loss of `count` embeddings and its gradient."""
    loss = contrastive(name)
    for size in (64, count):  # the first call loads libraries
        embeddings, labels = embedded(size)
        with suppress(OSError):  # forget the worst moment so far, which was an import
            Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        torch.autograd.grad(loss(embeddings, labels), embeddings)
    return before, _status("VmHWM")


def _status(field: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


# A training step


class Trainee:
    """A network in training, its batch, and three ways to make a step: ours, from peers, and the bare passes of it."""

    def __init__(self, config: Config, images: Tensor, labels: Tensor) -> None:
        import torchattacks

        self.config, self.images, self.labels = config, images, labels
        torch.manual_seed(0)
        self.model = AnchorNet(10, config.width, 3, config.projection_dim).to(images.device).train()
        self.heads = objectives.Heads(self.model, config.method)
        self.generator = torch.Generator(images.device).manual_seed(0)
        self.attack = objectives.InnerProblem(self.model, config, self.generator)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, config.momentum, weight_decay=5e-4)
        self.theirs = torchattacks.PGD(self.model, config.epsilon, config.step_size, config.attack_steps)
        self.two_views = config.views() == 2

    def ours(self) -> None:
        self.attack.refresh()
        found = objectives.batch_loss(self.config, self.heads, self.attack, self.images, self.labels, self.generator)
        self._update(found.loss)

    def peers(self) -> None:
        """The same from libraries: torchattacks on the network as it is, and the loss of pytorch-metric-learning."""
        first = [self._view()] if self.two_views else []
        views = torch.cat([*first, self.theirs(self._view(), self.labels)])
        logits, embeddings = self.heads(views)
        loss = F.cross_entropy(logits[-len(self.labels) :], self.labels)
        if self.two_views:
            contrast = contrastive("pytorch-metric-learning")(embeddings, self.labels.repeat(2))
            loss = loss + self.config.contrastive_weight * contrast
        self._update(loss)

    def passes(self) -> None:
        """Only the passes through the network, forward and backward, and the optimizer."""
        images = self.images.float() / 255
        with frozen(self.attack.target, "eval"):
            for _ in range(self.config.attack_steps):
                point = images.detach().requires_grad_()
                torch.autograd.grad(F.cross_entropy(self.attack.target(point), self.labels), point)
        logits, embeddings = self.heads(torch.cat([images, images]) if self.two_views else images)
        loss = F.cross_entropy(logits[-len(self.labels) :], self.labels)
        self._update(loss + embeddings[:, 0].sum() if self.two_views else loss)

    def _view(self) -> Tensor:
        config = self.config
        augmented = augment(self.images, padding=config.crop_padding, flip=config.flip, generator=self.generator)
        return augmented.float() / 255

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def training_config(size: Size, **changes: Any) -> Config:
    """What is trained in every measurement; float32, because that is what the peers compute in."""
    fields: dict[str, Any] = {
        **{"method": "anchor", "width": size.width, "batch_size": size.batch, "projection_dim": DIM},
        **{"epsilon": EPSILON, "step_size": STEP_SIZE, "attack_steps": STEPS, "crop_padding": 4, "flip": True},
        **{"beta": 10.0, "contrastive_weight": 0.5, "precision": "float32"},
    }
    return Config(**{**fields, **changes})


def measure_step(size: Size) -> list[Row]:
    """A step of ANCHOR on the CPU: augmentation, attack, losses, backward pass and optimizer."""
    trainees = {way: Trainee(training_config(size), *random_batch(size)) for way in ("ours", "passes", "peers")}
    seconds = take_turns({way: getattr(trainee, way) for way, trainee in trainees.items()}, size.rounds)
    most: dict[str, Any] = {"goal": 1.08, "better": "at most"}
    return [
        ratio("step of ANCHOR against its bare passes", "times as long", seconds, "ours", "passes", **most),
        ratio("step of ANCHOR against the same from peers", "times as fast", seconds, "peers", "ours"),
    ]


# AutoAttack


def robust_task(count: int) -> tuple[nn.Module, Tensor, Tensor, str]:
    """A network of the study, and CIFAR-10 images and labels where they are at hand; or else digits.

    A network for CIFAR-10 knows nothing of digits: the labels are then what it reads in them.
    """
    network, data = pretrained("pgd_at").eval(), ROOT / "data"
    if (data / "cifar10-jpeg").is_dir():
        test, name = load_dataset(f"imagefolder:{data / 'cifar10-jpeg'}", data).test, "CIFAR-10, JPEG copy"
    elif any(data.glob("cifar-10-python*")):
        test, name = load_dataset("cifar10", data).test, "CIFAR-10"
    else:
        test, name = load_dataset("mnist5k").test, "digits"
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:count]
    images, labels = test.images[chosen].float() / 255, test.labels[chosen]
    if name == "digits":
        images = F.interpolate(images.expand(-1, 3, -1, -1), (32, 32))
        with torch.no_grad():
            labels = network(images).argmax(1)
    return network, images, labels, name


def measure_autoattack(size: Size) -> list[Row]:
    """Full AutoAttack through the package and called directly, on the same network and images, one thread.

    Taking turns would take too long; seconds of the processor, not of the clock, leave out what others do meanwhile.
    """
    from pyautoattack import AutoAttack

    network, images, labels, name = robust_task(size.autoattack_images)

    def ours() -> Tensor:
        stages = autoattack_outcomes(network, images, labels, epsilon=EPSILON)
        return stages["square"][0]

    def directly() -> Tensor:
        adversary = AutoAttack(network, norm="Linf", eps=EPSILON, seed=0, version="standard", device="cpu")
        found = adversary.run_standard_evaluation(images, labels, batch_size=len(images))[0]
        with torch.no_grad():
            return network(found).argmax(1) == labels

    outcomes, seconds = {}, {}
    with threads(1), torch.random.fork_rng():
        for way, attack in (("directly", directly), ("ours", ours)):
            start = time.process_time()
            outcomes[way] = attack()
            seconds[way] = [time.process_time() - start]
    same = int((outcomes["ours"] == outcomes["directly"]).sum())
    robust = int(outcomes["directly"].sum())
    note = f"{len(images)} images ({name}), of which {robust} withstand"
    row = ratio("AutoAttack against pyautoattack", "times as fast", seconds, "directly", "ours", goal=1.0)
    return [row, Row("same verdicts of AutoAttack", "of the images", same / len(images), 1.0, note=note)]


# An epoch on a GPU


def measure_epoch(size: Size, device: str = "cuda") -> list[Row]:
    """Epochs of `fit` with its step as a CUDA graph, beside the usual loop of torchattacks and PyTorch as it comes."""
    gpu = Size(**{**asdict(size), "width": size.gpu_width, "batch": size.gpu_batch})
    rows = []
    for method in ("pgd_at", "anchor"):
        what = f"epoch of {METHODS[method].label} on a GPU against the usual loop"
        if device == "cuda" and not torch.cuda.is_available():
            rows.append(Row(what, "times as fast", None, 5.0, note="no GPU here"))
            continue
        seconds = {"usual": [usual_epoch(gpu, method, device)], "ours": [engine_epoch(gpu, method)]}
        rows.append(ratio(what, "times as fast", seconds, "usual", "ours", goal=5.0))
    return rows


def usual_epoch(size: Size, method: str, device: str) -> float:
    """Seconds of `gpu_steps` steps, after some that warm up, in TF32 and with the fastest convolutions."""
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    trainee = Trainee(training_config(size, method=method), *random_batch(size, device))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    start = 0.0
    for step in range(3 + size.gpu_steps):
        if step == 3:
            wait()
            start = time.perf_counter()
        trainee.peers()
    wait()
    return time.perf_counter() - start


def engine_epoch(size: Size, method: str) -> float:
    """Seconds of an epoch of `gpu_steps` steps, its validation included: the median of those after the first."""
    count = size.gpu_steps * size.batch + 2
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    train = Split(pixels, torch.arange(count) % 10)
    dataset = Dataset("random", train, train[:2], tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3)
    changes = {"train_images": count, "validation_images": 2, "validation_steps": 1, "epochs": 4, "test_images": 2}
    config = training_config(size, method=method, graph=True, precision="auto", **changes)
    with tempfile.TemporaryDirectory() as folder:
        run = fit(config, path=folder, dataset=dataset, progress=False)
        return float(statistics.median(run.metrics()["seconds"][1:]))


# All of it


GROUPS: dict[str, Callable[[Size], list[Row]]] = {
    "PGD": measure_pgd,
    "contrastive": measure_contrastive,
    "step": measure_step,
    "AutoAttack": measure_autoattack,
    "epoch": measure_epoch,
}


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": cpu,
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {"python": platform.python_version(), **versions},
    }


def measure(groups: Iterable[str], size: Size, path: Path) -> dict[str, Any]:
    """Measure some groups; the file is written after each."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for group in groups:
        start = time.perf_counter()
        rows = [asdict(row) for row in GROUPS[group](size)]
        run = any(row["measured"] is not None for row in rows)
        if run or not any(row["measured"] is not None for row in found.get(group, {}).get("rows", [])):
            found[group] = {"machine": machine(), "rows": rows}
            found = {name: found[name] for name in GROUPS if name in found}
            write_text(path, json.dumps(found, indent=1) + "\n")
        for row in found[group]["rows"]:
            print(report.in_words(row))
        print(f"  {group}: {time.perf_counter() - start:.0f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all if none is named")
    groups = parser.parse_args().groups or list(GROUPS)
    if unknown := [group for group in groups if group not in GROUPS]:
        parser.error(f"GROUP={unknown[0]!r}: allowed are {', '.join(GROUPS)}")
    if missing := [package for module, package in PEERS.items() if importlib.util.find_spec(module) is None]:
        parser.error(f"{', '.join(missing)}: not installed; `make bench` installs what is measured against")
    report.write(measure(groups, Size(), RESULTS), steps=STEPS, dim=DIM)


if __name__ == "__main__":
    main()
