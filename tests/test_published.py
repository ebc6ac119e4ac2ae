"""What is committed of the study: results, networks, cards and the report belong together."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from anchor_utils import autoattack, models, outcomes, results
from anchor_utils.config import Config
from anchor_utils.plotting import method_name
from study import cards, claims, publish, questions
from study.sweep import load_sweep
from study.tables import passes as passes_of
from study.tables import read_cells

ROOT = Path(__file__).resolve().parent.parent

METHODS = ("standard", "pgd_at", "trades", "mart", "supcon_at", "anchor")


@pytest.fixture(scope="module")
def study():
    return read_cells(publish.STUDY, "cifar10_cpu")


def test_every_cell_of_the_sweeps_is_there_with_the_configuration_that_the_sweep_file_gives():
    for name, cells in json.loads(publish.STUDY.read_text())["sweeps"].items():
        wanted = load_sweep(name).cells()
        found = {f"{cell['variant']}-s{cell['seed']}" for cell in cells}
        assert found == set(wanted) or (found < set(wanted) and name == publish.EQUAL_PASSES)
        for cell in cells:
            parameters = wanted[f"{cell['variant']}-s{cell['seed']}"]
            config = Config(**cell["config"])
            assert config.seed == parameters["seed"]
            assert {k: getattr(config, k) for k in parameters["overrides"]} == parameters["overrides"]


def test_the_settings_are_those_of_the_best_trial_and_every_method_had_as_many(study):
    """By accuracy under PGD on held-out training images, then by clean accuracy; "standard" was not tuned."""
    _, trials = read_cells(publish.STUDY, "cifar10_tuning")
    tuned = [method for method in METHODS if method != "standard"]
    counts = {method: sum(trial["method"] == method for trial in trials) for method in tuned}
    assert len(set(counts.values())) == 1, counts
    names = {
        "learning_rate",
        "trades_beta",
        "mart_beta",
        "temperature",
        "beta",
        "contrastive_weight",
        "classifier_view",
    }
    for method in tuned:
        own = [trial for trial in trials if trial["method"] == method]
        best = max(own, key=lambda trial: (trial["held_out"]["joint"]["robust"], trial["held_out"]["joint"]["clean"]))
        fields = Config(**best["config"]).training_fields().keys() & names
        for cell in (cell for cell in study[1] if cell["method"] == method):
            assert {k: cell["config"][k] for k in fields} == {k: best["config"][k] for k in fields}


def test_accuracies_are_those_of_the_outcome_bits(study):
    table, _ = study
    assert len(table)
    for _, row in table.iterrows():
        bits = results.unpack_outcomes(row["outcomes"], int(row["images"]))
        assert row["accuracy"] == pytest.approx(bits.mean(), abs=1e-9)
        assert (row["low"], row["high"]) == pytest.approx(results.wilson(int(bits.sum()), len(bits)), abs=1e-9)


def test_attacks_only_take_images_away(study):
    """A survivor of PGD or AutoAttack was right to begin with, and the stages of AutoAttack lose images one by one."""
    table, cells = study
    for cell in cells:
        rows = table[(table["variant"] == cell["variant"]) & (table["training_seed"] == cell["training_seed"])]
        rows = rows[rows["checkpoint"] == "best"].set_index("attack")
        clean = results.unpack_outcomes(rows.loc["clean", "outcomes"], int(rows.loc["clean", "images"]))
        before = {}
        for attack, row in rows.iterrows():
            bits = results.unpack_outcomes(row["outcomes"], int(row["images"]))
            assert not (bits & ~clean[: len(bits)]).any()
            whole, _, stage = attack.partition("/")
            if stage:
                assert not (bits & ~before.get(whole, bits)).any()
                before[whole] = bits


@pytest.mark.parametrize("method", METHODS)
def test_card_and_network_belong_together(method, study):
    path = models.PRETRAINED_DIR / f"cifar10-{method}.safetensors"
    card = path.with_suffix(".md").read_text()
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    assert path.stat().st_size < 2_000_000
    network = models.pretrained(method)
    assert network.metadata["method"] == method
    assert network.architecture["width"] == 16
    assert torch.isfinite(outcomes.logits_of(network, torch.rand(2, 3, 32, 32))).all()
    table, cells = study
    (cell,) = (c for c in cells if c["method"] == method and c["training_seed"] == 0)
    assert network.metadata["training"] == Config(**cell["config"]).training_fields()
    clean = table[(table["variant"] == method) & (table["training_seed"] == 0) & (table["attack"] == "clean")]
    assert f"{clean['accuracy'].iloc[0]:.1%}" in card
    for words in ("**Data.**", "seed 0", "**Limits.**", "**Recipe.**", "PGD-20", "epsilon 0.031"):
        assert words in card
    assert ("reconstruction" in card) == (method in ("anchor", "supcon_at"))
    rows = table[(table["variant"] == method) & (table["training_seed"] == 0) & (table["checkpoint"] == "best")]
    survived = {
        row["attack"]: results.unpack_outcomes(row["outcomes"], row["images"])[:500] for _, row in rows.iterrows()
    }
    fell = sum(a and not s for a, s in zip(survived["autoattack"], survived["screen"], strict=True))
    assert f"On the 500 images that both have seen, {survived['autoattack'].sum()} survive AutoAttack" in card
    assert f"{fell} of these fall to its first two stages in float32, which {survived['screen'].sum()} survive." in card
    screen = rows.loc[rows["attack"] == "screen", "precision"].iloc[0]
    assert cards.in_two_precisions(rows.assign(precision=screen)) == ""


@pytest.fixture(scope="module")
def wide():
    return read_cells(cards.CELLS, cards.SWEEP)


WIDE = models.PRETRAINED[64][1]


@pytest.mark.parametrize("method", WIDE)
def test_card_and_full_width_network_belong_together(method, wide):
    path = models.PRETRAINED_DIR / f"cifar10-w64-{method}.safetensors"
    card = path.with_suffix(".md").read_text()
    assert card == cards.wide_cards()[path.with_suffix(".md")], "write the cards anew: python -m study.cards"
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    for words in ("prototype", "in 80 seconds on one NVIDIA H200", "One seed", "last epoch", "lagged", "**Limits.**"):
        assert words in card
    for words in ("PGD-20", "epsilon 0.031", "any iterate", "Wilson", "pretrained(", "half precision", "TF32"):
        assert words in card
    assert ("reconstruction" in card) == (method == "anchor")
    network = models.pretrained(method, width=64)
    assert network.architecture["width"] == 64
    recipe = network.metadata["settings"]
    (cell,) = (cell for cell in wide[1] if cell["method"] == method)
    names = recipe.keys() & cell["config"].keys()
    assert len(names) > 10
    assert {name: cell["config"][name] for name in names} == {name: recipe[name] for name in names}
    assert torch.isfinite(outcomes.logits_of(network, torch.rand(2, 3, 32, 32))).all()


def test_the_numbers_of_the_full_width_networks_hang_together(wide):
    """Each accuracy is a count, each interval that of the count, and AutoAttack's stages only take images away."""
    table, cells = wide
    assert [cell["method"] for cell in cells] == sorted(WIDE, key=METHODS.index)
    for method in WIDE:
        rows = table[table["method"] == method].set_index("attack")
        for _, row in rows.iterrows():
            assert row["accuracy"] == row["correct"] / row["images"]
            assert (row["low"], row["high"]) == pytest.approx(results.wilson(row["correct"], row["images"]), abs=1e-9)
        stages = [f"autoattack/{stage}" for stage in autoattack.STAGES["autoattack"]]
        assert rows.loc[stages, "correct"].is_monotonic_decreasing
        assert rows.loc["autoattack", "correct"] == rows.loc[stages[-1], "correct"]


@pytest.mark.parametrize("method", WIDE)
def test_the_study_on_gpus_says_the_same_of_these_networks(method, wide):
    path = ROOT / "data" / "study_gpu" / "prototype" / f"{method}-s0.json"
    if not path.is_file():
        pytest.skip("the study has no cell of this network")
    rows = wide[0][wide[0]["method"] == method].set_index("attack")["correct"].to_dict()
    assert {row["attack"]: row["correct"] for row in json.loads(path.read_text())["rows"]} == rows


def test_the_table_of_networks_is_what_lies_in_the_folder():
    names = {name.format(method) for name, methods in models.PRETRAINED.values() for method in methods}
    assert names == {path.name for path in models.PRETRAINED_DIR.glob("*.safetensors")}
    assert names == {path.with_suffix(".safetensors").name for path in models.PRETRAINED_DIR.glob("*.md")}


@pytest.mark.parametrize(
    ("method", "width", "message"),
    [
        ("ankor", 16, "method='ankor': allowed are anchor, mart, .*standard.* for width=16"),
        ("standard", 64, "method='standard': allowed are .*pgd_at.* for width=64"),
        ("anchor", 32, "width=32: allowed are 16, 64"),
    ],
)
def test_an_unknown_network_is_refused_with_those_that_there_are(method, width, message):
    with pytest.raises(ValueError, match=message):
        models.pretrained(method, width=width)


def test_a_network_that_was_not_installed_is_named_with_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "PRETRAINED_DIR", tmp_path)
    path = tmp_path / "cifar10-w64-pgd_at.safetensors"
    where = rf"{re.escape(repr(str(path)))} is missing: .*width 64.*"
    with pytest.raises(FileNotFoundError, match=where + r"https://.*/data/pretrained/cifar10-w64-pgd_at.safetensors"):
        models.pretrained("pgd_at", width=64)


def test_what_is_written_is_what_follows_from_the_cells():
    readme = publish.README.read_text()
    assert publish.summary() in readme
    results_page = publish.RESULTS.read_text()
    reports = (publish.equal_passes_report(), publish.study_report(), publish.mining_report())
    for text in (*reports, publish.headline(publish.GPU_CELLS)):
        assert text in results_page
    assert results_page.index("equal passes:") < results_page.index("study:"), "equal compute stands first"


def test_the_readme_says_three_sentences_and_shows_one_figure_before_a_screenful_of_lines():
    above, _ = publish.README.read_text().split("\n## Sweeps\n")
    assert len(above.splitlines()) <= 120
    assert above.count("![") == 1
    assert len(publish.sentences()) == 3
    for text in (above, publish.RESULTS.read_text()):
        assert not re.search(r"no difference|McNemar|\bp = ", text)


def flip(cells, name, attack, seeds, share, to, by="method"):
    """The cells with some outcome bits of a method or variant set, as if its networks had been better or worse."""
    rng = np.random.default_rng(0)
    for cell in (cell for cell in cells if cell[by] == name and cell["seed"] in seeds):
        for row in (row for row in cell["rows"] if row["attack"] == attack):
            bits = results.unpack_outcomes(row["outcomes"], row["images"])
            bits[rng.random(len(bits)) < share] = to
            row |= results.result_row(attack, torch.from_numpy(bits), row["seconds"])


@pytest.fixture
def other_cells(tmp_path, monkeypatch):
    """Publishes from a copy of the cells, which the test changes."""
    content = json.loads(publish.STUDY.read_text())
    monkeypatch.setattr(publish, "STUDY", tmp_path / "study.json")

    def write():
        publish.STUDY.write_text(json.dumps(content))

    write()
    return content["sweeps"], write


@pytest.mark.parametrize(
    ("sentence", "method", "attack"),
    [
        *((0, f"pgd_at, {passes}", "pgd") for passes in (24, 28)),
        *((2, baseline, "clean") for baseline in claims.BASELINES),
    ],
)
def test_each_sentence_follows_its_cells(other_cells, sentence, method, attack):
    sweeps, write = other_cells
    before = publish.sentences()
    method, _, passes = method.partition(", ")
    name = method_name(method) + (f", {passes} passes" if passes else "")
    for to, words in ((False, f"ahead of {name} ("), (True, f"behind {name} (")):
        for sweep in (publish.STUDY_SWEEP, publish.EQUAL_PASSES):
            flip(sweeps[sweep], method, attack, range(5), 0.5, to)
        write()
        after = publish.sentences()
        assert words in after[sentence]
        assert after[sentence] != before[sentence]
        assert [a for k, a in enumerate(after) if k != sentence] == [b for k, b in enumerate(before) if k != sentence]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sweep", "variant", "attack", "to", "words"),
    [
        ("cifar10_mining", "beta10", "pgd", True, r"5,000 images\): helped; in clean"),
        (
            "cifar10_mining",
            "supcon_at",
            "pgd",
            True,
            r"minus uniform weights -\S+ \[-\S+, -\S+\]; .* did not help: a lead of 1 over uniform weights and",
        ),
        ("cifar10_mining", "beta10.permuted", "pgd", True, r"on CIFAR-10 \+\S+ \[\+\S+, \+\S+\], helped\.$"),
        ("cifar10_mining", "beta10", "clean", False, r"in the same order, -\S+ \[-\S+, -\S+\] and -\S+ \[-\S+, -\S+\]"),
        ("cifar10_mining", "beta10.permuted", "clean", False, r"in the same order, \S+ \[\S+, \S+\] and \+\S+ \[\+"),
        ("mining", "semi_hard", "pgd", True, "of 3 ways to mine 1 helped, 2 are open"),
        ("mining", "beta10", "pgd", False, "of 3 ways to mine 0 helped, 1 did not help, 2 are open"),
        ("mining", "beta10.permuted", "pgd", True, r"on digits \+\S+ \[\+\S+, \+\S+\], helped; on"),
        ("mining", "supcon_at", "pgd", True, r"on digits -\S+ \[-\S+, -\S+\], did not help: a lead of 1"),
    ],
)
def test_the_sentence_about_mining_and_the_first_screen_follow_their_cells(
    other_cells, sweep, variant, attack, to, words
):
    sweeps, write = other_cells
    before, table = publish.sentences(), questions_of(publish.STUDY)
    share = 1.0 if to else 0.5  # networks on digits are good as they are
    flip(sweeps[sweep], variant, attack, range(20), share, to, by="variant")
    write()
    after = publish.sentences()
    assert re.search(words, after[1])
    assert not re.search(words, before[1])
    assert (after[0], after[2]) == (before[0], before[2])
    changed = (questions_of(publish.STUDY) != table).any(axis=1)
    where = "CIFAR-10" if sweep == "cifar10_mining" else "digits"
    assert changed.any() == (attack == "pgd")
    assert table.loc[changed, table.columns[0]].str.endswith(f"on {where}?").all()
    assert publish.mining_report() not in publish.RESULTS.read_text()


def questions_of(path):
    study, _ = publish.study_tables()
    return questions.questions(path, study, *publish.equal_passes_tables())


def asks(question):
    return "clean" if "clean" in question else "screen" if "screen" in question else "pgd"


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["pgd", "screen", "clean"])
@pytest.mark.parametrize("baseline", ["pgd_at, 24 passes", "pgd_at, 28 passes", *claims.BASELINES])
def test_each_answer_of_the_first_screen_follows_its_cells(other_cells, baseline, attack):
    sweeps, write = other_cells
    method, at, passes = baseline.partition(", ")
    name = method_name(method) + at + passes
    before = questions_of(publish.STUDY).set_index("question").iloc[:, 0]
    for to, side in ((False, "ahead of"), (True, "**behind**")):
        sweep = publish.EQUAL_PASSES if passes else publish.STUDY_SWEEP
        cells = [c for c in sweeps[sweep] if not passes or f"{passes_of(c['config'])} passes" == passes]
        for row_attack in {attack, *(f"screen/{stage}" for stage in ("apgd-ce", "apgd-t") if attack == "screen")}:
            flip(cells, method, row_attack, range(5), 1.0, to)
        write()
        after = questions_of(publish.STUDY).set_index("question").iloc[:, 0]
        words = "passes?" if passes else "at equal epochs?"
        (question,) = [q for q in after.index if q.endswith(words) and asks(q) == attack]
        assert set(after.index[after != before]) <= {question}
        (said,) = [part for part in after[question].split("; ") if part.startswith(side)]
        assert name in said


@pytest.mark.parametrize(
    ("claim", "method", "attack"),
    [(k, baseline, attack) for k, (_, named, attack) in enumerate(claims.CLAIMS) for baseline in named],
)
def test_each_claim_of_the_table_follows_its_cells(other_cells, claim, method, attack):
    sweeps, write = other_cells
    before = [*claims.claims_table(publish.study_tables()[0])["verdict"]]
    flip(sweeps["cifar10_cpu"], method, attack, range(5), 0.5, True)
    write()
    after = [*claims.claims_table(publish.study_tables()[0])["verdict"]]
    if attack == "autoattack":
        assert after == before
        assert after[claim] == "no verdict (one training seed)"
    else:
        assert after[claim] == "contradicted" or method_name(method) in after[claim].partition("behind")[2]
        assert after[claim] != before[claim] or "behind TRADES" in before[claim]


def test_a_study_of_one_seed_says_nothing(other_cells):
    sweeps, write = other_cells
    for cells in sweeps.values():
        cells[:] = [cell for cell in cells if cell["seed"] == 0]
    write()
    first, about_mining, last = publish.sentences()
    assert all("for want of training seeds" in sentence for sentence in (first, last))
    assert about_mining.count("no verdict (not measured with several seeds)") == 3
    assert not re.search(r"[+-]\d+\.\d \[", about_mining)
    verdicts = claims.claims_table(publish.study_tables()[0])["verdict"]
    assert set(verdicts) == {"no verdict (one training seed)"}


def test_without_the_sweep_of_equal_passes_the_rest_remains(other_cells):
    sweeps, write = other_cells
    whole, said = publish.study_report(), publish.sentences()
    del sweeps[publish.EQUAL_PASSES]
    write()
    assert publish.study_report() == whole
    assert publish.sentences()[1:] == said[1:]
    assert "not run" in publish.sentences()[0]
    assert publish.equal_passes_report() == f"Not run: `make sweep SWEEP={publish.EQUAL_PASSES}`."


def test_pages_are_rewritten_between_their_markers_alone(tmp_path, monkeypatch):
    pages = {name: tmp_path / name for name in ("README.md", "results.md")}
    texts = {}
    for name, path in (("README.md", publish.README), ("results.md", publish.RESULTS)):
        texts[name] = path.read_text()
        pages[name].write_text(texts[name].replace("TRADES", "TRADE"))
    monkeypatch.setattr(publish, "README", pages["README.md"])
    monkeypatch.setattr(publish, "RESULTS", pages["results.md"])
    monkeypatch.setattr(publish, "draw", lambda: None)
    publish.write_report()
    assert pages["results.md"].read_text() == texts["results.md"]
    assert publish.summary() in pages["README.md"].read_text()
    pages["results.md"].write_text(texts["results.md"].replace("<!-- end of headline -->", ""))
    with pytest.raises(ValueError, match=r"results.md has no lines <!-- headline: .*end of headline"):
        publish.write_report()


def test_nothing_of_the_machine_is_in_the_published_files():
    for path in models.PRETRAINED_DIR.iterdir():
        text = path.read_bytes().decode("latin-1")
        assert not re.search(r"/(home|root|work|tmp|Users)/", text), path.name


def test_publishing_loses_nothing_that_was_published_before(tmp_path, monkeypatch):
    """The runs of other sweeps, and of other cells, may be gone, or on another machine."""
    copy = tmp_path / "study.json"
    copy.write_bytes(publish.STUDY.read_bytes())
    monkeypatch.setattr(publish, "STUDY", copy)
    before = json.loads(copy.read_text())["sweeps"]
    with pytest.raises(ValueError, match=r"sweep='cifar10_cpu' has no finished cells in .*SWEEP=cifar10_cpu"):
        publish.collect(["cifar10_cpu"], tmp_path)
    assert json.loads(copy.read_text())["sweeps"] == before
    anchor = next(cell for cell in before["cifar10_cpu"] if cell["variant"] == "anchor")
    for name, seed in (("cifar10_cpu", 4), ("cifar10_cpu", 5), ("more", 0)):
        (tmp_path / "sweeps" / name).mkdir(parents=True, exist_ok=True)
        cell = {"method": "anchor", "variant": "anchor", "seed": seed, "config": {**anchor["config"], "seed": seed}}
        (tmp_path / "sweeps" / name / f"anchor-s{seed}.json").write_text(json.dumps(cell))
    publish.collect(["cifar10_cpu", "more"], tmp_path)
    after = json.loads(copy.read_text())["sweeps"]
    assert after["more"] == [cell]
    replaced = [
        cell for cell in after["cifar10_cpu"] if (cell["variant"], cell["seed"]) not in (("anchor", 4), ("anchor", 5))
    ]
    assert replaced == [cell for cell in before["cifar10_cpu"] if (cell["variant"], cell["seed"]) != ("anchor", 4)]
    assert len(after["cifar10_cpu"]) == len(replaced) + 2
    assert {name: after[name] for name in before if name != "cifar10_cpu"} == {
        name: cells for name, cells in before.items() if name != "cifar10_cpu"
    }


def test_networks_of_two_recipes_are_not_published_as_one_variant(tmp_path, monkeypatch):
    copy = tmp_path / "study.json"
    copy.write_bytes(publish.STUDY.read_bytes())
    monkeypatch.setattr(publish, "STUDY", copy)
    cells = json.loads(copy.read_text())["sweeps"]["cifar10_cpu"]
    folder = tmp_path / "sweeps" / "cifar10_cpu"
    folder.mkdir(parents=True)
    cell = next(cell for cell in cells if cell["variant"] == "anchor" and cell["seed"] == 3)
    cell["config"] |= {"epochs": 6, "beta": 2.0, "screen_images": 50}  # the last says how to measure
    (folder / "anchor-s3.json").write_text(json.dumps(cell))
    with pytest.raises(ValueError, match=r"variant='anchor': networks differ in beta, epochs; allowed is one recipe"):
        publish.collect(["cifar10_cpu"], tmp_path)
    assert json.loads(copy.read_text())["sweeps"]["cifar10_cpu"] != cells, "nothing was written"
