"""Errors of the library: one paragraph each, saying what is wrong and what mends it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HybridoptError(Exception):
    """Base class of every error that this package raises on purpose.

    The command line prints the message of such an error and ends with exit code 2; anything else is a bug and
    keeps its trace.
    """


class ConfigError(HybridoptError, ValueError):
    """An option has an unknown name, a wrong type or a value out of its range."""


class UnknownNameError(ConfigError, LookupError):
    """A name is not in the registry that it was looked up in."""


class CombinationError(ConfigError):
    """Two parts were put together that do not meet each other's needs."""


class ObjectiveError(HybridoptError, ValueError):
    """The objective cannot be evaluated: not a scalar, no graph, no parameters, or not an objective at all."""


class NonFiniteError(HybridoptError, ArithmeticError):
    """The objective is NaN or infinite where a finite value is needed to go on."""


class StaleOperatorError(HybridoptError, RuntimeError):
    """A curvature operator was used after the parameters left the point that it was built at."""


class DataError(HybridoptError, OSError):
    """A data set is missing, damaged, empty or cannot be fetched."""


class StoreError(HybridoptError, OSError):
    """A run directory cannot be read, written or locked."""


class DeviceError(HybridoptError, RuntimeError):
    """A device was asked for that this machine does not have."""


def suggest(word: str, candidates: Iterable[str]) -> str:
    """Returns the end of an error message that proposes the nearest known name.

    Args:
        word: What the user wrote.
        candidates: The names that exist.

    Returns:
        ``" Did you mean 'x'?"``, or an empty string when nothing is near.

    Example:
        >>> suggest("dampin", ["damping", "lr"])
        " Did you mean 'damping'?"
        >>> suggest("L-BFGS", ["lbfgs", "sgd"])
        " Did you mean 'lbfgs'?"
    """
    plain = {str(name).casefold().replace("-", "_"): name for name in candidates}
    typed = str(word).casefold().replace("-", "_")
    near = difflib.get_close_matches(typed, list(plain), n=3, cutoff=0.6)
    near.sort(key=lambda name: sorted(name) != sorted(typed))  # swapped letters are the likeliest slip
    return f" Did you mean '{plain[near[0]]}'?" if near else ""
