"""What a study turned, and what followed: from configurations to sentences, figures and the report."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from sift_graph.cli import app
from sift_graph.dials import read_dials, responses
from sift_graph.plots import dose_response
from tests.runs import write_run

LEVELS = (0.0, 0.5, 1.0)


def written(path, **keys):
    path.mkdir(parents=True, exist_ok=True)
    lines = [f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in keys.items()]
    (path / "config.toml").write_text("\n".join(["seed = 1", *lines]))
    return path


@pytest.fixture
def study():
    rng = np.random.default_rng(0)
    rows = []
    for structure in ("community", "hubs"):
        for level in LEVELS:
            for seed in range(5):
                rows.append(
                    {
                        "run": f"{structure}-{level}-{seed}", "step": 10, "family": "wide", "method": "static",
                        "sparsity": 0.5, "seed": seed, "ramanujan_gap_norm": 0.3 - level, "masks.init": structure,
                        "options.strength": level,
                        "final_val_accuracy": 0.8 + 0.1 * seed - (0.05 * level if structure == "hubs" else 0.0)
                        + rng.normal(0, 0.001),
                    }
                )  # fmt: skip
    frame = pd.DataFrame(rows)
    return frame.drop(columns=["masks.init", "options.strength"]), frame.set_index("run")[
        ["masks.init", "options.strength"]
    ]


def test_keys_that_differ_are_read_and_nothing_else(tmp_path):
    runs = {
        "a": written(tmp_path / "a", sparsity=0.5, width=8, wide=True),
        "b": written(tmp_path / "b", sparsity=0.9, width=16, wide=True),
        "none": tmp_path / "none",
        "broken": written(tmp_path / "broken"),
    }
    (tmp_path / "broken/config.toml").write_text("width = = 3")
    text = (tmp_path / "b/config.toml").read_text()
    (tmp_path / "b/config.toml").write_text(f"{text}\n[options]\nstrength = 1.0\n")
    frame = read_dials(runs)
    assert list(frame.index) == ["a", "b", "none", "broken"]
    assert frame.loc["b", "options.strength"] == 1.0
    assert frame["width"].tolist()[:2] == [8, 16]
    assert list(frame) == ["options.strength", "width"]
    assert read_dials({"a": runs["a"]}).empty


def test_a_stranger_s_configuration_is_not_followed_out_of_its_run_nor_into_the_deep(tmp_path):
    ours = written(tmp_path / "ours", width=8)
    written(tmp_path / "elsewhere", width=99)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/config.toml").symlink_to(tmp_path / "elsewhere/config.toml")
    deep = written(tmp_path / "deep")
    (deep / "config.toml").write_text("width = " + "[" * 5000 + "]" * 5000)
    assert read_dials({"ours": ours, "linked": tmp_path / "linked", "deep": deep}).empty


def test_runs_without_seeds_are_compared_as_they_are(study):
    network, dials = study
    falling = responses(network.assign(seed=np.nan), dials, "final_val_accuracy")[1]
    ends = (falling.runs.loc[falling.runs["level"] == end, "target"] for end in (1.0, 0.0))
    expected = stats.ttest_ind(*ends, equal_var=False).confidence_interval()
    assert falling.change("target")[1:] == pytest.approx(tuple(expected))


def test_a_response_is_paired_by_seed_and_says_what_changed(study):
    network, dials = study
    flat, falling = responses(network, dials, "final_val_accuracy")
    assert (flat.dial, flat.held) == ("options.strength", "wide · static · 0.5 · community")
    mean, lo, hi = falling.change("target")
    wide = falling.runs.pivot(index="seed", columns="level", values="target")
    expected = stats.ttest_1samp(wide[1.0] - wide[0.0], 0).confidence_interval()
    assert (mean, lo, hi) == pytest.approx((float((wide[1.0] - wide[0.0]).mean()), *expected))
    assert hi < -0.04  # although seeds differ by far more
    assert flat.change("target")[1] < 0 < flat.change("target")[2]
    said = falling.sentence("val_accuracy")
    assert "from 0 to 1 val_accuracy changes by -0.0" in said
    assert "the gap over its bound by -1.000" in said
    assert "15 runs" in said


def test_a_line_is_named_by_what_tells_it_apart(study):
    network, dials = study
    ax = dose_response(responses(network, dials, "final_val_accuracy"))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["community", "hubs"]
    assert [line.get_ydata()[0] for line in ax.lines[:2]] == pytest.approx([1.0, 1.0], abs=0.01)


def test_what_cannot_be_said_is_left_out(study):
    network, dials = study
    assert responses(network, dials.iloc[:, :0], "final_val_accuracy") == []
    assert responses(network, dials, "final_loss") == []
    two = network[network["run"].str.contains("-0.0-|-1.0-")]
    assert responses(two, dials, "final_val_accuracy") == []
    one = network[network["run"].str.endswith("-0")]
    (first, _) = responses(one, dials, "final_val_accuracy")
    assert math.isnan(first.change("target")[1])
    assert "[" not in first.sentence("val_accuracy")
    constant = responses(network.assign(final_val_accuracy=0.5), dials, "final_val_accuracy")[0]
    assert "the target is constant" in constant.sentence("val_accuracy")


def test_the_report_of_a_study_has_a_section_of_what_was_turned(tmp_path):
    for i, level in enumerate(LEVELS):
        for seed in range(2):
            run = write_run(tmp_path / f"s{level}-{seed}", steps=(0, 10), accuracy=0.7 + 0.1 * i, seed=seed)
            written(run, strength=level)
    shown = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    page = next(tmp_path.rglob("report.html")).read_text()
    assert 'id="turned"' in page
    assert "from 0 to 1 val_accuracy changes by" in page
