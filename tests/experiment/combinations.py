"""Every choice that a config can make, put together, and what becomes of the combinations."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from hybridopt.core import ConfigError
from hybridopt.curvature.preconditioners import registry as preconditioners
from hybridopt.experiment import parts
from hybridopt.experiment.build import build
from hybridopt.experiment.config import resolve
from hybridopt.testing import SETTINGS
from tests.experiment import tiny

assert tiny.Tiny.name == "tiny"  # imported for its registration

STEPS = 4
"""Enough for a stall of two windows of one step to be seen, and a jump to be judged."""
QUICK = {"stall_window": 2, "stall_tolerance": 10.0, "window": 1, "probes": 1, "tries": 1}
"""An escape that takes any two steps for a stall."""
TASKS: tuple[Mapping[str, Any], ...] = (
    {"name": "tiny", "batch_size": 16},
    {"name": "tiny", "batch_size": "auto"},
    {"name": "tiny", "batch_size": "full", "dropout": 0.0},
    {"name": "test_function"},
    {"name": "saddle", "problem": "linear_net"},
    {"name": "pinn_convection", "points": 12, "width": 4, "layers": 2},
)
BUILTINS = {kind: list(parts.registry(kind)._builtins) for kind in parts.KINDS}
ESCAPES: list[dict[str, Any]] = [{"name": name, **({} if name == "none" else QUICK)} for name in BUILTINS["escape"]]
DTYPES = ("float32", "float64")


def optimizers() -> list[dict[str, Any]]:
    """Every optimizer with the settings of the tests, once as it is and once for every other choice of an option."""
    found: list[dict[str, Any]] = []
    for name in BUILTINS["optimizer"]:
        usual = {"name": name, **SETTINGS.get(name, {})}
        found.append(usual)
        for option, values in choices("optimizer", name).items():
            found += [{**usual, option: value} for value in values if value != usual.get(option)]
    external = ({"cls": "torch:AdamW", "options": {"lr": 1e-3}}, {"cls": "scipy:L-BFGS-B", "options": {"maxiter": 2}})
    return [*found, *({"name": "external", **one} for one in external)]


def choices(kind: str, name: str) -> dict[str, list[Any]]:
    """Returns the options of a part that choose between a few ways, with every value that is not the default."""
    cls = parts.config_class(kind, name)
    found: dict[str, list[Any]] = {}
    for field in getattr(cls, "__dataclass_fields__", {}).values():
        if field.name == "preconditioner":
            values: list[Any] = ["none", *preconditioners.names()]
        elif isinstance(field.default, bool):
            values = [True, False]
        else:
            values = list(field.metadata.get("choices") or ())
        found[field.name] = [value for value in values if value != field.default]
    return {option: values for option, values in found.items() if values}


def data_policies() -> list[dict[str, Any]]:
    """Every data policy, once as it is and once for every other choice of an option; they act within `STEPS`."""
    soon = {"growing": {"every": 2, "pieces": 2}, "resample": {"every": 2}}
    found: list[dict[str, Any]] = []
    for name in BUILTINS["data"]:
        usual = {"name": name, **soon.get(name, {})}
        found.append(usual)
        found += [{**usual, option: value} for option, values in choices("data", name).items() for value in values]
    return found


def others() -> Iterator[tuple[Any, ...]]:
    """Yields (escape, schedule, data, task, dtype), all combinations."""
    return itertools.product(ESCAPES, BUILTINS["schedule"], data_policies(), TASKS, DTYPES)


def values(optimizer: Mapping[str, Any], other: tuple[Any, ...]) -> dict[str, Any]:
    """Returns the plain config of a combination."""
    escape, schedule, data, task, dtype = other
    return {
        "optimizer": dict(optimizer),
        "escape": dict(escape),
        "schedule": {"name": schedule},
        "data": dict(data),
        "task": dict(task),
        "dtype": dtype,
        "device": "cpu",
        "threads": 1,
        "budget": {"steps": STEPS},
    }


def outcome(config: Mapping[str, Any]) -> str:
    """Checks, builds and runs a combination for a few steps; returns "" or the sentence in which it was refused."""
    try:
        run(config)
    except ConfigError as refusal:
        return str(refusal)
    return ""


def run(config: Mapping[str, Any]) -> None:
    """What the training loop does, without a store."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # torch's, at a schedule that is stepped out of turn
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        experiment = build(resolve(config))
        from hybridopt.objective import Objective

        inputs, targets, key = experiment.batches.batch(0)
        objective = Objective(experiment.model, experiment.task.loss, inputs, targets, key=key)
        experiment.model.train()
        for step in range(STEPS):
            objective = experiment.data.draw(objective, step)
            experiment.optimizer.step(objective)
            experiment.data.after_step(experiment.optimizer, objective)
            experiment.schedule.after_step(step + 1)
            experiment.optimizer.report.as_dict()
        with experiment.optimizer.evaluation(), torch.no_grad():
            experiment.model.eval()
            loss = float(experiment.task.loss(experiment.model(inputs), targets))
        experiment.schedule.after_evaluation(loss)
