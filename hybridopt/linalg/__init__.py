"""Krylov solvers on anything that multiplies a vector with ``@``.

Pure numerics: no models, no losses. Vectors are flat float32 or float64 tensors and stay on their device;
decisions are taken on float64 scalars with one host read an iteration. Every way a solve can end is a
`KrylovStatus`, never an exception.
"""

from __future__ import annotations

from hybridopt.linalg.capped_cg import capped_cg
from hybridopt.linalg.cg import cg
from hybridopt.linalg.cubic import cubic_minimize
from hybridopt.linalg.eigenpair import MinimumEigenpair, lanczos_product_bound, minimum_eigenpair
from hybridopt.linalg.gltr import gltr
from hybridopt.linalg.krylov_space import KrylovSpace
from hybridopt.linalg.lanczos import LanczosResult, lanczos
from hybridopt.linalg.minres import minres
from hybridopt.linalg.nystrom import NystromApproximation, nystrom
from hybridopt.linalg.result import KrylovResult, KrylovStatus
from hybridopt.linalg.steihaug import steihaug

__all__ = [
    "KrylovResult",
    "KrylovSpace",
    "KrylovStatus",
    "LanczosResult",
    "MinimumEigenpair",
    "NystromApproximation",
    "capped_cg",
    "cg",
    "cubic_minimize",
    "gltr",
    "lanczos",
    "lanczos_product_bound",
    "minimum_eigenpair",
    "minres",
    "nystrom",
    "steihaug",
]
