"""Trials are ranked by cost to the target, then by loss; what did not end well comes last."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hybridopt.results import Run
from hybridopt.tuning import Score

TARGET = {"metric": "validation_accuracy", "value": 0.9, "mode": "max"}


def run(*rows: tuple[float, float, float], state: str = "done") -> Run:
    found = Run(Path("."), {}, {"task_facts": {"targets": [TARGET]}}, {}, state)
    found.__dict__["rows"] = [
        {"type": "evaluation", "gradient_equivalents": cost, "validation_loss": loss, "validation_accuracy": accuracy}
        for cost, loss, accuracy in rows
    ]
    return found


def score(objective: str, *rows: tuple[float, float, float], **options: Any) -> Score:
    return Score.of(run(*rows, **options), objective, 10.0)


def test_time_to_target_comes_before_loss() -> None:
    quick = score("target", (0, 2.0, 0.1), (3, 0.5, 0.91), (10, 0.4, 0.95))
    slow = score("target", (0, 2.0, 0.1), (10, 0.1, 0.99))
    never = score("target", (0, 2.0, 0.1), (10, 0.01, 0.89))
    worse = score("target", (0, 2.0, 0.1), (10, 0.02, 0.89))
    assert quick == Score(0, 3.0)
    assert quick < slow < never < worse < score("target", (3, 0.1, 0.99), state="diverged")


def test_best_loss_not_last() -> None:
    assert score("loss", (0, 2.0, 0.1), (5, 0.2, 0.9), (10, 0.6, 0.9)) == Score(0, 0.2)
    assert score("loss", (0, math.nan, 0.1), (5, 0.3, 0.9)) == Score(0, 0.3)


def test_what_lies_beyond_the_budget_or_before_the_first_step_does_not_count() -> None:
    dear = score("target", (0, 2.0, 0.1), (300, 0.01, 0.99))
    assert dear == Score(1, math.inf)
    assert dear > score("target", (0, 2.0, 0.1), (10, 2.5, 0.1)), "worse than at the start, but known"
    assert score("target", (0, 2.0, 0.1), (10.2, 0.01, 0.99)) == Score(0, 10.2), "the last step may end a little later"
