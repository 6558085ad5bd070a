"""Levenberg-Marquardt damping."""

from __future__ import annotations

import math

import pytest

from hybridopt.core.errors import ConfigError
from hybridopt.globalization import LevenbergMarquardt


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.2, 1.5),
        (0.25, 1.0),
        (0.5, 1.0),
        (0.75, 1.0),
        (0.8, 2 / 3),
        (-3.0, 1.5),
        (math.nan, 1.5),
        (-math.inf, 1.5),
    ],
)
def test_rule_of_martens(ratio, expected):
    assert LevenbergMarquardt().update(1.0, ratio) == pytest.approx(expected)


def test_bounds():
    rule = LevenbergMarquardt(min_damping=0.5, max_damping=2.0)
    assert rule.update(0.6, 1.0) == 0.5
    assert rule.update(1.9, 0.0) == 2.0
    assert rule.update(0.0, 0.0) == 0.5, "zero damping could never rise again"


def test_constants_are_checked():
    for options in (
        {"lower": 0.9},
        {"increase": 1.0},
        {"decrease": 1.5},
        {"min_damping": 0.0},
        {"max_damping": 1e-20},
    ):
        with pytest.raises(ConfigError):
            LevenbergMarquardt(**options)


def test_nothing_here_needs_torch():
    import subprocess
    import sys

    code = (
        "import sys; from hybridopt.globalization import strong_wolfe; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
