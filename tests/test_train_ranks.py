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

# Each process runs the same and then tells what it holds.
SCRIPT = """
import json, os, sys
from sift_graph.masks import LayerMask
from sift_graph.train import load_config, loop

held = {}
train = loop.Trainer.train

def watched(self, *args):
    row = train(self, *args)
    held["masks"] = {n: LayerMask.from_dense(n, m).digest for n, m in self.masks.masks().items()}
    held["weights"] = {n: float(p.detach().double().abs().sum()) for n, p in self.model.named_parameters()}
    held["row"] = row
    return row

loop.Trainer.train = watched
result = loop.run(load_config(sets=json.loads(sys.argv[2])), sys.argv[1] + "/run", resume="resume" in sys.argv)
held["summary"] = result.summary()
del held["summary"]["seconds"]
with open(f"{sys.argv[1]}/held{os.environ['RANK']}.json", "w") as file:
    json.dump(held, file)
"""


def torchrun(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=90, env=environment)


def two_processes(folder, sets, *more):
    folder.mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(SCRIPT)
    done = torchrun(str(script), str(folder), json.dumps(sets), *more)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"held{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("sets", [GPT, RESNET, SKIPPED], ids=["gpt", "resnet", "skipped norms"])
def test_two_processes_hold_the_same_and_one_writes(tmp_path, sets):
    first, second = two_processes(tmp_path, [*FAMILY, *sets])
    assert first == second
    reader = RunReader(tmp_path / "run")
    assert reader.steps == [0, 4, 8, 15]
    assert {name: layer.digest for name, layer in reader.load_snapshot(15).layers.items()} == first["masks"]
    assert [row["step"] for row in reader.metrics()] == [5, 10, 15]  # one line an epoch: one writer
    assert list(reader.metrics())[-1] == first["row"]
    moved = [reader.load_snapshot(a).layers[n].digest != layer.digest
             for a, b in ((0, 4), (4, 8)) for n, layer in reader.load_snapshot(b).layers.items()]  # fmt: skip
    assert any(moved)


def test_two_processes_train_what_one_does(tmp_path):
    # Growth needs the gradient of the whole batch: with that of one half, other weights would be grown.
    two_processes(tmp_path, [*FAMILY, *GPT])
    run(load_config(sets=[*FAMILY, *GPT]), tmp_path / "one")
    one, two = RunReader(tmp_path / "one"), RunReader(tmp_path / "run")
    for a, b in zip(one.metrics(), two.metrics(), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-3)
    before, alone, together = (reader.load_snapshot(step).layers for reader, step in ((one, 0), (one, 4), (two, 4)))
    grown = {n: layer.mask & ~before[n].mask for n, layer in alone.items()}
    same = {n: grown[n] & layer.mask for n, layer in together.items()}
    assert sum(map(np.sum, grown.values())) > 50
    assert sum(map(np.sum, same.values())) >= 0.99 * sum(map(np.sum, grown.values()))  # a tie may fall otherwise


def test_two_processes_resume_bit_for_bit(tmp_path):
    sets = [*FAMILY, *RESNET]
    whole, _ = two_processes(tmp_path / "whole", sets)
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "script.py").write_text(
        SCRIPT.replace(
            "loop.Trainer.train = watched",
            "update = loop.Trainer.update\n"
            "def until(self, *args):\n"
            "    if self.step == 8: raise SystemExit(3)\n"
            "    return update(self, *args)\n"
            "loop.Trainer.update = until",
        )
    )
    stopped = torchrun(str(parts / "script.py"), str(parts), json.dumps(sets))
    assert stopped.returncode != 0
    assert RunReader(parts / "run").steps == [0, 4, 8]
    resumed, other = two_processes(parts, sets, "resume")
    assert resumed == other
    assert resumed["masks"] == whole["masks"]
    assert resumed["weights"] == whole["weights"]
    assert resumed["row"] == whole["row"]


def test_the_command_speaks_once_under_torchrun(tmp_path):
    sets = [word for item in RESNET for word in ("--set", item)]
    family = ["--family", "sparse_wide", "--sparsity", "0.5", "--method", "set"]
    done = torchrun("-m", "sift_graph", "train", *family, *sets, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'run'}\n"
    assert done.stderr.count("validation accuracy") == 1
    assert RunReader(tmp_path / "run").steps[-1] == 15
    small = torchrun(
        "-m", "sift_graph", "train", *sets, "--set", "training.batch_size=3", "--out", str(tmp_path / "small")
    )
    assert small.returncode != 0
    assert "training.batch_size: 3 leaves less than 2 examples for each part of each of 2 processes" in small.stderr
    assert not (tmp_path / "small").exists()


def test_alone_a_process_is_the_first_and_has_everything():
    ranks = Ranks(0, 1, torch.device("cpu"))
    model = torch.nn.Linear(2, 2)
    assert ranks.is_first
    assert ranks.wrapped(model) is model
    assert ranks.share(torch.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert ranks.total([1.5, 2.0]) == [1.5, 2.0]
    assert not Ranks(1, 2, torch.device("cpu")).is_first
    assert Ranks(1, 2, torch.device("cpu")).share(torch.arange(5)).tolist() == [1, 3]


def test_processes_whose_masks_differ_stop(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\n"
        "from sift_graph.train import load_config, loop\n"
        "make = loop.make_masks\n"
        "def differing(*args, **kwargs):\n"
        "    masks = make(*args, **kwargs)\n"
        "    if os.environ['RANK'] == '1':\n"
        "        name = next(iter(masks))\n"
        "        masks.replace(name, masks[name].flatten().roll(1).view(masks[name].shape))\n"
        "    return masks\n"
        "loop.make_masks = differing\n"
        "loop.run(load_config(sets=json.loads(sys.argv[2])), sys.argv[1] + '/run')\n"
    )
    done = torchrun(str(script), str(tmp_path), json.dumps([*FAMILY, *RESNET]))
    assert done.returncode != 0
    assert "the masks at step 0: process 1 differs from process 0. A method must move masks by what all" in done.stderr
    assert not (tmp_path / "run" / "done.json").exists()
