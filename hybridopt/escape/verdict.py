"""Whether a jump was worth it: lower beyond doubt, not lower, or too early to say."""

from __future__ import annotations

import math
from dataclasses import dataclass

CONFIDENCE = 3.0
"""Standard errors by which mini-batches must agree that a jump was worth it, or that it was not."""
LEVEL_CONFIDENCE = 3.0
"""Standard errors by which the running loss must lie below that of the stall: a snapshot may be high by bad luck."""
PATIENCE = 4
"""Windows that are waited for a decision while nothing can be said; twice as many after each stall in vain."""
MOST_WINDOWS = 32
"""Windows after which a jump is undone even if the function still falls towards the snapshot's."""
_PROGRESS = 0.05
"""What a prolonged window must have gained, relatively to what is missing."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a window.

    Attributes:
        decision: ``escaped``, ``kept``, ``undone`` or ``prolonged``.
        gain: How much lower the function is than at the snapshot.
        lower: Whether that is beyond doubt, although it does not do yet.
    """

    decision: str
    gain: float
    lower: bool = False


def on_same_data(
    gain: float, floor: float, previous: float, windows: int, patience: int = PATIENCE, ordinary: float = 0.0
) -> Verdict:
    """Judges a window of steps that all saw the same data.

    Args:
        gain: The function at the snapshot minus the function now.
        floor: Differences up to this are rounding.
        previous: The gain at the beginning of the window.
        windows: Windows since the jump.
        patience: Windows that may pass while nothing can be said.
        ordinary: A gain up to this may be the optimizer's own slow progress.

    Returns:
        ``escaped`` when the function is lower beyond rounding and ordinary progress; ``kept`` when it is lower, but
        not by more than that; ``prolonged`` while it is higher, but falls, or while the difference says nothing.
    """
    if not math.isfinite(gain):
        return Verdict("undone", gain)
    if gain > floor:
        slight = gain <= ordinary
        return Verdict(("prolonged" if windows < patience else "kept") if slight else "escaped", gain)
    if gain >= -floor:
        return Verdict("prolonged" if windows < patience else "undone", gain)
    falls = gain - previous > _PROGRESS * abs(gain)
    return Verdict("prolonged" if windows < MOST_WINDOWS and falls else "undone", gain)


def on_mini_batches(
    gains: list[float],
    losses: list[float],
    level: list[float],
    previous: float | None,
    windows: int,
    patience: int = PATIENCE,
) -> Verdict:
    """Judges a window of steps on batches that differ.

    Args:
        gains: The function at the snapshot minus the function now, each on one batch that the step had not seen yet.
        losses: The running losses of this window, and of those before it in a row that were lower, too.
        level: The losses of the steps that made the stall.
        previous: The mean gain of the window before; None takes that of the first half of `gains`.
        windows: Windows since the jump.
        patience: Windows that may pass while nothing can be said.

    Returns:
        ``escaped`` when the mean gain exceeds `CONFIDENCE` standard errors and the losses lie below those of the
        stall by `LEVEL_CONFIDENCE`, without which a snapshot that is high by bad luck would be left for nothing;
        ``undone`` when it is clearly a loss and does not shrink; ``prolonged`` while neither is known.
    """
    gain, error = mean_and_error(gains)
    if not math.isfinite(gain):
        return Verdict("undone", gain)
    lower = gain > CONFIDENCE * error
    if lower and _below(losses, level):
        return Verdict("escaped", gain)
    if previous is None:
        half = gains[: max(1, len(gains) // 2)]
        previous = sum(half) / len(half)
    rises = gain - previous > _PROGRESS * abs(gain)
    worse = gain < -CONFIDENCE * error
    limit = MOST_WINDOWS if rises or lower else patience // PATIENCE if worse else patience
    return Verdict("prolonged" if windows < limit else "undone", gain, lower)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Returns the mean and its standard error; that of a single value is infinite.

    Args:
        values: At least one.
    """
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, math.inf
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def _below(losses: list[float], level: list[float]) -> bool:
    """Whether the losses are lower than the level beyond chance; true where there is too little to compare."""
    if len(losses) < 2 or len(level) < 2:
        return True
    (now, error), (before, before_error) = mean_and_error(losses), mean_and_error(level)
    return before - now > LEVEL_CONFIDENCE * math.hypot(error, before_error)
