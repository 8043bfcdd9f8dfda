r"""Any module as a Pyro program: weights with a sparse prior, and a likelihood.

The weights of the layers become random, with the supports summed out, so that continuous guides and
samplers work on them:

.. math:: p(w) = \lambda\, p(w \mid s = 1) + (1 - \lambda)\, p(w \mid s = 0)

which is a mixture of two Student-t densities for `SpikeSlabGamma` (its precisions are integrated
out as well) and of two Gaussians for `SpikeSlabGaussian`. `LogUniform` and `HalfCauchy` priors give
models like those of sparse variational dropout and of the group horseshoe; the published ones, with
their own guides, are in `probcomp.inference.baselines.programs`. What comes out is a plain
``PyroModule``: ``SVI``, ``AutoNormal``, ``Predictive`` and ``poutine.trace`` all apply.
"""

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.priors.scales import HalfCauchy, LogUniform
from probcomp.priors.weights import SpikeSlabGamma, SpikeSlabGaussian

WeightPrior = SpikeSlabGamma | SpikeSlabGaussian | LogUniform | HalfCauchy

SPREAD = 8.0
"""Half-width of the log-uniform prior, in logs of weights: it must be proper to be sampled, and
``e^-8`` to ``e^8`` leaves the densities of weights of order 0.1 untouched."""


def to_pyro(
    module: nn.Module,
    prior: WeightPrior | Mapping[str, WeightPrior],
    *,
    density: float = 0.5,
    weights: Sequence[str] | None = None,
    likelihood: Callable[[Tensor], Any] | None = None,
    samples: int | None = None,
) -> Any:
    """Turn a module into a Pyro program with a sparse prior over its weights.

    Args:
        module: Any module; it is copied. Parameters that are not named stay parameters, which
            ``SVI`` fits by maximum likelihood.
        prior: Belief about a weight, or parameter name to its own. With `HalfCauchy` each column of
            a weight, that is each input unit, has a scale of its own, and its weights are Gaussian.
        density: Prior inclusion ``lambda`` of spike-and-slab priors.
        weights: Parameters that become random; by default all of two or more dimensions.
        likelihood: ``likelihood(outputs)``, a Pyro distribution of the observations whose batch
            dimension is the samples; by default categorical in the outputs' last dimension.
        samples: Samples of the whole data set. The likelihood of a mini-batch is scaled to it.

    Returns:
        A ``PyroModule`` called as ``program(*inputs, targets=None)``: it draws the weights, runs
        the module, and scores or draws the targets under the site ``obs``. Sites of weights carry
        the parameters' names.

    Raises:
        InputError: An unknown parameter, a prior of another type, or a density outside (0, 1).

    Example:
        >>> program = to_pyro(net, SpikeSlabGaussian(1.0, 1e-4), density=0.1)
        >>> guide = pyro.infer.autoguide.AutoNormal(program)
    """
    weights = choose(module, weights)
    if not 0 < density < 1:
        raise InputError(f"density is a probability in (0, 1), got {density}")
    priors = {name: prior[name] if isinstance(prior, Mapping) else prior for name in weights}
    for name, value in priors.items():
        if not isinstance(value, SpikeSlabGamma | SpikeSlabGaussian | LogUniform | HalfCauchy):
            raise InputError(f"the prior of {name} is a {type(value).__name__}, not a weight prior")
        if isinstance(value, SpikeSlabGaussian) and value.spike == 0:
            raise InputError(f"{name}: a spike of no width has no density; give spike > 0")
    like = {name: module.get_parameter(name).detach() for name in weights}

    def draw(_prior: Any, _plate: Any) -> dict[str, Tensor]:
        return {name: _drawn(name, like[name], priors[name], density) for name in weights}

    return build(module, weights, draw, likelihood, samples)


def choose(module: nn.Module, weights: Sequence[str] | None) -> list[str]:
    """The parameters that become random: those named, or all of two or more dimensions.

    Raises:
        InputError: An unknown parameter, or none.
    """
    parameters = dict(module.named_parameters())
    if weights is None:
        weights = [name for name, p in parameters.items() if p.dim() >= 2]
    missing = [name for name in weights if name not in parameters]
    if missing or not weights:
        raise InputError(
            f"no such weights: {missing or 'none named'}; have {sorted(parameters)}, where a "
            "weight that several layers share has its first name"
        )
    return list(weights)


def marginal(
    prior: SpikeSlabGamma | SpikeSlabGaussian | LogUniform,
    density: float,
    like: Tensor | None = None,
) -> Any:
    """The prior of one weight with its support summed out, as a Pyro distribution on the reals.

    Draws are of the type and on the device of ``like``, by default of torch's defaults.
    """
    return _classes()[isinstance(prior, LogUniform)](prior, density, (), like)


def inclusion(prior: SpikeSlabGamma | SpikeSlabGaussian, density: float, weight: Tensor) -> Tensor:
    r"""``P(s = 1 | w)``, elementwise; averaged over a posterior of ``w`` it is the inclusion
    probability :math:`P(s = 1 \mid D) = E_{w \mid D} P(s = 1 \mid w)` (Rao-Blackwell)."""
    return torch.sigmoid(math.log(density / (1 - density)) + prior.evidence(weight))


def _categorical(outputs: Tensor) -> Any:
    import pyro.distributions as dist

    return dist.Categorical(logits=outputs)


@functools.cache
def _classes() -> tuple[type, type]:
    """Distributions of a spike-and-slab weight and of a log-uniform one."""
    from pyro.distributions import TorchDistribution, constraints

    class OfWeight(TorchDistribution):
        arg_constraints: dict[str, Any] = {}  # noqa: RUF012
        support = constraints.real

        def __init__(
            self,
            prior: Any,
            density: float,
            batch_shape: Sequence[int] = (),
            like: Tensor | None = None,
        ) -> None:
            self.prior, self.density = prior, density
            self.like = torch.zeros(()) if like is None else like.new_zeros(())
            super().__init__(torch.Size(batch_shape), validate_args=False)

        def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
            return type(self)(self.prior, self.density, batch_shape, self.like)

        def uniform(self, sample_shape: Sequence[int]) -> Tensor:
            return torch.rand_like(self.like.expand(*sample_shape, *self.batch_shape))

    class SpikeSlab(OfWeight):
        def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
            return self.prior.sample(self.uniform(sample_shape) < self.density).to(self.like)

        def log_prob(self, value: Tensor) -> Tensor:
            on = self.prior.log_prob(value, torch.ones_like(value))
            off = self.prior.log_prob(value, torch.zeros_like(value))
            return torch.logaddexp(on + math.log(self.density), off + math.log1p(-self.density))

    class SignedLogUniform(OfWeight):
        def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
            place = 2 * self.uniform(sample_shape) - 1  # its sign, and where the size lies
            return place.sign() * (SPREAD * (2 * place.abs() - 1)).exp()

        def log_prob(self, value: Tensor) -> Tensor:
            # Half the mass on each sign. Flat below the smallest size, so that a guide may cross
            # zero; above the largest the density goes on, since no guide gets there.
            size = value.abs().clamp_min(math.exp(-SPREAD))
            return LogUniform().log_prob(size) - math.log(4 * SPREAD)

    return SpikeSlab, SignedLogUniform


def _drawn(name: str, like: Tensor, prior: WeightPrior, density: float) -> Tensor:
    """One weight tensor, drawn under its parameter's name."""
    import pyro
    import pyro.distributions as dist

    shape = like.shape
    if isinstance(prior, HalfCauchy):
        columns = (1, shape[1], *[1] * (len(shape) - 2))
        scale = pyro.sample(
            f"{name}_scale",
            dist.HalfCauchy(like.new_tensor(prior.scale)).expand(columns).to_event(len(shape)),
        )
        base = dist.Normal(like.new_zeros(()), scale).expand(shape)
    else:
        base = marginal(prior, density, like).expand(shape)
    return pyro.sample(name, base.to_event(len(shape)))


def build(
    module: nn.Module,
    random: Sequence[str],
    draw: Callable[[Any, Any], Mapping[str, Tensor]],
    likelihood: Callable[[Tensor], Any] | None,
    samples: int | None,
    prior: nn.Module | None = None,
) -> Any:
    """A program that draws weights, runs a copy of the module with them, and scores its outputs.

    Args:
        module: The module; a weight that several of its layers share stays one weight.
        random: Parameters whose place the draws take.
        draw: ``draw(prior, plate)``, called inside the program: values of the random parameters by
            name. The plate is that of the samples.
        likelihood: As in `to_pyro`.
        samples: As in `to_pyro`.
        prior: A module whose parameters are those of the prior, or ``None``.
    """
    import pyro
    from pyro import poutine
    from pyro.nn import PyroModule

    net = copy.deepcopy(module)
    for name in random:  # random sites take the parameters' place
        _replace(net, net.get_parameter(name))
    of_outputs = likelihood or _categorical

    class SparseProgram(PyroModule):
        """A module whose weights are drawn."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.prior = prior

        def forward(self, *inputs: Tensor, targets: Tensor | None = None) -> Tensor:
            rows = len(inputs[0])
            plate = pyro.plate("samples", rows, dim=-1)
            outputs = torch.func.functional_call(self.net, dict(draw(self.prior, plate)), inputs)
            with poutine.scale(scale=1.0 if samples is None else samples / rows):
                observed = of_outputs(outputs)
                extra = len(observed.batch_shape) - 1
                with plate:
                    pyro.sample("obs", observed.to_event(extra) if extra else observed, obs=targets)
            return outputs

    return SparseProgram()


def _replace(net: nn.Module, parameter: nn.Parameter) -> None:
    """A buffer in the place of a parameter, in every module that holds it."""
    value = parameter.detach().clone()
    for owner in net.modules():
        for leaf in [n for n, p in owner._parameters.items() if p is parameter]:
            del owner._parameters[leaf]
            owner.register_buffer(leaf, value)
