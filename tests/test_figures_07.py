"""The figures of lesson 07, drawn on small arrays and read back."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from drawings import drawn, hexes, quivers, texts
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


def test_truth_and_map_draw_the_same_groups_twice(random):
    points, on_map = random.normal(size=(12, 2)), 5 * random.normal(size=(12, 2))
    kind = np.repeat([0, 1, 2], 4)
    figure = figures.truth_and_map(points, on_map, kind, ["A: tight", "B", "C: wide"], perplexity=3)
    left, right = figure.axes
    for axis, where in ((left, points), (right, on_map)):
        np.testing.assert_allclose(axis.collections[0].get_offsets(), where)
        assert hexes(axis.collections[0].get_facecolors()) == figures.class_colors(kind)
    assert texts(left) == ["A: tight", "B", "C: wide"]
    assert texts(right) == ["A", "B", "C"]
    assert left.texts[1].xy == pytest.approx((points[4:8, 0].mean(), points[4:8, 1].max()))
    drawn(figure)
    assert left.get_aspect() == right.get_aspect() == 1, "distances of one axis are those of the other"
    assert [tick.get_text() for tick in right.get_xticklabels()] == []


def test_rulers_and_distances_split_the_pairs_at_the_mean_weight():
    kind, sigma = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 1.0, 2.0])
    p = np.array([0.5, 0.05, 0.05, 0.1, 0.2, 0.1])  # the pairs of four points, mean 1 / 6
    before, on_map = np.arange(1.0, 7.0), np.arange(1.0, 7.0) ** 2
    figure = figures.rulers_and_distances(sigma, kind, ["A", "B"], p, before, on_map)
    left, right = figure.axes
    first, second = left.collections
    np.testing.assert_allclose(first.get_offsets()[:, 1], [0.1, 0.2])
    np.testing.assert_allclose(second.get_offsets().mean(0), [1, 1.5])
    light, heavy = right.collections
    np.testing.assert_allclose(heavy.get_offsets(), [[1, 1], [5, 25]])
    assert len(light.get_offsets()) == 4
    assert texts(right) == [
        "above-average p: 33% of pairs, 70% of the weight",
        "all other pairs: 30% of the weight",
        "pairs within a group",
        "pairs of two groups",
    ]
    within, between = right.texts[2:]
    assert within.xy == pytest.approx((3.5, 36)), "points 1 and 2, and 3 and 4: the first pair and the last"
    assert between.xy == pytest.approx((3.5, 25))
    drawn(figure)


def test_toy_and_noise_are_frames_of_one_size(random):
    toy, noise = random.normal(size=(12, 2)), random.normal(size=(30, 2))
    frames = [figures.toy_and_noise(toy, LABELS, k * noise, ("known", f"noise {k}")) for k in (1, 2)]
    for k, figure in enumerate(frames, start=1):
        left, right = figure.axes
        np.testing.assert_allclose(left.collections[0].get_offsets(), toy)
        assert hexes(left.collections[0].get_facecolors()) == figures.class_colors(LABELS)
        np.testing.assert_allclose(right.collections[0].get_offsets(), k * noise)
        assert [axis.get_title() for axis in figure.axes] == ["known", f"noise {k}"]
        drawn(figure)
    assert len({tuple(figure.get_size_inches()) for figure in frames}) == 1


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
    assert share.get_ydata()[0] == 0.25
    assert share.get_color() == plotting.method_color("anchor")
    drawn(figure)
    for axis in figure.axes:
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["noise", "PGD on\nthe label"]
    assert texts(right) == ["standard", "ANCHOR"]


def test_a_method_has_one_place_in_both_panels_even_where_another_has_no_value():
    lengths = {(m, "noise"): np.ones(5) for m in ("standard", "pgd_at", "anchor")}
    figure = figures.displacements(lengths, {("anchor", "noise"): (0.5, 0.4, 0.6)})
    left, right = figure.axes
    assert right.lines[1].get_xdata()[0] == pytest.approx(left.lines[8].get_xdata()[0])


def test_neighbours_frame_those_of_another_class_in_orange(random):
    own = np.array([True, False, True])
    rows = [(name, random.uniform(size=(1, 5, 5)), random.uniform(size=(3, 1, 5, 5)), own) for name in ("clean", "PGD")]
    figure = figures.neighbours({"one": rows, "two": [rows[0], (*rows[1][:3], ~own)]})
    drawn(figure)
    blocks = figure.subfigs
    assert [block.get_suptitle() for block in blocks] == ["one", "two"]
    last = blocks[1].axes[5:]  # the second row: image, gap, three neighbours
    assert last[0].get_ylabel() == "PGD"
    np.testing.assert_allclose(last[0].images[0].get_array(), rows[1][1][0])
    np.testing.assert_allclose(last[4].images[0].get_array(), rows[1][2][2, 0])
    frames = [to_hex(axis.spines["left"].get_edgecolor()).upper() for axis in last[2:]]
    assert frames == [figures.ORANGE, figures.BLUE, figures.ORANGE]


def test_class_separation_draws_both_measures_over_the_views():
    knn = {("standard", "clean"): (0.9, 0.85, 0.95), ("anchor", "clean"): (0.8, 0.7, 0.9)}
    knn |= {("anchor", "adversarial references"): (0.6, 0.5, 0.7)}
    silhouette = {("standard", "clean"): -0.1, ("anchor", "clean"): 0.3}
    figure = figures.class_separation(knn, silhouette, chance=0.12, images=50)
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[4].get_ydata(), [0.5, 0.7])
    np.testing.assert_allclose(left.lines[5].get_ydata(), [0.6])
    np.testing.assert_allclose(left.lines[6].get_ydata(), 0.12)
    np.testing.assert_allclose([line.get_ydata()[0] for line in right.lines[1:4:2]], [-0.1, 0.3])
    assert left.get_ylabel() == "kNN accuracy, 50 test images"
    drawn(figure)
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["clean", "PGD, attacked\nreferences"]
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["clean"]
    assert texts(right) == ["standard", "ANCHOR"]


def test_joint_maps_have_one_frame_a_method_and_black_arrows_for_the_misclassified(random):
    views = {view: random.normal(size=(12, 2)) for view in ("clean", "adversarial")}
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


def test_separate_fits_draw_arrows_and_the_distances_of_classes(random):
    start = random.normal(size=(12, 2))
    before, after = (
        np.array([1.0, 2.0, 3.0]),
        {"start 1": np.array([2.0, 4.0, 6.0]), "start 2": np.array([6.0, 4.0, 2.0])},
    )
    figure = figures.separate_fits(
        {"best": (start, start + 1), "worst": (start, start - 2)}, LABELS, before, after, arrows=7
    )
    best, worst, last = figure.axes
    assert [best.get_title(), worst.get_title()] == ["best", "worst"]
    (arrows, none) = quivers(worst)
    assert (arrows.N, none.N) == (7, 0)
    np.testing.assert_allclose(ends(arrows), start[:7] - 2)
    np.testing.assert_allclose(last.collections[0].get_offsets(), [[1, 0.5], [2, 1], [3, 1.5]])
    np.testing.assert_allclose(last.collections[1].get_offsets()[:, 1], [1.5, 1, 0.5])
    assert texts(last) == ["start 1", "start 2"]
    drawn(figure)


@pytest.fixture
def growth(random):
    stages = [(random.uniform(-1, 1, (20, 2)), np.arange(8) < epoch) for epoch in range(5)]
    curve = np.linspace(0.1, 0.8, 5)
    return stages, {name: {"clean": curve, "adversarial": curve / 2} for name in ("warm-up", "full attack")}


def test_growing_maps_interpolate_between_epochs_and_move_a_line_over_the_curves(growth):
    stages, knn = growth
    frames = list(figures.growing_maps(stages, LABELS, knn, shown="full attack", arrows=5))
    assert len(frames) == 4 * 2 + 1
    maps, curves = zip(*(figure.axes for figure in frames), strict=True)
    assert maps[2].get_title() == maps[3].get_title() == "full attack: epoch 1 of 4"
    points = [axis.collections[0].get_offsets() for axis in maps]  # of class 0, the first four
    np.testing.assert_allclose(points[2], stages[1][0][:4])
    np.testing.assert_allclose(points[3], stages[1][0][:4] / 2 + stages[2][0][:4] / 2)
    np.testing.assert_allclose(points[-1], stages[4][0][:4])
    assert [quiver.N for quiver in quivers(maps[2])] == [4, 1], "black: misclassified after that epoch"
    np.testing.assert_allclose(ends(quivers(maps[2])[1]), stages[1][0][12:13])
    assert texts(maps[0]) == []
    assert [axis.lines[4].get_xdata()[0] for axis in curves] == pytest.approx(np.arange(9) / 2)
    np.testing.assert_allclose(curves[0].lines[1].get_ydata(), knn["warm-up"]["adversarial"])
    assert [line.get_linestyle() for line in curves[0].lines[:4]] == ["-", "--", "-", "--"]
    heights = [text.xy[1] for text in curves[0].texts]
    assert min(np.diff(sorted(heights))) > 0.1, "labels of equal ends lie on each other"
    drawn(frames[0])
    assert len({tuple(figure.get_size_inches()) for figure in frames}) == 1


def test_a_long_training_is_drawn_without_interpolation(random):
    stages = [(random.uniform(-1, 1, (20, 2)), np.zeros(8, bool)) for _ in range(26)]
    knn = {"warm-up": {"clean": np.ones(26), "adversarial": np.zeros(26)}}
    count = 0
    for figure in figures.growing_maps(stages, LABELS, knn, shown="warm-up"):
        count += 1
        plt.close(figure)
    assert count == 26


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
