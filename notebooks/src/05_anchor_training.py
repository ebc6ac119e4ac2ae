# %% [markdown]
# # 05 · ANCHOR training
#
# ANCHOR trains a classifier *and* the features below it to resist attack: every image is seen twice, once augmented and
# once attacked, and one forward pass over both views serves two losses. Features that are robust by themselves can be
# used again, under another classifier. You will see one training step with its real tensors, what the hardness weights
# change and what they do not, and networks compared image by image.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/anchor-course/anchor-course/blob/main/notebooks/05_anchor_training.ipynb)
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
import copy
import dataclasses
import math

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import binomtest

from anchor_utils import attacks, evaluation, losses, objectives, plotting, results, training
from anchor_utils.augmentation import augment
from anchor_utils.config import METHODS
from anchor_utils.models import PRETRAINED_DIR
from course import lesson, page
from course.figures import lesson_05 as figures
from study import mining

config, dataset, device = lesson.start("05", preset, overrides, seed, runs_dir, data_root)
test = dataset.test[: config.test_images].to(device)

# %%
runs = {"anchor": training.fit(config.replace(method="anchor"), dataset=dataset)}


def two_views(model, images, labels, generator):
    """Augmented and adversarial images from a batch of uint8 images; the attacked network is in eval mode."""
    crop = {"padding": config.crop_padding, "flip": config.flip, "generator": generator}
    x_aug, x = (augment(images, **crop).float() / 255 for _ in range(2))
    return x_aug, attacks.pgd(model, x, labels, **config.attack(), generator=generator)  # eq. 4


STUDY = PRETRAINED_DIR / "study.json"  # trainings with more seeds; comes with the course

# %% tags=["fold"]
# @title One step late in the training: its tensors
chosen = torch.cat([(dataset.train.labels == k).nonzero().flatten()[:4] for k in dataset.train.labels.unique()[:4]])
few = dataset.train[chosen].to(device)
y, n = few.labels, len(few)
model = runs["anchor"].model().to(device).train()  # train mode, as in training: BatchNorm uses this batch
x_aug, x_adv = two_views(model, few.images, y, torch.Generator().manual_seed(seed))
factors = {"contrastive_weight": config.contrastive_weight, "temperature": config.temperature, "beta": config.beta}
with torch.no_grad():
    features = model.encode(torch.cat([x_aug, x_adv]))
    logits, z, both = model.classifier(features[n:]), model.project(features), y.repeat(2)
    terms = losses.anchor_loss(logits, y, z, both, **factors)
cosine = z @ z.T
positive = (both[:, None] == both).fill_diagonal_(False)
multiple = losses.hardness_weights(z, both, config.beta) * positive.sum(1, keepdim=True)  # 1 is SupCon's weight
multiple = multiple.masked_fill(~positive, torch.nan)
crossed, same = cosine[:n, n:], both[:n, None] == both[:n]
inside, outside = crossed[same].mean().item(), crossed[~same].mean().item()
lightest, heaviest = (end.item() for end in multiple.nan_to_num(1.0).aminmax())

# %% tags=["fold"]
# @title Drawing: one step, tensor by tensor
tensors = {"batch": few.inputs(), "augmented": x_aug, "adversarial": x_adv, "features": features, "logits": logits}
tensors |= {"embeddings": z, "cosines": cosine, "weights": multiple}
page.figure(
    figures.anchor_step(
        {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()},
        {name: term.item() for name, term in terms._asdict().items() if name != "entropy"},
        epsilon=config.epsilon,
        contrastive_weight=config.contrastive_weight,
    ),
    "Diagram of one ANCHOR step with the real tensors: batch, augmented and adversarial view, one pass through the encoder, "
    "features, logits and cross-entropy above, embeddings, cosines, weights and contrastive loss below, and their sum.",
    f"Between augmented and adversarial views the mean cosine is **{inside:.2f}** within a class and {outside:.2f} across "
    f"classes: that is what the blocks show. Grey is shared, blue the classifier's branch, orange the contrastive "
    f"one; rows above a line are augmented views. The weights' colours are stretched to {lightest:.2f} and "
    f"{heaviest:.2f} times SupCon's.",
)

# %% [markdown]
# **Claim: one forward pass over an augmented and an adversarial view is enough to train adversarial cross-entropy and a
# hardness-weighted contrastive loss together, into features that stay robust under PGD when a new linear classifier is put
# on them.** The last cells confirm or refute this with this run's numbers. Whether the hardness weights *add* robustness is
# a question here, not a claim.
#
# This is a **reconstruction**. Of the paper (Bhattacharya, Bhattacharya, Chakraborty,
# [2510.27599](https://arxiv.org/abs/2510.27599)) we follow title, abstract and summary; the equations and the values of the
# hyper-parameters are ours.
#
# **You will learn** what every tensor of the step is, how hard each loss pulls on the encoder, how to tell whether a
# hyper-parameter like $\beta$ does anything, and which controls the claim needs.
#
# **You need** notebooks 02 (adversarial training), 03 (SupCon) and 04 (hardness weights).
#
# **Time** the first cell says how long the notebook takes here. `smoke`: seconds, for tests only. `t4`: a free Colab GPU.
# `paper`: GPU hours.
#
# ## 1 The objective
#
# Adversarial training (notebook 02) teaches the *output* of a network not to move under attack. A contrastive loss
# (notebook 03) says where its *features* should lie. ANCHOR does both.
#
# Each of a batch's $N$ images is seen twice: once augmented ($x_{\text{aug}}$), once augmented and attacked
# ($x_{\text{adv}}$). All $2N$ **views** go through the encoder and a projection head to embeddings $z_i$ of length one, with
# cosines $c_{ip} = z_i^\top z_p$. Each view in turn is the **anchor** $i$. Its **positives** $P(i)$ are all other views
# with its label; $A(i)$ are all other views.
#
# The **hardness weights** of notebook 04 let a far positive count more. $\beta \ge 0$ is the hardness; at $\beta = 0$ all
# weights are equal, and the loss is SupCon:
#
# $$w_{ip} = \operatorname{stop\_grad}\; \frac{e^{-\beta c_{ip}}}{\sum_{p' \in P(i)} e^{-\beta c_{ip'}}} \tag{1}$$
#
# They are the *target* of a cross-entropy. The *guess* $q$ is a softmax over all other views, with temperature $\tau$:
#
# $$L_i = - \sum_{p \in P(i)} w_{ip} \log q_{ip}, \qquad q_{ia} = \frac{e^{c_{ia} / \tau}}{\sum_{a' \in A(i)} e^{c_{ia'} / \tau}},
# \qquad L_{\text{HP}} = \operatorname{mean}_{i:\, P(i) \ne \emptyset} L_i \tag{2}$$
#
# New is the sum with the cross-entropy CE of a classifier. The classifier learns from the adversarial half, the contrastive
# term from both halves, and $\lambda$ weighs them:
#
# $$L = \mathrm{CE}\bigl(\text{classifier}(\text{encoder}(x_{\text{adv}})), y\bigr)
# + \lambda \, L_{\text{HP}}\bigl(\text{projection}(\text{encoder}([x_{\text{aug}}; x_{\text{adv}}]))\bigr) \tag{3}$$
#
# The adversarial view comes from PGD on the cross-entropy of the true label, with the network in eval mode. It starts from
# a *second* augmentation $x'$, moved by a uniform random $u \in [-\varepsilon, \varepsilon]$ in each pixel. $\alpha$ is the
# step size, $T$ the number of steps, and $\Pi$ cuts every pixel back to within $\varepsilon$ of $x'$ and to $[0, 1]$:
#
# $$x^{(0)} = \Pi(x' + u), \qquad x^{(t+1)} = \Pi\bigl(x^{(t)} + \alpha \operatorname{sign} \nabla_x
# \mathrm{CE}(\text{classifier}(\text{encoder}(x^{(t)})), y)\bigr), \qquad x_{\text{adv}} = x^{(T)} \tag{4}$$
#
# The hope: an adversarial view has been pushed away from its class, as the classifier sees it. If its embedding lies far
# too, it is a hard positive, and eq. 1 gives it more weight. We shall measure how much more.
#
# ## 2 The step in code
#
# `two_views`, above the picture, is eq. 4. The rest is below. Note what is *not* there: no second forward pass for the
# other view, and no second network.


# %%
def anchor_step(model, images, labels, optimizer, generator):
    """One ANCHOR step; returns the loss and its two terms."""
    x_aug, x_adv = two_views(model, images, labels, generator)
    features = model.encode(torch.cat([x_aug, x_adv]))  # one pass: BatchNorm sees both views together
    logits = model.classifier(features).chunk(2)[1]  # the classifier learns from the adversarial half
    z, both = model.project(features), labels.repeat(2)
    cosine = z @ z.T
    itself = torch.eye(len(both), dtype=torch.bool, device=z.device)
    positive = (both[:, None] == both) & ~itself
    w = (-config.beta * cosine.detach()).masked_fill(~positive, -1e9).softmax(1) * positive  # eq. 1
    log_q = (cosine / config.temperature).masked_fill(itself, -1e9).log_softmax(1)
    contrastive = -(w * log_q).sum() / positive.any(1).sum()  # eq. 2
    cross_entropy = F.cross_entropy(logits, labels)
    loss = cross_entropy + config.contrastive_weight * contrastive  # eq. 3
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item(), cross_entropy.item(), contrastive.item()


# %% tags=["fold"]
# @title Is this what the package does? One step of both, from the same network and random numbers
order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(seed))
batch = dataset.train[order[: config.batch_size]].to(device)
package_config = config.replace(method="anchor", classifier_view="adversarial")


def fresh_network():
    """The untrained network from which every encoder in this notebook starts."""
    return training.new_network(package_config, dataset).to(device)


def sgd(model):
    factors = {"momentum": config.momentum, "weight_decay": config.weight_decay}
    return torch.optim.SGD(model.parameters(), lr=config.learning_rate, **factors)


ours, theirs = fresh_network().train(), fresh_network().train()
our_loss, our_ce, our_hp = anchor_step(ours, batch.images, batch.labels, sgd(ours), torch.Generator().manual_seed(seed))
package_generator, optimizer = torch.Generator().manual_seed(seed), sgd(theirs)


def attack(images, labels):
    return attacks.pgd(theirs, images, labels, **config.attack(), generator=package_generator)


forward = objectives.Heads(theirs, "anchor")
loss, parts, *_ = objectives.batch_loss(package_config, forward, attack, batch.images, batch.labels, package_generator)
loss.backward()
optimizer.step()
for ours_says, package_says in ((our_loss, loss), (our_ce, parts["cross_entropy"]), (our_hp, parts["contrastive"])):
    assert math.isclose(ours_says, package_says.item(), rel_tol=1e-4), (ours_says, package_says)
pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
difference = max((a.float() - b.float()).abs().max().item() for a, b in pairs)
assert difference < 1e-4, difference
print(f"loss {our_loss:.4f} = cross-entropy {our_ce:.4f} + {config.contrastive_weight:g} x contrastive {our_hp:.4f}")
print(f"objectives.batch_loss: {loss.item():.4f}; largest difference in any weight after the step: {difference:.1g}")

# %% [markdown]
# The training loop of the package repeats this step. It adds a learning-rate schedule, the choice of the best epoch on
# held-out training images and, where the preset asks for it (`epsilon_warmup`), an epsilon that grows from 0.
#
# ## 3 How hard does each term pull?
#
# The two losses have different sizes, but what moves the encoder is their gradients. For the weights $\theta$ of a group of
# layers (the stem or a stage of the ResNet), the contrastive term's share of the **pull** is
#
# $$s_\theta = \frac{\lVert \lambda \nabla_\theta L_{\text{HP}} \rVert}{\lVert \lambda \nabla_\theta L_{\text{HP}} \rVert +
# \lVert \nabla_\theta \mathrm{CE} \rVert} \tag{5}$$
#
# A share near 0 or 1 would mean that one term is only along for the ride. We also take the cosine between the two gradients:
# 1 is the same direction, 0 means that a small step along one leaves the other as it is, below 0 that it raises it.


# %%
def gradients(network):
    """For each group of layers the gradients of the two terms, and of SupCon in place of the second."""
    network = copy.deepcopy(network).train()
    x_aug, x_adv = two_views(network, batch.images, batch.labels, torch.Generator().manual_seed(seed))
    features = network.encode(torch.cat([x_aug, x_adv]))
    z, both = network.project(features), batch.labels.repeat(2)
    contrast = losses.hard_positive_supcon_loss
    terms = {
        "ce": F.cross_entropy(network.classifier(features).chunk(2)[1], batch.labels),
        "hp": config.contrastive_weight * contrast(z, both, config.temperature, config.beta),
        "supcon": config.contrastive_weight * contrast(z, both, config.temperature, 0.0),
    }
    groups = [list(layers.parameters()) for layers in (network.stem, *network.stages)]
    found = {
        name: [torch.autograd.grad(term, group, retain_graph=True) for group in groups] for name, term in terms.items()
    }
    return {name: [torch.cat([g.flatten() for g in group]) for group in each] for name, each in found.items()}


def share_of_contrastive(hp, ce):
    return (hp.norm() / (hp.norm() + ce.norm())).item()  # eq. 5


# %% tags=["fold"]
# @title Drawing: the share of the contrastive term
moments = {"before training": fresh_network(), "after training": runs["anchor"].model().to(device)}
group_shares, share, angle, changed = {}, {}, {}, {}
for moment, network in moments.items():
    found = gradients(network)
    group_shares[moment] = [share_of_contrastive(*pair) for pair in zip(found["hp"], found["ce"], strict=True)]
    ce, hp, supcon = (torch.cat(found[name]) for name in ("ce", "hp", "supcon"))
    changed[moment] = ((hp - supcon).norm() / supcon.norm().clamp_min(1e-12)).item()
    share[moment], angle[moment] = share_of_contrastive(hp, ce), F.cosine_similarity(hp, ce, dim=0).item()
page.figure(
    figures.contrastive_shares(["stem", "stage 1", "stage 2", "stage 3", "stage 4"], *group_shares.values()),
    "Share of the contrastive term in the gradient of each group of layers of the encoder, before and after training.",
    f"Over the whole encoder the contrastive term makes {share['before training']:.0%} of the pull before training and "
    f"{share['after training']:.0%} after it; the cosine between the two gradients is {angle['before training']:+.2f} before "
    f"and {angle['after training']:+.2f} after. Above the dotted line the contrastive term pulls harder. One batch of "
    f"{len(batch)} images.",
    svg=True,
)

# %% [markdown]
# ## 4 The full run
#
# Three methods, with the same start, epochs, learning rates and attack: **PGD-AT** (cross-entropy on adversarial images
# only), **SupCon-AT** (eq. 3 with $\beta = 0$) and **ANCHOR**.
#
# Each step records the **hardness entropy**, the entropy of the weights as a share of the largest possible one: 1 is
# SupCon, 0 means that the hardest positive has all the weight.
#
# $$H = \operatorname{mean}_{i:\, |P(i)| > 1}\; \frac{- \sum_{p \in P(i)} w_{ip} \log w_{ip}}{\log |P(i)|} \tag{6}$$
#
# $|P|^{H}$ says the same as the **effective number of positives** of notebook 04: over how many positives an anchor spreads
# its weight.
#
# > **Predict, then see.** The contrastive term is a cross-entropy with the soft target $w$, and a cross-entropy never falls
# > below the entropy of its target. So: will it approach zero? And at $\beta = 1/\tau = 10$, over how many of its
# > positives will an anchor spread its weight: two, half of them, or nearly all?

# %%
for method in ("pgd_at", "supcon_at"):
    runs[method] = training.fit(config.replace(method=method), dataset=dataset)
methods = ("pgd_at", "supcon_at", "anchor")
networks = {method: runs[method].model().to(device) for method in methods}
history = {method: runs[method].metrics() for method in methods}
curve = history["anchor"]

# %% tags=["fold"]
# @title Drawing: the training of the three methods
# How many positives an anchor has in the batches of the training: two views, so 2 k - 1 for a class with k images.
counts = []
for start in range(0, len(order) - config.batch_size + 1, config.batch_size):
    per_class = torch.bincount(dataset.train.labels[order[start : start + config.batch_size]])
    counts.append((2 * per_class - 1).repeat_interleave(2 * per_class))  # once for every anchor
positives = torch.cat(counts).double().log().mean().exp().item()
effective = positives ** curve["hardness_entropy"].to_numpy()
H = float(curve["hardness_entropy"].iloc[-1])
held_out = f"{config.validation_images} held-out images"
page.figure(
    figures.training_curves(
        curve["epoch"].tolist(),
        {method: {name: column.to_numpy() for name, column in table.items()} for method, table in history.items()},
        floor=np.log(effective),
        positives=positives,
        beta=config.beta,
        titles=(f"{held_out}, clean", f"{held_out}, PGD-{config.validation_steps}, epsilon {config.epsilon:g}"),
    ),
    "Four panels over the epochs of training: ANCHOR's two loss terms with the floor of the contrastive one, hardness "
    "entropy, held-out clean accuracy and held-out PGD accuracy of three methods.",
    f"The contrastive term goes from {curve['contrastive'].iloc[0]:.2f} to {curve['contrastive'].iloc[-1]:.2f}; its floor, "
    f"the entropy of the weights, is {np.log(effective[-1]):.2f}. Of {positives:.1f} positives ANCHOR's weights use "
    f"effectively **{effective[-1]:.1f}**. The inset stretches what the large panel cannot show. One run a method: small "
    "distances between the lines below mean nothing yet.",
    svg=True,
)

# %% [markdown]
# ## 5 What does beta change?
#
# ### Its trace in the entropy
#
# A constant added to all cosines of an anchor cancels in eq. 1, so only their *spread* counts. Let $\sigma_i$ be the
# standard deviation of the cosines between $i$ and its positives. For small $\beta \sigma_i$ (expand $\log w$ to second
# order):
#
# $$- \sum_{p} w_{ip} \log w_{ip} \;\approx\; \log |P(i)| - \tfrac{1}{2} \beta^2 \sigma_i^2 \tag{7}$$
#
# $\beta\sigma$ enters *squared*. Weights that are off by a tenth take only $0.1^2 / 2$ from the entropy. So an entropy near
# its maximum is no proof that the weights do nothing: it is a blunt instrument.
#
# ### Its trace in the gradient
#
# What training feels is the gradient. The derivative of a cross-entropy by a logit is guess minus target (notebook 03), so
# a step of gradient descent pulls the cosine of a positive up in proportion to **target minus guess**:
#
# $$-\tau \frac{\partial L_i}{\partial c_{ip}} = w_{ip} - q_{ip} \tag{8}$$
#
# Look at $q$: it is *large for near positives*. Even with uniform weights, a far positive is pulled more than a near one. To
# see how much, write $\delta_{ip}$ for the cosine minus the mean over the anchor's positives, $n$ for $|P(i)|$, and $Q_i$
# for the **softmax mass on the positives**, $\sum_{p \in P(i)} q_{ip}$. To first order $n w \approx 1 - \beta\delta$ and
# $n q \approx Q_i (1 + \delta / \tau)$, hence
#
# $$n\,(w_{ip} - q_{ip}) \;\approx\; (1 - Q_i) \;-\; \Bigl(\beta + \frac{Q_i}{\tau}\Bigr)\, \delta_{ip} \tag{9}$$
#
# The first part pulls all positives alike, and fades as training succeeds ($Q_i \to 1$). The second mines: its
# **hardness slope** is $\beta + Q_i / \tau$. So **SupCon mines by itself**, at the rate $Q_i / \tau$, and $\beta$ adds the
# share $\beta\tau / Q_i$ to that.
#
# Near convergence this is about $\beta\tau$: from $\beta = 1/\tau$ on, the weights mine
# as much as SupCon does by itself. That is why $\beta$ is $1/\tau$ here, and the yardstick; the entropy is not. With so large
# a $\beta$, eqs. 7 and 9 hold near the mean only. (Khosla et al. find a second source of mining in SupCon: the normalisation of the embeddings. It acts on both
# losses alike.)
#
# ### Exercise 1 · The slope without approximation
#
# Equation 9 holds for small $\delta$. Write the exact slope of one positive: by how much does its own pull
# $w_{ip} - q_{ip}$ *grow* for each unit by which its own cosine $c_{ip}$ *falls*, while all other cosines stay? You are
# given $w$ and $q$ on the positives of one anchor. The check moves the cosines one by one and compares.


# %% tags=["exercise"]
def hardness_slope(w, q, beta, temperature):
    """-d (w_p - q_p) / d c_p for each positive p of an anchor; w (P,) sums to 1, q (P,) to the mass on the positives."""
    # BEGIN SOLUTION
    return beta * w * (1 - w) + q * (1 - q) / temperature
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 1
@lesson.check("Exercise 1")
def _():
    def target_and_guess(cosine, count, beta, temperature):
        return (-beta * cosine[:count]).softmax(0), (cosine / temperature).softmax(0)[:count]

    generator = torch.Generator().manual_seed(0)
    for beta, temperature, count in ((2.0, 0.1, 6), (0.0, 0.5, 3), (8.0, 0.2, 2), (2.0, 1.0, 1)):
        cosine = 2 * torch.rand(count + 5, generator=generator, dtype=torch.float64) - 1
        w, q = target_and_guess(cosine, count, beta, temperature)
        slope = hardness_slope(w, q, beta, temperature)
        assert tuple(slope.shape) == (count,), f"For {count} positives the shape is {tuple(slope.shape)}."
        for p in range(count):
            pulls = []
            for move in (-1e-5, 1e-5):
                moved = cosine.clone()
                moved[p] += move
                w_moved, q_moved = target_and_guess(moved, count, beta, temperature)
                pulls.append((w_moved - q_moved)[p].item())
            measured = (pulls[0] - pulls[1]) / 2e-5
            assert abs(slope[p].item() - measured) < 1e-6, (
                f"With beta = {beta:g}, tau = {temperature:g} and {count} positive(s): moving the cosine of one by a little "
                f"gives a slope of {measured:.5f}, your formula {slope[p].item():.5f}."
            )


# %% [markdown] tags=["solution"]
# The derivative of a softmax output by its own logit is $s(1 - s)$. The logit of $w_p$ is $-\beta c_p$, that of $q_p$ is
# $c_p / \tau$. With equal positives, $w = 1/n$ and $q = Q/n$, this is $\frac{1}{n}(\beta + Q / \tau)$ up to terms of order
# $1/n^2$: the slope of eq. 9.

# %% [markdown]
# > **Predict, then see.** In the trained network of this run: (a) by how much do the weights at $\beta = 10$, $\tau = 0.1$
# > change the gradient that SupCon would give: 1%, 20% or 100%? (b) How many times its SupCon weight does the heaviest
# > positive of a batch get? (c) And do adversarial positives weigh more than augmented ones?


# %%
def target_guess(z, labels, beta):
    """Targets w and guesses q of all views (2N, 2N), and which pairs are positive."""
    cosine = z @ z.T
    itself = torch.eye(len(labels), dtype=torch.bool, device=z.device)
    positive = (labels[:, None] == labels) & ~itself
    w = losses.hardness_weights(z, labels, beta)  # eq. 1
    q = (cosine / config.temperature).masked_fill(itself, -torch.inf).softmax(1)  # eq. 2
    return w, q, positive


def slope(pull, delta, positive):
    """Least squares over positives near the mean: by how much n times the pull grows as the cosine falls."""
    near = positive & (delta.abs() < config.temperature / 2)
    y, x = (positive.sum(1, keepdim=True) * pull)[near], delta[near]
    return -(y @ (x - x.mean()) / (x - x.mean()).square().sum()).item()


def length(pulls):
    return pulls.square().sum().sqrt().item()


# %%
def embeddings_of(network, contrastive=True):
    """Embeddings of both views of the batch, in train mode as in training; else the normalised features."""
    network = copy.deepcopy(network).train()
    x_aug, x_adv = two_views(network, batch.images, batch.labels, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        features = network.encode(torch.cat([x_aug, x_adv]))
        return network.project(features) if contrastive else F.normalize(features, dim=1)


z, both = embeddings_of(networks["anchor"]), batch.labels.repeat(2)
w, q, positive = target_guess(z, both, config.beta)
n = positive.sum(1, keepdim=True).clamp_min(1)
cosine = z @ z.T
delta = cosine - (cosine * positive).sum(1, keepdim=True) / n
Q = (q * positive).sum(1)[positive.any(1)].mean().item()
uniform = positive / n  # SupCon's target
pull, supcon_pull = (w - q) * positive, (uniform - q) * positive  # eq. 8
slopes = {"SupCon": slope(supcon_pull, delta, positive), "ANCHOR": slope(pull, delta, positive)}
expected = {"SupCon": Q / config.temperature, "ANCHOR": config.beta + Q / config.temperature}  # eq. 9
change_of_pulls = length(pull - supcon_pull) / length(supcon_pull)

# %% tags=["fold"]
# @title Drawing: target and guess of the positives of one anchor, and the tail of the weights
multiples = (n * w)[positive].cpu().numpy()
Q_of = (q * positive).sum(1)
typical = torch.where(positive.sum(1) > 1, (Q_of - Q).abs(), torch.inf).argmin()  # an anchor with about the mean Q
own = positive[typical]
shown = (values[typical][own].cpu().numpy() for values in (delta, n * w, n * q))
page.figure(
    figures.pulls(*shown, multiples, beta=config.beta),
    "Left: target and guess of the positives of one anchor against their cosines: the guess rises steeply, ANCHOR's target "
    "falls, SupCon's is level. Right: histogram of the hardness weights of a batch as multiples of SupCon's.",
    f"Near the mean, over the batch, the pull's slope is **{slopes['SupCon']:.1f}** for SupCon and **{slopes['ANCHOR']:.1f}** for "
    f"ANCHOR, {slopes['ANCHOR'] - slopes['SupCon']:.1f} apart, and beta is {config.beta:g}. Equation 9, first order and with one mean Q = {Q:.2f}, says "
    f"{expected['SupCon']:.1f} and {expected['ANCHOR']:.1f}. Left: the farther a positive, the stronger its pull. Right: the largest "
    f"weight is {multiples.max():.2f} times SupCon's.",
    svg=True,
)
half = len(batch)
adversarial_share = {
    name: each[:half, half:].sum(1)[positive.any(1)[:half]].mean().item()
    for name, each in (("anchor", w), ("supcon", uniform))
}
lesson.say(
    f"**Answers.** (a) The pulls on the cosines change by **{change_of_pulls:.0%}** of their length, the gradient of the "
    f"encoder by **{changed['after training']:.0%}**; beta tau is {config.beta * config.temperature:.0%}, and with this run's "
    f"Q, beta tau / Q is {config.beta * config.temperature / Q:.0%}. (b) "
    f"**{multiples.max():.2f}** times, the lightest {multiples.min():.2f} times. (c) An augmented anchor gives "
    f"{adversarial_share['anchor']:.1%} of its weight to adversarial positives; SupCon would give {adversarial_share['supcon']:.1%}."
)

# %% [markdown]
# ### Other networks, other values of beta
#
# We compute the weights for many $\beta$ in four networks: ANCHOR, SupCon-AT, and two that never had a contrastive term, the
# ordinary network of notebook 01 and PGD-AT (for these two, the cosines of their features). The networks stay as they are:
# this says what the *first* step with another $\beta$ would look like, not where a whole training would end.

# %% tags=["fold"]
# @title Computing: the weights of four networks for many beta
hardnesses = np.linspace(0, 16, 33)
here = int(np.abs(hardnesses - config.beta).argmin())
first, second = torch.arange(2 * half, device=device) < half, torch.arange(2 * half, device=device) >= half


def at_all_betas(method, network):
    z = embeddings_of(network, contrastive := method in ("supcon_at", "anchor"))
    weights = [target_guess(z, both, beta)[0] for beta in hardnesses]
    several, log_n = positive.sum(1) > 1, positive.sum(1).log()
    cosine = z @ z.T
    mean = (cosine * positive).sum(1, keepdim=True) / n
    variance = ((cosine - mean) ** 2 * positive).sum(1) / n[:, 0]
    result = {
        "cosines": [cosine[positive & first[:, None] & view].cpu().numpy() for view in (first, second)],
        "sigma": variance[several].mean().sqrt().item(),  # eq. 7 needs the mean of the squares
        "entropy": np.array([(losses.weight_entropy(w) / log_n)[several].mean().item() for w in weights]),  # eq. 6
        "approximation": np.array(
            [(1 - b**2 * variance / 2 / log_n)[several].mean().item() for b in hardnesses]
        ),  # eq. 7
        "off": np.array([((n * w - 1)[positive] ** 2).mean().sqrt().item() for w in weights]),
        "share": np.array([w[:half, half:].sum(1)[positive.any(1)[:half]].mean().item() for w in weights]),
    }
    if contrastive:
        guess = target_guess(z, both, 0.0)[1]
        lengths = [length((w - uniform) * positive) / length((uniform - guess) * positive) for w in weights]
        result["change"] = np.array(lengths)
    return result


ordinary = training.fit(config.replace(method="standard"), dataset=dataset).model().to(device)
sweep = {method: at_all_betas(method, network) for method, network in ({"standard": ordinary} | networks).items()}
anchors = sweep["anchor"]

# %% tags=["fold"]
# @title Drawing: what the entropy shows and what the gradient shows
sigmas = ", ".join(f"{plotting.method_name(method)} {result['sigma']:.2f}" for method, result in sweep.items())
page.figure(
    figures.hardness_sweep(hardnesses, sweep, config.beta, hardnesses * config.temperature / Q),
    "Left: quantiles of the cosines between augmented anchors and their positives in four networks. Middle: hardness entropy "
    "against beta from 0 to 16. Right: change of SupCon's pulls against beta, beside the line beta tau / Q.",
    f"At beta = {hardnesses[here]:g} ANCHOR's entropy on this batch is {anchors['entropy'][here]:.3f}; its pulls change by "
    f"**{anchors['change'][here]:.0%}**. Left: bars are the middle half of the cosines, thin lines 90%, white "
    f"marks medians; sigma is {sigmas}. One training each cannot tell a method from its luck.",
    svg=True,
)

median = {method: np.median(sweep[method]["cosines"][1]) for method in ("standard", "anchor")}
lesson.say(
    f"**What there is to weigh.** Adversarial positives lie at a median cosine of {median['standard']:.2f} in the ordinary "
    f"network and of {median['anchor']:.2f} in ANCHOR's. At beta = {hardnesses[here]:g} they would get "
    f"{sweep['standard']['share'][here]:.0%} of the weight there; here they get {anchors['share'][here]:.0%} (SupCon: "
    f"{anchors['share'][0]:.0%})."
)

# %% [markdown]
# ### Other ways to weigh
#
# The paper's abstract says that hard positives are mined, not how. Every way gives a positive a score $s_{ip}$, and the
# softmax of the scores over $P(i)$ is its weight:
#
# | | score of a positive |
# |:--|:--|
# | eq. 1 | $-\beta c_{ip}$ |
# | standardised | $-\gamma\,(c_{ip} - \bar c_i) / (\sigma_i + 0.05)$: $\bar c_i$ and $\sigma_i$ are mean and deviation over $P(i)$, $\gamma$ is the strength. Notebook 04's *scale-free* weights without 0.05, which keeps gathered positives from being mined at full strength |
# | hardest | $0$ for the hardest share of the positives, $-\infty$ for the others; "ranks 10 to 50%" leaves out the hardest tenth first |
# | semi-hard | standardised, and $-\infty$ for views that the classifier gets wrong |
# | classifier | $\log(1 - p_y)$ of the view |
# | displacement | $\log(1 - \cos)$ between the two views of the image |
#
# Each can also see three views (the image itself, augmented, attacked), or the encoder's features in place of the projection. And each has a control: the *same*
# weights, **permuted** among the positives of an anchor. A gain that permuted weights bring too is not a gain of mining.
#
# The table counts over how many positives the *pull* of eq. 8 is spread, not the weight: SupCon's weights are uniform, its pulls
# are not.
#
# > **Predict, then see.** Mining puts weight on far positives. Which views are those, mostly: ones that the network still
# > classifies correctly, or ones that it already gets wrong?

# %%
standing = networks["anchor"].eval()  # as it is: no step is taken
acting = mining.does_it_act(standing, dataset.train[order[: 3 * config.batch_size]].to(device), config)
acting.set_index("weights").round(2)

# %% tags=["fold"]
# @title Drawing: what each way to weigh does to the gradient
wrong = acting.set_index("weights")[mining.COLUMNS["weight_on_misclassified"]]
turned = acting.set_index("weights")[mining.ENCODER]
strongest = turned.idxmax()
page.figure(
    figures.formulations(acting["weights"].tolist(), turned.tolist(), wrong.tolist()),
    "Bars for each way to weigh positives: how much it changes the encoder's contrastive gradient, and how much weight it puts "
    "on misclassified adversarial views.",
    f"SupCon gives misclassified views **{wrong['SupCon']:.0%}** of an anchor's weight, beta 10 {wrong['eq. 1, beta 10']:.0%}; "
    f"permuted, beta 10 changes the gradient {turned['eq. 1, beta 10, permuted']:.2f} times SupCon's length, unpermuted "
    f"{turned['eq. 1, beta 10']:.2f}. Most: {strongest}, {turned[strongest]:.1f}. To change the gradient is not to improve the "
    f"network. One network in eval mode, {3 * len(batch)} training images (section 3: one batch in train mode).",
    svg=True,
)

# %% [markdown]
# ### Networks for CIFAR-10, standing still
#
# The same table for ANCHOR networks that come with the course, each on a batch of its training images, from
# `python -m benchmarks.mining`.

# %% tags=["fold"]
# @title The stored tables
for title, (how, table) in mining.standing().items():
    if title.startswith("ANCHOR"):
        lesson.say(f"**{title}.** {how}.\n\n{lesson.table(table)}")

# %% [markdown]
# ## 6 One pass or two?
#
# BatchNorm normalises each batch with the batch's own statistics. In one pass, both views share them. In **two passes**,
# one for each view, each view is normalised by itself, although at test time there is only one set of running statistics.
# (AdvProp keeps two sets on purpose.) Does it matter? And does the contrastive term help, or only the second view? That
# takes two **control arms**:
#
# - **ANCHOR, two passes**: the same loss, one view at a time;
# - **PGD-AT, two passes**: the same two views and passes, no contrastive term. Its cross-entropy is the mean over both views
#   (ANCHOR's sees the attacked one), so a difference from ANCHOR may come from either.
#
# A method of the package is a row in a table and a function:


# %%
def anchor_two_passes(step):
    x_aug, x_adv = step.view(), step.attack(step.view(), step.labels)
    (_, z_aug), (logits, z_adv) = step.forward(x_aug), step.forward(x_adv)
    z, both = torch.cat([z_aug, z_adv]), step.labels.repeat(2)
    loss = losses.anchor_loss(logits, step.labels, z, both, **factors).total
    return objectives.Objective(loss, {}, logits, step.labels)


def pgd_at_two_passes(step):
    x_aug, x_adv = step.view(), step.attack(step.view(), step.labels)
    logits, both = torch.cat([step.forward(x_aug)[0], step.forward(x_adv)[0]]), step.labels.repeat(2)
    return objectives.Objective(F.cross_entropy(logits, both), {}, logits, both)


for function, like in ((anchor_two_passes, "anchor"), (pgd_at_two_passes, "pgd_at")):
    row = METHODS[like]
    METHODS[function.__name__] = dataclasses.replace(row, label=f"{row.label}, two passes")
    objectives.OBJECTIVES[function.__name__] = function

# %% [markdown]
# Full trainings of all arms would take too long here. We take a **short form**, the same for all four arms: one epoch, a third of epsilon (so that one epoch suffices to learn something), three attack steps. It can show that
# an arm fails or that a lead has another cause. It cannot rank arms that are close.
#
# > **Predict, then see.** Will two passes be better than one, worse, or can these images not tell? And does PGD-AT catch up
# > with ANCHOR when it is given the second view as well?

# %%
short = config.replace(
    epochs=1, epsilon=config.epsilon / 3, step_size=config.epsilon / 6, attack_steps=3, validation_steps=1, graph=False
)
arms = ("anchor", "anchor_two_passes", "pgd_at", "pgd_at_two_passes")
short_networks = {m: training.fit(short.replace(method=m), dataset=dataset).model().to(device) for m in arms}


def measure(networks, images, **attack):
    """Clean and PGD accuracy of each network, with 95% intervals and the outcome of each image; any iterate counts."""
    tables = [
        evaluation.evaluate(network, images, ("clean", "pgd"), **attack, seed=seed).assign(method=name)
        for name, network in networks.items()
    ]
    return pd.concat(tables).set_index(["method", "attack"])


short_attack = {"epsilon": short.epsilon, "step_size": short.epsilon / 5, "steps": 10}
short_by = measure(short_networks, test[:300], **short_attack)

# %% [markdown]
# All networks see the *same* images, so we compare them in pairs. An image that fools both, or neither, says nothing. What
# counts are the images on which two networks disagree: $a$ are robust under the first only, $b$ under the second only. If the
# two were equally good, each would fall to either side like a fair coin. **McNemar's exact test** is the binomial test of
# that coin; notebook 06 writes it out.


# %%
def paired(by, first, second):
    """McNemar's test on the PGD outcomes of two networks; the difference in points of accuracy, with its interval."""
    one, other = (results.unpack_outcomes(*by.loc[(name, "pgd"), ["outcomes", "images"]]) for name in (first, second))
    a, b = int((one & ~other).sum()), int((other & ~one).sum())
    points = 100 / len(one)
    if a + b == 0:
        return {"a": 0, "b": 0, "difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    coin = binomtest(a, a + b)
    low, high = ((2 * end - 1) * (a + b) * points for end in coin.proportion_ci())  # from a share to points
    return {"a": a, "b": b, "difference": (a - b) * points, "low": low, "high": high, "p": coin.pvalue}


# %% tags=["fold"]
# @title Drawing: the four short trainings
name_of = figures.shown_name


def accuracies(by):
    return {
        name: {attack: by.loc[(name, attack), ["accuracy", "low", "high"]].tolist() for attack in ("clean", "pgd")}
        for name in by.index.get_level_values("method").unique()
    }


def in_words(found):
    """The difference of a pair, and whether these images could tell."""
    return f"{found['difference']:+.1f} points, p = {found['p']:.2g}"


one_or_two = paired(short_by, "anchor", "anchor_two_passes")
second_view = paired(short_by, "anchor_two_passes", "pgd_at_two_passes")
pairs = {
    "ANCHOR: one pass\nminus two passes": one_or_two,
    "two passes: ANCHOR\nminus PGD-AT": second_view,
    "PGD-AT: one view\nminus two views": paired(short_by, "pgd_at", "pgd_at_two_passes"),
}
page.figure(
    figures.candidates(accuracies(short_by), pairs, images=300, attack="PGD-10"),
    "Left: clean and PGD accuracy with 95% intervals of four short trainings. Right: paired differences in PGD accuracy with "
    "intervals and McNemar's p-values.",
    f"One pass against two: {in_words(one_or_two)}. With the same two views, ANCHOR against PGD-AT: {in_words(second_view)}. "
    "Left: open circles clean, filled ones under PGD. Right: a : b images, and an interval that is grey where it covers zero. "
    f"One epoch at epsilon {short.epsilon:.3g}, one seed: no ranking.",
    svg=True,
)

# %% [markdown]
# ## 7 Features without their classifier
#
# In eq. 3 the classifier is trained along. A sharper question: are the *features* robust, whatever classifier came with
# them? The projection head is dropped, the encoder $g$ is **frozen**, and a new linear classifier $(W, b)$ is trained from a
# random start on adversarial examples against *itself*:
#
# $$\min_{W, b}\; \operatorname{mean}_{(x, y)}\, \mathrm{CE}\bigl(W g(x_{\text{adv}}) + b,\, y\bigr), \qquad
# x_{\text{adv}} \text{ from eq. 4 with the classifier } (W, b) \tag{10}$$
#
# "Frozen" is easy to get wrong. A BatchNorm layer in train mode does two things that have nothing to do with gradients. It
# normalises with the statistics of the batch, and it moves its running statistics towards them.
#
# So we set `requires_grad = False` for the whole network, leave it in train mode, and send adversarial images through it a
# few times. No optimiser takes part. Is the encoder the same afterwards?

# %%
drifted = copy.deepcopy(networks["anchor"]).requires_grad_(False).train()
before, passes = copy.deepcopy(drifted.state_dict()), 10
_, attacked = two_views(networks["anchor"], batch.images, batch.labels, torch.Generator().manual_seed(seed))
for _ in range(passes):
    drifted(attacked)
moved = [name for name, value in drifted.state_dict().items() if not torch.equal(value, before[name])]
with torch.no_grad():
    x = test.inputs()[:200]
    old, new = networks["anchor"].encode(x), drifted.eval().encode(x)
change = ((new - old).norm(dim=1) / old.norm(dim=1)).mean().item()
weights_moved = sum(name in dict(drifted.named_parameters()) for name in moved)
lesson.say(
    f"After {passes} passes {weights_moved} weights and **{len(moved) - weights_moved} BatchNorm buffers** (running means and variances, batch "
    f"counters) of the encoder have other values. The features of {len(x)} clean test images have changed by **{change:.0%}** of their length."
)

# %% [markdown]
# ### Exercise 2 · Freeze
#
# Write `freeze(model)`: afterwards an ordinary training loop over `model(images)` must train the linear classifier and
# nothing else. Every weight *and every BatchNorm statistic* of the encoder (`model.stem`, `model.stages`) must keep its
# bits. The model arrives in train mode and with gradients on. The check runs the loop.


# %% tags=["exercise"]
def freeze(model):
    """Change `model` in place so that only `model.classifier` can learn; no buffer of the encoder may move."""
    # BEGIN SOLUTION
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    model.eval()  # BatchNorm: use the running statistics, and leave them as they are
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 2
@lesson.check("Exercise 2")
def _():
    generator = torch.Generator().manual_seed(0)
    network = training.new_network(config.replace(width=4), dataset).train()
    side, channels = dataset.train.images.shape[-1], dataset.train.images.shape[1]
    freeze(network)
    before = copy.deepcopy(network.state_dict())
    trainable = [p for p in network.parameters() if p.requires_grad]
    assert any(p is network.classifier.weight for p in trainable), "The classifier has no gradient: it cannot learn."
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    for _ in range(3):
        images = torch.rand(8, channels, side, side, generator=generator)
        loss = F.cross_entropy(network(images), torch.randint(0, len(dataset.classes), (8,), generator=generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    parameters = dict(network.named_parameters())
    for name, value in network.state_dict().items():
        same = torch.equal(value, before[name])
        if name.startswith("classifier"):
            assert not same, "The classifier did not change in three steps."
        elif name.startswith(("stem", "stages")):
            kind = "weight" if name in parameters else "BatchNorm statistic"
            assert same, f"The {kind} {name} of the encoder has moved."


# %% [markdown] tags=["solution"]
# Two switches, since there are two ways to change: gradients (`requires_grad`) and the forward pass itself (train or eval
# mode). A later call of `model.train()` turns the second one on again, so training loops that begin each epoch with it undo
# the freezing; the package's loop therefore calls `model.train(False)` when the encoder is frozen.

# %% [markdown]
# The package's `finetune` does this on PGD examples. We give new classifiers to **two** encoders: ANCHOR's, and PGD-AT's as
# the control. If PGD-AT's features keep their robustness as well, keeping it is nothing special to ANCHOR.

# %%
tuned = {}
for method in ("pgd_at", "anchor"):
    tuned[method] = training.finetune(runs[method], dataset=dataset).model().to(device)  # eq. 10
    new = tuned[method].state_dict()
    encoder = {name: v for name, v in networks[method].state_dict().items() if name.startswith(("stem", "stages"))}
    assert all(torch.equal(value, new[name]) for name, value in encoder.items())
    print(
        f"{plotting.method_name(method)}: {len(encoder)} tensors of the encoder, BatchNorm statistics included, kept their bits"
    )

# %% [markdown]
# ## 8 Does it help?
#
# Five networks: PGD-AT, SupCon-AT and ANCHOR with the classifiers that were trained along, and the encoders of PGD-AT and
# ANCHOR with new classifiers. All see the same test images and the same attack. An image counts as robust only if *no* step
# of the attack changes its class ("any iterate").
#
# > **Predict, then see.** (a) Is ANCHOR more robust than PGD-AT, less, or can these test images not tell? And than SupCon-AT?
# > (b) How much of its robustness does ANCHOR lose with a new classifier, and how much does PGD-AT?

# %%
candidates = networks | {f"{method}, new classifier": network for method, network in tuned.items()}
compared = test[:500]
by = measure(candidates, compared, **config.evaluation(), restarts=config.eval_restarts)
comparisons = {
    "ANCHOR\nminus PGD-AT": paired(by, "anchor", "pgd_at"),
    "ANCHOR\nminus SupCon-AT": paired(by, "anchor", "supcon_at"),
    "ANCHOR, classifiers:\nold minus new": paired(by, "anchor", "anchor, new classifier"),
    "PGD-AT, classifiers:\nold minus new": paired(by, "pgd_at", "pgd_at, new classifier"),
    "new classifiers:\nANCHOR minus PGD-AT": paired(by, "anchor, new classifier", "pgd_at, new classifier"),
}

# %% tags=["fold"]
# @title Drawing: five networks, alone and in pairs
against_pgd, against_supcon, _, _, features_against = comparisons.values()
kept = {
    method: by.loc[(f"{method}, new classifier", "pgd"), "accuracy"] / max(by.loc[(method, "pgd"), "accuracy"], 1e-9)
    for method in tuned
}
page.figure(
    figures.candidates(accuracies(by), comparisons, images=len(compared), attack=f"PGD-{config.eval_steps}"),
    "Left: clean and PGD accuracy with 95% intervals of five networks. Right: paired differences in PGD accuracy with "
    "intervals and McNemar's p-values.",
    f"ANCHOR against PGD-AT: {in_words(against_pgd)}; against SupCon-AT: {in_words(against_supcon)}. With new classifiers "
    f"ANCHOR keeps {kept['anchor']:.0%} and PGD-AT {kept['pgd_at']:.0%} of their robust accuracy. Rows and marks as in section "
    f"6, before correction: for {len(comparisons)} comparisons multiply each p by {len(comparisons)}. The test knows nothing of the luck of training.",
    svg=True,
)

# %% [markdown]
# ### The same with eight seeds
#
# The networks above are one draw. Stored with the course are eight seeds of the same trainings, none of them used to choose
# anything, and eight of each of three ways to mine. Each way stands against two twins: uniform weights, and its own weights
# permuted.
#
# Before the runs it was fixed that mining helps if it leads *both*, and by how much: the **margin**. A lead is an
# interval above zero. Mining did not help if an interval excludes a lead of the margin over one twin. Else it is open.
#
# > **Predict, then see.** Will any of the three lead both of its twins?

# %%
variants = {"pgd_at": "pgd_at", "supcon_at": "supcon_at", "beta10": "anchor"}
stored = mining.seeds_of(STUDY, variants, "pgd", images=len(compared))
differences = mining.comparisons(STUDY)

# %% tags=["fold"]
# @title Drawing: this run among eight seeds, and mining against its twins
pairs = {
    f"{mining.NAMES[ours]}\nminus {mining.NAMES[twin]}": tuple(
        100 * found[key] for key in ("difference", "low", "high")
    )
    for (ours, twin), found in differences.items()
}
helped = int(mining.answers(STUDY)[mining.HELPED].str.startswith("helped").sum())
least, most = 100 * stored["anchor"].min(), 100 * stored["anchor"].max()
page.figure(
    figures.mining_study(
        stored,
        {method: by.loc[(method, "pgd"), "accuracy"] for method in variants.values()}
        if preset == "cpu" and not overrides
        else {},
        pairs,
        margin=mining.MARGIN,
        attack=f"PGD-{config.eval_steps}",
    ),
    "Left: PGD accuracy of eight stored networks of PGD-AT, SupCon-AT and ANCHOR, and of the network of this run. Right: "
    "differences between ways to mine and their twins with intervals.",
    f"Eight ANCHOR networks reach **{least:.1f}% to {most:.1f}%** on the {len(compared)} images of this section; diamonds, if any, are "
    f"this run's. *Helped* would mean: both intervals above zero, both means at least {mining.MARGIN:g}. {helped} of {len(mining.TWINS)} ways to mine did. Bars right: 95% "
    "intervals over training seeds and test images; attack and numbers below.",
    svg=True,
)
lesson.say(
    f"{lesson.table(mining.answers(STUDY))}\n\n"
    f"What the weights did in the last epoch of these trainings, means over its steps and the seeds:\n\n{lesson.table(mining.in_training(STUDY))}\n\n"
    "Controls without mining. *No contrast* is lambda = 0; *KL* is TRADES' divergence (notebook 02) between the predictions for the two "
    f"views, in place of contrast or beside it.\n\n{lesson.table(mining.controls(STUDY))}\n\n{mining.how_compared(STUDY)}"
)
lesson.say(
    "On CIFAR-10, where the networks are small and the trainings short, ANCHOR with the study's settings has the same two twins:\n\n"
    f"{lesson.table(mining.answers(STUDY, sweep=mining.ON_CIFAR10))}\n\n{lesson.table(mining.in_training(STUDY, mining.ON_CIFAR10))}\n\n"
    f"{mining.how_compared(STUDY, sweep=mining.ON_CIFAR10)}\n\n"
    f"And permuted weights beside uniform ones, random weights: {mining.of_random(STUDY)}."
)

# %% [markdown]
# ## What can go wrong
#
# - **Attacking in train mode.** The attack then fits the batch statistics, and its passes move the running ones.
# - **Weights with gradient.** Without `stop_grad` in eq. 1 the loss can be lowered by making easy positives far (notebook
#   04).
# - **Labels in the wrong order.** `cat([x_aug, x_adv])` needs `labels.repeat(2)`; `repeat_interleave` pairs images with
#   wrong labels, and nothing crashes.
# - **A frozen encoder in train mode.** Freezing the weights is not enough (section 7).
# - **Judging a hyper-parameter by a blunt number.** $\beta$ enters the entropy squared. Look at the gradient (section 5).
# - **A control that is missing.** "The features keep their robustness" means more once PGD-AT's have been asked too.
# - **Unequal budgets.** Two views cost more per epoch than one. Compare at equal epochs *and* report the cost.
# - **One seed.** McNemar's test is about the choice of test images, not about the luck of training (notebook 08).
#
# ## What we saw

# %% tags=["fold"]
# @title Report: is the claim confirmed, what was found, what was not


def told(name):
    clean, (accuracy, low, high) = (
        by.loc[(name, "clean"), "accuracy"],
        by.loc[(name, "pgd"), ["accuracy", "low", "high"]],
    )
    return f"**{name_of(name)}** {clean:.1%} clean, {accuracy:.1%} ({low:.1%} to {high:.1%}) under PGD"


def verdict(found, first, second):
    """The difference of two networks in a sentence, with its p-value corrected for the number of comparisons."""
    p = min(1.0, len(comparisons) * found["p"])
    if p >= 0.05:
        return (
            f"these images do not tell {first} from {second} ({found['difference']:+.1f} points, corrected p = {p:.2g})"
        )
    better, worse = (first, second) if found["difference"] > 0 else (second, first)
    return f"{better} was more robust than {worse} ({abs(found['difference']):.1f} points, corrected p = {p:.2g})"


terms_of = ("cross_entropy", "contrastive")
falls = len(curve) > 1 and all(curve[term].iloc[-1] < curve[term].iloc[0] for term in terms_of)
chance = 1 / len(dataset.classes)
robust = by.loc[("anchor, new classifier", "pgd"), "low"] > 3 * chance
confirmed = bool(falls and robust and kept["anchor"] > 0.9)
lesson.say(
    f"On {len(compared)} test images, PGD with epsilon {config.epsilon:g}, {config.eval_steps} steps of {config.eval_step_size:g} "
    f"from a random start, {config.eval_restarts} restart(s), any iterate counting, attack and training seed {seed}: "
    + "; ".join(told(name) for name in candidates)
    + f".\n\n**The claim is {'confirmed' if confirmed else 'not confirmed'}**: with one forward pass over both views, the two loss "
    + ("terms fell together" if falls else "terms did not both fall from the first epoch to the last")
    + f", and with a new linear classifier the features keep {kept['anchor']:.0%} of the robust accuracy. (Asked for: both terms "
    f"fall, more than 90% is kept, and the interval lies above {3 * chance:.0%}, three times chance.)"
)

# %% tags=["fold"]
# @title Report: findings
dearer = (config.attack_steps + 2) / (config.attack_steps + 1)  # two views pass in place of one, after the attack
more = "keeps its robustness as well" if kept["pgd_at"] > 0.9 else "loses more of it"
lesson.say(
    "**Findings of this run**, made after seeing its numbers:\n\n"
    f"- *The hardness weights.* In this run {verdict(against_supcon, 'ANCHOR', 'SupCon-AT')}. That is about these two networks, not about "
    f"the weights: of {len(stored['anchor'])} stored seeds {int((stored['anchor'] > stored['supcon_at']).sum())} put ANCHOR ahead on these {len(compared)} images. SupCon mines by itself: the measured "
    f"hardness slope is {slopes['SupCon']:.1f} without and {slopes['ANCHOR']:.1f} with beta. The weights change the contrastive "
    f"gradient of the encoder by {changed['after training']:.0%}, and they use {effective[-1] / positives:.1%} of the positives.\n"
    f"- *The contrastive term.* In this run {verdict(against_pgd, 'ANCHOR', 'PGD-AT')}. In the short trainings with the same two "
    f"views and passes, ANCHOR against PGD-AT: {in_words(second_view)} (uncorrected; there the cross-entropy differs too, section 6).\n"
    f"- *One pass or two.* Short trainings, one pass against two: {in_words(one_or_two)} (uncorrected, one seed).\n"
    f"- *Features.* With a new classifier PGD-AT {more} ({kept['pgd_at']:.0%}; ANCHOR {kept['anchor']:.0%}). With new "
    f"classifiers {verdict(features_against, 'ANCHOR', 'PGD-AT')}.\n\n"
    "**Not found out:** whether the differences of this run's networks belong to their methods (eight seeds, section 8, are about that), and "
    "whether it survives stronger attacks (notebook 06). The epochs were equal, not the cost: an epoch of ANCHOR or SupCon-AT "
    f"takes {dearer:.2f} times the forward and backward passes of an epoch of PGD-AT."
)

# %% [markdown]
# ### Expected values
#
# The numbers of this notebook beside the bands in which another machine should find them.

# %% tags=["fold"]
# @title The numbers of this notebook
metrics = {
    f"{name.replace(', new classifier', '_finetuned')}_{attack}_accuracy": float(by.loc[(name, attack), "accuracy"])
    for name in candidates
    for attack in ("clean", "pgd")
}
metrics |= {f"short_{name}_pgd_accuracy": float(short_by.loc[(name, "pgd"), "accuracy"]) for name in arms}
metrics |= {
    "claim_confirmed": float(confirmed),
    "contrastive_pull_share": share["after training"],
    "contrastive_pull_share_before_training": share["before training"],
    "contrastive_pull_cosine": angle["after training"],
    "weights_off_supcon": float(anchors["off"][here]),
    "weights_change_contrastive_gradient": changed["after training"],
    "weights_change_pulls": change_of_pulls,
    "softmax_mass_on_positives": Q,
    "hardness_slope_supcon": slopes["SupCon"],
    "hardness_slope_anchor": slopes["ANCHOR"],
    "largest_weight_multiple": float(multiples.max()),
    "hardness_entropy_last_epoch": H,
    "effective_positives_share_last_epoch": float(effective[-1] / positives),
    "positives_per_anchor": positives,
    "adversarial_weight_share_beta_0": float(anchors["share"][0]),
    "adversarial_weight_share": float(anchors["share"][here]),
    "adversarial_weight_share_beta_16": float(anchors["share"][-1]),
    "hardness_entropy_beta_16": float(anchors["entropy"][-1]),
    "hardness_entropy_standard_network": float(sweep["standard"]["entropy"][here]),
    "positive_cosine_spread": anchors["sigma"],
    "batchnorm_drift_of_features": change,
    "finetuned_share_kept": float(kept["anchor"]),
    "pgd_at_finetuned_share_kept": float(kept["pgd_at"]),
    "anchor_minus_supcon_at_points": against_supcon["difference"],
    "anchor_minus_pgd_at_points": against_pgd["difference"],
}
lesson.finish("05", preset, config, metrics)

# %% [markdown]
# **Limits.** A reconstruction from an abstract, on small images with a small network and one seed. $\beta$, $\lambda$ and
# $\tau$ were not searched for with equal effort for each method. The control arms of section 6 are short and easier than the
# full training. PGD with one loss is not the strongest attack.
#
# **References.** Bhattacharya, Bhattacharya, Chakraborty, arXiv 2510.27599 · Khosla et al., *Supervised contrastive
# learning*, arXiv 2004.11362 (its gradient mines hard positives by itself) · Madry et al., arXiv 1706.06083 · Robinson et al.,
# *Contrastive learning with hard negative samples*, arXiv 2010.04592 · Kim et al., *Adversarial self-supervised contrastive
# learning*, arXiv 2006.07589 (adversarial views as positives) · Ioffe and Szegedy, *Batch normalization*, arXiv 1502.03167 ·
# Xie et al., *Adversarial examples improve image recognition* (AdvProp), arXiv 1911.09665 · McNemar, *Psychometrika* 12
# (1947).
#
# **Next:** [06 · Robust evaluation](06_robust_evaluation.ipynb) attacks these networks with everything we have;
# [08](08_reproduction_report.ipynb) asks what one training seed is worth.
