"""CIFAR-10: one archive with 50,000 training and 10,000 test images of 3 x 32 x 32, the binary version."""

from __future__ import annotations

import tarfile
import zlib

import numpy as np
import torch
from torch import Tensor

from hybridopt.core import DataError
from hybridopt.tasks.data.files import DataFile, locate
from hybridopt.tasks.data.images import Images

CIFAR10 = DataFile(
    "cifar-10",
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    (
        "https://www.cs.toronto.edu/~kriz/",
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
    ),
)
"""Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009)."""

_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32


def load_cifar(file: DataFile = CIFAR10) -> Images:
    """Reads the archive; nothing is unpacked on disk.

    Args:
        file: The archive, with members ``data_batch_*.bin`` and ``test_batch.bin``: records of a label byte and 3072
            pixel bytes, channel by channel.

    Returns:
        uint8 images of shape (n, 3, 32, 32) and int64 labels.

    Raises:
        DataError: If the file is missing, damaged or cannot be fetched, or does not hold these members.
    """
    path = locate(file)
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name.endswith("_batch.bin") or name.startswith("data_batch_"):
                    stream = archive.extractfile(member)
                    members[name] = b"" if stream is None else stream.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is no readable gzipped tar archive ({error}). Fetch it again.") from error
    training = [members[name] for name in sorted(members) if name.startswith("data_batch_")]
    if not training or "test_batch.bin" not in members:
        raise DataError(f"{path} does not hold data_batch_*.bin and test_batch.bin, the binary version of CIFAR-10.")
    train, test = _decode(b"".join(training), path), _decode(members["test_batch.bin"], path)
    return Images(*train, *test)


def _decode(content: bytes, path: object) -> tuple[Tensor, Tensor]:
    if not content or len(content) % _RECORD:
        raise DataError(f"{path}: a batch of {len(content)} bytes is no whole number of records of {_RECORD} bytes.")
    records = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).reshape(-1, _RECORD).copy())
    return records[:, 1:].reshape(-1, *_SHAPE).contiguous(), records[:, 0].long()
