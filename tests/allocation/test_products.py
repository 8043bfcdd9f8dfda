"""Which products are seen, and whose they are."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from probcomp.allocation.products import count_products

X = torch.ones(2, 6)


class Held(nn.Module):
    """One weight [4, 6], read in the way that is given."""

    def __init__(self, read: object) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 6))
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return self.read(x, self.weight)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("read", "macs"),
    [
        (F.linear, 48),
        (lambda x, w: x @ w.T, 48),
        (lambda x, w: w @ x[0], 24),
        (lambda x, w: torch.einsum("bi,oi->bo", x, w), 48),
        (lambda x, w: F.linear(x, w[:2]), 24),
        (lambda x, w: F.linear(x[:, :3], w.chunk(2, 1)[1]), 24),
        (lambda x, w: F.linear(x.double(), w.double()), 48),
        (lambda x, w: F.linear(x, w * (w > 0)), 48),
        (lambda x, w: F.conv1d(x[None], w[:, :, None].expand(4, 6, 1)[:, :2]), 48),
        (lambda x, w: F.embedding(torch.tensor([0, 1]), w), 0),
        (lambda x, w: x + w[0], 0),
    ],
)
def test_a_weight_is_known_however_it_is_read(read: object, macs: int) -> None:
    found = count_products(Held(read), lambda m: m(X))
    assert found.weights == ({"weight": macs} if macs else {})
    assert found.others == 0
    assert found.touched == {"weight"}
    assert found.readers == {}


def test_products_without_a_weight_are_others() -> None:
    found = count_products(Held(lambda x, w: x @ x.T), lambda m: m(X))
    assert (found.weights, found.others, found.touched) == ({}, 24, set())
    q = torch.ones(1, 2, 5, 3)
    attention = count_products(
        Held(lambda x, w: F.scaled_dot_product_attention(q, q, q)), lambda m: m(X)
    )
    assert attention.others == 2 * 2 * 5 * 5 * 3


def test_two_parameters_of_one_memory_are_told_apart() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            memory = torch.ones(48)
            self.one = nn.Parameter(memory[:24].view(4, 6))
            self.two = nn.Parameter(memory[24:].view(4, 6))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.two)

    assert count_products(Flat(), lambda m: m(X)).weights == {"two": 48}


def test_the_fast_path_of_attention_is_off_while_counting_and_on_after_it() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval()
    seen = []

    def run(model: nn.Module) -> None:
        seen.append(torch.backends.mha.get_fastpath_enabled())
        model(torch.ones(2, 3, 8))

    assert len(count_products(layer, run).weights) == 4
    assert seen == [False]
    assert torch.backends.mha.get_fastpath_enabled()
