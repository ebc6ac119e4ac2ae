"""Bad input, in one table: name, value and what is allowed are said, and nothing is written."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from anchor_utils import (
    attacks,
    augmentation,
    embeddings,
    evaluation,
    losses,
    masking,
    models,
    results,
    train,
    training,
)
from anchor_utils.config import Config, load_preset
from anchor_utils.data import Dataset, Split, load_dataset
from course import lesson
from course import runner as course_runner

NAN, INFINITY = float("nan"), float("inf")
with torch.random.fork_rng():
    torch.manual_seed(0)
    NETWORK = models.AnchorNet(num_classes=4, width=8, in_channels=1, projection_dim=4).eval()
    IMAGES, LABELS = torch.rand(6, 1, 8, 8), torch.arange(6) % 4
PIXELS = (IMAGES * 255).byte()
SPLIT = Split(PIXELS, LABELS)
DATASET = Dataset("own", SPLIT, SPLIT, tuple("abcd"), (0.5,), (0.2,))
LOGITS, VECTORS, CLASSES = IMAGES[:, 0, 0, :4], np.random.default_rng(0).normal(size=(40, 5)), np.arange(40) % 4
FITTING = Config(test_images=6, validation_images=2, batch_size=2, epochs=1, width=1, device="cpu")


def command(main, *arguments):
    """A row that calls a command; its message is what the command says on stderr."""
    return lambda: main([str(argument) for argument in arguments])


def runner(*arguments):
    return command(course_runner.main, "smoke", "-p", "data_root", "data", "--output", "out", *arguments)


def trainer(*arguments):
    return command(train.main, "--preset", "smoke", "-p", "data_root", "data", "--run-dir", "out", *arguments)


def config(**values):
    return lambda: load_preset("smoke", **values)


def pgd(*, images=IMAGES, labels=LABELS, model=NETWORK, **changes):
    return lambda: attacks.pgd(model, images, labels, **{"epsilon": 0.1, "step_size": 0.1, "steps": 1} | changes)


def fgsm(**changes):
    return lambda: attacks.fgsm(NETWORK, IMAGES, LABELS, **{"epsilon": 0.1} | changes)


def evaluate(*names, model=NETWORK, dataset=DATASET, **changes):
    return lambda: evaluation.evaluate(model, dataset, names or ("clean", "pgd"), **{"epsilon": 0.1} | changes)


def fit(dataset=DATASET, **changes):
    return lambda: training.fit(FITTING.replace(**changes), path="out", dataset=dataset, progress=False)


def begin(**changes):
    first = {"number": "01", "preset": "smoke", "overrides": {}, "seed": 0, "runs_dir": "out", "data_root": "data"}
    return lambda: lesson.start(**first | changes)


FEW = models.AnchorNet(num_classes=3, width=2, in_channels=1).eval()
FIVE_COLOURS = IMAGES.expand(-1, 5, -1, -1)

# What is called, and what its message must contain: the argument, its value, and what is allowed.
ROWS = [
    # The commands
    (
        command(course_runner.main, "smokey", "--output", "out"),
        "unknown preset 'smokey' did you mean 'smoke' Allowed: smoke, cpu",
    ),
    (runner("--notebooks", "9"), "unknown notebook '09' Allowed: 01, 02"),
    (runner("--timeout", "-1"), "timeout=-1.0: allowed is a number of minutes, above 0"),
    (runner("--timeout", "nan"), "timeout=nan: allowed is a number of minutes, above 0"),
    (runner("--timeout", "long"), "--timeout 'long' float"),
    (runner("-p", "epochs"), "-p expected 2 arguments"),
    (runner("-p", "epoch", "3"), "unknown parameter 'epoch' did you mean 'epochs' Allowed:"),
    (runner("-p", "epochs", "0"), "epochs=0: allowed is a whole number, at least 1"),
    (runner("-p", "epochs", "yes"), "epochs=True: allowed is a whole number"),
    (runner("-p", "epochs", "[1]"), "epochs=[1]: allowed is a whole number"),
    (runner("-p", "epochs", "{"), "epochs='{': allowed is YAML"),
    (runner("-p", "width", "2001-13-01"), "width='2001-13-01': allowed is YAML"),
    (runner("-p", "epochs", "3", "-p", "epochs", "4"), "epochs=4: allowed is one value, epochs=3"),
    (runner("-p", "overrides", "epochs=3"), "overrides='epochs=3': allowed is a mapping"),
    (runner("-p", "overrides", "{3: 4}"), "overrides='{3: 4}': allowed is a mapping"),
    (runner("-p", "overrides", "{epochs: 3}", "-p", "epochs", "4"), "epochs=4: allowed is one value, epochs=3"),
    (runner("-p", "preset", "cpu"), "preset='cpu': allowed is the first argument"),
    (runner("-p", "models", "none"), "models='none': allowed is 'train', 'pretrained'"),
    (runner("-p", "models", "pretrained", "-p", "seed", "1"), "seed=1: allowed pretrained is 0"),
    (runner("-p", "dataset", "imagefolder:nowhere"), "dataset='imagefolder:nowhere': no folder"),
    (runner("-p", "dataset", "imagefolder:one_class"), "dataset= allowed are 2 classes or more, this has 1"),
    (
        runner("-p", "train_images", "9000", "-p", "test_images", "2000", "-p", "batch_size", "5000"),
        "train_images=9000: 4000 test_images=2000: 1000 batch_size=5000: allowed is up to",
    ),
    (command(train.main, "--preset", "paperr"), "unknown preset 'paperr' did you mean 'paper'"),
    (trainer("-p", "self", "3"), "unknown parameter 'self' Allowed:"),
    (trainer("-p", "method", "anchr"), "method='anchr': allowed is 'anchor'"),
    (trainer("-p", "epsilon", "8/255"), "epsilon='8/255': allowed is a number, at least 0, at most 1 write 0.0313725"),
    (trainer("-p", "dataset", "imagefolder:nowhere"), "missing folder 'nowhere' PATH/train/CLASS"),
    (trainer("-p", "batch_size", "400"), "batch_size=400: allowed is up to 320"),
    (command(train.main, "--preset", "smoke", "--run-dir", "text.txt/out", "-p", "epochs", "1"), "text.txt"),
    # The configuration
    (config(epsilon=8), "epsilon=8: at least 0, at most 1 did you mean 8/255 = 0.0314?"),
    (config(step_size=2), "step_size=2: above 0, at most 1 did you mean 2/255 = 0.00784?"),
    (config(epsilon=-0.1), "epsilon=-0.1: at least 0"),
    (config(epsilon=NAN), "epsilon=nan: number finite"),
    (config(learning_rate=INFINITY), "learning_rate=inf: above 0 finite"),
    (config(learning_rate="1e-3"), "learning_rate='1e-3': a number, above 0 write 0.001"),
    (config(seed=True), "seed=True: a whole number, at least 0"),
    (config(seed=2**31), "seed=2147483648: below 2147483648"),
    (config(batch_size=1), "batch_size=1: at least 2"),
    (config(width=300), "width=300: at least 1, at most 256"),
    (config(stem_stride=3), "stem_stride=3: allowed is 1, 2"),
    (config(flip="no"), "flip='no': true or false"),
    (config(momentum=1), "momentum=1: at least 0, below 1"),
    (config(dataset="mnist"), "dataset='mnist': allowed are mnist5k imagefolder:PATH"),
    (config(dataset="imagefolder:/"), "dataset='imagefolder:/': imagefolder:PATH"),
    (config(validation_images=400), "validation_images=400 train_images=400 smaller"),
    (config(device="gpu"), "device='gpu': allowed is 'auto', 'cpu'"),
    # The first cell of a notebook
    (begin(overrides="{epochs: 3}"), "overrides='{epochs: 3}': allowed is a mapping -y"),
    (begin(overrides=None), "overrides=None: allowed is a mapping"),
    (begin(seed=1.5), "seed=1.5: a whole number"),
    (begin(preset="cpuu"), "preset 'cpuu' did you mean 'cpu'"),
    (begin(overrides={"test_images": 1001}), "test_images=1001: allowed is 1 to 1000"),
    # Attacks
    (pgd(epsilon=8), "epsilon=8: allowed is [0, 1] did you mean 8/255 = 0.0314?"),
    (pgd(epsilon="8/255"), "epsilon='8/255': allowed is [0, 1] write 0.0313725"),
    (pgd(epsilon=NAN), "epsilon=nan: allowed is [0, 1]"),
    (pgd(epsilon=INFINITY, norm="l2"), "epsilon=inf: allowed is a finite radius"),
    (pgd(step_size=0), "step_size=0: allowed is above 0"),
    (pgd(step_size=2), "step_size=2: allowed is at most 1 did you mean 2/255"),
    (pgd(steps=0), "steps=0: allowed is 1 or more"),
    (pgd(steps=2.5), "steps=2.5: allowed is a whole number"),
    (pgd(restarts=2, random_start=False), "restarts=2: allowed is 1 random_start=True"),
    (pgd(norm="l1"), "norm='l1': allowed are 'linf', 'l2'"),
    (pgd(loss="dlr"), "loss='dlr': allowed are 'ce', 'margin'"),
    (pgd(keep="best"), "keep='best': allowed is 'final' or 'worst'"),
    (pgd(model_mode="train"), "model_mode='train': allowed is 'eval'"),
    (pgd(precision="int8"), "precision='int8': allowed are float32, tf32, auto"),
    (pgd(labels=LABELS + 1), "labels=4: allowed are 0 to 3 subtract 1"),
    (pgd(labels=LABELS.float()), "labels have torch.float32: allowed are 6 integers"),
    (pgd(labels=LABELS - 100), "labels=-100, -99 allowed are 0 to 3"),
    (pgd(labels=LABELS[:5]), "labels have shape (5,) allowed are 6 integers"),
    (pgd(images=IMAGES * 255), "images lie in allowed is [0, 1]"),
    (pgd(images=IMAGES * NAN), "images lie in [nan, nan]: allowed is [0, 1]"),
    (pgd(images=PIXELS), "images have torch.uint8: allowed is floating point divide uint8 by 255"),
    (pgd(images=FIVE_COLOURS), "images have shape (6, 5, 8, 8): allowed is (N, 1, H, W)"),
    (pgd(model=lambda x: x), "model is a function: allowed is a torch.nn.Module"),
    (pgd(model=torch.nn.Identity()), "model returned (6, 1, 8, 8) for 6 images: allowed are logits (N, K)"),
    (fgsm(epsilon=-1), "epsilon=-1: allowed is [0, 1]"),
    # Evaluation
    (evaluate("cleen"), "unknown attack 'cleen' did you mean 'clean' Allowed: clean, noise"),
    (evaluate("pgd", epsilon=None), "epsilon=None: allowed is a radius"),
    (evaluate("clean", "autoattack", model=FEW, dataset=Split(PIXELS, LABELS % 3)), "3 classes AutoAttack at least 4"),
    (evaluate(images=7), "images=7: allowed is 1 to 6"),
    (evaluate(batch_size=0), "batch_size=0: allowed is 1 or more"),
    (evaluate(iterate="best"), "iterate='best': allowed are 'final', 'any'"),
    (evaluate(resume="text.json"), "resume='text.json': damaged delete it"),
    (evaluate(resume="text.txt"), "resume='text.txt': allowed is a folder or a file NAME.json"),
    (evaluate(dataset=SPLIT[:0]), "dataset: allowed is one with test images"),
    (lambda: results.read_results("text.txt"), "path='text.txt': allowed is a whole file of save_results"),
    (
        lambda: masking.gradient_masking_checks(NETWORK, IMAGES, LABELS, epsilon=0),
        "epsilon=0: allowed is a radius above 0",
    ),
    # Losses
    (lambda: losses.supcon_loss(LOGITS, LABELS[:5]), "(6, 4) (5,): allowed are (M, D) and (M,)"),
    (lambda: losses.supcon_loss(LOGITS, LABELS, temperature=0), "temperature=0: allowed is above 0"),
    (lambda: losses.hardness_weights(LOGITS, LABELS, beta=-1), "beta=-1: allowed is a finite number, 0 or more"),
    (lambda: losses.hardness_weights(LOGITS, LABELS, beta=INFINITY), "beta=inf: allowed is a finite number"),
    (lambda: losses.trades_loss(LOGITS, LOGITS, LABELS + 1), "labels=4: allowed are 0 to 3 subtract 1"),
    (lambda: losses.mart_loss(LOGITS, LOGITS[:, :3], LABELS), "(6, 4) (6, 3): allowed is one shape (N, K)"),
    (
        lambda: losses.anchor_loss(LOGITS, LABELS, LOGITS, LABELS, contrastive_weight=NAN),
        "contrastive_weight=nan: allowed is a finite number",
    ),
    # Data
    (lambda: load_dataset("mnist"), "name='mnist': allowed are mnist5k imagefolder:PATH"),
    (lambda: load_dataset("mnist5k", train_images=4001), "train_images=4001: allowed is 1 to 4000"),
    (lambda: load_dataset("imagefolder:sizes", "data"), "other.png has size (9, 9) all must be of one size"),
    (lambda: load_dataset("imagefolder:broken", "data"), "broken image broken.png"),
    (lambda: load_dataset("imagefolder:nested", "data"), "folders within classes: inner PATH/train/CLASS"),
    (lambda: load_dataset("imagefolder:text.txt", "data"), "missing folder 'text.txt' PATH/train/CLASS"),
    (lambda: Split(IMAGES, LABELS), "images of torch.float32 allowed is torch.uint8 (images * 255)"),
    (lambda: Split(PIXELS, LABELS.float()), "labels have torch.float32: allowed are 6 integers"),
    (lambda: Split(PIXELS, LABELS - 1), "labels=-1: allowed is 0 or more"),
    (lambda: dataclasses.replace(DATASET, classes=tuple("abc")), "train.labels=3: allowed are 0 to 2"),
    (lambda: DATASET.hold_out(6), "validation_images=6: allowed is 1 to 5"),
    (lambda: augmentation.augment(PIXELS, padding=-1), "padding=-1: allowed is 0 or more pixels"),
    # Networks
    (lambda: models.AnchorNet(width=0), "width=0: allowed is 1 or more"),
    (lambda: models.AnchorNet(projection_dim=-1), "projection_dim=-1: allowed is 0"),
    (lambda: models.AnchorNet(stem_stride=4), "stem_stride=4: allowed are 1, 2"),
    (lambda: models.AnchorNet(std=[0.1, 0.1, 0]), "std=[0.1, 0.1, 0.0] above 0"),
    (lambda: models.load("nowhere.safetensors"), "path='nowhere.safetensors': no such file"),
    (lambda: models.load("text.txt"), "path='text.txt' not a network saved by"),
    (lambda: models.pretrained("standart"), "method='standart': allowed are"),
    (lambda: NETWORK(FIVE_COLOURS), "images have shape (6, 5, 8, 8): allowed is (N, 1, H, W)"),
    # Training
    (fit(validation_images=6), "validation_images=6: allowed is 1 to 5"),
    (fit(batch_size=8), "batch_size=8: allowed is up to 4"),
    (fit(test_images=7), "test_images=7: allowed is 1 to 6"),
    (
        lambda: training.fit(FITTING, path="damaged", dataset=DATASET, progress=False),
        "damaged config.json",
    ),
    # Embeddings
    (lambda: embeddings.extract(NETWORK, PIXELS), "images have torch.uint8: allowed is floating point"),
    (
        lambda: embeddings.extract(NETWORK, IMAGES, layer="logits"),  # type: ignore[arg-type]
        "layer='logits': allowed are 'features', 'projection'",
    ),
    (lambda: embeddings.project_2d(VECTORS, perplexity=40), "perplexity=40: allowed is below 40"),
    (
        lambda: embeddings.knn_accuracy(VECTORS, CLASSES, VECTORS, CLASSES, neighbours=41),
        "neighbours=41: allowed is 1 to 40",
    ),
    (lambda: embeddings.project_2d(VECTORS * 0), "vectors differ by 0 allowed is 1e-15 to 1e15"),
    (lambda: embeddings.project_2d(VECTORS * NAN), "vectors: 40 of 40 not finite, allowed"),
    (lambda: embeddings.project_2d(VECTORS[:, 0]), "vectors have shape (40,) allowed are numbers (N, D)"),
    (
        lambda: embeddings.knn_accuracy(VECTORS, CLASSES, VECTORS, CLASSES[:3]),
        "query_labels have shape (3,) allowed are 40 integers",
    ),
    (lambda: embeddings.neighbourhood_metrics(VECTORS, CLASSES * 0), "labels have 1 classes: allowed are 2 to 39"),
    (
        lambda: embeddings.neighbourhood_metrics(VECTORS, CLASSES, neighbours=20),
        "neighbours=20: allowed is 1 to 19",
    ),
]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A folder with files that are not what they should be."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("text.txt", "text.json"):
        (folder / name).write_text("something else")
    (folder / "damaged").mkdir()
    (folder / "damaged" / "config.json").write_text('{"training": {"width"')
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    for name, classes in {"one_class": ["a"], "sizes": ["a", "b"], "broken": ["a", "b"], "nested": ["a", "b"]}.items():
        for place in (folder / name / part / label for part in ("train", "test") for label in classes):
            place.mkdir(parents=True)
            picture.save(place / "first.png")
    picture.resize((9, 9)).save(folder / "sizes" / "train" / "b" / "other.png")
    (folder / "broken" / "test" / "b" / "broken.png").write_bytes(b"no picture")
    (folder / "nested" / "train" / "a" / "inner").mkdir()
    return folder


def listing(folder):
    """Every file with its content, but for what is kept in data/cache: images, decoded once for all later calls."""
    found = {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    return {path: content for path, content in found.items() if path.parts[0] != "data"}


@pytest.mark.parametrize(("call", "words"), ROWS, ids=[words[:40] for _, words in ROWS])
def test_bad_input_is_refused_by_name(call, words, inputs, monkeypatch, capsys):
    """`words` must all occur in the message. Commands end with exit status 2, functions raise ValueError or OSError."""
    monkeypatch.chdir(inputs)
    monkeypatch.setattr(
        course_runner.papermill, "execute_notebook", lambda *_, **__: pytest.fail("a notebook was started")
    )
    before = listing(inputs)
    message = None
    try:
        status = call()
    except SystemExit as end:  # argparse
        status = end.code
    except (ValueError, OSError) as error:
        status, message = 2, str(error)
    assert status == 2, "it was not refused"
    message = capsys.readouterr().err if message is None else message
    print(message)
    assert "Traceback" not in message
    for word in words.split():
        assert word in message, message
    assert listing(inputs) == before, "something was written"


def test_the_table_is_long_and_a_right_call_passes_its_checks(tmp_path):
    assert len(ROWS) >= 60
    for right in (pgd(), fgsm(), evaluate(), config(), lambda: embeddings.project_2d(VECTORS, perplexity=5)):
        right()
    training.fit(FITTING, path=tmp_path / "run", dataset=DATASET, progress=False)
