"""Loopy belief propagation: its measured error, its limits, warm starts."""

import pytest
import torch

from probcomp.errors import ConvergenceError, InputError
from probcomp.inference import lattice_loopy
from probcomp.inference.lattice_loopy import ODDS_LIMIT, Messages, bethe_log_z
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
    assert again.iterations <= lattice_loopy.CHECK_EVERY


def test_naive_log_odds_messages_reach_the_same_fixed_point() -> None:
    """Against the textbook update in log-odds, written with loops over sites."""
    prior, evidence = Lattice(0.3, 0.9), draws(1, 4, 5)[0]
    base = prior.site_field(evidence) + evidence
    sites = [(i, j) for i in range(4) for j in range(5)]
    steps = ((0, 1), (0, -1), (1, 0), (-1, 0))
    near = {
        s: [(s[0] + a, s[1] + b) for a, b in steps if (s[0] + a, s[1] + b) in sites] for s in sites
    }
    message = {(s, n): 0.0 for s in sites for n in near[s]}
    for _ in range(200):
        new = {}
        for s, n in message:
            theta = float(base[s]) + sum(message[k, s] for k in near[s] if k != n)
            t = torch.tensor([theta, theta + 0.9], dtype=torch.float64)
            off, on = torch.nn.functional.softplus(t).tolist()
            new[s, n] = on - off
        message = new
    belief = [float(base[s]) + sum(message[k, s] for k in near[s]) for s in sites]
    found = marginals(prior, evidence, method="loopy", tolerance=1e-13, max_iterations=1000)
    expected = torch.tensor(belief, dtype=torch.float64).view(4, 5)
    torch.testing.assert_close(found.log_odds, expected, rtol=0, atol=1e-11)


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


def test_a_warm_start_of_another_shape_is_refused() -> None:
    state = marginals(Lattice(0.0, 1.0), torch.zeros(13, 14)).state
    assert isinstance(state, Messages)
    with pytest.raises(InputError, match="change of shape"):
        marginals(Lattice(0.0, 1.0), torch.zeros(14, 14), start=state)


def test_bethe_value_is_stationary_in_the_messages() -> None:
    prior, evidence = Lattice(0.1, 0.9), draws(1, 13, 13)[0]
    result = marginals(prior, evidence, tolerance=1e-13, max_iterations=2000)
    odds = (prior.site_field(evidence) + evidence).exp()
    gain = torch.tensor(0.9, dtype=torch.float64).exp()
    at = bethe_log_z(odds, gain, result.state).item()
    errors = []
    for size in (1e-2, 1e-3):
        moved = Messages(*(m * (1 + size) for m in result.state))
        errors.append(abs(bethe_log_z(odds, gain, moved).item() - at))
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.2)  # an error enters squared
