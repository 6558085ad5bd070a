"""Paired permutation tests over seeds, corrected for how many there are."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from hybridopt.results.run import DEAD, Run, Target

MIN_SEEDS = 6
"""With fewer common seeds no paired permutation test can become significant at 5 %: its least p is 2 / 2^n."""

EXACT = 14
"""Up to so many pairs every pattern of signs is gone through; with more, random ones are drawn."""


@dataclasses.dataclass(frozen=True)
class PairTest:
    """Two settings compared on the seeds that both were run with.

    Attributes:
        first: Name of one setting.
        second: Name of the other.
        seeds: How many seeds both have finished runs of.
        ratio: Geometric mean over the seeds of first time / second time, below 1 if the first is faster; None without
            common seeds, or if neither reached the target in any of them.
        wins: On how many seeds the first was faster.
        losses: On how many it was slower.
        p: Two-sided p value; None with fewer than `MIN_SEEDS` common seeds.
        adjusted: The p value after Holm's correction for all tests of the comparison; None as `p`.
    """

    first: str
    second: str
    seeds: int
    ratio: float | None
    wins: int
    losses: int
    p: float | None
    adjusted: float | None

    def significant(self, level: float = 0.05) -> bool:
        """Tells whether the difference is significant after correction.

        Args:
            level: Chance of at least one false finding in the whole comparison.
        """
        return self.adjusted is not None and self.adjusted <= level


def sign_flip_p(differences: Sequence[float], *, resamples: int = 20_000, seed: int = 0) -> float:
    """Returns the two-sided p value of the paired permutation test that the differences are symmetric around 0.

    Under the hypothesis the sign of every difference is a coin toss; the p value is the share of sign patterns whose
    sum is at least as far from 0 as the one seen. Exact for up to `EXACT` differences, else from random patterns, with
    the one seen counted among them (Phipson and Smyth 2010), so that it is never 0.

    Args:
        differences: One a pair, finite.
        resamples: Random patterns.
        seed: Of the random patterns.

    Raises:
        ValueError: If there are no differences, or one is not finite.

    Example:
        >>> sign_flip_p([1.0, 2.0, 3.0])
        0.25
    """
    import numpy

    values = numpy.asarray(differences, dtype=float)
    if values.size == 0 or not numpy.isfinite(values).all():
        raise ValueError("The differences must be finite, and at least one.")
    seen = abs(values.sum())
    slack = 1e-12 * numpy.abs(values).sum()  # patterns with the same sum in exact arithmetic count as the same
    if values.size <= EXACT:
        signs = numpy.array(list(itertools.product((-1.0, 1.0), repeat=values.size)))
        return float(numpy.mean(numpy.abs(signs @ values) >= seen - slack))
    signs = numpy.random.default_rng(seed).choice((-1.0, 1.0), size=(resamples, values.size))
    extreme = int(numpy.sum(numpy.abs(signs @ values) >= seen - slack))
    return (extreme + 1) / (resamples + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p values adjusted by Holm's step-down method (Holm 1979), in the order given.

    Those at most alpha may all be called significant with a chance of at most alpha that any of them is a false
    finding, however the tests depend on one another.

    Args:
        p_values: Unadjusted p values.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def least_adjusted(seeds: int, tests: int) -> float:
    """Returns the smallest adjusted p value that so many seeds and tests allow.

    Args:
        seeds: Common seeds.
        tests: Comparisons that are corrected for.
    """
    return min(1.0, tests * 2.0 ** (1 - seeds))


def compare_pairs(settings: Mapping[str, Sequence[Run]], target: Target, axis: str) -> list[PairTest]:
    """Compares every two settings by their times to a target, paired by seed.

    Times of a pair of settings are restricted to what both were observed for: a run that was stopped by its budget
    before the target says "later than this", and nobody's time counts as more than the earliest such end. A run that
    failed or diverged counts as slow as that, or as the slowest run of the two settings. The test statistic is the
    mean log ratio of the restricted times. Runs that are not over do not count.

    Args:
        settings: Runs by the name of their setting; all of one task.
        target: What they are timed to.
        axis: One of `hybridopt.results.AXES`.

    Returns:
        One test for every two settings, with Holm's correction over all of them.
    """
    finished = {name: _finished(runs) for name, runs in settings.items()}
    tests = [
        _compare(first, second, finished[first], finished[second], target, axis)
        for first, second in itertools.combinations(settings, 2)
    ]
    tested = [place for place, test in enumerate(tests) if test.p is not None]
    for place, adjusted in zip(tested, holm([tests[place].p or 0.0 for place in tested]), strict=True):
        tests[place] = dataclasses.replace(tests[place], adjusted=adjusted)
    return tests


def _finished(runs: Sequence[Run]) -> dict[int, Run]:
    return {run.seed: run for run in runs if run.seed is not None and (run.state == "done" or run.state in DEAD)}


def _compare(
    first: str, second: str, left: Mapping[int, Run], right: Mapping[int, Run], target: Target, axis: str
) -> PairTest:
    seeds = sorted(left.keys() & right.keys())
    pairs = [(left[seed], right[seed]) for seed in seeds]
    times = [(a.time_to_target(target, axis), b.time_to_target(target, axis)) for a, b in pairs]
    flat = [(run, time) for pair in zip(pairs, times, strict=True) for run, time in zip(*pair, strict=True)]
    ends = [time.value for run, time in flat if not time.reached and run.state not in DEAD and time.value is not None]
    known = [time.value for _, time in flat if time.value is not None]
    if not any(time.reached for _, time in flat) or max(known) <= 0:
        return PairTest(first, second, len(seeds), None, 0, 0, 1.0 if len(seeds) >= MIN_SEEDS else None, None)
    horizon = min(ends) if ends else max(known)
    least = 1e-6 * max(known)  # a target that is met before the first step takes no time: its logarithm must exist
    logs = []
    for pair in times:
        a, b = (time.value if time.reached and time.value is not None else math.inf for time in pair)
        logs.append(math.log(max(least, min(a, horizon)) / max(least, min(b, horizon))))
    return PairTest(
        first,
        second,
        len(seeds),
        math.exp(sum(logs) / len(logs)),
        sum(value < 0 for value in logs),
        sum(value > 0 for value in logs),
        sign_flip_p(logs) if len(seeds) >= MIN_SEEDS else None,
        None,
    )
