"""Dense SR1 in a trust region."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import ConfigError, option
from hybridopt.linalg.operator import Dense
from hybridopt.objective import Objective
from hybridopt.optimizers.line_search_step import dot
from hybridopt.optimizers.sr1_region import minimize_diagonal
from hybridopt.optimizers.sr1_step import SR1Config, TrustSR1


@dataclass
class DenseSR1Config(SR1Config):
    """Options of `SR1`.

    Attributes:
        initial_scale: Whether the first pair with s'y > 0 scales the initial matrix, by y'y / s'y.
        max_dimension: Most parameters: the matrix has their square as entries, and each trial takes its eigenvalues.
    """

    initial_scale: bool = option(True, help="let the first pair scale the initial matrix")
    max_dimension: int = option(2000, ge=1, help="most parameters; each trial takes the matrix's eigenvalues")


class SR1(TrustSR1):
    """Symmetric rank-one updates in a trust region (Nocedal and Wright 2006, Algorithm 6.2).

    The matrix is not forced to be positive definite, so it comes nearer to an indefinite Hessian than BFGS can, and the
    subproblem is solved exactly by its eigenvalues, hard case included. Rejected trials update it too. On a quadratic
    it equals the Hessian after as many independent steps as there are parameters.

    Report: ``evaluations`` (trials, one gradient each), ``ratio``, ``radius``, ``skipped_pairs``.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.

    Raises:
        ConfigError: If there are more parameters than `max_dimension`.
    """

    Config = DenseSR1Config
    half_precision = False
    summary = "dense SR1, trust region"

    def __init__(self, params: Any, config: Any = None, *, escape: Any = None, **options: Any) -> None:
        super().__init__(params, config, escape=escape, **options)
        self._check_dimension(sum(p.numel() for g in self.param_groups for p in g["params"] if p.requires_grad))

    def _check_dimension(self, n: int) -> None:
        if n > self.config.max_dimension:
            raise ConfigError(
                f"SR1 takes the eigenvalues of a dense matrix in every trial, and {n} parameters are more than "
                f"max_dimension={self.config.max_dimension}. Use lsr1, or raise max_dimension."
            )

    def operator(self) -> Dense | None:
        """Returns the estimate of the Hessian as an operator, or None before the first step."""
        matrix = self.memory.get("matrix")
        return None if matrix is None else Dense(matrix.clone())

    def _prepare(self, objective: Objective) -> None:
        space = objective.space
        matrix = self.memory.get("matrix")
        if matrix is None or len(matrix) != space.n:
            self._check_dimension(space.n)
            self.memory["matrix"] = torch.eye(space.n, dtype=space.dtype, device=space.device)
            self.memory["updates"] = 0

    def _solve(self, gradient: Tensor, radius: float) -> tuple[Tensor, float, bool]:
        values, vectors = torch.linalg.eigh(self.memory["matrix"])
        solution = minimize_diagonal(values.double().cpu(), (vectors.t() @ gradient).double().cpu(), radius)
        return vectors @ solution.step.to(gradient), solution.decrease, solution.at_boundary

    def _curvature(self, step: Tensor) -> float:
        return dot(step, self.memory["matrix"] @ step)

    def _learn(self, step: Tensor, change: Tensor) -> bool:
        memory, matrix = self.memory, self.memory["matrix"]
        sy, ss, yy = torch.stack([torch.dot(step, change), torch.dot(step, step), torch.dot(change, change)]).tolist()
        if not (ss > 0 and math.isfinite(sy) and math.isfinite(yy)):
            return False
        if memory["updates"] == 0 and self.config.initial_scale and sy > 0:
            matrix.copy_(torch.eye(len(step), dtype=step.dtype, device=step.device).mul_(yy / sy))
        residual = change - matrix @ step
        size, denominator = torch.stack([torch.linalg.vector_norm(residual), torch.dot(step, residual)]).tolist()
        if size <= 10.0 * torch.finfo(step.dtype).eps * math.sqrt(yy):
            # The matrix knows this pair already.
            return True
        if not abs(denominator) > self.config.tolerance * math.sqrt(ss) * size:
            return False
        matrix.addr_(residual, residual, alpha=1.0 / denominator)
        memory["updates"] += 1
        return True
