"""Conjugate gradients with a cap on what non-convexity can cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core.errors import ConfigError
from hybridopt.linalg.arithmetic import check_vector, product, scalars_for
from hybridopt.linalg.result import KrylovResult, KrylovStatus

_LEAST_TOLERANCE = 10.0  # units of rounding below which a relative residual is not reached


def capped_cg(
    A: Any,
    g: Tensor,
    epsilon: float,
    *,
    zeta: float = 0.5,
    bound: float = 0.0,
    max_iter: int | None = None,
) -> KrylovResult:
    """Solves ``(A + 2 epsilon I) d = -g``, or finds d with ``d'Ad < -epsilon d'd`` (Royer, O'Neill and Wright 2020).

    Algorithm 1 of the paper. Four tests end the iteration, in this order: the iterate y has curvature below epsilon
    in the damped operator B = A + 2 epsilon I; the residual is at most ``zeta / (3 kappa) ||g||``; the search
    direction p has such curvature; or the residual falls more slowly than it could on an operator that has not
    (``||r_j|| > sqrt(T) tau^{j/2} ||r_0||``), and then the difference of the next iterate and an earlier one has. With
    an estimate M of ||A||, ``kappa = (M + 2 epsilon) / epsilon``, ``tau = sqrt(kappa) / (sqrt(kappa) + 1)`` and
    ``T = 4 kappa^4 / (1 - sqrt(tau))^2``.

    Each iteration costs one product. For the last test the paper keeps all iterates or computes them again; here the
    residuals are kept, one vector an iteration, and the iterates are rebuilt from them without products.

    Args:
        A: Symmetric operator of shape (n, n): anything with ``A @ v`` for v of shape (n,).
        g: Gradient of the model at zero, shape (n,), float32 or float64.
        epsilon: Half of the damping, and the least negative curvature that counts, > 0.
        zeta: Relative accuracy, in (0, 1).
        bound: First estimate M of ||A||, >= 0; raised to every ratio ||A v|| / ||v|| that is met.
        max_iter: Most iterations; 2 n by default.

    Returns:
        The result. `solution` is d, ``converged``, or the last iterate on ``max_iter``; on ``negative_curvature``,
        `curvature_direction` is the direction d, `curvature` is ``d'Ad / d'd`` in the undamped operator, below
        -epsilon, and `curvature_source` is ``direction``, ``iterate`` or ``pair``. `residual` and `model_decrease`
        are those of the damped system at `solution`.

    Raises:
        ConfigError: An option is out of its range, or g is not flat float32 or float64.

    Example:
        >>> A = torch.diag(torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64))
        >>> result = capped_cg(A, torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64), 1e-2)
        >>> print(result.status, result.curvature < -1e-2)
        negative_curvature True
    """
    g = check_vector("g", g)
    if not 0 < epsilon < math.inf:
        raise ConfigError(f"epsilon must be positive and finite, got {epsilon}; 1e-4 suits gradients of 1e-8.")
    if not (0 < zeta < 1 and 0 <= bound < math.inf):
        raise ConfigError(f"zeta must lie in (0, 1) and bound must be finite and >= 0, got {zeta=}, {bound=}.")
    if max_iter is not None and max_iter < 0:
        raise ConfigError(f"max_iter must be >= 0 or None (twice the length of the vectors), got {max_iter}.")
    scalars = scalars_for(g.device)
    (gg,) = scalars.read(scalars.dot(g, g))
    y = torch.zeros_like(g)
    if not (gg > 0 and math.isfinite(gg)):
        status = KrylovStatus.ZERO_RHS if gg == 0 else KrylovStatus.NON_FINITE
        return KrylovResult(y, status, 0.0, math.sqrt(gg) if gg >= 0 else math.nan, 0, 0)
    run = _Run(A, g, gg, epsilon, zeta, bound)
    run.iterate(2 * g.numel() if max_iter is None else max_iter)
    return run.result


@dataclass(slots=True)
class _Cap:
    """The constants that follow from the estimate M of ||A||."""

    bound: float
    epsilon: float
    zeta: float
    least: float

    def raise_to(self, *squares: tuple[float, float]) -> None:
        """Raises M to ``||A v|| / ||v||``, given as pairs of squares."""
        for product_square, square in squares:
            if square > 0 and product_square > self.bound**2 * square:
                self.bound = math.sqrt(product_square / square)

    @property
    def kappa(self) -> float:
        return (self.bound + 2.0 * self.epsilon) / self.epsilon

    @property
    def tolerance(self) -> float:
        """Relative residual that ends the solve, but no less than rounding allows."""
        return max(self.zeta / (3.0 * self.kappa), self.least)

    def too_slow(self, relative_residual: float, iteration: int) -> bool:
        """Whether the residual is above what a positive definite operator allows after so many iterations."""
        root = math.sqrt(self.kappa)
        tau = root / (root + 1.0)
        # sqrt(T) = 2 kappa^2 / (1 - sqrt(tau)), where the difference is written without cancellation.
        log_T = math.log(2.0 * self.kappa**2 * (1.0 + math.sqrt(tau)) * (root + 1.0))
        return math.log(max(relative_residual, math.ulp(0.0))) > log_T + 0.5 * iteration * math.log(tau)


class _Run:
    """One solve: vectors, recurrences, and the tests in the paper's order."""

    def __init__(self, A: Any, g: Tensor, gg: float, epsilon: float, zeta: float, bound: float) -> None:
        self.A, self.epsilon = A, epsilon
        self.scalars = scalars_for(g.device)
        self.cap = _Cap(bound, epsilon, zeta, _LEAST_TOLERANCE * torch.finfo(g.dtype).eps)
        self.y, self.r, self.p = torch.zeros_like(g), g.clone(), -g
        self.Ay, self.first = torch.zeros_like(g), gg
        self.residuals, self.alphas, self.betas = [g.clone()], [], []
        self.result = KrylovResult(self.y, KrylovStatus.MAX_ITER, 0.0, math.sqrt(gg), 0, 0)

    def iterate(self, limit: int) -> None:
        """Runs to one of the exits."""
        result, cap, epsilon = self.result, self.cap, self.epsilon
        rr, decrease, beta, Ap_old = self.first, 0.0, 0.0, None
        dot = self.scalars.dot
        for j in range(limit + 1):
            result.iterations = j
            if j == limit:
                if rr <= cap.tolerance**2 * self.first:
                    result.status = KrylovStatus.CONVERGED
                break
            p, y = self.p, self.y
            Ap = product(self.A, p)
            result.products += 1
            # A r follows from r = beta p_old - p.
            Ar = Ap if Ap_old is None else torch.sub(beta * Ap_old, Ap)
            # The first of two host reads of the iteration:
            pAp, pp, ApAp, yAy, yy, AyAy, ArAr = self.scalars.read(
                *(dot(p, Ap), dot(p, p), dot(Ap, Ap)),
                *(dot(y, self.Ay), dot(y, y), dot(self.Ay, self.Ay), dot(Ar, Ar)),
            )
            if not (math.isfinite(pAp) and math.isfinite(ApAp)):
                result.status = KrylovStatus.NON_FINITE
                break
            curvature = pAp + 2.0 * epsilon * pp  # p'Bp
            cap.raise_to((ApAp, pp), (AyAy, yy), (ArAr, rr))
            if yAy + 2.0 * epsilon * yy < epsilon * yy:
                self._found(y.clone(), yAy / yy, "iterate")
                break
            if rr <= cap.tolerance**2 * self.first:
                result.status = KrylovStatus.CONVERGED
                break
            if curvature < epsilon * pp:
                self._found(p, pAp / pp, "direction")
                break
            slow = cap.too_slow(math.sqrt(rr / self.first), j)
            alpha = rr / curvature
            y.add_(p, alpha=alpha)
            self.Ay.add_(Ap, alpha=alpha)
            self.r.add_(Ap, alpha=alpha).add_(p, alpha=2.0 * epsilon * alpha)
            self.residuals.append(self.r.clone())
            self.alphas.append(alpha)
            decrease += 0.5 * alpha * rr
            if slow and self._pair():
                break
            (rr_new,) = self.scalars.read(dot(self.r, self.r))
            beta = rr_new / rr
            self.betas.append(beta)
            Ap_old = Ap
            self.p = torch.sub(beta * p, self.r)
            rr = rr_new
        result.model_decrease, result.residual = decrease, math.sqrt(rr)

    def _found(self, direction: Tensor, curvature: float, source: str) -> None:
        result = self.result
        result.status = KrylovStatus.NEGATIVE_CURVATURE
        result.curvature_direction, result.curvature, result.curvature_source = direction, curvature, source

    def _pair(self) -> bool:
        """Looks for an earlier iterate from which the last one is reached along negative curvature."""
        best, earlier = math.inf, torch.zeros_like(self.y)
        chosen: Tensor | None = None
        p = -self.residuals[0]
        last = self.residuals[-1]
        for i in range(len(self.alphas) - 1):
            difference = self.y - earlier
            # B (y_{j+1} - y_i) = r_{j+1} - r_i
            bend, square = self.scalars.read(
                self.scalars.dot(difference, last - self.residuals[i]), self.scalars.dot(difference, difference)
            )
            if square > 0 and bend / square < best:
                best, chosen = bend / square, difference
            earlier = torch.add(earlier, p, alpha=self.alphas[i])
            if i < len(self.betas):
                p = torch.sub(self.betas[i] * p, self.residuals[i + 1])
        if chosen is None or not best < self.epsilon:
            return False  # by the paper's theorem 2 there is one; with rounding, not always
        self._found(chosen, best - 2.0 * self.epsilon, "pair")
        return True
