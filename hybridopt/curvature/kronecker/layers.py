"""Which parameters make up the matrix of one Kronecker-factored block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridopt.core import CombinationError
from hybridopt.curvature.kronecker.calls import Call


@dataclass(frozen=True)
class Layer:
    """A weight with its bias, or one of them alone, as the matrices (W b) of one or several groups.

    Attributes:
        weight: Position of the weight among the parameters, None if it is frozen.
        bias: Position of the bias, None if there is none or it is frozen.
        kind: ``linear``, ``convolution`` or ``recurrent``.
        groups: Groups of a convolution; 1 for all others.
    """

    weight: int | None
    bias: int | None
    kind: str
    groups: int

    @property
    def positions(self) -> list[int]:
        """Positions of its parameters."""
        return [place for place in (self.weight, self.bias) if place is not None]

    def matrix(self, parts: Sequence[Tensor]) -> Tensor:
        """Returns this layer's part of a vector, (groups, rows, columns); the bias is the last column.

        Args:
            parts: The vector in the shapes of all parameters.
        """
        columns = []
        if self.weight is not None:
            weight = parts[self.weight]
            columns.append(weight.reshape(self.groups, weight.shape[0] // self.groups, -1))
        if self.bias is not None:
            columns.append(parts[self.bias].reshape(self.groups, -1, 1))
        return torch.cat(columns, dim=2) if len(columns) > 1 else columns[0]

    def scatter(self, matrix: Tensor, parts: Sequence[Tensor]) -> None:
        """Writes what `matrix` returned back into a vector.

        Args:
            matrix: Shape (groups, rows, columns).
            parts: The vector in the shapes of all parameters, written to.
        """
        if self.bias is not None:
            parts[self.bias].copy_(matrix[..., -1].reshape(parts[self.bias].shape))
        if self.weight is not None:
            columns = matrix[..., : matrix.shape[2] - (self.bias is not None)]
            parts[self.weight].copy_(columns.reshape(parts[self.weight].shape))

    def inputs(self, call: Call, gradients: Tensor) -> Tensor:
        """Returns the inputs of a call, (groups, samples, positions, columns), with the ones of the bias.

        Args:
            call: One of this layer's.
            gradients: What its `Call.gradients` returned; for a bias alone only their shape matters.
        """
        ones = gradients.new_ones(*gradients.shape[:-1], 1)
        if self.weight is None:
            return ones
        inputs = call.inputs().to(gradients.dtype)
        return inputs if self.bias is None else torch.cat([inputs, ones], dim=-1)


def layers_of(calls: Iterable[Call]) -> dict[Layer, list[Call]]:
    """Returns the layers that the calls belong to, each with its calls.

    A weight that is used several times, in one module or in several, is one layer: its uses count as further
    positions at which it is shared. Weight and bias make one matrix where they always occur together.

    Args:
        calls: Of one forward pass.

    Raises:
        CombinationError: If a weight is used with two numbers of groups.
    """
    calls = list(calls)
    partners: dict[int, set[int | None]] = defaultdict(set)
    for call in calls:
        if call.weight is not None:
            partners[call.weight].add(call.bias)
        if call.bias is not None:
            partners[call.bias].add(call.weight)
    found: dict[tuple[int | None, int | None], list[Call]] = defaultdict(list)
    for call in calls:
        weight, bias = call.weight, call.bias
        if weight is not None and bias is not None and (len(partners[weight]) > 1 or len(partners[bias]) > 1):
            found[weight, None].append(call)
            found[None, bias].append(call)
        else:
            found[weight, bias].append(call)
    made = {}
    for (weight, bias), own in found.items():
        groups = {call.groups for call in own}
        if len(groups) > 1:
            raise CombinationError(
                "A weight is used with two numbers of groups: K-FAC has no one block for it. Freeze it, or use another "
                "optimizer."
            )
        made[Layer(weight, bias, own[0].kind, groups.pop())] = own
    return made
