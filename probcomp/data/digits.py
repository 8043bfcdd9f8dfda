"""Handwritten digits that ship with scikit-learn: 1,797 images of 8 x 8, no download."""

import torch

from probcomp.data.dataset import Data, standardise

TEST_SHARE = 0.2


def load_digits(seed: int = 0, *, images: bool = False) -> Data:
    """Digits 0 to 9, split 80/20 with equal class shares, standardised by the training part.

    The data are the test part of the UCI "Optical Recognition of Handwritten Digits" set (Alpaydin
    and Kaynak 1998), as in ``sklearn.datasets.load_digits``.

    Args:
        seed: seed of the split.
        images: inputs [n, 1, 8, 8] with one common scale, instead of [n, 64] with one per pixel.

    Returns:
        1,437 training and 360 test samples, float32.
    """
    from sklearn.datasets import load_digits as read
    from sklearn.model_selection import train_test_split

    pixels, labels = read(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        pixels, labels, test_size=TEST_SHARE, random_state=seed, stratify=labels
    )
    first, second = (torch.tensor(part, dtype=torch.float32) for part in (x, x_test))
    first, second = standardise(first, second, dims=(0, 1) if images else (0,))
    if images:
        first, second = (part.reshape(-1, 1, 8, 8) for part in (first, second))
    targets, targets_test = (torch.tensor(part, dtype=torch.int64) for part in (y, y_test))
    return Data((first, targets), (second, targets_test), "scikit-learn digits", 10)
