"""What follows a stall: a jump from a snapshot, a window of ordinary steps, then keep or undo, and try again or rest.

All of it is remembered in one dict of plain values and tensors in the optimizer's state, so a checkpoint taken in the
middle goes on there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from hybridopt.escape import snapshot as snapshots
from hybridopt.escape.snapshot import STATE
from hybridopt.escape.verdict import MOST_WINDOWS, PATIENCE, on_mini_batches, on_same_data
from hybridopt.globalization import noise_floor
from hybridopt.objective import Objective
from hybridopt.objective.ledger import WEIGHTS

if TYPE_CHECKING:
    from hybridopt.escape.base import Escape
    from hybridopt.optimizers.base import Stepping


def fresh(escape: Escape) -> dict[str, Any]:
    """Returns the memory of an escape that has seen no step.

    Args:
        escape: Its seed begins its random numbers.
    """
    return {
        "key": "",
        "reason": "",
        "settled": False,
        "escapes": 0,
        "vain": 0,
        "random": torch.Generator().manual_seed(escape.config.seed).get_state(),
        **_watch_again(escape),
    }


def _no_jump() -> dict[str, Any]:
    """What is remembered of a jump, while there is none."""
    return {
        "snapshot": None,
        "attempt": 0,
        "steps": 0,
        "left": 0,
        "windows": 0,
        "gains": [],
        "running": [],
        "entry": None,
        "previous": None,
        "level": [],
        "lambda_min": None,
        "paid": {},
    }


def jump(escape: Escape, optimizer: Stepping, objective: Objective, memory: dict[str, Any]) -> None:
    """Takes a snapshot where there is none, and jumps where the escape proposes; rests if it finds no direction.

    Args:
        escape: Proposes.
        optimizer: At the stall, or put back to it.
        objective: Bound to its parameters.
        memory: Of the escape.
    """
    before = dict(objective.ledger.samples)
    if memory["snapshot"] is None:
        memory["snapshot"] = snapshots.take(optimizer, objective)
    random = _generator(memory)
    while True:
        attempt = memory["attempt"]
        proposal = escape.propose(optimizer, objective, attempt, random)
        if proposal.jump is not None and bool(proposal.jump.isfinite().all()):
            break
        book(memory, objective, before)
        before = dict(objective.ledger.samples)
        details = {"attempt": attempt, "cost": cost(memory, objective), **proposal.details}
        optimizer.report.events.append({"event": "no_escape", **details})
        memory["attempt"] = escape.following(attempt)
        if memory["attempt"] >= escape.tries:
            memory["random"] = random.get_state()
            rest(escape, memory)
            return
    memory["random"] = random.get_state()
    # The first evaluation's numbers belong to the step; the new point starts its own.
    objective.commit(memory["snapshot"]["position"] + proposal.jump)
    book(memory, objective, before)
    memory.update(
        phase="window", left=escape.config.window, windows=1, steps=0, gains=[], running=[], entry=None,
        previous=None, lambda_min=proposal.details.get("lambda_min"),
    )  # fmt: skip
    optimizer.moved(objective, "escape")
    length = float(torch.linalg.vector_norm(proposal.jump))
    paid = cost(memory, objective)
    details = {"attempt": memory["attempt"], "jump_norm": length, "cost": paid, **proposal.details}
    optimizer.report.events.append({"event": "escape_jump", **details})


def in_window(
    escape: Escape, optimizer: Stepping, objective: Objective, memory: dict[str, Any], same_batch: bool
) -> None:
    """Looks at a step after a jump, and judges the jump at the end of its window.

    Args:
        escape: That jumped.
        optimizer: Just did a step.
        objective: Bound to its parameters, on the batch of that step.
        memory: Of the escape.
        same_batch: Whether the step saw the data of the one before.
    """
    before = dict(objective.ledger.samples)
    if not snapshots.fits(memory["snapshot"], objective):
        # Parameters were frozen or thawed: there is nothing to compare with, or to go back to.
        optimizer.report.events.append({"event": "escape_abandoned", "attempt": memory["attempt"]})
        memory.update(_watch_again(escape))
        return
    memory["steps"] += 1
    memory["left"] -= 1
    if same_batch:
        if memory["entry"] is None:
            memory["entry"] = float(objective.start_loss) + objective.regularization()
    else:
        memory["running"].append(objective.start_loss)
        if memory["left"] < escape.config.probes:
            # How much lower than the snapshot was the point from which the step just done started, on its batch?
            running = float(objective.start_loss) + objective.regularization()
            memory["gains"].append(objective.value(memory["snapshot"]["position"]) - running)
    if memory["left"] > 0:
        _stir(escape, optimizer, objective, memory)
    book(memory, objective, before)
    if memory["left"] <= 0:
        _judge(escape, optimizer, objective, memory)


def _stir(escape: Escape, optimizer: Stepping, objective: Objective, memory: dict[str, Any]) -> None:
    random = _generator(memory)
    shift = escape.stir(optimizer, objective, memory["attempt"], memory["steps"], random)
    if shift is not None:
        memory["random"] = random.get_state()
        objective.commit(objective.position() + shift)
        optimizer.moved(objective, "escape")


def _judge(escape: Escape, optimizer: Stepping, objective: Objective, memory: dict[str, Any]) -> None:
    before = dict(objective.ledger.samples)
    windows = memory["windows"]
    patience = min(MOST_WINDOWS, PATIENCE * 2 ** memory["vain"])
    if memory["gains"]:
        verdict = on_mini_batches(memory["gains"], memory["running"], memory["level"], memory["previous"], windows)
        entry = None
    else:
        start = objective.value(memory["snapshot"]["position"])
        entry = objective.value()
        previous = start - (entry if memory["entry"] is None else memory["entry"])
        floor = noise_floor(start, objective.eps)
        # What made the stall was slow progress, so as little of it afterwards is no escape.
        ordinary = escape.config.stall_tolerance * abs(start) if memory["reason"] == "no_progress" else 0.0
        verdict = on_same_data(start - entry, floor, previous, windows, patience, ordinary)
    book(memory, objective, before)
    if verdict.decision == "prolonged":
        memory.update(
            windows=windows + 1,
            left=escape.config.window,
            gains=[],
            running=memory["running"] if verdict.lower else [],
            entry=entry,
            previous=verdict.gain,
        )
        return
    details = {"attempt": memory["attempt"], "gain": verdict.gain, "steps": memory["steps"]}
    if memory["lambda_min"] is not None:
        details["lambda_min"] = memory["lambda_min"]
    details["cost"] = cost(memory, objective)
    if verdict.decision == "escaped":
        optimizer.report.events.append({"event": "escaped", **details})
        memory.update(_watch_again(escape), escapes=memory["escapes"] + 1, vain=0)
        return
    if verdict.decision == "kept":
        optimizer.report.events.append({"event": "escape_kept", **details})
        rest(escape, memory)
        return
    snapshots.put_back(memory["snapshot"], optimizer, objective)
    memory = optimizer.state[STATE]  # type: ignore[attr-defined]
    optimizer.moved(objective, "restore")
    optimizer.report.events.append({"event": "escape_undone", **details})
    memory["attempt"] += 1
    if memory["attempt"] >= escape.tries:
        memory["vain"] += 1
        rest(escape, memory)
    else:
        jump(escape, optimizer, objective, memory)


def _watch_again(escape: Escape) -> dict[str, Any]:
    return {
        "phase": "watch",
        "losses": [],
        "rejected": 0,
        "wait": 0,
        "pause": escape.config.stall_window,
        **_no_jump(),
    }


def rest(escape: Escape, memory: dict[str, Any]) -> None:
    """Ends the attempts at a stall; the next is looked for after a pause, which doubles.

    Args:
        escape: Whose memory it is.
        memory: Of the escape.
    """
    pause = memory["pause"]
    settled = memory["reason"] == "small_gradient"
    memory.update(_watch_again(escape), wait=pause, pause=2 * pause, settled=settled)


def book(memory: dict[str, Any], objective: Objective, before: Mapping[str, int]) -> None:
    """Adds what was paid since `before` to what the escape has cost: whole numbers, which a resume does not round.

    Args:
        memory: Of the escape.
        objective: Whose ledger counts.
        before: Samples by kind then.
    """
    for kind, samples in objective.ledger.samples.items():
        memory["paid"][kind] = memory["paid"].get(kind, 0) + samples - before[kind]


def cost(memory: dict[str, Any], objective: Objective) -> float:
    """Returns what the escape has cost since the stall, in gradients of this batch's size.

    Args:
        memory: Of the escape.
        objective: On the batch.
    """
    return sum(WEIGHTS[kind] * samples for kind, samples in memory["paid"].items()) / objective.work


def _generator(memory: dict[str, Any]) -> torch.Generator:
    random = torch.Generator()
    random.set_state(memory["random"].cpu())
    return random
