"""Newton's method with conjugate gradients behind a Nystrom preconditioner."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridopt.core import NonFiniteError, option
from hybridopt.linalg import NystromApproximation, cg, nystrom
from hybridopt.linalg.operator import Identity, SymmetricOperator
from hybridopt.objective import Objective
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.line_search_step import backtrack, dot
from hybridopt.optimizers.newton_options import NewtonConfig, curvature_at
from hybridopt.optimizers.randomness import remembered


@dataclass
class NystromNewtonCGConfig(NewtonConfig):
    """Options of `NystromNewtonCG`.

    Attributes:
        max_cg: Most iterations of the inner solver in one step.
        damping: mu, the multiple of the identity added to the curvature.
        rank: Products for the preconditioner, and vectors kept.
        refresh: Steps for which a preconditioner serves.
        forcing: Relative residual of the inner solve.
        warm_start: Whether the inner solve starts from the last direction.
        alpha: Constant of sufficient decrease.
        beta: Factor from one trial of the line search to the next.
        max_evaluations: Most trials of the line search.
        seed: Of the preconditioner's random vectors.
    """

    max_cg: int = option(1000, ge=1, search=("log", 10, 1000), help="most iterations of the inner solver in a step")
    damping: float = option(1e-1, gt=0, search=("log", 1e-5, 1e-1), help="mu, multiple of the identity added")
    rank: int = option(60, ge=1, search=[20, 60], help="products for the preconditioner, and vectors kept")
    refresh: int = option(20, ge=1, search=[1, 5, 20], help="steps for which a preconditioner serves")
    forcing: float = option(1e-2, gt=0, lt=1, search=("log", 1e-4, 0.5), help="relative residual of the inner solve")
    warm_start: bool = option(True, help="start the inner solve from the last direction")
    alpha: float = option(0.1, gt=0, lt=0.5, help="constant of sufficient decrease")
    beta: float = option(0.5, gt=0, lt=1, help="factor from one trial of the line search to the next")
    max_evaluations: int = option(40, ge=1, help="most trials of the line search")
    seed: int = option(0, ge=0, help="seed of the preconditioner's random vectors")


class NystromNewtonCG(Optimizer):
    """NysNewton-CG, NNCG (Rathore et al. 2024, algorithm 4): to finish with, where a loss is ill-conditioned.

    ``(H + mu I) d = -g`` is solved by conjugate gradients from the last direction, preconditioned by a randomized
    Nystrom approximation of H that is made anew every `refresh` steps; then the step is halved until it meets Armijo's
    condition. Sketch 60, refresh 20, alpha 0.1 and beta 0.5 are the paper's, which recommends mu 1e-2 or 1e-1.

    It differs in two things. The paper solves to 1e-16 with at most 1000 iterations, which in single precision means
    1000 always; `forcing` asks for a relative residual instead. And where the damped operator turns out not to be
    positive definite, which the paper does not look at, the direction is as in `NewtonCG`: the iterate so far and
    the direction of negative curvature, at equal length.

    The preconditioner is kept in the state: `rank` vectors. A preconditioner whose products are not finite or whose
    size no longer fits is made anew.

    Report: ``inner_iterations``, ``products`` (those of the preconditioner included), ``status`` of the solver,
    ``evaluations``, ``step_size``, ``search`` (how the line search ended), ``curvature``
    where negative curvature was met.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = NystromNewtonCGConfig
    half_precision = False
    family = "newton"
    batch = "full"
    summary = "Newton-CG with a randomized Nystrom preconditioner (Rathore et al. 2024)"

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
            operator = curvature_at(point, config.curvature)
            preconditioner, products = self._preconditioner(operator)
            damped = operator + config.damping * Identity()
            start = memory.get("direction") if config.warm_start else None
            if start is not None and start.shape != gradient.shape:
                start = None
            result = cg(
                damped,
                -gradient,
                x0=start,
                preconditioner=None
                if preconditioner is None
                else lambda r: preconditioner.inverse_apply(r, config.damping),
                rtol=config.forcing,
                max_iter=config.max_cg,
            )
        self.note(inner_iterations=result.iterations, products=products + result.products, status=str(result.status))
        memory["direction"] = result.solution.clone()
        direction = result.solution
        negative = result.curvature_direction is not None
        if negative:
            direction = direction if result.iterations else -gradient
            direction = _with_curvature(direction, result.curvature_direction, gradient)
            self.note(curvature=result.curvature)
        if not dot(direction, gradient) < 0:
            # A warm start that the solve had no time to improve.
            direction = -gradient
        backtrack(
            self,
            objective,
            direction,
            value,
            gradient,
            c1=config.alpha,
            shrink=config.beta,
            max_evaluations=config.max_evaluations,
            interpolate=False,
            expand=10 if negative else 0,
        )

    def _preconditioner(self, operator: SymmetricOperator) -> tuple[NystromApproximation | None, int]:
        """The kept preconditioner or a new one, None where none can be made, and the products spent on it."""
        config, memory = self.config, self.memory
        age = memory.get("age", config.refresh)
        vectors = memory.get("vectors")
        if age < config.refresh and vectors is not None and vectors.shape[0] == operator.n:
            memory["age"] = age + 1
            return NystromApproximation(vectors, memory["values"]), 0
        generator = remembered(memory, config.seed)
        rank = min(config.rank, operator.n)
        try:
            made = nystrom(
                operator, operator.n, rank, generator=generator, dtype=operator.dtype, device=operator.device
            )
        except NonFiniteError:
            memory.pop("vectors", None)
            return None, rank
        memory.update(random=generator.get_state(), vectors=made.vectors, values=made.values, age=1)
        return made, rank

    def moved(self, objective: Objective, reason: str) -> None:
        """Lets go of preconditioner and direction, which belong to the point that was left.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        for name in ("vectors", "values", "direction"):
            self.memory.pop(name, None)


def _with_curvature(direction: Tensor, curved: Tensor, gradient: Tensor) -> Tensor:
    """Adds a direction of negative curvature at the same length, with the sign that descends."""
    sign = -1.0 if dot(curved, gradient) > 0 else 1.0
    return direction + curved * (sign * torch.linalg.vector_norm(direction) / torch.linalg.vector_norm(curved))
