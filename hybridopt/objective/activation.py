"""SiLU and Mish with lean second derivatives.

Where the backward pass of these two is recorded, torch computes it from elementary operations, of which each keeps its
arguments: five tensors per activation instead of two, and as many operations in every product. Here the graph keeps
the argument and the cotangent, and products share ``c f''(x)``, which the first of them computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.objective.demand import Demand


@dataclass(frozen=True)
class Curve:
    """A function of one number by its derivatives; all of them tensors in, tensors out.

    Attributes:
        value: x -> f(x).
        pull: c, x -> c f'(x), by torch's kernel.
        bend: x -> f''(x), in operations that can be differentiated.
    """

    value: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]
    bend: Callable[[Tensor], Tensor]


def _silu_bend(x: Tensor) -> Tensor:
    # s (1 - s) (2 + x (1 - 2 s)) with the sigmoid s(x) = (1 + h) / 2.
    h = torch.tanh(0.5 * x)
    return torch.ops.aten.tanh_backward(0.5 - 0.25 * x * h, h)


def _mish_bend(x: Tensor) -> Tensor:
    # (1 - t^2) s (2 + x (1 - s - 2 s t)) with t = tanh(log(1 + e^x)) and the sigmoid s.
    s, t = torch.sigmoid(x), torch.tanh(torch.nn.functional.softplus(x))
    return torch.ops.aten.tanh_backward(s * (2.0 + x * (1.0 - s - 2.0 * s * t)), t)


_CURVES: Mapping[str, Curve] = {
    "silu": Curve(torch.ops.aten.silu, torch.ops.aten.silu_backward, _silu_bend),
    "mish": Curve(torch.ops.aten.mish, torch.ops.aten.mish_backward, _mish_bend),
}


def supports(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether `activation` can serve a call of torch's function of that name.

    Args:
        name: ``silu`` or ``mish``.
        args: Its positional arguments.
        kwargs: Its named arguments.
    """
    # In place only torch can do it: the model may look at the argument afterwards.
    return name in _CURVES and len(args) == 1 and args[0].is_floating_point() and not any(kwargs.values())


def activation(name: str, x: Tensor, demand: Demand) -> Tensor:
    """Returns what torch's function of that name returns.

    Args:
        name: ``silu`` or ``mish``.
        x: Its argument.
        demand: Of the graph that is being built.
    """
    return _Activation.apply(x, _CURVES[name], demand)


class _Activation(torch.autograd.Function):
    """x -> f(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, curve: Curve, demand: Demand) -> Tensor:
        ctx.save_for_backward(x)
        ctx.set_materialize_grads(False)
        ctx.curve, ctx.demand = curve, demand
        return curve.value(x)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> tuple[Any, ...]:
        if cotangent is None:
            return None, None, None
        (x,) = ctx.saved_tensors
        return _Pull.apply(cotangent, x, ctx.curve, ctx.demand), None, None


class _Pull(torch.autograd.Function):
    """Cotangent c, x -> c f'(x)."""

    @staticmethod
    def forward(ctx: Any, cotangent: Tensor, x: Tensor, curve: Curve, demand: Demand) -> Tensor:
        ctx.save_for_backward(cotangent, x)
        ctx.set_materialize_grads(False)
        ctx.curve, ctx.demand = curve, demand
        ctx.bent = None
        return curve.pull(cotangent, x)

    @staticmethod
    def backward(ctx: Any, along: Tensor | None) -> tuple[Any, ...]:
        if along is None:
            return None, None, None, None
        cotangent, x = ctx.saved_tensors
        want_cotangent, want_x = ctx.needs_input_grad[:2]
        for_cotangent = for_x = None
        if want_cotangent:
            for_cotangent = _Pull.apply(along, x, ctx.curve, ctx.demand)
        if want_x and torch.is_grad_enabled():  # a third derivative may follow, as in a loss made of derivatives
            for_x = along * cotangent * ctx.curve.bend(x)
        elif want_x and not ctx.demand.jacobian:
            if ctx.bent is None:
                ctx.bent = ctx.curve.bend(x).mul_(cotangent)
            for_x = along * ctx.bent
        return for_cotangent, for_x, None, None
