"""The line search of CG_DESCENT, which ends where values no longer tell points apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hybridopt.core.errors import ConfigError
from hybridopt.globalization.search import LineSearchResult, LineSearchStatus, check_options, refuse
from hybridopt.globalization.trials import Trial, Trials

_THETA = 0.5  # where an interval is cut (step U3)
_GAMMA = 2.0 / 3.0  # an iteration shrinks its interval to this, or it is halved
_RHO = 5.0  # growth of the interval while it brackets nothing
_NARROW = 1e-12  # an interval this narrow, relative to its far end, is a point


class _Ended(Exception):
    """Leaves the nested steps of the algorithm as soon as a trial ends the search; never leaves this module."""

    def __init__(self, trial: Trial | None, status: LineSearchStatus) -> None:
        super().__init__(status)
        self.trial, self.status = trial, status


def hager_zhang(
    phi: Callable[[float], tuple[float, float, Any]],
    value0: float,
    slope0: float,
    *,
    step0: float = 1.0,
    c1: float = 0.1,
    c2: float = 0.9,
    max_step: float = 1e10,
    max_evaluations: int = 50,
    noise: float = 0.0,
) -> LineSearchResult:
    """Finds a step that meets the Wolfe or the approximate Wolfe conditions (Hager and Zhang 2005, 2006).

    Wolfe: ``phi(t) <= value0 + c1 t slope0`` and ``phi'(t) >= c2 slope0``. Approximate Wolfe, by which a search ends
    where values are too coarse: ``phi(t) <= value0 + noise`` and ``(2 c1 - 1) slope0 >= phi'(t) >= c2 slope0``.
    Bracketing, updating and the double secant step are those of Hager and Zhang 2006 (Algorithm 851), sections 3
    and 4. They let the value rise by 1e-6 |value0|; here it rises by `noise` at most. A trial with a NaN, an
    infinite slope or the value +inf is a wall: the search stays before it. The value -inf ends the search.

    Args:
        phi: t -> (value, slope, payload); the payload, such as the gradient, of the accepted trial is handed back.
        value0: phi at zero.
        slope0: Slope of phi at zero, negative.
        step0: First trial; `first_step` and `next_step` propose one.
        c1: Constant of sufficient decrease, in (0, 1/2).
        c2: Constant of the slope, in [c1, 1).
        max_step: Longest step allowed.
        max_evaluations: Most trials.
        noise: Noise floor of the value, see `noise_floor`.

    Returns:
        The result. When no trial meets the conditions it is the lowest trial (``decrease``), or step zero when none
        is lower than `value0` by more than `noise` (``no_decrease``). At ``max_step`` sufficient decrease holds and
        the slope is still steep.

    Raises:
        ConfigError: An option is out of its range.

    Example:
        >>> result = hager_zhang(lambda t: ((t - 3.0) ** 2, 2.0 * (t - 3.0), None), 9.0, -6.0, step0=6)
        >>> print(result.status, round(result.step, 6), result.evaluations)
        converged 3.0 2
    """
    check_options(step0=step0, c1=c1, max_evaluations=max_evaluations, noise=noise, max_step=max_step)
    if not (c1 < 0.5 and c1 <= c2 < 1):
        raise ConfigError(f"hager_zhang needs c1 < 0.5 and c1 <= c2 < 1, got c1={c1}, c2={c2}; 0.1 and 0.9 are usual.")
    refused = refuse(value0, slope0)
    if refused is not None:
        return refused
    return _Search(phi, value0, slope0, c1, c2, max_step, max_evaluations, noise).run(min(step0, max_step))


def first_step(value: float, slope_norm: float, position: float, *, fraction: float = 0.01) -> float:
    """Returns the first trial of a first iteration along the negative gradient (Hager and Zhang 2006, step I0).

    Args:
        value: The function.
        slope_norm: Largest absolute entry of the gradient, > 0.
        position: Largest absolute entry of the point.
        fraction: By how much of itself the point, or else the value, is to change: psi_0.
    """
    if position > 0:
        return fraction * position / slope_norm
    return fraction * abs(value) / slope_norm**2 if value != 0 else 1.0 / slope_norm


def next_step(
    value_at: Callable[[float], float],
    value0: float,
    slope0: float,
    previous: float,
    *,
    shorten: float = 0.1,
    lengthen: float = 2.0,
) -> float:
    """Returns the first trial of a later iteration (Hager and Zhang 2006, steps I1 and I2).

    The minimiser of the parabola through value and slope at zero and the value at a fraction of the last step,
    where that parabola is convex and the value there no higher; otherwise a multiple of the last step.

    Args:
        value_at: t -> value; called once.
        value0: Value at zero.
        slope0: Slope at zero, negative.
        previous: The step of the iteration before, > 0.
        shorten: Where the value is taken, in units of that step: psi_1.
        lengthen: The multiple, > 1: psi_2.
    """
    probe = shorten * previous
    value = value_at(probe)
    if probe * probe > 0 and math.isfinite(value) and value <= value0:
        curvature = 2.0 * (value - value0 - slope0 * probe) / (probe * probe)
        if curvature > 0 and math.isfinite(curvature) and -slope0 / curvature > 0:
            return -slope0 / curvature
    return lengthen * previous


class _Search(Trials):
    """One search; a, b are the ends of the interval: the opposite slope condition (4.4) of the paper holds."""

    def run(self, step: float) -> LineSearchResult:
        """Brackets, then narrows the interval until a trial is accepted (the paper's L0 to L3)."""
        try:
            a, b = self.bracket(step)
            while b.step - a.step > _NARROW * b.step:
                width = b.step - a.step
                a, b = self.double_secant(a, b)
                if b.step - a.step > _GAMMA * width:
                    a, b = self.update(a, b, 0.5 * (a.step + b.step))
        except _Ended as ended:
            if ended.trial is not None:
                return self.end(ended.trial, ended.status)
        return self.fall_back()

    def attempt(self, step: float) -> Trial:
        """Evaluates a trial; leaves the search when it is accepted or nothing more is allowed."""
        if self.evaluations >= self.max_evaluations:
            raise _Ended(None, LineSearchStatus.DECREASE)
        trial = self.evaluate(step)
        if self.unbounded:
            raise _Ended(self.best or self.origin, LineSearchStatus.UNBOUNDED)
        if not trial.wall and self.accepted(trial):
            raise _Ended(trial, LineSearchStatus.CONVERGED)
        return trial

    def accepted(self, trial: Trial) -> bool:
        """The Wolfe conditions T1, or the approximate ones T2."""
        value0, slope0 = self.origin.value, self.origin.slope
        if not trial.slope >= self.c2 * slope0:
            return False
        # A decrease that is lost in the rounding of the value is none.
        if trial.value <= value0 + self.c1 * trial.step * slope0 < value0:
            return True
        return trial.value <= value0 + self.noise and trial.slope <= (2 * self.c1 - 1) * slope0

    def low(self, trial: Trial) -> bool:
        """Whether a trial's value is no higher than at zero, up to noise."""
        return trial.value <= self.origin.value + self.noise

    def bracket(self, step: float) -> tuple[Trial, Trial]:
        """Lengthens the step until an interval is found (B0 to B3)."""
        a = self.origin
        while True:
            trial = self.attempt(step)
            if trial.wall or (trial.slope < 0 and not self.low(trial)):
                return self.cut(a if trial.wall else self.origin, trial)
            if trial.slope >= 0:
                return a, trial
            a = trial
            if step >= self.max_step:
                raise _Ended(trial, LineSearchStatus.MAX_STEP)
            step = min(_RHO * step, self.max_step)

    def update(self, a: Trial, b: Trial, step: float) -> tuple[Trial, Trial]:
        """Narrows the interval by a trial inside it (U0 to U3)."""
        if not a.step < step < b.step:
            return a, b
        trial = self.attempt(step)
        if trial.wall or (trial.slope < 0 and not self.low(trial)):
            return self.cut(a, trial)
        return (a, trial) if trial.slope >= 0 else (trial, b)

    def cut(self, a: Trial, b: Trial) -> tuple[Trial, Trial]:
        """Cuts an interval with a too high end until its far end slopes upwards (U3)."""
        walls = 0
        while b.step - a.step > _NARROW * b.step:
            # A wall may be orders of magnitude nearer than the trial that hit it: shrink ever faster.
            walls = walls + 1 if b.wall else 0
            fraction = _THETA ** min(2 ** (walls - 1), 8) if walls else _THETA
            trial = self.attempt(a.step + fraction * (b.step - a.step))
            if trial.wall:
                b = trial
            elif trial.slope >= 0:
                return a, trial
            elif self.low(trial):
                a, walls = trial, 0
            else:
                b = trial
        return a, b

    def double_secant(self, a: Trial, b: Trial) -> tuple[Trial, Trial]:
        """Narrows the interval by one secant step and, if that moved an end, another one from that end (S1 to S4)."""
        step = _secant(a, b)
        low, high = self.update(a, b, step)
        if high.step == step:
            step = _secant(b, high)
        elif low.step == step:
            step = _secant(a, low)
        else:
            return low, high
        return self.update(low, high, step)


def _secant(a: Trial, b: Trial) -> float:
    """Zero of the line through two slopes; NaN, which no interval holds, where there is none."""
    difference = b.slope - a.slope
    return (a.step * b.slope - b.step * a.slope) / difference if difference != 0 else math.nan
