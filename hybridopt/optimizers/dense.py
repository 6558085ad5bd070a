"""What methods with a dense curvature matrix share: its options, its size limit, and how it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import CombinationError, option
from hybridopt.globalization import noise_floor, seen_length
from hybridopt.objective import Objective, Point
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.newton_options import CURVATURES, curvature_at


@dataclass
class DenseConfig:
    """Options of the methods with a dense curvature matrix.

    Attributes:
        lr: First trial length of a line search; a factor on the step where there is none.
        weight_decay: w adds w/2 ||p||^2 to the function.
        curvature: ``hessian``, ``gauss_newton``, ``fisher`` or ``empirical_fisher``, as in `NewtonConfig`.
        max_dimension: Most parameters: the matrix has n^2 entries and costs n products a step.
    """

    lr: float = option(1.0, ge=0, search=[1.0], help="first trial length, or factor on the step")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-6, 1e-2), help="w adds w/2 ||p||^2 to the function")
    curvature: str = option("hessian", choices=CURVATURES, help="the matrix of the model")
    max_dimension: int = option(2000, ge=1, help="most parameters; the matrix has n^2 entries")


class DenseOptimizer(Optimizer):
    """Base of optimizers that form the curvature matrix, one product a column.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.

    Raises:
        CombinationError: If there are more parameters than `max_dimension`.
    """

    family = "newton"
    batch = "full"

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters.

        Args:
            param_group: ``params`` and any of `group_options`.

        Raises:
            CombinationError: If there would be more trainable parameters than `max_dimension`.
        """
        super().add_param_group(param_group)
        trained = {id(p): p.numel() for group in self.param_groups for p in group["params"] if p.requires_grad}
        self._check_dimension(sum(trained.values()))

    def matrix(self, point: Point) -> Tensor | None:
        """Returns the curvature at a point as a symmetric matrix, float64, shape (n, n), by n products.

        None where an entry is NaN or infinite, which the report then gives as the reason why no step was made.

        Args:
            point: Where.

        Raises:
            CombinationError: If n exceeds `max_dimension`, or there are no outputs for a Gauss-Newton matrix.
        """
        self._check_dimension(point.space.n)
        matrix = curvature_at(point, self.config.curvature).dense().double()
        matrix = (matrix + matrix.T) / 2
        self.note(inner_iterations=point.space.n)
        if not bool(torch.isfinite(matrix).all()):
            self.note(accepted=False, status="non_finite", step_norm=0.0)
            return None
        return matrix

    def _check_dimension(self, n: int) -> None:
        limit = self.config.max_dimension
        if n > limit:
            raise CombinationError(
                f"{type(self).__name__} forms a matrix of {n:,} x {n:,} entries ({8 * n * n / 2**20:,.0f} MiB, {n:,} "
                f"products a step), above max_dimension={limit}. Use newton_cg, trust_newton_cg or hessian_free, which "
                "need a few products only, or raise max_dimension."
            )


def descend_curvature(
    optimizer: Optimizer, objective: Objective, vector: Tensor, curvature: float, value: float, c1: float
) -> None:
    """Moves along a direction of negative curvature from a point without a gradient, and notes what happened.

    Both senses are tried, as the sign means nothing, first at length 1, or at what can be seen where that is longer. A
    length t is taken when the function falls by c1 times what the quadratic model promises, t^2 |curvature| / 2
    (McCormick 1977), shortened until it does, and doubled while the function falls on: the model has no minimum to say
    how long a step should be.

    Args:
        optimizer: For its report.
        objective: Bound to it, standing at the point.
        vector: Unit vector, shape (n,).
        curvature: Negative curvature along it.
        value: The function at the point.
        c1: Constant of sufficient decrease, in (0, 1).
    """
    origin = objective.position()
    best, chosen, evaluations = value, 0.0, 0

    def lower_end(length: float) -> tuple[float, float]:
        nonlocal evaluations
        evaluations += 2
        trials = [(objective.value(origin.add(vector, alpha=t)), t) for t in (length, -length)]
        return min(((v, t) for v, t in trials if math.isfinite(v)), default=(math.inf, length))

    length = first = max(1.0, seen_length(curvature, noise_floor(value, objective.eps)))
    for _ in range(40):
        trial, signed = lower_end(length)
        if trial <= value + 0.5 * c1 * length * length * curvature and trial < value:
            best, chosen = trial, signed
            break
        length *= 0.5
    for _ in range(20 if abs(chosen) == first else 0):
        trial = objective.value(origin.add(vector, alpha=2 * chosen))
        evaluations += 1
        if not (math.isfinite(trial) and trial < best):
            break
        best, chosen = trial, 2 * chosen
    if chosen:
        objective.commit(origin.add_(vector, alpha=chosen))
    optimizer.note(
        accepted=chosen != 0.0,
        status="negative_curvature",
        step_size=abs(chosen),
        step_norm=abs(chosen),
        evaluations=evaluations,
    )
