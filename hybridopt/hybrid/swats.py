"""From Adam to SGD, at the rate that Adam's own steps amount to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.hybrid.members import Holder
from hybridopt.hybrid.projection import ProjectedRate
from hybridopt.objective import Objective
from hybridopt.objective.autocast import in_forward_only
from hybridopt.optimizers.base import MEMORY, Stepping, resolve_config
from hybridopt.optimizers.first_order_base import RateConfig, check_betas

RULE = "swats"
"""Key in the state under which the rule remembers."""


@dataclass
class SWATSConfig(RateConfig):
    """Options of `SWATS`.

    Attributes:
        lr: Learning rate of Adam.
        weight_decay: L2 strength in both phases.
        betas: Of Adam; the first is also the momentum of SGD, the second the decay of the mean projected rate.
        eps: Of Adam.
        threshold: How close the projected rate has to be to its mean.
    """

    lr: float = option(1e-3, ge=0, search=("log", 1e-5, 1e-1), help="learning rate of Adam")
    betas: list[float] = option([0.9, 0.999], ge=0, lt=1, help="of Adam; momentum of SGD, decay of the mean rate")
    eps: float = option(1e-8, ge=0, help="of Adam")
    threshold: float = option(1e-5, gt=0, search=("log", 1e-9, 1e-3), help="distance of the rate from its mean")


class SWATS(Holder):
    """Switching from Adam to SGD (Keskar and Socher 2017, algorithm 1).

    While Adam steps, each step is turned into the rate of the gradient step whose projection on it would be the step
    itself. Once that rate is within `threshold` of its bias-corrected mean, SGD with momentum goes on at that mean
    rate L: ``v <- b1 v + g``, ``p <- p - (1 - b1) L v``. The paper writes a threshold of 1e-9; re-implementations
    found that this never fires and take 1e-5, as the default here does. A mean that is not positive does not switch.
    Step and gradient are taken over all parameters, and the gradient includes the L2 term.

    The groups' `lr` stays Adam's, so that a schedule goes on: SGD's rate is L times ``lr`` now over the largest ``lr``
    at the switch. Before the switch a step brings one number to the host. Adam's state is dropped at the switch.

    Report: that of the active member, ``member``, and ``rate`` (SGD's (1 - b1) L in the first group).

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = SWATSConfig
    summary = "Adam, then SGD at the rate that Adam's steps amount to"

    def __init__(self, params: Iterable[Any], config: Any = None, *, escape: Any = None, **options: Any) -> None:
        config = resolve_config(type(self), config, options)
        check_betas(config.betas, type(self).__name__)
        shared = {name: getattr(config, name) for name in ("lr", "weight_decay", "clip_norm", "clip_value")}
        adam = {**shared, "betas": config.betas, "eps": config.eps}
        # Momentum zero is plain SGD.
        sgd = ("momentum", {**shared, "momentum": config.betas[0]}) if config.betas[0] else ("sgd", shared)
        self._hold(params, [("adam", adam), sgd], config, escape)

    @property
    def active(self) -> Stepping:
        """The member whose turn it is."""
        return self._members[1 if "factor" in self.state[RULE] else 0]

    @in_forward_only
    def step(self, objective: Objective | None = None) -> Tensor:  # type: ignore[override]
        """Does one step of the active member, then looks whether to switch.

        Args:
            objective: The loss as a function of the parameters.

        Returns:
            The loss at the step's starting point.

        Raises:
            ObjectiveError: If it is not an `Objective`, or cannot be evaluated.
        """
        self._check_objective(objective)
        loss = self._sgd_step(objective) if "factor" in self.state[RULE] else self._adam_step(objective)
        self._watch(objective, loss)
        return loss

    def _adam_step(self, objective: Any) -> Tensor:
        member = self.active
        parameters = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        before = [parameter.detach().clone() for parameter in parameters]
        loss = member.step(objective)  # type: ignore[attr-defined]
        self._count()
        self.report = member.report
        self.note(member="adam")
        decay = {id(p): group["weight_decay"] for group in self.param_groups for p in group["params"]}
        moved = [(p, old) for p, old in zip(parameters, before, strict=True) if p.grad is not None]
        if not moved:
            return loss
        with torch.no_grad():
            steps = torch._foreach_sub([p for p, _ in moved], [old for _, old in moved])
            gradients = [p.grad.add(old, alpha=decay[id(p)]) if decay[id(p)] else p.grad for p, old in moved]
            rule = ProjectedRate(self.state[RULE], self.config.betas[1], self.config.threshold)
            rate = rule.see(steps, gradients)
        # Not in the window of an escape, which may have to put Adam's state back.
        if rate is not None and (self.escape is None or not self.escape.busy(self)):
            self._switch(rate)
        return loss

    def _count(self) -> None:
        memory = self.state[RULE]
        memory["steps"] = memory.get("steps", 0) + 1

    def _switch(self, rate: float) -> None:
        memory = self.state[RULE]
        for key in [key for key in self.state if key not in (RULE, "escape", f"{MEMORY}.1")]:
            del self.state[key]
        memory["factor"] = (1 - self.config.betas[0]) * rate / max(float(group["lr"]) for group in self.param_groups)
        event = {"event": "switch", "from": "adam", "to": "sgd", "reason": "projection", "at_step": memory["steps"]}
        self.report.events.append({**event, "rate": rate})

    def _sgd_step(self, objective: Any) -> Tensor:
        member, factor = self.active, self.state[RULE]["factor"]
        rates = [group["lr"] for group in self.param_groups]
        try:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = factor * rate
            loss = member.step(objective)  # type: ignore[attr-defined]
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
        self._count()
        self.report = member.report
        self.note(member="sgd", rate=factor * float(rates[0]))
        return loss
