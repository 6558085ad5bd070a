"""A Krylov space that grows as it is needed, with the model of a function in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from hybridopt.linalg.arithmetic import check_vector, product

_BREAKDOWN = 10.0  # beta below this many units of rounding of ||A|| is zero
_INVARIANT = 1e3  # below this many, what the products' own rounding can make of an invariant space
_NOISE = 100.0  # units of rounding of ||A|| below which a Ritz value may be a negative zero


class KrylovSpace:
    """An M-orthonormal basis V of a Krylov space of ``M^{-1} A``, kept for one model ``g's + s'As/2``.

    The Lanczos process from g with full reorthogonalization (as in `hybridopt.linalg.lanczos`), one product for
    each vector; T = V'AV is tridiagonal. Solvers on it (`gltr`, `cubic_minimize`) ask for more vectors when the
    small model is not accurate enough, and another radius or weight is solved for without new products.

    When the space is invariant, A may still have lower eigenvalues that g does not see. `explore` then goes on from
    a random vector orthogonal to the basis, which sees all of them with probability one. A space with g = 0 begins
    with such a vector.

    Args:
        A: Symmetric operator of shape (n, n): anything with ``A @ v`` for v of shape (n,).
        g: Gradient of the model at zero, shape (n,), float32 or float64.
        preconditioner: Callable r -> M^{-1} r with M symmetric positive definite; lengths are then ``sqrt(s'Ms)``.
            The space keeps twice the memory with it.
        generator: Source of random vectors; the default generator otherwise. It may live on another device.
        random_start: Begins with a random vector although g is not zero, for a g so small that its direction is
            rounding.

    Attributes:
        products: Products with A used.
        gamma: Length of g in the norm of M^{-1}.
        finite: Whether g and all products were finite.
        explored: Whether a random vector was brought in.
        eps: Unit of rounding of the vectors.

    Example:
        >>> A = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
        >>> space = KrylovSpace(A, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
        >>> space.grow(), space.size, space.invariant
        (True, 1, True)
    """

    def __init__(
        self,
        A: Any,
        g: Tensor,
        *,
        preconditioner: Callable[[Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
        random_start: bool = False,
    ) -> None:
        self.A = A
        self.g = g = check_vector("g", g)
        self.preconditioner, self.generator, self.random_start = preconditioner, generator, random_start
        self.n = g.numel()
        self.products = self.size = 0
        self.explored = False
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self.slopes: list[float] = []
        self.eps = torch.finfo(g.dtype).eps
        self._scale = 0.0
        self._rows = g.new_empty((min(self.n, 16), self.n))
        self._duals = self._rows if preconditioner is None else torch.empty_like(self._rows)
        self._block = 0
        self._model: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._next: tuple[Tensor, Tensor] | None = None
        z = g if preconditioner is None else preconditioner(g)
        square = float(torch.dot(g, z))
        self.gamma = math.sqrt(square) if square >= 0 else math.nan
        self.finite = math.isfinite(self.gamma)
        if self.gamma > 0 and not random_start:
            self._next = g / self.gamma, z / self.gamma
        else:
            self.explore()

    @property
    def invariant(self) -> bool:
        """Whether A maps the space into itself, to rounding: all its Ritz pairs are eigenpairs."""
        if self.size == 0 or not self.finite:
            return False
        return self._next is None or self.beta <= _INVARIANT * self.eps * self._scale

    @property
    def beta(self) -> float:
        """Norm of the component of ``A v_m`` outside the space; zero for an invariant space."""
        return self.betas[-1] if self.betas else 0.0

    @property
    def noise(self) -> float:
        """Size of a Ritz value that may be rounding of a zero."""
        return _NOISE * self.eps * self._scale

    def grow(self) -> bool:
        """Adds the next vector, at the price of one product.

        Returns:
            False when there is none: the space is invariant (see `explore`) or a product was not finite.
        """
        if self._next is None or not self.finite:
            return False
        m = self.size
        if m == self._rows.shape[0]:
            self._enlarge()
        dual, row = self._next
        self._duals[m] = dual
        if self.preconditioner is not None:
            self._rows[m] = row
        w = product(self.A, self._rows[m]).clone()
        self.products += 1
        first = max(m - 1, self._block)
        local = self._project_out(w, first, m + 1)
        full = self._project_out(w, 0, m + 1)
        z = w if self.preconditioner is None else self.preconditioner(w)
        slope = torch.dot(self._rows[m], self.g)
        # The only host read of the step:
        alpha, square, slope = torch.stack((local[-1] + full[-1], torch.dot(w, z), slope)).tolist()
        if not (math.isfinite(alpha) and math.isfinite(square)):
            self.finite = False
            return False
        beta = math.sqrt(max(square, 0.0))
        self._scale = max(self._scale, abs(alpha) + beta)
        self.size = m + 1
        done = self.size == self.n or beta <= _BREAKDOWN * self.eps * self._scale
        self._next = None if done else (w / beta, z / beta)
        self.alphas.append(alpha)
        self.betas.append(0.0 if done else beta)
        if not self.random_start:
            # Exact by construction: all of g lies along the first vector.
            slope = self.gamma if m == 0 else 0.0
        self.slopes.append(slope)
        self._model = None
        return True

    def explore(self) -> bool:
        """Prepares a random vector, orthogonal to all others, as the next one, where the space is invariant or empty.

        One such vector sees every eigenvalue that the space lacks with probability one, so there is no second.

        Returns:
            Whether there is a next vector now: False when the space is all of R^n, or was explored before.
        """
        if self.explored or self.size == self.n or not (self.size == 0 or self.invariant) or not self.finite:
            return False
        device = torch.device("cpu") if self.generator is None else self.generator.device
        sample = torch.randn(self.n, generator=self.generator, dtype=torch.float64, device=device)
        w = sample.to(self.g)
        self._project_out(w, 0, self.size)
        self._project_out(w, 0, self.size)
        z = w if self.preconditioner is None else self.preconditioner(w)
        norm = math.sqrt(float(torch.dot(w, z)))
        self._next = w / norm, z / norm
        self._block = self.size
        if self.size:
            self.betas[-1] = 0.0
            self._model = None
        self.explored = True
        return True

    def model(self, size: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns eigenvalues of T, ascending, its eigenvectors as columns, and ``V'g`` in that eigenbasis.

        Args:
            size: For the space of the first so many vectors; all by default.
        """
        if size is not None and size < self.size:
            return self._diagonalized(size)
        if self._model is None:
            self._model = self._diagonalized(self.size)
        return self._model

    def _diagonalized(self, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values, vectors = eigh_tridiagonal(np.array(self.alphas[:size]), np.array(self.betas[: size - 1]))
        return values, vectors, vectors.T @ np.array(self.slopes[:size])

    def block(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns diagonal and off-diagonals (the last being the residual) of T since the last random vector."""
        return np.array(self.alphas[self._block :]), np.array(self.betas[self._block :])

    def residual(self, coefficients: np.ndarray) -> float:
        """Returns ``||(AV - VT) y||`` in the norm of M^{-1}, for y given in the eigenbasis of T.

        In a space with a random start the part of g that it lacks is added to the vector.

        Args:
            coefficients: Shape (m,).
        """
        inside = self.beta * float(self.model()[1][-1] @ coefficients)
        if not self.random_start:
            return abs(inside)
        # The next vector has a share of what is lacking.
        shared = 0.0 if self._next is None else float(torch.dot(self._next[1], self.g))
        lacking = self.gamma**2 - float(np.square(self.slopes).sum()) - shared**2
        return math.hypot(inside + shared, math.sqrt(max(lacking, 0.0)))

    def lift(self, coefficients: np.ndarray) -> Tensor:
        """Returns the vector of R^n with given coefficients in the eigenbasis of T.

        Args:
            coefficients: Shape (m,).

        Returns:
            Shape (n,), in the dtype of g.
        """
        inner = torch.from_numpy(np.ascontiguousarray(self.model()[1] @ coefficients)).to(self.g)
        return inner @ self._rows[: self.size]

    def _project_out(self, w: Tensor, first: int, last: int) -> Tensor:
        """Takes the components along some basis vectors out of a dual vector, in place, and returns them."""
        components = self._rows[first:last] @ w
        w.addmv_(self._duals[first:last].T, components, alpha=-1)
        return components

    def _enlarge(self) -> None:
        shared = self._duals is self._rows
        self._rows = _grown(self._rows, self.n)
        self._duals = self._rows if shared else _grown(self._duals, self.n)


def _grown(rows: Tensor, most: int) -> Tensor:
    larger = rows.new_empty((min(2 * rows.shape[0], most), rows.shape[1]))
    larger[: rows.shape[0]] = rows
    return larger
