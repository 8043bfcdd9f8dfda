r"""Prior and posterior of one weight tensor, for each baseline that is a Pyro program.

A pair gives distributions by the last part of the site's name (empty: the weight itself), without
batch dimensions, and the prior says how the weight follows from their values. A weight is
``[outputs, inputs, *kernel]``; a number for each of its columns is ``[1, inputs, 1, ...]``.
"""

import math
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.inference.baselines.bayesian_compression import LEAST_SCALE, GroupConfig
from probcomp.inference.baselines.program_densities import (
    TINY,
    ProperLogUniform,
    RootGamma,
    RootInverseGamma,
    SpikeSlab,
)
from probcomp.inference.baselines.sparse_vd import SparseVDConfig
from probcomp.inference.baselines.spike_slab import SpikeSlabConfig
from probcomp.inference.baselines.vibnet import VIBConfig

Sites = dict[str, Any]


class Part(nn.Module):
    """A prior or a posterior."""

    def sites(self) -> Sites:
        """Last part of a site's name to its distribution."""
        raise NotImplementedError


class Prior(Part):
    """Belief about one tensor before the data."""

    def value(self, drawn: Mapping[str, Tensor]) -> Tensor:
        """What the module computes with, from the values of the sites."""
        return drawn[""]


class Posterior(Part):
    """The guide's side, and the rule by which weights go."""

    threshold: float | None

    def score(self) -> Tensor:
        """How much weights or columns are needed: they stay where it is above a threshold."""
        raise NotImplementedError


def columns(weight: Tensor) -> tuple[int, ...]:
    """The shape of one number for each column."""
    return (1, weight.shape[1], *[1] * (weight.dim() - 2))


def whole(distribution: Any) -> Any:
    """A distribution without batch dimensions."""
    return distribution.to_event(len(distribution.batch_shape))


class LogUniformPrior(Prior):
    """Sparse variational dropout: log-uniform weights."""

    def __init__(self, weight: Tensor, config: SparseVDConfig) -> None:
        super().__init__()
        self.shape, self.like = weight.shape, weight.new_zeros(())

    def sites(self) -> Sites:
        return {"": whole(ProperLogUniform(like=self.like).expand(self.shape))}


class AdditivePosterior(Posterior):
    """Sparse variational dropout: ``N(mu, sigma^2)``, the additive noise of eq. 11."""

    def __init__(self, weight: Tensor, config: SparseVDConfig) -> None:
        super().__init__()
        self.threshold = -config.threshold
        self.location = nn.Parameter(weight.clone())
        self.log_sigma = nn.Parameter(torch.full_like(weight, 0.5 * config.log_variance))

    def sites(self) -> Sites:
        return {"": whole(dist.Normal(self.location, self.log_sigma.exp()))}

    def score(self) -> Tensor:
        return torch.log(self.location.square() + TINY) - 2 * self.log_sigma


class GroupPrior(Prior):
    """Scales of columns times standard Gaussian weights."""

    def __init__(self, weight: Tensor, config: GroupConfig) -> None:
        super().__init__()
        self.columns, self.tau = columns(weight), config.tau
        self.base: Tensor
        self.register_buffer("base", torch.zeros_like(weight))

    def scales(self) -> Sites:
        """Sites of the scales."""
        raise NotImplementedError

    def scale(self, drawn: Mapping[str, Tensor]) -> Tensor:
        """The scale of each column, from the values of the sites."""
        raise NotImplementedError

    def sites(self) -> Sites:
        return {**self.scales(), "_base": whole(dist.Normal(self.base, 1.0))}

    def value(self, drawn: Mapping[str, Tensor]) -> Tensor:
        return self.scale(drawn) * drawn["_base"]


class GroupPosterior(Posterior):
    """Starts at each column's root mean square times weights of order one, as the engine does."""

    def __init__(self, weight: Tensor, config: GroupConfig) -> None:
        super().__init__()
        self.threshold = None if config.threshold is None else -config.threshold
        root = weight.square().movedim(1, 0).flatten(1).mean(1).sqrt()
        root = root.clamp_min(LEAST_SCALE * float(root.square().mean().sqrt()) + 1e-8)
        self.start: Tensor
        self.register_buffer("start", root.reshape(columns(weight)))
        self.location = nn.Parameter(weight / self.start)
        self.log_sigma = nn.Parameter(torch.full_like(weight, 0.5 * config.log_variance))
        self.spread = 0.5 * config.scale_log_variance

    def scales(self) -> Sites:
        """Sites of the scales."""
        raise NotImplementedError

    def sites(self) -> Sites:
        base = dist.Normal(self.location, self.log_sigma.exp())
        return {**self.scales(), "_base": whole(base)}


class JeffreysPrior(GroupPrior):
    """BC-GNJ: ``p(z)`` proportional to ``1 / |z|``."""

    def scales(self) -> Sites:
        return {"_scale": whole(ProperLogUniform(like=self.base).expand(self.columns))}

    def scale(self, drawn: Mapping[str, Tensor]) -> Tensor:
        return drawn["_scale"]


class JeffreysPosterior(GroupPosterior):
    """BC-GNJ: ``q(z) = N(mu, sigma^2)``, both over the scale that ``z`` starts at."""

    def __init__(self, weight: Tensor, config: GroupConfig) -> None:
        super().__init__(weight, config)
        self.scale_location = nn.Parameter(torch.ones_like(self.start))
        self.scale_log_sigma = nn.Parameter(torch.full_like(self.start, self.spread))

    def scales(self) -> Sites:
        sigma = self.start * self.scale_log_sigma.exp()
        return {"_scale": whole(dist.Normal(self.start * self.scale_location, sigma))}

    def score(self) -> Tensor:
        return torch.log(self.scale_location.square() + TINY) - 2 * self.scale_log_sigma


class HorseshoePrior(GroupPrior):
    """BC-GHS: ``z_i = sqrt(s_a s_b a_i b_i)``, Gamma and inverse Gamma factors (eqs. 14 to 16)."""

    def scales(self) -> Sites:
        half, one = self.base.new_tensor(0.5), self.base.new_tensor(1.0)
        rate = one / self.tau**2
        return {
            "_shared_gamma": RootGamma(half, rate),
            "_shared_inverse": RootInverseGamma(half, one),
            "_local_gamma": whole(RootGamma(half, one).expand(self.columns)),
            "_local_inverse": whole(RootInverseGamma(half, one).expand(self.columns)),
        }

    def scale(self, drawn: Mapping[str, Tensor]) -> Tensor:
        shared = drawn["_shared_gamma"].sqrt() * drawn["_shared_inverse"].sqrt()
        return shared * drawn["_local_gamma"].sqrt() * drawn["_local_inverse"].sqrt()


class HorseshoePosterior(GroupPosterior):
    """BC-GHS: log-normal factors, which start with the columns' scales."""

    def __init__(self, weight: Tensor, config: GroupConfig) -> None:
        super().__init__(weight, config)
        logs = self.start.log()
        common = 2 * logs.mean()
        low = torch.full_like(common, 2 * math.log(config.tau))
        self.shared = nn.Parameter(torch.stack([low, common - low]))
        self.shared_log_sigma = nn.Parameter(torch.full_like(self.shared, self.spread))
        own = 2 * (logs - logs.mean())
        self.local = nn.Parameter(torch.stack([own, torch.zeros_like(own)]))
        self.local_log_sigma = nn.Parameter(torch.full_like(self.local, self.spread))

    def scales(self) -> Sites:
        shared, local = self.shared_log_sigma.exp(), self.local_log_sigma.exp()
        return {
            "_shared_gamma": dist.LogNormal(self.shared[0], shared[0]),
            "_shared_inverse": dist.LogNormal(self.shared[1], shared[1]),
            "_local_gamma": whole(dist.LogNormal(self.local[0], local[0])),
            "_local_inverse": whole(dist.LogNormal(self.local[1], local[1])),
        }

    def score(self) -> Tensor:
        # Log of the mode of a log-normal: the mean of its log less the variance.
        mean = 0.5 * (self.shared.sum() + self.local.sum(0))
        variance = (2 * self.shared_log_sigma).exp().sum() + (2 * self.local_log_sigma).exp().sum(0)
        return mean - 0.25 * variance


class SpikeSlabPrior(Prior):
    """Spike and slab: ``lambda N(0, slab) + (1 - lambda) delta_0``."""

    def __init__(self, weight: Tensor, config: SpikeSlabConfig) -> None:
        super().__init__()
        if config.log_odds is None:
            raise InputError("give log_odds: the prior of one tensor cannot know the network's")
        self.log_odds, self.slab = config.log_odds, config.slab
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros_like(weight))

    def sites(self) -> Sites:
        odds = torch.full_like(self.zero, self.log_odds)
        scale = torch.full_like(self.zero, math.sqrt(self.slab))
        return {"": whole(SpikeSlab(odds, self.zero, scale))}


class SpikeSlabPosterior(Posterior):
    """Spike and slab: ``gamma N(mu, sigma^2) + (1 - gamma) delta_0``; stays at ``gamma > 1/2``."""

    threshold = 0.0

    def __init__(self, weight: Tensor, config: SpikeSlabConfig) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.location = nn.Parameter(weight.clone())
        self.log_sigma = nn.Parameter(torch.full_like(weight, 0.5 * config.log_variance))
        self.log_odds = nn.Parameter(torch.full_like(weight, config.start_log_odds))

    def sites(self) -> Sites:
        sigma = self.log_sigma.exp()
        return {"": whole(SpikeSlab(self.log_odds, self.location, sigma, self.temperature))}

    def score(self) -> Tensor:
        return self.log_odds.clone()


class BottleneckPrior(Prior):
    """VIBNet: ``N(0, v)`` for the gate of each input, with ``v`` learned; eq. 11 is its best."""

    def __init__(self, weight: Tensor, config: VIBConfig) -> None:
        super().__init__()
        best = math.log1p(math.exp(config.log_variance))  # of mu = 1 and that sigma
        self.log_variance = nn.Parameter(weight.new_full((weight.shape[1],), best))

    def sites(self) -> Sites:
        scale = torch.exp(0.5 * self.log_variance)
        return {"_gate": whole(dist.Normal(torch.zeros_like(scale), scale))}

    def value(self, drawn: Mapping[str, Tensor]) -> Tensor:
        return drawn["_gate"]


class BottleneckPosterior(Posterior):
    """VIBNet: ``N(mu, sigma^2)`` for the gate of each input, [inputs]."""

    def __init__(self, weight: Tensor, config: VIBConfig) -> None:
        super().__init__()
        self.threshold = -config.threshold
        self.shape = columns(weight)
        self.location = nn.Parameter(weight.new_ones(weight.shape[1]))
        self.log_sigma = nn.Parameter(torch.full_like(self.location, 0.5 * config.log_variance))

    def sites(self) -> Sites:
        return {"_gate": whole(dist.Normal(self.location, self.log_sigma.exp()))}

    def score(self) -> Tensor:
        score = torch.log(self.location.square() + TINY) - 2 * self.log_sigma
        return score.reshape(self.shape)
