"""How long and how much memory would a preset need on a GPU? ``python benchmarks/gpu_estimate.py [t4 paper]``

Nothing is measured on a GPU: the floating-point operations of a preset are counted on the CPU (torch's
FlopCounterMode, one small batch) and divided by an assumed speed, a quarter of the peak in half precision that the
maker states: 65 TFLOP/s for a T4, 312 for an A100. Data loading, validation and Python are left out.
Memory is what autograd keeps for the backward pass of one training batch, plus weights, gradients and momentum.
"""

import argparse

import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from anchor_utils.config import Config, load_preset
from anchor_utils.models import AnchorNet

GPUS = {"T4": 65e12 / 4, "A100": 312e12 / 4}
TRAIN_IMAGES = 50_000
ROBUST_SHARE = 0.5  # of the test images, for AutoAttack: the others fall to its first attack
# Forward and backward passes of AutoAttack for an image that survives: APGD-CE 100, APGD-T 9 x 100, FAB-T 9 x 100;
# Square has 5,000 forward passes, a third of a forward and backward pass each.
AUTOATTACK_PASSES = 100 + 900 + 900 + 5000 / 3


def count(config: Config) -> tuple[float, float, float]:
    """FLOPs an image of an attack step (gradient of the input) and of a training pass; bytes kept for an image."""
    model = AnchorNet(10, config.width, 3, config.projection_dim, stem_stride=config.stem_stride)
    batch = 4
    x, y = torch.rand(batch, 3, 32, 32), torch.zeros(batch, dtype=torch.long)
    model.train()
    kept = {}
    with FlopCounterMode(display=False) as training:
        with (
            torch.autograd.graph.saved_tensors_hooks(lambda t: kept.update({t.data_ptr(): t.nbytes}) or t, lambda t: t),
            torch.autocast("cpu", dtype=torch.bfloat16),
        ):
            loss = F.cross_entropy(model(x).float(), y)
        loss.backward()
    model.eval().requires_grad_(False)
    x.requires_grad_()
    with FlopCounterMode(display=False) as attack:
        F.cross_entropy(model(x), y).backward()
    weights = {p.data_ptr() for p in model.parameters()}
    activations = sum(size for pointer, size in kept.items() if pointer not in weights)
    return attack.get_total_flops() / batch, training.get_total_flops() / batch, activations / batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", default=["t4", "paper"])
    options = parser.parse_args()
    rows = []
    for preset in options.presets:
        config = load_preset(preset)
        attack, training, activations = count(config)
        images = TRAIN_IMAGES - config.validation_images
        parameters = sum(
            p.numel()
            for p in AnchorNet(10, config.width, 3, config.projection_dim, stem_stride=config.stem_stride).parameters()
        )
        for method, views in (("pgd_at", 1), ("anchor", 2)):
            flops = images * config.epochs * (config.attack_steps * attack + views * training)
            memory = views * config.batch_size * activations + parameters * 4 * 3
            rows.append(
                {"preset": preset, "what": f"training, {method}", "PFLOP": flops / 1e15, "memory GB": memory / 1e9}
            )
        flops = config.autoattack_images * ROBUST_SHARE * AUTOATTACK_PASSES * attack
        rows.append({"preset": preset, "what": "AutoAttack, one network (float32: slower)", "PFLOP": flops / 1e15})
    table = pd.DataFrame(rows)
    for name, speed in GPUS.items():
        table[f"minutes at {speed / 1e12:.0f} TFLOP/s ({name})"] = table["PFLOP"] * 1e15 / speed / 60
    print(table.round(1).to_string(index=False))


if __name__ == "__main__":
    main()
