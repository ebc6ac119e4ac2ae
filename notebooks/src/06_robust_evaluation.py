# %% [markdown]
# # 06 · Robust evaluation
#
# **Claim: a robust accuracy is an upper bound found by an attack, and it is worth as much as the attack: a stronger attack
# only lowers it, and a network that merely hides its gradient looks robust until the attack goes around the hiding.** The
# last cell confirms or refutes this with the numbers of this very run.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/anchor-course/blob/main/notebooks/06_robust_evaluation.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/OWNER/anchor-course#the-notebooks)
#
# **You will learn** what a robust accuracy says and what it does not, how to put an interval on it, how to compare two
# networks on the same images, what AutoAttack does that PGD does not, and how to catch a defence that only hides its gradient.
#
# **You need** notebook 01 (FGSM, PGD) and the idea of adversarial training (notebook 02). Nothing else from the course.
#
# **Time** preset `cpu`: about three minutes on 2 cores, plus the training of networks that no earlier notebook has
# trained. `smoke`: seconds, networks that have learned nothing, for tests only. `t4` and `paper`: CIFAR-10 on a GPU, mostly AutoAttack.
#
# **Real CIFAR-10 without training**: with `models = "pretrained"` this notebook takes the small CIFAR-10 networks that come with the course, and their
# settings, instead of those of the preset. The images are downloaded; `overrides = {"dataset": "imagefolder:PATH"}` takes others.

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
models = "train"  # @param ["train", "pretrained"]

# %%
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display
from scipy.stats import binom, binomtest, norm
from torch import nn

from anchor_utils import attacks, evaluation, notebook, plotting, training
from anchor_utils.models import fold_batchnorm, pretrained

if models == "pretrained":  # networks of the CIFAR-10 study that come with the course, and their settings
    preset = "cifar10_cpu"
config, device = notebook.start(preset, overrides, seed, runs_dir, data_root, models)

# %% [markdown]
# ## 1 What the number means
#
# The robust accuracy of a network $f$ on $N$ test images is the share of images for which *no* allowed change leads to a wrong
# answer. An attack $a$ tries some changes, not all of them. So it finds a number that can only be too high:
#
# $$R = \frac1N \sum_i \min_{\|\delta\|_\infty \le \varepsilon} \mathbb 1\bigl[f(x_i + \delta) = y_i\bigr]
# \;\le\; \frac1N \sum_i \underbrace{\mathbb 1\bigl[f(a(x_i)) = y_i\bigr]}_{\text{one outcome bit an image}} = R_a \tag{1}$$
#
# (with $x_i + \delta$ in $[0,1]$). Two things follow at once. Of two attacks the one with the *lower* $R_a$ tells more about $R$. And attacks add up: an
# image is broken when any of them breaks it, so the bits of several attacks are joined by AND:
#
# $$R \;\le\; \frac1N \sum_i \prod_a \mathbb 1\bigl[f(a(x_i)) = y_i\bigr] \;\le\; \min_a R_a \tag{2}$$
#
# We compare six networks of the same size: standard training; PGD adversarial training, TRADES and MART (notebook 02);
# SupCon-AT and **ANCHOR** (notebook 05). ANCHOR here is a **reconstruction** from the abstract of
# [2510.27599](https://arxiv.org/abs/2510.27599), not the authors' code. Finished runs with the same configuration are reused.

# %%
METHODS = ["standard", "pgd_at", "trades", "mart", "supcon_at", "anchor"]
SEEDS = [config.seed + i for i in range(config.seeds)]
dataset = training.load_data(config)
if models == "pretrained":
    runs = {}
    unfolded = {(method, config.seed): pretrained(method) for method in METHODS}
else:
    runs = {
        (method, s): training.fit(config.replace(method=method, seed=s), dataset=dataset)
        for method in METHODS
        for s in SEEDS
    }
    unfolded = {key: run.model() for key, run in runs.items()}
# Folding BatchNorm into the convolutions before it gives the same function of the image, and a faster one.
folded = {key: fold_batchnorm(model).to(device) for key, model in unfolded.items()}
networks = {method: folded[method, config.seed] for method in METHODS}
test = dataset.test[: config.test_images].to(device)
images, labels = test.inputs(), test.labels
plain = unfolded["anchor", config.seed].to(device)
difference = (
    (evaluation.logits_of(plain, images[:50]) - evaluation.logits_of(networks["anchor"], images[:50])).abs().max()
)
assert difference < 1e-3
print(f"{len(folded)} networks; folding BatchNorm changes no logit by more than {difference:.0e}")

# %% [markdown]
# ## 2 An interval around every accuracy
#
# $N$ test images are a sample. If the network is right on a share $p$ of all images that could have been drawn, it is right on a
# number $k$ of ours that follows a binomial distribution. The textbook interval $\hat p \pm z \sqrt{\hat p (1 - \hat p)/N}$, with $\hat p = k/N$,
# has a hole exactly where we need it: for $k = 0$ or $k = N$ its width is zero, as if ten images could prove perfection.
# **Wilson's interval** asks instead which $p$ are compatible with $k$: it keeps all $p$ with
# $|\hat p - p| \le z \sqrt{p (1-p)/N}$. Solved for $p$:
#
# $$\frac{1}{1 + z^2/N} \left( \hat p + \frac{z^2}{2N} \pm z \sqrt{\frac{\hat p (1 - \hat p)}{N} + \frac{z^2}{4N^2}} \right),
# \qquad z = 1.96 \text{ for } 95\% \tag{3}$$
#
# > **Predict, then see.** A network survives an attack on 36 of 40 images. How far do you think the 95% interval reaches? And how many
# > images does it take to tell 85% from 86%?


# %%
Z = norm.ppf(0.975)


def my_wilson(k, n, z=Z):
    p = k / n
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)  # eq. 3


def textbook(k, n, z=Z):
    p = k / n
    return p - z * np.sqrt(p * (1 - p) / n), p + z * np.sqrt(p * (1 - p) / n)


assert np.allclose(my_wilson(36, 40), evaluation.wilson(36, 40))
for k, n in ((36, 40), (0, 40), (850, 1000), (8500, 10000)):
    low, high = my_wilson(k, n)
    print(f"{k:>5} of {n:>5}: {k / n:6.1%}, 95% interval {low:.1%} to {high:.1%}")

# %%
n = 40
share = np.linspace(0.5, 0.995, 120)
k = np.arange(n + 1)


def coverage(interval):
    low, high = interval(k, n)
    return [binom.pmf(k, n, p)[(low <= p) & (p <= high)].sum() for p in share]


sizes = np.array([10, 20, 40, 100, 200, 500, 1000, 2000, 5000, 10000])
figure, axes = plt.subplots(1, 2, figsize=(11, 3.6))
axis = axes[0]
for name, interval, color, spot in (
    ("Wilson", my_wilson, "#0072B2", (0.62, 0.975)),
    ("textbook", textbook, "#D55E00", (0.82, 0.70)),
):
    axis.plot(share, coverage(interval), color=color, linewidth=1.6)
    axis.annotate(name, spot, color=color)
axis.axhline(0.95, color="0.3", linestyle="--", linewidth=1)
axis.annotate(
    "what 95% promises",
    (0.52, 0.95),
    (0.52, 0.82),
    color="0.3",
    fontsize=9,
    arrowprops={"arrowstyle": "-", "color": "0.3"},
)
axis.set(ylim=(0.4, 1.01), xlabel="true accuracy", ylabel="interval holds the truth")
axis.set_title(f"{n} images: how often the interval is right")
axis.xaxis.set_major_formatter("{x:.0%}")
axis.yaxis.set_major_formatter("{x:.0%}")
axis = axes[1]
low, high = my_wilson(0.85 * sizes, sizes)
axis.fill_between(sizes, low, high, color="#0072B2", alpha=0.2, linewidth=0)
axis.plot(sizes, np.full(len(sizes), 0.85), color="#0072B2", marker="o", markersize=5)
for x in (40, 1000, 10000):
    i = int(np.flatnonzero(sizes == x)[0])
    axis.annotate(
        f"{x:,}: ±{(high[i] - low[i]) / 2:.1%}",
        (x, high[i] + 0.012),
        ha="right" if x == 10000 else "center",
        fontsize=9,
    )
axis.set(xscale="log", ylim=(0.45, 1.0), xlabel="test images", ylabel="accuracy")
axis.set_title("85% measured: what it may be")
axis.yaxis.set_major_formatter("{x:.0%}")
plotting.show(
    figure,
    "Left: Wilson's interval holds the truth in about 95% of samples at every accuracy, the textbook interval far less often "
    "near 100%. Right: the Wilson interval around 85% narrows with the number of images.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** Left: each point asks how often, over all samples of that size, the interval holds the true accuracy. The blue
# curve stays near the dashed line; the orange one falls away where accuracies are high, and that is where good
# networks live. The teeth come from counting whole images. If both curves lay on the line, the choice would not matter.
# Right: the width falls with the square root of the number of images, so ten times fewer images are three times less sure. Keep the number for
# 40 images in mind: AutoAttack on a small machine sees about that many.
#
# ## 3 One table for all networks
#
# Every attack starts from the same test images and the true labels, in float32, with the network in eval mode.
#
# - **FGSM**: one step of size epsilon. **PGD**: the steps and step size of the configuration, one random start unless it says more; an image counts as broken
#   if *any* iterate on the way is misclassified. The other convention looks at the *final* iterate only, and flatters the network a little (section 7).
# - **AutoAttack**, standard version ([2003.01690](https://arxiv.org/abs/2003.01690)): four attacks one after another, each on the
#   images that still stand. APGD on cross-entropy (100 steps, the step size adapts itself); APGD on a targeted loss, once for each of the 9 other
#   classes that lie nearest; FAB, which looks for the closest point across a decision border; Square, which uses no gradient at all (5,000 queries). Nothing is to be tuned, so nobody can tune it badly.
# - **The screen**: the first two of these four only. Cheaper, good for sorting candidates. It is *not* AutoAttack and is never called so here.
#
# A robust image costs AutoAttack thousands of passes through the network. On a CPU we therefore run it in full on two networks and few images, and the screen
# on all six; on a GPU in full on all six.
#
# > **Predict, then see.** Order the six networks by PGD accuracy before you run the cell. Will the order be the same under
# > AutoAttack? Which network loses most between FGSM and PGD?

# %%
FULL = METHODS if device.type == "cuda" else ["standard", "anchor"]
n_full = min(config.autoattack_images, len(test))
n_screen = max(n_full, min(config.screen_images, len(test)))
settings = {
    "epsilon": config.epsilon,
    "step_size": config.eval_step_size,
    "steps": config.eval_steps,
    "restarts": config.eval_restarts,
    "iterate": "any",
    "precision": config.eval_precision,
    "seed": config.seed,
}


def bits(row):
    return evaluation.unpack_outcomes(row["outcomes"], int(row["images"]))


def screen_row(model, full):
    """The screen on the first n_screen images. AutoAttack, if it ran, has screened the first of them on its way."""
    blocks = [] if full is None else [full[full["attack"] == "autoattack/apgd-t"].assign(attack="screen")]
    rest = test[0 if full is None else n_full : n_screen]
    if len(rest):
        blocks.append(evaluation.evaluate(model, rest, ("screen",), **settings).tail(1))
    return evaluation.join_images(blocks)


tables = []
for (method, s), model in folded.items():
    parts = [evaluation.evaluate(model, test, ("clean", "fgsm", "pgd"), **settings)]
    if s == config.seed:  # the costly attacks on the networks of the first seed
        full = None
        if method in FULL:
            full = evaluation.evaluate(model, test[:n_full], ("autoattack",), **settings)
            parts.append(full)
        parts.append(screen_row(model, full))
    part = pd.concat(parts, ignore_index=True).rename(columns={"seed": "attack_seed"})
    tables.append(part.assign(method=method, seed=s))
table = pd.concat(tables, ignore_index=True)

path = Path(config.runs_dir) / "results" / preset / "06_table.json"
evaluation.save_results(path, table, config=config.model_dump(), preset=preset)

# %%
first = table[table["seed"] == config.seed].set_index(["method", "attack"])
pgd_name = f"PGD-{config.eval_steps}"
ATTACKS = {"clean": "clean", "fgsm": "FGSM", "pgd": pgd_name, "screen": "screen", "autoattack": "AutoAttack"}
counts = {"clean": len(test), "fgsm": len(test), "pgd": len(test), "screen": n_screen, "autoattack": n_full}


def cell(method, attack):
    if (method, attack) not in first.index:
        return "not run"
    row = first.loc[(method, attack)]
    return f"{row['accuracy']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"


shown = pd.DataFrame(
    {f"{name}, {counts[a]} images": [cell(method, a) for method in METHODS] for a, name in ATTACKS.items()},
    index=[plotting.method_name(method) for method in METHODS],
)
display(shown)
notebook.say(
    f"Accuracy and 95% Wilson interval. L-infinity, epsilon = {config.epsilon:g}, attack seed {config.seed}, training seed "
    f"{config.seed}. FGSM: one step of {config.epsilon:g}. {pgd_name}: {config.eval_steps} steps of {config.eval_step_size:g}, "
    f"{config.eval_restarts} random start{'s' if config.eval_restarts > 1 else ''}, any iterate counts. Screen: APGD-CE and APGD-T of AutoAttack, 100 steps each, 1 restart. "
    f"AutoAttack: standard version. ANCHOR is our reconstruction. Columns with different numbers of images are about different images: compare along a "
    f"row only where the intervals allow it; section 5 compares attacks on the same images."
)

# %%
if len(SEEDS) > 1:
    display(evaluation.over_seeds(table[table["attack"].isin(["clean", "fgsm", "pgd"])]).round(4))
else:
    notebook.say(
        "One training seed a method. The intervals cover the choice of test images, *not* the luck of training: a second seed may "
        "move a network by as much as methods differ. Set `overrides = {'seeds': 3}` to see mean and standard deviation over seeds here."
    )

# %%
series = {}
for attack, name in ATTACKS.items():
    rows = [first.loc[(m, attack)] if (m, attack) in first.index else None for m in METHODS]
    series[f"{name} ({counts[attack]})"] = tuple(
        np.array([np.nan if row is None else row[column] for row in rows]) for column in ("accuracy", "low", "high")
    )
figure = plotting.accuracy_bars(METHODS, series, ylabel=f"accuracy at epsilon = {config.epsilon:g}")
plotting.show(
    figure,
    "For each of six methods the clean, FGSM, PGD, screen and AutoAttack accuracy with 95% intervals; in brackets the number of images.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** Each point is an accuracy, each bar its 95% interval; the number of images stands in brackets. Within a method read
# from left to right: from weak attacks to strong ones. Then read across methods: which networks keep their height, and which fall to the floor? Between the robust
# methods look at the bars first. Where they overlap widely, this figure cannot order the methods, whatever the points suggest. Bars are long where few images stand behind them.
# A point for AutoAttack clearly *above* PGD's on the same images would mean that something is wrong with the attack; section 5 checks that.
#
# ### Best or last checkpoint
#
# Robust accuracy can fall while training goes on ([2002.11569](https://arxiv.org/abs/2002.11569)). All numbers above belong to the checkpoint that was best on held-out
# *training* images. Choosing it on test images would make every number above a little too good.

# %%
n_last = min(200, len(test))
rows = []
for method in METHODS if runs else []:
    run = runs[method, config.seed]
    epochs = {which: run.model(which).metadata["epoch"] for which in ("best", "last")}
    best = evaluation.unpack_outcomes(first.loc[(method, "pgd")]["outcomes"], len(test))[:n_last]
    last = best
    if epochs["last"] != epochs["best"]:
        row = evaluation.evaluate(
            fold_batchnorm(run.model("last")).to(device), test[:n_last], ("pgd",), **settings
        ).iloc[0]
        last = bits(row)
    entry = {"method": plotting.method_name(method), "best epoch": epochs["best"], "last epoch": epochs["last"]}
    for name, outcome in (("best", best), ("last", last)):
        low, high = evaluation.wilson(int(outcome.sum()), len(outcome))
        entry[f"{pgd_name}, {name}"] = f"{outcome.mean():.1%} [{low:.1%}, {high:.1%}]"
    rows.append(entry)
if rows:
    display(pd.DataFrame(rows).set_index("method"))
notebook.say(
    f"{pgd_name} as in the table above, on the first {n_last} test images, seed {config.seed}. Where the two epochs are the same, so are the networks. "
    "The standard network's checkpoint is chosen by its clean accuracy."
    if runs
    else "Of the networks that come with the course only the best checkpoints are kept: nothing to compare here."
)

# %% [markdown]
# ## 4 Two networks on the same images: compare in pairs
#
# Overlapping intervals do not mean that two networks are equally good. Both were tested on the *same* images, and most images are easy for both or hard for
# both. These say nothing about the difference. Only the images where the outcome bits **differ** do: let $b$ be the number that only the
# first network survives and $c$ the number that only the second survives.
#
# $$R_1 - R_2 = \frac{b - c}{N}, \qquad
# \text{paired: } \mathrm{se} = \frac1N \sqrt{b + c - \frac{(b-c)^2}{N}}, \qquad
# \text{as if independent: } \mathrm{se} = \sqrt{\frac{R_1 (1 - R_1) + R_2 (1 - R_2)}{N}} \tag{4}$$
#
# **McNemar's exact test** asks: if the networks were equally good, each of the $b + c$ images would be a fair coin. How unlikely is a split at least as uneven as $b$ against $c$?
#
# $$p = \Pr\bigl(|B - \tfrac{b+c}{2}| \ge |b - \tfrac{b+c}{2}|\bigr), \qquad B \sim \mathrm{Binomial}(b + c, \tfrac12) \tag{5}$$


# %%
def mcnemar(a, other):
    b, c = int((a & ~other).sum()), int((~a & other).sum())
    return b, c, binomtest(b, b + c, 0.5).pvalue if b + c else 1.0  # eq. 5


def difference_with_errors(a, other, z=Z):
    n, (b, c, _) = len(a), mcnemar(a, other)
    paired = np.sqrt(b + c - (b - c) ** 2 / n) / n  # eq. 4
    independent = np.sqrt((a.mean() * (1 - a.mean()) + other.mean() * (1 - other.mean())) / n)
    return (b - c) / n, z * paired, z * independent


outcome = {method: bits(first.loc[(method, "pgd")]) for method in METHODS}
clean_outcome = {method: bits(first.loc[(method, "clean")]) for method in METHODS}
others = [method for method in METHODS if method != "anchor"]
rows = []
for method in others:
    for name, bit in (("clean", clean_outcome), (pgd_name, outcome)):
        b, c, p = mcnemar(bit["anchor"], bit[method])
        rows.append(
            {
                "ANCHOR against": plotting.method_name(method),
                "images": name,
                "only ANCHOR right (b)": b,
                "only the other right (c)": c,
                "difference": f"{(b - c) / len(test):+.1%}",
                "McNemar p": f"{p:.2g}",
            }
        )
display(pd.DataFrame(rows).set_index(["ANCHOR against", "images"]))

# %%
trained = [method for method in others if method != "standard"]
figure, axis = plt.subplots(figsize=(8, 0.62 * len(trained) + 1.3))
for y, method in enumerate(reversed(trained)):
    value, paired, independent = difference_with_errors(outcome["anchor"], outcome[method])
    axis.errorbar(value, y + 0.14, xerr=independent, fmt="none", ecolor="0.6", elinewidth=2, capsize=3)
    axis.errorbar(value, y - 0.14, xerr=paired, fmt="o", color=plotting.method_color(method), elinewidth=2, capsize=3)
    if y == len(trained) - 1:
        axis.annotate(
            "as if independent",
            (value + independent, y + 0.14),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color="0.4",
        )
        axis.annotate(
            "paired",
            (value + paired, y - 0.14),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=plotting.method_color(method),
        )
axis.axvline(0, color="0.2", linewidth=1)
axis.set_yticks(range(len(trained)), [f"against {plotting.method_name(m)}" for m in reversed(trained)])
axis.set_ylim(-0.6, len(trained) - 0.4)
axis.xaxis.set_major_formatter(lambda x, _: f"{100 * x:+g}")
axis.set_xlabel(f"ANCHOR minus the other: {pgd_name} accuracy, percentage points")
plotting.show(
    figure,
    "Difference in PGD accuracy between ANCHOR and each other robust method, with a paired and a wider unpaired 95% interval.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** Right of the line ANCHOR survives more images, left of it the other network does. The grey interval forgets that the
# images are the same; the coloured one uses it and is narrower wherever the two networks agree on most images. A coloured interval that crosses the
# line means: these images cannot tell the two networks apart. If the networks failed on unrelated images, both intervals would be equally wide.
#
# Two cautions. The test is about *these two networks*, not about the two methods: for methods one needs several training seeds. And
# five comparisons at the 5% level find "something" by luck in more than one of five tables, so multiply each p by the number of comparisons before you believe it.
#
# ## 5 The attack ladder, image by image
#
# The bits allow a closer look than any average. Each column of the next figure is one test image, each row an attack. The last four rows are the stages of
# AutoAttack, each of which only sees the images that the stages above it left standing.

# %%
STAGES = ["fgsm", "pgd", *(f"autoattack/{stage}" for stage in evaluation.STAGES["autoattack"])]
stage_names = ["FGSM", pgd_name, "APGD-CE", "APGD-T", "FAB-T", "Square"]
n_drawn = min(n_full, 200)
ladders = {
    m: np.stack([bits(first.loc[(m, stage)])[:n_full] for stage in STAGES])
    for m in ("standard", "pgd_at", "anchor")
    if m in FULL
}
drawn = [m for m in ladders if m != "standard"]
figure, axes = plt.subplots(len(drawn), 1, figsize=(10, 0.6 + 2.1 * len(drawn)), sharex=True, squeeze=False)
for axis, method in zip(axes[:, 0], drawn, strict=True):
    plotting.survival_matrix(axis, ladders[method][:, :n_drawn], stage_names, title=plotting.method_name(method))
axes[-1, 0].set_xlabel(f"the first {n_drawn} test images, those that fall early at the left")
plotting.show(
    figure,
    "A matrix of attacks by images: blue cells survive, orange cells are broken; at the right the accuracy after each attack.",
)

# %%
for method, ladder in ladders.items():
    fgsm, by_pgd, final = ladder[0], ladder[1], ladder[-1]
    print(
        f"{plotting.method_name(method):>9}: of {n_full} images {final.sum()} survive AutoAttack; it breaks {(by_pgd & ~final).sum()} that "
        f"{pgd_name} left, {pgd_name} breaks {(final & ~by_pgd).sum()} that AutoAttack left and {(fgsm & ~by_pgd).sum()} that FGSM left; "
        f"all attacks together (eq. 2) leave {ladder.all(0).sum()}"
    )

# %% [markdown]
# **Reading the figure.** Blue survives, orange is broken; the share that is left stands at the right. For each method the images are sorted by themselves, so columns of different
# methods are different images. Look for columns that are blue at FGSM and turn orange further down: on them the weak attack
# was wrong about the network. For a network without tricks most of the way down happens at the first gradient attacks; FAB and Square add little.
# An image that falls only at Square, after every gradient attack has failed, would point to hidden gradients. The printed lines count these cases, for the standard network too:
# what AutoAttack breaks beyond PGD is the part of the PGD number that was not robustness.
#
# ## 6 Accuracy against epsilon
#
# A ball contains every smaller ball. So an image that is broken at one epsilon stays broken at each larger one, and only the images that still stand need to be attacked again.
# The curves fall by construction, and cost less. (The checks in section 8 attack every image at every epsilon, because there a *rise* is the evidence.)
#
# > **Predict, then see.** The robust networks were trained at one epsilon. What happens at twice that? And which accuracy must *every* classifier
# > have at epsilon = 0.5 or more, where any image can be turned into the same plain grey?


# %%
def nested(model, x, y, epsilons):
    standing = evaluation.clean_outcomes(model, x, y)
    history = [standing]
    for e in epsilons[1:]:
        index, standing = standing.nonzero().flatten(), standing.clone()
        if len(index):
            standing[index] = evaluation.pgd_outcomes(
                model,
                x[index],
                y[index],
                epsilon=e,
                step_size=config.eval_step_size * e / config.epsilon,
                steps=config.eval_steps,
                seed=config.seed,
            )
        history.append(standing)
    return torch.stack(history).cpu().numpy()


epsilons = [
    factor * config.epsilon for factor in (0, 0.5, 1, 1.1, 1.25, 1.5, 2, 4, 8) if factor * config.epsilon <= 0.62
]
x, y = images[:100], labels[:100]
curves = {method: nested(networks[method], x, y, epsilons) for method in METHODS}
low, high = {}, {}
for method, outcomes in curves.items():
    low[method], high[method] = zip(*(evaluation.wilson(int(o.sum()), len(o)) for o in outcomes), strict=True)

figure, axis = plt.subplots(figsize=(8, 4.4))
axis.axvline(config.epsilon, color="0.5", linewidth=1, linestyle="--")
plotting.curves(
    axis,
    epsilons,
    {method: outcomes.mean(1) for method, outcomes in curves.items()},
    bands={method: (low[method], high[method]) for method in METHODS},
    xlabel="epsilon (pixel intensity, 0 to 1)",
    ylabel=f"accuracy under {pgd_name}, {len(y)} images",
)
axis.annotate("trained here", (config.epsilon, 1.0), (4, 4), textcoords="offset points", fontsize=9, color="0.4")
axis.set_ylim(-0.02, 1.05)
plotting.show(
    figure,
    "Accuracy under PGD against epsilon with 95% bands: the standard network falls at once, the robust ones hold up to the epsilon they were trained with.",
    svg=True,
)
notebook.say(
    f"{pgd_name}: {config.eval_steps} steps of {config.eval_step_size / config.epsilon:.2g} times epsilon, one random start, any iterate counts, seed {config.seed}, "
    f"the first {len(y)} test images; an image broken at a smaller epsilon counts as broken."
)

# %% [markdown]
# **Reading the figure.** At the left edge stands the clean accuracy. The standard network drops first. The robust networks hold up to about the dashed line and
# then fall, often steeply: they have learned to withstand *that* size of change, not change as such. Look for curves that *cross* just beyond it: a ranking at one epsilon need not hold at the next. Where the bands overlap, the order of the curves means little. If one
# curve stayed high at the largest epsilon, where any image can be turned into almost any other, the attack would be broken, not the network good.
#
# ## 7 How many steps are enough?
#
# An attack that has not finished is a weak attack. We write PGD with a memory: one run of 50 steps, and after each step the outcome bits, so that one run
# answers for all smaller numbers of steps. From the same bits come both conventions: the *final* iterate, or *any* iterate so far.


# %%
def pgd_with_memory(model, x, y, epsilon, alpha, steps, seed):
    standing = []
    x_t = attacks.random_point(x, epsilon, generator=torch.Generator().manual_seed(seed))
    for _ in range(steps + 1):
        x_t = x_t.detach().requires_grad_()
        logits = model(x_t)
        standing.append(logits.argmax(1).eq(y))
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x_t)
        x_t = x + (x_t.detach() + alpha * gradient.sign() - x).clamp(-epsilon, epsilon)
        x_t = x_t.clamp(0, 1)
    return torch.stack(standing)  # (steps + 1, N): row t after t steps


model = networks["anchor"]
right = evaluation.clean_outcomes(model, images[:100], labels[:100])
x, y = images[:100][right], labels[:100][right]
memory = pgd_with_memory(model, x, y, config.epsilon, config.eval_step_size, 50, config.seed)
common = {"epsilon": config.epsilon, "seed": config.seed}
final = memory.clone()
some = memory.cummin(0).values  # standing so far: at no iterate misclassified

package = evaluation.pgd_outcomes(
    model, x, y, **common, step_size=config.eval_step_size, steps=config.eval_steps, iterate="final"
)
agree = (package == final[config.eval_steps]).float().mean().item()
assert agree >= 0.95  # rounding may carry an image on the border to either side
print(f"our loop and evaluation.pgd_outcomes agree on {agree:.0%} of the outcome bits after {config.eval_steps} steps")

# %%
steps = [1, 2, 5, 10, 20, 50]
scaled = [
    evaluation.pgd_outcomes(model, x, y, **common, step_size=2.5 * config.epsilon / t, steps=t) for t in steps[:-1]
]
share = 1 / len(right)  # images that are wrong from the start count as broken
figure, axis = plt.subplots(figsize=(8, 3.9))
plotting.curves(
    axis,
    steps,
    {
        "step fixed, final iterate": np.array([final[t].sum().item() * share for t in steps]),
        "step fixed, any iterate": np.array([some[t].sum().item() * share for t in steps]),
    },
    xlabel="PGD steps (logarithmic)",
    ylabel=f"accuracy, ANCHOR, {len(right)} images",
)
axis.plot(
    steps[:-1], [o.sum().item() * share for o in scaled], color="#D55E00", marker="^", markersize=5, linewidth=1.8
)
axis.annotate(
    "step 2.5 epsilon / steps",
    (steps[0], scaled[0].sum().item() * share),
    (16, 8),
    textcoords="offset points",
    color="#D55E00",
    fontsize=10,
    va="bottom",
)
axis.set_xscale("log")
axis.set_xticks(steps, [str(t) for t in steps])
axis.minorticks_off()
plotting.show(
    figure,
    "Accuracy of the ANCHOR network against the number of PGD steps: it falls and flattens; counting any iterate lies at or below counting the final one.",
    svg=True,
)
notebook.say(
    f"PGD at epsilon = {config.epsilon:g} on the first {len(right)} test images, one random start, seed {config.seed}. Step fixed: {config.eval_step_size:g}."
)

# %% [markdown]
# **Reading the figure.** With a fixed step, few steps cannot even walk from the image to the edge of the box: the left end is high because
# the attack is short, not because the network is strong. With the step scaled to the number of steps, one step is already a serious attack. What matters is
# the right end: the curves must be *flat* there. If they still fell between 20 and 50 steps, every number in the table above would be too high (one image in a hundred is one point: look for a trend, not a step). "Any iterate" lies at or below
# "final" by construction; the gap is what the second convention gives away.
#
# ## 8 Robust, or only hard to attack?
#
# Here are two defences that anyone can build in one line. Both stand in front of the *standard* network and train nothing.
#
# - **Rounding**: the input is rounded to a few grey levels. Rounding is flat, so its derivative is zero nearly everywhere.
# - **Loud logits**: the logits are multiplied by a large number. No prediction changes. But the softmax saturates, and in float32 the gradient of the
#   cross-entropy becomes exactly zero.
#
# Athalye et al. ([1802.00420](https://arxiv.org/abs/1802.00420)) called this *obfuscated gradients*, and broke most published defences that relied on it.
#
# > **Predict, then see.** What will PGD, unchanged, report for each of them? What would you change in the attack?


# %%
class Rounding(nn.Module):
    """Rounds pixels to k + 1 levels. With straight_through the backward pass pretends that it did not."""

    def __init__(self, model, k=15, straight_through=False):
        super().__init__()
        self.model, self.k, self.straight_through = model, k, straight_through

    def forward(self, x):
        rounded = x.mul(self.k).round().div(self.k)
        return self.model(x + (rounded - x).detach() if self.straight_through else rounded)


class LoudLogits(nn.Module):
    def __init__(self, model, factor=1e4):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x):
        return self.factor * self.model(x)


standard = networks["standard"]
defences = {
    "no defence": standard,
    "rounding": Rounding(standard),
    "loud logits": LoudLogits(standard),
    "ANCHOR": networks["anchor"],
}
# The adapted attack: through the rounding as if it were not there; on the margin, which no softmax can saturate.
adapted = {
    "no defence": (standard, "margin"),
    "rounding": (Rounding(standard, straight_through=True), "ce"),
    "loud logits": (defences["loud logits"], "margin"),
    "ANCHOR": (networks["anchor"], "margin"),
}
x, y = images[:100], labels[:100]
pgd_settings = {name: settings[name] for name in ("epsilon", "step_size", "steps", "restarts", "iterate", "seed")}
found, messages = {"random noise": [], f"{pgd_name} as it is": [], f"{pgd_name} adapted": []}, {}
for name, model in defences.items():
    found["random noise"].append(evaluation.noise_outcomes(model, x, y, epsilon=config.epsilon, seed=config.seed))
    with warnings.catch_warnings(record=True) as caught:  # the package notices; here we want to read what it says
        warnings.simplefilter("always", attacks.VanishedGradientWarning)
        found[f"{pgd_name} as it is"].append(evaluation.pgd_outcomes(model, x, y, **pgd_settings))
    messages[name] = [str(w.message) for w in caught]
    target, loss = adapted[name]
    found[f"{pgd_name} adapted"].append(evaluation.pgd_outcomes(target, x, y, **pgd_settings, loss=loss))
for name, texts in messages.items():
    print(f"{name}: {texts[0] if texts else 'no warning'}")

# %%
series = {}
for name, outcomes in found.items():
    ends = np.array([evaluation.wilson(int(o.sum()), len(o)) for o in outcomes])
    series[name] = (np.array([o.float().mean().item() for o in outcomes]), ends[:, 0], ends[:, 1])
figure = plotting.accuracy_bars(list(defences), series, ylabel=f"accuracy on {len(y)} images")
plotting.show(
    figure,
    "Accuracy under noise, PGD and adapted PGD for the standard network without and with two broken defences, and for ANCHOR: only the broken defences differ between PGD and adapted PGD.",
    svg=True,
)
notebook.say(
    f"Epsilon = {config.epsilon:g}, {config.eval_steps} steps of {config.eval_step_size:g}, {config.eval_restarts} random start, any iterate, "
    f"the first {len(y)} test images, seed {config.seed}, 95% Wilson intervals. Adapted: straight-through gradient for rounding, margin loss for the others."
)

# %% [markdown]
# **Reading the figure.** For each model compare the middle point with the right one. For the two broken defences PGD as it is does no more than noise: with a gradient of exactly zero it
# never leaves its random start. The adapted attack uses the very same network and epsilon, and the "robustness" is gone. Without a defence, and for ANCHOR, both
# attacks should agree within the bars: there was nothing to go around. Had the adapted attack failed as well, rounding would be a defence.
#
# ### Checks that need no idea of the defence
#
# Here we knew where the trick was. For somebody else's network one does not. But hidden gradients leave traces
# ([1902.06705](https://arxiv.org/abs/1902.06705)): more steps that do not help, a huge epsilon that does not win, noise, transferred or gradient-free attacks that do better than the gradient, a loss that does
# not rise along its own gradient, another loss that attacks better. `gradient_masking_checks` runs them all. As the surrogate for transfer, ANCHOR gets the PGD-AT network, and each
# broken defence the network without its trick.

# %%
checked = {
    "ANCHOR": (networks["anchor"], networks["pgd_at"], 60),
    "rounding": (defences["rounding"], standard, 40),
    "loud logits": (defences["loud logits"], standard, 40),
}
checks = {
    name: evaluation.gradient_masking_checks(
        model,
        images[:count],
        labels[:count],
        epsilon=config.epsilon,
        step_size=config.eval_step_size,
        steps=config.eval_steps,
        surrogate=surrogate,
        square_queries=200,
        seed=config.seed,
    )
    for name, (model, surrogate, count) in checked.items()
}
verdicts = pd.DataFrame({name: check.set_index("check")["passed"] for name, check in checks.items()})
with pd.option_context("display.max_colwidth", None):
    display(verdicts.replace({True: "passed", False: "FAILED"}).rename_axis(None))

# %%
with pd.option_context("display.max_colwidth", None):
    evidence = pd.concat(
        {name: check.set_index("check")["evidence"] for name, check in checks.items()}, names=["model", "check"]
    )
    display(evidence.to_frame())
notebook.say(
    f"PGD: {config.eval_steps} steps of {config.eval_step_size:g} unless a row says otherwise, one random start, any iterate, epsilon = {config.epsilon:g}, seed {config.seed}; "
    f"the first {min(60, len(test))} test images for ANCHOR, {min(40, len(test))} for the others. Differences of up to 3 points pass as noise."
)

# %% [markdown]
# **Reading the tables.** Read the row of a failed check as "the white-box number of this model is not to be believed". It does not say what the true
# number is. Not every check sees every trick: count how many fail for each model, and note *which*. Transfer and Square catch what has no gradient at all;
# the margin loss catches a saturated softmax. Passing all of them is no proof of robustness either: it only says that these known ways to fool PGD are not what we see. With few images one image is a point or two, so
# a check that fails by a hair deserves more images before it deserves a headline.
#
# ## What can go wrong
#
# - **Attacking predictions.** With the predicted label as target of the loss, an image that is wrong from the start can be *pushed back* to right. The true label belongs in the loss.
# - **BatchNorm in train mode.** Outcomes then depend on which images share a batch, and evaluating changes the network. Attack and evaluate in eval mode.
# - **Half precision.** Small gradients round to zero in float16, and the attack stops without a word. Evaluate in float32.
# - **Too few steps, or steps too small.** Steps times step size must be well above epsilon, and the curve of section 7 must be flat.
# - **Masked gradients.** A high PGD number next to a failed check is not a result.
# - **Choosing on the test set.** Epoch, beta or attack strength chosen on test images make the test images training images.
# - **Tiny samples.** 40 images leave an interval of about twenty points. "AutoAttack accuracy 90%" without its number of images is a rumour.
# - **One seed.** Intervals over images do not cover the luck of training.
#
# ## What we saw

# %%
ladder_holds = {method: bool(ladder[-1].sum() <= ladder[1].sum()) for method, ladder in ladders.items()}
as_is = dict(zip(defences, series[f"{pgd_name} as it is"][0], strict=True))
around = dict(zip(defences, series[f"{pgd_name} adapted"][0], strict=True))
failed = {name: int((check["passed"] == False).sum()) for name, check in checks.items()}  # noqa: E712
broken = ("rounding", "loud logits")
caught_all = all(failed[name] > 0 and as_is[name] - around[name] > 0.2 for name in broken)
confirmed = all(ladder_holds.values()) and caught_all
robust = {method: first.loc[(method, "pgd")]["accuracy"] for method in METHODS}
best_method = max(robust, key=robust.get)
rivals = [method for method in METHODS if method not in ("standard", best_method)]
b, c, p = mcnemar(outcome[best_method], outcome[max(rivals, key=robust.get)])
lines = [
    f"- Highest {pgd_name} accuracy: **{plotting.method_name(best_method)}**, {robust[best_method]:.1%} of {len(test)} images (epsilon {config.epsilon:g}, {config.eval_steps} "
    f"steps of {config.eval_step_size:g}, {config.eval_restarts} restart{'s' if config.eval_restarts > 1 else ''}, any iterate, seed {config.seed}). The next, {plotting.method_name(max(rivals, key=robust.get))}, has "
    f"{robust[max(rivals, key=robust.get)]:.1%}; McNemar's p for the two is {p:.2g}, "
    f"{'below' if p < 0.05 else 'not below'} 0.05 before any correction. The standard network has {robust['standard']:.1%}.",
    f"- ANCHOR, our reconstruction: {cell('anchor', 'clean')} clean, {cell('anchor', 'pgd')} under {pgd_name}, {cell('anchor', 'autoattack')} under AutoAttack (standard version, {n_full} images). "
    f"PGD-AT: {cell('pgd_at', 'clean')} clean, {cell('pgd_at', 'pgd')} under {pgd_name}. The screen on {n_screen} images leaves ANCHOR "
    f"{cell('anchor', 'screen')} and PGD-AT {cell('pgd_at', 'screen')}.",
    f"- AutoAttack left at most as many images as {pgd_name} for {sum(ladder_holds.values())} of {len(ladder_holds)} networks, on the same {n_full} images.",
    f"- Rounding: {as_is['rounding']:.0%} under {pgd_name} as it is, {around['rounding']:.0%} under the adapted attack, {failed['rounding']} checks failed. "
    f"Loud logits: {as_is['loud logits']:.0%}, {around['loud logits']:.0%}, {failed['loud logits']} checks failed. ANCHOR: {as_is['ANCHOR']:.0%}, {around['ANCHOR']:.0%}, {failed['ANCHOR']} checks failed ({len(y)} images).",
    f"\nThe claim is **{'confirmed' if confirmed else 'not confirmed'}** by this run.",
]
notebook.say("\n".join(lines))

metrics = {
    f"{method}_{attack}_accuracy": float(first.loc[(method, attack)]["accuracy"])
    for method in METHODS
    for attack in ATTACKS
    if (method, attack) in first.index
}
for name in broken:
    key = name.replace(" ", "_")
    metrics |= {f"{key}_pgd_accuracy": float(as_is[name]), f"{key}_adapted_accuracy": float(around[name])}
metrics |= {f"{name.lower().replace(' ', '_')}_failed_checks": count for name, count in failed.items()}
notebook.finish("06", preset, config, metrics)

# %% [markdown]
# **Limits.** One norm, one epsilon for most of the numbers, and few images for the strong attacks where the machine is small. Every number is an upper bound: a later, better attack may lower it. A *lower*
# bound needs certification, which this course does not cover. The two broken defences are toys; real ones hide their gradients by accident, and less completely. Networks of one training seed do not rank methods.
#
# **References.** Athalye et al., *Obfuscated gradients give a false sense of security*, arXiv 1802.00420 · Carlini et al., *On evaluating adversarial
# robustness*, arXiv 1902.06705 · Croce & Hein, *Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks*, arXiv 2003.01690 ·
# Croce & Hein, *Minimally distorted adversarial examples with a fast adaptive boundary attack*, arXiv 1907.02044 · Andriushchenko et al., *Square attack*, arXiv 1912.00049 ·
# Rice et al., *Overfitting in adversarially robust deep learning*, arXiv 2002.11569 · Bhattacharya et al., *ANCHOR*, arXiv 2510.27599 ·
# Wilson, *Probable inference, the law of succession, and statistical inference*, 1927 · McNemar, *Note on the sampling error of the difference between correlated proportions*, 1947.
#
# **Next:** [07 · Embedding visualisation](07_embedding_visualisation.ipynb) looks inside: what an attack does to the features.
