# %% [markdown]
# # 03 · Supervised contrastive learning
#
# A contrastive loss trains a network on pairs of images: those of one class are pulled together, all others pushed apart.
# ANCHOR, the method of this course, is built on it, so we have to know what such a loss does and what it does not do. You
# will see the neighbours of an image in feature space, the forces that put them there, and what an attack makes of both.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/anchor-course/anchor-course/blob/main/notebooks/03_supervised_contrastive_learning.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/anchor-course/anchor-course#the-notebooks)

# %% tags=["setup"]
# @title Install the course, where it is missing
# Only where the package is missing, on Colab for example. torch and numpy stay the ones that are there.
# What Colab computes is lost with its machine. To keep it, mount a Drive in a cell of its own, `from google.colab import drive` and
# `drive.mount("/content/drive")`, and set runs_dir below to "/content/drive/MyDrive/runs". After a disconnect, do the same again and run
# all: it goes on where it was. Answers of yours are kept by File, Save a copy in Drive.
import importlib.util

if importlib.util.find_spec("anchor_utils") is None:
    get_ipython().run_line_magic("pip", "install -q git+https://github.com/anchor-course/anchor-course@main")  # noqa: F821

# %% tags=["parameters"]
preset = "cpu"  # @param ["smoke", "cpu", "t4", "minutes", "paper"]
overrides = {}  # @param {type:"raw"}
seed = 0  # @param {type:"integer"}
runs_dir = "runs"  # @param {type:"string"}
data_root = "data"  # @param {type:"string"}

# %%
import math

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision.transforms import v2

from anchor_utils import attacks, embeddings, evaluation, losses, plotting, results, training
from anchor_utils.augmentation import augment
from course import lesson, page
from course.figures import lesson_03 as figures

config, dataset, device = lesson.start("03", preset, overrides, seed, runs_dir, data_root)

# %% [markdown]
# The whole notebook in one cell: train an **encoder** with the contrastive loss, put a linear classifier on it, attack that
# classifier, and look up the nearest training images of each test image. The encoder is a ResNet-18 without its last layer;
# the vector that it returns holds the **features** of an image. *Nearest* means: the largest cosine of features.
#
# Stochastic gradient descent (SGD) trains the classifier, with the encoder kept as it is. We call it the **SGD probe**.

# %%
run = training.fit(config.replace(method="supcon"), dataset=dataset)  # explained in sections 1 to 4
probe_run = training.finetune(run, config, adversarial=False, dataset=dataset)  # sections 5, 7
encoder, probe = run.model().to(device), probe_run.model().to(device)

known = dataset.train[torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(seed))[:2000]].to(
    device
)
few = dataset.test[:200].to(device)
attack = config.evaluation()  # epsilon, step size, steps
attacked = attacks.pgd(probe, few.inputs(), few.labels, **attack, generator=torch.Generator().manual_seed(seed))

gallery, known_labels = embeddings.extract(encoder, known.inputs()), known.labels.cpu().numpy()
features = {"clean": embeddings.extract(encoder, few.inputs()), "PGD": embeddings.extract(encoder, attacked)}
nearest = {name: np.argsort(-vectors @ gallery.T, axis=1)[:, :8] for name, vectors in features.items()}

# %% tags=["fold"]
# @title Figure: the nearest training images of three test images, clean and attacked
few_labels = few.labels.cpu().numpy()
own_class = {name: known_labels[found] == few_labels[:, None] for name, found in nearest.items()}
first_of_classes = np.sort(np.unique(few_labels, return_index=True)[1])[:3]  # the first three of different classes
looks = {"clean": few.inputs().cpu().numpy(), "PGD": attacked.cpu().numpy()}
neighbour_rows = [
    (name, looks[name][i], known.inputs()[nearest[name][i]].cpu().numpy(), own_class[name][i])
    for i in first_of_classes
    for name in looks
]
page.figure(
    figures.neighbours(neighbour_rows),
    "Three test images, each clean and attacked, with their eight nearest training images; blue frames for those of the "
    "test image's class, orange for others.",
    f"Of the eight nearest training images {own_class['clean'].mean():.0%} have the class of the test image, and "
    f"{own_class['PGD'].mean():.0%} after PGD with epsilon {config.epsilon:g} (mean of {len(few)} test images). Each pair of "
    "rows is one test image, clean and attacked. Blue frames: its class; orange: another. The attack aimed at the SGD "
    "probe, not at the neighbours.",
    colors=64,
)

# %% [markdown]
# **Claim: pulling the images of a class together and pushing the others apart gives features in which a linear classifier
# finds the classes - and no adversarial robustness comes with it.** The last cells confirm or refute this with the numbers
# of this very run: confirmed means that the SGD probe classifies more than 90% of clean test images correctly, and less than
# 10% under PGD.
#
# **You will learn** what the supervised contrastive loss (SupCon) computes, where its gradient pushes, what the
# temperature does, where its value starts and stops, how to examine a frozen encoder, and what an attack does to
# features.
#
# **You need** notebook 01: epsilon, PGD. Cosines and the softmax.
#
# **Time** 40 minutes to read; the first cell says how long this machine computes. `smoke`: seconds, networks that have
# learned nothing, for tests only. `t4`, `minutes` and `paper`: CIFAR-10 on a GPU, mostly the training of one network.
#
# ## 1 A loss about pairs
#
# Cross-entropy asks one thing of the features: a linear classifier must be able to tell the classes apart. A contrastive
# loss has no classifier. It looks at pairs of images: are they of one class, and how far apart do their features lie?
#
# Each image of a batch is augmented twice, at random. The results are its two **views**. The loss will pull them together,
# so the augmentation says what the features shall *not* depend on.

# %%
generator = torch.Generator().manual_seed(seed)
example = dataset.train.images[0].expand(6, -1, -1, -1)
ours = augment(example, padding=config.crop_padding, flip=config.flip, generator=generator)

photo = torch.tensor(load_sample_image("china.jpg")[20:420, :400].copy()).permute(2, 0, 1)
photo = v2.functional.resize(photo, [96, 96])
cifar = augment(photo.expand(6, -1, -1, -1), padding=12, flip=True, generator=generator)  # 1/8 of the side, as 4 of 32
simclr = v2.Compose(
    [
        v2.RandomResizedCrop(96, scale=(0.2, 1)),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        v2.RandomGrayscale(0.2),
    ]
)
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(seed)
    strong = torch.stack([simclr(photo) for _ in range(6)])

# %% tags=["fold"]
# @title Figure: views of one image under three recipes
height = dataset.train.images.shape[2]
mirrored = " and mirroring" if config.flip else ""
page.figure(
    plotting.image_grid(
        [views.numpy() if views.dtype.is_floating_point else views.numpy() / 255 for views in (ours, cifar, strong)],
        [f"this run:\nshift by up to\n{config.crop_padding} of {height} pixels", "crop and\nmirror", "SimCLR"],
        size=1.05,
    ),
    "Six views of one training image under this run's augmentation, and of a photograph under two stronger ones.",
    f"This run shifts each view by at most {config.crop_padding} of {height} pixels{mirrored}. A row shows six views "
    "of one image. Crop and mirror is usual for CIFAR-10. SimCLR also zooms and changes colours: without labels, views must "
    "be hard to match. The photograph, from scikit-learn, is an example only; no network here has seen it.",
)

# %% [markdown]
# The encoder and a small **projection head** (two more layers, for this loss alone) turn the $M$ views $x_i$ of a batch
# into $M$ vectors. With $h$ for both together, and scaled to length one:
#
# $$z_i = \frac{h(x_i)}{\lVert h(x_i) \rVert}, \qquad c_{ij} = z_i^\top z_j \in [-1, 1] \tag{1}$$
#
# So all vectors lie on a **hypersphere**, the set of all vectors of length one, and $c_{ij}$ is the cosine of the angle
# between two of them.
#
# Take each vector in turn as the **anchor** $i$ (the method ANCHOR is written in capitals). $A(i)$ are all the others. Those with the anchor's label are its
# **positives** $P(i)$; the rest are its **negatives**. The anchor plays a guessing game: *one of the others is picked;
# which one?* It answers with a softmax over the cosines. The **temperature** $\tau$ sets how sharp that softmax is:
#
# $$q_{ia} = \frac{\exp(c_{ia} / \tau)}{\sum_{a' \in A(i)} \exp(c_{ia'} / \tau)} \tag{2}$$
#
# The loss is small if the guess falls on positives, and on all of them alike
# (Khosla et al., [2004.11362](https://arxiv.org/abs/2004.11362), equation 2, there called $L_{\mathrm{out}}$):
#
# $$L_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)} \log q_{ip}, \qquad
# L = \text{mean of } L_i \text{ over anchors with at least one positive} \tag{3}$$


# %%
def my_supcon(z, labels, temperature):
    z = F.normalize(z, dim=1)  # eq. 1
    losses_of_anchors = []
    for i in range(len(z)):
        others = torch.arange(len(z)) != i  # A(i)
        positives = others & (labels == labels[i])  # P(i)
        if positives.any():
            logits = z @ z[i] / temperature
            log_q = logits - logits[others].logsumexp(0)  # eq. 2
            losses_of_anchors.append(-log_q[positives].mean())  # eq. 3
    return torch.stack(losses_of_anchors).mean()


z = torch.randn(40, 16, generator=torch.Generator().manual_seed(seed))
labels = torch.arange(40) % 7
for temperature in (0.05, 0.1, 1.0):
    ours, library = my_supcon(z, labels, temperature), losses.supcon_loss(z, labels, temperature)
    assert torch.allclose(ours, library, rtol=1e-4), (temperature, ours, library)
    print(f"temperature {temperature:<4}: our loop {ours:.5f}, anchor_utils.losses.supcon_loss {library:.5f}")

# %% [markdown]
# The same without a loop, on a batch so small that all its pairs fit into a picture: three classes, two images of each, two
# views of each image. That makes 12 vectors, drawn at random here, and 12 rows, one for each anchor.

# %%
tiny_labels = torch.arange(3).repeat_interleave(4)
generator = torch.Generator().manual_seed(seed)
tiny = torch.randn(3, 6, generator=generator)[tiny_labels] + torch.randn(12, 6, generator=generator)
tiny = F.normalize(tiny, dim=1)
itself = torch.eye(12, dtype=torch.bool)

cosines = tiny @ tiny.T  # eq. 1
guess = (cosines / 0.5).masked_fill(itself, -torch.inf).softmax(1)  # eq. 2
positives = (tiny_labels[:, None] == tiny_labels[None, :]) & ~itself
target = positives / positives.sum(1, keepdim=True)  # 1 / |P(i)| on the positives, 0 elsewhere
row_losses = -torch.where(positives, target * guess.log(), 0).sum(1)  # eq. 3
assert torch.allclose(row_losses.mean(), losses.supcon_loss(tiny, tiny_labels, 0.5), rtol=1e-5)

# %% tags=["fold"]
# @title Figure: the cosines, the guess and the target of a small batch
row = 5
page.figure(
    figures.batch_matrices(*(m.numpy() for m in (cosines, guess, target)), tiny_labels.numpy(), anchor=row),
    "Three 12 by 12 matrices of a small batch: the cosines, the softmax guess of each row, and the target, which is one "
    "third on each positive. The diagonal is crossed out.",
    f"The orange anchor puts {guess[row, positives[row]].sum():.0%} of its guess on its positives; its loss is "
    f"{row_losses[row]:.2f}. Follow its row: cosines, their softmax, the target. The loss is the cross-entropy of the last "
    "two. Blue squares hold pairs of one class. The diagonal is crossed out: an anchor is neither its own positive nor its "
    "own negative.",
)

# %% [markdown]
# ### Exercise 1 · SimCLR is a special case
#
# SimCLR (Chen et al., [2002.05709](https://arxiv.org/abs/2002.05709)) has no labels: the only positive of a view is the
# other view of the same image. Its loss, NT-Xent, is usually written as a classification: *which of the $2N - 1$ others is
# my twin?*
#
# Write it so, with `F.cross_entropy` and without labels. `first` and `second` are the embeddings `(N, D)` of the two
# views, row for row, of any length. The result is the mean over all $2N$ anchors. Hint: stack the views, and find the row
# number of each one's twin.


# %% tags=["exercise"]
def nt_xent(first, second, temperature):
    """SimCLR's loss of two views (N, D) each, a scalar."""
    # BEGIN SOLUTION
    n = len(first)
    z = F.normalize(torch.cat([first, second]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)  # nobody guesses itself
    twin = torch.cat([torch.arange(n) + n, torch.arange(n)])
    return F.cross_entropy(logits, twin)
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 1
@lesson.check("Exercise 1")
def _():
    first, second = 3 * torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1))
    both_views, one_each = torch.cat([first, second]), torch.arange(7).repeat(2)  # every image is a class of its own
    for temperature in (0.1, 1.0):
        value = nt_xent(first, second, temperature)
        assert value.ndim == 0, "The result should be a scalar."
        longer = nt_xent(first, 2 * second, temperature)
        assert torch.allclose(value, longer, rtol=1e-4), "Longer vectors change the value, and only angles should."
        unit = F.normalize(both_views, dim=1)
        similarity = unit @ unit.T / temperature
        of_pairs = similarity[:7, 7:].diagonal()
        crowded = similarity.logsumexp(1).mean() - of_pairs.mean()
        assert not torch.allclose(value, crowded, rtol=1e-4), "An anchor must not be one of its own candidates."
        lonely = (similarity[:7, 7:].logsumexp(1) - of_pairs).mean()
        assert not torch.allclose(value, lonely, rtol=1e-4), "An anchor has more candidates than the N second views."
        expected = losses.supcon_loss(both_views, one_each, temperature)
        assert torch.allclose(value, expected, rtol=1e-4), f"Expected {expected:.4f}, got {value:.4f}."


# %% [markdown] tags=["solution"]
# With one positive the mean in equation 3 has one term, and equation 3 *is* `cross_entropy` with the twin as class. The check
# compares with SupCon where each image is a class of its own. So SupCon differs from SimCLR in one thing: labels say
# that other images are positives too. Without labels, images of one's own class count as negatives.

# %% [markdown]
# ## 2 Where the gradient pushes, and what temperature does
#
# Equation 3 is a cross-entropy: the target is uniform over the positives, the guess is $q$. So its gradient has the
# form that every cross-entropy has, guess minus target:
#
# $$\frac{\partial L_i}{\partial c_{ip}} = \frac{1}{\tau}\Bigl(q_{ip} - \frac{1}{|P(i)|}\Bigr) \ \text{for positives},
# \qquad \frac{\partial L_i}{\partial c_{in}} = \frac{1}{\tau}\, q_{in} \ \text{for negatives} \tag{4}$$
#
# Cosine $c_{ij}$ is $z_i^\top z_j$, so the gradient at $z_j$ is that number times $z_i$, and descent goes against it. So the
# force on $z_j$ is parallel to the anchor, and **target minus guess** is its length (over $\tau$) and its sign. Positive:
# pulled towards the anchor. Negative: pushed away.
#
# Only the part of a force along the sphere moves a point. All anchors pull and push at once; here we look at a single one.
#
# > **Predict, then see.** An anchor has three positives and four negatives. The nearest of the seven is a positive. Can the
# > loss push even *this positive* away? If so, is it at temperature 1 or at 0.1? And which negatives are pushed hardest?

# %%
anchor = torch.tensor([0.0, 1.0])  # at the top of a circle
offsets = torch.tensor([25.0, -60.0, 95.0, -35.0, 50.0, -110.0, 140.0]).deg2rad()  # of the others from the anchor
others = torch.stack([offsets.sin(), offsets.cos()], 1).requires_grad_()
target = torch.tensor([1, 1, 1, 0, 0, 0, 0]) / 3  # the first three are its positives
guesses = {}
for tau in (0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0):
    cosines = others @ anchor
    loss_of_anchor = -(target * (cosines / tau).log_softmax(0)).sum()
    (gradient,) = torch.autograd.grad(loss_of_anchor, others)
    q = (cosines.detach() / tau).softmax(0)
    assert torch.allclose(gradient, torch.outer(q - target, anchor) / tau, atol=1e-5)  # eq. 4
    guesses[tau] = q
for tau in (1.0, 0.1):
    q = guesses[tau]
    print(
        f"tau {tau:<3g}: target - guess of positive A, the nearest, {target[0] - q[0]:+.2f}; "
        f"the nearest negative, D, gets {q[3] / q[3:].sum():.0%} of the push on negatives"
    )

# %% tags=["fold"]
# @title Slider: the forces of one anchor, by temperature
page.slider(
    "temperature",
    [f"{tau:g}" for tau in guesses],
    figures.temperature_frames(
        anchor.numpy(), others.detach().numpy(), target.numpy(), {tau: q.numpy() for tau, q in guesses.items()}
    ),
    "An anchor at the top of a circle and seven others with an arrow each, up for pulled and down for pushed; beside it, "
    "bars of the guess, lines of the target, and the same arrows from one to the other.",
    f"At $\\tau$ = 0.1 positive A is {'pushed away' if guesses[0.1][0] > target[0] else 'pulled'} "
    f"({target[0] - guesses[0.1][0]:+.2f}), at $\\tau$ = 1 {'pushed away' if guesses[1.0][0] > target[0] else 'pulled'} "
    f"({target[0] - guesses[1.0][0]:+.2f}). Arrows lead from the guess (grey) to the target (black), and stand on the "
    "points: up is towards the anchor. Blue: positives; orange: negatives. Arrows omit the factor $1/\\tau$, which acts "
    "like a learning rate.",
    start=list(guesses).index(0.1),
    strip=3,
    colors=128,
)

# %% [markdown]
# At low temperature the guess is nearly all on the nearest points. A has *more* than its third, and is pushed away: the
# loss wants all positives alike, not one very close. At high temperature the guess is spread, and every positive is pulled.
#
# Negatives have target zero, so they are only ever pushed. At high temperature the far ones get their share; at low
# temperature nearly all of the push goes to the nearest. So temperature decides **which neighbours an anchor sees** (Wang
# and Liu, [2012.09740](https://arxiv.org/abs/2012.09740)).
#
# ### Exercise 2 · The mean inside the logarithm
#
# There is a second way to write a loss of several positives, called $L_{\mathrm{in}}$ by Khosla et al.: first the mean of
# the shares, then the logarithm.
#
# $$L_i^{\mathrm{in}} = -\log \frac{1}{|P(i)|} \sum_{p \in P(i)} q_{ip} \tag{5}$$
#
# Write it **without a loop**, from the whole matrix of cosines and masks; again the mean over the anchors with a positive.
# Before you run the check: which of the two losses is the larger one, and when are they equal? Hint: stay with logarithms,
# `logsumexp` over the positives. Beware of the diagonal, and of rows without a positive.


# %% tags=["exercise"]
def supcon_in_loss(z, labels, temperature):
    """L_in of embeddings (M, D) of any length with labels (M,), a scalar."""
    # BEGIN SOLUTION
    z = F.normalize(z, dim=1)
    itself = torch.eye(len(z), dtype=torch.bool)
    positives = (labels[:, None] == labels[None, :]) & ~itself
    log_q = (z @ z.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1)
    log_q, positives = log_q[positives.any(1)], positives[positives.any(1)]
    log_sum = log_q.masked_fill(~positives, -torch.inf).logsumexp(1)
    return (positives.sum(1).log() - log_sum).mean()  # eq. 5
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 2
@lesson.check("Exercise 2")
def _():
    z = 2 * torch.randn(11, 4, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3])  # the last one has no positive
    pairs = torch.arange(5).repeat(2)
    for temperature in (0.1, 0.5):
        value, outside = supcon_in_loss(z, labels, temperature), losses.supcon_loss(z, labels, temperature)
        assert torch.isfinite(value), "NaN or infinity: look at the anchor that has no positive."
        assert not torch.allclose(value, outside, rtol=1e-4), "This is L_out, equation 3, and not equation 5."
        unit = F.normalize(z, dim=1)
        weights = (unit @ unit.T / temperature).exp()
        same = labels[:, None] == labels[None, :]
        crowded = -torch.stack([(w[s] / w.sum()).mean().log() for w, s in zip(weights, same, strict=True)]).mean()
        assert not torch.allclose(value, crowded, rtol=1e-4), (
            "The anchor counts among its own positives and candidates."
        )
        weights.fill_diagonal_(0)
        same.fill_diagonal_(False)
        rows = [-(w[s] / w.sum()).mean().log() for w, s in zip(weights, same, strict=True) if s.any()]
        expected, over_all = torch.stack(rows).mean(), torch.stack(rows).sum() / len(z)
        assert not torch.allclose(value, over_all, rtol=1e-4), "The anchor without a positive takes part in the mean."
        assert torch.allclose(value, expected, rtol=1e-4), f"Expected {expected:.4f}, got {value:.4f}."
        assert value <= outside, "L_in should be at most L_out."
        one = supcon_in_loss(z[:10], pairs, temperature), losses.supcon_loss(z[:10], pairs, temperature)
        assert torch.allclose(*one, rtol=1e-4), "With one positive for each anchor the two losses are equal."


# %% [markdown] tags=["solution"]
# The logarithm is concave, so by Jensen's inequality the log of the mean is at least the mean of the logs:
# $L^{\mathrm{in}} \le L^{\mathrm{out}}$. They are equal if all positives of an anchor have one and the same share, for
# instance if there is only one.
#
# The difference matters. $L^{\mathrm{in}}$ never pushes a positive away, but it pulls each one in proportion to the share
# it *already has*: one close positive is enough, and far positives are forgotten. $L^{\mathrm{out}}$ pulls the far ones
# hardest (the arrows above), and notebook 04 goes further in that direction.

# %% [markdown]
# ## 3 The hypersphere in two dimensions
#
# In the plane the hypersphere is a circle, and a vector is an angle. We drop network and images, throw 24 points of three
# classes on one third of the circle, and let the loss move them: plain gradient descent on the 24 angles. The step is
# proportional to $\tau$, so that the factor $1/\tau$ of equation 4 cancels and only the *distribution* of the forces
# differs.
#
# > **Predict, then see.** There is room for every class to gather in one point, and three points are farthest apart at 120
# > degrees. Will the groups get there at $\tau = 2$? At $\tau = 0.05$? And will the loss reach zero?

# %%
circle_labels = torch.arange(3).repeat_interleave(8)
start = math.pi / 2 + math.radians(120) * (torch.rand(24, generator=torch.Generator().manual_seed(seed)) - 0.5)


def on_circle(angles):
    return torch.stack([angles.cos(), angles.sin()], 1)


def descend(angles, temperature, steps):
    path, values = [], []
    for _ in range(steps + 1):
        angles = angles.clone().requires_grad_()
        value = losses.supcon_loss(on_circle(angles), circle_labels, temperature)
        (gradient,) = torch.autograd.grad(value, angles)
        path.append(angles.detach())
        values.append(value.item())
        angles = angles.detach() - 3 * temperature * gradient
    return torch.stack(path), np.array(values)


paths = {t: descend(start, t, steps=300) for t in (0.05, 0.2, 2.0)}

# %% tags=["fold"]
# @title Figure: a filmstrip of the descent at three temperatures


def gaps(angles):
    """Where the three groups lie (radians, in order) and how far each is from the next one (degrees)."""
    middle = torch.stack([on_circle(angles)[circle_labels == k].mean(0) for k in range(3)]).numpy()
    places = np.sort(np.arctan2(middle[:, 1], middle[:, 0]))
    return places, np.rad2deg(np.diff(places, append=places[0] + 2 * np.pi))


final_gaps = {t: gaps(path[-1]) for t, (path, _) in paths.items()}
smallest_gap = {t: float(degrees.min()) for t, (_, degrees) in final_gaps.items()}
ends = ", ".join(f"{gap:.0f}° ($\\tau$={t:g})" for t, gap in smallest_gap.items())
page.figure(
    figures.descent_filmstrip(
        {t: (path.numpy(), values) for t, (path, values) in paths.items()},
        circle_labels.numpy(),
        [0, 4, 8, 20, 300],
        final_gaps,
    ),
    "Filmstrip: 24 points of three classes on a circle under SupCon, for three temperatures; the classes gather into "
    "groups. In the last column the angles between neighbouring groups are written.",
    f"After 300 steps the nearest groups are apart by {ends}. Each row starts from the same points; time runs to the right. "
    "Do a colour's points gather before the groups part, or while they do? Compare first and last row. Points here move freely; "
    "those of a network move together.",
    colors=128,
)

# %% [markdown]
# For losses without labels the two movements have names: **alignment**, positives come together, and **uniformity**,
# everything spreads (Wang and Isola, [2005.10242](https://arxiv.org/abs/2005.10242)).
#
# At low temperature the groups all but stop where they hardly see each other any more, with much of the circle left empty.
# That is no minimum: three points at 120 degrees are best at *every* temperature (exercise 3). But the force that leads
# there shrinks like $e^{-\text{gap} / \tau}$, the gap being that between the cosines.
#
# So in finite time low temperature sorts the near neighbours and leaves the far order alone; high temperature spreads
# everything. Practice lies between the two, often at 0.1.
#
# ## 4 Where the loss starts, and where it stops
#
# Two numbers puzzle everybody who trains with SupCon for the first time. The loss starts near a certain value, and
# sometimes never leaves it. Then it falls, and stops far above zero. Both values can be worked out beforehand.
#
# A fresh network sends all images to nearly the same place (section 6 shows it). With all cosines alike the guess is
# uniform over the $M - 1 = 2N - 1$ others of a batch of $N$ images, whatever the temperature (the logarithm is the natural
# one, and its unit is called nat):
#
# $$L_i = \log(2N - 1) \quad \text{if all } c_{ij} \text{ are equal} \tag{6}$$
#
# The guess must spread over all positives, so at best it *is* the target, and the loss is the target's entropy:
#
# $$L_i \ge \log |P(i)|, \quad \text{reached as the negatives' share of } q \text{ goes to } 0
# \text{ with all positives at one distance} \tag{7}$$
#
# > **Predict, then see.** The two views of a batch are stacked: the first view of all images, then the second view of all.
# > The line `wrong` below labels them in another order. Where will the loss of that network stop?


# %%
def first_steps(labels_of_views, steps=40):
    """The losses of the first steps; `labels_of_views` turns the labels (N,) into those of the views (2N,)."""
    network = training.new_network(config.replace(method="supcon"), dataset).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=config.learning_rate, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(steps):
        chosen = torch.randint(len(dataset.train), (config.batch_size,), generator=generator)
        batch = dataset.train[chosen]
        options = {"padding": config.crop_padding, "flip": config.flip, "generator": generator}
        crops = [augment(batch.images, **options) for _ in range(2)]
        z = network.project(network.encode(torch.cat(crops).float().to(device) / 255))
        loss = losses.supcon_loss(z, labels_of_views(batch.labels).to(device), config.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return np.array(values)


right = first_steps(lambda y: y.repeat(2))  # y1 y2 y3 ... y1 y2 y3 ...
wrong = first_steps(lambda y: y.repeat_interleave(2))  # y1 y1 y2 y2 y3 y3 ...

# %%
plateau = math.log(2 * config.batch_size - 1)  # eq. 6
floors, generator = [], torch.Generator().manual_seed(seed)
for _ in range(50):  # a class with n images in the batch has 2 n views, so 2 n - 1 positives for each anchor
    drawn = dataset.train.labels[torch.randperm(len(dataset.train), generator=generator)[: config.batch_size]]
    counts = torch.bincount(drawn).float()[drawn]
    floors.append((2 * counts - 1).log().mean().item())  # eq. 7
floor = float(np.mean(floors))

# %% tags=["fold"]
# @title Figure: the loss between its start and its floor
history = run.metrics()
stuck, final_loss = float(wrong[-10:].mean()), float(history["contrastive"].iloc[-1])
page.figure(
    figures.start_and_floor(
        {"right labels": right, "wrong labels": wrong},
        (history["epoch"].to_numpy(), history["contrastive"].to_numpy()),
        plateau,
        floor,
    ),
    "Left: the SupCon loss of the first steps with right and with wrong labels of the views; both start at the logarithm of "
    "2N - 1, and one stays there. Right: the loss of the whole training by epoch, above its floor.",
    f"With wrong labels the loss stays at {stuck:.2f}; $\\log(2N - 1)$ is {plateau:.2f}. With right labels the full training "
    f"ends at {final_loss:.2f}, above a floor of {floor:.2f}. Left: single batches; right: means of epochs. Compare a loss with "
    "its two lines, not with zero. The floor is a mean over batches; that of one batch varies.",
    svg=True,
)

# %% [markdown]
# `wrong` labels the first two images as the first one, and so on. Such labels have nothing to do with the images, so no
# guess is better than the uniform one. $\log(2N - 1)$ is the loss of a network that knows nothing about the pairs.
#
# If yours stays there, look for labels in the wrong order, a **collapse** (all cosines near one), or a learning rate that is
# too high or too low. The loss of a batch can never be below that batch's floor. If yours is, positives are missing from the
# sum of equation 2, or the loss is scaled (see *What can go wrong*).
#
# The floor also says why the groups on the circle stopped at low temperature: there was next to nothing left to gain.

# %%
corners = on_circle(2 * math.pi / 3 * circle_labels)  # the three groups at 120 degrees
for t, (_, values) in paths.items():
    best = losses.supcon_loss(corners, circle_labels, t)
    print(f"tau {t:<4g}: after 300 steps {values[-1]:.4f}, at 120 degrees {best:.4f}, floor log 7 = {math.log(7):.4f}")
    assert values.min() >= math.log(7) - 1e-4  # eq. 7: 8 points a class, 7 positives for each anchor

# %% [markdown]
# ### Exercise 3 · The lowest loss there is
#
# In $K - 1$ or more dimensions, $K$ balanced classes do best as a **regular simplex**: all images of a class in one point,
# all cosines between classes equal to $-1/(K-1)$ (Graf et al., [2102.08817](https://arxiv.org/abs/2102.08817), who show
# the same of cross-entropy with bounded features and weights). Three points at 120 degrees are the case $K = 3$.
#
# With $n$ vectors a class, what is the loss of equation 3 there? Put the cosines into equations 2 and 3 by hand, and write
# the result as a function of three numbers. No tensors are needed.


# %% tags=["exercise"]
def lowest_supcon_loss(classes, per_class, temperature):
    """SupCon loss (a float) of `classes` classes with `per_class` vectors each, arranged as a regular simplex."""
    # BEGIN SOLUTION
    positives, negatives = per_class - 1, (classes - 1) * per_class
    difference = -1 / (classes - 1) - 1  # cosine of a negative minus that of a positive
    return math.log(positives + negatives * math.exp(difference / temperature))
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 3
@lesson.check("Exercise 3")
def _():
    for classes, per_class, temperature in ((3, 8, 2.0), (3, 8, 0.2), (10, 12, 0.5), (2, 5, 1.0)):
        labels = torch.arange(classes).repeat_interleave(per_class)
        simplex = F.normalize(torch.eye(classes, dtype=torch.float64) - 1 / classes, dim=1)  # its rows are the corners
        expected = losses.supcon_loss(simplex[labels], labels, temperature).item()
        value = float(lowest_supcon_loss(classes, per_class, temperature))
        case = f"{classes} classes of {per_class} at temperature {temperature}: "
        assert abs(value - math.log(per_class - 1)) > 1e-9, case + "this is the floor of eq. 7, and not reached."
        similarity = simplex[labels] @ simplex[labels].T / temperature
        crowded = (similarity.logsumexp(1) - similarity.diagonal()).mean().item()
        assert abs(value - crowded) > 1e-9, case + "is the anchor one of its own candidates?"
        opposite = torch.where(labels[:, None] == labels, 1, -1) / temperature
        opposite = opposite.double().fill_diagonal_(-torch.inf).log_softmax(1)[0, 1].item()
        assert classes == 2 or abs(value + opposite) > 1e-9, case + "cosine -1 is only possible for two classes."
        assert abs(value - expected) < 1e-6, case + f"expected {expected:.5f}, got {value:.5f}."


# %% [markdown] tags=["solution"]
# All $n - 1$ positives have the logit $1/\tau$ and all $(K-1)n$ negatives $-1/((K-1)\tau)$, so each positive has the share
# $q = 1 / (n - 1 + (K-1)\, n\, e^{-K / ((K-1)\tau)})$, and the loss is $-\log q$. The exponential decides how far above
# $\log(n-1)$ the lowest loss lies: for ten classes, it is $e^{-11.1}$ at $\tau = 0.1$ and $e^{-0.56}$ at $\tau = 2$.

# %% [markdown]
# ## 5 What the frozen encoder has learned
#
# The usual examination of features: freeze the encoder, drop the projection head, and train a *linear* classifier on top, a
# **linear probe**. There are two here. The SGD probe of the first cell is a layer, trained on augmented images; section 7
# attacks it. The **logistic probe** is scikit-learn's logistic regression on scaled vectors of up to 2,000 training images as
# they are. It takes any vectors, so every candidate below gets one.
#
# A second examiner needs no training at all: the **k nearest neighbours** among training images vote.
#
# A number alone says little, since digits are easy and even random features are of some use. So four candidates sit the
# same examination: raw pixels, the features of the same network *before* training, the trained features, and what the
# projection head makes of them.

# %%
untrained = training.new_network(config.replace(method="supcon"), dataset).to(device)
test = dataset.test[: config.test_images].to(device)
candidates = {
    "raw pixels": lambda images: images.flatten(1).cpu().numpy(),
    "features, untrained": lambda images: embeddings.extract(untrained, images),
    "features, SupCon": lambda images: embeddings.extract(encoder, images),
    "projection, SupCon": lambda images: embeddings.extract(encoder, images, layer="projection"),
}


def examine(represent, train_images, train_labels, test_images, test_labels):
    """Accuracy of a logistic probe and of 10 nearest neighbours."""
    vectors, query = represent(train_images), represent(test_images)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, tol=1e-3))
    score = linear.fit(vectors, train_labels).score(query, test_labels)
    return {"logistic probe": score, "neighbours": embeddings.knn_accuracy(vectors, train_labels, query, test_labels)}


test_labels = test.labels.cpu().numpy()
class_scores = {
    name: examine(f, known.inputs(), known_labels, test.inputs(), test_labels) for name, f in candidates.items()
}

# %% [markdown]
# Why drop the head, if it was trained for the purpose? Because it may throw away whatever the loss did not ask for. Chen et
# al. tested this on something no label speaks of: by how many quarter turns has an image been rotated?


# %%
def turned(images, generator):
    """The images, made square, each rotated by 0 to 3 quarter turns; and how many."""
    side = min(images.shape[-2:])
    turns = torch.randint(4, (len(images),), generator=generator)
    rotated = [torch.rot90(image[:, :side, :side], int(k), (1, 2)) for image, k in zip(images, turns, strict=True)]
    return torch.stack(rotated), turns.numpy()


generator = torch.Generator().manual_seed(seed)
train_turned, test_turned = turned(known.inputs()[:1000], generator), turned(test.inputs()[:500], generator)
turn_scores = {name: examine(f, *train_turned, *test_turned) for name, f in candidates.items()}

# %% tags=["fold"]
# @title Figure: what each representation tells the examiners


def intervals(scores, images):
    """For each examiner: accuracies and 95% Wilson intervals of all candidates, (accuracy, low, high) each (C,)."""
    found = {}
    for examiner in ("logistic probe", "neighbours"):
        accuracy = [score[examiner] for score in scores.values()]
        found[examiner] = np.array([(a, *results.wilson(round(a * images), images)) for a in accuracy]).T
    return found


last, head = class_scores["features, SupCon"]["logistic probe"], class_scores["projection, SupCon"]["logistic probe"]
turn_last, turn_head = (turn_scores[f"{layer}, SupCon"]["logistic probe"] for layer in ("features", "projection"))
page.figure(
    figures.examination(
        list(candidates),
        {
            "which class?": intervals(class_scores, len(test)),
            "which rotation?": intervals(turn_scores, len(test_turned[1])),
        },
        {"which class?": 1 / len(dataset.classes), "which rotation?": 1 / 4},
    ),
    "Accuracy of a logistic probe and of ten nearest neighbours on four representations, for the class of an image and for "
    "its rotation, with intervals.",
    f"Logistic probes on features and projection classify {last:.1%} and {head:.1%} of the test images; for the rotation it is "
    f"{turn_last:.0%} and {turn_head:.0%}, from raw pixels {turn_scores['raw pixels']['logistic probe']:.0%}. Bars: 95% Wilson intervals; "
    "dotted: guessing. The two upper rows cost no training. The encoder was trained with more labels than the probes.",
    svg=True,
)

# %% [markdown]
# The head was trained with the very labels that the left panel asks for, so there both layers will do. It is dropped all the
# same, because features are wanted for *other* tasks, and the head may throw away what they need: compare the two layers in
# the right panel (one task, one network). Where pretraining had no labels, the head costs accuracy on the classes, too (Chen
# et al., section 4.2).
#
# ## 6 The geometry, measured
#
# The loss promised that cosines within a class are high and those between classes low. We look at all pairs among test
# images, which the network has never seen.
#
# > **Predict, then see.** The loss was computed on the output of the projection head. Where will the two kinds of pairs be
# > farther apart: in the features before the head, or in the projection after it?

# %%
pictured = test[: config.embedding_images]
same = (pictured.labels[:, None] == pictured.labels[None, :]).cpu().numpy()
upper = np.triu(np.ones_like(same), 1)  # each pair once
pairs, typical = {}, {}
for name, represent in candidates.items():
    if name != "raw pixels":
        vectors = represent(pictured.inputs())
        cosine = vectors @ vectors.T
        pairs[name] = cosine[upper & same], cosine[upper & ~same]
        typical[name] = tuple(float(np.median(kind)) for kind in pairs[name])
apart = {name: within - between for name, (within, between) in typical.items()}
simplex = -1 / (len(dataset.classes) - 1)

# %% tags=["fold"]
# @title Figure: cosines within classes and between them
page.figure(
    figures.pair_cosines(pairs, typical, simplex),
    "Histograms of the cosines of same-class and different-class pairs of test images, in the untrained network's features, "
    "the SupCon features and the SupCon projection, with the distance of the medians.",
    f"The medians lie {apart['features, untrained']:.2f} apart before training, {apart['features, SupCon']:.2f} in the trained "
    f"features, {apart['projection, SupCon']:.2f} in the projection. Blue: pairs of one class; orange: of two. The dotted line is "
    "the simplex of exercise 3. Features come after a ReLU, so their cosines cannot be negative; the panels' gaps do not "
    "compare like for like.",
    svg=True,
)

# %% [markdown]
# The fresh network sends all images to nearly one place, as equation 6 assumed; a logistic probe still finds much in what
# little differs (section 5). After training each class is gathered. A gap shows whether classes are gathered, not whether
# they can be told apart.
#
# ## 7 And under attack?
#
# Classes in tight groups, with gaps between them: it is tempting to conclude that an image needs a large change to get from
# one group to another. But the gaps are distances between *features*, and epsilon bounds the change of *pixels*. How far a
# feature moves when a pixel moves was never part of the loss.
#
# We attack the SGD probe of the first cell (encoder frozen, no attack in its training). Uniform noise within the same
# epsilon, a change without an aim, is the control. A dash in the table stands where a row has no such setting: clean images
# are not changed, and noise is a single draw, without steps.

# %%
table = evaluation.evaluate(probe, pictured, ("clean", "noise", "pgd"), **attack, seed=seed)
columns = ["attack", "accuracy", "low", "high", "images", "epsilon", "step_size", "steps", "restarts"]
table[columns].map(lambda v: v if isinstance(v, str) else "-" if pd.isna(v) else f"{round(v, 3):g}")

# %% [markdown]
# Where do the features of attacked images lie? We compare each with the **centres** of the classes, the mean features of
# training images, scaled to length one.
#
# The PGD above wants the SGD probe to be wrong; it does not care about distances. So its images might be told from clean ones
# by lying far from every centre. But an attack can be made to care (Sabour et al.,
# [1511.05122](https://arxiv.org/abs/1511.05122)), and whoever proposes a detector has to attack the detector (Carlini and
# Wagner, [1705.07263](https://arxiv.org/abs/1705.07263)). Ours maximises the largest cosine with a wrong centre.
#
# How well distance gives attacked images away is measured by the **AUC**: how often a clean image lies nearer to its nearest
# centre than an attacked one does. 1 is a perfect detector, 1/2 is guessing.
#
# > **Predict, then see.** Where will the features of PGD's images lie: near their own group, in the gap, or near a wrong
# > group? And will the distance to the nearest centre give away the images of the second attack?

# %%
centres = torch.stack([torch.tensor(gallery[known_labels == k]).mean(0) for k in range(len(dataset.classes))])


class CentreCosines(torch.nn.Module):
    """Images -> cosines (N, K) of their features with the centres, in place of logits."""

    def __init__(self, network):
        super().__init__()
        self.network, self.centres = network, torch.nn.Parameter(F.normalize(centres, dim=1).to(device))

    def forward(self, images):
        return F.normalize(self.network.encode(images), dim=1) @ self.centres.T


def nearest_wrong_centre(cosines, labels):
    return cosines.scatter(1, labels[:, None], -1).amax(1)


detector = CentreCosines(probe)
generator = torch.Generator().manual_seed(seed)
aimed = attacks.pgd(detector, few.inputs(), few.labels, **attack, loss=nearest_wrong_centre, generator=generator)
shifted = augment(
    few.inputs(), padding=config.crop_padding, flip=config.flip, generator=torch.Generator().manual_seed(seed)
)
images = {"clean": few.inputs(), "second view": shifted, "PGD on SGD probe": attacked, "PGD on distances": aimed}

# %%
to_own, to_other, given_away, probe_right, neighbours_right = {}, {}, {}, {}, {}
for name, x in images.items():
    with torch.no_grad():
        cosines = detector(x)
        probe_right[name] = (probe(x).argmax(1) == few.labels).float().mean().item()
    to_own[name] = cosines.gather(1, few.labels[:, None])[:, 0].cpu().numpy()
    to_other[name] = nearest_wrong_centre(cosines, few.labels).cpu().numpy()
    # The AUC of the largest cosine; a tie counts half.
    score, clean = (np.maximum(to_own[kind], to_other[kind]) for kind in (name, "clean"))
    given_away[name] = float((clean[:, None] > score).mean() + (clean[:, None] == score).mean() / 2)
    vectors = embeddings.extract(encoder, x)
    neighbours_right[name] = embeddings.knn_accuracy(gallery, known_labels, vectors, few_labels)

# %% tags=["fold"]
# @title Figure: how near images lie to their own centre and to another
wrong_centre = {name: float((to_own[name] <= to_other[name]).mean()) for name in images}
page.figure(
    figures.distances_to_centres(to_own, to_other),
    "Cosine of each test image with the centre of its own class, against that with the nearest other centre, for clean "
    "images, second views, and two attacks; points above the diagonal are nearer to a wrong centre.",
    f"PGD on the SGD probe puts {wrong_centre['PGD on SGD probe']:.0%} of {len(few)} images nearest to a wrong centre. Distance gives "
    f"them away with AUC {given_away['PGD on SGD probe']:.2f}; after PGD on distances it is {given_away['PGD on distances']:.2f} "
    "(1/2: guessing; below: attacked images lie nearer than clean ones). Below the diagonal (blue): nearest to the own "
    "centre; above (orange): to another. A simple detector only.",
    colors=64,
)

# %% tags=["fold"]
# @title The same in numbers
kept = {
    name: float(np.median((features["clean"] * embeddings.extract(encoder, x)).sum(1))) for name, x in images.items()
}
pd.DataFrame(
    {
        "nearest to a wrong centre": wrong_centre,
        "SGD probe right": probe_right,
        "10 neighbours right": neighbours_right,
        "AUC of the distance": given_away,
        "median cosine with the clean image": kept,
    }
).round(3)

# %% [markdown]
# So tight groups are not robustness: the attacks carry images towards a wrong group. Nor are the neighbours, which the first
# attack never saw, a defence: whoever goes by these features goes wrong with them. And lying farther from the nearest centre
# is a mark of *one* attack, not of attacked images: the second attack undoes it.
#
# ## What can go wrong
#
# - **The diagonal.** Leave the anchor among its own candidates, and $c_{ii} = 1$, the largest cosine there is, takes part
#   of the guess. Leave it among its own positives, and it is rewarded for being equal to itself. Neither crashes: compare
#   with a loop, as in section 1.
# - **The order of the labels.** Stacked views need `labels.repeat(2)`, interleaved ones `repeat_interleave(2)` (section 4).
# - **Scale conventions.** The original code multiplies the loss by $\tau / \tau_{\mathrm{base}}$; the equation does not.
#   With other temperatures the same learning rate then means something else.
# - **$L_{\mathrm{out}}$ or $L_{\mathrm{in}}$.** They are different losses with different gradients; Khosla et al. find
#   $L_{\mathrm{out}}$ better.
# - **Batches without positives.** With few images for many classes, an anchor may have none but its own second view, or none
#   at all. Dividing by $|P(i)| = 0$ gives NaN; averaging over *all* anchors shrinks the loss.
# - **No normalisation.** Without unit length the loss can fall by making vectors longer, without changing an angle.
# - **Probing in train mode.** BatchNorm must be in eval mode, or the features of an image depend on its batch.
# - **Comparing losses** of runs with other batch sizes, numbers of classes or temperatures: their start and floor differ.
# - **Calling features robust because a classifier or detector held out that the attack never saw.** Attack that one.
#
# ## What we saw

# %% tags=["fold"]
# @title What this run found, what it did not, and the verdict
by_attack = table.set_index("attack")["accuracy"]
interval = table.set_index("attack").loc["pgd"]
confirmed = by_attack["clean"] > 0.9 and by_attack["pgd"] < 0.1
within, between = typical["projection, SupCon"]
probe_of = {name: score["logistic probe"] for name, score in class_scores.items()}
lesson.say(
    f"**Found.** The loss started at {right[0]:.2f}, near $\\log(2N - 1)$ = {plateau:.2f}, and ended at {final_loss:.2f}, above its floor of {floor:.2f}. Same-class "
    f"pairs have a median cosine of {within:.2f} in the projection, others {between:.2f}. A logistic probe classifies "
    f"{probe_of['features, SupCon']:.1%} of {len(test)} test images correctly, with raw pixels {probe_of['raw pixels']:.1%}, "
    f"with an untrained network {probe_of['features, untrained']:.1%}.\n\n"
    f"**Under attack.** The SGD probe classifies **{by_attack['clean']:.1%}** of {interval['images']} clean images correctly, "
    f"{by_attack['noise']:.1%} with uniform noise of size {config.epsilon:g}, and **{by_attack['pgd']:.1%}** (95% interval "
    f"{interval['low']:.1%} to {interval['high']:.1%}) under L-infinity PGD of that size: {config.eval_steps} steps of "
    f"{config.eval_step_size:g}, one restart, any iterate counts. Of {len(few)} images so attacked (last iterate) the nearest "
    f"neighbours classify {neighbours_right['PGD on SGD probe']:.1%} correctly.\n\n"
    f"**Not found.** A gain from dropping the head, for the classes: on its output the logistic probe differs by {100 * (head - last):+.1f} points "
    f"({head:.1%} against {last:.1%}). A detector: with the distance to the nearest centre, AUC falls from "
    f"{given_away['PGD on SGD probe']:.2f} to {given_away['PGD on distances']:.2f} once the attack minds it (1/2 is guessing; the reversed rule "
    f"would have {1 - given_away['PGD on distances']:.2f} on this attack).\n\n"
    f"The claim is **{'confirmed' if confirmed else 'not confirmed'}** by this run, with training seed {config.seed}."
)

# %% [markdown]
# ### Expected values
#
# The numbers of this run, kept for the report of notebook 08, beside the bands in which other machines should find them.

# %% tags=["fold"]
# @title The numbers of this run beside their bands
lesson.finish(
    "03",
    preset,
    config,
    {
        "claim_confirmed": float(confirmed),
        "supcon_loss": final_loss,
        "supcon_loss_floor": floor,
        "supcon_loss_wrong_labels_above_start": stuck - plateau,
        "supcon_loss_after_40_steps": float(right[-10:].mean()),
        "supcon_knn_accuracy": class_scores["features, SupCon"]["neighbours"],
        "supcon_logistic_accuracy": probe_of["features, SupCon"],
        "pixels_logistic_accuracy": probe_of["raw pixels"],
        "untrained_logistic_accuracy": probe_of["features, untrained"],
        "supcon_rotation_features_accuracy": turn_last,
        "supcon_rotation_projection_accuracy": turn_head,
        "supcon_same_class_cosine": within,
        "supcon_different_class_cosine": between,
        "supcon_neighbours_of_own_class_under_pgd": float(own_class["PGD"].mean()),
        "supcon_pgd_feature_cosine": kept["PGD on SGD probe"],
        "supcon_knn_accuracy_under_pgd": neighbours_right["PGD on SGD probe"],
        "supcon_wrong_centre_under_pgd": wrong_centre["PGD on SGD probe"],
        "supcon_distance_auc_pgd": given_away["PGD on SGD probe"],
        "supcon_distance_auc_aimed": given_away["PGD on distances"],
        "untrained_cosine_gap": apart["features, untrained"],
        "supcon_features_cosine_gap": apart["features, SupCon"],
        "supcon_projection_cosine_gap": apart["projection, SupCon"],
        "circle_gap_degrees_tau_0_05": smallest_gap[0.05],
        "circle_gap_degrees_tau_2": smallest_gap[2.0],
        **{f"supcon_probe_{name}_accuracy": float(value) for name, value in by_attack.to_dict().items()},
    },
)

# %% [markdown]
# **Limits.** One data set, one network, one training seed, one temperature, and no network trained with cross-entropy
# beside it. On digits the views are shifts by at most one pixel, far weaker than what is usual for
# photographs. Raw pixels alone go far on digits, so the accuracy of a probe shows that the features are good, not that SupCon
# is needed for it. The attacks know all weights. One attack that works is enough to show that a network is *not* robust.
#
# **References.** Khosla et al., *Supervised contrastive learning*, arXiv 2004.11362 · Chen et al., *A simple framework for
# contrastive learning of visual representations* (SimCLR), arXiv 2002.05709 · Wang and Isola, *Understanding contrastive
# representation learning through alignment and uniformity on the hypersphere*, arXiv 2005.10242 · Graf et al., *Dissecting
# supervised contrastive learning*, arXiv 2102.08817 · Wang and Liu, *Understanding the behaviour of contrastive loss*,
# arXiv 2012.09740 · Sabour et al., *Adversarial manipulation of deep representations*, arXiv 1511.05122 · Carlini and
# Wagner, *Adversarial examples are not easily detected*, arXiv 1705.07263.
#
# **Where to go on.** [04 · Hard-positive mining](04_hard_positive_mining.ipynb) changes one line of this loss. To let the
# loss see attacked images is the idea of SupCon-AT and ANCHOR, in notebook 05.
