"""Checks of the state: a resumed run, a copy and a second run do what the first one does."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core import ConfigError
from hybridopt.factory import create
from hybridopt.objective import Objective
from hybridopt.testing.outcome import Failure, conformance, only_if, require
from hybridopt.testing.problems import Training, run, training
from hybridopt.testing.states import assert_same_state, flat_state, same
from hybridopt.testing.subject import Subject

_STEPS = 6


def _checkpoint(problem: Training, optimizer: Any) -> dict[str, Any]:
    """Writes everything to a file and reads it as a stranger would."""
    file = io.BytesIO()
    state = {"model": problem.model.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
    try:
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)
    except Exception as error:
        strange = [path for path, leaf in flat_state(state["optimizer"]["state"]).items() if not _plain(leaf)]
        raise Failure(
            f"the state cannot be saved and read with weights_only=True: {', '.join(strange[:3])} is neither a tensor "
            f"nor a number, text or None ({type(error).__name__})"
        ) from error


def _plain(leaf: Any) -> bool:
    return leaf is None or isinstance(leaf, Tensor | bool | int | float | str)


def _resumes(subject: Subject, model: str, dtype: torch.dtype, stop: int, *, full: bool) -> None:
    whole = training(model, dtype=dtype)
    undisturbed = subject.create(whole.model.parameters())
    losses = run(undisturbed, whole, range(_STEPS), full=full)
    problem = training(model, dtype=dtype)
    optimizer = subject.create(problem.model.parameters())
    found = run(optimizer, problem, range(stop), full=full)
    saved = _checkpoint(problem, optimizer)
    torch.manual_seed(12345)
    problem = training(model, dtype=dtype)
    optimizer = subject.create(problem.model.parameters())
    problem.model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["random"])
    found += run(optimizer, problem, range(stop, _STEPS), full=full)
    require(found == losses, f"losses after a resume at step {stop} differ: {found} instead of {losses}")
    assert_same_state(problem.model.state_dict(), whole.model.state_dict())
    assert_same_state(optimizer.state_dict(), undisturbed.state_dict())


@conformance("state")
def resumes_to_the_last_bit_on_mini_batches(subject: Subject) -> None:
    """After four steps and a checkpoint, read with ``weights_only=True``; dropout, BatchNorm, float32."""
    _resumes(subject, "both", torch.float32, 4, full=False)


@conformance("state")
def resumes_to_the_last_bit_on_one_function(subject: Subject) -> None:
    """After four steps and a checkpoint; all samples, float64."""
    _resumes(subject, "plain", torch.float64, 4, full=True)


@conformance("state")
def a_loaded_state_is_its_own(subject: Subject) -> None:
    """No tensor is shared with the state that was loaded."""
    problem, other = training(), training()
    optimizer, twin = subject.create(problem.model.parameters()), subject.create(other.model.parameters())
    run(optimizer, problem, range(4), full=True)
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved["state"])
    twin.load_state_dict(saved)
    mine = {id(leaf) for leaf in flat_state(saved["state"]).values() if isinstance(leaf, Tensor)}
    shared = [path for path, leaf in flat_state(twin.state_dict()["state"]).items() if id(leaf) in mine]
    shared = [path for path in shared if isinstance(flat_state(twin.state_dict()["state"])[path], Tensor)]
    require(not shared, f"shared with the state that was loaded: {shared[:3]}")
    run(twin, other, range(2), full=True)
    assert_same_state(saved["state"], before)


def _other_shapes() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


@conformance("state")
def a_state_that_does_not_fit(subject: Subject) -> None:
    """Of another method, another model, other groups, or none at all: a sentence that says so; nothing changes."""
    problem, other = training(), training(_other_shapes)
    optimizer = subject.create(problem.model.parameters())
    run(optimizer, problem, range(3), full=True)
    before = copy.deepcopy(optimizer.state_dict())
    model = subject.create(other.model.parameters())
    run(model, other, range(2), full=True)
    part = subject.create(training().model[0].parameters())
    peer = create("adam" if type(optimizer).__name__ != "Adam" else "sgd", training().model.parameters())
    states: list[tuple[str, Any, str]] = [
        ("of another method", peer.state_dict(), type(peer).__name__),
        ("of a model with other shapes", model.state_dict(), "(6, 4)"),
        ("of fewer parameters", part.state_dict(), "2"),
        ("of a model instead of an optimizer", problem.model.state_dict(), "param_groups"),
    ]
    for what, state, words in states:
        try:
            optimizer.load_state_dict(state)
        except ConfigError as error:
            told = words in str(error) and "\n" not in str(error)
            require(told, f"the message at a state {what} does not say {words!r} in one line: {error}")
        except Exception as error:
            raise Failure(f"a state {what}: {type(error).__name__} instead of a ConfigError: {error}") from error
        else:
            raise Failure(f"a state {what} is taken")
        try:
            assert_same_state(optimizer.state_dict(), before)
        except Failure as error:
            raise Failure(f"a state {what} was refused, but half taken over: {error}") from error
    run(optimizer, problem, range(1), full=True)


def _importable(subject: Subject) -> bool:
    return subject.cls is None or "<locals>" not in subject.cls.__qualname__


def _copied(subject: Subject, how: Any) -> None:
    problem = training()
    optimizer = subject.create(problem.model.parameters())
    run(optimizer, problem, range(4), full=True)
    try:
        model, twin = how((problem.model, optimizer))
    except Exception as error:
        raise Failure(f"the optimizer cannot be copied: {type(error).__name__}: {error}") from error
    require(twin.config == optimizer.config, "the copy's config differs")
    assert_same_state(twin.state_dict(), optimizer.state_dict())
    own = {id(parameter) for parameter in model.parameters()}
    theirs = {id(p) for group in twin.param_groups for p in group["params"]}
    require(theirs == own, "the copy does not hold the parameters of the copied model")
    batch = Objective(model, problem.objective.loss_fn, problem.inputs, problem.targets, key="all")
    losses = [float(optimizer.step(problem.objective)) for _ in range(2)]
    found = [float(twin.step(batch)) for _ in range(2)]
    require(found == losses, f"the copy goes on with losses {found} instead of {losses}")


@conformance("state")
def survives_deepcopy(subject: Subject) -> None:
    """Same state, same config, same future."""
    _copied(subject, copy.deepcopy)


@conformance("state")
def survives_pickle(subject: Subject) -> None:
    """Same state, same config, same future."""
    only_if(_importable(subject), "the class is defined inside a function, where pickle cannot find it")
    _copied(subject, lambda pair: pickle.loads(pickle.dumps(pair)))


@conformance("state")
def repeats_under_a_seed(subject: Subject) -> None:
    """Two runs from one seed are equal, and without random layers the process's seed does not matter."""
    losses = []
    for _ in range(2):
        problem = training("both")
        losses.append(run(subject.create(problem.model.parameters()), problem, range(4)))
    require(losses[0] == losses[1], f"two runs from one seed: {losses[0]} and {losses[1]}")
    losses = []
    for seed in (0, 1):
        problem = training("batch_norm")
        optimizer = subject.create(problem.model.parameters())
        torch.manual_seed(seed)
        losses.append(run(optimizer, problem, range(4)))
    require(losses[0] == losses[1], "the global seed changes a run on a model without random layers")


class _Trace(torch.autograd.Function):
    """The identity; the node of a graph that it makes can be watched."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: list[Any]) -> Tensor:
        seen.append(weakref.ref(ctx))
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * 1, None


class Traced(nn.Module):
    """Two layers that leave a weak reference to the middle of each graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.seen: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs to outputs.

        Args:
            x: Shape (samples, 4).
        """
        return self.last(torch.tanh(_Trace.apply(self.first(x), self.seen)))


@conformance("state")
def keeps_no_graph_and_no_batch(subject: Subject) -> None:
    """Every graph dies with its step, without the garbage collector's help; a batch dies with its last name."""
    problem = training(Traced)
    optimizer = subject.create(problem.model.parameters())
    enabled = gc.isenabled()
    gc.disable()
    try:
        for step in range(4):
            optimizer.step(problem.batch(step))
            alive = sum(reference() is not None for reference in problem.model.seen)
            require(not alive, f"{alive} of {len(problem.model.seen)} graphs live on after step {step}")
    finally:
        if enabled:
            gc.enable()
    require(problem.model.seen, "no step went through the model")
    inputs = torch.randn(8, 4)
    batch = problem.objective.with_batch(inputs, problem.targets[:8])
    optimizer.step(batch)
    reference = weakref.ref(inputs)
    del inputs, batch
    if reference() is not None:
        gc.collect()
    require(reference() is None, "the batch is kept after the step")


@conformance("state")
def evaluation_gives_the_parameters_back(subject: Subject) -> None:
    """``with optimizer.evaluation():`` leaves parameters, state and the run as they were."""
    problem, twin = training(), training()
    optimizer, other = subject.create(problem.model.parameters()), subject.create(twin.model.parameters())
    run(optimizer, problem, range(3))
    run(other, twin, range(3))
    before = problem.parameters()
    with optimizer.evaluation():
        problem.objective.value()
    require(same(problem.model.parameters(), before), "the parameters differ after evaluation()")
    require(run(optimizer, problem, range(3, 5)) == run(other, twin, range(3, 5)), "evaluation() changed the run")


CHECKS = (
    resumes_to_the_last_bit_on_mini_batches,
    resumes_to_the_last_bit_on_one_function,
    a_loaded_state_is_its_own,
    a_state_that_does_not_fit,
    survives_deepcopy,
    survives_pickle,
    repeats_under_a_seed,
    keeps_no_graph_and_no_batch,
    evaluation_gives_the_parameters_back,
)
