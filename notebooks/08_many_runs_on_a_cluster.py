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
# # Many runs, many machines
#
# The unit of work is one layer of one snapshot of one run. It is shared out over local processes, `jobs=2`, or over a
# Dask cluster that is running already, `scheduler="tcp://..."`. Finished rows are kept as they come: whatever is
# interrupted goes on where it stopped. This notebook starts a small local cluster in place of yours.

# %%
import logging
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from dask.distributed import LocalCluster

import sift_graph as sg

sns.set_theme(style="whitegrid", context="notebook")
root = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A study of arrays
#
# Twelve runs, written by the recorder from plain arrays: masks that drift at different rates.

# %%
shapes = {"stage1": (48, 96), "stage2": (96, 192), "stage3": (192, 384)}
for seed in range(4):
    for rate in (0.0, 0.1, 0.3):
        rng = np.random.default_rng(seed)
        masks = {name: rng.random(shape) < 0.1 for name, shape in shapes.items()}
        about = {"method": f"drift {rate:g}", "family": "arrays", "sparsity": 0.9, "seed": seed}
        with sg.MaskRecorder(root / f"drift{rate:g}-seed{seed}", about=about) as recorder:
            for step in range(0, 50, 10):
                recorder.snapshot(step, masks)
                for mask in masks.values():
                    flat = mask.ravel()
                    moved = rng.random(flat.size) < rate * flat
                    flat[moved] = False
                    flat[rng.choice(np.flatnonzero(~flat), moved.sum(), replace=False)] = True
print(len(list(root.iterdir())), "runs")

# %% [markdown]
# ## On the cluster
#
# Workers read the run directories themselves, so these must be on a file system that all of them see. One thread a
# worker: the numbers do not get faster with more.

# %%
with LocalCluster(
    n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL, protocol="tcp"
) as cluster:
    start = time.perf_counter()
    frame = sg.analyze(root, scheduler=cluster.scheduler_address)
    first = time.perf_counter() - start
start = time.perf_counter()
again = sg.analyze(root)
print(f"{len(frame)} rows on the cluster in {first:.1f} s; read again, here, in {time.perf_counter() - start:.1f} s")
assert frame.equals(again)

# %% [markdown]
# The second call computed nothing: each row is kept beside its run, under the hash of the mask and the settings. Masks
# that did not change were measured once.

# %%
frame.groupby("method")[["ramanujan_gap_norm", "iou_first", "itop_rate"]].agg(["mean", "std"]).round(3)

# %%
fig, axes = plt.subplots(1, 2, figsize=(12, 3.8))
sns.lineplot(data=frame, x="step", y="iou_first", hue="method", ax=axes[0])
axes[0].set(ylabel="IoU with the first mask", ylim=(0, 1.02))
sns.lineplot(data=frame, x="step", y="ramanujan_gap_norm", hue="method", style="layer", errorbar=None, ax=axes[1])
axes[1].set(ylabel="Ramanujan gap / bound")
axes[1].legend(frameon=False, ncols=2, fontsize="small")
fig.tight_layout()

# %% [markdown]
# Random drift changes the masks and leaves the gap where it was: a random mask is as good an expander as another.
#
# With Slurm, start the cluster as your site does (`dask-jobqueue`, or `dask scheduler` and `dask worker` in a job) and
# give its address to `sift-graph analyze RUNS --scheduler tcp://HOST:8786`.
