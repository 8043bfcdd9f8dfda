import numpy as np
import pytest
import torch

from probcomp.data import Data
from probcomp.data.dataset import count_classes, standardise
from probcomp.errors import InputError

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def test_accepts_pairs_and_named_tensors() -> None:
    assert Data((X, Y), (X, Y), "d", 3).test is not None
    assert Data({"input_ids": Y, "labels": Y}, None, "d", 3).test is None
    assert Data({"input_ids": Y}, None, "without targets", 0).test is None
    assert Data((X,), (X,), "without targets", 0).classes == 0


@pytest.mark.parametrize(
    ("train", "test", "classes", "says"),
    [
        ((X[:0], Y[:0]), None, 3, "no samples"),
        ((X, Y[:5]), None, 3, "equally many"),
        ((X.clone().index_fill_(0, torch.tensor([1]), torch.nan), Y), None, 3, "NaN"),
        ((X.clone().index_fill_(0, torch.tensor([1]), torch.inf), Y), None, 3, "infinite"),
        ((X, Y), None, 2, "labels run from 0 to 2"),
        ((X, Y - 1), None, 3, "labels run from -1"),
        ((X, Y), (X, Y + 1), 3, "test part: labels"),
        ((X, Y), (X[:, :2], Y), 3, "one shape"),
        ((X, Y), (X.double(), Y), 3, "float64"),
        ((X, Y), {"a": X, "labels": Y}, 3, "training has"),
    ],
)
def test_refuses_what_does_not_fit(train, test, classes, says) -> None:
    with pytest.raises(InputError, match=says):
        Data(train, test, "d", classes)


def test_standardise_uses_the_training_part_alone() -> None:
    train = torch.cat((X, torch.ones(6, 1)), 1)
    first, second = standardise(train, train * 2, dims=(0,))
    mean, scale = train.numpy().mean(0), train.numpy().std(0)
    scale[3] = 1  # a constant feature is only centred
    np.testing.assert_allclose(first, (train.numpy() - mean) / scale, rtol=1e-5)
    np.testing.assert_allclose(second, (2 * train.numpy() - mean) / scale, rtol=1e-5)


def test_real_targets_have_no_classes() -> None:
    assert count_classes(torch.tensor([0.5, 2.0])) == 0
    assert count_classes(torch.tensor([0, 4])) == 5
