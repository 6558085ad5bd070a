"""A saved state is taken over where it fits; elsewhere one sentence says what differs, and nothing is taken over."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import hybridopt as ho
from hybridopt.core import ConfigError
from tests.optimizers.catalogue import TORCHS, Method, assert_same_state, each, run, training


def conv() -> nn.Module:
    """A kernel that is a matrix or a tensor, and a long side."""
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(3, 3))


def saved(name: str, model: Any = "plain", steps: int = 3, **options: Any) -> dict[str, Any]:
    """The state of an optimizer after some steps."""
    problem = training(model)
    optimizer = ho.create(name, problem.model.parameters(), **options)
    run(optimizer, problem, range(steps), full=True)
    return optimizer.state_dict()


def refused(optimizer: Any, state: Any, message: str) -> None:
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ConfigError, match=message) as error:
        optimizer.load_state_dict(state)
    assert "\n" not in str(error.value)
    assert_same_state(optimizer.state_dict(), before)


def test_another_model_is_named_by_the_parameter_that_differs() -> None:
    state = saved("lbfgs")
    other = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    refused(
        ho.create("lbfgs", other.named_parameters()),
        state,
        r"another model, whose parameter 2 \(2\.weight\) has shape \(3, 5\), here \(2, 5\)\. Build the model",
    )


def test_other_groups() -> None:
    layers = training().model
    groups = [{"params": layers[0].parameters()}, {"params": layers[2].parameters()}]
    refused(ho.create("newton_cg", groups), saved("newton_cg"), r"param groups of 4 parameters, the optimizer of 2, 2")


@pytest.mark.parametrize(
    ("name", "then", "now"),
    [
        ("shampoo", {"block_size": 2}, {}),
        ("shampoo", {"kernels": "tensor"}, {}),
        ("shampoo", {"block_size": 2, "large": "diagonal"}, {"block_size": 2}),
        ("soap", {"kernels": "tensor"}, {}),
        ("kbfgs", {}, {"output": "lbfgs"}),
    ],
)
def test_options_that_shape_the_memory(name: str, then: dict[str, Any], now: dict[str, Any]) -> None:
    state = saved(name, conv if "kernels" in then else "plain", **then)
    optimizer = ho.create(name, training(conv if "kernels" in then else "plain").model.parameters(), **now)
    refused(optimizer, state, rf"saved with {next(reversed(then or now))}=.*Create it with")


@pytest.mark.parametrize(
    ("name", "then", "now"), [("lbfgs", 10, 2), ("lbfgs", 2, 10), ("lsr1", 10, 2), ("lsr1", 2, 10)]
)
def test_another_length_of_memory_is_taken_over(name: str, then: int, now: int) -> None:
    state = saved(name, steps=5, history=then)
    problem = training()
    optimizer = ho.create(name, problem.model.parameters(), history=now)
    optimizer.load_state_dict(state)
    losses = run(optimizer, problem, range(4), full=True)
    assert losses == sorted(losses, reverse=True)


def test_hybrids_have_the_members_that_they_had() -> None:
    state = saved("switch", first="adam", second="lbfgs", at_step=2)
    other = ho.create("switch", training().model.parameters(), first="sgd", second="lbfgs", at_step=2)
    refused(other, state, r"Switch\(SGD, LBFGS\) cannot go on.*Switch\(Adam, LBFGS\) saved it")


def test_what_is_no_state_of_an_optimizer() -> None:
    optimizer = ho.create("adam", training().model.parameters())
    refused(optimizer, {"model": {}, "optimizer": {}}, r"not one with model, optimizer\. Pass the optimizer's part")
    refused(optimizer, [1], r"not list \[1\]\. Pass")
    refused(optimizer, {}, r"not dict \{\}\. Pass")
    refused(optimizer, {"state": {}, "param_groups": 3}, "not one with state, param_groups")
    refused(optimizer, {**optimizer.state_dict(), "param_groups": []}, "param groups of no parameters")
    state = optimizer.state_dict()
    optimizer.load_state_dict({**state, "made_by": "somebody"})  # judged by what is in it
    optimizer.load_state_dict({**state, "made_by": {**state["made_by"], "shapes": []}})


@each(TORCHS)
def test_states_of_bare_torch_and_back(method: Method) -> None:
    problem, twin = training(), training()
    optimizer = method.create(problem.model.parameters())
    run(optimizer, problem, range(3))
    arguments = optimizer._arguments() | dict(optimizer.constant)
    bare = method.cls.torch_class(twin.model.parameters(), **arguments)
    twin.model.load_state_dict(problem.model.state_dict())
    bare.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch would share the tensors
    losses = []
    for step in range(3, 5):
        bare.zero_grad()
        loss = twin.batch(step)()
        loss.backward()
        bare.step()
        losses.append(loss.item())
    back = method.create(twin.model.parameters())
    back.load_state_dict(bare.state_dict())
    found = run(optimizer, problem, range(3, 5))
    assert found == pytest.approx(losses, rel=1e-6)
    assert run(back, twin, range(5, 7)) == pytest.approx(run(optimizer, problem, range(5, 7)), rel=1e-5)


def bare(cls: Any, model: nn.Module) -> dict[str, Any]:
    optimizer = cls(model.parameters(), lr=0.1)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def test_a_state_of_another_of_torchs_methods_or_of_another_model() -> None:
    optimizer = ho.create("sgd", training().model.parameters())
    refused(optimizer, bare(torch.optim.Adam, training().model), "whose param groups have amsgrad, betas")
    optimizer = ho.create("adam", training().model.parameters())
    wide = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    refused(
        optimizer, bare(torch.optim.Adam, wide), r"where exp_avg of parameter 0 has shape \(6, 4\); the parameter's"
    )


def test_a_state_from_before_there_was_a_stamp() -> None:
    state = saved("lbfgs")
    del state["made_by"]
    optimizer = ho.create("lbfgs", training().model.parameters())
    optimizer.load_state_dict(state)
    refused(ho.create("lbfgs", training().model[0].parameters()), state, "param groups of 4 parameters")


def test_another_dtype_is_cast_under_parameters_and_refused_elsewhere() -> None:
    double = training(dtype=torch.float64)
    optimizer = ho.create("lbfgs", double.model.parameters())
    refused(optimizer, saved("lbfgs"), r"parameter 0 was in float32, here it is in float64.*Convert the model")
    optimizer = ho.create("adam", double.model.parameters())
    optimizer.load_state_dict(saved("adam"))
    assert {p.dtype for p in double.model.parameters()} == {
        optimizer.state[p]["exp_avg"].dtype for p in double.model.parameters()
    }
    run(optimizer, double, range(2))
