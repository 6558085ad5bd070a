"""Builds what a config names: task, data, model, optimizer, schedule."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import torch

from hybridopt.core import ConfigError
from hybridopt.data import Batches, DataPolicy
from hybridopt.experiment import parts
from hybridopt.experiment.augmentation import augmented
from hybridopt.experiment.config import RunConfig, batch_policy
from hybridopt.experiment.randomness import seed_everything
from hybridopt.experiment.schedules import Schedule
from hybridopt.experiment.startup import skip_compiler_import, warm_up
from hybridopt.experiment.stopping import Stopping

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class Experiment:
    """The parts of one run, on its device.

    Attributes:
        task: The task.
        splits: Train, validation and test data.
        model: The module that is trained.
        optimizer: Moves the model's parameters.
        schedule: Moves the optimizer's rate.
        batches: The training data in batches of the size that the config asks for.
        data: Draws the samples of each step from them.
        limits: The budget with the task's default filled in.
        device: Where it all is.
        initialization: What set the initial parameters, and which it left.
        stopping: Looks at every evaluation.
    """

    task: Any
    splits: Any
    model: torch.nn.Module
    optimizer: Any
    schedule: Schedule
    batches: Batches
    data: DataPolicy
    limits: dict[str, float | None]
    device: torch.device
    initialization: dict[str, Any] = dataclasses.field(default_factory=dict)
    stopping: Stopping = dataclasses.field(default_factory=lambda: Stopping(Stopping.Config()))

    def facts(self) -> dict[str, Any]:
        """Returns what a report says about the task: plain data."""
        splits, task = self.splits, self.task
        return {
            "name": task.name,
            "summary": task.summary,
            "trivial_loss": _trivial_loss(task, splits),
            "targets": [dataclasses.asdict(target) for target in task.targets],
            "reference_samples": int(task.reference_samples(splits)),
            "train_size": len(splits.train),
            "validation_size": len(splits.validation),
            "test_size": len(splits.test),
            "parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            "batch_size": self.batches.size,
            "initialization": self.initialization,
            "family": getattr(self.optimizer, "family", None),
        }


def build(config: RunConfig, device: str | None = None, *, splits: Any = None) -> Experiment:
    """Builds the parts of a run; all generators are seeded first.

    Args:
        config: A checked config.
        device: Overrides the config's, e.g. to choose one of several GPUs.
        splits: The task's data for the config's seed, if another run of this process has built them already: then
            they are shared, and nothing has to be warmed up.

    Raises:
        HybridoptError: If data is missing, a batch is larger than the data, or parts do not fit together.
    """
    seed_everything(config.seed)
    where = torch.device(device or config.device)
    dtype = getattr(torch, config.dtype)
    task = build_task(config)
    known = splits is not None
    splits = splits if known else task.splits(config.seed).to(where, dtype)
    batches = _batches(config, task, splits)
    limits = limits_of(config, task)
    model, initialization = build_model(config, task)
    model = model.to(where, dtype)
    _part(config, "precision", dtype).prepare(model, where)
    optimizer = build_optimizer(config, model)
    data = build_data(config, batches, task)
    schedule = build_schedule(config, optimizer, data.steps_per_epoch, limits)
    if not known:
        # With a task of its own, in case the loss remembers anything.
        warm_up(build_task(config), splits.train, config.seed, dtype, lambda small: build_optimizer(config, small))
    # What came before (initialization, data, warm-up) must not depend on how many numbers it drew.
    seed_everything(config.seed)
    stopping = _part(config, "stopping", config.schedule["name"], optimizer)
    parts_of_run = (task, splits, model, optimizer, schedule, batches, data, limits, where)
    return Experiment(*parts_of_run, initialization, stopping)


def build_task(config: RunConfig) -> Any:
    """Returns the task that a config names.

    Args:
        config: A checked config.
    """
    cls = parts.part_class("task", config.task["name"])
    options = {key: value for key, value in config.task.items() if key != "name"}
    if isinstance(options.get("batch_size"), str):  # "large" and "full" are the loop's business
        del options["batch_size"]
    return cls(**options)


def build_model(config: RunConfig, task: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Returns the task's model with the initial parameters that a config asks for, float32, on the CPU.

    Args:
        config: A checked config.
        task: The task.

    Returns:
        The model, and what a run's provenance says about its initialization.

    Raises:
        HybridoptError: If the initialization does not go with the model.
    """
    model = task.model(config.seed)
    facts = _part(config, "initialization", config.seed).apply(model)
    return model, {"name": config.initialization["name"], **facts}


def build_optimizer(config: RunConfig, model: torch.nn.Module) -> Any:
    """Returns the optimizer that a config names, with its escape, on the parameters of a model.

    Args:
        config: A checked config.
        model: Its trainable parameters are optimized.

    Raises:
        ConfigError: If the optimizer refuses its options.
    """
    from hybridopt.factory import create

    skip_compiler_import()
    options = {key: value for key, value in config.optimizer.items() if key != "name"}
    escape = None if config.escape["name"] == "none" else _seeded(dict(config.escape), config.seed)
    name = config.optimizer["name"]
    try:
        return create(name, model.parameters(), escape=escape, **_seeded(options, config.seed))
    except TypeError as error:  # a third-party class that does not know an option
        raise ConfigError(f"The optimizer {name} does not take these options: {error}.") from error


def build_schedule(
    config: RunConfig, optimizer: Any, steps_per_epoch: int, limits: dict[str, float | None]
) -> Schedule:
    """Returns the schedule that a config names.

    Args:
        config: A checked config.
        optimizer: Whose rate is scheduled.
        steps_per_epoch: Steps in a pass over the training set.
        limits: What `limits_of` returned.

    Raises:
        ConfigError: If the schedule needs to know the number of steps and the budget does not tell.
    """
    cls = parts.part_class("schedule", config.schedule["name"])
    options = {key: value for key, value in config.schedule.items() if key != "name"}
    return cls(cls.Config(**options), optimizer, steps_per_epoch, _total_steps(limits, steps_per_epoch))


def build_data(config: RunConfig, batches: Batches, task: Any) -> DataPolicy:
    """Returns the data policy that a config names.

    Args:
        config: A checked config.
        batches: The training data in batches.
        task: What they are of.

    Raises:
        ConfigError: If the policy does not go with the batches or the task.
    """
    cls = parts.part_class("data", config.data["name"])
    policy = cls(batches, **{key: value for key, value in config.data.items() if key != "name"})
    policy.attach(task)
    return policy


def check_buildable(config: RunConfig, splits: Any, task: Any) -> None:
    """Finds what only building finds: a batch larger than the data, parts that do not fit, an open-ended schedule.

    Args:
        config: A checked config.
        splits: The task's data.
        task: The task.

    Raises:
        HybridoptError: If the run could not start.
    """
    batches = _batches(config, task, splits)
    if config.initialization["name"] != "default":
        build_model(config, task)
    _part(config, "precision", getattr(torch, config.dtype))
    optimizer = build_optimizer(config, torch.nn.Linear(2, 1))
    _part(config, "stopping", config.schedule["name"], optimizer)
    build_schedule(config, optimizer, build_data(config, batches, task).steps_per_epoch, limits_of(config, task))


def limits_of(config: RunConfig, task: Any) -> dict[str, float | None]:
    """Returns the limits of a run: those of the budget, or the task's default when it sets none.

    Args:
        config: A checked config.
        task: The task.
    """
    budget = config.budget
    limits = {
        "epochs": budget.epochs,
        "steps": budget.steps,
        "gradient_equivalents": budget.gradient_equivalents,
        "seconds": budget.seconds,
    }
    if budget.unlimited:
        # Equal cost for all; for mini-batch methods that is a number of steps, which schedules want to know.
        mini = batch_policy(config.optimizer) == "mini"
        limits["epochs" if mini else "gradient_equivalents"] = float(task.config.epochs)
    return limits


def _batches(config: RunConfig, task: Any, splits: Any) -> Batches:
    batches = Batches(splits.train, config.task["batch_size"], task.config.batch_size, config.seed)
    return augmented(batches, _part(config, "augmentation"), task, splits.train, config.data["name"])


def _part(config: RunConfig, kind: str, *arguments: Any) -> Any:
    """Returns a part that takes its config first."""
    named = getattr(config, kind)
    cls = parts.part_class(kind, named["name"])
    return cls(cls.Config(**{key: value for key, value in named.items() if key != "name"}), *arguments)


def _trivial_loss(task: Any, splits: Any) -> float | None:
    try:
        return float(task.trivial_loss(splits))
    except Exception as error:  # a remark in the report is not worth a run; a broken loss will show in training
        _log.warning("The trivial predictor's loss is not known: %s: %s", type(error).__name__, error)
        return None


def _total_steps(limits: dict[str, float | None], steps_per_epoch: int) -> int | None:
    known = []
    if limits["steps"] is not None:
        known.append(int(limits["steps"]))
    if limits["epochs"] is not None:
        known.append(max(1, math.ceil(limits["epochs"] * steps_per_epoch - 1e-9)))
    return min(known) if known else None


def _seeded(options: dict[str, Any], seed: int) -> dict[str, Any]:
    """Lets a part's own random numbers differ from one run's seed to the next."""
    if isinstance(options.get("seed"), int):
        options["seed"] = (options["seed"] + 7919 * seed) % 2**31
    return options
