"""The clock of a run: training time only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Counts the seconds between `start` and `stop`, waiting for the device at both ends.

    Kernels on a GPU run on after the call that queued them, so a clock that does not wait counts evaluation as
    training or training as evaluation.

    Args:
        device: Where the run computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Lets the clock run."""
        self._synchronize()
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stops the clock once the device has done what is queued."""
        self._synchronize()
        self._before, self._since = self.seconds, None

    @property
    def seconds(self) -> float:
        """The reading; while the clock runs, it does not wait for the device. A resumed run sets it."""
        if self._since is None:
            return self._before
        return self._before + time.perf_counter() - self._since

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._before = value
        if self._since is not None:
            self._since = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context in which the clock stands still."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
