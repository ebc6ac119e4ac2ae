"""The measurements beside other libraries: that they measure, lose nothing, and that the page says what they found."""

import json
import re
import statistics
import sys

import pytest
import torch

from benchmarks import bench, report

TINY = bench.Size(
    rounds=2,
    width=2,
    batch=4,
    embeddings=512,
    many_embeddings=96,
    autoattack_images=2,
    gpu_width=2,
    gpu_batch=4,
    gpu_steps=2,
)
FOUND = json.loads(bench.RESULTS.read_text())
ROWS = [row for group in FOUND.values() for row in group["rows"]]


@pytest.fixture
def attackers():
    for module in ("foolbox", "torchattacks"):
        pytest.importorskip(module, reason=f"{module} is not installed; `make bench` installs it")


def measured(rows):
    """Measured numbers by unit; all are there and positive."""
    assert all(row.measured is not None and row.measured > 0 for row in rows)
    return [row.measured for row in rows]


# The page


def test_page_and_figure_are_those_of_the_results():
    assert (report.DOCS / "benchmarks.md").read_text() == report.page(FOUND, steps=bench.STEPS, dim=bench.DIM)
    figure = (report.DOCS / report.FIGURE).read_text()
    assert report.checksum(FOUND) in figure, "docs/benchmarks.svg shows other results: run `make bench`"


def test_every_group_is_in_the_results_with_its_machine_and_every_goal_has_a_verdict():
    assert list(FOUND) == list(bench.GROUPS)
    for group in FOUND.values():
        assert {"date", "cpu", "threads", "gpu", "versions"} <= group["machine"].keys()
        assert {"python", "torch", *bench.PEERS.values()} <= group["machine"]["versions"].keys()
    page = (report.DOCS / "benchmarks.md").read_text()
    for row in ROWS:
        (line,) = re.findall(rf"^\| {re.escape(row['what'])} \|.*$", page, re.MULTILINE)
        assert any(f"| {verdict} |" in line for verdict in report.VERDICTS.values()) == (row["goal"] is not None)


@pytest.mark.parametrize(
    ("better", "measured", "met"),
    [("at least", 3.0, True), ("at least", 2.9, False), ("at most", 3.0, True), ("at most", 3.1, False)],
)
def test_a_goal_is_met_or_missed(better, measured, met):
    row = {"what": "x", "unit": "times", "measured": measured, "goal": 3.0, "better": better, "note": ""}
    assert report.met(row) is met
    assert report.VERDICTS[met] in report.in_words(row)
    assert report.met(row | {"measured": None}) is None
    assert report.met(row | {"goal": None}) is None


def test_the_figure_has_a_bar_for_each_speed_and_a_tick_for_each_goal():
    figure = report.draw(FOUND)
    (axis,) = figure.axes
    speeds = report.speeds(FOUND)[::-1]
    assert [bar.get_x() + bar.get_width() for bar in axis.patches] == pytest.approx([row["measured"] for row in speeds])
    ticks = [line.get_xdata()[0] for line in axis.lines[:-1]]  # the last marks 1
    assert ticks == [row["goal"] for row in speeds if row["goal"] is not None]


# Measuring


def test_variants_take_turns_and_the_first_round_does_not_count():
    calls = []
    seconds = bench.take_turns({name: lambda name=name: calls.append(name) for name in "ab"}, 3)
    assert calls == ["a", "b"] * 4
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_taken_turn_by_turn():
    seconds = {"slow": [2.0, 30.0, 4.0], "fast": [1.0, 10.0, 4.0]}  # the machine was busy in the second turn
    row = bench.ratio("x", "times as fast", seconds, "slow", "fast", goal=3.0)
    assert row.measured == statistics.median([2, 3, 1])
    assert (row.goal, row.seconds) == (3.0, {"slow": 4.0, "fast": 4.0})


def test_pgd_is_measured_and_every_attack_ends_in_the_ball(attackers):
    *speeds, distance = bench.measure_pgd(TINY)
    assert len(measured(speeds)) == 4
    assert 0.9 < distance.measured <= distance.goal


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say how much memory a process needed")
def test_the_contrastive_loss_is_measured():
    *speeds, ratio, gigabytes = bench.measure_contrastive(TINY)
    measured(speeds)
    assert 0 < ratio.measured < 1
    assert 0.1 < gigabytes.measured < 4


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say how much memory a process needed")
def test_peak_memory_is_that_of_the_matrices():
    """pytorch-metric-learning keeps several 1024 x 1024 matrices of 4 MiB for its backward pass."""
    extra, whole = bench.peak_memory("pytorch-metric-learning", 1024)
    assert 3 * 2**22 < extra < 30 * 2**22
    assert whole > extra


def test_where_memory_is_not_known_it_is_not_run(monkeypatch):
    monkeypatch.setattr(bench, "peak_memory", lambda name, count: None)
    row = bench.measure_contrastive(TINY)[-1]
    assert row.measured is None
    assert "does not say how much memory" in row.note


def test_losses_that_are_compared_are_the_same():
    embeddings, labels = bench.embedded(64)
    ours, theirs = (bench.contrastive(name)(embeddings, labels) for name in ("SupCon", "pytorch-metric-learning"))
    torch.testing.assert_close(ours, theirs)


def test_a_training_step_is_measured(attackers):
    measured(bench.measure_step(TINY))


def test_every_way_to_make_a_step_moves_the_weights(attackers):
    for method in ("pgd_at", "anchor"):
        for way in ("ours", "peers", "passes"):
            trainee = bench.Trainee(bench.training_config(TINY, method=method), *bench.random_batch(TINY))
            before = trainee.model.stem[0].weight.clone()
            getattr(trainee, way)()
            assert trainee.model.training
            assert not torch.equal(trainee.model.stem[0].weight, before), (method, way)


def test_autoattack_is_measured_on_images_that_it_decides(monkeypatch):
    """With a stand-in for the attacks: the real ones take minutes."""
    images = []

    def stand_in(network, x, y, *, epsilon):
        images.append(x)
        return {"square": (network(x).argmax(1) == y, 1.0, "")}

    class Adversary:
        def __init__(self, network, **settings):
            assert settings["eps"] == bench.EPSILON

        def run_standard_evaluation(self, x, y, batch_size):
            images.append(x)
            return x, y

    monkeypatch.setattr(bench, "autoattack_outcomes", stand_in)
    monkeypatch.setattr("pyautoattack.AutoAttack", Adversary)
    speed, verdicts = bench.measure_autoattack(TINY)
    assert speed.measured > 0
    assert verdicts.measured == 1
    assert torch.equal(*images)


def test_without_cifar_digits_are_attacked_as_the_network_reads_them(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    network, images, labels, name = bench.robust_task(5)
    assert (name, images.shape) == ("digits", (5, 3, 32, 32))
    with torch.no_grad():
        assert torch.equal(network(images).argmax(1), labels)


def test_an_epoch_is_measured_by_the_code_that_a_gpu_runs(attackers):
    measured(bench.measure_epoch(TINY, "cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_epoch_is_not_run():
    rows = bench.measure_epoch(TINY)
    assert [row.measured for row in rows] == [None, None]
    assert all(row.note == "no GPU here" for row in rows)


# Nothing is lost


@pytest.fixture
def groups(monkeypatch):
    """Two groups that measure nothing, under names of real ones."""
    found = {
        "PGD": lambda size: [bench.Row("first", "times", 2.0)],
        "epoch": lambda size: [bench.Row("second", "times", None, 5.0, note="no GPU here")],
    }
    monkeypatch.setattr(bench, "GROUPS", found)
    monkeypatch.setattr(bench, "machine", lambda: {"date": "today"})
    return found


def test_a_group_is_written_before_the_next_begins(groups, tmp_path):
    groups["epoch"] = lambda size: 1 / 0
    with pytest.raises(ZeroDivisionError):
        bench.measure(groups, TINY, tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text())["PGD"]["rows"][0]["measured"] == 2.0


def test_what_another_machine_measured_stays_where_this_one_cannot(groups, tmp_path):
    path = tmp_path / "results.json"
    bench.measure(groups, TINY, path)
    assert json.loads(path.read_text())["epoch"]["rows"][0]["measured"] is None
    groups["epoch"] = lambda size: [bench.Row("second", "times", 6.0, 5.0)]
    bench.measure(["epoch"], TINY, path)
    groups["epoch"] = lambda size: [bench.Row("second", "times", None, 5.0, note="no GPU here")]
    groups["PGD"] = lambda size: [bench.Row("first", "times", 3.0)]
    found = bench.measure(groups, TINY, path)
    assert found == json.loads(path.read_text())
    assert [group["rows"][0]["measured"] for group in found.values()] == [3.0, 6.0]


def test_what_is_missing_or_unknown_is_said_before_anything_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(sys, "argv", ["bench", "speed"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "GROUP='speed': allowed are PGD, contrastive, step, AutoAttack, epoch" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["bench"])
    monkeypatch.setattr(bench, "PEERS", {"no_such_module": "no-such-package"})
    with pytest.raises(SystemExit):
        bench.main()
    assert "no-such-package: not installed; `make bench` installs" in capsys.readouterr().err
