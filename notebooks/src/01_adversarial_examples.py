# %% [markdown]
# # 01 · Adversarial examples
#
# A network that names almost every handwritten digit can be led to name most of them wrongly, by changes that leave the
# digits readable. Whoever relies on a network should know how little that takes. You will write the two standard attacks
# in a few lines each, measure what they do, and meet a model whose worst case can be computed exactly.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/anchor-course/anchor-course/blob/main/notebooks/01_adversarial_examples.ipynb)
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
import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import display

from anchor_utils import attacks, evaluation, plotting, results, training
from course import lesson, page
from course.figures import lesson_01 as figures

config, dataset, device = lesson.start("01", preset, overrides, seed, runs_dir, data_root)
epsilon = config.epsilon / 3  # how far a pixel may move: 0.1 on digits, where pixels run from 0 to 1

# %% [markdown]
# First we train a small ResNet-18 in the ordinary way: cross-entropy on clean images, a few epochs. Nothing about it is
# meant to be weak. If a finished run of the same configuration is there, it is used.

# %%
model = training.fit(config.replace(method="standard"), dataset=dataset).model().to(device).eval()
test = dataset.test[: config.test_images].to(device)
images, labels = test.inputs(), test.labels
right = evaluation.clean_outcomes(model, images, labels)  # (N,) whether each image is classified correctly


def share(outcomes):
    """The share of images that are right, with a 95% interval (Wilson's) for how few images there are."""
    low, high = results.wilson(int(outcomes.sum()), len(outcomes))
    return f"{outcomes.float().mean():.1%} (95% interval {low:.1%} to {high:.1%})"


print(f"{len(right)} clean test images: {share(right)} are classified correctly")

# %% tags=["fold"]
# @title Attack one image of each class
# Images that are classified correctly, where there are any: untrained networks get few right.
order = torch.cat([right.nonzero().flatten(), right.logical_not().nonzero().flatten()])
chosen = torch.stack([order[labels[order] == k][0] for k in labels.unique()][:8])
x, y = images[chosen], labels[chosen]


def random_signs(x):
    """Plus or minus 1 for every pixel, the same in every call."""
    return (2 * torch.randint(2, x.shape, generator=torch.Generator().manual_seed(seed)) - 1).to(x.device)


def named(model, batch):
    confidence, prediction = evaluation.logits_of(model, batch).softmax(1).max(1)
    return [f"{dataset.classes[k]} ({c:.0%})" for k, c in zip(prediction.tolist(), confidence.tolist(), strict=True)]


def is_wrong(model, batch, y):
    return evaluation.clean_outcomes(model, batch, y).logical_not().tolist()


noisy = (x + epsilon * random_signs(x)).clamp(0, 1)
fast = attacks.fgsm(model, x, y, epsilon=epsilon)
strong = attacks.pgd(model, x, y, epsilon=epsilon, step_size=epsilon / 4, steps=20, random_start=False)
rows = {"clean": x, "random signs": noisy, "FGSM": fast, "PGD": strong, "PGD's change": strong - x}

# %% tags=["fold"]
# @title Draw them
wrong = [is_wrong(model, row, y) for row in [*rows.values()][:4]]
drawn = plotting.image_grid(
    [row.cpu().numpy() for row in rows.values()],
    [*rows],
    [*(named(model, row) for row in [*rows.values()][:4]), []],
    wrong=[*wrong, []],
    signed_rows=[4],
)
page.figure(
    drawn,
    "Rows of the same images: clean, with random signs added, after FGSM, after PGD, and the change made by PGD; above "
    "each the class that the network names and its confidence.",
    f"Of these {len(y)} images the network misclassifies {sum(wrong[1])} after random signs, {sum(wrong[2])} after FGSM and "
    f"{sum(wrong[3])} after PGD; no pixel moved by more than {epsilon:.3g}. Above each image: the class it names, its confidence; "
    "orange is wrong. Last row: red is brighter, blue is darker. FGSM and PGD are the attacks of sections 2 and 3; "
    "section 4 counts.",
)

# %% [markdown]
# **Claim: a network that classifies digits almost perfectly loses almost all of them to an attack with epsilon 0.3. At a third
# of that, its gradient still costs several times as many digits as chance does with changes of the same size.** The last cells
# confirm or refute this with the numbers of this run. Whether the digits stay readable, you judge yourself.
#
# **You will learn** what a threat model is; how FGSM and PGD turn a gradient into an attack; why they use its *sign*; what
# epsilon, steps, step size and restarts do; how a bug can make a network look robust; why such images exist.
#
# **You need** PyTorch basics: tensors, `autograd`, a training loop. No knowledge of robustness.
#
# **Time** 30 to 45 minutes to read, and the exercises. The first cell says how long the code takes here. `smoke` is
# for tests only; `t4`, `minutes` (the full network in minutes on one modern GPU) and `paper` use CIFAR-10 on a GPU.

# %% [markdown]
# ## 1 What may an attacker do?
#
# An image that was changed so that a network errs, while people still classify it correctly, is an **adversarial
# example** (Biggio et al., [1708.06131](https://arxiv.org/abs/1708.06131); Szegedy et al.,
# [1312.6199](https://arxiv.org/abs/1312.6199)). "Robust" means nothing until it is said against whom. The answers to
# these questions are the **threat model**, and every robust accuracy belongs to one.
#
# | question | in this course |
# |:--|:--|
# | What does the attacker want? | any wrong class (*untargeted*); in exercise 1 a certain class (*targeted*) |
# | What does the attacker know? | everything, weights and gradients included (*white box*) |
# | What may change? | each pixel by at most $\varepsilon$, and pixels stay between 0 and 1 |
# | When? | after training; the training images are clean and the weights are fixed |
# | When does the network win? | it is right on the clean image *and* on every image that the attack tries |
#
# The bound on the largest change of any pixel is the $L_\infty$ norm: $\|\delta\|_\infty = \max_j |\delta_j| \le
# \varepsilon$ for a change $\delta$. It can be computed, which human sight cannot: an image can be within the bound and
# look odd, or be far outside (shifted by a pixel, say) and look the same.
#
# **Units.** Image files store pixels as 0 to 255, networks get them as 0 to 1. The usual bound for photographs is "8", which
# is $8/255 = 0.0314$ on the scale of 0 to 1; many papers write 0.031. The digits here are white on black and bear more: up to 0.3 is usual.

# %% [markdown]
# ## 2 One step along the gradient: FGSM
#
# Training asks: *how should the weights change so that the loss falls?* An attacker asks: *how should the **image** change
# so that the loss rises?* Write $x$ for the image, a vector of pixels; $y$ for its true class; $f(x)$ for the network's
# logits; $\ell$ for the cross-entropy; and $g = \nabla_x \ell(f(x), y)$ for the gradient with respect to the image.
#
# All allowed changes form a **box**: a square for two pixels, a cube for three. Close to $x$ the loss is almost linear,
# $\ell(f(x + \delta), y) \approx \ell(f(x), y) + g^\top \delta$. A sum over pixels lets us choose each pixel alone: up by
# $\varepsilon$ where $g_j > 0$, down by $\varepsilon$ where $g_j < 0$.
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


ours = my_fgsm(model, images[:64], labels[:64], epsilon)
assert torch.equal(ours, attacks.fgsm(model, images[:64], labels[:64], epsilon=epsilon))
print("our four lines and anchor_utils.attacks.fgsm agree to the bit")

# %% [markdown]
# Three details matter.
#
# - The images stay in $[0, 1]$; the network normalises inside. Section 4 shows what happens otherwise.
# - The label is the *true* one. Moving away from a wrong prediction could repair it.
# - The loss is a *sum* over the batch. In eval mode each image's gradient depends on its own term only, so one pass attacks all.
#
# ### Why the sign? An image of two pixels
#
# An image of two pixels can be drawn as a point. Below, the loss is linear; we compare the box with the $L_2$ ball,
# $\sqrt{\sum_j \delta_j^2} \le \varepsilon$, which is a disc here.

# %%
g, x, size = torch.tensor([2.0, 0.7]), torch.tensor([0.5, 0.5]), 0.25
corner = x + size * g.sign()
touch = x + size * g / g.norm()
assert torch.isclose(g @ (corner - x), size * g.abs().sum())  # eq. 1

# %% tags=["fold"]
# @title Draw the two balls


def on_plane(function, points):
    """A function on a grid of two-pixel images: the grey levels (G,) of its axes, and its values (G, G), rows upwards."""
    ticks = torch.linspace(0.1, 0.9, points)
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1)
    return ticks.numpy(), function(grid.view(-1, 2)).view(points, points).numpy()


linear_loss = on_plane(lambda points: points @ g, 41)
page.figure(
    figures.norm_balls(linear_loss, x.numpy(), g.numpy(), size, corner.numpy(), touch.numpy()),
    "A linear loss on two pixels. In the L-infinity box its highest allowed point is the corner at the gradient's signs; "
    "in the L2 disc it is the point in the gradient's own direction.",
    f"The corner gains {g @ (corner - x):.3f}, the disc's best point {g @ (touch - x):.3f}. Darker is a higher loss; a dashed line "
    "joins points of one loss, the highest touching the allowed set. The set's shape makes the step a sign: the second pixel "
    "has the smaller slope and still moves by epsilon. The box holds the disc, so the gains do not compare.",
    svg=True,
)

# %% [markdown]
# ### Exercise 1 · Choose the class that the network shall name
#
# So far the attack moves *away* from the true class. Often an attacker wants a certain other class: a 3 that is taken for an 8.
# Write one FGSM step *towards* the classes `target`, with the largest allowed change. Images have the shape (N, C, H, W) and
# lie in [0, 1]; `target` has the shape (N,). Which label goes into the loss, and in which direction do you go?


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
    target = (y + 1) % len(dataset.classes)
    ours = targeted_fgsm(model, x, target, size)
    assert ours.shape == x.shape, f"The result has shape {tuple(ours.shape)}, the images {tuple(x.shape)}."
    assert torch.equal(ours, ours.clamp(0, 1)), "The result leaves [0, 1]."
    assert (ours - x).abs().max() <= size + 1e-6, "The change is larger than epsilon."

    def target_loss(points):
        return F.cross_entropy(evaluation.logits_of(model, points), target)

    tiny = targeted_fgsm(model, x, target, 1e-3)
    assert target_loss(tiny) < target_loss(x), "A tiny step does not bring the images closer to their targets."
    expected = attacks.fgsm(model, x, target, epsilon=size, targeted=True)
    same = (ours - expected).abs().le(1e-6).float().mean().item()
    assert same > 0.99, f"Only {same:.0%} of the pixels are those of a targeted FGSM step of full size."


# %% [markdown] tags=["solution"]
# The loss at the *target* must *fall*, so the label and the sign of the step both change. Changing only one of them fails:
# ascending at the target moves away from it, and descending at the true label makes the network surer that it is right. A
# targeted attack is harder than an untargeted one, which is content with any wrong class.

# %% [markdown]
# ## 3 Many small steps: PGD
#
# A network's loss is not linear, so the best direction changes on the way. **Projected gradient descent** (Madry et al.,
# [1706.06083](https://arxiv.org/abs/1706.06083)) takes small steps of size $\alpha$ and asks again after each. The **projection**
# $\Pi$ puts a point back, pixel by pixel, into the box around the *original* $x$ and into $[0, 1]$. The start is $x$ moved by
# some $u$ in the box, zero or random:
#
# $$x_0 = \Pi(x + u), \qquad
# x_{t+1} = \Pi\bigl(x_t + \alpha \, \mathrm{sign} \nabla_x \ell(f(x_t), y)\bigr) \tag{3}$$
#
# The points $x_t$ are the **iterates**. A **restart** repeats everything from another random start. The name says descent, the
# steps go up: descent on minus the loss. Without a random start the method is older, and called the *basic iterative method* (Kurakin
# et al., [1607.02533](https://arxiv.org/abs/1607.02533)).


# %%
def my_pgd(model, x, y, epsilon, alpha, steps, start):
    """All iterates, from the start to the last one: (steps + 1, N, ...)."""
    points = [(x + start).clamp(0, 1)]  # eq. 3, the start
    for _ in range(steps):
        x_t = points[-1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_t), y, reduction="sum"), x_t)
        x_t = x_t.detach() + alpha * gradient.sign()  # eq. 3, the step
        points.append((x + (x_t - x).clamp(-epsilon, epsilon)).clamp(0, 1))  # eq. 3, the projection
    return torch.stack(points)


x, y = images[:64], labels[:64]
ours = my_pgd(model, x, y, epsilon, epsilon / 4, 5, torch.zeros_like(x))[-1]
theirs = attacks.pgd(model, x, y, epsilon=epsilon, step_size=epsilon / 4, steps=5, random_start=False)
assert torch.allclose(ours, theirs, atol=1e-5)
print(f"our PGD and anchor_utils.attacks.pgd agree; largest difference {(ours - theirs).abs().max():.1e}")

# %% [markdown]
# ### Where one step fails: two pixels again
#
# Both functions now attack a made-up classifier of two-pixel images whose loss is *curved*: a ridge that begins to the upper
# right of $x$ and then bends down. Move the slider to make the box grow.

# %% tags=["fold"]
# @title Attack the curved loss in boxes of nine sizes


class Ridge(torch.nn.Module):
    """Two logits of a two-pixel image; class 0 is wrong where the ridge is high."""

    def forward(self, x):
        p, q = (x - 0.5).unbind(1)
        score = 4 * p - 12 * (q - 0.08 + 3 * p**2) ** 2 - 0.6
        return torch.stack([torch.zeros_like(score), score], 1)


ridge, x, y = Ridge(), torch.tensor([[0.5, 0.5]]), torch.tensor([0])


def ridge_loss(points):
    return attacks.cross_entropy(ridge(points), torch.zeros(len(points), dtype=torch.long))


sizes = [0.035 * k for k in range(1, 10)]
paths = [my_pgd(ridge, x, y, size, size / 8, 24, torch.zeros_like(x))[:, 0].numpy() for size in sizes]
corners = torch.cat([my_fgsm(ridge, x, y, size) for size in sizes])
boxes = [x + size * torch.cartesian_prod(*[torch.linspace(-1, 1, 201)] * 2) for size in sizes]
losses = {
    "best in the box": np.array([ridge_loss(box).max().item() for box in boxes]),
    "PGD": np.array([ridge_loss(torch.tensor(path[-1:])).item() for path in paths]),
    "FGSM": ridge_loss(corners).numpy(),
}

# %% tags=["fold"]
# @title Draw the slider
planes = on_plane(ridge_loss, 41), on_plane(lambda points: ridge(points).diff(dim=1), 81)
page.slider(
    "epsilon",
    [f"{size:.3f}" for size in sizes],
    (
        figures.growing_box(*planes, x[0].numpy(), sizes, k, corners[k].numpy(), path, losses, np.log(2))
        for k, path in enumerate(paths)
    ),
    "Two pixels and a curved loss: the box of allowed changes, FGSM's corner and PGD's path; beside it the loss that either "
    "reaches for every epsilon.",
    f"At epsilon {sizes[0]:.3f} FGSM reaches a loss of {losses['FGSM'][0]:.2f} and PGD {losses['PGD'][0]:.2f}: the loss is nearly linear. "
    f"At {sizes[-1]:.3f} they reach {losses['FGSM'][-1]:.2f} and {losses['PGD'][-1]:.2f}, where the box holds "
    f"{losses['best in the box'][-1]:.2f}. Dark is a high loss; beyond the blue line class 0 is lost. FGSM jumps past the ridge, PGD turns "
    "with it. This ridge was made for the purpose.",
    start=6,
    strip=3,
    colors=160,
)

# %% [markdown]
# So how far a linear picture of the loss reaches decides whether one step is enough. In a network nobody knows that
# beforehand; one has to try.
#
# ### Exercise 2 · The step for another norm
#
# Under an $L_2$ bound the allowed set is a ball. Write one step of $L_2$-PGD: from `x_t` go a length `alpha` along the unit
# gradient, put the point back into the ball of radius `epsilon` around `x`, and clip to [0, 1]. Each *image* has its own
# norm; all tensors have the shape (N, C, H, W). Hint: `t.flatten(1).norm(dim=1)`, and `.clamp_min(1e-12)` before you divide.


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

    def distances(points):
        assert points.shape == x.shape, f"The result has shape {tuple(points.shape)}, the images {tuple(x.shape)}."
        return (points - x).flatten(1).norm(dim=1)

    step = l2_step(x, gradient, x, 0.5, 0.1)
    moved = distances(step)
    assert ((step - x) * gradient).sum() > 0, "The step goes down."
    assert torch.allclose(moved, torch.full((3,), 0.1)), (
        f"One step of alpha = 0.1 inside a ball of radius 0.5 moved the images by {moved.tolist()}."
    )
    far = distances(l2_step(x, gradient, x, 0.5, 0.8))
    assert torch.allclose(far, torch.full((3,), 0.5)), (
        f"One step of alpha = 0.8 in a ball of radius 0.5 ends at the distances {far.tolist()}."
    )
    again = distances(l2_step(l2_step(x, gradient, x, 0.5, 0.4), gradient, x, 0.5, 0.4))
    assert again.max() < 0.501, "After two steps a point is farther than epsilon from the original image."
    x, y = images[:8], labels[:8]
    x_t = x
    for _ in range(3):
        point = x_t.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)
        x_t = l2_step(x_t, gradient, x, 1.0, 0.5)
    assert torch.equal(x_t, x_t.clamp(0, 1)), "The result leaves [0, 1]."
    expected = attacks.pgd(model, x, y, epsilon=1.0, step_size=0.5, steps=3, norm="l2", random_start=False)
    assert torch.allclose(x_t, expected, atol=1e-4), "Three steps on the network differ from the library's."


# %% [markdown] tags=["solution"]
# Two lines of `my_pgd` change, and both for the reason in the picture of the two balls: the best point of a ball lies along the
# gradient itself, and the nearest point of a ball lies on the line to its centre. The projection only shrinks. A step that
# also stretched short changes to length epsilon would be another attack, which never looks inside the ball.

# %% [markdown]
# ## 4 Is it the size of a change, or its direction?
#
# To tell, we compare four changes that all move a pixel by up to epsilon. Two are blind: make every pixel brighter, or
# add random signs (`random_signs` draws plus or minus 1 for each pixel, once). Two follow the network's gradient. An image counts as right if it is classified correctly before *and* after.


# %%
def outcomes(victim, x, y, size):
    """Whether each image stays right when pixels move by `size`: two blind changes, two that follow the gradient."""
    changed = {
        "random signs": x + size * random_signs(x),
        "FGSM": my_fgsm(victim, x, y, size),
        "PGD": my_pgd(victim, x, y, size, size / 4, 10, torch.zeros_like(x))[-1],
        "brighter": x + size,
    }
    right = evaluation.clean_outcomes(victim, x, y)
    return {name: right & evaluation.clean_outcomes(victim, point.clamp(0, 1), y) for name, point in changed.items()}


few = test[:150]
x, y = few.inputs(), few.labels
sizes = [config.epsilon * part for part in (0, 1 / 12, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 3 / 4, 1)]
by_size = [outcomes(model, x, y, size) for size in sizes]

# %% [markdown]
# > **Predict, then see.** The network's clean accuracy stands above. Guess its accuracy at epsilon 0.1 after random signs,
# > after FGSM, and after PGD with 10 steps. Then: does the order stay the same at 0.3?

# %% tags=["fold"]
# @title Draw accuracy against epsilon


def lines(measured):
    """For each attack the accuracies (E,), and the two ends (2, E) of their intervals."""
    names = measured[0]
    means = {name: np.array([m[name].float().mean().item() for m in measured]) for name in names}
    ends = {name: np.transpose([results.wilson(int(m[name].sum()), len(m[name])) for m in measured]) for name in names}
    return means, ends


network, ends = lines(by_size)
at = {name: (line[4], line[-1]) for name, line in network.items()}
page.figure(
    figures.falling_accuracy(sizes, network, ends, len(y), marks=(epsilon, config.epsilon)),
    "Accuracy of the network against epsilon: two blind changes fall late, FGSM and PGD fall early.",
    f"At epsilon {epsilon:.3g}, random signs leave {at['random signs'][0]:.0%}, brightness {at['brighter'][0]:.0%}, FGSM {at['FGSM'][0]:.0%}, "
    f"PGD {at['PGD'][0]:.0%}: direction counts. At {config.epsilon:.3g} the blind changes leave {at['random signs'][1]:.0%} and "
    f"{at['brighter'][1]:.0%}: size counts too. Bands are 95% intervals over {len(y)} images; one network, so other training "
    "seeds give other curves.",
    svg=True,
)

# %% [markdown]
# The same at two epsilons on all test images. PGD now begins at a random start, and an image is lost if *any
# iterate* is misclassified, not only the *last iterate*. *Uniform noise* draws each pixel's change between $-\varepsilon$ and
# $\varepsilon$, so it is only half as large on average.

# %% tags=["fold"]
# @title The table: accuracy on all test images
signs, brighter, tables, columns = {}, {}, {}, {}
for size in (epsilon, config.epsilon):
    signs[size] = right & evaluation.clean_outcomes(model, (images + size * random_signs(images)).clamp(0, 1), labels)
    brighter[size] = right & evaluation.clean_outcomes(model, (images + size).clamp(0, 1), labels)
    strong = config.evaluation() if size == config.epsilon else {"step_size": size / 4, "steps": 10}
    settings = strong | {"epsilon": size, "restarts": config.eval_restarts, "seed": seed}
    table = evaluation.evaluate(model, test, ("clean", "noise", "fgsm", "pgd"), **settings).set_index("attack")
    tables[size] = table["accuracy"]
    known = {name: f"{row['accuracy']:.1%} ({row['low']:.1%} to {row['high']:.1%})" for name, row in table.iterrows()}
    columns[size] = {
        "clean": known["clean"],
        "every pixel brighter": share(brighter[size]).replace("95% interval ", ""),
        "random signs": share(signs[size]).replace("95% interval ", ""),
        "uniform noise": known["noise"],
        "FGSM": known["fgsm"],
        "PGD": known["pgd"],
    }
header = " | ".join(f"epsilon {size:.3g}" for size in columns)
body = "\n".join(
    f"| {name} | " + " | ".join(column[name] for column in columns.values()) + " |" for name in columns[size]
)
lesson.say(
    f"| accuracy (95% interval) | {header} |\n|:--|:-:|:-:|\n{body}\n\n{len(images)} test images. PGD: 10 steps of {epsilon / 4:.3g} and "
    f"{config.eval_steps} of {config.eval_step_size:.3g}; {config.eval_restarts} restart(s), any iterate, attack seed {seed}."
)

# %% [markdown]
# ### What does 0.3 mean?
#
# At 0.5 every image can be turned into the same grey, so no classifier can do better there than always naming one class. At 0.3 the digits can still be
# read (judge by the last column in section 7), and networks can be trained to withstand it (notebook 02); it is the usual bound for digits since Madry et al. For
# an ordinary network 0.3 is large: blind changes hurt it too. So the lesson about *direction* belongs to smaller changes, and most of this
# notebook stays at 0.1.
#
# ### A bug that looks like robustness
#
# Many programs normalise images *before* the network, $(x - \text{mean}) / \text{std}$. Attack such images with the same
# epsilon, and the unit is wrong: a change of epsilon in normalised pixels is epsilon times the standard deviation in pixels.

# %%
std = torch.tensor(dataset.std, device=device).view(1, -1, 1, 1)
units = {"pixels": epsilon, "normalised pixels": epsilon * std}
unit_accuracy = {}
for unit, size in units.items():
    attacked = my_pgd(model, x, y, size, size / 4, 10, torch.zeros_like(x))[-1]
    unit_accuracy[unit] = evaluation.clean_outcomes(model, attacked, y).float().mean().item()
    print(
        f"epsilon {epsilon:.3g} in {unit:17}: {unit_accuracy[unit]:6.1%} right, largest change {(attacked - x).abs().max():.3f}"
    )

# %% [markdown]
# Nothing crashed, and the second line looks like a robust network. Print the largest change of a pixel, always. The opposite
# slip, an epsilon of 8 on a scale from 0 to 1, makes every network look hopeless.

# %% [markdown]
# ## 5 How hard must one try?
#
# The accuracy under an attack depends on how well the attack searches. Three knobs decide: the number of steps, the step size,
# and the restarts. `survives` marks the images that have withstood *every* iterate so far.


# %%
def right_at(points, y):
    """(steps + 1, N) whether the network is right at each iterate."""
    return torch.stack([evaluation.clean_outcomes(model, point, y) for point in points]).float()


x, y = few.inputs()[:100], few.labels[:100]
last, survives = {}, {}
for fraction in (1 / 20, 1 / 4, 1):  # step size alpha, in units of epsilon
    now = right_at(my_pgd(model, x, y, epsilon, fraction * epsilon, 20, torch.zeros_like(x)), y)
    last[fraction] = now.mean(1).tolist()
    survives[fraction] = now.cummin(0).values.mean(1).tolist()  # any iterate

generator, restarts = torch.Generator().manual_seed(seed), {}
for steps, fraction in ((3, 1 / 2), (10, 1 / 4)):
    standing, restarts[steps] = torch.ones(len(y), device=device), []
    for _ in range(5):
        start = epsilon * (2 * torch.rand(x.shape, generator=generator).to(device) - 1)
        now = right_at(my_pgd(model, x, y, epsilon, fraction * epsilon, steps, start), y)
        standing = standing * now.amin(0)
        restarts[steps].append(standing.mean().item())

# %% [markdown]
# > **Predict, then see.** How many steps of a quarter of epsilon are enough here? What will steps of a twentieth of epsilon have
# > reached after ten, and what do steps of all of epsilon do that smaller ones do not?

# %% tags=["fold"]
# @title Draw accuracy against steps and restarts
enough = next(k for k, left in enumerate(survives[1 / 4]) if round(100 * (left - survives[1 / 4][-1])) <= 3)
page.figure(
    figures.effort(survives, last, restarts, len(y)),
    "Accuracy against the number of PGD steps for three step sizes, and against the number of restarts for a short and a long "
    "attack.",
    f"After 10 steps, ε/20 leaves {survives[1 / 20][10]:.0%}, ε/4 {survives[1 / 4][10]:.0%}, ε {survives[1][10]:.0%}; ε/4 comes within 3 of "
    f"its end in {enough} steps. Short steps have not arrived; full ones jump about, so any and last iterate (dotted) part. Right: five restarts lower 3 steps of ε/2 by "
    f"{100 * (restarts[3][0] - restarts[3][-1]):.0f} and 10 of ε/4 by {100 * (restarts[10][0] - restarts[10][-1]):.0f} in a hundred. {len(y)} images are few.",
    svg=True,
)

# %% [markdown]
# Two rules follow. Steps times step size should be clearly above epsilon: from a random start the far side of the box is
# up to 2 epsilon away. And double the effort until nothing changes any more. Even then only this attack has stopped to find
# anything, as the next section makes precise.

# %% [markdown]
# ## 6 A model whose worst case is known
#
# An attack that succeeds proves that an image can be broken. One that fails proves nothing: a better one might succeed. So the
# accuracy under an attack is only an *upper bound* of the true **robust accuracy**, the share of images that are classified
# correctly whatever the allowed change.
#
# For a **linear classifier**, with logits $w_k^\top x + b_k$ for class $k$, the truth can be computed. An image of class $y$ is
# right as long as its **logit margin** over every other class $k$, the difference of the two logits, is positive. This
# is linear in $x$, so eq. 1 gives its smallest value in the whole box:
#
# $$\min_{\|\delta\|_\infty \le \varepsilon} \bigl[(w_y - w_k)^\top (x + \delta) + b_y - b_k\bigr]
# = (w_y - w_k)^\top x + b_y - b_k - \varepsilon \, \|w_y - w_k\|_1 \tag{4}$$
#
# If it stays positive for all $k \ne y$, *no* attack in the box can succeed. The clip to $[0, 1]$ only shortens each
# pixel's interval; the best choice per pixel stays as simple.


# %%
def train_linear(x, y):
    """A linear classifier; the problem is convex, so it can start at zero."""
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(x[0].numel(), len(dataset.classes))).to(device)
    torch.nn.init.zeros_(linear[1].weight)
    torch.nn.init.zeros_(linear[1].bias)
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(linear(x), y).backward()
        optimizer.step()
    return linear.requires_grad_(False)


def exact_outcomes(linear, x, y, epsilon):
    """(N,) whether no change within epsilon and [0, 1] makes the linear classifier err."""
    (weight, bias), x, safe = linear[1].parameters(), x.flatten(1), torch.ones_like(y, dtype=torch.bool)
    for k in range(len(bias)):
        difference = weight[y] - weight[k]
        worst = (x - epsilon * difference.sign()).clamp(0, 1)
        margin = (difference * worst).sum(1) + bias[y] - bias[k]  # eq. 4, with the clip
        safe &= (margin > 1e-4) | (y == k)  # a little above 0, for rounding errors
    return safe


# %%
few_train = dataset.train[:: max(1, len(dataset.train) // 4000)].to(device)
linear = train_linear(few_train.inputs(), few_train.labels)
small = config.epsilon / 10  # a linear classifier breaks much earlier
x, y = few.inputs(), few.labels
linear_exact = exact_outcomes(linear, x, y, small)
linear_pgd = evaluation.pgd_outcomes(linear, x, y, epsilon=small, step_size=small / 4, steps=20, seed=seed)
assert not (linear_exact & ~linear_pgd).any(), "an attack has broken an image that no attack can break"
linear_clean = evaluation.clean_outcomes(linear, images, labels)
print(f"linear classifier, {len(images)} clean images: {share(linear_clean)}")
print(f"{len(y)} images, epsilon {small:g}, PGD (20 steps, any iterate): {share(linear_pgd)}")
print(f"the same, whatever the attack: {share(linear_exact)}")

# %% [markdown]
# The `assert` tests attack and theory at once: PGD must not break an image that eq. 4 calls safe. The difference of the last
# two percentages is what PGD failed to find.
#
# ### Why chance does so little
#
# Change every pixel by $\pm\varepsilon$, and leave the clip away. With random signs the margin over class $k$ changes by a sum of many
# terms that cancel: mean 0, standard deviation $\varepsilon\|w\|_2$ with $w = w_y - w_k$. With the worst signs all terms add up, to
# $\varepsilon\|w\|_1$. The ratio of the two is, for $d$ pixels,
#
# $$\frac{\varepsilon \|w\|_1}{\varepsilon \|w\|_2} \le \sqrt{d}, \qquad \text{with equality if all } |w_j| \text{ are the same.} \tag{5}$$

# %%
# One typical image, not a picked one: of those that both models get right, the one with the median margin.
margins = -attacks.margin(evaluation.logits_of(linear, images), labels)  # attacks.margin is a loss: minus the margin
both = (right & linear_clean).nonzero().flatten()
both = both if len(both) else torch.arange(len(images), device=device)
index = int(both[(margins[both] - margins[both].median()).abs().argmin()])
image, label = images[index].flatten(), int(labels[index])

weight, bias = linear[1].parameters()
w = weight[label] - weight  # (K, d), a row a class
margin = w @ image + bias[label] - bias
after = (margin - small * w.abs().sum(1)).index_fill(0, torch.tensor(label, device=device), torch.inf)  # eq. 4
w, margin, worst = w[after.argmin()], margin[after.argmin()], after.min()  # over the class that is lost first
ratio = (w.abs().sum() / w.norm()).item()  # eq. 5
signs_here = random_signs(torch.zeros(500, len(image))).to(device)
tries = margin + small * signs_here @ w

# %% [markdown]
# > **Predict, then see.** How many standard deviations of random signs is the worst change worth, for this classifier and this image:
# > about 2, about 5, about 20?

# %% tags=["fold"]
# @title Draw one image, and all images
linear_sizes = [size / 4 for size in sizes]
simple, ends = lines([outcomes(linear, x, y, size) for size in linear_sizes])
exact = np.array([exact_outcomes(linear, x, y, size).float().mean().item() for size in linear_sizes])
page.figure(
    figures.known_worst_case(
        tries.cpu().numpy(), margin.item(), worst.item(), small, linear_sizes, simple, ends, exact, len(y)
    ),
    "A linear classifier. Left, one image: its margin after random signs hardly moves, the worst signs move it far. Right, "
    "all images: accuracy against epsilon under four changes, above a grey area that no attack can enter.",
    f"One image: the worst signs are worth {ratio:.1f} standard deviations; the luckiest of {len(tries)} random tries is "
    f"{abs((tries.min() - margin) / tries.std()).item():.1f} away. All images: at epsilon {linear_sizes[4]:.3g}, eq. 4 says "
    f"{exact[4]:.0%} are safe, PGD leaves {simple['PGD'][4]:.0%}. No curve may enter the grey area. Left without the clip, right with it.",
    svg=True,
)

# %% tags=["fold"]
# @title What the clip changes
clipped = (image + small * signs_here).clamp(0, 1) - image
clipped_worst = (image - small * w.sign()).clamp(0, 1) - image
clipped_ratio = ((clipped @ w).mean() - clipped_worst @ w).div((clipped @ w).std()).item()
lesson.say(
    f"The {len(image)} pixels would allow at most $\\sqrt{{d}}$ = {len(image) ** 0.5:.0f} standard deviations. With the clip to [0, 1] "
    f"the worst change of this image is **{clipped_ratio:.1f}** standard deviations from the mean of the random ones, which "
    f"itself moves by {(clipped @ w).mean():+.2f}: a black pixel can only become brighter. The gap stays."
)

# %% [markdown]
# ### Exercise 3 · How far is the boundary?
#
# Eq. 4 asks whether an image survives a given epsilon. Turn it around: for a linear classifier, what is the *smallest* $L_\infty$
# change with which the image reaches another class? `w` (K, D), `b` (K,), images `x` (N, D), classes `y` (N,). Leave the clip
# away, and return 0 for an image that is misclassified to begin with. Take care which class is the nearest.


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
    assert radius.isfinite().all(), f"{int((~radius.isfinite()).sum())} of 200 results are not finite."
    wrong = (x @ w.T + b).argmax(1) != y
    assert (radius[wrong] == 0).all(), "An image that is misclassified to begin with got another value than 0."
    assert (radius[~wrong] > 0).all(), "An image that is classified correctly got 0 or less."
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 6)

    def survives(size):  # a linear margin is smallest in a corner of the box, and here we try them all
        points = x[:, None] + size[:, None, None] * corners
        return ((points @ w.T + b).argmax(2) == y[:, None]).all(1)

    inside, outside = survives(0.999 * radius), survives(1.001 * radius + 1e-5)
    lost = int((~inside[~wrong]).sum())
    assert lost == 0, f"{lost} images are lost below your epsilon: it is too large."
    assert not outside.any(), f"{int(outside.sum())} images survive more than your epsilon: it is too small."


# %% [markdown] tags=["solution"]
# Setting eq. 4 to zero and solving for epsilon gives $\min_k$ of margin over $\|w_y - w_k\|_1$: the distance to a plane in the $L_\infty$ norm
# divides by the $L_1$ norm, its *dual*. The minimum is taken after the division, because a class with a larger margin
# but larger weights can be nearer than the runner-up. For a network there is no such formula; that is why attacks exist.

# %% [markdown]
# ## 7 Playground
#
# Choose a test image, a model, epsilon and the number of steps. One step is exactly FGSM; the step size is $\min(\varepsilon,
# 2.5\,\varepsilon / \text{steps})$. Grey bars are the probabilities before the attack, coloured ones after it. This cell needs a
# running kernel; the figure below it does not.

# %% tags=["fold"]
# @title Playground
victims = {"network": model, "linear": linear}


def attacked_by(steps, name, index, sizes):
    """Test image `index` after so many PGD steps without a random start, once for each epsilon: (E, C, H, W)."""
    size = torch.tensor(sizes, device=device).view(-1, 1, 1, 1)
    x, y = images[index].repeat(len(sizes), 1, 1, 1), labels[index].repeat(len(sizes))
    return my_pgd(victims[name], x, y, size, torch.minimum(size, 2.5 * size / steps), steps, torch.zeros_like(x))[-1]


def play(index, epsilon, steps, model):
    both = torch.cat([images[index : index + 1], attacked_by(steps, model, index, [epsilon])])
    chances = evaluation.logits_of(victims[model], both).softmax(1).cpu().numpy()
    title, names = f"{model}, {steps} step(s); grey before, colour after", named(victims[model], both)
    true = int(labels[index])
    drawn = figures.before_and_after(
        *both.cpu().numpy(), names, chances, true, dataset.classes, epsilon=epsilon, title=title
    )
    display(drawn)
    plt.close(drawn)


size = widgets.FloatSlider(epsilon, min=0, max=2 * config.epsilon, step=config.epsilon / 30, readout_format=".3f")
widgets.interactive(
    play,
    index=widgets.IntSlider(index, 0, len(images) - 1, description="image", continuous_update=False),
    epsilon=size,
    steps=widgets.IntSlider(10, 1, 40, continuous_update=False),
    model=widgets.Dropdown(options=list(victims)),
)

# %% [markdown]
# > **Predict, then see.** Below, each model is attacked with one step and with twenty. Against which of the two do the further
# > nineteen steps help little, and why? Eq. 1 has the reason.

# %% tags=["fold"]
# @title One image, growing epsilon, one step and twenty
grid = [config.epsilon * part for part in (0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1)]
settings = [(name, steps) for name in victims for steps in (1, 20)]
cells = [attacked_by(steps, name, index, grid) for name, steps in settings]
target = labels[index].expand(len(grid))
wrong = [is_wrong(victims[name], row, target) for (name, _), row in zip(settings, cells, strict=True)]
titles = [named(victims[name], row) for (name, _), row in zip(settings, cells, strict=True)]
titles[0] = [f"ε = {size:.3f}\n{text}" for size, text in zip(grid, titles[0], strict=True)]
first = [next((f"{size:.3g}" for size, bad in zip(grid, row, strict=True) if bad), "none") for row in wrong]
gaps = [round(100 * (means["FGSM"] - means["PGD"]).max()) for means in (network, simple)]
page.figure(
    plotting.image_grid(
        [row.cpu().numpy() for row in cells],
        [f"{name}\n{steps} step{'s' if steps > 1 else ''}" for name, steps in settings],
        titles,
        wrong=wrong,
    ),
    "One test image attacked with growing epsilon from left to right; rows are the network and the linear classifier, each "
    "with one step and with twenty; above each image the class that the model names.",
    f"First misclassified at epsilon: network {first[0]} (one step), {first[1]} (twenty); linear {first[2]}, {first[3]}. One image is an "
    f"anecdote; over the curves of sections 4 and 6 PGD is up to {gaps[0]} points below FGSM for the network, {gaps[1]} for the "
    "linear classifier. A linear margin has the same gradient everywhere; a network's gradient changes on the way.",
)

# %% [markdown]
# Why do the further steps find anything at all on the linear classifier? They follow the cross-entropy, which mixes the margins
# over all wrong classes, and the mix changes on the way.
#
# ## 8 Why do adversarial examples exist?
#
# **Many small changes add up.** That is eq. 5: in hundreds of dimensions a change that is tiny in each pixel can be large for a
# weighted sum of all. Goodfellow et al. see the cause there: networks, they say, are nearly linear. How far does that carry for
# our network? We follow its logit margin along two straight lines: the sign of the gradient at $x$, and random signs.


# %%
def margins_along(direction, x, y, distances):
    """(E, N) logit margins of the network on the way from x along a direction of signs."""
    points = [(x + distance * direction).clamp(0, 1) for distance in distances]
    return torch.stack([-attacks.margin(evaluation.logits_of(model, point), y) for point in points]).cpu().numpy()


x, y = few.inputs(), few.labels
uphill = (my_fgsm(model, x, y, 1e-3) - x).sign()  # 0 where the clip allows no move
distances = np.linspace(0, config.epsilon, 13)
along = {
    name: margins_along(direction, x, y, distances.tolist())
    for name, direction in {"random signs": random_signs(x), "sign of the gradient": uphill}.items()
}

# %% tags=["fold"]
# @title Draw the margins along two lines
middle = {name: np.median(values, axis=1) for name, values in along.items()}
downhill, blind = middle["sign of the gradient"], middle["random signs"]
page.figure(
    figures.along_lines(distances, along, mark=epsilon),
    "Logit margins of the network on the way along the sign of the gradient and along random signs: medians, bands of the middle "
    "half, and dashed lines that go on straight from the first step.",
    f"Along the gradient's signs the median margin falls from {downhill[0]:.1f} to {downhill[4]:.1f} at {distances[4]:.2g}; straight on from its "
    f"first step it would be {downhill[0] + 4 * (downhill[1] - downhill[0]):.1f} (dashed). Along random signs it is {blind[4]:.1f}. Where a "
    f"line leaves its dashes, the linear picture ends. Bands: the middle half of {len(y)} images; single images differ.",
    svg=True,
)

# %% [markdown]
# **The patterns are real.** Ilyas et al. ([1905.02175](https://arxiv.org/abs/1905.02175)) found that such changes are not mere noise of
# one network. They contain patterns that *do* predict the class on ordinary images, though people do not look at them:
# *non-robust features*. A network that is trained for accuracy uses whatever predicts.
#
# Their test is simple. Give every training image a random class $t$, and push it towards $t$ with a targeted attack. Then train a
# *new* model on these images with the labels $t$. The digits that you see in them say nothing about the label; only the
# pushes do.

# %%
part = dataset.train[:: max(1, len(dataset.train) // 1000)].to(device)
x, push, generator = part.inputs(), 2 * epsilon, torch.Generator().manual_seed(seed)
taught = torch.randint(len(dataset.classes), (len(x),), generator=generator).to(device)  # independent of the images
to_class = {"step_size": push / 3, "steps": 5, "random_start": False, "targeted": True}
pushed = attacks.pgd(model, x, taught, epsilon=push, **to_class)
student, control = train_linear(pushed, taught), train_linear(x, taught)  # the control has the same labels, and no push

# %% [markdown]
# > **Predict, then see.** The student has never seen a label that has to do with the digit. How many *clean* test images does it
# > classify correctly: as many as by chance, fewer, or more?

# %% tags=["fold"]
# @title Draw what the student was taught
student_right = evaluation.clean_outcomes(student, images, labels)
control_right = evaluation.clean_outcomes(control, images, labels)
other = taught != part.labels  # by chance, some images were taught as what they are
shown = torch.cat([(other & (taught == k)).nonzero().flatten()[:1] for k in taught.unique()])[:7]
learned = {"pushed": student_right, "not pushed": control_right}
page.figure(
    figures.taught_by_pushes(
        x[shown].cpu().numpy(),
        pushed[shown].cpu().numpy(),
        [dataset.classes[k] for k in part.labels[shown].tolist()],
        [f"“{dataset.classes[k]}”" for k in taught[shown].tolist()],
        {name: (bit.float().mean().item(), *results.wilson(int(bit.sum()), len(bit))) for name, bit in learned.items()},
        1 / len(dataset.classes),
        images=len(images),
    ),
    "Left: training images with their class, the push that was added, and the sum with the class that the student was "
    "taught. Right: how many clean test images the student and a control without the push classify correctly.",
    f"The student of pushed images is right on {student_right.float().mean():.0%} of clean test images, a control without the push on "
    f"{control_right.float().mean():.0%}. Orange: the class that was taught. Whiskers are 95% intervals over images; the labels were "
    f"drawn once. At epsilon {push:.2g} the push is visible and may hold strokes that people use; Ilyas et al. used smaller changes.",
)

# %% [markdown]
# **Nobody asked for anything else.** Training on clean images rewards the right class on clean images, and is silent about
# everything around them. Notebook 02 changes what is asked for. These three explanations do not exclude each other, and the
# question is not closed.
#
# ## What can go wrong
#
# - **The wrong unit.** Normalised pixels, or pixels from 0 to 255, make epsilon another number (section 4).
# - **No clipping.** Without the clip to $[0,1]$ the "image" is none, and the attack looks stronger than it is.
# - **Projecting around the wrong point.** Around $x_t$ instead of $x$, the changes add up and leave the box without a word.
# - **Train mode.** With BatchNorm in train mode each image's logits depend on the rest of the batch.
# - **Attacking predictions.** The loss must be that of the true label.
# - **Softmax twice.** Cross-entropy wants logits. Given probabilities, its gradient shrinks, and where a probability
#   rounds to 1 it is exactly zero: there the attack stands still. `attacks.pgd` warns about this.
# - **Rounding.** An adversarial image saved with 8 bits is another image. Test the one that was saved.
# - **Too few steps, or too short ones** (section 5). A weak attack proves nothing about a network; notebook 06 is about that.
#
# ## What we saw

# %% tags=["fold"]
# @title What this run found
clean, whole, story = tables[epsilon]["clean"], tables[config.epsilon]["pgd"], tables[epsilon]["pgd"]
chance = signs[epsilon].float().mean().item()
by_gradient, by_chance = 100 * (clean - story), 100 * (clean - chance)  # percentage points that are lost
confirmed = clean > 0.9 and whole < 0.1 and by_gradient > max(20, 4 * by_chance)
lesson.say(
    f"**The claim is {'confirmed' if confirmed else 'not confirmed'} by this run.** Of {len(images)} test images the network gets "
    f"**{clean:.1%}** right; PGD at epsilon {config.epsilon:.3g} leaves **{whole:.1%}**. At {epsilon:.3g} PGD costs **{by_gradient:.0f} points**, "
    f"random signs {by_chance:.1f}. For the claim, 'almost perfectly' means above 90%, 'almost all' that less than 10% is left, and 'several "
    "times' at least 20 points and four times what chance costs. That the digits stay readable you have judged yourself."
)
lesson.say(
    f"**Found on the way.** At epsilon {config.epsilon:.3g} random signs, too, leave only "
    f"{signs[config.epsilon].float().mean():.1%} and brightness {brighter[config.epsilon].float().mean():.1%}: there, size counts too. An attack "
    f"with the epsilon in the wrong unit left {unit_accuracy['normalised pixels']:.0%} instead of {unit_accuracy['pixels']:.0%}. For the "
    f"linear classifier at epsilon {small:g}, {linear_exact.float().mean():.1%} of {len(linear_exact)} images are safe whatever the attack, "
    f"and PGD left {linear_pgd.float().mean():.1%}."
)
lesson.say(
    "**Not found.** How small the network's true robust accuracy is: an attack bounds it from above only (where it leaves 0%, it is 0 "
    "on these images). And whether another training seed, network or norm would say the same."
)

# %% [markdown]
# ### Expected values
#
# What this run measured, beside the range in which other machines should find it.

# %% tags=["fold"]
# @title This run's numbers, kept and compared
metrics = {f"standard_{name}_accuracy": value for name, value in tables[config.epsilon].to_dict().items()}
metrics |= {f"standard_{name}_third_accuracy": tables[epsilon][name] for name in ("fgsm", "pgd")}
metrics |= {
    "standard_signs_third_accuracy": chance,
    "standard_signs_accuracy": signs[config.epsilon].float().mean().item(),
    "standard_brighter_accuracy": brighter[config.epsilon].float().mean().item(),
    "standard_wrong_unit_accuracy": unit_accuracy["normalised pixels"],
    "linear_clean_accuracy": linear_clean.float().mean().item(),
    "linear_exact_accuracy": linear_exact.float().mean().item(),
    "linear_pgd_accuracy": linear_pgd.float().mean().item(),
    "linear_worst_over_random": ratio,
    "linear_worst_over_random_clipped": clipped_ratio,
    "taught_by_pushes_accuracy": student_right.float().mean().item(),
    "taught_without_pushes_accuracy": control_right.float().mean().item(),
    "claim_confirmed": float(confirmed),
}
lesson.finish("01", preset, config, metrics)

# %% [markdown]
# **Limits.** One data set, one network and one linear classifier, one training seed, one norm. "Readable" is your own judgement, not
# a measurement. The bound is a convention that can be computed, not a model of human sight.
#
# **References.** Biggio et al., *Evasion attacks against machine learning at test time*, arXiv 1708.06131 · Szegedy et al.,
# *Intriguing properties of neural networks*, arXiv 1312.6199 · Goodfellow et al., *Explaining and harnessing adversarial
# examples*, arXiv 1412.6572 · Kurakin et al., *Adversarial examples in the physical world*, arXiv 1607.02533 · Madry et al.,
# *Towards deep learning models resistant to adversarial attacks*, arXiv 1706.06083 · Ilyas et al., *Adversarial examples are
# not bugs, they are features*, arXiv 1905.02175.
#
# **Next:** [02 · Adversarial training](02_adversarial_training.ipynb) uses the attack as a teacher.
