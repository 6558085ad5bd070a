"""Tiny Shakespeare: 1,115,394 characters of plays, 65 symbols."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridopt.core import DataError
from hybridopt.tasks.data.files import DataFile, locate

SHAKESPEARE = DataFile(
    "tinyshakespeare",
    "input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",
        "https://raw.githubusercontent.com/karpathy/char-rnn/refs/heads/master/data/tinyshakespeare/",
    ),
)
"""Compiled by A. Karpathy (char-rnn); the text is in the public domain."""

_SHARES = (0.9, 0.05)
"""Training and validation share of the text, in order, as usual; the rest is for testing."""


def load_text(file: DataFile = SHAKESPEARE) -> tuple[Tensor, int]:
    """Returns a text as symbols and the size of its alphabet.

    Args:
        file: Plain ASCII text.

    Returns:
        Symbols in reading order, int64, numbered as sorted; and how many different ones there are.

    Raises:
        DataError: If the file is missing, damaged or cannot be fetched, or is no ASCII text.
    """
    content = locate(file).read_bytes()
    if not content.isascii():
        raise DataError(f"{file.folder}/{file.name} is no plain ASCII text.")
    codes = torch.frombuffer(bytearray(content), dtype=torch.uint8).long()
    alphabet, symbols = codes.unique(return_inverse=True)
    return symbols, len(alphabet)


def windows(symbols: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Cuts a text into windows one after the other, with the next symbol at each place.

    Args:
        symbols: Shape (characters,).
        length: Characters in a window; what is left over at the end is dropped.

    Returns:
        Inputs and targets, both of shape (windows, length).

    Raises:
        DataError: If the text is shorter than a window.
    """
    count = (len(symbols) - 1) // length
    if count < 1:
        raise DataError(f"A text of {len(symbols)} characters has no window of {length}: shorten the windows.")
    used = count * length
    return symbols[:used].view(count, length), symbols[1 : used + 1].view(count, length)


def parts(symbols: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Splits a text in order: 90 % for training, 5 % for validation, 5 % for testing.

    Args:
        symbols: Shape (characters,).
    """
    first, second = (int(sum(_SHARES[: k + 1]) * len(symbols)) for k in range(2))
    return symbols[:first], symbols[first:second], symbols[second:]
