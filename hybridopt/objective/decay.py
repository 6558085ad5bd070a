"""L2 regularization that belongs to the function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hybridopt.objective.parameters import ParameterSpace


class Decay:
    """The sum of w/2 ||p||^2 over the parameters, w being the ``weight_decay`` of each one's group.

    Args:
        parts: Pieces of the flat vector and their strengths; pieces without a decay are left out.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[tuple[slice, float]] = ()) -> None:
        self.parts = tuple(parts)

    @classmethod
    def of_groups(cls, space: ParameterSpace, groups: Sequence[Mapping[str, Any]]) -> Decay:
        """Returns the regularizer that an optimizer's param groups ask for.

        Args:
            space: The parameters as a flat vector.
            groups: Groups with ``params`` and, perhaps, ``weight_decay``.
        """
        strength: dict[int, float] = {}
        for group in groups:
            for parameter in group["params"]:
                strength.setdefault(id(parameter), float(group.get("weight_decay", 0.0)))
        parts, start = [], 0
        for parameter, size in zip(space.parameters, space.sizes, strict=True):
            if strength[id(parameter)]:
                parts.append((slice(start, start + size), strength[id(parameter)]))
            start += size
        return cls(parts)

    def __bool__(self) -> bool:
        return bool(self.parts)

    def value(self, x: Tensor) -> float:
        """Returns the regularizer at `x`, summed in float64.

        Args:
            x: Shape (n,).
        """
        return sum(0.5 * strength * float(x[part].double().square().sum()) for part, strength in self.parts)

    def add_product(self, out: Tensor, vector: Tensor) -> Tensor:
        """Adds the (constant, diagonal) Hessian times a vector to `out` in place; at `x` itself, the gradient.

        Args:
            out: Shape (n,).
            vector: Shape (n,).

        Returns:
            `out`.
        """
        for part, strength in self.parts:
            out[part].add_(vector[part], alpha=strength)
        return out
