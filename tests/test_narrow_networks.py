"""Forward pass and all gradients of networks of every small width, against float64, where a crash can be survived.

Convolutions with few channels are where backends fail: by a crash, a hang, or a silently wrong weight gradient.
"""

import os
import subprocess
import sys

import pytest

CHILD = """
import copy
import torch
import torch.nn.functional as F

from anchor_utils.models import AnchorNet, fold_batchnorm


def results(network, images, labels):
    images = images.clone().requires_grad_()
    logits = network(images)
    F.cross_entropy(logits, labels).backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), "images": images.grad, **gradients}


for width in range(1, 17):
    size, stride = (16, 15, 12)[width % 3], 1 + width % 2
    torch.manual_seed(width)
    network = AnchorNet(10, width, 3, 0, stem_stride=stride)
    for module in list(network.modules()):  # a ReLU within rounding of its kink could fall on either side
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ReLU):
                setattr(module, name, torch.nn.Softplus())
    images, labels = torch.rand(8, 3, size, size), torch.arange(8)
    for form in ("train", "eval", "folded"):
        here = copy.deepcopy(network).train(form == "train")
        if form != "train":  # statistics that are not the initial ones
            here.train()(images)
            here.eval()
        exact = copy.deepcopy(here).double().to(memory_format=torch.contiguous_format)
        if form == "folded":
            here = fold_batchnorm(here)
        torch.set_num_threads(1)
        want = results(exact, images.double(), labels)
        # BatchNorm makes the gradient of a convolution with one input channel zero: nothing to be relative to.
        floor = 1e-2 * max(value.norm() for value in want.values())
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            here.zero_grad()
            print(width, form, threads, flush=True)
            got = results(here, images, labels)
            assert form == "folded" or got.keys() == want.keys()
            errors = {k: ((got[k] - want[k]).norm() / want[k].norm().clamp_min(floor)).item() for k in got}
            wrong = {name: error for name, error in errors.items() if not error < 1e-3}
            assert not wrong, wrong
"""


@pytest.mark.parametrize("instructions", ["as they are", "AVX2"])
def test_forward_and_gradients_are_those_of_float64(instructions):
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # tests beside it want the cores too
    if instructions == "AVX2":  # what oneDNN then takes for its own is what an older laptop has
        environment["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=240, env=environment)
    begun = child.stdout.splitlines()
    assert child.returncode == 0, f"width, form, threads: {begun[-1:]}: {child.stderr}"
    assert len(begun) == 16 * 3 * 3
