"""Chain messages and lattice sweeps against enumeration."""

import itertools

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import chain_messages
from probcomp.kernels.chains import lattice_extrinsic
from tests.kernels.supports import generator

EXACT = 1e-12
LOOPY = 0.01  # nats: loops of weak couplings (0.3) on a 3 x 3 lattice, measured 0.004


def enumerate_log_odds(base: torch.Tensor, edges, coupling: float) -> torch.Tensor:
    """Posterior log-odds of every site by summing over all states; ``base`` is flat."""
    count = base.numel()
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=count)), dtype=base.dtype)
    score = states @ base
    for i, j in edges:
        score = score + coupling * states[:, i] * states[:, j]
    on = torch.stack([score[states[:, i] == 1].logsumexp(0) for i in range(count)])
    off = torch.stack([score[states[:, i] == 0].logsumexp(0) for i in range(count)])
    return on - off


@pytest.mark.parametrize("coupling", [0.0, 1.5, -2.0])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_both_directions_give_the_exact_posterior(coupling, length) -> None:
    base = 3 * torch.randn(length, 4, generator=generator(0), dtype=torch.float64)
    total = base + chain_messages(base, coupling) + chain_messages(base, coupling, reverse=True)
    edges = [(i, i + 1) for i in range(length - 1)]
    for chain in range(4):
        want = enumerate_log_odds(base[:, chain], edges, coupling)
        assert (total[:, chain] - want).abs().max() < EXACT


def test_a_message_does_not_hold_its_own_evidence() -> None:
    base = torch.randn(6, 1, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(chain_messages(base, 1.0)[3, 0], base)[0].squeeze(1)
    assert (slope[3:] == 0).all()
    assert (slope[:3] != 0).all()


def test_each_chain_has_its_own_coupling() -> None:
    base = torch.randn(5, 2, 3, generator=generator(0), dtype=torch.float64)
    coupling = torch.randn(2, 3, generator=generator(1), dtype=torch.float64)
    whole = chain_messages(base, coupling)
    one = chain_messages(base[:, 1, 2], float(coupling[1, 2]))
    assert torch.allclose(whole[:, 1, 2], one, atol=EXACT)


def test_a_lattice_of_one_row_is_a_chain() -> None:
    base = torch.randn(1, 8, generator=generator(0), dtype=torch.float64)
    extrinsic, converged = lattice_extrinsic(base, 1.2)
    want = enumerate_log_odds(base[0], [(i, i + 1) for i in range(7)], 1.2)
    assert converged
    assert (base + extrinsic - want).abs().max() < EXACT


def test_a_small_lattice_is_near_its_enumeration() -> None:
    base = torch.randn(3, 3, generator=generator(0), dtype=torch.float64)
    extrinsic, converged = lattice_extrinsic(base, 0.3)
    across = [(3 * i + j, 3 * i + j + 1) for i in range(3) for j in range(2)]
    down = [(3 * i + j, 3 * i + j + 3) for i in range(2) for j in range(3)]
    want = enumerate_log_odds(base.flatten(), across + down, 0.3)
    assert converged
    assert ((base + extrinsic).flatten() - want).abs().max() < LOOPY


def test_the_fixed_point_is_that_of_the_message_passing_of_the_priors() -> None:
    inference = pytest.importorskip("probcomp.inference")
    priors = pytest.importorskip("probcomp.priors")
    evidence = torch.randn(14, 17, generator=generator(0), dtype=torch.float64)
    prior = priors.Lattice(0.2, 0.5)
    want = inference.marginals(prior, evidence)
    field = prior.site_field(evidence)
    extrinsic, converged = lattice_extrinsic(field + evidence, 0.5, tolerance=1e-10, sweeps=200)
    assert converged
    assert (field + evidence + extrinsic - want.log_odds).abs().max() < 1e-5


def test_a_sweep_that_has_not_settled_says_so() -> None:
    _, converged = lattice_extrinsic(torch.randn(6, 6), 1.0, sweeps=1)
    assert not converged


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chain_messages(torch.zeros(0, 3), 1.0), "T > 0"),
        (lambda: chain_messages(torch.zeros(3).long(), 1.0), "must be floating"),
        (lambda: chain_messages(torch.zeros(3, 2), 1.0, backend="gpu"), "unknown chain backend"),
        (lambda: chain_messages(torch.zeros(3, 2), 1.0, backend="triton"), "needs a GPU tensor"),
        (
            lambda: chain_messages(torch.zeros(3, 2).requires_grad_(), 1.0, backend="triton"),
            "no gradient",
        ),
        (lambda: lattice_extrinsic(torch.zeros(3), 1.0), r"\[H, W\]"),
        (lambda: lattice_extrinsic(torch.zeros(3, 3), 1.0, damping=1.0), "damping"),
    ],
)
def test_bad_input_is_refused(call, message) -> None:
    with pytest.raises(InputError, match=message):
        call()
