"""Prodigy: Adam that finds its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.objective import Objective
from hybridopt.optimizers.first_order_base import RateConfig, check_betas
from hybridopt.optimizers.multi_tensor import MultiTensor
from hybridopt.optimizers.tensor_lists import inner, scalar, subtract_scaled, total


@dataclass
class ProdigyConfig(RateConfig):
    """Options of `Prodigy`.

    Attributes:
        lr: Factor on the rate that is found; 1 is meant.
        betas: Decay of the mean gradient and of the mean square.
        eps: Added to the denominator, times the estimate.
        weight_decay: Decoupled: each step also shrinks the parameters by the rate times this.
        d0: First estimate of the distance to the solution.
        d_factor: Factor on the estimate; the knob to turn before `lr`.
        growth: Most by which the estimate may grow in one step, as a factor.
        bias_correction: Whether to correct the means for their start at zero as Adam does.
        safeguard_warmup: Whether the rate is kept out of the estimate's denominator, for schedules with a warmup.
    """

    lr: float = option(1.0, ge=0, search=[0.3, 1.0, 3.0], help="factor on the rate that is found")
    betas: list[float] = option([0.9, 0.999], ge=0, lt=1, help="decay of the mean gradient and of the mean square")
    eps: float = option(1e-8, ge=0, help="added to the denominator, times the estimate")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-4, 1.0), help="decoupled weight decay")
    d0: float = option(1e-6, gt=0, help="first estimate of the distance")
    d_factor: float = option(1.0, gt=0, search=("log", 0.3, 3.0), help="factor on the estimate")
    growth: float = option(math.inf, gt=1, help="most by which the estimate may grow in one step")
    bias_correction: bool = option(False, help="correct the means for their start at zero")
    safeguard_warmup: bool = option(False, help="keep the rate out of the estimate's denominator")


class Prodigy(MultiTensor):
    """Prodigy (Mishchenko and Defazio 2023, algorithm 4: the Adam version): a rate from an estimated distance.

    The estimate d of the distance from the start to the solution only grows; the step is Adam's at rate ``lr * d``.
    Details that the paper leaves open follow the authors' code: the decay of numerator and denominator by
    ``sqrt(beta2)``, the first estimate above `d0` replacing it, and decoupled decay; the denominator of the step has
    ``d_k * eps`` as in the paper, where the code has the new d. Groups may differ in `lr`; one of zero holds still and
    is left out of the estimate. Nothing is brought to the host.

    Report: ``distance``, the estimate d after the step.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = ProdigyConfig
    coupled_decay = False
    own_options = (*MultiTensor.own_options, "d0", "d_factor", "growth", "bias_correction", "safeguard_warmup")
    summary = "Adam that finds its learning rate"

    def _arguments(self) -> dict[str, Any]:
        check_betas(self.config.betas, type(self).__name__)
        return super()._arguments()

    def move(self, loss: Tensor) -> None:
        """Updates the means and the estimate, then moves every group by the estimate of before.

        Args:
            loss: Not looked at.
        """
        memory, config = self.memory, self.config
        groups = [entry for entry in self.present() if entry[1]["lr"] != 0]
        if not groups:
            return
        if "distance" not in memory:
            everything = [parameter for _, _, parameters, _ in groups for parameter in parameters]
            start = scalar(config.d0, everything)
            memory.update(distance=start, largest=start.clone(), numerator=torch.zeros_like(start))
        distance = memory["distance"]
        decay = math.sqrt(config.betas[1])
        memory["steps"] = memory.get("steps", 0) + 1
        gains, sizes = [memory["numerator"] * decay], []
        for _, group, parameters, gradients in groups:
            gain, size = self._gather(group, parameters, gradients, distance, decay)
            gains.append(gain)
            sizes += size
        memory["numerator"] = total(gains)
        self._move_by(distance, groups)
        self._estimate(total(sizes))
        self.note(distance=memory["distance"])

    def _factor(self, group: dict[str, Any]) -> float:
        """The rate of a group over the estimate: its lr, with Adam's bias correction if it is on."""
        if not self.config.bias_correction:
            return float(group["lr"])
        steps, (beta1, beta2) = self.memory["steps"], group["betas"]
        return float(group["lr"]) * math.sqrt(1 - beta2**steps) / (1 - beta1**steps)

    def _gather(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        distance: Tensor,
        decay: float,
    ) -> tuple[Tensor, list[Tensor]]:
        """Updates a group's means; returns its part of the numerator and the 1-norms of its denominators."""
        config, factor = self.config, self._factor(group)
        starts = self.copies(parameters, "start")
        means, squares, sums = self.buffers(parameters, "exp_avg", "exp_avg_sq", "sum")
        beta1, beta2 = group["betas"]
        gain = inner(gradients, torch._foreach_sub(starts, parameters)) * (distance**2 * (factor / config.d0))
        scaled = torch._foreach_mul(gradients, distance)
        torch._foreach_lerp_(means, scaled, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, scaled, scaled, 1 - beta2)
        torch._foreach_mul_(sums, decay)
        share = distance * ((1.0 if config.safeguard_warmup else factor) / config.d0)
        subtract_scaled(sums, scaled, -share)
        return gain, list(torch._foreach_norm(sums, 1))

    def _move_by(self, distance: Tensor, groups: list[Any]) -> None:
        for _, group, parameters, _ in groups:
            means, squares = self.buffers(parameters, "exp_avg", "exp_avg_sq")
            rate = distance * self._factor(group)
            roots = torch._foreach_sqrt(squares)
            torch._foreach_add_(roots, distance * group["eps"])
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
            subtract_scaled(parameters, torch._foreach_div(means, roots), rate)

    def _estimate(self, denominator: Tensor) -> None:
        memory, config = self.memory, self.config
        distance, largest = memory["distance"], memory["largest"]
        found = config.d_factor * memory["numerator"] / denominator
        # Also where the gradient is zero (0/0) or not finite, the old estimate stands.
        found = torch.where(torch.isfinite(found), found, distance)
        distance = torch.where(distance == config.d0, torch.maximum(distance, found), distance)
        memory["largest"] = torch.maximum(largest, found)
        memory["distance"] = torch.minimum(memory["largest"], distance * config.growth)

    def moved(self, objective: Objective, reason: str) -> None:
        """Measures from the new point after a jump, with the estimate so far as the first one.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        if reason == "restore" or "distance" not in self.memory:
            return
        for parameter, state in self.state.items():
            if isinstance(parameter, Tensor) and "start" in state:
                state["start"] = parameter.detach().clone()
                state["sum"].zero_()
        self.memory["numerator"].zero_()
