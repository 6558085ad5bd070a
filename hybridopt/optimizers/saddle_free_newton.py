"""Saddle-free Newton on a Krylov subspace."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hybridopt.core import option
from hybridopt.escape.base import default_gtol
from hybridopt.globalization import LevenbergMarquardt, noise_floor, seen_length
from hybridopt.linalg import LanczosResult, lanczos
from hybridopt.objective import Objective
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.line_search_step import backtrack, dot
from hybridopt.optimizers.randomness import random_vector

LEAST = 1e-24
"""Smallest damping, relative to the largest eigenvalue: Hessians of badly scaled functions have condition 1e18."""


@dataclass
class SaddleFreeNewtonConfig:
    """Options of `SaddleFreeNewton`.

    Attributes:
        lr: First trial length of the line search.
        weight_decay: w adds w/2 ||p||^2 to the function.
        subspace: Dimension of the Krylov space, and Hessian products in a step.
        damping: First multiple of the identity added to |H|, relative to its largest eigenvalue.
        max_evaluations: Most trials of the line search.
        seed: Of the random vectors that are used where the gradient vanishes.
    """

    lr: float = option(1.0, ge=0, search=[1.0], help="first trial length of the line search")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-6, 1e-2), help="w adds w/2 ||p||^2 to the function")
    subspace: int = option(30, ge=1, search=("log", 5, 200), help="dimension of the Krylov space")
    damping: float = option(
        1e-6, gt=0, search=("log", 1e-8, 1.0), help="first damping of |H|, relative to its largest eigenvalue"
    )
    max_evaluations: int = option(25, ge=1, help="most trials of the line search")
    seed: int = option(0, ge=0, help="seed of the random vectors used where the gradient vanishes")


class SaddleFreeNewton(Optimizer):
    """Saddle-free Newton in a Krylov space (Dauphin et al. 2014, Algorithm 1).

    Lanczos from the gradient gives H in a small subspace; there the step is ``-(|H| + damping I)^-1 g``, with |H| the
    matrix of absolute eigenvalues, so directions of negative curvature are left, not approached. The full
    reorthogonalization makes the subspace exact where the paper's truncated one is not. The damping, relative to the
    largest eigenvalue so that the function's scale does not matter, follows the ratio of the actual decrease to that
    of the model with |H|. Where the model promises no decrease that could be seen, or the gradient is below
    1e-8 (float64; 1e-4 in float32) times the largest eigenvalue, a space that starts from a random vector is looked at,
    and the step goes along the lowest eigenvector if the curvature there is negative.

    Report: ``inner_iterations`` (products), ``curvature`` (the lowest eigenvalue, if negative), ``ratio``,
    ``damping``, ``evaluations``, ``step_size``, ``search`` (how the line search ended).

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = SaddleFreeNewtonConfig
    half_precision = False
    family = "newton"
    batch = "full"
    summary = "saddle-free Newton, |H| in a Krylov space (Dauphin et al. 2014)"

    def update(self, objective: Objective) -> None:
        """Builds the subspace, steps by |H| in it, and searches along the step.

        Args:
            objective: Bound to the parameters.
        """
        config, memory = self.config, self.memory
        damping = memory.setdefault("damping", config.damping)
        space = objective.space
        with objective.at() as point:
            value, gradient = point.value, point.gradient
            length = float(torch.linalg.vector_norm(gradient))
            self.note(grad_norm=length, damping=damping)
            if not math.isfinite(length) or not math.isfinite(value):
                self.note(accepted=False, status="non_finite", step_norm=0.0)
                return
            if not self.can_move():
                return
            steps = min(config.subspace, space.n)
            result, products, leaves, predicted = None, 0, False, 0.0
            if length > 0.0:
                result = lanczos(point.hessian(), gradient, steps)
                products = result.products
                step, predicted = _model_step(result, length, damping)
            unseen = predicted <= noise_floor(value, objective.eps)
            if unseen or _vanishes(gradient, result.ritz_values):
                # The Krylov space of such a gradient need not hold what leads away from a saddle.
                probe = lanczos(point.hessian(), random_vector(memory, config.seed, space), steps)
                products += probe.products
                leaves = result is None or _has_negative(probe.ritz_values, objective.eps)
                result = probe if leaves else result
        values = result.ritz_values
        self.note(inner_iterations=products, status=str(result.status))
        if values.numel() == 0:
            self.note(accepted=False, step_norm=0.0)
            return
        lowest = float(values[0])
        if lowest < 0:
            self.note(curvature=lowest)
        if leaves:
            self._leave(objective, result.ritz_vector(0), values, value)
            return
        direction = (result.coefficients @ step).to(result.rows) @ result.rows
        search, direction = backtrack(
            self, objective, direction, value, gradient, max_evaluations=config.max_evaluations
        )
        slope = dot(gradient, direction)
        along = -2.0 * (predicted + slope)
        model = -(search.step * slope + 0.5 * search.step**2 * along)
        ratio = (value - search.value) / model if search.step > 0 and model > 0 else -math.inf
        memory["damping"] = LevenbergMarquardt(min_damping=LEAST).update(damping, ratio)
        self.note(ratio=ratio, damping=memory["damping"])

    def _leave(self, objective: Objective, vector: torch.Tensor, values: torch.Tensor, value: float) -> None:
        """Steps off a stationary point along its direction of negative curvature, if it has one."""
        if not _has_negative(values, objective.eps):
            self.note(accepted=False, status="zero_gradient", step_norm=0.0)
            return
        origin = objective.position()
        chosen, best, evaluations = 0.0, value, 0
        first = max(1e-2, seen_length(float(values[0]), noise_floor(value, objective.eps)))
        # Longer while the function falls; shorter, if it did not fall at the first length, until it does.
        for powers in (range(12), range(-1, -24, -1)):
            for power in powers:
                pair = {}
                for step in (first * 2.0**power, -first * 2.0**power):
                    trial = objective.value(origin.add(vector, alpha=step))
                    pair[step] = trial if math.isfinite(trial) else math.inf
                evaluations += 2
                lower = min(pair, key=lambda key: pair[key])
                falls = pair[lower] < best
                if falls:
                    chosen, best = lower, pair[lower]
                if falls != (power >= 0):
                    break
            if chosen:
                break
        if chosen:
            objective.commit(origin.add_(vector, alpha=chosen))
        self.note(
            accepted=chosen != 0.0,
            status="negative_curvature",
            step_norm=abs(chosen),
            step_size=abs(chosen),
            evaluations=evaluations,
        )

    def moved(self, objective: Objective, reason: str) -> None:
        """Takes the damping back to its start.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        self.memory["damping"] = self.config.damping


def _model_step(result: LanczosResult, length: float, damping: float) -> tuple[torch.Tensor, float]:
    """The step by |H| in the basis of Ritz vectors, and the decrease that its model promises."""
    if result.ritz_values.numel() == 0:
        return result.ritz_values, math.inf
    sizes = result.ritz_values.abs()
    largest = float(sizes.max())
    # Without curvature anywhere the gradient itself is the step.
    sizes = sizes + (damping * largest or 1.0)
    shares = result.coefficients[0] * length
    step = -shares / sizes
    return step, -float((shares * step + 0.5 * sizes * step.square()).sum())


def _vanishes(gradient: torch.Tensor, values: torch.Tensor) -> bool:
    """Whether a gradient is small beside the curvature, which a number times the function does not change."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    return float(gradient.abs().max()) <= default_gtol(gradient.dtype) * largest


def _has_negative(values: torch.Tensor, eps: float) -> bool:
    """Whether the lowest Ritz value is negative beyond the rounding of products with the largest."""
    return bool(values.numel()) and float(values[0]) < -math.sqrt(eps) * float(values.abs().max())
