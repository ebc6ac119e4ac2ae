"""The figures of lesson 07, drawn on small arrays and read back."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from drawings import drawn, quivers, texts
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from anchor_utils import plotting
from course.figures import lesson_07 as figures

pytestmark = pytest.mark.usefixtures("closed_figures")

LABELS = np.repeat([0, 2, 5], 4)


def ends(quiver):
    return quiver.XY + np.stack([quiver.U, quiver.V], axis=1)


def test_embedding_map_names_classes_and_draws_the_moves(axis, random):
    points = random.normal(size=(12, 2))
    wrong = np.array([True, False, False, True, False])
    figures.embedding_map(axis, points, LABELS, title="map", moved_to=points[:5] + 1, moved_wrong=wrong)
    assert texts(axis) == ["0", "2", "5"]
    assert axis.texts[1].xy == pytest.approx(np.median(points[4:8], axis=0))
    right, misled = quivers(axis)
    assert (right.N, misled.N) == (3, 2)
    np.testing.assert_allclose(misled.XY, points[[0, 3]])
    np.testing.assert_allclose([*right.U, *right.V, *misled.U, *misled.V], 1)
    assert to_rgb(misled.get_facecolor()[0]) == (0, 0, 0)
    drawn(axis.figure)


def test_embedding_map_without_moves(axis, random):
    figures.embedding_map(axis, random.normal(size=(6, 2)), np.array([0, 0, 1, 1, 2, 2]))
    assert not quivers(axis)
    assert [len(scatter.get_offsets()) for scatter in axis.collections] == [2, 2, 2]
    assert len({tuple(scatter.get_facecolors()[0]) for scatter in axis.collections}) == 3
    assert len({scatter.get_paths()[0].vertices.shape for scatter in axis.collections}) > 1, "numbers, not dots"


def test_embedding_map_names_classes_elsewhere_or_not_at_all_and_takes_more_than_ten(axis, random):
    points, labels = random.normal(size=(24, 2)), np.arange(24) % 12
    figures.embedding_map(axis, points, labels, names_at=points + 3)
    assert texts(axis) == [str(label) for label in range(12)]
    assert axis.texts[11].xy == pytest.approx(np.median(points[labels == 11] + 3, axis=0))
    axis.clear()
    figures.embedding_map(axis, points, labels, names_at=figures.NOWHERE)
    assert texts(axis) == []
    drawn(axis.figure)


def test_class_colors_repeat_from_the_eleventh_class_on():
    assert figures.class_colors(np.array([1, 11, 2])) == ["#E69F00", "#E69F00", "#009E73"]
    assert len(set(figures.class_colors(np.arange(10)))) == 10


@pytest.mark.parametrize("animated", [False, True])
def test_a_palette_keeps_the_colours_of_all_classes(monkeypatch, animated):
    shown = []
    monkeypatch.setattr(
        plotting, "_display", lambda kind, data, alt: shown.append(Image.open(io.BytesIO(base64.b64decode(data))))
    )
    maps = []
    for _ in range(2):
        figure, axis = plt.subplots(figsize=(2, 2))
        points = np.random.default_rng(0).normal(size=(10, 2))
        figures.embedding_map(axis, points, np.arange(10), names_at=figures.NOWHERE)
        maps.append(figure)
    if animated:
        plotting.animate(maps, "two maps", colors=64)
    else:
        plotting.show(maps[0], "a map", colors=64)
    assert shown[0].mode == "P"
    pixels = np.asarray(shown[0].convert("RGB")).reshape(-1, 3).astype(int)
    for color in figures.CLASS_COLORS:
        assert np.abs(pixels - np.multiply(to_rgb(color), 255)).max(1).min() < 30, color


def test_displacements_show_quantiles_and_shares_and_leave_out_what_is_missing():
    lengths = np.linspace(0, 2, 101)
    displacement = {(m, view): lengths for m in ("standard", "anchor") for view in ("noise", "adversarial")}
    figure = figures.displacements(displacement, {("anchor", "adversarial"): (0.25, 0.1, 0.4)})
    left, right = figure.axes
    whiskers = [line.get_ydata() for line in left.lines[:12]]  # thin line, thick bar, marker, four times
    np.testing.assert_allclose(whiskers[0], [0.1, 1.9])
    np.testing.assert_allclose(whiskers[1], [0.5, 1.5])
    np.testing.assert_allclose(whiskers[2], [1])
    assert left.get_ylim()[1] == pytest.approx(1.15 * 2)
    interval, share = right.lines
    np.testing.assert_allclose(interval.get_ydata(), [0.1, 0.4])
    np.testing.assert_allclose([share.get_xdata()[0], share.get_ydata()[0]], [1, 0.25])
    assert share.get_color() == plotting.method_color("anchor")
    drawn(figure)
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["noise", "PGD on\nthe label"]
    assert texts(left)[:2] == ["standard", "ANCHOR"]


def test_class_separation_draws_both_measures_over_the_views():
    knn, silhouette = {"anchor": [0.9, 0.6]}, {"anchor": [0.3, -0.1]}
    bands = {"anchor": ([0.85, 0.5], [0.95, 0.7])}
    figure = figures.class_separation(["clean", "noise"], knn, bands, silhouette, chance=0.12, images=50)
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), knn["anchor"])
    np.testing.assert_allclose(left.lines[1].get_ydata(), 0.12)
    np.testing.assert_allclose(right.lines[0].get_ydata(), silhouette["anchor"])
    assert (len(left.collections), len(right.collections)) == (1, 0), "a band for the accuracy alone"
    assert left.get_ylabel() == "kNN accuracy, 50 test images"
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["clean", "noise"]
    drawn(figure)


def test_weights_and_distances_split_the_pairs_at_the_mean_weight():
    weights = {5: np.array([0.7, 0.2, 0.1]), 30: np.array([0.5, 0.3, 0.2]), 50: np.full(3, 1 / 3)}
    p = np.array([0.5, 0.05, 0.05, 0.1, 0.2, 0.1])  # the pairs of four images, mean 1 / 6
    before, on_map = np.arange(6.0), np.arange(6.0) ** 2
    figure = figures.weights_and_distances(weights, p, before, on_map)
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_xydata(), [[1, 0.7], [2, 0.2], [3, 0.1]])
    assert texts(left) == ["perplexity 5", "perplexity 30", "perplexity 50"]
    light, heavy = right.collections
    np.testing.assert_allclose(heavy.get_offsets(), [[0, 0], [4, 16]])
    assert len(light.get_offsets()) == 4
    assert texts(right) == [
        "above-average p: 33% of pairs, 70% of the weight",
        "all other pairs: 30% of the weight",
    ]
    assert right.get_title() == "all pairs of 4 images"
    drawn(figure)


def test_joint_maps_have_one_frame_a_method_and_black_arrows_for_the_misclassified(random):
    views = {view: random.normal(size=(12, 2)) for view in ("clean", "augmented", "adversarial")}
    maps = {"standard": views, "anchor": {view: 3 * points for view, points in views.items()}}
    wrong = {method: np.arange(12) % 4 == 0 for method in maps}
    figure = figures.joint_maps(maps, LABELS, wrong, {"standard": "so", "anchor": "so too"}, arrows=6)
    top, other, bottom, _ = figure.axes
    assert [axis.get_title() for axis in figure.axes] == [
        *("standard: clean", "ANCHOR: clean"),
        *("standard: adversarial", "ANCHOR: adversarial"),
    ]
    assert [axis.get_xlabel() for axis in figure.axes] == ["", "", "so", "so too"]
    right, misled = quivers(top)
    assert (right.N, misled.N) == (4, 2)
    np.testing.assert_allclose(ends(misled), views["adversarial"][[0, 4]])
    assert not quivers(bottom)
    assert bottom.texts[1].xy == pytest.approx(np.median(views["clean"][4:8], axis=0)), "names where clean points are"
    drawn(figure)
    assert top.get_xlim() == bottom.get_xlim()
    np.testing.assert_allclose(other.get_ylim(), 3 * np.array(top.get_ylim()))
    for points in views.values():
        assert (points > [top.get_xlim()[0], top.get_ylim()[0]]).all()
        assert (points < [top.get_xlim()[1], top.get_ylim()[1]]).all()


def test_starts_are_rows_and_perplexities_columns(random):
    maps = {(s, p): random.normal(size=(12, 2)) + 10 * p for s in (0, 1) for p in (5, 30)}
    figure = figures.starts_and_perplexities(maps, LABELS, {key: key[0] + key[1] / 100 for key in maps})
    assert [axis.get_title() for axis in figure.axes] == [
        "perplexity 5, start 1\ntrustworthiness 0.05",
        "perplexity 30, start 1\ntrustworthiness 0.30",
        "perplexity 5, start 2\ntrustworthiness 1.05",
        "perplexity 30, start 2\ntrustworthiness 1.30",
    ]
    np.testing.assert_allclose(figure.axes[2].collections[0].get_offsets(), maps[1, 5][:4])


def test_arrows_in_fits_state_their_median_length(random):
    start = random.normal(size=(12, 2))
    panels = {"one": (start, start + 1), "two": (start, start - 2)}
    figure = figures.arrows_in_fits(panels, LABELS, {"one": np.array([1, 2, 9]), "two": np.array([0.25])}, arrows=7)
    titles = [axis.get_title().splitlines() for axis in figure.axes]
    assert titles == [
        [name, f"median arrow {m} of the distance between classes"] for name, m in (("one", "2.00"), ("two", "0.25"))
    ]
    (arrows, none) = quivers(figure.axes[1])
    assert (arrows.N, none.N) == (7, 0)
    np.testing.assert_allclose(ends(arrows), start[:7] - 2)


def test_controls_put_other_labels_on_the_same_points(random):
    points, noise = random.normal(size=(12, 2)), random.normal(size=(30, 2))
    figure = figures.controls(points, {"true": LABELS, "shuffled": LABELS[::-1]}, noise)
    left, middle, right = figure.axes
    np.testing.assert_allclose(left.collections[0].get_offsets(), points[:4])
    np.testing.assert_allclose(middle.collections[0].get_offsets(), points[-4:])
    assert texts(left) == texts(middle) == []
    np.testing.assert_allclose(right.collections[0].get_offsets(), noise)
    assert right.get_title() == "pure noise, perplexity 2\n30 Gaussian vectors, no classes"


@pytest.fixture
def growth(random):
    stages = [(random.uniform(-1, 1, (20, 2)), np.arange(8) < epoch) for epoch in range(5)]
    names = ("clean kNN", "adversarial kNN", "silhouette")
    return stages, {name: np.linspace(0.1 * k, 0.8, 5) for k, name in enumerate(names)}


def test_growing_maps_interpolate_between_epochs(growth):
    stages, measured = growth
    frames = list(figures.growing_maps(stages, LABELS, measured, arrows=5))
    assert len(frames) == 4 * 3 + 1
    axes = [figure.axes[0] for figure in frames]
    assert axes[3].get_title() == axes[5].get_title() == "epoch 1 of 4: kNN 20%, silhouette 0.35"
    points = [axis.collections[0].get_offsets() for axis in axes]  # of class 0, the first four
    np.testing.assert_allclose(points[3], stages[1][0][:4])
    np.testing.assert_allclose(points[5], stages[1][0][:4] / 3 + 2 * stages[2][0][:4] / 3)
    np.testing.assert_allclose(points[-1], stages[4][0][:4])
    assert [quiver.N for quiver in quivers(axes[3])] == [4, 1], "black: misclassified after that epoch"
    np.testing.assert_allclose(ends(quivers(axes[3])[1]), stages[1][0][12:13])
    assert texts(axes[0]) == []
    assert len({tuple(figure.get_size_inches()) for figure in frames}) == 1


def test_filmstrip_shows_every_epoch_of_a_short_training_and_the_curves(growth):
    stages, measured = growth
    figure = figures.filmstrip(stages, LABELS, measured, arrows=5)
    top, bottom = figure.subfigs
    assert [axis.get_title().split(":")[0] for axis in top.axes] == [*(f"epoch {k}" for k in range(5)), ""]
    assert [axis.axison for axis in top.axes] == [True] * 5 + [False]
    np.testing.assert_allclose(top.axes[4].collections[2].get_offsets(), stages[4][0][8:12])
    left, right = bottom.axes
    np.testing.assert_allclose(left.lines[1].get_ydata(), measured["adversarial kNN"])
    np.testing.assert_allclose(right.lines[0].get_ydata(), measured["silhouette"])
    assert to_hex(right.lines[1].get_color()) == "#666666"
    drawn(figure)


def test_maps_with_moves_have_a_panel_a_network(random):
    moved, wrong = random.normal(size=(5, 2)), np.array([True, False, False, True, False])
    panels = {name: (random.normal(size=(12, 2)), moved, wrong, f"about {name}") for name in ("a", "b", "c")}
    figure = figures.maps_with_moves(panels, LABELS, arrows=4)
    drawn(figure)
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in shown] == ["a", "b", "c"]
    assert [axis.get_xlabel() for axis in shown] == ["about a", "about b", "about c"]
    for axis, (clean, *_) in zip(shown, panels.values(), strict=True):
        right, misled = quivers(axis)
        assert (right.N, misled.N) == (2, 2)
        np.testing.assert_allclose(misled.XY, clean[[0, 3]])
        np.testing.assert_allclose(ends(misled), moved[[0, 3]])
