"""Levenberg and Marquardt's rule for the damping of a curvature matrix."""

from __future__ import annotations

from dataclasses import dataclass

from hybridopt.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LevenbergMarquardt:
    """Raises the damping where the model promises too much and lowers it where it can be believed.

    The rule of Martens (2010, section 4.1): ratio < 1/4 multiplies the damping by 3/2, ratio > 3/4 by 2/3.
    Holds the constants only; the damping is the caller's state.

    Attributes:
        lower: The damping rises when the ratio is below this.
        upper: The damping falls when the ratio is above this.
        increase: Factor by which it rises, > 1.
        decrease: Factor by which it falls, in (0, 1).
        min_damping: It never falls below this; positive, or it could not rise again.
        max_damping: It never exceeds this.

    Raises:
        ConfigError: The constants are out of their ranges.

    Example:
        >>> rule = LevenbergMarquardt()
        >>> rule.update(1.0, ratio=0.1), rule.update(1.0, ratio=0.5), rule.update(3.0, ratio=0.9)
        (1.5, 1.0, 2.0)
    """

    lower: float = 0.25
    upper: float = 0.75
    increase: float = 1.5
    decrease: float = 2.0 / 3.0
    min_damping: float = 1e-12
    max_damping: float = 1e12

    def __post_init__(self) -> None:
        """Checks the constants."""
        if not self.lower <= self.upper:
            raise ConfigError(f"Damping needs lower <= upper, got {self.lower} and {self.upper}.")
        if not 0 < self.decrease < 1 < self.increase:
            raise ConfigError(f"Damping needs 0 < decrease < 1 < increase, got {self.decrease} and {self.increase}.")
        if not 0 < self.min_damping <= self.max_damping:
            raise ConfigError(
                f"Damping needs 0 < min_damping <= max_damping, got {self.min_damping} and {self.max_damping}."
            )

    def update(self, damping: float, ratio: float) -> float:
        """Returns the next damping.

        Args:
            damping: The present one, >= 0.
            ratio: Actual over predicted decrease; NaN and -inf (a trial that is not finite) raise the
                damping.

        Returns:
            The damping, in [`min_damping`, `max_damping`].
        """
        if not ratio >= self.lower:
            damping *= self.increase
        elif ratio > self.upper:
            damping *= self.decrease
        return min(max(damping, self.min_damping), self.max_damping)
