"""Trust-region and cubic models solved densely, by bisection in the eigenbasis: what the Krylov solvers must reach."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def trust_region_value(A: Tensor, g: Tensor, radius: float) -> tuple[float, float]:
    """Returns the least value of g's + s'As/2 in the ball, and its multiplier (More and Sorensen 1983)."""
    return _least(A, g, lambda multiplier: radius, inside=radius)


def cubic_value(A: Tensor, g: Tensor, sigma: float) -> tuple[float, float]:
    """Returns the least value of g's + s'As/2 + sigma ||s||^3 / 3, and its multiplier sigma ||s||."""
    value, multiplier = _least(A, g, lambda multiplier: multiplier / sigma, inside=0.0)
    return value + sigma / 3 * (multiplier / sigma) ** 3, multiplier


def _least(A: Tensor, g: Tensor, length: Callable[[float], float], inside: float) -> tuple[float, float]:
    """Finds lam with A + lam I semidefinite and ||(A + lam I)^-1 g|| = length(lam); returns g's + s'As/2 and lam."""
    values, vectors = torch.linalg.eigh(A)
    slopes = vectors.T @ g
    if values[0] > 0 and inside and float((slopes / values).norm()) <= inside:
        return float(-0.5 * (slopes.square() / values).sum()), 0.0

    # In shift = lam - pole, so that nothing cancels near the pole.
    pole = min(float(values[0]), 0.0)
    gaps = values - pole
    seen = slopes.abs() > 1e-14 * slopes.norm()

    def solution(shift: float) -> Tensor:
        return torch.where(seen, -slopes / (gaps + shift), 0.0)

    low, high = 0.0, 1.0
    while float(solution(high).norm()) > length(high - pole):
        high *= 2
    for _ in range(1100):
        middle = 0.5 * (low + high)
        if float(solution(middle).norm()) > length(middle - pole):
            low = middle
        else:
            high = middle
    s = solution(high)
    missing = length(high - pole) ** 2 - float(s @ s)
    # In the hard case the rest of the length lies along the lowest eigenvector.
    hard = missing > 1e-8 * length(high - pole) ** 2
    value = float(slopes @ s + 0.5 * s @ (values * s)) + (0.5 * float(values[0]) * missing if hard else 0.0)
    return value, high - pole
