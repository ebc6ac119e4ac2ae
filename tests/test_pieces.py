"""Large files in pieces, and whole again."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study import pieces


@settings(deadline=None, max_examples=30)
@given(content=st.binary(max_size=200), limit=st.integers(3, 60))
def test_pieces_are_small_and_make_the_same_file_again(content, limit):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        path.write_bytes(content)
        found = pieces.split(path, limit)
        assert all(piece.stat().st_size <= limit for piece in found)
        assert path.exists() == (len(content) <= limit) == (found == [path])
        assert pieces.join(path).read_bytes() == content


@pytest.fixture
def split(tmp_path):
    path = tmp_path / "network.safetensors"
    path.write_bytes(bytes(range(200)))
    pieces.split(path, 60)
    return path


@pytest.mark.skipif(sys.platform == "win32" or not shutil.which("sha256sum"), reason="no shell with sha256sum")
def test_a_shell_puts_them_together_too(split):
    command = "cat network.safetensors.?? > network.safetensors && sha256sum -c network.safetensors.sha256"
    assert subprocess.run(command, shell=True, cwd=split.parent, capture_output=True).returncode == 0
    assert split.read_bytes() == bytes(range(200))


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_piece_that_is_missing_or_damaged_is_noticed(split, harm):
    piece = split.with_name("network.safetensors.01")
    piece.unlink() if harm == "missing" else piece.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"network.safetensors'?: a piece of this file is missing or damaged"):
        pieces.join(split)
    assert not split.exists()


def test_what_is_not_there_at_all_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"network\.safetensors"):
        pieces.join(tmp_path / "network.safetensors")


def test_pieces_of_a_larger_file_do_not_stay(split):
    split.write_bytes(b"x" * 100)
    pieces.split(split, 60)
    assert {path.name for path in split.parent.glob("*.??")} == {f"{split.name}.00", f"{split.name}.01"}
    split.write_bytes(b"x" * 10)
    with pytest.raises(ValueError, match="limit=0"):
        pieces.split(split, 0)
    assert split.exists()


def test_a_network_of_full_width_travels_below_15_mib():
    assert pieces.LIMIT < 15 * 2**20
