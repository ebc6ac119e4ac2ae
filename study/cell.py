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
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

from anchor_utils import attacks as attack_functions
from anchor_utils import embeddings, evaluation, models, plotting, results, training
from anchor_utils.config import digest
from course import lesson

BLOCK = 250  # images that are attacked and saved together
config, dataset, device = lesson.start("cell", preset, overrides, seed, runs_dir, data_root)
if unknown := set(attacks) - set(results.REPORTED):
    raise ValueError(f"attacks={sorted(unknown)}: allowed are {', '.join(results.REPORTED)}")

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
plotting.show(
    figure,
    "Held-out clean and PGD accuracy over the epochs.",
    svg=True,
)
history.round(3)


# %%
def best_epoch(run: training.Run) -> dict[str, float]:
    """Held-out accuracies of the checkpoint that was kept."""
    kept = run.model("best").metadata
    return {"epoch": kept["epoch"], "clean": kept["clean_accuracy"], "robust": kept["robust_accuracy"]}


held_out = {"joint": best_epoch(run)}
if finetune:
    held_out["frozen encoder, new classifier"] = best_epoch(training.finetune(run, dataset=dataset))
pd.DataFrame(held_out).T

# %% [markdown]
# ## Test images


# %%
def measure(which: str, attack: str, images: int) -> pd.DataFrame:
    """Test accuracy of a checkpoint under one attack, block by block; finished blocks are read from their files."""
    chosen, best = run.model(which), run.model("best")
    source = "best" if chosen.metadata["epoch"] == best.metadata["epoch"] else which  # one network, attacked once
    network = models.fold_batchnorm(chosen).to(device)  # the same function of the image, and faster
    settings = {"epsilon": config.epsilon, "step_size": config.eval_step_size, "steps": config.eval_steps}
    settings |= {"restarts": config.eval_restarts, "precision": config.eval_precision, "seed": config.seed}
    tables = []
    for start in range(0, images, BLOCK):
        stop = min(start + BLOCK, images)
        path = run.path / "evaluation" / f"{source}-{attack}-{start}-{stop}-{digest(settings)}.json"
        if not path.exists():
            results.save_results(path, evaluation.evaluate(network, dataset.test[start:stop], [attack], **settings))
        tables.append(results.read_results(path)[0])
    return results.join_images(tables).assign(checkpoint=which)


sizes = {"clean": config.test_images, "pgd": config.test_images}
sizes |= {"screen": config.screen_images, "autoattack": config.autoattack_images}
tables = [measure("best", attack, sizes[attack]) for attack in attacks]
tables += [measure("last", attack, sizes[attack]) for attack in attacks if attack in ("clean", "pgd")]
table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
table.drop(columns="outcomes", errors="ignore").round(4)

# %% [markdown]
# ## What the network looks like inside
#
# On the first test images, clean and under PGD: the share whose ten nearest neighbours in feature space vote for the right class, the
# silhouette, and how far the attack turns the features. For the contrastive methods also the share of the contrastive term in the length of
# the encoder's gradient, and the angle between the two terms' gradients, on training images with this checkpoint.

# %%
inside = {}
if attacks:
    network = run.model("best").to(device)
    sample = dataset.test[: config.embedding_images].to(device)
    x, y = sample.inputs(), sample.labels
    pgd = {"epsilon": config.epsilon, "step_size": config.eval_step_size, "steps": config.eval_steps}
    x_adv = attack_functions.pgd(
        models.fold_batchnorm(network), x, y, **pgd, generator=torch.Generator().manual_seed(config.seed)
    )
    clean, adversarial = (embeddings.extract(network, images) for images in (x, x_adv))
    for name, vectors in (("clean", clean), ("adversarial", adversarial)):
        numbers = embeddings.neighbourhood_metrics(vectors, y.cpu().numpy())
        inside |= {f"{name} {key}": value for key, value in numbers.items()}
    inside["cosine of clean and adversarial features"] = float((clean * adversarial).sum(1).mean())

if attacks and config.method in training.CONTRASTIVE:
    # The terms of eq. 3 on one large batch, each differentiated by itself.
    sample = dataset.hold_out(config.validation_images)[0].train[:512].to(device)
    generator = torch.Generator().manual_seed(config.seed)
    folded = models.fold_batchnorm(network)
    pgd = {"epsilon": config.epsilon, "step_size": config.step_size, "steps": config.attack_steps}
    _, terms, _, _ = training.batch_loss(
        config,
        lambda images: (network.classifier(features := network.encode(images)), network.project(features)),
        lambda images, labels: attack_functions.pgd(folded, images, labels, **pgd, generator=generator),
        sample.images,
        sample.labels,
        generator,
    )
    encoder = [*network.stem.parameters(), *network.stages.parameters()]
    g_ce, g_con = (
        torch.cat([g.flatten() for g in torch.autograd.grad(term, encoder, retain_graph=True)])
        for term in (terms["cross_entropy"], config.contrastive_weight * terms["contrastive"])
    )
    inside["share of the contrastive term in the gradient"] = float(g_con.norm() / (g_ce.norm() + g_con.norm()))
    inside["cosine of the two terms' gradients"] = float(torch.cosine_similarity(g_ce, g_con, dim=0))
pd.Series(inside, dtype=float).round(3).to_frame("value")

# %%
if output:
    results.save_results(
        Path(output),
        table,
        variant=variant,
        method=config.method,
        seed=config.seed,
        held_out=held_out,
        inside=inside,
        training_seconds=float(history["seconds"].sum()),
        run=run.path.name,
        config=config.model_dump(),
    )
