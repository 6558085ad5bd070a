"""Self-scaled BFGS and Broyden methods with a dense matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.globalization import LineSearchResult
from hybridopt.linalg.operator import Dense
from hybridopt.objective import Objective
from hybridopt.optimizers.bfgs import DenseConfig, DenseSearching


@dataclass
class SSBroydenConfig(DenseConfig):
    """Options of `SSBroyden`.

    Attributes:
        update: ``ssbroyden``: scaling and member of Broyden's family are chosen in every step; ``ssbfgs``: BFGS
            with scaling.
    """

    update: str = option("ssbroyden", choices=["ssbroyden", "ssbfgs"], search=["ssbroyden", "ssbfgs"], help="which one")


class SSBroyden(DenseSearching):
    """Self-scaled quasi-Newton methods for hard, ill-conditioned training problems (Urban, Stefanou and Pons 2025).

    The inverse is divided by tau before each update, so that curvature that is much too large is unlearnt at once:
    ``H+ = (H - Hy(Hy)'/y'Hy + phi y'Hy vv') / tau + ss'/s'y`` with ``v = s/s'y - Hy/y'Hy``. ``ssbfgs``: tau =
    min(1, s'y / s'Bs) and phi = 1 (Al-Baali 1998). ``ssbroyden``: tau and phi from b = s'Bs/s'y and h = y'Hy/s'y as
    in Urban et al., section 3.2, and in their code's "SSBroyden2". The first pair scales the identity such that the
    updated matrix is as large as 6.20 of Nocedal and Wright says.

    Report: ``evaluations``, ``step_size``, ``search`` (how the line search ended), ``tau``, ``phi``,
    ``skipped_pairs``, ``damped_pairs``.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.

    Raises:
        CombinationError: If pairs are kept as they come after a search that does not make them positive.
        ConfigError: If there are more parameters than `max_dimension`.
    """

    Config = SSBroydenConfig
    matrix_key = "inverse"
    summary = "self-scaled Broyden or BFGS, dense"

    def operator(self) -> Dense | None:
        """Returns the estimate of the inverse Hessian as an operator, or None before the first pair."""
        inverse = self.memory.get("inverse")
        return None if inverse is None else Dense(inverse.clone())

    def _propose(self, objective: Objective, gradient: Tensor, out: Tensor) -> Tensor:
        inverse = self.memory.get("inverse")
        self._image = None
        if inverse is None:
            return torch.neg(gradient, out=out)
        self._image = gradient
        return torch.mv(inverse, gradient, out=out).neg_()

    def _learn(self, objective: Objective, step: Tensor, change: Tensor, result: LineSearchResult) -> None:
        inverse = self.memory.get("inverse")
        first = inverse is None
        if first:
            model_step = step
        elif self._image is not None and self._uniform(objective):
            # B s = -t g, as the step is -t H g.
            model_step = self._image * -result.step
        else:
            model_step = torch.linalg.solve_ex(inverse, step)[0]
        products = [torch.dot(step, other) for other in (change, step, model_step)]
        sy, ss, model, yy = torch.stack([*products, torch.dot(change, change)]).tolist()
        if self.config.pairs == "damp" and sy < 0.2 * model < math.inf:
            share = 0.8 * model / (model - sy)
            change, sy = share * change + (1 - share) * model_step, 0.2 * model
            yy = float(torch.dot(change, change))
            self.memory["pairs"]["damped"] += 1
        if not (model > 0 and self._usable(sy, ss, yy, objective.eps)):
            return
        bent = change if first else inverse @ change
        curvature = yy if first else float(torch.dot(change, bent))
        if not 0 < curvature < math.inf:
            self._reset("lost definiteness")
            return
        scaled = first and self.config.initial_scale
        tau, phi = scaling(model / sy, curvature / sy, len(step), update=self.config.update, first=scaled)
        if first:
            inverse = torch.eye(len(step), dtype=step.dtype, device=step.device)
        # The update of the class docstring, with v written out in Hy and s: one pass over the matrix.
        cross = -phi / (sy * tau)
        corner = phi * curvature / (sy * sy * tau) + 1.0 / sy
        left = torch.stack([bent, step])
        right = torch.stack([bent * ((phi - 1.0) / (curvature * tau)) + step * cross, bent * cross + step * corner])
        self.memory["inverse"] = torch.addmm(inverse, left.t(), right, beta=1.0 / tau, out=inverse)
        self.note(tau=tau, phi=phi)


def scaling(b: float, h: float, n: int, *, update: str, first: bool = False) -> tuple[float, float]:
    """Returns the scaling tau and the parameter phi of Broyden's family for one update of the inverse.

    Args:
        b: s'Bs / s'y, positive.
        h: y'Hy / s'y, positive.
        n: Number of parameters.
        update: ``ssbroyden`` or ``ssbfgs``.
        first: Whether H is the identity, to be scaled once.

    Returns:
        (tau, phi), tau positive; phi = 1 is BFGS, phi = 0 is DFP.
    """
    if update == "ssbfgs":
        return (h if first else min(1.0, 1.0 / b)), 1.0
    # By Cauchy's inequality b h >= 1; with equality all members of the family are one.
    a = max(b * h - 1.0, 0.0)
    theta = 0.0
    if a > 1e-14:
        lowest = min(1.0, h * (1.0 - math.sqrt(a / (1.0 + a))))
        theta = max((lowest - 1.0) / a, min(1.0 / lowest, (1.0 - b) / b)) if lowest > 0 else 0.0
    growth = 1.0 + a * theta
    phi = (1.0 - theta) / growth
    if first:
        return h / growth, phi
    volume = growth ** (1.0 / (1 - n)) if n > 1 else 1.0
    largest = min(1.0, 1.0 / b)
    tau = min(largest * volume, growth) if theta <= 0 else largest * min(volume, 1.0 / theta)
    return tau, phi
