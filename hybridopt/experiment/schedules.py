"""Learning-rate schedules: torch's own, named for the command line, and one that also raises the rate.

A schedule moves ``lr`` in the optimizer's param groups. What that means is the optimizer's business: the step itself,
the first trial of a line search, a factor on a trust-region step.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch.optim import lr_scheduler

from hybridopt.core import CombinationError, ConfigError, Registry, option

registry = Registry(
    "schedule",
    {
        "none": "hybridopt.experiment.schedules:Schedule",
        "constant": "hybridopt.experiment.schedules:Constant",
        "step": "hybridopt.experiment.schedules:StepDecay",
        "exponential": "hybridopt.experiment.schedules:Exponential",
        "polynomial": "hybridopt.experiment.schedules:Polynomial",
        "cosine": "hybridopt.experiment.schedules:Cosine",
        "one_cycle": "hybridopt.experiment.schedules:OneCycle",
        "cyclical": "hybridopt.experiment.schedules:Cyclical",
        "plateau": "hybridopt.experiment.loss_schedules:Plateau",
        "two_way": "hybridopt.experiment.loss_schedules:TwoWay",
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

    Raises:
        CombinationError: If the optimizer has no rate to move.
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
        if type(self) is not Schedule and any("lr" not in group for group in optimizer.param_groups):
            raise CombinationError(
                f"The schedule {type(self).__name__} moves a learning rate, and {type(optimizer).__name__} has none. "
                "Use schedule=none, or an optimizer with the option lr."
            )
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
        """Moves the rate if it depends on the validation loss.

        Args:
            validation_loss: The newest one.
        """

    def see(self, train_loss: float, validation_loss: float) -> None:
        """Looks at an evaluation; this is what the training loop calls.

        Args:
            train_loss: Mean loss on the training set.
            validation_loss: Mean loss on the validation set.
        """
        self.after_evaluation(validation_loss)

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
                "budget.steps, or choose schedule=step, exponential, cyclical, plateau or two_way."
            )
        return self.total_steps


class Constant(Schedule):
    """Keeps the rate after a linear rise: what ``none`` does, with a warm-up (Goyal et al. 2017, section 2.2)."""

    @dataclasses.dataclass
    class Config:
        """Options of `Constant`.

        Attributes:
            warmup: Epochs of the linear rise; 0: none.
        """

        warmup: float = option(0.0, ge=0, help="epochs of the linear rise")

    summary = "the rate stays, after an optional linear warm-up"

    def build(self, optimizer: torch.optim.Optimizer) -> Any:
        """Returns `torch.optim.lr_scheduler.LambdaLR`; no horizon is needed."""
        rise = round(self.config.warmup * self.steps_per_epoch)
        return lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (rise + 1)))


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
        gamma: float = option(0.1, gt=0, search=[0.1, 0.2, 0.5], help="factor")

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

        gamma: float = option(0.95, gt=0, le=1, search=("uniform", 0.7, 1.0), help="factor per epoch")

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

        power: float = option(1.0, gt=0, search=[0.5, 1.0, 2.0], help="1 is linear")

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

        warmup: float = option(0.0, ge=0, lt=1, search=[0.0, 0.05, 0.1, 0.2], help="share of the run spent rising")
        final: float = option(0.0, ge=0, le=1, help="final rate over initial rate")

    summary = "half a cosine over the run, after an optional linear warm-up"

    def build(self, optimizer: torch.optim.Optimizer) -> Any:
        """Returns `torch.optim.lr_scheduler.LambdaLR`: torch's own cosine takes no relative end and no warm-up."""
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

        rise: float = option(0.3, gt=0, lt=1, search=[0.1, 0.3, 0.5], help="share of the run before the peak")
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


class Cyclical(Schedule):
    """Lets the rate rise and fall in triangles (Smith 2017); the optimizer's ``lr`` is the peak of the first."""

    @dataclasses.dataclass
    class Config:
        """Options of `Cyclical`.

        Attributes:
            period: Epochs from one lowest rate to the next, twice Smith's ``stepsize``.
            low: Lowest rate as a share of ``lr``.
            decay: Factor on the height of each triangle over that of the one before: 1 is Smith's ``triangular``, 0.5
                his ``triangular2``.
        """

        period: float = option(4.0, gt=0, search=[2.0, 4.0, 8.0], help="epochs from one lowest rate to the next")
        low: float = option(0.1, ge=0, le=1, help="lowest rate over lr")
        decay: float = option(1.0, gt=0, le=1, help="factor on the height of each next triangle")

    summary = "rises and falls in triangles; lr is the peak"

    def build(self, optimizer: torch.optim.Optimizer) -> Any:
        """Returns `torch.optim.lr_scheduler.LambdaLR`: torch's own cycle wants rates, not shares of them.

        Raises:
            ConfigError: If a period is less than two steps.
        """
        period = round(self.config.period * self.steps_per_epoch)
        if period < 2:
            raise ConfigError(
                f"schedule.period={self.config.period:g} epochs are {period} steps; a triangle needs at least 2. "
                f"Use schedule.period={2 / self.steps_per_epoch:g} or more."
            )
        low, decay = self.config.low, self.config.decay

        def factor(step: int) -> float:
            cycle, place = divmod(step, period)
            height = 1.0 - abs(2.0 * place / period - 1.0)
            return low + (1.0 - low) * decay**cycle * height

        return lr_scheduler.LambdaLR(optimizer, factor)

    def after_step(self, step: int) -> None:
        """Moves the rate, however far the run goes."""
        self.scheduler.step()
