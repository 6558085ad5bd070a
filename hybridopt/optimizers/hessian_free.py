"""Hessian-free optimization of Martens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hybridopt.core import CombinationError, option
from hybridopt.curvature.structural import StructurallyDamped
from hybridopt.globalization import LevenbergMarquardt, limits
from hybridopt.linalg import cg
from hybridopt.objective import Objective
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.line_search_step import backtrack
from hybridopt.optimizers.newton_options import CURVATURES, curvature_at
from hybridopt.optimizers.preconditioned import PreconditionedConfig, Preconditioning, forget


@dataclass
class HessianFreeConfig(PreconditionedConfig):
    """Options of `HessianFree`.

    Attributes:
        damping: First multiple of the identity added to the curvature. Martens starts at 45 on his sums over
            outputs; a mean loss with standardized data wants less.
        structural_damping: mu, for recurrent nets: the hidden states' squared change is added to the model with
            weight mu times the damping (Martens and Sutskever 2011, section 3.1). 0 for none.
        warm_start: The inner solve starts from this multiple of the last solution.
        progress_tol: The inner solve stops when the model falls by less than this per iteration, relatively.
        shrink: Factor of the line search.
        max_evaluations: Most trials of the line search.
    """

    curvature: str = option("gauss_newton", choices=CURVATURES, help="the matrix of the model")
    max_cg: int = option(250, ge=1, search=("log", 20, 300), help="most iterations of the inner solver in a step")
    damping: float = option(1.0, gt=0, search=("log", 1e-3, 100.0), help="first multiple of the identity added")
    structural_damping: float = option(
        0.0, ge=0, search=[0.0, 0.01, 0.03, 0.1], help="mu: hidden states' change, times damping, in the model"
    )
    warm_start: float = option(0.95, ge=0, le=1, help="the inner solve starts from this multiple of the last")
    progress_tol: float = option(5e-4, gt=0, help="least relative progress of the model per inner iteration")
    shrink: float = option(0.8, gt=0, lt=1, help="factor of the line search")
    max_evaluations: int = option(60, ge=1, help="most trials of the line search")

    def __post_init__(self) -> None:
        """Refuses structural damping of another matrix than the Gauss-Newton one."""
        super().__post_init__()
        if self.structural_damping and self.curvature not in ("gauss_newton", "fisher"):
            raise CombinationError(
                "Structural damping is a Gauss-Newton matrix of the hidden states beside that of the loss: use "
                f"curvature='gauss_newton', not {self.curvature!r}."
            )


class HessianFree(Optimizer):
    """Hessian-free optimization (Martens 2010), with the constants of the author's code.

    Conjugate gradients on the damped Gauss-Newton matrix, started from the decayed last solution and stopped on the
    model's relative progress (section 4.4); going back over kept iterates as long as the function is lower there
    (section 4.6); then a line search with factor 0.8 and constant 1e-2; damping by the reduction ratio of the step
    before the line search (section 4.1). The paper's preconditioner is ``preconditioner="martens"`` (section 4.7); for
    recurrent nets there is structural damping (Martens and Sutskever 2011).

    On a batch with fewer outputs than parameters the matrix is singular but for its damping. Conjugate gradients
    without a preconditioner then stay in its range: what the batch does not see moves only by the last solution.

    Report: ``inner_iterations``, ``status`` of the solver, ``evaluations``, ``step_size``, ``search`` (how the line
    search ended), ``ratio``, ``damping``, ``backtracked`` (how many kept iterates were gone back).

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = HessianFreeConfig
    half_precision = False
    family = "newton"
    batch = "full"
    summary = "Hessian-free: Gauss-Newton, warm-started CG, backtracking (Martens 2010)"

    def update(self, objective: Objective) -> None:
        """Solves on the damped Gauss-Newton matrix, goes back over the iterates, and searches.

        Args:
            objective: Bound to the parameters.
        """
        config, memory = self.config, self.memory
        damping = memory.setdefault("damping", config.damping)
        structural = config.structural_damping * damping
        # The keyword only where it is needed: an objective of somebody else's may not know it.
        with objective.at(hidden=True) if structural else objective.at() as point:
            value, gradient = point.value, point.gradient
            length = float(torch.linalg.vector_norm(gradient))
            self.note(grad_norm=length, damping=damping)
            if not self.can_descend(value, length):
                return
            if not self.can_move():
                return
            last = memory.get("solution")
            # A parameter that was frozen or thawed since makes the last solution one of another space.
            usable = last is not None and last.numel() == gradient.numel() and config.warm_start > 0
            start = config.warm_start * last if usable else None
            curvature = curvature_at(point, config.curvature)
            if structural:
                curvature = StructurallyDamped(point, structural)
            system = Preconditioning(self, point, curvature, damping)
            result = cg(
                system.operator,
                -gradient,
                x0=start,
                preconditioner=system.inverse,
                rtol=1e-10,
                max_iter=config.max_cg,
                stop="progress",
                progress_tol=config.progress_tol,
                keep_iterates=True,
            )
            system.close()
        memory["solution"] = result.solution.clone()
        origin = objective.position()
        kept = result.iterates or [(result.iterations, result.solution, result.model_decrease)]
        index, best = len(kept) - 1, math.inf
        tried = 0
        while index >= 0:
            trial = objective.value(origin + kept[index][1])
            tried += 1
            if not trial < best and math.isfinite(best):
                index += 1
                break
            best = trial if math.isfinite(trial) else math.inf
            if index == 0:
                break
            index -= 1
        _, direction, decrease = kept[index]
        # The ratio judges the model, so it belongs to the whole step, before the line search shortens it.
        ratio = (value - best) / decrease if decrease > 0 and math.isfinite(best) else -math.inf
        search, _ = backtrack(
            self,
            objective,
            direction,
            value,
            gradient,
            c1=1e-2,
            shrink=config.shrink,
            max_evaluations=config.max_evaluations,
            interpolate=False,
        )
        least, most = limits(config.damping, 1e-12, 1e12)
        memory["damping"] = LevenbergMarquardt(min_damping=least, max_damping=most).update(damping, ratio)
        self.note(
            inner_iterations=result.iterations,
            status=str(result.status),
            ratio=ratio,
            damping=memory["damping"],
            backtracked=len(kept) - 1 - index,
            evaluations=tried + search.evaluations,
        )

    def moved(self, objective: Objective, reason: str) -> None:
        """Drops the last solution: it belongs to the point that was left.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        self.memory.pop("solution", None)
        self.memory["damping"] = self.config.damping
        forget(self.memory)
