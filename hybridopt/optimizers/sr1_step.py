"""The trust-region step that both SR1 methods take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.globalization import TrustRegion, check_radius, limits, noise_floor
from hybridopt.objective import Objective
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.line_search_step import dot

_FAR = -100.0  # a trial whose ratio is below this was so far off that its gradient says nothing about the start


@dataclass
class SR1Config:
    """Options of the SR1 methods.

    Attributes:
        lr: Factor on the step, before the ratio test.
        weight_decay: w adds w/2 ||p||^2 to the function.
        radius: First trust radius.
        max_radius: Largest one.
        eta: A step is accepted when actual over predicted decrease exceeds this.
        tolerance: r of Nocedal and Wright 2006, eq. 6.26: an update that would divide by less is skipped.
        max_trials: Radii tried in one step until one is accepted; every trial updates the matrix.
    """

    lr: float = option(1.0, ge=0, search=[1.0], help="factor on the step, before the ratio test")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-6, 1e-2), help="w adds w/2 ||p||^2 to the function")
    radius: float = option(1.0, gt=0, search=("log", 1e-2, 10.0), help="first trust radius")
    max_radius: float = option(1e6, gt=0, help="largest trust radius")
    eta: float = option(1e-4, ge=0, lt=0.1, help="a step is accepted when the ratio exceeds this")
    tolerance: float = option(1e-8, gt=0, lt=1, help="updates that would divide by less are skipped")
    max_trials: int = option(10, ge=1, help="radii tried in one step until one is accepted")

    def validate(self, owner: str) -> None:
        """Refuses a first radius beyond the largest one.

        Args:
            owner: Whose options, for the message.
        """
        check_radius(self.radius, self.max_radius, owner)


class TrustSR1(Optimizer):
    """Nocedal and Wright 2006, Algorithm 6.2: trial, update of the matrix, ratio test.

    Rejected trials update the matrix as well, except where the function rose by more than a hundred times what it was
    to fall: one step into an overflowing exponential would give the matrix curvature that no later update takes back.

    A subclass says what the matrix is, by `_solve`, `_curvature` and `_learn`.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = SR1Config
    family = "quasi-newton"
    batch = "full"

    def _prepare(self, objective: Objective) -> None:
        """Makes the memory ready for parameters of this number."""

    def _solve(self, gradient: Tensor, radius: float) -> tuple[Tensor, float, bool]:
        """Returns the minimiser of the model in the ball, the model's decrease, and whether it is on the boundary.

        Args:
            gradient: Shape (n,).
            radius: Of the ball.

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say how it solves its subproblem: define _solve.")

    def _curvature(self, step: Tensor) -> float:
        """Returns s'Bs.

        Args:
            step: s, shape (n,).

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say what its matrix is: define _curvature.")

    def _learn(self, step: Tensor, change: Tensor) -> bool:
        """Updates the matrix with a pair. Returns whether it did.

        Args:
            step: s, shape (n,).
            change: y, shape (n,).

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say how it learns: define _learn.")

    def update(self, objective: Objective) -> None:
        """Minimises the model in the trust region until a step is accepted.

        Args:
            objective: Bound to the parameters.
        """
        config, memory = self.config, self.memory
        least, most = limits(config.radius, 1e-12, config.max_radius)[0], config.max_radius
        region = TrustRegion(eta1=config.eta, eta_shrink=0.1, shrink=0.5, min_radius=least, max_radius=most)
        origin = objective.position()
        value, gradient = self._begin(objective, origin)
        length = float(torch.linalg.vector_norm(gradient))
        radius = memory.setdefault("radius", config.radius)
        memory.setdefault("skipped", 0)
        self.note(grad_norm=length, radius=radius, evaluations=0)
        if not self.can_descend(value, length):
            return
        self._prepare(objective)
        noise = noise_floor(value, objective.eps)
        rate = self.rate(objective)
        if not self.can_move():
            return
        trials, accepted, end = 0, False, None
        while not accepted and trials < config.max_trials and (trials == 0 or radius > region.min_radius):
            trials += 1
            step, predicted, at_boundary = self._solve(gradient, radius)
            if isinstance(rate, Tensor) or rate != 1.0:
                step = rate * step
                predicted = -(dot(gradient, step) + 0.5 * self._curvature(step))
            target = origin + step
            there, after = objective.value_and_grad(target)
            ratio = region.ratio(value - there, predicted, noise)
            step_norm = float(torch.linalg.vector_norm(step))
            if not (ratio > _FAR and self._learn(step, after - gradient)):
                memory["skipped"] += 1
            accepted = region.accept(ratio)
            # Nocedal and Wright let the radius grow where the step used most of it.
            radius = region.update(radius, ratio, step_norm, at_boundary or step_norm > 0.8 * radius)
            end = {"key": objective.key, "position": target, "value": there, "gradient": after} if accepted else end
        if accepted:
            objective.commit(target)
        elif self._resumed:
            end = memory["end"]
        memory["end"] = end if objective.repeatable else None
        memory["radius"] = radius
        self.note(
            accepted=accepted,
            evaluations=trials,
            ratio=ratio,
            radius=radius,
            step_norm=step_norm if accepted else 0.0,
            skipped_pairs=memory["skipped"],
        )

    _resumed = False

    def _begin(self, objective: Objective, origin: Tensor) -> tuple[float, Tensor]:
        """Value and gradient where the model stands, from the last step if that ended here on the same data."""
        end: dict[str, Any] | None = self.memory.get("end")
        self._resumed = (
            end is not None
            and end["key"] == objective.key
            and end["position"].shape == origin.shape
            and torch.equal(end["position"], origin)
        )
        if end is not None and self._resumed:
            objective.resume(end["value"], end["gradient"])
            return end["value"], end["gradient"]
        return objective.value_and_grad()

    def moved(self, objective: Objective, reason: str) -> None:
        """Takes the radius back to its start: collapsed at a saddle, it would never recover.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        self.memory["radius"] = self.config.radius
        self.memory["end"] = None
