"""Learning rates that are learned: hypergradient descent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hybridopt.core import ConfigError
from hybridopt.objective import Objective
from hybridopt.optimizers.first_order_base import FirstOrder
from hybridopt.optimizers.tensor_lists import inner, scalar, subtract_scaled


class Hypergradient(FirstOrder):
    """Mixin that adapts the learning rate of a torch class by hypergradient descent (Baydin et al. 2018).

    These methods step by ``-a d`` with a direction d that does not depend on the rate a, so the derivative of the
    loss of this step in the last step's rate is ``-g . d_last``, and ``a <- a + hypergradient * g . d_last``
    (algorithms 4 to 6 there: SGD-HD, SGDN-HD, Adam-HD; g includes the L2 term). Each param group adapts a rate of its
    own. It is the group's ``lr``, which schedulers may move, plus what was learned, and never below zero, which the
    paper does not ask for; a group whose ``lr`` is zero holds still. The torch class takes its step at rate 1, and the
    displacement is scaled: that costs one more copy of the parameters and of the last direction, and an inner
    product. With ``hypergradient=0`` none of it happens.

    Report: ``rate``, the adapted rate of the first group.
    """

    own_options = (*FirstOrder.own_options, "hypergradient")

    def _descend(self, objective: Objective, parameters: list[Tensor]) -> Tensor:
        if not self.config.hypergradient:
            return super()._descend(objective, parameters)
        loss = self._differentiate(objective, parameters)
        with torch.no_grad():
            rates = [self._learn(index, group) for index, group in enumerate(self.param_groups)]
            self._scaled_step(rates)
        self.note(rate=rates[0])
        return loss

    def _learn(self, index: int, group: dict[str, Any]) -> Tensor:
        """Moves a group's rate by the agreement of this gradient with its last direction, and returns it."""
        rate = group["lr"]
        if isinstance(rate, Tensor) or group.get("maximize"):
            raise ConfigError("hypergradient needs groups with a number as lr that do not set maximize.")
        learned: list[Tensor] = self.memory.setdefault("learned", [])
        if len(learned) <= index:
            learned.append(scalar(0.0, group["params"]))
        known = []
        for parameter in group["params"]:
            if parameter not in self.state or "direction" not in self.state[parameter]:
                continue
            if parameter.grad is None:
                del self.state[parameter]["direction"]  # it will not be the last step's any more
            else:
                known.append(parameter)
        if known:
            gradients = [parameter.grad for parameter in known]
            if group["weight_decay"]:
                gradients = torch._foreach_add(gradients, known, alpha=group["weight_decay"])
            agreement = inner(gradients, [self.state[parameter]["direction"] for parameter in known])
            learned[index] = (learned[index] + self.config.hypergradient * agreement).clamp(min=-rate)
        return (learned[index] + rate).clamp(min=0.0) if rate else torch.zeros_like(learned[index])

    def _scaled_step(self, rates: list[Tensor]) -> None:
        """One step of the torch class at rate 1, then scaled to the adapted rates."""
        groups = self.param_groups
        moving = [[p for p in group["params"] if p.grad is not None] for group in groups]
        before = [[parameter.clone() for parameter in parameters] for parameters in moving]
        given = [group["lr"] for group in groups]
        try:
            for group in groups:
                group["lr"] = 1.0
            self._torch_step()
        finally:
            for group, rate in zip(groups, given, strict=True):
                group["lr"] = rate
        for rate, parameters, old in zip(rates, moving, before, strict=True):
            if not parameters:
                continue
            directions = torch._foreach_sub(old, parameters)
            for parameter, direction in zip(parameters, directions, strict=True):
                self.state[parameter]["direction"] = direction
            torch._foreach_copy_(parameters, old)
            subtract_scaled(parameters, directions, rate)

    def moved(self, objective: Objective, reason: str) -> None:
        """Forgets the last direction after a jump: this gradient says nothing about that step's rate.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        if reason != "restore":
            for state in self.state.values():
                state.pop("direction", None)
