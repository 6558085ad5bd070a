"""What users rely on, written as they write it: every call, option and field of the library's own interface."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

import hybridopt as ho
from hybridopt.core import ConfigError
from hybridopt.optimizers import registry
from tests.plugins import forgotten

COUNTS = ("forward", "gradient", "hvp", "ggnvp")


@pytest.fixture
def objective() -> ho.Objective:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    inputs, targets = torch.randn(30, 4, dtype=torch.float64), torch.randint(0, 3, (30,))
    return ho.Objective(model, torch.nn.functional.cross_entropy, inputs, targets)


@pytest.fixture
def my_method() -> Iterator[str]:
    with forgotten(registry):

        @ho.register("my_method")
        class MyMethod(ho.Optimizer):
            @dataclass
            class Config:
                lr: float = 0.1

            def update(self, objective: ho.Objective) -> None:
                start = objective.position()
                _, gradient = objective.value_and_grad()
                objective.commit(start - self.rate(objective) * gradient)
                self.note(name=7)

        yield "my_method"


def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def test_the_way_of_torch(objective: ho.Objective) -> None:
    model = objective.model
    loss = objective()
    assert loss.requires_grad
    assert all(p.grad is None for p in model.parameters()), "the objective never calls backward"
    smaller = objective.with_batch(*(tensor[:8] for tensor in (objective.inputs, objective.targets)))
    assert smaller.ledger is objective.ledger
    for optimizer in (
        ho.create("newton_cg", model.parameters(), damping=1e-2),
        ho.optimizers.NewtonCG(model.parameters(), damping=1e-2),
        ho.optimizers.NewtonCG(model.parameters(), config=ho.optimizers.NewtonCG.Config(damping=1e-2)),
    ):
        assert isinstance(optimizer, torch.optim.Optimizer)
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
        before = objective.value()
        assert float(optimizer.step(objective)) == pytest.approx(before), "the loss at the step's starting point"
        assert optimizer.report.loss == pytest.approx(before)
        assert optimizer.report.grad_norm > 0
        assert optimizer.report.step_norm > 0
        assert optimizer.report.accepted is True
        assert optimizer.report.events == []
        assert optimizer.report.inner_iterations >= 1


def test_the_way_of_scipy() -> None:
    seen = []
    result = ho.minimize(
        rosenbrock,
        torch.tensor([-1.2, 1.0], dtype=torch.float64),
        method="trust_newton_cg",
        escape=None,
        gtol=None,
        max_iter=1000,
        max_cost=None,
        certify=True,
        options=None,
        callback=seen.append,
        seed=0,
    )
    assert (result.status, result.success) == ("converged", True)
    assert result.x.tolist() == pytest.approx([1.0, 1.0])
    assert result.fun == pytest.approx(0.0, abs=1e-12)
    assert result.grad_norm <= 1e-8
    assert result.min_eigenvalue == pytest.approx(0.39936, abs=1e-3)  # of the Hessian [[802, -400], [-400, 200]]
    assert result.certificate.verdict == "second_order_stationary"
    for field in ("lambda_min_est", "residual", "eps_H", "delta", "products"):
        assert result.certificate[field] == getattr(result.certificate, field) >= 0
    with pytest.raises(KeyError, match="no field 'verdikt'"):
        _ = result.certificate["verdikt"]
    assert result.n_iter == len(result.history) == len(seen)
    assert result.message
    assert result.cost["hvp"] > 0
    assert {*COUNTS, "samples", "gradient_equivalents", "seconds"} <= set(result.cost)


@pytest.mark.parametrize(("dtype", "gtol"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
def test_the_tolerance_is_the_largest_entry_of_the_gradient(dtype: torch.dtype, gtol: float) -> None:
    # Every step halves 100 equal entries; the last one begins where the tolerance is met first.
    result = ho.minimize(
        lambda x: 0.5 * (x**2).sum(), torch.ones(100, dtype=dtype), method="sgd", options={"lr": 0.5}, certify=False
    )
    assert result.grad_norm == float(result.x.abs().max())
    assert gtol / 4 < result.grad_norm <= gtol / 2
    assert result.status == "uncertified"


def test_structures() -> None:
    def fun(x: dict[str, torch.Tensor]) -> torch.Tensor:
        return (x["a"] ** 2).sum() + ((x["b"] - 1) ** 2).sum()

    start = {"a": torch.ones(2), "b": torch.zeros(2, 2)}
    found = ho.minimize(fun, start).x
    torch.testing.assert_close(found["b"], torch.ones(2, 2), rtol=0, atol=1e-4)
    listed = ho.minimize(lambda x: fun({"a": x[0], "b": x[1]}), list(start.values())).x
    assert [tuple(x.shape) for x in listed] == [(2,), (2, 2)]


def test_curvature_on_its_own(objective: ho.Objective) -> None:
    H = ho.curvature.Hessian(objective)
    n = objective.space.n
    dense = H @ torch.eye(n, dtype=torch.float64)
    v = torch.linspace(-1, 1, n, dtype=torch.float64)
    torch.testing.assert_close(H @ v, dense @ v)
    torch.testing.assert_close(H.diagonal(), dense.diagonal())
    assert H.trace() == pytest.approx(float(dense.trace()))
    values, vectors = H.eigsh(k=5, which="LM")
    exact = torch.linalg.eigvalsh(dense)
    torch.testing.assert_close(values.abs().sort().values, exact.abs().sort().values[-5:])
    torch.testing.assert_close(dense @ vectors, vectors * values, atol=1e-6, rtol=1e-6)
    points, density = H.spectral_density()
    assert float(torch.trapezoid(density, points)) == pytest.approx(1.0, rel=0.05)
    assert torch.from_numpy(H.to_scipy() @ v.numpy()).allclose(dense @ v)
    torch.testing.assert_close((H + 0.1 * ho.curvature.Identity()) @ v, dense @ v + 0.1 * v)
    for name in ("GaussNewton", "Fisher", "EmpiricalFisher", "KFAC", "Diagonal"):
        operator = getattr(ho.curvature, name)(objective)
        assert float(v @ (operator @ v)) >= 0, name


def test_plugins_and_adapters(objective: ho.Objective, my_method: str) -> None:
    parameters = list(objective.model.parameters())
    optimizer = ho.create(my_method, parameters, lr=0.2)
    optimizer.step(objective)
    assert optimizer.report.name == 7
    with pytest.raises(ConfigError, match=r"no option 'lrr'\. Did you mean 'lr'"):
        ho.create(my_method, parameters, lrr=0.2)
    before = objective.value()
    ho.create("torch:AdamW", parameters, lr=1e-3).step(objective)
    assert objective.with_batch(objective.inputs, objective.targets).value() < before
    assert ho.minimize(rosenbrock, torch.zeros(2, dtype=torch.float64), method="scipy:trust-krylov").success


def test_another_packages_class(objective: ho.Objective) -> None:
    pytest.importorskip("pytorch_optimizer")
    optimizer = ho.create("pytorch_optimizer:SOAP", objective.model.parameters())
    assert float(optimizer.step(objective)) == pytest.approx(objective.value(), rel=0.2)
