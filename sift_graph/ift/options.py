"""What can be chosen about a family, and the presets that choose as the released code of Sparse-IFT does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from sift_graph.errors import UsageError
from sift_graph.ift.flops import COUNTERS
from sift_graph.ift.formulas import BRANCH_ROUNDINGS, ROUNDINGS, check_choice
from sift_graph.ift.layers import NONLINEARITIES

__all__ = ["PRESETS", "Options"]

DEPTHWISE = ("keep", "transform", "isoflop")
AFTER = ("keep", "reset", "skip")
Choices = Mapping[str, object]
# What an option left empty becomes in each family, and failing that in all of them.
OWN: dict[str, Choices] = {
    "dense": {"depthwise": "transform"},
    "sparse_wide": {"depthwise": "transform"},
    "nm_wide": {"multiple": 8},
    "sparse_parallel": {"rounding": "exact", "nonlinearity": "bn_relu"},
    "sparse_factorized": {"rounding": "ceil", "nonlinearity": "bn_relu"},
    "sparse_doped": {"rounding": "floor", "nonlinearity": "bn_relu"},
    "low_rank_linear": {},
    "low_rank_nonlinear": {"nonlinearity": "bn_relu"},
}
COMMON: Choices = {
    "layers": ("*",),
    "nonlinearity": "identity",
    "rounding": "nearest",
    "multiple": 1,
    "depthwise": "keep",
    "norm_after": "keep",
    "compensate": "yes",
    "counter": "macs",
}
SHORTCUTS = ("*shortcut*", "*downsample*")
RELEASED: Choices = {"mask_only": SHORTCUTS, "rounding": "official", "compensate": "no", "counter": "official"}
CIFAR: dict[str, Choices] = {
    "sparse_wide": {"rounding": "official", "counter": "official"},
    "sparse_parallel": {**RELEASED, "nonlinearity": "bn", "norm_after": "skip"},
    "sparse_factorized": {**RELEASED, "norm_after": "reset"},
    "sparse_doped": {**RELEASED, "nonlinearity": "identity", "norm_after": "reset", "mask_low_rank": True},
}
# Widths, branches and ranks as the released code rounds them, 1x1 shortcuts masked but not transformed, compensation
# for Wide alone, counted as its profiler counts. Parallel has its norm in the branches and no other: that of the block
# is built and never used. A family that is not named is as without a preset.
PRESETS: dict[str, dict[str, Choices]] = {
    "official_cifar": CIFAR,
    "official_imagenet": {**CIFAR, "sparse_parallel": {**RELEASED, "nonlinearity": "bn_relu", "norm_after": "skip"}},
}


@dataclass(frozen=True)
class Options:
    """How a family transforms a model. A text left empty is the family's own choice.

    Attributes
    ----------
    preset : str
        A key of :data:`PRESETS`, whose choices go before the family's own, and after those made here.
    layers : tuple of str
        Globs of layer names; the layers that match are the family's, the others stay as they are, dense and not
        recorded. A glob that begins with ``!`` takes names away.
    keep_ends : bool
        The first and the last layer stay dense and are not recorded, whatever `layers` says; or in a model that names
        them itself, those of its ``dense_layers``.
    mask_only : tuple of str
        Globs of layers that keep their shape and carry masks at the common density.
    nonlinearity : str
        A key of ``NONLINEARITIES``: ``bn_relu``, ``bn``, ``relu``, ``layer_norm``, ``layer_norm_relu``, ``identity``.
    rounding : str
        Of widths, branches or ranks: ``nearest``, ``floor``, ``ceil``, ``official``, and ``exact`` for branches, with a
        last branch of lower density.
    multiple : int
        Widths are multiples of it; 0 for 1, or for 8 in N:M Wide.
    depthwise : str
        ``keep``: depthwise convolutions are neither transformed nor masked. ``transform``: they are like any layer.
        ``isoflop``: in Wide, they are masked so that each costs what it does in the dense model.
    mask_low_rank : bool
        Mask Doped's U and V too.
    norm_after : str
        What becomes of a batch norm that a transformed layer feeds: ``keep``, ``reset`` to weight 1 where it starts
        from 0, or ``skip`` it.
    compensate : str
        ``yes``: choose the density so that the whole model costs its budget; ``no``: it is ``1 - s``.
    counter : str
        A key of :data:`~sift_graph.ift.flops.COUNTERS`: what the budget is counted in.
    """

    preset: str = ""
    layers: tuple[str, ...] = ()
    keep_ends: bool = True
    mask_only: tuple[str, ...] = ()
    nonlinearity: str = ""
    rounding: str = ""
    multiple: int = 0
    depthwise: str = ""
    mask_low_rank: bool = False
    norm_after: str = ""
    compensate: str = ""
    counter: str = ""

    def resolved(self, family: str) -> Options:
        """Fill in what was left to the preset and to the family, and check each choice.

        Parameters
        ----------
        family : str
            A key of ``FAMILIES``.

        Returns
        -------
        Options

        Raises
        ------
        UsageError
            If a choice is unknown, or the family has no use for it.
        """
        if self.preset:
            check_choice("preset", self.preset, PRESETS)
        filled = self
        for choices in (PRESETS[self.preset].get(family, {}) if self.preset else {}, OWN[family], COMMON):
            missing: dict[str, Any] = {k: v for k, v in choices.items() if not getattr(filled, k)}
            filled = replace(filled, **missing)
        check_choice("counter", filled.counter, COUNTERS)
        check_choice("choice of compensation", filled.compensate, ("yes", "no"))
        check_choice("nonlinearity", filled.nonlinearity, NONLINEARITIES)
        check_choice("rounding", filled.rounding, BRANCH_ROUNDINGS if family == "sparse_parallel" else ROUNDINGS)
        check_choice("choice for norms after a layer", filled.norm_after, AFTER)
        is_wide = family in ("sparse_wide", "nm_wide")
        check_choice("depthwise rule", filled.depthwise, DEPTHWISE if is_wide else DEPTHWISE[:2])
        if filled.multiple < 1:
            raise UsageError(f"expected widths to be a multiple of 1 or more, found {filled.multiple}")
        return filled

    def takes(self, layer: str) -> bool:
        """Whether a layer is the family's to transform or to mask."""
        wanted = [glob for glob in self.layers if not glob.startswith("!")]
        unwanted = [glob[1:] for glob in self.layers if glob.startswith("!")]
        return matches(layer, wanted or ["*"]) and not matches(layer, unwanted)

    def only_masks(self, layer: str) -> bool:
        """Whether a layer keeps its shape."""
        return matches(layer, self.mask_only)


def matches(name: str, globs: list[str] | tuple[str, ...]) -> bool:
    """Whether a name matches one of some globs."""
    return any(fnmatchcase(name, glob) for glob in globs)
