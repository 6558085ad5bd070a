"""A file of wandb is called whole when its service has written the last record, and at no byte before."""

from __future__ import annotations

import re
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from hybridopt.core.errors import StoreError
from hybridopt.experiment.job import run_job
from hybridopt.experiment.wandb_file import BLOCK, is_whole, wait_until_whole
from tests.experiment.test_trackers import config


def log_of(*records: Any) -> bytes:
    """Writes records as LevelDB's log does: blocks of 32 KiB, longer records in pieces."""
    data = b":W&B\x03\x00\x00"
    for record in records:
        rest, first = record.SerializeToString(), True
        while rest or first:
            left = BLOCK - len(data) % BLOCK
            if left < 7:
                data += bytes(left)
                left = BLOCK
            piece, rest = rest[: left - 7], rest[left - 7 :]
            kind = (1 if not rest else 2) if first else (4 if not rest else 3)
            data += struct.pack("<IHB", 0, len(piece), kind) + piece
            first = False
    return data


def history(size: int) -> Any:
    from wandb.proto.wandb_internal_pb2 import Record

    record = Record()
    record.history.item.add(key="x", value_json="1" * size)
    return record


def exit_record() -> Any:
    from wandb.proto.wandb_internal_pb2 import Record

    record = Record()
    record.exit.exit_code = 1
    record._info.stream_id = "0123456789abcdef"
    return record


def cuts(data: bytes, path: Path, lengths: Iterable[int]) -> list[int]:
    """Returns at which lengths the beginning of a file is called whole."""
    found = []
    for length in lengths:
        path.write_bytes(data[:length])
        if is_whole(path):
            found.append(length)
    return found


@pytest.mark.parametrize("left", [10000, 45, 33, 20, 8, 7, 6, 1, 0, -10, 60 - 2 * BLOCK])
def test_a_file_is_whole_from_the_end_of_its_last_record_on(left: int, tmp_path: Path) -> None:
    size = BLOCK - 147 - left  # so that the exit's record begins `left` bytes before the block's end
    assert left < 0 or len(log_of(history(100), history(size))) == BLOCK - left
    data = log_of(history(100), history(size), exit_record())
    assert cuts(data, tmp_path / "run.wandb", range(len(data) - 60, len(data) + 1)) == [len(data)]
    later = log_of(history(100), history(size), exit_record(), history(20))
    assert cuts(later, tmp_path / "run.wandb", range(len(data), len(later) + 1)) == [len(data), len(later)]


def test_wandbs_own_file_is_whole_at_its_last_byte_only(tmp_path: Path) -> None:
    run_job(tmp_path, config(tracker="wandb"))
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    data = path.read_bytes()
    lengths = [*range(0, len(data) - 100, 101), *range(len(data) - 100, len(data) + 1)]
    assert cuts(data, tmp_path / "cut.wandb", lengths) == [len(data)]


def test_waiting_ends_with_the_file_or_with_a_sentence(tmp_path: Path) -> None:
    data, path = log_of(history(100), exit_record()), tmp_path / "run.wandb"
    with pytest.raises(StoreError, match=re.escape(str(path))):  # there is none yet
        wait_until_whole(path, 0.02)
    path.write_bytes(data[:-1])
    with pytest.raises(StoreError, match="hybridopt export wandb"):
        wait_until_whole(path, 0.02)

    def write() -> None:
        time.sleep(0.1)
        path.write_bytes(data)

    thread = threading.Thread(target=write)
    thread.start()
    wait_until_whole(path, 30)
    assert path.read_bytes() == data
    thread.join()
