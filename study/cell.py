# %% [markdown]
# # One cell of a sweep
#
# Trains one network and measures it. `study/Snakefile` executes this notebook with papermill once for each variant and seed of a file in
# `configs/sweeps/`. Everything is resumable: training from at most two minutes before, the attacks from their last block of images.

# %% tags=["parameters"]
preset = "t4"
overrides = {}
seed = 0
runs_dir = "runs"
data_root = "data"
attacks = ["clean", "pgd"]  # on test images; also "screen" and "autoattack"
finetune = False  # also train a classifier on the frozen encoder, scored on held-out training images
variant = ""
output = ""  # JSON file for the results

# %%
import matplotlib.pyplot as plt
import pandas as pd

from anchor_utils import plotting, training
from anchor_utils.config import REPORTED
from course import lesson
from study import measure

config, dataset, device = lesson.start("cell", preset, overrides, seed, runs_dir, data_root)
if unknown := set(attacks) - {*REPORTED}:
    raise ValueError(f"attacks={sorted(unknown)}: allowed are {', '.join(REPORTED)}")

# %% [markdown]
# ## Training
#
# Accuracies are on held-out *training* images; the best epoch there is the checkpoint that is tested.

# %%
run = training.fit(config, dataset=dataset, progress=False)
history = run.metrics()
figure, axis = plt.subplots(figsize=(5, 3))
accuracies = {"clean": history["clean_accuracy"], "PGD": history["robust_accuracy"]}
plotting.curves(axis, history["epoch"].tolist(), accuracies, xlabel="epoch", ylabel="held-out accuracy")
plotting.show(figure, "Held-out clean and PGD accuracy over the epochs.", svg=True)
history.round(3)

# %%
held_out = measure.of_both(run, dataset, finetune)
pd.DataFrame(held_out).T

# %% [markdown]
# ## Test images

# %%
table = measure.accuracies(run, dataset.test, attacks, device)
table.drop(columns="outcomes", errors="ignore").round(4)

# %% [markdown]
# ## What the network looks like inside
#
# On the first test images, clean and under PGD: the share whose ten nearest neighbours among clean training features vote for the right
# class, and how far the attack moves the features, in distances between classes. For the contrastive methods also the share of the contrastive term in the length of
# the encoder's gradient, and the angle between the two terms' gradients, on training images with this checkpoint.

# %%
inside = measure.inside(run, dataset, device) if attacks else {}
pd.Series(inside, dtype=float).round(3).to_frame("value")

# %%
if output:
    seconds = float(history["seconds"].sum())
    found = {"held_out": held_out, "inside": inside, "training_seconds": seconds, "metrics": history.to_dict("records")}
    measure.save_cell(output, config, table, variant=variant, **found)
