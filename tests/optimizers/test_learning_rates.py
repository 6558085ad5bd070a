"""lr in every group: a fixed step, a first trial, or a factor before the ratio test; zero holds still."""

from __future__ import annotations

import pytest
import torch

import hybridopt as ho
from tests.optimizers.catalogue import GLOBALIZED, Method, each, function, names, quadratic, run, training


@each(GLOBALIZED)
def test_rate_zero_everywhere_moves_nothing(method: Method) -> None:
    problem = training(dtype=torch.float64)
    optimizer = method.create(problem.model.parameters(), lr=0.0)
    before = problem.objective.position()
    run(optimizer, problem, range(3), full=True)
    assert torch.equal(problem.objective.position(), before)
    # What adapts to how steps turn out has nothing to learn: after a warm-up from zero it is where it began.
    report = optimizer.report
    assert (report.step_norm, report.accepted, report.status) == (0.0, False, "zero_rate")
    for weight in ("radius", "damping", "sigma"):
        start = getattr(optimizer.config, weight, None)
        assert optimizer.memory.get(weight) in (None, start)


# These two draw a random vector in every step.
@each([method for method in GLOBALIZED if method.name not in ("nystrom_newton_cg", "curvilinear_newton")])
def test_a_warm_up_from_zero_teaches_nothing(method: Method) -> None:
    # Where the model is convex, so that nothing else keeps a method from learning.
    matrix, vector = quadratic(5)
    ends = []
    for warm_up in (0, 3):
        objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.ones(5).tolist())
        optimizer = method.minimize(objective)
        for rate in [0.0] * warm_up + [1.0] * 3:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step(objective)
        ends.append(objective.position())
    assert torch.equal(*ends)


@each(names("newton_cg", "saddle_free_newton", "hessian_free"))
def test_a_line_search_tries_the_rate_first(method: Method) -> None:
    matrix, vector = quadratic(5)
    steps = []
    for rate in (1.0, 0.25):
        objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.zeros(5).tolist())
        optimizer = method.minimize(objective, lr=rate)
        optimizer.step(objective)
        assert optimizer.report.step_size == rate
        steps.append(objective.position())
    torch.testing.assert_close(steps[1], 0.25 * steps[0])


def test_lbfgs_tries_the_rate_first_once_it_has_a_pair() -> None:
    objective = function(lambda x: (torch.tensor([1.0, 4.0]) * x**2).sum() / 2, [1.0, 1.0])
    optimizer = ho.create("lbfgs", objective.model.parameters(), lr=0.5, line_search="none")
    optimizer.step(objective)
    assert optimizer.report.step_size == pytest.approx(0.5 / 5)  # 1 / sum |g|, as in torch
    optimizer.step(objective)
    assert optimizer.report.step_size == 0.5


def test_in_a_trust_region_the_rate_is_a_factor_before_the_ratio_test() -> None:
    matrix, vector = quadratic(5)
    positions = []
    for rate in (1.0, 0.25):
        objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.zeros(5).tolist())
        optimizer = ho.create("trust_newton_cg", objective.model.parameters(), lr=rate, radius=100.0, forcing=1e-12)
        optimizer.step(objective)
        # The model of a quadratic is exact along the shorter step too, so the ratio stays one.
        assert optimizer.report.ratio == pytest.approx(1.0, rel=1e-9)
        positions.append(objective.position())
    torch.testing.assert_close(positions[1], 0.25 * positions[0])


def test_in_a_trust_region_the_ratio_is_right_for_unequal_rates_too() -> None:
    matrix, vector = quadratic(6)
    objective = ho.Objective.from_function(
        lambda x: torch.cat(x) @ matrix @ torch.cat(x) / 2 - vector @ torch.cat(x),
        [torch.zeros(2, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)],
    )
    first, second = objective.model.parameters()
    groups = [{"params": [first], "lr": 0.5}, {"params": [second], "lr": 0.1}]
    optimizer = ho.create("trust_newton_cg", groups, radius=100.0, forcing=1e-12)
    optimizer.step(objective)
    solution = torch.linalg.solve(matrix, vector)
    wanted = torch.cat([0.5 * solution[:2], 0.1 * solution[2:]])
    torch.testing.assert_close(objective.position(), wanted, rtol=1e-8, atol=1e-10)
    assert optimizer.report.ratio == pytest.approx(1.0, rel=1e-9)
