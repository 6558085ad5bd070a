"""Models from `torch.compile`: gradients through any backend; curvature through those that keep torch's own graph."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import hybridopt as ho
from hybridopt.core import ObjectiveError
from hybridopt.testing.problems import training


@pytest.fixture(autouse=True)
def _forget_what_was_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(backend: str) -> tuple[nn.Module, ho.Objective]:
    problem = training()
    model = torch.compile(problem.model, backend=backend)
    return model, ho.Objective(model, nn.functional.cross_entropy, problem.inputs, problem.targets, key="all")


@pytest.mark.parametrize(("name", "backend"), [("lbfgs", "aot_eager"), ("newton_cg", "eager")])
def test_steps_are_those_on_the_plain_model(name: str, backend: str) -> None:
    model, objective = compiled(backend)
    twin = training()
    optimizer, other = ho.create(name, model.parameters()), ho.create(name, twin.model.parameters())
    for _ in range(3):
        assert float(optimizer.step(objective)) == pytest.approx(float(other.step(twin.objective)), rel=1e-5)
    assert torch.allclose(objective.position(), twin.objective.position(), rtol=1e-3, atol=1e-5)


def test_curvature_says_what_mends_it() -> None:
    model, objective = compiled("aot_eager")
    before = objective.position()
    optimizer = ho.create("newton_cg", model.parameters())
    with pytest.raises(ObjectiveError, match=r"torch\.compile has no second.*_orig_mod.*backend='eager'") as error:
        optimizer.step(objective)
    assert "\n" not in str(error.value)
    assert torch.equal(objective.position(), before)
    plain = ho.Objective(model._orig_mod, nn.functional.cross_entropy, objective.inputs, objective.targets)
    start = float(optimizer.step(plain))
    assert objective.value() < start
