"""Every check finds the mistake that it is there for, and lets a correct optimizer pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

import hybridopt as ho
from hybridopt.core import ConfigError, UnknownNameError
from hybridopt.testing import CHECKS, Check, Failure, NotApplicable, Outcome, Subject, check

BY_NAME = {each.name: each for each in CHECKS}


class Fine(ho.Optimizer):
    """Gradient descent with momentum that breaks no rule.

    Report: ``speed`` (length of the velocity).
    """

    summary = "gradient descent with momentum"

    @dataclass
    class Config:
        lr: float = ho.option(0.1, ge=0, search=("log", 1e-3, 1.0))
        momentum: float = ho.option(0.5, ge=0, lt=1)
        weight_decay: float = ho.option(0.0, ge=0)
        kind: str = ho.option("plain", choices=["plain", "other"])

    def update(self, objective: ho.Objective) -> None:
        _, gradient = objective.value_and_grad()
        velocity = self.velocity(gradient)
        velocity.mul_(self.config.momentum).add_(gradient)
        self.note(speed=lambda: float(velocity.norm()))
        self.move(objective, velocity)

    def velocity(self, gradient: Tensor) -> Tensor:
        kept = self.memory.get("velocity")
        if kept is None or kept.shape != gradient.shape:
            kept = self.memory["velocity"] = torch.zeros_like(gradient)
        return kept

    def move(self, objective: ho.Objective, velocity: Tensor) -> None:
        objective.commit(objective.position() - self.rate(objective) * velocity)


class Guarded(Fine):
    """One that looks whether it can descend."""

    def update(self, objective: ho.Objective) -> None:
        value, gradient = objective.value_and_grad()
        if not self.can_descend(value, float(gradient.norm())):
            return
        self.note(accepted=True)
        objective.commit(objective.position() - self.rate(objective) * gradient)


class Ascends(Fine):
    def move(self, objective: ho.Objective, velocity: Tensor) -> None:
        super().move(objective, -velocity)


class Forgets(Fine):
    def velocity(self, gradient: Tensor) -> Tensor:
        self.kept = getattr(self, "kept", None)
        if self.kept is None or self.kept.shape != gradient.shape:
            self.kept = torch.zeros_like(gradient)
        return self.kept


class RemembersAFunction(Fine):
    def update(self, objective: ho.Objective) -> None:
        super().update(objective)
        self.memory["rule"] = lambda x: x


class RemembersAnObject(Fine):
    def update(self, objective: ho.Objective) -> None:
        super().update(objective)
        self.memory["share"] = Fraction(1, 3)


class Shares(Fine):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.memory["velocity"] = state_dict["state"]["memory"]["velocity"]


class LoadsAnything(Fine):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        torch.optim.Optimizer.load_state_dict(self, state_dict)


class LoadsHalf(Fine):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.memory["velocity"] = torch.zeros(1)
        super().load_state_dict(state_dict)


class Draws(Fine):
    def move(self, objective: ho.Objective, velocity: Tensor) -> None:
        super().move(objective, velocity + 1e-3 * torch.randn_like(velocity))


class KeepsTheGraph(Fine):
    def update(self, objective: ho.Objective) -> None:
        super().update(objective)
        self.kept = objective()


class KeepsTheBatch(Fine):
    def update(self, objective: ho.Objective) -> None:
        super().update(objective)
        self.kept = objective


class EvaluatesElsewhere(Fine):
    @contextmanager
    def evaluation(self) -> Iterator[None]:
        with torch.no_grad():
            self.param_groups[0]["params"][0].add_(1.0)
        yield


class CannotShrink(Fine):
    def velocity(self, gradient: Tensor) -> Tensor:
        return self.memory.setdefault("velocity", torch.zeros_like(gradient))


class MovesTheWholeModel(Fine):
    def move(self, objective: ho.Objective, velocity: Tensor) -> None:
        super().move(objective, velocity)
        with torch.no_grad():
            for parameter in objective.model.parameters():
                parameter.mul_(0.999)


class MovesFrozen(Fine):
    def move(self, objective: ho.Objective, velocity: Tensor) -> None:
        super().move(objective, velocity)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(0.999)


class NewStorage(Fine):
    def move(self, objective: ho.Objective, velocity: Tensor) -> None:
        super().move(objective, velocity)
        for parameter in objective.space.parameters:
            parameter.data = parameter.data.clone()


class IgnoresTheRate(Fine):
    def rate(self, objective: ho.Objective) -> float:
        return 0.1


class StateInFloat32(Fine):
    def update(self, objective: ho.Objective) -> None:
        super().update(objective)
        for parameter in objective.space.parameters:
            self.state[parameter]["kept"] = torch.zeros_like(parameter, dtype=torch.float32)


class RunsIntoNaN(Guarded):
    def can_descend(self, value: float, grad_norm: float) -> bool:
        self.note(status="fine")
        return True


class StopsAtNothing(Guarded):
    def can_descend(self, value: float, grad_norm: float) -> bool:
        return grad_norm == 0.0 or super().can_descend(value, grad_norm)


class RaisesAtNaN(Fine):
    def update(self, objective: ho.Objective) -> None:
        if not torch.isfinite(objective.value_and_grad()[1]).all():
            raise ArithmeticError("nan")
        super().update(objective)


class DividesByTheGradient(Fine):
    def move(self, objective: ho.Objective, velocity: Tensor) -> None:
        super().move(objective, velocity / velocity.norm())


class TakesAnything(Fine):
    def _check_objective(self, objective: Any) -> None:
        pass

    def step(self, objective: Any = None) -> Tensor:  # type: ignore[override]
        return super().step(objective) if isinstance(objective, ho.Objective) else torch.zeros(())


class MovesBeforeItLooks(Fine):
    def update(self, objective: ho.Objective) -> None:
        with torch.no_grad():
            objective.space.parameters[0].mul_(1.001)
        super().update(objective)


class UncheckedOptions(Fine):
    def __init__(self, params: Any, config: Any = None, *, escape: Any = None, **options: Any) -> None:
        known = {name: options[name] for name in options if name in self.Config.__dataclass_fields__}
        known = {name: value for name, value in known.items() if type(value) is float and value >= 0}
        super().__init__(params, config, escape=escape, **known)


class Evades(Fine):
    def update(self, objective: ho.Objective) -> None:
        super().update(objective)
        objective.model(objective.inputs)


class DifferentiatesItself(Fine):
    def update(self, objective: ho.Objective) -> None:
        super().update(objective)
        first = torch.autograd.grad(objective(), objective.space.parameters, create_graph=True)
        torch.autograd.grad(sum((part**2).sum() for part in first), objective.space.parameters)


class LooksAtTheFirstSamples(Fine):
    def update(self, objective: ho.Objective) -> None:
        super().update(objective)
        with torch.no_grad():
            objective.commit(objective.position() * (1 + 1e-3 * type(objective).__name__.count("Micro")))


class BehindAutogradsBack(Fine):
    def move(self, objective: ho.Objective, velocity: Tensor) -> None:
        steps = objective.space.tensors(self.rate(objective) * velocity)
        for parameter, step in zip(objective.space.parameters, steps, strict=True):
            parameter.data.sub_(step)


class Secretive(Fine):
    def update(self, objective: ho.Objective) -> None:
        super().update(objective)
        self.note(secret=1.0)


class ReportsALizt(Fine):
    def update(self, objective: ho.Objective) -> None:
        super().update(objective)
        self.note(speed=[1.0])


class ReportsWithEffect(Fine):
    def update(self, objective: ho.Objective) -> None:
        super().update(objective)
        self.note(speed=lambda: float(self.memory["velocity"].mul_(0.5).norm()))


class StepsTwice(Fine):
    def step(self, objective: Any = None) -> Tensor:  # type: ignore[override]
        super().step(objective)
        return super().step(objective)


class CallsHooksItself(Fine):
    def step(self, objective: Any = None) -> Tensor:  # type: ignore[override]
        for hook in self._optimizer_step_pre_hooks.values():
            hook(self, (self, objective), {})
        return super().step(objective)


class NoSpace(Fine):
    @dataclass
    class Config(Fine.Config):
        lr: float = ho.option(0.1, ge=0)


class SpaceOutOfBounds(Fine):
    @dataclass
    class Config(Fine.Config):
        lr: float = ho.option(0.1, ge=0, le=0.5, search=("log", 1e-3, 1.0))


class NoSummary(Fine):
    """Gradient descent."""

    summary = ""


class CallsItsDecayDecoupled(Fine):
    coupled_decay = False

    def move(self, objective: ho.Objective, velocity: Tensor) -> None:
        super().move(objective, velocity.sign())


class DecaysTwice(Fine):
    def move(self, objective: ho.Objective, velocity: Tensor) -> None:
        decay = self.param_groups[0]["weight_decay"]
        super().move(objective, velocity + decay * objective.position())


class CallsItselfNewton(Fine):
    family, batch = "newton", "full"


class Overshoots(CallsItselfNewton):
    def rate(self, objective: ho.Objective) -> Any:
        return 100.0 * super().rate(objective)


class DropsEmptyGroups(Fine):
    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__([group for group in params if not isinstance(group, dict) or group["params"] != []], **options)


class TakesNoParameters(Fine):
    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(list(params) or [torch.nn.Parameter(torch.ones(1))], **options)


# A mistake, the check that must find it, and words by which it must say what broke.
MISTAKES: list[tuple[type, str, str]] = [
    (Ascends, "falls on a quadratic", "after 10 steps on a convex quadratic the value is"),
    (Ascends, "falls on a network for digits", "after 12 steps the loss is"),
    (CallsItselfNewton, "reaches the end of rosenbrocks valley", "the minimum is 0"),
    (CallsItselfNewton, "says how the step went", "accepted is None"),
    (Overshoots, "never goes up", "the value rose from"),
    (DropsEmptyGroups, "an empty group", "the groups have [2, 2] parameters instead of [2, 0, 2]"),
    (TakesNoParameters, "parameters that cannot be optimized", "an empty list of parameters is taken"),
    (Forgets, "resumes to the last bit on mini batches", "losses after a resume at step 4 differ"),
    (Forgets, "resumes to the last bit on one function", "losses after a resume at step 4 differ"),
    (RemembersAFunction, "resumes to the last bit on one function", "weights_only=True: /memory/rule is neither"),
    (RemembersAnObject, "resumes to the last bit on mini batches", "weights_only=True: /memory/share is neither"),
    (Shares, "a loaded state is its own", "shared with the state that was loaded"),
    (LoadsAnything, "a state that does not fit", "a state of another method is taken"),
    (LoadsHalf, "a state that does not fit", "was refused, but half taken over: /state/memory/velocity"),
    (Forgets, "survives deepcopy", "the copy goes on with losses"),
    (RemembersAFunction, "survives pickle", "the optimizer cannot be copied"),
    (Draws, "repeats under a seed", "the global seed changes a run"),
    (Draws, "a step leaves what one forward leaves", "drew from the global generator"),
    (KeepsTheGraph, "keeps no graph and no batch", "graphs live on after step 0"),
    (KeepsTheBatch, "keeps no graph and no batch", "the batch is kept"),
    (EvaluatesElsewhere, "evaluation gives the parameters back", "the parameters differ after evaluation()"),
    (StepsTwice, "returns loss and gradient of the start", "the loss at its start is"),
    (MovesFrozen, "frozen parameters", "the frozen 0.weight moved"),
    (NewStorage, "tied parameters", "storage was replaced"),
    (NewStorage, "a shared module", "storage was replaced"),
    (MovesTheWholeModel, "a part of the model", "a parameter of no group moved"),
    (IgnoresTheRate, "a group with rate zero", "the group with lr=0 moved"),
    (CannotShrink, "freezing and thawing between steps", "must match the size"),
    (StateInFloat32, "float32 and float64", "'kept' of 0.weight is in torch.float32"),
    (Ascends, "two precisions in one model", "the loss did not fall"),
    (TakesAnything, "an argument that is no objective", "is taken"),
    (RunsIntoNaN, "a loss that is not finite", "the parameters moved at a loss of nan"),
    (RaisesAtNaN, "a loss that is not finite", "step raised ArithmeticError at a loss of nan"),
    (StopsAtNothing, "a gradient of zero", "status is None at a gradient of zero"),
    (DividesByTheGradient, "a gradient of zero", "step returned nan at a loss of 0"),
    (MovesBeforeItLooks, "a loss that cannot be used", "the parameters moved"),
    (UncheckedOptions, "options that do not exist", "no_such_option=1 is taken"),
    (UncheckedOptions, "option values of a wrong type or range", "lr='fast' is taken"),
    (Evades, "the ledger is what autograd did", "autograd did {'forward': 6"),
    (DifferentiatesItself, "the ledger is what autograd did", "autograd did {'forward': 0"),
    (Evades, "a step leaves what one forward leaves", "drew from the global generator"),
    (LooksAtTheFirstSamples, "micro batches are the batch", "after 3 steps the parameters differ by"),
    (BehindAutogradsBack, "operators of the last point are stale", "a Hessian of before the step still multiplies"),
    (Secretive, "the report is plain and documented", "not in the Report paragraph of the docstring: secret"),
    (ReportsALizt, "the report is plain and documented", "speed is a list"),
    (ReportsWithEffect, "reading the report changes nothing", "where the report is read"),
    (CallsHooksItself, "step hooks fire once", "['pre', 'pre', 'post']"),
    (NoSummary, "the class says what it is", "no summary of one line"),
    (NoSpace, "the search space fits the options", "no option declares a search space"),
    (SpaceOutOfBounds, "the search space fits the options", "lr=1.0 is in the search space but refused"),
    (IgnoresTheRate, "schedulers set the rate", "the parameters move at a rate of zero"),
    (IgnoresTheRate, "the rate changes the steps", "lr=0.1 and lr=0.05 are the same steps"),
    (CallsItsDecayDecoupled, "weight decay is what is declared", "weight decay takes shares from"),
    (DecaysTwice, "weight decay is what is declared", "off the one with the term in the loss"),
]


@pytest.mark.parametrize(("cls", "name", "words"), MISTAKES, ids=lambda value: getattr(value, "__name__", value))
def test_a_mistake_is_found_and_named(cls: type, name: str, words: str) -> None:
    outcome = BY_NAME[name].run(cls)
    assert outcome.failed, outcome
    assert words in outcome.reason
    assert "\n" not in outcome.reason


@pytest.mark.parametrize("cls", [Fine, Guarded])
@pytest.mark.parametrize("one", CHECKS, ids=str)
def test_a_correct_optimizer_passes(cls: type, one: Check) -> None:
    one(cls)


def test_every_check_is_known_to_find_something() -> None:
    assert {name for _, name, _ in MISTAKES} == BY_NAME.keys()


def test_outcomes_in_order() -> None:
    outcomes = check(Fine, {"lr": 0.05})
    assert [outcome.check for outcome in outcomes] == list(BY_NAME)
    assert {outcome.status for outcome in outcomes} == {"pass", "not applicable"}
    assert {outcome.method for outcome in outcomes} == {"Fine"}
    assert all(isinstance(outcome, Outcome) and outcome.seconds > 0 for outcome in outcomes)
    assert [outcome.status for outcome in check(Ascends, checks=[BY_NAME["falls on a quadratic"]])] == ["fail"]


def test_a_test_runner_sees_failures_and_skips() -> None:
    with pytest.raises(Failure, match="after 10 steps on a convex quadratic"):
        BY_NAME["falls on a quadratic"](Ascends)
    with pytest.raises(NotApplicable, match="asked of quasi-Newton"):
        BY_NAME["never goes up"](Fine)


def test_a_clear_refusal_is_no_failure() -> None:
    class Refuses(Fine):
        def update(self, objective: ho.Objective) -> None:
            raise ho.core.CombinationError("Refuses needs layers that it knows.")

    outcome = BY_NAME["falls on a quadratic"].run(Refuses)
    assert (outcome.status, outcome.reason) == ("not applicable", "refused: Refuses needs layers that it knows.")


def test_checks_leave_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check(Fine, checks=[BY_NAME["repeats under a seed"], BY_NAME["falls on a quadratic"]])
    assert torch.equal(torch.get_rng_state(), before)


def test_what_can_be_checked() -> None:
    assert Subject("adam").cls is ho.optimizers.Adam
    assert Subject(ho.optimizers.AdaHessian).options == Subject("adahessian").options != {}
    assert Subject("hybridopt.optimizers.lion:Lion").cls is ho.optimizers.Lion
    assert not Subject("torch:AdamW").own
    with pytest.raises(UnknownNameError, match="Did you mean 'adam'"):
        Subject("adm")
    with pytest.raises(ConfigError, match=r"must subclass hybridopt\.Optimizer"):
        Subject(torch.optim.Adam)
    with pytest.raises(ConfigError, match="name or the class"):
        Subject(3)  # type: ignore[arg-type]
