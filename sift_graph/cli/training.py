"""Commands of the torch half: train, sweep, describe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from sift_graph.cli import app
from sift_graph.cli.output import Column, JsonOption, complain, note, number, print_json, print_table, progress_bar

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="A TOML file.", rich_help_panel="Config", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="name=value, e.g. optimizer.lr=0.05; repeatable.", rich_help_panel="Config"),
]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help="A recipe by name, e.g. shapes.", rich_help_panel="Config", show_default=False),
]
FamilyOption = Annotated[
    str | None,
    typer.Option(
        "--family", help="dense, sparse_wide, sparse_parallel, sparse_factorized, sparse_doped, ...", show_default=False
    ),
]
SparsityOption = Annotated[
    float | None, typer.Option("--sparsity", help="Share of zeros, in [0, 1).", show_default=False)
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method", help="How the mask moves: static, set, rigl, gmp, ... (docs/methods).", show_default=False
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="resnet18, vgg16, mobilenet_v2, vit, gpt, ...: docs/training.md.", show_default=False),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data", help="digits, shapes, cifar10, cifar100, folder, text, stdlib, wikitext103.", show_default=False
    ),
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Of everything random.", show_default=False)]


def trainer() -> Any:
    """Import the trainer, or say what is missing."""
    from sift_graph.errors import UsageError

    try:
        import torch  # noqa: F401

        from sift_graph import train
    except ModuleNotFoundError as error:
        raise UsageError(f"this command needs {error.name}; pip install 'sift-graph[torch]'") from error
    return train


@app.command(
    epilog="Example:  sift-graph train --family sparse_wide --sparsity 0.9 --method rigl --data digits --out runs/a"
)
def train(
    out: Annotated[Path, typer.Option("--out", help="The run directory to make.", show_default=False)],
    family: FamilyOption = None,
    sparsity: SparsityOption = None,
    method: MethodOption = None,
    model: ModelOption = None,
    data: DataOption = None,
    seed: SeedOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train one sparse model, and record its masks."""
    library = trainer()
    settings = library.load_config(
        config,
        sets or (),
        preset=preset,
        family=family,
        sparsity=sparsity,
        method=method,
        model=model,
        data=data,
        seed=seed,
    )
    with progress_bar("training") as progress:
        result = library.run(settings, out, resume=resume, progress=progress)
    if os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0":
        return  # torchrun started several of us; the first one speaks
    if as_json:
        print_json({"schema": "sift-graph/train/1", **result.summary()})
        return
    note(result.headline())
    typer.echo(str(result.run_dir))


@app.command(epilog="Example:  sift-graph sweep analysis/studies/digits.toml --out runs/study -j 2")
def sweep(
    study: Annotated[Path, typer.Argument(help="A TOML file: base config, grid, seeds.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The directory of runs.", show_default=False)],
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="Runs at a time.")] = 1,
) -> None:
    """Train a grid of runs; finished runs are skipped, a failed one does not stop the rest."""
    library = trainer()
    with progress_bar("training runs") as progress:
        result = library.sweep(study, out, jobs=jobs, progress=progress)
    for failure in result.failed:
        complain(f"failed: {failure}")
    note(f"{len(result.finished)} runs trained, {len(result.skipped)} were there already, {len(result.failed)} failed")
    typer.echo(str(out))
    if result.failed:
        raise typer.Exit(4)


@app.command(epilog="Example:  sift-graph describe --model resnet18 --classes 100 --family sparse_wide --sparsity 0.9")
def describe(
    family: FamilyOption = None,
    sparsity: SparsityOption = None,
    method: MethodOption = None,
    model: ModelOption = None,
    data: DataOption = None,
    classes: Annotated[
        int | None,
        typer.Option(
            "--classes",
            help="Labels, or tokens; without --data, of images or a text as the model is meant for.",
            show_default=False,
        ),
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a run would be, without training: layers, multiply-accumulates, sparsity, cost to analyze."""
    from sift_graph.metrics import METRICS, estimate_cost, select

    library = trainer()
    settings = library.load_config(
        config,
        sets or (),
        preset=preset,
        family=family,
        sparsity=sparsity,
        method=method,
        model=model,
        data=data,
        classes=classes,
    )
    facts = library.describe(settings)
    masked = [layer for layer in facts["layers"] if layer["masked"]]
    costs = {
        which: sum(
            estimate_cost(
                [METRICS[name] for name in select(which) if name in METRICS],
                layer["n_left"],
                layer["n_right"],
                layer["edges"],
            )
            for layer in masked
        )
        for which in ("core", "all")
    }
    seconds = costs["core"]
    facts["seconds_to_analyze"], facts["seconds_to_analyze_all"] = seconds, costs["all"]
    if as_json:
        print_json({"schema": "sift-graph/describe/1", **facts})
        return
    columns = [
        Column("layer", "left"),
        Column("type", "left", rank=4),
        Column("weight, dense model", "left", rank=5),
        Column("weight", "left"),
        Column("density"),
        Column("edges", rank=2),
        Column("MACs, dense model", rank=6),
        Column("MACs"),
        Column("ratio", rank=4),
        Column("left × right", rank=3),
    ]
    rows = [
        [
            layer["name"],
            layer["type"],
            " × ".join(map(str, layer["shape_dense"] or ())),
            " × ".join(map(str, layer["shape"])),
            number(layer["density"]) if layer["masked"] else "dense",
            number(layer["edges"]),
            number(layer["macs_dense"]) if layer["shape_dense"] else "",
            number(layer["macs"]),
            "" if layer["ratio"] is None else number(layer["ratio"]),
            f"{layer['n_left']} × {layer['n_right']}",
        ]
        for layer in facts["layers"]
    ]
    print_table(columns, rows, title=f"{settings.model.name}   {settings.family}   sparsity {settings.sparsity}")
    if facts["counter"] != "macs":
        typer.echo(f"by the {facts['counter']} counter the ratio is {facts['counted_ratio']:.4f}")
    typer.echo(
        f"{facts['macs']:,} MACs for {facts['macs_dense']:,} of the dense model: ratio {facts['ratio']:.4f}, at "
        f"sparsity {facts['effective_sparsity']:.5f}\n"
        f"{facts['parameters']:,} parameters; {facts['masked_layers']} masked layers, whose masks choose among "
        f"{facts['masked_weights']:,} weights, {facts['edges']:,} kept; about {seconds:.2g} s to measure one snapshot, "
        f"{costs['all']:.2g} s with --metrics all"
    )
