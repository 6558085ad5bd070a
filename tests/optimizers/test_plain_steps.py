"""A first-order step calls the model as it is: no packing of vectors, no guard around the forward, no walk over it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from torch import nn
from torch.overrides import TorchFunctionMode

from hybridopt.objective.parameters import ParameterSpace, Slots
from tests.optimizers.catalogue import FIRST_ORDER, Method, each, names, training

WORK = {
    ParameterSpace: ("pack", "read", "write"),
    Slots: ("__init__", "hold", "cloned_buffers"),
    TorchFunctionMode: ("__enter__",),
    nn.Module: ("modules", "named_modules", "parameters", "named_parameters", "buffers", "named_buffers"),
}
"""What methods need that evaluate the function more than once, or take products: each costs some percent of a step."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts it."""
    counts: Counter[str] = Counter()

    def count(cls: type, name: str) -> None:
        original = getattr(cls, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            counts.update([f"{cls.__name__}.{name}"])
            return original(*args, **kwargs)

        monkeypatch.setattr(cls, name, counted)

    for cls, attributes in WORK.items():
        for name in attributes:
            count(cls, name)
    return counts


# These two evaluate trial points.
@each([method for method in FIRST_ORDER if method.name not in ("sls", "sps")])
def test_a_first_order_step_is_a_call_of_the_model(method: Method, seen: Counter[str]) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters())
    optimizer.step(problem.batch(0))
    objective = problem.batch(1)
    seen.clear()
    optimizer.step(objective)
    assert seen == {}


def test_a_newton_step_is_seen(seen: Counter[str]) -> None:
    problem = training()
    (method,) = names("newton_cg")
    method.create(problem.model.parameters()).step(problem.objective)
    assert {name.partition(".")[0] for name in seen} >= {"ParameterSpace", "Slots", "TorchFunctionMode"}
