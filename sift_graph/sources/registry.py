"""The adapters by name, in the order in which they are asked."""

from __future__ import annotations

from sift_graph.sources.buffers import asp, mask_buffer, modelopt, module_mask, torch_ao, torch_prune
from sift_graph.sources.objects import OBJECTS
from sift_graph.sources.soft import spartan
from sift_graph.sources.tensors import nonzero, param_mask, sparse_tensor
from sift_graph.sources.weights import Source

__all__ = ["FROM_ZEROS", "SOURCES"]

FROM_ZEROS = "weight!=0"

SOURCES: dict[str, Source] = {
    **OBJECTS,
    "torch.ao.pruning": torch_ao,
    "torch.nn.utils.prune": torch_prune,
    "mask_buffer": mask_buffer,
    "modelopt": modelopt,
    "asp": asp,
    "spartan": spartan,
    "module.mask": module_mask,
    "param.mask": param_mask,
    "sparse_tensor": sparse_tensor,
    FROM_ZEROS: nonzero,
}
"""Adapters by name; those of other packages come before ours, ``"weight!=0"`` comes last."""
