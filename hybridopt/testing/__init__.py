"""The conformance suite: what is asked of every optimizer, this library's or yours.

From the command line, ``hybridopt doctor --optimizer my_package.module:MyMethod``; from Python,
``hybridopt.testing.check(MyMethod)``; in a test suite::

    import pytest
    from hybridopt.testing import CHECKS

    @pytest.mark.parametrize("check", CHECKS, ids=str)
    def test_conformance(check):
        check(MyMethod, {"lr": 0.1})

A check that has no meaning for a method is shown as skipped, with the reason. Nothing here needs pytest.
"""

from hybridopt.testing.outcome import Check, Failure, NotApplicable, Outcome, conformance, only_if, require
from hybridopt.testing.settings import SETTINGS
from hybridopt.testing.subject import Subject
from hybridopt.testing.suite import CHECKS, check

__all__ = [
    "CHECKS",
    "SETTINGS",
    "Check",
    "Failure",
    "NotApplicable",
    "Outcome",
    "Subject",
    "check",
    "conformance",
    "only_if",
    "require",
]
