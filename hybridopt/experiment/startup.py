"""What happens before the clock of a run starts."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import torch

from hybridopt.objective import Objective

WARM_UP_SAMPLES = 8


def warm_up(
    task: Any, split: Any, seed: int, dtype: torch.dtype, make_optimizer: Callable[[torch.nn.Module], Any]
) -> None:
    """Does one step on a throw-away model and a few samples, so that the clock does not count first-time costs.

    The first step of a process imports modules, creates handles of libraries and chooses kernels. Whatever fails here
    is left for the real first step to report.

    Args:
        task: The task.
        split: Its training data, on the run's device.
        seed: Of the model.
        dtype: Of the model.
        make_optimizer: Makes an optimizer for a model.
    """
    few = split.take(slice(0, WARM_UP_SAMPLES))
    with contextlib.suppress(Exception):
        model = task.model(seed).to(few.inputs.device, dtype)
        make_optimizer(model).step(Objective(model, task.loss, few.inputs, few.targets))
        if few.inputs.device.type == "cuda":
            torch.cuda.synchronize(few.inputs.device)


def skip_compiler_import() -> None:
    """Spares a run the import of torch's compiler, which costs more than that of torch itself.

    `torch.optim.Optimizer` marks a few of its methods as not to be compiled, and at their first call imports
    ``torch._dynamo`` only to say so. Nothing here is compiled, so the methods are marked as settled instead. A torch
    that does this differently is left as it is.
    """
    for name in ("add_param_group", "load_state_dict", "state_dict"):
        function = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if function is not None and not hasattr(function, "__dynamo_disable"):
            setattr(function, "__dynamo_disable", function)


def process_began() -> float:
    """Returns the reading of `time.perf_counter` when this process began, to some hundredths of a second.

    Where the system does not tell (it is asked as Linux answers), it is that of this call.
    """
    now = time.perf_counter()
    with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
        with open("/proc/self/stat", encoding="utf-8") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])  # the name in parentheses may hold anything
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return now - max(0.0, age)
    return now
