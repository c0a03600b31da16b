"""Files from strangers: refused by name and reason, in bounded time and memory; nothing run or written elsewhere."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from analysis.stress.fuzz import main, one_round
from analysis.stress.targets import TARGETS, make_npz, make_run
from analysis.stress.watch import watched
from sift_graph.doctor import examine
from sift_graph.encodings.geometry import recorded_geometries
from sift_graph.errors import DamagedStoreError, MaskError
from sift_graph.importers import read_masks
from sift_graph.mending import repair
from sift_graph.network_work import load_network
from sift_graph.pickles import check_tuples
from sift_graph.report import write_report
from sift_graph.store import RunReader, RunWriter, parse_json
from sift_graph.store.packing import pack_run
from sift_graph.table import analyze_runs, training_history
from tests.runs import write_run

MIB = 1 << 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a small run that was analyzed."""
    run = make_run(tmp_path_factory.mktemp("whole") / "run")
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.fixture
def run(whole: dict[str, bytes], tmp_path: Path) -> Path:
    for name, data in whole.items():
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "run"


def peak_of(act) -> int:
    """Bytes allocated at most while something is done."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


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
        ('"step": 10', '"step": 10, "rank": 3, "ranks": 2', "expected a rank below the number of ranks"),
    ],
)
def test_a_header_under_a_right_hash_is_still_checked(run: Path, old, new, reason):
    path = RunReader(run).path(10)
    rewrite(path, lambda text: text.replace(old, new, 1))
    with pytest.raises(DamagedStoreError, match=rf"step_000000010\.safetensors: .*{reason}"):
        RunReader(run).load_snapshot(10)


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
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n" + "x" * (9 << 20) + '\n{"step": 2, "loss": 0.5}\n')
    history = {}
    assert peak_of(lambda: history.update(training_history(RunReader(run)))) < 32 * MIB
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


# Links, pipes, devices


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Files beside the run that no one may read or touch."""
    (tmp_path / "outside" / "masks").mkdir(parents=True)
    (tmp_path / "outside" / "secret.jsonl").write_text('{"step": 1, "password": 5}\n')
    return tmp_path / "outside"


def replace_by_link(path: Path, target: Path) -> None:
    path.rename(path.with_name("." + path.name))
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["sift.json", "metrics.jsonl", "masks/step_000000010.safetensors", "masks"])
def test_a_link_out_of_the_run_directory_is_not_followed(run: Path, outside: Path, name):
    replace_by_link(run / name, outside / ("masks" if name == "masks" else "secret.jsonl"))

    def read() -> None:
        reader = RunReader(run)
        list(reader.metrics())
        reader.load_snapshot(reader.steps[1])

    with pytest.raises(DamagedStoreError, match=rf"{Path(name).name}: is a link out of the run directory .*cp -rL"):
        read()


@pytest.mark.parametrize("name", ["metrics.jsonl", "masks", "masks/abandoned"])
def test_nothing_is_written_through_a_link(run: Path, outside: Path, name):
    if (run / name).exists():
        replace_by_link(run / name, outside)
    else:
        (run / name).symlink_to(outside)
    before = {path: path.stat().st_mtime_ns for path in outside.rglob("*")}

    def write(metrics: bool) -> None:
        writer = RunWriter(run, resume=True)
        if metrics:
            writer.append_metrics({"step": 30})
        writer.rewind(0)

    for metrics in (False, True):
        with pytest.raises(DamagedStoreError, match="is a link out of the run directory"):
            write(metrics)
    assert before == {path: path.stat().st_mtime_ns for path in outside.rglob("*")}


@pytest.mark.parametrize("name", ["analysis", "analysis/*", "analysis/*/rows.jsonl", "analysis/*/network.jsonl"])
def test_an_analysis_is_not_written_through_a_link(run: Path, outside: Path, name):
    (path,) = run.glob(name)
    replace_by_link(path, outside if path.is_dir() else outside / "secret.jsonl")
    with pytest.raises(DamagedStoreError, match="is a link out of the run directory"):
        analyze_runs(run, metrics=["core", "effective_sparsity"])
    assert [path.name for path in sorted(outside.rglob("*"))] == ["masks", "secret.jsonl"]
    assert (outside / "secret.jsonl").read_text() == '{"step": 1, "password": 5}\n'


def test_a_run_is_not_mended_or_packed_through_a_link(run: Path, outside: Path):
    path = RunReader(run).path(10)
    path.write_bytes(path.read_bytes()[:-1])
    (run / "masks" / "damaged").symlink_to(outside)
    with pytest.raises(DamagedStoreError, match=r"masks/damaged: is a link out of the run directory"):
        repair(run)
    assert path.exists()
    replace_by_link(run / "metrics.jsonl", outside / "secret.jsonl")
    (finding,) = (found for found in examine(run) if found.where == "metrics.jsonl")
    assert "is a link out of the run directory" in finding.found
    assert not finding.repairable
    (outside / ".step_000000010.safetensors.99999999.rewrite.tmp").touch()
    replace_by_link(run / "masks", outside)
    with pytest.raises(DamagedStoreError, match="masks: is a link out of the run directory"):
        pack_run(run)
    assert len(list(outside.iterdir())) == 3


def test_links_within_the_run_and_to_the_run_are_followed(run: Path):
    replace_by_link(run / "metrics.jsonl", run / ".metrics.jsonl")
    run.with_name("link").symlink_to(run)
    assert len(list(RunReader(run.with_name("link")).metrics())) == 3
    assert RunReader(run.with_name("link")).load_snapshot(10).step == 10


def test_a_pipe_a_loop_or_a_directory_does_not_stop_a_reader(run: Path):
    path = RunReader(run).path(10)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamagedStoreError, match=r"step_000000010\.safetensors: expected a file, found a pipe"):
        RunReader(run).load_snapshot(10)
    path.unlink()
    path.mkdir()
    with pytest.raises(DamagedStoreError, match="expected a file, found a directory"):
        RunReader(run).load_snapshot(10)
    path.rmdir()
    path.symlink_to(path)
    with pytest.raises(DamagedStoreError, match="cannot be looked at"):
        RunReader(run).load_snapshot(10)


def test_a_link_in_the_place_of_a_temporary_is_not_written_through(run: Path, outside: Path):
    writer = RunWriter(run, resume=True)
    (run / f".sift.json.{os.getpid()}.tmp").symlink_to(outside / "secret.jsonl")
    writer.write_layers([{"name": "fc1", "shape": [8, 6]}])
    assert "password" in (outside / "secret.jsonl").read_text()
    assert not list(run.glob(".*.tmp"))


# Archives


def npz_of(path: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array)
    return out.getvalue()


def patched(path: Path, offset: int, value: int, size: int = 4) -> Path:
    """Overwrite a number in the first entry of a zip's directory."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + offset
    data[at : at + size] = value.to_bytes(size, "little")
    path.write_bytes(bytes(data))
    return path


def test_a_zip_that_claims_more_packed_bytes_than_it_has_is_refused(tmp_path: Path):
    file = npz_of(tmp_path / "bad.npz", ("mask/fc.npy", npy(np.eye(8))))
    patched(patched(file, 20, 2**30), 24, 2**32 - 2)
    with pytest.raises(MaskError, match=r"bad\.npz: claims 1073741824 packed bytes and has \d+"):
        read_masks(file)


def test_a_compression_that_numpy_does_not_write_is_refused(tmp_path: Path):
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):  # neither bounds what it unfolds to, or takes to do so
        file = npz_of(tmp_path / "bad.npz", ("mask/fc.npy", npy(np.eye(8))), method=method)
        with pytest.raises(MaskError, match=rf"'mask/fc' is compressed by method {method}, which numpy does not write"):
            read_masks(file)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_there_twice_is_refused(tmp_path: Path):
    file = npz_of(tmp_path / "bad.npz", ("mask/fc.npy", npy(np.eye(8))), ("mask/fc.npy", npy(np.ones((8, 8)))))
    with pytest.raises(MaskError, match=r"bad\.npz: holds 'mask/fc' twice"):
        read_masks(file)


def test_a_numpy_header_that_claims_four_gibibytes_is_not_read(tmp_path: Path):
    claim = b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little")
    file = npz_of(tmp_path / "bad.npz", ("mask/fc.npy", claim + bytes(64 * MIB)))

    def read() -> None:
        with pytest.raises(MaskError, match=r"bad\.npz: truncated, or not a numpy archive"):
            read_masks(file)

    assert peak_of(read) < 4 * MIB


@pytest.mark.parametrize("position", [38, 60, 90])
def test_a_broken_deflate_stream_is_a_named_error(tmp_path: Path, position):
    file = make_npz(tmp_path / "bad.npz")
    data = bytearray(file.read_bytes())
    data[position : position + 12] = b"\xff" * 12
    file.write_bytes(bytes(data))
    with pytest.raises(MaskError, match=r"bad\.npz: "):
        read_masks(file)


# Pickles


def bomb(levels: int) -> bytes:
    """Pickle a dictionary whose key is a tuple that takes 2^levels steps to hash."""
    key = pickle.EMPTY_TUPLE + pickle.BINPUT + b"\0"  # what is left on the stack below the dictionary does no harm
    for level in range(levels):
        key += pickle.BINGET + bytes([level]) + pickle.BINGET + bytes([level]) + pickle.TUPLE2
        key += pickle.BINPUT + bytes([level + 1])
    item = pickle.EMPTY_DICT + pickle.BINGET + bytes([levels]) + pickle.NONE + pickle.SETITEM
    return pickle.PROTO + b"\x02" + key + item + pickle.STOP


@pytest.mark.parametrize("zipped", [True, False])
def test_a_key_that_takes_years_to_hash_is_refused(tmp_path: Path, zipped):
    file = tmp_path / "bad.pt"
    if zipped:
        npz_of(file, ("bad/data.pkl", bomb(60)), ("bad/version", b"3\n"), method=zipfile.ZIP_STORED)
    else:
        file.write_bytes(bomb(60))
    with pytest.raises(MaskError, match=r"bad\.pt: it holds a tuple of tuples with more than 1048576 entries"):
        read_masks(file)


def test_pickles_of_checkpoints_pass(tmp_path: Path):
    check_tuples(pickle.dumps({"a": (1, (2, 3)), ("b", "c"): [{1, 2}, (4, 5, 6, 7)], "d": None}, protocol=2))
    check_tuples(bomb(10))
    check_tuples(b"no pickle at all")


def test_a_tensor_without_a_shape_is_refused(tmp_path: Path):
    with pytest.warns(UserWarning, match="prototype"):
        nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)])
    torch.save({"fc.weight": nested, "fc.weight_mask": torch.eye(2)}, tmp_path / "bad.pt")
    with pytest.raises(MaskError, match=r"bad\.pt: holds a tensor without a shape"):
        read_masks(tmp_path / "bad.pt")


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
    assert watched(lambda path: np.ones(40 * MIB), file, inside, mebibytes=64).word == "memory"


def test_the_command_counts_what_it_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--rounds", "3", "--only", "npz", "--out", str(tmp_path / "found")]) == 0
    told = capsys.readouterr().out
    assert sum(int(part.split()[0]) for part in told.removeprefix("npz").split(",")) == 3
    assert not (tmp_path / "found").exists()
    assert random.Random("npz 0").random() == random.Random("npz 0").random()  # a seed names one file
