"""Quasi-Newton matrices as symmetric operators: what pairs of steps and gradient changes say about the Hessian.

Every class stands for B, the estimate of the Hessian, or with ``inverse=True`` for H, its inverse; ``op.inverse()`` is
the other one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hybridopt.core import ConfigError, NonFiniteError
from hybridopt.linalg.operator import SymmetricOperator


class LimitedBFGS(SymmetricOperator):
    """The matrix that BFGS updates with m pairs make of I / gamma, in compact form.

    Byrd, Nocedal and Schnabel 1994, eq. 2.17 for B and eq. 3.1 for H. A product costs four passes over the pairs.

    Args:
        steps: s, oldest first, shape (m, n).
        changes: y, oldest first, shape (m, n); every s'y must be positive.
        gamma: Scale of the initial inverse.
        inverse: Whether this is H instead of B.

    Raises:
        ConfigError: If the shapes do not fit, gamma is not positive, or a pair has no positive curvature.

    Example:
        >>> steps, changes = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 1.0]])
        >>> LimitedBFGS(steps, changes, gamma=0.4) @ steps[0]
        tensor([2., 1.])
    """

    positive_semidefinite = True

    def __init__(self, steps: Tensor, changes: Tensor, *, gamma: float = 1.0, inverse: bool = False) -> None:
        _check_pairs(steps, changes)
        if not gamma > 0:
            raise ConfigError(f"The initial scale gamma of a BFGS matrix must be > 0, not {gamma}.")
        super().__init__(steps.shape[1], dtype=steps.dtype, device=steps.device)
        self.steps, self.changes, self.gamma, self.inverted = steps, changes, gamma, inverse
        overlaps = _host(steps @ changes.t())
        diagonal = overlaps.diagonal()
        if not (diagonal > 0).all():
            raise ConfigError("A BFGS matrix needs pairs with s'y > 0; drop or damp the others.")
        m = len(steps)
        if inverse:
            triangle = torch.linalg.inv(overlaps.triu()) if m else overlaps
            inner = diagonal.diag() + gamma * _host(changes @ changes.t())
            self._middle = torch.cat(
                [
                    torch.cat([triangle.t() @ inner @ triangle, -triangle.t()], 1),
                    torch.cat([-triangle, torch.zeros_like(triangle)], 1),
                ]
            )
            self._scale, self._weights = gamma, (1.0, gamma)
        else:
            lower = overlaps.tril(-1)
            block = torch.cat(
                [torch.cat([_host(steps @ steps.t()) / gamma, lower], 1), torch.cat([lower.t(), -diagonal.diag()], 1)]
            )
            self._middle = -torch.linalg.inv(block) if m else block
            self._scale, self._weights = 1.0 / gamma, (1.0 / gamma, 1.0)

    def _matvec(self, vector: Tensor) -> Tensor:
        first, second = self._weights
        products = torch.cat([first * (self.steps @ vector), second * (self.changes @ vector)])
        shares = (self._middle @ _host(products)).to(vector)
        m = len(self.steps)
        return self._scale * vector + first * (shares[:m] @ self.steps) + second * (shares[m:] @ self.changes)

    def inverse(self) -> LimitedBFGS:
        """Returns the operator of the inverse matrix."""
        return LimitedBFGS(self.steps, self.changes, gamma=self.gamma, inverse=not self.inverted)


class FactoredBFGS(SymmetricOperator):
    """A dense BFGS matrix kept as a factor of its inverse, H = Z Z'.

    Args:
        factor: Z, shape (n, n), not singular.
        inverse: Whether this is H instead of B.

    Example:
        >>> factor = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
        >>> FactoredBFGS(factor, inverse=True).dense()
        tensor([[4., 2.],
                [2., 2.]])
    """

    positive_semidefinite = True

    def __init__(self, factor: Tensor, *, inverse: bool = False) -> None:
        super().__init__(len(factor), dtype=factor.dtype, device=factor.device)
        self.factor, self.inverted = factor, inverse

    def _matvec(self, vector: Tensor) -> Tensor:
        if self.inverted:
            return self.factor @ (self.factor.t() @ vector)
        return torch.linalg.solve(self.factor.t(), torch.linalg.solve(self.factor, vector))

    def inverse(self) -> FactoredBFGS:
        """Returns the operator of the inverse matrix."""
        return FactoredBFGS(self.factor, inverse=not self.inverted)


class LimitedSR1(SymmetricOperator):
    """The matrix that symmetric rank-one updates with m pairs make of sigma I; indefinite if the pairs say so.

    ``B = sigma I + Psi M Psi'`` with ``Psi = Y - sigma S`` (Byrd, Nocedal and Schnabel 1994, eq. 5.2). M is built
    update by update in the coordinates of Psi, not by inverting their matrix, so that a pair whose update would
    divide by almost nothing (Nocedal and Wright 2006, eq. 6.26) is left out here and the others stay. An orthonormal
    basis of the range of Psi M Psi' then gives the spectrum of B (Brust, Erway and Marcia 2017, section 3.1).

    Args:
        steps: s, oldest first, shape (m, n).
        changes: y, oldest first, shape (m, n).
        sigma: Scale of the initial matrix; not zero.
        tolerance: r of eq. 6.26.

    Attributes:
        basis: P, orthonormal columns, shape (n, k), k <= m.
        values: Eigenvalues of B that belong to them, ascending, shape (k,), float64 on the host. All others are
            `sigma`.
        skipped: How many pairs were left out.

    Raises:
        ConfigError: If the shapes do not fit, or sigma is zero.
    """

    def __init__(self, steps: Tensor, changes: Tensor, *, sigma: float = 1.0, tolerance: float = 1e-8) -> None:
        _check_pairs(steps, changes)
        if sigma == 0 or sigma != sigma:
            raise ConfigError(
                f"The initial scale sigma of an SR1 matrix must be a number other than zero, not {sigma}."
            )
        super().__init__(steps.shape[1], dtype=steps.dtype, device=steps.device)
        self.sigma = float(sigma)
        psi = changes - sigma * steps
        # The length of a column says nothing, but a small one would be lost beside large ones.
        lengths = torch.linalg.vector_norm(psi, dim=1, keepdim=True)
        psi = psi / torch.where(lengths > 0, lengths, torch.ones_like(lengths))
        sizes = _host(lengths)[:, 0]
        gram, along = _host(psi @ psi.t()), _host(psi @ steps.t())
        middle, self.skipped = _rank_one_updates(
            gram, along, sizes, _host(steps.square().sum(1)).sqrt(), tolerance, _resolution(psi)
        )
        self.basis, self.values = _spectrum(psi, gram, middle, self.sigma)
        self.positive_semidefinite = bool(sigma > 0 and (self.values >= 0).all())

    def _matvec(self, vector: Tensor) -> Tensor:
        shift = (self.values - self.sigma).to(vector)
        return self.sigma * vector + self.basis @ (shift * (self.basis.t() @ vector))

    def inverse(self) -> SymmetricOperator:
        """Returns the operator of the inverse matrix.

        Raises:
            NonFiniteError: If the matrix is singular.
        """
        if (self.values == 0).any():
            raise NonFiniteError("This SR1 matrix is singular and has no inverse.")
        other = object.__new__(LimitedSR1)
        SymmetricOperator.__init__(other, self.n, dtype=self.dtype, device=self.device)
        other.sigma, other.basis, other.values = 1.0 / self.sigma, self.basis, 1.0 / self.values
        other.skipped, other.positive_semidefinite = self.skipped, self.positive_semidefinite
        return other


def _rank_one_updates(
    gram: Tensor, along: Tensor, sizes: Tensor, lengths: Tensor, tolerance: float, resolution: float
) -> tuple[Tensor, int]:
    """M in the coordinates of the normalised columns of Psi, and how many pairs were left out.

    Args:
        gram: Psi'Psi, shape (m, m).
        along: Psi'S, shape (m, m).
        sizes: By what the columns of Psi were divided, shape (m,).
        lengths: ||s||, shape (m,).
        tolerance: r of Nocedal and Wright's eq. 6.26.
        resolution: What squares of lengths relative to 1 are known to.
    """
    m = len(gram)
    middle, skipped = torch.zeros_like(gram), 0
    for i in range(m):
        # y - B s = psi_i - Psi M Psi's, in coordinates; its inner product with s is the denominator.
        residual = -(middle @ along[:, i])
        residual[i] += sizes[i]
        denominator = float(residual @ along[:, i])
        size = max(float(residual @ gram @ residual), 0.0) ** 0.5
        satisfied = size <= resolution**0.5 * float(sizes[i])
        if satisfied or not abs(denominator) > tolerance * float(lengths[i]) * size:
            skipped += 1
            continue
        middle += torch.outer(residual, residual) / denominator
    return middle, skipped


def _spectrum(psi: Tensor, gram: Tensor, middle: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Orthonormal eigenvectors and eigenvalues of sigma I + Psi M Psi' in the range of Psi."""
    if len(gram) == 0:
        return psi.t(), gram.diagonal()
    values, vectors = torch.linalg.eigh(gram)
    kept = values > _resolution(psi) * values[-1]
    root = values[kept].sqrt()
    small = (vectors[:, kept] * root).t() @ middle @ (vectors[:, kept] * root)
    shifts, rotation = torch.linalg.eigh(0.5 * (small + small.t()))
    basis = psi.t() @ ((vectors[:, kept] / root) @ rotation).to(psi)
    return basis, sigma + shifts


def _resolution(psi: Tensor) -> float:
    """To what inner products of normalised vectors in their own precision are known."""
    return 10.0 * len(psi) * torch.finfo(psi.dtype).eps


def _check_pairs(steps: Tensor, changes: Tensor) -> None:
    if steps.dim() != 2 or steps.shape != changes.shape or steps.dtype != changes.dtype:
        raise ConfigError(
            "Steps and changes must be matrices of one shape (m, n) and dtype, a pair a row; got "
            f"{tuple(steps.shape)} in {steps.dtype} and {tuple(changes.shape)} in {changes.dtype}."
        )


def _host(small: Tensor) -> Tensor:
    """A small matrix where small matrices are cheap, in double precision."""
    return small.double().cpu()
