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
# # The density of states
#
# Two singular values are a summary; the whole spectrum says *what kind* of graph a mask is. Small layers are
# decomposed. For large ones the density is estimated by stochastic Lanczos quadrature, with an error band, and held
# against two laws: Marchenko–Pastur (independent random entries) and Kesten–McKay (a random graph with these degrees
# everywhere).

# %%
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

import sift_graph as sg
from sift_graph import nulls, plots
from sift_graph.spectrum import density_of_states, kesten_mckay_density, singular_values

sns.set_theme(style="whitegrid", context="notebook")
rng = np.random.default_rng(0)


def graph_of(name, mask):
    return sg.BipartiteGraph.from_mask(sg.LayerMask.from_dense(name, mask))


# %% [markdown]
# ## Four kinds of mask, one density

# %%
n_out, n_in, p = 300, 900, 0.05
hubs = np.outer(rng.lognormal(0, 0.7, n_out), rng.lognormal(0, 0.7, n_in)) * rng.exponential(size=(n_out, n_in))
half = (np.arange(n_out)[:, None] < n_out // 2) == (np.arange(n_in) < n_in // 2)
stripes = (np.arange(n_out)[:, None] + np.arange(n_in)) % round(1 / p) == 0
masks = {
    "random entries": rng.random((n_out, n_in)) < p,
    "equal degrees": nulls.rewire(sg.LayerMask.from_dense("regular", stripes), rng).mask,
    "hubs": hubs >= np.quantile(hubs, 1 - p),
    "two communities": rng.random((n_out, n_in)) < np.where(half, 1.8 * p, 0.2 * p),
}
graphs = {name: graph_of(name, mask) for name, mask in masks.items()}

fig, axes = plt.subplots(2, 2, figsize=(12, 7.5))
for ax, (name, graph) in zip(axes.flat, graphs.items(), strict=True):
    plots.spectral_density(graph, bound=sg.measure(masks[name])["bound"], ax=ax)
    ax.set_title(name)
fig.tight_layout()

# %% [markdown]
# Equal degrees follow Kesten–McKay and end at the bound; independent entries follow Marchenko–Pastur and end near it;
# hubs have a tail that neither law knows; communities keep the bulk of a random mask and put one value outside.
#
# ## How far from each law
#
# The distance between the distribution of the singular values and a law's (the largest difference of their cumulative
# curves), over the bulk.


# %%
def distance(graph, law):
    sigma = np.sort(singular_values(graph))[:-1]
    grid = np.linspace(0, 1.2 * sigma[-1], 4000)
    mass = np.cumsum(law(grid)) * (grid[1] - grid[0])
    return float(np.abs(np.searchsorted(sigma, grid, side="right") / len(sigma) - mass / mass[-1]).max())


for name, graph in graphs.items():
    degrees = graph.mean_left_degree, graph.mean_right_degree
    print(
        f"{name:16s} distance to Kesten-McKay {distance(graph, lambda s, d=degrees: kesten_mckay_density(s, *d)):.3f}"
    )

# %% [markdown]
# ## A layer too large to decompose often
#
# The estimate multiplies by the mask a few dozen times for each of a few random vectors; the band is its error.

# %%
big = graph_of("large", rng.random((1200, 6000)) < 0.03)
found = density_of_states(big, rng=np.random.default_rng(1))
exact = singular_values(big)
fig, ax = plt.subplots(figsize=(8, 3.8))
plots.spectral_density(big, ax=ax)
counts, edges = np.histogram(exact[exact < exact.max()], bins=60, density=True)
ax.stairs(counts, edges, color="0.4", label="all singular values")
ax.set_title(f"{big.n_right} x {big.n_left}: estimated by {found.method}")
ax.legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# On the command line: `sift-graph show RUN --layer NAME --figure spectrum.svg --density`.
