"""SRigL: a constant fan-in among the outputs that are on."""

import numpy as np
import pytest
import torch

from sift_graph.errors import UsageError
from sift_graph.sparsify import MethodOptions, Schedule
from tests.sparse_run import SCHEDULE, Run

TARGET = {"1.weight": 64, "4.weight": 96}  # 16 outputs of 12 inputs, 24 of 16


def by_rule(weight, mask, gradient, fraction, ablation, target):
    """The rule, written out with sorts and loops."""
    n, slope = int(mask.sum()), np.abs(gradient)
    dropped = int(fraction * n)
    order = sorted(np.ndindex(mask.shape), key=lambda p: (not mask[p], -abs(weight[p]), p))
    kept = set(order[: n - dropped])
    others = sorted((p for p in np.ndindex(mask.shape) if p not in kept), key=lambda p: (-slope[p], p))
    salient = kept | set(others[:dropped])
    fan_in = int(mask.sum(1).max())
    rows = range(len(mask))
    on = [i for i in rows if sum(p[0] == i for p in salient) >= ablation * fan_in]
    degree = min(target // len(on), mask.shape[1])
    new = np.zeros_like(mask)
    for i in on:
        row = [p for p in order if p in kept and p[0] == i] + [p for p in others if p[0] == i]
        for p in row[:degree]:
            new[p] = True
    return new


@pytest.mark.parametrize("ablation", [0.0, 0.3, 0.5])
def test_masks_move_by_the_rule_at_a_constant_fan_in(ablation):
    run = Run("srigl", options=MethodOptions(ablation=ablation))
    off = 0
    for _ in range(24):
        old = run.mask()
        run.backward()
        gradient = {name: p.grad.clone() for name, p in run.masks.parameters.items()}
        run.optimizer.step()
        weight = run.weights()
        run.t += 1
        moved = run.method.step(run.t)
        for name, mask in run.mask().items():
            degrees = mask.sum(1)
            on = degrees > 0
            assert set(degrees[on].tolist()) == {min(TARGET[name] // int(on.sum()), mask.shape[1])}
            off += int((~on).sum())
            if moved:
                fraction = SCHEDULE.fraction(run.t)
                args = (weight[name].numpy(), old[name].numpy(), gradient[name].numpy())
                assert (mask.numpy() == by_rule(*args, fraction, ablation, TARGET[name])).all()
    assert (off > 0) == (ablation > 0)


def test_with_few_weights_some_outputs_stay_on():
    options = MethodOptions(ablation=1.0)
    run = Run("srigl", options=options, schedule=Schedule(0, 40, every=1, drop_fraction=0.9))
    for _ in range(30):
        run.step()
        assert all(0 < count <= TARGET[name] for name, count in run.masks.edges().items())


def test_masks_of_another_kind_are_refused():
    with pytest.raises(
        UsageError, match=r"layer '1': expected as many weights for each output, found from \d to \d+; lay"
    ):
        Run("srigl", layout="exact")


def test_kernels_count_as_inputs():
    from torch import nn

    from sift_graph.sparsify import METHODS, lay_out

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3))
    masks = lay_out(model, {"0.weight": 48}, layout="constant_fan_in")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = METHODS["srigl"].make(
        masks, optimizer, Schedule(0, 9, every=1), model=model, options=MethodOptions(ablation=0.0)
    )
    model(torch.randn(2, 3, 6, 6)).square().sum().backward()
    optimizer.step()
    assert method.step(1)
    assert masks["0.weight"].flatten(1).sum(1).tolist() == [8] * 6
