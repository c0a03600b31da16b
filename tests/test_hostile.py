"""Files from strangers: refused by name and reason, in bounded time and memory; nothing run or written elsewhere."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from analysis.stress.fuzz import main, one_round
from analysis.stress.targets import TARGETS
from analysis.stress.watch import watched
from sift_graph.encodings.geometry import recorded_geometries
from sift_graph.errors import DamagedStoreError, MaskError
from sift_graph.network_means import training_history
from sift_graph.network_work import load_network
from sift_graph.report import write_report
from sift_graph.store import RunReader, RunWriter, parse_json
from sift_graph.store.packing import pack_run
from sift_graph.table import analyze_runs
from tests.hostile_runs import copy_run, peak_of
from tests.runs import write_run

MIB = 1 << 20


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return copy_run(tmp_path / "run")


# JSON

BAD_JSON = {
    "deep": ('{"a": ' + "[" * 3000 + "]" * 3000 + "}", "nested 3001 deep, expected at most 64"),
    "twice": ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice in one object"),
    "many digits": ('{"a": 1' + "0" * 400 + "}", "a number has 401 digits, expected at most 18"),
    "too large": ('{"a": 1e999}', "a number is 1e999, expected a finite one"),
    "NaN": ('{"a": NaN}', "a number is NaN, expected a finite one"),
    "half a pair": ('{"a": "\\ud800"}', "surrogates not allowed"),
    "many values": ("[" + "[]," * (1 << 22) + "1]", "values, expected at most 4194304"),
    "too many bytes": ('"' + "x" * (1 << 26) + '"', "bytes, expected at most 67108864"),
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_json_that_no_writer_makes_is_refused_with_the_reason(kind):
    text, reason = BAD_JSON[kind]
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


values = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
documents = st.recursive(values | texts, lambda item: st.lists(item) | st.dictionaries(texts, item), max_leaves=20)


@given(content=documents, plain=st.booleans())
@settings(deadline=None, max_examples=60)
def test_what_json_writes_within_the_limits_is_read_again(content, plain):
    assert parse_json(json.dumps(content, ensure_ascii=plain)) == content


def test_brackets_and_escapes_in_texts_are_not_counted():
    content = {"a": "[" * 100 + '\\"{' + "🦀", "b": [1.5, -3, None, True]}
    assert parse_json(json.dumps(content)) == content
    assert parse_json(json.dumps(content, ensure_ascii=False)) == content


def rewrite(path: Path, change) -> None:
    """Alter a snapshot's header as text, under a hash that is right."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little") + 8
    text = change(json.loads(data[8:size])["__metadata__"]["sift"])
    path.write_bytes(save(load(data), metadata={"sift": text, "xxh3": xxhash.xxh3_128_hexdigest(text.encode())}))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"epoch": 1.0', f'"epoch": 1{"0" * 400}', "401 digits"),
        ('"epoch": 1.0', '"epoch": NaN', "expected a finite one"),
        ('"epoch": 1.0', '"epoch": 1.0, "epoch": 2.0', "stands twice"),
        ('"run_id": "stress"', '"run_id": ' + "[" * 900 + "]" * 900, "nested 901 deep"),
        ('"name": "fc1"', '"name": "\\ud800"', "can't encode character"),
        ('"shape": [8, 6]', '"shape": [1000000, 1000000]', "claims more than 17179869184 entries"),
        ('"shape": [8, 6]', '"shape": [8, 6], "part": {"offset": [0, 0], "shape": [8, 6]}', "and is no shard"),
        ('"shape": [8, 6]', '"shape": [8, 6], "part": {"offset": [1, 0], "shape": [8, 6]}', "layer 'fc1' is not one"),
        ('"groups": 1', '"groups": 0', "layer 'fc1' is not one of format"),
        ('"step": 10', '"step": 10, "rank": 3, "ranks": 2', "expected a rank below the number of ranks"),
    ],
)
def test_a_header_under_a_right_hash_is_still_checked(run: Path, old, new, reason):
    path = RunReader(run).path(10)
    rewrite(path, lambda text: text.replace(old, new, 1))
    with pytest.raises(DamagedStoreError, match=rf"step_000000010\.safetensors: .*{reason}"):
        RunReader(run).load_snapshot(10)


def test_a_header_without_what_may_be_left_out_is_read_and_packed(run: Path):
    path = RunReader(run).path(10)
    before = RunReader(run).load_snapshot(10)
    rewrite(
        path, lambda text: text.replace('"source": "mapping", "ref": null, ', "").replace('"source": "mapping", ', "")
    )
    assert RunReader(run).load_layer(10, "fc1").source == "unknown"
    assert not pack_run(run).skipped
    after = RunReader(run).load_snapshot(10)
    assert [mask.digest for mask in after] == [mask.digest for mask in before]


def test_what_a_reader_of_shards_adds_is_not_believed_from_a_file(run: Path):
    path = RunReader(run).path(10)
    rewrite(path, lambda text: text.replace('"name": "fc1"', '"shards": [[0, {}]], "name": "fc1"', 1))
    before = RunReader(run).load_layer(0, "fc1")
    assert RunReader(run).load_layer(10, "fc1").edges == before.edges


# The graph of a network


def graph_with(run: Path, change) -> None:
    header = json.loads((run / "sift.json").read_text())
    change(header["graph"])
    (run / "sift.json").write_text(json.dumps(header))


LIES = {
    "a long run": lambda g: g["layers"][0].update(reads=[[0, 10**12, 1]]),
    "a run repeated": lambda g: g["layers"][0].update(reads=[[0, 1, 10**12]]),
    "many runs": lambda g: g["layers"][0].update(reads=[[0, 10**6, 1]] * 100),
    "a huge input": lambda g: g["inputs"][0].update(size=10**12),
    "a huge layer": lambda g: g["layers"][1].update(size=10**12, shape=[10**12, 8]),
    "outputs": lambda g: g.update(outputs=[[0, 10**12, 1]]),
    "a negative count": lambda g: g["layers"][0].update(reads=[[0, -5, 1]]),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_graph_that_claims_too_much_is_refused_before_it_is_allocated(run: Path, lie):
    graph_with(run, LIES[lie])

    def read() -> None:
        with pytest.raises(
            DamagedStoreError, match=r"sift\.json: its graph cannot be read \(ValueError: (it claims|a run)"
        ):
            load_network(RunReader(run), 10)

    assert peak_of(read) < 4 * MIB


def test_a_guessed_graph_of_a_huge_layer_leaves_it_out(tmp_path: Path):
    from sift_graph.network_graph import infer_graph

    entry = {"name": "fc", "shape": [1, 1 << 33], "groups": 1}
    assert peak_of(lambda: infer_graph([entry])) < MIB
    assert "more than 67108864 inputs" in infer_graph([entry]).unplaced["fc"]


@pytest.mark.parametrize(
    "geometry", [{}, 3, {"size": [10**9, 10**9]}, {"size": [4, 4], "stride": [0, 1], "padding": [0, 0]}]
)
def test_a_geometry_that_is_none_is_refused(geometry):
    full = {"size": [4, 4], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "output": [4, 4]}
    assert recorded_geometries({"layers": [{"layer": "a", "geometry": full}]})["a"].size == (4, 4)
    wrong = full | geometry if isinstance(geometry, dict) and geometry else [geometry]
    with pytest.raises(DamagedStoreError, match=r"sift\.json: its graph holds a geometry that cannot be read"):
        recorded_geometries({"layers": [{"layer": "a", "geometry": wrong}]})


# Kept results and metrics


def test_lines_that_are_not_ours_are_left_out_and_computed_again(run: Path):
    before = analyze_runs(run, metrics=["core", "effective_sparsity"])
    assert before.timing["computed"] == 0
    for name in ("rows.jsonl", "network.jsonl"):
        (path,) = run.glob(f"analysis/*/{name}")
        row = json.loads(path.read_text().splitlines()[0])
        lies = [row | {"values": {k: ["x"] for k in row["values"]}}, row | {"key": []}, {"values": 3}, [], {}]
        path.write_text("".join(json.dumps(lie) + "\n" for lie in lies) + "[" * 5000 + "\n\xff\n" + "9" * 5_000_000)
    (run / "analysis" / "nulls.jsonl").write_text(
        '{"key": "[", "scores": {}}\n{"key": "[1, 2, 3, 4]", "scores": {"edges": {"observed": "x"}}}\n{"key": 3}\n'
    )
    again = analyze_runs(run, metrics=["core", "effective_sparsity"])
    assert not again.failures
    assert again.layers.equals(before.layers)
    assert again.network.equals(before.network)


def test_metrics_with_huge_numbers_and_endless_lines_are_survived(run: Path):
    lines = [f'{{"step": 1{"0" * 400}, "loss": 1}}', '{"step": 1, "loss": 1' + "0" * 400 + "}", '{"a": ' + "[" * 9999]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n" + "x" * (33 << 20) + '\n{"step": 2, "loss": 0.5}\n')
    history = {}
    assert peak_of(lambda: history.update(training_history(RunReader(run)))) < 80 * MIB
    assert history["loss"] == [(float("inf"), 1), (1, float("inf")), (2, 0.5)]
    RunWriter(run, resume=True).rewind(1)
    assert '"step": 2' not in (run / "metrics.jsonl").read_text()


def test_what_a_run_says_of_itself_stays_a_word(run: Path):
    header = json.loads((run / "sift.json").read_text())
    header["about"] = {"family": [[]], "sparsity": ["a"], "seed": {"b": 1}, "method": "<b>"}
    (run / "sift.json").write_text(json.dumps(header))
    row = analyze_runs(run).layers.iloc[0]
    assert (row["family"], row["seed"], row["method"]) == ("[[]]", "{'b': 1}", "<b>")
    assert np.isnan(row["sparsity"])


# Names


def test_names_with_paths_and_markup_are_text_in_the_report(tmp_path: Path):
    name = "../../up<script>alert(1)</script>"
    path = write_run(
        tmp_path / "in" / "run", shapes={name: (6, 8)}, steps=(0, 1), family="<img src=x onerror=alert(2)>"
    )
    analysis = analyze_runs(path)
    report = tmp_path / "in" / "report.html"
    write_report(analysis.layers, analysis.network, report)
    text = report.read_text()
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert(1)" not in text
    assert "<img src=x" not in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == ["report.html", "run"]


# At random


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    found = {}
    for name, target in TARGETS.items():
        folder = tmp_path_factory.mktemp("target")
        found[name] = target.make(folder), folder
        target.read(found[name][0])
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
@given(seed=st.integers(0, 2**40))
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_altered_files_are_read_or_refused(wholes: dict[str, tuple[Path, Path]], name, seed):
    _, outcome = one_round(name, seed, *wholes[name])
    assert not outcome.is_bad, outcome


def test_the_watch_sees_what_it_is_to_see(tmp_path: Path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    file = inside / "file"

    def spin(path: Path) -> None:
        while True:
            pass

    def hide(path: Path) -> None:
        raise MaskError("something is wrong")

    words = {
        "read": lambda path: path.write_text("x"),
        "touched": lambda path: outside.write_text("x"),
        "stuck": spin,
        "unnamed": hide,
        "crash": lambda path: 1 / 0,
    }
    found = {word: watched(act, file, inside, seconds=0.2).word for word, act in words.items()}
    assert found == {word: word for word in words}
    assert watched(lambda path: os.system("true"), file, inside).word == "touched"
    for _ in range(2):  # a peak of before does not hide one of now
        assert watched(lambda path: np.ones(40 * MIB), file, inside, mebibytes=64).word == "memory"


def test_the_command_counts_what_it_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--rounds", "3", "--only", "npz", "--out", str(tmp_path / "found")]) == 0
    told = capsys.readouterr().out
    assert sum(int(part.split()[0]) for part in told.removeprefix("npz").split(",")) == 3
    assert not (tmp_path / "found").exists()
    assert random.Random("npz 0").random() == random.Random("npz 0").random()  # a seed names one file
