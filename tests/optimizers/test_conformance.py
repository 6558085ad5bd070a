"""The shipped conformance suite over every registered optimizer and the adapters."""

from __future__ import annotations

import pytest

from hybridopt.testing import CHECKS, Check
from tests.optimizers.catalogue import METHODS, Method, each


@each(METHODS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name.replace(" ", "_"))
def test_conformance(method: Method, check: Check) -> None:
    check(method.name, method.options)
