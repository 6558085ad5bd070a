"""A plain function of tensors as a module, so that model objectives and function objectives are one thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core import ObjectiveError


class FunctionModule(nn.Module):
    """A function whose argument is the module's parameters.

    Args:
        function: Takes one tensor, a list of tensors or a dict of tensors and returns a scalar tensor.
        start: The starting point, in the structure that `function` takes. It is copied.

    Raises:
        ObjectiveError: If the start is not a floating-point tensor, or a non-empty list or dict of such.
    """

    def __init__(self, function: Callable[[Any], Tensor], start: Any) -> None:
        super().__init__()
        if not callable(function):
            raise ObjectiveError(f"The objective must be a function of the parameters, not {type(function).__name__}.")
        self._function = function
        if isinstance(start, Mapping):
            values = list(start.values())
            self._original_keys = list(start)
            self._kind = "dict"
        elif isinstance(start, Sequence) and not isinstance(start, str) and any(isinstance(v, Tensor) for v in start):
            values, self._kind = list(start), "list"
        else:
            values, self._kind = [start], "tensor"
        self.values = nn.ParameterList([nn.Parameter(_as_tensor(value)) for value in values])
        if not any(value.numel() for value in self.values):
            raise ObjectiveError("The starting point is empty: give a tensor, or a list or dict of tensors.")

    def argument(self) -> Any:
        """Returns the parameters in the structure that the function takes."""
        values = list(self.values)
        if self._kind == "tensor":
            return values[0]
        return values if self._kind == "list" else dict(zip(self._original_keys, values, strict=True))

    def result(self) -> Any:
        """Returns a detached copy of the parameters in the structure that the function takes."""
        values = [value.detach().clone() for value in self.values]
        if self._kind == "tensor":
            return values[0]
        return values if self._kind == "list" else dict(zip(self._original_keys, values, strict=True))

    def forward(self) -> Tensor:
        """Returns the function's value at the parameters."""
        return self._function(self.argument())


def _as_tensor(value: Any) -> Tensor:
    try:
        tensor = value.detach().clone() if isinstance(value, Tensor) else torch.as_tensor(value).clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ObjectiveError(
            f"The starting point must be a tensor, an array, numbers, or a flat list or dict of tensors, not a "
            f"{type(value).__name__} that is none of them ({error})."
        ) from error
    if not isinstance(value, Tensor) and not tensor.dtype.is_floating_point:
        tensor = tensor.to(torch.get_default_dtype())
    if not tensor.dtype.is_floating_point:
        raise ObjectiveError(
            f"The starting point has dtype {tensor.dtype}; give it as floating point, e.g. x0.double()."
        )
    return tensor
