"""What a step did, in values that cost nothing until somebody looks at them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import Keyed

_FIELDS: Mapping[str, str] = {
    "loss": "loss at the step's starting point",
    "grad_norm": "Euclidean norm of the gradient there",
    "step_norm": "Euclidean norm of the step taken",
    "accepted": "whether the step was accepted",
    "status": "what the inner solver or search ended with",
    "inner_iterations": "iterations of the inner solver",
    "evaluations": "evaluations of the function beside the first",
    "step_size": "multiple of the direction that was taken",
    "ratio": "actual over predicted decrease",
    "damping": "damping for the next step",
    "radius": "trust radius for the next step",
    "curvature": "negative curvature that was met, v'Hv / v'v",
    "skipped_pairs": "quasi-Newton pairs dropped so far",
}


class Report(Keyed):
    """Record of one step; its fields can be read as attributes or as keys, as those of `minimize`'s result can.

    Values are stored as they come: a number, a tensor or a function without arguments. The attribute gives a plain
    Python value; a tensor is only then brought to the host, so reporting never makes a GPU wait. A standard field that
    the method does not report is None as an attribute, and no key.

    Attributes:
        events: What happened beside the ordinary: escapes, switches, resets, each a dict with an ``event`` key.
    """

    def __init__(self, **values: Any) -> None:
        self._values: dict[str, Any] = values
        self.events: list[dict[str, Any]] = []

    def note(self, **values: Any) -> None:
        """Adds or replaces values.

        Args:
            **values: Names and values; names beside the standard ones are kept too.
        """
        self._values.update(values)

    def complete(self, **values: Any) -> None:
        """Adds those values that were not noted yet.

        Args:
            **values: As for `note`.
        """
        self._values = values | self._values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        values = self._values
        if name not in values:
            if name in _FIELDS:
                return None
            raise AttributeError(f"This report has no {name!r}; it has {', '.join(sorted(values)) or 'nothing yet'}.")
        value = values[name]
        if callable(value):
            value = value()
        if isinstance(value, Tensor):
            value = value.item()
        values[name] = value
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def keys(self) -> list[str]:
        """Returns the names of what was noted."""
        return list(self._values)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.as_dict(), self.events)

    def as_dict(self) -> dict[str, Any]:
        """Returns everything that was noted, as plain numbers, booleans and text."""
        return {name: getattr(self, name) for name in self._values}

    def __repr__(self) -> str:
        return f"Report({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items())})"


def _restore(values: dict[str, Any], events: list[dict[str, Any]]) -> Report:
    report = Report(**values)
    report.events = events
    return report


def norm(tensors: list[Tensor], order: float = 2.0) -> Tensor:
    """Returns the norm of tensors taken as one vector, as a 0-dim tensor.

    Args:
        tensors: Of any shapes, on one device.
        order: 2 or `math.inf`.
    """
    if not tensors:
        return torch.zeros((), device="cpu")
    tensors = [part.to_dense() if part.is_sparse else part for part in tensors]
    norms = torch.stack(
        [part.float() if part.dtype.itemsize < 4 else part for part in torch._foreach_norm(tensors, order)]
    )
    return norms.max() if order == math.inf else torch.linalg.vector_norm(norms)
