"""An objective that is evaluated in pieces, for batches whose graph does not fit into memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from hybridopt.core import ObjectiveError, StaleOperatorError
from hybridopt.linalg.operator import SymmetricOperator
from hybridopt.objective.decay import Decay
from hybridopt.objective.objective import Objective
from hybridopt.objective.point import stale
from hybridopt.objective.products import PointOperator


class MicroBatched(Objective):
    """The same function as an `Objective`, evaluated on a few samples at a time.

    Values, gradients and products are sums over micro-batches, so memory is bounded by the graph of one of them. A
    point keeps no graph: every product builds the graphs of its micro-batches again, one after the other, which the
    ledger shows as one more gradient a product (a product with a matrix builds them once for all its columns). Equal
    to the whole batch up to rounding, except where samples see one another: train-mode BatchNorm normalizes by the
    micro-batch (there is a warning), and random layers draw in another order.

    Made by `Objective.in_micro_batches`.
    """

    _size: int
    _reduction: str
    _pieces: list[tuple[float, Objective]] | None

    @classmethod
    def of(cls, objective: Objective, size: int, reduction: str) -> MicroBatched:
        """Returns the objective, evaluated in pieces.

        Args:
            objective: On the whole batch.
            size: Samples in a piece.
            reduction: ``"mean"`` or ``"sum"``: how the loss treats samples.

        Raises:
            ObjectiveError: If the batch cannot be divided along its first dimension, or an option is senseless.
        """
        if reduction not in ("mean", "sum"):
            raise ObjectiveError(f"reduction must be 'mean' or 'sum', as the loss has it, not {reduction!r}.")
        if not isinstance(size, int) or size < 1:
            raise ObjectiveError(f"A micro-batch has at least 1 sample, not {size!r}.")
        made = object.__new__(cls)
        made.__dict__.update(objective.__dict__)
        made._size, made._reduction, made._pieces = size, reduction, None
        made.renew()
        _ = made.pieces  # what cannot be divided is refused here, not in the first step
        norms = [name for name, module in objective.model.named_modules() if mixes_samples(module)]
        if norms and len(made.pieces) > 1:
            warnings.warn(
                f"BatchNorm in train mode ({', '.join(norms[:3])}) normalizes by the micro-batch: the function differs "
                "from that of the whole batch. Use eval mode, GroupNorm, or a larger size.",
                stacklevel=3,
            )
        return made

    def bind(self, param_groups: Iterable[Mapping[str, Any]], *, regularize: bool = False) -> MicroBatched:
        """Returns this objective as a function of an optimizer's parameters; see `Objective.bind`.

        Args:
            param_groups: Groups with ``params``.
            regularize: Whether ``weight_decay`` belongs to the function.
        """
        bound = super().bind(param_groups, regularize=regularize)
        assert isinstance(bound, MicroBatched)
        bound._pieces = None
        return bound

    def renew(self) -> None:
        """Forgets the replayed random state, of every piece."""
        super().renew()
        self._pieces = None

    @property
    def pieces(self) -> list[tuple[float, Objective]]:
        """Weight and objective of every micro-batch."""
        if self._pieces is None:
            self._pieces = list(self._divide())
        return self._pieces

    def _divide(self) -> Iterable[tuple[float, Objective]]:
        leaves = [leaf for leaf in tree_leaves((self.inputs, self.targets)) if isinstance(leaf, Tensor)]
        lengths = {leaf.shape[0] if leaf.dim() else 0 for leaf in leaves}
        if len(lengths) != 1 or 0 in lengths:
            raise ObjectiveError(
                "Micro-batches need inputs and targets whose first dimension counts the same samples; found lengths "
                f"{sorted(lengths)}. Use batch-first tensors, or evaluate the whole batch."
            )
        count = lengths.pop()
        weights = self.samples / count
        for start in range(0, count, self._size):
            rows = slice(start, min(start + self._size, count))
            piece = object.__new__(Objective)
            piece.__dict__.update({key: value for key, value in self.__dict__.items() if key not in _OWN})
            piece._decay = Decay()
            piece.curvature_batch = piece.overlap = None
            inputs, targets = tree_map(
                lambda leaf, rows=rows: leaf[rows] if isinstance(leaf, Tensor) else leaf, (self.inputs, self.targets)
            )
            length = rows.stop - rows.start
            piece._set_batch(inputs, targets, max(1, round(weights * length)), self.key)
            yield (length / count if self._reduction == "mean" else 1.0), piece

    def _aligned(self) -> list[tuple[float, Objective]]:
        for _, piece in self.pieces:
            piece._at_start = self._at_start
        return self.pieces

    def __call__(self) -> Tensor:
        """Returns the loss with the graphs of all pieces: memory is that of the whole batch."""
        return torch.stack([weight * piece() for weight, piece in self.pieces]).sum()

    def loss_and_gradients(self, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        """Returns the loss and its derivatives, summed over the pieces.

        Args:
            parameters: With respect to what.
        """
        loss, total = torch.zeros((), dtype=torch.float64, device="cpu"), [None] * len(parameters)
        for weight, piece in self.pieces:
            part, gradients = piece.loss_and_gradients(parameters)
            loss = loss.to(part.device) + weight * part.double()
            total = [_sum(a, b, weight) for a, b in zip(total, gradients, strict=True)]
        return loss.to(part.dtype), total

    def value(self, x: Tensor | None = None) -> float:
        """Returns the function's value; see `Objective.value`.

        Args:
            x: Where, shape (n,); the model's own parameters when None.
        """
        loss = sum(weight * piece.value(x) for weight, piece in self._aligned())
        if x is None:
            self._remember_start(self._scalar(loss))
        return loss + self.regularization(x)

    def value_and_grad(self, x: Tensor | None = None) -> tuple[float, Tensor]:
        """Returns the function's value and gradient; see `Objective.value_and_grad`.

        Args:
            x: Where, shape (n,); the model's own parameters when None.
        """
        loss, gradient = 0.0, torch.zeros(self.space.n, dtype=self.space.dtype, device=self.space.device)
        for weight, piece in self._aligned():
            part, slope = piece.value_and_grad(x)
            loss += weight * part
            gradient.add_(slope, alpha=weight)
        if x is None:
            self._remember_start(self._scalar(loss), self.space.tensors(gradient.clone()))
        self.add_decay_gradient(gradient, x)
        return loss + self.regularization(x), gradient

    def at(self, *, hidden: bool = False) -> MicroBatchedPoint:  # type: ignore[override]
        """Returns the function where the model stands; its products build their graphs piece by piece.

        A batch that fits into one piece keeps its graph.

        Args:
            hidden: As in `Objective.at`; only for a batch that fits into one piece.

        Raises:
            ObjectiveError: If `hidden` is asked for and there are several pieces.
        """
        if len(self.pieces) == 1 or self.curvature_batch is not None:
            return super().at(hidden=hidden)  # type: ignore[return-value]
        if hidden:
            raise ObjectiveError(
                "Hidden states are kept with the graph of a whole batch: evaluate it without micro-batches, or without "
                "structural damping."
            )
        return MicroBatchedPoint(self)

    @property
    def repeatable(self) -> bool:
        """Whether another step on the same data sees the same function; see `Objective.repeatable`."""
        return all(piece.repeatable for _, piece in self.pieces) if len(self.pieces) > 1 else super().repeatable

    def adopt(self) -> None:
        """Gives the model the buffers that the pieces left, the last one's standing."""
        super().adopt()
        for _, piece in self.pieces:
            piece.adopt()

    def _scalar(self, loss: float) -> Tensor:
        return torch.tensor(loss, dtype=self.space.dtype, device=self.space.device)


class MicroBatchedPoint:
    """A point without a graph: value and gradient, and products that build graphs piece by piece.

    Attributes:
        loss: The loss, a detached scalar tensor, without regularization.
        value: The function's value.
        gradient: Gradient of the function, shape (n,).

    Args:
        objective: Where it stands.
    """

    keeps_graph = False

    def __init__(self, objective: MicroBatched) -> None:
        self.objective = objective
        self.space = objective.space
        self.value, self.gradient = objective.value_and_grad()
        self.loss = objective._scalar(self.value - objective.regularization())
        self._versions = self.space.versions()
        self._released = False

    def hessian(self) -> SymmetricOperator:
        """Returns the Hessian of the function at this point, as an operator."""
        return MicroBatchedOperator(self, "hessian")

    def gauss_newton(self) -> SymmetricOperator:
        """Returns the generalized Gauss-Newton matrix at this point, as an operator.

        Raises:
            CombinationError: If the objective has no model outputs that a loss function is applied to.
        """
        with self._first() as point:
            point.require_outputs()
        return MicroBatchedOperator(self, "gauss_newton")

    def product(self, kind: str, matrix: Tensor) -> Tensor:
        """Returns the Hessian's or Gauss-Newton matrix's product with the columns of a matrix.

        Args:
            kind: ``"hessian"`` or ``"gauss_newton"``.
            matrix: Shape (n, k).

        Returns:
            Shape (n, k).

        Raises:
            StaleOperatorError: If the parameters were written to since, or the point was released.
        """
        self._check_fresh()
        columns = matrix.t().contiguous()
        out = torch.zeros_like(columns)
        for weight, piece in self.objective._aligned():
            with piece.at() as point:
                multiply = point.hessian_product if kind == "hessian" else point.gauss_newton_product
                for row, column in zip(out, columns, strict=True):
                    row.add_(multiply(column), alpha=weight)
        for row, column in zip(out, columns, strict=True):
            self.objective.add_decay_product(row, column)
        return out.t()

    def kinks(self) -> list[str]:
        """Returns the operations of the graph that have no second derivative everywhere."""
        self._check_fresh()
        with self._first() as point:
            return point.kinks()

    def require_outputs(self) -> None:
        """Checks that a Gauss-Newton matrix exists here.

        Raises:
            CombinationError: If the objective has no model outputs that a loss function is applied to.
        """
        with self._first() as point:
            point.require_outputs()

    def release(self) -> None:
        """Ends the point; products raise from then on."""
        self._released = True

    def __enter__(self) -> MicroBatchedPoint:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _first(self) -> Any:
        return self.objective._aligned()[0][1].at()

    def _check_fresh(self) -> None:
        if self._released:
            raise StaleOperatorError("This point was released. Call objective.at() again.")
        if self._versions != self.space.versions():
            raise stale()


class MicroBatchedOperator(PointOperator):
    """Hessian or Gauss-Newton matrix that is multiplied piece by piece; made by `MicroBatchedPoint`.

    Args:
        point: Where.
        kind: ``"hessian"`` or ``"gauss_newton"``.
    """

    def __init__(self, point: MicroBatchedPoint, kind: str) -> None:
        super().__init__(point)
        self.kind = kind
        self.positive_semidefinite = kind == "gauss_newton"

    def _matvec(self, vector: Tensor) -> Tensor:
        return self.point.product(self.kind, vector[:, None])[:, 0]

    def _matmat(self, matrix: Tensor) -> Tensor:
        return self.point.product(self.kind, matrix)


_OWN = ("_size", "_reduction", "_pieces")


def mixes_samples(module: nn.Module) -> bool:
    """Whether a module normalizes by the samples that it is called with.

    Args:
        module: Any.
    """
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training


def _sum(total: Tensor | None, part: Tensor | None, weight: float) -> Tensor | None:
    if part is None:
        return total
    return part * weight if total is None else total.add_(part, alpha=weight)
