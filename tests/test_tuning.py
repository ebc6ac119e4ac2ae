"""The choice among trials, on made-up cells."""

import json

import pytest

from study import tuning
from study.sweep import Sweep

TRIALS = {
    "mart.a": {"method": "mart", "learning_rate": 0.1},
    "mart.b": {"method": "mart", "learning_rate": 0.2},
    "anchor.a": {"method": "anchor", "learning_rate": 0.1},
    "anchor.b": {"method": "anchor", "learning_rate": 0.2},
}
SWEEP = Sweep(preset="smoke", variants=TRIALS, attacks=[])


def cell(variant: str, robust: float, clean: float) -> dict:
    joint = {"robust": robust, "clean": clean, "epoch": 1}
    return {"variant": variant, "method": TRIALS[variant]["method"], "held_out": {"joint": joint}}


@pytest.fixture
def done():
    """The first trial of each method is more accurate on clean images, the second of MART under attack."""
    scores = {"mart.a": (0.3, 0.9), "mart.b": (0.4, 0.5), "anchor.a": (0.3, 0.6), "anchor.b": (0.3, 0.5)}
    return {f"{variant}-s0": cell(variant, *score) for variant, score in scores.items()}


def test_the_most_robust_trial_is_chosen_and_clean_accuracy_breaks_ties(done):
    assert tuning.best_trials(SWEEP, done) == {"mart": "mart.b", "anchor": "anchor.a"}


def test_several_seeds_count_with_their_mean(done):
    sweep = SWEEP.model_copy(update={"seeds": [0, 1]})
    second = {"mart.a": (0.8, 0.5), "mart.b": (0.4, 0.5), "anchor.a": (0.3, 0.6), "anchor.b": (0.3, 0.5)}
    done |= {f"{variant}-s1": cell(variant, *score) for variant, score in second.items()}
    assert tuning.best_trials(sweep, done)["mart"] == "mart.a"


def test_a_trial_that_diverged_is_a_trial_and_never_the_best(done):
    done["mart.b-s0"] = {"variant": "mart.b", "method": "mart", "error": "loss is nan"}
    assert tuning.best_trials(SWEEP, done)["mart"] == "mart.a"
    done["mart.a-s0"] = {"variant": "mart.a", "method": "mart", "error": "loss is nan"}
    with pytest.raises(ValueError, match="method=mart: allowed is one with a trial that did not diverge"):
        tuning.best_trials(SWEEP, done)


def test_unfinished_or_unequal_tuning_is_refused(done):
    fewer = Sweep(preset="smoke", variants={name: TRIALS[name] for name in ("mart.a", "mart.b", "anchor.a")})
    with pytest.raises(ValueError, match="'mart': 2, 'anchor': 1"):
        tuning.best_trials(fewer, done)
    del done["anchor.b-s0"]
    with pytest.raises(ValueError, match=r"cells=anchor.b-s0 are not finished"):
        tuning.best_trials(SWEEP, done)


def test_what_is_printed_can_be_put_into_a_sweep_file(done, tmp_path, capsys):
    path = tmp_path / "trials.yaml"
    path.write_text(json.dumps({"preset": "smoke", "variants": TRIALS, "attacks": []}))
    for name, content in done.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({**content, "rows": []}))
    assert tuning.main([str(path), "--folder", str(tmp_path)]) == 0
    assert "  mart: {method: mart, learning_rate: 0.2}  # mart.b\n" in capsys.readouterr().out
    (tmp_path / "mart.a-s0.json").unlink()
    assert tuning.main([str(path), "--folder", str(tmp_path)]) == 2


def test_every_method_has_as_many_trials_in_the_sweep_for_minutes():
    from study.sweep import load_sweep

    sweep = load_sweep("minutes_tuning")
    done = {name: {**cell("mart.a", 0.5, 0.5), "variant": name.rsplit("-", 1)[0]} for name in sweep.cells()}
    for found in done.values():
        found["method"] = sweep.variants[found["variant"]]["method"]
    assert len(tuning.best_trials(sweep, done)) == 5
    assert sweep.attacks == []  # no test image
