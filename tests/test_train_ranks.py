"""Several processes, as torchrun starts them: equal masks, averaged gradients, one writer."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from sift_graph.store import RunReader
from sift_graph.train import load_config, run
from sift_graph.train.ranks import Ranks

# Without batch norm and dropout two processes compute what one does, but for rounding.
GPT = [
    "model={name='gpt', width=16, depths=[1], heads=2}",
    "data={name='stdlib', train_samples=46, validation_samples=9, sequence_length=16}",
    "optimizer={name='adamw', lr=0.01, clip=1.0}",
    "training={epochs=3, batch_size=10, accumulate=2}",
    "masks={every=4, compensate=false}",
    "checkpoint.seconds=0",
]
# With batch norm and augmentation. Both have a last batch of 6.
RESNET = [
    "model={name='resnet', width=4, depths=[1, 1]}",
    "data={name='digits', train_samples=46, augment=['crop'], crop_padding=1}",
    "training={epochs=3, batch_size=10}",
    "masks={every=4}",
    "checkpoint.seconds=0",
]
FAMILY = ["family=sparse_wide", "sparsity=0.5", "method=rigl"]
# The norms of its blocks are there and never used.
SKIPPED = [*RESNET, "family=sparse_parallel", "ift.preset=official_cifar", "training.precision=bf16"]
FINISHED = {"gpt": GPT, "resnet": RESNET, "skipped norms": SKIPPED}

# Each process runs the same and then tells what it holds, one run after another: to start processes is what costs.
SCRIPT = """
import json, os, sys
from pathlib import Path
from torch import distributed
from sift_graph.errors import SiftGraphError
from sift_graph.masks import LayerMask
from sift_graph.train import load_config, loop

held, stop_at = {}, None
train, update, make = loop.Trainer.train, loop.Trainer.update, loop.make_masks

def watched(self, *args):
    row = train(self, *args)
    held["masks"] = {n: LayerMask.from_dense(n, m).digest for n, m in self.masks.masks().items()}
    held["weights"] = {n: float(p.detach().double().abs().sum()) for n, p in self.model.named_parameters()}
    held["row"] = row
    return row

def until(self, *args):
    if self.step == stop_at: raise SystemExit(3)
    return update(self, *args)

def differing(*args, **kwargs):
    masks = make(*args, **kwargs)
    if os.environ["RANK"] == "1":
        name = next(iter(masks))
        masks.replace(name, masks[name].flatten().roll(1).view(masks[name].shape))
    return masks

loop.Trainer.train, loop.Trainer.update = watched, until
distributed.init_process_group("gloo")  # once: gloo does not join the same processes twice
for name, wanted in json.loads(sys.argv[1]).items():
    held, stop_at = {}, wanted.get("stop_at")
    loop.make_masks = differing if "differing" in wanted else make
    folder = Path(name)
    folder.mkdir(exist_ok=True)
    try:
        result = loop.run(load_config(sets=wanted["sets"]), folder / "run", resume="resume" in wanted)
        held["summary"] = result.summary()
        del held["summary"]["seconds"]
    except SiftGraphError as error:
        if "refused" not in wanted: raise
        held["error"] = str(error)
    (folder / f"held{os.environ['RANK']}.json").write_text(json.dumps(held))
"""


def torchrun(*arguments, folder=None):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment, cwd=folder)


def two_processes(folder, runs):
    (folder / "script.py").write_text(SCRIPT)
    return torchrun("script.py", json.dumps(runs), folder=folder)


def held(folder):
    return [json.loads((folder / f"held{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of three runs that were finished, and of one whose processes ended at step 8."""
    folder = tmp_path_factory.mktemp("ranks")
    done = two_processes(
        folder,
        {name: {"sets": [*FAMILY, *sets]} for name, sets in FINISHED.items()}
        | {"parts": {"sets": [*FAMILY, *RESNET], "stop_at": 8}},
    )
    assert all((folder / name / "held1.json").exists() for name in FINISHED), done.stderr
    assert done.returncode != 0
    assert RunReader(folder / "parts" / "run").steps == [0, 4, 8]
    assert not (folder / "parts" / "held0.json").exists()
    return folder


@pytest.fixture(scope="module")
def restarted(trained):
    """What other processes said that went on from there, were given too little, and were given different masks."""
    sets = [*FAMILY, *RESNET]
    return two_processes(
        trained,
        {
            "parts": {"sets": sets, "resume": True},
            "small": {"sets": [*RESNET, "training.batch_size=3"], "refused": True},
            "differing": {"sets": sets, "differing": True},
        },
    )


@pytest.mark.parametrize("name", FINISHED)
def test_two_processes_hold_the_same_and_one_writes(trained, name):
    first, second = held(trained / name)
    assert first == second
    reader = RunReader(trained / name / "run")
    assert reader.steps == [0, 4, 8, 15]
    assert {name: layer.digest for name, layer in reader.load_snapshot(15).layers.items()} == first["masks"]
    assert [row["step"] for row in reader.metrics()] == [5, 10, 15]  # one line an epoch: one writer
    assert list(reader.metrics())[-1] == first["row"]
    moved = [reader.load_snapshot(a).layers[n].digest != layer.digest
             for a, b in ((0, 4), (4, 8)) for n, layer in reader.load_snapshot(b).layers.items()]  # fmt: skip
    assert any(moved)


def test_two_processes_train_what_one_does(trained, tmp_path):
    # Growth needs the gradient of the whole batch: with that of one half, other weights would be grown.
    run(load_config(sets=[*FAMILY, *GPT]), tmp_path / "one")
    one, two = RunReader(tmp_path / "one"), RunReader(trained / "gpt" / "run")
    for a, b in zip(one.metrics(), two.metrics(), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-3)
    before, alone, together = (reader.load_snapshot(step).layers for reader, step in ((one, 0), (one, 4), (two, 4)))
    grown = {n: layer.mask & ~before[n].mask for n, layer in alone.items()}
    same = {n: grown[n] & layer.mask for n, layer in together.items()}
    assert sum(map(np.sum, grown.values())) > 50
    assert sum(map(np.sum, same.values())) >= 0.99 * sum(map(np.sum, grown.values()))  # a tie may fall otherwise


def test_two_processes_resume_bit_for_bit(trained, restarted):
    whole, _ = held(trained / "resnet")
    assert (trained / "parts" / "held1.json").exists(), restarted.stderr
    resumed, other = held(trained / "parts")
    assert resumed == other
    assert resumed["masks"] == whole["masks"]
    assert resumed["weights"] == whole["weights"]
    assert resumed["row"] == whole["row"]


def test_a_batch_too_small_for_each_of_them_is_refused(trained, restarted):
    for said in held(trained / "small"):
        assert (
            "training.batch_size: 3 leaves less than 2 examples for each part of each of 2 processes" in said["error"]
        )
    assert not (trained / "small" / "run").exists()


def test_the_command_speaks_once_under_torchrun(tmp_path):
    sets = [word for item in RESNET for word in ("--set", item)]
    family = ["--family", "sparse_wide", "--sparsity", "0.5", "--method", "set"]
    done = torchrun("-m", "sift_graph", "train", *family, *sets, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'run'}\n"
    assert done.stderr.count("validation accuracy") == 1
    assert RunReader(tmp_path / "run").steps[-1] == 15


def test_alone_a_process_is_the_first_and_has_everything():
    ranks = Ranks(0, 1, torch.device("cpu"))
    model = torch.nn.Linear(2, 2)
    assert ranks.is_first
    assert ranks.wrapped(model) is model
    assert ranks.share(torch.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert ranks.total([1.5, 2.0]) == [1.5, 2.0]
    assert not Ranks(1, 2, torch.device("cpu")).is_first
    assert Ranks(1, 2, torch.device("cpu")).share(torch.arange(5)).tolist() == [1, 3]


def test_processes_whose_masks_differ_stop(trained, restarted):
    assert restarted.returncode != 0
    said = restarted.stderr
    assert "the masks at step 0: process 1 differs from process 0. A method must move masks by what all" in said
    assert not (trained / "differing" / "run" / "done.json").exists()
