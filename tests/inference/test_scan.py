"""Segments against single steps."""

import pytest
import torch

from probcomp.inference import scan as module
from probcomp.inference.scan import scan


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 300, 4097])
@pytest.mark.parametrize("coupling", [-2.5, 0.0, 3.0])
def test_segments_equal_single_steps(length: int, coupling: float) -> None:
    generator = torch.Generator().manual_seed(length)
    base = 4 * torch.randn(length, 2, 3, generator=generator, dtype=torch.float64)
    strength = torch.tensor([coupling, 0.5 * coupling, 1.0], dtype=torch.float64)
    message, naive = torch.zeros(2, 3, dtype=torch.float64), []
    for theta in base + 0.0:
        naive.append(message)
        both = torch.logaddexp(torch.zeros_like(theta), strength + theta + message)
        message = both - torch.logaddexp(torch.zeros_like(theta), theta + message)
    found = scan(base, strength)
    # Rounding of two log-odds recursions, each contracting.
    torch.testing.assert_close(found, torch.stack(naive), rtol=0, atol=1e-12)


def test_segments_differentiate(monkeypatch: pytest.MonkeyPatch) -> None:
    base = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    coupling = torch.tensor(1.5, dtype=torch.float64)
    segmented = torch.autograd.functional.jacobian(lambda b: scan(b, coupling), base)
    monkeypatch.setattr(module, "LONG", 1000)
    stepped = torch.autograd.functional.jacobian(lambda b: scan(b, coupling), base)
    torch.testing.assert_close(segmented, stepped)


def test_extreme_evidence_in_float32_stays_finite() -> None:
    base = torch.tensor([40.0, -40.0]).repeat(100)
    assert bool(scan(base, torch.tensor(35.0)).isfinite().all())
