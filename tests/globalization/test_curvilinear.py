"""The curvilinear search: its test, its directions, and what it refuses."""

from __future__ import annotations

import math

import pytest

from hybridopt.core import ConfigError
from hybridopt.globalization import curvilinear


def test_it_takes_the_first_step_that_falls_enough() -> None:
    # x^2 - y^2 + y^4 at (1, 0) along (1 - t^2, t): (1 - t^2)^2 - t^2 + t^4.
    def phi(t: float) -> float:
        return (1 - t * t) ** 2 - t * t + t**4

    result = curvilinear(phi, 1.0, -2.0, -2.0, c1=0.3)
    assert result.status == "converged"
    for step in (1.0, 0.5, 0.25):
        if phi(step) <= 1.0 + 0.3 * step**2 * (-2.0 - 1.0):
            assert result.step == step
            break
    assert result.value == phi(result.step)


def test_what_is_asked_for_shrinks_with_the_square_of_the_step() -> None:
    # A decrease of 0.2 t^2 passes for 0.15 t^2 at any length, as the first-order term is not counted on.
    result = curvilinear(lambda t: 1.0 if t > 0.5 else -0.2 * t * t, 0.0, -1.0, 0.0, c1=0.15)
    assert (result.step, result.evaluations) == (0.5, 2)


def test_a_long_way_down_is_gone_by_doubling() -> None:
    result = curvilinear(lambda t: -t * t if t < 20 else math.inf, 0.0, 0.0, -2.0, expand=10)
    assert result.step == 16.0
    assert curvilinear(lambda t: -t * t, 0.0, 0.0, -2.0, expand=2).step == 4.0


def test_a_wall_of_nan_shortens_the_step() -> None:
    result = curvilinear(lambda t: math.nan if t > 0.3 else -t * t, 0.0, 0.0, -2.0)
    assert result.step == 0.25
    assert len(result.events) == 2


def test_where_nothing_falls_it_stays() -> None:
    result = curvilinear(lambda t: t, 0.0, -1.0, 0.0, max_evaluations=7)
    assert (result.status, result.step, result.evaluations) == ("no_decrease", 0.0, 7)


@pytest.mark.parametrize(("slope", "curvature", "status"), [
    (0.0, 0.0, "not_descent"), (1.0, -5.0, "not_descent"), (-5.0, 1.0, "not_descent"), (math.nan, -1.0, "non_finite"),
])  # fmt: skip
def test_what_is_no_pair_of_directions(slope: float, curvature: float, status: str) -> None:
    result = curvilinear(lambda t: -t, 0.0, slope, curvature)
    assert (result.status, result.evaluations) == (status, 0)


def test_noise_is_forgiven() -> None:
    assert curvilinear(lambda t: 1e-12, 0.0, -1e-13, 0.0, noise=1e-11).step == 1.0
    assert curvilinear(lambda t: 1e-12, 0.0, -1e-13, 0.0).step == 0.0


@pytest.mark.parametrize("options", [{"shrink": 1.0}, {"c1": 0.0}, {"step0": 0.0}, {"max_evaluations": 0}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        curvilinear(lambda t: -t, 0.0, -1.0, 0.0, **options)
