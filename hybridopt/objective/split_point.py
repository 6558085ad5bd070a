"""A point whose gradient and whose curvature are taken on different samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from hybridopt.objective.point import Point

if TYPE_CHECKING:
    from hybridopt.objective.objective import Objective


class SplitPoint:
    """Value and gradient on the objective's batch; products, outputs and all else on its curvature batch.

    The graph for products is built when first asked for, and costs a gradient on the curvature batch. Made by
    `Objective.at` where `Objective.with_curvature_batch` was used.

    Attributes:
        value: The function's value on the objective's own batch.
        loss: The same without regularization, a detached scalar tensor.
        gradient: Gradient of the function there, shape (n,).
        objective: The objective on the curvature batch, to which outputs and products belong.

    Args:
        objective: With a curvature batch.
        hidden: As in `Objective.at`.
    """

    def __init__(self, objective: Objective, *, hidden: bool = False) -> None:
        assert objective.curvature_batch is not None
        self.value, self.gradient = objective.value_and_grad()
        self.loss: Tensor = self.gradient.new_tensor(self.value - objective.regularization())
        self.objective = objective.curvature_batch
        self.space = objective.space
        self._products: Point | None = None
        self._hidden = hidden
        self._released = False

    @property
    def products(self) -> Point:
        """The point on the curvature batch."""
        if self._products is None:
            self._products = self.objective.at(hidden=self._hidden)
            if self._released:
                self._products.release()
        return self._products

    def __getattr__(self, name: str) -> Any:
        # Only what is not set above gets here: hessian, gauss_newton, outputs, kinks, ...
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.products, name)

    def release(self) -> None:
        """Lets go of the graph; products raise from then on."""
        self._released = True
        if self._products is not None:
            self._products.release()

    def __enter__(self) -> SplitPoint:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()
