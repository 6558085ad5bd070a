"""Methods with averaged or slow weights are evaluated on those, and trained and resumed on the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hybridopt.experiment.evaluation import evaluate
from tests.experiment.test_loop import config, rows, run_until, timeless

METHODS: list[dict[str, Any]] = [
    {"name": "schedule_free", "lr": 0.05},
    {"name": "dog", "first_distance": 0.05, "averaging": 8.0},
    {"name": "lookahead", "period": 4, "inner_options": {"lr": 0.05}},
]
each = pytest.mark.parametrize("optimizer", METHODS, ids=[method["name"] for method in METHODS])


@each
def test_rows_and_summary_are_of_the_evaluation_parameters(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    status, trainer = run_until(tmp_path, config(optimizer=optimizer, budget={"steps": 7}), None)
    parts, row = trainer.parts, rows(tmp_path, "evaluation")[-1]
    assert row["step"] == 7
    running = evaluate(parts.model, parts.task, parts.splits.validation)["loss"]
    with parts.optimizer.evaluation():
        shown = evaluate(parts.model, parts.task, parts.splits.validation)["loss"]
        test = evaluate(parts.model, parts.task, parts.splits.test)["loss"]
    assert row["validation_loss"] == shown != running
    assert status["summary"]["test_loss"] == test


@each
def test_evaluating_more_often_changes_no_step(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    run_until(tmp_path / "one", config(optimizer=optimizer, budget={"steps": 10}), None)
    run_until(tmp_path / "two", config(optimizer=optimizer, budget={"steps": 10}, eval_every=0.1), None)
    assert timeless(rows(tmp_path / "one", "step")) == timeless(rows(tmp_path / "two", "step"))


@each
def test_a_resumed_run_equals_an_undisturbed_one(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    run = config(optimizer=optimizer, budget={"steps": 10}, eval_every=0.1)
    run_until(tmp_path / "whole", run, None)
    run_until(tmp_path / "parts", run, 6)
    _, trainer = run_until(tmp_path / "parts", run, None)
    assert timeless(rows(tmp_path / "parts")) == timeless(rows(tmp_path / "whole"))
    assert all(torch.isfinite(parameter).all() for parameter in trainer.parts.model.parameters())
