"""Nested supports: layers over heads over channels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.priors.base import (
    Parameter,
    SupportPrior,
    as_support,
    as_tensor,
    check_dims,
    check_probability,
    uniform,
)


@dataclass(frozen=True, eq=False)
class Tree(SupportPrior):
    r"""A forest on the last dimension in which a node depends on its parent.

    .. math:: P(s_{\rm root} = 1) = d,\qquad P(s_n = 1 \mid s_{\rm parent} = 1) = q,\qquad
              P(s_n = 1 \mid s_{\rm parent} = 0) = r

    With the default leak ``r = 0`` supports are nested: below a removed node everything is
    removed, as the channels of a removed head are, and a removed layer's heads.
    ``Tree.stationary`` gives the other useful case, in which every node has the same marginal and
    the persistence only says how much a child agrees with its parent.

    Attributes:
        parents: For each node the index of its parent, -1 for a root; any order, no cycles.
        density: Probability ``d`` of a root, in (0, 1).
        persistence: Probability ``q`` of a child below a parent that is on, in (0, 1].
        leak: Probability ``r`` of a child below a parent that is off, in [0, 1).

    The last three are floats, or tensors that broadcast against ``[*batch, N]``.
    """

    parents: tuple[int, ...]
    density: Parameter
    persistence: Parameter
    leak: Parameter = 0.0

    def __post_init__(self) -> None:
        given = self.parents.tolist() if isinstance(self.parents, Tensor) else self.parents
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise InputError(f"Tree: parents is a list of node indices, got {given!r}")
        object.__setattr__(self, "parents", tuple(int(p) for p in given))
        check_probability("Tree", "density", self.density)
        check_probability("Tree", "persistence", self.persistence, closed="1")
        check_probability("Tree", "leak", self.leak, closed="0")
        object.__setattr__(self, "_levels", _levels(self.parents))

    @classmethod
    def stationary(
        cls, parents: Sequence[int], density: Parameter, persistence: Parameter
    ) -> "Tree":
        """The tree whose every node is on with probability ``density``.

        Its leak is ``d (1 - q) / (1 - d)``: persistence ``q = d`` is independence, and ``q = 1``
        makes each tree of the forest all or nothing.

        Raises:
            InputError: ``q`` too small for such a leak to be a probability, ``q < 2 - 1 / d``.
        """
        leak = density * (1 - persistence) / (1 - density)
        if bool((torch.as_tensor(leak) >= 1).any()):
            raise InputError(
                f"Tree.stationary: no leak keeps the density {density} at persistence "
                f"{persistence}; raise the persistence above 2 - 1/density"
            )
        return cls(tuple(parents), density, persistence, leak)

    @property
    def levels(self) -> list[list[int]]:
        """Nodes by depth, roots first."""
        return self._levels  # type: ignore[attr-defined]

    def check_size(self, size: int) -> None:
        """Refuse a last dimension that does not have one entry for each node."""
        if size != len(self.parents):
            raise InputError(
                f"Tree has {len(self.parents)} nodes, the last dimension has {size}; "
                "give one parent for each support"
            )

    def log_prob(self, support: Tensor) -> Tensor:
        values = as_support(self, support)
        self.check_size(values.shape[-1])
        parents = torch.tensor(self.parents, device=values.device)
        above = values[..., parents.clamp_min(0)]
        density, on, off = (
            as_tensor(p, values) for p in (self.density, self.persistence, self.leak)
        )
        chance = torch.where(parents < 0, density, torch.where(above == 1, on, off))
        return (torch.xlogy(values, chance) + torch.xlogy(1 - values, 1 - chance)).sum(-1)

    def sample(self, shape: Sequence[int], *, generator: torch.Generator | None = None) -> Tensor:
        check_dims(self, shape)
        self.check_size(shape[-1])
        draws = uniform(shape, generator, self.density, self.persistence, self.leak)
        density, on, off = (
            as_tensor(p, draws).expand(draws.shape)
            for p in (self.density, self.persistence, self.leak)
        )
        states = draws < density
        parents = torch.tensor(self.parents, device=draws.device)
        for level in self.levels[1:]:
            nodes = torch.tensor(level, device=draws.device)
            above = states[..., parents[nodes]]
            states[..., nodes] = draws[..., nodes] < torch.where(
                above, on[..., nodes], off[..., nodes]
            )
        return states


def _levels(parents: tuple[int, ...]) -> list[list[int]]:
    size = len(parents)
    wrong = [p for p in parents if not -1 <= p < size]
    if not size or wrong:
        problem = f"index {wrong[0]}" if wrong else "no nodes"
        raise InputError(
            f"Tree: parents are indices of its {size} nodes, or -1 at a root; got {problem}"
        )
    children: list[list[int]] = [[] for _ in parents]
    for node, parent in enumerate(parents):
        if parent >= 0:
            children[parent].append(node)
    levels = [[node for node, parent in enumerate(parents) if parent < 0]]
    while levels[-1]:
        levels.append([child for node in levels[-1] for child in children[node]])
    reached = sum(map(len, levels))
    if reached != size:
        raise InputError(
            f"Tree: {size - reached} of {size} nodes lie on a cycle; every node must lead to a "
            "root, whose parent is -1"
        )
    return levels[:-1]
