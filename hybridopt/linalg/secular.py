"""Trust-region and cubic models in few dimensions, minimised exactly in the eigenbasis of their matrix.

Both minimisers solve ``(T + lam I) h = -c`` with ``T + lam I`` positive semidefinite, where ``lam`` is tied to the
length of h: it is the multiplier of ``||h|| <= radius``, or ``sigma ||h||`` (Conn, Gould and Toint 2000, corollary
7.2.2; Cartis, Gould and Toint 2011, theorem 3.1). The unknown here is the shift ``lam - pole`` with
``pole = min(theta_1, 0)``, theta_1 the smallest eigenvalue: how far beyond the pole lam lies. It and the gaps between
eigenvalues are known to full relative accuracy, so the nearly hard case is not special, and the hard case is the one
in which c has no component at all along the eigenvectors of theta_1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_TOLERANCE = 1e-13  # relative error of the secular equation
_MOST_NEWTON_STEPS = 200


@dataclass(slots=True)
class SmallMinimizer:
    """The global minimiser of a small model.

    Attributes:
        coefficients: h in the eigenbasis, shape (m,).
        multiplier: lam >= 0.
        norm: ``||h||``.
        decrease: By how much the model is lower than at zero, summed from non-negative terms.
        at_boundary: Whether ``||h|| = radius`` holds as a constraint; False for cubic models.
        hard: Whether a multiple of the lowest eigenvector had to be added.
    """

    coefficients: np.ndarray
    multiplier: float
    norm: float
    decrease: float
    at_boundary: bool = False
    hard: bool = False


def trust_region_minimizer(
    values: np.ndarray, slopes: np.ndarray, radius: float, *, noise: float = 0.0
) -> SmallMinimizer:
    """Minimises ``c'h + h'Th/2`` over ``||h|| <= radius`` (More and Sorensen 1983).

    Args:
        values: Eigenvalues of T, ascending, shape (m,).
        slopes: c in the eigenbasis, shape (m,).
        radius: > 0.
        noise: Only below minus this is a smallest eigenvalue negative enough to be followed in the hard case.

    Returns:
        The minimiser.
    """
    lowest = float(values[0])
    if lowest > 0:
        h = -slopes / values
        norm = float(np.linalg.norm(h))
        if norm <= radius:
            return SmallMinimizer(h, 0.0, norm, 0.5 * float(slopes @ -h))
    pole = min(lowest, 0.0)
    gaps, sizes = values - pole, np.abs(slopes)
    # At this shift some component alone is as long as the radius: a bound from below.
    shift = max(float((sizes / radius - gaps).max()), 0.0)
    h = _solve(gaps, slopes, shift)
    norm = float(np.linalg.norm(h))
    if shift == 0.0 and norm < radius:
        return _hard(h, norm, slopes, pole, radius, noise, cubic=False)
    # 1/||h|| is concave and increases with the shift: Newton's steps from the left never pass the root.
    for _ in range(_MOST_NEWTON_STEPS):
        if norm <= radius * (1 + _TOLERANCE):
            break
        step = (norm - radius) / radius * norm * norm / _weight(h, gaps, shift)
        if not shift + step > shift:
            break
        shift += step
        h = _solve(gaps, slopes, shift)
        norm = float(np.linalg.norm(h))
    multiplier = shift - pole
    decrease = 0.5 * (float(slopes @ -h) + multiplier * norm * norm)
    return SmallMinimizer(h, multiplier, norm, decrease, at_boundary=True)


def cubic_minimizer(values: np.ndarray, slopes: np.ndarray, sigma: float, *, noise: float = 0.0) -> SmallMinimizer:
    """Minimises ``c'h + h'Th/2 + sigma ||h||^3 / 3`` (Cartis, Gould and Toint 2011, section 6.1).

    Args:
        values: Eigenvalues of T, ascending, shape (m,).
        slopes: c in the eigenbasis, shape (m,).
        sigma: > 0.
        noise: Only below minus this is a smallest eigenvalue negative enough to be followed in the hard case.

    Returns:
        The minimiser; `decrease` is that of the cubic model.
    """
    pole = min(float(values[0]), 0.0)
    gaps, sizes = values - pole, np.abs(slopes)
    # Per component: the root of (gap + shift) (shift - pole) = sigma |c|, where |h_j| alone is lam / sigma.
    b, q = gaps - pole, gaps * pole + sigma * sizes
    total = b + np.sqrt(np.maximum(b * b + 4.0 * q, 0.0))
    shift = max(float((2.0 * q / np.where(total > 0, total, 1.0)).max()), 0.0)
    h = _solve(gaps, slopes, shift)
    norm = float(np.linalg.norm(h))
    if shift == 0.0 and sigma * norm <= -pole:
        return _hard(h, norm, slopes, pole, -pole / sigma, noise, cubic=True)
    # 1/||h|| - sigma / lam is concave and increasing too.
    for _ in range(_MOST_NEWTON_STEPS):
        multiplier = shift - pole
        if sigma * norm <= multiplier * (1 + _TOLERANCE):
            break
        step = (sigma / multiplier - 1.0 / norm) / (_weight(h, gaps, shift) / norm**3 + sigma / multiplier**2)
        if not shift + step > shift:
            break
        shift += step
        h = _solve(gaps, slopes, shift)
        norm = float(np.linalg.norm(h))
    multiplier = shift - pole
    return SmallMinimizer(h, multiplier, norm, 0.5 * float(slopes @ -h) + multiplier * norm * norm / 6.0)


def _hard(
    h: np.ndarray, norm: float, slopes: np.ndarray, pole: float, length: float, noise: float, *, cubic: bool
) -> SmallMinimizer:
    """No component of c along the lowest eigenvectors: their multiple that gives h its length is free."""
    inner = 0.5 * float(slopes @ -h)
    if pole >= -noise:
        return SmallMinimizer(h, 0.0, norm, inner)
    h = h.copy()
    h[0] = math.sqrt(max(length * length - norm * norm, 0.0))
    inner += -pole * length * length * (1.0 / 6.0 if cubic else 0.5)
    return SmallMinimizer(h, -pole, length, inner, at_boundary=not cubic, hard=True)


def _solve(gaps: np.ndarray, slopes: np.ndarray, shift: float) -> np.ndarray:
    """-c / (gap + shift), where 0 / 0 is 0."""
    poles = gaps + shift
    return np.where(slopes == 0.0, 0.0, -slopes / np.where(poles > 0, poles, 1.0))


def _weight(h: np.ndarray, gaps: np.ndarray, shift: float) -> float:
    """Returns sum h^2 / (gap + shift), the slope of -||h||^2 / 2 in the shift."""
    poles = gaps + shift
    return float((h * h / np.where(poles > 0, poles, 1.0)).sum())
