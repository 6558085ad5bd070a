"""What the report says about methods against each other: profiles over all tasks, tests within one."""

from __future__ import annotations

import dataclasses

from hybridopt.report.ranking import RankingRow, targets_of, timed_alone, timing_of
from hybridopt.report.text import number, plural
from hybridopt.results import PairTest, Profile, Results, Run, common_problems, compare_pairs, pairwise_scores, profiles
from hybridopt.results.paired import MIN_SEEDS, least_adjusted

AXES = {"gradient_equivalents": "gradient-equivalents", "seconds": "seconds"}

FEWEST = 4
"""Problems from which on there are profiles: a staircase of two or three steps says no more than the ranking."""

SHOWN = 14
"""Methods in profiles and pairwise tables at most: the best ones."""

PROFILE_NOTE = (
    "The height of a line at x is the share of problems that the method solved in at most x times what the best method "
    "took (Dolan and Moré). A problem is a task with one seed; every task has the same weight, and what is slower than "
    "4 times the best counts as not solved. The score is the area below the line, as in AlgoPerf: 1 is the best "
    "method everywhere. Profiles depend on which methods are compared; the score against one other method alone does "
    "not."
)
PAIRS_NOTE = (
    "Above 1: the method of the row is slower than that of the column, by this factor (geometric mean over common "
    "seeds; where a run stopped before the target, both are counted up to there). Bold is significant at 5 %: paired "
    "permutation test by seed, with Holm's correction for all comparisons of the table; grey is not."
)


@dataclasses.dataclass(frozen=True)
class ProfileComparison:
    """Performance profiles of all methods on one axis.

    Attributes:
        axis: The axis, one of `AXES`.
        profiles: The best methods' profiles, by falling score.
        pairwise: Score of one method against another one alone, by both names.
        problems: How many problems there are.
        tasks: Of which tasks.
        left_out: Methods that were not run on every task.
        more: How many methods with lower scores are not shown.
    """

    axis: str
    profiles: list[Profile]
    pairwise: dict[tuple[str, str], float]
    problems: int
    tasks: list[str]
    left_out: list[str]
    more: int


def compare_profiles(results: Results, axis: str) -> ProfileComparison | None:
    """Returns the profiles of all methods, None without two methods and `FEWEST` problems, or if nobody solved any.

    Seconds are compared only if every run had its machine alone.

    Args:
        results: All runs.
        axis: One of `AXES`.
    """
    if axis == "seconds" and timing_of(results.runs) != "exclusive":
        return None
    labels = results.labels()
    methods: dict[str, dict[str, list[Run]]] = {}
    for run in results.runs:
        methods.setdefault(labels[run.setting], {}).setdefault(run.task, []).append(run)
    goals = {task: targets_of(results.select(task=task).runs)[:1] for task in results.tasks}
    found = common_problems(methods, {task: goal[0] for task, goal in goals.items() if goal}, axis)
    if len(found.times) < 2 or len(found.weights) < FEWEST:
        return None
    if not any(time < float("inf") for own in found.times.values() for time in own.values()):
        return None
    ordered = sorted(profiles(found.times, found.weights).values(), key=lambda one: (-one.score(), one.name))
    shown = ordered[:SHOWN]
    scores = pairwise_scores({one.name: found.times[one.name] for one in shown}, found.weights)
    return ProfileComparison(
        axis, shown, scores, len(found.weights), found.tasks, found.left_out, len(ordered) - len(shown)
    )


def profile_facts(found: ProfileComparison) -> str:
    """Returns on what the profiles stand, as one sentence.

    Args:
        found: The comparison.
    """
    text = f"{plural(found.problems, 'problem')} from {plural(len(found.tasks), 'task')} ({', '.join(found.tasks)})."
    if found.more:
        text += f" {plural(found.more, 'method')} with lower scores not shown."
    if found.left_out:
        text += f" Left out, as they were not run on every task: {', '.join(found.left_out)}."
    return text


@dataclasses.dataclass(frozen=True)
class PairTable:
    """Every two of a task's best methods against each other.

    Attributes:
        axis: The axis, one of `AXES`.
        names: The methods, in the ranking's order.
        tests: Tests by (method, opponent), for every ordered pair; ratio, wins and losses are the method's.
        note: What the tests can show: how many seeds there are, and whether that is enough.
    """

    axis: str
    names: list[str]
    tests: dict[tuple[str, str], PairTest]
    note: str


def compare_methods(results: Results, rows: list[RankingRow], axis: str) -> PairTable | None:
    """Returns the pairwise tests of one task, None without a target, two methods and two common seeds.

    Args:
        results: Runs of the task.
        rows: Its ranking.
        axis: One of `AXES`.
    """
    if axis == "seconds":
        rows = timed_alone(rows)
    targets = targets_of(results.runs)
    if not targets:
        return None
    settings = results.settings()
    best = {row.label: settings[row.setting] for row in rows if row.rank is not None}
    best = dict(list(best.items())[:SHOWN])
    found = compare_pairs(best, targets[0], axis)
    seeds = [test.seeds for test in found]
    if not seeds or max(seeds) < 2:
        return None
    tests = {(test.first, test.second): test for test in found}
    tests |= {(test.second, test.first): _turned(test) for test in found}
    return PairTable(axis, list(best), tests, _power(found))


def _turned(test: PairTest) -> PairTest:
    ratio = None if test.ratio is None else 1 / test.ratio
    return dataclasses.replace(
        test, first=test.second, second=test.first, ratio=ratio, wins=test.losses, losses=test.wins
    )


def _power(tests: list[PairTest]) -> str:
    """What so many seeds and comparisons can show at all."""
    tested = [test for test in tests if test.p is not None]
    few, many = min(test.seeds for test in tests), max(test.seeds for test in tests)
    seeds = plural(few, "common seed") if few == many else f"{few} to {many} common seeds"
    if not tested:
        return f"{seeds}: too few for a test ({MIN_SEEDS} are needed), so nothing here is called significant."
    text = f"{seeds}, {plural(len(tested), 'test')}."
    if len(tested) < len(tests):
        text += f" Pairs with fewer than {MIN_SEEDS} common seeds are not tested."
    least = least_adjusted(max(test.seeds for test in tested), len(tested))
    if least > 0.05:
        text += (
            f" The smallest p value that so few seeds and so many tests allow is {number(least, 2)}, so nothing can be "
            "significant: run more seeds, or compare fewer methods."
        )
    return text


def pair_title(test: PairTest) -> str:
    """Returns what stands behind one cell of the table.

    Args:
        test: The test.
    """
    count = f"faster on {test.wins}, slower on {test.losses} of {plural(test.seeds, 'seed')}"
    if test.p is None or test.adjusted is None:
        return f"{test.first} against {test.second}: {count}; too few seeds for a test"
    return f"{test.first} against {test.second}: {count}; p {number(test.p, 2)}, corrected {number(test.adjusted, 2)}"
