"""What both Wolfe searches do where there is nothing to find, or nothing to search for."""

from __future__ import annotations

import math

import pytest

from hybridopt.globalization import hager_zhang, strong_wolfe

both_searches = pytest.mark.parametrize("search", [strong_wolfe, hager_zhang])


@both_searches
def test_first_trial_that_is_good_costs_one_evaluation(search, counted, functions):
    both, _ = counted(*functions["parabola"])
    result = search(both, 1.7**2, -3.4, step0=1.5)
    assert (result.step, result.evaluations) == (1.5, 1)


@both_searches
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nothing_but_walls_returns_step_zero(search, bad):
    result = search(lambda t: (bad, bad, "gradient"), 1.0, -1.0, max_evaluations=9)
    assert (result.status, result.step, result.value, result.slope) == ("no_decrease", 0.0, 1.0, -1.0)
    assert (result.payload, result.evaluations) == (None, 9)


@both_searches
@pytest.mark.parametrize("wall", [0.7, 1e-4])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_falling_into_a_wall_returns_the_best_point_before_it(search, bad, wall, counted):
    both, steps = counted(lambda t: bad if t > wall else -t, lambda t: bad if t > wall else -1.0)
    result = search(both, 0.0, -1.0)
    assert result.status == "decrease"
    assert 0.9 * wall <= result.step <= wall
    assert result.value == -result.step == min(-t for t in steps if t <= wall)
    assert result.payload == ("payload", result.step)


@both_searches
@pytest.mark.parametrize("slope_there", [math.nan, -math.inf, -1.0])
def test_minus_infinity_stops_at_the_last_finite_point(search, slope_there, counted):
    both, steps = counted(lambda t: -math.inf if t > 50 else -t, lambda t: slope_there if t > 50 else -1.0)
    result = search(both, 0.0, -1.0)
    assert result.status == "unbounded"
    assert result.step == max(t for t in steps if t <= 50) > 0
    assert result.value == -result.step
    assert result.payload == ("payload", result.step)
    assert steps[-1] > 50, "the search went on after -inf"
    at_once = search(lambda t: (-math.inf, math.nan, None), 3.0, -1.0)
    assert (at_once.status, at_once.step, at_once.value, at_once.evaluations) == ("unbounded", 0.0, 3.0, 1)


@both_searches
@pytest.mark.parametrize("slope0", [0.0, 1.0])
def test_ascent_direction_is_refused_without_evaluating(search, slope0):
    result = search(lambda t: pytest.fail("evaluated"), 1.0, slope0)
    assert (result.status, result.step, result.value, result.evaluations) == ("not_descent", 0.0, 1.0, 0)


@both_searches
@pytest.mark.parametrize(("value0", "slope0"), [(math.nan, -1.0), (-math.inf, -1.0), (1.0, math.nan)])
def test_non_finite_start_is_refused_without_evaluating(search, value0, slope0):
    result = search(lambda t: pytest.fail("evaluated"), value0, slope0)
    assert (result.status, result.step, result.evaluations) == ("non_finite", 0.0, 0)
