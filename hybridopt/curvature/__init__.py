"""Symmetric curvature operators on an objective, and their algebra."""

from hybridopt.curvature.empirical_fisher import EmpiricalFisher
from hybridopt.curvature.fisher import Fisher
from hybridopt.curvature.kronecker import EKFAC, KFAC
from hybridopt.curvature.operators import GaussNewton, Hessian
from hybridopt.linalg.operator import Dense, Identity, Sum, SymmetricOperator

__all__ = [
    "EKFAC",
    "KFAC",
    "Dense",
    "EmpiricalFisher",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "Identity",
    "Sum",
    "SymmetricOperator",
]
