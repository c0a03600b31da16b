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
# # The controlled experiment
#
# Does a mask's gap *make* a network accurate, or only go along with what does? Correlations cannot say. Here the gap
# was set: static masks of equal density and equal fan-in, their structure turned like a dial, twenty paired seeds a
# level. The results are those of `analysis/controlled`; first, the masks themselves.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

import sift_graph as sg
from sift_graph.sparsify.constructions import construct

sns.set_theme(style="whitegrid", context="notebook")

# %% [markdown]
# ## The dials
#
# Each mask below has the same number of edges, and every output the same number of inputs.

# %%
shape, count = (26, 26, 3, 3), 26 * 24
levels = {
    "random": ("community", 0.0),
    "communities": ("community", 0.9),
    "hubs": ("hubs", 2.0),
    "low overlap": ("low_overlap", 0.0),
    "same positions": ("same_positions", 0.0),
}
rows = []
fig, axes = plt.subplots(1, len(levels), figsize=(15, 3.2))
for ax, (name, (kind, strength)) in zip(axes, levels.items(), strict=True):
    mask = construct(kind, shape, count, np.random.default_rng(0), strength=strength)
    found = sg.measure(mask)
    rows.append(
        {"mask": name} | {k: found[k] for k in ("edges", "n_left_isolated", "sigma_2", "bound", "ramanujan_gap_norm")}
    )
    ax.imshow(mask.sum(axis=(2, 3)), cmap="Greys", vmin=0, vmax=4)
    ax.set(title=name, xlabel="input channel", ylabel="output" if name == "random" else "", xticks=[], yticks=[])
fig.tight_layout()
pd.DataFrame(rows).round(3)

# %% [markdown]
# ## Dose and response
#
# Accuracy less that of the random mask, seed by seed, against the gap that the masks had.

# %%
here = Path("../analysis/controlled")
runs = pd.read_csv(here / "results.csv")
base = runs[runs["structure"] == "random"].set_index(["model", "seed"])["accuracy"].rename("random")
paired = runs.join(base, on=["model", "seed"])
paired["difference"] = paired["accuracy"] - paired["random"]
level = paired.groupby(["model", "structure", "strength"])
summary = level.agg(
    gap=("ramanujan_gap_norm", "mean"),
    dead=("dead_inputs", "mean"),
    difference=("difference", "mean"),
    sem=("difference", "sem"),
    seeds=("seed", "count"),
).reset_index()

fig, axes = plt.subplots(1, 2, figsize=(13, 4.4), sharey=True)
for ax, quantity, words in (
    (axes[0], "gap", "mean Ramanujan gap / bound"),
    (axes[1], "dead", "share of inputs without an edge"),
):
    sns.scatterplot(
        data=summary, x=quantity, y="difference", hue="structure", style="model", s=70, ax=ax, legend=ax is axes[1]
    )
    ax.errorbar(summary[quantity], summary["difference"], yerr=2 * summary["sem"], fmt="none", ecolor="0.6", zorder=0)
    ax.axhline(0, color="0.4", linewidth=0.9)
    ax.set(xlabel=words, ylabel="accuracy less that of the random mask")
axes[1].legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
fig.tight_layout()

# %% [markdown]
# On the left nothing is ordered by the gap: communities move it far and accuracy stays. On the right something is:
# what costs accuracy is inputs that nobody reads.
#
# ## Which of the two, together
#
# A regression of accuracy on both, within seeds and networks.

# %%
columns = ["accuracy", "ramanujan_gap_norm", "dead_inputs"]
within = runs[columns] - runs.groupby(["model", "seed"])[columns].transform("mean")
design = within[["ramanujan_gap_norm", "dead_inputs"]].to_numpy()
slopes, *_ = np.linalg.lstsq(design, within["accuracy"].to_numpy(), rcond=None)
resampled = []
groups = within.groupby([runs["model"], runs["seed"]]).indices
keys = list(groups)
for draw in range(500):
    chosen = np.concatenate([groups[keys[i]] for i in np.random.default_rng(draw).integers(len(keys), size=len(keys))])
    resampled.append(np.linalg.lstsq(design[chosen], within["accuracy"].to_numpy()[chosen], rcond=None)[0])
lo, hi = np.quantile(resampled, [0.025, 0.975], axis=0)
for name, slope, low, high in zip(("gap / bound", "dead inputs"), slopes, lo, hi, strict=True):
    print(f"accuracy per unit of {name:12s} {slope:+.4f}  [{low:+.4f}, {high:+.4f}]")

# %% [markdown]
# ## Its limits
#
# Tiny networks on images of 8 by 8, one density, static masks, two communities. A gap that counts only the vertices
# with an edge rises when inputs die: read it beside `n_left_isolated`. Rerun it larger: `make study-controlled`,
# after editing the grids.
