"""The shipped conformance suite over every registered optimizer and the adapters."""

from __future__ import annotations

import pytest

from hybridopt.testing import CHECKS, Check, NotApplicable
from tests.optimizers.catalogue import METHODS, Method, each

# What a method may refuse with a reason; a refusal anywhere else is a failure.
REFUSED = {("kbfgs", "micro batches are the batch")}


@each(METHODS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name.replace(" ", "_"))
def test_conformance(method: Method, check: Check) -> None:
    try:
        check(method.name, method.options)
    except NotApplicable as reason:
        if str(reason).startswith("refused: ") and (method.name, check.name) not in REFUSED:
            pytest.fail(str(reason))
        pytest.skip(str(reason))
