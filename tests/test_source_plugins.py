"""Sources of other packages: registration, and what becomes of those that fail."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
import torch
from torch import nn

from sift_graph.sources import FAILED, GROUP, SOURCES, Weight, find_masks, load_plugins


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 3))


def add_source(name, value):
    return load_plugins([EntryPoint(name, value, GROUP)])


@pytest.fixture
def registry():
    """Leave the registry as it was."""
    before, failed = dict(SOURCES), dict(FAILED)
    yield
    SOURCES.clear()
    SOURCES.update(before)
    FAILED.clear()
    FAILED.update(failed)


def halves(weights, optimizer):
    """An adapter of another package: it says that every weight keeps its first row."""
    for weight in weights:
        mask = torch.zeros(weight.tensor.shape)
        mask[0] = 1
        yield weight, mask


def falls_over(weights, optimizer):
    yield from halves(weights[:1], optimizer)
    raise ZeroDivisionError("no luck")


def names_layers(weights, optimizer):
    return [("1", torch.ones(8, 6))]


def buffers(weights, optimizer):
    """An adapter that knows a weight which is no parameter: a buffer of a quantised layer."""
    module = weights[0].module
    yield Weight("quantised", module, "codes", module.codes), module.codes != 0
    yield weights[1], weights[1].tensor > 0


NO_SOURCE = 7


@pytest.mark.usefixtures("registry")
def test_another_package_adds_a_source_that_is_asked_before_ours():
    assert add_source("mine", "tests.test_source_plugins:halves") == ["mine"]
    assert next(iter(SOURCES)) == "mine"
    assert list(SOURCES)[-1] == "weight!=0"
    found = find_masks(net())
    assert {layer.source for layer in found.values()} == {"mine"}
    assert found["1"].mask.sum(axis=1).tolist() == [6, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.usefixtures("registry")
def test_a_source_may_know_weights_that_are_no_parameters():
    add_source("quantised", "tests.test_source_plugins:buffers")
    model = net()
    model[0].register_buffer("codes", torch.tensor([[0, 3, 0], [1, 0, 2]]))
    found = find_masks(model)
    assert list(found) == ["1", "quantised"]
    assert found["quantised"].values.tolist() == [3, 1, 2]


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("gone", "tests.test_source_plugins:MISSING", "AttributeError"),
        ("absent", "no_such_package:find", "ModuleNotFoundError"),
        ("number", "tests.test_source_plugins:NO_SOURCE", "TypeError: expected a function of weights and optimizer"),
        ("asp", "tests.test_source_plugins:halves", "ValueError: there is a source 'asp' already"),
    ],
)
def test_a_package_that_cannot_be_loaded_is_named_and_left_out(name, value, why, caplog):
    assert add_source(name, value) == []
    assert f"masks of entry point {name!r} are left out: {why}" in caplog.text
    assert why in FAILED[name]
    assert len(find_masks(net(), from_zeros=True)) == 3


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("value", "why"),
    [("falls_over", "ZeroDivisionError: no luck"), ("names_layers", r"TypeError: expected (weight, mask) pairs")],
)
def test_a_source_that_fails_at_work_is_named_once_and_finds_nothing(value, why, caplog):
    add_source("broken", f"tests.test_source_plugins:{value}")
    for _ in range(2):  # a recorder asks at every step
        found = find_masks(net(), from_zeros=True)
    assert {layer.source for layer in found.values()} == {"weight!=0"}
    assert caplog.text.count(f"masks of entry point 'broken' are left out: {why}") == 1
