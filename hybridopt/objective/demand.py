"""What the running backward pass is for."""

from __future__ import annotations


class Demand:
    """Tells the custom functions of one graph what a product needs of their second derivatives.

    A Jacobian product follows one path through a graph in which nearly everything requires a gradient: only
    derivatives with respect to cotangents are used. ``ctx.needs_input_grad`` cannot tell, so the point that owns the
    graph does; without it such a product would cost twice as much.

    Attributes:
        jacobian: Whether a Jacobian product is being taken.
    """

    __slots__ = ("jacobian",)

    def __init__(self) -> None:
        self.jacobian = False
