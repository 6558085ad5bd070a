"""Checks with every kind of parameter set: groups, frozen, tied, shared, empty, several dtypes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core import ObjectiveError
from hybridopt.objective import Objective
from hybridopt.testing.outcome import Failure, conformance, only_if, require
from hybridopt.testing.problems import Shared, Tied, frozen, plain, run, training
from hybridopt.testing.states import same
from hybridopt.testing.subject import Subject


def _falls(subject: Subject, model: Callable[[], nn.Module]) -> Any:
    """Takes some steps; returns the problem, whose loss must have fallen with every parameter in its place."""
    problem = training(model, dtype=torch.float64)
    still = {name: p.detach().clone() for name, p in problem.model.named_parameters() if not p.requires_grad}
    storage = {name: p.data_ptr() for name, p in problem.model.named_parameters()}
    optimizer = subject.create(problem.model.parameters())
    losses = run(optimizer, problem, range(6), full=True)
    end, now = problem.objective.value(), dict(problem.model.named_parameters())
    require(end < losses[0], f"after 6 steps the loss is {end:.6g}, from {losses[0]:.6g}")
    require({n: p.data_ptr() for n, p in now.items()} == storage, "a parameter's storage was replaced")
    for name, was in still.items():
        require(torch.equal(now[name], was) and now[name].grad is None, f"the frozen {name} moved, or has a grad")
    return problem


@conformance("parameters")
def frozen_parameters(subject: Subject) -> None:
    """They stay, and the others go on."""
    _falls(subject, frozen)


@conformance("parameters")
def tied_parameters(subject: Subject) -> None:
    """One weight in two modules stays one."""
    model = _falls(subject, Tied).model
    require(model.decoder.weight is model.encoder.weight, "the weight is no longer tied")


@conformance("parameters")
def a_shared_module(subject: Subject) -> None:
    """One module under two names, called twice, stays one."""
    model = _falls(subject, Shared).model
    require(model.again is model.first, "the module is no longer shared")


@conformance("parameters")
def a_part_of_the_model(subject: Subject) -> None:
    """Parameters that the optimizer was not given stay and get no grad."""
    problem = training(dtype=torch.float64)
    last = problem.model[2]
    before = last.weight.detach().clone()
    optimizer = subject.create(problem.model[0].parameters())
    losses = run(optimizer, problem, range(5), full=True)
    require(problem.objective.value() < losses[0], "the loss did not fall")
    require(torch.equal(last.weight, before) and last.weight.grad is None, "a parameter of no group moved")


@conformance("parameters")
def an_empty_group(subject: Subject) -> None:
    """A group without parameters does no harm and stays."""
    only_if(subject.has_groups, "the class takes one group only")
    problem = training(dtype=torch.float64)
    groups = [{"params": problem.model[0].parameters()}, {"params": []}, {"params": problem.model[2].parameters()}]
    optimizer = subject.create(groups)
    losses = run(optimizer, problem, range(5), full=True)
    require(problem.objective.value() < losses[0], "the loss did not fall")
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    require(sizes == [2, 0, 2], f"the groups have {sizes} parameters instead of [2, 0, 2]")


@conformance("parameters")
def a_group_with_rate_zero(subject: Subject) -> None:
    """It stands still while the other goes on."""
    only_if(subject.has_groups and subject.has_rate, "no learning rate for each group")
    problem = training(dtype=torch.float64)
    first = problem.model[0]
    before = [p.detach().clone() for p in first.parameters()]
    optimizer = subject.create([{"params": first.parameters(), "lr": 0.0}, {"params": problem.model[2].parameters()}])
    losses = run(optimizer, problem, range(5), full=True)
    require(same(first.parameters(), before), "the group with lr=0 moved")
    require(problem.objective.value() < losses[0], "the other group did not go on")


@conformance("parameters")
def freezing_and_thawing_between_steps(subject: Subject) -> None:
    """The number of trainable parameters may change from step to step."""
    only_if(subject.name != "torch:LBFGS", "torch.optim.LBFGS goes on along directions that it remembers")
    problem = training(dtype=torch.float64)
    optimizer = subject.create(problem.model.parameters())
    weight = problem.model[0].weight
    run(optimizer, problem, range(3), full=True)
    weight.requires_grad_(False)
    before = weight.detach().clone()
    run(optimizer, problem, range(3), full=True)
    require(torch.equal(weight, before), "it moved while it was frozen")
    weight.requires_grad_(True)
    run(optimizer, problem, range(3), full=True)
    require(not torch.equal(weight, before), "it did not move again")


@conformance("parameters")
def float32_and_float64(subject: Subject) -> None:
    """Parameters keep their dtype, and so do the tensors that are remembered under them, float32 counters aside."""
    for dtype in (torch.float32, torch.float64):
        problem = training(dtype=dtype)
        optimizer = subject.create(problem.model.parameters())
        losses = run(optimizer, problem, range(6), full=True)
        require(problem.objective.value() < losses[0], f"in {dtype} the loss did not fall")
        for name, parameter in problem.model.named_parameters():
            require(parameter.dtype == dtype == parameter.grad.dtype, f"{name} is in {parameter.dtype}")
            for key, leaf in dict(optimizer.state.get(parameter, {})).items():
                if isinstance(leaf, Tensor) and leaf.dim() and leaf.is_floating_point():
                    require(leaf.dtype == dtype, f"the state {key!r} of {name} is in {leaf.dtype}, not {dtype}")


class _Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Linear(4, 5), nn.Linear(5, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.high(torch.tanh(self.low(x.float())).double())


@conformance("parameters")
def two_precisions_in_one_model(subject: Subject) -> None:
    """A float32 layer before a float64 one."""
    problem = training()
    model = _Mixed()
    objective = Objective(model, nn.functional.cross_entropy, problem.inputs, problem.targets)
    optimizer = subject.create(model.parameters())
    losses = [float(optimizer.step(objective)) for _ in range(5)]
    require(objective.value() < losses[0], "the loss did not fall")
    kept = (model.low.weight.dtype, model.high.weight.grad.dtype)
    require(kept == (torch.float32, torch.float64), f"dtypes are {kept}")


@conformance("parameters")
def parameters_that_cannot_be_optimized(subject: Subject) -> None:
    """None at all, all frozen, another model's: refused with the reason."""
    try:
        subject.create([])
    except ValueError:
        pass
    else:
        raise Failure("an empty list of parameters is taken")
    problem = training()
    optimizer = subject.create(problem.model.requires_grad_(False).parameters())
    _refused(optimizer, problem.objective, "no parameter to optimize", "a model whose parameters are all frozen")
    problem = training()
    optimizer = subject.create(copy.deepcopy(plain()).parameters())
    _refused(optimizer, problem.objective, "do not belong", "the parameters of another model")


def _refused(optimizer: Any, objective: Objective, words: str, what: str) -> None:
    try:
        optimizer.step(objective)
    except ObjectiveError as error:
        require(words in str(error), f"{what}: the message does not say {words!r}: {error}")
    else:
        raise Failure(f"{what}: no error")


CHECKS = (
    frozen_parameters,
    tied_parameters,
    a_shared_module,
    a_part_of_the_model,
    an_empty_group,
    a_group_with_rate_zero,
    freezing_and_thawing_between_steps,
    float32_and_float64,
    two_precisions_in_one_model,
    parameters_that_cannot_be_optimized,
)
