"""What a Krylov solver hands back: one record and one vocabulary for how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from torch import Tensor


class KrylovStatus(StrEnum):
    """How a Krylov solver ended. Members are strings: ``result.status == "converged"`` holds.

    Attributes:
        CONVERGED: The residual (or, for eigenvalues, the error bound) fell below its tolerance.
        PROGRESS: Martens' relative-progress rule fired: further iterations hardly lower the quadratic.
        MAX_ITER: The iterations or products that were allowed are used up.
        NEGATIVE_CURVATURE: A direction p with p'Ap <= 0 (up to the curvature tolerance) was met.
        BOUNDARY: The minimiser along the last direction lies outside the trust region; the step ends on the
            boundary.
        INVARIANT: The Krylov space is invariant under the operator: its Ritz pairs are eigenpairs.
        STOPPED: The caller's callback ended the run.
        BELOW_THRESHOLD: A Ritz value lies below the threshold that was asked about, hence an eigenvalue does
            too.
        ABOVE_THRESHOLD: All eigenvalues lie above the threshold with the probability that was asked for.
        ZERO_RHS: The right-hand side (or start vector) is zero: the solution is zero, nothing was divided by
            it.
        INDEFINITE_PRECONDITIONER: r'M^{-1}r <= 0 for a residual r that is not zero.
        NON_FINITE: A product was NaN or infinite; the solution is the last finite iterate.
    """

    CONVERGED = "converged"
    PROGRESS = "progress"
    MAX_ITER = "max_iter"
    NEGATIVE_CURVATURE = "negative_curvature"
    BOUNDARY = "boundary"
    INVARIANT = "invariant"
    STOPPED = "stopped"
    BELOW_THRESHOLD = "below_threshold"
    ABOVE_THRESHOLD = "above_threshold"
    ZERO_RHS = "zero_rhs"
    INDEFINITE_PRECONDITIONER = "indefinite_preconditioner"
    NON_FINITE = "non_finite"


@dataclass(slots=True)
class KrylovResult:
    """The end of a Krylov solve of ``A x = b`` or of a trust-region subproblem (then ``b = -g``).

    Attributes:
        solution: The iterate, shape (n,), always finite.
        status: How the solve ended, a `KrylovStatus`.
        model_decrease: ``b'x - x'Ax/2``, by how much the quadratic model is lower at `solution` than at zero.
            Summed from positive terms, so it is accurate without a further product. Never negative unless a
            warm start that is worse than zero was left early.
        residual: ``||b - A x||`` at `solution`, from the recurrence.
        products: Products with A used, the one of a warm start included.
        iterations: Iterations that moved the solution.
        curvature_direction: With status ``negative_curvature`` the direction p, shape (n,); else None. GLTR and
            cubic models give the lowest Ritz vector with any status, where its Ritz value is negative.
        curvature: ``p'Ap / p'p`` of that direction; else None.
        curvature_source: Which test of `capped_cg` found it, ``direction``, ``iterate`` or ``pair``; else None.
        norm: Norm of `solution` in the metric of the trust region or of the cubic term; else None.
        multiplier: lam in ``(A + lam I) x = b`` (GLTR and cubic models); else None.
        at_boundary: Whether `solution` lies on the boundary of the trust region.
        iterates: Kept iterates as ``(iteration, x, model_decrease)``, only if asked for; the last one is
            `solution`.
    """

    solution: Tensor
    status: KrylovStatus
    model_decrease: float
    residual: float
    products: int
    iterations: int
    curvature_direction: Tensor | None = None
    curvature: float | None = None
    curvature_source: str | None = None
    norm: float | None = None
    multiplier: float | None = None
    at_boundary: bool = False
    iterates: list[tuple[int, Tensor, float]] = field(default_factory=list)
