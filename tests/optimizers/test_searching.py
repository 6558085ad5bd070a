"""What methods that search along a direction share: searches, noise of values, buffers, references."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor

import hybridopt as ho
from tests.optimizers.catalogue import assert_solves, function, rosenbrock, run, training

METHODS = ["lbfgs", "bfgs", "ssbroyden", "ncg"]
SEARCHES = ["strong_wolfe", "hager_zhang", "nonmonotone"]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("line_search", SEARCHES)
def test_every_search_finds_the_minimum_of_rosenbrock(name: str, line_search: str) -> None:
    objective = function(rosenbrock, [-1.2, 1.0, 0.5])
    optimizer = ho.create(name, objective.model.parameters(), line_search=line_search)
    for _ in range(300):
        optimizer.step(objective)
        if float(objective.value_and_grad()[1].abs().max()) < 1e-6:
            return
    pytest.fail(f"gradient {objective.value_and_grad()[1]}")


@pytest.mark.parametrize("name", METHODS)
def test_a_nonmonotone_search_lets_the_loss_rise_and_a_monotone_one_does_not(name: str) -> None:
    rises = {}
    for line_search in ("strong_wolfe", "nonmonotone"):
        objective = function(rosenbrock, [-1.2, 1.0, 0.5, 2.0])
        optimizer = ho.create(name, objective.model.parameters(), line_search=line_search, reference="max")
        losses = [float(optimizer.step(objective)) for _ in range(40)]
        rises[line_search] = sum(after > before * (1 + 1e-6) for before, after in itertools.pairwise(losses))
        # Never above the largest of the last ten.
        assert all(loss <= max(losses[max(0, k - 10) : k]) for k, loss in enumerate(losses) if k > 0)
    assert rises["strong_wolfe"] == 0
    assert rises["nonmonotone"] > 0 or name == "ncg"


def test_the_reference_of_a_nonmonotone_search_is_of_the_same_data() -> None:
    problem_ = training(dtype=torch.float64)
    optimizer = ho.create("lbfgs", problem_.model.parameters(), line_search="nonmonotone")
    run(optimizer, problem_, range(3), full=True)
    assert optimizer.memory["reference"]["state"]["weight"] > 2
    optimizer.step(problem_.batch(0))
    assert optimizer.memory["reference"]["state"]["weight"] == 1.0


@pytest.mark.parametrize("line_search", ["strong_wolfe", "hager_zhang"])
def test_noise_of_the_values_is_measured_and_the_slopes_decide(line_search: str) -> None:
    # Every value but that at the start is too high by 1e-9, which is more than there is to gain; the slopes are right.
    start = [1e-5, 2e-5]

    def formula(x: Tensor) -> Tensor:
        away = (x.detach() != torch.tensor(start, dtype=x.dtype)).any().to(x.dtype)
        return x.square().sum() + (1.0 + 1e-9 * away)

    objective = function(formula, start)
    optimizer = ho.create("bfgs", objective.model.parameters(), line_search=line_search, c1=1e-4, c2=0.1)
    optimizer.step(objective)
    (event,) = (event for event in optimizer.report.events if event["event"] == "noisy_values")
    assert event["noise"] == pytest.approx(2e-9, rel=0.2)
    assert optimizer.report.accepted
    assert float(objective.value_and_grad()[1].abs().max()) < 0.1 * 4e-5


def test_a_bump_is_not_taken_for_noise() -> None:
    # The search fails because its only trial is over a barrier, where the slopes explain the value.
    objective = function(lambda x: (10 * x).square().sum() + x.sum() ** 4, [1.0, 2.0])
    optimizer = ho.create("lbfgs", objective.model.parameters(), lr=50.0, max_evaluations=1)
    optimizer.step(objective)
    assert not optimizer.report.accepted
    assert optimizer.report.evaluations == 1


def test_bfgs_ends_where_the_values_of_a_sum_of_squares_are_rounding() -> None:
    assert_solves("bfgs", "watson_12", steps=900)


@pytest.mark.parametrize("name", METHODS)
def test_a_copy_of_the_state_goes_on_although_vectors_are_written_in_place(name: str) -> None:
    one = training(dtype=torch.float64)
    optimizer = ho.create(name, one.model.parameters())
    run(optimizer, one, range(5), full=True)
    parameters, state = copy.deepcopy(one.model.state_dict()), copy.deepcopy(optimizer.state_dict())
    ahead = run(optimizer, one, range(4), full=True)
    one.model.load_state_dict(parameters)
    optimizer.load_state_dict(state)
    assert run(optimizer, one, range(4), full=True) == ahead


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_taken_anew_after_a_move_from_outside(name: str) -> None:
    one = training(dtype=torch.float64)
    optimizer = ho.create(name, one.model.parameters())
    run(optimizer, one, range(3), full=True)
    with torch.no_grad():
        one.model[0].weight.add_(0.1)
    loss = one.objective.value()
    expected = one.objective.value_and_grad()[1].norm()
    assert float(optimizer.step(one.objective)) == loss
    assert optimizer.report.grad_norm == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_steps_allocate_no_vectors_of_their_own(name: str) -> None:
    one = training(dtype=torch.float64)
    optimizer = ho.create(name, one.model.parameters())
    run(optimizer, one, range(3), full=True)
    places = {tensor.data_ptr() for tensor in optimizer._work.values()}
    run(optimizer, one, range(3), full=True)
    assert {tensor.data_ptr() for tensor in optimizer._work.values()} == places
    assert optimizer.memory["end"]["position"].data_ptr() in places


@pytest.mark.parametrize("name", METHODS)
def test_gradients_handed_out_may_be_overwritten(name: str) -> None:
    # p.grad is not copied where a step goes on from the last one, so nothing that is kept may lie in it: neither
    # after a step, nor where the model stays, at a rate of zero or after a search that found nothing.
    losses = []
    for overwrite in (False, True):
        one = training(dtype=torch.float64)
        optimizer = ho.create(name, one.model.parameters())
        for index in range(6):
            rate = 0.0 if index in (2, 3) else 1.0
            for group in optimizer.param_groups:
                group["lr"] = rate
            losses.append(float(optimizer.step(one.objective)))
            assert optimizer.report.accepted == bool(rate)
            gradient = one.objective.value_and_grad(one.objective.position())[1]
            if not rate:
                found = torch.cat([parameter.grad.flatten() for parameter in one.model.parameters()])
                torch.testing.assert_close(found, gradient, rtol=1e-12, atol=0)
            if overwrite:
                for parameter in one.model.parameters():
                    parameter.grad.fill_(7.0)
    assert losses[:6] == losses[6:]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failed_search_leaves_the_model_and_what_is_known_of_the_point(overwrite: bool) -> None:
    objective = function(lambda x: (10 * x).square().sum() + x.sum() ** 4, [1.0, 2.0])
    (x,) = objective.model.parameters()
    optimizer = ho.create("lbfgs", [x], max_evaluations=1)
    for _ in range(2):
        optimizer.step(objective)
    where = x.detach().clone()
    optimizer.param_groups[0]["lr"] = 1e3
    optimizer.step(objective)
    assert not optimizer.report.accepted
    assert torch.equal(x, where)
    if overwrite:
        x.grad.fill_(7.0)
    paid = objective.ledger.counts["gradient"]
    optimizer.step(objective)
    assert objective.ledger.counts["gradient"] == paid + 1, "the trial alone: the gradient here is known"
    torch.testing.assert_close(x.grad, objective.value_and_grad()[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("when", ["trial", "before the move", "after the move"])
def test_after_a_step_that_was_interrupted_nothing_stale_is_taken_over(name: str, when: str, monkeypatch) -> None:
    one = training(dtype=torch.float64)
    optimizer = ho.create(name, one.model.parameters())
    run(optimizer, one, range(3), full=True)
    before = one.objective.position()

    def interrupt(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    owner, name_ = {
        "trial": (ho.Objective, "_forward"),
        "before the move": (ho.Objective, "commit"),
        "after the move": (type(optimizer), "_end"),
    }[when]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name_, interrupt)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step(one.objective)
    assert torch.equal(one.objective.position(), before) == (when != "after the move")
    value, gradient = one.objective.value_and_grad()
    assert float(optimizer.step(one.objective)) == value
    assert optimizer.report.grad_norm == pytest.approx(float(gradient.norm()), rel=1e-12)
    assert optimizer.report.accepted
