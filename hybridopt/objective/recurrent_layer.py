"""A recurrent layer as two autograd nodes: a second derivative costs two sweeps over time.

Differentiating a loop over time twice with autograd costs a handful of nodes per step and per derivative.
Here a whole layer is one node, and so is its backward pass:

- `LayerForward` maps (input, states, weights) to (output, final cell). Its backward pass is one sweep back in
time.
- `LayerBackward` is that backward pass, as a function that can be differentiated once more. What comes in
then is a
  direction in the space of (input, states, weights), and the derivative along it needs

  1. the tangent of the output, one sweep forward in time. It is the derivative for the gradient of the
  output, and
     all that a Jacobian product by the double-backward trick asks for: then nothing else is computed.
  2. the derivative of the gradient (Pearlmutter 1994, the R-operator), which is the backward sweep once more,
  with
     other sources. That sweep is not run here: the sources are handed to `LayerForward` as gradients of two
     further outputs, `hidden` and `local`, which stand for the hidden states and for what the steps compute
     between their matrix products. So one sweep does for them and for what comes back from the loss.

A third derivative is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hybridopt.objective.recurrent_sweeps import Direction, Sweeps

_THIRD_DERIVATIVE = (
    "This recurrent layer has two derivatives, and a graph for a third one was asked for: take the second without "
    "create_graph=True."
)


def run_layer(
    cell: type[Sweeps], x: Tensor, h0: Tensor, c0: Tensor | None, weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Runs one layer in one direction of time, twice differentiable.

    Args:
        cell: Which cell.
        x: Input, (T, B, I).
        h0: Initial hidden state, (B, H).
        c0: Initial cell, (B, H), or None.
        weights: Packed weights, as the cell documents them.

    Returns:
        The hidden states, (T, B, H), and the final cell, (B, H), or None.
    """
    # Views, so that no input is a leaf: see `_wanted`.
    views = [None if tensor is None else tensor.view_as(tensor) for tensor in (x, h0, c0, *weights)]
    output, final_cell, _, _ = LayerForward.apply(cell, *views)
    return output, final_cell


class LayerForward(torch.autograd.Function):
    """The layer; see `run_layer`."""

    @staticmethod
    def forward(
        ctx: Any, cell: type[Sweeps], x: Tensor, h0: Tensor, c0: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Sweeps forward in time."""
        ctx.set_materialize_grads(False)
        ctx.given = (False, True, True, c0 is not None) + (True,) * len(weights)
        ctx.sweeps = sweeps = cell(x, h0, c0, weights)
        # Of these only the shape matters: it is what their gradients are checked against. They take no
        # memory.
        hidden = x.new_empty(()).expand(sweeps.hidden_shape)
        local = x.new_empty(()).expand(sweeps.local_shape)
        ctx.save_for_backward(x, h0, hidden, local, *weights)
        return sweeps.output(), sweeps.final_cell(), hidden, local

    @staticmethod
    def backward(
        ctx: Any, out: Tensor | None, cell: Tensor | None, hidden: Tensor | None, local: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Sweeps back in time, as a node of its own if the result is to be differentiated again.

        Raises:
            RuntimeError: If a graph for a third derivative is asked for.
        """
        inputs = ctx.saved_tensors  # also where nothing is done with them: it raises if the graph was freed
        wanted = _wanted(ctx)[1:]
        if out is None and cell is None and hidden is None and local is None:
            return (None,) * len(ctx.given)
        if not torch.is_grad_enabled():
            adjoint = ctx.sweeps.reverse(out, cell, hidden, local, keep=False)
            return None, *ctx.sweeps.gradients(adjoint, wanted)
        if hidden is not None or local is not None:
            raise RuntimeError(_THIRD_DERIVATIVE)
        return None, *LayerBackward.apply(ctx.sweeps, wanted, out, cell, *inputs)


class LayerBackward(torch.autograd.Function):
    """The backward pass of `LayerForward`, which can be differentiated once."""

    @staticmethod
    def forward(
        ctx: Any, sweeps: Sweeps, wanted: Sequence[bool], out: Tensor | None, cell: Tensor | None, *inputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Sweeps back in time."""
        ctx.set_materialize_grads(False)
        ctx.given = (False, False, out is not None, cell is not None) + (True,) * len(inputs)
        ctx.sweeps = sweeps
        ctx.adjoint = sweeps.reverse(out, cell, None, None, keep=True)
        return sweeps.gradients(ctx.adjoint, wanted)

    @staticmethod
    def backward(
        ctx: Any, x: Tensor | None, h0: Tensor | None, c0: Tensor | None, *weights: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Takes a direction in (x, h0, c0, weights) to the derivatives for all that `forward` was given.

        Raises:
            RuntimeError: If a graph for a third derivative is asked for.
        """
        if torch.is_grad_enabled():  # once_differentiable would let allow_unused=True turn the refusal into None
            raise RuntimeError(_THIRD_DERIVATIVE)
        _, _, for_out, for_cell, for_x, for_h0, for_hidden, for_local, *for_weights = _wanted(ctx)
        second_order = for_x or for_h0 or for_hidden or for_local or any(for_weights)
        direction = Direction(x, h0, c0, weights)
        if direction.is_zero:
            return (None,) * len(ctx.given)
        tangent = ctx.sweeps.tangent(direction, keep=second_order)
        out = tangent.hidden.transpose(1, 2) if for_out else None
        cell = tangent.cell.t() if for_cell and tangent.cell is not None else None
        if not second_order:
            return None, None, out, cell, *(None,) * (len(ctx.given) - 4)
        to_x, to_h0, hidden, *to_weights = ctx.sweeps.products(
            ctx.adjoint, tangent, direction, (for_x, for_h0, for_hidden, *for_weights)
        )
        local = ctx.sweeps.curvature(ctx.adjoint, tangent.local) if for_local and tangent.local is not None else None
        return None, None, out, cell, to_x, to_h0, hidden, local, *to_weights


def _wanted(ctx: Any) -> list[bool]:
    """Which of a node's inputs the derivative under way goes on to, one flag for each argument of `forward`.

    `ctx.needs_input_grad` only says what may ever need a gradient; a Jacobian product asks for one input of many,
    and saves half of the work by knowing. The engine does not answer for leaves, which count as wanted.
    """
    edges = iter(ctx.next_functions)
    nodes = [next(edges)[0] if given else None for given in ctx.given]
    return [
        node is not None and (hasattr(node, "variable") or torch._C._will_engine_execute_node(node)) for node in nodes
    ]
