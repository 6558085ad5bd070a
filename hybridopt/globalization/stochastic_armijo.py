"""Armijo's search on mini-batches: from which step the next one begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hybridopt.core.errors import ConfigError
from hybridopt.globalization.armijo import armijo
from hybridopt.globalization.search import LineSearchResult

RESETS = ("grow", "keep", "first")
"""Rules for the first trial of a search."""


@dataclass(frozen=True)
class StochasticArmijo:
    """Armijo's rule for SGD (Vaswani et al. 2019, algorithm 1), with values of one mini-batch at both ends.

    Steps are multiples of a unit, the optimizer's ``lr``.

    Attributes:
        c: Constant of sufficient decrease, in (0, 1).
        shrink: Factor by which a rejected step is shortened, in (0, 1).
        reset: First trial: ``grow``, the last step a little longer (option 2 there); ``keep``, the last step (0);
            ``first``, always 1 (1).
        growth: Factor by which ``grow`` lengthens the step in an epoch, >= 1.
        epoch: Steps in an epoch.
        largest: Longest step.
        max_evaluations: Most trials of one search.

    Raises:
        ConfigError: If `reset` is another word.
    """

    c: float = 0.1
    shrink: float = 0.9
    reset: str = "grow"
    growth: float = 2.0
    epoch: int = 500
    largest: float = 10.0
    max_evaluations: int = 100

    def __post_init__(self) -> None:
        if self.reset not in RESETS:
            raise ConfigError(f"reset must be one of {', '.join(RESETS)}, not {self.reset!r}.")

    def first_trial(self, last: float) -> float:
        """Returns where to begin, in units.

        Args:
            last: The step that the last search ended with, 1 before the first one.

        Example:
            >>> StochasticArmijo(growth=2.0, epoch=1).first_trial(0.25)
            0.5
        """
        if self.reset == "first":
            return min(1.0, self.largest)
        if self.reset == "keep":
            return min(last, self.largest)
        return min(last * self.growth ** (1.0 / self.epoch), self.largest)

    def search(
        self, phi: Callable[[float], float], value0: float, slope0: float, *, last: float, unit: float, noise: float
    ) -> tuple[LineSearchResult, float]:
        """Searches on one mini-batch.

        Args:
            phi: Step, not in units -> value on the mini-batch.
            value0: The value at zero, on the same mini-batch.
            slope0: The directional derivative there, negative.
            last: The step that the last search ended with, in units.
            unit: The unit, > 0.
            noise: Noise floor of the value, see `noise_floor`.

        Returns:
            The search's result (its step not in units), and what the next search is to begin from, in units: 1 after
            a failure.
        """
        result = armijo(
            phi,
            value0,
            slope0,
            step0=unit * self.first_trial(last),
            c1=self.c,
            shrink=self.shrink,
            max_evaluations=self.max_evaluations,
            noise=noise,
            interpolate=False,
        )
        return result, result.step / unit if result.step > 0 else 1.0
