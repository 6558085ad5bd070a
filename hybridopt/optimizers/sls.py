"""SGD with a stochastic line search."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hybridopt.core import option
from hybridopt.globalization import StochasticArmijo, noise_floor
from hybridopt.globalization.stochastic_armijo import RESETS
from hybridopt.objective import Objective
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.line_search_step import dot, scaled


@dataclass
class SLSConfig:
    """Options of `SLS`.

    Attributes:
        lr: The first trial of all, and the unit of `largest`.
        weight_decay: L2 strength, part of the function that is searched on.
        c: Constant of sufficient decrease.
        shrink: Factor by which a rejected step is shortened.
        reset: First trial of a search: ``grow``, ``keep`` or ``first``, see `StochasticArmijo`.
        growth: Factor by which ``grow`` lengthens the step in an epoch.
        epoch: Steps in an epoch.
        largest: Longest step, in multiples of `lr`.
        max_evaluations: Most trials of one search.
    """

    lr: float = option(1.0, ge=0, search=("log", 0.1, 10.0), help="first trial")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-6, 1e-2), help="L2 strength")
    c: float = option(0.1, gt=0, lt=1, search=[0.1, 0.3, 0.5], help="constant of sufficient decrease")
    shrink: float = option(0.9, gt=0, lt=1, search=[0.5, 0.7, 0.9], help="factor on a rejected step")
    reset: str = option("grow", choices=RESETS, help="first trial of a search")
    growth: float = option(2.0, ge=1, help="growth of the first trial in an epoch")
    epoch: int = option(500, ge=1, help="steps in an epoch")
    largest: float = option(10.0, gt=0, help="longest step, in multiples of lr")
    max_evaluations: int = option(100, ge=1, help="most trials of one search")


class SLS(Optimizer):
    """SGD with the stochastic Armijo line search of Vaswani et al. 2019 (algorithm 1).

    Both sides of Armijo's condition ``f(x - t g) <= f(x) - c t |g|^2`` are values on the step's own mini-batch, with
    the same random numbers, and a noise floor of 10 eps |f|. The next search begins at a step a little longer than the
    last one. When no trial is accepted nothing moves and the next search begins at `lr` again. The momentum variants
    of the paper are left out: they move beyond the point that was tested.

    Report: ``accepted, step_size, step_norm, evaluations, search``.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = SLSConfig
    summary = "SGD with an Armijo search on each mini-batch"

    def update(self, objective: Objective) -> None:
        """Searches along the negative gradient and moves.

        Args:
            objective: Bound to the parameters.
        """
        config, memory = self.config, self.memory
        value, gradient = objective.value_and_grad()
        grad_norm = float(torch.linalg.vector_norm(gradient))
        self.note(grad_norm=grad_norm)
        if not self.can_descend(value, grad_norm):
            return
        unit, direction = scaled(self, objective, -gradient)
        slope = dot(gradient, direction)
        if unit == 0.0 or not slope < 0.0:
            self.note(accepted=False, status="zero_rate", step_norm=0.0, evaluations=0)
            return
        rule = StochasticArmijo(
            config.c,
            config.shrink,
            config.reset,
            config.growth,
            config.epoch,
            config.largest,
            config.max_evaluations,
        )
        origin = objective.position()
        result, memory["last"] = rule.search(
            lambda step: objective.value(origin.add(direction, alpha=step)),
            value,
            slope,
            last=memory.get("last", 1.0),
            unit=unit,
            noise=noise_floor(value, objective.eps),
        )
        if result.step > 0:
            objective.commit(origin.add_(direction, alpha=result.step))
        self.note(
            accepted=result.step > 0,
            step_size=result.step,
            step_norm=lambda: result.step * float(torch.linalg.vector_norm(direction)),
            evaluations=result.evaluations,
            search=str(result.status),
        )
