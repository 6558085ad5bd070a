"""SiLU and Mish at a point: torch's values and derivatives of every order, from a graph that keeps two tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hybridopt.objective import Objective, activation
from hybridopt.objective.demand import Demand
from hybridopt.objective.memory import graph_bytes

LAYERS = {"silu": nn.SiLU, "mish": nn.Mish}


def net(layer: nn.Module) -> Objective:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 4), layer, nn.Linear(4, 2)).double()
    inputs = 3 * torch.randn(6, 3, dtype=torch.float64)
    return Objective(model, F.mse_loss, inputs, torch.randn(6, 2, dtype=torch.float64))


def torchs(objective: Objective) -> tuple[torch.Tensor, torch.Tensor]:
    """Dense Hessian and Gauss-Newton matrix, by torch alone."""
    model, start = objective.model, objective.position()
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def outputs(x: torch.Tensor) -> torch.Tensor:
        parts = x.split([shape.numel() for shape in shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return torch.func.functional_call(model, named, (objective.inputs,))

    jacobian = torch.autograd.functional.jacobian(outputs, start).reshape(-1, len(start))
    hessian = torch.autograd.functional.hessian(lambda x: F.mse_loss(outputs(x), objective.targets), start)
    return hessian, 2 / len(jacobian) * jacobian.T @ jacobian


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("inplace", [False, True])
def test_products_are_torchs(name, inplace):
    objective = net(LAYERS[name](inplace=inplace))
    hessian, gauss_newton = torchs(objective)
    eye = torch.eye(len(hessian), dtype=torch.float64)
    with objective.at() as point:
        # Jacobian products between Hessian products: what the first leaves in the graph must serve all.
        columns = [(point.hessian() @ row, point.gauss_newton() @ row) for row in eye]
        assert torch.equal(point.hessian() @ eye[0], columns[0][0])
    for ours, theirs in zip(zip(*columns, strict=True), (hessian, gauss_newton), strict=True):
        assert (torch.stack(ours) - theirs).norm() < 1e-13 * theirs.norm()


@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_up_to_the_fourth(name):
    # A loss made of derivatives (a differential equation's residual) takes two more of them than a point does.
    x = torch.linspace(-30, 30, 61, dtype=torch.float64, requires_grad=True)
    ours, theirs = activation.activation(name, x, Demand()), getattr(F, name)(x)
    for _ in range(5):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
        ours, theirs = (torch.autograd.grad(y.sum(), x, create_graph=True)[0] for y in (ours, theirs))


@pytest.mark.parametrize("name", LAYERS)
def test_second_derivatives_by_differences(name):
    x = torch.tensor([-4.0, -1.0, -0.1, 0.0, 0.3, 2.0, 6.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: activation.activation(name, x, Demand()), (x,))


@pytest.mark.parametrize("name", LAYERS)
def test_the_graph_keeps_argument_and_cotangent(name):
    # Tanh's keeps its result, which the next layer keeps anyway, and the cotangent; ours the argument beside them.
    samples, entries, least = 6, 2 * 4, graph_bytes(net(nn.Tanh()))
    assert graph_bytes(net(LAYERS[name]())) == least + samples * entries * 8


def test_a_loss_with_derivatives_in_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.SiLU(), nn.Linear(4, 1)).double()
    times = torch.rand(5, 1, dtype=torch.float64, requires_grad=True)

    def residual(outputs: torch.Tensor) -> torch.Tensor:
        speed = torch.autograd.grad(outputs.sum(), times, create_graph=True)[0]
        force = torch.autograd.grad(speed.sum(), times, create_graph=True)[0]
        return (force + outputs).square().mean()

    objective = Objective(model, residual, times)
    parameters = list(model.parameters())
    vector = torch.randn(objective.space.n, dtype=torch.float64)
    gradients = torch.autograd.grad(residual(model(times)), parameters, create_graph=True, allow_unused=True)
    slope = sum(
        (g * part).sum() for g, part in zip(gradients, objective.space.views(vector), strict=True) if g is not None
    )
    expected = objective.space.pack(torch.autograd.grad(slope, parameters, allow_unused=True))
    torch.testing.assert_close(objective.at().hessian() @ vector, expected)
