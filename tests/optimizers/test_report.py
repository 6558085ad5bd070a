"""What a step returns, leaves in p.grad and reports: the starting point's loss and gradient, read only when asked."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import hybridopt as ho
from hybridopt.optimizers.report import Report, norm
from tests.optimizers.catalogue import (
    FIRST_ORDER,
    GLOBALIZED,
    METHODS,
    Method,
    each,
    function,
    names,
    training,
)

_READS = ("item", "__float__", "__bool__", "__int__", "__index__", "tolist", "numpy")


@each(METHODS)
def test_a_report_is_plain_values(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters(), escape={"name": "perturbation", "stall_window": 2})
    for step in range(5):
        optimizer.step(problem.batch(step))
        plain = optimizer.report.as_dict()
        assert {"loss", "grad_norm"} <= plain.keys()
        assert all(type(value) in (bool, int, float, str, type(None)) for value in plain.values()), plain
        for event in optimizer.report.events:
            assert isinstance(event["event"], str)
            assert all(type(value) in (bool, int, float, str) for value in event.values()), event
        assert repr(optimizer.report).startswith("Report(")
        assert dict(optimizer.report) == plain
        assert optimizer.report["loss"] == optimizer.report.loss
    with pytest.raises(KeyError, match="nonsense"):
        optimizer.report["nonsense"]


@each(GLOBALIZED)
def test_a_globalized_step_says_how_it_went(method: Method) -> None:
    problem = training(dtype=torch.float64)
    optimizer = method.create(problem.model.parameters())
    for _ in range(3):
        before = problem.objective.position()
        optimizer.step(problem.objective)
        report = optimizer.report
        moved = float(torch.linalg.vector_norm(problem.objective.position() - before))
        assert type(report.accepted) is bool
        assert report.accepted == (moved > 0)
        assert report.step_norm == pytest.approx(moved, rel=1e-9, abs=1e-15)
        assert report.evaluations >= 1
        if method.family == "newton":
            assert report.inner_iterations >= 1


def test_what_was_not_noted_is_none_or_an_error_that_names_what_there_is() -> None:
    report = Report(loss=1.0)
    assert report.radius is None
    assert "radius" not in report
    assert "loss" in report
    with pytest.raises(AttributeError, match="has no 'lss'; it has loss"):
        _ = report.lss


def test_values_are_read_once_and_late() -> None:
    calls: Counter[str] = Counter()

    def late() -> Tensor:
        calls.update(["late"])
        return torch.tensor(2.0)

    report = Report(late=late)
    assert calls == {}
    assert (report.late, report.late, report.as_dict()) == (2.0, 2.0, {"late": 2.0})
    assert calls == {"late": 1}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what brings a tensor's value to the host, which makes a GPU wait."""
    counts: Counter[str] = Counter()
    for name in _READS:
        original = getattr(Tensor, name)

        def counted(self: Tensor, *args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            counts.update([_name])
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, counted)
    return counts


# These two look at the value: Armijo's condition, Polyak's rate.
@each([method for method in FIRST_ORDER if method.name not in ("sls", "sps")])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}, {"escape": "perturbation"}], ids=str)
def test_a_first_order_step_reads_no_value(method: Method, options: dict[str, Any], reads: Counter[str]) -> None:
    from tests.optimizers.test_first_order_equals_torch import TWINS

    cls, fixed = TWINS.get(method.name, (torch.optim.SGD, {}))
    problem, twin = training(), training()
    optimizer = method.create(problem.model.parameters(), **options)
    bare = cls(twin.model.parameters(), lr=0.1, **fixed)
    optimizer.step(problem.batch(2))  # where state is made, numbers may be written to the device
    for step in range(3):  # the escape looks at its windows later, and at gradients of the same batch only
        reads.clear()
        twin.batch(step)().backward()
        bare.step()
        theirs = sum(reads.values())
        reads.clear()
        optimizer.step(problem.batch(step))
        assert sum(reads.values()) == theirs, f"torch's own step reads {theirs} values, this one {dict(reads)}"
    reads.clear()
    assert optimizer.report.loss > 0
    assert optimizer.report.grad_norm > 0
    assert sum(reads.values()) == 2


def test_weight_decay_is_in_the_step_and_not_in_the_loss_or_the_gradient_that_are_shown() -> None:
    objective = function(lambda x: (x**2).sum(), [3.0])
    optimizer = ho.create("newton_cg", objective.model.parameters(), weight_decay=2.0, damping=0.0)
    assert float(optimizer.step(objective)) == 9.0
    assert optimizer.report.loss == 9.0
    assert float(next(objective.model.parameters()).grad) == 6.0
    assert abs(objective.position().item()) < 1e-12


@each(names("newton_cg", "trust_newton_cg", "lbfgs", "saddle_free_newton", "hessian_free"))
def test_the_norm_of_a_regularized_gradient_is_reported(method: Method) -> None:
    problem = training(dtype=torch.float64)
    optimizer = method.create(problem.model.parameters(), weight_decay=0.5)
    x = problem.objective.position()
    gradient = problem.objective.value_and_grad()[1] + 0.5 * x
    optimizer.step(problem.objective)
    assert optimizer.report.grad_norm == pytest.approx(float(gradient.norm()), rel=1e-9)


def test_norm_of_no_tensors_and_of_half_precision() -> None:
    assert norm([]) == 0
    assert norm([torch.full((4,), 2.0, dtype=torch.bfloat16)]) == 4
    assert norm([torch.tensor([3.0, -4.0]), torch.tensor([-5.0])], math.inf) == 5
