"""Value and gradient of every case, at the model's parameters and at trial points, against plain torch."""

from __future__ import annotations

import pytest
import torch

from hybridopt.core import ObjectiveError
from hybridopt.objective import Objective
from tests.cases import DTYPES, SEED, Case, Problem, cases
from tests.curvature.reference import derivative, objective_of, plain_loss, reference, relative_error

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def moved(problem: Problem, x: torch.Tensor) -> Problem:
    """Writes a flat vector into the parameters, in plain torch."""
    with torch.no_grad():
        start = 0
        for parameter in problem.parameters():
            parameter.copy_(x[start : start + parameter.numel()].view(parameter.shape))
            start += parameter.numel()
    return problem


def trial_point(objective: Objective) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    step = torch.randn(objective.space.n, generator=generator, dtype=torch.float64)
    return objective.position() + 0.1 * step.to(objective.space.dtype)


@DTYPES
@cases()
def test_at_the_model(case: Case, dtype: torch.dtype):
    objective, truth = objective_of(case, dtype), reference(case)
    value, gradient = objective.value_and_grad()
    assert value == pytest.approx(truth.loss, rel=TOLERANCE[dtype])
    assert objective.value() == pytest.approx(value, rel=TOLERANCE[dtype])
    assert relative_error(gradient, truth.gradient) < TOLERANCE[dtype]


@DTYPES
@cases()
def test_at_a_trial_point(case: Case, dtype: torch.dtype):
    objective = objective_of(case, dtype)
    x = trial_point(objective)
    value, gradient = objective.value_and_grad(x)
    assert objective.value(x) == pytest.approx(value, rel=TOLERANCE[dtype])
    problem = moved(case.build(torch.float64), x)
    loss = plain_loss(problem)
    assert value == pytest.approx(loss.item(), rel=TOLERANCE[dtype])
    assert relative_error(gradient, derivative(loss, problem.parameters())) < TOLERANCE[dtype]


@cases()
def test_trial_at_the_models_own_parameters_is_the_same_function(case: Case):
    objective = objective_of(case)
    value, gradient = objective.value_and_grad()
    again, same = objective.value_and_grad(objective.position())
    assert again == value
    assert relative_error(same, gradient) < 1e-6


@cases()
def test_committed_trial_is_the_model_there(case: Case):
    objective = objective_of(case)
    x = trial_point(objective)
    value, gradient = objective.value_and_grad(x)
    objective.commit(x)
    assert torch.equal(objective.position(), objective.space.pack(objective.space.tensors(x)))
    assert objective.value() == pytest.approx(value, rel=1e-6)
    assert relative_error(objective.value_and_grad()[1], gradient) < 1e-5


@cases()
def test_calling_it_is_the_models_forward(case: Case):
    objective, problem = objective_of(case), case.build()
    torch.manual_seed(SEED)
    loss = objective()
    torch.manual_seed(SEED)
    wanted = problem.loss_of(problem.outputs())
    assert loss.dim() == 0
    assert torch.equal(loss, wanted)
    assert loss.requires_grad
    for (name, buffer), other in zip(objective.model.named_buffers(), problem.model.buffers(), strict=True):
        assert torch.equal(buffer, other), name


def test_loss_of_one_element_counts_as_scalar():
    objective = Objective.from_function(lambda x: x[:1] ** 2, torch.tensor([3.0, 1.0]))
    assert objective.value() == 9.0
    assert objective().shape == ()
    assert torch.equal(objective.value_and_grad()[1], torch.tensor([6.0, 0.0]))


def test_values_that_are_not_finite_are_returned():
    objective = Objective.from_function(lambda x: x.log().sum(), torch.tensor([1.0]))
    value, gradient = objective.value_and_grad(torch.tensor([-1.0]))
    assert value != value
    assert gradient.shape == (1,)
    assert objective.value(torch.tensor([0.0])) == -torch.inf


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(torch.zeros(3), id="too-short"),
        pytest.param(torch.zeros(4, 1), id="column"),
        pytest.param(torch.zeros(4, dtype=torch.float64), id="other-dtype"),
        pytest.param(torch.tensor(0.0), id="scalar"),
    ],
)
def test_points_that_do_not_fit_are_refused(wrong):
    objective = Objective.from_function(lambda x: x.square().sum(), torch.ones(4))
    for evaluate in (objective.value, objective.value_and_grad, objective.commit):
        with pytest.raises(ObjectiveError, match=r"shape \(4,\) in torch.float32"):
            evaluate(wrong)
    assert objective.value() == 4.0


def test_trial_points_may_require_a_gradient():
    objective = Objective.from_function(lambda x: x.square().sum(), torch.ones(2))
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert objective.value(x) == 5.0
    gradient = objective.value_and_grad(x)[1]
    assert not gradient.requires_grad
    assert x.grad is None


def test_evaluations_do_not_depend_on_the_grad_mode():
    objective = Objective.from_function(lambda x: x.square().sum(), torch.ones(2))
    with torch.no_grad():
        assert objective.value_and_grad()[1].tolist() == [2, 2]
        assert (objective.at().hessian() @ torch.ones(2)).tolist() == [2, 2]
