"""``hybridopt doctor --optimizer NAME``: the conformance suite on the terminal."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hybridopt.cli import console

_SHOWN = {"pass": "pass", "fail": "FAIL", "not applicable": "-"}


def main(options: argparse.Namespace) -> int:
    """Checks the optimizers that were asked for and shows what came out.

    Args:
        options: The parsed arguments of ``doctor``.

    Returns:
        1 when one of them fails a check, else 0.

    Raises:
        ConfigError: If there is nothing to check, or a name or an option is wrong.
    """
    import torch

    from hybridopt.core import ConfigError
    from hybridopt.core.plugins import load_plugin
    from hybridopt.optimizers import registry
    from hybridopt.testing import Subject

    for plugin in options.plugin:
        load_plugin(plugin)
    given = _options(options.options)
    checks = _chosen(options.only)
    names = list(dict.fromkeys([*(options.optimizer or []), *(registry.names() if options.all else [])]))
    if not names:
        raise ConfigError("Say which optimizer to check: --optimizer NAME, or --all.")
    subjects = [Subject(name, given) for name in names]  # a name that is wrong is met before the first check
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # problems of a few dozen numbers
    try:
        return _show(subjects, checks)
    finally:
        torch.set_num_threads(threads)


def _show(subjects: Sequence[Any], checks: Sequence[Any]) -> int:
    totals: Counter[str] = Counter()
    failures: list[list[str]] = []
    for subject in subjects:
        outcomes = [check.run(subject) for check in checks]
        counts = Counter(outcome.status for outcome in outcomes)
        totals.update(counts)
        failed = [outcome for outcome in outcomes if outcome.failed]
        failures += [[outcome.method, outcome.check, outcome.reason] for outcome in failed]
        if len(subjects) == 1:
            rows = [
                [check.topic, check.name, _SHOWN[outcome.status], outcome.reason]
                for check, outcome in zip(checks, outcomes, strict=True)
            ]
            console.table(["", "check", "", "why"], rows, title=f"{subject}: {_told(counts)}")
        else:
            console.line(f"{subject!s:24} {_told(counts)}")
    if len(subjects) > 1:
        if failures:
            console.table(["optimizer", "check", "", "why"], [[a, b, "FAIL", c] for a, b, c in failures])
        console.line(f"{len(subjects)} optimizers: {_told(totals)}")
    return 1 if totals["fail"] else 0


def _told(counts: Counter[str]) -> str:
    words = [f"{counts['pass']} passed"]
    if counts["fail"]:
        words.append(f"{counts['fail']} FAILED")
    if counts["not applicable"]:
        words.append(f"{counts['not applicable']} not applicable")
    return ", ".join(words)


def _options(text: str) -> dict[str, Any] | None:
    """Reads the options of the command line; None where there are none."""
    import yaml

    from hybridopt.core import ConfigError

    if not text.strip():
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if not isinstance(value, dict):
        raise ConfigError(f"--options takes a mapping, as '{{lr: 0.1, weight_decay: 0.01}}', not {text!r}.")
    return value


def _chosen(words: Sequence[str]) -> list[Any]:
    from hybridopt.core import ConfigError
    from hybridopt.testing import CHECKS

    chosen = [
        check
        for check in CHECKS
        if not words or any(word.replace("_", " ") in f"{check.topic} {check.name}" for word in words)
    ]
    if not chosen:
        known = ", ".join(dict.fromkeys(check.topic for check in CHECKS))
        raise ConfigError(f"No check has {' or '.join(words)} in its name. Topics: {known}.")
    return chosen
