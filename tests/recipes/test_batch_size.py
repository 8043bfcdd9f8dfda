"""Batches of training methods."""

from probcomp.recipes.batch_size import batch_size


def test_batches_grow_with_the_data_between_limits():
    assert [batch_size(n) for n in (5, 1437, 20_000, 60_000, 10**7)] == [64, 64, 64, 256, 256]
