"""What a network has learned: its features, maps of them, and numbers that a map cannot give."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from anchor_utils.attacks import frozen
from anchor_utils.models import AnchorNet


@torch.no_grad()
def extract(
    model: AnchorNet, images: Tensor, *, layer: Literal["features", "projection"] = "features", batch_size: int = 500
) -> np.ndarray:
    """Feature vectors (N, D), or embeddings (N, P) of the projection head, scaled to unit norm.

    Unit norm, because the contrastive losses compare by cosine; Euclidean distance then ranks neighbours alike.

    Args:
        model: evaluated in eval mode where its parameters are.
        images: (N, C, H, W) in [0, 1].
    """
    if layer not in ("features", "projection"):
        raise ValueError(f"layer={layer!r}: allowed are 'features', 'projection'")
    if not images.is_floating_point():
        raise ValueError(f"images have dtype {images.dtype}: allowed is floating point in [0, 1]; divide uint8 by 255")
    device = next(model.parameters()).device
    parts = []
    with frozen(model, "eval"):
        for batch in images.split(batch_size):
            features = model.encode(batch.to(device))
            vectors = model.project(features) if layer == "projection" else features
            parts.append(torch.nn.functional.normalize(vectors.float(), dim=1).cpu())
    return torch.cat(parts).numpy()


def project_2d(vectors: np.ndarray, *, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """t-SNE map (N, 2) of vectors (N, D), by scikit-learn.

    t-SNE has no map for new points: what is to be compared (clean and adversarial, say) must be fitted together.
    Distances between far clusters and the sizes of clusters carry no meaning (Wattenberg et al., Distill 2016).
    """
    if not 0 < perplexity < len(vectors):
        raise ValueError(f"perplexity={perplexity}: allowed is above 0 and below the number of points, {len(vectors)}")
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)


def knn_accuracy(
    vectors: np.ndarray, labels: np.ndarray, query: np.ndarray, query_labels: np.ndarray, *, neighbours: int = 10
) -> float:
    """Share of the queries (Q, D) whose class is that of most of their nearest `neighbours` among vectors (N, D)."""
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
    """
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
        result["trustworthiness"] = float(trustworthiness(vectors, map_2d, n_neighbors=neighbours))
    return result
