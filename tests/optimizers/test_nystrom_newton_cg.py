"""nystrom_newton_cg: the damped step, what the preconditioner saves, when it is made anew, negative curvature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho
from tests.optimizers.catalogue import function, quadratic, saddle, training


def ill_conditioned(n: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    values = 1e4 * (1 + torch.arange(n, dtype=torch.float64)) ** -3
    return basis * values @ basis.T, torch.randn(n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("damping", [1e-2, 0.5])
def test_a_step_is_the_damped_newton_step(damping: float) -> None:
    matrix, vector = quadratic(12)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.ones(12).tolist())
    optimizer = ho.create("nystrom_newton_cg", objective.model.parameters(), damping=damping, rank=4, forcing=1e-10)
    x = objective.position()
    optimizer.step(objective)
    damped = matrix + damping * torch.eye(12, dtype=torch.float64)
    wanted = x + torch.linalg.solve(damped, vector - matrix @ x)
    torch.testing.assert_close(objective.position(), wanted, rtol=1e-7, atol=1e-8)
    assert optimizer.report.step_size == 1.0
    assert optimizer.report.products == objective.ledger.counts["hvp"]


def test_the_preconditioner_saves_most_iterations() -> None:
    matrix, vector = ill_conditioned()
    iterations = {}
    for rank in (1, 20):
        objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.zeros(60).tolist())
        optimizer = ho.create("nystrom_newton_cg", objective.model.parameters(), damping=1e-1, rank=rank, forcing=1e-8)
        optimizer.step(objective)
        iterations[rank] = optimizer.report.inner_iterations
        damped = matrix + 0.1 * torch.eye(60, dtype=torch.float64)
        torch.testing.assert_close(objective.position(), torch.linalg.solve(damped, vector), rtol=1e-5, atol=1e-6)
    assert iterations[20] < iterations[1] / 2


def test_the_preconditioner_serves_for_as_many_steps_as_asked() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("nystrom_newton_cg", problem.model.parameters(), rank=7, refresh=3)
    spent, kept = [], []
    for _ in range(7):
        before = problem.objective.ledger.counts["hvp"]
        optimizer.step(problem.objective)
        products = problem.objective.ledger.counts["hvp"] - before
        assert products == optimizer.report.products
        spent.append(optimizer.report.products - optimizer.report.inner_iterations >= 7)
        kept.append(optimizer.memory["vectors"].clone())
    assert spent == [True, False, False, True, False, False, True]
    assert torch.equal(kept[0], kept[2])
    assert not torch.equal(kept[2], kept[3])
    assert kept[0].shape == (sum(p.numel() for p in problem.model.parameters()), 7)


def test_the_rank_is_capped_at_the_number_of_parameters() -> None:
    objective = function(lambda x: (x**2).sum() + x[0] * x[1], [1.0, 2.0, 3.0])
    optimizer = ho.create("nystrom_newton_cg", objective.model.parameters())
    optimizer.step(objective)
    assert optimizer.memory["vectors"].shape == (3, 3)


def test_the_inner_solve_starts_from_the_last_direction() -> None:
    solved = {}
    for warm in (True, False):
        problem = training(dtype=torch.float64)
        optimizer = ho.create("nystrom_newton_cg", problem.model.parameters(), warm_start=warm, rank=5)
        optimizer.step(problem.objective)
        solution = optimizer.memory["direction"].clone()
        matrix = ho.curvature.Hessian(problem.objective).dense()
        gradient = problem.objective.value_and_grad()[1]
        damped = matrix + 0.1 * torch.eye(len(matrix), dtype=torch.float64)
        optimizer.step(problem.objective)
        if optimizer.report.status == "converged":
            residual = damped @ optimizer.memory["direction"] + gradient
            assert residual.norm() <= 1.1e-3 * gradient.norm()
        solved[warm] = (solution, optimizer.report.inner_iterations, optimizer.memory["direction"])
    assert torch.equal(solved[True][0], solved[False][0])
    assert not torch.equal(solved[True][2], solved[False][2])


def test_negative_curvature_is_reported_and_used() -> None:
    objective = function(saddle, [0.3, 0.1])
    optimizer = ho.create("nystrom_newton_cg", objective.model.parameters())
    optimizer.step(objective)
    assert optimizer.report.curvature < 0
    assert optimizer.report.accepted
    for _ in range(60):
        optimizer.step(objective)
    assert objective.value() == pytest.approx(-0.5, abs=1e-9)


def test_one_gauss_newton_step_solves_damped_linear_least_squares() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 2, bias=False).double()
    inputs, targets = torch.randn(30, 5, dtype=torch.float64), torch.randn(30, 2, dtype=torch.float64)
    start = model.weight.detach().clone()
    objective = ho.Objective(model, nn.functional.mse_loss, inputs, targets)
    optimizer = ho.create(
        "nystrom_newton_cg", model.parameters(), curvature="gauss_newton", damping=0.2, forcing=1e-12, rank=3
    )
    optimizer.step(objective)
    gram = inputs.T @ inputs / 30 + 0.2 * torch.eye(5, dtype=torch.float64)
    wanted = start + torch.linalg.solve(gram, inputs.T @ (targets - inputs @ start.T) / 30).T
    torch.testing.assert_close(model.weight.detach(), wanted, rtol=1e-8, atol=1e-9)
    assert objective.ledger.counts["hvp"] == 0


def test_a_preconditioner_of_another_size_is_made_anew() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("nystrom_newton_cg", problem.model.parameters(), rank=4)
    optimizer.step(problem.objective)
    problem.model[0].weight.requires_grad_(False)
    optimizer.step(problem.objective)
    n = sum(p.numel() for p in problem.model.parameters() if p.requires_grad)
    assert optimizer.memory["vectors"].shape == (n, 4)
    assert optimizer.memory["direction"].shape == (n,)


def test_after_a_jump_nothing_of_the_old_point_is_left() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("nystrom_newton_cg", problem.model.parameters(), rank=4, escape="perturbation")
    optimizer.step(problem.objective)
    optimizer.moved(problem.objective, "escape")
    assert not {"vectors", "values", "direction"} & optimizer.memory.keys()
    optimizer.step(problem.objective)
    assert "vectors" in optimizer.memory


def test_it_goes_further_than_plain_newton_cg_for_the_same_iterations() -> None:
    matrix, vector = ill_conditioned()
    values = {}
    for name, options in {"nystrom_newton_cg": {"rank": 20}, "newton_cg": {"adapt_damping": False}}.items():
        objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.zeros(60).tolist())
        optimizer = ho.create(name, objective.model.parameters(), damping=1e-1, max_cg=10, forcing=1e-6, **options)
        for _ in range(5):
            optimizer.step(objective)
        values[name] = objective.value()
    least = float(-vector @ torch.linalg.solve(matrix, vector) / 2)
    assert values["nystrom_newton_cg"] - least < 0.5 * (values["newton_cg"] - least)
