"""Newton with two directions: exact where it can be, away from saddles, and the choice of Curtis and Robinson."""

from __future__ import annotations

import pytest
import torch

import hybridopt as ho
from hybridopt.optimizers.curvilinear_newton import _cubic_step
from tests.optimizers.catalogue import function, quadratic, rosenbrock, saddle

both = pytest.mark.parametrize("search", ["curvilinear", "choice"])


@both
def test_one_step_solves_a_quadratic(search: str) -> None:
    matrix, vector = quadratic(6)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.zeros(6).tolist())
    optimizer = ho.create("curvilinear_newton", objective.model.parameters(), search=search, damping=0.0)
    optimizer.step(objective)
    torch.testing.assert_close(objective.position(), torch.linalg.solve(matrix, vector))
    assert optimizer.report.step_size == pytest.approx(1.0)
    assert optimizer.report.evaluations == 1


@both
@pytest.mark.parametrize("start", [[0.0, 0.0], [1.0, 0.0], [0.3, 1e-12]])
def test_it_leaves_a_saddle_by_itself(search: str, start: list[float]) -> None:
    result = ho.minimize(
        saddle, torch.tensor(start, dtype=torch.float64), method="curvilinear_newton", options={"search": search}
    )
    assert result.success
    assert result.fun == pytest.approx(-0.5)
    assert result.cost["gradient_equivalents"] < 150


@both
def test_rosenbrock(search: str) -> None:
    result = ho.minimize(
        rosenbrock,
        torch.tensor([-1.2, 1.0], dtype=torch.float64),
        method="curvilinear_newton",
        options={"search": search},
    )
    assert result.success
    assert result.fun < 1e-15


def test_the_curve_uses_both_directions_at_once() -> None:
    # Not stationary, and the negative curvature is orthogonal to the gradient: a line along s alone would miss it.
    objective = function(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 2, [1.0, 0.0])
    optimizer = ho.create("curvilinear_newton", objective.model.parameters())
    optimizer.step(objective)
    x = objective.position()
    assert abs(float(x[0])) < 0.9
    assert abs(float(x[1])) > 0.3
    assert optimizer.report.curvature == pytest.approx(-2.0)


def test_a_step_lies_on_the_curve_of_the_dense_matrix() -> None:
    matrix, vector = quadratic(5, lowest=-3.0)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x + (x**4).sum() / 4, torch.zeros(5).tolist())
    optimizer = ho.create("curvilinear_newton", objective.model.parameters(), damping=0.0)
    optimizer.step(objective)
    values, basis = torch.linalg.eigh(matrix)
    descent = basis @ ((basis.T @ vector) / values.abs())
    away = basis[:, 0] * torch.sign(basis[:, 0] @ vector) * (-values[0]).sqrt()
    t = optimizer.report.step_size
    torch.testing.assert_close(objective.position(), t * t * descent + t * away)
    assert optimizer.report.curvature == pytest.approx(float(values[0]))


def test_the_choice_takes_the_larger_guaranteed_decrease() -> None:
    taken = []
    # Guaranteed are slope^2 / 2 along s, and 2/3 |lambda|^3 / sigma^2 = 16/3 along d, cubic term included.
    for slope in (3.2, 3.3):
        objective = function(
            lambda x, slope=slope: slope * x[0] + x[0] ** 2 / 2 - x[1] ** 2 + x[1] ** 4 / 100, [0.0, 0.0]
        )
        optimizer = ho.create("curvilinear_newton", objective.model.parameters(), search="choice")
        optimizer.step(objective)
        taken.append(optimizer.report.search)
    assert taken == ["negative_curvature", "descent"]


def test_sigma_rises_until_the_bound_holds() -> None:
    objective = function(lambda x: x[0] ** 2 - x[1] ** 2 + 1e4 * x[1] ** 4, [0.0, 0.0])
    optimizer = ho.create("curvilinear_newton", objective.model.parameters(), search="choice")
    optimizer.step(objective)
    assert optimizer.report.accepted
    assert optimizer.report.evaluations > 1
    assert optimizer.memory["sigma"] > 10.0
    assert objective.value() < 0


def test_the_constants_rise_to_what_would_just_have_held() -> None:
    # Along s, Newton's step from 1.5: 2 (f(x + s) - f(x) - g's / 2) / ||s||^2 more than the curvature.
    objective = function(lambda x: (1 + x**2).sqrt().sum(), [1.5])
    optimizer = ho.create("curvilinear_newton", objective.model.parameters(), search="choice", damping=0.0)
    optimizer.step(objective)
    bend, slope = 3.25**-1.5, 1.5 / 3.25**0.5
    s = -slope / bend
    short = (1 + (1.5 + s) ** 2) ** 0.5 - 3.25**0.5 - slope * s / 2
    assert optimizer.report.evaluations == 2
    assert optimizer.report.step_size == pytest.approx(bend / (bend + 2 * short / s**2), rel=1e-9)
    # Along d: sigma = 1 gives beta = 4 and promises 16/3; 6 (f(4) + 16/3) / 4^3 more would just have held.
    objective = function(lambda x: x[1] ** 2 - x[0] ** 2 + 0.1 * x[0] ** 4, [0.0, 0.0])
    optimizer = ho.create("curvilinear_newton", objective.model.parameters(), search="choice")
    optimizer.step(objective)
    sigma = 1 + 6 * (-16 + 25.6 + 16 / 3) / 64
    assert optimizer.report.evaluations == 2
    assert optimizer.report.step_size == pytest.approx(4 / sigma, rel=1e-6)
    assert optimizer.memory["sigma"] == pytest.approx(sigma / 2, rel=1e-6)


@pytest.mark.parametrize(("slope", "curvature", "sigma"), [(0.0, -2.0, 3.0), (-1.0, -0.5, 0.1), (-2.0, -1e-6, 5.0)])
def test_the_step_along_negative_curvature_minimizes_the_cubic(slope: float, curvature: float, sigma: float) -> None:
    best = _cubic_step(slope, curvature, sigma)
    assert slope + curvature * best + sigma * best**2 / 2 == pytest.approx(0.0, abs=1e-9)
    assert curvature + sigma * best > 0


@both
def test_group_rates_hold_parameters(search: str) -> None:
    problem_start = [torch.tensor([0.0]).double(), torch.tensor([0.0]).double()]
    objective = ho.Objective.from_function(lambda p: p[0].sum() ** 2 - p[1].sum() ** 2 + p[1].sum() ** 4, problem_start)
    still, moving = objective.model.parameters()
    groups = [{"params": [moving], "lr": 0.0}, {"params": [still]}]
    optimizer = ho.create("curvilinear_newton", groups, search=search)
    for _ in range(3):
        optimizer.step(objective)
    assert moving.item() == 0.0
