"""What optimizers that hold optimizers have in common: one set of groups and one state for all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hybridopt.core import CombinationError, ConfigError
from hybridopt.factory import create
from hybridopt.objective import Objective
from hybridopt.optimizers.base import MEMORY, Optimizer, Stepping

_FOR_ALL = ("params", "param_names", "lr", "weight_decay")
"""Entries of a user's param group that every member understands."""

_NOT_OPTIONS = ("params", "param_names", "initial_lr")


class Holder(Optimizer):
    """Base of hybrids: members work on the very param groups and state of this optimizer.

    A scheduler's learning rate so reaches whichever member steps, and `state_dict` holds them all.
    """

    family = "hybrid"
    group_options = ()
    _members: list[Stepping]
    _own_options: list[list[dict[str, Any]]]
    """Of each member and group, as the member was made; the shared groups hold those of whoever steps."""

    def _hold(self, params: Iterable[Any], plan: list[tuple[str, dict[str, Any]]], config: Any, escape: Any) -> None:
        """Makes the members and shares groups and state with them.

        Args:
            params: Parameters or param groups. The first member takes all options of a group, the others ``lr`` and
                ``weight_decay``.
            plan: Name and options of each member.
            config: What the user gave, for `config`.
            escape: What to do at a saddle.

        Raises:
            CombinationError: If a member is itself a hybrid.
        """
        params = list(params)
        # Groups may hold generators, which the first member would use up.
        params = [
            {**entry, "params": list(entry["params"])}
            if isinstance(entry, dict) and not isinstance(entry.get("params"), torch.Tensor | None)
            else entry
            for entry in params
        ]
        members = [self._member(name, options, params, index) for index, (name, options) in enumerate(plan)]
        self._own_options = [[_options(group) for group in member.param_groups] for member in members]  # type: ignore[attr-defined]
        groups = members[0].param_groups  # type: ignore[attr-defined]
        for member in members[1:]:
            for mine, theirs in zip(groups, member.param_groups, strict=True):  # type: ignore[attr-defined]
                for name, value in theirs.items():
                    mine.setdefault(name, value)
        torch.optim.Optimizer.__init__(self, groups, dict(members[0].defaults))  # type: ignore[attr-defined]
        self._members = members
        self._share()
        self._start(config, escape)

    def _member(self, name: str, options: dict[str, Any], params: list[Any], index: int) -> Stepping:
        entries = [dict(entry) if isinstance(entry, dict) else entry for entry in params]
        if index:
            entries = [
                {key: entry[key] for key in _FOR_ALL if key in entry} if isinstance(entry, dict) else entry
                for entry in entries
            ]
        member = create(name, entries, **options)
        if member.family == "hybrid":
            raise CombinationError(
                f"{type(self).__name__} holds plain optimizers; {name!r} is itself a hybrid. Give one of its members."
            )
        member.memory_key = f"{MEMORY}.{index}"
        return member

    def _share(self) -> None:
        """Makes the members use this optimizer's own groups and state, so that both are in its `state_dict`."""
        for member in self._members:
            member.param_groups = self.param_groups  # type: ignore[attr-defined]
            member.state = self.state  # type: ignore[attr-defined]

    @property
    def active(self) -> Stepping:
        """The member that does the next step."""
        return self._members[0]

    @property
    def coupled_decay(self) -> bool:  # type: ignore[override]
        """Whether the active member's weight decay is part of the function."""
        return self.active.coupled_decay

    @property
    def descends(self) -> bool:  # type: ignore[override]
        """Whether the steps of all members head for lower values."""
        return all(member.descends for member in self._members)

    def _watch(self, objective: Objective, loss: torch.Tensor) -> None:
        """Lets the escape look at a step that was done."""
        if self.escape is not None:
            bound = objective.bind(self.param_groups, regularize=self.coupled_decay)
            bound.renew()
            bound.start_loss = loss
            self.escape.after_step(self, bound)

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

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to all members; only while they are being built.

        Args:
            param_group: The group.

        Raises:
            ConfigError: Afterwards, as the members' groups are shared.
        """
        if hasattr(self, "_members"):
            raise ConfigError(
                f"{type(self).__name__} cannot take another param group once it is built; give all groups at once."
            )
        torch.optim.Optimizer.add_param_group(self, param_group)

    def __getstate__(self) -> dict[str, Any]:
        members = [_without_state(member) for member in self._members]
        return super().__getstate__() | {"_members": members, "_own_options": self._own_options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "_members"):
            self._share()


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in _NOT_OPTIONS}


def _without_state(member: Any) -> Any:
    """The same member with no state, for copies: the holder has the state, in which another member's may be."""
    twin = object.__new__(type(member))
    twin.__dict__.update(member.__dict__)
    twin.state = defaultdict(dict)
    return twin
