"""From a layer's mask, or from several, to the graph that is measured: one mask can be read in more than one way.

``kernel``
    Left: input channel and kernel position; right: output channel. The default.
``channel``
    Left: input channel. An edge where any kernel position is kept; its weight is the norm of the kernel.
``channel_count``
    The same vertices; as many edges between two as kernel positions are kept.
``unrolled``
    Left: input pixels, right: output pixels, with the layer's stride, padding and dilation.
``unrolled_circular``
    The same with stride 1 on a torus, whose spectrum is known frequency by frequency.
``qkv``
    A fused attention projection as three graphs: query, key, value.
``heads``
    A projection's rows, head by head.
``parallel_or``
    The branches of Sparse Parallel as one layer: an edge where any branch has one.
``parallel_sum``
    The same; as many edges as branches have one.
``factorized``
    U then V of Sparse Factorized: as many edges as there are paths through the rank.
``factorized_support``
    The same; an edge where there is a path.
``attention``
    Per head, paths from query input to key input, and from value input to output.

An encoding gives a mask again, :class:`Encoded`: its support, with a count for each edge where edges are repeated and
with sizes where it is unrolled. Nothing is unrolled in memory.
"""

from sift_graph.encodings.composite import attention_pair, factorized, parallel
from sift_graph.encodings.geometry import Geometry
from sift_graph.encodings.layer import Encoded, channel, channel_count, head_rows, kernel, split_qkv, unrolled
from sift_graph.encodings.targets import ENCODINGS, SINGLE, Request, Target, encode, find_targets

__all__ = [
    "ENCODINGS",
    "SINGLE",
    "Encoded",
    "Geometry",
    "Request",
    "Target",
    "attention_pair",
    "channel",
    "channel_count",
    "encode",
    "factorized",
    "find_targets",
    "head_rows",
    "kernel",
    "parallel",
    "split_qkv",
    "unrolled",
]
