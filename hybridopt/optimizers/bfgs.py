"""Dense BFGS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import ConfigError, option
from hybridopt.curvature.quasi_newton import FactoredBFGS
from hybridopt.globalization import LineSearchResult
from hybridopt.objective import Objective
from hybridopt.optimizers.searching import Searching, SearchingConfig, require_curvature


@dataclass
class DenseConfig(SearchingConfig):
    """Options of the dense quasi-Newton methods.

    Attributes:
        pairs: What happens to a pair without positive curvature: ``skip``; ``damp`` after Powell 1978; ``keep``: every
            pair is used as it comes, which needs a search that makes s'y > 0.
        initial_scale: Whether the first pair scales the initial matrix (Nocedal and Wright 2006, eq. 6.20).
        max_dimension: Most parameters: the matrix has their square as entries.
    """

    pairs: str = option("skip", choices=["skip", "damp", "keep"], help="pairs without positive curvature")
    initial_scale: bool = option(True, help="let the first pair scale the initial matrix")
    max_dimension: int = option(5000, ge=1, help="most parameters; the matrix has their square as entries")


class DenseSearching(Searching):
    """What the dense quasi-Newton methods share: the cap on the dimension and the rules for pairs."""

    Config = DenseConfig
    matrix_key = "matrix"

    def __init__(self, params: Any, config: Any = None, *, escape: Any = None, **options: Any) -> None:
        super().__init__(params, config, escape=escape, **options)
        require_curvature(type(self).__name__, self.config.line_search, self.config.pairs)
        self._check_dimension(sum(p.numel() for g in self.param_groups for p in g["params"] if p.requires_grad))

    def _check_dimension(self, n: int) -> None:
        if n > self.config.max_dimension:
            raise ConfigError(
                f"{type(self).__name__} keeps a dense matrix, and {n} parameters are more than "
                f"max_dimension={self.config.max_dimension} (the matrix would take {n * n * 8 / 2**30:.1f} GiB in "
                "float64). Use lbfgs, or raise max_dimension."
            )

    def update(self, objective: Objective) -> None:
        """Does one quasi-Newton iteration.

        Args:
            objective: Bound to the parameters.
        """
        n = objective.space.n
        state = self.memory.setdefault("pairs", {"skipped": 0, "damped": 0, "updates": 0})
        matrix = self.memory.get(self.matrix_key)
        if matrix is not None and len(matrix) != n:
            # A parameter was frozen or thawed: the matrix is of another space.
            self._reset("the parameters changed", always=self._forget())
        if matrix is None or len(matrix) != n:
            self._check_dimension(n)
        super().update(objective)
        self.note(skipped_pairs=state["skipped"], damped_pairs=state["damped"])

    def _scale_known(self) -> bool:
        return self.matrix_key in self.memory

    def _forget(self) -> bool:
        self._image = None
        return self.memory.pop(self.matrix_key, None) is not None

    _image: Tensor | None = None
    """A transform of the step's gradient that the direction was made from, if it was; of the running step only."""

    def _uniform(self, objective: Objective) -> bool:
        return not isinstance(self.rate(objective), Tensor)

    def _usable(self, sy: float, ss: float, yy: float, eps: float) -> bool:
        """Whether a pair may update the matrix; counts it if not."""
        floor = 0.0 if self.config.pairs == "keep" else eps * math.sqrt(ss) * math.sqrt(yy)
        usable = all(map(math.isfinite, (sy, ss, yy))) and ss > 0 and sy > floor
        self.memory["pairs"]["updates" if usable else "skipped"] += 1
        return usable


class BFGS(DenseSearching):
    """BFGS with a dense matrix (Nocedal and Wright 2006, Algorithm 6.1).

    The inverse is kept as H = Z Z' and Z is updated in product form, ``Z - s (Z'y / s'y - w / sqrt(s'y w'w))'`` with
    ``w = Z^-1 s``, the step in the metric of the matrix (Brodlie, Gourlay and Greenstadt 1973): a rank-one update that
    no rounding can make indefinite. Powell's damping is that of Nocedal and Wright, Procedure 18.2.

    Report: ``evaluations``, ``step_size``, ``search`` (how the line search ended), ``skipped_pairs``,
    ``damped_pairs``.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.

    Raises:
        CombinationError: If pairs are kept as they come after a search that does not make them positive.
        ConfigError: If there are more parameters than `max_dimension`.
    """

    matrix_key = "factor"
    summary = "dense BFGS, strong Wolfe search"

    def operator(self, *, inverse: bool = False) -> FactoredBFGS | None:
        """Returns the estimate of the Hessian as an operator, or None before the first pair.

        Args:
            inverse: Whether to return the estimate of the inverse instead.
        """
        factor = self.memory.get("factor")
        return None if factor is None else FactoredBFGS(factor.clone(), inverse=inverse)

    def _propose(self, objective: Objective, gradient: Tensor, out: Tensor) -> Tensor:
        factor = self.memory.get("factor")
        if factor is None:
            self._image = None
            return torch.neg(gradient, out=out)
        self._image = factor.t() @ gradient
        return torch.mv(factor, self._image, out=out).neg_()

    def _learn(self, objective: Objective, step: Tensor, change: Tensor, result: LineSearchResult) -> None:
        factor = self.memory.get("factor")
        if factor is None:
            bent, y = step, change
        else:
            # The step is -t Z Z'g, unless the groups' rates bent it.
            known = self._image is not None and self._uniform(objective)
            bent = self._image * -result.step if known else torch.linalg.solve_ex(factor, step)[0]
            y = change if factor is None else factor.t() @ change
        products = [torch.dot(step, change), torch.dot(step, step), torch.dot(change, change), torch.dot(bent, bent)]
        sy, ss, yy, model = torch.stack(products).tolist()
        if self.config.pairs == "damp" and sy < 0.2 * model < math.inf:
            share = 0.8 * model / (model - sy)
            y, sy = share * y + (1 - share) * bent, 0.2 * model
            yy = float(torch.dot(y, y)) if factor is None else yy
            self.memory["pairs"]["damped"] += 1
        if not self._usable(sy, ss, yy, objective.eps):
            return
        if factor is None:
            root = math.sqrt(sy / yy) if self.config.initial_scale else 1.0
            factor = torch.eye(len(step), dtype=step.dtype, device=step.device).mul_(root)
            self.memory["factor"] = factor
            bent, y, model = step / root, y * root, ss / root**2
        factor.addr_(step, y / sy - bent / (math.sqrt(sy) * math.sqrt(model)), alpha=-1.0)
