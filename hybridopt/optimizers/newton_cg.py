"""Newton's method with conjugate gradients and a line search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hybridopt.core import option
from hybridopt.globalization import LevenbergMarquardt, limits
from hybridopt.linalg import cg
from hybridopt.objective import Objective
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.line_search_step import backtrack, dot, recent_maximum
from hybridopt.optimizers.newton_options import curvature_at
from hybridopt.optimizers.preconditioned import PreconditionedConfig, Preconditioning, forget


@dataclass
class NewtonCGConfig(PreconditionedConfig):
    """Options of `NewtonCG`.

    Attributes:
        damping: Multiple of the identity added to the curvature, while the gradient is as long as the first; it
            shrinks with the gradient. 0 for none.
        adapt_damping: Whether the damping follows the ratio of actual to predicted decrease.
        forcing: Largest relative residual of the inner solve; it shrinks with the gradient.
        lookback: The function must fall below the largest of so many last values; 1 for a monotone descent. With a
            curvature that is not the Hessian the descent is monotone.
        c1: Constant of sufficient decrease.
        max_evaluations: Most trials of the line search.
    """

    damping: float = option(1e-3, ge=0, search=("log", 1e-6, 10.0), help="multiple of the identity added")
    adapt_damping: bool = option(True, help="let the damping follow the ratio of actual to predicted decrease")
    forcing: float = option(0.5, gt=0, lt=1, help="largest relative residual of the inner solve")
    lookback: int = option(3, ge=1, search=[1, 3, 10], help="the largest of so many last values is to be fallen below")
    c1: float = option(1e-4, gt=0, lt=1, help="constant of sufficient decrease")
    max_evaluations: int = option(25, ge=1, help="most trials of the line search")


class NewtonCG(Optimizer):
    """Line-search Newton-CG (Nocedal and Wright 2006, Algorithm 7.1), with Levenberg-Marquardt damping.

    The Newton system is solved by conjugate gradients to the relative residual ``min(forcing, sqrt(||g|| / ||g0||))``,
    g0 the first gradient, which makes the convergence superlinear without solving exactly where it is not worth it
    (Eisenstat and Walker 1996; the quotient keeps it free of the function's scale). At non-positive curvature the
    iterate so far and the direction of negative curvature, at equal length, are both descended (when the iterate is
    zero, the negative gradient), and the step may be doubled while the function falls. The damping, if not zero, is
    adapted as in Martens 2010, section 4.1, after steps that were the model's own; the system is damped by it times
    ``min(1, ||g|| / ||g0||)`` (unless the function is random), or the convergence would be linear (Li, Fukushima, Qi
    and Yamashita 2004).

    The search accepts what falls below the largest of the last few values on the same data (Grippo, Lampariello and
    Lucidi 1986): in a curved valley a long step ends on its slope, and the next one brings it down. With the monotone
    search, ``lookback=1``, such a valley is followed in small steps.

    Report: ``inner_iterations``, ``status`` of the solver, ``evaluations``, ``step_size``, ``search`` (how the line
    search ended), ``ratio``, ``damping``, ``curvature`` where negative curvature was met.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = NewtonCGConfig
    half_precision = False
    family = "newton"
    batch = "full"
    summary = "Newton by conjugate gradients, line search, LM damping"

    def update(self, objective: Objective) -> None:
        """Solves for a direction and searches along it.

        Args:
            objective: Bound to the parameters.
        """
        config, memory = self.config, self.memory
        damping = memory.setdefault("damping", config.damping)
        with objective.at() as point:
            value, gradient = point.value, point.gradient
            length = float(torch.linalg.vector_norm(gradient))
            self.note(grad_norm=length, damping=damping)
            if not self.can_descend(value, length) or not self.can_move():
                return
            first = memory.setdefault("first_grad_norm", length)
            # Under new random numbers each step the gradient does not vanish, and its length says nothing.
            effective = damping * min(1.0, length / first) if objective.repeatable else damping
            system = Preconditioning(self, point, curvature_at(point, config.curvature), effective)
            rtol = min(config.forcing, math.sqrt(length / first))
            result = cg(system.operator, -gradient, preconditioner=system.inverse, rtol=rtol, max_iter=config.max_cg)
            system.close()
        self.note(inner_iterations=result.iterations, status=str(result.status))
        negative = result.curvature_direction is not None
        if negative:
            self.note(curvature=result.curvature)
        start = result.iterations == 0
        direction = -gradient if start else result.solution
        if negative and not start:
            # p descends too, and the function falls along it beyond any model: it gets as much weight as the solution.
            p = result.curvature_direction
            direction = direction + p * (torch.linalg.vector_norm(direction) / torch.linalg.vector_norm(p))
        # A step of another matrix is not Newton's, and deserves less trust.
        window = config.lookback if config.curvature == "hessian" else 1
        reference = recent_maximum(self, objective, value, window)
        search, direction = backtrack(
            self,
            objective,
            direction,
            value,
            gradient,
            c1=config.c1,
            max_evaluations=config.max_evaluations,
            expand=10 if negative else 0,
            reference=reference,
        )
        if damping and config.adapt_damping and not negative:
            # At negative curvature the step was not the model's, so it says nothing about the model.
            ratio = _ratio(search.step, value - search.value, dot(gradient, direction), result.model_decrease)
            ratio = -math.inf if start else ratio
            least, most = limits(config.damping / 1e-3, 1e-12, 1e12)
            rule = LevenbergMarquardt(min_damping=least, max_damping=most)
            memory["damping"] = rule.update(damping, ratio)
            self.note(ratio=ratio, damping=memory["damping"])

    def moved(self, objective: Objective, reason: str) -> None:
        """Takes the damping back to its start, as the model at the new point is not known, and forgets old values.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        self.memory["damping"] = self.config.damping
        self.memory.pop("reference", None)
        forget(self.memory)


def _ratio(step: float, actual: float, slope: float, model_decrease: float) -> float:
    """Actual over predicted decrease of a step t d, from the model's decrease along the whole of d."""
    if step == 0.0:
        return -math.inf
    # m(t) = t slope + t^2 c / 2 with c from m(1) = -model_decrease; both parts are known without another product.
    curvature = -2.0 * (model_decrease + slope)
    predicted = -(step * slope + 0.5 * step * step * curvature)
    return actual / predicted if predicted > 0 else -math.inf
