"""Hager and Zhang's search: its contract at the returned step, forced failures, and its first trials."""

from __future__ import annotations

import math

import pytest

from hybridopt.core.errors import ConfigError
from hybridopt.globalization import first_step, hager_zhang, next_step, noise_floor


def check_contract(result, phi, slope, value0, slope0, c1, c2, noise=0.0):
    assert result.status == "converged"
    assert result.step > 0
    assert result.value == phi(result.step)
    assert result.slope == slope(result.step) >= c2 * slope0
    wolfe = result.value <= value0 + c1 * result.step * slope0
    approximate = result.value <= value0 + noise and result.slope <= (2 * c1 - 1) * slope0
    assert wolfe or approximate
    assert result.payload == ("payload", result.step)


@pytest.mark.parametrize("step0", [1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize(("c1", "c2"), [(0.1, 0.9), (1e-4, 0.1), (0.3, 0.4)])
def test_contract_at_the_returned_step(smooth, step0, c1, c2, counted):
    phi, slope = smooth
    both, steps = counted(phi, slope)
    result = hager_zhang(both, phi(0.0), slope(0.0), step0=step0, c1=c1, c2=c2, max_evaluations=60)
    check_contract(result, phi, slope, phi(0.0), slope(0.0), c1, c2)
    assert result.evaluations == len(steps) <= 35


def literal(phi, slope, step, c1, c2):
    """The points that the algorithm of Hager and Zhang (2005, section 4) tries, rule by rule, without walls."""
    tried, value0, slope0 = [], phi(0.0), slope(0.0)
    theta, gamma, rho = 0.5, 0.66, 5.0

    def visit(t):
        tried.append(t)
        if slope(t) >= c2 * slope0:
            wolfe = phi(t) <= value0 + c1 * t * slope0
            if wolfe or (phi(t) <= value0 and slope(t) <= (2 * c1 - 1) * slope0):
                raise StopIteration

    def narrow(a, b):  # U3
        while True:
            d = a + theta * (b - a)
            visit(d)
            if slope(d) >= 0:
                return a, d
            a, b = (d, b) if phi(d) <= value0 else (a, d)

    def update(a, b, c):
        if not a < c < b:
            return a, b
        visit(c)
        if slope(c) >= 0:
            return a, c
        return (c, b) if phi(c) <= value0 else narrow(a, c)

    def secant(a, b):
        return (a * slope(b) - b * slope(a)) / (slope(b) - slope(a))

    def bracket(c):
        a = 0.0
        while True:
            visit(c)
            if slope(c) >= 0:
                return a, c
            if phi(c) > value0:
                return narrow(0.0, c)
            a, c = c, rho * c

    def double_secant(a, b):
        c = secant(a, b)
        low, high = update(a, b, c)
        if c == high:
            return update(low, high, secant(b, high))
        return update(low, high, secant(a, low)) if c == low else (low, high)

    try:
        a, b = bracket(step)
        while True:
            low, high = double_secant(a, b)
            a, b = update(low, high, (low + high) / 2) if high - low > gamma * (b - a) else (low, high)
    except StopIteration:
        return tried


@pytest.mark.parametrize("step0", [1e-2, 1.0, 6.0, 30.0])
@pytest.mark.parametrize(("c1", "c2"), [(0.1, 0.9), (1e-4, 1e-3), (1e-9, 1e-8)])
def test_it_tries_the_points_of_the_paper(smooth, step0, c1, c2, counted):
    phi, slope = smooth
    both, steps = counted(phi, slope)
    assert hager_zhang(both, phi(0.0), slope(0.0), step0=step0, c1=c1, c2=c2).status == "converged"
    assert steps == pytest.approx(literal(phi, slope, step0, c1, c2), rel=1e-9)


@pytest.mark.parametrize(
    ("phi", "slope", "step0"),
    [
        # The secant lands beyond the minimum and too high; the next one is that through both far ends.
        (lambda t: (t - 1) ** 2 / 2 + math.exp(-8 * t), lambda t: t - 1 - 8 * math.exp(-8 * t), 6.0),
        # The first trial falls, the second is too high and falls: what is cut begins at zero.
        (lambda t: 0.2 * t - math.sin(1.3 * t), lambda t: 0.2 - 1.3 * math.cos(1.3 * t), 0.9),
    ],
    ids=["S2", "B2"],
)
def test_the_rarer_rules_are_the_papers_too(phi, slope, step0, counted):
    both, steps = counted(phi, slope)
    hager_zhang(both, phi(0.0), slope(0.0), step0=step0, c1=1e-9, c2=1e-8)
    assert steps == pytest.approx(literal(phi, slope, step0, 1e-9, 1e-8), rel=1e-9)


def test_secant_steps_are_exact_on_a_parabola(counted, functions):
    both, _ = counted(*functions["parabola"])
    result = hager_zhang(both, 1.7**2, -3.4, step0=6.0, c1=1e-4, c2=1e-3)
    assert result.step == pytest.approx(1.7)
    assert result.evaluations == 2


def test_the_minimum_is_found_to_more_digits_than_the_values_tell():
    # Near t = 1 the values differ by less than their rounding; only the slopes still see the minimum (section 1).
    def both(t):
        return 1.0 - 1e-17 * t, 1e-9 * (t - 1.0), t

    noise = noise_floor(1.0, 2.2e-16)
    result = hager_zhang(both, 1.0, -1e-9, step0=0.01, c1=0.1, c2=0.1, noise=noise)
    assert result.status == "converged"
    assert 0.9 <= result.step <= 1.8, "where the slope lies between c2 and 2 c1 - 1 times that at the start"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("wall", [3.0, 0.7, 1e-2, 1e-5, 1e-8])
def test_minimum_before_a_wall_is_found(bad, wall):
    minimum = 0.4 * wall

    def both(t):
        return (bad, bad, None) if t > wall else ((t - minimum) ** 2 / wall, 2 * (t - minimum) / wall, t)

    result = hager_zhang(both, minimum**2 / wall, -0.8, c1=1e-4, c2=0.1)
    assert result.status == "converged"
    assert result.slope >= -0.1 * 0.8
    assert result.value < minimum**2 / wall
    assert result.payload == result.step <= wall


def test_a_function_that_falls_for_ever_ends_at_the_longest_step(counted):
    both, steps = counted(lambda t: -t, lambda t: -1.0)
    result = hager_zhang(both, 0.0, -1.0, max_step=100.0)
    assert (result.status, result.step) == ("max_step", 100.0)
    assert max(steps) == 100.0


def test_flat_function_with_a_wrong_slope_gives_step_zero():
    result = hager_zhang(lambda t: (1.0, -1.0, None), 1.0, -1.0, max_step=1e3)
    assert (result.step, result.value) in [(0.0, 1.0), (1e3, 1.0)]
    result = hager_zhang(lambda t: (1.0, 2.0, None), 1.0, -1.0)
    assert (result.status, result.step, result.value) == ("no_decrease", 0.0, 1.0)


def test_a_rise_with_a_falling_slope_is_cut_back():
    # Just before the first trial the function has jumped over a barrier: too high, but the slope points on.
    def both(t):
        return (5.0 - 0.1 * t, -0.1, t) if t > 0.5 else ((t - 0.2) ** 2, 2 * (t - 0.2), t)

    result = hager_zhang(both, 0.04, -0.4, c1=0.1, c2=0.2)
    assert result.status == "converged"
    assert abs(result.step - 0.2) < 0.05


@pytest.mark.parametrize(
    "options", [{"c1": 0.5}, {"c1": 0.2, "c2": 0.1}, {"c2": 1.0}, {"step0": 0.0}, {"max_step": 0}, {"noise": -1.0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        hager_zhang(lambda t: (0.0, 0.0, None), 1.0, -1.0, **options)


def test_first_steps_of_the_paper():
    assert first_step(3.0, 2.0, 5.0) == pytest.approx(0.01 * 5.0 / 2.0)
    assert first_step(3.0, 2.0, 0.0) == pytest.approx(0.01 * 3.0 / 4.0)
    assert first_step(0.0, 2.0, 0.0) == pytest.approx(0.5)


def test_next_steps_of_the_paper():
    asked = []

    def value_at(t):
        asked.append(t)
        return (t - 0.3) ** 2

    # On a parabola the interpolant is the function itself.
    assert next_step(value_at, 0.09, -0.6, previous=2.0) == pytest.approx(0.3)
    assert asked == [0.2]
    assert next_step(lambda t: 0.1, 0.09, -0.6, previous=2.0) == 4.0  # higher than the start
    assert next_step(lambda t: -t, 0.0, -1.0, previous=2.0) == 4.0  # no curvature
    assert next_step(lambda t: math.nan, 0.0, -1.0, previous=2.0) == 4.0
