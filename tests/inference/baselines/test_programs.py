"""Baselines as Pyro programs: their objectives against the engine's, and Pyro's own tools."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probcomp.data.batches import Batches
from probcomp.errors import InputError
from probcomp.inference import baselines
from probcomp.inference.baselines import GroupConfig, Setting, SparseVDConfig, SpikeSlabConfig
from probcomp.inference.baselines.bayesian_compression import (
    HorseshoeGate,
    JeffreysGate,
    NormalWeights,
)
from probcomp.inference.baselines.divergences import LOG_UNIFORM_ERROR
from probcomp.inference.baselines.gating import Gating
from probcomp.inference.baselines.places import find_places
from probcomp.inference.baselines.preparing import give_posterior
from probcomp.inference.baselines.programs import CONFIGS, baseline_program
from probcomp.inference.baselines.sparse_vd import LogUniformWeights
from probcomp.inference.baselines.spike_slab import SpikeSlabWeights
from probcomp.inference.baselines.vibnet import BottleneckGate, VIBConfig
from probcomp.inference.training.layers import Noise
from tests.inference.baselines.networks import SHORT

NAMES = sorted(CONFIGS)
ROWS = 6
SETTINGS: dict[str, Any] = {
    "sparse-vd": SparseVDConfig(log_variance=-4.0),
    "bc-gnj": GroupConfig(log_variance=-4.0, scale_log_variance=-4.0),
    # A global scale of 1e-5 makes a divergence of thousands of nats, in which little else is seen.
    "bc-ghs": GroupConfig(log_variance=-4.0, scale_log_variance=-4.0, tau=0.1),
    "spike-slab-vb": SpikeSlabConfig(log_odds=-2.0, start_log_odds=0.5, log_variance=-4.0),
    "vibnet": VIBConfig(log_variance=-3.0),
}
GATES = {"bc-gnj": JeffreysGate, "bc-ghs": HorseshoeGate, "vibnet": BottleneckGate}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    import pyro

    pyro.clear_param_store()
    pyro.set_rng_seed(0)


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).to(dtype)


def moved(name: str, net: nn.Module, **given: Any) -> tuple[Any, Any]:
    """A program whose parameters are off their start; VIBNet's ``v`` is at its best value."""
    given.setdefault("config", SETTINGS[name])
    model, guide = baseline_program(name, net, **given)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in guide.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
        if name == "vibnet":
            for prior, q in zip(model.prior, guide.posterior, strict=True):
                best = q.location.square() + torch.exp(2 * q.log_sigma)
                prior.log_variance.copy_(best.log())
    return model, guide


def silent(outputs: Tensor) -> Any:
    """A likelihood that the outputs do not move."""
    import pyro.distributions as dist

    return dist.Normal(torch.zeros_like(outputs), 1.0)


def gates(name: str, net: nn.Module, guide: Any) -> list[Any]:
    """The engine's gates with the guide's values."""
    found = []
    layers = [n for n, m in net.named_modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        for place, q in zip(find_places(net, (), layers), guide.posterior, strict=True):
            gate = GATES[name](place, SETTINGS[name])
            if name == "bc-gnj":
                gate.unit = q.start.flatten().clone()
                gate.location.data = q.scale_location.flatten().clone()
                gate.log_sigma.data = q.scale_log_sigma.flatten().clone()
            elif name == "bc-ghs":
                gate.shared.data, gate.local.data = q.shared.clone(), q.local.flatten(1)
                gate.shared_log_sigma.data = q.shared_log_sigma.clone()
                gate.local_log_sigma.data = q.local_log_sigma.flatten(1)
            else:
                gate.location.data, gate.log_sigma.data = q.location.clone(), q.log_sigma.clone()
            found.append(gate)
    return found


def engine_divergence(name: str, net: nn.Module, guide: Any) -> float:
    """What the engine adds to the loss, at the guide's parameters; nats."""
    layers = {}
    for index, q in enumerate(guide.posterior):
        layer = nn.Module()
        layer.weight = q.location
        layer.weight_log_sigma = q.log_sigma
        layer.weight_log_odds = getattr(q, "log_odds", None)
        layers[str(index)] = layer
    total = 0.0
    if name == "sparse-vd":
        total += float(LogUniformWeights(layers).value())
    if name == "spike-slab-vb":
        total += float(SpikeSlabWeights(layers, -2.0, SETTINGS[name].slab).value())
    if name in ("bc-gnj", "bc-ghs"):
        total += float(NormalWeights(layers, {}).value())
    if name in GATES:
        total += sum(float(gate.divergence()) for gate in gates(name, net, guide))
    return total


def log_uniforms(name: str) -> int:
    """How many variables of `network` have a log-uniform prior."""
    return {"sparse-vd": 4 * 3 + 3 * 2, "bc-gnj": 4 + 3}.get(name, 0)


def likelihood_free(estimator: Any, model: Any, guide: Any) -> float:
    """An estimate of the divergence: the loss less a likelihood that is constant."""
    x, y = torch.randn(ROWS, 4, dtype=torch.float64), torch.zeros(ROWS, 2, dtype=torch.float64)
    return estimator.loss(model, guide, x, targets=y) - ROWS * math.log(2 * math.pi)


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_field_objective_is_the_engines(name) -> None:
    """Both in closed form, but for the constant that the stand-in of an improper prior has."""
    from pyro.infer import TraceMeanField_ELBO

    from probcomp.inference.baselines.program_densities import LOG_UNIFORM_CONSTANT

    net = network()
    model, guide = moved(name, net, likelihood=silent)
    found = likelihood_free(TraceMeanField_ELBO(), model, guide)
    expected = engine_divergence(name, net, guide) + log_uniforms(name) * LOG_UNIFORM_CONSTANT
    assert found == pytest.approx(SETTINGS[name].kl_weight * expected, rel=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_the_sampled_objective_estimates_the_same(name) -> None:
    """Within five standard errors and, for log-uniform priors, the published form's own error."""
    from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

    model, guide = moved(name, network(), likelihood=silent)
    closed = likelihood_free(TraceMeanField_ELBO(), model, guide)
    drawn = torch.tensor([likelihood_free(Trace_ELBO(), model, guide) for _ in range(200)])
    error = 5 * float(drawn.std()) / math.sqrt(len(drawn))
    assert error < 0.15 * abs(closed)  # sharp enough to see a term that is missing
    allowed = error + log_uniforms(name) * LOG_UNIFORM_ERROR
    assert float(drawn.mean()) == pytest.approx(closed, abs=allowed)


@pytest.mark.parametrize("log_alpha", [-6.0, -1.0, 2.0])
def test_the_published_form_is_near_the_stand_ins_own_divergence(log_alpha) -> None:
    import pyro.distributions as dist
    import scipy.integrate
    from torch.distributions import kl_divergence

    from probcomp.inference.baselines.program_densities import ProperLogUniform

    sigma = math.exp(0.5 * log_alpha)
    q = dist.Normal(torch.tensor(1.0, dtype=torch.float64), sigma)
    p = ProperLogUniform()

    def term(x: float) -> float:
        value = torch.tensor(x, dtype=torch.float64)
        log_q = float(q.log_prob(value))
        return math.exp(log_q) * (log_q - float(p.log_prob(value)))

    edges = [1 - 12 * sigma, 0.0, 1.0, 1 + 12 * sigma] if sigma > 0.1 else [1 - 12 * sigma, 2.0]
    exact = sum(
        scipy.integrate.quad(term, a, b, limit=200)[0] for a, b in itertools.pairwise(edges)
    )
    # The flat part of the stand-in adds less than 1e-3 nats at these sizes.
    assert float(kl_divergence(q, p)) == pytest.approx(exact, abs=LOG_UNIFORM_ERROR + 1e-3)


@pytest.mark.parametrize("name", ["sparse-vd", "bc-gnj", "bc-ghs", "vibnet"])
def test_the_expected_loss_is_the_engines(name) -> None:
    """Draws for a batch here, draws for each sample or output there: the same mean."""
    import pyro.distributions as dist
    from pyro import poutine

    net = network(torch.float32)
    x, y = torch.randn(50, 4), torch.randn(50, 2)
    model, guide = moved(name, net, likelihood=lambda out: dist.Normal(out, 1.0))
    losses = []
    with torch.no_grad():
        for _ in range(200):
            trace = poutine.trace(guide).get_trace(x)
            scored = poutine.trace(poutine.replay(model, trace)).get_trace(x, targets=y)
            losses.append(-float(scored.nodes["obs"]["fn"].log_prob(y).sum()) / len(x))
    ours = torch.tensor(losses)

    noise = Noise(torch.Generator().manual_seed(0))
    hooks = Gating(net, gates(name, net, guide), noise) if name in GATES else None
    if name != "vibnet":
        layers = give_posterior(net, ["0", "2"], noise, 0.0)
        for layer, q in zip(layers.values(), guide.posterior, strict=True):
            layer.weight.data, layer.weight_log_sigma.data = q.location.data, q.log_sigma.data
    net.train()
    losses = []
    with torch.no_grad():
        for _ in range(200):
            if hooks is not None:
                hooks.fresh()
            fit = torch.distributions.Normal(net(x), 1.0).log_prob(y)
            losses.append(-float(fit.sum()) / len(x))
    theirs = torch.tensor(losses)
    error = math.sqrt((float(ours.var()) + float(theirs.var())) / 200)
    assert float(ours.mean()) == pytest.approx(float(theirs.mean()), abs=5 * error)


def regression() -> tuple[Tensor, Tensor, Tensor]:
    """Ten inputs, three of which matter. Without noise, so nothing else looks as if it did."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 10, generator=generator)
    weight = torch.tensor([1.5, 0, 0, -1.0, 0, 0, 0, 0.8, 0, 0])
    return x, (x @ weight)[:, None], weight != 0


LONG: dict[str, Any] = {**SHORT, "epochs": 400, "learning_rate": 1e-2, "warm_up": 0.1}
"""Long enough that log-odds and means, of which some start 0.1 off, are where they go to."""

RECOVERY = {
    "sparse-vd": ({"log_variance": -5.0}, baselines.sparse_vd),
    "bc-gnj": ({"threshold": 0.0}, baselines.bc_gnj),
    "bc-ghs": ({"threshold": 2.0}, baselines.bc_ghs),
    "spike-slab-vb": ({"log_odds": -2.0}, baselines.spike_slab),
    "vibnet": ({"kl_weight": 5.0}, baselines.vibnet),
}


@pytest.mark.parametrize(
    "name", [n if n == "spike-slab-vb" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_inference_finds_the_support_as_the_engine_does(name) -> None:
    import pyro
    import pyro.distributions as dist
    from pyro.infer import SVI, TraceMeanField_ELBO

    x, y, support = regression()
    net = nn.Linear(10, 1)
    with torch.no_grad():
        net.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
        net.weight.add_(0.1 * torch.randn(1, 10))
    changes, engine = RECOVERY[name]
    config = CONFIGS[name](**LONG, **changes)

    def likelihood(outputs: Tensor) -> Any:
        return dist.Normal(outputs, 0.3)

    model, guide = baseline_program(name, net, config=config, likelihood=likelihood)
    # Falling steps, as the engine's: weights that go are finer than a constant step can place them.
    adam = pyro.optim.ClippedAdam({"lr": 0.03, "lrd": 0.01 ** (1 / 800), "clip_norm": 1e9})
    svi = SVI(model, guide, adam, TraceMeanField_ELBO())
    for _ in range(800):
        svi.step(x, targets=y)
    kept = guide.kept()["weight"]
    assert kept.shape == net.weight.shape
    assert kept[0].tolist() == support.tolist()

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return -likelihood(net(batch[0])).log_prob(batch[1]).mean()

    found = engine(Setting(model=net, batches=Batches((x, y), 50), loss=loss), config)
    assert found.masks["weight"].tolist() == kept.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_pyros_tools_work_on_convolutions(name) -> None:
    import pyro
    from pyro import poutine
    from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
    from pyro.infer.autoguide import AutoNormal

    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5))
    before = {n: p.clone() for n, p in net.named_parameters()}
    x, y = torch.randn(7, 2, 4, 4), torch.randint(5, (7,))
    model, guide = baseline_program(name, net, config=SETTINGS[name], samples=70)
    drawn = poutine.trace(guide).get_trace(x)
    trace = poutine.trace(poutine.replay(model, drawn)).get_trace(x, targets=y)
    assert math.isfinite(float(trace.log_prob_sum()))
    assert math.isfinite(float(drawn.log_prob_sum()))
    shapes = {n: tuple(v["value"].shape) for n, v in drawn.nodes.items() if n.startswith("0.")}
    columns = {"_scale", "_local_gamma", "_local_inverse"}
    for site, shape in shapes.items():
        last = site.removeprefix("0.weight")
        expected = (1, 2, 1, 1) if last in columns else (3, 2, 3, 3)
        expected = {"_gate": (7, 2), "_shared_gamma": (), "_shared_inverse": ()}.get(last, expected)
        assert shape == expected, site
    draws = Predictive(model, guide=guide, num_samples=3)(x)
    assert draws["obs"].shape == (3, 7)
    assert {n: tuple(s.shape) for n, s in guide.kept(0.0).items()} == {
        "0.weight": (3, 2, 3, 3),
        "3.weight": (5, 12),
    }
    auto = AutoNormal(model)
    step = SVI(model, auto, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO()).step(x, targets=y)
    assert math.isfinite(step)
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())


def test_a_mini_batch_stands_for_the_data_but_pays_the_prior_once() -> None:
    """Ten times the samples change the likelihood alone, also where each sample has gates."""
    from pyro.infer import TraceMeanField_ELBO

    y = torch.zeros(ROWS, 2, dtype=torch.float64)
    for name in ("sparse-vd", "vibnet"):
        given = []
        for samples in (ROWS, 10 * ROWS):
            model, guide = moved(name, network(), likelihood=silent, samples=samples)
            x = torch.randn(ROWS, 4, dtype=torch.float64)
            given.append(TraceMeanField_ELBO().loss(model, guide, x, targets=y))
        assert given[1] - given[0] == pytest.approx(9 * ROWS * math.log(2 * math.pi))


def test_draws_of_a_spike_are_exactly_zero_and_learn_by_the_relaxation() -> None:
    from probcomp.inference.baselines.program_densities import SpikeSlab

    odds = torch.full((20_000,), -1.0, requires_grad=True)
    q = SpikeSlab(odds, torch.tensor(2.0), torch.tensor(0.1))
    draws = q.rsample()
    share = float((draws != 0).float().mean())
    assert share == pytest.approx(1 / (1 + math.e), abs=5 * 0.5 / math.sqrt(20_000))
    assert draws[draws != 0].detach().min() > 1
    draws.sum().backward()
    assert odds.grad is not None
    # The relaxed support's mean rises by about gamma (1 - gamma); its value is about 2.
    assert float(odds.grad.mean()) == pytest.approx(2 * 0.1966, rel=0.1)


def test_one_gate_for_both_uses_of_a_shared_weight() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.tanh(self.first(x)))

    from pyro import poutine

    for name in ("sparse-vd", "vibnet"):
        net = Twice()
        model, guide = baseline_program(name, net, config=SETTINGS[name])
        x = torch.randn(5, 4)
        drawn = poutine.trace(guide).get_trace(x)
        outputs = poutine.replay(model, drawn)(x)
        if name == "sparse-vd":
            weight, gate = drawn.nodes["first.weight"]["value"], 1.0
        else:
            weight, gate = net.first.weight, drawn.nodes["first.weight_gate"]["value"]
        inner = torch.tanh(nn.functional.linear(x * gate, weight, net.first.bias))
        expected = nn.functional.linear(inner * gate, weight, net.second.bias)
        torch.testing.assert_close(outputs, expected)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("sbp", {}, "no program of that name"),
        ("bc-gnj", {"config": SparseVDConfig()}, "takes a GroupConfig"),
        ("sparse-vd", {"weights": ["x"]}, "no such weights"),
        ("spike-slab-vb", {}, "needs samples"),
        ("bc-ghs", {"weights": ["0.bias"]}, "no columns"),
        ("vibnet", {"weights": ["2.weight"]}, "no input to gate"),
    ],
)
def test_bad_input(name, change, says) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Embedding(3, 2))
    with pytest.raises(InputError, match=says):
        baseline_program(name, net, **change)


def test_what_is_not_finite_and_what_has_no_threshold_is_refused() -> None:
    net = network()
    _, guide = baseline_program("bc-gnj", net)
    with pytest.raises(InputError, match="by hand"):
        guide.kept()
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        baseline_program("bc-gnj", net)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_prior_draws_in_the_type_of_the_module(name) -> None:
    from pyro import poutine

    model, guide = baseline_program(name, nn.Linear(4, 3).double(), samples=5)
    x = torch.randn(5, 4, dtype=torch.float64)
    for program in (model, guide):
        nodes = poutine.trace(program).get_trace(x).nodes
        kinds = {n["value"].dtype for k, n in nodes.items() if k.startswith("weight")}
        assert kinds == {torch.float64}
