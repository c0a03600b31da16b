"""Fine-tuning: a checkpoint continued sparse, densified, or pruned anew."""

import numpy as np
import pytest
import torch

from sift_graph.errors import DamagedStoreError, UsageError
from sift_graph.store import RunReader
from sift_graph.train import describe, load_config, run
from sift_graph.train.checkpoint import CHECKPOINT, load_checkpoint
from sift_graph.train.config import StartConfig
from sift_graph.train.data import load_data
from sift_graph.train.data.bpe import BPE
from sift_graph.train.start import load_start

SETS = [
    "model={name='resnet', width=4, depths=[1, 1]}",
    "data={name='digits', train_samples=120}",
    "training={epochs=3, batch_size=30}",
    "masks={every=3}",
    "record.weights=fp32",
    "checkpoint.seconds=0",
]
SPARSE = {"family": "sparse_wide", "sparsity": 0.75, "method": "rigl"}


def config(*sets, **overrides):
    return load_config(sets=[*SETS, *sets], **(SPARSE | overrides))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished sparse run."""
    path = tmp_path_factory.mktemp("start") / "first"
    run(config(), path)
    return path


def layers(run_dir, step):
    return RunReader(run_dir).load_snapshot(step).layers


@pytest.mark.parametrize("method", ["static", "rigl"])
def test_sparse_fine_tuning_begins_where_the_first_run_ended(trained, tmp_path, method):
    result = run(config(f"start.checkpoint={trained}", "optimizer.lr=0.01", method=method, seed=5), tmp_path / "b")
    end, begin = layers(trained, 12), layers(tmp_path / "b", 0)
    for name, layer in begin.items():
        assert layer.digest == end[name].digest
        assert np.array_equal(layer.weight, end[name].weight)
    moved = any(layer.digest != end[name].digest for name, layer in layers(tmp_path / "b", 12).items())
    assert moved == (method == "rigl")
    assert result.ratio == pytest.approx(1, abs=0.01)
    first = next(RunReader(tmp_path / "b").metrics())
    assert first["loss"] < next(RunReader(trained).metrics())["loss"]
    assert first["itop_rate"] < 0.5  # counted from here on


def test_dense_fine_tuning_lets_all_weights_back_in(trained, tmp_path):
    densified = config(f"start.checkpoint={trained / CHECKPOINT}", "start.masks=dense")
    found = describe(densified)
    assert found["ratio"] > 2
    assert (found["effective_sparsity"], found["masked_layers"]) == (0.0, 0)
    result = run(densified, tmp_path / "b")
    assert (result.ratio, result.effective_sparsity) == (found["ratio"], 0.0)
    reader = RunReader(tmp_path / "b")
    assert reader.about["method"] == "densified"
    end, begin, after = layers(trained, 12), layers(tmp_path / "b", 0), layers(tmp_path / "b", 12)
    for name, layer in begin.items():
        assert layer.edges == layer.size == after[name].edges
        assert np.array_equal(layer.weight, np.where(end[name].mask, end[name].weight, 0))
        assert (after[name].weight[~end[name].mask] != 0).mean() > 0.5  # not all: some units are dead


def test_a_dense_checkpoint_is_pruned_and_tuned(tmp_path):
    # Width 2 widened for 0.75 is 4: the dense model's shapes.
    run(config(family="dense", sparsity=0.0), tmp_path / "a")
    weights = load_checkpoint(tmp_path / "a" / CHECKPOINT)["model"]
    sets = [f"start.checkpoint={tmp_path / 'a'}", "start.masks=draw", "model.width=2", "masks.compensate=false"]
    run(config(*sets, method="magnitude"), tmp_path / "b")
    kept, dropped = [], []
    for name, layer in layers(tmp_path / "b", 0).items():
        magnitude = weights[f"{name}.weight"].abs().numpy()
        kept.append(magnitude[layer.mask])
        dropped.append(magnitude[~layer.mask])
    kept, dropped = np.concatenate(kept), np.concatenate(dropped)
    assert len(kept) == pytest.approx(len(dropped) / 3, abs=2)
    assert kept.min() >= dropped.max()  # one threshold for all layers: that of the method


def test_other_classes_begin_with_a_fresh_head(trained, tmp_path):
    shapes = "data={name='shapes', classes=4, train_samples=60, validation_samples=20}"
    stem = "start.fresh=['stem.*', 'head.*']"
    other = config(shapes, f"start.checkpoint={trained}", stem)
    run(other, tmp_path / "b")
    end, begin = layers(trained, 12), layers(tmp_path / "b", 0)
    assert all(begin[name].digest == end[name].digest for name in begin)
    with pytest.raises(UsageError, match=r"'head\.bias' is \(10,\) there, \(4,\) here, and 2 more .* start\.fresh=\["):
        run(config(shapes, f"start.checkpoint={trained}"), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_fine_tuning_run_resumes_bit_for_bit(trained, tmp_path):
    tuned = config(f"start.checkpoint={trained}")
    whole = run(tuned, tmp_path / "whole")
    shorter = run(tuned, tmp_path / "parts")
    (tmp_path / "parts" / "done.json").unlink()
    assert run(tuned, tmp_path / "parts", resume=True).val_loss == whole.val_loss == shorter.val_loss


@pytest.mark.parametrize(
    ("sets", "overrides", "message"),
    [
        (["start.checkpoint=MISSING"], {}, r"start\.checkpoint: no checkpoint at .*; name a run directory of this"),
        (
            ["start.checkpoint=HERE", "model.width=5"],
            {},
            r"layer 'stage1\.0\.conv1' has a mask of shape \(8, 8, 3, 3\)",
        ),
        (["start.checkpoint=HERE"], {"family": "dense", "sparsity": 0.0}, "is of another model: 'head.weight'"),
        (["start.checkpoint=HERE", "start.masks=kept"], {}, "unknown start.masks 'kept'; did you mean 'keep'"),
        (
            ["start.checkpoint=HERE"],
            {"method": "gmp"},
            "method 'gmp' begins with masks of its own, found 'keep'",
        ),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(trained, tmp_path, sets, overrides, message):
    sets = [item.replace("HERE", str(trained)).replace("MISSING", str(tmp_path)) for item in sets]
    with pytest.raises(UsageError, match=message):
        run(config(*sets, **overrides), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_checkpoint_without_masks_has_none_to_keep(tmp_path):
    run(config(family="dense", sparsity=0.0), tmp_path / "a")
    with pytest.raises(UsageError, match=r"has no masks to keep; say start\.masks='draw'"):
        run(config(f"start.checkpoint={tmp_path / 'a'}"), tmp_path / "b")


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(UsageError, match=r"other\.pt is not a checkpoint of this trainer \(it has no model and masks"):
        run(config(f"start.checkpoint={tmp_path / 'other.pt'}"), tmp_path / "b")
    (tmp_path / "broken.pt").write_bytes(b"no")
    with pytest.raises(DamagedStoreError, match=r"broken\.pt: is not a checkpoint"):
        run(config(f"start.checkpoint={tmp_path / 'broken.pt'}"), tmp_path / "b")


def test_the_meaning_of_tokens_goes_with_the_checkpoint(tmp_path):
    (tmp_path / "one.txt").write_text("the cat sat on the mat. " * 400)
    (tmp_path / "two.txt").write_text("colourless green ideas sleep furiously; " * 300)
    sets = [
        "model={name='gpt', width=16, depths=[1], heads=2}",
        "training={epochs=1, batch_size=4}",
        "masks={every=4, compensate=false}",
        "family=sparse_wide",
        "sparsity=0.5",
        "method=static",
    ]

    def texts(name, **options):
        data = {"name": "text", "path": str(tmp_path / name), "tokenizer": "bpe", "sequence_length": 16, **options}
        return [*sets, *(f"data.{key}={value}" for key, value in data.items())]

    run(load_config(sets=texts("one.txt", vocabulary=270)), tmp_path / "a")
    start = f"start.checkpoint={tmp_path / 'a'}"
    learnt = load_start(StartConfig(str(tmp_path / "a"))).byte_pairs
    tuned = load_config(sets=[*texts("two.txt", vocabulary=270), start])
    run(tuned, tmp_path / "b")
    again = load_start(StartConfig(str(tmp_path / "b"))).byte_pairs
    assert torch.equal(again, learnt)
    data = load_data(tuned.data, 0, tokenizer=BPE(tuple(map(tuple, learnt.tolist()))))
    assert len(data.train) != len(load_data(tuned.data, 0).train)
    own = load_data(tuned.data, 0)
    assert own.tokenizer.merges != data.tokenizer.merges
    with pytest.raises(
        UsageError, match=r"data\.vocabulary: 260 tokens, but the checkpoint to begin with .* on 26[1-9]"
    ):
        load_data(load_config(sets=texts("two.txt", vocabulary=260)).data, 0, tokenizer=data.tokenizer)
    run(load_config(sets=[*texts("one.txt"), "data.tokenizer=bytes"]), tmp_path / "c")
    other = [*texts("two.txt", vocabulary=270), f"start.checkpoint={tmp_path / 'c'}"]
    with pytest.raises(UsageError, match="was not trained on byte pairs"):
        run(load_config(sets=other), tmp_path / "d")
