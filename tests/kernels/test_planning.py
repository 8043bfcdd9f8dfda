"""Plans and the tuner, on small weights."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import dispatch, pack, tables
from probcomp.kernels.dispatch import candidates, choose, forget_choices, m_bucket
from probcomp.kernels.tuning import problem_of, time_backends
from tests.kernels.supports import block_support, generator


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tables, "_SHIPPED", tmp_path / "shipped")
    tables.forget_tables()
    forget_choices()
    yield
    tables.forget_tables()
    forget_choices()


def example(density=0.1):
    weight = torch.randn(256, 256, generator=generator(0))
    support = block_support((256, 256), (64, 32), density, 1)
    return pack(weight, support, block=(64, 32), format="blocks")


def test_a_plan_names_a_backend_and_a_reason_for_each_batch() -> None:
    packed = example()
    plan = packed.plan(M=[1, 16, 128, 2048])
    assert [row.rows for row in plan.rows] == [1, 16, 128, 2048]
    for row in plan.rows:
        assert row.backend == choose(problem_of(packed, row.rows)).backend
        assert row.reason
        assert row.speedup is None
        limit = dispatch.break_even(problem_of(packed, m_bucket(row.rows)), row.backend, 1)
        dense = row.backend == "dense"
        assert row.expected == (1.0 if dense else pytest.approx(limit / packed.density))
    text = str(plan)
    assert f"density {packed.density:.3f}" in text
    assert f"about {plan.rows[-1].expected:.1f}x" in text
    assert "M=2048" in text


def test_a_plan_for_a_gpu_needs_no_gpu() -> None:
    plan = example(density=0.2).plan(M=[1], device="cuda")
    assert plan.device == "cuda"
    assert plan.rows[0].backend in ("triton", "dense")
    if plan.rows[0].backend == "triton":
        assert plan.rows[0].expected == pytest.approx(0.7 / plan.density)
    with pytest.raises(InputError, match="cannot measure"):
        example().plan(M=[1], device="cuda", measure=True)


def test_measuring_times_every_candidate() -> None:
    packed = example()
    times = time_backends(packed, 4, rounds=3)
    assert set(times) == set(candidates(problem_of(packed, 4)))
    assert all(value > 0 for value in times.values())
    row = packed.plan(M=[4], measure=True).rows[0]
    assert "fastest here" in row.reason
    assert row.speedup is not None


@pytest.mark.parametrize("sizes", [[], [0], [4, -1], 4, ["4"], [1.5]])
def test_bad_batches_are_refused(sizes) -> None:
    with pytest.raises(InputError, match="M must be positive"):
        example().plan(M=sizes)


def test_a_device_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        example().plan(device="gpu")
