"""Shampoo: the paper's formula, exact cases, blocks and diagonals within the cap, grafting, refreshes, overflow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import hybridopt as ho
from hybridopt.optimizers.tensor_factors import inverse_root
from tests.optimizers.catalogue import flat_state, run, training
from tests.optimizers.structured_cases import (
    assert_same_path,
    gradient_of,
    peer_trajectory,
    random_matrix,
    regression,
    rotation,
    trajectory,
)

PAPER: dict[str, Any] = {
    "beta1": 0.0,
    "beta2": 1.0,
    "ridge": "absolute",
    "graft": "none",
    "frequency": 1,
    "epsilon": 1e-4,
    "lr": 0.3,
    "last": "matrix",
}


def power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = np.linalg.eigh(matrix.numpy())
    return torch.from_numpy(vectors * values**exponent @ vectors.T)


def papers_path(formula: Callable[[Tensor], Tensor], w: Tensor, steps: int) -> list[Tensor]:
    """Gupta, Koren and Singer 2018, Algorithm 1, written out."""
    left = PAPER["epsilon"] * torch.eye(w.shape[0], dtype=torch.float64)
    right = PAPER["epsilon"] * torch.eye(w.shape[1], dtype=torch.float64)
    points = []
    for _ in range(steps):
        g = gradient_of(formula, w)
        left, right = left + g @ g.T, right + g.T @ g
        w = w - PAPER["lr"] * power(left, -1 / 4) @ g @ power(right, -1 / 4)
        points.append(w)
    return points


def test_the_papers_algorithm_on_a_matrix() -> None:
    formula, start = regression(), random_matrix(3, 2)
    assert_same_path(trajectory("shampoo", formula, start, 6, **PAPER), papers_path(formula, start, 6))


def test_the_papers_algorithm_on_a_tensor_of_order_three() -> None:
    target, start = random_matrix(2, 3, 4, seed=1), random_matrix(2, 3, 4)

    def formula(w: Tensor) -> Tensor:
        return ((w - target) ** 4).sum()

    path, w = trajectory("shampoo", formula, start, 4, kernels="tensor", **PAPER), start
    factors = [PAPER["epsilon"] * torch.eye(size, dtype=torch.float64) for size in start.shape]
    for found in path:
        g = gradient_of(formula, w)
        for side, term in enumerate(("iab,jab->ij", "aib,ajb->ij", "abi,abj->ij")):
            factors[side] = factors[side] + torch.einsum(term, g, g)
        w = w - PAPER["lr"] * torch.einsum("ai,bj,ck,ijk->abc", *(power(factor, -1 / 6) for factor in factors), g)
        torch.testing.assert_close(found, w, rtol=1e-10, atol=1e-12)


def test_mean_moments_and_gradients_are_corrected_for_their_start() -> None:
    formula, start = regression(), random_matrix(3, 2)
    path = trajectory("shampoo", formula, start, 5, **{**PAPER, "beta1": 0.8, "beta2": 0.9})
    w, left, right, mean = start, torch.zeros(3, 3).double(), torch.zeros(2, 2).double(), torch.zeros(3, 2).double()
    for step, found in enumerate(path, start=1):
        g = gradient_of(formula, w)
        left, right, mean = 0.9 * left + 0.1 * g @ g.T, 0.9 * right + 0.1 * g.T @ g, 0.8 * mean + 0.2 * g
        roots = [
            power(moment / (1 - 0.9**step) + PAPER["epsilon"] * torch.eye(len(moment), dtype=torch.float64), -1 / 4)
            for moment in (left, right)
        ]
        w = w - PAPER["lr"] * roots[0] @ (mean / (1 - 0.8**step)) @ roots[1]
        torch.testing.assert_close(found, w, rtol=1e-9, atol=1e-11)


def test_a_vector_that_is_asked_for_has_full_matrix_adagrad() -> None:
    formula, start = lambda x: ((x - 1) ** 4).sum() + x.prod(), random_matrix(4)
    path = trajectory("shampoo", formula, start, 5, rule="matrix", **PAPER)
    x, moment = start, PAPER["epsilon"] * torch.eye(4, dtype=torch.float64)
    for found in path:
        g = gradient_of(formula, x)
        moment = moment + torch.outer(g, g)
        x = x - PAPER["lr"] * power(moment, -1 / 2) @ g
        torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-7)  # the moment's condition is 1e5 and more


def test_the_same_path_as_a_peer() -> None:
    peers = pytest.importorskip("pytorch_optimizer")
    formula, start = regression(4, 3), random_matrix(4, 3)
    theirs = peer_trajectory(lambda params: peers.Shampoo(params, lr=0.3, matrix_eps=1e-4), formula, start, 7)
    assert_same_path(trajectory("shampoo", formula, start, 7, **PAPER), theirs, rtol=1e-8)


def test_on_a_rank_one_gradient_the_step_is_the_normalized_gradient() -> None:
    # L = |v|^2 u u' and R = |u|^2 v v', so L^-1/4 G R^-1/4 = G / (|u| |v|).
    u, v = random_matrix(3, 1), random_matrix(2, 1, seed=1)
    start = torch.zeros(3, 2, dtype=torch.float64)
    (end,) = trajectory("shampoo", lambda w: (u.T @ w @ v).sum(), start, 1, **{**PAPER, "epsilon": 0.0, "lr": 1.0})
    torch.testing.assert_close(end, -u @ v.T / (u.norm() * v.norm()), rtol=1e-6, atol=1e-8)


def test_a_rotated_problem_has_a_rotated_path() -> None:
    formula, start = regression(), random_matrix(3, 2)
    left, right = rotation(3, 4), rotation(2, 5)
    for options in ({"graft": "none"}, {"graft": "sgd"}):
        options = {"lr": 0.05, "frequency": 2, "epsilon": 1e-3, **options}
        plain = trajectory("shampoo", formula, start, 6, **options)
        turned = trajectory("shampoo", lambda w: formula(left.T @ w @ right), left @ start @ right.T, 6, **options)
        assert_same_path([left.T @ point @ right for point in turned], plain, rtol=1e-8)


def test_a_relative_ridge_makes_the_path_free_of_the_functions_scale() -> None:
    formula, start = regression(), random_matrix(3, 2)
    options = {"graft": "none", "lr": 0.05, "frequency": 2, "epsilon": 1e-3}
    plain = trajectory("shampoo", formula, start, 5, **options)
    assert_same_path(trajectory("shampoo", lambda w: 1e-8 * formula(w), start, 5, **options), plain, rtol=1e-8)
    small = trajectory("shampoo", lambda w: 1e-8 * formula(w), start, 5, ridge="absolute", **options)
    assert not torch.allclose(small[-1], plain[-1], rtol=1e-3)


def test_blocks_are_preconditioned_one_by_one() -> None:
    target, start = random_matrix(5, 4, seed=1), random_matrix(5, 4)

    def cost(w: Tensor, wanted: Tensor) -> Tensor:
        return ((w - wanted) ** 4).sum()

    found = trajectory("shampoo", lambda w: cost(w, target), start, 4, block_size=3, **PAPER)
    for rows in (slice(0, 3), slice(3, 5)):
        for columns in (slice(0, 3), slice(3, 4)):
            wanted = papers_path(lambda w, to=target[rows, columns]: cost(w, to), start[rows, columns], 4)
            assert_same_path([point[rows, columns] for point in found], wanted)


def test_a_long_side_keeps_its_diagonal_only() -> None:
    formula, start = regression(5, 3), random_matrix(5, 3)
    path = trajectory("shampoo", formula, start, 4, large="diagonal", block_size=4, **PAPER)
    w, right = start, PAPER["epsilon"] * torch.eye(3, dtype=torch.float64)
    left = torch.full((5, 1), PAPER["epsilon"], dtype=torch.float64)
    for found in path:
        g = gradient_of(formula, w)
        left, right = left + g.square().sum(1, keepdim=True), right + g.T @ g
        w = w - PAPER["lr"] * left ** (-1 / 4) * g @ power(right, -1 / 4)
        torch.testing.assert_close(found, w, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("large", ["blocks", "diagonal"])
def test_no_factor_is_larger_than_the_cap(large: str) -> None:
    problem = training()
    optimizer = ho.create("shampoo", problem.model.parameters(), block_size=2, large=large)
    run(optimizer, problem, range(3))
    for parameter, state in optimizer.state.items():
        if isinstance(parameter, Tensor):
            factors = [leaf for path, leaf in flat_state(dict(state)).items() if "moments" in path or "roots" in path]
            assert all(factor.dim() == 1 or max(factor.shape) <= 2 for factor in factors)
            assert sum(factor.numel() for factor in factors) <= 4 * 2 * parameter.numel()


def test_grafted_steps_have_the_other_methods_length_and_shampoos_direction() -> None:
    formula, start = regression(), random_matrix(3, 2)
    g = gradient_of(formula, start)
    bare = trajectory("shampoo", formula, start, 1, graft="none", lr=1.0)[0] - start
    for graft, length in (("sgd", g.norm()), ("adagrad", math.sqrt(6.0)), ("adam", math.sqrt(6.0))):
        step = trajectory("shampoo", formula, start, 1, graft=graft, lr=1.0)[0] - start
        assert float(step.norm()) == pytest.approx(float(length), rel=1e-6)
        torch.testing.assert_close(step / step.norm(), bare / bare.norm(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("graft", ["adagrad", "adam"])
def test_the_length_is_the_other_methods_in_later_steps_too(graft: str) -> None:
    formula, start = regression(), random_matrix(3, 2)
    path = [start, *trajectory("shampoo", formula, start, 4, graft=graft, lr=0.05)]
    mean, squares, total = (torch.zeros_like(start) for _ in range(3))
    for step, (before, after) in enumerate(itertools.pairwise(path), start=1):
        g = gradient_of(formula, before)
        mean, squares, total = 0.9 * mean + 0.1 * g, 0.999 * squares + 0.001 * g**2, total + g**2
        below = total if graft == "adagrad" else squares / (1 - 0.999**step)
        length = (mean / (1 - 0.9**step) / (below.sqrt() + 1e-8)).norm()
        assert float((after - before).norm()) == pytest.approx(0.05 * float(length), rel=1e-9)


def test_roots_are_computed_every_few_steps_only() -> None:
    problem = training()
    optimizer = ho.create("shampoo", problem.model.parameters(), frequency=3)
    weight, seen = problem.model[0].weight, []
    for step in range(7):
        run(optimizer, problem, range(step, step + 1))
        seen.append(optimizer.state[weight]["roots"][0][0].clone())
    changed = [not torch.equal(one, other) for one, other in itertools.pairwise(seen)]
    assert changed == [False, False, True, False, False, True]


def test_another_exponent() -> None:
    formula, start = regression(), random_matrix(3, 2)
    (found,) = trajectory("shampoo", formula, start, 1, root=2.0, **PAPER)
    g, ridge = gradient_of(formula, start), PAPER["epsilon"]
    left = power(g @ g.T + ridge * torch.eye(3), -1 / 2)
    right = power(g.T @ g + ridge * torch.eye(2), -1 / 2)
    torch.testing.assert_close(found, start - PAPER["lr"] * left @ g @ right, rtol=1e-10, atol=1e-12)


def test_moments_that_overflow_leave_the_last_roots_and_say_so() -> None:
    # The squares of such gradients are finite, their sum is not for long.
    objective = ho.Objective.from_function(lambda w: 5e18 * w.sum(), torch.zeros(3, 2))
    optimizer = ho.create("shampoo", objective.model.parameters(), frequency=1, beta2=1.0)
    weight, events = next(objective.model.parameters()), []
    for _ in range(10):
        before, last = objective.value(), optimizer.state[weight].get("roots")
        optimizer.step(objective)
        events += [event for event in optimizer.report.events if event["event"] == "root_failed"]
        if events:
            assert all(map(torch.equal, optimizer.state[weight]["roots"][0], last[0]))
        assert objective.value() < before
    assert events[-1] == {"event": "root_failed", "factors": 2}


def test_eigenvalues_below_rounding_count_as_rounding() -> None:
    nearly = torch.diag(torch.tensor([1.0, 1e-30, -1e-18], dtype=torch.float64))
    root = inverse_root(nearly, 2.0, 0.0, relative=True)
    torch.testing.assert_close(root.diagonal(), torch.tensor([1.0, 2.0**26, 2.0**26], dtype=torch.float64))


def test_a_zero_matrix_has_the_identity_for_a_root() -> None:
    zero = torch.zeros(3, 3)
    torch.testing.assert_close(inverse_root(zero, 4.0, 1e-6, relative=True), torch.eye(3))
    assert torch.isfinite(inverse_root(zero, 4.0, 0.0, relative=False)).all()
    assert inverse_root(torch.full((2, 2), math.nan), 4.0, 1e-6, relative=True) is None
    assert inverse_root(torch.tensor([1.0, math.inf]), 4.0, 1e-6, relative=True) is None
