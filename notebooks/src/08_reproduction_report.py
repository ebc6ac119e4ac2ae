# %% [markdown]
# # 08 · Reproduction report
#
# **Claim: everything that this course says about ANCHOR can be read off files that its runs wrote. This notebook trains nothing. It collects the
# results that exist on this machine, and those of the CIFAR-10 study that comes with the course, and holds them against the paper's claims,
# whichever way they fall.**
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/anchor-course/blob/main/notebooks/08_reproduction_report.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/OWNER/anchor-course#the-notebooks)
#
# **You will learn** how to state a claim so that a table can refute it, what counts as a replication, and what this reconstruction
# has and has not shown.
#
# **You need** results: `make tutorial`, or notebook 06 with any preset. Without them this notebook says so and shows the study alone.
#
# **Time** seconds, for every preset.

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
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display

from anchor_utils import evaluation, notebook, plotting, report
from anchor_utils.models import PRETRAINED_DIR

config, device = notebook.start(preset, overrides, seed, runs_dir, data_root)
results = Path(config.runs_dir) / "results"

# %% [markdown]
# ## 1 What there is
#
# Each finished training run left a folder with its configuration and one line of metrics an epoch. These are accuracies on **held-out
# training images**, from which checkpoints were chosen; they are here as an inventory, not as results.

# %%
inventory = []
for path in sorted(Path(config.runs_dir).glob("*/config.json")):
    if not (path.parent / "last.safetensors").exists():
        continue
    fields = json.loads(path.read_text())["training"]
    lines = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    best = max(line["robust_accuracy"] for line in lines)
    inventory.append(
        {
            "dataset": fields["dataset"],
            "method": fields["method"],
            "width": fields["width"],
            "epsilon": fields["epsilon"],
            "epochs": fields["epochs"],
            "seed": fields["seed"],
            "best held-out PGD": best,
            "training seconds": sum(line["seconds"] for line in lines),
            "run": path.parent.name,
        }
    )
inventory = pd.DataFrame(inventory)
print(f"{len(inventory)} finished training runs")
inventory.round(3)

# %% [markdown]
# ## 2 Method table
#
# From the evaluation of notebook 06 with this notebook's preset, on test images. `low` and `high` are a 95% Wilson interval over images.
# `any iterate` means that an image counts as lost if any step of the attack fools the network. A *screen* is the first two of AutoAttack's
# four attacks, and is not AutoAttack.

# %%
table_path = results / preset / "06_table.json"
if table_path.exists():
    table, context = evaluation.read_results(table_path)
else:
    table, context = (
        pd.DataFrame(columns=["method", "seed", "attack", "accuracy", "low", "high", "images", "outcomes"]),
        {},
    )
    notebook.say(
        f"**No evaluation with the preset `{preset}` yet.** Run `python -m anchor_utils.run {preset} --notebooks 06`."
    )
if preset == "smoke":
    notebook.say(
        "**The preset `smoke` tests the machinery. Its networks have learned next to nothing: read no result from it.**"
    )

attacks_shown = [attack for attack in ("clean", "pgd", "screen", "autoattack") if attack in set(table["attack"])]
rows = table[table["attack"].isin(attacks_shown)]
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
display(rows[[column for column in shown if column in rows]].round(3).reset_index(drop=True))
across = evaluation.over_seeds(rows)
if len(across) and across["runs"].max() > 1:
    display(across.round(4))

# %%
if len(rows):
    methods = list(dict.fromkeys(rows["method"]))
    first = rows.groupby(["attack", "method"], sort=False).first()
    series = {}
    for attack in attacks_shown:
        values = first.loc[attack].reindex(methods)
        series[attack] = tuple(values[column].to_numpy(float) for column in ("accuracy", "low", "high"))
    plotting.show(
        plotting.accuracy_bars(methods, series),
        "Accuracy of every method under every attack with 95% intervals.",
        svg=True,
    )

# %% [markdown]
# **Reading the figure.** One group a method, one colour an attack. Within a group the points must go down from clean to the strongest attack;
# one that goes up would be a broken attack. Between groups, look at the strongest attack that both have, and at the intervals. The attacks may
# have seen different numbers of images, see the table.
#
# ## 3 The claims, on this preset
#
# The paper's claims as its abstract and summary make them, how this course tests each, and what the runs on this machine say. Two questions are kept
# apart. *Do these networks differ?* McNemar's exact test looks at the images on which only one of the two is right. *Do these methods differ?* Only
# training seeds can say: the interval is Student's, over differences paired by seed. The verdict is computed: *supported* needs an interval
# above zero (with one seed: McNemar's $p < 0.05$) against **every** baseline named, *contradicted* one below zero against every one, *mixed* is anything
# in between, and *no difference measured* means just that. With one training seed a verdict is about two networks; another seed can turn it round.

# %%
claims = report.claims_table(table)
wide = ("display.max_colwidth", None)
with pd.option_context(*wide):
    display(claims)
if not (str(config.dataset).startswith("cifar10") and config.width == 64):
    notebook.say(
        f"These runs are on {config.dataset} at width {config.width}. The paper's claims are about CIFAR-10 and a ResNet-18: **not replicated here**; the "
        "presets `t4` and `paper` are for that."
    )

# %% [markdown]
# ## 4 CIFAR-10: the study that comes with the course
#
# Six methods, three training seeds, real CIFAR-10 images (a copy that went through JPEG once, with 5,000 test images), a width-16 ResNet-18, a
# few epochs on two CPU cores. Method settings are the best of four short trials each, by robust accuracy on held-out *training* images. This is one
# or two orders of magnitude from the paper's budget: it can show how the methods compare *here*, not what they reach at full scale.
#
# Everything below is read from `data/pretrained/study.json`, written by
#
#     make sweep SWEEP=cifar10_cpu        # and cifar10_tuning, cifar10_ablations
#     make publish

# %%
study, cells = report.read_cells(PRETRAINED_DIR / "study.json", "cifar10_cpu")
study = report.with_screen(study[study["checkpoint"] == "best"])
methods = list(dict.fromkeys(study["method"]))
display(report.method_table(study).set_index("method"))
notebook.say(
    "Percent: the mean over n training seeds and its 95% t interval, or, with n = 1, the 95% Wilson interval over images. "
    + "; ".join(report.setting(study, attack) for attack in ("clean", "pgd", "screen", "autoattack"))
    + ". An attack queries the network in the precision named; whether an image is lost is decided in float32."
)

# %%
# The standard network's robust accuracy, near zero, would squeeze the others together.
robust = [method for method in methods if method != "standard"]
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True)
for axis, (attack, title) in zip(
    axes, {"clean": "clean", "pgd": "PGD-20", "screen": "screen (APGD-CE + APGD-T)"}.items(), strict=True
):
    for height, method in enumerate(reversed(robust)):
        values = study.loc[(study["method"] == method) & (study["attack"] == attack), "accuracy"]
        mean, low, high = report.mean_interval(values) if len(values) else (float("nan"),) * 3
        color = plotting.method_color(method)
        axis.plot([max(low, 0), high], [height, height], color=color, alpha=0.35, linewidth=6, solid_capstyle="butt")
        axis.scatter(values, [height] * len(values), color=color, s=22, zorder=3)
        axis.plot(mean, height, "|", color=color, markersize=16)
    axis.set_title(title)
    axis.set_xlabel("test accuracy")
    axis.xaxis.set_major_locator(plt.MultipleLocator(0.02))
    axis.xaxis.set_major_formatter(plt.matplotlib.ticker.PercentFormatter(1.0, decimals=0))
axes[0].set_yticks(range(len(robust)), [plotting.method_name(m) for m in reversed(robust)])
axes[0].set_ylim(-0.5, len(robust) - 0.5)
plotting.show(
    figure,
    "Clean, PGD-20 and screen accuracy on CIFAR-10 for the five methods that train on adversarial images: one point a training seed, a tick at the mean and a band for its 95% t interval, a row a method.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** The methods that train on adversarial images; the standard network's robust accuracy is in the table. One point a training seed, a tick at their mean, a band for the 95% t interval of the mean; three seeds make it wide. Look first
# how far the seeds of *one* method lie apart: that is the noise any claim has to rise above. Then compare rows. Two rows whose points interleave have not
# been told apart, whatever their means. The claim would need ANCHOR's points to the right of every other row's in the middle and right panels.

# %%
study_claims = report.claims_table(study)
with pd.option_context(*wide):
    display(study_claims)

# %% [markdown]
# ### What it costs
#
# One pass is a forward and a backward pass of one image through the network; seconds are those of one thread on a machine that did other things
# too, and only rough. At equal epochs the two-view methods train longer than PGD-AT; at equal time they would have to give up epochs.

# %%
display(report.cost_table(cells).set_index("method").round(2))

# %% [markdown]
# ### Why: what the networks look like inside
#
# On the first 1,000 test images, clean and under PGD-20: accuracy of ten nearest neighbours in feature space (leave-one-out), silhouette of the classes, and
# the cosine between an image's clean and adversarial features. For the contrastive methods also the length of the contrastive term's gradient as a
# share of both terms' lengths, and the cosine of the two gradients, over the encoder's weights on training images. Means over seeds.

# %%
inside = pd.DataFrame([{"method": cell["method"], **cell["inside"]} for cell in cells])
if len(inside):
    display(inside.groupby("method").mean().reindex(methods).rename(plotting.method_name).T.round(3))

# %% [markdown]
# **Reading the table.** If the contrastive term did what it is for, the contrastive methods would have higher silhouettes and neighbour accuracies under
# attack, and a cosine nearer to 1. A gradient share near zero means that the term hardly acts; near one, that it drowns out the classification.
# A cosine between the gradients near zero says that the two terms ask for different things; near one, that the term mostly repeats what cross-entropy says.
#
# ### The trials behind the settings
#
# All trials, on held-out training images (1,000 images, PGD-5, the best of three epochs, one seed; the standard error of a robust accuracy is about
# 1.3 points, so neighbours in this list are not told apart). The settings of the study are the best of each method.

# %%
_, trials = report.read_cells(PRETRAINED_DIR / "study.json", "cifar10_tuning")
log = pd.DataFrame([{"method": c["method"], "trial": c["variant"], **c["held_out"]["joint"]} for c in trials])
if len(log):
    display(log.sort_values(["method", "robust"], ascending=[True, False]).set_index(["method", "trial"]).round(3))

# %% [markdown]
# ### Ablations
#
# From one setting of ANCHOR (beta 2, lambda 0.5, tau 0.1, cross-entropy on the adversarial view) one thing is changed at a time. Short runs on held-out training
# images again, one seed; beta = 0 is SupCon-AT.

# %%
_, ablations = report.read_cells(PRETRAINED_DIR / "study.json", "cifar10_ablations")
rows = [
    {"variant": c["variant"], "classifier": kind, **scores} for c in ablations for kind, scores in c["held_out"].items()
]
if rows:
    figure, axis = plt.subplots(figsize=(7, 0.32 * len(rows) + 1))
    order = sorted(rows, key=lambda row: row["robust"])
    for height, row in enumerate(order):
        low, high = evaluation.wilson(round(1000 * row["robust"]), 1000)
        color = "#D55E00" if row["variant"] == "base" else "#0072B2"
        axis.plot([low, high], [height, height], color=color, alpha=0.4, linewidth=5, solid_capstyle="butt")
        axis.plot(row["robust"], height, "o", color=color)
    names = [row["variant"] + ("" if row["classifier"] == "joint" else ", frozen encoder") for row in order]
    axis.set_yticks(range(len(order)), names)
    axis.set_xlabel("held-out PGD-5 accuracy")
    axis.xaxis.set_major_formatter(plt.matplotlib.ticker.PercentFormatter(1.0, decimals=0))
    plotting.show(
        figure, "Held-out robust accuracy of each ablation with its 95% interval over images, sorted.", svg=True
    )

# %% [markdown]
# **Reading the figure.** One row a variant, sorted by robust accuracy on 1,000 held-out training images; bars are 95% Wilson intervals over images, and the luck of the
# training seed is not in them. The base setting is orange. A variant counts as better or worse only where its bar leaves the base's behind; sorted noise looks like a trend.
#
# Step 5 of the reconstruction replaces the classifier by a new one, trained on adversarial images on top of the frozen encoder. Does that help the networks of
# the study? Held-out training images again, one row a training seed:

# %%
frozen = [
    {"seed": c["seed"], "classifier": kind, "clean": scores["clean"], "robust": scores["robust"]}
    for c in cells
    if len(c["held_out"]) > 1
    for kind, scores in c["held_out"].items()
]
if frozen:
    display(pd.DataFrame(frozen).pivot(index="seed", columns="classifier", values=["clean", "robust"]).round(3))

# %% [markdown]
# ## 5 Other people's numbers
#
# For scale: ResNet-18 on CIFAR-10 at epsilon 8/255, as published by other repositories. They are different runs with other budgets, **not
# measured by this course**, and not comparable with anything above that is not CIFAR-10 with a network of the same width.

# %%
literature = pd.DataFrame(
    [
        ("PGD-AT", 82.57, 51.28, 48.67),
        ("TRADES", 80.86, 51.23, 49.45),
        ("MART", 78.59, 54.87, 47.51),
        ("AT-AWP", 82.30, 54.73, 50.80),
    ],
    columns=["method (others' runs)", "clean %", "PGD-20 %", "AutoAttack %"],
)
literature["source"] = "LetheSec/Adversarial_Training_Pytorch, Harry24k/MAIR"
literature

# %% [markdown]
# ## What can go wrong
#
# - **Calling a reconstruction a replication.** Without the paper's equations and settings, a failure here may be ours.
# - **One seed.** A paired test over images says that two *networks* differ, not that two *methods* do. That takes several training seeds.
# - **Choosing after looking.** Settings tuned on the test images make every row of the table optimistic. The study's settings come from held-out
#   training images by a rule that was fixed before.
#
# ## What we saw

# %%
counts = claims["verdict"].value_counts()
notebook.say(
    f"Preset `{preset}`, {len(inventory)} finished runs, {table['seed'].nunique()} training seed(s): "
    + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    + f". CIFAR-10 study, {study['seed'].nunique()} training seeds: "
    + ", ".join(f"{count} {verdict}" for verdict, count in study_claims["verdict"].value_counts().items())
    + "."
)
notebook.finish("08", preset, config, {verdict: int(count) for verdict, count in counts.items()})

# %% [markdown]
# **Limits.** The claims are our reading of an abstract and a summary. The values of the equations and hyper-parameters are ours.
#
# **References.** Bhattacharya, Bhattacharya, Chakraborty, arXiv 2510.27599 · Croce & Hein, *Reliable evaluation of adversarial robustness*, arXiv
# 2003.01690 · McNemar, Psychometrika 12, 1947 · Wilson, JASA 22, 1927.
