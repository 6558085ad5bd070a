"""Seeded, class-stratified splits, and standardization by the training set's statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from hybridopt.core import DataError


def generator(seed: int, stream: str) -> torch.Generator:
    """Returns a CPU generator of its own for each purpose, so that the draws of one cannot shift another's.

    Args:
        seed: The user's seed.
        stream: What the numbers are for, e.g. ``"train"``.
    """
    digest = hashlib.sha256(f"{stream}:{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def partition(
    samples: int, shares: Sequence[float], seed: int, *, labels: Tensor | None = None
) -> list[Tensor]:
    """Splits ``range(samples)`` at random into disjoint parts that together hold every sample.

    Args:
        samples: How many samples there are.
        shares: Share of each part; they sum to 1.
        seed: Decides who goes where.
        labels: Class of each sample, shape (samples,), integer. When given, every class is split by the same
            shares, up to rounding to whole samples; the last part takes what rounding leaves.

    Returns:
        Positions of each part, shuffled, int64.

    Raises:
        DataError: If the shares do not sum to 1, the labels do not fit, or a part would be empty.
    """
    if any(share < 0 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise DataError(f"The shares of a split must be at least 0 and sum to 1, not {tuple(shares)}.")
    if labels is not None and labels.shape != (samples,):
        raise DataError(
            f"There are {samples} samples but labels of shape {tuple(labels.shape)}: one each is needed."
        )
    rng = generator(seed, "partition")
    order = torch.randperm(samples, generator=rng)
    groups = [order] if labels is None else [order[labels[order] == value] for value in labels.unique()]
    parts: list[list[Tensor]] = [[] for _ in shares]
    for group in groups:
        bounds = _bounds(len(group), shares)
        for part, start, stop in zip(parts, bounds, bounds[1:], strict=False):
            part.append(group[start:stop])
    joined = [torch.cat(part) for part in parts]
    if any(len(part) == 0 for part in joined):
        raise DataError(
            f"{samples} samples are too few for the shares {tuple(shares)}: a part would be empty. Use more data."
        )
    # Otherwise a part is sorted by class, and a batch taken in order would be of one class.
    return [part[torch.randperm(len(part), generator=rng)] for part in joined]


def _bounds(count: int, shares: Sequence[float]) -> list[int]:
    ends, total = [0], 0.0
    for share in shares[:-1]:
        total += share
        ends.append(round(total * count))
    return [*ends, count]


def standardize(train: Tensor, *others: Tensor, per_feature: bool = False) -> tuple[Tensor, ...]:
    """Shifts and scales to mean 0 and standard deviation 1 on the training set, and the others in the same way.

    Args:
        train: Training inputs, floating point, shape (samples, ...).
        *others: Inputs of the other splits, of the same kind.
        per_feature: One mean and deviation for each entry of the last dimension, instead of one for all (for images
            one for all keeps dark borders dark).

    Returns:
        All of them, in order. A feature that is constant in training is only shifted.

    Raises:
        DataError: If a training value is NaN or infinite.
    """
    if not torch.isfinite(train).all():
        raise DataError("The training inputs hold NaN or infinite values; remove or fill them first.")
    dims = tuple(range(train.ndim - 1)) if per_feature else tuple(range(train.ndim))
    deviation, mean = torch.std_mean(train, dim=dims, correction=0)
    # Rounding can leave a constant feature a deviation of the order of eps.
    constant = deviation <= 1e-6 * mean.abs()
    deviation = torch.where(constant, torch.ones_like(deviation), deviation)
    return tuple((part - mean) / deviation for part in (train, *others))
