"""The configuration: what it refuses, and which fields decide the name of a run."""

import math
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from anchor_utils import config as config_module
from anchor_utils import data, training
from anchor_utils.checks import epsilon_hint
from anchor_utils.config import (
    _ALWAYS_NAMED,
    DATASETS,
    METHODS,
    PRESET_DIR,
    Config,
    Method,
    Training,
    load_preset,
    preset_values,
    presets,
)

# For every field but the method a value that is not the default.
OTHER_VALUES = {
    "dataset": "cifar10",
    "train_images": 1000,
    "validation_images": 300,
    "crop_padding": 1,
    "flip": True,
    "width": 4,
    "stem_stride": 2,
    "projection_dim": 32,
    "seed": 1,
    "temperature": 0.2,
    "beta": 1.0,
    "contrastive_weight": 0.5,
    "classifier_view": "both",
    "trades_beta": 1.0,
    "mart_beta": 1.0,
    "epsilon": 0.2,
    "step_size": 0.05,
    "attack_steps": 3,
    "epsilon_warmup": 0.5,
    "attack_mode": "train",
    "epochs": 1,
    "batch_size": 64,
    "learning_rate": 0.01,
    "momentum": 0.5,
    "weight_decay": 0.0,
    "schedule": "step",
    "warmup": 0.0,
    "finetune_epochs": 1,
    "finetune_learning_rate": 0.01,
    "precision": "float32",
    "validation_steps": 3,
    "test_images": 10,
    "eval_step_size": 0.01,
    "eval_steps": 5,
    "eval_restarts": 2,
    "eval_precision": "auto",
    "autoattack_images": 5,
    "screen_images": 5,
    "embedding_images": 60,
    "seeds": 3,
    "data_root": "elsewhere",
    "runs_dir": "elsewhere",
    "keep_epochs": True,
    "device": "cpu",
    "graph": True,
    "deterministic": True,
    "nesterov": True,
    "ema": 0.9,
    "label_smoothing": 0.1,
    "random_erasing": 0.5,
    "awp": 0.01,
    "mining": "hardest",
    "mining_share": 0.5,
    "mining_skip": 0.1,
    "permute_weights": True,
    "contrast_on": "features",
    "contrast_views": 3,
    "consistency_weight": 2.0,
}


def test_every_field_has_another_value():
    assert set(OTHER_VALUES) == set(Config.model_fields) - {"method"}


def fields_that_training_reads(method, folder) -> set[str]:
    """The fields of a configuration that a whole run looks at, seen from inside the configuration."""
    read = set()

    class Spied(Config):
        def __getattribute__(self, name):
            if name in Config.model_fields:
                read.add(name)
            return super().__getattribute__(name)

    small: dict[str, Any] = {"train_images": 100, "validation_images": 20, "epochs": 1, "batch_size": 40, "width": 1}
    config = Spied(method=method, **small, projection_dim=4, attack_steps=1, validation_steps=1, stem_stride=2)
    training.fit(config, path=folder, progress=False)
    return read


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_named_after_the_fields_that_its_training_reads(method, tmp_path):
    config = Config(method=method)
    changing = {f for f, value in OTHER_VALUES.items() if config.replace(**{f: value}).run_name() != config.run_name()}
    read = fields_that_training_reads(method, tmp_path) - {"method"}
    # Where it runs and how many test images there must be change nothing that is trained.
    assert changing == read - {"device", "graph", "deterministic", "data_root", "runs_dir", "test_images"}


def test_run_name_tells_methods_apart_and_is_a_folder_name():
    names = {Config(method=method).run_name() for method in METHODS}
    assert len(names) == len(METHODS)
    name = Config(dataset="imagefolder:/some where/flowers.v2", method="trades", width=3, seed=7).run_name()
    assert name.startswith("flowers-v2-trades-w3-s7-")
    assert "/" not in name


class Grown(Config):
    """The configuration of a later version, with one more field."""

    mixup: float = 0.0


@pytest.mark.parametrize("method", METHODS)
def test_a_new_field_renames_no_run(method):
    before, after = Config(method=method), Grown(method=method)
    assert after.training_fields() == before.training_fields()
    assert after.run_name() == before.run_name()
    used = Grown(method=method, mixup=0.1)
    assert used.training_fields() == before.training_fields() | {"mixup": 0.1}
    assert used.run_name() != before.run_name()


def test_the_default_of_a_field_that_names_leave_out_never_changes():
    """An absent field of an old run is one at its default: another default would give the run another meaning."""
    left_out = {name: field.default for name, field in Training.model_fields.items() if name not in _ALWAYS_NAMED}
    # A new field joins here, with the default that it then keeps.
    recipe = {"nesterov": False, "ema": 0.0, "label_smoothing": 0.0, "random_erasing": 0.0, "awp": 0.0}
    mining = {"mining": "exponential", "mining_share": 0.25, "mining_skip": 0.0, "permute_weights": False}
    contrast = {"contrast_on": "projection", "contrast_views": 2, "consistency_weight": 0.0}
    assert left_out == {"stem_stride": 1, **recipe, **mining, **contrast}


def test_a_row_of_the_table_takes_no_field_from_other_methods(monkeypatch):
    before = Config(method="standard").training_fields()
    monkeypatch.setitem(METHODS, "mine", Method("mine", "#CC79A7", "*", ("learning_rate",)))
    assert Config(method="standard").training_fields() == before
    assert Config(method="mine").run_name() != Config(method="mine", learning_rate=0.3).run_name()
    monkeypatch.setitem(METHODS, "mine", Method("mine", "#CC79A7", "*", ("learning_rat", "test_images")))
    with pytest.raises(ValueError, match=r"method='mine': its row of METHODS names learning_rat, test_images: allowed"):
        Config(method="mine")


# Runs from before this test; whoever renames them takes them away from their owners.
@pytest.mark.parametrize(
    ("preset", "fields", "name"),
    [
        ("cpu", {"method": "anchor", "beta": 2.0}, "mnist5k-anchor-w8-s0-3b252692"),
        ("cpu", {"method": "standard"}, "mnist5k-standard-w8-s0-e15edb29"),
        ("cifar10_cpu", {"method": "trades"}, "cifar10-trades-w16-s0-28211c7e"),
        ("paper", {"method": "pgd_at", "keep_epochs": True}, "cifar10-pgd_at-w64-s0-534a0a71-epochs"),
    ],
)
def test_runs_keep_their_names(preset, fields, name):
    assert load_preset(preset, **fields).run_name() == name


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epoch": 3}, ["parameter 'epoch'", "did you mean 'epochs'", "Allowed:", "learning_rate"]),
        ({"self": 3}, ["parameter 'self'", "Allowed:"]),
        ({"name": 3}, ["parameter 'name'", "Allowed:"]),
        ({"method": "anchr"}, ["method='anchr'", "'anchor'", "'pgd_at'"]),
        ({"nesterov": True, "momentum": 0.0}, ["nesterov=True with momentum=0.0", "allowed is a momentum above 0"]),
        ({"dataset": "mnist"}, ["dataset='mnist'", "mnist5k", "imagefolder:PATH"]),
        ({"dataset": "imagefolder:"}, ["dataset='imagefolder:'", "imagefolder:PATH"]),
        ({"epsilon": 1.5}, ["epsilon=1.5", "at most 1"]),
        ({"epsilon": -0.1}, ["epsilon=-0.1", "at least 0"]),
        ({"epsilon": float("nan")}, ["epsilon=nan", "finite"]),
        ({"epsilon": "8/255"}, ["epsilon='8/255'", "number", "write 0.0313725"]),
        ({"learning_rate": "1e-3"}, ["learning_rate='1e-3'", "number, above 0", "write 0.001"]),
        ({"epsilon": "8/0"}, ["epsilon='8/0': allowed is a number, at least 0, at most 1"]),
        ({"epsilon": 8}, ["epsilon=8", "at most 1", "did you mean 8/255 = 0.0314?"]),
        ({"step_size": 2}, ["step_size=2", "at most 1", "did you mean 2/255 = 0.00784?"]),
        ({"epsilon": True}, ["epsilon=True", "allowed is a number"]),
        ({"epochs": True}, ["epochs=True", "allowed is a whole number, at least 1"]),
        ({"epochs": 2.0}, ["epochs=2.0", "allowed is a whole number, at least 1"]),
        ({"flip": 1}, ["flip=1", "allowed is true or false"]),
        ({"learning_rate": float("inf")}, ["learning_rate=inf", "finite"]),
        ({"train_images": "all"}, ["train_images='all'", "allowed is a whole number, at least 1, or null"]),
        ({"batch_size": 1}, ["batch_size=1", "at least 2"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"step_size": 0}, ["step_size=0", "above 0"]),
        ({"width": 0, "epochs": 0}, ["width=0", "epochs=0"]),
        ({"train_images": 100, "validation_images": 100}, ["validation_images=100", "train_images=100", "smaller"]),
    ],
)
def test_bad_values_raise_one_value_error_that_says_what_is_allowed(values, words):
    with pytest.raises(ValueError, match=r"=|parameter") as caught:
        load_preset("cpu", **values)
    assert not isinstance(caught.value, ValidationError)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("value", [0.5, 1, 256, -8, "8", True])
def test_the_hint_at_units_of_0_to_255_is_for_numbers_in_them(value):
    assert epsilon_hint(value) == ""
    assert epsilon_hint(16) == "; did you mean 16/255 = 0.0627?"


@pytest.mark.parametrize(
    ("folder", "begin"),
    [
        ("/data/flowers", "flowers-anchor"),
        ("/data/flowers/", "flowers-anchor"),
        ("/data/flowers//", "flowers-anchor"),
        ("C:\\data\\my flowers\\", "my-flowers-anchor"),
        ("/data/___", "images-anchor"),
        ("/data/caf\udce9", "caf-anchor"),
    ],
)
def test_a_run_folder_has_a_name_whatever_the_image_folder_is_called(folder, begin):
    name = Config(dataset=f"imagefolder:{folder}").run_name()
    assert name.startswith(begin)
    assert all(c.isalnum() or c == "-" for c in name)


def test_a_slash_at_the_end_makes_no_other_run():
    with_slash, without = (Config(dataset=f"imagefolder:/data/flowers{end}") for end in ("/", ""))
    assert with_slash == without
    assert with_slash.run_name() == without.run_name()


def test_unknown_preset_names_the_close_one_and_all():
    with pytest.raises(
        ValueError, match=r"preset 'smok'; did you mean 'smoke'\? Allowed: smoke, cpu, cifar10_cpu, t4, minutes, paper"
    ):
        load_preset("smok")
    with pytest.raises(ValueError, match=r"preset 'zzz'.* Allowed: smoke, cpu, cifar10_cpu, t4, minutes, paper"):
        load_preset("zzz")


def test_replace_validates_and_leaves_the_original():
    config = Config()
    assert config.replace(epsilon=0.1).epsilon == 0.1
    assert config.epsilon == 0.3
    with pytest.raises(ValueError, match=r"epsilon=2"):
        config.replace(epsilon=2)
    with pytest.raises(ValueError, match=r"frozen"):
        config.epsilon = 0.1


def test_presets_are_listed_smallest_first():
    assert presets() == ["smoke", "cpu", "cifar10_cpu", "t4", "minutes", "paper"]
    assert {path.stem for path in PRESET_DIR.iterdir()} == set(presets())


@pytest.mark.parametrize("name", presets())
def test_preset_parses_and_names_itself(name):
    written = yaml.safe_load((PRESET_DIR / f"{name}.yaml").read_text())
    assert written.pop("preset") == name
    assert preset_values(name) == written
    config = load_preset(name)
    assert {field: getattr(config, field) for field in written} == written
    assert load_preset(name, seed=5) == config.replace(seed=5)


def test_configuration_and_loader_know_the_same_data_sets():
    assert tuple(data.LOADERS) == DATASETS


@pytest.fixture
def preset_file(tmp_path, monkeypatch):
    monkeypatch.setattr(config_module, "PRESET_DIR", tmp_path)
    return tmp_path / "own.yaml"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- epochs",
        b"epochs",
        b"epochs: [",
        b"\xff\xfe\x00",
        b"1: 2",
        b"epochs: !!python/name:os.system",
        b"[" * 5000,
    ],
)
def test_a_damaged_preset_is_named(preset_file, content):
    preset_file.write_bytes(content)
    with pytest.raises(ValueError, match=r"preset file '.*own\.yaml': allowed is"):
        load_preset("own")


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
names = st.sampled_from([*Config.model_fields, "preset"]) | st.text(max_size=5) | st.integers()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(names, yaml_values, max_size=3))
def test_any_mapping_in_a_preset_is_a_configuration_or_our_own_error(preset_file, values):
    preset_file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    try:
        numbers, message = load_preset("own").model_dump().values(), None
    except ValidationError:
        raise AssertionError("pydantic's own error came through") from None
    except ValueError as error:
        numbers, message = [], str(error)
    assert all(math.isfinite(value) for value in numbers if isinstance(value, float))
    assert message is None or any(word in message for word in ("=", "unknown parameter", "own.yaml"))


def test_whole_numbers_of_numpy_are_whole_numbers():
    config = Config(seed=np.int64(3), epochs=np.int32(2))
    assert config == Config(seed=3, epochs=2)
    assert type(config.seed) is int
    with pytest.raises(ValueError, match="seed=True"):
        Config(seed=True)
