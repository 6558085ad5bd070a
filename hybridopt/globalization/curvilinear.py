"""Search along a curve that joins a descent direction with one of negative curvature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hybridopt.core.errors import ConfigError
from hybridopt.globalization.search import LineSearchResult, LineSearchStatus, check_options


def curvilinear(
    phi: Callable[[float], float],
    value0: float,
    slope: float,
    curvature: float,
    *,
    step0: float = 1.0,
    c1: float = 1e-4,
    shrink: float = 0.5,
    expand: int = 0,
    max_evaluations: int = 25,
    noise: float = 0.0,
) -> LineSearchResult:
    """Backtracks along ``x(t) = x + t^2 s + t d`` (McCormick 1977; More and Sorensen 1979).

    s descends (g's <= 0), and d does not ascend (g'd <= 0) and has negative curvature (or is zero). For small t the
    curve follows d, which is why it leaves a saddle where s alone would vanish. A step is taken when ``f(x(t)) <= f(x)
    + c1 t^2 (g's + d'Hd / 2) + noise``: the first-order term of d is not counted on, as in More and Sorensen's (2.4).
    Goldfarb 1980 studies the same test on other curves.

    Args:
        phi: t -> value on the curve.
        value0: The function at t = 0.
        slope: g's, <= 0.
        curvature: d'Hd, <= 0; not both may be zero.
        step0: First trial.
        c1: Constant of sufficient decrease, in (0, 1).
        shrink: Factor by which a rejected step is shortened, in (0, 1).
        expand: How often an accepted first trial may be doubled while the function falls; the length of d means little.
        max_evaluations: Most trials.
        noise: Noise floor of the value, see `noise_floor`.

    Returns:
        The result, ``converged``, ``no_decrease``, ``not_descent`` or ``non_finite``; its slope is None.

    Raises:
        ConfigError: An option is out of its range.

    Example:
        >>> result = curvilinear(lambda t: -t * t + t**4, 0.0, 0.0, -2.0)  # the saddle of x^2 - y^2 + y^4 along y
        >>> result.status.value, result.step, result.value
        ('converged', 0.5, -0.1875)
    """
    check_options(step0=step0, c1=c1, max_evaluations=max_evaluations, noise=noise)
    if not 0 < shrink < 1:
        raise ConfigError(f"shrink must lie between 0 and 1, got {shrink}; 0.5 is usual.")
    expected = slope + 0.5 * curvature
    if not (math.isfinite(value0) and math.isfinite(expected)):
        return LineSearchResult(0.0, value0, None, None, 0, LineSearchStatus.NON_FINITE)
    if not (slope <= 0 and curvature <= 0 and expected < 0):
        return LineSearchResult(0.0, value0, None, None, 0, LineSearchStatus.NOT_DESCENT)
    events: list[dict[str, Any]] = []
    step, evaluations = step0, 0
    while evaluations < max_evaluations and step > 0.0:
        value = float(phi(step))
        evaluations += 1
        if not math.isfinite(value):
            events.append({"event": "non_finite_trial", "step": step})
        elif value <= value0 + c1 * step * step * expected + noise:
            while step >= step0 and expand > 0:
                expand -= 1
                further = float(phi(2 * step))
                evaluations += 1
                if not (math.isfinite(further) and further < value):
                    break
                step, value = 2 * step, further
            return LineSearchResult(step, value, None, None, evaluations, LineSearchStatus.CONVERGED, events)
        step *= shrink
    return LineSearchResult(0.0, value0, None, None, evaluations, LineSearchStatus.NO_DECREASE, events)
