"""The door for notebooks."""

import pytest

import sift_graph
from sift_graph.errors import RunDirectoryError, UsageError
from tests.runs import HOSTILE, write_run


@pytest.fixture
def run(tmp_path):
    return sift_graph.open(write_run(tmp_path / "a", accuracy=0.8))


def test_a_run_shows_what_it_holds(run):
    assert run.steps == [0, 10, 20, 30]
    assert run.layers[0] == "stage1.0.conv1"
    assert "4 snapshots, 4 layers" in repr(run)
    assert "sparse_wide" in str(run)
    assert "step 0 to 30" in run._repr_html_()
    assert run.metrics()["val_accuracy"].iloc[-1] == pytest.approx(0.8 - 0.1 / 31)


def test_one_layer_is_one_call_away(run):
    graph = run.graph("fc")
    assert graph.n_left == 20
    assert graph.values is not None
    assert run.mask("stage2.*", step=10).groups == 10
    with pytest.raises(UsageError, match="matches 2 layers"):
        run.mask("stage1.*")
    with pytest.raises(UsageError, match="step 5 is not recorded; recorded: 0 to 30"):
        run.mask("fc", step=5)
    with pytest.raises(UsageError, match="no layer matches 'fcc'; did you mean 'fc'"):
        run.mask("fcc")


def test_analyze_is_a_plain_frame(run):
    frame = run.analyze(steps="last")
    assert len(frame) == 4
    assert frame.attrs == {"failures": [], "warnings": []}
    assert len(sift_graph.analyze(run.path)) == 16
    assert len(run.network()) == len(sift_graph.network(run.path)) == 4


def test_progress_counts_to_the_end(run):
    seen = []
    run.analyze(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (32, 32)
    assert [done for done, _ in seen] == list(range(1, 33))


def test_a_run_without_snapshots_still_opens(tmp_path):
    from sift_graph.store import RunWriter

    RunWriter(tmp_path / "new")
    run = sift_graph.open(tmp_path / "new")
    assert run.layers == []
    assert "none yet" in str(run)
    with pytest.raises(RunDirectoryError, match="has no snapshot yet"):
        run.analyze()


def test_names_are_escaped_in_html(tmp_path):
    path = write_run(tmp_path / "<b>h", shapes={HOSTILE[3]: (3, 3)}, method="<i>x</i>")
    shown = sift_graph.open(path)._repr_html_()
    assert "<i>" not in shown
    assert "&lt;i&gt;" in shown
    assert "<b>" not in shown


def test_not_a_run(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"not a run directory \(no sift.json\)"):
        sift_graph.open(tmp_path)
