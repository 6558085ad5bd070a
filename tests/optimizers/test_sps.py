"""Stochastic Polyak rates: the papers' formulas written out, and what happens at the bound and without numbers."""

from __future__ import annotations

import math

import pytest
import torch

import hybridopt as ho
from tests.optimizers.catalogue import function, run, training


@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("growth", [None, 1.1])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_the_formulas_of_the_papers(momentum: float, growth: float | None, decay: float) -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    options = {"c": 0.9, "lowest": 0.1, "lr": 5.0, "momentum": momentum, "growth": growth, "epoch": 2}
    optimizer = ho.create("sps", problem.model.parameters(), weight_decay=decay, **options)
    parameters = list(twin.model.parameters())
    x = before = twin.objective.position()
    last, bounds = math.inf, set()
    for step in range(10):
        optimizer.step(problem.batch(step))
        loss = twin.batch(step)()
        g = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]) + decay * x
        polyak = (float(loss) + decay / 2 * float(x @ x) - 0.1) / (0.9 * float(g @ g))
        rates = {"polyak": polyak, "largest": 5.0, "growth": math.inf if growth is None else last * growth**0.5}
        bounds.add(min(rates, key=rates.__getitem__))
        rate = last = min(rates.values())
        x, before = x - rate * (1 - momentum) * g + momentum * (x - before), x
        twin.objective.commit(x)
        assert optimizer.report.rate == pytest.approx(rate, rel=1e-10)
        torch.testing.assert_close(problem.objective.position(), x, rtol=1e-10, atol=1e-12)
    assert len(bounds) >= 2, f"only {bounds} was met"


def test_polyaks_own_step_reaches_the_minimum_of_a_quadratic_at_once() -> None:
    objective = function(lambda x: 3.0 + ((x - 2) ** 2).sum(), [5.0, -1.0])
    optimizer = ho.create("sps", objective.model.parameters(), lowest=3.0, c=0.5, lr=100.0)
    optimizer.step(objective)
    torch.testing.assert_close(objective.position(), torch.full((2,), 2.0, dtype=torch.float64))
    optimizer.step(objective)
    assert optimizer.report.accepted is False


@pytest.mark.parametrize("lowest", [1.0, 1.0 + 1e-16, 7.0])
def test_at_or_below_the_bound_there_is_no_step(lowest: float) -> None:
    objective = function(lambda x: 1.0 + 1e-16 * x.sum(), [0.5])
    optimizer = ho.create("sps", objective.model.parameters(), lowest=lowest)
    optimizer.step(objective)
    assert objective.position().tolist() == [0.5]
    assert (optimizer.report.accepted, optimizer.report.status, optimizer.report.rate) == (False, "at_lower_bound", 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_a_number_nothing_moves_and_the_next_batch_goes_on(bad: float, momentum: float) -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("sps", problem.model.parameters(), momentum=momentum)
    run(optimizer, problem, range(2))
    before = problem.objective.position()
    loss_fn = problem.objective.loss_fn
    optimizer.step(ho.Objective(problem.model, lambda o, t: loss_fn(o, t) * bad, problem.inputs, problem.targets))
    assert torch.equal(problem.objective.position(), before)
    assert (optimizer.report.accepted, optimizer.report.status) == (False, "non_finite")
    run(optimizer, problem, range(2, 4))
    assert not torch.equal(problem.objective.position(), before)
    assert torch.isfinite(problem.objective.position()).all()


def test_a_step_at_the_bound_does_not_hold_the_rate_at_zero() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("sps", problem.model.parameters())
    run(optimizer, problem, range(2))
    rate = optimizer.report.rate
    loss_fn = problem.objective.loss_fn
    optimizer.step(ho.Objective(problem.model, lambda o, t: loss_fn(o, t) - 100.0, problem.inputs, problem.targets))
    assert optimizer.report.rate == 0.0
    run(optimizer, problem, range(2, 3))
    assert optimizer.report.rate > 0.1 * rate


def test_one_transfer_to_the_host() -> None:
    counts = []
    original = torch.Tensor.tolist

    def counted(self: torch.Tensor) -> object:
        counts.append("tolist")
        return original(self)

    problem = training()
    optimizer = ho.create("sps", problem.model.parameters())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "tolist", counted)
        for name in ("item", "__float__", "__bool__"):
            patch.setattr(torch.Tensor, name, lambda self: counts.append("other"))
        optimizer.step(problem.batch(0))
    assert counts == ["tolist"]
