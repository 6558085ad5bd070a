"""The smallest eigenvalue of a symmetric operator, with a bound on what a random start can have missed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigvalsh_tridiagonal
from torch import Tensor

from hybridopt.core.errors import ConfigError
from hybridopt.linalg.lanczos import lanczos
from hybridopt.linalg.result import KrylovStatus

_ROUNDING = 10.0  # units of rounding of ||A|| by which products may be off


@dataclass(slots=True)
class MinimumEigenpair:
    """An estimate of the smallest eigenvalue and what is known about it.

    Attributes:
        value: The smallest Ritz value: a Rayleigh quotient, hence an upper bound of the smallest eigenvalue.
            NaN when no product was finite.
        vector: Its Ritz vector of unit length, shape (n,), or None when there is none. Its sign is arbitrary.
        residual: ``||A v - value v||``: some eigenvalue lies within this distance of `value`.
        lower_bound: The smallest eigenvalue is at least this, with probability 1 - delta over the random
            start.
        largest: The largest Ritz value, a lower bound of the largest eigenvalue.
        products: Products with A used.
        converged: Whether ``value - lower_bound`` is within the tolerance.
        status: ``converged``, ``below_threshold``, ``above_threshold``, ``max_iter``, ``invariant`` (the
            Krylov space is exhausted but rounding keeps the tolerance out of reach) or ``non_finite``.
    """

    value: float
    vector: Tensor | None
    residual: float
    lower_bound: float
    largest: float
    products: int
    converged: bool
    status: KrylovStatus


def minimum_eigenpair(
    A: Any,
    n: int,
    *,
    tol: float,
    rtol: float = 0.0,
    delta: float = 1e-2,
    threshold: float | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    max_products: int | None = None,
) -> MinimumEigenpair:
    """Estimates the smallest eigenvalue by Lanczos from a random start, until it is known well enough.

    A small residual only shows that *some* eigenvalue is near. That no smaller one was missed can be known in
    probability. v_{m+1} = p_m(A) v_1 has unit length, so the start vector has a component of at most
    ``1 / |p_m(lam)|`` along an eigenvector with eigenvalue ``lam``, and p_m, a polynomial that the run itself
    supplies, grows without bound below the Ritz values. But a start vector uniform on the sphere has, with
    probability 1 - delta, a component of at least ``delta sqrt(pi / 2n)`` along it: no eigenvalue lies where
    ``|p_m|`` exceeds the inverse of that (van Dorsselaer, Hochstenbach and van der Vorst 2000). One event
    bounds all m at once, so stopping by it is sound. It takes about as many products as the a priori count of
    `lanczos_product_bound` on the worst spectra and far fewer on most; the worth of that count is that it is
    known beforehand.

    Args:
        A: Symmetric operator of shape (n, n): anything with ``A @ v`` for v of shape (n,).
        n: Its size.
        tol: Absolute accuracy wanted: ``converged`` when ``value - lower_bound <= tol`` (or within `rtol`).
        rtol: The same relative to the spread ``largest - value`` of the spectrum.
        delta: Probability of failure that is tolerated, in (0, 1).
        threshold: Where only the side matters: stops as soon as the smallest eigenvalue is known to lie below
            (certain) or above (with probability 1 - delta) this value.
        generator: Source of the start vector; the default generator otherwise. It may live on another device.
        dtype: float32 or float64. With float32 the bound allows for products that are off by 10 eps of ||A||.
        device: Where the vectors live.
        max_products: Most products; n by default. Memory is this many vectors.

    Returns:
        The estimate.

    Raises:
        ConfigError: An option is out of its range.

    Example:
        >>> A = torch.diag(torch.linspace(-1.0, 1.0, 200, dtype=torch.float64))
        >>> generator = torch.Generator().manual_seed(0)
        >>> pair = minimum_eigenpair(A, 200, tol=1e-3, generator=generator, dtype=torch.float64)
        >>> pair.converged, abs(pair.value + 1.0) < 1e-3, pair.products < 100
        (True, True, True)
    """
    if not (tol >= 0 and rtol >= 0 and 0 < delta < 1):
        raise ConfigError(f"tol and rtol must be >= 0 and delta in (0, 1), got {tol=}, {rtol=}, {delta=}.")
    if n < 1 or (max_products is not None and max_products < 1):
        raise ConfigError(f"n and max_products must be at least 1, got {n=}, {max_products=}.")
    source = torch.device(device) if generator is None else generator.device
    start = torch.randn(n, generator=generator, dtype=dtype, device=source).to(device)
    rounding = _ROUNDING * torch.finfo(dtype).eps
    watch = SpectrumWatch(n, tol, rtol, delta, threshold, rounding)
    run = lanczos(A, start, n if max_products is None else max_products, callback=watch)
    if not run.alphas.numel():
        return MinimumEigenpair(
            math.nan, None, math.nan, -math.inf, math.nan, run.products, False, KrylovStatus.NON_FINITE
        )
    if run.status != KrylovStatus.STOPPED:
        watch.judge(run.alphas.numpy(), run.betas.numpy())
    return MinimumEigenpair(
        value=watch.value,
        vector=run.ritz_vector(0),
        residual=run.residuals[0].item(),
        lower_bound=watch.lower_bound,
        largest=watch.largest,
        products=run.products,
        converged=watch.converged,
        status=run.status if watch.verdict is None else watch.verdict,
    )


def lanczos_product_bound(n: int, epsilon: float, delta: float) -> int:
    """Returns how many products Lanczos needs at most, known before it starts.

    Kuczynski and Wozniakowski (1992, theorem 4.2): after k products from a start vector uniform on the
    sphere, the probability that the extreme eigenvalue is missed by more than `epsilon` times the spread of
    the spectrum is at most ``1.648 sqrt(n) exp(-(2k - 1) sqrt(epsilon))``. Hence k = ceil(1/2 + ln(1.648
    sqrt(n) / delta) / (2 sqrt(epsilon))). With ||A|| <= M and an absolute accuracy eps / 2, that is epsilon =
    eps / 4M, this is the count ``1 + ceil(ln(2.75 n / delta^2) / 2 sqrt(M / eps))`` of Royer, O'Neill and
    Wright (2020, lemma 10) but for rounding.

    Args:
        n: Size of the operator.
        epsilon: Accuracy relative to the spread ``lambda_max - lambda_min``, in (0, 1].
        delta: Probability of failure, in (0, 1).

    Returns:
        The number of products, at most n.

    Raises:
        ConfigError: An argument is out of its range.

    Example:
        >>> lanczos_product_bound(10_000, 1e-2, 1e-2)
        50
    """
    if n < 1 or not (0 < epsilon <= 1 and 0 < delta < 1):
        raise ConfigError(f"n must be >= 1, epsilon in (0, 1] and delta in (0, 1), got {n=}, {epsilon=}, {delta=}.")
    return min(n, math.ceil(0.5 + math.log(1.648 * math.sqrt(n) / delta) / (2.0 * math.sqrt(epsilon))))


class SpectrumWatch:
    """Looks at T at growing intervals and says when enough is known; the callback of `lanczos`."""

    def __init__(self, n: int, tol: float, rtol: float, delta: float, threshold: float | None, rounding: float) -> None:
        self.n, self.tol, self.rtol, self.threshold, self.rounding = n, tol, rtol, threshold, rounding
        # P(|component| < t) is at most t sqrt(2 (n - 1) / pi) for n >= 3, where the density is largest at
        # zero, and at most t for n = 2.
        self.log_component = min(0.0, math.log(delta) + 0.5 * math.log(math.pi / (2.0 * n)))
        self.next = 1
        self.value = self.largest = math.nan
        self.lower_bound = -math.inf
        self.converged = False
        self.verdict: KrylovStatus | None = None

    def __call__(self, alphas: np.ndarray, betas: np.ndarray) -> bool:
        """Returns whether to stop; looks at most every tenth of the steps made."""
        m = alphas.size
        if m < self.next:
            return False
        self.next = m + max(1, m // 10)
        return self.judge(alphas, betas)

    def judge(self, alphas: np.ndarray, betas: np.ndarray) -> bool:
        """Updates value, bounds and verdict from T; returns whether there is a verdict."""
        values = eigvalsh_tridiagonal(alphas, betas[:-1], check_finite=False)
        self.value, self.largest = float(values[0]), float(values[-1])
        slack = self.rounding * max(abs(self.value), abs(self.largest))
        gap = 0.0 if alphas.size == self.n else _possible_gap(values, np.maximum(betas, slack), self.log_component)
        self.lower_bound = self.value - gap - slack
        self.converged = self.value - self.lower_bound <= max(self.tol, self.rtol * (self.largest - self.value))
        self.verdict = None
        if self.threshold is not None and self.value < self.threshold - slack:
            self.verdict = KrylovStatus.BELOW_THRESHOLD
        elif self.threshold is not None and self.lower_bound >= self.threshold:
            self.verdict = KrylovStatus.ABOVE_THRESHOLD
        elif self.converged:
            self.verdict = KrylovStatus.CONVERGED
        return self.verdict is not None


def _possible_gap(values: np.ndarray, betas: np.ndarray, log_component: float) -> float:
    """Returns how far below the smallest Ritz value an eigenvalue may hide.

    Solves ``log |p_m(theta_1 - s)| = -log_component`` for s > 0, where p_m is the m-th orthonormal Lanczos
    polynomial, ``|p_m(lam)| = prod |theta_i - lam| / prod beta_i``.

    Args:
        values: Ritz values, ascending, shape (m,).
        betas: Off-diagonal of T and last residual norm, shape (m,).
        log_component: Logarithm of the least component of the start vector.

    Returns:
        s; zero when the residual is zero.
    """
    if betas.min() <= 0.0:
        return 0.0
    goal = float(np.log(betas).sum()) - log_component
    gaps = values - values[0]
    # In u = log s the left side is convex with slope in [1, m]: Newton falls monotonically from above.
    u = goal / values.size
    floor = np.log(gaps[1:]).sum() if gaps.size > 1 and gaps[1] > 0 else -math.inf
    u = min(u, goal - floor)
    for _ in range(100):
        s = math.exp(u)
        terms = gaps + s
        step = (float(np.log(terms).sum()) - goal) / float((s / terms).sum())
        u -= step
        if abs(step) <= 1e-10:
            break
    return math.exp(u)
