"""Configurations: read, overridden, written back; and what is refused."""

import dataclasses
import json
import re
import tomllib
from dataclasses import replace
from inspect import isfunction
from pkgutil import iter_modules

import pytest
import torch
from typer.testing import CliRunner

from sift_graph import train
from sift_graph.cli import app
from sift_graph.errors import UsageError
from sift_graph.train import Config, describe, load_config, presets, run, sweep, to_toml
from sift_graph.train.build import mask_schedule
from sift_graph.train.config_file import field_types
from sift_graph.train.optimizer import learning_rate


def test_a_file_sets_and_overrides_in_that_order(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'family = "sparse_wide"\nsparsity = 0.5\nmethod = "set"\nmodel = "mlp"\n'
        "data = { noise = 1, train_samples = 200 }\n[optimizer]\nlr = 0.2\nmilestones = [0.5]\n"
    )
    config = load_config(path, ["sparsity=0.75", "method=rigl", "optimizer.lr = 0.05"], sparsity=0.9, seed=None)
    assert (config.family, config.sparsity, config.method, config.seed) == ("sparse_wide", 0.9, "rigl", 0)
    assert (config.model.name, config.data.noise, config.data.train_samples) == ("mlp", 1.0, 200)
    assert type(config.data.noise) is float
    assert (config.optimizer.lr, config.optimizer.milestones) == (0.05, (0.5,))


def test_without_anything_the_defaults_stand():
    config, plain = load_config(), Config()
    assert dataclasses.replace(config, model=plain.model) == plain
    assert (config.model.name, config.model.width, config.model.depths) == ("resnet", 8, (1, 1, 1))


def test_a_table_may_be_given_whole_or_by_its_name():
    assert load_config(sets=["model={name='mlp', width=5}", "model.depths=[3]"]).model.width == 5
    assert load_config(sets=["model=mlp"]).model.name == "mlp"
    config = load_config(model={"width": 5, "depths": [1, 2]}, data="digits")
    assert config.model.depths == (1, 2)


def test_what_is_written_reads_back_equal(tmp_path):
    config = load_config(
        sets=[
            "model.depths=[1, 2]",
            "optimizer.milestones=[]",
            "optimizer.nesterov=false",
            "optimizer.lr=1e-7",
            "seed=3",
        ]
    )
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert load_config(path) == config
    tables = [name for name, kind in field_types(Config).items() if dataclasses.is_dataclass(kind)]
    assert [name for name, value in tomllib.loads(to_toml(config)).items() if isinstance(value, dict)] == tables


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("optimizer.lrr=1", "--set optimizer.lrr=1: unknown config key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        ("modle=mlp", "unknown config key 'modle'; did you mean 'model'?"),
        ("lr=1", "unknown config key 'lr'; did you mean 'optimizer.lr'?"),
        ("model.name.x=1", "unknown config key 'model.name.x'; known: "),
        ("optimizer={lrr=1}", "unknown config key 'optimizer.lrr'; did you mean"),
        ("optimizer=3", "optimizer: expected a table with any of name, lr, momentum"),
        ("optimizer=adam", "optimizer.name: unknown optimizer 'adam'; did you mean 'adamw'?"),
        ("training=3", "training: expected a table with any of epochs, batch_size"),
        ("optimizer.betas=[0.9]", "optimizer.betas: expected two numbers in [0, 1), found (0.9,)"),
        ("optimizer.betas=[0.9, 1]", "optimizer.betas: expected two numbers in [0, 1), found (0.9, 1.0)"),
        ("optimizer.eps=0", "optimizer.eps: expected above 0, found 0.0"),
        ("optimizer.clip=-1", "optimizer.clip: expected 0 or more, found -1.0"),
        ("optimizer.final=2", "optimizer.final: expected in [0, 1], a fraction of optimizer.lr, found 2.0"),
        (
            "optimizer.milestones=[60]",
            "optimizer.milestones: expected fractions of the training, above 0 and at most 1",
        ),
        ("optimizer.warmup_epochs=31", "optimizer.warmup_epochs: expected at most training.epochs, 30, found 31.0"),
        ("training.accumulate=26", "training.accumulate: expected 1 or more, with 2 or more examples a part, found 26"),
        ("training.label_smoothing=1", "training.label_smoothing: expected in [0, 1), found 1.0"),
        ("training.precision=fp8", "unknown training.precision 'fp8'"),
        ("optimizer.lr", "--set optimizer.lr: expected name=value"),
        ("training.epochs=1.5", "training.epochs: expected int, found 1.5"),
        ("training.epochs=true", "training.epochs: expected int, found True"),
        ("optimizer.lr=nan", "optimizer.lr: expected a finite number, found nan"),
        ("model.depths=2", "model.depths: expected a list, found 2"),
        ("model.depths=['a']", "model.depths: expected int, found 'a'"),
        ("family=sparsewide", "family: unknown family 'sparsewide'; did you mean 'sparse_wide'?"),
        ("method=rgl", "method: unknown method 'rgl'; did you mean 'rigl'?"),
        ("model=resnett", "model.name: unknown model 'resnett'; did you mean 'resnet'?"),
        ("data=digit", "data.name: unknown data 'digit'; did you mean 'digits'?"),
        ("masks.distribution=erkk", "unknown masks.distribution 'erkk'; did you mean 'erk'?"),
        ("ift.rounding=up", "ift: unknown rounding 'up'; known: "),
        ("ift.rounding=exact", "ift: unknown rounding 'exact'; known: "),
        ("ift.preset=official", "ift: unknown preset 'official'; did you mean 'official_cifar'?"),
        ("ift.nonlinearity=bnrelu", "ift: unknown nonlinearity 'bnrelu'; did you mean 'bn_relu'?"),
        ("ift.counter=flops", "ift: unknown counter 'flops'"),
        ("ift.multiple=-8", "ift: expected widths to be a multiple of 1 or more, found -8"),
        ("ift.roundin=floor", "unknown config key 'ift.roundin'; did you mean 'ift.rounding'?"),
        ("optimizer.schedule=cos", "unknown optimizer.schedule 'cos'"),
        ("record.weights=fp8", "unknown record.weights 'fp8'"),
        ("sparsity=1.0", "sparsity: expected at least 0 and below 1, a fraction of zeros, found 1.0"),
        ("sparsity=-0.5", "sparsity: expected at least 0 and below 1, a fraction of zeros, found -0.5"),
        ("sparsity=0.5", "the family 'dense' has sparsity 0, found 0.5; choose a sparse family"),
        ("seed=-1", "seed: expected 0 or more, found -1"),
        ("model.width=-1", "model.width: expected 1 or more, or 0 for the model's own, found -1"),
        ("model.depths=[1, 0]", "model.depths: expected 1 or more in each stage, found (1, 0)"),
        ("data.noise=-1", "data.noise: expected 0 or more, found -1.0"),
        ("masks.every=0", "masks.every: expected 1 or more, found 0"),
        ("masks.stop=1.5", "masks.stop: expected above 0 and at most 1, a fraction of the training, found 1.5"),
        ("masks.drop_fraction=2", "masks.drop_fraction: expected in [0, 1], found 2.0"),
        ("optimizer.lr=0", "optimizer.lr: expected above 0, found 0.0"),
        ("optimizer.momentum=0", "optimizer.nesterov: needs momentum above 0; set optimizer.nesterov=false"),
        ("training.batch_size=1", "training.batch_size: expected 2 or more, for batch norm, found 1"),
        ("training.device=meta", "training.device: cannot use 'meta' (it holds no numbers); expected cpu or cuda"),
        ("training.device=warp", "training.device: cannot use 'warp'"),
    ],
)
def test_bad_values_are_refused_by_name(item, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        load_config(sets=[item])


def test_a_bad_file_is_named(tmp_path):
    missing = tmp_path / "missing.toml"
    with pytest.raises(UsageError, match=r"missing\.toml: cannot be read \(No such file"):
        load_config(missing)
    broken = tmp_path / "broken.toml"
    broken.write_text("seed = \n")
    with pytest.raises(UsageError, match=r"broken\.toml: is not TOML \(.*line 1"):
        load_config(broken)
    odd = tmp_path / "odd.toml"
    odd.write_text("[optimiser]\nlr = 1\n")
    with pytest.raises(UsageError, match=r"odd\.toml: unknown config key 'optimiser'; did you mean 'optimizer'"):
        load_config(odd)


def test_public_names_are_what_they_say_in_any_order():
    # A function must not share its name with a module of the package: importing the one would hide the other.
    names = [name for name in train.__all__ if name.islower()]
    assert names == ["describe", "load_config", "load_study", "presets", "run", "sweep", "to_toml"]
    for name in train.__all__:
        getattr(train, name)
    assert all(isfunction(getattr(train, name)) for name in names)
    assert not {module.name for module in iter_modules(train.__path__)} & set(train.__all__)


@pytest.mark.parametrize("name", presets())
def test_every_preset_reads_and_says_what_it_is(name, request, tmp_path):
    path = request.config.rootpath / "sift_graph/train/presets" / f"{name}.toml"
    assert path.read_text().startswith("# ")
    values = tomllib.loads(path.read_text())
    config = load_config(preset=name)
    assert config.model.name == values["model"]["name"]
    assert describe(config)["ratio"] == 1  # no data and no GPU is needed for that
    if values["training"].get("device") == "cuda" and not torch.cuda.is_available():
        with pytest.raises(UsageError, match=r"training\.device: cannot use 'cuda'"):
            run(config, tmp_path / "a")
        study = tmp_path / "study.toml"
        study.write_text(f"preset = {name!r}\n")
        with pytest.raises(UsageError, match=r"study\.toml: training\.device: cannot use 'cuda'"):
            sweep(study, tmp_path / "b")
        assert [path.name for path in tmp_path.iterdir()] == ["study.toml"]
    page = (request.config.rootpath / "docs/training.md").read_text()
    assert f"`{name}`" in page


def test_presets_have_the_published_schedules():
    config = load_config(preset="cifar100_resnet18")
    epoch = {e: learning_rate(config.optimizer, e * 391, steps=200 * 391, steps_per_epoch=391) for e in range(200)}
    drops = {e: epoch[e] for e in range(1, 200) if epoch[e] != epoch[e - 1]}
    assert drops == pytest.approx({60: 0.02, 120: 0.004, 160: 0.0008})
    found = describe(config)
    assert (found["parameters"], found["macs_dense"]) == (11_220_132, 555_468_800)
    assert mask_schedule(replace(config, family="sparse_wide", method="rigl"), 200 * 391).end == 58_650
    assert len(mask_schedule(config, 200 * 391).updates) == 586
    config = load_config(preset="imagenet_resnet18")
    assert len(mask_schedule(config, 450_450).updates) == 3378
    assert describe(config)["macs_dense"] == 1_814_073_344
    config = load_config(preset="gpt3_small_wikitext103")
    assert len(mask_schedule(config, 21_511).updates) == 34
    rates = [learning_rate(config.optimizer, t, steps=21_500, steps_per_epoch=215) for t in (0, 2149, 2150, 21_499)]
    assert rates == pytest.approx([6e-4 / 2150, 6e-4, 6e-4, 6e-5], rel=1e-3)
    assert describe(config)["parameters"] == 124_439_808


@pytest.mark.parametrize(
    ("preset", "epochs", "steps_per_epoch", "drops"),
    [
        ("cifar100_resnet18_official", 200, 391, {61: 0.02, 121: 0.004, 161: 0.0008}),
        ("cifar100_vgg16_quarter", 200, 391, {80: 0.01, 120: 0.001}),  # counted from the start, not from the warm-up
    ],
)
def test_rates_drop_at_the_published_epochs(preset, epochs, steps_per_epoch, drops):
    config = load_config(preset=preset)
    assert config.training.epochs == epochs
    steps = epochs * steps_per_epoch
    first = int(config.optimizer.warmup_epochs)
    rates = {
        e: learning_rate(config.optimizer, e * steps_per_epoch, steps=steps, steps_per_epoch=steps_per_epoch)
        for e in range(first, epochs)
    }
    found = {e: rate for e, rate in rates.items() if e > first and rate != rates[e - 1]}
    assert rates[first] == pytest.approx(0.1)
    assert found == pytest.approx(drops)


def test_presets_of_other_methods_have_their_published_schedules():
    config = load_config(preset="gpt3_small_pile")
    assert config.data.train_samples == 4778 * config.training.batch_size
    schedule = mask_schedule(replace(config, family="sparse_wide"), 4778)
    assert (schedule.end, len(schedule.updates)) == (3584, 35)
    rates = [learning_rate(config.optimizer, t, steps=4778, steps_per_epoch=4778) for t in (0, 715, 716, 4777)]
    assert rates == pytest.approx([6e-4 / 716, 6e-4, 6e-4, 6e-5], rel=1e-3)
    config = load_config(preset="imagenet_resnet50_spartan")
    schedule = mask_schedule(replace(config, family="sparse_wide"), 31_300)  # of 313 batches an epoch
    assert (schedule.end, config.options.ramp * schedule.end) == (0.8 * 31_300, 0.2 * 31_300)
    assert (config.method, config.optimizer.final * config.optimizer.lr) == ("spartan", 1e-3)
    official = load_config(preset="cifar100_resnet18_official", family="sparse_doped", sparsity=0.9)
    assert describe(official)["counted_ratio"] == pytest.approx(0.1934, abs=0.0022)  # its U and V are masked
    assert (official.masks.init, official.optimizer.decay_all) == ("bernoulli", True)


@pytest.mark.parametrize(
    ("model", "classes", "parameters", "shape"),
    [
        ("resnet18", 100, 11_220_132, [64, 3, 3, 3]),
        ("resnet34_imagenet", 1000, 21_797_672, [64, 3, 7, 7]),
        ("mobilevit_s_imagenet", 1000, 5_578_632, [16, 3, 3, 3]),
        ("vit_s16", 1000, 22_050_664, [384, 3, 16, 16]),
        ("gpt3_xl", 50257, 1_315_723_264, [2048, 2048]),
    ],
)
def test_a_number_of_classes_stands_for_a_data_set(model, classes, parameters, shape, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = describe(load_config(model=model, classes=classes))
    assert found["parameters"] == parameters
    assert found["layers"][0]["shape"] == shape
    assert found["layers"][-1]["shape"][0] == classes


def test_a_number_of_classes_changes_the_data_set_that_is_named():
    config = load_config(preset="imagenet_resnet18", classes=10)
    assert (config.data.name, config.data.classes, config.data.workers) == ("folder", 10, 8)
    config = load_config(sets=["data.image_size=64"], model="resnet34", classes=7)
    assert (config.data.name, config.data.image_size) == ("folder", 64)
    assert describe(config)["layers"][-1]["shape"] == [7, 512]
    with pytest.raises(UsageError, match=r"data\.classes: means nothing to the data set 'cifar100'"):
        load_config(model="resnet18", data="cifar100", classes=100)
    with pytest.raises(UsageError, match=r"data\.classes: expected 2 or more, or 0 for all, found 1"):
        load_config(model="resnet18", classes=1)
    with pytest.raises(UsageError, match="unknown model 'resnet19'; did you mean 'resnet18'"):
        load_config(model="resnet19", classes=100)
    shown = CliRunner().invoke(app, ["describe", "--model", "resnet18", "--classes", "100", "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["macs"] == 555_468_800


def test_a_file_changes_a_preset_and_options_change_both(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[training]\nepochs = 3\n[optimizer]\nlr = 0.5\n")
    config = load_config(path, ["optimizer.lr=0.25"], preset="shapes", seed=7)
    assert (config.training.epochs, config.training.batch_size) == (3, 100)
    assert (config.optimizer.lr, config.seed, config.data.name) == (0.25, 7, "shapes")


def test_another_model_or_data_set_leaves_the_options_of_the_first():
    config = load_config(sets=["model.width=24"], preset="shapes", model="vit")
    assert (config.model.name, config.model.width, config.model.depths) == ("vit", 24, (6,))
    config = load_config(preset="shapes", data="digits", model="resnet")
    assert config.data == Config().data
    assert config.model.depths == (1, 1, 1, 1)


def test_an_unknown_preset_is_refused():
    with pytest.raises(UsageError, match="unknown preset 'shape'; did you mean 'shapes'"):
        load_config(preset="shape")


def test_the_command_takes_a_preset():
    sets = ["--set", "data.train_samples=500", "--family", "sparse_wide", "--sparsity", "0.75", "--json"]
    shown = CliRunner().invoke(app, ["describe", "--preset", "shapes", *sets])
    assert shown.exit_code == 0, shown.output
    facts = json.loads(shown.stdout)
    assert facts["ratio"] == pytest.approx(1, abs=1e-3)
    assert facts["layers"][0]["shape"] == [16, 3, 3, 3]
