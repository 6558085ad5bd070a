"""What a check is, and what comes out of it."""

from __future__ import annotations

import random
import time
import traceback
import unittest
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybridopt.core import CombinationError

if TYPE_CHECKING:
    from hybridopt.testing.subject import Subject

PASS = "pass"
FAIL = "fail"
NOT_APPLICABLE = "not applicable"


class Failure(AssertionError):
    """A check that an optimizer does not pass."""


class NotApplicable(unittest.SkipTest):
    """A check that has no meaning for an optimizer; test runners show it as skipped, with the reason."""


@dataclass(frozen=True)
class Outcome:
    """What came out of one check of one optimizer.

    Attributes:
        method: The optimizer's name.
        check: The check's name.
        status: ``"pass"``, ``"fail"`` or ``"not applicable"``.
        reason: Why, in one line; empty for a pass.
        seconds: How long it took.
    """

    method: str
    check: str
    status: str
    reason: str = ""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether it is a failure."""
        return self.status == FAIL


@dataclass(frozen=True)
class Check:
    """One thing that is asked of every optimizer.

    Calling it raises `Failure` or `NotApplicable`, as tests want it; `run` returns an `Outcome` and raises nothing.

    Attributes:
        name: In words.
        topic: What it belongs to, e.g. ``"state"``.
        body: Does the work, given the optimizer.
    """

    name: str
    topic: str
    body: Callable[[Subject], None]

    def __call__(self, method: Any, options: dict[str, Any] | None = None) -> None:
        """Checks one optimizer.

        Args:
            method: A name, a class, or a `Subject`.
            options: Its options, unless it is a `Subject`; None for those of `hybridopt.testing.SETTINGS`.

        Raises:
            NotApplicable: If the check has no meaning for it, or it refuses the problem in clear words.
        """
        import torch

        from hybridopt.testing.subject import Subject

        subject = method if isinstance(method, Subject) else Subject(method, options)
        state = random.getstate()
        try:
            with torch.random.fork_rng(devices=[]):
                self.body(subject)
        except CombinationError as refusal:
            raise NotApplicable(f"refused: {refusal}") from refusal
        finally:
            random.setstate(state)

    def run(self, method: Any, options: dict[str, Any] | None = None) -> Outcome:
        """Checks one optimizer and tells what came out, whatever it was.

        Args:
            method: As for calling.
            options: As for calling.
        """
        from hybridopt.testing.subject import Subject

        subject = method if isinstance(method, Subject) else Subject(method, options)
        start = time.perf_counter()
        status, reason = PASS, ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self(subject)
            except NotApplicable as error:
                status, reason = NOT_APPLICABLE, str(error)
            except Failure as error:
                broken = isinstance(error.__cause__, Exception) and not isinstance(error.__cause__, Failure)
                status, reason = FAIL, f"{error}{_place(error.__cause__) if broken else ''}"
            except Exception as error:
                status, reason = FAIL, f"{type(error).__name__}: {error}{_place(error)}"
        return Outcome(str(subject), self.name, status, " ".join(reason.split()), time.perf_counter() - start)

    def __str__(self) -> str:
        return self.name


def conformance(topic: str) -> Callable[[Callable[[Subject], None]], Check]:
    """Returns a decorator that makes a check of a function; its name, with spaces, is that of the check.

    Args:
        topic: What the check belongs to.
    """

    def make(body: Callable[[Subject], None]) -> Check:
        return Check(body.__name__.strip("_").replace("_", " "), topic, body)

    return make


def require(condition: Any, reason: str) -> None:
    """Ends a check as failed unless a condition holds.

    Args:
        condition: Whether all is well.
        reason: What is wrong, in one sentence with figures.

    Raises:
        Failure: If it does not hold.
    """
    if not condition:
        raise Failure(reason)


def only_if(condition: Any, reason: str) -> None:
    """Ends a check as not applicable unless a condition holds.

    Args:
        condition: Whether the check has a meaning.
        reason: Why not.

    Raises:
        NotApplicable: If it does not hold.
    """
    if not condition:
        raise NotApplicable(reason)


def _place(error: BaseException | None) -> str:
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
