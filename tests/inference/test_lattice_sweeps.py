"""Row and column sweeps: the fixed points of flooding, in fewer sweeps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.errors import InputError
from probcomp.inference.lattice_messages import run
from probcomp.inference.lattice_sweeps import run_rows_and_columns
from probcomp.inference.solver import Options

TIGHT = Options(tolerance=1e-12, max_iterations=3000, damping=0.0)
FIXED = 1e-9  # both schedules stop within 1e-12 of a step; the rest is what steps leave


def lattice(*shape: int, seed: int = 0, coupling: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    base = torch.randn(*shape, generator=rng, dtype=torch.float64)
    strength = torch.full((*shape[:-2], 1, 1), coupling, dtype=torch.float64)
    return base - 2 * coupling, strength


@settings(max_examples=20)
@given(
    rows=st.integers(1, 9), columns=st.integers(1, 9), batch=st.sampled_from([(), (3,)]),
    coupling=st.sampled_from([-0.8, 0.0, 0.7, 1.2]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_the_fixed_points_are_those_of_flooding(rows, columns, batch, coupling, seed) -> None:
    base, strength = lattice(*batch, rows, columns, seed=seed, coupling=coupling)
    found, converged, _ = run_rows_and_columns(base, strength, TIGHT)
    flooded, ready, _ = run(base, strength, TIGHT)
    assert converged
    assert ready
    for one, other in zip(found, flooded):
        assert torch.allclose(one.log(), other.log(), atol=FIXED, rtol=0)


def test_a_row_is_solved_in_one_sweep() -> None:
    base, strength = lattice(1, 50)
    _, converged, sweeps = run_rows_and_columns(base, strength, TIGHT)
    assert converged
    assert sweeps == 2  # the second sees that nothing changes


def test_it_takes_fewer_sweeps_than_flooding() -> None:
    base, strength = lattice(40, 40, coupling=1.2)
    *_, sweeps = run_rows_and_columns(base, strength, TIGHT)
    *_, flooding = run(base, strength, TIGHT)
    assert 2 * sweeps <= flooding


def test_a_warm_start_at_the_fixed_point_stays_there() -> None:
    base, strength = lattice(6, 7)
    messages, *_ = run_rows_and_columns(base, strength, TIGHT)
    again, _, sweeps = run_rows_and_columns(
        base, strength, Options(start=messages, tolerance=1e-9, damping=0.0)
    )
    assert sweeps == 1
    for one, other in zip(messages, again):
        assert torch.allclose(one, other, atol=1e-9)


def test_too_few_sweeps_are_reported() -> None:
    base, strength = lattice(20, 20, coupling=1.2)
    _, converged, sweeps = run_rows_and_columns(base, strength, Options(max_iterations=2))
    assert not converged
    assert sweeps == 2


def test_a_start_of_another_shape_is_refused() -> None:
    messages, *_ = run_rows_and_columns(*lattice(4, 5), TIGHT)
    with pytest.raises(InputError, match="belongs to a lattice"):
        run_rows_and_columns(*lattice(5, 5), Options(start=messages))
