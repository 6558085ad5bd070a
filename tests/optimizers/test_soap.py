"""SOAP: Adam where the basis is the identity, rotated paths of rotated problems, a peer's path, capped sides."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho
from hybridopt.core import ConfigError
from tests.optimizers.catalogue import flat_state, run, training
from tests.optimizers.structured_cases import (
    assert_same_path,
    peer_trajectory,
    random_matrix,
    regression,
    rotation,
    trajectory,
)

OPTIONS: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.0, "frequency": 2}


def adams_path(formula: Any, start: Tensor, steps: int, **options: Any) -> list[Tensor]:
    """Adam's points, the first of them the start, where SOAP only finds a basis."""
    settings = {"lr": OPTIONS["lr"], "betas": (0.95, 0.95), "weight_decay": 0.0, **options}
    path = peer_trajectory(lambda params: torch.optim.AdamW(params, **settings), formula, start, steps - 1)
    return [start, *path]


def test_with_diagonal_gradients_it_is_adam() -> None:
    # G = diag(4, 2, 1) + ...: G G' and G' G are diagonal and sorted, so the basis is the identity.
    weights = torch.diag(torch.tensor([9.0, 3.0, 1.0], dtype=torch.float64))
    start = torch.diag(torch.tensor([2.0, 1.5, 1.0], dtype=torch.float64))

    def formula(w: Tensor) -> Tensor:
        return (weights * w**2).sum() / 2

    found = trajectory("soap", formula, start, 8, **OPTIONS)
    assert_same_path(found, adams_path(formula, start, 8), rtol=1e-9)


def test_a_rotated_problem_has_a_rotated_path_which_adams_has_not() -> None:
    formula, start = regression(), random_matrix(3, 2)
    left, right = rotation(3, 4), rotation(2, 5)

    def turned(w: Tensor) -> Tensor:
        return formula(left.T @ w @ right)

    begin = left @ start @ right.T
    plain = trajectory("soap", formula, start, 9, **OPTIONS)
    path = [left.T @ point @ right for point in trajectory("soap", turned, begin, 9, **OPTIONS)]
    assert_same_path(path, plain, rtol=1e-7)
    adam = left.T @ adams_path(turned, begin, 9)[-1] @ right
    assert not torch.allclose(adam, adams_path(formula, start, 9)[-1], rtol=1e-2)


@pytest.mark.parametrize(("shape", "options"), [((3, 3), {}), ((3, 2, 2, 2), {"kernels": "tensor"})], ids=str)
def test_the_same_path_as_a_peer_between_refreshes_and_across_them(shape: Any, options: dict[str, Any]) -> None:
    peers = pytest.importorskip("pytorch_optimizer")
    target, start = random_matrix(*shape, seed=1), random_matrix(*shape)
    mixing = random_matrix(start.numel(), start.numel(), seed=2)

    def formula(w: Tensor) -> Tensor:
        return ((mixing @ (w - target).flatten()) ** 2).sum()

    for frequency, rtol in ((100, 1e-6), (2, 1e-4)):  # the peer takes its QR decompositions in float32

        def make(params: list[nn.Parameter], every: int = frequency) -> torch.optim.Optimizer:
            return peers.SOAP(
                params, lr=0.05, betas=(0.9, 0.95), weight_decay=0.0, precondition_frequency=every, eps=1e-9
            )

        theirs = peer_trajectory(make, formula, start, 8)
        settings = {**OPTIONS, "betas": [0.9, 0.95], "frequency": frequency, "eps": 1e-9, **options}
        assert_same_path(trajectory("soap", formula, start, 8, **settings), theirs, rtol=rtol)


def test_flattened_kernels_move_as_matrices() -> None:
    formula, start = regression(4, 18), random_matrix(4, 18)
    kernel = trajectory("soap", lambda w: formula(w.flatten(1)), start.reshape(4, 2, 3, 3), 5, **OPTIONS)
    assert_same_path([p.flatten(1) for p in kernel], trajectory("soap", formula, start, 5, **OPTIONS))


def test_sides_beyond_the_cap_are_not_rotated() -> None:
    formula, start = regression(4, 3), random_matrix(4, 3)
    assert_same_path(trajectory("soap", formula, start, 6, max_dim=2, **OPTIONS), adams_path(formula, start, 6))
    # With one side rotated, it turns with rotations of that side only.
    turn = rotation(3, 5)
    plain = trajectory("soap", formula, start, 6, max_dim=3, **OPTIONS)
    turned = trajectory("soap", lambda w: formula(w @ turn), start @ turn.T, 6, max_dim=3, **OPTIONS)
    assert_same_path([point @ turn for point in turned], plain, rtol=1e-7)
    problem = training()
    optimizer = ho.create("soap", problem.model.parameters(), max_dim=4)
    run(optimizer, problem, range(3))
    leaves = flat_state({name: dict(state) for name, state in enumerate(optimizer.state.values())})
    assert max(leaf.numel() for path, leaf in leaves.items() if "moments" in path and leaf is not None) <= 16


def test_the_first_step_finds_a_basis_and_moves_nothing_but_the_fallbacks_parameters() -> None:
    problem = training()
    before = problem.parameters()
    optimizer = ho.create("soap", problem.model.parameters(), weight_decay=0.5)
    run(optimizer, problem, range(1))
    moved = [not torch.equal(p, was) for p, was in zip(problem.model.parameters(), before, strict=True)]
    assert moved == [False, True, False, True]


def test_the_basis_stays_orthogonal_and_sorted_and_finds_the_eigenvectors() -> None:
    values, basis = torch.tensor([5.0, 3.0, 2.0, 1.0], dtype=torch.float64), rotation(4, 3)
    root = basis * values.sqrt() @ basis.T
    objective = ho.Objective.from_function(lambda w: (root * w).sum(), random_matrix(4, 4))
    optimizer = ho.create("soap", objective.model.parameters(), frequency=1, lr=0.0)
    state = optimizer.state[next(objective.model.parameters())]
    optimizer.step(objective)
    state["basis"] = [rotation(4, 8), rotation(4, 9)]  # as wrong as can be
    for _ in range(80):
        optimizer.step(objective)
    for found in state["basis"]:
        torch.testing.assert_close(found.T @ found, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close((found.T @ basis).abs(), torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_order_of_the_basis_does_not_matter() -> None:
    # Between refreshes a permuted basis with its mean squares is the same method; a refresh sorts both again.
    objective, twin = (ho.Objective.from_function(regression(), random_matrix(3, 2)) for _ in range(2))
    optimizers = [ho.create("soap", o.model.parameters(), **{**OPTIONS, "frequency": 3}) for o in (objective, twin)]
    for step in range(9):
        for optimizer, own in zip(optimizers, (objective, twin), strict=True):
            optimizer.step(own)
        torch.testing.assert_close(twin.position(), objective.position(), rtol=1e-9, atol=1e-9)
        if step == 4:
            state, order = optimizers[1].state[next(twin.model.parameters())], torch.tensor([2, 0, 1])
            state["basis"][0] = state["basis"][0][:, order]
            state["squares"] = state["squares"][order]


def test_the_first_basis_is_sorted() -> None:
    objective = ho.Objective.from_function(regression(), random_matrix(3, 2))
    optimizer = ho.create("soap", objective.model.parameters())
    optimizer.step(objective)
    state = optimizer.state[next(objective.model.parameters())]
    for moment, basis in zip(state["moments"], state["basis"], strict=True):
        values = (basis.T @ moment @ basis).diagonal()
        assert torch.equal(values, values.sort(descending=True).values)


def test_moments_that_overflow_leave_the_last_basis() -> None:
    objective = ho.Objective.from_function(regression(), random_matrix(3, 2))
    optimizer = ho.create("soap", objective.model.parameters(), frequency=1)
    optimizer.step(objective)
    state = optimizer.state[next(objective.model.parameters())]
    state["moments"] = [torch.full_like(moment, torch.inf) for moment in state["moments"]]
    basis = copy.deepcopy(state["basis"])
    optimizer.step(objective)
    assert all(map(torch.equal, state["basis"], basis))
    assert torch.isfinite(objective.position()).all()


def test_the_decays_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"SOAP\.betas must be two numbers"):
        ho.create("soap", [nn.Parameter(torch.ones(2, 2))], betas=[0.9])
