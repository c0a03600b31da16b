"""A run while it is recorded: what one look sees, on a terminal and elsewhere."""

import io
import json
import re
import time

import numpy as np
import pytest
from rich.console import Console

from sift_graph.cli import keeping
from sift_graph.errors import RunDirectoryError
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.store import RunReader, RunWriter
from sift_graph.store.packing import pack_run
from sift_graph.watch import Watcher
from tests.runs import write_run
from tests.test_cli import invoke


def masks_of(step, **masks):
    return Snapshot(step, {name: LayerMask.from_dense(name, mask) for name, mask in masks.items()}, epoch=step / 10)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "220")


@pytest.fixture
def moved(tmp_path):
    """One entry of ``fc`` was dropped and two grew; ``still`` did not change."""
    writer = RunWriter(tmp_path / "run", about={"method": "rigl", "sparsity": 0.75})
    eye = np.eye(4, dtype=bool)
    later = eye.copy()
    later[0, 0], later[0, 1], later[0, 2] = False, True, True
    writer.write_snapshot(masks_of(0, fc=eye, still=eye))
    writer.write_snapshot(masks_of(10, fc=later, still=eye))
    writer.append_metrics({"step": 10, "loss": 0.123456789})
    return tmp_path / "run"


def test_a_look_says_what_the_newest_masks_dropped_and_grew(moved):
    look = Watcher(moved).look()
    assert (look.state, look.about, look.step, look.snapshots, look.epoch) == ("", "rigl · 0.75", 10, 2, 1)
    fc, still = look.layers
    assert (fc.layer, fc.edges, fc.dropped, fc.grown, fc.moved, fc.density) == ("fc", 5, 1, 2, 0.25, 5 / 16)
    assert (still.dropped, still.grown, still.moved) == (0, 0, 0)
    assert look.density == 9 / 32
    assert 0 <= look.age < 60
    assert [row["step"] for row in look.metrics] == [10]
    pack_run(moved)
    assert Watcher(moved).look().layers == look.layers


def test_a_look_at_what_is_not_there_yet_says_so(tmp_path):
    assert Watcher(tmp_path / "none").look().state == "is not there yet"
    (tmp_path / "empty").mkdir()
    assert Watcher(tmp_path / "empty").look().state == "holds no run yet (no sift.json)"
    RunWriter(tmp_path / "new")
    look = Watcher(tmp_path / "new").look()
    assert (look.state, look.layers, look.step) == ("has no snapshot yet", (), None)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunDirectoryError, match="is a file; name a run directory, there already or not"):
        Watcher(tmp_path / "file").look()


def test_a_damaged_snapshot_does_not_end_the_watch(moved):
    watcher = Watcher(moved)
    path = RunReader(moved).path(10)
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    assert re.match(r"cannot be read now \(.*step_000000010.*doctor says more", watcher.look().state)
    path.write_bytes(whole)
    assert watcher.look().step == 10


def test_masks_are_read_only_when_a_snapshot_is_new(moved, monkeypatch):
    watcher = Watcher(moved)
    first = watcher.look()
    monkeypatch.setattr(RunReader, "load_entry", lambda *a, **k: pytest.fail("read again"))
    assert watcher.look().layers == first.layers


def test_the_last_rows_are_read_from_the_end(moved):
    with (moved / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": step, "pad": "x" * 500}) + "\n" for step in range(20, 1000))
        file.write('{"step": 1000, "lo')
    assert [row["step"] for row in Watcher(moved, rows=3).look().metrics] == [997, 998, 999]


def test_one_look_prints_the_layers_and_the_metrics(moved):
    shown = invoke("watch", moved, "--once").stdout
    assert "step 10, epoch 1, 0 s ago, 2 snapshots; 2 layers, density 0.2812; 1 changed, 1 dropped, 2 grown" in shown
    assert re.search(r"fc +0\.3125 +5 +1 +2 +25\.00%", shown)
    assert re.search(r"10 +0\.12346", shown)


def test_one_look_at_no_run_has_its_exit_code(tmp_path):
    assert "is not there yet; waiting" in invoke("watch", tmp_path / "none", "--once", code=3).stdout
    RunWriter(tmp_path / "new")
    assert "has no snapshot yet" in invoke("watch", tmp_path / "new", "--once").stdout


def test_watching_prints_a_line_for_each_new_thing_until_it_is_interrupted(tmp_path, monkeypatch):
    path = tmp_path / "run"
    acts = iter(
        [
            lambda: None,
            lambda: write_run(path, steps=(0, 10), accuracy=0.5),
            lambda: None,
            lambda: RunWriter(path, resume=True).append_metrics({"step": 20, "loss": 1.5}),
        ]
    )

    real = time.sleep

    def sleep(seconds):
        if seconds != 0.5:  # somebody else's
            return real(seconds)
        act = next(acts, None)
        if act is None:
            raise KeyboardInterrupt
        return act()

    monkeypatch.setattr(keeping.time, "sleep", sleep)
    result = invoke("watch", path, "--every", 0.5, code=130)
    lines = [line.removeprefix(f"{path}  ") for line in result.stdout.splitlines()]
    assert [line.split(",")[0] for line in lines] == [
        "is not there yet; waiting",
        "step 10",
        lines[2],
        "step 20  loss 1.5",
    ]
    assert lines[2].startswith("step 10  epoch 1  val_accuracy 0.49")
    assert "interrupted" in result.stderr


def test_a_screen_fits_the_terminal(tmp_path):
    path = write_run(tmp_path / "run", shapes={f"layer{i}": (4, 4) for i in range(50)}, accuracy=0.5)
    look = Watcher(path).look()
    out = io.StringIO()
    console = Console(file=out, width=80, height=24, force_terminal=True)
    console.print(keeping.screen(look, console.height - keeping.BAR - len(look.metrics)))
    lines = out.getvalue().splitlines()
    assert len(lines) <= 24
    assert sum(bool(re.match(r"layer\d", line)) for line in lines) == 8
    assert any("and 42 more layers" in line for line in lines)


def test_on_a_terminal_the_screen_is_drawn_again(moved, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(
        keeping, "console", lambda: Console(file=out, width=80, height=24, force_terminal=True, highlight=False)
    )

    def sleep(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(keeping.time, "sleep", sleep)
    invoke("watch", moved, code=130)
    assert "step 10, epoch 1" in out.getvalue()
    assert (
        out.getvalue().rstrip().endswith("\x1b[?25h") or "\x1b[?1049l" in out.getvalue()
    )  # the terminal is given back


def test_times_are_told_in_units_that_fit(moved, monkeypatch):
    now = time.time()
    monkeypatch.setattr(keeping.time, "time", lambda: now + 7200 * 1.5)
    assert keeping.age(Watcher(moved).look().age) == "3 h"
