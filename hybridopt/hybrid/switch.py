"""One optimizer after another, with a rule for when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import CombinationError, ConfigError, option
from hybridopt.factory import create
from hybridopt.objective import Objective
from hybridopt.optimizers.base import MEMORY, Optimizer, Stepping, resolve_config

RULE = "switch"
"""Key in the state under which the switch remembers."""


@dataclass
class SwitchConfig:
    """Options of `Switch`.

    Attributes:
        first: Name of the optimizer to begin with.
        second: Name of the one to go on with.
        first_options: Its options.
        second_options: The other's options.
        at_step: Switches after this many steps; None leaves it to the plateau.
        plateau_window: Switches when the mean loss of this many steps is hardly below that of as many before; 0 for
            never.
        plateau_tolerance: What hardly means, relatively.
    """

    first: str = option("adam", help="name of the optimizer to begin with")
    second: str = option("lbfgs", help="name of the optimizer to go on with")
    first_options: dict[str, Any] = option({}, help="options of the first")
    second_options: dict[str, Any] = option({}, help="options of the second")
    at_step: int | None = option(None, ge=0, help="switch after this many steps; null: leave it to the plateau")
    plateau_window: int = option(20, ge=0, help="steps of the windows whose mean losses are compared; 0: never")
    plateau_tolerance: float = option(0.02, ge=0, help="a relative decrease below this is a plateau")


class Switch(Optimizer):
    """Begins with one optimizer and goes on with another, once, by a rule.

    Both members work on the very param groups of this optimizer, so a scheduler's learning rate reaches whichever is
    active. At the switch the state of the first is dropped, ``lr`` and ``weight_decay`` of the groups become the
    second's own, and an event is recorded.

    Report: that of the active member, and ``member``.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.

    Raises:
        ConfigError: If there is no rule by which to switch.
        CombinationError: If a member cannot be held: it is itself a hybrid.
    """

    Config = SwitchConfig
    family = "hybrid"
    batch = "full"
    summary = "one optimizer, then another, by a step or plateau rule"
    group_options = ()

    def __init__(self, params: Iterable[Any], config: Any = None, *, escape: Any = None, **options: Any) -> None:
        config = resolve_config(type(self), config, options)
        self._build(params, config, config, escape)

    def _build(self, params: Iterable[Any], plan: SwitchConfig, config: Any, escape: Any) -> None:
        """Makes the members and shares groups and state with them.

        Args:
            params: Parameters or param groups.
            plan: Which members, and when to switch.
            config: What the user gave, for `config`.
            escape: What to do at a saddle.

        Raises:
            ConfigError: If there is no rule by which to switch.
        """
        if plan.at_step is None and plan.plateau_window == 0:
            raise ConfigError("A switch needs a rule: give at_step, or a plateau_window above 0.")
        params = list(params)
        self._plan = plan
        members = [
            self._member(plan.first, plan.first_options, params, 0),
            self._member(plan.second, plan.second_options, params, 1),
        ]
        groups = members[0].param_groups
        for mine, theirs in zip(groups, members[1].param_groups, strict=True):
            for name, value in theirs.items():
                mine.setdefault(name, value)
        torch.optim.Optimizer.__init__(self, groups, dict(members[0].defaults))
        self._second_rates = [
            {name: group[name] for name in ("lr", "weight_decay") if name in group} for group in members[1].param_groups
        ]
        self._members = members
        self._share()
        self._start(config, escape)

    @staticmethod
    def _member(name: str, options: dict[str, Any], params: list[Any], index: int) -> Stepping:
        params = [dict(entry) if isinstance(entry, dict) else entry for entry in params]
        member = create(name, params, **options)
        if member.family == "hybrid":
            raise CombinationError(f"A switch holds plain optimizers; {name!r} is itself a hybrid.")
        member.memory_key = f"{MEMORY}.{index}"
        return member

    def _share(self) -> None:
        """Makes the members use this optimizer's own groups and state, so that both are in its `state_dict`."""
        for member in self._members:
            member.param_groups = self.param_groups
            member.state = self.state

    @property
    def active(self) -> Stepping:
        """The member whose turn it is."""
        return self._members[1 if self.state[RULE].get("switched") else 0]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to both members; only while the switch is being built.

        Args:
            param_group: The group.

        Raises:
            ConfigError: Afterwards, as the members' groups are shared.
        """
        if hasattr(self, "_members"):
            raise ConfigError("A switch cannot take another param group once it is built; give all groups at once.")
        torch.optim.Optimizer.add_param_group(self, param_group)

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
        member = self.active
        loss = member.step(objective)
        self.report = member.report
        self.note(member=self._plan.second if self.state[RULE].get("switched") else self._plan.first)
        reason = self._due(loss)
        # Not in the window of an escape, which may have to put the first member's state back.
        if reason is not None and (self.escape is None or not self.escape.busy(self)):
            self._switch(reason)
        if self.escape is not None:
            bound = objective.bind(self.param_groups, regularize=self.active.coupled_decay)
            bound.renew()
            bound.start_loss = loss
            self.escape.after_step(self, bound)
        return loss

    def _due(self, loss: Tensor) -> str | None:
        memory, config = self.state[RULE], self._plan
        if memory.get("switched"):
            return None
        memory["steps"] = memory.get("steps", 0) + 1
        if config.at_step is not None:
            return "step" if memory["steps"] >= config.at_step else None
        losses = memory.setdefault("losses", [])
        losses.append(loss)
        size = config.plateau_window
        if len(losses) < 2 * size:
            return None
        # Read once per window: reading each loss would make a GPU wait at every step.
        values = [float(item) for item in losses]
        before, after = sum(values[:size]) / size, sum(values[size:]) / size
        del losses[:size]
        return None if before - after > config.plateau_tolerance * abs(before) else "plateau"

    def _switch(self, reason: str) -> None:
        memory = self.state[RULE]
        for key in [key for key in self.state if key not in (RULE, "escape", f"{MEMORY}.1")]:
            del self.state[key]
        memory.update(switched=True, losses=[])
        for group, rates in zip(self.param_groups, self._second_rates, strict=True):
            group.update(rates)
        self.report.events.append(
            {
                "event": "switch",
                "from": self._plan.first,
                "to": self._plan.second,
                "reason": reason,
                "at_step": memory["steps"],
            }
        )

    def moved(self, objective: Objective, reason: str) -> None:
        """Passes the message on to the active member.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        self.active.moved(objective, reason)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """The active member's context for evaluation."""
        with self.active.evaluation():
            yield

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {
            "_plan": self._plan,
            "_members": self._members,
            "_second_rates": self._second_rates,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "_members"):
            self._share()
