"""The presets for a GPU, as far as a CPU can try them: one training step and one batch of evaluation at full width."""

import pytest
import torch

from anchor_utils import evaluation, models, training
from anchor_utils.config import METHODS, load_preset
from anchor_utils.data import Dataset, Split

GPU_PRESETS = ("t4", "minutes", "paper")


@pytest.fixture(scope="module")
def colour_images():
    """Two batches of random 32x32 colour images in ten classes, in the place of CIFAR-10."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(12) % 10)
    return Dataset("cifar10", split, split, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("preset", GPU_PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_a_training_step_at_full_width(preset, method, colour_images, tmp_path):
    """Everything as in the preset, except for the numbers of images, steps and epochs."""
    config = load_preset(preset, method=method, epochs=1, batch_size=8, validation_images=4, attack_steps=1)
    config = config.replace(validation_steps=1, test_images=12, runs_dir=str(tmp_path))
    run = training.fit(config, dataset=colour_images, progress=False)
    trained, metrics = run.model("last"), run.metrics()
    assert trained.architecture["width"] == 64
    assert metrics["step"].tolist() == [1]
    assert metrics["loss"].notna().all()
    fresh = models.AnchorNet(**trained.architecture)
    assert not torch.equal(trained.classifier.weight, fresh.classifier.weight)


@pytest.mark.parametrize("preset", GPU_PRESETS)
def test_one_batch_is_evaluated_at_full_width(preset, colour_images):
    config = load_preset(preset)
    torch.manual_seed(0)
    model = models.AnchorNet(10, config.width, 3, config.projection_dim, colour_images.mean, colour_images.std)
    labels = evaluation.logits_of(model, colour_images.test.inputs()).argmax(1)  # all right, so all are attacked
    table = evaluation.evaluate(
        model,
        Split(colour_images.test.images[:4], labels[:4]),
        epsilon=config.epsilon,
        step_size=config.eval_step_size,
        steps=config.eval_steps,
        restarts=config.eval_restarts,
    )
    assert table["attack"].tolist() == ["clean", "pgd"]
    assert table["accuracy"][0] == 1.0
    assert table["steps"][1] == 20
    assert 11_100_000 < sum(p.numel() for p in model.stages.parameters()) < 11_200_000  # a ResNet-18


def test_the_paper_preset_says_where_every_value_comes_from():
    from anchor_utils.config import PRESET_DIR

    lines = (PRESET_DIR / "paper.yaml").read_text().splitlines()
    values = [line for line in lines if line and not line.startswith(("#", "preset:"))]
    assert values
    assert not [line for line in values if not ("# paper" in line or "# our choice" in line)]
