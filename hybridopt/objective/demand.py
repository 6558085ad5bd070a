"""What the running backward pass is for, and what the forward pass before it was asked to keep."""

from __future__ import annotations

from torch import Tensor


class Demand:
    """Tells the custom functions of one graph what a product needs of their second derivatives.

    A Jacobian product follows one path through a graph in which nearly everything requires a gradient: only
    derivatives with respect to cotangents are used. ``ctx.needs_input_grad`` cannot tell, so the point that owns the
    graph does; without it such a product would cost twice as much.

    Attributes:
        jacobian: Whether a Jacobian product is being taken.
        hidden: The hidden states that recurrent layers gave, in the order of the forward pass; None if nobody asked.
    """

    __slots__ = ("hidden", "jacobian")

    def __init__(self, *, hidden: bool = False) -> None:
        self.jacobian = False
        self.hidden: list[Tensor] | None = [] if hidden else None

    def watch(self, states: Tensor) -> Tensor:
        """Keeps hidden states, if asked to, and returns them as the forward pass is to go on with them.

        Args:
            states: Any shape.
        """
        if self.hidden is None or not states.requires_grad:
            return states
        # A view of their own, so that all that is made of them comes back through it.
        states = states.view_as(states)
        self.hidden.append(states)
        return states
