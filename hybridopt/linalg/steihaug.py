"""Steihaug and Toint's truncated conjugate gradients for the trust-region subproblem."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hybridopt.core.errors import ConfigError
from hybridopt.linalg.arithmetic import check_tolerances, check_vector, product, scalars_for
from hybridopt.linalg.result import KrylovResult, KrylovStatus


def steihaug(
    A: Any,
    g: Tensor,
    radius: float,
    *,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
    rtol: float = 1e-5,
    atol: float = 0.0,
    max_iter: int | None = None,
) -> KrylovResult:
    """Minimises ``g's + s'As/2`` over ``||s|| <= radius``, approximately.

    Conjugate gradients that stop on the boundary as soon as an iterate would leave the region or a direction
    p of non-positive curvature is met (Steihaug 1983; Toint 1981; Conn, Gould and Toint 2000, algorithm
    7.5.1). In the second case both ends of the line through the iterate are compared and the lower one is
    taken. Norms of the iterates and the model decrease come from recurrences: no product and no inner product
    is spent on them.

    The method sees only the Krylov space of g: negative curvature orthogonal to it is missed, and with g = 0
    it returns ``zero_rhs``.

    Args:
        A: Symmetric operator of shape (n, n): anything with ``A @ v`` for v of shape (n,).
        g: Gradient of the model at zero, shape (n,), float32 or float64.
        radius: Radius of the trust region, > 0 and finite (without a region use `hybridopt.linalg.cg`).
        preconditioner: Callable r -> M^{-1} r with M symmetric positive definite. The region is then
            ``sqrt(s'Ms) <= radius``.
        rtol: Stops inside when ``||g + A s|| <= max(rtol ||g||, atol)``.
        atol: See `rtol`.
        max_iter: Most iterations; 2 n by default.

    Returns:
        The result: `solution` is s, `model_decrease` is ``-(g's + s'As/2)``, `norm` is ``sqrt(s'Ms)``, and
        `at_boundary` says whether the step ended on the boundary. On ``negative_curvature`` the direction is
        p.

    Raises:
        ConfigError: An option is out of its range, or g is not flat float32 or float64.

    Example:
        >>> A = torch.diag(torch.tensor([2.0, -1.0], dtype=torch.float64))
        >>> result = steihaug(A, torch.tensor([1.0, 2.0], dtype=torch.float64), 2.0)
        >>> print(result.status, result.at_boundary, round(result.norm, 6))
        negative_curvature True 2.0
    """
    g = check_vector("g", g)
    limit = check_tolerances(rtol, atol, max_iter, g.numel())
    if not 0 < radius < math.inf:
        raise ConfigError(f"radius must be positive and finite, got {radius}. Without a trust region use cg.")
    scalars = scalars_for(g.device)
    r = -g
    s = torch.zeros_like(g)
    (gg,) = scalars.read(scalars.dot(g, g))
    if gg == 0.0 or not math.isfinite(gg):
        status = KrylovStatus.ZERO_RHS if gg == 0.0 else KrylovStatus.NON_FINITE
        return KrylovResult(s, status, 0.0, math.sqrt(gg) if gg >= 0 else math.nan, 0, 0, norm=0.0)
    z = r if preconditioner is None else preconditioner(r)
    (rz,) = scalars.read(scalars.dot(r, z))
    rr = gg
    target = max(rtol * rtol * gg, atol * atol)
    result = KrylovResult(s, KrylovStatus.MAX_ITER, 0.0, math.sqrt(rr), 0, 0, norm=0.0)
    if rr <= target:
        result.status = KrylovStatus.CONVERGED
        return result
    if not rz > 0:
        result.status = KrylovStatus.INDEFINITE_PRECONDITIONER if rz <= 0 else KrylovStatus.NON_FINITE
        return result

    p = z.clone()
    decrease = 0.0
    ss, sp, pp = 0.0, 0.0, rz  # s'Ms, s'Mp, p'Mp
    for i in range(1, limit + 1):
        q = product(A, p)
        pq = scalars.dot(p, q)
        forward, backward, flip = _crossings(ss, sp, pp, radius)
        alpha = scalars.trust_step(rz, pq, forward, backward, flip)
        scalars.axpy_(s, alpha, p)
        scalars.axpy_(r, -alpha, q)
        z = r if preconditioner is None else preconditioner(r)
        rr_new = scalars.dot(r, r)
        rz_new = rr_new if z is r else scalars.dot(r, z)
        # The only host read of the iteration:
        pq, rr_new, rz_new, step = scalars.read(pq, rr_new, rz_new, alpha)
        result.products = i

        if not (math.isfinite(pq) and math.isfinite(rr_new) and math.isfinite(rz_new)):
            scalars.axpy_(s, -alpha, p)
            result.status = KrylovStatus.NON_FINITE
            break
        result.iterations = i
        decrease += step * (rz - 0.5 * step * pq)
        ss += step * (2.0 * sp + step * pp)
        rr = rr_new
        if pq <= 0:
            result.status = KrylovStatus.NEGATIVE_CURVATURE
            (length,) = scalars.read(scalars.dot(p, p))
            result.curvature_direction, result.curvature = p, pq / length
            result.at_boundary = True
            break
        if step >= forward:
            result.status = KrylovStatus.BOUNDARY
            result.at_boundary = True
            break
        if rr <= target:
            result.status = KrylovStatus.CONVERGED
            break
        if rz_new <= 0:
            result.status = KrylovStatus.INDEFINITE_PRECONDITIONER
            break
        beta = rz_new / rz
        torch.add(z, p, alpha=beta, out=p)
        sp = beta * (sp + step * pp)
        pp = rz_new + beta * beta * pp
        rz = rz_new

    result.norm = radius if result.at_boundary else math.sqrt(ss)
    result.model_decrease, result.residual = decrease, math.sqrt(rr)
    return result


def _crossings(ss: float, sp: float, pp: float, radius: float) -> tuple[float, float, float]:
    """Where the line s + t p leaves the region.

    Returns:
        The positive root, the negative root, and sp / pp, with which the ends compare: the model along p is
        -t rz + t^2 pq / 2, and the two roots sum to -2 sp / pp, so the backward end is lower when -(sp / pp)
        pq > rz.
    """
    room = max(radius * radius - ss, 0.0)
    root = math.sqrt(sp * sp + pp * room)
    # Of the two forms of the positive root the one without cancellation; sp + root = 0 only without room.
    forward = (root - sp) / pp if sp <= 0 else room / (sp + root)
    return forward, -(root + sp) / pp, sp / pp
