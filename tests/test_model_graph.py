"""Graphs of PyTorch models: what is traced is what the model computes."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from sift_graph import MaskRecorder, table
from sift_graph.encodings.geometry import recorded_geometries
from sift_graph.errors import UsageError
from sift_graph.masks import LayerMask
from sift_graph.metrics.connectivity import path_matrix
from sift_graph.metrics.network import Network
from sift_graph.model_graph import trace_graph
from sift_graph.network_graph import NetworkGraph
from sift_graph.record import RecorderWarning
from sift_graph.store import RunReader
from sift_graph.train import load_config
from sift_graph.train.build import build_model
from sift_graph.train.models.gpt import GPT


class Block(nn.Module):
    """Convolutions with a shortcut, a concatenation, a slice, a gate and a flattened head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.one = nn.Conv2d(4, 4, 1, bias=False, groups=2)
        self.two = nn.Conv2d(6, 3, 3, bias=False, stride=2, padding=1)
        self.squeeze = nn.Linear(3, 3, bias=False)
        self.head = nn.Linear(3 * 4, 5, bias=False)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        y = x + self.one(x)
        y = torch.cat([y, x[:, 1:3]], dim=1)
        batch, *_ = y.shape
        y = functional.avg_pool2d(self.two(y), 1)
        y = y * self.squeeze(y.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.head(y.reshape(batch, -1))


def positive(model, density=0.4, seed=0):
    """Masks with weights 1 for each layer, put into the model."""
    rng, masks = np.random.default_rng(seed), {}
    for name, module in model.named_modules():
        if hasattr(module, "weight") and module.weight is not None and module.weight.ndim >= 2:
            mask = rng.random(module.weight.shape) < density
            module.weight.data = torch.from_numpy(mask).float()
            masks[name] = LayerMask.from_dense(name, mask, groups=getattr(module, "groups", 1))
    return masks


def jacobian_reach(model, shape):
    """Which outputs depend on which input channels, by derivatives of a model of positive weights."""
    x = torch.rand(1, *shape) + 0.5
    jacobian = torch.autograd.functional.jacobian(lambda one: model(one), x)[0]
    return jacobian.abs().flatten(3).sum((1, 3)).numpy() > 0


@pytest.mark.parametrize("seed", range(4))
def test_paths_of_a_traced_model_are_its_derivatives(seed):
    class NoGate(Block):
        def forward(self, x):
            x = functional.relu(self.stem(x))
            y = torch.cat([x + self.one(x), x[:, 1:3]], dim=1)
            return self.head(self.two(y).flatten(1))

    model = NoGate()
    masks = positive(model, 0.25, seed)
    network = Network(trace_graph(model, torch.zeros(1, 2, 4, 4)), masks)
    paths = path_matrix(network)
    reach = jacobian_reach(model, (2, 4, 4))
    assert 0 < reach.sum() < reach.size or seed
    assert np.array_equal(paths > 0, reach)
    assert set(network.unplaced) == {"squeeze"}  # which does not run here


def test_operations_between_layers_are_followed():
    graph = trace_graph(Block(), torch.zeros(2, 2, 4, 4))
    spaces = {space.layer or space.kind: space for space in graph.spaces}
    assert graph.layers == ["stem", "one", "two", "squeeze", "head"]
    stem, added = spaces["stem"], spaces["sum"]
    assert spaces["two"].sources[0].tolist() == [*added.channels, *stem.channels[1:3]]
    assert spaces["head"].sources[0].tolist() == np.repeat(spaces["two"].channels, 4).tolist()
    assert set(spaces["squeeze"].channels) <= set(graph.gates)
    assert not graph.unplaced
    geometry = recorded_geometries(graph.record())
    assert geometry["two"].output == (2, 2)
    assert geometry["two"].stride == (2, 2)
    assert NetworkGraph.from_record(graph.record()).record() == graph.record()


@pytest.mark.parametrize("name", ["mlp", "resnet", "vgg16_quarter", "mobilenet_v2", "vit"])
def test_the_models_of_the_trainer_are_placed_whole(name):
    model = build_model(load_config(model=name))
    graph = trace_graph(model, torch.zeros(1, 1, 8, 8))
    weights = {n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert set(graph.layers) == weights
    assert not graph.unplaced
    assert len(graph.outputs) == 10


def test_torchs_own_attention_goes_on_through_its_values():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    graph = trace_graph(model, torch.zeros(1, 5, 8))
    spaces = {space.layer: space for space in graph.spaces}
    fused, out = spaces["self_attn.in_proj_weight"], spaces["self_attn.out_proj"]
    assert out.sources[0].tolist() == fused.channels[16:].tolist()
    assert set(fused.channels[:16]) <= set(graph.gates)
    assert not graph.unplaced


def test_a_transposed_convolution_is_read_the_other_way():
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.Conv2d(6, 2, 1))
    graph = trace_graph(model, torch.zeros(1, 4, 5, 5))
    first = graph.spaces[1]
    assert (first.shape, first.groups) == ((6, 2, 3, 3), 2)
    assert first.geometry["transposed"]
    assert first.geometry["output"] == [11, 11]


def test_what_cannot_be_followed_is_said():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.unused = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(3, 3)

        def forward(self, x):
            return self.b(torch.fft.fft(self.a(x)).real)

    graph = trace_graph(Odd(), torch.zeros(1, 4))
    assert graph.layers == ["a"]
    assert "an operation before it mixes channels" in graph.unplaced["b"]
    assert "ran in no operation" in graph.unplaced["unused"]
    assert set(graph.spaces[1].channels) <= set(graph.gates)
    with pytest.raises(UsageError, match=r"Odd does not run on the example input .*that it is trained on"):
        trace_graph(Odd(), torch.zeros(1, 5))


def test_tracing_leaves_the_model_and_the_generator_as_they_were():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    trace_graph(model, torch.ones(1, 1, 5, 5))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training


def test_the_recorder_writes_the_graph(tmp_path):
    model = Block()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    masks = {f"{n}.weight": torch.rand(m.weight.shape) < 0.5 for n, m in model.named_children()}
    with MaskRecorder(tmp_path / "run", example_input=torch.zeros(1, 2, 4, 4)).attach(model, optimizer, masks=masks):
        pass
    header = RunReader(tmp_path / "run").header
    assert [layer["layer"] for layer in header["graph"]["layers"]] == ["stem", "one", "two", "squeeze", "head"]
    found = table.analyze_runs(tmp_path / "run", encoding="unrolled", metrics="sigma_1,effective_paths_log10")
    assert not found.failures
    assert found.layers.set_index("layer")["n_right"]["two"] == 3 * 4
    assert math.isfinite(found.network["effective_paths_log10"][0])
    with (
        pytest.warns(RecorderWarning, match="the network graph is not recorded: Block does not run"),
        MaskRecorder(tmp_path / "b", example_input=torch.zeros(1, 3, 4, 4)).attach(model, optimizer, masks=masks),
    ):
        pass
    assert "graph" not in RunReader(tmp_path / "b").header


def test_tokens_enter_through_their_table_and_leave_through_it():
    model = GPT(16, (8,), 11, (2,), heads=2)
    graph = trace_graph(model, torch.zeros(1, 8, dtype=torch.long))
    assert len(graph.layers) == 13
    assert graph.layers[-1] == "tokens"  # the head is the same weight
    assert graph.spaces[0].size == 16
    assert not graph.unplaced
    assert len(graph.outputs) == 11
