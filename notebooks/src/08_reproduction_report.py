# %% [markdown]
# # 08 · Reproduction report
#
# **Claim: in our CIFAR-10 study ANCHOR (our reconstruction) is more robust under PGD than PGD-AT at equal epochs: the 95% interval over training seeds lies above zero,
# though not every single seed would have shown it. Let PGD-AT train for as long as ANCHOR, and the interval contains zero.** The last cells confirm or refute it.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/anchor-course/blob/main/notebooks/08_reproduction_report.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/OWNER/anchor-course#the-notebooks)
#
# This notebook trains nothing. It reads the files that training runs and evaluations wrote, holds them against the claims of the ANCHOR paper,
# and prints what comes out, whichever way it falls. Beside each table stands the command that wrote its numbers.
# The same command gives the same numbers only on the same machine with the same library versions.
#
# **You will learn** how to state a claim so that a table can refute it; why a test over images and an interval over training seeds answer
# different questions; how small a difference a study can see at all; and what this reconstruction has and has not shown.
#
# **You need** notebooks 01 to 06, for the methods and the attacks. No run is needed for the CIFAR-10 study, which comes with the course. For the runs of this machine: `make tutorial`, or notebook 06 with any
# preset. Without them the notebook says so and goes on.
#
# **Time** seconds, for every preset.

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
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML, display
from scipy import optimize, stats

from anchor_utils import plotting, results
from anchor_utils.config import load_preset
from anchor_utils.models import PRETRAINED_DIR
from course import lesson
from course.figures import lesson_08 as figures
from study import tables
from study.claims import CLAIMS, EQUAL_TIME_CLAIMS, claims_table, describe

config, _, device = lesson.start("08", preset, overrides, seed, runs_dir, data_root, data=False)

# %% [markdown]
# ## 1 From bits to a verdict
#
# ### The data: one bit an image
#
# An evaluation leaves one bit for each test image: is it still classified correctly after the attack? Every accuracy, interval and test below is
# computed from such bits. The study's file holds them too, so you can check each number, not only read it. Three attacks appear throughout: *clean* is no attack
# at all; *PGD* is projected gradient descent (notebook 01); the *screen* is the first two of AutoAttack's four attacks (notebook 06), cheaper than AutoAttack and not to be called so.
#
# > **Commands.** `make sweep SWEEP=cifar10_cpu`, then `make publish`, wrote `data/pretrained/study.json`. Section 2 says what is in it.

# %%
STUDY = PRETRAINED_DIR / "study.json"
study, cells = tables.read_cells(STUDY, "cifar10_cpu")
study = tables.with_screen(study[study["checkpoint"] == "best"])
METHODS = list(dict.fromkeys(study["method"]))
ROBUST = [method for method in METHODS if method != "standard"]
BASELINES = [method for method in ROBUST if method != "anchor"]
ATTACKS = {"clean": "clean", "pgd": tables.attack_name(study, "pgd"), "screen": "screen"}


def outcomes(table, method, attack):
    """{training seed: bits (N,)}: is the image still right under the attack?"""
    rows = table[(table["method"] == method) & (table["attack"] == attack)]
    return {
        int(r["training_seed"]): results.unpack_outcomes(r["outcomes"], int(r["images"])) for _, r in rows.iterrows()
    }


def paired(table, ours, theirs, attack):
    """The n training seeds that both methods have, and the bits (n, N) of both on the images that both have."""
    a, b = outcomes(table, ours, attack), outcomes(table, theirs, attack)
    seeds = sorted(a.keys() & b.keys())
    size = min((len(found) for found in (*a.values(), *b.values())), default=0)
    return seeds, np.array([a[s][:size] for s in seeds]), np.array([b[s][:size] for s in seeds])


seeds, ours, theirs = paired(study, "anchor", "pgd_at", "pgd")
print(f"ANCHOR under {ATTACKS['pgd']}: bits of shape {ours.shape}, (training seeds, test images)")
print("ANCHOR, seed 0, first 40 images:", "".join(map(str, ours[0, :40].astype(int))))
print("PGD-AT, seed 0, first 40 images:", "".join(map(str, theirs[0, :40].astype(int))))

# %% [markdown]
# ### Three questions, three formulas
#
# **How accurate is this network?** $\hat p = k/N$ is the share of the $N$ test images that are right, and the images are a sample. Wilson's interval holds the accuracies at
# which $\hat p$ would not be a surprise; $z = 1.96$ is the 97.5% point of the normal distribution:
#
# $$\frac{1}{1 + z^2/N}\left(\hat p + \frac{z^2}{2N} \pm z\sqrt{\frac{\hat p\,(1-\hat p)}{N} + \frac{z^2}{4N^2}}\right) \tag{1}$$
#
# **Do these two networks differ?** Let $b$ be the number of images that only the first gets right, and $c$ the number that only the second gets right. All other images say
# nothing about the difference. If the networks were equally good, each of these $b + c$ images would be a fair coin. McNemar's exact test gives the probability of a split at least
# as uneven as the one seen:
#
# $$p = \min\Big(1,\; 2\sum_{k=0}^{\min(b, c)} \binom{b+c}{k}\, 2^{-(b+c)}\Big) \tag{2}$$
#
# By custom $p < 0.05$ counts as a difference; two equally good networks come that far apart at most once in twenty comparisons.
#
# **Do these two methods differ?** A method gives another network with every training seed: other initial weights, other batches. (So does another
# machine or library version with the *same* seed: sums are rounded differently, and training amplifies it. The stored bits can be checked anywhere; a new training elsewhere is one more draw.) For seed $s$ let
#
# $$d_s = A_s - B_s \tag{3}$$
#
# be the accuracy of method $A$ minus that of method $B$, both trained with seed $s$ and tested on the same images. With $n$ seeds, mean $\bar d$ and standard deviation $s_d$ (with
# $n - 1$ below the fraction line), Student's interval for the mean difference is
#
# $$\bar d \;\pm\; t_{n-1}\,\frac{s_d}{\sqrt n} \tag{4}$$
#
# where $t_{n-1}$ is the 97.5% point of Student's distribution with $n-1$ degrees of freedom. It is large when $n$ is small, because $s_d$ itself is then hardly known.
# With one seed there is no $s_d$ and no interval: **one run a method cannot say anything about methods.**


# %%
def my_wilson(correct, images):
    z = stats.norm.ppf(0.975)
    share = correct / images
    half = z * np.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    middle = share + z**2 / (2 * images)
    return (middle - half) / (1 + z**2 / images), (middle + half) / (1 + z**2 / images)  # eq. 1


def my_mcnemar(ours, theirs):
    """For bits (N,) of two networks; bits (n, N) of several seeds are thrown together, as results.compare does."""
    b, c = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    return min(1.0, 2 * stats.binom.cdf(min(b, c), b + c, 0.5))  # eq. 2


def my_interval(ours, theirs):
    d = ours.mean(1) - theirs.mean(1)  # eq. 3: one difference a seed
    half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))  # eq. 4
    return d.mean(), d.mean() - half, d.mean() + half


print("97.5% point of Student's distribution:")
print(", ".join(f"n = {n}: {stats.t.ppf(0.975, n - 1):.2f}" for n in (2, 3, 5, 10, 30)), "; normal: 1.96")

# %% [markdown]
# These few lines are the whole of `results.wilson`, `results.mean_interval` and `results.compare`. Checked on the whole study: every stored accuracy and interval
# must follow from its bits, and every comparison of two methods must come out the same as in the package.

# %%
worst_row = worst_pair = 0.0
for _, row in study.iterrows():
    bits = results.unpack_outcomes(row["outcomes"], int(row["images"]))
    found = (bits.mean(), *my_wilson(bits.sum(), len(bits)))
    worst_row = max(worst_row, np.abs(np.subtract(found, (row["accuracy"], row["low"], row["high"]))).max())
pairs = [(a, b, attack) for a, b in combinations(METHODS, 2) for attack in ATTACKS]
for a, b, attack in pairs:
    package = results.compare(study, a, b, attack)
    _, ours, theirs = paired(study, a, b, attack)
    found = (*my_interval(ours, theirs), my_mcnemar(ours, theirs))
    wanted = [package[name] for name in ("difference", "low", "high", "p_images")]
    worst_pair = max(worst_pair, np.abs(np.subtract(found, wanted)).max())
assert max(worst_row, worst_pair) < 1e-8
print(f"{len(study)} stored rows follow from their bits; largest deviation {worst_row:.0e}")
print(f"{len(pairs)} comparisons agree with results.compare; largest deviation {worst_pair:.0e}")

# %% [markdown]
# ### The verdict is computed too
#
# A claim here reads "ANCHOR is more accurate than each of these baselines under this attack". `study.claims.verdict` turns the comparisons into one of five words:
#
# | verdict | when |
# |:--|:--|
# | supported | every interval (eq. 4) lies above zero |
# | contradicted | every interval lies below zero |
# | mixed | some intervals leave zero out; the others contain it or lie on the other side |
# | no difference measured | every interval contains zero. This is *not* "they are equal" |
# | not measured | the evaluation does not exist |
#
# With a single seed McNemar's $p < 0.05$ has to stand in for the interval, and the verdict says "(one training seed)": it is then about two networks.
#
# ### Exercise 1 · What pairing buys
#
# Eq. 4 pairs the seeds. Write the interval that forgets which runs belong together. `ours` and `theirs` are arrays (n,) of accuracies. The mean difference stays the same;
# its standard error becomes $\sqrt{(s_A^2 + s_B^2)/n}$ with the standard deviations $s_A, s_B$ of the two methods over seeds, and $t$ has $2n - 2$ degrees of freedom.
# Return (difference, low, high). Before you run the check: when is this interval wider than the paired one, and when is it narrower?


# %% tags=["exercise"]
def unpaired_interval(ours, theirs):
    """Mean of `ours` minus mean of `theirs`, and the ends of its 95% interval, seeds not paired."""
    # BEGIN SOLUTION
    n = len(ours)
    error = np.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / n)
    half = stats.t.ppf(0.975, 2 * n - 2) * error
    difference = ours.mean() - theirs.mean()
    return difference, difference - half, difference + half
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 1
@lesson.check("Exercise 1")
def _():
    a = np.array([0.30, 0.34, 0.38, 0.46])
    b = np.array([0.29, 0.32, 0.37, 0.43])
    difference, low, high = unpaired_interval(a, b)
    assert abs(difference - 0.0175) < 1e-9, "The difference should be the mean of `ours` minus the mean of `theirs`."
    assert abs(low + high - 2 * difference) < 1e-9, "The interval should be symmetric around the difference."
    half, right = (high - low) / 2, 0.112298
    assert abs(half - right * 3.18245 / 2.44691) > 1e-4, "Two groups of n have 2n - 2 degrees of freedom, not n - 1."
    assert abs(half - right * 1.95996 / 2.44691) > 1e-4, "Student's t, not the normal 1.96: n is small."
    assert abs(half - right * np.sqrt(3) / 2) > 1e-4, "Use ddof=1: divide the squares by n - 1."
    assert abs(half - 2 * right) > 1e-4, "The standard error of a mean shrinks with the square root of n."
    assert abs(half - right) < 1e-4, f"The half-width is {half:.4f}; it should be {right:.4f}."
    d = a - b
    assert half > stats.t.ppf(0.975, 3) * d.std(ddof=1) / 2, "Here the seeds move together, so pairing should win."
    against = a - b[::-1]  # now a good seed for one is a bad seed for the other
    width = unpaired_interval(a, b[::-1])[2] - difference
    assert width < stats.t.ppf(0.975, 3) * against.std(ddof=1) / 2, "Here they move against each other: pairing loses."


# %% [markdown] tags=["solution"]
# If a good seed is good for both methods, their difference hardly feels it: $s_d^2 = s_A^2 + s_B^2 - 2\,r\,s_A s_B$ with the correlation $r$ over seeds. Pairing gains when $r$ is
# clearly positive, loses when $r$ is negative, and always pays half of the degrees of freedom. One decides for or against it *before* looking, from the design: here the same seed means
# the same initial weights and the same order of the batches.

# %% [markdown]
# ## 2 CIFAR-10: the study that comes with the course
#
# Six methods, several training seeds each, on real CIFAR-10 images that went through JPEG once, half of the official
# test set. Two of the seeds were added, for all methods, when the results of the others were known. The settings of each adversarially trained method are the best of eight short trials by robust accuracy on held-out *training* images (section 4). ANCHOR here is a **reconstruction**: of the paper we had its
# title, abstract and summary; equations and hyper-parameters are ours. First, how far this is from full scale:

# %%
setting = cells[0]["config"]
paper = load_preset("paper")
trained = setting["train_images"] - setting["validation_images"]
full = 50_000 - paper.validation_images  # CIFAR-10 has 50,000 training images
seen = (full * paper.epochs) / (trained * setting["epochs"])
compute = seen * (paper.width / setting["width"]) ** 2 * (paper.attack_steps + 2) / (setting["attack_steps"] + 2)
lesson.say(
    f"Here: {trained:,} training images, {setting['epochs']} epochs, a ResNet-18 of width {setting['width']}, {setting['attack_steps']} attack steps in training. "
    f"The preset `paper`, our guess at the full setting: {full:,} images, {paper.epochs} epochs, width {paper.width}, {paper.attack_steps} steps. "
    f"That is {seen:.0f} times as many images seen and roughly {float(f'{compute:.1g}'):,.0f} times the arithmetic (passes times width squared). "
    "**The study can show how the methods compare at this small scale, not what they reach at full scale.**"
)

# %% [markdown]
# > **Commands.** `make sweep SWEEP=cifar10_cpu` trains and attacks, `make publish` collects. The table below also stands in the README.

# %%
display(tables.method_table(study).set_index("method"))
warned = [
    f"{plotting.method_name(row['method'])}, seed {row['training_seed']}, {row['attack']}: {row['notes'].split('!')[0]}"
    for _, row in study[study["attack"].isin([*ATTACKS, "autoattack"])].iterrows()
    if row["notes"]
]
lesson.say(
    "Accuracy in percent: the mean over n training seeds and its 95% t interval, or, with n = 1, the 95% Wilson interval over images. "
    + "; ".join(tables.setting(study, attack) for attack in (*ATTACKS, "autoattack"))
    + ". The attack's seed is the training seed. An attack queries the network in the precision named; "
    "whether an image is lost is decided in float32. `standard` was trained on clean images only."
    + (f" AutoAttack's library warned: {'; '.join(warned)}." if warned else "")
)

# %% [markdown]
# ### How loud are the seeds?
#
# > **Predict, then see.** Take the five methods that train on adversarial images. Under PGD, how many points lie between the best and the worst seed of *one* method? And how many between the
# > best and the worst *method*, each averaged over its seeds? Write down two numbers.

# %%
accuracy = {
    attack: study[study["attack"] == attack].pivot(index="training_seed", columns="method", values="accuracy")[ROBUST]
    for attack in ATTACKS
}
by_seed = {
    title: {method: accuracy[attack][method].dropna().to_dict() for method in ROBUST}
    for attack, title in ATTACKS.items()
}
intervals = {
    title: {method: results.mean_interval(accuracy[attack][method].dropna()) for method in ROBUST}
    for attack, title in ATTACKS.items()
}
plotting.show(
    figures.seeds_of_methods(by_seed, intervals),
    "Clean, PGD-20 and screen accuracy on CIFAR-10 of the five methods that train on adversarial images: a numbered dot a training seed, a diamond with a bar for the mean over seeds and its 95% t interval, and a dashed line at the mean of PGD-AT.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** One numbered dot a training seed; the diamond is their mean and the bar its 95% interval (eq. 4). All panels span the same number of points, so widths compare across them.
# Look first how far the dots of *one* method lie apart: that is the noise any claim has to rise above. Then compare methods: where dots interleave, the difference of the means is
# within that noise (pairing the seeds, eq. 3, can still help: next figure). The paper's claim would show as ANCHOR's dots to the right of the others' in the middle and right panels. If seeds did not matter, the dots of a method would lie above each other.

# %%
noise = {attack: (accuracy[attack].max() - accuracy[attack].min()) for attack in ATTACKS}
means = {attack: accuracy[attack].mean() for attack in ATTACKS}
louder = means["pgd"].max() - means["pgd"].min() < noise["pgd"].max()
lesson.say(
    "\n".join(
        f"- {title}: between the best and the worst seed of one method {100 * noise[a].min():.1f} to {100 * noise[a].max():.1f} points; "
        f"between the means of the best and the worst of the {len(ROBUST)} methods {100 * (means[a].max() - means[a].min()):.1f}."
        for a, title in ATTACKS.items()
    )
    + f"\n\nUnder {ATTACKS['pgd']} the choice of the seed can move a network {'further' if louder else 'less far'} than the choice among these methods moves the mean."
)

# %% [markdown]
# ### One seed at a time
#
# Suppose we had trained one network a method, as many papers do. We would compare ANCHOR with a baseline on the test images alone. With $b$, $c$ and $N$ as in eq. 2, the 95% interval of the difference of
# *these two networks* over images is
#
# $$\frac{b' - c'}{N'} \;\pm\; \frac{z}{N'}\sqrt{b' + c' - \frac{(b'-c')^2}{N'}} \qquad b' = b + \tfrac12,\quad c' = c + \tfrac12,\quad N' = N + 2 \tag{5}$$
#
# The added halves (Agresti & Min, 2005) change next to nothing when $N$ is large. When no image separates the networks, they keep the interval from shrinking to a point, which would claim certainty.
#
# > **Predict, then see.** ANCHOR against PGD-AT under PGD, once with each training seed, each time on thousands of test images. Will the comparisons agree on which of the two is ahead?
# > Will McNemar's $p$ be below 0.05 in any of them?


# %%
def image_interval(ours, theirs):
    """Difference of two networks' accuracies, and the ends of its 95% interval over images."""
    b, c, images = (ours & ~theirs).sum() + 0.5, (~ours & theirs).sum() + 0.5, len(ours) + 2
    middle = (b - c) / images
    half = stats.norm.ppf(0.975) * np.sqrt(b + c - (b - c) ** 2 / images) / images  # eq. 5
    return ours.mean() - theirs.mean(), middle - half, middle + half


def one_seed_at_a_time(table, attack, baselines):
    """ANCHOR minus each baseline as (seed, difference, low, high, p): every training seed alone, then all together."""
    found = {}
    for baseline in baselines:
        seeds, ours, theirs = paired(table, "anchor", baseline, attack)
        if seeds:
            networks = zip(seeds, ours, theirs, strict=True)
            found[baseline] = [(s, *image_interval(a, b), my_mcnemar(a, b)) for s, a, b in networks]
        if len(seeds) > 1:
            found[baseline].append((None, *my_interval(ours, theirs), np.nan))
    return found


plotting.show(
    figures.differences_by_seed({t: one_seed_at_a_time(study, attack, BASELINES) for attack, t in ATTACKS.items()}),
    "ANCHOR minus each baseline on CIFAR-10, clean, under PGD-20 and under the screen: for each training seed alone with its 95% interval over images, coloured by McNemar's test, and the mean over seeds with its t interval.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** A numbered dot is what a study with only that seed would have reported: right of the line ANCHOR is ahead, and colour says that McNemar's test is below 0.05. The black diamond is the mean over the
# seeds with eq. 4. Look for groups whose dots differ in colour, blue and orange above all: there one study would have published another verdict than the next, each with its test,
# all perhaps right about their two networks. Compare the thin bars with the black one: the thin bars know the images and not the seeds. If seeds did not
# matter, the dots of a group would lie within each other's bars, and the black bar would be hardly longer than theirs.

# %%
alone = {}
for attack in ATTACKS:
    for baseline in BASELINES:
        seeds, ours, theirs = paired(study, "anchor", baseline, attack)
        alone[attack, baseline] = {
            s: (a.mean() - b.mean(), my_mcnemar(a, b)) for s, a, b in zip(seeds, ours, theirs, strict=True)
        }


def sides(attack, baseline):
    """How many seeds put ANCHOR ahead, and how many behind, each with p < 0.05."""
    clear = [d for d, p in alone[attack, baseline].values() if p < 0.05]
    return sum(d > 0 for d in clear), sum(d < 0 for d in clear)


split = [key for key in alone if min(sides(*key)) > 0]
against = results.compare(study, "anchor", "pgd_at", "pgd")
holds_zero = against["low"] <= 0 <= against["high"]
pooled = {attack: [results.compare(study, a, b, attack) for a, b in combinations(ROBUST, 2)] for attack in ATTACKS}
significant = {attack: [c for c in found if c["p_images"] < 0.05] for attack, found in pooled.items()}
undecided = {attack: sum(c["low"] <= 0 <= c["high"] for c in found) for attack, found in significant.items()}
lesson.say(
    f"ANCHOR minus PGD-AT under {ATTACKS['pgd']}, seed by seed: "
    + ", ".join(f"seed {s}: {100 * d:+.1f} points (p = {p:.2g})" for s, (d, p) in alone["pgd", "pgd_at"].items())
    + f". Over the seeds: {describe(against)}; the interval {'contains' if holds_zero else 'leaves out'} zero.\n\n"
    f"Of the {len(alone)} comparisons in the figure, {len(split)} have one seed with ANCHOR significantly ahead and another with ANCHOR significantly behind"
    + (": " + ", ".join(f"{plotting.method_name(b)} ({ATTACKS[a]})" for a, b in split) if split else "")
    + ".\n\nAnd among all pairs of the five methods, with the images of all seeds thrown into one test: "
    + "; ".join(
        f"{ATTACKS[a]}, {len(significant[a])} of {len(pooled[a])} pairs have p < 0.05, and {undecided[a]} of these have an interval over seeds that contains zero"
        for a in ATTACKS
    )
    + "."
)

# %% [markdown]
# ### More images or more seeds?
#
# The difference that we measure for one seed has two sources of noise: the seed moves the network, and the test images are a sample. If $\sigma$ is the standard deviation of the *true* difference
# over seeds and $q$ the share of images on which the two networks disagree, then the spread that we observe is about
#
# $$s_d^2 \;\approx\; \sigma^2 + \frac{q}{N} \tag{6}$$
#
# because each of the $qN$ disagreeing images moves $d_s$ by $+1/N$ or $-1/N$. More images shrink only the second term. We can ask what follows for tests: simulate two methods that are **equally good on average**, with the $\sigma$ and $q$ measured in the study, and
# count how often each procedure declares a difference. It should be 5% of the time.
#
# > **Predict, then see.** Two equally good methods, one network of each, McNemar's test. How often will $p$ be below 0.05 with 1,000 test images? With 100,000?

# %%
spreads, disagree = {}, {}
for attack in ATTACKS:
    found = [paired(study, "anchor", baseline, attack) for baseline in BASELINES]
    d = np.array([(ours.mean(1) - theirs.mean(1)) for _, ours, theirs in found])  # (baselines, n)
    spreads[attack] = float(np.sqrt(d.var(axis=1, ddof=1).mean()))  # pooled over the baselines
    disagree[attack] = float(np.mean([(ours != theirs).mean() for _, ours, theirs in found]))
n_seeds = d.shape[1]
n_images = {attack: int(study.loc[study["attack"] == attack, "images"].min()) for attack in ATTACKS}
q = disagree["pgd"]
sigma = np.sqrt(max(spreads["pgd"] ** 2 - q / n_images["pgd"], 0))  # eq. 6
rng = np.random.default_rng(0)


def false_alarms(images, studies=4000):
    """Share of simulated studies of two equally good methods that declare a difference, for three procedures."""
    true = rng.normal(0, sigma, (studies, n_seeds))  # difference of these networks
    discordant = rng.binomial(images, q, true.shape)
    b = rng.binomial(discordant, np.clip((1 + true / q) / 2, 0, 1))  # images that only the first gets right

    def mcnemar(b, discordant):
        return 2 * stats.binom.cdf(np.minimum(b, discordant - b), discordant, 0.5) < 0.05  # eq. 2

    d = (2 * b - discordant) / images  # eq. 3
    interval = np.abs(d.mean(1)) > stats.t.ppf(0.975, n_seeds - 1) * d.std(1, ddof=1) / np.sqrt(n_seeds)  # eq. 4
    return mcnemar(b[:, 0], discordant[:, 0]).mean(), mcnemar(b.sum(1), discordant.sum(1)).mean(), interval.mean()


sizes = np.array([100, 300, 1000, 3000, n_images["pgd"], 10_000, 30_000, 100_000])
sizes.sort()
rates = np.array([false_alarms(size) for size in sizes]).T
names = (
    "McNemar, one seed",
    f"McNemar, {n_seeds} seeds pooled",
    f"t interval over {n_seeds} seeds",
)
plotting.show(
    figures.false_alarms(sizes, dict(zip(names, rates, strict=True)), at=n_images["pgd"]),
    "Simulated false alarms against the number of test images, for McNemar's test on one seed, McNemar's test on pooled seeds, and the t interval over seeds, with a dashed line at 5%.",
    svg=True,
)
at_study = rates[:, list(sizes).index(n_images["pgd"])]
lesson.say(
    f"4,000 simulated studies a point, with a seed noise of {100 * sigma:.2f} points and {q:.0%} of the images in disagreement, as measured under {ATTACKS['pgd']}. With "
    f"{n_images['pgd']:,} images: {names[0]} {at_study[0]:.0%}, {names[1]} {at_study[1]:.0%}, {names[2]} {at_study[2]:.0%}. "
    f"With 1,000 images McNemar on one seed: {rates[0][list(sizes).index(1000)]:.0%}; with 100,000: {rates[0][-1]:.0%}."
)

# %% [markdown]
# **Reading the figure.** The curves show the share of false alarms: by construction there is nothing to find. A sound procedure stays on or below the dashed line. A curve that climbs towards the right finds the luck of the seed, with more
# certainty the more images it sees: McNemar's test is right that these *networks* differ, and wrong as evidence about *methods*. Pooling the images of several seeds into one test does not repair it. The procedure that treats the
# *seed* as the unit should stay flat, whatever the number of images. If $\sigma$ were zero, all curves would lie at or under 5%.
#
# ### What could this study have seen?
#
# The interval over seeds is honest and, with few seeds, wide. For a measured spread $s_d$ the smallest mean difference that $n$ seeds show as an interval beyond zero is half the interval's width:
#
# $$m_n = t_{n-1}\,\frac{s_d}{\sqrt n} \tag{7}$$
#
# A *true* difference of just this size is found in little more than half of all studies, because the measured mean falls below it as often as above. Planners ask for 80%: then the true difference must be larger. The next figure
# shows both, next to the differences that the study measured.


# %%
def smallest_shown(spread, n):
    return stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n)  # eq. 7


def power(difference, spread, n):
    """Probability that the interval of n seeds leaves out zero, on the right side, for a true difference (noncentral t)."""
    return stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, difference * np.sqrt(n) / spread)


def needed_for_80(spread, n):
    return optimize.brentq(lambda d: power(d, spread, n) - 0.8, 0, 5 * smallest_shown(spread, n))


counts = np.arange(2, 31)
reach, measured = {}, {}
for attack in ("pgd", "screen"):
    title, s = f"{ATTACKS[attack]}, {n_images[attack]:,} images", 100 * spreads[attack]
    reach[title] = smallest_shown(s, counts), np.array([needed_for_80(s, n) for n in counts])
    measured[title] = {b: 100 * results.compare(study, "anchor", b, attack)["difference"] for b in BASELINES}
plotting.show(
    figures.within_reach(counts, reach, measured, at=n_seeds),
    "Smallest difference between two methods that n training seeds can show, and the true difference found 80% of the time, against n, with the absolute measured differences between ANCHOR and four baselines at the study's number of seeds.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** The grey area is blind: a mean difference in it has an interval that contains zero, with the spread of this study. Dots are the measured differences (absolute values; filled: ANCHOR ahead, hollow: behind) at the study's number
# of seeds. A dot in the grey area says that a difference of that size is out of this study's reach: "no difference measured" is then a statement about the study. A dot above the solid line would be a finding. Both axes are logarithmic: go along a
# horizontal line to find the number of seeds that a difference of your interest needs. The spread is one number pooled over the four baselines; the intervals in the tables use each pair's own, so a dot near the line can fall on either side there.

# %%
wanted = 0.01
for_one_point = {
    a: next((n for n in range(2, 500) if power(wanted, spreads[a], n) >= 0.8), 500) for a in ("pgd", "screen")
}
lesson.say(
    "\n".join(
        f"- {ATTACKS[a]}: spread of the paired differences {100 * spreads[a]:.2f} points. {n_seeds} seeds show a mean difference from {100 * smallest_shown(spreads[a], n_seeds):.1f} points on, and find a true "
        f"difference of {100 * needed_for_80(spreads[a], n_seeds):.1f} points in 80% of studies. The largest that was measured is "
        f"{max(abs(100 * results.compare(study, 'anchor', b, a)['difference']) for b in BASELINES):.1f}. To find a true difference of one point in 80% of studies takes {for_one_point[a]} seeds a method."
        for a in ("pgd", "screen")
    )
)

# %% [markdown]
# ### Exercise 2 · How many seeds?
#
# Turn eq. 7 round. Given the spread $s_d$ of the paired differences and a mean difference that you want to show, return the smallest number of seeds $n \ge 2$ with $m_n$ smaller than the difference. There is no closed form, because
# $t_{n-1}$ depends on $n$ too. Before you write it: by what factor does $n$ grow when the difference is halved?


# %% tags=["exercise"]
def seeds_needed(spread, difference):
    """Smallest n >= 2 whose interval is narrow enough that a mean of `difference` leaves out zero."""
    # BEGIN SOLUTION
    n = 2
    while stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n) >= difference:
        n += 1
    return n
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 2
@lesson.check("Exercise 2")
def _():
    assert seeds_needed(0.01, 1.0) >= 2, "One seed has no interval: n starts at 2."
    assert seeds_needed(0.01, 1.0) == 2, "A huge difference needs the smallest n that has an interval."
    n = seeds_needed(0.01, 0.01)
    assert n != 4, "Two slips give 4: the normal 1.96 in place of t, which changes with n, or n in place of its root."
    assert n != 5, "5 comes from the 95% point of t; an interval with 2.5% on each side takes the 97.5% point."
    assert n != 6, "6 comes from n degrees of freedom; there are n - 1."
    assert n != 18, "18 comes from the whole width of the interval; half of it must be below the difference."
    assert n == 7, f"For a spread as large as the difference the answer is 7, not {n}."
    assert seeds_needed(0.01, 0.005) == 18, f"For half of that difference: 18, not {seeds_needed(0.01, 0.005)}."
    assert seeds_needed(2.0, 1.0) == 18, "Only the ratio of spread and difference should matter."


# %% [markdown] tags=["solution"]
# Where $t$ has settled near 2, halving the difference takes four times the seeds, as always with $1/\sqrt n$. With few seeds it takes less than that, because $t_{n-1}$ falls as well: the third seed is worth far more than the
# thirtieth. Note that this $n$ finds a true difference of that size in little more than half of all studies.

# %% [markdown]
# ### The claims
#
# The paper's claims as its abstract and summary make them, and how each is tested, stand in `study.claims.CLAIMS`. Do read the column *measured* before the verdict.
#
# > **Predict, then see.** You have seen the differences and their intervals. Which of the five claims will be *supported*, which *contradicted*, and which stay open? One of them was measured with one seed only.
#
# > **Commands.** `make sweep SWEEP=cifar10_cpu`, `make publish`.


# %%
def show_claims(claims):
    """The table with a line for each baseline."""
    text = claims.replace({"measured": {"; against": "<br>against"}}, regex=True)
    display(HTML(text.to_html(escape=False, index=False, justify="left")))


study_claims = claims_table(study)
show_claims(study_claims)

# %%
WORDS = {
    "supported": "supported",
    "contradicted": "contradicted",
    "mixed": "mixed",
    "no_difference": "no difference measured",
    "not_measured": "not measured",
}


def count_verdicts(claims):
    """How many claims have each verdict, and how many verdicts rest on one training seed."""
    found = {key: int(claims["verdict"].str.startswith(word).sum()) for key, word in WORDS.items()}
    return found | {"on_one_seed": int(claims["verdict"].str.contains("one training seed").sum())}


def in_words(found):
    listed = [f"{number} {WORDS[key]}" for key, number in found.items() if key in WORDS and number]
    return ", ".join(listed) + f" ({found['on_one_seed']} of the verdicts on one training seed)"


study_counts = count_verdicts(study_claims)
clean = results.compare(study, "anchor", "pgd_at", "clean")
lines = [f"Of {len(study_claims)} claims: {in_words(study_counts)}."]
for (_, _, attack), verdict in zip(CLAIMS, study_claims["verdict"], strict=True):
    if attack != "autoattack" or "one training seed" not in verdict:
        continue
    rows = ", ".join(f"seed {s}: {100 * d:+.1f}" for s, (d, _) in alone["screen", "pgd_at"].items())
    lines.append(
        f"The claim about AutoAttack is *{verdict}*. What would other seeds have said? Full AutoAttack was not run on them, but its first two attacks, the screen, were: ANCHOR minus PGD-AT, in points, {rows}."
    )
lines.append(
    "*Clean accuracy does not suffer* asks for less than the other claims: not that ANCHOR is better, but that it is not worse. "
    + (
        "Here the interval lies above zero, which shows more than was asked. "
        if clean["low"] > 0
        else f"The interval excludes a loss of more than {-100 * clean['low']:.1f} points against PGD-AT. Whether that is little enough has to be said beforehand, and we had not said it. "
    )
    + "The table asks for an interval above zero. Exercise 3 writes the other test."
)
tuned = {c["method"]: c["config"] for c in cells if c["method"] in ("anchor", "supcon_at")}
other = [k for k, v in tuned["anchor"].items() if tuned["supcon_at"][k] != v and k not in ("method", "seed", "beta")]
lines.append(
    "*Weighing hard positives* compares two methods, each at the best setting of its own trials. Besides the weights of the positives, they differ in "
    + (
        "; ".join(f"`{k}` (ANCHOR {tuned['anchor'][k]}, SupCon-AT {tuned['supcon_at'][k]})" for k in other)
        + ". A difference could come from there too; the row with beta = 0 in section 4 changes the weights only."
        if other
        else "nothing."
    )
)
lesson.say("\n\n".join(lines))

# %% [markdown]
# ### Exercise 3 · "Not worse" is another claim
#
# "No difference measured" does not support "it does not suffer": a study with two bad networks would also measure none. To *support* "not worse by more than a margin $\delta$" the data must exclude every loss larger than $\delta$.
# Write that verdict. `comparison` has the keys `difference`, `low`, `high` as from `results.compare`; `margin` is $\delta > 0$ in the same unit. Return `"supported"`, `"contradicted"` or `"open"`.


# %% tags=["exercise"]
def not_worse(comparison, margin):
    """Verdict on the claim that the method loses at most `margin` against the baseline."""
    # BEGIN SOLUTION
    if comparison["low"] > -margin:
        return "supported"
    if comparison["high"] < -margin:
        return "contradicted"
    return "open"
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 3
@lesson.check("Exercise 3")
def _():
    def case(low, high):
        return not_worse({"difference": (low + high) / 2, "low": low, "high": high}, 0.01)

    assert case(0.002, 0.02) == "supported", "An interval above zero excludes every loss."
    assert case(-0.004, 0.02) == "supported", "[-0.4, +2] points excludes a loss of more than 1 point: supported."
    assert case(-0.008, -0.002) == "supported", "Surely a loss, but surely less than 1 point: the claim allows that."
    assert case(-0.05, 0.06) == "open", "[-5, +6] points contains zero, and losses of up to 5 points: nothing is shown."
    assert case(-0.03, -0.005) == "open", "[-3, -0.5] points reaches across the margin: open."
    assert case(-0.05, -0.02) == "contradicted", "Every value in [-5, -2] points is a loss of more than 1 point."


# %% [markdown] tags=["solution"]
# This is a *non-inferiority* test: the interval is compared with $-\delta$ in place of zero. A noisy study cannot pass it, whereas "no significant difference" is easiest to reach with a study that is too small. The margin must be chosen
# before the data are seen; afterwards there is always one that fits.

# %% [markdown]
# ## 3 The runs of this machine
#
# > **Command.** `make tutorial`, or any notebook, leaves a folder a training run in `runs/`, with its configuration and one line of metrics an epoch.
#
# The accuracies in this list are from **held-out training images**, from which checkpoints were chosen. It is an inventory, not a result.

# %%
inventory = []
for path in sorted(Path(config.runs_dir).glob("*/config.json")):
    if not (path.parent / "last.safetensors").exists():
        continue  # not finished
    fields = json.loads(path.read_text())["training"]
    history = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    row = {name: fields[name] for name in ("dataset", "method", "width", "epsilon", "epochs", "seed")}
    row["best held-out PGD"] = max(line["robust_accuracy"] for line in history)
    row["training seconds"] = sum(line["seconds"] for line in history)
    inventory.append({**row, "run": path.parent.name})
inventory = pd.DataFrame(inventory)
print(f"{len(inventory)} finished training runs")
display(inventory.round(3))

# %%
table_path = Path(config.runs_dir) / "results" / preset / "06_table.json"
command = f"python -m anchor_utils.run {preset} --notebooks 06"
if table_path.exists():
    table, context = results.read_results(table_path)
    used = context["config"]
    other = [name for name, value in config.model_dump().items() if used.get(name) != value]
    other = [name for name in other if name not in ("runs_dir", "data_root", "device")]
    lesson.say(
        f"> **Command.** `{command}`\n\nEvaluation of notebook 06: {used['dataset']}, width {used['width']}, {table['training_seed'].nunique()} training seed(s)."
        + (
            f" **It was made with other values of {', '.join(other)} than this notebook was started with.**"
            if other
            else ""
        )
    )
    display(tables.method_table(table).set_index("method"))
    lesson.say(
        "Percent, 95% Wilson interval over images for n = 1, t interval over seeds otherwise. "
        + "; ".join(
            tables.setting(table, attack) for attack in (*ATTACKS, "autoattack") if attack in set(table["attack"])
        )
        + f". Attack seed {used['seed']}."
    )
else:
    table = pd.DataFrame(columns=["method", "training_seed", "attack", "accuracy", "low", "high", "images", "outcomes"])
    lesson.say(f"**No evaluation with the preset `{preset}` on this machine yet.** Run `{command}`.")
if preset == "smoke":
    lesson.say(
        "**The preset `smoke` tests the machinery. Its networks have learned next to nothing: read no result from it.**"
    )

# %%
if len(table):
    here = {attack: tables.attack_name(table, attack) for attack in ATTACKS if attack in set(table["attack"])}
    measured_here = [b for b in BASELINES if b in set(table["method"])]
    plotting.show(
        figures.differences_by_seed({title: one_seed_at_a_time(table, a, measured_here) for a, title in here.items()}),
        "ANCHOR minus each baseline for the networks of this machine, clean, under PGD and under the screen, with 95% intervals over images, coloured by McNemar's test.",
        svg=True,
    )

# %% [markdown]
# **Reading the figure.** As above, for the networks that were trained here. The screen sees few images on a small machine: look at how long its bars are before you look at where its dots are. With one training seed there is no
# black diamond, and the figure is one draw from the lottery of section 2: a coloured dot says that two networks differ. `overrides = {'seeds': 3}` in notebook 06 gives the diamonds.
#
# The same claims, the same rule, on this preset:

# %%
claims = claims_table(table)
show_claims(claims)
counts_here = count_verdicts(claims)
lesson.say(f"> **Command.** `{command}`\n\nOf {len(claims)} claims: {in_words(counts_here)}.")
if not (str(config.dataset).startswith("cifar10") and config.width == 64):
    lesson.say(
        f"These runs are on {config.dataset} at width {config.width}. The paper's claims are about CIFAR-10 and a ResNet-18: **not replicated here**; the presets `t4` and `paper` are for that."
    )

# %% [markdown]
# ## 4 Price and parts
#
# ### What it costs
#
# One pass is a forward and a backward pass of one image through the network; seconds are those of one thread on machines that did other things too, not the same for all cells, and only rough (`python benchmarks/training_cost.py` lets the methods take turns on one machine). At equal epochs the two-view methods train longer
# than PGD-AT; at equal time they would have to give up epochs.
#
# > **Commands.** `make sweep SWEEP=cifar10_cpu`, `make publish`.

# %%
display(tables.cost_table(cells).set_index("method").round(2))

# %% [markdown]
# Is a lead of ANCHOR only its longer training? The study has a PGD-AT with more epochs, so many that it has about ANCHOR's seconds, and more images seen and more passes. All else is as above.
#
# > **Commands.** `make sweep SWEEP=cifar10_equal_time`, `make publish`.

# %%
longer, longer_cells = tables.read_cells(STUDY, "cifar10_equal_time")
longer = longer[longer["checkpoint"] == "best"]
longer_setting = longer_cells[0]["config"]
equal_time = pd.concat([study[study["method"] == "anchor"], longer])
equal_claims = claims_table(equal_time, EQUAL_TIME_CLAIMS)
show_claims(equal_claims)
more = {
    a: results.compare(
        pd.concat([longer, study[study["method"] == "pgd_at"].assign(method="shorter")]), "pgd_at", "shorter", a
    )
    for a in ATTACKS
}
lesson.say(
    f"PGD-AT with {longer_setting['epochs']} epochs: {longer_setting['epochs'] * (longer_setting['attack_steps'] + 1)} passes for each training image, against "
    f"{setting['epochs'] * (setting['attack_steps'] + 2)} of ANCHOR with {setting['epochs']} epochs. What the additional epochs gave PGD-AT itself: "
    + "; ".join(f"{title}, {describe(more[a])}" for a, title in ATTACKS.items())
    + "."
)

# %% [markdown]
# ### What the networks look like inside
#
# On the first test images, clean and under PGD: accuracy of ten nearest neighbours in feature space (leave-one-out), silhouette of the classes, and the cosine between an image's clean and adversarial features. For the
# contrastive methods also the length of the contrastive term's gradient as a share of both terms' lengths, and the cosine of the two gradients, over the encoder's weights on training images.
#
# > **Commands.** `make sweep SWEEP=cifar10_cpu`, `make publish`.

# %%
inside = pd.DataFrame([{"method": cell["method"], **cell["inside"]} for cell in cells])
means_inside = inside.groupby("method").mean().reindex(METHODS)
display(means_inside.rename(plotting.method_name).T.round(3))
contrastive = [m for m in ROBUST if m in ("supcon_at", "anchor")]
lines = []
for name in ("adversarial silhouette", "adversarial knn_accuracy", "cosine of clean and adversarial features"):
    values = means_inside[name].drop("standard")
    best = values.idxmax()
    lines.append(
        f"- {name.replace('knn_accuracy', 'neighbour accuracy')}: highest for {plotting.method_name(best)}, which {'has' if best in contrastive else 'does not have'} a contrastive term ({values.max():.3f}; spread over the seeds of a method up to {inside.groupby('method')[name].std()[ROBUST].max():.3f})."
    )
lesson.say(
    f"Means over {n_seeds} training seeds, the first {setting['embedding_images']} test images, {ATTACKS['pgd']} as above. Among the five methods that train on adversarial images:\n\n"
    + "\n".join(lines)
)

# %% [markdown]
# **Reading the table.** If the contrastive term did what it is for, the contrastive methods would have higher silhouettes and neighbour accuracies under attack, and a cosine nearer to 1; compare differences with the spread over
# seeds before believing them. A gradient share near zero means that the term hardly acts; near one, that it drowns out the classification. A cosine between the gradients near zero says that the two terms ask for different
# things; near one, that the term mostly repeats what cross-entropy says.
#
# ### The trials behind the settings
#
# All trials, good and bad. The study uses the best of each method, by a rule that was fixed before the test images were touched.
#
# > **Commands.** `make sweep SWEEP=cifar10_tuning`, `make publish`.

# %%
_, trials = tables.read_cells(STUDY, "cifar10_tuning")
log = pd.DataFrame([{"method": c["method"], "trial": c["variant"], **c["held_out"]["joint"]} for c in trials])
log = log.sort_values(["method", "robust"], ascending=[True, False])
display(log.set_index(["method", "trial"]).round(3))
held = trials[0]["config"]
error = np.sqrt(log["robust"].mean() * (1 - log["robust"].mean()) / held["validation_images"])
lesson.say(
    f"Accuracies on {held['validation_images']} held-out training images under PGD-{held['validation_steps']}, epsilon {held['epsilon']:g}, at the best of {held['epochs']} epochs, one seed. The standard error of a robust accuracy over images is "
    f"{100 * error:.1f} points, and the luck of the seed comes on top: neighbours in this list are not told apart, and the best of several is partly lucky. Trials a method: "
    + ", ".join(f"{plotting.method_name(m)} {number}" for m, number in log["method"].value_counts(sort=False).items())
    + "."
)

# %% [markdown]
# ### Ablations
#
# One setting of ANCHOR is changed at a time, in short runs on held-out training images, with the seeds of the study's first networks. With $\beta = 0$ it is SupCon-AT. *New classifier* is step 5 of the reconstruction, see below.
#
# > **Predict, then see.** Which change will matter more: the hardness $\beta$, the weight $\lambda$ of the contrastive term, its temperature $\tau$, or what cross-entropy sees?
#
# > **Commands.** `make sweep SWEEP=cifar10_ablations`, `make publish`.

# %%
_, ablations = tables.read_cells(STUDY, "cifar10_ablations")
SYMBOLS = {"beta": "beta", "contrastive_weight": "lambda", "temperature": "tau"}
settings = {cell["variant"]: cell["config"] for cell in ablations}
base = settings["base"]


def change(variant, classifier):
    """What a row changes, in words."""
    changed = {k: v for k, v in settings[variant].items() if base[k] != v and k != "seed"}
    if changed.get("method") == "supcon_at":
        words = ["beta = 0 (SupCon-AT)"]
    elif "classifier_view" in changed:
        words = [f"cross-entropy on {changed['classifier_view']} views"]
    else:
        words = [f"{SYMBOLS.get(k, k)} = {v:g}" for k, v in changed.items()]
    return ", ".join([*words, *([] if classifier == "joint" else ["new classifier"])])


robust = pd.DataFrame(
    [
        {
            "variant": cell["variant"],
            "classifier": classifier,
            "training_seed": cell["training_seed"],
            "robust": scores["robust"],
        }
        for cell in ablations
        for classifier, scores in cell["held_out"].items()
    ]
).pivot(index=["variant", "classifier"], columns="training_seed", values="robust")
gains = 100 * (robust - robust.loc["base", "joint"]).drop(("base", "joint"))
gains = gains.loc[gains.mean(axis=1).sort_values().index]
intervals = [results.mean_interval(row) for _, row in gains.iterrows()]
names = [change(*key) for key in gains.index]
xlabel = f"held-out accuracy under PGD-{base['validation_steps']} minus the base's, points"
plotting.show(
    figures.ablations(names, gains.to_numpy(), intervals, xlabel=xlabel),
    "Held-out robust accuracy of each ablation of ANCHOR minus that of the base setting: a dot a training seed, a diamond for the mean over seeds and a bar for its 95% t interval, sorted by the mean; a dashed line at zero is the base.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** One row a variant, sorted; a dot is one training seed, the diamond their mean, the bar its interval (eq. 4). The orange line is the base setting, against which each seed was compared with itself. A variant counts as
# better or worse only where its bar leaves the line, and with so many variants one may do so by chance. Sorted noise always looks like a trend: try to tell a story about the order, then imagine it reversed.
# If $\beta$ mattered at this scale, the rows that change it would lie apart from the line, in an order that follows $\beta$.

# %%
apart = [
    f"{name} ({mean:+.1f} [{low:+.1f}, {high:+.1f}])"
    for name, (mean, low, high) in zip(names, intervals, strict=True)
    if low > 0 or high < 0
]
lesson.say(
    f"Base: beta {base['beta']:g}, lambda {base['contrastive_weight']:g}, tau {base['temperature']:g}, cross-entropy on the {base['classifier_view']} view; held-out robust accuracy "
    f"{100 * robust.loc['base', 'joint'].mean():.1f}%, mean over {robust.shape[1]} seeds, {base['validation_images']} images, epsilon {base['epsilon']:g}. The intervals of {len(apart)} of the {len(names)} rows leave zero out{': ' + '; '.join(apart) if apart else ''}."
)

# %% [markdown]
# Step 5 of the reconstruction replaces the classifier by a new one, trained on adversarial images on top of the frozen encoder (notebook 05). Does that help the ANCHOR networks of the study? Held-out training images again, one row a training seed.
#
# > **Commands.** `make sweep SWEEP=cifar10_cpu`, `make publish`.

# %%
frozen = pd.DataFrame(
    [
        {"training_seed": c["training_seed"], "classifier": kind, "clean": scores["clean"], "robust": scores["robust"]}
        for c in cells
        if len(c["held_out"]) > 1
        for kind, scores in c["held_out"].items()
    ]
).pivot(index="training_seed", columns="classifier", values=["clean", "robust"])
display(frozen.round(3))
gain = frozen["robust"].drop(columns="joint").iloc[:, 0] - frozen["robust"]["joint"]
mean, low, high = results.mean_interval(gain)
lesson.say(
    f"New classifier minus joint training, robust accuracy: {100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points over {len(gain)} seeds (eq. 4)."
)

# %% [markdown]
# ## 5 Other people's numbers
#
# For scale: ResNet-18 of full width on CIFAR-10 at epsilon 8/255, as two repositories state it; their example commands train for 200 epochs. These numbers are **copied, not measured by this course**. Even the two sources are not
# comparable without care: the first chose its checkpoints *on the test set* ("selected with the best robustness on the test set"), attacks with 20 steps of 2/255 and counts the final iterate; the second reports 10 steps and AutoAttack.
# Neither gives seeds or intervals.
#
# > **No command.** Read off the README of [LetheSec/Adversarial_Training_Pytorch](https://github.com/LetheSec/Adversarial_Training_Pytorch) at commit 27256a5 and of
# > [Harry24k/MAIR](https://github.com/Harry24k/MAIR) at commit fcf0aba.

# %%
literature = pd.DataFrame(
    [
        ("LetheSec", "PGD-AT", 82.57, 51.28, np.nan, np.nan),
        ("LetheSec", "TRADES", 80.86, 51.23, np.nan, np.nan),
        ("LetheSec", "MART", 78.59, 54.87, np.nan, np.nan),
        ("LetheSec", "AT-AWP", 82.30, 54.73, np.nan, np.nan),
        ("MAIR", "PGD-AT", np.nan, np.nan, 52.73, 48.67),
        ("MAIR", "TRADES", np.nan, np.nan, 53.47, 49.45),
        ("MAIR", "MART", np.nan, np.nan, 54.73, 47.51),
        ("MAIR", "AT-AWP", np.nan, np.nan, 55.52, 50.80),
    ],
    columns=["source", "method", "clean %", "PGD-20 %", "PGD-10 %", "AutoAttack %"],
).set_index(["source", "method"])
display(literature)

# %%
mine = (
    f"measured by this course: width {setting['width']}, {trained:,} images, {setting['epochs']} epochs, "
    f"mean of {n_seeds} seeds, epsilon {setting['epsilon']:g}"
)
reported = "reported by {}, not measured here: full width, epsilon 8/255"
compared = ("pgd_at", "trades", "mart", "supcon_at", "anchor")
blocks = {mine: {plotting.method_name(m): [100 * means[a][m] for a in ATTACKS] for m in compared}}
for source, rows in literature.groupby(level="source", sort=False):
    under_pgd = rows[["PGD-20 %", "PGD-10 %"]].max(axis=1)  # each source has one of the two
    three = np.stack([rows["clean %"], under_pgd, rows["AutoAttack %"]], axis=1)
    blocks[reported.format(source)] = dict(zip(rows.index.get_level_values("method"), three, strict=True))
attacks_of = dict(zip(blocks, (ATTACKS.values(), ("clean", "PGD-20", ""), ("", "PGD-10", "AutoAttack")), strict=True))
plotting.show(
    figures.literature(blocks, attacks_of, ours=mine),
    "Accuracies of this course's small networks, filled marks, in one block; accuracies that two other repositories report for full-size networks, hollow marks, in two blocks below.",
    svg=True,
)
published = literature.xs("MAIR")["AutoAttack %"].drop("AT-AWP")
lesson.say(
    f"The AutoAttack accuracies that MAIR states for {', '.join(published.index)} lie within {published.max() - published.min():.1f} points of each other. {n_seeds} seeds with the spread of our study would show a difference from {100 * smallest_shown(spreads['screen'], n_seeds):.1f} points on "
    f"(screen, {n_images['screen']:,} images). What the spread is at full scale and with more images, neither source says. "
    f"AT-AWP, PGD-AT with perturbed weights (Wu et al., 2020), stands {literature.loc[('MAIR', 'AT-AWP'), 'AutoAttack %'] - published['PGD-AT']:.1f} points above PGD-AT there: "
    "what a change outside the loss can do."
)

# %% [markdown]
# **Reading the figure.** Filled marks are ours, hollow marks are other people's. The horizontal gap between the blocks is scale: network, images, epochs. It says nothing about methods, and no row of one block may be compared with a row of another.
# Within a block, compare how far the methods lie apart, and remember what section 2 said about differences of that size. If our small networks had reached the hollow marks, something would be wrong with the evaluation.
#
# ## What can go wrong
#
# - **Calling a reconstruction a replication.** Without the paper's equations and settings, a failure here may be ours, and a success too.
# - **One seed.** A test over images says that two *networks* differ. With enough images it finds that nearly always.
# - **Pooled p-values.** The McNemar $p$ in the tables pools the seeds and counts each image once a seed. It is about these networks, and too small as a statement about methods.
# - **"Not significant" read as "equal".** A study too small to see anything finds no difference between any two things.
# - **Choosing after looking.** Settings, checkpoints, margins or hypotheses chosen on the test images make the rows optimistic. The study's settings come from held-out training images by a rule that was fixed before.
# - **Many comparisons.** Five claims, four baselines, three attacks: at 5% a false alarm is to be expected somewhere. Asking that *every* baseline be beaten makes "supported" hard to reach by luck; a single row picked from the figure is not protected.
# - **Unequal care.** A baseline with fewer trials than one's own method loses. Count the trials.
# - **Numbers of others in one table with one's own.** Another epsilon, iterate or checkpoint rule moves an accuracy by as much as a method does.
#
# ## What we saw

# %%
ahead, behind = sides("pgd", "pgd_at")
same_time = results.compare(equal_time, "anchor", "pgd_at", "pgd")
confirmed = against["low"] > 0 and ahead < n_seeds and same_time["low"] <= 0 <= same_time["high"]
lesson.say(
    "\n".join(
        [
            f"- CIFAR-10 study, {study['training_seed'].nunique()} training seeds, {len(study_claims)} claims: {in_words(study_counts)}.",
            f"- Preset `{preset}`, {table['training_seed'].nunique()} training seed(s), {len(claims)} claims: {in_words(counts_here)}.",
            f"- ANCHOR against PGD-AT under {ATTACKS['pgd']} (L-inf epsilon {setting['epsilon']:g}, {setting['eval_steps']} steps of {setting['eval_step_size']:g}, {setting['eval_restarts']} restart, any iterate, {n_images['pgd']:,} images, "
            f"attack seed = training seed): McNemar's test puts ANCHOR ahead with {ahead} and behind with {behind} of {n_seeds} seeds (p < 0.05); over the seeds {describe(against)}. One seed ahead and another behind occurs in {len(split)} of {len(alone)} comparisons.",
            f"- Against a PGD-AT of {longer_setting['epochs']} epochs, with about ANCHOR's training time: {ATTACKS['pgd']} {describe(same_time)}; "
            f"screen {describe(results.compare(equal_time, 'anchor', 'pgd_at', 'screen'))}.",
            f"- With the measured spread, {n_seeds} seeds show differences from {100 * smallest_shown(spreads['pgd'], n_seeds):.1f} points on; one point takes {for_one_point['pgd']} seeds (80% power). In the simulation, McNemar's test on one seed raises a false alarm in {at_study[0]:.0%} of studies.",
            f"\nThe claim is **{'confirmed' if confirmed else 'not confirmed'}** by the study's file.",
        ]
    )
)

# %% [markdown]
# ### Expected values
#
# The study's numbers follow from a file and must come out the same on every machine (nothing is trained for them); the counts of this preset's verdicts depend on the networks that were trained here.

# %%
metrics = {f"claims_{key}": float(number) for key, number in counts_here.items()}
metrics |= {f"study_claims_{key}": float(number) for key, number in study_counts.items()}
metrics |= {f"study_{m}_{a}_accuracy": float(means[a][m]) for m in ("pgd_at", "supcon_at", "anchor") for a in ATTACKS}
metrics |= {
    f"study_anchor_minus_{b}_at_{a}": float(results.compare(study, "anchor", b, a)["difference"])
    for b in BASELINES
    for a in ("pgd", "screen")
}
metrics |= {
    "study_seeds_anchor_ahead_of_pgd_at": float(ahead),
    "study_seeds_anchor_behind_pgd_at": float(behind),
    "study_smallest_difference_shown_at_pgd": float(smallest_shown(spreads["pgd"], n_seeds)),
    "study_seeds_for_one_point_at_pgd": float(for_one_point["pgd"]),
    "study_one_seed_false_alarm_rate": float(at_study[0]),
    "study_t_interval_false_alarm_rate": float(at_study[2]),
    "claim_confirmed": float(confirmed),
}
lesson.finish("08", preset, config, metrics)

# %% [markdown]
# **Limits.** The claims are our reading of an abstract and a summary; the equations and hyper-parameters are ours. A handful of seeds knows its own spread badly: the true $\sigma$ may be half or twice what was measured, and
# everything in "more images or more seeds?" inherits that; pooling over four baselines helps less than it seems, because all four comparisons share ANCHOR's runs. The simulation takes seeds for normal and disagreeing images for independent. Student's interval over so few seeds assumes normality too, and cannot check it.
# Adding seeds after a look at the first ones, as was done here, makes it somewhat too narrow. All seeds are tested on the same images, so what these images have in favour of one method is not in that interval either. And the settings were chosen with one seed.
#
# **References.** Bhattacharya, Bhattacharya, Chakraborty, arXiv 2510.27599 · Croce & Hein, *Reliable evaluation of adversarial robustness*, arXiv 2003.01690 · Bouthillier et al., *Accounting for variance in machine learning
# benchmarks*, arXiv 2103.03098 · Wu, Xia & Wang, *Adversarial weight perturbation helps robust generalization*, arXiv 2004.05884 · Agresti & Min, *Simple improved confidence intervals for comparing matched proportions*, Statistics in Medicine 24, 2005 · McNemar, Psychometrika 12, 1947 · Wilson, JASA 22, 1927 · Student, *The probable error of a mean*, Biometrika 6, 1908.
#
# **Next:** your own claim. Write it into `study.claims.CLAIMS`, run `make sweep` with more seeds than ours, and read the verdict, whichever way it falls. Back to the [list of notebooks](../README.md#the-notebooks).
