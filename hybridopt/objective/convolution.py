"""Convolutions whose second derivatives cost only what is asked for.

Torch's double backward of a convolution computes all three of its results whichever are wanted. A Jacobian product
wants one of them, and a Hessian product does not want the derivative in the input of the first layer, the largest of
a typical network. Here each is computed on demand, by the same kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hybridopt.objective.demand import Demand

_DIMENSIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}


def supports(name: str, args: tuple[Any, ...]) -> bool:
    """Whether `convolution` can serve a call of torch's function of that name.

    Args:
        name: ``conv1d``, ``conv2d`` or ``conv3d``.
        args: Its positional arguments.
    """
    # Batched input only, and no padding in words ("same" may be asymmetric).
    return (
        name in _DIMENSIONS
        and args[0].dim() == _DIMENSIONS[name] + 2
        and args[0].numel() > 0
        and not (len(args) > 4 and isinstance(args[4], str))
        and not args[0].dtype.is_complex
    )


def convolution(name: str, args: tuple[Any, ...], demand: Demand) -> Tensor:
    """Returns what torch's function of that name returns.

    Args:
        name: ``conv1d``, ``conv2d`` or ``conv3d``.
        args: Its positional arguments: input, weight, bias, stride, padding, dilation, groups.
        demand: Of the graph that is being built.
    """
    count = _DIMENSIONS[name]
    image, weight, bias, stride, padding, dilation, groups = (*args, *(None, 1, 0, 1, 1)[len(args) - 2 :])
    shape = tuple([value] * count if isinstance(value, int) else list(value) for value in (stride, padding, dilation))
    return _Convolution.apply(image, weight, bias, shape, groups, demand)


class _Convolution(torch.autograd.Function):
    """x, W, b -> x * W + b."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, shape: Any, groups: int, demand: Demand
    ) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.shape, ctx.groups, ctx.demand = shape, groups, demand
        stride, padding, dilation = shape
        return torch.convolution(image, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        image, weight = ctx.saved_tensors
        mask = list(ctx.needs_input_grad[:3])
        return *_Backward.apply(cotangent, image, weight, ctx.shape, ctx.groups, mask, ctx.demand), None, None, None


class _Backward(torch.autograd.Function):
    """Cotangent c, x, W -> derivatives of <c, x * W + b> in x, W and b: bilinear in c and each of the others."""

    @staticmethod
    def forward(
        ctx: Any,
        cotangent: Tensor,
        image: Tensor,
        weight: Tensor,
        shape: Any,
        groups: int,
        mask: list[bool],
        demand: Demand,
    ) -> tuple[Any, ...]:
        ctx.save_for_backward(cotangent, image, weight)
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.groups, ctx.demand = shape, groups, demand
        return tuple(_adjoint(cotangent, image, weight, shape, groups, mask))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_image: Tensor | None, d_weight: Tensor | None, d_bias: Tensor | None) -> tuple[Any, ...]:
        cotangent, image, weight = ctx.saved_tensors
        shape, groups = ctx.shape, ctx.groups
        stride, padding, dilation = shape
        for_cotangent = for_image = for_weight = None
        want_cotangent, want_image, want_weight = ctx.needs_input_grad[:3]
        if ctx.demand.jacobian:
            want_image = want_weight = False
        if want_cotangent:
            bias = d_bias  # goes along with whichever convolution comes first
            for x, w in ((d_image, weight), (image, d_weight)):
                if x is None or w is None:
                    continue
                part = torch.convolution(x, w, bias, stride, padding, dilation, False, [0] * len(stride), groups)
                for_cotangent = part if for_cotangent is None else for_cotangent.add_(part)
                bias = None
            if for_cotangent is None and d_bias is not None:
                for_cotangent = d_bias.view(1, -1, *([1] * len(stride))).expand_as(cotangent)
        if want_image and d_weight is not None:
            for_image = _adjoint(cotangent, image, d_weight, shape, groups, [True, False, False])[0]
        if want_weight and d_image is not None:
            for_weight = _adjoint(cotangent, d_image, weight, shape, groups, [False, True, False])[1]
        return for_cotangent, for_image, for_weight, None, None, None, None


def _adjoint(
    cotangent: Tensor, image: Tensor, weight: Tensor, shape: Any, groups: int, mask: list[bool]
) -> list[Tensor | None]:
    stride, padding, dilation = shape
    results = torch.ops.aten.convolution_backward(
        cotangent,
        image,
        weight,
        [weight.shape[0]],
        stride,
        padding,
        dilation,
        False,
        [0] * len(stride),
        groups,
        mask,
    )
    return [result if want else None for result, want in zip(results, mask, strict=True)]
