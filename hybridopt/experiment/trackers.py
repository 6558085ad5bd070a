"""Trackers mirror a run somewhere else. `history.jsonl` stays the truth: a mirror may fail, the run does not."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from hybridopt.core import Registry

registry = Registry(
    "tracker",
    {
        "none": "hybridopt.experiment.trackers:Tracker",
        "wandb": "hybridopt.experiment.trackers_wandb:WandbTracker",
        "tensorboard": "hybridopt.experiment.trackers_tensorboard:TensorBoardTracker",
    },
    entry_points="hybridopt.trackers",
)
"""Names of the config group ``tracker``."""

_log = logging.getLogger(__name__)

AXES = ("step", "epoch", "gradient_equivalents", "seconds")
"""Keys that every row has, and against which metrics are drawn."""


class Tracker:
    """Mirrors nothing; base class of the others. Its methods run in a thread of their own, see `Mirror`.

    Args:
        config: An instance of `Config`.
    """

    @dataclasses.dataclass
    class Config:
        """No options."""

    summary: ClassVar[str] = "no mirror; history.jsonl has everything"

    def __init__(self, config: Any) -> None:
        self.config = config

    def start(self, directory: Path, config: Mapping[str, Any], run_id: str) -> None:
        """Opens the mirror of a run.

        Args:
            directory: The run directory.
            config: The resolved config.
            run_id: Identity of the run.
        """

    def log(self, row: Mapping[str, Any]) -> None:
        """Mirrors one row of the history.

        Args:
            row: As stored.
        """

    def finish(self, status: Mapping[str, Any]) -> None:
        """Closes the mirror.

        Args:
            status: The run's status.
        """

    def abandon(self) -> None:
        """Called once after a failure, when nothing else will be called: lets go of what would outlive the run.

        Called from another thread when one of the other methods does not come back.
        """


def make_tracker(tracker: Mapping[str, Any]) -> Tracker:
    """Returns the tracker that a config names.

    Args:
        tracker: The tracker part of a checked config.
    """
    cls = registry.get(tracker["name"])
    return cls(cls.Config(**{key: value for key, value in tracker.items() if key != "name"}))


def flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row of the history as one flat mapping, as trackers log it.

    Args:
        row: As stored.

    Example:
        >>> flatten({"type": "step", "step": 3, "loss": 0.5, "report": {"grad_norm": 1.0}})
        {'step': 3, 'loss': 0.5, 'report/grad_norm': 1.0}
        >>> flatten({"type": "event", "step": 3, "event": "escape_jump", "attempt": 0})
        {'step': 3, 'event/escape_jump': 1, 'event/escape_jump/attempt': 0}
    """
    prefix = f"event/{row['event']}" if row.get("type") == "event" else ""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "type":
            continue
        if key == "event":
            flat[prefix] = 1
        elif isinstance(value, Mapping):
            flat |= {f"{key}/{name}": item for name, item in _leaves(value)}
        else:
            flat[f"{prefix}/{key}" if prefix and key not in AXES else key] = value
    return flat


def _leaves(value: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            found += [(f"{key}/{name}", leaf) for name, leaf in _leaves(item)]
        else:
            found.append((key, item))
    return found


class Mirror:
    """Runs a tracker in its own thread, where it can neither slow down, break nor end the run.

    Rows are handed over through a queue. The first failure is one warning in the run's log, and the end of the
    mirror; at the end of the run a mirror that hangs is left behind after `patience` seconds. A run is held up by three
    times that long at most: at the tracker's start, at its end, and when it is told to let go of what it holds.

    Args:
        tracker: What to run.
        patience: Seconds that its start, and later its end, are waited for.
    """

    def __init__(self, tracker: Tracker, patience: float = 20.0) -> None:
        self._tracker = tracker
        self._patience = patience
        self._calls: queue.SimpleQueue[tuple[str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._started = threading.Event()
        self._thread: threading.Thread | None = None
        self._left_behind = False

    def start(self, directory: Path, config: Mapping[str, Any], run_id: str) -> None:
        """Starts the tracker, and waits until it stands so that its imports do not run beside the first steps.

        Args:
            directory: The run directory.
            config: The resolved config.
            run_id: Identity of the run.
        """
        if type(self._tracker) is Tracker:
            return
        self._calls.put(("start", (directory, config, run_id)))
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()
        if not self._started.wait(self._patience):
            _log.warning("The tracker is not up after %g s; the run starts without waiting for it.", self._patience)

    def log(self, row: Mapping[str, Any]) -> None:
        """Hands a row over.

        Args:
            row: As stored.
        """
        if self._thread is not None and self._thread.is_alive():
            self._calls.put(("log", (dict(row),)))

    def finish(self, status: Mapping[str, Any]) -> None:
        """Closes the tracker, waiting for it a limited time.

        Args:
            status: The run's status.
        """
        if self._thread is None:
            return
        self._calls.put(("finish", (dict(status),)))
        self._calls.put(None)
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._left_behind = True
            _log.warning(
                "%s did not finish within %g s and is left behind; history.jsonl has every row.",
                type(self._tracker).__name__,
                self._patience,
            )
            last = threading.Thread(target=self._abandon, name="tracker's end", daemon=True)
            last.start()
            last.join(self._patience)

    def _abandon(self) -> None:
        with contextlib.suppress(BaseException):
            self._tracker.abandon()

    def _work(self) -> None:
        name = type(self._tracker).__name__
        while (call := self._calls.get()) is not None:
            method, arguments = call
            try:
                getattr(self._tracker, method)(*arguments)
            except BaseException as error:
                if self._left_behind:  # it has been told already, and is let go of
                    return
                # Even SystemExit: whatever a tracker does, it is not worth a run.
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                _log.warning(
                    "%s failed in %s (%s) and mirrors this run no further; history.jsonl has every row.",
                    name,
                    method,
                    reason,
                )
                self._abandon()
                return
            finally:
                self._started.set()
