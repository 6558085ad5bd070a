"""The nonmonotone search and its references against the recurrences of the two papers."""

from __future__ import annotations

import math
import random

import pytest

from hybridopt.core.errors import ConfigError
from hybridopt.globalization import NonmonotoneReference, nonmonotone


@pytest.mark.parametrize("step0", [1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("c2", [0.9, 0.1, None])
@pytest.mark.parametrize("excess", [0.0, 0.5])
def test_contract_at_the_returned_step(smooth, step0, c2, excess, counted):
    phi, slope = smooth
    both, steps = counted(phi, slope)
    reference = phi(0.0) + excess
    result = nonmonotone(
        both, phi(0.0), slope(0.0), reference=reference, step0=step0, c1=1e-4, c2=c2, max_evaluations=80
    )
    assert result.status == "converged"
    assert result.value == phi(result.step) <= reference + 1e-4 * result.step * slope(0.0)
    if c2 is not None:
        assert result.slope == slope(result.step) >= c2 * slope(0.0)
    assert result.payload == ("payload", result.step)
    assert result.evaluations == len(steps)


def test_a_rise_is_taken_below_the_reference_and_not_above(counted, functions):
    both, _ = counted(*functions["parabola"])
    start, slope0 = 1.7**2, -3.4
    # At t = 4 the value is 5.29, higher than the 2.89 of the start.
    loose = nonmonotone(both, start, slope0, reference=6.0, step0=4.0)
    assert (loose.status, loose.step, loose.evaluations) == ("converged", 4.0, 1)
    strict = nonmonotone(both, start, slope0, reference=5.0, step0=4.0)
    assert strict.step < 3.4
    assert strict.value < start


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("wall", [3.0, 1e-2, 1e-8])
def test_minimum_before_a_wall_is_found(bad, wall):
    minimum = 0.4 * wall

    def both(t):
        return (bad, bad, None) if t > wall else ((t - minimum) ** 2 / wall, 2 * (t - minimum) / wall, t)

    result = nonmonotone(both, minimum**2 / wall, -0.8, c2=0.1)
    assert result.status == "converged"
    assert result.slope >= -0.08
    assert result.step <= wall


def test_forced_failures():
    assert nonmonotone(lambda t: pytest.fail("evaluated"), 1.0, 0.5).status == "not_descent"
    assert nonmonotone(lambda t: pytest.fail("evaluated"), math.nan, -0.5).status == "non_finite"
    walls = nonmonotone(lambda t: (math.nan, math.nan, None), 1.0, -1.0, max_evaluations=7)
    assert (walls.status, walls.step, walls.evaluations) == ("no_decrease", 0.0, 7)
    bottomless = nonmonotone(lambda t: (-math.inf if t > 50 else -t, -1.0, t), 0.0, -1.0)
    assert bottomless.status == "unbounded"
    assert 0 < bottomless.step <= 50
    far = nonmonotone(lambda t: (-t, -1.0, t), 0.0, -1.0, max_step=100.0)
    assert (far.status, far.step) == ("max_step", 100.0)
    flat = nonmonotone(lambda t: (1.0, 1.0, t), 1.0, -1.0)
    assert (flat.status, flat.step) == ("no_decrease", 0.0)


@pytest.mark.parametrize("options", [{"c2": 1e-5}, {"reference": 0.5}, {"max_step": 0}, {"c1": 1.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        nonmonotone(lambda t: (0.0, 0.0, None), 1.0, -1.0, **options)


def test_max_is_the_largest_of_the_last_values():
    draw = random.Random(0)
    values = [draw.uniform(-5, 5) for _ in range(30)]
    reference = NonmonotoneReference({}, "max", window=4)
    for place, value in enumerate(values):
        assert reference.update(value) == max(values[max(0, place - 3) : place + 1])


def test_average_follows_the_recurrence_of_zhang_and_hager():
    draw = random.Random(1)
    state: dict = {}
    average, weight = None, 0.0
    value = 10.0
    for _ in range(30):
        value -= draw.uniform(0, 1)
        got = NonmonotoneReference(state, "average", decay=0.7).update(value)
        # C+ = (eta Q C + f) / Q+, Q+ = eta Q + 1, eq. 2.3; C_0 = f_0, Q_0 = 1.
        new = 0.7 * weight + 1.0
        average = value if average is None else (0.7 * weight * average + value) / new
        weight = new
        assert got == pytest.approx(average, rel=1e-13)
        assert got >= value


@pytest.mark.parametrize(("rule", "options"), [("max", {"window": 1}), ("average", {"decay": 0.0})])
def test_the_smallest_memory_is_monotone(rule, options):
    reference = NonmonotoneReference({}, rule, **options)
    assert [reference.update(value) for value in (3.0, 5.0, 1.0)] == [3.0, 5.0, 1.0]


@pytest.mark.parametrize(("rule", "options"), [("mean", {}), ("max", {"window": 0}), ("average", {"decay": 1.5})])
def test_references_out_of_range_are_refused(rule, options):
    with pytest.raises(ConfigError):
        NonmonotoneReference({}, rule, **options)
