# %% [markdown]
# # 06 · Robust evaluation
#
# Anybody can build a network that looks robust: it only has to be hard to attack. So a robust accuracy says as much
# about the attack as about the network, and many published defences fell to a better attack. You will see networks that
# look alike and are not, attacks that add up, and how to tell a robust network from one that hides.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/anchor-course/anchor-course/blob/main/notebooks/06_robust_evaluation.ipynb)
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
models = "train"  # @param ["train", "pretrained"]

# %%
import copy
import itertools
import json
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
from course import lesson, page, zoo
from course.figures import lesson_06 as figures
from study import mining

if models == "pretrained":  # networks of the CIFAR-10 study that come with the course, and their settings
    preset = "cifar10_cpu"
config, dataset, device = lesson.start("06", preset, overrides, seed, runs_dir, data_root, models)

# %% [markdown]
# Two networks: one trained in the ordinary way, and one of **ANCHOR** (notebook 05; a reconstruction from the abstract
# of [2510.27599](https://arxiv.org/abs/2510.27599), not the authors' code). And two "defences" for the ordinary one.
# They take a line or two each, and train nothing.

# %%
runs, test = {}, dataset.test[: config.test_images].to(device)
images, labels = test.inputs(), test.labels


def network(method, s=config.seed):
    """A trained network; finished runs of the same configuration are reused."""
    if models == "pretrained":
        return pretrained(method).to(device)
    runs[method, s] = training.fit(config.replace(method=method, seed=s), dataset=dataset)
    return runs[method, s].model().to(device)


networks = {method: network(method) for method in ("standard", "anchor")}


# %%
class LoudLogits(nn.Module):
    """Multiplies the logits. Which is largest does not change, so no prediction changes either."""

    def __init__(self, model, factor=1e4):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x):
        return self.factor * self.model(x)


class Rounding(nn.Module):
    """Rounds pixels to k + 1 levels. With straight_through, the backward pass pretends that it did not."""

    def __init__(self, model, k=15, straight_through=False):
        super().__init__()
        self.model, self.k, self.straight_through = model, k, straight_through

    def forward(self, x):
        rounded = x.mul(self.k).round().div(self.k)
        return self.model(x + (rounded - x).detach() if self.straight_through else rounded)


# %% [markdown]
# PGD (notebook 01) attacks each network twice: as it is, climbing the cross-entropy, and **adapted**, by someone who
# knows the defence. Adapted means: look through the rounding as if it were not there, and for loud logits climb a loss
# that no softmax can flatten, minus the logit margin. Random noise of the same size stands beside them. The **logit margin** is $z_y - \max_{j \ne y} z_j$, the logit of
# the true class minus the largest other one: positive when the network is right.

# %%
# `fold_batchnorm` multiplies BatchNorm into the convolutions: the same function up to rounding, and faster to attack.
standard, n_broken = fold_batchnorm(networks["standard"]), min(100, len(test))
defences = {
    "standard": standard,
    "standard, rounding": Rounding(standard),
    "standard, loud logits": LoudLogits(standard),
    "ANCHOR": networks["anchor"],
}
adapted = {
    "standard": (standard, "margin"),
    "standard, rounding": (Rounding(standard, straight_through=True), "ce"),
    "standard, loud logits": (defences["standard, loud logits"], "margin"),
    "ANCHOR": (networks["anchor"], "margin"),
}
pgd = {**config.evaluation(), "restarts": config.eval_restarts, "iterate": "any", "seed": config.seed}
x, y = images[:n_broken], labels[:n_broken]
noise, as_it_is, around, said = {}, {}, {}, {}
for name, model in defences.items():
    noise[name] = evaluation.noise_outcomes(model, x, y, epsilon=config.epsilon, seed=config.seed)
    with warnings.catch_warnings(record=True) as said[name]:  # section 7 shows what the package says
        as_it_is[name] = evaluation.pgd_outcomes(model, x, y, **pgd)
    around[name] = evaluation.pgd_outcomes(adapted[name][0], x, y, **pgd, loss=adapted[name][1])

# %% tags=["fold"]
# @title Drawing: what PGD promises, and what is left


def share(outcome):
    """Accuracy and its 95% interval."""
    return float(outcome.float().mean()), *results.wilson(int(outcome.sum()), len(outcome))


pgd_name = f"PGD-{config.eval_steps}"
truth = {name: [share(found[name]) for found in (noise, as_it_is, around)] for name in defences}
loud, kept = truth["standard, loud logits"], truth["ANCHOR"]
page.figure(
    figures.promise_and_truth(truth, ("random noise", f"{pgd_name} as it is", "adapted"), images=n_broken),
    "For four networks, one a row, the accuracy under random noise, under PGD as it is and under adapted PGD: for the two "
    "defences the adapted attack takes the accuracy far down, for ANCHOR it stays.",
    f"{pgd_name} leaves the ordinary network behind loud logits **{loud[1][0]:.0%}** and ANCHOR **{kept[1][0]:.0%}**. "
    f"The adapted attack leaves {loud[2][0]:.0%} and {kept[2][0]:.0%}. The longer the bar, the less the first number "
    f"was worth. Grey ticks: random noise. All at epsilon = {config.epsilon:g}, with 95% intervals. A short bar proves "
    "nothing: another attack may still come.",
    svg=True,
)

# %% [markdown]
# **Claim: a robust accuracy is an upper bound found by an attack and worth as much as the attack: a stronger attack
# only lowers it, and a network that merely hides its gradient looks robust until an attack goes around the hiding.**
# The last cells confirm or refute this with this run's numbers.
#
# **You will learn** to state a threat model, to put an interval on an accuracy and compare networks in pairs, to write
# attacks for the network at hand, to judge what AutoAttack can do for you, and to catch a defence that only hides its
# gradient.
#
# **You need** notebook 01 (FGSM, PGD) and the idea of adversarial training (notebook 02).
#
# **Time** the first cell says how long the notebook takes here; networks that no earlier notebook has trained come on
# top. `smoke`: seconds, for tests only. `t4`, `minutes` (the full network) and `paper`: CIFAR-10 on a GPU,
# mostly AutoAttack.
#
# **Real CIFAR-10 without training**: with `models = "pretrained"` this notebook takes the CIFAR-10 networks that come
# with the course, and their settings. The images are downloaded; `overrides = {"dataset": "imagefolder:PATH"}` takes
# others.
#
# ## 1 What the number means
#
# A number without a **threat model** is a rumour. It says what the attacker wants, may do, and knows. Ours:
#
# - **Goal:** any wrong class (*untargeted*).
# - **Capability:** change each pixel by at most $\varepsilon$ ($L_\infty$), within $[0, 1]$, once, on a test image.
# - **Knowledge:** everything: weights, code, training data, defence (*white box*).
#
# Hardly any real attacker is bound by $\varepsilon$. The ball is a stand-in: changes that no person would mind, and that
# we can search. Robustness there is necessary for more, and not sufficient.
#
# The robust accuracy $R$ of a network $f$ on $N$ test images $x_i$ with labels $y_i$ is the share of images for which
# *no* allowed change $\delta$ leads to a wrong answer. An attack $a$ tries some changes, not all, and returns one,
# $a(x_i)$. So what it finds may be too high, but never too low:
#
# $$R = \frac1N \sum_i \min_{\|\delta\|_\infty \le \varepsilon} \mathbb 1\bigl[f(x_i + \delta) = y_i\bigr]
# \;\le\; \frac1N \sum_i \underbrace{\mathbb 1\bigl[f(a(x_i)) = y_i\bigr]}_{\text{one outcome bit an image}} = R_a \tag{1}$$
#
# ($\mathbb 1[\cdot]$ is 1 if the statement holds and 0 if not.) Of two attacks the one with the *lower* $R_a$ tells
# more about $R$. And attacks add up. An image is broken when any of them breaks it, so the bits of several attacks are
# multiplied (AND):
#
# $$R \;\le\; \frac1N \sum_i \prod_a \mathbb 1\bigl[f(a(x_i)) = y_i\bigr] \;\le\; \min_a R_a \tag{2}$$
#
# This notebook therefore keeps the **bits** of every attack: bits can be joined, paired and looked at.
#
# ## 2 An interval around every accuracy
#
# $N$ test images are a sample. A network that is right on a share $p$ of all images that could have been drawn is right
# on a binomial number $k$ of ours. The textbook interval $\hat p \pm z \sqrt{\hat p (1 - \hat p)/N}$, with
# $\hat p = k/N$, has a hole where we need it: for $k = 0$ or $k = N$ its width is zero, as if ten images could prove
# perfection.
#
# **Wilson's interval** asks which $p$ are compatible with $k$: all with $|\hat p - p| \le z \sqrt{p (1-p)/N}$. Solved
# for $p$:
#
# $$\frac{1}{1 + z^2/N} \left( \hat p + \frac{z^2}{2N} \pm z \sqrt{\frac{\hat p (1 - \hat p)}{N} + \frac{z^2}{4N^2}} \right),
# \qquad z = 1.96 \text{ for } 95\% \tag{3}$$
#
# > **Predict, then see.** A network survives an attack on 36 of 40 images. From where to where does the 95% interval
# > reach? And how many images does it take until the intervals of 85% and 86% no longer overlap?


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
low, high = my_wilson(36, 40)
n = np.arange(1, 100_000)
needed = n[my_wilson(0.85 * n, n)[1] < my_wilson(0.86 * n, n)[0]][0]
lesson.say(
    f"**The answer:** from {low:.0%} to {high:.0%}, {100 * (high - low):.0f} points, and not symmetric. To tell 85% "
    f"from 86% by their intervals takes {needed:,} images: more than CIFAR-10's test set has. Section 3 has a sharper "
    "way."
)

# %% tags=["fold"]
# @title Drawing: how often an interval is right, and how wide it is
true_share, k = np.linspace(0.5, 0.995, 120), np.arange(41)


def coverage(interval):
    low, high = interval(k, 40)
    return np.array([binom.pmf(k, 40, p)[(low <= p) & (p <= high)].sum() for p in true_share])


sizes = np.array([10, 20, 40, 100, 200, 500, 1000, 2000, 5000, 10000])
covers = {"Wilson": coverage(my_wilson), "textbook": coverage(textbook)}
at_95 = {name: np.interp(0.95, true_share, values) for name, values in covers.items()}
page.figure(
    figures.intervals(true_share, covers, 40, sizes=sizes, measured=0.85, ends=my_wilson(0.85 * sizes, sizes)),
    "Left: Wilson's interval holds the truth in about 95% of samples at every accuracy, the textbook interval far "
    "less often near 100%. Right: the Wilson interval around 85% narrows with the number of images.",
    f"Where the true accuracy is 95%, Wilson's interval holds it in **{at_95['Wilson']:.0%}** of all samples of 40 "
    f"images, the textbook one in {at_95['textbook']:.0%}. The teeth come from counting whole images. Right: a tenth "
    "of the images, about three times the width. Both speak of the choice of images only, not of the luck of "
    "training.",
    svg=True,
)

# %% [markdown]
# ## 3 Six networks, one table
#
# Four more networks of the same size: PGD adversarial training (**PGD-AT**), **TRADES** and **MART** (notebook 02), and
# **SupCon-AT** (notebook 05). All attacks start from the same test images and the true labels, with the network in eval
# mode. Attacks query a folded copy; the network itself has the last word.
#
# - **FGSM**: one step of size epsilon.
# - **PGD**: an image counts as broken if *any iterate* on the way is misclassified. Counting the *last iterate* only
#   flatters.
#
# (AutoAttack, a stronger attack, takes long. It starts here in the background; section 5 explains it and shows its
# part.)
#
# > **Predict, then see.** Order the six networks by PGD accuracy. Which one loses most between FGSM and PGD?

# %%
METHODS = ["standard", "pgd_at", "trades", "mart", "supcon_at", "anchor"]
networks = {method: networks[method] if method in networks else network(method) for method in METHODS}


def evaluated(method, attack_names, images, s=config.seed, model=None):
    """One table. A run's folder keeps what is finished: an interrupted evaluation goes on there."""
    folder = runs[method, s].path / "evaluation" if runs else None
    how = {**pgd, "precision": config.eval_precision, "resume": folder}
    return evaluation.evaluate(model or networks[method], images, attack_names, **how).assign(method=method)


# %% tags=["fold"]
# @title In the background: AutoAttack, its screen and its first stage, on few images
possible = autoattack.autoattack_possible(len(dataset.classes))
FULL = METHODS if device.type == "cuda" else ["standard", "anchor"]
n_full = min(config.autoattack_images, len(test))
n_screen = max(n_full, min(config.screen_images, len(test)))
n_ladder = min(200, len(test))
copies = {method: copy.deepcopy(networks[method]) for method in METHODS}


def apgd_ce(method):
    """(n_ladder,) outcome bits of AutoAttack's first stage, for section 4."""
    how = {"epsilon": config.epsilon, "seed": config.seed, "precision": config.eval_precision, "stages": ("apgd-ce",)}
    found = autoattack.autoattack_outcomes(copies[method], images[:n_ladder], labels[:n_ladder], **how)
    return found["apgd-ce"][0].cpu().numpy()


def strong_attacks(method):
    """AutoAttack where it runs, and the screen: AutoAttack, if it ran, has screened the first images on its way."""
    tables, screened, model = [], [], copies[method]
    if method in FULL:
        tables.append(evaluated(method, ("autoattack",), test[:n_full], model=model))
        screened.append(autoattack.screen_rows(tables[0]))
    if len(rest := test[n_full if tables else 0 : n_screen]):
        screened.append(evaluated(method, ("screen",), rest, model=model).tail(1))
    return [*tables, results.join_images(screened)]


# One helper, not more: AutoAttack sets torch's global seed, so only one may run at a time. Nothing else draws from it.
helper = ThreadPoolExecutor(1)
longer = helper.submit(apgd_ce, "anchor") if possible else None
strong = [helper.submit(strong_attacks, method) for method in METHODS] if possible else []

# %%
first = pd.concat([evaluated(method, ("clean", "fgsm", "pgd"), test) for method in METHODS])
first = first.assign(training_seed=config.seed).set_index(["method", "attack"])

# %% tags=["fold"]
# @title The table


def cell(method, attack):
    if (method, attack) not in first.index:
        return "not run"
    row = first.loc[(method, attack)]
    return f"{row['accuracy']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"


ATTACKS = {"clean": "clean", "fgsm": "FGSM", "pgd": pgd_name}


def show_table(attack_names, beside=None):
    """A column an attack; `beside` holds columns that come first."""
    counts = {attack: int(first.loc[("anchor", attack)]["images"]) for attack in attack_names}
    columns = {f"{name}, {counts[a]} images": [cell(m, a) for m in METHODS] for a, name in attack_names.items()}
    display(pd.DataFrame((beside or {}) | columns, index=[plotting.method_name(method) for method in METHODS]))


show_table(ATTACKS)
lesson.say(
    f"Accuracy (eq. 1) and 95% Wilson interval (eq. 3). L-infinity, epsilon = {config.epsilon:g}, attack seed "
    f"{config.seed}, training seed {config.seed}. FGSM: one step of {config.epsilon:g}. {pgd_name}: "
    f"{config.eval_steps} steps of {config.eval_step_size:g}, {config.eval_restarts} random start(s), any iterate."
)
more_seeds = []
for s in range(config.seed + 1, config.seed + config.seeds if models == "train" else 0):
    for method in METHODS:
        model = network(method, s)
        more_seeds.append(evaluated(method, ("clean", "fgsm", "pgd"), test, s, model).assign(training_seed=s))
if more_seeds:
    display(results.over_seeds(pd.concat([first.reset_index(), *more_seeds])).round(4))

# %% tags=["fold"]
# @title The answer
by_pgd = sorted(METHODS, key=lambda m: -first.loc[(m, "pgd")]["accuracy"])
loss_of = {m: first.loc[(m, "fgsm")]["accuracy"] - first.loc[(m, "pgd")]["accuracy"] for m in METHODS}
loser = max(loss_of, key=loss_of.get)
in_order = plotting.method_name(by_pgd[0])
for before, m in itertools.pairwise(by_pgd):
    equal = first.loc[(before, "pgd")]["accuracy"] == first.loc[(m, "pgd")]["accuracy"]
    in_order += f" {'=' if equal else '>'} {plotting.method_name(m)}"
lesson.say(
    f"**The answer:** {in_order} under {pgd_name}: an order of networks of one seed, not of methods. {plotting.method_name(loser)} loses most between FGSM and {pgd_name}: {100 * loss_of[loser]:.1f} points "
    f"of the {100 * first.loc[(loser, 'fgsm')]['accuracy']:.1f} that FGSM left."
)

# %% [markdown]
# ### Compare in pairs
#
# Overlapping intervals do not mean that two networks are equally good. Both saw the *same* images, and most images are
# easy for both or hard for both. These say nothing about the difference. Only images where the bits **differ** do: let
# $b$ be the number that only the first network survives and $c$ the number that only the second survives. The
# difference of the two accuracies and its standard error (se) are
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
def mcnemar(one, other):
    b, c = int((one & ~other).sum()), int((~one & other).sum())
    return b, c, binomtest(b, b + c, 0.5).pvalue if b + c else 1.0  # eq. 5


def difference(one, other, z=Z):
    """The difference, and half the width of its 95% interval: paired, and as if independent."""
    n, (b, c, _) = len(one), mcnemar(one, other)
    paired = np.sqrt(b + c - (b - c) ** 2 / n) / n  # eq. 4
    independent = np.sqrt((one.mean() * (1 - one.mean()) + other.mean() * (1 - other.mean())) / n)
    return (b - c) / n, z * paired, z * independent


def bits(method, attack):
    """The outcome bits (N,) that the table has."""
    row = first.loc[(method, attack)]
    return results.unpack_outcomes(row["outcomes"], int(row["images"]))


outcome = {method: bits(method, "pgd") for method in METHODS}
assert np.isclose(outcome["anchor"].mean(), first.loc[("anchor", "pgd")]["accuracy"])  # eq. 1

# %% tags=["fold"]
# @title Drawing: ANCHOR minus each other method
rivals = [method for method in METHODS if method not in ("standard", "anchor")]
differences = {method: difference(outcome["anchor"], outcome[method]) for method in rivals}
closest = min(rivals, key=lambda method: mcnemar(outcome["anchor"], outcome[method])[2])
b, c, p_closest = mcnemar(outcome["anchor"], outcome[closest])
gain = np.mean([independent / max(paired, 1e-9) for _, paired, independent in differences.values()])
page.figure(
    figures.paired_differences(differences, pgd_name),
    "Difference in PGD accuracy between ANCHOR and each other robust method, with a paired 95% interval and one as if "
    "independent.",
    f"Pairing makes these intervals {gain:.1f} times narrower. Smallest p: against {plotting.method_name(closest)}, "
    f"where ANCHOR alone survives {b} images and the other alone {c}, **p = {p_closest:.2g}**; {len(rivals)} "
    f"comparisons, so multiply it by {len(rivals)} (Bonferroni). An interval across the line cannot tell the two "
    "apart. One training seed: two networks, not methods.",
    svg=True,
)

# %% [markdown]
# ### One draw among eight
#
# A paired interval is about other test images, for *these* networks. What another training seed would give, only other
# training seeds can say. Eight of each method come with the course: digits, the settings of the preset `cpu`.
#
# > **Predict, then see.** Are the networks of one method closer together than the methods are?

# %% tags=["fold"]
# @title Drawing: the networks of this run among eight stored seeds
VARIANTS = {"pgd_at": "pgd_at", "trades": "trades", "mart": "mart", "supcon_at": "supcon_at", "beta10": "anchor"}
stored = mining.seeds_of(PRETRAINED_DIR / "study.json", VARIANTS, "pgd", images=len(test))
here = {method: outcome[method].mean() for method in stored} if preset == "cpu" and not overrides else {}
spread = {method: 100 * accuracies.std(ddof=1) for method, accuracies in stored.items()}
means = 100 * np.array([accuracies.mean() for accuracies in stored.values()])
draws = np.stack([*stored.values()]).T  # a row a seed: one network of each method
other = int(sum((draw.argsort() != means.argsort()).any() for draw in draws))
page.figure(
    figures.stored_seeds(stored, here, pgd_name),
    "Accuracy under PGD of eight stored networks of each of five methods, one dot each, and of this run's networks as diamonds.",
    f"Networks of one method have a standard deviation of up to **{max(spread.values()):.1f}** points, the means of the methods "
    f"of {means.std(ddof=1):.1f}; {other} of {len(draws)} seeds put the methods in another order than the means. Strokes are means; "
    "diamonds are the networks of this run, where it has the stored settings.",
    svg=True,
)

# %% [markdown]
# ### Class by class
#
# A mean hides who pays. An attacker may choose the image, and then the *weakest* class is what counts.

# %% tags=["fold"]
# @title Drawing: accuracy of each class
names = [name for k, name in enumerate(dataset.classes) if (labels == k).any()]
of_class = [(labels == k).cpu().numpy() for k in range(len(dataset.classes)) if (labels == k).any()]
by_class = {method: np.array([outcome[method][own].mean() for own in of_class]) for method in METHODS}
ends = np.array([results.wilson(int(outcome["anchor"][own].sum()), int(own.sum())) for own in of_class])
clean = bits("anchor", "clean")
weak, strongest = int(by_class["anchor"].argmin()), int(by_class["anchor"].argmax())
also = sum(int(by_class[method].argmin()) == weak for method in rivals)
page.figure(
    figures.accuracy_by_class(
        names,
        np.array([clean[own].mean() for own in of_class]),
        by_class["anchor"],
        ends,
        {method: by_class[method] for method in rivals},
        attack=pgd_name,
    ),
    "For each class the accuracy of ANCHOR, clean and under PGD with a 95% interval, and of four other methods under "
    "PGD.",
    f"Under {pgd_name} ANCHOR keeps **{by_class['anchor'][weak]:.0%}** of class {names[weak]} and "
    f"{by_class['anchor'][strongest]:.0%} of class {names[strongest]}. For {also} of the {len(rivals)} other methods "
    f"the same class is the weakest. The smallest class here has {min(own.sum() for own in of_class)} images, and the "
    "minimum of several noisy numbers is too low on average.",
    svg=True,
)

# %% [markdown]
# ## 4 Attacks made for this network
#
# The column "PGD" is *one* attack: so many steps, one loss. Whoever attacks ANCHOR in earnest makes attacks for ANCHOR.
# PGD can climb *any* loss $\ell$ of the image. With $\Pi$ cutting back to the ball and to $[0, 1]$:
#
# $$x^{(t+1)} = \Pi\bigl(x^{(t)} + \alpha \operatorname{sign} \nabla_x\, \ell(x^{(t)})\bigr), \qquad
# \text{bit} = \prod_{t} \mathbb 1\bigl[f(x^{(t)}) = y\bigr] \tag{6}$$
#
# Whatever is climbed, what *counts* is the classifier, at any iterate. All that ANCHOR knows of an image is in its
# features $h$, so the losses below are functions of $h$.


# %%
def climb(model, loss, x, y, alpha, steps):
    """PGD on a loss of the features; outcome bits (N,), and of each image the iterate that broke it, or the last."""
    x_t = attacks.random_point(x, config.epsilon, generator=torch.Generator().manual_seed(config.seed))
    standing, shown = torch.ones_like(y, dtype=torch.bool), x_t
    for step in range(steps + 1):
        x_t = x_t.detach().requires_grad_()
        h = model.encode(x_t)
        shown = torch.where(standing[:, None, None, None], x_t, shown).detach()
        standing = standing & model.classifier(h).argmax(1).eq(y)  # eq. 6
        if step < steps:
            (gradient,) = torch.autograd.grad(loss(h).sum(), x_t)
            x_t = x + (x_t + alpha * gradient.sign() - x).clamp(-config.epsilon, config.epsilon)
            x_t = x_t.clamp(0, 1)
    return standing, shown


# %% [markdown]
# The attacker knows how ANCHOR was trained, and goes for its parts:
#
# - **more steps** on the cross-entropy: five times as many, of half the size;
# - **towards a wrong class**: its logit minus that of the true one. *Wrong class 1* is the one with the largest logit,
#   2 the next. Cross-entropy climbs wherever it is steepest at first;
# - **its features**: away from the image's own clean features, whatever the classifier says;
# - **its contrastive loss**: away from its positives. The embedding $z$ of the attacked image is the *anchor
#   embedding*, training images are the others, with cosines $c$; hardness $\beta$ and temperature $\tau$ are those of
#   its training (notebook 05):
#
# $$\ell = - \sum_{p:\, y_p = y} w_p \log q_p, \qquad w \propto e^{-\beta c} \text{ over positives}, \qquad
# q \propto e^{c / \tau} \text{ over all} \tag{7}$$
#
# > **Predict, then see.** The last two never look at the classifier. Will they break it? And on how many of the images
# > that PGD left standing does some other attack succeed: none, a handful, or half?


# %%
reference = dataset.train[:500].to(device)  # the other views of the contrastive loss


def losses_of(model, x, y):
    """Losses (N,) as functions of features h (N, D): of the logits, of the features themselves, of the embeddings."""
    with torch.no_grad():
        clean, z = model.encode(x), model.project(model.encode(reference.inputs()))
        wrong = model.classifier(clean).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    positive = y[:, None] == reference.labels

    def cross_entropy(h):
        return F.cross_entropy(model.classifier(h), y, reduction="none")

    def towards(h, rank):
        logits = model.classifier(h)
        return (logits.gather(1, wrong[:, rank, None]) - logits.gather(1, y[:, None]))[:, 0]

    def features(h):
        return -F.cosine_similarity(h, clean)

    def contrastive(h):
        cosine = model.project(h) @ z.T
        w = (-config.beta * cosine.detach()).masked_fill(~positive, -1e9).softmax(1)
        return -(w * (cosine / config.temperature).log_softmax(1)).sum(1)  # eq. 7

    ranks = range(min(2, wrong.shape[1] - 1))
    return cross_entropy, [lambda h, rank=rank: towards(h, rank) for rank in ranks], features, contrastive


# %%
def attacked(model, x, y):
    """Of each attack, by name, what `climb` returns."""
    cross_entropy, towards, features, contrastive = losses_of(model, x, y)
    one, few = config.eval_step_size, config.eval_steps
    plan = {f"PGD-{5 * few}": (cross_entropy, one / 2, 5 * few)}
    plan |= {f"towards wrong class {rank}": (loss, one, few) for rank, loss in enumerate(towards, 1)}
    plan |= {"its features": (features, one, few), "its contrastive loss": (contrastive, one, few)}
    return {name: climb(model, loss, x, y, alpha, steps) for name, (loss, alpha, steps) in plan.items()}


anchor = fold_batchnorm(networks["anchor"])  # the same function, faster
clean = torch.from_numpy(bits("anchor", "clean")[:n_ladder]).to(device)
x, y = images[:n_ladder][clean], labels[:n_ladder][clean]
found = attacked(anchor, x, y)

# %% tags=["fold"]
# @title Computing: the ladder of attacks, and PGD's worst images
ladder = {"FGSM": bits("anchor", "fgsm")[:n_ladder], pgd_name: bits("anchor", "pgd")[:n_ladder]}


def on_all(right):
    """Bits of all images from those of the ones that are right to begin with."""
    whole = clean.clone()
    whole[clean] = right
    return whole.cpu().numpy()


if not possible:
    lesson.say(
        "**AutoAttack and the screen are left out**: their targeted attacks need four classes, and this data set has "
        f"{len(dataset.classes)}."
    )
ladder |= {name: on_all(right) for name, (right, _) in found.items()}
if possible:
    ladder["APGD-CE"] = longer.result()
ladder["all together"] = np.all(list(ladder.values()), axis=0)  # eq. 2
left, together = ladder[pgd_name], ladder["all together"]
late = left & ~together
made = int((left & ~(ladder["its features"] & ladder["its contrastive loss"])).sum())  # by attacks on what ANCHOR is
# The table's PGD once more, now for the images themselves: the same seed gives the same random start.
worst = images[:n_ladder].clone()
if len(x):
    start = torch.Generator().manual_seed(config.seed)
    how = {**config.evaluation(), "restarts": config.eval_restarts, "keep": "worst", "generator": start}
    worst[clean] = attacks.pgd(anchor, x, y, **how)
margin = -attacks.margin(evaluation.logits_of(networks["anchor"], worst), labels[:n_ladder]).cpu().numpy()
breaks = {
    name: int((left & ~bit).sum()) for name, bit in ladder.items() if name not in ("FGSM", pgd_name, "all together")
}

# %% tags=["fold"]
# @title Drawing: the ladder, image by image
places = np.searchsorted(np.sort(margin[left]), margin[late]) + 1
page.figure(
    figures.attack_ladder(
        np.stack(list(ladder.values())), list(ladder), margin, images[:n_ladder].cpu().numpy(), last="another attack"
    ),
    "Top: a matrix of attacks by images, blue cells survive, orange cells are broken, at the right the accuracy "
    "after each attack. Middle: bars with the logit margin after PGD. Bottom: images, framed where another attack "
    "broke what PGD had left.",
    f"{pgd_name} leaves {left.sum()} of {n_ladder} images, all attacks together **{together.sum()}**: {late.sum()} "
    f"more fall, {made} of them to the attacks made for ANCHOR. A column is an image, a row an attack; the last row is eq. 2. Short "
    "pink bars: PGD was close. Attacks that we did not think of are not in the last row.",
)
lesson.say(
    f"**The answer:** of the {left.sum()} images that {pgd_name} left, "
    + ", ".join(f"{name} breaks {count}" for name, count in breaks.items())
    + f". On its own, the attack on the contrastive loss leaves {ladder['its contrastive loss'].mean():.1%}, "
    f"{pgd_name} {left.mean():.1%}, the attack on the features {ladder['its features'].mean():.1%} of {n_ladder} "
    "images."
    + (
        f" By margin after {pgd_name}, smallest first, the late ones stand at place "
        f"{', '.join(map(str, sorted(places)))}."
        if late.any()
        else ""
    )
)

# %% [markdown]
# One image, attack by attack. It is one that PGD left standing and another attack breaks, where there is one.

# %% tags=["fold"]
# @title Drawing: a slider through the attacks on one image
hits = sum((~ladder[name]).astype(int) for name in found)  # of the attacks that are shown
urgency = np.where(late, margin - 1e6 * (1 + hits), np.where(left, margin, np.inf))
chosen = int(urgency.argmin())
one, label = images[chosen : chosen + 1], labels[chosen : chosen + 1]
tries = {"clean": one}
tries["noise"] = attacks.random_point(one, config.epsilon, generator=torch.Generator().manual_seed(config.seed))
tries["FGSM"] = attacks.fgsm(anchor, one, label, epsilon=config.epsilon)
tries[pgd_name] = worst[chosen : chosen + 1]
if clean[chosen]:
    position = int(clean[:chosen].sum())
    tries |= {name: last[position : position + 1] for name, (_, last) in found.items()}
frames, outcomes = [], []
for name, tried in tries.items():
    probabilities = evaluation.logits_of(anchor, tried).softmax(1)[0].cpu().numpy()
    outcomes.append(int(probabilities.argmax()) == int(label))
    shown = (tried[0].cpu().numpy(), (tried - one)[0].cpu().numpy(), probabilities)
    frames.append(figures.one_attack(*shown, dataset.classes, true=int(label), title=name))
page.slider(
    "attack",
    list(tries),
    frames,
    "An attacked image, what was added to it, and the probability of each class.",
    f"Test image {chosen}, true class {dataset.classes[int(label)]}: {outcomes.count(False)} of {len(tries)} tries "
    "end in a wrong class. Blue is the true class, orange a wrong one that wins. All tries stay within the same "
    "epsilon; they differ in where they go. Shown is the iterate that broke the image, or the last one.",
    start=list(tries).index(pgd_name),
    strip=3,
)

# %% [markdown]
# ## 5 AutoAttack, and networks with a gap
#
# **AutoAttack**, standard version ([2003.01690](https://arxiv.org/abs/2003.01690)), is four attacks in a row, each on
# the images that still stand:
#
# - **APGD-CE**: PGD on cross-entropy, 100 steps whose size adapts itself.
# - **APGD-T**: the same towards one class after another, the 9 other ones with the largest logits, on a ratio of logit
#   differences (the *targeted DLR loss*) that no softmax can flatten.
# - **FAB-T**: looks for the closest point across a decision border.
# - **Square**: 5,000 queries, no gradient.
#
# The **screen** is the first two of the four: cheaper, good for sorting candidates, and *not* AutoAttack.
#
# AutoAttack has no settings that a careless author could choose badly. That makes it a fine *minimum*. It does not make
# it the last word: Tramer et al. ([2002.08347](https://arxiv.org/abs/2002.08347)) broke thirteen published defences,
# each with an attack made for it. AutoAttack knows nothing of *your* defence: not the part without a derivative, not
# the random draw, not the detector.
#
# On a small machine AutoAttack and its screen see few images. PGD's column counts the same ones:

# %% tags=["fold"]
# @title What AutoAttack leaves of the networks of this run
parts = [part.assign(training_seed=config.seed) for found_there in strong for part in found_there.result()]
helper.shutdown()
table = pd.concat([first.reset_index(), *more_seeds, *parts], ignore_index=True)
path = Path(config.runs_dir) / "results" / preset / "06_table.json"
results.save_results(path, table, config=config.model_dump(), preset=preset)
first = table[table["training_seed"] == config.seed].set_index(["method", "attack"])


def pgd_on_first(method, count):
    """PGD's accuracy and its interval on the first images, those that AutoAttack or its screen saw."""
    bit = bits(method, "pgd")[:count]
    low, high = results.wilson(int(bit.sum()), len(bit))
    return f"{bit.mean():.1%} [{low:.1%}, {high:.1%}]"


if possible:
    ATTACKS |= {"screen": "screen", "autoattack": "AutoAttack"}
    same = {f"{pgd_name}, {n} images": [pgd_on_first(m, n) for m in METHODS] for n in sorted({n_full, n_screen})}
    show_table({attack: ATTACKS[attack] for attack in ("screen", "autoattack")}, same)
    price = {a: first.loc[("anchor", a)]["seconds"] / first.loc[("anchor", a)]["images"] for a in ("pgd", "autoattack")}
    lesson.say(
        "APGD-CE and APGD-T for the screen, 100 steps each; AutoAttack in the standard version. Both query the "
        f"network in {first.loc[('anchor', 'screen')]['precision']}. With {n_screen} images an interval reaches over "
        f"some {100 * np.diff(results.wilson(n_screen * 3 // 4, n_screen))[0]:.0f} points: that orders no networks. "
        f"AutoAttack took {price['autoattack']:.2g} seconds an image, beside other work and in a small batch, "
        f"**{price['autoattack'] / max(price['pgd'], 1e-9):,.0f} times** as long as {pgd_name}."
    )

# %% [markdown]
# So look at more images. The CIFAR-10 networks that come with the course were measured on 1,000, and every bit was
# stored; two of full width were measured on a GPU.
#
# > **Predict, then see.** Which of the four stages takes most from PGD's promise, and how many points: 1, 4 or 10?

# %% tags=["fold"]
# @title Computing: the stored networks
PIECES = ["autoattack/apgd-ce", "autoattack/apgd-t", "autoattack/fab-t", "autoattack/square"]
study = json.loads((PRETRAINED_DIR / "study.json").read_text(encoding="utf-8"))["sweeps"]["cifar10_cpu"]
wide_study = json.loads((PRETRAINED_DIR / "width64.json").read_text(encoding="utf-8"))["sweeps"]["prototype"]


def reached(rows):
    """(accuracy, low, high) of PGD and of each stage, where bits are stored of the same images; and these bits."""
    count = rows[PIECES[-1]]["images"]
    known = {
        a: results.unpack_outcomes(rows[a]["outcomes"], rows[a]["images"])[:count]
        for a in rows
        if "outcomes" in rows[a]
    }
    whole = {a: (rows[a]["accuracy"], rows[a]["low"], rows[a]["high"]) for a in rows}
    return whole | {a: (bit.mean(), *results.wilson(int(bit.sum()), count)) for a, bit in known.items()}, known


stored = []
for trained in [*study, *wide_study]:
    rows = {row["attack"]: row for row in trained["rows"] if row.get("checkpoint") != "last" or trained in wide_study}
    if PIECES[-1] not in rows or trained["method"] == "standard":
        continue
    values, known = reached(rows)
    counts = [rows[PIECES[-1]]["images"]]
    if not known:  # without stored bits PGD's number is that of more images
        counts.insert(0, rows["pgd"]["images"])
    name = f"{plotting.method_name(trained['method'])}, width {trained['config']['width']}"
    name += f"\n{' and '.join(f'{count:,}' for count in counts)} images"
    entry = {"promised": values["pgd"], "first": values[PIECES[0]], "left": values[PIECES[-1]]}
    stored.append({"method": trained["method"], "name": name, "bits": known, "rows": rows, "values": values, **entry})
stored.sort(key=lambda network: ("64" not in network["name"], -network["promised"][0]))

# %% tags=["fold"]
# @title Drawing: the stored networks, from PGD's promise to AutoAttack
small = [network for network in stored if network["bits"]]
gaps = {n["name"]: 100 * (n["promised"][0] - n["left"][0]) for n in stored}
paired = [gaps[network["name"]] for network in small]
queries = " or ".join(sorted({network["rows"][PIECES[0]].get("precision", "float32") for network in stored}))
drops = np.array([-np.diff([network["values"][a][0] for a in ("pgd", *PIECES)]) for network in small])
stage = int(drops.mean(0).argmax())
stage_names = ["APGD-CE", "APGD-T", "FAB-T", "Square"]
promise = f"PGD-{stored[0]['rows']['pgd']['steps']}"
page.figure(
    figures.promised_and_left(stored, promise=promise),
    "For stored CIFAR-10 networks, one a row, the accuracy under PGD, after APGD-CE and under AutoAttack with a 95% "
    "interval; a bar shows the gap.",
    f"On the same 1,000 images (width 16) AutoAttack leaves {min(paired):.1f} to **{max(paired):.1f} points** less than {promise} promised: "
    "disc to diamond was no robustness. The tick is APGD-CE. Width 64: up to "
    f"{max(gaps.values()):.1f}, but PGD on 10,000 images, AutoAttack on 1,000, so a part may be the images. AutoAttack's queries: {queries}.",
    svg=True,
)

# %% tags=["fold"]
# @title The answer
both = {network["name"]: mcnemar(network["bits"]["pgd"], network["bits"][PIECES[-1]]) for network in small}
standing = np.mean([[network["bits"][a].sum() for a in ("clean", *PIECES)] for network in small], axis=0)
stages = "\n".join(
    f"| {name} | {before:.1f} | {before - after:.1f} | {after:.1f} |"
    for name, (before, after) in zip(stage_names, itertools.pairwise(standing), strict=True)
)
about = stored[0]["rows"]["pgd"]
lesson.say(
    f"**The answer:** {stage_names[stage]}, {100 * drops.mean(0)[stage]:.1f} points on average over the {len(small)} "
    f"robust networks of width 16. Of 1,000 images, on average:\n\n| stage | sees | breaks | leaves |\n|:--|--:|--:|--:|\n"
    f"{stages}\n\nA later stage sees only the images that the earlier ones left, so a small number in its row does not "
    f"make it a weak attack. {promise} leaves {np.mean([network['bits']['pgd'].sum() for network in small]):.1f}."
)
lesson.say(
    f"Image by image, {promise} broke {min(c for _, c, _ in both.values())} to "
    f"{max(c for _, c, _ in both.values())} images of 1,000 that AutoAttack left, AutoAttack "
    f"{min(b for b, _, _ in both.values())} to {max(b for b, _, _ in both.values())} that {promise} left. Epsilon = "
    f"{about['epsilon']:g}, PGD steps of {about['step_size']:g}, {about['restarts']} random start, {about['iterate']} "
    "iterate; one training seed each; width 16 after a few epochs on a part of CIFAR-10, width 64 after "
    f"{wide_study[0]['seconds']['given']:g} seconds on one {wide_study[0]['device']}, by a prototype: no comparison "
    "of methods."
)
longest = max(breaks, key=breaks.get)
lesson.say(
    f"APGD-CE climbs PGD's own loss for longer and leaves {100 * drops.mean(0)[0]:.1f} points less than {promise}: on "
    f"that loss {'little' if drops.mean(0)[0] < 1 else 'more'} was left to find. In section 4, "
    f"on {dataset.name.partition(':')[0]}, the attack that broke most of what {pgd_name} left was {longest} "
    f"({breaks[longest]} images)."
)

# %% [markdown]
# **Why not train with AutoAttack?** Because of the price above, once for each image in each epoch. Because training
# needs less: a rough maximum gives a good enough direction for the weights, and a few steps of PGD find one. And
# because whoever trains on the exam can no longer be examined: a network may learn to hide from the attack it sees.
# Keep one for the test.

# %% tags=["fold"]
# @title A network of full width, attacked here (with models = "pretrained")
wide, n_wide = None, min(len(test), 500 if device.type == "cuda" else 60)
if models == "pretrained":
    try:
        wide = fold_batchnorm(pretrained("pgd_at", width=64).to(device))
    except FileNotFoundError as error:  # an installed package leaves so large a file out
        print(error)
if wide is None:
    lesson.say(
        'With `models = "pretrained"`, in a clone of the repository, a network of full width is attacked here, on real '
        f"images. In this run the {len(stored)} stored ones above stand for it."
    )
else:
    x, y = images[:n_wide], labels[:n_wide]
    cross_entropy, towards, *_ = losses_of(wide, x, y)
    how = (x, y, config.eval_step_size, config.eval_steps)
    wide_bits = {"clean": evaluation.clean_outcomes(wide, x, y)}
    wide_bits[pgd_name], last = climb(wide, cross_entropy, *how)
    wide_bits |= {f"towards wrong class {rank}": climb(wide, loss, *how)[0] for rank, loss in enumerate(towards, 1)}
    wide_bits["all together"] = torch.stack(list(wide_bits.values())).all(0)
    wide_bits = {name: bit.cpu().numpy() for name, bit in wide_bits.items()}
    wide_margin = -attacks.margin(evaluation.logits_of(wide, last), y).cpu().numpy()
    left_wide, all_wide = wide_bits[pgd_name].sum(), wide_bits["all together"].sum()
    ends = " to ".join(f"{end:.0%}" for end in results.wilson(int(all_wide), n_wide))
    page.figure(
        figures.attack_ladder(
            np.stack(list(wide_bits.values())),
            list(wide_bits),
            wide_margin,
            x.cpu().numpy(),
            network="PGD-AT, width 64",
        ),
        "A matrix of attacks by images for the PGD-AT network of full width, blue cells survive, orange cells are "
        "broken; below it the logit margin after PGD, and the images, framed where an attack towards a class broke "
        "what PGD had left.",
        f"Of {n_wide} images {pgd_name} leaves {left_wide}, together with the same PGD towards two classes "
        f"**{all_wide}** ({ends}). Pink: left standing by PGD, broken by a walk towards a class. On so few images "
        "expect few, or none.",
    )

# %% [markdown]
# ### Optional · A network of a public zoo
#
# **RobustBench** (Croce et al., [2010.09670](https://arxiv.org/abs/2010.09670)) collects networks of many authors and measures
# each with AutoAttack. Attack one yourself: *Wong2020Fast*, trained with one-step attacks from random starts
# ([2001.03994](https://arxiv.org/abs/2001.03994)). How far above its AutoAttack accuracy on the
# [leaderboard](https://robustbench.github.io) will PGD stay? Then go lower: more steps, restarts, `loss="margin"`.
#
# This needs three things that the course does not bring: the package `robustbench`, the network's weights (downloaded) and
# CIFAR-10's test images (downloaded). We have tested this part with a stand-in for the package only, never on the real network.

# %%
attack_zoo = False  # @param {type:"boolean"}
zoo_attack = {"epsilon": 8 / 255, "step_size": 2 / 255, "steps": 20, "restarts": 1}  # epsilon is the leaderboard's
if attack_zoo:
    try:
        theirs = zoo.attack_network("Wong2020Fast", 50, config.data_root, device=device, **zoo_attack)
        display(theirs[["attack", "accuracy", "low", "high", "images", *zoo_attack, "iterate", "attack_seed"]].round(4))
    except zoo.ZooError as missing:
        lesson.say(f"**Skipped:** {missing}")
else:
    lesson.say("**Skipped:** `attack_zoo` is False. Nothing was imported or downloaded.")

# %% [markdown]
# ## 6 The cliff
#
# A ball contains every smaller ball. So an image that is broken at one epsilon stays broken at each larger one, and
# only images that still stand need another attack: the curves fall by construction, and cost less.
#
# > **Predict, then see.** The robust networks were trained at one epsilon. What happens 15% beyond it? And how accurate
# > can *any* classifier be at epsilon = 0.5 or more, where every image can be turned into the same plain grey?


# %%
n_curve = min(100, len(test))
x, y = images[:n_curve], labels[:n_curve]


def nested(model, epsilons, known=None):
    """Outcome bits (epsilons, N): at each epsilon PGD on the images that all smaller ones left standing."""
    history = [evaluation.clean_outcomes(model, x, y)]
    for epsilon in epsilons[1:]:
        standing, index = history[-1].clone(), history[-1].nonzero().flatten()
        radius = {"epsilon": epsilon, "step_size": config.eval_step_size * epsilon / config.epsilon}
        if epsilon == config.epsilon and known is not None:  # the table has them
            standing &= torch.from_numpy(known[:n_curve]).to(device)
        elif len(index):
            standing[index] = evaluation.pgd_outcomes(model, x[index], y[index], **pgd | radius)
        history.append(standing)
    return torch.stack(history).cpu().numpy()


factors = (0, 0.5, 1, 1.15, 1.3, 1.5, 2, 4, 8)
epsilons = [factor * config.epsilon for factor in factors if factor <= 1 or factor * config.epsilon <= 0.62]
curves = {method: nested(networks[method], epsilons, outcome[method]) for method in METHODS}

# %% [markdown]
# A fall at the same place for one method after another is a **cliff**, and asks for a reason. Are the images to blame,
# which have become too alike? Or have the networks learned a number, a **threshold** below which a pixel does not
# count? Two tests:
#
# 1. Show the first layer a plain grey image instead of a black one. From which brightness on does it notice?
# 2. Put a threshold at 0.5 before the *same* network: the rounding from above with $k = 1$, attacked straight through.
#    If the images were the cause, the cliff stays. If the threshold is, it moves.


# %%
def first_layer(model, levels):
    """How far the first layer's answer to a plain grey is from its answer to black; that of white is 1."""
    grey, model = levels.view(-1, 1, 1, 1).expand(-1, *images.shape[1:]), fold_batchnorm(model)
    answer = model.stem((grey - model.mean) / model.std)
    middle = answer[:, :, answer.shape[2] // 2, answer.shape[3] // 2]  # away from the border
    moved = (middle - middle[0]).norm(dim=1)
    return (moved / moved[-1].clamp_min(1e-12)).cpu().numpy()


levels = torch.linspace(0, 1, 101, device=device)
answers = {method: first_layer(networks[method], levels) for method in METHODS}
moved = nested(Rounding(anchor, k=1, straight_through=True), epsilons)
bare = Rounding(standard, k=1, straight_through=True)
bare_left = share(evaluation.pgd_outcomes(bare, x, y, **pgd))
free = ((x - 0.5).abs() <= config.epsilon).float().mean().item()  # pixels that can cross the threshold at all

# %% tags=["fold"]
# @title Drawing: the cliff and the threshold
deaf = {m: float(levels[max(0, int((answer > 0.01).argmax()) - 1)]) for m, answer in answers.items()}
trained_at = epsilons.index(config.epsilon)
beyond = min(trained_at + 1, len(epsilons) - 1)
page.figure(
    figures.cliff(
        epsilons,
        {method: outcomes.mean(1) for method, outcomes in curves.items()},
        moved.mean(1),
        levels.cpu().numpy(),
        answers,
        epsilon=config.epsilon,
        images=n_curve,
    ),
    "Left: accuracy under PGD against epsilon for six networks, and for ANCHOR behind a threshold at 0.5. Right: how "
    "much the first layer of each network notices of a plain grey image, against its brightness.",
    f"ANCHOR's first layer notices nothing below brightness **{deaf['anchor']:.2f}**, the ordinary one's below "
    f"{deaf['standard']:.2f}; training epsilon is {config.epsilon:g}. At epsilon {epsilons[beyond]:.3g} ANCHOR keeps "
    f"{curves['anchor'][beyond].mean():.0%}, behind a threshold at 0.5 {moved[beyond].mean():.0%}. Grey lines: the "
    "other trained networks. A plain grey says nothing about patterns.",
    svg=True,
)
at = [curves[method].mean(1) for method in METHODS if method != "standard"]
lesson.say(
    f"**The answer:** the five adversarially trained networks have {min(a[trained_at] for a in at):.0%} to "
    f"{max(a[trained_at] for a in at):.0%} at epsilon {config.epsilon:g} and {min(a[beyond] for a in at):.0%} to "
    f"{max(a[beyond] for a in at):.0%} at {epsilons[beyond]:.3g}. From epsilon = 0.5 on no classifier can beat the "
    f"share of the commonest class, {y.bincount().max() / n_curve:.0%} of these images. The *ordinary* network behind "
    f"the threshold at 0.5, never trained to be robust, keeps {bare_left[0]:.0%} [{bare_left[1]:.0%}, "
    f"{bare_left[2]:.0%}] at {config.epsilon:g} under the adapted attack; behind the rounding to 16 levels it kept "
    f"{truth['standard, rounding'][2][0]:.0%}. Of all pixels {free:.0%} lie within {config.epsilon:g} of the "
    "threshold; no attack whatever carries another one across it."
)

# %% [markdown]
# Robust at *one* epsilon is not robust "as such": it is a fact about the training. And the two roundings, the same line
# of code, are not the same thing. One hides what the attacker can change. The other can *remove* it, where pixels are
# black or white anyway. Only an attack that knows the code tells them apart, and even then the number is an upper
# bound.
#
# ## 7 Robust, or only hard to attack?
#
# Why did PGD fail on the two defences at the top? It only knows what `autograd` reports.
#
# - **Rounding** is flat, so its derivative is zero nearly everywhere.
# - **Loud logits** saturate the softmax: in float32 the gradient of the cross-entropy becomes exactly zero on nearly
#   every image that is classified correctly.
#
# This is *gradient masking*, or *obfuscated gradients* (Athalye et al., [1802.00420](https://arxiv.org/abs/1802.00420),
# who broke, wholly or in part, all defences of one conference that relied on it).
#
# We walk from one image in the direction of FGSM against the *undefended* network, and draw each network's
# cross-entropy.

# %%
# An image that the standard network classifies correctly, but not so surely that its loss is flat at zero.
surely = -attacks.margin(evaluation.logits_of(standard, images), labels)
i = int((surely - 2).abs().where(surely > 0, torch.inf).argmin())
x, y = images[i : i + 1], labels[i : i + 1]
direction = (attacks.fgsm(standard, x, y, epsilon=config.epsilon, loss="margin") - x) / config.epsilon


def walk(model, points=121):
    """Cross-entropy at x + t * direction for t from 0 to epsilon, and its derivative by t as autograd sees it."""
    t = torch.linspace(0, config.epsilon, points, device=device).requires_grad_()
    path = (x + t.view(-1, 1, 1, 1) * direction).clamp(0, 1)
    losses = attacks.cross_entropy(model(path), y.expand(points))
    (slopes,) = torch.autograd.grad(losses.sum(), t)
    return tuple(v.detach().cpu().numpy() for v in (t, losses, slopes))


walks = {name: walk(defences[name]) for name in defences if name != "ANCHOR"}

# %% tags=["fold"]
# @title Drawing: the loss on a walk, and the slope that PGD sees
flat = {name: (slopes == 0).mean() for name, (_, _, slopes) in walks.items()}
rounded, silent = flat["standard, rounding"], flat["standard, loud logits"]
page.figure(
    figures.losses_on_a_walk(walks, config.epsilon),
    "Three curves of the loss along one direction, with short strokes that have the slope autograd reports: without "
    "defence along the curve, with rounding flat on its stairs, and with loud logits flat where the loss is zero.",
    f"The slope is exactly zero at {flat['standard']:.0%}, **{rounded:.0%}** and {silent:.0%} of the points. Orange "
    "strokes have the slope that autograd reports, all that PGD knows. Rounding: the loss moves in stairs, and every "
    "stroke lies flat. Loud logits: where the network is right, nothing seems to be gained. One image, one direction.",
    svg=True,
)
for name, caught in said.items():
    print(f"{name}: {caught[0].message if caught else 'no warning'}")

# %% [markdown]
# ### Checks that need no idea of the defence
#
# Here we knew where the trick was. But hidden gradients leave traces in anybody's network (Carlini et al.,
# [1902.06705](https://arxiv.org/abs/1902.06705)): noise, transferred or gradient-free attacks that do better than the
# gradient, a huge epsilon that does not win, another loss that attacks better. `gradient_masking_checks` runs eight of
# them. For the *transfer*, attacked images come from a **surrogate**: PGD-AT's network for ANCHOR, the undefended one
# for the two defences.

# %%
checked = {
    "rounding": (defences["standard, rounding"], standard, 20),
    "loud logits": (defences["standard, loud logits"], standard, 20),
    "ANCHOR": (networks["anchor"], networks["pgd_at"], 40),
}
how = {**config.evaluation(), "square_queries": 100, "tolerance": 0.03, "seed": config.seed}
checks = {
    name: masking.gradient_masking_checks(model, images[:count], labels[:count], **how, surrogate=surrogate)
    for name, (model, surrogate, count) in checked.items()
}

# %% tags=["fold"]
# @title Drawing: which check fails where
failed = {name: int((check["passed"] == False).sum()) for name, check in checks.items()}  # noqa: E712
evidence = {
    f"{name}, {min(checked[name][2], len(test))} images": {
        row["check"]: (bool(row["passed"]), row["evidence"]) for row in check.to_dict("records")
    }
    for name, check in checks.items()
}
page.figure(
    figures.check_matrix(evidence, config.eval_steps),
    "A matrix of eight checks by three models. Each cell says pass or fail and the accuracies that were compared; "
    "failures are orange.",
    f"Of eight checks rounding fails **{failed['rounding']}**, loud logits {failed['loud logits']}, ANCHOR "
    f"{failed['ANCHOR']}. Numbers are the percentages compared. A failed check says that the PGD number is not to be "
    "believed, not what the true one is. Passing all is no proof; with so few images an image is several points.",
    svg=True,
)

# %% [markdown]
# ### Exercise 1 · Diagnose an unknown defence
#
# A, B and C each wrap the ordinary network. Their code is folded away; do not look. PGD as it is leaves so many images:

# %% tags=["fold"]
# @title Three unknown defences (do not open)


class Ripple(nn.Module):
    def __init__(self, model, frequency=20000):
        super().__init__()
        self.model, self.frequency = model, frequency

    def ripple(self, x):
        generator = torch.Generator().manual_seed(0)  # the same wave at every call, another one for every pixel
        faster, phase = torch.rand(2, *x.shape[1:], generator=generator).to(x.device)
        return x + 0.005 * torch.sin(self.frequency * (1 + faster / 2) * x + 2 * torch.pi * phase)

    def forward(self, x):
        return self.model(self.ripple(x))


unknown = {"A": Ripple(standard), "B": LoudLogits(standard, 3e4), "C": Rounding(standard, k=12)}
x, y = images[:n_broken], labels[:n_broken]
with warnings.catch_warnings(action="ignore", category=attacks.VanishedGradientWarning):
    unknown_left = {name: int(evaluation.pgd_outcomes(model, x, y, **pgd).sum()) for name, model in unknown.items()}
for name, count in unknown_left.items():
    low, high = results.wilson(count, n_broken)
    print(f"{name}: {pgd_name} as it is leaves {count} of {n_broken} images ({low:.0%} to {high:.0%})")

# %% [markdown]
# Write `diagnose(model, x, y, epsilon)`. It gets a network of which you know nothing, and images that it classifies
# correctly. It answers with one word about the gradient at the images:
#
# - `"zero"`: there is none, with any loss;
# - `"saturated"`: there is none with cross-entropy, on most images, but there is one with another loss;
# - `"shattered"`: there is one, and it leads nowhere: a step of a tenth of epsilon along it raises the loss no more than
#   a step against it;
# - `"honest"`: it leads uphill.
#
# Hint: `attacks.margin` is minus the logit margin. Mind that a gradient may be tiny and honest. Once the check passes,
# ask your function about `unknown["A"]`, B and C.


# %% tags=["exercise"]
def diagnose(model, x, y, epsilon):
    """One of "zero", "saturated", "shattered", "honest"; x (N, C, H, W) is classified correctly as y (N,)."""
    # BEGIN SOLUTION
    x = x.clone().requires_grad_()
    logits = model(x)
    (ce,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x, retain_graph=True)
    (other,) = torch.autograd.grad(attacks.margin(logits, y).sum(), x)
    if not other.any():
        return "zero"
    if (ce.flatten(1) == 0).all(1).float().mean() > 0.5:
        return "saturated"
    step = epsilon / 10 * other.sign()
    with torch.no_grad():
        along, against = (attacks.margin(model((x + move).clamp(0, 1)), y) for move in (step, -step))
    return "honest" if (along > against).float().mean() > 0.9 else "shattered"
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 1
def two_classes(scale=1.0):
    """A linear network of two classes, and images near its border: within 0.1 every one can be turned."""
    generator = torch.Generator().manual_seed(0)
    template = torch.tensor([1.0, -1.0] * 392)[torch.randperm(784, generator=generator)]
    toy = nn.Sequential(nn.Flatten(), nn.Linear(784, 2, bias=False))
    toy[1].weight.data = scale * torch.stack([-template, template]) / 20
    y = torch.arange(64) % 2
    x = 0.5 + 0.04 * (2 * y[:, None] - 1) * template + 0.1 * (torch.rand(64, 784, generator=generator) - 0.5)
    return toy, x.view(64, 1, 28, 28), y


@lesson.check("Exercise 1")
def _():
    toy, x, y = two_classes()
    faint = two_classes(1e-6)[0]
    cases = [(toy, "honest"), (faint, "honest"), (Rounding(toy), "zero"), (Rounding(toy, k=40), "zero")]
    cases += [(LoudLogits(toy, factor), "saturated") for factor in (1e3, 1e6)]
    cases += [(Ripple(toy, frequency), "shattered") for frequency in (20000, 31000)]
    for number, (model, right) in enumerate(cases, start=1):
        assert int(evaluation.clean_outcomes(model, x, y).sum()) == len(x)
        before = x.clone()
        answer = diagnose(model, x, y, 0.1)
        assert torch.equal(before, x), "The images that were handed in have changed."
        assert answer in ("zero", "saturated", "shattered", "honest"), f"{answer!r} is none of the four words."
        assert answer == right, f'Network {number} of {len(cases)}: its gradient is "{right}", you say "{answer}".'


# %% [markdown] tags=["solution"]
# A is shattered: `Ripple` adds a tiny fast wave to every pixel, so the sign of the gradient is a coin flip. B are loud
# logits, C is rounding to 13 levels. A gradient that is not zero is not yet one that helps: only a step along it shows
# that, beside a step against it, since *any* step may raise the loss of a fragile network.

# %% [markdown]
# ### Exercise 2 · Break the shattered one
#
# A is `Ripple(standard)`: it puts $g(x) = x + 0.005 \sin(\omega x + \varphi)$ before the network, with $\omega$ between
# 20,000 and 30,000 and a phase $\varphi$, both drawn once for each pixel. No warning appears, for the derivative of $g$
# is not zero: it swings between -149 and 151, so its sign is a coin flip.
#
# Write a PGD that ends within `epsilon` of `x` and in $[0, 1]$. `defended.ripple` and `defended.model` are the two
# parts. Hint: what is $g$ to the eye, and so what may the *backward* pass take it for? (This is called BPDA, backward
# pass differentiable approximation.) Then attack A itself: how many images are left?


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
# @title Check of exercise 2
@lesson.check("Exercise 2")
def _():
    toy, start, truth = two_classes()
    defended = Ripple(toy)
    result = adaptive_attack(defended, start.clone(), truth, 0.1, 0.02, 10)
    assert getattr(result, "shape", None) == start.shape, "Return images of the shape of x."
    assert (result - start).abs().max() <= 0.1 + 1e-6, "An image has changed by more than epsilon."
    left = int(evaluation.clean_outcomes(defended, result.detach(), truth).sum())
    assert left == 0, f"{left} of {len(start)} images are still classified correctly, and all can be broken."
    for edge in (0.1 * start, 1 - 0.1 * start):  # near black, near white
        result = adaptive_attack(defended, edge, truth, 0.1, 0.02, 10)
        assert 0 <= result.min() <= result.max() <= 1, "A pixel lies outside [0, 1]."


# %% [markdown] tags=["solution"]
# Forward the ripple changes nothing that matters, so backward it may be taken for the identity: of the images behind A
# hardly more should be left than without it. Attacking `defended.model` alone and handing the result over (a
# transferred attack) works too, for the same reason.

# %% [markdown]
# ## 8 The checklist
#
# Carlini et al. ([1902.06705](https://arxiv.org/abs/1902.06705)) list what a careful evaluation does, and warn: ticking
# every box proves nothing, each item is there because it would have exposed some published defence. Here it is, filled
# in for *this* notebook's number for ANCHOR, gaps included.

# %% tags=["fold"]
# @title The checklist for ANCHOR: what this run has to say
said_of = {row["check"]: row for row in checks["ANCHOR"].to_dict("records")}


def verdict(check):
    row = said_of[check]
    return ("yes" if row["passed"] else "**FAILED**"), row["evidence"]


half_steps = 5 * config.eval_steps
more, lowest = breaks[f"PGD-{half_steps}"], curves["anchor"][-1].mean()
one_step = ladder["FGSM"].sum()
climbed = "logits (2 losses), features, embeddings" + ("; APGD, FAB, Square" if possible else "")
black_box = "black-box Square is weaker than the white-box attack"
adaptive = (
    f"section 4: its features, its contrastive loss; of {n_ladder} images {made} that {pgd_name} left fall to them"
)
starts = f"{config.eval_restarts} random start(s)"
beats, settled = ("yes" if left.sum() <= one_step else "**FAILED**"), ("yes" if more == 0 else "**not quite**")
restarted, to_chance = "yes" if config.eval_restarts > 1 else "**not tried**", "yes" if lowest <= 0.2 else "**no**"

# %% tags=["fold"]
# @title The checklist for ANCHOR
items = [
    ("Precise threat model", "yes", f"section 1; L-infinity, epsilon = {config.epsilon:g}, white box, untargeted"),
    ("Adaptive attacks, with the whole defence in view", "yes", adaptive),
    ("Code and models released", "yes", "this course"),
    ("Clean accuracy reported", "yes", cell("anchor", "clean")),
    ("Iterative attacks beat one step", beats, f"of {n_ladder}, FGSM leaves {one_step}, {pgd_name} {left.sum()}"),
    ("Attacks have converged", settled, f"{half_steps} half steps break {more} images that {pgd_name} left"),
    ("Enough restarts", restarted, starts),
    ("A larger epsilon breaks more", *verdict("a larger epsilon is never weaker")),
    ("A huge epsilon breaks all", *verdict("epsilon = 1 defeats the model")),
    ("Accuracy against epsilon, down to chance", to_chance, f"section 6: {lowest:.0%} at epsilon {epsilons[-1]:.3g}"),
    ("Success compared image by image, min before mean", "yes", "eq. 2"),
    ("Noise is weaker", *verdict("random noise is weaker than the gradient attack")),
    ("Transfer is weaker", *verdict("a transferred attack is weaker than the white-box attack")),
    ("A gradient-free attack is weaker", *verdict(black_box)),
    ("A hard-label attack", "**not tried**", "one that sees only the predicted class"),
    ("Diverse attacks, targeted and untargeted", "yes", climbed),
    ("Randomness averaged, missing derivatives replaced", "none here", "ANCHOR has neither"),
    ("Compared with prior work", "**no**", "a reconstruction on small networks, not the paper's setting"),
    ("Broader threat models", "**not tried**", "L2, rotations, corruptions"),
    ("A provable lower bound", "**not tried**", "certification is outside this course"),
]
lesson.say("| Asked for | Here | Evidence |\n|:--|:--|:--|\n" + "\n".join(f"| {' | '.join(item)} |" for item in items))
done = sum(item[1] in ("yes", "none here") for item in items)
lesson.say(f"{done} of {len(items)} are settled here; the others are what a reviewer should ask for.")

# %% [markdown]
# ## What can go wrong
#
# - **Attacking predictions.** With the predicted label in the loss, an image that is wrong from the start can be
#   *pushed back* to right. The true label belongs in the loss.
# - **BatchNorm in train mode.** Outcomes then depend on which images share a batch. Attack and evaluate in eval mode.
# - **Half precision.** Small gradients round to zero in float16, and the attack stops without a word. Where an attack's
#   queries were in less than float32, say so.
# - **Too few steps, or steps too small.** Steps times step size must be well above epsilon.
# - **Masked gradients.** A high PGD number next to a failed check is not a result.
# - **A random defence.** The gradient of one draw misleads: average it over many draws (*expectation over
#   transformation*, EOT).
# - **Choosing on the test set.** Epoch, beta or attack chosen on test images make them training images. Our networks
#   are the best epochs on *held-out training* images.
# - **Tiny samples.** "AutoAttack accuracy 90%" without its number of images is a rumour.
# - **One seed.** Intervals over images do not cover the luck of training.
#
# ## What we saw

# %% tags=["fold"]
# @title Report: is the claim confirmed, what was found, what was not
ladders = {}
for method in ("standard", "anchor"):
    last_stage = "autoattack/square" if possible else "pgd"
    ladders[method] = bits(method, "pgd")[:n_full], bits(method, last_stage)[:n_full]
ladder_holds = {method: bool(last.sum() <= one.sum()) for method, (one, last) in ladders.items()}
as_is = {name: truth[f"standard, {name}"][1][0] for name in ("rounding", "loud logits")}
after = {name: truth[f"standard, {name}"][2][0] for name in ("rounding", "loud logits")}
caught_all = all(failed[name] > 0 and as_is[name] - after[name] > 0.2 for name in as_is)
confirmed = all(ladder_holds.values()) and caught_all
best_method = max(METHODS, key=lambda m: first.loc[(m, "pgd")]["accuracy"])
second = max(
    (m for m in METHODS if m not in ("standard", best_method)), key=lambda m: first.loc[(m, "pgd")]["accuracy"]
)
b, c, p = mcnemar(outcome[best_method], outcome[second])
lesson.say(
    f"**The claim is {'confirmed' if confirmed else 'not confirmed'}** by this run. (Asked for: on the same {n_full} "
    f"images AutoAttack leaves at most as many as {pgd_name}, for {sum(ladder_holds.values())} of {len(ladder_holds)} "
    "networks; and both defences fail a check and lose more than 20 points to the adapted attack: "
    f"{'yes' if caught_all else 'no'}.)\n\n- *Hidden gradients.* Rounding: {as_is['rounding']:.0%} under {pgd_name} "
    f"as it is, {after['rounding']:.0%} adapted. Loud logits: {as_is['loud logits']:.0%} and "
    f"{after['loud logits']:.0%}. ANCHOR: {truth['ANCHOR'][1][0]:.0%} and {truth['ANCHOR'][2][0]:.0%} ({n_broken} "
    f"images).\n- *Attacks add up.* On {n_ladder} images {pgd_name} leaves ANCHOR {left.mean():.1%}, the strongest other attack "
    f"of section 4 alone {min(row.mean() for row in ladder.values()):.1%}, all of them together {together.mean():.1%}.\n- *Highest {pgd_name} accuracy:* "
    f"{plotting.method_name(best_method)}, {cell(best_method, 'pgd')}; next {plotting.method_name(second)}, "
    f"{cell(second, 'pgd')}, on {len(test)} images; McNemar's p for these two networks, chosen after looking, is {p:.2g}.\n- "
    f"*AutoAttack.* On the same {n_full} images {pgd_name} leaves ANCHOR {pgd_on_first('anchor', n_full)}, AutoAttack: "
    f"{cell('anchor', 'autoattack')}."
)

# %% tags=["fold"]
# @title Report: findings, made after seeing the numbers
holds = deaf["anchor"] > 0.5 * config.epsilon and moved[beyond].mean() > curves["anchor"][beyond].mean() + 0.2
lesson.say(
    "**Findings of this run**, made after seeing its numbers:\n\n- *The cliff.* From this brightness on the first "
    "layers notice a grey: "
    + ", ".join(f"{plotting.method_name(method)} {level:.2f}" for method, level in deaf.items())
    + f" (training epsilon {config.epsilon:g}). A threshold at 0.5 takes ANCHOR's accuracy at epsilon "
    f"{epsilons[beyond]:.3g} from {curves['anchor'][beyond].mean():.0%} to {moved[beyond].mean():.0%}. Both tests "
    f"together {'speak for a learned threshold' if holds else 'do not speak for a learned threshold here'}.\n- *The "
    "contrastive loss.* An attack on it alone, which never looks at the classifier, leaves "
    f"{ladder['its contrastive loss'].mean():.1%} of {n_ladder} images; {pgd_name} on the cross-entropy leaves "
    f"{left.mean():.1%}.\n- *Classes.* Weakest for ANCHOR: {names[weak]}, {by_class['anchor'][weak]:.0%}; mean "
    f"{by_class['anchor'].mean():.0%}.\n\n**Not found out:** a lower bound (every number is an upper one), whether a "
    "difference between two of these networks is one of their methods (section 3 has eight seeds of each, notebook 08 the test), and what AutoAttack would leave "
    f"here on more than {n_full} images."
)

# %% [markdown]
# ### Expected values
#
# The numbers of this run, beside the bands in which the preset `cpu` should find them on other machines.

# %% tags=["fold"]
# @title Expected values
metrics = {
    f"{m}_{a}_accuracy": float(first.loc[(m, a)]["accuracy"]) for m in METHODS for a in ATTACKS if (m, a) in first.index
}
for name in as_is:
    key = name.replace(" ", "_")
    metrics |= {f"{key}_pgd_accuracy": as_is[name], f"{key}_adapted_accuracy": after[name]}
metrics |= {f"{name.lower().replace(' ', '_')}_failed_checks": count for name, count in failed.items()}
if 1.15 in factors[: len(epsilons)]:
    for method, outcomes in curves.items():
        metrics[f"{method}_accuracy_1_15_epsilon"] = float(outcomes[factors.index(1.15)].mean())
    metrics["anchor_behind_threshold_accuracy_1_15_epsilon"] = float(moved[factors.index(1.15)].mean())
one, last = ladders["anchor"]
metrics |= {
    "claim_confirmed": float(confirmed),
    "anchor_broken_by_autoattack_only": float((one & ~last).sum()),
    "anchor_all_attacks_accuracy": float(together.mean()),
    "anchor_below_pgd_by_all_attacks": float(late.mean()),
    "anchor_contrastive_attack_accuracy": float(ladder["its contrastive loss"].mean()),
    "anchor_feature_attack_accuracy": float(ladder["its features"].mean()),
    "anchor_weakest_class_accuracy": float(by_class["anchor"][weak]),
    "anchor_first_layer_threshold": deaf["anchor"],
    "standard_first_layer_threshold": deaf["standard"],
    "standard_behind_threshold_accuracy": bare_left[0],
    "ripple_pgd_accuracy": unknown_left["A"] / n_broken,
}
lesson.finish("06", preset, config, metrics)

# %% [markdown]
# **Limits.** One norm, one epsilon for most of the numbers, and few images for the strong attacks where the machine is
# small. Every number is an upper bound: a later, better attack may lower it. The broken defences are toys; real ones
# hide their gradients by accident, and less completely. Networks of one training seed do not rank methods, and these
# had equal epochs, not equal time.
#
# **References.** Athalye et al., *Obfuscated gradients give a false sense of security*, arXiv 1802.00420 · Carlini et
# al., *On evaluating adversarial robustness*, arXiv 1902.06705 · Tramer et al., *On adaptive attacks to adversarial
# example defenses*, arXiv 2002.08347 · Carlini & Wagner, *Towards evaluating the robustness of neural networks*, arXiv
# 1608.04644 (the margin loss) · Croce & Hein, *Reliable evaluation of adversarial robustness with an ensemble of
# diverse parameter-free attacks*, arXiv 2003.01690 · Croce & Hein, *Minimally distorted adversarial examples with a
# fast adaptive boundary attack*, arXiv 1907.02044 · Andriushchenko et al., *Square attack*, arXiv 1912.00049 · Madry et
# al., *Towards deep learning models resistant to adversarial attacks*, arXiv 1706.06083 (its appendix C finds
# thresholds in the first layer of a robust MNIST network) · Sabour et al., *Adversarial manipulation of deep
# representations*, arXiv 1511.05122 (attacks on features) · Bhattacharya et al., *ANCHOR*, arXiv 2510.27599 · Wilson,
# *Probable inference, the law of succession, and statistical inference*, 1927 · McNemar, *Note on the sampling error of
# the difference between correlated proportions*, 1947.
#
# **Next:** [07 · Embedding visualisation](07_embedding_visualisation.ipynb) looks inside: what an attack does to the
# features. Or attack more networks of [RobustBench](https://robustbench.github.io) (section 5): `evaluation.evaluate`
# takes any network that maps images in $[0, 1]$ to logits.
