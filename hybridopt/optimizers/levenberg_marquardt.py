"""The Levenberg-Marquardt method with a dense matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.globalization import TrustRegion, noise_floor
from hybridopt.objective import Objective
from hybridopt.optimizers.dense import DenseConfig, DenseOptimizer
from hybridopt.optimizers.newton_options import CURVATURES

_LEAST_DAMPING, _MOST_DAMPING = 1e-20, 1e20


@dataclass
class LevenbergMarquardtConfig(DenseConfig):
    """Options of `LevenbergMarquardt`.

    Attributes:
        damping: First damping, relative to the scaled matrix.
        scaling: ``diagonal`` damps each parameter by the largest diagonal entry that its curvature ever had (More
            1978), so that a change of its unit changes nothing; ``identity`` damps all alike (Levenberg 1944).
        eta: A step is accepted when actual over predicted decrease exceeds this.
        max_trials: Dampings tried in one step, all with the same matrix, until one is accepted.
    """

    curvature: str = option("gauss_newton", choices=CURVATURES, help="the matrix of the model")
    damping: float = option(1e-3, gt=0, search=("log", 1e-6, 10.0), help="first damping, relative to the matrix")
    scaling: str = option("diagonal", choices=["diagonal", "identity"], help="what the damping multiplies")
    eta: float = option(1e-4, ge=0, lt=0.25, help="a step is accepted when the ratio exceeds this")
    max_trials: int = option(20, ge=1, help="dampings tried in one step until one is accepted")


class LevenbergMarquardt(DenseOptimizer):
    """Levenberg-Marquardt (More 1978; Madsen, Nielsen and Tingleff 2004, Algorithm 3.16), for a few hundred parameters.

    The step solves ``(G + mu D) s = -g`` with the Gauss-Newton matrix G of the model's outputs and the diagonal D of
    its largest diagonal entries so far. The damping mu follows the ratio of actual to predicted decrease by Nielsen's
    rule: times ``max(1/3, 1 - (2 ratio - 1)^3)`` after an accepted step, times 2, 4, 8, ... after rejected ones, which
    cost a forward pass and no new matrix. ``lr`` multiplies the step before the ratio test.

    On a batch with fewer outputs than parameters G is singular, and the damping alone bounds the step, which lies in
    the range of ``D^-1 J'``: with ``scaling=identity`` nothing moves that the batch does not see.

    Report: ``inner_iterations`` (products), ``ratio``, ``damping`` (of the next step), ``evaluations``.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.

    Raises:
        CombinationError: If there are more parameters than `max_dimension`.
    """

    Config = LevenbergMarquardtConfig
    summary = "Levenberg-Marquardt with the dense Gauss-Newton matrix (small n, model outputs)"

    def update(self, objective: Objective) -> None:
        """Raises the damping until a step is accepted.

        Args:
            objective: Bound to the parameters.
        """
        config, memory = self.config, self.memory
        with objective.at() as point:
            value, gradient = point.value, point.gradient
            length = float(torch.linalg.vector_norm(gradient))
            self.note(grad_norm=length, evaluations=0)
            if not self.can_descend(value, length):
                return
            if not self.can_move():
                return
            matrix = self.matrix(point)
        if matrix is None:
            return
        damping = memory.setdefault("damping", config.damping)
        growth = memory.setdefault("growth", 2.0)
        scale = self._scale(matrix)
        rate = self.rate(objective)
        slope = gradient.double()
        region, noise = TrustRegion(eta1=config.eta), noise_floor(value, objective.eps)
        origin = objective.position()
        accepted, ratio, trials = False, -math.inf, 0
        for _ in range(config.max_trials):
            factor, failed = torch.linalg.cholesky_ex(matrix + torch.diag(damping * scale))
            if not int(failed):
                solution = rate * torch.cholesky_solve(-slope.unsqueeze(1), factor).squeeze(1)
                predicted = -float(slope @ solution + 0.5 * (solution @ (matrix @ solution)))
                step = solution.to(gradient)
                if torch.equal(origin + step, origin):
                    break
                trials += 1
                ratio = region.ratio(value - objective.value(origin + step), predicted, noise)
                accepted = region.accept(ratio)
            if accepted:
                damping *= max(1 / 3, 1 - (2 * min(ratio, 1.0) - 1) ** 3)
                growth = 2.0
                break
            damping, growth = min(damping * growth, _MOST_DAMPING), min(2.0 * growth, _MOST_DAMPING)
        if accepted:
            objective.commit(origin.add_(step))
        memory["damping"], memory["growth"] = max(damping, _LEAST_DAMPING), growth
        self.note(
            accepted=accepted,
            status="converged" if accepted else "rejected",
            ratio=ratio,
            damping=memory["damping"],
            evaluations=trials,
            step_norm=float(torch.linalg.vector_norm(step)) if accepted else 0.0,
        )

    def _scale(self, matrix: Tensor) -> Tensor:
        """The diagonal D, shape (n,), float64."""
        present = matrix.diagonal().abs()
        largest = float(present.max())
        if self.config.scaling == "identity" or largest == 0.0:
            return torch.full_like(present, largest or 1.0)
        before = self.memory.get("scale")
        if before is not None and before.numel() == present.numel():
            present = torch.maximum(present, before)
        self.memory["scale"] = present.clone()
        # A parameter that nothing has depended on yet still needs some damping.
        return torch.where(present > 0, present, largest)

    def moved(self, objective: Objective, reason: str) -> None:
        """Forgets damping and scale: they belong to the point that was left.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        for name in ("damping", "growth", "scale"):
            self.memory.pop(name, None)
