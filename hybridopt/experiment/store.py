"""The run directory: what a run leaves behind, and how it goes on after a kill.

    config.yaml           the resolved config
    provenance.json       code, versions, machine; written once, a resume is added to its list "resumed"
    history.jsonl         the rows, one write each: the source of truth
    checkpoint.pt         state to go on from, with the length of the history at that moment
    checkpoint.prev.pt    the one before it, for when the newest is damaged
    checkpoint.damaged.pt    one that could not be used, set aside
    status.json           how the run stands; written last
    run.log               what was said on the way

A resume cuts the history back to the length that its checkpoint states, so a resumed run holds the same rows
as an undisturbed one.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import pickle
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from hybridopt.core.errors import StoreError
from hybridopt.experiment import jsonio
from hybridopt.experiment.identity import FORMAT, run_id
from hybridopt.experiment.layout import (
    ABANDONED,
    CHECKPOINT,
    CONFIG,
    DAMAGED,
    HISTORY,
    LOG,
    PREVIOUS,
    PROVENANCE,
    ROW_TYPES,
    STATUS,
    STATUSES,
    check_format,
    read_config,
    write_config,
)
from hybridopt.experiment.lock import RunLock

__all__ = ["FORMAT", "RunStore", "check_format", "read_config", "run_id", "write_config"]

_log = logging.getLogger(__name__)


class RunStore:
    """One run's directory, opened for writing and locked for this process.

    Call `resume` once before the first `append`. Use it as a context manager or call `close`.

    Args:
        directory: The run directory; made if it does not exist.
        config: The resolved config, as plain nested mappings; None reads the one that is there.

    Attributes:
        directory: The run directory.
        config: The resolved config.
        run_id: Identity of the run, see `hybridopt.experiment.identity.run_id`.

    Raises:
        StoreError: If another process writes this run, the directory cannot be written, holds another run or
            one of another format, or has no config and none is given.

    Example:
        >>> import tempfile
        >>> config = {"task": {"name": "t"}, "optimizer": {"name": "sgd"}, "seed": 0, "device": "cpu"}
        >>> directory = tempfile.mkdtemp()
        >>> with RunStore(directory, config) as store:
        ...     state = store.resume()  # None: from the beginning
        ...     store.append({"type": "step", "step": 1, "loss": float("nan")})
        ...     store.save_checkpoint({"step": 1})
        >>> with RunStore(directory) as store:
        ...     state = store.resume()
        >>> state
        {'step': 1}
    """

    def __init__(self, directory: str | os.PathLike[str], config: Mapping[str, Any] | None = None) -> None:
        self.directory = Path(directory)
        self._history = -1
        self._length = 0
        self._trusted = False  # whether a checkpoint of this process has been read back
        with jsonio.writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(self.directory)
        try:
            check_format(self.directory)
            self.config = self._settle_config(config)
            self.run_id = run_id(self.config)
        except BaseException:
            self._lock.release()
            raise

    @property
    def log_path(self) -> Path:
        """File for the run's log."""
        return self.directory / LOG

    @property
    def history_path(self) -> Path:
        """File of the rows."""
        return self.directory / HISTORY

    def resume(self, map_location: Any = "cpu") -> dict[str, Any] | None:
        """Finds the newest usable checkpoint and cuts the history back to it.

        A damaged checkpoint is passed over for the one before it. When none is usable the run starts from
        zero; rows that are there then are kept beside it in `history.abandoned.jsonl`.

        Args:
            map_location: Where `torch.load` puts the tensors.

        Returns:
            The state that was given to `save_checkpoint`, or None to start from zero.

        Raises:
            StoreError: If the directory cannot be read or written.
        """
        if self._history >= 0:
            raise StoreError(f"{self.directory} was resumed already; call resume() once for each opened run.")
        self._clean()
        size = self._size_on_disk()
        found = None
        for name in (CHECKPOINT, PREVIOUS):
            path = self.directory / name
            if path.exists():
                found = self._read_checkpoint(path, size, map_location)
                if found is not None:
                    break
                # Out of the way, or the next checkpoint would push the good older one out in its favour.
                with contextlib.suppress(OSError):
                    os.replace(path, self.directory / DAMAGED)
        length = found["history_bytes"] if found is not None else 0
        if found is None and size:
            self._abandon()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        with jsonio.writing(self.history_path):
            self._history = os.open(self.history_path, flags, 0o644)
            os.ftruncate(self._history, length)
        self._length = length
        if found is None:
            return None
        if size > length:
            _log.info("Resumed; %d bytes of rows after the checkpoint are computed again.", size - length)
        return found["state"]

    def append(self, row: Mapping[str, Any]) -> None:
        """Records one row with one write.

        Args:
            row: "type" ("step", "evaluation" or "event"), "step", "epoch", "gradient_equivalents", "seconds"
                and more as the type asks for; NaN and infinities are fine.

        Raises:
            StoreError: If the row cannot be written; the rows before it are whole.
        """
        if self._history < 0:
            raise StoreError("Call resume() before the first append(): it finds where the history goes on.")
        if row.get("type") not in ROW_TYPES:
            raise StoreError(f"A row's type is one of {', '.join(ROW_TYPES)}, not {row.get('type')!r}.")
        line = (jsonio.dumps(row) + "\n").encode()
        self._write(line)

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Stores the state to go on from, together with the present length of the history.

        The file appears whole or not at all, and the one before it is kept: rows and content are on the disk before
        it gets its name. That the name lasts through a power cut is left to the file system's next commit (some
        seconds) or the next status, since all that could be lost is the step from the checkpoint before. The first
        one of a process is read back at once, so a state that cannot be loaded is an error now and not after a kill.

        Args:
            state: Tensors, numbers, strings, and lists and dicts of those: what `weights_only=True` loads.

        Raises:
            StoreError: If it cannot be written (the checkpoints that are there stay) or cannot be loaded
                again.
        """
        if self._history < 0:
            raise StoreError("Call resume() before save_checkpoint(): it finds where the history goes on.")
        content = {
            "format": FORMAT,
            "run_id": self.run_id,
            "history_bytes": self._length,
            "state": dict(state),
        }
        newest, previous = self.directory / CHECKPOINT, self.directory / PREVIOUS
        fresh = self.directory / f".{CHECKPOINT}.new"
        # No checkpoint may outlive the rows that it counts. The disk is at them while the state is put together.
        with jsonio.writing(newest), ThreadPoolExecutor(1) as elsewhere:
            rows = elsewhere.submit(os.fsync, self._history)
            jsonio.write_synced(fresh, self._serialized(content))
            rows.result()
            if newest.exists():
                os.replace(newest, previous)
            os.replace(fresh, newest)

    def _serialized(self, content: Mapping[str, Any]) -> memoryview:
        """Returns a checkpoint's content as a file; the first one of this process is read back."""
        import torch

        buffer = io.BytesIO()
        torch.save(content, buffer)
        if not self._trusted:
            buffer.seek(0)
            try:
                torch.load(buffer, weights_only=True, map_location="cpu")
            except pickle.UnpicklingError as error:
                raise StoreError(
                    "The checkpoint would not load again with weights_only=True: keep plain tensors, "
                    f"numbers, strings, lists and dicts in every state_dict. {str(error).splitlines()[0]}"
                ) from error
            self._trusted = True
        return buffer.getbuffer()

    def write_provenance(self, facts: Mapping[str, Any]) -> None:
        """Records where the numbers come from: the first time as it is, later as an entry of "resumed".

        Args:
            facts: What `hybridopt.experiment.provenance.collect` returns, and "task_facts".

        Raises:
            StoreError: If it cannot be written.
        """
        path = self.directory / PROVENANCE
        known = jsonio.read_json(path)
        if known is None:
            known = {"format": FORMAT, "run_id": self.run_id, **jsonio.to_plain(facts), "resumed": []}
        else:
            entry = {key: value for key, value in jsonio.to_plain(facts).items() if known.get(key) != value}
            known = {**known, "resumed": [*known.get("resumed", []), entry]}
        jsonio.write_atomic(path, _pretty(known))

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replaces the status; rows are on the disk before a final one is.

        Args:
            status: "status" (running, done, failed, diverged or interrupted) and the other keys of
                status.json.

        Raises:
            StoreError: If it cannot be written; the status before it stays.
        """
        if status.get("status") not in STATUSES:
            raise StoreError(f"A status is one of {', '.join(STATUSES)}, not {status.get('status')!r}.")
        if self._history >= 0 and status["status"] != "running":
            with jsonio.writing(self.history_path):
                os.fsync(self._history)
        jsonio.write_atomic(self.directory / STATUS, _pretty({"format": FORMAT, **status}))

    def read_status(self) -> dict[str, Any] | None:
        """Returns the content of status.json, or None if there is none."""
        return jsonio.read_json(self.directory / STATUS)

    def read_rows(self) -> list[dict[str, Any]]:
        """Returns the rows recorded so far, in order."""
        return jsonio.read_rows(self.history_path)

    def close(self) -> None:
        """Closes the files and gives the run back; a second call does nothing."""
        if self._history >= 0:
            os.close(self._history)
            self._history = -1
        self._lock.release()

    def __enter__(self) -> RunStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        """Adds one line; when it does not fit, nothing of it stays."""
        try:
            if os.write(self._history, line) < len(line):  # what a file system does that is nearly full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._history, self._length)
            with jsonio.writing(self.history_path):
                raise
        self._length += len(line)

    def _settle_config(self, config: Mapping[str, Any] | None) -> dict[str, Any]:
        path = self.directory / CONFIG
        if config is None:
            return read_config(self.directory)
        given = jsonio.to_plain(config)
        if path.exists():
            there = read_config(self.directory)
            if run_id(there) != run_id(given):
                raise StoreError(
                    f"{self.directory} holds another run (id {run_id(there)}, not {run_id(given)}). Choose "
                    "another directory with out=DIR, or remove that one."
                )
            if there == given:
                return given
        write_config(self.directory, given)
        return given

    def _clean(self) -> None:
        """Removes what a killed writer left half written."""
        for pattern in (".*.tmp", f".{CHECKPOINT}.new"):
            for path in self.directory.glob(pattern):
                with contextlib.suppress(OSError):
                    path.unlink()

    def _size_on_disk(self) -> int:
        try:
            return self.history_path.stat().st_size
        except FileNotFoundError:
            return 0

    def _read_checkpoint(self, path: Path, size: int, map_location: Any) -> dict[str, Any] | None:
        """Returns the content of a checkpoint, or None (and a line in the log) if it cannot be used."""
        import torch

        try:
            # torch.load does not compare the checksums that torch.save writes; zipfile does.
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"its part {damaged} is damaged")
            content = torch.load(path, weights_only=True, map_location=map_location)
            if content["format"] != FORMAT or content["run_id"] != self.run_id:
                raise ValueError("it belongs to another run")
            length = content["history_bytes"]
            if length > size or not self._ends_a_row(length):
                raise ValueError("the history does not hold the rows that it counts")
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            RuntimeError,
            EOFError,
            zipfile.BadZipFile,
            pickle.UnpicklingError,
        ) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            _log.warning("The checkpoint %s cannot be used (%s); looking for an older one.", path.name, reason)
            return None
        return content

    def _ends_a_row(self, length: int) -> bool:
        if length == 0:
            return True
        with open(self.history_path, "rb") as file:
            file.seek(length - 1)
            return file.read(1) == b"\n"

    def _abandon(self) -> None:
        """Moves the rows of a run that starts again from zero out of the way."""
        with jsonio.writing(self.history_path):
            os.replace(self.history_path, self.directory / ABANDONED)
        _log.warning(
            "No usable checkpoint: the run starts again from zero. The rows that it had are kept in %s.",
            ABANDONED,
        )


def _pretty(value: Mapping[str, Any]) -> str:
    """JSON for people: indented, with NaN and infinities by name."""
    return json.dumps(json.loads(jsonio.dumps(value)), indent=1) + "\n"
