"""Reader of the IDX format, in which MNIST and its kin are published."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hybridopt.core import DataError

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: str | Path, *, ndim: int) -> Tensor:
    """Reads an IDX file of unsigned bytes, gzipped or not.

    The header is two zero bytes, the type code (8 for unsigned bytes), the number of dimensions, and each dimension
    as a big-endian 32-bit integer; the values follow in C order.

    Args:
        path: The file.
        ndim: How many dimensions it must have: 3 for images, 1 for labels.

    Returns:
        A uint8 tensor with `ndim` dimensions.

    Raises:
        DataError: If the file is missing, truncated, no IDX file, of another type or number of dimensions, or empty.
    """
    path = Path(path)
    content = _content(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError(f"{path} is no IDX file: it must begin with two zero bytes. Fetch it again.")
    code, found = content[2], content[3]
    if code != _UNSIGNED_BYTE:
        raise DataError(f"{path} holds IDX type code {code:#04x}; only unsigned bytes (0x08) are read.")
    if found != ndim:
        raise DataError(
            f"{path} has {found} dimensions where {ndim} are expected (3 for images, 1 for labels). Are the image "
            "and the label file interchanged?"
        )
    header = 4 + 4 * ndim
    if len(content) < header:
        raise DataError(f"{path} is truncated: it ends within its header. Fetch it again.")
    shape = struct.unpack(f">{ndim}I", content[4:header])
    if math.prod(shape) == 0:
        raise DataError(f"{path} is empty: its shape is {shape}.")
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path} is truncated or has a wrong header: shape {shape} needs {math.prod(shape)} bytes of values, "
            f"but {len(content) - header} follow the header. Fetch it again."
        )
    values = np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)
    return torch.from_numpy(values.copy())


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == _GZIP_MAGIC else content
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a truncated or damaged gzip file ({error}). Fetch it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}). Check its permissions.") from error
