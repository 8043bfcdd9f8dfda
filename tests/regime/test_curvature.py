"""Curvature against exact Hessians: of a quadratic, and of a tiny network by autograd."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn import functional as F

from probcomp.errors import DivergenceError, InputError
from probcomp.regime.curvature import Curvature, worst_case_sharpness

EXACT = 1e-9  # float64, sums in another order
DIM = 12


class Point(nn.Module):
    """A weight vector that is its own output."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(value.clone())

    def forward(self, inputs):
        return self.w


NOTHING = [(torch.zeros(3, 1), torch.zeros(3)), (torch.zeros(5, 1), torch.zeros(5))]


@pytest.fixture
def matrix():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(DIM, DIM, generator=generator, dtype=torch.float64)
    return a @ a.T - 2 * torch.eye(DIM, dtype=torch.float64)


@pytest.fixture
def quadratic(matrix):
    return Curvature(
        Point(torch.ones(DIM, dtype=torch.float64)), NOTHING, loss=lambda w, _: w @ matrix @ w / 2
    )


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(10, 3, dtype=torch.float64), torch.tensor([0, 1] * 5)
    model(x)  # batch-norm statistics
    model.eval()
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]

    def loss(flat):
        parts = flat.split([s.numel() for s in shapes])
        weights = {n: v.view(s) for n, v, s in zip(names, parts, shapes)}
        return F.cross_entropy(functional_call(model, weights, (x,)), y)

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    return model, [(x[:3], y[:3]), (x[3:], y[3:])], hessian(loss)(flat)


def test_products_equal_the_exact_hessian(quadratic, matrix, network):
    model, batches, exact = network
    for curvature, expected in ((quadratic, matrix), (Curvature(model, batches), exact)):
        unit = torch.eye(curvature.size, dtype=torch.float64)
        found = torch.stack([curvature.product(v) for v in unit])
        torch.testing.assert_close(found, expected, atol=EXACT, rtol=EXACT)


def test_trace_is_within_its_error_and_exact_on_a_diagonal(network):
    model, batches, exact = network
    found = Curvature(model, batches).trace(probes=400, tolerance=0)
    assert found.steps == 400
    # Four standard errors: one failure in 16,000.
    assert abs(found.value - exact.trace()) < 4 * found.error
    # Hutchinson with signs: the variance is twice the sum of squares off the diagonal.
    off = exact - torch.diag(exact.diag())
    assert found.error == pytest.approx(float((2 * off.square().sum() / 400) ** 0.5), rel=0.2)
    diagonal = torch.arange(1.0, DIM + 1, dtype=torch.float64)
    point = Point(torch.ones(DIM, dtype=torch.float64))
    easy = Curvature(point, NOTHING, loss=lambda w, _: (diagonal * w * w).sum() / 2).trace()
    assert easy.value == pytest.approx(float(diagonal.sum()), abs=EXACT)
    assert easy.converged
    assert easy.steps == 8


def test_top_eigenvalue_and_spectrum(quadratic, matrix, network):
    model, batches, exact = network
    for curvature, expected in ((quadratic, matrix), (Curvature(model, batches), exact)):
        values = torch.linalg.eigvalsh(expected)
        top = values[values.abs().argmax()]
        found = curvature.top_eigenvalue(steps=3000, tolerance=1e-9)
        assert found.converged
        assert found.value == pytest.approx(float(top), rel=1e-5)
        ritz = curvature.lanczos(curvature.size)
        assert float(ritz[-1]) == pytest.approx(float(values[-1]), rel=1e-8)
        assert float(ritz[0]) == pytest.approx(float(values[0]), abs=1e-8)
    torch.testing.assert_close(quadratic.lanczos(DIM), torch.linalg.eigvalsh(matrix))


def test_a_negative_eigenvalue_keeps_its_sign():
    d = torch.tensor([1.0, -5.0, 2.0], dtype=torch.float64)
    point = Point(torch.ones(3, dtype=torch.float64))
    curvature = Curvature(point, NOTHING, loss=lambda w, _: (d * w * w).sum() / 2)
    assert curvature.top_eigenvalue(tolerance=1e-8).value == pytest.approx(-5, rel=1e-6)


def test_what_has_not_settled_says_so(quadratic):
    assert not quadratic.top_eigenvalue(steps=2, tolerance=1e-12).converged
    assert not quadratic.trace(probes=2, tolerance=1e-12).converged


def test_a_linear_loss_has_no_curvature():
    flat = Curvature(Point(torch.ones(4)), NOTHING, loss=lambda w, _: w.sum())
    assert flat.trace().value == 0
    assert flat.top_eigenvalue().value == 0


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_sharpness_of_a_linear_loss(norm, adaptive):
    w, g = torch.tensor([2.0, -0.5, 1.0]), torch.tensor([1.0, 3.0, -2.0])
    scaled = g * w.abs() if adaptive else g
    expected = 0.1 * (scaled.norm() if norm == "l2" else scaled.abs().sum())
    found = worst_case_sharpness(
        Point(w), NOTHING, rho=0.1, norm=norm, adaptive=adaptive, loss=lambda v, _: v @ g
    )
    assert found == pytest.approx(float(expected), rel=1e-5)  # float32


def test_sharpness_at_the_minimum_of_a_quadratic_is_half_rho_squared_times_the_top():
    values = torch.tensor([1.0, 3.0, 9.0], dtype=torch.float64)
    # A hair off the minimum, where the gradient is not zero and knows where to go.
    start = Point(1e-6 * torch.ones(3, dtype=torch.float64))
    found = worst_case_sharpness(
        start, NOTHING, rho=0.2, steps=200, loss=lambda w, _: (values * w * w).sum() / 2
    )
    assert found == pytest.approx(0.5 * 0.2**2 * 9, rel=1e-3)


def test_the_network_is_not_changed(network):
    model, batches, _ = network
    before = {k: v.clone() for k, v in model.state_dict().items()}
    worst_case_sharpness(model, batches, steps=2)
    Curvature(model, batches).trace(probes=2)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_bad_input_is_refused(network):
    model, batches, _ = network
    with pytest.raises(InputError, match="no parameter 'nowhere'"):
        Curvature(model, batches, names=["nowhere"])
    with pytest.raises(InputError, match="no batch"):
        Curvature(model, iter(())).product(torch.ones(34, dtype=torch.float64))
    with pytest.raises(InputError, match="34 parameters"):
        Curvature(model, batches).product(torch.ones(3))
    with pytest.raises(InputError, match="probes"):
        Curvature(model, batches).trace(probes=1)
    with pytest.raises(InputError, match="steps"):
        Curvature(model, batches).lanczos(0)
    for bad in ({"rho": 0.0}, {"norm": "l1"}, {"steps": 0}):
        with pytest.raises(InputError):
            worst_case_sharpness(model, batches, **bad)
    with pytest.raises(InputError, match="no batch"):
        worst_case_sharpness(model, iter(()))


class Said:
    def __init__(self, logits):
        self.logits = logits


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return Said(self.inner(x))


def test_a_network_may_return_an_object_with_logits(network):
    model, batches, exact = network
    found = Curvature(Wrapped(model), batches)
    vector = torch.linspace(-1, 1, found.size, dtype=torch.float64)
    torch.testing.assert_close(found.product(vector), exact @ vector, atol=EXACT, rtol=EXACT)
    said = worst_case_sharpness(Wrapped(model), batches, steps=2)
    assert said == worst_case_sharpness(model, batches, steps=2)


def test_a_network_that_has_diverged_is_refused(network):
    model, batches, _ = network
    model = copy.deepcopy(model)
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    curvature = Curvature(model, batches)
    for measure in (curvature.trace, curvature.top_eigenvalue, curvature.lanczos):
        with pytest.raises(DivergenceError, match="has diverged"):
            measure()
    with pytest.raises(DivergenceError, match="has diverged"):
        worst_case_sharpness(model, batches)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_sharpness_stays_on_the_device_of_the_network(network, norm):
    """New tensors of no stated device lie elsewhere here, as they do for a network on a GPU."""
    model, batches, _ = network
    expected = worst_case_sharpness(model, batches, norm=norm, steps=3)
    with torch.device("meta"):
        found = worst_case_sharpness(model, batches, norm=norm, steps=3)
    assert found == expected
