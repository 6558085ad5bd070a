from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from hybridopt.core import DataError
from hybridopt.tasks.data import read_idx
from tests.tasks.idx_files import idx_bytes


def _write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("compress", [False, True])
def test_reads_values_in_order(tmp_path, compress):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = idx_bytes(values)
    path = _write(tmp_path / "file", gzip.compress(content) if compress else content)
    read = read_idx(path, ndim=3)
    assert read.dtype == torch.uint8
    assert torch.equal(read, torch.from_numpy(values))
    read[0, 0, 0] = 7  # writable memory of its own


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"\0\0", "no IDX file"),
        (b"GIF89a..", "no IDX file"),
        (struct.pack(">BBBBI", 0, 0, 0x0D, 1, 1) + b"\0\0\0\0", "type code 0x0d"),
        (struct.pack(">BBBB", 0, 0, 8, 1), "within its header"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 0), "empty"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 5) + b"\1\2", "5 bytes of values, but 2"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 1) + b"\1\2", "1 bytes of values, but 2"),
    ],
)
def test_refuses_what_is_no_label_file(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_idx(_write(tmp_path / "file", content), ndim=1)


def test_refuses_interchanged_files(tmp_path):
    labels = _write(tmp_path / "labels", idx_bytes(np.zeros(3, np.uint8)))
    with pytest.raises(DataError, match=r"1 dimensions where 3 are expected.*interchanged"):
        read_idx(labels, ndim=3)


def test_refuses_truncated_and_damaged_gzip(tmp_path):
    whole = gzip.compress(idx_bytes(np.arange(200, dtype=np.uint8)))
    damaged = bytearray(whole)
    damaged[-6] ^= 0xFF  # within the CRC
    for name, content in (("short", whole[: len(whole) // 2]), ("damaged", bytes(damaged))):
        with pytest.raises(DataError, match="truncated or damaged gzip"):
            read_idx(_write(tmp_path / name, content), ndim=1)


def test_names_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"absent.* does not exist"):
        read_idx(tmp_path / "absent", ndim=1)
