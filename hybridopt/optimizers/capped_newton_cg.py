"""Newton's method with capped conjugate gradients: a complexity bound to second-order points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.escape.base import default_gtol
from hybridopt.globalization import noise_floor
from hybridopt.linalg import capped_cg, minimum_eigenpair
from hybridopt.objective import Objective
from hybridopt.objective.products import HessianOperator
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.line_search_step import dot, scaled
from hybridopt.optimizers.randomness import remembered


@dataclass
class CappedNewtonCGConfig:
    """Options of `CappedNewtonCG`.

    Attributes:
        lr: First trial length of the line search.
        weight_decay: w adds w/2 ||p||^2 to the function.
        gtol: Largest gradient entry at which the smallest eigenvalue is looked for; 0 takes 1e-8 in float64 and 1e-4
            in float32.
        epsilon: Negative curvature that counts, half of the damping; 0 takes 1e-8 in float64 and 1e-4 in float32.
        zeta: Relative accuracy of the inner solve.
        theta: Factor from one trial of the line search to the next.
        eta: Constant of the cubic decrease.
        max_cg: Most products of the inner solver in one step.
        max_lanczos: Most products of the eigenvalue estimate.
        max_evaluations: Most trials of the line search.
        keep_iterate: Whether the iterate at which the inner solve met negative curvature is added to the direction.
        max_expansions: How often a step along negative curvature may be doubled while the function falls.
        seed: Of the eigenvalue estimate's start vectors.
    """

    lr: float = option(1.0, ge=0, search=[1.0], help="first trial length of the line search")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-6, 1e-2), help="w adds w/2 ||p||^2 to the function")
    gtol: float = option(0.0, ge=0, help="gradient (max-norm) that is small; 0: 1e-8 (float64) or 1e-4 (float32)")
    epsilon: float = option(
        0.0,
        ge=0,
        search=("log", 1e-8, 1e-1),
        help="negative curvature that counts; 0: 1e-8 (float64) or 1e-4 (float32)",
    )
    zeta: float = option(0.5, gt=0, lt=1, search=[0.1, 0.5, 0.9], help="relative accuracy of the inner solve")
    theta: float = option(0.5, gt=0, lt=1, help="factor from one trial to the next")
    eta: float = option(1e-8, gt=0, help="constant of the cubic decrease")
    max_cg: int = option(100, ge=1, search=("log", 5, 250), help="most products of the inner solver in a step")
    max_lanczos: int = option(250, ge=1, help="most products of the eigenvalue estimate")
    max_evaluations: int = option(40, ge=1, help="most trials of the line search")
    keep_iterate: bool = option(True, help="add the inner solve's iterate to negative curvature; False: the paper")
    max_expansions: int = option(10, ge=0, help="most doublings of a step along negative curvature; 0: the paper")
    seed: int = option(0, ge=0, help="seed of the eigenvalue estimate's start vectors")


class CappedNewtonCG(Optimizer):
    """Newton-CG of Royer, O'Neill and Wright (2020, algorithm 3), which ends at second-order points.

    While the gradient is not small, `hybridopt.linalg.capped_cg` gives a damped Newton step or a direction of negative
    curvature; where it is, randomized Lanczos looks for an eigenvalue below ``-epsilon`` and its eigenvector is
    followed, so strict saddles are left, exact ones too. A direction d of negative curvature gets the length
    ``|d'Hd| / ||d||^2`` and the sign that descends. The step ``theta^j d`` is taken with the first j for which
    ``f(x + theta^j d) < f(x) - (eta / 6) theta^{3j} ||d||^3``.

    Three things are added to the paper's method. Without negative curvature it stops; here the Newton steps go on. A
    step of negative curvature may be doubled while the function falls (`max_expansions` 0 is the paper). And where
    the inner solve ends at negative curvature, the iterate that it had reached is not thrown away: it and the
    direction, both of descent and at equal length, are added (`keep_iterate` False is the paper).

    The constants are absolute: a function multiplied by a number wants others. The paper's analysis takes any positive
    `epsilon` and `eta`; its bound on the number of steps is best where `epsilon` is the square root of the tolerance on
    the gradient. In practice the damping 2 epsilon then makes the step that of gradient descent where eigenvalues are
    below it, and with an eta of 0.1 the cubic decrease refuses the long steps of badly scaled functions; hence the
    small defaults. Of the 37 functions of More, Garbow and Hillstrom the method solves, within 2,000
    gradient-equivalents from the standard start and from ten times that, 34 and 30 with the defaults, 28 and 24 with
    ``epsilon=1e-4, eta=0.1`` (``scripts/bench_functions.py --methods capped_newton_cg --options JSON``). The price is
    the inner solve, whose tolerance is ``zeta epsilon / (3 ||H||)`` or so: on models of many parameters it may take all
    of `max_cg` products, and a larger `epsilon` is cheaper.

    Report: ``inner_iterations`` (products, those of the eigenvalue estimate included), ``status`` of the solver,
    ``source`` and ``curvature`` of a direction of negative curvature (``direction``, ``iterate``, ``pair`` or
    ``eigenvector``), ``evaluations``, ``step_size``.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = CappedNewtonCGConfig
    half_precision = False
    family = "newton"
    batch = "full"
    summary = "Newton with capped CG, leaves strict saddles (Royer et al. 2020)"

    def update(self, objective: Objective) -> None:
        """Finds a direction and searches along it.

        Args:
            objective: Bound to the parameters.
        """
        config = self.config
        gtol = config.gtol or default_gtol(objective.space.dtype)
        epsilon = config.epsilon or default_gtol(objective.space.dtype)
        with objective.at() as point:
            value, gradient = point.value, point.gradient
            length = float(torch.linalg.vector_norm(gradient))
            self.note(grad_norm=length, inner_iterations=0, evaluations=0)
            vanished = length == 0.0 and math.isfinite(value)
            if not vanished and not self.can_descend(value, length):
                return
            products, direction = 0, None
            if float(gradient.abs().max()) <= gtol:
                direction, products = self._lowest(point.hessian(), gradient, epsilon)
            leaves = direction is not None
            if direction is None and not vanished:
                result = capped_cg(point.hessian(), gradient, epsilon, zeta=config.zeta, max_iter=config.max_cg)
                products += result.products
                self.note(status=str(result.status))
                leaves = result.curvature_direction is not None
                if leaves:
                    self.note(curvature=result.curvature, source=result.curvature_source)
                    direction = _towards_descent(result.curvature_direction, result.curvature, gradient)
                    if config.keep_iterate and result.iterations:
                        y = result.solution
                        direction = y + direction * (torch.linalg.vector_norm(y) / torch.linalg.vector_norm(direction))
                else:
                    direction = result.solution if result.iterations else -gradient
        self.note(inner_iterations=products)
        if direction is None:
            self.can_descend(value, length)
            return
        self._search(objective, direction, value, config.max_expansions if leaves else 0)

    def _lowest(self, operator: HessianOperator, gradient: Tensor, epsilon: float) -> tuple[Tensor | None, int]:
        """The step along the lowest eigenvector, or None where its eigenvalue is not negative enough."""
        generator = remembered(self.memory, self.config.seed)
        pair = minimum_eigenpair(
            operator,
            operator.n,
            tol=0.5 * epsilon,
            threshold=-epsilon,
            generator=generator,
            dtype=operator.dtype,
            device=operator.device,
            max_products=min(self.config.max_lanczos, operator.n),
        )
        self.memory["random"] = generator.get_state()
        if pair.vector is None or not pair.value <= -0.5 * epsilon:
            return None, pair.products
        self.note(curvature=pair.value, source="eigenvector", status="negative_curvature")
        return _towards_descent(pair.vector, pair.value, gradient), pair.products

    def _search(self, objective: Objective, direction: Tensor, value: float, expansions: int) -> None:
        """Shortens the step until the function falls by the cube of its length, or doubles it while it does."""
        config, origin = self.config, objective.position()
        step, direction = scaled(self, objective, direction)
        length = float(torch.linalg.vector_norm(direction))
        if step == 0.0 or length == 0.0:
            self.note(accepted=False, status="zero_rate", step_norm=0.0)
            return
        noise = noise_floor(value, objective.eps)

        def falls(step: float) -> tuple[bool, float]:
            trial = objective.value(origin.add(direction, alpha=step))
            reach = step * length
            wanted = config.eta / 6.0 * reach * reach * reach  # not **: a power that overflows is an error
            return math.isfinite(trial) and trial <= value - wanted + noise and trial < value + noise, trial

        evaluations, accepted, best = 0, False, value
        while evaluations < config.max_evaluations:
            accepted, best = falls(step)
            evaluations += 1
            if accepted:
                break
            step *= config.theta
        first = evaluations == 1
        for _ in range(expansions if accepted and first else 0):
            further, trial = falls(2.0 * step)
            evaluations += 1
            if not (further and trial < best):
                break
            step, best = 2.0 * step, trial
        if accepted:
            objective.commit(origin.add_(direction, alpha=step))
        self.note(
            accepted=accepted,
            evaluations=evaluations,
            step_size=step if accepted else 0.0,
            step_norm=step * length if accepted else 0.0,
        )


def _towards_descent(direction: Tensor, curvature: float, gradient: Tensor) -> Tensor:
    """Gives a direction of negative curvature the paper's length |d'Hd| / ||d||^2, and the sign that descends."""
    sign = -1.0 if dot(direction, gradient) > 0 else 1.0
    return direction * (sign * abs(curvature) / float(torch.linalg.vector_norm(direction)))
