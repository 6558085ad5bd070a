"""Layers that give away their inputs and the gradients of their pre-activations.

K-FAC needs, for every layer s = W a + b, the inputs a and the derivatives of a function of the model's outputs with
respect to s. The functions here compute what torch's of the same name compute; their backward passes hand the second
to a `Call` and take no weight gradients, which nobody asks for here. Recurrent layers run the sweeps of
`hybridopt.objective.recurrent`, whose sweep back in time has the gradients of all gates of all steps at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hybridopt.objective import recurrent_gru, recurrent_lstm, recurrent_rnn
from hybridopt.objective.recurrent_sweeps import Sweeps


@dataclass(eq=False)
class Call:
    """One use of a layer in one forward pass.

    Attributes:
        weight: Position of the weight among the parameters, None if it is a constant here.
        bias: Position of the bias, None if there is none or it is a constant.
        kind: ``linear``, ``convolution`` or ``recurrent``.
        groups: Groups of a convolution; 1 for all others.
        inputs: Returns the inputs, (groups, samples, positions, columns of the weight), without the one of the bias.
            Positions are where the weight is shared: places of an image, steps of a sequence.
        arrange: Takes `raw` to (groups, samples, positions, rows of the weight).
        raw: Gradient that the last backward pass left, as it came; None if none did.
    """

    weight: int | None
    bias: int | None
    kind: str
    groups: int
    inputs: Callable[[], Tensor]
    arrange: Callable[[Tensor], Tensor]
    raw: Tensor | None = field(default=None, repr=False)

    def gradients(self) -> Tensor | None:
        """Returns the gradients of the pre-activations, (groups, samples, positions, rows), or None if none came."""
        return None if self.raw is None else self.arrange(self.raw)


def samples_first(tensor: Tensor, samples: int) -> Tensor:
    """Returns a layer's input or output, (..., d), as (1, N, P, d) with the samples as N.

    The samples are the first dimension of that length, as a rule the first of all; where no dimension has it, the
    first one is taken.

    Args:
        tensor: Shape (..., d).
        samples: How many samples the batch has.
    """
    if tensor.dim() == 1:
        return tensor[None, None, None]
    leading = list(tensor.shape[:-1])
    axis = leading.index(samples) if samples in leading else 0
    return tensor.movedim(axis, 0).reshape(1, leading[axis], -1, tensor.shape[-1])


class Affine(torch.autograd.Function):
    """x -> W x + b on the last dimension."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Applies the layer; `anchor` only makes the result require a gradient."""
        ctx.call, ctx.weight = call, weight
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Hands over the gradient of the pre-activations."""
        ctx.call.raw = gradient
        x = (gradient.to(ctx.weight.dtype) @ ctx.weight).to(gradient.dtype) if ctx.needs_input_grad[2] else None
        return None, None, x, None, None


class Convolve(torch.autograd.Function):
    """A convolution; `shape` is (stride, padding, dilation)."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, call: Call, x: Tensor, weight: Tensor, bias: Tensor | None, shape: Any, groups: int
    ) -> Tensor:
        """Applies the layer; `anchor` only makes the result require a gradient."""
        stride, padding, dilation = shape
        ctx.call, ctx.shape, ctx.groups = call, shape, groups
        ctx.save_for_backward(x, weight)
        return torch.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Hands over the gradient of the pre-activations."""
        ctx.call.raw = gradient
        result = None
        if ctx.needs_input_grad[2]:
            x, weight = ctx.saved_tensors
            stride, padding, dilation = ctx.shape
            result = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, stride, padding, dilation, False, [0] * len(stride), ctx.groups,
                [True, False, False],
            )[0]  # fmt: skip
        return None, None, result, None, None, None, None


def patches(x: Tensor, kernel: Sequence[int], shape: Any, groups: int) -> Tensor:
    """Returns what a convolution's kernel sees at each place, (groups, N, places, columns of the weight).

    Args:
        x: Input, (N, C, ...), one to three further dimensions.
        kernel: Size of the kernel.
        shape: Stride, padding and dilation, one number for each dimension.
        groups: The convolution's groups.
    """
    stride, padding, dilation = shape
    x = F.pad(x, [side for size in reversed(padding) for side in (size, size)])
    count = len(kernel)
    for i in range(count):
        x = x.unfold(2 + i, dilation[i] * (kernel[i] - 1) + 1, stride[i])[..., :: dilation[i]]
    # (N, C, places of each dimension, kernel of each dimension)
    x = x.unflatten(1, (groups, -1)).movedim(1, 0)
    x = x.permute(0, 1, *range(3, 3 + count), 2, *range(3 + count, 3 + 2 * count))
    return x.reshape(groups, x.shape[1], -1, x.shape[2 + count] * torch.Size(kernel).numel())


def places(gradient: Tensor, groups: int) -> Tensor:
    """Returns a convolution's output gradient, (N, O, ...), as (groups, N, places, O / groups).

    Args:
        gradient: Shape (N, O, ...).
        groups: The convolution's groups.
    """
    return gradient.flatten(2).unflatten(1, (groups, -1)).permute(1, 0, 3, 2)


@dataclass(frozen=True)
class Cell:
    """What is particular to one kind of recurrent cell.

    Attributes:
        sweeps: Its sweeps.
        pack: Packs torch's weights for them.
        input_rows: Takes the gradients of all pre-activations, (T, n, B), to those of torch's input weight.
        hidden_rows: The same for torch's hidden weight.
    """

    sweeps: type[Sweeps]
    pack: Callable[..., list[Tensor]]
    input_rows: Callable[[Tensor, int], Tensor]
    hidden_rows: Callable[[Tensor, int], Tensor]


def _as_they_are(rows: Tensor, size: int) -> Tensor:
    return rows


def _lstm_rows(rows: Tensor, size: int) -> Tensor:
    return rows.roll(-size, dims=1)  # o, i, f, g -> i, f, g, o


def _gru_input_rows(rows: Tensor, size: int) -> Tensor:
    return rows[:, size : 4 * size]  # q, r, z, p -> r, z, p


def _gru_hidden_rows(rows: Tensor, size: int) -> Tensor:
    return rows[:, : 3 * size].roll(-size, dims=1)  # q, r, z -> r, z, q; q is multiplied by the reset gate


CELLS = {
    "rnn_tanh": Cell(recurrent_rnn.TanhSweeps, recurrent_rnn.pack, _as_they_are, _as_they_are),
    "rnn_relu": Cell(recurrent_rnn.ReLUSweeps, recurrent_rnn.pack, _as_they_are, _as_they_are),
    "gru": Cell(recurrent_gru.GRUSweeps, recurrent_gru.pack, _gru_input_rows, _gru_hidden_rows),
    "lstm": Cell(recurrent_lstm.LSTMSweeps, recurrent_lstm.pack, _lstm_rows, _lstm_rows),
}


class Recur(torch.autograd.Function):
    """One layer of a recurrent network in one direction of time."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, calls: Sequence[Call], cell: Cell, x: Tensor, h0: Tensor, c0: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Sweeps forward in time; `anchor` only makes the result require a gradient."""
        ctx.set_materialize_grads(False)
        ctx.calls, ctx.cell, ctx.weights = calls, cell, len(weights)
        ctx.sweeps = sweeps = cell.sweeps(x, h0, c0, weights)
        states = sweeps.z[: sweeps.steps, : sweeps.size]
        calls[0].inputs = lambda: x.detach().transpose(0, 1)[None]
        calls[1].inputs = lambda: states.permute(2, 0, 1)[None]
        return sweeps.output(), sweeps.final_cell()

    @staticmethod
    def backward(ctx: Any, out: Tensor | None, cell: Tensor | None) -> tuple[Tensor | None, ...]:
        """Hands over the gradients of the gates of all steps."""
        rest = (None,) * ctx.weights
        if out is None and cell is None:
            return None, None, None, None, None, None, *rest
        adjoint = ctx.sweeps.reverse(out, cell, None, None, keep=False)
        size = ctx.sweeps.size
        ctx.calls[0].raw = ctx.cell.input_rows(adjoint.rows, size)
        ctx.calls[1].raw = ctx.cell.hidden_rows(adjoint.rows, size)
        wanted = [*ctx.needs_input_grad[3:6], *(False for _ in rest)]
        x, h0, c0, *_ = ctx.sweeps.gradients(adjoint, wanted)
        return None, None, None, x, h0, c0, *rest


def steps(rows: Tensor) -> Tensor:
    """Returns gate gradients, (T, n, B), as (1, B, T, n).

    Args:
        rows: Shape (T, n, B).
    """
    return rows.permute(2, 0, 1)[None]
