"""Small matrix problems for the structured methods, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import hybridopt as ho


def random_matrix(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rotation(n: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(random_matrix(n, n, seed=seed)).Q


def regression(rows: int = 3, columns: int = 2) -> Callable[[Tensor], Tensor]:
    """Returns f(W) = sum (A W B - C)^2 / 2, whose gradients have full rank and change from step to step."""
    a, b, c = random_matrix(5, rows, seed=1), random_matrix(columns, 4, seed=2), random_matrix(5, 4, seed=3)
    return lambda w: ((a.to(w) @ w @ b.to(w) - c.to(w)) ** 2).sum() / 2


def gradient_of(formula: Callable[..., Tensor], x: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(formula(x), x)[0]


def trajectory(name: str, formula: Callable[[Any], Tensor], start: Any, steps: int, **options: Any) -> list[Tensor]:
    """Returns the points after each step of a method on a function of one tensor."""
    objective = ho.Objective.from_function(formula, start)
    optimizer = ho.create(name, objective.model.parameters(), **options)
    points = []
    for _ in range(steps):
        optimizer.step(objective)
        points.append(objective.position().reshape(start.shape))
    return points


def peer_trajectory(
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    formula: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    **step_options: Callable[[Tensor], Any],
) -> list[Tensor]:
    """Returns the points after each step of a bare optimizer; `step_options` are functions of the point."""
    parameter = nn.Parameter(start.clone())
    peer, points = optimizer([parameter]), []
    for _ in range(steps):
        parameter.grad = gradient_of(formula, parameter)
        peer.step(**{name: option(parameter.detach()) for name, option in step_options.items()})
        points.append(parameter.detach().clone())
    return points


def assert_same_path(found: Sequence[Tensor], wanted: Sequence[Tensor], rtol: float = 1e-10) -> None:
    assert len(found) == len(wanted)
    for step, (one, other) in enumerate(zip(found, wanted, strict=True)):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol, msg=lambda text, at=step: f"step {at}: {text}")
    assert not torch.equal(found[0], found[-1])
