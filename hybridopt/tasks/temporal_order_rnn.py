"""The temporal order problems of Hochreiter and Schmidhuber (1997), generated from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from hybridopt.core import option
from hybridopt.tasks.base import Split, Target
from hybridopt.tasks.classification import Classification
from hybridopt.tasks.recurrent import LastStepRNN
from hybridopt.tasks.sequences import GeneratedSequences, SequenceConfig

DISTRACTORS = 4
"""Symbols that mean nothing; the two that count come after them."""

# In tenths of the length: where the symbols that count may stand (Martens and Sutskever, 2011).
_PLACES = {2: ((1, 2), (5, 6)), 3: ((1, 2), (3, 4), (6, 7))}


@dataclass
class TemporalOrderConfig(SequenceConfig):
    """Options of `TemporalOrderRNN`.

    Args:
        T: Length of the sequences; the longer, the harder.
        bits: How many symbols count: 2 (4 classes) or 3 (8 classes).
        hidden: Units of the recurrent layer.
    """

    T: int = option(20, ge=10, help="length of the sequences; the longer, the harder")
    bits: int = option(2, choices=[2, 3], help="how many symbols count: 2 (4 classes) or 3 (8 classes)")
    hidden: int = option(16, ge=1, help="units of the recurrent layer")
    epochs: float = option(60.0, gt=0, help="default budget in epochs; a full-batch step is one epoch")


class TemporalOrderRNN(Classification, GeneratedSequences):
    """Says in which order two or three symbols X or Y occurred among distractors.

    Steps are one of four distractors, one-hot in six features, except at two (three) places, drawn from the first and
    second half of the sequence, which hold X or Y; the class is their order, XX, XY, YX or YY. Hochreiter and
    Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (1997), experiments 6a and 6b; the places as in Martens
    and Sutskever (ICML 2011), with one length T for all sequences. The trivial loss is ln 4 (ln 8).
    """

    name = "temporal_order_rnn"
    summary = "temporal order problem (generated): order of 2 or 3 relevant symbols among distractors"
    # Measured with Adam (1e-2) on seeds 0 to 2 (data and initialization): both targets in 4 or 5 epochs.
    targets = (
        Target("validation_accuracy", 0.99, "max"),
        Target("train_loss", 0.05, "min"),
    )
    Config = TemporalOrderConfig
    config: TemporalOrderConfig
    stream = "temporal order"
    features = DISTRACTORS + 2

    def generate(self, samples: int, rng: torch.Generator) -> Split:
        """Returns one-hot sequences and their classes.

        Args:
            samples: How many.
            rng: Decides symbols and places.
        """
        T, bits = self.config.T, self.config.bits
        symbols = torch.randint(0, DISTRACTORS, (samples, T), generator=rng)
        classes = torch.zeros(samples, dtype=torch.int64)
        for low, high in _PLACES[bits]:
            start, stop = low * T // 10, max(low * T // 10 + 1, high * T // 10)
            place = torch.randint(start, stop, (samples, 1), generator=rng)
            kind = torch.randint(0, 2, (samples,), generator=rng)
            symbols.scatter_(1, place, DISTRACTORS + kind[:, None])
            classes = 2 * classes + kind
        return Split(functional.one_hot(symbols, self.features).float(), classes)

    def build_model(self) -> nn.Module:
        """Returns the recurrent network with one logit per order."""
        config = self.config
        return LastStepRNN(
            config.cell, self.features, config.hidden, 2**config.bits, initialization=config.initialization
        )
