"""Operators made of other operators: block-diagonal ones, submatrices, inverses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hybridopt.core import CombinationError, ConfigError, NonFiniteError
from hybridopt.linalg.cg import cg
from hybridopt.linalg.operator import SymmetricOperator
from hybridopt.linalg.result import KrylovStatus


class Diagonal(SymmetricOperator):
    """A diagonal matrix.

    Args:
        values: The diagonal, shape (n,).

    Raises:
        ConfigError: If it is not flat.

    Example:
        >>> Diagonal(torch.tensor([1.0, 2.0])) @ torch.tensor([3.0, 4.0])
        tensor([3., 8.])
    """

    def __init__(self, values: Tensor) -> None:
        if values.dim() != 1:
            raise ConfigError(f"A diagonal is a flat vector, not of shape {tuple(values.shape)}.")
        super().__init__(values.numel(), dtype=values.dtype, device=values.device)
        self.values = values.detach()

    @property
    def positive_semidefinite(self) -> bool:  # type: ignore[override]
        """Whether no entry is negative."""
        return bool((self.values >= 0).all())

    def _matvec(self, vector: Tensor) -> Tensor:
        return self.values * vector

    def _matmat(self, matrix: Tensor) -> Tensor:
        return self.values[:, None] * matrix

    def inverse_apply(self, vector: Tensor, damping: float = 0.0) -> Tensor:
        """Returns ``(|D| + damping I)^-1 v``.

        Args:
            vector: Shape (n,).
            damping: What is added to the absolute values.
        """
        return vector / (self.values.abs() + damping)


class Blocks(SymmetricOperator):
    """A block-diagonal matrix.

    Args:
        blocks: The blocks, from the first rows to the last.

    Raises:
        CombinationError: If there is none, or dtypes or devices differ.

    Example:
        >>> from hybridopt.linalg.operator import Dense
        >>> Blocks([Dense(torch.ones(2, 2)), Diagonal(torch.tensor([5.0]))]) @ torch.tensor([1.0, 2.0, 3.0])
        tensor([ 3.,  3., 15.])
    """

    def __init__(self, blocks: Sequence[SymmetricOperator]) -> None:
        if not blocks or len({(block.dtype, block.device) for block in blocks}) != 1:
            raise CombinationError("Blocks need at least one operator, all of one dtype and on one device.")
        super().__init__(sum(block.n for block in blocks), dtype=blocks[0].dtype, device=blocks[0].device)
        self.blocks = list(blocks)
        self.sizes = [block.n for block in blocks]
        self.positive_semidefinite = all(block.positive_semidefinite for block in blocks)

    def _matvec(self, vector: Tensor) -> Tensor:
        parts = vector.split(self.sizes)
        return torch.cat([block._matvec(part) for block, part in zip(self.blocks, parts, strict=True)])

    def _matmat(self, matrix: Tensor) -> Tensor:
        parts = matrix.split(self.sizes)
        return torch.cat([block @ part for block, part in zip(self.blocks, parts, strict=True)])

    def dense(self) -> Tensor:
        """Returns the matrix, shape (n, n); every block by its own size in products."""
        return torch.block_diag(*[block.dense() for block in self.blocks])


class Submatrix(SymmetricOperator):
    """Rows and columns of an operator at some indices: a principal submatrix.

    A product costs one with the whole operator.

    Args:
        operator: The matrix.
        index: Which rows and columns: a slice, or distinct positions of shape (m,).

    Raises:
        ConfigError: If positions are repeated, out of range or none.

    Example:
        >>> from hybridopt.linalg.operator import Dense
        >>> Submatrix(Dense(torch.arange(9.0).reshape(3, 3)), slice(1, 3)).dense()
        tensor([[4., 5.],
                [7., 8.]])
    """

    def __init__(self, operator: SymmetricOperator, index: slice | Tensor) -> None:
        if isinstance(index, slice):
            index = torch.arange(operator.n, device="cpu")[index]
        if index.dim() != 1 or index.dtype.is_floating_point or index.dtype == torch.bool or index.numel() == 0:
            raise ConfigError("A submatrix needs a slice, or integer positions of shape (m,), that choose something.")
        if int(index.min()) < 0 or int(index.max()) >= operator.n or len(index.unique()) != len(index):
            raise ConfigError(f"The positions of a submatrix must be distinct and lie in 0, ..., {operator.n - 1}.")
        super().__init__(index.numel(), dtype=operator.dtype, device=operator.device)
        self.operator = operator
        self.index = index.to(operator.device)
        self.positive_semidefinite = operator.positive_semidefinite

    def _matvec(self, vector: Tensor) -> Tensor:
        whole = torch.zeros(self.operator.n, dtype=self.dtype, device=self.device)
        whole[self.index] = vector
        return (self.operator @ whole)[self.index]


class Inverse(SymmetricOperator):
    """The inverse of a positive definite operator; every product is a solve by conjugate gradients.

    Args:
        operator: The matrix.
        rtol: Relative residual of every solve.
        max_iter: Most iterations of every solve; None for 10 n, as rounding delays the exact termination of badly
            conditioned ones.
        preconditioner: Callable r -> M^{-1} r with M positive definite.

    Example:
        >>> from hybridopt.linalg.operator import Dense
        >>> Inverse(Dense(torch.tensor([[2.0, 0.0], [0.0, 4.0]]))) @ torch.tensor([1.0, 1.0])
        tensor([0.5000, 0.2500])
    """

    def __init__(
        self,
        operator: SymmetricOperator,
        *,
        rtol: float | None = None,
        max_iter: int | None = None,
        preconditioner: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(operator.n, dtype=operator.dtype, device=operator.device)
        self.operator = operator
        self.rtol = 100 * torch.finfo(operator.dtype).eps if rtol is None else rtol
        self.max_iter = 10 * operator.n if max_iter is None else max_iter
        self.preconditioner = preconditioner
        self.positive_semidefinite = True

    def _matvec(self, vector: Tensor) -> Tensor:
        result = cg(self.operator, vector, rtol=self.rtol, max_iter=self.max_iter, preconditioner=self.preconditioner)
        if result.status in (KrylovStatus.CONVERGED, KrylovStatus.ZERO_RHS):
            return result.solution
        if result.status == KrylovStatus.NON_FINITE:
            raise NonFiniteError("The operator's products or the vector are not finite, so there is no inverse.")
        if result.status in (KrylovStatus.NEGATIVE_CURVATURE, KrylovStatus.INDEFINITE_PRECONDITIONER):
            raise ConfigError(
                "The operator (or its preconditioner) is not positive definite, so conjugate gradients cannot invert "
                "it. Add a multiple of the identity: Inverse(A + damping * Identity())."
            )
        raise ConfigError(
            f"The solve has not reached rtol={self.rtol:.1g} within {self.max_iter} iterations (relative residual "
            f"{result.residual / float(torch.linalg.vector_norm(vector)):.1g}). Raise max_iter or rtol, add damping, "
            "or give a preconditioner."
        )
