"""No optimizer keeps a graph, a batch or a growing number of tensors from one step to the next."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from torch import Tensor

import hybridopt as ho
from tests.optimizers.catalogue import METHODS, Method, each, training

ESCAPE = {"name": "negative_curvature", "stall_window": 2, "stall_tolerance": 10.0, "window": 2}


@pytest.fixture(autouse=True, scope="module")
def _only_new_objects() -> Iterator[None]:
    """Keeps all that exists already out of the garbage collector's sight, which is slow otherwise."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@each(METHODS)
@pytest.mark.parametrize("escape", [None, ESCAPE], ids=["plain", "escape"])
def test_the_number_of_living_tensors_does_not_grow(method: Method, escape: Any) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters(), escape=escape)
    peaks = []
    for period in range(3):
        counts = []
        gc.collect()
        for step in range(12 * period, 12 * period + 12):
            optimizer.step(problem.batch(step))
            counts.append(sum(isinstance(thing, Tensor) for thing in gc.get_objects()))
        peaks.append(max(counts))
    # A leak of one tensor a step would be 12; what a window or a snapshot holds, comes and goes.
    assert peaks[2] - peaks[1] < 12, f"most tensors alive in each twelve steps: {peaks}"


def test_an_objective_dies_with_its_last_name() -> None:
    problem = training()
    objective = ho.Objective(problem.model, problem.objective.loss_fn, problem.inputs, problem.targets)
    optimizer = ho.create("trust_newton_cg", problem.model.parameters())
    optimizer.step(objective)
    reference = weakref.ref(objective)
    del objective
    gc.collect()
    assert reference() is None
