"""Seeded, class-stratified splits, and standardization by the training set's statistics."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import pairwise

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


def partition(samples: int, shares: Sequence[float], seed: int, *, labels: Tensor | None = None) -> list[Tensor]:
    """Splits ``range(samples)`` at random into disjoint parts that together hold every sample.

    Args:
        samples: How many samples there are.
        shares: Share of each part; they sum to 1.
        seed: Decides who goes where.
        labels: Class of each sample, shape (samples,), integer. When given, every class is split by the same shares,
            up to one sample; the sizes of the parts are the same as without.

    Returns:
        Positions of each part, shuffled, int64.

    Raises:
        DataError: If the shares do not sum to 1, the labels do not fit, or a part would be empty.
    """
    if any(share < 0 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise DataError(f"The shares of a split must be at least 0 and sum to 1, not {tuple(shares)}.")
    if labels is not None and labels.shape != (samples,):
        raise DataError(f"There are {samples} samples but labels of shape {tuple(labels.shape)}: one each is needed.")
    rng = generator(seed, "partition")
    order = torch.randperm(samples, generator=rng)
    groups = [order] if labels is None else [order[labels[order] == value] for value in labels.unique()]
    bounds = _bounds([len(group) for group in groups], shares)
    joined = [
        torch.cat([group[i:j] for group, i, j in zip(groups, starts, stops, strict=True)] or [order[:0]])
        for starts, stops in pairwise(bounds)
    ]
    if any(len(part) == 0 for part in joined):
        raise DataError(
            f"{samples} samples are too few for the shares {tuple(shares)}: a part would be empty. Use more data."
        )
    # Otherwise a part is sorted by class, and a batch taken in order would be of one class.
    return [part[torch.randperm(len(part), generator=rng)] for part in joined]


def _bounds(counts: Sequence[int], shares: Sequence[float]) -> list[list[int]]:
    """Where each part begins and ends within each group: rounded so that the parts have their exact total sizes."""
    bounds, cumulative = [[0] * len(counts)], 0.0
    for share in shares[:-1]:
        cumulative += share
        exact = [cumulative * count for count in counts]
        ends = [math.floor(value) for value in exact]
        missing = round(cumulative * sum(counts)) - sum(ends)
        by_remainder = sorted(range(len(counts)), key=lambda i: ends[i] - exact[i])
        for i in by_remainder[:missing]:
            ends[i] += 1
        bounds.append([max(pair) for pair in zip(ends, bounds[-1], strict=True)])
    return [*bounds, list(counts)]


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
