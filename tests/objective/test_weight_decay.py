"""Weight decay that belongs to the function, against an L2 term written into the loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybridopt.objective import Objective
from tests.curvature.reference import relative_error

DECAYS = (0.3, 0.0, 0.05)


def build(dtype: torch.dtype = torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).to(dtype)
    return model, torch.randn(5, 2).to(dtype), torch.tensor([0, 1, 1, 0, 1])


def parts(model):
    return [model[2].weight], [model[0].bias, model[2].bias], [model[0].weight]


@pytest.fixture
def pair():
    """An objective with decay in its groups, and one whose loss contains it."""
    model, x, t = build()
    groups = [{"params": p, "weight_decay": w} for p, w in zip(parts(model), DECAYS, strict=True)]
    ours = Objective(model, F.cross_entropy, x, t).bind(groups, regularize=True)
    twin, x, t = build()

    def loss(outputs, targets):
        penalty = sum(w / 2 * p.square().sum() for ps, w in zip(parts(twin), DECAYS, strict=True) for p in ps)
        return F.cross_entropy(outputs, targets) + penalty

    explicit = Objective(twin, loss, x, t).bind([{"params": p} for p in parts(twin)])
    return ours, explicit


def test_value_and_gradient(pair):
    ours, explicit = pair
    (value, gradient), (wanted, wanted_gradient) = ours.value_and_grad(), explicit.value_and_grad()
    assert value == pytest.approx(wanted, rel=1e-14)
    assert ours.value() == pytest.approx(wanted, rel=1e-14)
    assert relative_error(gradient, wanted_gradient) < 1e-14


def test_value_and_gradient_at_a_trial(pair):
    ours, _ = pair
    x = 1.5 * ours.position()
    value, gradient = ours.value_and_grad(x)
    assert ours.value(x) == value
    ours.commit(x)
    assert ours.value() == pytest.approx(value, rel=1e-14)
    assert relative_error(ours.value_and_grad()[1], gradient) < 1e-13


def test_point_and_hessian(pair):
    ours, explicit = pair
    point, wanted = ours.at(), explicit.at()
    assert point.value == pytest.approx(wanted.value, rel=1e-14)
    assert relative_error(point.gradient, wanted.gradient) < 1e-14
    assert relative_error(point.hessian().dense(), wanted.hessian().dense()) < 1e-13


def test_gauss_newton_has_the_penaltys_hessian(pair):
    ours, explicit = pair
    plain = Objective(explicit.model, F.cross_entropy, explicit.inputs, explicit.targets).bind(
        [{"params": explicit.space.parameters}]
    )
    decay = torch.cat(
        [p.new_full((p.numel(),), w) for ps, w in zip(parts(ours.model), DECAYS, strict=True) for p in ps]
    ).detach()
    wanted = plain.at().gauss_newton().dense() + torch.diag(decay)
    assert relative_error(ours.at().gauss_newton().dense(), wanted) < 1e-13


def test_what_is_reported_and_left_in_grad_is_without_it(pair):
    ours, _ = pair
    ours.at()
    plain = F.cross_entropy(ours.model(ours.inputs), ours.targets)
    assert torch.equal(ours.start_loss, plain.detach())
    gradients = torch.autograd.grad(plain, ours.space.parameters)
    for found, wanted in zip(ours.start_gradients, gradients, strict=True):
        torch.testing.assert_close(found, wanted)


def test_resume_takes_the_regularization_off_again(pair):
    ours, _ = pair
    value, gradient = ours.value_and_grad()
    loss, gradients = ours.start_loss, [g.clone() for g in ours.start_gradients]
    ours.renew()
    ours.resume(value, gradient)
    torch.testing.assert_close(ours.start_loss, loss)
    for found, wanted in zip(ours.start_gradients, gradients, strict=True):
        torch.testing.assert_close(found, wanted)
    kept = gradient.clone()
    ours.start_gradients[0].zero_()
    assert torch.equal(gradient, kept), "p.grad must not share memory with the optimizer's gradient"


def test_only_when_asked():
    model, x, t = build()
    plain = Objective(model, F.cross_entropy, x, t)
    bound = plain.bind([{"params": list(model.parameters()), "weight_decay": 1.0}])
    assert bound.value() == plain.value()


def test_groups_without_the_option():
    model, x, t = build()
    plain = Objective(model, F.cross_entropy, x, t)
    bound = plain.bind([{"params": list(model.parameters())}], regularize=True)
    assert bound.value() == plain.value()


def test_a_shared_parameter_is_decayed_once():
    weight = nn.Parameter(torch.tensor([2.0]))

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = self.b = weight

        def forward(self):
            return self.a.sum() * 0 + self.b.sum() * 0

    objective = Objective(Twice()).bind([{"params": [weight], "weight_decay": 1.0}], regularize=True)
    assert objective.value() == 2.0
    assert objective.at().gradient.item() == 2.0


def test_in_single_precision_the_value_is_summed_in_double():
    x0 = torch.full((100,), 1000.0)
    objective = Objective.from_function(lambda x: x.sum() * 0, x0)
    bound = objective.bind([{"params": objective.space.parameters, "weight_decay": 0.02}], regularize=True)
    assert bound.value() == pytest.approx(1e6, rel=1e-12)
    assert bound.at().value == pytest.approx(1e6, rel=1e-12)
