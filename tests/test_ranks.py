"""Several processes: one records for all or each its part, what they hold is compared, and the parts are made whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import sift_graph
from sift_graph.errors import UsageError
from sift_graph.ranks import ALONE, Place, find_place
from sift_graph.record import MaskRecorder
from sift_graph.store import RunReader, RunWriter
from sift_graph.table import analyze_runs


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, object]]]:
    """What two processes of gloo recorded, and what each told."""
    folder = tmp_path_factory.mktemp("two")
    script = Path(__file__).with_name("rank_script.py")
    started = []
    for rank in range(2):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
        environment = os.environ | place | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
        words = [sys.executable, str(script), str(folder), str(rank)]
        started.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment))
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    return folder, [json.loads((folder / f"told{rank}.json").read_text()) for rank in range(2)]


# One writes


def test_under_data_parallelism_the_first_process_records_and_the_others_do_nothing(two):
    folder, told = two
    assert told[0]["ddp"] == {"enabled": True, "attached": True, "early": True}
    assert told[1]["ddp"] == {"enabled": False, "attached": False, "early": False}
    reader = RunReader(folder / "ddp")
    assert reader.steps == [0, 1, 2]
    assert [row["step"] for row in reader.metrics()] == [1, 2]  # one line a step: one writer
    assert "2" in [layer["layer"] for layer in reader.header["graph"]["layers"]]  # traced by one, without a word
    assert RunReader(folder / "early").steps == [0, 2]


def test_each_may_record_a_run_of_its_own(two):
    folder, _ = two
    assert [RunReader(folder / f"each{rank}").steps for rank in range(2)] == [[0], [0]]


def test_masks_that_differ_are_named_with_the_ranks_on_every_process(two):
    folder, told = two
    for one in told:
        (message,) = one["checked"]  # once, not at each step
        assert (
            "training goes on, but the masks at step 4 differ between processes: layer '0' (ranks 0 against 1)"
            in message
        )
        assert one["differ at attach"].startswith("MaskError: the masks at step 0 differ between processes: layer '0'")
        assert "layer 'fc' (ranks 0 against 1)" in one["differ by hand"]
    assert RunReader(folder / "checked").steps == list(range(7))


# Each writes its part


@pytest.mark.parametrize("step", [0, 2, 4])
def test_the_parts_of_two_processes_make_the_weights_that_torch_puts_together(two, step):
    folder, _ = two
    with np.load(folder / (f"fsdp{step}.npz" if step < 4 else "again4.npz")) as expected:
        found = RunReader(folder / "fsdp").load_snapshot(step).layers
        assert sorted(found) == sorted(expected) == ["0", "1", "2", "3"]
        for name, weight in expected.items():
            assert found[name].shape == weight.shape
            assert np.array_equal(found[name].mask, weight != 0)
            assert np.array_equal(found[name].weight, weight)
            assert found[name].part is None


def test_each_process_wrote_only_what_it_holds(two):
    folder, told = two
    held = []
    for rank in range(2):
        with safe_open(folder / f"fsdp/masks/step_000000000.rank{rank:05d}.safetensors", framework="np") as file:
            header = json.loads(file.metadata()["sift"])
        assert (header["rank"], header["ranks"]) == (rank, 2)
        held.append({entry["name"]: entry.get("part") for entry in header["layers"]})
    assert held[0] == {
        "0": {"offset": [0, 0], "shape": [3, 8]},
        "1": {"offset": [0, 0], "shape": [1, 5]},
        "2": {"offset": [0, 0, 0, 0], "shape": [2, 2, 3, 3]},
        "3": None,  # it is whole on both: the first writes it
    }
    assert held[1] == {
        "0": {"offset": [3, 0], "shape": [2, 8]},
        "1": {"offset": [1, 0], "shape": [0, 5]},  # nothing, and it says so
        "2": {"offset": [0, 2, 0, 0], "shape": [2, 1, 3, 3]},  # the transposed convolution's inputs, turned as its mask
    }
    assert [one["fsdp"] for one in told] == [{"enabled": True, "newest": 6}] * 2


def test_a_run_in_shards_is_analyzed_as_one_in_whole_files(two, tmp_path: Path):
    folder, _ = two
    reader = RunReader(folder / "fsdp")
    writer = RunWriter(tmp_path / "fsdp", about=reader.about)
    for step in reader.steps:
        writer.write_snapshot(reader.load_snapshot(step), weights="fp32")
    shutil.copytree(folder / "fsdp", tmp_path / "shards" / "fsdp")
    whole, parts = (analyze_runs(path) for path in (tmp_path / "fsdp", tmp_path / "shards" / "fsdp"))
    assert len(parts.layers) == 12
    assert not parts.failures
    assert parts.layers.equals(whole.layers)
    run = sift_graph.open(tmp_path / "shards" / "fsdp")
    assert run.layers == ["0", "1", "2", "3"]
    assert run.mask("0").shape == (5, 8)
    assert parts.layers["family"].unique().tolist() == ["sharded"]


def test_a_resumed_recording_begins_where_all_have_recorded_and_keeps_the_rest_aside(two):
    folder, told = two
    assert [one["resumed"] for one in told] == [4, 4]  # the second had lost step 6
    assert RunReader(folder / "fsdp").steps == [0, 2, 4]
    aside = sorted(path.name for path in (folder / "fsdp/masks/abandoned").rglob("*.safetensors"))
    assert aside == [
        "step_000000004.rank00000.safetensors",
        "step_000000004.rank00001.safetensors",
        "step_000000006.rank00000.safetensors",
    ]


def test_a_mask_that_did_not_change_on_this_process_is_referred_to(two):
    folder, _ = two
    entries = {entry["name"]: dict(entry["shards"]) for entry in RunReader(folder / "fsdp").entries(2)}
    assert entries["0"][0]["ref"] == 0
    assert entries["0"][1]["ref"] is None
    assert [entries[name][0]["ref"] for name in ("1", "2", "3")] == [0, 0, 0]


def test_masks_that_are_whole_are_cut_as_their_weights_are(two):
    folder, _ = two
    expected = (torch.rand(5, 8, generator=torch.Generator().manual_seed(0)) < 0.5).numpy()
    found = RunReader(folder / "given").load_snapshot(0).layers
    assert np.array_equal(found["0"].mask, expected)
    assert found["0"].values is not None
    assert len(found["0"].values) == expected.sum()
    assert np.array_equal(found["3"].mask, np.eye(3, dtype=bool))
    assert RunReader(folder / "given").steps == [0]


def test_a_callback_begins_on_every_process(two):
    folder, _ = two
    assert sorted(RunReader(folder / "lightning").load_snapshot(0).layers) == ["0", "1", "2", "3"]


def test_tensors_that_are_cut_are_recorded_by_hand(two):
    folder, _ = two
    weight = np.arange(35.0, dtype=np.float32).reshape(5, 7)
    for step in (3, 4):
        found = RunReader(folder / "hand").load_snapshot(step).layers
        for name, number in {"columns": 3, "pair": 2, "mixed": 2, "hybrid": 4, "copies": 5}.items():
            assert np.array_equal(found[name].mask, weight % number == 0)
        for name in ("pair", "mixed"):
            assert np.array_equal(found[name].weight, np.where(weight % 2 == 0, weight, 0))


def test_what_cannot_be_recorded_in_parts_is_refused_with_the_way_out(two):
    _, told = two
    for one in told:
        assert "UsageError: every: the parameters are shared out over processes" in one["no every"]
        assert "UsageError: measure: a snapshot in parts is whole only when all processes" in one["measure"]
        assert "UsageError: policy: a snapshot that one process drops is lost for all" in one["drop"]
        assert "layer 'w': the mask and the weight are shared out differently" in one["two ways"]
        assert "layer 'w': the mask or weight has shape (3, 3), expected (5, 7), that of the whole" in one["shape"]
        assert "layer 'w': this process's rows do not lie side by side in the weight" in one["strided"]
        assert "layer 'w': is a sum whose parts are not added up (Partial)" in one["partial"]
    assert "rank 1 heard nothing of the recording from rank 0" in told[1]["alone"]


# Who is who


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, ALONE),
        ({"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, Place(1, 4)),
        ({"RANK": "1", "WORLD_SIZE": "4"}, ALONE),  # a batch system's, of processes that may not train together
        ({"RANK": "4", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, ALONE),
        ({"RANK": "x", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, ALONE),
    ],
)
def test_the_place_of_a_process_comes_from_its_launcher(monkeypatch: pytest.MonkeyPatch, environment, place):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert find_place() == place


def test_a_recorder_made_before_the_process_group_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    recorder, own = (MaskRecorder(tmp_path / ranks, ranks=ranks) for ranks in ("together", "each"))
    monkeypatch.setattr("sift_graph.recording.together.find_place", lambda: Place(1, 2))
    with pytest.raises(
        UsageError, match=r"made before this process knew to be rank 1 of 2; make it after init_process"
    ):
        recorder.snapshot(0, {"fc": np.eye(4)})
    assert own.snapshot(0, {"fc": np.eye(4)})
    for one in (recorder, own):
        one.close()


def test_a_rank_that_is_not_the_first_makes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with MaskRecorder(tmp_path / "run") as recorder:
        assert not recorder.snapshot(0, {"fc": np.eye(4)})
        recorder.log({"step": 0})
        recorder.flush()
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match=r"call torch.distributed.init_process_group\(\) before attaching"):
        MaskRecorder(tmp_path / "run", check_ranks=True).snapshot(0, {"fc": np.eye(4)})
    with pytest.raises(UsageError, match="check_ranks: expected True, or every how many steps, found -1"):
        MaskRecorder(tmp_path / "run", check_ranks=-1)
