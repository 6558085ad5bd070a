"""newton_mr: Newton's step where the Hessian is definite or singular, the residual along which it is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hybridopt as ho
from hybridopt.linalg import minres
from tests.optimizers.catalogue import function, quadratic, rosenbrock, saddle, training


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_step_solves_a_quadratic(seed: int) -> None:
    matrix, vector = quadratic(12, seed)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.ones(12).tolist())
    optimizer = ho.create("newton_mr", objective.model.parameters(), forcing=1e-14)
    optimizer.step(objective)
    torch.testing.assert_close(objective.position(), torch.linalg.solve(matrix, vector), rtol=1e-7, atol=1e-8)
    assert optimizer.report.step_size == 1.0
    assert optimizer.report.inner_iterations == objective.ledger.counts["hvp"]
    assert objective.ledger.counts["gradient"] == 1


def test_one_step_solves_a_singular_least_squares_problem_with_the_shortest_step() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 1, bias=False).double()
    start = model.weight.detach().clone()
    inputs, targets = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    objective = ho.Objective(model, nn.functional.mse_loss, inputs, targets)
    ho.create("newton_mr", model.parameters(), forcing=1e-13, curvature="gauss_newton").step(objective)
    wanted = start + (torch.linalg.pinv(inputs) @ (targets - inputs @ start.T)).T
    torch.testing.assert_close(model.weight.detach(), wanted, rtol=1e-6, atol=1e-8)


def test_convergence_is_superlinear() -> None:
    objective = function(rosenbrock, [-1.2, 1.0, 0.5])
    optimizer = ho.create("newton_mr", objective.model.parameters())
    norms: list[float] = []
    while not norms or norms[-1] > 1e-9:
        optimizer.step(objective)
        norms.append(optimizer.report.grad_norm)
        assert len(norms) < 100
    last = [norm for norm in norms if norm < 1e-2]
    assert len(last) <= 5, last
    assert norms[-1] < 1e-3 * norms[-2]


def test_the_inner_solve_ends_at_the_papers_criterion_with_a_tolerance_that_shrinks() -> None:
    matrix, vector = quadratic(30)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x + (x**4).sum() / 4, torch.ones(30).tolist())
    optimizer = ho.create("newton_mr", objective.model.parameters(), forcing=0.1)
    first, counts = None, []
    for _ in range(5):
        hessian = matrix + torch.diag(3 * objective.position() ** 2)
        gradient = objective.value_and_grad()[1]
        first = first or float(gradient.norm())
        optimizer.step(objective)
        rtol = min(0.1, (float(gradient.norm()) / first) ** 0.5)
        wanted = minres(hessian, -gradient, rtol=rtol, stop="normal").products
        assert optimizer.report.inner_iterations == wanted
        counts.append(wanted)
    assert counts[-1] > counts[0]


def test_at_negative_curvature_it_goes_along_the_residual_and_as_far_as_the_function_falls() -> None:
    matrix, vector = quadratic(8, lowest=-3.0)
    # Quartic far out, so that it is bounded below.
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x + 1e-3 * (x**4).sum(), torch.zeros(8).tolist())
    optimizer = ho.create("newton_mr", objective.model.parameters())
    value, gradient = objective.value_and_grad()
    hessian = ho.curvature.Hessian(objective).dense()
    optimizer.step(objective)
    s = objective.position()
    assert optimizer.report.status == "negative_curvature"
    assert optimizer.report.curvature == pytest.approx(float(s @ hessian @ s / (s @ s)), rel=1e-6)
    assert optimizer.report.curvature < 0
    p = s / optimizer.report.step_size
    # A residual r satisfies g'r = -r'r, which fixes its length.
    assert float(gradient @ p) == pytest.approx(-float(p @ p), rel=1e-8)
    assert objective.value() < value
    assert objective.value(2 * s) > objective.value()
    assert optimizer.report.step_size > 1


@pytest.mark.parametrize("start", [[0.3, 1e-2], [1e-6, 1e-6], [0.0, 1e-9]], ids=str)
def test_it_falls_off_a_saddle_that_the_gradient_shows(start: list[float]) -> None:
    objective = function(saddle, start)
    optimizer = ho.create("newton_mr", objective.model.parameters())
    for _ in range(30):
        optimizer.step(objective)
    assert objective.value() == pytest.approx(-0.5, abs=1e-9)


def test_an_exact_saddle_is_left_by_an_escape() -> None:
    x0 = torch.zeros(2, dtype=torch.float64)
    assert ho.minimize(saddle, x0, method="newton_mr").status == "saddle_point"
    result = ho.minimize(saddle, x0, method="newton_mr", escape="negative_curvature")
    assert result.success
    assert result.fun == pytest.approx(-0.5, abs=1e-9)


def test_the_products_are_limited() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("newton_mr", problem.model.parameters(), max_cg=3, forcing=1e-10, curvature="gauss_newton")
    optimizer.step(problem.objective)
    assert problem.objective.ledger.counts["ggnvp"] == optimizer.report.inner_iterations == 3
    assert optimizer.report.status == "max_iter"
