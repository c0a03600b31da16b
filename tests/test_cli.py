"""The command through its runner: streams, schemas, exit codes, messages."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import sift_graph
from sift_graph.cli import app
from sift_graph.store import RunReader
from tests.runs import HOSTILE, SHAPES, write_run

COMMANDS = ["train", "sweep", "analyze", "correlate", "report", "show", "metrics", "describe", "import"]
COMMANDS += ["watch", "doctor", "pack", "unpack"]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """No width from outside: a runner of tests may set one."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "a", accuracy=0.8)


@pytest.fixture
def study(tmp_path):
    """Nine runs whose accuracy follows density and a little noise."""
    rng = np.random.default_rng(0)
    root = tmp_path / "study"
    for density in (0.3, 0.5, 0.7):
        for seed in range(3):
            accuracy = 0.5 + 0.3 * density + 0.02 * rng.standard_normal()
            write_run(root / f"d{density}-{seed}", density=density, seed=seed, steps=(0, 10), accuracy=accuracy)
    return root


def invoke(*args, code=0):
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output + result.stderr
    return result


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_a_line_in_the_readme(command, request):
    shown = invoke(command, "--help").stdout
    assert "Usage" in shown
    assert "Example" in shown
    readme = (request.config.rootpath / "README.md").read_text()
    assert re.search(rf"sift-graph {command}\b", readme)


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['sift-graph', '--help']\n"
        "from sift_graph.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'scipy', 'pandas', 'matplotlib', 'numba', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert command in done.stdout


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, sift_graph\n"
        "assert not {'torch', 'scipy', 'pandas', 'matplotlib', 'numba', 'networkx'} & set(sys.modules)\n"
        "sift_graph.LayerMask, sift_graph.BipartiteGraph, sift_graph.open\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
        "assert {'measure', 'analyze', 'MaskRecorder', 'plots'} <= set(dir(sift_graph))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_measuring_works_without_torch(run, tmp_path):
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'sklearn'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "sys.argv = ['sift-graph', 'report', sys.argv[1]]\n"
        "from sift_graph.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code = code.replace("'report', sys.argv[1]", "'describe'")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "this command needs torch; pip install 'sift-graph[torch]'" in done.stderr


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'mesure'"):
        _ = sift_graph.mesure


def test_analyze_prints_a_row_a_layer_and_writes_the_tables(run):
    result = invoke("analyze", run)
    for layer in SHAPES:
        assert layer in result.stdout
    assert "▁" in result.stdout
    (directory,) = (run / "analysis").iterdir()
    written = {p.name for p in directory.iterdir()}
    assert {"rows.jsonl", "layers.csv", "layers.parquet", "network.csv", "summary.json", "figures"} <= written
    assert len(pd.read_csv(directory / "layers.csv")) == 16
    figures = sorted((directory / "figures").glob("*.svg"))
    assert figures
    assert all(f.read_text().lstrip().startswith("<?xml") for f in figures)
    assert "tables and figures" in result.stderr
    assert "16 rows computed, 0 kept" in result.stderr
    assert "0 rows computed, 16 kept" in invoke("analyze", run).stderr


def test_analyze_json_is_one_object_and_nothing_else(run):
    result = invoke("analyze", run, "--json", "--steps", "last")
    content = json.loads(result.stdout)
    assert list(content) == ["schema", "rows", "warnings", "timing"]
    assert content["schema"] == "sift-graph/analyze/1"
    assert len(content["rows"]) == 4
    assert {"layer", "sigma_2", "ramanujan_gap", "is_ramanujan", "imdb", "note"} <= set(content["rows"][0])
    assert content["rows"][2]["imdb"] is None  # the depthwise layer has no subgraph
    assert content["timing"]["computed"] == 4


def test_analyze_takes_globs_steps_and_jobs(run):
    rows = json.loads(invoke("analyze", run, "--layers", "stage1.*", "--steps", "every:2", "-j", 2, "--json").stdout)[
        "rows"
    ]
    assert {r["layer"] for r in rows} == {"stage1.0.conv1", "stage1.0.conv2"}
    assert {r["step"] for r in rows} == {10, 30}


def test_analyze_of_several_runs_prints_a_row_a_run(study):
    result = invoke("analyze", study)
    assert result.stdout.count("sparse_wide") == 9
    (directory,) = (study / "analysis").iterdir()
    assert len(pd.read_csv(directory / "network.csv")) == 18
    assert len(list(study.glob("d*/analysis/*/layers.csv"))) == 9


def test_damage_is_listed_and_the_exit_code_says_so(run):
    path = RunReader(run).path(20)
    path.write_bytes(path.read_bytes()[:-50])
    result = invoke("analyze", run, code=4)
    assert "failed: a, step 20" in result.stderr
    assert str(path) in result.stderr
    assert "fc" in result.stdout
    content = json.loads(invoke("analyze", run, "--json", code=4).stdout)
    assert any("truncated" in w for w in content["warnings"])


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["analyze", "TMP/nowhere"], 3, "expected a run directory or a directory of runs, found nothing"),
        (["analyze", "TMP"], 3, "not a run directory"),
        (["analyze", "RUN", "--layers", "nope*"], 2, "no layer matches 'nope*'"),
        (["analyze", "RUN", "--metrics", "imbd"], 2, "did you mean 'imdb'"),
        (["analyze", "RUN", "--steps", "soon"], 2, "cannot read steps 'soon'"),
        (["analyze", "RUN", "-j", "0"], 2, "--jobs"),
        (["analyze", "RUN", "--nope"], 2, "No such option"),
        (["correlate", "RUN", "--with", "val_acuracy"], 2, "val_accuracy"),
        (["show", "RUN", "--layer", "stage1.*"], 2, "matches 2 layers"),
        (["show", "RUN", "--layer", "fc", "--step", "7"], 2, "step 7 is not recorded"),
        (["show", "TMP", "--layer", "fc"], 3, "not a run directory"),
        (["import", "RUN/sift.json"], 2, "at least one file, then the run directory"),
        (["train", "--out", "RUN", "--family", "sparse_wide", "--sparsity", "0.5"], 3, "holds another run"),
        (["train", "--out", "TMP/new", "--sparsity", "1.5"], 2, "1.5"),
        (["train", "--out", "TMP/new", "--family", "sparse_wde"], 2, "did you mean 'sparse_wide'"),
        (["train", "--out", "TMP/new", "--method", "rgl"], 2, "did you mean 'rigl'"),
        (["train", "--out", "TMP/new", "--data", "cifar1"], 2, "cifar1"),
        (["train", "--out", "TMP/new", "--set", "optimizer.rl=1"], 2, "did you mean"),
        (["train", "--out", "TMP/new", "--config", "TMP/none.toml"], 2, "none.toml"),
        (["sweep", "TMP/none.toml", "--out", "TMP/s"], 2, "none.toml"),
    ],
)
def test_bad_input_is_one_line_and_its_exit_code(args, code, message, tmp_path, run):
    empty = tmp_path / "empty"
    empty.mkdir()
    before = sorted(p for p in run.rglob("*"))
    args = [a.replace("TMP", str(empty)).replace("RUN", str(run)) for a in args]
    result = invoke(*args, code=code)
    said = " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.stderr).split())
    assert message in said
    assert "Traceback" not in result.stderr
    assert sorted(p for p in run.rglob("*") if "analysis" not in p.parts) == [
        p for p in before if "analysis" not in p.parts
    ]
    assert not (empty / "new").exists()


def test_a_damaged_header_has_its_own_exit_code(run):
    (run / "sift.json").write_text("{")
    assert "cannot be read as JSON" in invoke("analyze", run, code=6).stderr


def test_ctrl_c_keeps_what_is_finished(run, monkeypatch):
    from sift_graph import work

    real, seen = work.measure_unit, []

    def interrupt(unit):
        if len(seen) == 10:
            raise KeyboardInterrupt
        seen.append(unit)
        return real(unit)

    monkeypatch.setattr(work, "measure_unit", interrupt)
    assert "interrupted; what was finished is kept" in invoke("analyze", run, code=130).stderr


def test_correlate_prints_each_view_and_its_json(study):
    result = invoke("correlate", study, "--with", "val_accuracy")
    assert "mean_density" in result.stdout
    assert "ramanujan_gap_norm" in result.stdout
    content = json.loads(invoke("correlate", study, "--json", "--metrics", "ramanujan_gap_norm,imdb_norm").stdout)
    assert content["schema"] == "sift-graph/correlate/1"
    rows = content["rows"]
    assert {"metric", "view", "statistic", "n", "estimate", "lo", "hi", "p", "p_adjusted", "note"} <= set(rows[0])
    assert {r["statistic"] for r in rows} == {"spearman", "kendall", "pearson"}
    pooled = next(r for r in rows if r["metric"] == "ramanujan_gap_norm" and r["view"] == "pooled")
    assert pooled["n"] == 9


def test_report_prints_where_it_is(study, tmp_path):
    result = invoke("report", study, "--title", "A study")
    (path,) = (study / "analysis").glob("*/report.html")
    assert result.stdout.strip() == str(path)
    assert "<title>A study" in path.read_text()
    invoke("report", study, "--out", tmp_path / "elsewhere.html")
    assert (tmp_path / "elsewhere.html").stat().st_size < 5 << 20


def test_show_tells_the_degrees_spectrum_and_verdict(run, tmp_path):
    result = invoke("show", run, "--layer", "fc", "--figure", tmp_path / "fc.svg")
    mask = RunReader(run).load_layer(30, "fc")
    sigma = np.linalg.svd(mask.mask.astype(float), compute_uv=False)
    assert f"{sigma[1]:.6f}" in result.stdout
    assert f"{mask.edges} edges" in result.stdout
    assert re.search(r"(within|outside) the Ramanujan bound", result.stdout)
    assert "<svg" in (tmp_path / "fc.svg").read_text()
    invoke("show", run, "--layer", "fc", "--figure", tmp_path / "density.svg", "--density")
    assert "Kesten-McKay" in (tmp_path / "density.svg").read_text()
    content = json.loads(invoke("show", run, "--layer", "fc", "--step", 10, "--json").stdout)
    assert content["step"] == 10
    assert len(content["singular_values"]) == 12


def test_show_of_an_empty_layer_is_not_an_error(tmp_path):
    np.savez(tmp_path / "m.npz", **{"mask/dead": np.zeros((3, 4), dtype=bool)})
    invoke("import", tmp_path / "m.npz", tmp_path / "r")
    result = invoke("show", tmp_path / "r", "--layer", "dead", "--figure", tmp_path / "dead.svg")
    assert "empty" in result.stdout
    assert "all isolated" in result.stdout


def test_import_then_analyze(tmp_path):
    rng = np.random.default_rng(0)
    mask = rng.random((8, 4, 3, 3)) < 0.3
    np.savez(
        tmp_path / "masks.npz",
        **{"mask/conv": mask, "weight/conv": rng.standard_normal(mask.shape), "groups/conv": np.array(2)},
    )
    assert invoke("import", tmp_path / "masks.npz", tmp_path / "x").stdout.strip() == str(tmp_path / "x")
    rows = json.loads(invoke("analyze", tmp_path / "x", "--json").stdout)["rows"]
    assert rows[0]["n_left"] == 8 * 9
    assert rows[0]["edges"] == mask.sum()
    assert "holds another run" in invoke("import", tmp_path / "masks.npz", tmp_path / "x", code=3).stderr


def test_hostile_layer_names_stay_text(tmp_path):
    path = write_run(tmp_path / "h", shapes=dict.fromkeys(HOSTILE, (6, 8)), steps=(0, 1))
    result = invoke("analyze", path)
    assert "[bold]markup[/bold]" in result.stdout
    report = invoke("report", path).stdout.strip()
    page = Path(report).read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "etc/passwd" in page


def test_version():
    assert invoke("--version").stdout.strip() == f"sift-graph {sift_graph.__version__}"


def test_describe_json_has_the_totals():
    facts = json.loads(
        invoke("describe", "--model", "resnet", "--family", "sparse_wide", "--sparsity", 0.9, "--json").stdout
    )
    keys = {
        "macs_dense",
        "macs",
        "ratio",
        "effective_sparsity",
        "parameters",
        "masked_layers",
        "masked_weights",
        "edges",
    }
    assert keys <= set(facts)
    assert facts["ratio"] == pytest.approx(1, abs=0.005)
    assert facts["ratio"] == pytest.approx(facts["macs"] / facts["macs_dense"])
    masked = [layer for layer in facts["layers"] if layer["masked"]]
    assert facts["masked_layers"] == len(masked)
    assert facts["edges"] == sum(layer["edges"] for layer in masked)
    assert facts["masked_weights"] == sum(math.prod(layer["shape"]) for layer in masked)
    assert 0 < facts["seconds_to_analyze"] < facts["seconds_to_analyze_all"]


def test_train_then_everything(tmp_path):
    tiny = [
        "--set",
        "training.epochs=2",
        "--set",
        "model.width=4",
        "--set",
        "data.train_samples=60",
        "--set",
        "masks.every=1",
    ]
    invoke("train", "--family", "sparse_wide", "--sparsity", 0.9, "--method", "rigl", "--out", tmp_path / "t", *tiny)
    content = json.loads(invoke("analyze", tmp_path / "t", "--json").stdout)
    assert {row["family"] for row in content["rows"]} == {"sparse_wide"}
    assert all(0 < row["density"] < 0.2 for row in content["rows"])
    invoke("report", tmp_path / "t")
    invoke("train", "--out", tmp_path / "t", code=3)


@pytest.mark.parametrize("width", [60, 80, 100, 150])
def test_a_narrow_terminal_loses_columns_never_digits(run, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    result = invoke("analyze", run, "--steps", "last")
    assert "…" not in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()[1:]) <= width
    for layer in SHAPES:
        assert layer in result.stdout
    assert (f"left out on {width} columns" in result.stderr) == (width < 150)
