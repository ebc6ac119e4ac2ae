"""The runner of the course: what it refuses, what it says of notebooks that fail, and what it hands on to them."""

import re
from pathlib import Path

import nbformat
import pytest

from anchor_utils import data
from anchor_utils.train import parameters
from course import build, freshness, runner

# Windows has no SIGKILL, and ends a process that is sent another signal.
DIES = "import os, signal\nos.kill(os.getpid(), getattr(signal, 'SIGKILL', signal.SIGTERM))"


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["smokey"], ["unknown preset 'smokey'; did you mean 'smoke'?"]),
        (["smoke", "--notebooks", "11"], ["unknown notebook '11'"]),
        (["smoke", "--timeout", "0"], ["timeout=0.0: allowed is a number of minutes, above 0"]),
        (["smoke", "-p", "epoch", "3"], ["unknown parameter 'epoch'; did you mean 'epochs'?"]),
        (["smoke", "-p", "preset", "cpu"], ["preset='cpu': allowed is the first argument"]),
        (["smoke", "-p", "epsilon", "2"], ["epsilon=2"]),
        (["smoke", "-p", "epsilon", "8/255"], ["epsilon='8/255'", "write 0.0313725"]),
        (["smoke", "-p", "dataset", "mnist"], ["dataset='mnist'"]),
        (["smoke", "-p", "method", "magic"], ["method='magic'"]),
        (["smoke", "-p", "method", "a: b: c"], ["method='a: b: c': allowed is YAML"]),
        (["smoke", "-p", "epochs", "3", "-p", "epochs", "4"], ["epochs=4: allowed is one value, and epochs=3"]),
        (["smoke", "-p", "overrides", "epochs=3"], ["overrides='epochs=3': allowed is a mapping"]),
        (["smoke", "-p", "overrides", "{epoch: 3}"], ["unknown parameter 'epoch'"]),
        (["smoke", "-p", "overrides", "{beta: 3}", "-p", "beta", "4"], ["beta=4: allowed is one value, and beta=3"]),
        (["smoke", "-p", "models", "mine"], ["models='mine': allowed is 'train', 'pretrained'"]),
        (
            ["smoke", "-p", "dataset", "imagefolder:/no/such/folder"],
            [f"there is no folder {str(Path('/no/such/folder'))!r}"],
        ),
        (["smoke", "-p", "dataset", "imagefolder:{tmp}"], ["missing folder {train}"]),
        (
            ["smoke", "-p", "test_images", "1001", "-p", "train_images", "5000"],
            ["train_images=5000", "test_images=1001"],
        ),
    ],
)
def test_runner_refuses_bad_input_before_any_notebook_starts(arguments, messages, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runner.papermill, "execute_notebook", lambda *_, **__: pytest.fail("a notebook was started"))
    arguments = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    assert runner.main([*arguments, "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    for message in messages:
        assert message.replace("{train}", repr(str(tmp_path / "train"))) in printed
    assert not list(tmp_path.iterdir())


@pytest.fixture
def own_notebooks(tmp_path, monkeypatch):
    """A function that makes the course consist of notebooks with one cell each."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(runner, "NOTEBOOK_DIR", tmp_path / "notebooks")
    monkeypatch.setattr(runner, "check_before", lambda *_: None)
    parameters = 'preset = "cpu"\noverrides = {}\nseed = 0\nruns_dir = "runs"\ndata_root = "data"'

    def write(*cells):
        for number, cell in enumerate(cells, start=1):
            book = nbformat.v4.new_notebook(metadata={"kernelspec": build.KERNEL})
            book.cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
            book.cells.append(nbformat.v4.new_code_cell(cell))
            nbformat.write(book, tmp_path / "notebooks" / f"{number:02d}_own.ipynb")

    return write


def test_a_notebook_that_fails_dies_or_hangs_says_where_and_what_to_try(tmp_path, own_notebooks, capfd, monkeypatch):
    """And does not stop those after it."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    own_notebooks("1 / 0", DIES, "while True:\n    pass", "print(4)")
    assert runner.main(["smoke", "--output", str(tmp_path / "out"), "--timeout", "0.03"]) == 1
    printed = capfd.readouterr()
    error, dead, hung = re.split(r"^(?=0[23]_own FAILED)", printed.err, flags=re.MULTILINE)
    assert re.search(r"01_own FAILED in cell \d+: ZeroDivisionError: division by zero", error)
    assert re.search(r"in code cell \d, which begins\n +import os, signal", dead)
    for advice in ("memory", "smaller preset", "set ONEDNN_MAX_CPU_ISA=AVX2", "/issues"):
        assert advice in dead
    assert re.search(r"in code cell \d, which begins\n +while True:", hung)
    assert "--timeout MINUTES" in hung
    assert "04_own done" in printed.out


def test_a_claim_fails_the_command_and_an_unusual_number_does_not(tmp_path, own_notebooks, capfd):
    show = "from IPython.display import Markdown, display\ndisplay(Markdown('table'), metadata={})"
    own_notebooks(show.format({"missed": [], "unusual": ["noise"]}), show.format({"missed": ["clean"], "unusual": []}))
    assert runner.main(["smoke", "--notebooks", "01", "--output", str(tmp_path / "out")]) == 0
    printed = capfd.readouterr()
    assert "01_own: unusual here, but no failure: noise" in printed.out
    assert "01_own" not in printed.err
    folders = runner.NOTEBOOK_DIR, tmp_path / "out" / "notebooks" / "smoke"
    source, done = (nbformat.read(folder / "01_own.ipynb", as_version=4) for folder in folders)
    assert done.metadata["lock"] == freshness.lock(source, "smoke")
    assert runner.main(["smoke", "--notebooks", "02", "--output", str(tmp_path / "out")]) == 1
    assert "02_own MISSED its expected values of clean" in capfd.readouterr().err


def test_ctrl_c_says_how_to_go_on(tmp_path, own_notebooks, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    own_notebooks("1")
    monkeypatch.setattr(runner.papermill, "execute_notebook", interrupt)
    assert runner.main(["smoke", "--output", str(tmp_path / "out")]) == 130
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("preset", "timeout", "seconds"), [("smoke", None, 3600), ("t4", None, None), ("t4", 0.01, 1), ("cpu", 90, 5400)]
)
def test_time_limit_of_a_cell(preset, timeout, seconds, tmp_path, own_notebooks, monkeypatch):
    limits = []

    def execute(source, target, *, execution_timeout, **_):
        limits.append(execution_timeout)
        nbformat.write(nbformat.read(source, as_version=4), target)

    own_notebooks("1")
    monkeypatch.setattr(runner.papermill, "execute_notebook", execute)
    assert runner.run(preset, None, {}, tmp_path / "out", timeout) == 0
    assert limits == [seconds]


@pytest.mark.parametrize(
    ("numbers", "changes", "loaded"),
    [
        (["01", "05", "06"], {}, ["mnist5k"]),
        (["08"], {}, []),
        (["01", "06", "07"], {"models": "pretrained"}, ["mnist5k", "cifar10"]),
        (["06", "08"], {"models": "pretrained"}, ["cifar10"]),
    ],
)
def test_data_are_checked_once_before_the_first_notebook(numbers, changes, loaded, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(data, "load_data", lambda config: seen.append(config))
    runner.check_before(runner.notebooks(numbers), "cpu", changes, str(tmp_path))
    assert [config.dataset for config in seen] == loaded


def test_runner_passes_a_field_on_as_an_override():
    path = runner.notebooks(["05"])[0]
    assert runner.injected(path, "cpu", {}, None) == {}
    changes = parameters([["beta", "4"], ["overrides", "{epochs: 3, seed: 2}"]])
    assert runner.injected(path, "t4", changes, None) == {
        "preset": "t4",
        "overrides": {"beta": 4, "epochs": 3},
        "seed": 2,
    }


def test_a_notebook_whose_imports_cannot_be_followed_runs_and_proves_nothing(tmp_path, own_notebooks):
    own_notebooks("%matplotlib inline")
    assert runner.main(["smoke", "--output", str(tmp_path / "out")]) == 0
    book = nbformat.read(tmp_path / "out" / "notebooks" / "smoke" / "01_own.ipynb", as_version=4)
    assert "lock" not in book.metadata
