"""Reads finished and running experiments back: one record a run, curves, times to target, pandas frames.

    >>> import hybridopt.results as results          # doctest: +SKIP
    >>> sweep = results.load("outputs/quickstart")   # doctest: +SKIP
    >>> sweep.runs_frame()                           # doctest: +SKIP

Nothing here imports torch or needs the code that made the runs. Histories are read when they are first asked
for, so loading a thousand runs is quick; torn last lines, missing files and runs that are still going are no
errors.
"""

from __future__ import annotations

from hybridopt.results.collection import Results
from hybridopt.results.loading import load
from hybridopt.results.run import AXES, STATES, Curve, Run, Target, TimeToTarget

__all__ = ["AXES", "STATES", "Curve", "Results", "Run", "Target", "TimeToTarget", "load"]
