"""Runs the trials of several optimizers on one task so that all of them have spent the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hybridopt.core import ConfigError, HybridoptError
from hybridopt.experiment.ending import KILLED
from hybridopt.experiment.layout import PAUSED
from hybridopt.experiment.monitor import Monitor, Outcome
from hybridopt.experiment.sweep import run_sweep
from hybridopt.tuning.study import Study, Trial

MOST = 4
"""Trials of a cheap method per trial of the dearest, unless the settings say otherwise."""


def search(studies: Sequence[Study], make_monitor: Callable[[], Monitor] = Monitor) -> float:
    """Runs trials of every study until all have spent what the dearest spends on its first ones.

    First every study runs ``trials`` trials, a sampler that learns from the results a few at a time; those that end
    with an error are replaced. The largest sum is the budget. Where the settings state the budget (``spend``), the
    first trial alone is run so. Then each study goes on while another trial, taken to be as dear as the dearest of its
    trials so far, fits in. All choices follow from the stored runs, so starting again after a kill does what is missing
    and nothing else. A grid is run as it is, since it cannot be continued.

    Args:
        studies: Of one task; they share their settings.
        make_monitor: Makes what shows a sweep.

    Returns:
        The budget: gradient-equivalents that each study may have spent.

    Raises:
        HybridoptError: If trials cannot start, or were killed.
    """
    settings = studies[0].settings
    if settings.sampler == "halving":
        halve(studies, make_monitor)
        return max(study.spent() for study in studies)
    most = max(settings.most_trials or MOST * settings.trials, settings.trials)
    while fresh := [trial for study in studies for trial in _first_trials(study, most)]:
        run_trials(fresh, make_monitor())
    budget = settings.spend or max(study.spent() for study in studies)
    while settings.sampler != "grid":
        wanted = {study: min(_fitting(study, budget), most - len(study.trials)) for study in studies}
        fresh = [trial for study in studies for trial in study.more(study.together(wanted[study]))]
        if not fresh:
            break
        run_trials(fresh, make_monitor())
    return budget


def halve(studies: Sequence[Study], make_monitor: Callable[[], Monitor] = Monitor) -> None:
    """Successive halving: starts many trials, and lets the best go on.

    Jamieson and Talwalkar (2016), with geometric budgets as in Hyperband (Li et al. 2018): at every rung, of cost
    limit/eta^k, one in `eta` trials goes on. A trial is a run of the whole budget that is paused at a rung, so one that
    goes on does so from its checkpoint, pays nothing twice and ends as the run that was never paused. Trials are
    judged at a rung by the evaluations before it. Those left behind stay paused, as ordinary runs that can go on.

    Args:
        studies: Of one task; they share their settings.
        make_monitor: Makes what shows a sweep.

    Raises:
        ConfigError: If the first rung ends before the first evaluation.
        HybridoptError: If trials cannot start, or were killed.
    """
    settings = studies[0].settings
    for study in studies:
        lowest = study.limit / settings.eta**settings.rungs
        if lowest < study.base.eval_every:
            raise ConfigError(
                f"The first rung of halving ends at {lowest:.3g} gradient-equivalents, before an evaluation tells the "
                f"trials apart (eval_every={study.base.eval_every:g}). Take fewer rungs, a smaller eta, or a larger "
                "budget.gradient_equivalents."
            )
    alive = {study: study.more(study.first) for study in studies}
    for rung in range(settings.rungs, -1, -1):
        places = {study: study.limit / settings.eta**rung for study in studies}
        # Studies of one task have the same limit; each is asked for its own all the same.
        for place in sorted(set(places.values())):
            trials = [trial for study in studies if places[study] == place for trial in alive[study]]
            run_trials(trials, make_monitor(), pause_at=place if rung else None)
        if rung:
            alive = {study: promoted(study, trials, places[study]) for study, trials in alive.items()}


def promoted(study: Study, trials: Sequence[Trial], place: float) -> list[Trial]:
    """Returns the best trials at a rung, one in `eta` of them and at least one, in their first order.

    Args:
        study: Whose trials they are.
        trials: Those that have come to the rung.
        place: The rung's cost.
    """
    ranked = sorted(range(len(trials)), key=lambda number: (study.score(trials[number], place), number))
    kept = sorted(ranked[: max(1, len(trials) // study.settings.eta)])
    return [trials[number] for number in kept]


def run_trials(trials: Sequence[Trial], monitor: Monitor, *, pause_at: float | None = None) -> list[Outcome]:
    """Does trials that are not there yet.

    Args:
        trials: What to do.
        monitor: Shows what happens.
        pause_at: Cost at which to pause them, or None.

    Raises:
        HybridoptError: If one was killed from outside: it is not known how good it would have been.
    """
    if not trials:
        return []
    outcomes = run_sweep([trial.config for trial in trials], monitor, pause_at=pause_at)
    killed = [
        outcome
        for outcome in outcomes
        if outcome.status not in ("done", "diverged", "failed") and not outcome.reason.startswith(PAUSED)
    ]
    if killed:
        raise HybridoptError(
            f"{len(killed)} of {len(outcomes)} trials were {KILLED.split()[0]}, the first being {killed[0].directory} "
            f"({killed[0].reason}). The same command goes on where they stopped."
        )
    return outcomes


def _fitting(study: Study, budget: float) -> int:
    """How many trials as dear as the dearest so far still fit in the budget."""
    dearest = max((trial.read().end("gradient_equivalents") or 0.0 for trial in study.trials), default=0.0)
    return int((budget - study.spent()) / dearest + 1e-9) if dearest > 0 else 0


def _first_trials(study: Study, most: int) -> list[Trial]:
    """The next of the trials that a study begins with; one that failed is replaced, as long as there may be more."""
    wanted = min(study.wanting(), max(most, study.first) - len(study.trials))
    return study.more(study.together(wanted))
