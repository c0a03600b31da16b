"""The report: what it says, that it holds any text, its size, and how it behaves in a browser."""

from __future__ import annotations

import html.parser
import math
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from browser import chromium, requests, show
from frames import HOSTILE_LAYER, layers_frame, network_frame

from sift_graph.correlate import correlate
from sift_graph.errors import UsageError
from sift_graph.report import write_figures, write_report
from sift_graph.report_cards import cards, facts, number, percent, signed
from sift_graph.report_figures import MAX_PANELS, drawings
from sift_graph.report_table import MAX_ROWS, layer_table

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Text, tags and identifiers of a page; complains of tags that do not close."""

    def __init__(self, source):
        super().__init__()
        self.words, self.tags, self.ids, self.attributes, self.open = [], [], [], [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def study():
    layers = layers_frame(seeds=(0, 1, 2), steps=(0, 50, 100))
    network = network_frame(layers)
    return layers, network, correlate(network, n_boot=200)


@pytest.fixture(scope="module")
def report(study, tmp_path_factory):
    layers, network, table = study
    return write_report(
        layers,
        network,
        tmp_path_factory.mktemp("report") / "new" / "report.html",
        correlations=table,
        title="A study <of> digits",
        argv=["sift-graph", "report", "runs/a study"],
        versions={"numpy": "2.4.0"},
        warnings=["runs/x: layer 'fc' <b>bold</b>: hash differs"],
        settings={"hash": "abc123def456"},
    )


@pytest.fixture(scope="module")
def page(report):
    return Page(report.read_text(encoding="utf-8"))


def read(path):
    return Page(path.read_text(encoding="utf-8"))


def test_page_has_every_section_and_its_identifiers_once(page):
    sections = {"verdicts", "warnings", "gap", "weighted", "dynamics", "accuracy", "link", "profile", "table"}
    assert sections | {"limits", "methods"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    targets = [value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")]
    assert targets
    assert set(targets) <= set(page.ids)


def test_page_says_where_it_comes_from(page):
    for words in ("A study <of> digits", "runs/a study", "numpy 2.4.0", "abc123def456", "<b>bold</b>", "3 dense runs"):
        assert words in page.text


def test_page_refers_to_nothing_outside_itself(report):
    source = report.read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", source))
    assert addresses == set()
    assert not re.search(r"@import|<link[^>]+stylesheet|src=", source)
    assert "default-src 'none'" in source


def test_same_frames_give_the_same_bytes(study, report, tmp_path):
    layers, network, table = study
    paths = [write_report(layers, network, tmp_path / f"{i}.html", correlations=table) for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_every_card_states_its_uncertainty(study):
    found = {card.name: card for card in cards(*study, "val_accuracy")}
    assert set(found) == {"bound", "excess", "link", "movement"}
    assert "beyond" in found["bound"].text
    assert sum(share for _, share in found["bound"].bar) == pytest.approx(1)
    assert re.search(r"\[−0\.\d+, −0\.\d+\] mean excess gap", found["excess"].unit)
    lines = [name for name, _ in found["excess"].lines]
    assert lines[:3] == ["static", "set", "rigl"]
    assert lines[3:] == ["set, change since the first mask", "rigl, change since the first mask"]
    assert re.search(r"\[.\d\.\d\d, .\d\.\d\d\] pooled", found["link"].unit)
    assert [name for name, _ in found["link"].lines][:2] == ["at fixed sparsity", "given mean density"]
    assert "strongest of 10 metrics" in found["link"].text


def test_undecided_layers_are_neither_within_nor_beyond(study):
    layers, network, table = study
    verdicts = np.where(np.arange(len(layers)) % 4 == 0, "undecided", layers["is_ramanujan"])
    (card,) = [
        c for c in cards(layers.assign(is_ramanujan=verdicts), network, table, "val_accuracy") if c.name == "bound"
    ]
    assert dict(card.bar)["undecided"] == pytest.approx(0.25)
    assert "25 % undecided" in card.text


def test_excess_card_gives_the_mean_over_runs(study):
    layers, network, _ = study
    (card,) = [c for c in cards(layers, network, None, "val_accuracy") if c.name == "excess"]
    last = layers[(layers["step"] == 100) & (layers["family"] != "dense")]
    assert card.value == signed(last.groupby("run")["excess_gap"].mean().mean())
    rigl = layers[(layers["method"] == "rigl")].groupby(["run", "step"])["excess_gap"].mean().unstack()
    assert dict(card.lines)["rigl, change since the first mask"].startswith(signed((rigl[100] - rigl[0]).mean()))


def test_accuracy_that_is_not_recorded_is_said(tmp_path):
    layers = layers_frame(families=["sparse_wide"])
    network = network_frame(layers, target=None)
    path = write_report(layers, network, tmp_path / "r.html")
    page = read(path)
    assert "not recorded" in page.text
    assert "Record it in metrics.jsonl" in page.text
    assert "accuracy" not in page.ids
    assert {"gap", "profile", "table"} <= set(page.ids)


def test_single_run_gives_a_whole_report(tmp_path):
    layers = layers_frame(families=["sparse_wide"], sparsities=[0.9], methods=["rigl"], seeds=[0])
    page = read(write_report(layers, network_frame(layers, target=None), tmp_path / "r.html"))
    assert "too few runs (1) for an interval" in page.text
    assert {"card-bound", "card-excess", "card-movement", "gap", "weighted", "profile", "table"} <= set(page.ids)
    assert not {"nan", "None", "inf"} & set(page.text.split())


def test_single_run_with_accuracy_says_that_one_run_has_no_correlation(tmp_path):
    layers = layers_frame(families=["sparse_wide"], sparsities=[0.9], methods=["rigl"], seeds=[0])
    page = read(write_report(layers, network_frame(layers), tmp_path / "r.html"))
    assert "One run has no correlation" in page.text


def test_dense_runs_alone_are_reported(tmp_path):
    layers = layers_frame(families=["dense"])
    assert "card-bound" in read(write_report(layers, network_frame(layers), tmp_path / "r.html")).ids


def test_too_few_runs_for_a_correlation_are_said(tmp_path):
    layers = layers_frame(families=["sparse_wide"], sparsities=[0.9], methods=["rigl"], seeds=[0, 1])
    network = network_frame(layers)
    page = read(write_report(layers, network, tmp_path / "r.html", correlations=correlate(network, n_boot=100)))
    assert "only 2 runs have both values and at least 4 are needed" in page.text


def test_frames_of_bare_minimum_are_reported(tmp_path):
    layers = pd.DataFrame({"run": "a", "step": [0], "layer": pd.Categorical(["fc"]), "density": [0.5]})
    network = pd.DataFrame({"run": ["a"], "step": [0]})
    page = read(write_report(layers, network, tmp_path / "r.html"))
    assert "fc" in page.text


def test_all_values_missing_are_dashes_with_their_note(tmp_path):
    layers = layers_frame(families=["sparse_wide"], sparsities=[0.9], methods=["set"], seeds=[0], steps=[0])
    numbers = [name for name in layers.columns if layers[name].dtype == float and name not in ("sparsity", "epoch")]
    layers[numbers] = np.nan
    layers = layers.assign(is_ramanujan=None, note="empty")
    page = read(write_report(layers, network_frame(layers, target=None), tmp_path / "r.html"))
    assert "empty" in page.text
    assert "100 % undefined" in page.text


def test_hostile_text_is_text(tmp_path):
    names = [HOSTILE_LAYER, "new\nline\x00\x1b[31m", "</script><script>alert(1)</script>", "{{ 7 * 7 }}", "naïve ∑ 层"]
    layers = layers_frame(families=["sparse_wide"], sparsities=[0.9], seeds=[0], layer_names=names)
    layers["run"] = layers["run"] + "<i>"
    layers["note"] = "<u>"
    network = network_frame(layers)
    path = write_report(
        layers,
        network,
        tmp_path / "r.html",
        title="<h1>'\"",
        argv=["sift-graph", "</code>"],
        warnings=["<script>1</script>"],
        settings={"hash": "<hash>"},
        versions={"<v>": "<1>"},
    )
    page = read(path)
    assert not {"img", "i", "u"} & set(page.tags)
    assert page.tags.count("script") == 1
    assert HOSTILE_LAYER in "".join(page.words)
    assert "{{ 7 * 7 }}" in page.text
    assert "\x00" not in path.read_text(encoding="utf-8")
    assert "\x1b" not in path.read_text(encoding="utf-8")


def test_table_of_many_rows_is_averaged():
    layers = layers_frame(families=["sparse_wide"], seeds=range(8), n_layers=12, steps=[0, 1])
    by_layer = layer_table(layers)
    assert len(by_layer.rows) == 3 * 3 * 12
    assert "864 rows were averaged" in by_layer.caption
    by_group = layer_table(layers_frame(families=["sparse_wide"], seeds=range(3), n_layers=40, steps=[0]))
    assert len(by_group.rows) == 9
    heads = [heading for heading, _, _ in by_layer.columns]
    place = heads.index("density")
    first = layers[(layers["step"] == 1) & (layers["layer"] == "stage1.0.conv1") & (layers["sparsity"] == 0.5)]
    assert float(by_layer.rows[0][place].key) == pytest.approx(first["density"].mean())


def test_table_of_few_rows_is_the_last_snapshot():
    layers = layers_frame(families=["sparse_wide"], sparsities=[0.9], methods=["rigl"], seeds=[0])
    table = layer_table(layers)
    heads = [heading for heading, _, _ in table.columns]
    assert heads[:3] == ["layer", "left × right", "density"]
    last = layers[layers["step"] == 150]
    shown = [float(row[heads.index("σ₂")].key) for row in table.rows]
    np.testing.assert_allclose(shown, last["sigma_2"])


def test_large_study_stays_small(tmp_path):
    layers = layers_frame(
        families=["sparse_wide", "sparse_parallel"], seeds=range(10), sparsities=[0.9], n_layers=20, steps=range(50)
    )
    assert layers["run"].nunique() == 60
    network = network_frame(layers)
    path = write_report(layers, network, tmp_path / "r.html", correlations=correlate(network, n_boot=100))
    assert path.stat().st_size < 1_500_000
    assert len(re.findall(r"<tr>", path.read_text(encoding="utf-8"))) < MAX_ROWS + 60


def test_budget_is_kept_by_leaving_out_figures_and_saying_so(study, tmp_path):
    layers, network, table = study
    path = write_report(layers, network, tmp_path / "r.html", correlations=table, max_bytes=250_000)
    assert path.stat().st_size <= 250_000
    page = read(path)
    assert re.search(r"\d+ figures were left out", page.text)
    assert "gap" in page.ids
    assert "dynamics" not in page.ids
    assert len(page.ids) == len(set(page.ids))


def test_many_warnings_are_cut_and_counted(study, tmp_path):
    layers, network, _ = study
    path = write_report(
        layers, network, tmp_path / "r.html", warnings=[f"warning {i} " + "x" * 5000 for i in range(300)]
    )
    page = read(path)
    assert "and 200 more" in page.text
    assert "300 warnings" in page.text
    assert path.stat().st_size < 1_500_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.iloc[:0], "there is no row to report on"),
        (lambda frame: frame.drop(columns="layer"), "layers frame: column 'layer' is missing"),
    ],
)
def test_frame_that_is_none_is_refused(study, tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        write_report(change(study[0]), study[1], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_figures_are_written_as_files_that_are_the_same_each_time(study, tmp_path):
    first = write_figures(study[0], study[1], tmp_path / "a")
    second = write_figures(study[0], study[1], tmp_path / "b")
    names = [path.name for path in first]
    assert len(names) == len(set(names))
    assert {"gap_sparsity_0.9.svg", "accuracy.svg", "scatter_excess_gap.svg"} <= set(names)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert write_figures(study[0].iloc[:0], study[1].iloc[:0], tmp_path / "c") == []


def test_panels_of_one_quantity_share_their_scale(study):
    limits = {drawing.ax.get_ylim() for drawing in drawings(study[0], study[1]) if drawing.section == "gap"}
    assert len(limits) == 1


def test_one_run_far_above_the_others_makes_a_logarithmic_scale(study):
    layers, network, _ = study
    wild = layers["run"] == "sparse_wide-0.9-rigl-0"
    layers = layers.assign(weighted_spectral_gap=layers["weighted_spectral_gap"].mask(wild, 900.0))
    scales = {d.ax.get_yscale() for d in drawings(layers, network) if d.section == "weighted"}
    assert scales == {"log"}
    assert {d.ax.get_yscale() for d in drawings(layers, network) if d.section == "gap"} == {"linear"}


def test_wide_band_does_not_flatten_the_lines(study):
    layers, network, _ = study
    shift = layers["seed"].map({0: -5.0, 1: 0.0, 2: 5.0})
    panels = [
        d
        for d in drawings(layers.assign(ramanujan_gap_norm=layers["ramanujan_gap_norm"] + shift), network)
        if d.section == "gap"
    ]
    low, high = panels[0].ax.get_ylim()
    assert high - low < 1.0
    assert panels[0].ax.collections[0].get_paths()[0].get_extents().height > 10


def test_many_families_and_sparsities_do_not_make_many_panels():
    layers = layers_frame(families=[f"family{i}" for i in range(5)], sparsities=[0.5, 0.6, 0.7, 0.8, 0.9], steps=[0, 1])
    gap = [d for d in drawings(layers, network_frame(layers)) if d.section == "gap"]
    assert 1 < len(gap) <= MAX_PANELS


def test_facts_count_what_there_is(study):
    found = dict(facts(study[0], study[1], "val_accuracy"))
    assert found["runs"] == "30"
    assert found["layers"] == "4"
    assert found["snapshots"] == "90"
    assert found["methods"] == "static, set, rigl"
    assert found["sparsities"] == "0.5, 0.75, 0.9"
    assert found["validation accuracy"] == "30 of 30 runs"


def test_numbers_have_real_minus_signs_and_dashes():
    assert number(-0.1234) == "−0.123"
    assert signed(0.5, 1) == "+0.5"
    assert signed(-0.0001, 2) == signed(0.0, 2) == number(-0.0001, 2) == "0.00"
    assert number(math.nan) == signed(None) == "–"
    assert [percent(share) for share in (0, 0.001, 0.5, 0.999, 1)] == ["0 %", "< 1 %", "50 %", "> 99 %", "100 %"]


def test_report_needs_no_pyplot():
    code = "import sys, sift_graph.report; assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    layers = layers_frame(families=["sparse_wide"], sparsities=[0.9], seeds=[0], layer_names=[HOSTILE_LAYER, "b" * 300])
    path = tmp_path_factory.mktemp("hostile") / "r.html"
    return write_report(
        layers, network_frame(layers), path, title="t" * 200, warnings=["w" * 900], argv=["sift-graph", "r" * 900]
    )


OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
CONTRAST = """
const luminance = text => {
  const [r, g, b] = text.match(/[\\d.]+/g).map(Number).slice(0, 3)
    .map(c => c / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = node => {
  for (; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (!/^rgba\\(.*, 0\\)$|transparent/.test(colour)) return colour;
  }
  return "rgb(255, 255, 255)";
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
while (walker.nextNode()) {
  const node = walker.currentNode, parent = node.parentElement;
  if (!node.textContent.trim() || ["SCRIPT", "STYLE"].includes(parent.tagName)) continue;
  const style = getComputedStyle(parent), svg = parent.closest("svg");
  const a = luminance(svg ? style.fill : style.color), b = luminance(ground(parent));
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) found.push([ratio, node.textContent.trim().slice(0, 40)]);
}
return found;
"""


def test_page_loads_without_errors_and_asks_for_nothing(browser, report):
    show(browser, report)
    assert browser.get_log("browser") == []
    outside = [url for url in requests(browser) if not url.startswith(("file:", "data:"))]
    assert outside == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return document.querySelectorAll('.card').length") == 4
    assert browser.execute_script("return document.querySelectorAll('svg').length") > 10


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("which", ["report", "hostile"])
def test_page_fits_its_width(browser, request, which, width):
    show(browser, request.getfixturevalue(which), width=width)
    assert browser.execute_script(OVERFLOW) <= 0
    outside = browser.execute_script(
        "return [...document.querySelectorAll('.card, figure, h1, p, li, dd, .scroll')]"
        ".filter(e => e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []


def test_dark_scheme_changes_the_ground_and_both_are_readable(browser, report):
    grounds = []
    for scheme in ("light", "dark"):
        show(browser, report, scheme=scheme)
        browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        grounds.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        assert browser.execute_script(CONTRAST) == []
    assert grounds[0] != grounds[1]


def test_figures_change_colour_with_the_scheme(browser, report):
    fill = "return getComputedStyle(document.querySelector('svg text')).fill"
    colours = []
    for scheme in ("light", "dark"):
        show(browser, report, scheme=scheme)
        colours.append(browser.execute_script(fill))
    assert colours[0] != colours[1]


def test_text_of_figures_is_large_enough_on_a_phone(browser, report):
    show(browser, report, width=390)
    smallest = browser.execute_script(
        "return Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))"
    )
    assert smallest >= 8


def test_page_works_without_scripts(browser, report):
    from selenium.webdriver.common.by import By

    show(browser, report, scripts=False)
    try:
        assert browser.find_element(By.ID, "card-excess").is_displayed()
        assert browser.find_elements(By.CSS_SELECTOR, "#layers thead button") == []
        assert len(browser.find_elements(By.CSS_SELECTOR, "#layers tbody tr")) == 108
        assert browser.find_element(By.CSS_SELECTOR, "#gap svg").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_table_sorts_by_number_and_says_so(browser, report):
    show(browser, report)
    browser.execute_script(
        "[...document.querySelectorAll('#layers button')].find(b => b.textContent === 'excess').click()"
    )
    values = browser.execute_script(
        "const th = document.querySelector('#layers th[aria-sort]');"
        "return [th.getAttribute('aria-sort'), [...document.querySelectorAll('#layers tbody tr')]"
        ".map(r => r.cells[th.cellIndex].dataset.key)]"
    )
    keys = [float(key) for key in values[1]]
    assert values[0] == "ascending"
    assert keys == sorted(keys)


def test_hostile_layer_name_shows_as_text(browser, hostile):
    show(browser, hostile)
    assert browser.get_log("browser") == []
    shown = browser.execute_script("return [...document.querySelectorAll('#layers .clip')].map(e => e.textContent)")
    assert HOSTILE_LAYER in shown
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0


def test_page_prints_light_even_in_the_dark(browser, report):
    show(browser, report, media="print", scheme="dark", width=700)
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    assert browser.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(pdf) > 50_000
