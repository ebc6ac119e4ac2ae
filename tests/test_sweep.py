"""What a sweep file may say."""

import re

import pytest
import yaml

from anchor_utils.config import load_preset
from study.sweep import SWEEP_DIR, load_sweep


@pytest.mark.parametrize("path", sorted(SWEEP_DIR.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_file_is_valid_and_its_cells_are_different_runs(path):
    cells = load_sweep(path.stem).cells()
    names = {load_preset(c["preset"], **c["overrides"], seed=c["seed"]).run_name() for c in cells.values()}
    assert len(names) == len(cells)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "huge"}, "unknown preset 'huge'"),
        ({"overrides": {"epoch": 3}}, "unknown parameter 'epoch'; did you mean 'epochs'"),
        ({"variants": {"a": {"method": "magic"}}, "finetune": []}, "method='magic'"),
        ({"variants": {"a b": {"method": "mart"}}}, "a b"),
        ({"attacks": ["clean", "autoattak"]}, "attacks.1='autoattak'"),
        ({"seed": [1]}, "seed"),
        ({"cells": {}}, "cells"),
        ({"seeds": [-1]}, "seed=-1"),
        ({"seconds": 0}, "seconds=0"),
        ({"finetune": ["ankor"]}, "unknown variant in finetune 'ankor'; did you mean 'anchor'"),
    ],
)
def test_a_bad_sweep_file_is_refused_before_anything_runs(tmp_path, change, message):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load((SWEEP_DIR / "smoke.yaml").read_text()), **change}))
    with pytest.raises(ValueError, match=re.escape(message)):
        load_sweep(str(path))


def test_every_variant_has_its_turn_before_any_has_a_second_seed():
    names = list(load_sweep("smoke").cells())
    assert names == ["standard-s0", "anchor-s0", "standard-s1", "anchor-s1"]


def test_an_unknown_sweep_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown sweep 'smoek'; did you mean 'smoke'\? Allowed: .*cifar10_tuning"):
        load_sweep("smoek")
