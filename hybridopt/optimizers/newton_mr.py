"""Newton's method with minimal residuals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hybridopt.core import option
from hybridopt.linalg import minres
from hybridopt.objective import Objective
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.line_search_step import backtrack
from hybridopt.optimizers.newton_options import NewtonConfig, curvature_at


@dataclass
class NewtonMRConfig(NewtonConfig):
    """Options of `NewtonMR`.

    Attributes:
        forcing: Largest inexactness ``||H r|| / ||H s||`` of the inner solve; it shrinks with the gradient.
        c1: Constant of sufficient decrease.
        max_evaluations: Most trials of the line search.
        max_expansions: How often a step along negative curvature may be doubled while the function falls.
    """

    max_cg: int = option(100, ge=1, search=("log", 5, 250), help="most iterations of the inner solver in a step")
    forcing: float = option(0.1, gt=0, lt=1, help="largest inexactness of the inner solve")
    c1: float = option(1e-4, gt=0, lt=0.5, help="constant of sufficient decrease")
    max_evaluations: int = option(40, ge=1, help="most trials of the line search")
    max_expansions: int = option(30, ge=0, help="most doublings of a step along negative curvature")


class NewtonMR(Optimizer):
    """Newton-MR (Liu and Roosta 2022, arXiv 2208.07095, algorithm 3).

    MINRES is run on ``H s = -g`` until ``||H r|| <= min(forcing, sqrt(||g|| / G)) ||H s||``, with G the largest
    gradient so far, which is a criterion that singular Hessians can meet. The step s is then shortened as Armijo
    wants. As soon as MINRES notices that H is not positive definite, its residual, a direction of non-positive
    curvature and of descent, is taken instead, and lengthened while the function falls (forward and backward
    tracking). Unlike the paper's constant tolerance, the shrinking one makes the convergence superlinear.

    The Krylov space is that of the gradient: at an exact saddle the method does not move, and needs an escape.

    Report: ``inner_iterations`` (products), ``status`` of the solver, ``evaluations``, ``step_size``, ``search`` (how
    the line search ended), ``curvature`` where it is not positive.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = NewtonMRConfig
    half_precision = False
    family = "newton"
    batch = "full"
    summary = "Newton by minimal residuals, non-positive curvature (Liu and Roosta 2022)"

    def update(self, objective: Objective) -> None:
        """Solves for a direction and searches along it.

        Args:
            objective: Bound to the parameters.
        """
        config, memory = self.config, self.memory
        with objective.at() as point:
            value, gradient = point.value, point.gradient
            length = float(torch.linalg.vector_norm(gradient))
            self.note(grad_norm=length)
            if not self.can_descend(value, length):
                return
            largest = memory["largest_grad_norm"] = max(memory.get("largest_grad_norm", 0.0), length)
            rtol = min(config.forcing, math.sqrt(length / largest))
            operator = curvature_at(point, config.curvature)
            result = minres(operator, -gradient, rtol=rtol, max_iter=config.max_cg, stop="normal")
        self.note(inner_iterations=result.products, status=str(result.status))
        curved = result.curvature_direction is not None
        if curved:
            self.note(curvature=result.curvature)
        direction = result.curvature_direction if curved else result.solution
        backtrack(
            self,
            objective,
            direction if bool(direction.any()) else -gradient,
            value,
            gradient,
            c1=config.c1,
            max_evaluations=config.max_evaluations,
            expand=config.max_expansions if curved else 0,
        )
