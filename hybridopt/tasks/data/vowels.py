"""Japanese Vowels: utterances of nine speakers as sequences of 12 coefficients, of 7 to 29 frames."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hybridopt.core import DataError
from hybridopt.tasks.data.files import DataFile, locate

_MIRRORS = (
    "https://raw.githubusercontent.com/sktime/sktime/main/sktime/datasets/data/JapaneseVowels/",
    "https://raw.githubusercontent.com/aeon-toolkit/aeon/main/aeon/datasets/data/JapaneseVowels/",
)

VOWELS = (
    DataFile(
        "japanese-vowels",
        "JapaneseVowels_TRAIN.ts",
        "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
        _MIRRORS,
    ),
    DataFile(
        "japanese-vowels",
        "JapaneseVowels_TEST.ts",
        "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
        _MIRRORS,
    ),
)
"""Kudo, Toyama and Shimbo, Pattern Recognition Letters 20 (1999); UCI data set 128, CC BY 4.0."""


def load_series(file: DataFile) -> tuple[list[Tensor], Tensor]:
    """Reads a file of labelled series in the format ``.ts`` of the UEA archive.

    Args:
        file: Series with integer class labels from 1 on.

    Returns:
        Series of shape (frames, dimensions), float32, and the classes from 0 on, int64.

    Raises:
        DataError: If the file is missing, damaged or cannot be fetched, or a line does not fit the format.
    """
    path = locate(file)
    series, classes = [], []
    for number, line in enumerate(_data_lines(path), start=1):
        *dimensions, label = line.split(":")
        try:
            values = [[float(value) for value in dimension.split(",")] for dimension in dimensions]
            series.append(torch.tensor(values, dtype=torch.float32).t().contiguous())
            classes.append(int(label) - 1)
        except ValueError as error:
            raise DataError(f"{path}: series {number} does not fit the format .ts ({error}).") from error
    if not series:
        raise DataError(f"{path} holds no series after a line '@data'.")
    return series, torch.tensor(classes)


def padded(series: list[Tensor], length: int) -> Tensor:
    """Returns series of different lengths as one tensor, with a last feature that is 1 in valid frames and else 0.

    Args:
        series: Each of shape (frames, dimensions).
        length: Frames to pad to, with zeros.

    Returns:
        Shape (samples, length, dimensions + 1).

    Raises:
        DataError: If a series is longer.
    """
    longest = max(len(one) for one in series)
    if longest > length:
        raise DataError(f"A series has {longest} frames, more than {length}.")
    out = torch.zeros(len(series), length, series[0].shape[1] + 1)
    for row, one in zip(out, series, strict=True):
        row[: len(one), :-1] = one
        row[: len(one), -1] = 1.0
    return out


def _data_lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    starts = [number for number, line in enumerate(lines) if line.strip().lower() == "@data"]
    body = lines[starts[0] + 1 :] if starts else []
    return [line for line in body if line.strip() and not line.startswith("#")]
