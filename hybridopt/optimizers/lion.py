"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.optimizers.first_order_base import RateConfig, check_betas
from hybridopt.optimizers.first_order_rules import SignOfMomentum
from hybridopt.optimizers.multi_tensor import MultiTensor


@dataclass
class LionConfig(RateConfig):
    """Options of `Lion`.

    Attributes:
        betas: Share of the momentum in the step's direction, and decay of the momentum.
        weight_decay: Decoupled: each step also shrinks the parameters by lr * weight_decay.
    """

    lr: float = option(1e-4, ge=0, search=("log", 1e-6, 1e-2), help="learning rate, some 3 to 10 times below Adam's")
    betas: list[float] = option([0.9, 0.99], ge=0, lt=1, help="interpolation of the direction, decay of the momentum")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-4, 10.0), help="decoupled weight decay")


class Lion(MultiTensor):
    """Lion (Chen et al. 2023, "Symbolic discovery of optimization algorithms", algorithm 2).

    The step is ``lr * (sign(b1 m + (1 - b1) g) + weight_decay * p)``, then ``m <- b2 m + (1 - b2) g``.
    """

    Config = LionConfig
    coupled_decay = False
    summary = "sign of an interpolated momentum"
    rule = SignOfMomentum()

    def _arguments(self) -> dict[str, Any]:
        check_betas(self.config.betas, type(self).__name__)
        return super()._arguments()

    def move(self, loss: Tensor) -> None:
        """Moves every group.

        Args:
            loss: Not looked at.
        """
        for _, group, parameters, gradients in self.present():
            (momenta,) = self.buffers(parameters, "exp_avg")
            interpolation, decay = group["betas"]
            directions = torch._foreach_lerp(momenta, gradients, 1 - interpolation)
            torch._foreach_sign_(directions)
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, directions, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - decay)
