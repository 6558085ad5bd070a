"""scikit-learn's bundled handwritten digits, split and standardized; no download."""

from __future__ import annotations

import torch

from hybridopt.tasks.base import Split, Splits
from hybridopt.tasks.data import bundled
from hybridopt.tasks.data.split import partition, standardize

SHARES = (0.7, 0.15, 0.15)
"""Train, validation and test: 1,258, 269 and 270 of the 1,797 images."""


def digits_splits(seed: int) -> Splits:
    """Returns the 1,797 digits as images of shape (samples, 8, 8), float32, and int64 labels from 0 to 9.

    These are the 8 x 8 counts (0 to 16) of the UCI data set "Optical Recognition of Handwritten Digits" (Alpaydin
    and Kaynak, 1998), its test part. The split is stratified by class; one mean and one standard deviation of the
    training pixels standardize all.

    Args:
        seed: Decides which image goes where.
    """
    pixels, classes = bundled.digits()
    images, labels = torch.from_numpy(pixels).float(), torch.from_numpy(classes)
    parts = partition(len(images), SHARES, seed, labels=labels)
    inputs = standardize(*(images[index] for index in parts))
    return Splits(*(Split(pixels, labels[index]) for pixels, index in zip(inputs, parts, strict=True)))
