"""Early stopping that first lowers the rate: when the validation loss no longer falls, decay, and at last stop."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from hybridopt.core import CombinationError, Registry, option
from hybridopt.escape.snapshot import fits, put_back, take
from hybridopt.objective import Objective

registry = Registry(
    "stopping",
    {
        "none": "hybridopt.experiment.stopping:Stopping",
        "decay": "hybridopt.experiment.stopping:DecayThenStop",
    },
    entry_points="hybridopt.stoppings",
)
"""Names of the config group ``stopping``."""


class Stopping:
    """Ends no run; base class of the others.

    Args:
        config: An instance of `Config`.
        schedule: Name of the run's schedule.
        optimizer: The run's.
    """

    @dataclasses.dataclass
    class Config:
        """No options."""

    summary: ClassVar[str] = "the budget alone ends a run"

    def __init__(self, config: Any, schedule: str = "none", optimizer: Any = None) -> None:
        self.config = config

    def see(
        self, validation_loss: float, optimizer: Any, objective: Objective
    ) -> tuple[dict[str, Any] | None, str | None]:
        """Looks at an evaluation, and may change the rate and the parameters.

        Args:
            validation_loss: The newest one.
            optimizer: The run's.
            objective: On the batch of the last step.

        Returns:
            An event to record or None, and the reason to end the run or None.
        """
        return None, None

    def state_dict(self) -> dict[str, Any]:
        """Returns the state to resume from: tensors, numbers, text, and lists and dicts of those."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a saved state.

        Args:
            state: What `state_dict` returned.
        """


class DecayThenStop(Stopping):
    """Multiplies the rate by `factor` after `patience` evaluations without progress, `decays` times, and then stops.

    Progress is a validation loss below the lowest so far. With `restore` parameters, buffers and the optimizer's state
    go back to the best evaluation before the lower rate is tried, and when the run stops.

    Args:
        config: An instance of `Config`.
        schedule: Name of the run's schedule.
        optimizer: The run's.

    Raises:
        CombinationError: If a schedule moves the rate, too, or there is none.
    """

    @dataclasses.dataclass
    class Config:
        """Options of `DecayThenStop`.

        Attributes:
            patience: Evaluations in a row without progress that are borne before each decay, and before the end.
            decays: How often the rate is lowered before the run stops; 0 is plain early stopping.
            factor: On the rate.
            restore: Whether to go back to the best evaluation each time; keeps one more copy of everything.
            threshold: Relative fall of the validation loss that counts as progress.
        """

        patience: int = option(5, ge=1, help="evaluations without progress before each decay and the end")
        decays: int = option(2, ge=0, help="how often the rate is lowered; 0: plain early stopping")
        factor: float = option(0.1, gt=0, lt=1, help="on the rate")
        restore: bool = option(False, help="go back to the best evaluation each time")
        threshold: float = option(0.0, ge=0, lt=1, help="relative fall that counts as progress")

    summary = "lowers the rate when the validation loss stops falling, and in the end stops"

    def __init__(self, config: Any, schedule: str = "none", optimizer: Any = None) -> None:
        super().__init__(config, schedule, optimizer)
        if config.decays and schedule != "none":
            raise CombinationError(
                f"stopping=decay lowers the rate itself and schedule={schedule} would set it again. Use schedule=none, "
                "or stopping.decays=0 for plain early stopping with that schedule."
            )
        if config.decays and any("lr" not in group for group in getattr(optimizer, "param_groups", [])):
            raise CombinationError(
                f"stopping=decay lowers a learning rate, and {type(optimizer).__name__} has none. Use "
                "stopping.decays=0 for plain early stopping."
            )
        self._lowest = math.inf
        self._stale = 0
        self._decays = 0
        self._best: dict[str, Any] | None = None

    def see(
        self, validation_loss: float, optimizer: Any, objective: Objective
    ) -> tuple[dict[str, Any] | None, str | None]:
        """Counts evaluations without progress; lowers the rate or ends the run when there were too many."""
        config = self.config
        margin = config.threshold * abs(self._lowest) if math.isfinite(self._lowest) else 0.0
        if validation_loss < self._lowest - margin:
            self._lowest, self._stale = validation_loss, 0
            if config.restore:
                self._best = take(optimizer, self._bound(optimizer, objective))
            return None, None
        self._stale += 1
        if self._stale < config.patience:
            return None, None
        restored = self._go_back(optimizer, objective)
        if self._decays == config.decays:
            after = f" after {config.decays} decays of the rate" if config.decays else ""
            return None, f"no lower validation loss in {config.patience} evaluations{after}"
        self._stale = 0
        self._decays += 1
        for group in optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].mul_(config.factor)
            else:
                group["lr"] *= config.factor
        rate = float(optimizer.param_groups[0]["lr"])
        return {"event": "rate_decay", "lr": rate, "decay": self._decays, "restored": restored}, None

    def _bound(self, optimizer: Any, objective: Objective) -> Objective:
        return objective.bind(optimizer.param_groups, regularize=optimizer.coupled_decay)

    def _go_back(self, optimizer: Any, objective: Objective) -> bool:
        if self._best is None:
            return False
        bound = self._bound(optimizer, objective)
        if not fits(self._best, bound):
            return False
        put_back(self._best, optimizer, bound)
        optimizer.moved(bound, "restore")
        return True

    def state_dict(self) -> dict[str, Any]:
        """Returns the counts, and the best parameters if these are kept."""
        return {"lowest": self._lowest, "stale": self._stale, "decays": self._decays, "best": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a saved state."""
        if state:
            self._lowest, self._stale = state["lowest"], state["stale"]
            self._decays, self._best = state["decays"], state["best"]
