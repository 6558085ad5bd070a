"""Reads finished and running experiments back: one record a run, curves, times to target, pandas frames.

    >>> import hybridopt.results as results          # doctest: +SKIP
    >>> sweep = results.load("outputs/quickstart")   # doctest: +SKIP
    >>> sweep.runs_frame()                           # doctest: +SKIP

`results.intervals`, `results.paired` and `results.profiles` hold the statistics: medians of censored times with
bootstrap intervals, paired permutation tests with Holm's correction, performance profiles with their area.

Nothing here imports torch or needs the code that made the runs. Histories are read when they are first asked
for, so loading a thousand runs is quick; torn last lines, missing files and runs that are still going are no
errors.
"""

from __future__ import annotations

from hybridopt.results.collection import Results
from hybridopt.results.intervals import MedianTime, median_time, time_of_runs
from hybridopt.results.loading import load
from hybridopt.results.paired import PairTest, compare_pairs, holm, sign_flip_p
from hybridopt.results.profiles import Profile, common_problems, pairwise_scores, profiles
from hybridopt.results.run import AXES, STATES, Curve, Run, Target, TimeToTarget
from hybridopt.results.sensitivity import Sensitivity, sensitivities

__all__ = [
    "AXES",
    "STATES",
    "Curve",
    "MedianTime",
    "PairTest",
    "Profile",
    "Results",
    "Run",
    "Sensitivity",
    "Target",
    "TimeToTarget",
    "common_problems",
    "compare_pairs",
    "holm",
    "load",
    "median_time",
    "pairwise_scores",
    "profiles",
    "sensitivities",
    "sign_flip_p",
    "time_of_runs",
]
