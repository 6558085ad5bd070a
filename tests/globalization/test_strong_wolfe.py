"""Strong Wolfe search: its contract at the returned step, and forced failures."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import scipy.optimize

from hybridopt.core.errors import ConfigError
from hybridopt.globalization import noise_floor, strong_wolfe


def check_contract(result, phi, slope, value0, slope0, c1, c2, noise=0.0):
    assert result.status == "converged"
    assert result.step > 0
    assert result.value == phi(result.step) <= value0 + c1 * result.step * slope0 + noise
    assert abs(result.slope) <= c2 * abs(slope0)
    assert result.slope == slope(result.step)
    assert result.payload == ("payload", result.step)


@pytest.mark.parametrize("step0", [1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize(("c1", "c2"), [(1e-4, 0.9), (1e-4, 0.1), (0.1, 0.2)])
def test_contract_at_the_returned_step(smooth, step0, c1, c2, counted):
    phi, slope = smooth
    both, steps = counted(phi, slope)
    result = strong_wolfe(both, phi(0.0), slope(0.0), step0=step0, c1=c1, c2=c2, max_evaluations=60)
    check_contract(result, phi, slope, phi(0.0), slope(0.0), c1, c2)
    assert result.evaluations == len(steps) <= 30
    assert len(set(steps)) == len(steps), "a point was evaluated twice"


@pytest.mark.parametrize("seed", range(40))
def test_contract_on_random_polynomials_and_ridges(seed, counted):
    draw = random.Random(seed)
    roots = [draw.uniform(0.01, 10.0) for _ in range(3)]
    amplitude, frequency = draw.uniform(0, 0.3), draw.uniform(1, 20)

    def phi(t):
        return sum((t - r) ** 2 / r for r in roots) + amplitude * math.sin(frequency * t)

    def slope(t):
        return sum(2 * (t - r) / r for r in roots) + amplitude * frequency * math.cos(frequency * t)

    if slope(0.0) >= 0:
        pytest.skip("not a descent direction")
    both, _ = counted(phi, slope)
    result = strong_wolfe(both, phi(0.0), slope(0.0), step0=10 ** draw.uniform(-3, 3), c2=0.3)
    check_contract(result, phi, slope, phi(0.0), slope(0.0), 1e-4, 0.3)


@pytest.mark.parametrize("seed", range(10))
def test_finds_a_step_wherever_scipy_does_and_no_dearer(seed, counted):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-1, 1, 5)
    x, d = rng.normal(size=5), None

    def f(z):
        return float(np.sum(scale * z**2) + np.sum(np.cos(3 * z)))

    def g(z):
        return 2 * scale * z - 3 * np.sin(3 * z)

    d = -g(x)
    theirs = scipy.optimize.line_search(f, g, x, d, c1=1e-4, c2=0.4, maxiter=30)
    both, _ = counted(lambda t: f(x + t * d), lambda t: float(g(x + t * d) @ d))
    ours = strong_wolfe(both, f(x), float(g(x) @ d), c2=0.4)
    assert theirs[0] is not None
    check_contract(ours, lambda t: f(x + t * d), lambda t: float(g(x + t * d) @ d), f(x), float(g(x) @ d), 1e-4, 0.4)
    assert ours.evaluations <= theirs[1] + 2


def test_cubic_steps_are_exact_on_a_parabola(counted, functions):
    for step0 in (0.3, 6.0):
        both, _ = counted(*functions["parabola"])
        result = strong_wolfe(both, 1.7**2, -3.4, step0=step0, c2=1e-3)
        assert result.step == pytest.approx(1.7)
        assert result.evaluations == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("wall", [3.0, 0.7, 1e-2, 1e-5, 1e-8])
def test_minimum_before_a_wall_is_found(bad, wall):
    minimum = 0.4 * wall

    def both(t):
        return (bad, bad, None) if t > wall else ((t - minimum) ** 2 / wall, 2 * (t - minimum) / wall, t)

    result = strong_wolfe(both, minimum**2 / wall, -0.8, c2=0.1)
    assert result.status == "converged"
    assert abs(result.slope) <= 0.1 * 0.8
    assert result.payload == result.step <= wall
    assert all(event["event"] == "non_finite_trial" and event["step"] > wall for event in result.events)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_finite_value_with_a_non_finite_slope_is_a_wall(bad):
    result = strong_wolfe(lambda t: (-t, bad if t > 0.5 else -1.0, t), 0.0, -1.0)
    assert result.status == "decrease"
    assert result.step <= 0.5
    assert math.isfinite(result.slope)


def test_minus_infinity_inside_a_bracket():
    def both(t):
        if t >= 1.0:
            return 10.0, 10.0, t
        return (-math.inf, math.nan, t) if t > 0.05 else (-t, -1.0, t)

    result = strong_wolfe(both, 0.0, -1.0)
    assert (result.status, result.step, result.evaluations) == ("unbounded", 0.0, 2)


def test_flat_function_with_a_wrong_slope_gives_step_zero():
    for slope_there in (-1.0, 1.0):
        result = strong_wolfe(lambda t, s=slope_there: (1.0, s, None), 1.0, -1.0)
        assert (result.status, result.step, result.value) == ("no_decrease", 0.0, 1.0)
        assert result.evaluations <= 25


def test_rising_function_with_a_wrong_slope_gives_step_zero():
    result = strong_wolfe(lambda t: (1.0 + t, 1.0, None), 1.0, -1.0)
    assert (result.status, result.step) == ("no_decrease", 0.0)


def test_too_few_evaluations_return_the_best_decrease(counted, functions):
    phi, slope = functions["oscillating"]
    both, steps = counted(phi, slope)
    result = strong_wolfe(both, phi(0.0), slope(0.0), step0=0.01, c2=1e-3, max_evaluations=3)
    assert result.evaluations == len(steps) == 3
    assert result.status == "decrease"
    assert result.value == min(map(phi, steps)) < phi(0.0)
    assert result.payload == ("payload", result.step)


def test_unbounded_slope_ends_at_the_longest_step(counted):
    both, steps = counted(lambda t: -t, lambda t: -1.0)
    result = strong_wolfe(both, 0.0, -1.0, max_step=37.0)
    assert (result.status, result.step, result.value) == ("max_step", 37.0, -37.0)
    assert steps == [1.0, 10.0, 37.0]
    both, steps = counted(lambda t: -t, lambda t: -1.0)
    assert strong_wolfe(both, 0.0, -1.0, step0=5.0, max_step=2.0).step == 2.0
    assert steps == [2.0]


def test_noise_near_the_minimum_does_not_defeat_the_search():
    # The values carry rounding noise that swamps the decrease; approximate Wolfe goes by the exact slopes.
    failures = 0
    value0, eps = 1.0, 1e-7
    noise = noise_floor(value0, eps)
    for seed in range(200):
        draw = random.Random(seed)
        minimum = draw.uniform(0.1, 5.0)
        curvature = 1e-8 * draw.uniform(0.1, 1.0)

        def both(t, minimum=minimum, curvature=curvature, draw=draw):
            value = 1.0 + 0.5 * curvature * ((t - minimum) ** 2 - minimum**2) + eps * draw.uniform(-1, 1)
            return value, curvature * (t - minimum), t

        result = strong_wolfe(both, value0, -curvature * minimum, c2=0.5, noise=noise)
        assert result.status == "converged"
        assert abs(result.slope) <= 0.5 * curvature * minimum
        assert result.value <= value0 + noise
        failures += strong_wolfe(both, value0, -curvature * minimum, c2=0.5).status != "converged"
    assert failures > 20, "without the floor the same searches should fail, or this test shows nothing"


def test_noise_does_not_loosen_the_contract_away_from_the_floor(counted, functions):
    phi, slope = functions["quartic"]
    both, _ = counted(phi, slope)
    noise = noise_floor(phi(0.0), 1e-7)
    result = strong_wolfe(both, phi(0.0), slope(0.0), noise=noise, c2=0.1)
    check_contract(result, phi, slope, phi(0.0), slope(0.0), 1e-4, 0.1, noise)


def test_extreme_magnitudes_never_raise():
    for scale in (1e-300, 1e-160, 1e160, 1e300):
        for step0 in (1e-300, 1.0, 1e9):
            strong_wolfe(lambda t, s=scale: (s * abs(t - 1), s if t > 1 else -s, None), scale, -scale, step0=step0)
            strong_wolfe(lambda t: (1e308, 1e308, None), 1.0, -scale, step0=step0)
            strong_wolfe(lambda t: (-1e308, -1e308, None), 1e308, -1e308, step0=step0)


@pytest.mark.parametrize("seed", range(100))
def test_arbitrary_garbage_never_raises_and_never_makes_things_worse(seed):
    draw = random.Random(seed)
    pool = [math.nan, math.inf, 0.0, 1.0, -1.0, 1e300, -1e300, 1e-300]
    trials = {}

    def both(t):
        value = draw.choice([draw.gauss(0, 1), draw.choice(pool)])
        trials[t] = value
        return value, draw.choice([draw.gauss(0, 1), draw.choice(pool)]), t

    result = strong_wolfe(both, 0.5, -1.0, step0=10 ** draw.uniform(-5, 5), noise=draw.choice([0.0, 1e-3]))
    assert result.evaluations <= 25
    assert result.step >= 0
    assert math.isfinite(result.value)
    assert result.value <= 0.5 + 1e-3
    if result.step:
        assert result.value == trials[result.step]
        assert result.payload == result.step


@pytest.mark.parametrize(
    "options",
    [
        {"step0": -1.0},
        {"c1": 0.0},
        {"c2": 1.0},
        {"c2": 1e-5},
        {"max_step": 0.0},
        {"max_evaluations": 0},
        {"noise": math.inf},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        strong_wolfe(lambda t: (-t, -1.0, None), 0.0, -1.0, **options)
