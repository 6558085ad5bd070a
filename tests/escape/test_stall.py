"""When an escape looks for a way out: each of the three rules, alone, and the waiting after a look in vain."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import hybridopt as ho
from hybridopt.escape import Escape, EscapeConfig, Proposal
from tests.optimizers.catalogue import function, saddle, training


class Still(Escape):
    """Never jumps; counts how often it is asked."""

    def propose(self, optimizer: Any, objective: Any, attempt: int, random: torch.Generator) -> Proposal:
        return Proposal(None, asked=True)


def stalls(optimizer: Any, objectives: list[ho.Objective]) -> list[tuple[int, str]]:
    found = []
    for step, objective in enumerate(objectives):
        optimizer.step(objective)
        found += [(step, event["reason"]) for event in optimizer.report.events if event["event"] == "stall"]
    return found


def test_a_small_gradient_on_the_same_data() -> None:
    objective = function(saddle, [0.0, 0.0])
    optimizer = ho.create("sgd", objective.model.parameters(), escape=Still())
    assert stalls(optimizer, [objective] * 5)[0] == (1, "small_gradient")


@pytest.mark.parametrize(("gtol", "expected"), [(0.0, None), (1e-2, "small_gradient")])
def test_what_counts_as_small_can_be_said(gtol: float, expected: str | None) -> None:
    objective = function(saddle, [1e-3, 0.0])
    escape = Still(gtol=gtol, stall_window=50)
    optimizer = ho.create("sgd", objective.model.parameters(), lr=1e-3, escape=escape)
    found = stalls(optimizer, [objective] * 5)
    assert [reason for _, reason in found[:1]] == ([expected] if expected else [])


@pytest.mark.parametrize(("dtype", "gradient", "small"), [
    (torch.float64, 2e-9, True),
    (torch.float64, 2e-7, False),
    (torch.float32, 2e-5, True),
    (torch.float32, 2e-3, False),
])  # fmt: skip
def test_the_default_follows_the_precision(dtype: torch.dtype, gradient: float, small: bool) -> None:
    objective = function(saddle, [gradient / 2, 0.0], dtype)
    optimizer = ho.create("sgd", objective.model.parameters(), lr=1e-6, escape=Still(stall_window=50))
    assert bool(stalls(optimizer, [objective] * 4)) == small


def test_a_small_gradient_of_mini_batches_is_no_stall() -> None:
    # Every batch's own gradient vanishes at 0; a batch alone says nothing about the others.
    model = torch.nn.Linear(2, 1, bias=False).double()
    torch.nn.init.zeros_(model.weight)
    objective = ho.Objective(model, lambda out, _: (out**2).mean(), torch.ones(4, 2).double(), torch.zeros(4, 1))
    batches = [objective.with_batch(torch.ones(4, 2).double(), torch.zeros(4, 1)) for _ in range(10)]
    optimizer = ho.create("sgd", model.parameters(), escape=Still(stall_window=20))
    assert stalls(optimizer, batches) == []
    assert stalls(optimizer, [objective] * 3) == [(1, "small_gradient")]


def test_rejected_steps_in_a_row() -> None:
    # NaN everywhere but at the start: every step is rejected, and the gradient is large.
    start = torch.tensor([1.0, 1.0], dtype=torch.float64)
    objective = function(
        lambda x: (x**2).sum() + torch.where((x == start).all(), 0.0, torch.nan) * x.sum().detach(), start
    )
    for count in (1, 3):
        escape = Still(rejected_steps=count, stall_window=50)
        optimizer = ho.create("newton_cg", objective.model.parameters(), escape=escape)
        assert stalls(optimizer, [objective] * 6)[0] == (count - 1, "rejected_steps")


def test_an_accepted_step_ends_the_row() -> None:
    class Alternating(ho.Optimizer):
        Config = EscapeConfig  # any dataclass

        def update(self, objective: ho.Objective) -> None:
            objective.value_and_grad()
            self.memory["count"] = self.memory.get("count", 0) + 1
            self.note(accepted=self.memory["count"] % 3 == 0)

    objective = function(lambda x: x.sum(), [1.0])
    optimizer = Alternating(objective.model.parameters(), escape=Still(rejected_steps=3, stall_window=50))
    assert stalls(optimizer, [objective] * 20) == []


def test_two_windows_of_losses_without_progress() -> None:
    problem = training()
    escape = Still(stall_window=4, stall_tolerance=1e-3)
    optimizer = ho.create("sgd", problem.model.parameters(), lr=0.0, escape=escape)
    found = stalls(optimizer, [problem.objective] * 8)
    assert found == [(7, "no_progress")]


@pytest.mark.parametrize(("tolerance", "stalled"), [(1e-4, False), (0.5, True)])
def test_slow_progress_is_a_matter_of_the_tolerance(tolerance: float, stalled: bool) -> None:
    problem = training()
    escape = Still(stall_window=4, stall_tolerance=tolerance)
    optimizer = ho.create("sgd", problem.model.parameters(), lr=0.05, escape=escape)
    assert bool(stalls(optimizer, [problem.objective] * 12)) == stalled


def test_the_wait_after_looks_in_vain_doubles() -> None:
    problem = training()
    escape = Still(stall_window=4, stall_tolerance=1e-3)
    optimizer = ho.create("sgd", problem.model.parameters(), lr=0.0, escape=escape)
    steps = [step for step, _ in stalls(optimizer, [problem.objective] * 130)]
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    assert len(gaps) >= 4
    for before, after in itertools.pairwise(gaps[1:]):
        assert 1.5 * before <= after <= 2.5 * before + 4, gaps
    optimizer.escape.rearm(optimizer)
    found = stalls(optimizer, [problem.objective] * 12)
    assert found, "rearm forgets the waiting time"


def test_a_report_event_says_that_nothing_was_found() -> None:
    objective = function(saddle, [0.0, 0.0])
    optimizer = ho.create("sgd", objective.model.parameters(), escape=Still())
    optimizer.step(objective)
    optimizer.step(objective)
    assert optimizer.report.events == [
        {"event": "stall", "reason": "small_gradient"},
        {"event": "no_escape", "attempt": 0, "cost": 0.0, "asked": True},
    ]
    assert optimizer.escape.settled(optimizer)
    assert not optimizer.escape.busy(optimizer)


def test_settled_ends_when_the_point_is_left() -> None:
    objective = function(saddle, [0.0, 0.0])
    optimizer = ho.create("sgd", objective.model.parameters(), escape=Still())
    for _ in range(3):
        optimizer.step(objective)
    assert optimizer.escape.settled(optimizer)
    objective.commit(torch.tensor([0.0, 0.3], dtype=torch.float64))
    optimizer.step(objective)
    assert not optimizer.escape.settled(optimizer)


def test_no_escape_does_nothing_at_all() -> None:
    objective = function(saddle, [0.0, 0.0])
    none = ho.escape.registry.get("none")()
    for escape in (none, "none", None):
        optimizer = ho.create("sgd", objective.model.parameters(), escape=escape)
        for _ in range(5):
            optimizer.step(objective)
            assert optimizer.report.events == []
    assert none.settled(optimizer)
    assert ho.create("sgd", objective.model.parameters(), escape="none").escape is None


def test_an_escape_without_propose_says_so() -> None:
    class Empty(Escape):
        pass

    objective = function(saddle, [0.0, 0.0])
    optimizer = ho.create("sgd", objective.model.parameters(), escape=Empty())
    optimizer.step(objective)
    with pytest.raises(TypeError, match="Empty does not say where it jumps: define propose"):
        optimizer.step(objective)


def test_a_registered_escape_is_found_by_name() -> None:
    @ho.escape.register("still_for_a_test")
    class Named(Still):
        summary = "stays"

    try:
        objective = function(saddle, [0.0, 0.0])
        escape = {"name": "still_for_a_test", "stall_window": 3}
        optimizer = ho.create("sgd", objective.model.parameters(), escape=escape)
        assert type(optimizer.escape) is Named
        assert optimizer.escape.config.stall_window == 3
    finally:
        ho.escape.registry._registered.pop("still_for_a_test")
