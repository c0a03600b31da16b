"""Commands on one layer, and on masks that come from elsewhere: show, import."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sift_graph.cli import app
from sift_graph.cli.output import JsonOption, console, note, number, percent, print_json, sparkline

if TYPE_CHECKING:
    import numpy as np

    from sift_graph.graph import BipartiteGraph
    from sift_graph.masks import LayerMask, Layout


WHOLE_SIDE = 2048  # a smaller side up to this is decomposed within seconds; beyond it the density is estimated


@app.command(epilog="Example:  sift-graph show runs/a --layer stage3.0.conv1 --figure layer.svg")
def show(
    run_dir: Annotated[Path, typer.Argument(help="A run directory.", show_default=False)],
    layer: Annotated[str, typer.Option("--layer", help="Name, or a glob that matches one layer.", show_default=False)],
    step: Annotated[int | None, typer.Option("--step", help="A recorded step.", show_default="the last")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw its singular values to this SVG.")] = None,
    density: Annotated[
        bool, typer.Option("--density", help="Draw their density beside the laws of random masks instead.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show one layer: its degrees, its spectrum, its verdict."""
    from sift_graph import spectrum
    from sift_graph.graph import BipartiteGraph
    from sift_graph.metrics import CORE, measure_layer
    from sift_graph.run import open as open_run

    run = open_run(run_dir)
    if not run.steps:
        from sift_graph.errors import RunDirectoryError

        raise RunDirectoryError(f"{run_dir}: the run has no snapshot yet; train it, or record one")
    mask = run.mask(layer, step=step)
    graph = BipartiteGraph.from_mask(mask)
    values = measure_layer(graph, CORE)
    whole = min(graph.block_left, graph.n_right // graph.groups) <= WHOLE_SIDE
    sigma = spectrum.singular_values(graph) if whole else None
    at = run.steps[-1] if step is None else step
    if as_json:
        content = {"schema": "sift-graph/show/1", "layer": mask.layer, "step": at, "shape": list(mask.shape)}
        listed = None if sigma is None else sigma.tolist()
        print_json({**content, "values": {k: _json(v) for k, v in values.items()}, "singular_values": listed})
    else:
        print_layer(mask, graph, values, sigma, at)
    if figure is not None:
        from sift_graph.plots import save_svg, spectral_density, spectrum_histogram

        if sigma is None or density:
            axes = spectral_density(graph, bound=values["bound"])
        else:
            axes = spectrum_histogram(
                sigma, bound=values["bound"], density=values["density"], n_left=graph.n_left, n_right=graph.n_right
            )
        axes.set_title(f"{mask.layer}, step {at}")
        save_svg(axes, figure)
        note(f"figure: {figure}")


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_layer(
    mask: LayerMask, graph: BipartiteGraph, values: dict[str, Any], sigma: np.ndarray | None, step: int
) -> None:
    """Print what is known of one layer."""
    verdict = {
        "yes": "within the Ramanujan bound",
        "no": "outside the Ramanujan bound",
        "undecided": "too close to the Ramanujan bound to say",
    }.get(values["is_ramanujan"], "no verdict")
    count, _, _ = graph.components
    shape = " × ".join(map(str, mask.shape)) + (f", {mask.groups} groups" if mask.groups > 1 else "")
    error = max(values["sigma_2_hi"] - values["sigma_2"], values["sigma_2"] - values["sigma_2_lo"])
    sizes = f"{graph.n_left} left × {graph.n_right} right, {graph.edges:,} edges, density {graph.density:.4f}"
    norm, random = number(values["ramanujan_gap_norm"]), number(values["random_gap_norm"])
    covered = f"{values['n_subgraphs']} subgraphs, {percent(values['edge_coverage'])} of the edges"
    lines = [
        ("weight", shape),
        ("graph", sizes),
        ("left degrees", degrees(graph.left_degree)),
        ("right degrees", degrees(graph.right_degree)),
        ("components", f"{count}"),
        ("σ₁", number(values["sigma_1"], 6)),
        ("σ₂", f"{number(values['sigma_2'], 6)} ± {error:.0e}" if graph.edges else "–"),
        ("bound", f"{number(values['bound'], 6)}   {verdict}"),
        ("gap", f"{number(values['ramanujan_gap'], 6)}   {norm} of the bound; a random mask of this density: {random}"),
        ("IMDB", f"{number(values['imdb'])}   over {covered}"),
        ("|W| gap", f"{number(values['weighted_spectral_gap'])}   IMSG {number(values['imsg'])}"),
    ]
    if sigma is not None and len(sigma):
        lines.append(("spectrum", f"{sparkline(histogram(sigma), 40)}   0 to {sigma.max():.3f}, {len(sigma)} values"))
    if values["note"]:
        lines.append(("note", values["note"]))
    width = max(len(key) for key, _ in lines) + 2
    out = console()
    out.print(f"{mask.layer}   step {step}, source {mask.source}", soft_wrap=True)
    for key, text in lines:
        out.print(f"  {key:<{width}}{text}", soft_wrap=True)


def degrees(side: np.ndarray) -> str:
    """Describe the degrees of one side in a few words."""
    active = side[side > 0]
    if not len(active):
        return "all isolated"
    isolated = len(side) - len(active)
    return f"{active.min()} to {active.max()}, mean {active.mean():.2f}" + (
        f", {isolated} isolated" if isolated else ""
    )


def histogram(sigma: np.ndarray, bins: int = 40) -> list[float]:
    """Count singular values in equal bins from 0 to the largest, on a logarithmic scale."""
    import numpy as np

    if not len(sigma):
        return []
    counts, _ = np.histogram(sigma, bins=bins, range=(0, max(float(sigma.max()), 1e-12)))
    return [float(c) for c in np.log1p(counts)]


@app.command("import", epilog="Example:  sift-graph import masks.npz runs/x")
def import_(
    files: Annotated[
        list[Path], typer.Argument(help="FILE... RUN_DIR: .npz, .npy, .safetensors, .pt; then the new run directory.")
    ],
    from_zeros: Annotated[
        bool, typer.Option("--from-zeros", help="Derive masks from weight != 0, and label them so.")
    ] = False,
    step: Annotated[int, typer.Option("--step", min=0, help="Step of the first file.")] = 0,
    layout: Annotated[
        str | None, typer.Option("--layout", help="oi (PyTorch) or io (JAX, Keras), where the file does not tell.")
    ] = None,
) -> None:
    """Make a run directory from masks in arrays or checkpoints.

    In .npz: mask/<layer>, weight/<layer>, groups/<layer>, shape/<layer>. In state dicts: <name>_mask buffers, those of
    ASP and ModelOpt, bitmasks of compressed-tensors, sparse tensors.
    """
    from sift_graph.errors import UsageError
    from sift_graph.importers import import_masks

    if len(files) < 2:
        raise UsageError("expected FILE... RUN_DIR: at least one file, then the run directory to make")
    *sources, run_dir = files
    named = sources if len(sources) > 1 else sources[0]
    result = import_masks(named, run_dir, from_zeros=from_zeros, step=step, layout=cast("Layout | None", layout))
    note(f"{result}")
    typer.echo(str(run_dir))
