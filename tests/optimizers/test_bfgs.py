"""Dense BFGS and the self-scaled methods: dense recursions, SciPy, the secant equation, hard functions, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

import hybridopt as ho
from hybridopt.core import CombinationError, ConfigError
from hybridopt.optimizers.ssbroyden import scaling
from tests.optimizers.catalogue import assert_solves, function, quadratic, rosenbrock, run, training

DENSE = [("bfgs", {}), ("ssbroyden", {}), ("ssbroyden", {"update": "ssbfgs"})]


def inverse_of(optimizer: Any) -> Tensor:
    """The dense inverse matrix that an optimizer holds."""
    if "factor" in optimizer.memory:
        return optimizer.memory["factor"] @ optimizer.memory["factor"].T
    return optimizer.memory["inverse"]


def recorded(objective: ho.Objective, optimizer: Any, steps: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Steps and returns (s, y, H after the step) of each."""
    record = []
    for _ in range(steps):
        x, before = objective.position(), objective.value_and_grad()[1]
        optimizer.step(objective)
        s, y = objective.position() - x, objective.value_and_grad()[1] - before
        record.append((s, y, inverse_of(optimizer).clone()))
    return record


def bfgs_update(h: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """Nocedal and Wright 2006, eq. 6.17."""
    rho = 1 / (s @ y)
    left = torch.eye(len(s), dtype=s.dtype) - rho * torch.outer(s, y)
    return left @ h @ left.T + rho * torch.outer(s, s)


@pytest.mark.parametrize("rates", [1.0, 0.3, None], ids=["lr 1", "lr 0.3", "two rates"])
def test_bfgs_keeps_the_matrix_of_the_textbook(rates: float | None) -> None:
    start = torch.tensor([-1.2, 1.0, 0.5, 2.0], dtype=torch.float64)
    if rates is None:
        objective = ho.Objective.from_function(lambda x: rosenbrock(torch.cat(x)), [start[:2], start[2:]])
        first, second = objective.model.parameters()
        optimizer = ho.create("bfgs", [{"params": [first], "lr": 1.0}, {"params": [second], "lr": 0.4}])
    else:
        objective = ho.Objective.from_function(rosenbrock, start)
        optimizer = ho.create("bfgs", objective.model.parameters(), lr=rates)
    record = recorded(objective, optimizer, 12)
    s, y, _ = record[0]
    h = (s @ y) / (y @ y) * torch.eye(4, dtype=torch.float64)  # eq. 6.20
    for s, y, held in record:
        h = bfgs_update(h, s, y)
        torch.testing.assert_close(held, h, rtol=1e-6, atol=1e-7 * float(h.abs().max()))


@pytest.mark.parametrize(("name", "options"), DENSE)
def test_the_secant_equation_holds_after_every_step_and_the_matrix_is_definite(name: str, options: dict) -> None:
    objective = function(rosenbrock, [-1.2, 1.0, 0.5, 2.0])
    optimizer = ho.create(name, objective.model.parameters(), **options)
    for s, y, h in recorded(objective, optimizer, 25):
        torch.testing.assert_close(h @ y, s, rtol=1e-6, atol=1e-7 * float(s.norm()))
        torch.testing.assert_close(h, h.T, rtol=1e-8, atol=1e-9 * float(h.abs().max()))
        assert torch.linalg.eigvalsh(h)[0] > 0


def broyden_update(h: Tensor, s: Tensor, y: Tensor, tau: float, phi: float) -> Tensor:
    """The update of Urban et al. 2025, written out."""
    hy, sy = h @ y, s @ y
    yhy = y @ hy
    v = s / sy - hy / yhy
    return (h - torch.outer(hy, hy) / yhy + phi * yhy * torch.outer(v, v)) / tau + torch.outer(s, s) / sy


@pytest.mark.parametrize("update", ["ssbfgs", "ssbroyden"])
def test_the_self_scaled_matrix_is_that_of_the_paper(update: str) -> None:
    objective = function(rosenbrock, [-1.2, 1.0, 0.5, 2.0])
    optimizer = ho.create("ssbroyden", objective.model.parameters(), update=update)
    h = torch.eye(4, dtype=torch.float64)
    for count, (s, y, held) in enumerate(recorded(objective, optimizer, 15)):
        b, hh = float(s @ torch.linalg.solve(h, s) / (s @ y)), float(y @ h @ y / (s @ y))
        tau, phi = literal_scaling(b, hh, 4, update, first=count == 0)
        h = broyden_update(h, s, y, tau, phi)
        torch.testing.assert_close(held, h, rtol=1e-5, atol=1e-6 * float(h.abs().max()))


def literal_scaling(b: float, h: float, n: int, update: str, *, first: bool) -> tuple[float, float]:
    """The formulas of Urban et al. 2025, section 3.2, symbol by symbol."""
    if update == "ssbfgs":
        return (h if first else min(1, 1 / b)), 1.0
    a = b * h - 1
    c = math.sqrt(abs(a / (1 + a)))
    rho_minus = min(1, h * (1 - c))
    theta_minus = (rho_minus - 1) / a
    theta_plus = 1 / rho_minus
    theta = max(theta_minus, min(theta_plus, (1 - b) / b))
    phi = (1 - theta) / (1 + a * theta)
    if first:
        return h / (1 + a * theta), phi
    rho_plus = min(1, 1 / b)
    sigma = 1 + theta * a
    power = abs(sigma) ** (1 / (1 - n))
    return (min(rho_plus * power, sigma) if theta <= 0 else rho_plus * min(power, 1 / theta)), phi


@pytest.mark.parametrize("b", [1e-6, 0.3, 1.0, 4.0, 1e8])
@pytest.mark.parametrize("excess", [0.0, 1e-15, 1e-3, 2.0, 1e6])
def test_scaling_is_positive_and_keeps_the_matrix_definite(b: float, excess: float) -> None:
    h = (1 + excess) / b
    for first in (True, False):
        tau, phi = scaling(b, h, 7, update="ssbroyden", first=first)
        assert tau > 0
        assert math.isfinite(tau)
        # H stays positive definite where phi (b h - 1) > -1 (Dennis and More 1977).
        assert phi * excess > -1 - 1e-9
        assert scaling(b, h, 1, update="ssbroyden", first=first)[0] > 0
        if excess > 1e-6:
            assert (tau, phi) == pytest.approx(literal_scaling(b, h, 7, "ssbroyden", first=first), rel=1e-6)
    assert scaling(b, h, 7, update="ssbfgs") == (min(1.0, 1 / b), 1.0)


@pytest.mark.parametrize("start", [[-1.2, 1.0], [5.0, -7.0], [-3.0, 30.0]])
def test_scipys_bfgs_ends_where_ours_does_for_about_the_same(start: list[float]) -> None:
    def both(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective.value_and_grad(torch.from_numpy(x))
        return value, gradient.numpy()

    objective = function(rosenbrock, start)
    theirs = scipy.optimize.minimize(both, np.array(start), jac=True, method="BFGS", options={"gtol": 1e-8})
    result = ho.minimize(rosenbrock, torch.tensor(start, dtype=torch.float64), "bfgs", certify=False)
    torch.testing.assert_close(result.x, torch.from_numpy(theirs.x), rtol=1e-5, atol=1e-5)
    assert result.cost["gradient"] <= 1.3 * theirs.nfev + 5


def test_an_exact_search_ends_on_a_quadratic_after_n_steps() -> None:
    matrix, b = quadratic(6)
    objective = function(lambda x: 0.5 * x @ matrix @ x - b @ x, torch.zeros(6).tolist())
    optimizer = ho.create("bfgs", objective.model.parameters(), c2=1e-6, c1=1e-9, initial_scale=False)
    for _ in range(6):
        optimizer.step(objective)
    torch.testing.assert_close(objective.position(), torch.linalg.solve(matrix, b), rtol=1e-5, atol=1e-6)
    # Then the matrix is the inverse Hessian (Nocedal and Wright 2006, Theorem 6.4).
    torch.testing.assert_close(inverse_of(optimizer), torch.linalg.inv(matrix), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "options"), DENSE)
@pytest.mark.parametrize("hard", ["brown_badly_scaled", "wood", "helical_valley", "powell_singular"])
def test_hard_functions_are_solved(name: str, options: dict, hard: str) -> None:
    assert_solves(name, hard, **options)


@pytest.mark.parametrize("hard", ["powell_badly_scaled", "meyer"])
def test_bfgs_solves_the_worst_scaled(hard: str) -> None:
    assert_solves("bfgs", hard, steps=900)


def test_powells_damping_keeps_a_fifth_of_the_curvature() -> None:
    # Concave where it starts: the first pairs have s'y < 0.
    objective = function(lambda x: x.cos().sum(), [0.3, -0.2])
    optimizer = ho.create("bfgs", objective.model.parameters(), line_search="armijo", pairs="damp", lr=0.1)
    damped, before = 0, None
    for _ in range(25):
        x, g = objective.position(), objective.value_and_grad()[1]
        held = None if before is None else before
        optimizer.step(objective)
        s, y = objective.position() - x, objective.value_and_grad()[1] - g
        h = inverse_of(optimizer).clone()
        if optimizer.report.damped_pairs > damped and held is not None:
            bs = torch.linalg.solve(held, s)
            share = 0.8 * (s @ bs) / (s @ bs - s @ y)
            torch.testing.assert_close(h @ (share * y + (1 - share) * bs), s, rtol=1e-7, atol=1e-9)
        damped, before = optimizer.report.damped_pairs, h
        assert torch.linalg.eigvalsh(h)[0] > 0
    assert damped > 0
    assert objective.value() < -1.9


def test_skipped_pairs_are_counted() -> None:
    objective = function(lambda x: x.cos().sum(), [0.3, -0.2])
    optimizer = ho.create("bfgs", objective.model.parameters(), line_search="armijo", lr=0.1)
    optimizer.step(objective)
    assert optimizer.report.skipped_pairs == 1
    assert "factor" not in optimizer.memory


@pytest.mark.parametrize(("name", "options"), DENSE)
@pytest.mark.parametrize("line_search", ["strong_wolfe", "hager_zhang", "nonmonotone", "armijo"])
def test_every_search_trains(name: str, options: dict, line_search: str) -> None:
    problem_ = training(dtype=torch.float64)
    optimizer = ho.create(name, problem_.model.parameters(), line_search=line_search, **options)
    losses = run(optimizer, problem_, range(40), full=True)
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("name", ["bfgs", "ssbroyden"])
def test_two_groups_with_the_same_rate_are_one(name: str) -> None:
    one, two = training(dtype=torch.float64), training(dtype=torch.float64)
    parameters = list(two.model.parameters())
    left = ho.create(name, one.model.parameters(), lr=0.7)
    right = ho.create(name, [{"params": parameters[:2]}, {"params": parameters[2:]}], lr=0.7)
    assert run(left, one, range(8), full=True) == run(right, two, range(8), full=True)


@pytest.mark.parametrize("name", ["bfgs", "ssbroyden"])
def test_freezing_a_parameter_starts_the_matrix_again(name: str) -> None:
    problem_ = training(dtype=torch.float64)
    optimizer = ho.create(name, problem_.model.parameters())
    run(optimizer, problem_, range(4), full=True)
    next(problem_.model.parameters()).requires_grad_(False)
    run(optimizer, problem_, range(4), full=True)
    assert len(inverse_of(optimizer)) == sum(p.numel() for p in problem_.model.parameters() if p.requires_grad)


def test_too_many_parameters_are_refused_at_construction() -> None:
    with pytest.raises(ConfigError, match=r"max_dimension=10.*Use lbfgs"):
        ho.create("bfgs", [torch.zeros(11, requires_grad=True)], max_dimension=10)


@pytest.mark.parametrize("name", ["bfgs", "ssbroyden"])
def test_unchecked_pairs_after_a_search_that_ensures_nothing_are_refused(name: str) -> None:
    parameters = [torch.zeros(2, requires_grad=True)]
    with pytest.raises(CombinationError, match=r"does not ensure s'y > 0.*pairs='skip' or pairs='damp'"):
        ho.create(name, parameters, line_search="armijo", pairs="keep")
    ho.create(name, parameters, line_search="hager_zhang", pairs="keep")


def test_the_operators_are_what_the_optimizer_holds() -> None:
    objective = function(rosenbrock, [-1.2, 1.0, 0.5])
    optimizer = ho.create("bfgs", objective.model.parameters())
    assert optimizer.operator() is None
    for _ in range(5):
        optimizer.step(objective)
    inverse = inverse_of(optimizer)
    torch.testing.assert_close(optimizer.operator(inverse=True).dense(), inverse)
    torch.testing.assert_close(optimizer.operator().dense(), torch.linalg.inv(inverse), rtol=1e-6, atol=1e-6)
