# %% [markdown]
# # 03 · Supervised contrastive learning
#
# **Claim: pulling the images of a class together and pushing the others apart gives features from which a linear
# classifier reads the classes - and no adversarial robustness comes with it.** The last cell confirms or refutes this
# with the numbers of this very run: confirmed means more than 90% of clean test images read, and less than 10% under PGD.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/anchor-course/blob/main/notebooks/03_supervised_contrastive_learning.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/OWNER/anchor-course#the-notebooks)
#
# **You will learn** what the supervised contrastive loss (SupCon) computes, where its gradient pushes, what the
# temperature does, why its value stops far above zero, how to measure what a frozen encoder has learned, and what an
# attack does to features.
#
# **You need** notebook 01: epsilon, PGD. Cosines and the softmax.
#
# **Time** the first cell measures how fast this machine is and says how long the notebook takes here. `smoke`: seconds,
# networks that have learned nothing, for tests only. `t4` and `paper`: CIFAR-10 on a GPU, mostly the training of one network.

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

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anchor_utils import attacks, embeddings, evaluation, losses, models, plotting, results, training
from anchor_utils.augmentation import augment
from course import lesson
from course.figures import lesson_03 as figures

config, dataset, device = lesson.start("03", preset, overrides, seed, runs_dir, data_root)

# %% [markdown]
# ## 1 A loss about distances
#
# Cross-entropy asks one thing of the features: that its linear classifier can tell the classes apart. *Where* they lie
# it settles only through that classifier. A contrastive loss speaks about nothing else. It looks at pairs of images: are
# they of one class, and how far apart do they lie? No classifier takes part.
#
# Take a batch and make two **views** of each image, random crops for example: $M$ views $x_i$ in all. Send them through
# the **encoder** (the network without its last linear layer) and a small **projection head** (two more layers, for this
# loss alone). With $h$ for both together, the results $h(x_i)$ are $M$ vectors, and we scale them to length one:
#
# $$z_i = \frac{h(x_i)}{\lVert h(x_i) \rVert}, \qquad c_{ij} = z_i^\top z_j \in [-1, 1] \tag{1}$$
#
# So all vectors lie on a hypersphere, and $c_{ij}$ is the cosine of the angle between two of them. Take each vector in turn as
# the **anchor** $i$. $A(i)$ are all the others, $P(i)$ those of them with the anchor's label, its **positives**. The rest of
# $A(i)$ are its **negatives**. The anchor now plays a guessing game: *one of the others is picked; which one?* It
# answers with a softmax over the cosines, and the temperature $\tau$ sets how sharp that softmax is:
#
# $$q_{ia} = \frac{\exp(c_{ia} / \tau)}{\sum_{a' \in A(i)} \exp(c_{ia'} / \tau)} \tag{2}$$
#
# The loss is small if the guesses fall on positives, on all of them alike
# (Khosla et al., [2004.11362](https://arxiv.org/abs/2004.11362), equation 2, there called $L_{\mathrm{out}}$):
#
# $$L_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)} \log q_{ip}, \qquad
# L = \text{mean of } L_i \text{ over anchors with at least one positive} \tag{3}$$
#
# Here it is as a loop, one anchor after the other.


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


generator = torch.Generator().manual_seed(seed)
z = torch.randn(40, 16, generator=generator)
labels = torch.randint(0, 6, (40,), generator=generator)
labels[0] = 6  # a class with a single member: no positive
for temperature in (0.05, 0.1, 1.0):
    ours, library = my_supcon(z, labels, temperature), losses.supcon_loss(z, labels, temperature)
    assert torch.allclose(ours, library, rtol=1e-4), (temperature, ours, library)
    print(f"temperature {temperature:<4}: our loop {ours:.5f}, anchor_utils.losses.supcon_loss {library:.5f}")

# %% [markdown]
# To see equations 1 to 3 at once, take a batch so small that all its pairs fit into a picture: three classes, two images of
# each, two views of each image. That makes 12 vectors (random ones here, no images yet) and 12 rows, one for each anchor.

# %%
tiny_labels = torch.arange(3).repeat_interleave(4)
generator = torch.Generator().manual_seed(seed)
tiny = F.normalize(torch.randn(3, 6, generator=generator)[tiny_labels] + torch.randn(12, 6, generator=generator), dim=1)
itself = torch.eye(12, dtype=torch.bool)
tiny_cosines = tiny @ tiny.T  # eq. 1
guess = (tiny_cosines / 0.5).masked_fill(itself, -torch.inf).softmax(1)  # eq. 2
positives = (tiny_labels[:, None] == tiny_labels[None, :]) & ~itself
target = positives / positives.sum(1, keepdim=True)  # 1 / |P(i)| on the positives, 0 elsewhere
row_losses = -torch.where(positives, target * guess.log(), 0).sum(1)  # eq. 3
assert torch.allclose(row_losses.mean(), losses.supcon_loss(tiny, tiny_labels, 0.5), rtol=1e-5)

matrices = (matrix.numpy() for matrix in (tiny_cosines, guess, target))
plotting.show(
    figures.batch_matrices(*matrices, tiny_labels.numpy(), anchor=5),
    "Three 12 by 12 matrices of a small batch: the cosines, the softmax guess of each row, and the target, which is one "
    "third on each positive. The diagonal is crossed out.",
)

# %% [markdown]
# **Reading the figure.** Blue squares hold the pairs of one class. Follow the orange row, one anchor, through the three panels:
# its cosines; the softmax of these, its guess; the target, alike on its three positives. The loss of the row is the
# cross-entropy of the last two. The diagonal is crossed out in all three: an anchor is neither its own positive nor its own
# negative. If guess and target were equal in each row, no gradient would be left.
#
# ### Exercise 1 · SimCLR is a special case
#
# SimCLR has no labels: the only positive of a view is the other view of the same image. Its loss (NT-Xent) is usually
# written as an ordinary classification: *which of the $2N - 1$ others is my twin?* Write it so, with `F.cross_entropy` and
# without any labels. `first` and `second` are the embeddings `(N, D)` of the two views, row for row, of any length; the
# result is the mean over all $2N$ anchors. Hint: stack the views, and find the row number of each one's twin.


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
        scaled = nt_xent(first, 2 * second, temperature)
        assert torch.allclose(value, scaled, rtol=1e-4), "Longer vectors change the value: scale them to length one."
        unit = F.normalize(both_views, dim=1) @ F.normalize(both_views, dim=1).T / temperature
        twins = (torch.arange(14) + 7) % 14
        with_itself = F.cross_entropy(unit, twins)
        assert not torch.allclose(value, with_itself, rtol=1e-4), "Each anchor is still among its own candidates."
        only_across = F.cross_entropy(unit[:7, 7:], torch.arange(7))
        assert not torch.allclose(value, only_across, rtol=1e-4), (
            "The other images' first views are candidates as well."
        )
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
# Cosine $c_{ij}$ is $z_i^\top z_j$, so the gradient at the vector $z_j$ is that number times $z_i$. The force on $z_j$, which
# is minus the gradient, is an arrow parallel to the anchor: **target minus guess** is its length (over $\tau$) and its
# sign. Positive: pulled towards the anchor. Negative: pushed away. Only the part of a force along the sphere moves a point,
# and all anchors pull and push at the same time; here we look at what a single one does.
#
# > **Predict, then see.** An anchor has three positives and four negatives. The nearest of the seven is a positive. Can the
# > loss push even *this positive* away? If so, is it at temperature 1 or at 0.1? And which negatives are pushed hardest?

# %%
anchor = torch.tensor([0.0, 1.0])  # at the top of a circle
offsets = torch.tensor([25.0, -60.0, 95.0, -35.0, 50.0, -110.0, 140.0]).deg2rad()  # of the others from the anchor
others = torch.stack([offsets.sin(), offsets.cos()], 1).requires_grad_()
target = torch.tensor([1, 1, 1, 0, 0, 0, 0]) / 3  # the first three are its positives
guesses = {}
for tau in (1.0, 0.1):
    cosines = others @ anchor
    loss_of_anchor = -(target * (cosines / tau).log_softmax(0)).sum()
    (gradient,) = torch.autograd.grad(loss_of_anchor, others)
    q = (cosines.detach() / tau).softmax(0)
    assert torch.allclose(gradient, torch.outer(q - target, anchor) / tau, atol=1e-5)  # eq. 4
    guesses[tau] = q

plotting.show(
    figures.anchor_forces(
        anchor.numpy(), others.detach().numpy(), target.numpy(), {tau: q.numpy() for tau, q in guesses.items()}
    ),
    "An anchor at the top of a circle and seven others with an arrow each, up for pulled and down for pushed, at "
    "temperatures 1 and 0.1; below, bars of the guess, lines of the target, and the same arrows from one to the other.",
    svg=True,
)
nearest_force = {tau: float(target[0] - q[0]) for tau, q in guesses.items()}
hardest = {tau: float(q[3:].max() / q[3:].sum()) for tau, q in guesses.items()}
for tau, force in nearest_force.items():
    print(
        f"tau {tau:<3g}: positive A is {'pulled' if force > 0 else 'pushed away'} (target - guess = {force:+.2f}); "
        f"the nearest negative D gets {hardest[tau]:.0%} of the push on negatives"
    )

# %% [markdown]
# **Reading the figure.** The arrows of a column are the same ones above and below. Below, an arrow leads from the guess (grey)
# to the target (black line); above, it sits on the point, up towards the anchor or down away from it (without the factor
# $1/\tau$). Find A, the nearest positive. At $\tau = 1$ its guess is below one third, so it is pulled. At $\tau = 0.1$ the
# guess is nearly all on the two nearest points. A has *more* than its third, and is pushed away: the loss wants all
# positives alike, not one very close. For the negatives the target is zero, so they are only ever pushed. At $\tau = 1$
# the far ones get a share of it too; at $\tau = 0.1$ next to nothing. An arrow that missed its black line would be a
# mistake in equation 4.
#
# Seven points are few. The next figure asks the last question of the box with 21 negatives, spread evenly in cosine.

# %%
spread = np.linspace(-1, 1, 21)
# The push is q / tau (eq. 4). The shares of the negatives alone are a softmax over them: positives and tau cancel.
shares = {f"$\\tau$ = {t:g}": torch.tensor(spread / t).softmax(0).numpy() for t in (2.0, 0.5, 0.2, 0.1)}
figure, axis = plt.subplots(figsize=(7, 3.6))
plotting.curves(axis, spread, shares, xlabel="cosine of the negative with the anchor", ylabel="share of the whole push")
axis.set_xticks([-1, -0.5, 0, 0.5, 1])
plotting.show(
    figure,
    "Share of the push that each of 21 negatives gets, against its cosine; nearly flat at high temperature, all on the "
    "nearest negatives at low temperature.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** Each dot is one negative; the dots of a curve sum to 100%. At high temperature all negatives are
# pushed nearly alike, also those on the far side of the sphere. At low temperature nearly all of the push goes to the few
# that are nearest. So temperature decides *which neighbours an anchor sees* (Wang and Liu,
# [2012.09740](https://arxiv.org/abs/2012.09740)). It also scales the gradient by $1/\tau$, which acts like a learning
# rate. If all curves were the same one, the second effect would be all there is.
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
        assert torch.isfinite(value), "NaN or infinity: leave out the row without a positive."
        assert not torch.allclose(value, outside, rtol=1e-4), (
            "This is L_out, equation 3: the mean must be inside the log."
        )
        unit = F.normalize(z, dim=1)
        weights = (unit @ unit.T / temperature).exp()
        same = labels[:, None] == labels[None, :]
        with_itself = -torch.stack([(w[s] / w.sum()).mean().log() for w, s in zip(weights, same, strict=True)]).mean()
        assert not torch.allclose(value, with_itself, rtol=1e-4), (
            "The anchor counts among its own positives and candidates."
        )
        weights.fill_diagonal_(0)
        same.fill_diagonal_(False)
        rows = [-(w[s] / w.sum()).mean().log() for w, s in zip(weights, same, strict=True) if s.any()]
        expected, over_all = torch.stack(rows).mean(), torch.stack(rows).sum() / len(z)
        assert not torch.allclose(value, over_all, rtol=1e-4), "Divide by the number of anchors that have a positive."
        assert torch.allclose(value, expected, rtol=1e-4), f"Expected {expected:.4f}, got {value:.4f}."
        assert value <= outside, "L_in should be at most L_out."
        one = supcon_in_loss(z[:10], pairs, temperature), losses.supcon_loss(z[:10], pairs, temperature)
        assert torch.allclose(*one, rtol=1e-4), "With one positive for each anchor the two losses are equal."


# %% [markdown] tags=["solution"]
# The logarithm is concave, so by Jensen's inequality the log of the mean is at least the mean of the logs:
# $L^{\mathrm{in}} \le L^{\mathrm{out}}$. They are equal if all positives of an anchor have one and the same share, for
# instance if there is only one. The difference matters: $L^{\mathrm{in}}$ never pushes a positive away, but it pulls each
# one in proportion to the share it *already has*. One close positive is enough, and far positives are forgotten.
# $L^{\mathrm{out}}$ pulls the far ones hardest (the arrows above), and notebook 04 goes further in that direction.

# %% [markdown]
# ## 3 The hypersphere in two dimensions
#
# In the plane the hypersphere is a circle, and a vector is an angle. We drop network and images, throw 24 points of three
# classes on one third of the circle (section 6 looks where a fresh network sends its images), and let the loss move
# them: plain gradient descent on the 24 angles. The step is proportional to $\tau$, so that the factor $1/\tau$ of equation
# 4 cancels and only the *distribution* of the forces differs.
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


def gaps(angles):
    """Where the three groups lie (radians, in order) and how far each is from the next one (degrees)."""
    middle = torch.stack([on_circle(angles)[circle_labels == k].mean(0) for k in range(3)]).numpy()
    places = np.sort(np.arctan2(middle[:, 1], middle[:, 0]))
    return places, np.rad2deg(np.diff(places, append=places[0] + 2 * np.pi))


temperatures, last_step = (0.05, 0.2, 2.0), 300
paths = {t: descend(start, t, last_step) for t in temperatures}
final_gaps = {t: gaps(path[-1]) for t, (path, _) in paths.items()}
smallest_gap = {t: float(degrees.min()) for t, (_, degrees) in final_gaps.items()}

steps = np.unique(np.geomspace(1, last_step + 1, 42).round().astype(int)) - 1
drawn = {t: (path.numpy(), values) for t, (path, values) in paths.items()}
plotting.animate(
    figures.descent_frames(drawn, circle_labels.numpy(), steps),
    "Animation: 24 points of three classes start on one third of a circle and are moved by SupCon at temperatures 0.05, "
    "0.2 and 2; they gather by class, and the groups move apart, at low temperature not far. Below, the three losses.",
    milliseconds=120,
    colors=128,
)

# %% [markdown]
# **Reading the figure.** All three circles start alike. Watch one colour: first its points run together, past points of other
# classes. Then the groups push each other away. Watch *when* they all but stop, and what the loss below does at that moment
# (in nats: the logarithm is the natural one). If temperature were only a learning rate, all circles would end alike. For
# losses without labels the two movements have names, *alignment* and *uniformity* (Wang and Isola,
# [2005.10242](https://arxiv.org/abs/2005.10242)). The same once more as a filmstrip, to compare at leisure.

# %%
shown = [0, 4, 8, 20, last_step]
plotting.show(
    figures.descent_filmstrip(drawn, circle_labels.numpy(), shown, final_gaps),
    "Filmstrip: 24 points of three classes on a circle under SupCon, for three temperatures; the classes gather into "
    "groups. In the last column the angles between neighbouring groups are written.",
)
ends = ", ".join(f"{gap:.0f} degrees at $\\tau$ = {t:g}" for t, gap in smallest_gap.items())
lesson.say(
    f"After {last_step} steps the two nearest groups are {ends}. The losses have come down to "
    + ", ".join(f"{values[-1]:.3f}" for _, values in paths.values())
    + ": none to zero."
)

# %% [markdown]
# **Reading the figure.** Each row starts from the same points; time runs to the right; the numbers in the last column are the
# angles between groups. At high temperature every negative pushes, however far it is, until the three groups are spread
# evenly. At low temperature a negative at some distance gets next to no push (the two figures of section 2), and the
# groups all but stop where they hardly see each other any more, with much of the circle left empty. That is no minimum:
# three points at 120 degrees are best at *every* temperature (exercise 3), but the force that leads there shrinks like
# $e^{-\text{gap} / \tau}$, the gap being that between the cosines. So in finite time low temperature sorts the near
# neighbours and leaves the far order alone, high temperature spreads everything. Practice lies between the two: at 0.1,
# often. Had the colours stayed mixed, or all points run into one, the loss would not do what its equation promises.
#
# ## 4 The loss does not go to zero
#
# One number puzzles everybody who trains with SupCon for the first time: the loss falls, and then stops far above zero.
# Equation 3 says why. The guess $q$ must spread over all positives, and a cross-entropy with a uniform target of $|P(i)|$
# entries is at least the entropy of that target:
#
# $$L_i \ge \log |P(i)|, \quad \text{reached as the negatives' share of } q \text{ goes to } 0
# \text{ with all positives at one distance} \tag{6}$$

# %%
corners = on_circle(2 * math.pi / 3 * circle_labels)  # the three groups at 120 degrees
floor_on_circle = math.log(7)  # eq. 6: 8 points a class, 7 positives for each anchor
for t, (_, values) in paths.items():
    print(
        f"tau {t:<4g}: loss after {last_step} steps {values[-1]:.4f}, of three points at 120 degrees "
        f"{losses.supcon_loss(corners, circle_labels, t):.4f}, floor log 7 = {floor_on_circle:.4f}"
    )
    assert values.min() >= floor_on_circle - 1e-4  # eq. 6

# %% [markdown]
# So this is where the three curves of the animation went. At low temperature the floor is all but reached while the groups
# are still close together: next to nothing is left to gain, and that is *why* they hardly move any more. At high
# temperature the negatives keep a share, however far they are, and the loss stays above the floor even in the best
# arrangement there is.
#
# ### Exercise 3 · The lowest loss there is
#
# In $K - 1$ or more dimensions, $K$ balanced classes do best as a **regular simplex**: all images of a class in one point,
# all cosines between classes equal to $-1/(K-1)$ (Graf et al., [2102.08817](https://arxiv.org/abs/2102.08817), who show
# the same of cross-entropy with bounded features and weights). Three points at 120 degrees are the case $K = 3$. With $n$
# vectors a class, what is the loss of equation 3 there? Put the cosines into equations 2 and 3 by hand, and write the
# result as a function of three numbers. No tensors are needed.


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
        simplex = torch.eye(classes, dtype=torch.float64) - 1 / classes  # its rows are the corners
        expected = losses.supcon_loss(simplex[labels], labels, temperature).item()
        value = float(lowest_supcon_loss(classes, per_class, temperature))
        case = f"{classes} classes of {per_class} at temperature {temperature}: "
        difference = -1 / (classes - 1) - 1
        floor, share = math.log(per_class - 1), (classes - 1) * per_class * math.exp(difference / temperature)
        assert abs(value - floor) > 1e-9, case + "this is the floor of eq. 6; the negatives still have a share of q."
        itself = math.log(per_class + share)
        assert abs(value - itself) > 1e-9, case + "the anchor is not one of its own candidates."
        one_each = math.log(per_class - 1 + share / per_class)
        assert abs(value - one_each) > 1e-9, case + "each of the other classes has more than one vector."
        opposite = math.log(per_class - 1 + (classes - 1) * per_class * math.exp(-2 / temperature))
        assert classes == 2 or abs(value - opposite) > 1e-9, case + "cosine -1 is only possible for two classes."
        assert abs(value - expected) < 1e-6, case + f"expected {expected:.5f}, got {value:.5f}."


# %% [markdown] tags=["solution"]
# All $n - 1$ positives have the logit $1/\tau$ and all $(K-1)n$ negatives $-1/((K-1)\tau)$, so each positive has the share
# $q = 1 / (n - 1 + (K-1)\, n\, e^{-K / ((K-1)\tau)})$, and the loss is $-\log q$. The exponential decides how far above
# $\log(n-1)$ the lowest loss lies: for ten classes, it is $e^{-11.1}$ at $\tau = 0.1$ and $e^{-0.56}$ at $\tau = 2$.

# %% [markdown]
# Now for real. We train a ResNet-18 with equation 3 on two augmented views of each image. A linear classifier is trained
# beside it, on *detached* features: it reads, and no gradient of it reaches the encoder. If an earlier run with the same
# configuration exists, its checkpoint is used.

# %%
run = training.fit(config.replace(method="supcon"), dataset=dataset)
model = run.model().to(device)
history = run.metrics()

# The floor of eq. 6 for batches like those of the training: two views, so 2 n - 1 positives for a class of n images.
generator = torch.Generator().manual_seed(seed)
floors = []
for _ in range(50):
    drawn = dataset.train.labels[torch.randperm(len(dataset.train), generator=generator)[: config.batch_size]]
    counts = torch.bincount(drawn).float()[drawn]
    floors.append((2 * counts - 1).log().mean().item())  # eq. 6
floor = float(np.mean(floors))

epochs, loss = history["epoch"].to_numpy(), history["contrastive"].to_numpy()
accuracies = {"clean": history["clean_accuracy"], f"PGD-{config.validation_steps}": history["robust_accuracy"]}
plotting.show(
    figures.training_curves(epochs, loss, floor, accuracies),
    "Left: the SupCon loss by epoch above its floor, which lies far above zero. Right: accuracy of the linear classifier "
    "on held-out images, clean and under PGD, by epoch.",
    svg=True,
)
print(
    f"SupCon at temperature {config.temperature:g}, batches of {config.batch_size} images, two views each\n"
    f"PGD-{config.validation_steps}: cross-entropy, L-infinity epsilon {config.epsilon:g}, step {config.step_size:g}, one random "
    f"start, last iterate, {config.validation_images} held-out images, seed {seed}"
)

# %% [markdown]
# **Reading the figure.** Left: compare the loss with its floor, not with zero. The gap between the two is what is left to
# learn. Right: the accuracies of the linear classifier on training images that were held out. The clean one shows the
# features becoming readable, though no gradient of the classifier touched them. The PGD one shows whether robustness comes
# along. A loss below the floor would mean a mistake in the masks: positives that are missing from the sum of equation 2,
# say. (The opposite mistake, an anchor among its own candidates, raises the loss.)
#
# ## 5 What the frozen encoder has learned
#
# The usual examination of features: freeze the encoder, drop the projection head, and train a *linear* classifier on top,
# a **linear probe**. A second examiner needs no training at all: the **k nearest neighbours** among training images vote.
#
# A number alone says little. Digits are easy, and even random features are of some use. So three candidates sit the same
# examination: raw pixels, the features of the same network *before* training, and the trained one, before and after
# its projection head.

# %%
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(seed)
    untrained = models.AnchorNet(**model.architecture).to(device)

order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(seed))[:2000]
known, test = dataset.train[order].to(device), dataset.test[: config.test_images].to(device)
known_labels, test_labels = known.labels.cpu().numpy(), test.labels.cpu().numpy()


def both(network, layer):
    return [embeddings.extract(network, split.inputs(), layer=layer) for split in (known, test)]


candidates = {
    "raw pixels": [split.inputs().flatten(1).cpu().numpy() for split in (known, test)],
    "features, untrained": both(untrained, "features"),
    "features, SupCon": both(model, "features"),
    "projection, SupCon": both(model, "projection"),
}
rows = []
for name, (known_vectors, test_vectors) in candidates.items():
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, tol=1e-3))
    linear = probe.fit(known_vectors, known_labels).score(test_vectors, test_labels)
    nearest = embeddings.knn_accuracy(known_vectors, known_labels, test_vectors, test_labels)
    for examiner, accuracy in (("linear probe", linear), ("10 nearest neighbours", nearest)):
        low, high = results.wilson(round(accuracy * len(test)), len(test))
        rows.append({"representation": name, "examiner": examiner, "accuracy": accuracy, "low": low, "high": high})
examination = pd.DataFrame(rows)
print(f"fitted on {len(known)} training images, scored on {len(test)} test images, 95% Wilson intervals")
examination.round(3)

# %% [markdown]
# Read the table against its first rows: what pixels already give is no merit of the training. The untrained network shows
# what the architecture gives. The distance from there to the SupCon rows is what training has added. If the linear probe
# were far ahead of the neighbours, the classes would be separable but not gathered. One thing is not even: SupCon's
# encoder was trained with the labels of more images than those printed above, which is all that the examiners of pixels
# and of the untrained network get.
#
# ## 6 The geometry, measured
#
# The loss promised that cosines within a class are high and those between classes low. We look at all pairs of test
# images, which the network has never seen.
#
# > **Predict, then see.** The loss was computed on the output of the projection head. Where will the two kinds of pairs be
# > farther apart: in the features before the head, or in the projection after it?

# %%
few = test[: config.embedding_images]
x, y = few.inputs(), few.labels
same = (y[:, None] == y[None, :]).cpu().numpy()
upper = np.triu(np.ones_like(same), 1)
spaces = {
    "features, untrained": (untrained, "features"),
    "features, SupCon": (model, "features"),
    "projection, SupCon": (model, "projection"),
}
pairs = {}
for name, (network, layer) in spaces.items():
    vectors = embeddings.extract(network, x, layer=layer)
    cosine = vectors @ vectors.T
    pairs[name] = cosine[upper & same], cosine[upper & ~same]

typical = {name: (float(np.median(within)), float(np.median(between))) for name, (within, between) in pairs.items()}
apart = {name: within - between for name, (within, between) in typical.items()}
simplex = -1 / (len(dataset.classes) - 1)

plotting.show(
    figures.pair_cosines(pairs, typical, simplex),
    "Histograms of the cosines of same-class and different-class pairs of test images, in the untrained network's features, "
    "the SupCon features and the SupCon projection, with the distance of the medians.",
    svg=True,
)
layers = {name: apart[name] for name in ("features, SupCon", "projection, SupCon")}
lesson.say(
    f"The medians of the two kinds lie {apart['features, untrained']:.2f} apart before training and "
    + " and ".join(f"{gap:.2f} in the {name.split(',')[0]}" for name, gap in layers.items())
    + f" after it: farther apart in the **{max(layers, key=layers.get).split(',')[0]}**."
)

# %% [markdown]
# **Reading the figure.** Each panel shows all pairs of test images, those of one class in blue, the others in orange
# (brown where both are); the bracket spans their medians. Before training, look whether the two kinds can be told apart at
# all. The features lie after a ReLU and an average, so none of their entries is negative, and neither is any cosine; the
# projection has the whole range. The dotted line is the lowest cosine that $K$ gathered classes can have with each other
# on average, $-1/(K-1)$: the simplex of exercise 3, the 120 degrees of section 3. (Single pairs may lie below.) An orange
# hill to its right means groups that stopped short of the simplex, as at low temperature on the circle. If both hills were
# at one place after training, the loss would not have kept its promise, however good the probe: a hill shows whether a
# class is *gathered*, not whether it can be read. Compare the panels with the table, too. Cosines that are all near one
# come from a part that all images share; what little differs can still be of use to a probe. And whether *farther apart*
# also means *better read*, its last rows say.
#
# ## 7 And under attack?
#
# Suppose that the classes lie in tight groups with gaps between them. It is tempting to conclude that an image needs a large
# change to get from one group to another. But the gaps are distances between *features*, and epsilon bounds the change of
# *pixels*. How far a feature moves when a pixel moves was never part of the loss.
#
# We train the linear probe again with the package's own fine-tuning (encoder frozen, clean images), so that
# encoder and probe are one network, and attack that. Uniform noise within the same epsilon, a change without an aim, is the
# control.
#
# > **Predict, then see.** PGD is made to fool the probe. Where will the features of its images lie: still near their own group,
# > in the gap between groups, or across it, near a wrong one? And will the nearest neighbours, unlike the probe, hold out?

# %%
probe_run = training.finetune(run, config, adversarial=False, dataset=dataset)
probe_model = probe_run.model().to(device)
table = evaluation.evaluate(probe_model, few, ("clean", "noise", "pgd"), **config.evaluation(), seed=seed)
table.drop(columns=["outcomes", "notes", "norm", "loss", "seconds"]).round(3)

# %%
few = few[:200]
x, y = few.inputs(), few.labels
adversarial = attacks.pgd(probe_model, x, y, **config.evaluation(), generator=torch.Generator().manual_seed(seed))
cropped = augment(
    few.images, padding=config.crop_padding, flip=config.flip, generator=torch.Generator().manual_seed(seed)
)
views = {"clean": x, "augmented": cropped.float() / 255, "PGD": adversarial}
features = {name: embeddings.extract(probe_model, view) for name, view in views.items()}
kept = {name: (features["clean"] * vectors).sum(1) for name, vectors in features.items()}  # cosine with the clean image

known_vectors = candidates["features, SupCon"][0]
classes = np.unique(known_labels)
centres = np.stack([known_vectors[known_labels == k].mean(0) for k in classes])
centres /= np.linalg.norm(centres, axis=1, keepdims=True)
own = classes[None, :] == y.cpu().numpy()[:, None]
to_centre = {name: vectors @ centres.T for name, vectors in features.items()}
to_own = {name: cosine[own] for name, cosine in to_centre.items()}
to_other = {name: np.where(own, -1, cosine).max(1) for name, cosine in to_centre.items()}

plotting.show(
    figures.distances_to_centres(to_own, to_other),
    "Cosine of each test image with the centre of its own class, against that with the nearest other centre, for clean, "
    "augmented and PGD images; points above the diagonal are nearer to a wrong centre.",
)
nearest_under_attack = embeddings.knn_accuracy(known_vectors, known_labels, features["PGD"], y.cpu().numpy())
nearest_low, nearest_high = results.wilson(round(nearest_under_attack * len(few)), len(few))
wrong_centre = float((to_own["PGD"] <= to_other["PGD"]).mean())
typical_own = float(np.quantile(to_own["clean"], 0.1))  # nine of ten clean images are nearer to their own centre
inside_wrong = float((to_other["PGD"] >= typical_own).mean())
print(f"{len(few)} test images; the attack of the table, last iterate")
print("median cosine of an image's features with those of its clean version")
print("  ".join(f"{name}: {np.median(values):.3f}" for name, values in kept.items()))
lesson.say(
    f"Of the attacked images **{wrong_centre:.1%}** are nearest to a wrong centre. Their median cosine with it is "
    f"{np.median(to_other['PGD']):.2f}, with their own centre {np.median(to_own['PGD']):.2f}. **{inside_wrong:.1%}** are as near "
    f"to the wrong centre as nine of ten clean images are to their own (cosine at least {typical_own:.2f}): deep inside a "
    f"wrong group. The 10 nearest neighbours, which the attack never saw, read {nearest_under_attack:.1%} of them "
    f"(95% interval {nearest_low:.1%} to {nearest_high:.1%})."
)

# %% [markdown]
# **Reading the figure.** A point is a test image. Below the diagonal (blue) it is nearest to the centre of its own class,
# above it (orange) to another one. Bottom right means: deep inside its own group; top left: deep inside a wrong one.
# Compare the three panels. The random crop is a control: training with crops asked for features that do not mind them. The
# PGD panel answers the question above. Points near the diagonal lie in the gap. Points far above it have crossed it: to
# every reader that goes by distance they belong to a wrong class, and the nearest neighbours check just that. Only points
# as high up as the clean ones are far right lie deep inside a wrong group; the others can still be told apart from clean
# images of that class, but by their distance, not by their label. If the right panel looked like the left one while the
# probe failed, only the probe would be fragile under this attack. That would not yet make the features robust: the attack
# aims at the probe, not at distances.
#
# ## What can go wrong
#
# - **The diagonal.** Leave the anchor among its own candidates, and $c_{ii} = 1$, the largest cosine there is, takes part
#   of the guess: the others get a smaller share, and negatives less of a push. Leave it among its own positives, and it is
#   rewarded for being equal to itself. Neither crashes: compare with a loop, as in section 1.
# - **Scale conventions.** The original code multiplies the loss by $\tau / \tau_{\mathrm{base}}$; the equation does not.
#   With other temperatures the same learning rate then means something else. Say which one you use.
# - **$L_{\mathrm{out}}$ or $L_{\mathrm{in}}$.** The mean over positives can stand outside the logarithm (equation 3) or
#   inside it (equation 5). They are different losses with different gradients; Khosla et al. find the outside one better.
# - **Batches without positives.** With few images for many classes, anchors have their own second view as only positive, or
#   none at all. Averaging over *all* anchors then shrinks the loss by the share of those without; dividing by $|P(i)| = 0$
#   gives NaN.
# - **No normalisation.** Without unit length the loss can fall by making vectors longer, without changing an angle.
# - **Probing the wrong layer, or in train mode.** Features are read before the head, with BatchNorm in eval mode.
# - **Reading the loss as if zero were its goal.** See equation 6; the floor depends on batch size and number of classes,
#   and the way down to it on temperature. Losses of runs that differ in one of these do not compare.
# - **Calling features robust because a classifier held out that the attack never saw.** Attack that classifier.
#
# ## What we saw

# %%
by_attack = table.set_index("attack")["accuracy"]
interval = table.set_index("attack").loc["pgd"]
score = examination.set_index(["representation", "examiner"])["accuracy"]
confirmed = by_attack["clean"] > 0.9 and by_attack["pgd"] < 0.1
within, between = typical["projection, SupCon"]
lesson.say(
    f"The SupCon loss ended at {history['contrastive'].iloc[-1]:.2f}; its floor is {floor:.2f}. Same-class pairs of test "
    f"images have a median cosine of {within:.2f} in the projection, pairs of different classes {between:.2f}. A linear "
    f"probe reads {score['features, SupCon', 'linear probe']:.1%} of {len(test)} test images from the frozen features, "
    f"{score['raw pixels', 'linear probe']:.1%} from raw pixels, {score['features, untrained', 'linear probe']:.1%} from an "
    f"untrained network. The probe that was attacked reads **{by_attack['clean']:.1%}** of {interval['images']} clean test "
    f"images. Uniform noise of size epsilon = {config.epsilon:g} leaves {by_attack['noise']:.1%}; L-infinity PGD of the same "
    f"size with {config.eval_steps} steps of {config.eval_step_size:g} and one restart (any iterate counts, seed {seed}) "
    f"leaves **{by_attack['pgd']:.1%}** (95% interval {interval['low']:.1%} to {interval['high']:.1%}), and of {len(few)} "
    f"images so attacked (last iterate) the nearest neighbours read {nearest_under_attack:.1%} (95% interval "
    f"{nearest_low:.1%} to {nearest_high:.1%}). "
    f"The claim is **{'confirmed' if confirmed else 'not confirmed'}** by this run."
)

# %% [markdown]
# ### Expected values
#
# The numbers of this run, kept for the report of notebook 08, beside the bands in which other machines should find them.

# %%
lesson.finish(
    "03",
    preset,
    config,
    {
        "claim_confirmed": float(confirmed),
        "supcon_loss": float(history["contrastive"].iloc[-1]),
        "supcon_loss_floor": floor,
        "supcon_knn_accuracy": float(score["features, SupCon", "10 nearest neighbours"]),
        "supcon_logistic_accuracy": float(score["features, SupCon", "linear probe"]),
        "pixels_logistic_accuracy": float(score["raw pixels", "linear probe"]),
        "untrained_logistic_accuracy": float(score["features, untrained", "linear probe"]),
        "supcon_same_class_cosine": within,
        "supcon_different_class_cosine": between,
        "supcon_pgd_feature_cosine": float(np.median(kept["PGD"])),
        "supcon_knn_accuracy_under_pgd": nearest_under_attack,
        "supcon_wrong_centre_under_pgd": wrong_centre,
        "supcon_inside_wrong_group_under_pgd": inside_wrong,
        "untrained_cosine_gap": apart["features, untrained"],
        "supcon_features_cosine_gap": apart["features, SupCon"],
        "supcon_projection_cosine_gap": apart["projection, SupCon"],
        "circle_gap_degrees_tau_0_05": smallest_gap[0.05],
        "circle_gap_degrees_tau_2": smallest_gap[2.0],
        **{f"supcon_probe_{name}_accuracy": float(value) for name, value in by_attack.to_dict().items()},
    },
)

# %% [markdown]
# **Limits.** One data set, one network, one seed, one temperature, and no network trained with cross-entropy beside it.
# Raw pixels alone go far on digits, so the probe's accuracy shows that the features are good, not that SupCon is needed
# for it. The attack knows the probe's weights. One attack that works is enough to show that a network is *not* robust.
# Next one could let the loss see attacked images: that is SupCon-AT and ANCHOR, in notebook 05.
#
# **References.** Khosla et al., *Supervised contrastive learning*, arXiv 2004.11362 · Chen et al., *A simple framework for
# contrastive learning of visual representations* (SimCLR), arXiv 2002.05709 · Wang and Isola, *Understanding contrastive
# representation learning through alignment and uniformity on the hypersphere*, arXiv 2005.10242 · Graf et al., *Dissecting
# supervised contrastive learning*, arXiv 2102.08817 · Wang and Liu, *Understanding the behaviour of contrastive loss*,
# arXiv 2012.09740.
#
# **Next:** [04 · Hard-positive mining](04_hard_positive_mining.ipynb) changes one line of this loss.
