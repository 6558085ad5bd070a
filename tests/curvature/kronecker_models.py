"""Small models for the Kronecker-factored operators, and their Fisher matrix from explicit Jacobians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hybridopt as ho
from hybridopt.curvature.kronecker import KroneckerOperator
from hybridopt.curvature.kronecker.layers import Layer

DOUBLE = torch.float64


class Sequence(nn.Module):
    """A recurrent network, read out at its last step or at every one."""

    def __init__(self, kind: type[nn.RNNBase], *, every: bool = False, **options: Any) -> None:
        super().__init__()
        self.cell = kind(3, 4, **options)
        self.head = nn.Linear(4 * (2 if options.get("bidirectional") else 1), 2)
        self.every, self.batch_first = every, options.get("batch_first", False)

    def forward(self, x: Tensor) -> Tensor:
        states = self.cell(x)[0]
        if self.every:
            return self.head(states)
        return self.head(states[:, -1] if self.batch_first else states[-1])


def problem(model: nn.Module, loss_fn: Callable[..., Tensor], inputs: Any, targets: Any) -> ho.Objective:
    return ho.Objective(model.to(DOUBLE), loss_fn, inputs, targets)


def classification(model: nn.Module, inputs: Tensor, classes: int, samples: int | None = None) -> ho.Objective:
    targets = torch.randint(0, classes, (samples or inputs.shape[0],))
    return problem(model, F.cross_entropy, inputs, targets)


def fisher(objective: ho.Objective) -> Tensor:
    """Returns J' H J with J row by row and H by autograd, in plain torch."""
    model, parameters = objective.model, objective.space.parameters
    outputs = model(objective.inputs)
    rows = []
    for entry in outputs.reshape(-1):
        parts = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    torch.zeros(p.numel()).to(p) if g is None else g.flatten()
                    for g, p in zip(parts, parameters, strict=True)
                ]
            )
        )
    jacobian = torch.stack(rows)
    free = outputs.detach().requires_grad_()
    hessian = torch.autograd.functional.hessian(
        lambda z: objective.loss_fn(z.view_as(outputs), objective.targets), free.flatten()
    )
    return jacobian.T @ hessian @ jacobian


def block(matrix: Tensor, operator: KroneckerOperator, layer: Layer, group: int = 0) -> Tensor:
    """Returns the part of a matrix that belongs to one group of a layer."""
    place = operator.indices(layer)[group].flatten()
    return matrix[place][:, place]


def errors(operator: KroneckerOperator, matrix: Tensor) -> list[float]:
    """Returns the relative Frobenius error of every block."""
    dense = operator.dense()
    result = []
    for layer in operator.layers:
        for group in range(layer.groups):
            wanted = block(matrix, operator, layer, group)
            result.append(float((block(dense, operator, layer, group) - wanted).norm() / wanted.norm()))
    return result
