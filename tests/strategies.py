"""Hypothesis strategies for masks, and names that a careless program would trip over."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sift_graph.masks import LayerMask

HOSTILE_NAMES = [
    "../../etc/passwd",
    "/absolute/path",
    "a/b/c",
    "..",
    ".",
    "",
    "C:\\windows\\system32",
    "quote\"and'tick",
    "<script>alert('x')</script>",
    "x" * 300,
    "naïve.∑.層.🦀",
    "line\nbreak\r\ttab",
    "nul\0byte",
    "__metadata__",
    "mask/mask/weight",
    "step_000000000.safetensors",
    "%s %d {0} $HOME `id`",
]

names = st.one_of(st.sampled_from(HOSTILE_NAMES), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
shapes = hnp.array_shapes(min_dims=2, max_dims=5, min_side=1, max_side=7)


@st.composite
def layer_masks(draw: st.DrawFn, name: str | None = None, *, weights: bool | None = None) -> LayerMask:
    """Masks of all shapes, layouts and groups, with or without weights that float32 can hold."""
    shape = draw(shapes)
    layout = draw(st.sampled_from(["oi", "io"]))
    out = shape[0] if layout == "oi" else shape[-1]
    groups = draw(st.sampled_from([g for g in range(1, out + 1) if out % g == 0]))
    mask = draw(hnp.arrays(np.bool_, shape))
    weight = None
    if draw(st.booleans()) if weights is None else weights:
        weight = draw(hnp.arrays(np.float32, shape, elements=st.floats(width=32, allow_nan=True)))
    return LayerMask.from_dense(
        draw(names) if name is None else name, mask, weight, groups=groups, layout=layout, source=draw(names)
    )


@st.composite
def networks(draw: st.DrawFn) -> dict[str, LayerMask]:
    """Some layers by name."""
    return {name: draw(layer_masks(name)) for name in draw(st.lists(names, min_size=1, max_size=4, unique=True))}
