"""What the structured methods share: refused steps leave no trace, clipping, decay, autocast, dtypes, few reads."""

from __future__ import annotations

import copy
import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho
from tests.optimizers.catalogue import Method, assert_same_state, each, flat_state, function, names, run, training

STRUCTURED = names("muon", "shampoo", "soap", "adahessian", "sophia", "kbfgs")
DIRECT = [method for method in STRUCTURED if method.name != "kbfgs"]


@each(STRUCTURED)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0])
def test_a_refused_step_leaves_parameters_and_state_as_they_were(method: Method, bad: float) -> None:
    problem = training(dtype=torch.float64)
    optimizer = method.create(problem.model.parameters())
    run(optimizer, problem, range(6))
    before, state = problem.parameters(), copy.deepcopy(optimizer.state_dict())
    loss_fn = problem.objective.loss_fn
    objective = ho.Objective(problem.model, lambda o, t: loss_fn(o, t) * bad, problem.inputs, problem.targets)
    optimizer.step(objective)
    assert optimizer.report.accepted is False
    assert optimizer.report.status == ("zero_gradient" if bad == 0 else "non_finite")
    assert optimizer.report.step_norm == 0.0
    for parameter, was in zip(problem.model.parameters(), before, strict=True):
        assert torch.equal(parameter, was)
    after = optimizer.state_dict()
    if bad == 0:  # an estimate that was due has been drawn for
        for tree in (state, after):
            tree["state"].get("memory", {}).pop("random", None)
    assert_same_state(after, state)
    run(optimizer, problem, range(6, 8))
    assert optimizer.report.accepted is True
    assert math.isfinite(problem.objective.value())


@each(DIRECT)
def test_clipping_is_that_of_the_gradient(method: Method) -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    optimizer = method.create(problem.model.parameters(), clip_norm=0.05, clip_value=0.02)
    optimizer.step(problem.objective)
    twin.objective().backward()
    assert max(float(p.grad.abs().max()) for p in twin.model.parameters()) > 0.02
    nn.utils.clip_grad_value_(twin.model.parameters(), 0.02)
    length = nn.utils.clip_grad_norm_(twin.model.parameters(), 0.05)
    assert length > 0.05
    for mine, other in zip(problem.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-12)
    assert optimizer.report.grad_norm == pytest.approx(0.05, rel=1e-4)


def test_embeddings_with_sparse_gradients_take_the_steps_of_dense_ones() -> None:
    ends = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(6, 4, sparse=sparse), nn.Linear(4, 3))
        objective = ho.Objective(model, nn.functional.cross_entropy, torch.tensor([0, 2, 2]), torch.tensor([0, 1, 2]))
        optimizer = ho.create("muon", model.parameters())
        optimizer.step(objective)
        optimizer.step(objective)
        ends.append([parameter.detach().clone() for parameter in model.parameters()])
    for mine, other in zip(*ends, strict=True):
        torch.testing.assert_close(mine, other)


# Gradients of low rank leave SOAP's basis undetermined in their null space, where rounding decides.
@each([method for method in DIRECT if method.name != "soap"])
def test_in_micro_batches_the_steps_are_the_same(method: Method) -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    optimizer, other = (method.create(p.model.parameters()) for p in (problem, twin))
    for _ in range(3):
        optimizer.step(problem.objective)
        other.step(twin.objective.in_micro_batches(7))
    torch.testing.assert_close(twin.objective.position(), problem.objective.position(), rtol=1e-6, atol=1e-8)


@each(DIRECT)
def test_weight_decay_is_decoupled(method: Method) -> None:
    ends = []
    for strength in (0.0, 0.5):
        problem = training(dtype=torch.float64)
        optimizer = method.create(problem.model.parameters(), lr=0.01, weight_decay=strength)
        before = problem.parameters()
        losses = run(optimizer, problem, range(1), full=True)
        ends.append(
            [
                p.detach() - was * (1 - 0.01 * strength)
                for p, was in zip(problem.model.parameters(), before, strict=True)
            ]
        )
        assert optimizer.report.loss == pytest.approx(losses[0])
    for index, (plain, decayed) in enumerate(zip(*ends, strict=True)):
        if method.name == "soap" and index % 2 == 0:
            continue  # the first step of a matrix moves nothing, so nothing decays either
        torch.testing.assert_close(plain, decayed, rtol=1e-9, atol=1e-12)


@each(DIRECT)
def test_an_escape_looks_at_the_function_without_the_decoupled_decay(method: Method) -> None:
    # With the decay in the function the origin would be a minimum.
    objective = function(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, [0.0, 0.0])
    optimizer = method.create(objective.model.parameters(), weight_decay=10.0, escape="negative_curvature")
    events = []
    for _ in range(3):
        optimizer.step(objective)
        events += [event["event"] for event in optimizer.report.events]
    assert "escape_jump" in events


@each(STRUCTURED)
def test_a_forward_pass_in_bfloat16_autocast(method: Method) -> None:
    class Half(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x).float()

    problem = training(lambda: Half(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    optimizer = method.create(problem.model.parameters())
    losses = run(optimizer, problem, range(8), full=True)
    assert losses[-1] < losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in problem.model.parameters())


@each(DIRECT)
def test_parameters_in_bfloat16(method: Method) -> None:
    problem = training(dtype=torch.bfloat16)
    optimizer = method.create(problem.model.parameters(), lr=0.02)
    losses = run(optimizer, problem, range(12), full=True)
    assert losses[-1] < losses[0]


@each(STRUCTURED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_state_of_a_parameter_is_in_its_dtype(method: Method, dtype: torch.dtype) -> None:
    problem = training(dtype=dtype)
    optimizer = method.create(problem.model.parameters())
    run(optimizer, problem, range(4))
    for parameter in problem.model.parameters():
        for path, leaf in flat_state(dict(optimizer.state[parameter])).items():
            if isinstance(leaf, Tensor) and path != "/step":
                assert leaf.dtype == dtype, path
        for path, leaf in flat_state(dict(optimizer.state[parameter])).items():
            assert isinstance(leaf, Tensor | int | type(None)), path


@each(names("muon", "sophia", "adahessian"))
def test_a_step_waits_for_one_read_of_the_device(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = training()
    optimizer = Method(method.name, {"every": 10} if method.name != "muon" else {}).create(problem.model.parameters())
    run(optimizer, problem, range(1))
    counts: Counter[str] = Counter()
    for name in ("item", "__float__", "__bool__", "__int__", "__index__", "tolist", "numpy"):
        original = getattr(Tensor, name)

        def counted(self: Tensor, *args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            counts.update([_name])
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, counted)
    run_one = problem.batch(1)
    optimizer.step(run_one)
    # torch's AdamW reads its step counters, which lie on the CPU, once a parameter.
    counts.pop("item", None)
    assert counts == {"tolist": 1}
