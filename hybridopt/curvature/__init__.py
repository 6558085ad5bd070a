"""Symmetric curvature operators on an objective, and their algebra."""

from hybridopt.curvature import preconditioners
from hybridopt.curvature.diagonal import Diagonal
from hybridopt.curvature.empirical_fisher import EmpiricalFisher
from hybridopt.curvature.fisher import Fisher
from hybridopt.curvature.kronecker import EKFAC, KFAC
from hybridopt.curvature.operators import GaussNewton, Hessian
from hybridopt.curvature.quasi_newton import FactoredBFGS, LimitedBFGS, LimitedSR1
from hybridopt.linalg.composite import Blocks, Inverse, Submatrix
from hybridopt.linalg.operator import Dense, Identity, Sum, SymmetricOperator

__all__ = [
    "EKFAC",
    "KFAC",
    "Blocks",
    "Dense",
    "Diagonal",
    "EmpiricalFisher",
    "FactoredBFGS",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "Identity",
    "Inverse",
    "LimitedBFGS",
    "LimitedSR1",
    "Submatrix",
    "Sum",
    "SymmetricOperator",
    "preconditioners",
]
