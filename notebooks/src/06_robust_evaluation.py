# %% [markdown]
# # 06 · Robust evaluation
#
# **Claim: a robust accuracy is an upper bound found by an attack and worth as much as the attack: a stronger attack
# only lowers it, and a network that merely hides its gradient looks robust until an attack goes around the hiding.**
# The last cells confirm or refute this with this run's numbers.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/anchor-course/blob/main/notebooks/06_robust_evaluation.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/OWNER/anchor-course#the-notebooks)
#
# **You will learn** what a robust accuracy says and what it does not, how to put an interval on it, how to compare two
# networks on the same images, what AutoAttack does that PGD does not, and how to catch a defence that only hides its
# gradient.
#
# **You need** notebook 01 (FGSM, PGD) and the idea of adversarial training (notebook 02).
#
# **Time** the first cell measures how fast this machine is and says how long the notebook takes here; networks that no earlier
# notebook has trained come on top. `smoke`: seconds, networks that have learned nothing, for tests only. `t4` and `paper`:
# CIFAR-10 on a GPU, mostly AutoAttack.
#
# **Real CIFAR-10 without training**: with `models = "pretrained"` this notebook takes the small CIFAR-10 networks that
# come with the course, and their settings, instead of those of the preset, and in section 5 also attacks one of full
# width, which takes a CPU some minutes more. The images are downloaded;
# `overrides = {"dataset": "imagefolder:PATH"}` takes others.

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
models = "train"  # @param ["train", "pretrained"]

# %%
import copy
import json
import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display
from scipy.stats import binom, binomtest, norm
from torch import nn

from anchor_utils import attacks, autoattack, evaluation, masking, plotting, results, training
from anchor_utils.models import PRETRAINED_DIR, fold_batchnorm, pretrained
from course import lesson
from course.figures import lesson_06 as figures

if models == "pretrained":  # networks of the CIFAR-10 study that come with the course, and their settings
    preset = "cifar10_cpu"
config, dataset, device = lesson.start("06", preset, overrides, seed, runs_dir, data_root, models)

# %% [markdown]
# ## 1 What the number means
#
# The robust accuracy $R$ of a network $f$ on $N$ test images $x_i$ with labels $y_i$ is the share of images for which
# *no* change $\delta$ of size up to $\varepsilon$ leads to a wrong answer. An attack $a$ tries some changes, not all,
# and returns one, $a(x_i)$. So what it finds may be too high, but never too low:
#
# $$R = \frac1N \sum_i \min_{\|\delta\|_\infty \le \varepsilon} \mathbb 1\bigl[f(x_i + \delta) = y_i\bigr]
# \;\le\; \frac1N \sum_i \underbrace{\mathbb 1\bigl[f(a(x_i)) = y_i\bigr]}_{\text{one outcome bit an image}} = R_a \tag{1}$$
#
# where $\mathbb 1[\cdot]$ is 1 if the statement holds and 0 if not, and $x_i + \delta$ stays in $[0,1]$. Hence of two
# attacks the one with the *lower* $R_a$ tells more about $R$. And attacks add up: an image is broken when any of them
# breaks it, so the bits of several attacks are multiplied (AND):
#
# $$R \;\le\; \frac1N \sum_i \prod_a \mathbb 1\bigl[f(a(x_i)) = y_i\bigr] \;\le\; \min_a R_a \tag{2}$$
#
# This notebook therefore keeps the **bits** of every attack, not only averages: bits can be joined, paired and looked
# at.
#
# We compare six networks of the same size: standard training; PGD adversarial training, TRADES and MART (notebook 02);
# SupCon-AT and **ANCHOR** (notebook 05). ANCHOR here is a **reconstruction** from the abstract of
# [2510.27599](https://arxiv.org/abs/2510.27599), not the authors' code. Finished runs with the same configuration are
# reused.

# %%
METHODS = ["standard", "pgd_at", "trades", "mart", "supcon_at", "anchor"]
SEEDS = [config.seed + i for i in range(config.seeds)]
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
# Folding BatchNorm into the convolutions before it gives the same function of the image, and a faster one to attack.
# (`evaluate` does that by itself; the loops that are written out below ask these copies.)
folded = {key: fold_batchnorm(model).to(device) for key, model in unfolded.items()}
networks = {method: folded[method, config.seed] for method in METHODS}
test = dataset.test[: config.test_images].to(device)
images, labels = test.inputs(), test.labels
print(f"{len(folded)} networks")

# %% [markdown]
# "The same function" is a claim, and we will attack the copies and speak of the networks. So we check it. A product or
# sum in floating point is off by a share of up to $u$, the *unit roundoff*. A logit goes through $L$ layers, and in each
# of them through sums of up to $n$ products. To first order two ways to compute it then differ, measured by the largest
# logit, by no more than $2 L n u$. In float64 that is next to nothing, so a wrong folding cannot hide behind it. What the
# arithmetic makes of it that this notebook computes in is shown beside it. (NVIDIA GPUs from Ampere on may compute
# float32 in TF32, which rounds the factors of every product by up to $u = 2^{-11}$: there it is not small.)


# %%
def difference_by_folding(network, x):
    """The largest change of a logit by folding, in units of the largest logit."""
    whole, copied = evaluation.logits_of(network, x), evaluation.logits_of(fold_batchnorm(network), x)
    return ((whole - copied).abs().max() / whole.abs().max()).item()


plain = unfolded["anchor", config.seed].to(device)
sizes = [w.shape[1:].numel() for w in plain.state_dict().values() if w.ndim == 4]  # products in a sum, a convolution
bound = 2 * (len(sizes) + 1) * max(sizes) * torch.finfo(torch.float64).eps / 2
in_float64 = difference_by_folding(copy.deepcopy(plain).double(), images[:50].double())
assert in_float64 <= bound, f"{in_float64:.0e} is more than rounding explains: {bound:.0e}"
in_float32 = difference_by_folding(plain, images[:50])
print(f"folding changes the logits, as a share of the largest one, by {in_float64:.0e} in float64 (bound {bound:.0e})")
print(f"and by {in_float32:.0e} in the arithmetic of this notebook on the {device}, float32")

# %% [markdown]
# ## 2 An interval around every accuracy
#
# $N$ test images are a sample. A network that is right on a share $p$ of all images that could have been drawn is right
# on a binomial number $k$ of ours. The textbook interval $\hat p \pm z \sqrt{\hat p (1 - \hat p)/N}$, with
# $\hat p = k/N$, has a hole where we need it: for $k = 0$ or $k = N$ its width is zero, as if ten images could prove
# perfection. **Wilson's interval** asks which $p$ are compatible with $k$: all with
# $|\hat p - p| \le z \sqrt{p (1-p)/N}$. Solved for $p$:
#
# $$\frac{1}{1 + z^2/N} \left( \hat p + \frac{z^2}{2N} \pm z \sqrt{\frac{\hat p (1 - \hat p)}{N} + \frac{z^2}{4N^2}} \right),
# \qquad z = 1.96 \text{ for } 95\% \tag{3}$$
#
# > **Predict, then see.** A network survives an attack on 36 of 40 images. From where to where does the 95% interval
# > reach?


# %%
Z = norm.ppf(0.975)


def my_wilson(k, n, z=Z):
    p = k / n
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)  # eq. 3


def textbook(k, n, z=Z):
    p = k / n
    return p - z * np.sqrt(p * (1 - p) / n), p + z * np.sqrt(p * (1 - p) / n)


assert np.allclose(my_wilson(36, 40), results.wilson(36, 40))
for k, n in ((36, 40), (0, 40), (850, 1000), (8500, 10000)):
    low, high = my_wilson(k, n)
    print(f"{k:>5} of {n:>5}: {k / n:6.1%}, 95% interval {low:.1%} to {high:.1%}")
low, high = my_wilson(36, 40)
lesson.say(
    f"**The answer:** from {low:.0%} to {high:.0%}. The interval is not symmetric, and {100 * (high - low):.0f} points wide."
)

# %%
n = 40
share = np.linspace(0.5, 0.995, 120)
k = np.arange(n + 1)


def coverage(interval):
    low, high = interval(k, n)
    return [binom.pmf(k, n, p)[(low <= p) & (p <= high)].sum() for p in share]


sizes = np.array([10, 20, 40, 100, 200, 500, 1000, 2000, 5000, 10000])
figure = figures.intervals(
    share,
    {"Wilson": coverage(my_wilson), "textbook": coverage(textbook)},
    n,
    sizes=sizes,
    measured=0.85,
    ends=my_wilson(0.85 * sizes, sizes),
)
plotting.show(
    figure,
    "Left: Wilson's interval holds the truth in about 95% of samples at every accuracy, the textbook interval far less often "
    "near 100%. Right: the Wilson interval around 85% narrows with the number of images.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** Left: how often, over all samples of this size, the interval holds the true accuracy. Blue
# stays near the dashed line; orange falls away where accuracies are high, and that is where good networks live. (The
# teeth come from counting whole images.) If both lay on the line, the choice would not matter. Right: the width goes
# like $1/\sqrt N$: a tenth of the images, about three times the width. Keep the width for a few dozen images in mind:
# AutoAttack on a small machine sees no more.
#
# ### Exercise 1 · How many images tell 85% from 86%?
#
# Write `images_needed(p, q)`: the smallest number of images $N$ for which the Wilson intervals around the measured
# accuracies $p < q$ no longer overlap. Use `my_wilson(p * n, n)`; `p * n` need not be whole. Guess the answer for 85%
# and 86% first. (Hint: if it holds for some $N$, it holds for every larger one.)


# %% tags=["exercise"]
def images_needed(p, q):
    """The smallest N at which the intervals of p and q, p < q, do not overlap any more."""
    # BEGIN SOLUTION
    n = np.arange(1, 200_000)
    return int(n[my_wilson(p * n, n)[1] < my_wilson(q * n, n)[0]][0])
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 1
@lesson.check("Exercise 1")
def _():
    for p, q in ((0.4, 0.6), (0.8, 0.9), (0.85, 0.86)):
        n = images_needed(p, q)
        assert isinstance(n, int), f"A number of images is an int, not {type(n).__name__}."
        assert my_wilson(p * n, n)[1] < my_wilson(q * n, n)[0], (
            f"{n} images: the intervals of {p:.0%} and {q:.0%} still overlap."
        )
        n -= 1
        assert my_wilson(p * n, n)[1] >= my_wilson(q * n, n)[0], (
            f"{n} images are already enough for {p:.0%} and {q:.0%}."
        )


# %% [markdown] tags=["solution"]
# About as many images as twice the whole CIFAR-10 test set: on 10,000 images the two intervals still overlap. "No
# overlap" is a cautious rule, since a test of the difference can find it earlier. Best are the *same* images for both
# networks and a paired comparison (section 4).

# %% [markdown]
# ## 3 One table for all networks
#
# Every attack starts from the same test images and the true labels, with the network in eval mode. Whether an image is
# broken is always decided in float32.
#
# - **FGSM**: one step of size epsilon. **PGD**: steps and step size of the configuration; an image counts as broken if
#   *any* iterate on the way is misclassified. The other convention looks at the *final* iterate only, and flatters the
#   network a little (section 7).
# - **AutoAttack**, standard version ([2003.01690](https://arxiv.org/abs/2003.01690)): four attacks in a row, each on
#   the images that still stand. *APGD-CE*: PGD on cross-entropy, 100 steps whose size adapts itself. *APGD-T*: the same
#   on a ratio of logit differences (the targeted *DLR* loss, which no softmax can flatten), once for each of the 9
#   other classes with the largest logits. *FAB-T*: looks for the closest point across a decision border. *Square*:
#   5,000 queries, no gradient. Nothing is to be tuned, so nobody can tune it badly.
# - **The screen**: the first two of the four. Cheaper, good for sorting candidates. It is *not* AutoAttack and is never
#   called so here.
#
# A robust image costs AutoAttack thousands of passes. On a CPU we run it in full on two networks and few images, and
# the screen on all six; on a GPU in full on all six.
#
# > **Predict, then see.** Order the six networks by PGD accuracy before you run the cells. Which one loses most between
# > FGSM and PGD?

# %%
possible = autoattack.autoattack_possible(len(dataset.classes))
if not possible:
    lesson.say(
        f"**AutoAttack and the screen are left out**: their targeted attacks need four classes, and this data set has {len(dataset.classes)}."
    )
FULL = METHODS if device.type == "cuda" else ["standard", "anchor"]
n_full = min(config.autoattack_images, len(test))
n_screen = max(n_full, min(config.screen_images, len(test)))
settings = {
    **config.evaluation(),
    "restarts": config.eval_restarts,
    "iterate": "any",
    "precision": config.eval_precision,
    "seed": config.seed,
}


# %%
def evaluated(key, model, images, names):
    """One table. A run's folder keeps what is finished: an interrupted evaluation goes on there."""
    return evaluation.evaluate(model, images, names, **settings, resume=runs[key].path / "evaluation" if runs else None)


def bits(row):
    return results.unpack_outcomes(row["outcomes"], int(row["images"]))


def screen_row(key, model, full):
    """The screen on the first n_screen images. AutoAttack, if it ran, has screened the first of them on its way."""
    blocks = [] if full is None else [autoattack.screen_rows(full)]
    rest = test[0 if full is None else n_full : n_screen]
    if len(rest):
        blocks.append(evaluated(key, model, rest, ("screen",)).tail(1))
    return results.join_images(blocks)


def strong_attacks(method):
    """AutoAttack where it runs, and the screen."""
    if not possible:
        return []
    key, model, full = (method, config.seed), copy.deepcopy(networks[method]), None
    if method in FULL:
        full = evaluated(key, model, test[:n_full], ("autoattack",))
    return [*([] if full is None else [full]), screen_row(key, model, full)]


# %%
# One helper, not more: AutoAttack sets torch's global seed, so only one may run at a time. PGD runs beside it, with
# random numbers of its own.
with ThreadPoolExecutor(1) as helper:
    strong = {method: helper.submit(strong_attacks, method) for method in METHODS}
    weak = {key: evaluated(key, model, test, ("clean", "fgsm", "pgd")) for key, model in folded.items()}
tables = []
for (method, s), part in weak.items():
    parts = [part, *(strong[method].result() if s == config.seed else [])]  # costly ones on the first training seed
    part = pd.concat(parts, ignore_index=True)
    tables.append(part.assign(method=method, training_seed=s))
table = pd.concat(tables, ignore_index=True)

path = Path(config.runs_dir) / "results" / preset / "06_table.json"
results.save_results(path, table, config=config.model_dump(), preset=preset)

# %%
first = table[table["training_seed"] == config.seed].set_index(["method", "attack"])
pgd_name = f"PGD-{config.eval_steps}"
ATTACKS = {"clean": "clean", "fgsm": "FGSM", "pgd": pgd_name}
if possible:
    ATTACKS |= {"screen": "screen", "autoattack": "AutoAttack"}
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
queried = (
    f"Screen and AutoAttack query the network in {first.loc[('anchor', 'screen')]['precision']}. " if possible else ""
)
lesson.say(
    f"Accuracy (eq. 1) and 95% Wilson interval (eq. 3). L-infinity, epsilon = {config.epsilon:g}, attack seed {config.seed}, training seed "
    f"{config.seed}. FGSM: one step of {config.epsilon:g}. {pgd_name}: {config.eval_steps} steps of {config.eval_step_size:g}, "
    f"{config.eval_restarts} random start{'s' if config.eval_restarts > 1 else ''}, any iterate counts. Screen: APGD-CE and APGD-T of AutoAttack, 100 steps each, 1 restart. "
    f"AutoAttack: standard version. {queried}ANCHOR is our reconstruction. Columns with different numbers of images are not about the same images; section 5 compares attacks on the same ones."
)

# %%
by_pgd = sorted(METHODS, key=lambda m: -first.loc[(m, "pgd")]["accuracy"])
loss_of = {m: first.loc[(m, "fgsm")]["accuracy"] - first.loc[(m, "pgd")]["accuracy"] for m in METHODS}
loser = max(loss_of, key=loss_of.get)
assert np.isclose(bits(first.loc[("anchor", "pgd")]).mean(), first.loc[("anchor", "pgd")]["accuracy"])  # eq. 1
lesson.say(
    f"**The answer:** {' > '.join(plotting.method_name(m) for m in by_pgd)} under {pgd_name}, where neighbours may be tied. "
    f"{plotting.method_name(loser)} loses most between FGSM and {pgd_name}: {100 * loss_of[loser]:.1f} points "
    f"of the {100 * first.loc[(loser, 'fgsm')]['accuracy']:.1f} that FGSM left."
)

# %%
if len(folded) > len(METHODS):
    display(results.over_seeds(table[table["attack"].isin(["clean", "fgsm", "pgd"])]).round(4))
else:
    lesson.say(
        "One training seed a method. The intervals cover the choice of test images, *not* the luck of training: a second seed may "
        "move a network by as much as methods differ."
        + (" Set `overrides = {'seeds': 3}` to see mean and standard deviation over seeds here." if runs else "")
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
# **Reading the figure.** Each point is an accuracy, each bar its 95% interval, in brackets the number of images. Within
# a method the attacks go from weak to strong, but compare only points with the same number of images: elsewhere a step
# down may come from the choice of images alone. Then across methods: which keep their height, which fall to the floor?
# Where bars of two methods overlap widely, this figure cannot order them. On the *same* images AutoAttack clearly above
# PGD would mean that the attack is broken; section 5 checks that.

# %% [markdown]
# ### Best or last checkpoint
#
# Robust accuracy can fall while training goes on ([2002.11569](https://arxiv.org/abs/2002.11569)). All numbers here
# belong to the checkpoint that was best on held-out *training* images; choosing it on test images would make every
# number a little too good. Where the last epoch is another network, it is compared below.

# %%
n_last = min(200, len(test))
rows = []
epochs = {m: {w: runs[m, config.seed].model(w).metadata["epoch"] for w in ("best", "last")} for m in METHODS if runs}
for method in [m for m, epoch in epochs.items() if epoch["last"] != epoch["best"]]:
    last = runs[method, config.seed].model("last").to(device)
    pair = {
        "best": bits(first.loc[(method, "pgd")])[:n_last],
        "last": bits(evaluation.evaluate(last, test[:n_last], ("pgd",), **settings).iloc[0]),
    }
    entry = {"method": plotting.method_name(method)} | {f"{which} epoch": epochs[method][which] for which in pair}
    for which, outcome in pair.items():
        low, high = results.wilson(int(outcome.sum()), len(outcome))
        entry[f"{pgd_name}, {which}"] = f"{outcome.mean():.1%} [{low:.1%}, {high:.1%}]"
    rows.append(entry)
if rows:
    display(pd.DataFrame(rows).set_index("method"))
    lesson.say(f"{pgd_name} as in the table above, on the first {n_last} test images, seed {config.seed}.")
elif runs:
    lesson.say("In this run the best epoch was the last one for every method: nothing to compare.")
else:
    lesson.say("Of the networks that come with the course only the best checkpoints are kept: nothing to compare here.")

# %% [markdown]
# ## 4 Two networks on the same images: compare in pairs
#
# Overlapping intervals do not mean that two networks are equally good. Both saw the *same* images, and most images are
# easy for both or hard for both. These say nothing about the difference. Only images where the outcome bits **differ**
# do: let $b$ be the number that only the first network survives and $c$ the number that only the second survives, and
# $R_1$, $R_2$ the two accuracies. The difference and its standard error (se) are
#
# $$R_1 - R_2 = \frac{b - c}{N}, \qquad
# \text{paired: } \mathrm{se} = \frac1N \sqrt{b + c - \frac{(b-c)^2}{N}}, \qquad
# \text{as if independent: } \mathrm{se} = \sqrt{\frac{R_1 (1 - R_1) + R_2 (1 - R_2)}{N}} \tag{4}$$
#
# **McNemar's exact test**: if the networks were equally good, each of the $b + c$ images would be a fair coin, and the
# number $B$ of heads binomial. How likely is a split at least as uneven as $b$ against $c$?
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
                "difference, points": f"{100 * (b - c) / len(test):+.1f}",
                "McNemar p": f"{p:.2g}",
            }
        )
display(pd.DataFrame(rows).set_index(["ANCHOR against", "images"]))

# %%
trained = [method for method in others if method != "standard"]
differences = {method: difference_with_errors(outcome["anchor"], outcome[method]) for method in trained}
plotting.show(
    figures.paired_differences(differences, pgd_name),
    "Difference in PGD accuracy between ANCHOR and each other robust method, with a paired 95% interval and one as if independent.",
    svg=True,
)
lesson.say(
    f"{pgd_name} as in the table of section 3, {len(test)} test images, attack seed {config.seed}, training seed {config.seed}; 95% intervals from eq. 4."
)

# %% [markdown]
# **Reading the figure.** Right of the line ANCHOR survives more images, left of it the other network does. The grey
# interval forgets that the images are the same; the coloured one uses it and is narrower wherever both networks fail on
# the same images. A coloured interval that crosses the line: these images cannot tell the two apart. If the networks
# failed on unrelated images, both intervals would be equally wide.
#
# Two cautions. The test is about *these two networks*, not about the methods: for methods one needs several training
# seeds. And among many comparisons at the 5% level luck often "finds" something: multiply each p by the number of
# comparisons (the rows of the table) before you believe it (*Bonferroni's correction*).
#
# ### Exercise 2 · McNemar's p by hand
#
# Write `mcnemar_p(first, second)` for two boolean arrays of outcome bits (N,), with `math.comb` and no scipy: count $b$
# and $c$, then add up the probabilities $\binom{b+c}{j} / 2^{b+c}$ of all $j$ that are at least as far from $(b+c)/2$
# as $b$ is. Without any image that tells the networks apart, $p = 1$.


# %% tags=["exercise"]
def mcnemar_p(first, second):
    """Exact two-sided p of eq. 5 from the outcome bits of two networks on the same images."""
    # BEGIN SOLUTION
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    n = b + c
    return sum(math.comb(n, j) for j in range(n + 1) if abs(2 * j - n) >= abs(b - c)) / 2**n
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 2
@lesson.check("Exercise 2")
def _():
    def pair(both, b, c, neither):
        first = np.repeat([True, True, False, False], [both, b, c, neither])
        return first, np.repeat([True, False, True, False], [both, b, c, neither])

    assert np.isclose(mcnemar_p(*pair(0, 4, 0, 0)), 0.125), (
        "4 against 0: two of the 16 splits are as uneven, 4:0 and 0:4."
    )
    assert np.isclose(mcnemar_p(*pair(5, 3, 3, 5)), 1), "3 against 3: every split is at least as uneven, so p = 1."
    assert np.isclose(mcnemar_p(*pair(9, 0, 0, 9)), 1), "No image tells the networks apart: p = 1."
    few, many = mcnemar_p(*pair(2, 9, 2, 1)), mcnemar_p(*pair(500, 9, 2, 300))
    assert np.isclose(few, many), "Images on which both networks agree must not change p."
    for b, c in ((9, 2), (2, 9), (30, 45)):
        ours, exact = mcnemar_p(*pair(7, b, c, 3)), binomtest(b, b + c, 0.5).pvalue
        assert np.isclose(ours, exact), f"{b} against {c}: p = {ours:.4f}, should be {exact:.4f}."


# %% [markdown] tags=["solution"]
# Both tails count, because before the experiment either network could have won. Note what is *not* in the formula: $N$.
# A thousand more images that both networks survive add no evidence about which is better.

# %% [markdown]
# ## 5 The attack ladder, image by image
#
# Each column of the next figure is one test image, each row an attack, with the settings of the table. The last four
# rows are the stages of AutoAttack; each sees only the images that AutoAttack's earlier stages left standing. Below
# stands how far PGD got: the *lead* of the true class, its logit minus the largest other one, at the worst iterate that
# PGD found.
#
# > **Predict, then see.** How many of the images that PGD left standing does AutoAttack break? And which: any of them,
# > or those that PGD had nearly broken?

# %%
STAGES, stage_names = ["fgsm", "pgd"], ["FGSM", pgd_name]
if possible:
    STAGES += [f"autoattack/{stage}" for stage in autoattack.STAGES["autoattack"]]
    stage_names += ["APGD-CE", "APGD-T", "FAB-T", "Square"]
ladders = {
    m: np.stack([bits(first.loc[(m, stage)])[:n_full] for stage in STAGES])
    for m in ("standard", "pgd_at", "anchor")
    if m in FULL
}
n_drawn = min(n_full, 100)
ladder, model = ladders["anchor"][:, :n_drawn], networks["anchor"]
late = ladder[1] & ~ladder[-1]  # PGD left them, AutoAttack broke them

# The table's PGD once more, now for the images themselves: the same seed gives the same random start.
x, y = images[:n_drawn], labels[:n_drawn]
standing, worst = evaluation.clean_outcomes(model, x, y), x.clone()
if standing.any():
    worst[standing] = attacks.pgd(
        model,
        x[standing],
        y[standing],
        **config.evaluation(),
        restarts=config.eval_restarts,
        keep="worst",
        generator=torch.Generator().manual_seed(config.seed),
    )
lead = -attacks.margin(evaluation.logits_of(model, worst), y).cpu().numpy()

# %%
plotting.show(
    figures.attack_ladder(ladder, stage_names, lead, x.cpu().numpy()),
    "Top: a matrix of attacks by images, blue cells survive, orange cells are broken, at the right the accuracy after each attack. Middle: bars with the lead of "
    "the true class after PGD. Bottom: the images, framed where AutoAttack broke what PGD had left.",
)
rows = []
for method, rungs in ladders.items():
    fgsm, pgd, last = rungs[0], rungs[1], rungs[-1]
    rows.append(
        {
            f"of {n_full} images": plotting.method_name(method),
            f"FGSM leaves, {pgd_name} breaks": (fgsm & ~pgd).sum(),
            f"{pgd_name} leaves, AutoAttack breaks": (pgd & ~last).sum(),
            f"AutoAttack leaves, {pgd_name} breaks": (last & ~pgd).sum(),
            "AutoAttack leaves": last.sum(),
            "all together leave": rungs.all(0).sum(),  # eq. 2
        }
    )
display(pd.DataFrame(rows).set_index(f"of {n_full} images"))
survivors = np.flatnonzero(ladder[1])
rank = (np.argsort(np.argsort(lead[survivors])) + 1)[late[survivors]]
lesson.say(
    f"**The answer:** of the {len(survivors)} drawn images that {pgd_name} left, AutoAttack breaks {late.sum()}"
    + (
        f". Sorted by lead, smallest first: place {', '.join(map(str, sorted(rank)))} of {len(survivors)}."
        if late.any()
        else "."
    )
)

# %% [markdown]
# **Reading the figure.** Look for columns that are blue at PGD and turn orange further down: there PGD was wrong about
# the network. If there are none, PGD did as well on these images as AutoAttack. Then look at the pink bars below such
# columns: if they are among the shortest, PGD had come close and a longer, better steered attack finished the job; a
# *high* pink bar would mean that PGD was stuck far from the border, which is what a hidden gradient does. For a network
# without tricks nearly all of the way down happens at the gradient attacks. An image that falls only at Square would be
# a warning. What AutoAttack breaks beyond PGD is the part of the PGD number that was not robustness.
#
# ### A network of full width
#
# Where PGD falls short depends on the network. Two of full width come with the course, trained on all of CIFAR-10 on a
# GPU; a prototype of the course's engine made them, and their cards in `data/pretrained` say how. The figure shows what
# was *stored* when they were measured there. With `models = "pretrained"` this notebook also attacks the PGD-AT network
# itself, on a few images, and a second figure shows it image by image.
#
# There we go beyond PGD in the way that APGD-T does, with nothing but PGD: instead of *away from the true class* we walk
# *towards one wrong class*, the one with the largest logit, and where that fails towards the one with the second largest.
# Cross-entropy alone climbs wherever it is steepest at first, and may end in a place where no class takes over.


# %%
def left_standing(model, x, y, standing, rank):
    """Outcome bits (N,) after PGD towards the wrong class with the rank-th largest logit, on the images that stand."""
    left, index = standing.clone(), standing.nonzero().flatten()
    if len(index):
        logits = evaluation.logits_of(model, x[index])
        wrong = logits.scatter(1, y[index, None], -torch.inf).argsort(1, descending=True)[:, rank]
        towards = {**config.evaluation(), "targeted": True, "loss": "margin", "keep": "worst", "generator": rng()}
        left[index] = evaluation.clean_outcomes(
            model, attacks.pgd(fold_batchnorm(model), x[index], wrong, **towards), y[index]
        )
    return left


def rng():
    return torch.Generator().manual_seed(config.seed)


wide, n_wide = None, min(len(test), 500 if device.type == "cuda" else 60)
if models == "pretrained":
    try:
        wide = pretrained("pgd_at", width=64).to(device)
    except FileNotFoundError as error:  # an installed package leaves so large a file out
        print(error)
if wide is not None:
    x, y = images[:n_wide], labels[:n_wide]
    standing, worst = evaluation.clean_outcomes(wide, x, y), x.clone()
    if standing.any():
        chosen = x[standing], y[standing]
        worst[standing] = attacks.pgd(
            fold_batchnorm(wide), *chosen, **config.evaluation(), keep="worst", generator=rng()
        )
    lead_wide = -attacks.margin(evaluation.logits_of(wide, worst), y)
    rungs = [standing, standing & (lead_wide > 0)]
    for rank in (0, 1):
        rungs.append(left_standing(wide, x, y, rungs[-1], rank))
    rungs = torch.stack(rungs).cpu().numpy()

# %%
STORED = json.loads((PRETRAINED_DIR / "width64.json").read_text(encoding="utf-8"))["sweeps"]["prototype"]
stored = {cell["method"]: {row["attack"]: row for row in cell["rows"]} for cell in STORED}
steps = {"clean": "clean", "pgd": f"PGD-{stored['pgd_at']['pgd']['steps']}"}
steps |= {
    "autoattack/apgd-ce": "APGD-CE",
    "autoattack/apgd-t": "APGD-T",
    "autoattack/fab-t": "FAB-T",
    "autoattack/square": "Square",
}
plotting.show(
    figures.stages(
        {method: {steps[name]: rows[name] for name in steps} for method, rows in stored.items()}, promise=steps["pgd"]
    ),
    "For two networks of full width the accuracy on clean images, under PGD and after each stage of AutoAttack, with 95% intervals; "
    "a dashed line carries the PGD accuracy on to the right, above the points of AutoAttack.",
    svg=True,
)
if wide is not None:
    names = ["clean", pgd_name, "towards the\nnext class", "and the one\nafter it"]
    plotting.show(
        figures.attack_ladder(
            rungs,
            names,
            lead_wide.cpu().numpy(),
            x.cpu().numpy(),
            network="PGD-AT, width 64",
            last="PGD towards a class",
        ),
        "A matrix of PGD attacks by images for the PGD-AT network of full width, blue cells survive, orange cells are broken; below it the lead of the true class "
        "after PGD, and the images, framed where PGD towards a wrong class broke what PGD away from the true one had left.",
    )


def stored_text(method):
    clean, pgd, full = (stored[method][name] for name in ("clean", "pgd", "autoattack"))
    return (
        f"{plotting.method_name(method)}: {clean['accuracy']:.1%} clean, {pgd['accuracy']:.1%} [{pgd['low']:.1%}, {pgd['high']:.1%}] under {steps['pgd']} on {pgd['images']:,} images, "
        f"{full['accuracy']:.1%} [{full['low']:.1%}, {full['high']:.1%}] under AutoAttack on {full['images']:,}"
    )


cell_of = {cell["method"]: cell for cell in STORED}
pgd, stage = stored["pgd_at"]["pgd"], {name: stored["pgd_at"][name]["correct"] for name in steps}
lesson.say(
    f"Stored: {'; '.join(map(stored_text, stored))}. 95% Wilson intervals. Epsilon = {pgd['epsilon']:g}, steps of {pgd['step_size']:g}, {pgd['restarts']} random start, {pgd['iterate']} "
    f"iterate; AutoAttack standard, queries in {stored['pgd_at']['autoattack']['precision']}. Trained for {cell_of['pgd_at']['seconds']['given']:g} seconds each on one {cell_of['pgd_at']['device']}, one seed, by a prototype: the two are no "
    f"comparison of methods. Of the PGD-AT network's {stored['pgd_at']['autoattack']['images']:,} images APGD-CE leaves {stage['autoattack/apgd-ce']}, APGD-T {stage['autoattack/apgd-t']}, FAB-T and Square {stage['autoattack/square']}."
)
if wide is not None:
    late = rungs[1] & ~rungs[-1]
    ends = " to ".join(f"{end:.0%}" for end in results.wilson(int(rungs[-1].sum()), len(x)))
    lesson.say(
        f"Here: the first {len(x)} test images, {pgd_name} with steps of {config.eval_step_size:g}, epsilon = {config.epsilon:g}, any iterate, seed {config.seed}. {rungs[0].sum()} are read correctly, {rungs[1].sum()} after {pgd_name}, "
        f"{rungs[-1].sum()} after the same PGD towards one class and then another (95% Wilson interval {ends}): it breaks {late.sum()} that {pgd_name} had left."
    )
else:
    lesson.say('Nothing of this was computed here: with `models = "pretrained"` it is, in a clone of the repository.')

# %% [markdown]
# **Reading the figure.** Follow one colour from left to right. The dashed line is what PGD promised. APGD-CE climbs the same
# cross-entropy in far more steps and with a step size that adapts itself: how much lower does it come? Then APGD-T, which does
# not climb higher but goes for other classes: what falls there was never robust, and PGD had no eyes for it. Where the last two
# stages find nothing more, the attack has converged, and no gradient was hidden. Mind the numbers below the axis: clean and PGD
# are about other images than AutoAttack, so compare *its* stages with each other first. If PGD were enough, the
# points would stay on the line.
#
# The second figure, where there is one, shows the last step of that in miniature. A pink image is one that PGD away from the
# true class left standing; towards one wrong class the same PGD gets through. On so few images there are few, or none: the
# stored numbers say how many to expect.
#
# ## 6 Accuracy against epsilon
#
# A ball contains every smaller ball. So an image that is broken at one epsilon stays broken at each larger one, and
# only images that still stand need another attack: the curves fall by construction, and cost less. At the epsilon of
# the table, the table's bits are taken. (The checks of section 8 attack every image at every epsilon, because there a
# *rise* is the evidence.)
#
# > **Predict, then see.** The robust networks were trained at one epsilon. What happens at twice that? And how accurate
# > can *any* classifier be at epsilon = 0.5 or more, where every image can be turned into the same plain grey?


# %%
n_curve = min(100, len(test))
x, y = images[:n_curve], labels[:n_curve]


def nested(method, epsilons):
    """Outcome bits (epsilons, N): at each epsilon PGD on the images that all smaller ones left standing."""
    history = [torch.from_numpy(bits(first.loc[(method, "clean")])[:n_curve]).to(device)]
    for e in epsilons[1:]:
        standing = history[-1].clone()
        index = standing.nonzero().flatten()
        if e == config.epsilon:
            standing &= torch.from_numpy(bits(first.loc[(method, "pgd")])[:n_curve]).to(device)
        elif len(index):
            standing[index] = evaluation.pgd_outcomes(
                networks[method],
                x[index],
                y[index],
                epsilon=e,
                step_size=config.eval_step_size * e / config.epsilon,
                steps=config.eval_steps,
                restarts=config.eval_restarts,
                seed=config.seed,
            )
        history.append(standing)
    return torch.stack(history).cpu().numpy()


factors = (0, 0.5, 1, 1.15, 1.3, 1.5, 2, 4, 8)
epsilons = [factor * config.epsilon for factor in factors if factor <= 1 or factor * config.epsilon <= 0.62]
curves = {method: nested(method, epsilons) for method in METHODS}
ends = {
    method: np.array([results.wilson(int(o.sum()), n_curve) for o in outcomes]).T for method, outcomes in curves.items()
}

# %%
figure = figures.accuracy_by_epsilon(
    epsilons,
    {method: outcomes.mean(1) for method, outcomes in curves.items()},
    ends,
    epsilon=config.epsilon,
    ylabel=f"accuracy under {pgd_name}, {n_curve} images",
)
plotting.show(
    figure,
    "Six panels, one a method: accuracy under PGD against epsilon with a 95% band, the other methods in grey. A dashed line marks the epsilon of the table.",
    svg=True,
)
at = [curves[m].mean(1) for m in METHODS if m != "standard"]
by_twice = max(i for i, e in enumerate(epsilons) if e <= 2 * config.epsilon)
i_table = epsilons.index(config.epsilon)
lesson.say(
    f"{pgd_name}: {config.eval_steps} steps of {config.eval_step_size / config.epsilon:.2g} times epsilon, {config.eval_restarts} random start"
    f"{'s' if config.eval_restarts > 1 else ''}, any iterate counts, seed {config.seed}, the first {n_curve} test images; bands are 95% Wilson intervals. An image broken at a smaller epsilon counts as broken.\n\n"
    f"**The answer:** the five adversarially trained networks have {min(a[i_table] for a in at):.0%} to {max(a[i_table] for a in at):.0%} at epsilon {config.epsilon:g} and "
    f"at most {max(a[by_twice] for a in at):.0%} at {epsilons[by_twice]:g}. From epsilon = 0.5 on no classifier can beat the share of the commonest class, "
    f"{y.bincount().max() / n_curve:.0%} of these images."
)

# %% [markdown]
# **Reading the figure.** Each panel has one method in colour and the others in grey. At the left edge stands the clean
# accuracy. Where a robust network holds up to the dashed line and falls right behind it, it has learned to withstand
# *that* size of change, not change as such. Look where a coloured curve *crosses* grey ones: a ranking at one epsilon
# need not hold at the next. Where grey curves run inside the band, the order means little. If a curve stayed high from
# epsilon = 0.5 on, where all images can become the same grey, the attack would be broken, not the network good.
#
# ## 7 How many steps are enough?
#
# An attack that has not finished is a weak attack. We write PGD with a memory: one run, and the outcome bits after
# every step, so that one run answers for all smaller numbers of steps and for both conventions. With $x_i^{(t)}$ the
# iterate after $t$ steps, the bits of the *final* iterate and of *any* iterate are
#
# $$\text{final}_t = \mathbb 1\bigl[f(x_i^{(t)}) = y_i\bigr], \qquad \text{any}_t = \prod_{s \le t} \mathbb 1\bigl[f(x_i^{(s)}) = y_i\bigr] \tag{6}$$


# %%
def pgd_with_memory(model, x, y, epsilon, alpha, steps, seed):
    right = []
    x_t = attacks.random_point(x, epsilon, generator=torch.Generator().manual_seed(seed))
    for _ in range(steps + 1):
        x_t = x_t.detach().requires_grad_()
        logits = model(x_t)
        right.append(logits.argmax(1).eq(y))
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x_t)
        x_t = x + (x_t.detach() + alpha * gradient.sign() - x).clamp(-epsilon, epsilon)
        x_t = x_t.clamp(0, 1)
    return torch.stack(right)  # (steps + 1, N): row t after t steps


model = networks["anchor"]
right = evaluation.clean_outcomes(model, images[:100], labels[:100])
x, y = images[:100][right], labels[:100][right]
memory = pgd_with_memory(model, x, y, config.epsilon, config.eval_step_size, 50, config.seed)
final, some = memory, memory.cummin(0).values  # eq. 6

package = evaluation.pgd_outcomes(model, x, y, **config.evaluation(), iterate="final", seed=config.seed)
agree = (package == final[config.eval_steps]).float().mean().item()
assert agree >= 0.95  # rounding may carry an image on the border to either side
print(f"our loop and evaluation.pgd_outcomes agree on {agree:.0%} of the outcome bits after {config.eval_steps} steps")

# %%
steps = [1, 2, 5, 10, 20, 50]
scaled = [
    evaluation.pgd_outcomes(
        model, x, y, epsilon=config.epsilon, step_size=2.5 * config.epsilon / t, steps=t, seed=config.seed
    )
    for t in steps[:-1]
]
share = 1 / len(right)  # images that are wrong from the start count as broken
heights = {
    "final": [final[t].sum().item() * share for t in steps],
    "any": [some[t].sum().item() * share for t in steps],
    "scaled": [o.sum().item() * share for o in scaled],
}
plotting.show(
    figures.accuracy_by_steps(steps, heights, len(right)),
    "Accuracy of the ANCHOR network against the number of PGD steps, for a fixed step with the final or any iterate counting, and for a step that is scaled to their number.",
    svg=True,
)
low, high = results.wilson(int(some[steps[-1]].sum()), len(right))
lesson.say(
    f"PGD at epsilon = {config.epsilon:g} on the first {len(right)} test images, one random start, seed {config.seed}. Step fixed: {config.eval_step_size:g}. "
    f"After {steps[-1]} such steps, any iterate: {heights['any'][-1]:.0%}, 95% Wilson interval {low:.0%} to {high:.0%}."
)

# %% [markdown]
# **Reading the figure.** With a fixed step, few steps cannot even walk from the image to the edge of the ball: the left
# end is high because the attack is short, not because the network is strong. With the step scaled to the number of
# steps, a single step can already reach the edge. What matters is that the curves are *flat* at the right end. If they
# still fell there, every PGD number above would be too high. (One image in a hundred is one point: look for a trend,
# not a step.) "Any" lies at or below "final" by construction; the gap is how much the final iterate alone flatters.
#
# ## 8 Robust, or only hard to attack?
#
# Here are two defences that anyone can build in one line. Both wrap the *standard* network and train nothing.
#
# - **Rounding**: the input is rounded to a few grey levels. Rounding is flat, so its derivative is zero nearly
#   everywhere.
# - **Loud logits**: the logits are multiplied by a large number. No prediction changes, but the softmax saturates, and
#   in float32 the gradient of the cross-entropy becomes exactly zero on nearly every image that is read correctly.
#
# This is *gradient masking*. Athalye et al. ([1802.00420](https://arxiv.org/abs/1802.00420)) called it *obfuscated
# gradients*. They broke, wholly or in part, all defences of one conference that they found to rely on it.


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

# %% [markdown]
# What does an attacker see? We walk from one image in the direction of FGSM against the *undefended* network, and draw
# each network's cross-entropy on the way. The short orange strokes have the slope that `autograd` reports at their
# middle: they are all that PGD knows.

# %%
# An image that the standard network reads correctly, but not so surely that its loss is flat at zero.
start_lead = -attacks.margin(evaluation.logits_of(standard, images), labels)
i = int((start_lead - 2).abs().where(start_lead > 0, torch.inf).argmin())
x, y = images[i : i + 1], labels[i : i + 1]
direction = (attacks.fgsm(standard, x, y, epsilon=config.epsilon, loss="margin") - x) / config.epsilon


def walk(model, points=121):
    """Cross-entropy at x + t * direction for t from 0 to epsilon, and its derivative by t as autograd sees it."""
    t = torch.linspace(0, config.epsilon, points, device=device).requires_grad_()
    path = (x + t.view(-1, 1, 1, 1) * direction).clamp(0, 1)
    losses = attacks.cross_entropy(model(path), y.expand(points))
    (slopes,) = torch.autograd.grad(losses.sum(), t)
    return tuple(v.detach().cpu().numpy() for v in (t, losses, slopes))


walks = {name: walk(defences[name]) for name in ("no defence", "rounding", "loud logits")}
flat = {name: (slopes == 0).mean() for name, (_, _, slopes) in walks.items()}
plotting.show(
    figures.losses_on_a_walk(walks, config.epsilon),
    "Three curves of the loss along one direction, with short strokes that have the slope autograd reports: without defence along the curve, with rounding "
    "flat on its stairs, and with loud logits flat where the loss is zero.",
    svg=True,
)
lesson.say("; ".join(f"{name}: slope exactly zero at {share:.0%} of the points" for name, share in flat.items()) + ".")

# %% [markdown]
# **Reading the figure.** Left: the strokes lie along the curve, so the gradient tells the truth. Middle: the loss
# moves in stairs, and every stroke lies flat on its stair. Right: no prediction has changed, so this network is wrong
# exactly where the undefended one is; but where it is right the loss is zero in float32, and the strokes say that
# nothing can be gained. If the defences stopped this change, the blue curves would stay low all the way.
#
# > **Predict, then see.** What will PGD, unchanged, report for the two defences? How would you change the attack for
# > each?

# %%
# The adapted attack: through the rounding as if it were not there; on the margin (minus the lead of
# section 5), which no softmax can saturate.
adapted = {
    "no defence": (standard, "margin"),
    "rounding": (Rounding(standard, straight_through=True), "ce"),
    "loud logits": (defences["loud logits"], "margin"),
    "ANCHOR": (networks["anchor"], "margin"),
}
n_broken = min(100, len(test))
x, y = images[:n_broken], labels[:n_broken]
pgd_settings = {name: settings[name] for name in ("epsilon", "step_size", "steps", "restarts", "iterate", "seed")}
in_table = {"no defence": "standard", "ANCHOR": "anchor"}  # the table has these bits
found = {"random noise": [], f"{pgd_name} as it is": [], f"{pgd_name} adapted": []}
for name, model in defences.items():
    found["random noise"].append(evaluation.noise_outcomes(model, x, y, epsilon=config.epsilon, seed=config.seed))
    if name in in_table:
        as_it_is = torch.from_numpy(bits(first.loc[(in_table[name], "pgd")])[:n_broken])
    else:
        with warnings.catch_warnings(record=True) as caught:  # the package notices; here we want to read what it says
            warnings.simplefilter("always", attacks.VanishedGradientWarning)
            as_it_is = evaluation.pgd_outcomes(model, x, y, **pgd_settings)
        print(f"{name}: {caught[0].message if caught else 'no warning'}")
    found[f"{pgd_name} as it is"].append(as_it_is)
    target, loss = adapted[name]
    found[f"{pgd_name} adapted"].append(evaluation.pgd_outcomes(target, x, y, **pgd_settings, loss=loss))

# %%
series = {}
for name, outcomes in found.items():
    ends = np.array([results.wilson(int(o.sum()), len(o)) for o in outcomes])
    series[name] = (np.array([o.float().mean().item() for o in outcomes]), ends[:, 0], ends[:, 1])
figure = plotting.accuracy_bars(list(defences), series, ylabel=f"accuracy on {n_broken} images")
plotting.show(
    figure,
    "Accuracy under noise, PGD and adapted PGD, with 95% intervals, for the standard network without a defence, with rounding and with loud logits, and for ANCHOR.",
    svg=True,
)
lesson.say(
    f"Epsilon = {config.epsilon:g}, {config.eval_steps} steps of {config.eval_step_size:g}, {config.eval_restarts} random start"
    f"{'s' if config.eval_restarts > 1 else ''}, any iterate, the first {n_broken} test images, seed {config.seed}, 95% Wilson intervals. Adapted: straight-through gradient for rounding, margin loss for the others.\n\n"
    + "**The answer:** "
    + "; ".join(
        f"{name}: {series[f'{pgd_name} as it is'][0][j]:.0%} under {pgd_name} as it is, {series[f'{pgd_name} adapted'][0][j]:.0%} adapted"
        for j, name in enumerate(defences)
    )
    + "."
)

# %% [markdown]
# **Reading the figure.** For each model compare the three points. Does PGD as it is do any better than noise? With a
# gradient of zero it never leaves its random start. The adapted attack meets the same network at the same epsilon: what
# it breaks was never robust, only hidden. Without a defence, and for ANCHOR, both attacks should agree within the bars:
# there was nothing to go around. Had the adapted attack failed as well, a hidden gradient would not explain the high
# accuracy under PGD as it is.
#
# ### Exercise 3 · Break the ripple
#
# A third defence sends no zero gradients, so no warning appears. `Ripple` adds a tiny fast wave to every pixel, at most
# 0.005 high: $g(x) = x + 0.005 \sin(5000\,x)$. Its derivative swings between -24 and 26, so the *sign* of the gradient
# is a coin flip a pixel (a *shattered* gradient). Write an adaptive PGD that starts at `x` and ends within `epsilon` of
# it and in $[0,1]$. Hint: what is $g$ to the eye, and so what may the backward pass take it for? `defended.ripple` and
# `defended.model` are the two parts; the first may be used forward without its derivative (this is called BPDA,
# backward pass differentiable approximation). The check uses a small linear network. Once it passes, attack
# `Ripple(standard)` on `x, y` with the settings of the figure: how many images are left?


# %%
class Ripple(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def ripple(self, x):
        return x + 0.005 * torch.sin(5000 * x)

    def forward(self, x):
        return self.model(self.ripple(x))


kept = int(evaluation.pgd_outcomes(Ripple(standard), x, y, **pgd_settings).sum())
low, high = results.wilson(kept, n_broken)
print(
    f"standard network behind Ripple: {pgd_name} as it is leaves {kept} of {n_broken} images ({low:.0%} to {high:.0%}),"
)
print(f"without Ripple {bits(first.loc[('standard', 'pgd')])[:n_broken].sum()}; settings as in the figure above")


# %% tags=["exercise"]
def adaptive_attack(defended, x, y, epsilon, alpha, steps):
    """Adversarial images against a Ripple network, within epsilon of x and in [0, 1]."""
    # BEGIN SOLUTION
    x_t = x
    for _ in range(steps):
        seen = defended.ripple(x_t).detach().requires_grad_()  # forward through the ripple, backward past it
        loss = F.cross_entropy(defended.model(seen), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, seen)
        x_t = (x + (x_t + alpha * gradient.sign() - x).clamp(-epsilon, epsilon)).clamp(0, 1)
    return x_t
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 3
@lesson.check("Exercise 3")
def _():
    # A linear network whose worst case is known: within 0.1 every image can be turned into the other class.
    generator = torch.Generator().manual_seed(0)
    template = torch.tensor([1.0, -1.0] * 392)[torch.randperm(784, generator=generator)]
    toy = nn.Sequential(nn.Flatten(), nn.Linear(784, 2, bias=False))
    toy[1].weight.data = torch.stack([-template, template]) / 20
    truth = torch.arange(32) % 2
    start = 0.5 + 0.04 * (2 * truth[:, None] - 1) * template + 0.1 * (torch.rand(32, 784, generator=generator) - 0.5)
    start = start.view(32, 1, 28, 28)
    defended = Ripple(toy)
    result = adaptive_attack(defended, start.clone(), truth, 0.1, 0.02, 10)
    assert getattr(result, "shape", None) == start.shape, "Return images of the shape of x."
    assert (result - start).abs().max() <= 0.1 + 1e-6, "An image has changed by more than epsilon."
    left = int(evaluation.clean_outcomes(defended, result.detach(), truth).sum())
    assert left == 0, (
        f"{left} of 32 images are still read correctly, and all can be broken. Does your gradient pass through the sine?"
    )
    for edge in (0.1 * start, 1 - 0.1 * start):  # near black, near white
        result = adaptive_attack(defended, edge, truth, 0.1, 0.02, 10)
        assert 0 <= result.min() <= result.max() <= 1, "Pixels must stay in [0, 1]: clip."


# %% [markdown] tags=["solution"]
# Forward the ripple changes nothing that matters, so backward it may be taken for the identity: of the images behind
# `Ripple(standard)` hardly more should be left than without Ripple. Attacking `defended.model` alone and handing the
# result over (a transferred attack) works too, for the same reason. A gradient that is not zero is not yet a gradient
# that helps: only comparing attacks shows it.

# %% [markdown]
# ### Checks that need no idea of the defence
#
# Here we knew where the trick was. But hidden gradients leave traces in anybody's network
# ([1902.06705](https://arxiv.org/abs/1902.06705)): more steps that do not help, a huge epsilon that does not win,
# noise, attacks transferred from another network or gradient-free attacks that do better than the gradient, a loss that
# does not rise along its own gradient, another loss that attacks better. `gradient_masking_checks` runs them all; one
# of them is written out here. As the *surrogate*, the network whose adversarial images are transferred, ANCHOR gets the
# PGD-AT network, and each broken defence the network without its trick.


# %%
def share_rising(model, x, y, epsilon):
    """On how many images does the loss rise after a tenth of epsilon along its own gradient?"""
    before = attacks.cross_entropy(evaluation.logits_of(model, x), y)
    nudged = attacks.fgsm(model, x, y, epsilon=epsilon / 10)
    return (attacks.cross_entropy(evaluation.logits_of(model, nudged), y) > before).float().mean().item()


checked = {
    "rounding": (defences["rounding"], standard, 20),
    "loud logits": (defences["loud logits"], standard, 20),
    "ANCHOR": (networks["anchor"], networks["pgd_at"], 40),
}
tolerance = 0.03
checks = {
    name: masking.gradient_masking_checks(
        model,
        images[:count],
        labels[:count],
        **config.evaluation(),
        surrogate=surrogate,
        square_queries=100,
        tolerance=tolerance,
        seed=config.seed,
    ).set_index("check")
    for name, (model, surrogate, count) in checked.items()
}
ours = share_rising(networks["anchor"], images[:40], labels[:40], config.epsilon)
theirs = checks["ANCHOR"].loc["the loss rises along its gradient", "evidence"]
assert f"{ours:.1%}" in theirs
print(f"ANCHOR: {theirs}; our lines find {ours:.1%}")

# %%
headings = {name: f"{name}, {min(count, len(test))} images" for name, (_, _, count) in checked.items()}
shown = {
    headings[name]: {check: (bool(row["passed"]), row["evidence"]) for check, row in table_of.iterrows()}
    for name, table_of in checks.items()
}
plotting.show(
    figures.check_matrix(shown, config.eval_steps),
    "A matrix of eight checks by three models. Each cell says pass or fail and the accuracies that were compared; failures are orange.",
    svg=True,
)
halves = [np.diff(results.wilson(n // 2, n))[0] / 2 for n in (min(20, len(test)), min(40, len(test)))]
lesson.say(
    f"Accuracies in percent. PGD: {config.eval_steps} steps of {config.eval_step_size:g}, one random start, any iterate, epsilon = {config.epsilon:g}, seed {config.seed}, unless the row says otherwise (step epsilon/8 where epsilon "
    f"is changed, {max(50, config.eval_steps)} steps of 0.1 at epsilon = 1). Square: 100 queries. A difference of up to {100 * tolerance:g} points in the wrong direction passes, except against noise. A 95% interval reaches up to {100 * halves[0]:.0f} points to either side with {min(20, len(test))} images, "
    f"{100 * halves[1]:.0f} with {min(40, len(test))}.\n\n"
    + "Failed: "
    + ", ".join(f"{name} {int((check['passed'] == False).sum())} of {len(check)}" for name, check in checks.items())  # noqa: E712
    + "."
)

# %% [markdown]
# **Reading the figure.** A row is a check, a column a model; the numbers are what was compared. Read a failed check as
# "the PGD number of this model is not to be believed"; it does not say what the true number is. Not every check sees
# every trick, so note *which* fail: transfer and Square catch what has no gradient at all, the margin loss catches a
# saturated softmax, and an attack that never moves passes the row with more steps. Passing all is no proof of
# robustness either: it says only that these known ways to fool PGD are not what we see. One image is several points
# here: a check that fails by a hair deserves more images before it deserves a headline.
#
# ## What can go wrong
#
# - **Attacking predictions.** With the predicted label in the loss, an image that is wrong from the start can be
#   *pushed back* to right. The true label belongs in the loss.
# - **BatchNorm in train mode.** Outcomes then depend on which images share a batch, and evaluating changes the network.
#   Attack and evaluate in eval mode.
# - **Half precision.** Small gradients round to zero in float16, and the attack stops without a word. Evaluate in
#   float32; where an attack's queries were in less, say so.
# - **Too few steps, or steps too small.** Steps times step size must be well above epsilon, and the curve of section 7
#   flat.
# - **Masked gradients.** A high PGD number next to a failed check is not a result.
# - **A random defence.** The gradient of one draw misleads: average it over many draws (*expectation over
#   transformation*, EOT).
# - **Choosing on the test set.** Epoch, beta or attack strength chosen on test images make the test images training
#   images.
# - **Tiny samples.** "AutoAttack accuracy 90%" without its number of images is a rumour.
# - **One seed.** Intervals over images do not cover the luck of training.
#
# ## What we saw

# %%
ladder_holds = {method: bool(rungs[-1].sum() <= rungs[1].sum()) for method, rungs in ladders.items()}
as_is = dict(zip(defences, series[f"{pgd_name} as it is"][0], strict=True))
around = dict(zip(defences, series[f"{pgd_name} adapted"][0], strict=True))
failed = {name: int((check["passed"] == False).sum()) for name, check in checks.items()}  # noqa: E712
broken = ("rounding", "loud logits")
caught_all = all(failed[name] > 0 and as_is[name] - around[name] > 0.2 for name in broken)
confirmed = all(ladder_holds.values()) and caught_all
anchor_late = int((ladders["anchor"][1] & ~ladders["anchor"][-1]).sum())
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
    f"- Rounding: {as_is['rounding']:.0%} under {pgd_name} as it is, {around['rounding']:.0%} under the adapted attack, failed checks: {failed['rounding']}. "
    f"Loud logits: {as_is['loud logits']:.0%}, {around['loud logits']:.0%}, failed checks: {failed['loud logits']}. ANCHOR: {as_is['ANCHOR']:.0%}, {around['ANCHOR']:.0%}, failed checks: {failed['ANCHOR']} (accuracies on {n_broken} images).",
    f"\nThe claim is **{'confirmed' if confirmed else 'not confirmed'}** by this run.",
]
lesson.say("\n".join(lines))

# %% [markdown]
# ### Expected values
#
# The numbers of this run, beside the bands in which the preset `cpu` should find them on other machines.

# %%
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
if 1.15 in factors[: len(epsilons)]:
    for method, outcomes in curves.items():
        metrics[f"{method}_accuracy_1_15_epsilon"] = float(outcomes[factors.index(1.15)].mean())
metrics |= {
    "claim_confirmed": float(confirmed),
    "anchor_broken_by_autoattack_only": float(anchor_late),
    "anchor_pgd_gap_any_final": float((final[config.eval_steps].sum() - some[config.eval_steps].sum()) / len(right)),
    "ripple_pgd_accuracy": kept / n_broken,
}
lesson.finish("06", preset, config, metrics)

# %% [markdown]
# **Limits.** One norm, one epsilon for most of the numbers, and few images for the strong attacks where the machine is
# small. Every number is an upper bound: a later, better attack may lower it. A *lower* bound needs certification, which
# this course does not cover. The two broken defences are toys; real ones hide their gradients by accident, and less
# completely. Networks of one training seed do not rank methods, and these had equal epochs, not equal time: an epoch of
# two views costs more.
#
# **References.** Athalye et al., *Obfuscated gradients give a false sense of security*, arXiv 1802.00420 · Carlini et
# al., *On evaluating adversarial robustness*, arXiv 1902.06705 · Carlini & Wagner, *Towards evaluating the robustness
# of neural networks*, arXiv 1608.04644 (the margin loss) · Croce & Hein, *Reliable evaluation of adversarial robustness
# with an ensemble of diverse parameter-free attacks*, arXiv 2003.01690 · Croce & Hein, *Minimally distorted adversarial
# examples with a fast adaptive boundary attack*, arXiv 1907.02044 · Andriushchenko et al., *Square attack*, arXiv
# 1912.00049 · Rice et al., *Overfitting in adversarially robust deep learning*, arXiv 2002.11569 · Bhattacharya et al.,
# *ANCHOR*, arXiv 2510.27599 · Wilson, *Probable inference, the law of succession, and statistical inference*, 1927 ·
# McNemar, *Note on the sampling error of the difference between correlated proportions*, 1947.
#
# **Next:** [07 · Embedding visualisation](07_embedding_visualisation.ipynb) looks inside: what an attack does to the
# features.
