"""Image folders: what is listed and how it is decoded, what is refused, and the cache of decoded images."""

import os
import re
import shutil
import sys
import tempfile
import threading
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from anchor_utils import imagefolder
from anchor_utils.data import Dataset, load_dataset

pytestmark = pytest.mark.filterwarnings("ignore:a network can tell classes")  # most tests of formats change one file


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
    for name in ("notes.txt", "more.TXT", "README"):
        (folder / "train" / "ant" / name).write_text("not an image")
    shutil.copy(folder / "train" / "ant" / "0.png", folder / "test" / "of no class.png")
    with pytest.warns(UserWarning, match=r"left out files .*: 2 '\.txt', 1 '', 1 '\.png'$") as caught:
        images = load_folder(folder).train.images
    assert len(caught) == 1
    assert images.shape == (5, 3, 6, 4)
    assert images.flatten(1).eq(9).all(1).sum() == 1


@pytest.mark.parametrize("missing", ["", "train", "test"])
def test_missing_folder_is_named(folder, missing):
    path = folder if missing else folder / "nowhere"
    if missing:
        (folder / missing).rename(folder / "moved")
    with pytest.raises(FileNotFoundError, match=r"missing folder .*PATH/train/CLASS/") as caught:
        load_folder(path)
    assert repr(str(path / missing)) in str(caught.value)


def test_classes_without_images_are_named_with_what_they_hold(folder):
    for file in (folder / "test").rglob("*.png"):
        file.rename(file.with_suffix(".heic"))
    with pytest.raises(ValueError, match=r"no image in 'test/ant'; 'test/bee'; .*\.png, .*there are also 2 '\.heic'"):
        load_folder(folder)


def test_folders_within_classes_are_named(folder):
    for part in ("train", "test"):
        (folder / part / "ant" / "images").mkdir()
        for file in (folder / part / "ant").glob("*.png"):
            file.rename(file.parent / "images" / file.name)
    with pytest.raises(ValueError, match=r"folders within classes: '.*train\W+ant\W+images'; '.*test\W+ant\W+images'"):
        load_folder(folder)


@pytest.mark.parametrize("name", ["._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._0.png"])
def test_litter_of_operating_systems_is_no_data(folder, name, recwarn):
    for where in (folder / "train" / "ant", folder / "train", folder):
        (where / name).parent.mkdir(exist_ok=True)
        (where / name).write_bytes(b"litter")
    loaded = load_folder(folder)
    assert (loaded.classes, len(loaded.train)) == (("ant", "bee"), 4)
    assert not [w for w in recwarn if "left out" in str(w.message)]


def test_a_slash_at_the_end_makes_no_difference(folder, decoded):
    first = load_folder(folder)
    second = load_dataset(f"imagefolder:{folder}/", folder.parent)
    assert len(decoded) == 1
    assert first.identity() == second.identity()


GRADIENT = np.linspace(0, 255, 24).round().astype(np.uint8).reshape(6, 4)


def only(folder, image, name="0.png", **options) -> np.ndarray:
    """Make `image` the only test image of "ant"; how it arrives, (H, W, 3)."""
    (folder / "test" / "ant" / "0.png").unlink()
    image.save(folder / "test" / "ant" / name, **options)
    test = load_folder(folder).test
    return test.images[test.labels == 0][0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["0.png", "0.PNG", "0.webp", "0.bmp", "0.gif", "0.tif", "0.tiff", "0.jpg", "0.JPEG"])
def test_every_format_is_read(folder, name):
    options = {"lossless": True} if name == "0.webp" else {}
    pixels = only(folder, Image.fromarray(GRADIENT), name, **options)
    assert np.abs(pixels - GRADIENT[:, :, None].astype(int)).max() <= (12 if "j" in name.lower() else 0)


def test_classes_in_different_formats_are_told(folder):
    with pytest.warns(UserWarning, match=r"file formats: 'ant' BMP, PNG; 'bee' PNG$"):
        only(folder, Image.fromarray(GRADIENT), "0.bmp")


def test_of_an_animation_the_first_frame_is_read(folder):
    frames = [Image.fromarray(np.full((6, 4), value, np.uint8)) for value in (50, 100)]
    assert (only(folder, frames[0], "0.gif", save_all=True, append_images=frames[1:]) == 50).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(folder, mode):
    picture = np.random.default_rng(1).integers(0, 2, (6, 4, 1), np.uint8) * np.array([255, 255, 255], np.uint8)
    image = Image.fromarray(picture).convert(mode)
    assert np.array_equal(only(folder, image, "0.tif" if mode == "CMYK" else "0.png"), picture)


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA"])
def test_transparent_pixels_are_white(folder, mode):
    mask = np.random.default_rng(1).integers(0, 2, (6, 4), np.uint8) * 255
    image, options = Image.new("L", (4, 6)), {}  # all black
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(mask))
    else:  # one grey value or colour of the palette is transparent
        image, options = Image.fromarray(np.where(mask, 0, 1).astype(np.uint8)), {"transparency": 1}
        if mode == "P":
            image.putpalette([0, 0, 0, 9, 9, 9])
    pixels = only(folder, image, **options)
    assert np.array_equal(pixels, np.repeat(255 - mask[:, :, None], 3, 2))


def test_half_transparent_pixels_are_mixed_with_white(folder):
    assert (only(folder, Image.new("RGBA", (4, 6), (0, 100, 200, 51))) == [204, 224, 244]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_the_camera_says(tmp_path, orientation):
    upright = np.zeros((16, 16), np.uint8)
    upright[:8, :8], upright[:8, 8:] = 255, 100  # light top left, grey top right
    # How the pixels lie in the file, by the definition of the tag.
    stored = [
        *(upright, upright[:, ::-1], upright[::-1, ::-1], upright[::-1]),
        *(upright.T, np.rot90(upright), upright[::-1, ::-1].T, np.rot90(upright, -1)),
    ][orientation - 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for file in ("train/a", "test/a"):
        (tmp_path / "images" / file).mkdir(parents=True)
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "images" / file / "0.jpg", exif=exif, quality=100)
    pixels = load_folder(tmp_path / "images").test.images[0, 0].int().numpy()
    assert np.abs(pixels - upright).max() < 5


# Images of more than 8 bits


@pytest.mark.parametrize("name", ["0.png", "0.tif"])
@pytest.mark.parametrize("white", [65535, 4095, 255])
def test_sixteen_bits_become_eight(folder, name, white):
    deep = np.linspace(0, white, 24).round().astype(np.uint16).reshape(6, 4)
    pixels = only(folder, Image.fromarray(deep), name)
    assert np.array_equal(pixels, np.repeat((deep / white * 255).round().astype(np.uint8)[:, :, None], 3, 2))
    assert len(np.unique(pixels)) == 24


@pytest.mark.parametrize("white", [1, 255, 65535])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_wide_numbers_become_eight_bits(folder, dtype, white):
    deep = np.linspace(0, white, 24).astype(dtype).reshape(6, 4)
    pixels = only(folder, Image.fromarray(deep), "0.tif")
    assert np.abs(pixels - deep[:, :, None] / white * 255).max() <= 0.51


def test_deep_images_share_one_scale(folder):
    """Scaled by its own largest value, the dark image would look like the bright one."""
    for name, value in (("ant", 200), ("bee", 60000)):
        Image.fromarray(np.full((6, 4), value, np.uint16)).save(folder / "test" / name / "0.png")
    test = load_folder(folder).test
    assert [test.images[test.labels == label].unique().tolist() for label in (0, 1)] == [[1], [233]]


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 70000), (float("nan"),) * 2, (0, float("inf"))])
def test_values_without_a_scale_are_refused(folder, low, high):
    deep = np.full((6, 4), low, np.float32)
    deep[0, 0] = high
    with pytest.raises(ValueError, match=rf"ant\W+0.tif' has values from {low:g} to {high:g}; allowed is 0 to 65535"):
        only(folder, Image.fromarray(deep), "0.tif")


# What must not get in


@pytest.mark.parametrize("limit", ["side", "total", "Pillow's"])
def test_images_that_are_too_large_are_refused_before_they_are_decoded(folder, monkeypatch, limit):
    if limit == "total":
        monkeypatch.setattr(imagefolder, "MAX_BYTES", 6 * 6 * 4 * 3 - 1)
    elif limit == "Pillow's":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    pixels = np.asarray if limit == "side" else lambda _: pytest.fail("decoded")
    monkeypatch.setattr(imagefolder, "_pixels", pixels)
    image = Image.new("RGB", (5000, 1) if limit == "side" else (4, 6))
    expected = {"side": "has 5000x1 pixels: allowed are 4096 a side", "total": "has 4x6 pixels", "Pillow's": "bomb"}
    with pytest.raises(ValueError, match=rf"ant\W+0.png'.*{expected[limit]}"):
        only(folder, image)


def test_only_readers_of_images_are_started(folder):
    """Pillow reads EPS by running Ghostscript."""
    (folder / "train" / "ant" / "0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 6\n")
    with pytest.raises(ValueError, match=r"broken image .*cannot identify image file"):
        load_folder(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes, and links need rights")
@pytest.mark.parametrize("kind", ["pipe", "dangling", "loop"])
def test_what_is_no_file_is_named(folder, kind):
    path = folder / "train" / "ant" / "2.png"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("2.png" if kind == "loop" else "nowhere")
    with pytest.raises((ValueError, OSError), match=r"ant\W+2\.png'"):
        load_folder(folder)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no such names")
def test_names_that_are_not_utf8_work_or_are_told(folder):
    name = os.fsdecode(b"\xe4.png")
    shutil.copy(folder / "train" / "ant" / "0.png", folder / "train" / "ant" / name)
    assert len(load_folder(folder).train) == 5
    (folder / "train" / "ant" / name).write_bytes(b"")
    with pytest.raises(ValueError, match="broken image") as caught:
        load_folder(folder)
    assert r"\udce4.png" in str(caught.value)
    str(caught.value).encode()  # can be printed
    for part in ("train", "test"):
        (folder / part / "ant").rename(folder / part / name)
    with pytest.raises(ValueError, match=r"classes \['\\udce4\.png'\]: allowed is UTF-8"):
        load_folder(folder)


ODD_NAME = "ä.png" if sys.platform == "win32" else "ä\n.png"
FILES = st.sampled_from(["0.png", "1.PNG", "2.jpg", "3.webp", "4.gif", "5.bmp", "6.tif", "7.txt", "._8.png", ODD_NAME])
MODES = st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK"])
CLASS = st.dictionaries(FILES, st.tuples(MODES, st.just(2)), min_size=1, max_size=3)
ODD = st.one_of(st.tuples(MODES, st.integers(1, 3)), st.binary(max_size=40), st.just("folder"))
ODD_FILE = st.tuples(st.sampled_from(["train", "test"]), st.sampled_from(["a", "b", "é"]), FILES, ODD)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tree=st.fixed_dictionaries({(part, name): CLASS for part in ("train", "test") for name in "aé"}),
    odd=st.lists(ODD_FILE, max_size=2),
    cut=st.sampled_from([None, None, None, 9, 40, 70]),
)
def test_any_tree_is_loaded_whole_or_refused_in_our_words(tmp_path, tree, odd, cut):
    """A tree of images, in which a few files may be something else, or all of them cut off."""
    contents = {(*folder, file): content for folder, found in tree.items() for file, content in found.items()}
    contents |= {tuple(place): content for *place, content in odd}
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(folder) / "images"
        for place, content in contents.items():
            file = root.joinpath(*place)
            file.parent.mkdir(parents=True, exist_ok=True)
            if content == "folder":
                file.mkdir()
            elif isinstance(content, bytes):
                file.write_bytes(content)
            else:
                mode, width = content
                Image.new(mode, (width, 2)).save(file, "TIFF" if mode in ("I", "F", "CMYK") else "PNG")
                file.write_bytes(file.read_bytes()[:cut])
        refusal = ""
        try:
            loaded = load_folder(root)
        except ValueError as error:
            refusal = str(error)
        if refusal:
            assert re.search("must agree|no image in|folders within|broken image|all must be of one size", refusal)
        else:
            usable = Counter(part for part, _, file in contents if file not in ("7.txt", "._8.png"))
            assert (len(loaded.train), len(loaded.test)) == (usable["train"], usable["test"])
            assert all(min(split.labels.bincount()) > 0 for split in (loaded.train, loaded.test))


def test_classes_must_agree(folder):
    (folder / "test" / "bee").rename(folder / "test" / "wasp")
    with pytest.raises(ValueError, match=r"2 classes, test has 2, in one of them only: 'bee'; 'wasp'; they must"):
        load_folder(folder)


def test_sizes_must_agree(folder):
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / "train" / "bee" / "0.png")
    with pytest.raises(ValueError, match=r"bee\W+0\.png' has size \(4, 6\), the ones before it \(6, 4\)"):
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
    with pytest.raises(ValueError, match=r"broken image .*bee\W+1\.png"):
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
    calls, decode = [], imagefolder._decode
    monkeypatch.setattr(imagefolder, "_decode", lambda files: (calls.append(1), decode(files))[1])
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


@pytest.mark.parametrize("damage", ["flipped", "another", "folder"])
def test_cache_that_holds_something_else_is_not_believed(folder, decoded, damage):
    first, file = load_folder(folder), cached(folder)
    content = file.read_bytes()
    file.unlink()
    if damage == "flipped":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "another":
        save_file({"images": torch.cat([first.train.images, first.test.images])}, file)
    else:
        file.mkdir()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        second = load_folder(folder)
    assert len(caught) == (damage == "folder")  # it cannot be replaced
    assert len(decoded) == 2
    assert first.identity() == second.identity()
    if damage != "folder":
        assert file.read_bytes() == content


@pytest.mark.parametrize("fails", ["mkdir", "lock", "no locks", "write"])
def test_where_nothing_can_be_kept_the_images_are_decoded_each_time(folder, monkeypatch, decoded, fails):
    def fail(path, *_, **__):
        if fails == "write":
            with path.open("wb") as file:
                file.write(b"half")
        raise NotImplementedError("flock") if fails == "no locks" else OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        target = {"mkdir": "pathlib.Path.mkdir", "write": "pathlib.Path.write_bytes"}
        patch.setattr(target.get(fails, "anchor_utils.imagefolder.FileLock"), fail)
        with pytest.warns(UserWarning, match=r"decoded images cannot be kept in '.*cache'.*(flock|No space left)"):
            first = load_folder(folder)
    cache = folder.parent / "cache"
    assert not cache.exists() or {file.name for file in cache.iterdir()} <= {".lock"}
    assert load_folder(folder).identity() == first.identity()
    assert len(decoded) == 2


def test_a_cache_that_can_only_be_read_is_read(folder, monkeypatch, recwarn):
    first = load_folder(folder)
    monkeypatch.setattr(imagefolder, "FileLock", lambda _: pytest.fail("tried to write"))
    assert load_folder(folder).identity() == first.identity()
    assert not recwarn.list


def test_broken_images_leave_nothing_in_the_cache(folder):
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
