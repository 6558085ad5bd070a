"""Negative curvature from gradient differences: the right direction, at the right price."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hybridopt as ho
from hybridopt.escape.neon import GradientDifferences, Neon
from tests.optimizers.catalogue import function, quadratic, saddle, training

SOLVERS = ["power", "lanczos"]


def indefinite(lowest: float = -2.0, seed: int = 0) -> tuple[ho.Objective, torch.Tensor]:
    matrix, _ = quadratic(12, seed, lowest=lowest)
    return function(lambda x: x @ matrix @ x / 2 + (x**4).sum() / 10, torch.zeros(12).tolist()), matrix


def propose(objective: ho.Objective, **options: Any) -> Any:
    return Neon(**options).propose(None, objective, 0, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_direction_is_one_of_negative_curvature(solver: str, seed: int) -> None:
    objective, matrix = indefinite(seed=seed)
    proposal = propose(objective, solver=solver, noise=0.0)
    curvature = float(proposal.jump @ matrix @ proposal.jump / proposal.jump.square().sum())
    lowest = float(torch.linalg.eigvalsh(matrix)[0])
    assert curvature < 0.8 * lowest
    assert proposal.details["lambda_min"] == pytest.approx(curvature, rel=0.05)
    assert objective.value(proposal.jump) == pytest.approx(-proposal.details["decrease"])


@pytest.mark.parametrize("solver", SOLVERS)
def test_only_gradients_and_values_are_paid(solver: str) -> None:
    objective, _ = indefinite()
    proposal = propose(objective, solver=solver)
    counts = objective.ledger.counts
    assert counts["hvp"] == counts["ggnvp"] == 0
    assert counts["gradient"] == proposal.details["gradients"] <= 100
    assert counts["forward"] > 0


def test_a_whole_run_takes_no_hessian_product() -> None:
    objective = function(saddle, [0.0, 0.0])
    optimizer = ho.create("lbfgs", objective.model.parameters(), escape="neon")
    for _ in range(60):
        optimizer.step(objective)
    assert objective.value() == pytest.approx(-0.5)
    assert objective.ledger.counts["hvp"] == 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_where_there_is_none_it_says_so(solver: str) -> None:
    matrix, _ = quadratic(8, lowest=0.5)
    objective = function(lambda x: x @ matrix @ x / 2, torch.zeros(8).tolist())
    proposal = propose(objective, solver=solver)
    assert proposal.jump is None
    assert proposal.details["lambda_min"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_differences_are_hessian_products(dtype: torch.dtype) -> None:
    problem = training(dtype=dtype)
    _, gradient = problem.objective.value_and_grad()
    vector = torch.randn(len(gradient), generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    with problem.objective.at() as point:
        exact = point.hessian() @ vector
    near = GradientDifferences(problem.objective, gradient) @ vector
    bound = 3e-2 if dtype == torch.float32 else 1e-6
    assert float((near - exact).norm() / exact.norm()) < bound


def test_a_function_that_is_not_finite_is_no_reason_to_jump() -> None:
    objective = function(lambda x: (x**2).sum() + torch.nan, [0.0, 0.0])
    assert propose(objective).jump is None
