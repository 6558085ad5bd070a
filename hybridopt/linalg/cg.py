"""Preconditioned conjugate gradients with the exits that an optimizer needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from hybridopt.core.errors import ConfigError
from hybridopt.linalg.arithmetic import check_tolerances, check_vector, product, scalars_for
from hybridopt.linalg.result import KrylovResult, KrylovStatus

_GRID_RATIO = 1.3  # Martens (2010), section 4.6: iterates are kept at ceil(1.3^j)
_PROGRESS_WINDOW = 10  # Martens (2010), section 4.4: k = max(10, 0.1 i)


def cg(
    A: Any,
    b: Tensor,
    *,
    x0: Tensor | None = None,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
    rtol: float = 1e-5,
    atol: float = 0.0,
    max_iter: int | None = None,
    stop: Literal["residual", "progress"] = "residual",
    progress_tol: float = 5e-4,
    keep_iterates: bool = False,
    curvature_tol: float = 0.0,
) -> KrylovResult:
    """Solves ``A x = b`` for a symmetric operator A, or finds that A is not positive definite.

    Hestenes and Stiefel's method, which minimises the model ``x'Ax/2 - b'x`` over growing Krylov spaces.
    Every stop leaves a finite iterate; a zero right-hand side, an indefinite operator, a non-finite product
    and an indefinite preconditioner are statuses, not exceptions.

    Args:
        A: Symmetric operator of shape (n, n): anything with ``A @ v`` for v of shape (n,).
        b: Right-hand side, shape (n,), float32 or float64.
        x0: Where to start, shape (n,); zero by default. Anything else costs one product.
        preconditioner: Callable r -> M^{-1} r with M symmetric positive definite.
        rtol: Stops when ``||b - A x|| <= max(rtol ||b||, atol)``, in both modes.
        atol: See `rtol`.
        max_iter: Most iterations; 2 n by default.
        stop: ``"residual"``, or ``"progress"``, which adds the rule of Martens (2010, section 4.4): after
            iteration i > k = max(10, ceil(0.1 i)) stop when phi_i < 0 and (phi_i - phi_{i-k}) / phi_i < k
            `progress_tol`, where phi is the model.
        progress_tol: Relative decrease per iteration that still counts as progress.
        keep_iterates: Keeps copies of the iterates ceil(1.3^j) and the last one, for CG-backtracking.
        curvature_tol: Exits with ``negative_curvature`` when ``p'Ap <= curvature_tol p'p``.

    Returns:
        The result. On ``negative_curvature`` it holds the direction p and the iterate before it; p is a
        direction of descent of the model at that iterate.

    Raises:
        ConfigError: An option is out of its range, or a vector is not flat float32 or float64.

    Example:
        >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
        >>> result = cg(A, torch.tensor([1.0, 2.0], dtype=torch.float64))
        >>> print(result.status, result.products, [round(x, 6) for x in result.solution.tolist()])
        converged 2 [0.090909, 0.636364]
    """
    b = check_vector("b", b)
    n = b.numel()
    limit = check_tolerances(rtol, atol, max_iter, n)
    if stop not in ("residual", "progress"):
        raise ConfigError(f"stop must be 'residual' or 'progress', got {stop!r}.")
    scalars = scalars_for(b.device)
    (bb,) = scalars.read(scalars.dot(b, b))
    if bb == 0.0 or not math.isfinite(bb):
        status = KrylovStatus.ZERO_RHS if bb == 0.0 else KrylovStatus.NON_FINITE
        return KrylovResult(torch.zeros_like(b), status, 0.0, math.sqrt(bb) if bb >= 0 else math.nan, 0, 0)

    r = b.clone()
    products = 0
    decrease = 0.0
    if x0 is None:
        x = torch.zeros_like(b)
    else:
        x = check_vector("x0", x0).clone()
        r -= product(A, x)
        products = 1
        (decrease,) = scalars.read(0.5 * (scalars.dot(x, b) + scalars.dot(x, r)))
        if not math.isfinite(decrease):
            return KrylovResult(torch.zeros_like(b), KrylovStatus.NON_FINITE, 0.0, math.sqrt(bb), products, 0)

    z = r if preconditioner is None else preconditioner(r)
    rr, rz = scalars.read(scalars.dot(r, r), scalars.dot(r, z))
    result = KrylovResult(x, KrylovStatus.MAX_ITER, decrease, math.sqrt(rr), products, 0)
    target = max(rtol * rtol * bb, atol * atol)
    if rr <= target:
        result.status = KrylovStatus.CONVERGED
        return result
    if not rz > 0:
        result.status = KrylovStatus.INDEFINITE_PRECONDITIONER if rz <= 0 else KrylovStatus.NON_FINITE
        return result

    p = z.clone()
    largest = math.sqrt(torch.finfo(b.dtype).max)  # a longer step means that the curvature is zero to rounding
    decreases = [decrease]
    grid = 1.0
    for i in range(1, limit + 1):
        q = product(A, p)
        products += 1
        pq = scalars.dot(p, q)
        least = curvature_tol * scalars.dot(p, p) if curvature_tol else 0.0
        alpha = scalars.cg_step(rz, pq, least, largest)
        scalars.axpy_(x, alpha, p)
        scalars.axpy_(r, -alpha, q)
        z = r if preconditioner is None else preconditioner(r)
        rr_new = scalars.dot(r, r)
        rz_new = rr_new if z is r else scalars.dot(r, z)
        # The only host read of the iteration:
        pq, least, rr_new, rz_new = scalars.read(pq, least, rr_new, rz_new)

        if not math.isfinite(pq):
            result.status = KrylovStatus.NON_FINITE
            break
        if pq <= least or rz >= largest * pq:
            result.status = KrylovStatus.NEGATIVE_CURVATURE
            (pp,) = scalars.read(scalars.dot(p, p))
            result.curvature_direction, result.curvature = p, pq / pp
            break
        if not (math.isfinite(rr_new) and math.isfinite(rz_new)):
            scalars.axpy_(x, -alpha, p)
            result.status = KrylovStatus.NON_FINITE
            break
        decrease += 0.5 * rz * rz / pq
        rr = rr_new
        result.iterations = i
        if keep_iterates and i == math.ceil(grid):
            result.iterates.append((i, x.clone(), decrease))
            while math.ceil(grid) <= i:
                grid *= _GRID_RATIO
        if rr <= target:
            result.status = KrylovStatus.CONVERGED
            break
        if stop == "progress":
            decreases.append(decrease)
            if _stagnates(decreases, progress_tol):
                result.status = KrylovStatus.PROGRESS
                break
        if rz_new <= 0:
            result.status = KrylovStatus.INDEFINITE_PRECONDITIONER
            break
        torch.add(z, p, alpha=rz_new / rz, out=p)
        rz = rz_new

    result.model_decrease, result.residual, result.products = decrease, math.sqrt(rr), products
    if keep_iterates and (not result.iterates or result.iterates[-1][0] != result.iterations):
        result.iterates.append((result.iterations, x, decrease))
    return result


def _stagnates(decreases: list[float], tol: float) -> bool:
    """Martens' relative-progress rule; ``decreases[i]`` is -phi_i."""
    i = len(decreases) - 1
    window = max(_PROGRESS_WINDOW, math.ceil(0.1 * i))
    last = decreases[-1]
    return i > window and last > 0 and last - decreases[i - window] < window * tol * last
