"""What cannot be evaluated is refused in one paragraph that names the fix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybridopt.core import HybridoptError, ObjectiveError
from hybridopt.objective import Objective

INPUTS, TARGETS = torch.randn(4, 2), torch.randn(4, 1)


def objective(loss_fn, model: nn.Module | None = None) -> Objective:
    return Objective(nn.Linear(2, 1) if model is None else model, loss_fn, INPUTS, TARGETS)


class BackwardInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x):
        loss = self.linear(x).square().mean()
        loss.backward()
        return loss


def backward_in_loss(outputs, targets):
    loss = F.mse_loss(outputs, targets)
    loss.backward()
    return loss


GRADIENTS = pytest.mark.parametrize("evaluate", ["value_and_grad", "at"])
EVALUATIONS = pytest.mark.parametrize("evaluate", ["value", "value_and_grad", "at", "__call__"])


@EVALUATIONS
@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        pytest.param(lambda z, t: (z - t).square(), r"scalar, but has shape \(4, 1\).*reduction='mean'", id="vector"),
        pytest.param(lambda z, t: F.mse_loss(z, t).item(), r"scalar tensor, not float \(a number.*item", id="float"),
        pytest.param(lambda z, t: None, "scalar tensor, not NoneType", id="none"),
        pytest.param(lambda z, t: (F.mse_loss(z, t), z), "scalar tensor, not tuple", id="tuple"),
        pytest.param(lambda z, t: z.new_zeros(0), r"shape \(0,\)", id="empty"),
        pytest.param(lambda z, t: (z * 1j).sum(), r"must be real, not torch.complex64", id="complex"),
    ],
)
def test_losses_that_are_no_scalar_tensor(evaluate, loss_fn, message):
    with pytest.raises(ObjectiveError, match=message):
        getattr(objective(loss_fn), evaluate)()


@GRADIENTS
@pytest.mark.parametrize(
    "loss_fn",
    [
        pytest.param(lambda z, t: F.mse_loss(z, t).detach(), id="detached"),
        pytest.param(lambda z, t: torch.tensor(F.mse_loss(z, t).item()), id="rebuilt"),
        pytest.param(lambda z, t: (z > t).float().mean(), id="accuracy"),
    ],
)
def test_losses_without_a_graph(evaluate, loss_fn):
    with pytest.raises(ObjectiveError, match="no graph"):
        getattr(objective(loss_fn), evaluate)()


@GRADIENTS
def test_inference_mode_is_named(evaluate):
    f = objective(F.mse_loss)
    with torch.inference_mode(), pytest.raises(ObjectiveError, match=r"torch.inference_mode\(\)"):
        getattr(f, evaluate)()


def test_losses_without_a_graph_at_a_trial():
    f = objective(lambda z, t: F.mse_loss(z, t).detach())
    with pytest.raises(ObjectiveError, match="no graph"):
        f.value_and_grad(f.position())


@GRADIENTS
def test_no_grad_inside_the_model(evaluate):
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 1)

        @torch.no_grad()
        def forward(self, x):
            return self.linear(x)

    with pytest.raises(ObjectiveError, match="no_grad"):
        getattr(objective(F.mse_loss, Frozen()), evaluate)()


@GRADIENTS
@pytest.mark.parametrize("where", ["model", "loss"])
def test_backward_is_left_to_the_optimizer(evaluate, where):
    f = Objective(BackwardInside(), None, INPUTS) if where == "model" else objective(backward_in_loss)
    with pytest.raises(ObjectiveError, match=r"called backward\(\) itself"):
        getattr(f, evaluate)()


def test_layers_without_a_second_derivative_say_so():
    model = nn.Sequential(nn.EmbeddingBag(5, 2, mode="mean"), nn.Linear(2, 1))
    f = Objective(model, F.mse_loss, torch.randint(0, 5, (4, 3)), TARGETS)
    assert f.value_and_grad()[1].isfinite().all()
    with pytest.raises(ObjectiveError, match=r"_embedding_bag_backward.*not implemented"):
        f.at().hessian() @ torch.ones(f.space.n)


def test_layers_without_a_derivative_say_so():
    class Sampler(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.tensor([0.5, 0.5]))

        def forward(self):
            return torch.linalg.matrix_rank(torch.outer(self.p, self.p)).float() + self.p.sum().detach()

    with pytest.raises(ObjectiveError, match="no graph"):
        Objective(Sampler()).value_and_grad()


@pytest.mark.parametrize("wrong", [lambda x: x.sum(), "model", None, torch.ones(3), nn.Linear])
def test_the_model_must_be_a_module(wrong):
    with pytest.raises(ObjectiveError, match=r"torch.nn.Module first.*from_function"):
        Objective(wrong, F.mse_loss, INPUTS, TARGETS)


def test_a_loss_class_is_not_a_loss():
    with pytest.raises(ObjectiveError, match=r"pass one of it: MSELoss\(\)"):
        objective(nn.MSELoss)


@pytest.mark.parametrize("wrong", [[torch.ones(1, 2), torch.ones(1)], np.ones(3), None])
def test_points_are_flat_tensors(wrong):
    f = objective(F.mse_loss)
    with pytest.raises(ObjectiveError, match=r"shape \(3,\).*objective.space.pack"):
        f.commit(wrong)


@pytest.mark.parametrize("wrong", ["mse", 3, torch.ones(3)])
def test_the_loss_must_be_a_function(wrong):
    with pytest.raises(ObjectiveError, match="loss_fn must be a function"):
        Objective(nn.Linear(2, 1), wrong, INPUTS, TARGETS)


@pytest.mark.parametrize("use", [lambda f: f.value(), lambda f: f.value_and_grad(), lambda f: f.at(), lambda f: f.eps])
def test_a_model_without_trainable_parameters(use):
    for model in (nn.Flatten(), nn.Linear(2, 1).requires_grad_(False)):
        with pytest.raises(ObjectiveError, match="no parameter to optimize"):
            use(objective(F.mse_loss, model))


def test_errors_of_the_users_own_code_pass_unchanged():
    def loss(outputs, targets):
        raise RuntimeError("shapes of mine")

    for evaluate in ("value", "value_and_grad", "at", "__call__"):
        with pytest.raises(RuntimeError, match="shapes of mine") as caught:
            getattr(objective(loss), evaluate)()
        assert not isinstance(caught.value, HybridoptError)


def test_messages_are_one_paragraph():
    with pytest.raises(ObjectiveError) as caught:
        objective(lambda z, t: z).value()
    assert "\n" not in str(caught.value)
