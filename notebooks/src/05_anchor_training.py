# %% [markdown]
# # 05 · ANCHOR training
#
# **Claim: adversarial cross-entropy and a hardness-weighted contrastive loss can be trained together, in one forward pass over two
# views, into a robust network. Whether the hardness weights add robustness over plain SupCon-AT and PGD-AT is a question to
# measure, and the last cell prints what this run measured.**
#
# This is a **reconstruction**. Of the paper (Bhattacharya, Bhattacharya, Chakraborty,
# [2510.27599](https://arxiv.org/abs/2510.27599)) we follow title, abstract and summary; the equations and the values of all
# hyper-parameters are ours.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/anchor-course/blob/main/notebooks/05_anchor_training.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/OWNER/anchor-course#the-notebooks)
#
# **You will learn** how an augmented and an adversarial view share one forward pass, what every tensor of a training step looks like,
# how much each loss term pulls on the encoder, and how a classifier is fine-tuned on a frozen backbone.
#
# **You need** notebooks 02 (adversarial training), 03 (SupCon) and 04 (hardness weights).
#
# **Time** preset `cpu`: about three minutes on 2 cores, most of it training. `smoke`: seconds, for tests only. `t4`: aimed at half
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
runs_dir = "../runs"  # @param {type:"string"}
data_root = "../data"  # @param {type:"string"}

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from anchor_utils import attacks, data, evaluation, losses, notebook, plotting, training

config, device = notebook.start(preset, overrides, seed, runs_dir, data_root)
dataset = training.load_data(config)
test = dataset.test[: config.test_images].to(device)

# %% [markdown]
# ## 1 The objective
#
# Each image $x$ of a batch is seen twice: once augmented, once augmented *and attacked*. With unit embeddings $z$, cosines
# $c_{ip} = z_i^\top z_p$, positives $P(i)$ (all others with the label of $i$, in either view) and $A(i)$ (all others):
#
# $$w_{ip} = \operatorname{stop\_grad}\; \frac{e^{-\beta c_{ip}}}{\sum_{q \in P(i)} e^{-\beta c_{iq}}} \tag{1}$$
#
# $$L_i = - \sum_{p \in P(i)} w_{ip} \log \frac{e^{c_{ip} / \tau}}{\sum_{a \in A(i)} e^{c_{ia} / \tau}}, \qquad
# L_{\text{HP}} = \operatorname{mean}_{i:\, P(i) \ne \emptyset} L_i \tag{2}$$
#
# $$L = \mathrm{CE}\bigl(\text{classifier}(\text{encoder}(x_{\text{adv}})), y\bigr)
# + \lambda \, L_{\text{HP}}\bigl(\text{projection}(\text{encoder}([x_{\text{aug}}; x_{\text{adv}}]))\bigr) \tag{3}$$
#
# $$x_{\text{adv}} = \text{PGD on the cross-entropy of the true label, from a second augmentation, uniform random start} \tag{4}$$
#
# An adversarial view is a positive that the network would like to push away from its class: a *hard* positive by construction.
# Eq. 1 gives it weight.
#
# ## 2 One step, tensor by tensor
#
# We take a small batch, sorted by class so that the blocks show, and the ordinary network of notebook 01 as the
# encoder: its adversarial views are far from their classes, so there is something to see.

# %%
model = training.fit(config.replace(method="standard"), dataset=dataset).model().to(device)

# Four images of each of the first four classes that there are.
chosen = torch.cat([(dataset.train.labels == k).nonzero().flatten()[:4] for k in range(4)])
batch = dataset.train[chosen].to(device)
y = batch.labels
generator = torch.Generator().manual_seed(seed)


def augmented():
    return data.augment(batch.images, padding=config.crop_padding, flip=config.flip, generator=generator).float() / 255


x_aug = augmented()
x_adv = attacks.pgd(  # eq. 4
    model,
    augmented(),
    y,
    epsilon=config.epsilon,
    step_size=config.step_size,
    steps=config.attack_steps,
    generator=generator,
)
both, labels = torch.cat([x_aug, x_adv]), torch.cat([y, y])
features = model.encode(both)
logits = model.classifier(features)
z = F.normalize(features, dim=1)  # the features themselves stand in for the projection, which is still untrained here
cosine = z @ z.T
weights = losses.hardness_weights(z, labels, config.beta)  # eq. 1
for name, tensor in (
    ("x_aug, x_adv", x_aug),
    ("features", features),
    ("logits", logits),
    ("z", z),
    ("cosine", cosine),
    ("weights", weights),
):
    print(f"{name:13s}{tuple(tensor.shape)!s:18s} from {tensor.min().item():6.2f} to {tensor.max().item():6.2f}")

# %%
figure, axes = plt.subplot_mosaic(
    [["aug", "cos", "w"], ["adv", "cos", "w"]], figsize=(12.5, 4.6), width_ratios=[1, 2, 2]
)


def mosaic(images):
    grid = images.detach().cpu().numpy()
    return np.concatenate([np.concatenate(list(grid[4 * r : 4 * r + 4]), axis=2) for r in range(4)], axis=1)


plotting.draw_image(axes["aug"], mosaic(x_aug), "x_aug")
plotting.draw_image(axes["adv"], mosaic(x_adv), f"x_adv, epsilon {config.epsilon:g} (eq. 4)")
n = len(y)
for axis, values, title, cmap, limits in (
    (axes["cos"], cosine, "cosines c of all pairs", "RdBu_r", (-1, 1)),
    (axes["w"], weights, f"weights w, beta = {config.beta:g} (eq. 1)", "magma", (0, None)),
):
    shown = axis.imshow(values.detach().cpu().numpy(), cmap=cmap, vmin=limits[0], vmax=limits[1])
    figure.colorbar(shown, ax=axis, shrink=0.75)
    axis.axhline(n - 0.5, color="0.3", lw=1)
    axis.axvline(n - 0.5, color="0.3", lw=1)
    axis.set_xticks([n / 2, 1.5 * n], ["augmented", "adversarial"])
    axis.set_yticks([n / 2, 1.5 * n], ["augmented", "adversarial"], rotation=90, va="center")
    axis.grid(False)
    axis.set_title(title)
plotting.show(
    figure,
    "One training step: the augmented and adversarial views, the matrix of cosines and the matrix of hardness weights.",
)

# %% [markdown]
# **Reading the figure.** Rows and columns of the matrices are the 16 augmented and then the 16 adversarial images, four to a class. Upper
# left, among augmented images, the red 4 x 4 blocks on the diagonal are the classes: the network has learned them. In the
# adversarial quarters the blocks are gone or displaced. The weights exist only inside the class blocks, and there they are
# brightest where the cosine is lowest: for an augmented anchor these are mostly the adversarial views. With beta = 0 all
# cells of a block would have one colour, which is SupCon.
#
# The loss from these tensors, written out, is the package's loss:

# %%
itself = torch.eye(2 * n, dtype=torch.bool, device=device)
log_probabilities = (cosine / config.temperature).masked_fill(itself, -1e9).log_softmax(1)
contrastive = -(weights.detach() * log_probabilities.masked_fill(itself, 0)).sum(1).mean()  # eq. 2
cross_entropy = F.cross_entropy(logits[n:], y)  # the classifier sees the adversarial view
total = cross_entropy + config.contrastive_weight * contrastive  # eq. 3
package = losses.anchor_loss(
    logits[n:],
    y,
    z,
    labels,
    contrastive_weight=config.contrastive_weight,
    temperature=config.temperature,
    beta=config.beta,
)
assert torch.allclose(total, package.total, rtol=1e-4), (total, package.total)
print(
    f"cross-entropy {cross_entropy:.3f} + {config.contrastive_weight:g} x contrastive {contrastive:.3f} = {total:.3f}"
)


def pull(term):
    gradients = torch.autograd.grad(term, list(model.stages.parameters()), retain_graph=True)
    return torch.cat([g.flatten() for g in gradients])


pull_ce, pull_hp = pull(cross_entropy), config.contrastive_weight * pull(contrastive)
share = (pull_hp.norm() / (pull_hp.norm() + pull_ce.norm())).item()
angle = F.cosine_similarity(pull_ce, pull_hp, dim=0).item()
print(
    f"share of the contrastive term in the pull on the encoder: {share:.0%}; cosine between the two pulls: {angle:.2f}"
)

# %% [markdown]
# > **Predict, then see.** Does the contrastive term, trained along, raise or lower the accuracy under attack, compared with the same network
# > trained on adversarial cross-entropy alone? By more or by less than the width of a 95% interval?
#
# ## 3 The full run
#
# Three methods under equal conditions: PGD-AT (cross-entropy only), SupCon-AT (eq. 3 with beta = 0) and ANCHOR.

# %%
methods = ["pgd_at", "supcon_at", "anchor"]
runs = {method: training.fit(config.replace(method=method), dataset=dataset) for method in methods}

# %%
figure, axes = plt.subplots(1, 3, figsize=(13.5, 3.7))
curve = runs["anchor"].metrics()
epochs = curve["epoch"].tolist()
plotting.curves(
    axes[0],
    epochs,
    {"cross-entropy": curve["cross_entropy"].to_numpy(), "contrastive": curve["contrastive"].to_numpy()},
    xlabel="epoch",
    ylabel="loss",
    percent=False,
)
axes[0].set_title("ANCHOR's two terms, training")
for axis, column, title in (
    (axes[1], "clean_accuracy", "held-out, clean"),
    (axes[2], "robust_accuracy", "held-out, under PGD"),
):
    lines = {method: run.metrics()[column].to_numpy() for method, run in runs.items()}
    plotting.curves(axis, epochs, lines, xlabel="epoch", ylabel="accuracy", ylim=(-0.03, 1.03))
    axis.set_title(title)
plotting.show(
    figure, "Loss terms of ANCHOR and held-out accuracies of three methods over the epochs of training.", svg=True
)

# %% [markdown]
# **Reading the figure.** Left: both terms should fall together; a contrastive term that stands still while cross-entropy falls would mean that
# lambda is too small to matter. Its floor is not zero: an anchor with several positives cannot give each of them all the
# probability. Middle and right: the methods on held-out training images. Epsilon rises during the first part of training, so
# early epochs are attacked more strongly in the evaluation than in training, and the robust curves start low.
#
# ## 4 Fine-tuning on the frozen encoder
#
# In eq. 3 the classifier is trained along. The paper also fine-tunes on a frozen backbone, which asks a sharper question: are the
# *features* robust, whatever classifier came with them? The projection head is dropped, the encoder is frozen in eval
# mode, BatchNorm statistics included, and a new linear classifier is trained on adversarial examples. $\tag{5}$

# %%
tuned_run = training.finetune(runs["anchor"], dataset=dataset)
tuned, joint = tuned_run.model().to(device), runs["anchor"].model().to(device)
encoder = {name: value for name, value in joint.state_dict().items() if name.startswith(("stem", "stages"))}
assert all(torch.equal(value, tuned.state_dict()[name]) for name, value in encoder.items())
print(f"{len(encoder)} tensors of the encoder, BatchNorm statistics included, are bit-identical after fine-tuning")

# %%
candidates = {method: run.model().to(device) for method, run in runs.items()} | {"anchor, fine-tuned": tuned}
tables = []
for method, candidate in candidates.items():
    result = evaluation.evaluate(
        candidate,
        test,
        ("clean", "pgd"),
        epsilon=config.epsilon,
        step_size=config.eval_step_size,
        steps=config.eval_steps,
        restarts=config.eval_restarts,
        seed=seed,
    )
    tables.append(result.assign(method=method))
table = pd.concat(tables, ignore_index=True)
shown = [
    "method",
    "attack",
    "accuracy",
    "low",
    "high",
    "images",
    "epsilon",
    "step_size",
    "steps",
    "restarts",
    "iterate",
    "seed",
]
table[shown].round(3)

# %%
groups = list(candidates)
series = {}
for attack, name in (("clean", "clean"), ("pgd", f"PGD-{config.eval_steps}")):
    rows = table[table["attack"] == attack].set_index("method").loc[groups]
    series[name] = tuple(rows[column].to_numpy() for column in ("accuracy", "low", "high"))
plotting.show(
    plotting.accuracy_bars(groups, series, ylabel=f"accuracy on {len(test)} test images"),
    "Clean and PGD accuracy with 95% intervals for PGD-AT, SupCon-AT, ANCHOR and ANCHOR fine-tuned.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** Bars are 95% intervals for the choice of test images. Compare the lower points: where the bars of two methods
# overlap widely, one run does not show a difference. Fine-tuned against joint tells whether the robustness lies in the
# features: if the fine-tuned point fell far below, the joint classifier would have carried it.
#
# The methods saw the *same* test images, so a paired test is sharper than comparing intervals: only the images on which
# the two disagree count (McNemar's exact test).

# %%
from scipy.stats import binomtest

bits = {
    row["method"]: evaluation.unpack_outcomes(row["outcomes"], row["images"])
    for _, row in table[table["attack"] == "pgd"].iterrows()
}
comparisons = []
for other in ("pgd_at", "supcon_at"):
    only_anchor = int((bits["anchor"] & ~bits[other]).sum())
    only_other = int((bits[other] & ~bits["anchor"]).sum())
    p_value = binomtest(only_anchor, max(1, only_anchor + only_other)).pvalue if only_anchor + only_other else 1.0
    comparisons.append((other, only_anchor, only_other, p_value))
pd.DataFrame(comparisons, columns=["against", "robust under ANCHOR only", "robust under the other only", "p"]).round(3)

# %% [markdown]
# ## What can go wrong
#
# - **Two forward passes.** If the views pass one after the other in train mode, BatchNorm normalises each with its own statistics, and the
#   network can tell the views apart by their offset. One pass over both is simpler and cheaper.
# - **Weights with gradient.** Without `stop_grad` in eq. 1 the loss can be lowered by making easy positives far (notebook 04).
# - **A frozen encoder in train mode.** Freezing the weights is not enough: BatchNorm would still update its statistics.
# - **Counting the classifier's gain as the features'.** Fine-tune on the frozen encoder, as above, to tell them apart.
# - **Unequal budgets.** Two views cost more per epoch than one. Compare at equal epochs *and* report the time.
#
# ## What we saw

# %%
by = table.set_index(["method", "attack"])


def told(method):
    row = by.loc[(method, "pgd")]
    return (
        f"**{plotting.method_name(method)}** {by.loc[(method, 'clean'), 'accuracy']:.1%} clean and {row['accuracy']:.1%} "
        f"({row['low']:.1%} to {row['high']:.1%}) under PGD"
    )


def verdict(other, only_anchor, only_other, p_value):
    name = plotting.method_name(other)
    if p_value >= 0.05:
        return f"against {name} no difference was measured (p = {p_value:.2f})"
    return f"ANCHOR is {'better' if only_anchor > only_other else 'worse'} than {name} (p = {p_value:.2g})"


seconds = {method: run.metrics()["seconds"].sum() for method, run in runs.items()}
notebook.say(
    f"On {len(test)} test images, PGD with epsilon {config.epsilon:g}, {config.eval_steps} steps of {config.eval_step_size:g}, "
    f"{config.eval_restarts} restart(s), any iterate counting, one training seed ({seed}): "
    + "; ".join(told(method) for method in groups)
    + ". Paired over images, "
    + " and ".join(verdict(*comparison) for comparison in comparisons)
    + ". Training took "
    + ", ".join(f"{plotting.method_name(method)} {value:.0f} s" for method, value in seconds.items())
    + ". One training seed: these tests say nothing about the luck of training."
)
metrics = {
    f"{method}_{attack}_accuracy": float(by.loc[(method, attack), "accuracy"])
    for method in groups
    for attack in ("clean", "pgd")
}
notebook.finish("05", preset, config, {**metrics, "contrastive_pull_share": share})

# %% [markdown]
# **Limits.** A reconstruction from an abstract, on small images with a small network and one seed. The hyper-parameters beta, lambda and tau were
# not searched for with equal effort for each method here.
#
# **References.** Bhattacharya, Bhattacharya, Chakraborty, arXiv 2510.27599 · Khosla et al., *Supervised contrastive learning*, arXiv 2004.11362 ·
# Madry et al., arXiv 1706.06083 · Robinson et al., *Contrastive learning with hard negative samples*, arXiv 2010.04592.
#
# **Next:** [06 · Robust evaluation](06_robust_evaluation.ipynb) attacks these networks with everything we have.
