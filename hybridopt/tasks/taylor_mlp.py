"""A tanh network that returns its own first and second input derivatives, by one forward pass."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class TaylorMLP(nn.Module):
    """A multilayer perceptron u(x) with tanh units, and du/dx_i, d2u/dx_i^2 for every input x_i.

    The derivatives are carried through the layers by the chain rule (forward, in closed form), so they are ordinary
    outputs: the loss of a differential equation is differentiated as often as any other, without nested autograd.

    Args:
        inputs: Number of inputs d.
        width: Units of each hidden layer.
        layers: Hidden layers.
        outputs: Number of outputs.
    """

    def __init__(self, inputs: int, width: int, layers: int, outputs: int = 1) -> None:
        super().__init__()
        sizes = [inputs, *[width] * layers, outputs]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        for linear in self.linears:
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns u, shape (samples, outputs).

        Args:
            x: Shape (samples, inputs).
        """
        for linear in self.linears[:-1]:
            x = linear(x).tanh()
        return self.linears[-1](x)

    def derivatives(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns u, its first and its unmixed second derivatives.

        Args:
            x: Shape (samples, inputs).

        Returns:
            Shapes (samples, outputs), (inputs, samples, outputs), (inputs, samples, outputs).
        """
        first = x.new_zeros(x.shape[1], *x.shape)
        for direction in range(x.shape[1]):
            first[direction, :, direction] = 1.0
        second = x.new_zeros(first.shape)
        last = len(self.linears) - 1
        for index, linear in enumerate(self.linears):
            x, first, second = linear(x), first @ linear.weight.t(), second @ linear.weight.t()
            if index < last:
                # tanh' = 1 - tanh^2, tanh'' = -2 tanh tanh'
                x = x.tanh()
                slope = 1 - x.square()
                second = slope * second - 2 * x * slope * first.square()
                first = slope * first
        return x, first, second
