"""Tiny image sets in MNIST's format, written by the tests themselves."""

from __future__ import annotations

import gzip
import hashlib
import struct
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from hybridopt.tasks.data import MNIST, DataFile, ImageSource

TRAIN, TEST, SIDE = 120, 20, 28


def idx_bytes(values: np.ndarray) -> bytes:
    """The IDX encoding of an array of unsigned bytes."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def pixels_and_labels(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images whose ten classes all occur."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10


def write_source(root: Path, folder: str = "mnist", mirrors: tuple[str, ...] = ()) -> ImageSource:
    """Writes four files below ``root/folder`` and returns the source that describes them."""
    (root / folder).mkdir(parents=True)
    arrays = [*pixels_and_labels(TRAIN, 0), *pixels_and_labels(TEST, 1)]
    described = {}
    for field, values in zip(fields(ImageSource), arrays, strict=True):
        canonical: DataFile = getattr(MNIST, field.name)
        content = gzip.compress(idx_bytes(values), mtime=0)
        (root / folder / canonical.name).write_bytes(content)
        checksum = hashlib.sha256(content).hexdigest()
        described[field.name] = replace(canonical, folder=folder, sha256=checksum, mirrors=mirrors)
    return ImageSource(**described)
