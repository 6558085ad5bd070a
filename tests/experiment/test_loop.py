"""The training loop: budgets, clock, targets, divergence, and a resume that changes nothing."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hybridopt.core import ConfigError
from hybridopt.experiment import evaluation, loop
from hybridopt.experiment.build import build
from hybridopt.experiment.config import resolve, to_plain
from hybridopt.experiment.job import run_job
from hybridopt.experiment.jsonio import read_json, read_rows
from hybridopt.experiment.store import RunStore
from hybridopt.tasks import registry
from tests.experiment import tiny


def config(**values: Any):
    task = {"name": "tiny", **values.pop("task", {})}
    base = {"optimizer": {"name": "adam", "lr": 0.05}, "device": "cpu", "threads": 1, "log_every": 1}
    return resolve({**base, "task": task, **values})


def rows(directory: Path, *kinds: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(directory / "history.jsonl") if not kinds or row["type"] in kinds]


def timeless(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def test_a_run_leaves_what_it_should(tmp_path: Path) -> None:
    status = run_job(tmp_path, config(budget={"epochs": 4}))
    steps, evaluations = rows(tmp_path, "step"), rows(tmp_path, "evaluation")
    assert status["status"] == read_json(tmp_path / "status.json")["status"] == "done"
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert [row["step"] for row in evaluations] == [0, 3, 6, 9, 12]
    assert evaluations[-1]["gradient_equivalents"] == pytest.approx(4.0)
    assert evaluations[-1]["cost"]["gradient"] == 12
    assert evaluations[-1]["cost"]["samples"]["gradient"] == 4 * 48
    assert {"train_loss", "validation_loss", "validation_error"} <= evaluations[0].keys()
    assert {"loss", "lr", "report"} <= steps[0].keys()
    assert steps[0]["report"]["grad_norm"] > 0
    assert {"train_loss", "validation_loss", "test_loss", "test_error", "best_test_loss"} <= status["summary"].keys()
    facts = read_json(tmp_path / "provenance.json")["task_facts"]
    assert facts["reference_samples"] == 48
    assert facts["family"] == "first-order"
    assert facts["trivial_loss"] > 0
    assert (tmp_path / "checkpoint.pt").is_file()
    assert "done" in (tmp_path / "run.log").read_text()


@pytest.mark.parametrize(
    ("budget", "reason", "steps"),
    [
        ({"epochs": 2, "steps": 100}, "budget.epochs=2 is used", 6),
        ({"steps": 4, "epochs": 100}, "budget.steps=4 is used", 4),
        ({"gradient_equivalents": 1.5, "steps": 100}, "budget.gradient_equivalents=1.5 is used", 5),
        ({"epochs": 0.5}, "budget.epochs=0.5 is used", 2),
        ({}, "budget.epochs=3 is used", 9),
    ],
)
def test_the_first_limit_ends_the_run(tmp_path: Path, budget: dict, reason: str, steps: int) -> None:
    status = run_job(tmp_path, config(budget=budget))
    assert (status["status"], status["reason"], status["steps"]) == ("done", reason, steps)
    assert rows(tmp_path, "evaluation")[-1]["step"] == steps  # the end is always evaluated


def test_a_task_that_counts_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of unequal work cost unequally, and a pass over all of them is still one gradient-equivalent."""
    monkeypatch.setattr(registry.get("tiny"), "work", lambda task, inputs, targets: int((inputs[:, 0] > 0).sum()))
    run_job(tmp_path, config(budget={"epochs": 2}, eval_every=1 / 3))
    costs = [row["gradient_equivalents"] for row in rows(tmp_path, "evaluation")]
    assert costs[3::3] == pytest.approx([1.0, 2.0])
    assert len({round(after - before, 6) for before, after in itertools.pairwise(costs)}) > 1


def test_full_batch_methods_get_the_same_cost_by_default(tmp_path: Path) -> None:
    status = run_job(tmp_path, config(optimizer="lbfgs"))
    assert status["reason"] == "budget.gradient_equivalents=3 is used"
    assert {row["report"]["loss"] if "loss" in row["report"] else row["loss"] for row in rows(tmp_path, "step")}


def test_seconds_limit_and_clock_leave_evaluation_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def reading() -> float:
        now[0] += 0.001
        return now[0]

    def slow(*arguments: Any) -> dict[str, float]:
        now[0] += 1000
        return evaluation.evaluate(*arguments)

    monkeypatch.setattr(time, "perf_counter", reading)
    monkeypatch.setattr(loop, "evaluate", slow)
    status = run_job(tmp_path, config(budget={"steps": 30}))
    assert 0.03 < status["seconds"] < 0.5  # the evaluations take thousands of seconds
    seconds = [row["seconds"] for row in rows(tmp_path)]
    assert seconds == sorted(seconds)
    limited = run_job(tmp_path / "limited", config(budget={"seconds": 0.05}))
    assert limited["reason"] == "budget.seconds=0.05 is used"
    assert 0.05 <= limited["seconds"] < 0.2


def test_targets_are_timed_once(tmp_path: Path) -> None:
    status = run_job(tmp_path, config(task={"dropout": 0.0}, budget={"epochs": 40}))
    reached, missed = status["targets"]
    first = next(row for row in rows(tmp_path, "evaluation") if row["train_loss"] <= 0.1)
    assert reached["reached"]
    assert reached["step"] > 0
    assert (reached["step"], reached["seconds"]) == (first["step"], first["seconds"])
    assert reached["gradient_equivalents"] == first["gradient_equivalents"]
    assert not missed["reached"]
    assert [row["metric"] for row in rows(tmp_path, "event") if row["event"] == "target"] == ["train_loss"]


def test_patience_and_targets_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = run_job(tmp_path / "a", config(optimizer={"name": "sgd", "lr": 0.0}, budget={"epochs": 50, "patience": 3}))
    assert status["reason"] == "no lower validation loss in 3 evaluations"
    assert status["epoch"] < 50
    monkeypatch.setattr(registry.get("tiny"), "targets", tiny.Tiny.targets[:1])
    status = run_job(tmp_path / "b", config(task={"dropout": 0.0}, budget={"epochs": 200, "stop_at_targets": True}))
    assert status["reason"] == "every target is reached"
    assert status["epoch"] < 200


@pytest.mark.parametrize(
    "values", [{"task": {"poison": "nan", "after": 12}}, {"optimizer": {"name": "sgd", "lr": 1e30}}]
)
def test_divergence_is_a_status(tmp_path: Path, values: dict) -> None:
    status = run_job(tmp_path, config(**values, budget={"epochs": 50}))
    assert status["status"] == "diverged"
    assert "nan" in status["reason"] or "inf" in status["reason"]
    assert status["steps"] < 60
    assert rows(tmp_path)[-1]["step"] == status["steps"]


def test_an_error_is_recorded_and_what_was_recorded_stays(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="poisoned"):
        run_job(tmp_path, config(task={"poison": "error", "after": 8}, budget={"epochs": 50}))
    status = read_json(tmp_path / "status.json")
    assert status["status"] == "failed"
    assert status["error"] == {"type": "RuntimeError", "message": "poisoned"}
    assert status["steps"] == rows(tmp_path)[-1]["step"] > 0
    assert "Traceback" in (tmp_path / "run.log").read_text()


def test_bad_parts_are_refused_before_anything_is_trained() -> None:
    with pytest.raises(ConfigError, match=r"larger than the training set|batch_size is 49"):
        build(config(task={"batch_size": 49}))
    with pytest.raises(ConfigError, match=r"budget\.epochs"):
        build(config(schedule="cosine", budget={"seconds": 1}))


def run_until(directory: Path, values: Any, stop_at: int | None, **options: Any) -> tuple[dict[str, Any], loop.Trainer]:
    """Does a run, asked to stop after some steps."""
    with RunStore(directory, to_plain(values)) as store:
        began = time.perf_counter()
        trainer = loop.Trainer(values, build(values), store, **options)
        trainer.clock.add({"startup": time.perf_counter() - began})
        trainer.stop = lambda: "test" if stop_at is not None and trainer.step >= stop_at else None
        return trainer.run(), trainer


RESUMED = [
    {"optimizer": {"name": "momentum", "lr": 0.05}, "schedule": {"name": "cosine", "warmup": 0.2}},
    {
        "optimizer": {"name": "adam", "lr": 0.05},
        "escape": {"name": "perturbation", "stall_window": 2, "window": 2},
    },
    {"optimizer": "lbfgs", "schedule": "plateau"},
    {"optimizer": "newton_cg"},
    {
        "optimizer": "trust_newton_cg",
        "escape": {"name": "negative_curvature", "stall_window": 2, "window": 2},
    },
    {"optimizer": "adam_lbfgs"},
    {"optimizer": {"name": "external", "cls": "torch:Adagrad"}, "dtype": "float64"},
]


@pytest.mark.parametrize("values", RESUMED, ids=lambda values: str(values["optimizer"])[:30])
def test_a_resumed_run_equals_an_undisturbed_one(tmp_path: Path, values: dict) -> None:
    run = config(**values, budget={"steps": 14})
    torch.manual_seed(0)
    whole, trainer = run_until(tmp_path / "whole", run, None)
    parameters = [p.detach().clone() for p in trainer.parts.model.parameters()]
    for stop_at in (5, 10, None):
        torch.rand(3)  # whatever else the process does between must not matter
        part, trainer = run_until(tmp_path / "parts", run, stop_at)
        assert part["status"] == ("done" if stop_at is None else "interrupted")
    assert timeless(rows(tmp_path / "parts")) == timeless(rows(tmp_path / "whole"))
    for one, other in zip(parameters, trainer.parts.model.parameters(), strict=True):
        assert torch.equal(one, other)
    for key in ("steps", "gradient_equivalents", "summary"):
        assert part[key] == whole[key]
    assert part["seconds"] > 0


def test_rows_after_the_last_checkpoint_are_done_again(tmp_path: Path) -> None:
    """What a kill leaves: rows that no checkpoint knows, and a torn line."""
    run = config(budget={"steps": 14})
    run_until(tmp_path / "whole", run, None)
    run_until(tmp_path / "parts", run, 6)
    with open(tmp_path / "parts" / "history.jsonl", "a") as file:
        file.write('{"type":"step","step":7,"loss":9}\n{"type":"st')
    run_until(tmp_path / "parts", run, None)
    assert timeless(rows(tmp_path / "parts")) == timeless(rows(tmp_path / "whole"))


def test_checkpoints_in_between_change_nothing(tmp_path: Path) -> None:
    run_until(tmp_path / "one", config(budget={"steps": 12}), None)
    run_until(tmp_path / "two", config(budget={"steps": 12}, checkpoint_every=1e-6), None)
    assert timeless(rows(tmp_path / "one")) == timeless(rows(tmp_path / "two"))


def test_evaluating_more_often_changes_no_step(tmp_path: Path) -> None:
    run_until(tmp_path / "one", config(budget={"steps": 12}), None)
    run_until(tmp_path / "two", config(budget={"steps": 12}, eval_every=0.1), None)
    assert timeless(rows(tmp_path / "one", "step")) == timeless(rows(tmp_path / "two", "step"))


def test_seeds_differ_and_repeat(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run_until(tmp_path / name, config(budget={"steps": 6}, seed=seed), None)
    losses = {name: [row["loss"] for row in rows(tmp_path / name, "step")] for name in "abc"}
    assert losses["a"] == losses["b"]
    assert losses["a"] != losses["c"]


def test_final_and_best_parameters_are_both_tested(tmp_path: Path) -> None:
    run = config(optimizer={"name": "momentum", "lr": 0.2}, task={"dropout": 0.0}, budget={"epochs": 12})
    status, trainer = run_until(tmp_path, run, None)
    summary = status["summary"]
    lowest = min(rows(tmp_path, "evaluation"), key=lambda row: row["validation_loss"])
    assert summary["best_step"] == lowest["step"]
    assert summary["best_validation_loss"] == lowest["validation_loss"]
    parts = trainer.parts
    assert summary["test_loss"] == evaluation.evaluate(parts.model, parts.task, parts.splits.test)["loss"]
