import math

import pytest
import torch
from scipy.stats import norm

from probcomp.decoding.denoising import MEANT, denoised, slab_share

ENDS = torch.tensor([4])


def test_the_share_is_bayes_rule_between_a_spike_and_a_slab():
    for p in (0.0, 0.003, 0.02, 0.5):
        want = 0.5 * 1.0 / (0.5 * 1.0 + 0.5 * norm(0, 0.01).pdf(p))
        found = slab_share(torch.tensor(p, dtype=torch.float64), 0.01)
        assert float(found) == pytest.approx(want, rel=1e-9)


def test_small_chances_go_and_the_end_keeps_its_mass():
    p = torch.tensor([[0.4, 0.395, 0.004, 0.001, 0.2]], dtype=torch.float64)
    found = denoised(p.log(), 0.01, ENDS).softmax(-1)
    assert float(found[0, 4]) == pytest.approx(0.2)
    assert float(found.sum()) == pytest.approx(1.0)
    spike = norm(0, 0.01).pdf(0.004)
    left = 0.004 * (MEANT + (1 - MEANT) / (1 + spike))
    assert float(found[0, 2] / found[0, 0]) == pytest.approx(left / 0.4, rel=1e-6)
    assert float(found[0, 0] / found[0, 1]) == pytest.approx(0.4 / 0.395)


def test_no_token_loses_more_than_what_is_meant():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(200, 9, generator=generator, dtype=torch.float64)
    for noise in (1e-4, 0.01, 0.3):
        lost = logits.log_softmax(-1) - denoised(logits, noise, ENDS).log_softmax(-1)
        assert float(lost.max()) <= math.log(1 / MEANT) + 1e-9


def test_without_noise_or_without_content_nothing_changes():
    logits = torch.tensor([[1.0, 2.0, -torch.inf, 0.0, 3.0]])
    assert denoised(logits, 0.0, ENDS) is logits
    only = torch.full((1, 5), -torch.inf)
    only[0, 4] = 0.3
    assert denoised(only, 0.01, ENDS).equal(only)
    banned = denoised(logits, 0.01, ENDS)
    assert float(banned[0, 2]) == -math.inf
    assert not banned.isnan().any()
