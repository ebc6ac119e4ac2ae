"""The command that opens the notebooks in JupyterLab, without the server."""

import nbformat
import pytest
from nbformat.sign import NotebookNotary

from course import lab


@pytest.fixture
def started(monkeypatch, tmp_path):
    """A folder to start it in, with a store of signatures of its own; and what JupyterLab was called with."""
    monkeypatch.chdir(tmp_path)
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    calls = []
    monkeypatch.setattr(lab.LabApp, "launch_instance", calls.append)
    return calls


def test_the_notebooks_are_trusted_and_their_folder_is_opened(started, tmp_path):
    (tmp_path / "notebooks").mkdir()
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    other = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("2 + 2")])
    nbformat.write(book, tmp_path / "notebooks" / "01_a lesson.ipynb")
    assert lab.main(["--no-browser"]) == 0
    assert started == [["notebooks", "--no-browser"]]
    signatures = NotebookNotary(data_dir=str(tmp_path / "data"))
    assert signatures.check_signature(nbformat.read(tmp_path / "notebooks" / "01_a lesson.ipynb", 4))
    assert not signatures.check_signature(other)
    signatures.store.close()


def test_elsewhere_it_says_where_to_start_it(started, capsys):
    assert lab.main([]) == 2
    assert "start this in the course's folder" in capsys.readouterr().err
    assert not started
