"""Checks of what an optimizer is for: it goes down, and says truly how far."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from hybridopt.testing.outcome import conformance, only_if, require
from hybridopt.testing.problems import digits, regression, run, training, valley
from hybridopt.testing.subject import Subject

# Those of them that are meant for mini-batches take steps of a given length.
_WHOLE = "asked of quasi-Newton and Newton methods for large or full batches only"


@conformance("descent")
def falls_on_a_quadratic(subject: Subject) -> None:
    """Linear least squares, all samples in every step."""
    problem = regression(lambda: nn.Linear(4, 2), outputs=2)
    optimizer = subject.create(problem.model.parameters())
    start = problem.objective.value()
    run(optimizer, problem, range(10), full=True)
    end = problem.objective.value()
    require(end < start, f"after 10 steps on a convex quadratic the value is {end:.6g}, from {start:.6g}")


@conformance("descent")
def reaches_the_end_of_rosenbrocks_valley(subject: Subject) -> None:
    """To 1e-8 within 300 steps; for quasi-Newton and Newton methods."""
    only_if(subject.globalized, _WHOLE)
    problem = valley()
    optimizer = subject.create(problem.model.parameters())
    for _ in range(300):
        optimizer.step(problem.objective)
        if problem.objective.value() < 1e-8:
            return
    require(False, f"f = {problem.objective.value():.3g} after 300 steps, from 24.2; the minimum is 0")


@conformance("descent")
def falls_on_a_network_for_digits(subject: Subject) -> None:
    """Two layers and cross-entropy on 120 real digits: mini-batches where the method says that they suit it."""
    problem = digits()
    optimizer = subject.create(problem.model.parameters())
    mini = subject.own and subject.cls is not None and subject.cls.batch == "mini"
    start = problem.objective.value()
    run(optimizer, problem, range(12), full=not mini)
    with optimizer.evaluation():
        end = problem.objective.value()
    require(end < start, f"after 12 steps the loss is {end:.6g}, from {start:.6g}")


@conformance("descent")
def never_goes_up(subject: Subject) -> None:
    """On one deterministic function, with unequal rates; for quasi-Newton and Newton methods."""
    only_if(subject.globalized, _WHOLE)
    problem = training(dtype=torch.float64)
    rates = {"lr": 1.0}, {"lr": 1e-3}, {"lr": 0.1}
    parts = [problem.model[0].weight], [problem.model[0].bias], list(problem.model[2].parameters())
    optimizer = subject.create([{"params": part, **rate} for part, rate in zip(parts, rates, strict=True)])
    losses = run(optimizer, problem, range(5), full=True)
    for before, after in itertools.pairwise(losses):
        require(after <= before, f"the value rose from {before:.12g} to {after:.12g}")
    require(losses[-1] < losses[0], "the value stayed where it was")


@conformance("descent")
def says_how_the_step_went(subject: Subject) -> None:
    """`accepted`, `step_norm` and `evaluations` are those of the step that was done."""
    only_if(subject.globalized, _WHOLE)
    problem = training(dtype=torch.float64)
    optimizer = subject.create(problem.model.parameters())
    for _ in range(3):
        before = problem.objective.position()
        optimizer.step(problem.objective)
        report = optimizer.report
        moved = float(torch.linalg.vector_norm(problem.objective.position() - before))
        require(type(report.accepted) is bool, f"accepted is {report.accepted!r}")
        require(report.accepted == (moved > 0), f"accepted is {report.accepted}, the step's length {moved:.3g}")
        near = report.step_norm is not None and abs(report.step_norm - moved) <= 1e-9 * moved + 1e-15
        require(near, f"step_norm is {report.step_norm}, the step's length {moved:.12g}")
        require((report.evaluations or 0) >= 1, f"evaluations is {report.evaluations}")


@conformance("descent")
def returns_loss_and_gradient_of_the_start(subject: Subject) -> None:
    """The loss that a step returns, and `p.grad`, are those of its starting point, dropout and BatchNorm included."""
    problem = training("both", dtype=torch.float64)
    optimizer = subject.create(problem.model.parameters())
    for step in range(3):
        twin = training("both", dtype=torch.float64)
        twin.model.load_state_dict(problem.model.state_dict())
        torch.manual_seed(100 + step)
        wanted = twin.batch(step)()
        gradients = torch.autograd.grad(wanted, list(twin.model.parameters()))
        wanted = wanted.detach()
        torch.manual_seed(100 + step)
        loss = optimizer.step(problem.batch(step))
        require(loss.shape == () and not loss.requires_grad, "step does not return a detached scalar")
        close = torch.allclose(loss, wanted, rtol=1e-12, atol=1e-12)
        require(close, f"step {step} returned {float(loss):.12g}; the loss at its start is {float(wanted):.12g}")
        for (name, parameter), gradient in zip(problem.model.named_parameters(), gradients, strict=True):
            found = parameter.grad is not None and torch.allclose(parameter.grad, gradient, rtol=1e-9, atol=1e-12)
            require(found, f"after step {step} the grad of {name} is not that of the starting point")


CHECKS = (
    falls_on_a_quadratic,
    reaches_the_end_of_rosenbrocks_valley,
    falls_on_a_network_for_digits,
    never_goes_up,
    says_how_the_step_went,
    returns_loss_and_gradient_of_the_start,
)
