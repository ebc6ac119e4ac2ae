# %% [markdown]
# # 01 · Adversarial examples
#
# **Claim: a network that reads digits almost perfectly can be made to read almost none of them, by changes that leave
# every digit readable to you.** The last cells confirm or refute the numbers with those of this very run; whether
# the digits stay readable, you judge yourself.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/anchor-course/blob/main/notebooks/01_adversarial_examples.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/OWNER/anchor-course#the-notebooks)
#
# **You will learn** how FGSM and PGD turn the gradient of a loss into an attack; why the *sign* of the gradient, and why a
# projection; what epsilon, step size and number of steps mean; why random noise of the same size does so much less; what
# an attack can prove about a model and what it cannot.
#
# **You need** PyTorch basics: tensors, `autograd`, a training loop. No knowledge of robustness.
#
# **Time** the first cell measures how fast this machine is and says how long the notebook takes here. `smoke`: seconds,
# networks that have learned nothing, for tests only. `t4` and `paper`: CIFAR-10 on a GPU, mostly the download and the training
# of one network. Three exercises come on top; each has a check that tells you at once whether your answer is right.

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
import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import display

from anchor_utils import attacks, evaluation, plotting, results, training
from course import lesson
from course.figures import lesson_01 as figures

config, dataset, device = lesson.start("01", preset, overrides, seed, runs_dir, data_root)

# %% [markdown]
# ## 1 A network that seems to be good
#
# We train a small ResNet-18 in the ordinary way: cross-entropy on clean images, a few epochs. Nothing here is meant to
# be weak. If an earlier run with the same configuration exists, its checkpoint is used.

# %%
run = training.fit(config.replace(method="standard"), dataset=dataset)
model = run.model().to(device)

test = dataset.test[: config.test_images].to(device)
images, labels = test.inputs(), test.labels
classes = len(dataset.classes)
clean = evaluation.clean_outcomes(model, images, labels)
low, high = results.wilson(int(clean.sum()), len(clean))
print(f"accuracy on {len(clean)} clean test images: {clean.float().mean():.1%} (95% interval {low:.1%} to {high:.1%})")

# %% [markdown]
# ## 2 One step along the gradient: FGSM
#
# Training asks: *how should the weights change so that the loss falls?* An attacker asks the same machinery another
# question: *how should the **image** change so that the loss rises?* An image changed so that the network errs, while you
# still read it, is an **adversarial example** (Biggio et al., [1708.06131](https://arxiv.org/abs/1708.06131); Szegedy et
# al., [1312.6199](https://arxiv.org/abs/1312.6199)). Write $x$ for the image, a vector of pixels between 0 and 1; $y$ for
# its true class; $f(x)$ for the network's logits; $\ell$ for the cross-entropy. The answer begins with the gradient of the
# loss with respect to the image, $g = \nabla_x \ell(f(x), y)$.
#
# How large may the change $\delta$ be? The usual bound is on the largest change of any pixel, the $L_\infty$ norm:
# $\|\delta\|_\infty = \max_j |\delta_j| \le \varepsilon$. All allowed $\delta$ together form a box (a square for two pixels, a cube for
# three). Close to $x$ the loss is almost linear, $\ell(f(x + \delta), y) \approx \ell(f(x), y) + g^\top \delta$. Which change in the box raises a
# linear loss most? A sum over pixels lets us choose each pixel alone: go up by $\varepsilon$ where $g_j > 0$, down by
# $\varepsilon$ where $g_j < 0$.
#
# $$\max_{\|\delta\|_\infty \le \varepsilon} g^\top \delta = \sum_j \max_{|\delta_j| \le \varepsilon} g_j \delta_j
# = \varepsilon \sum_j |g_j| = \varepsilon \|g\|_1, \qquad \text{reached at } \delta = \varepsilon \, \mathrm{sign}(g) \tag{1}$$
#
# That is the **fast gradient sign method** (Goodfellow et al., [1412.6572](https://arxiv.org/abs/1412.6572)):
#
# $$x' = \mathrm{clip}_{[0,1]}\bigl(x + \varepsilon \, \mathrm{sign}(g)\bigr), \qquad g = \nabla_x \ell(f(x), y) \tag{2}$$


# %%
def my_fgsm(model, x, y, epsilon):
    x = x.clone().requires_grad_()
    loss = F.cross_entropy(model(x), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    return (x + epsilon * gradient.sign()).clamp(0, 1).detach()  # eq. 2


ours = my_fgsm(model, images[:64], labels[:64], config.epsilon)
library = attacks.fgsm(model, images[:64], labels[:64], epsilon=config.epsilon)
assert torch.equal(ours, library)
print("four lines of our own and anchor_utils.attacks.fgsm agree to the bit")

# %% [markdown]
# Three details matter.
#
# - The images stay in $[0, 1]$, and the network normalises inside. Otherwise epsilon would be measured in the wrong unit.
# - The label is the *true* one. Moving away from a *wrong* prediction of the network could repair it.
# - The loss is a *sum* over the batch. In eval mode each image's gradient depends only on its own term, so a batch is attacked
#   in one pass. (A mean would only scale the gradient, which the sign does not see.)
#
# ### Why the sign? A picture with two pixels
#
# The smallest "image" has two pixels, and then we can draw everything. The grey levels below are a linear loss, darker is
# higher; the arrow is its gradient. Left, the change is bounded in $L_\infty$; right in $L_2$, $\sqrt{\sum_j \delta_j^2} \le \varepsilon$.


# %%
def on_plane(function, points):
    """A function on a grid of two-pixel images: the grey levels (G,) of its axes, and its values (G, G), rows upwards."""
    ticks = torch.linspace(0.1, 0.9, points)
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1)
    return ticks.numpy(), function(grid.view(-1, 2)).view(points, points).numpy()


g, x, epsilon = torch.tensor([2.0, 0.7]), torch.tensor([0.5, 0.5]), 0.25
corner = x + epsilon * g.sign()
touch = x + epsilon * g / g.norm()
linear_loss = on_plane(lambda points: points @ g, 41)
plotting.show(
    figures.norm_balls(linear_loss, x.numpy(), g.numpy(), epsilon, corner.numpy(), touch.numpy()),
    "A linear loss on two pixels. In the L-infinity box its highest allowed point is the corner at the gradient's signs; "
    "in the L2 disc it is the point in the gradient's own direction.",
    svg=True,
)
gain = g @ (corner - x)
assert torch.isclose(gain, epsilon * g.abs().sum())  # eq. 1
print(f"the corner gains {gain:.3f}, which is epsilon times the L1 norm of g; the disc gains {g @ (touch - x):.3f}")

# %% [markdown]
# **Reading the figure.** The dashed line joins all points of one loss value: the highest that touches the allowed set. It touches a
# box at a corner and a disc in the direction of the gradient. So the shape of the allowed set, not the size of the gradient, makes
# the step a sign: the second pixel has a smaller slope than the first and still moves by the full epsilon, because in a box that
# costs nothing. If a point of the box lay beyond the dashed line, eq. 1 would be wrong.

# %% [markdown]
# ### Exercise 1 · Choose what the network shall read
#
# So far the attack only moves *away* from the true class. Often an attacker wants a certain *other* class: a 3 that is read as an 8.
# Write one FGSM step *towards* the classes `target`, with the largest allowed change. In and out: images (N, C, H, W) in [0, 1];
# `target` has shape (N,). Which label goes into the loss, and in which direction do you go?


# %% tags=["exercise"]
def targeted_fgsm(model, x, target, epsilon):
    """One step towards the classes `target`; returns images in [0, 1] within epsilon of x."""
    # BEGIN SOLUTION
    x = x.clone().requires_grad_()
    loss = F.cross_entropy(model(x), target, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    return (x - epsilon * gradient.sign()).clamp(0, 1).detach()
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 1
@lesson.check("Exercise 1")
def _():
    x, y, size = images[:16], labels[:16], 0.05
    target = (y + 1) % classes
    ours = targeted_fgsm(model, x, target, size)
    assert ours.shape == x.shape, f"The result has shape {tuple(ours.shape)}, the images {tuple(x.shape)}."
    assert torch.equal(ours, ours.clamp(0, 1)), "The result leaves [0, 1]: clip it."
    assert (ours - x).abs().max() <= size + 1e-6, "The change is larger than epsilon."
    assert not torch.allclose(ours, my_fgsm(model, x, target, size)), "You move away from the target: its loss rises."
    for wrong in (my_fgsm(model, x, y, size), attacks.fgsm(model, x, y, epsilon=size, targeted=True)):
        assert not torch.allclose(ours, wrong), (
            "You take the gradient of the loss at the true label, not at the target."
        )
    expected = attacks.fgsm(model, x, target, epsilon=size, targeted=True)
    same = (ours - expected).abs().le(1e-6).float().mean().item()
    assert same > 0.99, f"Only {same:.0%} of the pixels are those of attacks.fgsm(..., targeted=True)."


# %% [markdown] tags=["solution"]
# The loss at the *target* must *fall*, so the label and the sign of the step both change. Changing only one of them fails:
# ascending at the target moves away from it, and descending at the true label makes the network surer that it is right. A
# targeted attack is harder than an untargeted one, which is content with any wrong class.

# %% [markdown]
# ## 3 Many small steps: PGD
#
# A network's loss is not linear, so the best direction changes on the way. **Projected gradient descent**
# (Madry et al., [1706.06083](https://arxiv.org/abs/1706.06083)) takes small steps of size $\alpha$ and asks again after each.
# $\Pi$ is the projection: it puts the point back into the epsilon-box around the *original* $x$ and into $[0,1]$, pixel by pixel.
# The start $x_0$ is a random point of the box, $u$ being uniform between $-\varepsilon$ and $\varepsilon$ in every pixel:
#
# $$x_0 = \Pi(x + u), \qquad
# x_{t+1} = \Pi\bigl(x_t + \alpha \, \mathrm{sign} \nabla_x \ell(f(x_t), y)\bigr) \tag{3}$$
#
# (The name says descent, the steps go up: descent on the negative loss. Without the random start it is the *basic iterative
# method*, Kurakin et al., [1607.02533](https://arxiv.org/abs/1607.02533).) A *restart* repeats everything from another
# random start and keeps the worst result.


# %%
def my_pgd(model, x, y, epsilon, alpha, steps, start):
    x_t = (x + start).clamp(0, 1)  # eq. 3, the start
    for _ in range(steps):
        x_t = x_t.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_t), y, reduction="sum"), x_t)
        x_t = x_t.detach() + alpha * gradient.sign()  # eq. 3, the step
        x_t = (x + (x_t - x).clamp(-epsilon, epsilon)).clamp(0, 1)  # eq. 3, the projection
    return x_t


zero = torch.zeros_like(images[:64])
ours = my_pgd(model, images[:64], labels[:64], config.epsilon, config.eval_step_size, 5, zero)
library = attacks.pgd(
    model,
    images[:64],
    labels[:64],
    epsilon=config.epsilon,
    step_size=config.eval_step_size,
    steps=5,
    random_start=False,
)
assert torch.allclose(ours, library, atol=1e-5)
print("our PGD and anchor_utils.attacks.pgd agree, largest difference", f"{(ours - library).abs().max():.1e}")

# %% [markdown]
# ### Where one step fails: two pixels again
#
# The same two functions attack a made-up classifier of two-pixel images whose loss is *curved*: a ridge that begins to the
# upper right of $x$ and then bends down.


# %%
class Ridge(torch.nn.Module):
    """Two logits of a two-pixel image; class 0 is wrong where the ridge is high."""

    def forward(self, x):
        p, q = (x - 0.5).unbind(1)
        score = 4 * p - 12 * (q - 0.08 + 3 * p**2) ** 2 - 0.6
        return torch.stack([torch.zeros_like(score), score], 1)


ridge, zero_class, alpha, steps = Ridge(), torch.tensor([0]), 0.06, 12
x = torch.tensor([[0.5, 0.5]])


def ridge_loss(points):
    return attacks.cross_entropy(ridge(points), torch.zeros(len(points), dtype=torch.long))


def path(start):
    """All points on the way: PGD with 0, 1, 2, ... steps."""
    return torch.cat([my_pgd(ridge, x, zero_class, epsilon, alpha, t, start) for t in range(steps + 1)])


# %%
paths = [path(torch.tensor([start])) for start in ([0.0, 0.0], [-0.16, 0.2], [-0.2, -0.15], [0.1, -0.22])]
here = paths[0][:-1].clone().requires_grad_()
(gradient,) = torch.autograd.grad(ridge_loss(here).sum(), here)
unprojected = here.detach() + alpha * gradient.sign()  # where each step leads before the projection
fast = my_fgsm(ridge, x, zero_class, epsilon)
ticks = torch.linspace(-epsilon, epsilon, 201)
best = ridge_loss(x + torch.cartesian_prod(ticks, ticks)).max().item()
fast_loss = ridge_loss(fast).item()
figure = figures.curved_loss(
    on_plane(ridge_loss, 41),
    on_plane(lambda points: ridge(points).diff(dim=1), 81),
    x[0].numpy(),
    epsilon=epsilon,
    one_step=fast[0].numpy(),
    paths=[way.numpy() for way in paths],
    unprojected=unprojected.numpy(),
    path_losses=[ridge_loss(way).numpy() for way in paths],
    references={"best in the box": best, "decision boundary": np.log(2), "FGSM": fast_loss},
    step_size=alpha,
)
plotting.show(
    figure,
    "A curved loss on two pixels: FGSM jumps to a corner of the box past the ridge of high loss; PGD follows the bend in "
    "small steps, is put back into the box by the projection, and crosses the decision boundary.",
    svg=True,
)
print(
    f"loss at x {ridge_loss(x).item():.2f}, after FGSM {fast_loss:.2f}, "
    f"after PGD {ridge_loss(paths[0][-1:]).item():.2f}, highest in the box {best:.2f}"
)

# %% [markdown]
# **Reading the figure.** Dark is high loss; beyond the blue line the class is wrong. Left: at $x$ both slopes point up, so
# FGSM goes to the upper right corner, past the ridge. Had its loss (right panel) been the highest, one step would do.
# Middle: PGD starts in the same direction, then turns with the ridge. A cross marks a step that left the box; the dotted
# line shows how the projection puts it back. The thin paths begin at other points of the box. Right: the loss after each
# step. It does not rise at every step, since a sign step always has full length and jumps over the ridge; smaller steps
# would follow it closer and need more of them. Compare where the paths from different starts end: as far as they differ,
# one start is not enough, and a restart helps.

# %% [markdown]
# ### Exercise 2 · The step for another norm
#
# Under an $L_2$ bound the allowed set is a ball (right panel of the first figure). Write one step of $L_2$-PGD: from `x_t` go
# a length `alpha` along the unit gradient, put the point back into the ball of radius `epsilon` around `x`, and clip to [0, 1]. Each
# *image* has its own norm; all tensors have shape (N, C, H, W). Hint: `t.flatten(1).norm(dim=1)`, and `.clamp_min(1e-12)`
# before you divide.


# %% tags=["exercise"]
def l2_step(x_t, gradient, x, epsilon, alpha):
    """The next iterate, at most epsilon away from x in the L2 norm of each image."""

    # BEGIN SOLUTION
    def length(t):
        return t.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)

    delta = x_t + alpha * gradient / length(gradient) - x
    delta = delta * (epsilon / length(delta)).clamp_max(1)
    return (x + delta).clamp(0, 1)
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 2
@lesson.check("Exercise 2")
def _():
    draw = torch.Generator().manual_seed(0)
    x = 0.5 + torch.zeros(3, 1, 4, 4)
    gradient = torch.randn(x.shape, generator=draw) * torch.tensor([1e-3, 1.0, 50.0]).view(3, 1, 1, 1)
    step = l2_step(x, gradient, x, 0.5, 0.1) - x
    assert (step * gradient).sum() > 0, "The step goes down, against the gradient."
    moved = step.flatten(1).norm(dim=1)
    assert moved.shape == (3,), "The result does not have the shape of the images."
    assert not torch.allclose(moved, torch.full((3,), 0.5)), (
        "A point inside the ball must stay where it is: shrink only."
    )
    assert torch.allclose(moved, torch.full((3,), 0.1)), (
        f"Each image should move by alpha = 0.1, yours by {moved.tolist()}."
    )
    far = (l2_step(x, gradient, x, 0.5, 0.8) - x).flatten(1).norm(dim=1)
    assert torch.allclose(far, torch.full((3,), 0.5)), (
        f"With epsilon = 0.5 < alpha the lengths should be 0.5: {far.tolist()}."
    )
    again = l2_step(l2_step(x, gradient, x, 0.5, 0.4), gradient, x, 0.5, 0.4)
    assert (again - x).flatten(1).norm(dim=1).max() < 0.501, (
        "After two steps the point is outside: project around x, not x_t."
    )
    x, y = images[:8], labels[:8]
    x_t = x
    for _ in range(3):
        point = x_t.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)
        x_t = l2_step(x_t, gradient, x, 1.0, 0.5)
    assert torch.equal(x_t, x_t.clamp(0, 1)), "The result leaves [0, 1]: clip it."
    expected = attacks.pgd(model, x, y, epsilon=1.0, step_size=0.5, steps=3, norm="l2", random_start=False)
    assert torch.allclose(x_t, expected, atol=1e-4), "Three steps differ from attacks.pgd(..., norm='l2')."


# %% [markdown] tags=["solution"]
# Two lines of `my_pgd` change, and both for the reason in the first figure: the best point of a ball lies along the
# gradient itself, and the nearest point of a ball lies on the line to its centre. The projection only shrinks. A step that
# also stretched short changes to length epsilon would be another attack, which never looks inside the ball.

# %% [markdown]
# ## 4 The network under attack
#
# > **Predict, then see.** Epsilon is printed at the top; pixels run from 0 to 1. Write down three accuracies: under uniform random
# > noise between $-\varepsilon$ and $\varepsilon$, under FGSM, and under PGD.
#
# Each row of the table is an attack on the same test images, with everything that is needed to run it again; `low` and `high` are
# a 95% Wilson interval. An image counts as right only if it was read correctly before and still is after. `iterate` is "any": an image
# is lost if *any* point on the way is misread, not only the last.

# %%
table = evaluation.evaluate(
    model,
    test,
    ("clean", "noise", "fgsm", "pgd"),
    **config.evaluation(),
    restarts=config.eval_restarts,
    seed=seed,
)
by_attack = table.set_index("attack")["accuracy"]
lesson.say(
    f"The answers: **{by_attack['noise']:.1%}** under noise, **{by_attack['fgsm']:.1%}** under FGSM, "
    f"**{by_attack['pgd']:.1%}** under PGD, after {by_attack['clean']:.1%} on clean images."
)
shown = table.drop(columns=["outcomes", "notes", "norm", "loss", "correct", "seconds"]).round(3)
shown.convert_dtypes().astype(object).fillna("")

# %%
# For the pictures: one image of each class, read correctly where there is one. Untrained networks get few right.
order = torch.cat([clean.nonzero().flatten(), clean.logical_not().nonzero().flatten()])
chosen = torch.stack([order[labels[order] == k][0] for k in labels.unique()][:8])
x, y = images[chosen], labels[chosen]
noisy = attacks.random_point(x, config.epsilon, generator=torch.Generator().manual_seed(seed))
fast = attacks.fgsm(model, x, y, epsilon=config.epsilon)
strong = attacks.pgd(model, x, y, **config.evaluation(), generator=torch.Generator().manual_seed(seed))


def read(model, batch):
    confidence, prediction = evaluation.logits_of(model, batch).softmax(1).max(1)
    return [f"{dataset.classes[k]} ({c:.0%})" for k, c in zip(prediction.tolist(), confidence.tolist(), strict=True)]


def is_wrong(model, batch, y):
    return evaluation.clean_outcomes(model, batch, y).logical_not().tolist()


rows = [x, noisy, fast, strong, strong - x]
figure = plotting.image_grid(
    [row.cpu().numpy() for row in rows],
    ["clean", "noise", "FGSM", "PGD", "PGD's change"],
    [read(model, x), read(model, noisy), read(model, fast), read(model, strong), []],
    wrong=[*(is_wrong(model, row, y) for row in rows[:4]), []],
    signed_rows=[4],
)
plotting.show(
    figure,
    "Rows of the same images: clean, with random noise, after FGSM, after PGD, and the change made by PGD; above each "
    "the class that the network reads and its confidence.",
)

# %% [markdown]
# **Reading the figure.** Above each image stands what the network reads in it, and its softmax confidence; orange is wrong. First
# read each image yourself, then compare. The noise, FGSM and PGD rows all change pixels by at most epsilon. How many titles are orange in each? The
# last row shows PGD's change, red up and blue down: look for structure along the strokes. Had the noise row been as wrong as the PGD
# row, the network would simply be brittle, and the gradient would not be the point.

# %% [markdown]
# ## 5 A model for which we know the worst case
#
# An attack that succeeds proves that an image can be broken. One that fails proves nothing: perhaps a better attack would
# succeed. So the accuracy under an attack is only an *upper bound* of the true **robust accuracy**, the share of images
# that are read correctly whatever the allowed change. For one kind of model the truth can be computed: a **linear
# classifier**, with logits $w_k^\top x + b_k$ for class $k$. An image of class $y$ is read correctly as long as its
# *margin* over every other class $k$ is positive. This margin is linear in $x$, so eq. 1 gives its smallest value in the
# whole box:
#
# $$\min_{\|\delta\|_\infty \le \varepsilon} \bigl[(w_y - w_k)^\top (x + \delta) + b_y - b_k\bigr]
# = (w_y - w_k)^\top x + b_y - b_k - \varepsilon \, \|w_y - w_k\|_1 \tag{4}$$
#
# If it stays positive for all $k \ne y$, *no* attack in the box can succeed. (With the clip to $[0, 1]$ each pixel's interval gets shorter,
# and the best choice per pixel stays as simple; the code does this.) We train such a classifier as another victim.

# %%
few = dataset.train[:: max(1, len(dataset.train) // 4000)].to(device)
x, y = few.inputs(), few.labels
linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), classes)).to(device)
torch.nn.init.zeros_(linear[1].weight)  # the problem is convex: the start does not matter, so no random one is needed
torch.nn.init.zeros_(linear[1].bias)
optimizer = torch.optim.Adam(linear.parameters(), lr=0.02)
for _ in range(100):
    optimizer.zero_grad()
    F.cross_entropy(linear(x), y).backward()
    optimizer.step()
linear.requires_grad_(False)
weight, bias = linear[1].weight, linear[1].bias


def exact_outcomes(x, y, epsilon):
    """(N,) whether no change within epsilon and [0, 1] makes the linear classifier misread the image."""
    x, safe = x.flatten(1), torch.ones_like(y, dtype=torch.bool)
    for k in range(classes):
        difference = weight[y] - weight[k]
        worst = (x - epsilon * difference.sign()).clamp(0, 1)
        margin = (difference * worst).sum(1) + bias[y] - bias[k]  # eq. 4, with the clip
        safe &= (margin > 1e-4) | (y == k)  # a little above 0, for rounding errors
    return safe


small = config.epsilon / 10
subset = test[:150]
x, y = subset.inputs(), subset.labels
linear_clean = evaluation.clean_outcomes(linear, images, labels).float().mean().item()
linear_exact = exact_outcomes(x, y, small)
linear_pgd = evaluation.pgd_outcomes(linear, x, y, epsilon=small, step_size=small / 4, steps=20, seed=seed)
print(f"linear classifier: {linear_clean:.1%} on {len(images)} clean images")
low, high = results.wilson(int(linear_pgd.sum()), len(y))
print(
    f"first {len(y)} images, L-infinity epsilon {small:g}: {linear_pgd.float().mean():.1%} (95% interval {low:.1%} to {high:.1%}) "
    f"right under PGD (20 steps of {small / 4:g}, 1 restart, any iterate, seed {seed});\n"
    f"{linear_exact.float().mean():.1%} of the same images are right whatever the attack"
)
assert not (linear_exact & ~linear_pgd).any(), "an attack has broken an image that no attack can break"

# %% [markdown]
# The last line of the code is a test of *attack and theory at once*: PGD must not break any image that eq. 4 calls safe. The
# difference of the two percentages is what PGD failed to find.
#
# ### Why noise does so little
#
# Give every pixel a change of exactly $\pm\varepsilon$. With random signs $s$ the margin changes by a sum of many terms that cancel: its
# mean is 0 and its standard deviation is $\varepsilon\|w\|_2$, where $w = w_y - w_k$. With the worst signs all terms add up, to $\varepsilon\|w\|_1$.
# The ratio of the two is, for $d$ pixels,
#
# $$\frac{\varepsilon \|w\|_1}{\varepsilon \|w\|_2} \le \sqrt{d}, \qquad \text{with equality if all } |w_j| \text{ are the same.} \tag{5}$$
#
# > **Predict, then see.** How many standard deviations of random signs is the worst change worth, for this classifier? About 2,
# > about 5, about 20? Then: what will the same picture look like for the *network*, for which eq. 5 promises nothing?

# %%
# A typical image, not a picked one: of those that both models read correctly, the one with the median margin (linear).
# attacks.margin is a loss, to be raised by an attack: minus the margin of eq. 4.
margins = -attacks.margin(evaluation.logits_of(linear, images), labels)
both = (clean & (margins > 0)).nonzero().flatten()
both = both if len(both) else torch.arange(len(images), device=device)
index = int(both[(margins[both] - margins[both].median()).abs().argmin()])
x, y = images[index : index + 1], labels[index : index + 1]
difference = weight[y] - weight[torch.arange(classes, device=device) != y]
ratio = (difference.abs().sum(1) / difference.norm(dim=1)).mean().item()  # eq. 5
signs = torch.randn((300, *x.shape[1:]), generator=torch.Generator().manual_seed(seed)).sign().to(device)


def margin_of(victim, points):
    return -attacks.margin(evaluation.logits_of(victim, points), y.expand(len(points))).cpu()


panels = {}
for name, victim, size in (("linear classifier", linear, small), ("network", model, config.epsilon / 2)):
    attack = {"epsilon": size, "step_size": size / 4, "steps": 20, "keep": "worst"}
    tries = {
        "clean": x,
        "FGSM": attacks.fgsm(victim, x, y, epsilon=size),
        "PGD": attacks.pgd(victim, x, y, **attack, generator=torch.Generator().manual_seed(seed)),
    }
    marks = {way: margin_of(victim, point).item() for way, point in tries.items()}
    random = margin_of(victim, (x + size * signs).clamp(0, 1))
    panels[f"{name}, ε = {size:.3g}"] = random.numpy(), marks
plotting.show(
    figures.margin_histograms(panels),
    "Margins of one image: a histogram after random changes of size epsilon, and lines for the clean image and after FGSM "
    "and PGD of the same size; for a linear classifier and for the network.",
    svg=True,
)
lesson.say(
    f"The answer for the linear classifier: the worst change is worth **{ratio:.1f} standard deviations** of random signs (mean over "
    f"the wrong classes for this image); the most that {images[0].numel()} pixels allow is "
    f"$\\sqrt{{d}}$ = {images[0].numel() ** 0.5:.0f}. For the network at epsilon = {size:g}: from a clean margin of "
    f"{marks['clean']:.1f} the luckiest of {len(random)} random tries comes down to {random.min():.1f}, FGSM to "
    f"{marks['FGSM']:.1f}, PGD to **{marks['PGD']:.1f}**."
)

# %% [markdown]
# **Reading the figure.** One image, one size of change per panel, all pixels moved by that size (before the clip to $[0, 1]$). In the grey
# part the image is misread. The histogram is what chance finds; the lines are what the gradient finds. The clip moves the histogram off the
# clean line: a black pixel can only become brighter. FGSM follows the cross-entropy, which mixes all wrong classes, and not the margin;
# so PGD may end a little below it on a linear model, too. Compare the width of the histogram with its
# distance to the FGSM and PGD lines, in both panels. If chance found what the gradient finds, the histogram would reach those
# lines, and there would be no need for an attack.

# %% [markdown]
# ### Exercise 3 · How far is the boundary?
#
# Eq. 4 asks whether an image survives a given epsilon. Turn it around: for a linear classifier, what is the *smallest* $L_\infty$ change
# with which the image reaches another class? `w` (K, D), `b` (K,), images `x` (N, D), classes `y` (N,). Leave the
# clip to [0, 1] away, and return 0 for an image that is read wrongly to begin with. Take care which class is the nearest: it need not
# be the runner-up.


# %% tags=["exercise"]
def critical_epsilon(w, b, x, y):
    """(N,) the epsilon at which the smallest margin in the box becomes 0; 0 if it already is."""
    # BEGIN SOLUTION
    difference = w[y][:, None] - w  # (N, K, D)
    margins = (difference * x[:, None]).sum(2) + b[y][:, None] - b
    radius = margins / difference.abs().sum(2).clamp_min(1e-12)
    radius = radius.scatter(1, y[:, None], torch.inf)  # the class itself does not count
    return radius.amin(1).clamp_min(0)
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 3
@lesson.check("Exercise 3")
def _():
    draw = torch.Generator().manual_seed(0)
    w, b = torch.randn(4, 6, generator=draw) * torch.tensor([0.3, 1.0, 2.0, 4.0]).view(4, 1), torch.zeros(4)
    b = b + torch.randn(4, generator=draw)
    x, y = torch.rand(200, 6, generator=draw), torch.randint(4, (200,), generator=draw)
    radius = critical_epsilon(w, b, x, y)
    assert radius.shape == (200,), f"The result has shape {tuple(radius.shape)}, not (200,)."
    assert radius.isfinite().all(), "Some results are not finite: leave the class itself out, its margin is 0 / 0."
    wrong = (x @ w.T + b).argmax(1) != y
    assert torch.equal(radius.clamp_min(0) * ~wrong, radius), (
        "Images that are read wrongly must get 0, nothing negative."
    )
    assert (radius[~wrong] > 0).all(), (
        "Images that are read correctly get 0: leave the class itself out, its margin is 0."
    )
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 6)

    def survives(size):  # a linear margin is smallest in a corner of the box, and here we try them all
        points = x[:, None] + size[:, None, None] * corners
        return ((points @ w.T + b).argmax(2) == y[:, None]).all(1)

    inside, outside = survives(0.999 * radius), survives(1.001 * radius + 1e-5)
    lost = int((~inside[~wrong]).sum())
    assert lost == 0, f"{lost} images are lost below your epsilon. Which norm divides? Have all classes been compared?"
    assert not outside.any(), (
        f"{int(outside.sum())} images survive more than your epsilon: it is too small. Which norm?"
    )


# %% [markdown] tags=["solution"]
# Setting eq. 4 to zero and solving for epsilon gives $\min_k$ of margin over $\|w_y - w_k\|_1$: the distance to a plane in the $L_\infty$ norm
# divides by the $L_1$ norm, its *dual*. The minimum is taken after the division, because a class with a larger margin
# but larger weights can be nearer. For a network there is no such formula; that is why attacks exist.

# %% [markdown]
# ## 6 Playground
#
# One function draws everything: it attacks a test image of your choice with PGD, one step being exactly FGSM, and shows the
# image before, after, the change, and what the model makes of it. The step size follows the number of steps, $\alpha =
# \min(\varepsilon, 2.5\,\varepsilon / \text{steps})$, so that every number of steps can reach the edge of the box; the
# start is the image, and the last point counts. First an animation, in which epsilon grows by itself.

# %%
victims = {"network": model, "linear": linear}


def attacked(index, epsilons, steps, model):
    """Test image `index` after PGD without a random start, once for each of the epsilons: (E, C, H, W)."""
    size = torch.tensor(epsilons, device=device).view(-1, 1, 1, 1)
    x, y = images[index].repeat(len(epsilons), 1, 1, 1), labels[index].repeat(len(epsilons))
    alpha = torch.minimum(size, 2.5 * size / steps)
    return my_pgd(victims[model], x, y, size, alpha, steps, torch.zeros_like(x))


def attack_picture(index, epsilon, steps, model):
    """A figure: image, adversarial image, change, and the probabilities of the classes before and after."""
    before, after = images[index : index + 1], attacked(index, [epsilon], steps, model)
    both = torch.cat([before, after])
    chances = evaluation.logits_of(victims[model], both).softmax(1).cpu()
    return figures.before_and_after(
        *both.cpu().numpy(),
        read(victims[model], both),
        chances.numpy(),
        int(labels[index]),
        dataset.classes,
        epsilon=epsilon,
        title=f"{model}, {steps} step{'s' if steps > 1 else ''}; grey before, colour after",
    )


sweep = torch.linspace(0, config.epsilon, 21).tolist()
plotting.animate(
    (attack_picture(index, epsilon, 20, "network") for epsilon in sweep),
    "An animation: while epsilon grows from 0, the image changes, and so do the bars of the probabilities of the classes.",
    milliseconds=180,
    colors=64,
)

# %% [markdown]
# **Reading the figure.** Grey bars are the probabilities before the attack, coloured ones after it: blue for the true
# class, orange for the others. Watch *how* the reading changes while epsilon grows: slowly, or all at once between two
# frames? And look at the image at the moment when the blue bar falls: had it turned into the other class for you too, the
# network would be right. The colour scale of the change is that of each frame.
#
# **Now you.** Run the next cell to play: choose an image, a model, epsilon and the number of steps. It needs a running kernel; the
# figure after it shows the same without one.


# %%
def play(**choice):
    figure = attack_picture(**choice)
    display(figure)
    plt.close(figure)


widgets.interactive(
    play,
    index=widgets.IntSlider(index, 0, len(images) - 1, description="image", continuous_update=False),
    epsilon=widgets.FloatSlider(
        config.epsilon / 2,
        min=0,
        max=min(1, 2 * config.epsilon),
        step=config.epsilon / 30,
        readout_format=".3f",
        continuous_update=False,
    ),
    steps=widgets.IntSlider(10, 1, 40, continuous_update=False),
    model=widgets.Dropdown(options=list(victims)),
)

# %% [markdown]
# > **Predict, then see.** In the next figure each of the two models is attacked with one step and with twenty. Against which of the two do the
# > nineteen further steps help little, and why? Eq. 1 has the reason.

# %%
grid = [config.epsilon * fraction for fraction in (0, 1 / 15, 2 / 15, 0.2, 0.3, 0.5, 0.75, 1)]
settings = [(name, steps) for name in victims for steps in (1, 20)]
cells = [attacked(index, grid, steps, name) for name, steps in settings]
y = labels[index].expand(len(grid))
titles = [read(victims[name], row) for (name, _), row in zip(settings, cells, strict=True)]
wrong = [is_wrong(victims[name], row, y) for (name, _), row in zip(settings, cells, strict=True)]
titles[0] = [f"ε = {epsilon:.3f}\n{text}" for epsilon, text in zip(grid, titles[0], strict=True)]
figure = plotting.image_grid(
    [row.cpu().numpy() for row in cells],
    [f"{name}\n{steps} step{'s' if steps > 1 else ''}" for name, steps in settings],
    titles,
    wrong=wrong,
)
plotting.show(
    figure,
    "One test image attacked with growing epsilon from left to right; rows are the network and the linear classifier, each "
    "with one step and with twenty; above each image what the model reads.",
)


def first_wrong(name, steps):
    """The smallest epsilon, on a finer grid than the figure's, at which the image is misread."""
    fine = torch.linspace(0, config.epsilon, 61).tolist()
    wrong = is_wrong(victims[name], attacked(index, fine, steps, name), labels[index].expand(len(fine)))
    return next(
        (f"{epsilon:.3f}" for epsilon, bad in zip(fine, wrong, strict=True) if bad), f"none up to {config.epsilon:g}"
    )


lesson.say(
    "Smallest epsilon at which the reading of this image is wrong: "
    + "; ".join(
        f"{name}, {steps} step{'s' if steps > 1 else ''}: **{first_wrong(name, steps)}**" for name, steps in settings
    )
    + "."
)

# %% [markdown]
# **Reading the figure.** Orange titles are wrong readings. Compare rows in pairs: one step against twenty on the same model. The gradient of
# a linear model's margin over *one* wrong class is the same everywhere. So further steps can only change how the cross-entropy mixes
# the wrong classes. The second pair should differ little; if twenty steps broke the linear model at a
# much smaller epsilon than one, this argument would be wrong. A network's gradient changes on the way, so there the further steps have something to find. One image is an anecdote; the
# next section counts.

# %% [markdown]
# ## 7 How accuracy falls with epsilon
#
# One epsilon is one point on a curve. The whole curve says more: under a good attack it must fall, and reach zero when
# epsilon is large enough to turn any image into any other. A curve that does not is a sign that the *attack* is too weak or
# broken, which notebook 06 makes into a test.

# %%
# The linear classifier falls so much earlier that it gets an axis of its own.
fractions = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0]
ranges = {"network": config.epsilon, "linear": config.epsilon / 4}
x, y = subset.inputs(), subset.labels
steps = min(10, config.eval_steps)


def outcomes_of(victim, epsilon):
    right = evaluation.clean_outcomes(victim, x, y)
    if epsilon == 0:
        return dict.fromkeys(("noise", "FGSM", f"PGD-{steps}"), right)
    return {
        "noise": evaluation.noise_outcomes(victim, x, y, epsilon=epsilon, seed=seed),
        "FGSM": right & evaluation.clean_outcomes(victim, attacks.fgsm(victim, x, y, epsilon=epsilon), y),
        f"PGD-{steps}": evaluation.pgd_outcomes(
            victim, x, y, epsilon=epsilon, step_size=epsilon / 4, steps=steps, seed=seed
        ),
    }


# %%
epsilons = {name: [ranges[name] * fraction for fraction in fractions] for name in victims}
means, bands, gain = {}, {}, {}
for name, victim in victims.items():
    measured = [outcomes_of(victim, epsilon) for epsilon in epsilons[name]]
    lines = {attack: [m[attack] for m in measured] for attack in measured[0]}
    means[name] = {attack: np.array([o.float().mean().item() for o in line]) for attack, line in lines.items()}
    bands[name] = {
        attack: np.transpose([results.wilson(int(o.sum()), len(o)) for o in line]) for attack, line in lines.items()
    }
    gain[name] = (means[name]["FGSM"] - means[name][f"PGD-{steps}"]).max()
exact = np.array([exact_outcomes(x, y, epsilon).float().mean().item() for epsilon in epsilons["linear"]])
plotting.show(
    figures.falling_accuracy(epsilons, means, bands, exact, len(y)),
    "Accuracy against epsilon for noise, FGSM and PGD, left for the network, right for the linear classifier, where the exact "
    "robust accuracy is a grey area below the curves.",
    svg=True,
)
print(f"PGD: {steps} steps of epsilon / 4, 1 restart, any iterate, seed {seed}; the first {len(y)} test images")
lesson.say(
    f"The largest distance from FGSM down to PGD, of all epsilons: **{100 * gain['network']:.0f} percentage points** for the network, "
    f"**{100 * gain['linear']:.0f}** for the linear classifier. That answers the prediction of the last section with counts."
)

# %% [markdown]
# **Reading the figure.** Bands are 95% intervals. Between the noise curve and the gradient curves lies mostly what the
# *direction* of a change contributes. A part is size, since uniform noise moves a pixel by only epsilon / 2 on average; the
# random signs of section 5 had the full size. PGD should lie at or below FGSM, since it may look again after every step; if
# it were clearly above, suspect its step size, or a network whose gradients mislead (notebook 06). Right: the top of the
# grey area is the truth, so no curve may enter it. An attack that runs along its edge is as strong as any can be; the
# distance of a weaker one is robustness that only seems to be there. Left there is no grey area, because the exact value is
# out of reach for all but small networks: whether a still stronger attack exists is the question of notebook 06.

# %% [markdown]
# ## 8 The loss around an image
#
# Why does a step along the gradient do so much? We draw the loss on a plane through each of three images: one axis is the
# sign of the gradient, the other a random sign vector, and the number on an axis is how far each pixel moves along it.


# %%
def loss_plane(model, x, y, extent, points=25):
    """Losses (G, G) on the plane, and on the same grid the best wrong logit minus the true one, above 0 where misread."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    generator = torch.Generator().manual_seed(seed)
    other = torch.randn(x.shape, generator=generator).sign().to(x.device)
    steps = torch.linspace(-extent, extent, points, device=x.device)
    b, a = torch.meshgrid(steps, steps, indexing="ij")
    plane = x.detach() + a.reshape(-1, 1, 1, 1) * gradient.sign() + b.reshape(-1, 1, 1, 1) * other
    logits, y = evaluation.logits_of(model, plane.clamp(0, 1)), y.expand(points**2)
    return [t.view(points, points).cpu().numpy() for t in (attacks.cross_entropy(logits, y), attacks.margin(logits, y))]


extent = 1.2 * config.epsilon
planes = [loss_plane(model, images[i : i + 1], labels[i : i + 1], extent) for i in chosen[:3].tolist()]
titles = [f"image {i}, class {dataset.classes[labels[i]]}" for i in chosen[:3].tolist()]
plotting.show(
    figures.loss_planes(planes, titles, epsilon=config.epsilon, extent=extent),
    "Heat maps of the loss on a plane through three images, with the diamond of allowed changes and the line where the "
    "reading becomes wrong.",
)

# %% [markdown]
# **Reading the figure.** The cross is the image, the light blue line the border where the reading becomes wrong. The dashed
# diamond holds the allowed changes: in some pixels the two signs agree, and there both moves add up. Its right corner is
# FGSM. Go right from the cross, along the gradient, until you meet the line; then go up or down, along random signs, and
# compare the distances. Before the clip both directions change each pixel equally. If the line were equally far in all
# directions, noise would be as good an attack as the gradient. Look, too, at whether the loss still rises at the right
# corner of the diamond: where it has bent, the gradient at the image no longer points uphill, and that is what PGD's
# further steps are for.
#
# ## What can go wrong
#
# - **Normalised images.** If the attack sees normalised pixels, an epsilon of 0.3 is no longer 0.3 of the pixel range. The same
#   happens with pixels from 0 to 255.
# - **No clipping.** Without the clip to $[0,1]$ the "image" is not an image, and the attack looks stronger than it is.
# - **Projecting around the wrong point.** Around $x_t$ instead of $x$, the changes add up and leave the box without a word.
# - **Train mode.** With BatchNorm in train mode each image's prediction depends on the rest of the batch.
# - **Attacking predictions.** The loss must be that of the true label.
# - **Softmax twice.** Cross-entropy wants logits. Given probabilities, its gradient is small and often exactly zero, the sign of zero
#   is zero, and the attack stands still. `attacks.pgd` warns about this.
# - **Rounding.** An adversarial image saved with 8 bits is another image. Test the one that was saved.
# - **Too few steps, or too short ones.** Steps times step size should be clearly above epsilon: from a random start the far
#   side of the box can be 2 epsilon away. A weak attack proves nothing about a model. Notebook 06 is about that.
#
# ## What we saw

# %%
# Only the numbers can be tested here; whether the digits stay readable is for the reader's eyes.
confirmed = by_attack["clean"] > 0.9 and by_attack["pgd"] < 0.1
low, high = table.set_index("attack").loc["pgd", ["low", "high"]]
lesson.say(
    f"On {config.test_images} test images the network is right on **{by_attack['clean']:.1%}**. Uniform noise of size "
    f"epsilon = {config.epsilon:g} leaves {by_attack['noise']:.1%}, FGSM {by_attack['fgsm']:.1%}, and PGD with "
    f"{config.eval_steps} steps of {config.eval_step_size:g} and {config.eval_restarts} restart(s) (any iterate counts, seed "
    f"{seed}) **{by_attack['pgd']:.1%}** (95% interval {low:.1%} to {high:.1%}). For the claim, 'almost perfectly' means above "
    f"90%, and 'almost none' below 10%: its numbers are **{'confirmed' if confirmed else 'not confirmed'}** by this run. Its last part, "
    "that every digit stays readable to you, you have judged yourself in section 4."
)
low, high = results.wilson(int(linear_pgd.sum()), len(linear_pgd))
lesson.say(
    f"For a linear classifier the worst case can be computed: at epsilon = {small:g} exactly "
    f"{linear_exact.float().mean():.1%} of {len(linear_exact)} images cannot be broken by any attack, and PGD (20 steps of "
    f"{small / 4:g}, 1 restart, any iterate, seed {seed}) left {linear_pgd.float().mean():.1%} (95% interval "
    f"{low:.1%} to {high:.1%}). The worst change moves its margin by {ratio:.1f} standard deviations of random signs."
)

# %% [markdown]
# ### Expected values
#
# What this run measured, beside the range in which other machines should find it.

# %%
metrics = {f"standard_{name}_accuracy": value for name, value in by_attack.to_dict().items()}
metrics |= {
    "linear_clean_accuracy": linear_clean,
    "linear_exact_accuracy": linear_exact.float().mean().item(),
    "linear_pgd_accuracy": linear_pgd.float().mean().item(),
    "linear_worst_over_random": ratio,
    "claim_confirmed": float(confirmed),
}
lesson.finish("01", preset, config, metrics)

# %% [markdown]
# **Limits.** One data set, one network and one linear classifier, one training seed, one norm. "Readable to you" is your
# own judgement of the figures, not a measurement: at large epsilon even people begin to hesitate. The bound is a convention
# that can be computed, not a model of human sight.
#
# **References.** Szegedy et al., *Intriguing properties of neural networks*, arXiv 1312.6199 · Biggio et al., *Evasion attacks
# against machine learning at test time*, arXiv 1708.06131 · Goodfellow et al., *Explaining and harnessing adversarial examples*,
# arXiv 1412.6572 · Kurakin et al., *Adversarial examples in the physical world*, arXiv 1607.02533 · Madry et al., *Towards deep
# learning models resistant to adversarial attacks*, arXiv 1706.06083.
#
# **Next:** [02 · Adversarial training](02_adversarial_training.ipynb) uses the attack as a teacher.
