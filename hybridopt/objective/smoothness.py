"""Whether a loss is twice differentiable, judged from its graph."""

from __future__ import annotations

from typing import Any

from torch import Tensor

# Names of autograd nodes begin with these. Piecewise functions whose pieces meet with a kink or a jump.
_KINKED = (
    "Relu",
    "LeakyRelu",
    "Prelu",
    "Rrelu",
    "Threshold",
    "Hardtanh",
    "Hardsigmoid",
    "Hardswish",
    "Hardshrink",
    "Softshrink",
    "MaxPool",
    "AdaptiveMaxPool",
    "FractionalMaxPool",
    "Abs",
    "Sgn",
    "Sign",
    "Clamp",
    "Maximum",
    "Minimum",
    "Max",
    "Min",
    "Amax",
    "Amin",
    "Sort",
    "Topk",
    "Kthvalue",
    "Median",
    "SmoothL1",
    "Huber",
    "Elu",
    "Celu",
    "Round",
    "Floor",
    "Ceil",
)


def kinked_operations(loss: Tensor) -> list[str]:
    """Returns the operations in a loss's graph that have no second derivative everywhere.

    A Hessian next to a kink says nothing about the other side of it, so a certificate from it would be worth
    nothing. Functions that are only written piecewise by hand (`torch.where`) are not seen.

    Args:
        loss: A tensor with its graph.

    Returns:
        Names such as ``"Relu"``, sorted; empty for a smooth graph.
    """
    found: set[str] = set()
    stack: list[Any] = [loss.grad_fn]
    visited: set[Any] = set()
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        name = node.name().rpartition("::")[2].split("Backward")[0]
        if name in _KINKED or name.startswith(("MaxPool", "AdaptiveMaxPool", "FractionalMaxPool")):
            found.add(name)
        stack.extend(parent for parent, _ in node.next_functions)
    return sorted(found)
