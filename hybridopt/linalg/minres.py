"""MINRES that notices directions of non-positive curvature on its way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from hybridopt.core.errors import ConfigError
from hybridopt.linalg.arithmetic import check_tolerances, check_vector, product
from hybridopt.linalg.result import KrylovResult, KrylovStatus

_BREAKDOWN = 10.0  # beta below this many units of rounding of ||A|| is zero


def minres(
    A: Any,
    b: Tensor,
    *,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
    rtol: float = 1e-5,
    atol: float = 0.0,
    max_iter: int | None = None,
    stop: Literal["residual", "normal"] = "residual",
    stop_at_curvature: bool = True,
    curvature_tol: float = 0.0,
) -> KrylovResult:
    """Solves ``A x = b`` by minimal residuals (Paige and Saunders 1975), or finds that A is not positive definite.

    The residual of the iterate before has the Rayleigh quotient ``-c_{t-1} gamma_t^{(1)}``, two scalars of the QR
    factorization, so non-positive curvature is seen without further products, and in the very iteration in which A
    stops to be positive definite on the Krylov space (Liu and Roosta 2022, algorithm 2 and section 2.2). Until then
    the iterates are directions of descent of ``x'Ax/2 - b'x``, and of every function with gradient -b, and so is the
    residual.

    Args:
        A: Symmetric operator of shape (n, n): anything with ``A @ v`` for v of shape (n,). It may be indefinite or
            singular.
        b: Right-hand side, shape (n,), float32 or float64.
        preconditioner: Callable r -> M^{-1} r with M symmetric positive definite; residuals are measured by M^{-1}.
        rtol: Relative tolerance, see `stop`.
        atol: Absolute tolerance of the residual.
        max_iter: Most iterations; 2 n by default.
        stop: ``"residual"``: ``||r|| <= max(rtol ||b||, atol)``. ``"normal"``: ``||A r|| <= rtol ||A x||``, which can
            be reached for inconsistent systems too (Liu and Roosta 2022, equation 9), or ``||r|| <= atol``.
        stop_at_curvature: Whether non-positive curvature ends the solve; otherwise its first direction is kept.
        curvature_tol: Curvature counts as non-positive up to this Rayleigh quotient.

    Returns:
        The result. On ``negative_curvature`` it holds the residual p = b - A x (multiplied with M^{-1}, if there is
        one) as the direction, its curvature, and the iterate x to which it belongs. ``invariant`` says that the
        residual cannot be made smaller: x is a least-squares solution.

    Raises:
        ConfigError: An option is out of its range, or b is not flat float32 or float64.

    Example:
        >>> A = torch.diag(torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64))
        >>> b = torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64)
        >>> found = minres(A, b)
        >>> print(found.status, found.curvature <= 0)
        negative_curvature True
        >>> [round(x, 6) for x in minres(A, b, stop_at_curvature=False).solution.tolist()]
        [1.0, 0.5, -0.1]
    """
    b = check_vector("b", b)
    limit = check_tolerances(rtol, atol, max_iter, b.numel())
    if stop not in ("residual", "normal"):
        raise ConfigError(f"stop must be 'residual' or 'normal', got {stop!r}.")
    z = b if preconditioner is None else preconditioner(b)
    square = float(torch.dot(b, z))
    x = torch.zeros_like(b)
    if not (square > 0 and math.isfinite(square)):
        status = KrylovStatus.ZERO_RHS if square == 0 and not b.any() else KrylovStatus.NON_FINITE
        if square <= 0 and status != KrylovStatus.ZERO_RHS:
            status = KrylovStatus.INDEFINITE_PRECONDITIONER
        return KrylovResult(x, status, 0.0, math.sqrt(square) if square >= 0 else math.nan, 0, 0)

    first = beta = phi = math.sqrt(square)
    u, v, u_old = b / beta, z / beta, torch.zeros_like(b)
    w, w_old = torch.zeros_like(b), torch.zeros_like(b)
    r = b.clone()
    p = r if preconditioner is None else z.clone()  # M^{-1} r
    c, s, delta, epsilon, scale = -1.0, 0.0, 0.0, 0.0, 0.0
    breakdown = _BREAKDOWN * torch.finfo(b.dtype).eps
    result = KrylovResult(x, KrylovStatus.MAX_ITER, 0.0, phi, 0, 0)
    if first <= atol or (stop == "residual" and rtol >= 1):
        result.status = KrylovStatus.CONVERGED
        return result
    for iteration in range(1, limit + 1):
        q = product(A, v).clone()
        result.products = iteration
        if iteration > 1:
            q.add_(u_old, alpha=-beta)
        along = torch.dot(v, q)
        q.addcmul_(along, u, value=-1)
        z = q if preconditioner is None else preconditioner(q)
        # The only host read of the iteration:
        alpha, square = torch.stack((along, torch.dot(q, z))).tolist()
        if not (math.isfinite(alpha) and math.isfinite(square)):
            result.status = KrylovStatus.NON_FINITE
            break
        beta = math.sqrt(max(square, 0.0))
        scale = max(scale, abs(alpha) + beta)
        if beta <= breakdown * scale:
            beta = 0.0
        # One more column of the QR factorization of the tridiagonal matrix, by reflections.
        above, gamma = c * delta + s * alpha, s * delta - c * alpha
        epsilon_next, delta = s * beta, -c * beta
        if -c * gamma <= curvature_tol and result.curvature_direction is None:
            result.curvature_direction = p.clone()
            result.curvature = -c * gamma * phi * phi / float(torch.dot(p, p))
            if stop_at_curvature:
                result.status = KrylovStatus.NEGATIVE_CURVATURE
                break
        if stop == "normal" and phi * math.hypot(gamma, delta) <= rtol * math.sqrt(max(first**2 - phi**2, 0.0)):
            result.status = KrylovStatus.CONVERGED
            break
        pivot = math.hypot(gamma, beta)
        if pivot <= breakdown * scale:
            result.status = KrylovStatus.INVARIANT
            break
        w, w_old = v.add(w, alpha=-above).add_(w_old, alpha=-epsilon).div_(pivot), w
        c, s, epsilon = gamma / pivot, beta / pivot, epsilon_next
        x.add_(w, alpha=c * phi)
        result.iterations = iteration
        phi *= s
        if beta > 0:
            u_old, u, v = u, q / beta, z / beta
            r.mul_(s * s).add_(u, alpha=-phi * c)
            if p is not r:
                p.mul_(s * s).add_(v, alpha=-phi * c)
        else:
            r.zero_()
            p.zero_()
        if phi <= max(atol, rtol * first if stop == "residual" else 0.0):
            result.status = KrylovStatus.CONVERGED
            break
    result.residual = phi
    # b'x - x'Ax/2 with A x = b - r.
    result.model_decrease = 0.5 * float(torch.dot(x, b + r))
    return result
