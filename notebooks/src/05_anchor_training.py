# %% [markdown]
# # 05 · ANCHOR training
#
# **Claim: one forward pass over an augmented and an adversarial view is enough to train adversarial cross-entropy and a
# hardness-weighted contrastive loss together, into features that stay robust under PGD when a new linear classifier is put
# on them.** The last cells confirm or refute this with the numbers of this run. Whether the hardness weights *add*
# robustness over SupCon-AT and PGD-AT is a question here, not a claim, and the answer is printed as measured.
#
# This is a **reconstruction**. Of the paper (Bhattacharya, Bhattacharya, Chakraborty,
# [2510.27599](https://arxiv.org/abs/2510.27599)) we follow title, abstract and summary; the equations and the values of all
# hyper-parameters are ours.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/anchor-course/blob/main/notebooks/05_anchor_training.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/OWNER/anchor-course#the-notebooks)
#
# **You will learn** how an augmented and an adversarial view share one forward pass, what every tensor of a training step
# looks like, how much each loss term pulls on the encoder, how far the hardness weights are from uniform ones and what that
# depends on, how a classifier is fine-tuned on a frozen encoder, and how two networks are compared image by image.
#
# **You need** notebooks 02 (adversarial training), 03 (SupCon) and 04 (hardness weights).
#
# **Time** the first cell measures how fast this machine is and says how long the notebook takes here; most of it is training,
# also of networks of notebooks 01 and 02 if they have not been trained yet. `smoke`: seconds, for tests only. `t4`: aimed at half
# an hour on a free Colab GPU (an estimate). `paper`: GPU hours.

# %% tags=["setup"]
# Only where the package is missing, on Colab for example. torch and numpy stay the ones that are there.
import importlib.util

if importlib.util.find_spec("anchor_utils") is None:
    get_ipython().run_line_magic("pip", "install -q git+https://github.com/OWNER/anchor-course")  # noqa: F821

# %% tags=["parameters"]
preset = "cpu"  # @param ["smoke", "cpu", "t4", "paper"]
overrides = {}  # @param {type:"raw"}
seed = 0  # @param {type:"integer"}
runs_dir = "runs"  # @param {type:"string"}
data_root = "data"  # @param {type:"string"}

# %%
import copy
import math

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import binomtest

from anchor_utils import attacks, data, evaluation, losses, models, objectives, plotting, results, training
from course import lesson
from course.figures import lesson_05 as figures

config, dataset, device = lesson.start("05", preset, overrides, seed, runs_dir, data_root)
test = dataset.test[: config.test_images].to(device)

# %% [markdown]
# ## 1 The objective
#
# Adversarial training (notebook 02) teaches the *classifier's output* not to move under attack. A contrastive loss
# (notebook 03) says where the *features* should lie. ANCHOR does both at once. Each of a batch's $N$ images is seen twice: once
# augmented ($x_{\text{aug}}$), once augmented *and attacked* ($x_{\text{adv}}$). All $2N$ views go through the encoder and
# a projection head to embeddings $z_i$ of length one, with cosines $c_{ip} = z_i^\top z_p$. $P(i)$ are the positives of the
# anchor $i$, all others with its label in either view; $A(i)$ are all others. Notebook 04 gave the weights and the loss:
#
# $$w_{ip} = \operatorname{stop\_grad}\; \frac{e^{-\beta c_{ip}}}{\sum_{q \in P(i)} e^{-\beta c_{iq}}} \tag{1}$$
#
# $$L_i = - \sum_{p \in P(i)} w_{ip} \log \frac{e^{c_{ip} / \tau}}{\sum_{a \in A(i)} e^{c_{ia} / \tau}}, \qquad
# L_{\text{HP}} = \operatorname{mean}_{i:\, P(i) \ne \emptyset} L_i \tag{2}$$
#
# The hardness $\beta \ge 0$ says how much a far positive counts (0 is SupCon), the temperature $\tau$ how far an anchor
# sees. New is the sum. The classifier learns from the adversarial half, the contrastive term from both, and $\lambda$
# weighs them:
#
# $$L = \mathrm{CE}\bigl(\text{classifier}(\text{encoder}(x_{\text{adv}})), y\bigr)
# + \lambda \, L_{\text{HP}}\bigl(\text{projection}(\text{encoder}([x_{\text{aug}}; x_{\text{adv}}]))\bigr) \tag{3}$$
#
# The adversarial view comes from PGD on the cross-entropy of the true label, as in notebook 02, with the network in eval
# mode. It starts from a *second* augmentation $x'$ of the image, moved by a uniform random
# $u \in [-\varepsilon, \varepsilon]$ in each pixel; $\alpha$ is the step size, $T$ the number of steps, and $\Pi$ cuts
# every pixel back to within $\varepsilon$ of $x'$ and to $[0, 1]$:
#
# $$x^{(0)} = \Pi(x' + u), \qquad x^{(t+1)} = \Pi\bigl(x^{(t)} + \alpha \operatorname{sign} \nabla_x
# \mathrm{CE}(\text{classifier}(\text{encoder}(x^{(t)})), y)\bigr), \qquad x_{\text{adv}} = x^{(T)} \tag{4}$$
#
# After that comes a second phase. The projection head is dropped, the encoder $g$ is held fixed in eval mode, and a new
# linear classifier $(W, b)$ is trained on adversarial examples:
#
# $$\min_{W, b}\; \operatorname{mean}_{(x, y)}\, \mathrm{CE}\bigl(W g(x_{\text{adv}}) + b,\, y\bigr), \qquad
# x_{\text{adv}} \text{ from eq. 4 with the classifier } (W, b) \tag{5}$$
#
# An adversarial view is a positive that the attack has pushed away from its class, *as the classifier sees it*. The hope
# behind ANCHOR is that its embedding then lies far too, a hard positive, and eq. 1 gives it more weight. We shall measure
# how much more.
#
# ## 2 The step in code
#
# Equations 1 to 4 in two short functions. Note what is *not* there: after the attack, no second forward pass for the other
# view, and no second network.


# %%
def two_views(model, images, labels, generator):
    """Augmented and adversarial images from a batch of uint8 images; the attacked network is in eval mode."""
    x_aug, x = (
        data.augment(images, padding=config.crop_padding, flip=config.flip, generator=generator).float() / 255
        for _ in range(2)
    )
    return x_aug, attacks.pgd(model, x, labels, **config.attack(), generator=generator)  # eq. 4


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


# %% [markdown]
# Is this what the package does? We give both the same untrained network, the same batch and the same random numbers, take
# one optimiser step each, and compare the loss, its two terms, and *every weight of the network after the step*.


# %%
def fresh_network():
    """The untrained network from which every encoder in this notebook starts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        channels = dataset.train.images.shape[1]
        return models.AnchorNet(
            len(dataset.classes), config.width, channels, config.projection_dim, dataset.mean, dataset.std
        ).to(device)


def sgd(model):
    return torch.optim.SGD(
        model.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )


# %%
order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(seed))
batch = dataset.train[order[: config.batch_size]].to(device)
ours, theirs = fresh_network().train(), fresh_network().train()
our_loss, our_ce, our_hp = anchor_step(ours, batch.images, batch.labels, sgd(ours), torch.Generator().manual_seed(seed))


def forward(images):
    features = theirs.encode(images)
    return theirs.classifier(features), theirs.project(features)


def attack(images, labels):
    return attacks.pgd(theirs, images, labels, **config.attack(), generator=package_generator)


package_generator, optimizer = torch.Generator().manual_seed(seed), sgd(theirs)
package_config = config.replace(method="anchor", classifier_view="adversarial")
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
# The training loop repeats this step. It adds a learning-rate schedule, the choice of the best epoch on held-out training
# images, and, where the preset asks for it (`epsilon_warmup`), an epsilon that grows from 0 during the first part of the
# training.
#
# Now we let it run. Three methods with the same start, epochs, learning rates and attack: **PGD-AT** (cross-entropy only),
# **SupCon-AT** (eq. 3 with $\beta = 0$) and **ANCHOR**. Their curves come in section 4. First we use the trained network for
# a closer look at the step.

# %%
methods = ["pgd_at", "supcon_at", "anchor"]
runs = {method: training.fit(config.replace(method=method), dataset=dataset) for method in methods}
networks = {method: run.model().to(device) for method, run in runs.items()}

# %% [markdown]
# ## 3 One step, tensor by tensor
#
# The batch is small, four images of each of up to four classes, sorted so that classes are blocks. The network is the one
# that ANCHOR has just trained, so this is a step from late in the training.
#
# > **Predict, then see.** (a) The attack tries to push the adversarial images out of their classes. In the matrix of
# > cosines, will the quarter "augmented with adversarial" still show the class blocks? (b) The attack tries to make
# > *hard* positives. How much more than its SupCon weight will an adversarial positive weigh on average: 1%, 10%, or
# > 100%?

# %%
chosen = torch.cat([(dataset.train.labels == k).nonzero().flatten()[:4] for k in dataset.train.labels.unique()[:4]])
few = dataset.train[chosen].to(device)
y, n = few.labels, len(few)
model = copy.deepcopy(networks["anchor"]).train()  # train mode, as in training: BatchNorm uses this batch
x_aug, x_adv = two_views(model, few.images, y, torch.Generator().manual_seed(seed))
with torch.no_grad():
    features = model.encode(torch.cat([x_aug, x_adv]))
    logits, z, both = model.classifier(features[n:]), model.project(features), y.repeat(2)
    terms = losses.anchor_loss(  # eq. 3
        logits,
        y,
        z,
        both,
        contrastive_weight=config.contrastive_weight,
        temperature=config.temperature,
        beta=config.beta,
    )
cosine = z @ z.T
positive = (both[:, None] == both).fill_diagonal_(False)
multiple = losses.hardness_weights(z, both, config.beta) * positive.sum(1, keepdim=True)  # eq. 1; 1 is SupCon's weight
multiple = multiple.masked_fill(~positive, torch.nan)

# %%
tensors = {
    "batch": few.inputs(),
    "augmented": x_aug,
    "adversarial": x_adv,
    "features": features,
    "logits": logits,
    "embeddings": z,
    "cosines": cosine,
    "weights": multiple,
}
figure = figures.anchor_step(
    {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()},
    {name: getattr(terms, name).item() for name in ("total", "cross_entropy", "contrastive")},
    epsilon=config.epsilon,
    contrastive_weight=config.contrastive_weight,
)
plotting.show(
    figure,
    "Diagram of one ANCHOR step with the real tensors: batch, augmented and adversarial view, one pass through the encoder, "
    "features, logits and cross-entropy above, embeddings, cosines, weights and contrastive loss below, and their sum.",
)

# %%
quarter = {"augmented": multiple[:n, :n], "adversarial": multiple[:n, n:]}
mean_multiple = {view: values.nanmean().item() for view, values in quarter.items()}
crossed = cosine[:n, n:]
inside, outside = crossed[both[:n, None] == both[:n]].mean().item(), crossed[both[:n, None] != both[:n]].mean().item()
lesson.say(
    f'**Answers.** (a) In the quarter "augmented with adversarial" the mean cosine is **{inside:.2f}** inside the class '
    f"blocks and {outside:.2f} outside: the blocks are {'there' if inside > outside + 0.2 else 'hardly there'}. (b) For an "
    f"augmented anchor, an adversarial positive weighs **{mean_multiple['adversarial']:.2f}** times its SupCon weight, an "
    f"augmented one {mean_multiple['augmented']:.2f} times (beta = {config.beta:g})."
)

# %% [markdown]
# **Reading the figure.** Follow the arrows from the left. Grey is shared, blue is the branch of the classifier, orange
# the contrastive branch. Heatmaps have one row a view: the augmented ones above, the adversarial ones below the line.
# The two branches part only behind the features, so both losses shape the same encoder. In the two square matrices,
# rows and columns are all views: upper left augmented with augmented, lower right adversarial with adversarial. Blocks
# of a darker red in all four quarters mean that an image stays with its class under attack; had the attack won, they
# would be missing in the two mixed quarters. The weights exist only inside the blocks. Orange is above SupCon's weight,
# white equal to it, purple below, grey no positive. The scale of that matrix is stretched to its own extremes: look at
# the numbers below it before you call the pattern strong.
#
# ### How hard does each term pull?
#
# The losses have different sizes, but what counts for the encoder is the gradient. For each group of layers (the stem
# and the stages of the ResNet), with weights $\theta$, we compare the lengths of the two gradients, and over all groups their
# angle:
#
# $$s_\theta = \frac{\lVert \lambda \nabla_\theta L_{\text{HP}} \rVert}{\lVert \lambda \nabla_\theta L_{\text{HP}} \rVert +
# \lVert \nabla_\theta \mathrm{CE} \rVert} \tag{6}$$
#
# We compute the share $s_\theta$ for a batch of training size, in the network before training and in the trained one.


# %%
def pulls(network):
    """Gradients of the two terms, times their factors, and of SupCon, for each group of layers of the encoder."""
    network = copy.deepcopy(network).train()
    x_aug, x_adv = two_views(network, batch.images, batch.labels, torch.Generator().manual_seed(seed))
    features = network.encode(torch.cat([x_aug, x_adv]))
    cross_entropy = F.cross_entropy(network.classifier(features).chunk(2)[1], batch.labels)
    z, both = network.project(features), batch.labels.repeat(2)
    contrastive = losses.hard_positive_supcon_loss(z, both, config.temperature, config.beta)
    supcon = losses.supcon_loss(z, both, config.temperature)
    groups = {"stem": network.stem} | {f"stage {k}": stage for k, stage in enumerate(network.stages, start=1)}
    gradients = {}
    lam = config.contrastive_weight
    for name, term in (("ce", cross_entropy), ("hp", lam * contrastive), ("supcon", lam * supcon)):
        for group, layers in groups.items():
            found = torch.autograd.grad(term, list(layers.parameters()), retain_graph=True)
            gradients[name, group] = torch.cat([g.flatten() for g in found])
    return list(groups), gradients


def share_of_contrastive(hp, ce):
    return (hp.norm() / (hp.norm() + ce.norm())).item()  # eq. 6


# %%
moments = {"before training": fresh_network(), "after training": networks["anchor"]}
group_shares, share, angle, changed = {}, {}, {}, {}
for moment, network in moments.items():
    groups, gradients = pulls(network)
    group_shares[moment] = [share_of_contrastive(gradients["hp", g], gradients["ce", g]) for g in groups]
    hp, ce, supcon = (torch.cat([gradients[name, g] for g in groups]) for name in ("hp", "ce", "supcon"))
    changed[moment] = ((hp - supcon).norm() / supcon.norm().clamp_min(1e-12)).item()
    share[moment], angle[moment] = share_of_contrastive(hp, ce), F.cosine_similarity(hp, ce, dim=0).item()

plotting.show(
    figures.contrastive_shares(groups, group_shares["before training"], group_shares["after training"]),
    "Share of the contrastive term in the gradient of each group of layers of the encoder, before and after training.",
    svg=True,
)
for moment in moments:
    print(
        f"{moment}: share over the whole encoder {share[moment]:.0%}; cosine between the two pulls {angle[moment]:+.2f}"
    )

# %% [markdown]
# **Reading the figure.** Above the dotted line the contrastive term pulls harder on this group of layers than cross-entropy
# does. Near 0% or 100% one of the two would only be along for the ride, and $\lambda$ would have to change. The printed
# cosine says whether they agree: +1 the same direction, 0 nothing to do with each other, below 0 one undoes the other. Both
# terms ask for separated classes, so a cosine clearly below zero would have to worry us.
#
# ## 4 The full run
#
# > **Predict, then see.** The contrastive term is cross-entropy with the soft targets $w$, and a cross-entropy is never
# > below the entropy of its target. So: will the contrastive loss approach zero? And at $\beta = 2$ the largest weight
# > of an anchor could be $e^{4} \approx 55$ times its smallest, if cosines used their whole range. Of its positives
# > (about a dozen with the preset `cpu`), over how many will an anchor spread its weight: two, half of them, or nearly
# > all?
#
# To answer the second question, each step records the **hardness entropy**: the mean entropy of the weights as a share
# of the largest possible one, over the anchors with at least two positives. 1 is SupCon, 0 means that the hardest
# positive has all the weight:
#
# $$H = \operatorname{mean}_{i:\, |P(i)| > 1}\; \frac{- \sum_{p \in P(i)} w_{ip} \log w_{ip}}{\log |P(i)|} \tag{7}$$
#
# An entropy is hard to feel. $|P|^{H}$ says the same as the **effective number of positives** of notebook 04: $|P|$ at
# $H = 1$, one at $H = 0$.

# %%
history = {method: run.metrics() for method, run in runs.items()}
curve = history["anchor"]
epochs = curve["epoch"].tolist()

# How many positives an anchor has in the batches of the training: two views, so 2 k - 1 for a class with k images.
counts = []
for start in range(0, len(order) - config.batch_size + 1, config.batch_size):
    per_class = torch.bincount(dataset.train.labels[order[start : start + config.batch_size]])
    counts.append((2 * per_class - 1).repeat_interleave(2 * per_class))  # once for every anchor
counts = torch.cat(counts).double()
positives = counts.log().mean().exp().item()
effective = positives ** curve["hardness_entropy"].to_numpy()

held_out = f"{config.validation_images} held-out images"
figure = figures.training_curves(
    epochs,
    {method: {name: column.to_numpy() for name, column in table.items()} for method, table in history.items()},
    floor=np.log(effective),
    positives=positives,
    beta=config.beta,
    titles=(f"{held_out}, clean", f"{held_out}, PGD-{config.validation_steps}, epsilon {config.epsilon:g}"),
)
plotting.show(
    figure,
    "Four panels over the epochs of training: ANCHOR's two loss terms with the floor of the contrastive one, hardness "
    "entropy, held-out clean accuracy and held-out PGD accuracy of three methods.",
    svg=True,
)
H = float(curve["hardness_entropy"].iloc[-1])
lesson.say(
    f"**Answers.** The contrastive term ended at {curve['contrastive'].iloc[-1]:.2f}; its floor, the entropy of the weights, is "
    f"about {np.log(effective[-1]):.2f}. An anchor has {positives:.1f} positives (geometric mean), and in the last epoch "
    f"ANCHOR's weights used effectively **{effective[-1]:.1f}** of them, **{effective[-1] / positives:.1%}** "
    f"(hardness entropy {H:.4f}). "
    + (
        f"By this measure the weights at beta = {config.beta:g} are **nearly uniform**: there is little choosing among positives."
        if effective[-1] > 0.95 * positives
        else f"By this measure the weights at beta = {config.beta:g} **choose** among the positives."
    )
)

# %% [markdown]
# **Reading the figure.** Top left: both terms should fall together; the contrastive one towards its floor, not towards
# zero. The gap to the floor is what is left to learn. A contrastive term that stands still while cross-entropy falls would
# suggest that $\lambda$ is too small. Top right: the large panel has the whole possible range, the small one is stretched to
# make the change visible at all. A curve well below 1 in the *large* panel would mean that the weights choose among the
# positives. Bottom: accuracies on training images that were held out (PGD with the step size of the training, one
# restart, the last iterate counting). Where epsilon grows during the first part of the training, early epochs are
# attacked more strongly in this examination than in their training, and the robust curves start low. With one run a
# method, small distances between the lines mean nothing yet.
#
# ## 5 What would it take for beta to matter?
#
# Equation 1 exponentiates $\beta$ times a cosine. A constant added to all cosines of an anchor cancels, so only their
# *spread* counts. For small $\beta \sigma_i$, with $\sigma_i$ the standard deviation of the cosines of the positives of
# $i$, the entropy of a softmax has a simple form (expand $\log w$ to second order):
#
# $$- \sum_{p} w_{ip} \log w_{ip} \;\approx\; \log |P(i)| - \tfrac{1}{2} \beta^2 \sigma_i^2 \tag{8}$$
#
# So hardness weighting lives on the product $\beta\sigma$. It is also, to first order, the relative size by which a typical
# weight differs from SupCon's; in the entropy it enters *squared*. Weights that are off by a tenth take only half a
# hundredth of a nat from the entropy, so an entropy near its maximum does not prove that the weights do nothing. We look at
# both.
#
# Pulling positives together is just what the loss does: the better the training works, the smaller is $\sigma$. We take one
# batch, attack it with each network in turn, and compute the weights for many $\beta$. The networks stay as they are: for
# other $\beta$ this says what the *first* step would look like, not where a whole training would end. For comparison we
# take two networks without a contrastive term: the ordinary one of notebook 01, which never saw an attack, and PGD-AT. Their
# projection is untrained, so we take the cosines of their features.
#
# > **Predict, then see.** Which network has the widest spread of cosines among positives, and at which $\beta$ will
# > ANCHOR's weights use only half of the positives?


# %%
@torch.no_grad()
def entropy_share(w, positive):
    several = positive.sum(1) > 1
    return (losses.weight_entropy(w) / positive.sum(1).log())[several].mean().item()  # eq. 7


@torch.no_grad()
def effective_share(w, positive):
    has = positive.any(1)
    return (losses.weight_entropy(w)[has].exp() / positive.sum(1)[has]).mean().item()


# %%
hardnesses = np.linspace(0, 16, 33)
both = batch.labels.repeat(2)
positive = (both[:, None] == both).fill_diagonal_(False)
n, has_positive = len(batch), positive.any(1)[: len(batch)]
of_augmented = positive.clone()
of_augmented[n:] = False  # augmented anchors only
sweep = {}
ordinary = training.fit(config.replace(method="standard"), dataset=dataset).model().to(device)
studied = {"standard": ordinary} | networks
for method, network in studied.items():
    network = copy.deepcopy(network).train()
    x_aug, x_adv = two_views(network, batch.images, batch.labels, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        features = network.encode(torch.cat([x_aug, x_adv]))
        contrastive = method in ("supcon_at", "anchor")
        z = network.project(features) if contrastive else F.normalize(features, dim=1)
    cosine = z @ z.T
    weights = [losses.hardness_weights(z, both, beta) for beta in hardnesses]  # eq. 1
    mean = (cosine * positive).sum(1) / positive.sum(1).clamp_min(1)
    variance = ((cosine - mean[:, None]) ** 2 * positive).sum(1) / positive.sum(1).clamp_min(1)
    several = positive.sum(1) > 1
    approximation = [
        (1 - beta**2 * variance / 2 / positive.sum(1).log())[several].mean().item()  # eq. 8
        for beta in hardnesses
    ]
    sweep[method] = {
        "cosines": [
            cosine[of_augmented & half].cpu().numpy()
            for half in (torch.arange(2 * n, device=device) < n, torch.arange(2 * n, device=device) >= n)
        ],
        "sigma": variance[several].mean().sqrt().item(),  # eq. 8 needs the mean of the squares
        "entropy": np.array([entropy_share(w, positive) for w in weights]),
        "approximation": np.array(approximation),
        "used": np.array([effective_share(w, positive) for w in weights]),
        "off": [((w * positive.sum(1, keepdim=True) - 1)[positive] ** 2).mean().sqrt().item() for w in weights],
        "share": np.array([w[:n, n:].sum(1)[has_positive].mean().item() for w in weights]),
    }

# %%
plotting.show(
    figures.hardness_sweep(hardnesses, sweep, config.beta),
    "Left: quantiles of the cosines between augmented anchors and their positives in four networks. Middle and right: "
    "hardness entropy and share of the weight on adversarial positives against beta from 0 to 16.",
    svg=True,
)


def first_beta(reached):
    return f"about beta = {hardnesses[reached.argmax()]:g}" if reached.any() else f"a beta above {hardnesses[-1]:g}"


here = int(np.abs(hardnesses - config.beta).argmin())
anchors = sweep["anchor"]
widest = max(sweep, key=lambda method: sweep[method]["sigma"])
lesson.say(
    "**Answers.** Sigma, the standard deviation of an anchor's cosines with its positives (root mean square over the "
    "anchors): "
    + ", ".join(f"{plotting.method_name(method)} {result['sigma']:.3f}" for method, result in sweep.items())
    + f"; {plotting.method_name(widest)} has the widest. At beta = {hardnesses[here]:g} ANCHOR's weights use "
    f"{anchors['used'][here]:.1%} of the positives and put {anchors['share'][here]:.1%} of the weight on adversarial ones "
    f"(SupCon: {anchors['share'][0]:.1%}); in the network without adversarial training it would be "
    f"{sweep['standard']['used'][here]:.1%} and {sweep['standard']['share'][here]:.1%}. **The two measures side by side:** the entropy "
    f"stands at {anchors['entropy'][here]:.3f}; a single weight is off SupCon's by {anchors['off'][here]:.0%} (root mean "
    f"square; beta sigma = {hardnesses[here] * anchors['sigma']:.0%}), and the gradient of the contrastive term, after "
    f"training, is off by {changed['after training']:.0%} of its length. To use only half of the positives, "
    f"ANCHOR's network needs {first_beta(anchors['used'] < 0.5)}; to put ten points more weight on adversarial positives "
    f"than SupCon, {first_beta(anchors['share'] > anchors['share'][0] + 0.1)}."
)

# %% [markdown]
# **Reading the figure.** Left: thick bars hold the middle half of the cosines, thin lines 90% of them, the white mark
# is the median. Compare the two bars of each network: the farther the adversarial positives lie behind the augmented
# ones, the more eq. 1 has to weigh. The ordinary network shows what the attack does where nobody has trained against
# it; had the robust networks the same gap, their weights would matter at small $\beta$ too. PGD-AT shows how much of the
# gap adversarial training closes without any contrastive term. Middle (all anchors) and right (augmented anchors;
# colours as left): the earlier a curve leaves its value at $\beta = 0$, the more the weights choose. SupCon's share is
# a little above one half because the anchor's own adversarial view is among its positives. Read the two together:
# entropy can stay high while weight shifts from many augmented positives to as many adversarial ones. Equation 8
# follows the exact curve as long as $\beta\sigma$ is small. Compare ANCHOR with SupCon-AT: curves that lie close
# together mean that training with the weights did not change what the weights would see. ANCHOR's closer to uniform
# would fit weights that have pulled the far positives in, but one training each cannot tell that from luck.
#
# ### Exercise 1 · Which beta?
#
# A simplified anchor: its $n_{\text{aug}}$ augmented positives all have the cosine $c_{\text{aug}}$, its $n_{\text{adv}}$
# adversarial ones all have $c_{\text{adv}} < c_{\text{aug}}$. Return the $\beta$ at which the adversarial positives get the
# share `share` of the weight, in closed form from eq. 1. It shows at once which quantity decides whether hardness weighting
# does anything. Hint: write down the ratio of the two groups' weights.


# %% tags=["exercise"]
def beta_for_share(share, cosine_aug, cosine_adv, n_aug, n_adv):
    """The beta with which the adversarial positives get `share` (above 0, below 1) of an anchor's weight."""
    # BEGIN SOLUTION
    ratio = share / (1 - share) * n_aug / n_adv  # of the weight of one adversarial to one augmented positive
    return math.log(ratio) / (cosine_aug - cosine_adv)
    # END SOLUTION


# %% tags=["check"]
@lesson.check("Exercise 1")
def _():
    for share, c_aug, c_adv, n_aug, n_adv in (
        (0.75, 0.9, 0.4, 5, 5),
        (0.9, 0.9, -0.3, 11, 11),
        (0.6, 0.93, 0.9, 11, 12),
        (0.9, 0.5, 0.1, 3, 12),
    ):
        beta = beta_for_share(share, c_aug, c_adv, n_aug, n_adv)
        cosines = torch.tensor([c_aug] * n_aug + [c_adv] * n_adv, dtype=torch.float64)
        reached = (-float(beta) * cosines).softmax(0)[n_aug:].sum().item()
        case = f"{n_aug} positives at {c_aug}, {n_adv} adversarial ones at {c_adv}"
        sign = (
            " Did you mix up the sign? Far positives weigh more." if beta < 0 < share - n_adv / (n_aug + n_adv) else ""
        )
        assert abs(reached - share) < 1e-6, (
            f"With {case}, your beta = {float(beta):.3g} gives a share of {reached:.3f} instead of {share}.{sign}"
        )
    assert abs(beta_for_share(0.75, 0.9, 0.4, 2, 6)) < 1e-9, (
        "A share of n_adv / (n_aug + n_adv) is SupCon's: beta is 0."
    )


# %% [markdown] tags=["solution"]
# The ratio of the weights of a far and a near positive is $e^{\beta (c_{\text{aug}} - c_{\text{adv}})}$, so $\beta$ is a
# logarithm divided by the *gap* of the cosines. Halve the gap and you need twice the $\beta$. An encoder that keeps
# adversarial positives close makes the gap small, and a moderate $\beta$ idle.

# %% [markdown]
# ## 6 Fine-tuning on the frozen encoder
#
# In eq. 3 the classifier is trained along. The paper also fine-tunes on a frozen backbone, which asks a sharper question:
# are the *features* robust, whatever classifier came with them? With the encoder $g$ held fixed, eq. 5 trains a new linear
# classifier from a random start, on adversarial examples against *itself*.
#
# "Held fixed" is easy to get wrong. A BatchNorm layer in train mode does two things that have nothing to do
# with gradients: it normalises with the statistics of the batch, and it moves its running statistics towards them.
#
# To see what that does, we set `requires_grad = False` for the whole network, leave it in train mode and send a batch of
# adversarial images through it a few times. No optimiser takes part. Is the encoder the same afterwards?

# %%
drifted = copy.deepcopy(networks["anchor"]).requires_grad_(False).train()
before = copy.deepcopy(drifted.state_dict())
passes = 10
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
    f"**Answer.** After {passes} passes {weights_moved} weights and **{len(moved) - weights_moved} BatchNorm statistics** of the encoder have other "
    f"values. The features of {len(x)} clean test images, computed in eval mode, have changed by **{change:.0%}** of their length on average."
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
@lesson.check("Exercise 2")
def _():
    generator = torch.Generator().manual_seed(0)
    network = models.AnchorNet(num_classes=3, width=4, in_channels=1, projection_dim=8).train()
    freeze(network)
    before = copy.deepcopy(network.state_dict())
    trainable = [p for p in network.parameters() if p.requires_grad]
    assert any(p is network.classifier.weight for p in trainable), "The classifier has no gradient: it cannot learn."
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    for _ in range(3):
        images = torch.rand(8, 1, 16, 16, generator=generator)
        loss = F.cross_entropy(network(images), torch.randint(0, 3, (8,), generator=generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    parameters = dict(network.named_parameters())
    for name, value in network.state_dict().items():
        same = torch.equal(value, before[name])
        if name.startswith("classifier"):
            assert not same, "The classifier did not change in three steps."
        elif name.startswith(("stem", "stages")):
            assert same or name not in parameters, f"The weight {name} has moved: it still gets gradients."
            assert same, f"The statistic {name} has moved: its BatchNorm layer is still in train mode."


# %% [markdown] tags=["solution"]
# Two switches, since there are two ways to change: gradients (`requires_grad`) and the forward pass itself (train or eval
# mode). A later call of `model.train()` turns the second one on again, so training loops that begin each epoch with it undo
# the freezing; the package's loop therefore calls `model.train(False)` when the encoder is frozen.

# %% [markdown]
# The package's `finetune` does this, on PGD examples. Is its encoder really the old one, bit for bit?

# %%
tuned = training.finetune(runs["anchor"], dataset=dataset).model().to(device)  # eq. 5
encoder = {
    name: value for name, value in networks["anchor"].state_dict().items() if name.startswith(("stem", "stages"))
}
assert all(torch.equal(value, tuned.state_dict()[name]) for name, value in encoder.items())
print(f"{len(encoder)} tensors of the encoder, BatchNorm statistics included, are bit-identical after fine-tuning")

# %% [markdown]
# ## 7 Does it help? Networks compared image by image
#
# Four candidates: PGD-AT, SupCon-AT, ANCHOR with the classifier that was trained along, and ANCHOR's encoder with the new
# classifier. All see the same test images and the same attack; an image counts as robust only if *no* step of
# the attack changes its class (`iterate` is `any`).
#
# > **Predict, then see.** (a) Is ANCHOR more robust than PGD-AT, less, or can these test images not tell? And than
# > SupCon-AT? Remember what section 5 says about the weights. (b) How much of its robustness does ANCHOR lose with the
# > new classifier?


# %%
compared = test[:500]


def measure(network):
    """Clean and PGD accuracy on the test images, with 95% intervals and the outcome of each image."""
    network = models.fold_batchnorm(network)  # BatchNorm inside the convolutions: the same function, faster to attack
    settings = {**config.evaluation(), "restarts": config.eval_restarts}
    return evaluation.evaluate(network, compared, ("clean", "pgd"), **settings, seed=seed)


candidates = networks | {"anchor, fine-tuned": tuned}
table = pd.concat([measure(network).assign(method=name) for name, network in candidates.items()], ignore_index=True)
by = table.set_index(["method", "attack"])
shown = ["accuracy", "low", "high", "images", "epsilon", "step_size", "steps", "restarts", "iterate", "attack_seed"]
by[shown].round(3)

# %% [markdown]
# The intervals in this table are for each network by itself. They hide that all networks saw the *same* images: an image
# that fools both, or neither, says nothing about which is better. What counts are the images on which two networks
# disagree, $a$ robust under the first only and $b$ under the second only. If the two were equally good, each of these
# $a + b$ images would fall to either side like a fair coin. **McNemar's exact test** asks how surprising the split is:
#
# $$p = \min\Bigl(1,\; 2 \sum_{k=0}^{\min(a, b)} \binom{a + b}{k} 2^{-(a + b)}\Bigr) \tag{9}$$
#
# (Exercise 2 of notebook 06 asks you to write it yourself.)


# %%
bits = {name: results.unpack_outcomes(*by.loc[(name, "pgd"), ["outcomes", "images"]]) for name in candidates}
comparisons = []
for other in ("pgd_at", "supcon_at", "anchor, fine-tuned"):
    a, b = int((bits["anchor"] & ~bits[other]).sum()), int((bits[other] & ~bits["anchor"]).sum())
    test_result = binomtest(a, a + b) if a + b else None  # eq. 9
    low, high = test_result.proportion_ci() if a + b else (0.5, 0.5)
    points = 100 * (a + b) / len(compared)  # from a share of the disagreements to points of accuracy
    comparisons.append(
        {
            "ANCHOR against": other,
            "a": a,
            "b": b,
            "difference": 100 * (a - b) / len(compared),
            "low": (2 * low - 1) * points,
            "high": (2 * high - 1) * points,
            "p": test_result.pvalue if a + b else 1.0,
        }
    )
comparisons = pd.DataFrame(comparisons).set_index("ANCHOR against")

# %%
accuracies = {
    name: {attack: by.loc[(name, attack), ["accuracy", "low", "high"]].tolist() for attack in ("clean", "pgd")}
    for name in candidates
}
figure = figures.candidates(
    accuracies, comparisons.to_dict("index"), images=len(compared), attack=f"PGD-{config.eval_steps}"
)
plotting.show(
    figure,
    "Left: clean and PGD accuracy with 95% intervals of four networks. Right: paired differences in PGD accuracy between "
    "ANCHOR and each other network, with intervals and McNemar's p-values.",
    svg=True,
)


def verdict(other):
    found = comparisons.loc[other]
    name, p, tests = plotting.method_name(other), found["p"], len(comparisons)
    if p >= 0.05:
        return f"against {name} no difference was measured ({found['difference']:+.1f} points, p = {p:.2f})"
    better = "more" if found["difference"] > 0 else "less"
    weak = f", times {tests} comparisons {tests * p:.2g}: weak evidence" if tests * p >= 0.05 else ""
    return f"ANCHOR's network is {better} robust than {name}'s ({found['difference']:+.1f} points, p = {p:.2g}{weak})"


kept = by.loc[("anchor, fine-tuned", "pgd"), "accuracy"] / max(by.loc[("anchor", "pgd"), "accuracy"], 1e-9)
lesson.say(
    f"**Answers.** (a) Paired over images, {verdict('pgd_at')}, and {verdict('supcon_at')}. (b) With the new classifier "
    f"ANCHOR keeps **{kept:.0%}** of its robust accuracy."
)

# %% [markdown]
# **Reading the figure.** Left: open circles clean, filled circles under PGD. Right: the same comparison, paired. The
# two numbers are $a$ and $b$ of eq. 9, the images that only ANCHOR and only the other one holds. The interval is the
# exact one of $a / (a + b)$, scaled to points of accuracy, so it leaves out zero just when $p < 0.05$. An interval that
# covers zero (drawn in grey) means that these images cannot tell the two networks apart; it does not mean that they are
# equal. With three comparisons, a $p$ just below 0.05 would be weak evidence: multiply it by three. A difference
# against SupCon-AT to the right of zero would speak for the weights, but with one training each it could also be the
# luck of this training. The row "fine-tuned" answers (b): far to the right of zero would mean that the robustness sat
# in the classifier that was trained along; near zero, that it lies in the features.
#
# ## What can go wrong
#
# - **Two forward passes.** If the views pass one after the other in train mode, BatchNorm normalises each with statistics
#   of its own; at test time there is one set for all images. (AdvProp keeps two sets on purpose.) One pass is also simpler.
# - **Attacking in train mode.** Then the attack fits the batch statistics, and its passes move the running ones.
# - **Weights with gradient.** Without `stop_grad` in eq. 1 the loss can be lowered by making easy positives far
#   (notebook 04).
# - **Labels in the wrong order.** `cat([x_aug, x_adv])` needs `labels.repeat(2)`; `repeat_interleave` pairs images with
#   wrong labels, and nothing crashes.
# - **A frozen encoder in train mode.** Freezing the weights is not enough (section 6).
# - **A hyper-parameter that does nothing.** A result "with hardness weights" says little if the weights are uniform.
#   Record their entropy, and how far the gradient is from the one without them.
# - **Counting the classifier's gain as the features'.** Fine-tune on the frozen encoder to tell them apart.
# - **Unequal budgets.** Two views cost more per epoch than one. Compare at equal epochs *and* report the cost.
# - **One seed.** McNemar's test is about the choice of test images, not about the luck of training (notebook 08 has the
#   seeds).
#
# ## What we saw


# %%
def told(name):
    row = by.loc[(name, "pgd")]
    return (
        f"**{plotting.method_name(name).replace('anchor', 'ANCHOR')}** {by.loc[(name, 'clean'), 'accuracy']:.1%} clean and "
        f"{row['accuracy']:.1%} ({row['low']:.1%} to {row['high']:.1%}) under PGD"
    )


falls = (
    all(curve[term].iloc[-1] < curve[term].iloc[0] for term in ("cross_entropy", "contrastive"))
    if len(curve) > 1
    else False
)
chance = 1 / len(dataset.classes)
robust = by.loc[("anchor, fine-tuned", "pgd"), "low"] > 3 * chance
dearer = (config.attack_steps + 2) / (config.attack_steps + 1)  # two views pass in place of one, after the attack
confirmed = bool(falls and robust and kept > 0.9)
lesson.say(
    f"On {len(compared)} test images, PGD with epsilon {config.epsilon:g}, {config.eval_steps} steps of {config.eval_step_size:g}, "
    f"{config.eval_restarts} restart(s), any iterate counting, attack and training seed {seed}: "
    + "; ".join(told(name) for name in candidates)
    + f".\n\n**The claim is {'confirmed' if confirmed else 'not confirmed'}**: with one forward pass over both views, the two loss terms "
    + ("fell together" if falls else "did not both fall from the first epoch to the last")
    + f", and with a new linear classifier the features keep {kept:.0%} of the robust accuracy of the joint training "
    + f"(asked for: both terms fall, more than 90% is kept, and the interval lies above {3 * chance:.0%}, three times chance)."
    + "\n\n**Do the hardness weights add robustness? As measured:** paired over images, "
    + " and ".join(verdict(other) for other in ("supcon_at", "pgd_at"))
    + f". The weights used {effective[-1] / positives:.1%} of the positives in the last epoch (SupCon: 100%); in the trained network "
    f"they change the contrastive gradient by {changed['after training']:.0%}. "
    + (
        "McNemar's test compares *these two networks*; two trainings of one method with other seeds may differ as much. "
        if (comparisons["p"] < 0.05).any()
        else ""
    )
    + f"The epochs were equal, not the cost: an epoch of ANCHOR or SupCon-AT takes {dearer:.2f} times the forward-and-backward "
    + "passes of one of PGD-AT. One training seed: whether a difference belongs to the method is for notebook 08."
)

# %% [markdown]
# ### Expected values
#
# The numbers of this notebook beside the bands in which another machine should find them.

# %%
metrics = {
    f"{name.replace(', fine-', '_fine')}_{attack}_accuracy": float(by.loc[(name, attack), "accuracy"])
    for name in candidates
    for attack in ("clean", "pgd")
}
metrics |= {
    "claim_confirmed": float(confirmed),
    "contrastive_pull_share": share["after training"],
    "contrastive_pull_share_before_training": share["before training"],
    "contrastive_pull_cosine": angle["after training"],
    "weights_off_supcon": anchors["off"][here],
    "weights_change_contrastive_gradient": changed["after training"],
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
    "finetuned_share_kept": float(kept),
    "anchor_minus_supcon_at_points": float(comparisons.loc["supcon_at", "difference"]),
    "anchor_minus_pgd_at_points": float(comparisons.loc["pgd_at", "difference"]),
}
lesson.finish("05", preset, config, metrics)

# %% [markdown]
# **Limits.** A reconstruction from an abstract, on small images with a small network and one seed. The hyper-parameters
# $\beta$, $\lambda$ and $\tau$ were not searched for with equal effort for each method here. Section 5 looks at the weights
# of networks as they are; a training with another $\beta$ would give another network. PGD with one loss is not the
# strongest attack: notebook 06 has more of them, notebook 08 has more seeds and CIFAR-10.
#
# **References.** Bhattacharya, Bhattacharya, Chakraborty, arXiv 2510.27599 · Khosla et al., *Supervised contrastive
# learning*, arXiv 2004.11362 · Madry et al., arXiv 1706.06083 · Robinson et al., *Contrastive learning with hard negative
# samples*, arXiv 2010.04592 · Kim et al., *Adversarial self-supervised contrastive learning*, arXiv 2006.07589 (adversarial
# views as positives) · Ioffe and Szegedy, *Batch normalization*, arXiv 1502.03167 · Xie et al., *Adversarial examples improve
# image recognition* (AdvProp), arXiv 1911.09665 · McNemar, *Psychometrika* 12 (1947).
#
# **Next:** [06 · Robust evaluation](06_robust_evaluation.ipynb) attacks these networks with everything we have.
