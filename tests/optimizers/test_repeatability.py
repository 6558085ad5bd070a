"""The same seed gives the same run."""

from __future__ import annotations

import pytest

from tests.optimizers.catalogue import METHODS, Method, each, run, training

ESCAPES = ["perturbation", "negative_curvature"]


def losses(method: Method, escape: str, seed: int = 0) -> list[float]:
    options = {"name": escape, "stall_window": 2, "stall_tolerance": 10.0, "window": 2, "seed": seed}
    problem = training("both")
    return run(method.create(problem.model.parameters(), escape=options), problem, range(7))


@each(METHODS)
@pytest.mark.parametrize("escape", ESCAPES)
def test_two_runs_with_an_escape_are_equal(method: Method, escape: str) -> None:
    assert losses(method, escape) == losses(method, escape)


@pytest.mark.parametrize("escape", ESCAPES)
def test_an_escape_has_random_numbers_of_its_own(escape: str) -> None:
    method = Method("sgd")
    assert losses(method, escape, 0) != losses(method, escape, 1)
