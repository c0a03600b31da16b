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
# # Spectral metrics against accuracy, across the Sparse-IFT families
#
# Papers report that expansion goes with accuracy. Over masks of different density it must: density drives both. This
# notebook asks the question with density, sparsity and cell held fixed, on the runs of `analysis/observational`: four
# families, three sparsities, five methods, ten seeds on noisy digits. A study of your own is
# `sg.network("runs/mine")` in place of the table read here.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from sift_graph import plots
from sift_graph.correlate import conclusions, correlate
from sift_graph.prediction import held_out, sentence

sns.set_theme(style="whitegrid", context="notebook")

runs = pd.read_csv(Path("../analysis/observational/results.csv"))
sparse = runs[runs["family"] != "dense"]
print(f"{len(runs)} runs, {sparse['family'].nunique()} families, {sparse['method'].nunique()} methods")

# %% [markdown]
# ## What the runs reached

# %%
grid = sns.catplot(
    data=sparse, x="sparsity", y="final_val_accuracy", hue="method", col="family", col_wrap=2, kind="point", dodge=0.4,
    linestyles="none", height=3, aspect=1.5,
)  # fmt: skip
dense = runs.loc[runs["family"] == "dense", "final_val_accuracy"].mean()
grid.refline(y=dense, linestyle="--")
grid.set_axis_labels("sparsity", "validation accuracy")
plt.show()

# %% [markdown]
# Dashed, the dense model of the same base width. Families differ far more than methods do, and they differ in their
# masks too, being wider, more or fewer: any metric that tells families apart will correlate with accuracy.
#
# ## The same correlation, held fixed step by step
#
# Pooled; at fixed sparsity; given the mean layer density as well; and between seeds of one family, method and
# sparsity. `mean_density` stands in the table as a metric of its own: a spectral metric has to beat it.

# %%
table = correlate(runs, target="val_accuracy", n_boot=200)
views = ["pooled", "within sparsity", "partial given mean_density and sparsity", "within family, method and sparsity"]
rho = table[(table["statistic"] == "spearman") & table["view"].isin(views)]
cells = rho.assign(
    value=["–" if pd.isna(r.estimate) else f"{r.estimate:+.2f} [{r.lo:+.2f}, {r.hi:+.2f}]" for r in rho.itertuples()]
)
cells.pivot(index="metric", columns="view", values="value").reindex(rho["metric"].unique())[views]

# %%
fig, ax = plt.subplots(figsize=(8, 5))
plots.correlation_forest(table, ax=ax)
fig.tight_layout()

# %% [markdown]
# ## Look at the points
#
# Colour is sparsity, a panel a family. A trend across panels that is absent within each of them is the family at
# work.

# %%
grid = sns.relplot(
    data=sparse, x="ramanujan_gap_norm", y="final_val_accuracy", hue="sparsity", col="family", col_wrap=2,
    palette="viridis", height=3, aspect=1.5, s=18,
)  # fmt: skip
grid.set_axis_labels("mean Ramanujan gap / bound", "validation accuracy")
plt.show()

# %% [markdown]
# ## Can topology rank a family that was not seen?
#
# A ridge regression on all metrics learns from three families and orders the runs of the fourth; beside it the same
# on density, and on density and sparsity.

# %%
metrics = [name for name in table["metric"].unique() if name in runs]
predictions = pd.concat([held_out(runs, left_out=column, metrics=metrics) for column in ("family", "method")])
print(sentence(predictions[predictions["left_out"] == "family"]))
print(sentence(predictions[predictions["left_out"] == "method"]))
fig, axes = plt.subplots(1, 2, figsize=(12, 3.6), sharey=True)
for ax, (name, part) in zip(axes, predictions.groupby("left_out"), strict=True):
    sns.barplot(data=part, x="group", y="tau", hue="model", ax=ax)
    ax.axhline(0, color="0.4", linewidth=0.9)
    ax.set(title=f"each {name} left out", xlabel="", ylabel="Kendall's tau, held out")
    ax.tick_params(axis="x", rotation=30)
fig.tight_layout()

# %% [markdown]
# ## What may be concluded

# %%
for line in conclusions(table).values():
    print(line)

# %% [markdown]
# All of this is observational: nobody assigned these masks at random. The next question, what happens if the gap
# alone is turned, is that of [the controlled experiment](05_the_controlled_experiment.ipynb).
