"""A network of a public zoo, attacked: with a stand-in for the package `robustbench`, which is no dependency."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from anchor_utils.data import Dataset, Split
from course import zoo

GREYS = torch.tensor([0.1, 0.4, 0.47, 0.55, 0.8])  # plain images; below 0.5 is class 0, above it class 1


class Brightness(nn.Module):
    """Two logits whose difference is the mean brightness above 0.5: a plain grey breaks if 0.5 is within epsilon."""

    def forward(self, x):
        above = x.mean((1, 2, 3)) - 0.5
        return torch.stack([-above, above], 1)


@pytest.fixture
def asked(monkeypatch):
    """What the stand-in was asked for; `robustbench.utils.load_model` answers with a network in train mode."""
    calls = []

    def load_model(model_name, model_dir, dataset, threat_model):  # the arguments of robustbench 1.1.1
        calls.append((model_name, model_dir, dataset, threat_model))
        return Brightness().train()

    package, utils = ModuleType("robustbench"), ModuleType("robustbench.utils")
    package.utils, utils.load_model = utils, load_model
    monkeypatch.setitem(sys.modules, "robustbench", package)
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    return calls


@pytest.fixture
def cifar(monkeypatch):
    """Plain grey images, in place of CIFAR-10."""

    def load_dataset(name, root):
        assert name == "cifar10"
        images = (GREYS.view(-1, 1, 1, 1).expand(-1, 3, 32, 32) * 255).round().to(torch.uint8)
        split = Split(images, (GREYS > 0.5).long())
        return Dataset(name, split, split, ("dark", "bright"), (0.5,) * 3, (0.2,) * 3)

    monkeypatch.setattr(zoo, "load_dataset", load_dataset)


def test_our_attack_runs_on_the_network_that_the_zoo_hands_over(asked, cifar, tmp_path):
    settings = {"epsilon": 0.08, "step_size": 0.02, "steps": 10}
    table = zoo.attack_network("Wong2020Fast", 4, tmp_path, **settings).set_index("attack")
    assert asked == [("Wong2020Fast", tmp_path / "zoo", "cifar10", "Linf")]
    assert table["images"].tolist() == [4] * 3
    # Of the first four greys, two lie within 0.08 of 0.5.
    assert table["accuracy"].to_dict() == {"clean": 1.0, "fgsm": 0.5, "pgd": 0.5}
    assert table.loc["pgd", "epsilon"] == 0.08


def test_the_network_comes_in_eval_mode(asked, tmp_path):
    assert not zoo.load_network("Wong2020Fast", tmp_path).training


def test_without_the_package_it_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "robustbench", None)
    with pytest.raises(zoo.ZooError, match=r"`robustbench` cannot be imported .*pip install robustbench"):
        zoo.attack_network("Wong2020Fast", 4, tmp_path, epsilon=0.1)


@pytest.mark.parametrize("error", [ConnectionError("no route"), KeyError("Wong2020Fast"), EOFError("half a file")])
def test_without_weights_it_says_what_happened_and_where_they_belong(asked, monkeypatch, tmp_path, error):
    def failing(**_):
        raise error

    monkeypatch.setattr(sys.modules["robustbench.utils"], "load_model", failing)
    with pytest.raises(zoo.ZooError) as caught:
        zoo.load_network("Wong2020Fast", tmp_path)
    text = str(caught.value)
    assert "weights of Wong2020Fast" in text
    assert "internet" in text
    assert f"{type(error).__name__}: {error}" in text
    assert repr(str(tmp_path))[1:-1] in text


def test_without_cifar_10_it_says_so(asked, monkeypatch, tmp_path):
    def missing(*_):
        raise FileNotFoundError("put cifar-10-python.tar.gz there")

    monkeypatch.setattr(zoo, "load_dataset", missing)
    with pytest.raises(zoo.ZooError, match=r"CIFAR-10's test images are missing \(put cifar-10-python.tar.gz there\)"):
        zoo.attack_network("Wong2020Fast", 4, tmp_path, epsilon=0.1)
