"""How fast is the inner problem of training? ``python benchmarks/attack_speed.py [--width 8] [--size 28]``

The floor is nothing but forward and backward passes of the network in float32, as many as PGD has steps. Each line is a
ratio to that floor, measured in one process with the variants taking turns, so that a busy machine slows all alike. On
a GPU there is also the attack as the engine runs it, within a CUDA graph.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from anchor_utils.attacks import pgd
from anchor_utils.config import Config
from anchor_utils.engine import WARM_UP
from anchor_utils.models import AnchorNet, fold_batchnorm, resolve_precision
from anchor_utils.objectives import InnerProblem


def recorded(model: AnchorNet, images: torch.Tensor, labels: torch.Tensor, config: Config) -> Callable[[], None]:
    """The inner problem of training as one CUDA graph, folding included."""
    attack = InnerProblem(model, config, torch.Generator(images.device))

    def once() -> None:
        attack.fold()
        attack(images, labels)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            once()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(attack.generator)
    with torch.cuda.graph(graph):
        once()
    return graph.replay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--size", type=int, default=28, help="height and width of the images in pixels")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = AnchorNet(10, options.width, options.channels, projection_dim=0).to(device).eval()
    x = torch.rand(options.batch, options.channels, options.size, options.size, device=device)
    y = torch.randint(0, 10, (options.batch,), device=device)

    def floor() -> None:
        for _ in range(options.steps):
            point = x.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)

    def attack(network: torch.nn.Module, precision: str) -> None:
        pgd(network, x, y, epsilon=0.3, step_size=0.1, steps=options.steps, precision=precision)

    variants: dict[str, Callable[[], None]] = {
        "forward and backward passes alone, float32 (floor)": floor,
        "pgd, float32": lambda: attack(model, "float32"),
        "pgd, precision auto": lambda: attack(model, "auto"),
        "pgd on the folded copy, folding included, float32": lambda: attack(fold_batchnorm(model), "float32"),
        "pgd on the folded copy, folding included, auto (training)": lambda: attack(fold_batchnorm(model), "auto"),
    }
    if device.type == "cuda":
        config = Config(method="pgd_at", epsilon=0.3, step_size=0.1, attack_steps=options.steps)
        variants["the same as one CUDA graph (training with graph=True)"] = recorded(model, x, y, config)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(options.rounds + 2):
        for name, variant in variants.items():
            start = time.perf_counter()
            variant()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[2:]) for name, values in seconds.items()}
    base = next(iter(medians.values()))
    print(
        f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, width {options.width}, "
        f"batch {options.batch} of {options.channels}x{options.size}x{options.size}, {options.steps} steps; "
        f"auto is {resolve_precision('auto', device)}"
    )
    for name, value in medians.items():
        rate = options.batch * options.steps / value
        print(f"{name:60s}{base / value:5.2f} x the floor's speed, {rate:7.0f} image-steps a second")


if __name__ == "__main__":
    main()
