# %% [markdown]
# # 07 · Embedding visualisation
#
# **Claim: adversarial training changes the geometry of the features: an attack carries the features of a standard network
# across the borders between classes, and those of a robust network hardly ever.** The last cell confirms or refutes this with
# the numbers of this very run.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/anchor-course/blob/main/notebooks/07_embedding_visualisation.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/OWNER/anchor-course#the-notebooks)
#
# **You will learn** how to measure what an attack does to features, what t-SNE optimises, which parts of a t-SNE map one may
# believe, and which controls show the difference.
#
# **You need** notebook 01 (PGD). Notebooks 02 and 05 explain how the robust networks were trained.
#
# **Time** preset `cpu`: about one minute on 2 cores, plus the training of networks that no earlier notebook has trained. `smoke`:
# seconds, networks that have learned nothing, for tests only. `t4` and `paper`: CIFAR-10 on a GPU; the maps take minutes on the CPU beside it.
#
# **Real CIFAR-10 without training**: with `models = "pretrained"` this notebook takes the small CIFAR-10 networks that come with the course, and their
# settings, instead of those of the preset. The images are downloaded; `overrides = {"dataset": "imagefolder:PATH"}` takes others.

# %% tags=["setup"]
# Only where the package is missing, on Colab for example. torch and numpy stay the ones that are there.
import importlib.util

if importlib.util.find_spec("anchor_utils") is None:
    get_ipython().run_line_magic("pip", "install -q git+https://github.com/OWNER/anchor-course")  # noqa: F821

# %% tags=["parameters"]
preset = "cpu"  # @param ["smoke", "cpu", "t4", "paper"]
overrides = {}  # @param {type:"raw"}
seed = 0  # @param {type:"integer"}
runs_dir = "../runs"  # @param {type:"string"}
data_root = "../data"  # @param {type:"string"}
models = "train"  # @param ["train", "pretrained"]

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from torch import nn

from anchor_utils import attacks, data, embeddings, evaluation, notebook, plotting, training
from anchor_utils.models import fold_batchnorm, pretrained

if models == "pretrained":  # networks of the CIFAR-10 study that come with the course, and their settings
    preset = "cifar10_cpu"
config, device = notebook.start(preset, overrides, seed, runs_dir, data_root, models)

# %% [markdown]
# ## 1 Features of the same images in four views
#
# A network is an encoder $h$ followed by a linear classifier. The encoder's output, scaled to length 1, is the *feature* of an image; the
# classifier only cuts this sphere into regions. We take three networks: one from standard training, one from PGD adversarial training, and **ANCHOR**. ANCHOR here is a
# **reconstruction** from the abstract of [2510.27599](https://arxiv.org/abs/2510.27599), not the authors' code. Finished runs with the same configuration are reused.
#
# Each test image appears in four views: *clean*; *augmented* (a random crop, as in training); with uniform *noise* of size epsilon; and *adversarial*, made by PGD against the
# network at hand.

# %%
METHODS = ["standard", "pgd_at", "anchor"]
VIEWS = ["clean", "augmented", "noise", "adversarial"]
dataset = training.load_data(config)
if models == "pretrained":
    unfolded = {method: pretrained(method) for method in METHODS}
else:
    unfolded = {method: training.fit(config.replace(method=method), dataset=dataset).model() for method in METHODS}
# Folding BatchNorm into the convolutions gives the same function of the image, and a faster one.
networks = {method: fold_batchnorm(model).to(device) for method, model in unfolded.items()}
test = dataset.test[: config.embedding_images]
x, y = test.inputs().to(device), test.labels.to(device)
labels = test.labels.numpy()


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
pgd_settings = {"epsilon": config.epsilon, "step_size": config.eval_step_size, "steps": config.eval_steps}
views, features, accuracy = {}, {}, {}
for method, model in networks.items():
    generator = rng()
    adversarial = in_batches(lambda a, b: attacks.pgd(model, a, b, **pgd_settings, generator=generator))  # noqa: B023
    views[method] = {**shared, "adversarial": adversarial}
    features[method] = {view: embeddings.extract(model, images) for view, images in views[method].items()}
    accuracy[method] = {view: evaluation.clean_outcomes(model, images, y) for view, images in views[method].items()}


def with_interval(outcome):
    low, high = evaluation.wilson(int(outcome.sum()), len(outcome))
    return f"{outcome.float().mean():.1%} [{low:.1%}, {high:.1%}]"


display(
    pd.DataFrame(
        {view: [with_interval(accuracy[method][view]) for method in METHODS] for view in VIEWS},
        index=[plotting.method_name(method) for method in METHODS],
    )
)
attack_text = (
    f"PGD on cross-entropy at the true label, epsilon = {config.epsilon:g}, {config.eval_steps} steps of {config.eval_step_size:g}, one random start, final iterate, "
    f"seed {config.seed}, {len(x)} test images"
)
notebook.say(f"Accuracy of the classifier with a 95% Wilson interval. Noise is uniform. Adversarial: {attack_text}.")

# %% [markdown]
# ## 2 How far do features move?
#
# A distance in feature space has no unit of its own: one network may spread its features wide, another may not. So we divide by a length that matters to the
# task, the mean distance between the centres $\mu_k$ of the classes:
#
# $$r_i = \frac{\|h(x_i') - h(x_i)\|}{D}, \qquad
# D = \frac{2}{K(K-1)} \sum_{k < l} \|\mu_k - \mu_l\|, \qquad \mu_k = \text{mean of } h(x_i) \text{ with } y_i = k \tag{1}$$
#
# On the unit sphere $\|h - h'\|^2 = 2 (1 - \cos)$, so this is the cosine distance in other clothes. $r = 1$ means: as far as from one class to another.
# A feature has *crossed* when the nearest class centre was its own before and is another one after.
#
# PGD attacks the label, not the feature. A network might keep its label and still be shaken inside. So we add a second attack that knows nothing of labels and pushes the
# feature itself as far as it can, with the same epsilon and steps:
#
# $$\max_{\|\delta\|_\infty \le \varepsilon} \|h(x + \delta) - h(x)\|^2 \tag{2}$$
#
# > **Predict, then see.** For each of the two kinds of network: how far does PGD move a feature, in units of the distance between classes? And noise of the same size?


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
        **pgd_settings,
        loss=lambda moved, _: (moved - start).square().sum(1),  # eq. 2
        generator=rng(),
    )


def centres(vectors):
    return np.stack([vectors[labels == k].mean(0) for k in np.unique(labels)])


pushed = slice(0, 100)
displacement, crossed = {}, {}
for method, model in networks.items():
    clean = features[method]["clean"]
    mu = centres(clean)
    unit = pdist(mu).mean()  # D of eq. 1
    after = {view: features[method][view] for view in VIEWS[1:]}
    after["feature attack"] = embeddings.extract(model, feature_attack(model, x[pushed], y[pushed]))
    known = np.unique(labels)

    def nearest(vectors, mu=mu, known=known):
        return known[((vectors[:, None] - mu) ** 2).sum(2).argmin(1)]

    at_home = nearest(clean) == labels
    for view, moved in after.items():
        n = len(moved)
        displacement[method, view] = np.linalg.norm(moved - clean[:n], axis=1) / unit  # eq. 1
        crossed[method, view] = (nearest(moved) != labels[:n])[at_home[:n]].mean() if at_home[:n].any() else np.nan

table = pd.DataFrame(
    [
        {
            "method": plotting.method_name(method),
            "view": view,
            "median displacement r": f"{np.median(values):.2f}",
            "5% to 95%": f"{np.quantile(values, 0.05):.2f} to {np.quantile(values, 0.95):.2f}",
            "crossed to another class": f"{crossed[method, view]:.1%}",
            "images": len(values),
        }
        for (method, view), values in displacement.items()
    ]
)
display(table.set_index(["method", "view"]))

# %%
moves = [*VIEWS[1:], "feature attack"]
figure, axis = plt.subplots(figsize=(8.5, 4))
for m, method in enumerate(METHODS):
    for v, view in enumerate(moves):
        q = np.quantile(displacement[method, view], [0.05, 0.25, 0.5, 0.75, 0.95])
        position, color = v + 0.22 * (m - 1), plotting.method_color(method)
        axis.plot([position] * 2, q[[0, 4]], color=color, linewidth=1.2)
        axis.plot([position] * 2, q[[1, 3]], color=color, linewidth=6, alpha=0.45, solid_capstyle="butt")
        axis.plot(position, q[2], color=color, marker=plotting.METHOD_STYLE[method][1], markersize=7)
top = max(values.max() for values in displacement.values())
for m, method in enumerate(METHODS):
    axis.annotate(
        plotting.method_name(method),
        (-0.42, top * (1.02 - 0.09 * m)),
        color=plotting.method_color(method),
        fontweight="bold",
        va="top",
    )
axis.axhline(1, color="0.3", linestyle="--", linewidth=1)
axis.annotate(
    "as far as from class to class",
    (len(moves) - 0.55, 1),
    (0, 4),
    textcoords="offset points",
    fontsize=9,
    color="0.3",
    ha="right",
)
axis.set_xticks(range(len(moves)), [view if view != "adversarial" else "PGD on the label" for view in moves])
axis.set(xlim=(-0.5, len(moves) - 0.5), ylim=(0, 1.06 * top), ylabel="displacement r (1 = between classes)")
axis.grid(axis="x", visible=False)
plotting.show(
    figure,
    "Displacement of features for augmentation, noise, PGD and the feature attack, for three networks; the standard network moves farthest under both attacks.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** The marker is the median image, the thick bar holds the middle half of the images, the thin line nine in ten. Compare networks *within* a group. Augmentation is
# the scale of changes that training asks every network to ignore. Under PGD look at whether a network's bar reaches the dashed line: there, features end as far away as another class lies. The last group is the fairer test of
# "the geometry is stable", because it attacks the geometry. If the robust networks moved as far there as the standard one, their robustness would be a matter of the last
# layer and the claim would be wrong. To move far is not to cross: the feature attack does not care in which direction it pushes, so compare the two attacks' crossings in the table as well.
#
# ## 3 Do the classes stay apart?
#
# Two numbers need no map. **kNN accuracy**: the features of *clean training images* are the reference, and each test feature takes the majority class of its 10 nearest ones. **Silhouette**: with $a_i$ the mean distance to the other points of the own
# class and $b_i$ the smallest mean distance to another class,
#
# $$s = \frac1N \sum_i \frac{b_i - a_i}{\max(a_i, b_i)} \in [-1, 1] \tag{3}$$
#
# Near 1: tight, separated classes. Near 0: classes lie within each other. Below 0: points lie closer to another class than to their own.


# %%
def my_silhouette(vectors, labels):
    distance = np.sqrt(np.maximum(2 - 2 * vectors @ vectors.T, 0))
    classes, total = np.unique(labels), 0.0
    for i in range(len(labels)):
        to_class = {k: distance[i, labels == k].sum() for k in classes}
        own = (labels == labels[i]).sum()
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

n = len(labels)
bands = {m: tuple(zip(*(evaluation.wilson(round(k * n), n) for k in knn[m]), strict=True)) for m in METHODS}
chance = np.bincount(reference.labels.numpy()).max() / len(reference)
figure, axes = plt.subplots(1, 2, figsize=(12, 3.9))
plotting.curves(axes[0], range(len(VIEWS)), knn, bands=bands, xlabel="", ylabel=f"kNN accuracy, {n} test images")
axes[0].axhline(chance, color="0.4", linestyle="--", linewidth=1)
axes[0].annotate("guessing the largest class", (0, chance), (0, 4), textcoords="offset points", fontsize=9, color="0.4")
axes[0].set_ylim(-0.03, 1.03)
plotting.curves(axes[1], range(len(VIEWS)), silhouette, xlabel="", ylabel="silhouette", percent=False)
axes[1].axhline(0, color="0.4", linestyle="--", linewidth=1)
for axis in axes:
    axis.set_xticks(range(len(VIEWS)), VIEWS)
plotting.show(
    figure,
    "kNN accuracy and silhouette of three networks for clean, augmented, noisy and adversarial features; the standard network collapses under the attack.",
    svg=True,
)
notebook.say(
    f"10 neighbours among the clean features of {len(reference)} training images. Adversarial: {attack_text}. Bands are 95% Wilson intervals."
)

# %% [markdown]
# **Reading the figure.** From left to right the views get harder; the lines only help the eye along. On clean images all networks should be close. What separates them is the last point. If the standard network's
# kNN accuracy falls far below the dashed line, its adversarial features do not get lost: they arrive in the middle of *wrong* classes. Its silhouette on adversarial features
# tells the same without a reference. If the standard network kept a high silhouette and a low kNN accuracy, the attack would move whole classes as blocks; if both stayed high, the
# attack would only deceive the classifier on top.
#
# ## 4 What t-SNE does
#
# A feature has dozens of coordinates or more; a map has two. t-SNE (van der Maaten & Hinton, 2008) gives up on distances and keeps **who is near whom**. Around each point a Gaussian turns distances
# into probabilities, its width $\sigma_i$ chosen so that the point has about as many effective neighbours as the **perplexity** says:
#
# $$p_{j|i} = \frac{\exp(-\|h_i - h_j\|^2 / 2\sigma_i^2)}{\sum_{k \ne i} \exp(-\|h_i - h_k\|^2 / 2\sigma_i^2)}, \qquad
# 2^{-\sum_j p_{j|i} \log_2 p_{j|i}} = \text{perplexity} \tag{4}$$
#
# On the map, points $u_i$ are near each other by a curve with heavy tails, and gradient descent moves them until the two sets of probabilities agree as well as they can:
#
# $$q_{ij} = \frac{(1 + \|u_i - u_j\|^2)^{-1}}{\sum_{k \ne l} (1 + \|u_k - u_l\|^2)^{-1}}, \qquad
# \min_u \sum_{i \ne j} p_{ij} \log \frac{p_{ij}}{q_{ij}}, \qquad p_{ij} = \frac{p_{j|i} + p_{i|j}}{2N} \tag{5}$$
#
# Two consequences decide how to read a map. Each point brings its *own* ruler $\sigma_i$, so dense and loose clusters come out alike: **size on the map means nothing**. And far pairs have
# $p_{ij} \approx 0$ whether they are far or very far, so **distance between clusters means next to nothing**.


# %%
def neighbour_weights(vectors, i, perplexity):
    d = np.delete(((vectors - vectors[i]) ** 2).sum(1).astype(float), i)
    low, high = 1e-6, 1e8  # bisection on 1 / 2 sigma^2
    for _ in range(100):
        precision = np.sqrt(low * high)
        p = np.exp(-precision * (d - d.min()))
        p /= p.sum()
        reached = 2 ** -(p * np.log2(np.maximum(p, 1e-300))).sum()  # eq. 4
        low, high = (precision, high) if reached > perplexity else (low, precision)
    return np.sort(p)[::-1], reached


figure, axis = plt.subplots(figsize=(8, 3.6))
perplexities = [5, 30, 50] if n < 120 else [5, 30, 100]
for perplexity, color, shift in zip(perplexities, ("#0072B2", "#009E73", "#D55E00"), (5, 5, -13), strict=True):
    weights, reached = neighbour_weights(features["anchor"]["clean"], 0, perplexity)
    assert abs(reached - perplexity) < 0.05 * perplexity
    ranks = np.arange(1, len(weights) + 1)
    axis.plot(ranks, weights, color=color, linewidth=2)
    axis.annotate(
        f"perplexity {perplexity}", (1, weights[0]), (6, shift), textcoords="offset points", color=color, fontsize=10
    )
axis.set(
    xscale="log", yscale="log", ylim=(1e-5, 2), xlabel="neighbour's rank (logarithmic)", ylabel="its weight p in eq. 4"
)
plotting.show(
    figure,
    "Weights of the neighbours of one image by rank for three perplexities: the larger the perplexity, the more neighbours count.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** One test image, its neighbours ordered from near to far. With a small perplexity a handful of neighbours carries all the weight and the rest might as well
# not exist; with a large one the weight reaches far. So perplexity is the answer to "how many neighbours shall the map respect?", and there is no true value. If the curves lay on each other, the choice would not matter.
#
# ## 5 The maps
#
# t-SNE has no rule for placing new points. Fitting clean and adversarial features *separately* would give two maps with nothing in common. So each network gets **one joint fit** of
# its clean, augmented and adversarial features, and we look at one part after another. Maps of *different* networks share nothing: compare what happens inside each.
#
# > **Predict, then see.** In which of the three maps will the arrows from clean to adversarial points be long? Long arrows on a map can lie. What would you check first?

# %%
joint_views = ["clean", "augmented", "adversarial"]
maps, trust = {}, {}
for method in METHODS:
    together = np.concatenate([features[method][view] for view in joint_views])
    fitted = embeddings.project_2d(together, perplexity=30, seed=config.seed)
    maps[method] = dict(zip(joint_views, np.split(fitted, len(joint_views)), strict=True))
    trust[method] = embeddings.neighbourhood_metrics(together, np.tile(labels, len(joint_views)), fitted)[
        "trustworthiness"
    ]

arrows = slice(0, 60)
palette = plt.get_cmap("tab10").colors
figure, axes = plt.subplots(2, len(METHODS), figsize=(12.5, 8.6))
for column, method in enumerate(METHODS):
    clean, augmented, adversarial = (maps[method][view] for view in joint_views)
    wrong = ~accuracy[method]["adversarial"].cpu().numpy()
    plotting.embedding_map(
        axes[0, column],
        clean,
        labels,
        title=f"{plotting.method_name(method)}: clean and augmented",
        moved_to=adversarial[arrows],
        moved_wrong=wrong[arrows],
    )
    axes[0, column].scatter(*augmented.T, c=[palette[k % 10] for k in labels], s=4, linewidth=0, alpha=0.3, zorder=0)
    axis = axes[1, column]
    axis.scatter(*adversarial.T, c=[palette[k % 10] for k in labels], s=9, linewidth=0, alpha=0.8)
    for k in np.unique(labels):  # the class names stay where the clean points of the class are
        axis.annotate(
            str(k),
            np.median(clean[labels == k], axis=0),
            ha="center",
            va="center",
            fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": palette[k % 10], "alpha": 0.6},
        )
    axis.set_title(f"{plotting.method_name(method)}: adversarial")
    axis.set_xticks([])
    axis.set_yticks([])
    everything = np.concatenate(list(maps[method].values()))
    middle, reach = (everything.max(0) + everything.min(0)) / 2, 0.53 * np.ptp(everything, axis=0).max()
    for axis in axes[:, column]:
        axis.set_aspect("equal", "box")
        axis.set_xlim(middle[0] - reach, middle[0] + reach)
        axis.set_ylim(middle[1] - reach, middle[1] + reach)
    axes[1, column].set_xlabel(
        f"kNN, adversarial: {knn[method][-1]:.0%}   silhouette: {silhouette[method][-1]:.2f}\n"
        f"median displacement r: {np.median(displacement[method, 'adversarial']):.2f}   trustworthiness: {trust[method]:.2f}",
        fontsize=10,
    )
plotting.show(
    figure,
    "Two rows of t-SNE maps for three networks. Top: clean features by class, with arrows to the adversarial features of 60 images, black where misclassified. "
    "Bottom: the adversarial features in the same map, with class names where the clean points are.",
)
notebook.say(
    f"One joint fit a network: {len(joint_views)} x {n} features, perplexity 30, seed {config.seed}. Adversarial: {attack_text}. Trustworthiness: 1 if the 10 nearest "
    "points on the map are near in feature space too, less the farther away they are there."
)

# %% [markdown]
# **Reading the figure.** Colour is the *true* class. Top: clean points, each class with its number, augmented ones small and faint, and arrows to the adversarial versions of the first 60 images; black arrows end in a misclassification. Bottom: all adversarial points in the same
# map, with the class numbers left where the clean points are. In a bottom panel ask: does the colour around a number still match the panel above? For a network that resists, yes, up to a few strays; for one that does
# not, each number stands among foreign colours or alone, and the adversarial points have gone to other classes or to a place of their own. Then check the picture against the numbers below it, because those were measured before t-SNE bent anything. If long arrows went with a small
# displacement $r$, the map would have torn neighbours apart and the arrows would mean nothing.
#
# ## 6 Same features, other map
#
# A single map is one outcome of a random search with one perplexity. Here are six for the same features of the same network. The package starts t-SNE from the principal components, which makes maps repeatable but not more true; for this experiment the start is random.

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
figure, axes = plt.subplots(2, 3, figsize=(11, 7.4))
for (s, p), points in several.items():
    quality = embeddings.neighbourhood_metrics(vectors, twice, points)["trustworthiness"]
    plotting.embedding_map(
        axes[s, perplexities.index(p)],
        points,
        twice,
        title=f"perplexity {p}, start {s + 1}\ntrustworthiness {quality:.2f}",
    )
plotting.show(
    figure,
    "Six t-SNE maps of the same ANCHOR features: two random starts by three perplexities; classes stay together, their places change.",
)


# %%
def shared_neighbours(a, b, k=10):
    near = [NearestNeighbors(n_neighbors=k).fit(m).kneighbors(return_distance=False) for m in (a, b)]
    return np.mean([len(set(i) & set(j)) / k for i, j in zip(*near, strict=True)])


def centre_distances(points):
    return pdist(np.stack([np.median(points[twice == k], axis=0) for k in np.unique(twice)]))


rows = []
for p in perplexities:
    one, two = several[0, p], several[1, p]
    rows.append(
        {
            "perplexity": p,
            "10 nearest on the map: shared by both starts": f"{shared_neighbours(one, two):.0%}",
            "shared with the features": f"{shared_neighbours(one, vectors):.0%}",
            "distances between classes: rank correlation of both starts": f"{spearmanr(centre_distances(one), centre_distances(two)).statistic:.2f}",
            "with the features": f"{spearmanr(centre_distances(one), centre_distances(vectors)).statistic:.2f}",
            "kNN accuracy on the map": f"{embeddings.neighbourhood_metrics(one, twice)['knn_accuracy']:.0%}",
        }
    )
display(pd.DataFrame(rows).set_index("perplexity"))

# %% [markdown]
# **Reading the figure.** Compare the two rows of a column, then the three columns. Turning or mirroring a map changes nothing, so ignore that first. What stays: which points belong together.
# What changes: which class lies next to which, how large its patch is, and with a small perplexity even into how many pieces it falls. The table says it in numbers. The share of common neighbours is the stable part.
# The rank correlations are about the distances *between* classes: of the two starts with each other (how much is accident?) and with the features (how much is distortion?). Follow them down the table as perplexity grows.
# Only where both are near 1 may one read from the map which classes are far apart, and then only because it has been measured. If they were near 1 in every row, all warnings about distances in t-SNE would be idle.
#
# ## 7 Two controls
#
# People see clusters everywhere. So we ask what the same tools show where there is nothing to see. First, the same map with **shuffled labels**: if the numbers stayed high, they would not measure classes.
# Second, t-SNE of **pure noise**: Gaussian vectors of the same number and dimension, at a very small perplexity.

# %%
generator = np.random.default_rng(config.seed)
clean = features["anchor"]["clean"][:300]
true = labels[:300]
shuffled = [generator.permutation(true) for _ in range(20)]
scores = [embeddings.neighbourhood_metrics(clean, s) for s in shuffled]
real = embeddings.neighbourhood_metrics(clean, true)
nothing = generator.standard_normal(clean.shape)
noise_map = embeddings.project_2d(nothing, perplexity=2, seed=config.seed)
figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.5))
plotting.embedding_map(
    axes[0],
    maps["anchor"]["clean"][:300],
    true,
    title=f"true labels\nkNN {real['knn_accuracy']:.0%}, silhouette {real['silhouette']:.2f}",
)
axes[1].scatter(*maps["anchor"]["clean"][:300].T, c=[palette[k % 10] for k in shuffled[0]], s=9, linewidth=0, alpha=0.8)
axes[1].set_title(f"shuffled labels\nkNN {scores[0]['knn_accuracy']:.0%}, silhouette {scores[0]['silhouette']:.2f}")
axes[2].scatter(*noise_map.T, c="0.35", s=9, linewidth=0)
axes[2].set_title(f"pure noise, perplexity 2\n{len(nothing)} Gaussian vectors, no classes")
for axis in axes[1:]:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_aspect("equal", "datalim")
plotting.show(
    figure,
    "Left: the ANCHOR map with true labels. Middle: the same points with shuffled labels, colours mixed. Right: t-SNE of pure noise, with small clumps that mean nothing.",
)
mean_knn = np.mean([s["knn_accuracy"] for s in scores])
silhouettes = [s["silhouette"] for s in scores]
notebook.say(
    f"Leave-one-out kNN and silhouette in feature space, {len(true)} clean test images. Over 20 shuffles: kNN {mean_knn:.1%} on average ({1 / len(dataset.classes):.0%} is chance), "
    f"silhouette between {min(silhouettes):.2f} and {max(silhouettes):.2f}."
)
assert abs(mean_knn - 1 / len(dataset.classes)) < 0.1  # shuffled labels are guessing

# %% [markdown]
# **Reading the figure.** Left and middle are the *same* points. With shuffled labels the patches are still there, the colours are mixed, and both numbers fall to chance: so they measure classes, not patches. Right: nothing but
# noise, and yet clumps and strings appear, since a very small perplexity makes each point hold on to its few nearest neighbours. Whoever shows a map without such a control shows half an experiment. If
# the shuffled numbers stayed above chance, labels would be leaking into the measurement.
#
# ## What can go wrong
#
# - **Reading sizes and gaps.** Eq. 4 gives each point its own ruler. A large patch is not a diverse class, a wide gap is not a wide margin.
# - **Two separate fits.** A clean map next to an adversarial map, fitted apart, shows two accidents. Fit together.
# - **One perplexity, one seed.** Show several, or show numbers.
# - **Reading arrows as distances.** On the map an arrow may cross a gap that is tiny in feature space. Displacement is measured before t-SNE.
# - **A picture chosen by hand.** Of enough maps one is always pretty. Fix seed and perplexity before looking.
# - **kNN on the reference itself.** A query that is among the reference points finds itself. Here references are training images, queries test images.
# - **BatchNorm in train mode.** Features would then depend on the batch they are computed in.
#
# ## What we saw

# %%
moved = {m: (np.median(displacement[m, "adversarial"]), crossed[m, "adversarial"]) for m in METHODS}
hidden = {m: crossed[m, "feature attack"] for m in METHODS}
confirmed = moved["standard"][1] > 0.5 and all(moved[m][1] < 0.25 for m in ("pgd_at", "anchor"))
lines = [
    f"{attack_text}. Unit of displacement: mean distance between class centres.\n",
    *(
        f"- **{plotting.method_name(m)}**: PGD moves the median feature by {moved[m][0]:.2f} and carries {moved[m][1]:.1%} of the features that were nearest to their own class to another one; "
        f"the feature attack {hidden[m]:.1%} (first {len(x[pushed])} images). kNN accuracy {knn[m][0]:.1%} clean, {knn[m][-1]:.1%} adversarial; silhouette {silhouette[m][0]:.2f} and {silhouette[m][-1]:.2f}."
        for m in METHODS
    ),
    f"\nANCHOR is our reconstruction. Against PGD-AT its adversarial kNN accuracy is {'higher' if knn['anchor'][-1] > knn['pgd_at'][-1] else 'not higher'} and its adversarial silhouette is "
    f"{'higher' if silhouette['anchor'][-1] > silhouette['pgd_at'][-1] else 'not higher'}, for one training seed. The contrastive term asks for tight classes directly, so a higher silhouette alone does not show more robustness.",
    f"\nThe claim (more than half of the features cross for the standard network, less than a quarter for each robust one) is **{'confirmed' if confirmed else 'not confirmed'}** by this run.",
]
notebook.say("\n".join(lines))
metrics = {}
for m in METHODS:
    metrics |= {f"{m}_knn_{view}": value for view, value in zip(VIEWS, knn[m], strict=True)}
    metrics |= {f"{m}_silhouette_{view}": value for view, value in zip(VIEWS, silhouette[m], strict=True)}
    metrics |= {f"{m}_displacement_{view.replace(' ', '_')}": float(np.median(displacement[m, view])) for view in moves}
    metrics |= {f"{m}_crossed_{view.replace(' ', '_')}": float(np.nan_to_num(crossed[m, view])) for view in moves}
    metrics[f"{m}_trustworthiness"] = trust[m]
metrics["shuffled_knn"] = float(mean_knn)
metrics["shuffled_silhouette"] = float(np.mean(silhouettes))
notebook.finish("07", preset, config, metrics)

# %% [markdown]
# **Limits.** One training seed a network, one layer (the features before the classifier), one attack strength. PGD and the feature attack are lower bounds on how far features *can* be moved. The nearest class centre is a crude classifier: it assumes round classes.
# kNN accuracy is not a robust accuracy: the attack did not aim at the neighbours, and one that does would find less of it left.
#
# **References.** van der Maaten & Hinton, *Visualizing data using t-SNE*, JMLR 2008 · Wattenberg et al., *How to use t-SNE effectively*, Distill 2016 · Kobak & Berens, *The art of using t-SNE for single-cell transcriptomics*, 2019 ·
# Venna & Kaski (trustworthiness), *Neighborhood preservation in nonlinear projection methods*, ICANN 2001 · Rousseeuw (silhouettes), 1987 · Khosla et al., *Supervised contrastive learning*, arXiv 2004.11362 ·
# Madry et al., *Towards deep learning models resistant to adversarial attacks*, arXiv 1706.06083 · Bhattacharya et al., *ANCHOR*, arXiv 2510.27599.
#
# **Next:** [08 · Reproduction report](08_reproduction_report.ipynb) puts the claims of the paper beside what the course measured.
