"""What the documentation says works, as it stands there."""

import ast
import re

import numpy as np
import pytest

from sift_graph.metrics import METRICS
from sift_graph.store import RunReader
from tests.runs import write_run


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def root(request):
    return request.config.rootpath


def test_the_reader_of_the_format_page_reads(root, tmp_path):
    code, _ = blocks(root / "docs/file-format.md", "python")  # the other one reads packed runs: test_packing.py
    assert len(code.splitlines()) <= 18
    assert "sift_graph" not in code
    namespace = {}
    exec(code, namespace)
    run = write_run(tmp_path / "a", moving=False)  # static: later snapshots refer to the first
    for step in (0, 30):
        for name, layer in RunReader(run).load_snapshot(step).layers.items():
            assert np.array_equal(namespace["read_mask"](run, step, name), layer.mask)


def test_the_python_of_the_readme_and_quickstart_runs(root, tmp_path, monkeypatch):
    write_run(tmp_path / "runs/a", accuracy=0.8)
    monkeypatch.chdir(tmp_path)
    for page in ("README.md", "docs/quickstart.md"):
        examples = [b for b in blocks(root / page, "python") if "train()" not in b]
        assert examples
        namespace = {}
        for code in examples:
            exec(code, namespace)


def test_the_commands_of_the_readme_exist(root):
    from typer.testing import CliRunner

    from sift_graph.cli import app

    lines = [
        line
        for page in ("README.md", "docs/quickstart.md")
        for b in blocks(root / page, "sh")
        for line in b.splitlines()
    ]
    used = [line.split("#")[0].split() for line in lines if line.startswith("sift-graph ")]
    assert used
    for words in used:
        shown = CliRunner().invoke(app, [words[1], "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
        assert shown.exit_code == 0
        for option in (w for w in words if w.startswith("--")):
            assert option in shown.stdout, (words[1], option)


def test_the_catalogue_page_is_printed_from_the_registry(root):
    assert "{metric-catalogue}" in (root / "docs/metrics.md").read_text()
    assert {"ramanujan_gap", "imdb", "imsg", "weighted_spectral_gap"} <= set(METRICS)


def test_every_word_of_a_note_is_explained(root):
    source = "".join(path.read_text() for path in (root / "sift_graph/metrics").glob("*.py"))
    words = set(re.findall(r'(?:Undefined|Flagged|require)\((?:[^"]*, )?"([a-z_]+)"', source)) - {
        "first_snapshot",
        "not_halved",
    }
    assert {"empty", "no_subgraph", "fs_partial", "no_path", "deg_gate"} <= words
    page = (root / "docs/metrics.md").read_text()
    assert [word for word in sorted(words) if f"`{word}`" not in page] == []


def test_the_metric_of_the_how_to_works_and_fits_its_page(root, capsys):
    code, *_ = blocks(root / "docs/write-a-metric.md", "python")
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 15
    try:
        exec(code, {})
        assert float(capsys.readouterr().out) == pytest.approx(3 / 2 - 1)  # degrees 3, 2, 1: the mean is 2
        assert METRICS["hub_excess"].origin == "user"
    finally:
        METRICS.pop("hub_excess", None)


def texts(node):
    """Give the fixed parts of each string of a syntax tree; implicit concatenations are one string."""
    for child in ast.walk(node):
        if isinstance(child, ast.JoinedStr):
            parts = [v.value if isinstance(v, ast.Constant) else "…" for v in child.values]
            yield "".join(map(str, parts))
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value


def test_the_messages_of_the_faq_are_raised_somewhere(root):
    said = [t for path in (root / "sift_graph").rglob("*.py") for t in texts(ast.parse(path.read_text()))]
    messages = re.findall(r'^### "(.*)"$', (root / "docs/faq.md").read_text(), flags=re.MULTILINE)
    assert len(messages) > 10
    for message in messages:
        assert any(message in text for text in said), message


def test_the_columns_of_the_page_on_bounds_exist(root):
    text = (root / "docs/bounds.md").read_text()
    named = {word for word in re.findall(r"`([a-z0-9_]+)`", text) if "_" in word}
    options = {"sigma_2_lo", "bound_zero"}  # a column of every table, and a word of its notes
    assert named - options
    assert named - options - set(METRICS) == set()


def test_links_inside_the_repository_lead_somewhere(root):
    pages = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("analysis/**/*.md")]
    assert len(pages) > 15
    for page in pages:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\((?!\w+:|#)([^)\s#]+)", text):
            assert (page.parent / target).exists(), (page.name, target)


def test_every_page_of_the_docs_is_in_the_contents(root):
    pages = list(root.glob("docs/*.md"))
    listed = {line for page in pages for block in blocks(page, "{toctree}") for line in block.splitlines()}
    assert {page.stem for page in pages} - listed == {"index"}


@pytest.mark.filterwarnings("ignore")  # the trainers' own
@pytest.mark.parametrize("name", ["lightning", "hf", "accelerate", "ignite", "keras"])
def test_the_examples_of_the_trainers_page_record(name, root, tmp_path, monkeypatch):
    framework = {"hf": "transformers"}.get(name, name)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip(framework, reason=f"{framework} is an extra")
    monkeypatch.chdir(tmp_path)
    model, *examples = blocks(root / "docs/trainers.md", "python")
    (example,) = [code for code in examples if f"sift_graph.integrations.{name} " in code]
    exec(model + example, {"__name__": "example"})
    reader = RunReader(tmp_path / "runs" / name)
    assert reader.steps[0] == 0
    assert reader.steps[-1] == 4  # 32 rows by 8, or as asked
    (layer,) = reader.load_snapshot(4).layers.values()
    assert layer.shape == (16, 8)
    assert 0 < layer.edges < 128


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_the_examples_of_the_libraries_page_record(root, tmp_path, monkeypatch):
    from sift_graph.sources import SOURCES

    monkeypatch.chdir(tmp_path)
    setup, *examples = blocks(root / "docs/libraries.md", "python")
    namespace = {}
    exec(setup, namespace)
    assert len(examples) > 12
    try:
        for code in examples:
            namespace["torch"].manual_seed(0)
            exec(code, namespace)
            (name,) = re.findall(r'"(runs/[\w-]+)"', code)
            layers = list(RunReader(tmp_path / name).load_snapshot(RunReader(tmp_path / name).steps[-1]))
            assert len(layers) == (4 if name == "runs/buffers" else 1), name
            assert all(0 < layer.edges < layer.size for layer in layers), name
    finally:
        SOURCES.pop("scores", None)
