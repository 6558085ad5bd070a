"""One step before anything starts, to find parts that do not go with the model."""

from __future__ import annotations

import math

import torch

from hybridopt.core import ConfigError
from hybridopt.data import Batches
from hybridopt.experiment.build import build_data, build_optimizer, build_task
from hybridopt.experiment.config import RunConfig
from hybridopt.objective import Ledger, Objective
from hybridopt.tasks import Split

SAMPLES = 13
"""In a batch; a number that is unlikely to be that of features, classes or time steps too."""
BUDGET = 20.0
"""Gradients of such a batch after which nothing is refused any more."""


def rehearse(config: RunConfig, data: Split) -> None:
    """Does one step on a throw-away model and a few samples, and passes on what is refused.

    An optimizer is made from parameters alone: whether it knows the model's layers, can tell the data apart or has
    the likelihood that it needs shows when it sees the model at work. That is better known before the first job of a
    sweep starts than when it is that job's turn. Anything else that goes wrong is left for the job to report.

    Args:
        config: A checked config.
        data: The task's training data.

    Raises:
        ConfigError: If a part refuses the model, the loss or what another part does.
    """
    with torch.random.fork_rng(devices=[]):
        task, dtype = build_task(config), getattr(torch, config.dtype)
        whole = config.task["batch_size"] == "full" or len(data) <= SAMPLES
        count = min(len(data), SAMPLES if whole else 2 * SAMPLES)
        few = data.take(torch.linspace(0, len(data) - 1, count).long()).to("cpu", dtype)
        batches = Batches(few, "full" if whole else SAMPLES, count, config.seed)
        model = task.model(config.seed).to(dtype)
        policy = build_data(config, batches, task)
        inputs, targets, key = batches.batch(0)
        objective = Objective(model, task.loss, inputs, targets, key=key, ledger=_Limited())
        try:
            build_optimizer(config, model).step(policy.draw(objective, 0))
        except ConfigError as refusal:
            # A few samples need not be a problem on which a loss is finite.
            if math.isfinite(Objective(model, task.loss, inputs, targets).value()):
                names = f"task={config.task['name']} optimizer={config.optimizer['name']}"
                raise type(refusal)(f"{names}: {refusal}") from refusal
        except Exception:  # the budget is used, or it takes the whole task to go wrong: the job will tell
            return


class _Limited(Ledger):
    """Ends the rehearsal where a step is dear: what is refused is refused at once."""

    def pay(self, kind: str, samples: int, columns: int = 1) -> None:
        """Enters one call, while there is budget left.

        Args:
            kind: As for a ledger.
            samples: As for a ledger.
            columns: As for a ledger.

        Raises:
            RuntimeError: Once it is used.
        """
        super().pay(kind, samples, columns)
        if self.gradient_equivalents(SAMPLES) > BUDGET:
            raise RuntimeError("The rehearsal has seen enough.")
