"""Armijo's search on mini-batches and Polyak's rate, as rules of numbers."""

from __future__ import annotations

import math

import pytest

from hybridopt.core.errors import ConfigError
from hybridopt.globalization.polyak import polyak_rate
from hybridopt.globalization.stochastic_armijo import StochasticArmijo


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.0])
@pytest.mark.parametrize("square", [math.nan, math.inf, 0.0, 1e-320, 1.0])
def test_a_polyak_rate_is_never_negative_or_not_a_number(value: float, square: float) -> None:
    rate = polyak_rate(value, square)
    assert rate >= 0.0
    assert rate == 0.0 or math.isfinite(value)


def test_polyaks_rate_and_its_noise() -> None:
    assert polyak_rate(3.0, 4.0, c=0.25, lowest=1.0) == 2.0
    assert polyak_rate(3.0, 4.0, lowest=3.0 - 1e-12, noise=1e-10) == 0.0
    assert polyak_rate(3.0, 0.0) == math.inf


def test_first_trials() -> None:
    assert StochasticArmijo(reset="keep").first_trial(0.3) == 0.3
    assert StochasticArmijo(reset="first").first_trial(0.3) == 1.0
    grow = StochasticArmijo(reset="grow", growth=3.0, epoch=2, largest=5.0)
    assert grow.first_trial(grow.first_trial(0.5)) == pytest.approx(1.5)
    assert grow.first_trial(4.9) == 5.0
    with pytest.raises(ConfigError, match="reset must be one of grow, keep, first"):
        StochasticArmijo(reset="up")


@pytest.mark.parametrize("unit", [1e-3, 1.0, 50.0])
def test_the_accepted_step_is_the_first_of_the_sequence_that_falls_enough(unit: float) -> None:
    rule = StochasticArmijo(c=0.2, shrink=0.8, reset="keep")
    phi = lambda t: (t - 0.1) ** 2  # noqa: E731
    result, last = rule.search(phi, 0.01, -0.2, last=2.0, unit=unit, noise=0.0)
    assert result.step == pytest.approx(unit * last)
    assert phi(result.step) <= 0.01 - 0.2 * 0.2 * result.step
    if result.evaluations > 1:
        longer = result.step / 0.8
        assert phi(longer) > 0.01 - 0.2 * 0.2 * longer


def test_a_failure_starts_again_from_one_unit() -> None:
    result, last = StochasticArmijo(max_evaluations=4).search(
        lambda t: math.nan, 1.0, -1.0, last=0.01, unit=0.5, noise=0.0
    )
    assert (result.step, last, result.evaluations) == (0.0, 1.0, 4)
