"""Symmetric curvature operators on an objective, and their algebra."""

from hybridopt.curvature.operators import GaussNewton, Hessian
from hybridopt.linalg.operator import Dense, Identity, Sum, SymmetricOperator

__all__ = ["Dense", "GaussNewton", "Hessian", "Identity", "Sum", "SymmetricOperator"]
