"""What the generated sequence problems share: their options, and one stream of random numbers for each part."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from hybridopt.core import option
from hybridopt.tasks.base import Split, Splits, Task, TaskConfig
from hybridopt.tasks.data.split import generator
from hybridopt.tasks.recurrent import CELLS, INITIALIZATIONS, LastStepRNN


@dataclass
class SequenceConfig(TaskConfig):
    """Options of the generated sequence problems.

    Args:
        batch_size: Mini-batch of optimizers that step on few samples.
        epochs: Default budget, in epochs; a full-batch step is one epoch.
        T: Length of the sequences; the longer, the harder.
        train_samples: Sequences to train on.
        validation_samples: Sequences to validate on, and as many to test on.
        cell: ``"lstm"``, ``"gru"`` or ``"rnn"`` (tanh).
        hidden: Units of the recurrent layer.
        initialization: ``"default"`` (torch's) or ``"orthogonal"``.
    """

    batch_size: int = option(50, ge=1, help="mini-batch of optimizers that step on few samples")
    epochs: float = option(80.0, gt=0, help="default budget in epochs; a full-batch step is one epoch")
    T: int = option(10, ge=4, help="length of the sequences; the longer, the harder")
    train_samples: int = option(1000, ge=1, help="sequences to train on")
    validation_samples: int = option(500, ge=1, help="sequences to validate on, and as many to test on")
    cell: str = option("gru", choices=tuple(CELLS), help="recurrent cell; rnn is the plain tanh one")
    hidden: int = option(16, ge=1, help="units of the recurrent layer")
    initialization: str = option("default", choices=INITIALIZATIONS, help="of the recurrent weights")


class GeneratedSequences(Task):
    """A sequence problem whose samples are generated; a subclass writes `generate`.

    Attributes:
        stream: Prefix of the names of its streams of random numbers.
        features: Numbers in each step of a sequence.
        outputs: Numbers that the network answers after the last step.
    """

    Config = SequenceConfig
    stream: ClassVar[str] = ""
    features: ClassVar[int] = 2
    outputs: ClassVar[int] = 1

    @abstractmethod
    def generate(self, samples: int, rng: torch.Generator) -> Split:
        """Returns sequences with their answers.

        Args:
            samples: How many.
            rng: Decides everything random.
        """

    def build_splits(self, seed: int) -> Splits:
        """Generates the three parts, each from a stream of its own.

        Args:
            seed: Decides every random number.
        """
        config = self.config
        sizes = {"train": config.train_samples, "validation": config.validation_samples}
        sizes["test"] = config.validation_samples
        return Splits(*(self.generate(n, generator(seed, f"{self.stream} {part}")) for part, n in sizes.items()))

    def build_model(self) -> nn.Module:
        """Returns the recurrent network with a linear read-out after the last step."""
        config = self.config
        return LastStepRNN(
            config.cell, self.features, config.hidden, self.outputs, initialization=config.initialization
        )
