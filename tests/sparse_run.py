"""A small network with masks on its inner layers, for the tests of sparsify."""

import io

import torch
from torch import nn
from torch.nn import functional

from sift_graph.sparsify import METHODS, MethodOptions, Schedule, lay_out

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, centered=True, momentum=0.5),
}
SCHEDULE = Schedule(2, 24, every=3, drop_fraction=0.4)
COUNTS = {"1.weight": 60, "4.weight": 96}
FITTING = {"nm": {"1.weight": 96, "4.weight": 192}, "srigl": {"1.weight": 64, "4.weight": 96}}  # of those with needs
OPTIONS = MethodOptions(synflow_rounds=5)


class Run:
    """A small network on fixed random data, with masks on its inner layers."""

    def __init__(self, method, *, optimizer="sgd", seed=0, schedule=SCHEDULE, options=OPTIONS, layout=None):
        source = METHODS[method]
        torch.manual_seed(7)
        self.model = nn.Sequential(
            nn.Linear(6, 12), nn.Linear(12, 16, bias=True), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 24),
            nn.ReLU(), nn.Linear(24, 3),
        )  # fmt: skip
        self.x, self.y = torch.randn(40, 6), torch.randint(3, (40,))
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        if layout is None:
            layout = "exact" if source.init == "random" else source.init
        self.masks = lay_out(
            self.model,
            FITTING.get(method, COUNTS),
            layout=layout,
            seed=seed,
            scope=source.scope(options),
            batches=lambda: [(self.x, self.y)],
            options=options,
        )
        self.method = source.make(self.masks, self.optimizer, schedule, model=self.model, options=options)
        self.t = 0

    def backward(self):
        self.optimizer.zero_grad()
        functional.cross_entropy(self.model(self.x), self.y).backward()

    def step(self):
        self.backward()
        self.optimizer.step()
        self.t += 1
        return self.method.step(self.t)

    def weights(self):
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def mask(self):
        return {name: self.masks[name].clone() for name in self.masks}

    def buffers(self, name):
        parameter = dict(self.model.named_parameters())[name]
        state = self.optimizer.state.get(parameter, {})
        return [v for v in state.values() if isinstance(v, torch.Tensor) and v.shape == parameter.shape]

    def state(self):
        file = io.BytesIO()
        torch.save([self.model.state_dict(), self.optimizer.state_dict(), self.masks.state_dict(), self.t], file)
        return file.getvalue()

    def load(self, state):
        model, optimizer, masks, self.t = torch.load(io.BytesIO(state), weights_only=True)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        self.masks.load_state_dict(masks)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
