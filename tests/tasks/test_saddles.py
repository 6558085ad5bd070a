"""The saddle problems: stationary starts, known curvature, goals that can be reached, formulas that are smooth."""

from __future__ import annotations

import math

import pytest
import torch

import hybridopt as ho
from hybridopt import tasks
from hybridopt.certificate import certify
from hybridopt.core import UnknownNameError
from hybridopt.tasks import saddle_functions as functions
from hybridopt.tasks.saddles import SaddleProblem, problem, problems

each = pytest.mark.parametrize("entry", problems(), ids=lambda entry: entry.name)
SMALL = [entry for entry in problems() if entry.name not in ("single_descent", "digits", "digits_deep")]
LOWEST = {
    "plane": -2.0, "octopus_5": -2.0, "w_shape": -0.2, "single_descent": -1.0, "digits": -0.2407, "low_rank": -0.04,
}  # fmt: skip


@each
def test_the_start_is_stationary_and_strict_where_it_says_so(entry: SaddleProblem) -> None:
    objective = entry.objective()
    value, gradient = objective.value_and_grad()
    assert float(gradient.abs().max()) < 1e-12
    assert not entry.left(value)
    certificate = certify(objective, eps_H=1e-4, generator=torch.Generator().manual_seed(0))
    assert certificate.verdict == ("saddle" if entry.strict else "second_order_stationary")
    assert certificate.degenerate != entry.strict
    if entry.name in LOWEST:
        assert certificate.lambda_min_est == pytest.approx(LOWEST[entry.name], rel=1e-3)


@pytest.mark.parametrize("entry", SMALL, ids=lambda entry: entry.name)
def test_the_goal_can_be_reached(entry: SaddleProblem) -> None:
    objective = entry.objective()
    generator = torch.Generator().manual_seed(1)
    objective.commit(objective.position() + 0.3 * torch.randn(objective.space.n, generator=generator).double())
    optimizer = ho.create("newton_cg", objective.model.parameters(), escape="perturbation")
    for _ in range(300):
        if entry.left(float(optimizer.step(objective))):
            break
    assert entry.left(objective.value())


@pytest.mark.parametrize("name", ["octopus", "w_shape"])
def test_pieces_meet_up_to_the_second_derivative(name: str) -> None:
    function, places = {
        "octopus": (lambda x: functions.octopus(x, 1.5), (0.0, math.e, 2 * math.e, 4 * math.e)),
        "w_shape": (functions.w_shape, (0.0, 0.1, 0.5, 0.6)),
    }[name]
    for sign in (1, -1):
        for place in places:
            at = [torch.tensor([sign * (place + shift), 0.3], dtype=torch.float64) for shift in (-1e-9, 1e-9)]
            values = [float(function(x)) for x in at]
            slopes = [_gradient(function, x) for x in at]
            matrices = [torch.autograd.functional.hessian(function, x) for x in at]
            assert values[0] == pytest.approx(values[1], abs=1e-6)
            torch.testing.assert_close(slopes[0], slopes[1], atol=1e-6, rtol=0)
            torch.testing.assert_close(matrices[0], matrices[1], atol=1e-5, rtol=0)


def _gradient(function, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.functional.jacobian(function, x)


@pytest.mark.parametrize(("L", "nu"), [(1.0, 61.575), (1.5, 84.358), (2.0, 107.141), (3.0, 152.707)])
def test_the_octopus_falls_by_nu_from_saddle_to_saddle(L: float, nu: float) -> None:
    assert functions.octopus_drop(L) == pytest.approx(nu, abs=1e-3)
    for passed in range(4):
        x = torch.zeros(3, dtype=torch.float64)
        x[:passed] = 4 * math.e
        x[::2] *= -1  # it is even in every variable
        assert float(functions.octopus(x, L)) == pytest.approx(-passed * nu, abs=1e-2)
        gradient = _gradient(lambda x: functions.octopus(x, L), x)
        assert float(gradient.abs().max()) < 1e-9
        lowest = float(
            torch.linalg.eigvalsh(torch.autograd.functional.hessian(lambda x: functions.octopus(x, L), x))[0]
        )
        assert lowest == pytest.approx(-2.0 if passed < 3 else 2 * L)


def test_minima_are_where_the_formulas_say() -> None:
    assert float(functions.w_shape(torch.tensor([-0.6, 0.0]).double())) == pytest.approx(-0.016 / 3)
    assert float(functions.monkey(torch.tensor([-3.0, 0.0]).double())) == pytest.approx(-6.75)
    assert float(functions.single_descent(torch.tensor([1.0, 0.0, 0.0]))) == pytest.approx(-0.25)


def test_the_task_runs_any_of_them() -> None:
    task = tasks.create("saddle", problem="phase_retrieval")
    splits = task.splits(0)
    assert len(splits.train) == 200
    assert task.config.batch_size == 32
    assert task.targets[0].value == problem("phase_retrieval").goal
    model = task.model()
    loss = task.loss(model(splits.train.inputs), splits.train.targets)
    assert loss.item() == pytest.approx(task.trivial_loss(splits))
    plane = tasks.create("saddle", problem="plane")
    assert len(plane.splits().train) == plane.config.batch_size  # one step of any method sees the function
    with pytest.raises(UnknownNameError, match="octopus_5"):
        tasks.create("saddle", problem="octopus_6")
