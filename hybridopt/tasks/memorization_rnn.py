"""The noiseless memorization problem, generated from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridopt.core import option
from hybridopt.tasks.base import Split, Splits, Target
from hybridopt.tasks.recurrent import EveryStepRNN
from hybridopt.tasks.sequences import GeneratedSequences, SequenceConfig

BLANK, TRIGGER = 2, 3
"""Input symbols beside the two bits."""


@dataclass
class MemorizationConfig(SequenceConfig):
    """Options of `MemorizationRNN`.

    Args:
        T: Blank steps between the bits and the trigger; the more, the harder.
        bits: How many bits are to be remembered.
        hidden: Units of the recurrent layer.
        cell: ``"lstm"``, ``"gru"`` or ``"rnn"`` (tanh).
    """

    T: int = option(10, ge=1, help="blank steps between the bits and the trigger; the more, the harder")
    bits: int = option(5, ge=1, help="how many bits are to be remembered")
    hidden: int = option(32, ge=1, help="units of the recurrent layer")
    epochs: float = option(80.0, gt=0, help="default budget in epochs; a full-batch step is one epoch")


class MemorizationRNN(GeneratedSequences):
    """Remembers bits over T blank steps and repeats them after a trigger.

    A sequence has the bits, T blanks, the trigger, and as many blanks less one as there are bits; the network answers
    from the trigger on, one bit a step. Hochreiter and Schmidhuber (1997) and Martens and Sutskever (ICML 2011), the
    5-bit variant, whose loss here is over the answers only, without the steps at which nothing is to be said. With few
    bits all sequences occur in training: what is tested is memory, not generalization. The trivial loss is ln 2.
    """

    name = "memorization_rnn"
    summary = "noiseless memorization (generated): repeat 5 bits after T blank steps"
    # Measured with Adam (1e-2) on seeds 0 to 2 (data and initialization): both targets in 24 to 33 epochs.
    targets = (
        Target("validation_accuracy", 0.99, "max"),
        Target("train_loss", 0.02, "min"),
    )
    Config = MemorizationConfig
    config: MemorizationConfig
    stream = "memorization"
    features = 4

    def generate(self, samples: int, rng: torch.Generator) -> Split:
        """Returns one-hot sequences, shape (samples, 2 bits + T, 4), and the bits, shape (samples, bits).

        Args:
            samples: How many.
            rng: Decides the bits.
        """
        T, count = self.config.T, self.config.bits
        bits = torch.randint(0, 2, (samples, count), generator=rng)
        symbols = torch.full((samples, 2 * count + T), BLANK)
        symbols[:, :count] = bits
        symbols[:, count + T] = TRIGGER
        return Split(functional.one_hot(symbols, self.features).float(), bits)

    def build_model(self) -> nn.Module:
        """Returns the recurrent network with two logits at each of the last steps."""
        config = self.config
        return EveryStepRNN(
            config.cell,
            self.features,
            config.hidden,
            2,
            last=config.bits,
            initialization=config.initialization,
        )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean cross-entropy of the answered bits, in nats.

        Args:
            outputs: Logits, shape (samples, bits, 2).
            targets: Bits, int64, shape (samples, bits).
        """
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Returns ``accuracy``, the share of sequences with all bits right, and ``bit_accuracy``.

        Args:
            outputs: Logits, shape (samples, bits, 2).
            targets: Bits, int64, shape (samples, bits).
        """
        right = outputs.argmax(dim=-1) == targets
        return {
            "accuracy": float(right.all(dim=1).double().mean()),
            "bit_accuracy": float(right.double().mean()),
        }

    def trivial_loss(self, splits: Splits) -> float:
        """Returns the mean entropy of the bits at each place.

        Args:
            splits: What `splits` returned.
        """
        share = splits.train.targets.double().mean(dim=0)
        entropy = -(torch.xlogy(share, share) + torch.special.xlog1py(1 - share, -share))
        return float(entropy.mean())
