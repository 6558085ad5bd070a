"""The step of methods that move by a formula of their own and test nothing afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.objective import Objective
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.report import norm
from hybridopt.optimizers.torch_step import TorchStep


@dataclass
class DirectConfig:
    """Options that all such methods share.

    Attributes:
        lr: Learning rate.
        weight_decay: Decoupled, as in AdamW: each step also shrinks the parameters by lr * weight_decay.
        clip_norm: Largest Euclidean norm of the whole gradient, or None.
        clip_value: Largest absolute value of a gradient entry, or None; clipped before the norm.
    """

    lr: float = option(1e-3, ge=0, search=("log", 1e-5, 1e-1), help="learning rate")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-4, 1.0), help="decoupled weight decay")
    clip_norm: float | None = option(None, gt=0, help="largest norm of the gradient")
    clip_value: float | None = option(None, gt=0, help="largest absolute gradient entry")


class DirectStep(TorchStep, Optimizer):
    """Base of structured methods without an acceptance test; a subclass writes `move`.

    The gradient comes from the model's own forward pass, as for the first-order methods, and nothing is packed into a
    flat vector. State lies under each parameter, in its dtype, so freezing one of them leaves that of the others. A
    loss or gradient that is not finite, and a gradient of zero, end the step before anything has changed: the
    statistics of these methods would not recover from a NaN.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = DirectConfig
    family = "structured"
    coupled_decay = False
    group_options: ClassVar[tuple[str, ...]] = ("lr", "weight_decay", "rule")

    def _descend(self, objective: Objective, parameters: list[Tensor]) -> Tensor:
        loss = self._differentiate(objective, parameters)
        gradients = [p.grad for p in parameters if p.grad is not None]
        total = norm(gradients)
        # The only value that the host waits for.
        value, length = torch.stack([loss.to(total), total]).tolist()
        self.note(grad_norm=length)
        if self.can_descend(value, length):
            self.note(accepted=True)
            with torch.no_grad():
                self.move(objective)
        return loss

    def move(self, objective: Objective) -> None:
        """Moves the parameters, given ``p.grad``; the one method that a subclass has to write.

        Called without gradient recording, and only with a gradient that is finite and not zero.

        Args:
            objective: The objective of the step, not bound.

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say how it moves: define move(self, objective).")

    def _clip(self, parameters: list[Tensor]) -> None:
        if self.config.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, self.config.clip_value)
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)

    @staticmethod
    def _active(group: dict[str, Any]) -> list[Tensor]:
        """Returns the parameters of a group that have a gradient in this step."""
        return [p for p in group["params"] if p.requires_grad and p.grad is not None]


def decay(parameters: list[Tensor], factor: float) -> None:
    """Shrinks parameters by decoupled weight decay, in place.

    Args:
        parameters: Any tensors.
        factor: lr * weight_decay.
    """
    if parameters and factor:
        torch._foreach_mul_(parameters, 1.0 - factor)
