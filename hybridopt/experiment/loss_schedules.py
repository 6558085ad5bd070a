"""Learning-rate schedules that look at the loss of each evaluation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch.optim import lr_scheduler

from hybridopt.core import option
from hybridopt.experiment.schedules import Schedule


class Plateau(Schedule):
    """Multiplies the rate by `factor` when the validation loss has stopped falling."""

    @dataclasses.dataclass
    class Config:
        """Options of `Plateau`.

        Attributes:
            factor: Factor on the rate.
            patience: Evaluations without improvement that are borne.
            threshold: Relative improvement that counts.
            min_lr: The rate never falls below.
        """

        factor: float = option(0.5, gt=0, lt=1, search=[0.1, 0.2, 0.5], help="factor on the rate")
        patience: int = option(3, ge=0, help="evaluations without improvement that are borne")
        threshold: float = option(1e-3, ge=0, lt=1, help="relative improvement that counts")
        min_lr: float = option(0.0, ge=0, help="the rate never falls below")

    summary = "times factor when the validation loss stops falling"
    every = "evaluation"

    def build(self, optimizer: torch.optim.Optimizer) -> Any:
        """Returns `torch.optim.lr_scheduler.ReduceLROnPlateau`."""
        own = self.config
        return lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=own.factor, patience=own.patience, threshold=own.threshold, min_lr=own.min_lr
        )

    def after_evaluation(self, validation_loss: float) -> None:
        """Shows torch's scheduler the newest validation loss."""
        self.scheduler.step(validation_loss)


class TwoWay(Schedule):
    """Raises the rate after every evaluation that is better than the one before, and lowers it after a worse one.

    The "bold driver" (Vogl, Mangis, Rigler, Zink and Alkon 1988; Battiti 1989): times `up` when the loss fell, times
    `down` when it rose by more than `tolerance` of its size, else unchanged. Vogl has 1.05, 0.7 and 1 to 5 %, Battiti
    1.1, 0.5 and 0. Both also take a bad step back; a run here goes on from where it is, because one evaluation covers
    many steps. A loss that is not finite lowers the rate.
    """

    @dataclasses.dataclass
    class Config:
        """Options of `TwoWay`.

        Attributes:
            up: Factor after a better evaluation.
            down: Factor after a worse one.
            tolerance: Relative rise of the loss that is borne without a change.
            metric: ``train_loss``, as published, or ``validation_loss``.
            lowest: The rate never falls below this share of the first.
            highest: The rate never rises above this multiple of the first.
        """

        up: float = option(1.05, ge=1, help="factor after a better evaluation")
        down: float = option(0.5, gt=0, lt=1, help="factor after a worse one")
        tolerance: float = option(0.0, ge=0, help="relative rise of the loss that is borne")
        metric: str = option("train_loss", choices=["train_loss", "validation_loss"], help="which loss decides")
        lowest: float = option(1e-6, ge=0, le=1, help="lowest rate over the first")
        highest: float = option(100.0, ge=1, help="highest rate over the first")

    summary = "up after a better evaluation, down after a worse one (bold driver)"
    every = "evaluation"

    def build(self, optimizer: torch.optim.Optimizer) -> Any:
        """Returns None, and keeps the groups: torch has no schedule that raises rates."""
        self._optimizer = optimizer
        self._first = [float(group["lr"]) for group in optimizer.param_groups]
        self._factor = 1.0
        self._last: float | None = None
        return None

    def see(self, train_loss: float, validation_loss: float) -> None:
        """Compares the loss that decides with that of the evaluation before, and moves the rate."""
        loss = train_loss if self.config.metric == "train_loss" else validation_loss
        last, self._last = self._last, loss
        if last is None:
            return
        if not math.isfinite(loss) or loss - last > self.config.tolerance * abs(last):
            factor = self._factor * self.config.down
        elif loss < last:
            factor = self._factor * self.config.up
        else:
            return
        self._factor = min(max(factor, self.config.lowest), self.config.highest)
        for group, first in zip(self._optimizer.param_groups, self._first, strict=True):
            rate = first * self._factor
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """Returns the factor, the first rates and the loss of the last evaluation."""
        return {"factor": self._factor, "first": self._first, "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved state; the rates themselves are in the optimizer's."""
        self._factor, self._first, self._last = state["factor"], list(state["first"]), state["last"]
