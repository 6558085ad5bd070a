"""The adding problem of Hochreiter and Schmidhuber (1997), generated from a seed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hybridopt.tasks.base import Split, Splits, Target
from hybridopt.tasks.sequences import GeneratedSequences

TOLERANCE = 0.04
"""A sequence counts as wrong if the error exceeds this (Martens and Sutskever, 2011)."""


class AddingRNN(GeneratedSequences):
    """Sums two marked numbers of a sequence: regression with a long-range dependency.

    Each of T steps has two features: u uniform in (0, 1), and a marker that is 1 at one random step of the first half
    and at one of the second half, else 0. The target is the sum of the two marked u. Always answering the mean, 1,
    costs the variance of that sum, 2/12 = 1/6: the trivial loss. Hochreiter and Schmidhuber, "Long Short-Term
    Memory", Neural Computation 9 (1997), experiment 4; here with one length T for all sequences. Martens and
    Sutskever (ICML 2011) predict half the sum, so the tolerance of 0.04 is twice as strict here.
    """

    name = "adding_rnn"
    summary = "adding problem (generated): sum of the two marked numbers of a sequence of length T"
    # 6 % of the trivial loss: nobody gets there without having found both marked numbers. Measured with torch's own
    # optimizers on seeds 0 to 4 (data and initialization), both targets: Adam (1e-2) in 7 to 9 epochs, full-batch
    # L-BFGS in 25 to 32 iterations, each within 2 seconds on one CPU core.
    targets = (
        Target("validation_loss", 0.01, "min"),
        Target("train_loss", 0.01, "min"),
    )

    stream = "adding"

    def generate(self, samples: int, rng: torch.Generator) -> Split:
        """Returns numbers with markers, and the sums of the marked ones.

        Args:
            samples: How many.
            rng: Decides the numbers and the marked positions.
        """
        return adding_problem(samples, self.config.T, rng)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean squared error.

        Args:
            outputs: Predicted sums, shape (samples, 1).
            targets: True sums, shape (samples, 1).
        """
        return functional.mse_loss(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Returns ``error_rate``, the share of sequences that are off by more than 0.04, and ``accuracy``, the rest.

        Args:
            outputs: Predicted sums, shape (samples, 1).
            targets: True sums, shape (samples, 1).
        """
        # Counted as right, not as wrong, so that NaN is an error.
        accuracy = float(((outputs - targets).abs() <= TOLERANCE).double().mean())
        return {"accuracy": accuracy, "error_rate": 1.0 - accuracy}

    def trivial_loss(self, splits: Splits) -> float:
        """Returns the variance of the training targets, about 1/6: the loss of always saying their mean.

        Args:
            splits: What `splits` returned.
        """
        return float(splits.train.targets.double().var(correction=0))


def adding_problem(samples: int, T: int, rng: torch.Generator) -> Split:
    """Generates sequences of the adding problem.

    Args:
        samples: How many.
        T: Length of each, at least 2.
        rng: Decides the numbers and the marked positions.

    Returns:
        Inputs of shape (samples, T, 2), the number and the marker of each step; targets of shape (samples, 1).
    """
    numbers = torch.rand(samples, T, generator=rng)
    first = torch.randint(0, T // 2, (samples, 1), generator=rng)
    second = torch.randint(T // 2, T, (samples, 1), generator=rng)
    marked = torch.cat([first, second], dim=1)
    markers = torch.zeros(samples, T).scatter_(1, marked, 1.0)
    return Split(torch.stack([numbers, markers], dim=-1), numbers.gather(1, marked).sum(dim=1, keepdim=True))
