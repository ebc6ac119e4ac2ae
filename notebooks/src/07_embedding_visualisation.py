# %% [markdown]
# # 07 · Embedding visualisation
#
# **Claim: PGD carries more than half of the features of a standard network into the region of another class, and
# fewer than a quarter of those of an adversarially trained one.** The last cells confirm or refute this with the
# numbers of this very run.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/anchor-course/blob/main/notebooks/07_embedding_visualisation.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/OWNER/anchor-course#the-notebooks)
#
# **You will learn** how to measure what an attack does to features, what t-SNE optimises, which parts of a t-SNE map
# one may believe, which controls show the difference, and how the features of a robust network form during training.
#
# **You need** notebook 01 (PGD). Notebooks 02 and 05 explain how the robust networks were trained.
#
# **Time** the first cell measures how fast this machine is and says how long the notebook takes here, a short training for
# the animation included; networks that no earlier notebook has trained come on top. `smoke`: seconds, networks that have learned
# nothing, for tests only. `t4` and `paper`: CIFAR-10 on a GPU; the maps take minutes on the CPU beside it.
#
# **Real CIFAR-10 without training**: with `models = "pretrained"` this notebook takes the small CIFAR-10 networks that
# come with the course, and their settings, instead of those of the preset. The images are downloaded;
# `overrides = {"dataset": "imagefolder:PATH"}` takes others. Section 5 then also has two networks of full width, which take
# a CPU some minutes more; the animation, which needs a training run, is left out.

# %% tags=["setup"]
# @title Install the course, where it is missing
# Only where the package is missing, on Colab for example. torch and numpy stay the ones that are there.
import importlib.util

if importlib.util.find_spec("anchor_utils") is None:
    get_ipython().run_line_magic("pip", "install -q git+https://github.com/OWNER/anchor-course")  # noqa: F821

# %% tags=["parameters"]
preset = "cpu"  # @param ["smoke", "cpu", "t4", "minutes", "paper"]
overrides = {}  # @param {type:"raw"}
seed = 0  # @param {type:"integer"}
runs_dir = "runs"  # @param {type:"string"}
data_root = "data"  # @param {type:"string"}
models = "train"  # @param ["train", "pretrained"]

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from torch import nn

from anchor_utils import attacks, data, embeddings, evaluation, plotting, results, training
from anchor_utils.models import fold_batchnorm, pretrained
from course import lesson
from course.figures import lesson_07 as figures

if models == "pretrained":  # networks of the CIFAR-10 study that come with the course, and their settings
    preset = "cifar10_cpu"
config, dataset, device = lesson.start("07", preset, overrides, seed, runs_dir, data_root, models)

# %% [markdown]
# ## 1 Features of the same images in four views
#
# A network is an encoder followed by a linear classifier. The encoder's output for an image $x$, scaled to length 1, is
# the *feature* $h(x)$: a point on a sphere. Only the direction is left. The classifier sees the length too, so what we
# measure here is close to what it decides, but not the same.
#
# We take three networks: one from standard training, one from PGD adversarial training (PGD-AT), and **ANCHOR**. ANCHOR
# here is a **reconstruction** from the abstract of [2510.27599](https://arxiv.org/abs/2510.27599), not the authors' code.
# Finished runs with the same configuration are reused.
#
# Each test image appears in four views:
#
# - *clean*;
# - *augmented*: as in training: a random crop and, for photographs, a random flip;
# - *noise*: every pixel moved by a random amount, uniform between $-\varepsilon$ and $\varepsilon$, the attack's epsilon;
# - *adversarial*: made by PGD against the network at hand.

# %%
METHODS = ["standard", "pgd_at", "anchor"]
VIEWS = ["clean", "augmented", "noise", "adversarial"]
if models == "pretrained":
    unfolded = {method: pretrained(method) for method in METHODS}
else:
    unfolded = {method: training.fit(config.replace(method=method), dataset=dataset).model() for method in METHODS}
# Folding BatchNorm into the convolutions gives the same function of the image, and a faster one.
networks = {method: fold_batchnorm(model).to(device) for method, model in unfolded.items()}
test = dataset.test[: config.embedding_images]
x, y = test.inputs().to(device), test.labels.to(device)
labels = test.labels.numpy()
n = len(labels)


def rng():
    return torch.Generator().manual_seed(config.seed)


def in_batches(function, size=250):
    return torch.cat([function(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)])


shared = {
    "clean": x,
    "augmented": data.augment(test.images, padding=config.crop_padding, flip=config.flip, generator=rng()).to(device)
    / 255,
    "noise": attacks.random_point(x, config.epsilon, generator=rng()),
}
views, features, accuracy = {}, {}, {}
for method, model in networks.items():
    generator = rng()
    adversarial = in_batches(lambda a, b: attacks.pgd(model, a, b, **config.evaluation(), generator=generator))  # noqa: B023
    views[method] = {**shared, "adversarial": adversarial}
    features[method] = {view: embeddings.extract(model, images) for view, images in views[method].items()}
    accuracy[method] = {view: evaluation.clean_outcomes(model, images, y) for view, images in views[method].items()}


def with_interval(share, images):
    if not images:
        return "no image"
    low, high = results.wilson(round(share * images), images)
    return f"{share:.1%} [{low:.1%}, {high:.1%}]"


display(
    pd.DataFrame(
        {view: [with_interval(accuracy[m][view].float().mean().item(), n) for m in METHODS] for view in VIEWS},
        index=[plotting.method_name(method) for method in METHODS],
    )
)
attack_text = (
    f"PGD on cross-entropy at the true label, epsilon = {config.epsilon:g}, {config.eval_steps} steps of "
    f"{config.eval_step_size:g}, one random start, final iterate, seed {config.seed}, {n} test images"
)
lesson.say(f"Accuracy of the classifier with a 95% Wilson interval. Noise is uniform. Adversarial: {attack_text}.")
names = [f"{k} {name}" for k, name in enumerate(dataset.classes[:10]) if str(k) != name]
if names:
    lesson.say(f"On the maps below a class is a number: {', '.join(names)}.")

# %% [markdown]
# ## 2 How far do features move?
#
# A distance in feature space has no unit of its own: one network may spread its features wide, another may not. So we
# divide by a length that matters to the task, the mean distance between the centres $\mu_k$ of the $K$ classes:
#
# $$r_i = \frac{\|h(x_i') - h(x_i)\|}{D}, \qquad
# D = \frac{2}{K(K-1)} \sum_{k < l} \|\mu_k - \mu_l\|, \qquad \mu_k = \text{mean of } h(x_i) \text{ with } y_i = k \tag{1}$$
#
# Here $x_i$ is a clean image, $x_i'$ another view of it, and $r_i$ the *displacement*: $r = 1$ means as far as from one
# class to another. A feature has *crossed* when the nearest centre was that of its own class before, and is another one
# after. The share that crossed is counted among the features that were nearest to their own centre before.
#
# PGD attacks the label, not the feature. A network might keep its label and still be shaken inside. So we add a second
# attack that knows nothing of labels and pushes the feature itself as far as it can, with the same epsilon and steps
# ($\delta$ is the perturbation, $\varepsilon$ its largest size in any pixel):
#
# $$\max_{\|\delta\|_\infty \le \varepsilon} \|h(x + \delta) - h(x)\|^2 \tag{2}$$
#
# > **Predict, then see.** For a standard and for a robust network: what is the median $r$ under PGD? And under noise of the
# > same size? Write down four numbers.


# %%
class Feature(nn.Module):
    """The encoder as the attacked network: unit features instead of logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return nn.functional.normalize(self.model.encode(images), dim=1)


def feature_attack(model, images, labels):
    encoder = Feature(model).eval()
    with torch.no_grad():
        start = encoder(images)
    return attacks.pgd(
        encoder,
        images,
        labels,
        **config.evaluation(),
        loss=lambda moved, _: (moved - start).square().sum(1),  # eq. 2
        generator=rng(),  # of the random start, needed here: at delta = 0 the gradient of eq. 2 is zero
    )


def centres(vectors):
    return np.stack([vectors[labels == k].mean(0) for k in np.unique(labels)])


def nearest_centre(vectors, mu):
    return np.unique(labels)[((vectors[:, None] - mu) ** 2).sum(2).argmin(1)]


pushed = slice(0, 100)
moves = [*VIEWS[1:], "feature attack"]
displacement, stayed = {}, {}
for method, model in networks.items():
    clean = features[method]["clean"]
    mu = centres(clean)
    unit = pdist(mu).mean()  # D of eq. 1
    after = {view: features[method][view] for view in VIEWS[1:]}
    after["feature attack"] = embeddings.extract(model, feature_attack(model, x[pushed], y[pushed]))
    at_home = nearest_centre(clean, mu) == labels
    for view, moved in after.items():
        m = len(moved)
        displacement[method, view] = np.linalg.norm(moved - clean[:m], axis=1) / unit  # eq. 1
        stayed[method, view] = (nearest_centre(moved, mu) == labels[:m])[at_home[:m]]
crossed = {key: 1 - float(bits.mean()) if len(bits) else 0.0 for key, bits in stayed.items()}

# %%
with_ends = {
    key: (crossed[key], *results.wilson(int((~bits).sum()), len(bits))) for key, bits in stayed.items() if len(bits)
}
plotting.show(
    figures.displacements(displacement, with_ends),
    "Left: displacement of features for augmentation, noise, PGD and the feature attack, for three networks. "
    "Right: the share of features that end nearest to the centre of another class.",
    svg=True,
)


def median_move(view):
    return ", ".join(f"{plotting.method_name(m)} {np.median(displacement[m, view]):.2f}" for m in METHODS)


lesson.say(
    f"**The answer.** Median displacement under PGD: {median_move('adversarial')}. Under noise: "
    f"{median_move('noise')}. {n} test images, {len(x[pushed])} for the feature attack."
)

# %% [markdown]
# **Reading the figure.** Left: the marker is the median image, the thick bar holds the middle half of the images, the thin
# line nine in ten. Right: the share that crossed, with a 95% interval. Compare networks *within* a group.
#
# - *Augmented* is the scale of changes that training asks every network to ignore.
# - *PGD*: does a network's bar reach the dashed line? There, features end as far away as another class lies.
# - *Attack on the feature* is the fairer test of "the geometry is stable", because it attacks the geometry. If the
#   robust networks moved as far there as the standard one, their geometry would not be stable at all, and only the
#   label would be defended.
#
# To move far is not to cross: the feature attack does not care in which direction it pushes. So look at both panels.

# %% [markdown]
# ### Exercise 1 · Displacement without a subtraction
#
# Papers report either distances or cosines of features. On the unit sphere they are the same thing. Write eq. 1 in terms
# of the cosine $c_i = h(x_i') \cdot h(x_i)$, given as an array `(N,)`, and the class centres `mu` `(K, F)`. Return two
# things: `r` `(N,)`, and the largest `r` that *any* move on the sphere can have. Rounding may put a cosine a hair above 1.


# %% tags=["exercise"]
def displacement_from_cosine(cosine, mu):
    """r of eq. 1 (N,) for unit features with this cosine, and the largest r possible with these centres."""
    # BEGIN SOLUTION
    unit = pdist(mu).mean()
    return np.sqrt(np.maximum(2 - 2 * cosine, 0)) / unit, 2 / unit
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 1
@lesson.check("Exercise 1")
def _():
    generator = np.random.default_rng(0)
    before, after = (nn.functional.normalize(torch.tensor(generator.normal(size=(50, 8)))).numpy() for _ in range(2))
    mu = 0.3 * generator.normal(size=(4, 8))
    unit = np.mean([np.linalg.norm(mu[j] - mu[k]) for j in range(4) for k in range(j)])
    r, largest = displacement_from_cosine((before * after).sum(1), mu)
    direct = np.linalg.norm(after - before, axis=1)
    assert np.shape(r) == (50,), f"r has the shape {np.shape(r)}, expected is (50,)."
    assert not np.allclose(r, direct), "These are distances. Divide by D, the mean distance between class centres."
    assert not np.allclose(r, direct**2 / unit), "That is the squared distance over D: a root is missing."
    assert np.allclose(r, direct / unit), "r differs from eq. 1, computed from the features themselves."
    assert np.allclose(displacement_from_cosine(np.array([1 + 1e-7, -1.0]), mu)[0], [0, 2 / unit], atol=1e-3), (
        "Try the cosines 1 + 1e-7 (rounding: no move) and -1 (the opposite point)."
    )
    assert np.isclose(largest, 2 / unit), "No two points of the unit sphere are farther apart than opposite ones."


# %% [markdown] tags=["solution"]
# $\|h' - h\|^2 = \|h'\|^2 + \|h\|^2 - 2\, h' \cdot h = 2 - 2c$. So ranking neighbours by distance or by cosine is the same,
# and $r$ can never exceed $2/D$. Our features cannot even get there: they are means of ReLU outputs, none of their
# coordinates is negative, so $c \ge 0$ and $r \le \sqrt2/D$. Networks whose $D$ differ have different ceilings: keep that in
# mind when you compare their $r$.

# %% [markdown]
# ## 3 Do the classes stay apart?
#
# Two numbers need no map.
#
# **kNN accuracy**: the features of *clean training images* are the reference, and each test feature takes the majority
# class of its 10 nearest ones.
#
# **Silhouette**: let $a_i$ be the mean distance from point $i$ to the other points of its own class, and $b_i$ the smallest
# mean distance to the points of another class. Over $N$ points,
#
# $$s = \frac1N \sum_i \frac{b_i - a_i}{\max(a_i, b_i)} \in [-1, 1] \tag{3}$$
#
# Near 1: tight, separated classes. Near 0: classes lie within each other. Below 0: points lie closer to another class than
# to their own.


# %%
def my_silhouette(vectors, labels):
    distance = squareform(pdist(vectors))
    classes, total = np.unique(labels), 0.0
    for i in range(len(labels)):
        to_class = {k: distance[i, labels == k].sum() for k in classes}
        own = (labels == labels[i]).sum()
        if own == 1:
            continue  # a point without company counts 0
        a = to_class[labels[i]] / (own - 1)
        b = min(to_class[k] / (labels == k).sum() for k in classes if k != labels[i])
        total += (b - a) / max(a, b)  # eq. 3
    return total / len(labels)


ours = my_silhouette(features["anchor"]["clean"][:60].astype(float), labels[:60])
package = embeddings.neighbourhood_metrics(features["anchor"]["clean"][:60].astype(float), labels[:60])["silhouette"]
assert abs(ours - package) < 1e-3
print(f"our silhouette {ours:.4f}, the package's {package:.4f}")

# %%
reference = dataset.train[:5000]
knn, silhouette = {}, {}
for method, model in networks.items():
    vectors = embeddings.extract(model, reference.inputs())
    knn[method] = [
        embeddings.knn_accuracy(vectors, reference.labels.numpy(), features[method][view], labels) for view in VIEWS
    ]
    silhouette[method] = [
        embeddings.neighbourhood_metrics(features[method][view], labels)["silhouette"] for view in VIEWS
    ]

bands = {m: tuple(zip(*(results.wilson(round(k * n), n) for k in knn[m]), strict=True)) for m in METHODS}
chance = np.bincount(reference.labels.numpy()).max() / len(reference)
plotting.show(
    figures.class_separation(VIEWS, knn, bands, silhouette, chance=chance, images=n),
    "kNN accuracy and silhouette of three networks for clean, augmented, noisy and adversarial features.",
    svg=True,
)
lesson.say(
    f"10 neighbours among the clean features of {len(reference)} training images. Adversarial: {attack_text}. "
    "Bands are 95% Wilson intervals."
)

# %% [markdown]
# **Reading the figure.** The lines only help the eye along. Begin with the clean images: how close are the networks there?
# Then look where they part, and how far apart they are at the last point.
#
# - A kNN accuracy far *below* the dashed line means: adversarial features do not scatter at random, their nearest neighbours
#   are of *wrong* classes. How near those are, it does not say.
# - The silhouette asks the same without a reference. A high silhouette with a low kNN accuracy would mean that the attack
#   moves whole classes as blocks. If both stayed high, the attack would only deceive the classifier on top.
#
# ## 4 What t-SNE does
#
# A feature has dozens of coordinates or more; a map has two. t-SNE (van der Maaten & Hinton, 2008) gives up on distances
# and keeps **who is near whom**. Around each point $i$ a Gaussian turns distances into probabilities. Its width $\sigma_i$
# is chosen so that the point has about as many effective neighbours as the **perplexity** says:
#
# $$p_{j|i} = \frac{\exp(-\|h_i - h_j\|^2 / 2\sigma_i^2)}{\sum_{k \ne i} \exp(-\|h_i - h_k\|^2 / 2\sigma_i^2)}, \qquad
# 2^{-\sum_j p_{j|i} \log_2 p_{j|i}} = \text{perplexity} \tag{4}$$
#
# On the map, a curve with heavier tails turns the distances of the points $u_i$ into probabilities $q_{ij}$. Gradient
# descent moves the points until the two sets of probabilities agree as well as they can, in the Kullback-Leibler sense:
#
# $$q_{ij} = \frac{(1 + \|u_i - u_j\|^2)^{-1}}{\sum_{k \ne l} (1 + \|u_k - u_l\|^2)^{-1}}, \qquad
# \min_u \sum_{i \ne j} p_{ij} \log \frac{p_{ij}}{q_{ij}}, \qquad p_{ij} = \frac{p_{j|i} + p_{i|j}}{2N} \tag{5}$$
#
# Both equations in a few lines, against scikit-learn's own value for a map that it fitted:


# %%
def neighbour_weights(vectors, i, perplexity):
    d = ((vectors - vectors[i]) ** 2).sum(1).astype(float)
    d[i] = np.inf  # a point is no neighbour of itself
    low, high = 1e-6, 1e8  # bisection on 1 / (2 sigma^2)
    for _ in range(60):
        precision = np.sqrt(low * high)
        p = np.exp(-precision * (d - d.min()))
        p /= p.sum()  # eq. 4, left
        reached = 2 ** -(p * np.log2(np.maximum(p, 1e-300))).sum()  # eq. 4, right
        low, high = (precision, high) if reached > perplexity else (low, precision)
    return p


def joint_p(vectors, perplexity):
    p = np.stack([neighbour_weights(vectors, i, perplexity) for i in range(len(vectors))])
    return (p + p.T) / (2 * len(p))  # eq. 5, right


def divergence(p, points):
    closeness = 1 / (1 + squareform(pdist(points, "sqeuclidean")))
    np.fill_diagonal(closeness, 0)
    q = closeness / closeness.sum()  # eq. 5, left
    near = p > 1e-300
    return (p[near] * np.log(p[near] / q[near])).sum()  # eq. 5, middle


small = features["anchor"]["clean"][:120].astype(float)
few = min(15, len(small) // 5)
fit = TSNE(2, perplexity=few, init="pca", method="exact", random_state=config.seed).fit(small)
p_small = joint_p(small, few)
kl_ours, kl_random = divergence(p_small, fit.embedding_), divergence(p_small, fit.embedding_[::-1])
assert abs(kl_ours - fit.kl_divergence_) < 0.02 * max(1, kl_ours)
print(f"divergence of the map: ours {kl_ours:.4f}, scikit-learn's {fit.kl_divergence_:.4f}")
print(f"the same map with its points handed to the wrong features: {kl_random:.4f}")

# %%
clean = features["anchor"]["clean"]
weights = {
    perplexity: np.sort(neighbour_weights(clean, 0, perplexity))[::-1][:-1]  # without the point itself, the last
    for perplexity in ([5, 30, 50] if n < 120 else [5, 30, 100])
}
pairs = squareform(p_small, checks=False)  # each pair once, as pdist has them
plotting.show(
    figures.weights_and_distances(weights, pairs, pdist(small), pdist(fit.embedding_)),
    "Left: weights of the neighbours of one image by rank, for three perplexities. Right: distance on the map against "
    "distance in feature space for all pairs; pairs that carry weight are few and near.",
    colors=256,
)

# %% [markdown]
# **Reading the figure.** Left: one test image, its neighbours ordered from near to far. With a small perplexity a handful of
# neighbours carries all the weight; with a large one the weight reaches far. Every curve falls off in the end, as a
# Gaussian does; a *step* in the curve of the largest perplexity is where the image runs out of neighbours of its own
# cluster. So perplexity answers "how many neighbours shall the map respect?", and there is no true
# value. If the curves lay on each other, the choice would not matter.
#
# Right: each dot is a pair. Few pairs, the orange ones, carry most of the weight in the sum of eq. 5, and t-SNE works to keep
# them short. The many grey ones have little weight each. They are merely kept from coming close, where they would take a share
# of $q$ away from the orange ones; how far off they end hardly matters. Look at the grey cloud: if map distances were to be
# believed, it would be a thin rising line. Hence two rules:
#
# - far pairs have $p_{ij} \approx 0$ whether they are far or very far: **gaps between clusters mean next to nothing**;
# - each point brings its *own* ruler $\sigma_i$, so dense and loose clusters come out alike: **size says nothing about
#   spread**.
#
# ## 5 The maps
#
# t-SNE has no rule for placing new points. Fitting clean and adversarial features *separately* would give two maps without
# common coordinates. So each network gets **one joint fit** of its clean, augmented and adversarial features, and we look at
# one part after another. Maps of *different* networks share nothing: compare what happens inside each.
#
# A map also needs a number that says how far to trust it. **Trustworthiness** punishes false neighbours: points $j$ among
# the $k$ nearest of point $i$ on the map, the set $M_k(i)$, whose rank $\rho(i, j)$ among $i$'s neighbours in *feature*
# space (1 is the nearest) is beyond $k$:
#
# $$T(k) = 1 - \frac{2}{N k\, (2N - 3k - 1)} \sum_{i=1}^{N} \; \sum_{j \in M_k(i)} \max\{0,\, \rho(i, j) - k\} \tag{6}$$
#
# > **Predict, then see.** In which of the three maps will the arrows from clean to adversarial points be long? Long arrows
# > on a map can lie. Which number would you check before you believe them?

# %%
joint_views = ["clean", "augmented", "adversarial"]
maps, trust, on_map, knn_map = {}, {}, {}, {}
for method in METHODS:
    together = np.concatenate([features[method][view] for view in joint_views])
    fitted = embeddings.project_2d(together, perplexity=30, seed=config.seed)
    maps[method] = dict(zip(joint_views, np.split(fitted, len(joint_views)), strict=True))
    trust[method] = float(trustworthiness(together, fitted, n_neighbors=10))  # eq. 6
    clean, _, adversarial = maps[method].values()
    # The length of an arrow, like eq. 1 in units of the mean distance between classes, but on the map.
    on_map[method] = np.linalg.norm(adversarial - clean, axis=1) / pdist(centres(clean)).mean()
    # The references include the clean version of the very image that is asked about, which can flatter this number.
    knn_map[method] = embeddings.knn_accuracy(clean, labels, adversarial, labels)

wrong = {method: ~accuracy[method]["adversarial"].cpu().numpy() for method in METHODS}
notes = {
    method: f"adversarial kNN {knn[method][-1]:.0%}, silhouette {silhouette[method][-1]:.2f}\n"
    f"displacement {np.median(displacement[method, 'adversarial']):.2f}, on the map {np.median(on_map[method]):.2f}\n"
    f"trustworthiness {trust[method]:.2f}"
    for method in METHODS
}
plotting.show(
    figures.joint_maps(maps, labels, wrong, notes, arrows=40),
    "Two rows of t-SNE maps for three networks, each point drawn as the number of its class. Top: clean features, with "
    "arrows to the adversarial features of 40 images, black where misclassified. Bottom: the adversarial features in "
    "the same map, with circled class numbers where the clean points are.",
    colors=256,
)
longest = plotting.method_name(max(METHODS, key=lambda m: np.median(on_map[m])))
farthest = plotting.method_name(max(METHODS, key=lambda m: np.median(displacement[m, "adversarial"])))
lesson.say(
    f"**The answer.** The longest arrows are those of {longest}. The number to check is the displacement $r$, which "
    f"was measured before t-SNE: it is largest for {farthest}. "
    f"Map and measurement {'agree' if longest == farthest else 'disagree'} about it."
)
lesson.say(
    f"One joint fit a network: {len(joint_views)} x {n} features, perplexity 30, seed {config.seed}. Adversarial: "
    f"{attack_text}. Displacement: median image. Trustworthiness: eq. 6 with k = 10."
)

# %% [markdown]
# **Reading the figure.** Each point is drawn as the number of its *true* class. Top: clean points, augmented ones as faint
# dots, and arrows to the adversarial versions of the first images; black arrows end in a misclassification. Bottom: all
# adversarial points in the same map; the circles mark where the clean points of each class are.
#
# In a bottom panel ask: do the numbers around a circle agree with the circle? For a network that resists, yes, up to a few
# strays. For one that does not, a circle stands among foreign numbers or alone. Adversarial points may also form islands of
# their own, where no clean class lies: to be nearest to a wrong class is not to be inside it.
#
# Then check the picture against the numbers below it: the displacement $r$ in feature space, and the length of the arrows on
# the map, both medians in units of the distance between classes. Long arrows with a small $r$ would mean that the map has torn
# neighbours apart. The opposite is common: t-SNE pulls near points together, so small moves look smaller than they are.
#
# ### The same at full width
#
# The networks that come with the course for `models = "pretrained"` are small, and so is what they know of CIFAR-10. Two of
# them, PGD-AT and ANCHOR, are there at full width too, trained on far more images and for longer; their cards in
# `data/pretrained` say how. Here both widths see the same images under the same attack. Everything else in this notebook is
# about the small ones.

# %%
widths, n_moved = {}, min(n, 300 if device.type == "cuda" else 60)
if models == "pretrained":
    try:
        widths = {(m, 16): networks[m] for m in ("pgd_at", "anchor")}
        widths |= {(m, 64): fold_batchnorm(pretrained(m, width=64)).to(device) for m, _ in list(widths)}
    except FileNotFoundError as error:  # an installed package leaves so large a file out
        print(error)
        widths = {}
rows, panels = [], {}
for (method, width), model in sorted(widths.items(), key=lambda item: item[0][1]):
    attacked = attacks.pgd(model, x[:n_moved], y[:n_moved], **config.evaluation(), generator=rng())
    right, held = (evaluation.clean_outcomes(model, i, y[: len(i)]).cpu().numpy() for i in (x, attacked))
    clean, moved = embeddings.extract(model, x), embeddings.extract(model, attacked)
    mu = centres(clean)
    home = (nearest_centre(clean, mu) == labels)[:n_moved]
    gone = (nearest_centre(moved, mu) != labels[:n_moved])[home]
    far = np.linalg.norm(moved - clean[:n_moved], axis=1) / pdist(mu).mean()  # eq. 1
    silhouette_clean = embeddings.neighbourhood_metrics(clean, labels)["silhouette"]
    rows.append(
        {
            "network": f"{plotting.method_name(method)}, width {width}",
            f"clean accuracy, {n} images": with_interval(right.mean(), n),
            f"under PGD, {n_moved} images": with_interval(held.mean(), n_moved),
            "silhouette, clean": f"{silhouette_clean:.2f}",
            "displacement r, median": f"{np.median(far):.2f}",
            "crossed": with_interval(gone.mean() if len(gone) else 0.0, len(gone)),
        }
    )
    fitted = embeddings.project_2d(np.concatenate([clean, moved]), perplexity=30, seed=config.seed)
    note = f"clean accuracy {right.mean():.0%}, silhouette {silhouette_clean:.2f}, displacement {np.median(far):.2f}"
    panels[rows[-1]["network"]] = (fitted[:n], fitted[n:], ~held, note)

# %%
if panels:
    plotting.show(
        figures.maps_with_moves(panels, labels),
        "Four t-SNE maps of the same images: PGD-AT and ANCHOR, above at width 16, below at width 64. Each point is the number of its "
        "class; arrows lead to adversarial features, black where misclassified.",
        colors=256,
    )
    display(pd.DataFrame(rows).set_index("network"))
    lesson.say(
        f"{attack_text.rpartition(',')[0]}; of its images the first {n_moved}. Brackets: 95% Wilson intervals. Crossed: share of the features nearest to "
        "the centre of their own class that PGD brings nearest to another one. One joint fit a network of clean and adversarial features, perplexity 30."
    )
else:
    lesson.say('Nothing is computed here: with `models = "pretrained"` it is, in a clone of the repository.')

# %% [markdown]
# **Reading the figure.** Only if there is one. Go down a column: same method, same images, another network. Are the crowded
# middle and the mixed numbers of the small network still there at full width? Classes that stay entangled even then, such as
# animals with four legs, are hard for a reason that no width removes. Then the arrows: a network that knows more can still be
# pushed, so compare the displacement and the share that crossed, not only the beauty of the map. The two differ in much more
# than width (images, epochs, attack), so this does not say *what* made the difference.

# %% [markdown]
# ### Exercise 2 · Trustworthiness from its definition
#
# Implement eq. 6 for `vectors` `(N, F)` and a map `points` `(N, 2)`. Hint: `argsort` twice turns distances into ranks; put
# infinity on the diagonal so that no point is its own neighbour. Think about which of the two spaces supplies the
# neighbours and which one the ranks: the other way round is a different measure, *continuity*, which punishes true
# neighbours that were torn apart.


# %% tags=["exercise"]
def my_trustworthiness(vectors, points, k):
    """Eq. 6: near 1 if neighbours on the map are neighbours in feature space too."""
    # BEGIN SOLUTION
    size = len(vectors)
    in_features, in_map = squareform(pdist(vectors)), squareform(pdist(points))
    np.fill_diagonal(in_features, np.inf)
    np.fill_diagonal(in_map, np.inf)
    rank = in_features.argsort(1).argsort(1) + 1
    nearest_on_map = in_map.argsort(1)[:, :k]
    excess = np.maximum(np.take_along_axis(rank, nearest_on_map, axis=1) - k, 0)
    return 1 - 2 * excess.sum() / (size * k * (2 * size - 3 * k - 1))  # eq. 6
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 2
@lesson.check("Exercise 2")
def _():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(50, 6))
    points = vectors[:, :2] + 0.3 * generator.normal(size=(50, 2))
    assert np.isclose(my_trustworthiness(points, points, 5), 1), "A map that keeps all distances has the value 1."
    for k in (3, 10):
        ours, right = my_trustworthiness(vectors, points, k), trustworthiness(vectors, points, n_neighbors=k)
        other = trustworthiness(points, vectors, n_neighbors=k)
        assert not np.isclose(ours, other), "This is continuity: take neighbours from the map, ranks from the features."
        assert np.isclose(ours, right), f"k = {k}: yours is {ours:.4f}, scikit-learn's {right:.4f}."


# %% [markdown] tags=["solution"]
# The sum is largest for a map that brings the farthest points together; the factor in front scales that worst case to 0. A
# random map has a value near one half, so 0.6 is not "60% right". And a map can be perfectly trustworthy and still tear
# classes apart: that is what continuity would notice.

# %% [markdown]
# ## 6 Same features, other map
#
# A single map is one outcome of a random search with one perplexity. Here are six for the same features of the same
# network. The package starts t-SNE from the principal components. That makes maps repeatable and keeps some of the coarse
# layout (Kobak & Berens, 2019), but it hides how much the fit itself leaves open. So in this experiment the start is random.

# %%
subset = slice(0, 200)
vectors = np.concatenate([features["anchor"][view][subset] for view in ("clean", "adversarial")])
twice = np.tile(labels[subset], 2)
perplexities = [5, 30, 100 if len(twice) > 300 else 50]
several = {
    (s, p): TSNE(2, perplexity=p, init="random", random_state=config.seed + s).fit_transform(vectors)
    for s in (0, 1)
    for p in perplexities
}
quality = {key: trustworthiness(vectors, points, n_neighbors=10) for key, points in several.items()}
plotting.show(
    figures.starts_and_perplexities(several, twice, quality),
    "Six t-SNE maps of the same ANCHOR features: two random starts by three perplexities, to compare which classes "
    "stay together and which change their places.",
    colors=256,
)


# %%
def shared_neighbours(a, b, k=10):
    near = [NearestNeighbors(n_neighbors=k).fit(m).kneighbors(return_distance=False) for m in (a, b)]
    return np.mean([len(set(i) & set(j)) / k for i, j in zip(*near, strict=True)])


def centre_distances(points):
    return pdist(np.stack([np.median(points[twice == k], axis=0) for k in np.unique(twice)]))


def rank_correlation(a, b):
    return spearmanr(centre_distances(a), centre_distances(b)).statistic


rows = []
for p in perplexities:
    one, two = several[0, p], several[1, p]
    rows.append(
        {
            "perplexity": p,
            "neighbours: both starts": f"{shared_neighbours(one, two):.0%}",
            "neighbours: map and features": f"{shared_neighbours(one, vectors):.0%}",
            "class distances: both starts": f"{rank_correlation(one, two):.2f}",
            "class distances: map and features": f"{rank_correlation(one, vectors):.2f}",
        }
    )
display(pd.DataFrame(rows).set_index("perplexity"))
lesson.say(
    f"Neighbours: share of the 10 nearest points in common; chance would give {10 / (len(twice) - 1):.0%}. Class "
    f"distances: rank correlation of the distances between class medians. {len(twice)} features."
)

# %% [markdown]
# **Reading the figure.** Compare the two rows of a column, then the three columns. Turning or mirroring a map changes
# nothing, so ignore that. What stays: which points belong together. What changes: which class lies next to which, how large
# its patch is, and with a small perplexity even into how many pieces it falls.
#
# The table says it in numbers. Shared neighbours are the stable part. The class distances are compared between the two
# starts (how much is accident?) and with the features (how much is distortion?). Only where both are near 1 may one read
# from the map which classes are far apart, and then only because it has been measured. If they were near 1 in every row,
# all warnings about distances in t-SNE would be idle.
#
# ### Why one joint fit
#
# An arrow between two *separate* fits measures nothing, and there is a clean way to show it: draw the arrows between two
# fits of the **same** features, starts 1 and 2 of above. Every true displacement is zero. Before drawing, we even turn,
# mirror, shift and scale one map so that it lies on the other as well as it can (a Procrustes fit).

# %%
p, half = perplexities[1], len(twice) // 2
one, two, mismatch = procrustes(several[0, p], several[1, p])
panels = {
    "one joint fit: clean to adversarial": (several[0, p][:half], several[0, p][half:]),
    "two fits of the same clean features": (one[:half], two[:half]),
}
lengths = {
    title: np.linalg.norm(end - start, axis=1) / centre_distances(np.concatenate([start, start])).mean()
    for title, (start, end) in panels.items()
}
plotting.show(
    figures.arrows_in_fits(panels, twice[:half], lengths, arrows=60),
    "Left: arrows from clean to adversarial ANCHOR features in one joint t-SNE fit. Right: arrows between two separate "
    "fits of identical features, laid over each other as well as possible.",
    colors=256,
)
refit = float(np.median(lengths["two fits of the same clean features"]))
lesson.say(
    f"The features on the right have not moved at all: their true displacement is 0, the map says {refit:.2f}. What is "
    f"left of the squared distances after the best turn, mirroring, shift and scale: {mismatch:.0%} of the total."
)

# %% [markdown]
# **Reading the figure.** Both panels: perplexity as in the middle column above, first 60 arrows. On the right each arrow
# joins a clean feature to itself and is an artefact of the search. (Started from principal components, the *same* features
# would give the same map twice; clean and adversarial features are not the same, so each fit would still have a start of
# its own.) If the right panel had no visible arrows, two separate fits could be compared after all, and the joint fit would
# be needless care.
#
# ## 7 Two controls
#
# People see clusters everywhere. So we ask what the same tools show where there is nothing to see.
#
# First, the same map with **shuffled labels**: if the numbers stayed high, they would not measure classes. Second, t-SNE of
# **pure noise**: Gaussian vectors of the same number and dimension, at a very small perplexity.
#
# > **Predict, then see.** With shuffled labels, will the silhouette be slightly below zero, zero, or slightly above? And
# > will the map of pure noise look like one even cloud?

# %%
generator = np.random.default_rng(config.seed)
clean = features["anchor"]["clean"][:300]
true = labels[:300]
shuffled = [generator.permutation(true) for _ in range(20)]
scores = [embeddings.neighbourhood_metrics(clean, s) for s in shuffled]
real = embeddings.neighbourhood_metrics(clean, true)
nothing = generator.standard_normal(clean.shape)
noise_map = embeddings.project_2d(nothing, perplexity=2, seed=config.seed)
labelled = {
    f"{title}\nkNN {score['knn_accuracy']:.0%}, silhouette {score['silhouette']:.2f}": these
    for title, these, score in (("true labels", true, real), ("shuffled labels", shuffled[0], scores[0]))
}
plotting.show(
    figures.controls(maps["anchor"]["clean"][:300], labelled, noise_map),
    "Left: the ANCHOR map with true labels. Middle: the same points with shuffled labels, numbers mixed. Right: t-SNE "
    "of pure noise, with small clumps that mean nothing.",
    colors=256,
)
mean_knn = np.mean([s["knn_accuracy"] for s in scores])
silhouettes = [s["silhouette"] for s in scores]
side = "below" if np.mean(silhouettes) < 0 else "not below"
lesson.say(
    f"Leave-one-out kNN and silhouette in feature space, {len(true)} clean test images. Over {len(scores)} shuffles: "
    f"kNN {mean_knn:.1%} on average ({1 / len(dataset.classes):.0%} is chance), silhouette between "
    f"{min(silhouettes):.3f} and {max(silhouettes):.3f}. **The answer: {side} zero on average.** $b_i$ of eq. 3 is a "
    "*minimum* over the other classes, which chance alone makes smaller than $a_i$."
)
assert abs(mean_knn - 1 / len(dataset.classes)) < 0.1  # shuffled labels are guessing

# %% [markdown]
# **Reading the figure.** Left and middle are the *same* points. In the middle the patches are still there, but the numbers
# are mixed: patches are no evidence for classes, and only the values above the panels measure them. If the shuffled values
# stayed above chance, labels would be leaking into the measurement.
#
# Right: nothing but noise, and yet clumps and strings, not one even cloud. A very small perplexity makes each point hold on
# to its few nearest neighbours. Whoever shows a map without such a control shows half an experiment.

# %% [markdown]
# ### Exercise 3 · How surprising is a silhouette?
#
# A silhouette has no natural zero, as the shuffles have just shown. A **permutation test** supplies one: with the score $s$
# of the true labels and the scores $s_1, \dots, s_B$ of $B$ shuffles,
#
# $$p = \frac{1 + \#\{b : s_b \ge s\}}{1 + B} \tag{7}$$
#
# Write it for `vectors` `(N, F)`, integer `labels` `(N,)` and `permutations` `(B, N)`, each row of which is an order of the
# points. `silhouette_score(vectors, labels)` is imported. What is the smallest value that $p$ can take, and why is it not 0?


# %% tags=["exercise"]
def permutation_p(vectors, labels, permutations):
    """Eq. 7: the share of label orders, the true one included, whose silhouette is at least the true one's."""
    # BEGIN SOLUTION
    score = silhouette_score(vectors, labels)
    shuffled_scores = np.array([silhouette_score(vectors, labels[order]) for order in permutations])
    return (1 + (shuffled_scores >= score).sum()) / (1 + len(permutations))  # eq. 7
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 3
@lesson.check("Exercise 3")
def _():
    generator = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2], 12)
    orders = np.stack([generator.permutation(36) for _ in range(59)])
    clouds = generator.normal(size=(36, 4)) + 4 * np.eye(4)[kinds]
    p = permutation_p(clouds, kinds, orders)
    assert p > 0, "A p-value is never 0: the true order is one of the orders that chance could have drawn."
    assert np.isclose(p, 1 / 60), (
        f"For three separated clouds no shuffle should reach the true score: p = 1/60, not {p:.3f}."
    )
    identity = np.arange(36)[None]
    assert np.isclose(permutation_p(clouds, kinds, identity), 1), (
        "A shuffle that reaches the score exactly counts, too."
    )
    noise = generator.normal(size=(36, 4))
    above = sum(silhouette_score(noise, kinds[order]) >= silhouette_score(noise, kinds) for order in orders)
    p = permutation_p(noise, kinds, orders)
    assert np.isclose(p, (1 + above) / 60), f"On noise p should be {(1 + above) / 60:.3f}, yours is {p:.3f}."


# %% [markdown] tags=["solution"]
# The smallest value is $1/(1+B)$. If labels mean nothing, the true order is one more random order, so it must be counted
# above and below the fraction line; without the two ones the test would reject too often. A small $p$ says that classes
# are *there*, not that they are well separated: with many points even a silhouette near zero can get the smallest $p$.

# %% [markdown]
# ## 8 How the features form
#
# So far we saw finished networks. Now we watch one learn: a short ANCHOR training on a quarter of the images for up to
# twice the epochs, weights kept after every epoch. It is a run of its own; expect less of it than of the network above.
#
# One t-SNE fit an epoch, of clean and adversarial features together. To make the maps comparable,
#
# - each fit starts from the map of the epoch before, with a mild *early exaggeration* (the factor by which t-SNE multiplies
#   all $p_{ij}$ at first: 4 instead of 12), so that a class keeps its place unless the features make it move;
# - each map is then turned and mirrored onto the one before (orthogonal Procrustes) and scaled to fill the frame.
#
# **The frames between two epochs are interpolated linearly.** They lead the eye and show no network.
#
# > **Predict, then see.** Which comes first: clean classes that stand apart, or adversarial features that stay in them? And
# > is the untrained network's kNN accuracy at chance?

# %%
growth = {}
if models == "pretrained":
    lesson.say("The networks that come with the course are finished ones: no training, no animation here.")
else:
    size, held_out = len(dataset.train) // 4, max(1, config.validation_images // 4)
    short = config.replace(
        method="anchor",
        keep_epochs=True,
        train_images=size,
        validation_images=held_out,
        batch_size=min(config.batch_size, size - held_out),
        epochs=min(2 * config.epochs, 16),
    )
    run = training.fit(short)
    watched, attacked = slice(0, 200), slice(0, 100)
    watched_labels = labels[watched]
    both = np.concatenate([watched_labels, labels[attacked]])
    near = reference[:1000]
    history, stages, previous = [], [], None
    for epoch in range(short.epochs + 1):
        model = fold_batchnorm(run.model(epoch)).to(device)
        moved = attacks.pgd(model, x[attacked], y[attacked], **config.attack(), generator=rng())
        clean, adversarial = embeddings.extract(model, x[watched]), embeddings.extract(model, moved)
        known = embeddings.extract(model, near.inputs()), near.labels.numpy()
        together = np.concatenate([clean, adversarial])
        start = {"init": "pca"} if previous is None else {"init": previous, "early_exaggeration": 4, "max_iter": 500}
        points = TSNE(2, perplexity=15, random_state=config.seed, **start).fit_transform(together)
        points -= points.mean(0)
        if previous is not None:
            points = points @ orthogonal_procrustes(points, previous)[0]
        previous = points.astype(np.float32)
        history.append(
            {
                "epoch": epoch,
                "clean kNN": embeddings.knn_accuracy(*known, clean, watched_labels),
                "adversarial kNN": embeddings.knn_accuracy(*known, adversarial, labels[attacked]),
                "silhouette": embeddings.neighbourhood_metrics(clean, watched_labels)["silhouette"],
                "trustworthiness": trustworthiness(together, points, n_neighbors=10),
            }
        )
        wrong = ~evaluation.clean_outcomes(model, moved, y[attacked]).cpu().numpy()
        stages.append((points / np.abs(points).max(), wrong))
    growth = pd.DataFrame(history).set_index("epoch")

# %%
if len(growth):
    shown = 40  # so many arrows
    measured = {name: growth[name].to_numpy() for name in growth}
    plotting.animate(
        figures.growing_maps(stages, watched_labels, measured, arrows=shown),
        "Animated t-SNE map of test features over the epochs of an ANCHOR training: class numbers for clean features, "
        "arrows to their adversarial versions, black where misclassified. The filmstrip below shows the same.",
        milliseconds=220,
    )

    plotting.show(
        figures.filmstrip(stages, watched_labels, measured, arrows=shown),
        "Filmstrip of the animation: t-SNE maps of test features after some of the epochs of an ANCHOR training, and "
        "below them kNN accuracy on clean and adversarial features and the silhouette for every epoch.",
        colors=256,
    )

    def when(column):
        return int((growth[column] >= 0.9 * growth[column].iloc[-1]).idxmax())

    first = {column: when(column) for column in ("clean kNN", "adversarial kNN")}
    order = "before" if first["clean kNN"] < first["adversarial kNN"] else "not before"
    lesson.say(
        f"**What came first.** Clean kNN accuracy first reached nine tenths of its final value after epoch "
        f"{first['clean kNN']}, adversarial kNN accuracy after epoch {first['adversarial kNN']}: clean classes came "
        f"{order} resistance. The untrained network has a clean kNN accuracy of {growth['clean kNN'].iloc[0]:.0%}, "
        f"chance is about {1 / len(dataset.classes):.0%}: a random convolutional network keeps some likeness of images."
    )
    growth_attack = (
        f"PGD on cross-entropy as in training: epsilon = {config.epsilon:g}, {config.attack_steps} steps of "
        f"{config.step_size:g}, one random start, final iterate, seed {config.seed}"
    )
    lesson.say(
        f"{len(watched_labels)} test images, adversarial versions of the first {len(moved)}, "
        f"{min(shown, len(moved))} of them as arrows (black: misclassified after that epoch). {growth_attack}. "
        f"Training: {short.train_images} images, {short.validation_images} of them held out, {short.epochs} epochs. "
        f"kNN: 10 neighbours among {len(near)} clean training features. Perplexity 15; trustworthiness of the maps "
        f"between {growth['trustworthiness'].min():.2f} and {growth['trustworthiness'].max():.2f}."
    )

# %% [markdown]
# **Reading the figure.** The animation first, then the filmstrip of the same maps. Follow one number, and look for three
# things:
#
# - *Order*: do groups form all at once, or do some classes leave the crowd early? Which stay entangled longest?
# - *Arrows*: when do they stop leading from group to group? Compare with the two lines at the bottom left.
# - *Setbacks*: where the preset has a warm-up, the attack (`epsilon_warmup`) or the learning rate (`warmup`) grows during the
#   first epochs. If the curves dip, check whether the map got worse or only moved: trust the curves, not the picture.
#
# If the silhouette stayed flat while the map sorted itself, the animation would show t-SNE at work and not the network.
#
# ## What can go wrong
#
# - **A weak attack.** Features that hardly move can mean that the attack failed. Masked gradients do that (notebook 06 checks
#   for them), and so does eq. 2 without a random start: at $\delta = 0$ its gradient is zero.
# - **Reading sizes and gaps.** Eq. 4 gives each point its own ruler. A large patch is not a diverse class, a wide gap is
#   not a wide margin.
# - **Two separate fits.** A clean map next to an adversarial map, fitted apart, shows two accidents. Fit together.
# - **One perplexity, one seed.** Show several, or show numbers.
# - **Reading arrows as distances.** On the map an arrow may cross a gap that is tiny in feature space. Displacement is
#   measured before t-SNE.
# - **A start that remembers.** In the animation each map starts from the one before, so a class may keep a place that a
#   fresh fit would not give it. Interpolated frames show no network at all.
# - **A picture chosen by hand.** Of enough maps one is always pretty. Fix seed and perplexity before looking.
# - **kNN on the reference itself.** A query that is among the reference points finds itself. Here references are training
#   images and queries test images, or each point is left out of its own neighbours. Only `*_map_knn_adversarial` in the
#   last table breaks this rule.
# - **BatchNorm in train mode.** Features would then depend on the batch they are computed in.
#
# ## What we saw

# %%
moved = {m: (np.median(displacement[m, "adversarial"]), crossed[m, "adversarial"]) for m in METHODS}
confirmed = moved["standard"][1] > 0.5 and all(moved[m][1] < 0.25 for m in ("pgd_at", "anchor"))


def crossed_interval(method, view):
    return with_interval(crossed[method, view], len(stayed[method, view]))


display(
    pd.DataFrame(
        {
            plotting.method_name(m): {
                "displacement r, median": f"{moved[m][0]:.2f}",
                "crossed to another class, PGD": crossed_interval(m, "adversarial"),
                f"crossed, feature attack (first {len(x[pushed])})": crossed_interval(m, "feature attack"),
                "kNN accuracy, clean": with_interval(knn[m][0], n),
                "kNN accuracy, adversarial": with_interval(knn[m][-1], n),
                "silhouette, clean": f"{silhouette[m][0]:.2f}",
                "silhouette, adversarial": f"{silhouette[m][-1]:.2f}",
                "trustworthiness of the map": f"{trust[m]:.2f}",
            }
            for m in METHODS
        }
    )
)


def higher(values):
    return "higher" if values["anchor"][-1] > values["pgd_at"][-1] else "not higher"


lines = [
    f"- Adversarial: {attack_text}. Displacement in units of the mean distance between class centres. In brackets: 95% "
    "Wilson intervals.",
    f"- The same features fitted from two starts lie {refit:.2f} class distances apart: the size of an arrow that means "
    "nothing. Other starts give another size.",
    f"- ANCHOR is our reconstruction. Against PGD-AT its adversarial kNN accuracy is {higher(knn)} and its adversarial "
    f"silhouette {higher(silhouette)}, for one training seed and without a test of the difference. The contrastive "
    "term asks for tight classes behind the projection head, so a higher silhouette alone is no proof of robustness.",
]
if len(growth):

    def ends(column, images):
        first, last = (with_interval(growth[column].iloc[k], len(labels[images])) for k in (0, -1))
        return f"{first} (untrained) to {last}"

    lines.append(
        f"- In the short training the kNN accuracy on {len(watched_labels)} clean images went from "
        f"{ends('clean kNN', watched)}, that on {len(labels[attacked])} adversarial ones from "
        f"{ends('adversarial kNN', attacked)}. {growth_attack}."
    )
shares = ", ".join(f"{plotting.method_name(m)} {moved[m][1]:.1%}" for m in METHODS)
lines.append(
    "\nThe claim (under PGD more than half of the features cross for the standard network, fewer than a quarter for "
    f"each adversarially trained one; here {shares}) "
    f"is **{'confirmed' if confirmed else 'not confirmed'}** by this run."
)
lesson.say("\n".join(lines))

# %% [markdown]
# ### Expected values
#
# The numbers of this run, stored for the report, beside the bands in which other machines should find them.

# %%
metrics = {}
for m in METHODS:
    metrics |= {f"{m}_knn_{view}": value for view, value in zip(VIEWS, knn[m], strict=True)}
    metrics |= {f"{m}_silhouette_{view}": value for view, value in zip(VIEWS, silhouette[m], strict=True)}
    metrics |= {f"{m}_displacement_{view.replace(' ', '_')}": float(np.median(displacement[m, view])) for view in moves}
    metrics |= {f"{m}_crossed_{view.replace(' ', '_')}": float(crossed[m, view]) for view in moves}
    metrics |= {f"{m}_trustworthiness": trust[m], f"{m}_map_displacement": float(np.median(on_map[m]))}
    metrics[f"{m}_map_knn_adversarial"] = knn_map[m]
metrics |= {
    "claim_confirmed": float(confirmed),
    "shuffled_knn": float(mean_knn),
    "shuffled_silhouette": float(np.mean(silhouettes)),
    "refit_displacement": refit,
}
if len(growth):
    for column in ("clean kNN", "adversarial kNN", "silhouette"):
        name = f"growth_{column.lower().replace(' ', '_')}"
        metrics |= {f"{name}_untrained": float(growth[column].iloc[0]), f"{name}_last": float(growth[column].iloc[-1])}
lesson.finish("07", preset, config, metrics)

# %% [markdown]
# **Limits.** One training seed a network, one layer (the features before the classifier), one attack strength. PGD and the
# feature attack are lower bounds on how far features *can* be moved. The nearest class centre is a crude classifier: it
# assumes round classes. kNN accuracy is not a robust accuracy: the attack did not aim at the neighbours, and one that does
# may leave less of it. The animation shows one short run with few images.
#
# **References.** van der Maaten & Hinton, *Visualizing data using t-SNE*, JMLR 2008 · Wattenberg et al., *How to use t-SNE
# effectively*, Distill 2016 · Kobak & Berens, *The art of using t-SNE for single-cell transcriptomics*, 2019 · Venna & Kaski
# (trustworthiness), *Neighborhood preservation in nonlinear projection methods*, ICANN 2001 · Rousseeuw (silhouettes), 1987 ·
# Phipson & Smyth, *Permutation p-values should never be zero*, 2010 · Khosla et al., *Supervised contrastive learning*, arXiv
# 2004.11362 · Madry et al., *Towards deep learning models resistant to adversarial attacks*, arXiv 1706.06083 · Bhattacharya
# et al., *ANCHOR*, arXiv 2510.27599.
#
# **Next:** [08 · Reproduction report](08_reproduction_report.ipynb) puts the claims of the paper beside what the course
# measured.
