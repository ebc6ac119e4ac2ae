"""Data and short training runs that several test files share."""

import dataclasses
import signal

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from anchor_utils import plotting
from anchor_utils.attacks import pgd
from anchor_utils.config import Config
from anchor_utils.data import Dataset, Split, load_data, load_dataset
from anchor_utils.training import Run, fit

mpl.use("Agg")

# A shell ignores Ctrl-C for what it starts in the background, and so would the tests that press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("mnist5k")


@pytest.fixture(scope="session")
def small_digits(digits) -> Dataset:
    """All digits at half the resolution: a network learns them in seconds."""

    def halved(split: Split) -> Split:
        return Split(F.avg_pool2d(split.images.float(), 2).round().byte(), split.labels)

    return dataclasses.replace(digits, train=halved(digits.train), test=halved(digits.test))


@pytest.fixture(scope="session")
def tiny() -> Config:
    """A run of two epochs of five steps."""
    return Config(
        train_images=200,
        validation_images=40,
        width=2,
        projection_dim=8,
        epochs=2,
        batch_size=32,
        attack_steps=2,
        validation_steps=1,
        finetune_epochs=1,
        precision="float32",
        device="cpu",
    )


@pytest.fixture(scope="session")
def few_digits(tiny) -> Dataset:
    """The data of the configuration `tiny`."""
    return load_data(tiny)


@pytest.fixture(scope="session")
def tiny_run(tiny, few_digits, tmp_path_factory) -> Run:
    """An ANCHOR network that has hardly begun to learn."""
    return fit(tiny, path=tmp_path_factory.mktemp("runs") / "tiny", dataset=few_digits, progress=False)


def _trained(method: str, dataset: Dataset, path, **changes) -> Run:
    config = Config(
        method=method,
        validation_images=200,
        width=4,
        projection_dim=8,
        crop_padding=0,
        epsilon=0.1,
        step_size=0.1,
        attack_steps=1,
        validation_steps=2,
        batch_size=128,
        learning_rate=0.2,
        epochs=4,
        precision="float32",
        device="cpu",
    ).replace(**changes)
    return fit(config, path=path, dataset=dataset, progress=False)


@pytest.fixture(scope="session")
def standard_run(small_digits, tmp_path_factory) -> Run:
    """A network that knows the digits and is not robust."""
    return _trained("standard", small_digits, tmp_path_factory.mktemp("runs") / "standard")


@pytest.fixture(scope="session")
def robust_run(small_digits, tmp_path_factory) -> Run:
    """A network that knows the digits and withstands epsilon = 0.1 to a good part."""
    return _trained("pgd_at", small_digits, tmp_path_factory.mktemp("runs") / "robust")


class TinyNet(nn.Module):
    """So small that thousands of passes take a second; its layout of memory is that of the course's network."""

    def __init__(self, channels=1, classes=10, side=14):
        super().__init__()
        self.convolution = nn.Conv2d(channels, 8, 4, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8 * ((side - 4) // 2 + 1) ** 2, classes)

    def forward(self, images):
        x = self.convolution(images.contiguous(memory_format=torch.channels_last))
        return self.classifier(self.norm(x).relu().flatten(1))


@pytest.fixture(scope="session")
def tiny_net(small_digits):
    """Trained for a moment on adversarial examples, so that each stage of AutoAttack finds something to do."""
    torch.manual_seed(0)
    model = TinyNet()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for batch in torch.randperm(len(small_digits.train))[:3840].split(128):
        x, y = small_digits.train[batch].inputs(), small_digits.train.labels[batch]
        loss = F.cross_entropy(model(pgd(model, x, y, epsilon=0.1, step_size=0.1, steps=1)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture
def few(small_digits) -> Split:
    return small_digits.test[:40]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def colour_folder(tmp_path_factory):
    """An image folder like CIFAR-10: its classes, 32x32 colour pictures, 80 for training, 60 for testing."""
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    folder = tmp_path_factory.mktemp("colour")
    rng = np.random.default_rng(0)
    for part, number in (("train", 8), ("test", 6)):
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for index in range(number):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{index}.png")
    return folder


@pytest.fixture
def closed_figures():
    """Figures and their style leave no trace in other tests."""
    with mpl.rc_context():
        yield
        plt.close("all")


@pytest.fixture
def course_style(closed_figures):
    plotting.use_style()


@pytest.fixture
def axis(closed_figures):
    return plt.subplots()[1]


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)
