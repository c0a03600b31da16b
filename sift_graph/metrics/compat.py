"""The columns of the published codes, what is wrong with each said in its row; the functions stand in `published`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sift_graph.bounds import spectral_bound
from sift_graph.metrics import iterative
from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Laws, Metric
from sift_graph.metrics.published import (
    fs_gap,
    fs_imdb,
    fs_imsg,
    fs_mixing,
    fs_norm4,
    fs_weighted_gap,
    mge_degree_bound,
    mge_delta_r,
    mge_imdb,
    mge_imsg,
    mge_spectral_gap,
    v0_gap,
    v0_imdb,
    v0_imsg,
    vita,
    vita_gap,
    vita_largest_expansion,
    vita_mean,
    vita_random_factor,
    vita_spectral_gap,
    vita_stable,
)

__all__ = ["COMPAT", "COMPAT_METRICS"]

VITA, MGE, FS = "Hoang et al., ICLR 2023, code", "Cunegatti et al., TMLR 2024, code", "Hoang et al., NeurIPS 2023, code"
GATE3 = "no edges, or a mean degree below 3"
NONE = "no edges, or no subgraph passes the gates"
WHERE_IS = "golden mask"


def rows(
    prefix: str, group: str, source: str, cost: str, *lines: tuple[str, Callable[[Layer], Any], str, str, str, Laws]
) -> tuple[Metric, ...]:
    """Make the columns of one code: name, function, formula, when undefined, what is wrong with it, laws."""
    return tuple(
        Metric(
            f"{prefix}_{name}",
            compute,
            formula,
            "(-inf, inf)",
            undefined,
            source,
            needs="weight",
            group=group,
            cost=cost,
            predicts=fault,
            oracle=WHERE_IS,
            laws=laws,
        )
        for name, compute, formula, undefined, fault, laws in lines
    )


SAME = Laws(accuracy=1e-7)
ONE_SIDED = Laws(transposed=None, accuracy=1e-7)
SIZED = Laws(padded=False, transposed=None, accuracy=1e-7)
HALF = Laws(degree=None, transposed=None, accuracy=1e-7)
SIGNED = Laws(transposed=None, accuracy=1e-7)
TOPOLOGY = "newborn edges of weight 0 are lost; groups are flattened"

COMPAT_METRICS = (
    *rows(
        "vita",
        "vita",
        VITA,
        "compat",
        ("sm", vita_spectral_gap, "2 sqrt(sigma_1 - 1) - sigma_2", GATE3, TOPOLOGY, SAME),
        ("sm_ub", lambda y: spectral_bound(vita(y).binary.sigma_1), "2 sqrt(sigma_1 - 1)", GATE3, TOPOLOGY, SAME),
        (
            "sm_norm",
            lambda y: vita_spectral_gap(y) / spectral_bound(vita(y).binary.sigma_1),
            "sm / sm_ub",
            GATE3,
            TOPOLOGY,
            SAME,
        ),
        ("rm", vita_gap, "B - sigma_2", GATE3, TOPOLOGY, SAME),
        ("rm_ub", lambda y: vita(y).bound, "B", GATE3, TOPOLOGY, SAME),
        ("rm_norm", lambda y: vita_gap(y) / vita(y).bound, "(B - sigma_2) / B", GATE3, TOPOLOGY, SAME),
        ("t1", lambda y: vita(y).binary.sigma_1, "sigma_1", GATE3, TOPOLOGY, SAME),
        ("t2", lambda y: vita(y).binary.sigma_2, "sigma_2", GATE3, TOPOLOGY, SAME),
        ("ep", lambda y: vita(y).n_right_active / vita(y).n_left_active, "n_R+ / n_L+", GATE3, TOPOLOGY, ONE_SIDED),
        (
            "random_factor",
            vita_random_factor,
            "((sigma_2^2 / 4 + 1) sqrt(n_L+ n_R+) - |2E - d_L n_L+ n_R+ / n_R|) / (n_L n_R)",
            GATE3,
            "edges are counted twice: a complete layer is called random",
            SIZED,
        ),
        (
            "ism",
            vita_mean(iterative.spectral),
            "mean over d of 2 sqrt(sigma_1 - 1) - sigma_2",
            NONE,
            TOPOLOGY,
            ONE_SIDED,
        ),
        ("ism_norm", vita_mean(iterative.spectral_norm), "mean of the ratios", NONE, TOPOLOGY, ONE_SIDED),
        ("irm", vita_mean(iterative.gap), "mean over d of B_d - sigma_2", NONE, TOPOLOGY, ONE_SIDED),
        (
            "irm_norm",
            vita_mean(iterative.gap_norm),
            "mean of the ratios: what is plotted as IMDB",
            NONE,
            TOPOLOGY,
            ONE_SIDED,
        ),
        ("imax_ep", vita_largest_expansion, "max over d of n_R,d+ / n_d", NONE, TOPOLOGY, ONE_SIDED),
        ("i_mean_ep", vita_mean(iterative.expansion), "mean over d of n_R,d+ / n_d", NONE, TOPOLOGY, ONE_SIDED),
        (
            "num_sub_regulars",
            vita_mean(iterative.expansion),
            "i_mean_ep once more",
            NONE,
            "the published tables hold a copy of i_mean_ep here: the number of subgraphs is lost",
            ONE_SIDED,
        ),
    ),
    *rows(
        "vita_stable",
        "vita_stable",
        VITA.replace("code", "tables"),
        "compat",
        (
            "irm_norm",
            vita_stable,
            "irm_norm, or rm_norm where that is undefined",
            "no edges, or both undefined",
            "two different quantities in one column",
            ONE_SIDED,
        ),
    ),
    *rows(
        "mge",
        "mge",
        MGE,
        "compat",
        (
            "degree_bound",
            mge_degree_bound,
            "(B - sigma_2) / B; -inf where B = 0",
            "no edges, or 3 vertices or fewer",
            "weights below 3e-8 are lost in half precision; groups are flattened",
            HALF,
        ),
        ("imdb", mge_imdb, "mean over d of the ratios, no gate on the count", NONE, "as degree_bound", HALF),
        (
            "imsg",
            mge_imsg,
            "mean over d of the weighted gaps",
            NONE,
            "weights rounded to half precision, and random ones in the published tables",
            HALF,
        ),
        (
            "spectral_gap",
            mge_spectral_gap,
            "sigma_1(A) - sigma_2(A)",
            "no edges, no weights, or 3 vertices or fewer",
            "as imsg",
            HALF,
        ),
    ),
    *rows(
        "mge_graph_metrics",
        "mge_graph_metrics",
        MGE.replace("code", "tables"),
        "compat",
        (
            "delta_r_undirected",
            mge_delta_r,
            "1 - sigma_2 / (2 sqrt(2 d - 1)), d the mean degree of all vertices",
            "no edges, or 2 d <= 1",
            "degrees are doubled and isolated vertices counted; the directed columns are not reproduced",
            Laws(padded=False, degree=None, transposed=None, accuracy=1e-7),
        ),
    ),
    *rows(
        "fullspectrum",
        "fullspectrum",
        FS,
        "compat",
        (
            "ramanujan",
            fs_gap,
            "B - sigma_2",
            "no edges, d_R < 3 or d_L <= 1",
            "the gate is on the outputs here, on the inputs in the subgraphs; groups are flattened",
            ONE_SIDED,
        ),
        (
            "imdb",
            fs_imdb,
            "mean over d of c_d (B_d - sigma_2); 0 without a subgraph",
            "no edges",
            "as ramanujan",
            ONE_SIDED,
        ),
        (
            "weighted",
            fs_weighted_gap,
            "sigma_1(A) - sigma_2(A)",
            "as ramanujan, or no weights",
            "as ramanujan",
            Laws(degree=1, transposed=None, accuracy=1e-7),
        ),
        (
            "imsg",
            fs_imsg,
            "mean over d of c_d (sigma_1(A_d) - sigma_2(A_d)); 0 without a subgraph",
            "no edges, or no weights",
            "a layer without a subgraph counts as one without a gap",
            Laws(degree=1, transposed=None, accuracy=1e-7),
        ),
        (
            "norm",
            fs_norm4,
            "norm of the four, 0 for what the gates leave out",
            "no edges, or no weights",
            "called a distance in the plots",
            HALF,
        ),
        (
            "mixing",
            fs_mixing,
            "sigma_2 sqrt(n_l n_r) - |2E - d_l n_l n_r / (n_l + n_r)|",
            "no edges",
            "not the mixing lemma of bipartite graphs: strongly negative for good expanders",
            Laws(transposed=None, accuracy=1e-6),
        ),
    ),
    *rows(
        "fullspectrum_v0",
        "fullspectrum_v0",
        FS + ", oldest version",
        "compat",
        (
            "ramanujan",
            v0_gap,
            "B - sigma_1 on W > 0",
            "no weights, or as fullspectrum_ramanujan",
            "negative weights are no edges; the one eigenvalue asked for is sigma_1",
            SIGNED,
        ),
        (
            "imdb",
            v0_imdb,
            "sum over d of c_d (B_d - sigma_1(K_d)) on W > 0",
            "no edges, or no weights",
            "a sum: grows with the number of degrees",
            SIGNED,
        ),
        (
            "imsg",
            v0_imsg,
            "sum over d of c_d sigma_1(K_d) on W > 0",
            "no edges, or no weights",
            "the weights never enter",
            SIGNED,
        ),
    ),
)

COMPAT: dict[str, tuple[str, ...]] = {
    code: tuple(metric.name for metric in COMPAT_METRICS if metric.group == code)
    for code in dict.fromkeys(metric.group for metric in COMPAT_METRICS)
}
"""Columns of each published code, by its name."""
