"""How far to go along a step and whether to take it: line searches, trust region, damping.

Pure Python floats and callables: nothing here knows tensors, models or losses. Every rule takes a noise
floor, below which differences of function values do not count, and treats non-finite values as a wall, never
as an exception.
"""

from __future__ import annotations

from hybridopt.globalization.armijo import armijo
from hybridopt.globalization.cubic import AdaptiveCubic
from hybridopt.globalization.curvilinear import curvilinear
from hybridopt.globalization.damping import LevenbergMarquardt
from hybridopt.globalization.hager_zhang import first_step, hager_zhang, next_step
from hybridopt.globalization.limits import limits
from hybridopt.globalization.noise import noise_floor, seen_length
from hybridopt.globalization.nonmonotone import NonmonotoneReference, nonmonotone
from hybridopt.globalization.polyak import polyak_rate
from hybridopt.globalization.search import LineSearchResult, LineSearchStatus
from hybridopt.globalization.stochastic_armijo import StochasticArmijo
from hybridopt.globalization.strong_wolfe import strong_wolfe
from hybridopt.globalization.trust_region import TrustRegion, check_radius

__all__ = [
    "AdaptiveCubic",
    "LevenbergMarquardt",
    "LineSearchResult",
    "LineSearchStatus",
    "NonmonotoneReference",
    "StochasticArmijo",
    "TrustRegion",
    "armijo",
    "check_radius",
    "curvilinear",
    "first_step",
    "hager_zhang",
    "limits",
    "next_step",
    "noise_floor",
    "nonmonotone",
    "polyak_rate",
    "seen_length",
    "strong_wolfe",
]
