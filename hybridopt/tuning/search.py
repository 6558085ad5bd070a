"""Runs the trials of several optimizers on one task so that all of them have spent the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hybridopt.core import HybridoptError
from hybridopt.experiment.monitor import Monitor, Outcome
from hybridopt.experiment.pool import KILLED
from hybridopt.experiment.sweep import run_sweep
from hybridopt.tuning.study import Study, Trial

MOST = 4
"""Trials of a cheap method per trial of the dearest, unless the settings say otherwise."""


def search(studies: Sequence[Study], make_monitor: Callable[[], Monitor] = Monitor) -> float:
    """Runs trials of every study until all have spent what the dearest spends on its first ones.

    First every study runs ``trials`` trials. The largest sum is the budget. Then each of the others goes on while
    another trial, taken to be as dear as the dearest of its trials so far, fits in. All choices follow from the
    stored runs, so starting again after a kill does what is missing and nothing else. A grid is run as it is, since it
    cannot be continued.

    Args:
        studies: Of one task; they share their settings.
        make_monitor: Makes what shows a sweep.

    Returns:
        The budget: gradient-equivalents that each study may have spent.

    Raises:
        HybridoptError: If trials cannot start, or were killed.
    """
    settings = studies[0].settings
    # The defaults come on top of a grid, of which no point should be missing.
    first = settings.trials + (settings.sampler == "grid" and settings.defaults)
    run_trials([trial for study in studies for trial in study.more(first)], make_monitor())
    budget = max(study.spent() for study in studies)
    most = max(settings.most_trials or MOST * settings.trials, settings.trials)
    while settings.sampler != "grid":
        fresh = [trial for study in studies for trial in study.more(min(_fitting(study, budget), _left(study, most)))]
        if not fresh:
            break
        run_trials(fresh, make_monitor())
    return budget


def run_trials(trials: Sequence[Trial], monitor: Monitor) -> list[Outcome]:
    """Does trials that are not there yet.

    Args:
        trials: What to do.
        monitor: Shows what happens.

    Raises:
        HybridoptError: If one was killed from outside: it is not known how good it would have been.
    """
    if not trials:
        return []
    outcomes = run_sweep([trial.config for trial in trials], monitor)
    killed = [outcome for outcome in outcomes if outcome.status not in ("done", "diverged", "failed")]
    if killed:
        raise HybridoptError(
            f"{len(killed)} of {len(outcomes)} trials were {KILLED.split()[0]}, the first being {killed[0].directory} "
            f"({killed[0].reason}). The same command goes on where they stopped."
        )
    return outcomes


def _fitting(study: Study, budget: float) -> int:
    """How many trials as dear as the dearest so far still fit in the budget."""
    dearest = max(trial.read().end("gradient_equivalents") or 0.0 for trial in study.trials)
    return int((budget - study.spent()) / dearest + 1e-9) if dearest > 0 else 0


def _left(study: Study, most: int) -> int:
    return most - len(study.trials)
