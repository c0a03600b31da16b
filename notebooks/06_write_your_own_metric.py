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
# # Write your own metric
#
# A metric is a function of a layer and a line about it. Registered, it is a column like any other: in `measure`, in
# tables, in correlations, beside random masks.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

import sift_graph as sg
from sift_graph import nulls, train
from sift_graph.metrics import Layer, Metric, Undefined, register

sns.set_theme(style="whitegrid", context="notebook")

# %% [markdown]
# ## The question
#
# Are some outputs near copies of each other? For each output take the most similar other one, by the share of inputs
# that both read (Jaccard), and average. Two outputs that read the same inputs can still differ by their weights, but
# they have less to disagree about.


# %%
def nearest_twin(layer: Layer) -> float:
    """Mean over outputs of the largest Jaccard similarity with another output."""
    degree = layer.graph.right_degree
    active = degree > 0
    if active.sum() < 2:
        raise Undefined("too_small")
    inputs_by_outputs = layer.graph.to_csr()[:, np.flatnonzero(active)]
    common = (inputs_by_outputs.T @ inputs_by_outputs).toarray()
    either = degree[active][:, None] + degree[active] - common
    similarity = common / either
    np.fill_diagonal(similarity, 0)
    return float(similarity.max(axis=1).mean())


register(
    Metric(
        "nearest_twin",
        nearest_twin,
        "mean over outputs of max Jaccard with another output",
        "[0, 1]",
        undefined="fewer than two outputs with an edge",
    )
)
# %% [markdown]
# ## A check before use
#
# By hand: the first two of these outputs share one of three inputs, the third shares nothing with anybody.

# %%
tiny = [[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
value = sg.measure(tiny, metrics=["nearest_twin"])["nearest_twin"]
assert np.isclose(value, (1 / 3 + 1 / 3 + 0) / 3)
sg.measure(np.zeros((3, 5)), metrics=["nearest_twin"])  # not a crash: NaN, with the word in the note

# %% [markdown]
# ## A column like any other
#
# On a recorded run it stands beside the core metrics. Here: does RigL make outputs alike?

# %%
root = Path(tempfile.mkdtemp())
frames = []
for method in ("static", "rigl"):
    config = train.load_config(
        family="sparse_wide",
        sparsity=0.9,
        method=method,
        sets=["model.width=4", "data.train_samples=300", "data.noise=0.7", "training.epochs=16", "masks.every=6"],
    )
    train.run(config, root / method)
frame = sg.analyze(root, metrics=["core", "nearest_twin"])
last = frame[frame["step"] == frame["step"].max()]
last.pivot(index="layer", columns="method", values="nearest_twin").round(3)

# %%
fig, axes = plt.subplots(1, 2, figsize=(12, 3.8))
sns.lineplot(data=frame, x="step", y="nearest_twin", hue="method", errorbar=None, ax=axes[0])
axes[0].set(ylabel="similarity, mean over layers", title="Over training")
sns.scatterplot(data=last, x="mean_right_degree", y="nearest_twin", hue="method", ax=axes[1])
axes[1].set(xlabel="mean inputs of an output", ylabel="similarity of the nearest twin", title="By layer")
fig.tight_layout()

# %% [markdown]
# ## More than density and degrees give?
#
# Outputs that read only a few of few inputs must often coincide, and uneven degrees make it worse. Random masks
# with the same degrees say how often.

# %%
run = sg.open(root / "rigl")
names = [name for name in run.layers if sg.measure(run.mask(name))["density"] < 1]
scores = {name: nulls.compare(run.mask(name), "degree", metrics=["nearest_twin"], samples=20) for name in names}
z = {name: found["nearest_twin"].z for name, found in scores.items()}
fig, ax = plt.subplots(figsize=(7, 3.4))
sns.barplot(x=list(z), y=list(z.values()), color="C0", ax=ax)
ax.axhspan(-2, 2, color="0.85", zorder=0)
ax.set(ylabel="z, 20 random masks", xlabel="")
ax.tick_params(axis="x", rotation=45)
fig.tight_layout()

# %% [markdown]
# In a package of yours an entry point makes the metric known to the command line as well; the page "write a metric" of
# the docs shows the two lines.
