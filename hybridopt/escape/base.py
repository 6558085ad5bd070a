"""Leaving a saddle as a transaction: snapshot, jump, a window of ordinary steps, then keep or undo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from hybridopt.core import CombinationError, ConfigError, UnknownNameError, check, make_config, option
from hybridopt.globalization import noise_floor
from hybridopt.objective import Objective

if TYPE_CHECKING:
    from hybridopt.optimizers.base import Stepping

STATE = "escape"
"""Key in the optimizer's state under which an escape remembers, so that checkpoints hold it."""

_CONFIDENCE = 3.0
"""Standard errors by which mini-batches must agree that a jump was worth it, or that it was not."""
_WINDOWS = 4
"""Windows after which a jump is undone if they still do not agree."""


@dataclass
class EscapeConfig:
    """Options that all escapes share.

    Attributes:
        stall_window: Steps in each of the two windows whose mean losses are compared.
        stall_tolerance: A stall is a mean loss that fell by less than this share of itself.
        rejected_steps: So many rejected steps in a row are a stall.
        gtol: On a deterministic objective, a largest gradient entry up to this is a stall; 0 takes 1e-8 in float64
            and 1e-4 in float32.
        window: Steps after the jump until it is judged.
        probes: Last mini-batches of the window on which it is judged, where the batches differ.
        tries: Attempts at one stall, each from the snapshot in a fresh direction.
        seed: Of the escape's own random numbers.
    """

    stall_window: int = option(15, ge=2, help="steps in each of the two windows whose mean losses are compared")
    stall_tolerance: float = option(1e-3, ge=0, help="a relative decrease between the windows below this is a stall")
    rejected_steps: int = option(3, ge=1, help="so many rejected steps in a row are a stall")
    gtol: float = option(0.0, ge=0, help="gradient (max-norm) that is a stall; 0: 1e-8 (float64) or 1e-4 (float32)")
    window: int = option(20, ge=1, help="steps after the jump until it is judged")
    probes: int = option(10, ge=1, help="last mini-batches of the window on which the jump is judged")
    tries: int = option(4, ge=1, help="attempts at one stall")
    seed: int = option(0, ge=0, help="seed of the escape's random numbers")


class Escape:
    """A strategy for leaving saddle points, called by an optimizer after each of its steps.

    The optimizer is watched for a stall: two windows of losses without progress, rejected steps in a row, or (only
    where every step sees the same data) a vanishing gradient. Then the parameters and the optimizer's state are
    saved, the parameters jump, and the optimizer goes on for a window of steps. Unless the function is lower at its
    end, all is put back and another direction is tried. On the same data that means lower beyond rounding. Where the
    batches differ, the last ones of the window compare the saved point with the running one before its step, so no
    batch judges what was fitted to it, and the mean difference has to exceed three times its standard error; while it
    is smaller either way, the window is prolonged, three times at most. After a stall without an escape the next
    check waits twice as long.

    A subclass writes `propose`.

    Args:
        config: An instance of `Config`, instead of `options`.
        **options: Fields of `Config`.

    Raises:
        ConfigError: If an option is unknown or out of range.
    """

    Config: ClassVar[type] = EscapeConfig
    summary: ClassVar[str] = ""

    def __init__(self, config: Any = None, **options: Any) -> None:
        if config is not None and options:
            raise ConfigError(f"Give {type(self).__name__} either config=... or options, not both.")
        if config is None:
            config = make_config(self.Config, options, owner=type(self).__name__)
        self.config: Any = check(config, owner=type(self).__name__)

    def propose(self, optimizer: Stepping, objective: Objective, attempt: int, random: torch.Generator) -> Proposal:
        """Returns where to jump from here.

        Args:
            optimizer: The optimizer at the stall.
            objective: Bound to its parameters, on the batch of the last step.
            attempt: 0 for the first try at this stall.
            random: The escape's own generator, on the CPU.

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say where it jumps: define propose.")

    # -- called by the optimizer and by minimize -------------------------------------------------------------------

    def after_step(self, optimizer: Stepping, objective: Objective) -> None:
        """Watches the optimizer, jumps, and judges jumps.

        Args:
            optimizer: Just did a step; its report has the loss.
            objective: Bound to its parameters, on the batch of that step.
        """
        memory = optimizer.state[STATE]  # type: ignore[attr-defined]
        if not memory:
            memory.update(self._fresh())
        same_batch = memory["key"] == objective.key
        memory["key"] = objective.key
        if memory["phase"] == "window":
            memory["left"] -= 1
            if not same_batch and memory["left"] < self.config.probes:
                memory["gains"].append(self._gain_before_step(objective, memory))
            if memory["left"] <= 0:
                self._judge(optimizer, objective, memory)
            return
        reason = self._stalled(optimizer, objective, memory, same_batch)
        if reason is not None:
            memory.update(attempt=0, reason=reason)
            optimizer.report.events.append({"event": "stall", "reason": reason})
            self._jump(optimizer, objective, memory)

    def busy(self, optimizer: Stepping) -> bool:
        """Whether a jump waits to be judged.

        Args:
            optimizer: The optimizer that holds this escape.
        """
        memory = optimizer.state[STATE]  # type: ignore[attr-defined]
        return bool(memory) and memory["phase"] == "window"

    def settled(self, optimizer: Stepping) -> bool:
        """Whether all tries from the stationary point where the optimizer stands were in vain.

        Args:
            optimizer: The optimizer that holds this escape.
        """
        memory = optimizer.state[STATE]  # type: ignore[attr-defined]
        return bool(memory) and memory["settled"]

    def rearm(self, optimizer: Stepping) -> None:
        """Forgets the waiting time after checks without an escape.

        Args:
            optimizer: The optimizer that holds this escape.
        """
        memory = optimizer.state[STATE]  # type: ignore[attr-defined]
        if memory:
            memory.update(wait=0, pause=self.config.stall_window)

    # -- the transaction -------------------------------------------------------------------------------------------

    def _fresh(self) -> dict[str, Any]:
        return {
            "phase": "watch",
            "losses": [],
            "rejected": 0,
            "wait": 0,
            "pause": self.config.stall_window,
            "key": "",
            "attempt": 0,
            "left": 0,
            "windows": 0,
            "gains": [],
            "reason": "",
            "settled": False,
            "snapshot": None,
            "escapes": 0,
            "random": torch.Generator().manual_seed(self.config.seed).get_state(),
        }

    def _stalled(
        self, optimizer: Stepping, objective: Objective, memory: dict[str, Any], same_batch: bool
    ) -> str | None:
        report = optimizer.report
        losses: list[Any] = memory["losses"]
        # Kept as tensors: reading one would make a GPU wait at every step.
        losses.append(objective.start_loss if objective.start_loss is not None else report.loss)
        size = self.config.stall_window
        del losses[: -2 * size]
        if "accepted" in report:
            memory["rejected"] = 0 if report.accepted else memory["rejected"] + 1
        stationary = same_batch and _largest(optimizer._grads()) <= (
            self.config.gtol or default_gtol(objective.space.dtype)
        )
        memory["settled"] = memory["settled"] and stationary
        if memory["wait"] > 0:
            memory["wait"] -= 1
            return None
        if stationary:
            return "small_gradient"
        if memory["rejected"] >= self.config.rejected_steps:
            return "rejected_steps"
        if len(losses) == 2 * size:
            values = [float(loss) for loss in losses]
            before, after = sum(values[:size]) / size, sum(values[size:]) / size
            if not before - after > self.config.stall_tolerance * abs(before):
                return "no_progress"
            # Looked at once per window, not once per step.
            del losses[:size]
        return None

    def _jump(self, optimizer: Stepping, objective: Objective, memory: dict[str, Any]) -> None:
        from hybridopt.optimizers.base import copy_state

        if memory["snapshot"] is None:
            state = {key: copy_state(value) for key, value in _own_state(optimizer).items()}
            memory["snapshot"] = {"position": objective.position(), "state": _indexed(optimizer, state)}
        random = torch.Generator()
        random.set_state(memory["random"].cpu())
        proposal = self.propose(optimizer, objective, memory["attempt"], random)
        memory["random"] = random.get_state()
        details = {"attempt": memory["attempt"], **proposal.details}
        if proposal.jump is None:
            optimizer.report.events.append({"event": "no_escape", **details})
            self._rest(memory)
            return
        # The first evaluation's numbers belong to the step; the new point starts its own.
        objective.commit(memory["snapshot"]["position"] + proposal.jump)
        memory.update(phase="window", left=self.config.window, windows=1, gains=[])
        optimizer.moved(objective, "escape")
        jump = float(torch.linalg.vector_norm(proposal.jump))
        optimizer.report.events.append({"event": "escape_jump", "jump_norm": jump, **details})

    def _judge(self, optimizer: Stepping, objective: Objective, memory: dict[str, Any]) -> None:
        snapshot = memory["snapshot"]
        gains = memory["gains"]
        if not gains:
            before = objective.value(snapshot["position"])
            gain = before - objective.value()
            needed = noise_floor(before, objective.eps)
        else:
            gain = sum(gains) / len(gains)
            needed = _standard_error(gains) * _CONFIDENCE
            if abs(gain) <= needed and memory["windows"] < _WINDOWS:
                # The batches do not agree yet: a slow escape gets more time.
                memory.update(windows=memory["windows"] + 1, left=self.config.window, gains=[])
                return
        details = {"attempt": memory["attempt"], "gain": gain}
        if math.isfinite(gain) and gain > needed:
            optimizer.report.events.append({"event": "escaped", **details})
            memory.update(self._watch_again(memory), escapes=memory["escapes"] + 1)
            return
        objective.commit(snapshot["position"])
        _restore(optimizer, snapshot["state"])
        memory = optimizer.state[STATE]  # type: ignore[attr-defined]
        optimizer.moved(objective, "restore")
        optimizer.report.events.append({"event": "escape_undone", **details})
        memory["attempt"] += 1
        if memory["attempt"] >= self.config.tries:
            self._rest(memory)
        else:
            self._jump(optimizer, objective, memory)

    @staticmethod
    def _gain_before_step(objective: Objective, memory: dict[str, Any]) -> float:
        """How much lower than the snapshot the point was from which the last step started, on that step's batch."""
        before = objective.value(memory["snapshot"]["position"])
        return before - float(objective.start_loss) - objective._decay_value(None)

    def _watch_again(self, memory: dict[str, Any]) -> dict[str, Any]:
        return {
            "phase": "watch",
            "losses": [],
            "rejected": 0,
            "wait": 0,
            "pause": self.config.stall_window,
            "gains": [],
            "snapshot": None,
            "attempt": 0,
        }

    def _rest(self, memory: dict[str, Any]) -> None:
        pause = memory["pause"]
        settled = memory["reason"] == "small_gradient"
        memory.update(self._watch_again(memory), wait=pause, pause=2 * pause, settled=settled)


class Proposal:
    """Where an escape wants to jump.

    Args:
        jump: Displacement, shape (n,), or None for nowhere.
        **details: What to record beside.
    """

    def __init__(self, jump: Tensor | None, **details: Any) -> None:
        self.jump = jump
        self.details = details


def default_gtol(dtype: torch.dtype) -> float:
    """Returns the largest gradient entry that counts as zero: 1e-8 in float64, 1e-4 in lower precision.

    Args:
        dtype: Of the parameters.
    """
    return 1e-8 if dtype == torch.float64 else 1e-4


def resolve_escape(escape: Any) -> Escape | None:
    """Returns an escape from any way of naming one.

    Args:
        escape: None, a registered name, a mapping with ``name`` and options, or an `Escape`.

    Raises:
        UnknownNameError: If the name is not registered.
        CombinationError: If it is none of these.
    """
    from hybridopt.escape import registry

    if escape is None or isinstance(escape, Escape):
        return escape
    if isinstance(escape, str):
        escape = {"name": escape}
    if not isinstance(escape, Mapping):
        raise CombinationError(
            f"escape must be a name ({', '.join(registry.names())}), a mapping with a name, or an Escape, not a "
            f"{type(escape).__name__}."
        )
    options = dict(escape)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UnknownNameError(f"An escape needs a name: one of {', '.join(registry.names())}.")
    if name == "none":
        return None
    return registry.get(name)(**options)


def _standard_error(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1) / len(values))


def _largest(gradients: list[Tensor]) -> float:
    if not gradients:
        return 0.0
    return float(torch.stack(torch._foreach_norm(gradients, math.inf)).max())


def _own_state(optimizer: Any) -> dict[Any, Any]:
    return {key: value for key, value in optimizer.state.items() if key != STATE}


def _indexed(optimizer: Any, state: dict[Any, Any]) -> dict[str, Any]:
    """State under parameters, keyed by the parameter's position instead, so that a checkpoint can hold it."""
    position = {id(p): index for index, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    return {(key if isinstance(key, str) else f"#{position[id(key)]}"): value for key, value in state.items()}


def _restore(optimizer: Any, saved: dict[str, Any]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key in list(_own_state(optimizer)):
        del optimizer.state[key]
    from hybridopt.optimizers.base import copy_state

    for key, value in saved.items():
        optimizer.state[parameters[int(key[1:])] if key.startswith("#") else key] = copy_state(value)
