"""Features and the numbers computed from them, each against a slow reference."""

import numpy as np
import pytest
import torch

from anchor_utils.embeddings import (
    class_centres,
    displacement,
    extract,
    knn_accuracy,
    neighbourhood_metrics,
    project_2d,
)


@pytest.fixture(scope="module")
def clouds():
    """Sixty points of three overlapping classes in five dimensions."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    return random.normal(size=(60, 5)) + 1.2 * labels[:, None], labels


def majority(labels):
    return np.bincount(labels).argmax()


def distances(first, second):
    return np.sqrt(((first[:, None] - second[None]) ** 2).sum(2))


@pytest.mark.parametrize("layer", ["features", "projection"])
def test_extract_gives_normalised_vectors_and_leaves_the_model(tiny_run, few_digits, layer):
    model = tiny_run.model().train()
    images = few_digits.test[:13].inputs()
    vectors = extract(model, images, layer=layer, batch_size=5)
    assert all(module.training for module in model.modules())
    model.eval()
    with torch.no_grad():
        expected = model.encode(images)
        expected = model.project(expected) if layer == "projection" else expected
    assert vectors.shape == (13, 16 if layer == "features" else 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(vectors, expected / expected.norm(dim=1, keepdim=True), atol=1e-5)


def test_extract_refuses_pixels_from_0_to_255(tiny_run, few_digits):
    with pytest.raises(ValueError, match=r"images have dtype torch.uint8: .*divide uint8 by 255"):
        extract(tiny_run.model(), few_digits.test.images)


def test_extract_refuses_an_unknown_layer(tiny_run, few_digits):
    with pytest.raises(ValueError, match=r"layer='logits': allowed are 'features', 'projection'"):
        extract(tiny_run.model(), few_digits.test[:2].inputs(), layer="logits")


@pytest.mark.parametrize("neighbours", [1, 5])
def test_knn_accuracy_equals_a_loop(clouds, neighbours):
    vectors, labels = clouds
    query, query_labels = vectors[::3] + np.array([1, -1, 1, -1, 0]), labels[::3]
    votes = [majority(labels[np.argsort(row)[:neighbours]]) for row in distances(query, vectors)]
    expected = np.mean(votes == query_labels)
    assert expected < 1
    assert knn_accuracy(vectors, labels, query, query_labels, neighbours=neighbours) == pytest.approx(expected)


@pytest.mark.parametrize("neighbours", [1, 7])
def test_leave_one_out_equals_a_loop(clouds, neighbours):
    vectors, labels = clouds
    gaps = distances(vectors, vectors)
    np.fill_diagonal(gaps, np.inf)
    votes = [majority(labels[np.argsort(row)[:neighbours]]) for row in gaps]
    metrics = neighbourhood_metrics(vectors, labels, neighbours=neighbours)
    assert metrics["knn_accuracy"] == pytest.approx(np.mean(votes == labels))
    assert metrics["knn_accuracy"] < 1  # a point is not its own neighbour
    assert "trustworthiness" not in metrics


def test_silhouette_equals_a_loop(clouds):
    vectors, labels = clouds
    gaps = distances(vectors, vectors)
    scores = []
    for i, label in enumerate(labels):
        own = gaps[i, (labels == label) & (np.arange(60) != i)].mean()
        other = min(gaps[i, labels == c].mean() for c in set(labels) - {label})
        scores.append((other - own) / max(own, other))
    assert neighbourhood_metrics(vectors, labels)["silhouette"] == pytest.approx(np.mean(scores))


def test_trustworthiness_of_maps(clouds):
    vectors, labels = clouds
    faithful = neighbourhood_metrics(vectors, labels, vectors)["trustworthiness"]
    shuffled = np.random.default_rng(1).permutation(vectors)[:, :2]
    assert faithful == pytest.approx(1)
    assert neighbourhood_metrics(vectors, labels, shuffled)["trustworthiness"] < 0.7


def test_map_is_decided_by_the_seed(clouds):
    vectors, _ = clouds
    first, again = (project_2d(vectors, perplexity=10, seed=1) for _ in range(2))
    assert first.shape == (60, 2)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("perplexity", [0, 60])
def test_perplexity_must_fit_the_points(clouds, perplexity):
    with pytest.raises(ValueError, match=rf"perplexity={perplexity}: .* below the number of points, 60"):
        project_2d(clouds[0], perplexity=perplexity)


@pytest.mark.parametrize("neighbours", [0, 61])
def test_neighbours_must_exist(clouds, neighbours):
    with pytest.raises(ValueError, match=rf"neighbours={neighbours}: allowed is 1 to 60"):
        knn_accuracy(*clouds, *clouds, neighbours=neighbours)


@pytest.mark.parametrize("neighbours", [0, 30])
def test_neighbours_must_be_below_half_of_the_points(clouds, neighbours):
    with pytest.raises(ValueError, match=rf"neighbours={neighbours}: allowed is 1 to 29"):
        neighbourhood_metrics(*clouds, neighbours=neighbours)


NAN = np.where(np.arange(120).reshape(60, 2) == 7, np.nan, 1.0)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((60, 8), np.float32), "vectors differ by 0 at most: allowed is 1e-15 to 1e15"),
        (
            1e-30 * np.arange(480.0).reshape(60, 8),
            "vectors differ by .*: allowed is 1e-15",
        ),  # squares are 0
        (1e200 * np.arange(480.0).reshape(60, 8), "vectors differ by .*: allowed is 1e-15"),
        (NAN, "vectors: 1 of 60 are not finite"),
        (-np.inf * np.ones((60, 8)), "vectors: 60 of 60 are not finite"),
        (np.arange(60.0), r"vectors have shape \(60,\) .*allowed are numbers \(N, D\)"),
        (np.ones((60, 2, 2)), r"vectors have shape \(60, 2, 2\)"),
        (np.full((60, 2), "a"), "vectors have shape .* and type <U1"),
        (np.arange(60.0)[:, None], r"vectors have shape \(60, 1\): allowed is \(N, D\), D at least 2"),
        (np.ones((0, 8)), "perplexity=10: allowed is .* below the number of points, 0"),
        (np.arange(18.0).reshape(9, 2), "perplexity=10: allowed is .* below the number of points, 9"),
    ],
)
def test_vectors_without_a_map_are_refused(vectors, message):
    """The first three end the process within scikit-learn: they must not get there."""
    with pytest.raises(ValueError, match=message):
        project_2d(vectors, perplexity=10)


@pytest.mark.parametrize(
    "shape", [lambda r: np.repeat(r[:2], 30, 0), lambda r: np.r_[r[:5], 0 * r[5:]], lambda r: r / 1e7 + 1]
)
def test_duplicates_and_small_differences_have_a_map(shape):
    vectors = shape(np.random.default_rng(0).random((60, 8)))
    assert np.isfinite(project_2d(vectors, perplexity=10)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": NAN}, "vectors: 1 of 60 are not finite"),
        ({"labels": np.zeros(60, int)}, "labels have 1 classes: allowed are 2 to 59"),
        ({"labels": np.arange(60)}, "labels have 60 classes: allowed are 2 to 59"),
        ({"labels": np.arange(59)}, r"labels have shape \(59,\) .*allowed are 60 integers"),
        ({"labels": np.arange(60.0)}, "labels have .* type float64"),
        ({"labels": np.arange(60) - 1}, "labels have .*0 or more"),
        ({"map_2d": np.zeros((59, 2))}, "map_2d has 59 points: allowed are 60"),
        ({"map_2d": NAN}, "map_2d: 1 of 60 are not finite"),
    ],
)
def test_metrics_name_what_they_cannot_measure(clouds, change, message):
    with pytest.raises(ValueError, match=message):
        neighbourhood_metrics(**{"vectors": clouds[0], "labels": clouds[1], **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": np.ones((3, 4))}, "query has 4 dimensions: allowed are 5"),
        ({"query": NAN}, "query: 1 of 60 are not finite"),
        ({"query_labels": np.arange(2)}, r"query_labels have shape \(2,\) .*allowed are 3 integers"),
        ({"labels": np.arange(3)}, r"labels have shape \(3,\) .*allowed are 60 integers"),
    ],
)
def test_knn_names_what_does_not_fit(clouds, change, message):
    good = {"vectors": clouds[0], "labels": clouds[1], "query": np.ones((3, 5)), "query_labels": np.arange(3)}
    with pytest.raises(ValueError, match=message):
        knn_accuracy(**{**good, **change})


def test_extract_refuses_a_network_that_diverged(tiny_run, few_digits):
    model = tiny_run.model()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="features: 3 of 3 are not finite"):
        extract(model, few_digits.test[:3].inputs())


def test_centres_are_the_means_of_the_classes_that_occur_by_ascending_label(clouds):
    vectors, labels = clouds
    labels = 3 * labels + 1
    wanted = [vectors[[i for i, label in enumerate(labels) if label == k]].mean(0) for k in sorted({*labels.tolist()})]
    assert class_centres(vectors, labels) == pytest.approx(np.array(wanted))


def test_displacement_is_in_units_of_the_distance_between_centres():
    clean = np.array([[0.0, 1.0], [0.0, -1.0], [4.0, 1.0], [4.0, -1.0]])
    moved = clean + np.array([[2.0, 0.0], [0.0, 0.0], [0.0, 4.0], [-8.0, 0.0]])
    assert displacement(clean, moved, class_centres(clean, np.array([0, 0, 1, 1]))).tolist() == [0.5, 0, 1, 2]


def test_displacement_has_no_unit(random):
    before, after = random.normal(size=(2, 30, 4))
    centres = random.normal(size=(3, 4))
    apart = [np.linalg.norm(centres[i] - centres[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    found = displacement(before, after, centres)
    assert found == pytest.approx(np.linalg.norm(after - before, axis=1) / np.mean(apart))
    assert displacement(7 * before, 7 * after, 7 * centres) == pytest.approx(found)


@pytest.mark.parametrize(
    ("before", "after", "centres", "message"),
    [
        (np.ones((3, 2)), np.ones((2, 2)), np.eye(2), r"before, after and centres have shapes"),
        (np.ones((3, 2)), np.ones((3, 2)), np.eye(3), r"before, after and centres have shapes"),
        (np.ones((3, 2)), np.full((3, 2), np.nan), np.eye(2), "after: 3 of 3 are not finite"),
        (np.ones((3, 2)), np.ones((3, 2)), np.ones((1, 2)), "allowed are two or more in different places"),
        (np.ones((3, 2)), np.ones((3, 2)), np.ones((2, 2)), "allowed are two or more in different places"),
    ],
)
def test_displacement_names_what_does_not_fit(before, after, centres, message):
    with pytest.raises(ValueError, match=message):
        displacement(before, after, centres)
