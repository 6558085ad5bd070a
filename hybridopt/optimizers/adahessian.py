"""AdaHessian: Adam with the Hessian's diagonal in the place of the gradient's squares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.objective import Objective
from hybridopt.optimizers.adamw_part import check_betas
from hybridopt.optimizers.diagonal_step import DiagonalConfig, DiagonalStep
from hybridopt.optimizers.direct_step import decay


@dataclass
class AdaHessianConfig(DiagonalConfig):
    """Options of `AdaHessian`.

    Attributes:
        betas: Decay of the mean gradient and of the mean square of the diagonal.
        eps: Added to the denominator.
        hessian_power: k: the denominator is the root mean square of the diagonal to the power of k.
        spatial_average: What the diagonal is averaged over before it is squared: ``kernel``, all but the first two
            dimensions of a parameter; ``row``, all but the first; or ``none``.
    """

    lr: float = option(0.1, ge=0, search=("log", 1e-3, 1.0), help="learning rate")
    betas: list[float] = option([0.9, 0.999], help="decay of the mean gradient and of the diagonal's mean square")
    eps: float = option(1e-4, gt=0, search=("log", 1e-8, 1e-2), help="added to the denominator")
    hessian_power: float = option(1.0, ge=0, le=1, search=[0.5, 0.75, 1.0], help="power of the diagonal")
    spatial_average: str = option(
        "kernel", choices=["kernel", "row", "none"], help="what the diagonal is averaged over"
    )


class AdaHessian(DiagonalStep):
    """AdaHessian (Yao et al. 2021, Algorithm 1).

    Adam with the mean square of the Hessian's diagonal, which is estimated by random signs z as z * H z and averaged
    over each conv kernel. The average is signed, as in the paper's equation; the authors' code takes the absolute
    values first. Between estimates (`every` above 1) the denominator stays; its bias correction counts estimates. A
    parameter moves from its first estimate on. Weight decay is decoupled.

    Report: ``refreshed`` (whether the diagonal was estimated in this step).

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = AdaHessianConfig
    summary = "Adam by the Hessian's diagonal (Yao et al. 2021)"

    def __init__(self, params: Iterable[Any], config: Any = None, *, escape: Any = None, **options: Any) -> None:
        super().__init__(params, config, escape=escape, **options)
        check_betas(self.config.betas, owner="AdaHessian.betas")

    def move(self, objective: Objective) -> None:
        """Steps along the mean gradient over the root mean square of the diagonal.

        Args:
            objective: The objective of the step.
        """
        config = self.config
        beta1, beta2 = config.betas
        for group in self.param_groups:
            active = self._active(group)
            if not active:
                continue
            states = [self._state_of(parameter) for parameter in active]
            torch._foreach_lerp_([s["mean"] for s in states], [p.grad for p in active], weight=1.0 - beta1)
            diagonals = self.estimates(active)
            if diagonals is not None:
                squares = [average(diagonal, config.spatial_average).square() for diagonal in diagonals]
                torch._foreach_lerp_([s["squares"] for s in states], squares, weight=1.0 - beta2)
            for state in states:
                state["count"] += 1
                state["estimates"] += diagonals is not None
            ready = [(p, s) for p, s in zip(active, states, strict=True) if s["estimates"]]
            if not ready:
                continue
            moving = [p for p, _ in ready]
            decay(moving, group["lr"] * group["weight_decay"])
            denominators = torch._foreach_div(
                [s["squares"] for _, s in ready], [1.0 - beta2 ** s["estimates"] for _, s in ready]
            )
            torch._foreach_pow_(denominators, config.hessian_power / 2)
            torch._foreach_add_(denominators, config.eps)
            rates = [-float(group["lr"]) / (1.0 - beta1 ** s["count"]) for _, s in ready]
            torch._foreach_addcdiv_(moving, [s["mean"] for _, s in ready], denominators, rates)
        self.finish()

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        if "mean" not in state:
            state.update(mean=torch.zeros_like(parameter), squares=torch.zeros_like(parameter), count=0, estimates=0)
        return state


def average(diagonal: Tensor, over: str) -> Tensor:
    """Returns the diagonal with parts of it replaced by their mean.

    Args:
        diagonal: In the shape of a parameter.
        over: ``kernel``: all dimensions but the first two; ``row``: all but the first; ``none``.
    """
    kept = {"kernel": 2, "row": 1, "none": diagonal.dim()}[over]
    if diagonal.dim() <= kept:
        return diagonal
    return diagonal.mean(dim=tuple(range(kept, diagonal.dim())), keepdim=True).expand_as(diagonal)
