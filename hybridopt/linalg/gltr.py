"""The trust-region subproblem in a Krylov space, solved exactly there: GLTR."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybridopt.core.errors import ConfigError
from hybridopt.linalg.arithmetic import check_tolerances, check_vector
from hybridopt.linalg.eigenpair import SpectrumWatch
from hybridopt.linalg.krylov_space import KrylovSpace
from hybridopt.linalg.result import KrylovResult, KrylovStatus
from hybridopt.linalg.secular import SmallMinimizer, trust_region_minimizer

_SPREAD = 0.05  # share of the spectrum's spread to which a random vector's smallest eigenvalue is found out
_WINDOW = 10  # Martens (2010), section 4.4: k = max(10, 0.1 i)
_HELD = 0.1  # share of lam ||s||^2 in the decrease from which on a step is no longer Newton's
_HARD = 0.1  # relative residual, to lam ||s||, of a step along a direction that g does not see

Minimise = Callable[..., SmallMinimizer]
"""(eigenvalues, slopes, noise=) -> minimiser of the small model."""


def gltr(
    A: Any,
    g: Tensor,
    radius: float,
    *,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
    rtol: float = 1e-5,
    atol: float = 0.0,
    max_iter: int | None = None,
    explore: bool = True,
    progress_tol: float = 0.0,
    generator: torch.Generator | None = None,
    space: KrylovSpace | None = None,
) -> KrylovResult:
    """Minimises ``g's + s'As/2`` over ``||s|| <= radius``, exactly in a growing Krylov space.

    The generalized Lanczos trust-region method (Gould, Lucidi, Roma and Toint 1999, algorithm 5.1). Where
    `hybridopt.linalg.steihaug` stops at the boundary, this goes on along it until the residual of the optimality
    condition ``(A + lam I) s = -g`` is small. Two things differ from the paper: the small problem is solved in the
    eigenbasis of T, which makes the nearly hard case no special one, and the basis is kept and reorthogonalized, so
    that it need not be run through twice and can be used again.

    When the Krylov space of g is invariant (or g = 0, so that there is none), it is continued from a random vector:
    a smaller eigenvalue that g does not see is found with probability one, and a negative one is followed to the
    boundary (the hard case). A convex problem then costs as many products more as it takes to know the smallest
    eigenvalue to a twentieth of the spectrum's spread with probability 0.99.

    Args:
        A: Symmetric operator of shape (n, n): anything with ``A @ v`` for v of shape (n,).
        g: Gradient of the model at zero, shape (n,), float32 or float64.
        radius: Radius of the trust region, > 0 and finite.
        preconditioner: Callable r -> M^{-1} r with M symmetric positive definite. The region is then
            ``sqrt(s'Ms) <= radius`` and residuals are measured by M^{-1}.
        rtol: Stops when ``||g + (A + lam I) s|| <= max(rtol ||g||, atol)``.
        atol: See `rtol`.
        max_iter: Most products; 2 n by default. Memory is this many vectors.
        explore: Whether an invariant space is continued.
        progress_tol: While ``lam ||s||^2`` exceeds a tenth of the decrease, the solve also ends, with ``progress``,
            when the last k = max(10, 0.1 m) of m vectors lowered the model by less than ``k progress_tol`` of its
            decrease (Martens 2010, section 4.4); 0 for never. Accuracy along the boundary does not speed up the
            convergence of the outer method, as that of a Newton step does.
        generator: Source of random vectors; the default generator otherwise.
        space: A space of the same A and g from an earlier call, with the preconditioner and generator it was made
            with. What it holds costs no products; it grows if need be.

    Returns:
        The result. `status` is ``converged`` (inside), ``boundary``, ``progress``, ``max_iter``, ``zero_rhs`` (g = 0
        and no negative curvature) or ``non_finite``; `multiplier` is lam; `norm` is ``sqrt(s'Ms)``; `model_decrease` is
        ``-(g's + s'As/2)``. Where the smallest Ritz value is negative it is `curvature`, and its Ritz vector, of unit
        length in the norm of the region, is `curvature_direction`. `products` counts those of this call.

    Raises:
        ConfigError: An option is out of its range, or g is not flat float32 or float64.

    Example:
        >>> A = torch.diag(torch.tensor([2.0, -1.0], dtype=torch.float64))
        >>> result = gltr(A, torch.tensor([1.0, 0.0], dtype=torch.float64), 2.0)
        >>> print(result.status, round(result.multiplier, 6), [round(abs(x), 6) for x in result.solution.tolist()])
        boundary 1.0 [0.333333, 1.972027]
    """
    if not 0 < radius < math.inf:
        raise ConfigError(f"radius must be positive and finite, got {radius}. Without a trust region use cg.")
    if space is None:
        space = KrylovSpace(A, g, preconditioner=preconditioner, generator=generator)
    minimise = partial(trust_region_minimizer, radius=radius)
    return solve_in(
        space, g, minimise, rtol=rtol, atol=atol, max_iter=max_iter, explore=explore, progress_tol=progress_tol
    )


def solve_in(
    space: KrylovSpace,
    g: Tensor,
    minimise: Minimise,
    *,
    rtol: float,
    atol: float,
    max_iter: int | None,
    explore: bool,
    progress_tol: float,
) -> KrylovResult:
    """Minimises a model in a Krylov space that grows until the minimiser is accurate; the core of `gltr`.

    Args:
        space: The space.
        g: Gradient of the model at zero, shape (n,).
        minimise: (eigenvalues, slopes, noise=) -> minimiser of the small model.
        rtol: Relative tolerance of the residual.
        atol: Absolute tolerance of the residual.
        max_iter: Most vectors in the space, or None for 2 n.
        explore: Whether an invariant space is continued from a random vector.
        progress_tol: Relative decrease per product below which a regularized solve ends, 0 for never.

    Returns:
        The result.

    Raises:
        ConfigError: A tolerance is out of its range.
    """
    g = check_vector("g", g)
    limit = check_tolerances(rtol, atol, max_iter, space.n)
    if not progress_tol >= 0:
        raise ConfigError(f"progress_tol must be a number >= 0, got {progress_tol}.")
    before, checked = space.products, 0
    small, residual, converged, progress = None, space.gamma, False, False
    watch = SpectrumWatch(space.n, 0.0, _SPREAD, 1e-2, None, 10.0 * space.eps)
    while space.finite and (explore or space.gamma > 0):
        if space.size:
            small, residual = _minimiser(space, minimise)
            checked = space.size
            target = max(rtol * space.gamma, atol)
            known = True
            if space.explored:
                target = max(target, _HARD * small.multiplier * small.norm)
                known = space.invariant or watch.judge(*space.block())
            if residual <= target and known:
                # Nothing is lower in this space; outside of an invariant one there may be.
                converged = not (explore and space.invariant and space.size < limit and space.explore())
            elif not space.explored and _stagnates(space, small, minimise, progress_tol):
                progress = True
            if converged or progress:
                break
        goal = min(limit, space.size + max(1, space.size // 10))
        while space.size < goal and space.grow():
            pass
        if space.size == checked:
            break
    if space.size > checked:
        small, residual = _minimiser(space, minimise)
    used = space.products - before
    if small is None or not (math.isfinite(small.norm) and math.isfinite(small.decrease)):
        status = KrylovStatus.MAX_ITER if space.finite else KrylovStatus.NON_FINITE
        status = KrylovStatus.ZERO_RHS if space.gamma == 0.0 and not explore else status
        return KrylovResult(torch.zeros_like(g), status, 0.0, space.gamma, used, 0, norm=0.0, multiplier=0.0)
    return _packed(space, small, converged, progress, residual, used)


def _minimiser(space: KrylovSpace, minimise: Minimise) -> tuple[SmallMinimizer, float]:
    """The minimiser in the space as it is, and its residual in R^n."""
    values, _, slopes = space.model()
    small = minimise(values, slopes, noise=space.noise)
    return small, space.residual(small.coefficients)


def _stagnates(space: KrylovSpace, small: SmallMinimizer, minimise: Minimise, tol: float) -> bool:
    """Martens' relative-progress rule for a step that is held back: the last k vectors brought less than k tol."""
    window = max(_WINDOW, math.ceil(0.1 * space.size))
    held = small.multiplier * small.norm**2 > _HELD * small.decrease
    if tol == 0.0 or not held or space.size <= window:
        return False
    values, _, slopes = space.model(space.size - window)
    before = minimise(values, slopes, noise=space.noise).decrease
    return small.decrease - before < window * tol * small.decrease


def _packed(
    space: KrylovSpace, small: SmallMinimizer, converged: bool, progress: bool, residual: float, used: int
) -> KrylovResult:
    """Lifts the small minimiser to R^n and says how it was reached."""
    values = space.model()[0]
    if not space.finite:
        status = KrylovStatus.NON_FINITE
    elif progress:
        status = KrylovStatus.PROGRESS
    elif not converged:
        status = KrylovStatus.MAX_ITER
    elif small.norm == 0.0:
        status = KrylovStatus.ZERO_RHS
    else:
        status = KrylovStatus.BOUNDARY if small.at_boundary else KrylovStatus.CONVERGED
    result = KrylovResult(
        space.lift(small.coefficients),
        status,
        small.decrease,
        residual,
        used,
        space.size,
        norm=small.norm,
        at_boundary=small.at_boundary,
        multiplier=small.multiplier,
    )
    if values[0] < -space.noise:
        lowest = np.zeros(space.size)
        lowest[0] = 1.0
        result.curvature, result.curvature_direction = float(values[0]), space.lift(lowest)
    return result
