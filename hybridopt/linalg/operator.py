"""Symmetric linear operators that are known by their products with vectors, and their algebra."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hybridopt.core import CombinationError, ConfigError

if TYPE_CHECKING:
    import scipy.sparse.linalg


class SymmetricOperator:
    """A symmetric n-by-n matrix given by its product with a vector.

    A subclass writes `_matvec`. Everything else is here: products with matrices and with lists of tensors, sums,
    multiples, shifts, a SciPy view, eigenpairs and estimators.

    Args:
        n: Number of rows and columns.
        dtype: Of the vectors it takes and gives.
        device: Of the vectors it takes and gives.
    """

    positive_semidefinite: bool = False
    """Whether the operator is known to have no negative eigenvalue."""

    __array_ufunc__ = None  # numpy leaves `array @ operator` and the like to the operator

    def __init__(self, n: int, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.n = n
        self.dtype = dtype
        self.device = torch.device(device)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        return (self.n, self.n)

    # -- products --------------------------------------------------------------------------------------------------

    def _matvec(self, vector: Tensor) -> Tensor:
        """Returns the product with one flat vector, shape (n,), as a new tensor."""
        raise TypeError(f"{type(self).__name__} does not say what its product with a vector is: define _matvec.")

    def _matmat(self, matrix: Tensor) -> Tensor:
        """Returns the product with a matrix, shape (n, k); column by column unless a subclass knows better."""
        return torch.stack([self._matvec(column) for column in matrix.t().contiguous()], dim=1)

    def _pack(self, tensors: list[Tensor]) -> Tensor:
        return torch.cat([tensor.reshape(-1) for tensor in tensors])

    def _unpack(self, vector: Tensor) -> list[Tensor]:
        raise ConfigError(f"{type(self).__name__} has no parameter shapes; multiply it with a flat vector.")

    def __matmul__(self, other: Any) -> Any:
        """Returns the product with a vector (n,), a matrix (n, k), or a list of tensors shaped as the parameters.

        Args:
            other: What to multiply with. The result has the same form.

        Raises:
            ConfigError: If the shape, dtype or device does not fit.
        """
        if isinstance(other, list | tuple):
            return self._unpack(self._matvec(self._checked(self._pack(list(other)))))
        if not isinstance(other, Tensor):
            return _no_tensor(other)
        if other.dim() == 2:
            self._checked(other)
            if other.shape[1] == 0:
                return other.clone()
            return self._matmat(other)
        return self._matvec(self._checked(other))

    def __rmatmul__(self, other: Any) -> Any:
        """Returns the product with a row vector (n,) or a matrix (k, n) on the left; the operator is symmetric.

        Args:
            other: What stands on the left. The result has the same form.

        Raises:
            ConfigError: If the shape, dtype or device does not fit.
        """
        if not isinstance(other, Tensor):
            return _no_tensor(other)
        if other.dim() == 2:
            return (self @ other.t()).t()
        return self @ other

    def _checked(self, vector: Tensor) -> Tensor:
        if vector.dim() not in (1, 2) or vector.shape[0] != self.n:
            raise ConfigError(
                f"This operator is {self.n} x {self.n} and was multiplied with shape {tuple(vector.shape)}. It takes "
                f"({self.n},), ({self.n}, k), or a list of tensors shaped as the parameters."
            )
        if vector.dtype != self.dtype or vector.device != self.device:
            raise ConfigError(
                f"This operator works in {self.dtype} on {self.device}, the vector is {vector.dtype} on "
                f"{vector.device}. Convert it with vector.to({str(self.device)!r}, {self.dtype})."
            )
        return vector.contiguous()

    # -- algebra ---------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> SymmetricOperator:
        if not isinstance(other, SymmetricOperator):
            return _no_operator(other)
        return Sum([(1.0, self), (1.0, other)])

    def __radd__(self, other: Any) -> SymmetricOperator:
        if isinstance(other, int) and other == 0:  # where Python's sum() begins
            return self
        return _no_operator(other)

    def __sub__(self, other: Any) -> SymmetricOperator:
        if not isinstance(other, SymmetricOperator):
            return _no_operator(-other if isinstance(other, numbers.Real) else other)
        return Sum([(1.0, self), (-1.0, other)])

    def __mul__(self, factor: Any) -> SymmetricOperator:
        if not isinstance(factor, numbers.Real):
            return NotImplemented
        return Sum([(float(factor), self)])

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> SymmetricOperator:
        if not isinstance(divisor, numbers.Real):
            return NotImplemented
        return Sum([(1.0 / float(divisor), self)])

    def __neg__(self) -> SymmetricOperator:
        return Sum([(-1.0, self)])

    # -- views and spectrum ----------------------------------------------------------------------------------------

    def dense(self) -> Tensor:
        """Returns the matrix, shape (n, n), by n products."""
        return self @ torch.eye(self.n, dtype=self.dtype, device=self.device)

    def diagonal(
        self, samples: int | None = None, *, method: str = "hutchinson", generator: torch.Generator | None = None
    ) -> Tensor:
        """Returns the diagonal, shape (n,).

        Args:
            samples: None for the exact diagonal by n products; otherwise an estimate from that many.
            method: Of the estimate: ``"hutchinson"`` or ``"xdiag"``.
            generator: Where the probes come from.
        """
        from hybridopt.linalg.estimators import diagonal

        return diagonal(self, samples, method=method, generator=generator)

    def trace(
        self, samples: int | None = None, *, method: str = "hutch++", generator: torch.Generator | None = None
    ) -> float:
        """Returns the trace.

        Args:
            samples: None for the exact trace by n products; otherwise an estimate from that many.
            method: Of the estimate: ``"hutch++"``, ``"xtrace"`` or ``"hutchinson"``.
            generator: Where the probes come from.
        """
        from hybridopt.linalg.estimators import trace

        return trace(self, samples, method=method, generator=generator)

    def log_determinant(
        self,
        samples: int | None = None,
        *,
        shift: float = 0.0,
        steps: int = 30,
        generator: torch.Generator | None = None,
    ) -> float:
        """Returns the logarithm of the determinant of the operator plus `shift` times the identity.

        Args:
            samples: None for the exact value by n products; otherwise the estimate by stochastic Lanczos quadrature
                from that many random vectors.
            shift: Multiple of the identity that is added.
            steps: Lanczos steps for each vector.
            generator: Where the vectors come from.
        """
        from hybridopt.linalg.estimators import log_determinant

        return log_determinant(self, samples, shift=shift, steps=steps, generator=generator)

    def spectral_density(
        self,
        points: Tensor | int = 1024,
        *,
        probes: int = 10,
        steps: int = 80,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the smoothed density of the eigenvalues by stochastic Lanczos quadrature.

        Args:
            points: Where to evaluate it, or how many equidistant points to choose.
            probes: Number of random start vectors.
            steps: Lanczos steps for each of them.
            generator: Where the probes come from.

        Returns:
            The points and the density at them, both float64 of shape (points,); it integrates to 1.
        """
        from hybridopt.linalg.estimators import spectral_density

        return spectral_density(self, points, probes=probes, steps=steps, generator=generator)

    def to_scipy(self) -> scipy.sparse.linalg.LinearOperator:
        """Returns the operator for SciPy: NumPy float64 vectors in and out, whatever it computes in."""
        import numpy as np
        import scipy.sparse.linalg

        def matvec(vector: np.ndarray) -> np.ndarray:
            tensor = torch.from_numpy(np.ascontiguousarray(vector).reshape(-1)).to(self.device, self.dtype)
            return self._matvec(tensor).detach().cpu().double().numpy()

        return scipy.sparse.linalg.LinearOperator(self.shape, matvec=matvec, rmatvec=matvec, dtype=np.float64)

    def eigsh(
        self, k: int = 6, *, which: str = "LM", tol: float = 0.0, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns k eigenpairs, by SciPy's implicitly restarted Lanczos method (ARPACK).

        Args:
            k: How many.
            which: ``"LM"`` largest in magnitude, ``"SM"`` smallest in it, ``"LA"`` largest, ``"SA"`` smallest, ``"BE"``
                both ends.
            tol: Relative accuracy; 0 is that of the dtype the operator computes in.
            generator: Where the start vector comes from; seeded with 0 when None, so the call is repeatable.

        Returns:
            Eigenvalues in ascending order, shape (k,), and eigenvectors, shape (n, k), in the operator's dtype.

        Raises:
            ConfigError: If `which` is unknown or k is out of range.
            NonFiniteError: If a product is not finite.
        """
        from hybridopt.linalg.arpack import eigsh

        return eigsh(self, k, which=which, tol=tol, generator=generator)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n={self.n}, dtype={self.dtype}, device={self.device})"


def _no_tensor(other: Any) -> Any:
    """Refuses a NumPy array in words; leaves other types to Python."""
    if type(other).__module__.partition(".")[0] == "numpy":
        raise TypeError(
            "Operators multiply tensors: convert the array with torch.from_numpy(array), or use operator.to_scipy(), "
            "which takes and gives arrays."
        )
    return NotImplemented


def _no_operator(other: Any) -> Any:
    """Refuses a number or a tensor as a summand in words; leaves other types to Python."""
    if isinstance(other, numbers.Real):
        raise TypeError(
            f"A number cannot be added to an operator. For a shift write A + {float(other)!r} * Identity(), with "
            "hybridopt.curvature.Identity."
        )
    if isinstance(other, Tensor):
        raise TypeError(
            "A tensor cannot be added to an operator. Wrap it, hybridopt.curvature.Dense(matrix) or "
            "hybridopt.curvature.Diagonal, or add the product: A @ v + tensor."
        )
    return NotImplemented


class Identity(SymmetricOperator):
    """The identity. Without a size it takes that of the operator that it is added to.

    Args:
        n: Number of rows and columns.
        dtype: Of the vectors it takes and gives.
        device: Of the vectors it takes and gives.

    Example:
        >>> A = Dense(torch.tensor([[2.0, 1.0], [1.0, 3.0]]))
        >>> (A + 0.5 * Identity()) @ torch.tensor([1.0, 0.0])
        tensor([2.5000, 1.0000])
    """

    positive_semidefinite = True

    def __init__(self, n: int = 0, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        super().__init__(n, dtype=dtype, device=device)

    def _matvec(self, vector: Tensor) -> Tensor:
        return vector.clone()

    def __matmul__(self, other: Any) -> Any:
        """Returns a copy of the vector, matrix or list of tensors.

        Args:
            other: What to multiply with.
        """
        if isinstance(other, list | tuple):
            return [tensor.clone() for tensor in other]
        return super().__matmul__(other)

    def _checked(self, vector: Tensor) -> Tensor:
        return super()._checked(vector) if self.n else vector


class Dense(SymmetricOperator):
    """A symmetric matrix that is there.

    Args:
        matrix: Shape (n, n).

    Raises:
        ConfigError: If the matrix is not square.
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ConfigError(f"A symmetric operator needs a square matrix, not one of shape {tuple(matrix.shape)}.")
        super().__init__(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
        self.matrix = matrix

    def _matvec(self, vector: Tensor) -> Tensor:
        return self.matrix @ vector

    def dense(self) -> Tensor:
        """Returns the matrix itself."""
        return self.matrix


class Sum(SymmetricOperator):
    """A linear combination of operators; sums of sums are flattened.

    Args:
        terms: Factors and operators.

    Raises:
        CombinationError: If sizes, dtypes or devices differ, or no term says its size.
    """

    def __init__(self, terms: Sequence[tuple[float, SymmetricOperator]]) -> None:
        flat: list[tuple[float, SymmetricOperator]] = []
        for factor, operator in terms:
            if isinstance(operator, Sum):
                flat += [(factor * inner, part) for inner, part in operator.terms]
            else:
                flat.append((factor, operator))
        self.terms = flat
        sized = [operator for _, operator in flat if operator.n]
        head = sized[0] if sized else flat[0][1]
        for operator in sized:
            if (operator.n, operator.dtype, operator.device) != (head.n, head.dtype, head.device):
                raise CombinationError(
                    f"Only operators of one size, dtype and device can be added: {head!r} and {operator!r} differ."
                )
        super().__init__(head.n, dtype=head.dtype, device=head.device)
        # Whichever knows the parameters' shapes serves products with lists of tensors.
        shaped = [part for part in sized if type(part)._unpack is not SymmetricOperator._unpack]
        self._head = shaped[0] if shaped else head
        self.positive_semidefinite = all(factor >= 0 and part.positive_semidefinite for factor, part in flat)

    def _matvec(self, vector: Tensor) -> Tensor:
        shift = sum(factor for factor, part in self.terms if isinstance(part, Identity))
        out: Tensor | None = None
        for factor, part in self.terms:
            if isinstance(part, Identity):
                continue
            product = part._matvec(vector)
            if out is None:
                out = product if factor == 1.0 else product.mul_(factor)
            else:
                out.add_(product, alpha=factor)
        if out is None:
            return vector * shift
        return out.add_(vector, alpha=shift) if shift else out

    def _checked(self, vector: Tensor) -> Tensor:
        return super()._checked(vector) if self.n else vector

    def _pack(self, tensors: list[Tensor]) -> Tensor:
        return self._head._pack(tensors)

    def _unpack(self, vector: Tensor) -> list[Tensor]:
        return self._head._unpack(vector)
