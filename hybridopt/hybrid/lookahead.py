"""k steps forward, one step back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import CombinationError, ObjectiveError, option
from hybridopt.hybrid.members import Holder
from hybridopt.objective import Objective
from hybridopt.objective.autocast import in_forward_only
from hybridopt.optimizers.base import Stepping, resolve_config
from hybridopt.optimizers.tensor_lists import holding

RULE = "lookahead"
"""Key in the state under which the slow weights are."""


@dataclass
class LookaheadConfig:
    """Options of `Lookahead`.

    Attributes:
        inner: Name of the optimizer that does the steps.
        inner_options: Its options.
        period: Steps between two synchronisations (k).
        alpha: Share of the way that the slow weights go towards the fast ones.
        inner_state: What becomes of the inner optimizer's state at a synchronisation: ``keep`` or ``reset``.
    """

    inner: str = option("adam", help="name of the optimizer that does the steps")
    inner_options: dict[str, Any] = option({}, help="its options")
    period: int = option(5, ge=1, search=[5, 10], help="steps between two synchronisations")
    alpha: float = option(0.5, gt=0, le=1, search=[0.5, 0.8], help="share of the way to the fast weights")
    inner_state: str = option("keep", choices=["keep", "reset"], help="the inner state at a synchronisation")


class Lookahead(Holder):
    """Lookahead (Zhang, Lucas, Hinton and Ba 2019, algorithm 1) around any optimizer.

    The inner optimizer moves the model's (fast) weights; after `period` steps the slow ones go a share `alpha` of the
    way to them, and the fast ones begin there again. The inner optimizer is told by ``moved("average")``: L-BFGS, say,
    drops the gradient that it kept. ``with optimizer.evaluation():`` puts the slow weights into the model; BatchNorm's
    running statistics are those of the fast ones. A group whose `lr` is zero, and a frozen parameter, stand still also
    at a synchronisation.

    Report: that of the inner optimizer, ``member``, and ``synchronised`` (whether this step ended with one).

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.

    Raises:
        CombinationError: If the inner optimizer is a hybrid, or averages parameters itself.
    """

    Config = LookaheadConfig
    summary = "slow weights behind any optimizer"

    def __init__(self, params: Iterable[Any], config: Any = None, *, escape: Any = None, **options: Any) -> None:
        config = resolve_config(type(self), config, options)
        self._hold(params, [(config.inner, config.inner_options)], config, escape)
        inner: Any = self.active
        if getattr(inner, "averaging", False) or callable(getattr(inner, "eval", None)):
            raise CombinationError(
                f"{config.inner!r} averages parameters itself; Lookahead would average twice. Use either alone, or "
                "Lookahead around sgd, momentum, adam, ..."
            )

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @in_forward_only
    def step(self, objective: Objective | None = None) -> Tensor:  # type: ignore[override]
        """Does one step of the inner optimizer, then synchronises if it is due.

        Args:
            objective: The loss as a function of the parameters.

        Returns:
            The loss at the step's starting point.

        Raises:
            ObjectiveError: If it is not an `Objective`, or cannot be evaluated, or the model holds the slow weights.
        """
        self._check_objective(objective)
        if "evaluating" in self.__dict__:
            raise ObjectiveError(
                "Lookahead cannot step inside `with optimizer.evaluation()`: the model holds the slow weights there. "
                "Leave the context first."
            )
        memory = self.state[RULE]
        if not memory:
            memory.update(steps=0, slow=[parameter.detach().clone() for parameter in self._parameters()])
        loss = self.active.step(objective)  # type: ignore[attr-defined]
        self.report = self.active.report
        memory["steps"] += 1
        due = memory["steps"] % self.config.period == 0
        if due:
            self._synchronise(objective)
        self.note(member=self.config.inner, synchronised=due)
        self._watch(objective, loss)
        return loss

    @torch.no_grad()
    def _synchronise(self, objective: Objective) -> None:
        places = iter(self.state[RULE]["slow"])
        fast, slow = [], []
        for group in self.param_groups:
            for parameter in group["params"]:
                place = next(places)
                if not parameter.requires_grad:
                    place.copy_(parameter)
                elif group["lr"] != 0:
                    fast.append(parameter)
                    slow.append(place)
        if not fast:
            return
        torch._foreach_lerp_(slow, fast, self.config.alpha)
        torch._foreach_copy_(fast, slow)
        if self.config.inner_state == "reset":
            for key in [key for key in self.state if key not in (RULE, "escape")]:
                del self.state[key]
        elif type(self.active).moved is not Stepping.moved:
            self.active.moved(objective.bind(self.param_groups, regularize=self.coupled_decay), "average")

    def moved(self, objective: Objective, reason: str) -> None:
        """Begins again with the slow weights where the model stands, after a jump; tells the inner optimizer.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        if reason != "restore":
            self.state[RULE].update(steps=0, slow=[parameter.detach().clone() for parameter in self._parameters()])
        self.active.moved(objective, reason)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Context in which the model holds the slow weights."""
        memory = self.state.get(RULE)
        if not memory or "evaluating" in self.__dict__:
            yield
            return
        pairs = [
            (parameter, slow)
            for parameter, slow in zip(self._parameters(), memory["slow"], strict=True)
            if parameter.requires_grad
        ]
        self.evaluating = True
        try:
            with holding([parameter for parameter, _ in pairs], [slow for _, slow in pairs]):
                yield
        finally:
            del self.evaluating
