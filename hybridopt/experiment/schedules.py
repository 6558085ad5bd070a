"""Learning-rate schedules: torch's own, named for the command line.

A schedule moves ``lr`` in the optimizer's param groups. What that means is the optimizer's business: the step itself,
the first trial of a line search, a factor on a trust-region step.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch.optim import lr_scheduler

from hybridopt.core import ConfigError, Registry, option

registry = Registry(
    "schedule",
    {
        "none": "hybridopt.experiment.schedules:Schedule",
        "step": "hybridopt.experiment.schedules:StepDecay",
        "exponential": "hybridopt.experiment.schedules:Exponential",
        "polynomial": "hybridopt.experiment.schedules:Polynomial",
        "cosine": "hybridopt.experiment.schedules:Cosine",
        "one_cycle": "hybridopt.experiment.schedules:OneCycle",
        "plateau": "hybridopt.experiment.schedules:Plateau",
    },
    entry_points="hybridopt.schedules",
)
"""Names of the config group ``schedule``."""


class Schedule:
    """Leaves the rate alone; base class of the others.

    Args:
        config: An instance of `Config`.
        optimizer: Whose param groups are scheduled.
        steps_per_epoch: Optimizer steps in one pass over the training set.
        total_steps: Steps of the whole run, None when its budget does not tell beforehand.
    """

    @dataclasses.dataclass
    class Config:
        """No options."""

    summary: ClassVar[str] = "the rate stays as it is"
    every: ClassVar[str] = "step"
    """Default unit of the schedule's clock: ``step``, ``epoch`` or ``evaluation``."""

    def __init__(
        self, config: Any, optimizer: torch.optim.Optimizer, steps_per_epoch: int, total_steps: int | None
    ) -> None:
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = total_steps
        self.scheduler = self.build(optimizer)

    def build(self, optimizer: torch.optim.Optimizer) -> Any:
        """Returns the torch scheduler, or None.

        Args:
            optimizer: Whose param groups are scheduled.
        """
        return None

    def after_step(self, step: int) -> None:
        """Moves the rate if it is due after an optimizer step.

        Args:
            step: Number of steps done.
        """
        if self.scheduler is None or self.every == "evaluation":
            return
        if self.every == "step" or step % self.steps_per_epoch == 0:
            # One cycle and its like end with the budget; a run that goes one step beyond keeps the last rate.
            if self.every == "step" and self.total_steps is not None and step >= self.total_steps:
                return
            self.scheduler.step()

    def after_evaluation(self, validation_loss: float) -> None:
        """Moves the rate if it depends on evaluations.

        Args:
            validation_loss: The newest one.
        """

    def state_dict(self) -> dict[str, Any]:
        """Returns the state to resume from, plain values only."""
        return {} if self.scheduler is None else self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a saved state.

        Args:
            state: What `state_dict` returned.
        """
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state)

    def horizon(self) -> int:
        """Returns the number of steps of the run.

        Raises:
            ConfigError: If the budget does not tell it.
        """
        if self.total_steps is None:
            name = type(self).__name__
            raise ConfigError(
                f"The schedule {name} needs to know the number of steps beforehand: set budget.epochs or "
                "budget.steps, or choose schedule=step, exponential or plateau."
            )
        return self.total_steps


class StepDecay(Schedule):
    """Multiplies the rate by `gamma` every `step_size` epochs."""

    @dataclasses.dataclass
    class Config:
        """Options of `StepDecay`.

        Attributes:
            step_size: Epochs between two decays.
            gamma: Factor.
        """

        step_size: int = option(10, ge=1, help="epochs between two decays")
        gamma: float = option(0.1, gt=0, help="factor")

    summary = "times gamma every step_size epochs"
    every = "epoch"

    def build(self, optimizer: torch.optim.Optimizer) -> Any:
        """Returns `torch.optim.lr_scheduler.StepLR`."""
        return lr_scheduler.StepLR(optimizer, self.config.step_size, self.config.gamma)


class Exponential(Schedule):
    """Multiplies the rate by `gamma` every epoch."""

    @dataclasses.dataclass
    class Config:
        """Options of `Exponential`.

        Attributes:
            gamma: Factor.
        """

        gamma: float = option(0.95, gt=0, le=1, help="factor per epoch")

    summary = "times gamma every epoch"
    every = "epoch"

    def build(self, optimizer: torch.optim.Optimizer) -> Any:
        """Returns `torch.optim.lr_scheduler.ExponentialLR`."""
        return lr_scheduler.ExponentialLR(optimizer, self.config.gamma)


class Polynomial(Schedule):
    """Lowers the rate to zero as (1 - t/T)^power over the run."""

    @dataclasses.dataclass
    class Config:
        """Options of `Polynomial`.

        Attributes:
            power: 1 is linear.
        """

        power: float = option(1.0, gt=0, help="1 is linear")

    summary = "to zero as (1 - t/T)^power over the run"

    def build(self, optimizer: torch.optim.Optimizer) -> Any:
        """Returns `torch.optim.lr_scheduler.PolynomialLR`."""
        return lr_scheduler.PolynomialLR(optimizer, self.horizon(), self.config.power)


class Cosine(Schedule):
    """Raises the rate linearly during a warm-up, then lowers it along half a cosine (Loshchilov and Hutter 2017)."""

    @dataclasses.dataclass
    class Config:
        """Options of `Cosine`.

        Attributes:
            warmup: Share of the run spent on the linear rise.
            final: Rate at the end as a share of the start.
        """

        warmup: float = option(0.0, ge=0, lt=1, help="share of the run spent rising")
        final: float = option(0.0, ge=0, le=1, help="final rate over initial rate")

    summary = "half a cosine over the run, after an optional linear warm-up"

    def build(self, optimizer: torch.optim.Optimizer) -> Any:
        """Returns `torch.optim.lr_scheduler.LambdaLR`: torch's own cosine takes no relative end and no warm-up."""
        import math

        total = self.horizon()
        rise = round(self.config.warmup * total)

        def factor(step: int) -> float:
            if step < rise:
                return (step + 1) / (rise + 1)
            share = min(1.0, (step - rise) / max(1, total - rise))
            return self.config.final + (1 - self.config.final) * 0.5 * (1 + math.cos(math.pi * share))

        return lr_scheduler.LambdaLR(optimizer, factor)


class OneCycle(Schedule):
    """One rise and fall of the rate (Smith and Topin 2019); the optimizer's ``lr`` is the peak."""

    @dataclasses.dataclass
    class Config:
        """Options of `OneCycle`.

        Attributes:
            rise: Share of the run before the peak.
            start: Peak over initial rate.
            end: Initial over final rate.
        """

        rise: float = option(0.3, gt=0, lt=1, help="share of the run before the peak")
        start: float = option(25.0, ge=1, help="peak over initial rate")
        end: float = option(1e4, ge=1, help="initial over final rate")

    summary = "one rise and fall over the run; lr is the peak"

    def build(self, optimizer: torch.optim.Optimizer) -> Any:
        """Returns `torch.optim.lr_scheduler.OneCycleLR`; momentum is not cycled."""
        return lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[float(group["lr"]) for group in optimizer.param_groups],
            total_steps=self.horizon(),
            pct_start=self.config.rise,
            div_factor=self.config.start,
            final_div_factor=self.config.end,
            cycle_momentum=False,
        )


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

        factor: float = option(0.5, gt=0, lt=1, help="factor on the rate")
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
