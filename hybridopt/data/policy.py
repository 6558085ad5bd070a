"""What all data policies share, and the plainest of them: one batch for everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hybridopt.core import ConfigError, check, make_config
from hybridopt.data.batches import Batches
from hybridopt.objective import Objective


@dataclass
class NoOptions:
    """The config of a policy without options."""


class DataPolicy:
    """Draws the samples of each step; a subclass writes `draw`, and what it remembers between steps.

    Args:
        batches: The training data and the batches that the run's config asks for.
        config: An instance of `Config`, instead of `options`.
        **options: Fields of `Config`.

    Raises:
        ConfigError: If an option is unknown, out of range, or does not go with the batches.
    """

    Config: ClassVar[type] = NoOptions
    summary: ClassVar[str] = ""

    def __init__(self, batches: Batches, config: Any = None, **options: Any) -> None:
        name = type(self).__name__
        if config is not None and options:
            raise ConfigError(f"Give {name} either config=... or options, not both.")
        self.config = make_config(self.Config, options, owner=name) if config is None else check(config, owner=name)
        self.batches = batches

    def attach(self, task: Any) -> None:
        """Tells the policy which task the data are of.

        Args:
            task: The task.

        Raises:
            ConfigError: If the policy does not go with it.
        """

    def draw(self, objective: Objective, step: int) -> Objective:
        """Returns the objective on the samples of a step.

        Args:
            objective: On any batch of the same model.
            step: Number of steps done before this one.

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say what it draws: define draw(self, objective, step).")

    def after_step(self, optimizer: Any, objective: Objective) -> dict[str, Any] | None:
        """Looks at a step that was done; returns an event to record, or None.

        Args:
            optimizer: Just did the step.
            objective: What it was given.
        """
        return None

    @property
    def steps_per_epoch(self) -> int:
        """Steps in a pass over the data, at the size that batches have at the start."""
        return self.batches.steps_per_epoch

    def epochs(self, step: int) -> float:
        """Returns how many passes over the data the steps so far have been.

        Args:
            step: Number of steps done.
        """
        return step / self.batches.steps_per_epoch

    def state_dict(self) -> dict[str, Any]:
        """Returns what the policy has to know to go on: plain numbers, lists and text."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned.

        Args:
            state: As saved.
        """


class One(DataPolicy):
    """One batch a step, for gradient, curvature and acceptance alike: the function of a step is the batch's loss."""

    summary = "one batch for gradient, curvature and acceptance"

    def draw(self, objective: Objective, step: int) -> Objective:
        """Returns the objective on the batch of a step.

        Args:
            objective: On any batch of the same model.
            step: Number of steps done before this one.
        """
        inputs, targets, key = self.batches.batch(step)
        return objective.with_batch(inputs, targets, key=key)
