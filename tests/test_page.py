"""What a page shows: readings that hold to their limits, and sliders that work without a kernel."""

import html
import io
import json
import re
from base64 import b64decode

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from course import page


@pytest.fixture
def shown(monkeypatch):
    """What a cell would display: (data, metadata) of each output."""
    outputs = []

    def display(data, *, raw=False, metadata=None):
        outputs.append((data if raw else {"text/markdown": data.data}, metadata or {}))

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(page, "display", display)
    monkeypatch.setattr("course.lesson.display", display)
    return outputs


def drawn(shade=0.5):
    figure = plt.figure(figsize=(2, 1))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow([[shade]], cmap="gray", vmin=0, vmax=1, aspect="auto")
    axis.set_axis_off()
    return figure


def test_a_reading_stands_below_its_figure(shown, closed_figures):
    page.figure(drawn(), "A grey box.", "The box is **2** inches wide.")
    (picture, metadata), (text, _) = shown
    assert metadata["image/png"]["alt"] == "A grey box." == picture["text/plain"]
    assert text["text/markdown"] == "**Reading the figure.** The box is **2** inches wide."


@pytest.mark.parametrize("reading", ["No number in here.", "1 " + "word " * 60])
def test_a_reading_is_short_and_has_a_number(shown, reading):
    figure = drawn()
    with pytest.raises(ValueError, match="allowed are at most 60 words, a number of this run among them"):
        page.figure(figure, "A grey box.", reading)
    assert not shown, "something was shown before the reading was found to be too long"
    plt.close(figure)


def test_a_slider_has_a_frame_for_each_value_and_shows_one(shown, closed_figures):
    values = ["0", "0.1", '0.2 & "more"']
    page.slider("epsilon", values, (drawn(s) for s in (0, 0.5, 1)), "A box that brightens.", "It has 3 steps.", start=1)
    (widget, _), (strip, metadata), (text, _) = shown
    code = widget["text/html"]
    images = re.findall(r"<img .*?>", code)
    assert [" hidden" in image for image in images] == [True, False, True]
    pixels = [
        np.asarray(Image.open(io.BytesIO(b64decode(re.search('base64,([^"]*)', image)[1]))).convert("L")).mean()
        for image in images
    ]
    assert pixels == pytest.approx([0, 128, 255], abs=3)
    (tag,) = re.findall(r"<input .*?>", code)
    assert 'min="0" max="2" value="1"' in tag
    assert json.loads(html.unescape(re.search('data-values="(.*?)"', code)[1])) == values
    assert "<output>0.1</output>" in code
    assert "<script" not in code
    assert not re.search(r"https?://", code), "it needs a network"
    alt = metadata["image/png"]["alt"]
    assert alt.startswith('The slider\'s frames at epsilon 0, 0.1, 0.2 & "more", side by side.')
    picture = Image.open(io.BytesIO(b64decode(strip["image/png"])))
    assert picture.width <= 1600
    assert text["text/markdown"].startswith("**Reading the figure.**")


@pytest.mark.parametrize(("values", "start"), [(["1"], 0), (["1", "2"], 2), (["1", "2"], -1)])
def test_a_slider_refuses_what_does_not_fit(shown, values, start, closed_figures):
    with pytest.raises(ValueError, match=r"frames: 2 for .* values, start="):
        page.slider("x", values, (drawn(), drawn()), "Boxes.", "There are 2.", start=start)
    assert not shown
