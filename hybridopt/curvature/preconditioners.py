"""Preconditioners for conjugate gradients on a damped curvature matrix.

Each says how to build something from a point, and how to apply the inverse of an approximation M of B + damping I. What
is built is a dict of plain tensors, so that it can be kept from step to step and in a checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from hybridopt.core import CombinationError, NonFiniteError, Registry
from hybridopt.curvature.empirical_fisher import data_gradients
from hybridopt.curvature.squares import squared_gradients
from hybridopt.linalg.nystrom import NystromApproximation, nystrom
from hybridopt.linalg.operator import SymmetricOperator
from hybridopt.objective import Point

_HERE = "hybridopt.curvature.preconditioners:"

registry = Registry(
    "preconditioner",
    {
        "diagonal": _HERE + "DiagonalPreconditioner",
        "martens": _HERE + "MartensPreconditioner",
        "lbfgs": _HERE + "LBFGSPreconditioner",
        "nystrom": _HERE + "NystromPreconditioner",
        "kfac": _HERE + "KFACPreconditioner",
    },
    entry_points="hybridopt.preconditioners",
)
register = registry.register

Inverse = Callable[[Tensor], Tensor]
"""r -> M^{-1} r."""


class Preconditioner(ABC):
    """How to approximate a damped curvature matrix by one that is easily inverted.

    One instance serves one step.

    Args:
        size: How large what it is made from may be; a subclass says of what.

    Attributes:
        lasting: Whether what `build` returned can serve later steps too.
    """

    lasting: ClassVar[bool] = True

    def __init__(self, size: int) -> None:
        self.size = size

    @abstractmethod
    def build(self, point: Point, curvature: SymmetricOperator, generator: torch.Generator) -> dict[str, Any]:
        """Returns what the inverse is made from; empty if there is nothing yet.

        Args:
            point: Where.
            curvature: The matrix B at the point, without damping.
            generator: Where random numbers come from.
        """

    @abstractmethod
    def inverse(self, state: dict[str, Any], damping: float) -> Inverse | None:
        """Returns r -> M^{-1} r, with M positive definite; None for the identity.

        Args:
            state: What `build` or `learn` returned, in this step or an earlier one.
            damping: Multiple of the identity that is added to B, >= 0.
        """

    def watch(self, curvature: SymmetricOperator) -> SymmetricOperator:
        """Returns the matrix for the solver, which may be looked at from there.

        Args:
            curvature: The matrix B.
        """
        return curvature

    def learn(self) -> dict[str, Any] | None:
        """Returns what the solve has taught, for the next step; None if nothing."""
        return None


class DiagonalPreconditioner(Preconditioner):
    """M = |diag(B)| + damping I, the diagonal estimated from products with random signs (Bekas et al. 2007).

    Args:
        size: Products.
    """

    def build(self, point: Point, curvature: SymmetricOperator, generator: torch.Generator) -> dict[str, Any]:
        """Estimates the diagonal; see `Preconditioner.build`."""
        samples = self.size if self.size < curvature.n else None
        return {"values": curvature.diagonal(samples, generator=generator).abs()}

    def inverse(self, state: dict[str, Any], damping: float) -> Inverse | None:
        """Divides; see `Preconditioner.inverse`."""
        return _division(state["values"], damping, 1.0)


class MartensPreconditioner(Preconditioner):
    """M = (D + damping I)^(3/4), with D the diagonal of the empirical Fisher matrix (Martens 2010, section 4.7).

    D is the mean of the squared gradients of single data (`squared_gradients`: exact but for the parameters of unusual
    layers, and one more gradient), so that it is on the scale of a mean loss's curvature and damping. The power takes
    back some of what a diagonal exaggerates.

    Args:
        size: Not used.
    """

    def build(self, point: Point, curvature: SymmetricOperator, generator: torch.Generator) -> dict[str, Any]:
        """Takes the squared gradients; see `Preconditioner.build`."""
        columns = data_gradients(point, strict=False)[1]
        values, _ = squared_gradients(point, [columns], generator=generator)
        return {"values": point.objective.add_decay_product(values, torch.ones_like(values))}

    def inverse(self, state: dict[str, Any], damping: float) -> Inverse | None:
        """Divides; see `Preconditioner.inverse`."""
        return _division(state["values"], damping, 0.75)


class LBFGSPreconditioner(Preconditioner):
    """The limited-memory BFGS matrix of directions and products of the last solve (Morales and Nocedal 2000).

    Costs no product. The pairs are kept at even distances over all iterations of the solve; as they are products with
    B itself, the inverse follows the damping. It helps where one system and its right-hand side are like the last; a
    spectrum that is spread evenly over many scales is made worse by few pairs.

    Args:
        size: Pairs.
    """

    lasting = False

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._pairs: _Pairs | None = None

    def build(self, point: Point, curvature: SymmetricOperator, generator: torch.Generator) -> dict[str, Any]:
        """Has nothing before the first solve; see `Preconditioner.build`."""
        return {}

    def watch(self, curvature: SymmetricOperator) -> SymmetricOperator:
        """Sees the products of the solve; see `Preconditioner.watch`."""
        self._pairs = _Pairs(curvature, self.size)
        return self._pairs

    def learn(self) -> dict[str, Any] | None:
        """Returns the pairs of the solve; see `Preconditioner.learn`."""
        if self._pairs is None or not self._pairs.steps:
            return None
        return {"steps": torch.stack(self._pairs.steps), "changes": torch.stack(self._pairs.changes)}

    def inverse(self, state: dict[str, Any], damping: float) -> Inverse | None:
        """Applies the two-loop recursion's matrix in compact form; see `Preconditioner.inverse`."""
        from hybridopt.curvature.quasi_newton import LimitedBFGS

        if not state:
            return None
        steps = state["steps"]
        changes = state["changes"] + damping * steps
        curvatures = (steps * changes).sum(1)
        # Steps have length one; the rest is the usual guard against a pair that is rounding or negative curvature.
        kept = curvatures > 1e-4 * torch.linalg.vector_norm(changes, dim=1)
        if not bool(kept.any()):
            return None
        steps, changes = steps[kept], changes[kept]
        gamma = float(curvatures[kept][-1] / changes[-1].square().sum())
        operator = LimitedBFGS(steps, changes, gamma=gamma, inverse=True)
        return lambda vector: operator @ vector


class NystromPreconditioner(Preconditioner):
    """The damped randomized Nystrom approximation (Frangella, Tropp and Udell 2023), for a few large eigenvalues.

    Args:
        size: Products, and rank.
    """

    def build(self, point: Point, curvature: SymmetricOperator, generator: torch.Generator) -> dict[str, Any]:
        """Makes the sketch; see `Preconditioner.build`."""
        n, dtype, device = curvature.n, curvature.dtype, curvature.device
        try:
            made = nystrom(curvature, n, self.size, generator=generator, dtype=dtype, device=device)
        except NonFiniteError:
            return {}  # the solver meets the same products, and has a status for them
        return {"vectors": made.vectors, "values": made.values}

    def inverse(self, state: dict[str, Any], damping: float) -> Inverse | None:
        """Inverts the damped approximation; see `Preconditioner.inverse`."""
        if not state:
            return None
        made = NystromApproximation(state["vectors"], state["values"])
        floor = torch.finfo(made.dtype).eps ** 0.5 * float(made.values.max()) or 1.0
        mu = max(damping, floor)
        return lambda vector: made.inverse_apply(vector, mu)


class KFACPreconditioner(Preconditioner):
    """The damped Kronecker-factored matrix of `KFAC`, at one more gradient and its backward passes.

    For any loss that is convex in the outputs; the factors are those of one random draw for each datum. The damping is
    added to the product of the factors, not to each: the matrix to be approximated is B + damping I itself.

    Args:
        size: Not used.
    """

    lasting = False

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._operator: Any = None

    def build(self, point: Point, curvature: SymmetricOperator, generator: torch.Generator) -> dict[str, Any]:
        """Takes the factors; see `Preconditioner.build`."""
        from hybridopt.curvature.kronecker import KFAC

        if not point.keeps_graph:
            raise CombinationError("K-FAC needs the whole batch at once, not micro-batches.")
        self._operator = KFAC(point.objective, kind="propagation", generator=generator)
        return {}

    def inverse(self, state: dict[str, Any], damping: float) -> Inverse | None:
        """Inverts the damped factors; see `Preconditioner.inverse`."""
        operator = self._operator
        floor = torch.finfo(operator.dtype).eps ** 0.5 * max(operator.trace() / operator.n, 1e-30)
        return lambda vector: operator.inverse_apply(vector, max(damping, floor), rule="exact")


class _Pairs(SymmetricOperator):
    """An operator that remembers, of all its products, at most `size` at even distances."""

    def __init__(self, operator: SymmetricOperator, size: int) -> None:
        super().__init__(operator.n, dtype=operator.dtype, device=operator.device)
        self.operator, self.size = operator, size
        self.positive_semidefinite = operator.positive_semidefinite
        self.steps: list[Tensor] = []
        self.changes: list[Tensor] = []
        self._seen, self._stride = 0, 1

    def _matvec(self, vector: Tensor) -> Tensor:
        product = self.operator @ vector
        if self._seen % self._stride == 0:
            length = torch.linalg.vector_norm(vector)
            self.steps.append(vector / length)
            self.changes.append(product / length)
            if len(self.steps) > self.size:
                self.steps, self.changes = self.steps[::2], self.changes[::2]
                self._stride *= 2
        self._seen += 1
        return product


def _division(values: Tensor, damping: float, power: float) -> Inverse:
    """Division by (values + damping)^power, with what is not zero anywhere as the least divisor."""
    floor = torch.finfo(values.dtype).eps * float(values.max()) or 1.0
    divisor = (values + max(damping, floor)) ** power
    return lambda vector: vector / divisor
