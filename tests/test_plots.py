"""Every public plot: on the Axes it was given, nothing global, words instead of an exception where there is nothing."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from frames import HOSTILE_LAYER, layers_frame, network_frame
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sift_graph import plots
from sift_graph.correlate import correlate
from sift_graph.dials import Response
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask
from sift_graph.plot_style import PALETTE

LAYERS = layers_frame(steps=(0, 50, 100))
NETWORK = network_frame(LAYERS)
TABLE = correlate(NETWORK, n_boot=100)
SIGMA = np.linalg.svd((np.random.default_rng(0).random((32, 96)) < 0.2).astype(float), compute_uv=False)


def graph_of(mask):
    return BipartiteGraph.from_mask(LayerMask.from_dense("fc", mask))


RANDOM = graph_of(np.random.default_rng(0).random((40, 120)) < 0.2)
MATCHING = graph_of(np.eye(6, dtype=bool))
EMPTY = graph_of(np.zeros((4, 4), dtype=bool))

NULLS = pd.DataFrame({"run": "a", "step": 0, "layer": ["l0", "l1"], "null": "er", "metric": "ramanujan_gap_norm"})
TURNED = [
    Response("strength", "wide", pd.DataFrame({"run": list("abc"), "level": [0.0, 1, 2], "seed": 0, "target": 0.5}))
]
HELD = pd.DataFrame({"group": ["wide", "wide", "doped", "doped"], "model": ["density", "metrics"] * 2})
HELD = HELD.assign(tau=[0.1, 0.2, 0.0, -0.1], lo=-0.2, hi=0.3)
NULLS = NULLS.assign(observed=[0.1, 0.2], mean=[0.2, 0.25], std=0.05)

# What each public plot draws, and the same with no row and with no number.
PLOTS = {
    "gap_over_time": (LAYERS, LAYERS.iloc[:0], LAYERS.assign(ramanujan_gap_norm=np.nan)),
    "mask_dynamics": (LAYERS, LAYERS.iloc[:0], LAYERS.assign(iou_previous=np.nan, itop_rate=np.nan)),
    "accuracy_scatter": (NETWORK, NETWORK.iloc[:0], NETWORK.assign(final_val_accuracy=np.nan)),
    "layer_profile": (LAYERS, LAYERS.iloc[:0], LAYERS.assign(ramanujan_gap_norm=np.nan)),
    "correlation_forest": (TABLE, TABLE.iloc[:0], TABLE.assign(estimate=np.nan)),
    "dose_response": (TURNED, [], []),
    "held_out_taus": (HELD, HELD.iloc[:0], HELD.assign(tau=np.nan)),
    "null_profile": (NULLS, NULLS.iloc[:0], NULLS.assign(mean=np.nan)),
    "spectral_density": (RANDOM, EMPTY, EMPTY),
    "spectrum_histogram": (SIGMA, SIGMA[:0], np.full(5, np.nan)),
    "accuracy_by_group": (NETWORK, NETWORK.iloc[:0], NETWORK.assign(final_val_accuracy=np.nan)),
}


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_every_public_plot_is_tested():
    drawing = {
        name
        for name in plots.__all__
        if callable(getattr(plots, name)) and "ax" in inspect.signature(getattr(plots, name)).parameters
    }
    assert drawing == set(PLOTS)


@pytest.mark.parametrize("name", PLOTS)
def test_plot_returns_the_axes_that_it_was_given(name):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert getattr(plots, name)(PLOTS[name][0], ax=right) is right
    assert right.has_data()
    assert not left.has_data()
    assert right.get_xlabel()
    assert right.get_ylabel() or len(right.get_yticks())
    figure.canvas.draw()


@pytest.mark.parametrize("name", PLOTS)
def test_plot_without_axes_makes_a_figure_of_its_own_and_touches_nothing(name):
    before = dict(mpl.rcParams)
    ax = getattr(plots, name)(PLOTS[name][0])
    assert isinstance(ax, Axes)
    assert ax.figure.axes == [ax]
    assert dict(mpl.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


@pytest.mark.parametrize("case", [1, 2], ids=["empty", "all-nan"])
@pytest.mark.parametrize("name", PLOTS)
def test_plot_of_nothing_says_so(name, case):
    ax = getattr(plots, name)(PLOTS[name][case])
    assert re.search(r"\bno\b", " ".join(texts(ax)))
    assert ax.get_xlabel()
    assert "<svg" in plots.svg_text(ax)


def test_importing_plots_does_not_import_pyplot():
    code = "import sys, sift_graph.plots; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plots_sit_in_a_grid_of_a_caller():
    figure = Figure(figsize=(8, 6))
    axes = figure.subplots(2, 2)
    for sparsity, ax in zip((0.5, 0.75, 0.9), axes.ravel(), strict=False):
        plots.gap_over_time(LAYERS[LAYERS["sparsity"] == sparsity], ax=ax).set_title(f"s = {sparsity}")
    assert sum(len(ax.get_lines()) > 0 for ax in axes.ravel()) == 3


def test_gap_has_a_line_per_method_and_the_random_reference():
    part = layers_frame(families=["sparse_wide"], sparsities=[0.9], seeds=(0, 1, 2), steps=(0, 50, 100))
    ax = plots.gap_over_time(part)
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines) == ["static", "set", "rigl", "random mask (formula)"]
    expected = part[part["method"] == "rigl"].groupby("step")["ramanujan_gap_norm"].mean()
    np.testing.assert_allclose(lines["rigl"].get_ydata(), expected)
    reference = (1 - np.sqrt(1 - part["density"])).groupby(part["step"]).mean()
    np.testing.assert_allclose(lines["random mask (formula)"].get_ydata(), reference)
    assert len(ax.collections) == 3  # a band each, since there are three seeds
    assert "random mask (formula)" not in {
        line.get_label() for line in plots.gap_over_time(part, reference=False).get_lines()
    }


def test_random_masks_that_were_drawn_are_marked_beside_the_formula():
    part = layers_frame(families=["sparse_wide"], sparsities=[0.9], seeds=(0,), steps=(0, 50))
    run = part["run"].iloc[0]
    common = {"metric": "ramanujan_gap_norm", "null": "degree", "step": 50}
    rows = [{"run": run, "mean": 0.1}, {"run": run, "mean": 0.3}, {"run": "another", "mean": 9.0}, {"run": run}]
    ax = plots.gap_over_time(part, nulls=pd.DataFrame([common | row for row in rows]))
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert "random mask (formula)" in lines
    assert (list(lines["drawn (degree)"].get_xdata()), list(lines["drawn (degree)"].get_ydata())) == (
        [50],
        [pytest.approx(0.2)],
    )


def test_gap_takes_a_network_frame_too():
    from_layers = plots.gap_over_time(LAYERS).get_lines()
    from_network = plots.gap_over_time(NETWORK).get_lines()
    for one, other in zip(from_layers, from_network, strict=True):
        np.testing.assert_allclose(one.get_ydata(), other.get_ydata())


def test_reference_only_where_it_is_the_same_quantity():
    labels = {line.get_label() for line in plots.gap_over_time(LAYERS, "weighted_spectral_gap").get_lines()}
    assert "random mask (formula)" not in labels
    excess = plots.gap_over_time(LAYERS, "excess_gap")
    reference = next(line for line in excess.get_lines() if line.get_label() == "random mask (formula)")
    assert set(reference.get_ydata()) == {0.0}


def test_single_run_has_no_band_and_two_are_drawn_each():
    one = LAYERS[LAYERS["run"] == "sparse_wide-0.9-rigl-0"]
    assert len(plots.gap_over_time(one).collections) == 0
    two = LAYERS[LAYERS["run"].isin(["sparse_wide-0.9-rigl-0", "sparse_wide-0.9-rigl-1"])]
    ax = plots.gap_over_time(two, reference=False)
    assert len(ax.collections) == 0
    mean, first, second = (line.get_ydata() for line in ax.get_lines())
    np.testing.assert_allclose(mean, (first + second) / 2)


def test_band_is_the_student_interval_over_runs():
    three = layers_frame(families=["sparse_wide"], sparsities=[0.9], methods=["rigl"], seeds=(0, 1, 2))
    band = plots.gap_over_time(three).collections[0]
    values = three[three["step"] == 0].groupby("run")["ramanujan_gap_norm"].mean().to_numpy()
    half = 4.302652730 * values.std(ddof=1) / np.sqrt(3)
    heights = [y for x, y in band.get_paths()[0].vertices if x == 0]
    assert max(heights) == pytest.approx(values.mean() + half)
    assert min(heights) == pytest.approx(values.mean() - half)


def test_runs_with_other_snapshot_steps_do_not_make_a_sawtooth():
    frame = pd.DataFrame(
        {
            "run": ["a", "a", "b", "b", "b"],
            "step": [0, 100, 0, 50, 100],
            "ramanujan_gap_norm": [0.0, 0.2, 1.0, 1.0, 1.0],
            "method": "set",
        }
    )
    line = plots.gap_over_time(frame).get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), [0.5, 0.5, 0.6])  # a mask stands until the next snapshot


def test_dense_runs_are_drawn_only_where_there_is_nothing_else():
    dense = LAYERS[LAYERS["family"] == "dense"]
    assert plots.gap_over_time(dense).has_data()
    assert max(line.get_ydata().max() for line in plots.gap_over_time(LAYERS).get_lines() if len(line.get_ydata())) < 1


def test_scatter_has_one_point_per_run_at_its_last_step():
    ax = plots.accuracy_scatter(NETWORK)
    points = np.vstack([collection.get_offsets() for collection in ax.collections if len(collection.get_offsets())])
    last = NETWORK[(NETWORK["step"] == 100) & (NETWORK["family"] != "dense")]
    expected = last[["ramanujan_gap_norm", "final_val_accuracy"]].to_numpy()
    np.testing.assert_allclose(sorted(map(tuple, np.asarray(points))), sorted(map(tuple, expected)))


def test_scatter_of_many_runs_is_rasterised():
    many = pd.concat([NETWORK.assign(run=NETWORK["run"] + str(i)) for i in range(100)])
    assert len(plots.svg_text(plots.accuracy_scatter(many))) < 400_000


def test_profile_follows_network_order_and_a_chosen_step():
    ax = plots.layer_profile(LAYERS, step=0)
    first = LAYERS[(LAYERS["step"] == 0) & (LAYERS["sparsity"] == 0.5) & (LAYERS["method"] == "static")]
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), first.groupby("depth")["ramanujan_gap_norm"].mean())
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(LAYERS["layer"].unique())


def test_hostile_layer_name_is_shortened_and_never_read_as_mathematics():
    frame = layers_frame(layer_names=[HOSTILE_LAYER, "line\nbreak\x00\x1b[31m", "$$\\frac{$"])
    svg = plots.svg_text(plots.layer_profile(frame))
    ET.fromstring(svg)
    assert "onerror" not in svg
    assert "\x00" not in svg


def test_forest_shows_the_three_views_beside_each_other():
    ax = plots.correlation_forest(TABLE)
    shown = {line.get_label(): line for line in ax.get_lines()}
    assert {"pooled", "within sparsity", "given density"} <= set(shown)
    pooled = TABLE[(TABLE["view"] == "pooled") & (TABLE["statistic"] == "spearman")]
    np.testing.assert_allclose(shown["pooled"].get_xdata(), pooled["estimate"])
    assert [tick.get_text() for tick in ax.get_yticklabels()][-1] == "mean layer density"
    assert len(plots.correlation_forest(TABLE, metrics=["imdb"]).get_yticks()) == 1


def test_histogram_marks_bound_and_random_edge():
    ax = plots.spectrum_histogram(SIGMA, 5.0, density=0.2, n_left=96, n_right=32)
    labels = [line.get_label() for line in ax.get_lines()]
    assert any(text == "bound = 5" for text in labels)
    assert any("random edge" in text for text in labels)
    assert sum(patch.get_height() for patch in ax.patches) == len(SIGMA) - 1
    assert plots.spectrum_histogram(np.ones(9)).has_data()
    assert plots.spectrum_histogram(np.array([2.0])).has_data()


def test_accuracy_groups_stand_dense_first_then_by_sparsity_and_method():
    ax = plots.accuracy_by_group(NETWORK)
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert names[:4] == ["dense", "s = 0.5, static", "s = 0.5, set", "s = 0.5, rigl"]
    assert len(names) == 10
    plain = NETWORK.drop(columns=["family", "method", "sparsity"])
    assert [tick.get_text() for tick in plots.accuracy_by_group(plain).get_yticklabels()] == ["all runs"]
    unknown = NETWORK.assign(method=None, sparsity=np.nan, family="imported")
    assert [tick.get_text() for tick in plots.accuracy_by_group(unknown).get_yticklabels()] == ["imported"]


def test_saved_svg_is_the_same_each_time_with_text_as_text(tmp_path):
    first = plots.save_svg(plots.gap_over_time(LAYERS), tmp_path / "new" / "a.svg")
    second = plots.save_svg(plots.gap_over_time(LAYERS).figure, tmp_path / "b.svg")
    assert first.read_bytes() == second.read_bytes()
    content = first.read_text(encoding="utf-8")
    assert "normalised Ramanujan gap" in content
    assert "<dc:date>" not in content


def test_every_colour_is_readable_on_white():
    for colour in PALETTE:
        channels = np.array(mpl.colors.to_rgb(colour))
        linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 3


def test_label_spells_known_names_and_leaves_others_readable():
    assert plots.label("ramanujan_gap_norm") == "normalised Ramanujan gap (≤ 1)"
    assert plots.label("ramanujan_gap_norm", short=True) == "normalised Ramanujan gap"
    assert plots.label("my_own_metric") == "my own metric"


def test_a_spectral_density_lies_over_its_laws():
    ax = plots.spectral_density(RANDOM, bound=7.0)
    labels = [line.get_label() for line in ax.get_lines()]
    assert [part for part in ("mask", "Marchenko", "Kesten", "bound = 7") if any(part in text for text in labels)] == [
        "mask",
        "Marchenko",
        "Kesten",
        "bound = 7",
    ]
    mask, law = ax.get_lines()[:2]
    assert np.trapezoid(mask.get_ydata(), mask.get_xdata()) == pytest.approx(
        np.trapezoid(law.get_ydata(), law.get_xdata()), abs=0.1
    )
    assert not any("Kesten" in line.get_label() for line in plots.spectral_density(MATCHING).get_lines())


def test_an_estimated_density_has_a_band():
    large = graph_of(np.random.default_rng(0).random((300, 400)) < 0.1)
    ax = plots.spectral_density(large)
    assert len(ax.collections) == 1
    assert len(plots.spectral_density(RANDOM).collections) == 0
