"""The second half of a line-search method: take a direction, search along it, move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybridopt.globalization import LineSearchResult, NonmonotoneReference, armijo, noise_floor
from hybridopt.objective import Objective

if TYPE_CHECKING:
    from hybridopt.optimizers.base import Optimizer


def dot(a: Tensor, b: Tensor) -> float:
    """Returns the inner product of two flat vectors as a Python float.

    Args:
        a: Shape (n,).
        b: Shape (n,).
    """
    return float(torch.dot(a, b))


def scaled(optimizer: Optimizer, objective: Objective, direction: Tensor) -> tuple[float, Tensor]:
    """Returns first trial length and direction under the groups' learning rates.

    Args:
        optimizer: Whose groups say the rates.
        objective: Bound to it.
        direction: Shape (n,).

    Returns:
        ``(lr, direction)`` where all groups agree, else ``(1.0, lr * direction)`` with each group's own rate. A rate
        of zero holds its parameters still.
    """
    rate = optimizer.rate(objective)
    if isinstance(rate, Tensor):
        return 1.0, rate * direction
    return rate, direction


def recent_maximum(optimizer: Optimizer, objective: Objective, value: float, window: int) -> float:
    """Returns the largest of the last values on the same data (Grippo, Lampariello and Lucidi 1986).

    Args:
        optimizer: In whose memory they are, under ``reference``.
        objective: Bound to it.
        value: The function where the model stands; finite.
        window: How many values count, this one among them; 1 for none but this one.
    """
    state = optimizer.memory.setdefault("reference", {"key": objective.key, "state": {}})
    if state["key"] != objective.key or not objective.repeatable:
        # Values on other data, or under other random numbers, are no measure.
        state.update(key=objective.key, state={})
    return NonmonotoneReference(state["state"], "max", window=window).update(value)


def backtrack(
    optimizer: Optimizer,
    objective: Objective,
    direction: Tensor,
    value: float,
    gradient: Tensor,
    *,
    c1: float = 1e-4,
    shrink: float = 0.5,
    max_evaluations: int = 25,
    interpolate: bool = True,
    expand: int = 0,
    reference: float | None = None,
) -> tuple[LineSearchResult, Tensor]:
    """Backtracks along a direction (Armijo), moves the model there, and notes what happened.

    A direction that does not descend is replaced by the negative gradient.

    Args:
        optimizer: For its rates and its report.
        objective: Bound to it.
        direction: Shape (n,).
        value: The function at the model's parameters.
        gradient: The gradient there, shape (n,).
        c1: Constant of sufficient decrease.
        shrink: Factor from one trial to the next without interpolation.
        max_evaluations: Most trials.
        interpolate: Whether trials come from interpolation.
        expand: How often an accepted first trial may be doubled while the function falls (for directions of negative
            curvature, whose length means nothing).
        reference: What has to be fallen below instead of the value, not less; see `recent_maximum`.

    Returns:
        The search's result and the direction that was searched along.
    """
    origin = objective.position()
    step0, direction = scaled(optimizer, objective, direction)
    slope = dot(gradient, direction)
    if not slope < 0:
        step0, direction = scaled(optimizer, objective, -gradient)
        slope = dot(gradient, direction)
    if step0 == 0.0 or slope == 0.0:
        optimizer.note(accepted=False, status="zero_rate", step_norm=0.0, evaluations=0)
        return LineSearchResult(0.0, value, slope, None, 0, "zero_rate"), direction  # type: ignore[arg-type]

    def phi(step: float) -> float:
        return objective.value(origin.add(direction, alpha=step))

    rise = 0.0 if reference is None else max(0.0, reference - value)
    result = armijo(
        phi,
        value,
        slope,
        step0=step0,
        c1=c1,
        shrink=shrink,
        max_evaluations=max_evaluations,
        noise=noise_floor(value, objective.eps) + rise,
        interpolate=interpolate,
    )
    if result.step == step0:
        for _ in range(expand):
            further = phi(2 * result.step)
            result.evaluations += 1
            if not further < result.value:
                break
            result.step, result.value = 2 * result.step, further
    if result.step > 0:
        objective.commit(origin.add_(direction, alpha=result.step))
    step = result.step
    optimizer.note(
        accepted=step > 0,
        step_size=step,
        step_norm=lambda: step * float(torch.linalg.vector_norm(direction)),
        evaluations=result.evaluations,
        search=str(result.status),
    )
    return result, direction
