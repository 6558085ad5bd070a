"""Whether the file of an offline run of Weights & Biases is whole."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

from hybridopt.core.errors import StoreError

BLOCK = 32768
_HEADER = struct.Struct("<IHB")  # checksum, length, kind
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def wait_until_whole(path: Path, seconds: float) -> None:
    """Waits until wandb's service has written an offline run to its end.

    The service keeps records in memory and writes them when it closes the file, some time after ``Run.finish`` has
    returned: until then the file may be 7 bytes long, or end within a record.

    Args:
        path: The run's ``.wandb`` file.
        seconds: How long to wait at most.

    Raises:
        StoreError: If the file is not whole by then.
    """
    deadline = time.monotonic() + seconds
    while not is_whole(path):
        if time.monotonic() > deadline:
            raise StoreError(
                f"wandb's service has not written {path} to its end within {seconds:g} s. "
                "Rebuild the run by `hybridopt export wandb`."
            )
        time.sleep(0.01)


def is_whole(path: Path) -> bool:
    """Tells whether an offline run's file ends with a whole record, and has the one of the run's exit near its end.

    Args:
        path: The run's ``.wandb`` file.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            start = max(size // BLOCK - 1, 0) * BLOCK  # the exit's record is short: two blocks have it
            file.seek(start)
            data = file.read(size - start)
    except FileNotFoundError:
        return False
    ended = False
    for record in _records(data, 0 if start else 7):
        if record is None:
            return False
        ended = ended or Record.FromString(record).HasField("exit")
    return ended


def _records(data: bytes, offset: int) -> Iterator[bytes | None]:
    """Yields the records that begin in some blocks of a LevelDB log; None for one that does not end in them."""
    parts: bytes | None = None
    while offset < len(data):
        left = BLOCK - offset % BLOCK
        if left < _HEADER.size:  # filled with zeros
            offset += left
            continue
        body = offset + _HEADER.size
        if body > len(data):
            yield None
            return
        _, length, kind = _HEADER.unpack_from(data, offset)
        offset = body + length
        if offset > len(data):
            yield None
            return
        if kind in (_WHOLE, _FIRST):
            parts = b""
        if parts is not None:  # else the rest of a record that begins before these blocks
            parts += data[body:offset]
            if kind in (_WHOLE, _LAST):
                yield parts
                parts = None
    if parts is not None:
        yield None
