"""Nothing that an optimizer asks is seen from outside: parameters, buffers, generator, p.grad and modes stay."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from hybridopt.objective import Objective
from tests.cases import Case, cases
from tests.curvature.reference import objective_of


def products(objective: Objective) -> None:
    point = objective.at()
    point.hessian() @ torch.ones(objective.space.n, dtype=objective.space.dtype)
    if objective.loss_fn is not None:
        point.gauss_newton() @ torch.ones(objective.space.n, dtype=objective.space.dtype)


ASKING = pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda o: o.value(), id="value"),
        pytest.param(lambda o: o.value(1.01 * o.position()), id="value-trial"),
        pytest.param(lambda o: o.value_and_grad(), id="gradient"),
        pytest.param(lambda o: o.value_and_grad(1.01 * o.position()), id="gradient-trial"),
        pytest.param(products, id="products"),
    ],
)


def snapshot(objective: Objective) -> dict[str, Any]:
    """All that a user may look at, with identities and version counters."""
    model = objective.model
    return {
        "parameters": [(n, id(p), p._version, p.data_ptr(), p.detach().clone()) for n, p in model.named_parameters()],
        "buffers": [(n, id(b), b._version, b.clone()) for n, b in model.named_buffers()],
        "grads": [id(p.grad) for p in model.parameters()],
        "requires": [p.requires_grad for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "flat_weights": [
            # The old weight_norm computes some anew in every forward pass.
            [id(w) if isinstance(w, torch.nn.Parameter) else None for w in getattr(m, "_flat_weights", [])]
            for m in model.modules()
        ],
        "tables": [sorted(m._parameters) + sorted(m._buffers) for m in model.modules()],
    }


def same(before: Any, after: Any) -> bool:
    if isinstance(before, torch.Tensor):
        return torch.equal(before, after)
    if isinstance(before, list | tuple):
        return len(before) == len(after) and all(map(same, before, after))
    return before == after


@ASKING
@cases()
def test_the_model_stays(case: Case, ask):
    objective = objective_of(case)
    for parameter in objective.model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    before = snapshot(objective)
    ask(objective)
    after = snapshot(objective)
    for what in before:
        assert same(before[what], after[what]), what
    assert all((p.grad == 7).all() for p in objective.model.parameters())


@ASKING
@cases()
def test_the_generator_stands_as_after_one_forward(case: Case, ask):
    objective = objective_of(case)
    state = torch.get_rng_state()
    objective()
    after_one = torch.get_rng_state()
    assert torch.equal(state, after_one) is not case.random, "the case's flag is wrong"

    torch.set_rng_state(state)
    ask(objective)
    assert torch.equal(torch.get_rng_state(), after_one), "after the first evaluation"
    torch.manual_seed(99)
    elsewhere = torch.get_rng_state()
    ask(objective)
    assert torch.equal(torch.get_rng_state(), elsewhere), "after a later evaluation"


@cases("mlp_tanh", "attention_fused", "lstm", "weight_norm")
def test_switches_of_torch_stay(case: Case):
    def switches() -> list[Any]:
        return [
            torch.backends.cudnn.enabled,
            torch.backends.mkldnn.enabled,
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.is_grad_enabled(),
            torch.backends.cuda.matmul.fp32_precision,
        ]

    objective = objective_of(case)
    before = switches()
    products(objective)
    assert switches() == before


@cases("mlp_tanh", "tied", "shared_module", "listed", "lstm", "weight_norm", "parametrized", "batch_norm_train")
def test_the_model_still_works_afterwards(case: Case):
    objective = objective_of(case)
    twin = copy.deepcopy(objective.model)
    products(objective)
    objective.value(2 * objective.position())
    objective.value_and_grad(2 * objective.position())
    assert copy.deepcopy(objective.model).state_dict().keys() == twin.state_dict().keys()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (objective.model, twin)]
    for model, optimizer in zip((objective.model, twin), optimizers, strict=True):
        for _ in range(2):
            optimizer.zero_grad()
            Objective(model, objective.loss_fn, objective.inputs, objective.targets)().backward()
            optimizer.step()
    for (name, a), b in zip(objective.model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
