"""First-order methods that torch does not have, as plain loops over lists of tensors.

They show what a method's own arithmetic costs without this library: no options, no checks, no reports, no state that
could be saved. `bench_first_order.py` times ours against them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Bare:
    """Model, loss and batch, with the gradient by ``backward`` as in a plain training loop."""

    def __init__(self, model: nn.Module, loss: Callable[..., Tensor], inputs: Tensor, targets: Any) -> None:
        self.model, self.loss, self.inputs, self.targets = model, loss, inputs, targets
        self.parameters = list(model.parameters())

    def value(self) -> Tensor:
        """Returns the loss."""
        return self.loss(self.model(self.inputs), self.targets)

    def gradients(self) -> tuple[Tensor, list[Tensor]]:
        """Returns loss and gradients."""
        for parameter in self.parameters:
            parameter.grad = None
        loss = self.value()
        loss.backward()
        return loss, [parameter.grad for parameter in self.parameters]  # type: ignore[misc]


def dots(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """Returns the inner product of two lists of tensors."""
    return torch.stack([torch.dot(a.view(-1), b.view(-1)) for a, b in zip(left, right, strict=True)]).sum()


def swats(bare: Bare) -> Callable[[], None]:
    """Adam, and the rate its steps amount to (Keskar and Socher 2017, algorithm 1), before the switch."""
    adam = torch.optim.Adam(bare.parameters, lr=1e-3)
    mean, steps = 0.0, 0

    def step() -> None:
        nonlocal mean, steps
        before = [parameter.detach().clone() for parameter in bare.parameters]
        _, gradients = bare.gradients()
        adam.step()
        with torch.no_grad():
            moves = torch._foreach_sub(bare.parameters, before)
            rate = float(dots(moves, moves) / -dots(moves, gradients))
        steps += 1
        mean = 0.999 * mean + 0.001 * rate
        _ = abs(mean / (1 - 0.999**steps) - rate) < 1e-9

    return step


def prodigy(bare: Bare) -> Callable[[], None]:
    """Prodigy (Mishchenko and Defazio 2023, algorithm 4), the estimate staying on the device."""
    ps = bare.parameters
    starts = [p.detach().clone() for p in ps]
    means, squares, sums = ([torch.zeros_like(p) for p in ps] for _ in range(3))
    d, numerator, beta1, beta2 = torch.tensor(1e-6), torch.tensor(0.0), 0.9, 0.999
    decay = math.sqrt(beta2)

    @torch.no_grad()
    def move(gradients: list[Tensor]) -> None:
        nonlocal d, numerator
        numerator = numerator * decay + d * d / 1e-6 * dots(gradients, torch._foreach_sub(starts, ps))
        scaled = torch._foreach_mul(gradients, d)
        torch._foreach_lerp_(means, scaled, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, scaled, scaled, 1 - beta2)
        torch._foreach_mul_(sums, decay)
        torch._foreach_add_(sums, torch._foreach_mul(scaled, d / 1e-6))
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, d * 1e-8)
        torch._foreach_sub_(ps, torch._foreach_mul(torch._foreach_div(means, roots), d))
        d = torch.maximum(d, numerator / torch.stack(list(torch._foreach_norm(sums, 1))).sum())

    return lambda: move(bare.gradients()[1])


def hypergradient(bare: Bare) -> Callable[[], None]:
    """Adam whose rate follows the agreement of gradient and last direction (Baydin et al. 2018, algorithm 5)."""
    ps = bare.parameters
    means, squares = ([torch.zeros_like(p) for p in ps] for _ in range(2))
    rate, last, steps = torch.tensor(1e-3), None, 0

    @torch.no_grad()
    def move(gradients: list[Tensor]) -> None:
        nonlocal rate, last, steps
        steps += 1
        if last is not None:
            rate = (rate + 1e-8 * dots(gradients, last)).clamp(min=0.0)
        torch._foreach_lerp_(means, gradients, 0.1)
        torch._foreach_mul_(squares, 0.999)
        torch._foreach_addcmul_(squares, gradients, gradients, 0.001)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, math.sqrt(1 - 0.999**steps))
        torch._foreach_add_(roots, 1e-8)
        last = list(torch._foreach_div(means, roots))
        torch._foreach_div_(last, 1 - 0.9**steps)
        torch._foreach_sub_(ps, torch._foreach_mul(last, rate))

    return lambda: move(bare.gradients()[1])


def sls(bare: Bare) -> Callable[[], None]:
    """SGD with an Armijo search (Vaswani et al. 2019, algorithms 1 and 2: the rate grows by 2^(1/epoch) a step)."""
    ps, last = bare.parameters, 1.0

    def step() -> None:
        nonlocal last
        loss, gradients = bare.gradients()
        with torch.no_grad():
            start = [p.clone() for p in ps]
            value, square = float(loss), float(dots(gradients, gradients))
            rate = min(last * 2 ** (1 / 500), 10.0)
            for _ in range(100):
                torch._foreach_copy_(ps, start)
                torch._foreach_add_(ps, gradients, alpha=-rate)
                if float(bare.value()) <= value - 0.1 * rate * square:
                    break
                rate *= 0.9
            last = rate

    return step


PEERS: dict[str, Callable[[Bare], Callable[[], None]]] = {
    "plain swats": swats,
    "plain prodigy": prodigy,
    "plain hypergradient": hypergradient,
    "plain sls": sls,
}
