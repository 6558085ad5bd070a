"""Saddle-free Newton: |H| in a Krylov space, away from strict saddles."""

from __future__ import annotations

import pytest
import torch

import hybridopt as ho
from tests.optimizers.catalogue import function, quadratic, saddle


def test_a_step_is_minus_the_inverse_of_the_absolute_hessian_times_the_gradient() -> None:
    matrix, vector = quadratic(8, lowest=-5.0)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.ones(8).tolist())
    damping = 0.03  # of the largest eigenvalue, 10
    optimizer = ho.create("saddle_free_newton", objective.model.parameters(), damping=damping, subspace=8)
    x = objective.position()
    gradient = matrix @ x - vector
    values, basis = torch.linalg.eigh(matrix)
    wanted = -(basis / (values.abs() + 10.0 * damping)) @ (basis.T @ gradient)
    optimizer.step(objective)
    torch.testing.assert_close(objective.position() - x, wanted, rtol=1e-8, atol=1e-10)
    assert optimizer.report.curvature == pytest.approx(float(values[0]), rel=1e-8)
    # The true decrease is at least what the model with |H| promises.
    assert optimizer.report.ratio >= 1.0


@pytest.mark.parametrize("start", [[1e-3, 1e-3], [0.3, 1e-7], [0.5, 0.0], [0.0, 0.0]], ids=str)
def test_it_leaves_a_strict_saddle_from_near_it_from_its_stable_side_and_from_exactly_at_it(start: list[float]) -> None:
    objective = function(saddle, start)
    optimizer = ho.create("saddle_free_newton", objective.model.parameters())
    for _ in range(40):
        optimizer.step(objective)
    assert objective.value() == pytest.approx(-0.5, abs=1e-9)


@pytest.mark.parametrize("narrow", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_first_step_off_a_saddle_is_as_long_as_the_function_wants(narrow: float, scale: float) -> None:
    objective = function(lambda x: scale * (x[0] ** 2 - x[1] ** 2 + narrow * x[1] ** 4), [0.0, 0.0])
    optimizer = ho.create("saddle_free_newton", objective.model.parameters())
    optimizer.step(objective)
    assert optimizer.report.status == "negative_curvature"
    assert optimizer.report.accepted
    assert objective.value() < 0
    for _ in range(40):
        optimizer.step(objective)
    assert objective.value() == pytest.approx(-scale / (4 * narrow), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_at_a_minimum_it_stays(dtype: torch.dtype) -> None:
    objective = function(lambda x: (x**2).sum() + 1, [0.0, 0.0], dtype)
    optimizer = ho.create("saddle_free_newton", objective.model.parameters())
    optimizer.step(objective)
    assert optimizer.report.status == "zero_gradient"
    assert not objective.position().any()


def test_a_saddle_beyond_a_wall_on_one_side_is_left_on_the_other() -> None:
    objective = function(
        lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 2 + torch.where(x[1] > 1e-3, torch.nan, 0.0), [0.0, 0.0]
    )
    optimizer = ho.create("saddle_free_newton", objective.model.parameters())
    for _ in range(30):
        optimizer.step(objective)
    assert objective.value() == pytest.approx(-0.5, abs=1e-6)


def test_the_random_start_goes_on_from_the_state() -> None:
    positions = []
    for resumed in (False, True):
        objective = function(lambda x: -(x**2).sum() + (x**4).sum(), torch.zeros(5).tolist())
        optimizer = ho.create("saddle_free_newton", objective.model.parameters(), subspace=2)
        optimizer.step(objective)
        objective.commit(torch.zeros(5, dtype=torch.float64))
        if resumed:
            saved = optimizer.state_dict()
            optimizer = ho.create("saddle_free_newton", objective.model.parameters(), subspace=2)
            optimizer.load_state_dict(saved)
        optimizer.step(objective)
        positions.append(objective.position())
    assert torch.equal(*positions)
