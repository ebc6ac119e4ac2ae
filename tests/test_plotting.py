"""Figures: each is drawn on small arrays, and what stands in it is read back."""

import base64
import io
import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest
from drawings import drawn, texts
from matplotlib.colors import to_hex

from anchor_utils import plotting
from anchor_utils.config import METHODS

pytestmark = pytest.mark.usefixtures("closed_figures")


def test_every_method_has_its_own_style_and_name():
    for shown in (plotting.method_name, plotting.method_color, plotting.method_marker):
        assert len({shown(method) for method in [*METHODS, "new"]}) == len(METHODS) + 1
    assert (plotting.method_name("pgd_at"), plotting.method_name("new")) == ("PGD-AT", "new")
    assert plotting.method_color("anchor") == "#D55E00"


def test_style_is_white_with_reproducible_svg():
    with mpl.rc_context():
        plotting.use_style()
        assert to_hex(mpl.rcParams["figure.facecolor"]) == "#ffffff"
        assert mpl.rcParams["svg.hashsalt"] == "anchor"


def test_animation_plays_in_every_browser_and_holds_the_last_frame(monkeypatch):
    """Read back by Pillow: the frames in order, their times, an endless loop, and a plain PNG for those who cannot."""
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **others: shown.append((data, others)))

    def figures():
        for k in range(4):
            figure, axis = plt.subplots(figsize=(2, 2), dpi=50)
            axis.barh(0, k + 1, color="#0072B2")
            axis.set_xlim(0, 4)
            yield figure

    plotting.animate(figures(), "a bar that grows", milliseconds=50, hold=700)
    ((picture, others),) = shown
    assert picture["text/plain"] == others["metadata"]["image/png"]["alt"] == "a bar that grows"
    assert not plt.get_fignums()
    film = PIL.Image.open(io.BytesIO(base64.b64decode(picture["image/png"])))
    assert (film.format, film.n_frames, film.info["loop"]) == ("PNG", 4, 0)
    blue, durations = [], []
    for k in range(4):
        film.seek(k)
        durations.append(film.info["duration"])
        pixels = np.asarray(film.convert("RGB")).astype(int)
        blue.append(int((np.abs(pixels - [0, 0x72, 0xB2]).max(2) < 12).sum()))
    assert durations == [50, 50, 50, 700]
    assert blue[0] > 0
    np.testing.assert_allclose(np.array(blue) / blue[0], [1, 2, 3, 4], rtol=0.2)


@pytest.mark.parametrize("svg", [False, True])
def test_show_displays_and_closes_the_figure(monkeypatch, svg):
    import IPython.display

    displayed = []
    monkeypatch.setattr(IPython.display, "display", lambda data, **others: displayed.append((data, others)))
    figure = plt.figure(figsize=(6, 3))
    plotting.show(figure, "a picture of nothing", svg=svg)
    ((shown, others),) = displayed
    kind = "image/svg+xml" if svg else "image/png"
    assert shown["text/plain"] == "a picture of nothing"
    assert others == {"raw": True, "metadata": {kind: {"alt": "a picture of nothing"}}}
    if svg:
        assert "<title>a picture of nothing</title>" in shown[kind]
        root = re.search(r"<svg[^>]*>", shown[kind])[0]
        assert 'width="480"' in root
        assert 'height="240"' in root
        assert 'viewBox="0 0 432 216"' in root
    else:
        assert base64.b64decode(shown[kind]).startswith(b"\x89PNG")
    assert not plt.fignum_exists(figure.number)


def test_grey_colour_and_signed_images(axis, random):
    plotting.draw_image(axis, random.random((1, 4, 5)), "grey")
    assert axis.get_title() == "grey"
    assert axis.images[0].get_array().shape == (4, 5)
    assert axis.images[0].get_clim() == (0, 1)
    plotting.draw_image(axis, random.random((3, 4, 5)))
    assert axis.images[1].get_array().shape == (4, 5, 3)
    plotting.draw_image(axis, np.full((1, 4, 5), -0.2), signed=True)
    assert axis.images[2].get_clim() == pytest.approx((-0.2, 0.2))  # no change is the middle colour
    assert list(axis.get_xticks()) == []


def test_image_grid_has_a_cell_an_image(random):
    images = random.random((3, 1, 4, 4))
    titles = [["a", "b", "c"], []]
    figure = plotting.image_grid(
        [images, images - 0.5], ["clean", "change"], titles, wrong=[[False, True, False], []], signed_rows=[1]
    )
    assert len(figure.axes) == 6
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", "", "", ""]
    assert [axis.title.get_fontweight() for axis in figure.axes[:3]] == ["normal", "bold", "normal"]
    assert [figure.axes[i].get_ylabel() for i in (0, 3)] == ["clean", "change"]
    assert figure.axes[3].images[0].get_clim()[0] < 0
    figure.canvas.draw()


def test_neighbours_of_another_class_are_framed_in_orange(random):
    query, nearest = random.random((1, 4, 4)), random.random((3, 1, 4, 4))
    _, axes = plt.subplots(1, 5)
    plotting.draw_neighbours(axes, query, nearest, np.array([True, False, True]), name="clean")
    assert axes[0].get_ylabel() == "clean"
    assert not axes[1].images
    for axis, picture in zip(axes[[0, 2, 3, 4]], [query, *nearest], strict=True):
        np.testing.assert_array_equal(axis.images[0].get_array(), picture[0])
    for axis in axes:
        assert not [*axis.get_xticks(), *axis.get_yticks()]
    frames = [[axis.spines[side].get_visible() for side in ("left", "top", "right", "bottom")] for axis in axes]
    assert frames == [[False] * 4] * 2 + [[True] * 4] * 3
    colors = [to_hex(axis.spines["top"].get_edgecolor()).upper() for axis in axes[2:]]
    assert colors == [plotting.BLUE, plotting.ORANGE, plotting.BLUE]


def test_neighbours_fit_their_axes(random):
    _, axes = plt.subplots(1, 4)
    with pytest.raises(ValueError, match="zip"):
        plotting.draw_neighbours(axes, random.random((1, 4, 4)), random.random((3, 1, 4, 4)), np.ones(3, bool))


def test_curves_are_labelled_directly_without_overlap(axis):
    lines = {"anchor": np.array([0.1, 0.5]), "pgd_at": np.array([0.2, 0.501]), "other": np.array([0.9, 0.502])}
    bands = {"anchor": (np.array([0.0, 0.4]), np.array([0.2, 0.6]))}
    plotting.curves(axis, [0, 1], lines, bands=bands, xlabel="epoch", ylabel="accuracy")
    assert texts(axis) == ["ANCHOR", "PGD-AT", "other"]  # from the lowest up
    heights = [text.xy[1] for text in axis.texts]
    low, high = axis.get_ylim()
    assert (np.diff(heights) > 0.05 * (high - low)).all()
    assert len(axis.lines) == 3
    assert len(axis.collections) == 1
    assert axis.lines[0].get_color() == plotting.method_color("anchor") == axis.texts[0].get_color()
    assert axis.get_legend() is None
    drawn(axis)
    assert axis.get_yticklabels()[0].get_text().endswith("%")


def test_curves_need_not_be_percentages(axis):
    plotting.curves(axis, [0, 1], {"loss": np.array([2.0, 1.0])}, xlabel="epoch", ylabel="loss", percent=False)
    drawn(axis)
    assert not any("%" in label.get_text() for label in axis.get_yticklabels())
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("epoch", "loss")


def test_accuracy_bars_show_intervals():
    series = {
        "clean": (np.array([0.9, 1.0]), np.array([0.8, 0.96]), np.array([0.95, 0.99999])),
        "PGD-20": (np.array([0.1, 0.5]), np.array([0.05, 0.4]), np.array([0.2, 0.6])),
    }
    figure = plotting.accuracy_bars(["standard", "anchor"], series)
    (axis,) = figure.axes
    figure.canvas.draw()
    assert [label.get_text() for label in axis.get_xticklabels()] == ["standard", "ANCHOR"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["clean", "PGD-20"]
    ends = axis.containers[1][2][0].get_segments()
    assert [tuple(segment[:, 1]) for segment in ends] == [pytest.approx((0.05, 0.2)), pytest.approx((0.4, 0.6))]
