"""Buffers move once a step, to what one forward at the starting point leaves, bit for bit."""

from __future__ import annotations

import pytest
import torch

from hybridopt.objective import Objective
from tests.cases import SEED, Case, cases
from tests.curvature.reference import objective_of

BUFFERED = cases(buffers=True)
NAN = float("nan")


def buffers(model: torch.nn.Module) -> list[torch.Tensor]:
    return [buffer.detach().clone() for buffer in model.buffers()]


def after_a_forward(case: Case) -> list[torch.Tensor]:
    problem = case.build()
    torch.manual_seed(SEED)
    problem.outputs()
    return buffers(problem.model)


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


@BUFFERED
def test_the_flag_is_right(case: Case):
    assert not equal(buffers(case.build().model), after_a_forward(case))


@BUFFERED
@pytest.mark.parametrize("first", ["value", "value_and_grad", "at"])
def test_adopts_what_one_forward_leaves(case: Case, first: str):
    objective = objective_of(case)
    getattr(objective, first)()
    for _ in range(3):
        objective.value_and_grad(1.2 * objective.position())
        objective.at()
    objective.adopt()
    assert equal(buffers(objective.model), after_a_forward(case))


@BUFFERED
def test_trials_before_the_starting_point_do_not_count(case: Case):
    objective = objective_of(case)
    objective.value(NAN * objective.position())
    objective.value_and_grad(3 * objective.position())
    objective.value()
    objective.adopt()
    assert equal(buffers(objective.model), after_a_forward(case))


@BUFFERED
def test_evaluations_after_the_commit_do_not_count(case: Case):
    objective = objective_of(case)
    objective.value()
    objective.commit(2 * objective.position())
    objective.value_and_grad()
    objective.adopt()
    assert equal(buffers(objective.model), after_a_forward(case))


@BUFFERED
def test_only_trials_leave_nothing_to_adopt(case: Case):
    objective = objective_of(case)
    before = buffers(objective.model)
    objective.value(2 * objective.position())
    objective.commit(2 * objective.position())
    objective.value()
    objective.adopt()
    assert equal(buffers(objective.model), before)


@BUFFERED
def test_adopting_twice_moves_once(case: Case):
    objective = objective_of(case)
    objective.value()
    objective.adopt()
    objective.value()
    objective.adopt()
    assert equal(buffers(objective.model), after_a_forward(case))


@BUFFERED
def test_without_adoption_nothing_moves(case: Case):
    objective = objective_of(case)
    before = buffers(objective.model)
    objective.value()
    objective.renew()
    objective.adopt()
    assert equal(buffers(objective.model), before)


@BUFFERED
def test_a_trial_that_is_not_finite_leaves_buffers_clean(case: Case):
    objective = objective_of(case)
    before = buffers(objective.model)
    for bad in (NAN, float("inf")):
        objective.value(bad * objective.position())
        objective.value_and_grad(bad * objective.position())
    assert equal(buffers(objective.model), before)
    objective.value()
    objective.adopt()
    assert all(buffer.isfinite().all() for buffer in objective.model.buffers())


@BUFFERED
def test_several_steps_equal_several_forwards(case: Case):
    objective = objective_of(case)
    problem = case.build()
    for step in range(3):
        batch = objective.with_batch(objective.inputs * (1 + step), objective.targets)
        batch.value_and_grad()
        batch.value(0.5 * batch.position())
        batch.adopt()
        problem.model(problem.inputs * (1 + step))
    assert equal(buffers(objective.model), buffers(problem.model))


@BUFFERED
def test_adopted_buffers_are_the_models_own_tensors(case: Case):
    objective = objective_of(case)
    identities = [id(buffer) for buffer in objective.model.buffers()]
    objective.value_and_grad()
    objective.adopt()
    assert [id(buffer) for buffer in objective.model.buffers()] == identities
    assert not any(buffer.requires_grad for buffer in objective.model.buffers())


def test_a_buffer_shared_by_two_modules_is_cloned_once():
    first, second = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    second._buffers["running_mean"] = first._buffers["running_mean"]
    model = torch.nn.Sequential(first, second)
    import copy

    wanted = copy.deepcopy(model)
    x = torch.randn(5, 2)
    wanted(x)
    objective = Objective(model, torch.nn.functional.mse_loss, x, x)
    objective.value()
    objective.adopt()
    assert equal(buffers(model), buffers(wanted))


def test_buffers_of_the_loss_are_guarded_too():
    class Centered(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, outputs, targets):
            self.seen += 1
            return (outputs - targets).square().mean()

    loss = Centered()
    objective = Objective(torch.nn.Linear(2, 1), loss, torch.randn(3, 2), torch.randn(3, 1))
    objective.value_and_grad()
    objective.value(objective.position())
    assert loss.seen == 0
    objective.adopt()
    assert loss.seen == 1
