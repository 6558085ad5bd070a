"""How to tune: where to look, how often, and what is best."""

from __future__ import annotations

import dataclasses

from hybridopt.core import ConfigError, option
from hybridopt.tuning.score import OBJECTIVES

LEAST_TRIALS = 8
"""Complete trials that the dearest method should have for its tuning to mean anything."""


@dataclasses.dataclass
class Settings:
    """How to tune.

    Attributes:
        sampler: Where to look: ``sobol``, ``random``, ``grid``, ``halving``, or ``optuna``: the first half of the
            trials as ``sobol``, the others where the results so far promise most. It prunes nothing: all trials
            are complete, so that budgets stay equal; trials that are cut short are what ``halving`` is for.
        trials: Complete trials that every optimizer gets at least; the budget is what the dearest one spends on them.
        most_trials: Trials that no optimizer exceeds, however cheap its trials are; None: four times `trials`.
        spend: Gradient-equivalents that every optimizer may spend in all; None: what the dearest of the call spends on
            its first `trials` trials. With it searches of several calls have the same budget, and a method whose
            trials are dear gets fewer of them than `trials`.
        objective: ``target``, ``loss``, or ``auto``: ``target`` where the task states one.
        sampler_seed: Seed of the random numbers that choose the trials.
        defaults: Whether the first trial is the optimizer with its defaults, so that tuning never does worse.
        final_seeds: Number of seeds, from 0 on, of the comparison that follows; trials must use another one.
        eta: ``halving``: one in so many trials goes on, with so many times the budget.
        rungs: ``halving``: how often.
        at_once: ``optuna`` and `spend`: trials between two looks at the results. More of them can run in parallel,
            fewer learn more from one another, and keep closer to the sum; it is not taken from the machine, so that a
            search can be repeated elsewhere.
    """

    sampler: str = option("sobol", choices=["sobol", "random", "grid", "halving", "optuna"], help="where to look")
    trials: int = option(LEAST_TRIALS, ge=1, help="complete trials of the dearest optimizer")
    most_trials: int | None = option(None, ge=1, help="trials that no optimizer exceeds")
    spend: float | None = option(None, gt=0, help="gradient-equivalents for all trials of an optimizer")
    objective: str = option("auto", choices=["auto", *OBJECTIVES], help="what is best")
    sampler_seed: int = option(0, ge=0, help="seed of the choice of trials")
    defaults: bool = option(True, help="first trial with the optimizer's defaults")
    final_seeds: int = option(10, ge=1, help="seeds of the comparison that follows")
    eta: int = option(3, ge=2, help="halving: one in so many goes on")
    rungs: int = option(2, ge=1, help="halving: how often")
    at_once: int = option(2, ge=1, help="optuna, spend: trials between two looks at the results")

    def validate(self, owner: str) -> None:
        """Refuses what does not go together.

        Args:
            owner: Whose config it is, for the message.

        Raises:
            ConfigError: If a sampler whose number of trials is fixed is to keep to a sum.
        """
        if self.spend is not None and self.sampler in ("grid", "halving"):
            raise ConfigError(
                f"{owner}.spend does not go with sampler={self.sampler}, whose trials are all needed. Leave spend out, "
                "or take sobol, random or optuna."
            )
