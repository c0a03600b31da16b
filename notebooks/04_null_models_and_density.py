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
# # Null models and density control
#
# A gap by itself says little: density alone moves it. Two remedies: hold each mask against random masks that share its
# density, or its degrees; and in a correlation with accuracy, take density out. Both are shown here on masks whose
# structure we know, because we made them.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

import sift_graph as sg
from sift_graph import nulls, plots

sns.set_theme(style="whitegrid", context="notebook")
rng = np.random.default_rng(1)
n_out, n_in = 96, 288

# %% [markdown]
# ## Density moves the gap
#
# Uniformly random masks, no structure at all. The normalised gap follows the density; the curve is
# $1 - \sqrt{1 - p}$, the limit for large layers.

# %%
densities = np.repeat([0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9], 20)
gaps = [sg.measure(rng.random((n_out, n_in)) < p)["ramanujan_gap_norm"] for p in densities]
line = np.linspace(0.02, 0.95, 100)
fig, ax = plt.subplots(figsize=(6, 3.6))
sns.scatterplot(x=densities, y=gaps, ax=ax, label="random masks")
ax.plot(line, [sg.bounds.random_gap_norm(p) for p in line], color="0.4", label=r"$1 - \sqrt{1 - p}$")
ax.set(xlabel="density", ylabel="Ramanujan gap / bound")
ax.legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# Whatever rises with density will therefore rise with the gap. Suppose accuracy depends on density only:

# %%
accuracy = 0.6 + 0.2 * densities**0.5 + 0.01 * rng.standard_normal(len(densities))
points = pd.DataFrame({"density": densities, "gap": gaps, "accuracy": accuracy})
within = points.groupby("density")[["gap", "accuracy"]].apply(lambda g: g.rank().corr().iloc[0, 1])
print(f"pooled rank correlation of gap and accuracy: {points[['gap', 'accuracy']].rank().corr().iloc[0, 1]:+.2f}")
print(f"mean within a density:                       {within.mean():+.2f}")

# %% [markdown]
# The pooled number is high and means nothing about topology. `sift-graph correlate` therefore prints both, always.
#
# ## Four masks of one density
#
# Random; with hubs (inputs and outputs with more edges than others, and random apart from that); with two communities;
# with equal degrees everywhere.

# %%
p = 0.15


def shuffled(mask):
    """Move the edges at random, all degrees kept."""
    return nulls.rewire(sg.LayerMask.from_dense("layer", mask), rng).mask


attraction = np.outer(rng.lognormal(0, 1, n_out), rng.lognormal(0, 1, n_in)) * rng.exponential(size=(n_out, n_in))
half = (np.arange(n_out)[:, None] < n_out // 2) == (np.arange(n_in) < n_in // 2)
stripes = (np.arange(n_out)[:, None] + np.arange(n_in)) % round(1 / p) == 0
masks = {
    "random": rng.random((n_out, n_in)) < p,
    "hubs": shuffled(attraction >= np.quantile(attraction, 1 - p)),
    "communities": rng.random((n_out, n_in)) < np.where(half, 1.8 * p, 0.2 * p),
    "regular": shuffled(stripes),
}

# %%
rows = []
for name, mask in masks.items():
    for model in ("er", "degree"):
        found = nulls.compare(sg.LayerMask.from_dense(name, mask), model, samples=40)["ramanujan_gap_norm"]
        row = {"mask": name, "density": mask.mean(), "against": model, "gap": found.observed}
        rows.append(row | {"random": found.mean, "z": found.z, "p": found.p})
table = pd.DataFrame(rows)
table.round(3)

# %% [markdown]
# Against `er` (same density) hubs and communities both look bad. Against `degree` (same degrees) the hubs are forgiven:
# their gap is what their degrees explain. The communities are not: their edges are placed badly whatever the degrees.

# %%
fig, ax = plt.subplots(figsize=(7, 3.6))
shown = table.assign(z=table["z"].clip(-60, 60))
sns.barplot(data=shown, x="mask", y="z", hue="against", ax=ax)
ax.axhspan(-2, 2, color="0.85", zorder=0)
ax.set_yscale("symlog", linthresh=2)
ax.set(xlabel="", ylabel="z of the gap, 40 random masks")
ax.legend(title="null model", frameon=False)
fig.tight_layout()

# %% [markdown]
# ## What the spectra look like
#
# Hubs stretch the whole upper end of the spectrum; communities put one value outside of an otherwise random bulk.

# %%
fig, axes = plt.subplots(1, 4, figsize=(15, 3.2), sharey=True)
for ax, (name, mask) in zip(axes, masks.items(), strict=True):
    graph = sg.BipartiteGraph.from_mask(sg.LayerMask.from_dense(name, mask))
    plots.spectrum_histogram(sg.spectrum.singular_values(graph), sg.measure(mask)["bound"], ax=ax)
    ax.set_title(name)
fig.tight_layout()

# %% [markdown]
# On a recorded run the same comparison is `run.nulls("degree")`, or `sift-graph analyze RUN --null degree` for all its
# layers. With 40 samples $p$ cannot fall below $2/41$, and many layers are many tests.
