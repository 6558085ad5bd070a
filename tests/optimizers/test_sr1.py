"""The SR1 methods: dense recursion, the true Hessian of a quadratic, the exact subproblem, indefinite functions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import hybridopt as ho
from hybridopt.core import ConfigError
from hybridopt.optimizers.sr1_region import minimize_diagonal
from tests.optimizers.catalogue import assert_solves, function, quadratic, rosenbrock, run, saddle, training


def indefinite(n: int = 5) -> tuple[Tensor, Tensor]:
    matrix, b = quadratic(n)
    values, vectors = torch.linalg.eigh(matrix)
    values[0], values[1] = -2.0, -0.5
    return vectors * values @ vectors.T, b


@pytest.mark.parametrize("sign", ["definite", "indefinite"])
def test_on_a_quadratic_the_matrix_becomes_the_hessian_in_n_steps(sign: str) -> None:
    matrix, b = quadratic(5) if sign == "definite" else indefinite()
    objective = function(lambda x: 0.5 * x @ matrix @ x - b @ x, torch.zeros(5).tolist())
    optimizer = ho.create("sr1", objective.model.parameters(), radius=0.1, max_trials=1)
    for _ in range(6):
        optimizer.step(objective)
    torch.testing.assert_close(optimizer.memory["matrix"], matrix, rtol=1e-6, atol=1e-6)
    objective = function(lambda x: 0.5 * x @ matrix @ x - b @ x, torch.zeros(5).tolist())
    limited = ho.create("lsr1", objective.model.parameters(), radius=0.1, max_trials=1, history=6)
    for _ in range(5):
        limited.step(objective)
    torch.testing.assert_close(limited.operator().dense(), matrix, rtol=1e-9, atol=1e-9)


def test_the_matrix_is_that_of_the_recursion_and_meets_the_secant_equation() -> None:
    objective = function(rosenbrock, [-1.2, 1.0, 0.5])
    optimizer = ho.create("sr1", objective.model.parameters(), initial_scale=False, max_trials=1, radius=0.2)
    b = torch.eye(3, dtype=torch.float64)
    for _ in range(15):
        x, g = objective.position(), objective.value_and_grad()[1]
        optimizer.step(objective)
        s, y = objective.position() - x, objective.value_and_grad()[1] - g
        if not optimizer.report.accepted:
            b = optimizer.memory["matrix"].clone()
            continue
        r = y - b @ s
        b = b + torch.outer(r, r) / (r @ s)  # Nocedal and Wright 2006, eq. 6.24
        torch.testing.assert_close(optimizer.memory["matrix"], b, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(optimizer.memory["matrix"] @ s, y, rtol=1e-6, atol=1e-8)


def test_a_rejected_trial_updates_the_matrix() -> None:
    objective = function(rosenbrock, [-1.2, 1.0])
    optimizer = ho.create("sr1", objective.model.parameters(), max_trials=1, radius=4.0)
    before = objective.position()
    optimizer.step(objective)
    assert not optimizer.report.accepted
    assert torch.equal(objective.position(), before)
    assert optimizer.memory["updates"] == 1


def test_a_trial_that_overflows_teaches_nothing() -> None:
    for name in ("sr1", "lsr1"):
        objective = function(lambda x: 3 * (x - 1).square().sum() + (-400 * x).exp().sum(), [2.0, 1.0])
        optimizer = ho.create(name, objective.model.parameters(), max_trials=1, radius=3.0)
        optimizer.step(objective)
        assert not optimizer.report.accepted
        assert optimizer.report.skipped_pairs == 1


def reference(values: Tensor, gradient: Tensor, radius: float) -> float:
    """Value of the minimum, by bisection on the multiplier, with the hard case through a perturbed gradient."""
    gradient = gradient + 1e-9 * torch.ones_like(gradient)
    if float(values.min()) > 0 and float((gradient / values).norm()) <= radius:
        step = -gradient / values
    else:
        low, high = max(0.0, -float(values.min())), 1e6
        for _ in range(300):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if float((gradient / (values + middle)).norm()) > radius else (low, middle)
        step = -gradient / (values + high)
    return float(gradient @ step + 0.5 * values @ step**2)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("radius", [1e-3, 1.0, 50.0])
def test_the_subproblem_is_solved_exactly(seed: int, radius: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(6, generator=generator, dtype=torch.float64) * 3
    if seed % 3 == 0:
        values = values.abs() + 0.1
    gradient = torch.randn(6, generator=generator, dtype=torch.float64)
    if seed % 3 == 1:
        gradient[values.argmin()] = 0.0  # the hard case, for large radii
    solution = minimize_diagonal(values, gradient, radius)
    assert float(solution.step.norm()) <= radius * (1 + 1e-9)
    assert solution.decrease >= -reference(values, gradient, radius) - 1e-7
    assert solution.decrease == pytest.approx(-reference(values, gradient, radius), rel=1e-3, abs=1e-7)
    # The conditions of More and Sorensen 1983.
    assert solution.shift >= 0
    assert float((values + solution.shift).min()) >= -1e-9
    torch.testing.assert_close((values + solution.shift) * solution.step, -gradient, rtol=1e-6, atol=1e-7)
    assert solution.at_boundary == (solution.shift > 0)


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 0.0], [-1.0, -1.0], [1e-300, 1.0], [1e12, -1e-12]])
@pytest.mark.parametrize("gradient", [[0.0, 1.0], [1.0, 0.0], [1e-20, 1.0], [1e8, 1e8]])
def test_the_subproblem_of_degenerate_matrices_is_solved(values: list[float], gradient: list[float]) -> None:
    diagonal, g = torch.tensor(values, dtype=torch.float64), torch.tensor(gradient, dtype=torch.float64)
    solution = minimize_diagonal(diagonal, g, 2.0)
    assert solution.step.isfinite().all()
    assert float(solution.step.norm()) <= 2.0 * (1 + 1e-9)
    along = -float(g.norm()) * 2.0
    assert solution.decrease >= min(-0.5 * along, 0.25 * float(g @ g) / max(float(diagonal.max()), 1e-300)) * 0.99


def test_a_limited_step_is_the_exact_minimiser_of_the_dense_model() -> None:
    objective = function(lambda x: rosenbrock(x) + 0.1 * x.square().sum(), [-1.2, 1.0, 0.5, 2.0, -1.0, 0.3])
    optimizer = ho.create("lsr1", objective.model.parameters(), history=3)
    for _ in range(12):
        optimizer.step(objective)
        gradient = objective.value_and_grad()[1]
        values, vectors = torch.linalg.eigh(optimizer.operator().dense())
        for radius in (0.05, 1.0):
            optimizer._prepare(objective)
            step, decrease, _ = optimizer._solve(gradient, radius)
            expected = minimize_diagonal(values, vectors.T @ gradient, radius)
            assert decrease == pytest.approx(expected.decrease, rel=1e-6)
            torch.testing.assert_close(step, vectors @ expected.step, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["sr1", "lsr1"])
@pytest.mark.parametrize("hard", ["rosenbrock", "wood", "beale", "kowalik_osborne"])
def test_hard_functions_are_solved(name: str, hard: str) -> None:
    assert_solves(name, hard)


def test_sr1_solves_what_overflows_at_its_first_step() -> None:
    assert_solves("sr1", "osborne_1")


def test_the_scale_of_the_limited_matrix_follows_positive_curvature_only() -> None:
    matrix = torch.tensor([-2.0, -1.0, 3.0, 5.0], dtype=torch.float64)
    for start, positive in (([1.0, 1.0, 0.0, 0.0], False), ([0.0, 0.0, 1.0, 1.0], True)):
        objective = function(lambda x: (matrix * x * x).sum() / 2, start)
        optimizer = ho.create("lsr1", objective.model.parameters(), radius=0.1)
        x, before = objective.position(), objective.value_and_grad()[1]
        optimizer.step(objective)
        s, y = objective.position() - x, objective.value_and_grad()[1] - before
        assert (float(s @ y) > 0) is positive
        wanted = float(y @ y / (s @ y)) if positive else 1.0
        assert optimizer.operator().sigma == pytest.approx(wanted)
        torch.testing.assert_close(optimizer.operator() @ s, y, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["sr1", "lsr1"])
def test_the_matrix_sees_the_saddle(name: str) -> None:
    objective = function(saddle, [0.5, 0.05])
    optimizer = ho.create(name, objective.model.parameters(), radius=0.1)
    lowest = []
    for _ in range(12):
        optimizer.step(objective)
        lowest.append(float(torch.linalg.eigvalsh(optimizer.operator().dense())[0]))
    assert min(lowest) < -0.5
    for _ in range(40):
        optimizer.step(objective)
    assert objective.value() == pytest.approx(-0.5, abs=1e-6)


@pytest.mark.parametrize("name", ["sr1", "lsr1"])
@pytest.mark.parametrize("rates", [(0.5, 0.5), (1.0, 0.3)])
def test_rates_scale_the_step_and_the_prediction(name: str, rates: tuple[float, float]) -> None:
    problem_ = training(dtype=torch.float64)
    parameters = list(problem_.model.parameters())
    groups = [{"params": parameters[:2], "lr": rates[0]}, {"params": parameters[2:], "lr": rates[1]}]
    optimizer = ho.create(name, groups)
    losses = run(optimizer, problem_, range(30), full=True)
    assert losses[-1] < 0.7 * losses[0]
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(losses))


@pytest.mark.parametrize("name", ["sr1", "lsr1"])
def test_walls_are_stepped_back_from(name: str) -> None:
    objective = function(lambda x: (x - 3.0).square().sum() - x.log().sum(), [0.01, 0.5])
    optimizer = ho.create(name, objective.model.parameters(), radius=5.0)
    values = [float(optimizer.step(objective)) for _ in range(40)]
    assert all(map(math.isfinite, values))
    assert float(objective.value_and_grad()[1].abs().max()) < 1e-5


def test_too_many_parameters_are_refused_at_construction() -> None:
    with pytest.raises(ConfigError, match=r"max_dimension=10.*Use lsr1"):
        ho.create("sr1", [torch.zeros(11, requires_grad=True)], max_dimension=10)
