"""Modules as Pyro programs: densities against our closed forms, and Pyro's own tools on them."""

import pytest
import scipy.stats
import torch
from torch import nn

from probcomp.errors import InputError
from probcomp.inference.programs import SPREAD, inclusion, marginal, to_pyro
from probcomp.priors import HalfCauchy, LogUniform, SpikeSlabGamma, SpikeSlabGaussian

PRIORS = [
    SpikeSlabGamma.for_scale(0.5, kappa=1e-2),
    SpikeSlabGaussian(0.5, 1e-3),
    LogUniform(),
    HalfCauchy(0.5),
]


def regression(count: int = 200) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ten inputs, three of which matter."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 10, generator=generator)
    weight = torch.tensor([1.5, 0, 0, -1.0, 0, 0, 0, 0.8, 0, 0])
    return x, (x @ weight)[:, None] + 0.3 * torch.randn(count, 1, generator=generator), weight


def gaussian(outputs: torch.Tensor):
    import pyro.distributions as dist

    return dist.Normal(outputs, 0.3)


MARGINS = [
    (PRIORS[0], scipy.stats.t(df=2, scale=0.5**0.5), scipy.stats.t(df=2, scale=0.005**0.5)),
    (PRIORS[1], scipy.stats.norm(0, 0.5**0.5), scipy.stats.norm(0, 1e-3**0.5)),
]


@pytest.mark.parametrize(("prior", "slab", "spike"), MARGINS)
def test_the_marginal_is_a_mixture_of_scipys_densities(prior, slab, spike) -> None:
    weight = torch.linspace(-2, 2, 41, dtype=torch.float64)
    on, off = 0.2 * slab.pdf(weight), 0.8 * spike.pdf(weight)
    found = marginal(prior, 0.2).log_prob(weight)
    torch.testing.assert_close(found, torch.tensor(on + off).log())
    expected = torch.tensor(on / (on + off))
    torch.testing.assert_close(inclusion(prior, 0.2, weight), expected)
    torch.manual_seed(0)
    draws = marginal(prior, 0.2).sample((50_000,))

    def cdf(x):
        return 0.2 * slab.cdf(x) + 0.8 * spike.cdf(x)

    assert scipy.stats.kstest(draws.numpy(), cdf).pvalue > 1e-6


def test_the_log_uniform_has_mass_one_on_its_interval() -> None:
    distribution = marginal(LogUniform(), 0.5)
    log = torch.linspace(-SPREAD, SPREAD, 10_001, dtype=torch.float64)
    density = (distribution.log_prob(log.exp()) + log).exp()  # in the log of the size
    assert float(2 * torch.trapezoid(density, log)) == pytest.approx(1, abs=1e-9)


def test_the_trace_scores_prior_and_likelihood() -> None:
    import pyro
    from pyro import poutine

    prior = PRIORS[0]
    net = nn.Sequential(nn.Linear(10, 4), nn.Tanh(), nn.Linear(4, 1))
    x, y, _ = regression(20)
    program = to_pyro(net, prior, density=0.2, likelihood=gaussian, samples=200)
    pyro.set_rng_seed(0)
    trace = poutine.trace(program).get_trace(x, targets=y)
    drawn = {n: trace.nodes[n]["value"] for n in ("0.weight", "2.weight")}
    expected = sum(marginal(prior, 0.2).log_prob(w).sum() for w in drawn.values())
    outputs = torch.func.functional_call(net, drawn, (x,))
    fit = torch.distributions.Normal(outputs, 0.3).log_prob(y).sum()
    # A mini-batch of 20 stands for 200 samples.
    torch.testing.assert_close(trace.log_prob_sum(), expected + 10 * fit, rtol=1e-4, atol=1e-2)
    assert isinstance(net[0].weight, nn.Parameter)  # the given module is untouched


RECOVERED = [
    PRIORS[1],
    *(pytest.param(p, marks=pytest.mark.slow) for p in (PRIORS[0], *PRIORS[2:])),
]


@pytest.mark.parametrize("prior", RECOVERED)
def test_variational_inference_recovers_the_support(prior) -> None:
    import pyro
    from pyro.infer import SVI, Predictive, Trace_ELBO
    from pyro.infer.autoguide import AutoNormal
    from pyro.infer.autoguide.initialization import init_to_value

    x, y, truth = regression()
    net = nn.Linear(10, 1)
    start = torch.linalg.lstsq(x, y).solution.T
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    program = to_pyro(net, prior, density=0.3, likelihood=gaussian)
    values = {"weight": start, "weight_scale": torch.ones(1, 10)}
    guide = AutoNormal(program, init_loc_fn=init_to_value(values=values), init_scale=0.05)
    svi = SVI(program, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    first = svi.evaluate_loss(x, targets=y)
    for _ in range(200):
        svi.step(x, targets=y)
    assert svi.evaluate_loss(x, targets=y) < first
    draws = Predictive(program, guide=guide, num_samples=200)(x)
    assert draws["obs"].shape == (200, 200, 1)
    weight = draws["weight"].reshape(200, 10)
    if isinstance(prior, SpikeSlabGamma | SpikeSlabGaussian):
        probability = inclusion(prior, 0.3, weight).mean(0)
        assert (probability > 0.5).tolist() == (truth != 0).tolist()
    else:
        # No supports: what matters is larger than its own uncertainty, and the rest is near zero.
        assert weight.mean(0)[truth != 0].abs().min() > 5 * weight.mean(0)[truth == 0].abs().max()


def test_columns_share_a_horseshoe_scale() -> None:
    import pyro
    from pyro import poutine

    program = to_pyro(nn.Linear(10, 3), HalfCauchy(0.5))
    pyro.set_rng_seed(0)
    nodes = poutine.trace(program).get_trace(torch.randn(4, 10)).nodes
    assert nodes["weight_scale"]["value"].shape == (1, 10)
    assert nodes["obs"]["value"].shape == (4,)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
@pytest.mark.parametrize("own", [torch.float32, torch.float64])
def test_draws_have_the_type_of_the_module(prior, own) -> None:
    from pyro import poutine

    program = to_pyro(nn.Linear(4, 3).to(own), prior)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if own is torch.float64 else torch.float64)
    try:
        trace = poutine.trace(program).get_trace(torch.randn(5, 4, dtype=own))
    finally:
        torch.set_default_dtype(before)
    drawn = {name: node["value"].dtype for name, node in trace.nodes.items()
             if name.startswith("weight")}  # fmt: skip
    assert drawn
    assert set(drawn.values()) == {own}


def test_priors_by_parameter_and_parameters_that_stay() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    program = to_pyro(net, {"0.weight": PRIORS[0]}, weights=["0.weight"])
    assert sorted(n for n, _ in program.named_parameters()) == [
        "net.0.bias", "net.2.bias", "net.2.weight"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weights": ["x"]}, "no such weights"),
        ({"density": 1.0}, "density is a probability"),
        ({"prior": 0.5}, "not a weight prior"),
        ({"prior": SpikeSlabGaussian(1.0, 0.0)}, "no width"),
    ],
)
def test_bad_input(change, says) -> None:
    given = {"prior": PRIORS[0]} | change
    with pytest.raises(InputError, match=says):
        to_pyro(nn.Linear(4, 2), given.pop("prior"), **given)


def test_a_shared_weight_is_drawn_once_and_used_twice() -> None:
    from pyro import poutine

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    net, x = Twice(), torch.randn(5, 4)
    trace = poutine.trace(to_pyro(net, PRIORS[1])).get_trace(x)
    weight = trace.nodes["first.weight"]["value"]
    inner = nn.functional.linear(x, weight, net.first.bias)
    expected = nn.functional.linear(inner, weight, net.second.bias)
    torch.testing.assert_close(trace.nodes["_RETURN"]["value"], expected)
    assert "second.weight" not in trace.nodes
    with pytest.raises(InputError, match=r"'second\.weight'.*first name"):
        to_pyro(net, PRIORS[1], weights=["first.weight", "second.weight"])
