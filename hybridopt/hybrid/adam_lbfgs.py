"""Adam, then L-BFGS."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hybridopt.core import option
from hybridopt.hybrid.rules import Until
from hybridopt.hybrid.switch import Stage, Switch
from hybridopt.optimizers.base import resolve_config


@dataclass
class AdamLBFGSConfig:
    """Options of `AdamLBFGS`.

    Attributes:
        lr: Learning rate of Adam.
        lbfgs_lr: First trial length of L-BFGS.
        history: Pairs that L-BFGS keeps.
        weight_decay: L2 strength of both.
        at_step: Switches after this many steps; None leaves it to the plateau.
        plateau_window: As for `Switch`.
        plateau_tolerance: As for `Switch`.
    """

    lr: float = option(1e-2, ge=0, search=("log", 1e-5, 1e-1), help="learning rate of Adam")
    lbfgs_lr: float = option(1.0, ge=0, search=("log", 0.1, 1.0), help="first trial length of L-BFGS")
    history: int = option(10, ge=1, search=[5, 10, 20, 50], help="pairs that L-BFGS keeps")
    weight_decay: float = option(0.0, ge=0, help="L2 strength of both")
    at_step: int | None = option(None, ge=0, help="switch after this many steps; null: leave it to the plateau")
    plateau_window: int = option(20, ge=0, help="steps of the windows whose mean losses are compared; 0: never")
    plateau_tolerance: float = option(0.02, ge=0, help="a relative decrease below this is a plateau")


class AdamLBFGS(Switch):
    """Adam until a step or a plateau, then L-BFGS with a strong Wolfe search (as in Rathore et al. 2024).

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = AdamLBFGSConfig
    summary = "Adam, then L-BFGS"

    def __init__(self, params: Iterable[Any], config: Any = None, *, escape: Any = None, **options: Any) -> None:
        config = resolve_config(type(self), config, options)
        until = Until(
            at_step=config.at_step,
            plateau_window=config.plateau_window,
            plateau_tolerance=config.plateau_tolerance,
        )
        adam = {"lr": config.lr, "weight_decay": config.weight_decay}
        lbfgs = {"lr": config.lbfgs_lr, "history": config.history, "weight_decay": config.weight_decay}
        self._build(params, [Stage("adam", adam, until), Stage("lbfgs", lbfgs, None)], config, escape)
