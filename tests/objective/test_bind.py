"""An objective as a function of an optimizer's parameters: their order, and everything else a constant."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybridopt.core import ObjectiveError
from hybridopt.objective import Objective
from tests.curvature.reference import relative_error


@pytest.fixture
def objective():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    return Objective(model, F.cross_entropy, torch.randn(5, 2).double(), torch.tensor([0, 1, 1, 0, 1]))


def groups(*lists):
    return [{"params": list(parameters)} for parameters in lists]


def test_order_is_that_of_the_groups(objective):
    first, last = objective.model[0], objective.model[2]
    bound = objective.bind(groups([last.bias, last.weight], [first.weight]))
    assert bound.space.parameters == [last.bias, last.weight, first.weight]
    wanted = torch.cat([p.detach().reshape(-1) for p in (last.bias, last.weight, first.weight)])
    assert torch.equal(bound.position(), wanted)


def test_derivatives_are_blocks_of_the_full_ones(objective):
    first, last = objective.model[0], objective.model[2]
    order = [last.weight, first.bias]
    bound = objective.bind(groups(*[[p] for p in order]))
    start, rows = 0, {}
    for parameter in objective.space.parameters:
        rows[id(parameter)] = range(start, start + parameter.numel())
        start += parameter.numel()
    chosen = torch.tensor([row for p in order for row in rows[id(p)]])
    full, part = objective.at(), bound.at()
    assert torch.equal(part.gradient, full.gradient[chosen])
    for kind in ("hessian", "gauss_newton"):
        wanted = getattr(full, kind)().dense()[chosen][:, chosen]
        assert relative_error(getattr(part, kind)().dense(), wanted) < 1e-14
    assert torch.equal(bound.value_and_grad()[1], full.gradient[chosen])


def test_trials_move_only_the_bound_parameters(objective):
    weight = objective.model[2].weight
    bound = objective.bind(groups([weight]))
    x = objective.position()
    rows = slice(9, 15)
    assert torch.equal(x[rows], weight.detach().reshape(-1))
    x[rows] *= 2
    assert bound.value(2 * bound.position()) == objective.value(x)
    bound.commit(2 * bound.position())
    assert torch.equal(objective.position(), x)


def test_frozen_and_repeated_parameters_are_left_out(objective):
    first = objective.model[0]
    first.bias.requires_grad_(False)
    bound = objective.bind(groups([first.weight, first.bias], [first.weight]))
    assert bound.space.parameters == [first.weight]


def test_freezing_between_steps_is_noticed(objective):
    optimizer_groups = groups(objective.model.parameters())
    assert objective.bind(optimizer_groups).space.n == 17
    objective.model[0].requires_grad_(False)
    bound = objective.bind(optimizer_groups)
    assert bound.space.n == 8
    assert bound.at().gradient.shape == (8,)


def test_freezing_under_an_unbound_objective_says_what_to_do(objective):
    objective.value()
    objective.model[0].requires_grad_(False)
    for evaluate in (objective.value_and_grad, objective.at):
        with pytest.raises(ObjectiveError, match="frozen"):
            evaluate()


def test_binding_again_reuses_the_plan(objective):
    optimizer_groups = groups(objective.model.parameters())
    first, second = objective.bind(optimizer_groups), objective.bind(optimizer_groups)
    assert first is not second
    assert first.space is second.space
    assert first.slots is second.slots


def test_batch_ledger_and_key_are_shared(objective):
    bound = objective.bind(groups([objective.model[0].weight]))
    bound.value()
    assert bound.ledger is objective.ledger
    assert bound.key == objective.key
    assert bound.samples == objective.samples
    assert bound.with_batch(objective.inputs[:2], objective.targets[:2]).space is bound.space


def test_the_objective_itself_is_not_changed(objective):
    objective.bind(groups([objective.model[0].weight]))
    assert objective.space.n == 17


def test_nothing_to_optimize(objective):
    objective.model.requires_grad_(False)
    for use in (
        lambda: objective.bind(groups(objective.model.parameters())),
        objective.value,
        objective.position,
    ):
        with pytest.raises(ObjectiveError, match="no parameter to optimize"):
            use()
    with pytest.raises(ObjectiveError, match="no parameter to optimize"):
        objective.bind([])


def test_parameters_of_the_loss_can_be_bound():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(2.0))

        def forward(self, outputs, targets):
            return self.weight * F.mse_loss(outputs, targets)

    loss = Weighted()
    objective = Objective(nn.Linear(1, 1), loss, torch.ones(2, 1), torch.zeros(2, 1))
    assert objective.space.parameters[-1] is loss.weight
    bound = objective.bind(groups([loss.weight]))
    value = bound.value()
    assert bound.value(torch.tensor([4.0])) == pytest.approx(2 * value)
    assert bound.value_and_grad()[1].item() == pytest.approx(value / 2)
