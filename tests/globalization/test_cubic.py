"""The rule of adaptive cubic regularization."""

from __future__ import annotations

import math

import pytest

from hybridopt.core.errors import ConfigError
from hybridopt.globalization import AdaptiveCubic


@pytest.mark.parametrize(
    ("ratio", "accepted", "sigma"),
    [
        (-math.inf, False, 6.0),
        (math.nan, False, 6.0),
        (-1.0, False, 6.0),
        (0.1, False, 6.0),
        (0.11, True, 3.0),
        (0.9, True, 3.0),
        (0.91, True, 1.5),
        (50.0, True, 1.5),
    ],
)
def test_three_kinds_of_steps(ratio: float, accepted: bool, sigma: float) -> None:
    rule = AdaptiveCubic()
    assert rule.accept(ratio) is accepted
    assert rule.update(3.0, ratio) == sigma


def test_the_weight_stays_within_its_bounds() -> None:
    rule = AdaptiveCubic(min_sigma=0.5, max_sigma=4.0)
    assert rule.update(0.6, 1.0) == 0.5
    assert rule.update(3.0, -1.0) == 4.0


def test_the_ratio_believes_what_the_values_cannot_judge() -> None:
    rule = AdaptiveCubic()
    assert rule.ratio(-1e-17, 1e-17, noise=1e-15) == 1.0
    assert rule.ratio(0.5, 1.0) == 0.5
    assert rule.ratio(math.nan, 1.0) == -math.inf


@pytest.mark.parametrize(
    "options",
    [
        {"eta1": 0.9, "eta2": 0.1},
        {"eta2": 1.0},
        {"eta1": -0.1},
        {"grow": 1.0},
        {"shrink": 0.0},
        {"min_sigma": 0.0},
        {"min_sigma": 2.0, "max_sigma": 1.0},
    ],
)
def test_senseless_constants_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="Cubic regularization needs"):
        AdaptiveCubic(**options)
