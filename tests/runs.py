"""Small recorded runs, written by the store itself."""

import numpy as np

from sift_graph.masks import LayerMask, Snapshot
from sift_graph.store import RunWriter

SHAPES = {"stage1.0.conv1": (8, 6, 3, 3), "stage1.0.conv2": (8, 8, 3, 3), "stage2.dw": (10, 1, 3, 3), "fc": (12, 20)}
GROUPS = {"stage2.dw": 10}
HOSTILE = [
    "../../etc/passwd",
    "a/b\\c.d..e",
    "quote'\"`$(rm)",
    "<script>alert(1)</script>",
    "x" * 300,
    "naïve ∑ 层",
    "new\nline",
    "[bold]markup[/bold]",
]


def move(mask, rng, share=0.2):
    """Drop a share of the edges and grow as many elsewhere."""
    flat = mask.reshape(-1).copy()
    on, off = np.flatnonzero(flat), np.flatnonzero(~flat)
    k = min(int(share * len(on)), len(off))
    flat[rng.choice(on, k, replace=False)] = False
    flat[rng.choice(off, k, replace=False)] = True
    return flat.reshape(mask.shape)


def write_run(
    path,
    *,
    steps=(0, 10, 20, 30),
    shapes=SHAPES,
    density=0.4,
    seed=0,
    moving=True,
    weights=True,
    accuracy=None,
    **about,
):
    """Record a run of random masks; returns its path."""
    rng = np.random.default_rng(seed)
    about = {
        "family": "sparse_wide",
        "method": "rigl" if moving else "static",
        "sparsity": 1 - density,
        "seed": seed,
    } | about
    writer = RunWriter(path, about=about)
    masks = {name: rng.random(shape) < density for name, shape in shapes.items()}
    for step in steps:
        layers = {
            name: LayerMask.from_dense(
                name, mask, rng.standard_normal(mask.shape).astype("f") if weights else None, groups=GROUPS.get(name, 1)
            )
            for name, mask in masks.items()
        }
        writer.write_snapshot(Snapshot(step, layers, epoch=step / 10))
        if accuracy is not None:
            writer.append_metrics({"step": step, "epoch": step / 10, "val_accuracy": accuracy - 0.1 / (1 + step)})
        if moving:
            masks = {name: move(mask, rng) for name, mask in masks.items()}
    return path
