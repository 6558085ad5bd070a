"""Line searches that let the function rise now and then: sufficient decrease below an earlier value."""

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
    cubic_minimizer,
    quadratic_minimizer,
    refuse,
)
from hybridopt.globalization.trials import Trial, Trials

_MARGIN = 0.1  # trials keep this fraction of the bracket away from its ends
_GROWTH = 5.0  # factor of a step that is too short
_NARROW = 1e-12  # a bracket this narrow, relative to its far end, is a point


class NonmonotoneReference:
    """The value below which a nonmonotone search asks for decrease.

    ``max`` is the largest of the last values (Grippo, Lampariello and Lucidi 1986); ``average`` the weighted mean of
    all values so far (Zhang and Hager 2004, eq. 2.3), in which a value that is k steps old has weight ``decay**k``.

    Args:
        state: Where it is kept: plain numbers, so that it goes into a checkpoint; filled in when empty.
        rule: ``max`` or ``average``.
        window: How many values ``max`` looks back at; with 1 the search is monotone.
        decay: eta of ``average``, in [0, 1]; with 0 the search is monotone.

    Raises:
        ConfigError: If an argument is out of its range.

    Example:
        >>> reference = NonmonotoneReference({}, "max", window=2)
        >>> [reference.update(value) for value in (5.0, 3.0, 4.0)]
        [5.0, 5.0, 4.0]
    """

    def __init__(self, state: dict[str, Any], rule: str = "average", *, window: int = 10, decay: float = 0.85) -> None:
        if rule not in ("max", "average"):
            raise ConfigError(f"A nonmonotone reference is 'max' or 'average', not {rule!r}.")
        if window < 1 or not 0 <= decay <= 1:
            raise ConfigError(f"A nonmonotone reference needs window >= 1 and decay in [0, 1], got {window}, {decay}.")
        self.rule, self.window, self.decay = rule, window, decay
        if not state:
            self.reset(state)
        self._state = state

    def update(self, value: float) -> float:
        """Takes the value of a new iterate in and returns the reference for the search that starts there.

        Args:
            value: Finite.

        Returns:
            The reference, never below `value`.
        """
        state = self._state
        if self.rule == "max":
            state["values"] = [*state["values"], value][-self.window :]
            return max(state["values"])
        weight = self.decay * state["weight"]
        state["average"] = (weight * state["average"] + value) / (weight + 1.0)
        state["weight"] = weight + 1.0
        return max(state["average"], value)

    @staticmethod
    def reset(state: dict[str, Any]) -> None:
        """Forgets all values, as they are of another function.

        Args:
            state: What was given to the constructor.
        """
        state.update(values=[], average=0.0, weight=0.0)


def nonmonotone(
    phi: Callable[[float], tuple[float, float, Any]],
    value0: float,
    slope0: float,
    *,
    reference: float | None = None,
    step0: float = 1.0,
    c1: float = 1e-4,
    c2: float | None = 0.9,
    max_step: float = 1e10,
    max_evaluations: int = 25,
    noise: float = 0.0,
) -> LineSearchResult:
    """Finds a step t with ``phi(t) <= reference + c1 t slope0`` and, unless c2 is None, ``phi'(t) >= c2 slope0``.

    The nonmonotone Wolfe and Armijo conditions of Zhang and Hager 2004 (eqs. 1.2 to 1.4), met by expansion and
    safeguarded interpolation. A trial with a NaN, an infinite slope or the value +inf is a wall: the search stays
    before it. The value -inf ends the search.

    Args:
        phi: t -> (value, slope, payload); without c2 the slope is not looked at and may be 0.
        value0: phi at zero.
        slope0: Slope of phi at zero, negative.
        reference: What must be fallen below, >= value0, see `NonmonotoneReference`; None for value0.
        step0: First trial.
        c1: Constant of sufficient decrease, in (0, 1).
        c2: Constant of the slope, in (c1, 1), or None for sufficient decrease alone.
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
        >>> result = nonmonotone(lambda t: ((t - 3.0) ** 2, 2.0 * (t - 3.0), None), 9.0, -6.0, reference=20.0, step0=7)
        >>> print(result.status, result.step, result.value)
        converged 7 16.0
    """
    check_options(step0=step0, c1=c1, max_evaluations=max_evaluations, noise=noise, c2=c2, max_step=max_step)
    reference = value0 if reference is None else reference
    if math.isfinite(value0) and not reference >= value0:
        raise ConfigError(f"The reference of a nonmonotone search is at least value0 = {value0}, got {reference}.")
    refused = refuse(value0, slope0)
    if refused is not None:
        return refused
    trials = Trials(phi, value0, slope0, c1, c2, max_step, max_evaluations, noise)
    return _run(trials, min(step0, max_step), reference + noise)


def _run(trials: Trials, step: float, ceiling: float) -> LineSearchResult:
    c1, c2, max_step = trials.c1, trials.c2, trials.max_step
    low, high, walls = trials.origin, None, 0
    while trials.evaluations < trials.max_evaluations:
        trial = trials.evaluate(step)
        if trials.unbounded:
            break
        if trial.wall or trial.value > ceiling + c1 * step * trials.origin.slope:
            high = trial
            walls = walls + 1 if trial.wall else 0
        elif c2 is None or trial.slope >= c2 * trials.origin.slope:
            return trials.end(trial, LineSearchStatus.CONVERGED)
        elif step >= max_step:
            return trials.end(trial, LineSearchStatus.MAX_STEP)
        else:
            low, walls = trial, 0
        if high is None:
            step = min(_GROWTH * step, max_step)
        elif high.step - low.step <= _NARROW * high.step:
            break
        else:
            step = _inside(low, high, walls, c2 is not None)
    return trials.fall_back()


def _inside(low: Trial, high: Trial, walls: int, slopes: bool) -> float:
    """The next trial inside a bracket."""
    width = high.step - low.step
    if high.wall:
        # The wall may be orders of magnitude nearer than the trial that hit it: shrink ever faster.
        return low.step + 0.5 ** min(2 ** (walls - 1), 8) * width if walls else low.step + 0.5 * width
    if slopes:
        step = cubic_minimizer(low.step, low.value, low.slope, high.step, high.value, high.slope)
    else:
        step = low.step + quadratic_minimizer(low.value, low.slope, width, high.value)
    return clip(step, low.step + _MARGIN * width, high.step - _MARGIN * width)
