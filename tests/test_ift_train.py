"""Families in the bundled trainer: described, trained, recorded, resumed."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from sift_graph.cli import app
from sift_graph.errors import UsageError
from sift_graph.ift import COUNTERS, FAMILIES, NONLINEARITIES, PRESETS
from sift_graph.store import RunReader
from sift_graph.train import describe, load_config, run
from sift_graph.train.build import blueprint, build_model

SPARSE = [name for name, family in FAMILIES.items() if family.takes_sparsity]
SMALL = ["model.width=8", "model.depths=[1, 1]", "training.epochs=2", "data.train_samples=200", "masks.every=2"]


@pytest.mark.parametrize("preset", ["", "official_cifar", "official_imagenet"])
@pytest.mark.parametrize("family", SPARSE)
@pytest.mark.parametrize("model", ["resnet", "mlp"])
def test_what_is_described_is_what_is_built(model, family, preset):
    width = 8 if model == "resnet" else 128
    config = load_config(
        sets=[f"ift.preset={preset!r}", f"model.width={width}"], family=family, sparsity=0.75, model=model
    )
    what = describe(config)
    built = build_model(config)
    assert what["parameters"] == sum(p.numel() for p in built.parameters())
    for layer in what["layers"]:
        assert list(built.get_submodule(layer["name"]).weight.shape) == layer["shape"]
        assert (layer["shape_dense"] is None) == (layer["ratio"] is None) == (layer["macs_dense"] == 0)
        assert layer["name"].startswith(layer["origin"])
    assert what["macs"] == sum(layer["macs"] for layer in what["layers"])
    assert what["macs_dense"] == sum(layer["macs_dense"] for layer in what["layers"])
    assert what["masked_weights"] == sum(layer["cardinality"] for layer in what["layers"])
    assert built(torch.randn(4, 1, 8, 8)).shape == (4, 10)


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.6, 0.75, 0.9])
@pytest.mark.parametrize("family", ["sparse_parallel", "sparse_factorized", "sparse_doped"])
@pytest.mark.parametrize("model", ["resnet", "mlp"])
def test_the_trained_model_is_iso_flop_within_half_a_percent(model, family, sparsity):
    what = describe(load_config(family=family, sparsity=sparsity, model=model))
    assert what["ratio"] == pytest.approx(1, abs=0.005)
    assert what["counted_ratio"] == pytest.approx(what["ratio"], rel=1e-9)


@pytest.mark.parametrize("method", ["static", "rigl"])
@pytest.mark.parametrize("family", SPARSE)
def test_every_family_trains_and_records_its_masked_layers(family, method, tmp_path):
    config = load_config(sets=SMALL, family=family, sparsity=0.5, method=method)
    result = run(config, tmp_path / "run")
    found = blueprint(config)
    snapshot = RunReader(tmp_path / "run").load_snapshot(result.steps)
    assert list(snapshot.layers) == list(found.counts)
    for name, layer in snapshot.layers.items():
        assert layer.mask.sum() == found.counts[name]
        assert layer.mask.shape == found.plan.transformed[name].shape
    parts = {"sparse_parallel": ".branches.1", "sparse_factorized": ".v", "sparse_doped": ".sparse"}
    assert f"stage1.0.conv1{parts.get(family, '.u' if 'rank' in family else '')}" in snapshot.layers
    if family == "sparse_doped":
        assert not any(name.endswith((".u", ".v")) for name in snapshot.layers)


@pytest.mark.parametrize("family", ["sparse_parallel", "sparse_doped"])
def test_a_run_that_goes_on_is_the_run_that_never_stopped(family, tmp_path):
    config = load_config(sets=[*SMALL, "checkpoint.seconds=0"], family=family, sparsity=0.6, method="rigl")
    whole = run(config, tmp_path / "whole")
    run(config, tmp_path / "part")
    (tmp_path / "part/done.json").unlink()
    again = run(config, tmp_path / "part", resume=True)
    assert again.val_loss == whole.val_loss


def test_the_last_branch_has_what_is_left():
    found = blueprint(load_config(family="sparse_parallel", sparsity=0.6, model="mlp"))
    assert found.counts["hidden.0.branches.0"] == pytest.approx(0.4 * 128**2, abs=1)
    assert found.counts["hidden.0.branches.2"] == round(0.2 * 128**2)


def test_a_branch_without_weights_is_refused():
    sets = ["model.width=2", "model.depths=[2]"]
    with pytest.raises(UsageError, match=r"layer 'hidden\.0\.branches\.1': a density of 0\.01 keeps none of its 4"):
        describe(load_config(sets=sets, family="sparse_parallel", sparsity=0.01, model="mlp"))


def test_low_rank_families_take_a_sparsity_for_their_width():
    what = describe(load_config(family="low_rank_linear", sparsity=0.75))
    assert what["layers"][0]["shape"][0] == 16
    assert (what["masked_layers"], what["masked_weights"], what["effective_sparsity"]) == (0, 0, 0.0)
    assert what["ratio"] == pytest.approx(1, abs=0.05)


def test_the_command_describes_a_family_by_its_preset():
    words = ["describe", "--family", "sparse_doped", "--sparsity", "0.75", "--set", "ift.preset=official_cifar"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.stderr
    assert "by the official counter the ratio is 0." in shown.stdout
    assert "stage1.0.conv1.sparse" in shown.stdout
    facts = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert facts["counter"] == "official"
    assert facts["counted_ratio"] < 0.6
    rows = {row["name"]: row for row in facts["layers"]}
    assert rows["stage1.0.conv1.u"]["masked"]
    assert rows["stage1.0.conv1.u"]["ratio"] is None
    assert rows["stage1.0.conv1.sparse"]["ratio"] == pytest.approx(
        sum(rows[f"stage1.0.conv1.{part}"]["macs"] for part in ("sparse", "u", "v"))
        / rows["stage1.0.conv1.sparse"]["macs_dense"]
    )
    assert rows["stage2.0.shortcut"]["masked"]


def test_the_command_refuses_a_nonlinearity_that_is_not_there():
    shown = CliRunner().invoke(app, ["describe", "--set", "ift.nonlinearity=bnrelu"])
    assert shown.exit_code == 2
    assert "ift: unknown nonlinearity 'bnrelu'; did you mean 'bn_relu'?" in shown.stderr


def test_the_families_page_says_what_is_there(request):
    page = (request.config.rootpath / "docs/families.md").read_text()
    namespace = {}
    for code in re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE):
        exec(code.replace("print(", "str("), namespace)
    assert namespace["wide"].model.head.in_features == 48
    assert namespace["wide"].plan.ratio == pytest.approx(1, rel=1e-12)
    assert namespace["made"].plan.ratio == 1.0
    assert len(namespace["masks"]) == 4
    assert all(f"`{name}`" in page for name in (*FAMILIES, *NONLINEARITIES, *PRESETS, *COUNTERS))
    for words in re.findall(r"^sift-graph (.*)$", page, flags=re.MULTILINE):
        shown = CliRunner().invoke(app, words.split())
        assert shown.exit_code == 0, shown.stderr
