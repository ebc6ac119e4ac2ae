"""The device that is taken: CUDA, else an Apple GPU that computes right, else the CPU."""

import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anchor_utils import devices, training
from anchor_utils.attacks import pgd
from anchor_utils.devices import fault_of, resolve_device, step_gradient


@pytest.fixture(autouse=True)
def forgetful():
    resolve_device.cache_clear()
    yield
    resolve_device.cache_clear()


@pytest.fixture
def has(monkeypatch):
    """Let torch say that it has these accelerators."""

    def set_up(cuda, mps):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return set_up


@pytest.mark.parametrize(
    ("cuda", "mps", "auto"), [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_cuda_then_mps_then_the_cpu(has, monkeypatch, cuda, mps, auto):
    has(cuda, mps)
    monkeypatch.setattr(devices, "fault_of", lambda device: "")
    assert resolve_device("auto") == torch.device(auto)
    assert resolve_device("cpu") == torch.device("cpu")


def test_an_apple_gpu_that_fails_its_trial_is_left_alone(has):
    """Here torch knows the name and has no such device: as where an operation is missing, it raises."""
    has(False, True)
    with pytest.warns(UserWarning, match=r"the CPU is taken, for the Apple GPU failed its trial: \w+Error"):
        assert resolve_device("auto") == torch.device("cpu")


def test_a_device_that_computes_wrong_is_found_out(monkeypatch):
    assert fault_of("cpu") == ""
    right = step_gradient("cpu")
    assert right.norm() > 0
    answers = {"mps": right + 0.06 * right.norm() * torch.nn.functional.normalize(torch.ones_like(right), dim=0)}
    monkeypatch.setattr(devices, "step_gradient", lambda device: answers.get(device, right))
    assert fault_of("mps") == "its gradient is off by 6%"
    answers["mps"] = torch.full_like(right, float("nan"))
    assert fault_of("mps") == "its gradient is off by nan%"


class Doubles(TorchDispatchMode):
    """Collects the operations that give float64, which an Apple GPU has not, for more than a single number."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64 and leaf.dim():
                self.found.add(str(func))
        return result


def test_training_and_attacks_need_no_float64(tiny, few_digits, tmp_path):
    with Doubles() as doubles, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method in ("anchor", "trades", "mart"):
            config = tiny.replace(method=method, epochs=1)
            run = training.fit(config, path=tmp_path / method, dataset=few_digits, progress=False)
        test = few_digits.test[:16]
        pgd(run.model().eval(), test.inputs(), test.labels, **tiny.evaluation())
    assert doubles.found == set()
    with Doubles() as doubles:
        torch.ones(2).double()
    assert doubles.found
