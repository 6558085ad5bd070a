"""Early stopping with decay of the rate: when, how often, from where, and across a resume."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hybridopt.core import CombinationError
from hybridopt.experiment.build import build, build_task, check_buildable
from hybridopt.experiment.config import resolve
from hybridopt.experiment.job import run_job
from hybridopt.experiment.jsonio import read_rows
from hybridopt.experiment.stopping import registry
from hybridopt.objective import Objective
from tests.experiment import tiny

assert tiny.Tiny.name == "tiny"


def make(**options: Any):
    cls = registry.get("decay")
    return cls(cls.Config(**options))


def watch(stopping: Any, losses: list[float]) -> tuple[list[float], str | None]:
    """The rate after each evaluation, and why the run ended."""
    optimizer = SimpleNamespace(param_groups=[{"lr": 1.0}])
    rates = []
    for loss in losses:
        event, stop = stopping.see(loss, optimizer, None)
        rates.append(optimizer.param_groups[0]["lr"])
        assert (event is not None) == (len(rates) > 1 and rates[-1] != rates[-2])
        if stop is not None:
            return rates, stop
    return rates, None


def test_decays_then_stops() -> None:
    losses = [3.0, 2.0, 2.5, 2.1, 1.9, 2.0, float("nan"), 1.9, 1.8, 1.8, 1.8, 0.0]
    rates, stop = watch(make(patience=2, decays=2, factor=0.5), losses)
    assert rates == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25]
    assert stop == "no lower validation loss in 2 evaluations after 2 decays of the rate"


def test_without_decays_it_is_plain_early_stopping() -> None:
    rates, stop = watch(make(patience=3, decays=0), [1.0, 2.0, 0.9, 0.9, 0.9, 0.9])
    assert rates == [1.0] * 6
    assert stop == "no lower validation loss in 3 evaluations"


def test_small_progress_counts_as_none() -> None:
    assert watch(make(patience=1, decays=0, threshold=0.1), [-1.0, -1.05])[1]
    assert not watch(make(patience=1, decays=0, threshold=0.1), [-1.0, -1.2, -1.4])[1]


def config(**values: Any):
    base = {"task": "tiny", "optimizer": {"name": "adam", "lr": 0.05}, "device": "cpu", "threads": 1, "log_every": 1}
    return resolve({**base, "budget": {"epochs": 40}, **values})


def test_goes_back_to_the_best_evaluation_to_the_last_bit() -> None:
    parts = build(config(stopping={"name": "decay", "patience": 1, "decays": 1, "restore": True}))
    objective = Objective(parts.model, parts.task.loss, *parts.batches.batch(0)[:2])

    def step() -> None:
        parts.optimizer.step(objective.with_batch(objective.inputs, objective.targets))

    def everything() -> list[torch.Tensor]:
        memory = [value for state in parts.optimizer.state.values() for value in state.values()]
        tensors = [*parts.model.state_dict().values(), *(value for value in memory if isinstance(value, torch.Tensor))]
        return [tensor.detach().clone() for tensor in tensors]

    step()
    assert parts.stopping.see(1.0, parts.optimizer, objective) == (None, None)
    best = everything()
    step()
    assert not all(torch.equal(a, b) for a, b in zip(best, everything(), strict=True))
    event, stop = parts.stopping.see(2.0, parts.optimizer, objective)
    assert stop is None
    assert event is not None
    assert event["restored"]
    assert all(torch.equal(a, b) for a, b in zip(best, everything(), strict=True))
    assert parts.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)
    step()
    assert parts.stopping.see(2.0, parts.optimizer, objective)[1] is not None
    assert all(torch.equal(a, b) for a, b in zip(best, everything(), strict=True))


def timeless(directory: Path) -> list[dict[str, Any]]:
    rows = read_rows(directory / "history.jsonl")
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.parametrize("optimizer", [{"name": "adam", "lr": 0.3}, {"name": "lbfgs"}])
def test_a_run_decays_stops_and_resumes(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    stopping = {"name": "decay", "patience": 2, "decays": 2, "factor": 0.3, "restore": True}
    values = config(optimizer=optimizer, stopping=stopping, budget={"steps": 200})
    status = run_job(tmp_path / "whole", values)
    events = [row for row in timeless(tmp_path / "whole") if row.get("event") == "rate_decay"]
    assert status["status"] == "done"
    assert status["reason"] == "no lower validation loss in 2 evaluations after 2 decays of the rate"
    assert [row["decay"] for row in events] == [1, 2]
    pause = (events[0]["gradient_equivalents"] + events[1]["gradient_equivalents"]) / 2
    assert run_job(tmp_path / "parts", values, pause_at=pause)["status"] == "interrupted"
    run_job(tmp_path / "parts", values)
    assert timeless(tmp_path / "parts") == timeless(tmp_path / "whole")


def test_a_schedule_and_decays_are_refused_together() -> None:
    for decays in (1, 0):
        values = config(schedule="cosine", stopping={"name": "decay", "decays": decays})
        task = build_task(values)
        if decays:
            with pytest.raises(CombinationError, match="schedule=none"):
                check_buildable(values, task.splits(0), task)
        else:
            check_buildable(values, task.splits(0), task)


def test_a_method_without_a_rate_can_be_stopped_only() -> None:
    cls = registry.get("decay")
    optimizer = SimpleNamespace(param_groups=[{}])
    with pytest.raises(CombinationError, match=r"stopping\.decays=0"):
        cls(cls.Config(), "none", optimizer)
    cls(cls.Config(decays=0), "none", optimizer)
