# %% [markdown]
# # 04 · Hard-positive mining
#
# A *hard positive* is an image of the right class that the network puts far away from its classmates. SupCon gives every
# positive the same target, those that are in place already and those that are lost. Here you change one line, so that the
# loss listens to the lost ones more, see whom it listens to then, and find out what the line can cost.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/anchor-course/anchor-course/blob/main/notebooks/04_hard_positive_mining.ipynb)
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
import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest

from anchor_utils import attacks, embeddings, losses, models, outcomes, results, training
from anchor_utils.augmentation import augment
from course import lesson, page
from course.figures import lesson_04 as figures

config, dataset, device = lesson.start("04", preset, overrides, seed, runs_dir, data_root)

# %% [markdown]
# We take the SupCon network of notebook 03 (it is trained now if that has not happened yet) and look at training
# images, since these are what a loss sees. All cosines are those behind the projection head, where the loss works. The
# network also carries a linear classifier, trained along without a gradient to the encoder; PGD attacks that one. Each
# positive will get a *weight*, the larger the lower its cosine; a number, *beta*, says by how much (section 1). Beta = 0 is
# SupCon.

# %%
run = training.fit(config.replace(method="supcon"), dataset=dataset)
model = run.model().to(device)
order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(seed))[:2000]
known = dataset.train[order].to(device)
pixels, labels = known.inputs(), known.labels.cpu()


def project(network, *images):
    """Unit vectors (M, D) behind the projection head, of all images strung together."""
    return torch.tensor(embeddings.extract(network, torch.cat(images), layer="projection"))


z = project(model, pixels)
cosine = z @ z.T
positive = (labels[:, None] == labels).fill_diagonal_(False)

# %% tags=["fold"]
# @title Opening picture: three anchor images, their hardest and their easiest positives
# The most typical image of a class is the one with the highest mean cosine with its class.
typicality = (cosine * positive).sum(1) / positive.sum(1).clamp_min(1)
typical = [(typicality + 2 * (labels == k)).argmax().item() for k in labels.unique()[:3]]
attacked = attacks.pgd(
    model,
    pixels[typical],
    known.labels[typical],
    **config.attack(),
    generator=torch.Generator().manual_seed(seed),
)
cosine_attacked = (z[typical] * project(model, attacked)).sum(1)
all_images = torch.cat([pixels, attacked])
classified_as = outcomes.logits_of(model, all_images).argmax(1).cpu()
rows, bars, titles, notes = [], [], [], []
for k, i in enumerate(typical):
    mates = (cosine[i] + 10 * ~positive[i]).argsort()[: int(positive[i].sum())]  # hardest first
    c = torch.cat([cosine_attacked[k : k + 1], cosine[i, mates]])
    multiple = len(c) * (-config.beta * c).softmax(0)  # 1 is SupCon's weight
    chosen, places = [len(pixels) + k, *mates[[0, 1, 2, -3, -2, -1]].tolist()], [0, 1, 2, 3, -3, -2, -1]
    rows.append(all_images[[i, *chosen]].cpu().numpy())
    bars.append([None, *multiple[places].tolist()])
    titles.append(["", *(f"cos {value:.2f}" for value in c[places])])
    named = classified_as[[i, *chosen]]
    notes.append(["" if said == labels[i] else f"classified as {dataset.classes[said]}" for said in named])

# %% tags=["fold"]
# @title The picture
count_wrong = {
    kind: sum(bool(row[k]) for row in notes for k in part) for kind, part in (("hard", (2, 3, 4)), ("easy", (5, 6, 7)))
}
lightest, heaviest = min(row[1] for row in bars), max(row[1] for row in bars)
page.figure(
    figures.gallery(
        rows,
        [f"typical\n{dataset.classes[labels[i]]}" for i in typical],
        bars,
        titles=titles,
        notes=notes,
        groups={"anchor": 1, "attacked": 1, "its three hardest positives": 3, "its three easiest positives": 3},
    ),
    "Each row: an anchor image, the same image attacked, its three hardest positives and its three easiest ones, each with "
    "its cosine above and its weight as a bar below; images that the classifier gets wrong carry the wrong class in words.",
    f"The linear classifier misclassifies {count_wrong['hard']} of the {3 * len(rows)} hardest positives and {count_wrong['easy']} of "
    f"the {3 * len(rows)} easiest. Above an image: its cosine with the anchor; the bar: its weight at beta = {config.beta:g} in multiples of SupCon's (tick: 1). "
    f"The attacked anchor (x{lightest:.0f} to x{heaviest:.0f}) takes most of the sum, so hard classmates can weigh less than in SupCon.",
    colors=96,
)

# %% [markdown]
# **Claim: a softmax over the negative cosines in place of SupCon's uniform target moves the loss's attention to hard
# positives, adversarial images among them, and beta = 0 gives SupCon back. If the gradient may run through these
# weights, easy positives can be pushed away. Of random starts of a few free points on a circle, fewer then end with every class
# in one place; on a sphere in 16 dimensions (beta = 4) nearly all still do.**
#
# Confirmed means, in this run: beta = 0 gives SupCon's value; at beta = 2 adversarial positives get over ten points
# more of the weight than in SupCon; if the gradient runs through the weights ("not detached"), the easy positive of
# section 6 is pushed; fewer starts on the circle of section 7 then gather (paired exact test at beta = 2, $p < 0.05$);
# and in 16 dimensions over 90% gather in both versions.
#
# **You will learn** to compute the weight of a positive and to count how many positives count; whether adversarial
# images are hard; what a wrong label does; how weighting compares with selecting; what happens if the gradient runs
# through the weights.
#
# **You need** notebook 03: the SupCon loss, and its gradient as guess minus target; PGD, from notebook 01.
#
# **Time** 40 minutes to read; the cell above says how long it runs here.
#
# Weighting positives by how hard they are is the idea of ANCHOR ([2510.27599](https://arxiv.org/abs/2510.27599)). Its
# exact formula was not available to us. **The equations of this notebook are our reconstruction.**

# %% [markdown]
# ## 1 One line
#
# Notebook 03 in one sentence: each *anchor embedding* $i$ guesses its classmates with a softmax over its cosines
# $c_{ia}$ with all others $A(i)$, and SupCon is the cross-entropy of that guess with a target that is uniform over the
# *positives* $P(i)$, the others of its class. ($\tau$ is the temperature.)
#
# A *hard positive* has a low cosine with the anchor embedding, an *easy* one a high cosine. To listen to hard ones
# more, only the target has to change. We take a softmax over the negative cosines, with a *hardness* $\beta \ge 0$:
#
# $$w_{ip} = \frac{\exp(-\beta\, c_{ip})}{\sum_{p' \in P(i)} \exp(-\beta\, c_{ip'})} \quad \text{(taken as a constant)} \tag{1}$$
#
# $$L_i = -\sum_{p \in P(i)} w_{ip} \log q_{ip}, \qquad q_{ip} = \frac{\exp(c_{ip} / \tau)}{\sum_{a \in A(i)} \exp(c_{ia} / \tau)} \tag{2}$$
#
# That is cross-entropy with *soft targets*: a distribution over several right answers. The weights of an anchor
# embedding sum to 1 whatever $\beta$ is, so $\beta$ moves weight between positives and adds none. The line `eq. 1`
# stands where SupCon has its uniform target. (`detach=False` is for sections 6 and 7, and so are leading dimensions.)


# %%
def my_hard_positive_loss(z, labels, temperature, beta, detach=True):
    z = F.normalize(z, dim=-1)
    cosine = z @ z.mT
    itself = torch.eye(len(labels), dtype=torch.bool)
    positive = (labels[:, None] == labels) & ~itself
    log_q = (cosine / temperature).masked_fill(itself, -1e9).log_softmax(-1)
    weighed = cosine.detach() if detach else cosine
    # SupCon: w = positive / positive.sum(-1, keepdim=True)
    w = (-beta * weighed).masked_fill(~positive, -1e9).softmax(-1) * positive  # eq. 1
    per_anchor = -(w * log_q).sum(-1)  # eq. 2
    return per_anchor.sum(-1) / positive.any(-1).sum()


# %% [markdown]
# Does it equal the package's loss, and at $\beta = 0$ SupCon's? The package's `supcon_loss` *is* its case $\beta = 0$,
# so we compare with SupCon by its definition, an average over positives written out anchor by anchor.

# %%
generator = torch.Generator().manual_seed(seed)
points, point_labels = torch.randn(40, 16, generator=generator), torch.randint(0, 6, (40,), generator=generator)
point_labels[0] = 6  # a class with a single member: no positive
for beta in (0.0, 1.0, 2.0, 10.0):
    for detach in (True, False):
        ours = my_hard_positive_loss(points, point_labels, 0.1, beta, detach)
        library = losses.hard_positive_supcon_loss(points, point_labels, 0.1, beta, detach)
        assert torch.allclose(ours, library, rtol=1e-4), (beta, detach, ours, library)

unit = F.normalize(points, dim=1)
guesses = (unit @ unit.T / 0.1).fill_diagonal_(-torch.inf).log_softmax(1)
mates = (point_labels[:, None] == point_labels).fill_diagonal_(False)
supcon = torch.stack([-row[own].mean() for row, own in zip(guesses, mates, strict=True) if own.any()]).mean()
beta_0_is_supcon = torch.allclose(my_hard_positive_loss(points, point_labels, 0.1, 0.0), supcon, rtol=1e-4)
print("ours equals anchor_utils.losses.hard_positive_supcon_loss for beta = 0, 1, 2, 10, detached or not")
print(f"beta = 0 equals SupCon by its definition: {beta_0_is_supcon}")

# %% [markdown]
# ## 2 What beta does
#
# ANCHOR trains with $\beta = 1/\tau = 10$ in this course (notebook 05). Here we look mostly at $\beta = 2$, where single weights
# can still be told apart.
#
# With $w$ constant the gradient is that of notebook 03, guess minus target (for a negative the target is 0):
#
# $$\tau\,\frac{\partial L_i}{\partial c_{ip}} = q_{ip} - w_{ip} \tag{3}$$
#
# So $w - q$ is the *pull*: above 0 a step brings the two together, below 0 it drives them apart. We compute all three
# for one anchor image of the picture above and eight others: its own second view, three classmates, the anchor image
# attacked, and three images of other classes.

# %% tags=["fold"]
# @title Choose the eight
i = typical[0]
mates = (cosine[i] + 10 * ~positive[i]).argsort()[: int(positive[i].sum())].tolist()  # hardest first
foreign = labels != labels[i]
strangers = (cosine[i] - 10 * ~foreign).argsort(descending=True)[: int(foreign.sum())].tolist()  # nearest first
second_view = augment(
    known.images[[i]], padding=config.crop_padding, flip=config.flip, generator=torch.Generator().manual_seed(seed)
)
picked = {
    "second view": second_view.float() / 255,
    "easy": pixels[[mates[-1]]],
    "harder": pixels[[mates[len(mates) // 20]]],
    "hardest": pixels[[mates[0]]],
    "attacked": attacked[:1],
    "near other": pixels[[strangers[0]]],
    "other": pixels[[strangers[len(strangers) // 2]]],
    "far other": pixels[[strangers[-1]]],
}
eight = torch.cat([*picked.values()])
cosine_of_eight = project(model, eight) @ z[i]
same_class = torch.arange(8) < 5

# %%
hardness_steps = (0, 0.5, 1, 2, 3, 4, 6, 8, 10)
guess = (cosine_of_eight / config.temperature).softmax(0)  # eq. 2
targets = {b: (-b * cosine_of_eight).masked_fill(~same_class, -torch.inf).softmax(0) for b in hardness_steps}  # eq. 1
pulls = {b: w - guess for b, w in targets.items()}  # eq. 3, with its sign turned

# %% tags=["fold"]
# @title The slider
top = max(float(guess.max()), max(float(w.max()) for w in targets.values()))
names = [f"{name}\ncos {c:.2f}" for name, c in zip(picked, cosine_of_eight.tolist(), strict=True)]
page.slider(
    "beta",
    [f"{b:g}" for b in hardness_steps],
    (
        figures.target_and_guess(
            eight.cpu().numpy(), names, w.numpy(), guess.numpy(), anchor=pixels[i].cpu().numpy(), top=top
        )
        for w in targets.values()
    ),
    "At the left an anchor image; beside it eight others, five positives and three negatives, each over bars for the target w, "
    "the guess q and the pull w - q.",
    f"At beta = 0 the attacked image is pulled with {pulls[0][4]:.2f}, the easy one with {pulls[0][1]:.2f}: SupCon mines already, "
    f"through q. At beta = 8 the attacked one has {pulls[8][4]:.2f}. Orange pushes. Move beta: w changes, q does not. "
    "Nine images are few, so single shares of q are large.",
    strip=3,
)

# %% [markdown]
# How many positives does an anchor embedding still listen to? The *effective number of positives* says it: the
# exponential of the entropy of the weights (their perplexity). It is $|P(i)|$ if all weigh the same, 1 if a single one
# has everything.
#
# $$n_{\mathrm{eff}}(i) = \exp\Bigl(-\sum_{p \in P(i)} w_{ip} \log w_{ip}\Bigr) \tag{4}$$


# %%
def my_effective_number(w):
    """For each row of weights (M, P), which sum to 1 or are all 0: over how many positives they are spread."""
    return (-(w * w.clamp_min(1e-30).log()).sum(1)).exp()  # eq. 4


some_weights = losses.hardness_weights(points, point_labels, 2.0)
assert torch.allclose(my_effective_number(some_weights), losses.weight_entropy(some_weights).exp(), rtol=1e-4)
of_eight = my_effective_number(torch.stack([*targets.values()]))
print(
    "beta, effective number of the five:", ", ".join(f"{b:g}: {n:.1f}" for b, n in zip(targets, of_eight, strict=True))
)

# %% [markdown]
# > **Predict, then see.** Cosines lie between -1 and 1. How many times more than the easiest positive can the hardest one
# > weigh at $\beta = 2$, at the very most? And if all positives have a cosine between 0.9 and 1?

# %% tags=["fold"]
# @title The answer
lesson.say(
    f"The ratio is $e^{{\\beta \\cdot \\mathrm{{spread}}}}$, with the spread of the cosines, highest minus lowest. At the most it is "
    f"e^(2 x 2) = **{math.exp(4):.1f}**, for one positive opposite the anchor embedding and one on top of it. With all cosines "
    f"between 0.9 and 1 it is at most e^(2 x 0.1) = **{math.exp(0.2):.2f}**: there the weights are almost uniform."
)

# %% [markdown]
# ### Exercise 1 · The beta that halves
#
# An anchor embedding has positives with the cosines `cosine` (P,), P at least 3, all different. Find the $\beta$ at
# which they count as many as P / 2 positives, by equation 4. The effective number falls steadily with $\beta$, so
# bisection finds it: first an upper end that is large enough, then halve the interval. Predict before you check: what
# happens to this $\beta$ if all cosines move up by 0.1? If they move together, to half their spread?


# %% tags=["exercise"]
def beta_that_halves(cosine):
    """The beta (a float) at which the effective number of positives is half the number of cosines (P,)."""

    # BEGIN SOLUTION
    def spread_over(beta):
        return my_effective_number((-beta * cosine).softmax(0)[None]).item()

    low, high = 0.0, 1.0
    while spread_over(high) > len(cosine) / 2:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if spread_over(middle) > len(cosine) / 2 else (low, middle)
    return high
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 1
@lesson.check("Exercise 1")
def _():
    for count, power in ((4, 2), (9, 1), (30, 3), (9, 8)):
        cosine = torch.linspace(0.1, 0.9, count, dtype=torch.float64) ** power
        for shift, scale in ((0.0, 1.0), (0.1, 1.0), (0.0, 0.5)):
            beta = float(beta_that_halves(scale * cosine + shift))
            assert beta > 0, f"beta = {beta:g} is not positive; at beta = 0 all {count} count."
            number = losses.weight_entropy((-beta * (scale * cosine + shift)).softmax(0)[None]).exp().item()
            assert abs(number - count / 2) < 0.01 * count, (
                f"With {count} positives, cosines {scale * cosine[0] + shift:.2f} to {scale * cosine[-1] + shift:.2f}, "
                f"{number:.2f} count at your beta = {beta:g}, and it should be {count / 2:g}."
            )


# %% [markdown] tags=["solution"]
# Equation 1 sees differences of cosines times $\beta$: a common shift cancels, and half the spread needs twice the
# $\beta$.
#
# Why does the number fall steadily? The entropy is $H = \beta \bar c + \log \sum_p e^{-\beta c_p}$ with the weighted mean
# $\bar c$, and its derivative comes out as $-\beta$ times the weighted variance of the cosines: below zero unless all
# cosines are equal. So this $\beta$ is a good way to ask how hard a batch is; the same $\beta$ means little in one batch
# and much in another.

# %% [markdown]
# ## 3 Adversarial images are hard positives
#
# Are hard positives hard for anybody else? For each *test* image we add up the weights that it receives as a positive
# from all its classmates (SupCon gives everyone 1 in all), sort by this sum, and ask the linear classifier, which never
# saw a weight.

# %%
test = dataset.test[: config.test_images].to(device)
z_test, y_test = project(model, test.inputs()), test.labels.cpu()
received = losses.hardness_weights(z_test, y_test, config.beta).sum(0)  # eq. 1; SupCon gives everyone 1
outcome = outcomes.clean_outcomes(model, test.inputs(), test.labels).cpu()
hardest, *others = received.argsort(descending=True).tensor_split(10)
hardest_accuracy, others_accuracy = (outcome[part].float().mean().item() for part in (hardest, torch.cat(others)))

# %% tags=["fold"]
# @title What the linear classifier says
low, high = results.wilson(int(outcome[hardest].sum()), len(hardest))
lesson.say(
    f"Of the hardest tenth ({len(hardest)} of {len(test)} test images) it classifies **{hardest_accuracy:.1%}** right (95% "
    f"interval {low:.1%} to {high:.1%}), of all others **{others_accuracy:.1%}**. The two are not independent witnesses: both "
    "look through the same encoder."
)

# %% [markdown]
# Now a training batch with two augmented views of each image. ANCHOR replaces one of the views by an adversarial one.
# So we also build that batch, with PGD on the SupCon network. Half of the positives of an anchor image are then
# adversarial (a little more, since it is not its own positive), and SupCon gives them just that share of the weight.
#
# > **Predict, then see.** The SupCon network is not robust. Are adversarial positives hard or easy ones? Which share of the
# > weight will they get at $\beta = 2$?

# %%
generator = torch.Generator().manual_seed(seed)
batch = known[: config.batch_size]
n, both_labels = len(batch), batch.labels.cpu().repeat(2)


def view():
    return augment(batch.images, padding=config.crop_padding, flip=config.flip, generator=generator).float() / 255


first, second = view(), view()
adversarial = attacks.pgd(model, second, batch.labels, **config.attack(), generator=generator)
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(seed)
    untrained = models.AnchorNet(**model.architecture).to(device)
batches = {
    "before training": project(untrained, first, second),
    "trained": project(model, first, second),
    "trained, adversarial view": project(model, first, adversarial),
}

# %%
hardnesses = [0, 0.5, 1, 2, 4, 8, 10]
batch_positive = (both_labels[:, None] == both_labels).fill_diagonal_(False)  # two views: everyone has a positive
share_used, share_adversarial = {}, []
for name, z in batches.items():
    every_beta = [losses.hardness_weights(z, both_labels, beta) for beta in hardnesses]  # eq. 1
    numbers = torch.stack([my_effective_number(w) for w in every_beta])  # eq. 4
    share_used[name] = (numbers / batch_positive.sum(1)).mean(1).tolist()
# The anchors are the first n, augmented images; of the last batch, the other n are adversarial.
share_adversarial = [w[:n, n:].sum(1).mean().item() for w in every_beta]

# %% tags=["fold"]
# @title Cosines of both kinds of positives, and the share of the adversarial ones
at_two = hardnesses.index(2)
from_augmented = (z @ z.T)[:n]
to_augmented = from_augmented[:, :n][batch_positive[:n, :n]].numpy()
to_adversarial = from_augmented[:, n:][(both_labels[:, None] == both_labels)[:n, n:]].numpy()
page.figure(
    figures.adversarial_positives(to_augmented, to_adversarial, hardnesses, share_adversarial, config.beta),
    "Left: cosines of augmented anchor images with augmented and with adversarial positives. Right: share of the weight that "
    "goes to adversarial positives against beta.",
    f"Adversarial positives get {share_adversarial[at_two]:.0%} of the weight at beta = 2, and {share_adversarial[0]:.0%} in "
    f"SupCon (dotted). Left is why: their median cosine is {np.median(to_adversarial):.2f}, that of augmented ones "
    f"{np.median(to_augmented):.2f}. Caution: this network never trained against attacks. One that resists them moves less, and "
    "leaves less to weigh.",
    svg=True,
)

# %% [markdown]
# Does $\beta$ do something in every batch? What acts is $\beta$ times the spread of the cosines. The table has the
# effective number of positives, equation 4, as a share of all positives.

# %% tags=["fold"]
# @title Table: effective number of positives, by batch and beta
spreads = {name: (z @ z.T)[batch_positive].quantile(torch.tensor([0.1, 0.9])) for name, z in batches.items()}
table = ["| batch | cosines of positives, middle 80% | " + " | ".join(f"beta = {b:g}" for b in hardnesses) + " |"]
table.append("|:--|:-:|" + "--:|" * len(hardnesses))
for name, shares in share_used.items():
    low, high = spreads[name].tolist()
    table.append(f"| {name} | {low:.2f} to {high:.2f} | " + " | ".join(f"{share:.0%}" for share in shares) + " |")
used = share_used["trained"][at_two]
lesson.say(
    "\n".join(table)
    + f"\n\nIn the clean batch of the trained network {used:.1%} of the positives count at beta = 2. That says how evenly the "
    "weights are spread; what they do to the gradient is another question (notebook 05, section 5)."
)

# %% [markdown]
# ## 4 The hardest positive of all: a wrong label
#
# The weights cannot know *why* a positive is far. A wrong label puts an image into a class where it does not belong, and
# there it lies far from everyone. Suppose one of $n$ positives has a cosine lower by a gap $\Delta$ than the others, which
# are all alike. Equation 1 then gives it the weight
#
# $$w_{\mathrm{wrong}} = \frac{1}{1 + (n - 1)\, e^{-\beta \Delta}} \tag{5}$$
#
# We measure it on the clean batch of section 3, in the trained network. One image gets a wrong label, both its views,
# so there are two wrong positives among the $n$ of each anchor image of that class: for two that are alike, put $n / 2$ in
# place of $n$. We do this for *every* image and *every* wrong class of the batch, one at a time.
#
# > **Predict, then see.** SupCon gives two of $n$ positives the share $2/n$. Which share do the two wrong ones get
# > at $\beta = 2$, and by which $\beta$ do they have nearly everything?

# %%
z = batches["trained"]
cosine = z @ z.T
# Anchor i, image j that may be mislabelled to its class.
different = both_labels[:, None] != batch.labels.cpu()[None, :]
wrong_betas = [0, 0.5, 1, 2, 3, 4, 6, 8, 10]


def share_of_wrong(beta):
    """(2 N, N): the weight that anchor i gives to both views of image j, if j had i's label."""
    w = torch.exp(-beta * cosine)
    wrong, right = w[:, :n] + w[:, n:], (w * batch_positive).sum(1, keepdim=True)
    return wrong / (wrong + right)  # eq. 1, for all wrong labels at once


i, j = different.nonzero()[0].tolist()  # one of them the long way: change the label, let the package compute
flipped = both_labels.clone()
flipped[[j, j + n]] = both_labels[i]
long_way = losses.hardness_weights(z, flipped, 2.0)[i, [j, j + n]].sum()
assert torch.allclose(long_way, share_of_wrong(2.0)[i, j], rtol=1e-4)

# %% tags=["fold"]
# @title The share of a wrong label against beta
number = batch_positive.sum(1, keepdim=True).float().mean().item() + 2  # of positives, the two wrong ones included
mean_positive = (cosine * batch_positive).sum(1, keepdim=True) / batch_positive.sum(1, keepdim=True)
gap = (mean_positive - cosine[:, :n])[different].median().item()
taken = {beta: share_of_wrong(beta)[different] for beta in wrong_betas}
wrong_share = {beta: share.median().item() for beta, share in taken.items()}
band = tuple([taken[beta].quantile(q).item() for beta in wrong_betas] for q in (0.1, 0.9))
smooth = np.linspace(0, max(wrong_betas), 100)
formula = 1 / (1 + (number / 2 - 1) * np.exp(-smooth * gap))  # eq. 5, two wrong ones: n / 2
nearly = next((f"from beta = {beta:g} on" for beta, share in wrong_share.items() if share > 0.9), "at no beta tried")
page.figure(
    figures.wrong_label(wrong_betas, [*wrong_share.values()], band, smooth, formula, config.beta),
    "Share of the weight that two positives with a wrong label take, against beta, with a band over all wrong labels, and the "
    "curve of equation 5.",
    f"Two wrong positives of {number:.0f} get {wrong_share[0]:.0%} of the weight in SupCon, {wrong_share[2]:.0%} at beta = 2, "
    f"and over 90% {nearly}: medians over {int(different.sum()):,} pairs; the band holds the middle 80%. Dotted: equation 5, $n/2$ for $n$. "
    "Caution: a network that trains with the wrong label may learn it by heart, which closes the gap.",
    svg=True,
)

# %% [markdown]
# Sections 3 and 4 are one mechanism. To the weights an adversarial image and a wrong label look the same: both are far.
#
# ### Exercise 2 · Leave out the hardest
#
# A cheap protection against a wrong label: give the *single hardest* positive of each anchor embedding the weight 0,
# and share its weight among the others by equation 1. One with a single positive keeps it; one without positives has a
# row of zeros. Write that target, (M, M), for embeddings `z` (M, D) of unit length. It must work at $\beta = 0$ too.
# Think before you look at the solution: what else does this leave out?


# %% tags=["exercise"]
def trimmed_weights(z, labels, beta):
    """Like losses.hardness_weights, but without the hardest positive of each anchor, unless it is the only one."""
    # BEGIN SOLUTION
    cosine = z @ z.T
    positive = (labels[:, None] == labels).fill_diagonal_(False)
    hardest = cosine.masked_fill(~positive, 2).argmin(1)
    several = positive.sum(1) > 1
    kept = positive.clone()
    kept[several, hardest[several]] = False
    return (-beta * cosine).masked_fill(~kept, -1e9).softmax(1) * kept
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 2
@lesson.check("Exercise 2")
def _():
    # Eight points of the circle, and what was worked out by hand: of each, the positives that stay.
    angle = torch.tensor([0.0, 10, 40, 90, 130, 200, 260, 300], dtype=torch.float64).deg2rad()
    z, labels = torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([0, 0, 0, 0, 0, 1, 1, 2])
    stay = [{1, 2, 3}, {0, 2, 3}, {0, 1, 3}, {1, 2, 4}, {1, 2, 3}, {6}, {5}, set()]
    for beta in (0.0, 2.0, 30.0):
        w = trimmed_weights(z, labels, beta)
        assert w.shape == (8, 8), f"The shape is {tuple(w.shape)}, it should be (8, 8)."
        assert not w.isnan().any(), "There are NaNs. One of the points has no positive."
        for i, kept in enumerate(stay):
            at = f"beta = {beta:g}, {len(kept)} positives should stay for point {i}, of the class {labels[i]}"
            assert not w[i, [k for k in range(8) if k not in kept]].any(), f"{at}; another one has a weight."
            total = float(w[i].sum())
            assert abs(total - bool(kept)) < 1e-4, f"{at}; its weights sum to {total:.3f}, not to {int(bool(kept))}."
            for a in kept:
                for b in kept:
                    ratio, wanted = w[i, a], w[i, b] * (beta * (z[i] @ z[b] - z[i] @ z[a])).exp()
                    assert abs(ratio - wanted) < 1e-4, f"{at}; two of them are not in the ratio of equation 1."


# %% [markdown] tags=["solution"]
# A softmax over the kept positives shares the weight in the old ratios, since equation 1 depends on differences only. The
# hardest one has to be found by the cosines: at $\beta = 0$ all weights are alike.
#
# The price: the hardest positive is left out whether its label is wrong or right. One wrong image is silenced (two
# views of it, as above, would need the two hardest), and so is the rare style, or the adversarial view, from which
# there was most to learn. No rule on cosines alone can tell them apart.

# %% [markdown]
# ## 5 Weighting or selecting, and the negatives
#
# Mining began with *selecting*. Triplet losses compare one positive and one negative at a time, and *batch-hard* mining
# (Hermans et al.) takes the hardest of each in the batch: the farthest classmate and the nearest stranger, the *hard
# negative*. For positives that is equation 1 with $\beta \to \infty$.
#
# FaceNet (Schroff et al.) reports that the hardest negatives can make training collapse early on, and selects
# *semi-hard* ones: farther away than the positive, but by less than a fixed amount, 0.2 in squared distance. Unit
# vectors have the squared distance $2 - 2c$, so that is 0.1 in cosine.
#
# SupCon needs no rule for negatives. By equation 3 each is pushed with its share $q$ of the guess, a softmax at rate $1
# / \tau$: the nearest strangers most. (Weights $e^{\beta c}$ on the negatives, which Robinson et al. add, make that a
# rate of $1 / \tau + \beta$ if they are constants.) How many pairs of an anchor and a positive have a negative to
# select?

# %%
tau = config.temperature
batch_negative = both_labels[:, None] != both_labels


def negatives_to_select(z, anchors=64):
    """Shares of the pairs with a semi-hard and with a hard negative, and the effective share of negatives in q."""
    c, pairs, negative = (z @ z.T)[:anchors], batch_positive[:anchors], batch_negative[:anchors]
    nearer = c[:, :, None] - c[:, None, :]  # (anchor, positive, negative): by how much the positive is nearer
    semi_hard = ((nearer > 0) & (nearer < 0.1) & negative[:, None]).any(-1)[pairs]
    hard = ((nearer <= 0) & negative[:, None]).any(-1)[pairs]
    q = (c / tau).masked_fill(~negative, -1e9).softmax(1)  # eq. 2, among negatives
    effective = my_effective_number(q) / negative.sum(1).clamp_min(1)  # eq. 4
    return semi_hard.float().mean().item(), hard.float().mean().item(), effective.mean().item()


selectable = {name: negatives_to_select(z) for name, z in batches.items()}

# %% tags=["fold"]
# @title Table: negatives to select, and negatives that SupCon weighs
table = ["| batch | a semi-hard negative | a negative nearer than the positive | effective share of negatives in q |"]
table += ["|:--|--:|--:|--:|"]
table += [f"| {name} | {semi:.0%} | {hard:.0%} | {used:.0%} |" for name, (semi, hard, used) in selectable.items()]
lesson.say("\n".join(table))
before, trained = selectable["before training"], selectable["trained"]
lesson.say(
    f"Before training {before[0]:.0%} of the pairs have a semi-hard negative, afterwards, in the clean batch, {trained[0]:.0%}. "
    f"A fixed threshold means something else before and after training. The softmax follows: it spreads over {before[2]:.0%} of "
    f"the negatives before, and over {trained[2]:.0%} afterwards."
)

# %% [markdown]
# What do rules that select do to the attention of a single anchor image? We take the batch with the adversarial view,
# and for the semi-hard rule the positive in the middle.

# %%
z = batches["trained, adversarial view"]
c_pos, c_neg = (z[0] @ z.T)[batch_positive[0]], (z[0] @ z.T)[batch_negative[0]]
middle = c_pos.median()
semi_hard = ((c_neg < middle) & (c_neg > middle - 0.1)).float()
on_positives = {
    "SupCon: all alike": (-0 * c_pos).softmax(0),
    "weights, beta = 2": (-2 * c_pos).softmax(0),  # eq. 1
    "hardest only": (c_pos == c_pos.min()).float(),
}
on_negatives = {
    "SupCon: softmax, rate 1 / tau": (c_neg / tau).softmax(0),  # eq. 2
    "semi-hard, all alike": semi_hard / semi_hard.sum().clamp_min(1),
    "hardest only": (c_neg == c_neg.max()).float(),
}

# %% tags=["fold"]
# @title Whom each rule attends to
as_arrays = [{name: shares.numpy() for name, shares in rules.items()} for rules in (on_positives, on_negatives)]
page.figure(
    figures.attention_of_rules(
        (c_pos.numpy(), as_arrays[0]), (c_neg.numpy(), as_arrays[1]), (float(middle) - 0.1, float(middle))
    ),
    "Two panels of three rows, positives above and negatives below; a dot is an image at its cosine with the anchor image, and "
    "its area is the share of the attention that it gets under the rule of its row.",
    f"Weights at beta = 2 keep all {len(c_pos)} positives and give the hardest {on_positives['weights, beta = 2'].max():.0%}; selecting "
    f"gives it 100%. SupCon's softmax attends to the nearest negatives; the semi-hard rule skips them and keeps {int(semi_hard.sum())} of "
    f"{len(c_neg)}, in the shaded strip below the positive (blue line). A dot's area is its share. Caution: one anchor image.",
    colors=64,
)

# %% tags=["fold"]
# @title What selecting would give to adversarial images and to wrong labels
selected = losses.hardness_weights(z, both_labels, 1e4)[:n, n:].sum(1).mean().item()  # so large a beta selects
wrong_is_hardest = (cosine[:, :n].minimum(cosine[:, n:]) < (cosine + 10 * ~batch_positive).amin(1, keepdim=True))[
    different
]
selected_wrong = wrong_is_hardest.float().mean().item()
lesson.say(
    f"Over the whole batch, selecting the hardest positive picks an adversarial one for **{selected:.0%}** of the anchor images, and "
    f"a wrongly labelled one, wherever there is one in the clean batch, in **{selected_wrong:.0%}** of the cases: then it is the "
    f"*only* positive. At beta = 2 wrong labels got {wrong_share[2]:.0%}."
)

# %% [markdown]
# So weighting is a dial from SupCon, at $\beta = 0$, to selecting: no positive is dropped, and no threshold has to fit
# the phase of the training. The farther the dial is turned, the more attention goes to adversarial images *and* to
# wrong labels.
#
# Other rules stand on the same line. Each puts another target in the place of equation 1, and it sums to 1 too. None of
# them is tested in this notebook:
#
# | rule for positives | the weight of a positive | what it changes |
# |:--|:--|:--|
# | *scale-free* weights | equation 1 with cosines standardised among the anchor embedding's positives, $(c - \text{mean}) / \text{deviation}$ | weighting; as strong where cosines spread little as where they spread much, so one beta would mean about the same in every row of the table of section 3 |
# | the *hardest share* | alike on the hardest quarter, say, and 0 on the rest | selecting, but by rank instead of a threshold: between SupCon (all) and the hardest only |
# | *semi-hard* positives | as one of these, but 0 on images that the classifier gets wrong | gives up the hopeless ones, wrong labels and successful attacks together: FaceNet's caution, for positives |
# | *classifier-based* weights | the larger, the lower the classifier's probability of the label | asks another witness than the cosines, and no longer depends on the anchor |
#
# Whether any of them makes a network more robust only training can say.
#
# ## 6 Why the weights are constants here
#
# The weights depend on the cosines. Should the gradient run through them? Whether the authors of ANCHOR *detach*
# theirs, which means to take them as constants in the gradient, we do not know. So this section is about a consequence
# and not about a mistake of anyone.
#
# With $w$ differentiated too, a term $-\sum_{p'} (\partial w_{ip'} / \partial c_{ip}) \log q_{ip'}$ is added to
# equation 3. The derivative of the softmax is $\partial w_{ip'} / \partial c_{ip} = \beta\, w_{ip'} (w_{ip} -
# \delta_{pp'})$, where $\delta_{pp'}$ is 1 for $p = p'$ and else 0. Since $\log q_{ip'}$ is $c_{ip'} / \tau$ minus
# something that is the same for all $p'$, the term becomes $\beta\, w_{ip} (c_{ip} - \bar c_i) / \tau$, with the
# weighted mean cosine $\bar c_i = \sum_p w_{ip} c_{ip}$. Together:
#
# $$\tau\,\frac{\partial L_i}{\partial c_{ip}} = q_{ip} - \hat w_{ip}, \qquad
# \hat w_{ip} = w_{ip}\,\bigl(1 + \beta\,(\bar c_i - c_{ip})\bigr) \tag{6}$$
#
# The new targets $\hat w$ still sum to 1. But they can be **negative**: for each positive with $c_{ip} > \bar c_i +
# 1/\beta$, an easy one. A negative target means that the loss pushes this positive away, more strongly than a negative
# at the same cosine.
#
# The reason: the loss is a weighted mean of the positives' terms, and one way to lower a weighted mean is to put weight
# on small terms. Easy positives have small terms. They get more weight by going farther away. The weights were meant to
# say where to look; now the network is paid for changing them.
#
# A small arrangement on the circle, made by hand, checks both equations against automatic differentiation: one anchor
# embedding, an easy and a hard positive, twelve negatives.

# %%
degrees = torch.tensor([90.0, 45, 190, 15, 28, 40, 62, 72, 100, 108, 118, 128, 140, 152, 165], dtype=torch.float64)
versions = {"SupCon": (0.0, True), "detached": (2.0, True), "not detached": (2.0, False)}  # beta, detach


def loss_of_first(cosine, beta, detach):
    """Eq. 2 at temperature 1 for point 0, from its cosines with all others, the first two of which are positives."""
    w = (-beta * (cosine.detach() if detach else cosine)[:2]).softmax(0)  # eq. 1
    return -(w * cosine.log_softmax(0)[:2]).sum()  # eq. 2


def target_of(c, beta, detach):
    """What stands in the place of the target in the gradient, for positives with the cosines c (..., P)."""
    w = (-beta * c).softmax(-1)
    mean = (w * c).sum(-1, keepdim=True)
    return w if detach else w * (1 + beta * (mean - c))  # eq. 3 or eq. 6


# %%
cosine_of_first = torch.cos((degrees[1:] - degrees[0]).deg2rad()).requires_grad_()
c, q = cosine_of_first.detach()[:2], cosine_of_first.detach().softmax(0)
pull_of_easy = {}
for name, version in versions.items():
    (gradient,) = torch.autograd.grad(loss_of_first(cosine_of_first, *version), cosine_of_first)
    assert torch.allclose(gradient[:2], q[:2] - target_of(c, *version))  # eq. 3 and eq. 6
    pull_of_easy[name] = -gradient[0].item()
    print(
        f"{name:<13} target of the easy positive {target_of(c, *version)[0]:+.3f}, its pull {pull_of_easy[name]:+.3f}"
    )
repelled = pull_of_easy["not detached"] < 0 < pull_of_easy["detached"]

# %% [markdown]
# That was one place for the easy positive. Now it walks: we move it all the way round the circle, keep everything else
# where it is, and plot the force that the loss of the anchor embedding exerts on it.

# %%
away = torch.linspace(0, 180, 181, dtype=torch.float64)  # degrees between the anchor and the positive that walks
rest = cosine_of_first.detach()[1:].expand(181, -1)
walking = torch.cat([away.deg2rad().cos()[:, None], rest], 1)  # (181, all others)
forces = {}
for name, version in versions.items():
    pull = target_of(walking[:, :2], *version)[:, 0] - walking.softmax(1)[:, 0]  # eq. 3 or eq. 6
    forces[name] = (pull * away.deg2rad().sin()).numpy()  # along the circle: + towards the anchor, - away from it
reversed_sign = (forces["detached"] > 0) & (forces["not detached"] < 0)

# %% tags=["fold"]
# @title The force on a positive that walks round the circle
span, through = away[reversed_sign], forces["not detached"]
pushed = away[through < 0]
easy = f"up to {pushed.max():.0f} degrees" if len(pushed) else "at 0 of 181 places"
differs = f"From {span.min():.0f} to {span.max():.0f} degrees (shaded)" if len(span) else "At 0 of 181 places"
page.figure(
    figures.walking_positive(away.numpy(), forces, reversed_sign, float(degrees[2].deg2rad())),
    "Left and middle: circles with arrows that show where the anchor's loss moves a positive from each place, with detached "
    "weights and without. Right: the force against the angle; a shaded region where it changes its sign.",
    f"Without detaching the positive is pushed away at *easy* places, {easy}. {differs} detached weights pull it in there. The "
    f"strongest push is {-through.min():.2f}, the strongest pull {through.max():.2f}. An arrow shows the direction only; orange "
    "leads away. Caution: one hand-made arrangement, at temperature 1.",
    svg=True,
)

# %% [markdown]
# To be fair: by equation 3 an easy positive can be pushed away in the other two versions as well, namely when its share
# of the guess exceeds its target: the orange bars of positives in the slider. But this push is never stronger than that
# on a negative with the same cosine, and it ends when the share has come down to the target. The push of equation 6
# needs no large share.
#
# Equation 6 says one more thing. Where $\beta$ times the spread of the cosines is small, $1 + \beta(\bar c - c) \approx
# e^{\beta (\bar c - c)}$, so $\hat w$ is about the softmax of $-2\beta c$: not detaching acts there like **doubling
# beta**. We compare the two for thirteen positives with a wide spread, and count the negative targets in the real
# batches of section 3.

# %%
many = torch.linspace(-0.2, 1, 13)
lines = {
    "SupCon": target_of(many, 0.0, True),
    "beta = 2, detached": target_of(many, 2.0, True),
    "beta = 4, detached": target_of(many, 4.0, True),
    "beta = 2, not detached": target_of(many, 2.0, False),
}


def share_negative(z, beta):
    """The share of the positive pairs of a batch whose target is below 0 if the weights are not detached."""
    c, w = z @ z.T, losses.hardness_weights(z, both_labels, beta)
    new_target = w * (1 + beta * ((w * c).sum(1, keepdim=True) - c))  # eq. 6
    return (new_target < 0)[batch_positive].float().mean().item()


negative_targets = {name: [share_negative(z, beta) for beta in hardnesses] for name, z in batches.items()}

# %% tags=["fold"]
# @title Targets, and how many are negative in real batches
adversarial_negative = negative_targets["trained, adversarial view"][at_two]
page.figure(
    figures.targets_and_negative_shares(
        many.numpy(), {name: value.numpy() for name, value in lines.items()}, hardnesses, negative_targets
    ),
    "Left: target of thirteen positives against their cosine; only the version that is not detached goes below zero, at the "
    "easy end. Right: share of positive pairs in three real batches with a negative target, against beta.",
    f"At beta = 2, not detached, {adversarial_negative:.0%} of the adversarial batch's positive pairs have a negative target, "
    f"{negative_targets['trained'][at_two]:.0%} of the clean one's (right). Left: the curve follows beta = 4 at the hard end and "
    "crosses zero at the easy end, which no softmax can. Caution: targets say nothing about the end of a training.",
    svg=True,
)

# %% [markdown]
# ### Exercise 3 · Other weights, the same consequence
#
# Someone proposes simpler weights: $w_p = (1 - c_p) / S$ with $S = \sum_{p'} (1 - c_{p'})$. They too sum to 1 and grow
# with hardness.
#
# Derive the target $\hat w$ that takes their place if they are *not* detached, as in equation 6, and write it without
# automatic differentiation. Start from $L = -\sum_p w_p\, c_p / \tau + \log \sum_a e^{c_a / \tau}$ and use that the
# derivative of $w_{p'}$ with respect to $c_p$ is $(w_{p'} - \delta_{pp'}) / S$, with the $\delta$ of section 6. From
# which cosine on is the target negative?


# %% tags=["exercise"]
def linear_target(c):
    """The target in the gradient of positives with cosines c (P,), for weights proportional to 1 - c, not detached."""
    # BEGIN SOLUTION
    total = (1 - c).sum()
    w = (1 - c) / total
    return w + ((w * c).sum() - c) / total
    # END SOLUTION


# %% tags=["check"]
# @title Check of exercise 3
@lesson.check("Exercise 3")
def _():
    generator = torch.Generator().manual_seed(3)
    for temperature in (0.1, 1.0):
        cosine = (2 * torch.rand(9, generator=generator, dtype=torch.float64) - 1).requires_grad_()  # 5 positives first
        w = (1 - cosine[:5]) / (1 - cosine[:5]).sum()
        loss = -(w * (cosine / temperature).log_softmax(0)[:5]).sum()
        (gradient,) = torch.autograd.grad(loss, cosine)
        expected = (cosine.detach() / temperature).softmax(0)[:5] - temperature * gradient[:5]  # guess minus gradient
        ours = linear_target(cosine.detach()[:5])
        assert ours.shape == (5,), f"The shape is {tuple(ours.shape)}, it should be (5,)."
        assert not torch.allclose(ours, w.detach()), "This is w itself, the target with detached weights."
        assert torch.allclose(ours, expected), (
            f"Automatic differentiation finds {expected.numpy().round(3)}, yours are {ours.numpy().round(3)}."
        )


# %% [markdown] tags=["solution"]
# The extra term is $\sum_{p'} \frac{\partial w_{p'}}{\partial c_p} c_{p'} = (\bar c - c_p) / S$, so $\hat w_p = w_p +
# (\bar c - c_p) / S = (1 + \bar c - 2 c_p) / S$, which is negative from $c_p > (1 + \bar c) / 2$ on.
#
# So it does not lie in the softmax: weights that fall with the cosine pay the loss for pushing easy positives away, if
# the gradient may run through them. Here the targets do not even sum to 1: a softmax ignores a common shift of all
# cosines, these weights do not.

# %% [markdown]
# ## 7 Does it matter? Free points on a circle
#
# A wrong sign in one moment may be harmless in the long run. So we let points move, as in notebook 03: three classes,
# eight points each, at many random starts. Every version begins at the *same* starts, so they can be compared start by
# start.

# %%
groups = torch.arange(3).repeat_interleave(8)
same = groups[:, None] == groups
count, circle_temperature = 40, 0.5


def descend(points, beta, detach, steps):
    """Gradient descent on the sphere, for many independent starts (..., M, D) at once; yields every step."""
    for _ in range(steps):
        yield points
        points = points.detach().requires_grad_()
        loss = my_hard_positive_loss(points, groups, circle_temperature, beta, detach).sum()
        (gradient,) = torch.autograd.grad(loss, points)
        points = F.normalize(points.detach() - circle_temperature * gradient, dim=-1)
    yield points


def random_starts(dimensions):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 24, dimensions, generator=generator), dim=-1)


def in_one_group(points):
    """For each start: has every pair of a class a cosine above 0.9?"""
    return (points @ points.mT)[..., same].amin(-1).gt(0.9)


# %% [markdown]
# For the animation we pick an example: the first start that SupCon and the detached weights gather, every class in one
# group, and the other version does not. The figure after it counts all starts.

# %% tags=["fold"]
# @title Find the example, and the star: its point with the most negative targets
last_step = 400
paths = {name: torch.stack(list(descend(random_starts(2), *version, last_step))) for name, version in versions.items()}
ends = {name: in_one_group(path[-1]) for name, path in paths.items()}
differ = ends["SupCon"] & ends["detached"] & ~ends["not detached"]
example = int(differ.int().argmax())
paths = {name: path[:, example] for name, path in paths.items()}  # (steps, 24, 2)
# In colour, and with the lines: the class that ends least gathered without detaching.
final = paths["not detached"][-1]
torn = int((final @ final.T).masked_fill(~same, 1).view(3, 8, 24).amin((1, 2)).argmin())


def targets_from(i, name):
    """The targets that anchor i has for all points, at every step (steps, 24): weights, eq. 1, or those of eq. 6."""
    mates = (groups == groups[i]) & (torch.arange(24) != i)
    cosine = (paths[name] @ paths[name][:, i, :, None])[..., 0]
    target = torch.zeros_like(cosine)
    target[:, mates] = target_of(cosine[:, mates], *versions[name])
    return target


path = paths["not detached"]
pushes = [
    ((-targets_from(i, "not detached")).clamp_min(0) * (path - path[:, i : i + 1]).norm(dim=-1)).sum()
    for i in range(8 * torn, 8 * torn + 8)
]
star = 8 * torn + int(torch.stack(pushes).argmax())

# %% tags=["fold"]
# @title The animation
shown = {}  # of each version, at every step: the angles of the points and the targets of the star, both (steps, 24)
for name, (b, _) in versions.items():
    x, y = paths[name].unbind(-1)
    title = name if name == "SupCon" else f"beta = {b:g}, {name}"
    shown[title] = torch.atan2(y, x).numpy(), targets_from(star, name).numpy()


def groups_of_blue(points):
    """Into how many groups the class in colour has come apart: rows of cosines above 0.9 that are alike."""
    own = points[8 * torn : 8 * torn + 8]
    return len({tuple(row) for row in (own @ own.T > 0.9).tolist()})


pieces = {name: groups_of_blue(path[-1]) for name, path in paths.items()}
page.animation(
    figures.descent_frames(
        shown, groups.numpy(), star, sorted({round(last_step * (k / 26) ** 2.2) for k in range(27)})
    ),
    "Animation: 24 points of three classes move on a circle from the same start under SupCon, under detached hard-positive "
    "weights and under weights that are not detached; lines show the targets of one anchor.",
    f"Blue ends in {pieces['not detached']} groups without detaching, in {pieces['detached']} with it. Lines are the targets of "
    "the star: solid blue says come nearer, dashed orange, a negative target, go away. Look whom the dashed ones point at. "
    f"Caution: a picked example; {int(differ.sum())} of {count} starts end like this.",
    milliseconds=260,
    hold=4000,
    colors=96,
)

# %% [markdown]
# One start is an anecdote, and this one was picked, so we count. Because the starts are paired, only those tell
# something that *one* version gathers and the other does not. If both versions were equally good, each of these would
# fall to either side like a coin: that is McNemar's exact test. Only the pair at $\beta = 2$ belongs to the claim; the
# other pairs are findings.
#
# > **Predict, then see.** If not detaching is like doubling beta, then detached weights at $2\beta$ should gather as many starts
# > as the others at $\beta$. At which $\beta$ does that hold, at small or at large ones?

# %%
strengths, gathering_steps = [0, 1, 2, 3, 4, 6], 300


def gathered(betas, detach, dimensions):
    """(betas, starts): whether the start ends with every class in one group; all descend at once."""
    each_beta = torch.tensor(betas, dtype=torch.float32)[:, None, None, None]
    *_, points = descend(random_starts(dimensions).expand(len(betas), -1, -1, -1), each_beta, detach, gathering_steps)
    return in_one_group(points)


def paired(one, other):
    """How many starts (starts,) only `one` gathers, how many only `other`, and the p of McNemar's exact test."""
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    p = binomtest(only_one, only_one + only_other).pvalue if only_one + only_other else 1.0
    return only_one, only_other, float(p)


detached, through = (dict(zip(strengths, gathered(strengths, flag, 2), strict=True)) for flag in (True, False))
at_equal_beta = {b: paired(detached[b], through[b]) for b in strengths[1:]}
at_double_beta = {b: paired(detached[2 * b], through[b]) for b in (1, 2, 3)}
in_16_dimensions = {
    name: gathered([4], flag, 16).float().mean().item() for name, flag in (("detached", True), ("not detached", False))
}

# %% tags=["fold"]
# @title Shares of starts, and starts that only one version gathers
success = {
    name: [found[b].float().mean().item() for b in strengths]
    for name, found in (("detached", detached), ("not detached", through))
}
intervals = {k: [results.wilson(round(v * count), count) for v in values] for k, values in success.items()}
bands = {name: tuple(zip(*ends, strict=True)) for name, ends in intervals.items()}
pairs = [(f"both at beta {b}", *found) for b, found in at_equal_beta.items()]
pairs += [(f"detached at {2 * b}, not at {b}", *found) for b, found in at_double_beta.items()]
two = at_equal_beta[2]
fails = [str(b) for b, (_, _, p) in at_double_beta.items() if p < 0.05]
page.figure(
    figures.gathering(strengths, success, bands, count, pairs),
    "Left: share of random starts that end with every class in one group, against beta, with and without detached weights. "
    "Right: for pairs of versions, how many starts only one of them gathers.",
    f"At beta = 2 detached weights gather {two[0]} of {count} starts that the others do not, the others {two[1]} "
    f"({'p < 0.001' if two[2] < 0.001 else f'p = {two[2]:.2g}'}). Against detached weights at twice beta, p is below 0.05 at "
    f"{'beta = ' + ' and '.join(fails) if fails else 'no beta tried'}. Caution: {len(pairs)} tests without correction; where nearly all starts gather, "
    "the test can see nothing.",
    svg=True,
)
doubling_gap = max(
    abs(success["not detached"][strengths.index(b)] - success["detached"][strengths.index(2 * b)]) for b in (1, 2, 3)
)
lesson.say(
    f"On a sphere in **16 dimensions**, at beta = 4, every class gathers in {in_16_dimensions['detached']:.0%} of {count} starts "
    f"with detached weights and in {in_16_dimensions['not detached']:.0%} without. Why, "
    "we did not test. Two guesses: there are more ways round, and random cosines spread less, so the same beta does less."
)

# %% [markdown]
# Where a curve on the left falls, classes stay in pieces, with detached weights too, at a larger $\beta$. A likely reason: hard
# positives on opposite sides pull a point both ways. Doubling is an approximation for a small spread: at a larger
# $\beta$ the negative targets come on top, which no softmax has. So that is where a difference on the right should show
# first.
#
# The circle shows the *mechanism*. It does not show that a real network fails; the 16 dimensions warn against that conclusion.
#
# ## What can go wrong
#
# - **Not detaching.** Nothing crashes, and a falling loss does not prove that all is well. Look at the signs of the targets.
# - **The wrong sign.** A softmax of $+\beta c$ listens to the *easy* positives. The value of the loss is even lower then.
# - **Noise.** The hardest positive of all may be a wrong label (section 4). Clean the labels, or keep $\beta$ small.
# - **Weights from other vectors.** Weigh by the cosines that the loss uses. Before the projection head the cosines have
#   another range, and $\beta$ another meaning.
# - **Unnormalised weights.** If the weights do not sum to 1, $\beta$ is also a learning rate.
# - **A beta copied from elsewhere.** What acts is $\beta$ times the spread of the cosines (exercise 1). Look at the effective
#   number in your own batches, and at the gradient (notebook 05).
# - **A single positive.** It has the weight 1 whatever $\beta$ is. With many classes and small batches the loss is SupCon.
# - **Low precision.** Half precision is coarse for cosines near 1, and the division by a small $\tau$ magnifies the error;
#   the package computes both in float32.
# - **Comparing loss values across beta.** A larger $\beta$ asks a harder question. A higher loss is not a worse network.
#
# ## What we saw

# %% tags=["fold"]
# @title What this run found, and what it did not
parts = {
    "beta = 0 gives SupCon": beta_0_is_supcon,
    "attention moves to adversarial positives": share_adversarial[at_two] > share_adversarial[0] + 0.1,
    "the easy positive is pushed without detaching": repelled,
    "fewer starts gather on the circle without detaching": two[0] > two[1] and two[2] < 0.05,
    "both versions gather in 16 dimensions": min(in_16_dimensions.values()) > 0.9,
}
confirmed = all(parts.values())
verdicts = "\n".join(f"- {name}: **{'found' if held else 'not found'}**" for name, held in parts.items())
lesson.say(f"The claim is **{'confirmed' if confirmed else 'not confirmed'}** by this run:\n\n{verdicts}")
lesson.say(
    f"**In numbers.** At beta = 2 adversarial positives get {share_adversarial[at_two]:.1%} of the weight (SupCon: "
    f"{share_adversarial[0]:.1%}), both views of an image with a wrong label {wrong_share[2]:.1%} in the median (SupCon: "
    f"{wrong_share[0]:.1%}). In a clean batch {used:.1%} of the positives count. On the circle at beta = 2 every class gathers in "
    f"{success['detached'][2]:.0%} of {count} starts with detached weights and in {success['not detached'][2]:.0%} without."
)
lesson.say(
    "**Not found here:** that the weights make a network more robust, which needs training; that not detaching harms a real "
    "network; and which of the two the authors of ANCHOR chose. The comparison of selecting and weighting is a finding, not a claim."
)

# %% [markdown]
# ### Expected values
#
# The numbers of this run, beside the bands in which the same preset should find them on other machines.

# %% tags=["fold"]
# @title Keep the numbers, and compare them
lesson.finish(
    "04",
    preset,
    config,
    {
        "claim_confirmed": float(confirmed),
        "effective_positives_share_beta_2": used,
        "effective_positives_share_beta_2_adversarial": share_used["trained, adversarial view"][at_two],
        "adversarial_weight_share_beta_0": share_adversarial[0],
        "adversarial_weight_share_beta_2": share_adversarial[at_two],
        "adversarial_selected_share": selected,
        "wrong_label_weight_share_beta_0": wrong_share[0],
        "wrong_label_weight_share_beta_2": wrong_share[2],
        "wrong_label_selected_share": selected_wrong,
        "hardest_tenth_accuracy": hardest_accuracy,
        "other_images_accuracy": others_accuracy,
        "semi_hard_share_before_training": before[0],
        "semi_hard_share_trained": trained[0],
        "negative_target_share_beta_2": negative_targets["trained"][at_two],
        "negative_target_share_beta_2_adversarial": adversarial_negative,
        "reversed_force_degrees": float(len(span)),
        "circle_gathered_detached_beta_2": success["detached"][2],
        "circle_gathered_not_detached_beta_2": success["not detached"][2],
        "circle_paired_p_beta_2": two[2],
        "circle_paired_p_doubling_beta_3": at_double_beta[3][2],
        "circle_doubling_gap": doubling_gap,
        "sphere16_gathered_detached_beta_4": in_16_dimensions["detached"],
        "sphere16_gathered_not_detached_beta_4": in_16_dimensions["not detached"],
    },
)

# %% [markdown]
# **Limits.** Equations 1 and 2 are a reconstruction from the summary of the ANCHOR paper; the authors' weights may
# differ. All batches come from one network of one training seed, which was never trained on adversarial images or on
# wrong labels. The circle is the narrowest of all spheres and exaggerates. No network here is trained with the weights.
#
# **References.** Bhattacharya, Bhattacharya and Chakraborty, *ANCHOR*, arXiv 2510.27599 · Khosla et al., *Supervised
# contrastive learning*, arXiv 2004.11362 · Robinson et al., *Contrastive learning with hard negative samples*, arXiv
# 2010.04592 · Schroff et al., *FaceNet*, arXiv 1503.03832 (semi-hard negatives) · Hermans et al., *In defense of the
# triplet loss for person re-identification*, arXiv 1703.07737 (batch-hard) · McNemar, *Psychometrika* 12, 1947.
#
# **Where to go on.** [05 · ANCHOR training](05_anchor_training.ipynb) puts the loss to work on adversarial views, and
# measures how much beta adds to what SupCon mines by itself. Two questions stay open here; notebook 05 takes them up in sections 5 and 8: whether a rule that does not hang
# on the spread of the cosines acts more (scale-free, hardest share), and whether it helps to leave out what the network gets
# wrong (semi-hard). Section 5 says where these rules stand between SupCon and selecting.
