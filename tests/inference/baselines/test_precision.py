"""Bits from posterior variances, against a literal count."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probcomp.inference.baselines.precision import (
    exponent_bits,
    layer_bits,
    round_to_bits,
    significand_bits,
)


@given(st.lists(st.floats(1e-12, 10.0), min_size=1, max_size=20))
def test_bits_are_the_mean_count_of_round_offs(variances: list[float]) -> None:
    counts = [sum(2 * v < 2.0**-t for t in range(1, 24)) for v in variances]
    found = significand_bits(torch.tensor(variances, dtype=torch.float64))
    assert found == math.ceil(sum(counts) / len(counts))


def test_edges() -> None:
    assert significand_bits(torch.tensor([])) == 0
    assert significand_bits(torch.tensor([0.0])) == 23
    assert significand_bits(torch.tensor([2.0**-4])) == 2  # 2 v = 1/8 lies below 1/2 and 1/4
    assert exponent_bits(0.0) == 1
    assert exponent_bits(10e38) == 8  # that of a float32, as the authors use it


def test_layer_counts_sign_significand_exponent_of_what_stays() -> None:
    values, variance = torch.tensor([0.5, -3.0, 9.0]), torch.tensor([2.0**-8, 2.0**-8, 1.0])
    bits = layer_bits(values, variance, torch.tensor([True, True, False]))
    assert bits == {"significand": 6, "exponent": exponent_bits(3.0), "total": 7 + exponent_bits(3)}
    nothing = layer_bits(values, variance, torch.zeros(3, dtype=torch.bool))
    assert nothing["total"] == 0


@pytest.mark.parametrize("bits", [1, 5, 12])
def test_rounding_moves_a_value_by_half_a_step_at_most(bits: int) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rounded = round_to_bits(values, bits)
    assert float((rounded - values).abs().max()) <= 0.5 * 2.0**-bits
    assert torch.equal(rounded * 2**bits, torch.round(rounded * 2**bits))
