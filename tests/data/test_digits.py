import torch

from probcomp.data import load_digits


def test_sizes_and_standardisation() -> None:
    data = load_digits(seed=3)
    x, y = data.train
    assert x.shape == (1437, 64)
    assert data.test is not None
    assert data.test[0].shape == (360, 64)
    assert x.mean(0).abs().max() < 1e-6  # float32 rounding of a mean over 1,437 samples
    deviation = x.std(0, correction=0)
    assert ((deviation - 1).abs() < 1e-5).logical_or(deviation == 0).all()
    assert data.classes == 10
    assert y.dtype == torch.int64


def test_split_is_stratified_and_seeded() -> None:
    one, same, other = load_digits(0), load_digits(0), load_digits(1)
    assert torch.equal(one.train[0], same.train[0])
    assert not torch.equal(one.train[1], other.train[1])
    share = torch.bincount(one.train[1]) / len(one.train[1])
    held = torch.bincount(one.test[1]) / len(one.test[1])
    assert (share - held).abs().max() < 1.5 / 360  # at most one sample of rounding per class


def test_images_are_the_same_pixels_on_one_scale() -> None:
    flat, square = load_digits(0), load_digits(0, images=True)
    assert square.train[0].shape == (1437, 1, 8, 8)
    pixel = square.train[0].flatten(1)
    varying = flat.train[0].std(0) > 0
    a, b = flat.train[0][:, varying], pixel[:, varying]
    b = (b - b.mean(0)) / b.std(0, correction=0)
    assert torch.allclose(a, b, atol=1e-4)
