"""Checks of what a step costs, tells and leaves behind."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from hybridopt.core import StaleOperatorError
from hybridopt.curvature import Hessian
from hybridopt.objective import Objective
from hybridopt.testing.counting import Counted
from hybridopt.testing.outcome import Failure, conformance, only_if, require
from hybridopt.testing.problems import regression, run, training
from hybridopt.testing.subject import Subject

_COMMON = {"loss", "grad_norm", "step_norm", "accepted", "status", "member"}
"""What needs no word in a docstring: the fields that every report may have."""


@conformance("accounting")
def the_ledger_is_what_autograd_did(subject: Subject) -> None:
    """Calls and samples, against a probe in the model that counts passes up and down by itself."""
    problem = training(Counted)
    optimizer = subject.create(problem.model.parameters())
    run(optimizer, problem, range(3), full=True)
    run(optimizer, problem, range(3))
    calls, samples = problem.model.tally.counts()
    ledger = problem.objective.ledger
    require(ledger.calls == calls, f"the ledger has {ledger.calls}, autograd did {calls}")
    require(ledger.samples == samples, f"the ledger has {ledger.samples} samples, autograd saw {samples}")


@conformance("accounting")
def micro_batches_are_the_batch(subject: Subject) -> None:
    """The same steps, to rounding, on the same function evaluated seven samples at a time."""
    # Square layers and more samples than units: gradients have full rank, so no basis is left to rounding.
    problem, twin = (
        regression(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), outputs=4) for _ in range(2)
    )
    # Draws from the model's distribution come in another order when the batch is divided.
    fisher = subject.fields.get("fisher")
    exact = {"fisher": "exact"} if fisher is not None and "exact" in (fisher.metadata.get("choices") or ()) else {}
    optimizer, other = (subject.create(each.model.parameters(), **exact) for each in (problem, twin))
    for _ in range(3):
        optimizer.step(problem.objective)
        other.step(twin.objective.in_micro_batches(7))
    far = float((problem.objective.position() - twin.objective.position()).abs().max())
    require(far <= 1e-6, f"after 3 steps the parameters differ by {far:.3g}")


@conformance("accounting")
def a_step_leaves_what_one_forward_leaves(subject: Subject) -> None:
    """BatchNorm's statistics and the generator, however often the step evaluated; the model stays in its mode."""
    only_if(subject.name != "torch:LBFGS", "it calls the model as often as torch does")
    problem = training("both")
    optimizer = subject.create(problem.model.parameters())
    for step in range(3):
        objective = problem.objective if step == 2 else problem.batch(step)
        twin = training("both")
        twin.model.load_state_dict(problem.model.state_dict())
        torch.manual_seed(100 + step)
        twin.model(objective.inputs)
        generator = torch.get_rng_state()
        torch.manual_seed(100 + step)
        optimizer.step(objective)
        require(torch.equal(torch.get_rng_state(), generator), f"step {step} drew from the global generator")
        for (name, buffer), wanted in zip(problem.model.named_buffers(), twin.model.buffers(), strict=True):
            require(torch.equal(buffer, wanted), f"after step {step} {name} is not as after one forward pass")
        require(problem.model.training, "the model is no longer in train mode")


@conformance("accounting")
def operators_of_the_last_point_are_stale(subject: Subject) -> None:
    """A product with a Hessian that was built before a step, and backward through a graph of then, raise."""
    problem = training(dtype=torch.float64)
    optimizer = subject.create(problem.model.parameters())
    run(optimizer, problem, range(2), full=True)
    before = problem.objective.position()
    operator, vector = Hessian(problem.objective), torch.ones_like(before)
    loss = problem.objective()
    _ = operator @ vector
    for _ in range(4):  # a step may be refused
        optimizer.step(problem.objective)
        if not torch.equal(problem.objective.position(), before):
            break
    require(not torch.equal(problem.objective.position(), before), "four steps moved nothing")
    try:
        _ = operator @ vector
    except StaleOperatorError:
        pass
    else:
        raise Failure("a Hessian of before the step still multiplies")
    try:
        loss.backward()
    except RuntimeError:
        return
    raise Failure("a graph of before the step is still differentiated: the parameters' version was not raised")


@conformance("accounting")
def the_report_is_plain_and_documented(subject: Subject) -> None:
    """Plain values, loss and gradient norm among them; every other field stands in the docstring's Report paragraph."""
    problem = training()
    optimizer = subject.create(problem.model.parameters())
    seen: set[str] = set()
    for step in range(7):
        optimizer.step(problem.objective if step < 4 else problem.batch(step))
        plain = optimizer.report.as_dict()
        require({"loss", "grad_norm"} <= plain.keys(), f"the report lacks loss or grad_norm: {sorted(plain)}")
        for name, value in [
            *plain.items(),
            *((f"event {k}", v) for e in optimizer.report.events for k, v in e.items()),
        ]:
            fine = type(value) in (bool, int, float, str, type(None)) or name.startswith("event")
            require(fine, f"{name} is a {type(value).__name__}")
        for event in optimizer.report.events:
            require(isinstance(event.get("event"), str), f"an event without a name: {event}")
        seen |= plain.keys()
    if not subject.own:
        return
    told = _documented(optimizer)
    missing = sorted(seen - _COMMON - told)
    require(not missing, f"not in the Report paragraph of the docstring: {', '.join(missing)}")


def _documented(optimizer: Any) -> set[str]:
    """The names in the Report paragraphs of a class, its bases, the members of a hybrid, and classes they refer to."""
    import hybridopt.optimizers as room

    waiting = [*type(optimizer).__mro__]
    for member in getattr(optimizer, "_members", ()):
        waiting += type(member).__mro__
    words: set[str] = set()
    done: set[type] = set()
    while waiting:
        cls = waiting.pop()
        if cls in done:
            continue
        done.add(cls)
        for paragraph in re.findall(r"Report:(.*?)(?:\n\s*\n|\Z)", cls.__dict__.get("__doc__") or "", re.S):
            words |= set(re.findall(r"[a-z_]+", " ".join(re.findall(r"``([^`]*)``", paragraph))))
            for name in re.findall(r"`(\w+)`", paragraph):
                if name in room._CLASSES:
                    waiting += getattr(room, name).__mro__
    return words


@conformance("accounting")
def reading_the_report_changes_nothing(subject: Subject) -> None:
    """A run whose reports are read equals one whose reports are not."""
    losses = []
    for read in (True, False):
        problem = training("dropout")
        optimizer = subject.create(problem.model.parameters())
        trace = []
        for step in range(4):
            trace.append(float(optimizer.step(problem.batch(step))))
            if read:
                optimizer.report.as_dict()
        losses.append(trace)
    require(losses[0] == losses[1], f"{losses[0]} where the report is read, {losses[1]} where not")


@conformance("accounting")
def step_hooks_fire_once(subject: Subject) -> None:
    """Torch's hooks around a step see the objective, once a step."""
    problem = training()
    optimizer = subject.create(problem.model.parameters())
    calls: list[tuple[str, Any]] = []
    optimizer.register_step_pre_hook(lambda _, args, __: calls.append(("pre", args[-1])))
    optimizer.register_step_post_hook(lambda _, args, __: calls.append(("post", args[-1])))
    objective: Objective
    for step in (1, 2, 3):
        objective = problem.batch(step)
        optimizer.step(objective)
        names = [name for name, _ in calls]
        require(names == ["pre", "post"] * step, f"hooks after step {step}: {names}")
        require(calls[-1][1] is objective, "a hook does not see the objective")


CHECKS = (
    the_ledger_is_what_autograd_did,
    micro_batches_are_the_batch,
    a_step_leaves_what_one_forward_leaves,
    operators_of_the_last_point_are_stale,
    the_report_is_plain_and_documented,
    reading_the_report_changes_nothing,
    step_hooks_fire_once,
)
