"""The multiplication problem of Hochreiter and Schmidhuber (1997), generated from a seed."""

from __future__ import annotations

import torch

from hybridopt.tasks.adding_rnn import AddingRNN, adding_problem
from hybridopt.tasks.base import Split, Target


class MultiplicationRNN(AddingRNN):
    """Multiplies two marked numbers of a sequence: the adding problem with a product as its target.

    Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9 (1997), experiment 5, with one length T
    for all sequences. Always answering the mean, 1/4, costs the variance of a product of two uniform numbers,
    1/9 - 1/16 = 7/144: the trivial loss.
    """

    name = "multiplication_rnn"
    summary = "multiplication problem (generated): product of the two marked numbers of a sequence of length T"
    # As in the adding problem, 6 % of the trivial loss. Adam (1e-2) reaches both in 7 or 8 epochs on seeds 0 to 2.
    targets = (
        Target("validation_loss", 0.003, "min"),
        Target("train_loss", 0.003, "min"),
    )
    stream = "multiplication"

    def generate(self, samples: int, rng: torch.Generator) -> Split:
        """Returns numbers with markers, and the products of the marked ones.

        Args:
            samples: How many.
            rng: Decides the numbers and the marked positions.
        """
        inputs = adding_problem(samples, self.config.T, rng).inputs
        numbers, markers = inputs.unbind(dim=-1)
        # One where nothing is marked, so that the product is over the two marked numbers.
        products = torch.where(markers > 0, numbers, torch.ones_like(numbers)).prod(dim=1, keepdim=True)
        return Split(inputs, products)
