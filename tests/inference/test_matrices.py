"""Layers as matrices: rows times the weight are the layer's output, whatever its padding."""

import pytest
import torch
from torch import nn

from probcomp.errors import InputError
from probcomp.inference.matrices import Matrix, matrix_of

EXACT = 1e-12


def view(module: nn.Module) -> Matrix:
    """Of any padding mode; `matrix_of` gives only those that evidence is collected for."""
    if isinstance(module, nn.Linear):
        return Matrix("", "linear")
    return Matrix("", "conv", module.weight[0, 0].numel())


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(5, 3), (4, 5)),
        (nn.Linear(5, 3), (4, 7, 5)),
        (nn.Conv1d(3, 4, 3, padding=2, dilation=2, stride=2), (2, 3, 11)),
        (nn.Conv1d(3, 4, 4, padding="same", padding_mode="replicate"), (2, 3, 11)),
        (nn.Conv2d(3, 4, (5, 3), padding="same"), (2, 3, 6, 7)),
        (nn.Conv2d(3, 4, 3, padding="valid", stride=(2, 1)), (2, 3, 6, 7)),
        (nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="reflect"), (2, 3, 6, 7)),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (2, 3, 6, 7)),
    ],
)
def test_rows_times_the_weight_are_the_output(module, shape) -> None:
    module = module.double()
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = view(module)
    with torch.no_grad():
        made = matrix.rows(module, x) @ matrix.of(module.weight).T + module.bias
        torch.testing.assert_close(made, matrix.outputs(module(x)), atol=EXACT, rtol=0)
        assert torch.equal(matrix.back(matrix.of(module.weight), module.weight), module.weight)


def test_a_single_image_is_refused() -> None:
    module = nn.Conv2d(3, 4, 3)
    with pytest.raises(InputError, match="expected a batch"):
        view(module).rows(module, torch.randn(3, 6, 6))


def test_columns_are_those_of_a_whole_kernel() -> None:
    matrix = Matrix("", "conv", kernel=4)
    assert matrix.columns(torch.tensor([[0, 2]])).tolist() == [[0, 1, 2, 3, 8, 9, 10, 11]]


def test_what_has_no_matrix_says_why() -> None:
    assert "grouped" in str(matrix_of(nn.Conv2d(4, 4, 3, groups=2), "a"))
    assert "not a linear layer" in str(matrix_of(nn.Embedding(3, 4), "a"))
    assert matrix_of(nn.Conv2d(4, 2, 3), "a") == Matrix("a", "conv", 9)
