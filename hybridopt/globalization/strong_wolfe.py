"""A line search for the strong Wolfe conditions that survives walls, noise and unbounded functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hybridopt.globalization.search import (
    LineSearchResult,
    LineSearchStatus,
    check_options,
    clip,
    cubic_minimizer,
    refuse,
)
from hybridopt.globalization.trials import Trial, Trials

_MARGIN = 0.1  # trials keep this fraction of the bracket away from its ends
_STUBBORN = 2.0 / 3.0  # two trials must shrink the bracket at least to this, else it is halved
_NARROW = 1e-10  # a bracket this narrow, relative to its far end, is a point
_WALL = 1e-2  # a wall is located this well when there is no Wolfe point before it
_LEAST_GROWTH, _MOST_GROWTH = 1.1, 10.0  # bounds of an extrapolated step, in units of the last one


def strong_wolfe(
    phi: Callable[[float], tuple[float, float, Any]],
    value0: float,
    slope0: float,
    *,
    step0: float = 1.0,
    c1: float = 1e-4,
    c2: float = 0.9,
    max_step: float = 1e10,
    max_evaluations: int = 25,
    noise: float = 0.0,
) -> LineSearchResult:
    """Finds a step t with ``phi(t) <= value0 + c1 t slope0`` and ``|phi'(t)| <= c2 |slope0|``.

    Bracketing and zooming of Nocedal and Wright (2006, algorithms 3.5 and 3.6) with safeguarded cubic steps.
    Values that differ by less than `noise` count as equal, the slopes decide then and sufficient decrease is
    relaxed by `noise`: the approximate Wolfe conditions of Hager and Zhang (2005, section 2.1), with which a
    search can end at a point that the values alone are too coarse to confirm. A trial with a NaN, an infinite
    slope or the value +inf is a
    wall: the search stays before it. The value -inf ends the search.

    Args:
        phi: t -> (value, slope, payload); the payload, such as the gradient, of the accepted trial is handed
            back, so nothing has to be computed again.
        value0: phi at zero.
        slope0: Slope of phi at zero, negative.
        step0: First trial.
        c1: Constant of sufficient decrease; 0 < c1 < c2 < 1.
        c2: Constant of the slope: 0.9 for Newton and quasi-Newton directions, 0.1 for nonlinear conjugate
            gradients.
        max_step: Longest step allowed.
        max_evaluations: Most trials.
        noise: Noise floor of the value, see `noise_floor`.

    Returns:
        The result. When no trial meets both conditions it is the lowest trial (``decrease``), or step zero
        when none is lower than `value0` by more than `noise` (``no_decrease``). At ``max_step`` sufficient
        decrease holds and the slope is still steep.

    Raises:
        ConfigError: An option is out of its range.

    Example:
        >>> result = strong_wolfe(lambda t: ((t - 3.0) ** 2, 2.0 * (t - 3.0), None), 9.0, -6.0, c2=0.1)
        >>> print(result.status, round(result.step, 6), result.evaluations)
        converged 3.0 2
    """
    check_options(step0=step0, c1=c1, max_evaluations=max_evaluations, noise=noise, c2=c2, max_step=max_step)
    refused = refuse(value0, slope0)
    if refused is not None:
        return refused
    return _Search(phi, value0, slope0, c1, c2, max_step, max_evaluations, noise).run(min(step0, max_step))


class _Search(Trials):
    """One search and its conditions."""

    def run(self, step: float) -> LineSearchResult:
        """Lengthens the step until a bracket is found (algorithm 3.5), then zooms into it."""
        low = self.origin
        while self.evaluations < self.max_evaluations:
            trial = self.evaluate(step)
            if self.unbounded:
                break
            if trial.wall or self.too_high(trial, low):
                return self.zoom(low, trial)
            if self.accepted(trial):
                return self.end(trial, LineSearchStatus.CONVERGED)
            if trial.slope >= 0:
                return self.zoom(trial, low)
            if step >= self.max_step:
                return self.end(trial, LineSearchStatus.MAX_STEP)
            step = min(self.extrapolate(low, trial), self.max_step)
            low = trial
        return self.fall_back()

    def zoom(self, low: Trial, high: Trial) -> LineSearchResult:
        """Narrows a bracket (algorithm 3.6).

        Args:
            low: Its lower end, which meets sufficient decrease and whose slope points to the other end.
            high: Its other end: too high, a wall, or beyond the minimiser.
        """
        walls = 1 if high.wall else 0
        widths = [math.inf, math.inf]
        while self.evaluations < self.max_evaluations:
            width = abs(high.step - low.step)
            reach = max(high.step, low.step)
            if width <= _NARROW * reach or (high.wall and low is not self.origin and width <= _WALL * reach):
                break
            if high.wall:
                # The wall may be orders of magnitude nearer than the trial that hit it: shrink ever faster.
                fraction = 0.5 ** min(2 ** (walls - 1), 8)
                step = low.step + fraction * (high.step - low.step)
            else:
                halve = width > _STUBBORN * widths[-2]
                step = 0.5 * (low.step + high.step) if halve else self.interpolate(low, high)
                widths.append(width)
            trial = self.evaluate(step)
            if self.unbounded:
                break
            if trial.wall:
                walls += 1
                high = trial
                continue
            walls = 1
            if self.too_high(trial, low):
                high = trial
                continue
            if self.accepted(trial):
                return self.end(trial, LineSearchStatus.CONVERGED)
            if trial.slope * (high.step - low.step) >= 0:
                high = low
            low = trial
        return self.fall_back()

    def too_high(self, trial: Trial, low: Trial) -> bool:
        """Whether the trial ends a bracket by its value; within the noise that is left to the slope."""
        ceiling = self.origin.value + self.c1 * trial.step * self.origin.slope + self.noise
        if trial.value > ceiling:
            return True
        return low is not self.origin and trial.value >= low.value + self.noise

    def accepted(self, trial: Trial) -> bool:
        """The slope condition; `too_high` has already confirmed sufficient decrease up to noise."""
        return abs(trial.slope) <= self.c2 * -self.origin.slope

    def extrapolate(self, low: Trial, trial: Trial) -> float:
        """Next step beyond a trial at which the function still falls."""
        step = cubic_minimizer(low.step, low.value, low.slope, trial.step, trial.value, trial.slope)
        longest = _MOST_GROWTH * trial.step
        # No minimiser ahead: the cubic falls on, so go as far as is allowed.
        return clip(step, _LEAST_GROWTH * trial.step, longest) if step > trial.step else longest

    def interpolate(self, low: Trial, high: Trial) -> float:
        """Next step inside a bracket: minimiser of the cubic, or the zero of the secant of slopes."""
        if abs(high.value - low.value) <= self.noise and high.slope * low.slope < 0:
            step = low.step - low.slope * (high.step - low.step) / (high.slope - low.slope)
        else:
            step = cubic_minimizer(low.step, low.value, low.slope, high.step, high.value, high.slope)
        left, right = min(low.step, high.step), max(low.step, high.step)
        margin = _MARGIN * (right - left)
        return clip(step, left + margin, right - margin)
