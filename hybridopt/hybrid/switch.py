"""One optimizer after another, with rules for when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import ConfigError, make_config, option
from hybridopt.hybrid.hand_over import offered, take
from hybridopt.hybrid.members import Holder
from hybridopt.hybrid.rules import Step, Until, check_until, due
from hybridopt.objective import Objective
from hybridopt.objective.autocast import in_forward_only
from hybridopt.optimizers.base import MEMORY, Stepping, resolve_config

RULE = "switch"
"""Key in the state under which the switch remembers."""


@dataclass
class SwitchConfig(Until):
    """Options of `Switch`; those of `Until` say when the first member gives way.

    Attributes:
        first: Name of the optimizer to begin with.
        second: Name of the one to go on with.
        first_options: Its options.
        second_options: The other's options.
        stages: Instead of these four and the rules: any number of members, each a mapping with ``name``, ``options``
            and, but for the last, ``until``, a mapping with the options of `Until`.
        hand_over: Whether the next member gets the running means of gradients, if both have such.
    """

    first: str = option("adam", help="name of the optimizer to begin with")
    second: str = option("lbfgs", help="name of the optimizer to go on with")
    first_options: dict[str, Any] = option({}, help="options of the first")
    second_options: dict[str, Any] = option({}, help="options of the second")
    stages: list[Any] = option([], help="instead: mappings with name, options and until, any number of them")
    hand_over: bool = option(True, help="hand over running means of gradients where both members have them")

    def validate(self, owner: str) -> None:
        """Refuses stages beside what they stand for, which would be passed over without a word.

        Args:
            owner: Whose options, for the message.

        Raises:
            ConfigError: If there are both.
        """
        usual = SwitchConfig()
        others = [f.name for f in fields(self) if f.name not in ("stages", "hand_over")]
        given = [name for name in others if getattr(self, name) != getattr(usual, name)]
        if self.stages and given:
            raise ConfigError(
                f"{owner}: stages say all by themselves; leave out {', '.join(given)}, or write them into the stages "
                "(name, options, until)."
            )


@dataclass(frozen=True)
class Stage:
    """One member of a switch.

    Attributes:
        name: Its name.
        options: Its options.
        until: When it gives way; None for the last.
    """

    name: str
    options: dict[str, Any]
    until: Until | None


class Switch(Holder):
    """Begins with one optimizer and goes on with another, and perhaps more, by rules.

    All members work on the very param groups of this optimizer, so a scheduler's learning rate reaches whichever is
    active. At a switch every option of the groups becomes the next member's own, an event is recorded, and the state
    of the last member is dropped. Before that its running means of the gradient (Adam, AdamW, SGD with momentum) and
    of its square (Adam, RMSprop) are offered to the next one; Adam, AdamW, RMSprop and SGD with momentum take what
    they can use (see `hybridopt.hybrid.hand_over`), so that Adam to AdamW goes on as if nothing had happened, and
    Adam to momentum starts with speed. Curvature pairs, radii and damping are not handed over: they belong to one
    method's model.

    Rules: a number of steps, a plateau of the loss, a projected rate that has settled (SWATS), the mean ratio of actual
    to predicted decrease, the gradient noise scale, or a function (from Python), called with this optimizer and the
    objective after each step, which returns a reason to switch, or None.

    Report: that of the active member, and ``member``.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        rule: A function as said above, beside the rules of the config.
        **options: Fields of `Config`.

    Raises:
        ConfigError: If there is no rule by which to switch, or the stages are not as described.
        CombinationError: If a member cannot be held (it is itself a hybrid), or a rule needs what it does not report.
    """

    Config = SwitchConfig
    batch = "full"
    summary = "one optimizer, then another, by step, plateau, projection, ratio or noise"

    def __init__(
        self,
        params: Iterable[Any],
        config: Any = None,
        *,
        escape: Any = None,
        rule: Callable[[Any, Objective], str | None] | None = None,
        **options: Any,
    ) -> None:
        config = resolve_config(type(self), config, options)
        self._build(params, _stages(config), config, escape, config.hand_over, rule)

    def _build(
        self,
        params: Iterable[Any],
        stages: list[Stage],
        config: Any,
        escape: Any,
        hand_over: bool = True,
        rule: Callable[[Any, Objective], str | None] | None = None,
    ) -> None:
        """Makes the members and shares groups and state with them.

        Args:
            params: Parameters or param groups.
            stages: Which members, and when to switch.
            config: What the user gave, for `config`.
            escape: What to do at a saddle.
            hand_over: Whether running means are handed over.
            rule: A function that says when, or None.
        """
        self._stages, self._hands_over, self._rule = stages, hand_over, rule
        self._hold(params, [(stage.name, stage.options) for stage in stages], config, escape)
        for stage, member in zip(stages[:-1], self._members, strict=False):
            if stage.until is not None and (rule is None or stage.until != Until(plateau_window=0)):
                check_until(stage.until, member, stage.name)

    @property
    def stage(self) -> int:
        """Which member's turn it is, from 0."""
        return self.state[RULE].get("stage", 0)

    @property
    def active(self) -> Stepping:
        """The member whose turn it is."""
        return self._members[self.stage]

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
        stage = self._stages[self.stage]
        until = stage.until
        before = None
        if until is not None and until.projection is not None:
            before = {p: p.detach().clone() for p in self._trainable()}
        member: Any = self.active
        loss = member.step(objective)
        self.report = member.report
        self.note(member=stage.name)
        answer = None if until is None else self._due(until, objective, loss, before)
        # Not in the window of an escape, which may have to put the member's state back.
        if answer is not None and (self.escape is None or not self.escape.busy(self)):
            self._switch(*answer)
        self._watch(objective, loss)
        return loss

    def _trainable(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    @torch.no_grad()
    def _due(
        self, until: Until, objective: Any, loss: Tensor, before: dict[Tensor, Tensor] | None
    ) -> tuple[str, dict[str, float]] | None:
        memory = self.state[RULE]
        memory["steps"] = memory.get("steps", 0) + 1
        parameters = [p for p in self._trainable() if p.grad is not None]
        moves = None if before is None else [p - before[p] for p in parameters]
        gradients = [p.grad for p in parameters]
        step = Step(loss, self.report, objective.key, objective.samples, gradients, moves)  # type: ignore[arg-type]
        found = due(until, memory.setdefault("rules", {}), step)
        if found is None and self._rule is not None:
            reason = self._rule(self, objective)
            found = None if reason is None else (str(reason), {})
        return found

    def _switch(self, reason: str, figures: Mapping[str, float]) -> None:
        memory = self.state[RULE]
        last = self.stage
        offer = offered(self.param_groups, self.state) if self._hands_over else {}
        for key in [key for key in self.state if key not in (RULE, "escape", f"{MEMORY}.{last + 1}")]:
            del self.state[key]
        memory.update(stage=last + 1, rules={})
        for group, own in zip(self.param_groups, self._own_options[last + 1], strict=True):
            group.update(own)
            if "rate" in figures and self.active.family == "first-order":
                group["lr"] = figures["rate"]
        taken = take(self.active, self.param_groups, self.state, offer)
        names = [stage.name for stage in self._stages]
        event = {"event": "switch", "from": names[last], "to": names[last + 1], "reason": reason}
        event |= {"at_step": memory["steps"], **figures}
        self.report.events.append(event | ({"handed_over": taken} if taken else {}))

    def __getstate__(self) -> dict[str, Any]:
        own = ("_stages", "_hands_over", "_rule")
        return super().__getstate__() | {name: getattr(self, name) for name in own}


def _stages(config: SwitchConfig) -> list[Stage]:
    """Returns the stages that a config describes."""
    if not config.stages:
        until = Until(**{field.name: getattr(config, field.name) for field in fields(Until)})
        return [Stage(config.first, config.first_options, until), Stage(config.second, config.second_options, None)]
    stages = []
    for place, entry in enumerate(config.stages):
        entry = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise ConfigError(f"stages[{place}] must be a mapping with a name, options and until, not {entry!r}.")
        unknown = set(entry) - {"name", "options", "until"}
        if unknown:
            raise ConfigError(f"stages[{place}] has name, options and until, but no {', '.join(sorted(unknown))}.")
        last = place == len(config.stages) - 1
        if last and entry.get("until"):
            raise ConfigError("The last stage has no successor, so it takes no until.")
        until = None if last else make_config(Until, dict(entry.get("until") or {}), owner=f"stages[{place}].until")
        stages.append(Stage(entry["name"], dict(entry.get("options") or {}), until))
    if len(stages) < 2:
        raise ConfigError("A switch needs at least two stages; use the one optimizer itself.")
    return stages
