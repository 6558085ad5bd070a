"""Performance profiles, and the area below them as a score."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from hybridopt.results.run import Run, Target

FURTHEST = 4.0
"""Ratio up to which a profile is drawn and its area taken, as in AlgoPerf: slower than that counts as not at all."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """One method's performance profile (Dolan and More 2002).

    Attributes:
        name: The method.
        ratios: For every problem the method's time over the best method's, infinite if it did not solve it.
        weights: Weight of every problem, in the same order, of sum 1.
    """

    name: str
    ratios: list[float]
    weights: list[float]

    def share(self, tau: float) -> float:
        """Returns the share of problems, in [0, 1], that are solved in at most `tau` times the best time.

        Args:
            tau: A ratio, at least 1.
        """
        return self._mean([float(ratio <= tau) for ratio in self.ratios])

    def score(self, furthest: float = FURTHEST) -> float:
        """Returns the mean height of the profile over ratios from 1 to `furthest`, in [0, 1], exactly.

        That is AlgoPerf's benchmark score; 1 says that the method is the best one everywhere.

        Args:
            furthest: The largest ratio that counts, above 1.
        """
        return self._mean([max(0.0, furthest - ratio) / (furthest - 1) for ratio in self.ratios])

    def corners(self, furthest: float = FURTHEST) -> list[tuple[float, float]]:
        """Returns the corners of the profile as a staircase from ratio 1 to `furthest`.

        Args:
            furthest: The largest ratio.
        """
        height = self.share(1.0)
        points = [(1.0, height)]
        for tau in sorted({ratio for ratio in self.ratios if 1.0 < ratio <= furthest}):
            points.append((tau, height))
            height = self.share(tau)
            points.append((tau, height))
        return [*points, (furthest, height)]

    def _mean(self, values: list[float]) -> float:
        """The weighted mean; the division makes it exact for equal values, so that no score exceeds 1 by rounding."""
        pairs = zip(values, self.weights, strict=True)
        return math.fsum(value * weight for value, weight in pairs) / math.fsum(self.weights)


def profiles(
    times: Mapping[str, Mapping[str, float]], weights: Mapping[str, float] | None = None
) -> dict[str, Profile]:
    """Returns the performance profiles of methods on problems.

    A problem that nobody solved is solved by none: it lowers every profile. Profiles and scores depend on which
    methods are compared; see `pairwise_scores` for scores that do not.

    Args:
        times: Time by method and problem, infinite for "not solved"; every method needs every problem.
        weights: Weight by problem; None: all the same.

    Raises:
        ValueError: If methods were not given the same problems, or there are none.

    Example:
        >>> found = profiles({"a": {"x": 1.0, "y": 4.0}, "b": {"x": 2.0, "y": 2.0}})
        >>> found["a"].ratios, round(found["a"].score(), 4), round(found["b"].score(), 4)
        ([1.0, 2.0], 0.8333, 0.8333)
    """
    problems = list(next(iter(times.values()), {}))
    if not problems or any(set(own) != set(problems) for own in times.values()):
        raise ValueError("Every method needs a time, which may be infinite, on the same problems.")
    whole = sum(weights[problem] for problem in problems) if weights else len(problems)
    shares = [(weights[problem] if weights else 1.0) / whole for problem in problems]
    best = {problem: min(own[problem] for own in times.values()) for problem in problems}
    return {
        name: Profile(name, [_ratio(own[problem], best[problem]) for problem in problems], shares)
        for name, own in times.items()
    }


def pairwise_scores(
    times: Mapping[str, Mapping[str, float]], weights: Mapping[str, float] | None = None
) -> dict[tuple[str, str], float]:
    """Returns the score of every method against every other one alone, by (method, opponent).

    Args:
        times: As in `profiles`.
        weights: As in `profiles`.
    """
    scores = {}
    for name in times:
        for other in times:
            if name != other:
                scores[name, other] = profiles({name: times[name], other: times[other]}, weights)[name].score()
    return scores


@dataclasses.dataclass(frozen=True)
class Problems:
    """Times of methods on the problems that all of them were run on.

    Attributes:
        times: Time by method and problem, infinite if the target was not reached.
        weights: Weight by problem: every task has the same, shared by its seeds.
        tasks: The tasks that the problems belong to.
        left_out: Methods that lack one of these tasks.
    """

    times: dict[str, dict[str, float]]
    weights: dict[str, float]
    tasks: list[str]
    left_out: list[str]


def common_problems(
    methods: Mapping[str, Mapping[str, list[Run]]], targets: Mapping[str, Target], axis: str
) -> Problems:
    """Returns the times of methods on their common problems; a problem is a task with one seed.

    Methods that were not run on every task are left out. Of every task those seeds count that all remaining methods
    have finished runs of; a task without such a seed does not count.

    Args:
        methods: Runs by method and task.
        targets: Target by task; tasks without one do not count.
        axis: One of `hybridopt.results.AXES`.
    """
    tasks = [task for task in dict.fromkeys(task for own in methods.values() for task in own) if task in targets]
    kept = {name: own for name, own in methods.items() if all(own.get(task) for task in tasks)}
    times: dict[str, dict[str, float]] = {name: {} for name in kept}
    weights: dict[str, float] = {}
    used = []
    for task in tasks:
        by_seed = {name: _by_seed(own[task]) for name, own in kept.items()}
        seeds = set.intersection(*(set(own) for own in by_seed.values())) if by_seed else set()
        for seed in sorted(seeds, key=str):
            problem = f"{task}, seed {seed}"
            weights[problem] = 1 / len(seeds)
            for name, own in by_seed.items():
                time = own[seed].time_to_target(targets[task], axis)
                times[name][problem] = time.value if time.reached and time.value is not None else math.inf
        if seeds:
            used.append(task)
    return Problems(times, weights, used, [name for name in methods if name not in kept])


def _by_seed(runs: list[Run]) -> dict[object, Run]:
    return {run.seed: run for run in runs if run.state in ("done", "failed", "diverged")}


def _ratio(time: float, best: float) -> float:
    if math.isinf(time):
        return math.inf
    return time / best if best > 0 else (1.0 if time <= 0 else math.inf)
