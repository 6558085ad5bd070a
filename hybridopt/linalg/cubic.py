"""The cubic-regularized subproblem in a Krylov space, solved exactly there."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hybridopt.core.errors import ConfigError
from hybridopt.linalg.gltr import solve_in
from hybridopt.linalg.krylov_space import KrylovSpace
from hybridopt.linalg.result import KrylovResult
from hybridopt.linalg.secular import cubic_minimizer


def cubic_minimize(
    A: Any,
    g: Tensor,
    sigma: float,
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
    """Minimises ``g's + s'As/2 + sigma ||s||^3 / 3`` over all s, exactly in a growing Krylov space.

    The Lanczos approach of Cartis, Gould and Toint (2011, section 6.2) to the model of adaptive cubic
    regularization, with the small problem solved in the eigenbasis of T. Invariant spaces, the hard case and the use
    of one space for several sigma are as in `hybridopt.linalg.gltr`.

    Args:
        A: Symmetric operator of shape (n, n): anything with ``A @ v`` for v of shape (n,).
        g: Gradient of the model at zero, shape (n,), float32 or float64.
        sigma: Weight of the cubic term, > 0 and finite.
        preconditioner: Callable r -> M^{-1} r with M symmetric positive definite. The cubic term is then
            ``(s'Ms)^{3/2}`` and residuals are measured by M^{-1}.
        rtol: Stops when the model's gradient ``||g + A s + sigma ||s|| s||`` is at most ``max(rtol ||g||, atol)``.
        atol: See `rtol`.
        max_iter: Most products; 2 n by default. Memory is this many vectors.
        explore: Whether an invariant space is continued from a random vector.
        progress_tol: As in `gltr`.
        generator: Source of random vectors; the default generator otherwise.
        space: A space of the same A and g from an earlier call.

    Returns:
        The result, as of `gltr`: `multiplier` is ``sigma ||s||``, `at_boundary` is False, and `model_decrease`, that
        of the cubic model, is ``-(g's + s'As/2 + sigma ||s||^3 / 3)``.

    Raises:
        ConfigError: An option is out of its range, or g is not flat float32 or float64.

    Example:
        >>> A = torch.diag(torch.tensor([2.0, -1.0], dtype=torch.float64))
        >>> result = cubic_minimize(A, torch.tensor([3.0, 0.0], dtype=torch.float64), 0.5)
        >>> print(result.status, round(result.multiplier, 6), [round(abs(x), 6) for x in result.solution.tolist()])
        converged 1.0 [1.0, 1.732051]
    """
    if not 0 < sigma < math.inf:
        raise ConfigError(f"sigma must be positive and finite, got {sigma}. Without a cubic term use cg.")
    if space is None:
        space = KrylovSpace(A, g, preconditioner=preconditioner, generator=generator)
    minimise = partial(cubic_minimizer, sigma=sigma)
    return solve_in(
        space, g, minimise, rtol=rtol, atol=atol, max_iter=max_iter, explore=explore, progress_tol=progress_tol
    )
