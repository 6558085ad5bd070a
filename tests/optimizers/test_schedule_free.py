"""Schedule-free learning: the sequences of the paper, other implementations, and what is shown for evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho
from hybridopt.core import ObjectiveError
from tests.optimizers.catalogue import Training, run, training

STEPS = 7


def averages(optimizer: Any, problem: Training) -> list[Tensor]:
    with optimizer.evaluation():
        return problem.parameters()


def test_x_is_the_weighted_average_of_z_and_y_lies_between() -> None:
    # The rates of a falling schedule: the weights are the squares of the rates of the steps themselves.
    rates = [0.5, 0.4, 0.3, 0.2, 0.1]
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    optimizer = ho.create("schedule_free", problem.model.parameters(), flavour="sgd", interpolation=0.8)
    parameters = list(twin.model.parameters())
    z = [p.detach().clone() for p in parameters]
    x = [p.detach().clone() for p in parameters]
    weights = 0.0
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step(problem.batch(step))
        gradients = torch.autograd.grad(twin.batch(step)(), parameters)
        weights += rate**2
        with torch.no_grad():
            for p, zi, xi, g in zip(parameters, z, x, gradients, strict=True):
                zi.sub_(rate * g)
                xi.add_(rate**2 / weights * (zi - xi))
                p.copy_(0.2 * zi + 0.8 * xi)
        for mine, y in zip(problem.model.parameters(), parameters, strict=True):
            torch.testing.assert_close(mine, y, rtol=1e-11, atol=1e-12)
        for mine, xi in zip(averages(optimizer, problem), x, strict=True):
            torch.testing.assert_close(mine, xi, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("flavour", ["sgd", "adamw"])
def test_the_same_as_another_implementation(flavour: str, decay: float, warmup: int) -> None:
    peer = pytest.importorskip("pytorch_optimizer")
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    lr = 0.5 if flavour == "sgd" else 0.02
    shared = {"lr": lr, "weight_decay": decay, "warmup_steps": warmup}
    optimizer = ho.create("schedule_free", problem.model.parameters(), flavour=flavour, polynomial=1.5, **shared)
    cls = peer.ScheduleFreeSGD if flavour == "sgd" else peer.ScheduleFreeAdamW
    bare = cls(twin.model.parameters(), r=1.5, **shared)
    for step in range(STEPS):
        optimizer.step(problem.batch(step))
        bare.zero_grad()
        twin.batch(step)().backward()
        bare.step()
    for mine, other in zip(problem.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)
    bare.eval()
    for mine, other in zip(averages(optimizer, problem), twin.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


def test_after_an_evaluation_all_is_as_before() -> None:
    problem, twin = training("both"), training("both")
    pair = [ho.create("schedule_free", item.model.parameters(), lr=0.05) for item in (problem, twin)]
    losses: list[list[float]] = [[], []]
    for step in range(6):
        for index, (optimizer, item) in enumerate(zip(pair, (problem, twin), strict=True)):
            torch.manual_seed(step)
            losses[index].append(float(optimizer.step(item.batch(step))))
        storage = [p.data_ptr() for p in problem.model.parameters()]
        before = problem.parameters()
        inside = problem.parameters()
        try:
            with pair[0].evaluation():
                inside = problem.parameters()
                with pair[0].evaluation():
                    assert all(torch.equal(a, b) for a, b in zip(problem.parameters(), inside, strict=True))
                raise KeyError
        except KeyError:
            pass
        assert step == 0 or not torch.equal(inside[0], before[0])
        assert all(torch.equal(a, b) for a, b in zip(problem.parameters(), before, strict=True))
        assert [p.data_ptr() for p in problem.model.parameters()] == storage
    assert losses[0] == losses[1]


def test_a_step_inside_an_evaluation_is_refused() -> None:
    problem = training()
    optimizer = ho.create("schedule_free", problem.model.parameters())
    run(optimizer, problem, range(2))
    with optimizer.evaluation(), pytest.raises(ObjectiveError, match="Leave the context first"):
        optimizer.step(problem.objective)
    run(optimizer, problem, range(2, 3))


def test_an_evaluation_before_the_first_step_shows_the_start() -> None:
    problem = training()
    before = problem.parameters()
    optimizer = ho.create("schedule_free", problem.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(averages(optimizer, problem), before, strict=True))


def test_statistics_can_be_renewed_for_the_average() -> None:
    problem = training("batch_norm", dtype=torch.float64)
    optimizer = ho.create("schedule_free", problem.model.parameters(), lr=0.1)
    run(optimizer, problem, range(12))
    layer = problem.model[1]
    with optimizer.evaluation():
        torch.optim.swa_utils.update_bn([problem.inputs], problem.model)
        first = problem.model[0](problem.inputs)
        torch.testing.assert_close(layer.running_mean, first.mean(0).detach())


def test_the_second_moment_of_a_thawed_parameter_is_corrected_for_its_own_steps() -> None:
    problem = training(dtype=torch.float64)
    weight = problem.model[0].weight.requires_grad_(False)
    optimizer = ho.create("schedule_free", problem.model.parameters(), lr=0.01)
    run(optimizer, problem, range(30))
    weight.requires_grad_(True)
    before = weight.detach().clone()
    run(optimizer, problem, range(30, 31))
    # Its first step is a normalized one, of which y takes 1 - b (1 - c) with c = 1/31.
    wanted = torch.full_like(weight, 0.01 * (1 - 0.9 * 30 / 31)).detach()
    torch.testing.assert_close((weight - before).abs().detach(), wanted, rtol=1e-4, atol=0)


def test_a_jump_starts_the_average_anew() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("schedule_free", problem.model.parameters(), lr=0.05)
    run(optimizer, problem, range(5), full=True)
    bound = problem.objective.bind(optimizer.param_groups)
    bound.commit(bound.position() + 3.0)
    optimizer.moved(bound, "escape")
    run(optimizer, problem, range(1), full=True)
    base = torch.cat([optimizer.state[p]["z"].reshape(-1) for p in problem.model.parameters()])
    with optimizer.evaluation():
        torch.testing.assert_close(bound.position(), base, rtol=1e-12, atol=1e-12)


def test_it_learns_better_than_its_own_running_point_under_noise() -> None:
    torch.manual_seed(0)
    target = torch.randn(20, dtype=torch.float64)
    model = nn.Linear(20, 1, bias=False).double()
    inputs = torch.randn(4000, 20, dtype=torch.float64)
    targets = (inputs @ target + 2 * torch.randn(4000, dtype=torch.float64)).unsqueeze(1)
    objective = ho.Objective(model, nn.functional.mse_loss, inputs, targets)
    optimizer = ho.create("schedule_free", model.parameters(), flavour="sgd", lr=0.1)
    for step in range(400):
        rows = slice(8 * step % 4000, 8 * step % 4000 + 8)
        optimizer.step(objective.with_batch(inputs[rows], targets[rows]))
    running = objective.value()
    with optimizer.evaluation():
        assert objective.value() < running
