"""The clock of a run: where its time goes, phase by phase."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch

PHASES = ("startup", "training", "evaluation", "recording", "checkpoints")
"""What a run's time is spent on: start-up (imports, data, model, tracker, going back to a checkpoint), training
(batches, optimizer steps, schedule and limits), evaluation (losses, metrics, diagnostics, at the end the test set),
recording (rows, trackers, what is shown), and checkpoints with exports."""


class Clock:
    """Counts seconds by phase, one phase at a time, waiting for the device at every change.

    Kernels on a GPU run on after the call that queued them, so a clock that does not wait counts evaluation as
    training or training as evaluation. A phase inside another stops the outer one: no second is counted twice. Time
    outside of all phases is not counted.

    Args:
        device: Where the run computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._waits = device if device.type == "cuda" else None
        self._counted = dict.fromkeys(PHASES, 0.0)
        self._phase: str | None = None
        self._since = 0.0

    def start(self) -> None:
        """Begins to count training."""
        self.turn_to("training")

    def stop(self) -> None:
        """Stops counting once the device has done what is queued."""
        self.turn_to(None)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Returns a context whose time counts as a phase; the one before it stands still meanwhile.

        Args:
            name: One of `PHASES`.
        """
        return _Phase(self, name)

    @property
    def seconds(self) -> float:
        """Seconds of training; while they are counted, this does not wait for the device."""
        counted = self._counted["training"]
        return counted + time.perf_counter() - self._since if self._phase == "training" else counted

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of every phase in the order of `PHASES`, that of the moment included."""
        found = dict(self._counted)
        if self._phase is not None:
            found[self._phase] += time.perf_counter() - self._since
        return found

    def add(self, seconds: Mapping[str, float]) -> None:
        """Counts time that this clock has not seen: that before it was made, or of the run's process before this one.

        Args:
            seconds: By phase; NaN where it is not known, which it then stays.
        """
        for name, amount in seconds.items():
            self._counted[name] += amount

    def turn_to(self, phase: str | None) -> str | None:
        """Counts the present phase and begins another; returns the one before.

        Args:
            phase: One of `PHASES`, None for what is not counted.
        """
        if self._waits is not None:
            torch.cuda.synchronize(self._waits)
        now = time.perf_counter()
        before = self._phase
        if before is not None:
            self._counted[before] += now - self._since
        self._phase, self._since = phase, now
        return before


class _Phase(AbstractContextManager[None]):
    """There is one a row: a generator would take longer than the rest of it."""

    __slots__ = ("_before", "_clock", "_name")

    def __init__(self, clock: Clock, name: str) -> None:
        self._clock, self._name = clock, name

    def __enter__(self) -> None:
        self._before = self._clock.turn_to(self._name)

    def __exit__(self, *_: object) -> None:
        self._clock.turn_to(self._before)
