"""Whether a step is taken: the ratio of actual to predicted decrease."""

from __future__ import annotations

import math


class RatioTest:
    """What trust regions and cubic regularization share: a step is accepted when its ratio exceeds `eta1`."""

    __slots__ = ()

    eta1: float

    def ratio(self, actual: float, predicted: float, noise: float = 0.0) -> float:
        """Returns actual over predicted decrease, safe against rounding (Conn, Gould and Toint 2000, 17.4.2).

        Args:
            actual: ``f(x) - f(x + s)``; not finite when the trial is not.
            predicted: Decrease of the model, >= 0.
            noise: Noise floor of f, see `noise_floor`.

        Returns:
            1.0 when both decreases are within the noise, so that a step which the values cannot judge is
            believed; -inf when the trial or the model is not finite or the model does not decrease; otherwise
            ``(actual + noise) / (predicted + noise)``.
        """
        if not (math.isfinite(actual) and math.isfinite(predicted)):
            return -math.inf
        if abs(actual) <= noise and abs(predicted) <= noise:
            return 1.0
        if predicted <= 0:
            return -math.inf
        return (actual + noise) / (predicted + noise)

    def accept(self, ratio: float) -> bool:
        """Returns whether a step with this ratio is taken.

        Args:
            ratio: From `ratio`; NaN is refused.
        """
        return ratio > self.eta1
