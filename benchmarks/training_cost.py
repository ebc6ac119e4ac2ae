"""What does an epoch of each method cost? ``python benchmarks/training_cost.py [--preset cifar10_cpu]``

`anchor_utils.training.fit` itself, on random images of CIFAR-10's shape, with the methods taking turns, so that a busy
machine slows all alike. Seconds of an epoch as a ratio to PGD-AT's; next to them the ratio of forward-and-backward
passes, which counts a pass that only attacks as much as one that also updates the weights. On a GPU the steps run as
one CUDA graph, unless `--no-graph` is given, and the first epoch, in which it is recorded, is not counted.
"""

import argparse
import statistics
import tempfile

import torch

from anchor_utils import training
from anchor_utils.config import load_preset
from anchor_utils.data import Dataset, Split
from study.tables import cost_table

METHODS = ("pgd_at", "standard", "trades", "mart", "supcon_at", "anchor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="cifar10_cpu")
    parser.add_argument("--steps", type=int, default=20, help="batches an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-graph", action="store_true", help="on a GPU, step by step")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    graph = device == "cuda" and not options.no_graph
    config = load_preset(options.preset, epochs=1 + graph, validation_images=2, validation_steps=1, test_images=2)
    size = options.steps * config.batch_size + config.validation_images
    config = config.replace(train_images=size, graph=graph)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, 32, 32), generator=generator, dtype=torch.uint8)
    train = Split(images, torch.arange(size) % 10)
    dataset = Dataset("random", train, train[:2], tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3)
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(options.rounds + 1):
        for method in METHODS:
            with tempfile.TemporaryDirectory() as folder:
                run = training.fit(config.replace(method=method), path=folder, dataset=dataset, progress=False)
                seconds[method].append(run.metrics()["seconds"].iloc[-1])
    medians = {method: statistics.median(values[1:]) for method, values in seconds.items()}
    print(
        f"{device}, {'one CUDA graph' if graph else 'step by step'}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, preset {options.preset}: "
        f"width {config.width}, batch {config.batch_size}, {config.attack_steps} attack steps; "
        f"median of {options.rounds} epochs of {options.steps} batches"
    )
    one_epoch = config.replace(epochs=1).model_dump()
    cells = [{"method": m, "config": one_epoch, "training_seconds": s} for m, s in medians.items()]
    table = cost_table(cells).drop(columns="runs")
    table["seconds, PGD-AT = 1"] = table["seconds a run"] / medians["pgd_at"]
    print(table.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
