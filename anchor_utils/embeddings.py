"""What a network has learned: its features, maps of them, and numbers that a map cannot give."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.spatial.distance import pdist
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from anchor_utils.checks import check_pixels, device_of
from anchor_utils.models import AnchorNet, frozen


@torch.no_grad()
def extract(
    model: AnchorNet, images: Tensor, *, layer: Literal["features", "projection"] = "features", batch_size: int = 500
) -> np.ndarray:
    """Feature vectors (N, D), or embeddings (N, P) of the projection head, scaled to unit norm.

    Unit norm, because the contrastive losses compare by cosine; Euclidean distance then ranks neighbours alike.

    Args:
        model: evaluated in eval mode where its parameters are.
        images: (N, C, H, W) in [0, 1].

    Raises:
        ValueError: unknown layer, images out of range, or a vector that is not finite.
    """
    if layer not in ("features", "projection"):
        raise ValueError(f"layer={layer!r}: allowed are 'features', 'projection'")
    check_pixels(images)
    device = device_of(model, images)
    parts = []
    with frozen(model, "eval"):
        for batch in images.split(batch_size):
            features = model.encode(batch.to(device))
            vectors = model.project(features) if layer == "projection" else features
            parts.append(torch.nn.functional.normalize(vectors.float(), dim=1).cpu())
    return _checked(torch.cat(parts).numpy(), what=layer)


def project_2d(vectors: np.ndarray, *, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """t-SNE map (N, 2) of vectors (N, D), by scikit-learn.

    t-SNE has no map for new points: what is to be compared (clean and adversarial, say) must be fitted together.
    Distances between far clusters and the sizes of clusters carry no meaning (Wattenberg et al., Distill 2016).

    Raises:
        ValueError: the vectors are not finite, all the same, or have fewer than two dimensions; or `perplexity` does
            not fit their number.
    """
    vectors = _checked(vectors)
    if vectors.shape[1] < 2:
        raise ValueError(f"vectors have shape {vectors.shape}: allowed is (N, D), D at least 2")
    if not 0 < perplexity < len(vectors):
        raise ValueError(f"perplexity={perplexity}: allowed is above 0 and below the number of points, {len(vectors)}")
    # Beyond these, float32 squares of distances are 0 or infinite, and scikit-learn's tree recurses until it crashes.
    spread = float(np.ptp(vectors, 0).max())
    if not 1e-15 < spread < 1e15:
        raise ValueError(f"vectors differ by {spread:.3g} at most: allowed is 1e-15 to 1e15; a collapsed network?")
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)


def knn_accuracy(
    vectors: np.ndarray, labels: np.ndarray, query: np.ndarray, query_labels: np.ndarray, *, neighbours: int = 10
) -> float:
    """Share of the queries (Q, D) whose class is that of most of their nearest `neighbours` among vectors (N, D)."""
    vectors, query = _checked(vectors), _checked(query, "query")
    labels, query_labels = _class_of_each(labels, vectors), _class_of_each(query_labels, query, "query_labels")
    if query.shape[1] != vectors.shape[1]:
        raise ValueError(f"query has {query.shape[1]} dimensions: allowed are {vectors.shape[1]}, as vectors have")
    if not 1 <= neighbours <= len(vectors):
        raise ValueError(f"neighbours={neighbours}: allowed is 1 to {len(vectors)}, the number of vectors")
    return float(KNeighborsClassifier(neighbours).fit(vectors, labels).score(query, query_labels))


def neighbourhood_metrics(
    vectors: np.ndarray, labels: np.ndarray, map_2d: np.ndarray | None = None, *, neighbours: int = 10
) -> dict[str, float]:
    """Numbers to read next to a map.

    Returns:
        silhouette: in [-1, 1], how much closer a point is to its own class than to the next one, in D dimensions.
        knn_accuracy: leave-one-out, in D dimensions.
        trustworthiness: in [0, 1], whether neighbours on the map are neighbours in D dimensions; with `map_2d` only.

    Raises:
        ValueError: vectors that are not finite, labels of another number or of a single class, too many neighbours.
    """
    vectors = _checked(vectors)
    labels = _class_of_each(labels, vectors)
    classes = len(np.unique(labels))
    if not 1 < classes < len(vectors):
        raise ValueError(f"labels have {classes} classes: allowed are 2 to {len(vectors) - 1}, fewer than vectors")
    if not 1 <= neighbours < len(vectors) / 2:
        raise ValueError(f"neighbours={neighbours}: allowed is 1 to {(len(vectors) - 1) // 2}, below half the points")
    classifier = KNeighborsClassifier(neighbours).fit(vectors, labels)
    # Queried without points, scikit-learn leaves each training point out of its own neighbours.
    nearest = labels[classifier.kneighbors(return_distance=False)]
    votes = np.apply_along_axis(np.bincount, 1, nearest, minlength=int(labels.max()) + 1).argmax(1)
    result = {
        "silhouette": float(silhouette_score(vectors, labels)),
        "knn_accuracy": float((votes == labels).mean()),
    }
    if map_2d is not None:
        map_2d = _checked(map_2d, "map_2d")
        if len(map_2d) != len(vectors):
            raise ValueError(f"map_2d has {len(map_2d)} points: allowed are {len(vectors)}, one for each vector")
        result["trustworthiness"] = float(trustworthiness(vectors, map_2d, n_neighbors=neighbours))
    return result


def class_centres(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean (K, D) of the vectors (N, D) of each of the K classes that occur, by ascending label."""
    vectors = _checked(vectors)
    labels = _class_of_each(labels, vectors)
    return np.stack([vectors[labels == label].mean(0) for label in np.unique(labels)])


def displacement(before: np.ndarray, after: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """How far each vector moved (N,), in units of the mean distance between class centres: lesson 07, eq. 4.

    A distance has no unit of its own, since one network spreads its features wider than another; 1 is as far as from
    one class to another.

    Args:
        before, after: (N, D), for instance the features of clean images and of the same images under attack.
        centres: (K, D) of :func:`class_centres`, K at least 2.

    Raises:
        ValueError: values that are not finite, other shapes, fewer than two centres, or centres that coincide.
    """
    before, after, centres = _checked(before, "before"), _checked(after, "after"), _checked(centres, "centres")
    if before.shape != after.shape or before.shape[1] != centres.shape[1]:
        shapes = f"{before.shape}, {after.shape} and {centres.shape}"
        raise ValueError(f"before, after and centres have shapes {shapes}: allowed are (N, D), (N, D) and (K, D)")
    if (unit := pdist(centres).mean() if len(centres) > 1 else 0.0) == 0:
        raise ValueError(f"centres: {len(centres)}, {unit:g} apart: allowed are two or more in different places")
    return np.asarray(np.linalg.norm(after - before, axis=1) / unit)


def _checked(vectors: np.ndarray, what: str = "vectors") -> np.ndarray:
    """The vectors as an array; ValueError unless they are (N, D), real and finite."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or not vectors.shape[1]:
        raise ValueError(f"{what} have shape {vectors.shape} and type {vectors.dtype}: allowed are numbers (N, D)")
    if broken := int((~np.isfinite(vectors)).any(1).sum()):
        raise ValueError(f"{what}: {broken} of {len(vectors)} are not finite, allowed are none; a diverged network?")
    return vectors


def _class_of_each(labels: np.ndarray, vectors: np.ndarray, what: str = "labels") -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (len(vectors),) or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise ValueError(
            f"{what} have shape {labels.shape} and type {labels.dtype}: allowed are {len(vectors)} integers, 0 or more"
        )
    return labels
