"""What a line search hands back, and what all of them need."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hybridopt.core.errors import ConfigError


class LineSearchStatus(StrEnum):
    """How a line search ended. Members are strings: ``result.status == "converged"`` holds.

    Attributes:
        CONVERGED: The step meets the conditions of the search.
        DECREASE: The function is lower at the step, but no point that meets all conditions was found.
        MAX_STEP: The function still falls at the longest step allowed, which is the step returned.
        UNBOUNDED: The function is minus infinity at a trial; the step is the best finite one, possibly zero.
        NO_DECREASE: No step was found that lowers the function; the step is zero.
        NOT_DESCENT: The slope at zero is not negative; nothing was evaluated, the step is zero.
        NON_FINITE: Value or slope at zero is not finite; nothing was evaluated, the step is zero.
    """

    CONVERGED = "converged"
    DECREASE = "decrease"
    MAX_STEP = "max_step"
    UNBOUNDED = "unbounded"
    NO_DECREASE = "no_decrease"
    NOT_DESCENT = "not_descent"
    NON_FINITE = "non_finite"


@dataclass(slots=True)
class LineSearchResult:
    """The end of a line search.

    Attributes:
        step: The step length, >= 0. Zero means: stay.
        value: The function value there (the starting value for step zero), always the finite one that was
            computed.
        slope: The directional derivative there, or None where the search knows none.
        payload: What the function gave beside value and slope at this very step, or None.
        evaluations: Trials evaluated.
        status: How the search ended, a `LineSearchStatus`.
        events: What happened on the way, dicts with a key ``event``, such as
            ``{"event": "non_finite_trial", "step": 1.0}``.
    """

    step: float
    value: float
    slope: float | None
    payload: Any
    evaluations: int
    status: LineSearchStatus
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def success(self) -> bool:
        """Whether the step is worth taking: it is positive."""
        return self.step > 0


def refuse(value0: float, slope0: float) -> LineSearchResult | None:
    """Returns the result of a search that cannot start, or None when it can.

    Args:
        value0: Function value at zero.
        slope0: Directional derivative at zero.
    """
    if math.isfinite(value0) and math.isfinite(slope0):
        if slope0 < 0:
            return None
        status = LineSearchStatus.NOT_DESCENT
    else:
        status = LineSearchStatus.NON_FINITE
    return LineSearchResult(0.0, value0, slope0, None, 0, status)


def check_options(
    *,
    step0: float,
    c1: float,
    max_evaluations: int,
    noise: float,
    c2: float | None = None,
    max_step: float = math.inf,
) -> None:
    """Checks the options that searches have in common.

    Args:
        step0: First trial step.
        c1: Constant of sufficient decrease.
        max_evaluations: Most trials.
        noise: Noise floor of the value.
        c2: Constant of the slope, which must exceed `c1`; None where there is none, or another rule for it.
        max_step: Longest step allowed.

    Raises:
        ConfigError: One of them is out of its range.
    """
    if not 0 < step0 < math.inf:
        raise ConfigError(f"step0 must be a positive number, got {step0}.")
    if not 0 < c1 < 1:
        raise ConfigError(f"c1 must lie between 0 and 1, got {c1}; 1e-4 is usual.")
    if max_evaluations < 1:
        raise ConfigError(f"max_evaluations must be at least 1, got {max_evaluations}.")
    if not 0 <= noise < math.inf:
        raise ConfigError(f"noise must be a number >= 0, got {noise}; see noise_floor.")
    if c2 is not None and not c1 < c2 < 1:
        raise ConfigError(f"c2 must lie between c1 and 1, got c1={c1}, c2={c2}; 1e-4 and 0.9 are usual.")
    if not max_step > 0:
        raise ConfigError(f"max_step must be > 0, got {max_step}.")


def quadratic_minimizer(value0: float, slope0: float, step: float, value: float) -> float:
    """Returns the minimiser of the parabola through ``(0, value0)`` with `slope0` and ``(step, value)``.

    Args:
        value0: Value at zero.
        slope0: Slope at zero.
        step: Another place.
        value: Value there.

    Returns:
        The minimiser (Nocedal and Wright 2006, eq. 3.58); NaN when the parabola has none.
    """
    curvature = 2.0 * (value - value0 - slope0 * step)
    return -slope0 * step * step / curvature if curvature > 0 else math.nan


def cubic_minimizer(a: float, fa: float, ga: float, b: float, fb: float, gb: float) -> float:
    """Returns the local minimiser of the cubic with given values and slopes at a and b.

    Args:
        a: One place.
        fa: Value at a.
        ga: Slope at a.
        b: Another place.
        fb: Value at b.
        gb: Slope at b.

    Returns:
        The minimiser (Nocedal and Wright 2006, eq. 3.59); NaN when the cubic has none.
    """
    d1 = ga + gb - 3.0 * (fa - fb) / (a - b)
    scale = max(abs(d1), abs(ga), abs(gb))
    if not 0 < scale < math.inf:
        return math.nan
    square = (d1 / scale) ** 2 - (ga / scale) * (gb / scale)  # scaled, or squares overflow
    if square < 0:
        return math.nan
    d2 = math.copysign(scale * math.sqrt(square), b - a)
    denominator = gb - ga + 2.0 * d2
    return b - (b - a) * (gb + d2 - d1) / denominator if denominator != 0 else math.nan


def clip(x: float, low: float, high: float) -> float:
    """Returns x moved into ``[low, high]``; NaN becomes the middle.

    Args:
        x: A number or NaN.
        low: Lower end.
        high: Upper end.
    """
    return min(max(x, low), high) if math.isfinite(x) else 0.5 * (low + high)
