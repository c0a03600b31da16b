"""The studies in analysis/: each script runs on a study of its own grid, and each page shows what its results say."""

import importlib
import re
import runpy
import sys

import numpy as np
import pandas as pd
import pytest

from analysis.paired import differences, interval, tables, with_cells
from sift_graph.train import load_study, sweep
from tests.runs import write_run

STUDIES = ("digits", "families", "shapes")
TINY = """
seeds = 2
[[grid]]
family = ["dense", "sparse_wide"]
sparsity = [0.5]
method = ["rigl"]
[config]
model = { name = "mlp", width = 48, depths = [4] }
data = { name = "digits", train_samples = 60 }
masks.every = 1
training = { epochs = 2, batch_size = 30 }
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    (path / "study.toml").write_text(TINY)
    assert len(sweep(path / "study.toml", path / "runs").finished) == 4
    return path / "runs"


def run_script(name, monkeypatch):
    monkeypatch.delitem(sys.modules, f"analysis.{name}.summarise", raising=False)  # else runpy warns
    runpy.run_module(f"analysis.{name}.summarise", run_name="__main__")


@pytest.mark.parametrize("name", STUDIES)
def test_the_script_of_a_study_writes_its_results_and_its_figure(name, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["summarise", str(tiny), str(tmp_path)])
    run_script(name, monkeypatch)
    frame = pd.read_csv(tmp_path / "results.csv")
    assert sorted(frame["run"]) == [
        *(f"dense-seed{seed}" for seed in (0, 1)),
        *(f"sparse_wide-s0.5-rigl-seed{seed}" for seed in (0, 1)),
    ]
    dense, wide = (frame[frame["family"] == family] for family in ("dense", "sparse_wide"))
    d = wide["val_accuracy"].to_numpy() - dense["val_accuracy"].to_numpy()
    shown = capsys.readouterr().out
    assert f"| dense | 2 | {dense['val_accuracy'].mean():.4f} |" in shown
    assert f"| wide 0.5{' rigl' * (name != 'families')} | dense | 2 | {d.mean():.4f} |" in shown
    assert (tmp_path / "differences.svg").read_text().count("validation accuracy, paired by seed") == 1


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_of_a_study_shows_the_tables_of_its_results(name, request):
    folder = request.config.rootpath / "analysis" / name
    script = importlib.import_module(f"analysis.{name}.summarise")
    frame = pd.read_csv(folder / "results.csv")
    page = (folder / "README.md").read_text()
    for table in tables(frame, script.labels(), script.questions()):
        assert table in page


@pytest.mark.parametrize("name", STUDIES)
def test_the_labels_of_a_study_are_those_of_its_grid(name, request, tmp_path):
    script = importlib.import_module(f"analysis.{name}.summarise")
    grid = (request.config.rootpath / "analysis" / "studies" / f"{name}.toml").read_text()
    (tmp_path / "one.toml").write_text(re.sub(r"^seeds = \d+$", "seeds = 1", grid, flags=re.MULTILINE))
    runs = load_study(tmp_path / "one.toml")
    labels = script.labels()
    assert {run.rsplit("-seed", 1)[0] for run in runs} == set(labels)
    assert len(set(labels.values())) == len(labels)
    for pairs in script.questions().values():
        assert {label for pair in pairs for label in pair} <= set(labels.values())


def made_up(accuracies):
    rows = [
        {"run": f"{cell}-seed{seed}", "seed": seed, "val_accuracy": value}
        for cell, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return with_cells(pd.DataFrame(rows), {"a": "A", "b": "B", "c": "C", "d": "D"})


def test_differences_are_paired_by_seed_and_adjusted_over_all_questions():
    # B is A and a little more, whatever the seed does; C is noise around A.
    seeds, more = np.array([0.1, 0.5, 0.9, 0.3, 0.7]), np.array([0.01, 0.02, 0.01, 0.02, 0.01])
    frame = made_up({"a": seeds, "b": seeds + more, "c": seeds[::-1], "d": [0.2]})
    table = differences(frame, {"one": [("B", "A"), ("C", "A")], "two": [("A", "B"), ("A", "D"), ("A", "E")]})
    assert list(table["a"]) == ["B", "C", "A"]  # one seed of D and none of E: left out
    assert table["a - b"].tolist() == pytest.approx([0.014, 0.0, -0.014])
    assert table["a better"].tolist() == [5, 2, 0]
    # Of 0.014 on 5 seeds with deviation 0.00548: t = 5.715, p = 0.00463 on 4 degrees of freedom.
    assert table["p"].tolist() == pytest.approx([0.00464, 1.0, 0.00464], abs=1e-5)
    assert table["p (Holm)"].tolist() == pytest.approx([3 * 0.00464, 1.0, 3 * 0.00464], abs=1e-4)
    mean, low, high = interval(np.array([1.0, 2.0, 3.0]))
    assert (mean, low, high) == pytest.approx((2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


def test_a_study_of_which_no_run_is_finished_is_refused(tmp_path, monkeypatch):
    write_run(tmp_path / "dense-seed0")
    monkeypatch.setattr(sys, "argv", ["summarise", str(tmp_path), str(tmp_path)])
    with pytest.raises(SystemExit, match="holds no finished run; train the study with `sift-graph sweep`"):
        run_script("digits", monkeypatch)
    assert not (tmp_path / "results.csv").exists()


def test_the_controlled_and_the_observational_script_run(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "c"
    base = 'family = "sparse_wide"\nsparsity = 0.5\nmethod = "static"\n'
    base += 'model = { name = "mlp", width = 24, depths = [2] }\n'
    base += 'data = { name = "digits", train_samples = 60 }\nmasks = { compensate = false }\n'
    base += "training = { epochs = 1, batch_size = 30 }\n"
    grid = 'seeds = 2\n[[grid]]\nmasks.init = ["community"]\noptions.strength = [0.0, 0.5, 1.0]\n'
    (tmp_path / "c.toml").write_text(f'{grid}[[grid]]\nmasks.init = ["even"]\n[config]\n{base}')
    assert len(sweep(tmp_path / "c.toml", folder).finished) == 8
    monkeypatch.setattr(sys, "argv", ["summarise", str(folder), str(folder), str(tmp_path / "out")])
    run_script("controlled", monkeypatch)
    shown = capsys.readouterr().out
    assert "| residual network | random | 0.0000 | 2 |" in shown
    assert "| fully connected | even fan-out | 0.0000 | 2 |" in shown
    frame = pd.read_csv(tmp_path / "out/results.csv")
    assert frame.groupby("structure")["edges"].nunique().eq(1).all()
    assert (tmp_path / "out/dose_response.svg").stat().st_size > 5000

    monkeypatch.setattr(sys, "argv", ["summarise", str(folder), str(tmp_path / "o")])
    run_script("observational", monkeypatch)
    shown = capsys.readouterr().out
    assert "mean_density" in shown
    assert "Of val_accuracy, higher is better: a positive correlation" in shown
    assert len(pd.read_csv(tmp_path / "o/results.csv")) == 8

    monkeypatch.setattr(sys, "argv", ["summarise", str(folder), str(tmp_path / "l"), "--target", "val_loss"])
    run_script("observational", monkeypatch)
    shown = capsys.readouterr().out
    runs = pd.read_csv(tmp_path / "l/results.csv")
    assert (
        "Of val_loss, lower is better: a negative correlation says that larger values go with better models." in shown
    )
    assert f"| sparse_wide | 0.5000 | {runs['final_val_loss'].mean():.4f} |" in shown
    assert set(pd.read_csv(tmp_path / "l/correlations.csv")["target"]) == {"val_loss"}


def test_the_scripts_of_evolution_and_of_definitions_run(tiny, tmp_path, monkeypatch, capsys):
    for name, written in (("evolution", "curves"), ("definitions", "definitions")):
        monkeypatch.setattr(sys, "argv", ["summarise", str(tiny), str(tmp_path / name)])
        run_script(name, monkeypatch)
        assert (tmp_path / name / f"{written}.csv").exists()
        assert (tmp_path / name / f"{name}.svg").stat().st_size > 5000
    shown = capsys.readouterr().out
    assert "| 0.5000 | rigl | 2 |" in shown
    runs = pd.read_csv(tmp_path / "evolution/results.csv")
    assert (
        runs.loc[runs["family"] == "sparse_wide" if "family" in runs else runs["method"] == "rigl", "er"].notna().all()
    )
    assert "| Ramanujan gap | vita_rm | 100 % |" in shown


def test_the_page_of_evolution_shows_the_tables_of_its_results(request):
    from analysis.evolution.summarise import changes, null_table, sentences
    from analysis.paired import markdown

    folder = request.config.rootpath / "analysis/evolution"
    runs = pd.read_csv(folder / "results.csv")
    page = (folder / "README.md").read_text()
    assert len(runs) == 120
    for part in (changes(runs), null_table(runs)):
        assert markdown(part) in page
    for sentence in sentences(runs):
        assert sentence in page


def test_the_page_of_definitions_shows_the_table_of_its_results(request):
    from analysis.definitions.summarise import changed, shown
    from analysis.paired import markdown

    folder = request.config.rootpath / "analysis/definitions"
    table = pd.read_csv(folder / "definitions.csv")
    page = (folder / "README.md").read_text()
    assert markdown(shown(table)) in page
    for sentence in changed(table):
        assert f"- {sentence}" in page


@pytest.mark.parametrize(
    ("name", "target", "n"),
    [
        ("observational", "val_accuracy", 610),
        ("observational_shapes", "val_accuracy", 80),
        ("observational_text", "val_loss", 95),
    ],
)
def test_the_page_of_an_observational_study_shows_the_tables_of_its_results(name, target, n, request):
    from analysis.observational.summarise import cells, direction, estimates
    from analysis.paired import markdown

    folder = request.config.rootpath / "analysis" / name
    runs = pd.read_csv(folder / "results.csv")
    page = (folder / "README.md").read_text()
    assert len(runs) == n
    assert (direction(target) in page) or target == "val_accuracy"
    assert markdown(cells(runs, target)) in page
    shown = estimates(pd.read_csv(folder / "correlations.csv"))
    assert list(shown["metric"])[-1] == "mean_density"
    for line in markdown(shown.drop(columns=["given density and sparsity", "between seeds"])).splitlines()[2:-1]:
        assert line.split(" | ")[1] in page


def test_the_page_of_the_controlled_study_shows_the_tables_of_its_results(request):
    from analysis.controlled.summarise import against_random, trends
    from analysis.paired import markdown

    folder = request.config.rootpath / "analysis/controlled"
    frame = pd.read_csv(folder / "results.csv")
    page = (folder / "README.md").read_text()
    for line in markdown(against_random(frame)).splitlines():
        assert line in page
    rows = trends(frame)
    assert set(rows["dial"]) == {"communities", "hubs"}
    assert len(frame) == 620
    assert markdown(rows) in page
