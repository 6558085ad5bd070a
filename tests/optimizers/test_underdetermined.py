"""Batches with fewer outputs than parameters: the matrices are singular, and steps stay in their range."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import hybridopt as ho


def problem() -> tuple[nn.Module, ho.Objective]:
    """Three samples, eight parameters."""
    torch.manual_seed(0)
    model = nn.Linear(8, 1, bias=False).double()
    inputs, targets = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 1, dtype=torch.float64)
    return model, ho.Objective(model, nn.functional.mse_loss, inputs, targets, key="all")


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("gauss_newton", {"scaling": "identity"}),
    ("levenberg_marquardt", {"scaling": "identity"}),
    ("hessian_free", {}),
    ("newton_cg", {"curvature": "gauss_newton"}),
    ("trust_newton_cg", {"curvature": "gauss_newton"}),
    ("kfac", {}),
    ("ekfac", {}),
]


@pytest.mark.parametrize(("name", "options"), METHODS, ids=[name for name, _ in METHODS])
def test_nothing_moves_that_the_batch_does_not_see(name: str, options: dict[str, Any]) -> None:
    model, objective = problem()
    optimizer = ho.create(name, model.parameters(), **options)
    start, value = objective.position(), objective.value()
    for _ in range(3):
        optimizer.step(objective)
    moved = objective.position() - start
    basis = torch.linalg.qr(objective.inputs.T).Q
    unseen = moved - basis @ (basis.T @ moved)
    assert objective.value() < value
    assert float(unseen.norm()) <= 1e-9 * float(moved.norm())


def test_gauss_newton_takes_the_least_norm_and_solves_the_batch() -> None:
    model, objective = problem()
    start = objective.position()
    ho.create("gauss_newton", model.parameters(), scaling="identity").step(objective)
    residual = objective.targets - (objective.inputs @ start)[:, None]
    wanted = torch.linalg.lstsq(objective.inputs, residual, driver="gelsd").solution[:, 0]
    assert torch.allclose(objective.position() - start, wanted, rtol=1e-8, atol=1e-10)
    assert objective.value() < 1e-20


def test_gauss_newton_takes_the_least_norm_in_the_units_of_the_rows() -> None:
    model, objective = problem()
    start = objective.position()
    ho.create("gauss_newton", model.parameters()).step(objective)
    matrix = objective.inputs.T @ objective.inputs
    units = matrix.norm(dim=1).rsqrt()
    residual = objective.targets - (objective.inputs @ start)[:, None]
    wanted = units * torch.linalg.lstsq(objective.inputs * units, residual, driver="gelsd").solution[:, 0]
    assert torch.allclose(objective.position() - start, wanted, rtol=1e-8, atol=1e-10)


def test_damping_by_the_diagonal_moves_unseen_directions_too() -> None:
    """As the docstring of `LevenbergMarquardt` says: damped steps lie in the range of D^-1 J'."""
    model, objective = problem()
    start = objective.position()
    ho.create("levenberg_marquardt", model.parameters()).step(objective)
    moved = objective.position() - start
    diagonal = (objective.inputs**2).sum(0)
    for scale, inside in ((torch.ones_like(diagonal), False), (diagonal, True)):
        basis = torch.linalg.qr((objective.inputs / scale).T).Q
        unseen = moved - basis @ (basis.T @ moved)
        assert (float(unseen.norm()) <= 1e-9 * float(moved.norm())) is inside
