# %% [markdown]
# # 02 · Adversarial training
#
# **Claim: a network that is trained on its own adversarial examples keeps most of its accuracy under the attack of notebook 01,
# and TRADES and MART do the same with other losses; but trained long on few images, much of its robustness does not
# carry over to new ones.** The last cells confirm or refute this with the numbers of this very run.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/anchor-course/blob/main/notebooks/02_adversarial_training.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/OWNER/anchor-course#the-notebooks)
#
# **You will learn** the min-max problem behind adversarial training, PGD-AT, TRADES and MART in a few lines each, what they change
# in a network, what robustness costs, and what robust overfitting is and why the checkpoint is chosen on held-out images.
#
# **You need** notebook 01: FGSM, PGD, epsilon.
#
# **Time** the first cell measures how fast this machine is and says how long the notebook takes here; most of it is
# training. `smoke`: seconds, for tests only. `t4` and `paper`: CIFAR-10 on a GPU; training dominates.

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
import copy
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.datasets import make_moons
from torch import nn

from anchor_utils import attacks, data, evaluation, losses, models, objectives, plotting, results, training
from course import lesson
from course.figures import lesson_02 as figures

config, dataset, device = lesson.start("02", preset, overrides, seed, runs_dir, data_root)
# Four networks under attack take time; notebook 05 compares networks on the same images.
test = dataset.test[: config.test_images][:500].to(device)

# %% [markdown]
# ## 1 The attack as a teacher
#
# Ordinary training minimises the loss on the images that it is given. Robust training minimises the loss on the *worst* image
# within reach of each of them (Madry et al., [1706.06083](https://arxiv.org/abs/1706.06083)):
#
# $$\min_\theta \; \mathbb E_{(x, y)} \Bigl[ \max_{\|x' - x\|_\infty \le \varepsilon} \ell\bigl(f_\theta(x'), y\bigr) \Bigr] \tag{1}$$
#
# Here $f_\theta$ is the network with weights $\theta$, $(x, y)$ an image and its class, $x'$ any image that differs from $x$ by at most
# $\varepsilon$ in each pixel, and $\ell$ the cross-entropy. The inner maximum is an attack. PGD approximates it, so one step of
# **PGD-AT** is: attack the batch, then take an ordinary training step on the result. The worst $x'$ depends on $\theta$ too, yet it is treated
# as a constant: at an exact maximum its movement adds nothing to the gradient (Danskin's theorem).


# %%
def my_pgd_at_step(model, optimizer, x, y, **attack):
    x_adv = attacks.pgd(model, x, y, **attack)  # the inner maximum of eq. 1, on the network as it is now
    loss = F.cross_entropy(model(x_adv), y)  # the outer minimum of eq. 1: an ordinary step, on other images
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


images = dataset.train[: config.batch_size // 2].to(device)
x, y = images.inputs(), images.labels
torch.manual_seed(seed)
model = models.AnchorNet(len(dataset.classes), config.width, x.shape[1], 0, dataset.mean, dataset.std).to(device)
training_attack = config.attack()


# A copy, because a forward pass in train mode moves BatchNorm's statistics, and with them the network that is attacked.
twin = copy.deepcopy(model)


def package_attack(x, y, loss="ce"):
    return attacks.pgd(twin, x, y, **training_attack, generator=torch.Generator().manual_seed(seed))


# The package's training loss of this batch, without augmentation, before our own first step.
plain = config.replace(method="pgd_at", crop_padding=0, flip=False)
package_loss, *_ = objectives.batch_loss(
    plain, lambda z: (twin(z), None), package_attack, images.images, y, torch.Generator()
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
first = my_pgd_at_step(model, optimizer, x, y, **training_attack, generator=torch.Generator().manual_seed(seed))
assert abs(first - package_loss.item()) < 1e-3
following = [my_pgd_at_step(model, optimizer, x, y, **training_attack) for _ in range(4)]
print(f"our adversarial loss {first:.4f}, the package's {package_loss.item():.4f}")
print("adversarial loss over five steps on one batch:", ", ".join(f"{loss:.2f}" for loss in [first, *following]))

# %% [markdown]
# ### The min-max problem in a plane
#
# In two dimensions we can *see* eq. 1. The "image" is a point, its $L_\infty$ ball a square box, and the inner maximum can be found without
# any attack: try a fine grid of points in the box. A box is **whole** if all of it has the right class. The points of the two classes
# are so far apart that no two boxes of different class touch: a boundary that leaves all boxes whole exists.
#
# > **Predict, then see.** Suppose that ordinary training gets every one of these points right. Will it leave all boxes whole? And what shape
# > must a boundary take that squeezes between *squares*?


# %%
def moons(count, radius, noise, moons_seed, gap=0.0):
    """Two interleaved half circles in the unit square; points too near to another are left out.

    Points of different class keep a distance of at least `gap` radii, points of one class 0.4 of that.
    """
    points, labels = make_moons(1000, noise=noise, random_state=moons_seed)
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


def toy_net():
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


# %%
radius = 0.07
points, labels = moons(40, radius, 0.15, 0, gap=2.2)
box_attack = {"epsilon": radius, "step_size": radius / 3, "steps": 5}
moments = [0, 20, 40, 60, 80, 120, 160, 220, 300, 400, 500, 600]
# Epsilon 0 is ordinary training.
ways = {"standard": {**box_attack, "epsilon": 0.0, "steps": 1}, "pgd_at": box_attack}
history = {}
for way, attack in ways.items():
    net = toy_net()
    optimizer, history[way] = torch.optim.Adam(net.parameters(), lr=0.01), {}
    for step in range(max(moments) + 1):
        if step in moments:
            history[way][step] = copy.deepcopy(net)
        my_pgd_at_step(net, optimizer, points, labels, **attack)

# %%
axis_points = torch.linspace(0, 1, 90)
plane = torch.cartesian_prod(axis_points, axis_points)


@torch.no_grad()
def decision(net, points, labels, radius):
    """The axis (90,) of a grid, the lead (90, 90) of class 1 on it, rows upwards, and (N,) which boxes are whole."""
    lead = net(plane).diff(dim=1).view(90, 90).T
    return axis_points.numpy(), lead.numpy(), whole(net, points, labels, radius).numpy()


def toy_scores(net, points, labels, radius):
    with torch.no_grad():
        clean = net(points).argmax(1).eq(labels).float().mean().item()
    return clean, whole(net, points, labels, radius).float().mean().item()


decisions = {
    way: {step: decision(net, points, labels, radius) for step, net in nets.items()} for way, nets in history.items()
}
plotting.animate(
    figures.training_frames(decisions, points.numpy(), labels.numpy(), radius),
    "Animation: the decision boundaries of standard and of adversarial training in a plane, with a square box around "
    "every point, over the steps of training; adversarial training moves the boundary out of the boxes.",
    milliseconds=400,
    colors=48,
)

# %% [markdown]
# **Reading the figure.** The background shows the class that the network gives to each place, the black line is the boundary. Thick red boxes are not
# whole: an adversarial example lies inside. The filmstrip below shows the same for those who cannot see it move.

# %%
plotting.show(
    figures.filmstrip(decisions, [20, 60, 160, 600], points.numpy(), labels.numpy(), radius),
    "Filmstrip of the animation: boundaries of standard training above and of PGD-AT below after four numbers of "
    "steps; boxes that the boundary cuts are red.",
)

# %% [markdown]
# **Reading the figure.** Both rows start alike. In the upper row only the *points* count: once the network is sure of all of them, hardly anything moves the boundary. In the
# lower row each step is taken on the worst point that PGD found in each box, so a cut box keeps pushing the boundary away. In its last panel look for
# pieces that run along the sides of boxes and for corners near a right angle: where squares almost touch there is hardly room for anything else.
# (Straight pieces alone prove nothing; the boundary of any ReLU network consists of them.) If the lower row ended with as many red boxes as the
# upper one, eq. 1 would not have been solved: the attack would have missed the worst points, or training would not have followed it.

# %%
toy = {way: toy_scores(nets[max(moments)], points, labels, radius) for way, nets in history.items()}
restarts = 3
found = attacks.pgd(net, points, labels, **box_attack, restarts=restarts, keep="worst")
with torch.no_grad():
    survived = net(found).argmax(1).eq(labels)
lesson.say(
    f"**Answer.** Standard training: {toy['standard'][0]:.0%} of the points right, {toy['standard'][1]:.0%} of the boxes "
    f"whole. PGD-AT: {toy['pgd_at'][0]:.0%} and {toy['pgd_at'][1]:.0%}. On this last network PGD "
    f"({box_attack['steps']} steps, {restarts} restarts) breaks {int((~survived).sum())} boxes of {len(points)} and the grid "
    f"{round((1 - toy['pgd_at'][1]) * len(points))}: in a plane a grid can check an attack; for an image, with a dimension for each pixel, there is no such grid."
)

# %% [markdown]
# ### In which mode is the network attacked?
#
# The attack runs in eval mode, so that it meets the network that will be deployed and not one whose BatchNorm statistics are
# those of the batch at hand. `attacks.pgd` puts the modes back by itself. That is easy to get wrong:
#
# ### Exercise 1 · Eval mode and back
#
# Write `attack_in_eval_mode`. It calls `attack()`, a function without arguments, while *every* module of `model` is in eval mode, and returns what that
# returned. Afterwards each module must be in the mode in which it was before, also if `attack` raises an error. Hint: some modules may have been in eval mode
# already, for instance a frozen encoder; `module.training` is a plain attribute.


# %% tags=["exercise"]
def attack_in_eval_mode(model, attack):
    """What `attack()` returns with `model` in eval mode; leaves every module in the mode it was in."""
    # BEGIN SOLUTION
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return attack()
    finally:
        for module, mode in modes:
            module.training = mode
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 1
@lesson.check("Exercise 1")
def _():
    net = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Dropout(), nn.Linear(4, 2)).train()
    net[0].eval()  # a frozen encoder under a classifier that is being trained
    before, seen = [module.training for module in net.modules()], []

    def attack():
        seen.extend(module.training for module in net.modules())
        return "adversarial"

    def broken_attack():
        raise RuntimeError("out of memory")

    assert attack_in_eval_mode(net, attack) == "adversarial", "It does not return what attack() returned."
    assert seen, "attack() was not called."
    assert not any(seen), "During the attack a module was in train mode."
    after = [module.training for module in net.modules()]
    assert not (all(after) and not all(before)), (
        "The frozen encoder was put into train mode: its statistics would move."
    )
    assert after == before, "Afterwards some module is not in the mode it was in."
    try:
        attack_in_eval_mode(net, broken_attack)
    except RuntimeError:
        pass
    else:
        raise AssertionError("The error of attack() got lost.")
    assert [module.training for module in net.modules()] == before, "After an error the modes are not put back."


# %% [markdown] tags=["solution"]
# `model.train()` at the end looks right and is wrong: it wakes up every frozen BatchNorm below it, and from then on the "frozen" encoder's statistics
# drift with each batch. Remember one flag a module, and restore it in `finally`.

# %% [markdown]
# ## 2 TRADES: a price for disagreement
#
# PGD-AT never shows the network a clean image. **TRADES** (Zhang et al., [1901.08573](https://arxiv.org/abs/1901.08573), eq. 5)
# does, and charges $\beta$ ($1/\lambda$ in the paper) for every change of the *prediction* between an image and its worst neighbour:
#
# $$\ell_{\text{TRADES}} = \mathrm{CE}\bigl(f(x), y\bigr) + \beta \, \mathrm{KL}\bigl(p(x) \,\|\, p(x')\bigr) \tag{2}$$
#
# $p(x)$ are the softmax probabilities of the network for $x$, and $\mathrm{KL}(p \| q) = \sum_k p_k \log (p_k / q_k)$ measures how far $q$ is from $p$.
# The neighbour $x'$ solves an inner problem of its own, in which the label does not occur:
#
# $$x' = \arg\max_{\|x' - x\|_\infty \le \varepsilon} \mathrm{KL}\bigl(p(x) \,\|\, p(x')\bigr) \tag{3}$$
#
# Where may the search for $x'$ begin? KL is smallest, zero, at $x' = x$, and at a minimum the gradient is zero. The paper therefore starts at a tiny
# Gaussian step from $x$. **This course starts at a uniform point of the whole box**, as PGD does.


# %%
def kl(p, q):
    return (p * (p.log() - q.log())).sum(1)


def my_trades(clean_logits, adversarial_logits, y, beta):
    p, p_adv = clean_logits.softmax(1), adversarial_logits.softmax(1)
    return F.cross_entropy(clean_logits, y) + beta * kl(p, p_adv).mean()  # eq. 2


def inner_trades(model, x):
    """The loss that the inner attack of TRADES maximises; the clean prediction is a constant. `model` is in eval mode."""
    with torch.no_grad():
        log_p = model(x).log_softmax(1)
    return lambda logits, _: (log_p.exp() * (log_p - logits.log_softmax(1))).sum(1)  # eq. 3


a, b = torch.randn(2, 32, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
t = torch.arange(32) % 10
assert torch.allclose(my_trades(a, b, t, 6.0), losses.trades_loss(a, b, t, 6.0))
print("eq. 2 as written above agrees with anchor_utils.losses")

net, generator = history["pgd_at"][max(moments)], torch.Generator().manual_seed(seed)
starts = {
    "x itself": points,
    "a Gaussian step of 0.001 (paper)": points + 0.001 * torch.randn(points.shape, generator=generator),
    "a uniform point of the box (here)": points + radius * (2 * torch.rand(points.shape, generator=generator) - 1),
}
print("mean length of the gradient of KL, in the plane of section 1, at")
for name, start in starts.items():
    start = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(inner_trades(net, points)(net(start), labels).sum(), start)
    print(f"  {name:34} {gradient.norm(dim=1).mean():.1e}")

# %% [markdown]
# At $x$ itself only rounding errors are left, and PGD would follow the signs of rounding errors. A short gradient that is not rounding is enough for a
# sign step, which does not ask for its length; so the paper's start works as well.
#
# ### $\beta$ is an exchange rate
#
# Clean and robust accuracy need not be at odds: in section 1 one boundary can serve both. They are at odds where boxes of different class **overlap**. So take a
# larger box and more points, with no gap between the classes, and train with several $\beta$. New points from the same half circles are the test; the inner
# maximum is again tried on a grid.
#
# > **Predict, then see.** As $\beta$ grows from zero, does robust accuracy rise all the way? What happens to clean accuracy, and what would you see at a $\beta$ that is far too large?

# %%
wide = 0.08
crowd, crowd_labels = moons(200, wide, 0.15, 1)
fresh, fresh_labels = moons(1000, wide, 0.15, 2)
wide_attack = {"epsilon": wide, "step_size": wide / 3, "steps": 5}
betas, toy_nets = [0.0, 0.5, 2.0, 10.0], {}
for beta in betas:
    net = toy_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(250):
        x_adv = (
            crowd if beta == 0 else attacks.pgd(net, crowd, crowd_labels, **wide_attack, loss=inner_trades(net, crowd))
        )
        loss = losses.trades_loss(net(crowd), net(x_adv), crowd_labels, beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    toy_nets[beta] = net
exchange = pd.DataFrame(
    [toy_scores(net, fresh, fresh_labels, wide) for net in toy_nets.values()], index=betas, columns=["clean", "robust"]
)

drawn = crowd[:32], crowd_labels[:32]
figure = figures.trades_path(
    {beta: decision(toy_nets[beta], *drawn, wide) for beta in (betas[0], betas[2], betas[3])},
    *(part.numpy() for part in drawn),
    wide,
    betas=betas,
    clean=exchange["clean"].to_numpy(),
    robust=exchange["robust"].to_numpy(),
    tested=len(fresh),
)
plotting.show(
    figure,
    "Three decision boundaries of TRADES in the plane for a small, a middle and a large beta, and the path of clean "
    "and robust accuracy on new points as beta grows.",
)

# %% [markdown]
# **Reading the figure.** The maps show the first training points and their boxes; with overlapping boxes some must be red. As $\beta$ grows, the network gives up
# details of the boundary: it answers alike over wide regions, right or wrong. In the right panel read each piece of the path as a price: how far left
# (clean accuracy paid) for how far up (robust accuracy bought). A vertical piece is free, a flat one buys nothing. Had the path been vertical throughout, there
# would be no trade-off on these data.

# %%
changes = [
    f"$\\beta$ from {low:g} to {high:g} changes clean accuracy by {100 * (exchange.clean[high] - exchange.clean[low]):+.1f} points and "
    f"robust accuracy by {100 * (exchange.robust[high] - exchange.robust[low]):+.1f}"
    for low, high in pairwise(betas)
]
fall = exchange.robust.max() - exchange.robust.iloc[-1]
noise = 1.96 * (2 * exchange.robust.max() * (1 - exchange.robust.max()) / len(fresh)) ** 0.5  # of a difference
kind = "rises at each step" if exchange.robust.is_monotonic_increasing else "does not rise all the way"
if 0 < fall <= noise:
    kind += f", but its fall at the end is within the noise of {len(fresh)} points"
lesson.say(
    f"**Answer.** Robust accuracy {kind}: "
    + "; ".join(changes)
    + f" ({len(fresh)} points, box {wide:g}, one training seed). With $\\beta$ far too large KL alone would count. A network that says the "
    "same everywhere brings it to zero: all boxes of one class whole, all points of the other wrong."
)

# %% [markdown]
# ## 3 MART: weigh by what is misread
#
# **MART** (Wang et al., ICLR 2020, eq. 11) trains on the adversarial image with a boosted cross-entropy, which also pushes
# down the strongest wrong class,
#
# $$\mathrm{BCE}\bigl(p(x'), y\bigr) = -\log p_y(x') - \log\bigl(1 - \max_{k \ne y} p_k(x')\bigr) \tag{4}$$
#
# and weighs the KL term of each image by how unsure the network is of the *clean* image, with $\beta$ as price once more:
#
# $$\ell_{\text{MART}} = \mathrm{BCE}\bigl(p(x'), y\bigr) + \beta \, \mathrm{KL}\bigl(p(x) \,\|\, p(x')\bigr) \bigl(1 - p_y(x)\bigr) \tag{5}$$
#
# Here $p_y$ is the probability of the true class, and $x'$ maximises the ordinary cross-entropy, as in PGD-AT.


# %%
def my_mart(clean_logits, adversarial_logits, y, beta):
    p, p_adv = clean_logits.softmax(1), adversarial_logits.softmax(1)
    true = F.one_hot(y, p.shape[1]).bool()
    boosted = -p_adv[true].log() - (1 - p_adv.masked_fill(true, 0).amax(1)).log()  # eq. 4
    return (boosted + beta * kl(p, p_adv) * (1 - p[true])).mean()  # eq. 5


assert torch.allclose(my_mart(a, b, t, 5.0), losses.mart_loss(a, b, t, 5.0))
print("eq. 4 and eq. 5 as written above agree with anchor_utils.losses, in float64")

# %% [markdown]
# ### Exercise 2 · A boosted cross-entropy that survives a confident mistake
#
# `my_mart` was compared in float64, on mild logits. In float32 a confident wrong class has $p_k = 1$ after rounding, so $\log(1 - p_k) = -\infty$: the
# loss is infinite, and one such image ends a training run. Write eq. 4 for each image so that it stays exact. Hint: $1 - p_k$ is the sum of the
# probabilities of *all other* classes, and `logsumexp` adds probabilities that are given as logarithms.


# %% tags=["exercise"]
def boosted_cross_entropy(logits, y):
    """Eq. 4 for each image: logits (N, K), labels (N,) -> (N,), finite also for confident mistakes."""
    # BEGIN SOLUTION
    log_p = logits.log_softmax(1)
    log_true = log_p.gather(1, y[:, None]).squeeze(1)
    runner_up = log_p.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    log_rest = log_p.scatter(1, runner_up, -torch.inf).logsumexp(1)  # log(1 - p of the runner-up)
    return -log_true - log_rest
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 2
@lesson.check("Exercise 2")
def _():
    logits = 3 * torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
    y = torch.arange(64) % 10
    ours = boosted_cross_entropy(logits, y)
    assert ours.shape == (64,), f"The shape is {tuple(ours.shape)}: return one number an image."
    p = logits.double().softmax(1)
    true = F.one_hot(y, 10).bool()
    over_all = -p[true].log() - (1 - p.amax(1)).log()
    exact = -p[true].log() - (1 - p.masked_fill(true, 0).amax(1)).log()
    assert not torch.allclose(ours.double(), over_all, atol=1e-3), "The maximum runs over k != y, not over all classes."
    assert torch.allclose(ours.double(), exact, atol=1e-3), "On mild logits it differs from eq. 4."
    confident = torch.zeros(1, 10)
    confident[0, 1] = 60.0  # sure of class 1; the label is 0
    hard = boosted_cross_entropy(confident.requires_grad_(), torch.tensor([0]))
    assert hard.isfinite().all(), "A confident mistake still gives infinity or NaN."
    expected = 120 - float(np.log(9))
    assert abs(hard.item() - expected) < 0.1, (
        f"A confident mistake gives {hard.item():.1f}; exact is {expected:.1f}. Clamped?"
    )
    (gradient,) = torch.autograd.grad(hard.sum(), confident)
    assert gradient[0, 1] > 1.5, "The gradient does not push the wrong class down."


# %% [markdown] tags=["solution"]
# Clamping the probability at 1e-12 also removes the infinity, but then the second term is constant there and its gradient zero: it would no
# longer push the wrong class down just where the network is surest of it. The log-sum-exp keeps both the value and the gradient. `losses.mart_loss` does the same.

# %% [markdown]
# ## 4 Four networks
#
# Same images, architecture, epochs, optimiser and training attack (but for TRADES' inner loss). With the preset
# `cpu`, epsilon rises linearly over the first part of training: at full strength from the first step, a small network can get stuck at
# guessing. The best checkpoint is the epoch with the highest PGD accuracy on **held-out training images** (for the ordinary network: clean accuracy). The test images play no part in any choice.
#
# > **Predict, then see.** Rank ordinary training, PGD-AT, TRADES and MART by clean accuracy. Then rank them by accuracy under PGD. Is it the
# > same order?

# %%
methods = ["standard", "pgd_at", "trades", "mart"]
runs = {method: training.fit(config.replace(method=method), dataset=dataset) for method in methods}
networks = {method: run.model().to(device) for method, run in runs.items()}


def scores(networks, split):
    """Clean and PGD accuracy of each network on the images of `split`, one row a network and attack."""
    settings = {**config.evaluation(), "restarts": config.eval_restarts, "seed": seed}
    tables = [
        evaluation.evaluate(network, split, ("clean", "pgd"), **settings).assign(method=name)
        for name, network in networks.items()
    ]
    return pd.concat(tables, ignore_index=True)


def shown(table):
    columns = ["method", "attack", "accuracy", "low", "high", "images", "epsilon", "step_size", "steps"]
    return table[[*columns, "restarts", "iterate", "attack_seed"]].round(3).convert_dtypes().astype(object).fillna("")


table = scores(networks, test)
shown(table)

# %%
accuracy = table.pivot(index="method", columns="attack", values="accuracy").loc[methods]
interval = table.set_index(["method", "attack"])
estimates = {
    method: {
        name: tuple(interval.loc[(method, attack), ["accuracy", "low", "high"]])
        for attack, name in (("pgd", f"PGD-{config.eval_steps}"), ("clean", "clean"))
    }
    for method in methods
}
plotting.show(
    figures.price_of_attack(estimates, len(test)),
    "Clean accuracy and PGD accuracy of four training methods, a row each, with 95% intervals as bands; the line "
    "between the two points is what the attack costs.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** An open point is clean accuracy, a filled one accuracy under PGD, each with its 95% interval over test images as a band. The line between them is
# what the attack costs. Where the bands of two methods overlap, this figure cannot order them; comparing
# image by image, as in notebook 05, is sharper. A robust network whose clean
# point also stands farthest right would contradict the usual trade-off; on easy data the price can indeed be too small to see.

# %%
by_clean, by_pgd = (accuracy[attack].sort_values(ascending=False).index for attack in ("clean", "pgd"))
order = [", ".join(plotting.method_name(method) for method in ranking) for ranking in (by_clean, by_pgd)]
apart = interval.loc[(by_pgd[0], "pgd"), "low"] > interval.loc[(by_pgd[1], "pgd"), "high"]
lesson.say(
    f"**Answer.** By clean accuracy: {order[0]}. Under PGD: {order[1]}. "
    f"{'The same order' if list(by_clean) == list(by_pgd) else 'Another order'}; the intervals of the first two under PGD "
    f"{'are apart' if apart else 'overlap, which leaves their order open'}."
)

# %%
logs = {method: run.metrics() for method, run in runs.items()}
under_attack = f"under PGD-{config.validation_steps}, epsilon {config.epsilon:g}"
figure = figures.held_out_curves(
    logs["standard"]["epoch"].tolist(),
    {
        "clean": {method: log["clean_accuracy"].to_numpy() for method, log in logs.items()},
        under_attack: {method: log["robust_accuracy"].to_numpy() for method, log in logs.items()},
    },
    warmup=config.epsilon_warmup * config.epochs,
    images=config.validation_images,
)
print(
    f"right: L-infinity epsilon {config.epsilon:g}, {config.validation_steps} steps of {config.step_size:g}, 1 restart, last iterate, "
    f"seed {seed}"
)
plotting.show(figure, "Clean and robust held-out accuracy of four methods over the epochs of training.", svg=True)

# %% [markdown]
# **Reading the figure.** On the left, how soon each network reads clean images; on the right, the same images under the attack that chooses the checkpoint, always
# at full epsilon. Look whether the ordinary network ever rises above guessing on the right: if it did, clean training alone would give robustness. Compare
# how late the other three climb on the right: had they climbed as early as on the left, robustness would be no harder to learn. (No curve can
# lie above its clean one: an image counts as right under attack only if it is right without.)
#
# ## 5 What has changed in the network?
#
# ### How far is a mistake?
#
# An accuracy counts mistakes; the **margin** says how near the next one is. It is the lead of the true class over the best wrong one,
#
# $$m(x) = p_y(x) - \max_{k \ne y} p_k(x) \tag{6}$$
#
# between $-1$ (sure and wrong) and $1$ (sure and right). We compare the clean images with their neighbours under a PGD that attacks the margin of
# the *logits* instead of the cross-entropy: another attack than the one used in training.

# %%
few_test = test[: min(120, len(test))]
x, y = few_test.inputs(), few_test.labels


def probability_margin(network, x, y):
    p = evaluation.logits_of(network, x).softmax(1)
    return -attacks.margin(p, y).cpu().numpy()  # eq. 6


margins = {}
for method, network in networks.items():
    worst = attacks.pgd(
        network,
        x,
        y,
        **config.evaluation(),
        loss="margin",
        keep="worst",
        generator=torch.Generator().manual_seed(seed),
    )
    margins[method] = probability_margin(network, x, y), probability_margin(network, worst, y)

print(
    f"PGD on the margin of the logits: L-infinity epsilon {config.epsilon:g}, {config.eval_steps} steps of {config.eval_step_size:g}, "
    f"1 restart, worst iterate, seed {seed}; the first {len(y)} test images"
)
misread_shares = {method: results.wilson(int((worst <= 0).sum()), len(y)) for method, (_, worst) in margins.items()}
plotting.show(
    figures.margin_histograms(margins, misread_shares),
    "Histograms of the margin of the true class for four methods, on clean images filled in grey and under attack as "
    "an outline; left of zero the image is misread.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** Grey: clean images. Outline: the same images under attack; left of the dashed line they are misread (their share with a
# 95% interval). For the ordinary network look whether
# the whole outline stands at the far left: then it is not only wrong but *sure*. For the robust ones look at the middle: images near zero are right by a hair, and a
# slightly stronger attack may take them. TRADES and MART are often less sure of clean images than PGD-AT. An outline equal to the grey would mean
# that the attack does nothing, for instance since gradients vanish.
#
# ### What does the gradient look at?
#
# An attacker follows the gradient of the margin, here that of the logits, with respect to the pixels. Robust training makes small
# changes useless, so what is left should be changes that alter the image's content (Tsipras et al., [1805.12152](https://arxiv.org/abs/1805.12152)).


# %%
def input_gradient(network, x, y):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(attacks.margin(network(x), y).sum(), x)
    return gradient.cpu()


gradients = {method: input_gradient(network, x, y) for method, network in networks.items()}
chosen = torch.stack([(y == k).nonzero()[0, 0] for k in y.unique()][:7]).cpu()
figure = plotting.image_grid(
    [
        x[chosen.to(device)].cpu().numpy(),
        *(gradient[chosen].sign() * gradient[chosen].abs().sqrt() for gradient in gradients.values()),
    ],
    ["image", *(plotting.method_name(method) for method in methods)],
    signed_rows=range(1, 5),
    size=1.2,
)
plotting.show(
    figure,
    "Test images of several classes and below each the gradient of the margin with respect to its pixels for four "
    "networks, red where more intensity helps the attacker and blue where less does.",
)

# %% [markdown]
# **Reading the figure.** The first test image of each class shown, not picked by hand; red: more intensity helps a mistake, blue: less does. Drawn
# are square roots, so that weak entries can be seen, and each gradient is scaled to its own largest entry:
# compare patterns, not strengths. Look whether the colours lie along the strokes or are scattered over the image. Pictures like this are easily
# believed. The claim behind it would be false if the gradients of robust networks followed the edges of their image no better than those of the ordinary
# network, or no better than the edges of *another* image. The next cell measures that. What it cannot tell is why: on digits a robust network
# may simply learn to threshold the pixels, as Madry et al. found in theirs, and then a black background has no gradient.

# %%
gray = x.mean(1, keepdim=True).cpu()
# Local contrast: the largest minus the smallest value among a pixel and its neighbours.
edges = (F.max_pool2d(gray, 3, 1, 1) + F.max_pool2d(-gray, 3, 1, 1)).flatten(1)


def alignment(gradient, edges):
    """(N,) correlation over pixels between the size of the gradient and the local contrast."""
    both = torch.stack([gradient.abs().mean(1).flatten(1), edges])
    both = F.normalize(both - both.mean(2, keepdim=True), dim=2)
    return (both[0] * both[1]).sum(1)


rows = []
for method, gradient in gradients.items():
    own, other = alignment(gradient, edges), alignment(gradient, edges.roll(1, 0))
    low, high = (own.mean() + sign * 1.96 * own.std() / len(own) ** 0.5 for sign in (-1, 1))
    rows.append([plotting.method_name(method), own.mean().item(), low.item(), high.item(), other.mean().item()])
aligned = pd.DataFrame(rows, columns=["method", "own image", "low", "high", "another image"], index=methods)
better = [
    m
    for m in methods[1:]
    if aligned.loc[m, "low"] > max(aligned.loc["standard", "high"], aligned.loc[m, "another image"])
]
lesson.say(
    f"Correlation of |gradient| and local contrast, mean over {len(y)} test images with a 95% interval. Clearly better than the ordinary network and "
    f"than with another image's edges: **{', '.join(plotting.method_name(m) for m in better) or 'none'}**."
)
aligned.set_index("method").round(2)

# %% [markdown]
# ### Which images get MART's weight?
#
# Eq. 5 weighs KL by $1 - p_y(x)$, so that images which are misread *clean* count most. How many does the trained network misread, and how much of the KL term
# do they carry? We look at
# training images, because that is where the loss is computed.

# %%
batch = dataset.hold_out(config.validation_images)[0].train[:256].to(device)
x, y = batch.inputs(), batch.labels
x_adv = attacks.pgd(networks["mart"], x, y, **training_attack, generator=torch.Generator().manual_seed(seed))
clean_logits, adversarial_logits = (evaluation.logits_of(networks["mart"], z).double().cpu() for z in (x, x_adv))
y = y.cpu()
p, p_adv = clean_logits.softmax(1), adversarial_logits.softmax(1)
weight = 1 - p.gather(1, y[:, None]).squeeze(1)
divergence = kl(p, p_adv)
parts = {  # each set of images once
    "misread clean": p.argmax(1) != y,
    "misread only under attack": (p.argmax(1) == y) & (p_adv.argmax(1) != y),
    "right in both": (p.argmax(1) == y) & (p_adv.argmax(1) == y),
}
term = config.mart_beta * divergence * weight
total = losses.mart_loss(clean_logits, adversarial_logits, y, config.mart_beta).item()

by_weight = weight.argsort(descending=True)
shares = {
    name: (values[by_weight].cumsum(0) / values.sum()).numpy()
    for name, values in (("with the weights", term), ("without", divergence))
}
plotting.show(
    figures.mart_weights(
        weight.numpy(), divergence.numpy(), {name: part.numpy() for name, part in parts.items()}, shares
    ),
    "Left: KL against MART's weight for each training image, coloured by whether it is misread clean, only under attack "
    "or not at all. Right: how much of the KL term the images with the largest weights carry, with and without the weights.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** Left: one point an image, the weight on a logarithmic axis. A misread image has $p_y$ of at most one half, so red points
# stand far right by definition; look whether they also lie high, for the weight multiplies KL. Right: the images in order of their weight; a straight line from corner to corner would be an
# equal say for all. The distance between the two curves is what the weights add to the emphasis that KL has by itself. If the curves lay on each other, MART's
# weighting would do nothing. Note also the other side: an image with a tiny weight is hardly held to its clean prediction at all; only the boosted cross-entropy still
# protects it.

# %%
top = max(1, len(y) // 10)
share_weighted, share_plain = ((values[by_weight[:top]].sum() / values.sum()).item() for values in (term, divergence))
misread = parts["misread clean"]
carried = (term[misread].sum() / term.sum()).item()
lesson.say(
    f"The tenth of the images with the largest weights carries {share_weighted:.0%} of the weighted KL term and {share_plain:.0%} of the unweighted one. "
    f"The images that are misread clean, {int(misread.sum())} of {len(y)}, carry {carried:.0%}: most of the term belongs to "
    f"{'images that are misread clean' if carried > 0.5 else 'images that are read correctly'}. The median weight is {weight.median():.3f}, and the whole "
    f"weighted term is {term.mean().item() / total:.0%} of the MART loss on these images (attack as in training, {config.attack_steps} steps of "
    f"{config.step_size:g}, epsilon {config.epsilon:g})."
)

# %% [markdown]
# ## 6 Robust overfitting
#
# On clean images a network can train to zero error and still do well on new ones. Robust accuracy is less forgiving: what the
# network learns about its training images under attack carries over badly. On CIFAR-10 the robust accuracy on held-out images
# even *falls* after a peak (Rice et al., [2002.11569](https://arxiv.org/abs/2002.11569)); on digits expect a gap rather than a fall. To see it
# within half a minute we take few training images without augmentation, many epochs and a constant learning rate.
#
# > **Predict, then see.** Suppose that the network reads nearly all of its few training images under attack. What share of *new* images will it read clean, and what share under attack:
# > which of the two suffers more from having few images?

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
    validation_steps=5,
)
few_run = training.fit(few)
curve = few_run.metrics()
best_epoch = few_run.model("best").metadata["epoch"]
last_epoch = int(curve["epoch"].iloc[-1])

figure = figures.overfitting(
    curve["epoch"].tolist(),
    {
        f"training, PGD-{few.attack_steps}": curve["training_accuracy"].to_numpy(),
        f"held-out, PGD-{few.validation_steps}": curve["robust_accuracy"].to_numpy(),
    },
    curve["clean_accuracy"].to_numpy(),
    best_epoch=best_epoch,
    warmup=few.epsilon_warmup * few.epochs,
    images=4 * batch_size,
)
print(
    f"held-out, PGD: L-infinity epsilon {few.epsilon:g}, {few.validation_steps} steps of {few.step_size:g}, 1 restart, last iterate, "
    f"seed {seed}; {held_out} images"
)
plotting.show(
    figure,
    "Accuracy under attack on training and on held-out images, and clean held-out accuracy, over many epochs; the "
    "dotted vertical line marks the best checkpoint.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** Solid: under attack, on the images that the network is trained on and on held-out ones. The training curve is the log of the training itself: a mean over the
# epoch while the weights move, with BatchNorm in train mode, for which the attack was not made, and in the grey part at a smaller epsilon than the
# held-out curve. The last two can flatter it. Compare the solid curves to the right of it: without
# overfitting they would run close together. The vertical line marks the checkpoint that held-out images chose; had a fall set in, it would stand far from the right end. The table measures the
# gap properly: one network, one attack, training images against test images.

# %%
learned = data.load_data(few).hold_out(held_out)[0].train[:150].to(device)
new = test[: min(200, len(test))]
few_last = few_run.model("last").to(device)
rows = [
    scores({"last epoch": few_last}, learned).assign(on="training images"),
    scores({"last epoch": few_last}, new).assign(on="test images"),
]
if best_epoch != last_epoch:  # else it is the same network
    few_best = few_run.model("best").to(device)
    rows.append(scores({f"best, epoch {best_epoch}": few_best}, new).assign(on="test images"))
overfit = pd.concat(rows, ignore_index=True)
shown(overfit).assign(on=overfit["on"])

# %%
cells = overfit[overfit["method"] == "last epoch"].set_index(["on", "attack"])["accuracy"]
gap = cells["training images", "pgd"] - cells["test images", "pgd"]
clean_gap = cells["training images", "clean"] - cells["test images", "clean"]
fall = curve["robust_accuracy"].max() - curve["robust_accuracy"].iloc[-1]
lesson.say(
    f"**Answer.** From training to test images the last network loses {100 * clean_gap:.1f} points clean and {100 * gap:.1f} points under attack: "
    f"{'robust accuracy suffers more' if gap > clean_gap else 'robust accuracy does not suffer more'} from having few images. On held-out images the robust curve ends "
    f"{100 * fall:.1f} points below its peak (epoch {best_epoch} of {last_epoch}): "
    f"{'as far as one run can tell, the fall that Rice et al. saw' if fall > 0.05 else 'not the fall that Rice et al. saw on CIFAR-10'}."
)

# %% [markdown]
# ### Exercise 3 · Choose the epoch
#
# A run leaves two lists: robust accuracy after each epoch on held-out images and on test images. Write `choose_epoch`, which returns three things: the index of the
# epoch to keep (the earliest one if several are equally good), the test accuracy that you may then report, and by how much a dishonest choice would have *flattered* the
# result, in accuracy.


# %% tags=["exercise"]
def choose_epoch(held_out, test):
    """Two tensors (E,) -> (index of the epoch, test accuracy to report, flattery of choosing on test)."""
    # BEGIN SOLUTION
    epoch = int((held_out == held_out.max()).nonzero()[0])
    reported = float(test[epoch])
    return epoch, reported, float(test.max()) - reported
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 3
@lesson.check("Exercise 3")
def _():
    held_out = torch.tensor([0.10, 0.42, 0.55, 0.51, 0.55, 0.40])
    on_test = torch.tensor([0.12, 0.40, 0.50, 0.56, 0.48, 0.41])
    epoch, reported, flattery = choose_epoch(held_out, on_test)
    assert epoch != 3, "Epoch 3 is the best on test images: that is the dishonest choice."
    assert epoch != 5, "The last epoch is past the peak."
    assert epoch != 4, "Of equally good epochs take the earliest."
    assert epoch == 2, f"You chose epoch {epoch}; the first maximum on held-out images is at 2."
    assert abs(reported - 0.55) > 1e-6, (
        "You report held-out accuracy, on which the epoch was chosen. Report test accuracy."
    )
    assert abs(reported - 0.50) < 1e-6, f"The test accuracy of that epoch is 0.50, not {reported:.2f}."
    assert abs(flattery - 0.06) < 1e-6, "Flattery is the best test accuracy minus the one that you report."
    assert abs(choose_epoch(on_test, on_test)[2]) < 1e-6, "Where both lists agree, nothing is flattered."


# %% [markdown] tags=["solution"]
# The chosen epoch's *held-out* accuracy is flattered as well: it is the maximum of several noisy numbers. Only images that took no part in the choice give a fair number.

# %% [markdown]
# How large is the flattery when there is nothing to choose? Suppose that all epochs are *equally* good. Then only the noise of the test images differs from epoch to
# epoch; we draw it independently, which overstates the flattery, since real epochs make many of the same mistakes.

# %%
generator = torch.Generator().manual_seed(seed)
truth, epochs_to_choose = float(cells["test images", "pgd"]), last_epoch
hits = torch.rand(500, epochs_to_choose, len(new), generator=generator).lt(truth).float().mean(2)
print(
    f"{epochs_to_choose} epochs, all with true robust accuracy {truth:.1%}: the best of them on {len(new)} test images "
    f"shows {hits.amax(1).mean():.1%} on average"
)

# %% [markdown]
# ## What can go wrong
#
# - **Choosing the checkpoint on test images.** It turns the test accuracy into a training result; with robust overfitting the gain
#   can be large. Hold out training images instead.
# - **Reporting only the last epoch, or only the best.** Report both, and on which images the best was chosen.
# - **Attacking in train mode.** The attack then depends on the batch, and each attack step moves the running statistics.
# - **A weak training attack with a large step.** One-step training can learn to defeat the *attack* while PGD still breaks it
#   (catastrophic overfitting, Wong et al., [2001.03994](https://arxiv.org/abs/2001.03994)). Watch PGD accuracy during training, not FGSM accuracy.
# - **Starting TRADES' inner attack at the image itself.** There the gradient of KL is zero, and the attack is noise.
# - **Probabilities where logarithms are needed.** $\log(1 - p)$ in float32 is infinite for a confident mistake.
# - **Comparing across budgets.** Epochs, images and attack steps must be equal before methods are compared.
#
# ## What we saw

# %%
sentences = [
    f"**{plotting.method_name(method)}** {accuracy.loc[method, 'clean']:.1%} clean, {accuracy.loc[method, 'pgd']:.1%} under PGD "
    f"({interval.loc[(method, 'pgd'), 'low']:.1%} to {interval.loc[(method, 'pgd'), 'high']:.1%})"
    for method in methods
]
robust = all(accuracy.loc[method, "pgd"] > 0.5 * accuracy.loc[method, "clean"] for method in methods[1:])
few_rows = overfit[(overfit["method"] == "last epoch") & (overfit["attack"] == "pgd")].set_index("on")
settled = few_rows.loc["training images", "low"] > few_rows.loc["test images", "high"]
confirmed = robust and settled
lesson.say(
    f"On {len(test)} test images, PGD with epsilon {config.epsilon:g}, {config.eval_steps} steps of {config.eval_step_size:g}, "
    f"{config.eval_restarts} restart(s), any iterate counting, attack seed {seed}, one training seed ({seed}), with 95% intervals: "
    + "; ".join(sentences)
    + f". Trained for {last_epoch} epochs on {few.train_images - held_out} images, PGD-AT reads {cells['training images', 'pgd']:.1%} of {len(learned)} of them under the same attack and "
    f"{cells['test images', 'pgd']:.1%} of {len(new)} test images ({few_rows.loc['test images', 'low']:.1%} to {few_rows.loc['test images', 'high']:.1%}).\n\n"
    f"All three robust methods keep more than half of their clean accuracy: {'yes' if robust else 'no'}. Trained on few images, PGD-AT is clearly more robust "
    f"on them than on new ones (intervals apart): {'yes' if settled else 'no'}. The claim is **{'confirmed' if confirmed else 'not confirmed'}** by this run."
)

# %% [markdown]
# ### Expected values
#
# The numbers of this run beside the bands in which other machines should find them.

# %%
metrics = {
    f"{method}_{attack}_accuracy": float(accuracy.loc[method, attack])
    for method in methods
    for attack in ("clean", "pgd")
}
metrics |= {f"{method}_attacked_margin": float(np.median(margins[method][1])) for method in methods}
metrics |= {f"{method}_edge_alignment": float(aligned.loc[method, "own image"]) for method in methods}
metrics |= {
    "claim_confirmed": float(confirmed),
    "toy_standard_whole_boxes": toy["standard"][1],
    "toy_pgd_at_whole_boxes": toy["pgd_at"][1],
    "toy_trades_clean_cost": float(exchange.clean[betas[0]] - exchange.clean[betas[-1]]),
    "toy_trades_robust_gain": float(exchange.robust.max() - exchange.robust[betas[0]]),
    "mart_top_tenth_share": share_weighted,
    "overfitting_gap": float(gap),
    "overfitting_clean_gap": float(clean_gap),
}
lesson.finish("02", preset, config, metrics)

# %% [markdown]
# **Limits.** One seed and one small network; the intervals cover the choice of test images, not the luck of training. PGD is one attack:
# notebook 06 brings stronger ones. One learning rate serves all four networks, and $\beta$ of TRADES and MART
# was not tuned for these images: this is no ranking of the methods. TRADES' inner attack starts here at a uniform random point of the whole box, in the paper at a
# tiny Gaussian step. The plane has two dimensions and images have hundreds or thousands: it shows what eq. 1 asks for, not how hard that is. The run on few images
# differs from the four networks in its number of images, epochs, schedule and augmentation; it can show that robustness is learned by heart, not which of these is to blame.
#
# **References.** Madry et al., *Towards deep learning models resistant to adversarial attacks*, arXiv 1706.06083 · Zhang et al., *Theoretically principled trade-off between robustness and accuracy*,
# arXiv 1901.08573 · Wang et al., *Improving adversarial robustness requires revisiting misclassified examples*, ICLR 2020 ·
# Tsipras et al., *Robustness may be at odds with accuracy*, arXiv 1805.12152 · Wong et al., *Fast is better than free*, arXiv 2001.03994 ·
# Rice et al., *Overfitting in adversarially robust deep learning*, arXiv 2002.11569.
#
# **Next:** [03 · Supervised contrastive learning](03_supervised_contrastive_learning.ipynb) leaves attacks aside and asks what the
# features should look like.
