"""Options of single methods, in one frozen dataclass that a configuration file can hold."""

from __future__ import annotations

from dataclasses import dataclass

from sift_graph.errors import UsageError, did_you_mean

__all__ = ["MethodOptions"]

SCOPES = ("own", "layer", "global")


@dataclass(frozen=True)
class MethodOptions:
    """What concerns single methods; each option says which.

    Attributes
    ----------
    scope : str
        Of methods that rank weights: ``layer``, within each layer, which keeps its count; ``global``, over all layers
        at once, at the same cost of them all; ``own`` for the method's own. ``docs/methods.md`` says which can do what.
    drop_floor : float
        Methods that drop and grow: the last drop fraction. ITOP has 0.005.
    samples_per_class : int
        SNIP and GraSP: training samples of each class to score on.
    shuffle : bool
        Pruning at initialisation: keep the number of weights in each layer, place them at random.
    strength : float
        Constructed masks: how strong the communities or hubs are; 0 is random.
    communities : int
        Constructed masks of communities: how many.
    binding : float
        Constructed masks: share of the edges between communities that are brought within one, all degrees kept.
    synflow_rounds : int
        SynFlow: how many times it scores and prunes.
    initial_sparsity : float
        Gradual magnitude pruning: where it begins.
    exploration : float
        GSE: sampled connections over active ones, gamma.
    sharpness : float
        Spartan: the last sharpness of its soft mask, for single weights.
    ramp : float
        Spartan: fraction of the mask schedule in which the sparsity rises.
    block : tuple of int
        Spartan: outputs and inputs of a block that is kept or pruned as one.
    pattern : tuple of int
        N:M: weights kept, of so many, in each row and each column of a block.
    assignment : str
        N:M: ``greedy``, or ``exact`` by linear programming.
    backward_factor : float
        Top-KAST: weights that get a gradient over weights that are kept.
    penalty : float
        Top-KAST: factor of its L2 penalty.
    ablation : float
        SRigL: an output with fewer salient weights than this fraction of its fan-in is switched off; 0 for never.
    """

    scope: str = "own"
    drop_floor: float = 0.0
    samples_per_class: int = 10
    shuffle: bool = False
    strength: float = 0.0
    communities: int = 2
    binding: float = 0.0
    synflow_rounds: int = 100
    initial_sparsity: float = 0.0
    exploration: float = 1.0
    sharpness: float = 20.0
    ramp: float = 0.25
    block: tuple[int, ...] = (1, 1)
    pattern: tuple[int, ...] = (2, 4)
    assignment: str = "greedy"
    backward_factor: float = 2.0
    penalty: float = 1e-4
    ablation: float = 0.3

    def __post_init__(self) -> None:
        for key, found, known in (
            ("scope", self.scope, SCOPES),
            ("assignment", self.assignment, ("greedy", "exact")),
        ):
            if found not in known:
                raise UsageError(f"options.{key}: unknown {key} {found!r}{did_you_mean(found, known)}")
        pair = "two numbers, each 1 or more"
        for key, good, expected in (
            ("drop_floor", 0 <= self.drop_floor <= 1, "in [0, 1]"),
            ("samples_per_class", self.samples_per_class >= 1, "1 or more"),
            ("strength", 0 <= self.strength < float("inf"), "0 or more"),
            ("communities", self.communities >= 1, "1 or more"),
            ("binding", 0 <= self.binding <= 1, "in [0, 1]"),
            ("synflow_rounds", self.synflow_rounds >= 1, "1 or more"),
            ("initial_sparsity", 0 <= self.initial_sparsity < 1, "at least 0 and below 1"),
            ("exploration", self.exploration > 0, "above 0"),
            ("sharpness", self.sharpness >= 1, "1 or more"),
            ("ramp", 0 <= self.ramp <= 1, "in [0, 1], a fraction of the mask schedule"),
            ("block", len(self.block) == 2 and min(self.block) >= 1, pair),
            ("pattern", len(self.pattern) == 2 and min(self.pattern) >= 1, pair),
            ("backward_factor", self.backward_factor >= 1, "1 or more"),
            ("penalty", self.penalty >= 0, "0 or more"),
            ("ablation", 0 <= self.ablation <= 1, "in [0, 1]"),
        ):
            if not good:
                raise UsageError(f"options.{key}: expected {expected}, found {getattr(self, key)}")
        if len(self.pattern) == 2 and self.pattern[0] > self.pattern[1]:
            n, m = self.pattern
            raise UsageError(
                f"options.pattern: {n}:{m} keeps more weights than a row of its block has; expected N:M with N <= M"
            )
