"""Options that the Newton-type methods share."""

from __future__ import annotations

from dataclasses import dataclass

from hybridopt.core import option
from hybridopt.linalg.operator import SymmetricOperator
from hybridopt.objective import Point


@dataclass
class NewtonConfig:
    """Options of the Newton-type methods.

    Attributes:
        lr: First trial length of a line search; a factor on the step of a trust-region method.
        weight_decay: w adds w/2 ||p||^2 to the function.
        curvature: ``hessian`` or ``gauss_newton``.
        max_cg: Most iterations of the inner solver in one step.
    """

    lr: float = option(1.0, ge=0, search=[1.0], help="first trial length, or factor on the step")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-6, 1e-2), help="w adds w/2 ||p||^2 to the function")
    curvature: str = option("hessian", choices=["hessian", "gauss_newton"], help="the matrix of the model")
    max_cg: int = option(50, ge=1, search=("log", 5, 250), help="most iterations of the inner solver in a step")


def curvature_at(point: Point, name: str) -> SymmetricOperator:
    """Returns the curvature operator of that name.

    Args:
        point: Where.
        name: ``hessian`` or ``gauss_newton``.

    Raises:
        CombinationError: If the objective has no model outputs that a Gauss-Newton matrix needs.
    """
    return point.gauss_newton() if name == "gauss_newton" else point.hessian()
