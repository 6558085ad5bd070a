"""Choosing runs as they are configured on the command line: ``optimizer=adam,lbfgs seed=0``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from hybridopt.core.errors import ConfigError, suggest
from hybridopt.experiment.layout import section_name
from hybridopt.results.collection import Results
from hybridopt.results.run import Run, flat

_OWN = ("task", "optimizer", "escape", "seed", "state", "timing")


def choose(results: Results, filters: Sequence[str]) -> list[Run]:
    """Returns the runs that have one of the given values under every given key.

    Args:
        results: The runs.
        filters: ``key=value`` or ``key=value,value``. Keys are task (its name, or that of one problem,
            ``saddle/digits``), optimizer, escape (``none`` too), seed, state, timing, and everything in a run's config:
            ``optimizer.lr``, ``schedule``, ``budget.epochs``.

    Raises:
        ConfigError: If a filter is of another form, or no run has its key or any of its values.

    Example:
        >>> from hybridopt.results import Results
        >>> choose(Results("outputs", []), ["optimiser=adam"])
        Traceback (most recent call last):
        ...
        hybridopt.core.errors.ConfigError: Runs cannot be chosen by 'optimiser'. Did you mean 'optimizer'? ...
    """
    chosen = results.runs
    for text in filters:
        key, sign, value = text.partition("=")
        if not sign or not key or not value:
            raise ConfigError(f"{text!r} chooses no runs: write key=value or key=value,value, as optimizer=adam,lbfgs.")
        there: dict[str, list[Run]] = {}
        for run in chosen:
            for name in _values(run, key):
                there.setdefault(name, []).append(run)
        if not there:
            known = [*_OWN, *sorted({name for run in chosen for name, _ in flat(run.config)})]
            raise ConfigError(
                f"Runs cannot be chosen by {key!r}.{suggest(key, known)} Keys are {', '.join(_OWN)}, and what stands "
                "in a run's config.yaml, as optimizer.lr."
            )
        wanted = [_text(item.strip()) for item in value.split(",")]
        for name in wanted:
            if name not in there:
                raise ConfigError(
                    f"No run has {key}={name}.{suggest(name, there)} There are: {', '.join(sorted(there))}."
                )
        kept = {id(run) for name in wanted for run in there[name]}
        chosen = [run for run in chosen if id(run) in kept]
    return list(chosen)


def _values(run: Run, key: str) -> list[str]:
    """What a filter may call the value of a run under a key; empty if the run has no such key."""
    if key == "task":
        return list(dict.fromkeys([run.task, section_name(run.config.get("task")) or "unknown"]))
    if key == "escape":
        return [run.escape or "none"]
    if key in _OWN:
        return [_text(getattr(run, key))]
    found: Any = run.config
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            return []
        found = found[part]
    if isinstance(found, dict):
        return [section_name(found) or "unknown"]
    return [_text(found)]


def _text(value: Any) -> str:
    """A value as one writes it, however it was written: 1e-3, 0.001 and 1.0e-3 are the same, so are 1 and 1.0."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = yaml.safe_load(value) if value in ("true", "false", "null") else value
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.15g}" if isinstance(value, int | float) else str(value)
