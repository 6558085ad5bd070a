"""The exact solution of a trust-region subproblem in coordinates in which the matrix is diagonal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_ITERATIONS = 100  # far more than Newton's method on the secular equation takes


@dataclass(frozen=True, slots=True)
class DiagonalSolution:
    """Minimiser of ``g'p + p'Lp/2`` over ``||p|| <= radius`` for a diagonal L.

    Attributes:
        step: p, shape (k,), float64.
        shift: The multiplier, >= 0: ``(L + shift) p = -g`` with ``L + shift`` positive semidefinite.
        decrease: By how much the model is lower at p than at zero, >= 0.
        at_boundary: Whether p lies on the boundary.
    """

    step: Tensor
    shift: float
    decrease: float
    at_boundary: bool


def minimize_diagonal(values: Tensor, gradient: Tensor, radius: float) -> DiagonalSolution:
    """Solves the trust-region subproblem of a diagonal matrix (More and Sorensen 1983), hard case included.

    Newton's method on ``1 / ||p(shift)|| - 1 / radius``, which is nearly linear, safeguarded by an interval that always
    holds the root.

    Args:
        values: The diagonal, shape (k,), in any order, float64, finite.
        gradient: g in those coordinates, shape (k,), float64, finite.
        radius: Positive.

    Example:
        >>> solution = minimize_diagonal(torch.tensor([1.0, -1.0]).double(), torch.tensor([1.0, 0.0]).double(), 2.0)
        >>> solution.shift, [round(float(entry), 6) for entry in solution.step]
        (1.0, [-0.5, 1.936492])
    """
    lowest = float(values.min())
    if lowest > 0:
        step = -gradient / values
        if float(torch.linalg.vector_norm(step)) <= radius:
            return _solution(values, gradient, step, 0.0, at_boundary=False)
    length = float(torch.linalg.vector_norm(gradient))
    # The length falls in the shift; at `low` it may be infinite, at `high` it is within the radius.
    low = max(0.0, -lowest)
    high = max(length / radius - lowest, low)
    tiny = torch.finfo(torch.float64).eps * max(float(values.abs().max()), length / radius, 1e-300)
    leftmost = values - lowest <= tiny
    if lowest <= 0 and float(torch.linalg.vector_norm(gradient[leftmost])) <= 1e-14 * length:
        others = torch.where(leftmost, torch.zeros_like(gradient), -gradient / (values + low).clamp(min=tiny))
        short = float(torch.linalg.vector_norm(others))
        if short <= radius:
            # The hard case: the rest of the length is free to go along the leftmost eigenvector.
            step = others.clone()
            if lowest < 0:
                place = int(torch.nonzero(leftmost)[0])
                sign = -1.0 if float(gradient[place]) > 0 else 1.0
                step[place] += sign * math.sqrt(radius * radius - short * short)
            return _solution(values, gradient, step, low, at_boundary=lowest < 0)
    shift = max(low + tiny, min(high, length / radius - lowest))
    for _ in range(_ITERATIONS):
        shifted = values + shift
        step = -gradient / shifted
        size = float(torch.linalg.vector_norm(step))
        if not math.isfinite(size) or size > radius:
            low = shift
        else:
            high = shift
        if abs(size - radius) <= 1e-12 * radius or high - low <= 1e-15 * max(high, 1e-300):
            break
        bend = float((step * step / shifted).sum())
        trial = shift + (size - radius) / radius * size * size / bend if bend > 0 else math.nan
        shift = trial if low < trial < high else 0.5 * (low + high)
    size = float(torch.linalg.vector_norm(step))
    # A gradient whose square overflows leaves no step at all.
    step = step * min(1.0, radius / size) if size > 0 else torch.zeros_like(gradient)
    return _solution(values, gradient, step, shift, at_boundary=True)


def _solution(values: Tensor, gradient: Tensor, step: Tensor, shift: float, *, at_boundary: bool) -> DiagonalSolution:
    decrease = -float(torch.dot(gradient, step) + 0.5 * torch.dot(values * step, step))
    return DiagonalSolution(step, shift, max(decrease, 0.0), at_boundary)
