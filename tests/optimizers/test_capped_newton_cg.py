"""capped_newton_cg: damped Newton steps, negative curvature at the paper's length, second-order stationary ends."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho
from hybridopt.linalg import capped_cg
from tests.optimizers.catalogue import function, quadratic, rosenbrock, saddle, training


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_step_on_a_convex_quadratic_is_the_damped_newton_step(seed: int) -> None:
    matrix, vector = quadratic(12, seed)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.ones(12).tolist())
    optimizer = ho.create("capped_newton_cg", objective.model.parameters(), epsilon=1e-3, zeta=1e-6, eta=1e-4)
    x = objective.position()
    damped = matrix + 2e-3 * torch.eye(12, dtype=torch.float64)
    optimizer.step(objective)
    torch.testing.assert_close(
        objective.position() - x, torch.linalg.solve(damped, vector - matrix @ x), rtol=1e-6, atol=1e-8
    )
    assert optimizer.report.status == "converged"
    assert objective.ledger.counts["gradient"] == 1
    assert objective.ledger.counts["hvp"] == optimizer.report.inner_iterations


def test_convergence_is_fast_at_the_end() -> None:
    objective = function(rosenbrock, [-1.2, 1.0, 0.5])
    optimizer = ho.create("capped_newton_cg", objective.model.parameters())
    norms: list[float] = []
    while not norms or norms[-1] > 1e-9:
        optimizer.step(objective)
        norms.append(optimizer.report.grad_norm)
        assert len(norms) < 150
    assert len([norm for norm in norms if norm < 1e-2]) <= 5


def test_negative_curvature_is_followed_at_the_papers_length_where_the_cubic_decrease_allows() -> None:
    matrix, vector = quadratic(8, lowest=-3.0)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.zeros(8).tolist())
    optimizer = ho.create(
        "capped_newton_cg", objective.model.parameters(), max_expansions=0, keep_iterate=False, eta=0.1
    )
    value, gradient = objective.value_and_grad()
    optimizer.step(objective)
    s, report = objective.position(), optimizer.report
    assert report.status == "negative_curvature"
    assert report.source in ("direction", "iterate")
    assert report.curvature == pytest.approx(float(s @ matrix @ s / (s @ s)), rel=1e-8)
    assert float(s.norm()) == pytest.approx(report.step_size * abs(report.curvature), rel=1e-9)
    assert report.step_norm == pytest.approx(float(s.norm()))
    assert float(gradient @ s) < 0
    assert objective.value() <= value - 0.1 / 6 * float(s.norm()) ** 3


def test_the_iterate_is_added_at_the_length_of_the_direction() -> None:
    scales = torch.tensor([10.0, 3.0, 1.0, -0.1], dtype=torch.float64)
    start = torch.tensor([2.0, 1.0, 1.0, 0.5], dtype=torch.float64)
    found = capped_cg(torch.diag(scales), scales * start, 1e-4)
    assert found.status == "negative_curvature"
    assert found.iterations > 0
    y, p = found.solution, found.curvature_direction
    p = p * (-1.0 if float(p @ (scales * start)) > 0 else 1.0)
    steps = {}
    for keep in (True, False):
        objective = function(lambda x: (scales * x**2).sum() / 2, start)
        optimizer = ho.create(
            "capped_newton_cg",
            objective.model.parameters(),
            keep_iterate=keep,
            max_expansions=0,
            epsilon=1e-4,
            eta=1e-6,
        )
        optimizer.step(objective)
        steps[keep] = (objective.position() - start) / optimizer.report.step_size
        assert optimizer.report.accepted
    torch.testing.assert_close(steps[True], y + p * (y.norm() / p.norm()), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(steps[False], p * (abs(found.curvature) / p.norm()), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("eta", [0.1, 1.0, 3.0, 10.0])
def test_the_line_search_takes_the_first_power_that_decreases_by_the_cube(eta: float) -> None:
    objective = function(lambda x: (1 + 9 * x**2).sqrt().sum(), [1.0, -1.5])
    optimizer = ho.create("capped_newton_cg", objective.model.parameters(), theta=0.7, eta=eta)
    value, x = objective.value(), objective.position()
    optimizer.step(objective)
    step, s = optimizer.report.step_size, objective.position() - x
    power = math.log(step) / math.log(0.7)
    assert power == pytest.approx(round(power))
    assert round(power) == optimizer.report.evaluations - 1 > 0
    assert objective.value() <= value - eta / 6 * float(s.norm()) ** 3
    longer = s / 0.7
    assert objective.value(x + longer) > value - eta / 6 * float(longer.norm()) ** 3


@pytest.mark.parametrize("start", [[0.3, 1e-2], [0.5, 0.0], [0.0, 0.0], [0.0, 1e-12]], ids=str)
def test_it_leaves_strict_saddles_by_itself(start: list[float]) -> None:
    result = ho.minimize(saddle, torch.tensor(start, dtype=torch.float64), method="capped_newton_cg")
    assert result.success
    assert result.fun == pytest.approx(-0.5, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_trains_from_all_zero_weights_without_an_escape(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    inputs = torch.randn(30, 6, dtype=dtype)
    targets = (inputs @ torch.randn(6, 3, dtype=dtype)).argmax(dim=1)
    objective = ho.Objective(model, nn.functional.cross_entropy, inputs, targets)
    optimizer = ho.create("capped_newton_cg", model.parameters())
    for _ in range(80):
        if float(optimizer.step(objective)) < 0.1:
            break
    assert objective.value() < 0.1


def test_at_a_second_order_point_it_stays_and_has_looked() -> None:
    objective = function(lambda x: (x**2).sum() + 1, [0.0, 0.0])
    optimizer = ho.create("capped_newton_cg", objective.model.parameters())
    optimizer.step(objective)
    assert (optimizer.report.status, optimizer.report.accepted) == ("zero_gradient", False)
    assert optimizer.report.inner_iterations == objective.ledger.counts["hvp"] > 0
    assert not objective.position().any()


def test_curvature_above_minus_epsilon_does_not_count() -> None:
    def formula(x: Tensor) -> Tensor:
        return x[0] ** 2 - 0.05 * x[1] ** 2 + x[1] ** 4

    for epsilon, moves in ((0.01, True), (0.5, False)):
        objective = function(formula, [0.0, 0.0])
        optimizer = ho.create("capped_newton_cg", objective.model.parameters(), epsilon=epsilon)
        optimizer.step(objective)
        assert bool(objective.position().any()) is moves
    assert optimizer.report.status == "zero_gradient"


def test_the_start_vectors_go_on_from_the_state() -> None:
    positions = []
    for resumed in (False, True):
        objective = function(lambda x: -(x**2).sum() + (x**4).sum(), torch.zeros(5).tolist())
        optimizer = ho.create("capped_newton_cg", objective.model.parameters())
        optimizer.step(objective)
        assert optimizer.report.source == "eigenvector"
        first = objective.position()
        objective.commit(torch.zeros(5, dtype=torch.float64))
        if resumed:
            saved = optimizer.state_dict()
            optimizer = ho.create("capped_newton_cg", objective.model.parameters())
            optimizer.load_state_dict(saved)
        optimizer.step(objective)
        positions.append(objective.position())
        assert not torch.allclose(first, positions[-1])
    assert torch.equal(*positions)


def test_the_products_are_limited() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("capped_newton_cg", problem.model.parameters(), max_cg=4, epsilon=1.0)
    optimizer.step(problem.objective)
    assert problem.objective.ledger.counts["hvp"] <= 4
