"""No optimizer keeps a graph, a batch or a growing number of tensors from one step to the next."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho
from tests.optimizers.catalogue import METHODS, Method, each, training

ESCAPE = {"name": "negative_curvature", "stall_window": 2, "stall_tolerance": 10.0, "window": 2}


class Probe(torch.autograd.Function):
    """The identity; the node of a graph that it makes can be watched."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: list[weakref.ref[Any]]) -> Tensor:
        seen.append(weakref.ref(ctx))
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * 1, None


class Traced(nn.Module):
    """Leaves a weak reference to the middle of each graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.seen: list[weakref.ref[Any]] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(Probe.apply(self.first(x), self.seen)))


@each(METHODS)
def test_graphs_die_with_the_step_without_the_garbage_collector(method: Method) -> None:
    problem = training(Traced)
    optimizer = method.create(problem.model.parameters())
    gc.collect()
    gc.disable()
    try:
        for step in range(4):
            optimizer.step(problem.batch(step))
            alive = [reference for reference in problem.model.seen if reference() is not None]
            assert not alive, f"{len(alive)} of {len(problem.model.seen)} graphs live on after step {step}"
    finally:
        gc.enable()
    assert problem.model.seen


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


@each(METHODS)
def test_a_batch_is_not_kept(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters())
    inputs = torch.randn(8, 4)
    batch = problem.objective.with_batch(inputs, problem.targets[:8])
    optimizer.step(batch)
    reference = weakref.ref(inputs)
    del inputs, batch
    gc.collect()
    assert reference() is None


def test_an_objective_dies_with_its_last_name() -> None:
    problem = training()
    objective = ho.Objective(problem.model, problem.objective.loss_fn, problem.inputs, problem.targets)
    optimizer = ho.create("trust_newton_cg", problem.model.parameters())
    optimizer.step(objective)
    reference = weakref.ref(objective)
    del objective
    gc.collect()
    assert reference() is None
