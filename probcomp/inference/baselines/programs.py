r"""The baselines that are probabilistic programs, written in Pyro: a model and a guide each.

.. code-block:: python

    model, guide = baseline_program("sparse-vd", net, samples=len(x))
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    svi.step(x, targets=y)
    masks = guide.kept()

The functions next to this file (`sparse_vd`, `bc_gnj`, ...) train the same objectives faster, by
local reparameterisation and closed gradients. These are for what Pyro adds: other guides, other
likelihoods, ``Predictive``, ``poutine``. Both are held to each other by tests.

=================  =========================================  ====================================
name               model's sites for a weight ``W``           guide
=================  =========================================  ====================================
``sparse-vd``      ``W``: log-uniform                         Gaussian
``bc-gnj``         ``W_scale`` [1, inputs, 1, ...]:           Gaussian, Gaussian
                   log-uniform; ``W_base``: ``N(0, 1)``
``bc-ghs``         ``W_shared_gamma``, ``W_shared_inverse``   log-normal (four), Gaussian
                   []; ``W_local_gamma``,
                   ``W_local_inverse`` [1, inputs, 1, ...];
                   ``W_base``: ``N(0, 1)``
``spike-slab-vb``  ``W``: spike (zero) and Gaussian slab,     spike and slab
                   supports summed out
``vibnet``         ``W_gate`` [rows, inputs]: Gaussian of     Gaussian; ``W`` stays a parameter
                   a learned variance
=================  =========================================  ====================================

A dot of the name stays a dot. Sites without a shape above have that of the weight. In the group
methods the weight is the product :math:`w = z \tilde w` (the horseshoe's scale the root of its four
factors), so guides are mean field.

*Improper priors.* :math:`p(w) \propto 1/|w|` has no density to sum, so the model has a proper
stand-in, cut at :math:`e^{\pm 8}` and flat around zero. ``TraceMeanField_ELBO`` takes the published
approximation of the divergence (Molchanov, Ashukha and Vetrov 2017, eq. 14), plus the constant
`LOG_UNIFORM_CONSTANT` for each variable that the stand-in has. ``Trace_ELBO`` draws the stand-in's
own, which differs by at most `divergences.LOG_UNIFORM_ERROR` nats for each variable for
``|ln alpha| <= 8``, while weights are larger than :math:`e^{-8}`. All other divergences are exact.

*Spike and slab.* A draw of a weight is exactly zero or not, and its gradient is that of the
Gumbel-softmax relaxation. Use ``TraceMeanField_ELBO``: the value of ``Trace_ELBO`` is right, but
its gradient leaves out that supports move the densities. Continuous autoguides never draw a zero,
so they only see the slab; `probcomp.inference.programs.to_pyro` has a spike of some width for them.

Departures from the publications, besides those of the engine's docstrings: a draw of the weights is
shared by a mini-batch (no local reparameterisation); each weight has scales of its own, also where
two layers read the same unit; posterior variances are not clipped (BC-GNJ, BC-GHS); supports are
drawn hard, with the relaxed gradient (spike and slab); biases and other parameters of fewer than
two dimensions are fitted by maximum likelihood. VIBNet's variance ``v`` is learned with the rest
instead of solved for; at its best value :math:`\mu^2 + \sigma^2` the divergence is eq. 11.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.inference.baselines.bayesian_compression import GroupConfig
from probcomp.inference.baselines.engine import Schedule
from probcomp.inference.baselines.places import READERS
from probcomp.inference.baselines.sparse_vd import SparseVDConfig
from probcomp.inference.baselines.spike_slab import SpikeSlabConfig, prior_log_odds
from probcomp.inference.baselines.vibnet import VIBConfig
from probcomp.inference.programs import build, choose

CONFIGS: dict[str, type[Schedule]] = {
    "sparse-vd": SparseVDConfig,
    "bc-gnj": GroupConfig,
    "bc-ghs": GroupConfig,
    "spike-slab-vb": SpikeSlabConfig,
    "vibnet": VIBConfig,
}
"""Name of a program to the settings it reads: those of the same method, without its schedule."""


def baseline_program(
    name: str,
    module: nn.Module,
    *,
    config: Schedule | None = None,
    weights: Sequence[str] | None = None,
    likelihood: Callable[[Tensor], Any] | None = None,
    samples: int | None = None,
) -> tuple[Any, Any]:
    """A published method as a Pyro model and its guide.

    Args:
        name: One of `CONFIGS`.
        module: Any module; it is copied, and its weights are where the guide starts.
        config: Settings of the method. Of the schedule only ``kl_weight`` is read, which scales
            prior and guide.
        weights: Parameters that get a posterior, or gates on what they read; by default all of two
            or more dimensions (``vibnet``: those of linear layers and convolutions).
        likelihood: ``likelihood(outputs)``, as in `probcomp.inference.programs.to_pyro`.
        samples: Samples of the whole data set; a mini-batch is scaled to it.

    Returns:
        Two ``PyroModule`` objects, called as ``model(*inputs, targets=None)``. The model returns
        the outputs and scores the targets under the site ``obs``. The guide also has ``scores()``
        and ``kept(threshold=None)``. Where you make several programs, call
        ``pyro.clear_param_store()`` in between: Pyro knows parameters by name.

    Raises:
        InputError: An unknown method or parameter, settings of another method, a weight without
            columns, or no ``samples`` where the prior of the theory needs them.
    """
    if name not in CONFIGS:
        raise InputError(f"no program of that name: {name!r}; have {sorted(CONFIGS)}")
    config = CONFIGS[name]() if config is None else config
    if not isinstance(config, CONFIGS[name]):
        raise InputError(f"{name} takes a {CONFIGS[name].__name__}, got a {type(config).__name__}")
    gates = name == "vibnet"
    if gates and weights is None:
        weights = [n for n, _ in module.named_parameters() if _gated(module, n)]
    names = choose(module, weights)
    values = {n: module.get_parameter(n).detach() for n in names}
    _check(name, module, values)
    if isinstance(config, SpikeSlabConfig) and config.log_odds is None:
        if samples is None:
            raise InputError(f"{name} needs samples for its prior of the theory, or log_odds")
        shapes = [tuple(value.shape) for value in values.values()]
        config = replace(config, log_odds=prior_log_odds(shapes, samples))
    before, after = _families()[name]
    priors = nn.ModuleList(before(value, config) for value in values.values())
    posteriors = nn.ModuleList(after(value, config) for value in values.values())
    factors = getattr(config, "multipliers", {})
    pulls = [config.kl_weight * factors.get(n, 1.0) for n in names]
    drawing = _Drawing(names, pulls, gates)
    if not gates:
        model = build(module, names, drawing.weights, likelihood, samples, priors)
    else:
        module = copy.deepcopy(module)
        for n in names:
            for layer in _owners(module, n):
                layer.register_forward_pre_hook(drawing.hook(n))
        model = build(module, [], drawing.gates, likelihood, samples, priors)
    return model, _guide(drawing, posteriors, {n: v.shape for n, v in values.items()})


class _Drawing:
    """How sites are drawn, alike in the model and in the guide."""

    def __init__(self, names: Sequence[str], pulls: Sequence[float], each_sample: bool) -> None:
        self.names, self.pulls, self.each_sample = names, pulls, each_sample
        self.current: dict[str, Tensor] = {}

    def sites(self, parts: Any, plate: Any) -> Iterator[dict[str, Tensor]]:
        """For each weight, the values of its sites."""
        import pyro
        from pyro import poutine

        for name, part, pull in zip(self.names, parts, self.pulls, strict=True):
            # A gate is drawn for each sample, and its cost is counted once for all of them.
            scale = pull / plate.size if self.each_sample else pull
            with poutine.scale(scale=scale), plate if self.each_sample else nullcontext():
                yield {last: pyro.sample(name + last, fn) for last, fn in part.sites().items()}

    def weights(self, priors: Any, plate: Any) -> dict[str, Tensor]:
        """The weights, by name."""
        drawn = list(self.sites(priors, plate))
        return {
            name: prior.value(values)
            for name, prior, values in zip(self.names, priors, drawn, strict=True)
        }

    def gates(self, priors: Any, plate: Any) -> dict[str, Tensor]:
        """Put the gates where the hooks find them; no weight is drawn."""
        self.current = self.weights(priors, plate)
        return {}

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        """What multiplies a layer's inputs by the gates of the current draw."""

        def scale(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            x, gate = inputs[0], self.current[name]  # [rows, inputs]
            if isinstance(layer, nn.Linear):
                gate = gate.reshape(len(gate), *[1] * (x.dim() - 2), -1)
            else:
                gate = gate.reshape(*gate.shape, *[1] * (x.dim() - 2))
            return (x * gate, *inputs[1:])

        return scale


def _guide(drawing: _Drawing, posteriors: nn.ModuleList, shapes: Mapping[str, Any]) -> Any:
    import pyro
    from pyro.nn import PyroModule

    class Guide(PyroModule):
        """The posterior of all weights, and what it says of them."""

        def __init__(self) -> None:
            super().__init__()
            self.posterior = posteriors

        def forward(self, *inputs: Tensor, targets: Tensor | None = None) -> dict[str, Tensor]:
            """Draw all sites; their values by name."""
            plate = pyro.plate("samples", len(inputs[0]), dim=-1)
            drawn = drawing.sites(self.posterior, plate)
            return {
                name + last: value
                for name, values in zip(drawing.names, drawn, strict=True)
                for last, value in values.items()
            }

        @torch.no_grad()
        def scores(self) -> dict[str, Tensor]:
            """How much each weight, or each column [1, inputs, 1, ...], is needed; by weight name.

            ``-ln alpha`` (``sparse-vd``, ``bc-gnj``, ``vibnet``), the log of the mode of the
            scale (``bc-ghs``), or the log-odds of inclusion (``spike-slab-vb``).
            """
            parts: list[Any] = list(posteriors)
            return {n: p.score() for n, p in zip(drawing.names, parts, strict=True)}

        def kept(self, threshold: float | None = None) -> dict[str, Tensor]:
            """Which weights stay, booleans of the weight's shape, by weight name.

            Args:
                threshold: Those whose score is above it stay; by default the published one, or
                    that of the settings.

            Raises:
                InputError: The method has no published threshold, and none is given.
            """
            found = {}
            parts: list[Any] = list(posteriors)
            for (name, score), part in zip(self.scores().items(), parts, strict=True):
                least = part.threshold if threshold is None else threshold
                if least is None:
                    raise InputError(
                        "the publication's thresholds were set by hand from the histogram of "
                        "scores(); give one"
                    )
                found[name] = (score > least).expand(shapes[name])
            return found

    return Guide()


def _families() -> dict[str, tuple[Any, Any]]:
    from probcomp.inference.baselines import program_parts as parts

    return {
        "sparse-vd": (parts.LogUniformPrior, parts.AdditivePosterior),
        "bc-gnj": (parts.JeffreysPrior, parts.JeffreysPosterior),
        "bc-ghs": (parts.HorseshoePrior, parts.HorseshoePosterior),
        "spike-slab-vb": (parts.SpikeSlabPrior, parts.SpikeSlabPosterior),
        "vibnet": (parts.BottleneckPrior, parts.BottleneckPosterior),
    }


def _gated(module: nn.Module, name: str) -> bool:
    """Whether all layers that hold this parameter multiply their inputs by it."""
    return name.rpartition(".")[2] == "weight" and all(
        isinstance(m, READERS) and getattr(m, "groups", 1) == 1 for m in _owners(module, name)
    )


def _owners(module: nn.Module, name: str) -> list[nn.Module]:
    """The modules that hold this parameter."""
    parameter = module.get_parameter(name)
    return [m for m in module.modules() if any(p is parameter for p in m._parameters.values())]


def _check(name: str, module: nn.Module, values: Mapping[str, Tensor]) -> None:
    for weight, value in values.items():
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"{weight} is not finite; a guide cannot start there")
        if name in ("bc-gnj", "bc-ghs", "vibnet") and value.dim() < 2:
            raise InputError(f"{name}: {weight} of shape {tuple(value.shape)} has no columns")
        if name == "vibnet" and not _gated(module, weight):
            raise InputError(
                f"vibnet: {weight} is not of a linear layer or an ungrouped convolution, so there "
                "is no input to gate"
            )
