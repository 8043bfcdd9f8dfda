"""Supports on a grid that tend to agree with their four neighbours."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import ConvergenceError, InputError
from probcomp.priors import transfer
from probcomp.priors.base import (
    Parameter,
    SupportPrior,
    as_support,
    as_tensor,
    check_dims,
    check_finite,
    is_plain,
    over_batch,
    uniform,
)

MAX_PASSES = 2**14  # of coupling from the past; ordered lattices would need exponentially many


@dataclass(frozen=True, eq=False)
class Lattice(SupportPrior):
    r"""An Ising model on the last two dimensions, in the symmetric parametrisation.

    .. math:: \ln p(s) = \sum_n \bigl(f_n - \tfrac{J}{2} \deg_n\bigr) s_n
              + J \sum_{\langle n m\rangle} s_n s_m - \ln Z

    The field ``f`` sets the density and the coupling ``J`` only the clustering: field 0 is a
    marginal of exactly one half at every site, whatever the coupling. In spins of plus and minus
    one the coupling is ``J / 4``; the infinite lattice orders at ``J = 2 ln(1 + sqrt 2) = 1.763``.

    Attributes:
        field: Log-odds ``f`` in nats; a tensor broadcasts against ``[*batch, rows, cols]``.
        coupling: ``J`` in nats for each pair of neighbours; a tensor has the batch's shape.
    """

    field: Parameter
    coupling: Parameter
    event_dim = 2
    batch_parameters = ("coupling",)

    def __post_init__(self) -> None:
        check_finite("Lattice", "field", self.field)
        check_finite("Lattice", "coupling", self.coupling)

    def site_field(self, like: Tensor) -> Tensor:
        """``f - J deg / 2`` for a grid of ``like``'s last two sizes; broadcasts against it."""
        coupling = over_batch(self.coupling, like, 2)
        degree = grid_degree(*like.shape[-2:]).to(like.device, like.dtype)
        return as_tensor(self.field, like) - 0.5 * coupling * degree

    def energy(self, support: Tensor) -> Tensor:
        """Unnormalised log probability, ``log_prob + ln Z``; nats, exact at any size."""
        values = as_support(self, support)
        across = (values[..., :, 1:] * values[..., :, :-1]).sum((-2, -1))
        down = (values[..., 1:, :] * values[..., :-1, :]).sum((-2, -1))
        coupling = as_tensor(self.coupling, values)
        return (self.site_field(values) * values).sum((-2, -1)) + coupling * (across + down)

    def log_normaliser(self, rows: int, cols: int) -> Tensor:
        r"""``ln Z`` in nats, float64, batch shape of the parameters.

        Exact where the narrow side has at most 12 sites. For wider lattices with one field and
        one coupling it is the linear continuation ``Z(12) + (W - 12) (Z(12) - Z(11))`` of strips;
        strips converge exponentially in their width, so the error is below 1e-3 nats a row for
        couplings up to 1.2 and grows towards the ordering at 1.763.

        Raises:
            InputError: A wide lattice whose field differs from site to site.
        """
        if all(map(is_plain, (self.field, self.coupling))):
            device = next(
                (p.device for p in (self.field, self.coupling) if isinstance(p, Tensor)), None
            )
            value = _cached_normaliser(
                float(self.field), float(self.coupling), max(rows, cols), min(rows, cols)
            )
            return torch.tensor(value, dtype=torch.float64, device=device)
        if min(rows, cols) > transfer.MAX_WIDTH:
            return self._continued(rows, cols)
        return self._exact(rows, cols).log_z

    def log_prob(self, support: Tensor) -> Tensor:
        energy = self.energy(support)
        return energy - self.log_normaliser(*support.shape[-2:]).to(energy.dtype)

    def sample(self, shape: Sequence[int], *, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws: by the transfer matrix where narrow, else by coupling from the past.

        Raises:
            ConvergenceError: A wide lattice near or above its ordering, where exact draws take
                exponential time.
        """
        check_dims(self, shape)
        shape = tuple(shape)
        if min(shape[-2:]) <= transfer.MAX_WIDTH:
            strip = self._exact(shape[-2], shape[-1], shape[:-2], generator)
            coupling = as_tensor(self.coupling, strip.log_z)
            drawn = transfer.draw(strip, coupling, generator)
            return drawn if shape[-2] >= shape[-1] else drawn.mT
        return self._from_the_past(shape, generator)

    def _exact(
        self,
        rows: int,
        cols: int,
        batch: tuple[int, ...] = (),
        generator: torch.Generator | None = None,
    ) -> transfer.Strip:
        like = uniform((), generator, self.field, self.coupling).expand(*batch, rows, cols)
        site = self.site_field(like)
        site = site.expand(torch.broadcast_shapes(site.shape, like.shape))
        return transfer.forward(site if rows >= cols else site.mT, as_tensor(self.coupling, like))

    def _continued(self, rows: int, cols: int) -> Tensor:
        if isinstance(self.field, Tensor) and max(self.field.shape[-2:], default=1) > 1:
            raise InputError(
                f"Lattice: no normaliser is known for {rows} x {cols} sites with a field of its "
                f"own at each site; use energy(), or at most {transfer.MAX_WIDTH} sites across"
            )
        length, width = max(rows, cols), min(rows, cols)
        wide = self._exact(length, transfer.MAX_WIDTH).log_z
        narrow = self._exact(length, transfer.MAX_WIDTH - 1).log_z
        return wide + (width - transfer.MAX_WIDTH) * (wide - narrow)

    def _from_the_past(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Propp and Wilson (1996), checkerboard heat bath, one coupled pair of extreme states."""
        like = uniform((), generator, self.field, self.coupling).expand(shape)
        site, coupling = self.site_field(like), over_batch(self.coupling, like, 2)
        even = (_checkerboard(*shape[-2:]) == 0).to(like.device)
        # Attractive couplings keep the order of states; repulsive ones that of flipped sublattices.
        top = torch.where(coupling >= 0, torch.ones_like(even), even).expand(shape)
        root = int(torch.randint(2**62, (), generator=generator, device=like.device))
        blocks: list[int] = []  # lengths of blocks of passes, the latest first
        while sum(blocks) < MAX_PASSES:
            blocks.append(max(16, sum(blocks)))
            upper, lower = top.to(like.dtype), (~top).to(like.dtype)
            for number in range(len(blocks) - 1, -1, -1):
                stream = torch.Generator(like.device).manual_seed((root + number) % 2**63)
                for _ in range(blocks[number]):
                    draws = torch.rand(
                        shape, generator=stream, dtype=like.dtype, device=like.device
                    )
                    threshold = torch.log(draws) - torch.log1p(-draws)
                    for sites in (even, ~even):
                        upper = _heat_bath(upper, site, coupling, threshold, sites)
                        lower = _heat_bath(lower, site, coupling, threshold, sites)
            if torch.equal(upper, lower):
                return upper.bool()
        raise ConvergenceError(
            f"Lattice: no exact draw of {shape[-2]} x {shape[-1]} sites within {MAX_PASSES} passes "
            f"at coupling {float(as_tensor(self.coupling, like).max()):g}; "
            "lower it below 1.6, or use at most 12 sites across"
        )


def _heat_bath(
    state: Tensor, site: Tensor, coupling: Tensor, threshold: Tensor, sites: Tensor
) -> Tensor:
    around = torch.zeros_like(state)
    around[..., 1:, :] += state[..., :-1, :]
    around[..., :-1, :] += state[..., 1:, :]
    around[..., :, 1:] += state[..., :, :-1]
    around[..., :, :-1] += state[..., :, 1:]
    return torch.where(sites, (threshold < site + coupling * around).to(state.dtype), state)


@functools.lru_cache(maxsize=64)
def _cached_normaliser(field: float, coupling: float, length: int, width: int) -> float:
    prior = Lattice(field, coupling)
    if width > transfer.MAX_WIDTH:
        return float(prior._continued(length, width))
    return float(prior._exact(length, width).log_z)


@functools.lru_cache(maxsize=64)
def grid_degree(rows: int, cols: int) -> Tensor:
    """Number of neighbours of each site, ``[rows, cols]``, float64."""
    down = torch.full((rows,), 2.0, dtype=torch.float64)
    across = torch.full((cols,), 2.0, dtype=torch.float64)
    for side in (down, across):
        side[0] -= 1
        side[-1] -= 1
    return down[:, None] + across


def _checkerboard(rows: int, cols: int) -> Tensor:
    return (torch.arange(rows)[:, None] + torch.arange(cols)) % 2


def ordering_coupling() -> float:
    """Coupling at which the infinite lattice orders, ``2 ln(1 + sqrt 2)`` (Onsager 1944)."""
    return 2 * math.log1p(math.sqrt(2))
