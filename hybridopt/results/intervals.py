"""Medians of censored times, with bootstrap intervals."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Sequence

from hybridopt.results.run import DEAD, Run, Target

RESAMPLES = 2000
"""Bootstrap samples of an interval."""

FEWEST = 3
"""With fewer values there is no interval."""


@dataclasses.dataclass(frozen=True)
class MedianTime:
    """The median of times of which some are censored: known only to be later than something.

    Attributes:
        median: The median, with every censored time counted as infinitely late; infinite if half of the times or more
            are censored.
        bound: What the median exceeds at least; equal to `median` if that is finite, None if nothing is known.
        low: Lower end of the interval, None for fewer than `FEWEST` times; infinite if the interval holds no number.
        high: Upper end, None as `low`; infinite if the data do not bound the median from above.
        censored: How many of the times are censored.
        total: How many there are.
    """

    median: float
    bound: float | None
    low: float | None
    high: float | None
    censored: int
    total: int


def median_time(times: Sequence[float], ends: Sequence[float], *, level: float = 0.95, seed: int = 0) -> MedianTime:
    """Returns the median of times with its percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13).

    Censored times are infinitely late in the median and in every resample, so that an interval is never too short on
    the slow side because slow runs did not finish. Its ends are order statistics of the resampled medians, the outer
    ones where a quantile falls between two. With fewer than 6 values no interval without further assumptions reaches
    95 % coverage (that of the whole range is 1 - 2^(1-n)); the bootstrap's is then lower still.

    Args:
        times: The times; infinity for a censored one.
        ends: For every time what it exceeds if it is censored (infinity for "it will never be": a diverged run); what
            stands beside a time that is not censored is not used.
        level: Coverage that the interval aims at, in (0, 1).
        seed: Of the resampling: the same times give the same interval.

    Raises:
        ValueError: If there are no times, or not as many ends, or `level` is not between 0 and 1.

    Example:
        >>> median_time([1.0, 2.0, math.inf], [0.0, 0.0, 9.0]).median
        2.0
        >>> median_time([1.0, math.inf, math.inf], [0.0, 9.0, 8.0]).bound
        8.0
    """
    if not times or len(times) != len(ends):
        raise ValueError(f"There are {len(times)} times and {len(ends)} ends: give as many of both, at least one.")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}.")
    middle = statistics.median(times)
    bound: float | None = middle
    if math.isinf(middle):
        least = [end if math.isinf(time) else time for time, end in zip(times, ends, strict=True)]
        bound = statistics.median(least)
        if math.isinf(bound):  # most will never be: all that can be said is how long the longest was waited for
            bound = max((value for value in least if math.isfinite(value)), default=None)
    low, high = _interval(tuple(times), level, seed) if len(times) >= FEWEST else (None, None)
    return MedianTime(middle, bound, low, high, sum(map(math.isinf, times)), len(times))


def time_of_runs(runs: Sequence[Run], target: Target, axis: str) -> MedianTime | None:
    """Returns the median time to a target of the runs of one setting, None if none of them has begun.

    A run that failed or diverged will never reach the target; one that has not begun does not count.

    Args:
        runs: The runs.
        target: What they are timed to.
        axis: One of `hybridopt.results.AXES`.
    """
    found = [(run, run.time_to_target(target, axis)) for run in runs]
    found = [(run, time) for run, time in found if time.value is not None or run.state in DEAD]
    if not found:
        return None
    return median_time(
        [time.value if time.reached and time.value is not None else math.inf for _, time in found],
        [math.inf if run.state in DEAD else time.value or 0.0 for run, time in found],
    )


@functools.lru_cache(maxsize=4096)
def _interval(times: tuple[float, ...], level: float, seed: int) -> tuple[float, float]:
    import numpy

    values = numpy.asarray(times)
    chosen = numpy.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    medians = numpy.median(values[chosen], axis=1)
    tail = (1 - level) / 2
    low = numpy.quantile(medians, tail, method="lower")
    high = numpy.quantile(medians, 1 - tail, method="higher")
    return float(low), float(high)
