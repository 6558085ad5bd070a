"""A recurrent layer as two autograd nodes, so that a second derivative costs two sweeps over time and no more.

Differentiating a loop over time twice with autograd costs a handful of nodes per step and per derivative. Here a whole
layer is one node, and so is its backward pass:

- `LayerForward` maps (input, states, weights) to (output, final cell). Its backward pass is one sweep back in time.
- `LayerBackward` is that backward pass, as a function that can be differentiated once more. What comes in then is a
  direction in the space of (input, states, weights), and the derivative along it needs

  1. the tangent of the output, one sweep forward in time. It is the derivative for the gradient of the output, and
     all that a Jacobian product by the double-backward trick asks for: then nothing else is computed.
  2. the derivative of the gradient (Pearlmutter 1994, the R-operator), which is the backward sweep once more, with
     other sources. That sweep is not run here: the sources are handed to `LayerForward` as gradients of the output
     and of a further output, `local`, which stands for what the steps compute between their matrix products. The
     engine adds them to what comes back from the loss, and one sweep does for both.

A third derivative is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hybridopt.objective.recurrent_sweeps import Adjoint, Sweeps


def run_layer(
    cell_type: type[Sweeps], x: Tensor, h0: Tensor, c0: Tensor | None, *weights: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Runs one layer in one direction, twice differentiable.

    Args:
        cell_type: Which cell.
        x: Input, (T, B, I).
        h0: Initial hidden state, (B, H).
        c0: Initial cell, (B, H), or None.
        *weights: Packed weights, as the cell documents them.

    Returns:
        The hidden states, (T, B, H), and the final cell, (B, H), or None.
    """
    out, cell, _ = LayerForward.apply(x, h0, c0, *weights, cell_type)
    return out, cell


class LayerForward(torch.autograd.Function):
    """The layer; see `run_layer`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h0: Tensor, c0: Tensor | None, *rest: Any) -> tuple[Tensor | None, ...]:
        """Runs the forward sweep."""
        *weights, cell_type = rest
        ctx.set_materialize_grads(False)
        ctx.sweeps = sweeps = cell_type(x, h0, c0, weights)
        out = sweeps.output()
        # Only the shape of `local` matters: it is what its gradient is checked against. It takes no memory.
        local = x.new_empty(()).expand(sweeps.local_shape)
        ctx.save_for_backward(x, h0, out, local, *weights)
        return out, sweeps.final_cell(), local

    @staticmethod
    def backward(ctx: Any, out: Tensor | None, cell: Tensor | None, local: Tensor | None) -> tuple[Any, ...]:
        """Sweeps back in time, as a node of its own if the result is to be differentiated again."""
        wanted = _wanted(ctx)
        if not torch.is_grad_enabled():
            if out is None and cell is None and local is None:
                return (None,) * len(ctx.needs_input_grad)
            adjoint = ctx.sweeps.reverse(out, cell, local, keep=False)
            return *ctx.sweeps.gradients(adjoint, wanted), None
        if local is not None:
            raise RuntimeError(
                "A third derivative of a recurrent layer was asked for, and only two are implemented: take the "
                "product without create_graph=True."
            )
        return *LayerBackward.apply(out, cell, *ctx.saved_tensors, ctx.sweeps, wanted), None


class LayerBackward(torch.autograd.Function):
    """The backward pass of `LayerForward`, which can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, grad_out: Tensor | None, grad_cell: Tensor | None, *rest: Any) -> tuple[Tensor | None, ...]:
        """Sweeps back in time."""
        *_, sweeps, wanted = rest
        ctx.set_materialize_grads(False)
        ctx.sweeps = sweeps
        ctx.adjoint = sweeps.reverse(grad_out, grad_cell, None, keep=True)
        ctx.tensors = (grad_out is not None, grad_cell is not None)
        ctx.save_for_backward(*rest[:-2])
        return sweeps.gradients(ctx.adjoint, wanted)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, x: Tensor | None, h0: Tensor | None, c0: Tensor | None, *weights: Tensor | None
    ) -> tuple[Any, ...]:
        """Takes a direction in (x, h0, c0, weights) to the derivatives for what `forward` was given."""
        nothing = (None,) * len(ctx.needs_input_grad)
        if all(part is None for part in (x, h0, c0, *weights)):
            return nothing
        sweeps: Sweeps = ctx.sweeps
        adjoint: Adjoint = ctx.adjoint
        ctx.saved_tensors  # noqa: B018  (raises if one of them was written to since)
        return nothing
