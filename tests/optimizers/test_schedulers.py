"""torch's learning-rate schedulers reach every optimizer, hybrids included, also after a resume."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

import hybridopt as ho
from tests.optimizers.catalogue import WITH_RATE, Method, each, names, training

SOME = names("sgd", "adam", "lbfgs", "newton_cg", "trust_newton_cg", "switch", "adam_lbfgs", "torch:AdamW")

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 10),
    "one_cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10, cycle_momentum=False),
    "sequential": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2), lr_scheduler.ExponentialLR(optimizer, 0.9)],
        milestones=[2],
    ),
}


@each(SOME)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler_sets_the_rate_without_a_warning(method: Method, scheduler: str) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters())
    expected = SCHEDULERS[scheduler](
        torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=optimizer.param_groups[0]["lr"])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule = SCHEDULERS[scheduler](optimizer)
        for step in range(2):  # before a switch hands over to a member with a rate of its own
            assert schedule.get_last_lr() == pytest.approx(expected.get_last_lr())
            optimizer.step(problem.batch(step))
            schedule.step()
            expected.optimizer.step()
            expected.step()


@each(SOME)
def test_reduce_on_plateau_sets_the_rate(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters())
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    before = optimizer.param_groups[0]["lr"]
    optimizer.step(problem.objective)
    schedule.step(1.0)
    schedule.step(2.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * before)


# The search of torch.optim.LBFGS divides by the rate.
@each([method for method in WITH_RATE if method.name != "torch:LBFGS"])
def test_a_rate_of_zero_set_after_a_resume_stops_the_parameters(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters())
    for step in range(4):  # over the switch of the hybrids
        optimizer.step(problem.batch(step))
    saved = optimizer.state_dict()
    optimizer = method.create(problem.model.parameters())
    optimizer.load_state_dict(saved)
    schedule = lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.0)
    before = problem.parameters()
    optimizer.step(problem.batch(4))
    schedule.step()
    optimizer.step(problem.batch(5))
    for parameter, was in zip(problem.model.parameters(), before, strict=True):
        assert torch.equal(parameter, was)


@each(names("sgd", "adam", "lbfgs", "switch", "adam_lbfgs"))
def test_a_schedule_goes_on_exactly_after_a_resume(method: Method) -> None:
    def start() -> tuple[Any, Any, Any]:
        problem = training()
        optimizer = method.create(problem.model.parameters())
        return problem, optimizer, SCHEDULERS["cosine"](optimizer)

    def go(problem: Any, optimizer: Any, schedule: Any, steps: range) -> list[tuple[float, float]]:
        trace = []
        for step in steps:
            loss = optimizer.step(problem.batch(step))
            schedule.step()
            trace.append((float(loss), optimizer.param_groups[0]["lr"]))
        return trace

    whole = go(*start(), range(6))
    problem, optimizer, schedule = start()
    first = go(problem, optimizer, schedule, range(4))
    saved = problem.model.state_dict(), optimizer.state_dict(), schedule.state_dict()
    problem, optimizer, schedule = start()
    for part, state in zip((problem.model, optimizer, schedule), saved, strict=True):
        part.load_state_dict(state)
    assert first + go(problem, optimizer, schedule, range(4, 6)) == whole


def test_the_rate_of_a_schedule_reaches_the_member_that_is_active() -> None:
    problem = training()
    optimizer = ho.create("switch", problem.model.parameters(), first="sgd", second="momentum", at_step=2)
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 0.5
        before = problem.parameters()
        optimizer.step(problem.batch(step))
        if step != 3:  # the first step of a member has no momentum yet: it is lr * gradient
            for parameter, was in zip(problem.model.parameters(), before, strict=True):
                torch.testing.assert_close(was - parameter, 0.5 * parameter.grad)


def test_averaged_models_and_swa_schedules_work() -> None:
    problem = training()
    optimizer = ho.create("newton_cg", problem.model.parameters())
    averaged = torch.optim.swa_utils.AveragedModel(problem.model)
    schedule = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.25, anneal_epochs=1)
    for step in range(3):
        optimizer.step(problem.batch(step))
        averaged.update_parameters(problem.model)
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.25)
