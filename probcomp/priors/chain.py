"""Supports in a row that tend to agree with the one before, and rows that may be off as a whole."""

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
    check_finite,
    check_probability,
    over_batch,
    uniform,
)


@dataclass(frozen=True, eq=False)
class Chain(SupportPrior):
    r"""A stationary Markov chain along the last dimension.

    .. math:: p(s) = p(s_1) \prod_t p(s_{t+1} \mid s_t),\qquad
              P(1 \mid 0) = p_{01},\quad P(0 \mid 1) = p_{10},\quad
              P(s_1 = 1) = \lambda = \frac{p_{01}}{p_{01} + p_{10}}

    A run of ones has mean length ``1 / p10``, a gap ``1 / p01``. The same chain as a pairwise
    model has coupling :math:`J = \ln\frac{(1-p_{01})(1-p_{10})}{p_{01} p_{10}}`.

    Attributes:
        p01: Probability of switching on, in (0, 1); a tensor has the batch's shape.
        p10: Probability of switching off, in (0, 1); a tensor has the batch's shape.
    """

    p01: Parameter
    p10: Parameter
    batch_parameters = ("p01", "p10")

    def __post_init__(self) -> None:
        check_probability("Chain", "p01", self.p01)
        check_probability("Chain", "p10", self.p10)
        try:
            torch.broadcast_shapes(*(getattr(p, "shape", ()) for p in (self.p01, self.p10)))
        except RuntimeError as error:
            raise InputError(f"Chain: p01 and p10 do not broadcast: {error}") from None

    @classmethod
    def from_coupling(cls, field: Parameter, coupling: Parameter) -> "Chain":
        r"""The stationary chain with pairwise coupling ``J`` and symmetric field ``f``, in nats.

        .. math:: J = \ln\frac{(1-p_{01})(1-p_{10})}{p_{01} p_{10}},\qquad
                  f = \ln\frac{1-p_{10}}{1-p_{01}}

        Inside the chain the log-odds of a site given its neighbours are
        ``f + J (s_left + s_right - 1)``: field 0 is marginal one half at any coupling, coupling 0
        is independence at log-odds ``f``.
        """
        check_finite("Chain.from_coupling", "field", field)
        check_finite("Chain.from_coupling", "coupling", coupling)
        plain = not isinstance(field, Tensor) and not isinstance(coupling, Tensor)
        like = next(
            (p for p in (field, coupling) if isinstance(p, Tensor)),
            torch.zeros((), dtype=torch.float64),
        )
        f, j = as_tensor(field, like), as_tensor(coupling, like)
        # a = 1 - p01 solves e^f (1 - e^J) a^2 + e^J (1 + e^f) a - e^J = 0. Divided by e^J, and
        # solved for the root without cancellation.
        e = f.exp()
        half = 0.5 * (1 + e)
        root = (half * half + e * torch.expm1(-j)).sqrt()
        a = 1 / (half + root)
        p01, p10 = 1 - a, 1 - a * e
        return cls(float(p01), float(p10)) if plain else cls(p01, p10)

    @property
    def stationary(self) -> Parameter:
        """Marginal probability of being on, ``p01 / (p01 + p10)``."""
        return self.p01 / (self.p01 + self.p10)

    def pairwise(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""``(J, end field, interior field)`` of the equal pairwise model, in ``like``'s dtype.

        .. math:: \ln p(s) = \sum_n h_n s_n + J \sum_n s_n s_{n+1} + \ln p(0),\quad
                  h_{\rm end} = \ln\frac{p_{01}}{1-p_{01}},\quad
                  h_{\rm interior} = h_{\rm end} + \ln\frac{p_{10}}{1-p_{01}}
        """
        p01, p10 = as_tensor(self.p01, like), as_tensor(self.p10, like)
        child = p01.log() - torch.log1p(-p01)
        parent = p10.log() - torch.log1p(-p01)
        coupling = torch.log1p(-p10) - parent - p01.log()
        return coupling, child, child + parent

    def site_field(self, like: Tensor) -> Tensor:
        """Field of each site of the pairwise model, in the shape of ``like``; nats."""
        _, end, interior = self.pairwise(like)
        length = like.shape[-1]
        if length == 1:  # no neighbour: the log-odds of the stationary marginal
            field = (2 * end - interior).unsqueeze(-1)
            return field.expand(like.shape)
        inner = interior.unsqueeze(-1)
        inner = inner.expand(*inner.shape[:-1], length - 2)
        ends = end.unsqueeze(-1).expand(*inner.shape[:-1], 1)
        return torch.cat([ends, inner, ends], -1).expand(like.shape)

    def log_zero(self, length: int, like: Tensor) -> Tensor:
        """Log probability that all ``length`` supports are off; nats, batch shape."""
        p01, p10 = as_tensor(self.p01, like), as_tensor(self.p10, like)
        return p10.log() - (p01 + p10).log() + (length - 1) * torch.log1p(-p01)

    def log_prob(self, support: Tensor) -> Tensor:
        values = as_support(self, support)
        p01, p10 = (over_batch(p, values, 1) for p in (self.p01, self.p10))
        first, before, after = values[..., :1], values[..., :-1], values[..., 1:]
        lam = p01 / (p01 + p10)
        start = torch.xlogy(first, lam) + torch.xlogy(1 - first, 1 - lam)
        steps = (
            before * (torch.xlogy(1 - after, p10) + torch.xlogy(after, 1 - p10))
            + (1 - before) * (torch.xlogy(after, p01) + torch.xlogy(1 - after, 1 - p01))
        )  # fmt: skip
        return start.squeeze(-1) + steps.sum(-1)

    def sample(self, shape: Sequence[int], *, generator: torch.Generator | None = None) -> Tensor:
        check_dims(self, shape)
        draws = uniform(shape, generator, self.p01, self.p10).movedim(-1, 0)
        p01, p10 = as_tensor(self.p01, draws), as_tensor(self.p10, draws)
        state = draws[0] < p01 / (p01 + p10)
        states = [state]
        for draw in draws[1:]:
            state = draw < torch.where(state, 1 - p10, p01)
            states.append(state)
        return torch.stack(states, -1)


@dataclass(frozen=True, eq=False)
class GatedChain(SupportPrior):
    r"""A row that is off as a whole, or follows a chain: neuron and weight sparsity in one.

    .. math:: p(s) = (1 - g)\,1[s = 0] + g\, p_{\rm chain}(s)

    The last dimension is the row; each row of the batch has its own gate.

    Attributes:
        gate: Probability ``g`` that the row may be on, in (0, 1); a tensor has the batch's shape.
        chain: The chain an open row follows.
    """

    gate: Parameter
    chain: Chain
    batch_parameters = ("gate",)

    def __post_init__(self) -> None:
        check_probability("GatedChain", "gate", self.gate)
        if not isinstance(self.chain, Chain):
            raise InputError(
                f"GatedChain: chain must be a Chain, got {type(self.chain).__name__}; "
                "for example GatedChain(0.5, Chain(p01=0.1, p10=0.3))"
            )

    def check_fit(self, shape: Sequence[int]) -> None:
        super().check_fit(shape)
        self.chain.check_fit(shape)

    def log_prob(self, support: Tensor) -> Tensor:
        values = as_support(self, support)
        gate = as_tensor(self.gate, values)
        opened = gate.log() + self.chain.log_prob(values)
        empty = (values == 0).all(-1)
        return torch.where(empty, torch.logaddexp(opened, torch.log1p(-gate)), opened)

    def sample(self, shape: Sequence[int], *, generator: torch.Generator | None = None) -> Tensor:
        check_dims(self, shape)
        draws = uniform(tuple(shape)[:-1], generator, self.gate)
        opened = draws < as_tensor(self.gate, draws)
        rows = self.chain.sample(shape, generator=generator)
        return rows & opened.to(rows.device).unsqueeze(-1)
