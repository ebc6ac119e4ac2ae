# %% [markdown]
# # 02 · Adversarial training
#
# Train a network on the worst images that an attack finds, and it learns to resist that attack. Of the defences
# that were tried against strong attacks it has held up best, and ANCHOR builds on it. You will see what it changes in a network, what it costs, and two ways in which it fails.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/anchor-course/anchor-course/blob/main/notebooks/02_adversarial_training.ipynb)
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
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.datasets import make_moons
from torch import nn

from anchor_utils import attacks, data, evaluation, losses, models, plotting, results, training
from course import lesson, page
from course.figures import lesson_02 as figures
from study import tables

config, dataset, device = lesson.start("02", preset, overrides, seed, runs_dir, data_root)
test = dataset.test[: config.test_images][:500].to(device)  # notebook 05 compares networks on the same images


# %%
# The whole idea in one loop; section 1 explains it.
def toy_net():
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


def train(points, labels, radius, steps=600, moments=()):
    """A network trained on the worst points of boxes of this radius, and copies of it after `moments` steps."""
    net = toy_net()
    optimizer, copies = torch.optim.Adam(net.parameters(), lr=0.01), {}
    for step in range(steps + 1):
        if step in moments:
            copies[step] = copy.deepcopy(net)
        box = {"epsilon": radius, "step_size": radius / 2, "steps": 3}
        x_adv = attacks.pgd(net, points, labels, **box) if radius else points  # eq. 1, the inner maximum
        loss = F.cross_entropy(net(x_adv), labels)  # eq. 1, the outer minimum
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net, copies


# %% tags=["fold"]
# @title Points of two classes in a plane, and what a network decides there
def moons(count, radius, moons_seed, gap=0.0):
    """Two interleaved half circles in the unit square; points too near to another are left out.

    Points of different class keep a distance of at least `gap` radii, points of one class 0.4 of that.
    """
    points, labels = make_moons(1000, noise=0.15, random_state=moons_seed)
    points = torch.tensor((points - [-1.25, -0.85]) / [3.5, 2.2], dtype=torch.float32).clamp(0, 1)
    labels, kept = torch.tensor(labels), [0]
    for i in range(1, len(points)):
        distance = (points[i] - points[kept]).abs().amax(1)
        needed = torch.where(labels[kept] == labels[i], 0.4 * gap * radius, gap * radius)
        if len(kept) < count and (distance >= needed).all():
            kept.append(i)
    return points[kept], labels[kept]


@torch.no_grad()
def whole(net, points, labels, radius, side=9):
    """(N,) whether each box has the right class everywhere: the inner maximum by trying a side x side grid."""
    offset = torch.linspace(-radius, radius, side)
    boxes = (points[:, None] + torch.cartesian_prod(offset, offset)).clamp(0, 1)
    return net(boxes.flatten(0, 1)).argmax(1).view(len(points), -1).eq(labels[:, None]).all(1)


@torch.no_grad()
def decision(net, points, labels, radius):
    """The axis (90,) of a grid, the logit margin (90, 90) of class 1 on it, rows upwards, and (N,) which boxes are whole."""
    ticks = torch.linspace(0, 1, 90)
    lead = net(torch.cartesian_prod(ticks, ticks)).diff(dim=1).view(90, 90).T
    return ticks.numpy(), lead.numpy(), whole(net, points, labels, radius).numpy()


@torch.no_grad()
def toy_scores(net, points, labels, radius):
    """Share of points that are right, and of boxes that are whole."""
    right = net(points).argmax(1).eq(labels).float().mean().item()
    return right, whole(net, points, labels, radius).float().mean().item()


# %% tags=["fold"]
# @title Train both ways, and draw
radius, moments = 0.07, [0, 20, 40, 60, 80, 120, 160, 220, 300, 400, 600]
points, labels = moons(40, radius, 0, gap=2.2)
history = {"standard": train(points, labels, 0.0, moments=moments)[1]}
history["pgd_at"] = train(points, labels, radius, moments=moments)[1]
decisions = {
    way: {step: decision(net, points, labels, radius) for step, net in nets.items()} for way, nets in history.items()
}
toy = {way: toy_scores(nets[max(moments)], points, labels, radius) for way, nets in history.items()}
page.animation(
    figures.training_frames(decisions, points.numpy(), labels.numpy(), radius),
    "Animation: the decision boundaries of standard and of adversarial training in a plane, with a square box around "
    "every point, over the steps of training; adversarial training moves the boundary out of the boxes.",
    f"The networks get {toy['standard'][0]:.0%} and {toy['pgd_at'][0]:.0%} of their training points right. Of the boxes around them, ordinary training leaves "
    f"{toy['standard'][1]:.0%} **whole** (right everywhere inside), training on attacked points (PGD-AT, section 1) {toy['pgd_at'][1]:.0%}. A thick red box "
    "hides an adversarial example. A plane shows what is asked for, not how hard it is with many pixels.",
    milliseconds=400,
    colors=48,
)

# %% [markdown]
# **Claim: a network that is trained on its own adversarial examples keeps most of its accuracy under the attack of notebook 01,
# and TRADES and MART do the same with other losses; but trained on few images for many epochs, part of its robustness does not
# carry over to new ones.** The last cells confirm or refute this with the numbers of this very run.
#
# **You will learn** the min-max problem behind adversarial training; PGD-AT, TRADES and MART in a few lines each; what they change in a
# network and what they cost; why training with one step can collapse.
#
# **You need** notebook 01: FGSM, PGD, epsilon.
#
# **Time** 40 minutes to read. The first cell says how long the notebook runs here; most of it is training.

# %% [markdown]
# ## 1 The attack as a teacher
#
# Ordinary training minimises the loss on the images that it is given. **Adversarial training** minimises the loss on the *worst* image
# within reach of each of them (Madry et al., [1706.06083](https://arxiv.org/abs/1706.06083)):
#
# $$\min_\theta \; \mathbb E_{(x, y)} \Bigl[ \max_{\|x' - x\|_\infty \le \varepsilon} \ell\bigl(f_\theta(x'), y\bigr) \Bigr] \tag{1}$$
#
# Here $f_\theta$ is the network with weights $\theta$, $(x, y)$ an image and its class, $x'$ any image that differs from $x$ by at most
# $\varepsilon$ in each pixel, and $\ell$ the cross-entropy.
#
# The **inner maximum** is an attack. PGD only approximates it. The **outer minimum** is an ordinary training step on the result. Doing both in turn is
# **PGD-AT**. It is the loop above.
#
# The worst $x'$ depends on $\theta$ too, yet the loop treats it as a constant. At an exact maximum this is right: there, the movement of $x'$ adds
# nothing to the gradient (Danskin's theorem).
#
# ### How large a box?
#
# In a plane we can check the inner maximum without any attack: try a fine grid of points in each box. So we can ask what happens as the boxes grow.
# Take the same 40 points and train with one $\varepsilon$ after the other.
#
# > **Predict, then see.** At first a larger box only asks for more distance. Where does this stop being possible for all points at once? What will the network
# > do beyond?

# %%
radii = [0.0, 0.04, 0.07, 0.1, 0.13, 0.17]
boxed = {0.0: history["standard"][600], radius: history["pgd_at"][600]}
boxed |= {epsilon: train(points, labels, epsilon)[0] for epsilon in radii if epsilon not in boxed}
toy_path = pd.DataFrame(
    [toy_scores(boxed[epsilon], points, labels, epsilon) for epsilon in radii], radii, ["right", "whole"]
)
distance = (points[labels == 0][:, None] - points[labels == 1]).abs().amax(2)  # L-infinity
touching = distance.min().item() / 2  # from this radius on, the nearest two boxes of different class overlap
toy_path.T.round(2)

# %% tags=["fold"]
# @title Slide epsilon
still_whole = max(epsilon for epsilon in radii if toy_path.whole[epsilon] == toy_path.whole.max())
page.slider(
    "epsilon",
    [f"{epsilon:g}" for epsilon in radii],
    figures.epsilon_frames(
        {epsilon: decision(boxed[epsilon], points, labels, epsilon) for epsilon in radii},
        points.numpy(),
        labels.numpy(),
        toy_path["right"].to_numpy(),
        toy_path["whole"].to_numpy(),
        touching,
    ),
    "Left: the boundary of a network trained with boxes of this epsilon, broken boxes in red. Right: the share of "
    "points that are right and of boxes that are whole against epsilon.",
    f"Up to epsilon {still_whole:g}, {toy_path.whole.max():.0%} of the boxes are whole. At {radii[-1]:g} it is {toy_path.whole.iloc[-1]:.0%}, "
    f"and {toy_path.right.iloc[-1]:.0%} of the points are right. From {touching:.3f} on (grey line) boxes of different class overlap, and "
    "no boundary keeps both whole. Each epsilon was trained once.",
    start=2,
    strip=3,
    colors=160,
)

# %% [markdown]
# ### Overlap is one cause of a trade-off, and not the one here
#
# Where boxes of different class overlap, robust and clean accuracy pull against each other. It is tempting to explain every loss of clean accuracy
# this way. For images we can test it: how near do two training images of *different* class come?

# %%
some, many = dataset.train[:200], dataset.train[:5000]
apart = torch.cdist(some.inputs().flatten(1), many.inputs().flatten(1), p=torch.inf)  # largest difference of any pixel
apart[some.labels[:, None] == many.labels] = torch.inf
nearest = apart.min().item()
lesson.say(
    f"Of {len(some)} training images compared with {len(many):,}, the nearest pair of different classes is {nearest:.2f} apart. Two boxes "
    f"touch at $2\\varepsilon$ = {2 * config.epsilon:g}. So boxes {'do not overlap' if nearest > 2 * config.epsilon else 'do overlap'} here."
)

# %% [markdown]
# Yang et al. ([2003.02460](https://arxiv.org/abs/2003.02460)) found the same for common image data sets: on these images a function exists that is accurate *and* robust.
# That training does not reach it must have other reasons, such as too few images, too small a network, or the method itself.
#
# ### In which mode is the network attacked?
#
# BatchNorm and dropout behave differently in train and in eval mode. In this course the attack meets the network in **eval mode**, as it will be deployed. Much public
# code does otherwise: that of Rice et al. (section 7), for example, attacks in train mode, where each image's loss depends on its batch.
# Pang et al. ([2010.00467](https://arxiv.org/abs/2010.00467)) compare both.
#
# ### Exercise 1 · The PGD-AT step of a real network
#
# The network above behaves alike in both modes. Write one step of PGD-AT for a network that has. `attack(model, x, y)` returns adversarial images; it does
# not look after modes, and it may leave gradients behind. Attack with *every* module in eval mode. Then train with every module in the mode in which it was
# before: some, such as a frozen encoder, may have been in eval mode already. Hint: `module.training` is a plain attribute.


# %% tags=["exercise"]
def pgd_at_step(model, optimizer, x, y, attack):
    """One step of PGD-AT on the batch (x, y); returns the adversarial loss as a float."""
    # BEGIN SOLUTION
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    x_adv = attack(model, x, y)
    for module, mode in modes:
        module.training = mode
    loss = F.cross_entropy(model(x_adv), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 1
@lesson.check("Exercise 1")
def _():
    net = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    net[0].eval()  # a frozen encoder under a classifier that is being trained
    before = [module.training for module in net.modules()]
    old = [parameter.detach().clone() for parameter in net.parameters()]
    x, y, moved, attacked, passes = torch.rand(8, 3), torch.arange(8) % 2, torch.rand(8, 3), [], []
    net.register_forward_hook(
        lambda _, given, logits: passes.append((given[0], logits.detach(), [m.training for m in net.modules()]))
    )

    def attack(model, images, targets):
        attacked.append((images, targets, [module.training for module in model.modules()]))
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e3)
        return moved

    loss = pgd_at_step(net, torch.optim.SGD(net.parameters(), lr=0.1), x, y, attack)
    assert len(attacked) == 1, f"attack() was called {len(attacked)} times; one step attacks the batch once."
    assert torch.equal(attacked[0][0], x), "The attack got other images."
    assert torch.equal(attacked[0][1], y), "The attack got other labels."
    assert not any(attacked[0][2]), "During the attack a module was in train mode."
    assert passes, "The network was never given the adversarial images."
    given, logits, modes = passes[-1]
    assert torch.equal(given, moved), "The training step did not see the images that attack() returned."
    assert modes == before, "In the training step some module was not in the mode it was in before."
    assert isinstance(loss, float), f"It returns {type(loss).__name__}, not a float."
    assert abs(loss - F.cross_entropy(logits, y).item()) < 1e-5, "The number returned is not the adversarial loss."
    steps = [(new - was).abs().max().item() for new, was in zip(net.parameters(), old, strict=True)]
    assert max(steps) > 0, "No weight has moved."
    assert max(steps) < 10, "Gradients that the attack left behind went into the step."
    assert [module.training for module in net.modules()] == before, "Afterwards some module is in another mode."


# %% [markdown] tags=["solution"]
# `model.train()` after the attack looks right and is wrong: it wakes up every frozen BatchNorm below it, and from then on the "frozen" encoder's statistics
# drift with each batch. `attacks.pgd` puts modes and gradients back by itself.

# %% [markdown]
# ## 2 TRADES: a price for disagreement
#
# PGD-AT never shows the network a clean image. **TRADES** (Zhang et al., [1901.08573](https://arxiv.org/abs/1901.08573), eq. 5)
# does. It charges $\beta_{\text{TRADES}}$ ($1/\lambda$ in the paper) for every change of the *prediction* between an image and its worst neighbour:
#
# $$\ell_{\text{TRADES}} = \mathrm{CE}\bigl(f(x), y\bigr) + \beta_{\text{TRADES}} \, \mathrm{KL}\bigl(p(x) \,\|\, p(x')\bigr) \tag{2}$$
#
# $p(x)$ are the softmax probabilities for $x$, and $\mathrm{KL}(p \| q) = \sum_k p_k \log (p_k / q_k)$ measures how far $q$ is from $p$.
# The neighbour $x'$ solves an inner problem of its own, in which the label does not occur:
#
# $$x' = \arg\max_{\|x' - x\|_\infty \le \varepsilon} \mathrm{KL}\bigl(p(x) \,\|\, p(x')\bigr) \tag{3}$$


# %%
def kl(p, q):
    return (p * (p.log() - q.log())).sum(1)


def my_trades(clean_logits, adversarial_logits, y, beta_trades):
    p, p_adv = clean_logits.softmax(1), adversarial_logits.softmax(1)
    return F.cross_entropy(clean_logits, y) + beta_trades * kl(p, p_adv).mean()  # eq. 2


def away_from(model, x):
    """What the inner attack of TRADES maximises; the clean prediction is a constant."""
    with torch.no_grad():
        p = model(x).softmax(1)
    return lambda logits, _: kl(p, logits.softmax(1))  # eq. 3


a, b = torch.randn(2, 32, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
t = torch.arange(32) % 10
assert torch.allclose(my_trades(a, b, t, 6.0), losses.trades_loss(a, b, t, 6.0))
print("eq. 2 as written above agrees with anchor_utils.losses")

# %% [markdown]
# Where may the search for $x'$ begin? KL is smallest, zero, at $x' = x$, and at a minimum the gradient is zero. The paper starts at a tiny
# Gaussian step from $x$; this course starts at a uniform point of the whole box, as PGD does.

# %%
net, generator = boxed[radius], torch.Generator().manual_seed(seed)
starts = {
    "x itself": points,
    "a Gaussian step of 0.001 (paper)": points + 0.001 * torch.randn(points.shape, generator=generator),
    "a uniform point of the box (here)": points + radius * (2 * torch.rand(points.shape, generator=generator) - 1),
}
for name, start in starts.items():
    start = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(away_from(net, points)(net(start), labels).sum(), start)
    print(f"mean length of the gradient of KL at {name:34} {gradient.norm(dim=1).mean():.1e}")

# %% [markdown]
# At $x$ itself only rounding errors are left, and PGD's first step would follow their signs. A short gradient that is not rounding is
# enough for a sign step, which ignores length; so the paper's start can work too.
#
# ### What does a larger $\beta_{\text{TRADES}}$ buy?
#
# Now take more points, with no gap between the classes, so that boxes overlap. Train with several $\beta_{\text{TRADES}}$. New points from the same half circles are the test.
#
# > **Predict, then see.** As $\beta_{\text{TRADES}}$ grows from zero, does robust accuracy rise all the way? What happens to clean accuracy?

# %%
wide, betas, exchanged = 0.08, [0.0, 0.5, 2.0, 10.0], {}
crowd, crowd_labels = moons(200, wide, 1)
fresh, fresh_labels = moons(1000, wide, 2)
for beta_trades in betas:
    net = toy_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(250):
        x_adv = crowd
        if beta_trades:  # the inner problem, eq. 3
            box = {"epsilon": wide, "step_size": wide / 3, "steps": 5}
            x_adv = attacks.pgd(net, crowd, crowd_labels, **box, loss=away_from(net, crowd))
        loss = my_trades(net(crowd), net(x_adv), crowd_labels, beta_trades)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    exchanged[beta_trades] = net

# %% tags=["fold"]
# @title Draw the path
exchange = pd.DataFrame(
    [toy_scores(net, fresh, fresh_labels, wide) for net in exchanged.values()], betas, ["clean", "robust"]
)
drawn = crowd[:32], crowd_labels[:32]
changes = [
    f"{low:g} to {high:g}: {100 * (exchange.clean[high] - exchange.clean[low]):+.1f} clean and "
    f"{100 * (exchange.robust[high] - exchange.robust[low]):+.1f} robust"
    for low, high in pairwise(betas)
]
page.figure(
    figures.trades_path(
        {beta: decision(exchanged[beta], *drawn, wide) for beta in (betas[0], betas[2], betas[3])},
        *(part.numpy() for part in drawn),
        wide,
        betas=betas,
        clean=exchange["clean"].to_numpy(),
        robust=exchange["robust"].to_numpy(),
        tested=len(fresh),
    ),
    "Three decision boundaries of TRADES in the plane for a small, a middle and a large beta, and the path of clean "
    "and robust accuracy on new points as beta grows.",
    f"What each move of $\\beta_{{\\text{{TRADES}}}}$ changes, in points: {'; '.join(changes)}. Left is paid, up is "
    f"bought; a point or two is noise. One training seed, {len(fresh)} points.",
)

# %% [markdown]
# ## 3 MART: weigh by how unsure the network is
#
# **MART** (Wang et al., ICLR 2020, eq. 11) trains on the adversarial image with a **boosted cross-entropy**, which also pushes
# down the strongest wrong class,
#
# $$\mathrm{BCE}\bigl(p(x'), y\bigr) = -\log p_y(x') - \log\bigl(1 - \max_{k \ne y} p_k(x')\bigr) \tag{4}$$
#
# and weighs the KL term of each image by how unsure the network is of the *clean* image:
#
# $$\ell_{\text{MART}} = \mathrm{BCE}\bigl(p(x'), y\bigr) + \beta_{\text{MART}} \, \mathrm{KL}\bigl(p(x) \,\|\, p(x')\bigr) \bigl(1 - p_y(x)\bigr) \tag{5}$$
#
# Here $p_y$ is the probability of the true class, and $x'$ maximises the ordinary cross-entropy, as in PGD-AT.


# %%
def my_mart(clean_logits, adversarial_logits, y, beta_mart):
    p, p_adv = clean_logits.softmax(1), adversarial_logits.softmax(1)
    true = F.one_hot(y, p.shape[1]).bool()
    boosted = -p_adv[true].log() - (1 - p_adv.masked_fill(true, 0).amax(1)).log()  # eq. 4
    return (boosted + beta_mart * kl(p, p_adv) * (1 - p[true])).mean()  # eq. 5


assert torch.allclose(my_mart(a, b, t, 5.0), losses.mart_loss(a, b, t, 5.0))
print("eq. 4 and eq. 5 as written above agree with anchor_utils.losses, in float64")

# %% [markdown]
# ## 4 Four networks
#
# Same images, architecture, epochs, optimiser and training attack (but for TRADES' inner loss). With the preset
# `cpu`, epsilon rises linearly over the first part of training: at full strength from the first step, a small network can get stuck at
# guessing.
#
# The checkpoint that is kept is the epoch with the highest PGD accuracy on **held-out training images** (for the ordinary network: clean accuracy). The test images
# take no part in any choice.
#
# > **Predict, then see.** Rank ordinary training, PGD-AT, TRADES and MART by clean accuracy, then by accuracy under PGD. Is it the
# > same order?

# %%
methods = ["standard", "pgd_at", "trades", "mart"]
runs = {method: training.fit(config.replace(method=method), dataset=dataset) for method in methods}
# The same function with BatchNorm folded into the convolutions: equal up to rounding, faster to attack.
networks = {method: models.fold_batchnorm(run.model()).to(device) for method, run in runs.items()}


def scores(network, split, **names):
    """Clean and PGD accuracy on the images of `split`, with 95% intervals, one row an attack."""
    settings = {**config.evaluation(), "restarts": config.eval_restarts, "seed": seed}
    return evaluation.evaluate(network, split, ("clean", "pgd"), **settings).assign(**names)


table = pd.concat([scores(network, test, method=method) for method, network in networks.items()])
accuracy = table.pivot(index="method", columns="attack", values="accuracy").loc[methods]
shown = ["method", "attack", "accuracy", "low", "high", "images", "epsilon", "step_size", "steps", "restarts"]
table[[*shown, "iterate", "attack_seed"]].round(3).astype(object).fillna("").set_index("method")

# %% [markdown]
# ### What does robustness cost?
#
# Digits are easy. CIFAR-10 is harder, so we also show the study that comes with the course: small networks, several training seeds a
# method. The same figure shows how accuracy falls with the epsilon of the *attack*, beyond the one of training.

# %%
epsilons = [round(config.epsilon * share, 4) for share in (1 / 3, 2 / 3, 1, 7 / 6, 4 / 3)]
few_test = test[:100]
falling = {}
for method, network in networks.items():
    rows = [evaluation.evaluate(network, few_test, ("clean",))]
    rows += [evaluation.evaluate(network, few_test, ("pgd",), epsilon=e, steps=10, seed=seed) for e in epsilons]
    falling[method] = pd.concat(rows)["accuracy"].to_numpy()

study, _ = tables.read_cells(models.PRETRAINED_DIR / "study.json", "cifar10_cpu")
study = study[(study["checkpoint"] == "best") & study["method"].isin(methods)]
cifar = {  # mean over training seeds, with a 95% interval
    method: {
        attack: results.mean_interval(study[(study["method"] == method) & (study["attack"] == attack)]["accuracy"])
        for attack in ("pgd", "clean")
    }
    for method in methods
}

# %% tags=["fold"]
# @title Draw what robustness costs
digits_price = 100 * (accuracy.clean["standard"] - accuracy.clean["pgd_at"])
cifar_price = 100 * (cifar["standard"]["clean"][0] - cifar["pgd_at"]["clean"][0])
cifar_gain = 100 * (cifar["pgd_at"]["pgd"][0] - cifar["standard"]["pgd"][0])
page.figure(
    figures.price_of_robustness(
        [0.0, *epsilons],
        falling,
        config.epsilon,
        cifar,
        attack="PGD-10",
        images=len(few_test),
        title=f"CIFAR-10, {tables.attack_name(study, 'pgd')}, epsilon {study['epsilon'].max():g}",
    ),
    "Left: accuracy under PGD against epsilon for four networks. Right: clean and PGD accuracy of the four methods on CIFAR-10, with intervals.",
    f"PGD-AT costs {digits_price:.1f} points of clean accuracy here, and {cifar_price:.1f} on CIFAR-10, where it buys {cifar_gain:.1f} under PGD. Left: at "
    f"{epsilons[3]:g}, just beyond training (dashed), PGD-AT keeps {falling['pgd_at'][4]:.0%}. Right: open points are clean, filled ones attacked, bands 95% intervals over "
    "seeds. A stronger attack may leave less.",
    svg=True,
)

# %% tags=["fold"]
# @title The answer to your ranking
interval = table.set_index(["method", "attack"])
by_clean, by_pgd = (accuracy[attack].sort_values(ascending=False).index for attack in ("clean", "pgd"))
order = [", ".join(plotting.method_name(method) for method in ranking) for ranking in (by_clean, by_pgd)]
first_leads = interval.loc[(by_pgd[0], "pgd"), "low"] > interval.loc[(by_pgd[1], "pgd"), "high"]
lesson.say(
    f"**Answer.** By clean accuracy: {order[0]}. Under PGD: {order[1]}. "
    f"{'The same order' if list(by_clean) == list(by_pgd) else 'Another order'} in this run; the intervals of the first two under PGD "
    f"{'are apart' if first_leads else 'overlap, which leaves their order open'}."
)

# %% [markdown]
# ## 5 What has changed in the network?
#
# ### What does the gradient look at?
#
# An attacker follows the gradient of the **logit margin** (the true logit minus the largest other one) with respect to the pixels. If small changes of a pixel no
# longer matter, the gradient there should vanish. What is left should be changes of the image's content (Tsipras et al., [1805.12152](https://arxiv.org/abs/1805.12152)).
#
# To measure it: what share of the gradient's absolute values lies **on the strokes**, where a pixel and its neighbours differ?


# %%
def input_gradient(network, x, y):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(attacks.margin(network(x), y).sum(), x)  # minus the logit margin
    return gradient.cpu()


def mass(gradient, strokes):
    """(N,) share of |gradient| that lies on the strokes."""
    size = gradient.abs().mean(1, keepdim=True)
    return (size * strokes).flatten(1).sum(1) / size.flatten(1).sum(1)


x, y = test[:120].inputs(), test[:120].labels
gray = x.mean(1, keepdim=True).cpu()
strokes = F.max_pool2d(gray, 3, 1, 1) + F.max_pool2d(-gray, 3, 1, 1) > 0.1  # local contrast
gradients = {method: input_gradient(network, x, y) for method, network in networks.items()}
on_strokes = {method: mass(gradient, strokes).mean().item() for method, gradient in gradients.items()}
on_others = {method: mass(gradient, strokes.roll(1, 0)).mean().item() for method, gradient in gradients.items()}

# %% tags=["fold"]
# @title Draw the gradients
chosen = torch.stack([(y == k).nonzero()[0, 0] for k in y.unique()][:7]).cpu()
percent = {plotting.method_name(method): f"{on_strokes[method]:.0%}" for method in methods}
page.figure(
    plotting.image_grid(
        [
            x[chosen.to(device)].cpu().numpy(),
            *(gradient[chosen].sign() * gradient[chosen].abs().sqrt() for gradient in gradients.values()),
        ],
        ["image", *(f"{name}\n{share}" for name, share in percent.items())],
        signed_rows=range(1, 5),
        size=1.05,
    ),
    "Test images of several classes and below each the gradient of the logit margin for four networks, with the share "
    "of its mass on the strokes at the left.",
    f"On the strokes, {strokes.float().mean():.0%} of the pixels, lie {percent['standard']} of the ordinary network's gradient and {percent['PGD-AT']} of PGD-AT's "
    f"({on_others['pgd_at']:.0%} on another image's strokes). Red: more ink helps the attacker. Roots are drawn, each image to its own scale. It may be no more than a "
    "learned threshold: then black pixels have no gradient.",
)

# %% [markdown]
# Madry et al. looked into their network for digits and found just that: its first layer thresholds the pixels. Notebook 06 tests ours.
#
# ### Whom does MART weigh?
#
# MART is often introduced as a method for *misclassified* images: eq. 5 weighs KL by $1 - p_y(x)$, which is large for them. How much of the weight do they
# really carry? We look at training images, since that is where the loss is computed.

# %%
batch = dataset.hold_out(config.validation_images)[0].train[:256].to(device)
x, y = batch.inputs(), batch.labels
x_adv = attacks.pgd(networks["mart"], x, y, **config.attack(), generator=torch.Generator().manual_seed(seed))
p, p_adv = (evaluation.logits_of(networks["mart"], z).cpu().double().softmax(1) for z in (x, x_adv))
y = y.cpu()
weight = 1 - p.gather(1, y[:, None]).squeeze(1)
term = weight * kl(p, p_adv)  # what eq. 5 adds up
groups = {  # each image is in one
    "misclassified clean": p.argmax(1) != y,
    "misclassified only under attack": (p.argmax(1) == y) & (p_adv.argmax(1) != y),
    "right in both": (p.argmax(1) == y) & (p_adv.argmax(1) == y),
}
shares = {
    what: [(values[group].sum() / values.sum()).item() for group in groups.values()]
    for what, values in (("images", torch.ones_like(weight)), ("weight", weight), ("weighted KL", term))
}

# %% tags=["fold"]
# @title Draw MART's shares
mostly = "mostly a weight on images that are right, but unsurely" if shares["weight"][0] < 0.5 else "mostly on mistakes"
page.figure(
    figures.mart_shares(shares, [*groups], len(y)),
    "Three bars, each split into images misclassified clean, misclassified only under attack and right in both: share "
    "of the images, of MART's weight and of its weighted KL term.",
    f"Images misclassified clean are {shares['images'][0]:.0%} of the batch, carry {shares['weight'][0]:.0%} of the weight and {shares['weighted KL'][0]:.0%} of the weighted KL. "
    f"So in this run $1 - p_y$ is {mostly}. Read each bar from left to right. The network is a trained one; early in training more images are misclassified.",
    svg=True,
)

# %% [markdown]
# ## 6 One step is cheap, and can collapse
#
# With seven attack steps, a training step takes eight passes through the network, where ordinary training takes one. Why not train with FGSM, two passes? The danger has a name, **catastrophic overfitting**
# (Wong et al., [2001.03994](https://arxiv.org/abs/2001.03994)): the network learns to defeat the one step, while PGD still breaks it.
#
# We train from scratch for a short time with FGSM and attack the network on the way with both.
#
# > **Predict, then see.** Clean accuracy, accuracy under FGSM, accuracy under PGD: which of the three curves will rise, which will fall?


# %%
def fgsm_training(steps, log, every=20):
    network = training.new_network(config.replace(method="pgd_at"), dataset).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps + 1):
        if step % every == 0:
            log(step, models.fold_batchnorm(network))
        batch = dataset.train[torch.randint(len(dataset.train), (64,), generator=generator)].to(device)
        x, y = batch.inputs(), batch.labels
        x_adv = attacks.fgsm(network, x, y, epsilon=config.epsilon)  # one step instead of PGD
        loss = F.cross_entropy(network.train()(x_adv), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return models.fold_batchnorm(network)


# %% tags=["fold"]
# @title Train with FGSM, and attack on the way
def log_accuracy(step, network):
    attack = {"epsilon": config.epsilon, "step_size": config.step_size, "steps": 7, "seed": seed}
    found = evaluation.evaluate(network, few_test, ("clean", "fgsm", "pgd"), **attack)
    one_step_log.append({"step": step} | dict(zip(found["attack"], found["accuracy"], strict=True)))


one_step_log = []
fgsm_trained = fgsm_training(min(120, 30 * config.epochs), log_accuracy)
one_step_log = pd.DataFrame(one_step_log).set_index("step")
last = one_step_log.iloc[-1]
collapsed = last.fgsm - last.pgd > 0.3
page.figure(
    figures.collapse(one_step_log.index.tolist(), {name: one_step_log[name].to_numpy() for name in one_step_log}),
    "Clean, FGSM and PGD accuracy over the steps of a training that attacks with one step from the image.",
    f"After {one_step_log.index[-1]} steps the network resists FGSM on {last.fgsm:.0%} of {len(few_test)} images and PGD on {last.pgd:.0%}; at best PGD left "
    f"{one_step_log.pgd.max():.0%}. That is {'a collapse' if collapsed else 'no collapse'}. Compare the two lower curves: trust the red one. One seed, and a short training from scratch "
    "at full epsilon.",
    svg=True,
)

# %% [markdown]
# ### The loss surface, before and after
#
# How can a network resist FGSM and not PGD? Look at the loss in the plane through an image, the point that FGSM finds and the point that PGD finds.

# %%
side = 11
x, y = test[:20].inputs(), test[:20].labels


@torch.no_grad()
def surface(network):
    """(side, side) mean loss around images: columns from the image to FGSM's point, rows from it to PGD's."""
    found = attacks.pgd(network, x, y, **config.evaluation(), generator=torch.Generator().manual_seed(seed))
    to_pgd, to_fgsm = found - x, attacks.fgsm(network, x, y, epsilon=config.epsilon) - x
    share = torch.linspace(0, 1, side).tolist()
    deltas = [(a * to_fgsm + b * to_pgd).clamp(-config.epsilon, config.epsilon) for b in share for a in share]
    return np.reshape([F.cross_entropy(network((x + d).clamp(0, 1)), y).item() for d in deltas], (side, side))


compared = {"standard": networks["standard"], "PGD-AT": networks["pgd_at"], "trained with FGSM": fgsm_trained}
surfaces = {name: surface(network) for name, network in compared.items()}

# %% tags=["fold"]
# @title Draw the surfaces
at_points = {
    name: f"{loss[0, -1]:.1f} at FGSM's point and {loss[-1, 0]:.1f} at PGD's" for name, loss in surfaces.items()
}
page.figure(
    figures.loss_surfaces(surfaces),
    "Mean loss in the plane through an image, FGSM's point and PGD's point, for three networks.",
    f"Mean loss in nats over {len(x)} images, trained with FGSM: {at_points['trained with FGSM']}. PGD-AT: {at_points['PGD-AT']}. Ordinary: "
    f"{at_points['standard']}. Lighter is higher, on one logarithmic scale. Points outside the ball are moved back into it.",
)

# %% [markdown]
# ### Exercise 2 · Provoke a collapse
#
# Wong et al. found that it helps to start the one step at a random point of the box. Show that it cannot be relied on. `small_run(epsilon, step_size)` trains a small network for seconds, each time with one
# attack step of `step_size` from a random point, and returns its accuracy under FGSM and under PGD with that epsilon. Begin at
# `small_run(0.05, 0.06)`, where the two are close. Find settings with a gap of at least 30 points, in which FGSM accuracy is above 50%.

# %% tags=["fold"]
# @title small_run, on digits with every preset
digits = data.load_dataset("mnist5k")


def small_run(epsilon, step_size, steps=200):
    """FGSM and PGD accuracy of a small network after one-step training from random starts."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 5, 2, 2), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [nn.Conv2d(16, 32, 5, 2, 2), nn.BatchNorm2d(32), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 7 * 7, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = digits.train[torch.randint(len(digits.train), (64,))]
        x, y = batch.inputs(), batch.labels
        x_adv = attacks.pgd(net, x, y, epsilon=epsilon, step_size=step_size, steps=1)
        loss = F.cross_entropy(net(x_adv), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    settings = {"epsilon": epsilon, "step_size": epsilon / 3, "steps": 10}
    found = evaluation.evaluate(net.eval(), digits.test[:200], ("fgsm", "pgd"), **settings)
    return tuple(found["accuracy"])


# %% tags=["exercise"]
def provoke():
    """Settings with which `small_run` collapses: (epsilon, step_size)."""
    # BEGIN SOLUTION
    return 0.3, 0.375
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 2
@lesson.check("Exercise 2")
def _():
    epsilon, step_size = provoke()
    assert 0 < epsilon <= 0.4, f"epsilon is {epsilon}: beyond 0.4 hardly anything of a digit is left."
    fgsm, pgd = small_run(epsilon, step_size)
    assert fgsm > 0.5, f"FGSM accuracy is {fgsm:.0%}: this network has not even learned to resist FGSM."
    assert fgsm - pgd >= 0.3, f"FGSM accuracy {fgsm:.0%}, PGD accuracy {pgd:.0%}: no gap of 30 points."


# %% [markdown] tags=["solution"]
# The larger the epsilon, the less the slope at one point says about the whole box, with a random start or without (Andriushchenko and Flammarion,
# [2007.02617](https://arxiv.org/abs/2007.02617)). So watch accuracy under PGD while you train with a single step.

# %% [markdown]
# ## 7 The generalisation gap
#
# Robustness is harder to carry over to new images than clean accuracy: in theory it can need far more images (Schmidt et al.,
# [1804.11285](https://arxiv.org/abs/1804.11285)). To see the gap within seconds we train on few images, without augmentation, for many more epochs than above.
#
# > **Predict, then see.** Suppose that the network resists the attack on most of its few training images. Which suffers more on *new* images:
# > clean accuracy or accuracy under attack?

# %%
held_out = min(max(40, config.validation_images // 2), len(dataset.train) // 2)
batch_size = min(config.batch_size, (len(dataset.train) - held_out) // 4)
few = config.replace(
    method="pgd_at",
    validation_images=held_out,
    train_images=held_out + 4 * batch_size,
    batch_size=batch_size,
    crop_padding=0,
    flip=False,
    epochs=6 * config.epochs,
    schedule="constant",
    validation_steps=config.attack_steps,
)
few_run = training.fit(few)
learned = data.load_data(few).hold_out(held_out)[0].train[:150].to(device)
few_last = models.fold_batchnorm(few_run.model("last")).to(device)
overfit = pd.concat([scores(few_last, learned, on="training"), scores(few_last, test[:200], on="test")])
cells = overfit.set_index(["on", "attack"])["accuracy"]
gap = cells["training", "pgd"] - cells["test", "pgd"]
clean_gap = cells["training", "clean"] - cells["test", "clean"]

# %% tags=["fold"]
# @title Draw the curves of this training
curve = few_run.metrics()
fall = curve["robust_accuracy"].max() - curve["robust_accuracy"].iloc[-1]
page.figure(
    figures.generalisation(
        curve["epoch"].tolist(),
        {
            f"training, PGD-{few.attack_steps}": curve["training_accuracy"].to_numpy(),
            f"held-out, PGD-{few.validation_steps}": curve["robust_accuracy"].to_numpy(),
        },
        curve["clean_accuracy"].to_numpy(),
        warmup=few.epsilon_warmup * few.epochs,
        images=4 * batch_size,
    ),
    "Accuracy under attack on training and on held-out images, and clean held-out accuracy, over many epochs.",
    f"From training to test images the last network loses {100 * gap:.1f} points under attack and {100 * clean_gap:.1f} clean, on a "
    f"few hundred images and with one seed. Held-out images end {100 * fall:.1f} points below their best epoch. Right of the grey part compare "
    "the solid curves; the upper one is logged while the weights move.",
    svg=True,
)

# %% [markdown]
# **Robust overfitting** is more than a gap: on CIFAR-10, in long training, robust accuracy on held-out images *falls* after a peak (Rice et al.,
# [2002.11569](https://arxiv.org/abs/2002.11569)). A last epoch a little below the best does not show it: so much may be chance. The remedy is cheap: keep the epoch that is best on held-out images.
#
# ### Exercise 3 · Find the bug
#
# Someone reports high robust accuracy. Their PGD runs without an error or a warning. It contains one mistake.


# %%
def their_pgd(model, x, y, epsilon, step_size, steps):
    x_adv = (x + epsilon * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(steps):
        x_adv.requires_grad_()
        logits = model(x_adv)
        target = logits.argmax(1)  # the class to get away from
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, target), x_adv)
        x_adv = (x_adv + step_size * gradient.sign()).detach()
        x_adv = torch.minimum(torch.maximum(x_adv, x - epsilon), x + epsilon).clamp(0, 1)
    return x_adv


def accuracy_under(attack):
    """Of each network; whichever the attack: same images, steps and step size, one random start, last iterate."""
    x, y, found = few_test.inputs(), few_test.labels, {}
    for method, network in networks.items():
        torch.manual_seed(seed)
        logits = network(attack(network, x, y, **config.evaluation()))
        found[method] = logits.argmax(1).eq(y).float().mean().item()
    return found


bugged = pd.DataFrame({"their PGD": accuracy_under(their_pgd), "ours": accuracy_under(attacks.pgd)})
print(f"{len(few_test)} images, {config.eval_steps} steps of {config.eval_step_size:g}, last iterate:")
bugged.round(3)

# %% [markdown]
# Write `repaired_pgd`. Before you read the code again, ask the numbers: which network profits most from the mistake, and what may
# that network have that the others lack?


# %% tags=["exercise"]
def repaired_pgd(model, x, y, epsilon, step_size, steps):
    """Their PGD without the mistake."""
    # BEGIN SOLUTION
    x_adv = (x + epsilon * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(steps):
        x_adv.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
        x_adv = (x_adv + step_size * gradient.sign()).detach()
        x_adv = torch.minimum(torch.maximum(x_adv, x - epsilon), x + epsilon).clamp(0, 1)
    return x_adv
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 3
@lesson.check("Exercise 3")
def _():
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).double()
    x = 0.2 + 0.6 * torch.rand(64, 1, 2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = torch.arange(64) % 3
    x_adv = repaired_pgd(model, x, y, 0.1, 0.02, 20)
    assert x_adv.shape == x.shape, f"The shape is {tuple(x_adv.shape)}."
    assert (x_adv - x).abs().max() <= 0.1 + 1e-9, "It leaves the ball of radius epsilon."
    assert torch.equal(x_adv, x_adv.clamp(0, 1)), "It leaves the range of pixels."
    with torch.no_grad():
        before, after = (F.cross_entropy(model(z), y, reduction="none") for z in (x, x_adv))
        package = attacks.pgd(model, x, y, epsilon=0.1, step_size=0.02, steps=20)
        reached = F.cross_entropy(model(package), y, reduction="none")
    assert (after >= before - 1e-9).all(), (
        f"On a linear model the loss of {int((after < before).sum())} images of 64 has fallen: the mistake is still there."
    )
    assert (after >= reached - 1e-3).all(), "On a linear model it is weaker than the package's PGD."


# %% [markdown] tags=["solution"]
# The label is never used. Once an image is misclassified, the "class to get away from" is the wrong one, and the next step leads back. So the attack ends
# on either side of the boundary. A network that breaks within a few steps leaves the attack most time to walk back; where the true
# label would break nothing, nothing is lost. The package's `attacks.pgd` takes the true labels, never the model's predictions.

# %% [markdown]
# ## What can go wrong
#
# - **Choosing the checkpoint on test images.** It turns test accuracy into a training result. Hold out training images instead.
# - **Attacking in train mode by accident.** The attack then depends on the batch, and each attack step moves the running statistics.
# - **Watching FGSM accuracy while training with FGSM.** Only a stronger attack shows a collapse.
# - **Starting TRADES' inner attack at the image itself.** There the gradient of KL is zero: in exact arithmetic the attack never moves, in floating point its first step follows rounding errors.
# - **Probabilities where logarithms are needed.** In float32 $\log(1 - p)$ is infinite for a confident mistake; `losses.mart_loss` adds up the other classes instead.
# - **Comparing across budgets.** Epochs, images and attack steps must be equal before methods are compared.
#
# ## What we saw

# %% tags=["fold"]
# @title What this run found
sentences = [
    f"**{plotting.method_name(method)}** {accuracy.clean[method]:.1%} clean, {accuracy.pgd[method]:.1%} under PGD "
    f"({interval.loc[(method, 'pgd'), 'low']:.1%} to {interval.loc[(method, 'pgd'), 'high']:.1%})"
    for method in methods
]
robust = all(accuracy.pgd[method] > 0.5 * accuracy.clean[method] for method in methods[1:])
few_rows = overfit.set_index(["on", "attack"])
settled = few_rows.loc[("training", "pgd"), "low"] > few_rows.loc[("test", "pgd"), "high"]
confirmed = bool(robust and settled)
lesson.say(
    f"On {len(test)} test images, PGD with epsilon {config.epsilon:g}, {config.eval_steps} steps of {config.eval_step_size:g}, "
    f"{config.eval_restarts} restart(s), any iterate counting, one training seed ({seed}), with 95% intervals:\n\n- "
    + "\n- ".join(sentences)
    + f"\n\nAll three robust methods keep more than half of their clean accuracy: **{'yes' if robust else 'no'}**. "
    f"Trained on {4 * batch_size} images for {few.epochs} epochs, PGD-AT resists on {cells['training', 'pgd']:.1%} of its training images and on {cells['test', 'pgd']:.1%} of "
    f"new ones, intervals apart: **{'yes' if settled else 'no'}**. The claim is **{'confirmed' if confirmed else 'not confirmed'}** by this run.\n\n"
    f"Findings beside the claim, from this run alone: training with FGSM {'collapsed' if collapsed else 'did not collapse'}; PGD-AT's gradient has {percent['PGD-AT']} of its "
    f"mass on the strokes ({percent['standard']} without). Not shown: robust overfitting (held-out robust accuracy ends {100 * fall:.1f} points below its best), or an order of the three robust methods."
)

# %% [markdown]
# ### Expected values
#
# The numbers of this run beside the bands in which other machines should find them.

# %% tags=["fold"]
# @title The numbers of this run
metrics = {f"{m}_{attack}_accuracy": float(accuracy.loc[m, attack]) for m in methods for attack in ("clean", "pgd")}
metrics |= {f"{method}_stroke_mass": on_strokes[method] for method in methods}
metrics |= {
    "claim_confirmed": float(confirmed),
    "toy_standard_whole_boxes": toy["standard"][1],
    "toy_pgd_at_whole_boxes": toy["pgd_at"][1],
    "toy_trades_clean_cost": float(exchange.clean[betas[0]] - exchange.clean[betas[-1]]),
    "toy_trades_robust_gain": float(exchange.robust.max() - exchange.robust[betas[0]]),
    "nearest_classes": nearest,
    "mart_misclassified_weight": shares["weight"][0],
    "fgsm_trained_fgsm_accuracy": float(last.fgsm),
    "fgsm_trained_pgd_accuracy": float(last.pgd),
    "overfitting_gap": float(gap),
    "overfitting_clean_gap": float(clean_gap),
}
lesson.finish("02", preset, config, metrics)

# %% [markdown]
# **Limits.** One training seed and one small network: the intervals cover the choice of test images, not the luck of training. PGD is one attack;
# notebook 06 brings stronger ones. One learning rate serves all four networks, and neither $\beta_{\text{TRADES}}$ nor $\beta_{\text{MART}}$
# was tuned for these images: this is no ranking.
#
# TRADES' inner attack starts here at a uniform point of the box, in the paper at a tiny Gaussian step. The run on few images differs from the four networks in images,
# epochs, schedule and augmentation; it shows a gap, not which of these is to blame.
#
# **References.** Madry et al., *Towards deep learning models resistant to adversarial attacks*, arXiv 1706.06083 · Zhang et al., *Theoretically principled trade-off between robustness and accuracy*,
# arXiv 1901.08573 · Wang et al., *Improving adversarial robustness requires revisiting misclassified examples*, ICLR 2020 · Yang et al., *A closer look at accuracy vs. robustness*, arXiv 2003.02460 ·
# Pang et al., *Bag of tricks for adversarial training*, arXiv 2010.00467 · Tsipras et al., *Robustness may be at odds with accuracy*, arXiv 1805.12152 · Wong et al., *Fast is better than free*, arXiv 2001.03994 ·
# Andriushchenko and Flammarion, *Understanding and improving fast adversarial training*, arXiv 2007.02617 · Schmidt et al., *Adversarially robust generalization requires more data*, arXiv 1804.11285 ·
# Rice et al., *Overfitting in adversarially robust deep learning*, arXiv 2002.11569.
#
# **Next:** [03 · Supervised contrastive learning](03_supervised_contrastive_learning.ipynb) leaves attacks aside and asks what the
# features should look like.
