"""Acceptance and weight rule of adaptive cubic regularization."""

from __future__ import annotations

from dataclasses import dataclass

from hybridopt.core.errors import ConfigError
from hybridopt.globalization.ratio import RatioTest


@dataclass(frozen=True, slots=True)
class AdaptiveCubic(RatioTest):
    """How heavily a cubic term weighs on a model (Cartis, Gould and Toint 2011, algorithm 2.1).

    Holds the constants only; the weight sigma is the caller's state.

    Attributes:
        eta1: A step is accepted when its ratio exceeds this, in [0, `eta2`).
        eta2: The weight falls when the ratio exceeds this.
        grow: Factor of the weight after a rejected step, > 1.
        shrink: Factor of the weight after a very good one, in (0, 1).
        min_sigma: The weight never falls below this.
        max_sigma: The weight never exceeds this.

    Raises:
        ConfigError: The constants are out of their ranges.

    Example:
        >>> rule = AdaptiveCubic()
        >>> ratio = rule.ratio(actual=0.95, predicted=1.0)
        >>> rule.accept(ratio), rule.update(1.0, ratio), rule.update(1.0, -0.5)
        (True, 0.5, 2.0)
    """

    eta1: float = 0.1
    eta2: float = 0.9
    grow: float = 2.0
    shrink: float = 0.5
    min_sigma: float = 1e-16
    max_sigma: float = 1e30

    def __post_init__(self) -> None:
        """Checks the constants."""
        if not 0 <= self.eta1 < self.eta2 < 1:
            raise ConfigError(f"Cubic regularization needs 0 <= eta1 < eta2 < 1, got {self.eta1} and {self.eta2}.")
        if not (0 < self.shrink < 1 < self.grow):
            raise ConfigError(f"Cubic regularization needs 0 < shrink < 1 < grow, got {self.shrink} and {self.grow}.")
        if not 0 < self.min_sigma <= self.max_sigma:
            raise ConfigError(
                f"Cubic regularization needs 0 < min_sigma <= max_sigma, got {self.min_sigma} and {self.max_sigma}."
            )

    def update(self, sigma: float, ratio: float) -> float:
        """Returns the next weight.

        Args:
            sigma: The present one.
            ratio: From `ratio`.

        Returns:
            The weight, in [`min_sigma`, `max_sigma`].
        """
        if not ratio > self.eta1:
            sigma = self.grow * sigma
        elif ratio > self.eta2:
            sigma = self.shrink * sigma
        return min(max(sigma, self.min_sigma), self.max_sigma)
