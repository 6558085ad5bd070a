"""Nonlinear conjugate gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import CombinationError, option
from hybridopt.globalization import LineSearchResult, first_step, next_step
from hybridopt.objective import Objective
from hybridopt.optimizers.searching import CURVATURE_SEARCHES, Searching, SearchingConfig

_ETA = 0.01  # bound of the truncation of Hager and Zhang's beta
_POWELL = 0.2  # successive gradients with a larger cosine are far from orthogonal


@dataclass
class NCGConfig(SearchingConfig):
    """Options of `NCG`.

    Attributes:
        beta: ``hager_zhang`` (2005, with its truncation), ``polak_ribiere`` (PR+), ``fletcher_reeves``,
            ``hestenes_stiefel`` or ``dai_yuan``.
        restart: When to go back to the negative gradient: ``periodic``, after as many steps as there are parameters;
            ``powell``, where successive gradients are far from orthogonal (Powell 1977); ``never``. It happens in
            any case where the direction does not descend or the data change.
        c1: Constant of sufficient decrease; None for 0.1 with ``hager_zhang``, else 1e-4.
        c2: Constant of the curvature condition; None for 0.9 with ``hager_zhang``, else 0.1.
    """

    lr: float = option(1.0, ge=0, search=("log", 0.1, 10.0), help="factor on the first trial length")
    beta: str = option(
        "hager_zhang",
        choices=["hager_zhang", "polak_ribiere", "fletcher_reeves", "hestenes_stiefel", "dai_yuan"],
        search=["hager_zhang", "polak_ribiere", "dai_yuan"],
        help="formula of the conjugate direction",
    )
    line_search: str = option("hager_zhang", choices=[*CURVATURE_SEARCHES, "armijo"], help="globalization")
    restart: str = option("periodic", choices=["periodic", "powell", "never"], help="when to restart")
    c1: float | None = option(None, gt=0, lt=1, help="constant of sufficient decrease; null: that of the search")
    c2: float | None = option(None, gt=0, lt=1, help="constant of the curvature condition; null: that of the search")
    max_evaluations: int = option(50, ge=1, help="most trials of the line search")

    def constants(self) -> tuple[float, float]:
        """Returns c1 and c2, those that are usual with the search where they are None."""
        usual = (0.1, 0.9) if self.line_search == "hager_zhang" else (1e-4, 0.1)
        return usual[0] if self.c1 is None else self.c1, usual[1] if self.c2 is None else self.c2


class NCG(Searching):
    """Nonlinear conjugate gradients, by default CG_DESCENT (Hager and Zhang 2005, 2006).

    ``d+ = -g+ + beta d``. Two vectors are all it remembers. Hager and Zhang's beta = (y - 2 d y'y / d'y)'g+ / d'y,
    not below -1 / (||d|| min(0.01, ||g||)), descends whatever the search does; the others are those of Nocedal and
    Wright 2006, section 5.2, with max(beta, 0) for Polak and Ribiere. The groups' rates, where they differ, are a
    diagonal preconditioner. Conjugacy says nothing about another function: where data or random layers change from
    step to step, every step is one along the negative gradient.

    Report: ``evaluations``, ``step_size``, ``search`` (how the line search ended), ``beta`` (0 in a restart).

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.

    Raises:
        CombinationError: If the search does not ensure what the formula divides by or needs for descent.
    """

    Config = NCGConfig
    summary = "nonlinear conjugate gradients (CG_DESCENT)"

    def __init__(self, params: Any, config: Any = None, *, escape: Any = None, **options: Any) -> None:
        super().__init__(params, config, escape=escape, **options)
        config = self.config
        if config.line_search == "armijo" and config.beta != "polak_ribiere":
            raise CombinationError(
                f"NCG: beta={config.beta!r} relies on the curvature condition, which line_search='armijo' does not "
                "ensure. Use line_search='hager_zhang', or beta='polak_ribiere'."
            )
        if config.beta == "fletcher_reeves" and (config.line_search != "strong_wolfe" or config.constants()[1] >= 0.5):
            raise CombinationError(
                "NCG: Fletcher and Reeves's direction descends only after a strong Wolfe search with c2 < 0.5. Use "
                "line_search='strong_wolfe' and c2=0.1, or beta='hager_zhang'."
            )

    def _propose(self, objective: Objective, gradient: Tensor, out: Tensor) -> Tensor:
        last, rate = self.memory.get("last"), self.rate(objective)
        scaled = rate * gradient if isinstance(rate, Tensor) else gradient
        if last is None or not self._resumed or last["direction"].shape != gradient.shape:
            last = None
            products = torch.stack([torch.dot(gradient, scaled), torch.dot(gradient, gradient)]).tolist()
            beta = 0.0
        else:
            direction, change = last["direction"], last["change"]
            rated = rate * change if isinstance(rate, Tensor) else change
            products = torch.stack(
                [
                    torch.dot(gradient, scaled),
                    torch.dot(gradient, gradient),
                    torch.dot(direction, change),
                    torch.dot(direction, gradient),
                    torch.dot(direction, direction),
                    torch.dot(change, scaled),
                    torch.dot(change, rated),
                ]
            ).tolist()
            beta = self._beta(last, *products)
        period = 0 if last is None else last["period"] + 1
        if beta == 0.0 or (self.config.restart == "periodic" and period >= max(len(gradient), 2)):
            beta, period = 0.0, 0
        self._now = {"period": period, "square": products[0], "norm": math.sqrt(products[1])}
        self.note(beta=beta)
        torch.neg(scaled, out=out)
        return out if last is None or beta == 0.0 else out.add_(last["direction"], alpha=beta)

    def _beta(
        self, last: dict[str, Any], gg: float, g: float, dy: float, dg: float, dd: float, yg: float, yy: float
    ) -> float:
        """The factor of the last direction, 0 for a restart; products are with the new gradient and preconditioned."""
        if self.config.restart == "powell" and abs(gg - yg) >= _POWELL * gg:
            return 0.0
        formula = self.config.beta
        below = dy if formula in ("hager_zhang", "hestenes_stiefel", "dai_yuan") else last["square"]
        if not (abs(below) > 0 and dd > 0 and last["norm"] > 0):
            return 0.0
        if formula == "hager_zhang":
            least = -1.0 / (math.sqrt(dd) * min(_ETA, last["norm"]))
            beta = max((yg - 2.0 * yy * dg / dy) / dy, least)
        elif formula == "polak_ribiere":
            beta = max(yg / below, 0.0)
        else:
            beta = (yg if formula == "hestenes_stiefel" else gg) / below
        return beta if math.isfinite(beta) else 0.0

    def _directed(self, objective: Objective, direction: Tensor) -> tuple[float, Tensor]:
        # Rates that differ are in the direction already.
        rate = self.rate(objective)
        return (1.0 if isinstance(rate, Tensor) else rate), direction

    def _first_trial(
        self, objective: Objective, step0: float, value: float, gradient: Tensor, direction: Tensor, slope: float
    ) -> float:
        last = self.memory.get("last")
        if last is None:
            size = float(torch.linalg.vector_norm(direction, math.inf))
            return step0 * first_step(value, size, float(torch.linalg.vector_norm(self._work["position"], math.inf)))

        def value_at(step: float) -> float:
            return objective.value(self._place(objective, direction, step))

        return step0 * next_step(value_at, value, slope, last["step"])

    def _learn(self, objective: Objective, step: Tensor, change: Tensor, result: LineSearchResult) -> None:
        last = self.memory.setdefault("last", {})
        if "direction" not in last or last["direction"].shape != step.shape:
            last.update(direction=torch.empty_like(step), change=torch.empty_like(step))
        torch.div(step, result.step, out=last["direction"])
        last["change"].copy_(change)
        last.update(self._now, step=result.step)

    def _forget(self) -> bool:
        self._now = {"period": 0, "square": 0.0, "norm": 0.0}
        return self.memory.pop("last", None) is not None
