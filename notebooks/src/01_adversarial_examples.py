# %% [markdown]
# # 01 · Adversarial examples
#
# **Claim: a network that reads digits almost perfectly can be made to read almost none of them, by changes that leave
# every digit readable to you.** The last cell confirms or refutes this with the numbers of this very run.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/anchor-course/blob/main/notebooks/01_adversarial_examples.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/OWNER/anchor-course#the-notebooks)
#
# **You will learn** how FGSM and PGD turn the gradient of a loss into an attack, what epsilon, step size and number of
# steps mean, why random noise of the same size does nothing comparable, and what the loss looks like around an image.
#
# **You need** PyTorch basics: tensors, `autograd`, a training loop. No knowledge of robustness.
#
# **Time** preset `cpu`: about one minute on 2 cores. `smoke`: seconds, networks that have learned nothing, for tests
# only. `t4` and `paper`: CIFAR-10 on a GPU, mostly the download and the training of one network.

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

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from anchor_utils import attacks, evaluation, notebook, plotting, training

config, device = notebook.start(preset, overrides, seed, runs_dir, data_root)

# %% [markdown]
# ## 1 A network that seems to be good
#
# We train a small ResNet-18 in the ordinary way: cross-entropy on clean images, a few epochs. Nothing here is meant to
# be weak. If an earlier run with the same configuration exists, its checkpoint is used.

# %%
dataset = training.load_data(config)
run = training.fit(config.replace(method="standard"), dataset=dataset)
model = run.model().to(device)

test = dataset.test[: config.test_images].to(device)
images, labels = test.inputs(), test.labels
clean = evaluation.clean_outcomes(model, images, labels)
low, high = evaluation.wilson(int(clean.sum()), len(clean))
print(f"accuracy on {len(clean)} clean test images: {clean.float().mean():.1%} (95% interval {low:.1%} to {high:.1%})")

# %% [markdown]
# ## 2 One step along the gradient: FGSM
#
# Training asks: *how should the weights change so that the loss falls?* An attacker asks the same machinery another
# question: *how should the **image** change so that the loss rises?* The answer is the gradient of the loss with respect
# to the image, $\nabla_x \ell(f(x), y)$.
#
# How large may the change be? The usual bound is the largest change of any pixel, the $L_\infty$ norm:
# $\|x' - x\|_\infty \le \varepsilon$. Among all changes of that size, which raises the loss most, if the loss were linear?
# A linear function $g^\top \delta$ is a sum over pixels, so each pixel can be chosen alone: go up by $\varepsilon$ where
# $g_j > 0$, down by $\varepsilon$ where $g_j < 0$. That is the **fast gradient sign method**
# (Goodfellow et al., [1412.6572](https://arxiv.org/abs/1412.6572)):
#
# $$x' = \mathrm{clip}_{[0,1]}\bigl(x + \varepsilon \, \mathrm{sign} \nabla_x \ell(f(x), y)\bigr) \tag{1}$$


# %%
def my_fgsm(model, x, y, epsilon):
    x = x.clone().requires_grad_()
    loss = F.cross_entropy(model(x), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    return (x + epsilon * gradient.sign()).clamp(0, 1).detach()  # eq. 1


ours = my_fgsm(model, images[:64], labels[:64], config.epsilon)
library = attacks.fgsm(model, images[:64], labels[:64], epsilon=config.epsilon)
assert torch.equal(ours, library)
print("five lines of our own and anchor_utils.attacks.fgsm agree to the bit")

# %% [markdown]
# Two details matter. The images stay in $[0, 1]$ and the network normalises inside: otherwise epsilon would be measured in
# the wrong unit. And the label is the *true* one: attacking the network's own prediction would leave mistakes untouched.
#
# > **Predict, then see.** Epsilon is printed above; pixels run from 0 to 1. Guess three accuracies: under *random* signs of
# > size epsilon, under FGSM, and under the iterated attack of the next section.
#
# ## 3 Many small steps: PGD
#
# The loss is not linear, so the best direction changes on the way. **Projected gradient descent**
# (Madry et al., [1706.06083](https://arxiv.org/abs/1706.06083)) takes small steps of size $\alpha$ and asks again after each.
# $\Pi$ puts the point back into the epsilon-box around $x$ and into $[0,1]$; the start is a random point of the box:
#
# $$x_0 = x + \mathcal U(-\varepsilon, \varepsilon), \qquad
# x_{t+1} = \Pi\bigl(x_t + \alpha \, \mathrm{sign} \nabla_x \ell(f(x_t), y)\bigr) \tag{2}$$


# %%
def my_pgd(model, x, y, epsilon, alpha, steps, start):
    x_t = (x + start).clamp(0, 1)
    for _ in range(steps):
        x_t = x_t.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_t), y, reduction="sum"), x_t)
        x_t = x_t.detach() + alpha * gradient.sign()  # eq. 2
        x_t = torch.minimum(torch.maximum(x_t, x - epsilon), x + epsilon).clamp(0, 1)
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
# Now the answers. Each row of the table is an attack on the same test images, with everything that is needed to run it again;
# `low` and `high` are a 95% Wilson interval.

# %%
table = evaluation.evaluate(
    model,
    test,
    ("clean", "noise", "fgsm", "pgd"),
    epsilon=config.epsilon,
    step_size=config.eval_step_size,
    steps=config.eval_steps,
    seed=seed,
)
table.drop(columns=["outcomes", "notes", "norm", "loss"]).round(3)

# %%
# For the picture: images that the network reads correctly, one of each class where there is one.
correct = clean.nonzero().flatten()
chosen = torch.stack([correct[(labels[correct] == k)][0] for k in labels[correct].unique()][:8])
x, y = images[chosen], labels[chosen]
noisy = attacks.random_point(x, config.epsilon, generator=torch.Generator().manual_seed(seed))
fast = attacks.fgsm(model, x, y, epsilon=config.epsilon)
strong = attacks.pgd(
    model,
    x,
    y,
    epsilon=config.epsilon,
    step_size=config.eval_step_size,
    steps=config.eval_steps,
    generator=torch.Generator().manual_seed(seed),
)


def read(batch):
    confidence, prediction = evaluation.logits_of(model, batch).softmax(1).max(1)
    return [f"{dataset.classes[k]} ({c:.0%})" for k, c in zip(prediction.tolist(), confidence.tolist(), strict=True)]


def is_wrong(batch):
    return evaluation.clean_outcomes(model, batch, y).logical_not().tolist()


rows = [x, noisy, fast, strong, strong - x]
figure = plotting.image_grid(
    [row.cpu().numpy() for row in rows],
    ["clean", "noise", "FGSM", "PGD", "PGD's change"],
    [read(x), read(noisy), read(fast), read(strong), []],
    wrong=[*(is_wrong(row) for row in rows[:4]), []],
    signed_rows=[4],
)
plotting.show(
    figure,
    "Rows of the same images: clean, with random noise, after FGSM, after PGD, and the change made by PGD; above each "
    "the class that the network reads and its confidence.",
)

# %% [markdown]
# **Reading the figure.** Above each image stands what the network reads in it, and how sure it is; orange is wrong. In the first row it is
# right by construction. In the noise row the change has the same size as below it, yet most readings stay; in the FGSM and PGD
# rows you can still read each digit, and the network cannot, often at high confidence. The last row shows the change that PGD made, red up and
# blue down: look for structure along the strokes. Had the noise row been as wrong as the PGD row, the network would simply be
# brittle, and the gradient would not be the point.
#
# ## 4 How accuracy falls with epsilon
#
# One epsilon is one point on a curve. The whole curve says more: it must fall, and it must reach zero when epsilon is
# large enough to turn any image into any other. A curve that does not is a sign that the *attack* is broken, which notebook 06
# makes into a test.

# %%
fractions = [0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0]
epsilons = [config.epsilon * fraction for fraction in fractions]
subset = test[:250]
x, y = subset.inputs(), subset.labels
outcomes = {
    "noise": [evaluation.noise_outcomes(model, x, y, epsilon=e, seed=seed) for e in epsilons],
    "FGSM": [attacks.fgsm(model, x, y, epsilon=e) for e in epsilons],
    f"PGD-{config.eval_steps}": [
        evaluation.pgd_outcomes(model, x, y, epsilon=e, step_size=max(e / 10, 1e-4), steps=config.eval_steps, seed=seed)
        for e in epsilons
    ],
}
outcomes["FGSM"] = [evaluation.clean_outcomes(model, adversarial, y) for adversarial in outcomes["FGSM"]]
accuracies = {name: [o.float().mean().item() for o in values] for name, values in outcomes.items()}
intervals = {name: [evaluation.wilson(int(o.sum()), len(o)) for o in values] for name, values in outcomes.items()}

figure, axis = plt.subplots(figsize=(7, 3.8))
plotting.curves(
    axis,
    epsilons,
    accuracies,
    bands={name: tuple(zip(*pairs, strict=True)) for name, pairs in intervals.items()},
    xlabel="epsilon (pixel intensity, 0 to 1)",
    ylabel=f"accuracy on {len(y)} test images",
    ylim=(-0.03, 1.03),
)
plotting.show(figure, "Accuracy against epsilon for noise, FGSM and PGD; PGD falls first and lowest.", svg=True)

# %% [markdown]
# **Reading the figure.** Bands are 95% intervals. Noise hurts late, the gradient early: between the two curves lies
# everything that the *direction* of a change contributes over its size. PGD lies at or below FGSM, since it may look again
# after every step. If PGD were above FGSM, its step size would be wrong.
#
# ## 5 The loss around an image
#
# Why does a step along the gradient do so much? We draw the loss on a plane through one image: one axis is the sign of
# the gradient, the other a random sign vector, both changing each pixel by up to the number on the axis.


# %%
def loss_plane(model, x, y, extent, points=25):
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x.requires_grad_()), y), x)
    generator = torch.Generator().manual_seed(seed)
    other = torch.randn(x.shape, generator=generator).sign().to(x.device)
    steps = torch.linspace(-extent, extent, points, device=x.device)
    b, a = torch.meshgrid(steps, steps, indexing="ij")
    plane = x.detach() + a.reshape(-1, 1, 1, 1) * gradient.sign() + b.reshape(-1, 1, 1, 1) * other
    losses = attacks.cross_entropy(evaluation.logits_of(model, plane.clamp(0, 1)), y.expand(points**2))
    return losses.view(points, points).cpu().numpy()


extent = 1.2 * config.epsilon
planes = [loss_plane(model, images[i : i + 1], labels[i : i + 1], extent) for i in chosen[:3].tolist()]
limit = max(plane.max() for plane in planes)
figure, axes = plt.subplots(1, 3, figsize=(11, 4.3), sharey=True)
for axis, plane, i in zip(axes, planes, chosen[:3].tolist(), strict=True):
    drawn = plotting.surface(
        plane, extent, epsilon=config.epsilon, title=f"a {dataset.classes[labels[i]]}", axis=axis, limit=limit
    )
for axis in axes[1:]:
    axis.set_ylabel("")
figure.colorbar(drawn, ax=axes, label="cross-entropy")
plotting.show(figure, "Heat maps of the loss on a plane through three images; it rises soonest along the gradient.")

# %% [markdown]
# **Reading the figure.** The cross is the image, the dashed square the set of allowed changes in this plane. Go right, along
# the gradient: the loss climbs to large values well inside the square. Go up or down, along random signs: the valley reaches farther.
# The dark valley around the image is what the network learned; the bright side is what nobody ever showed it.
#
# ## What can go wrong
#
# - **Normalised images.** If the attack sees normalised pixels, an epsilon of 0.3 is no longer 0.3 of the pixel range.
# - **No clipping.** Without the clip to $[0,1]$ the "image" is not an image, and the attack looks stronger than it is.
# - **Train mode.** With BatchNorm in train mode each image's prediction depends on the rest of the batch.
# - **Attacking predictions.** The gradient must be that of the loss at the true label.
# - **Too few steps.** A weak attack proves nothing about a model. Notebook 06 is about that.
#
# ## What we saw

# %%
by_attack = table.set_index("attack")["accuracy"]
confirmed = by_attack["clean"] > 0.9 and by_attack["pgd"] < 0.1
notebook.say(
    f"On {config.test_images} test images the network is right on **{by_attack['clean']:.1%}**. Uniform noise of size "
    f"epsilon = {config.epsilon:g} leaves {by_attack['noise']:.1%}, FGSM {by_attack['fgsm']:.1%}, and PGD with "
    f"{config.eval_steps} steps of {config.eval_step_size:g} and one restart (any iterate counts, seed {seed}) "
    f"**{by_attack['pgd']:.1%}**. The claim is **{'confirmed' if confirmed else 'not confirmed'}** by this run."
)
notebook.finish(
    "01", preset, config, {f"standard_{name}_accuracy": value for name, value in by_attack.to_dict().items()}
)

# %% [markdown]
# **Limits.** One data set, one network, one norm. "Readable to you" is your own judgement of the figure, not a measurement: at
# large epsilon even people begin to hesitate. The bound is a convention that can be computed, not a model of human sight.
#
# **References.** Szegedy et al., *Intriguing properties of neural networks*, arXiv 1312.6199 · Goodfellow et al., *Explaining and
# harnessing adversarial examples*, arXiv 1412.6572 · Madry et al., *Towards deep learning models resistant to adversarial
# attacks*, arXiv 1706.06083.
#
# **Next:** [02 · Adversarial training](02_adversarial_training.ipynb) uses the attack as a teacher.
