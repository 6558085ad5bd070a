"""One objective is one deterministic function, until it is renewed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hybridopt.objective import Objective
from tests.cases import BY_NAME, Case, cases
from tests.curvature.reference import objective_of, relative_error

RANDOM = cases(random=True)


@cases()
def test_evaluations_repeat_bit_for_bit(case: Case):
    objective = objective_of(case)
    x = objective.position()
    value, gradient = objective.value_and_grad()
    trial_value, trial_gradient = objective.value_and_grad(1.1 * x)
    only_value = objective.value(), objective.value(1.1 * x)
    for _ in range(2):
        torch.rand(1)  # others draw in between
        again, same = objective.value_and_grad()
        assert again == value
        assert torch.equal(same, gradient)
        again, same = objective.value_and_grad(1.1 * x)
        assert again == trial_value
        assert torch.equal(same, trial_gradient)
        assert (objective.value(), objective.value(1.1 * x)) == only_value


@cases()
def test_the_point_belongs_to_the_same_function(case: Case):
    objective = objective_of(case)
    value, gradient = objective.value_and_grad()
    point = objective.at()
    assert abs(point.value - value) <= 2e-6 * abs(value)
    assert relative_error(point.gradient, gradient) < 1e-5


@RANDOM
def test_the_first_evaluation_sees_what_a_forward_would(case: Case):
    objective = objective_of(case)
    state = torch.get_rng_state()
    wanted = objective().item()
    torch.set_rng_state(state)
    assert objective.value() == wanted


@RANDOM
def test_whichever_comes_first_fixes_the_function(case: Case):
    x = objective_of(case).position()
    wanted = objective_of(case).value(x)
    for first in ("value", "value_and_grad", "at"):
        objective = objective_of(case)
        getattr(objective, first)()
        assert objective.value(x) == wanted


@RANDOM
def test_renew_draws_anew(case: Case):
    objective = objective_of(case)
    values = [objective.value()]
    for _ in range(5):
        objective.renew()
        values.append(objective.value())
    assert len(set(values)) > 1


@RANDOM
def test_another_batch_draws_anew(case: Case):
    objective = objective_of(case)
    objective.value()
    state = torch.get_rng_state()
    other = objective.with_batch(objective.inputs, objective.targets)
    other.value()
    assert not torch.equal(torch.get_rng_state(), state)


@RANDOM
def test_products_use_the_same_draw(case: Case):
    # A difference of gradients of one function; with fresh draws it would be noise of order one over the step.
    objective = objective_of(case, torch.float64)
    hessian = objective.at().hessian()
    x = objective.position()
    direction = torch.ones_like(x)
    step = 1e-5
    sides = [objective.value_and_grad(x + sign * step * direction)[1] for sign in (1, -1)]
    assert relative_error(hessian @ direction, (sides[0] - sides[1]) / (2 * step)) < 1e-6


def test_repeatable_knows_random_functions_and_statistics():
    for case, wanted in (
        ("mlp_tanh", True),
        ("functional_dropout", False),
        ("batch_norm_train", False),
        ("batch_norm_eval", True),
    ):
        objective = objective_of(BY_NAME[case])
        objective.value()
        assert objective.repeatable is wanted, case


def test_a_failed_first_evaluation_leaves_no_trace():
    class Moody(torch.nn.Module):
        fail = True

        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(3)

        def forward(self, x):
            y = F.dropout(self.norm(x), 0.5)
            if self.fail:
                raise KeyError("not now")
            return y

    model = Moody()
    objective = Objective(model, F.mse_loss, torch.randn(4, 3), torch.zeros(4, 3))
    state = torch.get_rng_state()
    for evaluate in (objective.value, objective.value_and_grad, objective.at):
        with pytest.raises(KeyError):
            evaluate()
        assert torch.equal(torch.get_rng_state(), state)
        assert model.norm.num_batches_tracked == 0
    model.fail = False
    value = objective.value()
    assert not torch.equal(torch.get_rng_state(), state)
    assert objective.value() == value
    objective.adopt()
    assert model.norm.num_batches_tracked == 1
