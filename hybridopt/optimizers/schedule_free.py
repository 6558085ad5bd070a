"""Schedule-free SGD and AdamW: averaging in place of a learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.objective import Objective
from hybridopt.optimizers.first_order_base import RateConfig
from hybridopt.optimizers.multi_tensor import Group, MultiTensor


@dataclass
class ScheduleFreeConfig(RateConfig):
    """Options of `ScheduleFree`.

    Attributes:
        lr: Learning rate; for ``sgd`` some ten times that of SGD with momentum.
        flavour: The steps of the base sequence: ``adamw`` (normalized, decoupled decay) or ``sgd`` (L2).
        interpolation: Share of the average x in the point y where gradients are taken; takes the place of momentum.
        beta2: Decay of the mean square (``adamw``).
        eps: Added to the denominator (``adamw``).
        warmup_steps: Steps over which the rate rises linearly.
        polynomial: Exponent r of the step count in the weights of the average.
        lr_power: Exponent of the rate in the weights of the average.
        weight_decay: Taken at y: decoupled for ``adamw``, L2 for ``sgd``.
    """

    lr: float = option(2.5e-3, ge=0, search=("log", 1e-4, 10.0), help="learning rate; larger than a scheduled one")
    flavour: str = option("adamw", choices=["adamw", "sgd"], help="steps of the base sequence")
    interpolation: float = option(0.9, gt=0, lt=1, search=[0.9, 0.95, 0.98], help="share of the average in y")
    beta2: float = option(0.999, ge=0, lt=1, help="decay of the mean square (adamw)")
    eps: float = option(1e-8, ge=0, help="added to the denominator (adamw)")
    warmup_steps: int = option(0, ge=0, help="steps over which the rate rises")
    polynomial: float = option(0.0, ge=0, help="exponent of the step in the weights of the average")
    lr_power: float = option(2.0, ge=0, help="exponent of the rate in the weights of the average")


class ScheduleFree(MultiTensor):
    """Schedule-free learning (Defazio et al. 2024, "The road less scheduled", algorithm 1).

    Gradients are taken at ``y = (1 - b) z + b x``, the base sequence z takes the steps, and x is the weighted average
    of z. While it trains the model holds y; ``with optimizer.evaluation():`` puts x into it. BatchNorm's running
    statistics are those of y; renew them inside that context by some forward passes in training mode where it matters
    (`torch.optim.swa_utils.update_bn`).

    The weights of the average are ``t^r * lr_t^p`` with the rate of step t, as in the paper; the authors' code takes
    the largest rate so far, which differs only under a falling schedule. Under a rate of zero the model stands still.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = ScheduleFreeConfig
    own_options = (*MultiTensor.own_options, "flavour", "warmup_steps", "polynomial", "lr_power")
    summary = "SGD or AdamW with averaging instead of a schedule"

    @property
    def coupled_decay(self) -> bool:  # type: ignore[override]
        """Whether the decay is L2, a part of the function."""
        return self.config.flavour == "sgd"

    def move(self, loss: Tensor) -> None:
        """Moves y, z and, through the weights, x.

        Args:
            loss: Not looked at.
        """
        for index, group, parameters, gradients in self.present():
            lr, share = self._weigh(index, group)
            base = self.copies(parameters, "z")
            if self.config.flavour == "adamw":
                gradients = self._normalized(group, parameters, gradients)
            if group["weight_decay"]:
                gradients = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
            # y' = (1 - b) z' + b x' with x' = (1 - c) x + c z' and z' = z - lr g, written without x.
            torch._foreach_lerp_(parameters, base, share)
            torch._foreach_add_(parameters, gradients, alpha=lr * (group["interpolation"] * (1 - share) - 1))
            torch._foreach_add_(base, gradients, alpha=-lr)

    def _weigh(self, index: int, group: Group) -> tuple[float, float]:
        """This step's rate, and the share c of the new base point in the average."""
        counts: list[dict[str, Any]] = self.memory.setdefault("groups", [])
        while len(counts) <= index:
            counts.append({"steps": 0, "weights": 0.0})
        count, config = counts[index], self.config
        count["steps"] += 1
        lr = float(group["lr"])
        if count["steps"] < config.warmup_steps:
            lr *= count["steps"] / config.warmup_steps
        if lr == 0.0:
            return 0.0, 0.0
        weight = count["steps"] ** config.polynomial * lr**config.lr_power
        count["weights"] += weight
        return lr, weight / count["weights"] if count["weights"] else 0.0

    def _normalized(self, group: Group, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """The gradients over the root of their mean squares, corrected for their start at zero."""
        (squares,) = self.buffers(parameters, "exp_avg_sq")
        beta2 = group["beta2"]
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        states = [self.state[parameter] for parameter in parameters]
        for state in states:
            state["steps"] = state.get("steps", 0) + 1  # its own: it may have been frozen for a while
        roots = torch._foreach_div(squares, [1 - beta2 ** state["steps"] for state in states])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        return torch._foreach_div(gradients, roots)

    @property
    def averaging(self) -> bool:
        """Always: the model trains at y and is evaluated at x."""
        return True

    def averages(self) -> list[tuple[Tensor, Tensor]]:
        """Returns the average x for every parameter that has moved."""
        return [
            (parameter, torch.lerp(parameter, self.state[parameter]["z"], 1 - 1 / group["interpolation"]))
            for group in self.param_groups
            for parameter in group["params"]
            if parameter in self.state and "z" in self.state[parameter]
        ]

    def moved(self, objective: Objective, reason: str) -> None:
        """Starts the averages anew after a jump.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        if reason == "restore":
            return
        for parameter, state in self.state.items():
            if isinstance(parameter, Tensor) and "z" in state:
                state["z"] = parameter.detach().clone()
        for count in self.memory.get("groups", []):
            count["weights"] = 0.0
