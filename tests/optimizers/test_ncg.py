"""Nonlinear conjugate gradients: the formulas, n steps on a quadratic, restarts, refusals, SciPy's CG."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

import hybridopt as ho
from hybridopt.core import CombinationError
from tests.optimizers.catalogue import function, quadratic, rosenbrock, run, training

BETAS = ["hager_zhang", "polak_ribiere", "fletcher_reeves", "hestenes_stiefel", "dai_yuan"]


def options_of(beta: str) -> dict:
    return {"beta": beta, "line_search": "strong_wolfe", "c2": 0.1}


def formula(beta: str, g: Tensor, old: Tensor, d: Tensor) -> float:
    """Nocedal and Wright 2006, section 5.2, and Hager and Zhang 2005, eqs. 1.3 and 1.5, symbol by symbol."""
    y = g - old
    value = {
        "hager_zhang": lambda: max(
            (y - 2 * d * (y @ y) / (d @ y)) @ g / (d @ y), -1 / (d.norm() * min(0.01, float(old.norm())))
        ),
        "polak_ribiere": lambda: max(g @ y / (old @ old), torch.tensor(0.0)),
        "fletcher_reeves": lambda: g @ g / (old @ old),
        "hestenes_stiefel": lambda: g @ y / (d @ y),
        "dai_yuan": lambda: g @ g / (d @ y),
    }
    return float(value[beta]())


@pytest.mark.parametrize("beta", BETAS)
def test_directions_follow_the_formula(beta: str) -> None:
    objective = function(rosenbrock, [-1.2, 1.0, 0.5, 2.0])
    optimizer = ho.create("ncg", objective.model.parameters(), restart="never", **options_of(beta))
    old = d = None
    restarts = 0
    for _ in range(12):
        x, g = objective.position(), objective.value_and_grad()[1]
        expected = 0.0 if d is None else formula(beta, g, old, d)
        optimizer.step(objective)
        report = optimizer.report
        if any(event["event"] == "memory_reset" for event in report.events):
            expected, restarts = 0.0, restarts + 1
        else:
            assert report.beta == pytest.approx(expected, rel=1e-5, abs=1e-9)
        d = -g + (0.0 if d is None or expected == 0.0 else expected * d)
        torch.testing.assert_close(objective.position() - x, report.step_size * d, rtol=1e-6, atol=1e-10)
        old = g
    assert restarts <= 3


@pytest.mark.parametrize("beta", BETAS)
def test_an_exact_search_ends_on_a_quadratic_after_n_steps(beta: str) -> None:
    matrix, b = quadratic(6)
    objective = function(lambda x: 0.5 * x @ matrix @ x - b @ x, torch.zeros(6).tolist())
    optimizer = ho.create("ncg", objective.model.parameters(), beta=beta, line_search="strong_wolfe", c2=1e-7, c1=1e-9)
    norms = []
    for _ in range(6):
        optimizer.step(objective)
        norms.append(float(objective.value_and_grad()[1].norm()))
    assert norms[4] > 1e-3
    assert norms[5] < 1e-5


def test_the_direction_of_hager_and_zhang_always_descends_by_seven_eighths() -> None:
    objective = function(rosenbrock, [-1.2, 1.0, 5.0, -2.0])
    optimizer = ho.create("ncg", objective.model.parameters(), restart="never")
    for _ in range(60):
        x, g = objective.position(), objective.value_and_grad()[1]
        optimizer.step(objective)
        d = (objective.position() - x) / optimizer.report.step_size
        assert g @ d <= -0.875 * (g @ g) * (1 - 1e-6)


def test_scipys_cg_is_no_cheaper() -> None:
    def both(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective.value_and_grad(torch.from_numpy(x))
        return value, gradient.numpy()

    start = [-1.2, 1.0, -1.2, 1.0]
    objective = function(rosenbrock, start)
    theirs = scipy.optimize.minimize(both, np.array(start), jac=True, method="CG", options={"gtol": 1e-6})
    ours = ho.minimize(rosenbrock, torch.tensor(start, dtype=torch.float64), "ncg", gtol=1e-6, certify=False)
    torch.testing.assert_close(ours.x, torch.from_numpy(theirs.x), rtol=1e-4, atol=1e-4)
    assert ours.cost["gradient_equivalents"] <= 1.5 * theirs.nfev + 20


def test_periodic_restarts_come_after_n_steps() -> None:
    objective = function(rosenbrock, [-1.2, 1.0, 0.5])
    optimizer = ho.create("ncg", objective.model.parameters())
    betas = []
    for _ in range(9):
        optimizer.step(objective)
        betas.append(optimizer.report.beta)
    assert [place for place, beta in enumerate(betas) if beta == 0.0] == [0, 3, 6]


def test_powells_restart_comes_where_gradients_are_not_orthogonal() -> None:
    objective = function(rosenbrock, [-1.2, 1.0, 0.5])
    optimizer = ho.create("ncg", objective.model.parameters(), restart="powell")
    old, seen = None, set()
    for _ in range(25):
        g = objective.value_and_grad()[1]
        optimizer.step(objective)
        if old is not None:
            near = abs(float(g @ old)) < 0.2 * float(g @ g)
            assert (optimizer.report.beta != 0.0) == near
            seen.add(near)
        old = g
    assert seen == {True, False}


def test_on_changing_data_every_step_is_one_along_the_gradient() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("ncg", problem.model.parameters())
    for step in range(4):
        optimizer.step(problem.batch(step))
        assert optimizer.report.beta == 0.0
    optimizer.step(problem.batch(3))
    assert optimizer.report.beta != 0.0


def test_rates_that_differ_are_a_preconditioner() -> None:
    # With the inverse Hessian's diagonal as rates, a separable quadratic takes one step as plain descent.
    scales = torch.tensor([1.0, 100.0], dtype=torch.float64)
    objective = ho.Objective.from_function(
        lambda x: 0.5 * (scales[0] * x[0] ** 2 + scales[1] * x[1] ** 2).sum(), [torch.ones(1), torch.ones(1)]
    )
    first, second = objective.model.parameters()
    optimizer = ho.create(
        "ncg",
        [{"params": [first], "lr": 1.0}, {"params": [second], "lr": 0.01}],
        line_search="strong_wolfe",
        c1=1e-9,
        c2=1e-6,
    )
    optimizer.step(objective)
    assert objective.value() < 1e-8


def test_two_groups_with_the_same_rate_are_one() -> None:
    one, two = training(dtype=torch.float64), training(dtype=torch.float64)
    parameters = list(two.model.parameters())
    left = ho.create("ncg", one.model.parameters(), lr=0.7)
    right = ho.create("ncg", [{"params": parameters[:2]}, {"params": parameters[2:]}], lr=0.7)
    assert run(left, one, range(8), full=True) == run(right, two, range(8), full=True)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("line_search", ["strong_wolfe", "hager_zhang", "nonmonotone", "armijo"])
def test_every_combination_trains_or_is_refused(beta: str, line_search: str) -> None:
    problem = training(dtype=torch.float64)
    refused = (line_search == "armijo" and beta != "polak_ribiere") or (
        beta == "fletcher_reeves" and line_search != "strong_wolfe"
    )
    if refused:
        with pytest.raises(CombinationError, match=r"Use line_search="):
            ho.create("ncg", problem.model.parameters(), beta=beta, line_search=line_search)
        return
    optimizer = ho.create("ncg", problem.model.parameters(), beta=beta, line_search=line_search)
    losses = run(optimizer, problem, range(40), full=True)
    assert losses[-1] < 0.4 * losses[0]


def test_a_loose_search_is_refused_for_fletcher_and_reeves() -> None:
    parameters = [torch.zeros(2, requires_grad=True)]
    with pytest.raises(CombinationError, match=r"c2 < 0\.5"):
        ho.create("ncg", parameters, beta="fletcher_reeves", line_search="strong_wolfe", c2=0.9)


def test_a_wall_of_nan_does_not_stop_it() -> None:
    def formula(x: Tensor) -> Tensor:
        return (x - 0.3).square().sum() - 1e-3 * (0.5 - x).log().sum()

    objective = function(formula, [-20.0, 0.4])
    optimizer = ho.create("ncg", objective.model.parameters())
    losses = [float(optimizer.step(objective)) for _ in range(20)]
    assert all(map(math.isfinite, losses))
    assert float(objective.value_and_grad()[1].abs().max()) < 1e-4
