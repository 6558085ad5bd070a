"""Checks with what goes wrong: values that are not finite, no gradient, wrong arguments, wrong options."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core import ConfigError, ObjectiveError
from hybridopt.objective import Objective
from hybridopt.testing.outcome import Failure, conformance, only_if, require
from hybridopt.testing.problems import Training, run, training
from hybridopt.testing.states import same
from hybridopt.testing.subject import Subject


def _spoilt(problem: Training, factor: float) -> Objective:
    """The objective with its loss multiplied by NaN, infinity or zero."""
    loss_fn: Any = problem.objective.loss_fn
    return Objective(problem.model, lambda o, t: loss_fn(o, t) * factor, problem.inputs, problem.targets)


def _step(optimizer: Any, objective: Objective, what: str) -> float:
    """Returns the loss of a step, which must not end in an exception."""
    try:
        return float(optimizer.step(objective))
    except Exception as error:
        raise Failure(f"step raised {type(error).__name__} at {what}: {error}") from error


@conformance("safety")
def a_loss_that_is_not_finite(subject: Subject) -> None:
    """No exception, the loss is told; a method that reports `accepted` stays where it is, says so, and goes on."""
    for bad in (math.nan, math.inf, -math.inf):
        problem = training(dtype=torch.float64)
        optimizer = subject.create(problem.model.parameters())
        run(optimizer, problem, range(2), full=True)
        before = problem.parameters()
        loss = _step(optimizer, _spoilt(problem, bad), f"a loss of {bad}")
        require(not math.isfinite(loss), f"step returned {loss} at a loss of {bad}")
        require(not math.isfinite(optimizer.report.loss), f"the report says {optimizer.report.loss} at a loss of {bad}")
        if not subject.guarded:
            continue
        require(same(problem.model.parameters(), before), f"the parameters moved at a loss of {bad}")
        report = optimizer.report
        require(report.accepted is False, f"accepted is {report.accepted!r} at a loss of {bad}")
        require(report.status == "non_finite", f"status is {report.status!r} at a loss of {bad}")
        value = problem.objective.value()
        run(optimizer, problem, range(2), full=True)
        after = problem.objective.value()
        require(math.isfinite(after), f"the next steps after a loss of {bad} lead to {after}")
        if subject.globalized:
            require(after < value, f"the next steps after a loss of {bad} do not descend")


@conformance("safety")
def a_gradient_of_zero(subject: Subject) -> None:
    """In the first step and later: no exception, nothing that is not finite; a method that looks says so and stays."""
    for warm in (0, 2):
        problem = training(dtype=torch.float64)
        optimizer = subject.create(problem.model.parameters())
        run(optimizer, problem, range(warm), full=True)
        before = problem.parameters()
        flat = _spoilt(problem, 0.0)
        for _ in range(2):
            loss = _step(optimizer, flat, "a gradient of zero")
            require(loss == 0.0, f"step returned {loss} at a loss of 0")
        finite = all(bool(torch.isfinite(p).all()) for p in problem.model.parameters())
        require(finite, "parameters are not finite after a gradient of zero")
        if subject.guarded:
            status = optimizer.report.status
            require(status == "zero_gradient", f"status is {status!r} at a gradient of zero")
            require(same(problem.model.parameters(), before), "the parameters moved along a gradient of zero")


@conformance("safety")
def an_argument_that_is_no_objective(subject: Subject) -> None:
    """A closure, nothing, a number, a GradScaler: one clear sentence, and the parameters stay."""
    problem = training()
    optimizer = subject.create(problem.model.parameters())
    before = problem.parameters()
    wrong: list[tuple[Any, str]] = [(lambda: 1.0, "closure"), (None, "needs the objective"), (3.0, "float")]
    for argument, words in wrong:
        try:
            optimizer.step(argument)
        except ObjectiveError as error:
            require(words in str(error) and "\n" not in str(error), f"the message at {argument!r}: {error}")
        else:
            raise Failure(f"step({argument!r}) is taken")
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(problem.objective()).backward()
    try:
        scaler.step(optimizer, problem.objective)
    except ObjectiveError as error:
        require("GradScaler" in str(error), f"the message at a GradScaler: {error}")
    else:
        raise Failure("GradScaler.step is taken")
    require(same(problem.model.parameters(), before), "the parameters moved")


def _backward(outputs: Tensor, targets: Tensor) -> Tensor:
    loss = nn.functional.cross_entropy(outputs, targets)
    loss.backward()
    return loss


@conformance("safety")
def a_loss_that_cannot_be_used(subject: Subject) -> None:
    """One that calls backward(), is no scalar, is detached or a number: an error that says so, and nothing moves."""
    entropy: Any = nn.functional.cross_entropy
    losses: list[tuple[Any, str]] = [
        (_backward, "called backward()"),
        (lambda o, t: entropy(o, t, reduction="none"), "(24,)"),
        (lambda o, t: entropy(o, t).detach(), "no graph"),
        (lambda o, t: entropy(o, t).item(), "float"),
    ]
    for loss_fn, words in losses:
        problem = training()
        optimizer = subject.create(problem.model.parameters())
        before = problem.parameters()
        try:
            optimizer.step(Objective(problem.model, loss_fn, problem.inputs, problem.targets))
        except ObjectiveError as error:
            require(words in str(error), f"the message does not say {words!r}: {error}")
        else:
            raise Failure(f"no error for a loss where {words!r} should be said")
        require(same(problem.model.parameters(), before), f"the parameters moved ({words})")


def _parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(3, 2))]


def _error(subject: Subject, options: dict[str, Any], params: Any = None) -> str:
    """The message with which options are refused; a failure if they are taken or break something."""
    told = ", ".join(f"{name}={value!r}" for name, value in options.items()) or str(params)
    try:
        subject.create(_parameters() if params is None else params, **options)
    except ConfigError as error:
        require("\n" not in str(error), f"{told}: the message has several lines")
        return str(error)
    except Exception as error:
        raise Failure(f"{told}: {type(error).__name__} instead of a ConfigError: {error}") from error
    raise Failure(f"{told} is taken")


@conformance("safety")
def options_that_do_not_exist(subject: Subject) -> None:
    """Every option misspelt, and one of a group: refused with the name that was meant."""
    only_if(subject.own, "the options of an adapter are another library's")
    _error(subject, {"no_such_option": 1})
    for name in subject.fields:
        if len(name) > 4:  # nothing is near to a shorter one
            wrong = name[:-2] + name[-1] + name[-2] if name[-1] != name[-2] else name + "x"
            message = _error(subject, {wrong: 1})
            require("Did you mean" in message, f"{wrong}: the message proposes nothing: {message}")
    _error(subject, {}, [{"params": _parameters(), "lrr": 0.1}])


@conformance("safety")
def option_values_of_a_wrong_type_or_range(subject: Subject) -> None:
    """For every option a value of another type, one beyond each bound, and one that is no choice: all refused."""
    only_if(subject.own, "the options of an adapter are another library's")
    hints = typing.get_type_hints(subject.cls.Config)  # type: ignore[union-attr]
    for name, field in subject.fields.items():
        hint = hints[name]
        if hint is Any:
            continue
        _error(subject, {name: _of_wrong_type(hint)})
        for kind, bound in (field.metadata.get("bounds") or {}).items():
            beyond = {"ge": bound - 1, "gt": bound, "le": bound + 1, "lt": bound}[kind]
            _error(subject, {name: [beyond] if typing.get_origin(hint) is list else beyond})
        if field.metadata.get("choices") and typing.get_origin(hint) is None and hint is str:
            message = _error(subject, {name: "no_such_choice"})
            require(str(field.metadata["choices"][0]) in message, f"{name}: the message does not list the choices")
    for name in ("lr", "weight_decay"):
        if name in subject.fields:
            message = _error(subject, {}, [{"params": _parameters(), name: -0.1}])
            require(name in message, f"a group with {name}=-0.1: {message}")


def _of_wrong_type(hint: Any) -> Any:
    """A value that an annotation does not allow."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if dataclasses.is_dataclass(hint):
        return 3
    origin = typing.get_origin(hint) or hint
    return {bool: "maybe", int: 2.5, float: "fast", str: 3.5, list: 3.5, dict: 3.5}.get(origin, object())


CHECKS = (
    a_loss_that_is_not_finite,
    a_gradient_of_zero,
    an_argument_that_is_no_objective,
    a_loss_that_cannot_be_used,
    options_that_do_not_exist,
    option_values_of_a_wrong_type_or_range,
)
