"""The trials of one optimizer on one task: ordinary runs with chosen options."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hybridopt import results
from hybridopt.core import ConfigError, HybridoptError, need
from hybridopt.data.batches import LARGE
from hybridopt.experiment import parts
from hybridopt.experiment.build import build_task, check_buildable, limits_of
from hybridopt.experiment.config import RunConfig, batch_policy, resolve, to_plain
from hybridopt.experiment.identity import run_id
from hybridopt.experiment.job import run_directory
from hybridopt.experiment.layout import PAUSED
from hybridopt.experiment.rehearsal import rehearse
from hybridopt.results.run import Run
from hybridopt.tuning.samplers import SAMPLERS
from hybridopt.tuning.score import Score
from hybridopt.tuning.settings import Settings
from hybridopt.tuning.space import BESIDE, Space
from hybridopt.tuning.tpe import Told, propose

_ATTEMPTS = 16  # points drawn per trial wanted, before a space counts as used up


@dataclasses.dataclass(frozen=True)
class Trial:
    """One point of a space, as a run.

    Attributes:
        values: Config names and values that were chosen; empty for the defaults.
        config: The run's checked config.
    """

    values: Mapping[str, Any]
    config: RunConfig

    @property
    def key(self) -> str:
        """Identity of the run."""
        return run_id(to_plain(self.config))

    def read(self) -> Run:
        """Returns the run as it lies on the disk.

        Raises:
            HybridoptError: If it cannot be read.
        """
        found = results.load(run_directory(self.config))
        if len(found) != 1:
            raise HybridoptError(f"The trial {run_directory(self.config)} cannot be read: {found.problems}.")
        return found.runs[0]


class Study:
    """The search for one optimizer on one task.

    Args:
        base: What all trials share; its budget may only be in gradient-equivalents (none: the task's epochs).
        settings: How to tune.
        changes: Of the space, see `Space.changed`.
        only: Names to search alone; empty searches all.
        fixed: Names that the user has set, which are therefore not searched.

    Attributes:
        base: What all trials share, with the budget spelt out.
        beside: Names of the method's parts beside its optimizer, by kind.
        inherited: Names of the options that the base has from earlier tuning.
        space: What is searched.
        limit: Budget of a trial in gradient-equivalents.
        objective: ``target`` or ``loss``.
        trials: The trials so far, in order.
        refused: Points that were passed over because their options do not go together, or not with the task.
        refusal: Why the last of them was.

    Raises:
        ConfigError: If the budget is on another axis, the seed is a final one, or there is nothing to search.
        HybridoptError: If the sampler's package is not installed.
    """

    def __init__(
        self,
        base: RunConfig,
        settings: Settings,
        *,
        changes: Sequence[str] = (),
        only: Sequence[str] = (),
        fixed: Sequence[str] = (),
    ) -> None:
        if settings.sampler == "optuna":
            need("optuna", extra="tune", owner="sampler=optuna", otherwise="take sampler=sobol, which needs nothing")
        self.settings = settings
        self.base = copy.deepcopy(base)
        self.inherited = tuple((base.tuning or {}).get("values") or {})
        self.base.tuning = None
        self._check_seed()
        task = build_task(self.base)
        self.limit = self._settle_budget(task)
        self._task, self._splits = task, task.splits(self.base.seed)
        self.beside = {kind: getattr(self.base, kind)["name"] for kind in BESIDE}
        name, batch = self.base.optimizer["name"], self.base.task["batch_size"]
        if batch == "large":
            batch = min(LARGE * task.config.batch_size, len(self._splits.train))
        searched = batch_policy(self.base.optimizer) != "full" and isinstance(batch, int)
        space = Space.of(
            name,
            batch_size=batch if searched else None,
            train_size=len(self._splits.train),
            options=self.base.optimizer,
            beside=self.beside,
        )
        others = {kind: getattr(self.base, kind)["name"] for kind in parts.KINDS[2:]}  # all but task and optimizer
        self.space = space.without(fixed).changed(changes, name, others)
        if only:
            # What one optimizer calls an option another may not have: each is searched over what it has.
            known = [one for one in only if one in self.space.dimensions]
            self.space = self.space.only(known)
        if not len(self.space):
            raise ConfigError(
                f"There is nothing to search for the optimizer {name!r}: no option declares a search space, or "
                "all are set or left out. Add --space optimizer.OPTION=log:LOW:HIGH."
            )
        wanted = settings.objective
        self.objective = ("target" if task.targets else "loss") if wanted == "auto" else wanted
        if self.objective == "target" and not task.targets:
            raise ConfigError(f"The task {self.base.task['name']!r} states no target: take objective=loss.")
        self.trials: list[Trial] = []
        self.refused = 0
        self.refusal = ""
        self._settled = 0  # so many trials may be looked at by a sampler that learns
        self._points = self._learned() if settings.sampler == "optuna" else self._proposals()

    @property
    def label(self) -> str:
        """What people call the method: ``adam``, ``lbfgs+perturbation``, ``sgd+cosine``."""
        usual = RunConfig()
        names = [self.beside[kind] for kind in BESIDE[1:] if self.beside[kind] != getattr(usual, kind)["name"]]
        return "+".join([run_directory(self.base).parent.name, *names])  # which names the escape

    @property
    def first(self) -> int:
        """Number of trials that the study begins with.

        With ``halving``: as many as cost what `trials` complete ones do. Of n trials, n/eta^k reach the k-th rung and
        pay what lies between it and the one before.
        """
        settings = self.settings
        if settings.sampler == "grid":  # the defaults come on top, so that no point is missing
            return settings.trials + settings.defaults
        if settings.sampler == "halving":
            share = 1 + settings.rungs * (1 - 1 / settings.eta)
            return max(1, int(settings.trials * settings.eta**settings.rungs / share))
        return settings.trials

    def more(self, count: int) -> list[Trial]:
        """Adds trials and returns them: as many as wanted, or what is left of a space that is used up.

        The trials are a fixed sequence: asking twice for four gives what asking once for eight does. Only a sampler
        that learns looks at the results of all trials of earlier calls, which must have run; given these, and calls
        for the same numbers, it is as fixed.

        Args:
            count: How many.
        """
        before = self._settled = len(self.trials)
        known = {trial.key for trial in self.trials}
        while len(self.trials) - before < count:
            trial = next(self._points, None)
            if trial is None:
                break
            if trial.key not in known:
                known.add(trial.key)
                self.trials.append(trial)
        return self.trials[before:]

    def together(self, count: int) -> int:
        """Returns how many of the trials wanted should run before more are asked for.

        Args:
            count: How many are wanted.
        """
        if self.settings.spend is not None:  # what trials cost is known from those that have run
            return min(count, self.settings.at_once)
        if self.settings.sampler != "optuna":
            return count
        return min(count, max(self._startup - len(self.trials), self.settings.at_once))

    def wanting(self) -> int:
        """Returns how many of the first trials are still to be had: with `spend` one, which says what they cost.

        A trial that failed with an error says nothing about the method and is replaced; a diverged one is not. Where
        all of them failed, more would too.
        """
        first, bearable = self.first, len(self.trials)
        if self.settings.spend is not None:
            first, bearable = 1, self.settings.trials
        failed = sum(trial.read().state == "failed" for trial in self.trials)
        return first - len(self.trials) + (failed if failed < bearable else 0)

    def score(self, trial: Trial, limit: float | None = None) -> Score:
        """Returns the score of a trial.

        Args:
            trial: One that has run.
            limit: Cost up to which its evaluations count; None: the budget.
        """
        return Score.of(trial.read(), self.objective, limit or self.limit)

    def best(self) -> tuple[Trial, Score]:
        """Returns the complete trial with the best score, the earliest of several, and the score.

        Raises:
            HybridoptError: If no trial was completed, or none has a finite score.
        """
        if not self.trials:
            raise HybridoptError(
                f"All {self.refused} points that were drawn for {self.base.task['name']}/{self.label} were refused, "
                f"the last because: {self.refusal}"
            )
        scored = [(self.score(trial), number, trial) for number, trial in enumerate(self.trials) if _ended(trial)]
        if not scored or min(scored)[0].value == float("inf"):
            raise HybridoptError(
                f"No trial of {self.base.task['name']}/{self.label} came to a finite result within its "
                f"{self.limit:g} gradient-equivalents; the {len(self.trials)} cost {self.spent():.4g}. See the logs "
                f"below {run_directory(self.base).parent}, and give a wider or lower range with --space, or "
                "budget.gradient_equivalents=N if a single step is dearer."
            )
        score, _, trial = min(scored, key=lambda entry: entry[:2])
        return trial, score

    def spent(self, axis: str = "gradient_equivalents") -> float:
        """Returns what all trials have cost.

        Args:
            axis: ``gradient_equivalents`` or ``seconds``.
        """
        return sum(trial.read().end(axis) or 0.0 for trial in self.trials)

    def states(self) -> dict[str, int]:
        """Returns how many trials stand how: done, diverged, failed, paused (by halving), interrupted."""
        found: dict[str, int] = {}
        for trial in self.trials:
            run = trial.read()
            state = "paused" if str(run.status.get("reason")).startswith(PAUSED) else run.state
            found[state] = found.get(state, 0) + 1
        return found

    def value(self, trial: Trial, name: str) -> Any:
        """Returns the value that an option has in a trial, chosen or by default.

        Args:
            trial: A trial.
            name: Config name of the option.

        Raises:
            KeyError: If the trial leaves it to somebody else's code, as the defaults of an external optimizer do.
        """
        found: Any = to_plain(trial.config)
        for key in name.split("."):
            found = found[key]
        return found

    def edges(self, trial: Trial) -> dict[str, str]:
        """Returns the dimensions on whose edge a trial lies, each with advice.

        Args:
            trial: The best one.
        """
        found = {}
        for name, value in trial.values.items():
            dimension = self.space.dimensions[name]
            edge = dimension.edge(value)
            if edge is not None:
                shown = f"{value:.4g}" if isinstance(value, float) else value
                found[name] = (
                    f"{name}={shown} lies on the {edge} edge of its space {dimension}: the best may lie beyond; search "
                    f"again with --space {name}={dimension.around(value)}"
                )
        return found

    def _proposals(self) -> Iterator[Trial]:
        """All trials that the sampler ever gives, without those whose options do not go together."""
        drawn, size = 0, self.first
        most = _ATTEMPTS * max(size, self.settings.most_trials or 0)
        if self.settings.defaults:
            yield Trial({}, self.base)
        sampler = self.settings.sampler if self.settings.sampler in SAMPLERS else "sobol"
        while drawn < most:
            count = max(size, 2 * drawn)
            points = self.space.sample(count, sampler=sampler, seed=self.settings.sampler_seed)
            for values in points[drawn:]:
                trial = self._trial(values)
                if trial is None:
                    self.refused += 1
                else:
                    yield trial
            if sampler == "grid":
                return
            drawn = count

    @property
    def _startup(self) -> int:
        """Trials before a sampler that learns begins to."""
        return (self.settings.trials + 1) // 2

    def _learned(self) -> Iterator[Trial]:
        """Trials that a learning sampler proposes; its first ones are those of ``sobol``."""
        for trial in self._proposals():
            yield trial
            if len(self.trials) >= self._startup:
                break
        passed: list[Told] = []
        for draw in range(_ATTEMPTS * max(self.settings.trials, self.settings.most_trials or 0)):
            told: list[Told] = [(trial.values, self.score(trial)) for trial in self.trials[: self._settled]]
            told += [(trial.values, None) for trial in self.trials[self._settled :]]
            seed = (65537 * self.settings.sampler_seed + draw) % 2**32
            values = propose(self.space, [*told, *passed], seed)
            trial = self._trial(values)
            if trial is None:
                self.refused += 1
                passed.append((values, Score(2, math.inf)))
            else:
                yield trial

    def _trial(self, values: Mapping[str, Any]) -> Trial | None:
        plain = to_plain(self.base)
        for name, value in values.items():
            *path, last = name.split(".")
            section = plain
            for key in path:
                section = section[key]
            section[last] = value
        try:
            config = resolve(plain)
            check_buildable(config, self._splits, self._task)
            rehearse(config, self._splits.train)
        except ConfigError as refusal:
            self.refusal = str(refusal)
            return None
        return Trial(values, config)

    def _check_seed(self) -> None:
        if self.base.seed < self.settings.final_seeds:
            raise ConfigError(
                f"seed={self.base.seed} belongs to the final comparison (0 to {self.settings.final_seeds - 1}): what "
                f"is tuned on it cannot be judged on it. Leave it out, or take one from {self.settings.final_seeds} on."
            )

    def _settle_budget(self, task: Any) -> float:
        budget = self.base.budget
        if (budget.epochs, budget.steps, budget.seconds) != (None,) * 3:
            raise ConfigError(
                "Every optimizer is tuned on the same cost: give trials their budget as "
                "budget.gradient_equivalents=N (an epoch of SGD costs 1), not in epochs, steps or seconds."
            )
        limits = limits_of(self.base, task)
        limit = float(limits["gradient_equivalents"] or limits["epochs"] or 0.0)
        if (spend := self.settings.spend) is not None and spend < limit:
            raise ConfigError(
                f"spend={spend:g} does not pay for one trial of {limit:g} gradient-equivalents. Take more, or a "
                "smaller budget.gradient_equivalents, which is that of a trial."
            )
        budget.gradient_equivalents = limit
        if self.base.schedule["name"] != "none" and batch_policy(self.base.optimizer) == "mini":
            budget.epochs = limit  # what a schedule takes its number of steps from
        return limit


def _ended(trial: Trial) -> bool:
    return trial.read().state in ("done", "diverged", "failed")
