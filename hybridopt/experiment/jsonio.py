"""JSON lines with NaN and infinity, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import datetime
import enum
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridopt.core.errors import StoreError

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_WRONG_KIND = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
_NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}


def utc_now() -> str:
    """Returns the time now as ISO 8601 text in UTC, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def to_plain(value: Any) -> Any:
    """Returns a value as what JSON and YAML know: dict, list, str, int, float, bool, None.

    Args:
        value: Nested mappings and sequences of plain values, enums (taken by value), paths, and anything with
            `.item()` such as a NumPy number or a one-element tensor.

    Raises:
        TypeError: If something else is met.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, enum.Enum):
        return to_plain(value.value)
    if isinstance(value, Mapping):
        return {str(to_plain(key)): to_plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be stored as JSON")


_encoder = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=lambda value: _plain_or_fail(value))


def dumps(value: Any) -> str:
    """Returns strict JSON on one line; non-finite numbers become "NaN", "Infinity", "-Infinity"."""
    try:
        return _encoder.encode(value)
    except ValueError:  # a NaN or an infinity: rare, so only then is the value walked through
        return _encoder.encode(_named(to_plain(value)))


def loads(text: str | bytes) -> Any:
    """Reads what `dumps` wrote; the three strings become floats again.

    Raises:
        ValueError: If the text is not JSON.
    """
    value = json.loads(text)
    return _unnamed(value) if _may_hold_names(text) else value


def read_json(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Returns the object in a JSON file, or None if the file is missing, torn or holds something else."""
    try:
        value = loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the rows of a JSON-lines file in order.

    A last line without its end (a writer that is just writing, or was killed) is left out, as is any line
    that is not a JSON object; a missing file has no rows.
    """
    try:
        data = Path(path).read_bytes()
    except OSError:
        return []
    data = data[: data.rfind(b"\n") + 1]
    lines = data.splitlines()
    try:
        # One parse of one array is twice as fast as one parse a line.
        rows = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        rows = []
        for line in lines:
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    if _may_hold_names(data):
        rows = _unnamed(rows)
    return [row for row in rows if isinstance(row, dict)]


def write_atomic(path: str | os.PathLike[str], data: str | bytes | memoryview) -> None:
    """Writes a file so that a reader, a crash or a full disk finds the old content or the new, never a part.

    Args:
        path: The file.
        data: Its whole content; text is encoded as UTF-8.

    Raises:
        StoreError: If it cannot be written; the old content is still there then.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        write_synced(temporary, data)
        try:
            os.replace(temporary, path)
        finally:  # after the rename there is nothing left to remove
            _remove(temporary)
        sync_directory(path.parent)


def write_synced(path: str | os.PathLike[str], data: str | bytes | memoryview) -> None:
    """Writes a file through to the disk; what cannot be written whole is removed.

    Args:
        path: The file, which nobody reads yet.
        data: Its whole content; text is encoded as UTF-8.

    Raises:
        OSError: If it cannot be written.
    """
    view = memoryview(data.encode() if isinstance(data, str) else data)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        try:
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        _remove(Path(path))
        raise


def sync_directory(directory: str | os.PathLike[str]) -> None:
    """Makes renames in a directory last through a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an OSError of the block into a StoreError that names the file, the reason and what mends it.

    Args:
        path: What the block writes, for the message.

    Raises:
        StoreError: If the block raised an OSError.
    """
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error) or type(error).__name__).lower()
        if error.errno in _NO_SPACE:
            remedy = (
                "Free some space (or raise the quota) and start the same command again: everything recorded "
                "so far is kept, and the run goes on from its last checkpoint."
            )
        elif error.errno in _NO_ACCESS:
            remedy = "Choose a directory that you may write to with out=DIR, or change its permissions."
        elif error.errno in _WRONG_KIND:
            remedy = (
                "A file stands where a directory is needed (or the other way round): move it away or choose "
                "another place with out=DIR."
            )
        else:
            remedy = "Check the disk or choose another place with out=DIR."
        raise StoreError(f"Could not write {path}: {reason}. {remedy}") from error


def out_of_space(error: BaseException) -> bool:
    """Tells whether an error is that of a full disk or quota, as `writing` raises it.

    Args:
        error: Any.
    """
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_SPACE


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _plain_or_fail(value: Any) -> Any:
    plain = to_plain(value)
    if isinstance(plain, float) and not math.isfinite(plain):
        raise ValueError("not finite")
    return plain


def _named(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item) for item in value]
    return value


def _unnamed(value: Any) -> Any:
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: _unnamed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unnamed(item) for item in value]
    return value


def _may_hold_names(text: str | bytes) -> bool:
    if isinstance(text, str):
        return '"NaN"' in text or 'Infinity"' in text
    return b'"NaN"' in text or b'Infinity"' in text
