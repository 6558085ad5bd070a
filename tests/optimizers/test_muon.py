"""Muon: torch's own where torch has it, the iteration against its formula, conv kernels, and the fallback's rate."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hybridopt as ho
from hybridopt.optimizers.muon_iteration import COEFFICIENTS, newton_schulz
from tests.optimizers.catalogue import training
from tests.optimizers.structured_cases import (
    assert_same_path,
    random_matrix,
    regression,
    rotation,
    trajectory,
)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_the_iteration_is_its_polynomial_on_the_singular_values(shape: tuple[int, int]) -> None:
    matrix = random_matrix(*shape)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    a, b, c = COEFFICIENTS
    s = s / s.norm()
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(newton_schulz(matrix), u * s @ vh, rtol=1e-10, atol=1e-12)
    assert ((s > 0.6) & (s < 1.3)).all()


def test_many_matrices_are_iterated_as_one_by_one() -> None:
    matrices = random_matrix(4, 6, 3)
    together = newton_schulz(matrices)
    for matrix, found in zip(matrices, together, strict=True):
        torch.testing.assert_close(found, newton_schulz(matrix), rtol=1e-12, atol=1e-13)


def test_a_zero_matrix_stays_zero() -> None:
    assert torch.equal(newton_schulz(torch.zeros(3, 2)), torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"adjust_lr_fn": "match_rms_adamw"}),
        ({"adjust_lr": "original", "nesterov": False}, {"adjust_lr_fn": "original", "nesterov": False}),
        ({"weight_decay": 0.3, "momentum": 0.5}, {"weight_decay": 0.3, "momentum": 0.5}),
        ({"newton_schulz_steps": 3, "eps": 1e-2}, {"ns_steps": 3, "eps": 1e-2}),
    ],
    ids=["default", "original", "decay", "steps"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_same_steps_as_torchs_to_the_last_bit(ours: dict[str, Any], theirs: dict[str, Any], dtype: Any) -> None:
    problem, twin = training(dtype=dtype), training(dtype=dtype)
    weights = [problem.model[0].weight, problem.model[2].weight]
    twins = [twin.model[0].weight, twin.model[2].weight]
    optimizer = ho.create("muon", weights, lr=0.02, precision="bfloat16", rule="matrix", **ours)
    settings = {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw", **theirs}
    bare = torch.optim.Muon(twins, lr=0.02, **settings)
    for step in range(5):
        optimizer.step(problem.batch(step))
        bare.zero_grad()
        twin.batch(step)().backward()
        bare.step()
        for mine, other in zip(weights, twins, strict=True):
            assert torch.equal(mine, other), f"step {step}"


def test_in_the_parameters_own_precision_a_rotated_problem_has_a_rotated_path() -> None:
    formula, start = regression(), random_matrix(3, 2)
    left, right = rotation(3, 4), rotation(2, 5)
    plain = trajectory("muon", formula, start, 6, lr=0.1)
    turned = trajectory("muon", lambda w: formula(left.T @ w @ right), left @ start @ right.T, 6, lr=0.1)
    assert_same_path([left.T @ point @ right for point in turned], plain)


def test_a_conv_kernel_moves_as_the_matrix_that_it_flattens_to() -> None:
    formula, start = regression(4, 18), random_matrix(4, 18)
    kernel = trajectory("muon", lambda w: formula(w.flatten(1)), start.reshape(4, 2, 3, 3), 3, lr=0.1)
    assert_same_path([point.flatten(1) for point in kernel], trajectory("muon", formula, start, 3, lr=0.1))


def test_matrices_of_one_shape_move_as_they_do_alone() -> None:
    formula, starts = regression(), [random_matrix(3, 2, seed=seed) for seed in range(3)]
    objective = ho.Objective.from_function(lambda ws: sum(map(formula, ws)), starts)
    optimizer = ho.create("muon", objective.model.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.step(objective)
    for parameter, start in zip(objective.model.parameters(), starts, strict=True):
        alone = trajectory("muon", formula, start, 4, lr=0.1)[-1]
        torch.testing.assert_close(parameter.detach(), alone, rtol=1e-12, atol=1e-13)


def test_matched_steps_are_as_long_as_adamws_should_be() -> None:
    objective = ho.Objective.from_function(lambda w: (w**2).sum(), random_matrix(40, 10))
    before = objective.position()
    ho.create("muon", objective.model.parameters(), lr=1e-3).step(objective)
    rms = float((objective.position() - before).square().mean().sqrt())
    assert 0.6 * 0.2e-3 < rms < 1.3 * 0.2e-3
