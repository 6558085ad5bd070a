"""Backtracking to sufficient decrease."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hybridopt.core.errors import ConfigError
from hybridopt.globalization.search import (
    LineSearchResult,
    LineSearchStatus,
    check_options,
    clip,
    quadratic_minimizer,
    refuse,
)

_LEAST_SHRINK = 0.1  # an interpolated step is at least this fraction of the one before


def armijo(
    phi: Callable[[float], float | tuple[float, Any]],
    value0: float,
    slope0: float,
    *,
    step0: float = 1.0,
    c1: float = 1e-4,
    shrink: float = 0.5,
    max_evaluations: int = 25,
    noise: float = 0.0,
    interpolate: bool = True,
) -> LineSearchResult:
    """Shortens the step until the function falls enough (Armijo 1966).

    The step t is taken when ``phi(t) <= value0 + c1 t slope0 + noise``. A trial that is NaN or infinite, of
    either sign, counts as a wall: the step is shortened by `shrink` alone. Nothing that phi returns leads to
    an exception.

    Args:
        phi: t -> value, or t -> (value, payload); the payload of the accepted trial is handed back.
        value0: phi at zero.
        slope0: Directional derivative of phi at zero, negative.
        step0: First trial.
        c1: Constant of sufficient decrease, in (0, 1).
        shrink: Factor by which a rejected step is shortened at least, in (0, 1).
        max_evaluations: Most trials.
        noise: Noise floor of the value, see `noise_floor`; differences below it do not count.
        interpolate: Next trial at the minimiser of the parabola (after the first rejection) or cubic (later)
            through what is known, within [0.1, `shrink`] of the last one (Nocedal and Wright 2006, section
            3.5); by `shrink` otherwise.

    Returns:
        The result, ``converged``, ``no_decrease``, ``not_descent`` or ``non_finite``. Unless it converged the
        step is zero and the value is `value0`.

    Raises:
        ConfigError: An option is out of its range.

    Example:
        >>> result = armijo(lambda t: (t - 0.2) ** 2, 0.04, -0.4)
        >>> print(result.status, round(result.step, 6), result.evaluations)
        converged 0.2 2
    """
    check_options(step0=step0, c1=c1, max_evaluations=max_evaluations, noise=noise)
    if not 0 < shrink < 1:
        raise ConfigError(f"shrink must lie between 0 and 1, got {shrink}; 0.5 is usual.")
    refused = refuse(value0, slope0)
    if refused is not None:
        return refused
    least = min(_LEAST_SHRINK, shrink)
    events: list[dict[str, Any]] = []
    step = step0
    previous: tuple[float, float] | None = None
    for evaluation in range(1, max_evaluations + 1):
        trial = phi(step)
        value, payload = trial if isinstance(trial, tuple) else (trial, None)
        value = float(value)
        if math.isfinite(value):
            if value <= value0 + c1 * step * slope0 + noise:
                return LineSearchResult(step, value, None, payload, evaluation, LineSearchStatus.CONVERGED, events)
            factor = shrink
            if interpolate:
                factor = clip(_interpolated(value0, slope0, step, value, previous) / step, least, shrink)
            previous = (step, value)
            step *= factor
        else:
            events.append({"event": "non_finite_trial", "step": step})
            step *= shrink
        if step == 0.0:
            break
    return LineSearchResult(0.0, value0, slope0, None, evaluation, LineSearchStatus.NO_DECREASE, events)


def _interpolated(
    value0: float, slope0: float, step: float, value: float, previous: tuple[float, float] | None
) -> float:
    """Minimiser of the parabola or, with a previous trial, of the cubic through all that is known."""
    if previous is None:
        return quadratic_minimizer(value0, slope0, step, value)
    # phi(t) = value0 + slope0 t + b t^2 + a t^3 through both trials (Nocedal and Wright 2006, section 3.5).
    t0, t1 = previous[0], step
    if t0 * t0 == 0.0 or t1 * t1 == 0.0:
        return math.nan
    r0 = (previous[1] - value0 - slope0 * t0) / (t0 * t0)
    r1 = (value - value0 - slope0 * t1) / (t1 * t1)
    a = (r1 - r0) / (t1 - t0)
    b = r1 - a * t1
    square = b * b - 3.0 * a * slope0
    if not (math.isfinite(square) and square >= 0):
        return quadratic_minimizer(value0, slope0, step, value)
    denominator = b + math.sqrt(square)  # the root in the form that also holds for a = 0
    return -slope0 / denominator if denominator > 0 else math.nan
