"""The base of methods that propose a direction from gradients and search along it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import CombinationError, ConfigError, option
from hybridopt.globalization import (
    LineSearchResult,
    NonmonotoneReference,
    armijo,
    hager_zhang,
    noise_floor,
    nonmonotone,
    strong_wolfe,
)
from hybridopt.objective import Objective
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.line_search_step import dot, scaled

SEARCHES = ["strong_wolfe", "hager_zhang", "nonmonotone", "armijo"]
CURVATURE_SEARCHES = ["strong_wolfe", "hager_zhang", "nonmonotone"]
"""Searches that end at a point where the slope has risen, so that s'y > 0 for the pair of the step."""


@dataclass
class SearchingConfig:
    """Options of methods that search along a direction.

    Attributes:
        lr: First trial length, once the method knows the scale of its direction.
        weight_decay: w adds w/2 ||p||^2 to the function.
        line_search: ``strong_wolfe``; ``hager_zhang`` (approximate Wolfe conditions, Hager and Zhang 2006);
            ``nonmonotone`` (Wolfe conditions below `reference`, Zhang and Hager 2004); ``armijo`` (decrease only).
        reference: What a nonmonotone search has to get below: ``average`` (Zhang and Hager 2004) or ``max`` of the
            last ten values (Grippo, Lampariello and Lucidi 1986).
        c1: Constant of sufficient decrease.
        c2: Constant of the curvature condition.
        max_evaluations: Most trials of the line search.
    """

    lr: float = option(1.0, ge=0, search=("log", 0.1, 1.0), help="first trial length once there is a pair")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-6, 1e-2), help="w adds w/2 ||p||^2 to the function")
    line_search: str = option("strong_wolfe", choices=SEARCHES, help="globalization")
    reference: str = option("average", choices=["average", "max"], help="what a nonmonotone search must get below")
    c1: float = option(1e-4, gt=0, lt=1, help="constant of sufficient decrease")
    c2: float = option(0.9, gt=0, lt=1, help="constant of the curvature condition")
    max_evaluations: int = option(25, ge=1, help="most trials of the line search")

    def validate(self, owner: str) -> None:
        """Refuses constants that no step can meet, before a search does in the first step.

        Args:
            owner: Whose options, for the message.

        Raises:
            ConfigError: If c1 is not below c2, or too large for the search.
        """
        c1, c2 = self.constants()
        if self.line_search in CURVATURE_SEARCHES and not c1 < c2:
            raise ConfigError(f"{owner}: c1 must be below c2, not {c1:g} and {c2:g}; 1e-4 and 0.9 are usual.")
        if self.line_search == "hager_zhang" and not c1 < 0.5:
            raise ConfigError(f"{owner}: line_search='hager_zhang' needs c1 below 0.5, not {c1:g}; 0.1 is usual.")

    def constants(self) -> tuple[float, float]:
        """Returns c1 and c2 of the search."""
        return self.c1, self.c2


class Searching(Optimizer):
    """Direction, search, step, lesson: one iteration a step.

    Both gradients that a method learns from come from the same batch, under the same random numbers. A step that goes
    on where the last one ended, on the same data, takes over the gradient from its line search, so a full-batch
    iteration costs as many gradients as the search has trials, usually one.

    A subclass writes `_propose` and `_learn`, and `_forget` if it has a memory. Vectors of the size of the parameters
    are kept between steps and written in place: on the CPU fresh ones cost more than what is done with them.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = SearchingConfig
    family = "quasi-newton"
    batch = "full"

    _resumed = False
    """Whether the running step goes on where the last one ended, on the same data."""

    _tried = 0.0
    """The running step's last trial; the workspace's position stands there."""

    _trials = 0
    """How many points the running step has tried."""

    _length = 0.0
    """Length of the running step's first gradient."""

    # -- what a method says ----------------------------------------------------------------------------------------

    def _propose(self, objective: Objective, gradient: Tensor, out: Tensor) -> Tensor:
        """Returns the direction, the groups' rates left out.

        Args:
            objective: The bound objective.
            gradient: Where the model stands, shape (n,).
            out: Where the direction may be written to.

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say where it goes: define _propose.")

    def _learn(self, objective: Objective, step: Tensor, change: Tensor, result: LineSearchResult) -> float | None:
        """Takes a step into the memory.

        Args:
            objective: The bound objective.
            step: s, shape (n,); overwritten by the next step.
            change: y, the change of the gradient along it, shape (n,); overwritten by the next step.
            result: Of the line search.

        Returns:
            The length of the step, if the method came to know it.
        """

    def _forget(self) -> bool:
        """Empties the memory. Returns whether there was anything in it."""
        return False

    def _scale_known(self) -> bool:
        """Whether the direction has a length of its own; if not, the first trial is short."""
        return True

    def _directed(self, objective: Objective, direction: Tensor) -> tuple[float, Tensor]:
        """Returns the first trial length and the direction under the groups' rates."""
        return scaled(self, objective, direction)

    def _first_trial(
        self, objective: Objective, step0: float, value: float, gradient: Tensor, direction: Tensor, slope: float
    ) -> float:
        """Returns the first trial length."""
        # Nothing is known about the scale at first; torch.optim.LBFGS starts the same way.
        return step0 if self._scale_known() else step0 * min(1.0, 1.0 / float(torch.linalg.vector_norm(gradient, 1)))

    # -- the step --------------------------------------------------------------------------------------------------

    def update(self, objective: Objective) -> None:
        """Does one iteration.

        Args:
            objective: Bound to the parameters.
        """
        work = self._workspace(objective)
        value, gradient = self._begin(objective, work)
        self._length = length = float(torch.linalg.vector_norm(gradient))
        self.note(grad_norm=length)
        if not self.can_descend(value, length):
            self._stay(objective, value, gradient, known=self._resumed)
            return
        step0, direction = self._directed(objective, self._propose(objective, gradient, work["direction"]))
        slope = dot(gradient, direction)
        if not slope < 0:
            self._reset("no descent direction", always=True)
            step0, direction = self._directed(objective, torch.neg(gradient, out=work["direction"]))
            slope = dot(gradient, direction)
        if step0 == 0.0 or slope == 0.0:
            self.note(accepted=False, status="zero_rate", step_norm=0.0)
            self._stay(objective, value, gradient, known=self._resumed)
            return
        step0 = self._first_trial(objective, step0, value, gradient, direction, slope)
        result = self._search(objective, direction, value, slope, step0)
        accepted = result.step > 0
        if accepted:
            length = self._move(objective, direction, gradient, result)
        else:
            objective.space.read(work["position"])
            self._stay(objective, value, gradient)
            self._reset("line search failed")
        self.note(
            accepted=accepted,
            step_size=result.step,
            step_norm=length if accepted else 0.0,
            evaluations=result.evaluations,
            search=str(result.status),
        )
        self.report.events.extend(result.events)

    def _move(self, objective: Objective, direction: Tensor, gradient: Tensor, result: LineSearchResult) -> float:
        """Moves the model to where the search ended, and learns from it; returns the length of the step."""
        target, after = self._place(objective, direction, result.step), result.payload
        if after is None:
            # The search knew values only.
            result.value, after = objective.value_and_grad(target)
        step = direction if result.step == 1.0 else direction.mul_(result.step)
        length = self._learn(objective, step, torch.sub(after, gradient, out=self._work["change"]), result)
        # Last, so that the next step, which compares them, finds both in the caches.
        objective.commit(target)
        self.memory["end"] = self._end(objective, target, result.value, after)
        return float(torch.linalg.vector_norm(step)) if length is None else length

    def _place(self, objective: Objective, direction: Tensor, step: float) -> Tensor:
        """Returns the point at a step along the direction, in the one vector that is there for it.

        Where the step began is read from the model, which stands there until it is moved, if there is a second trial;
        it lies where the change of the gradient is put later.
        """
        position, origin = self._work["position"], self._work["change"]
        if step == self._tried:
            return position
        self._tried, self._trials = step, self._trials + 1
        if self._trials == 1:
            return position.add_(direction, alpha=step)
        if self._trials == 2:
            objective.space.read(origin)
        return torch.add(origin, direction, alpha=step, out=position)

    def _stay(self, objective: Objective, value: float, gradient: Tensor, *, known: bool = True) -> None:
        """Keeps what is known of the point where the model stays, for the next step; ``p.grad`` has the gradient."""
        if known:
            self.memory["end"] = self._end(objective, self._work["position"], value, gradient.clone())

    def _end(self, objective: Objective, position: Tensor, value: float, gradient: Tensor) -> dict[str, Any] | None:
        """What the next step can take over, where it sees the same function."""
        if not math.isfinite(value) or not objective.repeatable:
            return None
        return {"key": objective.key, "position": position, "value": value, "gradient": gradient}

    def _reset(self, reason: str, *, always: bool = False) -> None:
        if self._forget() or always:
            self.report.events.append({"event": "memory_reset", "reason": reason})

    def _begin(self, objective: Objective, work: dict[str, Tensor]) -> tuple[float, Tensor]:
        """Value and gradient where the model stands, from the last step if that ended here on the same data."""
        # Taken out of the memory: the step writes to its position, and may be interrupted.
        end, self.memory["end"] = self.memory.get("end"), None
        self._tried, self._trials = 0.0, 0
        self._resumed = bool(end) and end["key"] == objective.key and objective.space.stands_at(end["position"])
        if self._resumed:
            work["position"] = end["position"]
            objective.resume(end["value"], end["gradient"], share=True)
            return end["value"], end["gradient"]
        objective.space.read(work["position"])
        return objective.value_and_grad()

    def _workspace(self, objective: Objective) -> dict[str, Tensor]:
        """Vectors that every step overwrites; no state, so they are not saved."""
        space = objective.space
        work: dict[str, Tensor] | None = getattr(self, "_work", None)
        if work is None or (work["change"].shape, work["change"].dtype, work["change"].device) != (
            (space.n,),
            space.dtype,
            space.device,
        ):
            names = ("position", "direction", "change")
            work = {name: torch.empty(space.n, dtype=space.dtype, device=space.device) for name in names}
            self._work = work
        return work

    def _search(
        self, objective: Objective, direction: Tensor, value: float, slope: float, step0: float
    ) -> LineSearchResult:
        """Searches along the direction."""
        config = self.config
        c1, c2 = self.config.constants()
        common: dict[str, Any] = {
            "step0": step0,
            "c1": c1,
            "max_evaluations": config.max_evaluations,
            "noise": noise_floor(value, objective.eps),
        }

        def values(step: float) -> float:
            return objective.value(self._place(objective, direction, step))

        noise = 0.0

        def slopes(step: float) -> tuple[float, float, Tensor]:
            nonlocal noise
            there, gradient = objective.value_and_grad(self._place(objective, direction, step))
            bend = dot(gradient, direction)
            noise = max(noise, _unexplained(value, slope, step, there, bend))
            return there, bend, gradient

        if config.line_search == "none":
            return LineSearchResult(step0, math.nan, None, None, 0, "fixed")  # type: ignore[arg-type]
        if config.line_search == "armijo":
            return armijo(values, value, slope, **common)
        options: dict[str, Any] = common | {"c2": c2}
        if config.line_search == "nonmonotone":
            options["reference"] = self._reference(objective, value)
        search = {"nonmonotone": nonmonotone, "hager_zhang": hager_zhang, "strong_wolfe": strong_wolfe}
        result: LineSearchResult = search[config.line_search](slopes, value, slope, **options)
        measured = min(2.0 * noise, math.sqrt(objective.eps) * abs(value))
        if result.status == "no_decrease" and measured > options["noise"]:
            # The values are noisier than their size says (a sum of squares near zero): let the slopes decide.
            options["noise"] = measured
            failed, result = result, search[config.line_search](slopes, value, slope, **options)
            result.evaluations += failed.evaluations
            result.events[:0] = [*failed.events, {"event": "noisy_values", "noise": measured}]
        return result

    def _reference(self, objective: Objective, value: float) -> float:
        """What a nonmonotone search has to get below; values on other data are no measure."""
        state = self.memory.setdefault("reference", {"key": objective.key, "state": {}})
        if state["key"] != objective.key or not objective.repeatable:
            state["key"], state["state"] = objective.key, {}
        return NonmonotoneReference(state["state"], self.config.reference).update(value)

    def moved(self, objective: Objective, reason: str) -> None:
        """Drops what belongs to the point that was left.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        self.memory["end"] = None
        self.memory.pop("reference", None)


def _unexplained(value0: float, slope0: float, step: float, value: float, slope: float) -> float:
    """How far a value is from what the slopes say, 0 where that may be curvature.

    From one point to another the value changes by the step times some slope in between. What lies farther from that
    than the slopes lie apart is the rounding of the values.

    Args:
        value0: Value at zero.
        slope0: Slope at zero.
        step: The other point.
        value: Value there.
        slope: Slope there.
    """
    error = abs(value - value0 - 0.5 * step * (slope0 + slope))
    return error if math.isfinite(error) and error > step * abs(slope - slope0) else 0.0


def require_curvature(owner: str, line_search: str, pairs: str) -> None:
    """Refuses updates with unchecked pairs after a search that does not make them positive.

    Args:
        owner: Who asks.
        line_search: Name of the search.
        pairs: What is done about pairs without positive curvature.

    Raises:
        CombinationError: If pairs are kept as they come and the search ensures nothing.
    """
    if pairs == "keep" and line_search not in CURVATURE_SEARCHES:
        raise CombinationError(
            f"{owner}: line_search={line_search!r} does not ensure s'y > 0, and pairs='keep' updates with every pair, "
            "so the matrix would lose its definiteness. Use pairs='skip' or pairs='damp', or "
            "line_search='strong_wolfe'."
        )
