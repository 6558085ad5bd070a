"""Limited-memory BFGS."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.globalization import LineSearchResult, armijo, noise_floor, strong_wolfe
from hybridopt.objective import Objective
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.lbfgs_memory import PairMemory
from hybridopt.optimizers.line_search_step import dot, scaled


@dataclass
class LBFGSConfig:
    """Options of `LBFGS`.

    Attributes:
        lr: First trial length once there is a pair.
        weight_decay: w adds w/2 ||p||^2 to the function.
        history: Pairs kept, m.
        line_search: ``strong_wolfe``, ``armijo``, or ``none`` for steps of length lr.
        pairs: What happens to a pair without positive curvature: ``skip``, counted, or ``damp`` after Powell 1978.
        c1: Constant of sufficient decrease.
        c2: Constant of the curvature condition.
        max_evaluations: Most trials of the line search.
    """

    lr: float = option(1.0, ge=0, search=("log", 0.1, 1.0), help="first trial length once there is a pair")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-6, 1e-2), help="w adds w/2 ||p||^2 to the function")
    history: int = option(10, ge=1, search=[5, 10, 20, 50], help="pairs kept")
    line_search: str = option("strong_wolfe", choices=["strong_wolfe", "armijo", "none"], help="globalization")
    pairs: str = option("skip", choices=["skip", "damp"], help="pairs without positive curvature: skip or Powell damp")
    c1: float = option(1e-4, gt=0, lt=1, help="constant of sufficient decrease")
    c2: float = option(0.9, gt=0, lt=1, help="constant of the curvature condition")
    max_evaluations: int = option(25, ge=1, help="most trials of the line search")


class LBFGS(Optimizer):
    """L-BFGS (Liu and Nocedal 1989), one iteration a step.

    Both gradients of a pair come from the same batch, under the same random numbers. A step that goes on where the
    last one ended, on the same data, takes over the gradient from its line search, so a full-batch iteration costs
    as many gradients as the search has trials, usually one. Any number of param groups; ``lr`` of a group scales its
    part of the direction.

    Report: ``evaluations``, ``step_size``, ``search`` (how the line search ended), ``skipped_pairs``,
    ``damped_pairs``, ``pairs``.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = LBFGSConfig
    family = "quasi-newton"
    batch = "full"
    summary = "limited-memory BFGS, strong Wolfe search"

    def update(self, objective: Objective) -> None:
        """Does one quasi-Newton iteration.

        Args:
            objective: Bound to the parameters.
        """
        config, memory, space = self.config, self.memory, objective.space
        pairs = PairMemory(
            memory.setdefault("pairs", {}), config.history, space.n, dtype=space.dtype, device=space.device
        )
        origin = objective.position()
        value, gradient = self._start_gradient(objective, origin)
        length = float(torch.linalg.vector_norm(gradient))
        self.note(grad_norm=length, pairs=len(pairs))
        if not self.can_descend(value, length):
            return
        step0, direction = scaled(self, objective, -pairs.inverse_product(gradient))
        slope = dot(gradient, direction)
        if not slope < 0:
            pairs.clear()
            self.report.events.append({"event": "memory_reset", "reason": "no descent direction"})
            step0, direction = scaled(self, objective, -gradient)
            slope = dot(gradient, direction)
        if len(pairs) == 0:
            # Nothing is known about the scale yet; torch.optim.LBFGS starts the same way.
            step0 *= min(1.0, 1.0 / float(gradient.abs().sum()))
        if step0 == 0.0 or slope == 0.0:
            self.note(accepted=False, status="zero_rate", step_norm=0.0)
            return
        result = self._search(objective, origin, direction, value, slope, step0)
        step = direction.mul_(result.step)
        if result.step > 0:
            target = origin + step
            objective.commit(target)
            after = result.payload
            if after is None:
                # An Armijo search or a fixed step has values only.
                result.value, after = objective.value_and_grad(target)
            pairs.push(step, after - gradient, damping=config.pairs == "damp")
            memory["end"] = {"key": objective.key, "position": target, "value": result.value, "gradient": after}
            if not math.isfinite(result.value) or not objective.repeatable:
                memory["end"] = None
        elif len(pairs) > 0:
            pairs.clear()
            self.report.events.append({"event": "memory_reset", "reason": "line search failed"})
        self.note(
            accepted=result.step > 0,
            step_size=result.step,
            step_norm=lambda: float(torch.linalg.vector_norm(step)),
            evaluations=result.evaluations,
            search=str(result.status),
            skipped_pairs=pairs.skipped,
            damped_pairs=pairs.damped,
        )
        self.report.events.extend(result.events)

    def _start_gradient(self, objective: Objective, origin: Tensor) -> tuple[float, Tensor]:
        """Value and gradient where the model stands, from the last step if that ended here on the same data."""
        end = self.memory.get("end")
        if end is not None and end["key"] == objective.key and torch.equal(end["position"], origin):
            objective.resume(end["value"], end["gradient"])
            return end["value"], end["gradient"]
        return objective.value_and_grad()

    def _search(
        self, objective: Objective, origin: Tensor, direction: Tensor, value: float, slope: float, step0: float
    ) -> LineSearchResult:
        config = self.config
        noise = noise_floor(value, objective.eps)
        if config.line_search == "none":
            return LineSearchResult(step0, math.nan, None, None, 0, "fixed")  # type: ignore[arg-type]
        if config.line_search == "armijo":
            return armijo(
                lambda step: objective.value(origin.add(direction, alpha=step)),
                value,
                slope,
                step0=step0,
                c1=config.c1,
                max_evaluations=config.max_evaluations,
                noise=noise,
            )

        def phi(step: float) -> tuple[float, float, Tensor]:
            trial_value, trial_gradient = objective.value_and_grad(origin.add(direction, alpha=step))
            return trial_value, dot(trial_gradient, direction), trial_gradient

        return strong_wolfe(
            phi,
            value,
            slope,
            step0=step0,
            c1=config.c1,
            c2=config.c2,
            max_evaluations=config.max_evaluations,
            noise=noise,
        )

    def moved(self, objective: Objective, reason: str) -> None:
        """Drops the gradient kept for the next step. The pairs stay: they are true of where they were taken.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        self.memory["end"] = None
