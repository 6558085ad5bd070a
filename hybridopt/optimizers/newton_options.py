"""Options that the Newton-type methods share."""

from __future__ import annotations

from dataclasses import dataclass

from hybridopt.core import option
from hybridopt.curvature.empirical_fisher import EmpiricalFisherOperator
from hybridopt.curvature.fisher import FisherOperator
from hybridopt.linalg.operator import SymmetricOperator
from hybridopt.objective import Point

CURVATURES = ("hessian", "gauss_newton", "fisher", "empirical_fisher")
"""Matrices that a model of the function can be made with."""


@dataclass
class NewtonConfig:
    """Options of the Newton-type methods.

    Attributes:
        lr: First trial length of a line search; a factor on the step of a trust-region method.
        weight_decay: w adds w/2 ||p||^2 to the function.
        curvature: ``hessian``; ``gauss_newton``; ``fisher``, the same for a loss that is checked to be a negative
            log-likelihood; or ``empirical_fisher``, which needs no second derivative of the loss, and knows less.
        max_cg: Most iterations of the inner solver in one step.
    """

    lr: float = option(1.0, ge=0, search=[1.0], help="first trial length, or factor on the step")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-6, 1e-2), help="w adds w/2 ||p||^2 to the function")
    curvature: str = option("hessian", choices=CURVATURES, help="the matrix of the model")
    max_cg: int = option(50, ge=1, search=("log", 5, 250), help="most iterations of the inner solver in a step")


def curvature_at(point: Point, name: str) -> SymmetricOperator:
    """Returns the curvature operator of that name.

    Args:
        point: Where.
        name: Out of `CURVATURES`.

    Raises:
        CombinationError: If the objective has no model outputs, or its loss is not what the matrix needs.
    """
    if name == "fisher":
        return FisherOperator(point)
    if name == "empirical_fisher":
        return EmpiricalFisherOperator(point)
    return point.gauss_newton() if name == "gauss_newton" else point.hessian()
