"""The Lanczos process with full reorthogonalization."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from hybridopt.core.errors import ConfigError
from hybridopt.linalg.arithmetic import check_vector, product
from hybridopt.linalg.result import KrylovStatus

_BREAKDOWN = 10.0  # beta below this many units of rounding of ||A|| is zero


@dataclass(slots=True)
class LanczosResult:
    """An orthonormal basis V of a Krylov space and the tridiagonal matrix T = V'AV of the operator in it.

    Attributes:
        rows: V transposed, shape (m, n): the basis vectors as rows.
        alphas: Diagonal of T, shape (m,), float64 on the CPU.
        betas: Shape (m,), float64 on the CPU: the first m - 1 are the off-diagonal of T, the last is the norm
            of the residual, ``A V - V T = beta_m v_{m+1} e_m'``.
        ritz_values: Eigenvalues of T, ascending, shape (m,), float64 on the CPU.
        coefficients: Eigenvectors of T as columns, shape (m, m), float64 on the CPU.
        residuals: ``||A y - theta y||`` of each Ritz pair, shape (m,): there is an eigenvalue of A within
            this distance of theta.
        products: Products with A used.
        status: ``max_iter`` (all steps made), ``invariant``, ``converged``, ``stopped``, ``zero_rhs`` or
            ``non_finite``.
    """

    rows: Tensor
    alphas: Tensor
    betas: Tensor
    ritz_values: Tensor
    coefficients: Tensor
    residuals: Tensor
    products: int
    status: KrylovStatus

    @property
    def basis(self) -> Tensor:
        """V, shape (n, m), a view."""
        return self.rows.T

    @property
    def invariant(self) -> bool:
        """Whether the Krylov space is invariant, so that every Ritz pair is an eigenpair."""
        return self.status == KrylovStatus.INVARIANT

    @property
    def ritz_vectors(self) -> Tensor:
        """All Ritz vectors as columns, shape (n, m), in the order of `ritz_values`."""
        return self.rows.T @ self.coefficients.to(self.rows)

    def ritz_vector(self, index: int) -> Tensor:
        """Returns one Ritz vector of unit length.

        Args:
            index: Its position in `ritz_values`; 0 is the smallest, -1 the largest.

        Returns:
            The vector, shape (n,).
        """
        vector = self.coefficients[:, index].to(self.rows) @ self.rows
        return vector / torch.linalg.vector_norm(vector)


def lanczos(
    A: Any,
    start: Tensor,
    steps: int,
    *,
    tol: float | None = None,
    callback: Callable[[np.ndarray, np.ndarray], bool] | None = None,
) -> LanczosResult:
    """Builds a Krylov basis of a symmetric operator, orthogonal to working precision.

    Every new vector is orthogonalized against its two predecessors, which leaves nothing but rounding along
    the older ones, and then against the whole basis by classical Gram-Schmidt: twice is enough (Giraud,
    Langou, Rozloznik and van den Eshof 2005), and no ghost copies of converged eigenvalues appear. Beside the
    product, step m costs 4 m n operations; m steps keep m n numbers.

    Args:
        A: Symmetric operator of shape (n, n): anything with ``A @ v`` for v of shape (n,).
        start: Start vector, shape (n,), float32 or float64, of any length but zero.
        steps: Most steps; more than n are never made.
        tol: Stops with ``converged`` once the residual of the smallest Ritz pair is <= tol.
        callback: Called after each step with alphas (m,) and betas (m,), float64 arrays that it must not
            keep; true ends the run with ``stopped``.

    Returns:
        The basis, T and its eigenpairs. A zero start vector or a non-finite first product give zero steps.

    Raises:
        ConfigError: `steps` is negative, or `start` is not flat float32 or float64.

    Example:
        >>> A = torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64))
        >>> result = lanczos(A, torch.ones(5, dtype=torch.float64), 5)
        >>> [round(value, 6) for value in result.ritz_values.tolist()]
        [1.0, 2.0, 3.0, 4.0, 5.0]
    """
    start = check_vector("start", start)
    if steps < 0:
        raise ConfigError(f"steps must be >= 0, got {steps}.")
    n = start.numel()
    steps = min(steps, n)
    rows = start.new_empty((min(steps, 32), n))
    alphas, betas = np.zeros(steps), np.zeros(steps)
    norm = torch.linalg.vector_norm(start).item()
    if norm == 0.0 or not math.isfinite(norm):
        status = KrylovStatus.ZERO_RHS if norm == 0.0 else KrylovStatus.NON_FINITE
        return _assemble(rows, alphas, betas, 0, 0, status)
    if steps:
        torch.div(start, norm, out=rows[0])

    eps = torch.finfo(start.dtype).eps
    scale = 0.0  # running estimate of ||A|| from below
    status = KrylovStatus.MAX_ITER
    m = products = 0
    while m < steps:
        w = product(A, rows[m]).clone()
        products += 1
        local = _project_out(w, rows[max(m - 1, 0) : m + 1])
        full = _project_out(w, rows[: m + 1])
        length = torch.linalg.vector_norm(w)
        alpha, beta = torch.stack((local[-1] + full[-1], length)).tolist()  # the only host read of the step
        if not (math.isfinite(alpha) and math.isfinite(beta)):
            status = KrylovStatus.NON_FINITE
            break
        alphas[m], betas[m] = alpha, beta
        scale = max(scale, abs(alpha) + beta)
        m += 1
        if m == n or beta <= _BREAKDOWN * eps * scale:
            status = KrylovStatus.INVARIANT
            break
        if tol is not None and _smallest_residual(alphas[:m], betas[:m]) <= tol:
            status = KrylovStatus.CONVERGED
            break
        if callback is not None and callback(alphas[:m], betas[:m]):
            status = KrylovStatus.STOPPED
            break
        if m < steps:
            if m == rows.shape[0]:
                grown = rows.new_empty((min(2 * m, steps), n))
                grown[:m] = rows
                rows = grown
            torch.div(w, length, out=rows[m])
    return _assemble(rows, alphas, betas, m, products, status)


def _project_out(w: Tensor, rows: Tensor) -> Tensor:
    """Makes w orthogonal to the rows, in place, and returns its components along them."""
    components = rows @ w
    w.addmv_(rows.T, components, alpha=-1)
    return components


def _smallest_residual(alphas: np.ndarray, betas: np.ndarray) -> float:
    """Residual norm of the smallest Ritz pair."""
    _, vectors = eigh_tridiagonal(alphas, betas[:-1], select="i", select_range=(0, 0))
    return float(abs(betas[-1] * vectors[-1, 0]))


def _assemble(
    rows: Tensor, alphas: np.ndarray, betas: np.ndarray, m: int, products: int, status: KrylovStatus
) -> LanczosResult:
    """Diagonalizes T and packs the result."""
    alphas, betas = alphas[:m], betas[:m]
    values, vectors = eigh_tridiagonal(alphas, betas[:-1]) if m else (np.zeros(0), np.zeros((0, 0)))
    residuals = np.abs(betas[-1] * vectors[-1]) if m else np.zeros(0)
    packed = (torch.from_numpy(np.ascontiguousarray(x)) for x in (alphas, betas, values, vectors, residuals))
    return LanczosResult(rows[:m], *packed, products, status)
