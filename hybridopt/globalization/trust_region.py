"""Acceptance and radius rule of a trust region."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hybridopt.core.errors import ConfigError
from hybridopt.globalization.ratio import RatioTest


@dataclass(frozen=True, slots=True)
class TrustRegion(RatioTest):
    """How far a model is believed (Conn, Gould and Toint 2000, algorithm 6.1.1).

    Holds the constants only; the radius is the caller's state.

    Attributes:
        eta1: A step is accepted when its ratio exceeds this, in [0, `eta2`).
        eta2: The radius grows when the ratio exceeds this and the step ended on the boundary.
        eta_shrink: The radius shrinks when the ratio is below this, in [`eta1`, `eta2`].
        shrink: Factor of the radius after a bad step, in (0, 1).
        grow: Factor of the radius after a very good one, > 1.
        min_radius: The radius never falls below this.
        max_radius: The radius never exceeds this.

    Raises:
        ConfigError: The constants are out of their ranges.

    Example:
        >>> region = TrustRegion()
        >>> ratio = region.ratio(actual=0.9, predicted=1.0)
        >>> region.accept(ratio), region.update(1.0, ratio, step_norm=1.0, at_boundary=True)
        (True, 2.0)
    """

    eta1: float = 1e-4
    eta2: float = 0.75
    eta_shrink: float = 0.25
    shrink: float = 0.25
    grow: float = 2.0
    min_radius: float = 1e-12
    max_radius: float = 1e6

    def __post_init__(self) -> None:
        """Checks the constants."""
        if not 0 <= self.eta1 <= self.eta_shrink <= self.eta2 < 1:
            raise ConfigError(
                f"A trust region needs 0 <= eta1 <= eta_shrink <= eta2 < 1, got eta1={self.eta1}, "
                f"eta_shrink={self.eta_shrink}, eta2={self.eta2}."
            )
        if not (0 < self.shrink < 1 < self.grow):
            raise ConfigError(f"A trust region needs 0 < shrink < 1 < grow, got {self.shrink} and {self.grow}.")
        if not 0 < self.min_radius <= self.max_radius:
            raise ConfigError(
                f"A trust region needs 0 < min_radius <= max_radius, got {self.min_radius} and {self.max_radius}."
            )

    def update(self, radius: float, ratio: float, step_norm: float, at_boundary: bool) -> float:
        """Returns the next radius.

        Args:
            radius: The present one.
            ratio: From `ratio`.
            step_norm: Length of the step in the norm of the region. A bad step shrinks the radius below it,
                or the same step would be tried again.
            at_boundary: Whether the step ended on the boundary; only then was the radius in the way.

        Returns:
            The radius, in [`min_radius`, `max_radius`].
        """
        if not ratio >= self.eta_shrink:
            radius = self.shrink * (min(radius, step_norm) if math.isfinite(step_norm) else radius)
        elif ratio > self.eta2 and at_boundary:
            radius = self.grow * radius
        return min(max(radius, self.min_radius), self.max_radius)


def check_radius(radius: float, max_radius: float, owner: str) -> None:
    """Refuses a first trust radius beyond the largest one, which would silently be cut.

    Args:
        radius: The first one.
        max_radius: The largest one.
        owner: Whose options, for the message.

    Raises:
        ConfigError: If the first one is larger.
    """
    if radius > max_radius:
        raise ConfigError(f"{owner}: the first radius {radius:g} is beyond max_radius={max_radius:g}; raise that.")
