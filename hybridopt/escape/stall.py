"""When an optimizer is thought to be stuck."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hybridopt.objective import Objective

if TYPE_CHECKING:
    from hybridopt.escape.base import EscapeConfig
    from hybridopt.optimizers.base import Stepping


def stall_reason(
    config: EscapeConfig, memory: dict[str, Any], optimizer: Stepping, objective: Objective, same_batch: bool
) -> str | None:
    """Looks at the step just done and returns why it makes a stall, or None.

    Args:
        config: Says what counts as a stall.
        memory: What the escape remembers; ``losses``, ``rejected``, ``wait`` and ``settled`` are kept up to date.
        optimizer: Its report and gradients are those of the step.
        objective: Bound to its parameters.
        same_batch: Whether the step saw the data of the one before.

    Returns:
        ``small_gradient``, ``rejected_steps``, ``no_progress`` or None.
    """
    report = optimizer.report
    losses: list[Any] = memory["losses"]
    # Kept as tensors: reading one would make a GPU wait at every step.
    losses.append(objective.start_loss if objective.start_loss is not None else report.loss)
    size = config.stall_window
    del losses[: -2 * size]
    if "accepted" in report:
        memory["rejected"] = 0 if report.accepted else memory["rejected"] + 1
    stationary = same_batch and _largest(optimizer._grads()) <= (config.gtol or default_gtol(objective.space.dtype))
    memory["settled"] = memory["settled"] and stationary
    if memory["wait"] > 0:
        memory["wait"] -= 1
        return None
    if stationary:
        return "small_gradient"
    if memory["rejected"] >= config.rejected_steps:
        return "rejected_steps"
    if len(losses) == 2 * size:
        values = [float(loss) for loss in losses]
        before, after = sum(values[:size]) / size, sum(values[size:]) / size
        if not before - after > config.stall_tolerance * abs(before):
            return "no_progress"
        # Looked at once per window, not once per step.
        del losses[:size]
    return None


def default_gtol(dtype: torch.dtype) -> float:
    """Returns the largest gradient entry that counts as zero: 1e-8 in float64, 1e-4 in lower precision.

    Args:
        dtype: Of the parameters.
    """
    return 1e-8 if dtype == torch.float64 else 1e-4


def _largest(gradients: list[Tensor]) -> float:
    if not gradients:
        return 0.0
    return float(torch.stack(torch._foreach_norm(gradients, math.inf)).max())
