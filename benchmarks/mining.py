"""What ways to weigh hard positives do to the gradient of networks that stand still: ``python -m benchmarks.mining``.

Writes data/pretrained/standing.json, which lesson 05 shows, and from which ``python -m study.publish --tables`` puts
the tables into docs/results.md. No network is trained; each is one of those that come with the course, in eval mode,
on one batch of its training images.
"""

from __future__ import annotations

import argparse
import json

import torch

from anchor_utils.config import load_preset
from anchor_utils.data import load_data
from anchor_utils.files import write_text
from anchor_utils.models import pretrained
from study.mining import STANDING, does_it_act

# Title -> method and width of the network, the preset whose attack and views it was trained with, and its tau.
NETWORKS = {
    "ANCHOR, width 64": ("anchor", 64, "minutes", 0.1),
    "ANCHOR, width 16": ("anchor", 16, "cifar10_cpu", 0.1),
    "SupCon-AT, width 16": ("supcon_at", 16, "cifar10_cpu", 0.2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="cifar10", help="or imagefolder:PATH")
    parser.add_argument("--images", type=int, default=192, help="training images in the batch")
    options = parser.parse_args()
    found = {}
    for title, (method, width, preset, tau) in NETWORKS.items():
        changes = {"dataset": options.dataset, "test_images": 1, "method": "anchor", "precision": "float32"}
        config = load_preset(preset, **changes, temperature=tau)
        images = load_data(config).train[: options.images]
        table = does_it_act(pretrained(method, width=width).eval(), images, config)
        setting = f"{options.images} training images, PGD-{config.attack_steps} with epsilon {config.epsilon:g} and "
        setting += f"step {config.step_size:g}, tau {config.temperature:g}, torch {torch.__version__.split('+')[0]}"
        found[title] = {"setting": setting, "rows": table.round(4).to_dict("records")}
        print(title, setting, table.round(2).to_string(index=False), sep="\n", flush=True)
    write_text(STANDING, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
