"""What every strategy for leaving a saddle shares: when it is called, what it is asked, how it is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from hybridopt.core import CombinationError, ConfigError, UnknownNameError, check, make_config, option
from hybridopt.escape import transaction
from hybridopt.escape.snapshot import STATE
from hybridopt.escape.stall import default_gtol as default_gtol  # re-exported
from hybridopt.escape.stall import stall_reason
from hybridopt.objective import Objective

if TYPE_CHECKING:
    from hybridopt.optimizers.base import Stepping


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
    where every step sees the same data) a vanishing gradient. Then the parameters, the model's buffers and the
    optimizer's state are saved, the parameters jump, and the optimizer goes on for a window of steps. Unless the
    function is lower at its end, all is put back and another direction is tried. After a stall without an escape the
    next check waits twice as long.

    On the same data, lower means beyond rounding. After a stall by slow progress the function has to be lower by more
    than what counts as progress; if it is lower by less, that is kept, but not called an escape. Where the batches
    differ, the last ones of the window compare the saved point with the running one before its step, so no batch
    judges what was fitted to it: the mean difference has to exceed three times its standard error, and the running
    losses have to lie below those of the stall likewise. While it cannot be said, the window is prolonged, and as long
    as the function gains, up to 32 times: from a small jump at small rates it takes hundreds of steps to see that a
    saddle has been left.

    Events in the optimizer's report: ``stall`` (``reason``); ``no_escape`` (no direction was found);
    ``escape_jump`` (``jump_norm``); ``escaped``, ``escape_kept`` or ``escape_undone`` (``gain``: by how much the
    function is lower; ``steps`` since the jump); ``escape_abandoned`` (parameters were frozen or thawed meanwhile).
    All but the first have ``attempt``; those after a search ``cost`` (gradients of this batch's size that the escape
    itself took since the stall; the steps of the window are not in it) and ``lambda_min``, where it was estimated.

    A subclass writes `propose`.

    Args:
        config: An instance of `Config`, instead of `options`.
        **options: Fields of `Config`.

    Attributes:
        ask: Asked at a vanishing gradient, with the objective, before the jump: ``"leave"`` to jump, ``"stay"`` where
            it is known that there is nothing to leave, ``"go on"`` when the gradient does not vanish here after all.
            `minimize` puts its certificate there.

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
        self.ask: Callable[[Objective], str] | None = None

    @property
    def tries(self) -> int:
        """Attempts at one stall."""
        return self.config.tries

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

    def stir(
        self, optimizer: Stepping, objective: Objective, attempt: int, step: int, random: torch.Generator
    ) -> Tensor | None:
        """Returns what to add to the parameters after a step of the window, shape (n,), or None for nothing.

        Args:
            optimizer: The optimizer.
            objective: Bound to the optimizer's parameters.
            attempt: That of the jump.
            step: Steps since the jump, from 1.
            random: The escape's own generator.
        """
        return None

    def following(self, attempt: int) -> int:
        """Returns the attempt to make after one that found no direction; by default there is no point in another.

        Args:
            attempt: The one in vain.
        """
        return self.tries

    # -- called by the optimizer and by minimize -------------------------------------------------------------------

    def after_step(self, optimizer: Stepping, objective: Objective) -> None:
        """Watches the optimizer, jumps, and judges jumps.

        Args:
            optimizer: Just did a step; its report has the loss.
            objective: Bound to its parameters, on the batch of that step.
        """
        memory = optimizer.state[STATE]  # type: ignore[attr-defined]
        if not memory:
            memory.update(transaction.fresh(self))
        same_batch = memory["key"] == objective.key
        memory["key"] = objective.key
        if memory["phase"] == "window":
            transaction.in_window(self, optimizer, objective, memory, same_batch)
            return
        reason = stall_reason(self.config, memory, optimizer, objective, same_batch)
        if reason is None:
            return
        before = dict(objective.ledger.samples)
        answer = "leave" if self.ask is None or reason != "small_gradient" else self.ask(objective)
        if answer == "go on":
            return
        optimizer.report.events.append({"event": "stall", "reason": reason})
        memory.update(attempt=0, reason=reason, paid={})
        transaction.book(memory, objective, before)
        if answer == "stay":
            cost = transaction.cost(memory, objective)
            optimizer.report.events.append({"event": "no_escape", "certified": True, "cost": cost})
            transaction.rest(self, memory)
            return
        decay = objective.regularization()
        memory["level"] = [float(loss) + decay for loss in memory["losses"]]
        transaction.jump(self, optimizer, objective, memory)

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


class Proposal:
    """Where an escape wants to jump.

    Args:
        jump: Displacement, shape (n,), or None for nowhere.
        **details: What to record beside.
    """

    def __init__(self, jump: Tensor | None, **details: Any) -> None:
        self.jump = jump
        self.details = details


def resolve_escape(escape: Any) -> Escape | None:
    """Returns an escape from any way of naming one.

    Args:
        escape: None, a registered name, a mapping with ``name`` and options, an `Escape`, or a list of these, which
            are tried in turn.

    Raises:
        UnknownNameError: If the name is not registered.
        CombinationError: If it is none of these.
    """
    from hybridopt.escape import registry

    if escape is None or isinstance(escape, Escape):
        return escape
    if isinstance(escape, str):
        escape = {"name": escape}
    if isinstance(escape, list | tuple):
        escape = {"name": "chain", "escapes": list(escape)}
    if not isinstance(escape, Mapping):
        raise CombinationError(
            f"escape must be a name ({', '.join(registry.names())}), a mapping with a name, an Escape, or a list of "
            f"these, not a {type(escape).__name__}."
        )
    options = dict(escape)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UnknownNameError(f"An escape needs a name: one of {', '.join(registry.names())}.")
    if name == "none":
        return None
    return registry.get(name)(**options)
