"""Calls of recurrent functions, ours and torch's, and their derivatives side by side."""

from __future__ import annotations

import itertools

import torch
from torch.overrides import TorchFunctionMode

from hybridopt.objective import recurrent

NAMES = ("lstm", "gru", "rnn_tanh", "rnn_relu")
OURS = {name: lambda *args, name=name: recurrent.recurrent(name, args) for name in NAMES}
THEIRS = {name: getattr(torch, name) for name in NAMES}
LAYOUTS = list(itertools.product((1, 2), (False, True), (True, False), (False, True)))
LAYOUT_IDS = [
    f"{layers}layer{'-bi' * bidirectional}{'' if bias else '-nobias'}{'-batchfirst' * batch_first}"
    for layers, bidirectional, bias, batch_first in LAYOUTS
]


class Ours(TorchFunctionMode):
    """Replaces torch's functions by ours, as the guard does."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        ours = OURS.get(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {})) if ours is None else ours(*args)


class Call:
    """Random arguments of one call; tensors that require a gradient are in `tensors`."""

    def __init__(
        self, name, layout=(1, False, True, False), sizes=(4, 3, 2, 3), dtype=torch.float64, seed=0, device="cpu"
    ):
        layers, bidirectional, bias, batch_first = layout
        steps, batch, inputs, hidden = sizes
        generator = torch.Generator().manual_seed(seed)
        gates, directions = {"lstm": 4, "gru": 3}.get(name, 1), 2 if bidirectional else 1

        def draw(*shape, scale=1.0):
            values = scale * torch.randn(*shape, dtype=torch.float64, generator=generator)
            return values.to(device, dtype).requires_grad_()

        self.name, self.layout = name, layout
        self.x = draw(*((batch, steps) if batch_first else (steps, batch)), inputs)
        self.states = [draw(layers * directions, batch, hidden) for _ in range(2 if name == "lstm" else 1)]
        self.weights = []
        for layer in range(layers):
            width = inputs if layer == 0 else hidden * directions
            for _ in range(directions):
                self.weights += [draw(gates * hidden, width, scale=0.6), draw(gates * hidden, hidden, scale=0.6)]
                if bias:
                    self.weights += [draw(gates * hidden), draw(gates * hidden)]

    @property
    def tensors(self):
        return [self.x, *self.states, *self.weights]

    def args(self, tensors=None, dropout=0.0):
        x, *rest = self.tensors if tensors is None else tensors
        states, weights = rest[: len(self.states)], rest[len(self.states) :]
        layers, bidirectional, bias, batch_first = self.layout
        hx = tuple(states) if self.name == "lstm" else states[0]
        return x, hx, list(weights), bias, layers, dropout, True, bidirectional, batch_first

    def run(self, functions, *tensors):
        return functions[self.name](*self.args(tensors or None))


def second_order(call, functions, select=lambda outputs: outputs):
    """Outputs, gradients, and the derivative of the gradients along a direction, also for the outputs' gradients."""
    outputs = select(call.run(functions))
    generator = torch.Generator().manual_seed(7)

    def draw(tensors):
        return [torch.randn(t.shape, dtype=torch.float64, generator=generator).to(t) for t in tensors]

    cotangents = [cotangent.requires_grad_() for cotangent in draw(outputs)]
    inputs = [tensor for tensor in call.tensors if tensor.requires_grad]
    gradients = torch.autograd.grad(outputs, inputs, cotangents, create_graph=True, allow_unused=True)
    live = [gradient for gradient in gradients if gradient is not None and gradient.requires_grad]
    products = torch.autograd.grad(live, [*inputs, *cotangents], draw(live), allow_unused=True)
    return outputs, gradients, products


def assert_same(ours, theirs, tolerance):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        # Where torch's graph says nothing depends on it, zero is as right as None, and the other way round.
        if a is None or b is None:
            assert all(t is None or not t.any() for t in (a, b))
        else:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
