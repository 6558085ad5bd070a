"""The ranking says who reached the target at what cost, and does not beautify those who did not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from hybridopt.experiment.layout import write_config
from hybridopt.experiment.lock import RunLock
from hybridopt.report import ranking_table, ranking_texts, standing
from hybridopt.report.facts import cost_table, event_table, failures, provenance
from hybridopt.report.phases import phase_table, phase_texts
from hybridopt.report.ranking import Time, median
from hybridopt.report.text import DASH, number
from hybridopt.results import Results, load
from tests.synthetic_runs import METHODS, Method, config_of, write_quickstart, write_run

FAST = Method("fast", "first-order", 0.6, 20, {"gradient": 1})
MIDDLE = Method("middle", "newton", 0.3, 1, {"gradient": 1, "hvp": 0.5})
SLOW = Method("slow", "first-order", 0.02, 20, {"gradient": 1})
SLOWER = Method("slower", "first-order", 0.01, 20, {"gradient": 1})


def ranked(directory: Path, **options: int) -> list[tuple[int | None, str]]:
    return [(row.rank, row.label) for row in ranking_table(load(directory), **options)]


def edit_status(directory: Path, **changes: object) -> None:
    path = directory / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class TestOrder:
    def test_by_time_to_target_then_by_how_near(self, tmp_path: Path) -> None:
        for method in (SLOWER, MIDDLE, SLOW, FAST):
            write_run(tmp_path, method=method)
        assert ranked(tmp_path) == [(1, "fast"), (2, "middle"), (3, "slow"), (4, "slower")]

    def test_every_task_has_its_own(self, tmp_path: Path) -> None:
        write_quickstart(tmp_path)
        rows = ranking_table(load(tmp_path))
        assert [row.task for row in rows] == ["adding_rnn"] * len(METHODS) + ["digits_cnn"] * len(METHODS)
        assert [row.rank for row in rows] == [*range(1, len(METHODS) + 1)] * 2

    def test_what_has_not_started_has_no_rank(self, tmp_path: Path) -> None:
        write_run(tmp_path, method=FAST)
        write_config(tmp_path / "pending", config_of("digits_cnn", MIDDLE, 0))
        assert ranked(tmp_path) == [(1, "fast"), (None, "middle")]
        texts = ranking_texts(ranking_table(load(tmp_path)))[1]
        assert texts["status"] == "pending"
        assert texts["final train loss"] == texts["to target [gradient-equivalents]"] == "–"

    def test_the_other_target(self, tmp_path: Path) -> None:
        write_run(tmp_path, method=FAST)
        write_run(tmp_path, task="adding_rnn", method=FAST)
        rows = ranking_table(load(tmp_path), target=1)
        assert [(row.task, str(row.target)) for row in rows] == [("digits_cnn", "train loss ≤ 0.05")]

    def test_task_without_target_goes_by_training_loss(self, tmp_path: Path) -> None:
        for method in (SLOW, FAST):
            directory = write_run(tmp_path, method=method, provenance=False)
            edit_status(directory, targets=[])
        assert ranked(tmp_path) == [(1, "fast"), (2, "slow")]
        assert ranking_texts(ranking_table(load(tmp_path)))[0]["target reached"] == "–"


class TestTimes:
    def test_both_costs_and_the_right_numbers(self, tmp_path: Path) -> None:
        write_run(tmp_path, method=FAST)
        (row,) = ranking_table(load(tmp_path))
        (run,) = load(tmp_path).runs
        first = next(one for one in run.evaluations if one["validation_accuracy"] >= 0.95)
        assert row.gradient_equivalents.value == first["gradient_equivalents"]
        assert row.seconds.value == first["seconds"]
        assert row.train_loss == run.evaluations[-1]["train_loss"]
        assert row.validation == max(one["validation_accuracy"] for one in run.evaluations)
        assert row.test == run.status["summary"]["best_test_accuracy"]
        assert row.test_metric == "test_accuracy"
        assert row.family == "first-order"

    def test_not_reached_says_in_how_much(self, tmp_path: Path) -> None:
        write_run(tmp_path, method=SLOW)
        (row,) = ranking_table(load(tmp_path))
        assert row.reached == 0
        assert str(row.gradient_equivalents) == "> 40.0"

    def test_running_has_not_reached_it_yet(self, tmp_path: Path) -> None:
        directory = write_run(tmp_path, method=SLOW, end="running")
        lock = RunLock(directory)
        (row,) = ranking_table(load(tmp_path))
        lock.release()
        assert row.status == "running"
        assert str(row.gradient_equivalents) == "not yet at 20.0"

    def test_median_over_seeds_counts_misses_as_late(self, tmp_path: Path) -> None:
        times = []
        for seed in range(5):
            directory = write_run(tmp_path, method=FAST, seed=seed)
            status = json.loads((directory / "status.json").read_text())
            target = status["targets"][0]
            if seed < 2:
                target.update(reached=False, step=None, gradient_equivalents=None, seconds=None)
                (directory / "history.jsonl").write_text("")
            else:
                times.append(target["gradient_equivalents"])
            edit_status(directory, targets=[target])
        (row,) = ranking_table(load(tmp_path))
        assert (row.reached, row.runs) == (3, 5)
        assert row.gradient_equivalents.value == max(times)  # the median of 3 times and 2 infinities

    def test_missed_by_most_is_censored(self, tmp_path: Path) -> None:
        write_run(tmp_path, method=FAST, seed=0)
        for seed in (1, 2):
            directory = write_run(tmp_path, method=FAST, seed=seed)
            (directory / "history.jsonl").write_text("")
            edit_status(directory, targets=[{"metric": "validation_accuracy", "value": 0.95, "mode": "max"}])
        (row,) = ranking_table(load(tmp_path))
        assert row.reached == 1
        assert str(row.gradient_equivalents) == "> 40.0"
        assert ranking_texts([row])[0]["target reached"] == "1/3"

    def test_time_texts(self) -> None:
        assert str(Time(12.3456, None, True)) == "12.3"
        assert str(Time(None, None, True)) == "–"
        assert str(Time(12.3456, None, True, 11.0, math.inf)) == "12.3 [11.0, ∞)"
        assert str(Time(12.3456, None, True, 11.0, 14.2)) == "12.3 [11.0, 14.2]"

    def test_seeds_have_an_interval_around_the_median(self, tmp_path: Path) -> None:
        for seed in range(6):
            write_run(tmp_path, method=FAST, seed=seed)
        (row,) = ranking_table(load(tmp_path))
        times = [run.time_to_target().value for run in load(tmp_path).runs]
        assert min(times) <= row.gradient_equivalents.low <= row.gradient_equivalents.value  # type: ignore[operator, type-var]
        assert row.gradient_equivalents.value <= row.gradient_equivalents.high <= max(times)  # type: ignore[operator, type-var]
        assert row.gradient_equivalents.interval in ranking_texts([row])[0]["to target [gradient-equivalents]"]

    def test_died_at_the_start_does_not_lower_what_is_known(self, tmp_path: Path) -> None:
        for seed in range(3):
            directory = write_run(tmp_path, method=SLOW, seed=seed, end="done" if seed else "failed")
            if seed == 0:
                (directory / "history.jsonl").write_text("")
                edit_status(directory, gradient_equivalents=0.0, seconds=0.0, steps=0)
        (row,) = ranking_table(load(tmp_path))
        assert str(row.gradient_equivalents) == "> 40.0"

    def test_rank_by_seconds_is_for_runs_alone_on_their_machine(self, tmp_path: Path) -> None:
        quick = Method("quick", "newton", 0.3, 1, {"gradient": 1, "hvp": 0.5}, seconds=0.01)
        for method, timing in ((FAST, "exclusive"), (quick, "exclusive"), (MIDDLE, "shared"), (SLOW, "exclusive")):
            write_run(tmp_path, method=method, timing=timing)
        found = {row.label: (row.rank, row.seconds_rank) for row in ranking_table(load(tmp_path))}
        assert found["fast"] == (1, 2)
        assert found["quick"][1] == 1
        assert found["middle"][1] is found["slow"][1] is None

    def test_median_and_nan(self) -> None:
        assert median([1.0, math.nan, 2.0]) == 2.0
        assert median([1.0, math.nan, 2.0], worst=-math.inf) == 1.0
        assert median([None, None]) is None
        assert math.isnan(median([math.nan]))  # type: ignore[arg-type]


class TestTiming:
    def test_shared_stands_in_the_title(self, tmp_path: Path) -> None:
        write_run(tmp_path, method=FAST, timing="shared")
        assert "to target [seconds, shared]" in ranking_texts(ranking_table(load(tmp_path)))[0]

    def test_exclusive_is_the_normal_case(self, tmp_path: Path) -> None:
        write_run(tmp_path, method=FAST, timing="exclusive")
        assert "to target [seconds]" in ranking_texts(ranking_table(load(tmp_path)))[0]

    def test_mixed_is_said_in_every_row(self, tmp_path: Path) -> None:
        write_run(tmp_path, method=FAST, timing="exclusive")
        write_run(tmp_path, method=SLOW, timing="lanes")
        fast, slow = ranking_texts(ranking_table(load(tmp_path)))
        assert list(fast) == list(slow)
        title = "total [seconds, timing mixed]"
        assert "(" not in fast[title]
        assert slow[title].endswith("(lanes)")


class TestStanding:
    def test_one_seed_with_defaults(self, tmp_path: Path) -> None:
        write_quickstart(tmp_path)
        assert standing(load(tmp_path)) == "defaults, 1 seed: a demonstration, not a comparison"

    def test_uneven_seeds(self, tmp_path: Path) -> None:
        write_run(tmp_path, method=FAST)
        for seed in range(3):
            write_run(tmp_path, method=SLOW, seed=seed)
        assert standing(load(tmp_path)) == "defaults, 1 to 3 seeds: a demonstration, not a comparison"

    def test_several_settings_of_one_method_are_not_all_defaults(self, tmp_path: Path) -> None:
        for rate in (0.1, 0.2):
            write_run(tmp_path, method=Method("sgd", "first-order", 0.3, 20, {"gradient": 1}, options={"lr": rate}))
        assert standing(load(tmp_path)).startswith("untuned settings, 1 seed")

    @pytest.mark.parametrize(
        ("seeds", "text"), [(2, "tuned, 2 seeds: too few seeds for a test"), (6, "tuned, 6 seeds")]
    )
    def test_tuned(self, tmp_path: Path, seeds: int, text: str) -> None:
        for seed in range(seeds):
            path = write_run(tmp_path, method=FAST, seed=seed) / "provenance.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "tuning": {"trials": 8}}))
        assert standing(load(tmp_path)).startswith(text)

    def test_tuned_with_its_effort(self, tmp_path: Path) -> None:
        for method, trials in ((FAST, 12), (SLOW, 8)):
            path = write_run(tmp_path, method=method) / "provenance.json"
            tuning = {"trials": trials, "gradient_equivalents": 160.0}
            path.write_text(json.dumps({**json.loads(path.read_text()), "tuning": tuning}))
        assert standing(load(tmp_path)).startswith("tuned (8 to 12 trials, cost 160 each), 1 seed")

    def test_no_runs(self, tmp_path: Path) -> None:
        assert standing(Results(tmp_path, [])) == "no runs"


class TestFacts:
    def test_cost_adds_up(self, tmp_path: Path) -> None:
        write_run(tmp_path, method=METHODS[4])
        (cost,) = cost_table(load(tmp_path))
        assert cost.calls["hvp"] == load(tmp_path).runs[0].evaluations[-1]["cost"]["hvp"]
        assert sum(cost.shares.values()) == pytest.approx(1)  # type: ignore[union-attr]
        assert cost.shares["hvp"] > cost.shares["gradient"] > cost.shares["ggnvp"] == 0  # type: ignore[index]

    def test_phases_are_medians_and_shares(self, tmp_path: Path) -> None:
        for seed, training in enumerate((1.0, 2.0, 9.0)):
            path = write_run(tmp_path, method=FAST, seed=seed) / "status.json"
            known = json.loads(path.read_text())
            phases = {"startup": 1.0, "training": training, "evaluation": 1.0, "recording": 0.5, "checkpoints": 0.5}
            path.write_text(json.dumps({**known, "phases": phases}))
        (row,) = phase_table(load(tmp_path))
        assert row.seconds == {"startup": 1.0, "training": 2.0, "evaluation": 1.0, "recording": 0.5, "checkpoints": 0.5}
        assert row.total == 5.0
        assert row.shares == pytest.approx(
            {
                "startup": 3 / 21,
                "training": 12 / 21,
                "evaluation": 3 / 21,
                "recording": 1.5 / 21,
                "checkpoints": 1.5 / 21,
            }
        )
        assert load(tmp_path).runs[0].record()["phases.training"] == 1.0

    def test_phases_that_are_not_known(self, tmp_path: Path) -> None:
        for seed, method in enumerate((FAST, MIDDLE, SLOW)):
            path = write_run(tmp_path, method=method, seed=seed) / "status.json"
            known = json.loads(path.read_text())
            if method is FAST:  # went on from a checkpoint of a version without phases
                known["phases"] |= dict.fromkeys(("startup", "evaluation", "recording", "checkpoints"), "NaN")
            elif method is MIDDLE:  # was done by such a version
                del known["phases"]
            path.write_text(json.dumps(known))
        write_run(tmp_path, method=METHODS[0], end="running")
        found = {row.label: row for row in phase_table(load(tmp_path))}
        assert set(found) == {"fast", "slow"}
        assert found["fast"].seconds["training"] > 0
        assert (found["fast"].seconds["evaluation"], found["fast"].total, found["fast"].shares) == (None, None, None)
        assert found["slow"].total > found["slow"].seconds["training"]
        assert phase_texts([found["fast"]])[0][3] == DASH

    def test_events_are_counted(self, tmp_path: Path) -> None:
        for seed in range(2):
            write_run(tmp_path, method=METHODS[8], seed=seed)
        (event,) = event_table(load(tmp_path))  # that a target was reached is no event of the optimizer
        assert (event.event, event.times, event.runs) == ("switch", 2, 2)

    def test_failures_say_why(self, tmp_path: Path) -> None:
        write_run(tmp_path, method=FAST, end="failed")
        write_run(tmp_path, method=SLOW, end="diverged")
        write_run(tmp_path, method=MIDDLE, end="running")
        found = {one.label: one for one in failures(load(tmp_path))}
        assert found["fast"].message == "RuntimeError: CUDA out of memory <b>"
        assert found["slow"].message == "the loss is nan"
        assert "start the sweep again" in found["middle"].message
        assert (tmp_path / found["fast"].directory / "status.json").exists()

    def test_provenance_lists_what_differs(self, tmp_path: Path) -> None:
        write_run(tmp_path, method=FAST)
        path = write_run(tmp_path, method=SLOW) / "provenance.json"
        known = json.loads(path.read_text())
        path.write_text(json.dumps({**known, "cpu": "Another CPU", "dirty": "abc", "resumed": [{"started": "later"}]}))
        facts = dict(provenance(load(tmp_path)))
        assert "Another CPU (1 run)" in facts["processor"]
        assert "Example CPU (1 run)" in facts["processor"]
        assert "with changes abc" in facts["hybridopt commit"]
        assert facts["resumed after a stop"] == "1 run"
        assert facts["timing"] == "shared"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (0.0, "0"),
        (12.0, "12.0"),
        (0.95, "0.950"),
        (123456.0, "123,456"),
        (7, "7"),
        (1.2e-7, "1.2e-07"),
        (True, "–"),
        ("nan", "–"),
    ],
)
def test_numbers(value: object, text: str) -> None:
    assert number(value) == text
