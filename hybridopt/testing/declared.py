"""Checks of what a class declares: its options, search space and rates mean what they say."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from hybridopt.objective import Objective
from hybridopt.testing.outcome import conformance, only_if, require
from hybridopt.testing.problems import run, training
from hybridopt.testing.states import same
from hybridopt.testing.subject import Subject

_DECAY = 0.3


@conformance("declared")
def the_class_says_what_it_is(subject: Subject) -> None:
    """A docstring, a summary of one line, a known family, and the data that a step is meant for."""
    only_if(subject.own, "an adapter has the words of another library")
    cls: Any = subject.cls
    require((cls.__doc__ or "").strip(), "no docstring")
    require(cls.summary and "\n" not in cls.summary, "no summary of one line")
    families = ("first-order", "quasi-newton", "newton", "structured", "hybrid")
    require(cls.family in families, f"family is {cls.family!r}, none of {', '.join(families)}")
    require(cls.batch in ("mini", "large", "full"), f"batch is {cls.batch!r}: mini, large or full")


@conformance("declared")
def the_search_space_fits_the_options(subject: Subject) -> None:
    """At least one option says where tuning looks, and everything in that space is taken."""
    only_if(subject.own, "an adapter declares no options")
    only_if(subject.family != "hybrid" or _spaces(subject), "its members have search spaces of their own")
    require(_spaces(subject), "no option declares a search space: option(..., search=('log', low, high))")
    for name, space in _spaces(subject).items():
        if isinstance(space, tuple) and space and space[0] in ("log", "uniform"):
            _, low, high = space
            require(low < high, f"{name}: {space} is empty")
            require(space[0] == "uniform" or low > 0, f"{name}: {space} begins at {low}")
            values: list[Any] = [low, high]
        else:
            values = list(space)
        for value in values:
            try:
                subject.create([nn.Parameter(torch.ones(3, 2))], **{name: value})
            except ValueError as error:
                require(False, f"{name}={value!r} is in the search space but refused: {error}")


def _spaces(subject: Subject) -> dict[str, Any]:
    spaces = {name: field.metadata.get("search") for name, field in subject.fields.items()}
    return {name: space for name, space in spaces.items() if space is not None}


@conformance("declared")
def schedulers_set_the_rate(subject: Subject) -> None:
    """Torch's schedulers move `lr` as they do for torch's own, without a warning, and a rate of zero stops all."""
    only_if(subject.has_rate, "no learning rate")
    problem = training()
    optimizer = subject.create(problem.model.parameters())
    peer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=optimizer.param_groups[0]["lr"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        schedule, wanted = (lr_scheduler.StepLR(each, 1, gamma=0.5) for each in (optimizer, peer))
        for step in range(2):
            rates = schedule.get_last_lr(), wanted.get_last_lr()
            require(rates[0] == rates[1], f"in step {step} the rate is {rates[0]} instead of {rates[1]}")
            optimizer.step(problem.batch(step))
            peer.step()
            schedule.step()
            wanted.step()
    only_if(subject.name != "torch:LBFGS", "the search of torch.optim.LBFGS divides by the rate")
    run(optimizer, problem, range(2, 4))  # over the switch of the hybrids
    before = problem.parameters()
    for step in range(4, 6):
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        run(optimizer, problem, range(step, step + 1))
    require(same(problem.model.parameters(), before), "the parameters move at a rate of zero")


@conformance("declared")
def the_rate_changes_the_steps(subject: Subject) -> None:
    """Half the rate gives other steps, where no search may come to the same from another first trial."""
    only_if(subject.own and subject.has_rate, "no learning rate of its own")
    only_if("lr" in subject.fields, "the rate is that of its members")
    only_if(not subject.globalized, "the rate is a search's first trial, or a factor before a ratio test")
    steps = []
    rate = float(subject.options.get("lr", subject.fields["lr"].default))
    for factor in (1.0, 0.5):
        problem = training(dtype=torch.float64)
        optimizer = subject.create(problem.model.parameters(), lr=factor * rate)
        before = problem.objective.position()
        for _ in range(2):
            optimizer.step(problem.objective)
        steps.append(problem.objective.position() - before)
    require(bool(steps[0].any()), "two steps move nothing")
    require(not torch.equal(steps[0], steps[1]), f"lr={rate} and lr={rate / 2} are the same steps")


@conformance("declared")
def weight_decay_is_what_is_declared(subject: Subject) -> None:
    """Part of the function where the class says so (`coupled_decay`), else a shrinking of the parameters beside it."""
    only_if(subject.own, "an adapter's decay is its class's own")
    only_if(subject.has_decay, "no weight decay")
    problem = training(dtype=torch.float64)
    if subject.create(problem.model.parameters()).coupled_decay:
        _coupled(subject)
    else:
        _decoupled(subject)


def _coupled(subject: Subject) -> None:
    """The same path as with w/2 ||p||^2 in the loss, or, with a matrix that does not see it there, always downwards."""
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    decay = _decay(subject)
    more: dict[str, Any] = {}
    if "curvature" in subject.fields and "hessian" in (subject.fields["curvature"].metadata.get("choices") or ()):
        more["curvature"] = "hessian"  # a Gauss-Newton matrix has no part of a regularizer inside the loss
    optimizer = subject.create(problem.model.parameters(), **decay, **more)

    def regularized(outputs: Tensor, targets: Tensor) -> Tensor:
        square = sum((p**2).sum() for p in twin.model.parameters())
        return nn.functional.cross_entropy(outputs, targets) + _DECAY / 2 * square

    if subject.family == "structured" or (subject.globalized and "curvature" in subject.fields and not more):
        values = []
        for _ in range(4):
            values.append(problem.objective.value() + _DECAY / 2 * float((problem.objective.position() ** 2).sum()))
            optimizer.step(problem.objective)
        require(values[-1] < values[0], f"the regularized loss goes {values}")
        return
    explicit = Objective(twin.model, regularized, twin.inputs, twin.targets)
    peer = subject.create(twin.model.parameters(), **more)
    for step in range(3):
        optimizer.step(problem.objective)
        peer.step(explicit)
        far = float((problem.objective.position() - explicit.position()).abs().max())
        require(far <= 1e-6, f"step {step} with weight decay is {far:.3g} off the one with the term in the loss")


def _decoupled(subject: Subject) -> None:
    """The first step is the plain one, less the same share of every entry of a parameter."""
    ends = []
    for decay in ({}, _decay(subject)):
        problem = training(dtype=torch.float64)
        start = problem.parameters()
        subject.create(problem.model.parameters(), **decay).step(problem.objective)
        ends.append(problem.parameters())
    shrunk = False
    for was, plain, decayed in zip(start, *ends, strict=True):
        share = (plain - decayed) / was
        low, high = float(share.min()), float(share.max())
        even = high - low <= 1e-9 + 1e-6 * abs(high)
        require(even and -1e-9 <= low <= 1, f"weight decay takes shares from {low:.3g} to {high:.3g} of one parameter")
        shrunk |= high > 1e-12
    require(shrunk, "weight decay changes nothing in the first step")


def _decay(subject: Subject) -> dict[str, Any]:
    if "weight_decay" in subject.fields:
        return {"weight_decay": _DECAY}
    only_if(False, "the weight decay is that of its members")
    return {}


CHECKS = (
    the_class_says_what_it_is,
    the_search_space_fits_the_options,
    schedulers_set_the_rate,
    the_rate_changes_the_steps,
    weight_decay_is_what_is_declared,
)
