"""Counting what autograd really does, without asking the ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Tally:
    """What passed a probe in the middle of a model.

    Attributes:
        samples: Of each forward pass, in order.
        passes: For each run of the autograd engine: the forward passes whose probe it came by, downwards (an ordinary
            backward pass) and upwards (the backward pass of a backward pass).
    """

    samples: list[int] = field(default_factory=list)
    passes: dict[int, tuple[list[int], list[int]]] = field(default_factory=dict)

    def down(self, forward: int) -> None:
        """Notes that a backward pass came by.

        Args:
            forward: Number of the forward pass whose graph it is.
        """
        self._current()[0].append(forward)

    def up(self, forward: int) -> None:
        """Notes that the backward pass of a backward pass came by.

        Args:
            forward: As for `down`.
        """
        self._current()[1].append(forward)

    def _current(self) -> tuple[list[int], list[int]]:
        return self.passes.setdefault(torch._C._current_graph_task_id(), ([], []))

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Returns calls and samples of each kind, as the ledger should have them.

        A Hessian product is one run of the engine that goes up and down again; a Gauss-Newton product a run that goes
        up only, for the Jacobian, and one that goes down only. A gradient is any other run down. A forward pass that
        no run ever went down was for the value alone.
        """
        calls: Counter[str] = Counter()
        samples: Counter[str] = Counter()

        def add(kind: str, forward: int, times: int = 1) -> None:
            calls[kind] += times
            samples[kind] += times * self.samples[forward]

        used: set[int] = set()
        for down, up in self.passes.values():
            used.update(down)
            if down and up:
                add("hvp", up[0])
            elif up:
                add("ggnvp", up[0])
                add("gradient", up[0], -1)  # its other half comes by as a run down
            else:
                add("gradient", down[0])
        for forward in range(len(self.samples)):
            if forward not in used:
                add("forward", forward)
        kinds = ("forward", "gradient", "hvp", "ggnvp")
        return {kind: calls[kind] for kind in kinds}, {kind: samples[kind] for kind in kinds}


class _Down(torch.autograd.Function):
    """The identity, with a backward pass that is counted, and whose own backward pass is counted too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tally: Tally) -> Tensor:
        ctx.tally, ctx.forward_number = tally, len(tally.samples)
        tally.samples.append(x.shape[0])
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.tally.down(ctx.forward_number)
        return _Up.apply(gradient, ctx.tally, ctx.forward_number), None


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, tally: Tally, number: int) -> Tensor:
        ctx.tally, ctx.forward_number = tally, number
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, vector: Tensor) -> tuple[Tensor, None, None]:
        ctx.tally.up(ctx.forward_number)
        return vector.view_as(vector), None, None


class Counted(nn.Module):
    """Two layers with a probe between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.tally = Tally()

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs to outputs.

        Args:
            x: Shape (samples, 4).
        """
        return self.last(_Down.apply(torch.tanh(self.first(x)), self.tally))
