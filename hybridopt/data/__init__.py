"""Data policies: which samples a step sees for its gradient, its curvature and its pairs.

A policy draws a batch and gives the optimizer an objective on it. What it remembers goes into the checkpoint.
"""

from __future__ import annotations

from hybridopt.core import Registry
from hybridopt.data.batches import Batches
from hybridopt.data.policy import DataPolicy

registry = Registry(
    "data policy",
    {
        "one": "hybridopt.data.policy:One",
        "curvature": "hybridopt.data.curvature:CurvatureBatch",
        "overlap": "hybridopt.data.overlap:Overlap",
        "growing": "hybridopt.data.growing:Growing",
        "resample": "hybridopt.data.resample:Resample",
    },
    entry_points="hybridopt.data",
)
register = registry.register

__all__ = ["Batches", "DataPolicy", "register", "registry"]
