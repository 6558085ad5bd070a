"""One process per run directory.

The lock is an advisory `flock`, which the kernel drops with the process that holds it however that ends, so a
killed run never has to be unlocked by hand. The file beside it only says who holds it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import socket
import time
from pathlib import Path
from typing import Any

from hybridopt.core.errors import StoreError
from hybridopt.experiment import jsonio

try:
    import fcntl
except ImportError:  # Windows: reported when a run is opened, so that the rest of the package still imports
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".lock"
_PATIENCE = 0.5  # seconds; longer than any reader's probe holds its shared lock


class LockedError(StoreError):
    """Another process is writing this run."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a run.

    Attributes:
        pid: Its process id, 0 when unknown.
        host: The machine that it runs on, empty when unknown.
        since: When it took the run, UTC ISO text.
    """

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        who = f"process {self.pid} on {self.host}" if self.pid else "another process"
        return f"{who} since {self.since}" if self.since else who


class RunLock:
    """Holds a run directory for this process until `release` or the end of the process.

    Args:
        directory: An existing run directory.

    Raises:
        LockedError: If another process (or another store of this one) holds it.
        StoreError: If the file system has no locks.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        if fcntl is None:
            raise StoreError("Run directories need POSIX file locks: use Linux, macOS or WSL.")
        self.path = Path(directory) / LOCK_NAME
        with jsonio.writing(self.path):
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._acquire()
            who = {"pid": os.getpid(), "host": socket.gethostname(), "since": jsonio.utc_now()}
            # A full disk must not stop a resume, and the lock holds without the name in it.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, jsonio.dumps(who).encode(), 0)
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Gives the run back; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)  # drops the lock as well
            self._descriptor = -1

    def _acquire(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise StoreError(
                        f"The file system of {self.path.parent} has no file locks ({error.strerror}), so two "
                        "processes could write one run. Choose a directory on another one with out=DIR."
                    ) from error
                if time.monotonic() > deadline:
                    raise LockedError(
                        f"The run {self.path.parent} is being written by {_read_holder(self.path)}. Wait for "
                        "it, stop it, or start this one with another out=DIR."
                    ) from None
            time.sleep(0.02)


def lock_holder(directory: str | os.PathLike[str]) -> Holder | None:
    """Returns who is writing a run now, or None if nobody is.

    Args:
        directory: A run directory; one that does not exist is held by nobody.
    """
    path = Path(directory) / LOCK_NAME
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return _read_holder(path) if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    finally:
        os.close(descriptor)
    return None


def _read_holder(path: Path) -> Holder:
    known: dict[str, Any] = jsonio.read_json(path) or {}
    pid = known.get("pid")
    return Holder(
        pid=pid if isinstance(pid, int) else 0,
        host=str(known.get("host") or "an unknown machine"),
        since=str(known.get("since") or ""),
    )
