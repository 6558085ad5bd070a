"""Halving lets the right trials go on, and those end as the runs that were never paused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hybridopt.core import ConfigError, make_config
from hybridopt.experiment import sweep
from hybridopt.experiment.config import resolve
from hybridopt.experiment.job import run_directory, run_job
from hybridopt.experiment.jsonio import read_json
from hybridopt.experiment.monitor import Monitor, Outcome
from hybridopt.experiment.pool import Pool
from hybridopt.experiment.slots import Job, Slot
from hybridopt.tuning import Settings, Study, search
from tests.experiment import tiny  # noqa: F401 (registers the task)


class InProcess:
    """Stands in for the pool: does the jobs here."""

    started: list[tuple[str, float | None]]

    def __init__(self, slots: Sequence[Slot], time_limit: float | None, monitor: Monitor) -> None:
        pass

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        outcomes = []
        for job in jobs:
            InProcess.started.append((job.directory.name, job.pause_at))
            status = run_job(job.directory, pause_at=job.pause_at)
            outcomes.append(Outcome(job.directory, job.name, status["status"], status["reason"]))
        return outcomes


@pytest.fixture(autouse=True)
def pool(monkeypatch: pytest.MonkeyPatch) -> type[InProcess]:
    monkeypatch.setattr(sweep, "Pool", InProcess)
    InProcess.started = []
    return InProcess


def study(out: Path, **settings: Any) -> Study:
    config = {"task": "tiny", "optimizer": "momentum", "seed": 50, "device": "cpu", "log_every": 1, "out": str(out)}
    config |= {"budget": {"gradient_equivalents": 4}, "schedule": {"name": "plateau"}}
    given = {"sampler": "halving", "trials": 2, "eta": 2, "rungs": 2, "objective": "loss", "defaults": False}
    return Study(
        resolve(config),
        make_config(Settings, {**given, **settings}),
        changes=["optimizer.lr=log:1e-6:0.5"],
        only=["optimizer.lr"],
    )


def rows(directory: Path) -> list[dict[str, Any]]:
    from hybridopt.experiment.jsonio import read_rows

    return [
        {key: value for key, value in row.items() if key != "seconds"} for row in read_rows(directory / "history.jsonl")
    ]


def test_the_best_go_on_and_end_as_runs_that_were_never_paused(tmp_path: Path, pool: type[InProcess]) -> None:
    one = study(tmp_path / "a")
    search([one])
    assert len(one.trials) == 4
    assert [pause for _, pause in pool.started] == [1.0] * 4 + [2.0] * 2 + [None]
    at_first = [
        min(r["validation_loss"] for r in t.read().evaluations if r["gradient_equivalents"] <= 1) for t in one.trials
    ]
    second = [name for name, pause in pool.started if pause == 2.0]
    best_two = sorted(range(4), key=lambda number: at_first[number])[:2]
    assert {run_directory(one.trials[number].config).name for number in best_two} == set(second)
    assert one.states() == {"paused": 3, "done": 1}
    assert one.spent() == pytest.approx(4 * 1 + 2 * 1 + 1 * 2), "nothing is paid twice"
    trial, _ = one.best()
    paused = run_directory(trial.config)
    fresh = tmp_path / "fresh"
    run_job(fresh, trial.config)
    assert rows(paused) == rows(fresh)
    ended, whole = (read_json(path / "status.json") for path in (paused, fresh))
    assert {key: ended[key] for key in ("status", "reason", "summary")} == {
        key: whole[key] for key in ("status", "reason", "summary")
    }


def test_starting_again_does_nothing_twice(tmp_path: Path, pool: type[InProcess]) -> None:
    search([study(tmp_path)])
    before = list(pool.started)
    again = study(tmp_path)
    search([again])
    assert pool.started == before
    assert again.states() == {"paused": 3, "done": 1}


def test_as_many_trials_as_cost_what_complete_ones_do(tmp_path: Path) -> None:
    many = study(tmp_path, trials=8, eta=2, rungs=1)
    assert many.first == 10  # 10 to cost 2 and 5 of them on to cost 4: 30 of 32
    search([many])
    assert many.spent() == pytest.approx(30)


def test_a_rung_before_the_first_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fewer rungs"):
        search([study(tmp_path, rungs=3)])


def test_jobs_are_told_where_to_pause() -> None:
    command = Pool([], None, Monitor()).command(Job(Path("d"), "n", 1 / 3), Slot("cpu", 1))
    assert float(command[command.index("--pause-at") + 1]) == 1 / 3
