"""Randomized Nystrom approximation: the top of a spectrum, and a preconditioner from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hybridopt.core.errors import ConfigError, NonFiniteError
from hybridopt.linalg.arithmetic import product
from hybridopt.linalg.operator import SymmetricOperator


class NystromApproximation(SymmetricOperator):
    """``U diag(values) U'``, an approximation of low rank, and the preconditioner of the damped operator.

    Made by `nystrom`; the parts may also be given, as when they were kept in a state.

    Args:
        vectors: U with orthonormal columns, shape (n, s).
        values: Approximate eigenvalues, descending and not negative, shape (s,).

    Attributes:
        vectors: U.
        values: The approximate eigenvalues.

    Raises:
        ConfigError: If the shapes do not fit.

    Example:
        >>> A = torch.diag(torch.tensor([100.0, 10.0, 1e-3, 1e-3], dtype=torch.float64))
        >>> approximation = nystrom(A, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> [round(value, 2) for value in approximation.values[:2].tolist()]
        [100.0, 10.0]
    """

    positive_semidefinite = True

    def __init__(self, vectors: Tensor, values: Tensor) -> None:
        if vectors.dim() != 2 or values.shape != (vectors.shape[1],):
            raise ConfigError(
                "A Nystrom approximation needs vectors of shape (n, s) and values of shape (s,), got "
                f"{tuple(vectors.shape)} and {tuple(values.shape)}."
            )
        super().__init__(vectors.shape[0], dtype=vectors.dtype, device=vectors.device)
        self.vectors, self.values = vectors, values

    @property
    def rank(self) -> int:
        """Number of columns s."""
        return self.values.numel()

    def _matvec(self, vector: Tensor) -> Tensor:
        return self.vectors @ (self.values * (self.vectors.T @ vector))

    def inverse_apply(self, vector: Tensor, mu: float) -> Tensor:
        """Returns P^{-1} v with the preconditioner of ``A + mu I`` (Frangella, Tropp and Udell 2023, equation 1.3).

        ``P^{-1} = (values_s + mu) U (diag(values) + mu)^{-1} U' + (I - U U')``: on the range of U the inverse of the
        damped approximation, scaled so that it joins the identity outside at its smallest eigenvalue.

        Args:
            vector: Shape (n,).
            mu: Damping, > 0.

        Raises:
            ConfigError: If mu is not positive.
        """
        if not mu > 0:
            raise ConfigError(f"The Nystrom preconditioner needs a damping mu > 0, got {mu}.")
        inside = self.vectors.T @ vector
        factors = (self.values[-1] + mu) / (self.values + mu) - 1.0
        return vector + self.vectors @ (factors * inside)


def nystrom(
    A: Any,
    n: int,
    rank: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> NystromApproximation:
    """Approximates a positive semidefinite operator by ``(A Q) (Q'AQ)^+ (A Q)'`` with a random orthonormal Q.

    The stable form of Frangella, Tropp and Udell (2023, algorithm 2.1): A is shifted by the rounding of ``A Q`` for a
    Cholesky factorization, and the shift is taken off the eigenvalues again. For an indefinite operator the shift
    is raised by twice the size of the smallest eigenvalue of Q'AQ, where that is negative: large positive eigenvalues
    are then found but for a few times that much, negative ones are left out. Rathore et al. (2024, appendix E.2)
    raise it by once that size, which leaves the shifted matrix singular and makes up eigenvalues far above the true.

    Args:
        A: Symmetric operator of shape (n, n): anything with ``A @ v`` for v of shape (n,).
        n: Its size.
        rank: Number of products, and of columns; at most n are made.
        generator: Source of the random vectors; the default generator otherwise. It may live on another device.
        dtype: float32 or float64, that of the products.
        device: Where the vectors live.

    Returns:
        The approximation. In exact arithmetic and for a positive semidefinite A it lies below A, and is as good in
        the mean as the best one of somewhat smaller rank (proposition 2.2 of the paper).

    Raises:
        ConfigError: If n or the rank is not positive.
        NonFiniteError: If a product is not finite.
    """
    if n < 1 or rank < 1:
        raise ConfigError(f"n and rank must be at least 1, got {n=}, {rank=}.")
    source = torch.device("cpu") if generator is None else generator.device
    sample = torch.randn(n, min(rank, n), generator=generator, dtype=torch.float64, device=source)
    Q = torch.linalg.qr(sample.to(device, dtype)).Q
    Y = torch.stack([product(A, column) for column in Q.T.contiguous()], dim=1)
    core = (Q.T @ Y).double()
    core = 0.5 * (core + core.T)
    # The two host reads: whether all is finite, and how far the core is from positive definite.
    size = float(torch.linalg.matrix_norm(Y.double()))
    if not size < float("inf"):
        raise NonFiniteError("The operator's products are not finite, so it has no Nystrom approximation.")
    shift = torch.finfo(dtype).eps * size
    if size > 0.0:
        shift += max(0.0, -2.0 * float(torch.linalg.eigvalsh(core)[0]))
        core.diagonal().add_(shift)
        factor = torch.linalg.cholesky(core).to(Y)
        Y = Y + shift * Q
        B = torch.linalg.solve_triangular(factor, Y.T, upper=False).T
        vectors, values, _ = torch.linalg.svd(B, full_matrices=False)
        return NystromApproximation(vectors, (values.square() - shift).clamp(min=0.0))
    return NystromApproximation(Q, Q.new_zeros(Q.shape[1]))
