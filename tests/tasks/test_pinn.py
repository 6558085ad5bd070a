"""Physics-informed tasks: derivatives by the chain rule, and exact solutions that satisfy their equations."""

from __future__ import annotations

import pytest
import torch

import hybridopt as ho
import hybridopt.tasks as tasks
from hybridopt.tasks.pinn import INITIAL, INTERIOR, SOLUTION
from hybridopt.tasks.taylor_mlp import TaylorMLP

NAMES = ["pinn_convection", "pinn_reaction", "pinn_wave", "pinn_burgers"]


def test_derivatives_equal_autograd():
    torch.manual_seed(0)
    net = TaylorMLP(2, 7, 3, outputs=2).double()
    x = torch.randn(5, 2, dtype=torch.float64)
    u, first, second = net.derivatives(x)
    torch.testing.assert_close(u, net(x))
    for row in range(5):
        jacobian = torch.autograd.functional.jacobian(lambda v: net(v[None])[0], x[row])
        torch.testing.assert_close(first[:, row].T, jacobian)
        for out in range(2):
            hessian = torch.autograd.functional.hessian(lambda v, k=out: net(v[None])[0, k], x[row])
            torch.testing.assert_close(second[:, row, out], hessian.diagonal())


class Exact(torch.nn.Module):
    """Stands for a trained network: the exact solution with derivatives by autograd."""

    def __init__(self, task):
        super().__init__()
        self.task = task

    def forward(self, points):
        return self.task.exact(points[:, 0], points[:, 1])[:, None]

    def derivatives(self, points):
        points = points.clone().requires_grad_()
        u = self(points)
        first = torch.autograd.grad(u.sum(), points, create_graph=True)[0]
        columns = [
            torch.autograd.grad(first[:, i].sum(), points, retain_graph=True)[0][:, i] if first.requires_grad else None
            for i in (0, 1)
        ]
        second = torch.stack([torch.zeros(len(points)) if c is None else c for c in columns])
        return u, first.T[..., None], second[..., None]


@pytest.mark.parametrize("name", NAMES)
def test_the_exact_solution_has_no_loss(name):
    task = tasks.create(name, points=300)
    model = task.model(0).double()
    model.network = Exact(task)
    splits = task.splits(0).to(None, torch.float64)
    # Burgers' solution is a shock whose derivatives are large; the others are smooth.
    tolerance = 1e-3 if name == "pinn_burgers" else 1e-10
    rows, targets = splits.train.inputs, splits.train.targets
    away = (rows[:, 2] != INTERIOR) | (rows[:, 1] > 0.005)
    assert float(task.loss(model(rows)[away], targets[away])) < tolerance
    for part in (splits.validation, splits.test):
        assert task.metrics(model(part.inputs), part.targets)["l2re"] < 1e-5
        assert (part.inputs[:, 2] == SOLUTION).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_sum_of_the_mean_squares_of_each_kind(name):
    task = tasks.create(name, points=100, width=5)
    train = task.splits(0).train.to(None, torch.float64)
    outputs = task.model(0).double()(train.inputs)
    kinds = train.inputs[:, 2]
    wanted = sum(
        (outputs[kinds == kind, 0] - train.targets[kinds == kind, 0]).square().mean() for kind in kinds.unique()
    )
    torch.testing.assert_close(task.loss(outputs, train.targets), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_hessian_products_are_right(name):
    task = tasks.create(name, points=30, width=4, layers=2)
    train = task.splits(0).train.to(None, torch.float64)
    objective = ho.Objective(task.model(0).double(), task.loss, train.inputs, train.targets)
    hessian = objective.at().hessian()
    vector = torch.randn(hessian.n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x, step = objective.position(), 1e-6
    sides = [objective.value_and_grad(x + sign * step * vector)[1] for sign in (1, -1)]
    torch.testing.assert_close(hessian @ vector, (sides[0] - sides[1]) / (2 * step), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_trivial_loss_is_that_of_the_best_constant(name):
    task = tasks.create(name, points=20)
    splits = task.splits(0)
    rows, targets = splits.train.inputs, splits.train.targets
    initial = targets[rows[:, 2] == INITIAL, 0].double()
    constants = torch.linspace(-1, 1.5, 20_001, dtype=torch.float64)[:, None]
    losses = (initial - constants).square().mean(1)
    if name == "pinn_reaction":
        losses = losses + (task.coefficient * constants * (1 - constants)).square()[:, 0]
    if name in ("pinn_wave", "pinn_burgers"):  # at the ends u = 0; the others are periodic
        losses = losses + constants.square()[:, 0]
    with torch.no_grad():
        assert task.trivial_loss(splits) == pytest.approx(float(losses.min()), rel=1e-6)


def test_points_of_evaluation_are_disjoint_and_cover_the_grid():
    splits = tasks.create("pinn_wave", points=50).splits(0)
    rows = torch.cat([splits.validation.inputs, splits.test.inputs])[:, :2]
    assert len(rows) == len(rows.unique(dim=0)) == 257 * 101
