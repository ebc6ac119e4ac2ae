"""The documentation's own examples, run as a reader would run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_a_method_of_ones_own_trains_is_attacked_and_plotted_beside_another(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / "own_method.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    check = """
labels = [text.get_text() for text in axis.texts]
assert sorted(labels) == ["PGD-AT", "smoothed AT"], labels
assert [line.get_color() for line in axis.lines] == ["#0072B2", "#CC79A7"]
print(*(run.path.name for run in runs.values()))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    result = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, check])],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(re.findall(r"^smoothed AT\s+\d\s+(?:clean|pgd)|^\s+\d\s+pgd", result.stdout, re.MULTILINE)) >= 2
    first, second = result.stdout.split()[-2:]
    assert first.startswith("mnist5k-pgd_at-")
    assert second.startswith("mnist5k-smooth_at-")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {first, second}


def test_the_glossary_is_in_order_and_points_to_where_a_word_is_used():
    found = re.findall(
        r"^\*\*(.+?)\*\* \(\[(\d\d)\]\((.+?)\)\): \S.*\.$", (DOCS / "glossary.md").read_text(), re.MULTILINE
    )
    assert len(found) > 80
    terms = [re.sub("[^a-z0-9 ]", "", term.lower()) for term, _, _ in found]
    assert terms == sorted(set(terms))
    for term, number, link in found:
        assert (DOCS / link).is_file(), link
        (source,) = (DOCS.parent / "notebooks" / "src").glob(f"{number}_*.py")
        text = re.sub(r"[\s#*$\\]+", " ", source.read_text()).lower().replace("_", "-")
        words = re.findall("[a-z-]{4,}|[a-z]+", re.sub(r" ?\(.*?\)", "", term).lower())
        assert max(words, key=len)[:-1] in text or words[0] in text.split(), f"{term} is not in notebook {number}"
