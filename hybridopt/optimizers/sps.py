"""SGD with stochastic Polyak steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.globalization import noise_floor, polyak_rate
from hybridopt.optimizers.first_order_base import RateConfig
from hybridopt.optimizers.multi_tensor import MultiTensor
from hybridopt.optimizers.tensor_lists import total


@dataclass
class SPSConfig(RateConfig):
    """Options of `SPS`.

    Attributes:
        lr: Largest rate (gamma_b in the paper).
        weight_decay: L2 strength, part of the function whose value enters the rate.
        c: Larger is shorter.
        lowest: Lower bound f* of a mini-batch's loss.
        growth: Most by which the rate may grow in an epoch, as a factor; None for no such bound.
        epoch: Steps in an epoch.
        momentum: Share of the last step that is kept.
    """

    lr: float = option(1.0, ge=0, search=("log", 1e-2, 1e2), help="largest rate")
    c: float = option(0.5, gt=0, search=[0.2, 0.5, 1.0], help="larger is shorter")
    lowest: float = option(0.0, help="lower bound of a mini-batch's loss")
    growth: float | None = option(2.0, ge=1, help="most growth of the rate in an epoch; null: no bound")
    epoch: int = option(500, ge=1, help="steps in an epoch")
    momentum: float = option(0.0, ge=0, lt=1, search=[0.0, 0.5, 0.9], help="share of the last step kept")


class SPS(MultiTensor):
    """SGD at the stochastic Polyak rate, bounded: SPS_max of Loizou et al. 2021.

    The rate is ``min((f - f*) / (c |g|^2), lr)`` with f and g of the step's mini-batch. `growth` bounds it by
    ``growth^(1/epoch)`` times the last rate (section 4 there, "smoothing"); the first is bounded by `lr` alone.
    With momentum b the rate is multiplied by 1 - b and b times the last displacement is added (MomSPS_max,
    Oikonomou and Loizou 2024). A loss at or below f*, up to its rounding, gives
    the rate zero (status ``at_lower_bound``).

    A step brings two numbers to the host, the loss and the gradient's norm.

    Report: ``rate, accepted, status``.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = SPSConfig
    own_options = (*MultiTensor.own_options, "c", "lowest", "growth", "epoch", "momentum")
    summary = "SGD at the stochastic Polyak rate"

    def move(self, loss: Tensor) -> None:
        """Finds the rate and moves every group.

        Args:
            loss: Where the step starts.
        """
        squares, values = [], [loss]
        steps: list[tuple[dict, list[Tensor], list[Tensor]]] = []
        for _, group, parameters, gradients in self.present():
            decay = group["weight_decay"]
            if decay:
                gradients = torch._foreach_add(gradients, parameters, alpha=decay)
                values += [norm**2 * (decay / 2) for norm in torch._foreach_norm(parameters)]
            squares += [norm**2 for norm in torch._foreach_norm(gradients)]
            steps.append((group, parameters, gradients))
        if not steps:
            self.can_descend(float(loss), 0.0)  # no parameter has a gradient
            return
        value, square = torch.stack([total(values), total(squares).to(values[0].device)]).tolist()
        if not self.can_descend(value, math.sqrt(square)):
            return
        rate = self._rate(value, square, steps)
        for group, parameters, gradients in steps:
            self._move_group(group, parameters, gradients, min(rate, float(group["lr"])))
        moves = rate > 0.0 or self.config.momentum > 0.0
        self.note(rate=rate, accepted=moves, status="ok" if rate > 0.0 else "at_lower_bound")

    def _rate(self, value: float, square: float, steps: list[tuple[dict, list[Tensor], list[Tensor]]]) -> float:
        config, memory = self.config, self.memory
        eps = max(torch.finfo(parameter.dtype).eps for _, parameters, _ in steps for parameter in parameters)
        rate = polyak_rate(value, square, c=config.c, lowest=config.lowest, noise=noise_floor(value, eps))
        rate = min(rate, max(float(group["lr"]) for group, _, _ in steps))
        if rate > 0.0 and config.growth is not None:
            rate = min(rate, memory.get("last", math.inf) * config.growth ** (1.0 / config.epoch))
            memory["last"] = rate
        return rate

    def _move_group(self, group: dict, parameters: list[Tensor], gradients: list[Tensor], rate: float) -> None:
        share = self.config.momentum
        if not share or not group["lr"]:
            torch._foreach_add_(parameters, gradients, alpha=-rate)
            return
        (displacements,) = self.buffers(parameters, "displacement")
        torch._foreach_mul_(displacements, share)
        torch._foreach_add_(displacements, gradients, alpha=-rate * (1 - share))
        torch._foreach_add_(parameters, displacements)
