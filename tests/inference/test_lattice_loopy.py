"""Loopy belief propagation: its measured error, its limits, warm starts."""

import pytest
import torch

from probcomp.errors import ConvergenceError
from probcomp.inference.lattice_messages import CHECK_EVERY, ODDS_LIMIT
from probcomp.inference.supports import marginals
from probcomp.priors import Blocks, Lattice

# Largest error of a marginal on 3 x 4 lattices with evidence N(0, 1), over 20 draws: measured in
# a prototype, and half as much again allowed for other draws.
ERRORS = {0.5: 3e-4, 1.0: 0.005, 1.5: 0.024, 2.0: 0.10, 3.0: 0.46, 4.0: 0.97}
SLACK = 1.5


def draws(count: int, *shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, *shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("coupling", ERRORS)
def test_error_against_exact_marginals_by_coupling(coupling: float) -> None:
    prior, evidence = Lattice(0.0, coupling), draws(20, 3, 4)
    exact = marginals(prior, evidence).probability
    loopy = marginals(prior, evidence, method="loopy", on_unreliable="ignore", max_iterations=2000)
    assert (loopy.probability - exact).abs().max().item() <= ERRORS[coupling] * SLACK


def test_wide_lattice_against_the_transfer_matrix() -> None:
    prior, evidence = Lattice(-0.5, 1.2), draws(1, 40, 12, seed=3)[0]
    exact = marginals(prior, evidence)
    loopy = marginals(prior, evidence, method="loopy")
    assert loopy.converged
    # The table's bound for 1.2, between those of 1.0 and 1.5.
    assert (loopy.probability - exact.probability).abs().max().item() < 0.02
    # Bethe free energy: measured 0.3 % of the sum's 100 nats here.
    assert loopy.log_z.item() == pytest.approx(exact.log_z.item(), rel=0.02)
    for bethe, true in zip(loopy.pair, exact.pair):
        assert (bethe - true).abs().max().item() < 0.03


def test_exact_on_trees_in_one_row() -> None:
    evidence = draws(3, 1, 20)
    loopy = marginals(Lattice(0.2, 1.3), evidence, method="loopy")
    exact = marginals(Lattice(0.2, 1.3), evidence)
    torch.testing.assert_close(loopy.log_odds, exact.log_odds, rtol=0, atol=1e-7)
    torch.testing.assert_close(loopy.log_z, exact.log_z, rtol=0, atol=1e-7)
    torch.testing.assert_close(loopy.pair[0], exact.pair[0], rtol=0, atol=1e-7)


def test_field_zero_is_one_half_and_flipping_flips() -> None:
    still = marginals(Lattice(0.0, 1.2), torch.zeros(20, 30, dtype=torch.float64))
    assert (still.probability - 0.5).abs().max().item() < 1e-12
    evidence = draws(1, 20, 30)[0]
    up = marginals(Lattice(0.7, 1.2), evidence)
    down = marginals(Lattice(-0.7, 1.2), -evidence)
    torch.testing.assert_close(up.log_odds, -down.log_odds, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_warm_start_ends_where_a_cold_start_ends(dtype: torch.dtype, bound: float) -> None:
    prior, evidence = Lattice(-0.3, 1.2), draws(1, 30, 40)[0].to(dtype)
    near = marginals(prior, evidence + 0.05 * draws(1, 30, 40, seed=9)[0].to(dtype))
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    cold = marginals(prior, evidence, tolerance=tolerance, max_iterations=1000)
    warm = marginals(prior, evidence, start=near.state, tolerance=tolerance, max_iterations=1000)
    assert cold.converged
    assert warm.converged
    assert warm.iterations < cold.iterations
    torch.testing.assert_close(warm.probability, cold.probability, rtol=0, atol=bound)
    again = marginals(prior, evidence, start=cold.state, tolerance=tolerance)
    assert again.iterations <= CHECK_EVERY


def test_gradient_of_log_z_is_the_belief_and_reaches_the_coupling() -> None:
    evidence = draws(1, 14, 15)[0].requires_grad_()
    coupling = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    field = torch.tensor(-0.2, dtype=torch.float64, requires_grad=True)
    accuracy = {"tolerance": 1e-13, "max_iterations": 2000}
    result = marginals(Lattice(field, coupling), evidence, **accuracy)
    grads = torch.autograd.grad(result.log_z, (evidence, field, coupling))
    torch.testing.assert_close(grads[0], result.probability, rtol=0, atol=1e-10)

    def log_z(f: float, j: float) -> float:
        return marginals(Lattice(f, j), evidence.detach(), **accuracy).log_z.item()

    step = 1e-4
    by_field = (log_z(-0.2 + step, 0.8) - log_z(-0.2 - step, 0.8)) / (2 * step)
    by_coupling = (log_z(-0.2, 0.8 + step) - log_z(-0.2, 0.8 - step)) / (2 * step)
    assert grads[1].item() == pytest.approx(by_field, rel=1e-5)
    assert grads[2].item() == pytest.approx(by_coupling, rel=1e-5)


def test_beliefs_differentiate_through_the_fixed_point() -> None:
    evidence = draws(1, 13, 13)[0].requires_grad_()
    accuracy = {"tolerance": 1e-13, "max_iterations": 2000}
    belief = marginals(Lattice(0.0, 0.8), evidence, **accuracy).probability.sum()
    (gradient,) = torch.autograd.grad(belief, evidence)
    step = torch.zeros(13, 13, dtype=torch.float64)
    step[6, 7] = 1e-4
    high, low = (
        marginals(Lattice(0.0, 0.8), evidence.detach() + s, **accuracy).probability.sum()
        for s in (step, -step)
    )
    # Twenty terms of a series that falls by about 0.4 a term at this coupling.
    assert gradient[6, 7].item() == pytest.approx((high - low).item() / 2e-4, rel=1e-4)


def test_strong_coupling_is_refused_warned_of_or_run() -> None:
    prior, evidence = Lattice(0.0, 1.5), torch.zeros(13, 13)
    with pytest.raises(ConvergenceError, match=r"coupling 1.5, above 1.4.*on_unreliable"):
        marginals(prior, evidence)
    with pytest.warns(RuntimeWarning, match="unreliable"):
        marginals(prior, evidence, on_unreliable="warn")
    assert marginals(prior, evidence, on_unreliable="ignore").probability.shape == (13, 13)
    assert marginals(Lattice(0.0, 1.5), torch.zeros(13, 12)).exact


def test_strong_evidence_makes_strong_coupling_work() -> None:
    """Evidence that pins most sites breaks the symmetry: coupling 1.6 within 0.01."""
    prior, evidence = Lattice(0.0, 1.6), 6 * draws(1, 30, 12)[0]
    exact = marginals(prior, evidence).probability
    loopy = marginals(prior, evidence, method="loopy", on_unreliable="ignore")
    assert loopy.converged
    assert (loopy.probability - exact).abs().max().item() < 0.01


def test_sweeps_run_out_and_it_says_so() -> None:
    result = marginals(Lattice(0.0, 1.2), draws(1, 20, 20)[0], max_iterations=2)
    assert not result.converged
    assert result.iterations == 2


def test_log_z_on_request_only() -> None:
    result = marginals(Lattice(0.0, 1.0), draws(2, 13, 13), need_log_z=False)
    assert bool(result.log_z.isnan().all())
    assert result.log_z.shape == (2,)
    single = marginals(Lattice(0.0, 1.0), draws(2, 13, 13).float())
    assert single.log_z.dtype == torch.float32


def test_evidence_beyond_the_odds_limit_keeps_log_z_and_beliefs() -> None:
    """Tiles sum their evidence, so a lattice of tiles sees far more than 40 nats."""
    prior = Blocks((2, 2), Lattice(0.0, 1.0))
    evidence = torch.full((26, 26), 30.0)
    evidence[:, 12:] = -30.0
    result = marginals(prior, evidence)
    assert result.gate.log_odds[0, 0].item() == pytest.approx(120, abs=3)
    # One support holds nearly all the weight, so log Z is its log weight. The prior's normaliser
    # is Bethe's here and exact to 1e-3 nats a row there; they differ by 1 % of the 169 tiles.
    only = (evidence > 0).float()
    expected = (evidence * only).sum().item() + prior.log_prob(only).item()
    assert result.log_z.item() == pytest.approx(expected, abs=1.7)
    assert ODDS_LIMIT < 88  # e^88 overflows float32
