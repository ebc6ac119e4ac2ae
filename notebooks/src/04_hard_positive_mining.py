# %% [markdown]
# # 04 · Hard-positive mining
#
# **Claim: one line of code, a softmax over the negative cosines in place of SupCon's uniform target, moves the loss's
# attention to hard positives, adversarial images among them; beta = 0 gives SupCon back, and if the gradient may run through
# the weights, the loss pushes away easy positives that it would else pull in.** The last cell confirms or refutes this with
# the numbers of this very run: confirmed means that beta = 0 gives SupCon's value; that at beta = 2 adversarial positives
# get over ten points more of the weight than in SupCon; and that, without detaching, the easy positive of section 6 is
# pushed and fewer of the starts of section 7 end with every class in one group, with 95% intervals that do not overlap.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/anchor-course/blob/main/notebooks/04_hard_positive_mining.ipynb)
# [![Course](https://img.shields.io/badge/course-all_notebooks-0072B2)](https://github.com/OWNER/anchor-course#the-notebooks)
#
# **You will learn** what a hard positive is and what it looks like, how its weight is computed, how much the weights change
# in a real batch, whether adversarial images are hard positives, what a wrong label does, and what happens if the gradient
# runs through the weights.
#
# **You need** notebook 03: the SupCon loss, and its gradient as "guess minus target"; PGD, from notebook 01.
#
# **Time** the first cell measures how fast this machine is and says how long the notebook takes here; it trains the network
# of notebook 03 if that has not been trained yet. `smoke`: seconds, a network that has learned nothing, for tests only. `t4` and
# `paper`: CIFAR-10 on a GPU.
#
# The idea, weighting positives by how hard they are, is that of ANCHOR ([2510.27599](https://arxiv.org/abs/2510.27599)).
# Its exact formula was not available to us. **The equations of this notebook are our reconstruction.**

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
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from anchor_utils import attacks, embeddings, evaluation, losses, models, plotting, results, training
from anchor_utils.augmentation import augment
from course import lesson
from course.figures import lesson_04 as figures

config, dataset, device = lesson.start("04", preset, overrides, seed, runs_dir, data_root)

# %% [markdown]
# ## 1 One line
#
# Notebook 03 in one sentence: each anchor $i$ guesses with a softmax $q_{ia} \propto \exp(c_{ia} / \tau)$ over all others
# $A(i)$, and SupCon is the cross-entropy of that guess with a target that is *uniform* over the positives $P(i)$. ($c$ are
# cosines, $\tau$ is the temperature.) Uniform means that a positive which lies in its place already has the same target as
# one at the other side of the sphere.
#
# A **hard positive** is one that is far from the anchor: of the same class, at a low cosine. To listen to it more, only the
# target has to change. We take a softmax over the *negative* cosines, with a hardness $\beta \ge 0$:
#
# $$w_{ip} = \frac{\exp(-\beta\, c_{ip})}{\sum_{p' \in P(i)} \exp(-\beta\, c_{ip'})} \quad \text{(taken as a constant)} \tag{1}$$
#
# $$L_i = -\sum_{p \in P(i)} w_{ip} \log q_{ip}, \qquad q_{ip} = \frac{\exp(c_{ip} / \tau)}{\sum_{a \in A(i)} \exp(c_{ia} / \tau)} \tag{2}$$
#
# That is **cross-entropy with soft targets** $w$ over the similarities. SupCon is the case $w$ = uniform. The weights of an
# anchor sum to 1 whatever $\beta$ is: it moves weight between positives and adds none. Below, the line marked `eq. 1`
# stands where SupCon has its uniform target; `detach=False` is for sections 6 and 7. The function takes any number of
# leading dimensions, which section 7 will use.


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


generator = torch.Generator().manual_seed(seed)
z = torch.randn(40, 16, generator=generator)
labels = torch.randint(0, 6, (40,), generator=generator)
labels[0] = 6  # a class with a single member: no positive
for beta in (0.0, 1.0, 2.0, 10.0):
    for detach in (True, False):
        ours = my_hard_positive_loss(z, labels, 0.1, beta, detach)
        library = losses.hard_positive_supcon_loss(z, labels, 0.1, beta, detach)
        assert torch.allclose(ours, library, rtol=1e-4), (beta, detach, ours, library)
# SupCon by its definition, equation 3 of notebook 03: the package's supcon_loss *is* beta = 0, so it would prove nothing.
unit = F.normalize(z, dim=1)
guesses = (unit @ unit.T / 0.1).fill_diagonal_(-torch.inf).log_softmax(1)
mates = (labels[:, None] == labels).fill_diagonal_(False)
supcon = torch.stack([-row[own].mean() for row, own in zip(guesses, mates, strict=True) if own.any()]).mean()
beta_0_is_supcon = torch.allclose(my_hard_positive_loss(z, labels, 0.1, 0.0), supcon, rtol=1e-4)
total = losses.hardness_weights(z, labels, 2.0).sum(1)
assert total[0] == 0  # the one without a positive
assert torch.allclose(total[1:], torch.ones(39))
print("ours equals anchor_utils.losses.hard_positive_supcon_loss for beta = 0, 1, 2, 10, detached or not")
print(f"beta = 0 equals SupCon by its definition: {beta_0_is_supcon}")

# %% [markdown]
# ## 2 The weights
#
# How many positives does an anchor still listen to? The **effective number of positives** says it: the exponential of the
# entropy of the weights (their perplexity),
#
# $$n_{\mathrm{eff}}(i) = \exp\Bigl(-\sum_{p \in P(i)} w_{ip} \log w_{ip}\Bigr) \tag{3}$$
#
# It is $|P(i)|$ if all weigh the same and 1 if a single one has everything. The package has the entropy itself.


# %%
def my_effective_number(w):
    """For each row of weights (M, P), which sum to 1 or are all 0: over how many positives they are spread."""
    return (-(w * w.clamp_min(1e-30).log()).sum(1)).exp()  # eq. 3


some_weights = losses.hardness_weights(z, labels, 2.0)
assert torch.allclose(my_effective_number(some_weights), losses.weight_entropy(some_weights).exp(), rtol=1e-4)
print("ours equals the exponential of anchor_utils.losses.weight_entropy")

away = torch.tensor([8.0, -18, 30, -44, 58, -76, 100, -128, 155])  # of nine positives, in degrees
angles = (90 + torch.cat([torch.zeros(1), away])).deg2rad()
weights = {beta: (-beta * away.deg2rad().cos()).softmax(0) for beta in (0.0, 2.0, 8.0)}  # eq. 1
counted = {beta: my_effective_number(w[None]).item() for beta, w in weights.items()}
plotting.show(
    figures.weights_on_a_circle(angles.numpy(), {beta: w.numpy() for beta, w in weights.items()}, counted),
    "Three circles with one anchor and nine positives; lines from the anchor to its positives are as thick as the weights: "
    "all alike at beta 0, thickest to the far positives at beta 2, all on the farthest ones at beta 8.",
    colors=96,
)

# %% [markdown]
# **Reading the figure.** The dots are all of one class, at the same places in all three circles. A line is as thick as its
# positive's weight, and the thicknesses of a circle sum to the same. Follow one line from left to right: those to near
# positives get thin, those to far ones thick. The number below is equation 3. If the lines only got thicker or thinner all
# together, $\beta$ would be a learning rate and nothing else.
#
# > **Predict, then see.** Cosines lie between -1 and 1. How many times more than the easiest positive can the hardest one
# > weigh at $\beta = 2$, at the very most? And if all positives have a cosine between 0.9 and 1?

# %%
spread = torch.linspace(-0.2, 1, 9)
betas = (0.0, 1.0, 2.0, 4.0)
multiples = {f"beta = {beta:g}": (9 * (-beta * spread).softmax(0)).numpy() for beta in betas}
widths = np.linspace(0, 2, 21)
ratios = {f"beta = {beta:g}": np.exp(beta * widths) for beta in betas}
plotting.show(
    figures.weights_and_ratios(spread.numpy(), multiples, widths, ratios),
    "Left: weight of nine positives against their cosine for beta 0, 1, 2 and 4: flat at 0, steeper for larger beta. "
    "Right: ratio of the largest to the smallest weight against the spread of the cosines, straight lines on a log scale.",
    svg=True,
)
lesson.say(
    f"At beta = 2 the ratio is at most e^(2 x 2) = **{math.exp(4):.1f}**, reached if one positive is opposite the anchor and "
    f"one on top of it. With all cosines between 0.9 and 1 it is at most e^(2 x 0.1) = **{math.exp(0.2):.2f}**."
)

# %% [markdown]
# **Reading the figure.** Left: a dot is one of nine positives. At $\beta = 0$ all weigh the same: SupCon. With larger $\beta$
# the weight moves to the left, to the hard ones, and each curve keeps the mean 1. Right: the ratio of the largest to the
# smallest weight is $e^{\beta \cdot \mathrm{spread}}$, so what counts is $\beta$ *times the spread* of the cosines. Where
# all positives of an anchor lie close together, every moderate $\beta$ is close to SupCon. If the lines on the right were
# flat, $\beta$ would act alike on every batch; in fact it can act only where there are hard positives.

# %% [markdown]
# ### Exercise 1 · The beta that halves
#
# An anchor has positives with the cosines `cosine` (P,), P at least 3, all different. Find the $\beta$ at which they count
# as many as P / 2 positives, by equation 3. The effective number falls steadily with $\beta$, so bisection finds it:
# first an upper end that is large enough, then halve the interval. Before you run the check, predict: what happens to this
# $\beta$ if all cosines move up by 0.1? If they move together, to half their spread?


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
    for count in (4, 9, 30):
        cosine = torch.linspace(0.1, 0.9, count, dtype=torch.float64) ** 2
        beta = float(beta_that_halves(cosine))
        assert beta > 0, f"beta = {beta:g} is not positive; at beta = 0 all {count} count."
        number = losses.weight_entropy((-beta * cosine).softmax(0)[None]).exp().item()
        assert abs(number - count / 2) < 0.01 * count, (
            f"With {count} positives, {number:.2f} count at your beta = {beta:g}, and it should be {count / 2:g}."
        )
        assert abs(float(beta_that_halves(cosine + 0.1)) - beta) < 0.02 * beta, (
            "Your beta changes if all cosines move up by the same amount; weights depend on differences only."
        )
        assert abs(float(beta_that_halves(cosine / 2)) - 2 * beta) < 0.04 * beta, (
            "With half the spread, twice the beta is needed; yours is another one. Is your interval wide enough?"
        )


# %% [markdown] tags=["solution"]
# Equation 1 sees differences of cosines times $\beta$: a common shift cancels, and half the spread needs twice the $\beta$.
# Why does the number fall steadily? The entropy is $H = \beta \bar c + \log \sum_p e^{-\beta c_p}$ with the weighted mean
# $\bar c$, and its derivative comes out as $-\beta$ times the weighted variance of the cosines: below zero unless all
# cosines are equal. So this $\beta$ is a good way to ask how hard a batch is; the same $\beta$ means little in one batch
# and much in another.

# %% [markdown]
# ## 3 What hard positives look like
#
# We take the SupCon network of notebook 03 (its checkpoint, if there is one) and look at training images, since these are
# what a loss sees. The first rows have the most typical image of a class as the anchor: the one with the highest mean
# cosine with its class. The last two rows have the two anchors whose weights are most uneven: those with the smallest
# $n_{\mathrm{eff}}(i) / |P(i)|$. The cosines are those of the projection head, where the loss works. Before you look,
# guess: are the hardest positives badly written, wrongly labelled, or simply of another style?

# %%
run = training.fit(config.replace(method="supcon"), dataset=dataset)
model = run.model().to(device)

order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(seed))[:2000]
known = dataset.train[order].to(device)
pixels, labels = known.inputs(), known.labels.cpu()
z = torch.tensor(embeddings.extract(model, pixels, layer="projection"))
cosine = z @ z.T
weights = losses.hardness_weights(z, labels, config.beta)  # eq. 1
positive = (labels[:, None] == labels).fill_diagonal_(False)
multiple = weights * positive.sum(1, keepdim=True)  # 1 is SupCon's weight
with torch.no_grad(), models.frozen(model, "eval"):
    read_as = torch.cat([model(part).argmax(1).cpu() for part in pixels.split(500)])

# %%
typicality = (cosine * positive).sum(1) / positive.sum(1).clamp_min(1)
typical = [(typicality + 2 * (labels == k)).argmax().item() for k in labels.unique()[:3]]
share_counted = my_effective_number(weights) / positive.sum(1).clamp_min(1)
uneven = share_counted.argsort()[:2].tolist()
rows, bars, titles, notes = [], [], [], []
for i in typical + uneven:
    from_hard = (cosine[i] + 10 * ~positive[i]).argsort()[: int(positive[i].sum())].tolist()
    chosen = [i, *from_hard[:4], *from_hard[-3:]]
    rows.append(pixels[chosen].cpu().numpy())
    bars.append([None, *(multiple[i, p].item() for p in chosen[1:])])
    titles.append(["", *(f"cos {cosine[i, p]:.2f}" for p in chosen[1:])])
    notes.append(["" if read_as[p] == labels[p] else f"read as {dataset.classes[read_as[p]]}" for p in chosen])
names = [f"typical\n{dataset.classes[labels[i]]}" for i in typical]
names += [f"uneven\n{dataset.classes[labels[i]]}" for i in uneven]
heads = {"anchor": 1, "its four hardest positives, hardest first": 4, "its three easiest": 3}
plotting.show(
    figures.gallery(rows, names, bars, titles=titles, notes=notes, groups=heads),
    "Each row: an anchor image, its four hardest positives and its three easiest ones, each with its cosine above and its "
    "weight as a bar below; images that the classifier misreads carry the wrong class in words.",
    colors=128,
)
misread = {
    kind: f"{sum(bool(note) for row in notes for note in row[part])} of the {len(notes) * (part.stop - part.start)}"
    for kind, part in (("hard", slice(1, 5)), ("easy", slice(5, 8)))
}
lesson.say(
    f"The linear classifier misreads **{misread['hard']}** hard positives shown, and {misread['easy']} easy ones. "
    "Whether style, writing or label is the reason, only your eyes can say."
)

# %% [markdown]
# **Reading the figure.** The bar below an image is its weight for the anchor of the row; the black tick marks SupCon's weight,
# x1.00. Orange words mark images that the linear classifier of the same network misreads, and as what. Compare the
# hard ones of the typical rows with their anchor: look for other ways to write the class, for bad writing, for labels that
# you would not sign. In the two "uneven" rows ask who is the odd one, the anchor or the positive: if one image is the hardest
# for several anchors, it is that image. Hard means far for *this* network. If the hard and the easy positives looked alike
# to you in every row, cosine would be no measure of anything that you can see.
#
# Looking at a few rows proves little. So a count: for each *test* image, how much weight does it receive as a positive, on
# average over its anchors? Sorted by that, are the hard images also hard for someone else, the linear classifier?

# %%
test = dataset.test[: config.test_images].to(device)
z_test, y_test = torch.tensor(embeddings.extract(model, test.inputs(), layer="projection")), test.labels.cpu()
test_weights = losses.hardness_weights(z_test, y_test, config.beta)  # eq. 1
test_positive = (y_test[:, None] == y_test).fill_diagonal_(False)
received = (test_weights * test_positive.sum(1, keepdim=True)).sum(0) / test_positive.sum(0).clamp_min(1)
outcome = evaluation.clean_outcomes(model, test.inputs(), test.labels).cpu()
tenths = received.argsort(descending=True).tensor_split(10)
by_tenth = [outcome[group].float().mean().item() for group in tenths]
ends = [results.wilson(int(outcome[group].sum()), len(group)) for group in tenths]
mean_weight = [received[group].mean().item() for group in tenths]
rest = torch.cat(tenths[1:])
others_accuracy = outcome[rest].float().mean().item()

plotting.show(
    figures.accuracy_by_tenth(by_tenth, ends, mean_weight, outcome.float().mean().item()),
    "Accuracy of the linear classifier on ten groups of test images, sorted from the hardest positives to the easiest, with "
    "95 percent intervals.",
    svg=True,
)
lesson.say(
    f"Of the hardest tenth ({len(tenths[0])} of {len(test)} test images) the classifier reads **{by_tenth[0]:.1%}** (95% interval "
    f"{ends[0][0]:.1%} to {ends[0][1]:.1%}), of all others **{others_accuracy:.1%}**."
)

# %% [markdown]
# **Reading the figure.** Each dot is a tenth of the test images, hardest first, with its 95% interval. The classifier was
# trained on the features and never saw a weight. If it fails mostly at the left end, the weights find, from labels and
# distances alone, the images that are difficult for a reader too. (Not an independent one: both look through the same
# encoder, and an image that lies in a wrong group is far from its class *and* misread.) A flat row of dots would say that
# hardness is an accident of the projection head.
#
# ## 4 How much do the weights change in a batch?
#
# Now a training batch with two augmented views of each image. ANCHOR replaces one of the views by an *adversarial* one. So
# we also build that batch, with PGD on the SupCon network. The anchors are the images of the augmented view: how much of
# their weight goes to the adversarial positives? These are about half of all positives (a little more, since an anchor is
# not its own positive), and SupCon gives them just that share.
#
# > **Predict, then see.** The SupCon network is not robust. Are adversarial positives hard or easy ones? Which share of the
# > weight will they get at $\beta = 2$?

# %%
generator = torch.Generator().manual_seed(seed)
batch = known[: config.batch_size]
both_labels = batch.labels.cpu().repeat(2)


def view():
    return augment(batch.images, padding=config.crop_padding, flip=config.flip, generator=generator).float() / 255


first, second = view(), view()
attacked = attacks.pgd(model, second, batch.labels, **config.attack(), generator=generator)
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(seed)
    untrained = models.AnchorNet(**model.architecture).to(device)


def project(network, *views):
    return torch.tensor(embeddings.extract(network, torch.cat(views), layer="projection"))


batches = {
    "before training": project(untrained, first, second),
    "trained": project(model, first, second),
    "trained, adversarial view": project(model, first, attacked),
}

# %%
hardnesses = [0, 0.5, 1, 2, 4, 8]
batch_positive = (both_labels[:, None] == both_labels).fill_diagonal_(False)  # two views: everyone has a positive
share_used, share_adversarial = {}, []
n = len(batch)
for name, z in batches.items():
    share_used[name] = []
    for beta in hardnesses:
        w = losses.hardness_weights(z, both_labels, beta)  # eq. 1
        share_used[name].append((my_effective_number(w) / batch_positive.sum(1)).mean().item())  # eq. 3
        if name == "trained, adversarial view":
            share_adversarial.append(w[:n, n:].sum(1).mean().item())

z = batches["trained, adversarial view"]
from_augmented = (z @ z.T)[:n]
to_augmented = from_augmented[:, :n][batch_positive[:n, :n]].numpy()
to_adversarial = from_augmented[:, n:][(both_labels[:, None] == both_labels)[:n, n:]].numpy()
plotting.show(
    figures.adversarial_positives(to_augmented, to_adversarial, hardnesses, share_adversarial, config.beta),
    "Left: cosines of augmented anchors with augmented and with adversarial positives. Right: share of the weight that goes "
    "to adversarial positives against beta.",
    svg=True,
)
at_two = hardnesses.index(2)
harder = np.median(to_adversarial) < np.median(to_augmented) - 0.05
lesson.say(
    f"Adversarial positives are **{'hard' if harder else 'hardly harder than the augmented'} ones**: median cosine "
    f"{np.median(to_adversarial):.2f}, against {np.median(to_augmented):.2f} of the augmented ones. At beta = 2 they get "
    f"**{share_adversarial[at_two]:.0%}** of the weight; SupCon gives them {share_adversarial[0]:.0%}. (PGD on the "
    f"cross-entropy, L-infinity epsilon {config.epsilon:g}, {config.attack_steps} steps of {config.step_size:g}, one random "
    f"start, {n} training images, seed {seed}.)"
)

# %% [markdown]
# **Reading the figure.** Left: the further a positive lies to the left, the harder it is. Compare the two colours. Right: where
# the weight goes. The dotted line is SupCon's share; above it the loss turns towards the adversarial images, and the hills
# on the left say why. This is the reason to combine the weights with adversarial training, which notebook 05 does. If the
# curve on the right stayed on the dotted line, the weights would not know the adversarial images from the others, and
# ANCHOR would be SupCon with extra steps. One caution: this network has never been trained against attacks. The better a
# network resists, the less its embeddings of attacked images move, and the less there is to weigh.
#
# Does $\beta$ do something in every batch? We compute the effective number of positives, equation 3, for the clean batch in
# the same network before training, for the clean batch in the trained one, and for the one with the adversarial view.

# %%
figure, axis = plt.subplots(figsize=(7.8, 3.6))
plotting.curves(axis, hardnesses, share_used, xlabel="beta", ylabel="effective number of positives,\nshare of all")
figures.mark_preset(axis, config.beta)
plotting.show(
    figure,
    "Effective number of positives, as a share of all positives, against beta for a batch before training, after SupCon "
    "training, and with an adversarial view.",
    svg=True,
)

# %% [markdown]
# **Reading the figure.** 100% means that all positives count, as in SupCon. Compare the three curves at the preset's $\beta$, and
# remember what acts: $\beta$ times the spread of the cosines. A network in which all images still point the same way leaves
# nothing to weigh, and neither does one whose classes are gathered, but for its few hard images. A curve near the top says
# that there the loss *is* SupCon, whatever its name. Had all three curves the same height, $\beta$ would not listen to
# the batch.
#
# ## 5 The hardest positive of all: a wrong label
#
# The weights cannot know *why* a positive is far. A wrong label puts an image into a class where it does not belong, and
# there it lies far from everyone. Suppose one of an anchor's $n$ positives has a cosine lower by a gap $\Delta$ than the
# others, which are all alike. Equation 1 then gives it the weight
#
# $$w_{\mathrm{wrong}} = \frac{1}{1 + (n - 1)\, e^{-\beta \Delta}} \tag{4}$$
#
# We measure it on the clean batch of the section before, in the trained network. One image gets a wrong label, both its
# views, so there are two wrong positives among the $n$ of each anchor of that class. We do this for *every* image and
# *every* wrong class of the batch, one at a time.
#
# > **Predict, then see.** SupCon gives two of $n$ positives the share $2/n$. Which share do the two wrong ones get
# > at $\beta = 2$, and by which $\beta$ do they have nearly everything?

# %%
z = batches["trained"]
cosine = z @ z.T
# Anchor i, image j that may be mislabelled to its class.
different = both_labels[:, None] != batch.labels.cpu()[None, :]
mistake_betas = [0, 0.5, 1, 2, 3, 4, 6, 8]


def share_of_wrong(beta):
    """(2 N, N): the weight that anchor i gives to both views of image j, if j had i's label."""
    w = torch.exp(-beta * cosine)
    wrong, right = w[:, :n] + w[:, n:], (w * batch_positive).sum(1, keepdim=True)
    return wrong / (wrong + right)  # eq. 1, for all mistakes at once


# One mistake the long way: change the label, and let the package compute the weights.
i, j = different.nonzero()[0].tolist()
flipped = both_labels.clone()
flipped[[j, j + n]] = both_labels[i]
long_way = losses.hardness_weights(z, flipped, 2.0)[i, [j, j + n]].sum()
assert torch.allclose(long_way, share_of_wrong(2.0)[i, j], rtol=1e-4)

number = batch_positive.sum(1, keepdim=True).float().mean().item() + 2  # of positives, the two wrong ones included
gap = ((cosine * batch_positive).sum(1, keepdim=True) / batch_positive.sum(1, keepdim=True) - cosine[:, :n])[different]
taken = {beta: share_of_wrong(beta)[different] for beta in mistake_betas}
middle_of = [taken[beta].median().item() for beta in mistake_betas]
band = tuple([taken[beta].quantile(q).item() for beta in mistake_betas] for q in (0.1, 0.9))
smooth = np.linspace(0, max(mistake_betas), 100)
formula = 1 / (1 + (number / 2 - 1) * np.exp(-smooth * gap.median().item()))  # eq. 4, two wrong ones: n / 2
plotting.show(
    figures.wrong_label(mistake_betas, middle_of, band, smooth, formula, config.beta),
    "Share of the weight that two positives with a wrong label take, against beta, with a band over all mistakes, and the "
    "curve of equation 4.",
    svg=True,
)
nearly = next((beta for beta, share in zip(mistake_betas, middle_of, strict=True) if share > 0.9), None)
lesson.say(
    f"{different.sum()} pairs of an anchor and a mistake, median gap {gap.median():.2f}. With the label wrong, two of "
    f"{number:.0f} positives (mean) get a median share of {middle_of[0]:.0%} of the weight in SupCon and "
    f"**{middle_of[mistake_betas.index(2)]:.0%}** at beta = 2. They have more than 90% "
    + (f"from beta = **{nearly:g}** on, of the values tried." if nearly else "at none of the values tried.")
)

# %% [markdown]
# **Reading the figure.** The line is the median over all mistakes and anchors, the band holds the middle 80% of them. The
# dotted curve is equation 4, with the two wrong views counted as one of $n/2$. Compare the value at the preset's $\beta$
# with SupCon's grey line: that is how much louder *one* mistake becomes. If the band stayed on the grey line, the weights
# would be safe with noisy labels. One caution: this network was trained with the right labels. A network that trains with
# the wrong one may learn it by heart, and the gap closes. Until it does, the mistake is what the loss listens to.
# Section 4 and this one are one mechanism: to the weights an adversarial image and a wrong label look the same.

# %% [markdown]
# ### Exercise 2 · Leave out the hardest
#
# A cheap protection against a wrong label: give the *single hardest* positive of each anchor the weight 0, and share its
# weight among the others by equation 1. An anchor with one positive only keeps it; one without positives has a row of
# zeros. Write that target, (M, M), for embeddings `z` (M, D) of unit length. Find the hardest by the cosines, not by
# the weights: at $\beta = 0$ these are all alike. Think before you look at the solution: what else does this leave out?


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
    generator = torch.Generator().manual_seed(1)
    z = F.normalize(torch.randn(14, 6, generator=generator), dim=1)
    labels = torch.tensor([0] * 6 + [1] * 5 + [2] * 2 + [3])
    positive = (labels[:, None] == labels).fill_diagonal_(False)
    hardest = (z @ z.T).masked_fill(~positive, 2).argmin(1)
    for beta in (0.0, 2.0, 30.0):
        w = trimmed_weights(z, labels, beta)
        assert w.shape == (14, 14), f"The shape is {tuple(w.shape)}, it should be (14, 14)."
        assert not w.isnan().any(), "There are NaNs. Look at the last row: it has no positive."
        assert (w[~positive] == 0).all(), "Something that is not a positive has a weight."
        assert (w[13] == 0).all(), "The last anchor has no positive, so its row should be 0."
        assert torch.allclose(w[11:13].sum(1), torch.ones(2)), "An anchor with one positive only should keep it."
        assert (w[torch.arange(11), hardest[:11]] == 0).all(), f"At beta = {beta:g} a hardest positive has a weight."
        assert torch.allclose(w[:11].sum(1), torch.ones(11), atol=1e-5), (
            "The weights of an anchor should sum to 1 again."
        )
        left = positive.clone()
        left[torch.arange(11), hardest[:11]] = False
        full = losses.hardness_weights(z, labels, beta) * left
        expected = full / full.sum(1, keepdim=True).clamp_min(1e-30)
        assert torch.allclose(w[:13], expected[:13], atol=1e-4), "The remaining weights are not in the ratio of eq. 1."


# %% [markdown] tags=["solution"]
# A softmax over the kept positives shares the weight in the old ratios, since equation 1 depends on differences only. The
# price: the hardest positive is left out whether its label is wrong or right. One wrong image is silenced (two views of it,
# as above, would need the two hardest), and so is the rare style, or the adversarial view, from which there was most to
# learn. No rule on cosines alone can tell them apart.

# %% [markdown]
# ## 6 Why the weights are constants
#
# The weights depend on the cosines. Should the gradient run through them? Let us do the calculation. With $w$ constant,
# equation 2 is a cross-entropy, and the gradient is guess minus target (for a negative the target is 0):
#
# $$\tau\,\frac{\partial L_i}{\partial c_{ip}} = q_{ip} - w_{ip} \tag{5}$$
#
# With $w$ differentiated too, a term $-\sum_{p'} (\partial w_{ip'} / \partial c_{ip}) \log q_{ip'}$ is added. The derivative
# of the softmax is $\partial w_{ip'} / \partial c_{ip} = \beta\, w_{ip'} (w_{ip} - \delta_{pp'})$, where $\delta_{pp'}$ is 1 for
# $p = p'$ and else 0. Since $\log q_{ip'}$ is $c_{ip'} / \tau$ minus something that is the same for all $p'$, the term becomes
# $\beta\, w_{ip} (c_{ip} - \bar c_i) / \tau$, with the weighted mean cosine $\bar c_i = \sum_p w_{ip} c_{ip}$. Together they are
# a gradient with a new target $\hat w$:
#
# $$\tau\,\frac{\partial L_i}{\partial c_{ip}} = q_{ip} - \hat w_{ip}, \qquad
# \hat w_{ip} = w_{ip}\,\bigl(1 + \beta\,(\bar c_i - c_{ip})\bigr) \tag{6}$$
#
# The new targets still sum to 1. But they can be **negative**: for each positive with $c_{ip} > \bar c_i + 1/\beta$, an
# easy one. A negative target means that the loss pushes this positive *away*, more strongly than a negative at the same
# cosine. The reason: the loss is a weighted mean of the positives' terms, and one way to lower a weighted mean is to put
# weight on small terms. Easy positives have small terms. They get more weight by going farther away. The weights were meant
# to say where to look; now the network is paid for changing them.
#
# A small arrangement on the circle, made by hand: one anchor, an easy and a hard positive, twelve negatives. First the
# check of both equations against automatic differentiation.

# %%
degrees = torch.tensor([90.0, 45, 190, 15, 28, 40, 62, 72, 100, 108, 118, 128, 140, 152, 165], dtype=torch.float64)
circle_labels = torch.tensor([0, 0, 0] + [1] * 12)
angles, tau, beta = degrees.deg2rad(), 1.0, 2.0


def loss_of_first(cosine, beta, detach):
    """Eq. 2 for the anchor 0, from its cosines with all others; others 0 and 1 are its positives."""
    w = (-beta * (cosine.detach() if detach else cosine)[:2]).softmax(0)  # eq. 1
    return -(w * (cosine / tau).log_softmax(0)[:2]).sum()  # eq. 2


def target_of(c, beta, detach):
    """What stands in the place of the target in the gradient, for positives with the cosines c (..., P)."""
    w = (-beta * c).softmax(-1)
    if detach:
        return w  # eq. 5
    mean = (w * c).sum(-1, keepdim=True)
    return w * (1 + beta * (mean - c))  # eq. 6


# %%
versions = {
    "SupCon": (0.0, True),
    "hard positives, detached": (beta, True),
    "hard positives, not detached": (beta, False),
}
others = angles[1:]
cosine = torch.cos(others - angles[0]).requires_grad_()
targets, forces = {}, {}
for name, version in versions.items():
    (gradient,) = torch.autograd.grad(loss_of_first(cosine, *version), cosine)
    c, q = cosine.detach()[:2], (cosine.detach() / tau).softmax(0)
    targets[name] = target_of(c, *version)
    assert torch.allclose(tau * gradient[:2], q[:2] - targets[name])  # eq. 5 and eq. 6
    assert torch.allclose(targets[name].sum(), torch.ones((), dtype=torch.float64))
    # Chain rule from cosines to angles; a descent step moves each point along minus the gradient.
    forces[name] = torch.cat([torch.zeros(1), gradient * torch.sin(others - angles[0])])
print(f"temperature {tau:g}, beta = {beta:g}; target of the easy and of the hard positive")
for name, target in targets.items():
    print(f"  {name:<30} {target[0]:+.3f}  {target[1]:+.3f}")

plotting.show(
    figures.forces_of_an_anchor(
        angles.numpy(), circle_labels.numpy(), {k: force.numpy() for k, force in forces.items()}
    ),
    "Three circles with one anchor, an easy and a hard positive and twelve negatives; arrows show where a step moves "
    "each point. Only without detaching is the easy positive pushed away from the anchor.",
    colors=96,
)
repelled = bool(forces["hard positives, not detached"][1] < 0 < forces["hard positives, detached"][1])

# %% [markdown]
# **Reading the figure.** Blue is the anchor's class, orange the other one. An arrow shows where one step on the anchor's
# loss moves a point (the anchor itself is held in place). The tiny orange arrows lead away from the anchor in all three.
# Look at the blue point called *easy*. SupCon pulls it in. With detached weights it is still pulled in, weakly, since the
# hard one has the larger target. Without detaching its target is negative, and it is pushed away like a negative, though it
# is of the anchor's class. Had that arrow kept its direction, detaching would be a matter of taste.
#
# That was one place for the easy positive. Now it walks: we move it all the way round the circle, keep everything else
# where it is, and plot the force that the anchor's loss exerts on it.

# %%
away = torch.linspace(0, 180, 181, dtype=torch.float64)  # degrees between the anchor and the positive that walks
walking = torch.cat([away.deg2rad().cos()[:, None], cosine.detach()[1:].expand(181, -1)], 1)  # (181, all others)
pulls = {}
for name, version in versions.items():
    guess = (walking / tau).softmax(1)[:, 0]
    gradient = (guess - target_of(walking[:, :2], *version)[:, 0]) / tau  # eq. 5 or eq. 6
    pull = -gradient * away.deg2rad().sin()  # + towards the anchor, - away from it
    pulls[name.removeprefix("hard positives, ")] = pull.numpy()
detached, through = pulls["detached"], pulls["not detached"]
reversed_sign = (detached > 0) & (through < 0)

plotting.show(
    figures.walking_positive(away.numpy(), pulls, reversed_sign, angles[2].item()),
    "Left and middle: circles with arrows that show where the anchor's loss moves a positive from each place, with detached "
    "weights and without. Right: the force against the angle; a shaded region where it changes its sign.",
    svg=True,
)
span = away[reversed_sign]
lesson.say(
    f"Without detaching the force has the wrong sign from **{span.min():.0f} to {span.max():.0f} degrees**: there the positive "
    f"is pulled in with detached weights and pushed away without. The strongest push is {-through.min():.2f}; the strongest "
    f"pull is {through.max():.2f} without and {detached.max():.2f} with detaching."
    if len(span)
    else "The sign of the force is the same in both versions at every angle."
)

# %% [markdown]
# **Reading the figure.** Left and middle: a dot is a place where the positive could be, and its arrow the direction of the
# step that it would make from there. Blue arrows lead to the anchor, orange ones away. How strong the force is stands on
# the right, with SupCon for comparison; above the black line the positive is pulled in. In the shaded region one version
# pulls and the other pushes, and it is the region of the *easy* places. (At 0 and at 180 degrees no force along the circle
# is possible.) The hard places show the other face of equation 6: there the version that is not detached pulls harder.
# SupCon's curve too is low at the easiest places: on a sphere a near point feels only a small part of the force, a
# hardness that SupCon has built in (Khosla et al.). The weights add to it. Had the blue and the orange curve the same sign
# everywhere, the wrong sign of the figure before would be a special case of one hand-made place.
#
# To be fair: by equation 5 an easy positive can be pushed away in the other two versions as well (notebook 03 had one),
# namely when its share $q_{ip}$ of the guess exceeds its target; the orange arrows beside the star in the left circle are
# such places. That happens most at low temperature, when the guess falls on a few easy positives only. But this push is
# never stronger than that on a negative with the same cosine, and it ends when the share has come down to the target. The
# push of equation 6 needs no large share.
#
# Equation 6 says one more thing. Where $\beta$ times the spread of the cosines is small,
# $1 + \beta(\bar c - c) \approx e^{\beta (\bar c - c)}$, so $\hat w$ is about the softmax of $-2\beta c$: not detaching acts
# there like **doubling beta**. The next figure compares the two for thirteen positives with a wide spread, and then counts
# the negative targets in the real batches of section 4.

# %%
many = torch.linspace(-0.2, 1, 13)
lines = {
    "SupCon": target_of(many, 0.0, True),
    "beta = 2, detached": target_of(many, 2.0, True),
    "beta = 4, detached": target_of(many, 4.0, True),
    "beta = 2, not detached": target_of(many, 2.0, False),
}
negative_targets = {}
for name, z in batches.items():
    c, shares = z @ z.T, []
    for b in hardnesses:
        w = losses.hardness_weights(z, both_labels, b)
        new_target = w * (1 + b * ((w * c).sum(1, keepdim=True) - c))  # eq. 6
        shares.append((new_target < 0)[batch_positive].float().mean().item())
    negative_targets[name] = shares

plotting.show(
    figures.targets_and_negative_shares(
        many.numpy(), {name: value.numpy() for name, value in lines.items()}, hardnesses, negative_targets
    ),
    "Left: target of thirteen positives against their cosine; only the version that is not detached goes below zero, at the "
    "easy end. Right: share of positive pairs in three real batches with a negative target, against beta.",
    svg=True,
)
adversarial_negative = negative_targets["trained, adversarial view"][at_two]
lesson.say(
    f"At beta = 2, without detaching, **{adversarial_negative:.0%}** of the positive pairs have a negative target in the batch "
    f"with an adversarial view, and {negative_targets['trained'][at_two]:.0%} in the clean one. With detached weights it is "
    "none, whatever the batch."
)

# %% [markdown]
# **Reading the figure.** Left: the four curves share the sum 1. The one that is not detached follows the curve of the doubled
# beta at the hard end and in the middle, but at the easy end it crosses zero, which no softmax can. Everything below the
# black line is a positive that is treated as a negative. Right: the same count in real batches, where nothing was arranged
# by hand. If all curves lay at zero, negative targets would be a curiosity of the drawing board. Where there are hard
# positives to listen to, there are also easy ones that pay for it.

# %% [markdown]
# ### Exercise 3 · Other weights, the same mistake
#
# Someone proposes simpler weights: $w_p = (1 - c_p) / S$ with $S = \sum_{p'} (1 - c_{p'})$. They too sum to 1 and grow with
# hardness. Derive the target $\hat w$ that takes their place if they are *not* detached, as in equation 6, and write it
# without automatic differentiation. Start from $L = -\sum_p w_p\, c_p / \tau + \log \sum_a e^{c_a / \tau}$ and use that the
# derivative of $w_{p'}$ with respect to $c_p$ is $(w_{p'} - \delta_{pp'}) / S$, with the $\delta$ of section 6. From which
# cosine on is the target negative?


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
# The extra term is $\sum_{p'} \frac{\partial w_{p'}}{\partial c_p} c_{p'} = (\bar c - c_p) / S$, so $\hat w_p = w_p + (\bar c - c_p) / S
# = (1 + \bar c - 2 c_p) / S$, which is negative from $c_p > (1 + \bar c) / 2$ on. The mistake does not lie in the softmax: weights
# that fall with the cosine pay the loss for pushing easy positives away, if the gradient may run through them. Here the
# targets do not even sum to 1: a softmax ignores a common shift of all cosines, these weights do not.

# %% [markdown]
# ## 7 Does it matter? Free points on a circle
#
# A wrong sign in one moment may be harmless in the long run. So we let points move, as in notebook 03: three classes,
# eight points each. We start many times at random, and for the pictures we choose the first start in which the versions
# end differently: SupCon and the detached weights gather every class in one group, the other version does not. That is
# picking an example; the last figure of this section counts all starts.

# %%
groups = torch.arange(3).repeat_interleave(8)
circle_temperature = 0.5
same = groups[:, None] == groups


def descend(points, beta, detach, steps):
    """Gradient descent on the sphere, for many independent starts (..., M, D) at once; yields every step."""
    for _ in range(steps):
        yield points
        points = points.detach().requires_grad_()
        loss = my_hard_positive_loss(points, groups, circle_temperature, beta, detach).sum()
        (gradient,) = torch.autograd.grad(loss, points)
        points = F.normalize(points.detach() - circle_temperature * gradient, dim=-1)
    yield points


def random_starts(count, dimensions):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 24, dimensions, generator=generator), dim=-1)


def in_one_group(points):
    """For each start: has every pair of a class a cosine above 0.9?"""
    return (points @ points.mT)[..., same].amin(-1).gt(0.9)


count, last_step = 40, 400
starts = random_starts(count, 2)
paths = {name: torch.stack(list(descend(starts, *version, last_step))) for name, version in versions.items()}
ends = {name: in_one_group(path[-1]) for name, path in paths.items()}
differ = ends["SupCon"] & ends["hard positives, detached"] & ~ends["hard positives, not detached"]
example = int(differ.int().argmax())
paths = {name: path[:, example] for name, path in paths.items()}  # (steps, 24, 2)

# In colour, and with the lines: the class that ends least gathered without detaching.
final = paths["hard positives, not detached"][-1]
torn = int((final @ final.T).masked_fill(~same, 1).view(3, 8, 24).amin((1, 2)).argmin())


# %%
def targets_of(i, name, points):
    """The targets that anchor i has for all points (..., 24): weights, eq. 1, or what replaces them, eq. 6."""
    mates = (groups == groups[i]) & (torch.arange(24) != i)
    cosine = (points @ points[..., i, :, None])[..., 0]
    target = torch.zeros_like(cosine)
    target[..., mates] = target_of(cosine[..., mates], *versions[name])
    return target


# Of that class we draw the lines of the point with the most negative targets, times their length, over all steps.
path = paths["hard positives, not detached"]
pushes = [
    (-targets_of(i, "hard positives, not detached", path)).clamp_min(0) * (path - path[:, i : i + 1]).norm(dim=-1)
    for i in range(8 * torn, 8 * torn + 8)
]
anchor = 8 * torn + int(torch.stack(pushes).sum((1, 2)).argmax())

drawn = {}  # of each version, at every step: the angles of the points and the targets of the anchor, both (steps, 24)
for name, (b, _) in versions.items():
    x, y = paths[name].unbind(-1)
    title = name.replace("hard positives", f"beta = {b:g}")
    drawn[title] = torch.atan2(y, x).numpy(), targets_of(anchor, name, paths[name]).numpy()
steps = sorted({round(last_step * (k / 26) ** 2.2) for k in range(27)})
plotting.animate(
    figures.descent_frames(drawn, groups.numpy(), anchor, steps),
    "Animation: 24 points of three classes move on a circle from the same start under SupCon, under detached hard-positive "
    "weights and under weights that are not detached; lines show the targets of one anchor.",
    milliseconds=260,
    hold=4000,
    colors=112,
)
lesson.say(
    f"Of {count} starts, {int(differ.sum())} end differently in this sense; shown is "
    + (f"the first of them, start {example}." if differ.any() else "start 0, since there is none.")
)

# %% [markdown]
# **Reading the figure.** The three circles start alike. Watch the blue class, and the lines of *one* of its points, the star.
# They are its targets: as thick as $w$ in SupCon and with detached weights, as $\hat w$ of equation 6 without detaching (very
# thin ones are drawn thicker than they are). A solid blue line says "come nearer", a dashed orange one "you are not one of
# mine". In SupCon all lines are alike, with the weights the long ones are thick. Look for dashed lines in the right circle,
# and at whom they point. At the end count the groups of blue. The other two circles cannot have dashed lines, since weights
# are never negative. Had the right one none either, equation 6 would be of no matter here. Now five moments, standing still.

# %%
shown = [0, 4, 12, 40, last_step]
plotting.show(
    figures.descent_filmstrip(drawn, groups.numpy(), anchor, shown),
    "Filmstrip of 24 points of three classes under SupCon, under hard-positive weights that are detached, and under "
    "weights that are not detached; lines show the targets of one anchor.",
    colors=128,
)

# %% [markdown]
# **Reading the figure.** Time runs to the right; all rows begin alike; the lines are those of the animation. Compare the first
# column: at the same places the three versions already have different targets. In the last column one group a colour is what a
# contrastive loss is for. Several groups of one colour mean that the class is torn: pulled to both sides at once by hard
# positives, with other classes in between. One start is an anecdote, and this one was picked, so the next cell counts.
#
# > **Predict, then see.** If not detaching is like doubling beta: at which beta do detached weights fail as often as the
# > others do at beta = 2?

# %%
strengths, gathering_steps = [0, 1, 2, 3, 4, 6], 300


def gathered(betas, detach, dimensions):
    """For each beta, the share of the starts that end with every class in one group; all descend at once."""
    each_beta = torch.tensor(betas, dtype=torch.float32)[:, None, None, None]
    points = random_starts(count, dimensions).expand(len(betas), -1, -1, -1)
    *_, points = descend(points, each_beta, detach, gathering_steps)
    return in_one_group(points).float().mean(-1).tolist()


success = {
    "detached": gathered(strengths, True, 2),
    "not detached": gathered(strengths, False, 2),
}
intervals = {k: [results.wilson(round(v * count), count) for v in values] for k, values in success.items()}
bands = {name: tuple(zip(*pairs, strict=True)) for name, pairs in intervals.items()}
roomy = {name: gathered([4], detach, 16)[0] for name, detach in (("detached", True), ("not detached", False))}

# %%
plotting.show(
    figures.gathering(strengths, success, bands, count),
    "Left: share of random starts that end with every class in one group, against beta, with and without detached weights. "
    "Right: the same curves, the one without detaching drawn at twice its beta.",
    svg=True,
)
pairs = [(b, 2 * b) for b in strengths if b and 2 * b in strengths]
doubling_gap = max(
    abs(success["not detached"][strengths.index(a)] - success["detached"][strengths.index(b)]) for a, b in pairs
)
overlap = all(
    bands["not detached"][0][strengths.index(a)] <= bands["detached"][1][strengths.index(b)]
    and bands["detached"][0][strengths.index(b)] <= bands["not detached"][1][strengths.index(a)]
    for a, b in pairs
)
apart = max(abs(a - b) for a, b in zip(success["detached"], success["not detached"], strict=True))
lesson.say(
    f"After {gathering_steps} steps at temperature {circle_temperature:g}, not detached at beta against detached at 2 beta: "
    + "; ".join(
        f"{success['not detached'][strengths.index(a)]:.0%} at {a}, {success['detached'][strengths.index(b)]:.0%} at {b}"
        for a, b in pairs
    )
    + f". The 95% intervals of these pairs **{'all overlap' if overlap else 'do not all overlap'}**. The largest difference is "
    f"**{100 * doubling_gap:.0f} points**; at equal beta it is **{100 * apart:.0f} points**. On a sphere in 16 dimensions, at "
    f"beta = 4, every class gathers in {roomy['detached']:.0%} of the starts with detached weights and in "
    f"{roomy['not detached']:.0%} without."
)

# %% [markdown]
# **Reading the figure.** Bands are 95% intervals. Left: where a curve falls, hardness tears classes on the circle, because
# hard positives on opposite sides pull a point both ways; this can happen to detached weights too. Compare at which beta
# each curve falls. Right: the test of the prediction. If not detaching is the same as doubling beta, the two curves lie on
# each other, within their bands. Bands that overlap do not prove it, though: so few starts tell only large differences
# apart, and equation 6 promises the doubling only for a small spread of the cosines. Equal curves on the *left* would
# mean that there is no mechanism at all. The last sentence above is the counter-check: 16 dimensions leave more ways
# round. If both versions gather there, the failure belongs to the circle: it shows the *mechanism*, and it does not show
# that a real network must fail.
#
# ## What can go wrong
#
# - **Not detaching.** Nothing crashes, and a falling loss does not prove that all is well. Look at the signs of the targets.
# - **The wrong sign.** A softmax of $+\beta c$ listens to the *easy* positives. The value of the loss is even lower then.
# - **Noise.** The hardest positive of all may be a wrong label (section 5). Clean the labels, or keep $\beta$ small.
# - **Weights from other vectors.** Weigh by the cosines that the loss uses. Before the projection head the cosines have
#   another range, and $\beta$ another meaning.
# - **Unnormalised weights.** If the weights do not sum to 1, $\beta$ is also a learning rate, and a comparison of two betas
#   compares two learning rates.
# - **A beta copied from elsewhere.** What acts is $\beta$ times the spread of the cosines (exercise 1). Look at the
#   effective number in your own batches.
# - **A single positive.** It has the weight 1 whatever $\beta$ is. With many classes and small batches the loss is SupCon.
# - **Low precision.** Half precision is coarse for cosines near 1, and the division by a small $\tau$ magnifies the error;
#   the package computes both in float32.
# - **Comparing loss values across beta.** A larger $\beta$ asks a harder question. A higher loss does not mean a worse
#   network.
#
# ## What we saw

# %%
two = strengths.index(2)
confirmed = (
    beta_0_is_supcon
    and share_adversarial[at_two] > share_adversarial[0] + 0.1
    and repelled
    and bands["detached"][0][two] > bands["not detached"][1][two]
)
used = share_used["trained"][at_two]
wrong_share = {beta: share.median().item() for beta, share in taken.items()}
lesson.say(
    f"At beta = 2 the weights use {used:.1%} of the positives of a clean batch, effectively, so there the loss is "
    f"{'almost' if used > 0.9 else 'not'} SupCon. With an adversarial view, adversarial positives get "
    f"**{share_adversarial[at_two]:.1%}** of the weight (SupCon: {share_adversarial[0]:.1%}); both views of an image with a "
    f"wrong label get {wrong_share[2]:.1%}, in the median (SupCon: {wrong_share[0]:.1%}). Of the test images in the hardest "
    f"tenth the linear classifier reads {by_tenth[0]:.1%}, of the others {others_accuracy:.1%}. Without detaching, the "
    f"easy positive of our arrangement is {'pushed away' if repelled else 'not pushed away'}, "
    f"{adversarial_negative:.0%} of the positive pairs of the "
    f"adversarial batch have a negative target, and on the circle at beta = 2 every class ends in "
    f"one group in **{success['not detached'][two]:.0%}** of {count} starts, against "
    f"**{success['detached'][two]:.0%}** with detached weights; in 16 dimensions at beta = 4 in "
    f"{roomy['not detached']:.0%} and {roomy['detached']:.0%}. The claim is "
    f"**{'confirmed' if confirmed else 'not confirmed'}** by this run."
)

# %% [markdown]
# ### Expected values
#
# The numbers of this run, beside the bands in which the same preset should find them on other machines.

# %%
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
        "wrong_label_weight_share_beta_0": wrong_share[0],
        "wrong_label_weight_share_beta_2": wrong_share[2],
        "hardest_tenth_accuracy": by_tenth[0],
        "other_images_accuracy": others_accuracy,
        "negative_target_share_beta_2": negative_targets["trained"][at_two],
        "negative_target_share_beta_2_adversarial": adversarial_negative,
        "reversed_force_degrees": float(len(span)),
        "circle_gathered_detached_beta_2": success["detached"][two],
        "circle_gathered_not_detached_beta_2": success["not detached"][two],
        "circle_doubling_gap": doubling_gap,
        "sphere16_gathered_detached_beta_4": roomy["detached"],
        "sphere16_gathered_not_detached_beta_4": roomy["not detached"],
    },
)

# %% [markdown]
# **Limits.** Equations 1 and 2 are a reconstruction from the summary of the ANCHOR paper; the authors' weights may differ.
# Nothing here shows that the weights make a network more robust: that needs training, and a comparison with beta = 0 over
# seeds, in notebooks 05, 06 and 08. The circle is the narrowest of all spheres and exaggerates. Hardness is measured by one
# network that was never trained on adversarial images or on labels made wrong on purpose.
#
# **References.** Bhattacharya, Bhattacharya and Chakraborty, *ANCHOR*, arXiv 2510.27599 · Khosla et al., *Supervised
# contrastive learning*, arXiv 2004.11362 · Robinson et al., *Contrastive learning with hard negative samples*, arXiv
# 2010.04592 (the same exponential tilt, for negatives) · Schroff et al., *FaceNet*, arXiv 1503.03832 (hard positives in
# triplets) · Hermans et al., *In defense of the triplet loss for person re-identification*, arXiv 1703.07737.
#
# **Next:** [05 · ANCHOR training](05_anchor_training.ipynb) puts the loss to work on adversarial views.
