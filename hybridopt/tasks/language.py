"""What the character language models share: windows of text, cross-entropy per character, perplexity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hybridopt.core import ConfigError, option
from hybridopt.tasks.base import Split, Splits, Task, TaskConfig
from hybridopt.tasks.data.files import DataFile
from hybridopt.tasks.data.shakespeare import SHAKESPEARE, load_text, parts, windows

SYMBOLS = 65
"""Different characters in tiny Shakespeare."""


@dataclass
class LanguageConfig(TaskConfig):
    """Options of the character language models.

    Args:
        batch_size: Windows in a mini-batch.
        epochs: Default budget, in epochs; a full-batch step is one epoch.
        length: Characters in a window.
        characters: Use only this many characters of the training text, from its beginning, and a twentieth of that of
            the others; None for all.
        hidden: Width of the network.
        layers: Layers of the network.
    """

    batch_size: int = option(32, ge=1, help="windows in a mini-batch")
    epochs: float = option(5.0, gt=0, help="default budget in epochs; a full-batch step is one epoch")
    length: int = option(64, ge=2, help="characters in a window")
    characters: int | None = option(None, ge=1000, help="use only the first so many characters; null: all")
    hidden: int = option(128, ge=1, help="width of the network")
    layers: int = option(2, ge=1, help="layers of the network")


class CharacterModel(Task):
    """Predicts the next character of Shakespeare's plays at every place of a window.

    Windows follow one another without overlap; the first 90 % of the text are for training, 5 % for validation, 5 %
    for testing. A sample is a window. The trivial loss is the entropy of single characters, about 3.3 nats.

    Attributes:
        source: The file; a subclass may name another ASCII text with at most 65 different characters.
    """

    Config = LanguageConfig
    config: LanguageConfig
    source: ClassVar[DataFile] = SHAKESPEARE

    def build_splits(self, seed: int) -> Splits:
        """Returns windows of symbols and, as targets, the symbols that follow; the seed changes nothing.

        Args:
            seed: Unused: the text has an order.

        Raises:
            ConfigError: If the text has more different characters than the networks take.
        """
        symbols, alphabet = load_text(self.source)
        if alphabet > SYMBOLS:
            raise ConfigError(f"{self.name} has room for {SYMBOLS} different characters; the text has {alphabet}.")
        pieces = parts(symbols)
        limit = self.config.characters
        if limit is not None:
            pieces = tuple(piece[: max(limit if k == 0 else limit // 20, 2)] for k, piece in enumerate(pieces))
        return Splits(*(Split(*windows(piece, self.config.length)) for piece in pieces))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean cross-entropy per character in nats.

        Args:
            outputs: Logits, shape (samples, length, symbols).
            targets: Symbols, int64, shape (samples, length).
        """
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Returns ``perplexity``, ``bits_per_character`` and ``accuracy`` of the next character.

        Args:
            outputs: Logits, shape (samples, length, symbols).
            targets: Symbols, int64, shape (samples, length).
        """
        loss = float(self.loss(outputs, targets))
        return {
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_character": loss / math.log(2),
            "accuracy": float((outputs.argmax(dim=-1) == targets).double().mean()),
        }

    def trivial_loss(self, splits: Splits) -> float:
        """Returns the entropy of single characters in the training text, in nats.

        Args:
            splits: What `splits` returned.
        """
        counts = splits.train.targets.flatten().bincount().double()
        share = counts[counts > 0] / counts.sum()
        return float(-(share * torch.log(share)).sum())
