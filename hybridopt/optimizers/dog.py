"""DoG: distance over gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.objective import Objective
from hybridopt.optimizers.first_order_base import RateConfig
from hybridopt.optimizers.multi_tensor import MultiTensor
from hybridopt.optimizers.tensor_lists import scalar, subtract_scaled, total


@dataclass
class DoGConfig(RateConfig):
    """Options of `DoG`.

    Attributes:
        lr: Factor on the rate that is found; 1 is meant.
        first_distance: First distance, relative to 1 + the norm of the starting parameters.
        eps: Added to the sum of squared gradient norms.
        averaging: Exponent of the polynomial-decay average that `evaluation` gives (8 in the paper); None for none.
    """

    lr: float = option(1.0, ge=0, search=[0.3, 1.0, 3.0], help="factor on the rate that is found")
    first_distance: float = option(1e-6, gt=0, search=("log", 1e-8, 1e-3), help="first distance, relative")
    eps: float = option(1e-8, ge=0, help="added to the sum of squared gradient norms")
    averaging: float | None = option(None, ge=0, help="exponent of the average for evaluation; null: none")


class DoG(MultiTensor):
    """Distance over gradients (Ivgi, Hinder and Carmon 2023, equation 1): SGD without a rate to choose.

    The rate of step t is ``max(r, max_{i<=t} |x_i - x_0|) / sqrt(eps + sum_{i<=t} |g_i|^2)``, one for all parameters,
    with ``r = first_distance * (1 + |x_0|)``. A group's `lr` is a factor on it; one of zero holds still and is left
    out of both sums. Nothing is brought to the host.

    Report: ``rate``, the rate of the step.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = DoGConfig
    own_options = (*MultiTensor.own_options, "first_distance", "eps", "averaging")
    summary = "SGD at the rate distance over gradients"

    def move(self, loss: Tensor) -> None:
        """Measures, then moves every group.

        Args:
            loss: Not looked at.
        """
        memory, config = self.memory, self.config
        groups = [entry for entry in self.present() if entry[1]["lr"] != 0]
        if not groups:
            return
        squares, distances = [], []
        steps: list[tuple[dict, list[Tensor], list[Tensor]]] = []
        for _, group, parameters, gradients in groups:
            if group["weight_decay"]:
                gradients = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
            squares += [norm**2 for norm in torch._foreach_norm(gradients)]
            starts = self.copies(parameters, "start")
            distances += [norm**2 for norm in torch._foreach_norm(torch._foreach_sub(parameters, starts))]
            steps.append((group, parameters, gradients))
        if "distance" not in memory:
            everything = [parameter for _, parameters, _ in steps for parameter in parameters]
            size = total([norm**2 for norm in torch._foreach_norm(everything)]).sqrt()
            memory["distance"] = config.first_distance * (1 + size)
            memory["squares"] = scalar(0.0, everything)
        memory["squares"] = memory["squares"] + total(squares)
        memory["distance"] = torch.maximum(memory["distance"], total(distances).sqrt())
        size = (memory["squares"] + config.eps).sqrt()
        rate = torch.where(size > 0, memory["distance"] / size, 0.0)
        for group, parameters, gradients in steps:
            subtract_scaled(parameters, gradients, rate * group["lr"])
        self._average()
        self.note(rate=rate)

    def _average(self) -> None:
        gamma = self.config.averaging
        if gamma is None:
            return
        memory = self.memory
        memory["steps"] = memory.get("steps", 0) + 1
        share = (1 + gamma) / (memory["steps"] + gamma)
        for _, _, parameters, _ in self.present():
            torch._foreach_lerp_(self.copies(parameters, "average"), parameters, share)

    @property
    def averaging(self) -> bool:
        """Whether an average is kept."""
        return self.config.averaging is not None

    def averages(self) -> list[tuple[Tensor, Tensor]]:
        """Returns the averages, where they are kept."""
        return [
            (parameter, state["average"])
            for parameter, state in self.state.items()
            if isinstance(parameter, Tensor) and "average" in state
        ]

    def moved(self, objective: Objective, reason: str) -> None:
        """Starts the average anew after a jump; the distance is still one from the start.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        if reason == "restore":
            return
        self.memory.pop("steps", None)
        for state in self.state.values():
            state.pop("average", None)
