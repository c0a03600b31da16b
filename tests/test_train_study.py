"""Studies: the grid, the names, skipping, failing, processes."""

import json
import re

import pytest

from sift_graph.errors import RunDirectoryError, UsageError
from sift_graph.store import RunReader
from sift_graph.train import load_study, sweep

STUDY = """
seeds = [0, 3]
[grid]
family = ["dense", "sparse_wide"]
sparsity = [0.5, 0.75]
method = ["static", "rigl"]
[config]
model = { name = "mlp", width = 48, depths = [6] }
data.train_samples = 100
masks.every = 3
training.epochs = 3
"""


@pytest.fixture
def study(tmp_path):
    def write(text=STUDY, name="study.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_the_grid_trains_dense_once_a_seed(study):
    configs = load_study(study())
    assert list(configs) == [
        "dense-seed0",
        "dense-seed3",
        *(f"sparse_wide-s{s}-{m}-seed{n}" for s in (0.5, 0.75) for m in ("static", "rigl") for n in (0, 3)),
    ]
    dense, wide = configs["dense-seed3"], configs["sparse_wide-s0.75-rigl-seed0"]
    assert (dense.family, dense.sparsity, dense.seed, dense.model.name) == ("dense", 0.0, 3, "mlp")
    assert (wide.family, wide.sparsity, wide.method, wide.seed) == ("sparse_wide", 0.75, "rigl", 0)
    assert {config.data.train_samples for config in configs.values()} == {100}


def test_other_keys_of_the_grid_are_named_and_masks_do_not_multiply_dense(study):
    configs = load_study(
        study('seeds = 1\n[grid]\nfamily = ["dense", "sparse_wide"]\nmasks.every = [2, 4]\noptimizer.lr = [0.1, 0.2]\n')
    )
    assert list(configs) == [
        "dense-optimizer.lr=0.1-seed0",
        "dense-optimizer.lr=0.2-seed0",
        "sparse_wide-s0-static-masks.every=2-optimizer.lr=0.1-seed0",
        "sparse_wide-s0-static-masks.every=2-optimizer.lr=0.2-seed0",
        "sparse_wide-s0-static-masks.every=4-optimizer.lr=0.1-seed0",
        "sparse_wide-s0-static-masks.every=4-optimizer.lr=0.2-seed0",
    ]
    assert configs["dense-optimizer.lr=0.2-seed0"].optimizer.lr == 0.2


def test_several_grids_are_joined_and_a_run_of_two_of_them_is_made_once(study):
    text = """
seeds = 2
[[grid]]
family = ["dense", "sparse_wide"]
sparsity = [0.5]
[[grid]]
family = ["sparse_doped"]
sparsity = [0.5, 0.75]
ift.nonlinearity = ["identity"]
[[grid]]
family = ["dense", "low_rank_linear"]
sparsity = [0.75]
method = ["rigl"]
[config]
training.epochs = 3
masks.every = 5
"""
    configs = load_study(study(text))
    assert list(configs) == [
        f"{cell}-seed{seed}"
        for cell in (
            "dense",
            "sparse_wide-s0.5-static",
            "sparse_doped-s0.5-static-ift.nonlinearity=identity",
            "sparse_doped-s0.75-static-ift.nonlinearity=identity",
            "low_rank_linear-s0.75",
        )
        for seed in (0, 1)
    ]
    assert configs["sparse_doped-s0.75-static-ift.nonlinearity=identity-seed1"].ift.nonlinearity == "identity"
    assert configs["sparse_wide-s0.5-static-seed0"].ift.nonlinearity == ""
    assert {config.training.epochs for config in configs.values()} == {3}


def test_a_low_rank_family_keeps_its_sparsity_which_sets_its_width(study):
    text = '[grid]\nfamily = ["low_rank_linear"]\nsparsity = [0.0, 0.75]\nmethod = ["static", "rigl"]\n'
    configs = load_study(study(text))
    assert list(configs) == ["low_rank_linear-s0-seed0", "low_rank_linear-s0.75-seed0"]
    assert [config.sparsity for config in configs.values()] == [0.0, 0.75]


def test_every_study_that_is_shipped_reads(request, tmp_path):
    for path in sorted((request.config.rootpath / "analysis" / "studies").glob("*.toml")):
        one_seed = tmp_path / path.name  # the others are the same runs again
        one_seed.write_text(re.sub(r"^seeds = .+$", "seeds = 1", path.read_text(), flags=re.MULTILINE))
        assert len(load_study(one_seed)) > 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sedes = 1", "study.toml: unknown key 'sedes'; did you mean 'seeds'?"),
        ("seeds = []", "seeds: expected a list of numbers or how many, found []"),
        ("seeds = 'a'", "seeds: expected a list of numbers or how many, found 'a'"),
        ("[grid]\nmethod = 'rigl'", "grid.method: expected a list of values, found 'rigl'"),
        ("grid = 3", "grid: expected a table [grid] or several [[grid]], found 3"),
        ("grid = []", "grid: expected a table [grid] or several [[grid]], found []"),
        (
            "[[grid]]\nmethod = ['set']\n[[grid]]\nmethod = 'rigl'",
            "grid.method (of [[grid]] number 2): expected a list of values, found 'rigl'",
        ),
        ("[[grid]]\nmethod = ['set']\n[[grid]]\nseed = [1]", "seed: name the seeds of a study once"),
        ("[grid]\nmethod = []", "grid.method: expected a list of values, found []"),
        ("[grid]\nmethod = ['rgl']", "method: unknown method 'rgl'; did you mean 'rigl'?"),
        ("[grid]\nmehtod = ['rigl']", "study.toml: unknown config key 'mehtod'; did you mean 'method'?"),
        ("[config]\nlr = 1", "study.toml: unknown config key 'lr'; did you mean 'optimizer.lr'?"),
        ("[grid]\nseed = [1]", "seed: name the seeds of a study once, as seeds = [0, 1]"),
        ("[grid]\nfamily = ['sparse_wide']\nsparsity = [1.5]", "sparsity: expected at least 0 and below 1"),
    ],
)
def test_a_study_that_does_not_fit_is_refused_before_anything_is_trained(study, tmp_path, text, message):
    path = study(text)
    with pytest.raises(UsageError, match=re.escape(message)):
        sweep(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_finished_runs_are_skipped_and_a_failed_one_does_not_stop_the_rest(study, tmp_path):
    path = study(STUDY.replace("[0, 3]", "1") + "[grid.optimizer]\nlr = [1e30, 0.1]\n")
    told = []
    first = sweep(path, tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 10) for n in range(11)]
    assert (len(first.finished), first.skipped, len(first.failed)) == (5, [], 5)
    assert all("lr=1e+30" in str(failed) and "the loss is" in failed.error for failed in first.failed)
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert sorted(line["status"] for line in lines) == ["failed"] * 5 + ["finished"] * 5
    assert {line["run"] for line in lines} == set(load_study(path))
    again = sweep(path, tmp_path / "out")
    assert (again.finished, len(again.failed)) == ([], 5)
    assert again.skipped == first.finished
    assert all("graph" in RunReader(run).header for run in (tmp_path / "out").iterdir() if (run / "sift.json").exists())


def test_a_run_of_another_configuration_fails_and_is_not_touched(study, tmp_path):
    path = study("[grid]\n[config]\ntraining.epochs = 1\ndata.train_samples = 100\n")
    assert len(sweep(path, tmp_path / "out").finished) == 1
    before = (tmp_path / "out" / "dense-seed0" / "metrics.jsonl").read_text()
    path = study("[grid]\n[config]\ntraining.epochs = 2\ndata.train_samples = 100\n")
    result = sweep(path, tmp_path / "out")
    [failure] = result.failed
    assert "of another configuration: 'training.epochs = 1' there, 'training.epochs = 2' asked for" in failure.error
    assert (tmp_path / "out" / "dense-seed0" / "metrics.jsonl").read_text() == before


def test_several_processes_give_the_same_runs_as_one(study, tmp_path):
    path = study(STUDY.replace("[0, 3]", "1").replace("[0.5, 0.75]", "[0.75]"))
    one, two = sweep(path, tmp_path / "one", jobs=1), sweep(path, tmp_path / "two", jobs=2)
    assert [r.run_dir.name for r in one.finished] == [r.run_dir.name for r in two.finished] == list(load_study(path))
    for a, b in zip(one.finished, two.finished, strict=True):
        assert a.val_accuracy == b.val_accuracy
        readers = RunReader(a.run_dir), RunReader(b.run_dir)
        assert readers[0].steps == readers[1].steps
        for step in readers[0].steps:
            left, right = (reader.load_snapshot(step) for reader in readers)
            assert [layer.digest for layer in left] == [layer.digest for layer in right]
            assert all((x.values == y.values).all() for x, y in zip(left, right, strict=True))


def test_an_unexpected_error_is_kept_with_its_traceback(study, tmp_path, monkeypatch):
    def broken(config, run_dir, *, resume):
        raise ZeroDivisionError("somewhere deep")

    monkeypatch.setattr("sift_graph.train.study.run", broken)
    result = sweep(study("[config]\ntraining.epochs = 1\n"), tmp_path / "out")
    assert "Traceback" in result.failed[0].error
    assert "ZeroDivisionError: somewhere deep" in result.failed[0].error


def test_a_file_in_the_place_of_the_output_is_refused(study, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(RunDirectoryError, match="out: is a file; name a directory for the runs"):
        sweep(study(), tmp_path / "out")


def test_a_study_changes_a_preset(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('preset = "shapes"\n[grid]\nmodel.width = [4, 6]\n[config]\ntraining.epochs = 3\n')
    configs = load_study(path)
    assert [config.model.width for config in configs.values()] == [4, 6]
    for config in configs.values():
        assert (config.data.name, config.training.epochs, config.training.batch_size) == ("shapes", 3, 100)
    path.write_text('preset = "shape"\n')
    with pytest.raises(UsageError, match="unknown preset 'shape'; did you mean 'shapes'"):
        load_study(path)
