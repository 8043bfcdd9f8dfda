import itertools
import math

import pytest
import torch

from probcomp.decoding.order import choose_block, order_log_prob, priorities
from probcomp.errors import InputError


def test_priority_is_context_less_entropy():
    h = torch.tensor([[1.0, 1.0, 2.0, 4.0, 9.0, 9.0]])
    masked = torch.tensor([[False, False, True, True, True, False]])
    edges = torch.tensor([[0, 2, 4, 6]])
    found = priorities(h, masked, edges, torch.tensor([6]))
    assert found[0, 0] == -math.inf  # nothing to do there
    # Block 2..4: mean entropy 3; near it are 2 visible, 1 masked, 1 visible and 6 prompt tokens.
    assert float(found[0, 1]) == pytest.approx(-3.0 + (3 + 6) / (4 + 6))
    assert choose_block(found).tolist() == [1]


def test_orders_are_a_law_and_draws_follow_it():
    priority = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64)
    laws = [
        math.exp(order_log_prob(priority, torch.tensor(order), 0.7))
        for order in itertools.permutations(range(3))
    ]
    assert sum(laws) == pytest.approx(1.0)
    first = (priority / 0.7).softmax(0)
    grid = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    drawn = choose_block(priority.expand(4000, 3), 0.7, grid)
    share = torch.bincount(drawn, minlength=3) / 4000
    torch.testing.assert_close(share.double(), first, atol=1e-3, rtol=0)
    with pytest.raises(InputError):
        choose_block(priority[None], 0.7)
