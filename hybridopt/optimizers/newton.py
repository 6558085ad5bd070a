"""Newton's method with a dense, modified Hessian and a line search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.escape.base import default_gtol
from hybridopt.objective import Objective
from hybridopt.optimizers.dense import DenseConfig, DenseOptimizer, descend_curvature
from hybridopt.optimizers.line_search_step import backtrack

MODIFICATIONS = ("absolute", "shift", "pseudo_inverse")
"""How a matrix is made positive definite."""


@dataclass
class NewtonDenseConfig(DenseConfig):
    """Options of `Newton`.

    Attributes:
        modification: What is done to a matrix that is not positive definite. ``absolute`` takes the absolute values
            of its eigenvalues; ``shift`` adds the least multiple of the identity; ``pseudo_inverse`` is the first
            without the directions of the eigenvalues below the floor, for matrices that lack rank.
        scaling: ``rows`` divides rows and columns by the square roots of the rows' norms before the modification,
            which is then one in those units; ``identity`` leaves them.
        floor: Least eigenvalue of the modified matrix, relative to the largest absolute one.
        c1: Constant of sufficient decrease.
        max_evaluations: Most trials of the line search.
    """

    modification: str = option("absolute", choices=MODIFICATIONS, help="of an indefinite or singular matrix")
    scaling: str = option("rows", choices=["rows", "identity"], help="units in which the matrix is modified")
    floor: float = option(1e-14, ge=0, lt=1, search=("log", 1e-14, 1e-3), help="least eigenvalue over the largest")
    c1: float = option(1e-4, gt=0, lt=1, help="constant of sufficient decrease")
    max_evaluations: int = option(40, ge=1, help="most trials of the line search")


class Newton(DenseOptimizer):
    """Modified Newton with a line search (Nocedal and Wright 2006, section 3.4), for a few hundred parameters.

    The Hessian is formed by n products, equilibrated and decomposed. Its eigenvalues are made positive, by their
    absolute values or by a shift, and kept above a floor; where it is positive definite the step is Newton's.
    Backtracking ends at Armijo's condition. Where the gradient vanishes (to 1e-8 in float64, 1e-4 in float32, times
    the largest entry of the Hessian) and the lowest eigenvalue is negative beyond rounding, the step goes along its
    eigenvector, so saddles are left.

    Report: ``inner_iterations`` (products), ``negative`` (negative eigenvalues), ``modified`` (how many eigenvalues
    were changed), ``evaluations``, ``step_size``, ``search`` (how the line search ended); ``curvature``
    along the step where it leaves a saddle.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.

    Raises:
        CombinationError: If there are more parameters than `max_dimension`.
    """

    Config = NewtonDenseConfig
    summary = "Newton with the dense Hessian made positive definite, line search (small n)"

    def update(self, objective: Objective) -> None:
        """Decomposes the matrix, makes it positive definite, and searches along the step.

        Args:
            objective: Bound to the parameters.
        """
        config = self.config
        with objective.at() as point:
            value, gradient = point.value, point.gradient
            length = float(torch.linalg.vector_norm(gradient))
            self.note(grad_norm=length)
            if not (math.isfinite(value) and math.isfinite(length)):
                self.can_descend(value, length)
                return
            matrix = self.matrix(point)
        if matrix is None:
            return
        if config.scaling == "rows":
            # Equilibrated, the floor and the modification mean the same whatever the units of the parameters.
            norms = torch.linalg.vector_norm(matrix, dim=1)
            units = torch.where(norms > 0, norms, norms.max().clamp(min=torch.finfo(norms.dtype).tiny)).rsqrt()
        else:
            units = torch.ones_like(matrix[0])
        values, vectors = torch.linalg.eigh(units.unsqueeze(1) * matrix * units)
        lowest, largest = float(values[0]), float(values.abs().max())
        # Relative to the curvature, as a number times the function is no other function.
        vanishing = float(gradient.abs().max()) <= default_gtol(gradient.dtype) * float(matrix.abs().max())
        if vanishing and lowest < -math.sqrt(objective.eps) * largest:
            vector = units * vectors[:, 0]
            vector = vector / torch.linalg.vector_norm(vector)
            curvature = float(vector @ (matrix @ vector))
            self.note(curvature=curvature)
            descend_curvature(self, objective, vector.to(gradient), curvature, value, config.c1)
            return
        if not self.can_descend(value, length):
            return
        positive = _positive(values, max(config.floor, objective.eps) * largest, config.modification)
        self.note(modified=int((positive != values).sum()), negative=int((values < 0).sum()))
        solution = vectors @ ((vectors.T @ (units * gradient.double())) / positive)
        direction = -(units * solution).to(gradient)
        if config.modification == "pseudo_inverse":
            # A parameter of the loss has no part in a Gauss-Newton matrix; least norm would never move it.
            direction = torch.where(matrix.any(dim=1), direction, -gradient)
        backtrack(
            self,
            objective,
            direction,
            value,
            gradient,
            c1=config.c1,
            max_evaluations=config.max_evaluations,
        )


def _positive(values: Tensor, floor: float, modification: str) -> Tensor:
    """Eigenvalues, ascending, made at least `floor` (or infinite); ones for the zero matrix, which says nothing."""
    if floor == 0.0:
        return torch.ones_like(values)
    if modification == "absolute":
        return values.abs().clamp(min=floor)
    if modification == "pseudo_inverse":
        # Eigenvalues are known to n units of rounding, which in a direction without curvature is all there is.
        return values.abs().masked_fill(values.abs() <= floor * values.numel(), math.inf)
    return values + max(0.0, floor - float(values[0]))
