# %% [markdown]
# # 08 · Reproduction report
#
# **Claim: everything that this course says about ANCHOR can be read off files that its runs wrote. This notebook trains nothing. It collects the
# results that exist on this machine and holds them against the paper's claims, whichever way they fall.**
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/anchor-course/blob/main/notebooks/08_reproduction_report.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/OWNER/anchor-course#the-notebooks)
#
# **You will learn** how to state a claim so that a table can refute it, what counts as a replication, and what this reconstruction
# has and has not shown.
#
# **You need** results: `make tutorial`, or notebook 06 with any preset. Without them this notebook says so and shows empty tables.
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

import numpy as np
import pandas as pd
from IPython.display import display
from scipy.stats import binomtest

from anchor_utils import evaluation, notebook, plotting

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
# ## 3 The claims
#
# The paper's claims as its abstract and summary make them, how this course tests each, and what the runs on this machine say. The verdict is computed
# from the table: *supported* needs a paired test over images (McNemar, exact) with p < 0.05 in favour of ANCHOR against every baseline;
# *contradicted* the same against it; otherwise *no difference measured*. With one training seed a verdict is about
# two networks; another seed can turn it round.


# %%
def outcome_bits(method, attack):
    chosen = table[(table["method"] == method) & (table["attack"] == attack)].sort_values("seed")
    return np.concatenate([evaluation.unpack_outcomes(r["outcomes"], r["images"]) for _, r in chosen.iterrows()])


def compare(baselines, attack):
    """Verdict and evidence for: ANCHOR is more accurate under `attack` than every one of the baselines."""
    have = set(table.loc[table["attack"] == attack, "method"])
    if "anchor" not in have or not have & set(baselines):
        return "not measured", "no results"
    anchor, evidence, wins, losses_ = outcome_bits("anchor", attack), [], 0, 0
    present = [method for method in baselines if method in have]
    for method in present:
        other = outcome_bits(method, attack)
        n = min(len(anchor), len(other))
        only_anchor, only_other = int((anchor[:n] & ~other[:n]).sum()), int((other[:n] & ~anchor[:n]).sum())
        p = binomtest(only_anchor, only_anchor + only_other).pvalue if only_anchor + only_other else 1.0
        wins += p < 0.05 and only_anchor > only_other
        losses_ += p < 0.05 and only_anchor < only_other
        difference = anchor[:n].mean() - other[:n].mean()
        evidence.append(f"{difference:+.1%} against {plotting.method_name(method)} (n = {n}, p = {p:.2g})")
    verdict = (
        "supported" if wins == len(present) else "contradicted" if losses_ == len(present) else "no difference measured"
    )
    if 0 < wins < len(present) or 0 < losses_ < len(present):
        verdict = "mixed"
    seeds = table.loc[table["method"] == "anchor", "seed"].nunique()
    return f"{verdict} ({seeds} training seed{'s' if seeds > 1 else ''})", "; ".join(evidence)


on_cifar = str(config.dataset).startswith(("cifar10", "imagefolder"))
attack_text = f"epsilon {config.epsilon:g}"
claims = []
for claim, test, baselines, attack in (
    (
        "ANCHOR is more robust than adversarial training without a contrastive term",
        f"PGD-{config.eval_steps}, {attack_text}, step {config.eval_step_size:g}, against PGD-AT, TRADES, MART",
        ("pgd_at", "trades", "mart"),
        "pgd",
    ),
    ("The same under AutoAttack", f"standard AutoAttack, {attack_text}", ("pgd_at", "trades", "mart"), "autoattack"),
    (
        "Weighing hard positives adds robustness over plain supervised contrastive training",
        f"PGD-{config.eval_steps}, {attack_text}, against SupCon-AT (beta = 0)",
        ("supcon_at",),
        "pgd",
    ),
    ("Clean accuracy does not suffer", "clean images, against PGD-AT", ("pgd_at",), "clean"),
):
    verdict, evidence = compare(baselines, attack)
    claims.append({"claim": claim, "tested by": test, "measured": evidence, "verdict": verdict})
claims.append(
    {
        "claim": "These hold on CIFAR-10 with a ResNet-18 at epsilon 0.031",
        "tested by": "presets t4 and paper",
        "measured": f"the table above is from {config.dataset} at width {config.width}",
        "verdict": "see above" if on_cifar and config.width == 64 else "not replicated",
    }
)
claims = pd.DataFrame(claims)
with pd.option_context("display.max_colwidth", None):
    display(claims)

# %% [markdown]
# ## 4 Other people's numbers
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
# - **Choosing after looking.** Settings tuned on the test images make every row of the table optimistic. Ours come from held-out training images.
#
# ## What we saw

# %%
counts = claims["verdict"].value_counts()
notebook.say(
    f"Preset `{preset}`, {len(inventory)} finished runs. Verdicts: "
    + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    + f". Training seeds per method: {table.groupby('method')['seed'].nunique().max() if len(table) else 0}."
)
notebook.save_metrics("08", preset, config, {verdict: int(count) for verdict, count in counts.items()})

# %% [markdown]
# **Limits.** The claims are our reading of an abstract and a summary. The values of the equations and hyper-parameters are ours.
#
# **References.** Bhattacharya, Bhattacharya, Chakraborty, arXiv 2510.27599 · Croce & Hein, *Reliable evaluation of adversarial robustness*, arXiv
# 2003.01690 · McNemar, Psychometrika 12, 1947 · Wilson, JASA 22, 1927.
