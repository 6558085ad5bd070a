"""Adam, then L-BFGS, then Newton-CG behind a Nystrom preconditioner."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hybridopt.core import option
from hybridopt.hybrid.rules import Until
from hybridopt.hybrid.switch import Stage, Switch
from hybridopt.optimizers.base import resolve_config


@dataclass
class AdamLBFGSNNCGConfig:
    """Options of `AdamLBFGSNNCG`.

    Attributes:
        lr: Learning rate of Adam.
        lbfgs_lr: First trial length of L-BFGS.
        history: Pairs that L-BFGS keeps.
        damping: mu of NNCG, the multiple of the identity added to the Hessian.
        rank: Vectors of its preconditioner.
        refresh: Steps for which a preconditioner serves.
        max_cg: Most iterations of its inner solver in one step.
        weight_decay: L2 strength of all three.
        at_step: Steps of Adam; None leaves it to the plateau.
        lbfgs_steps: Steps of L-BFGS; None leaves it to the plateau.
        plateau_window: Steps of the windows whose mean losses are compared.
        plateau_tolerance: A relative decrease below this ends Adam.
        lbfgs_tolerance: A relative decrease below this ends L-BFGS.
    """

    lr: float = option(1e-3, ge=0, search=("log", 1e-5, 1e-1), help="learning rate of Adam")
    lbfgs_lr: float = option(1.0, ge=0, search=("log", 0.1, 1.0), help="first trial length of L-BFGS")
    history: int = option(100, ge=1, search=[20, 50, 100], help="pairs that L-BFGS keeps")
    damping: float = option(1e-2, gt=0, search=("log", 1e-5, 1e-1), help="mu of NNCG")
    rank: int = option(60, ge=1, search=[20, 60], help="vectors of the preconditioner")
    refresh: int = option(20, ge=1, search=[1, 5, 20], help="steps for which a preconditioner serves")
    max_cg: int = option(1000, ge=1, search=("log", 10, 1000), help="most iterations of NNCG's inner solver in a step")
    weight_decay: float = option(0.0, ge=0, help="L2 strength of all three")
    at_step: int | None = option(None, ge=0, help="steps of Adam; null: leave it to the plateau")
    lbfgs_steps: int | None = option(None, ge=0, help="steps of L-BFGS; null: leave it to the plateau")
    plateau_window: int = option(20, ge=1, help="steps of the windows whose mean losses are compared")
    plateau_tolerance: float = option(0.02, ge=0, help="a relative decrease below this ends Adam")
    lbfgs_tolerance: float = option(1e-3, ge=0, help="a relative decrease below this ends L-BFGS")


class AdamLBFGSNNCG(Switch):
    """Adam, L-BFGS until that stalls, then NysNewton-CG (Rathore, Lei, Frangella, Lu and Udell 2024).

    Memory 100, sketch 60 and refresh 20 are the paper's, which found mu 1e-2 and 1e-1 best of {1e-5, ..., 1e-1}. Its
    phases are of fixed lengths (1,000, 11,000 or 31,000 steps of Adam), which `at_step` and `lbfgs_steps` can say;
    by default each ends at a plateau, as NNCG gains little where L-BFGS still does. A step of L-BFGS is one iteration
    here; the paper's code counts calls of torch's ``step``, of up to 20 each.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = AdamLBFGSNNCGConfig
    summary = "Adam, then L-BFGS, then Nystrom Newton-CG (Rathore et al. 2024)"

    def __init__(self, params: Iterable[Any], config: Any = None, *, escape: Any = None, **options: Any) -> None:
        config = resolve_config(type(self), config, options)
        window, decay = config.plateau_window, config.weight_decay
        adam = Until(at_step=config.at_step, plateau_window=window, plateau_tolerance=config.plateau_tolerance)
        lbfgs = Until(at_step=config.lbfgs_steps, plateau_window=window, plateau_tolerance=config.lbfgs_tolerance)
        nncg = {name: getattr(config, name) for name in ("damping", "rank", "refresh", "max_cg", "weight_decay")}
        stages = [
            Stage("adam", {"lr": config.lr, "weight_decay": decay}, adam),
            Stage("lbfgs", {"lr": config.lbfgs_lr, "history": config.history, "weight_decay": decay}, lbfgs),
            Stage("nystrom_newton_cg", nncg, None),
        ]
        self._build(params, stages, config, escape)
