"""Kronecker-factored curvature: what every layer sees and sends back, its two factors, and operators made of them."""

from hybridopt.curvature.kronecker.capture import Capture, capture
from hybridopt.curvature.kronecker.operators import EKFAC, KFAC, KroneckerOperator

__all__ = ["EKFAC", "KFAC", "Capture", "KroneckerOperator", "capture"]
