"""Whole runs: what they record, that they repeat and resume bit for bit, and how they fail."""

import json
import re
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from sift_graph.errors import DamagedStoreError, RunDirectoryError, TrainingError, UsageError
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.sparsify import METHODS
from sift_graph.store import RunReader, RunWriter, find_runs
from sift_graph.train import describe, load_config, loop, run
from sift_graph.train.checkpoint import CHECKPOINT, load_checkpoint
from sift_graph.train.precision import Precision

SETS = [
    "model.width=4",
    "model.depths=[1, 1]",
    "data.train_samples=120",
    "data.noise=0.5",
    "training.epochs=5",
    "training.batch_size=30",
    "masks.every=3",
    "checkpoint.seconds=0",
    "options.synflow_rounds=5",
    "options.pattern=[2, 8]",
]
STEPS = 20
UPDATES = [3, 6, 9, 12]  # every third, before step 15


def config(method="rigl", *sets, family="sparse_wide", sparsity=0.75, **overrides):
    return load_config(sets=[*SETS, *sets], family=family, sparsity=sparsity, method=method, **overrides)


def recorded(run_dir):
    """Everything that must repeat: masks and weights of all steps, and the lines of the metrics."""
    reader = RunReader(run_dir)
    layers = {}
    for step in reader.steps:
        for layer in reader.load_snapshot(step):
            layers[step, layer.layer] = (layer.digest, layer.values.tobytes())
    return layers, (run_dir / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The result and the directory of a run of a method, trained when first asked for; for reading only."""

    @cache
    def trained(method):
        run_dir = tmp_path_factory.mktemp("finished") / method
        return run(config(method), run_dir), run_dir

    return trained


@pytest.mark.parametrize("method", METHODS)
def test_a_run_records_what_it_should(finished, method):
    source = METHODS[method]
    result, run_dir = finished(method)
    reader = RunReader(run_dir)
    assert reader.steps == [0, *UPDATES, STEPS]
    assert reader.about == {
        "family": "sparse_wide", "sparsity": 0.75, "seed": 0, "method": method, "model": "resnet", "data": "digits"
    }  # fmt: skip
    table = reader.header["layers"]
    assert [row["name"] for row in table][:2] == ["stem", "stage1.0.conv1"]
    masked = {row["name"]: row for row in table if row["masked"]}
    snapshots = [reader.load_snapshot(step) for step in reader.steps]
    for snapshot in snapshots:
        assert snapshot.epoch == snapshot.step / 4
        assert list(snapshot.layers) == list(masked)
        for layer in snapshot:
            if source.keeps_counts:
                assert layer.edges == masked[layer.layer]["edges"]
            assert layer.source == "mask_set"
            assert list(layer.shape) == masked[layer.layer]["shape"]
            assert layer.values is not None
    moved = [any(a.layers[name].digest != b.layers[name].digest for name in masked) for a, b in pairwise(snapshots)]
    if not source.keeps_dense_weights:  # there the largest weights may well stay the largest for twenty steps
        assert moved == [source.moves] * len(UPDATES) + [False]
    rows = list(reader.metrics())
    assert [(row["step"], row["epoch"]) for row in rows] == [(4 * n, n) for n in range(1, 6)]
    assert set(rows[0]) == {"step", "epoch", "loss", "val_loss", "val_accuracy", "lr", "itop_rate"}
    assert (rows[-1]["val_accuracy"], rows[-1]["val_loss"]) == (result.val_accuracy, result.val_loss)
    assert source.init != "random" or rows[-1]["loss"] < rows[0]["loss"]
    assert result.steps == STEPS
    assert source.counts or method == "srigl" or result.ratio == pytest.approx(1, abs=0.005)
    table = {row["name"]: row["edges"] for row in table} | {layer.layer: layer.edges for layer in snapshots[-1]}
    costs = {row["name"]: row["macs"] / row["edges"] for row in reader.header["layers"] if row["edges"]}
    macs = sum(edges * costs[name] for name, edges in table.items() if edges)
    assert macs / describe(config(method))["macs_dense"] == pytest.approx(result.ratio)
    assert load_config(run_dir / "config.toml") == config(method)
    assert "validation accuracy" in result.headline()
    assert json.loads(json.dumps(result.summary()))["run_dir"] == str(run_dir)


def test_a_dense_run_records_ones_at_the_same_steps(tmp_path):
    result = run(config(family="dense", sparsity=0.0), tmp_path / "dense")
    reader = RunReader(tmp_path / "dense")
    assert reader.steps == [0, *UPDATES, STEPS]
    assert (reader.about["method"], result.ratio, result.effective_sparsity) == ("dense", 1.0, 0.0)
    for step in reader.steps:
        for entry in reader.entries(step):
            assert entry["nnz"] == np.prod(entry["shape"])
            assert entry["source"] == "dense"
            assert entry["ref"] == (0 if step else None)  # stored once
    assert set(next(reader.metrics())) == {"step", "epoch", "loss", "val_loss", "val_accuracy", "lr"}


def test_recorded_weights_are_those_on_the_mask_and_newborn_ones_are_edges(tmp_path):
    run(config("rigl", "record.weights=fp32"), tmp_path / "a")
    reader = RunReader(tmp_path / "a")
    before, after = reader.load_snapshot(3), reader.load_snapshot(6)
    grown = 0
    for name, layer in after.layers.items():
        new = layer.mask & ~before.layers[name].mask
        assert (layer.weight[new] == 0).all()
        grown += new.sum()
    assert grown
    state = load_checkpoint(tmp_path / "a" / CHECKPOINT)
    last = reader.load_snapshot(STEPS)
    for name, layer in last.layers.items():
        assert (layer.weight == state["model"][f"{name}.weight"].numpy()).all()


def test_weights_can_be_left_out(tmp_path):
    run(config("static", "record.weights=none"), tmp_path / "a")
    assert all(layer.values is None for layer in RunReader(tmp_path / "a").load_snapshot(0))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_command_twice_gives_the_same_run(tmp_path, finished, method):
    _, once = finished(method)
    torch.manual_seed(12345)
    torch.rand(5)
    run(config(method), tmp_path / "b")
    assert recorded(once) == recorded(tmp_path / "b")
    run(config(method, seed=1), tmp_path / "c")
    assert recorded(once) != recorded(tmp_path / "c")


def test_a_run_leaves_the_process_as_it_was(tmp_path):
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    run(config(), tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


class Stop(Exception):
    """What interrupts a run here."""


def run_until(step, config, run_dir, monkeypatch):
    """Begin a run and stop it when it has made so many updates."""
    update = loop.Trainer.update

    def until(self, *args):
        if self.step == step:
            raise Stop("stopped on purpose")
        return update(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "update", until)
        with pytest.raises(Stop, match="on purpose"):
            run(config, run_dir)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("at_step", [2, 8, 14])  # before any checkpoint, right after one, with recordings after one
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, finished, method, at_step):
    whole, whole_dir = finished(method)
    run_until(at_step, config(method), tmp_path / "parts", monkeypatch)
    assert max(RunReader(tmp_path / "parts").steps) <= at_step
    torch.manual_seed(777)
    result = run(config(method), tmp_path / "parts", resume=True)
    assert recorded(tmp_path / "parts") == recorded(whole_dir)
    assert (result.val_accuracy, result.steps) == (whole.val_accuracy, whole.steps)
    aside = list((tmp_path / "parts" / "masks" / "abandoned").glob("*/*.safetensors"))
    checkpointed = at_step - at_step % 4
    late = [s for s in [0, *UPDATES] if checkpointed < s <= at_step] if checkpointed else [0]
    assert len(aside) == len(late)
    assert find_runs(tmp_path) == [tmp_path / "parts"]  # and what is put aside is none


def test_checkpoints_keep_their_distance_but_the_last_is_always_there(tmp_path, monkeypatch):
    steps = []
    save = loop.save_checkpoint
    monkeypatch.setattr(loop, "save_checkpoint", lambda path, state: (steps.append(state["step"]), save(path, state)))
    run(config("static", "checkpoint.seconds=3600"), tmp_path / "a")
    assert steps == [STEPS]
    run(config("static"), tmp_path / "b")
    assert steps == [STEPS, 4, 8, 12, 16, 20]


def test_a_finished_run_is_left_as_it_is(tmp_path):
    first = run(config(), tmp_path / "a")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    assert run(config(), tmp_path / "a", resume=True) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before


def test_resume_where_nothing_is_yet_begins_a_run(tmp_path):
    assert run(config(), tmp_path / "new", resume=True).steps == STEPS


def test_another_run_is_not_overwritten(tmp_path):
    run(config(), tmp_path / "a")
    before = recorded(tmp_path / "a")
    with pytest.raises(RunDirectoryError, match=r"holds another run .*nothing was overwritten"):
        run(config(seed=1), tmp_path / "a")
    with pytest.raises(
        RunDirectoryError, match=r"holds a run of another configuration: 'seed = 0' there, 'seed = 1' asked"
    ):
        run(config(seed=1), tmp_path / "a", resume=True)
    assert recorded(tmp_path / "a") == before


def test_a_run_that_the_trainer_did_not_make_is_not_resumed(tmp_path):
    writer = RunWriter(tmp_path / "theirs")
    layer = LayerMask.from_dense("fc", np.eye(3, dtype=bool))
    writer.write_snapshot(Snapshot(0, {"fc": layer}))
    with pytest.raises(RunDirectoryError, match=r"did not make \(no config\.toml\); nothing was changed"):
        run(config(), tmp_path / "theirs", resume=True)
    assert RunReader(tmp_path / "theirs").steps == [0]


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(RunDirectoryError, match=r"is not empty and is not a run directory \(it holds 'letter\.txt'\)"):
        run(config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["data.train_samples=1797"], "leave none for validation"),
        (["data.train_samples=1"], "2 or more images to train on, found 1"),
        (["masks.begin=15"], "ends at step 15, before or where it begins"),
        (["masks.every=16"], "would never move"),
        (["sparsity=0.9999"], "no sparsity reaches the budget"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path, sets, message):
    bad = load_config(sets=["family=sparse_wide", "sparsity=0.75", "method=rigl", *SETS, *sets])
    with pytest.raises(UsageError, match=message):
        run(bad, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("method", ["static", "rigl"])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_is_there(tmp_path, method):
    message = r"a: stopped at step [23] of 20: the loss is (nan|inf); lower optimizer\.lr .*of step 0 are kept"
    with pytest.raises(TrainingError, match=message):
        run(config(method, "optimizer.lr=1e30"), tmp_path / "a")
    reader = RunReader(tmp_path / "a")
    assert reader.steps == [0]
    for layer in reader.load_snapshot(0):
        assert np.isfinite(layer.values).all()
    assert not (tmp_path / "a" / "done.json").exists()


def test_weights_that_are_not_finite_are_not_recorded(tmp_path, monkeypatch):
    step = loop.Precision.step

    def spoilt(self, optimizer):
        done = step(self, optimizer)
        updates.append(done)
        if len(updates) == 9:  # masks move at 6, and would at 9
            optimizer.param_groups[0]["params"][1].data[0, 0] = torch.nan
        return done

    updates = []
    message = r"stopped at step 9 of 20: 'stage1\.0\.conv1\.weight' is not finite; .* up to that of step 6 are kept"
    with monkeypatch.context() as patch:
        patch.setattr(loop.Precision, "step", spoilt)
        with pytest.raises(TrainingError, match=message):
            run(config("rigl"), tmp_path / "a")
    reader = RunReader(tmp_path / "a")
    assert reader.steps == [0, 3, 6]
    assert all(np.isfinite(layer.values).all() for step in reader.steps for layer in reader.load_snapshot(step))
    whole = run(config("rigl"), tmp_path / "b")
    (tmp_path / "a" / CHECKPOINT).unlink()  # that of step 8 is good as well
    assert run(config("rigl"), tmp_path / "a", resume=True).val_loss == whole.val_loss


def test_a_damaged_checkpoint_is_named(tmp_path, monkeypatch):
    run_until(9, config(), tmp_path / "a", monkeypatch)
    path = tmp_path / "a" / CHECKPOINT
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(
        DamagedStoreError, match=r"checkpoint\.pt: is not a checkpoint, or a damaged one .*remove it to begin"
    ):
        run(config(), tmp_path / "a", resume=True)
    assert RunReader(tmp_path / "a").steps == [0, 3, 6, 9]
    path.unlink()
    run(config(), tmp_path / "a", resume=True)
    run(config(), tmp_path / "b")
    assert recorded(tmp_path / "a") == recorded(tmp_path / "b")


def test_a_checkpoint_of_another_configuration_is_not_taken(tmp_path, monkeypatch):
    run_until(9, config(), tmp_path / "a", monkeypatch)
    run_until(9, config(seed=1), tmp_path / "b", monkeypatch)
    run_until(9, config(sparsity=0.5), tmp_path / "c", monkeypatch)
    own = (tmp_path / "a" / CHECKPOINT).read_bytes()
    for other, message in (("b", "'seed = 1' there, 'seed = 0' asked"), ("c", r"'sparsity = 0\.5' there")):
        before = recorded(tmp_path / "a")
        (tmp_path / "a" / CHECKPOINT).write_bytes((tmp_path / other / CHECKPOINT).read_bytes())
        with pytest.raises(RunDirectoryError, match=rf"checkpoint\.pt: is a checkpoint of another .*{message}"):
            run(config(), tmp_path / "a", resume=True)
        assert recorded(tmp_path / "a") == before
    torch.save({"model": {}}, tmp_path / "a" / CHECKPOINT)
    with pytest.raises(DamagedStoreError, match=r"is not a checkpoint of this trainer \(expected config, masks"):
        run(config(), tmp_path / "a", resume=True)
    (tmp_path / "a" / CHECKPOINT).write_bytes(own)
    assert run(config(), tmp_path / "a", resume=True).steps == STEPS


def test_a_key_that_is_newer_than_the_run_has_its_default(tmp_path):
    first = run(config("static"), tmp_path / "a")
    path = tmp_path / "a" / "config.toml"
    path.write_text(re.sub(r"label_smoothing = .*\n", "", path.read_text()))
    assert run(config("static"), tmp_path / "a", resume=True) == first
    with pytest.raises(RunDirectoryError, match=r"'training\.label_smoothing = 0\.0' there, 'training.* = 0\.5' asked"):
        run(config("static", "training.label_smoothing=0.5"), tmp_path / "a", resume=True)
    path.write_text(path.read_text() + "odd = 1\n")
    with pytest.raises(RunDirectoryError, match=r"'start\.odd = 1' there, '' asked for"):
        run(config("static"), tmp_path / "a", resume=True)
    path.write_text("odd")
    with pytest.raises(RunDirectoryError, match=r"what is there is not TOML \(.*nothing was changed"):
        run(config("static"), tmp_path / "a", resume=True)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("boo",))

    torch.save({"step": Evil()}, tmp_path / CHECKPOINT)
    with pytest.raises(DamagedStoreError, match=r"is not a checkpoint"):
        load_checkpoint(tmp_path / CHECKPOINT)


def test_progress_is_told(tmp_path):
    told = []
    run(config("static"), tmp_path / "a", progress=lambda done, total: told.append((done, total)))
    assert told == [(4 * n, STEPS) for n in range(1, 6)]
    assert run(config("static"), tmp_path / "b", progress=True).steps == STEPS  # no terminal here: silent


def test_an_mlp_trains_and_a_last_batch_of_one_is_left_out(tmp_path):
    result = run(config("rigl", "model={name='mlp', width=64, depths=[5]}", "data.train_samples=121"), tmp_path / "a")
    assert result.steps == STEPS
    assert {entry["name"] for entry in RunReader(tmp_path / "a").entries(0)} == {f"hidden.{i}" for i in range(5)}
    assert run(config("rigl", "data.train_samples=122"), tmp_path / "b").steps == 25


def text_config(*sets, **overrides):
    small = [
        "model={name='gpt', width=16, depths=[1], heads=2, dropout=0.2}",
        "data={name='stdlib', train_samples=40, validation_samples=8, sequence_length=16}",
        "optimizer={name='adamw', lr=0.01, clip=1.0, final=0.1}",
        "training={epochs=4, batch_size=10}",
        "masks={every=3, compensate=false}",
        "checkpoint.seconds=0",
    ]
    return load_config(
        sets=[*small, *sets], **({"family": "sparse_wide", "sparsity": 0.5, "method": "rigl"} | overrides)
    )


def test_a_text_is_learnt_with_everything_switched_on(tmp_path, monkeypatch):
    config = text_config("training.precision=bf16", "training.label_smoothing=0.1", "training.accumulate=2")
    whole = run(config, tmp_path / "whole")
    rows = list(RunReader(tmp_path / "whole").metrics())
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["val_perplexity"] == pytest.approx(np.exp(rows[-1]["val_loss"]))
    assert "head" not in RunReader(tmp_path / "whole").load_snapshot(0).layers
    run_until(10, config, tmp_path / "parts", monkeypatch)
    torch.manual_seed(3)
    assert run(config, tmp_path / "parts", resume=True).val_loss == whole.val_loss
    assert recorded(tmp_path / "parts") == recorded(tmp_path / "whole")


def test_augmented_images_resume_bit_for_bit(tmp_path, monkeypatch):
    augmented = config("rigl", "data.augment=['crop', 'flip', 'cutout']", "data.crop_padding=1", "data.cutout_size=2")
    run(augmented, tmp_path / "whole")
    run_until(10, augmented, tmp_path / "parts", monkeypatch)
    run(augmented, tmp_path / "parts", resume=True)
    assert recorded(tmp_path / "parts") == recorded(tmp_path / "whole")
    run(config("rigl"), tmp_path / "plain")
    assert recorded(tmp_path / "plain") != recorded(tmp_path / "whole")


def test_parts_of_a_batch_add_up_to_the_whole_one(tmp_path):
    # No batch norm and no dropout here, so what is left is rounding; 11 examples leave parts of 3, 3, 3 and 2.
    sets = ["model.dropout=0.0", "training.batch_size=11", "data.train_samples=44", "record.weights=fp32"]
    run(text_config(*sets), tmp_path / "whole")
    run(text_config(*sets, "training.accumulate=4"), tmp_path / "parts")
    for name in ("whole", "parts"):
        assert RunReader(tmp_path / name).steps[-1] == 16
    losses = [[row["loss"] for row in RunReader(tmp_path / name).metrics()] for name in ("whole", "parts")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_precision_and_smoothing_change_the_run(tmp_path):
    final = {}
    changes = ("", "training.precision=bf16", "training.precision=fp16", "training.label_smoothing=0.2")
    for change in (*changes, "optimizer.clip=0.1"):
        final[change] = run(config("static", *([change] if change else [])), tmp_path / (change or "plain")).val_loss
    assert len(set(final.values())) == 5
    for change in changes[1:3]:
        assert final[change] == pytest.approx(final[""], rel=0.2)


class Overflowing(Precision):
    """Begins with a scale that overflows until it has been halved many times."""

    def __init__(self, name, device):
        super().__init__(name, device)
        self.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**40)


@pytest.mark.parametrize("method", ["rigl", "rigl_original", "gse_graest", "gmp", "spartan", "srigl"])
def test_a_batch_that_overflows_fp16_is_taken_again(tmp_path, monkeypatch, method):
    half = config(method, "training.precision=fp16", "masks.every=1", "masks.stop=0.5", "optimizer.clip=1.0")
    taken = []
    backward = loop.Trainer.backward
    monkeypatch.setattr(loop.Trainer, "backward", lambda self, *a: (taken.append(self.step), backward(self, *a))[1])
    monkeypatch.setattr(loop, "Precision", Overflowing)
    run(half, tmp_path / "whole")
    assert taken.count(0) > 10  # at a mask update, the first
    assert len(taken) < 60
    reader = RunReader(tmp_path / "whole")
    assert reader.steps == [*range(10), STEPS]  # no mask update is missing
    assert all(np.isfinite(layer.values).all() for step in reader.steps for layer in reader.load_snapshot(step))
    rows = list(reader.metrics())
    assert rows[-1]["loss"] < rows[0]["loss"]
    scale = load_checkpoint(tmp_path / "whole" / CHECKPOINT)["precision"]["scale"]
    assert 1 <= scale < 2.0**40
    run_until(9, half, tmp_path / "parts", monkeypatch)
    run(half, tmp_path / "parts", resume=True)
    assert recorded(tmp_path / "parts") == recorded(tmp_path / "whole")


def test_gradients_that_overflow_unscaled_stop_the_run():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    precision = Precision("fp16", torch.device("cpu"))
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for expected in (False, None):
        precision.scaled(weight.sum()).backward()
        weight.grad[0] = torch.inf
        if expected is False:
            assert precision.step(optimizer) is False
        else:
            with pytest.raises(TrainingError, match=r"overflow fp16 although .* set training\.precision=bf16"):
                precision.step(optimizer)
    assert weight.tolist() == [1.0, 1.0]


def test_images_of_a_folder_are_trained_on(tmp_path):
    generator = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for name in ("bright", "dark"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 100, (20, 24, 3), dtype=np.uint8) + (100 if name == "bright" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / part / name / f"{i}.png")
    sets = [
        f"data={{name='folder', path='{tmp_path}/images', image_size=16, augment=['crop', 'flip'], workers=2}}",
        "training={epochs=4, batch_size=8}",
        "masks.every=2",
    ]
    results = [
        run(load_config(sets=sets, family="sparse_wide", sparsity=0.5, method="set"), tmp_path / name) for name in "ab"
    ]
    assert recorded(tmp_path / "a") == recorded(tmp_path / "b")
    assert results[0].val_accuracy == 1.0
