"""Stopping a run at the end of a step: signals, and the death of the launcher."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

PARENT = "HYBRIDOPT_LAUNCHER_PID"
"""Environment variable by which a launcher tells its jobs who they belong to."""


class StopSignal:
    """Context in which SIGINT and SIGTERM ask the run to save and stop instead of ending the process.

    SIGUSR2 does so too: a cluster sends it ahead of the end of a job's time, or of its preemption. A second SIGINT
    interrupts at once. Also asks for a stop when the launcher that started this process is gone: its jobs must not
    run on unseen.
    """

    def __init__(self) -> None:
        self._reason: str | None = None
        self._before: dict[int, object] = {}
        parent = os.environ.get(PARENT, "")
        self._parent = int(parent) if parent.isdecimal() else None

    def __call__(self) -> str | None:
        """Returns why the run should stop, or None."""
        if self._reason is None and self._parent is not None and os.getppid() != self._parent:
            self._reason = "the launcher of this job is gone"
        return self._reason

    def __enter__(self) -> StopSignal:
        # Only the main thread may set handlers; elsewhere the caller's own stand.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._reason = f"stopped by {signal.Signals(number).name}"
