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
# # Quickstart: from a mask to a verdict
#
# A layer's mask is a bipartite graph: inputs on the left, outputs on the right, an edge for each weight that is kept.
# This notebook measures one mask, then trains a small sparse network on real images, records its masks as they move,
# and looks at what happened to them. It needs no GPU and no download.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

import sift_graph as sg
from sift_graph import plots, train

sns.set_theme(style="whitegrid", context="notebook")
root = Path(tempfile.mkdtemp())

# %% [markdown]
# ## One mask
#
# `measure` takes a mask in the weight's own shape, as an array or a tensor, and returns every metric by name. The
# Ramanujan gap is the bound $\sqrt{d_L - 1} + \sqrt{d_R - 1}$ minus the mask's second singular value: at least 0 means
# that the graph is as good an expander as its degrees allow.

# %%
rng = np.random.default_rng(0)
shape, density = (64, 32, 3, 3), 0.1
random_mask = rng.random(shape) < density

values = sg.measure(random_mask, rng.standard_normal(shape))
{name: values[name] for name in ("edges", "sigma_1", "sigma_2", "bound", "ramanujan_gap_norm", "is_ramanujan")}

# %% [markdown]
# Now a mask of the same density in two communities: nine edges of ten join inputs and outputs of the same half. A step
# of a random walk rarely crosses over, and the second singular value says so: it leaves the bound behind.

# %%
half_out, half_in = (np.arange(n) < n // 2 for n in shape[:2])
same_half = (half_out[:, None] == half_in)[..., None, None]
community_mask = rng.random(shape) < np.where(same_half, 1.8 * density, 0.2 * density)

masks = {"random": random_mask, "two communities": community_mask}
fig, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True)
for ax, (name, mask) in zip(axes, masks.items(), strict=True):
    graph = sg.BipartiteGraph.from_mask(sg.LayerMask.from_dense(name, mask))
    facts = sg.measure(mask)
    sigma = sg.spectrum.singular_values(graph)
    plots.spectrum_histogram(
        sigma, facts["bound"], density=facts["density"], n_left=graph.n_left, n_right=graph.n_right, ax=ax
    )
    ax.set_title(f"{name}: gap/bound {facts['ramanujan_gap_norm']:+.2f}")
fig.tight_layout()

# %% [markdown]
# ## A run
#
# The bundled trainer makes a Sparse Wide network: wider by $1/\sqrt{1-s}$ and sparse by $s$, so that it costs the same
# multiply-accumulates as the dense one. RigL moves its masks; the recorder keeps each of them.

# %%
config = train.load_config(
    family="sparse_wide",
    sparsity=0.9,
    method="rigl",
    sets=["model.width=4", "data.train_samples=300", "data.noise=0.7", "training.epochs=20", "masks.every=6"],
)
result = train.run(config, root / "rigl")
print(result.headline())

# %%
run = sg.open(result.run_dir)
run

# %%
frame = run.analyze()
frame[frame["step"] == frame["step"].max()][
    ["layer", "n_left", "n_right", "density", "sigma_2", "bound", "ramanujan_gap_norm", "excess_gap", "is_ramanujan"]
].round(3)

# %% [markdown]
# The dashed line is the limit for large random masks of the same density, $1 - \sqrt{1 - p}$. Layers as small as these
# start below it although their first mask is random: compare later steps with the first, too.

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 3.8))
plots.gap_over_time(frame, ax=axes[0])
plots.mask_dynamics(frame, ax=axes[1])
fig.tight_layout()

# %% [markdown]
# ## The same, in your own training loop
#
# ```python
# with sg.MaskRecorder("runs/mine", every=100).attach(model, optimizer):
#     train()
# ```
#
# finds the masks of `torch.nn.utils.prune`, `torch.ao.pruning` and others; `recorder.snapshot(step, masks)` takes them
# from anywhere else. Each layer is also one call away as a scipy matrix or a networkx graph:

# %%
graph = run.graph("stage3.0.conv1")
degrees = graph.left_degree
fig, ax = plt.subplots(figsize=(6, 3.4))
sns.histplot(x=degrees, discrete=True, ax=ax)
ax.set(xlabel="edges at an input (channel and kernel position)", ylabel="inputs", title=graph.layer)
print(graph.to_csr().shape, graph.to_networkx().number_of_edges(), "edges,", graph.components[0], "component(s)")
