"""One-dimensional functions that the line-search tests share: name -> (phi, phi')."""

from __future__ import annotations

import math

import pytest

SMOOTH = {
    "parabola": (lambda t: (t - 1.7) ** 2, lambda t: 2 * (t - 1.7)),
    "quartic": (lambda t: (t - 4.0) ** 4, lambda t: 4 * (t - 4.0) ** 3),
    "exponential": (lambda t: math.exp(min(t, 700.0)) - 30.0 * t, lambda t: math.exp(min(t, 700.0)) - 30.0),
    "oscillating": (lambda t: 0.1 * t * t - t - math.sin(3 * t), lambda t: 0.2 * t - 1 - 3 * math.cos(3 * t)),
    # More and Thuente (1994), functions (5.1) with beta = 2, (5.2) and (5.4)-like.
    "more-thuente 1": (lambda t: -t / (t * t + 2), lambda t: (t * t - 2) / (t * t + 2) ** 2),
    "more-thuente 2": (
        lambda t: (t + 0.004) ** 5 - 2 * (t + 0.004) ** 4,
        lambda t: 5 * (t + 0.004) ** 4 - 8 * (t + 0.004) ** 3,
    ),
    "more-thuente 4": (
        lambda t: 0.999 * math.sqrt((1 - t) ** 2 + 1e-6) + 1e-3 * math.sqrt(t * t + 1),
        lambda t: -0.999 * (1 - t) / math.sqrt((1 - t) ** 2 + 1e-6) + 1e-3 * t / math.sqrt(t * t + 1),
    ),
}
for _beta in (0.3, 5.0):
    SMOOTH[f"log-cosh {_beta}"] = (
        lambda t, b=_beta: math.log(math.cosh(min(b * (t - 1), 300.0))) + 0.01 * t * t,
        lambda t, b=_beta: b * math.tanh(b * (t - 1)) + 0.02 * t,
    )


def _counted(phi, slope):
    """phi and its slope as strong_wolfe wants them, the step as payload, and the list of steps tried."""
    steps = []

    def both(t):
        steps.append(t)
        return phi(t), slope(t), ("payload", t)

    return both, steps


@pytest.fixture(params=SMOOTH)
def smooth(request):
    """Each of the functions in turn."""
    return SMOOTH[request.param]


@pytest.fixture
def functions():
    """All of them by name."""
    return SMOOTH


@pytest.fixture
def counted():
    """See `_counted`."""
    return _counted
