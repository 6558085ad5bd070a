"""Whether a loss is twice differentiable, judged from its graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    for node in _nodes([loss]):
        name = node.name().rpartition("::")[2].split("Backward")[0]
        if name in _KINKED or name.startswith(("MaxPool", "AdaptiveMaxPool", "FractionalMaxPool")):
            found.add(name)
    return sorted(found)


def differentiable_once(gradients: Iterable[Tensor]) -> bool:
    """Whether gradients come through a function that torch was told cannot be differentiated twice.

    Such a function (`torch.autograd.function.once_differentiable`) ends the graph of the gradient with a node that
    raises when it is run; but `torch.autograd.grad` never runs it, as no parameter lies behind it, and returns
    products without the part of that function.

    Args:
        gradients: Tensors with their graphs.
    """
    return any(node.name().endswith("::Error") for node in _nodes(gradients))


def runs_again_in_backward(loss: Tensor) -> bool:
    """Whether parts of a graph run again by a ``backward()`` of their own, as under reentrant checkpointing.

    `torch.autograd.grad` refuses to run such a part, but where no parameter lies before it passes it by without a word,
    and parameters inside get no gradient.

    Args:
        loss: A tensor with its graph.
    """
    return any(node.name() == "CheckpointFunctionBackward" for node in _nodes([loss]))


def reached_leaves(loss: Tensor) -> Iterator[Tensor]:
    """Yields the leaves that a loss's graph leads to, those that a gradient would be accumulated for.

    Args:
        loss: A tensor with its graph.
    """
    for node in _nodes([loss]):
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            yield variable


def _nodes(tensors: Iterable[Tensor]) -> Iterator[Any]:
    stack: list[Any] = [tensor.grad_fn for tensor in tensors]
    visited: set[Any] = set()
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        yield node
        stack.extend(parent for parent, _ in node.next_functions)
