"""The recorder inside real trainers: through training, resume, errors and end, and nothing changed by it.

Composer and fastai are not installed for the suite: their callbacks run against stand-ins built to the documented
hooks (`fake_composer`, `fake_fastai`).
"""

import gc
import json
import sys
import types
import warnings
import weakref
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sift_graph.store import RunReader

pytestmark = pytest.mark.filterwarnings("ignore")  # the trainers' own

STEPS = 6  # optimizer steps of the small training: 12 batches, two a step


def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    for layer in (model[0], model[2]):
        prune.random_unstructured(layer, "weight", 0.5)
    return model


def move(model):
    """Move a mask, as a method of dynamic sparse training would."""
    mask = model[0].weight_mask
    mask.copy_(mask.roll(1, 0))


def batches(n=12):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 8, generator=generator) for _ in range(n)]


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def steps_of(path):
    return RunReader(path).steps


# Lightning, under both names


def lightning_parts(name):
    lightning = pytest.importorskip(name, reason=f"{name} is an extra")
    integration = import_module(f"sift_graph.integrations.{'lightning' if '.' in name else name}")

    class Module(lightning.LightningModule):
        def __init__(self, fail_at=None):
            super().__init__()
            self.model, self.losses, self.fail_at = build(), [], fail_at

        def training_step(self, batch, index):
            loss = self.model(batch).square().mean()
            self.losses.append(loss.item())
            self.log("train_loss", loss)
            if self.fail_at is not None and len(self.losses) > self.fail_at:
                raise RuntimeError("boom")
            return loss

        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            move(self.model)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(folder, callbacks, module=None, epochs=1, resume=None):
        module = module or Module()
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", accumulate_grad_batches=2, logger=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=folder, callbacks=callbacks,
            enable_checkpointing=False,
        )  # fmt: skip
        loader = torch.utils.data.DataLoader(batches(), batch_size=None)
        trainer.fit(module, loader, ckpt_path=resume)
        return trainer, module

    return integration.MaskRecorderCallback, Module, fit


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning(tmp_path, name):
    callback_type, module_type, fit = lightning_parts(name)
    _, plain = fit(tmp_path, [])
    trainer, module = fit(tmp_path, [callback_type(tmp_path / "a", part="model", every=1, on_change=False)])
    assert steps_of(tmp_path / "a") == list(range(STEPS + 1))
    assert module.losses == plain.losses
    same(module.state_dict(), plain.state_dict())
    reader = RunReader(tmp_path / "a")
    assert reader.load_snapshot(0).layers.keys() == {"0", "2"}
    assert any("train_loss" in row for row in reader.metrics())

    trainer.save_checkpoint(tmp_path / "c.ckpt")
    fit(
        tmp_path,
        [callback_type(tmp_path / "a", part="model", every=1, on_change=False)],
        epochs=2,
        resume=tmp_path / "c.ckpt",
    )
    assert steps_of(tmp_path / "a") == list(range(2 * STEPS + 1))

    with pytest.raises(RuntimeError, match="boom"):
        fit(tmp_path, [callback_type(tmp_path / "b", part="model")], module_type(fail_at=6))
    assert steps_of(tmp_path / "b")[-1] == 3


def test_an_error_of_the_disk_is_a_warning_while_training_runs():
    from sift_graph.errors import RunDirectoryError
    from sift_graph.integrations.following import Following
    from sift_graph.record import RecorderWarning

    class Full:
        step, epoch = 3, None

        def log(self, row):
            raise RunDirectoryError("no space left")

    following = Following("nowhere")
    following.recorder = Full()
    with pytest.warns(RecorderWarning, match="training goes on, but no space left"):
        following.log({"loss": 1.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        following.log({"loss": 0.5})  # said already


def test_lightning_lets_the_model_go(tmp_path):
    callback_type, _, fit = lightning_parts("lightning.pytorch")
    callback = callback_type(tmp_path / "a", part="model")
    trainer, module = fit(tmp_path, [callback])
    gone = weakref.ref(module.model)
    del trainer, module
    gc.collect()
    assert gone() is None


# Hugging Face Trainer, and Accelerate


def hf_parts():
    transformers = pytest.importorskip("transformers", reason="transformers is an extra")
    from sift_graph.integrations.hf import MaskRecorderCallback

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = build()

        def forward(self, x):
            return {"loss": self.body(x).square().mean()}

    class Moving(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kw):
            move(kw["model"].body)

    class Rows(torch.utils.data.Dataset):
        def __init__(self):
            self.rows = torch.cat(batches())

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, i):
            return {"x": self.rows[i]}

    def fit(folder, callbacks, steps=STEPS, resume=None, **options):
        arguments = transformers.TrainingArguments(
            output_dir=str(folder), max_steps=steps, per_device_train_batch_size=5, gradient_accumulation_steps=2,
            report_to=[], logging_steps=1, save_steps=3, use_cpu=True, disable_tqdm=True, seed=0, **options,
        )  # fmt: skip
        trainer = transformers.Trainer(Model(), arguments, train_dataset=Rows(), callbacks=[*callbacks, Moving()])
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return MaskRecorderCallback, fit


def test_hugging_face(tmp_path):
    callback_type, fit = hf_parts()
    plain = fit(tmp_path / "plain", [])
    trainer = fit(tmp_path / "run", [callback_type(tmp_path / "a", part="body", every=1, on_change=False)])
    assert steps_of(tmp_path / "a") == list(range(STEPS + 1))
    same(trainer.model.state_dict(), plain.model.state_dict())
    losses = [[row["loss"] for row in t.state.log_history if "loss" in row] for t in (trainer, plain)]
    assert losses[0] == losses[1]
    assert any("loss" in row for row in RunReader(tmp_path / "a").metrics())

    middle = str(tmp_path / "run" / "checkpoint-3")
    fit(
        tmp_path / "run", [callback_type(tmp_path / "a", part="body", every=1, on_change=False)], steps=STEPS + 2,
        resume=middle, restore_callback_states_from_checkpoint=True,
    )  # fmt: skip
    assert steps_of(tmp_path / "a") == list(range(STEPS + 3))
    aside = list((tmp_path / "a/masks/abandoned").rglob("*.safetensors"))
    assert len(aside) == 3  # steps 4, 5 and 6 of the first training


def test_accelerate(tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is an extra")
    from sift_graph import MaskRecorder
    from sift_graph.integrations.accelerate import MaskTracker

    def fit(recorded, resume=False):
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        recorder = MaskRecorder(tmp_path / "a", every=1, on_change=False, resume=resume) if recorded else None
        accelerator = accelerate.Accelerator(
            cpu=True, gradient_accumulation_steps=2, log_with=[MaskTracker(recorder)] if recorded else None
        )
        model, optimizer = accelerator.prepare(model, optimizer)
        if recorded:
            accelerator.init_trackers("x")
            if resume:
                accelerator.register_for_checkpointing(recorder)
                accelerator.load_state(tmp_path / "state")
                recorder.attach(accelerator.unwrap_model(model), optimizer, step=recorder.step)
            else:
                recorder.attach(accelerator.unwrap_model(model), optimizer)
                accelerator.register_for_checkpointing(recorder)
        losses = []
        for i, batch in enumerate(batches()):
            with accelerator.accumulate(model):
                loss = model(batch).square().mean()
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
                if accelerator.sync_gradients:
                    accelerator.log({"loss": loss}, step=(i + 1) // 2)
                    move(accelerator.unwrap_model(model))
            if recorded and i == 5 and not resume:
                accelerator.save_state(tmp_path / "state")
        accelerator.end_training()
        return losses, accelerator.unwrap_model(model).state_dict()

    plain, weights = fit(False)
    losses, recorded = fit(True)
    assert losses == plain
    same(recorded, weights)
    assert steps_of(tmp_path / "a") == list(range(STEPS + 1))
    assert [row["step"] for row in RunReader(tmp_path / "a").metrics()] == list(range(1, STEPS + 1))
    fit(True, resume=True)
    assert steps_of(tmp_path / "a") == list(range(3 + STEPS + 1))


# Ignite


def ignite_fit(path, *, fail_at=None, epochs=1, state=None, model=None, every=1, on_change=False):
    ignite = pytest.importorskip("ignite.engine", reason="pytorch-ignite is an extra")
    from sift_graph.integrations.ignite import MaskHandler

    model = model or build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []

    def update(engine, batch):
        if fail_at is not None and len(losses) > fail_at:
            raise RuntimeError("boom")
        loss = model(batch).square().mean()
        losses.append(loss.item())
        (loss / 2).backward()
        if engine.state.iteration % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
            move(model)

    trainer = ignite.Engine(update)
    handler = None
    if path is not None:
        handler = MaskHandler(path, model, optimizer, every=every, on_change=on_change).attach(trainer)
        if state is not None:
            handler.load_state_dict(state)
    trainer.run(batches(), max_epochs=epochs)
    return losses, model, handler


def test_ignite(tmp_path):
    plain, plain_model, _ = ignite_fit(None)
    losses, model, handler = ignite_fit(tmp_path / "a")
    assert losses == plain
    same(model.state_dict(), plain_model.state_dict())
    assert steps_of(tmp_path / "a") == list(range(STEPS + 1))
    assert handler.state_dict()["step"] == STEPS
    ignite_fit(tmp_path / "a", state={"step": 4}, model=model)
    assert steps_of(tmp_path / "a") == list(range(4 + STEPS + 1))
    assert len(list((tmp_path / "a/masks/abandoned").rglob("*.safetensors"))) == 2
    with pytest.raises(RuntimeError, match="boom"):
        ignite_fit(tmp_path / "b", fail_at=6)
    assert steps_of(tmp_path / "b")[-1] == 3


def test_ignite_leaves_an_error_to_a_handler_of_the_user(tmp_path):
    ignite = pytest.importorskip("ignite.engine", reason="pytorch-ignite is an extra")
    from sift_graph.integrations.ignite import MaskHandler

    def fail(engine, batch):
        raise RuntimeError("boom")

    model, seen = build(), []
    trainer = ignite.Engine(fail)
    MaskHandler(tmp_path / "a", model, torch.optim.SGD(model.parameters(), lr=0.1)).attach(trainer)
    trainer.add_event_handler(ignite.Events.EXCEPTION_RAISED, lambda engine, error: seen.append(str(error)))
    trainer.run(batches())
    assert seen == ["boom"]
    assert steps_of(tmp_path / "a") == [0]


def test_hugging_face_state_is_json_whatever_the_options():
    pytest.importorskip("transformers", reason="transformers is an extra")
    from sift_graph.integrations.hf import MaskRecorderCallback

    state = MaskRecorderCallback("runs/a", masks=lambda: {}, every=3, example_input=torch.zeros(2)).state()
    assert json.loads(json.dumps(state)) == {"args": {"run_dir": "runs/a", "part": None, "every": 3}, "attributes": {}}


# Keras


def test_keras_kernels_are_turned_to_what_torch_computes_with(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="keras is an extra")
    from sift_graph.integrations.keras import masks_of, turned
    from sift_graph.record import RecorderWarning

    x = np.random.default_rng(0).normal(size=(2, 7, 7, 4)).astype("f")
    made = {
        "plain": keras.layers.Conv2D(6, 3, use_bias=False, name="plain"),
        "grouped": keras.layers.Conv2D(6, 3, groups=2, use_bias=False, name="grouped"),
        "depthwise": keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="depthwise"),
        "transposed": keras.layers.Conv2DTranspose(6, 3, use_bias=False, name="transposed"),
    }
    for name, layer in made.items():
        theirs = keras.ops.convert_to_numpy(layer(x))
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        mask = turned(name, kernel != 0, kernel, layer)
        weight = torch.zeros(mask.shape)
        weight[torch.from_numpy(mask.mask)] = torch.from_numpy(mask.values).float()
        image = torch.from_numpy(x).permute(0, 3, 1, 2)
        if name == "transposed":
            ours = nn.functional.conv_transpose2d(image, weight.transpose(0, 1))
        else:
            ours = nn.functional.conv2d(image, weight, groups=mask.groups)
        assert np.allclose(ours.permute(0, 2, 3, 1).numpy(), theirs, atol=1e-5), name
    odd = keras.Sequential([keras.Input((5, 4)), keras.layers.EinsumDense("abc,cd->abd", (5, 3), name="einsum")])
    with pytest.warns(RecorderWarning, match=r"kernels of .*einsum \(EinsumDense\) are not recorded"):
        assert masks_of(odd) == {}


def test_keras(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="keras is an extra")
    from sift_graph.integrations.keras import MaskRecorderCallback

    x = np.concatenate([b.numpy() for b in batches()])

    def fit(callbacks, model=None, epochs=1):
        keras.utils.set_random_seed(0)
        if model is None:
            model = keras.Sequential(
                [keras.Input((8,)), keras.layers.Dense(16, name="a"), keras.layers.Dense(4, name="b")]
            )
            model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse")
            rng = np.random.default_rng(0)
            kernel = model.get_layer("a").kernel
            kernel.assign(keras.ops.convert_to_numpy(kernel) * (rng.random(kernel.shape) < 0.5))
        history = model.fit(
            x, np.zeros((60, 4)), batch_size=5, shuffle=False, verbose=0, callbacks=callbacks, epochs=epochs
        )
        return history.history["loss"], [keras.ops.convert_to_numpy(w) for w in model.weights], model

    losses, weights, _ = fit([])
    recorded, there, model = fit([MaskRecorderCallback(tmp_path / "a", on_change=False)])
    assert recorded == losses
    assert all(np.array_equal(a, b) for a, b in zip(weights, there, strict=True))
    assert steps_of(tmp_path / "a") == list(range(STEPS + 1))
    first = RunReader(tmp_path / "a").load_snapshot(0).layers
    name = next(n for n in first if n.endswith("a"))
    assert first[name].shape == (16, 8)  # turned: outputs first
    assert 0 < first[name].edges < 128
    assert first[name].source == "weight!=0"
    fit([MaskRecorderCallback(tmp_path / "a", on_change=False)], model)
    assert steps_of(tmp_path / "a") == list(range(2 * STEPS + 1))

    kept = np.eye(16, 4, dtype=bool)
    turns = iter(range(100))
    turning = MaskRecorderCallback(tmp_path / "c", masks=lambda model: {"b": np.roll(kept, next(turns), 0)}, every=1000)
    fit([turning], epochs=2)
    assert steps_of(tmp_path / "c") == [0, STEPS, 2 * STEPS]
    assert RunReader(tmp_path / "c").load_snapshot(STEPS).epoch == 1.0

    fit([MaskRecorderCallback(tmp_path / "b", masks=lambda model: {"b": kept})])
    (layer,) = RunReader(tmp_path / "b").load_snapshot(0).layers.values()
    assert layer.source == "keras"
    assert np.array_equal(layer.mask, kept.T)


# Composer and fastai, by their documented hooks


@pytest.fixture
def fake_composer(monkeypatch):
    composer, utils = types.ModuleType("composer"), types.ModuleType("composer.utils")
    composer.Callback, composer.Logger, composer.State = type("Callback", (), {}), object, object
    utils.dist = types.SimpleNamespace(get_global_rank=lambda: 0)
    monkeypatch.setitem(sys.modules, "composer", composer)
    monkeypatch.setitem(sys.modules, "composer.utils", utils)
    monkeypatch.delitem(sys.modules, "sift_graph.integrations.composer", raising=False)


def test_composer_by_its_documented_hooks(tmp_path, fake_composer):
    from sift_graph.integrations.composer import MaskRecorderCallback

    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    metric = types.SimpleNamespace(compute=lambda: torch.tensor(0.5))
    for start, end in ((0, 4), (2, 5)):
        callback = MaskRecorderCallback(tmp_path / "a", every=1, on_change=False)
        state = types.SimpleNamespace(
            model=model, optimizers=[optimizer], timestamp=types.SimpleNamespace(batch=start, epoch=0),
            eval_metrics={"eval": {"accuracy": metric}},
        )  # fmt: skip
        callback.fit_start(state, None)
        callback.epoch_start(state, None)
        for batch in batches(end - start):
            model(batch).square().mean().backward()
            optimizer.step()
            move(model)
        callback.eval_end(state, None)
        assert callback.state_dict()["step"] == end
        callback.fit_end(state, None)
        callback.close(state, None)
    assert steps_of(tmp_path / "a") == [0, 1, 2, 3, 4, 5]
    assert list(RunReader(tmp_path / "a").metrics())[-1]["accuracy"] == 0.5


@pytest.fixture
def fake_fastai(monkeypatch):
    for name in ("fastai", "fastai.callback", "fastai.callback.core"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["fastai.callback.core"].Callback = type("Callback", (), {"order": 0})
    monkeypatch.delitem(sys.modules, "sift_graph.integrations.fastai", raising=False)


def test_fastai_by_its_documented_hooks(tmp_path, fake_fastai):
    from sift_graph.integrations.fastai import MaskRecorderCallback

    model = build()
    callback = MaskRecorderCallback(tmp_path / "a", every=1, on_change=False)
    callback.learn = types.SimpleNamespace(
        model=model, training=True, pct_train=0.5, n_epoch=2, epoch=0,
        recorder=types.SimpleNamespace(metric_names=["epoch", "valid_loss"], log=[0, 0.25]),
    )  # fmt: skip
    for _ in range(2):
        callback.before_fit()
        for _ in range(3):
            callback.before_batch()
            callback.after_step()
            move(model)
        callback.after_epoch()
        callback.after_fit()
    assert steps_of(tmp_path / "a") == list(range(7))
    assert next(iter(RunReader(tmp_path / "a").metrics()))["valid_loss"] == 0.25
    assert callback.order > 60

    callback.learn.lr_finder = object()  # a search is no training
    callback.before_fit()
    callback.after_step()
    callback.after_fit()
    assert steps_of(tmp_path / "a") == list(range(7))


# The end of an epoch


def end_of_epochs(name, path, request):
    """Train two epochs of six steps whose masks move at each; the recorder would look at every 1000th step."""
    if name == "lightning":
        callback_type, _, fit = lightning_parts("lightning.pytorch")
        fit(path.parent, [callback_type(path, part="model", every=1000)], epochs=2)
    elif name == "hf":
        callback_type, fit = hf_parts()
        fit(path.parent / "run", [callback_type(path, part="body", every=1000)], steps=2 * STEPS)
    elif name == "ignite":
        ignite_fit(path, epochs=2, every=1000, on_change=True)
    elif name == "composer":
        request.getfixturevalue("fake_composer")
        from sift_graph.integrations.composer import MaskRecorderCallback

        model = build()
        callback = MaskRecorderCallback(path, every=1000)
        state = types.SimpleNamespace(
            model=model, optimizers=[torch.optim.SGD(model.parameters(), lr=0.1)], eval_metrics={},
            timestamp=types.SimpleNamespace(batch=0, epoch=0),
        )  # fmt: skip
        callback.fit_start(state, None)
        for epoch in (1, 2):
            for batch in batches(STEPS):
                model(batch).square().mean().backward()
                state.optimizers[0].step()
                move(model)
            state.timestamp.epoch = epoch  # Composer counts it before the event
            callback.epoch_end(state, None)
        callback.fit_end(state, None)
    else:
        request.getfixturevalue("fake_fastai")
        from sift_graph.integrations.fastai import MaskRecorderCallback

        model = build()
        callback = MaskRecorderCallback(path, every=1000)
        callback.learn = types.SimpleNamespace(model=model, training=True, pct_train=0.0, n_epoch=2, epoch=0)
        callback.before_fit()
        for callback.learn.epoch in (0, 1):
            for _ in range(STEPS):
                callback.after_step()
                move(model)
            callback.after_epoch()
        callback.after_fit()


@pytest.mark.parametrize("name", ["lightning", "hf", "ignite", "composer", "fastai"])
def test_a_mask_that_moved_is_recorded_at_the_end_of_an_epoch(tmp_path, name, request):
    end_of_epochs(name, tmp_path / "a", request)
    reader = RunReader(tmp_path / "a")
    assert reader.steps == [0, STEPS, 2 * STEPS]
    assert [reader.snapshot_header(step)["epoch"] for step in reader.steps[1:]] == [1.0, 2.0]


def test_a_missing_framework_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "composer", None)
    monkeypatch.delitem(sys.modules, "sift_graph.integrations.composer", raising=False)
    with pytest.raises(Exception, match=r'needs composer; pip install "sift-graph\[composer\]"'):
        __import__("sift_graph.integrations.composer")
