"""First-order methods are torch's own: the same parameters, state and random numbers, to the last bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import hybridopt as ho
from tests.optimizers.catalogue import FUSED, MODELS, TORCHS, assert_same_state, training

# Our name, torch's class, and what our name stands for.
TWINS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adagrad": (torch.optim.Adagrad, {}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adam": (torch.optim.Adam, {}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "adamw": (torch.optim.AdamW, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "adamax": (torch.optim.Adamax, {}),
    "nadam": (torch.optim.NAdam, {}),
    "radam": (torch.optim.RAdam, {}),
    "adafactor": (torch.optim.Adafactor, {}),
}
STEPS = 5


def compare(
    name: str,
    model: str = "plain",
    dtype: torch.dtype = torch.float32,
    *,
    ours: dict[str, Any] | None = None,
    theirs: dict[str, Any] | None = None,
    clip: Any = None,
    groups: Any = None,
) -> None:
    """Steps both optimizers side by side; `theirs` are options that torch's constructor spells in another way."""
    cls, fixed = TWINS[name]
    ours = {"lr": 0.05, **(ours or {})}
    problem, twin = training(model, dtype=dtype), training(model, dtype=dtype)
    groups = groups or (lambda module: module.parameters())
    optimizer = ho.create(name, groups(problem.model), **ours)
    bare = cls(groups(twin.model), **fixed, **(ours if theirs is None else {"lr": 0.05, **theirs}))
    for step in range(STEPS):
        torch.manual_seed(step)
        loss = optimizer.step(problem.batch(step))
        after = torch.get_rng_state()
        torch.manual_seed(step)
        bare.zero_grad()
        wanted = twin.batch(step)()
        wanted.backward()
        if clip is not None:
            clip(list(twin.model.parameters()))
        bare.step()
        assert torch.equal(loss, wanted.detach()), f"loss of step {step}"
        assert not loss.requires_grad
        assert torch.equal(after, torch.get_rng_state()), f"random numbers after step {step}"
        for mine, other in zip(problem.model.parameters(), twin.model.parameters(), strict=True):
            assert torch.equal(mine.grad, other.grad), f"gradient of step {step}"
        assert_same_state(problem.model.state_dict(), twin.model.state_dict())
    assert_same_state(optimizer.state_dict()["state"], bare.state_dict()["state"])


def test_every_first_order_method_has_a_twin_here() -> None:
    assert {method.name for method in TORCHS} == set(TWINS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", TWINS)
def test_the_same_steps_to_the_last_bit(name: str, model: str, dtype: torch.dtype) -> None:
    compare(name, model, dtype)


@pytest.mark.parametrize("name", TWINS)
def test_the_same_weight_decay(name: str) -> None:
    compare(name, ours={"weight_decay": 0.1})


@pytest.mark.parametrize("how", ["foreach", "fused", "loop"])
@pytest.mark.parametrize("name", TWINS)
def test_the_same_in_every_implementation(name: str, how: str) -> None:
    if how == "fused" and name not in map(str, FUSED):
        pytest.skip(f"torch has no fused {name}")
    compare(name, "both", ours={"foreach": False} if how == "loop" else {how: True})


@pytest.mark.parametrize("name", TWINS)
def test_the_same_as_torchs_clipping_by_norm(name: str) -> None:
    norm = nn.utils.clip_grad_norm_
    compare(name, ours={"clip_norm": 0.1}, theirs={}, clip=lambda parameters: norm(parameters, 0.1))


def test_the_same_as_torchs_clipping_by_value() -> None:
    value = nn.utils.clip_grad_value_
    compare("adam", ours={"clip_value": 0.01}, theirs={}, clip=lambda parameters: value(parameters, 0.01))


def test_clipping_by_both_clips_values_first() -> None:
    def both(parameters: list[torch.Tensor]) -> None:
        nn.utils.clip_grad_value_(parameters, 0.05)
        nn.utils.clip_grad_norm_(parameters, 0.1)

    compare("sgd", ours={"clip_value": 0.05, "clip_norm": 0.1}, theirs={}, clip=both)


@pytest.mark.parametrize("name", TWINS)
def test_the_same_with_param_groups(name: str) -> None:
    def groups(module: nn.Module) -> list[dict[str, Any]]:
        return [
            {"params": module[0].parameters(), "lr": 0.01, "weight_decay": 0.3},
            {"params": list(module[2].parameters())},
        ]

    compare(name, groups=groups)


def test_the_same_with_named_parameters_and_group_options_of_torch() -> None:
    def groups(module: nn.Module) -> list[dict[str, Any]]:
        return [
            {"params": list(module[0].named_parameters()), "betas": (0.5, 0.9)},
            {"params": list(module[2].named_parameters()), "eps": 1e-3},
        ]

    compare("adam", groups=groups)


def test_a_group_added_later_is_stepped_too() -> None:
    problem, twin = training(), training()
    optimizer = ho.create("adam", problem.model[0].parameters())
    bare = torch.optim.Adam(twin.model[0].parameters())
    for step in range(4):
        if step == 2:
            optimizer.add_param_group({"params": problem.model[2].parameters(), "lr": 0.1})
            bare.add_param_group({"params": twin.model[2].parameters(), "lr": 0.1})
        optimizer.step(problem.batch(step))
        bare.zero_grad()
        twin.batch(step)().backward()
        bare.step()
    assert_same_state(problem.model.state_dict(), twin.model.state_dict())


def test_a_state_of_torchs_own_class_is_taken_over() -> None:
    problem, twin = training(), training()
    bare = torch.optim.Adam(twin.model.parameters(), lr=0.05)
    for step in range(3):
        bare.zero_grad()
        twin.batch(step)().backward()
        bare.step()
    optimizer = ho.create("adam", problem.model.parameters(), lr=1.0)
    optimizer.load_state_dict(copy.deepcopy(bare.state_dict()))
    problem.model.load_state_dict(twin.model.state_dict())
    optimizer.step(problem.batch(3))
    bare.zero_grad()
    twin.batch(3)().backward()
    bare.step()
    assert_same_state(problem.model.state_dict(), twin.model.state_dict())


@pytest.mark.parametrize("path", ["torch:AdamW", "torch:NAdam", "torch:Adadelta", "torch:LBFGS"])
def test_an_adapter_steps_as_the_class_it_adapts(path: str) -> None:
    options = {"lr": 0.1, "max_iter": 4, "line_search_fn": "strong_wolfe"} if path == "torch:LBFGS" else {"lr": 0.05}
    problem, twin = training(), training()
    optimizer = ho.create(path, problem.model.parameters(), **options)
    bare = getattr(torch.optim, path.removeprefix("torch:"))(twin.model.parameters(), **options)

    def closure() -> torch.Tensor:
        bare.zero_grad()
        loss = twin.objective()
        loss.backward()
        return loss

    for _ in range(STEPS):
        assert torch.equal(optimizer.step(problem.objective), bare.step(closure).detach())
    assert_same_state(problem.model.state_dict(), twin.model.state_dict())


def test_parameters_without_a_gradient_are_left_alone_as_by_torch() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    problem = training(Half)
    before = problem.model.unused.weight.detach().clone()
    optimizer = ho.create("adamw", problem.model.parameters(), weight_decay=0.5)
    for step in range(3):
        optimizer.step(problem.batch(step))
    assert torch.equal(problem.model.unused.weight, before)
    assert problem.model.unused.weight.grad is None
