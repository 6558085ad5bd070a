"""Models, parts of models, losses and functions from `torch.compile`: values compiled, curvature as plain torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho
from hybridopt.core import ObjectiveError
from hybridopt.testing.problems import training


@pytest.fixture(autouse=True)
def _forget_what_was_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


BACKENDS = [
    "aot_eager",
    pytest.param(
        "inductor",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
        ],
    ),
]


def net() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.4), nn.Linear(5, 3)).double()


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    return torch.randn(6, 4, dtype=torch.float64), torch.randint(0, 3, (6,))


def whole(model: nn.Sequential) -> tuple[nn.Module, Callable]:
    return torch.compile(model, backend="aot_eager"), nn.functional.cross_entropy


def in_place(model: nn.Sequential) -> tuple[nn.Module, Callable]:
    model.compile(backend="aot_eager")
    return model, nn.functional.cross_entropy


def one_layer(model: nn.Sequential) -> tuple[nn.Module, Callable]:
    model[0] = torch.compile(model[0], backend="aot_eager")
    return model, nn.functional.cross_entropy


def loss_only(model: nn.Sequential) -> tuple[nn.Module, Callable]:
    return model, torch.compile(nn.functional.cross_entropy, backend="aot_eager")


@pytest.mark.parametrize("name", ["adam", "lbfgs", "newton_cg", "gauss_newton", "kfac"])
def test_steps_are_those_on_the_plain_model(name: str) -> None:
    problem, twin = training(), training()
    model = torch.compile(problem.model, backend="aot_eager")
    objective = ho.Objective(model, nn.functional.cross_entropy, problem.inputs, problem.targets, key="all")
    optimizer, other = ho.create(name, model.parameters()), ho.create(name, twin.model.parameters())
    for _ in range(3):
        assert float(optimizer.step(objective)) == pytest.approx(float(other.step(twin.objective)), rel=1e-5)
    assert torch.allclose(objective.position(), twin.objective.position(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_code_sees_the_trial_parameters(backend: str) -> None:
    model, (inputs, targets) = net().eval(), batch()
    compiled = ho.Objective(torch.compile(model, backend=backend), nn.functional.cross_entropy, inputs, targets)
    plain = ho.Objective(net().eval(), nn.functional.cross_entropy, inputs, targets)
    for rows in (6, 4, 3):  # the third size is compiled for any
        now, reference = (o.with_batch(inputs[:rows], targets[:rows]) for o in (compiled, plain))
        x = plain.position() + 0.1 * torch.randn_like(plain.position())
        assert now.value(x) == pytest.approx(reference.value(x), rel=1e-12)
        value, gradient = now.value_and_grad(x)
        assert value == pytest.approx(reference.value(x), rel=1e-12)
        assert torch.allclose(gradient, reference.value_and_grad(x)[1], rtol=1e-10, atol=1e-14)
        for objective in (compiled, plain):
            objective.commit(x)
        assert torch.allclose(now(), reference(), rtol=1e-12)


@pytest.mark.parametrize("compile_it", [whole, in_place, one_layer, loss_only])
def test_curvature_is_that_of_the_plain_model(compile_it: Callable) -> None:
    inputs, targets = batch()
    plain = ho.Objective(net(), nn.functional.cross_entropy, inputs, targets)
    model, loss_fn = compile_it(net())
    compiled = ho.Objective(model, loss_fn, inputs, targets)
    v = torch.linspace(-1, 1, plain.space.n, dtype=torch.float64)
    products = []
    for objective in (plain, compiled):
        torch.manual_seed(6)
        with objective.at() as point:
            products.append((point.gradient, point.hessian() @ v, point.gauss_newton() @ v))
    for ours, reference in zip(*products, strict=True):
        assert torch.allclose(ours, reference, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_of_a_step_draws_the_same_random_numbers(backend: str) -> None:
    # Inductor's dropout draws others than torch's, so a point and the trials after it must not be mixed.
    model, (inputs, targets) = net(), batch()
    objective = ho.Objective(torch.compile(model, backend=backend), nn.functional.cross_entropy, inputs, targets)
    x = objective.position()
    first = objective.value(x)
    assert objective.value_and_grad(x)[0] == pytest.approx(first, rel=1e-12)
    assert not objective.repeatable
    for _ in range(2):
        objective.renew()
        with objective.at() as point:
            assert objective.value(x) == pytest.approx(point.value, rel=1e-12)
            assert objective.value_and_grad()[0] == pytest.approx(point.value, rel=1e-12)


def test_first_order_steps_stay_compiled_after_curvature() -> None:
    runs = 0

    def count(graph: nn.Module, example: list[Tensor]) -> Callable:
        def run(*arguments: Tensor) -> Tensor:
            nonlocal runs
            runs += 1
            return graph(*arguments)

        return run

    model, (inputs, targets) = net(), batch()
    objective = ho.Objective(torch.compile(model, backend=count), nn.functional.cross_entropy, inputs, targets)
    objective.at().release()
    assert runs == 0
    ho.create("adam", model.parameters()).step(objective)
    assert runs == 1


def test_a_compiled_function_is_minimized() -> None:
    @torch.compile(backend="aot_eager")
    def rosenbrock(x: Tensor) -> Tensor:
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    x0 = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    result = ho.minimize(rosenbrock, x0, method="trust_newton_cg")
    assert result.status == "converged"
    assert torch.allclose(result.x, torch.ones(2, dtype=torch.float64), atol=1e-5)


def test_what_was_compiled_ahead_says_what_mends_it() -> None:
    functorch = pytest.importorskip("functorch.compile")
    model, (inputs, targets) = net().eval(), batch()
    ahead = functorch.aot_module(model, functorch.nop)
    objective = ho.Objective(ahead, nn.functional.cross_entropy, inputs, targets)
    optimizer = ho.create("newton_cg", model.parameters())
    before = objective.position()
    with pytest.raises(ObjectiveError, match=r"compiled ahead.*as it was before") as error:
        optimizer.step(objective)
    assert "\n" not in str(error.value)
    assert torch.equal(objective.position(), before)
    plain = objective.with_batch(inputs, targets)
    start = float(optimizer.step(ho.Objective(model, nn.functional.cross_entropy, inputs, targets)))
    assert plain.value() < start
