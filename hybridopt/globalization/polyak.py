"""Polyak's step length."""

from __future__ import annotations

import math


def polyak_rate(value: float, square: float, *, c: float = 0.5, lowest: float = 0.0, noise: float = 0.0) -> float:
    """Returns the rate ``(value - lowest) / (c * square)`` of a gradient step (Loizou et al. 2021, equation 4).

    With the function's least value for `lowest` and c = 1 it is the step of Polyak 1969, which is the longest after
    which the distance to the solution of a convex function is known to shrink. On a mini-batch `lowest` bounds that
    batch's loss from below: zero for most losses without weight decay.

    Args:
        value: The function's value.
        square: Squared Euclidean norm of the gradient.
        c: Larger is shorter, > 0.
        lowest: Lower bound of the function.
        noise: Noise floor of the value, see `noise_floor`; what is not above `lowest` by more counts as reached.

    Returns:
        The rate, >= 0: zero where the bound is reached or anything is not finite, infinite where only the gradient
        vanishes.

    Example:
        >>> polyak_rate(2.0, 4.0)
        1.0
        >>> polyak_rate(2.0, 4.0, lowest=3.0)
        0.0
    """
    gap = value - lowest
    if not (math.isfinite(gap) and math.isfinite(square)) or gap <= noise:
        return 0.0
    return gap / (c * square) if c * square > 0.0 else math.inf
