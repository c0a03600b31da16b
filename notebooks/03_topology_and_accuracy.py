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
# # Topology and accuracy, with density controlled
#
# Papers report that expansion goes with accuracy. Over masks of different density it must: density drives both. This
# notebook asks the question twice, pooled and at fixed density, on a study of Sparse Wide networks.
#
# It reads the study that `make demo` leaves in `runs/demo`, or the one that `SIFT_GRAPH_STUDY` names; where there is
# none, it trains a smaller one.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

import sift_graph as sg
from sift_graph import plots
from sift_graph.correlate import correlate

sns.set_theme(style="whitegrid", context="notebook")

study = Path(os.environ.get("SIFT_GRAPH_STUDY", "../runs/demo"))
if not study.is_dir():
    from sift_graph import train

    study = Path(tempfile.mkdtemp())
    for s in (0.5, 0.75, 0.9):
        for method in ("static", "rigl"):
            for seed in (0, 1):
                config = train.load_config(
                    family="sparse_wide",
                    sparsity=s,
                    method=method,
                    seed=seed,
                    sets=[
                        "model.width=4",
                        "data.train_samples=300",
                        "data.noise=0.7",
                        "training.epochs=16",
                        "masks.every=4",
                    ],
                )
                train.run(config, study / f"{method}-{s}-{seed}")

# %%
layers = sg.analyze(study)
network = sg.network(study)
last = network.loc[network.groupby("run")["step"].idxmax()]
print(f"{last['run'].nunique()} runs, {len(layers):,} measured masks")

# %% [markdown]
# ## What the runs reached

# %%
fig, ax = plt.subplots(figsize=(9, 3.8))
plots.accuracy_by_group(network, ax=ax)
fig.tight_layout()

# %% [markdown]
# ## What happens to the gap
#
# A static mask keeps the gap that it began with. The dashed line is the limit for large random masks of its density;
# small layers start below it.

# %%
sparse = layers[layers["family"] != "dense"]
levels = sorted(sparse["sparsity"].unique())
fig, axes = plt.subplots(1, len(levels), figsize=(4 * len(levels), 3.6), squeeze=False)
for ax, level in zip(axes.flat, levels, strict=True):
    plots.gap_over_time(sparse[sparse["sparsity"] == level], ax=ax)
    ax.set_title(f"s = {level}")
fig.tight_layout()

# %% [markdown]
# ## The same correlation, three ways
#
# Pooled over sparsities, within sparsity, and given the mean layer density. If the second and third shrink to nothing,
# the first was density. `mean_density` stands in the table as a metric of its own: a spectral metric has to beat it.

# %%
table = correlate(network, target="val_accuracy")
rho = table[(table["statistic"] == "spearman") & (table["view"] != "fixed sparsity")]
cells = rho.assign(
    value=["–" if pd.isna(r.estimate) else f"{r.estimate:+.2f} [{r.lo:+.2f}, {r.hi:+.2f}]" for r in rho.itertuples()]
)
cells.pivot(index="metric", columns="view", values="value").reindex(rho["metric"].unique())[rho["view"].unique()]

# %%
fig, ax = plt.subplots(figsize=(8, 5))
plots.correlation_forest(table, ax=ax)
fig.tight_layout()

# %% [markdown]
# ## Look at the points
#
# Colour is sparsity. A trend across the colours that is absent within each of them is the confounder at work.

# %%
points = last[last["family"] != "dense"]
grid = sns.lmplot(
    data=points,
    x="ramanujan_gap_norm",
    y="final_val_accuracy",
    hue="sparsity",
    palette="viridis",
    height=4,
    aspect=1.5,
    ci=None,
)
sns.regplot(
    data=points, x="ramanujan_gap_norm", y="final_val_accuracy", scatter=False, color="0.5", ci=None, ax=grid.ax
)
grid.set_axis_labels("mean Ramanujan gap / bound", "validation accuracy")
grid.ax.set_title("Grey: pooled. Colours: at fixed sparsity.")
plt.show()
