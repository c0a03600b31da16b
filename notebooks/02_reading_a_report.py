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
# # Reading a report
#
# `sift-graph report` writes one page that needs neither a network nor a script. This notebook makes the same page for a
# small study, and goes through what stands on it, figure by figure: what each shows, and what it does not.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

import sift_graph as sg
from sift_graph import plots, report, train
from sift_graph.correlate import correlate

sns.set_theme(style="whitegrid", context="notebook")
root = Path(tempfile.mkdtemp())

# %%
for sparsity in (0.5, 0.9):
    for method in ("static", "rigl"):
        for seed in (0, 1):
            config = train.load_config(
                family="sparse_wide",
                sparsity=sparsity,
                method=method,
                seed=seed,
                sets=[
                    "model.width=4",
                    "data.train_samples=300",
                    "data.noise=0.7",
                    "training.epochs=5",
                    "masks.every=5",
                ],
            )
            train.run(config, root / f"{method}-{sparsity}-{seed}")

layers, network = sg.analyze(root), sg.network(root)
nulls = pd.concat([sg.open(path).nulls("degree", samples=20) for path in sorted(root.iterdir())])
table = correlate(network, target="val_accuracy", n_boot=300)
page = report.write_report(
    layers, network, root / "report.html", correlations=table, nulls=nulls, title="A small study"
)
print(f"{layers['run'].nunique()} runs, {len(layers)} rows, {page.stat().st_size / 1e3:.0f} kB in one file")

# %% [markdown]
# ## The verdict on the bound
#
# The first card counts layers that pass $\sqrt{d_L - 1} + \sqrt{d_R - 1}$ at the last step. `yes` and `no` are proven;
# `undecided` means that the bound lies within the error of $\sigma_2$. Passing or failing is not good or bad in itself:
# random masks of low density pass narrowly, trained ones often fail because their degrees became uneven.

# %%
last = layers[layers["step"] == layers.groupby("run")["step"].transform("max")]
sparse = last[last["density"] < 1]
sparse.groupby(["method", "sparsity"])["is_ramanujan"].value_counts().unstack(fill_value=0)

# %% [markdown]
# ## The gap over training
#
# One line a method, over seeds; dashed, a random mask. A static mask keeps the gap it began with. Where the line of a
# dynamic method leaves the dashed one, its masks stopped being random.

# %%
fig, axes = plt.subplots(1, 2, figsize=(12, 3.8))
for ax, s in zip(axes, (0.5, 0.9), strict=True):
    plots.gap_over_time(layers[layers["sparsity"] == s], ax=ax)
    ax.set_title(f"s = {s}")
fig.tight_layout()

# %% [markdown]
# ## By layer
#
# Means hide which layer it was. Small shortcuts have few inputs, and their gaps vary most.

# %%
fig, ax = plt.subplots(figsize=(10, 3.8))
plots.layer_profile(last[last["sparsity"] == 0.9], ax=ax)
fig.tight_layout()

# %% [markdown]
# ## Beside random masks
#
# Each point is a layer's last mask among random masks with its degrees. Within the band it is one of them: the degrees
# explain its gap.

# %%
fig, ax = plt.subplots(figsize=(10, 3.8))
plots.null_profile(nulls, ax=ax)
fig.tight_layout()

# %% [markdown]
# ## With accuracy
#
# Three estimates for each metric: pooled, at fixed sparsity, given density. With so few runs the intervals say that
# nothing can be said, which is the right answer. Believe what survives all three columns, has a narrow interval, and
# was asked before the data were seen.

# %%
fig, ax = plt.subplots(figsize=(8, 5))
plots.correlation_forest(table, ax=ax)
fig.tight_layout()

# %% [markdown]
# ## What is at the foot
#
# The layer table (sortable where scripts run), what each column means and when it is NaN, the command, versions and the
# hash of the settings. NaN always comes with a word in `note`; coverage says how many layers a mean rests on:

# %%
sparse.groupby("sparsity")[["edge_coverage", "n_subgraphs"]].describe().round(2).T.loc[
    (slice(None), ["mean", "min"]), :
]
