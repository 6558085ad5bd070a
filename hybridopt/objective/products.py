"""Hessian and Gauss-Newton matrix at a point, as symmetric operators."""

from __future__ import annotations

from torch import Tensor

from hybridopt.core import ConfigError
from hybridopt.linalg.operator import SymmetricOperator
from hybridopt.objective.point import Point


class PointOperator(SymmetricOperator):
    """An operator at a point; it also multiplies lists of tensors shaped as the parameters.

    Args:
        point: Where.
    """

    def __init__(self, point: Point) -> None:
        super().__init__(point.space.n, dtype=point.space.dtype, device=point.space.device)
        self.point = point

    def _pack(self, tensors: list[Tensor]) -> Tensor:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        wanted = [tuple(shape) for shape in self.point.space.shapes]
        if shapes != wanted:
            raise ConfigError(
                f"This operator takes a list of tensors shaped as the parameters, {wanted}, and was multiplied with "
                f"{shapes}. A parameter without a gradient is a tensor of zeros in that list."
            )
        return self.point.space.pack(tensors)

    def _unpack(self, vector: Tensor) -> list[Tensor]:
        return self.point.space.tensors(vector)

    def block(self, position: int) -> SymmetricOperator:
        """Returns the rows and columns of one parameter; a product with it costs one with the whole matrix.

        Args:
            position: Which one, in the order of the flat vector (that of an optimizer's groups); negative from the end.

        Raises:
            ConfigError: If there are not that many parameters.
        """
        from hybridopt.linalg.composite import Submatrix

        sizes = self.point.space.sizes
        if not -len(sizes) <= position < len(sizes):
            raise ConfigError(f"There are {len(sizes)} parameters, so there is no block {position}.")
        start = sum(sizes[: position % len(sizes)])
        return Submatrix(self, slice(start, start + sizes[position]))


class HessianOperator(PointOperator):
    """The Hessian of the function at a point; made by `Point.hessian`.

    Args:
        point: Where.
    """

    def _matvec(self, vector: Tensor) -> Tensor:
        return self.point.hessian_product(vector)


class GaussNewtonOperator(PointOperator):
    """The generalized Gauss-Newton matrix at a point; made by `Point.gauss_newton`.

    Args:
        point: Where.

    Raises:
        CombinationError: If the objective has no model outputs that a loss function is applied to.
    """

    positive_semidefinite = True

    def __init__(self, point: Point) -> None:
        point.require_outputs()
        super().__init__(point)

    def _matvec(self, vector: Tensor) -> Tensor:
        return self.point.gauss_newton_product(vector)
