"""Loss and metrics on whole splits, and when targets were reached."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

CHUNK = 2048
"""Samples in one forward pass of an evaluation; fixed, so that results do not depend on the run's batch size."""


@torch.no_grad()
def evaluate(model: torch.nn.Module, task: Any, split: Any) -> dict[str, float]:
    """Returns the task's mean loss and metrics on a split, by name.

    The model is in evaluation mode meanwhile and afterwards in the mode that it was in.

    Args:
        model: The module.
        task: Says what loss and metrics are.
        split: The data.
    """
    training = model.training
    model.eval()
    try:
        if len(split) <= CHUNK:
            outputs = model(split.inputs)
        else:
            outputs = torch.cat([model(part) for part in split.inputs.split(CHUNK)])
        loss = float(task.loss(outputs, split.targets))
        return {"loss": loss, **task.metrics(outputs, split.targets)}
    finally:
        model.train(training)


class BestModel:
    """Keeps the parameters with the lowest validation loss so far.

    Attributes:
        loss: That loss; infinite before the first evaluation.
        step: When it was.
        stale: Evaluations since then.
    """

    def __init__(self) -> None:
        self.loss = math.inf
        self.step = 0
        self.stale = 0
        self._model: dict[str, torch.Tensor] = {}

    def see(self, row: Mapping[str, Any], model: torch.nn.Module) -> None:
        """Looks at an evaluation, and takes a copy of the model if it is the best.

        Args:
            row: An evaluation row of the history.
            model: The module at that moment.
        """
        if row["validation_loss"] < self.loss:
            self.loss, self.step, self.stale = row["validation_loss"], row["step"], 0
            self._model = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        else:
            self.stale += 1

    def summary(self, parts: Any) -> dict[str, Any]:
        """Returns test loss and metrics of the final and of the best parameters; the model is left as it is.

        Args:
            parts: The run's `Experiment`.
        """
        model, task, test = parts.model, parts.task, parts.splits.test
        found = {f"test_{name}": value for name, value in evaluate(model, task, test).items()}
        if self._model:
            final = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            model.load_state_dict(self._model)
            at_best = evaluate(model, task, test)
            model.load_state_dict(final)
            found |= {"best_validation_loss": self.loss, "best_step": self.step}
            found |= {f"best_test_{name}": value for name, value in at_best.items()}
        return found

    def state_dict(self) -> dict[str, Any]:
        """Returns the state to resume from."""
        return {"loss": self.loss, "step": self.step, "stale": self.stale, "model": self._model}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a saved state.

        Args:
            state: What `state_dict` returned.
        """
        self.loss, self.step, self.stale = state["loss"], state["step"], state["stale"]
        self._model = state["model"]


class TargetLog:
    """Remembers when each target of a task was reached first.

    Args:
        targets: The task's targets, each with ``metric``, ``value`` and ``mode``.
    """

    def __init__(self, targets: list[Any]) -> None:
        self.entries: list[dict[str, Any]] = [
            {
                "metric": target.metric,
                "value": float(target.value),
                "mode": target.mode,
                "reached": False,
                "step": None,
                "gradient_equivalents": None,
                "seconds": None,
            }
            for target in targets
        ]

    def see(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Looks at an evaluation and returns the targets that it reached for the first time.

        Args:
            row: An evaluation row of the history.
        """
        new = []
        for entry in self.entries:
            value = row.get(entry["metric"])
            if entry["reached"] or value is None:
                continue
            # Written so that NaN reaches nothing.
            if value <= entry["value"] if entry["mode"] == "min" else value >= entry["value"]:
                place = {key: row[key] for key in ("step", "gradient_equivalents", "seconds")}
                entry.update(reached=True, **place)
                new.append(entry)
        return new

    @property
    def all_reached(self) -> bool:
        """Whether there are targets and every one has been reached."""
        return bool(self.entries) and all(entry["reached"] for entry in self.entries)
