"""Limited-memory SR1 in a trust region."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.curvature.quasi_newton import LimitedSR1
from hybridopt.objective import Objective
from hybridopt.optimizers.line_search_step import dot
from hybridopt.optimizers.sr1_region import minimize_diagonal
from hybridopt.optimizers.sr1_step import SR1Config, TrustSR1


@dataclass
class LSR1Config(SR1Config):
    """Options of `LSR1`.

    Attributes:
        history: Pairs kept, m.
    """

    history: int = option(10, ge=1, search=[5, 10, 20, 50], help="pairs kept")


class LSR1(TrustSR1):
    """Limited-memory SR1 in a trust region, with an exact subproblem (Brust, Erway and Marcia 2017, OBS).

    The last m pairs define ``B = sigma I + Psi M Psi'``, indefinite where they are. In an orthonormal basis of Psi's
    range the matrix is diagonal, on the complement it is sigma, so the subproblem has at most m + 1 unknowns and is
    solved exactly, hard case included; nothing of size n by n is formed. sigma is y'y / s'y of the last pair where
    that is positive. Rejected trials are pairs too.

    Report: ``evaluations`` (trials, one gradient each), ``ratio``, ``radius``, ``skipped_pairs``, ``pairs``.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = LSR1Config
    summary = "limited-memory SR1, trust region"

    def operator(self) -> LimitedSR1 | None:
        """Returns the estimate of the Hessian as an operator, or None before the first step."""
        pairs = self.memory.get("pairs")
        if pairs is None:
            return None
        count, head = pairs["count"], pairs["head"]
        order = list(range(count)) if head == count else [*range(head, count), *range(head)]
        steps, changes = pairs["steps"][order], pairs["changes"][order]
        return LimitedSR1(steps, changes, sigma=pairs["sigma"], tolerance=self.config.tolerance)

    def _prepare(self, objective: Objective) -> None:
        space, pairs = objective.space, self.memory.get("pairs")
        if pairs is None or pairs["steps"].shape[1] != space.n:
            shape = (self.config.history, space.n)
            self.memory["pairs"] = {
                "steps": torch.zeros(shape, dtype=space.dtype, device=space.device),
                "changes": torch.zeros(shape, dtype=space.dtype, device=space.device),
                "count": 0,
                "head": 0,
                "sigma": 1.0,
            }
        self.note(pairs=self.memory["pairs"]["count"])
        self._matrix = self.operator()

    def _solve(self, gradient: Tensor, radius: float) -> tuple[Tensor, float, bool]:
        matrix = self._matrix
        inside = matrix.basis.t() @ gradient
        rest = gradient - matrix.basis @ inside
        length = float(torch.linalg.vector_norm(rest))
        values = torch.cat([matrix.values, torch.tensor([matrix.sigma], dtype=torch.float64, device="cpu")])
        reduced = torch.cat([inside.double().cpu(), torch.tensor([length], dtype=torch.float64, device="cpu")])
        solution = minimize_diagonal(values, reduced, radius)
        step = matrix.basis @ solution.step[:-1].to(gradient)
        if length > 0:
            step.add_(rest, alpha=float(solution.step[-1]) / length)
        return step, solution.decrease, solution.at_boundary

    def _curvature(self, step: Tensor) -> float:
        return dot(step, self._matrix @ step)

    def _learn(self, step: Tensor, change: Tensor) -> bool:
        pairs = self.memory["pairs"]
        residual = change - self._matrix @ step
        products = [torch.dot(step, change), torch.dot(step, step), torch.dot(change, change)]
        sy, ss, yy, rs, rr = torch.stack([*products, torch.dot(residual, step), torch.dot(residual, residual)]).tolist()
        if not (ss > 0 and all(map(math.isfinite, (sy, yy, rs, rr)))):
            return False
        if math.sqrt(rr) <= 10.0 * torch.finfo(step.dtype).eps * math.sqrt(yy):
            # The matrix knows this pair already.
            return True
        if not abs(rs) > self.config.tolerance * math.sqrt(ss) * math.sqrt(rr):
            return False
        head = pairs["head"]
        pairs["steps"][head].copy_(step)
        pairs["changes"][head].copy_(change)
        pairs["head"] = (head + 1) % len(pairs["steps"])
        pairs["count"] = min(pairs["count"] + 1, len(pairs["steps"]))
        # On the complement of the pairs a positive matrix is the cautious guess.
        if sy > 1e-8 * math.sqrt(ss) * math.sqrt(yy):
            pairs["sigma"] = yy / sy
        self._matrix = self.operator()
        return True
