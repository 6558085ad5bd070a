"""Armijo backtracking: its contract, and what it does when there is nothing to find."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from hybridopt.core.errors import ConfigError
from hybridopt.globalization import armijo, noise_floor


@pytest.mark.parametrize("step0", [1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("c1", [1e-4, 0.3])
@pytest.mark.parametrize("interpolate", [True, False])
def test_contract_at_the_returned_step(smooth, step0, c1, interpolate):
    phi, slope = smooth
    value0, slope0 = phi(0.0), slope(0.0)
    steps = []

    def counted(t):
        steps.append(t)
        return phi(t), ("payload", t)

    result = armijo(counted, value0, slope0, step0=step0, c1=c1, interpolate=interpolate)
    assert result.status == "converged"
    assert result.success
    assert result.value == phi(result.step) <= value0 + c1 * result.step * slope0
    assert result.payload == ("payload", result.step)
    assert result.evaluations == len(steps)
    assert result.step == steps[-1]
    assert steps == sorted(steps, reverse=True)
    for before, after in pairwise(steps):
        assert 0.1 - 1e-12 <= after / before <= 0.5 + 1e-12


def test_full_step_costs_one_evaluation():
    result = armijo(lambda t: (t - 1) ** 2, 1.0, -2.0)
    assert (result.step, result.evaluations, result.payload) == (1.0, 1, None)


def test_interpolation_is_exact_on_a_parabola_and_then_on_a_cubic():
    result = armijo(lambda t: (t - 0.3) ** 2, 0.09, -0.6)
    assert result.step == pytest.approx(0.3)
    assert result.evaluations == 2

    tried = []
    armijo(lambda t: tried.append(t) or 200 * t**3 + 20 * t * t - t, 0.0, -1.0, c1=0.9)
    minimum = (-40 + math.sqrt(1600 + 2400)) / 1200
    assert tried[2] == pytest.approx(minimum, rel=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wall", [0.7, 1e-3, 1e-6])
def test_stays_before_a_wall(bad, wall):
    result = armijo(lambda t: bad if t > wall else -t, 0.0, -1.0, max_evaluations=40)
    assert result.status == "converged"
    assert 0 < result.step <= wall
    assert result.value == -result.step
    assert len(result.events) == result.evaluations - 1
    assert result.events[0] == {"event": "non_finite_trial", "step": 1.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nothing_but_walls_returns_step_zero(bad):
    result = armijo(lambda t: (bad, "gradient"), 1.0, -1.0, max_evaluations=7)
    assert (result.status, result.step, result.value, result.payload, result.evaluations) == (
        "no_decrease",
        0.0,
        1.0,
        None,
        7,
    )
    assert not result.success


@pytest.mark.parametrize("slope0", [0.0, 1.0])
def test_ascent_direction_is_refused_without_evaluating(slope0):
    result = armijo(lambda t: pytest.fail("evaluated"), 1.0, slope0)
    assert (result.status, result.step, result.value, result.evaluations) == ("not_descent", 0.0, 1.0, 0)


@pytest.mark.parametrize(("value0", "slope0"), [(math.nan, -1.0), (math.inf, -1.0), (1.0, math.nan), (1.0, -math.inf)])
def test_non_finite_start_is_refused_without_evaluating(value0, slope0):
    result = armijo(lambda t: pytest.fail("evaluated"), value0, slope0)
    assert (result.status, result.step, result.evaluations) == ("non_finite", 0.0, 0)


def test_flat_and_rising_functions_give_step_zero():
    for phi in (lambda t: 1.0, lambda t: 1.0 + t):
        result = armijo(phi, 1.0, -1.0)
        assert (result.status, result.step, result.evaluations) == ("no_decrease", 0.0, 25)


def test_too_few_evaluations_give_step_zero():
    result = armijo(lambda t: 1e6 * t * t - t, 0.0, -1.0, max_evaluations=2)
    assert (result.status, result.step, result.evaluations) == ("no_decrease", 0.0, 2)


def test_noise_floor_relaxes_the_condition():
    noise = noise_floor(1.0, 1e-7)
    rising = lambda t: 1.0 + 0.5 * noise  # noqa: E731
    assert armijo(rising, 1.0, -1e-9, noise=noise).step == 1.0
    assert armijo(rising, 1.0, -1e-9).status == "no_decrease"
    assert armijo(lambda t: 1.0 + 2 * noise, 1.0, -1e-9, noise=noise).status == "no_decrease"


def test_extreme_magnitudes_never_raise():
    for scale in (1e-300, 1e-160, 1e160, 1e300):
        armijo(lambda t, s=scale: s * abs(t - 1), scale, -scale, step0=1e3)
        armijo(lambda t: 1e308, 1.0, -1.0, step0=scale)
        armijo(lambda t: -1e308, 1e308, -1e308, step0=scale)


@pytest.mark.parametrize(
    "options",
    [
        {"step0": 0.0},
        {"step0": math.nan},
        {"c1": 0.0},
        {"c1": 1.0},
        {"shrink": 1.0},
        {"shrink": 0.0},
        {"max_evaluations": 0},
        {"noise": -1.0},
        {"noise": math.nan},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        armijo(lambda t: -t, 0.0, -1.0, **options)


def test_noise_floor():
    assert noise_floor(-2.0, 1e-16) == pytest.approx(2e-15)
    assert noise_floor(math.inf, 1e-16) == noise_floor(math.nan, 1e-16) == 0.0
