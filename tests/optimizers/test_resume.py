"""A run that goes on from a checkpoint computes what an undisturbed one does, to the last bit."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hybridopt as ho
from tests.optimizers.catalogue import ESCAPES, METHODS, Method, Training, assert_same_state, each, run, training

# Stalls at once, jumps, and judges after three steps: short runs meet every phase of the transaction.
EAGER = {"stall_window": 2, "stall_tolerance": 10.0, "window": 3, "probes": 2, "tries": 2}
STEPS = 8


def escape_of(name: str) -> dict[str, Any] | None:
    return None if name == "none" else {"name": name, **EAGER}


def checkpoint(problem: Training, optimizer: Any) -> dict[str, Any]:
    """Writes everything to a file and reads it as a stranger would."""
    buffer = io.BytesIO()
    state = {
        "model": problem.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def interrupted(
    make: Callable[[Training], Any], model: str, stop: int, dtype: torch.dtype, *, full: bool
) -> tuple[list[float], Any, Any]:
    """Runs with one interruption; returns losses, the model's and the optimizer's state at the end."""
    problem = training(model, dtype=dtype)
    optimizer = make(problem)
    losses = run(optimizer, problem, range(stop), full=full)
    saved = checkpoint(problem, optimizer)
    torch.manual_seed(12345)
    problem = training(model, dtype=dtype)
    optimizer = make(problem)
    problem.model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["random"])
    losses += run(optimizer, problem, range(stop, STEPS), full=full)
    return losses, problem.model.state_dict(), optimizer.state_dict()


def check(make: Callable[[Training], Any], model: str, stops: range, dtype: torch.dtype, *, full: bool) -> None:
    problem = training(model, dtype=dtype)
    optimizer = make(problem)
    losses = run(optimizer, problem, range(STEPS), full=full)
    for stop in stops:
        again, parameters, state = interrupted(make, model, stop, dtype, full=full)
        assert again == losses, f"losses after an interruption at step {stop}"
        assert_same_state(parameters, problem.model.state_dict())
        assert_same_state(state, optimizer.state_dict())


@each(METHODS)
@pytest.mark.parametrize("escape", ESCAPES[1:])
@pytest.mark.parametrize("full", [True, False], ids=["full batch", "mini-batches"])
def test_in_the_middle_of_an_escape(method: Method, escape: str, full: bool) -> None:
    def make(problem: Training) -> Any:
        return method.create(problem.model.parameters(), escape=escape_of(escape))

    # The first jump comes after four steps (or two, where a gradient vanishes), its judgement three later.
    check(make, "dropout", range(6, 7), torch.float32, full=full)


@pytest.mark.parametrize("escape", [*ESCAPES[1:], "neon", "noisy_gradient", "chain"])
def test_at_every_step_of_an_escape(escape: str) -> None:
    def make(problem: Training) -> Any:
        return ho.create("momentum", problem.model.parameters(), lr=1e-6, escape=escape_of(escape))

    problem = training("plain")
    optimizer = make(problem)
    seen = []
    for step in range(STEPS):
        optimizer.step(problem.batch(step))
        seen += [event["event"] for event in optimizer.report.events]
    assert "escape_jump" in seen or "no_escape" in seen
    check(make, "plain", range(1, STEPS), torch.float32, full=False)


def test_a_second_switch_member_goes_on_after_a_resume() -> None:
    def make(problem: Training) -> Any:
        return ho.create("adam_lbfgs", problem.model.parameters(), plateau_window=1, plateau_tolerance=5.0)

    problem = training()
    optimizer = make(problem)
    run(optimizer, problem, range(STEPS), full=True)
    assert optimizer.active.family == "quasi-newton"
    check(make, "plain", range(1, STEPS), torch.float32, full=True)


@each(METHODS)
def test_a_loaded_state_is_the_optimizers_own(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters(), escape=escape_of("perturbation"))
    run(optimizer, problem, range(6), full=True)
    saved = optimizer.state_dict()
    other = training()
    twin = method.create(other.model.parameters(), escape=escape_of("perturbation"))
    twin.load_state_dict(saved)
    mine = {id(leaf) for leaf in _tensors(optimizer.state_dict()["state"])}
    shared = [leaf for leaf in _tensors(twin.state_dict()["state"]) if id(leaf) in mine]
    assert not shared, f"{len(shared)} tensors are shared with the optimizer that was saved"
    before = [leaf.clone() for leaf in _tensors(saved["state"])]
    run(twin, other, range(2), full=True)
    for leaf, was in zip(_tensors(saved["state"]), before, strict=True):
        assert torch.equal(leaf, was), "stepping the loaded optimizer changed the saved state"


def _tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    items = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [leaf for item in items for leaf in _tensors(item)]
