"""What a step reports belongs to its starting point, wherever the optimizer looked before and after."""

from __future__ import annotations

import pytest
import torch

from tests.cases import Case, cases
from tests.curvature.reference import objective_of

SELECTED = cases("mlp_tanh", "frozen", "unused", "dropout_train", "mixed_dtypes")


def truth(case: Case):
    objective = objective_of(case)
    loss = objective()
    gradients = torch.autograd.grad(loss, objective.space.parameters, allow_unused=True)
    return loss.detach(), gradients


def check(objective, case: Case) -> None:
    loss, gradients = truth(case)
    torch.testing.assert_close(objective.start_loss, loss)
    for found, wanted in zip(objective.start_gradients, gradients, strict=True):
        if wanted is None:
            assert found is None
        else:
            torch.testing.assert_close(found, wanted)


@SELECTED
@pytest.mark.parametrize("first", ["value_and_grad", "at"])
def test_first_evaluation(case: Case, first: str):
    objective = objective_of(case)
    getattr(objective, first)()
    check(objective, case)


@SELECTED
def test_trials_and_later_points_do_not_count(case: Case):
    objective = objective_of(case)
    objective.value(2 * objective.position())
    objective.value_and_grad(3 * objective.position())
    assert objective.start_loss is None
    objective.value()
    assert objective.start_gradients is None
    objective.at()
    check(objective, case)
    objective.commit(2 * objective.position())
    objective.value_and_grad()
    objective.at()
    check(objective, case)


@SELECTED
def test_a_gradient_only_after_the_commit_is_not_the_starting_one(case: Case):
    objective = objective_of(case)
    objective.value()
    objective.commit(2 * objective.position())
    objective.value_and_grad()
    torch.testing.assert_close(objective.start_loss, truth(case)[0])
    assert objective.start_gradients is None


def test_renew_starts_over():
    from tests.cases import BY_NAME

    objective = objective_of(BY_NAME["mlp_tanh"])
    objective.value_and_grad()
    objective.commit(0 * objective.position())
    objective.renew()
    assert objective.start_loss is None
    assert objective.start_gradients is None
    objective.value_and_grad()
    assert objective.start_loss.item() == pytest.approx(torch.tensor(3.0).log().item())


def test_the_dtypes_are_those_of_the_parameters():
    from tests.cases import BY_NAME

    objective = objective_of(BY_NAME["mixed_dtypes"])
    objective.value_and_grad()
    assert [g.dtype for g in objective.start_gradients] == [p.dtype for p in objective.space.parameters]
