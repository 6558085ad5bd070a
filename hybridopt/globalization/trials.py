"""The trials of one line search: evaluated, counted, the best of them kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hybridopt.globalization.search import LineSearchResult, LineSearchStatus


@dataclass(slots=True)
class Trial:
    """A trial. A wall, where value or slope is NaN or infinite, has value +inf.

    Attributes:
        step: Step length.
        value: Function value there.
        slope: Directional derivative there.
        payload: What the function gave beside them.
    """

    step: float
    value: float
    slope: float
    payload: Any

    @property
    def wall(self) -> bool:
        """Whether nothing finite was found there."""
        return self.value == math.inf


class Trials:
    """What searches by value and slope share.

    Args:
        phi: t -> (value, slope, payload).
        value0: phi at zero.
        slope0: Slope of phi at zero.
        c1: Constant of sufficient decrease.
        c2: Constant of the slope, None where slopes are not looked at.
        max_step: Longest step allowed.
        max_evaluations: Most trials.
        noise: Noise floor of the value; a trial is better than staying when it is lower by more.
    """

    def __init__(
        self,
        phi: Callable[[float], tuple[float, float, Any]],
        value0: float,
        slope0: float,
        c1: float,
        c2: float | None,
        max_step: float,
        max_evaluations: int,
        noise: float,
    ) -> None:
        self.phi = phi
        self.c1, self.c2, self.max_step = c1, c2, max_step
        self.origin = Trial(0.0, value0, slope0, None)
        self.max_evaluations, self.noise = max_evaluations, noise
        self.evaluations = 0
        self.best: Trial | None = None
        self.events: list[dict[str, Any]] = []
        self.unbounded = False

    def evaluate(self, step: float) -> Trial:
        """Evaluates one trial, counts it and remembers it if it is the best one so far.

        Args:
            step: Where.
        """
        value, slope, payload = self.phi(step)
        value, slope = float(value), float(slope)
        self.evaluations += 1
        if value == -math.inf:
            self.unbounded = True
            self.events.append({"event": "unbounded_trial", "step": step})
        elif not (math.isfinite(value) and math.isfinite(slope)):
            self.events.append({"event": "non_finite_trial", "step": step})
            return Trial(step, math.inf, math.nan, None)
        trial = Trial(step, value, slope, payload)
        lowest = self.origin.value - self.noise if self.best is None else self.best.value
        if not self.unbounded and value < lowest:
            self.best = trial
        return trial

    def fall_back(self) -> LineSearchResult:
        """Returns the lowest trial, or step zero when none is lower than the start beyond noise."""
        if self.best is not None:
            return self.end(self.best, LineSearchStatus.DECREASE)
        return self.end(self.origin, LineSearchStatus.NO_DECREASE)

    def end(self, trial: Trial, status: LineSearchStatus) -> LineSearchResult:
        """Packs the result.

        Args:
            trial: Where the search ends.
            status: How.
        """
        if self.unbounded:
            status = LineSearchStatus.UNBOUNDED
        return LineSearchResult(
            trial.step, trial.value, trial.slope, trial.payload, self.evaluations, status, self.events
        )
