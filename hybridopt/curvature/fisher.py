"""The Fisher information matrix of the distribution that a loss stands for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hybridopt.core import ConfigError, ObjectiveError
from hybridopt.curvature.likelihood import likelihood_at
from hybridopt.objective import Objective, Point
from hybridopt.objective.products import PointOperator

KINDS = ("exact", "monte_carlo")


class FisherOperator(PointOperator):
    """The Fisher matrix at a point; see `Fisher`.

    Args:
        point: Where.
        kind: ``"exact"`` or ``"monte_carlo"``.
        samples: Targets drawn per datum, for ``"monte_carlo"``.
        generator: Where they come from; one seeded with 0 when None.

    Raises:
        ConfigError: If an option is senseless.
    """

    positive_semidefinite = True

    def __init__(
        self, point: Point, kind: str = "exact", *, samples: int = 1, generator: torch.Generator | None = None
    ) -> None:
        if kind not in KINDS:
            raise ConfigError(f"kind must be one of {', '.join(map(repr, KINDS))}, not {kind!r}.")
        if samples < 1:
            raise ConfigError(f"samples must be at least 1, not {samples}.")
        super().__init__(point)
        self.kind = kind
        self.likelihood = likelihood_at(point)
        if kind == "monte_carlo":
            generator = torch.Generator().manual_seed(0) if generator is None else generator
            draws = [self.likelihood.sample(generator) for _ in range(samples)]
            scale = samples**-0.5
            self._middle = OuterProducts(
                [[scale * part for part in draw] for draw in draws], self.likelihood.dimensions
            )

    def _matvec(self, vector: Tensor) -> Tensor:
        if self.kind == "exact":
            return self.point.gauss_newton_product(vector)
        return self.point.sandwich_product(vector, self._middle)


class Fisher(FisherOperator):
    """The Fisher information matrix of an objective, for a loss that is a negative log-likelihood.

    ``exact`` is the expectation over the model's own distribution of the targets. For a softmax cross-entropy, a
    squared error and a binary cross-entropy with logits it *is* the generalized Gauss-Newton matrix (Martens 2020,
    section 9.2), and is multiplied as such; what this adds to `GaussNewton` is the check that the loss stands for such
    a likelihood. ``monte_carlo`` is the mean of the outer products of the data's gradients for targets drawn from the
    model: unbiased, of rank at most samples times data. The draws are made once, so the operator is one fixed matrix,
    and a product costs a Gauss-Newton product however many there are.

    A regularization by ``weight_decay`` is added as it is to the Gauss-Newton matrix.

    Args:
        objective: The loss as a function of the parameters.
        kind: ``"exact"`` or ``"monte_carlo"``.
        samples: Targets drawn per datum.
        generator: Where they come from; one seeded with 0 when None.

    Raises:
        ConfigError: If an option is senseless.
        CombinationError: If the loss is not known to stand for a likelihood.
        ObjectiveError: If it is not an `Objective`.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> f = Objective(model, torch.nn.functional.mse_loss, torch.tensor([[2.0]]), torch.tensor([[0.0]]))
        >>> Fisher(f) @ torch.tensor([1.0])
        tensor([8.])
    """

    def __init__(
        self, objective: Objective, kind: str = "exact", *, samples: int = 1, generator: torch.Generator | None = None
    ) -> None:
        if not isinstance(objective, Objective):
            raise ObjectiveError(f"Fisher needs an Objective, not a {type(objective).__name__}.")
        super().__init__(objective.at(), kind, samples=samples, generator=generator)


class OuterProducts:
    """The matrix ``sum_k sum_n u_kn u_kn'`` on the outputs, block-diagonal in the data n.

    Args:
        columns: The u_k, each one tensor per output.
        dimensions: Of each output, the dimension that counts the data.
    """

    def __init__(self, columns: Sequence[Sequence[Tensor]], dimensions: Sequence[int]) -> None:
        self._rows = [
            [part.movedim(dimension, 0) for part, dimension in zip(column, dimensions, strict=True)]
            for column in columns
        ]
        self._dimensions = list(dimensions)

    def __call__(self, tangents: Sequence[Tensor | None]) -> list[Tensor]:
        """Returns the product with a vector.

        Args:
            tangents: One tensor per output, None for zeros.
        """
        moved = [
            None if tangent is None else tangent.movedim(dimension, 0)
            for tangent, dimension in zip(tangents, self._dimensions, strict=True)
        ]
        total: list[Tensor] | None = None
        for column in self._rows:
            inner = sum(
                (part * tangent).flatten(1).sum(1) if part.dim() > 1 else part * tangent
                for part, tangent in zip(column, moved, strict=True)
                if tangent is not None
            )
            added = [
                part * torch.as_tensor(inner, device=part.device).reshape([-1] + [1] * (part.dim() - 1))
                for part in column
            ]
            total = added if total is None else [old.add_(new) for old, new in zip(total, added, strict=True)]
        assert total is not None
        return [part.movedim(0, dimension) for part, dimension in zip(total, self._dimensions, strict=True)]
