import math

import torch

from probcomp.decoding.boundary import BoundaryWeights, boundary_evidence, next_block
from probcomp.decoding.length import NEG


def test_evidence_is_the_weighted_sum():
    mass = torch.tensor([[0.5, 0.9, 0.1]])
    h = torch.tensor([[1.0, 3.0, 2.0]])
    committed = torch.tensor([[False, True, False]])
    weights = BoundaryWeights(-1.0, 2.0, 0.5, 1.0, 4.0)
    coupling = torch.tensor([[0.5, 1.0, 1.0]])
    r = boundary_evidence(mass, h, committed, torch.tensor([3]), weights, coupling)
    want = [
        -1.0 + 0.5 * 2.0 - math.log(0.5),
        -1.0 + 2.0 * math.log(9.0) + 0.5 * -1.0 + 4.0,
        -1.0 + 2.0 * math.log(1 / 9),
    ]
    torch.testing.assert_close(r[0], torch.tensor(want), atol=1e-5, rtol=0)


def test_outside_the_window_there_is_no_boundary():
    r = boundary_evidence(
        torch.full((1, 3), 0.5),
        torch.ones(1, 3),
        torch.zeros(1, 3, dtype=torch.bool),
        torch.tensor([2]),
        BoundaryWeights(),
    )
    assert float(r[0, 2]) <= 0.9 * NEG
    assert float(r[0, 1]) > -10


def test_next_block_takes_a_sure_mode_and_else_the_median():
    p_first = torch.tensor(
        [
            [0.05, 0.1, 0.6, 0.1, 0.1],  # sure: 3
            [0.2, 0.2, 0.2, 0.2, 0.2],  # flat: the median, 3
            [0.28, 0.1, 0.1, 0.02, 0.0],  # more likely than not the text ends first
        ]
    )
    available = torch.tensor([5, 5, 4])
    assert next_block(p_first, 0.3, 1, 5, available).tolist() == [3, 3, 4]
    assert next_block(p_first, 0.3, 4, 5, available).tolist() == [3, 4, 4]
    assert next_block(p_first, 0.3, 4, 5, torch.tensor([2, 2, 2])).tolist() == [2, 2, 2]
