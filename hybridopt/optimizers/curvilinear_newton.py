"""Newton's method with two directions: one that descends and one of negative curvature."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.globalization import noise_floor
from hybridopt.globalization.curvilinear import curvilinear
from hybridopt.linalg import LanczosResult, lanczos
from hybridopt.objective import Objective, Point
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.line_search_step import dot
from hybridopt.optimizers.randomness import random_vector


@dataclass
class CurvilinearNewtonConfig:
    """Options of `CurvilinearNewton`.

    Attributes:
        lr: Factor on s in the first trial (and its root on d); with ``choice`` a factor on either step.
        weight_decay: w adds w/2 ||p||^2 to the function.
        search: ``curvilinear``, both directions on one curve, or ``choice``, the better of two steps.
        subspace: Dimension of the Krylov space, and Hessian products in a step.
        damping: Added to the absolute eigenvalues, relative to the largest.
        probe: Length of the random part of the vector that Lanczos starts from, relative to the gradient's.
        c1: Constant of sufficient decrease.
        max_evaluations: Most trials.
        seed: Of the random vectors.
    """

    lr: float = option(1.0, ge=0, search=[1.0], help="factor on the first trial's s, or on either step")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-6, 1e-2), help="w adds w/2 ||p||^2 to the function")
    search: str = option("curvilinear", choices=["curvilinear", "choice"], help="both on a curve, or the better one")
    subspace: int = option(30, ge=2, search=("log", 5, 200), help="dimension of the Krylov space")
    damping: float = option(1e-6, ge=0, search=("log", 1e-8, 1e-2), help="added to |eigenvalues|, relative to largest")
    probe: float = option(0.1, ge=0, le=1, help="random part of the vector that Lanczos starts from")
    c1: float = option(1e-4, gt=0, lt=1, help="constant of sufficient decrease")
    max_evaluations: int = option(25, ge=1, help="most trials")
    seed: int = option(0, ge=0, help="seed of the random vectors")


class CurvilinearNewton(Optimizer):
    """Modified Newton with directions of negative curvature, after More and Sorensen 1979 or Curtis and Robinson 2019.

    Lanczos from the gradient with a random part (`probe`), without which negative curvature orthogonal to the gradient
    would never be seen, gives H in a small subspace. There the descent direction is ``s = -(|H| + damping)^-1 g``, and
    d is the lowest eigenvector, if its eigenvalue is negative, signed so that it does not ascend. More and Sorensen
    take both from an indefinite factorization, which needs the matrix.

    ``search="curvilinear"``: ``x + t^2 s + t d``, d of length sqrt(-eigenvalue); see `curvilinear`. That is no length
    of a parameter: it suits units in which they move by about one; where they move by 1e-4 or 1e6 the search fails.

    ``search="choice"`` (the dynamic method of Curtis and Robinson, section 2.2): the steps ``alpha s`` and ``beta d``
    that are best for upper bounds of the function with constants L along s and sigma (of the third derivative) along d;
    that with the larger guaranteed decrease is tried; where it falls short, its constant is raised. Here L starts at
    the curvature along s, which is known, instead of the last estimate, so that alpha is 1 near a solution; sigma is
    remembered and halved after a success; and a tenth of the guaranteed decrease suffices, as rounding would refuse
    exact equality.

    It leaves strict saddles without an escape.

    Report: ``inner_iterations`` (products), ``status`` of Lanczos, ``curvature`` (the lowest eigenvalue, if negative),
    ``evaluations``, ``step_size``, ``search`` (how it ended, or which step was taken).

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = CurvilinearNewtonConfig
    half_precision = False
    family = "newton"
    batch = "full"
    summary = "Newton with negative curvature: curvilinear search, or the better of two steps"

    def update(self, objective: Objective) -> None:
        """Finds both directions and searches.

        Args:
            objective: Bound to the parameters.
        """
        with objective.at() as point:
            value, gradient = point.value, point.gradient
            length = float(torch.linalg.vector_norm(gradient))
            self.note(grad_norm=length)
            if not (math.isfinite(length) and math.isfinite(value)):
                self.note(accepted=False, status="non_finite", step_norm=0.0)
                return
            result = self._krylov(point, objective, length)
            self.note(inner_iterations=result.products, status=str(result.status))
            if result.ritz_values.numel() == 0:
                self.note(accepted=False, step_norm=0.0)
                return
            descent = self._descent(result, gradient, length, value, objective.eps)
            away, curvature = self._away(result, gradient, objective.eps), float(result.ritz_values[0])
            rate = self.rate(objective)
            if isinstance(rate, Tensor):
                # Each group's own factor; on the curve t^2 s + t d a factor on s is its root on d.
                descent = None if descent is None else rate * descent
                if away is not None:
                    away = rate.sqrt() * away
                    curvature = dot(away, point.hessian() @ away)
                    away = away if curvature < 0 else None
                rate = 1.0
        if descent is None and away is None:
            self.note(accepted=False, status="zero_gradient", step_norm=0.0)
        elif rate == 0.0 or not any(vector is not None and bool(vector.any()) for vector in (descent, away)):
            self.note(accepted=False, status="zero_rate", step_norm=0.0, evaluations=0)
        elif self.config.search == "choice":
            self._choose(objective, descent, away, value, gradient, curvature, rate)
        else:
            self._curve(objective, descent, away, value, gradient, curvature, rate)

    # -- directions ------------------------------------------------------------------------------------------------

    def _krylov(self, point: Point, objective: Objective, length: float) -> LanczosResult:
        space = objective.space
        noise = random_vector(self.memory, self.config.seed, space)
        noise = noise / torch.linalg.vector_norm(noise)
        start = point.gradient / length + self.config.probe * noise if length > 0 else noise
        return lanczos(point.hessian(), start, min(self.config.subspace, space.n))

    def _descent(
        self, result: LanczosResult, gradient: Tensor, length: float, value: float, eps: float
    ) -> Tensor | None:
        """s, or None where the gradient is rounding."""
        if length == 0.0:
            return None
        sizes = result.ritz_values.abs()
        sizes = (sizes + self.config.damping * sizes.max()).clamp_min(eps * float(sizes.max()) or 1.0)
        shares = result.coefficients.T @ (result.rows @ gradient).to(result.coefficients)
        step = (result.coefficients @ (-shares / sizes)).to(result.rows) @ result.rows
        # What lies outside the subspace is descended as if it were as curved as anything in it.
        outside = gradient - (result.rows @ gradient) @ result.rows
        step = step - outside / float(sizes.max())
        # Below this, rounding has more say in the gradient's direction than the function.
        return step if -dot(gradient, step) > eps * abs(value) else None

    def _away(self, result: LanczosResult, gradient: Tensor, eps: float) -> Tensor | None:
        """Unit vector d, or None without negative curvature beyond the rounding of products with the largest."""
        values = result.ritz_values
        if not float(values[0]) < -math.sqrt(eps) * float(values.abs().max()):
            return None
        self.note(curvature=float(values[0]))
        vector = result.ritz_vector(0)
        # Lanczos leaves the sign to chance where the gradient does not decide it.
        return -vector if dot(gradient, vector) > 0 else vector

    # -- searches --------------------------------------------------------------------------------------------------

    def _curve(
        self,
        objective: Objective,
        descent: Tensor | None,
        away: Tensor | None,
        value: float,
        gradient: Tensor,
        curvature: float,
        rate: float,
    ) -> None:
        origin = objective.position()
        # |d|^2 is minus the eigenvalue.
        along = None if away is None else away * math.sqrt(-curvature)
        bend = 0.0 if along is None else -(curvature**2)
        slope = 0.0 if descent is None else min(0.0, dot(gradient, descent))

        def place(t: float) -> Tensor:
            x = origin.clone()
            if descent is not None:
                x.add_(descent, alpha=t * t)
            return x if along is None else x.add_(along, alpha=t)

        found = curvilinear(
            lambda t: objective.value(place(t)),
            value,
            slope,
            bend,
            step0=math.sqrt(rate),
            c1=self.config.c1,
            expand=0 if along is None else 10,
            max_evaluations=self.config.max_evaluations,
            noise=noise_floor(value, objective.eps),
        )
        self._finish(objective, origin, place(found.step) if found.step > 0 else None, found.step, found.evaluations)
        self.note(search=str(found.status))
        self.report.events.extend(found.events)

    def _choose(
        self,
        objective: Objective,
        descent: Tensor | None,
        away: Tensor | None,
        value: float,
        gradient: Tensor,
        curvature: float,
        rate: float,
    ) -> None:
        origin, noise = objective.position(), noise_floor(value, objective.eps)
        sigma = self.memory.setdefault("sigma", 1.0)
        square = slope = bound = 0.0
        if descent is not None:
            slope, square = dot(gradient, descent), dot(descent, descent)
            bound = -slope / square if slope < 0 else 0.0  # so that the first alpha is 1
        slope_away = 0.0 if away is None else min(0.0, dot(gradient, away))
        chosen, size, evaluations, what = None, 0.0, 0, "no_decrease"
        while evaluations < self.config.max_evaluations:
            alpha = -slope / (bound * square) if bound > 0 else 0.0
            gain = -0.5 * slope * alpha
            beta = _cubic_step(slope_away, curvature, sigma) if away is not None else 0.0
            gain_away = -(slope_away * beta + 0.5 * curvature * beta**2 + sigma * beta**3 / 6) if beta else 0.0
            if not (gain > 0 or gain_away > 0):
                break
            straight = gain >= gain_away
            vector, step = (descent, rate * alpha) if straight else (away, rate * beta)
            trial = origin.add(vector, alpha=step)  # type: ignore[arg-type]
            reached = objective.value(trial)
            evaluations += 1
            if math.isfinite(reached) and value - reached >= 0.1 * max(gain, gain_away) - noise:
                chosen, size, what = trial, step, "descent" if straight else "negative_curvature"
                if not straight:
                    self.memory["sigma"] = max(0.5 * sigma, 1e-10)
                break
            # The bound that would just have held, or twice the last one.
            short = reached - value + max(gain, gain_away) if math.isfinite(reached) else math.inf
            if straight:
                bound = min(max(2 * bound, bound + 2 * short / (alpha**2 * square)), 10 * bound)
            else:
                sigma = min(max(2 * sigma, sigma + 6 * short / beta**3), 10 * sigma)
                self.memory["sigma"] = sigma
        self._finish(objective, origin, chosen, size, evaluations)
        self.note(search=what)

    def _finish(
        self, objective: Objective, origin: Tensor, target: Tensor | None, step: float, evaluations: int
    ) -> None:
        if target is not None:
            objective.commit(target)
        self.note(
            accepted=target is not None,
            step_size=step,
            step_norm=0.0 if target is None else float(torch.linalg.vector_norm(target - origin)),
            evaluations=evaluations,
        )

    def moved(self, objective: Objective, reason: str) -> None:
        """Takes sigma back to its start.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        self.memory["sigma"] = 1.0


def _cubic_step(slope: float, curvature: float, sigma: float) -> float:
    """The minimizer of ``slope b + curvature b^2 / 2 + sigma b^3 / 6`` over b > 0 for slope <= 0 > curvature."""
    return (-curvature + math.sqrt(curvature**2 - 2 * sigma * slope)) / sigma
