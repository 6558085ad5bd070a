"""Products on a point that the parameters have left raise, however they left; what only looks does no harm."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from hybridopt.core import ObjectiveError, StaleOperatorError
from hybridopt.objective import Objective
from tests.cases import Case, cases
from tests.curvature.reference import objective_of


def commit(objective: Objective) -> None:
    objective.commit(objective.position() + 1e-3)


def commit_the_same(objective: Objective) -> None:
    objective.commit(objective.position())


def copy_(objective: Objective) -> None:
    with torch.no_grad():
        objective.space.parameters[-1].copy_(objective.space.parameters[-1] + 1e-3)


def data_swap(objective: Objective) -> None:
    parameter = objective.space.parameters[0]
    parameter.data = parameter.detach() + 1e-3


def load_state_dict(objective: Objective) -> None:
    objective.model.load_state_dict({k: v.clone() for k, v in objective.model.state_dict().items()})


def torch_step(**options):
    def move(objective: Objective) -> None:
        for parameter in objective.space.parameters:
            parameter.grad = torch.ones_like(parameter)
        torch.optim.SGD(objective.space.parameters, lr=1e-3, **options).step()
        for parameter in objective.space.parameters:
            parameter.grad = None

    return move


def fused_step(objective: Objective) -> None:
    for parameter in objective.space.parameters:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.Adam(objective.space.parameters, lr=1e-3, fused=True).step()
    # As the library's own torch steps do: fused kernels write behind autograd's back.
    torch.autograd.graph.increment_version(objective.space.parameters)


MOVES = pytest.mark.parametrize(
    "move",
    [
        pytest.param(commit, id="commit"),
        pytest.param(commit_the_same, id="commit-same"),
        pytest.param(copy_, id="copy"),
        pytest.param(data_swap, id="data-swap"),
        pytest.param(load_state_dict, id="load-state-dict"),
        pytest.param(torch_step(foreach=True), id="foreach-step"),
        pytest.param(torch_step(foreach=False), id="loop-step"),
        pytest.param(fused_step, id="fused-step"),
    ],
)


@MOVES
@cases("mlp_tanh", "cnn_max_pool", "lstm", "tied", "mixed_dtypes", "shared_module")
def test_products_raise_after_a_move(case: Case, move):
    objective = objective_of(case)
    point = objective.at()
    hessian, gauss_newton = point.hessian(), point.gauss_newton()
    vector = torch.ones(objective.space.n, dtype=objective.space.dtype)
    hessian @ vector
    move(objective)
    for operator in (hessian, gauss_newton):
        with pytest.raises(StaleOperatorError, match="have moved"):
            operator @ vector
    fresh = objective.at().hessian()
    assert (fresh @ vector).isfinite().all()


@MOVES
def test_refused_products_cost_nothing(move):
    objective = Objective.from_function(lambda x: (x**3).sum(), torch.ones(3))
    hessian = objective.at().hessian()
    move(objective)
    with pytest.raises(StaleOperatorError):
        hessian @ torch.ones(3)
    assert objective.ledger.counts["hvp"] == 0


@pytest.mark.parametrize(
    "look",
    [
        pytest.param(lambda o: o.value(2 * o.position()), id="trial"),
        pytest.param(lambda o: o.value_and_grad(2 * o.position()), id="trial-gradient"),
        pytest.param(lambda o: o.value_and_grad(), id="gradient"),
        pytest.param(lambda o: o().backward(), id="backward"),
        pytest.param(lambda o: o.at().hessian(), id="another-point"),
        pytest.param(lambda o: o.adopt(), id="adopt"),
        pytest.param(lambda o: o.renew(), id="renew"),
    ],
)
@cases("mlp_tanh", "cnn_max_pool", "lstm", "batch_norm_train", "weight_norm")
def test_products_go_on_after_a_look(case: Case, look):
    objective = objective_of(case)
    hessian = objective.at().hessian()
    vector = torch.ones(objective.space.n)
    before = hessian @ vector
    look(objective)
    assert torch.equal(hessian @ vector, before)


def test_a_step_back_does_not_revive_an_operator():
    # The graph's saved tensors may be gone or changed: once left, a point is left.
    objective = Objective.from_function(lambda x: (x**3).sum(), torch.ones(3))
    start = objective.position()
    hessian = objective.at().hessian()
    objective.commit(start + 1)
    objective.commit(start)
    with pytest.raises(StaleOperatorError):
        hessian @ torch.ones(3)


def test_parameters_that_are_constants_here_may_not_move_unseen():
    # The bound objective sees the first layer as a constant, but its graph holds it: torch itself objects.
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3), torch.nn.Tanh())
    objective = Objective(model, torch.nn.functional.mse_loss, torch.randn(4, 2), torch.randn(4, 3))
    bound = objective.bind([{"params": [model[0].weight]}])
    hessian = bound.at().hessian()
    with torch.no_grad():
        model[2].weight.add_(1.0)
    with pytest.raises(StaleOperatorError):
        hessian @ torch.ones(6)


def test_a_batch_that_was_changed_in_place_is_named():
    inputs = torch.randn(4, 2)
    objective = Objective(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, inputs, torch.randn(4, 1))
    hessian = objective.at().hessian()
    inputs.add_(1.0)
    with pytest.raises(StaleOperatorError, match="The batch, or another tensor"):
        hessian @ torch.ones(3)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_operators_at_a_point_are_not_copied(duplicate):
    objective = Objective.from_function(lambda x: (x**3).sum(), torch.ones(3))
    with pytest.raises(ObjectiveError, match="neither copied nor pickled"):
        duplicate(objective.at())
    if duplicate is not copy.copy:
        with pytest.raises(ObjectiveError, match="neither copied nor pickled"):
            duplicate(objective.at().hessian())
