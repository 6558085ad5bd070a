"""Sums of squared gradients of single data, without forming the gradients one by one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from hybridopt.core import CombinationError
from hybridopt.curvature.empirical_fisher import uses_batch
from hybridopt.curvature.kronecker import capture
from hybridopt.curvature.kronecker.cotangents import signed
from hybridopt.curvature.kronecker.layers import layers_of
from hybridopt.curvature.likelihood import own_part
from hybridopt.objective import Point

_ENTRIES = 1 << 23
"""Numbers in a piece of gradients of single data that are formed at a time."""


def squared_gradients(
    point: Point,
    columns: Sequence[Sequence[Tensor]],
    *,
    draws: int = 4,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, list[int]]:
    """Returns ``sum_k sum_n (J_n' u_kn)^2``, elementwise squares, over columns k and data n.

    With the loss's scaled gradient as the only column that is the diagonal of the empirical Fisher matrix, with the
    columns of a square root of the loss's Hessian that of the Gauss-Newton matrix.

    Exact for the weights and biases of dense, convolutional and recurrent layers, however often they are used: the
    gradient of a datum is the product of what enters the layer and what comes back, so that a dense layer's sum is one
    matrix product of squares (Martens 2010, section 4.7), and other layers' gradients are formed in pieces that fit
    into memory. Each column costs one backward pass on a forward pass of its own; the ledger counts a gradient. The
    parameters of other layers (normalization, embedding, written-out ones) are *estimated* by squares of ``J' (r u)``
    with random signs r_n: unbiased, with `draws` more gradients a column.

    Where data are coupled (BatchNorm in train mode) the sum is over what comes back at the data's own rows.

    Args:
        point: Where.
        columns: The u_k, each one tensor per output (see `Point.outputs`).
        draws: Random signs for each column, for the parameters that are estimated.
        generator: Where they come from; one seeded with 0 when None.

    Returns:
        Shape (n,), without regularization, and the positions of the parameters that were estimated.

    Raises:
        CombinationError: If the objective is evaluated in micro-batches.
    """
    if not point.keeps_graph:
        raise CombinationError("Gradients of single data need the whole batch at once, not micro-batches.")
    own = own_part(point)[1]
    space, samples = point.space, own.objective.samples
    out = torch.zeros(space.n, dtype=space.dtype, device=space.device)
    parts = space.views(out)
    if not columns or not columns[0]:
        return out, []
    with capture(own.objective) as seen:
        layers = {
            layer: calls
            for layer, calls in layers_of(seen.calls).items()
            if all(place not in seen.others for place in layer.positions)
        }
        known = {place for layer in layers for place in layer.positions}
        rest = [place for place in range(len(parts)) if place not in known]
        for column in columns:
            seen.backward(list(column))
            for layer, calls in layers.items():
                pairs = [(call.gradients(), call) for call in calls]
                pairs = [
                    (gradients, layer.inputs(call, gradients)) for gradients, call in pairs if gradients is not None
                ]
                if not pairs:
                    continue
                if any(tensor.shape[1] != samples for pair in pairs for tensor in pair):
                    # Its rows are no data: a layer that works on the parameters, or on the batch as a whole.
                    rest = sorted({*rest, *layer.positions})
                    continue
                held = [torch.zeros_like(part) for part in parts]
                layer.scatter(_squares(pairs), held)
                for place in layer.positions:
                    parts[place].add_(held[place])
    (out,) = point.objective.summed([out])
    parts = space.views(out)
    rest = [place for place in rest if place in point.used]
    if rest:
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        estimate = torch.zeros_like(out)
        for column in columns:
            for _ in range(draws):
                estimate += point.pull_back(signed(point, column, generator)).square_() / draws
        for place, part in enumerate(space.views(estimate)):
            if place in rest:
                parts[place].copy_(part)
    return out, rest


def couples_data(point: Point) -> bool:
    """Whether the model normalizes by the batch, so that no datum has a Jacobian of its own.

    Args:
        point: Where.
    """
    return any(isinstance(module, _BatchNorm) and uses_batch(module) for module in point.objective.model.modules())


def _squares(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum over data of a layer's squared gradients, (groups, rows, columns), from what comes back and what enters."""
    gradients, inputs = pairs[0]
    if len(pairs) == 1 and gradients.shape[2] == 1:
        return torch.einsum("gnr,gnc->grc", gradients[:, :, 0].square(), inputs[:, :, 0].square())
    size = gradients.shape[0] * gradients.shape[3] * inputs.shape[3]
    piece = max(1, _ENTRIES // max(1, size))
    total = torch.zeros(
        gradients.shape[0], gradients.shape[3], inputs.shape[3], dtype=gradients.dtype, device=gradients.device
    )
    for start in range(0, gradients.shape[1], piece):
        rows = slice(start, start + piece)
        single = sum(torch.einsum("gnpr,gnpc->gnrc", g[:, rows], a[:, rows]) for g, a in pairs)
        total += single.square().sum(1)  # type: ignore[union-attr]
    return total
