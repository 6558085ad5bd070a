"""The error classes can be caught as what they are, and names are suggested when near."""

from __future__ import annotations

import inspect

import pytest

from hybridopt import core
from hybridopt.core import errors, suggest


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (core.ConfigError, ValueError),
        (core.UnknownNameError, (core.ConfigError, LookupError)),
        (core.CombinationError, core.ConfigError),
        (core.ObjectiveError, ValueError),
        (core.NonFiniteError, ArithmeticError),
        (core.StaleOperatorError, RuntimeError),
        (core.DataError, OSError),
        (core.StoreError, OSError),
        (core.DeviceError, RuntimeError),
    ],
)
def test_builtin_families(error, bases):
    for base in bases if isinstance(bases, tuple) else (bases,):
        assert issubclass(error, base)


def test_one_base_for_all():
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, Exception)]
    assert len(classes) >= 10
    for cls in classes:
        assert issubclass(cls, core.HybridoptError)
        assert str(cls("one paragraph")) == "one paragraph"
        assert cls.__name__ in core.__all__


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("dampin", " Did you mean 'damping'?"),
        ("newton-cg", " Did you mean 'newton_cg'?"),
        ("Newton-CG", " Did you mean 'newton_cg'?"),
        ("LR", " Did you mean 'lr'?"),
        ("momentun", " Did you mean 'momentum'?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_suggestions(word, wanted):
    assert suggest(word, ["lr", "damping", "newton_cg", "momentum"]) == wanted


def test_suggestions_from_any_iterable():
    assert suggest("b", iter([])) == ""
    assert suggest("lrr", (name for name in ["lr"])) == " Did you mean 'lr'?"
    assert suggest("adma", ["adamax", "adam", "adamw"]) == " Did you mean 'adam'?"
    assert suggest(3, ["30"]) == " Did you mean '30'?"  # a number typed for a name
