# %% [markdown]
# # 02 · Adversarial training
#
# **Claim: a network that is trained on its own adversarial examples keeps most of its accuracy under the attack of notebook 01,
# and TRADES and MART do the same with other losses; but trained long on few images, its robustness does not carry over to
# new ones.** The last cell confirms or refutes this with the numbers of this very run.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/anchor-course/blob/main/notebooks/02_adversarial_training.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/OWNER/anchor-course#the-notebooks)
#
# **You will learn** the min-max problem behind adversarial training, PGD-AT, TRADES and MART in a few lines each, how to read
# clean against robust accuracy, and what robust overfitting is and why the checkpoint is chosen on held-out images.
#
# **You need** notebook 01: FGSM, PGD, epsilon.
#
# **Time** preset `cpu`: about four minutes on 2 cores, most of it training. `smoke`: seconds, for tests only. `t4` and
# `paper`: CIFAR-10 on a GPU; training dominates.

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
import pandas as pd
import torch
import torch.nn.functional as F

from anchor_utils import attacks, evaluation, losses, models, notebook, plotting, training

config, device = notebook.start(preset, overrides, seed, runs_dir, data_root)
dataset = training.load_data(config)
test = dataset.test[: config.test_images].to(device)

# %% [markdown]
# ## 1 The attack as a teacher
#
# Ordinary training minimises the loss on the images that it is given. Robust training minimises the loss on the *worst* image
# within reach of each of them (Madry et al., [1706.06083](https://arxiv.org/abs/1706.06083)):
#
# $$\min_\theta \; \mathbb E_{(x, y)} \Bigl[ \max_{\|x' - x\|_\infty \le \varepsilon} \ell\bigl(f_\theta(x'), y\bigr) \Bigr] \tag{1}$$
#
# The inner maximum is an attack. PGD approximates it, so one step of **PGD-AT** is: attack the batch, then take an ordinary
# training step on the result.


# %%
def my_pgd_at_step(model, optimizer, x, y):
    x_adv = attacks.pgd(  # the inner maximum of eq. 1, on the network as it is now
        model, x, y, epsilon=config.epsilon, step_size=config.step_size, steps=config.attack_steps
    )
    loss = F.cross_entropy(model(x_adv), y)  # the outer minimum: an ordinary step, on other images
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


images = dataset.train[: config.batch_size].to(device)
x, y = images.inputs(), images.labels
torch.manual_seed(seed)
model = models.AnchorNet(len(dataset.classes), config.width, x.shape[1], 0, dataset.mean, dataset.std).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
first_losses = [my_pgd_at_step(model, optimizer, x, y) for _ in range(5)]
print("adversarial loss over five steps on one batch:", ", ".join(f"{loss:.2f}" for loss in first_losses))

# %% [markdown]
# The attack runs in eval mode, so that it meets the network that will be deployed and not one whose BatchNorm statistics are
# those of the batch at hand. `attacks.pgd` puts the training mode back by itself.
#
# ## 2 TRADES: a price for disagreement
#
# PGD-AT never shows the network a clean image. **TRADES** (Zhang et al., [1901.08573](https://arxiv.org/abs/1901.08573), eq. 5)
# does, and charges $\beta$ for every change of the *prediction* between an image and its worst neighbour:
#
# $$\ell_{\text{TRADES}} = \mathrm{CE}\bigl(f(x), y\bigr) + \beta \, \mathrm{KL}\bigl(p(x) \,\|\, p(x')\bigr) \tag{2}$$
#
# where $x'$ maximises the KL term. $\beta$ sets the exchange rate between clean and robust accuracy.
#
# ## 3 MART: weigh by what is misread
#
# **MART** (Wang et al., ICLR 2020, eq. 11) trains on the adversarial image with a boosted cross-entropy, which also pushes
# down the strongest wrong class, and weighs the KL term by how unsure the network is of the *clean* image:
#
# $$\ell_{\text{MART}} = -\log p_y(x') - \log\bigl(1 - \max_{k \ne y} p_k(x')\bigr)
# + \beta \, \mathrm{KL}\bigl(p(x) \,\|\, p(x')\bigr) \bigl(1 - p_y(x)\bigr) \tag{3}$$


# %%
def kl(p, q):
    return (p * (p.log() - q.log())).sum(1)


def my_trades(clean_logits, adversarial_logits, y, beta):
    p, p_adv = clean_logits.softmax(1), adversarial_logits.softmax(1)
    return F.cross_entropy(clean_logits, y) + beta * kl(p, p_adv).mean()  # eq. 2


def my_mart(clean_logits, adversarial_logits, y, beta):
    p, p_adv = clean_logits.softmax(1), adversarial_logits.softmax(1)
    true = F.one_hot(y, p.shape[1]).bool()
    boosted = -p_adv[true].log() - (1 - p_adv.masked_fill(true, 0).amax(1)).log()
    return (boosted + beta * kl(p, p_adv) * (1 - p[true])).mean()  # eq. 3


a, b = torch.randn(2, 32, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
t = torch.arange(32) % 10
assert torch.allclose(my_trades(a, b, t, 6.0), losses.trades_loss(a, b, t, 6.0))
assert torch.allclose(my_mart(a, b, t, 5.0), losses.mart_loss(a, b, t, 5.0))
print("eq. 2 and eq. 3 as written above agree with anchor_utils.losses")

# %% [markdown]
# > **Predict, then see.** Below, four networks are trained alike: ordinary, PGD-AT, TRADES, MART. Rank them by clean accuracy. Then
# > rank them by accuracy under PGD. Is it the same order?
#
# ## 4 Four networks
#
# Same images, architecture, epochs, optimiser and attack. Epsilon rises linearly over the first part of training: at full
# strength from the first step, a small network can get stuck at guessing. The best checkpoint is the epoch with the
# highest PGD accuracy on **held-out training images**. The test images play no part in any choice.

# %%
methods = ["standard", "pgd_at", "trades", "mart"]
runs = {method: training.fit(config.replace(method=method), dataset=dataset) for method in methods}
tables = []
for method, run in runs.items():
    table = evaluation.evaluate(
        run.model().to(device),
        test,
        ("clean", "pgd"),
        epsilon=config.epsilon,
        step_size=config.eval_step_size,
        steps=config.eval_steps,
        restarts=config.eval_restarts,
        seed=seed,
    )
    tables.append(table.assign(method=method))
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
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), sharey=True)
for axis, column, title in (
    (axes[0], "clean_accuracy", "clean"),
    (axes[1], "robust_accuracy", f"under PGD-{config.validation_steps}, epsilon {config.epsilon:g}"),
):
    epochs = runs["standard"].metrics()["epoch"].tolist()
    lines = {method: run.metrics()[column].to_numpy() for method, run in runs.items()}
    plotting.curves(
        axis, epochs, lines, xlabel="epoch", ylabel="accuracy" if axis is axes[0] else "", ylim=(-0.03, 1.03)
    )
    axis.set_title(title)
figure.suptitle(f"{config.validation_images} held-out training images", fontsize=11)
plotting.show(figure, "Clean and robust held-out accuracy of four methods over the epochs of training.", svg=True)

# %% [markdown]
# **Reading the figure.** On the left, how soon each network reads clean images; on the right, the same images under attack. The
# ordinary network is first on the left and stays at the bottom on the right: no amount of clean training helps. The other three
# climb on the right while epsilon is rising to its full value. If a robust curve rose *before* its clean curve, the attack in
# the evaluation would be broken: no image can be misread clean and read correctly at its worst.

# %%
series = {}
for attack, name in (("clean", "clean"), ("pgd", f"PGD-{config.eval_steps}")):
    rows = table[table["attack"] == attack].set_index("method").loc[methods]
    series[name] = tuple(rows[column].to_numpy() for column in ("accuracy", "low", "high"))
plotting.show(
    plotting.accuracy_bars(methods, series, ylabel=f"accuracy on {len(test)} test images"),
    "Clean and PGD accuracy of four methods with 95% intervals; only the ordinary network falls to the bottom.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** Two points a method, bars are 95% intervals over test images. The distance between the two points is
# what the attack costs. Where the bars of two methods overlap, this run does not tell them apart. A robust network whose clean
# point also stands highest would contradict the usual trade-off; on easy data the price can indeed be too small to see.
#
# ## 5 Robust overfitting
#
# On clean images a network can train to zero error and still do well on new ones. Robust accuracy is less forgiving: what the
# network learns about its training images under attack carries over badly. On CIFAR-10 the robust accuracy on held-out images
# even *falls* after a peak (Rice et al., [2002.11569](https://arxiv.org/abs/2002.11569)); on digits look for the gap. To see it
# within a minute we take few training images without augmentation, many epochs and a constant learning rate.

# %%
held_out = max(40, config.validation_images // 2)
few = config.replace(
    method="pgd_at",
    validation_images=held_out,
    train_images=held_out + 4 * config.batch_size,
    crop_padding=0,
    epochs=6 * config.epochs,
    schedule="constant",
    validation_steps=5,
)
few_run = training.fit(few)
curve = few_run.metrics()
figure, axis = plt.subplots(figsize=(7.5, 3.8))
plotting.curves(
    axis,
    curve["epoch"].tolist(),
    {
        "training images": curve["training_accuracy"].to_numpy(),
        "held-out images": curve["robust_accuracy"].to_numpy(),
    },
    xlabel="epoch",
    ylabel="accuracy under attack",
)
best_epoch = int(curve["robust_accuracy"].idxmax())
axis.axvline(curve["epoch"][best_epoch], color="0.5", ls=":")
axis.annotate(
    "best checkpoint", (curve["epoch"][best_epoch], axis.get_ylim()[0]), (-4, 6), ha="right", textcoords="offset points"
)
axis.set_title(f"PGD-AT on {4 * config.batch_size} images")
plotting.show(
    figure, "Accuracy under attack on training and on held-out images over many epochs; a gap opens.", svg=True
)

# %% [markdown]
# **Reading the figure.** The upper curve is what the network is trained for, the lower one what we want. The gap between them is
# robustness that was learned by heart. The dotted line marks the checkpoint that held-out images chose. Without overfitting
# both curves would rise together and the last epoch would be the best. The run keeps both checkpoints, and the table below shows
# what each is worth on test images.

# %%
rows = []
for which in ("best", "last"):
    result = evaluation.evaluate(
        few_run.model(which).to(device),
        test[:300],
        ("clean", "pgd"),
        epsilon=config.epsilon,
        step_size=config.eval_step_size,
        steps=config.eval_steps,
        restarts=config.eval_restarts,
        seed=seed,
    )
    rows.append(result.assign(method=f"pgd_at, few images, {which}"))
overfit = pd.concat(rows, ignore_index=True)
overfit[shown].round(3)

# %% [markdown]
# ## What can go wrong
#
# - **Choosing the checkpoint on test images.** It turns the test accuracy into a training result; with robust overfitting the gain
#   is large. Hold out training images instead.
# - **Reporting only the last epoch, or only the best.** Report both, as above.
# - **Attacking in train mode.** The attack then depends on the batch, and each attack step moves the running statistics.
# - **A weak training attack with a large step.** One-step training can learn to defeat the *attack* while PGD still breaks it
#   (catastrophic overfitting).
# - **Comparing across budgets.** Epochs, images and attack steps must be equal before methods are compared.
#
# ## What we saw

# %%
accuracy = table.pivot(index="method", columns="attack", values="accuracy")
interval = table.set_index(["method", "attack"])
sentences = [
    f"**{plotting.method_name(method)}** {accuracy.loc[method, 'clean']:.1%} clean, {accuracy.loc[method, 'pgd']:.1%} under PGD "
    f"({interval.loc[(method, 'pgd'), 'low']:.1%} to {interval.loc[(method, 'pgd'), 'high']:.1%})"
    for method in methods
]
gap = curve["training_accuracy"].iloc[-1] - curve["robust_accuracy"].iloc[-1]
robust = all(accuracy.loc[method, "pgd"] > 0.5 * accuracy.loc[method, "clean"] for method in methods[1:])
notebook.say(
    f"On {len(test)} test images, PGD with epsilon {config.epsilon:g}, {config.eval_steps} steps of {config.eval_step_size:g}, "
    f"{config.eval_restarts} restart(s), any iterate counting, one training seed ({seed}): "
    + "; ".join(sentences)
    + f". Trained long on few images, PGD-AT ends {gap:.1%} better under attack on its training images than on held-out ones. "
    f"The claim is **{'confirmed' if robust and gap > 0.02 else 'not confirmed'}** by this run."
)
metrics = {
    f"{method}_{attack}_accuracy": float(accuracy.loc[method, attack])
    for method in methods
    for attack in ("clean", "pgd")
}
notebook.finish("02", preset, config, {**metrics, "overfitting_gap": float(gap)})

# %% [markdown]
# **Limits.** One seed and one small network; the intervals cover the choice of test images, not the luck of training. PGD is one attack:
# notebook 06 brings stronger ones. TRADES' inner attack starts here at a random point of the whole box, in the paper at a
# tiny Gaussian step.
#
# **References.** Madry et al., arXiv 1706.06083 · Zhang et al., *Theoretically principled trade-off between robustness and accuracy*,
# arXiv 1901.08573 · Wang et al., *Improving adversarial robustness requires revisiting misclassified examples*, ICLR 2020 ·
# Rice et al., *Overfitting in adversarially robust deep learning*, arXiv 2002.11569.
#
# **Next:** [03 · Supervised contrastive learning](03_supervised_contrastive_learning.ipynb) leaves attacks aside and asks what the
# features should look like.
