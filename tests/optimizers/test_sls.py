"""SGD with a stochastic line search: the paper's algorithm written out, same batch on both sides, no step uphill."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

import hybridopt as ho
from tests.optimizers.catalogue import function, run, training


@pytest.mark.parametrize(("reset", "number"), [("keep", 0), ("first", 1), ("grow", 2)])
def test_the_algorithm_of_the_paper(reset: str, number: int) -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    optimizer = ho.create(
        "sls", problem.model.parameters(), lr=40.0, reset=reset, epoch=3, largest=1.5, shrink=0.7, weight_decay=0.01
    )
    parameters = list(twin.model.parameters())
    step, largest = 40.0, 60.0
    x = twin.objective.position()

    def value(at: torch.Tensor, batch: Any) -> float:
        return batch.value(at) + 0.005 * float(at @ at)

    for index in range(8):
        optimizer.step(problem.batch(index))
        batch = twin.batch(index)
        g = torch.cat([g.reshape(-1) for g in torch.autograd.grad(batch(), parameters)]) + 0.01 * x
        step = {0: step, 1: 40.0, 2: min(step * 2 ** (1 / 3), largest)}[number]
        trials = 1
        while value(x - step * g, batch) > value(x, batch) - 0.1 * step * float(g @ g):
            step, trials = 0.7 * step, trials + 1
        x = x - step * g
        twin.objective.commit(x)
        torch.testing.assert_close(problem.objective.position(), x, rtol=1e-10, atol=1e-12)
        assert optimizer.report.step_size == pytest.approx(step, rel=1e-12)
        assert optimizer.report.evaluations == trials


def test_both_values_are_of_the_same_batch_with_the_same_random_numbers() -> None:
    problem = training("dropout", dtype=torch.float64)
    optimizer = ho.create("sls", problem.model.parameters(), lr=10.0)
    for step in range(6):
        batch = problem.batch(step)
        torch.manual_seed(step)
        before = batch.value()
        torch.manual_seed(step)
        optimizer.step(batch)
        torch.manual_seed(step)
        batch.renew()
        decrease = before - batch.value()
        assert decrease >= 0.1 * optimizer.report.step_size * optimizer.report.grad_norm**2 - 1e-12


def test_the_full_loss_only_falls_on_the_full_batch() -> None:
    problem = training(dtype=torch.float64)
    losses = run(ho.create("sls", problem.model.parameters(), lr=1e3), problem, range(20), full=True)
    assert all(after < before for before, after in itertools.pairwise(losses))


def test_costs_are_the_trials() -> None:
    problem = training()
    optimizer = ho.create("sls", problem.model.parameters(), lr=30.0)
    optimizer.step(problem.objective)
    counts = problem.objective.ledger.counts
    assert (counts["gradient"], counts["forward"]) == (1, optimizer.report.evaluations)
    assert optimizer.report.evaluations > 1


def test_a_search_in_vain_moves_nothing_and_the_next_one_starts_from_the_rate() -> None:
    start = torch.tensor([1.0, 1.0], dtype=torch.float64)

    def formula(x: torch.Tensor) -> torch.Tensor:
        return (x**2).sum() + torch.where((x == start).all(), 0.0, math.nan) * x.sum().detach()

    objective = function(formula, start)
    optimizer = ho.create("sls", objective.model.parameters(), max_evaluations=5)
    for _ in range(2):
        optimizer.step(objective)
        assert (optimizer.report.accepted, optimizer.report.evaluations) == (False, 5)
        assert optimizer.memory["last"] == 1.0
    assert torch.equal(objective.position(), start)


def test_differences_below_the_noise_floor_do_not_shorten_the_step() -> None:
    # Noise of 1e-7 in values of 1e8, less than ten rounding units.
    objective = function(
        lambda x: 1e8 + (x**2).sum() / 2 + 1e-7 * torch.sin(1e9 * x).sum().detach(), [1e-5, -1e-5, 3e-6]
    )
    optimizer = ho.create("sls", objective.model.parameters(), lr=0.5)
    for _ in range(10):
        optimizer.step(objective)
        assert optimizer.report.evaluations == 1
    assert float(objective.position().abs().max()) < 1e-6
