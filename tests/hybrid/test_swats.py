"""SWATS: the paper's algorithm written out, its projection, and the hand-over to SGD."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

import hybridopt as ho
from hybridopt.hybrid.projection import ProjectedRate, projected_rate
from tests.optimizers.catalogue import assert_same_state, quadratic, run, training
from tests.optimizers.test_resume import check

# The rate never settles to 1e-5 in a few noisy steps; a coarser threshold meets both phases.
COARSE = {"lr": 0.05, "betas": [0.9, 0.6], "threshold": 0.2}


def test_the_rate_is_the_one_whose_gradient_step_projects_on_the_step() -> None:
    torch.manual_seed(0)
    gradient = [torch.randn(3, 2, dtype=torch.float64), torch.randn(4, dtype=torch.float64)]
    step = [-0.1 * g + 0.05 * torch.randn_like(g) for g in gradient]
    rate = float(projected_rate(step, gradient))
    p, g = torch.cat([s.reshape(-1) for s in step]), torch.cat([g.reshape(-1) for g in gradient])
    # The projection of -rate g on p is p.
    torch.testing.assert_close(-rate * (g @ p) / (p @ p) * p, p)
    assert float(projected_rate([-0.3 * g for g in gradient], gradient)) == pytest.approx(0.3)
    assert not math.isfinite(float(projected_rate([torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 1.0])])))


def test_the_rule_switches_at_the_corrected_mean() -> None:
    memory: dict[str, Any] = {}
    rule = ProjectedRate(memory, decay=0.9, threshold=1e-3)
    gradient = [torch.tensor([1.0, -2.0])]
    assert rule.see([-0.5 * gradient[0]], gradient) is None  # the first one is its own mean
    assert rule.see([torch.tensor([2.0, 1.0])], gradient) is None  # orthogonal: counted, not averaged
    assert memory["seen"] == 2
    mean = 0.9 * 0.05 + 0.1 * 0.2
    found = [rule.see([-0.2 * gradient[0]], gradient) for _ in range(80)]
    assert memory["mean"] != mean
    first = next(index for index, rate in enumerate(found) if rate is not None)
    assert first > 5
    assert found[first] == pytest.approx(0.2, abs=1e-3)
    negative = ProjectedRate({}, decay=0.9, threshold=1.0)
    assert [negative.see([0.2 * gradient[0]], gradient) for _ in range(3)] == [None] * 3


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_algorithm_of_the_paper(decay: float) -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    optimizer = ho.create("swats", problem.model.parameters(), weight_decay=decay, **COARSE)
    parameters = list(twin.model.parameters())
    x = twin.objective.position()
    m = a = v = torch.zeros_like(x)
    mean, rate, b1, b2 = 0.0, None, 0.9, 0.6
    switched, events = None, []
    for k in range(1, 16):
        optimizer.step(problem.batch(k))
        events += [(k, event) for event in optimizer.report.events]
        g = torch.cat([g.reshape(-1) for g in torch.autograd.grad(twin.batch(k)(), parameters)]) + decay * x
        if rate is not None:
            v = b1 * v + g
            x = x - (1 - b1) * rate * v
            assert optimizer.report.rate == pytest.approx((1 - b1) * rate, rel=1e-8)
        else:
            m, a = b1 * m + (1 - b1) * g, b2 * a + (1 - b2) * g**2
            p = -0.05 / (1 - b1**k) * m / ((a / (1 - b2**k)).sqrt() + 1e-8)
            x = x + p
            gamma = float(p @ p) / -float(p @ g)
            mean = b2 * mean + (1 - b2) * gamma
            corrected = mean / (1 - b2**k)
            if k > 1 and abs(corrected - gamma) < 0.2:
                rate, switched = corrected, k
        twin.objective.commit(x)
        torch.testing.assert_close(problem.objective.position(), x, rtol=1e-8, atol=1e-10)
    assert switched is not None
    assert 1 < switched < 12
    assert [(k, event["event"], event["at_step"]) for k, event in events] == [(switched, "switch", switched)]
    assert events[0][1]["rate"] == pytest.approx(rate, rel=1e-8)
    assert optimizer.report.member == "sgd"


def test_the_default_threshold_fires_on_a_smooth_problem_and_the_papers_does_not() -> None:
    def switched_at(threshold: float) -> int | None:
        matrix, vector = quadratic(6, lowest=0.5)
        objective = ho.Objective.from_function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.zeros(6).double())
        optimizer = ho.create("swats", objective.model.parameters(), threshold=threshold)
        for step in range(1000):
            optimizer.step(objective)
            if optimizer.report.events:
                return step
        return None

    assert switched_at(1e-5) is not None
    assert switched_at(1e-9) is None


def test_adams_state_is_dropped_and_the_copies_go_on() -> None:
    problem = training()
    optimizer = ho.create("swats", problem.model.parameters(), lr=0.05, threshold=100.0)
    run(optimizer, problem, range(4))
    assert {key for entry in optimizer.state.values() for key in entry if "exp_avg" in key} == set()
    model, twin = copy.deepcopy((problem.model, optimizer))
    objective = ho.Objective(model, problem.objective.loss_fn, problem.inputs, problem.targets)
    assert_same_state(twin.state_dict(), optimizer.state_dict())
    assert [float(twin.step(objective)) for _ in range(2)] == run(optimizer, problem, range(2), full=True)


def test_a_schedule_goes_on_over_the_switch() -> None:
    problem = training()
    optimizer = ho.create("swats", problem.model.parameters(), lr=0.08, threshold=100.0)
    schedule = lr_scheduler.ExponentialLR(optimizer, 0.5)
    rates = []
    for step in range(6):
        optimizer.step(problem.batch(step))
        rates.append(optimizer.report.as_dict().get("rate"))
        schedule.step()
    assert rates[:2] == [None, None]
    assert [b / a for a, b in itertools.pairwise(rates[2:])] == pytest.approx([0.5] * 3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.08 * 0.5**6)


def test_groups_keep_the_ratio_of_their_rates() -> None:
    problem = training(dtype=torch.float64)
    groups = [
        {"params": problem.model[0].parameters(), "lr": 0.0},
        {"params": problem.model[2].weight, "lr": 0.01},
        {"params": problem.model[2].bias, "lr": 0.04},
    ]
    optimizer = ho.create("swats", groups, threshold=100.0, betas=[0.0, 0.999])
    before = problem.model[0].weight.detach().clone()
    run(optimizer, problem, range(2))
    weight, bias = problem.model[2].weight.detach().clone(), problem.model[2].bias.detach().clone()
    run(optimizer, problem, range(2, 3))
    assert torch.equal(problem.model[0].weight, before)
    first = (weight - problem.model[2].weight.detach()) / problem.model[2].weight.grad
    second = (bias - problem.model[2].bias.detach()) / problem.model[2].bias.grad
    assert float(second.mean() / first.mean()) == pytest.approx(4.0)


@pytest.mark.parametrize("stop", [1, 5])
def test_a_resumed_run_is_the_same_on_both_sides_of_the_switch(stop: int) -> None:
    check(
        lambda problem: ho.create("swats", problem.model.parameters(), lr=0.05, threshold=100.0),
        "both",
        range(stop, stop + 1),
        torch.float32,
        full=False,
    )


def test_clipping_is_done_in_both_phases() -> None:
    problem = training()
    optimizer = ho.create("swats", problem.model.parameters(), lr=0.05, threshold=100.0, clip_norm=0.01)
    for step in range(4):
        optimizer.step(problem.batch(step))
        assert optimizer.report.grad_norm == pytest.approx(0.01, rel=1e-3)
