"""All checks, and running them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hybridopt.testing import accounting, declared, descent, parameters, safety, state
from hybridopt.testing.outcome import Check, Outcome
from hybridopt.testing.subject import Subject

CHECKS: tuple[Check, ...] = (
    *descent.CHECKS,
    *state.CHECKS,
    *parameters.CHECKS,
    *safety.CHECKS,
    *accounting.CHECKS,
    *declared.CHECKS,
)
"""Every check, for parametrized tests: ``@pytest.mark.parametrize("check", CHECKS, ids=str)``."""


def check(
    method: str | type, options: Mapping[str, Any] | None = None, *, checks: Iterable[Check] = CHECKS
) -> list[Outcome]:
    """Checks an optimizer.

    Args:
        method: A registered name, ``torch:AdamW``, ``package.module:Class``, ``path/file.py:Class``, or a class.
        options: Its options in all checks; None for those of `SETTINGS`, else its defaults.
        checks: Which.

    Returns:
        One outcome for each check, in order.

    Raises:
        ConfigError: If it is neither a name nor an optimizer's class.
        UnknownNameError: If there is no such optimizer.

    Example:
        >>> [outcome.check for outcome in check("sgd") if outcome.failed]
        []
    """
    subject = Subject(method, options)
    return [each.run(subject) for each in checks]
