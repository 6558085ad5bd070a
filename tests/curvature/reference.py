"""Dense float64 references in plain torch, without a line of hybridopt in them.

The Hessian is taken row by row with nested autograd, unfused; where torch's own second derivative is known to be
wrong the case brings a written-out form of its model. The Gauss-Newton matrix is J' H_L J from an explicit Jacobian,
which needs first derivatives only, and the Hessian of the loss in the outputs alone. `test_reference.py` checks them
against finite differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

from hybridopt.linalg.operator import SymmetricOperator
from hybridopt.objective import Objective
from tests.cases import SEED, Case, Problem


@dataclass(frozen=True)
class Reference:
    """Float64 truth about a case at its starting parameters."""

    loss: float
    gradient: Tensor
    hessian: Tensor
    gauss_newton: Tensor | None


def plain_loss(problem: Problem) -> Tensor:
    """Returns the loss of one forward pass from the case's seed, differentiable twice."""
    torch.manual_seed(SEED)
    with sdpa_kernel(SDPBackend.MATH):
        return problem.loss_of(problem.outputs())


def flat(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """Returns tensors as one vector, zeros for None."""
    filled = [torch.zeros_like(p) if t is None else t for t, p in zip(tensors, like, strict=True)]
    return torch.cat([(t.to_dense() if t.is_sparse else t).reshape(-1).double() for t in filled])


def derivative(value: Tensor, inputs: Sequence[Tensor], **options: Any) -> Tensor:
    """Returns d value / d inputs as one vector; zeros where there is no dependence."""
    if not value.requires_grad:
        return torch.cat([torch.zeros(i.numel(), dtype=torch.float64) for i in inputs])
    return flat(torch.autograd.grad(value, inputs, allow_unused=True, **options), inputs)


def jacobian(vector: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Returns the Jacobian of a vector, row by row."""
    return torch.stack([derivative(entry, inputs, retain_graph=True) for entry in vector.reshape(-1)])


@cache
def reference(case: Case) -> Reference:
    """Returns loss, gradient, Hessian and Gauss-Newton matrix of a case."""
    with torch.random.fork_rng(devices=[]):
        problem = case.build(torch.float64, written_out=True)
        parameters = problem.parameters()
        loss = plain_loss(problem)
        gradient = derivative(loss, parameters, create_graph=True)
        hessian = jacobian(gradient, parameters)
        gauss_newton = _gauss_newton(case) if case.loss_fn else None
    return Reference(loss.item(), gradient.detach(), hessian, gauss_newton)


def _gauss_newton(case: Case) -> Tensor:
    problem = case.build(torch.float64)
    parameters = problem.parameters()
    torch.manual_seed(SEED)
    leaves, structure = tree_flatten(problem.outputs())
    positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
    outputs = [leaves[i] for i in positions]
    jacobians = torch.cat([jacobian(z, parameters) for z in outputs])
    free = [z.detach().clone().requires_grad_() for z in outputs]
    for position, z in zip(positions, free, strict=True):
        leaves[position] = z
    loss = problem.loss_of(tree_unflatten(leaves, structure))
    outer = jacobian(derivative(loss, free, create_graph=True), free)
    return jacobians.T @ outer @ jacobians


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Returns ||found - wanted|| / ||wanted|| in float64; the plain norm when `wanted` is zero."""
    wanted = wanted.double()
    return float((found.double() - wanted).norm() / (wanted.norm() or 1.0))


def objective_of(case: Case, dtype: torch.dtype = torch.float32) -> Objective:
    """Returns the objective of a case, with the generator seeded as for the reference."""
    problem = case.build(dtype)
    torch.manual_seed(SEED)
    return Objective(problem.model, problem.loss_fn, problem.inputs, problem.targets)


def probes(operator: SymmetricOperator, count: int = 3) -> Tensor:
    """Returns random columns: an operator that is wrong anywhere is wrong on them."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(operator.n, count, generator=generator, dtype=torch.float64).to(operator.dtype)
