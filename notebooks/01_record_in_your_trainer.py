# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Record masks in your own trainer
#
# You have a training loop and a library that sparsifies. This notebook takes a plain PyTorch loop with
# `torch.nn.utils.prune`, adds two lines, and shows what was recorded, what it cost, and what happens when a job is
# restarted from an earlier checkpoint. Trainers with hooks of their own (Lightning, Hugging Face, Ignite, Keras and
# others) have their page in the docs.

# %%
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.utils import prune

import sift_graph as sg
from sift_graph import plots

sns.set_theme(style="whitegrid", context="notebook")
root = Path(tempfile.mkdtemp())
torch.manual_seed(0)
torch.set_num_threads(1)

digits = load_digits()
images = torch.tensor(digits.data / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)

# %% [markdown]
# ## The loop that was there
#
# A small network, pruned by magnitude a little more every epoch.


# %%
def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    for layer in (model[0], model[2]):
        prune.l1_unstructured(layer, "weight", amount=0.3)
    return model, torch.optim.AdamW(model.parameters(), lr=3e-3)


def train(model, optimizer, epochs=8, amount=0.25):
    losses = []
    for epoch in range(epochs):
        for layer in (model[0], model[2]) if epoch else ():
            prune.l1_unstructured(layer, "weight", amount=amount)
        for batch in torch.randperm(len(images)).split(128):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


# %% [markdown]
# ## Two lines
#
# `attach` hooks the optimizer's step. The masks are found where the library keeps them; a snapshot is written when a
# mask has changed.

# %%
model, optimizer = build()
with sg.MaskRecorder(root / "pruned", every=1).attach(model, optimizer):
    losses = train(model, optimizer)

run = sg.open(root / "pruned")
run

# %% [markdown]
# Nothing of the training changed: the same loop without the recorder gives the same losses, bit for bit.

# %%
model, optimizer = build()
assert train(model, optimizer) == losses
print(f"{len(losses)} steps, {len(run.steps)} snapshots, losses identical with and without the recorder")

# %%
frame = run.analyze()
fig, axes = plt.subplots(1, 2, figsize=(11, 3.8))
sns.lineplot(data=frame, x="step", y="density", hue="layer", marker="o", ax=axes[0])
axes[0].set(ylim=(0, 1.02), title="What pruning left")
plots.gap_over_time(frame, ax=axes[1])
axes[1].set_title("What it did to the graph")
fig.tight_layout()

# %% [markdown]
# ## What it costs
#
# Most steps have nothing to record: the hook asks whether a mask changed. Where one did, the training thread compares,
# packs and hashes, and a background thread compresses and writes. A model this small shows the fixed part.

# %%
seconds = {"without": [], "with": []}
for repeat in range(3):
    for name, times in seconds.items():
        model, optimizer = build()
        start = time.perf_counter()
        if name == "with":
            with sg.MaskRecorder(root / f"timed{repeat}", every=10).attach(model, optimizer):
                train(model, optimizer, epochs=4)
        else:
            train(model, optimizer, epochs=4)
        times.append(time.perf_counter() - start)
best = {name: min(times) for name, times in seconds.items()}
size = sum(path.stat().st_size for path in (root / "pruned" / "masks").iterdir())
print(
    f"training {best['without']:.2f} s, recorded {best['with']:.2f} s; {len(run.steps)} snapshots: {size / 1e3:.0f} kB"
)

# %% [markdown]
# ## Masks from anywhere
#
# A loop without hooks, another framework, arrays: hand them over by name. Weights are optional.

# %%
rng = np.random.default_rng(0)
with sg.MaskRecorder(root / "arrays", about={"method": "mine", "seed": 0}) as recorder:
    mask = rng.random((64, 32)) < 0.2
    for step in range(0, 50, 10):
        recorder.snapshot(step, {"layer": mask})
        recorder.log({"step": step, "val_accuracy": 0.5 + step / 100})
        mask = rng.permutation(mask)

# %% [markdown]
# ## A job that starts again
#
# The job died and goes on from a checkpoint of step 20, before the newest snapshot. With `resume=True` the later ones
# are put aside, so that the history has no two futures; nothing is deleted.

# %%
with sg.MaskRecorder(root / "arrays", resume=True) as recorder:
    recorder.rewind(20)
    recorder.snapshot(30, {"layer": mask})

run = sg.open(root / "arrays")
aside = sorted(path.relative_to(run.path) for path in (run.path / "masks" / "abandoned").rglob("*.safetensors"))
print("steps now:", run.steps)
print("put aside:", *aside, sep="\n  ")

# %%
fig, ax = plt.subplots(figsize=(6, 3.2))
plots.mask_dynamics(run.analyze(), ax=ax)
fig.tight_layout()
