"""The same seed gives the same run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.optimizers.catalogue import METHODS, Method, each, run, training

ESCAPES: list[Any] = [None, "perturbation", "negative_curvature"]


def losses(method: Method, escape: Any, seed: int = 0) -> list[float]:
    if escape is not None:
        escape = {"name": escape, "stall_window": 2, "stall_tolerance": 10.0, "window": 2, "seed": seed}
    problem = training("both")
    return run(method.create(problem.model.parameters(), escape=escape), problem, range(7))


@each(METHODS)
@pytest.mark.parametrize("escape", ESCAPES)
def test_two_runs_are_equal(method: Method, escape: Any) -> None:
    assert losses(method, escape) == losses(method, escape)


@pytest.mark.parametrize("escape", ESCAPES[1:])
def test_an_escape_has_random_numbers_of_its_own(escape: str) -> None:
    method = Method("sgd")
    assert losses(method, escape, 0) != losses(method, escape, 1)


@each(METHODS)
def test_the_seed_of_the_process_does_not_matter_to_a_model_without_random_layers(method: Method) -> None:
    traces = []
    for seed in (0, 1):
        problem = training("batch_norm")
        optimizer = method.create(problem.model.parameters())
        torch.manual_seed(seed)
        traces.append(run(optimizer, problem, range(5)))
    assert traces[0] == traces[1]
