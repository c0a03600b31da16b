"""Commands that keep a run directory well: doctor, pack, unpack, watch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sift_graph.cli import app
from sift_graph.cli.measuring import RunDir
from sift_graph.cli.output import (
    Column,
    JsonOption,
    complain,
    console,
    note,
    number,
    print_json,
    print_table,
    progress_bar,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sift_graph.store.packing import PackResult
    from sift_graph.watch import Look

BAR = 12  # lines of a screen that are neither layers nor rows of metrics, two of them for what is too long for one


@app.command(epilog="Example:  sift-graph doctor runs/a --repair")
def doctor(
    run_dir: RunDir,
    mend: Annotated[bool, typer.Option("--repair", help="Mend what can be mended; nothing is deleted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Examine a run: damaged files, gaps, masks that stand still, are full or off their density.

    Exit code 6 if something recorded cannot be read. With --repair, what is mended is printed, and what is left counts.
    """
    from sift_graph.doctor import examine
    from sift_graph.mending import repair

    rows: list[dict[str, Any]] = []
    deeds: list[str] = []
    for name, one, progress in each_run(run_dir, "reading"):
        deeds += [f"{name}{deed}" for deed in (repair(one) if mend else [])]
        for finding in examine(one, progress=progress):
            rows.append({"run": str(one), **dataclasses.asdict(finding), "where": f"{name}{finding.where}"})
    if as_json:
        print_json({"schema": "sift-graph/doctor/1", "findings": rows, "repaired": deeds})
    else:
        for deed in deeds:
            typer.echo(f"repaired  {deed}")
        if rows:
            headings = ("severity", "kind", "where", "found", "cure")
            print_table([Column(h, "left") for h in headings], [[row[h] for h in headings] for row in rows])
        count = {name: sum(row["severity"] == name for row in rows) for name in ("error", "warning", "note")}
        note(f"{run_dir}: " + ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in count.items()))
        if any(row["repairable"] for row in rows):
            note(f"sift-graph doctor {run_dir} --repair  mends some of it; keep a copy if you can")
    if any(row["severity"] == "error" for row in rows):
        raise typer.Exit(6)


def each_run(path: Path, what: str) -> Iterator[tuple[str, Path, Callable[[int, int], None] | None]]:
    """Give each run at or below a directory, with its name there, and a progress bar: over snapshots, or over runs.

    A directory with snapshots counts as one run, though its ``sift.json`` be lost.
    """
    from sift_graph.store import find_runs

    runs = [path] if (path / "masks").is_dir() else find_runs(path)
    with progress_bar(what) as progress:
        if len(runs) == 1:
            yield "", runs[0], progress
            return
        for done, run in enumerate(runs, 1):
            yield f"{run.relative_to(path).as_posix()}/", run, None
            progress(done, len(runs))


@app.command(epilog="Example:  sift-graph pack runs/a")
def pack(
    run_dir: RunDir,
    keyframe_every: Annotated[
        int, typer.Option("--keyframe-every", min=1, help="To read a mask, read at most so many of its layer.")
    ] = 16,
    as_json: JsonOption = False,
) -> None:
    """Store masks as changes of earlier ones, in place: smaller files that every command reads as before.

    Each file is read back before it takes the place of the original. Stopped at any time, the run is whole, and the
    same command goes on. Not while the run is being recorded.
    """
    from sift_graph.store.packing import pack_run

    def act(run: Path, progress: Callable[[int, int], None] | None) -> PackResult:
        return pack_run(run, keyframe_every=keyframe_every, progress=progress)

    print_packed({run: act(run, progress) for _, run, progress in each_run(run_dir, "packing")}, as_json)


@app.command(epilog="Example:  sift-graph unpack runs/a")
def unpack(run_dir: RunDir, as_json: JsonOption = False) -> None:
    """Store masks whole again, as they were recorded: the inverse of pack."""
    from sift_graph.store.packing import unpack_run

    results = {run: unpack_run(run, progress=progress) for _, run, progress in each_run(run_dir, "unpacking")}
    print_packed(results, as_json)


def print_packed(results: dict[Path, PackResult], as_json: bool) -> None:
    """Print what packing did; exit code 6 if a snapshot is damaged and was left as it is."""
    if as_json:
        rows = [{"run": str(run), **dataclasses.asdict(result)} for run, result in results.items()]
        print_json({"schema": "sift-graph/pack/1", "runs": rows})
    else:
        for run, result in results.items():
            weights = result.weight_bytes
            masks = [f"{(size - weights) / 1e6:,.3f} MB" for size in (result.bytes_before, result.bytes_after)]
            typer.echo(
                f"{run}: {len(result.rewritten)} of {result.snapshots} snapshots written anew; masks {masks[0]} "
                f"before, {masks[1]} now, weights {weights / 1e6:,.3f} MB"
            )
    damaged = [said for result in results.values() for said in result.skipped]
    for said in damaged:
        complain(f"left as it is: {said}")
    if damaged:
        raise typer.Exit(6)


@app.command(epilog="Example:  sift-graph watch runs/a")
def watch(
    run_dir: Annotated[Path, typer.Argument(help="A run directory, there already or not.", show_default=False)],
    every: Annotated[float, typer.Option("--every", min=0.05, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Rows of metrics.")] = 5,
) -> None:
    """Watch a run while it trains: newest step, layers, what changed, last metrics. Ctrl-C ends it.

    On a terminal one screen; else a line whenever there is a new snapshot or a new row of metrics.
    """
    from sift_graph.store import is_run
    from sift_graph.watch import Watcher

    watcher = Watcher(run_dir, rows=rows)
    out = console()
    if once:
        look = watcher.look()
        out.print(screen(look, len(look.layers)))
        if not is_run(run_dir):
            raise typer.Exit(3)
        return
    if not out.is_terminal:
        follow(watcher, every)
    from rich.live import Live

    with Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            look = watcher.look()
            live.update(screen(look, out.height - BAR - len(look.metrics)), refresh=True)
            time.sleep(every)


def follow(watcher: Any, every: float) -> None:
    """Print a line whenever there is something new; for ever."""
    told: tuple[Any, ...] = ()
    logged: Any = None
    while True:
        look = watcher.look()
        if (look.state, look.step) != told:
            told = (look.state, look.step)
            typer.echo(f"{look.run_dir}  {headline(look)}")
        newest = look.metrics[-1] if look.metrics else None
        if newest != logged:
            logged = newest
            typer.echo(f"{look.run_dir}  " + "  ".join(f"{short(k)} {short(v)}" for k, v in (newest or {}).items()))
        time.sleep(every)


def headline(look: Look) -> str:
    """Say in a line where a run stands."""
    if look.state:
        return look.state + ("" if look.state.startswith("cannot") else "; waiting")
    known = [layer for layer in look.layers if layer.dropped is not None]
    changed = sum(1 for layer in known if layer.dropped or layer.grown)
    dropped, grown = (sum(getattr(layer, name) for layer in known) for name in ("dropped", "grown"))
    since = f"; {changed} changed, {dropped:,} dropped, {grown:,} grown" if known else ""
    epoch = "" if look.epoch is None else f", epoch {look.epoch:g}"
    return (
        f"step {look.step}{epoch}, {age(look.age)} ago, {look.snapshots} snapshots; {len(look.layers)} layers, "
        f"density {look.density:.4f}{since}"
    )


def screen(look: Look, most: int) -> RenderableType:
    """Draw a run: where it stands, at most so many layers, the last metrics."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(f"{look.run_dir}   {look.about}".rstrip()), Text(headline(look)), Text("")]
    if look.layers:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("layer", overflow="fold")
        for heading in ("density", "edges", "dropped", "grown", "moved"):
            table.add_column(heading, justify="right", no_wrap=True)
        shown = look.layers[: max(most, 1)]
        for layer in shown:
            counts = [number(layer.edges), number(layer.dropped), number(layer.grown)]
            moved = "–" if layer.moved != layer.moved else f"{layer.moved:.2%}"
            table.add_row(*(Text(cell) for cell in (short(layer.layer), number(layer.density, 4), *counts, moved)))
        parts.append(table)
        if len(shown) < len(look.layers):
            parts.append(Text(f"and {len(look.layers) - len(shown)} more layers"))
    if look.metrics:
        names = list(dict.fromkeys(name for row in look.metrics for name in row))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for name in names:
            table.add_column(Text(short(name)), justify="right", no_wrap=True)
        for row in look.metrics:
            table.add_row(*(Text(short(row.get(name))) for name in names))
        parts += [Text(""), table]
    return Group(*parts)


def short(value: Any) -> str:
    """Format a name or a value that was recorded, on one line and without what a terminal would obey."""
    text = "–" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)[:200]
    return text if text.isprintable() else repr(text)


def age(seconds: float) -> str:
    """Format a time that has passed, in the largest fitting unit.

    Parameters
    ----------
    seconds : float

    Returns
    -------
    str

    Examples
    --------
    >>> age(3.2), age(200), age(90000)
    ('3 s', '3 min', '25 h')
    """
    if seconds != seconds:
        return "some time"
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )
