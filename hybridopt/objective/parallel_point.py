"""A point of an objective that is divided among processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hybridopt.linalg.operator import SymmetricOperator
from hybridopt.objective.micro_batch import MicroBatched
from hybridopt.objective.point import Point
from hybridopt.objective.products import PointOperator

if TYPE_CHECKING:
    from hybridopt.objective.data_parallel import DataParallel


class ParallelPoint:
    """Value, gradient and products of the whole batch; outputs and all else of this process's samples.

    What belongs to single samples is that of the whole batch's loss: `output_gradients` and `loss_hessian_product` are
    weighted by this process's share, so that products and sums over processes need no further weights. `own` is the
    point of this process's loss by itself.

    Made by `DataParallel.at`.

    Attributes:
        objective: The objective of all processes.
        own: The point of this process's part.
        weight: Of this process's loss in that of all.
        loss: The loss, a detached scalar tensor, without regularization.
        value: The function's value.
        gradient: Gradient of the function, shape (n,).

    Args:
        objective: The objective of all processes.
        own: The point of this process's part.
        loss: As the attribute.
        value: As the attribute.
        gradient: As the attribute.
    """

    def __init__(self, objective: DataParallel, own: Point, loss: Tensor, value: float, gradient: Tensor) -> None:
        self.objective = objective
        self.own = own
        self.space = objective.space
        self.weight = objective._weight
        self.loss, self.value, self.gradient = loss, value, gradient
        # On all processes alike, however many pieces one has.
        self.keeps_graph = not isinstance(objective._local, MicroBatched)

    def __getattr__(self, name: str) -> Any:
        # Only what is not set above gets here: outputs, free_outputs, hidden_states, used, ...
        if name.startswith("__") or name == "own":
            raise AttributeError(name)
        return getattr(self.own, name)

    def hessian(self) -> SymmetricOperator:
        """Returns the Hessian of the function at this point, as an operator."""
        return ParallelOperator(self, self.own.hessian())

    def gauss_newton(self) -> SymmetricOperator:
        """Returns the generalized Gauss-Newton matrix at this point, as an operator.

        Raises:
            CombinationError: If the objective has no model outputs that a loss function is applied to.
        """
        own = self.own.gauss_newton()
        self.objective._settle()
        return ParallelOperator(self, own)

    def hessian_product(self, vector: Tensor) -> Tensor:
        """Returns H v.

        Args:
            vector: Shape (n,).
        """
        return self.hessian() @ vector

    def gauss_newton_product(self, vector: Tensor) -> Tensor:
        """Returns G v.

        Args:
            vector: Shape (n,).
        """
        return self.gauss_newton() @ vector

    def sandwich_product(
        self,
        vector: Tensor,
        middle: Callable[[list[Tensor | None]], Sequence[Tensor | None]],
        *,
        hidden: float = 0.0,
    ) -> Tensor:
        """Returns the sum of J' M J v over the processes, and the regularization's part; see `Point.sandwich_product`.

        Args:
            vector: Shape (n,).
            middle: The symmetric M on this process's outputs, as a part of that of the whole batch.
            hidden: Multiple of ``J_h' J_h v`` that is added.
        """
        part = self.own.sandwich_product(vector, middle, hidden=hidden)
        return self.total(part, vector, 1.0)

    def pull_back(self, cotangents: Sequence[Tensor | None]) -> Tensor:
        """Returns the sum of J' u over the processes, without regularization.

        Args:
            cotangents: One tensor per output, None for zeros.
        """
        return self.objective._ranks.total(self.own.pull_back(cotangents))

    def loss_hessian_product(self, tangents: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Returns H_L t for the loss of the whole batch, in this process's outputs.

        Args:
            tangents: One tensor per output, None for zeros.
        """
        products = self.own.loss_hessian_product(tangents)
        return [None if product is None else self.weight * product for product in products]

    @property
    def output_gradients(self) -> list[Tensor]:
        """Derivatives of the loss of the whole batch with respect to this process's outputs, detached."""
        return [self.weight * gradient for gradient in self.own.output_gradients]

    def kinks(self) -> list[str]:
        """Returns the operations of any process's graph that have no second derivative everywhere."""
        own = self.own.kinks()
        self.objective._settle()
        return self.objective._ranks.gather_words(own)

    def require_outputs(self) -> None:
        """Checks that a Gauss-Newton matrix exists here.

        Raises:
            CombinationError: If the objective has no model outputs that a loss function is applied to.
        """
        self.own.require_outputs()
        self.objective._settle()

    def total(self, part: Tensor, vector: Tensor, weight: float) -> Tensor:
        """Returns the sum of a product's parts, with the regularization's.

        Args:
            part: Of this process, shape (n,) or (n, k).
            vector: What was multiplied, of that shape.
            weight: Of this process's part.
        """
        self.objective._settle()
        if part.dim() == 1:
            return self.objective.add_decay_product(self.objective._ranks.total_for(vector, part, weight), vector)
        # Columns are contiguous rows while they are summed.
        columns = vector.t().contiguous()
        out = self.objective._ranks.total_for(columns, part.t(), weight)
        for row, column in zip(out, columns, strict=True):
            self.objective.add_decay_product(row, column)
        return out.t()

    def __enter__(self) -> ParallelPoint:
        return self

    def __exit__(self, *exception: object) -> None:
        self.own.release()


class ParallelOperator(PointOperator):
    """Hessian or Gauss-Newton matrix whose products are summed over processes; made by `ParallelPoint`.

    Args:
        point: Where.
        own: That of this process's part.
    """

    def __init__(self, point: ParallelPoint, own: SymmetricOperator) -> None:
        super().__init__(point)  # type: ignore[arg-type]
        self.own = own
        self.positive_semidefinite = own.positive_semidefinite

    def _matvec(self, vector: Tensor) -> Tensor:
        return self.point.total(self.own @ vector, vector, self.point.weight)  # type: ignore[attr-defined]

    def _matmat(self, matrix: Tensor) -> Tensor:
        return self.point.total(self.own @ matrix, matrix, self.point.weight)  # type: ignore[attr-defined]
