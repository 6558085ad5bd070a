"""Statistics of censored times against numbers worked out by hand, and against SciPy."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from pathlib import Path

import pytest
import scipy.stats

from hybridopt.results import Target, load
from hybridopt.results.intervals import median_time
from hybridopt.results.paired import compare_pairs, holm, least_adjusted, sign_flip_p
from hybridopt.results.profiles import common_problems, pairwise_scores, profiles
from tests.synthetic_runs import Method, write_run

FAST = Method("fast", "first-order", 0.6, 20, {"gradient": 1}, noise=0.1)
MIDDLE = Method("middle", "newton", 0.3, 1, {"gradient": 1, "hvp": 0.5}, noise=0.1)
NEVER = Method("never", "first-order", 0.001, 20, {"gradient": 1})
GOAL = Target("validation_accuracy", 0.95, "max")
INF = math.inf


class TestMedianTime:
    def test_interval_is_scipys_percentile_bootstrap(self) -> None:
        chance = random.Random(1)
        times = [chance.lognormvariate(2, 0.5) for _ in range(25)]
        found = median_time(times, [0.0] * 25)
        peer = scipy.stats.bootstrap(
            (times,), lambda x, axis: __import__("numpy").median(x, axis=axis), method="percentile", n_resamples=20_000
        ).confidence_interval
        ordered = sorted(times)
        gap = max(b - a for a, b in itertools.pairwise(ordered[4:21]))  # both ends jump from one value to the next
        assert found.median == statistics.median(times)
        assert found.low == pytest.approx(peer.low, abs=gap)
        assert found.high == pytest.approx(peer.high, abs=gap)

    def test_ends_have_the_exact_bootstrap_quantiles(self) -> None:
        # For 1..9 the resampled median is at most k with the chance that a Binomial(9, k/9) is at least 5.
        times = [float(value) for value in range(1, 10)]
        below = [float(scipy.stats.binom.sf(4, 9, value / 9)) for value in range(1, 10)]
        found = median_time(times, [0.0] * 9)
        assert found.low == next(value for value, share in zip(times, below, strict=True) if share >= 0.025)
        assert found.high == next(value for value, share in zip(times, below, strict=True) if share >= 0.975)

    def test_censored_times_are_late(self) -> None:
        found = median_time([1.0, 2.0, 3.0, INF, INF], [0.0, 0.0, 0.0, 9.0, 9.0])
        assert (found.median, found.bound, found.censored, found.total) == (3.0, 3.0, 2, 5)
        assert found.high == INF
        assert found.low == 1.0

    def test_a_censored_median_has_a_lower_bound(self) -> None:
        half = median_time([1.0, 2.0, INF, INF], [0.0, 0.0, 40.0, 30.0])
        assert (half.median, half.bound) == (INF, 16.0)  # the middle two are 2 and at least 30
        assert median_time([INF, INF, INF], [40.0, 30.0, 20.0]).bound == 30.0
        assert median_time([INF, INF, 5.0], [INF, INF, 0.0]).bound == 5.0  # two diverged
        assert median_time([INF], [INF]).bound is None

    def test_few_values_have_no_interval(self) -> None:
        assert median_time([1.0, 2.0], [0.0, 0.0]).low is None

    def test_is_the_same_every_time(self) -> None:
        times = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]
        assert median_time(times, times) == median_time(times, times)

    def test_wrong_arguments(self) -> None:
        with pytest.raises(ValueError, match="as many of both"):
            median_time([1.0], [])
        with pytest.raises(ValueError, match="level"):
            median_time([1.0], [1.0], level=95)


class TestSignFlips:
    @pytest.mark.parametrize("count", [3, 6, 10])
    def test_is_scipys_paired_test(self, count: int) -> None:
        chance = random.Random(count)
        first = [chance.gauss(0, 1) for _ in range(count)]
        second = [chance.gauss(0.8, 1) for _ in range(count)]
        peer = scipy.stats.permutation_test(
            (first, second),
            lambda x, y, axis: (x - y).mean(axis=axis),
            permutation_type="samples",
            n_resamples=math.inf,
            vectorized=True,
        )
        differences = [a - b for a, b in zip(first, second, strict=True)]
        assert sign_flip_p(differences) == pytest.approx(peer.pvalue, abs=1e-12)

    def test_by_hand(self) -> None:
        assert sign_flip_p([1.0] * 6) == 2 / 64
        assert sign_flip_p([1.0, 1.0, -1.0]) == 1.0  # sums 3, 1, 1, 1, -1, -1, -1, -3: all at least 1 from 0
        assert sign_flip_p([0.0, 0.0]) == 1.0

    def test_many_pairs_are_sampled(self) -> None:
        chance = random.Random(3)
        values = [chance.gauss(0.4, 1) for _ in range(30)]
        peer = scipy.stats.permutation_test(
            (values, [0.0] * 30),
            lambda x, y, axis: (x - y).mean(axis=axis),
            permutation_type="samples",
            n_resamples=20_000,
            vectorized=True,
            rng=0,
        )
        assert sign_flip_p(values) == pytest.approx(peer.pvalue, abs=0.01)
        assert sign_flip_p([1.0] * 60) == 1 / 20_001

    def test_wrong_arguments(self) -> None:
        with pytest.raises(ValueError, match="finite"):
            sign_flip_p([1.0, INF])
        with pytest.raises(ValueError, match="finite"):
            sign_flip_p([])


class TestHolm:
    def test_by_hand(self) -> None:
        # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04; the last may not fall back.
        assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
        assert holm([0.6, 0.9]) == [1.0, 1.0]
        assert holm([]) == []

    def test_least(self) -> None:
        assert least_adjusted(6, 3) == pytest.approx(3 * 2 / 64)
        assert least_adjusted(3, 10) == 1.0


class TestProfiles:
    TIMES = {  # noqa: RUF012
        "a": {"x": 1.0, "y": 10.0, "z": 30.0},
        "b": {"x": 2.0, "y": 10.0, "z": INF},
        "c": {"x": 5.0, "y": 25.0, "z": 10.0},
    }

    def test_by_hand(self) -> None:
        found = profiles(self.TIMES)
        assert {name: one.ratios for name, one in found.items()} == {
            "a": [1.0, 1.0, 3.0],
            "b": [2.0, 1.0, INF],
            "c": [5.0, 2.5, 1.0],
        }
        assert found["a"].score() == pytest.approx((1 + 1 + 1 / 3) / 3)
        assert found["b"].score() == pytest.approx((2 / 3 + 1 + 0) / 3)
        assert found["c"].score() == pytest.approx((0 + 1.5 / 3 + 1) / 3)
        assert found["a"].share(1) == pytest.approx(2 / 3)
        assert found["b"].corners() == [
            (1.0, pytest.approx(1 / 3)),
            (2.0, pytest.approx(1 / 3)),
            (2.0, pytest.approx(2 / 3)),
            (4.0, pytest.approx(2 / 3)),
        ]

    def test_score_is_the_area_below_the_staircase(self) -> None:
        for one in profiles(self.TIMES, {"x": 1.0, "y": 0.5, "z": 0.5}).values():
            corners = one.corners()
            area = sum((x1 - x0) * y0 for (x0, y0), (x1, _) in itertools.pairwise(corners))
            assert one.score() == pytest.approx(area / 3)

    def test_pairwise_does_not_depend_on_third_methods(self) -> None:
        scores = pairwise_scores(self.TIMES)
        assert scores["b", "a"] == pytest.approx((2 / 3 + 1 + 0) / 3)
        assert scores["a", "b"] == 1.0
        without = pairwise_scores({name: self.TIMES[name] for name in "ab"})
        assert all(scores[pair] == score for pair, score in without.items())

    def test_unsolved_and_free_problems(self) -> None:
        found = profiles({"a": {"x": INF, "y": 0.0}, "b": {"x": INF, "y": 1.0}})
        assert found["a"].ratios == [INF, 1.0]
        assert found["b"].ratios == [INF, INF]

    def test_wrong_arguments(self) -> None:
        with pytest.raises(ValueError, match="same problems"):
            profiles({"a": {"x": 1.0}, "b": {"y": 1.0}})
        with pytest.raises(ValueError, match="same problems"):
            profiles({})

    def test_problems_are_tasks_by_seed(self, tmp_path: Path) -> None:
        for seed in range(3):
            write_run(tmp_path, method=FAST, seed=seed)
            write_run(tmp_path, method=FAST, seed=seed, task="adding_rnn")
        for seed in (1, 2, 3):
            write_run(tmp_path, method=NEVER, seed=seed)
        write_run(tmp_path, method=NEVER, seed=0, task="adding_rnn")
        write_run(tmp_path, method=MIDDLE)
        runs = load(tmp_path)
        methods = {name: {task: runs.select(optimizer=name, task=task).runs for task in runs.tasks} for name in
                   ("fast", "never", "middle")}  # fmt: skip
        goals = {"digits_cnn": GOAL, "adding_rnn": Target("validation_loss", 0.01, "min")}
        found = common_problems(methods, goals, "gradient_equivalents")
        assert found.left_out == ["middle"]
        assert found.weights == {"adding_rnn, seed 0": 1.0, "digits_cnn, seed 1": 0.5, "digits_cnn, seed 2": 0.5}
        assert all(math.isinf(time) for time in found.times["never"].values())
        (run,) = runs.select(optimizer="fast", task="digits_cnn", seed=1).runs
        assert found.times["fast"]["digits_cnn, seed 1"] == run.time_to_target().value


class TestPairs:
    def test_faster_on_every_seed(self, tmp_path: Path) -> None:
        for seed in range(7):
            write_run(tmp_path, method=FAST, seed=seed)
            write_run(tmp_path, method=NEVER, seed=seed)
            if seed < 5:
                write_run(tmp_path, method=MIDDLE, seed=seed)
        runs = load(tmp_path)
        settings = {name: runs.select(optimizer=name).runs for name in ("fast", "never", "middle")}
        found = {(one.first, one.second): one for one in compare_pairs(settings, GOAL, "gradient_equivalents")}
        against = found["fast", "never"]
        times = [run.time_to_target().value for run in settings["fast"]]
        assert against.seeds == against.wins == 7
        assert against.p == against.adjusted == 2 / 2**7  # one test only: the other pairs have too few seeds
        assert against.significant()
        assert against.ratio == pytest.approx(math.prod(time / 40.0 for time in times) ** (1 / 7))  # type: ignore[operator]
        few = found["fast", "middle"]
        assert (few.seeds, few.p, few.adjusted) == (5, None, None)
        assert not few.significant()
        assert few.ratio is not None

    def test_a_shorter_budget_is_no_defeat(self, tmp_path: Path) -> None:
        for seed in range(6):
            write_run(tmp_path, method=MIDDLE, seed=seed)
            write_run(tmp_path, method=NEVER, seed=seed, cost=3.0)  # stopped before the other one is there
        runs = load(tmp_path)
        settings = {name: runs.select(optimizer=name).runs for name in ("middle", "never")}
        (found,) = compare_pairs(settings, GOAL, "gradient_equivalents")
        assert min(run.time_to_target().value for run in settings["middle"]) > 3.0  # type: ignore[type-var]
        assert (found.wins, found.losses) == (0, 0)
        assert found.ratio == pytest.approx(1.0)
        assert found.p == 1.0

    def test_a_dead_run_is_late_not_early(self, tmp_path: Path) -> None:
        for seed in range(6):
            write_run(tmp_path, method=FAST, seed=seed)
            write_run(tmp_path, method=NEVER, seed=seed, end="diverged", cost=1.0)
        runs = load(tmp_path)
        settings = {name: runs.select(optimizer=name).runs for name in ("fast", "never")}
        (found,) = compare_pairs(settings, GOAL, "gradient_equivalents")
        assert found.losses == 0
        assert found.ratio is not None
        assert found.ratio < 1

    def test_nobody_reached_it(self, tmp_path: Path) -> None:
        for seed in range(6):
            write_run(tmp_path, method=NEVER, seed=seed)
            write_run(tmp_path, method=Method("also", "newton", 0.001, 20, {"gradient": 1}), seed=seed)
        runs = load(tmp_path)
        settings = {name: runs.select(optimizer=name).runs for name in ("never", "also")}
        (found,) = compare_pairs(settings, GOAL, "gradient_equivalents")
        assert (found.ratio, found.p) == (None, 1.0)
