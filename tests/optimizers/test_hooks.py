"""torch's optimizer hooks fire once a step, whatever else lives in the process."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tests.optimizers.catalogue import METHODS, Method, each, training


@pytest.fixture(params=["alone", "beside bare torch optimizers"])
def _company(request: pytest.FixtureRequest) -> list[torch.optim.Optimizer]:
    if request.param == "alone":
        return []
    parameter = torch.nn.Parameter(torch.ones(1))
    names = ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "LBFGS"]
    return [getattr(torch.optim, name)([parameter], lr=0.1) for name in names]


@each(METHODS)
@pytest.mark.usefixtures("_company")
def test_step_hooks_fire_once_with_the_objective(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters())
    calls: list[tuple[str, Any]] = []
    optimizer.register_step_pre_hook(lambda _, args, __: calls.append(("pre", args[-1])))
    optimizer.register_step_post_hook(lambda _, args, __: calls.append(("post", args[-1])))
    for count in (1, 2, 3):
        objective = problem.batch(count)
        optimizer.step(objective)
        assert [name for name, _ in calls] == ["pre", "post"] * count
        assert calls[-1][1] is objective


@each([method for method in METHODS if method.family != "hybrid"])
@pytest.mark.usefixtures("_company")
def test_global_hooks_fire_once(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters())
    calls: Counter[str] = Counter()
    handles = [
        register_optimizer_step_pre_hook(lambda *_: calls.update(["pre"])),
        register_optimizer_step_post_hook(lambda *_: calls.update(["post"])),
    ]
    try:
        optimizer.step(problem.objective)
    finally:
        for handle in handles:
            handle.remove()
    assert calls == {"pre": 1, "post": 1}


@each(METHODS)
def test_state_dict_hooks_fire_once(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters())
    calls: Counter[str] = Counter()
    optimizer.register_state_dict_post_hook(lambda *_: calls.update(["save"]))
    optimizer.register_load_state_dict_post_hook(lambda *_: calls.update(["load"]))
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == {"save": 1, "load": 1}
