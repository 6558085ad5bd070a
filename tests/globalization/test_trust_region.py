"""Ratio, acceptance and radius of a trust region."""

from __future__ import annotations

import dataclasses
import math

import pytest

from hybridopt.core.errors import ConfigError
from hybridopt.globalization import TrustRegion


def test_ratio_is_actual_over_predicted():
    assert TrustRegion().ratio(0.5, 2.0) == 0.25
    assert TrustRegion().ratio(-1.0, 2.0) == -0.5
    assert TrustRegion().ratio(1.0, 2.0, noise=1e-9) == pytest.approx(0.5)


@pytest.mark.parametrize(("actual", "predicted"), [(5e-10, 1e-10), (-9e-10, 1e-10), (0.0, 0.0), (1e-9, 1e-9)])
def test_ratio_is_one_inside_the_noise_floor(actual, predicted):
    assert TrustRegion().ratio(actual, predicted, noise=1e-9) == 1.0


def test_noise_floor_has_no_cliff():
    # A step predicted just above the floor, its measured decrease lost in the noise, is not punished.
    region = TrustRegion()
    assert region.ratio(-0.5e-9, 1.1e-9, noise=1e-9) > 0
    assert region.ratio(-1e-6, 1e-9, noise=1e-9) < 0
    assert not region.accept(region.ratio(-1e-6, 1e-10, noise=1e-9))


@pytest.mark.parametrize(
    ("actual", "predicted"),
    [
        (math.nan, 1.0),
        (math.inf, 1.0),
        (-math.inf, 1.0),
        (1.0, math.nan),
        (1.0, math.inf),
        (1.0, 0.0),
        (1.0, -1.0),
    ],
)
def test_what_cannot_be_believed_has_ratio_minus_infinity(actual, predicted):
    region = TrustRegion()
    ratio = region.ratio(actual, predicted, noise=1e-12)
    assert ratio == -math.inf
    assert not region.accept(ratio)
    assert region.update(1.0, ratio, 0.5, False) == 0.125


def test_accept():
    region = TrustRegion(eta1=0.1)
    assert region.accept(0.11)
    assert region.accept(1.0)
    for ratio in (0.1, 0.0, -1.0, math.nan, -math.inf):
        assert not region.accept(ratio)


def test_update():
    region = TrustRegion(max_radius=3.0, min_radius=0.01)
    assert region.update(1.0, 0.9, 1.0, True) == 2.0
    assert region.update(1.0, 0.9, 0.3, False) == 1.0, "the radius was not in the way"
    assert region.update(1.0, 0.5, 1.0, True) == 1.0
    assert region.update(1.0, 0.1, 1.0, True) == 0.25
    assert region.update(1.0, 0.1, 0.2, False) == 0.05, "or the same step would be tried again"
    assert region.update(1.0, math.nan, math.nan, False) == 0.25
    assert region.update(2.0, 0.9, 2.0, True) == 3.0
    assert region.update(0.02, -1.0, 0.02, True) == 0.01
    assert region.update(0.25, 0.25, 0.1, False) == 0.25


def test_constants_are_checked_and_frozen():
    for options in (
        {"eta1": 0.5},
        {"eta2": 1.0},
        {"eta2": 0.1},
        {"eta1": -0.1},
        {"shrink": 1.0},
        {"grow": 1.0},
    ):
        with pytest.raises(ConfigError):
            TrustRegion(**options)
    with pytest.raises(ConfigError):
        TrustRegion(min_radius=2.0, max_radius=1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrustRegion().eta1 = 0.2
