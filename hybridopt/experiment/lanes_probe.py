"""Whether lanes are worth it on this machine: a short measurement before they start."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import torch

from hybridopt.experiment.build import build_optimizer
from hybridopt.experiment.lanes import feed
from hybridopt.experiment.lanes_stack import Stack
from hybridopt.experiment.loop import Trainer
from hybridopt.objective import Objective

SECONDS = 0.3
"""Time for each of the two measurements, beyond the first step."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a step costs in lanes and alone.

    Attributes:
        lanes: Number of lanes.
        together: Seconds of a step of all lanes.
        alone: Seconds of a step of one run.
        startup: Seconds that a process takes before its first step.
        steps: Steps of the longest run, None if its budget does not tell.
    """

    lanes: int
    together: float
    alone: float
    startup: float
    steps: int | None

    @property
    def step_ratio(self) -> float:
        """How many times longer the steps take one after another."""
        return self.lanes * self.alone / self.together

    @property
    def ratio(self) -> float:
        """How many times longer the runs take one after another, each in a fresh process as a sweep does them."""
        if self.steps is None:
            return self.step_ratio
        one_by_one = self.lanes * (self.startup + self.steps * self.alone)
        return one_by_one / (self.startup + self.steps * self.together)

    def as_dict(self) -> dict[str, Any]:
        """Returns the figures as plain data."""
        return {**dataclasses.asdict(self), "step_ratio": self.step_ratio, "ratio": self.ratio}


def probe(stack: Stack, trainers: Sequence[Trainer], startup: float) -> Probe:
    """Times steps of all lanes and of one run; both are undone.

    Args:
        stack: The lanes.
        trainers: The runs, in the same order.
        startup: Seconds that this process took before it built anything.
    """
    saved = stack.snapshot()

    def together() -> None:
        stack.differentiate(*feed(trainers))
        stack.step()

    first = trainers[0]
    model = copy.deepcopy(first.parts.model)
    optimizer = build_optimizer(first.config, model)
    objective = Objective(model, first.parts.task.loss, *first.parts.batches.batch(0)[:2])

    def alone() -> None:
        optimizer.step(objective.with_batch(*first.parts.batches.batch(0)[:2]))

    device = stack.flat.device
    costs = _time(together, device), _time(alone, device)
    stack.restore(saved)
    return Probe(len(stack.lanes), *costs, startup, _longest(trainers))


def _time(call: Any, device: torch.device) -> float:
    """Returns the seconds of a call: the fastest of as many as fit, the first not counted."""
    call()
    fastest, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < SECONDS or fastest == float("inf"):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        fastest = min(fastest, time.perf_counter() - started)
    return fastest


def _longest(trainers: Sequence[Trainer]) -> int | None:
    steps = []
    for trainer in trainers:
        limits, per_epoch = trainer.parts.limits, trainer.parts.data.steps_per_epoch
        # A first-order step costs its share of the training set, so a limit on cost is one on steps.
        cost = trainer.parts.batches.size / trainer.parts.batches.samples
        units = {"steps": 1.0, "epochs": float(per_epoch), "gradient_equivalents": 1.0 / cost}
        known = [limits[name] * unit for name, unit in units.items() if limits[name] is not None]
        if not known:
            return None
        steps.append(min(known))
    return round(max(steps))
