"""AdaHessian: an exact diagonal where the Hessian is diagonal, the algorithm written out, a peer, averages, costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho
from hybridopt.core import ConfigError
from hybridopt.optimizers.adahessian import average
from tests.optimizers.catalogue import quadratic, rosenbrock, run, training
from tests.optimizers.structured_cases import (
    assert_same_path,
    gradient_of,
    peer_trajectory,
    random_matrix,
    trajectory,
)

CURVATURES = torch.tensor([0.5, 2.0, 7.0, -3.0], dtype=torch.float64)
START = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)


def separable(x: Tensor) -> Tensor:
    return (CURVATURES * x**2).sum() / 2 + (x**4).sum() / 12


def curvatures_at(x: Tensor) -> Tensor:
    return CURVATURES + x**2


def probes(n: int, seed: int = 0) -> Any:
    """The optimizer's own signs, drawn as it does."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield 2 * torch.randint(0, 2, (n,), generator=generator, dtype=torch.int8).double() - 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_step_without_memory_solves_a_separable_quadratic(seed: int) -> None:
    # The diagonal is exact whatever the signs; only its absolute value divides, so the concave entry is doubled.
    options = {"lr": 1.0, "betas": [0.0, 0.0], "eps": 1e-14, "seed": seed, "spatial_average": "none"}
    (end,) = trajectory("adahessian", lambda x: (CURVATURES * x**2).sum() / 2, START, 1, **options)
    torch.testing.assert_close(end, torch.tensor([0.0, 0, 0, 6], dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_the_algorithm_written_out_with_its_own_probes() -> None:
    matrix, vector = quadratic(4)

    def formula(x: Tensor) -> Tensor:
        return x @ matrix @ x / 2 - vector @ x + (x**4).sum() / 12

    options: dict[str, Any] = {"lr": 0.1, "betas": [0.9, 0.99], "eps": 1e-3, "hessian_power": 0.7, "weight_decay": 0.2}
    path = trajectory("adahessian", formula, START, 7, every=3, samples=2, seed=5, **options)
    x, mean, squares, signs, refreshes = START, torch.zeros(4), torch.zeros(4), probes(4, seed=5), 0
    for step, found in enumerate(path):
        hessian = matrix + torch.diag(x**2)
        if step % 3 == 0:
            diagonal = sum(z * (hessian @ z) for z in (next(signs), next(signs))) / 2
            squares, refreshes = 0.99 * squares + 0.01 * diagonal**2, refreshes + 1
        mean = 0.9 * mean + 0.1 * gradient_of(formula, x)
        below = (squares / (1 - 0.99**refreshes)) ** 0.35 + 1e-3
        x = x * (1 - 0.1 * 0.2) - 0.1 * mean / (1 - 0.9 ** (step + 1)) / below
        torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-11)


def test_the_same_path_as_a_peer_that_is_given_the_diagonal() -> None:
    peers = pytest.importorskip("pytorch_optimizer")
    theirs = peer_trajectory(
        lambda params: peers.AdaHessian(params, lr=0.1, betas=(0.9, 0.99), eps=1e-4),
        separable,
        START,
        6,
        hessian=lambda x: [curvatures_at(x)],
    )
    assert_same_path(trajectory("adahessian", separable, START, 6, betas=[0.9, 0.99]), theirs, rtol=1e-9)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_the_estimate_is_the_diagonal_on_average(kind: str) -> None:
    objective = ho.Objective.from_function(rosenbrock, random_matrix(4))
    optimizer = ho.create("adahessian", objective.model.parameters(), samples=1500, probes=kind)
    hessian = torch.func.hessian(rosenbrock)(objective.position())
    with objective.at() as point:
        estimate = optimizer.diagonal(point, torch.Generator().manual_seed(0))
    error = float((estimate - hessian.diagonal()).norm())
    # The variance of an entry is the sum of the squares beside the diagonal, for Gaussians twice all squares.
    off = hessian - torch.diag(hessian.diagonal())
    spread = (
        float(off.norm())
        if kind == "rademacher"
        else float((hessian**2).sum() + (hessian.diagonal() ** 2).sum()) ** 0.5
    )
    assert error < 3 * spread / 1500**0.5


def test_spatial_averages_are_signed_means_over_kernels_and_rows() -> None:
    kernel, matrix = random_matrix(3, 2, 2, 2), random_matrix(3, 2)
    assert torch.equal(average(kernel, "kernel"), kernel.mean((2, 3), keepdim=True).expand(3, 2, 2, 2))
    assert torch.equal(average(kernel, "row"), kernel.mean((1, 2, 3), keepdim=True).expand(3, 2, 2, 2))
    assert torch.equal(average(matrix, "kernel"), matrix)
    assert torch.equal(average(matrix, "row"), matrix.mean(1, keepdim=True).expand(3, 2))
    for over in ("kernel", "row", "none"):
        assert torch.equal(average(matrix[0], over), matrix[0])
    assert torch.equal(average(kernel, "none"), kernel)


def test_the_average_reaches_the_step() -> None:
    weights = random_matrix(2, 2, 3, seed=1).abs() + 0.5
    options = {"lr": 1.0, "betas": [0.0, 0.0], "eps": 1e-14}
    start = torch.ones(2, 2, 3, dtype=torch.float64)
    (end,) = trajectory("adahessian", lambda w: (weights * w**2).sum() / 2, start, 1, **options)
    torch.testing.assert_close(end, 1 - weights / weights.mean(2, keepdim=True), rtol=1e-10, atol=1e-12)


def test_products_are_in_the_ledger_where_they_were_due() -> None:
    problem = training()
    optimizer = ho.create("adahessian", problem.model.parameters(), every=3, samples=2)
    refreshed = []
    for step in range(7):
        optimizer.step(problem.batch(step))
        refreshed.append(optimizer.report.refreshed)
    assert refreshed == [True, False, False, True, False, False, True]
    assert problem.objective.ledger.counts == {"forward": 0, "gradient": 7, "hvp": 6, "ggnvp": 0}


def test_a_parameter_thawed_between_estimates_waits_for_its_first() -> None:
    problem = training(dtype=torch.float64)
    weight = problem.model[0].weight.requires_grad_(False)
    optimizer = ho.create("adahessian", problem.model.parameters(), every=4)
    run(optimizer, problem, range(2))
    weight.requires_grad_(True)
    before = weight.detach().clone()
    run(optimizer, problem, range(2, 4))
    assert torch.equal(weight, before)
    run(optimizer, problem, range(4, 5))
    assert optimizer.report.refreshed
    assert not torch.equal(weight, before)


def test_an_estimate_that_is_not_finite_is_dropped_and_due_again() -> None:
    # x^(3/2) has a derivative at zero and no second one.
    def formula(x: Tensor) -> Tensor:
        return x[0].abs() ** 1.5 + (x[1:] ** 2).sum()

    objective = ho.Objective.from_function(formula, torch.tensor([1.0, 1.0, -2.0], dtype=torch.float64))
    optimizer = ho.create("adahessian", objective.model.parameters(), every=2)
    optimizer.step(objective)
    assert optimizer.report.refreshed
    optimizer.step(objective)
    objective.commit(torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64))
    for _ in range(3):
        optimizer.step(objective)
        assert not optimizer.report.refreshed
        assert torch.isfinite(objective.position()).all()
        objective.commit(torch.cat([torch.zeros(1, dtype=torch.float64), objective.position()[1:]]))
    objective.commit(torch.ones(3, dtype=torch.float64))
    optimizer.step(objective)
    assert optimizer.report.refreshed


def test_the_decays_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"AdaHessian\.betas must be two numbers"):
        ho.create("adahessian", [nn.Parameter(torch.ones(2))], betas=[0.9, 0.99, 0.999])
